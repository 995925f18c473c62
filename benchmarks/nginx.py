"""nginx in four ways over the same files: plain, under TLS, with checksums, and late.

Owns its configuration, its certificate and its list of checksums; starting and ending it is in `servers.py`.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import trustme

from . import servers
from .dataset import BUCKET, SETS

LATENESS_S = 0.010

# open_file_cache and sendfile keep the server off the critical path; the idle timeout outlives the wait between two rounds.
# Under TLS there is no sendfile, and a request costs nginx twice as much; larger buffers or another cipher gave nothing back.
# An answer without checksums has no ETag either, so that there is nothing to compare: what is asked without them pays for none of it.
# A refusal may be delayed by `auth_delay`, on nginx's own timers; no request brings a password, so each is refused, late, and the
# object is what nginx shows instead of the refusal.
_CONFIG = """\
{user}worker_processes 2;
daemon off;
pid {work}/nginx.pid;
error_log {work}/nginx.err;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  sendfile on;
  sendfile_max_chunk 2m;
  tcp_nopush on;
  tcp_nodelay on;
  keepalive_requests 100000000;
  keepalive_timeout 3600s;
  etag on;
  open_file_cache max=20000 inactive=3600s;
  open_file_cache_valid 3600s;
  default_type binary/octet-stream;
  client_body_temp_path {work}/nginx.body;
  proxy_temp_path {work}/nginx.proxy;
  fastcgi_temp_path {work}/nginx.fastcgi;
  uwsgi_temp_path {work}/nginx.uwsgi;
  scgi_temp_path {work}/nginx.scgi;
  root {root};
  server {{ listen 127.0.0.1:{plain} backlog=4096; }}
  server {{
    listen 127.0.0.1:{tls} ssl backlog=4096;
    ssl_certificate {work}/server.pem;
    ssl_certificate_key {work}/server.key;
    ssl_protocols TLSv1.2 TLSv1.3;
    ssl_session_cache shared:bench:4m;
  }}
  map_hash_max_size 32768;
  map_hash_bucket_size 128;
  map $uri $crc32c {{ include {work}/crc32c.map; }}
  server {{
    listen 127.0.0.1:{checked} backlog=4096;
    location / {{
      if ($http_x_amz_checksum_mode = "") {{ rewrite ^(.*)$ /unchecked$1 last; }}
      add_header x-amz-checksum-crc32c $crc32c;
      add_header x-amz-checksum-type FULL_OBJECT;
    }}
    location /unchecked/ {{ internal; etag off; alias {root}/; }}
  }}
  server {{
    listen 127.0.0.1:{late} backlog=4096;
    location / {{
      auth_basic bench;
      auth_basic_user_file {work}/nobody;
      auth_delay {lateness_ms}ms;
      error_page 401 =200 @object;
    }}
    location @object {{ auth_basic off; }}
  }}
}}
"""


@dataclass(frozen=True)
class Static:
    """Where the static server listens."""

    plain: str
    tls: str
    """Under a certificate of the benchmarks' own authority."""
    checked: str
    """Who asks for checksums gets the CRC32C and the ETag of an object; who does not gets neither."""
    late: str
    """Answers `LATENESS_S` after it was asked."""


@contextmanager
def running(work: Path, root: Path, manifest: Path) -> Iterator[Static]:
    """Serves `root`, whose checksums stand in `manifest`, as long as the `with` block lasts."""
    ports = dict(zip(("plain", "tls", "checked", "late"), servers.free_ports(4), strict=True))
    # Started as root, nginx drops to www-data, which cannot read files below a private directory.
    user = "user root;\n" if os.geteuid() == 0 else ""
    _write_certificate(work)
    _write_checksums(work / "crc32c.map", manifest)
    (work / "nobody").write_text("")
    config = work / "nginx.conf"
    config.write_text(_CONFIG.format(user=user, work=work, root=root, lateness_ms=round(LATENESS_S * 1e3), **ports))
    command = [servers.find("nginx") or "nginx", "-p", str(work), "-e", str(work / "nginx.err"), "-c", str(config)]
    with servers.serving(command, ports["plain"], work):
        yield Static(
            **{way: f"{'https' if way == 'tls' else 'http'}://127.0.0.1:{port}" for way, port in ports.items()}
        )


def _write_certificate(work: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(servers.authority(work)))
    issued = authority.issue_cert("127.0.0.1", "localhost")
    (work / "server.pem").write_bytes(b"".join(part.bytes() for part in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(str(work / "server.key"))


def _write_checksums(path: Path, manifest: Path) -> None:
    """Writes the lines of nginx's `map`. S3 gives a checksum as the base64 of its bytes, most significant first."""
    digests = json.loads(manifest.read_text())
    lines = [
        f'"/{BUCKET}/{objects.key(number)}" "{base64.b64encode(crc.to_bytes(4, "big")).decode()}";\n'
        for name, objects in SETS.items()
        for number, crc in enumerate(digests[name]["crc32c"])
    ]
    path.write_text("".join(lines))

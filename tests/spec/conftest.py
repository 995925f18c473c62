"""Fixtures of the guide's snippets: the objects they speak of, and a way to run them as printed."""

from __future__ import annotations

import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.oracles import AzureBuckets, Buckets, GcsBuckets, S3Buckets
from tests.spec.ground import BUCKETS, Ground
from tests.support.azurite import AzureEndpoint
from tests.support.direct_disk import direct_folder
from tests.support.gcs_server import GcsEndpoint
from tests.support.leaks import shut_down_engine
from tests.support.s3_endpoint import S3Endpoint, endpoint_env

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
def train(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Train]:
    """An empty `s3://bucket/train/`, once on a server and once as files; or `gs://bucket/train/`, where a test asks for `gs`."""
    if request.param == "file":
        yield Train(f"file://{tmp_path}/train/", lambda key, data: _write(tmp_path / "train" / key, data), tmp_path)
        return
    if request.param == "gs":
        google: GcsEndpoint = request.getfixturevalue("gcs").endpoint
        buckets: Buckets = GcsBuckets(google)
        endpoint_env(monkeypatch, google)
    else:
        s3: S3Endpoint = request.getfixturevalue("rclone_s3").endpoint
        buckets = S3Buckets(s3)
        endpoint_env(monkeypatch, s3)
    oracle = buckets.create("bucket")
    yield Train(f"{oracle.root}train/", lambda key, data: oracle.write(f"train/{key}", data), tmp_path)
    shut_down_engine()
    found = oracle.keys()
    for key in found:
        oracle.delete(key)
    buckets.remove("bucket")


@pytest.fixture(params=["s3", "gs", "az", "file", "direct"])
def ground(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clean_aws_env: None
) -> Iterator[Ground]:
    """Each scheme in turn, with all buckets of the guide, in whose folder the snippets run."""
    scheme: str = request.param
    with ExitStack() as stack:
        # tmp_path may be on a file system without direct I/O.
        folder = stack.enter_context(direct_folder()) if scheme == "direct" else tmp_path
        monkeypatch.chdir(folder)
        buckets, names = _servers(request, scheme, monkeypatch)
        ground = Ground(scheme, folder, buckets, names)
        stack.callback(ground.clear)
        for bucket in BUCKETS:
            if buckets is None:
                (folder / bucket).mkdir()
            else:
                oracle = buckets.create(bucket)
                # Other tests on this server may have one of the same name.
                found = oracle.keys()
                for key in found:
                    oracle.delete(key)
        stack.callback(shut_down_engine)
        yield ground
        monkeypatch.chdir(tmp_path)


def _servers(
    request: pytest.FixtureRequest, scheme: str, patch: pytest.MonkeyPatch
) -> tuple[Buckets | None, dict[str, str]]:
    """Starts the server of a scheme and points at it; returns its buckets, and its names in the table."""
    if scheme == "s3":
        s3: S3Endpoint = request.getfixturevalue("moto_s3").endpoint
        endpoint_env(patch, s3)
        return S3Buckets(s3), {"url": s3.url}
    if scheme == "gs":
        google: GcsEndpoint = request.getfixturevalue("gcs").endpoint
        endpoint_env(patch, google)
        return GcsBuckets(google), {"url": google.url}
    if scheme == "az":
        azure: AzureEndpoint = request.getfixturevalue("azurite").endpoint
        endpoint_env(patch, azure)
        return AzureBuckets(azure), {"url": azure.url, "account": azure.account, "key": azure.key}
    return None, {}


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)

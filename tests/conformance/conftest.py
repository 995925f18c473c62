"""The fixtures `site` and `place`: each test of this folder runs once on every store and lane, its verbs called or awaited.

A site stays for all tests of a file, with its bucket, connections and SDK clients, since these cost far more than a test. So it is
the site that points the environment at its server, and that is held to leave nothing behind.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.conformance.names import SITES
from tests.conformance.oracles import AzureBuckets, FolderOracle, GcsBuckets, MemoryBuckets, S3Buckets
from tests.conformance.places import Place, Site, bucket_site
from tests.support.azurite import AzureEndpoint
from tests.support.direct_disk import direct_folder
from tests.support.gcs_server import GcsEndpoint
from tests.support.leaks import Snapshot, find_leaks, open_books, shut_down_engine
from tests.support.s3_endpoint import Endpoint, S3Endpoint, endpoint_env

_numbers = itertools.count(1)


@pytest.fixture(scope="module", params=SITES)
def site(
    request: pytest.FixtureRequest, private_temporary_folder: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """A store on one lane, by one form of its verbs."""
    name, *marks = request.param.split("-")
    endpoint: Endpoint | None = None
    if name in {"moto", "rclone"}:
        endpoint = request.getfixturevalue(f"{name}_s3").endpoint
    elif name == "az":
        endpoint = request.getfixturevalue("azurite").endpoint
    elif name == "gs":
        endpoint = request.getfixturevalue("gcs").endpoint
    num_failed = request.session.testsfailed
    before = open_books()
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        endpoint_env(patch, endpoint)
        if "sdk" in marks:
            patch.setenv("S3DLIO_FAST_LANE", "0")
        runner = stack.enter_context(asyncio.Runner()) if "await" in marks else None
        lane = "sdk" if "sdk" in marks else "fast"
        if name == "memory":
            yield bucket_site(name, lane, runner, MemoryBuckets(), has_cheap_roots=True)
        elif isinstance(endpoint, S3Endpoint):
            yield bucket_site(name, lane, runner, S3Buckets(endpoint))
        elif isinstance(endpoint, AzureEndpoint):
            yield bucket_site(name, lane, runner, AzureBuckets(endpoint))
        elif isinstance(endpoint, GcsEndpoint):
            yield bucket_site(name, lane, runner, GcsBuckets(endpoint))
        else:
            folder = stack.enter_context(direct_folder()) if name == "direct" else tmp_path_factory.mktemp(name)
            yield Site(name, lane, runner, lambda: FolderOracle(_new_folder(folder), name), None, has_cheap_roots=True)
        shut_down_engine()
    leaks = find_leaks(before)
    # A file of tests takes long enough to see the semaphores of other programs; no verb makes any.
    leaks = leaks.minus(Snapshot(files=Counter(path for path in leaks.files if path.startswith("/dev/shm/sem."))))
    if leaks and request.session.testsfailed == num_failed:
        pytest.fail(f"the tests left behind:\n{leaks}", pytrace=False)


@pytest.fixture
def place(site: Site) -> Place:
    """An empty place of the site."""
    return site.new_place()


def _new_folder(folder: Path) -> Path:
    new = folder / str(next(_numbers))
    new.mkdir()
    return new

"""Fixtures of the process tests."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.process.kit import Bucket
from tests.support.object_server import ObjectServer
from tests.support.s3_endpoint import S3Endpoint


@pytest.fixture
def bucket(object_server: ObjectServer, s3_env: Callable[[S3Endpoint | str], None]) -> Bucket:
    """An empty bucket on a server of its own, which `s3://bucket/` reaches."""
    s3_env(object_server.url)
    return Bucket(object_server)


@pytest.fixture(params=[0, 2], ids=["inline", "workers"])
def procs(request: pytest.FixtureRequest) -> int:
    """Both ways to run a pool."""
    return int(request.param)

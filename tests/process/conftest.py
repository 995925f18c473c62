"""Fixtures of the process tests."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import s3dlio
import s3dlio.engine.ops.lifecycle  # The kit ends the engine through it, as soon as it is loaded.
from tests.process.kit import Bucket
from tests.support.object_server import ObjectServer
from tests.support.s3_endpoint import S3Endpoint


@pytest.fixture
def bucket(object_server: ObjectServer, s3_env: Callable[[S3Endpoint | str], None]) -> Bucket:
    """An empty bucket on a server of its own, which `s3://bucket/` reaches; retries come quickly."""
    s3_env(object_server.url)
    s3dlio.configure(max_attempts=4, backoff_initial_s=0.01, backoff_max_s=0.1)
    return Bucket(object_server)


@pytest.fixture(params=[0, 2], ids=["inline", "workers"])
def procs(request: pytest.FixtureRequest) -> int:
    """Both ways to run a pool."""
    return int(request.param)

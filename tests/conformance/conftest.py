"""The fixture `place`: each test of this folder runs once on every store."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import s3dlio
from tests.conformance.places import Place, file_place, memory_place, s3_place
from tests.support.s3_endpoint import S3Endpoint

_numbers = itertools.count(1)


@pytest.fixture(params=["memory", "file", "moto", "rclone", "moto-sdk", "rclone-sdk"])
def place(
    request: pytest.FixtureRequest, tmp_path: Path, s3_env: Callable[[S3Endpoint | str], None]
) -> Iterator[Place]:
    """An empty place of one store; the environment points at its server, where it has one."""
    kind: str = request.param
    if kind == "memory":
        yield memory_place(f"conformance-{next(_numbers)}")
    elif kind == "file":
        yield file_place(tmp_path)
    else:
        server, _, lane = kind.partition("-")
        s3dlio.configure(fast_lane=False if lane == "sdk" else None)
        endpoint: S3Endpoint = request.getfixturevalue(f"{server}_s3").endpoint
        s3_env(endpoint)
        yield s3_place(server, endpoint)
    s3dlio.shutdown()

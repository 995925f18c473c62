"""Fixtures of the drop-in: the two packages side by side."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.compat.both import Pair
from tests.support.leaks import standing
from tests.support.moto_server import MotoServer


@pytest.fixture(scope="session")
def pair(moto_s3: MotoServer) -> Iterator[Pair]:
    """Two processes for the whole run, one with s3torchconnector and one with ours."""
    with standing():
        found = Pair(moto_s3.endpoint)
    with found:
        yield found

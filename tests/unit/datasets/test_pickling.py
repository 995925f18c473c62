"""What cannot be pickled is named, and nothing is asked before (case P11)."""

from __future__ import annotations

import functools
import threading
from typing import Any

import pytest

from s3dlio.datasets.pickling import check_picklable
from s3dlio.engine.errors import ConfigurationError


def double(value: int) -> int:
    return 2 * value


class Holder:
    def __init__(self, held: Any) -> None:
        self.held = held


class Angry:
    def __reduce__(self) -> Any:
        raise RuntimeError("not me")


@pytest.mark.parametrize(
    "value", [None, double, functools.partial(double, 3), Holder(double), len, "auto", bytes(5_000_000)]
)
def test_what_can_be_pickled_passes(value: Any) -> None:
    check_picklable("transform", value)


def test_p11_what_cannot_be_pickled_is_named() -> None:
    class Local:
        pass

    for value, name in (
        (lambda value: value, r"transform=.*<lambda> cannot"),
        (Local(), r"transform=.*Local cannot"),
        (Holder(threading.Lock()), r"transform=Holder cannot.*lock"),
        (functools.partial(lambda value: value), r"transform=partial cannot.*<lambda>"),
        (Angry(), r"transform=Angry cannot.*not me"),
        ((number for number in range(3)), r"transform=.*genexpr.* cannot.*generator"),
    ):
        with pytest.raises(ConfigurationError, match=name):
            check_picklable("transform", value)

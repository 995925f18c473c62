"""How the files of a distributed checkpoint are named: always as s3torchconnector names them."""

from __future__ import annotations

from typing import Any

import pytest
import s3torchconnector.dcp.s3_prefix_strategy as theirs
from hypothesis import given
from hypothesis import strategies as st

import s3dlio.compat.s3torchconnector.dcp as ours

NAMES = st.sampled_from(["BinaryPrefixStrategy", "HexPrefixStrategy"])
OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "epoch_num": st.none() | st.integers(0, 99) | st.just("4") | st.just(1.0),
        "min_prefix_length": st.integers(-1, 14),
        "prefix_count": st.none() | st.integers(-1, 70) | st.just("4") | st.just(2.0),
    },
)


def outcome(module: Any, name: str, options: dict[str, Any], ranks: list[int]) -> Any:
    try:
        strategy = getattr(module, name)(**options)
    except ValueError as error:
        return str(error)
    shown = vars(strategy)
    return [strategy(rank) for rank in ranks], shown


@given(NAMES, OPTIONS, st.lists(st.integers(0, 300), max_size=5))
def test_numbers_are_written_as_theirs_are(name: str, options: dict[str, Any], ranks: list[int]) -> None:
    assert outcome(ours, name, options, ranks) == outcome(theirs, name, options, ranks)


@given(
    st.lists(st.text(min_size=1), max_size=4), st.none() | st.integers(0, 9), st.lists(st.integers(0, 9), max_size=5)
)
def test_the_user_s_own_prefixes_are_dealt_as_theirs_are(
    prefixes: list[str], epoch: int | None, ranks: list[int]
) -> None:
    options = {"user_prefixes": prefixes, "epoch_num": epoch}
    name = "RoundRobinPrefixStrategy"
    assert outcome(ours, name, options, ranks) == outcome(theirs, name, options, ranks)


def test_the_last_digit_comes_first_so_that_neighbours_do_not_share_a_prefix() -> None:
    strategy = ours.BinaryPrefixStrategy(epoch_num=3, min_prefix_length=4, prefix_count=3)
    assert [strategy(rank) for rank in range(4)] == [
        "0000/epoch_3/__0_",
        "1000/epoch_3/__1_",
        "0100/epoch_3/__2_",
        "0000/epoch_3/__3_",
    ]
    assert ours.DefaultPrefixStrategy()(7) == "__7_"


def test_a_strategy_of_one_s_own_says_only_how_digits_are_written() -> None:
    class Octal(ours.NumericPrefixStrategy):
        def _format_number(self, number: int, length: int) -> str:
            return f"{number:0{length}o}"

    strategy = Octal(base=8, min_prefix_length=1, prefix_count=9)
    assert strategy(8) == "01/__8_"
    with pytest.raises(TypeError, match="abstract"):
        ours.NumericPrefixStrategy(base=8)  # type: ignore[abstract]

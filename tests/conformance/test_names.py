"""The tables of what stores cannot do are those that users read."""

from __future__ import annotations

from tests.conformance.names import BREAKS, CANNOT, LACKS
from tests.support.processes import REPOSITORY


def test_every_exception_stands_in_the_document() -> None:
    text = (REPOSITORY / "docs" / "backends.md").read_text("utf-8")
    reasons = {reason for table in (CANNOT, BREAKS, LACKS) for of_store in table.values() for reason in of_store.values()}
    assert {reason for reason in reasons if f"| {reason} |" not in text} == set()

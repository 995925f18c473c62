"""Writes docs/faults.md: each fault case, what must come of it, and its tests. `python -m tests.support.faults_table`

The cases stand in `faults.toml`. A test belongs to a case by its name (`test_n3_...`, `test_n3_n4_...`), or by `(case N3)`,
`(cases N3, N4)` in its docstring. Tests are read, never imported.
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

TESTS = Path(__file__).parents[1]
DOCUMENT = TESTS.parent / "docs" / "faults.md"
_CASES = Path(__file__).with_name("faults.toml")
_IN_NAME = re.compile(r"test_((?:[a-z]\d+_)+)")
_IN_DOCSTRING = re.compile(r"\(cases?\s+([^()]+)\)")
_HEAD = """\
# Faults

What can go wrong, what must come of it, and the tests that hold it to that. Tests carry the ids of their cases in their names:
`.venv/bin/python -m pytest -k _n3_` runs those of N3. Cases without a test follow.

Written by `.venv/bin/python -m tests.support.faults_table` from `tests/support/faults.toml` and the tests; not by hand.
"""


@dataclass(frozen=True)
class Case:
    """One way to fail."""

    id: str
    text: str
    expected: str
    is_promised: bool
    """Whether it must have a test."""


@dataclass(frozen=True, order=True)
class Test:
    """One test function."""

    __test__ = False

    path: str
    """Its file, below the folder of the tests."""
    name: str

    @property
    def sentence(self) -> str:
        """What the test says, without the ids."""
        found = _IN_NAME.match(self.name)
        return self.name[found.end() if found else len("test_") :].replace("_", " ")


def read_cases() -> dict[str, dict[str, Case]]:
    """Returns the cases by title of their group, then by id, in the order of the file."""
    known = tomllib.loads(_CASES.read_text())
    groups: dict[str, dict[str, Case]] = {title: {} for title in known["groups"].values()}
    for id, given in known["cases"].items():
        groups[known["groups"][id[0]]][id] = Case(id, given["case"], given["expected"], given.get("promised", False))
    return groups


def find_tests(folder: Path = TESTS) -> dict[str, list[Test]]:
    """Returns the tests below `folder` by case id, in the order of files and names."""
    found: dict[str, list[Test]] = {}
    for path in folder.rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                test = Test(path.relative_to(folder).as_posix(), node.name)
                for id in ids_of(node.name, ast.get_docstring(node) or ""):
                    found.setdefault(id, []).append(test)
    return {id: sorted(tests) for id, tests in found.items()}


def ids_of(name: str, docstring: str) -> set[str]:
    """Returns the case ids that a test's name and docstring give."""
    ids = set(re.findall(r"[a-z]\d+", found[1])) if (found := _IN_NAME.match(name)) else set()
    for listed in _IN_DOCSTRING.findall(docstring):
        ids |= set(re.findall(r"\b[A-Z]\d+\b", listed))
    return {id.upper() for id in ids}


def render(groups: Mapping[str, Mapping[str, Case]], tests: Mapping[str, Sequence[Test]]) -> str:
    """Returns the text of the document."""
    lines = [_HEAD]
    for title, cases in groups.items():
        lines += [f"## {title}", "", "| id | case | expected | tests |", "|---|---|---|---|"]
        for case in cases.values():
            shown = "<br>".join(_by_file(tests.get(case.id, []))) or "*follows*"
            lines.append(f"| {case.id} | {case.text} | {case.expected} | {shown} |")
        lines.append("")
    return "\n".join(lines)


def _by_file(tests: Sequence[Test]) -> Iterator[str]:
    sentences: dict[str, list[str]] = {}
    for test in tests:
        sentences.setdefault(test.path, []).append(test.sentence)
    for path, said in sentences.items():
        yield f"[{path.removesuffix('.py')}](../tests/{path}): {'; '.join(said)}"


if __name__ == "__main__":
    DOCUMENT.write_text(render(read_cases(), find_tests()))

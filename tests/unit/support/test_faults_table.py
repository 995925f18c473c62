"""docs/faults.md says what the tests are, and every promised case has one."""

from __future__ import annotations

from pathlib import Path

from tests.support.faults_table import DOCUMENT, Case, Test, find_tests, ids_of, read_cases, render


def test_the_document_is_what_its_script_writes() -> None:
    written = render(read_cases(), find_tests())
    assert DOCUMENT.read_text() == written, "run: .venv/bin/python -m tests.support.faults_table"


def test_every_promised_case_has_a_test() -> None:
    promised = {case.id for cases in read_cases().values() for case in cases.values() if case.is_promised}
    assert not promised - find_tests().keys()


def test_every_id_of_a_test_is_a_case() -> None:
    known = {id for cases in read_cases().values() for id in cases}
    assert not {id: tests for id, tests in find_tests().items() if id not in known}


def test_ids_are_those_at_the_beginning_of_a_name() -> None:
    assert ids_of("test_n3_a_reset", "") == {"N3"}
    assert ids_of("test_n3_n14_a_reset", "") == {"N3", "N14"}
    assert ids_of("test_a_reset_n3_times", "") == set()
    assert ids_of("test_n3", "") == set()


def test_ids_are_also_those_that_a_docstring_gives_in_parentheses() -> None:
    assert ids_of("test_a_reset", "Resets (case N3).") == {"N3"}
    assert ids_of("test_n1_a_reset", "Resets\n(cases N3, N14) do.") == {"N1", "N3", "N14"}
    assert ids_of("test_a_reset", "As N3, in the case of N4 (RFC 9110).") == set()


def test_tests_are_found_wherever_they_stand_without_an_import(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "test_one.py").write_text(
        "import nothing_of_that_name\n"
        "class TestHere:\n    def test_n3_b(self): ...\n"
        "async def test_n3_a(): ...\n"
        "def n3_helper(): ...\n"
    )
    (tmp_path / "kit.py").write_text("def test_n4_c(): ...\n")
    assert find_tests(tmp_path) == {"N3": [Test("deep/test_one.py", "test_n3_a"), Test("deep/test_one.py", "test_n3_b")]}


def test_a_row_names_files_and_sentences_and_a_case_without_tests_follows() -> None:
    groups = {
        "Network": {"N1": Case("N1", "Refused", "Tried again", is_promised=True), "N2": Case("N2", "Reset", "Gone", is_promised=False)}
    }
    text = render(groups, {"N1": [Test("a/test_x.py", "test_n1_one_thing"), Test("a/test_x.py", "test_n1_n2_other")]})
    assert "| N1 | Refused | Tried again | [a/test_x](../tests/a/test_x.py): one thing; other |" in text
    assert "| N2 | Reset | Gone | *follows* |" in text

"""The command line on local files, in this process: what is printed, what is written, and the exit codes."""

from __future__ import annotations

import importlib.metadata
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from s3dlio.engine.cli.app import app
from s3dlio.engine.cli.console import LiveProgress
from s3dlio.engine.cli.demo_data import DemoData
from s3dlio.engine.cli.mp_get import failure_line
from s3dlio.engine.ops.mp_get import Progress

NASTY = "e\x1b[31mvil\n[bold].txt"


def run(*args: str, stdin: bytes | None = None) -> Any:
    """Returns what typer's test runner says of one command: exit_code, stdout, stdout_bytes, stderr."""
    return CliRunner().invoke(app, args, input=stdin)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data" / "sub").mkdir(parents=True)
    (tmp_path / "data" / "a.txt").write_bytes(b"hello\n")
    (tmp_path / "data" / "b.bin").write_bytes(bytes(range(256)) * 40)
    (tmp_path / "data" / "sub" / "c.txt").write_bytes(b"")
    return tmp_path / "data"


def test_ls_prints_one_uri_a_line_and_child_prefixes_with_a_slash(folder: Path) -> None:
    found = run("ls", f"file://{folder}")
    assert found.exit_code == 0
    assert sorted(found.stdout.splitlines()) == [f"file://{folder}/{name}" for name in ("a.txt", "b.bin", "sub/")]


def test_ls_recursive_with_a_pattern_prints_only_what_matches(folder: Path) -> None:
    found = run("ls", f"file://{folder}", "--recursive", "--pattern", "*.txt")
    assert sorted(found.stdout.splitlines()) == [f"file://{folder}/{name}" for name in ("a.txt", "sub/c.txt")]


def test_ls_long_prints_sizes_and_dates_before_the_uri(folder: Path) -> None:
    os.utime(folder / "b.bin", (0, 0))
    lines = [line.split() for line in run("ls", "-l", f"file://{folder}").stdout.splitlines()]
    assert ["10240", "1970-01-01T00:00:00Z", f"file://{folder}/b.bin"] in lines
    assert ["PRE", "-", f"file://{folder}/sub/"] in lines


@pytest.mark.parametrize("options", [[], ["--long"]])
def test_k4_ls_escapes_control_characters_in_keys(tmp_path: Path, options: list[str]) -> None:
    (tmp_path / NASTY).write_bytes(b"x")
    found = run("ls", f"file://{tmp_path}", *options)
    assert found.stdout.endswith(f"file://{tmp_path}/e\\x1b[31mvil\\n[bold].txt\n")
    assert found.stdout.count("\n") == 1


def test_k4_stat_escapes_control_characters_in_keys(tmp_path: Path) -> None:
    (tmp_path / NASTY).write_bytes(b"x")
    found = run("stat", f"file://{tmp_path / NASTY}")
    assert found.exit_code == 0
    assert "\x1b" not in found.stdout
    assert "[bold].txt" in found.stdout


def test_k4_an_error_is_one_line_whatever_the_key_holds(tmp_path: Path) -> None:
    found = run("get", f"file://{tmp_path / NASTY}")
    assert found.exit_code == 1
    assert found.stderr.startswith("error: file://")
    assert found.stderr.count("\n") == 1
    assert "\x1b" not in found.stderr


def test_stat_shows_the_facts_that_are_known(folder: Path) -> None:
    found = run("stat", f"file://{folder}/b.bin")
    assert found.exit_code == 0
    assert "10,240 bytes" in found.stdout
    assert "content_type" not in found.stdout


def test_stat_as_json_has_all_facts(folder: Path) -> None:
    facts = json.loads(run("stat", f"file://{folder}/b.bin", "--json").stdout)
    assert facts["uri"] == f"file://{folder}/b.bin"
    assert facts["size"] == os.stat(folder / "b.bin").st_size
    assert facts["metadata"] == {}
    assert len(facts) == 17


def test_get_writes_the_bytes_to_a_pipe(folder: Path) -> None:
    found = run("get", f"file://{folder}/b.bin")
    assert found.exit_code == 0
    assert found.stdout_bytes == (folder / "b.bin").read_bytes()


def test_get_of_an_empty_object_writes_nothing(folder: Path) -> None:
    found = run("get", f"file://{folder}/sub/c.txt")
    assert (found.exit_code, found.stdout_bytes) == (0, b"")


def test_get_to_a_file_replaces_it_and_leaves_nothing_beside_it(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out" / "copy.bin"
    out.parent.mkdir()
    out.write_bytes(b"old")
    assert run("get", f"file://{folder}/b.bin", "-o", str(out)).exit_code == 0
    assert out.read_bytes() == (folder / "b.bin").read_bytes()
    assert os.listdir(out.parent) == ["copy.bin"]


def test_a_get_that_fails_leaves_the_old_file_alone(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.bin"
    out.write_bytes(b"old")
    assert run("get", f"file://{folder}/missing", "-o", str(out)).exit_code == 1
    assert out.read_bytes() == b"old"


def test_get_writes_through_a_symbolic_link(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "real.bin").write_bytes(b"old")
    (tmp_path / "link.bin").symlink_to("real.bin")
    assert run("get", f"file://{folder}/a.txt", "-o", str(tmp_path / "link.bin")).exit_code == 0
    assert (tmp_path / "link.bin").is_symlink()
    assert (tmp_path / "real.bin").read_bytes() == b"hello\n"


def test_get_writes_into_a_named_pipe_and_does_not_replace_it(folder: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert run("get", f"file://{folder}/a.txt", "-o", str(tmp_path / "pipe")).exit_code == 0
        assert os.read(reader, 100) == b"hello\n"
    finally:
        os.close(reader)
    assert (tmp_path / "pipe").is_fifo()


def test_get_refuses_a_directory_as_the_file(folder: Path) -> None:
    for output in (f"{folder}", f"{folder}/new/"):
        found = run("get", f"file://{folder}/a.txt", "-o", output)
        assert found.exit_code == 1
        assert "is a directory" in found.stderr
    assert not (folder / "new").exists()


def test_put_writes_a_file_as_an_object(folder: Path, tmp_path: Path) -> None:
    assert run("put", str(folder / "b.bin"), f"file://{tmp_path}/new/copy.bin").exit_code == 0
    assert (tmp_path / "new" / "copy.bin").read_bytes() == (folder / "b.bin").read_bytes()


def test_put_adds_the_name_of_the_file_to_a_uri_that_ends_in_a_slash(folder: Path, tmp_path: Path) -> None:
    assert run("put", str(folder / "a.txt"), f"file://{tmp_path}/new/").exit_code == 0
    assert (tmp_path / "new" / "a.txt").read_bytes() == b"hello\n"


def test_put_reads_standard_input_for_a_dash(tmp_path: Path) -> None:
    assert run("put", "-", f"file://{tmp_path}/from-stdin", stdin=b"\x00\xff typed").exit_code == 0
    assert (tmp_path / "from-stdin").read_bytes() == b"\x00\xff typed"


def test_put_of_standard_input_needs_a_whole_key(tmp_path: Path) -> None:
    found = run("put", "-", f"file://{tmp_path}/", stdin=b"x")
    assert found.exit_code == 2
    assert "no name" in found.stderr


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (["get", "file:///no/such/file"], 1),
        (["stat", "file:///no/such/file"], 1),
        (["put", "/no/such/file", "memory://bucket/key"], 1),
        (["get", "no-scheme"], 2),
        (["ls", "ftp://host/path"], 2),
        (["mp-get", "memory://bucket/", "--memory", "lots"], 2),
        (["mp-get", "memory://bucket/", "--template", "no-field", "--num", "1"], 2),
        (["--log-level", "loud", "ls", "memory://bucket/"], 2),
    ],
)
def test_an_error_is_one_line_with_an_exit_code(args: list[str], code: int) -> None:
    found = run(*args)
    assert (found.exit_code, found.stdout) == (code, "")
    assert found.stderr.startswith("error: ")
    assert found.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "args", [["ls"], ["get"], ["nonsense"], ["mp-get", "memory://b/", "--procs", "0"], ["ls", "--x"]]
)
def test_wrong_usage_exits_with_2(args: list[str]) -> None:
    found = run(*args)
    assert (found.exit_code, found.stdout) == (2, "")
    assert "Usage:" in found.stderr


def test_version_is_that_of_the_distribution() -> None:
    found = run("--version")
    assert (found.exit_code, found.stdout) == (0, f"s3dlio {importlib.metadata.version('s3dlio-shm')}\n")


def test_help_names_every_command() -> None:
    found = run("--help")
    assert found.exit_code == 0
    assert all(command in found.stdout for command in ("mp-get", "ls", "stat", "get", "put", "demo"))


def test_a_phase_leaves_one_line_in_a_log(capsys: pytest.CaptureFixture[str]) -> None:
    with LiveProgress(is_log=True) as live, live.phase("fetch\x07") as report:
        report(Progress(1, 1, 0, 10**6, None, 5.0))
        report(Progress(1201, 1200, 1, 1200 * 10**6, 2000, 7.0))
    assert capsys.readouterr().err == "fetch\\x07: 1,201/2,000 objects, 1 failed in 7.0 s\n"


@pytest.mark.parametrize("forced", ["", "1"])
def test_progress_prints_nothing_into_a_pipe_unless_it_is_a_log(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, forced: str
) -> None:
    monkeypatch.setenv("FORCE_COLOR", forced)
    with LiveProgress() as live, live.phase("fetch") as report:
        report(Progress(1, 1, 0, 10, 1, 1.0))
    assert capsys.readouterr() == ("", "")


def test_a_failure_names_its_uri_once() -> None:
    assert failure_line({"uri": "s3://b/k", "error": "NotFoundError: s3://b/k: no such object"}).count("s3://b/k") == 1
    assert failure_line({"uri": "s3://b/k", "error": "no such object"}) == "s3://b/k: no such object"


def test_the_demo_writes_the_very_bytes_that_it_expects_and_no_two_objects_alike(tmp_path: Path) -> None:
    data = DemoData(scale=0.03)
    sizes = [*data.write(str(tmp_path))]
    assert sizes == [65536] * 60 + [16 << 20]
    for uri, expected in data.expected.items():
        assert np.array_equal(np.fromfile(tmp_path / uri.removeprefix("s3://"), np.uint8), expected)
    assert len({content[:64].tobytes() for content in data.expected.values()}) == 61

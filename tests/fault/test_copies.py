"""`copy` and `rename` between stores: exact, in bounded memory, whole or not at all, and nothing is lost when something goes wrong."""

from __future__ import annotations

import asyncio
import os
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import s3dlio
from s3dlio.engine.ops import copies
from tests.fault.conftest import PointAt
from tests.support.answers import Respond, cut_after, s3_error
from tests.support.moto_server import MotoServer
from tests.support.object_server import ObjectServer
from tests.support.scripted_server import Handler, Request
from tests.support.write_server import WriteServer, answered

DATA = random.Random(53).randbytes(100_000)
LONG = random.Random(54).randbytes(11 << 20)
URI, PATH = "s3://bucket/key", "/bucket/key"


@pytest.fixture(params=["called", "awaited"])
def api(request: pytest.FixtureRequest) -> Any:
    """`api("copy", ...)`: a verb, called or awaited."""
    if request.param == "called":
        return lambda name, *args: getattr(s3dlio, name)(*args)
    return lambda name, *args: asyncio.run(getattr(s3dlio, f"{name}_async")(*args))


@pytest.fixture
def in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is longer than a mebibyte goes in parts of five."""
    monkeypatch.setattr(copies, "_MAX_WHOLE_BYTES", 1 << 20)
    s3dlio.configure(put_part_bytes="5MiB", multipart_above_bytes="5MiB")


@pytest.fixture
def written(s3_env: PointAt, quick_settings: None) -> Iterator[WriteServer]:
    """A strict server for `s3://bucket/`, as the target."""
    with WriteServer() as server:
        s3_env(server.url)
        yield server
        s3dlio.shutdown()


@pytest.mark.parametrize("data", [b"", DATA, LONG], ids=["empty", "small", "long"])
def test_an_object_goes_from_any_store_to_any_other(
    api: Any, in_parts: None, moto_s3: MotoServer, s3_env: PointAt, tmp_path: Path, data: bytes
) -> None:
    s3_env(moto_s3.endpoint)
    roots = ["memory://copies/", f"file://{tmp_path}/", f"s3://{moto_s3.endpoint.new_bucket()}/"]
    for source in roots:
        for target in roots:
            s3dlio.put_bytes(f"{source}a", data)
            api("copy", f"{source}a", f"{target}dir/b")
            assert s3dlio.get(f"{target}dir/b") == data
            api("rename", f"{source}a", f"{target}dir/c")
            assert s3dlio.get(f"{target}dir/c") == data
            assert not s3dlio.exists(f"{source}a")


def honest(served: ObjectServer) -> Handler:
    """An honest answer among faults: to the HEAD that comes first."""
    return lambda request, connection: served.honest(request)(request, connection)


def test_i1_a_source_that_changes_between_two_parts_is_an_error_and_the_target_stays(
    served: ObjectServer, api: Any, in_parts: None
) -> None:
    s3dlio.put_bytes("memory://copies/target", b"old")

    def change(request: Any, connection: Any) -> None:
        served.honest(request)(request, connection)
        served.objects[PATH] = bytes(len(LONG))

    for verb in ("copy", "rename"):
        served.objects[PATH] = LONG
        served.faults[PATH] = [honest(served), change]
        with pytest.raises(s3dlio.ObjectChangedError):
            api(verb, URI, "memory://copies/target")
        assert s3dlio.get("memory://copies/target") == b"old"
    assert all(request.method in {"HEAD", "GET"} for request in served.requests)


def test_n4_a_read_that_breaks_goes_on_and_one_that_fails_leaves_the_target(served: ObjectServer, api: Any) -> None:
    served.objects[PATH] = DATA
    served.faults[PATH] = [honest(served), cut_after(5000)]
    api("copy", URI, "memory://copies/target")
    assert s3dlio.get("memory://copies/target") == DATA
    served.faults[PATH] = [honest(served), *[s3_error(500, "Scripted")] * 3]
    with pytest.raises(s3dlio.ServerError):
        api("copy", URI, "memory://copies/target")
    assert s3dlio.get("memory://copies/target") == DATA


def test_u1_a_copy_that_fails_in_the_middle_leaves_no_upload_behind(written: WriteServer, api: Any, in_parts: None) -> None:
    s3dlio.put_bytes("memory://copies/long", LONG)
    for verb in ("copy", "rename"):
        written.faults = [answered("PUT part 2", s3_error(403, "AccessDenied"))]
        with pytest.raises(s3dlio.PermissionDeniedError):
            api(verb, "memory://copies/long", URI)
        assert (written.uploads, written.objects) == ({}, {})
        assert s3dlio.get("memory://copies/long") == LONG
    api("rename", "memory://copies/long", URI)
    assert written.objects[PATH].data == LONG
    assert written.uploads == {}
    assert not s3dlio.exists("memory://copies/long")


@pytest.mark.parametrize("when", ["HEAD", "PUT"])
def test_a_rename_whose_source_was_overwritten_meanwhile_keeps_it(written: WriteServer, api: Any, when: str) -> None:
    s3dlio.put_bytes("memory://copies/source", b"first")

    def overwrite(request: Request) -> None:
        if request.method == when:
            s3dlio.put_bytes("memory://copies/source", b"later")

    written.faults = [overwrite]
    with pytest.raises(s3dlio.ObjectChangedError, match="still there"):
        api("rename", "memory://copies/source", URI)
    assert s3dlio.get("memory://copies/source") == b"later"


def test_a_rename_whose_copy_is_not_what_was_copied_keeps_the_source(written: WriteServer, api: Any) -> None:
    s3dlio.put_bytes("memory://copies/source", b"first")
    written.faults = [answered("HEAD", Respond(200, {"Content-Length": "4", "ETag": '"other"'}))]
    with pytest.raises(s3dlio.ObjectChangedError, match="still there"):
        api("rename", "memory://copies/source", URI)
    assert s3dlio.get("memory://copies/source") == b"first"


def test_source_and_target_that_are_one_by_whatever_name_are_refused(api: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(DATA)
    (tmp_path / "link").symlink_to(tmp_path / "file")
    os.link(tmp_path / "file", tmp_path / "hard")
    s3dlio.put_bytes("memory://copies/a", DATA)
    here = f"file://{tmp_path}"
    pairs = [
        ("memory://copies/a", "memory://copies/a"),
        (f"{here}/file", f"{here}/./file"),
        (f"{here}/file", f"direct://{tmp_path}/file"),
        (f"{here}/file", f"{here}/link"),
        (f"{here}/link", f"{here}/file"),
        (f"{here}/hard", f"{here}/file"),
    ]
    for source, target in pairs:
        for verb in ("copy", "rename"):
            with pytest.raises(s3dlio.ConfigurationError, match="one and the same"):
                api(verb, source, target)
    assert (tmp_path / "file").read_bytes() == DATA
    assert (tmp_path / "link").is_symlink()
    assert s3dlio.get("memory://copies/a") == DATA


def test_a_rename_on_one_disk_is_one_step_and_takes_a_link_as_it_is(api: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(DATA)
    number = (tmp_path / "file").stat().st_ino
    api("rename", f"file://{tmp_path}/file", f"file://{tmp_path}/new/dir/file")
    assert (tmp_path / "new/dir/file").stat().st_ino == number
    (tmp_path / "link").symlink_to("new/dir/file")
    api("rename", f"file://{tmp_path}/link", f"file://{tmp_path}/other")
    assert (tmp_path / "other").is_symlink()
    assert (tmp_path / "new/dir/file").read_bytes() == DATA
    with pytest.raises(s3dlio.InvalidUriError, match="must not end in /"):
        api("rename", f"file://{tmp_path}/new/dir/file", f"file://{tmp_path}/folder/")
    assert not (tmp_path / "folder").exists()


def test_l8_a_rename_to_another_disk_is_a_copy(api: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(DATA)
    rename = os.rename

    def other_disk(source: str, target: str) -> None:
        if source == f"{tmp_path}/file":
            raise OSError(18, "Invalid cross-device link")
        rename(source, target)

    monkeypatch.setattr(os, "rename", other_disk)
    api("rename", f"file://{tmp_path}/file", f"file://{tmp_path}/target")
    assert (tmp_path / "target").read_bytes() == DATA
    assert not (tmp_path / "file").exists()


def test_directories_buckets_and_what_is_not_there_are_refused(api: Any, tmp_path: Path) -> None:
    (tmp_path / "dir").mkdir()
    (tmp_path / "file").write_bytes(DATA)
    here = f"file://{tmp_path}"
    cases: list[tuple[str, str, type[Exception]]] = [
        (f"{here}/dir", f"{here}/new", IsADirectoryError),
        (f"{here}/file", f"{here}/dir", IsADirectoryError),
        (f"{here}/gone", f"{here}/new", FileNotFoundError),
        ("memory://copies/gone", f"{here}/new", FileNotFoundError),
        ("memory://copies/", f"{here}/new", s3dlio.ConfigurationError),
        (f"{here}/file", "memory://copies/", s3dlio.ConfigurationError),
    ]
    for source, target, error in cases:
        for verb in ("copy", "rename"):
            with pytest.raises(error):
                api(verb, source, target)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dir", "file"]


def test_a_copy_that_is_cancelled_goes_on_in_no_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "long").open("wb") as file:
        file.truncate(40 << 20)
    is_begun, may_go_on, read, starts = threading.Event(), threading.Event(), copies._read, []

    def slow(source: Any, found: Any, out: Any, start: int, end: int | None) -> Any:
        starts.append(start)
        is_begun.set()
        assert may_go_on.wait(20)
        return read(source, found, out, start, end)

    async def main() -> None:
        task = asyncio.create_task(s3dlio.rename_async(f"file://{tmp_path}/long", "memory://copies/long"))
        await asyncio.to_thread(is_begun.wait, 20)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        may_go_on.set()

    monkeypatch.setattr(copies, "_read", slow)
    asyncio.run(main())  # which ends when its threads have
    assert starts == [0]
    assert not s3dlio.exists("memory://copies/long")
    assert (tmp_path / "long").exists()

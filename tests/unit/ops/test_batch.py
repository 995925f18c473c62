"""The verbs on many objects: what is none of them fails by itself, and what is written is not copied without need."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

import s3dlio
from s3dlio.engine.ops import uploads


@pytest.mark.parametrize("wrong", [5, None, b"memory://batch/a"])
@pytest.mark.parametrize("is_awaited", [False, True])
def test_what_is_no_uri_is_an_error_in_its_place(wrong: Any, is_awaited: bool) -> None:
    s3dlio.put_bytes("memory://batch/a", b"bytes")
    uris = ["memory://batch/a", wrong]
    found = asyncio.run(s3dlio.get_many_async(uris, errors="return")) if is_awaited else s3dlio.get_many(uris, errors="return")
    assert found[0] == b"bytes"
    assert isinstance(found[1], s3dlio.InvalidUriError)


def test_a_file_is_written_from_bytes_that_cannot_change_and_from_a_copy_of_what_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[Any] = []
    monkeypatch.setattr(uploads, "put_object", lambda _store, _key, data, _create_only: written.append(data.obj))
    fixed, changing = b"fixed", bytearray(b"changing")
    asyncio.run(s3dlio.put_bytes_async(f"file://{tmp_path}/a", fixed))
    asyncio.run(s3dlio.put_many_async([(f"file://{tmp_path}/b", changing), (f"file://{tmp_path}/c", memoryview(fixed)[1:])]))
    assert written[0] is fixed
    assert sorted(map(bytes, written)) == [b"changing", b"fixed", b"fixed"]
    assert not any(data is changing for data in written)

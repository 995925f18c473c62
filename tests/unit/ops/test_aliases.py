"""Other names of verbs do what the verbs do; every verb has a form for callers who await, with the same arguments."""

from __future__ import annotations

import asyncio
import inspect
from pathlib import Path

import pytest

import s3dlio

ONLY_CALLED = {"get_by_key", "init_logging", "list_iter", "mp_get", "shutdown", "stat_key", "stat_many"}


@pytest.fixture(params=["memory", "file"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    found = f"file://{tmp_path}/" if request.param == "file" else "memory://aliases/"
    s3dlio.put_many([(found + key, key.encode()) for key in ("dir/a.npz", "dir/b", "dir/sub/c.npz", "dirt")])
    return found


def test_list_keys_are_relative_to_what_was_listed(root: str) -> None:
    assert s3dlio.list_keys(f"{root}dir/") == ["a.npz", "b", "sub/"]
    assert s3dlio.list_keys(f"{root}dir/", recursive=True) == ["a.npz", "b", "sub/c.npz"]
    assert s3dlio.list_keys(f"{root}dir/", pattern="*.npz") == ["a.npz"]
    assert s3dlio.list_keys(f"{root}dir/b") == ["b"]
    assert s3dlio.list_keys(f"{root}never/") == []
    assert s3dlio.list_full_uris(f"{root}dir/", True, "*.npz") == [f"{root}dir/a.npz", f"{root}dir/sub/c.npz"]
    assert asyncio.run(s3dlio.list_keys_async(f"{root}dir/")) == s3dlio.list_keys(f"{root}dir/")
    assert asyncio.run(s3dlio.list_full_uris_async(f"{root}dir/")) == s3dlio.list(f"{root}dir/")


def test_a_text_prefix_and_a_directory_without_a_slash_have_their_own_base(root: str) -> None:
    expected = ["a.npz", "b", "sub/"] if root.startswith("file") else ["dir/", "dirt"]
    assert s3dlio.list_keys(f"{root}dir") == expected


def test_get_object_and_stat_object_are_get_and_stat(root: str) -> None:
    uri = f"{root}dir/b"
    assert s3dlio.get_object(uri) == s3dlio.get(uri) == b"dir/b"
    assert s3dlio.stat_object(uri) == s3dlio.stat(uri)
    assert asyncio.run(s3dlio.get_object_async(uri)) == b"dir/b"
    assert asyncio.run(s3dlio.stat_object_async(uri)) == s3dlio.stat(uri)


def test_the_deprecated_forms_say_what_to_use(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr("s3dlio.engine.ops.objects.get", asked.append)
    monkeypatch.setattr("s3dlio.engine.ops.objects.stat", asked.append)
    with pytest.warns(DeprecationWarning, match=r"use s3dlio\.get\(uri\)"):
        s3dlio.get_by_key("bucket", "dir/key")
    with pytest.warns(DeprecationWarning, match=r"use s3dlio\.stat\(uri\)"):
        s3dlio.stat_key("bucket", "dir/key")
    assert asked == ["s3://bucket/dir/key"] * 2


def test_every_verb_can_be_awaited_with_the_same_arguments() -> None:
    modules = s3dlio._MODULE_OF
    names = {name for name in modules if modules[name].startswith("s3dlio.engine.ops") and name[0].islower()}
    for name in {name.removesuffix("_async") for name in names} - ONLY_CALLED:
        awaited = getattr(s3dlio, f"{name}_async")
        assert inspect.iscoroutinefunction(awaited), name
        assert inspect.signature(awaited).parameters == inspect.signature(getattr(s3dlio, name)).parameters, name

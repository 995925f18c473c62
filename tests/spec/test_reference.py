"""The guide's "API Reference" of the core functions: their names, arguments and defaults are there, and what they return."""

from __future__ import annotations

import ast
import inspect

import numpy as np
import pytest
import torch

import s3dlio
from tests.spec.ground import Ground

CORE_FUNCTIONS = """\
| `put_bytes(uri, data)` | Upload bytes | None |
| `put_bytes_async(uri, data)` | Async upload | Coroutine |
| `put_many(items)` | Batch upload `[(uri, data), ...]` | None |
| `put_many_async(items)` | Async batch upload | Coroutine |
| `get(uri)` | Download object | BytesView |
| `get_range(uri, offset, length=None)` | Server-side range request | BytesView |
| `get_many(uris, workers)` | Parallel download | List[BytesView] |
| `get_many_async(uris)` | Async parallel download | Coroutine |
| `list(uri, recursive=False, pattern=None)` | List objects | List[str] |
| `stat(uri)` | Get metadata | dict |
| `stat_async(uri)` | Async metadata | Coroutine |
| `stat_many_async(uris)` | Batch metadata | Coroutine |
| `exists(uri)` | Check existence | bool |
| `exists_async(uri)` | Async existence check | Coroutine |
| `delete(uri)` | Delete object | None |
| `mkdir(uri)` | Create directory/prefix | None |
| `mkdir_async(uri)` | Async mkdir | Coroutine |
| `upload(src_uri, dest_uri)` | Bulk upload files | None |
| `download(src_uri, dest_dir)` | Bulk download files | None |
| `mp_get(uri, procs, jobs, num, template)` | Multi-process GET | dict |
| `create_bucket(name)` | Create S3 bucket | None |
| `delete_bucket(name)` | Delete S3 bucket | None |
"""

LOGGING = """\
| `init_logging(level)` | Set log level: trace, debug, info, warn, error |
"""

BYTES_VIEW = """\
| `len(view)` | Size in bytes | Yes |
| `memoryview(view)` | Python memoryview | Yes |
| `bytes(view)` | Convert to bytes | No (copy) |
| `np.frombuffer(view)` | NumPy array | Yes |
| `torch.frombuffer(view)` | PyTorch tensor | Yes |
"""

ROWS = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in (CORE_FUNCTIONS + LOGGING).splitlines()]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0].strip("`").partition("(")[0])
def test_functions_take_the_arguments_of_the_guide(row: list[str]) -> None:
    call = ast.parse(row[0].strip("`"), mode="eval").body
    assert isinstance(call, ast.Call)
    assert isinstance(call.func, ast.Name)
    function = getattr(s3dlio, call.func.id)
    signature = inspect.signature(function)
    names = [arg.id for arg in call.args if isinstance(arg, ast.Name)]
    defaults = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
    # By position as well as by name, and nothing more is asked for.
    assert [*signature.bind(*range(len(names))).arguments] == names
    assert signature.bind(**dict.fromkeys(names)).args == (None,) * len(names)
    assert {name: signature.parameters[name].default for name in defaults} == defaults
    assert [*signature.parameters][: len(names) + len(defaults)] == [*names, *defaults]
    assert inspect.iscoroutinefunction(function) == (row[2:] == ["Coroutine"])


@pytest.mark.parametrize("ground", ["s3", "file"], indirect=True)
def test_functions_return_what_the_guide_says(ground: Ground) -> None:
    uri, root = ground.map("s3://bucket/dir/key"), ground.map("s3://bucket/")
    assert s3dlio.put_bytes(uri, b"data") is None
    assert s3dlio.put_many([(uri, b"data")]) is None
    assert type(s3dlio.get(uri)) is type(s3dlio.get_range(uri, 1)) is s3dlio.BytesView
    assert [type(view) for view in s3dlio.get_many([uri], 1)] == [s3dlio.BytesView]
    assert s3dlio.list(root, True) == [uri]
    assert type(s3dlio.stat(uri)) is type(s3dlio.mp_get(root, procs=1, num=1)) is dict
    assert s3dlio.exists(uri) is True
    assert s3dlio.mkdir(ground.map("s3://bucket/new/")) is None
    assert s3dlio.delete(uri) is None
    assert s3dlio.exists(uri) is False


@pytest.mark.parametrize("row", BYTES_VIEW.splitlines(), ids=lambda row: row.split("`")[1])
def test_views_are_copied_where_the_guide_says_so(ground: Ground, row: str) -> None:
    expression, _, is_zero_copy = (cell.strip(" `") for cell in row.strip("|").split("|"))
    ground.fill({"key": bytes(range(80))})
    view = s3dlio.get(ground.map("s3://bucket/key"))
    # torch names no type of its own here: the guide's other snippets give one.
    dtyped = expression.replace("torch.frombuffer(view)", "torch.frombuffer(view, dtype=torch.uint8)")
    found = eval(dtyped, {"np": np, "torch": torch, "view": view})
    if expression == "len(view)":
        assert found == 80
        return
    raw = np.asarray(found) if isinstance(found, torch.Tensor) else np.frombuffer(found, np.uint8)
    assert raw.tobytes() == bytes(range(80))
    assert np.shares_memory(raw, view) == (is_zero_copy == "Yes")

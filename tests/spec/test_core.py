"""The guide's core sections, run as printed in all five schemes; `ground.TABLE` says what stands for their buckets and paths."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch

import s3dlio
from tests.spec.ground import Ground

DATA = random.Random(1).randbytes(8000)

QUICK_START = """\
import s3dlio

# Initialize logging (optional)
s3dlio.init_logging("info")  # Options: trace, debug, info, warn, error

# Put data to storage — works with S3, Azure, GCS, local filesystem
s3dlio.put_bytes("s3://my-bucket/data.bin", b"Hello, World!")
s3dlio.put_bytes("file:///tmp/local.bin", b"Local data")

# Get data — returns BytesView (zero-copy from Rust memory)
data = s3dlio.get("s3://my-bucket/data.bin")
print(len(data))       # 13
print(bytes(data))     # b'Hello, World!'

# Range request — server-side, only fetches needed bytes
chunk = s3dlio.get_range("s3://my-bucket/data.bin", offset=0, length=5)

# List objects — returns full URIs
objects = s3dlio.list("s3://my-bucket/prefix/")

# Metadata
metadata = s3dlio.stat("s3://my-bucket/data.bin")
print(f"Size: {metadata['size']} bytes")

# Check existence
if s3dlio.exists("s3://my-bucket/data.bin"):
    s3dlio.delete("s3://my-bucket/data.bin")
"""

CLIENT_CACHE = """\
# These all reuse the SAME underlying Rust ObjectStore client:
s3dlio.put_bytes("s3://bucket-a/key1", data1)  # Creates client
s3dlio.put_bytes("s3://bucket-b/key2", data2)  # Reuses client (same endpoint)
s3dlio.get("s3://bucket-c/key3")               # Reuses client
"""

PUT_BYTES = """\
# Upload bytes to any backend
s3dlio.put_bytes("s3://bucket/key", b"data")

# Upload from file
with open("local_file.bin", "rb") as f:
    s3dlio.put_bytes("s3://bucket/key", f.read())

# Async version (for use with asyncio)
await s3dlio.put_bytes_async("s3://bucket/key", b"data")
"""

GET = """\
# Returns BytesView — zero-copy wrapper around Rust Bytes
data = s3dlio.get("s3://bucket/key")

# BytesView supports Python buffer protocol:
mv = memoryview(data)                          # Zero-copy memoryview
arr = numpy.frombuffer(data, dtype=np.uint8)   # Zero-copy NumPy array
raw = bytes(data)                              # Creates a copy (only if needed)
print(len(data))                               # Size in bytes
"""

GET_RANGE = """\
# Fetch only bytes 1024-5119 from the server (saves bandwidth)
chunk = s3dlio.get_range("s3://bucket/key", offset=1024, length=4096)

# Fetch from offset to end of object
tail = s3dlio.get_range("s3://bucket/key", offset=1024)
"""

LIST = """\
# List all objects under prefix (returns full URIs)
uris = s3dlio.list("s3://bucket/prefix/")
# ['s3://bucket/prefix/file1.dat', 's3://bucket/prefix/file2.dat', ...]
"""

LIST_RECURSIVE = """\
# Recursive listing
uris = s3dlio.list("s3://bucket/prefix/", recursive=True)
"""

LIST_PATTERN = """\
# With glob pattern filter
uris = s3dlio.list("s3://bucket/prefix/", pattern="*.npz")
"""

STAT = """\
meta = s3dlio.stat("s3://bucket/key")
print(meta['size'])           # int: object size in bytes
print(meta['last_modified'])  # str: timestamp
print(meta['etag'])           # str: ETag/hash

# Async version
meta = await s3dlio.stat_async("s3://bucket/key")

# Batch stat (async)
metas = await s3dlio.stat_many_async(["s3://bucket/a", "s3://bucket/b"])
"""

EXISTS = """\
if s3dlio.exists("s3://bucket/key"):
    print("Found")

# Async version
found = await s3dlio.exists_async("s3://bucket/key")
"""

DELETE = """\
s3dlio.delete("s3://bucket/key")
"""

MKDIR = """\
s3dlio.mkdir("file:///data/output/subdir")
await s3dlio.mkdir_async("s3://bucket/prefix/")
"""

BYTES_VIEW = """\
data = s3dlio.get("s3://bucket/model_weights.bin")

# 1. Zero-copy memoryview (fastest — no allocation)
mv = memoryview(data)

# 2. Zero-copy NumPy array
import numpy as np
weights = np.frombuffer(data, dtype=np.float32)

# 3. Zero-copy PyTorch tensor
import torch
tensor = torch.frombuffer(data, dtype=torch.float32)

# 4. Convert to bytes (creates copy — only when needed)
raw = bytes(data)
"""

PUT_MANY = """\
# List of (uri, data) tuples
items = [
    ("s3://bucket/file1.bin", b"data1"),
    ("s3://bucket/file2.bin", b"data2"),
    ("s3://bucket/file3.bin", b"data3"),
]
s3dlio.put_many(items)

# Async version
await s3dlio.put_many_async(items)
"""

GET_MANY = """\
uris = ["s3://bucket/file1", "s3://bucket/file2", "s3://bucket/file3"]
results = s3dlio.get_many(uris, workers=64)

# Async version
results = await s3dlio.get_many_async(uris)
"""

TRANSFER = """\
# Upload entire directory
s3dlio.upload(
    src_uri="file:///data/files/",
    dest_uri="s3://bucket/uploads/",
)

# Download prefix to local directory
s3dlio.download(
    src_uri="s3://bucket/downloads/",
    dest_dir="/data/output/"
)
"""

MP_GET = """\
result = s3dlio.mp_get(
    uri="s3://bucket/dataset/",
    procs=8,           # 8 worker processes
    jobs=128,          # 128 concurrent ops per process
    num=10000,         # 10,000 objects
    template="data_{}.bin"
)
print(f"Throughput: {result['throughput_mb_s']} MB/s")
"""

BUCKETS = """\
s3dlio.create_bucket("my-bucket")
s3dlio.delete_bucket("my-bucket")
"""

THREADS = """\
from concurrent.futures import ThreadPoolExecutor

def upload_one(i):
    s3dlio.put_bytes(f"s3://bucket/obj_{i}.bin", data)

# 16 threads uploading concurrently — no runtime conflicts
with ThreadPoolExecutor(max_workers=16) as pool:
    list(pool.map(upload_one, range(1000)))
"""

SIZES = """\
uris = s3dlio.list("s3://bucket/dataset/")
s3dlio.get_many_stats(uris, concurrency=100)

# Subsequent gets use cached sizes (2.5x faster)
for uri in uris:
    data = s3dlio.get(uri)
"""

NPZ = """\
# Read NumPy .npz files directly from any backend
data = s3dlio.get("s3://bucket/data.npz")
import numpy as np, io
arrays = np.load(io.BytesIO(bytes(data)))
"""

HELPERS = """\
# list_keys — returns relative keys (not full URIs)
keys = s3dlio.list_keys("s3://bucket/prefix/")  # ['file1.bin', 'file2.bin']

# list_full_uris — returns full URIs (alias for list())
uris = s3dlio.list_full_uris("s3://bucket/prefix/")

# get_object — same as get()
data = s3dlio.get_object("s3://bucket/key")

# stat_object — same as stat()
meta = s3dlio.stat_object("s3://bucket/key")
"""


@pytest.fixture
def quiet_logging() -> Iterator[None]:
    """Takes back what `init_logging` did."""
    logger = logging.getLogger("s3dlio")
    handlers, level = [*logger.handlers], logger.level
    yield
    logger.handlers[:] = handlers
    logger.setLevel(level)


def test_quick_start(ground: Ground, capsys: pytest.CaptureFixture[str], quiet_logging: None) -> None:
    ground.fill({"prefix/b": b"", "prefix/a": b"", "prefix2": b""}, "my-bucket")
    found = ground.run(QUICK_START)
    assert capsys.readouterr().out.splitlines() == ["13", "b'Hello, World!'", "Size: 13 bytes"]
    assert isinstance(found["data"], s3dlio.BytesView)
    assert found["chunk"] == b"Hello"
    assert found["objects"] == [ground.map("s3://my-bucket/prefix/a"), ground.map("s3://my-bucket/prefix/b")]
    assert ground.objects("my-bucket") == {"prefix/a": b"", "prefix/b": b"", "prefix2": b""}
    assert (ground.folder / "tmp" / "local.bin").read_bytes() == b"Local data"


def test_client_cache(ground: Ground) -> None:
    ground.fill({"key3": b"3"}, "bucket-c")
    ground.run(CLIENT_CACHE, data1=b"1", data2=b"2")
    assert [ground.objects(f"bucket-{letter}") for letter in "abc"] == [{"key1": b"1"}, {"key2": b"2"}, {"key3": b"3"}]


def test_put_bytes(ground: Ground) -> None:
    (ground.folder / "local_file.bin").write_bytes(DATA)
    puts, last = PUT_BYTES.split("# Async version")
    ground.run(puts)
    assert ground.objects() == {"key": DATA}
    ground.run("# Async version" + last)
    assert ground.objects() == {"key": b"data"}
    ground.run(PUT_BYTES)
    assert ground.objects() == {"key": b"data"}


def test_get(ground: Ground, capsys: pytest.CaptureFixture[str]) -> None:
    ground.fill({"key": DATA})
    found = ground.run(GET, numpy=np, np=np)
    assert capsys.readouterr().out == "8000\n"
    assert (bytes(found["mv"]), found["arr"].tobytes(), found["raw"]) == (DATA, DATA, DATA)
    assert np.shares_memory(found["arr"], found["data"])
    assert np.shares_memory(np.asarray(found["mv"]), found["data"])


def test_get_range(ground: Ground) -> None:
    ground.fill({"key": DATA})
    found = ground.run(GET_RANGE)
    assert (bytes(found["chunk"]), bytes(found["tail"])) == (DATA[1024:5120], DATA[1024:])


def test_list(ground: Ground) -> None:
    names = ["a.npz", "file1.dat", "file2.dat", "more/b.npz"]
    ground.fill({f"prefix/{name}": b"" for name in names} | {"prefix.dat": b"", "other": b""})
    prefix = ground.map("s3://bucket/prefix/")
    assert ground.run(LIST)["uris"] == [prefix + name for name in ("a.npz", "file1.dat", "file2.dat", "more/")]
    assert ground.run(LIST_RECURSIVE)["uris"] == [prefix + name for name in names]
    assert ground.run(LIST_PATTERN)["uris"] == [prefix + "a.npz"]


def test_stat(ground: Ground, capsys: pytest.CaptureFixture[str]) -> None:
    ground.fill({"key": DATA, "a": b"1", "b": b"22"})
    found = ground.run(STAT)
    said = capsys.readouterr().out.splitlines()
    assert said == [str(found["meta"][name]) for name in ("size", "last_modified", "etag")]
    assert [type(found["meta"][name]) for name in ("size", "last_modified", "etag")] == [int, str, str]
    assert [meta["size"] for meta in (found["meta"], *found["metas"])] == [8000, 1, 2]


def test_exists(ground: Ground, capsys: pytest.CaptureFixture[str]) -> None:
    assert ground.run(EXISTS)["found"] is False
    assert not capsys.readouterr().out
    ground.fill({"key": DATA})
    assert ground.run(EXISTS)["found"] is True
    assert capsys.readouterr().out == "Found\n"


def test_delete(ground: Ground) -> None:
    ground.fill({"key": DATA, "key2": DATA})
    ground.run(DELETE)
    assert ground.objects() == {"key2": DATA}
    ground.run(DELETE)


def test_mkdir(ground: Ground) -> None:
    ground.run(MKDIR)
    assert (ground.folder / "data" / "output" / "subdir").is_dir()
    if ground.buckets is None:
        assert (ground.folder / "bucket" / "prefix").is_dir()
    else:
        assert ground.objects() == {"prefix/": b""}


def test_bytes_view(ground: Ground) -> None:
    ground.fill({"model_weights.bin": DATA})
    found = ground.run(BYTES_VIEW)
    data, tensor = found["data"], found["tensor"]
    assert (bytes(found["mv"]), found["weights"].tobytes(), tensor.numpy().tobytes(), found["raw"]) == (DATA,) * 4
    assert (found["weights"].dtype, tensor.dtype) == (np.float32, torch.float32)
    # All of them are the same memory, of which only `bytes` made a copy.
    data[0] ^= 0xFF
    assert found["mv"][0] == found["weights"].view(np.uint8)[0] == tensor.view(torch.uint8)[0] == DATA[0] ^ 0xFF
    assert found["raw"] == DATA


def test_put_many(ground: Ground) -> None:
    calls, last = PUT_MANY.split("# Async version")
    expected: dict[str, bytes] = {f"file{n}.bin": b"data%d" % n for n in (1, 2, 3)}
    items = ground.run(calls)["items"]
    assert ground.objects() == expected
    ground.oracle().delete("file2.bin")
    ground.run(last.partition("\n")[2], items=items)
    assert ground.objects() == expected
    ground.run(PUT_MANY)


def test_get_many(ground: Ground) -> None:
    objects = {f"file{n}": DATA[:n] for n in (3, 1, 2)}
    ground.fill(objects)
    calls, last = GET_MANY.split("# Async version")
    for snippet, given in ((calls, {}), (GET_MANY, {}), (last.partition("\n")[2], {"uris": ground.run(calls)["uris"]})):
        results = ground.run(snippet, **given)["results"]
        assert [bytes(result) for result in results] == [DATA[:1], DATA[:2], DATA[:3]]
        assert all(isinstance(result, s3dlio.BytesView) for result in results)


def test_upload_and_download(ground: Ground) -> None:
    tree = {"a.bin": DATA, "b/c.bin": b"c", "b/d/empty": b""}
    for name, data in tree.items():
        path = ground.folder / "data" / "files" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    below = {f"downloads/{name}": data[::-1] for name, data in tree.items()}
    ground.fill(below | {"downloads2": b""})
    ground.run(TRANSFER)
    assert ground.objects() == {f"uploads/{name}": data for name, data in tree.items()} | below | {"downloads2": b""}
    output = ground.folder / "data" / "output"
    found = {str(path.relative_to(output)): path.read_bytes() for path in output.rglob("*") if path.is_file()}
    assert found == {name: data[::-1] for name, data in tree.items()}


def test_mp_get(ground: Ground, capsys: pytest.CaptureFixture[str]) -> None:
    num = 10_000 if ground.scheme == "file" else 20
    ground.fill({f"dataset/data_{number}.bin": b"x" * (number % 7) for number in range(num)})
    result = ground.run(MP_GET)["result"]
    assert (result["succeeded"], result["failed"], result["total_bytes"]) == (num, 0, sum(n % 7 for n in range(num)))
    assert capsys.readouterr().out == f"Throughput: {result['throughput_mb_s']} MB/s\n"
    assert sum(worker["succeeded"] for worker in result["workers"]) == num


def test_bucket_management(ground: Ground) -> None:
    if ground.buckets is None:
        with pytest.raises(s3dlio.UnsupportedError):
            ground.run(BUCKETS.replace('"my-bucket"', f'"{ground.scheme}://{ground.folder}/my-bucket"'))
        return
    create, delete = BUCKETS.splitlines()
    ground.buckets.remove("my-bucket")
    ground.run(create)
    assert "my-bucket" in ground.buckets.names()
    ground.run(delete)
    assert "my-bucket" not in ground.buckets.names()
    ground.run(BUCKETS)
    assert "my-bucket" not in ground.buckets.names()


def test_threads(ground: Ground) -> None:
    num_threads = threading.active_count()
    ground.run(THREADS, data=b"of each")
    num = 1000 if ground.buckets is None else 100
    assert ground.objects() == {f"obj_{number}.bin": b"of each" for number in range(num)}
    assert threading.active_count() == num_threads


def test_size_caching(ground: Ground) -> None:
    ground.fill({f"dataset/{number:03}": DATA[: number * 10] for number in range(30)})
    found = ground.run(SIZES)
    assert (len(found["uris"]), bytes(found["data"])) == (30, DATA[:290])


def test_npz(ground: Ground) -> None:
    np.savez(ground.folder / "data.npz", x=np.arange(5), y=np.eye(2))
    ground.fill({"data.npz": (ground.folder / "data.npz").read_bytes()})
    with ground.run(NPZ)["arrays"] as arrays:
        assert (arrays["x"].tolist(), arrays["y"].tolist()) == ([0, 1, 2, 3, 4], [[1, 0], [0, 1]])


def test_helpers(ground: Ground) -> None:
    ground.fill({"prefix/file1.bin": b"", "prefix/file2.bin": b"", "key": DATA})
    found = ground.run(HELPERS)
    assert found["keys"] == ["file1.bin", "file2.bin"]
    assert found["uris"] == [ground.map(f"s3://bucket/prefix/{key}") for key in found["keys"]]
    assert bytes(found["data"]) == DATA
    assert found["meta"] == s3dlio.stat(ground.map("s3://bucket/key"))

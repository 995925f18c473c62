"""A listing in the processes that its own starts: there once, however it got there, and for as long as anybody needs it."""

from __future__ import annotations

import pickle
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

import s3dlio
from s3dlio.datasets.entries import Entry
from s3dlio.datasets.listing import Listing, from_manifest, list_prefix
from s3dlio.datasets.packing import pack
from tests.support.moto_server import MotoServer
from tests.support.processes import ScriptProcess
from tests.support.s3_endpoint import S3Endpoint

METHODS = ["spawn", "forkserver", "fork"]

KIT = """
import gc, multiprocessing, os, signal, sys
from multiprocessing.connection import wait
from s3dlio.datasets.entries import Entry
from s3dlio.datasets.listing import Listing
from s3dlio.datasets.packing import pack
from s3dlio.engine.memory.shared_block import SharedBlock

NUM = 20_000

def entry(i):
    return Entry(f"s3://bucket/train/{i:08d}", i, f"{i:032x}")

def make():
    return Listing(pack(map(entry, range(NUM)), is_sorted=True), "name")

def inode(block):
    return os.fstat(block.fd).st_ino

def is_whole(listing):
    return all(tuple(ref) == entry(i) for i, ref in enumerate(
        (ref.uri, ref.size, ref.version) for ref in listing.refs(range(len(listing))))) and listing.sizes.tolist() == list(range(NUM))

def descriptors():
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            if "memfd:s3dlio" in os.readlink(f"/proc/self/fd/{name}"):
                found.append(int(name))
        except FileNotFoundError:
            pass
    return found
"""


def start(tmp_path: Path, source: str, *args: str) -> ScriptProcess:
    """Runs a program from a file, since spawn and forkserver import the main module again."""
    path = tmp_path / "program.py"
    path.write_text(KIT + source)
    return ScriptProcess(
        "import os, sys; os.execv(sys.executable, [sys.executable, *sys.argv[1:]])", [str(path), *args]
    )


SHARED = """
def child(listing, block, other, connection, depth):
    good = is_whole(listing) and not any(map(os.get_inheritable, descriptors()))
    seen = bytes(block.buffer[:3])
    block.buffer[3 + depth] = 1
    connection.send((inode(listing._packed.block), good, seen, inode(other)))
    if depth:
        context = multiprocessing.get_context(multiprocessing.get_start_method())
        grandchild = context.Process(target=child, args=(listing, block, other, connection, depth - 1))
        grandchild.start()
        grandchild.join()
    connection.recv()
    connection.send(bytes(block.buffer[:3]))

if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[1])
    before = descriptors()
    listing, block, other = make(), SharedBlock.gather([b"one", bytes(5)]), SharedBlock.create(1)
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.Process(target=child, args=(listing, block, other, theirs, 1))
    process.start()
    expected = (inode(listing._packed.block), True, b"one", inode(other))
    found = [ours.recv()]
    # The grandchild first waits for the second word: it is started before its parent asks for one.
    found.append(ours.recv())
    block.buffer[:3] = b"two"
    ours.send(None)
    ours.send(None)
    after = [ours.recv(), ours.recv()]
    process.join()
    print("SAME", found == [expected] * 2, flush=True)
    print("WRITES", after == [b"two"] * 2, bytes(block.buffer[3:]) == bytes([1, 1, 0, 0, 0]), process.exitcode, flush=True)
    del listing, block, other, process
    gc.collect()
    print("LEFT", before, descriptors(), flush=True)
"""


@pytest.mark.parametrize("method", METHODS)
def test_children_and_their_children_read_and_write_the_same_memory(method: str, tmp_path: Path) -> None:
    with start(tmp_path, SHARED, method) as program:
        assert program.expect("SAME", 60) == ["True"]
        assert program.expect("WRITES", 60) == ["True", "True", "0"]
        assert program.expect("LEFT") == ["[]", "[]"]
        assert program.wait(20) == 0
        assert program.stderr_text() == ""


ORPHAN = """
def child(listing, ready):
    ready.send(None)
    wait([multiprocessing.parent_process().sentinel])
    print("ORPHAN", is_whole(listing), listing.digest, flush=True)

if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[1])
    listing = make()
    ours, theirs = multiprocessing.Pipe()
    multiprocessing.Process(target=child, args=(listing, theirs)).start()
    ours.recv()
    print("DIGEST", listing.digest, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("method", METHODS)
def test_a_child_that_outlives_its_parent_still_reads(method: str, tmp_path: Path) -> None:
    with start(tmp_path, ORPHAN, method) as program:
        (digest,) = program.expect("DIGEST", 60)
        assert program.wait(20) == -signal.SIGKILL
        assert program.expect("ORPHAN", 60) == ["True", digest]


BY_VALUE = """
def child(queue, replies):
    listing = queue.get()
    replies.put((inode(listing._packed.block), is_whole(listing), listing.digest))

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    queue, replies = context.Queue(), context.Queue()
    process = context.Process(target=child, args=(queue, replies))
    process.start()
    listing = make()
    queue.put(listing)
    found = replies.get(timeout=60)
    process.join()
    print("COPY", found[0] != inode(listing._packed.block), found[1:] == (True, listing.digest), flush=True)
"""


@pytest.mark.parametrize("method", METHODS)
def test_a_process_that_runs_already_gets_a_copy(method: str, tmp_path: Path) -> None:
    with start(tmp_path, BY_VALUE, method) as program:
        assert program.expect("COPY", 60) == ["True", "True"]
        assert program.wait(20) == 0
        assert program.stderr_text() == ""


UNPICKLE = """
import pickle
with open(sys.argv[1], "rb") as file:
    listing = pickle.load(file)
print("READ", is_whole(listing), listing.name, listing.digest, flush=True)
"""


def test_a_pickle_in_a_file_is_read_by_another_interpreter(tmp_path: Path) -> None:
    listing = Listing(
        pack((Entry(f"s3://bucket/train/{i:08d}", i, f"{i:032x}") for i in range(20_000)), is_sorted=True), "name"
    )
    path = tmp_path / "listing.pickle"
    path.write_bytes(pickle.dumps(listing))
    digest = listing.digest
    del listing
    with start(tmp_path, UNPICKLE, str(path)) as program:
        assert program.expect("READ") == ["True", "name", digest]
        assert program.wait(20) == 0


MEMORY = """
num, step = int(sys.argv[1]), int(sys.argv[2])
def uri(i):
    return f"s3://training-data/imagenet/train/n{i // 1300:08d}/n{i // 1300:08d}_{i:010d}.JPEG"
def entries(num):
    return (Entry(uri(i * step % num), 100_000 + i, f"{i:032x}") for i in range(num))
def peak():
    # Not ru_maxrss: it goes on counting from what this process was before exec.
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:"))
before = peak()
packed = pack(entries(num), is_sorted=True)
heap = peak() - before
assert packed.num == num
listing = Listing(packed, "name")
assert listing.uri(0) == uri(0) and listing.uri(num - 1) == uri(num - 1) and listing.uri(num // 2) == uri(num // 2)
print("PEAK", heap, packed.block.nbytes, flush=True)
"""


@pytest.mark.parametrize("step", [1, 7919], ids=["in order", "in any order"])
def test_a_million_keys_take_so_little_that_ten_million_take_less_than_a_gibibyte(step: int, tmp_path: Path) -> None:
    num = 1_000_000
    with start(tmp_path, MEMORY, str(num), str(step)) as program:
        heap, block = map(int, program.expect("PEAK", 100))
    # The block is filled by writes, so that its pages are no part of the process, unless runs were merged: then all of them are.
    total = heap + block if step == 1 else heap
    assert total >= block
    assert total * 10_000_000 // num < 1 << 30


def test_prefixes_and_manifests_on_s3(moto_s3: MotoServer, s3_env: Callable[[S3Endpoint | str], None]) -> None:
    s3_env(moto_s3.endpoint)
    bucket = moto_s3.endpoint.new_bucket()
    for key in ("train/é/1", "train/a-b", "train/a/1", "train2/x", "train/"):
        s3dlio.put_bytes(f"s3://{bucket}/{key}", b"" if key == "train/" else key.encode())
    listing = list_prefix(f"s3://{bucket}/train")
    refs = listing.refs(range(len(listing)))
    assert [ref.uri for ref in refs] == [f"s3://{bucket}/train/{key}" for key in ("a-b", "a/1", "é/1")]
    assert [(ref.size, ref.version) for ref in refs] == [
        (s3dlio.stat(ref.uri)["size"], s3dlio.stat(ref.uri)["etag"]) for ref in refs
    ]
    s3dlio.put_bytes(f"s3://{bucket}/list.txt", "\n".join(ref.uri for ref in reversed(refs)).encode())
    again = from_manifest(f"s3://{bucket}/list.txt")
    assert [ref.uri for ref in again.refs(range(3))] == [ref.uri for ref in reversed(refs)]

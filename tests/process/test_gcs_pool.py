"""gs:// through workers: pools, `mp_get` and data sets, by both lanes, and tokens that workers are handed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import s3dlio
from s3dlio.engine.stores import gcs_config, renewal
from tests.process.kit import content, worker_processes
from tests.process.torch_kit import raw
from tests.support.gcs_answers import gcs_error, media, token, write_key_file
from tests.support.gcs_server import GcsEndpoint, GcsServer
from tests.support.leaks import standing
from tests.support.processes import ScriptProcess
from tests.support.scripted_server import Handler, Request, ScriptedServer

PointAt = Callable[[GcsEndpoint | str], None]
SIZES = [0, 1, 5000, 100_000, 300_000]


@pytest.fixture
def objects(gcs: GcsServer, gcs_env: PointAt) -> Iterator[dict[str, bytes]]:
    """Objects below one prefix, by their URIs."""
    gcs_env(gcs.endpoint)
    bucket = gcs.endpoint.new_bucket()
    found = {}
    for index in range(20):
        key = f"set/{index:02d} ü?#"
        data = content(key, SIZES[index % len(SIZES)])
        gcs.endpoint.bucket(bucket).blob(key).upload_from_string(data, retry=None)
        found[f"gs://{bucket}/{key}"] = data
    yield found
    s3dlio.shutdown()


@pytest.mark.parametrize("lane", ["fast", "sdk"])
def test_mp_get_reads_what_is_listed_in_workers_without_an_sdk(objects: dict[str, bytes], lane: str) -> None:
    s3dlio.configure(fast_lane=lane == "fast")
    seen: dict[str, bytes] = {}
    prefix = next(iter(objects)).rpartition("/")[0] + "/"
    found = s3dlio.mp_get(prefix, 2, 4, sink=lambda uri, view: seen.update({uri: bytes(view)}), memory_bytes="8MiB")
    assert (found["succeeded"], found["failed"]) == (20, 0)
    assert seen == objects
    uses_sdk = ["/google/" in Path(f"/proc/{worker.pid}/maps").read_text() for worker in worker_processes()]
    assert any(uses_sdk) == (lane == "sdk")


@pytest.mark.parametrize("procs", [0, 2])
def test_a_pool_cuts_large_objects_and_pins_each_part(objects: dict[str, bytes], procs: int) -> None:
    uri, data = max(objects.items(), key=lambda item: len(item[1]))
    (entry,) = [entry for entry in s3dlio.list_iter(uri.rpartition("/")[0] + "/", recursive=True) if entry.uri == uri]
    s3dlio.configure(part_bytes="64KiB", split_above_bytes="64KiB")
    with s3dlio.Pool(procs=procs, jobs=4, memory_bytes="8MiB") as pool:
        refs = [s3dlio.ObjectRef(uri, entry.size, entry.version), s3dlio.ObjectRef(uri, entry.size, "17")]
        [(_, view)] = pool.fetch(refs[:1])
        assert bytes(view) == data
        with pytest.raises(s3dlio.ObjectChangedError):
            list(pool.fetch(refs[1:]))


def test_a_data_set_delivers_every_object_once(objects: dict[str, bytes]) -> None:
    prefix = next(iter(objects)).rpartition("/")[0] + "/"
    found = sorted(raw(sample) for sample in s3dlio.ObjectStoreIterableDataset(prefix, shuffle=True, seed=1))
    assert found == sorted(objects.values())


def test_a_worker_on_the_fast_lane_imports_nothing_of_googles() -> None:
    source = (
        "import sys, s3dlio.engine.pool.worker, s3dlio.engine.stores.gcs_wire\n"
        "print({n.partition('.')[0] for n in sys.modules} & {'numpy', 'requests', 'urllib3', 'google'})"
    )
    with ScriptProcess(source) as process:
        assert process.read_line() == "set()"
        assert process.wait(20) == 0


def test_the_plain_emulator_is_read_written_and_listed(gcs_env: PointAt) -> None:
    with GcsServer(as_it_comes=True) as server:
        gcs_env(server.endpoint)
        root = f"gs://{server.endpoint.new_bucket()}/"
        data = {f"{root}a/{index} ü?#": content(str(index), size) for index, size in enumerate([1, 5000, 2_000_000])}
        for lane in (True, False):
            s3dlio.configure(fast_lane=lane)
            for uri, content_of in data.items():
                s3dlio.put_bytes(uri, content_of)
                assert bytes(s3dlio.get_range(uri, 1)) == content_of[1:]
            assert s3dlio.list(root, recursive=True) == sorted(data)
            refs = [s3dlio.ObjectRef(entry.uri, entry.size, entry.version) for entry in s3dlio.list_iter(root, recursive=True)]
            # Parts of an object whose version nobody names cannot be held together: it is read again, whole.
            s3dlio.configure(part_bytes="512KiB", split_above_bytes="1MiB")
            with s3dlio.Pool(procs=1, jobs=8, memory_bytes="16MiB") as pool:
                assert {uri: bytes(view) for uri, view in pool.fetch(refs)} == data
            s3dlio.delete(root, recursive=True)
            assert s3dlio.list(root, recursive=True) == []
            s3dlio.shutdown()


class Google:
    """Objects and tokens on one server; each token has a name, and a life of a minute."""

    def __init__(self) -> None:
        self.num_tokens = 0
        self.refused: set[str] = set()
        self.seen: list[str] = []
        self.has_tokens = True

    def __call__(self, request: Request) -> Handler:
        if request.path == "/token":
            if not self.has_tokens:
                return gcs_error(400, "invalid_grant")
            self.num_tokens += 1
            return token(f"T{self.num_tokens}", 60)
        name = request.headers["authorization"].removeprefix("Bearer ")
        if name in self.refused:
            return gcs_error(401, "authError", "Invalid Credentials")
        self.seen.append(name)
        return media(b"data")


@pytest.fixture
def google(scripted_server: ScriptedServer, gcs_env: PointAt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Google]:
    """A server for `gs://bucket/` that wants tokens."""
    with standing():
        import google.auth.transport.requests  # noqa: F401 (what it opens once is no leak)
    gcs_env(scripted_server.url)
    path = write_key_file(tmp_path / "key.json", f"{scripted_server.url}/token")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
    scripted_server.script = found = Google()
    yield found
    s3dlio.shutdown()
    gcs_config.reset()


@pytest.mark.parametrize("way", ["get", "inline pool", "workers"])
def test_a2_tokens_are_renewed_ahead_of_their_expiry(google: Google, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    monkeypatch.setattr(renewal, "_PAUSE_S", 0.3)
    monkeypatch.setattr(renewal.Renewal, "note", lambda self, _, now_s: setattr(self, "due_s", now_s + 0.3))
    until = datetime.now(UTC) + timedelta(seconds=20)

    def uris() -> Iterator[str]:
        while len(set(google.seen)) < 3:
            assert datetime.now(UTC) < until, f"only {set(google.seen)} were used"
            threading.Event().wait(0.005)
            yield "gs://bucket/key"

    if way == "get":
        assert all(bytes(s3dlio.get(uri)) == b"data" for uri in uris())
    else:
        with s3dlio.Pool(procs=0 if way == "inline pool" else 2, jobs=2, memory_bytes="8MiB") as pool:
            assert all(bytes(view) == b"data" for _, view in pool.fetch(uris()))


@pytest.mark.parametrize("way", ["get", "sdk", "workers"])
def test_a2_a_token_that_is_refused_is_replaced_and_the_reads_go_on(google: Google, way: str) -> None:
    s3dlio.configure(fast_lane=way != "sdk", backoff_initial_s=0.05, max_attempts=20)
    assert bytes(s3dlio.get("gs://bucket/key")) == b"data"
    google.refused = {"T1"}
    if way == "workers":
        with s3dlio.Pool(procs=2, jobs=2, memory_bytes="8MiB") as pool:
            assert len([view for _, view in pool.fetch(["gs://bucket/key"] * 20) if bytes(view) == b"data"]) == 20
    else:
        assert bytes(s3dlio.get("gs://bucket/key")) == b"data"
    assert set(google.seen) == {"T1", "T2"}


def test_a2_where_there_is_no_other_token_the_refusal_says_whose_it_was(google: Google) -> None:
    s3dlio.configure(backoff_initial_s=0.05, max_attempts=20)
    assert bytes(s3dlio.get("gs://bucket/key")) == b"data"
    google.refused, google.has_tokens = {"T1"}, False
    with pytest.raises(s3dlio.PermissionDeniedError, match=r"Invalid Credentials.*key\.json") as raised:
        s3dlio.get("gs://bucket/key")
    assert "T1" not in str(raised.value)

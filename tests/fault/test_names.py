"""Names are looked up beside the loop, once for all, and their addresses used in turn (N1). Only the resolver is played."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from functools import partialmethod
from typing import Any

import pytest

import s3dlio
import s3dlio.engine.ops.lifecycle  # The kit ends the engine through it, as soon as it is loaded.
from s3dlio.engine.fetch import names
from tests.process.kit import content
from tests.support.object_server import ObjectServer
from tests.support.scripted_server import ScriptedServer

PATH, URI = "/bucket/key", "s3://bucket/key"
Resolver = Callable[[str], list[str]]


class Names:
    """Stands in for the resolver: what each name has, and who asked."""

    def __init__(self) -> None:
        self.addresses: dict[str, list[str]] = {}
        self.asked: list[str] = []
        self.gate = threading.Event()
        """Lookups wait for it."""
        self.gate.set()
        self._real = socket.getaddrinfo

    def __call__(self, host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
        if host not in self.addresses and not str(host).endswith(".test"):
            return self._real(host, port, *args, **kwargs)
        self.asked.append(host)
        assert self.gate.wait(20)
        found = self.addresses.get(host)
        if found is None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [info for address in found for info in self._real(address, port, *args, **kwargs)]


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch, served: ObjectServer) -> Iterator[Names]:
    found = Names()
    monkeypatch.setattr(socket, "getaddrinfo", found)
    yield found
    found.gate.set()
    _wait_for_lookups()
    names.forget()


def _wait_for_lookups() -> None:
    for thread in threading.enumerate():
        if thread.name == "s3dlio-names":
            thread.join(10)


def test_n1_a_name_is_looked_up_once_for_all_threads_and_loops(
    served: ObjectServer, played: Names, s3_env: Callable[[str], None]
) -> None:
    served.objects[PATH] = content("key", 1000)
    played.addresses["store.test"] = ["127.0.0.1"]
    s3_env(f"http://store.test:{served.port}")
    s3dlio.exists("s3://bucket/opens-the-bucket")
    s3dlio.shutdown()
    played.asked.clear()
    found: list[bytes] = []
    threads = [threading.Thread(target=lambda: found.append(bytes(s3dlio.get(URI)))) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert found == [served.objects[PATH]] * 16
    assert played.asked == ["store.test"]


def test_n1_a_resolver_that_hangs_stalls_no_other_request(
    served: ObjectServer, played: Names, s3_env: Callable[[str], None]
) -> None:
    played.addresses["slow.test"] = ["127.0.0.1"]
    for index in range(50):
        served.objects[f"/near/{index}"] = content(str(index), 100)
    served.objects["/far/key"] = content("far", 100)
    s3_env(f"http://127.0.0.1:{served.port}")
    s3dlio.exists("s3://near/opens-the-bucket")
    s3_env(f"http://slow.test:{served.port}")
    played.gate.clear()
    order = []
    with s3dlio.Pool(procs=0, jobs=2, memory_bytes="16MiB") as pool:
        for uri, view in pool.fetch(["s3://far/key"] + [f"s3://near/{index}" for index in range(50)], ordered=False):
            order.append(uri)
            assert bytes(view) == served.objects[uri.removeprefix("s3:/")]
            if len(order) == 50:
                played.gate.set()
    assert order[-1] == "s3://far/key"


def test_n1_a_resolver_that_never_answers_is_an_error_after_the_connect_timeout(
    served: ObjectServer, played: Names, s3_env: Callable[[str], None]
) -> None:
    s3_env(f"http://slow.test:{served.port}")
    played.gate.clear()
    with pytest.raises(s3dlio.ConnectFailedError, match=r"slow\.test was not resolved within 0\.5 s") as caught:
        s3dlio.get(URI)
    assert (caught.value.uri, caught.value.attempts) == (URI, 3)
    assert len(played.asked) == 1, "the lookup that hangs is shared, not repeated"


def test_n1_an_unknown_name_is_tried_again_and_then_an_error(
    served: ObjectServer, played: Names, s3_env: Callable[[str], None]
) -> None:
    s3_env(f"http://nowhere.test:{served.port}")
    with pytest.raises(s3dlio.ConnectFailedError, match=r"the name nowhere\.test cannot be resolved.*not known") as caught:
        s3dlio.get(URI)
    assert (caught.value.uri, caught.value.attempts) == (URI, 3)


def test_n1_a_name_that_appears_while_it_is_tried_is_reached(
    served: ObjectServer, played: Names, s3_env: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names, "_FAILURE_TTL_S", 0.05)
    s3dlio.configure(max_attempts=20, backoff_initial_s=0.2)
    served.objects[PATH] = b"data"
    s3_env(f"http://late.test:{served.port}")
    timer = threading.Timer(0.3, lambda: played.addresses.update({"late.test": ["127.0.0.1"]}))
    timer.start()
    assert bytes(s3dlio.get(URI)) == b"data"
    timer.join()


def test_n1_the_addresses_of_a_name_share_the_connections(served: ObjectServer, played: Names, s3_env: Callable[[str], None]) -> None:
    # The server listens on 127.0.0.1 alone; a second one has the same port at another address.
    with ScriptedServer(served.script, address=("127.0.0.2", served.port)) as second:
        played.addresses["two.test"] = ["127.0.0.1", "127.0.0.2"]
        for index in range(40):
            served.objects[f"/bucket/{index}"] = content(str(index), 1000)
        s3_env(f"http://two.test:{served.port}")
        uris = [f"s3://bucket/{index}" for index in range(40)]
        assert [bytes(view) for view in s3dlio.get_many(uris, workers=8)] == [served.objects[f"/bucket/{index}"] for index in range(40)]
        assert served.num_connections == second.num_connections == 4


@pytest.mark.parametrize("bad", ["127.0.0.3", "::1"], ids=["IPv4", "IPv6"])
def test_n1_an_address_that_refuses_is_passed_over(
    served: ObjectServer, played: Names, s3_env: Callable[[str], None], bad: str
) -> None:
    s3dlio.configure(max_attempts=3)
    played.addresses["some.test"] = [bad, "127.0.0.1"]
    for index in range(60):
        served.objects[f"/bucket/{index}"] = content(str(index), 1000)
    s3_env(f"http://some.test:{served.port}")
    uris = [f"s3://bucket/{index}" for index in range(60)]
    assert [bytes(view) for view in s3dlio.get_many(uris, workers=16)] == [served.objects[f"/bucket/{index}"] for index in range(60)]


def test_n1_however_many_addresses_are_dead_the_one_that_lives_is_found(
    served: ObjectServer, played: Names, s3_env: Callable[[str], None]
) -> None:
    s3dlio.configure(max_attempts=1)
    played.addresses["some.test"] = [*(f"127.0.0.{number}" for number in range(3, 9)), "127.0.0.1"]
    served.objects[PATH] = b"data"
    s3_env(f"http://some.test:{served.port}")
    assert bytes(s3dlio.get(URI)) == b"data"


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_n1_an_address_without_a_route_is_a_failed_connection(
    served: ObjectServer, played: Names, s3_env: Callable[[str], None], scheme: str
) -> None:
    played.addresses["nowhere.test"] = ["255.255.255.255"]
    s3_env(f"{scheme}://nowhere.test:{served.port}")
    with pytest.raises(s3dlio.ConnectFailedError, match="cannot connect to nowhere"):
        s3dlio.get(URI)


def test_n1_a_name_that_ends_in_a_digit_is_a_name(played: Names, served: ObjectServer, s3_env: Callable[[str], None]) -> None:
    played.addresses["minio1"] = ["127.0.0.1"]
    served.objects[PATH] = b"data"
    s3_env(f"http://minio1:{served.port}")
    assert bytes(s3dlio.get(URI)) == b"data"


def test_n1_a_lookup_for_which_there_is_no_thread_is_a_failed_connection_and_no_more(
    served: ObjectServer, played: Names, s3_env: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    s3dlio.configure(max_attempts=1)
    played.addresses["store.test"] = ["127.0.0.1"]
    served.objects[PATH] = b"data"
    s3_env(f"http://store.test:{served.port}")
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", partialmethod(_start_others, threading.Thread.start))
        with pytest.raises(s3dlio.ConnectFailedError, match="can't start new thread"):
            s3dlio.get(URI)
    s3dlio.configure(max_attempts=50, backoff_initial_s=0.2)
    assert bytes(s3dlio.get(URI)) == b"data"


def _start_others(thread: threading.Thread, start: Callable[[threading.Thread], None]) -> None:
    if thread.name == "s3dlio-names":
        raise RuntimeError("can't start new thread")
    start(thread)


def test_n1_a_server_at_an_ipv6_address_is_reached(played: Names, s3_env: Callable[[str], None]) -> None:
    with ObjectServer(address=("::1", 0)) as server:
        server.objects[PATH] = b"six"
        s3_env(f"http://[::1]:{server.port}")
        assert bytes(s3dlio.get(URI)) == b"six"
        played.addresses["six.test"] = ["::1"]
        s3dlio.shutdown()
        s3_env(f"http://six.test:{server.port}")
        assert bytes(s3dlio.get(URI)) == b"six"


def test_n1_old_addresses_serve_until_new_ones_are_here(
    served: ObjectServer, played: Names, s3_env: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names, "_TTL_S", 0.0)
    s3dlio.configure(idle_connection_s=0.01)
    served.objects[PATH] = b"data"
    played.addresses["store.test"] = ["127.0.0.1"]
    s3_env(f"http://store.test:{served.port}")
    assert bytes(s3dlio.get(URI)) == b"data"
    played.gate.clear()
    for _ in range(3):
        threading.Event().wait(0.02)
        assert bytes(s3dlio.get(URI)) == b"data"
    played.gate.set()
    _wait_for_lookups()
    # And where the name is gone for a while, they serve on.
    del played.addresses["store.test"]
    for _ in range(3):
        threading.Event().wait(0.02)
        assert bytes(s3dlio.get(URI)) == b"data"
        _wait_for_lookups()


def test_n1_a_loop_that_is_closed_while_it_waits_hears_nothing_and_leaves_nothing(
    served: ObjectServer, played: Names, s3_env: Callable[[str], None]
) -> None:
    s3dlio.configure(connect_timeout_s=0.2, max_attempts=1)
    played.addresses["slow.test"] = ["127.0.0.1"]
    s3_env(f"http://slow.test:{served.port}")
    played.gate.clear()
    with pytest.raises(s3dlio.ConnectFailedError):
        s3dlio.get(URI)
    s3dlio.shutdown()
    # Another file has the number of its eventfd now; the lookup must not write into that.
    reader, writer = os.pipe()
    played.gate.set()
    _wait_for_lookups()
    os.set_blocking(reader, False)
    with pytest.raises(BlockingIOError):
        os.read(reader, 1)
    os.close(reader)
    os.close(writer)

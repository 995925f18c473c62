"""The fault proxy, in front of an echo of known bytes."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from tests.support.answers import raw
from tests.support.fault_proxy import FaultProxy, Plan
from tests.support.scripted_server import ScriptedServer

DATA = bytes(range(256)) * 2000
REQUEST = b"GET / HTTP/1.1\r\n\r\n"
MakeProxy = Callable[..., FaultProxy]


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer(lambda _request: raw(DATA)) as found:
        yield found


def receive(proxy: FaultProxy) -> tuple[bytes, str]:
    received, ended = bytearray(), "fin"
    with socket.create_connection(proxy.address, timeout=10) as client:
        client.sendall(REQUEST)
        try:
            while data := client.recv(1 << 16):
                received += data
        except ConnectionResetError:
            ended = "rst"
    return bytes(received), ended


@pytest.mark.parametrize("at", [0, 1, 300_000, len(DATA) - 1, len(DATA)])
def test_a_connection_breaks_at_the_exact_byte(server: ScriptedServer, fault_proxy: MakeProxy, at: int) -> None:
    proxy = fault_proxy(server.address, [Plan(cut_at=at), Plan(reset_at=at), Plan()])
    assert receive(proxy) == (DATA[:at], "fin")
    assert receive(proxy) == (DATA[:at], "rst")
    assert receive(proxy) == (DATA, "fin")
    assert [count.num_down_bytes for count in proxy.connections] == [at, at, len(DATA)]
    assert [count.num_up_bytes for count in proxy.connections] == [len(REQUEST)] * 3


def test_flipped_bytes_and_no_others_differ(server: ScriptedServer, fault_proxy: MakeProxy) -> None:
    positions = (0, 70_000, len(DATA) - 1)
    received, _ = receive(fault_proxy(server.address, [Plan(flip_at=positions)]))
    assert [i for i, (a, b) in enumerate(zip(received, DATA, strict=True)) if a != b] == list(positions)


@pytest.mark.parametrize("at", [0, 1000])
def test_a_stall_holds_the_rest_back_until_the_event(server: ScriptedServer, fault_proxy: MakeProxy, at: int) -> None:
    event = threading.Event()
    proxy = fault_proxy(server.address, [Plan(stall_at=(at, event), cut_at=2000)])
    with socket.create_connection(proxy.address, timeout=10) as client:
        client.sendall(REQUEST)
        received = b""
        while len(received) < at:
            received += client.recv(1 << 16)
        client.settimeout(0.05)
        with pytest.raises(TimeoutError):
            client.recv(1)
        client.settimeout(10)
        event.set()
        while data := client.recv(1 << 16):
            received += data
    assert received == DATA[:2000]


def test_a_reset_on_connect_reaches_no_server(server: ScriptedServer, fault_proxy: MakeProxy) -> None:
    proxy = fault_proxy(server.address, lambda _number: Plan(reset_on_connect=True))
    # The reset may come before the client has seen that it is connected.
    with pytest.raises(ConnectionResetError), socket.create_connection(proxy.address, timeout=10) as client:
        client.recv(1)
    assert proxy.connections[0].is_done.wait(10)
    assert server.requests == []


def test_closing_ends_a_stalled_connection(server: ScriptedServer) -> None:
    with FaultProxy(server.address, [Plan(stall_at=(10, threading.Event()))]) as proxy:
        client = socket.create_connection(proxy.address, timeout=10)
        client.sendall(REQUEST)
        received = b""
        while len(received) < 10:
            received += client.recv(100)
    with client:
        assert client.recv(100) == b""
    assert received == DATA[:10]

"""A TCP proxy in front of any server, whose faults happen at an exact byte of the response direction.

Owns: forwarding, the faults, the counters. Knows nothing of HTTP: bytes are counted from the first byte that the server sends on a
connection, heads included.

    with FaultProxy(server.address, [Plan(reset_at=500), Plan()]) as proxy:
        ...   # the first connection is reset after 500 bytes of response, all later ones run through
"""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from .tcp_server import TcpServer, finish, reset

_CHUNK_BYTES = 1 << 18

Fault = threading.Event | Callable[[socket.socket], None]
"""Wait for the event, or end the connection."""


@dataclass(frozen=True)
class Plan:
    """What happens to one connection. Positions are counts of response bytes that the client still gets."""

    cut_at: int | None = None
    """After so many bytes: FIN."""
    reset_at: int | None = None
    """After so many bytes: RST. 0 is before the first byte, once the request was forwarded."""
    stall_at: tuple[int, threading.Event] | None = None
    """After so many bytes: nothing until the event is set, then the rest."""
    flip_at: tuple[int, ...] = ()
    """Indices of response bytes of which every bit is inverted."""
    reset_on_connect: bool = False
    """RST at once, before anything is forwarded."""

    def faults(self) -> list[tuple[int, Fault]]:
        """Returns what happens, ordered by position; at the same byte a stall comes first."""
        planned: list[tuple[int, Fault]] = [] if self.stall_at is None else [self.stall_at]
        planned += [(at, end) for at, end in ((self.reset_at, reset), (self.cut_at, finish)) if at is not None]
        return sorted(planned, key=lambda fault: fault[0])


@dataclass
class ConnectionCount:
    """What one connection carried so far."""

    plan: Plan
    num_up_bytes: int = 0
    """Bytes from client to server."""
    num_down_bytes: int = 0
    """Bytes from server to client, as forwarded."""
    pending: list[tuple[int, Fault]] = field(default_factory=list)
    """The faults still to come, by position."""
    is_done: threading.Event = field(default_factory=threading.Event)
    """Set when the connection is over."""


class FaultProxy(TcpServer):
    """The proxy. `connections` has one count for each accepted connection, in order.

    Args:
        target: Address of the real server.
        plans: One plan for each connection, in order of arrival, or a function of the connection's number (from 1).
            Beyond the end of a list, connections run through.
    """

    def __init__(self, target: tuple[str, int], plans: Iterable[Plan] | Callable[[int], Plan] = ()) -> None:
        self.target = target
        self.connections: list[ConnectionCount] = []
        self._plan_of = plans if callable(plans) else _in_order(list(plans))
        super().__init__()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self.port

    def serve(self, sock: socket.socket, number: int) -> None:
        """Forwards both directions of one connection until it ends or its plan ends it."""
        plan = self._plan_of(number)
        count = ConnectionCount(plan, pending=plan.faults())
        with self._lock:
            self.connections.append(count)
        try:
            if plan.reset_on_connect:
                reset(sock)
                return
            self._forward(sock, count)
        finally:
            count.is_done.set()

    def _forward(self, client: socket.socket, count: ConnectionCount) -> None:
        server = socket.create_connection(self.target)
        self.adopt(server)
        try:
            sides = [client, server]
            while sides:
                for side in select.select(sides, [], [])[0]:
                    is_alive = (
                        self._upward(client, server, count) if side is client else self._downward(server, client, count)
                    )
                    if not is_alive:
                        sides.remove(side)
                        if side is server:
                            return
        finally:
            self.release(server)

    def _upward(self, client: socket.socket, server: socket.socket, count: ConnectionCount) -> bool:
        data = client.recv(_CHUNK_BYTES)
        if not data:
            finish(server)
            return False
        server.sendall(data)
        count.num_up_bytes += len(data)
        return True

    def _downward(self, server: socket.socket, client: socket.socket, count: ConnectionCount) -> bool:
        data = bytearray(server.recv(_CHUNK_BYTES))
        if not data:
            finish(client)
            return False
        self._flip(data, count)
        unsent = memoryview(data)
        while self._happen(client, count):
            if not unsent:
                return True
            size = min(len(unsent), count.pending[0][0] - count.num_down_bytes) if count.pending else len(unsent)
            client.sendall(unsent[:size])
            unsent = unsent[size:]
            count.num_down_bytes += size
        return False

    def _flip(self, data: bytearray, count: ConnectionCount) -> None:
        for position in count.plan.flip_at:
            index = position - count.num_down_bytes
            if 0 <= index < len(data):
                data[index] ^= 0xFF

    def _happen(self, client: socket.socket, count: ConnectionCount) -> bool:
        """Lets every fault happen whose byte is reached; False once one of them ended the connection."""
        while count.pending and count.pending[0][0] == count.num_down_bytes:
            _, fault = count.pending.pop(0)
            if isinstance(fault, threading.Event):
                self.wait_for(fault)
            else:
                fault(client)
                return False
        return True


def _in_order(plans: list[Plan]) -> Callable[[int], Plan]:
    return lambda number: plans[number - 1] if number <= len(plans) else Plan()

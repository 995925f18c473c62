"""The channel by itself: what an armed descriptor tells."""

from __future__ import annotations

import select

from s3dlio.engine.pool.channel import Hub, Line


def receive(hub: Hub, num: int) -> list[bytes]:
    """Returns `num` batches, by waits on the descriptor alone whenever the hub says that it is armed."""
    poller = select.poll()
    poller.register(hub.fd, select.POLLIN)
    found: list[bytes] = []
    while len(found) < num:
        if hub.is_armed:
            assert poller.poll(10_000), "an armed descriptor told of nothing"
        found += [batch for _, batch in hub.receive()]
        assert hub.is_armed, "nothing was left, and nothing was sent"
    return found


def test_an_armed_descriptor_tells_of_all_that_arrives_and_a_send_disarms_it() -> None:
    hub = Hub()
    line = None
    try:
        address, _ = hub.open_door()
        assert not hub.is_armed, "nobody has looked yet"
        line = Line(0, address)
        for number in range(50):
            batches = [b"%d-%d" % (number, one) for one in range(1 + number % 3)]
            for batch in batches:
                assert line.send(batch)
            assert receive(hub, len(batches)) == batches
            assert hub.send(0, b"more")
            assert not hub.is_armed, "what came meanwhile may have been noticed by the send, which tells nobody"
    finally:
        if line is not None:
            line.close()
        hub.close()

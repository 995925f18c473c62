"""Refusals: which are retried, how often, what they become, and how little of them is read (N9, N11, N18)."""

from __future__ import annotations

import itertools
import time

import pytest

import s3dlio
from tests.support.answers import Respond, raw, s3_error
from tests.support.object_server import ObjectServer
from tests.support.scripted_server import ScriptedServer

URI, PATH = "s3://bucket/key", "/bucket/key"
RETRIED = [408, 429, 500, 502, 503, 504]


@pytest.mark.parametrize("status", RETRIED)
def test_n9_a_status_that_passes_is_retried(served: ObjectServer, status: int) -> None:
    served.objects[PATH] = b"data"
    served.faults[PATH] = [s3_error(status, "Scripted")] * 2
    assert bytes(s3dlio.get(URI)) == b"data"
    # The body of a refusal is read to its end, so its connection is used again.
    assert {request.connection for request in served.requests} == {1}


@pytest.mark.parametrize("status", RETRIED)
def test_n9_a_status_that_stays_is_an_error_after_the_last_attempt(served: ObjectServer, status: int) -> None:
    served.faults[PATH] = [s3_error(status, "Scripted")] * 3
    with pytest.raises(s3dlio.ServerError) as raised:
        s3dlio.get(URI)
    error = raised.value
    assert (error.uri, error.attempts, error.status, error.request_id) == (URI, 3, status, "SCRIPTED")
    assert len(served.requests) == 3


@pytest.mark.parametrize(("status", "code"), [(503, "SlowDown"), (429, "TooManyRequests"), (400, "SlowDown")])
def test_n9_a_request_to_slow_down_is_its_own_class(served: ObjectServer, status: int, code: str) -> None:
    served.faults[PATH] = [s3_error(status, code)] * 3
    with pytest.raises(s3dlio.ThrottledError):
        s3dlio.get(URI)


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (404, "NoSuchKey", FileNotFoundError),
        (404, "NoSuchBucket", FileNotFoundError),
        (403, "AccessDenied", PermissionError),
        (401, "Unauthorized", PermissionError),
        (400, "InvalidRequest", s3dlio.RequestRejectedError),
    ],
)
def test_n9_a_status_that_will_not_change_is_final_at_once(served: ObjectServer, status: int, code: str, expected: type[Exception]) -> None:
    served.faults[PATH] = [s3_error(status, code)]
    with pytest.raises(expected) as raised:
        s3dlio.get(URI)
    error = raised.value
    assert isinstance(error, s3dlio.S3dlioError)
    assert (error.uri, error.attempts, error.status) == (URI, 1, status)
    assert len(served.requests) == 1


def test_n9_waits_are_within_the_bound_that_doubles(served: ObjectServer) -> None:
    s3dlio.configure(max_attempts=5, backoff_initial_s=0.05)
    served.faults[PATH] = [s3_error(500, "InternalError")] * 5
    with pytest.raises(s3dlio.ServerError):
        s3dlio.get(URI)
    times = [request.time_s for request in served.requests]
    waits = [after - before for before, after in itertools.pairwise(times)]
    # A second for the two shared cores; the policy's own arithmetic is tested without a clock.
    assert all(wait_s < 0.05 * 2**n + 1.0 for n, wait_s in enumerate(waits))


def test_n9_one_refused_object_does_not_stop_the_others(served: ObjectServer) -> None:
    for n in range(20):
        served.objects[f"/bucket/{n}"] = bytes([n]) * 100
        served.faults[f"/bucket/{n}"] = [s3_error(503, "SlowDown")] * (n % 3)
    served.faults["/bucket/7"] = [s3_error(404, "NoSuchKey")]
    found = s3dlio.get_many([f"s3://bucket/{n}" for n in range(20)], workers=4, errors="return")
    assert isinstance(found[7], s3dlio.NotFoundError)
    assert all(bytes(found[n]) == bytes([n]) * 100 for n in range(20) if n != 7)


def test_n11_retry_after_stands_in_place_of_the_backoff(served: ObjectServer) -> None:
    s3dlio.configure(backoff_initial_s=30, backoff_max_s=30, deadline_s=100)
    served.objects[PATH] = b"data"
    served.faults[PATH] = [s3_error(503, "SlowDown", {"Retry-After": "0"})] * 2
    begun = time.monotonic()
    assert bytes(s3dlio.get(URI)) == b"data"
    assert time.monotonic() - begun < 5


def test_n11_a_second_of_retry_after_is_waited_for(served: ObjectServer) -> None:
    served.objects[PATH] = b"data"
    served.faults[PATH] = [s3_error(503, "SlowDown", {"Retry-After": "1"})]
    assert bytes(s3dlio.get(URI)) == b"data"
    assert served.requests[1].time_s - served.requests[0].time_s >= 0.99


@pytest.mark.parametrize("value", ["-5", "soon", "1e9", "", "Mon, 1 Jan 99999999999999999999 00:00:00 GMT"])
def test_n11_a_retry_after_without_sense_is_ignored(served: ObjectServer, value: str) -> None:
    served.objects[PATH] = b"data"
    served.faults[PATH] = [s3_error(503, "SlowDown", {"Retry-After": value})]
    assert bytes(s3dlio.get(URI)) == b"data"


def test_n11_a_retry_after_beyond_the_deadline_ends_the_request_now(served: ObjectServer) -> None:
    served.faults[PATH] = [s3_error(503, "SlowDown", {"Retry-After": "1000000000"})]
    begun = time.monotonic()
    with pytest.raises(s3dlio.ThrottledError):
        s3dlio.get(URI)
    assert time.monotonic() - begun < 3


HUGE = b"<Error><Code>AccessDenied</Code><Message>scripted</Message></Error>" + b"\xff<x>&e;" * (10 << 20 >> 3)


@pytest.mark.parametrize("is_chunked", [False, True], ids=["with length", "chunked"])
def test_n18_of_a_huge_error_body_only_the_beginning_is_read(scripted: ScriptedServer, is_chunked: bool) -> None:
    body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(HUGE), HUGE) if is_chunked else HUGE
    scripted.then(Respond(403, {"Transfer-Encoding": "chunked"} if is_chunked else {}, body), Respond(200, {}, b"data"))
    begun = time.monotonic()
    with pytest.raises(s3dlio.PermissionDeniedError) as raised:
        s3dlio.get(URI)
    assert time.monotonic() - begun < 3
    assert len(str(raised.value)) < 10_000
    assert "AccessDenied" in str(raised.value)
    # The rest of the body is not taken for the head of the next answer.
    assert bytes(s3dlio.get(URI)) == b"data"


def test_n18_a_huge_body_of_a_retryable_error_is_retried_on_another_connection(scripted: ScriptedServer) -> None:
    scripted.then(Respond(500, {}, b"x" * (10 << 20)), Respond(200, {}, b"data"))
    assert bytes(s3dlio.get(URI)) == b"data"
    assert scripted.requests[1].connection == 2


@pytest.mark.parametrize("status", [404, 403, 503])
def test_an_error_whose_body_ends_with_the_connection_keeps_its_status(scripted: ScriptedServer, status: int) -> None:
    # RFC 9112 §6.3: without a length the body goes on to the end of the connection; proxies answer so.
    s3dlio.configure(max_attempts=1)
    scripted.then(raw(f"HTTP/1.1 {status} X\r\nConnection: close\r\n\r\n<html>no</html>".encode()))
    with pytest.raises(s3dlio.S3dlioError) as raised:
        s3dlio.get(URI)
    assert raised.value.status == status
    assert not isinstance(raised.value, s3dlio.ProtocolError)


@pytest.mark.parametrize("body", [b"", b"\xff\xfe\x00", b"<!DOCTYPE a [<!ENTITY e 'x'>]><Error><Code>&e;</Code></Error>", b"<" * 60_000])
def test_n18_a_hostile_error_body_is_still_the_error_of_its_status(scripted: ScriptedServer, body: bytes) -> None:
    scripted.then(Respond(403, {}, body))
    with pytest.raises(s3dlio.PermissionDeniedError) as raised:
        s3dlio.get(URI)
    assert raised.value.status == 403

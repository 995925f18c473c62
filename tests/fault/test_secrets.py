"""Credentials planted as canaries: found in no log, error, repr, traceback or pickle, and never sent in the clear (A5)."""

from __future__ import annotations

import io
import logging
import pickle
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import s3dlio
from s3dlio.engine.config import settings
from s3dlio.engine.fetch.loop import FetchLoop
from s3dlio.engine.fetch.request import Fetch
from s3dlio.engine.stores.registry import locate
from s3dlio.engine.types import ObjectRef
from tests.support.answers import Respond, cut_after, raw, reset_before_headers, s3_error
from tests.support.moto_server import MotoServer
from tests.support.s3_endpoint import S3Endpoint
from tests.support.scripted_server import ScriptedServer

ACCESS_KEY = "AKIAIOSFODNN7CANARY1"
SECRET_KEY = "CanarySecretKeyThatMustNeverAppearAnywhere"
TOKEN = "CanarySessionTokenThatMustNeverAppearAnywhere"
HIDDEN = (SECRET_KEY, TOKEN)
URI = "s3://bucket/key"
PointAt = Callable[[S3Endpoint | str], None]


@pytest.fixture
def planted(s3_env: PointAt, quick_settings: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Points at a server with the canaries as credentials."""

    def plant(url: str) -> None:
        s3_env(S3Endpoint(url, ACCESS_KEY, SECRET_KEY))
        monkeypatch.setenv("AWS_SESSION_TOKEN", TOKEN)

    yield plant
    s3dlio.shutdown()


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """Everything that any logger says at DEBUG, as the user who turned it all on sees it."""
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    handler.setFormatter(logging.Formatter("%(name)s %(message)s"))
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield text
    root.setLevel(level)
    root.removeHandler(handler)


def assert_clean(text: str, *more: str) -> None:
    for secret in (*HIDDEN, *more):
        assert secret not in text


def texts_of(error: BaseException) -> str:
    """Returns every text that an error may end up as: str, repr, a traceback with locals, a pickle."""
    frames = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
    # Latin-1 shows every byte of the pickle.
    return "\n".join([str(error), repr(error), frames, pickle.dumps(error).decode("latin-1"), repr(vars(error))])


FAILING: dict[str, Callable[[ScriptedServer], None]] = {
    "404": lambda server: server.then(s3_error(404, "NoSuchKey")),
    "403": lambda server: server.then(s3_error(403, "AccessDenied")),
    "500": lambda server: server.then(*[s3_error(500, "InternalError")] * 3),
    "reset": lambda server: server.then(*[reset_before_headers()] * 3),
    "cut": lambda server: server.then(*[cut_after(0, Respond(200, {}, b"data"))] * 3),
    "no http": lambda server: server.then(*[raw(b"SSH-2.0-x\r\n\r\n")] * 3),
}


@pytest.mark.parametrize("how", FAILING)
def test_a5_no_failing_read_shows_a_secret(
    scripted_server: ScriptedServer, planted: Callable[[str], None], log: io.StringIO, how: str
) -> None:
    planted(scripted_server.url)
    FAILING[how](scripted_server)
    with pytest.raises(s3dlio.S3dlioError) as raised:
        s3dlio.get(URI)
    assert ACCESS_KEY in scripted_server.requests[0].headers["authorization"]
    assert scripted_server.requests[0].headers["x-amz-security-token"] == TOKEN
    assert_clean(texts_of(raised.value), ACCESS_KEY, scripted_server.requests[0].headers["authorization"])
    assert_clean(log.getvalue(), ACCESS_KEY)


@pytest.mark.parametrize("pieces", [0, 1, 2], ids=["with a length", "in chunks", "in chunks that come late"])
def test_a5_a_server_that_echoes_the_request_does_not_put_it_into_the_error(
    scripted_server: ScriptedServer, planted: Callable[[str], None], log: io.StringIO, pieces: int
) -> None:
    # As SignatureDoesNotMatch does, whose document holds the canonical request and the access key.
    def echo(request: Any, connection: Any) -> None:
        said = "".join(f"{name}:{value}\n" for name, value in request.headers.items())
        body = (
            f"<Error><Code>SignatureDoesNotMatch</Code><Message>differs</Message><AWSAccessKeyId>{ACCESS_KEY}</AWSAccessKeyId>"
            f"<CanonicalRequest>{said}</CanonicalRequest></Error>"
        )
        answer = Respond(403, {}, body.encode())
        if pieces == 0:
            answer(request, connection)
            return
        head = answer.with_headers(transfer_encoding="chunked").head()
        chunks = b"%x\r\n%b\r\n0\r\n\r\n" % (len(answer.body), bytes(answer.body))
        if pieces == 1:
            connection.send(head + chunks)
        else:
            connection.send(head)
            connection.send(chunks)

    planted(scripted_server.url)
    scripted_server.then(echo)
    with pytest.raises(s3dlio.PermissionDeniedError) as raised:
        s3dlio.get(URI)
    assert_clean(texts_of(raised.value) + log.getvalue(), ACCESS_KEY)


def test_a5_an_error_of_a_request_that_was_never_sent_shows_no_signature(
    scripted_server: ScriptedServer, planted: Callable[[str], None]
) -> None:
    planted(scripted_server.url)
    with pytest.raises(s3dlio.ConfigurationError) as raised:
        s3dlio.get_many([ObjectRef(URI, 4, "two\r\nlines")])
    assert scripted_server.requests == []
    assert_clean(texts_of(raised.value), ACCESS_KEY)


def test_a5_verbs_at_debug_level_log_no_secret(moto_s3: MotoServer, planted: Callable[[str], None], log: io.StringIO) -> None:
    bucket = moto_s3.endpoint.new_bucket()
    planted(moto_s3.endpoint.url)
    uri = f"s3://{bucket}/dir/key"
    s3dlio.put_bytes(uri, b"data")
    assert bytes(s3dlio.get(uri)) == b"data"
    s3dlio.get_range(uri, 1, 2)
    s3dlio.get_many([uri, f"s3://{bucket}/missing"], errors="return")
    s3dlio.stat(uri)
    s3dlio.list(f"s3://{bucket}/", recursive=True)
    s3dlio.delete(uri)
    with pytest.raises(s3dlio.NotFoundError) as raised:
        s3dlio.put_bytes("s3://no-such-bucket-anywhere/key", b"data")
    assert_clean(texts_of(raised.value), ACCESS_KEY)
    assert_clean(log.getvalue())


def test_a5_our_own_debug_log_does_not_even_name_the_access_key(
    moto_s3: MotoServer, planted: Callable[[str], None], capfd: pytest.CaptureFixture[str]
) -> None:
    bucket = moto_s3.endpoint.new_bucket()
    planted(moto_s3.endpoint.url)
    logger = logging.getLogger("s3dlio")
    before, level = list(logger.handlers), logger.level
    try:
        s3dlio.init_logging("debug")
        s3dlio.put_bytes(f"s3://{bucket}/key", b"data")
        s3dlio.get(f"s3://{bucket}/key")
        assert not s3dlio.exists(f"s3://{bucket}/missing")
    finally:
        logger.handlers[:] = before
        logger.setLevel(level)
    captured = capfd.readouterr()
    assert_clean(captured.out + captured.err, ACCESS_KEY)


def test_a5_no_repr_shows_a_secret(scripted_server: ScriptedServer, planted: Callable[[str], None]) -> None:
    planted(scripted_server.url)
    store, key = locate(URI)
    fetch = Fetch(0, URI, store.wire, key)
    scripted_server.then(Respond(200, {}, b"data"))
    loop = FetchLoop(settings(), 1)
    try:
        things = [store, store.spec, store.wire, fetch, loop, store.wire.get, store.wire._signer]
        assert_clean("\n".join([*map(repr, things), *map(str, things)]), ACCESS_KEY)
        s3dlio.get(URI)
        assert_clean("\n".join([repr(store), repr(store.spec), repr(store.wire), repr(store.wire._signer)]), ACCESS_KEY)
    finally:
        loop.close()


def test_a5_what_holds_a_secret_does_not_pickle(scripted_server: ScriptedServer, planted: Callable[[str], None]) -> None:
    planted(scripted_server.url)
    store, _ = locate(URI)
    for thing in (store, store.spec, store.wire):
        try:
            pickled = pickle.dumps(thing)
        except Exception:  # noqa: BLE001 (that it does not pickle is what is wanted, however it says so)
            continue
        assert_clean(pickled.decode("latin-1"), ACCESS_KEY)


def test_a5_nothing_is_sent_in_the_clear_to_an_https_endpoint(
    scripted_server: ScriptedServer, planted: Callable[[str], None]
) -> None:
    planted(scripted_server.url.replace("http://", "https://"))
    scripted_server.then(*[Respond(200, {}, b"data")] * 3)
    with pytest.raises(s3dlio.S3dlioError):
        s3dlio.get(URI)
    assert scripted_server.requests == []

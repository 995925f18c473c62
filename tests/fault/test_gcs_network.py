"""How gs:// is reached: under TLS with certificates of one's own, through a proxy, and what of it is ever shown."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import s3dlio
from s3dlio.engine.fetch import tls
from tests.support.answers import close_before_headers
from tests.support.gcs_answers import document, gcs_error, media, resource, token, write_key_file
from tests.support.gcs_server import GcsEndpoint
from tests.support.leaks import standing
from tests.support.scripted_server import ScriptedServer
from tests.support.tls_server import Authority, TlsObjectServer

URI = "gs://bucket/key"
DATA = bytes(range(256)) * 100
PointAt = Callable[[GcsEndpoint | str], None]


@pytest.fixture
def authority(tmp_path: Path) -> Iterator[Authority]:
    yield Authority(tmp_path)
    tls.forget_contexts()


@pytest.mark.parametrize("lane", ["fast", "sdk"])
@pytest.mark.parametrize("is_known", [True, False])
def test_n20_a_certificate_of_ones_own_is_taken_by_its_authority_only(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, gcs_env: PointAt, quick_settings: None, lane: str, is_known: bool
) -> None:
    with TlsObjectServer(authority.context("127.0.0.1")) as server:
        server.script = lambda _: media(DATA)
        gcs_env(server.url)
        monkeypatch.delenv("STORAGE_EMULATOR_HOST")
        monkeypatch.setenv("GCS_ENDPOINT_URL", server.url)
        if is_known:
            monkeypatch.setenv("REQUESTS_CA_BUNDLE", authority.bundle)
        s3dlio.configure(fast_lane=lane == "fast")
        if is_known:
            assert bytes(s3dlio.get(URI)) == DATA
            assert "authorization" not in server.requests[0].headers
        else:
            with pytest.raises(s3dlio.CertificateError):
                s3dlio.get(URI)
        s3dlio.shutdown()


def test_a_proxy_is_given_whole_urls_by_the_sdk(
    scripted_server: ScriptedServer, gcs_env: PointAt, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    gcs_env("http://storage.invalid:8080")
    monkeypatch.setenv("HTTP_PROXY", f"http://user:CANARY@127.0.0.1:{scripted_server.port}")
    listing = document({"items": [{"name": "key", "size": str(len(DATA)), "generation": "1"}]})
    scripted_server.then(media(DATA), listing, resource("key", DATA))
    assert bytes(s3dlio.get(URI)) == DATA
    assert s3dlio.list("gs://bucket/") == [URI]
    s3dlio.put_bytes(URI, DATA)
    assert scripted_server.requests[0].target == "http://storage.invalid:8080/storage/v1/b/bucket/o/key?alt=media"
    assert "proxy-authorization" in scripted_server.requests[0].headers
    assert "a proxy is configured" in caplog.text
    assert "CANARY" not in caplog.text
    s3dlio.shutdown()


def test_a_proxy_that_is_not_there_is_an_error_that_says_so(
    gcs_env: PointAt, quick_settings: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    gcs_env("http://storage.invalid:8080")
    monkeypatch.setenv("HTTP_PROXY", "http://user:CANARY@127.0.0.1:1")
    with pytest.raises(s3dlio.ConnectFailedError, match="proxy") as raised:
        s3dlio.get(URI)
    assert "CANARY" not in str(raised.value)
    s3dlio.shutdown()


@pytest.mark.parametrize("lane", ["fast", "sdk"])
def test_a5_no_error_and_no_log_shows_a_token(
    scripted_server: ScriptedServer, gcs_env: PointAt, quick_settings: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    caplog: pytest.LogCaptureFixture, lane: str,
) -> None:  # fmt: skip
    with standing():
        import google.auth.transport.requests  # noqa: F401 (what it opens once is no leak)
    caplog.set_level(logging.DEBUG)
    gcs_env(scripted_server.url)
    path = write_key_file(tmp_path / "key.json", f"{scripted_server.url}/token")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
    s3dlio.configure(fast_lane=lane == "fast")
    answers = [token("CANARY"), gcs_error(403, "forbidden", "m")]
    scripted_server.script = lambda _: answers.pop(0) if answers else close_before_headers()
    shown = ""
    for kind in (s3dlio.PermissionDeniedError, s3dlio.ConnectFailedError):
        with pytest.raises(kind) as raised:
            s3dlio.get(URI)
        shown += str(raised.value) + repr(raised.value)
        shown += "".join(repr(entry.frame.f_locals) for entry in raised.traceback if "engine" in str(entry.path))
    assert scripted_server.requests[1].headers["authorization"] == "Bearer CANARY"
    assert "gs://bucket/key" in shown
    assert "CANARY" not in shown + caplog.text
    s3dlio.shutdown()

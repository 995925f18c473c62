"""Resolving a bucket of Google's: google-auth's real chain, over key files, with a token service that the test scripts."""

from __future__ import annotations

import logging
import pickle
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import parse_qs

import msgspec
import pytest
from rich.pretty import pretty_repr

import s3dlio
from s3dlio.engine import errors
from s3dlio.engine.stores import gcs_config
from s3dlio.engine.stores.gcs_config import GcsSpec, resolve_bucket
from tests.support.answers import Respond
from tests.support.gcs_answers import document, gcs_error, token, write_key_file
from tests.support.leaks import standing
from tests.support.scripted_server import Request, ScriptedServer

Env = Callable[..., None]
WHAT_TO_INSTALL = r'MissingExtraError: .*pip install "s3dlio-shm\[gcs\]"'


@pytest.fixture
def env(monkeypatch: pytest.MonkeyPatch) -> Iterator[Env]:
    """Sets variables, and has the chain forgotten before and after."""
    gcs_config.reset()

    def put(**variables: str) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    yield put
    gcs_config.reset()


@pytest.fixture
def key_file(env: Env, scripted_server: ScriptedServer, tmp_path: Path) -> Path:
    """The key file of a service account, named in the environment."""
    with standing():
        import google.auth.transport.requests  # noqa: F401 (what it opens once is no leak)
    path = write_key_file(tmp_path / "key.json", f"{scripted_server.url}/token")
    env(GOOGLE_APPLICATION_CREDENTIALS=str(path))
    return path


@pytest.mark.parametrize("name", ["GCS_ENDPOINT_URL", "STORAGE_EMULATOR_HOST"])
@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("localhost:9023", "http://localhost:9023"),
        ("http://127.0.0.1:9023/", "http://127.0.0.1:9023"),
        ("http://[::1]:9023", "http://[::1]:9023"),
        ("http://host/base/", "http://host/base"),
        ("http://host:80/storage/v1/", "http://host"),
    ],
)
def test_an_emulator_is_reached_anonymously_and_without_google_auth(env: Env, name: str, text: str, url: str) -> None:
    env(**{name: text})
    spec = resolve_bucket("bucket")
    assert (spec.url, spec.headers, spec.is_google, spec.root, spec.bucket) == (url, (), False, "gs://bucket/", "bucket")
    assert spec.slow_because is None


def test_gcs_endpoint_url_stands_above_storage_emulator_host(env: Env) -> None:
    env(GCS_ENDPOINT_URL="http://one:1", STORAGE_EMULATOR_HOST="http://two:2")
    assert resolve_bucket("b").host == "one"


@pytest.mark.parametrize("text", ["ftp://host", "http://user:secret@host", "http://host?x=1", "http://", "host:port", "http://ho st"])
def test_an_endpoint_that_makes_no_sense_is_refused_under_the_name_of_its_variable(env: Env, text: str) -> None:
    env(STORAGE_EMULATOR_HOST=text)
    with pytest.raises(errors.ConfigurationError, match="STORAGE_EMULATOR_HOST") as raised:
        resolve_bucket("b")
    assert "secret" not in str(raised.value)


def test_no_credentials_are_anonymous_with_one_warning(env: Env, caplog: pytest.LogCaptureFixture) -> None:
    specs = [resolve_bucket(name) for name in ("one", "two")]
    assert [(spec.url, spec.headers, spec.is_google) for spec in specs] == [("https://storage.googleapis.com", (), True)] * 2
    assert [record.message for record in caplog.records if "anonymously" in record.message] != []
    assert len([record for record in caplog.records if "anonymously" in record.message]) == 1


def test_a_service_account_has_one_token_for_all_buckets(key_file: Path, scripted_server: ScriptedServer) -> None:
    scripted_server.then(token("ya29.first"))
    one, two = resolve_bucket("one"), resolve_bucket("two")
    assert one.headers == two.headers == (("authorization", "Bearer ya29.first"),)
    assert one.expires_at_s is not None
    assert one.project == "key-project"
    assert one.source is not None
    assert str(key_file) in one.source
    (asked,) = scripted_server.requests
    form = parse_qs(asked.body.decode())
    assert form["grant_type"] == ["urn:ietf:params:oauth:grant-type:jwt-bearer"]


def test_the_project_that_pays_is_sent_along(key_file: Path, scripted_server: ScriptedServer, env: Env) -> None:
    env(GOOGLE_CLOUD_QUOTA_PROJECT="payer", GOOGLE_CLOUD_PROJECT="owner")
    scripted_server.then(token("t"))
    spec = resolve_bucket("b")
    assert dict(spec.headers) == {"authorization": "Bearer t", "x-goog-user-project": "payer"}
    assert spec.project == "owner"


def test_a_key_is_used_at_an_emulator_too_where_it_is_named(key_file: Path, scripted_server: ScriptedServer, env: Env) -> None:
    env(STORAGE_EMULATOR_HOST="http://emulator:1")
    scripted_server.then(token("t"))
    assert dict(resolve_bucket("b").headers) == {"authorization": "Bearer t"}


def test_a_token_is_made_anew_when_it_is_due(key_file: Path, scripted_server: ScriptedServer) -> None:
    scripted_server.then(token("first"), token("second"))
    resolve_bucket("b")
    assert gcs_config._chain.renewal.due_s < float("inf")
    gcs_config._chain.renewal.due_s = 0.0
    assert dict(resolve_bucket("b").headers) == {"authorization": "Bearer second"}


def test_a_refused_token_is_replaced_once_for_all_who_were_refused(key_file: Path, scripted_server: ScriptedServer) -> None:
    scripted_server.then(token("first"), token("second"))
    refused = [resolve_bucket(name) for name in ("one", "two")]
    renewed = [resolve_bucket(spec.bucket, spec) for spec in refused]
    assert [dict(spec.headers)["authorization"] for spec in renewed] == ["Bearer second"] * 2


@pytest.mark.parametrize("answer", [token("first"), gcs_error(400, "invalid_grant")], ids=["the same", "none"])
def test_a_refused_token_without_another_is_all_there_is(
    key_file: Path, scripted_server: ScriptedServer, answer: object
) -> None:
    scripted_server.then(token("first"), answer)  # type: ignore[arg-type]
    spec = resolve_bucket("b")
    assert resolve_bucket("b", spec).headers == spec.headers == (("authorization", "Bearer first"),)


def test_a_token_service_that_refuses_is_an_authentication_error_each_time(
    key_file: Path, scripted_server: ScriptedServer
) -> None:
    scripted_server.then(*[gcs_error(400, "invalid_grant", "CANARY")] * 2)
    for _ in range(2):
        with pytest.raises(errors.AuthenticationError, match=r"key\.json") as raised:
            resolve_bucket("b")
        assert "CANARY" not in str(raised.value)


@pytest.mark.parametrize("text", [None, "no json CANARY", "{}", '{"type": "service_account", "private_key": "CANARY"}'])
def test_a_broken_key_file_is_an_error_that_names_it_and_quotes_nothing(env: Env, tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "key.json"
    if text is not None:
        path.write_text(text)
    env(GOOGLE_APPLICATION_CREDENTIALS=str(path))
    with pytest.raises(errors.AuthenticationError, match=r"key\.json") as raised:
        resolve_bucket("b")
    assert "CANARY" not in str(raised.value)


def test_a6_a_key_that_everybody_may_read_is_warned_of_once(
    key_file: Path, scripted_server: ScriptedServer, caplog: pytest.LogCaptureFixture
) -> None:
    key_file.chmod(0o644)
    scripted_server.then(token("t"))
    for name in ("one", "two"):
        resolve_bucket(name)
    assert len([record for record in caplog.records if "chmod 600" in record.message]) == 1


def test_a_proxy_and_the_setting_choose_the_slow_lane(env: Env) -> None:
    env(STORAGE_EMULATOR_HOST="http://emulator:1")
    s3dlio.configure(fast_lane=False)
    assert resolve_bucket("b").slow_because == "fast_lane is switched off"
    s3dlio.configure(fast_lane=None)
    env(HTTP_PROXY="http://user:CANARY@proxy:2")
    spec = resolve_bucket("b")
    assert spec.slow_because == "a proxy is configured for http"
    assert spec.proxy == "http://user:CANARY@proxy:2"
    assert "CANARY" not in repr(spec)
    env(NO_PROXY="emulator")
    assert resolve_bucket("b").slow_because is None


def test_a5_a_spec_shows_no_token_and_is_never_pickled(key_file: Path, scripted_server: ScriptedServer) -> None:
    scripted_server.then(token("CANARY"))
    spec = resolve_bucket("b")
    assert "CANARY" not in repr(spec) + str(spec) + pretty_repr(spec) + repr(gcs_config._chain.identity)
    with pytest.raises(TypeError, match="token"):
        pickle.dumps(spec)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(spec), type=GcsSpec).headers == spec.headers


def test_a5_what_google_auth_logs_of_a_token_is_dropped(
    key_file: Path, scripted_server: ScriptedServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    scripted_server.then(token("CANARY"))
    resolve_bucket("b")
    assert "CANARY" not in caplog.text


def test_many_threads_that_open_buckets_ask_for_one_token(key_file: Path, scripted_server: ScriptedServer) -> None:
    scripted_server.then(token("only"))
    threads = [threading.Thread(target=resolve_bucket, args=(f"b{n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(scripted_server.requests) == 1


class MetadataService:
    """What a machine of Google's asks who it is. Source: "About VM metadata"."""

    def __init__(self, universe: Respond) -> None:
        self._answers = {
            "": Respond(200),
            "project/project-id": Respond(200, {}, b"machine-project"),
            "instance/service-accounts/default/": document({"email": "default", "scopes": [], "aliases": []}),
            "instance/service-accounts/default/token": token("machine"),
            "universe/universe-domain": universe,
        }

    def __call__(self, request: Request) -> Respond:
        found = self._answers[request.path.removeprefix("/").removeprefix("computeMetadata/v1/")]
        return Respond(found.status, {"Content-Type": "text/plain", **found.headers, "Metadata-Flavor": "Google"}, found.body)


@pytest.fixture
def machine(env: Env, scripted_server: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> ScriptedServer:
    """The metadata service of this machine, which is to be scripted."""
    with standing():
        import google.auth.transport.requests  # noqa: F401 (what it opens once is no leak)
        from google.auth.compute_engine import _metadata
    monkeypatch.setattr(_metadata, "_GCE_METADATA_HOST", f"127.0.0.1:{scripted_server.port}")
    monkeypatch.setattr(_metadata, "_NO_GCE_CHECK", False)
    monkeypatch.delenv("NO_GCE_CHECK", raising=False)
    env(GCE_METADATA_IP=f"127.0.0.1:{scripted_server.port}")
    return scripted_server


def test_a_machine_of_googles_says_who_it_is_and_in_which_universe(machine: ScriptedServer) -> None:
    machine.script = MetadataService(Respond(200, {}, b"example.goog"))
    spec = resolve_bucket("b")
    assert (spec.url, spec.project, spec.source) == ("https://storage.example.goog", "machine-project", "the metadata server")
    assert dict(spec.headers) == {"authorization": "Bearer machine"}


def test_a_machine_that_does_not_say_its_universe_is_an_error_of_the_tree(machine: ScriptedServer) -> None:
    machine.script = MetadataService(Respond(403))
    with pytest.raises(errors.AuthenticationError):
        resolve_bucket("b")


def test_google_auth_without_its_transport_says_what_to_install(key_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "requests", None)
    with pytest.raises(errors.MissingExtraError, match=r'pip install "s3dlio-shm\[gcs\]"'):
        resolve_bucket("b")


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"STORAGE_EMULATOR_HOST": "http://127.0.0.1:1"}, "GcsSpec"),
        ({"GOOGLE_APPLICATION_CREDENTIALS": "/nowhere"}, WHAT_TO_INSTALL),
        ({"STORAGE_EMULATOR_HOST": "http://127.0.0.1:1", "S3DLIO_FAST_LANE": "0"}, "MissingExtraError: .*switched off.*pip install"),
    ],
    ids=["emulator", "credentials", "sdk"],
)
def test_without_the_extra_an_emulator_works_and_all_else_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: str
) -> None:
    program = (
        "import sys\n"
        "for name in ('google', 'google.auth', 'google.cloud', 'requests', 'urllib3'): sys.modules[name] = None\n"
        "import s3dlio\n"
        "from s3dlio.engine.stores.registry import locate\n"
        "try:\n"
        "    store, _ = locate('gs://b/k')\n"
        "    if store.spec.slow_because: s3dlio.get('gs://b/k')\n"
        "    print(type(store.spec).__name__)\n"
        "except s3dlio.S3dlioError as error: print(type(error).__name__ + ':', error)\n"
    )
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert re.match(expected, done.stdout), done.stdout + done.stderr

"""Configurations, credentials, threads, forks, and servers that refuse or fail: the same with both packages."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.compat.both import Side, same
from tests.support.answers import Respond, s3_error
from tests.support.scripted_server import Request, ScriptedServer

DATA = {f"{number:02d}": bytes([number]) * (1000 + number) for number in range(8)}


@contextmanager
def answering(
    side: Side, answer: Callable[[Request, int], Respond], **config: Any
) -> Iterator[tuple[Any, ScriptedServer]]:
    """Gives a client of a server that answers every request so, by the request and how many came before it."""
    with ScriptedServer() as server:
        server.script = lambda request: answer(request, len(server.requests) - 1)
        yield side.new_client(endpoint=server.url, s3client_config=side.top.S3ClientConfig(**config)), server


def calls(client: Any) -> dict[str, Callable[[], Any]]:
    return {
        "get": client.get_object("bucket", "key").read,
        "head": lambda: client.head_object("bucket", "key"),
        "delete": lambda: client.delete_object("bucket", "key"),
        "list": lambda: list(client.list_objects("bucket")),
    }


def forbidden(request: Request, _: int) -> Respond:
    return Respond(403) if request.method == "HEAD" else s3_error(403, "AccessDenied")


@same()
def test_a_store_that_forbids(side: Side) -> Any:
    found = {}
    with answering(side, forbidden, max_attempts=2) as (client, server):
        for name, call in calls(client).items():
            error = side.tried(call)
            # What ours adds is in the table of what was wanted.
            found[name] = [type(error).__name__, str(error).partition(";")[0], len(server.requests)]
            del server.requests[:]
    return found


@same()
@pytest.mark.parametrize("from_env", [False, True])
def test_attempts_are_counted_alike(side: Side, from_env: bool) -> Any:
    """The texts of a store that is out of order are the C library's, and are left out."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        if from_env:
            patch.setenv("AWS_MAX_ATTEMPTS", "2")
        with answering(side, lambda *_: s3_error(503, "SlowDown"), max_attempts=5 if from_env else 3) as (
            client,
            server,
        ):
            for name in ("get", "head"):
                found[name] = [type(side.tried(calls(client)[name])).__name__, len(server.requests)]
                del server.requests[:]
    return found


@same()
def test_a_store_that_fails_once(side: Side) -> Any:
    def answer(request: Request, number: int) -> Respond:
        if number == 0:
            return s3_error(500, "InternalError")
        headers = {"ETag": '"e"', "Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}
        if request.method == "HEAD":
            return Respond(200, headers | {"Content-Length": "4"})
        if "range" in request.headers:
            return Respond(206, headers | {"Content-Range": "bytes 0-3/4"}, b"four")
        return Respond(200, headers, b"four")

    found = []
    for name in ("get", "head"):
        with answering(side, answer) as (client, server):
            seen = calls(client)[name]()
            found.append([name, seen.size if name == "head" else seen, len(server.requests)])
    return found


@same(DATA)
def test_who_signs_and_who_does_not(side: Side) -> Any:
    found: list[Any] = []
    for config in ({}, {"unsigned": True}, {"force_path_style": True}, {"unsigned": True, "force_path_style": True}):
        client = side.new_client(s3client_config=side.top.S3ClientConfig(**config))
        found.append([side.tried(lambda client=client: client.head_object(side.bucket, "01").size)])
        found.append([one is not None and one.split(" ")[0] for one in side.headers("authorization")])
    return found


@same(DATA)
def test_a_profile_names_the_credentials(side: Side, tmp_path: str) -> Any:
    Path(tmp_path, "credentials").write_text("[mine]\naws_access_key_id = MINE\naws_secret_access_key = secret\n")
    Path(tmp_path, "config").write_text("[profile mine]\nregion = us-east-1\n")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.delenv(name)
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", f"{tmp_path}/credentials")
        patch.setenv("AWS_CONFIG_FILE", f"{tmp_path}/config")
        client = side.new_client(s3client_config=side.top.S3ClientConfig(profile="mine"))
        found: list[Any] = [client.head_object(side.bucket, "01").size]
        found += [(one or "").partition("Credential=")[2].split("/")[0] for one in side.headers("authorization")]
        client = side.new_client(s3client_config=side.top.S3ClientConfig(profile="nobody"))
        found.append(type(side.tried(client.head_object, side.bucket, "01")).__name__)
        patch.setenv("AWS_PROFILE", "mine")
        found.append(side.new_client().head_object(side.bucket, "01").size)
    return found


@same(DATA)
def test_an_endpoint_that_nobody_answers_at(side: Side) -> Any:
    config = side.top.S3ClientConfig(max_attempts=1)
    client = side.new_client(endpoint="http://127.0.0.1:1", s3client_config=config)
    return type(side.tried(client.head_object, side.bucket, "01")).__name__


@same(DATA)
def test_one_client_in_many_threads(side: Side) -> Any:
    client = side.new_client()

    def work(key: str) -> Any:
        data = bytes(client.get_object(side.bucket, key).read())
        with client.put_object(side.bucket, f"copy/{key}") as writer:
            writer.write(data)
        return [key, data, client.head_object(side.bucket, f"copy/{key}").size]

    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(work, DATA))


def in_child(client: Any, bucket: str, results: Any) -> None:
    results.put([client.head_object(bucket, "01").size, bytes(client.get_object(bucket, "02").read()[:3])])


@same(DATA)
def test_clients_live_through_forks(side: Side) -> Any:
    client = side.new_client()
    found: list[Any] = [client.head_object(side.bucket, "03").size]
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    for _ in range(2):
        process = context.Process(target=in_child, args=(client, side.bucket, results))
        process.start()
        found.append(results.get())
        process.join()
        found += [
            process.exitcode,
            client.head_object(side.bucket, "03").size,
            client.get_object(side.bucket, "04").read(5),
        ]
    results.close()
    return found


@same(DATA)
def test_clients_of_different_configs_side_by_side(side: Side) -> Any:
    config = side.top.S3ClientConfig
    clients = [side.new_client(s3client_config=config(part_size=size << 20)) for size in (5, 8, 16)] + [
        side.new_client(endpoint=side.url)
    ]
    native = {id(client._client) for client in clients}
    return [
        len(native),
        [client._client.part_size for client in clients],
        [client.get_object(side.bucket, "05").read() for client in clients],
    ]


@same(DATA)
def test_the_environment_is_left_as_it_was(side: Side) -> Any:
    before = Path("/proc/self/environ").read_bytes(), side.environment()
    list(side.top.S3MapDataset.from_prefix(side.uri(), region=side.region))
    return before == (Path("/proc/self/environ").read_bytes(), side.environment())

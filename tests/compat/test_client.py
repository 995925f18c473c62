"""`MountpointS3Client`: what its configuration does to requests, its six operations, and stores other than S3's."""

from __future__ import annotations

import os
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import s3dlio
from s3dlio.compat.s3torchconnectorclient import LOG_TRACE
from s3dlio.compat.s3torchconnectorclient._mountpoint_s3_client import (
    HeadObjectResult,
    ListObjectResult,
    MountpointS3Client,
    ObjectInfo,
    RestoreStatus,
    S3Exception,
    join_all_managed_threads,
)
from s3dlio.engine.stores.memory import forget
from tests.support.answers import Respond, s3_error
from tests.support.moto_server import MotoServer
from tests.support.object_server import ObjectServer
from tests.support.scripted_server import Request

PATH = "/bucket/key"


@pytest.fixture
def server(object_server: ObjectServer, s3_env: Callable[[str], None]) -> ObjectServer:
    """A server with one object, which the environment names."""
    s3_env(object_server.url)
    object_server.objects[PATH] = b"0123456789"
    return object_server


@pytest.fixture
def bucket(moto_s3: MotoServer, s3_env: Callable[..., None]) -> str:
    """An empty bucket of a real server, which the environment names."""
    s3_env(moto_s3.endpoint)
    return moto_s3.endpoint.new_bucket()


def only_request(server: ObjectServer, **arguments: Any) -> Request:
    """Returns the request that a client of this configuration sends for the object's head."""
    server.requests.clear()
    MountpointS3Client("us-east-1", **arguments).head_object("bucket", "key")
    (request,) = server.requests
    return request


# Configuration.


@pytest.mark.parametrize("part_size", [0, 756, (5 << 20) - 1, (5 << 30) + 1])
def test_parts_have_a_least_and_a_greatest_size(part_size: int) -> None:
    with pytest.raises(S3Exception) as found:
        MountpointS3Client("us-east-1", part_size=part_size)
    assert str(found.value) == "invalid configuration: part size must be at between 5MiB and 5GiB"


@pytest.mark.parametrize("attempts", [0, -1, True, 2.5, None, "many"])
def test_a_number_of_attempts_without_meaning_is_an_error_and_no_panic(attempts: Any) -> None:
    with pytest.raises(S3Exception, match="max_attempts must be"):
        MountpointS3Client("us-east-1", max_attempts=attempts)


@pytest.mark.parametrize("gbps", [-1.0, float("nan"), float("inf")])
def test_a_throughput_without_meaning_is_an_error(gbps: float) -> None:
    with pytest.raises(S3Exception, match="throughput_target_gbps must be"):
        MountpointS3Client("us-east-1", throughput_target_gbps=gbps)


def test_a_higher_throughput_has_more_requests_in_flight() -> None:
    at_once = [MountpointS3Client("", throughput_target_gbps=gbps).max_in_flight for gbps in (0, 0.1, 2, 10, 40, 400)]
    assert at_once[:2] == [1, 1]
    assert at_once == sorted(at_once)
    assert at_once[3] == 16
    assert at_once[-1] == at_once[-2]


def test_the_number_of_attempts_holds_and_the_environment_stands_above_it(
    server: ObjectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def attempts(given: int) -> int:
        server.requests.clear()
        server.faults[PATH] = [s3_error(500, "InternalError")] * 9
        with pytest.raises(S3Exception, match=r"InternalError|Internal Server Error"):
            MountpointS3Client("us-east-1", max_attempts=given).head_object("bucket", "key")
        return len(server.requests)

    assert [attempts(1), attempts(2)] == [1, 2]
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "3")
    assert attempts(1) == 3
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "lots")
    with pytest.raises(S3Exception, match="AWS_MAX_ATTEMPTS must be"):
        MountpointS3Client("us-east-1")


def test_requests_are_signed_for_the_region_unless_they_are_to_be_unsigned(server: ObjectServer) -> None:
    assert "/us-east-1/s3/" in only_request(server).headers["authorization"]
    server.requests.clear()
    MountpointS3Client("eu-west-3").head_object("bucket", "key")
    assert "/eu-west-3/s3/" in server.requests[0].headers["authorization"]
    assert "authorization" not in only_request(server, unsigned=True).headers


def test_requests_say_who_asks_and_who_pays(server: ObjectServer) -> None:
    assert only_request(server, user_agent_prefix="me/1 (you)").headers["user-agent"].startswith("me/1 (you)")
    assert "x-amz-request-payer" not in only_request(server).headers
    assert only_request(server, requester_pays=True).headers["x-amz-request-payer"] == "requester"


def test_an_endpoint_that_is_given_stands_above_the_environment(
    server: ObjectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    only_request(server, endpoint="")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    only_request(server, endpoint=server.url)
    for nonsense in ("x y", "localhost:9000", "http://"):
        with pytest.raises(S3Exception):
            MountpointS3Client("us-east-1", endpoint=nonsense).head_object("bucket", "key")


def test_the_bucket_stands_in_the_host_or_by_force_in_the_path(
    server: ObjectServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = tmp_path / "config"
    config.write_text("[default]\ns3 =\n    addressing_style = virtual\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    url = server.url.replace("127.0.0.1", "localhost")
    (store, _, _) = MountpointS3Client("us-east-1", endpoint=url).place("bucket", "key")
    # A name that only a resolver for that purpose knows, so nothing is sent to it.
    assert store.spec.host == "bucket.localhost"
    assert only_request(server, endpoint=url, force_path_style=True).headers["host"].startswith("localhost:")


def test_a_profile_says_whose_keys_sign(server: ObjectServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    credentials = tmp_path / "credentials"
    credentials.write_text("[mine]\naws_access_key_id = MYOWNKEY\naws_secret_access_key = secret\n")
    credentials.chmod(0o600)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(credentials))
    assert "Credential=MYOWNKEY/" in only_request(server, profile="mine").headers["authorization"]
    with pytest.raises(S3Exception, match="nobody"):
        MountpointS3Client("us-east-1", profile="nobody").head_object("bucket", "key")


def test_a5_neither_a_pickle_nor_an_error_has_a_secret(server: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very-secret-indeed")
    client = MountpointS3Client("us-east-1")
    client.head_object("bucket", "key")
    with pytest.raises(S3Exception) as found:
        client.head_object("bucket", "missing")
    told = pickle.dumps(client) + pickle.dumps(found.value) + repr((client, found.value)).encode()
    assert b"very-secret" not in told


# A client in other hands.


def test_a_pickled_client_asks_in_the_same_way(server: ObjectServer) -> None:
    made = MountpointS3Client("eu-west-3", "me/1", 2.0, 6 << 20, None, True, server.url, True, 3)
    made.head_object("bucket", "key")
    again = pickle.loads(pickle.dumps(made))  # noqa: TID251 (its own)
    assert again.__getnewargs__() == made.__getnewargs__()
    assert again.head_object("bucket", "key").size == 10
    assert [request.headers["user-agent"] for request in server.requests] == ["me/1", "me/1"]


def test_p10_a_forked_child_goes_on_with_the_client(bucket: str) -> None:
    client = MountpointS3Client("us-east-1")
    client.put_object(bucket, "key").close()
    pid = os.fork()
    if pid == 0:
        os._exit(0 if client.head_object(bucket, "key").size == 0 else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert client.head_object(bucket, "key").size == 0


def test_threads_share_a_client(server: ObjectServer) -> None:
    client = MountpointS3Client("us-east-1")
    seen: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: seen.extend(b"".join(client.get_object("bucket", "key")) for _ in range(5)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [b"0123456789"] * 40


def test_there_are_no_threads_to_wait_for_and_the_level_has_its_name(server: ObjectServer) -> None:
    import logging

    num_threads = threading.active_count()
    assert b"".join(MountpointS3Client("us-east-1").get_object("bucket", "key")) == b"0123456789"
    assert threading.active_count() <= num_threads + 1  # the server's own, for the connection
    join_all_managed_threads(0.0)
    assert logging.getLevelName(LOG_TRACE) == "TRACE"


# Operations.


def test_a_head_and_a_listing_say_what_the_store_says_word_for_word(bucket: str, moto_s3: MotoServer) -> None:
    moto = moto_s3.endpoint.client()
    moto.put_object(Bucket=bucket, Key="a", Body=b"one")
    moto.put_object(Bucket=bucket, Key="b", Body=b"two", StorageClass="GLACIER")
    client = MountpointS3Client("us-east-1")
    heads = [client.head_object(bucket, key) for key in "ab"]
    (page,) = client.list_objects(bucket)
    for key, head, info in zip("ab", heads, page.object_info, strict=True):
        known = moto.head_object(Bucket=bucket, Key=key)
        seconds = int(known["LastModified"].timestamp())
        assert (head.etag, head.size, head.last_modified) == (known["ETag"], 3, seconds)
        assert (info.key, info.etag, info.size, info.last_modified) == (key, known["ETag"], 3, seconds)
    assert [head.storage_class for head in heads] == [None, "GLACIER"]
    assert [info.storage_class for info in page.object_info] == ["STANDARD", "GLACIER"]


def test_a_restore_under_way_is_told(server: ObjectServer) -> None:
    server.headers[PATH] = {
        "x-amz-restore": 'ongoing-request="false", expiry-date="Fri, 21 Dec 2012 00:00:00 GMT"',
        "Last-Modified": "Fri, 21 Dec 2012 00:00:00 GMT",
    }
    status = MountpointS3Client("us-east-1").head_object("bucket", "key").restore_status
    assert status is not None
    assert (status.in_progress, status.expiry) == (False, 1356048000)


def test_records_are_immutable_values_that_pickle() -> None:
    info = ObjectInfo("k", '"e"', 1, 2, "GLACIER", RestoreStatus(True))
    for record in (info, HeadObjectResult('"e"', 1, 2), RestoreStatus(False, 3), ListObjectResult([info], ["p/"])):
        again = pickle.loads(pickle.dumps(record))  # noqa: TID251 (its own)
        assert repr(again) == repr(record)
        with pytest.raises(AttributeError):
            record.key = "other"  # type: ignore[union-attr]


def test_a_listing_goes_on_in_another_hand(bucket: str, moto_s3: MotoServer) -> None:
    for number in range(5):
        moto_s3.endpoint.client().put_object(Bucket=bucket, Key=f"k{number}", Body=b"")
    stream = MountpointS3Client("us-east-1").list_objects(bucket, "k", max_keys=2)
    assert [info.key for info in next(stream).object_info] == ["k0", "k1"]
    again = pickle.loads(pickle.dumps(stream))  # noqa: TID251 (its own)
    for rest in (stream, again):
        assert [[info.key for info in page.object_info] for page in rest] == [["k2", "k3"], ["k4"]]
        assert (rest.complete, rest.continuation_token) == (True, None)
        assert next(rest, None) is None


def test_a_page_that_fails_may_be_asked_for_again(server: ObjectServer) -> None:
    page = Respond(200, {}, b"<ListBucketResult><Contents><Key>k</Key><Size>1</Size></Contents></ListBucketResult>")
    server.faults["/bucket"] = server.faults["/bucket/"] = [s3_error(403, "AccessDenied"), page]
    stream = MountpointS3Client("us-east-1").list_objects("bucket")
    with pytest.raises(S3Exception, match="Forbidden"):
        next(stream)
    assert [info.key for info in next(stream).object_info] == ["k"]


def test_what_a_server_repeats_on_the_next_page_is_listed_once(server: ObjectServer) -> None:
    def page(keys: str, rest: str = "") -> Respond:
        entries = "".join(f"<Contents><Key>{key}</Key><Size>1</Size></Contents>" for key in keys)
        return Respond(200, {}, f"<ListBucketResult>{entries}{rest}</ListBucketResult>".encode())

    more = "<IsTruncated>true</IsTruncated><NextContinuationToken>b</NextContinuationToken>"
    server.faults["/bucket"] = server.faults["/bucket/"] = [page("ab", more), page("bc")]
    pages = MountpointS3Client("us-east-1").list_objects("bucket")
    assert [[info.key for info in found.object_info] for found in pages] == [["a", "b"], ["c"]]


def test_k1_the_source_of_a_copy_is_percent_encoded_and_its_target_is_not(bucket: str, moto_s3: MotoServer) -> None:
    client, moto = MountpointS3Client("us-east-1"), moto_s3.endpoint.client()
    for key in ("a b/c+d%20é", "plain"):
        moto.put_object(Bucket=bucket, Key=key, Body=key.encode())
    client.copy_object(bucket, "a%20b/c%2Bd%2520%C3%A9", bucket, "to %41")
    client.copy_object(bucket, "plain", bucket, "plain too")
    assert moto.get_object(Bucket=bucket, Key="to %41")["Body"].read() == "a b/c+d%20é".encode()
    assert moto.get_object(Bucket=bucket, Key="plain too")["Body"].read() == b"plain"
    with pytest.raises(S3Exception, match=r"^Service error: The object was not found$"):
        client.copy_object(bucket, "missing", bucket, "there")


def test_a_storage_class_reaches_the_store_in_one_request_or_in_parts(bucket: str, moto_s3: MotoServer) -> None:
    s3dlio.configure(multipart_above_bytes="6MiB")
    client = MountpointS3Client("us-east-1", part_size=5 << 20)
    for key, data in (("short", b"x"), ("long", bytes(11 << 20))):
        writer = client.put_object(bucket, key, "STANDARD_IA")
        writer.write(data)
        writer.close()
        head = client.head_object(bucket, key)
        assert (head.size, head.storage_class) == (len(data), "STANDARD_IA")
    writer = client.put_object(bucket, "none", "NO_SUCH_CLASS")
    with pytest.raises(S3Exception) as found:
        writer.close()
    assert (found.value.code, found.value.status) == ("InvalidStorageClass", 400)


# Other stores.


@pytest.fixture(params=["memory", "file"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """A bucket of another scheme, and what the keys in it begin with."""
    if request.param == "file":
        yield "file://", f"{tmp_path}/"
    else:
        yield "memory://compat-client", ""
        forget("memory://compat-client/")


def test_other_stores_are_named_by_their_root(root: tuple[str, str]) -> None:
    bucket, base = root
    client = MountpointS3Client("anywhere")
    for key, data in (("d/a", b"0123456789"), ("d/b/c", b""), ("d/z", b"z")):
        writer = client.put_object(bucket, base + key)
        writer.write(data)
        writer.close()
    assert b"".join(client.get_object(bucket, base + "d/a", 2, 5)) == b"234"
    assert client.get_object(bucket, base + "d/a").read_rest() == b"0123456789"
    head = client.head_object(bucket, base + "d/a")
    assert (head.size, head.etag != "", head.last_modified > 1_600_000_000) == (10, True, True)
    pages = list(client.list_objects(bucket, base + "d/", max_keys=2))
    assert sorted(info.key for page in pages for info in page.object_info) == [base + "d/a", base + "d/b/c", base + "d/z"]
    assert [len(page.object_info) for page in pages] == [2, 1]
    pages = list(client.list_objects(bucket, base + "d/", "/"))
    assert [sorted(info.key for info in page.object_info) for page in pages] == [[base + "d/a", base + "d/z"]]
    assert [page.common_prefixes for page in pages] == [[base + "d/b/"]]
    client.delete_object(bucket, base + "d/a")
    with pytest.raises(S3Exception, match=r"^Service error: The object was not found$"):
        client.head_object(bucket, base + "d/a")
    with pytest.raises(S3Exception, match=r"^Service error: The key does not exist$"):
        next(client.get_object(bucket, base + "d/a"))


def test_a_listing_of_another_store_goes_on_in_another_hand(root: tuple[str, str]) -> None:
    bucket, base = root
    client = MountpointS3Client("anywhere")
    for number in range(5):
        client.put_object(bucket, f"{base}d/k{number}").close()
    stream = client.list_objects(bucket, base + "d/", max_keys=2)
    first = next(stream)
    again = pickle.loads(pickle.dumps(stream))  # noqa: TID251 (its own)
    expected = {f"{base}d/k{number}" for number in range(5)} - {info.key for info in first.object_info}
    for rest in (stream, again):
        assert {info.key for page in rest for info in page.object_info} == expected
    whole = client.list_objects(bucket, base + "d/", max_keys=5)
    assert [len(page.object_info) for page in whole] == [5]


def test_any_delimiter_groups_keys_of_other_stores(root: tuple[str, str]) -> None:
    bucket, base = root
    client = MountpointS3Client("anywhere")
    for key in ("d/a--b--c", "d/a--c", "d/b"):
        client.put_object(bucket, base + key).close()
    (page,) = client.list_objects(bucket, base + "d/", "--")
    assert [info.key for info in page.object_info] == [base + "d/b"]
    assert page.common_prefixes == [base + "d/a--"]


def test_what_a_store_cannot_do_is_an_error(bucket: str, moto_s3: MotoServer) -> None:
    client = MountpointS3Client("us-east-1")
    with pytest.raises(S3Exception, match="storage class"):
        client.put_object("memory://compat-client", "k", "GLACIER")
    moto_s3.endpoint.client().put_object(Bucket=bucket, Key="k", Body=b"")
    with pytest.raises(S3Exception, match="cannot copy"):
        client.copy_object(bucket, "k", "memory://compat-client", "k")
    with pytest.raises(S3Exception, match="unknown scheme"):
        client.get_object("ftp://host", "k")
    with pytest.raises(S3Exception, match="needs a bucket"):
        client.get_object("", "k")


@pytest.mark.parametrize("bucket", ["bucket/folder", "s3://bucket/folder", "memory://bucket/folder", "file:///folder"])
def test_a_bucket_with_a_key_is_no_bucket_and_not_another_one(bucket: str) -> None:
    with pytest.raises(S3Exception, match="a bucket has no key"):
        MountpointS3Client("us-east-1").get_object(bucket, "k")


def test_a_bucket_may_be_an_arn_in_either_spelling(server: ObjectServer) -> None:
    client = MountpointS3Client("us-west-2", endpoint="https://s3.us-west-2.amazonaws.com")
    roots = {client.place(f"arn:aws:s3:us-west-2:123456789012:accesspoint{mark}mine", "k").store.root for mark in "/:"}
    assert roots == {"s3://arn:aws:s3:us-west-2:123456789012:accesspoint:mine/"}


def test_a_page_of_no_keys_is_empty(root: tuple[str, str]) -> None:
    bucket, base = root
    client = MountpointS3Client("anywhere")
    client.put_object(bucket, base + "k").close()
    assert [page.object_info for page in client.list_objects(bucket, base, max_keys=0)] == [[]]

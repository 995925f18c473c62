"""gs:// against a server that says what Google documents, and breaks its answers: what the emulator cannot do, on both lanes."""

from __future__ import annotations

import gzip
import json
import logging
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import s3dlio
from s3dlio.engine.pool.inline import inline_fetcher
from s3dlio.engine.stores.base import run
from s3dlio.engine.stores.registry import locate
from tests.support.answers import Respond, close_before_headers, cut_after, flipped, reset_after
from tests.support.gcs_answers import GENERATION, crc32c, document, gcs_error, media, resource, rest_of
from tests.support.gcs_server import GcsEndpoint, GcsServer
from tests.support.scripted_server import Connection, Handler, Request, ScriptedServer

DATA = bytes(range(256)) * 400
URI = "gs://bucket/dir/key"
OBJECT = "/storage/v1/b/bucket/o/dir%2Fkey"
UPLOAD = "/upload/storage/v1/b/bucket/o"
SESSION = f"{UPLOAD}?uploadType=resumable&upload_id=SECRETSESSION"
PIECE = 256 << 10
PointAt = Callable[[GcsEndpoint | str], None]


@pytest.fixture(params=["fast", "sdk"])
def google(
    request: pytest.FixtureRequest, scripted_server: ScriptedServer, gcs_env: PointAt, quick_settings: None
) -> Iterator[ScriptedServer]:
    """A server for `gs://bucket/` that says only what the test scripts, on either lane."""
    gcs_env(scripted_server.url)
    s3dlio.configure(fast_lane=request.param == "fast")
    yield scripted_server
    s3dlio.shutdown()


def begun(request: Request, connection: Connection) -> None:
    """Answers the beginning of a resumable upload."""
    Respond(200, {"Location": f"{connection.server.url}{SESSION}"})(request, connection)


def persisted(num: int) -> Respond:
    return Respond(308, {"Range": f"bytes=0-{num - 1}"} if num else {})


def upload_of(create_only: bool = False) -> Any:
    store, key = locate(URI)
    return run(store.begin_upload(key, create_only), inline_fetcher().run)


def do(operation: Any) -> Any:
    return run(operation, inline_fetcher().run)


def spans(google: ScriptedServer) -> list[str]:
    """Returns what was said of each piece."""
    return [request.headers["content-range"] for request in google.requests if request.method == "PUT"]


def test_n4_a_cut_body_is_resumed_from_its_last_byte_and_pinned_to_its_generation(google: ScriptedServer) -> None:
    google.then(cut_after(30_000, media(DATA)), rest_of(DATA, 30_000))
    assert bytes(s3dlio.get(URI)) == DATA
    first, second = google.requests
    assert first.target == f"{OBJECT}?alt=media"
    assert second.target == f"{OBJECT}?alt=media&ifGenerationMatch={GENERATION}"
    assert second.headers["range"] == f"bytes=30000-{len(DATA) - 1}"


def test_i1_another_generation_in_the_middle_is_read_from_its_beginning(google: ScriptedServer) -> None:
    google.then(cut_after(30_000, media(DATA)), rest_of(DATA, 30_000, "18"), media(DATA[::-1], "18"))
    assert bytes(s3dlio.get(URI)) == DATA[::-1]


@pytest.mark.parametrize("answer", [gcs_error(412, "conditionNotMet"), media(DATA, "18")], ids=["refused", "not noticed"])
def test_i1_an_object_that_changed_since_it_was_listed_is_an_error(google: ScriptedServer, answer: Respond) -> None:
    google.then(answer)
    with pytest.raises(s3dlio.ObjectChangedError):
        s3dlio.get_many([s3dlio.ObjectRef(URI, len(DATA), GENERATION)])
    assert google.requests[0].query == f"alt=media&ifGenerationMatch={GENERATION}"


def test_i4_a_flipped_bit_is_found_by_the_crc32c(google: ScriptedServer) -> None:
    google.then(flipped(5000, media(DATA)), media(DATA))
    assert bytes(s3dlio.get(URI)) == DATA
    google.then(*[flipped(5000, media(DATA))] * 3)
    with pytest.raises(s3dlio.ChecksumMismatchError):
        s3dlio.get(URI)


def test_i4_a_composite_object_has_a_crc32c_too(google: ScriptedServer) -> None:
    composite = media(DATA, headers={"X-Goog-Component-Count": "3"})
    google.then(flipped(9, composite), composite)
    assert bytes(s3dlio.get(URI)) == DATA


def test_n8_an_object_stored_as_gzip_comes_as_it_is_stored(google: ScriptedServer) -> None:
    packed = gzip.compress(DATA)
    google.script = lambda request: (
        media(packed, headers={"Content-Encoding": "gzip", "X-Goog-Stored-Content-Encoding": "gzip"})
        if "gzip" in request.headers.get("accept-encoding", "")
        else Respond(200, {"X-Goog-Generation": GENERATION, "X-Goog-Hash": f"crc32c={crc32c(packed)}"}, DATA)
    )
    assert bytes(s3dlio.get(URI)) == packed


def test_n8_an_object_of_the_emulator_stored_as_gzip_comes_as_it_is_stored(gcs: GcsServer, gcs_env: PointAt) -> None:
    gcs_env(gcs.endpoint)
    bucket = gcs.endpoint.new_bucket()
    blob = gcs.endpoint.bucket(bucket).blob("key")
    blob.content_encoding = "gzip"
    blob.upload_from_string(gzip.compress(DATA), retry=None)
    for lane in (True, False):
        s3dlio.configure(fast_lane=lane)
        assert gzip.decompress(bytes(s3dlio.get(f"gs://{bucket}/key"))) == DATA
        assert s3dlio.stat(f"gs://{bucket}/key")["content_encoding"] == "gzip"
        s3dlio.shutdown()


@pytest.mark.parametrize(("stored", "sent"), [("gzip", None), ("identity", "gzip")])
@pytest.mark.parametrize("start", [0, 10])
def test_n8_bytes_that_were_packed_or_unpacked_on_the_way_are_refused(
    google: ScriptedServer, stored: str, sent: str | None, start: int
) -> None:
    headers = {"X-Goog-Generation": GENERATION, "X-Goog-Stored-Content-Encoding": stored}
    google.then(*[Respond(200, headers | ({"Content-Encoding": sent} if sent else {}), DATA)] * 3)
    with pytest.raises(s3dlio.ProtocolError, match="on the way"):
        s3dlio.get_range(URI, start, 100) if start else s3dlio.get(URI)


@pytest.mark.parametrize(("status", "reason"), [(429, "rateLimitExceeded"), (503, "backendError"), (403, "userRateLimitExceeded")])
def test_n9_what_passes_is_tried_again(google: ScriptedServer, status: int, reason: str) -> None:
    google.then(gcs_error(status, reason), media(DATA))
    assert bytes(s3dlio.get(URI)) == DATA


def test_n9_a_refusal_that_is_packed_is_understood(google: ScriptedServer) -> None:
    plain = gcs_error(403, "rateLimitExceeded")
    google.then(Respond(403, {"Content-Encoding": "gzip"}, gzip.compress(plain.body)), media(DATA))
    assert bytes(s3dlio.get(URI)) == DATA
    google.then(Respond(404, {"Content-Encoding": "gzip"}, b"no gzip"))
    with pytest.raises(s3dlio.NotFoundError, match="Not Found"):
        s3dlio.get(URI)


def test_n12_a_page_that_is_an_error_under_a_200_is_asked_for_again(google: ScriptedServer) -> None:
    page = document({"items": [{"name": "dir/key", "size": "5", "generation": "7"}]})
    google.then(document({"error": {"code": 503, "message": "m"}}), page)
    assert s3dlio.list("gs://bucket/dir/") == [URI]


def test_i11_pages_end_and_empty_ones_do_not(google: ScriptedServer) -> None:
    google.then(
        document({"nextPageToken": "a/b+c"}),
        document({"items": [{"name": "k", "size": "5"}], "nextPageToken": "2"}),
        document({"prefixes": ["p/"]}),
    )
    assert s3dlio.list("gs://bucket/") == ["gs://bucket/k", "gs://bucket/p/"]
    assert "pageToken=a%2Fb%2Bc" in google.requests[1].query
    google.then(*[document({"nextPageToken": "same"})] * 2)
    with pytest.raises(s3dlio.ProtocolError, match="token"):
        s3dlio.list("gs://bucket/")


@pytest.mark.parametrize("status", [301, 307, 308])
def test_n16_a_redirect_is_not_followed(google: ScriptedServer, status: int) -> None:
    google.then(Respond(status, {"Location": f"{google.url}/elsewhere"}))
    with pytest.raises(s3dlio.RequestRejectedError, match="redirect"):
        s3dlio.get(URI)
    assert len(google.requests) == 1


def test_a1_a_refusal_is_final_and_says_who_asked(google: ScriptedServer) -> None:
    google.then(gcs_error(403, "forbidden", "no access"))
    with pytest.raises(s3dlio.PermissionDeniedError, match=r"forbidden: no access.*anonymous"):
        s3dlio.get(URI)


def test_a2_a_refused_token_is_shown_once_at_each_attempt(google: ScriptedServer) -> None:
    google.then(gcs_error(401, "authError"))
    with pytest.raises(s3dlio.PermissionDeniedError):
        s3dlio.get(URI)


@pytest.mark.parametrize("key", ["", ".", ".."])
def test_k1_what_is_no_name_of_an_object_is_never_asked_for(google: ScriptedServer, key: str) -> None:
    store, _ = locate(URI)
    for operation in (store.stat(key), store.copy("to", store, key), store.copy(key, store, "from")):
        with pytest.raises(s3dlio.NotFoundError):
            do(operation)
    with pytest.raises(s3dlio.NotFoundError):
        s3dlio.get(f"gs://bucket/{key}")
    assert list(store.delete(key)) == []


def test_k1_a_name_with_half_a_character_is_refused(google: ScriptedServer) -> None:
    with pytest.raises(s3dlio.InvalidUriError):
        s3dlio.put_bytes("gs://bucket/a\ud800", DATA)


def test_a_put_says_its_checksum_before_its_bytes(google: ScriptedServer) -> None:
    google.then(resource("dir/key", DATA))
    s3dlio.put_bytes(URI, DATA)
    (request,) = google.requests
    assert (request.method, request.target) == ("POST", f"{UPLOAD}?uploadType=multipart")
    boundary = re.fullmatch(r"multipart/related; boundary=(\w+)", request.headers["content-type"])
    assert boundary is not None
    _, about, content, end = request.body.split(b"--" + boundary[1].encode())
    assert json.loads(about.partition(b"\r\n\r\n")[2]) == {
        "name": "dir/key", "contentType": "application/octet-stream", "crc32c": crc32c(DATA)
    }  # fmt: skip
    assert content.partition(b"\r\n\r\n")[2] == DATA + b"\r\n"
    assert end == b"--\r\n"


@pytest.mark.parametrize("answer", [resource("dir/key", DATA[1:]), resource("dir/key", DATA, crc32c="AAAAAA==")], ids=["size", "sum"])
def test_u5_a_store_that_has_something_else_than_was_sent_is_an_error(google: ScriptedServer, answer: Respond) -> None:
    google.then(answer)
    with pytest.raises(s3dlio.ChecksumMismatchError):
        s3dlio.put_bytes(URI, DATA)


def test_a_put_whose_answer_is_lost_or_broken_is_made_again(google: ScriptedServer) -> None:
    answer = resource("dir/key", DATA)
    google.then(close_before_headers(), cut_after(10, answer), Respond(200, {}, b"<html>"), answer)
    s3dlio.configure(max_attempts=5)
    s3dlio.put_bytes(URI, DATA)
    assert len({request.body.partition(b"\r\n\r\n")[2] for request in google.requests}) == 1


class OneObject:
    """Keeps one object as Google does, create-only; the first answer of each upload is lost."""

    def __init__(self, is_there: bool) -> None:
        self.about: dict[str, Any] | None = {"name": "dir/key", "size": "3"} if is_there else None
        self._num = 0

    def __call__(self, request: Request) -> Handler:
        if request.method == "GET":
            assert self.about is not None
            return document(self.about)
        assert "ifGenerationMatch=0" in request.query
        if self.about is not None:
            return gcs_error(412, "conditionNotMet")
        metadata = json.loads(request.body.split(b"\r\n")[3])
        self.about = metadata | {"size": str(len(DATA)), "generation": "1"}
        return close_before_headers()


def test_u3_a_create_only_put_whose_answer_was_lost_knows_its_own_object(google: ScriptedServer) -> None:
    google.script = OneObject(is_there=False)
    s3dlio.put_bytes(URI, DATA, if_none_match=True)


def test_u3_a_create_only_put_whose_every_answer_was_lost_knows_its_own_object(google: ScriptedServer) -> None:
    store = OneObject(is_there=False)
    google.script = lambda request: store(request) if request.method == "GET" or store.about is None else close_before_headers()
    s3dlio.put_bytes(URI, DATA, if_none_match=True)
    google.script = lambda request: gcs_error(404, "notFound") if request.method == "GET" else close_before_headers()
    with pytest.raises(s3dlio.ConnectFailedError):
        s3dlio.put_bytes(URI, DATA, if_none_match=True)


def test_u3_who_may_not_look_is_not_told_that_an_object_of_its_own_is_anothers(google: ScriptedServer) -> None:
    refusal, forbidden = gcs_error(412, "conditionNotMet"), gcs_error(403, "forbidden")
    google.then(refusal, forbidden)
    with pytest.raises(s3dlio.AlreadyExistsError):
        s3dlio.put_bytes(URI, DATA, if_none_match=True)
    google.then(close_before_headers(), refusal, forbidden)
    with pytest.raises(s3dlio.PermissionDeniedError, match="nobody says"):
        s3dlio.put_bytes(URI, DATA, if_none_match=True)


def test_u3_a_create_only_put_meets_another_object(google: ScriptedServer) -> None:
    google.script = OneObject(is_there=True)
    with pytest.raises(s3dlio.AlreadyExistsError) as raised:
        s3dlio.put_bytes(URI, DATA, if_none_match=True)
    assert isinstance(raised.value, FileExistsError)


def test_u3_a_create_only_upload_is_refused_when_it_begins_or_when_it_ends(google: ScriptedServer) -> None:
    refusal = gcs_error(412, "conditionNotMet")
    google.then(refusal)
    with pytest.raises(s3dlio.AlreadyExistsError):
        upload_of(create_only=True)
    google.then(begun, refusal, document({"size": "3", "generation": "1"}))
    upload = upload_of(create_only=True)
    do(upload.put_part(0, memoryview(b"data"), True))
    with pytest.raises(s3dlio.AlreadyExistsError):
        do(upload.complete())


def test_u3_a_create_only_upload_whose_last_answer_was_lost_knows_its_own_object(google: ScriptedServer) -> None:
    google.then(begun)
    upload = upload_of(create_only=True)
    about = json.loads(google.requests[0].body)
    do(upload.put_part(0, memoryview(b"data"), True))
    google.then(close_before_headers(), gcs_error(412, "conditionNotMet"), resource("dir/key", b"data", metadata=about["metadata"]))
    do(upload.complete())
    do(upload.abort())
    assert google.requests[-1].method == "GET"


def test_a_long_put_goes_by_a_session_in_one_piece(google: ScriptedServer) -> None:
    data = DATA * 20
    google.then(begun, resource("dir/key", data))
    s3dlio.put_bytes(URI, data)
    begin, piece = google.requests
    assert begin.target == f"{UPLOAD}?uploadType=resumable"
    assert json.loads(begin.body)["crc32c"] == crc32c(data)
    assert (piece.method, piece.target, piece.body) == ("PUT", SESSION, data)
    assert piece.headers["content-range"] == f"bytes 0-{len(data) - 1}/{len(data)}"
    assert piece.headers["x-goog-hash"] == f"crc32c={crc32c(data)}"


def test_u4_a_piece_whose_answer_was_lost_is_asked_about_and_not_sent_again(google: ScriptedServer) -> None:
    data = DATA * 20
    google.then(begun, close_before_headers(), resource("dir/key", data))
    s3dlio.put_bytes(URI, data)
    assert [len(request.body) for request in google.requests[1:]] == [len(data), 0]
    assert spans(google) == [f"bytes 0-{len(data) - 1}/{len(data)}", f"bytes */{len(data)}"]


def test_u4_what_the_store_has_of_a_piece_is_not_sent_again(google: ScriptedServer) -> None:
    data = DATA * 20
    google.then(begun, gcs_error(503, "backendError"), persisted(4 * PIECE), resource("dir/key", data))
    s3dlio.put_bytes(URI, data)
    assert spans(google) == [
        f"bytes 0-{len(data) - 1}/{len(data)}", f"bytes */{len(data)}", f"bytes {4 * PIECE}-{len(data) - 1}/{len(data)}"
    ]  # fmt: skip
    assert google.requests[-1].body == data[4 * PIECE :]


def test_parts_come_one_after_the_other_and_nothing_is_visible_before_the_end(google: ScriptedServer) -> None:
    data = (DATA * 20)[: 2 * PIECE + 5]
    google.then(begun, persisted(PIECE), persisted(2 * PIECE), resource("dir/key", data))
    upload = upload_of()
    do(upload.put_part(0, memoryview(data)[:PIECE], False))
    do(upload.put_part(1, memoryview(data)[PIECE:], True))
    assert spans(google) == [f"bytes 0-{PIECE - 1}/*", f"bytes {PIECE}-{2 * PIECE - 1}/*"]
    do(upload.complete())
    assert spans(google)[2:] == [f"bytes {2 * PIECE}-{len(data) - 1}/{len(data)}"]
    assert google.requests[-1].headers["x-goog-hash"] == f"crc32c={crc32c(data)}"


def test_u4_a_store_that_keeps_nothing_of_a_part_is_sent_it_again_and_given_up_in_the_end(google: ScriptedServer) -> None:
    google.then(begun, persisted(0), persisted(PIECE))
    upload = upload_of()
    do(upload.put_part(0, memoryview(bytes(PIECE)), False))
    assert spans(google) == [f"bytes 0-{PIECE - 1}/*"] * 2
    google.then(*[persisted(PIECE)] * 10)
    with pytest.raises(s3dlio.ServerError, match="takes nothing"):
        do(upload.put_part(1, memoryview(bytes(PIECE)), False))


@pytest.mark.parametrize("num", [5 * PIECE, PIECE - 1])
def test_u4_a_store_that_has_more_or_less_than_was_sent_is_an_error(google: ScriptedServer, num: int) -> None:
    google.then(begun, persisted(PIECE), persisted(num))
    upload = upload_of()
    do(upload.put_part(0, memoryview(bytes(PIECE)), False))
    with pytest.raises(s3dlio.ProtocolError):
        do(upload.put_part(1, memoryview(bytes(PIECE)), False))


def test_u1_an_upload_that_is_given_up_is_cancelled_once(google: ScriptedServer) -> None:
    google.then(begun, Respond(499))
    upload = upload_of()
    do(upload.abort())
    do(upload.abort())
    assert [(request.method, request.target) for request in google.requests[1:]] == [("DELETE", SESSION)]


def test_u4_a_session_that_is_forgotten_is_no_missing_object(google: ScriptedServer) -> None:
    google.then(begun, gcs_error(404, "notFound"))
    upload = upload_of()
    with pytest.raises(s3dlio.RequestRejectedError, match="knows nothing of this upload"):
        do(upload.put_part(0, memoryview(bytes(PIECE)), False))


@pytest.mark.parametrize("location", [None, "", "http://evil.example", "/a b?upload_id=1", "http://h/p?upload_id=\xe9", "/no/session"])
def test_a_session_without_a_place_is_an_error(google: ScriptedServer, location: str | None) -> None:
    google.then(*[Respond(200, {} if location is None else {"Location": location})] * 3)
    with pytest.raises(s3dlio.ProtocolError):
        upload_of()


def test_n16_pieces_go_to_our_own_host_whatever_the_session_names(google: ScriptedServer) -> None:
    google.then(Respond(200, {"Location": f"https://evil.example{SESSION}"}), persisted(PIECE))
    do(upload_of().put_part(0, memoryview(bytes(PIECE)), False))
    assert google.requests[1].target == SESSION


def test_a_copy_of_many_steps_follows_its_token(google: ScriptedServer) -> None:
    google.then(document({"done": False, "rewriteToken": "a+b"}), document({"done": True}))
    store, key = locate(URI)
    source, source_key = locate("gs://other/a/b")
    assert do(store.copy(key, source, source_key)) is True
    assert google.requests[0].path == "/storage/v1/b/other/o/a%2Fb/rewriteTo/b/bucket/o/dir%2Fkey"
    assert "rewriteToken=a%2Bb" in google.requests[1].query


def test_a_copy_that_does_not_go_on_ends(google: ScriptedServer) -> None:
    steps = [document({"done": False, "rewriteToken": "t", "totalBytesRewritten": num}) for num in ("5", "9", *["9"] * 10)]
    google.then(*steps)
    store, key = locate(URI)
    with pytest.raises(s3dlio.ServerError, match="behind byte 9"):
        do(store.copy(key, store, "from"))


def test_a_missing_object_may_have_any_name(google: ScriptedServer) -> None:
    google.then(gcs_error(404, "notFound", "No such object: bucket/the bucket does not exist"))
    s3dlio.delete("gs://bucket/the bucket does not exist")


def test_a_bucket_that_is_not_there_is_not_found_however_long_its_server_is_looked_for(
    scripted_server: ScriptedServer, gcs_env: PointAt, quick_settings: None
) -> None:
    gcs_env(f"http://localhost:{scripted_server.port}")
    store, _ = locate("gs://bucket/")
    scripted_server.then(gcs_error(404, "notFound", "The specified bucket does not exist."))
    with pytest.raises(s3dlio.NotFoundError):
        do(store.delete_bucket())


def test_deletions_whose_answers_are_lost_are_done(google: ScriptedServer) -> None:
    google.then(close_before_headers(), gcs_error(404, "notFound", "No such object: bucket/dir/key"))
    s3dlio.delete(URI)
    store, _ = locate(URI)
    google.then(close_before_headers(), gcs_error(404, "notFound", "The specified bucket does not exist."))
    do(store.delete_bucket())
    google.then(gcs_error(404, "notFound", "The specified bucket does not exist."))
    with pytest.raises(s3dlio.NotFoundError):
        s3dlio.delete(URI)


def test_a_bucket_of_ours_is_made_once_and_of_others_refused(google: ScriptedServer) -> None:
    store, _ = locate(URI)
    google.then(gcs_error(409, "conflict", "Your previous request to create the named bucket succeeded and you already own it."))
    do(store.create_bucket())
    assert google.requests[0].target == "/storage/v1/b?project=test-project"
    assert json.loads(google.requests[0].body) == {"name": "bucket"}
    google.then(gcs_error(409, "conflict", "The requested bucket name is not available."))
    with pytest.raises(s3dlio.AlreadyExistsError):
        do(store.create_bucket())
    google.then(gcs_error(409, "conflict", "The bucket you tried to delete is not empty."))
    with pytest.raises(s3dlio.RequestRejectedError, match="not empty"):
        do(store.delete_bucket())


def test_a5_a_session_is_never_shown(google: ScriptedServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    google.then(begun, *[reset_after(0, Respond(200, {}, b"x"))] * 3)
    upload = upload_of()
    with pytest.raises(s3dlio.S3dlioError) as raised:
        do(upload.put_part(0, memoryview(bytes(PIECE)), False))
    google.then(*[Respond(503, {"X-GUploader-UploadID": "SECRETSESSION"})] * 3)
    with pytest.raises(s3dlio.ServerError) as refused:
        do(upload.put_part(0, memoryview(bytes(PIECE)), False))
    assert "SECRETSESSION" not in str(raised.value) + repr(raised.value) + str(refused.value) + caplog.text


def test_an_emulator_that_names_no_generations_is_read_and_nothing_of_it_is_resumed(google: ScriptedServer) -> None:
    plain = Respond(200, {}, DATA)
    google.then(plain, cut_after(5, plain), plain)
    assert bytes(s3dlio.get(URI)) == DATA
    (view,) = s3dlio.get_many([s3dlio.ObjectRef(URI, len(DATA), GENERATION)])
    assert bytes(view) == DATA
    assert "range" not in google.requests[-1].headers
    google.then(Respond(200, {}, DATA[1:]))
    with pytest.raises(s3dlio.ObjectChangedError):
        s3dlio.get_many([s3dlio.ObjectRef(URI, len(DATA), GENERATION)])

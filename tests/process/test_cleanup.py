"""What killed writers leave in S3 is invisible, and found and aborted by `s3dlio cleanup` (U2, U3)."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from typer.testing import CliRunner

import s3dlio
from s3dlio.engine.cli.app import app
from s3dlio.engine.cli.cleanup import parse_span
from tests.support.answers import Respond, s3_error
from tests.support.moto_server import MotoServer
from tests.support.processes import ScriptProcess
from tests.support.rclone_server import RcloneServer
from tests.support.s3_endpoint import S3Endpoint
from tests.support.scripted_server import Request, ScriptedServer

PointAt = Callable[[S3Endpoint | str], None]
WRITER = """
import sys
import s3dlio
from s3dlio.engine.stores.s3_upload import S3Upload

put_part = S3Upload.put_part

def put_and_tell(self, number, data, is_last):
    yield from put_part(self, number, data, is_last)
    print("PART", number, flush=True)
    if number == 1:
        sys.stdin.read()

S3Upload.put_part = put_and_tell
s3dlio.configure(multipart_above_bytes="5MiB", put_part_bytes="5MiB", jobs=1, fast_lane=sys.argv[2] == "fast")
s3dlio.put_bytes(sys.argv[1], bytes(20 << 20))
print("DONE", flush=True)
"""


def cleanup(*args: str) -> Any:
    """Returns what typer's test runner says of `s3dlio cleanup`: exit_code, stdout, stderr."""
    return CliRunner().invoke(app, ["cleanup", *args])


@pytest.fixture(params=["fast", "sdk"])
def lane(request: pytest.FixtureRequest, clean_aws_env: None) -> str:
    s3dlio.configure(fast_lane=request.param == "fast")
    name: str = request.param
    return name


@pytest.fixture
def moto(lane: str, moto_s3: MotoServer, s3_env: PointAt) -> Iterator[S3Endpoint]:
    s3_env(moto_s3.endpoint)
    yield moto_s3.endpoint
    s3dlio.shutdown()


def left_in(endpoint: S3Endpoint, bucket: str) -> list[str]:
    return [upload["Key"] for upload in endpoint.client().list_multipart_uploads(Bucket=bucket).get("Uploads", [])]


def test_u2_what_a_killed_writer_leaves_is_invisible_and_is_found_and_aborted(moto: S3Endpoint, lane: str) -> None:
    bucket, client = moto.new_bucket(), moto.client()
    other = client.create_multipart_upload(Bucket=bucket, Key="elsewhere/object")
    writer = ScriptProcess(WRITER, [f"s3://{bucket}/run/big object", lane])
    try:
        while writer.expect("PART") != ["1"]:
            pass
        writer.process.kill()
        writer.popen.wait()
    finally:
        writer.close()
    with pytest.raises(ClientError, match="404"):
        client.head_object(Bucket=bucket, Key="run/big object")
    (upload,) = client.list_multipart_uploads(Bucket=bucket, Prefix="run/")["Uploads"]
    parts = client.list_parts(Bucket=bucket, Key="run/big object", UploadId=upload["UploadId"])["Parts"]
    assert [part["Size"] for part in parts] == [5 << 20] * 2

    looked = cleanup(f"s3://{bucket}/run/")
    assert looked.exit_code == 0
    (line,) = looked.stdout.splitlines()
    assert line.startswith("left")
    assert line.endswith(f"s3://{bucket}/run/big object  {upload['UploadId']}")
    assert "1 unfinished upload older than 1d; --yes aborts it" in looked.stderr
    assert left_in(moto, bucket) == ["elsewhere/object", "run/big object"]

    cleaned = cleanup(f"s3://{bucket}/run/", "--yes", "--json")
    assert cleaned.exit_code == 0
    facts = json.loads(cleaned.stdout)
    assert (facts["uri"], facts["upload_id"], facts["outcome"]) == (f"s3://{bucket}/run/big object", upload["UploadId"], "aborted")
    assert left_in(moto, bucket) == ["elsewhere/object"]
    assert cleanup(f"s3://{bucket}/run/", "--yes").stdout == ""
    client.abort_multipart_upload(Bucket=bucket, Key="elsewhere/object", UploadId=other["UploadId"])


def test_u2_what_is_younger_is_left_alone(lane: str, rclone_s3: RcloneServer, s3_env: PointAt) -> None:
    s3_env(rclone_s3.endpoint)
    bucket, client = rclone_s3.endpoint.new_bucket(), rclone_s3.endpoint.client()
    client.create_multipart_upload(Bucket=bucket, Key="under way")
    for args in ([], ["--older-than", "2h", "--yes"]):
        found = cleanup(f"s3://{bucket}/", *args)
        assert (found.exit_code, found.stdout) == (0, "")
    assert left_in(rclone_s3.endpoint, bucket) == ["under way"]
    assert cleanup(f"s3://{bucket}/", "--older-than", "0s", "--yes").stdout.startswith("aborted")
    assert left_in(rclone_s3.endpoint, bucket) == []
    s3dlio.shutdown()


def listed(*keys: str) -> Respond:
    uploads = "".join(
        f"<Upload><Key>{key}</Key><UploadId>id-{key}</UploadId><Initiated>2026-01-31T12:00:00.000Z</Initiated></Upload>" for key in keys
    )
    return Respond(200, {}, f"<ListMultipartUploadsResult>{uploads}</ListMultipartUploadsResult>".encode())


@pytest.fixture
def said(lane: str, scripted_server: ScriptedServer, s3_env: PointAt) -> Iterator[ScriptedServer]:
    s3_env(scripted_server.url)
    yield scripted_server
    s3dlio.shutdown()


def test_u3_an_upload_that_comes_back_by_a_late_part_is_aborted_again(said: ScriptedServer) -> None:
    parts = Respond(200, {}, b"<ListPartsResult><Part><PartNumber>1</PartNumber></Part></ListPartsResult>")
    said.then(listed("a"), Respond(204), parts, Respond(204), s3_error(404, "NoSuchUpload"))
    assert cleanup("s3://bucket/", "--yes").exit_code == 0
    assert [request.method for request in said.requests] == ["GET", "DELETE", "GET", "DELETE", "GET"]


def test_an_upload_that_ended_meanwhile_is_no_error_and_a_refused_abort_is(said: ScriptedServer) -> None:
    def answer(request: Request) -> Respond:
        if "uploads" in request.query:
            return listed("ended", "kept", "gone")
        return s3_error(403, "AccessDenied") if "kept" in request.path else s3_error(404, "NoSuchUpload")

    said.script = answer
    found = cleanup("s3://bucket/", "--yes")
    assert found.exit_code == 1
    assert sorted(line.split()[0] for line in found.stdout.splitlines()) == ["aborted", "aborted", "failed"]
    assert "AccessDenied" in found.stderr
    assert "2 aborted, 1 failed" in found.stderr


def test_k4_what_a_key_holds_is_escaped(said: ScriptedServer) -> None:
    said.then(listed("evil&#10;key"))
    assert "evil\\nkey" in cleanup("s3://bucket/").stdout


def test_u2_names_that_killed_writers_of_files_left_are_found_and_removed(tmp_path: Path) -> None:
    folder, outside = tmp_path / "data", tmp_path / "outside"
    left = [folder / ".s3dlio-0123456789abcdef.part", folder / "sub" / ".s3dlio-fedcba9876543210.part"]
    others = [folder / "sub" / "kept", folder / "sub" / "x.part", outside / ".s3dlio-0123456789abcdef.part"]
    for path in (*left, *others):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
        os.utime(path, (0, 0))
    (folder / "link").symlink_to(outside)
    young = folder / ".s3dlio-00000000000000ff.part"
    young.write_bytes(b"x")
    uri = f"file://{folder}"
    assert s3dlio.list(uri, recursive=True) == sorted(f"{uri}/sub/{name}" for name in ("kept", "x.part"))
    assert [line.split()[-1] for line in cleanup(uri).stdout.splitlines()] == [f"file://{path}" for path in left]
    assert cleanup(uri, "--yes").exit_code == 0
    assert [path.exists() for path in (*left, *others, young)] == [False] * 2 + [True] * 4
    assert cleanup(f"file://{tmp_path}/missing").exit_code == 0


def test_a_store_whose_writers_leave_nothing_says_so() -> None:
    found = cleanup("memory://bucket/")
    assert found.exit_code == 1
    assert "leave nothing" in found.stderr


def test_spans_of_time() -> None:
    assert [parse_span(text) for text in ("0s", "90", "30m", "12h", "1d", "2w", "1.5 d")] == [0, 90, 1800, 43200, 86400, 1209600, 129600]
    for text in ("", "d", "1y", "-1d", "1d2h", "soon"):
        assert cleanup("memory://bucket/", "--older-than", text).exit_code == 2

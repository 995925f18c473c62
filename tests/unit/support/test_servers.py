"""rclone, moto and Azurite really run, and the environment really points at them."""

from __future__ import annotations

from collections.abc import Callable

import boto3
import pytest
from azure.core.exceptions import HttpResponseError
from botocore.exceptions import ClientError

from tests.support.azurite import AzureEndpoint, AzuriteServer
from tests.support.moto_server import MotoServer
from tests.support.processes import ScriptProcess
from tests.support.rclone_server import RcloneServer
from tests.support.s3_endpoint import S3Endpoint, endpoint_env

Server = RcloneServer | MotoServer


@pytest.fixture(params=["rclone_s3", "moto_s3"])
def server(request: pytest.FixtureRequest) -> Server:
    found: Server = request.getfixturevalue(request.param)
    return found


def test_an_object_round_trips_through_a_real_server(server: Server) -> None:
    client, bucket = server.endpoint.client(), server.endpoint.new_bucket()
    client.put_object(Bucket=bucket, Key="folder/key", Body=b"payload")
    assert client.get_object(Bucket=bucket, Key="folder/key")["Body"].read() == b"payload"
    assert [entry["Key"] for entry in client.list_objects_v2(Bucket=bucket)["Contents"]] == ["folder/key"]


def test_buckets_of_two_tests_never_share_a_name(server: Server) -> None:
    assert server.endpoint.new_bucket() != server.endpoint.new_bucket()


def test_rclone_serves_the_files_of_its_folder(rclone_s3: RcloneServer) -> None:
    bucket = rclone_s3.endpoint.new_bucket()
    (rclone_s3.root / bucket / "key").write_bytes(b"from the disk")
    assert rclone_s3.endpoint.client().get_object(Bucket=bucket, Key="key")["Body"].read() == b"from the disk"


def test_rclone_refuses_a_wrong_key(rclone_s3: RcloneServer) -> None:
    stranger = S3Endpoint(rclone_s3.endpoint.url, secret_key="wrong")
    with pytest.raises(ClientError, match=r"SignatureDoesNotMatch|AccessDenied|403"):
        stranger.client().list_buckets()


def test_the_chain_of_botocore_finds_the_server_that_the_environment_names(
    moto_s3: MotoServer, s3_env: Callable[[S3Endpoint], None]
) -> None:
    bucket = moto_s3.endpoint.new_bucket()
    s3_env(moto_s3.endpoint)
    client = boto3.session.Session().client("s3")
    assert bucket in [entry["Name"] for entry in client.list_buckets()["Buckets"]]
    client.close()


def test_a_test_begins_without_credentials_and_without_settings() -> None:
    with ScriptProcess("import os; print('READY', *os.environ, flush=True)") as child:
        names = child.expect("READY")
    assert {name for name in names if name.startswith(("AWS_", "S3DLIO_"))} == {
        "AWS_CONFIG_FILE",
        "AWS_SHARED_CREDENTIALS_FILE",
        "AWS_EC2_METADATA_DISABLED",
    }
    assert boto3.session.Session().get_credentials() is None


def test_a_childs_environment_loses_the_developers_and_gains_the_servers_variables() -> None:
    env = {"AWS_PROFILE": "mine", "S3DLIO_JOBS": "1", "https_proxy": "x", "PATH": "/bin", "AWS_SESSION_TOKEN": "t"}
    endpoint_env(env, "http://127.0.0.1:9")
    assert (env["AWS_ENDPOINT_URL"], env["PATH"]) == ("http://127.0.0.1:9", "/bin")
    assert not {"AWS_PROFILE", "S3DLIO_JOBS", "https_proxy", "AWS_SESSION_TOKEN"} & env.keys()


def test_azurite_refuses_a_wrong_key_and_bytes_with_another_checksum(azurite: AzuriteServer) -> None:
    name = azurite.endpoint.new_container()
    blob = azurite.endpoint.container(name).get_blob_client("key")
    blob.upload_blob(b"payload")
    assert blob.download_blob().readall() == b"payload"
    with pytest.raises(HttpResponseError, match="Crc64Mismatch"):
        blob.upload_blob(b"payload", overwrite=True, headers={"x-ms-content-crc64": "AAAAAAAAAAA="})
    stranger = AzureEndpoint(azurite.endpoint.url, key="c3RyYW5nZXI=")
    with pytest.raises(HttpResponseError, match="AuthorizationFailure"):
        stranger.container(name).get_blob_client("key").download_blob()

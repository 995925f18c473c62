"""The guide's "Authentication": its snippets as printed, and its table of variables that name an endpoint."""

from __future__ import annotations

import pytest

import s3dlio
from tests.spec.ground import Ground
from tests.support.s3_endpoint import endpoint_env

S3 = """\
import os
os.environ['AWS_ACCESS_KEY_ID'] = 'your_key'
os.environ['AWS_SECRET_ACCESS_KEY'] = 'your_secret'
os.environ['AWS_REGION'] = 'us-east-1'
os.environ['AWS_ENDPOINT_URL'] = 'http://minio:9000'  # Optional: MinIO, Ceph, VAST
"""

AZURE = """\
import os
os.environ['AZURE_STORAGE_ACCOUNT'] = 'myaccount'
os.environ['AZURE_STORAGE_KEY'] = 'mykey'
# Optional custom endpoint:
os.environ['AZURE_STORAGE_ENDPOINT'] = 'http://127.0.0.1:10000'  # Azurite
"""

VARIABLES = {
    "s3": ["AWS_ENDPOINT_URL"],
    "az": ["AZURE_STORAGE_ENDPOINT", "AZURE_BLOB_ENDPOINT_URL"],
    "gs": ["GCS_ENDPOINT_URL", "STORAGE_EMULATOR_HOST"],
}
"""The guide's table: endpoint variable, and alternative."""


@pytest.mark.parametrize(("ground", "snippet"), [("s3", S3), ("az", AZURE)], indirect=["ground"])
def test_keys_in_the_environment(ground: Ground, snippet: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _forget_everything(monkeypatch, snippet)
    ground.run(snippet)
    _write_and_read(ground)


@pytest.mark.parametrize("ground", VARIABLES, indirect=True)
def test_endpoint_variables(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in VARIABLES[ground.scheme]:
        for other in VARIABLES[ground.scheme]:
            monkeypatch.delenv(other, raising=False)
        monkeypatch.setenv(variable, ground.names["url"])
        s3dlio.shutdown()
        _write_and_read(ground)


def _forget_everything(patch: pytest.MonkeyPatch, snippet: str) -> None:
    """Leaves no variable of a store; those that the snippet sets are taken back after the test."""
    for line in snippet.splitlines():
        if line.startswith("os.environ["):
            patch.setenv(line.split("'")[1], "taken back later")
    endpoint_env(patch, None)


def _write_and_read(ground: Ground) -> None:
    uri = ground.map("s3://bucket/key")
    s3dlio.put_bytes(uri, b"data")
    assert ground.objects() == {"key": b"data"}
    assert bytes(s3dlio.get(uri)) == b"data"
    s3dlio.delete(uri)

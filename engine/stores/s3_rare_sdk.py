"""What is rare on `s3://`, by botocore: other requests, and the meaning that `s3_rare.py` takes from their answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..fetch.sdk_lane import Call
from .base import Operation
from .s3_rare import Deletions, S3RareOperations
from .s3_rare_xml import UploadsPage, check_copied, parse_uploads
from .s3_sdk import DOCUMENT, S3SdkOperations

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client


class S3RareSdkOperations(S3SdkOperations, S3RareOperations):
    """All operations on one bucket, or on the account."""

    def _delete_batch(self, batch: Deletions) -> Operation[None]:
        def ask(client: S3Client) -> Any:
            wanted: Any = {"Objects": [{"Key": key} for key in batch.left], "Quiet": False}
            return client.delete_objects(**self.wire.setup.pays, Delete=wanted)

        yield self._looked_into("", ask, batch.take)

    def _copy(self, key: str, source_bucket: str, source_key: str) -> Operation[None]:
        setup = self.wire.setup
        given = dict(setup.reads)
        # The same key of the caller's opens both.
        given |= {f"CopySource{name}": given[name] for name in ("SSECustomerAlgorithm", "SSECustomerKey") if name in given}
        source: Any = {"Bucket": source_bucket, "Key": source_key}
        yield self._looked_into(
            key,
            lambda client: client.copy_object(**given, Key=key, CopySource=source),
            lambda document: check_copied(document, self.root + key),
        )

    def _create_bucket(self) -> Operation[None]:
        spec = self.wire.spec
        given: dict[str, Any] = {"Bucket": spec.sdk.bucket}
        if spec.region and spec.region not in ("us-east-1", "aws-global"):
            given["CreateBucketConfiguration"] = {"LocationConstraint": spec.region}
        yield self._call("", lambda client: client.create_bucket(**given))

    def _delete_bucket(self) -> Operation[None]:
        yield self._call("", lambda client: client.delete_bucket(Bucket=self.wire.spec.sdk.bucket))

    def _buckets_page(self, token: str | None) -> Operation[bytes]:
        given: dict[str, Any] = {} if token is None else {"ContinuationToken": token}
        return (yield from self._document("", lambda client: client.list_buckets(**given)))

    def _uploads_page(self, prefix: str, markers: tuple[str, str] | None) -> Operation[UploadsPage]:
        given = {**self.wire.setup.pays, "Prefix": prefix, "EncodingType": "url"}
        if markers is not None:
            given |= {"KeyMarker": markers[0], "UploadIdMarker": markers[1]}
        return parse_uploads((yield from self._document("", lambda client: client.list_multipart_uploads(**given))), self.root)

    def _abort_upload(self, key: str, upload_id: str) -> Operation[None]:
        given = {**self.wire.setup.pays, "Key": key, "UploadId": upload_id}
        yield self._call(key, lambda client: client.abort_multipart_upload(**given))

    def _document(self, key: str, ask: Callable[[S3Client], Any]) -> Operation[bytes]:
        done = yield self._call(key, ask)
        assert isinstance(done, Call)
        document: bytes = done.result[DOCUMENT]
        return document

    def _looked_into(self, key: str, ask: Callable[[S3Client], Any], take: Callable[[bytes], None]) -> Call:
        call = self._call(key, ask)
        call.check = lambda done: take(done.result[DOCUMENT])
        return call

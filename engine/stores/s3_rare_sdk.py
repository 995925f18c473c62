"""What is rare on `s3://`, by botocore: other requests, and the meaning that `s3_rare.py` takes from their answers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from ..fetch.sigv4 import Headers
from .base import Operation
from .s3_ops import refuse_error
from .s3_parts import Parts, sdk_parts
from .s3_rare import Deletions, S3RareOperations
from .s3_rare_xml import check_copied
from .s3_sdk import S3SdkOperations, sdk_arguments

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client


class S3RareSdkOperations(S3SdkOperations, S3RareOperations):
    """All operations on one bucket, or on the account."""

    def _delete_batch(self, batch: Deletions) -> Operation[None]:
        def ask(client: S3Client) -> Any:
            wanted: Any = {"Objects": [{"Key": key} for key in list(batch.left)], "Quiet": False}
            return client.delete_objects(**self.wire.setup.pays, Delete=wanted)

        yield self._looked_into("", ask, batch.take)

    def _copy(self, key: str, source_bucket: str, source_key: str) -> Operation[None]:
        given = self._given_copy(key, source_bucket, source_key)
        yield self._looked_into(key, lambda client: client.copy_object(**given), partial(check_copied, uri=self.root + key))

    def copy_part(
        self,
        key: str,
        upload_id: str,
        number: int,
        source: tuple[str, str],
        span: tuple[int, int],
        etag: str,
        take: Callable[[bytes], None],
    ) -> Operation[None]:
        """As `S3RareOperations.copy_part`."""
        given = self._given_copy(key, *source) | {
            "UploadId": upload_id,
            "PartNumber": number,
            "CopySourceRange": f"bytes={span[0]}-{span[1] - 1}",
            "CopySourceIfMatch": f'"{etag}"',
        }
        yield self._looked_into(key, lambda client: client.upload_part_copy(**given), take)

    def _given_copy(self, key: str, source_bucket: str, source_key: str) -> dict[str, Any]:
        given = {**self.wire.setup.reads, "Key": key, "CopySource": {"Bucket": source_bucket, "Key": source_key}}
        # The same key of the caller's opens both.
        return given | {f"CopySource{name}": given[name] for name in ("SSECustomerAlgorithm", "SSECustomerKey") if name in given}

    def _create_bucket(self) -> Operation[None]:
        spec = self.wire.spec
        given: dict[str, Any] = {"Bucket": spec.sdk.bucket}
        if spec.region and spec.region not in ("us-east-1", "aws-global"):
            given["CreateBucketConfiguration"] = {"LocationConstraint": spec.region}
        yield self._call("", lambda client: client.create_bucket(**given))

    def _delete_bucket(self) -> Operation[None]:
        bucket = self.wire.spec.sdk.bucket
        # botocore looks for errors under 200 itself, but not where there is nothing else to look for.
        yield self._looked_into("", lambda client: client.delete_bucket(Bucket=bucket), partial(refuse_error, uri=self.root))

    def _buckets_page(self, token: str | None, take: Callable[[bytes], None]) -> Operation[None]:
        given: dict[str, Any] = {} if token is None else {"ContinuationToken": token}
        yield self._looked_into("", lambda client: client.list_buckets(**given), take)

    def _uploads_page(self, prefix: str, markers: tuple[str, str] | None, take: Callable[[bytes], None]) -> Operation[None]:
        given = {**self.wire.setup.pays, "Prefix": prefix, "EncodingType": "url"}
        if markers is not None:
            given |= {"KeyMarker": markers[0], "UploadIdMarker": markers[1]}
        yield self._looked_into("", lambda client: client.list_multipart_uploads(**given), take)

    def begin_parts(self, key: str, headers: Headers, take: Callable[[bytes], None]) -> Operation[None]:
        """As `S3RareOperations.begin_parts`."""
        given = {**self.wire.setup.reads, "Key": key, **sdk_arguments(headers)}
        yield self._looked_into(key, lambda client: client.create_multipart_upload(**given), take)

    def end_parts(self, key: str, upload_id: str, parts: Parts, headers: Headers, take: Callable[[bytes], None]) -> Operation[None]:
        """As `S3RareOperations.end_parts`."""
        given = {**self.wire.setup.pays, "Key": key, "UploadId": upload_id, **sdk_arguments(headers)}
        wanted: Any = {"Parts": sdk_parts(parts)}
        yield self._looked_into(key, lambda client: client.complete_multipart_upload(**given, MultipartUpload=wanted), take)

    def find_parts(self, key: str, upload_id: str) -> Operation[None]:
        """As `S3RareOperations.find_parts`."""
        given = {**self.wire.setup.reads, "Key": key, "UploadId": upload_id, "MaxParts": 1}
        yield self._call(key, lambda client: client.list_parts(**given))

    def _abort_upload(self, key: str, upload_id: str) -> Operation[None]:
        given = {**self.wire.setup.pays, "Key": key, "UploadId": upload_id}
        yield self._call(key, lambda client: client.abort_multipart_upload(**given))

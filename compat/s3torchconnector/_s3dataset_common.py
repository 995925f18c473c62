"""What data sets, checkpoints and file systems have in common: from URIs to objects. Nothing here sends a request by itself.

A bucket of S3 is its plain name, as upstream has it. Of another store it is the text that all its URIs begin with, without the last
slash: `gs://bucket`, `az://account/container`, `memory://bucket`, `file://`. The client knows both.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

from s3dlio.engine.uri import FILE_SCHEMES, OBJECT_SCHEMES

from ._s3_bucket_iterable import S3BucketIterable
from ._s3bucket_key_data import S3BucketKeyData

if TYPE_CHECKING:
    from ._s3client import S3Client

_NO_BUCKET: Final = "Bucket name must be non-empty"


def identity(obj: Any) -> Any:
    """Returns `obj`: what a data set does with a reader that nobody wants changed."""
    return obj


def parse_s3_uri(uri: str) -> tuple[str, str]:
    """Splits `s3://bucket/key` into bucket and key; the key, or prefix, is raw text, and "" where there is none.

    Raises:
        ValueError: It has no scheme, an unknown one, or no bucket.
    """
    scheme, _, rest = uri.partition("://") if uri else ("", "", "")
    if scheme == "s3":
        bucket, _, key = rest.partition("/")
    elif scheme in FILE_SCHEMES:
        bucket, key = rest and f"{scheme}://", rest
    elif scheme in OBJECT_SCHEMES:
        first, _, key = rest.partition("/")
        bucket = first and f"{scheme}://{first}"
        if scheme == "az" and bucket:
            container, _, key = key.partition("/")
            bucket = container and f"{bucket}/{container}"
    else:
        raise ValueError("Only s3:// URIs are supported")
    if not bucket:
        raise ValueError(_NO_BUCKET)
    return bucket, key


def get_objects_from_uris(
    object_uris: str | Iterable[str],
    client: S3Client,  # noqa: ARG001 (whatever names the objects of a data set is given its client)
) -> Iterator[S3BucketKeyData]:
    """Returns the objects of these URIs, in their order; nothing is asked of the store.

    Raises:
        ValueError: As `parse_s3_uri`, before the first object is given.
    """
    uris = [object_uris] if isinstance(object_uris, str) else object_uris
    return iter([S3BucketKeyData(*parse_s3_uri(uri)) for uri in uris])


def get_objects_from_prefix(s3_uri: str, client: S3Client) -> Iterator[S3BucketKeyData]:
    """Returns all objects whose URIs begin with `s3_uri`, listed as they are asked for.

    Raises:
        ValueError: As `parse_s3_uri`.
    """
    return iter(S3BucketIterable(client, *parse_s3_uri(s3_uri)))

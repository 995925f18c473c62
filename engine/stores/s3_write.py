"""What writes to S3 have in common: the id by which a write knows its own object again, and who honours conditions. Pure.

A write whose answer was lost may meet its own object when it is made again. So a create-only object, and one that came in parts, bears the
id of the call that wrote it among its metadata (`s3dlio-write-id`): a HEAD says whose it is.
"""

from __future__ import annotations

import secrets
from typing import Final

from ..errors import AlreadyExistsError
from .s3_spec import S3Spec

MAX_PUT_BYTES: Final = 5 << 30
"""What one PUT, or one part, takes. Source: "Amazon S3 multipart upload limits"."""
WRITE_ID: Final = "x-amz-meta-s3dlio-write-id"
IF_NEW: Final = ("if-none-match", "*")
"""Source: "How to prevent object overwrites with conditional writes", Amazon S3 User Guide."""
_AWS: Final = (".amazonaws.com", ".amazonaws.com.cn")


def new_write_id() -> str:
    """Returns the id of one call; all of its attempts have the same."""
    return secrets.token_hex(16)


def knows_conditions(spec: S3Spec) -> bool:
    """Whether the server is known to refuse a create-only write itself. Others may ignore the condition, as rclone does."""
    return spec.host.endswith(_AWS)


def exists_already(uri: str) -> AlreadyExistsError:
    """Returns the error of a create-only write that met an object."""
    return AlreadyExistsError("there is such an object already", uri=uri)

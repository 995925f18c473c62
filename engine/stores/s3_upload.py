"""An object that is written to S3 in parts. Owns what is known of the parts, and what the end of an upload means.

Rules:

* An answer may be lost. Whoever ends an upload twice is told that there is no such upload; whose object stands there then, the id says
  that it bears (`s3_write.py`).
* The store is told the size and the checksum of the whole, and asked for both once the object is there: a store that lost a part, or put
  parts together wrongly, is found out before anybody reads.
* An upload that was aborted may come back by a part that was on its way: it is looked for, and aborted again (case U3).
* An upload that nobody ended or aborted, as after SIGKILL, is invisible, and costs money. S3 lists neither its metadata nor its tags, so
  nothing tells it from those of others but its key and its age: `s3dlio cleanup` goes by these.

Source: "Uploading and copying objects using multipart upload", Amazon S3 User Guide.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ..errors import (
    ChecksumMismatchError,
    NotFoundError,
    ObjectChangedError,
    PermissionDeniedError,
    ProtocolError,
    S3dlioError,
    TruncatedBodyError,
)
from ..fetch.checksums import decode, raise_mismatch, sum_function
from ..fetch.http1 import ResponseHead
from ..fetch.request import Fetch
from ..fetch.sigv4 import Headers
from .base import Operation
from .s3_parts import Part, Parts, parse_begun, parse_ended
from .s3_sums import encode_sum
from .s3_write import IF_NEW, WRITE_ID, exists_already, new_write_id

if TYPE_CHECKING:
    from .s3_rare import S3RareOperations

_MAX_ABORTS: Final = 5
"""Every one but the first is for parts that arrived after the one before."""


def begin_upload(lane: S3RareOperations, key: str, create_only: bool, headers: Headers = ()) -> Operation[S3Upload]:
    """As `Store.begin_upload`; `headers` say more of the object.

    Raises:
        AlreadyExistsError: There is an object already that can be seen, and it was to be new; `complete` finds those that come later.
    """
    if create_only:
        yield from lane.refuse_existing(key)
    write_id = new_write_id()
    begun: list[str] = []
    while True:
        algorithm = lane.sums.algorithm
        try:
            yield from lane.begin_parts(
                key,
                ((WRITE_ID, write_id), *_kind_of_sum(algorithm), *headers),
                lambda document: begun.append(parse_begun(document, lane.root + key)),
            )
        except S3dlioError as error:
            if not lane.sums.give_way(algorithm, error):
                raise
        else:
            return S3Upload(lane, key, begun[-1], write_id, create_only, algorithm)


def _kind_of_sum(algorithm: str | None) -> Headers:
    if algorithm is None:
        return ()
    kind: Headers = (("x-amz-checksum-type", "FULL_OBJECT"),) if algorithm == "crc64nvme" else ()
    return (("x-amz-checksum-algorithm", algorithm.upper()), *kind)


class S3Upload:
    """As `Upload`. Its parts may come in any order, many at once."""

    min_part_bytes = 5 << 20
    max_parts = 10_000
    is_sequential = False

    def __init__(
        self, lane: S3RareOperations, key: str, upload_id: str, write_id: str, create_only: bool, algorithm: str | None
    ) -> None:
        self._lane = lane
        self._key = key
        self._uri = lane.root + key
        self.upload_id = upload_id
        """As the store names it."""
        self._write_id = write_id
        self._create_only = create_only
        self._algorithm = algorithm
        self._parts: dict[int, Part] = {}

    def put_part(self, number: int, data: memoryview, is_last: bool) -> Operation[None]:
        """As `Upload.put_part`."""
        del is_last  # S3 learns that from `complete`
        algorithm = self._algorithm
        value = 0
        sums: Headers = ()
        if algorithm is not None:
            value = sum_function(algorithm)(data, 0)
            sums = ((f"x-amz-checksum-{algorithm}", encode_sum(algorithm, value)),)
        params = (("partNumber", str(number + 1)), ("uploadId", self.upload_id))
        request = self._lane.writing(self._key, data, sums, params)

        def take(done: Fetch) -> None:
            self._parts[number] = self._read_part(self._lane.answer(done), number, len(data), value)

        request.check = take
        yield request

    def _read_part(self, head: ResponseHead, number: int, size: int, value: int) -> Part:
        etag = head.get(b"etag")
        if not etag:
            raise ProtocolError("the answer to a part has no ETag", uri=self._uri, status=head.status)
        theirs = head.checksum
        if theirs is not None and theirs.algorithm == self._algorithm and theirs.value != value:
            raise_mismatch(theirs, value)
        return Part(number + 1, etag, size, value)

    def complete(self) -> Operation[None]:
        """As `Upload.complete`.

        Raises:
            AlreadyExistsError: There is an object, and it was to be new.
            ChecksumMismatchError, TruncatedBodyError: The object that the store made is not what was sent. It is there all the same.
        """
        whole = Parts([self._parts[number] for number in sorted(self._parts)], self._algorithm)
        if [part.number for part in whole.parts] != [*range(1, len(whole.parts) + 1)] or not whole.parts:
            raise ProtocolError(f"an upload is to be ended of which parts are missing: there are {len(whole.parts)}", uri=self._uri)
        value = whole.whole_sum()
        headers: Headers = (("x-amz-mp-object-size", str(whole.size)),)
        if value is not None:
            headers += (("x-amz-checksum-crc64nvme", encode_sum("crc64nvme", value)), ("x-amz-checksum-type", "FULL_OBJECT"))
        if self._create_only:
            headers += (IF_NEW,)
            yield from self._lane.refuse_existing(self._key, self._write_id)
        etags: list[str] = []
        try:
            yield from self._lane.end_parts(
                self._key, self.upload_id, whole, headers, lambda document: etags.append(parse_ended(document, self._uri))
            )
        except S3dlioError as error:
            yield from self._settle(error)
        yield from self._verify(whole.size, value, etags[-1] if etags else None)

    def _settle(self, error: S3dlioError) -> Operation[None]:
        """Finds out whether an end that seems to have failed has come about all the same (case U4).

        Raises:
            S3dlioError: It has not: `error`, or what it means.
        """
        may_have_ended = error.retryable or isinstance(error, ObjectChangedError | NotFoundError)
        if may_have_ended and (yield from self._lane.has_written(self._key, self._write_id, error)):
            return
        if self._create_only and isinstance(error, ObjectChangedError):
            raise exists_already(self._uri) from None
        raise error

    def _verify(self, size: int, value: int | None, etag: str | None) -> Operation[None]:
        """Holds the object against what was sent.

        An identity that may not read is told nothing, and the store has compared both itself; so it is if somebody else's object is there
        by now.
        """
        try:
            head = yield from self._lane.head(self._key, with_checksum=True)
        except PermissionDeniedError:
            return
        if head.get(WRITE_ID.encode()) != self._write_id and head.etag != etag:
            return
        if head.length != size:
            raise TruncatedBodyError(f"the store made an object of {head.length} bytes from {size}", uri=self._uri)
        text = head.get(b"x-amz-checksum-crc64nvme")
        theirs = None if text is None else decode("crc64nvme", text.encode("latin-1"))
        if value is not None and theirs is not None and theirs != value:
            raise ChecksumMismatchError(
                f"the store made an object with the CRC64NVME {theirs:016x}, the bytes that were sent have {value:016x}", uri=self._uri
            )

    def abort(self) -> Operation[None]:
        """As `Upload.abort`.

        Raises:
            ProtocolError: The store goes on showing the upload.
        """
        return abort_wholly(self._lane, self._key, self.upload_id)


def abort_wholly(lane: S3RareOperations, key: str, upload_id: str) -> Operation[None]:
    """Throws the parts of an upload away, until there are none; one that has ended is no error.

    Raises:
        ProtocolError: The store goes on showing the upload.
    """
    for _ in range(_MAX_ABORTS):
        yield from lane.abort_upload(key, upload_id)
        try:
            yield from lane.find_parts(key, upload_id)
        except (NotFoundError, PermissionDeniedError):
            # Whoever may only write is not told; that the upload is aborted, the store has said.
            return
    raise ProtocolError(f"the store keeps the parts of an upload that was aborted {_MAX_ABORTS} times", uri=lane.root + key)

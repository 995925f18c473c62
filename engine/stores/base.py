"""The contract of a store, in one file.

A store has two halves. Its *wire* is what the fetch loop needs (bytes of requests, meaning of answers, or a local read) and can be made
anew in a worker from `spec`. The rest are the operations below: small, rare, run in the calling process.

No operation does I/O over the network itself, and no store owns a connection: an operation is a generator that yields requests and is
sent each of them back when it is done. So one text serves callers who wait (`run`, `run_pages`) and callers who await (`arun`,
`arun_pages`). Every error is one of `engine/errors.py`; that of a request is thrown into the operation which yielded it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator, Sequence
from contextlib import suppress
from functools import wraps
from typing import Any, Generic, NamedTuple, ParamSpec, Protocol, TypeVar

from ..errors import InvalidRangeError, S3dlioError
from ..fetch.checksums import Checksum
from ..fetch.request import Fetch
from ..types import ListEntry, ObjectInfo

T = TypeVar("T")
P = ParamSpec("P")

Operation = Generator[Fetch, Fetch, T]
"""Yields requests, is sent each when it is done, and returns its result."""
Listing = Generator[Fetch | list[ListEntry], Fetch | None, None]
"""Yields requests and pages as they come; after a page it is sent None."""
Runner = Callable[[Fetch], Fetch]
"""Drives one request to its end and returns it, or raises its error."""
AsyncRunner = Callable[[Fetch], Awaitable[Fetch]]
"""As `Runner`, for callers who await."""


class Store(Protocol):
    """One bucket, or the file system, opened."""

    root: str
    """What every URI of this store begins with: `s3://bucket/`, `file://`."""
    wire: Any
    """A `Wire` or a `LocalWire`."""

    @property
    def spec(self) -> Any:
        """What `open_wire` makes the same wire of in a worker; None where only this process can read (`memory://`)."""
        ...

    def renew(self) -> bool:
        """Has credentials fetched anew that will expire soon; `spec` and `wire` hold them then. Costs nothing where none are due.

        Returns:
            Whether others are on their way.
        """
        ...

    def expire(self) -> None:
        """Told that the credentials are refused as expired, by a worker: others are asked for, once for all who say so."""
        ...

    def stat(self, key: str) -> Operation[ObjectInfo]:
        """Returns what a HEAD says.

        Raises:
            NotFoundError: No such object; a prefix is none.
        """
        ...

    def find_sum(self, key: str) -> Operation[tuple[str | None, Checksum] | None]:
        """Returns the version that is there now, and the checksum that the store has of it as a whole; None where it has none.

        Raises:
            NotFoundError: As `stat`.
        """
        ...

    def list_pages(self, prefix: str, recursive: bool) -> Listing:
        """Yields pages of the listing below `prefix`, in the store's order; child prefixes too where not `recursive`.

        On object stores `prefix` is a raw text prefix; on file systems a directory (a file lists itself, a missing one nothing).
        """
        ...

    def put(self, key: str, data: memoryview, create_only: bool = False) -> Operation[None]:
        """Writes a whole object by one request; it is visible complete or not at all. `data` is sent from where it is, and never changed.

        Raises:
            AlreadyExistsError: There is one, and `create_only` was asked for. The outcome is the same however often an answer was lost.
        """
        ...

    max_put_bytes: int
    """The longest object that `put` may be given; what is longer goes by `begin_upload`."""

    def begin_upload(self, key: str, create_only: bool = False) -> Operation[Upload]:
        """Begins an object that comes in parts, of which nothing is visible before `Upload.complete`."""
        ...

    def delete(self, key: str) -> Operation[None]:
        """Deletes an object; a missing one is no error."""
        ...

    max_delete_keys: int
    """How many keys `delete_many` takes at once."""

    def delete_many(self, keys: Sequence[str]) -> Operation[list[S3dlioError | None]]:
        """Deletes objects, by one request where the store has such a one; missing ones are no error.

        Returns:
            For each key, in order, the error that it was refused with, or None.

        Raises:
            S3dlioError: The request as a whole failed.
        """
        ...

    def copy(self, key: str, source: Store, source_key: str) -> Operation[bool]:
        """Copies an object of `source` here without its bytes coming by this process.

        Returns:
            Whether that was possible; False, and nothing done, where `source` is another kind of store, or the store has no such copy.

        Raises:
            NotFoundError: `source` has no such object.
        """
        ...

    def make_prefix(self, key: str) -> Operation[None]:
        """Makes the directory, or an empty marker object whose key ends in `/`. One that is there already is no error."""
        ...

    def create_bucket(self) -> Operation[None]:
        """Makes this bucket or container. One of ours that is there already is no error.

        Raises:
            AlreadyExistsError: It is somebody else's.
            UnsupportedError: File systems have none.
        """
        ...

    def delete_bucket(self) -> Operation[None]:
        """Deletes this bucket or container, which must be empty.

        Raises:
            NotFoundError: There is none.
            RequestRejectedError: It is not empty.
        """
        ...


class Upload(Protocol):
    """An object that is being written in parts. It belongs to the operation that began it; nothing of it is visible yet."""

    min_part_bytes: int
    """Every part but the last has at least so many bytes; and a multiple of them where `is_sequential`."""
    max_parts: int
    is_sequential: bool
    """Whether parts must come one after the other, each when the one before is done."""

    def put_part(self, number: int, data: memoryview, is_last: bool) -> Operation[None]:
        """Sends part `number`, counted from 0. Sending one again replaces it."""
        ...

    def complete(self) -> Operation[None]:
        """Makes the object of its parts, and makes sure that the store has as many bytes as were sent, of their checksum where it has one.

        Raises:
            AlreadyExistsError: As `Store.put`.
        """
        ...

    def abort(self) -> Operation[None]:
        """Throws away what was sent, as far as the store keeps any. To be called on every failure; it may be called twice."""
        ...


def check_local_range(size: int, start: int, end: int | None, uri: str) -> int:
    """Returns the end of [start, end) clipped to `size`, for stores that know the size before they read.

    Raises:
        InvalidRangeError: `start` is beyond the end of the object.
    """
    if start > size:
        raise InvalidRangeError(f"the range begins at {start}, the object has {size} bytes", uri=uri)
    return size if end is None else min(end, size)


def at_once(function: Callable[P, T]) -> Callable[P, Operation[T]]:
    """Makes an operation of a method that needs no request."""

    @wraps(function)
    def operation(*args: P.args, **kwargs: P.kwargs) -> Operation[T]:
        yield from ()
        return function(*args, **kwargs)

    return operation


@at_once
def no_sum(_store: Store, _key: str) -> None:
    """As `Store.find_sum`, of a store that has no checksums of whole objects."""


class Ended(NamedTuple, Generic[T]):
    """What an operation came to."""

    result: T | S3dlioError


def advance(operation: Operation[T], done: Fetch | S3dlioError | None) -> Fetch | Ended[T]:
    """Takes an operation to its next request, or to its end.

    Args:
        operation: As far as it has come.
        done: The request that it waits for, or that one's error; None begins.
    """
    try:
        if done is None:
            return next(operation)
        if isinstance(done, S3dlioError):
            return operation.throw(done)
        return operation.send(done)
    except StopIteration as end:
        return Ended(end.value)
    except S3dlioError as error:
        return Ended(error)


def run(operation: Operation[T], runner: Runner) -> T:
    """Drives an operation to its end, and returns its result.

    What interrupts it (Ctrl-C, a task that is cancelled) is thrown into it too, and what it then asks for is done: it throws away what it
    began.

    Raises:
        S3dlioError: As the operation says.
    """
    try:
        fetch = next(operation)
        while True:
            try:
                done = runner(fetch)
            except BaseException as error:  # noqa: BLE001 (comes back out of the operation, unless that has something to do first)
                fetch = operation.throw(error)
            else:
                fetch = operation.send(done)
    except StopIteration as end:
        result: T = end.value
        return result


class GivenUp(BaseException):
    """In place of a GeneratorExit, by which an operation is told that not even what it asks for now is done any more."""


def give_up(operation: Generator[Any, Any, Any], why: BaseException, runner: Callable[[Any], Any]) -> None:
    """Tells an operation under way that nobody waits for it any more, and does what it then asks for: it throws away what it began.

    The caller has its own error to raise: those of this are left out.
    """
    told = GivenUp() if isinstance(why, GeneratorExit) else why
    try:
        step = operation.throw(told)
    except BaseException:  # noqa: BLE001 (the caller raises it)
        return
    finish(operation, step, told, runner)


def finish(operation: Generator[Any, Any, Any], step: Any, why: BaseException, runner: Callable[[Any], Any]) -> None:
    """Does what an operation asks for, `step` first, for a caller who is leaving because of `why`; errors are left out."""
    with suppress(S3dlioError, StopIteration, type(why)):
        while True:
            try:
                done = runner(step)
            except S3dlioError as error:
                step = operation.throw(error)
            else:
                step = operation.send(done)


def run_pages(listing: Listing, runner: Runner) -> Iterator[list[ListEntry]]:
    """Drives a listing, as far as its pages are asked for.

    Raises:
        S3dlioError: As the listing says.
    """
    try:
        step = next(listing)
        while True:
            if isinstance(step, Fetch):
                try:
                    done = runner(step)
                except S3dlioError as error:
                    step = listing.throw(error)
                else:
                    step = listing.send(done)
            else:
                yield step
                step = listing.send(None)
    except StopIteration:
        return


async def arun(
    operation: Operation[T], runner: AsyncRunner, in_thread: Callable[..., Awaitable[Fetch]] | None = None
) -> T:
    """As `run`, for callers who await.

    Args:
        operation: One that yields a request at least.
        runner: Drives the requests.
        in_thread: Calls a function elsewhere; it is given the first step, where that takes long.

    Raises:
        S3dlioError: As the operation says.
    """
    try:
        fetch = next(operation) if in_thread is None else await in_thread(next, operation)
        while True:
            try:
                done = await runner(fetch)
            except BaseException as error:  # noqa: BLE001 (comes back out of the operation, unless that has something to do first)
                fetch = operation.throw(error)
            else:
                fetch = operation.send(done)
    except StopIteration as end:
        result: T = end.value
        return result


async def arun_pages(listing: Listing, runner: AsyncRunner) -> AsyncIterator[list[ListEntry]]:
    """As `run_pages`, for callers who await.

    Raises:
        S3dlioError: As the listing says.
    """
    try:
        step = next(listing)
        while True:
            if isinstance(step, Fetch):
                try:
                    done = await runner(step)
                except S3dlioError as error:
                    step = listing.throw(error)
                else:
                    step = listing.send(done)
            else:
                yield step
                step = listing.send(None)
    except StopIteration:
        return

"""What writers that were killed have left: the parts of uploads that nobody will end, and files under names of their own (case U2).

No listing shows them, and they take room, which stores are paid for. Nothing tells one from a write that is under way, or from somebody
else's, but its key and its age. So a caller says how old one must be, and is shown each before anything is aborted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any, Final

from ..errors import S3dlioError, UnsupportedError
from ..pool.inline import inline_fetcher
from ..stores.base import run
from ..stores.registry import locate
from ..types import PendingUpload

_JOBS: Final = 16
_WHY_NOT: Final = {
    "gs": "Google's uploads in parts vanish by themselves after a week, and are not listed",
    "az": "blocks of Azure's that nobody commits vanish by themselves after a week",
}
_NOTHING_LEFT: Final = "its writers leave nothing behind that would have to be aborted"


def find_left(uri: str, older_than_s: float) -> list[PendingUpload]:
    """Returns the uploads that were begun so long ago, and not ended; the oldest first.

    Args:
        uri: A raw text prefix of S3, or a directory.
        older_than_s: By the clock of this machine, which a store allows to differ from its own by 15 minutes.

    Raises:
        UnsupportedError: The store has no such uploads, or does not list them.
        NotFoundError, PermissionDeniedError, S3dlioError: As the store says.
    """
    store, prefix = _store_of(uri)
    now_s = datetime.now(UTC).timestamp()
    found = run(store.list_uploads(prefix), inline_fetcher().run)
    left = [upload for upload in found if now_s - begun_s(upload) >= older_than_s]
    return sorted(left, key=lambda upload: (upload.begun, upload.uri))


def abort_left(uri: str, uploads: Iterable[PendingUpload]) -> Iterator[tuple[PendingUpload, S3dlioError | None]]:
    """Throws away what there is of uploads that `find_left` has found, and yields each with its error, or None, as they end.

    Whoever is writing one of them meanwhile fails; one that was completed meanwhile is an object, and stays.
    """
    store, _ = _store_of(uri)
    todo = ((upload, store.abort_upload(upload)) for upload in uploads)
    for upload, result in inline_fetcher().run_many(todo, _JOBS):
        yield upload, result if isinstance(result, S3dlioError) else None


def begun_s(upload: PendingUpload) -> float:
    """Returns when an upload was begun, in seconds since 1970."""
    return datetime.fromisoformat(upload.begun).timestamp()


def _store_of(uri: str) -> tuple[Any, str]:
    store, prefix = locate(uri)
    if not hasattr(store, "list_uploads"):
        scheme = uri.partition("://")[0]
        raise UnsupportedError(f"there is nothing to clean up on {scheme}://: {_WHY_NOT.get(scheme, _NOTHING_LEFT)}", uri=uri)
    return store, prefix

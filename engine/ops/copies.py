"""`copy` and `rename`: by the store itself where it can, else through this process in bounded memory.

Nothing is ever lost: an object is not copied onto itself by whatever names, and a rename deletes the source only when the copy is there
with all of its bytes and the source is still the version that was copied.
"""

from __future__ import annotations

from typing import Final

from ..errors import ConfigurationError, ObjectChangedError
from ..fetch.request import Fetch
from ..pool.into import into_fetch
from ..stores.base import Operation
from ..stores.registry import is_file_scheme
from ..types import ObjectInfo
from .objects import check_key
from .perform import Place, perform
from .trees import is_same_file, move_file
from .uploads import is_in_parts, part_size, put_whole, throw_away

_MAX_WHOLE_BYTES: Final = 16 << 20
"""What is longer comes and goes in parts."""


def copy(src: str, dst: str) -> None:
    """Copies an object, replacing what is at `dst`, which is seen whole or not at all.

    The store copies by itself where both are of one kind and it can. Otherwise the bytes come through this process, a part of them at a
    time, pinned to one version; then type and metadata of the object are those that the target gives to any new one.

    Raises:
        ConfigurationError: They are one and the same, or one of them is a bucket.
        NotFoundError: There is no object at `src`; a directory or prefix is none.
        ObjectChangedError: The source was overwritten meanwhile; `dst` is as it was.
        PermissionDeniedError, S3dlioError: As the stores say.
    """
    perform(copy_one, src, dst)


def rename(src: str, dst: str) -> None:
    """Gives an object another URI, replacing what is at `dst`.

    Within one file system it is one step. Otherwise it is a copy, as by `copy`, that is looked at, and a deletion of the source; whatever
    goes wrong in between, the source is there, and perhaps the copy too.

    Raises:
        ConfigurationError, NotFoundError, PermissionDeniedError, S3dlioError: As `copy`.
        ObjectChangedError: The source was overwritten meanwhile; it is still there.
    """
    perform(move_one, src, dst)


def copy_one(source: Place, target: Place) -> Operation[None]:
    """The operation of `copy`."""
    _check_ends(source, target)
    if not (yield from target.store.copy(target.key, source.store, source.key)):
        yield from _carry(source, target, (yield from source.store.stat(source.key)))


def move_one(source: Place, target: Place) -> Operation[None]:
    """The operation of `rename`."""
    _check_ends(source, target)
    if is_file_scheme(source.uri) and is_file_scheme(target.uri) and move_file(source.store.root, source.key, target.key):
        return
    found = yield from source.store.stat(source.key)
    if not (yield from target.store.copy(target.key, source.store, source.key)):
        yield from _carry(source, target, found)
    num = (yield from target.store.stat(target.key)).size
    if num != found.size:
        raise ObjectChangedError(f"the copy has {num} bytes, and {found.size} were copied; the source is still there", uri=target.uri)
    now = yield from source.store.stat(source.key)
    if (now.version, now.size) != (found.version, found.size):
        raise ObjectChangedError("the object was overwritten while it was copied; it is still there", uri=source.uri)
    yield from source.store.delete(source.key)


def _check_ends(source: Place, target: Place) -> None:
    check_key(source.uri, source.key)
    check_key(target.uri, target.key)
    is_same = (source.store.root, source.key) == (target.store.root, target.key)
    if is_same or (is_file_scheme(source.uri) and is_file_scheme(target.uri) and is_same_file(source.key, target.key)):
        raise ConfigurationError(f"source and target are one and the same: {target.uri}", uri=source.uri)


def _carry(source: Place, target: Place, found: ObjectInfo) -> Operation[None]:
    """Copies through this process, exactly the version that `found` names."""
    if found.size <= _MAX_WHOLE_BYTES and not is_in_parts(target.store, found.size):
        room = memoryview(bytearray(found.size))
        yield _read(source, found, room, 0, None)
        yield from put_whole(target.store, target.key, room)
        return
    upload = yield from target.store.begin_upload(target.key)
    try:
        room = memoryview(bytearray(part_size(found.size, upload)))
        for number, start in enumerate(range(0, found.size, len(room))):
            end = min(start + len(room), found.size)
            part = room[: end - start]
            yield _read(source, found, part, start, end)
            yield from upload.put_part(number, part, end == found.size)
        yield from upload.complete()
    except BaseException:
        yield from throw_away(upload, target.uri)
        raise


def _read(source: Place, found: ObjectInfo, out: memoryview, start: int, end: int | None) -> Fetch:
    return into_fetch(
        source.uri, source.store.wire, source.key, out, start=start, end=end, size=found.size, version=found.version
    )

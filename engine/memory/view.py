"""Views of slots: numpy arrays that keep their slot until the last thing derived from them is gone.

Owns `Lease` and `BytesView`. It knows nothing of who grants or frees; a lease that ends only says so.

A view is an array over a `memoryview` of the whole mapping, and the lease is a weak reference to the view. Why that is enough: numpy
collapses a chain of `.base` only as long as the bases have the type of the new array, and a memoryview has the type of none. So every
array, memoryview, tensor, DLPack capsule and JAX array that is made from a view holds the view itself, and so does a 0-dim tensor cut
out of it: one kept number keeps a whole slot. (All tried, with numpy, torch, JAX and TensorFlow.) Were the base an array over the
mapping, `np.frombuffer(view)`, `np.asarray(view)` and `torch.from_numpy` would hold that array and lose the view, and would silently
read the next object once the slot is granted again.

A view is writable, since its slot is the consumer's alone, and since torch warns about read-only memory. After a fork, parent and
child see the same memory: a child should copy what it wants to change.
"""

from __future__ import annotations

import builtins
import numbers
import re
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Final, SupportsIndex, TypeAlias
from weakref import ref

import numpy as np

from .segment import huge_pages
from .slots import Slot

BytesLike: TypeAlias = bytes | bytearray | memoryview

_UINT8 = np.dtype(np.uint8)


class Lease(ref["BytesView"]):
    """The right to read one grant of a slot. Whoever asked for it keeps it: a weak reference that is gone calls nobody.

    Its end may come anywhere, in any thread, also while the coordinator is changing the very structures that free a slot. So it only
    appends itself to a deque, which is atomic, and no line of Python runs for it; the coordinator empties the deque when it is ready.
    In a forked child the deque is the child's own copy, which nobody reads.
    """

    __slots__ = ("generation", "slot")

    slot: Slot
    generation: int
    """Of the slot, when it was granted."""


def lease_view(
    buffer: builtins.memoryview, slot: Slot, offset: int, nbytes: int, released: deque[Lease]
) -> tuple[BytesView, Lease]:
    """Returns a view of `[offset, offset + nbytes)` of a granted slot, and its lease, to be kept until it ends.

    When the last thing derived from the view is gone, the lease is appended to `released`. Views of several parts of one slot
    announce their ends one by one. An empty view holds its slot as any other.

    Args:
        buffer: The mapping that the slot is a piece of; the view keeps it, for memory without a mapping would be a SIGSEGV.
        slot: Granted; `offset + nbytes` is at most its `nbytes`.
        offset: Bytes from the beginning of the slot.
        nbytes: Length of the view; shape (nbytes,), uint8, contiguous, writable.
        released: Where the end of the lease is announced.
    """
    view = BytesView((nbytes,), _UINT8, buffer, slot.start + offset)
    lease = Lease(view, released.append)
    lease.slot = slot
    lease.generation = slot.generation
    return view, lease


def private_view(nbytes: int) -> BytesView:
    """Returns a view over memory of its own, which goes back to the system with the last thing that is derived from it.

    Raises:
        InsufficientMemoryError: There is not that much.
    """
    return BytesView((nbytes,), _UINT8, huge_pages(nbytes))


def owned_view(data: bytes | bytearray) -> BytesView:
    """Returns a view over private memory, as unpickling does.

    A bytearray is used as it is, and cannot change its size from then on; bytes are copied, since a view is writable.
    """
    return np.frombuffer(data if isinstance(data, bytearray) else bytearray(data), np.uint8).view(BytesView)


def _plainly(name: str) -> Callable[..., Any]:
    """Returns the method `name` of ndarray, as it works on an ordinary array."""

    def method(self: BytesView, *args: Any, **kwargs: Any) -> Any:
        return getattr(_plain(self), name)(*args, **kwargs)

    method.__name__ = name
    method.__doc__ = f"As `numpy.ndarray.{name}`; the result is an ordinary array."
    return method


def _of_copy(name: str) -> Callable[..., Any]:
    """Returns the method `name` of bytes, as it works on a copy."""

    def method(self: BytesView, *args: Any, **kwargs: Any) -> Any:
        return getattr(bytes(self), name)(*args, **kwargs)

    method.__name__ = name
    method.__doc__ = f"As `bytes.{name}`, of a copy."
    return method


def _compared_as(name: str) -> Callable[..., Any]:
    """Returns a comparison that goes by order with bytes-likes, and by elements with all else."""

    def method(self: BytesView, other: object) -> Any:
        if isinstance(other, _BYTES_LIKES):
            return getattr(bytes(self), name)(bytes(other))
        return getattr(_plain(self), name)(other)

    method.__name__ = name
    return method


class BytesView(np.ndarray[tuple[int], np.dtype[np.uint8]]):
    """A one-dimensional uint8 array with the manners of bytes where numpy's would hurt.

    It is true if it is not empty, an element is an `int`, a comparison with bytes, bytearray, memoryview or another view is one bool,
    `+` puts it together with one of these, and it has no hash. Slices are views that share the lease; the methods of bytes give what
    they give of a copy. Everything else that numpy derives is an ordinary array or number: other dtypes and shapes, results of
    arithmetic, and comparisons with an ordinary array, a list or a number, which go by elements as in numpy. It is pickled and copied
    by value, and its text never shows what is in it.
    """

    __slots__ = ()

    argpartition = _plainly("argpartition")
    argsort = _plainly("argsort")
    astype = _plainly("astype")
    choose = _plainly("choose")
    getfield = _plainly("getfield")
    nonzero = _plainly("nonzero")
    reshape = _plainly("reshape")
    searchsorted = _plainly("searchsorted")
    squeeze = _plainly("squeeze")
    take = _plainly("take")
    view = _plainly("view")

    capitalize = _of_copy("capitalize")
    center = _of_copy("center")
    count = _of_copy("count")
    expandtabs = _of_copy("expandtabs")
    index = _of_copy("index")
    isalnum = _of_copy("isalnum")
    isalpha = _of_copy("isalpha")
    isascii = _of_copy("isascii")
    isdigit = _of_copy("isdigit")
    islower = _of_copy("islower")
    isspace = _of_copy("isspace")
    istitle = _of_copy("istitle")
    isupper = _of_copy("isupper")
    join = _of_copy("join")
    ljust = _of_copy("ljust")
    lower = _of_copy("lower")
    lstrip = _of_copy("lstrip")
    removeprefix = _of_copy("removeprefix")
    removesuffix = _of_copy("removesuffix")
    replace = _of_copy("replace")
    rfind = _of_copy("rfind")
    rindex = _of_copy("rindex")
    rjust = _of_copy("rjust")
    rpartition = _of_copy("rpartition")
    rsplit = _of_copy("rsplit")
    rstrip = _of_copy("rstrip")
    split = _of_copy("split")
    splitlines = _of_copy("splitlines")
    strip = _of_copy("strip")
    swapcase = _of_copy("swapcase")
    title = _of_copy("title")
    translate = _of_copy("translate")
    upper = _of_copy("upper")
    zfill = _of_copy("zfill")

    __lt__ = _compared_as("__lt__")
    __le__ = _compared_as("__le__")
    __gt__ = _compared_as("__gt__")
    __ge__ = _compared_as("__ge__")

    def __bool__(self) -> bool:
        return len(self) > 0

    def __getitem__(self, key: Any) -> Any:
        item = super().__getitem__(key)
        if type(item) is not BytesView:
            return item.item()
        return item if item.ndim == 1 else _plain(item)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.data)

    def __contains__(self, item: object) -> bool:
        if isinstance(item, (*_BYTES_LIKES, int, np.integer)):
            return self.find(item) >= 0
        raise TypeError(f"a view contains numbers and bytes, not {type(item).__name__}")

    def __eq__(self, other: object) -> Any:
        if isinstance(other, _BYTES_LIKES):
            return _same_bytes(self, other)
        if isinstance(other, (np.ndarray, np.generic, numbers.Number, list, tuple)):
            return _plain(self) == other
        return NotImplemented

    def __ne__(self, other: object) -> Any:
        same = self.__eq__(other)
        if same is NotImplemented:
            return NotImplemented
        return not same if isinstance(same, bool) else ~same

    __hash__ = None

    def __int__(self) -> int:
        return int(bytes(self))

    def __float__(self) -> float:
        return float(bytes(self))

    def __add__(self, other: Any) -> Any:
        if not isinstance(other, _BYTES_LIKES):
            return super().__add__(other)
        return b"".join((_contiguous(self), _contiguous(other) if isinstance(other, BytesView) else other))

    def __iadd__(self, other: Any) -> Any:
        return self + other if isinstance(other, _BYTES_LIKES) else super().__iadd__(other)

    def __radd__(self, other: Any) -> Any:
        # Bytes and bytearrays add what has a buffer by themselves, the latter in place, where nobody else does it for them.
        return NotImplemented if isinstance(other, _BYTES_LIKES) else super().__radd__(other)

    def partition(self, *args: Any, **kwargs: Any) -> Any:
        """As `bytes.partition` where it is given bytes, of a copy; else as `numpy.ndarray.partition`."""
        if args and isinstance(args[0], _BYTES_LIKES):
            return bytes(self).partition(*args, **kwargs)
        return super().partition(*args, **kwargs)

    def __repr__(self) -> str:
        return f"BytesView({len(self)} bytes)"

    __str__ = __repr__

    def __reduce__(self) -> tuple[Any, ...]:
        return owned_view, (bytearray(self),)

    def __reduce_ex__(self, protocol: SupportsIndex) -> tuple[Any, ...]:
        return self.__reduce__()

    def __copy__(self) -> BytesView:
        return owned_view(bytearray(self))

    def __deepcopy__(self, memo: dict[int, Any] | None) -> BytesView:
        return self.__copy__()

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        out = kwargs.get("out")
        if out is not None:
            kwargs["out"] = tuple(_plain(item) for item in out)
        result = getattr(ufunc, method)(*(_plain(item) for item in inputs), **kwargs)
        # `view += 1` must leave the name bound to the view, so what was given as `out` comes back itself.
        return result if out is None else out[0] if len(out) == 1 else out

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        result = super().__array_function__(func, types, args, kwargs)
        return _plain(result) if result is not kwargs.get("out") else result

    def memoryview(self) -> builtins.memoryview:
        """Returns a memoryview of the same memory; it holds the lease."""
        return self.data

    def to_bytes(self) -> bytes:
        """Returns a copy."""
        return self.tobytes()

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """Returns the text, as `bytes.decode`, without a copy in between."""
        return str(_contiguous(self), encoding, errors)

    def hex(self, *args: Any, **kwargs: Any) -> str:
        """Returns two hexadecimal digits for each byte, grouped as `bytes.hex` is told to."""
        return _contiguous(self).hex(*args, **kwargs)

    def startswith(self, prefix: BytesLike | tuple[BytesLike, ...]) -> bool:
        """Returns whether it begins with `prefix`, or with one of them."""
        found = prefix if isinstance(prefix, tuple) else (prefix,)
        return any(bytes(self[: len(one)]) == one for one in found)

    def endswith(self, suffix: BytesLike | tuple[BytesLike, ...]) -> bool:
        """Returns whether it ends with `suffix`, or with one of them."""
        found = suffix if isinstance(suffix, tuple) else (suffix,)
        return any(len(one) <= len(self) and bytes(self[len(self) - len(one) :]) == one for one in found)

    def find(self, sub: BytesLike | BytesView | int | np.integer[Any], start: int | None = None, end: int | None = None) -> int:
        """Returns where `sub`, bytes or one byte, first lies within `[start, end)`; -1 if it does not. As `bytes.find`."""
        needle = bytes((int(sub),)) if isinstance(sub, (int, np.integer)) else bytes(sub)
        if start is not None and start > len(self):
            return -1
        first, last, _ = slice(start, end).indices(len(self))
        # The regular expressions search in any buffer; bytes.find would need a copy of this one.
        match = re.compile(re.escape(needle), re.DOTALL).search(_contiguous(self), first, last) if first <= last else None
        return match.start() if match else -1


_BYTES_LIKES: Final = (bytes, bytearray, memoryview, BytesView)


def _plain(item: Any) -> Any:
    """Returns an ordinary array over the same memory, with the same lease, in place of a view; anything else as it is."""
    return np.ndarray.view(item, np.ndarray) if isinstance(item, BytesView) else item


def _contiguous(view: BytesView) -> memoryview | bytes:
    return view.data if view.flags.c_contiguous else view.tobytes()


def _same_bytes(view: BytesView, other: BytesLike | BytesView) -> bool:
    if isinstance(other, memoryview) and not other.c_contiguous:
        other = other.tobytes()
    theirs = _plain(other) if isinstance(other, BytesView) else np.frombuffer(other, np.uint8)
    return bool(len(view) == len(theirs) and (_plain(view) == theirs).all())

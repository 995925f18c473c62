"""Memory of the caller's, as the plain bytes that it is: what is written from (`as_payload`), and what is read into (`as_room`).

No copy is ever made, and nothing is imported for the sake of a framework: numpy only where the caller has an array or a tensor already.
"""

from __future__ import annotations

from typing import Any


def as_payload(data: Any) -> memoryview:
    """Returns the bytes of anything with the buffer protocol, without a copy.

    Raises:
        TypeError: `data` has no contiguous buffer.
    """
    view = _view_of(data)
    return _as_bytes(view, data) if view.nbytes else memoryview(b"")


def as_room(buffer: Any) -> memoryview:
    """Returns the bytes of a writable buffer, without a copy: bytearray, mmap, numpy array, tensor in the memory of the CPU, `BytesView`.

    Raises:
        TypeError: `buffer` has none, cannot be written to, or is not contiguous.
    """
    view = _view_of(buffer)
    if view.readonly:
        raise TypeError(f"a {type(buffer).__name__} cannot be written to; give a bytearray, a numpy array, a tensor or a writable mmap")
    return _as_bytes(view, buffer) if view.nbytes else memoryview(bytearray())


def _view_of(owner: Any) -> memoryview:
    try:
        return memoryview(owner)
    except TypeError:
        if not hasattr(owner, "data_ptr"):
            raise
        return _of_tensor(owner)
    except (ValueError, BufferError) as error:
        raise TypeError(f"this {type(owner).__name__} does not show its memory: {error}") from error


def _as_bytes(view: memoryview, owner: Any) -> memoryview:
    if not view.c_contiguous:
        raise TypeError(f"the memory of this {type(owner).__name__} is not contiguous")
    if view.format == "B" and view.ndim == 1:
        return view
    try:
        return view.cast("B")
    except TypeError:
        # Of structures and complex numbers `cast` knows nothing.
        import numpy as np

        return np.frombuffer(view, np.uint8).data


class _TensorMemory:
    """The memory of a tensor as numpy asks for it. An array made of this keeps it, and so the tensor."""

    def __init__(self, tensor: Any) -> None:
        self._tensor = tensor
        self.__array_interface__ = {
            "version": 3,
            "data": (tensor.data_ptr(), False),
            "shape": (tensor.nbytes,),
            "typestr": "|u1",
        }


def _of_tensor(tensor: Any) -> memoryview:
    """Returns the memory of a torch tensor, which has no buffer protocol; of any element type, also those that numpy has not."""
    if tensor.device.type != "cpu":
        raise TypeError(f"the tensor is on {tensor.device}; only the memory of the CPU can be read into")
    if not tensor.is_contiguous():
        raise TypeError("the memory of this tensor is not contiguous")
    if tensor.is_conj() or tensor.is_neg():
        raise TypeError("the memory of this tensor is not what it shows; give resolve_conj() or resolve_neg() of it")
    import numpy as np

    return np.asarray(_TensorMemory(tensor)).data if tensor.nbytes else memoryview(bytearray())

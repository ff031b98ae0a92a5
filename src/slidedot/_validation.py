"""Arrays and arguments: what is refused, and the words of the error.

Each check names the function, the argument and its value, and none of them allocates a result or
writes. Numbers are checked in `slidedot.geometry`, which needs them for its own functions.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from slidedot import _buffers
from slidedot._types import Float, Integers
from slidedot.geometry import SSIZE_MAX, shown

Array = NDArray[Any]
Scalar = TypeVar("Scalar", bound=np.generic)
T = TypeVar("T")

FLOATS = (np.float32, np.float64)

#: New arrays of at least so many elements begin with a cache line, which NumPy's own need not:
#: vectors are then stored without touching two lines, a large result up to 1.4 times as fast.
ALIGNED = 16_384
CACHE_LINE = 64

#: What DLPack calls the CPU's memory.
DLPACK_CPU = 1

#: How hard to look whether two arrays of interleaved strides share memory before refusing them.
OVERLAP_WORK: Any = 10_000  # NumPy's hint knows -1 and 0 only


def array(function: str, name: str, value: ArrayLike) -> Array:
    """Return `value` as a plain array, on its own memory where it lets NumPy read that."""
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{function}: {name} is a masked array; call .filled() on it first")
    try:
        if hasattr(value, "__dlpack__") and not hasattr(value, "__array__"):
            return _from_dlpack(value)
        return np.asarray(value)
    except Exception as error:
        raise TypeError(
            f"{function}: {name} must be an array, got {type(value).__name__}: {error}"
        ) from error


def _from_dlpack(value: Any) -> Array:
    device, number = value.__dlpack_device__()
    if device != DLPACK_CPU:
        raise BufferError(
            f"it must be in the CPU's memory, got DLPack device ({int(device)}, {number})"
        )
    return np.from_dlpack(value)


def floats(
    function: str,
    name: str,
    value: NDArray[Float],
    ndim: tuple[int, ...] | None = None,
    axes: str | None = None,
) -> NDArray[Float]:
    """Return a float32 or float64 array of any strides; `ndim` lists how many axes it may have,
    `axes` says which."""
    if type(value) is not np.ndarray:
        value = array(function, name, value)
    if value.dtype.type not in FLOATS:
        raise TypeError(f"{function}: {name} must be float32 or float64, got {value.dtype}")
    if ndim is not None and value.ndim not in ndim:
        raise ValueError(f"{function}: {name} must be {axes}, got shape {value.shape}")
    return value


def indices(
    function: str,
    name: str,
    value: Integers,
    ndim: tuple[int, ...] | None = None,
    axes: str | None = None,
) -> Integers:
    """Return an array of any integer type and any strides; see `floats`."""
    if type(value) is not np.ndarray:
        value = array(function, name, value)
    if value.dtype.kind not in "iu":
        raise TypeError(f"{function}: {name} must be of an integer dtype, got {value.dtype}")
    if ndim is not None and value.ndim not in ndim:
        raise ValueError(f"{function}: {name} must be {axes}, got shape {value.shape}")
    return value


def plain(value: NDArray[Scalar]) -> NDArray[Scalar]:
    """Return what a kernel reads: `value` with its strides, or a copy if it is byte-swapped or
    unaligned. To be called once `output` has seen the array itself."""
    if value is None:
        return value
    flags, dtype = value.flags, value.dtype
    if (
        dtype.isnative
        and flags.aligned
        and (flags.c_contiguous or not any(s % dtype.itemsize for s in value.strides))
    ):
        return value
    return value.astype(value.dtype.newbyteorder("="), order="C")


def not_empty(function: str, name: str, value: Array) -> None:
    """Refuse planes without channels, rows or columns; a batch may be empty."""
    if not value.size and 0 in value.shape[-3:]:
        raise ValueError(
            f"{function}: {name} needs at least one channel, row and column, "
            f"got shape {value.shape}"
        )


def images(function: str, name: str, value: NDArray[Float]) -> tuple[NDArray[Float], bool]:
    """Return an image or a batch of them as ``(N, C, H, W)``, and whether it was one image."""
    value = floats(function, name, value, (3, 4), "(N, C, H, W) or (C, H, W)")
    not_empty(function, name, value)
    return (value[None], True) if value.ndim == 3 else (value, False)


def one_dtype(function: str, first: str, a: Array, second: str, b: Array) -> None:
    """Refuse two arrays, by name, of different dtypes."""
    if a.dtype.type is not b.dtype.type:
        raise TypeError(
            f"{function}: {first} and {second} must have one dtype, got {a.dtype} and {b.dtype}"
        )


def shape(function: str, name: str, value: Array, expected: Iterable[int]) -> None:
    """Refuse an array of another shape than `expected`."""
    if value.shape != tuple(expected):
        raise ValueError(
            f"{function}: {name} must have shape {tuple(expected)}, got shape {value.shape}"
        )


def choice(function: str, name: str, value: T, allowed: Collection[T]) -> T:
    """Refuse a value that is none of `allowed`."""
    if (value is not None and not isinstance(value, str)) or value not in allowed:
        names = ", ".join(repr(a) for a in allowed)
        raise ValueError(f"{function}: {name} must be one of {names}, got {name}={shown(value)}")
    return value


def empty(
    function: str, shape: tuple[int, ...], dtype: type[Scalar] | np.dtype[Scalar]
) -> NDArray[Scalar]:
    """Return a new array; a size that memory cannot hold is a MemoryError that names it."""
    try:
        if math.prod(shape) < ALIGNED:
            return np.empty(shape, dtype)
        size = math.prod(shape) * np.dtype(dtype).itemsize
        if size > SSIZE_MAX - CACHE_LINE:
            raise MemoryError
        memory = _buffers.block(size + CACHE_LINE)
        start = -memory.ctypes.data % CACHE_LINE
        return memory[start : start + size].view(dtype).reshape(shape)
    except (MemoryError, ValueError):  # of an empty array, NumPy multiplies its other axes
        size = math.prod(n for n in shape if n) * np.dtype(dtype).itemsize
        raise MemoryError(
            f"{function}: a result of shape {tuple(shape)} and dtype {np.dtype(dtype)} "
            f"takes {size} bytes"
        ) from None


def _overlaps_itself(value: Array) -> bool:
    """Whether two elements of an array may share memory: its axes do not nest."""
    reach = value.itemsize
    nested = sorted(zip(map(abs, value.strides), value.shape, strict=True))
    for stride, size in nested:
        if size > 1:
            if stride < reach:
                return True
            reach += stride * (size - 1)
    return False


def _share_memory(a: Array, b: Array) -> bool:
    try:
        return np.may_share_memory(a, b) and np.shares_memory(a, b, max_work=OVERLAP_WORK)
    except np.exceptions.TooHardError:
        return True


def writable(
    function: str, out: object, shape: tuple[int, ...], dtype: type[Scalar], **inputs: Array | None
) -> None:
    """Refuse an array that cannot take a result; `inputs` must not share memory with it."""
    if not isinstance(out, np.ndarray) or isinstance(out, np.ma.MaskedArray):
        raise TypeError(f"{function}: out must be a NumPy array, got {type(out).__name__}")
    if out.dtype != dtype:
        raise TypeError(f"{function}: out must have dtype {np.dtype(dtype)}, got {out.dtype}")
    if out.shape != tuple(shape):
        raise ValueError(f"{function}: out must have shape {tuple(shape)}, got shape {out.shape}")
    if not out.flags.writeable:
        raise ValueError(f"{function}: out is read-only")
    if out.size and _overlaps_itself(out):
        raise ValueError(
            f"{function}: out overlaps itself, with strides {out.strides} and shape {out.shape}"
        )
    for name, value in inputs.items():
        if value is not None and _share_memory(out, value):
            raise ValueError(f"{function}: out shares memory with {name}")


def output(
    function: str,
    out: NDArray[Scalar] | None,
    shape: tuple[int, ...],
    dtype: type[Scalar],
    **inputs: Array | None,
) -> NDArray[Scalar]:
    """Return the contiguous array that a kernel fills: `out` itself where it can be, else new.

    `inputs` are the arrays that `out` must not share memory with. `deliver` takes it from there.
    """
    if out is None:
        return empty(function, shape, dtype)
    writable(function, out, shape, dtype, **inputs)
    if out.flags.c_contiguous and out.flags.aligned:
        return out
    return empty(function, shape, dtype)


def deliver(y: NDArray[Scalar], out: NDArray[Scalar] | None) -> NDArray[Scalar]:
    """Return the result `y` of `output`, in `out` if the caller gave it."""
    if out is None or y is out:
        return y
    out[...] = y
    return out


def workspace(function: str, done: bool) -> None:
    """Turn a kernel's word that it got no workspace into an error."""
    if not done:
        raise MemoryError(f"{function}: no memory for the workspace")

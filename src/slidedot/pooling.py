"""Max pooling with the place of each maximum, average pooling, their gradients, and unpooling."""

from __future__ import annotations

from typing import Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from slidedot import _dispatch, _threads, _validation
from slidedot._types import Float, Integers
from slidedot.geometry import Axis, Padding, Size, empty_window, flag, pair, shown, windows

__all__ = [
    "avg_pool2d",
    "avg_pool2d_backward",
    "max_pool2d",
    "max_pool2d_backward",
    "max_unpool2d",
]


def _pool_windows(
    function: str,
    size: tuple[int, ...],
    kernel_size: Size,
    stride: Size | None,
    padding: Padding,
    dilation: Size,
    ceil_mode: bool,
) -> tuple[Axis, Axis]:
    """Return the axes of windows each of which holds a pixel."""
    if stride is None:
        stride = kernel_size
    axes = windows(function, size, kernel_size, stride, padding, dilation, ceil_mode)
    for axis in axes:
        if max(axis.before, axis.after) >= axis.span:
            raise ValueError(
                f"{function}: padding must be less than the dilated kernel, {axis.span} pixels, "
                f"got padding={shown(padding)}"
            )
        window = empty_window(axis)
        if window is not None:
            raise ValueError(
                f"{function}: padding={shown(padding)} with dilation {axis.dilation} makes a "
                f"window, number {window}, that holds none of the input's {axis.size} pixels"
            )
    return axes


@overload
def max_pool2d(
    x: NDArray[Float], kernel_size: Size, *, stride: Size | None = ..., padding: Padding = ...,
    dilation: Size = ..., ceil_mode: bool = ..., return_argmax: Literal[False] = ...,
    out: NDArray[Float] | None = ...,
) -> NDArray[Float]: ...  # fmt: skip
@overload
def max_pool2d(
    x: NDArray[Float], kernel_size: Size, *, stride: Size | None = ..., padding: Padding = ...,
    dilation: Size = ..., ceil_mode: bool = ..., return_argmax: Literal[True],
    out: NDArray[Float] | None = ...,
) -> tuple[NDArray[Float], Integers]: ...  # fmt: skip
@overload
def max_pool2d(
    x: NDArray[Float], kernel_size: Size, *, stride: Size | None = ..., padding: Padding = ...,
    dilation: Size = ..., ceil_mode: bool = ..., return_argmax: bool,
    out: NDArray[Float] | None = ...,
) -> NDArray[Float] | tuple[NDArray[Float], Integers]: ...  # fmt: skip
def max_pool2d(
    x: NDArray[Float],
    kernel_size: Size,
    *,
    stride: Size | None = None,
    padding: Padding = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    return_argmax: bool = False,
    out: NDArray[Float] | None = None,
) -> NDArray[Float] | tuple[NDArray[Float], Integers]:
    """Take the maximum of each window, and where it was.

    ``y[n, c, oy, ox] = max over i, j of x[n, c, oy * stride + i * dilation - top, ...]``. The
    first maximum in row-major order wins a tie. A NaN wins over every number, the first NaN's
    place is stored. Padding never wins: a window of -inf alone has a real index.

    Parameters
    ----------
    x : ndarray, (N, C, H, W) or (C, H, W), float32 or float64
        A batch of images, or one.
    kernel_size, dilation : int or (int, int)
        The window ``(kh, kw)`` and the step between its taps, in pixels.
    stride : int or (int, int), optional
        The step between windows; `kernel_size` if not given.
    padding : int, (int, int), ((int, int), (int, int)), "valid" or "same"
        Pixels around the image, less than the dilated kernel.
    ceil_mode : bool
        Round the output's size up: a last window may hang over the end, if it starts inside the
        image or the padding before it.
    return_argmax : bool
        Return the places too.
    out : ndarray, optional
        Where to put the maxima.

    Returns
    -------
    y : ndarray, (N, C, OH, OW) or (C, OH, OW)
        The maxima, of the dtype of `x`.
    argmax : ndarray, int32 (int64 where H * W > 2**31 - 1)
        With `return_argmax`: for each maximum ``h * W + w`` in its input plane.

    Raises
    ------
    ValueError
        A number out of range, a kernel larger than the padded image, a window that holds only
        padding, an `out` that does not fit.
    TypeError
        An array of another dtype, a number that is not an integer.
    MemoryError
        The result does not fit into memory.

    Examples
    --------
    >>> import numpy as np, slidedot as sd
    >>> x = np.array([[[1.0, 5.0, 2.0, 0.0], [3.0, 4.0, 8.0, 8.0]]])
    >>> y, argmax = sd.max_pool2d(x, 2, return_argmax=True)
    >>> y, argmax
    (array([[[5., 8.]]]), array([[[1, 6]]], dtype=int32))
    """
    function = "max_pool2d"
    x, single = _validation.images(function, "x", x)
    h, w = _pool_windows(function, x.shape[2:], kernel_size, stride, padding, dilation, ceil_mode)
    return_argmax = flag(function, "return_argmax", return_argmax)
    shape = (*x.shape[:2], h.out, w.out)
    y = _validation.output(function, out, shape[1:] if single else shape, x.dtype.type, x=x)
    x = _validation.plain(x)
    argmax: Integers | None = None
    if return_argmax:
        index: type[np.integer[Any]] = np.int32 if h.size * w.size <= 2**31 - 1 else np.int64
        argmax = _validation.empty(function, shape, index)
    if y.size:
        threads = _threads.threads_for(y.size * h.kernel * w.kernel)
        _validation.workspace(
            function,
            _dispatch.kernels.pooling.max_forward(x, y.reshape(shape), argmax, h, w, threads),
        )
    y = _validation.deliver(y, out)
    if argmax is None:
        return y
    return y, argmax[0] if single else argmax


def max_pool2d_backward(
    grad_out: NDArray[Float],
    argmax: Integers,
    input_size: Size,
    *,
    out: NDArray[Float] | None = None,
) -> NDArray[Float]:
    """Return the gradient of `max_pool2d`: each window's gradient goes to its maximum.

    ``x[n, c, argmax[n, c, oy, ox]] += grad_out[n, c, oy, ox]``; where windows overlap, gradients
    add up, in row-major order.

    Parameters
    ----------
    grad_out : ndarray, (N, C, OH, OW) or (C, OH, OW), float32 or float64
        The gradient for the maxima.
    argmax : ndarray of any integer dtype, the shape of `grad_out`
        The places that `max_pool2d` returned.
    input_size : int or (int, int)
        ``(H, W)`` of the input of `max_pool2d`.
    out : ndarray, optional
        Where to put the result.

    Returns
    -------
    ndarray, (N, C, H, W) or (C, H, W)
        The gradient for the input, of the dtype of `grad_out`.

    Raises
    ------
    ValueError
        Shapes that do not fit, an `out` that does not fit.
    TypeError
        An array of another dtype.
    IndexError
        An index outside ``0 <= index < H * W``; nothing has been written then.
    MemoryError
        The result does not fit into memory.

    References
    ----------
    Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks", section 2.1, arXiv
    1311.2901, whose switches are `argmax`.

    Examples
    --------
    >>> import numpy as np, slidedot as sd
    >>> sd.max_pool2d_backward(np.array([[[10.0, 20.0]]]), np.array([[[1, 6]]]), (2, 4))
    array([[[ 0., 10.,  0.,  0.],
            [ 0.,  0., 20.,  0.]]])
    """
    names = "max_pool2d_backward", "grad_out", "input_size"
    return _scatter(names, grad_out, argmax, input_size, out, add=True)


def max_unpool2d(
    y: NDArray[Float],
    argmax: Integers,
    output_size: Size,
    *,
    out: NDArray[Float] | None = None,
) -> NDArray[Float]:
    """Put each value at its place and zeros elsewhere: what max pooling kept, where it was.

    ``x[n, c, argmax[n, c, oy, ox]] = y[n, c, oy, ox]``; of several values for one place the last
    in row-major order stays.

    Parameters
    ----------
    y : ndarray, (N, C, OH, OW) or (C, OH, OW), float32 or float64
        The values, such as the maxima of `max_pool2d`.
    argmax : ndarray of any integer dtype, the shape of `y`
        Their places ``h * W + w``, such as `max_pool2d` returns.
    output_size : int or (int, int)
        ``(H, W)`` of the result: the size of the image that was pooled.
    out : ndarray, optional
        Where to put the result.

    Returns
    -------
    ndarray, (N, C, H, W) or (C, H, W)
        The image, of the dtype of `y`.

    Raises
    ------
    ValueError
        Shapes that do not fit, an `out` that does not fit.
    TypeError
        An array of another dtype.
    IndexError
        An index outside ``0 <= index < H * W``; nothing has been written then.
    MemoryError
        The result does not fit into memory.

    References
    ----------
    Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks", section 2.1, arXiv
    1311.2901.

    Examples
    --------
    >>> import numpy as np, slidedot as sd
    >>> x = np.array([[[1.0, 5.0, 2.0, 0.0], [3.0, 4.0, 8.0, 7.0]]])
    >>> y, argmax = sd.max_pool2d(x, 2, return_argmax=True)
    >>> sd.max_unpool2d(y, argmax, (2, 4))
    array([[[0., 5., 0., 0.],
            [0., 0., 8., 0.]]])
    """
    names = "max_unpool2d", "y", "output_size"
    return _scatter(names, y, argmax, output_size, out, add=False)


def _counted(axes: tuple[Axis, Axis], count_include_pad: bool) -> list[tuple[int, int]]:
    """Return of each axis from where to where an average counts: the image, or its padding too."""
    if count_include_pad:
        return [(-axis.before, axis.size + axis.after) for axis in axes]
    return [(0, axis.size) for axis in axes]


def avg_pool2d(
    x: NDArray[Float],
    kernel_size: Size,
    *,
    stride: Size | None = None,
    padding: Padding = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    out: NDArray[Float] | None = None,
) -> NDArray[Float]:
    """Take the mean of each window.

    ``y[n, c, oy, ox] = sum over i, j of x[n, c, oy * stride + i - top, ...] / pixels``, where
    padding is 0 and ``pixels`` is ``kh * kw``, or fewer for a window that hangs over the padded
    image's end. ``avg_pool2d(x, x.shape[-2:])`` is global average pooling.

    Parameters
    ----------
    x : ndarray, (N, C, H, W) or (C, H, W), float32 or float64
        A batch of images, or one.
    kernel_size : int or (int, int)
        The window ``(kh, kw)``, in pixels.
    stride : int or (int, int), optional
        The step between windows; `kernel_size` if not given.
    padding : int, (int, int), ((int, int), (int, int)), "valid" or "same"
        Pixels of zeros around the image, less than the kernel.
    ceil_mode : bool
        Round the output's size up: a last window may hang over the end, if it starts inside the
        image or the padding before it.
    count_include_pad : bool
        Count a window's padding among its pixels; else the sum is divided by how many pixels of
        the image the window holds.
    out : ndarray, optional
        Where to put the result.

    Returns
    -------
    ndarray, (N, C, OH, OW) or (C, OH, OW)
        The means, of the dtype of `x`.

    Raises
    ------
    ValueError
        A number out of range, a kernel larger than the padded image, a window that holds only
        padding, an `out` that does not fit.
    TypeError
        An array of another dtype, a number that is not an integer.
    MemoryError
        The result does not fit into memory.

    Notes
    -----
    Each window is summed by itself, so that NaN and infinity reach only the windows that hold them.

    Examples
    --------
    >>> import numpy as np, slidedot as sd
    >>> x = np.array([[[1.0, 5.0, 2.0], [3.0, 7.0, 4.0]]])
    >>> sd.avg_pool2d(x, 2, stride=1)
    array([[[4. , 4.5]]])
    >>> sd.avg_pool2d(x, 2, ceil_mode=True)
    array([[[4., 3.]]])
    """
    function = "avg_pool2d"
    x, single = _validation.images(function, "x", x)
    axes = _pool_windows(function, x.shape[2:], kernel_size, stride, padding, 1, ceil_mode)
    counted = flag(function, "count_include_pad", count_include_pad)
    h, w = axes
    shape = (*x.shape[:2], h.out, w.out)
    y = _validation.output(function, out, shape[1:] if single else shape, x.dtype.type, x=x)
    x = _validation.plain(x)
    if y.size:
        threads = _threads.threads_for(y.size * min(h.kernel, h.size) * min(w.kernel, w.size))
        ends = _counted(axes, counted)
        done = _dispatch.kernels.pooling.avg_forward(x, y.reshape(shape), h, w, *ends, threads)
        _validation.workspace(function, done)
    return _validation.deliver(y, out)


def avg_pool2d_backward(
    grad_out: NDArray[Float],
    input_size: Size,
    kernel_size: Size,
    *,
    stride: Size | None = None,
    padding: Padding = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    out: NDArray[Float] | None = None,
) -> NDArray[Float]:
    """Return the gradient of `avg_pool2d`: each window's gradient is shared out among its pixels.

    ``x[n, c, h, w] = sum over the windows that hold the pixel of grad_out[n, c, oy, ox] / pixels``,
    with ``pixels`` as in `avg_pool2d`.

    Parameters
    ----------
    grad_out : ndarray, (N, C, OH, OW) or (C, OH, OW), float32 or float64
        The gradient for the means.
    input_size : int or (int, int)
        ``(H, W)`` of the input of `avg_pool2d`.
    kernel_size, stride, padding, ceil_mode, count_include_pad
        As for `avg_pool2d`.
    out : ndarray, optional
        Where to put the result.

    Returns
    -------
    ndarray, (N, C, H, W) or (C, H, W)
        The gradient for the input, of the dtype of `grad_out`.

    Raises
    ------
    ValueError
        A number out of range, sizes that do not fit, an `out` that does not fit.
    TypeError
        An array of another dtype, a number that is not an integer.
    MemoryError
        The result does not fit into memory.

    Examples
    --------
    >>> import numpy as np, slidedot as sd
    >>> sd.avg_pool2d_backward(np.array([[[4.0, 8.0]]]), (2, 3), 2, stride=1)
    array([[[1., 3., 2.],
            [1., 3., 2.]]])
    """
    function = "avg_pool2d_backward"
    grad_out = _validation.floats(
        function, "grad_out", grad_out, (3, 4), "(N, C, OH, OW) or (C, OH, OW)"
    )
    _validation.not_empty(function, "grad_out", grad_out)
    size = pair(function, "input_size", input_size)
    axes = _pool_windows(function, size, kernel_size, stride, padding, 1, ceil_mode)
    counted = flag(function, "count_include_pad", count_include_pad)
    h, w = axes
    _validation.shape(function, "grad_out", grad_out, (*grad_out.shape[:-2], h.out, w.out))
    shape = (*grad_out.shape[:-2], *size)
    x = _validation.output(function, out, shape, grad_out.dtype.type, grad_out=grad_out)
    grad_out = np.ascontiguousarray(_validation.plain(grad_out))
    batch = (slice(None),) if grad_out.ndim == 4 else (None,)
    if x.size:
        ends = _counted(axes, counted)
        threads = _threads.threads_for(
            grad_out.size * min(h.kernel, size[0]) * min(w.kernel, size[1])
        )
        done = _dispatch.kernels.pooling.avg_backward(
            grad_out[batch], x[batch], h, w, *ends, threads
        )
        _validation.workspace(function, done)
    return _validation.deliver(x, out)


def _scatter(
    names: tuple[str, str, str],
    values: NDArray[Float],
    argmax: Integers,
    size: Size,
    out: NDArray[Float] | None,
    *,
    add: bool,
) -> NDArray[Float]:
    """Return planes of `size`, of zeros, with each value added, or else stored, at its place;
    `names` are the function's and its names of `values` and `size`."""
    function, name, size_name = names
    axes = "(N, C, OH, OW) or (C, OH, OW)"
    values = _validation.floats(function, name, values, (3, 4), axes)
    argmax = _validation.indices(function, "argmax", argmax, (3, 4), axes)
    _validation.not_empty(function, name, values)
    _validation.shape(function, "argmax", argmax, values.shape)
    h, w = pair(function, size_name, size)
    unsigned = argmax.view(f"{argmax.dtype.byteorder}u{argmax.itemsize}")  # below 0 becomes huge
    if argmax.size and int(unsigned.max()) >= h * w:
        wrong = argmax.min() if argmax.min() < 0 else argmax.max()
        raise IndexError(f"{function}: argmax must be in [0, {h} * {w}), got argmax={wrong}")
    shape = (*values.shape[:-2], h, w)
    inputs: dict[str, NDArray[Any]] = {name: values, "argmax": argmax}
    x = _validation.output(function, out, shape, values.dtype.type, **inputs)
    index = np.int32 if argmax.dtype == np.int32 else np.int64
    values = np.ascontiguousarray(_validation.plain(values))
    argmax = np.ascontiguousarray(argmax, index)
    batch = (slice(None),) if values.ndim == 4 else (None,)
    threads = _threads.threads_for(x.size)
    _dispatch.kernels.pooling.scatter(values[batch], argmax[batch], x[batch], add, threads)
    return _validation.deliver(x, out)

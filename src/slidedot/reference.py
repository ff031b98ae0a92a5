"""The specification: what the kernels compute, as NumPy and a plain loop over the output's pixels.

Each function has the signature of its namesake and gives the same result, window by window, the
way the lecture draws it: a filter slides over the padded image, and at each place it gives one
output, the dot product of the filter and the window. It is meant to be read and to be compared
with; it is slow, and it checks nothing but the sizes.

In the sums, ``n`` counts images, ``c`` input channels, ``k`` output channels (filters), and ``h``
and ``w`` the rows and columns of a window.

Sums are formed in float64 and rounded once to the dtype of the input: a float32 result has little
error but that rounding, and a float64 result has the error of a plain sum. What is only moved or
compared (columns, maxima) stays exact.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from slidedot import geometry
from slidedot._types import Activation, Algorithm, Float, Floats, Integers
from slidedot.geometry import Axis, Padding, Size

#: Of rows and of columns.
Axes = tuple[Axis, Axis]

__all__ = [
    "Conv2dGradients",
    "avg_pool2d",
    "avg_pool2d_backward",
    "col2im",
    "conv2d",
    "conv2d_backward",
    "conv_transpose2d",
    "im2col",
    "max_pool2d",
    "max_pool2d_backward",
    "max_unpool2d",
]


# ---------------------------------------------------------------------------------- windows


def _slide(axes: Axes) -> Iterator[tuple[int, int, slice, slice]]:
    """Yield each output pixel ``i, j`` and its window's rows and columns on the padded image."""
    rows, cols = axes
    for i in range(rows.out):
        for j in range(cols.out):
            yield i, j, _taps(rows, i), _taps(cols, j)


def _taps(axis: Axis, o: int) -> slice:
    """Where the taps of window `o` lie on the padded axis."""
    start = o * axis.stride
    return slice(start, start + axis.span, axis.dilation)


def _pixels(axis: Axis, o: int) -> list[int]:
    """Where the taps of window `o` lie on the image, without those that miss it."""
    start = o * axis.stride - axis.before
    taps = range(start, start + axis.span, axis.dilation)
    return [tap for tap in taps if 0 <= tap < axis.size]


def _pad(planes: Floats, axes: Axes) -> Floats:
    """Put zeros around each plane."""
    return np.pad(planes, [(0, 0), (0, 0), *((axis.before, axis.after) for axis in axes)])


def _crop(padded: Floats, axes: Axes) -> Floats:
    """Take the planes back out of their padding: the adjoint of `_pad`."""
    rows, cols = (slice(axis.before, axis.before + axis.size) for axis in axes)
    return padded[:, :, rows, cols]


# ---------------------------------------------------------------------------------- arrays


def _batch(array: Floats, axes: int) -> Floats:
    """Return a float64 copy with `axes` axes: a single image becomes a batch of one."""
    array = np.array(array, np.float64)
    return array if array.ndim == axes else array[np.newaxis]


def _deliver(
    result: Floats, like: NDArray[Float], single: bool, out: NDArray[Float] | None = None
) -> NDArray[Float]:
    """Round `result` to the dtype of `like`; without its batch axis for a single image."""
    if single:
        result = result[0]
    if out is None:
        out = np.empty(result.shape, like.dtype.newbyteorder("="))
    out[...] = result
    return out


# ---------------------------------------------------------------------------------- convolution


class Conv2dGradients(NamedTuple):
    """The gradients of a convolution; None where not asked for.

    Attributes
    ----------
    x : ndarray (N, C, H, W) or None
        Gradient with respect to the input.
    weight : ndarray (K, C // groups, kh, kw) or None
        Gradient with respect to the filters.
    bias : ndarray (K,) or None
        Gradient with respect to the biases.
    """

    x: Floats | Any
    weight: Floats | Any
    bias: Floats | Any


def _split(filters: Floats, groups: int) -> Iterator[tuple[slice, slice]]:
    """Yield each group's input and output channels."""
    c, k = filters.shape[1], len(filters) // groups
    for group in range(groups):
        yield slice(group * c, (group + 1) * c), slice(group * k, (group + 1) * k)


def conv2d(
    x: NDArray[Float],
    weight: NDArray[Float],
    bias: NDArray[Float] | None = None,
    *,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    groups: int = 1,
    activation: Activation = None,
    algorithm: Algorithm = "auto",
    out: NDArray[Float] | None = None,
) -> NDArray[Float]:
    """Slide each filter over the image; each output pixel is one dot product.

    ``y[n, k, i, j] = bias[k] + sum(window(n, i, j) * weight[k])``

    Parameters
    ----------
    x, weight, bias, stride, padding, dilation, groups, activation, out
        As for `slidedot.conv2d`.
    algorithm
        Ignored: there is one.

    Returns
    -------
    ndarray (N, K, OH, OW)
        The outputs, of the dtype of `x`.

    Raises
    ------
    ValueError
        Sizes without a result, as for `slidedot.conv2d`.

    Examples
    --------
    >>> import numpy as np
    >>> edge = np.array([[[[-1.0, 1.0]]]])
    >>> conv2d(np.array([[[0.0, 0.0, 5.0, 5.0]]]), edge)
    array([[[0., 5., 0.]]])
    """
    images = _batch(x, 4)
    filters = _batch(weight, 4)
    biases = np.zeros(len(filters)) if bias is None else np.array(bias, np.float64)
    axes = geometry.windows(
        "conv2d", images.shape[2:], filters.shape[2:], stride, padding, dilation
    )
    padded = _pad(images, axes)
    y = np.empty((len(images), len(filters), *(axis.out for axis in axes)))
    for c, k in _split(filters, groups):
        for i, j, h, w in _slide(axes):
            window = padded[:, c, h, w]
            y[:, k, i, j] = np.einsum("nchw,kchw->nk", window, filters[k]) + biases[k]
    if activation == "relu":
        y = np.maximum(y, 0)
    return _deliver(y, x, x.ndim == 3, out)


def conv2d_backward(
    grad_out: NDArray[Float],
    x: NDArray[Float],
    weight: NDArray[Float],
    *,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    groups: int = 1,
    algorithm: Algorithm = "auto",
    need: Collection[str] = ("x", "weight", "bias"),
) -> Conv2dGradients:
    """Send the gradient of each output pixel back through its dot product.

    The derivative of a product with respect to one factor is the other one: each output pixel
    adds its gradient times the filter to its window, and its gradient times the window to the
    filter.

    Parameters
    ----------
    grad_out, x, weight, stride, padding, dilation, groups, need
        As for `slidedot.conv2d_backward`.
    algorithm
        Ignored: there is one.

    Returns
    -------
    Conv2dGradients
        The gradients that `need` names.

    Raises
    ------
    ValueError
        Sizes without a result, as for `slidedot.conv2d_backward`.

    Examples
    --------
    >>> import numpy as np
    >>> x, weight = np.array([[[1.0, 2.0, 3.0]]]), np.array([[[[10.0, 20.0]]]])
    >>> grads = conv2d_backward(np.array([[[1.0, 1.0]]]), x, weight)
    >>> grads.x, grads.weight, grads.bias
    (array([[[10., 30., 20.]]]), array([[[[3., 5.]]]]), array([2.]))
    """
    images = _batch(x, 4)
    filters = _batch(weight, 4)
    grads = _batch(grad_out, 4)
    axes = geometry.windows(
        "conv2d_backward", images.shape[2:], filters.shape[2:], stride, padding, dilation
    )
    padded = _pad(images, axes)
    grad_padded = np.zeros_like(padded)
    grad_filters = np.zeros_like(filters)
    grad_biases = np.zeros(len(filters))
    for c, k in _split(filters, groups):
        for i, j, h, w in _slide(axes):
            window, g = padded[:, c, h, w], grads[:, k, i, j]
            grad_padded[:, c, h, w] += np.einsum("nk,kchw->nchw", g, filters[k])
            grad_filters[k] += np.einsum("nk,nchw->kchw", g, window)
            grad_biases[k] += np.einsum("nk->k", g)
    grad_images = _crop(grad_padded, axes)
    return Conv2dGradients(
        x=_deliver(grad_images, x, x.ndim == 3) if "x" in need else None,
        weight=_deliver(grad_filters, x, False) if "weight" in need else None,
        bias=_deliver(grad_biases, x, False) if "bias" in need else None,
    )


def conv_transpose2d(
    x: NDArray[Float],
    weight: NDArray[Float],
    bias: NDArray[Float] | None = None,
    *,
    stride: Size = 1,
    padding: Padding = 0,
    output_padding: Size = 0,
    dilation: Size = 1,
    groups: int = 1,
    out: NDArray[Float] | None = None,
) -> NDArray[Float]:
    """Lay a filter down for each pixel, weighted by it; where filters overlap they add up.

    Parameters
    ----------
    x, weight, bias, stride, padding, output_padding, dilation, groups, out
        As for `slidedot.conv_transpose2d`.

    Returns
    -------
    ndarray (N, K, OH, OW)
        The sums, of the dtype of `x`.

    Raises
    ------
    ValueError
        Sizes without a result, as for `slidedot.conv_transpose2d`.

    Examples
    --------
    >>> import numpy as np
    >>> conv_transpose2d(np.array([[[1.0, 10.0]]]), np.array([[[[1.0, 2.0]]]]), stride=3)
    array([[[ 1.,  2.,  0., 10., 20.]]])
    """
    images = _batch(x, 4)
    filters = _batch(weight, 4)
    outputs = filters.shape[1] * groups
    axes = geometry.transposed_windows(
        "conv_transpose2d",
        images.shape[2:],
        filters.shape[2:],
        stride,
        padding,
        output_padding,
        dilation,
    )
    room = [max(axis.before + axis.size, (axis.out - 1) * axis.stride + axis.span) for axis in axes]
    padded = np.zeros((len(images), outputs, *room))
    for k, c in _split(filters, groups):
        for i, j, h, w in _slide(axes):
            padded[:, k, h, w] += np.einsum("nc,ckhw->nkhw", images[:, c, i, j], filters[c])
    y = _crop(padded, axes)
    if bias is not None:
        y = y + np.array(bias, np.float64)[:, None, None]
    return _deliver(y, x, x.ndim == 3, out)


# ---------------------------------------------------------------------------------- columns


def im2col(
    x: NDArray[Float],
    kernel_size: Size,
    *,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    out: NDArray[Float] | None = None,
) -> NDArray[Float]:
    """Write each window as a column.

    Parameters
    ----------
    x, kernel_size, stride, padding, dilation, out
        As for `slidedot.im2col`.

    Returns
    -------
    ndarray (N, C * kh * kw, OH * OW)
        The columns, of the dtype of `x`.

    Raises
    ------
    ValueError
        Sizes without a result, as for `slidedot.im2col`.

    Examples
    --------
    >>> import numpy as np
    >>> im2col(np.array([[[1.0, 2.0, 3.0, 4.0]]]), (1, 2))
    array([[1., 2., 3.],
           [2., 3., 4.]])
    """
    images = _batch(x, 4)
    axes = geometry.windows("im2col", images.shape[2:], kernel_size, stride, padding, dilation)
    rows, cols = axes
    padded = _pad(images, axes)
    taps = images.shape[1] * rows.kernel * cols.kernel
    columns = np.empty((len(images), taps, rows.out * cols.out))
    for column, (_, _, h, w) in enumerate(_slide(axes)):
        columns[:, :, column] = padded[:, :, h, w].reshape(len(images), taps)
    return _deliver(columns, x, x.ndim == 3, out)


def col2im(
    cols: NDArray[Float],
    output_size: Size,
    kernel_size: Size,
    *,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    out: NDArray[Float] | None = None,
) -> NDArray[Float]:
    """Add each column to the window it stands for: the adjoint of `im2col`.

    Parameters
    ----------
    cols, output_size, kernel_size, stride, padding, dilation, out
        As for `slidedot.col2im`.

    Returns
    -------
    ndarray (N, C, H, W)
        The images, of the dtype of `cols`.

    Raises
    ------
    ValueError
        Sizes without a result, as for `slidedot.col2im`.

    Examples
    --------
    >>> import numpy as np
    >>> col2im(np.array([[1.0, 2.0, 3.0], [2.0, 3.0, 4.0]]), (1, 4), (1, 2))
    array([[[1., 4., 6., 4.]]])
    """
    columns = _batch(cols, 3)
    size = geometry.pair("col2im", "output_size", output_size)
    axes = geometry.windows("col2im", size, kernel_size, stride, padding, dilation)
    kernel = tuple(axis.kernel for axis in axes)
    channels = columns.shape[1] // math.prod(kernel)
    padded = _pad(np.zeros((len(columns), channels, *size)), axes)
    for column, (_, _, h, w) in enumerate(_slide(axes)):
        padded[:, :, h, w] += columns[:, :, column].reshape(len(columns), channels, *kernel)
    return _deliver(_crop(padded, axes), cols, cols.ndim == 2, out)


# ---------------------------------------------------------------------------------- pooling


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
) -> Any:
    """Take the largest pixel of each window, by the rule of `numpy.argmax`.

    The first maximum in row-major order wins a tie, the first NaN wins over everything, and
    padding is no pixel at all.

    Parameters
    ----------
    x, kernel_size, stride, padding, dilation, ceil_mode, return_argmax, out
        As for `slidedot.max_pool2d`.

    Returns
    -------
    y : ndarray (N, C, OH, OW)
        The maxima, of the dtype of `x`.
    argmax : ndarray (N, C, OH, OW)
        With `return_argmax`: the place ``h * W + w`` of each, int32 (int64 for planes of 2**31
        pixels and more).

    Raises
    ------
    ValueError
        Sizes without a result, and windows without a pixel, as for `slidedot.max_pool2d`.

    Examples
    --------
    >>> import numpy as np
    >>> max_pool2d(np.array([[[1.0, 4.0, 3.0, 3.0]]]), (1, 2), return_argmax=True)
    (array([[[4., 3.]]]), array([[[1, 2]]], dtype=int32))
    """
    images = _batch(x, 4)
    stride = kernel_size if stride is None else stride
    rows, cols = geometry.windows(
        "max_pool2d", images.shape[2:], kernel_size, stride, padding, dilation, ceil_mode
    )
    y = np.empty((*images.shape[:2], rows.out, cols.out))
    argmax = np.empty(y.shape, np.int32 if rows.size * cols.size <= 2**31 - 1 else np.int64)
    for i in range(rows.out):
        for j in range(cols.out):
            h, w = _pixels(rows, i), _pixels(cols, j)
            places = np.array([row * cols.size + col for row in h for col in w])
            window = images[:, :, h][:, :, :, w].reshape(*images.shape[:2], len(places))
            winner = np.argmax(window, axis=2, keepdims=True)  # refuses an empty window
            y[:, :, i, j] = np.take_along_axis(window, winner, axis=2)[:, :, 0]
            argmax[:, :, i, j] = places[winner[:, :, 0]]
    single = x.ndim == 3
    y = _deliver(y, x, single, out)
    return (y, argmax[0] if single else argmax) if return_argmax else y


def max_pool2d_backward(
    grad_out: NDArray[Float],
    argmax: Integers,
    input_size: Size,
    *,
    out: NDArray[Float] | None = None,
) -> NDArray[Float]:
    """Send the gradient of each maximum to the pixel it came from; overlaps add up.

    Parameters
    ----------
    grad_out, argmax, input_size, out
        As for `slidedot.max_pool2d_backward`.

    Returns
    -------
    ndarray (N, C, H, W)
        The gradient with respect to the pooled image, of the dtype of `grad_out`.

    Raises
    ------
    ValueError
        A size below 1.

    Examples
    --------
    >>> import numpy as np
    >>> max_pool2d_backward(np.array([[[5.0, 7.0]]]), np.array([[[1, 2]]]), (1, 4))
    array([[[0., 5., 7., 0.]]])
    """
    grads = _batch(grad_out, 4)
    size = geometry.pair("max_pool2d_backward", "input_size", input_size)
    grad_images = np.zeros((*grads.shape[:2], *size))
    places = argmax if argmax.ndim == 4 else argmax[np.newaxis]
    for n, c, i, j in np.ndindex(grads.shape):
        h, w = divmod(int(places[n, c, i, j]), size[1])
        grad_images[n, c, h, w] += grads[n, c, i, j]
    return _deliver(grad_images, grad_out, grad_out.ndim == 3, out)


def max_unpool2d(
    y: NDArray[Float],
    argmax: Integers,
    output_size: Size,
    *,
    out: NDArray[Float] | None = None,
) -> NDArray[Float]:
    """Put each value at its place; the last one at a place stays, and elsewhere are zeros.

    Parameters
    ----------
    y, argmax, output_size, out
        As for `slidedot.max_unpool2d`.

    Returns
    -------
    ndarray (N, C, H, W)
        The image, of the dtype of `y`.

    Raises
    ------
    ValueError
        A size below 1.

    Examples
    --------
    >>> import numpy as np
    >>> max_unpool2d(np.array([[[5.0, 7.0]]]), np.array([[[1, 2]]]), (1, 4))
    array([[[0., 5., 7., 0.]]])
    """
    values = _batch(y, 4)
    size = geometry.pair("max_unpool2d", "output_size", output_size)
    images = np.zeros((*values.shape[:2], *size))
    places = argmax if argmax.ndim == 4 else argmax[np.newaxis]
    for n, c, i, j in np.ndindex(values.shape):
        h, w = divmod(int(places[n, c, i, j]), size[1])
        images[n, c, h, w] = values[n, c, i, j]
    return _deliver(images, y, y.ndim == 3, out)


def _means(
    axes: Axes, count_include_pad: bool
) -> Iterator[tuple[int, int, list[int], list[int], int]]:
    """Yield each output pixel ``i, j``, its window's rows and columns, and how many it counts."""
    for i in range(axes[0].out):
        for j in range(axes[1].out):
            h, w = (_pixels(axis, o) for axis, o in zip(axes, (i, j), strict=True))
            pixels = len(h) * len(w)
            if count_include_pad:  # all of the window but what hangs over the padded image's end
                pixels = math.prod(
                    len(range(o * axis.stride, axis.before + axis.size + axis.after)[: axis.kernel])
                    for axis, o in zip(axes, (i, j), strict=True)
                )
            yield i, j, h, w, pixels


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
    """Take the mean of each window, in which padding counts as zeros or not at all.

    Parameters
    ----------
    x, kernel_size, stride, padding, ceil_mode, count_include_pad, out
        As for `slidedot.avg_pool2d`.

    Returns
    -------
    ndarray (N, C, OH, OW)
        The means, of the dtype of `x`.

    Raises
    ------
    ValueError
        Sizes without a result, as for `slidedot.avg_pool2d`.

    Examples
    --------
    >>> import numpy as np
    >>> avg_pool2d(np.array([[[1.0, 4.0, 3.0, 3.0]]]), (1, 2))
    array([[[2.5, 3. ]]])
    """
    images = _batch(x, 4)
    stride = kernel_size if stride is None else stride
    axes = geometry.windows(
        "avg_pool2d", images.shape[2:], kernel_size, stride, padding, 1, ceil_mode
    )
    y = np.empty((*images.shape[:2], *(axis.out for axis in axes)))
    for i, j, h, w, pixels in _means(axes, count_include_pad):
        y[:, :, i, j] = images[:, :, h][:, :, :, w].sum(axis=(2, 3)) / pixels
    return _deliver(y, x, x.ndim == 3, out)


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
    """Share out each output pixel's gradient in its window: the adjoint of `avg_pool2d`.

    Parameters
    ----------
    grad_out, input_size, kernel_size, stride, padding, ceil_mode, count_include_pad, out
        As for `slidedot.avg_pool2d_backward`.

    Returns
    -------
    ndarray (N, C, H, W)
        The gradient with respect to the pooled image, of the dtype of `grad_out`.

    Raises
    ------
    ValueError
        Sizes without a result, as for `slidedot.avg_pool2d_backward`.

    Examples
    --------
    >>> import numpy as np
    >>> avg_pool2d_backward(np.array([[[5.0, 7.0]]]), (1, 4), (1, 2))
    array([[[2.5, 2.5, 3.5, 3.5]]])
    """
    grads = _batch(grad_out, 4)
    stride = kernel_size if stride is None else stride
    size = geometry.pair("avg_pool2d_backward", "input_size", input_size)
    axes = geometry.windows("avg_pool2d_backward", size, kernel_size, stride, padding, 1, ceil_mode)
    grad_images = np.zeros((*grads.shape[:2], *size))
    for i, j, h, w, pixels in _means(axes, count_include_pad):
        for row in h:
            grad_images[:, :, row, w] += grads[:, :, i, j, np.newaxis] / pixels
    return _deliver(grad_images, grad_out, grad_out.ndim == 3, out)

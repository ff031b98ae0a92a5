"""im2col and col2im: what each window sees, as the columns of a matrix, and the way back."""

from __future__ import annotations

from numpy.typing import NDArray

from slidedot import _dispatch, _threads, _validation
from slidedot._types import Float
from slidedot.geometry import Padding, Size, pair, windows

__all__ = ["col2im", "im2col"]


def im2col(
    x: NDArray[Float],
    kernel_size: Size,
    *,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    out: NDArray[Float] | None = None,
) -> NDArray[Float]:
    """Lay out what each window of an image sees as a column of a matrix.

    ``cols[n, (c * kh + i) * kw + j, oy * OW + ox]`` is the pixel
    ``x[n, c, oy * stride + i * dilation - top, ox * stride + j * dilation - left]``, or 0 in the
    padding. A convolution is then the matrix product of the filters with these columns.

    Parameters
    ----------
    x : ndarray, (N, C, H, W) or (C, H, W), float32 or float64
        A batch of images, or one.
    kernel_size, stride, dilation : int or (int, int)
        The window ``(kh, kw)``, the step between windows and between taps, in pixels.
    padding : int, (int, int), ((int, int), (int, int)), "valid" or "same"
        Zeros around the image: all round, ``(h, w)``, or ``((top, bottom), (left, right))``.
    out : ndarray, optional
        Where to put the result.

    Returns
    -------
    ndarray, (N, C * kh * kw, OH * OW) or (C * kh * kw, OH * OW)
        The columns, of the dtype of `x`; torch's ``unfold``.

    Raises
    ------
    ValueError
        A number out of range, a kernel larger than the padded image, an `out` that does not fit.
    TypeError
        An array of another dtype, a number that is not an integer.
    MemoryError
        The columns do not fit into memory; the message names their size.

    References
    ----------
    Chellapilla, Puri and Simard, "High Performance Convolutional Neural Networks for Document
    Processing", 2006.

    Examples
    --------
    >>> import numpy as np, slidedot as sd
    >>> x = np.arange(9.0).reshape(1, 3, 3)
    >>> sd.im2col(x, 2)
    array([[0., 1., 3., 4.],
           [1., 2., 4., 5.],
           [3., 4., 6., 7.],
           [4., 5., 7., 8.]])
    """
    function = "im2col"
    x, single = _validation.images(function, "x", x)
    h, w = windows(function, x.shape[2:], kernel_size, stride, padding, dilation)
    n, c = x.shape[:2]
    shape = (n, c * h.kernel * w.kernel, h.out * w.out)
    cols = _validation.output(function, out, shape[1:] if single else shape, x.dtype.type, x=x)
    threads = _threads.threads_for(cols.size)
    _dispatch.kernels.columns.im2col(_validation.plain(x), cols.reshape(shape), h, w, threads)
    return _validation.deliver(cols, out)


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
    """Add the columns of `im2col` back into an image; overlapping windows are summed.

    The adjoint of `im2col`: ``(im2col(x) * cols).sum() == (x * col2im(cols)).sum()``.

    Parameters
    ----------
    cols : ndarray, (N, C * kh * kw, OH * OW) or (C * kh * kw, OH * OW), float32 or float64
        The columns.
    output_size : int or (int, int)
        The image's ``(H, W)``.
    kernel_size, stride, dilation : int or (int, int)
        The window ``(kh, kw)``, the step between windows and between taps, in pixels.
    padding : int, (int, int), ((int, int), (int, int)), "valid" or "same"
        Zeros that were around the image; what falls on them is dropped.
    out : ndarray, optional
        Where to put the result.

    Returns
    -------
    ndarray, (N, C, H, W) or (C, H, W)
        The image, of the dtype of `cols`; torch's ``fold``.

    Raises
    ------
    ValueError
        A number out of range, columns that do not fit the sizes, an `out` that does not fit.
    TypeError
        An array of another dtype, a number that is not an integer.
    MemoryError
        The image does not fit into memory.

    Examples
    --------
    How many windows see each pixel:

    >>> import numpy as np, slidedot as sd
    >>> sd.col2im(np.ones((4, 4)), 3, 2)
    array([[[1., 2., 1.],
            [2., 4., 2.],
            [1., 2., 1.]]])
    """
    function = "col2im"
    cols = _validation.floats(
        function, "cols", cols, (2, 3), "(N, C * kh * kw, OH * OW) or (C * kh * kw, OH * OW)"
    )
    size = pair(function, "output_size", output_size)
    h, w = windows(function, size, kernel_size, stride, padding, dilation)
    taps, positions = h.kernel * w.kernel, h.out * w.out
    if cols.shape[-2] % taps or cols.shape[-2] == 0:
        raise ValueError(
            f"{function}: cols must have a multiple of kh * kw = {taps} rows, "
            f"got shape {cols.shape}"
        )
    if cols.shape[-1] != positions:
        raise ValueError(
            f"{function}: cols must have OH * OW = {h.out} * {w.out} = {positions} columns, "
            f"got shape {cols.shape}"
        )
    batch = cols.shape[:-2]
    shape = (*batch, cols.shape[-2] // taps, *size)
    x = _validation.output(function, out, shape, cols.dtype.type, cols=cols)
    cols = _validation.plain(cols)
    threads = _threads.threads_for(cols.size)
    if batch:
        _dispatch.kernels.columns.col2im(cols, x, h, w, threads)
    else:
        _dispatch.kernels.columns.col2im(cols[None], x[None], h, w, threads)
    return _validation.deliver(x, out)

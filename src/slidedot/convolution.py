"""Convolution, as in the lecture: slide the filter over the image and take dot products."""

from typing import NamedTuple

import numpy as np

from slidedot import _dispatch, _threads, _validation
from slidedot.columns import col2im, im2col
from slidedot.geometry import divide_channels, integer, shown, windows

__all__ = ["Conv2dGradients", "conv2d", "conv2d_backward"]

ALGORITHMS = ("auto", "direct", "im2col")
ACTIVATIONS = (None, "relu")
NAMES = ("x", "weight", "bias")


class Conv2dGradients(NamedTuple):
    """The gradients of a convolution; None where one was not asked for.

    Attributes
    ----------
    x : ndarray, (N, C, H, W) or (C, H, W)
        For the input.
    weight : ndarray, (K, C // groups, kh, kw)
        For the weight, summed over the batch.
    bias : ndarray, (K,)
        For the bias, summed over the batch.

    Examples
    --------
    >>> import numpy as np, slidedot as sd
    >>> x, weight = np.ones((1, 1, 3, 3)), np.ones((1, 1, 2, 2))
    >>> sd.conv2d_backward(np.ones((1, 1, 2, 2)), x, weight, need=("bias",))
    Conv2dGradients(x=None, weight=None, bias=array([4.]))
    """

    x: np.ndarray | None
    weight: np.ndarray | None
    bias: np.ndarray | None


def _layer(function, x, weight, stride, padding, dilation, groups):
    """Check what forward and backward share; return x, whether it is one image, weight, axes,
    groups."""
    x, single = _validation.images(function, "x", x)
    weight = _validation.floats(function, "weight", weight, (4,), "(K, C // groups, kh, kw)")
    if 0 in weight.shape:
        raise ValueError(f"{function}: weight is an empty filter, got shape {weight.shape}")
    _validation.one_dtype(function, x=x, weight=weight)
    groups = integer(function, "groups", groups)
    divide_channels(function, groups, C=x.shape[1], K=weight.shape[0])
    if weight.shape[1] != x.shape[1] // groups:
        raise ValueError(
            f"{function}: weight must have C // groups = {x.shape[1]} // {groups} channels, "
            f"got shape {weight.shape}"
        )
    h, w = windows(function, x.shape[2:], weight.shape[2:], stride, padding, dilation)
    return x, single, weight, h, w, groups


def _window_arguments(h, w):
    """The keywords with which `im2col` and `col2im` walk over the same windows."""
    return {
        "stride": (h.stride, w.stride),
        "padding": ((h.before, h.after), (w.before, w.after)),
        "dilation": (h.dilation, w.dilation),
    }


def conv2d(
    x,
    weight,
    bias=None,
    *,
    stride=1,
    padding=0,
    dilation=1,
    groups=1,
    activation=None,
    algorithm="auto",
    out=None,
):
    """Slide filters over images and take dot products.

    ``y[n, k, oy, ox] = bias[k] + sum over c, i, j of weight[k, c, i, j] *
    x[n, c, oy * stride + i * dilation - top, ox * stride + j * dilation - left]``: a
    cross-correlation, the filter is not flipped. The output's height is
    ``floor((H + top + bottom - dilation * (kh - 1) - 1) / stride) + 1``, its width likewise.

    Parameters
    ----------
    x : ndarray, (N, C, H, W) or (C, H, W), float32 or float64
        A batch of images, or one. Any strides.
    weight : ndarray, (K, C // groups, kh, kw), the dtype of `x`
        K filters.
    bias : ndarray, (K,), optional
        A number added to each output channel.
    stride, dilation : int or (int, int)
        The step between windows and between a filter's taps, in pixels.
    padding : int, (int, int), ((int, int), (int, int)), "valid" or "same"
        Zeros around the image: all round, ``(h, w)``, or ``((top, bottom), (left, right))``.
        "same" gives ``ceil(H / stride)`` rows.
    groups : int
        Input and output channels fall into so many groups, each convolved by itself.
    activation : None or "relu"
        Applied to the result: ``max(y, 0)``, NaN stays.
    algorithm : "auto", "direct" or "im2col"
        "direct" makes no matrix of columns and has the accuracy of a plain sum; "im2col" is the
        matrix product of the lecture. "auto" chooses by the layer's shape.
    out : ndarray, optional
        Where to put the result.

    Returns
    -------
    ndarray, (N, K, OH, OW) or (K, OH, OW)
        Of the dtype of `x`.

    Raises
    ------
    ValueError
        Shapes that do not fit, a number out of range, a kernel larger than the padded image, an
        `out` that does not fit.
    TypeError
        An array of another dtype, a number that is not an integer.
    MemoryError
        The result or the workspace does not fit into memory.

    Examples
    --------
    Ten 5x5 filters over a 32x32 image of three channels:

    >>> import numpy as np, slidedot as sd
    >>> x = np.ones((3, 32, 32), np.float32)
    >>> weight = np.ones((10, 3, 5, 5), np.float32)
    >>> y = sd.conv2d(x, weight, padding=2)
    >>> y.shape, float(y[0, 16, 16])
    ((10, 32, 32), 75.0)
    """
    function = "conv2d"
    _validation.choice(function, "algorithm", algorithm, ALGORITHMS)
    _validation.choice(function, "activation", activation, ACTIVATIONS)
    x, single, weight, h, w, groups = _layer(function, x, weight, stride, padding, dilation, groups)
    n, k = x.shape[0], weight.shape[0]
    if bias is not None:
        bias = _validation.floats(function, "bias", bias, (1,), "(K,)")
        _validation.one_dtype(function, x=x, bias=bias)
        _validation.shape(function, "bias", bias, (k,))
    shape = (n, k, h.out, w.out)
    y = _validation.output(
        function, out, shape[1:] if single else shape, x.dtype.type, x=x, weight=weight, bias=bias
    )
    x, weight, bias = map(_validation.plain, (x, weight, bias))
    if bias is not None:
        bias = np.ascontiguousarray(bias)
    relu = activation == "relu"
    if algorithm == "im2col":
        _conv2d_im2col(x, weight, bias, y.reshape(shape), h, w, groups, relu)
    elif y.size:
        threads = _threads.threads_for(y.size * weight[0].size)
        _validation.workspace(
            function,
            _dispatch.kernels.convolution.forward(
                x, weight, bias, y.reshape(shape), h, w, groups, relu, threads
            ),
        )
    return _validation.deliver(y, out)


def _columns(function, x, h, w):
    """Room for the columns of one image of x (n, c, h, w)."""
    shape = (x.shape[1] * h.kernel * w.kernel, h.out * w.out)
    return _validation.empty(function, shape, x.dtype)


def _conv2d_im2col(x, weight, bias, y, h, w, groups, relu):
    """Fill y (n, k, oh, ow): per image, the filters as a matrix times the image's columns."""
    k, kernel_size = weight.shape[0], weight.shape[2:]
    filters = weight.reshape(groups, k // groups, -1)
    cols = _columns("conv2d", x, h, w)
    for image, result in zip(x, y, strict=True):
        im2col(image, kernel_size, out=cols, **_window_arguments(h, w))
        np.matmul(
            filters,
            cols.reshape(groups, filters.shape[2], -1),
            out=result.reshape(groups, k // groups, -1),
        )
        if bias is not None:
            result += bias[:, None, None]
        if relu:
            np.maximum(result, 0, out=result)


def conv2d_backward(
    grad_out,
    x,
    weight,
    *,
    stride=1,
    padding=0,
    dilation=1,
    groups=1,
    algorithm="auto",
    need=NAMES,
):
    """Return the gradients of `conv2d` for its input, weight and bias.

    ``x[n, c, i] = sum over k, tap of weight[k, c, tap] * grad_out[n, k, (i - tap) / stride]``,
    ``weight[k, c, tap] = sum over n, o of grad_out[n, k, o] * x[n, c, o * stride + tap]`` and
    ``bias[k] = sum over n, o of grad_out[n, k, o]``.

    Parameters
    ----------
    grad_out : ndarray, (N, K, OH, OW) or (K, OH, OW), float32 or float64
        The gradient for the output.
    x : ndarray, (N, C, H, W) or (C, H, W), the dtype of `grad_out`
        The input of `conv2d`.
    weight : ndarray, (K, C // groups, kh, kw), the dtype of `grad_out`
        Its weight.
    stride, padding, dilation, groups
        As in `conv2d`.
    algorithm : "auto", "direct" or "im2col"
        As in `conv2d`.
    need : tuple of "x", "weight" and "bias"
        Which gradients to compute.

    Returns
    -------
    Conv2dGradients
        A named tuple ``(x, weight, bias)``; None where not needed.

    Raises
    ------
    ValueError
        Shapes that do not fit, a number out of range, an unknown name in `need`.
    TypeError
        An array of another dtype, a number that is not an integer.
    MemoryError
        A result or the workspace does not fit into memory.

    Examples
    --------
    >>> import numpy as np, slidedot as sd
    >>> x = np.arange(9.0).reshape(1, 3, 3)
    >>> weight = np.array([[[[1.0, 2.0], [3.0, 4.0]]]])
    >>> grads = sd.conv2d_backward(np.ones((1, 2, 2)), x, weight)
    >>> grads.x
    array([[[ 1.,  3.,  2.],
            [ 4., 10.,  6.],
            [ 3.,  7.,  4.]]])
    >>> grads.weight, grads.bias
    (array([[[[ 8., 12.],
             [20., 24.]]]]), array([4.]))
    """
    function = "conv2d_backward"
    _validation.choice(function, "algorithm", algorithm, ALGORITHMS)
    if not isinstance(need, (tuple, list, set, frozenset)) or not all(
        isinstance(name, str) and name in NAMES for name in need
    ):
        raise ValueError(
            f"{function}: need must be a tuple of 'x', 'weight' and 'bias', got need={shown(need)}"
        )
    x, single, weight, h, w, groups = _layer(function, x, weight, stride, padding, dilation, groups)
    n, k = x.shape[0], weight.shape[0]
    grad_out = _validation.floats(
        function, "grad_out", grad_out, (3, 4), "(N, K, OH, OW) or (K, OH, OW)"
    )
    _validation.one_dtype(function, x=x, grad_out=grad_out)
    shape = (n, k, h.out, w.out)
    _validation.shape(function, "grad_out", grad_out, shape[1:] if single else shape)
    if single:
        grad_out = grad_out[None]
    grad_out, x, weight = map(_validation.plain, (grad_out, x, weight))
    gradients = {
        name: _validation.empty(function, size, x.dtype.type) if name in need else None
        for name, size in (("x", x.shape), ("weight", weight.shape), ("bias", (k,)))
    }
    if algorithm == "im2col":
        _conv2d_backward_im2col(grad_out, x, weight, h, w, groups, **gradients)
    else:
        _conv2d_backward_direct(function, grad_out, x, weight, h, w, groups, **gradients)
    if single and "x" in need:
        gradients["x"] = gradients["x"][0]
    return Conv2dGradients(**gradients)


def _conv2d_backward_direct(function, grad_out, x_in, weight_in, h, w, groups, x, weight, bias):
    kernels = _dispatch.kernels.convolution
    threads = _threads.threads_for(grad_out.size * weight_in[0].size)
    if not grad_out.size:  # an empty batch
        for gradient in (weight, bias):
            if gradient is not None:
                gradient.fill(0)
        return
    if x is not None:
        _validation.workspace(
            function, kernels.gradient_x(grad_out, weight_in, x, h, w, groups, threads)
        )
    if weight is not None:
        _validation.workspace(
            function, kernels.gradient_weight(grad_out, x_in, weight, h, w, groups, threads)
        )
    if bias is not None:
        kernels.gradient_bias(grad_out, bias, _threads.threads_for(grad_out.size))


def _conv2d_backward_im2col(grad_out, x_in, weight_in, h, w, groups, x, weight, bias):
    """Both products of the lecture, per image: with the columns, and back through `col2im`."""
    k, kernel_size = weight_in.shape[0], weight_in.shape[2:]
    filters = weight_in.reshape(groups, k // groups, -1)
    arguments = _window_arguments(h, w)
    if weight is not None:
        products = weight.reshape(filters.shape)
        products[...] = 0
        cols = _columns("conv2d_backward", x_in, h, w)
    for i, grad in enumerate(np.ascontiguousarray(grad_out)):
        grad = grad.reshape(groups, k // groups, -1)
        if weight is not None:
            im2col(x_in[i], kernel_size, out=cols, **arguments)
            products += grad @ cols.reshape(groups, filters.shape[2], -1).transpose(0, 2, 1)
        if x is not None:
            grad_cols = filters.transpose(0, 2, 1) @ grad
            grad_cols = grad_cols.reshape(-1, grad.shape[2])
            col2im(grad_cols, x.shape[2:], kernel_size, out=x[i], **arguments)
    if bias is not None:
        np.sum(grad_out, axis=(0, 2, 3), out=bias)

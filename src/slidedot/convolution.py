"""Convolution, as in the lecture: slide the filter over the image and take dot products."""

from __future__ import annotations

import functools
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple, SupportsIndex, TypeAlias

import numpy as np
from numpy.typing import NDArray

from slidedot import _dispatch, _threads, _validation
from slidedot._types import Activation, Algorithm, Float, Floats
from slidedot.columns import col2im, im2col
from slidedot.geometry import (
    Axis,
    Padding,
    Part,
    Size,
    divide_channels,
    integer,
    pair,
    shown,
    transposed_windows,
    windows,
)

__all__ = ["Conv2dGradients", "Conv2dPlan", "conv2d", "conv2d_backward", "conv_transpose2d"]

ALGORITHMS: tuple[Algorithm, ...] = ("auto", "direct", "im2col", "winograd")
ACTIVATIONS: tuple[Activation, ...] = (None, "relu")
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

    # or None: Any, so that who asked for a gradient need not check that it is there
    x: Floats | Any
    weight: Floats | Any
    bias: Floats | Any


class _Layer(NamedTuple):
    """A convolution's geometry, and what serves it."""

    h: Axis
    w: Axis
    groups: int
    algorithm: Algorithm  # never "auto"
    family: str  # of the kernels, where the algorithm is not "im2col"

    def windows(self) -> dict[str, Any]:
        """Return the keywords with which `im2col` and `col2im` walk over the same windows."""
        h, w = self.h, self.w
        return {
            "stride": (h.stride, w.stride),
            "padding": ((h.before, h.after), (w.before, w.after)),
            "dilation": (h.dilation, w.dilation),
        }


def _filters(
    function: str, weight: NDArray[Float], axes: str = "(K, C // groups, kh, kw)"
) -> NDArray[Float]:
    """Check a weight by itself, all but its shape."""
    return _validation.floats(function, "weight", weight, (4,), axes)


def _check_taps(function: str, weight_shape: tuple[int, ...]) -> None:
    if 0 in weight_shape:
        raise ValueError(f"{function}: weight is an empty filter, got shape {weight_shape}")


def _layer(
    function: str,
    algorithm: Algorithm,
    dtype: Any,
    x_shape: Sequence[int],
    weight_shape: tuple[Any, ...],
    *window: Any,
) -> _Layer:
    """Check that an input and a weight of these shapes fit and that the algorithm serves them;
    `window` is stride, padding, dilation and groups."""
    _validation.choice(function, "algorithm", algorithm, ALGORITHMS)
    _check_taps(function, weight_shape)
    stride, padding, dilation, groups = window
    groups = integer(function, "groups", groups)
    channels = x_shape[1]
    divide_channels(function, groups, C=channels, K=weight_shape[0])
    if weight_shape[1] != channels // groups:
        raise ValueError(
            f"{function}: weight must have C // groups = {channels} // {groups} channels, "
            f"got shape {weight_shape}"
        )
    axes = windows(function, x_shape[2:], weight_shape[2:], stride, padding, dilation)
    return _served(function, algorithm, dtype, weight_shape, *axes, groups)


def _transposed_layer(
    function: str,
    dtype: Any,
    x_shape: Sequence[int],
    weight_shape: tuple[Any, ...],
    *window: Any,
) -> _Layer:
    """The same of a transposed convolution: the layer whose gradient for its input it is; `window`
    is stride, padding, output_padding, dilation and groups."""
    _check_taps(function, weight_shape)
    stride, padding, output_padding, dilation, groups = window
    groups = integer(function, "groups", groups)
    channels = x_shape[1]
    divide_channels(function, groups, C=channels)
    if weight_shape[0] != channels:
        raise ValueError(
            f"{function}: weight must be (C = {channels}, K // groups, kh, kw), "
            f"got shape {weight_shape}"
        )
    axes = transposed_windows(
        function, x_shape[2:], weight_shape[2:], stride, padding, output_padding, dilation
    )
    return _served(function, "auto", dtype, weight_shape, *axes, groups)


#: A network calls with the same few shapes over and over. What is no plain int or str, and might be
#: equal to one, is checked each time.
_known_layer = functools.lru_cache(maxsize=256)(_layer)
_known_transposed_layer = functools.lru_cache(maxsize=256)(_transposed_layer)
_PLAIN = {int, str}


def _plain(value: object) -> bool:
    return type(value) in _PLAIN or (type(value) is tuple and all(map(_plain, value)))


def _all_plain(window: tuple[object, ...]) -> bool:
    return _PLAIN.issuperset(map(type, window)) or all(map(_plain, window))


def _layer_of(
    function: str, algorithm: Algorithm, x: Floats, weight: Floats, *window: Any
) -> _Layer:
    layer = _known_layer if _all_plain(window) and type(algorithm) is str else _layer
    return layer(function, algorithm, weight.dtype.type, x.shape, weight.shape, *window)


def _bias(
    function: str, bias: NDArray[Float] | None, weight: NDArray[Float], channels: int
) -> NDArray[Float] | None:
    """Check a bias of so many output channels."""
    if bias is None:
        return None
    bias = _validation.floats(function, "bias", bias, (1,), "(K,)")
    _validation.one_dtype(function, "weight", weight, "bias", bias)
    _validation.shape(function, "bias", bias, (channels,))
    return bias


def _winograd_pays(channels: int, outputs: int, height: int, width: int) -> bool:
    """Whether Winograd's algorithm is the faster one, by the layer's shape alone.

    Channels are those of one group, height and width those of the output. Times of "direct" over
    "winograd", forward, for one image (and for eight), filters transformed in the call:

    - 16 -> 16 channels: 4x4 0.7 (1.5), 14x14 1.1 (1.7), 56x56 1.8 (2.0)
    - 64 -> 64 channels: 4x4 0.8 (2.4), 14x14 2.1 (2.6), 56x56 2.9 (2.8)
    - 512 -> 512 channels: 3x3 0.8 (2.0), 7x7 1.7 (2.7), 28x28 3.2 (3.4)
    - 8 -> 8 channels: 0.8 to 1.1 at every size

    Both gradients follow within a tenth or two. A batch of small planes gains more than a single
    one loses, and the batch must not decide: its images would have other bits than one alone.
    """
    return min(channels, outputs) >= 16 and min(height, width) >= 3


def winograd_tiles(out: int, start: int, stop: int) -> tuple[int, int]:
    """Widen the outputs ``[start, stop)`` of an axis of `out` to whole tiles of Winograd's.

    Those are of four outputs, and at the end of three where four does not divide `out`. Computed
    apart from the others, whole tiles have the same bits.
    """
    tiles = -(-out // 4)
    threes = min(tiles, 4 * tiles - out)
    fours = 4 * (tiles - threes)

    def edge(output: int, up: int) -> int:  # of the tile of an output, rounded up or down
        begin, size = (0, 4) if output < fours else (fours, 3)
        return begin + (output - begin + up * (size - 1)) // size * size

    return edge(start, 0), min(edge(stop, 1), out)


#: The largest stride and dilation that the depthwise kernels serve: their tables and copies hold
#: all the rows from a band's first tap to its last, the others only those that a tap meets.
_DEPTHWISE_STEP = 16


def _served(
    function: str,
    algorithm: Algorithm,
    dtype: Any,
    weight_shape: tuple[int, ...],
    h: Axis,
    w: Axis,
    groups: int,
) -> _Layer:
    """Return the layer, with the algorithm and the kernels that serve it; refuse an algorithm that
    cannot."""
    outputs, channels, _, _ = weight_shape
    pays = _winograd_pays(channels, outputs // groups, h.out, w.out)
    if algorithm == "winograd" or (algorithm == "auto" and pays):
        unfit = _unfit_for_winograd(dtype, h, w)
        if unfit is None:
            return _Layer(h, w, groups, "winograd", "winograd")
        if algorithm == "winograd":
            raise ValueError(f"{function}: {unfit} with algorithm='winograd'")
    if algorithm != "im2col":
        algorithm = "direct"
    steps = h.stride, w.stride, h.dilation, w.dilation
    one_filter_each = groups == outputs > 1 == channels
    depthwise = one_filter_each and max(steps) <= _DEPTHWISE_STEP
    return _Layer(h, w, groups, algorithm, "depthwise" if depthwise else "convolution")


def _unfit_for_winograd(dtype: type, h: Axis, w: Axis) -> str | None:
    for name, given, needed in (
        ("kernel_size", (h.kernel, w.kernel), (3, 3)),
        ("stride", (h.stride, w.stride), (1, 1)),
        ("dilation", (h.dilation, w.dilation), (1, 1)),
        ("dtype", dtype.__name__, "float32"),
    ):
        if given != needed:
            return f"algorithm needs {name}={needed}, got {name}={given}"
    return None


def conv2d(
    x: NDArray[Float],
    weight: NDArray[Float],
    bias: NDArray[Float] | None = None,
    *,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    groups: SupportsIndex = 1,
    activation: Activation = None,
    algorithm: Algorithm = "auto",
    out: NDArray[Float] | None = None,
) -> NDArray[Float]:
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
    algorithm : "auto", "direct", "im2col" or "winograd"
        "direct" makes no matrix of columns and has the accuracy of a plain sum; "im2col" is the
        matrix product of the lecture. "winograd" takes a quarter of the multiplications, for 3x3
        filters with stride and dilation 1 in float32; it is a few bits less accurate, and a
        non-finite number may spread to the outputs of its 4x4 tile. "auto" chooses by the layer's
        shape.
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

    References
    ----------
    Goodfellow, Bengio and Courville, "Deep Learning", section 9.1,
    https://www.deeplearningbook.org; Lavin and Gray, "Fast Algorithms for Convolutional Neural
    Networks", arXiv 1509.09308, for "winograd".

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
    _validation.choice(function, "activation", activation, ACTIVATIONS)
    x, single = _validation.images(function, "x", x)
    weight = _filters(function, weight)
    _validation.one_dtype(function, "x", x, "weight", weight)
    layer = _layer_of(function, algorithm, x, weight, stride, padding, dilation, groups)
    bias = _bias(function, bias, weight, weight.shape[0])
    return _forward(function, x, single, weight, bias, layer, activation == "relu", out)


#: The kernels of one family and CPU level, and a weight as they want it.
_Packed: TypeAlias = tuple[Any, "Floats | None"]


def _forward(
    function: str,
    x: NDArray[Float],
    single: bool,
    weight: NDArray[Float],
    bias: NDArray[Float] | None,
    layer: _Layer,
    relu: bool,
    out: NDArray[Float] | None,
    packed: _Packed | None = None,
) -> NDArray[Float]:
    """Compute what has been checked, all but `out`; `packed` is the weight, for the kernel that
    packed it."""
    h, w, groups, algorithm, family = layer
    shape = (x.shape[0], weight.shape[0], h.out, w.out)
    given = shape[1:] if single else shape
    if out is None:
        y = _validation.empty(function, given, x.dtype.type)
    else:
        y = _validation.output(function, out, given, x.dtype.type, x=x, weight=weight, bias=bias)
    result = y[None] if single else y
    x, weight = _validation.plain(x), _validation.plain(weight)
    bias = _contiguous(bias)
    if algorithm == "im2col":
        _forward_im2col(function, x, weight, bias, result, layer, relu)
    elif y.size:
        if packed is None:
            packed = getattr(_dispatch.kernels, family), None
        kernels, prepared = packed
        work = y.size * (weight.size // shape[1])
        threads = _threads.threads_for(work)
        for images, results in _threads.interruptible(work, x, result):
            _validation.workspace(
                function,
                kernels.forward(
                    images, weight, prepared, bias, results, h, w, groups, relu, threads
                ),
            )
    return _validation.deliver(y, out)


def _contiguous(bias: NDArray[Float] | None) -> NDArray[Float] | None:
    return None if bias is None else np.ascontiguousarray(_validation.plain(bias))


def _columns(function: str, x: NDArray[Float], h: Axis, w: Axis) -> NDArray[Float]:
    """Room for the columns of one image of x (n, c, h, w)."""
    shape = (x.shape[1] * h.kernel * w.kernel, h.out * w.out)
    return _validation.empty(function, shape, x.dtype)


def _forward_im2col(
    function: str,
    x: NDArray[Float],
    weight: NDArray[Float],
    bias: NDArray[Float] | None,
    y: NDArray[Float],
    layer: _Layer,
    relu: bool,
) -> None:
    """Fill y (n, k, oh, ow): per image, the filters as a matrix times the image's columns."""
    h, w, groups = layer[:3]
    k, kernel_size = weight.shape[0], weight.shape[2:]
    filters = np.ascontiguousarray(weight).reshape(groups, k // groups, -1)
    cols = _columns(function, x, h, w)
    for image, result in zip(x, y, strict=True):
        im2col(image, kernel_size, out=cols, **layer.windows())
        np.matmul(
            filters,
            cols.reshape(groups, filters.shape[2], -1),
            out=result.reshape(groups, k // groups, -1),
        )
        if bias is not None:
            result += bias[:, None, None]
        if relu:
            np.maximum(result, 0, out=result)


class Conv2dPlan:
    """A convolution whose weight is prepared once, for inputs of any size and number.

    ``plan(x)`` is `conv2d` with these arguments, bit for bit. The plan keeps a copy of `weight` and
    `bias`: changing them later does not change it. Threads may share a plan, and it can be pickled.

    Parameters
    ----------
    weight : ndarray, (K, C // groups, kh, kw), float32 or float64
        K filters.
    bias : ndarray, (K,), optional
        A number added to each output channel.
    stride, padding, dilation, groups, activation, algorithm
        As in `conv2d`.
    input_size : int or (int, int), optional
        ``(H, W)`` of the images to come: what does not fit is refused here. Other sizes are
        accepted as well.

    Raises
    ------
    ValueError
        Shapes that do not fit, a number out of range.
    TypeError
        An array of another dtype, a number that is not an integer.
    MemoryError
        The prepared weight does not fit into memory.

    Examples
    --------
    >>> import numpy as np, slidedot as sd
    >>> weight = np.ones((10, 3, 5, 5), np.float32)
    >>> plan = sd.Conv2dPlan(weight, padding=2, activation="relu")
    >>> plan(np.ones((2, 3, 32, 32), np.float32)).shape
    (2, 10, 32, 32)
    >>> plan.algorithm(32), plan.flops((2, 3, 32, 32))
    ('direct', 3072000)
    """

    def __init__(
        self,
        weight: Floats,
        bias: Floats | None = None,
        *,
        stride: Size = 1,
        padding: Padding = 0,
        dilation: Size = 1,
        groups: SupportsIndex = 1,
        activation: Activation = None,
        algorithm: Algorithm = "auto",
        input_size: Size | None = None,
    ) -> None:
        function = "Conv2dPlan"
        self._algorithm: Algorithm = algorithm
        _validation.choice(function, "activation", activation, ACTIVATIONS)
        weight = _filters(function, weight)
        _check_taps(function, weight.shape)
        self._channels = weight.shape[1] * integer(function, "groups", groups)
        self._window = stride, padding, dilation, groups
        given = input_size is not None
        if input_size is None:  # check the rest on an image that every filter fits into
            taps = zip(pair(function, "dilation", dilation), weight.shape[2:], strict=True)
            h, w = (d * (k - 1) + 1 for d, k in taps)
            input_size = h, w
        size = pair(function, "input_size", input_size)
        x_shape = 1, self._channels, *size
        dtype = weight.dtype.type
        layer = _layer(function, algorithm, dtype, x_shape, weight.shape, *self._window)
        bias = _bias(function, bias, weight, weight.shape[0])
        self._weight: NDArray[Any] = np.array(weight, weight.dtype.newbyteorder("="), order="C")
        self._bias: NDArray[Any] | None = None
        if bias is not None:
            self._bias = np.array(bias, bias.dtype.newbyteorder("="))
        self._relu = activation == "relu"
        self._kernels = _dispatch.kernels
        self._packed: dict[Algorithm, _Packed] = {}
        if given or self._algorithm != "auto":
            self._prepared(layer)

    def __getstate__(self) -> dict[str, Any]:
        # kernels stay behind, and with them the weight as they want it: where the plan is unpickled
        # the CPU may have another level
        return {k: v for k, v in vars(self).items() if k not in ("_kernels", "_packed")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _kernels=_dispatch.kernels, _packed={})

    def _variant(self, padding: Padding, algorithm: Algorithm) -> Conv2dPlan:
        """Return a plan with another padding and algorithm, which shares the prepared weight."""
        stride, _, dilation, groups = self._window
        plan = object.__new__(Conv2dPlan)
        window = stride, padding, dilation, groups
        vars(plan).update(vars(self), _window=window, _algorithm=algorithm)
        return plan

    def _prepared(self, layer: _Layer) -> _Packed | None:
        """Return the weight as a layer's kernels want it, for images of any size."""
        _, _, groups, algorithm, family = layer
        if algorithm == "im2col":
            return None
        if algorithm not in self._packed:  # threads that meet here do the same thing twice
            function = "Conv2dPlan"
            kernels = getattr(self._kernels, family)
            size = kernels.packed_size(self._weight.shape, groups, self._weight.itemsize)
            packed = _validation.empty(function, (size,), self._weight.dtype.type)
            threads = _threads.threads_for(size)
            _validation.workspace(function, kernels.pack(self._weight, packed, groups, threads))
            self._packed[algorithm] = kernels, packed
        return self._packed[algorithm]

    def _is_of(self, weight: Floats, bias: Floats | None) -> bool:
        """Whether the plan is that of these arrays as they are now."""
        same = np.array_equal(self._weight, weight) and self._weight.dtype == weight.dtype
        if bias is None or self._bias is None:
            return same and bias is self._bias
        return same and np.array_equal(self._bias, bias)

    def __call__(self, x: NDArray[Float], out: NDArray[Float] | None = None) -> NDArray[Float]:
        """Return the convolution of x (N, C, H, W) or (C, H, W), in `out` if it is given.

        Parameters
        ----------
        x : ndarray, (N, C, H, W) or (C, H, W), the dtype of the weight
            A batch of images, or one. Any strides.
        out : ndarray, optional
            Where to put the result.

        Returns
        -------
        ndarray, (N, K, OH, OW) or (K, OH, OW)
            What `conv2d` returns.

        Raises
        ------
        ValueError, TypeError, MemoryError
            As `conv2d`.
        """
        function = "Conv2dPlan"
        x, single = _validation.images(function, "x", x)
        _validation.one_dtype(function, "x", x, "weight", self._weight)
        layer = _layer_of(function, self._algorithm, x, self._weight, *self._window)
        return _forward(
            function, x, single, self._weight, self._bias, layer, self._relu, out,
            self._prepared(layer),
        )  # fmt: skip

    def _geometry(self, x_shape: Sequence[SupportsIndex]) -> tuple[_Layer, int]:
        """Return the layer over an input of a shape (N, C, H, W) or (C, H, W), and N."""
        function = "Conv2dPlan"
        if not isinstance(x_shape, (tuple, list)) or len(x_shape) not in (3, 4):
            raise ValueError(
                f"{function}: x_shape must be (N, C, H, W) or (C, H, W), got "
                f"x_shape={shown(x_shape)}"
            )
        *batch, c, h, w = (
            integer(function, "x_shape", n, minimum, whole=x_shape)
            for n, minimum in zip(x_shape, (0, 1, 1, 1)[-len(x_shape) :], strict=True)
        )
        n = batch[0] if batch else 1
        dtype, shape = self._weight.dtype.type, self._weight.shape
        return _layer(function, self._algorithm, dtype, (n, c, h, w), shape, *self._window), n

    def algorithm(self, input_size: Size) -> Algorithm:
        """Return which algorithm serves images of this size.

        Parameters
        ----------
        input_size : int or (int, int)
            ``(H, W)``.

        Returns
        -------
        str
            "direct", "im2col" or "winograd".

        Raises
        ------
        ValueError
            A size that the filters do not fit into.
        TypeError
            A size that is not an integer.
        """
        function = "Conv2dPlan"
        layer, _ = self._geometry((self._channels, *pair(function, "input_size", input_size)))
        return layer.algorithm

    def workspace_bytes(self, x_shape: Sequence[SupportsIndex]) -> int:
        """Return the memory that a call takes besides its input, its output and the plan.

        Parameters
        ----------
        x_shape : tuple of int
            ``(N, C, H, W)`` or ``(C, H, W)``, of an array that needs no copy.

        Returns
        -------
        int
            Bytes, with as many threads as the call would use now.

        Raises
        ------
        ValueError
            A shape that does not fit.
        TypeError
            A number that is not an integer.
        """
        layer, n = self._geometry(x_shape)
        h, w, groups, algorithm, family = layer
        if algorithm == "im2col":
            return self._weight[0].size * groups * h.out * w.out * self._weight.itemsize
        if n == 0:
            return 0
        threads = _threads.threads_for(n * h.out * w.out * self._weight.size)
        kernels = getattr(self._kernels, family)
        return kernels.forward_workspace(n, self._weight, h, w, groups, threads)

    def flops(self, x_shape: Sequence[SupportsIndex]) -> int:
        """Return the floating-point operations of the plain convolution, two per multiply-add.

        Parameters
        ----------
        x_shape : tuple of int
            ``(N, C, H, W)`` or ``(C, H, W)``.

        Returns
        -------
        int
            ``2 * N * K * OH * OW * (C // groups) * kh * kw``.

        Raises
        ------
        ValueError
            A shape that does not fit.
        TypeError
            A number that is not an integer.
        """
        layer, n = self._geometry(x_shape)
        return 2 * n * layer.h.out * layer.w.out * self._weight.size


def conv2d_backward(
    grad_out: NDArray[Float],
    x: NDArray[Float],
    weight: NDArray[Float],
    *,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    groups: SupportsIndex = 1,
    algorithm: Algorithm = "auto",
    need: Collection[str] = ("x", "weight", "bias"),
) -> Conv2dGradients:
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
    algorithm : "auto", "direct", "im2col" or "winograd"
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
    if not isinstance(need, (tuple, list, set, frozenset)) or not all(
        isinstance(name, str) and name in NAMES for name in need
    ):
        raise ValueError(
            f"{function}: need must be a tuple of 'x', 'weight' and 'bias', got need={shown(need)}"
        )
    x, single = _validation.images(function, "x", x)
    weight = _filters(function, weight)
    _validation.one_dtype(function, "x", x, "weight", weight)
    layer = _layer_of(function, algorithm, x, weight, stride, padding, dilation, groups)
    n, k = x.shape[0], weight.shape[0]
    grad_out = _validation.floats(
        function, "grad_out", grad_out, (3, 4), "(N, K, OH, OW) or (K, OH, OW)"
    )
    _validation.one_dtype(function, "x", x, "grad_out", grad_out)
    shape = (n, k, layer.h.out, layer.w.out)
    _validation.shape(function, "grad_out", grad_out, shape[1:] if single else shape)
    if single:
        grad_out = grad_out[None]
    grad_out, x, weight = map(_validation.plain, (grad_out, x, weight))
    gradients: dict[str, Any] = {
        name: _validation.empty(function, size, x.dtype.type) if name in need else None
        for name, size in (("x", x.shape), ("weight", weight.shape), ("bias", (k,)))
    }
    backward = _backward_im2col if layer.algorithm == "im2col" else _backward_kernels
    backward(function, grad_out, x, weight, layer, **gradients)
    if single and "x" in need:
        gradients["x"] = gradients["x"][0]
    return Conv2dGradients(**gradients)


def _backward_kernels(
    function: str,
    grad_out: Floats,
    x_in: Floats,
    weight_in: Floats,
    layer: _Layer,
    x: Floats | None,
    weight: Floats | None,
    bias: Floats | None,
) -> None:
    h, w, groups = layer[:3]
    if not grad_out.size:  # an empty batch
        for gradient in (weight, bias):
            if gradient is not None:
                gradient.fill(0)
        return
    if x is not None:
        _gradient_x(function, grad_out, weight_in, None, layer, x)
    if weight is not None:
        kernels = getattr(_dispatch.kernels, layer.family)
        threads = _threads.threads_for(grad_out.size * weight_in[0].size)
        _validation.workspace(
            function, kernels.gradient_weight(grad_out, x_in, weight, h, w, groups, threads)
        )
    if bias is not None:
        threads = _threads.threads_for(grad_out.size)
        _dispatch.kernels.convolution.gradient_bias(grad_out, bias, threads)


def relu_gradient(y: NDArray[Float], grad_out: NDArray[Float]) -> NDArray[Float]:
    """Return `grad_out` where the ReLU that gave `y`, C-contiguous, let its input through, NaN
    included."""
    grad_out = _validation.plain(grad_out)
    if not grad_out.flags.c_contiguous:
        strided = grad_out
        grad_out = _validation.empty("backward", y.shape, y.dtype.type)
        grad_out[...] = strided
    x = _validation.empty("backward", y.shape, y.dtype.type)
    _dispatch.kernels.convolution.gradient_relu(
        y.reshape(-1), grad_out.reshape(-1), x.reshape(-1), _threads.threads_for(y.size)
    )
    return x


def _gradient_x(
    function: str,
    grad_out: Floats,
    weight: Floats,
    bias: Floats | None,
    layer: _Layer,
    x: Floats,
) -> None:
    """Fill x (n, c, h, w); `bias` (c,) is added."""
    h, w, groups, _, family = layer
    if max(h.stride, w.stride) > 2:  # the depthwise kernel has two phases at most
        family = "convolution"
    kernels = getattr(_dispatch.kernels, family)
    work = grad_out.size * weight[0].size
    threads = _threads.threads_for(work)
    for grads, images in _threads.interruptible(work, grad_out, x):
        _validation.workspace(
            function, kernels.gradient_x(grads, weight, bias, images, h, w, groups, threads)
        )


def _backward_im2col(
    function: str,
    grad_out: Floats,
    x_in: Floats,
    weight_in: Floats,
    layer: _Layer,
    x: Floats | None,
    weight: Floats | None,
    bias: Floats | None,
) -> None:
    """Both products of the lecture, per image: with the columns, and back through `col2im`."""
    h, w, groups = layer[:3]
    k, kernel_size = weight_in.shape[0], weight_in.shape[2:]
    filters = weight_in.reshape(groups, k // groups, -1)
    arguments = layer.windows()
    if weight is not None:
        products = weight.reshape(filters.shape)
        products[...] = 0
        cols = _columns(function, x_in, h, w)
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


def conv_transpose2d(
    x: NDArray[Float],
    weight: NDArray[Float],
    bias: NDArray[Float] | None = None,
    *,
    stride: Size = 1,
    padding: Padding = 0,
    output_padding: Size = 0,
    dilation: Size = 1,
    groups: SupportsIndex = 1,
    out: NDArray[Float] | None = None,
) -> NDArray[Float]:
    """Lay the filters down, each weighted by a pixel, and add up where they overlap.

    The transpose of `conv2d` as a matrix, and so its gradient for the input: ``y[n, k, i] =
    bias[k] + sum over c, tap, o of weight[c, k, tap] * x[n, c, o]`` where ``i = o * stride +
    tap * dilation - before``. With a stride the result is the larger image. Its height is
    ``(H - 1) * stride - top - bottom + dilation * (kh - 1) + output_padding + 1``, its width
    likewise.

    Parameters
    ----------
    x : ndarray, (N, C, H, W) or (C, H, W), float32 or float64
        A batch of images, or one. Any strides.
    weight : ndarray, (C, K // groups, kh, kw), the dtype of `x`
        The weight of the `conv2d` that it transposes, from K channels to C.
    bias : ndarray, (K,), optional
        A number added to each output channel.
    stride, dilation : int or (int, int)
        The step between the places where filters are laid and between a filter's taps, in pixels
        of the result.
    padding : int, (int, int), ((int, int), (int, int)), "valid" or "same"
        Pixels that the result loses: all round, ``(h, w)``, or ``((top, bottom), (left, right))``.
        "same" leaves ``H * stride`` rows.
    output_padding : int or (int, int)
        Pixels that the result gains at the bottom and right, less than the stride or the dilation:
        a convolution with a stride gives inputs of several sizes one output size, and this tells
        them apart.
    groups : int
        Input and output channels fall into so many groups, each convolved by itself.
    out : ndarray, optional
        Where to put the result.

    Returns
    -------
    ndarray, (N, K, OH, OW) or (K, OH, OW)
        Of the dtype of `x`.

    Raises
    ------
    ValueError
        Shapes that do not fit, a number out of range, padding that leaves nothing, an `out` that
        does not fit.
    TypeError
        An array of another dtype, a number that is not an integer.
    MemoryError
        The result or the workspace does not fit into memory.

    See Also
    --------
    conv2d_backward : Its own gradients: for `x` ``conv2d(grad_out, weight)`` with the same stride,
        padding and dilation, for `weight` that of `conv2d` with `x` and `grad_out` in each other's
        place.

    Notes
    -----
    As in `conv2d_backward` with ``algorithm="auto"``, 3x3 filters with stride and dilation 1 in
    float32 may be served by Winograd's algorithm.

    References
    ----------
    Dumoulin and Visin, "A guide to convolution arithmetic for deep learning", chapter 4,
    arXiv 1603.07285.

    Examples
    --------
    Each pixel lays its filter down, two apart; in the middle two of them overlap:

    >>> import numpy as np, slidedot as sd
    >>> x = np.array([[[1.0, 10.0]]])
    >>> sd.conv_transpose2d(x, np.array([[[[1.0, 2.0, 3.0]]]]), stride=2)
    array([[[ 1.,  2., 13., 20., 30.]]])
    """
    function = "conv_transpose2d"
    x, single = _validation.images(function, "x", x)
    weight = _filters(function, weight, "(C, K // groups, kh, kw)")
    _validation.one_dtype(function, "x", x, "weight", weight)
    window: tuple[Any, ...] = stride, padding, output_padding, dilation, groups
    known = _known_transposed_layer if _all_plain(window) else _transposed_layer
    dtype: Any = weight.dtype.type
    layer = known(function, dtype, x.shape, weight.shape, *window)
    bias = _bias(function, bias, weight, weight.shape[1] * layer.groups)
    return transpose(function, x, single, weight, bias, layer, out)


def transposed_layer(layer: Any, size: tuple[int, int]) -> _Layer:
    """Return the geometry of a `ConvTranspose2d` over `size` pixels, and what serves it."""
    weight, x_shape = layer.weight, (1, layer.in_channels, *size)
    window = layer.stride, layer.padding, layer.output_padding, layer.dilation, layer.groups
    return _transposed_layer("ConvTranspose2d", weight.dtype.type, x_shape, weight.shape, *window)


def transpose_part(
    x: Floats,
    weight: Floats,
    bias: Floats | None,
    layer: _Layer,
    parts: tuple[Part, Part],
) -> Floats:
    """Compute the part of a transposed convolution that `Axis.transposed_part` gave, from its
    input."""
    axes = []
    for axis, part in zip(layer[:2], parts, strict=True):
        out = part.stop - part.start
        size = (out - 1) * axis.stride + axis.span - part.before - part.after
        axes.append(axis._replace(size=size, out=out, before=part.before, after=max(0, part.after)))
    images, single = _validation.images("conv_transpose2d", "x", x)
    within = layer._replace(h=axes[0], w=axes[1])
    return transpose("conv_transpose2d", images, single, weight, bias, within)


def transpose(
    function: str,
    x: NDArray[Float],
    single: bool,
    weight: NDArray[Float],
    bias: NDArray[Float] | None,
    layer: _Layer,
    out: NDArray[Float] | None = None,
) -> NDArray[Float]:
    """Compute a transposed convolution that has been checked, all but `out`."""
    shape = (x.shape[0], weight.shape[1] * layer.groups, layer.h.size, layer.w.size)
    given = shape[1:] if single else shape
    y = _validation.output(function, out, given, x.dtype.type, x=x, weight=weight, bias=bias)
    x, weight = _validation.plain(x), _validation.plain(weight)
    if y.size:
        result = y[None] if single else y
        _gradient_x(function, x, weight, _contiguous(bias), layer, result)
    return _validation.deliver(y, out)

"""Layers of a ConvNet: each holds its parameters and what its backward pass needs.

A layer computes nothing of its own that a function of this package computes. Names and shapes of
parameters are those of ``torch.nn``, so a ``state_dict`` can be exchanged with it.

One training step, with `slidedot.optim`::

    logits = model.forward(images, training=True)
    loss, grad = softmax_cross_entropy(logits, labels)
    model.backward(grad, need_input_grad=False)
    optimizer.step()
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, SupportsIndex, overload

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from slidedot import _validation
from slidedot._buffers import Buffers
from slidedot._types import Activation, Algorithm, Float, Floats, Integers, Layer
from slidedot.convolution import (
    ACTIVATIONS,
    ALGORITHMS,
    Conv2dPlan,
    _served,
    conv2d,
    conv2d_backward,
    conv_transpose2d,
    relu_gradient,
)
from slidedot.geometry import (
    Axis,
    Padding,
    Size,
    divide_channels,
    flag,
    integer,
    output_padding_pair,
    pair,
    receptive_field,
    shown,
    transposed_windows,
    windows,
)
from slidedot.pooling import (
    avg_pool2d,
    avg_pool2d_backward,
    max_pool2d,
    max_pool2d_backward,
    max_unpool2d,
)

__all__ = [
    "AvgPool2d",
    "Conv2d",
    "ConvTranspose2d",
    "Flatten",
    "Linear",
    "MaxPool2d",
    "MaxUnpool2d",
    "ReLU",
    "Sequential",
    "softmax_cross_entropy",
]

# ---------------------------------------------------------------------------------- arguments


def _floats(
    function: str, name: str, value: NDArray[Float], dtype: np.dtype[Any]
) -> NDArray[Float]:
    """Return `value` as an array of the layer's `dtype`."""
    array = _validation.floats(function, name, value)
    if array.dtype.type is not dtype.type:
        raise TypeError(f"{function}: {name} must be {dtype} as the layer, got {array.dtype}")
    return array


def _kaiming(
    function: str,
    shape: tuple[int, ...],
    dtype: DTypeLike,
    rng: np.random.Generator | SupportsIndex | None,
    inputs: float | None = None,
) -> Floats:
    """Draw weights with variance ``2 / inputs``; `shape` is ``(outputs, ...inputs of one output)``
    where `inputs` is not given."""
    try:
        kind = np.dtype(dtype).type
    except TypeError:
        kind = None
    if dtype is None or kind not in _validation.FLOATS:  # NumPy takes None for float64
        raise TypeError(f"{function}: dtype must be float32 or float64, got {shown(dtype)}")
    if not isinstance(rng, np.random.Generator):
        if rng is not None:
            rng = integer(function, "rng", rng, 0)
        rng = np.random.default_rng(rng)
    scale = math.sqrt(2 / (inputs or math.prod(shape[1:])))
    # drawn in float64, so that a seed means the same weights in both dtypes
    return (scale * rng.standard_normal(shape)).astype(kind)


def _like(function: str, x: Floats, dtype: Any = None) -> Any:
    """Return a new array of the shape of `x`."""
    return _validation.empty(function, x.shape, dtype or x.dtype.type)


def _text(layer: object, *arguments: object, **options: tuple[object, object]) -> str:
    """Return the call that makes `layer`; each option is ``(value, default)``."""

    def short(value: Any) -> str:
        square = isinstance(value, tuple) and len(value) == 2 and value[0] == value[1]
        return repr(value[0] if square else value)

    words = [short(value) for value in arguments]
    words += [f"{k}={short(v)}" for k, (v, usual) in options.items() if short(v) != short(usual)]
    return f"{type(layer).__name__}({', '.join(words)})"


# ---------------------------------------------------------------------------------- layers


class _Layer(ABC):
    """What all layers share: parameters by name, and what forward leaves for backward."""

    weight: Floats | None = None
    bias: Floats | None = None

    def __init__(self) -> None:
        self.grads: dict[str, Floats] = {}
        self._saved: tuple[tuple[int, ...], np.dtype[Any], Any] | None = None

    @abstractmethod
    def _forward(self, x: Any, training: bool) -> tuple[Any, Any]:
        """Return the output, and in training what `_backward` needs."""

    @abstractmethod
    def _backward(self, saved: Any, grad_out: Any, need_input_grad: bool) -> Any:
        """Store `grads`; return the gradient for the input, or None if not needed."""

    def __call__(self, x: NDArray[Float]) -> NDArray[Float]:
        """Return ``forward(x, training=False)``.

        Parameters
        ----------
        x : ndarray
            As for `forward`.

        Returns
        -------
        ndarray
            The output, of the input's dtype.
        """
        return self.forward(x)

    def forward(self, x: NDArray[Float], training: bool = False) -> NDArray[Float]:
        """Return what the layer makes of `x`.

        Parameters
        ----------
        x : ndarray
            A batch, or one input without the batch axis; the layer's docstring gives the shapes.
        training : bool
            Keep what `backward` needs; `x` and the result must not change until then.

        Returns
        -------
        ndarray
            The output, of the input's dtype.

        Raises
        ------
        ValueError
            An `x` of a shape that the layer does not take.
        TypeError
            An `x` of another dtype than the layer's, or not float32 or float64.
        """
        y, saved = self._forward(x, training)
        if training:
            self._saved = y.shape, y.dtype, saved
        return y

    @overload
    def backward(
        self, grad_out: NDArray[Float], *, need_input_grad: Literal[True] = ...
    ) -> NDArray[Float]: ...
    @overload
    def backward(
        self, grad_out: NDArray[Float], *, need_input_grad: bool
    ) -> NDArray[Float] | None: ...
    def backward(
        self, grad_out: NDArray[Float], *, need_input_grad: bool = True
    ) -> NDArray[Float] | None:
        """Store the gradients for the parameters in `grads` and return the one for the input.

        Parameters
        ----------
        grad_out : ndarray
            The gradient with respect to what the last training `forward` returned, in its shape
            and dtype.
        need_input_grad : bool
            Whether to compute the gradient for the input. Training does not need the network's,
            and then no layer before the first one with parameters computes anything.

        Returns
        -------
        ndarray or None
            The gradient for the input, in its shape and dtype; None if not needed.

        Raises
        ------
        ValueError
            No training forward since the last backward, or a `grad_out` of another shape.
        TypeError
            A `grad_out` of another dtype.
        """
        function = f"{type(self).__name__}.backward"
        if self._saved is None:
            raise ValueError(
                f"{function}: each backward must follow a forward(x, training=True) of its own, "
                "got none"
            )
        shape, dtype, saved = self._saved
        grad_out = _floats(function, "grad_out", grad_out, dtype)
        _validation.shape(function, "grad_out", grad_out, shape)  # NumPy would broadcast some
        grad_in = self._backward(saved, grad_out, need_input_grad)
        self._saved = None
        return grad_in

    def parameters(self) -> dict[str, Floats]:
        """Return the parameters themselves, no copies, by name.

        Returns
        -------
        dict of str to ndarray
            The keys are those of `grads` after a backward pass.
        """
        named = {"weight": self.weight, "bias": self.bias}
        return {name: array for name, array in named.items() if array is not None}

    def state_dict(self) -> dict[str, Floats]:
        """Return copies of the parameters, with torch's names and shapes.

        Returns
        -------
        dict of str to ndarray
            What ``numpy.savez(file, **state)`` and ``load_state_dict`` take.
        """
        return {name: array.copy() for name, array in self.parameters().items()}

    def load_state_dict(self, state: Mapping[str, ArrayLike]) -> None:
        """Copy values into the parameters.

        Nothing is written unless everything fits.

        Parameters
        ----------
        state : mapping of str to array_like
            A value of the right shape and of any real floating dtype for each parameter, e.g. an
            opened ``.npz`` file, or the ``state_dict()`` of a torch module on the CPU.

        Raises
        ------
        ValueError
            A name that is missing or unexpected, or a shape that differs.
        TypeError
            No mapping, or a value that is not floating.
        """
        function = "load_state_dict"
        if not hasattr(state, "keys"):
            raise TypeError(f"{function}: state must be a mapping, got {shown(state)}")
        parameters = self.parameters()
        missing = [name for name in parameters if name not in state]
        unexpected = [name for name in state if name not in parameters]
        if missing or unexpected:
            raise ValueError(
                f"{function}: state must hold the layer's parameters and nothing else, "
                f"got missing={missing}, unexpected={unexpected}"
            )
        values = {}
        for name, parameter in parameters.items():
            value = _validation.array(function, name, state[name])
            if value.dtype.kind != "f":
                raise TypeError(f"{function}: {name} must be floating, got {value.dtype}")
            _validation.shape(function, name, value, parameter.shape)
            values[name] = value.astype(parameter.dtype)
        for name, parameter in parameters.items():
            parameter[...] = values[name]


class _Windows(_Layer):
    """What the layers whose windows slide share."""

    kernel_size: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    padding: Padding


class Conv2d(_Windows):
    """Convolution layer: `out_channels` filters slide over the image, each a neuron everywhere.

    Takes ``(N, in_channels, H, W)`` or ``(in_channels, H, W)`` and returns
    ``(N, out_channels, OH, OW)`` or ``(out_channels, OH, OW)``, as `slidedot.conv2d` with these
    arguments. The weights start normal with variance ``2 / ((in_channels // groups) * kh * kw)``
    (He initialisation), the biases at zero.

    Parameters
    ----------
    in_channels, out_channels : int
        Channels of the input and of the output; multiples of `groups`.
    kernel_size : int or (int, int)
        Taps of a filter, ``(kh, kw)``.
    stride, dilation : int or (int, int)
        Pixels between windows and between taps.
    padding : int, (int, int), ((int, int), (int, int)), "valid" or "same"
        Pixels of zeros around the image.
    groups : int
        Groups of channels that do not see each other.
    bias : bool
        Whether each output channel has a bias.
    activation : None or "relu"
        What follows the convolution, in the same pass over the output.
    algorithm : "auto", "direct", "im2col" or "winograd"
        As in `slidedot.conv2d`, forward and backward.
    dtype : numpy.float32 or numpy.float64
        Of the parameters, and so of the input.
    rng : None, int or numpy.random.Generator
        Where the weights come from: a seed, or one generator shared by a network's layers.

    Attributes
    ----------
    weight : ndarray (out_channels, in_channels // groups, kh, kw)
    bias : ndarray (out_channels,) or None
    grads : dict of str to ndarray
        The gradients of the last backward pass, under the names of `parameters`.

    Raises
    ------
    ValueError
        A number out of range, channels that `groups` does not divide, an unknown activation, an
        algorithm that cannot serve the layer.
    TypeError
        A number that is not an integer, a dtype or rng of another kind.

    References
    ----------
    He et al., "Delving Deep into Rectifiers", section 2.2, arXiv 1502.01852.

    Examples
    --------
    Ten 5x5 filters over an image of 32x32 pixels in three channels:

    >>> import numpy as np
    >>> layer = Conv2d(3, 10, 5, padding=2, rng=0)
    >>> layer(np.zeros((1, 3, 32, 32), np.float32)).shape
    (1, 10, 32, 32)
    >>> sum(array.size for array in layer.parameters().values())
    760
    """

    def __init__(
        self,
        in_channels: SupportsIndex,
        out_channels: SupportsIndex,
        kernel_size: Size,
        *,
        stride: Size = 1,
        padding: Padding = 0,
        dilation: Size = 1,
        groups: SupportsIndex = 1,
        bias: bool = True,
        activation: Activation = None,
        algorithm: Algorithm = "auto",
        dtype: DTypeLike = np.float32,
        rng: np.random.Generator | SupportsIndex | None = None,
    ) -> None:
        super().__init__()
        function = "Conv2d"
        self.in_channels = integer(function, "in_channels", in_channels)
        self.out_channels = integer(function, "out_channels", out_channels)
        self.groups = integer(function, "groups", groups)
        divide_channels(
            function, self.groups, in_channels=self.in_channels, out_channels=self.out_channels
        )
        axes = _set_window(self, kernel_size, stride, padding, dilation)
        self.activation = _validation.choice(function, "activation", activation, ACTIVATIONS)
        shape = (self.out_channels, self.in_channels // self.groups, *self.kernel_size)
        self.weight: Floats = _kaiming(function, shape, dtype, rng)
        self.bias = (
            np.zeros(self.out_channels, self.weight.dtype) if flag(function, "bias", bias) else None
        )
        self.algorithm = _validation.choice(function, "algorithm", algorithm, ALGORITHMS)
        _served(function, algorithm, self.weight.dtype.type, shape, *axes, self.groups)
        self._plan: tuple[dict[str, Any], Conv2dPlan] | None = None

    def __repr__(self) -> str:
        return _text(
            self,
            self.in_channels,
            self.out_channels,
            self.kernel_size,
            stride=(self.stride, 1),
            padding=(self.padding, 0),
            dilation=(self.dilation, 1),
            groups=(self.groups, 1),
            bias=(self.bias is not None, True),
            activation=(self.activation, None),
            algorithm=(self.algorithm, "auto"),
        )

    def _options(self) -> dict[str, Any]:
        """Return the keywords that forward and backward share."""
        return {
            "stride": self.stride,
            "padding": self.padding,
            "dilation": self.dilation,
            "groups": self.groups,
            "algorithm": self.algorithm,
        }

    def _current_plan(self) -> Conv2dPlan:
        """Return a plan for the layer as it is now: the last one, unless something changed."""
        options = {"activation": self.activation, **self._options()}
        last = self._plan  # another thread may store its own meanwhile
        if last and last[0] == options and last[1]._is_of(self.weight, self.bias):
            return last[1]
        plan = Conv2dPlan(self.weight, self.bias, **options)
        self._plan = options, plan
        return plan

    def _forward(self, x: Any, training: bool) -> tuple[Any, Any]:
        if not training:
            return self._current_plan()(x), None
        self._plan = None  # whoever trains is about to change the weight
        y = conv2d(x, self.weight, self.bias, activation=self.activation, **self._options())
        return y, (x, y if self.activation else None)

    def _backward(self, saved: Any, grad_out: Any, need_input_grad: bool) -> Any:
        x, y = saved
        if self.activation:
            grad_out = relu_gradient(y, grad_out)
        need = (*(("x",) if need_input_grad else ()), *self.parameters())
        grads = conv2d_backward(grad_out, x, self.weight, need=need, **self._options())
        self.grads = {name: getattr(grads, name) for name in self.parameters()}
        return grads.x


class ConvTranspose2d(_Windows):
    """Transposed convolution layer: each pixel lays down a filter, and a stride enlarges the image.

    Takes ``(N, in_channels, H, W)`` or ``(in_channels, H, W)`` and returns
    ``(N, out_channels, OH, OW)`` or ``(out_channels, OH, OW)``, as `slidedot.conv_transpose2d` with
    these arguments. The weights start normal with variance 2 over the number of products that an
    output sums up, ``(in_channels // groups) * kh * kw / (stride h * stride w)``, the biases at
    zero.

    Parameters
    ----------
    in_channels, out_channels : int
        Channels of the input and of the output; multiples of `groups`.
    kernel_size : int or (int, int)
        Taps of a filter, ``(kh, kw)``.
    stride, dilation : int or (int, int)
        Pixels of the result between filters and between taps.
    padding : int, (int, int), ((int, int), (int, int)), "valid" or "same"
        Pixels that the result loses all round.
    output_padding : int or (int, int)
        Pixels that it gains at the bottom and right; less than the stride or the dilation.
    groups : int
        Groups of channels that do not see each other.
    bias : bool
        Whether each output channel has a bias.
    dtype : numpy.float32 or numpy.float64
        Of the parameters, and so of the input.
    rng : None, int or numpy.random.Generator
        Where the weights come from: a seed, or one generator shared by a network's layers.

    Attributes
    ----------
    weight : ndarray (in_channels, out_channels // groups, kh, kw)
    bias : ndarray (out_channels,) or None
    grads : dict of str to ndarray
        The gradients of the last backward pass, under the names of `parameters`.

    Raises
    ------
    ValueError
        A number out of range, channels that `groups` does not divide.
    TypeError
        A number that is not an integer, a dtype or rng of another kind.

    Examples
    --------
    An image of twice the size:

    >>> import numpy as np
    >>> layer = ConvTranspose2d(8, 3, 4, stride=2, padding=1, rng=0)
    >>> layer(np.zeros((1, 8, 16, 16), np.float32)).shape
    (1, 3, 32, 32)
    """

    def __init__(
        self,
        in_channels: SupportsIndex,
        out_channels: SupportsIndex,
        kernel_size: Size,
        *,
        stride: Size = 1,
        padding: Padding = 0,
        output_padding: Size = 0,
        dilation: Size = 1,
        groups: SupportsIndex = 1,
        bias: bool = True,
        dtype: DTypeLike = np.float32,
        rng: np.random.Generator | SupportsIndex | None = None,
    ) -> None:
        super().__init__()
        function = "ConvTranspose2d"
        self.in_channels = integer(function, "in_channels", in_channels)
        self.out_channels = integer(function, "out_channels", out_channels)
        self.groups = integer(function, "groups", groups)
        divide_channels(
            function, self.groups, in_channels=self.in_channels, out_channels=self.out_channels
        )
        _set_window(self, kernel_size, stride, padding, dilation)
        self.output_padding = output_padding_pair(
            function, output_padding, self.stride, self.dilation
        )
        shape = (self.in_channels, self.out_channels // self.groups, *self.kernel_size)
        products = self.in_channels // self.groups * math.prod(self.kernel_size)
        inputs = max(1, products / math.prod(self.stride))
        self.weight: Floats = _kaiming(function, shape, dtype, rng, inputs)
        self.bias = (
            np.zeros(self.out_channels, self.weight.dtype) if flag(function, "bias", bias) else None
        )

    def __repr__(self) -> str:
        return _text(
            self,
            self.in_channels,
            self.out_channels,
            self.kernel_size,
            stride=(self.stride, 1),
            padding=(self.padding, 0),
            output_padding=(self.output_padding, 0),
            dilation=(self.dilation, 1),
            groups=(self.groups, 1),
            bias=(self.bias is not None, True),
        )

    def _window(self) -> dict[str, Any]:
        return {"stride": self.stride, "dilation": self.dilation, "groups": self.groups}

    def _forward(self, x: Any, training: bool) -> tuple[Any, Any]:
        y = conv_transpose2d(
            x,
            self.weight,
            self.bias,
            padding=self.padding,
            output_padding=self.output_padding,
            **self._window(),
        )
        return y, np.asarray(x)

    def _backward(self, x: Any, grad_out: Any, need_input_grad: bool) -> Any:
        axes = transposed_windows(
            *("ConvTranspose2d", x.shape[-2:], self.kernel_size, self.stride, self.padding),
            *(self.output_padding, self.dilation),
        )
        # the part of the result that filters reach, and the convolution over it
        ends = [(axis.out - 1) * axis.stride + axis.span - axis.before for axis in axes]
        rows, columns = (min(axis.size, end) for axis, end in zip(axes, ends, strict=True))
        if min(rows, columns) < 1:
            grad_x, grad_weight = np.zeros_like(x, order="C"), np.zeros_like(self.weight)
        else:
            reached = grad_out[..., :rows, :columns]
            window = self._window()
            window["padding"] = (
                (axes[0].before, ends[0] - rows),
                (axes[1].before, ends[1] - columns),
            )
            grad_x = conv2d(reached, self.weight, **window) if need_input_grad else None
            grads = conv2d_backward(x, reached, self.weight, need=("weight",), **window)
            grad_weight = grads.weight
        self.grads = {"weight": grad_weight}
        if self.bias is not None:
            images = grad_out.reshape(-1, *grad_out.shape[-3:])
            total = images.sum(axis=(0, 2, 3), dtype=np.float64)
            self.grads["bias"] = total.astype(self.bias.dtype)
        return grad_x if need_input_grad else None


def _set_window(
    layer: _Windows, kernel_size: Size, stride: Size, padding: Padding, dilation: Size
) -> tuple[Axis, Axis]:
    """Store how the layer's windows lie, as pairs; refuse what no image could satisfy. Return the
    windows on the smallest image."""
    function = type(layer).__name__
    layer.kernel_size = pair(function, "kernel_size", kernel_size)
    layer.stride = pair(function, "stride", stride)
    layer.dilation = pair(function, "dilation", dilation)
    layer.padding = padding
    spans = [d * (k - 1) + 1 for k, d in zip(layer.kernel_size, layer.dilation, strict=True)]
    return windows(function, spans, layer.kernel_size, layer.stride, padding, layer.dilation)


class MaxPool2d(_Windows):
    """Max pooling layer: each window's largest value; the gradient goes back to its place.

    Takes ``(N, C, H, W)`` or ``(C, H, W)`` and returns ``(N, C, OH, OW)`` or ``(C, OH, OW)``, as
    `slidedot.max_pool2d` with these arguments.

    Parameters
    ----------
    kernel_size : int or (int, int)
        Size of a window, ``(h, w)``.
    stride : None, int or (int, int)
        Pixels between windows; None means `kernel_size`.
    padding : int, (int, int), ((int, int), (int, int)), "valid" or "same"
        Pixels around the image that never win.
    dilation : int or (int, int)
        Pixels between the taps of a window.
    ceil_mode : bool
        Whether a last window may hang over the end.

    Raises
    ------
    ValueError
        A number out of range.
    TypeError
        A number that is not an integer.

    Examples
    --------
    >>> import numpy as np
    >>> MaxPool2d(2)(np.float32([[[1, 2, 5, 6], [3, 4, 7, 8]]]))
    array([[[4., 8.]]], dtype=float32)
    """

    def __init__(
        self,
        kernel_size: Size,
        *,
        stride: Size | None = None,
        padding: Padding = 0,
        dilation: Size = 1,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__()
        stride = kernel_size if stride is None else stride
        _set_window(self, kernel_size, stride, padding, dilation)
        self.ceil_mode = flag("MaxPool2d", "ceil_mode", ceil_mode)
        #: Where the last forward's maxima were, and on images of which size, for `MaxUnpool2d`;
        #: only kept if there is one, so that threads may share all other models in inference.
        self._keeps_places = False
        self._places: tuple[Integers, tuple[int, int]] | None = None

    def __repr__(self) -> str:
        return _text(
            self,
            self.kernel_size,
            stride=(self.stride, self.kernel_size),
            padding=(self.padding, 0),
            dilation=(self.dilation, 1),
            ceil_mode=(self.ceil_mode, False),
        )

    def _forward(self, x: Any, training: bool) -> tuple[Any, Any]:
        x = _validation.array("max_pool2d", "x", x)
        result = max_pool2d(
            x,
            self.kernel_size,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            ceil_mode=self.ceil_mode,
            return_argmax=training or self._keeps_places,
        )
        if not (training or self._keeps_places):
            return result, None
        y, argmax = result
        places = argmax, x.shape[-2:]
        if self._keeps_places:
            self._places = places
        return y, places

    def _backward(self, saved: Any, grad_out: Any, need_input_grad: bool) -> Any:
        argmax, input_size = saved
        return max_pool2d_backward(grad_out, argmax, input_size) if need_input_grad else None


class MaxUnpool2d(_Layer):
    """Unpooling layer: each value back to where a max pooling layer found its own, zeros elsewhere.

    Takes what `pool` returned in its last forward, in shape, ``(N, C, OH, OW)`` or ``(C, OH, OW)``,
    and returns the shape of what `pool` took, ``(N, C, H, W)`` or ``(C, H, W)``, as
    `slidedot.max_unpool2d` with the places of `pool`.

    Parameters
    ----------
    pool : MaxPool2d
        The layer that runs before, in the same model or another one. From now on it keeps the
        places of its last forward, in inference too; threads can then not share it.

    Raises
    ------
    TypeError
        A `pool` of another kind.

    Notes
    -----
    The gradient for a value is the one at its place, also where overlapping windows share a
    maximum, as in torch.

    References
    ----------
    Badrinarayanan, Kendall and Cipolla, "SegNet", arXiv 1511.00561.

    Examples
    --------
    >>> import numpy as np
    >>> pool = MaxPool2d(2)
    >>> model = Sequential(pool, MaxUnpool2d(pool))
    >>> model(np.float32([[[1, 2, 5, 6], [3, 4, 7, 8]]]))
    array([[[0., 0., 0., 0.],
            [0., 4., 0., 8.]]], dtype=float32)
    """

    def __init__(self, pool: MaxPool2d) -> None:
        super().__init__()
        if not isinstance(pool, MaxPool2d):
            raise TypeError(f"MaxUnpool2d: pool must be a MaxPool2d, got {shown(pool)}")
        self.pool = pool
        pool._keeps_places = True

    def __repr__(self) -> str:
        return _text(self, self.pool)

    def _forward(self, x: Any, training: bool) -> tuple[Any, Any]:
        if self.pool._places is None:
            raise ValueError(f"MaxUnpool2d: its pool must run before, got {self.pool!r} without")
        argmax, size = self.pool._places
        x = _validation.floats("MaxUnpool2d", "x", x)
        _validation.shape("MaxUnpool2d", "x", x, argmax.shape)
        return max_unpool2d(x, argmax, size), argmax

    def _backward(self, argmax: Any, grad_out: Any, need_input_grad: bool) -> Any:
        if not need_input_grad:
            return None
        flat, places = (
            planes.reshape(*planes.shape[:-2], math.prod(planes.shape[-2:]))
            for planes in (_validation.plain(grad_out), argmax)
        )
        return np.take_along_axis(flat, places, axis=-1).reshape(argmax.shape)


class AvgPool2d(_Windows):
    """Average pooling layer: each window's mean; the gradient is shared out among its pixels.

    Takes ``(N, C, H, W)`` or ``(C, H, W)`` and returns ``(N, C, OH, OW)`` or ``(C, OH, OW)``, as
    `slidedot.avg_pool2d` with these arguments.

    Parameters
    ----------
    kernel_size : int or (int, int)
        Size of a window, ``(h, w)``.
    stride : None, int or (int, int)
        Pixels between windows; None means `kernel_size`.
    padding : int, (int, int), ((int, int), (int, int)), "valid" or "same"
        Pixels of zeros around the image.
    ceil_mode : bool
        Whether a last window may hang over the end.
    count_include_pad : bool
        Whether a window's padding counts among its pixels.

    Raises
    ------
    ValueError
        A number out of range.
    TypeError
        A number that is not an integer.

    Examples
    --------
    >>> import numpy as np
    >>> AvgPool2d(2)(np.float32([[[1, 2, 5, 6], [3, 4, 7, 8]]]))
    array([[[2.5, 6.5]]], dtype=float32)
    """

    def __init__(
        self,
        kernel_size: Size,
        *,
        stride: Size | None = None,
        padding: Padding = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:
        super().__init__()
        stride = kernel_size if stride is None else stride
        _set_window(self, kernel_size, stride, padding, 1)
        self.ceil_mode = flag("AvgPool2d", "ceil_mode", ceil_mode)
        self.count_include_pad = flag("AvgPool2d", "count_include_pad", count_include_pad)

    def __repr__(self) -> str:
        return _text(
            self,
            self.kernel_size,
            stride=(self.stride, self.kernel_size),
            padding=(self.padding, 0),
            ceil_mode=(self.ceil_mode, False),
            count_include_pad=(self.count_include_pad, True),
        )

    def _options(self) -> dict[str, Any]:
        """Return the keywords that forward and backward share."""
        return {
            "stride": self.stride,
            "padding": self.padding,
            "ceil_mode": self.ceil_mode,
            "count_include_pad": self.count_include_pad,
        }

    def _forward(self, x: Any, training: bool) -> tuple[Any, Any]:
        x = _validation.array("avg_pool2d", "x", x)
        return avg_pool2d(x, self.kernel_size, **self._options()), x.shape[-2:]

    def _backward(self, input_size: Any, grad_out: Any, need_input_grad: bool) -> Any:
        if not need_input_grad:
            return None
        return avg_pool2d_backward(grad_out, input_size, self.kernel_size, **self._options())


class ReLU(_Layer):
    """Rectifier: ``max(x, 0)``, element by element; NaN stays NaN.

    Takes any shape. A `Conv2d` with ``activation="relu"`` does the same without another pass over
    the data.

    Examples
    --------
    >>> import numpy as np
    >>> ReLU()(np.float32([-1, 0, 2]))
    array([0., 0., 2.], dtype=float32)
    """

    def __repr__(self) -> str:
        return _text(self)

    def _forward(self, x: Any, training: bool) -> tuple[Any, Any]:
        x = _validation.floats("ReLU", "x", x)
        y = np.maximum(x, 0, out=_like("ReLU", x))
        return y, y

    def _backward(self, y: Any, grad_out: Any, need_input_grad: bool) -> Any:
        return relu_gradient(y, grad_out) if need_input_grad else None


class Flatten(_Layer):
    """An image as one row of numbers, channel by channel, as `Linear` wants it.

    Takes ``(N, C, H, W)`` or ``(C, H, W)`` and returns ``(N, C*H*W)`` or ``(C*H*W,)``, without
    copying where the memory allows.

    Examples
    --------
    >>> import numpy as np
    >>> Flatten()(np.zeros((2, 3, 4, 5), np.float32)).shape
    (2, 60)
    """

    def __repr__(self) -> str:
        return _text(self)

    def _forward(self, x: Any, training: bool) -> tuple[Any, Any]:
        x = _validation.floats("Flatten", "x", x, (3, 4), "(N, C, H, W) or (C, H, W)")
        return x.reshape(*x.shape[:-3], math.prod(x.shape[-3:])), x.shape

    def _backward(self, x_shape: Any, grad_out: Any, need_input_grad: bool) -> Any:
        return grad_out.reshape(x_shape) if need_input_grad else None


class Linear(_Layer):
    """Fully connected layer: ``x @ weight.T + bias``; every output sees every input.

    Takes ``(N, in_features)`` or ``(in_features,)`` and returns ``(N, out_features)`` or
    ``(out_features,)``. The weights start normal with variance ``2 / in_features`` (He
    initialisation), the biases at zero.

    Parameters
    ----------
    in_features, out_features : int
        Numbers in and numbers out, per row.
    bias : bool
        Whether each output has a bias.
    dtype : numpy.float32 or numpy.float64
        Of the parameters, and so of the input.
    rng : None, int or numpy.random.Generator
        Where the weights come from: a seed, or one generator shared by a network's layers.

    Attributes
    ----------
    weight : ndarray (out_features, in_features)
    bias : ndarray (out_features,) or None
    grads : dict of str to ndarray
        The gradients of the last backward pass, under the names of `parameters`.

    Raises
    ------
    ValueError
        A number out of range.
    TypeError
        A number that is not an integer, a dtype or rng of another kind.

    Notes
    -----
    NumPy multiplies the matrices. Threads of its OpenBLAS wait by spinning, where the kernels of
    the next layers would run: with as many threads as CPUs a training step may take twice as long.
    With ``OPENBLAS_THREAD_TIMEOUT=4`` in the environment before Python starts they sleep at once.

    References
    ----------
    He et al., "Delving Deep into Rectifiers", section 2.2, arXiv 1502.01852.

    Examples
    --------
    >>> import numpy as np
    >>> layer = Linear(3, 2, rng=0)
    >>> layer.weight[:] = [[1, 2, 3], [0, 0, 1]]
    >>> layer(np.float32([[1, 1, 1], [0, 2, 0]]))
    array([[6., 1.],
           [4., 0.]], dtype=float32)
    """

    def __init__(
        self,
        in_features: SupportsIndex,
        out_features: SupportsIndex,
        *,
        bias: bool = True,
        dtype: DTypeLike = np.float32,
        rng: np.random.Generator | SupportsIndex | None = None,
    ) -> None:
        super().__init__()
        self.in_features = integer("Linear", "in_features", in_features)
        self.out_features = integer("Linear", "out_features", out_features)
        shape = (self.out_features, self.in_features)
        self.weight: Floats = _kaiming("Linear", shape, dtype, rng)
        self.bias = (
            np.zeros(self.out_features, self.weight.dtype) if flag("Linear", "bias", bias) else None
        )

    def __repr__(self) -> str:
        bias = self.bias is not None
        return _text(self, self.in_features, self.out_features, bias=(bias, True))

    def _forward(self, x: Any, training: bool) -> tuple[Any, Any]:
        x = _floats("Linear", "x", x, self.weight.dtype)
        if x.ndim not in (1, 2) or x.shape[-1] != self.in_features:
            raise ValueError(
                f"Linear: x must be (N, {self.in_features}) or ({self.in_features},), "
                f"got shape {x.shape}"
            )
        y = x @ self.weight.T
        if self.bias is not None:
            y += self.bias
        return y, x

    def _backward(self, x: Any, grad_out: Any, need_input_grad: bool) -> Any:
        rows = grad_out.reshape(-1, self.out_features)
        self.grads = {"weight": rows.T @ x.reshape(-1, self.in_features)}
        if self.bias is not None:
            self.grads["bias"] = rows.sum(axis=0)
        return grad_out @ self.weight if need_input_grad else None


class Sequential(_Layer):
    """Layers one after the other: each takes what the one before it returned.

    Takes what the first layer takes and returns what the last one returns.

    Parameters
    ----------
    *layers : layers of this module, or objects with their methods
        At least one; no layer twice, since a layer keeps what its backward pass needs.

    Attributes
    ----------
    layers : tuple
        The layers.
    grads : dict of str to ndarray
        The gradients of the last backward pass, under the names of `parameters`: the layer's
        position and its own name, as in ``"0.weight"``.

    Raises
    ------
    ValueError
        No layer, or one that is there twice.
    TypeError
        Something that is not a layer.

    Notes
    -----
    What lies between the layers takes the memory of results that nobody holds any more, of this
    pass or the last ones. Up to two steps' results of 64 KiB to 32 MiB each stay for that.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> model = Sequential(
    ...     Conv2d(1, 4, 3, padding=1, activation="relu", rng=rng),
    ...     MaxPool2d(2),
    ...     Flatten(),
    ...     Linear(64, 10, rng=rng),
    ... )
    >>> model(np.zeros((5, 1, 8, 8), np.float32)).shape
    (5, 10)
    >>> list(model.parameters())
    ['0.weight', '0.bias', '3.weight', '3.bias']
    """

    def __init__(self, *layers: Layer) -> None:
        super().__init__()
        if not layers:
            raise ValueError("Sequential: layers must be at least one, got none")
        for layer in layers:
            if not all(hasattr(layer, a) for a in ("forward", "backward", "parameters", "grads")):
                raise TypeError(f"Sequential: layers must be layer objects, got {shown(layer)}")
        self.layers: tuple[Any, ...] = layers
        self._buffers = Buffers()
        leaves = [layer for _, layer in self._leaves()]
        if len({id(layer) for layer in leaves}) < len(leaves):
            raise ValueError(f"Sequential: layers must all be different objects, got {self!r}")

    def __repr__(self) -> str:
        return f"Sequential({', '.join(map(repr, self.layers))})"

    def _leaves(self) -> Iterator[tuple[str, Any]]:
        """Yield every layer that is not itself a Sequential, with its dotted position."""
        for i, layer in enumerate(self.layers):
            if isinstance(layer, Sequential):
                yield from ((f"{i}.{name}", leaf) for name, leaf in layer._leaves())
            else:
                yield str(i), layer

    def parameters(self) -> dict[str, Floats]:
        """Return the layers' parameters themselves, no copies, by name.

        Returns
        -------
        dict of str to ndarray
            The keys are those of `grads` after a backward pass.
        """
        return {
            f"{i}.{name}": array
            for i, layer in enumerate(self.layers)
            for name, array in layer.parameters().items()
        }

    def _forward(self, x: Any, training: bool) -> tuple[Any, Any]:
        with self._buffers.in_use():
            for layer in self.layers:
                x = layer.forward(x, training=training)
            return x, None

    def _backward(self, _: Any, grad_out: Any, need_input_grad: bool) -> Any:
        trained = [i for i, layer in enumerate(self.layers) if layer.parameters()]
        first = 0 if need_input_grad else min(trained, default=len(self.layers))
        with self._buffers.in_use():
            for i in reversed(range(first, len(self.layers))):
                grad_out = self.layers[i].backward(
                    grad_out, need_input_grad=need_input_grad or i > first
                )
        self.grads = {
            f"{i}.{name}": array for i in trained for name, array in self.layers[i].grads.items()
        }
        return grad_out if need_input_grad else None

    def summary(self, input_shape: Sequence[SupportsIndex]) -> str:
        """Return a table of what each layer gives, holds, sees and costs.

        Parameters
        ----------
        input_shape : tuple of int
            One input's shape: ``(C, H, W)``, or ``(features,)`` for a network without images.

        Returns
        -------
        str
            A line per layer, then totals: output shape, number of parameters, receptive field
            (pixels of the input that one output sees, padding included; "varies" from the first
            transposed convolution or unpooling on, "all" from the first fully connected layer on),
            and multiply-adds for one input.

        Raises
        ------
        ValueError
            A shape that does not fit the layers.
        TypeError
            An `input_shape` that is not a tuple of integers.

        Notes
        -----
        Each weight is used once for each output pixel, which is the lecture's parameter sharing:
        ``multiply-adds = weights * OH * OW``; a fully connected layer uses each weight once.

        Examples
        --------
        >>> convolution = Conv2d(3, 10, 5, padding=2)
        >>> model = Sequential(convolution, MaxPool2d(2), Flatten(), Linear(2560, 2))
        >>> print(model.summary((3, 32, 32)))  # doctest: +NORMALIZE_WHITESPACE
           layer                        output shape  parameters  receptive field  multiply-adds
        ----------------------------------------------------------------------------------------
           input                         (3, 32, 32)                        1 x 1
        0  Conv2d(3, 10, 5, padding=2)  (10, 32, 32)         760            5 x 5        768,000
        1  MaxPool2d(2)                 (10, 16, 16)           0            6 x 6              0
        2  Flatten()                         (2560,)           0            6 x 6              0
        3  Linear(2560, 2)                      (2,)       5,122              all          5,120
        ----------------------------------------------------------------------------------------
           total                                           5,882                         773,120
        """
        function = "summary"
        if not isinstance(input_shape, (tuple, list)):
            raise TypeError(
                f"{function}: input_shape must be a tuple of int, got {shown(input_shape)}"
            )
        shape = [integer(function, "input_shape", n, whole=input_shape) for n in input_shape]
        parameters = list(self.parameters().values())
        # An empty batch costs nothing, and every layer gives its output's shape.
        x = np.empty((0, *shape), parameters[0].dtype if parameters else np.float32)
        table = [("", "layer", "output shape", "parameters", "receptive field", "multiply-adds")]
        table.append(("", "input", str(x.shape[1:]), "", "1 x 1", ""))
        seen, field, total = [], "1 x 1", 0
        for name, layer in self._leaves():
            y = layer.forward(x)
            if isinstance(layer, Linear):
                field = "all"
            elif field == "varies" or hasattr(layer, "output_padding") or hasattr(layer, "pool"):
                field = "varies"  # from one output of a transposed convolution to the next
            elif hasattr(layer, "kernel_size"):
                # padding moves a field, and leaves its size
                seen.append((layer.kernel_size, layer.stride, 0, layer.dilation))
                size = receptive_field(seen)[-1].size
                field = "{} x {}".format(*pair(function, "size", size))
            count = sum(array.size for array in layer.parameters().values())
            weight = layer.parameters().get("weight")
            pixels = x if hasattr(layer, "output_padding") else y  # those that meet every weight
            cost = 0 if weight is None else weight.size * math.prod(pixels.shape[2:])
            total += cost
            table.append((name, repr(layer), str(y.shape[1:]), f"{count:,}", field, f"{cost:,}"))
            x = y
        count = sum(array.size for array in parameters)
        table.append(("", "total", "", f"{count:,}", "", f"{total:,}"))
        return _aligned(table)


def _aligned(table: Sequence[tuple[str, ...]]) -> str:
    """Return rows of words as lines of equal columns: a rule below the first, above the last."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = []
    for row in table:
        words = [word.ljust(width) for word, width in zip(row[:2], widths[:2], strict=True)]
        words += [word.rjust(width) for word, width in zip(row[2:], widths[2:], strict=True)]
        lines.append("  ".join(words).rstrip())
    rule = "-" * max(map(len, lines))
    return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1]])


# ---------------------------------------------------------------------------------- loss


def softmax_cross_entropy(logits: NDArray[Float], labels: Integers) -> tuple[float, NDArray[Float]]:
    """Return the mean cross-entropy of the softmax of `logits`, and its gradient.

    ``loss = mean over n of -log p[n, labels[n]]`` with
    ``p[n, k] = exp(logits[n, k]) / sum over j of exp(logits[n, j])``; its gradient is
    ``(p[n, k] - (k == labels[n])) / N``. Each row's largest logit is subtracted first, so that
    nothing overflows.

    Parameters
    ----------
    logits : ndarray (N, classes)
        At least one row, float32 or float64.
    labels : ndarray (N,)
        Integers, ``0 <= label < classes``.

    Returns
    -------
    loss : float
        In nats.
    grad : ndarray (N, classes)
        The gradient with respect to `logits`, in their dtype.

    Raises
    ------
    ValueError
        Shapes that do not fit, or no row: a mean of nothing.
    TypeError
        Logits that are not floating, labels that are not integers.
    IndexError
        A label out of range.

    References
    ----------
    Goodfellow, Bengio and Courville, "Deep Learning", sections 4.1 and 6.2.2.3,
    https://www.deeplearningbook.org.

    Examples
    --------
    Of four equal classes each has a quarter, and the loss is log 4:

    >>> import numpy as np
    >>> loss, grad = softmax_cross_entropy(np.zeros((1, 4)), np.array([2]))
    >>> round(loss, 6)
    1.386294
    >>> grad
    array([[ 0.25,  0.25, -0.75,  0.25]])
    """
    function = "softmax_cross_entropy"
    logits = _validation.floats(function, "logits", logits)
    labels = _validation.indices(function, "labels", labels)
    if logits.ndim != 2 or 0 in logits.shape:
        raise ValueError(
            f"{function}: logits must be (N, classes), neither of them 0, got shape {logits.shape}"
        )
    rows, classes = logits.shape
    _validation.shape(function, "labels", labels, (rows,))
    for label in (int(labels.min()), int(labels.max())):
        if not 0 <= label < classes:
            raise IndexError(f"{function}: labels must be in [0, {classes}), got the label {label}")
    chosen = np.arange(rows), labels
    shifted = logits - logits.max(axis=1, keepdims=True)
    grad = np.exp(shifted)
    total = grad.sum(axis=1, keepdims=True)
    loss = np.mean(np.log(total[:, 0]) - shifted[chosen], dtype=np.float64)
    grad /= total
    grad[chosen] -= 1
    grad /= rows
    return float(loss), grad

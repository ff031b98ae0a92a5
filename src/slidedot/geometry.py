"""Sizes, windows, receptive fields and parameter counts, in Python integers.

An image axis of ``size`` pixels gets ``before`` and ``after`` pixels of padding, and a filter of
``kernel`` taps, ``dilation`` pixels apart, is laid on it every ``stride`` pixels. Everything that
follows from these numbers alone is here, and nothing else: no arrays, no NumPy.
"""

from __future__ import annotations

import operator
import reprlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple, SupportsIndex, TypeAlias

__all__ = [
    "ReceptiveField",
    "conv2d_parameters",
    "conv_output_size",
    "linear_parameters",
    "receptive_field",
]

#: The largest number of elements or bytes that a C ``Py_ssize_t`` counts.
SSIZE_MAX = 2**63 - 1

#: One number for both image axes, or ``(h, w)``.
Size: TypeAlias = SupportsIndex | tuple[SupportsIndex, SupportsIndex]

#: Of one axis: at both ends, or ``(before, after)``.
AxisPadding: TypeAlias = Size | Literal["valid", "same"]

#: All round, ``(h, w)``, or ``((top, bottom), (left, right))``.
Padding: TypeAlias = (
    AxisPadding | tuple[tuple[SupportsIndex, SupportsIndex], tuple[SupportsIndex, SupportsIndex]]
)


# ---------------------------------------------------------------------------------- arguments


def shown(value: object) -> str:
    """Return a short text of any value for an error message; never raises."""
    try:
        return reprlib.repr(value)
    except Exception:  # a foreign __repr__, or an int of more digits than Python prints
        return f"<{type(value).__name__}>"


def integer(
    function: str, name: str, value: SupportsIndex, minimum: int = 1, *, whole: object = None
) -> int:
    """Return `value` as an int in [minimum, 2**63); `whole` is what the message shows."""
    whole = value if whole is None else whole
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)
    except Exception:  # whatever a foreign __index__ raises
        raise TypeError(f"{function}: {name} must be an int, got {shown(whole)}") from None
    if number < minimum:
        raise ValueError(f"{function}: {name} must be >= {minimum}, got {name}={shown(whole)}")
    if number > SSIZE_MAX:
        raise ValueError(f"{function}: {name} is too large, got {name}={shown(whole)}")
    return number


def flag(function: str, name: str, value: object) -> bool:
    """Return whether `value` is true."""
    try:
        return bool(value)
    except Exception:  # an array of several numbers, or a foreign __bool__
        raise TypeError(f"{function}: {name} must be a bool, got {shown(value)}") from None


def pair(function: str, name: str, value: Size, minimum: int = 1) -> tuple[int, int]:
    """Return an int or ``(h, w)`` as ``(h, w)``."""
    if isinstance(value, (tuple, list)):
        if len(value) != 2:
            raise ValueError(
                f"{function}: {name} must be an int or (h, w), got {name}={shown(value)}"
            )
        h, w = (integer(function, name, v, minimum, whole=value) for v in value)
        return h, w
    return (integer(function, name, value, minimum),) * 2


#: ``(out, start, stop) -> (start, stop)``: which outputs are to be computed with some of them.
Widen: TypeAlias = Callable[[int, int, int], tuple[int, int]]


class Part(NamedTuple):
    """What gives some of an axis's outputs, bit for bit: the pixels ``[start, stop)`` with these
    pixels of padding around them. Of the outputs `kept` is what was asked for."""

    start: int
    stop: int
    before: int
    after: int
    kept: slice


class Axis(NamedTuple):
    """The windows along one image axis: all of them, and where each one lies."""

    size: int
    kernel: int
    stride: int
    dilation: int
    before: int
    after: int
    out: int

    @property
    def span(self) -> int:
        """Pixels from a window's first tap to its last."""
        return self.dilation * (self.kernel - 1) + 1

    def part(self, start: int, stop: int, widen: Widen | None = None) -> Part:
        """Return the `Part` for the outputs ``[start, stop)``; `widen(out, first, last)` may say
        that more of them are to be computed as a whole."""
        # a window of padding alone comes with those up to the next pixel
        first = min(start, (self.before + self.size - 1) // self.stride)
        last = max(stop, min(self.out, (self.before - self.span) // self.stride + 2))
        if widen is not None:
            first, last = widen(self.out, first, last)
        begin = first * self.stride - self.before
        end = (last - 1) * self.stride - self.before + self.span
        return Part(
            max(0, begin),
            max(1, min(self.size, end)),  # one pixel where all windows lie before it
            max(0, -begin),
            max(0, min(self.after, end - self.size)),
            slice(start - first, stop - first),
        )

    def transposed_part(self, start: int, stop: int, widen: Widen | None = None) -> Part:
        """Return the `Part` for the pixels ``[start, stop)`` of the transpose's result, of its
        input. The padding is what the part's own result loses there; below zero, gains."""
        first, last = (start, stop) if widen is None else widen(self.size, start, stop)
        place = first + self.before
        begin = min(-((self.span - 1 - place) // self.stride), place // self.stride, self.out - 1)
        begin = max(0, begin)
        end = min(self.out, (last - 1 + self.before) // self.stride + 1)
        reached = (end - 1) * self.stride + self.span - self.before
        return Part(
            begin,
            end,
            place - begin * self.stride,
            reached - last,
            slice(start - first, stop - first),
        )


def _axis_padding(
    function: str, padding: AxisPadding, size: int, kernel: int, stride: int, dilation: int
) -> tuple[int, int]:
    """Padding of one axis: an int, ``(before, after)``, "valid" or "same" -> (before, after)."""
    if isinstance(padding, str):
        if padding == "valid":
            return 0, 0
        if padding == "same":
            # out = ceil(size / stride); the odd pixel goes to the bottom and right
            total = max((-(-size // stride) - 1) * stride + dilation * (kernel - 1) + 1 - size, 0)
            return total // 2, total - total // 2
        raise ValueError(
            f"{function}: padding must be 'valid', 'same' or integers, got padding={padding!r}"
        )
    return pair(function, "padding", padding, 0)


def _split_padding(function: str, padding: Any) -> tuple[AxisPadding, AxisPadding]:
    """Split `padding` into what holds for rows and what holds for columns."""
    if not isinstance(padding, (tuple, list)):
        return padding, padding
    if len(padding) != 2:
        raise ValueError(
            f"{function}: padding must be an int, (h, w) or ((top, bottom), (left, right)), "
            f"got padding={shown(padding)}"
        )
    nested = [isinstance(p, (tuple, list)) for p in padding]
    if any(nested) and not (all(nested) and all(len(p) == 2 for p in padding)):
        raise ValueError(
            f"{function}: padding must be an int, (h, w) or ((top, bottom), (left, right)), "
            f"got padding={shown(padding)}"
        )
    if not any(nested):
        for p in padding:
            integer(function, "padding", p, 0, whole=padding)
    h, w = padding
    return h, w


def _axis(
    function: str,
    name: str,
    size: int,
    kernel: int,
    stride: int,
    padding: AxisPadding,
    dilation: int,
    ceil_mode: bool,
    exact: bool = False,
) -> Axis:
    """Return the `Axis` of these numbers, or say why there is none; `name` is the axis."""
    before, after = _axis_padding(function, padding, size, kernel, stride, dilation)
    padded = size + before + after
    span = dilation * (kernel - 1) + 1
    if padded > SSIZE_MAX:
        raise ValueError(
            f"{function}: padding is too large, got padding={(before, after)} around {size} pixels"
        )
    steps, rest = divmod(padded - span, stride)
    if ceil_mode and rest and (steps + 1) * stride < size + before:
        steps += 1  # the last window may hang over the end, if it starts inside
    if steps < 0:
        raise ValueError(
            f"{function}: the kernel's {name} {kernel} with dilation {dilation} spans {span} "
            f"pixels, more than the padded input's {padded} ({before} + {size} + {after})"
        )
    if exact and rest:
        raise ValueError(
            f"{function}: windows of {span} pixels with stride {stride} do not tile the padded "
            f"input of {padded}: {rest} left over"
        )
    return Axis(size, kernel, stride, dilation, before, after, steps + 1)


def windows(
    function: str,
    size: Sequence[int],
    kernel_size: Size,
    stride: Size,
    padding: Padding,
    dilation: Size,
    ceil_mode: bool = False,
) -> tuple[Axis, Axis]:
    """Return the `Axis` of rows and of columns for an image of `size` ``(h, w)``."""
    ceil_mode = flag(function, "ceil_mode", ceil_mode)
    kernel = pair(function, "kernel_size", kernel_size)
    stride = pair(function, "stride", stride)
    dilation = pair(function, "dilation", dilation)
    paddings = _split_padding(function, padding)
    h, w = (
        _axis(function, name, size[i], kernel[i], stride[i], paddings[i], dilation[i], ceil_mode)
        for i, name in enumerate(("height", "width"))
    )
    return h, w


def output_padding_pair(
    function: str, output_padding: Size, stride: tuple[int, int], dilation: tuple[int, int]
) -> tuple[int, int]:
    """Return `output_padding` as ``(h, w)``: less than the stride or the dilation, given so."""
    extra = pair(function, "output_padding", output_padding, 0)
    for e, s, d in zip(extra, stride, dilation, strict=True):
        if e >= max(s, d):
            raise ValueError(
                f"{function}: output_padding must be less than the stride or the dilation, got "
                f"output_padding={shown(output_padding)} with stride {s} and dilation {d}"
            )
    return extra


def transposed_windows(
    function: str,
    size: Sequence[int],
    kernel_size: Size,
    stride: Size,
    padding: Padding,
    output_padding: Size,
    dilation: Size,
) -> tuple[Axis, Axis]:
    """Return the axes of the convolution whose transpose makes its input's size of `size`.

    Each `Axis` is that convolution's: its ``out`` is `size`, its ``size`` the result's. Padding
    "same" makes ``size * stride`` pixels.
    """
    kernel = pair(function, "kernel_size", kernel_size)
    stride = pair(function, "stride", stride)
    dilation = pair(function, "dilation", dilation)
    extra = output_padding_pair(function, output_padding, stride, dilation)
    cut = _split_padding(function, padding)
    axes = []
    for i, name in enumerate(("height", "width")):
        span = dilation[i] * (kernel[i] - 1) + 1
        full = (size[i] - 1) * stride[i] + span
        same = size[i] * stride[i]
        before, after = _axis_padding(function, cut[i], same, kernel[i], stride[i], dilation[i])
        if cut[i] == "same":
            full = same + before + after
        out = full + extra[i] - before - after
        if full + extra[i] > SSIZE_MAX:
            raise ValueError(
                f"{function}: the result's {name} is too large: {size[i]} pixels with stride "
                f"{stride[i]} and taps over {span} pixels"
            )
        if out < 1:
            raise ValueError(
                f"{function}: padding={shown(padding)} leaves nothing of the result's {name}: "
                f"{full + extra[i]} pixels without it"
            )
        axes.append(Axis(out, kernel[i], stride[i], dilation[i], before, after, size[i]))
    h, w = axes
    return h, w


def _first_step_into(step: int, modulus: int, low: int, high: int) -> int | None:
    """Smallest t >= 0 with low <= step * t mod modulus <= high, or None (as Euclid's algorithm)."""
    if low == 0:
        return 0
    step %= modulus
    if step == 0:
        return None
    if 2 * step > modulus:  # walk the other way round
        step, low, high = modulus - step, modulus - high, modulus - low
    t = -(-low // step)
    if t * step <= high:
        return t
    wraps = _first_step_into(modulus % step, step, -high % step, -low % step)
    return None if wraps is None else -(-(low + modulus * wraps) // step)


def empty_window(axis: Axis) -> int | None:
    """Return the index of the first window that holds no pixel at all, or None.

    With padding less than the span, only taps further apart than the input is long make one.
    """
    if axis.size >= axis.dilation or axis.before == 0:
        return None
    # A window from -p, p in [1, before], meets the pixels first at -p mod dilation, which must be
    # a pixel; it moves on by `stride`.
    d = axis.dilation
    start = -axis.before % d
    low, high = (axis.size - start) % d, (d - 1 - start) % d
    t = 0 if low > high else _first_step_into(axis.stride % d, d, low, high)
    return t if t is not None and t * axis.stride < axis.before and t < axis.out else None


# ---------------------------------------------------------------------------------- public


def conv_output_size(
    size: SupportsIndex,
    kernel_size: SupportsIndex,
    stride: SupportsIndex = 1,
    padding: AxisPadding = 0,
    dilation: SupportsIndex = 1,
    *,
    ceil_mode: bool = False,
    exact: bool = False,
) -> int:
    """Return how many windows fit along one axis of an image.

    ``floor((size + before + after - dilation * (kernel_size - 1) - 1) / stride) + 1``; the
    lecture's ``(N - F + 2P) / S + 1``.

    Parameters
    ----------
    size : int
        Pixels along the axis.
    kernel_size, stride, dilation : int
        The filter's taps, the step between windows and the step between taps, in pixels.
    padding : int, (int, int), "valid" or "same"
        Pixels added at both ends, or ``(before, after)``. "same" gives ``ceil(size / stride)``.
    ceil_mode : bool
        Round up: a last window may hang over the end, by less than a stride, if it starts inside
        the input or the padding before it.
    exact : bool
        Refuse windows that do not end at the (padded) input's last pixel.

    Returns
    -------
    int
        The number of outputs along the axis.

    Raises
    ------
    ValueError
        A number out of range, a kernel larger than the padded input, or, with `exact`, windows
        that do not tile the input.
    TypeError
        A number that is not an integer.

    References
    ----------
    Dumoulin and Visin, "A guide to convolution arithmetic for deep learning", arXiv 1603.07285.

    Examples
    --------
    >>> conv_output_size(7, 3), conv_output_size(7, 3, 2)
    (5, 3)
    >>> conv_output_size(7, 3, 3, exact=True)
    Traceback (most recent call last):
    ValueError: conv_output_size: windows of 3 pixels with stride 3 do not tile the padded \
input of 7: 1 left over
    >>> conv_output_size(32, 5, padding=2)
    32
    """
    function = "conv_output_size"
    ceil_mode = flag(function, "ceil_mode", ceil_mode)
    exact = flag(function, "exact", exact)
    size = integer(function, "size", size)
    kernel_size = integer(function, "kernel_size", kernel_size)
    stride = integer(function, "stride", stride)
    dilation = integer(function, "dilation", dilation)
    axis = _axis(function, "size", size, kernel_size, stride, padding, dilation, ceil_mode, exact)
    return axis.out


class ReceptiveField(NamedTuple):
    """What one output of a layer sees of the network's input, in input pixels.

    Attributes
    ----------
    size : int or (int, int)
        Pixels that one output sees along an axis.
    jump : int or (int, int)
        Pixels between the fields of neighbouring outputs.
    start : float or (float, float)
        Where the centre of the first output's field lies; the first pixel's centre is 0.
    """

    size: int | tuple[int, int]
    jump: int | tuple[int, int]
    start: float | tuple[float, float]


def _layer_window(layer: Any) -> tuple[Any, Any, Any, Any]:
    """Return (kernel_size, stride, padding, dilation) of an entry of `receptive_field`."""
    if hasattr(layer, "output_padding") or hasattr(layer, "pool"):
        raise ValueError(
            "receptive_field: the outputs of a transposed convolution or of unpooling see fields "
            f"of different sizes, got {layer!r}"
        )
    if hasattr(layer, "kernel_size"):
        return layer.kernel_size, layer.stride, layer.padding, getattr(layer, "dilation", 1)
    if isinstance(layer, (tuple, list)):
        if not 1 <= len(layer) <= 4:
            raise ValueError(
                "receptive_field: a layer must be (kernel_size, stride, padding, dilation) or its "
                f"first terms, got {shown(layer)}"
            )
        return tuple(layer) + (1, 1, 0, 1)[len(layer) :]
    if hasattr(layer, "in_features"):
        raise ValueError(f"receptive_field: a fully connected layer sees all pixels, got {layer!r}")
    if hasattr(layer, "forward"):
        return 1, 1, 0, 1  # acts on each pixel by itself
    return layer, 1, 0, 1


def receptive_field(layers: Iterable[Any]) -> list[ReceptiveField]:
    """Return what an output of each layer sees of the input, layer by layer.

    A layer of ``k`` taps, ``d`` apart, over outputs that lie ``jump`` pixels apart sees
    ``(k - 1) * d * jump`` more pixels than the layer before it, and its stride multiplies the
    jump.

    Parameters
    ----------
    layers : iterable
        Each entry is a kernel size, a tuple ``(kernel_size, stride, padding, dilation)`` or its
        first terms, or a layer of this package. Each term is an int or ``(h, w)``.

    Returns
    -------
    list of ReceptiveField
        One per layer. The fields are ints (and a float) if every layer is square, else pairs
        ``(h, w)``.

    Raises
    ------
    ValueError
        A number out of range, a fully connected or transposed layer, or padding "same" with a
        stride over 1, which places the windows by the input's size.
    TypeError
        A number that is not an integer.

    References
    ----------
    Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks", arXiv 1311.2901.

    Examples
    --------
    Three layers of 3x3 filters see what one of 7x7 sees:

    >>> [field.size for field in receptive_field([3, 3, 3])]
    [3, 5, 7]
    >>> receptive_field([(3, 1, 1), (2, 2)])
    [ReceptiveField(size=3, jump=1, start=0.0), ReceptiveField(size=4, jump=2, start=0.5)]
    """
    function = "receptive_field"
    size, jump, start = [1, 1], [1, 1], [0.0, 0.0]
    fields: list[tuple[Any, Any, Any]] = []
    try:
        layers = list(layers)
    except TypeError:
        raise TypeError(
            f"{function}: layers must be an iterable of layers, got layers={shown(layers)}"
        ) from None
    for layer in layers:
        kernel_size, stride, padding, dilation = _layer_window(layer)
        kernel = pair(function, "kernel_size", kernel_size)
        stride = pair(function, "stride", kernel if stride is None else stride)
        dilation = pair(function, "dilation", dilation)
        padding = _split_padding(function, padding)
        for i in range(2):
            if isinstance(padding[i], str) and padding[i] == "same" and stride[i] > 1:
                raise ValueError(
                    f"{function}: with padding='same' and stride {stride[i]} the windows' place "
                    "depends on the input's size; give the padding in pixels"
                )
            span = dilation[i] * (kernel[i] - 1)
            before, _ = _axis_padding(function, padding[i], 1, kernel[i], stride[i], dilation[i])
            size[i] += span * jump[i]
            start[i] += (span / 2 - before) * jump[i]
            jump[i] *= stride[i]
        fields.append((tuple(size), tuple(jump), tuple(start)))
    if all(a == b for field in fields for a, b in field):
        return [ReceptiveField(*(a for a, _ in field)) for field in fields]
    return [ReceptiveField(*field) for field in fields]


def conv2d_parameters(
    in_channels: SupportsIndex,
    out_channels: SupportsIndex,
    kernel_size: Size,
    groups: SupportsIndex = 1,
    bias: bool = True,
) -> int:
    """Return the number of weights and biases of a convolution layer.

    ``out_channels * (in_channels // groups) * kh * kw``, and ``out_channels`` biases.

    Parameters
    ----------
    in_channels, out_channels, groups : int
        Both channel counts are multiples of `groups`.
    kernel_size : int or (int, int)
        ``(kh, kw)``.
    bias : bool
        Whether each output channel has a bias.

    Returns
    -------
    int
        The number of parameters.

    Raises
    ------
    ValueError
        A number out of range, or channels that `groups` does not divide.
    TypeError
        A number that is not an integer.

    Examples
    --------
    Ten 5x5 filters over an image of three channels:

    >>> conv2d_parameters(3, 10, 5)
    760
    """
    function = "conv2d_parameters"
    in_channels = integer(function, "in_channels", in_channels)
    out_channels = integer(function, "out_channels", out_channels)
    groups = integer(function, "groups", groups)
    kh, kw = pair(function, "kernel_size", kernel_size)
    divide_channels(function, groups, in_channels=in_channels, out_channels=out_channels)
    biases = out_channels if flag(function, "bias", bias) else 0
    return out_channels * (in_channels // groups) * kh * kw + biases


def divide_channels(function: str, groups: int, **channels: int) -> None:
    """Refuse `groups` that do not divide each of the named channel counts."""
    for name, count in channels.items():
        if count % groups:
            raise ValueError(f"{function}: groups={groups} does not divide {name}={count}")


def linear_parameters(
    in_features: SupportsIndex, out_features: SupportsIndex, bias: bool = True
) -> int:
    """Return the number of weights and biases of a fully connected layer.

    Parameters
    ----------
    in_features, out_features : int
        Numbers in and numbers out; every output is connected to every input.
    bias : bool
        Whether each output has a bias.

    Returns
    -------
    int
        ``in_features * out_features``, and ``out_features`` biases.

    Raises
    ------
    ValueError
        A number out of range.
    TypeError
        A number that is not an integer.

    Examples
    --------
    One neuron over an image of 1024x1024 pixels in three channels:

    >>> linear_parameters(1024 * 1024 * 3, 1, bias=False)
    3145728
    """
    function = "linear_parameters"
    in_features = integer(function, "in_features", in_features)
    out_features = integer(function, "out_features", out_features)
    biases = out_features if flag(function, "bias", bias) else 0
    return in_features * out_features + biases

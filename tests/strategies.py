"""Hypothesis strategies for everything a call can be given: shapes, options and memory layouts.

A drawn call is a small frozen record without any numbers in it; its methods make the arrays, from
a drawn seed, for the dtype under test. A counterexample therefore prints, and shrinks, as a few
integers and words.
"""

from dataclasses import dataclass

import numpy as np
from hypothesis import assume, settings
from hypothesis import strategies as st

from slidedot import geometry


def search(examples):
    """Return settings for so many examples, or more where the profile asks for them."""
    return settings(max_examples=max(examples, settings.default.max_examples))


# ---------------------------------------------------------------------------------- numbers


def integers(rng, shape):
    """Return integers so small that their sums of products are exact, and full of ties."""
    return rng.integers(-4, 5, shape).astype(np.float64)


def signs(rng, shape):
    """Return ones and minus ones: all products are of the largest size."""
    return rng.choice([-1.0, 1.0], shape)


def reals(rng, shape):
    """Return reals whose sums of products are rounded."""
    return rng.standard_normal(shape)


# ---------------------------------------------------------------------------------- layouts

#: Memory layouts of equal values, for inputs and, where writable, for `out`.
OUT_LAYOUTS = ("contiguous", "channels last", "reversed", "fortran", "stepped", "cropped")
LAYOUTS = (
    *OUT_LAYOUTS,
    "read-only",
    "byte-swapped",
    "unaligned",
    "reversed byte-swapped",
    "equal channels",
    "equal pixels",
)


def lay_out(array, layout):
    """Return the values of `array` in memory of their own, laid out as `layout` says.

    Memory between the values holds what no result may contain: NaN, or an index out of range.
    The "equal" layouts repeat the first channel or pixel of each row with a stride of zero.
    """
    gap = np.nan if array.dtype.kind == "f" else np.iinfo(array.dtype).max
    channels = max(array.ndim - 3, 0)
    match layout:
        case "contiguous":
            return array.copy()
        case "channels last":
            return np.moveaxis(np.moveaxis(array, channels, -1).copy(), -1, channels)
        case "reversed":
            return np.flip(np.flip(array).copy())
        case "fortran":
            return array.copy(order="F")
        case "stepped":
            memory = np.full((*array.shape[:-1], 2 * array.shape[-1]), gap, array.dtype)
            memory[..., ::2] = array
            return memory[..., ::2]
        case "cropped":
            memory = np.full([length + 2 for length in array.shape], gap, array.dtype)
            inside = (slice(1, -1),) * array.ndim
            memory[inside] = array
            return memory[inside]
        case "read-only":
            array = array.copy()
            array.flags.writeable = False
            return array
        case "byte-swapped":
            return array.astype(array.dtype.newbyteorder())
        case "unaligned":
            memory = np.zeros(array.nbytes + 1, np.uint8)
            shifted = memory[1:].view(array.dtype).reshape(array.shape)
            shifted[...] = array
            return shifted
        case "reversed byte-swapped":
            return np.flip(lay_out(np.flip(array), "byte-swapped"))
        case "equal channels":
            first = np.moveaxis(np.moveaxis(array, channels, 0)[:1].copy(), 0, channels)
            return np.broadcast_to(first, array.shape)
        case "equal pixels":
            return np.broadcast_to(array[..., :1].copy(), array.shape)


def memory_of(array):
    """Return the array that owns the memory of the view `array`."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def place_out(shape, dtype, layout):
    """Return an `out` full of NaN, or None for no layout."""
    return None if layout is None else lay_out(np.full(shape, np.nan, dtype), layout)


# ---------------------------------------------------------------------------------- windows


def either(numbers):
    """Draw one number for both axes, or one for each."""
    return st.one_of(numbers, st.tuples(numbers, numbers))


KERNELS = either(st.integers(1, 5))
STRIDES = either(st.sampled_from([1, 2, 3, 1, 2, 6]))  # over the kernel's size: pixels left out
DILATIONS = either(st.integers(1, 3))


@dataclass(frozen=True)
class Windows:
    """The size of an image and the windows on it, as a call is given them."""

    size: tuple[int, int]
    kernel_size: int | tuple[int, int]
    stride: int | tuple[int, int]
    padding: int | str | tuple
    dilation: int | tuple[int, int]
    ceil_mode: bool = False

    @property
    def axes(self):
        """The rows' and the columns' `geometry.Axis`."""
        return geometry.windows(
            "test",
            self.size,
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            self.ceil_mode,
        )

    @property
    def kernel(self):
        """Taps as ``(kh, kw)``."""
        return tuple(axis.kernel for axis in self.axes)

    @property
    def out(self):
        """Outputs as ``(oh, ow)``."""
        return tuple(axis.out for axis in self.axes)


def _both(value):
    return value if isinstance(value, tuple) else (value, value)


def _paddings(most):
    """Draw padding of at most `most` ``(h, w)`` pixels, in every form."""
    rows, cols = (st.integers(0, pixels) for pixels in most)
    ends = st.tuples(st.tuples(rows, rows), st.tuples(cols, cols))
    named = st.sampled_from(["valid", "same"])
    return st.one_of(st.integers(0, min(most)), st.tuples(rows, cols), ends, named, ends)


def _sizes(draw, kernel, dilation, padding):
    """Draw an image size on which at least one window fits, from one pixel up."""
    sizes = []
    for i in range(2):
        span = dilation[i] * (kernel[i] - 1) + 1
        if padding == "same":
            around = span
        elif padding == "valid":
            around = 0
        else:
            around = sum(_both(_both(padding)[i]))
        sizes.append(max(span - around, 1) + draw(st.integers(0, 12)))
    return tuple(sizes)


@st.composite
def windows(draw):
    """Draw windows for a convolution: the padding may be wider than the kernel."""
    kernel, stride, dilation = draw(KERNELS), draw(STRIDES), draw(DILATIONS)
    padding = draw(_paddings((7, 7)))
    size = _sizes(draw, _both(kernel), _both(dilation), padding)
    return Windows(size, kernel, stride, padding, dilation)


@st.composite
def winograd_windows(draw):
    """Draw windows that Winograd's algorithm serves: 3x3, stride 1."""
    padding = draw(_paddings((7, 7)))
    return Windows(_sizes(draw, (3, 3), (1, 1), padding), 3, 1, padding, 1)


def hold_pixels(drawn):
    """Whether each window of these `Windows` holds a pixel, by trying all of them."""
    return all(
        any(
            0 <= o * axis.stride - axis.before + tap * axis.dilation < axis.size
            for tap in range(axis.kernel)
        )
        for axis in drawn.axes
        for o in range(axis.out)
    )


@st.composite
def _pool_windows(draw, dilations):
    kernel, dilation = draw(KERNELS), draw(dilations)
    stride = draw(st.one_of(st.just(kernel), STRIDES))
    spans = [d * (k - 1) + 1 for k, d in zip(_both(kernel), _both(dilation), strict=True)]
    padding = draw(_paddings([span - 1 for span in spans]))
    size = _sizes(draw, _both(kernel), _both(dilation), padding)
    ceil_mode = draw(st.booleans())
    if ceil_mode:  # then even the first window may hang over the end, by less than a stride
        over = [draw(st.integers(0, step - 1)) for step in _both(stride)]
        size = tuple(max(pixels - o, 1) for pixels, o in zip(size, over, strict=True))
    return Windows(size, kernel, stride, padding, dilation, ceil_mode)


def pool_windows(dilations=DILATIONS):
    """Draw windows for pooling, each of which holds a pixel."""
    return _pool_windows(dilations).filter(hold_pixels)


# ---------------------------------------------------------------------------------- calls

BATCHES = st.sampled_from([None, 1, 2, 3, 2, 3, 0])  # None: a single image, without a batch axis
ALGORITHMS = ("direct", "im2col")  # exact on integers; not drawn: each example is tried on both
SEEDS = st.integers(0, 2**32 - 1)
OUTS = st.sampled_from([None, *OUT_LAYOUTS])
NEEDS = st.lists(st.sampled_from(["x", "weight", "bias"]), min_size=1, max_size=3, unique=True)


def _batched(batch, *shape):
    return shape if batch is None else (batch, *shape)


@dataclass(frozen=True)
class Convolution:
    """A call of `conv2d` and one of `conv2d_backward`."""

    batch: int | None
    channels: tuple[int, int]  # input and output channels of one group
    groups: int
    windows: Windows
    with_bias: bool = True
    activation: str | None = None
    need: tuple[str, ...] = ("x", "weight", "bias")
    out: str | None = None
    layouts: tuple[str, str, str, str] = ("contiguous",) * 4
    seed: int = 0

    @property
    def options(self):
        """The keywords that both functions take."""
        return {
            "stride": self.windows.stride,
            "padding": self.windows.padding,
            "dilation": self.windows.dilation,
            "groups": self.groups,
        }

    @property
    def x_shape(self):
        return _batched(self.batch, self.channels[0] * self.groups, *self.windows.size)

    @property
    def y_shape(self):
        return _batched(self.batch, self.channels[1] * self.groups, *self.windows.out)

    @property
    def weight_shape(self):
        return (self.channels[1] * self.groups, self.channels[0], *self.windows.kernel)

    def arrays(self, dtype, numbers):
        """Return x, weight, bias and the gradient of the output."""
        rng = np.random.default_rng(self.seed)
        shapes = (self.x_shape, self.weight_shape, self.weight_shape[:1], self.y_shape)
        x, weight, bias, grad_out = (
            lay_out(numbers(rng, shape).astype(dtype), layout)
            for shape, layout in zip(shapes, self.layouts, strict=True)
        )
        return x, weight, bias if self.with_bias else None, grad_out

    @property
    def terms(self):
        """The most terms that a sum has: of the outputs, and of each gradient."""
        (kh, kw), (oh, ow) = self.windows.kernel, self.windows.out
        pixels = (1 if self.batch is None else self.batch) * oh * ow
        return {
            "y": self.channels[0] * kh * kw + 1,  # and the bias
            "x": self.channels[1] * kh * kw,
            "weight": pixels,
            "bias": pixels,
        }


def convolutions(windows=windows(), batches=BATCHES):  # noqa: B008  a strategy is a constant
    """Draw calls of the convolution functions."""
    return st.builds(
        Convolution,
        batch=batches,
        channels=st.tuples(st.integers(1, 4), st.integers(1, 5)),
        groups=st.integers(1, 3),
        windows=windows,
        with_bias=st.booleans(),
        activation=st.sampled_from([None, "relu"]),
        need=NEEDS.map(tuple),
        out=OUTS,
        layouts=st.tuples(*[st.sampled_from(LAYOUTS)] * 4),
        seed=SEEDS,
    )


@dataclass(frozen=True)
class TransposedConvolution:
    """A call of `conv_transpose2d`."""

    batch: int | None
    channels: tuple[int, int]  # input and output channels of one group
    groups: int
    size: tuple[int, int]
    kernel_size: int | tuple[int, int]
    stride: int | tuple[int, int]
    padding: int | str | tuple
    output_padding: int | tuple[int, int]
    dilation: int | tuple[int, int]
    with_bias: bool = True
    out: str | None = None
    layouts: tuple[str, str, str, str] = ("contiguous",) * 4
    seed: int = 0

    @property
    def axes(self):
        """The `geometry.Axis` of rows and columns of the convolution that it transposes."""
        return geometry.transposed_windows(
            "test",
            self.size,
            self.kernel_size,
            self.stride,
            self.padding,
            self.output_padding,
            self.dilation,
        )

    @property
    def has_result(self):
        try:
            return bool(self.axes)
        except ValueError:
            return False

    @property
    def options(self):
        """The keywords that `conv2d` takes as well."""
        return {
            "stride": self.stride,
            "padding": self.padding,
            "dilation": self.dilation,
            "groups": self.groups,
        }

    @property
    def x_shape(self):
        return _batched(self.batch, self.channels[0] * self.groups, *self.size)

    @property
    def y_shape(self):
        sizes = (axis.size for axis in self.axes)
        return _batched(self.batch, self.channels[1] * self.groups, *sizes)

    @property
    def weight_shape(self):
        kernel = (axis.kernel for axis in self.axes)
        return (self.channels[0] * self.groups, self.channels[1], *kernel)

    def arrays(self, dtype, numbers):
        """Return x, weight, bias and the gradient of the output."""
        rng = np.random.default_rng(self.seed)
        outputs = self.channels[1] * self.groups
        shapes = (self.x_shape, self.weight_shape, (outputs,), self.y_shape)
        x, weight, bias, grad_out = (
            lay_out(numbers(rng, shape).astype(dtype), layout)
            for shape, layout in zip(shapes, self.layouts, strict=True)
        )
        return x, weight, bias if self.with_bias else None, grad_out

    @property
    def terms(self):
        """The most terms that an output's sum has."""
        kh, kw = self.weight_shape[2:]
        return self.channels[0] * kh * kw + 1  # and the bias


@st.composite
def transposed_convolutions(draw, batches=BATCHES):
    """Draw calls of `conv_transpose2d`."""
    kernel, stride, dilation = draw(KERNELS), draw(STRIDES), draw(DILATIONS)
    extra = [
        st.integers(0, max(s, d) - 1) for s, d in zip(_both(stride), _both(dilation), strict=True)
    ]
    call = TransposedConvolution(
        batch=draw(batches),
        channels=draw(st.tuples(st.integers(1, 4), st.integers(1, 5))),
        groups=draw(st.integers(1, 3)),
        size=draw(st.tuples(st.integers(1, 9), st.integers(1, 14))),
        kernel_size=kernel,
        stride=stride,
        padding=draw(_paddings((5, 5))),
        output_padding=draw(st.one_of(st.just(0), st.tuples(*extra))),
        dilation=dilation,
        with_bias=draw(st.booleans()),
        out=draw(OUTS),
        layouts=draw(st.tuples(*[st.sampled_from(LAYOUTS)] * 4)),
        seed=draw(SEEDS),
    )
    assume(call.has_result)
    return call


@dataclass(frozen=True)
class PlaneCall:
    """A call of a function that has no weights, on planes: columns or pooling."""

    batch: int | None
    channels: int
    windows: Windows
    out: str | None = None
    layouts: tuple[str, str, str] = ("contiguous",) * 3
    seed: int = 0

    @property
    def x_shape(self):
        return _batched(self.batch, self.channels, *self.windows.size)

    @property
    def y_shape(self):
        """The shape of pooled planes."""
        return _batched(self.batch, self.channels, *self.windows.out)

    @property
    def columns_shape(self):
        (kh, kw), (oh, ow) = self.windows.kernel, self.windows.out
        return _batched(self.batch, self.channels * kh * kw, oh * ow)

    @property
    def options(self):
        """The keywords that the windows are given by."""
        return {
            "stride": self.windows.stride,
            "padding": self.windows.padding,
            "dilation": self.windows.dilation,
        }

    def array(self, shape, dtype, numbers, number=0):
        """Return the call's first or (`number` 1, 2) further array."""
        rng = np.random.default_rng([self.seed, number])
        return lay_out(numbers(rng, shape).astype(dtype), self.layouts[number])


def plane_calls(windows, batches=BATCHES):
    """Draw calls of the functions on planes."""
    return st.builds(
        PlaneCall,
        batch=batches,
        channels=st.integers(1, 4),
        windows=windows,
        out=OUTS,
        layouts=st.tuples(*[st.sampled_from(LAYOUTS)] * 3),
        seed=SEEDS,
    )

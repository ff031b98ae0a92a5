"""What the public functions refuse, and in which words; and the odd arguments that are legal.

Every refusal is a good call with one thing changed, and leaves no trace in `out` or the inputs.
"""

import math
import reprlib
from fractions import Fraction

import numpy as np
import pytest
from numpy.lib.stride_tricks import as_strided

import slidedot as sd

HUGE = (2**31, 2**32 + 1, 2**62, 2**63 - 1)  # each fits a Py_ssize_t


def normal(*shape, dtype=np.float32):
    """Return normal numbers, the same at every call."""
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)


def sevens(*shape, dtype=np.float32):
    """Return an `out` in which a write would be seen."""
    return np.full(shape, 7, dtype)


def integers(*shape, dtype=np.float32):
    """Return whole numbers, not 0, whose sums of products are exact in any order."""
    rng = np.random.default_rng(0)
    return (rng.integers(1, 9, shape) * rng.choice([-1, 1], shape)).astype(dtype)


# ------------------------------------------------------------------------------ good calls

GOOD = {
    "conv2d": lambda: {
        "x": normal(2, 4, 6, 7),
        "weight": normal(6, 2, 3, 2),
        "bias": normal(6),
        "groups": 2,
        "padding": 1,
        "out": sevens(2, 6, 6, 8),
    },
    "conv2d_backward": lambda: {
        "grad_out": normal(2, 6, 6, 8),
        "x": normal(2, 4, 6, 7),
        "weight": normal(6, 2, 3, 2),
        "groups": 2,
        "padding": 1,
    },
    "conv_transpose2d": lambda: {
        "x": normal(2, 4, 6, 7),
        "weight": normal(4, 3, 3, 2),
        "bias": normal(6),
        "groups": 2,
        "padding": 1,
        "stride": 2,
        "output_padding": 1,
        "out": sevens(2, 6, 12, 13),
    },
    "Conv2dPlan": lambda: {
        "weight": normal(6, 2, 3, 2),
        "bias": normal(6),
        "groups": 2,
        "padding": 1,
        "input_size": (6, 7),
    },
    "im2col": lambda: {
        "x": normal(2, 4, 6, 7),
        "kernel_size": (3, 2),
        "out": sevens(2, 24, 24),
    },
    "col2im": lambda: {
        "cols": normal(2, 24, 24),
        "output_size": (6, 7),
        "kernel_size": (3, 2),
        "out": sevens(2, 4, 6, 7),
    },
    "max_pool2d": lambda: {
        "x": normal(2, 4, 6, 7),
        "kernel_size": (3, 2),
        "return_argmax": True,
        "out": sevens(2, 4, 2, 3),
    },
    "max_pool2d_backward": lambda: {
        "grad_out": normal(2, 4, 2, 3),
        "argmax": np.arange(48).reshape(2, 4, 2, 3) % 42,
        "input_size": (6, 7),
        "out": sevens(2, 4, 6, 7),
    },
    "avg_pool2d": lambda: {
        "x": normal(2, 4, 6, 7),
        "kernel_size": (3, 2),
        "out": sevens(2, 4, 2, 3),
    },
    "avg_pool2d_backward": lambda: {
        "grad_out": normal(2, 4, 2, 3),
        "input_size": (6, 7),
        "kernel_size": (3, 2),
        "out": sevens(2, 4, 6, 7),
    },
    "max_unpool2d": lambda: {
        "y": normal(2, 4, 2, 3),
        "argmax": np.arange(48).reshape(2, 4, 2, 3) % 42,
        "output_size": (6, 7),
        "out": sevens(2, 4, 6, 7),
    },
    "conv_output_size": lambda: {"size": 7, "kernel_size": 3},
    "receptive_field": lambda: {"layers": [3, (3, 2, 1, 1)]},
    "conv2d_parameters": lambda: {"in_channels": 4, "out_channels": 6, "kernel_size": (3, 2)},
    "linear_parameters": lambda: {"in_features": 4, "out_features": 6},
}
ARRAYS = {  # the floating arrays that each function reads
    "conv2d": ("x", "weight", "bias"),
    "conv2d_backward": ("grad_out", "x", "weight"),
    "conv_transpose2d": ("x", "weight", "bias"),
    "Conv2dPlan": ("weight", "bias"),
    "im2col": ("x",),
    "col2im": ("cols",),
    "max_pool2d": ("x",),
    "max_pool2d_backward": ("grad_out",),
    "max_unpool2d": ("y",),
    "avg_pool2d": ("x",),
    "avg_pool2d_backward": ("grad_out",),
}
TO_PLACES = {"max_pool2d_backward": "grad_out", "max_unpool2d": "y"}  # the values, beside argmax
TAKE_OUT = [function for function, good in GOOD.items() if "out" in good()]
CONVOLUTIONS = ("conv2d", "conv2d_backward", "Conv2dPlan")


def call(function, arguments):
    return getattr(sd, function)(**arguments)


@pytest.mark.parametrize("function", GOOD)
def test_good_call_is_accepted(function):
    arguments = GOOD[function]()
    result = call(function, arguments)
    if function in TAKE_OUT:
        assert (result[0] if isinstance(result, tuple) else result) is arguments["out"]
        assert not np.any(arguments["out"] == 7)


# ------------------------------------------------------------------------------ the table

CASES = []


def refuse(function, error, *parts, **changes):
    """Add a case: `function` refuses its good call with `changes`.

    The message starts with the function's name, and `parts` follow in their order. A change may be
    a function of the good arguments.
    """
    name = "-".join([str(len(CASES)), function, *changes])
    CASES.append(pytest.param(function, error, parts, changes, id=name))


# ------------------------------------------------------------------------------ integers

WINDOW = ("kernel_size", "stride", "dilation")
PAIRS = {  # arguments that are an int or (h, w)
    "conv2d": ("stride", "dilation"),
    "conv2d_backward": ("stride", "dilation"),
    "conv_transpose2d": ("stride", "dilation"),
    "Conv2dPlan": ("stride", "dilation", "input_size"),
    "im2col": WINDOW,
    "col2im": ("output_size", *WINDOW),
    "max_pool2d": WINDOW,
    "max_pool2d_backward": ("input_size",),
    "max_unpool2d": ("output_size",),
    "avg_pool2d": ("kernel_size", "stride"),
    "avg_pool2d_backward": ("input_size", "kernel_size", "stride"),
    "receptive_field": WINDOW,
    "conv2d_parameters": ("kernel_size",),
}
SCALARS = {  # arguments that are one int
    "conv2d": ("groups",),
    "conv2d_backward": ("groups",),
    "conv_transpose2d": ("groups",),
    "Conv2dPlan": ("groups",),
    "conv_output_size": ("size", *WINDOW),
    "conv2d_parameters": ("in_channels", "out_channels", "groups"),
    "linear_parameters": ("in_features", "out_features"),
}
NOT_INTS = (
    *(True, np.True_, 1.0, 2.5, math.inf, math.nan, np.float32(2), 1j, Fraction(2), None, b"2"),
    *({2}, np.ones(2, int), np.array(2.0), np.array(True), object()),
)
NONE_IS_LEGAL = {
    *(("max_pool2d", "stride"), ("avg_pool2d", "stride")),  # the kernel's size
    *(("avg_pool2d_backward", "stride"), ("receptive_field", "stride")),
    ("Conv2dPlan", "input_size"),  # any
}
NEGATIVE = (-1, np.int8(-1), -(2**31), -(2**63), -(2**70))
TOO_LARGE = (2**63, np.uint64(2**63), 2**70)
MANY_DIGITS = 10**5000  # more than Python prints


def setting(function, name, value):
    """Return the change that gives argument `name` of `function` this value."""
    if function != "receptive_field":
        return {name: value}
    layer = {"kernel_size": 3, "stride": 1, "padding": 0, "dilation": 1} | {name: value}
    return {"layers": [3, tuple(layer.values())]}


for table in (PAIRS, SCALARS):
    for function, name in [(f, name) for f, names in table.items() for name in names]:
        for value in (*NOT_INTS, "2"):
            if value is None and (function, name) in NONE_IS_LEGAL:
                continue
            shown = reprlib.repr(value)
            refuse(function, TypeError, name, "an int", shown, **setting(function, name, value))
        for value in (0, np.int64(0), *NEGATIVE):
            shown = f"{name}={value!r}"
            refuse(function, ValueError, name, ">= 1", shown, **setting(function, name, value))
        for value in TOO_LARGE:
            shown = f"{name}={value!r}"
            refuse(function, ValueError, name, shown, **setting(function, name, value))
        for value in (MANY_DIGITS, -MANY_DIGITS):
            refuse(function, ValueError, name, **setting(function, name, value))
for function, name in [(f, name) for f, names in PAIRS.items() for name in names]:
    for value in ((), (2,), [2], (2, 2, 2), (2,) * 4, (0, 1), [1, -1], (2**70, 1), (1, 2**63)):
        shown = f"{name}={value!r}"
        refuse(function, ValueError, name, shown, **setting(function, name, value))
    for value in ((1.0, 1), (1, True), ["1", 1], (None, 1), ((1, 1), 1)):
        shown = repr(value)
        refuse(function, TypeError, name, "an int", shown, **setting(function, name, value))
for function, name in [(f, name) for f, names in SCALARS.items() for name in names]:
    for value in ((1,), (1, 1), [2]):
        refuse(function, TypeError, name, "an int", repr(value), **{name: value})

# ------------------------------------------------------------------------------ padding

PADDED = (
    *CONVOLUTIONS,
    *("conv_transpose2d", "im2col", "col2im", "max_pool2d", "avg_pool2d", "avg_pool2d_backward"),
    *("conv_output_size", "receptive_field"),
)

for function in PADDED:
    for value in NOT_INTS:
        shown = reprlib.repr(value)
        refuse(function, TypeError, "padding", shown, **setting(function, "padding", value))
    for value in ((1, True), (1, 2.5), (1, "1"), (None, 1)):
        refuse(function, TypeError, "padding", value, **setting(function, "padding", value))
    for value in (
        *(*NEGATIVE, *TOO_LARGE, (1, -1), (-1, 1), (0, 2**70), (2**63, 0)),
        *((), (2,), (2, 2, 2), [1] * 4, "full", "SAME", "same ", "", "1"),
    ):
        shown = f"padding={value!r}"
        refuse(function, ValueError, "padding", shown, **setting(function, "padding", value))
    for value in (MANY_DIGITS, -MANY_DIGITS):
        refuse(function, ValueError, "padding", **setting(function, "padding", value))
    if function == "conv_output_size":  # its padding is of one axis
        continue
    for value in (
        *(((1, 1), 1), (1, (1, 1)), ((1, 1), (1,)), ((1, 1, 1), (1, 1)), ((), ())),
        *(((1, 1),), ((1, 1), (1, 1), (1, 1)), ((1, 1), [1] * 3)),
    ):
        shown = f"padding={value!r}"
        refuse(function, ValueError, "padding", shown, **setting(function, "padding", value))
    for axis in ((-1, 0), (0, -1), (2**70, 0)):
        for value in ((axis, (0, 0)), ((0, 0), axis)):
            refuse(function, ValueError, "padding", axis, **setting(function, "padding", value))
    for axis in ((True, 0), (0, 1.5), ("1", 0)):
        for value in ((axis, (0, 0)), ((0, 0), axis)):
            refuse(function, TypeError, "padding", axis, **setting(function, "padding", value))
for function in PADDED[:-1]:
    for value in (2**62, 2**63 - 1):  # before and after do not fit together
        refuse(function, ValueError, "padding", value, padding=value)
refuse("receptive_field", ValueError, "padding='same'", "stride 2", layers=[(3, 2, "same")])

# ------------------------------------------------------------------------------ sizes

# a kernel larger than the padded input: both sizes are named
for function in ("im2col", "col2im", "max_pool2d"):
    for size in (7, *HUGE):
        refuse(function, ValueError, "kernel", "height", size, 6, kernel_size=(size, 1))
    for size in (8, *HUGE):
        refuse(function, ValueError, "kernel", "width", size, 7, kernel_size=(1, size))
    for step in (3, *HUGE):
        refuse(function, ValueError, "dilation", step, 2 * step + 1, 6, dilation=step)
    refuse(function, ValueError, "kernel", 9, 8, kernel_size=(9, 1), padding=1)
for function in CONVOLUTIONS:
    refuse(function, ValueError, "kernel", "height", 9, 8, weight=normal(6, 2, 9, 2))
    refuse(function, ValueError, "kernel", "width", 10, 9, weight=normal(6, 2, 3, 10))
    for step in (4, *HUGE):
        refuse(function, ValueError, "dilation", step, 2 * step + 1, 8, dilation=step)
for size in (8, *HUGE):
    refuse("conv_output_size", ValueError, size, 7, kernel_size=size)
    refuse("conv_output_size", ValueError, size, 2 * size + 1, 7, dilation=size)
refuse("conv_output_size", ValueError, "stride 3", 8, 2, size=8, stride=3, exact=True)

for function in ("avg_pool2d", "avg_pool2d_backward"):
    for size in (7, *HUGE):
        refuse(function, ValueError, "kernel", "height", size, 6, kernel_size=(size, 1))
    for size in (8, *HUGE):
        refuse(function, ValueError, "kernel", "width", size, 7, kernel_size=(1, size))
    refuse(function, ValueError, "kernel", 9, 8, kernel_size=(9, 1), padding=1)

# groups
for function in CONVOLUTIONS:
    for groups in (4, 5, *HUGE):
        refuse(function, ValueError, f"groups={groups}", groups=groups)
    refuse(function, ValueError, "groups=2", 5, weight=normal(5, 2, 3, 2))
for function in ("conv2d", "conv2d_backward"):
    refuse(function, ValueError, "groups=2", 5, x=normal(2, 5, 6, 7))
    refuse(function, ValueError, "weight", (6, 2, 3, 2), groups=1)
    refuse(function, ValueError, "weight", (6, 2, 3, 2), x=normal(2, 6, 6, 7))
    refuse(function, ValueError, "weight", (6, 3, 3, 2), weight=normal(6, 3, 3, 2))
refuse("conv2d_parameters", ValueError, "groups=3", "in_channels=4", groups=3)
refuse("conv2d_parameters", ValueError, "groups=4", "out_channels=6", groups=4)
for layer in ((), (3, 1, 0, 1, 1)):
    refuse("receptive_field", ValueError, "layer", layer, layers=[3, layer])

# arrays of another number of axes, or with an empty one (the batch may be empty)
for function in ("conv2d", "conv2d_backward", "im2col", "max_pool2d", "avg_pool2d"):
    for shape in ((), (7,), (6, 7), (1, 2, 4, 6, 7)):
        refuse(function, ValueError, "x", shape, x=normal(*shape))
    for shape in ((2, 0, 6, 7), (2, 4, 0, 7), (2, 4, 6, 0), (0, 0, 6, 7), (0, 6, 7), (4, 6, 0)):
        refuse(function, ValueError, "x", shape, x=normal(*shape))
for function in CONVOLUTIONS:
    for shape in ((), (6,), (6, 2, 3), (1, 6, 2, 3, 2)):
        refuse(function, ValueError, "weight", shape, weight=normal(*shape))
    for shape in ((0, 2, 3, 2), (6, 0, 3, 2), (6, 2, 0, 2), (6, 2, 3, 0), (0, 0, 0, 0)):
        refuse(function, ValueError, "weight", shape, weight=normal(*shape))

for shape in ((), (6, 1), (1, 6), (2, 6, 6, 8)):
    refuse("conv2d", ValueError, "bias", shape, bias=normal(*shape))
    refuse("Conv2dPlan", ValueError, "bias", shape, bias=normal(*shape))
for shape in ((), (6, 8), (1, 2, 6, 6, 8)):
    refuse("conv2d_backward", ValueError, "grad_out", shape, grad_out=normal(*shape))
for shape in ((), (24,), (1, 2, 24, 24)):
    refuse("col2im", ValueError, "cols", shape, cols=normal(*shape))
for function, name in TO_PLACES.items():
    for shape in ((), (48,), (1, 2, 4, 2, 3)):
        argmax = np.zeros(shape, np.int32)
        refuse(function, ValueError, "argmax", shape, argmax=argmax)
        refuse(function, ValueError, name, shape, **{name: normal(*shape)})

# arrays that do not fit the others, batch included: what is expected and what was given is named
for shape in ((1,), (5,), (7,), (0,)):
    refuse("conv2d", ValueError, "bias", (6,), shape, bias=normal(*shape))
    refuse("Conv2dPlan", ValueError, "bias", (6,), shape, bias=normal(*shape))
for shape in (
    *((3, 6, 6, 8), (1, 6, 6, 8), (0, 6, 6, 8), (2, 5, 6, 8), (2, 7, 6, 8), (2, 6, 5, 8)),
    *((2, 6, 6, 9), (2, 6, 0, 8), (2, 6, 8, 6), (6, 6, 8)),
):
    refuse("conv2d_backward", ValueError, "grad_out", (2, 6, 6, 8), shape, grad_out=normal(*shape))
refuse(
    *("conv2d_backward", ValueError, "grad_out", (6, 6, 8), (2, 6, 6, 8)),
    x=lambda good: good["x"][0],
)
for shape in ((2, 24, 23), (2, 24, 25), (2, 24, 0), (2, 24, 48)):
    refuse("col2im", ValueError, "cols", 24, shape, cols=normal(*shape))
for shape in ((2, 23, 24), (2, 25, 24), (2, 1, 24), (2, 0, 24)):
    refuse("col2im", ValueError, "cols", 6, shape, cols=normal(*shape))
for function, name in TO_PLACES.items():
    for shape in (
        *((3, 4, 2, 3), (1, 4, 2, 3), (0, 4, 2, 3), (2, 3, 2, 3), (2, 4, 3, 2), (2, 4, 2, 4)),
        *((2, 4, 6), (4, 2, 3)),
    ):
        argmax = np.zeros(shape, np.int32)
        refuse(function, ValueError, "argmax", (2, 4, 2, 3), shape, argmax=argmax)
    for shape in ((2, 0, 2, 3), (2, 4, 0, 3), (2, 4, 2, 0), (0, 2, 3), (0, 0, 2, 3)):
        argmax = np.zeros(shape, np.int32)
        refuse(function, ValueError, name, shape, **{name: normal(*shape)}, argmax=argmax)

for shape in ((), (48,), (1, 2, 4, 2, 3), (2, 0, 2, 3), (2, 4, 0, 3), (2, 4, 2, 0), (0, 2, 3)):
    refuse("avg_pool2d_backward", ValueError, "grad_out", shape, grad_out=normal(*shape))
for shape in ((2, 4, 3, 2), (2, 4, 2, 4), (2, 4, 1, 3), (4, 6, 7), (2, 4, 6, 7)):
    expected = (*shape[:-2], 2, 3)
    refuse("avg_pool2d_backward", ValueError, "grad_out", expected, shape, grad_out=normal(*shape))

# ------------------------------------------------------------------------------ transposed

for value in NOT_INTS:
    shown = reprlib.repr(value)
    refuse("conv_transpose2d", TypeError, "output_padding", shown, output_padding=value)
for value in (*NEGATIVE, *TOO_LARGE, (-1, 0), (0, 2**70), (), (1,), (1, 1, 1)):
    shown = f"output_padding={value!r}"
    refuse("conv_transpose2d", ValueError, "output_padding", shown, output_padding=value)
for value in (2, (2, 0), (0, 2), *HUGE):  # the stride is 2
    shown = f"output_padding={value!r}"
    refuse("conv_transpose2d", ValueError, shown, "stride 2", output_padding=value)
refuse(
    *("conv_transpose2d", ValueError, "output_padding=3", "stride 2", "dilation 3"),
    output_padding=3,
    dilation=3,
)
for padding in (7, (7, 0), ((14, 0), (0, 0)), ((0, 0), (7, 8))):
    shown = f"padding={padding!r}"
    refuse("conv_transpose2d", ValueError, shown, "leaves nothing", padding=padding)
for size in HUGE[2:]:  # beyond what a size counts
    refuse("conv_transpose2d", ValueError, "too large", size, stride=size)
    refuse("conv_transpose2d", ValueError, "too large", dilation=size)
for shape in ((3, 3, 3, 2), (5, 3, 3, 2), (6, 2, 3, 2)):
    refuse("conv_transpose2d", ValueError, "weight", 4, shape, weight=normal(*shape))
refuse("conv_transpose2d", ValueError, "groups=3", "C=4", groups=3)
for shape in ((), (6,), (4, 3, 3), (1, 4, 3, 3, 2), (4, 0, 3, 2), (4, 3, 0, 2), (4, 3, 3, 0)):
    refuse("conv_transpose2d", ValueError, "weight", shape, weight=normal(*shape))
for shape in ((), (6, 1), (4,), (7,), (0,)):
    refuse("conv_transpose2d", ValueError, "bias", shape, bias=normal(*shape))
for shape in ((6, 7), (1, 2, 4, 6, 7), (2, 0, 6, 7), (2, 4, 0, 7)):
    refuse("conv_transpose2d", ValueError, "x", shape, x=normal(*shape))

# ------------------------------------------------------------------------------ empty windows

for function in ("max_pool2d", "avg_pool2d", "avg_pool2d_backward"):
    for padding in (3, 2**31, 2**61):
        refuse(function, ValueError, "padding", padding, padding=(padding, 0))
        refuse(function, ValueError, "padding", padding, padding=(0, padding))
        refuse(function, ValueError, "padding", padding, padding=((0, padding), (0, 0)))
# taps further apart than the image is long: the third window's lie at -3 and 6, the image at 0..5
refuse("max_pool2d", ValueError, "window", kernel_size=(2, 1), dilation=(9, 1), padding=(5, 0))
refuse("max_pool2d", ValueError, "window", kernel_size=(1, 2), dilation=(1, 9), padding=(0, 5))

# ------------------------------------------------------------------------------ arrays

NOT_FLOATS = [
    *("bool", "int8", "int32", "uint64", "float16", "complex64", "complex128", "object"),
    *("U1", "S1", "V4", "datetime64[s]", "timedelta64[s]", [("a", "f4")]),
]
if np.dtype(np.longdouble).itemsize > 8:
    NOT_FLOATS.append(np.longdouble)
NOT_INDICES = [d for d in NOT_FLOATS if np.dtype(d).kind not in "iu"] + ["float32", "float64"]

for function, name in [(f, name) for f, names in ARRAYS.items() for name in names]:
    shape = GOOD[function]()[name].shape
    for dtype in map(np.dtype, NOT_FLOATS):
        refuse(function, TypeError, name, dtype, **{name: np.zeros(shape, dtype)})
    refuse(function, TypeError, name, "int", **{name: np.zeros(shape, int).tolist()})
    masked = np.ma.masked_array(np.zeros(shape, np.float32), np.ones(shape, bool))
    refuse(function, TypeError, name, ".filled()", **{name: masked})
    refuse(function, TypeError, name, **{name: "image"})
    refuse(function, TypeError, name, **{name: object()})
    refuse(function, (TypeError, ValueError), name, **{name: [[1.0], [1.0, 2.0]]})
    if name != "bias":
        refuse(function, TypeError, name, **{name: None})
for function in TO_PLACES:
    shape = GOOD[function]()["argmax"].shape
    for dtype in map(np.dtype, NOT_INDICES):
        refuse(function, TypeError, "argmax", dtype, argmax=np.zeros(shape, dtype))
    masked = np.ma.masked_array(np.zeros(shape, int), np.ones(shape, bool))
    refuse(function, TypeError, "argmax", ".filled()", argmax=masked)
    refuse(function, TypeError, "argmax", argmax=None)


@pytest.mark.parametrize(
    ("function", "name"),
    [(f, name) for f, names in ARRAYS.items() for name in names if len(names) > 1],
)
def test_mixed_dtypes_are_refused(function, name):
    arguments = GOOD[function]()
    arguments[name] = arguments[name].astype(np.float64)
    with pytest.raises(TypeError, match=f"^{function}: ") as refusal:
        call(function, arguments)
    assert all(part in str(refusal.value) for part in (name, "float32", "float64"))


# ------------------------------------------------------------------------------ out


def sharing(function, name, offset, dtype=np.float32):
    """Return changes that let `out` start `offset` elements into the memory of array `name`."""
    good = GOOD[function]()
    given, out = good[name], good["out"]
    memory = np.zeros(offset + given.size + out.size, np.float32)
    array = memory.view(dtype)[: given.size].reshape(given.shape)
    if dtype != np.int32:
        array[...] = given
    return {name: array, "out": memory[offset : offset + out.size].reshape(out.shape)}


for function in TAKE_OUT:
    out = GOOD[function]()["out"]
    shape = out.shape
    for given in (
        *((1, *shape[1:]), (3, *shape[1:]), shape[1:], (1, *shape), (*shape[:-1], shape[-1] + 1)),
        *((*shape[:-1], 1), (out.size,), (), (0, *shape[1:])),
    ):
        refuse(function, ValueError, "out", shape, given, out=sevens(*given))
    for dtype in map(np.dtype, ("float64", "float16", "int32", "complex64", "bool", "object")):
        refuse(function, (TypeError, ValueError), "out", dtype, out=sevens(*shape, dtype=dtype))
    refuse(function, TypeError, "out", out=out.tolist())
    refuse(function, TypeError, "out", out=memoryview(out))
    refuse(function, TypeError, "out", out=np.float32(7))
    refuse(function, TypeError, "out", out=True)
    refuse(function, TypeError, "out", "MaskedArray", out=np.ma.masked_array(out))
    read_only = out.copy()
    read_only.flags.writeable = False
    refuse(function, ValueError, "out", "read-only", out=read_only)
    one = np.full(1, 7, np.float32)
    refuse(function, ValueError, "out", "overlap", out=as_strided(one, shape, (0,) * out.ndim))
    row = np.full(sum(shape), 7, np.float32)  # a pixel is in each of the axes' rows
    refuse(function, ValueError, "out", "overlap", out=as_strided(row, shape, (4,) * out.ndim))
    for name in ARRAYS[function]:
        size = GOOD[function]()[name].size
        for offset in (0, 1, size // 2, size - 1):
            changes = sharing(function, name, offset)
            refuse(function, ValueError, "out", "memory", name, **changes)
        refuse(function, ValueError, "out", "memory", name, **sharing(function, name, 0, ">f4"))
for function in TO_PLACES:
    changes = sharing(function, "argmax", 1, np.int32)
    refuse(function, ValueError, "out", "memory", "argmax", **changes)

# ------------------------------------------------------------------------------ choices

for function in CONVOLUTIONS:
    for value in ("fast", "Direct", "", None, 1, ["auto"], "winograd"):  # that needs 3x3 filters
        shown = f"algorithm={value!r}"
        refuse(function, ValueError, "algorithm", shown, algorithm=value)
    for part, changes in {
        "kernel_size=(3, 2)": {},
        "stride=(2, 1)": {"weight": normal(6, 2, 3, 3), "stride": (2, 1)},
        "dilation=(1, 2)": {"weight": normal(6, 2, 3, 3), "dilation": (1, 2)},
        "dtype=float64": {name: GOOD[function]()[name].astype(float) for name in ARRAYS[function]}
        | {"weight": normal(6, 2, 3, 3, dtype=float)},
    }.items():
        refuse(function, ValueError, "algorithm", part, **changes, algorithm="winograd")
for value in ("gelu", "ReLU", "", True, 1, ["relu"]):
    for function in ("conv2d", "Conv2dPlan"):
        refuse(function, ValueError, "activation", f"activation={value!r}", activation=value)
for value in (("x", "y"), ("weights",), ("x", None), (1,), "weight", "x", "", None, True, 1):
    refuse("conv2d_backward", ValueError, "need", f"need={value!r}", need=value)


@pytest.mark.parametrize(("function", "error", "parts", "changes"), CASES)
def test_refused(function, error, parts, changes):
    good = GOOD[function]()
    changed = {name: c(good) if callable(c) else c for name, c in changes.items()}
    arguments = {**good, **changed}
    before = {k: a.tobytes() for k, a in arguments.items() if isinstance(a, np.ndarray)}
    with pytest.raises(error) as refusal:
        call(function, arguments)
    message = str(refusal.value)
    assert message.startswith(f"{function}: ")
    place = 0
    for part in map(str, parts):
        assert part in message[place:], f"{message!r} does not say {part!r} in its place"
        place = message.index(part, place) + len(part)
    for name, contents in before.items():
        assert arguments[name].tobytes() == contents, f"{name} was written"


# ------------------------------------------------------------------------------ a plan's calls


def plan_calls():
    """Yield a method of a plan of 4 channels, an argument it refuses, the error, and its words."""
    yield "__call__", normal(2, 5, 6, 7), ValueError, ("groups=2", "C=5")
    yield "__call__", normal(2, 6, 6, 7), ValueError, ("weight", (6, 2, 3, 2))
    yield "__call__", normal(2, 4, 0, 7), ValueError, ("x", (2, 4, 0, 7))
    yield "__call__", normal(6, 7), ValueError, ("x", (6, 7))
    yield "__call__", normal(2, 4, 6, 7, dtype=np.float64), TypeError, ("x", "float64", "float32")
    yield "__call__", np.zeros((4, 6, 7), int), TypeError, ("x", "int64")
    yield "__call__", None, TypeError, ("x",)
    yield "algorithm", 0, ValueError, ("input_size", 0)
    yield "algorithm", 6.0, TypeError, ("input_size", 6.0)
    yield "algorithm", (1, 7, 7), ValueError, ("input_size", (1, 7, 7))
    for method in ("workspace_bytes", "flops"):
        yield method, (4, 6), ValueError, ("x_shape", (4, 6))
        yield method, 4, ValueError, ("x_shape", 4)
        yield method, (-1, 4, 6, 7), ValueError, ("x_shape", ">= 0")
        yield method, (4, 0, 7), ValueError, ("x_shape", ">= 1")
        yield method, (2, 6, 6, 7), ValueError, ("weight", (6, 2, 3, 2))
        yield method, (4, 6.0, 7), TypeError, ("x_shape", 6.0)


@pytest.mark.parametrize(("method", "argument", "error", "parts"), list(plan_calls()))
def test_a_plan_refuses(method, argument, error, parts):
    arguments = GOOD["Conv2dPlan"]()
    plan = sd.Conv2dPlan(**arguments)
    with pytest.raises(error, match=r"^Conv2dPlan: ") as refusal:
        getattr(plan, method)(argument)
    for part in map(str, parts):
        assert part in str(refusal.value)


def test_a_plan_refuses_an_input_that_no_filter_fits_into():
    plan = sd.Conv2dPlan(normal(6, 4, 3, 2))
    for call in (
        lambda: plan(normal(4, 2, 7)),
        lambda: plan.algorithm((2, 7)),
        lambda: plan.workspace_bytes((4, 2, 7)),
        lambda: plan.flops((4, 2, 7)),
    ):
        with pytest.raises(ValueError, match=r"^Conv2dPlan: the kernel's height 3 "):
            call()


def test_a_plan_refuses_an_out_that_does_not_fit():
    x = normal(4, 6, 7)
    plan = sd.Conv2dPlan(normal(4, 4, 3, 3), padding=1)
    for out in (sevens(4, 6, 8), sevens(4, 6, 7, dtype=np.float64), x):
        with pytest.raises((TypeError, ValueError), match=r"^Conv2dPlan: out "):
            plan(x, out)


# ------------------------------------------------------------------------------ indices


@pytest.mark.parametrize("function", TO_PLACES)
@pytest.mark.parametrize("size", [(4, 6), (5, 7)])  # windows of 2x2 fill the first
@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        *(("int8", v) for v in (-1, -128, 127)),
        *(("uint8", v) for v in (255,)),
        *(("int32", v) for v in (-1, -(2**31), 2**31 - 1)),
        *(("uint32", v) for v in (2**31, 2**32 - 1)),
        *(("int64", v) for v in (-1, 1 - 2**32, -(2**63), 2**31, 2**32 + 1, 2**63 - 1)),
        *(("uint64", v) for v in (2**32 + 1, 2**63, 2**63 + 1, 2**64 - 1)),
        *((d, "H*W") for d in ("int8", "int32", "uint32", "int64", "uint64", ">i4", ">u8")),
    ],
)
def test_index_out_of_range_is_refused(level, function, size, dtype, value):
    """At full width, wherever it is, before anything is written."""
    value = size[0] * size[1] if value == "H*W" else value
    values = normal(2, 3, 2, 3)
    for place in range(values.size):
        argmax = np.zeros(values.shape, dtype)
        argmax.flat[place] = value
        out = sevens(2, 3, *size)
        with pytest.raises(IndexError, match=rf"^{function}: argmax ") as refusal:
            getattr(sd, function)(values, argmax, size, out=out)
        assert str(value) in str(refusal.value)
        assert np.all(out == 7)


@pytest.mark.parametrize("function", TO_PLACES)
@pytest.mark.parametrize("dtype", [*np.typecodes["AllInteger"], ">i2", ">u4", ">i8"])
def test_every_integer_dtype_is_an_index(level, function, dtype):
    x = normal(2, 3, 10, 12)
    y, argmax = sd.max_pool2d(x, 3, stride=2, return_argmax=True)
    expected = getattr(sd, function)(y, argmax, (10, 12))
    for given in (argmax.astype(dtype), np.asfortranarray(argmax.astype(dtype)), argmax.tolist()):
        assert np.array_equal(getattr(sd, function)(y, given, (10, 12)), expected)


# ------------------------------------------------------------------------------ memory


def broadcast(*shape):
    """Return an image of any size in four bytes."""
    return np.broadcast_to(np.float32(1), shape)


def index_zero(*shape):
    return np.broadcast_to(np.int32(0), shape)


#: Results, or a workspace, of 2**46 bytes and more, which no machine gives.
TOO_MUCH = {
    "im2col": lambda: sd.im2col(broadcast(1, 1, 2**22 + 3, 2**22 + 3), 4),
    "col2im": lambda: sd.col2im(broadcast(1, 1, 2**48), 2**24, 1),
    "conv2d": lambda: sd.conv2d(broadcast(1, 1, 2**22, 2**22), broadcast(64, 1, 1, 1)),
    "conv2d, im2col": lambda: sd.conv2d(
        broadcast(1, 2**20, 1024, 1024), broadcast(1, 2**20, 4, 4), algorithm="im2col"
    ),
    "conv2d_backward": lambda: sd.conv2d_backward(
        *(broadcast(1, 1, 2**24, 2**24), broadcast(1, 1, 2**24, 2**24), broadcast(1, 1, 1, 1)),
        need=("x",),
    ),
    "max_pool2d": lambda: sd.max_pool2d(broadcast(1, 1, 2**24, 2**24), 1),
    "max_pool2d_backward": lambda: sd.max_pool2d_backward(
        normal(1, 1, 1, 1), index_zero(1, 1, 1, 1), 2**24
    ),
    "max_unpool2d": lambda: sd.max_unpool2d(normal(1, 1, 1, 1), index_zero(1, 1, 1, 1), 2**24),
    "avg_pool2d": lambda: sd.avg_pool2d(broadcast(1, 1, 2**24, 2**24), 1),
    "avg_pool2d_backward": lambda: sd.avg_pool2d_backward(normal(1, 1, 1, 1), 2**24, 2**24),
}

#: Results of more bytes, or elements, than a Py_ssize_t counts: some with an empty batch.
UNCOUNTABLE = {
    "im2col": lambda: sd.im2col(broadcast(1, 1, 2**30, 2**30), 4),
    "im2col, empty": lambda: sd.im2col(np.empty((0, 1, 2**30, 2**30), np.float32), 4),
    "im2col, padded": lambda: sd.im2col(normal(1, 1, 4, 4), 1, padding=2**61),
    "col2im": lambda: sd.col2im(normal(1, 1, 1), 2**31, 1, stride=2**31),
    "col2im, empty": lambda: sd.col2im(normal(0, 1, 1), 2**31, 1, stride=2**31),
    "conv2d": lambda: sd.conv2d(normal(1, 1, 4, 4), normal(1, 1, 1, 1), padding=2**61),
    "conv2d, empty": lambda: sd.conv2d(normal(0, 1, 4, 4), normal(1, 1, 1, 1), padding=2**40),
    "max_pool2d": lambda: sd.max_pool2d(
        *(broadcast(2**10, 2**10, 2**20, 2**20), 3), stride=1, padding=2
    ),
    "max_pool2d_backward": lambda: sd.max_pool2d_backward(
        normal(1, 1, 1, 1), index_zero(1, 1, 1, 1), 2**62
    ),
    "max_pool2d_backward, empty": lambda: sd.max_pool2d_backward(
        normal(0, 1, 1, 1), index_zero(0, 1, 1, 1), 2**31
    ),
    "max_unpool2d": lambda: sd.max_unpool2d(normal(1, 1, 1, 1), index_zero(1, 1, 1, 1), 2**62),
    "avg_pool2d": lambda: sd.avg_pool2d(
        *(broadcast(2**10, 2**10, 2**20, 2**20), 3), stride=1, padding=2
    ),
    "avg_pool2d_backward": lambda: sd.avg_pool2d_backward(normal(1, 1, 1, 1), 2**62, 2**62),
}


@pytest.mark.parametrize("case", TOO_MUCH)
def test_more_than_the_memory_is_a_memory_error(case):
    function = case.partition(",")[0]
    with pytest.raises(MemoryError, match=rf"^{function}: .*\d"):
        TOO_MUCH[case]()


@pytest.mark.parametrize("case", UNCOUNTABLE)
def test_sizes_that_cannot_be_counted_are_refused(case):
    function = case.partition(",")[0]
    with pytest.raises((ValueError, MemoryError), match=rf"^{function}: .*\d"):
        UNCOUNTABLE[case]()


# ------------------------------------------------------------------------------ legal oddities


@pytest.mark.parametrize("algorithm", ["auto", "direct", "im2col"])
def test_empty_batch_of_convolution(level, dtype, algorithm):
    x, weight = normal(0, 4, 6, 7, dtype=dtype), normal(6, 2, 3, 2, dtype=dtype)
    options = {"groups": 2, "stride": 2, "algorithm": algorithm}
    y = sd.conv2d(x, weight, normal(6, dtype=dtype), **options)
    assert (y.shape, y.dtype) == ((0, 6, 2, 3), dtype)
    grads = sd.conv2d_backward(y, x, weight, **options)
    for grad, shape in zip(grads, [x.shape, weight.shape, (6,)], strict=True):
        assert (grad.shape, grad.dtype) == (shape, dtype)
        assert not grad.any()


def test_empty_batch_of_planes(level, dtype):
    x = normal(0, 4, 6, 7, dtype=dtype)
    cols = sd.im2col(x, (3, 2))
    y, argmax = sd.max_pool2d(x, 2, return_argmax=True)
    assert (cols.shape, cols.dtype) == ((0, 24, 24), dtype)
    assert (y.shape, y.dtype) == (argmax.shape, dtype) == ((0, 4, 3, 3), dtype)
    assert argmax.dtype == np.int32
    for image in (
        sd.col2im(cols, (6, 7), (3, 2)),
        sd.max_pool2d_backward(y, argmax, (6, 7)),
        sd.max_unpool2d(y, argmax, (6, 7)),
        sd.avg_pool2d_backward(sd.avg_pool2d(x, 2), (6, 7), 2),
    ):
        assert (image.shape, image.dtype) == (x.shape, dtype)


def test_empty_batch_of_huge_planes():
    """Countable, so legal, and no memory."""
    x = np.empty((0, 1, 2**29, 2**30), np.float32)
    one = normal(1, 1, 1, 1)
    y, argmax = sd.max_pool2d(x, 1, return_argmax=True)
    assert y.shape == sd.conv2d(x, one).shape == sd.conv2d_backward(x, x, one).x.shape == x.shape
    assert sd.im2col(x, 1).shape == (0, 1, 2**59)
    assert sd.col2im(sd.im2col(x, 1), (2**29, 2**30), 1).shape == x.shape
    assert argmax.dtype == np.int64
    assert sd.max_pool2d_backward(y, argmax, (2**29, 2**30)).shape == x.shape
    assert sd.max_unpool2d(y, argmax, (2**29, 2**30)).shape == x.shape


@pytest.mark.parametrize("stride", HUGE)
def test_huge_stride_takes_the_first_window(level, stride):
    x, weight = integers(2, 3, 6, 7), integers(4, 3, 3, 2)
    first = x[:, :, :3, :2]
    grad_out = integers(2, 4, 1, 1)
    options = {"stride": stride}
    for algorithm in ("direct", "im2col"):
        how = options | {"algorithm": algorithm}
        assert np.array_equal(sd.conv2d(x, weight, **how), sd.conv2d(first, weight))
        grads = sd.conv2d_backward(grad_out, x, weight, **how)
        expected = sd.conv2d_backward(grad_out, first, weight, algorithm=algorithm)
        assert np.array_equal(grads.x[:, :, :3, :2], expected.x)
        assert np.count_nonzero(grads.x) == expected.x.size
        assert np.array_equal(grads.weight, expected.weight)
    cols = sd.im2col(x, (3, 2), **options)
    assert np.array_equal(cols, first.reshape(2, 18, 1))
    image = sd.col2im(cols, (6, 7), (3, 2), **options)
    assert np.array_equal(image[:, :, :3, :2], first)
    assert np.count_nonzero(image) == first.size
    y, argmax = sd.max_pool2d(x, (3, 2), return_argmax=True, **options)
    assert np.array_equal(y, first.max(axis=(2, 3), keepdims=True))
    assert np.array_equal(np.take_along_axis(x.reshape(2, 3, 42, 1), argmax, 2), y)
    y = sd.avg_pool2d(x, (3, 2), **options)
    assert np.array_equal(y, first.mean(axis=(2, 3), keepdims=True))
    image = sd.avg_pool2d_backward(np.full_like(y, 6), (6, 7), (3, 2), **options)
    assert (image[:, :, :3, :2] == 1).all()
    assert np.count_nonzero(image) == first.size


@pytest.mark.parametrize("size", [2**31, 2**32 + 1, 2**40, 2**61])
def test_huge_windows_of_means(level, dtype, size):
    """Each of three windows along each axis holds the whole image."""
    x = integers(2, 3, 4, 5, dtype=dtype)
    half = size // 2
    padding = ((half, half), (half, half))
    options = {"padding": padding, "stride": 1, "count_include_pad": False}
    kernel = (2 * half + 2, 2 * half + 3)  # two windows more along each axis
    y = sd.avg_pool2d(x, kernel, **options)
    assert y.shape == (2, 3, 3, 3)
    assert np.allclose(y, x.mean(axis=(2, 3), keepdims=True))
    grad = sd.avg_pool2d_backward(y, (4, 5), kernel, **options)
    assert np.allclose(grad, y.sum(axis=(2, 3), keepdims=True) / 20)


@pytest.mark.parametrize("algorithm", ["direct", "im2col"])
@pytest.mark.parametrize("step", [2**31, 2**32, 2**40])
def test_padding_beyond_32_bits(level, dtype, step, algorithm):
    """Of three windows on each axis the middle one sees the first pixel, the others none."""
    x, weight, bias = (integers(*s, dtype=dtype) for s in ((2, 1, 4, 5), (3, 1, 1, 1), (3,)))
    options = {"stride": step, "padding": step}
    how = options | {"algorithm": algorithm}
    expected = np.zeros((2, 3, 3, 3), dtype) + bias[:, None, None]
    expected[:, :, 1, 1] = x[:, :, 0, 0] * weight[:, 0, 0, 0] + bias
    assert np.array_equal(sd.conv2d(x, weight, bias, **how), expected)
    grad_out = integers(2, 3, 3, 3, dtype=dtype)
    grads = sd.conv2d_backward(grad_out, x, weight, **how)
    seen = sd.conv2d_backward(grad_out[:, :, 1:2, 1:2], x[:, :, :1, :1], weight)
    assert np.array_equal(grads.x[:, :, :1, :1], seen.x)
    assert np.count_nonzero(grads.x) == 2
    assert np.array_equal(grads.weight, seen.weight)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("step", [2**31, 2**40, 2**60])
def test_padding_beyond_32_bits_of_several_channels(level, dtype, step, groups):
    """As above, where the next channel is near and where each channel has its own filter."""
    x, weight = (integers(*s, dtype=dtype) for s in ((2, 2, 4, 5), (2, 2 // groups, 1, 1)))
    options = {"stride": step, "padding": step, "groups": groups}
    middle = x[:, :, :1, :1]
    expected = np.zeros((2, 2, 3, 3), dtype)
    expected[:, :, 1:2, 1:2] = sd.conv2d(middle, weight, groups=groups)
    assert np.array_equal(sd.conv2d(x, weight, **options), expected)
    assert np.array_equal(sd.Conv2dPlan(weight, **options)(x), expected)
    grad_out = integers(2, 2, 3, 3, dtype=dtype)
    grads = sd.conv2d_backward(grad_out, x, weight, **options)
    seen = sd.conv2d_backward(grad_out[:, :, 1:2, 1:2], middle, weight, groups=groups)
    assert np.array_equal(grads.x[:, :, :1, :1], seen.x)
    assert np.count_nonzero(grads.x) == seen.x.size
    assert np.array_equal(grads.weight, seen.weight)


def test_depthwise_dilation_beyond_32_bits(level, dtype):
    """Of three taps on each axis only the middle one meets the image."""
    x, weight = integers(2, 3, 4, 5, dtype=dtype), integers(3, 1, 3, 3, dtype=dtype)
    far = {"dilation": 2**40, "padding": 2**40, "groups": 3}
    middle = np.ascontiguousarray(weight[:, :, 1:2, 1:2])
    y = sd.conv2d(x, weight, **far)
    assert np.array_equal(y, sd.conv2d(x, middle, groups=3))
    grads = sd.conv2d_backward(y, x, weight, **far)
    expected = sd.conv2d_backward(y, x, middle, groups=3)
    assert np.array_equal(grads.x, expected.x)
    assert np.array_equal(grads.weight[:, :, 1:2, 1:2], expected.weight)
    assert np.count_nonzero(grads.weight) == np.count_nonzero(expected.weight)


def test_dilation_beyond_32_bits(level, dtype):
    """Of three taps on each axis only the middle one meets the image."""
    x = integers(2, 3, 4, 5, dtype=dtype)
    far = {"dilation": 2**40, "padding": 2**40}
    weight = integers(4, 3, 3, 3, dtype=dtype)
    middle = np.ascontiguousarray(weight[:, :, 1:2, 1:2])
    y = sd.conv2d(x, weight, **far)
    assert np.array_equal(y, sd.conv2d(x, middle))
    grads, expected = (sd.conv2d_backward(y, x, w, **o) for w, o in ((weight, far), (middle, {})))
    assert np.array_equal(grads.x, expected.x)
    assert np.array_equal(grads.weight[:, :, 1:2, 1:2], expected.weight)
    cols = sd.im2col(x, 3, **far)
    assert np.array_equal(cols.reshape(2, 3, 9, 4, 5)[:, :, 4], x)
    assert np.count_nonzero(cols) == x.size
    assert np.array_equal(sd.col2im(cols, (4, 5), 3, **far), x)
    pooled, argmax = sd.max_pool2d(x, 3, stride=1, return_argmax=True, **far)
    assert np.array_equal(pooled, x)
    assert np.array_equal(argmax.reshape(6, 20), np.tile(np.arange(20), (6, 1)))


class Index:
    """An integer of another library."""

    def __init__(self, value):
        self.value = value

    def __index__(self):
        return self.value


@pytest.mark.parametrize("kind", [int, np.int8, np.uint64, np.array, Index])
def test_anything_with_an_index_is_an_integer(kind):
    x, weight = normal(2, 4, 6, 7), normal(6, 2, 3, 2)
    one, two = kind(1), kind(2)
    y = sd.conv2d(x, weight, stride=(two, one), padding=one, dilation=[one, two], groups=two)
    assert np.array_equal(
        y, sd.conv2d(x, weight, stride=(2, 1), padding=1, dilation=(1, 2), groups=2)
    )
    pooled = sd.max_pool2d(x, two, padding=((one, one), (kind(0), one)))
    assert np.array_equal(pooled, sd.max_pool2d(x, 2, padding=((1, 1), (0, 1))))


def test_nested_lists_of_floats_are_arrays():
    """As everywhere in NumPy they are float64."""
    x, weight, bias = normal(1, 2, 3, 4), normal(2, 2, 2, 2), normal(2)
    y = sd.conv2d(x.tolist(), weight.tolist(), bias.tolist())
    assert y.dtype == np.float64
    assert np.array_equal(y, sd.conv2d(*(a.astype(float) for a in (x, weight, bias))))


def test_nothing_may_be_needed():
    arguments = GOOD["conv2d_backward"]()
    assert sd.conv2d_backward(**arguments, need=()) == (None, None, None)


@pytest.mark.parametrize("function", TAKE_OUT)
def test_out_may_interleave_with_an_input(function):
    """No element is shared, though both lie in one piece of memory."""
    arguments = GOOD[function]()
    result = call(function, arguments)
    expected = result[0] if isinstance(result, tuple) else result
    name = ARRAYS[function][0]
    given, out = arguments[name], arguments["out"]
    memory = np.zeros((max(given.size, out.size), 2), np.float32)
    arguments[name] = memory[: given.size, 0].reshape(given.shape)
    arguments[name][...] = given
    arguments["out"] = memory[: out.size, 1].reshape(out.shape)
    call(function, arguments)
    assert np.array_equal(arguments["out"], expected)
    assert np.array_equal(arguments[name], given)


# ------------------------------------------------------------------------------ denormals


def floating_point_mode():
    """Return sums and products that change with the rounding mode and with flush-to-zero."""
    results = []
    for dtype in (np.float32, np.float64):
        info = np.finfo(dtype)
        tiny = np.array([info.tiny, -info.tiny], dtype)
        third = np.array([1, -1], dtype) / dtype(3)
        results += [tiny / dtype(2), tiny / dtype(2) * dtype(2), third, third + dtype(1)]
    return b"".join(a.tobytes() for a in results)


def test_denormals_are_exact_and_the_mode_is_left_alone(level, dtype):
    """Multiples of the smallest number add up without rounding, on all threads."""
    smallest = np.finfo(dtype).smallest_subnormal
    rng = np.random.default_rng(0)
    x, grad_out = (
        rng.integers(-9, 10, shape).astype(dtype) for shape in ((2, 8, 30, 31), (2, 16, 30, 31))
    )
    weight = rng.integers(-9, 10, (16, 8, 3, 3)).astype(dtype)
    small_x, small_grad, small_weight = x * smallest, grad_out * smallest, weight * smallest
    before = floating_point_mode()
    with sd.num_threads(4):
        y = sd.conv2d(x, weight, padding=1)
        assert np.array_equal(sd.conv2d(small_x, weight, padding=1), y * smallest)
        assert np.array_equal(sd.conv2d(x, small_weight, padding=1), y * smallest)
        large = sd.conv2d_backward(grad_out, x, weight, padding=1)
        small = sd.conv2d_backward(small_grad, x, weight, padding=1)
        for a, b in zip(large, small, strict=True):
            assert np.array_equal(a * smallest, b)
        cols = sd.im2col(small_x, 3)
        assert np.array_equal(cols, sd.im2col(x, 3) * smallest)
        assert np.array_equal(
            sd.col2im(cols, (30, 31), 3), sd.col2im(sd.im2col(x, 3), (30, 31), 3) * smallest
        )
        y, argmax = sd.max_pool2d(x, 3, stride=1, return_argmax=True)
        small_y, small_argmax = sd.max_pool2d(small_x, 3, stride=1, return_argmax=True)
        assert np.array_equal(small_y, y * smallest)
        assert np.array_equal(small_argmax, argmax)
        assert np.array_equal(
            sd.max_pool2d_backward(small_y, argmax, (30, 31)),
            sd.max_pool2d_backward(y, argmax, (30, 31)) * smallest,
        )
        assert np.array_equal(
            sd.max_unpool2d(small_y, argmax, (30, 31)),
            sd.max_unpool2d(y, argmax, (30, 31)) * smallest,
        )
    assert floating_point_mode() == before
    assert np.all(np.frombuffer(before[:8], np.float32) != 0)  # it was no flush-to-zero before

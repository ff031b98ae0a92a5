"""Whatever a caller passes, a function returns what the specification does or says what is wrong.

Every call is a good one, drawn as elsewhere, with some of its arguments replaced: by arrays of any
dtype, shape, strides and owner, by integers of any size, by objects of any type. It returns, or
raises ValueError, TypeError, IndexError or MemoryError with a message that begins with the
function's name and names an argument. ``python tests/fuzz.py`` draws many more.
"""

import contextlib
import inspect
import operator
import time
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.lib.stride_tricks import as_strided
from strategies import (
    LAYOUTS,
    convolutions,
    integers,
    lay_out,
    plane_calls,
    pool_windows,
    transposed_convolutions,
    windows,
    winograd_windows,
)

import slidedot as sd
from slidedot import reference

resource = pytest.importorskip("resource", reason="memory is bounded by POSIX calls")

#: What a call may take in addition to what the process holds: a larger result is a MemoryError.
MOST_BYTES = 2**28

#: Elements of a result up to which the specification, which is slow, is asked too.
SPECIFIED = 5_000

#: Where Linux tells what a process holds, in pages.
STATM = Path("/proc/self/statm")

#: Seconds after which a call counts as hanging.
PATIENCE = 2.0

#: What a message may speak of besides the arguments: their parts, and what is made of them.
WORDS = ("kernel", "stride", "padding", "dilation", "result", "workspace", "window", "x_shape")

# ------------------------------------------------------------------------------ hostile values


class Index:
    """Anything with ``__index__`` counts as an int."""

    def __init__(self, value):
        self.value = value

    def __index__(self):
        return self.value

    def __repr__(self):
        return f"Index({self.value})"


class Subclass(np.ndarray):
    """Which ``np.asarray`` takes for what it is below."""


class Liar:
    """Raises wherever it is asked."""

    def __index__(self):
        raise RuntimeError("no index")

    def __array__(self, *args, **kwargs):
        raise RuntimeError("no array")

    def __bool__(self):
        raise RuntimeError("no truth")

    def __eq__(self, other):
        raise RuntimeError("no comparison")

    __hash__ = None


NUMBERS = st.one_of(
    st.integers(-3, 9),
    st.sampled_from(
        [2**k + d for k in (15, 16, 31, 32, 33, 40, 62, 63, 64, 70) for d in (-1, 0, 1)]
    ),
    st.integers(-(2**70), 2**70),
)
SCALARS = st.one_of(
    NUMBERS,
    NUMBERS.map(Index),
    st.booleans(),
    st.floats(),
    st.none(),
    st.sampled_from(
        ["same", "valid", "relu", "direct", "winograd", "im2col", "x", "weight", "", "é"]
    ),
    st.sampled_from([b"1", 1j, Fraction(1, 2), np.float32(1), np.int8(-1), np.uint64(2**63)]),
    st.sampled_from([object, Liar]).map(lambda kind: kind()),
)
VALUES = st.one_of(
    NUMBERS,
    st.tuples(NUMBERS, NUMBERS),
    st.recursive(
        SCALARS,
        lambda inner: st.one_of(
            st.lists(inner, max_size=3), st.lists(inner, max_size=3).map(tuple)
        ),
        max_leaves=4,
    ),
)

DTYPES = st.sampled_from(
    ["f4", "f8", "f4", "f8", ">f4", ">f8", "i4", "i8", "u1", "u8", "f2", "c8", "?", "O", "U2", "V3"]
)
SIZES = st.one_of(st.integers(0, 5), st.integers(1, 3), st.integers(30, 34))
HUGE = st.sampled_from([2**16, 2**31 - 1, 2**31 + 1, 2**33, 2**40])


@st.composite
def arrays(draw):
    """Draw an array that is nobody's idea of an argument."""
    dtype = np.dtype(draw(DTYPES))
    shape = tuple(draw(st.lists(SIZES, max_size=5)))
    kind = draw(st.sampled_from(["laid out", "laid out", "huge", "overlapping", "masked", "other"]))
    if kind == "huge" and shape:  # one element, as often as the shape says
        axis = draw(st.integers(0, len(shape) - 1))
        shape = (*shape[:axis], draw(HUGE), *shape[axis + 1 :])
        return as_strided(
            np.ones(1, dtype), shape, (0,) * len(shape), writeable=draw(st.booleans())
        )
    numbers = np.random.default_rng(draw(st.integers(0, 99))).integers(-4, 5, shape)
    array = numbers.astype("U2" if dtype.kind in "UV" else dtype).astype(dtype, copy=False)
    if kind == "overlapping" and array.size:
        strides = tuple(draw(st.sampled_from([0, 1, 2, 4, 8, -4])) for _ in shape)
        span = sum(abs(s) * (n - 1) for s, n in zip(strides, shape, strict=True))
        start = sum(-s * (n - 1) for s, n in zip(strides, shape, strict=True) if s < 0)
        if dtype.hasobject:
            return array
        memory = np.zeros(span + dtype.itemsize, np.uint8)
        return np.ndarray(shape, dtype, memory, start, strides)
    if kind == "masked":
        return np.ma.masked_array(array)
    if kind == "other":
        return draw(st.sampled_from([array.tolist(), memoryview(b"abcd"), array.view(Subclass)]))
    layout = draw(st.sampled_from(LAYOUTS))
    if array.ndim and array.size and dtype.kind in "fi":
        return lay_out(array, layout)
    return array


# ------------------------------------------------------------------------------ calls


@dataclass
class Call:
    """A function's name and its arguments; `plan` is what a `Conv2dPlan` is called with."""

    function: str
    arguments: dict
    plan: Any = None

    def __call__(self, module=sd):
        if self.function != "Conv2dPlan":
            return getattr(module, self.function)(**self.arguments)
        plan = sd.Conv2dPlan(**self.arguments)
        plan.algorithm(self.plan.shape[2:]), plan.flops(self.plan.shape)
        plan.workspace_bytes(self.plan.shape)
        return plan(self.plan)

    def specified(self):
        """Return what the specification returns."""
        arguments = {k: v for k, v in self.arguments.items() if k != "out"}
        if self.function == "Conv2dPlan":
            arguments.pop("input_size", None)
            return reference.conv2d(self.plan, **arguments)
        return getattr(reference, self.function)(**arguments)


def out_of(array, given):
    return {"out": np.zeros(array.shape, array.dtype.newbyteorder("="))} if given else {}


@st.composite
def good_calls(draw):
    """Draw a call with nothing wrong in it."""
    dtype = np.dtype(draw(st.sampled_from(["f4", "f8"])))
    function = draw(st.sampled_from(sorted(GOOD)))
    return GOOD[function](draw, dtype)


def convolution(draw, dtype, function):
    call = draw(convolutions(st.one_of(windows(), winograd_windows())))
    x, weight, bias, grad_out = call.arrays(dtype, integers)
    options = {**call.options, "algorithm": draw(st.sampled_from(["auto", "direct", "im2col"]))}
    if function == "conv2d_backward":
        arguments = {"grad_out": grad_out, "x": x, "weight": weight, "need": call.need}
        return Call(function, {**arguments, **options})
    options["activation"] = call.activation
    if function == "Conv2dPlan":
        x = x if x.ndim == 4 else x[None]
        return Call(function, {"weight": weight, "bias": bias, **options}, x)
    out = out_of(grad_out, call.out)
    return Call(function, {"x": x, "weight": weight, "bias": bias, **options, **out})


def transposed(draw, dtype):
    call = draw(transposed_convolutions())
    x, weight, bias, grad_out = call.arrays(dtype, integers)
    arguments = {"x": x, "weight": weight, "bias": bias, "output_padding": call.output_padding}
    return Call("conv_transpose2d", {**arguments, **call.options, **out_of(grad_out, call.out)})


def columns(draw, dtype, function):
    call = draw(plane_calls(windows()))
    x = call.array(call.x_shape, dtype, integers)
    cols = call.array(call.columns_shape, dtype, integers, 1)
    arguments = {"kernel_size": call.windows.kernel_size, **call.options}
    if function == "im2col":
        return Call(function, {"x": x, **arguments, **out_of(cols, call.out)})
    arguments["output_size"] = call.windows.size
    return Call(function, {"cols": cols, **arguments, **out_of(x, call.out)})


def pooling(draw, dtype, function):
    call = draw(plane_calls(pool_windows()))
    x = call.array(call.x_shape, dtype, integers)
    grad_out = call.array(call.y_shape, dtype, integers, 1)
    arguments = {"kernel_size": call.windows.kernel_size, **call.options}
    arguments["ceil_mode"] = call.windows.ceil_mode
    if function == "max_pool2d":
        arguments["return_argmax"] = draw(st.booleans())
        return Call(function, {"x": x, **arguments, **out_of(grad_out, call.out)})
    _, argmax = reference.max_pool2d(x, return_argmax=True, **arguments)
    values, size = ("y", "output_size") if "un" in function else ("grad_out", "input_size")
    arguments = {values: grad_out, "argmax": argmax, size: call.windows.size}
    return Call(function, {**arguments, **out_of(x, call.out)})


def averages(draw, dtype, function):
    call = draw(plane_calls(pool_windows(st.just(1))))
    x = call.array(call.x_shape, dtype, integers)
    y = call.array(call.y_shape, dtype, integers, 1)
    arguments = {"kernel_size": call.windows.kernel_size, **call.options}
    del arguments["dilation"]
    arguments["ceil_mode"] = call.windows.ceil_mode
    arguments["count_include_pad"] = draw(st.booleans())
    if function == "avg_pool2d":
        return Call(function, {"x": x, **arguments, **out_of(y, call.out)})
    arguments = {"grad_out": y, "input_size": call.windows.size, **arguments}
    return Call(function, {**arguments, **out_of(x, call.out)})


def geometry(draw, dtype, function):
    numbers = st.integers(1, 9)
    arguments = {
        "conv_output_size": {"size": draw(st.integers(9, 30)), "kernel_size": draw(numbers)},
        "receptive_field": {"layers": draw(st.lists(st.tuples(numbers, numbers), max_size=3))},
        "conv2d_parameters": dict.fromkeys(("in_channels", "out_channels", "kernel_size"), 3),
        "linear_parameters": {"in_features": draw(numbers), "out_features": draw(numbers)},
    }
    return Call(function, arguments[function])


GOOD = {
    "conv_transpose2d": transposed,
    **{
        name: lambda draw, dtype, family=family, name=name: family(draw, dtype, name)
        for family, names in (
            (convolution, ("conv2d", "conv2d_backward", "Conv2dPlan")),
            (columns, ("im2col", "col2im")),
            (pooling, ("max_pool2d", "max_pool2d_backward", "max_unpool2d")),
            (averages, ("avg_pool2d", "avg_pool2d_backward")),
            (
                geometry,
                ("conv_output_size", "receptive_field", "conv2d_parameters", "linear_parameters"),
            ),
        )
        for name in names
    },
}


#: They take a number of threads, or a word, and act on the process: tests of their own.
CONFIGURATION = {"set_num_threads", "get_num_threads", "num_threads", "show_config"}


def replacement(draw, name, value, call):
    """Draw what stands in an argument's place."""
    given_arrays = [v for v in call.arguments.values() if isinstance(v, np.ndarray)]
    if isinstance(value, np.ndarray) or name in ("out", "x", "weight", "bias"):
        kinds = [arrays(), arrays(), VALUES]
        if given_arrays:
            other = st.sampled_from(given_arrays)  # the same memory, or a part of it
            kinds += [other, other.map(np.flip), other.map(lambda a: a.T)]
            kinds += [st.tuples(other, DTYPES).map(lambda pair: recast(*pair))]
        return draw(st.one_of(kinds))
    return draw(VALUES)


def recast(array, dtype):
    """Return the values in another dtype, which may not take them."""
    takes_any = array.dtype.kind in "fi" and array.size < 10**5 and np.dtype(dtype).kind != "V"
    return array.astype(dtype) if takes_any else array


@st.composite
def hostile_calls(draw):
    """Draw a good call and replace some of its arguments, or none."""
    call = draw(good_calls())
    parameters = list(inspect.signature(getattr(sd, call.function)).parameters)
    for name in draw(st.lists(st.sampled_from(parameters), max_size=3, unique=True)):
        value = call.arguments.get(name)
        call.arguments[name] = replacement(draw, name, value, call)
    return call


# ------------------------------------------------------------------------------ the rule


@contextlib.contextmanager
def bounded_memory():
    """Let the process grow by so much and no more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    now = int(STATM.read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + MOST_BYTES, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def contents(value):
    """Return an array's bytes as far as they can be held, to see whether they change."""
    if isinstance(value, np.ndarray) and not value.dtype.hasobject and value.size < 10**5:
        return value.tobytes()
    return None


def outcome(call):
    """Make the call and hold it to the rule; return "result" or the error's name."""
    inputs = {k: contents(v) for k, v in call.arguments.items() if k != "out"}
    start = time.perf_counter()
    try:
        with bounded_memory():
            result = call()
    except (ValueError, TypeError, IndexError, MemoryError) as error:
        ended = type(error).__name__
        message = str(error)
        if call.function == "Conv2dPlan" or message.startswith(f"{call.function}: "):
            parameters = inspect.signature(getattr(sd, call.function)).parameters
            known = [*parameters, *WORDS]
            assert any(name in message for name in known), f"names no argument: {message!r}"
        else:
            raise AssertionError(f"does not name {call.function}: {message!r}") from error
        result = None
    else:
        ended = "result"
    seconds = time.perf_counter() - start
    assert seconds < PATIENCE, f"took {seconds:.1f} s"
    for name, before in inputs.items():
        assert contents(call.arguments[name]) == before, f"changed {name}"
    if ended == "result" and hasattr(reference, call.function.replace("Conv2dPlan", "conv2d")):
        compare(call, result)
    return ended, seconds


def numbers_in(value):
    """Yield the integers in an argument, and of an array the size."""
    if isinstance(value, (tuple, list)):
        for inner in value:
            yield from numbers_in(inner)
    elif isinstance(value, np.ndarray):
        yield value.size
    elif isinstance(value, (int, np.integer, Index)):
        yield operator.index(value)


def compare(call, result):
    """Hold a result to the specification's; sums may be rounded where Winograd's algorithm is."""
    results = result if isinstance(result, tuple) else (result,)
    sizes = [n for value in (*call.arguments.values(), *results) for n in numbers_in(value)]
    if max(sizes, default=0) > SPECIFIED:
        return
    expected = call.specified()
    expected = expected if isinstance(expected, tuple) else (expected,)
    for actual, wanted in zip(results, expected, strict=True):
        if wanted is None:
            assert actual is None
        else:
            assert actual.shape == wanted.shape
            assert actual.dtype == wanted.dtype
            largest = np.abs(wanted).max(initial=1, where=np.isfinite(wanted))
            np.testing.assert_allclose(actual, wanted, rtol=0, atol=1e-4 * largest)


def test_every_public_function_is_called():
    public = {name for name in sd.__all__ if inspect.isroutine(getattr(sd, name))}
    assert GOOD.keys() == {"Conv2dPlan"} | public - CONFIGURATION


@pytest.mark.skipif(not STATM.exists(), reason="it is not known what the process holds")
@pytest.mark.usefixtures("level")
@given(call=hostile_calls())
@settings(suppress_health_check=list(HealthCheck))
def test_any_call_returns_or_says_what_is_wrong(call):
    outcome(call)

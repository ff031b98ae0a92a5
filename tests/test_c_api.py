"""The interface for C: a foreign Cython module calls it and gets what Python's functions return."""

import contextlib
import ctypes
import importlib.util
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from checks import assert_same_bits
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from strategies import (
    convolutions,
    plane_calls,
    pool_windows,
    reals,
    transposed_convolutions,
    windows,
    winograd_windows,
)
from test_threads import exit_code

import slidedot as sd
from slidedot import _dispatch, _threads, _validation, c_api, convolution, geometry, pooling

pytest.importorskip("Cython")  # the interface is for those who have it, and a compiler
pytest.importorskip("setuptools")

ROOT = Path(__file__).resolve().parents[1]

#: What is built, from what, and how.
BUILDS = {
    "calls": (ROOT / "tests" / "c_api_calls.pyx", ["-m", "Cython.Build.Cythonize", "-iq"]),
    "block": (ROOT / "examples" / "c_api" / "block.pyx", ["setup.py", "-q", "build_ext", "-i"]),
}


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """Two modules built against the package that is tested: the calls, and the docs' example."""
    installed = str(Path(sd.__file__).parents[1])
    path = os.pathsep.join(filter(None, [installed, os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONPATH": path, "CFLAGS": "-O1"}  # the kernels are compiled
    builds = {}
    for name, (source, command) in BUILDS.items():
        folder = tmp_path_factory.mktemp(name)
        shutil.copy(source, folder / f"{name}.pyx")
        if "setup.py" in command:
            shutil.copy(source.parent / "setup.py", folder)
        else:
            command = [*command, f"{name}.pyx"]
        process = subprocess.Popen([sys.executable, *command], cwd=folder, env=environment)
        builds[name] = process, folder
    modules = {}
    for name, (process, folder) in builds.items():
        assert process.wait(300) == 0
        (built,) = [p for p in folder.glob(f"{name}.*") if p.suffix in (".so", ".pyd")]
        spec = importlib.util.spec_from_file_location(name, built)
        modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(modules[name])
    return SimpleNamespace(**modules)


@pytest.fixture(scope="module")
def calls(foreign, level):
    """The calls, on the kernels of each CPU level."""
    c_api._use(_dispatch.kernels)
    yield foreign.calls
    c_api._use(_dispatch.load(_dispatch._choose()))


def address(array):
    return 0 if array is None else array.ctypes.data


def strides(array):
    """Return the strides in elements; None, which is NULL, where they tell nothing."""
    if array.flags.c_contiguous:
        return None
    return tuple(stride // array.itemsize for stride in array.strides)


def batched(array):
    return _validation.plain(array if array.ndim == 4 else array[None])


def numbers(x_shape, drawn, filters=(), **options):
    """Return the numbers for the structs, of windows as a test draws them."""
    h, w = drawn.axes
    return (*x_shape, *filters, h.kernel, w.kernel), {
        "stride": (h.stride, w.stride),
        "padding": (h.before, h.after, w.before, w.after),
        "dilation": (h.dilation, w.dilation),
        **options,
    }


THREADS = st.sampled_from([1, 1, 1, 3])


# ---------------------------------------------------------------------------------- results


def check_convolution(calls, dtype, call, algorithm, threads):
    """The four functions against conv2d and conv2d_backward, bit for bit."""
    x, weight, bias, grad_out = call.arrays(dtype, reals)
    options = {**call.options, "algorithm": algorithm}
    expected = sd.conv2d(x, weight, bias, activation=call.activation, **options)
    grads = sd.conv2d_backward(grad_out, x, weight, **options)

    x, weight, grad_out = batched(x), _validation.plain(weight), batched(grad_out)
    bias = None if bias is None else np.array(bias, dtype)
    options = {"groups": call.groups, "algorithm": calls.ALGORITHMS[algorithm]}
    of = numbers(x.shape, call.windows, weight.shape[:1], **options)
    double = dtype == np.float64
    shapes = grad_out.shape, x.shape, weight.shape, weight.shape[:1]
    y, *results = [np.full(shape, np.nan, dtype) for shape in shapes]
    for_x, for_weight, for_bias = results
    a, b, g = ((address(v), strides(v)) for v in (x, weight, grad_out))
    statuses = [
        calls.conv2d(
            of, double, *a, *b, address(bias), address(y), call.activation == "relu", threads
        ),
        calls.conv2d_gradient_x(of, double, *g, *b, address(for_x), threads),
        calls.conv2d_gradient_weight(of, double, *g, *a, address(for_weight), threads),
        calls.conv2d_gradient_bias(of, double, *g, address(for_bias), threads),
    ]
    assert statuses == [calls.STATUS["OK"]] * 4
    assert_same_bits(y.reshape(expected.shape), expected)
    for result, gradient in zip(results, grads, strict=True):
        assert_same_bits(result.reshape(gradient.shape), gradient)
    assert calls.conv2d_size(of) == (0, *expected.shape[2 - (expected.ndim == 3) :])


@settings(max_examples=60)
@given(call=convolutions(), algorithm=st.sampled_from(["auto", "direct"]), threads=THREADS)
def test_convolution(calls, dtype, call, algorithm, threads):
    check_convolution(calls, dtype, call, algorithm, threads)


@settings(max_examples=30)
@given(call=convolutions(winograd_windows()), threads=THREADS)
def test_winograd(calls, call, threads):
    check_convolution(calls, np.dtype(np.float32), call, "winograd", threads)


@settings(max_examples=60)
@given(call=transposed_convolutions(), threads=THREADS)
def test_transposed_convolution(calls, dtype, call, threads):
    x, weight, bias, _ = call.arrays(dtype, reals)
    expected = sd.conv_transpose2d(
        x, weight, bias, output_padding=call.output_padding, **call.options
    )
    x, weight = batched(x), _validation.plain(weight)
    bias = None if bias is None else np.array(bias, dtype)
    h, w = call.axes
    extra = tuple(  # "same" adds pixels as well
        a.size + a.before + a.after - (a.out - 1) * a.stride - a.span for a in (h, w)
    )
    assume(extra[0] < max(h.stride, h.dilation) and extra[1] < max(w.stride, w.dilation))
    of = (
        (*x.shape, expected.shape[-3], h.kernel, w.kernel),
        {
            "stride": (h.stride, w.stride),
            "padding": (h.before, h.after, w.before, w.after),
            "output_padding": extra,
            "dilation": (h.dilation, w.dilation),
            "groups": call.groups,
        },
    )
    y = np.full(expected.shape, np.nan, dtype)
    a, b = ((address(v), strides(v)) for v in (x, weight))
    double = dtype == np.float64
    assert calls.conv_transpose2d(of, double, *a, *b, address(bias), address(y), threads) == 0
    assert_same_bits(y, expected)
    assert calls.conv_transpose2d_size(of) == (0, *expected.shape[-2:])


@settings(max_examples=60)
@given(
    call=plane_calls(pool_windows()),
    index=st.sampled_from([np.int32, np.int64]),
    threads=THREADS,
)
def test_max_pooling(calls, dtype, call, index, threads):
    x = call.array(call.x_shape, dtype, reals)
    drawn = call.windows
    expected, places = sd.max_pool2d(
        x, drawn.kernel_size, ceil_mode=drawn.ceil_mode, return_argmax=True, **call.options
    )
    grad_out = reals(np.random.default_rng(call.seed), expected.shape).astype(dtype)
    gradient = sd.max_pool2d_backward(grad_out, places, drawn.size)
    unpooled = sd.max_unpool2d(grad_out, places, drawn.size)

    images = batched(x)
    of = numbers(images.shape, drawn, ceil_mode=drawn.ceil_mode)
    double, wide = dtype == np.float64, index == np.int64
    y, alone = (np.full(expected.shape, np.nan, dtype) for _ in range(2))
    result, back = (np.full(gradient.shape, np.nan, dtype) for _ in range(2))
    argmax = np.full(expected.shape, -1, index)
    a = address(images), strides(images)
    statuses = [
        calls.max_pool2d(of, double, *a, address(y), address(argmax), wide, threads),
        calls.max_pool2d(of, double, *a, address(alone), 0, wide, threads),
        calls.max_pool2d_backward(
            of, double, address(grad_out), address(argmax), address(result), wide, threads
        ),
        calls.max_unpool2d(
            of, double, address(grad_out), address(argmax), address(back), wide, threads
        ),
    ]
    assert statuses == [calls.STATUS["OK"]] * 4
    assert_same_bits(y, expected)
    assert_same_bits(alone, expected)
    assert np.array_equal(argmax, places)
    assert_same_bits(result, gradient)
    assert_same_bits(back, unpooled)
    assert calls.windows_size(of) == (0, *expected.shape[-2:])


@settings(max_examples=60)
@given(call=plane_calls(pool_windows(st.just(1))), counted=st.booleans(), threads=THREADS)
def test_average_pooling(calls, dtype, call, counted, threads):
    x, drawn = call.array(call.x_shape, dtype, reals), call.windows
    options = {"ceil_mode": drawn.ceil_mode, "count_include_pad": counted}
    options |= {"stride": drawn.stride, "padding": drawn.padding}
    expected = sd.avg_pool2d(x, drawn.kernel_size, **options)
    grad_out = reals(np.random.default_rng(call.seed), expected.shape).astype(dtype)
    gradient = sd.avg_pool2d_backward(grad_out, drawn.size, drawn.kernel_size, **options)

    images, double = batched(x), dtype == np.float64
    of = numbers(images.shape, drawn, ceil_mode=drawn.ceil_mode)
    y, back = np.full(expected.shape, np.nan, dtype), np.full(gradient.shape, np.nan, dtype)
    a = address(images), strides(images)
    assert calls.avg_pool2d(of, double, counted, *a, address(y), threads) == 0
    a = address(grad_out), address(back)
    assert calls.avg_pool2d_backward(of, double, counted, *a, threads) == 0
    assert_same_bits(y, expected)
    assert_same_bits(back, gradient)


@settings(max_examples=60)
@given(call=plane_calls(windows()), threads=THREADS)
def test_columns(calls, dtype, call, threads):
    x = call.array(call.x_shape, dtype, reals)
    kernel_size = call.windows.kernel_size
    expected = sd.im2col(x, kernel_size, **call.options)
    image = sd.col2im(expected, call.windows.size, kernel_size, **call.options)

    images, double = batched(x), dtype == np.float64
    of = numbers(images.shape, call.windows)
    cols, back = np.full(expected.shape, np.nan, dtype), np.full(image.shape, np.nan, dtype)
    assert calls.im2col(of, double, address(images), strides(images), address(cols), threads) == 0
    assert calls.col2im(of, double, address(cols), address(back), threads) == 0
    assert_same_bits(cols, expected)
    assert_same_bits(back, image)


@pytest.mark.parametrize("groups", [1, 2])
def test_steps_that_are_never_taken(foreign, groups):
    """One window, or one tap: how far the next one would be does not matter."""
    rng = np.random.default_rng(0)
    x, grad_out = rng.standard_normal((1, 2, 6, 6))[:, :, :5, :4], np.ones((1, 2, 1, 1))
    weight = rng.standard_normal((2, 2 // groups, 3, 1))
    stride, dilation = (2**62, 2**62), (1, 2**62)
    steps = {"stride": stride, "dilation": dilation, "groups": groups}
    expected = sd.conv2d(x, weight, **steps)
    grads = sd.conv2d_backward(grad_out, x, weight, **steps)
    of, y, for_x = ((1, 2, 5, 4, 2, 3, 1), steps), np.empty_like(expected), np.empty(x.shape)
    a, b, g = address(x), address(weight), address(grad_out)
    assert foreign.calls.conv2d(of, True, a, strides(x), b, None, 0, address(y), 0, 1) == 0
    assert_same_bits(y, expected)
    assert foreign.calls.conv2d_gradient_x(of, True, g, None, b, None, address(for_x), 1) == 0
    assert_same_bits(for_x, grads.x)


# ---------------------------------------------------------------------------------- refusals

SSIZE_MAX = geometry.SSIZE_MAX

#: Sizes and steps, plain and absurd.
NUMBERS = st.sampled_from(
    [1, 2, 3, 4, 5, 7] * 3 + [0, -1, 2**31, 2**32 + 1, 2**61, SSIZE_MAX, -SSIZE_MAX - 1]
)
STEPS = st.tuples(NUMBERS, NUMBERS)
WINDOW = st.fixed_dictionaries(
    {},
    optional={
        "stride": STEPS,
        "dilation": STEPS,
        "padding": st.tuples(*[st.just(0) | NUMBERS] * 4),
    },
)


def in_python(check, stride=(1, 1), dilation=(1, 1), padding=(0, 0, 0, 0)):
    """Return what a check of the package makes of these steps, None where it refuses them."""
    top, bottom, left, right = padding
    try:
        return check(stride, ((top, bottom), (left, right)), dilation)
    except ValueError:
        return None


def countable(*shape):
    return math.prod(max(1, size) for size in shape) <= SSIZE_MAX // 4


@settings(max_examples=400)
@given(
    sizes=st.tuples(*[NUMBERS] * 7), groups=st.sampled_from([1, 1, 1, 2, 3, 0, -1]), window=WINDOW
)
@example(sizes=(1, 1, 7, 7, 1, 3, 3), groups=1, window={"padding": (SSIZE_MAX, SSIZE_MAX, 0, 0)})
@example(sizes=(1, 1, 7, 7, 1, 2**31, 2**31), groups=1, window={"padding": (0, 2**31, 0, 2**31)})
def test_convolutions_that_fit_are_those_of_python(foreign, sizes, groups, window):
    n, c, h, w, k, kh, kw = sizes
    layer = None
    if n >= 0 and min(c, h, w, k, groups) >= 1:
        shapes = (n, c, h, w), (k, c // groups, kh, kw)
        layer = in_python(
            lambda *steps: convolution._layer("test", "auto", np.float32, *shapes, *steps, groups),
            **window,
        )
    expected = foreign.calls.STATUS["BAD_ARGUMENT"], -1, -1
    if layer is not None:
        out = layer.h.out, layer.w.out
        if all(countable(*shape) for shape in (*shapes, (n, k, *out))):
            expected = 0, *out
    assert foreign.calls.conv2d_size((sizes, {**window, "groups": groups})) == expected


@settings(max_examples=400)
@given(sizes=st.tuples(*[NUMBERS] * 6), ceil_mode=st.booleans(), window=WINDOW)
@example(sizes=(1, 1, 1, 1, 3, 1), ceil_mode=True, window={"stride": (3, 1)})
@example(sizes=(1, 1, 1, 1, 3, 1), ceil_mode=True, window={"stride": (2, 1)})
def test_windows_that_fit_are_those_of_python(foreign, sizes, ceil_mode, window):
    n, c, h, w, kh, kw = sizes
    axes = None
    if n >= 0 and min(c, h, w) >= 1:
        axes = in_python(
            lambda *steps: geometry.windows("test", (h, w), (kh, kw), *steps, ceil_mode), **window
        )
    expected = foreign.calls.STATUS["BAD_ARGUMENT"], -1, -1
    if axes is not None:
        out = axes[0].out, axes[1].out
        if countable(n, c, h, w) and countable(n, c, *out):
            expected = 0, *out
    assert foreign.calls.windows_size((sizes, {**window, "ceil_mode": ceil_mode})) == expected


@settings(max_examples=400)
@given(
    sizes=st.tuples(*[NUMBERS] * 7),
    groups=st.sampled_from([1, 1, 1, 2, 3, 0, -1]),
    window=WINDOW,
    extra=st.just((0, 0)) | STEPS,
)
@example(sizes=(1,) * 7, groups=1, window={"padding": (1, 0, 0, 0)}, extra=(0, 0))
@example(sizes=(1,) * 7, groups=1, window={"padding": (0, 1, 0, 0)}, extra=(0, 0))
def test_transposed_convolutions_that_fit_are_those_of_python(
    foreign, sizes, groups, window, extra
):
    n, c, h, w, k, kh, kw = sizes
    layer = None
    if n >= 0 and min(c, h, w, k, groups) >= 1 and k % groups == 0:
        weight_shape = c, k // groups, kh, kw
        layer = in_python(
            lambda stride, padding, dilation: convolution._transposed_layer(
                "test",
                np.float32,
                (n, c, h, w),
                weight_shape,
                *(stride, padding, extra, dilation, groups),
            ),
            **window,
        )
    expected = foreign.calls.STATUS["BAD_ARGUMENT"], -1, -1
    if layer is not None:
        out = layer.h.size, layer.w.size
        if all(countable(*shape) for shape in ((n, c, h, w), weight_shape, (n, k, *out))):
            expected = 0, *out
    window = {**window, "groups": groups, "output_padding": extra}
    assert foreign.calls.conv_transpose2d_size((sizes, window)) == expected


SMALL = st.tuples(st.integers(1, 9), st.integers(1, 9))


@settings(max_examples=400)
@given(
    size=SMALL,
    kernel=SMALL,
    window=st.fixed_dictionaries(
        {"stride": SMALL, "dilation": SMALL, "padding": st.tuples(*[st.integers(0, 12)] * 4)}
    ),
    ceil_mode=st.booleans(),
)
def test_pooling_windows_hold_a_pixel(foreign, size, kernel, window, ceil_mode):
    axes = in_python(
        lambda *steps: pooling._pool_windows("test", size, kernel, *steps, ceil_mode), **window
    )
    of = (1, 1, *size, *kernel), {**window, "ceil_mode": ceil_mode}
    x, y = np.ones(size), np.full(40 * 40, np.nan)
    status = foreign.calls.max_pool2d(of, True, address(x), None, address(y), 0, True, 1)
    assert status == (foreign.calls.STATUS["BAD_ARGUMENT"] if axes is None else 0)
    written = 0 if axes is None else axes[0].out * axes[1].out
    assert (y[:written] == 1).all()
    assert np.isnan(y[written:]).all()


#: For each function: images (1, 16, 8, 8), and 16 filters or windows of 2x2.
CONV, WINDOWS = ((1, 16, 8, 8, 16, 3, 3), {}), ((1, 16, 8, 8, 2, 2), {"stride": (2, 2)})


def call_each(calls, first, second, result, conv=CONV, windows=WINDOWS, threads=1):
    """Call each function, in float64, with these addresses: of its first and second input (weight
    or argmax), where it has one, and of its result. Return what they return."""
    return {
        "conv2d": calls.conv2d(conv, 1, first, None, second, None, 0, result, 0, threads),
        "gradient x": calls.conv2d_gradient_x(conv, 1, first, None, second, None, result, threads),
        "gradient weight": calls.conv2d_gradient_weight(
            conv, 1, first, None, second, None, result, threads
        ),
        "gradient bias": calls.conv2d_gradient_bias(conv, 1, first, None, result, threads),
        "transposed": calls.conv_transpose2d(
            conv, 1, first, None, second, None, 0, result, threads
        ),
        "max pooling": calls.max_pool2d(windows, 1, first, None, result, 0, 1, threads),
        "its gradient": calls.max_pool2d_backward(windows, 1, first, second, result, 1, threads),
        "unpooling": calls.max_unpool2d(windows, 1, first, second, result, 1, threads),
        "means": calls.avg_pool2d(windows, 1, 1, first, None, result, threads),
        "gradient of means": calls.avg_pool2d_backward(windows, 1, 1, first, result, threads),
        "im2col": calls.im2col(windows, 1, first, None, result, threads),
        "col2im": calls.col2im(windows, 1, first, result, threads),
    }


#: The functions of `call_each` that have a second input.
OF_TWO = {"conv2d", "gradient x", "gradient weight", "transposed", "its gradient", "unpooling"}


@pytest.mark.parametrize(
    "wrong",
    [
        {"threads": 0},
        {"threads": -1},
        {"threads": _threads.MAX_THREADS + 1},
        {"conv": ((-1, *CONV[0][1:]), {}), "windows": ((-1, *WINDOWS[0][1:]), {})},
        {"conv": (CONV[0], {"stride": (0, 1)}), "windows": (WINDOWS[0], {"stride": (1, 0)})},
        {  # weights and columns that no memory holds
            "conv": ((*CONV[0][:5], 2**31, 2**31), {"padding": (0, 2**31, 0, 2**31)}),
            "windows": ((*WINDOWS[0][:4], 2**31, 2**31), {"padding": (0, 2**31, 0, 2**31)}),
        },
        {"conv": ((*CONV[0][:5], 0, 3), {}), "windows": ((*WINDOWS[0][:5], 9), {})},
    ],
    ids=repr,
)
def test_wrong_numbers_write_nothing(foreign, wrong):
    a, y = np.zeros(2**14), np.full(2**14, np.nan)
    statuses = call_each(foreign.calls, address(a), address(a), address(y), **wrong)
    assert set(statuses.values()) == {foreign.calls.STATUS["BAD_ARGUMENT"]}, statuses
    assert np.isnan(y).all()


def test_columns_have_no_ceil_mode(foreign):
    a, y = np.zeros(2**14), np.full(2**14, np.nan)
    windows = WINDOWS[0], {"ceil_mode": True}
    statuses = call_each(foreign.calls, address(a), address(a), address(y), windows=windows)
    refused = {name for name, status in statuses.items() if status != 0}
    assert refused == {"im2col", "col2im"}
    assert statuses["im2col"] == foreign.calls.STATUS["BAD_ARGUMENT"]


def test_means_have_no_dilation(foreign):
    a, y = np.zeros(2**14), np.full(2**14, np.nan)
    for dilation in ((2, 1), (1, 2)):
        windows = WINDOWS[0], {"dilation": dilation}
        statuses = call_each(foreign.calls, address(a), address(a), address(y), windows=windows)
        refused = {name for name, status in statuses.items() if status != 0}
        assert refused == {"means", "gradient of means"}
        assert statuses["means"] == foreign.calls.STATUS["BAD_ARGUMENT"]


@pytest.mark.parametrize("null", range(3))
def test_null_pointers_are_refused(foreign, null):
    a, y = np.zeros(2**14), np.full(2**14, np.nan)
    addresses = [address(a), address(a), address(y)]
    assert set(call_each(foreign.calls, *addresses).values()) == {0}
    y[...] = np.nan
    addresses[null] = 0
    statuses = call_each(foreign.calls, *addresses)
    refused = {name for name, status in statuses.items() if status != 0}
    assert refused == (OF_TWO if null == 1 else set(statuses))
    assert {statuses[name] for name in refused} == {foreign.calls.STATUS["BAD_ARGUMENT"]}
    assert null == 1 or np.isnan(y).all()


def test_an_algorithm_that_cannot_serve_is_refused(foreign):
    a, y = np.zeros(2**14), np.full(2**14, np.nan)
    for algorithm in (foreign.calls.ALGORITHMS["winograd"], 3, -1):  # Winograd's is for float32
        conv = CONV[0], {"algorithm": algorithm}
        statuses = call_each(foreign.calls, address(a), address(a), address(y), conv)
        assert statuses["conv2d"] == foreign.calls.STATUS["BAD_ARGUMENT"]
        assert statuses["gradient x"] == foreign.calls.STATUS["BAD_ARGUMENT"]


@pytest.mark.parametrize("index", [np.int32, np.int64])
@pytest.mark.parametrize("place", [-1, 64, np.iinfo(np.int32).min, np.iinfo(np.int32).max])
def test_a_place_outside_its_plane_is_refused(foreign, place, index):
    a, y = np.ones(2**10), np.full(2**10, np.nan)
    argmax = np.zeros((16, 4, 4), index)
    argmax[7, 2, 3] = place
    for function in (foreign.calls.max_pool2d_backward, foreign.calls.max_unpool2d):
        status = function(
            WINDOWS, True, address(a), address(argmax), address(y), index == np.int64, 1
        )
        assert status == foreign.calls.STATUS["BAD_INDEX"]
    assert np.isnan(y).all()


def test_planes_too_large_for_their_index_are_refused(foreign):
    """Of an image of 2**31 pixels, all of which are the same one in memory."""
    of = (1, 1, 1, 2**31, 1, 1), {"stride": (1, 2**31)}
    for wide, status in ((False, "BAD_ARGUMENT"), (True, "OK")):
        x, y, argmax = np.zeros(1), np.ones(1), np.full(1, -1)
        places = address(argmax)
        image = address(x), (0, 0, 0, 0)
        given = foreign.calls.max_pool2d(of, True, *image, address(y), places, wide, 1)
        assert given == foreign.calls.STATUS[status]
        assert (y, argmax) == ((0, 0) if wide else (1, -1))


def test_an_empty_batch(foreign):
    """Empty results, zeros as gradients of weight and bias; no pointer to nothing is read."""
    empty = {"conv": ((0, *CONV[0][1:]), {}), "windows": ((0, *WINDOWS[0][1:]), WINDOWS[1])}
    weight, bias = np.full(16 * 16 * 9, np.nan), np.full(16, np.nan)
    assert set(call_each(foreign.calls, 0, 0, address(weight), **empty).values()) == {0}
    assert not weight.any()
    assert foreign.calls.conv2d_gradient_bias(empty["conv"], True, 0, None, address(bias), 1) == 0
    assert not bias.any()


# ---------------------------------------------------------------------------------- the choice

#: The functions of a family's table, and how many pointers, sizes and ints each takes.
ENTRIES = {
    "forward": (7, 1, 2),
    "gradient_x": (6, 1, 1),
    "gradient_weight": (5, 1, 1),
    "gradient_bias": (2, 0, 1),
}
FAMILIES = ("convolution", "winograd", "depthwise")
NAME = b"ConvolutionEntries"

new_capsule = ctypes.pythonapi.PyCapsule_New
new_capsule.restype = ctypes.py_object
new_capsule.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)


def entry(notes, family, name, answer):
    """Return a C function that notes that it was called, with how many threads."""
    types = zip((ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int), ENTRIES[name], strict=True)

    def note(*values):
        notes.append((family, name, values[-1]))
        return answer

    arguments = [kind for kind, count in types for _ in range(count)]
    return ctypes.CFUNCTYPE(ctypes.c_int, *arguments)(note)


@contextlib.contextmanager
def noted(answer=True):
    """Put functions that only note their calls, and return `answer`, in the place of the
    convolution kernels; yield the notes."""
    notes, tables = [], {}
    held = {f: [entry(notes, f, name, answer) for name in ENTRIES] for f in FAMILIES}
    for family, functions in held.items():
        table = (ctypes.c_void_p * 4)(*[ctypes.cast(f, ctypes.c_void_p).value for f in functions])
        held[family] = functions, table
        tables[family] = SimpleNamespace(entries=new_capsule(table, NAME, None))
    try:
        c_api._use(_dispatch.kernels._replace(**tables))
        yield notes
    finally:
        c_api._use(_dispatch.kernels)


CHANNELS = st.sampled_from([1, 1, 2, 15, 16, 17])
EDGES = st.just((1, 1)) | st.tuples(*[st.sampled_from([1, 1, 2, 3, 16, 17])] * 2)


@given(
    batch=st.sampled_from([1, 2, 500]),
    channels=CHANNELS,
    outputs=CHANNELS,
    groups=st.sampled_from([1, 1, 2, 16]),
    kernel=st.sampled_from([(3, 3), (3, 3), (3, 3), (1, 3), (2, 2), (1, 1)]),
    out=st.sampled_from([(2, 9), (3, 3), (9, 2), (8, 8), (1, 1)]),
    stride=EDGES,
    dilation=EDGES,
    algorithm=st.sampled_from(["auto", "auto", "direct"]),
    threads=st.integers(1, 5),
)
@settings(max_examples=400)
def test_kernels_and_threads_are_chosen_as_in_python(
    foreign, dtype, batch, channels, outputs, groups, kernel, out, stride, dilation, algorithm,
    threads,
):  # fmt: skip
    size = tuple(
        (o - 1) * s + d * (k - 1) + 1
        for o, s, d, k in zip(out, stride, dilation, kernel, strict=True)
    )
    x_shape, weight_shape = (batch, channels * groups, *size), (outputs * groups, channels, *kernel)
    weight = np.broadcast_to(dtype.type(0), weight_shape)
    layer = convolution._layer(
        "test", algorithm, dtype.type, x_shape, weight_shape, stride, 0, dilation, groups
    )
    pixels = batch * outputs * groups * out[0] * out[1]
    with _threads.num_threads(threads):
        most = _threads.threads_for(pixels * weight[0].size)
        most_for_bias = _threads.threads_for(pixels)

    of = (
        (*x_shape, outputs * groups, *kernel),
        {
            "stride": stride,
            "dilation": dilation,
            "groups": groups,
            "algorithm": foreign.calls.ALGORITHMS[algorithm],
        },
    )
    double = dtype == np.float64
    with noted() as notes:  # who read nothing: any address will do
        foreign.calls.conv2d(of, double, 8, None, 8, None, 0, 8, False, threads)
        foreign.calls.conv2d_gradient_x(of, double, 8, None, 8, None, 8, threads)
        foreign.calls.conv2d_gradient_weight(of, double, 8, None, 8, None, 8, threads)
        foreign.calls.conv2d_gradient_bias(of, double, 8, None, 8, threads)
        if algorithm == "auto":  # the transposed one knows no other; from the output's size back
            back = (batch, outputs * groups, *out, channels * groups, *kernel), of[1]
            foreign.calls.conv_transpose2d(back, double, 8, None, 8, None, 0, 8, threads)
    for_x = "convolution" if max(stride) > 2 else layer.family
    assert notes == [
        (layer.family, "forward", most),
        (for_x, "gradient_x", most),
        (layer.family, "gradient_weight", most),
        ("convolution", "gradient_bias", most_for_bias),
        *([(for_x, "gradient_x", most)] if algorithm == "auto" else []),
    ]


def test_no_memory_for_the_workspace(foreign):
    with noted(answer=False):
        statuses = call_each(foreign.calls, 8, 8, 8, windows=((0, *WINDOWS[0][1:]), {}))
    for name in ("conv2d", "gradient x", "gradient weight", "transposed"):
        assert statuses[name] == foreign.calls.STATUS["NO_MEMORY"]


# ---------------------------------------------------------------------------------- threads


def large():
    """A float32 convolution that is worth several threads, and its result in Python."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, 24, 40, 40), dtype=np.float32)
    weight = rng.standard_normal((32, 24, 3, 3), dtype=np.float32)
    return x, weight, sd.conv2d(x, weight), ((4, 24, 40, 40, 32, 3, 3), {})


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_that_python_does_not_know(foreign, threads):
    x, weight, expected, of = large()
    y = np.full((3, *expected.shape), np.nan, np.float32)
    statuses = foreign.calls.conv2d_in_c_threads(
        of, address(x), address(weight), address(y), expected.size, len(y), threads
    )
    assert statuses == [0] * len(y)
    for result in y:
        assert_same_bits(result, expected)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_forked_child_computes(foreign):
    x, weight, expected, of = large()
    y = np.empty_like(expected)

    def call():
        y[...] = np.nan
        a, b = address(x), address(weight)
        status = foreign.calls.conv2d(of, False, a, None, b, None, 0, address(y), False, 4)
        return status == 0 and y.tobytes() == expected.tobytes()

    assert call()
    child = os.fork()
    if child == 0:
        code = 1
        with contextlib.suppress(BaseException):
            code = 0 if call() else 2
        os._exit(code)
    assert exit_code(child) == 0


# ---------------------------------------------------------------------------------- a framework


def test_version(foreign):
    assert foreign.calls.VERSION == foreign.calls.INSTALLED


@pytest.mark.parametrize("shape", [(3, 2, 8, 8), (1, 2, 5, 7), (40, 2, 16, 16)])
def test_the_example(foreign, shape):
    rng = np.random.default_rng(0)
    x, weight, bias = (rng.standard_normal(s, np.float32) for s in (shape, (16, 2, 3, 3), 16))
    block = foreign.block.Block(weight, bias, threads=2)
    y = block.forward(x)
    seen = sd.conv2d(x, weight, bias, padding=1, activation="relu")
    expected, argmax = sd.max_pool2d(seen, 2, return_argmax=True)
    assert_same_bits(y, expected)

    grad_out = rng.standard_normal(y.shape, np.float32)
    grad_x = block.backward(grad_out)
    grad = sd.max_pool2d_backward(grad_out, argmax, seen.shape[2:]) * (seen > 0)
    grads = sd.conv2d_backward(grad, x, weight, padding=1)
    for result, gradient in zip((grad_x, *block.grads), grads, strict=True):
        assert_same_bits(result, gradient)
    with pytest.raises(ValueError, match="x has 3"):
        block.forward(np.zeros((1, 3, 8, 8), np.float32))
    with pytest.raises(ValueError, match="does not fit"):
        block.forward(np.zeros((1, 2, 0, 8), np.float32))

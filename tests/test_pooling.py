"""Pooling, its gradients and unpooling against the specification, and who wins a window."""

import itertools
import math

import numpy as np
import pytest
from checks import (
    assert_delivered,
    assert_same,
    assert_same_bits,
    assert_sums_close,
    unchanged,
)
from hypothesis import given
from hypothesis import strategies as st
from strategies import (
    LAYOUTS,
    PlaneCall,
    Windows,
    integers,
    lay_out,
    place_out,
    plane_calls,
    pool_windows,
    reals,
)

import slidedot as sd
from slidedot import _dispatch, _threads, reference

pytestmark = pytest.mark.usefixtures("level")


def large(size, kernel_size, stride, padding=0, dilation=1, ceil_mode=False):
    return PlaneCall(2, 5, Windows(size, kernel_size, stride, padding, dilation, ceil_mode))


LARGE = {
    "2x2": large((24, 70), 2, 2),
    "3x3 stride 2": large((23, 67), 3, 2, padding=1),
    "3x3 stride 2, ceil": large((22, 66), 3, 2, ceil_mode=True),
    "3x3 stride 1": large((12, 70), 3, 1, padding=1),
    "5x5 stride 1": large((11, 40), 5, 1, padding=2),
    "13x13 stride 1": large((14, 37), 13, 1, padding=6),
    "3x2 stride (1, 4)": large((9, 69), (3, 2), (1, 4), padding=((0, 2), (1, 0))),
    "2x2 stride 3": large((20, 70), 2, 3),
    "3x3 dilation 2": large((15, 50), 3, 1, padding=2, dilation=2),
    "1x1": large((8, 35), 1, 1),
    "whole plane": large((13, 41), (13, 41), 1),
    "one column": large((70, 1), (3, 1), (2, 1), padding=(1, 0)),
    "one row": large((1, 70), (1, 3), (1, 2), padding=(0, 1)),
    # more than one block of columns, or band of rows
    "2x2, wide": large((5, 1701), 2, 2),
    "3x3 stride 1, wide": large((4, 1100), 3, 1, padding=1),
    "3x3 stride 1, tall": large((230, 9), 3, 1, padding=1),
    "9x3 stride 1, tall": large((230, 9), (9, 3), 1, padding=((3, 8), (1, 1))),
    "5x5 stride 3, tall": large((401, 12), 5, 3, padding=2),
    "far apart": large((70, 70), 3, 1, dilation=30),
}
MEANS = {
    name: call
    for name, call in LARGE.items()
    if call.windows.dilation == 1 and "wide" not in name and "tall" not in name
} | {
    "small plane": PlaneCall(3, 7, Windows((7, 7), 7, 1, 0, 1)),  # planes of several at once
    "padded plane": PlaneCall(2, 5, Windows((7, 9), (11, 12), 1, ((4, 0), (0, 3)), 1)),
    "large plane": large((45, 67), (45, 67), 1),
    "far windows": large((90, 110), (40, 36), (41, 35), padding=(2, 3)),
    "5x5 stride 2": large((33, 70), 5, 2, padding=2),
    "4x4 stride 2": large((20, 39), 4, 2, padding=((1, 2), (3, 0))),
    # more than one block of columns
    "2x2, very wide": large((2, 4301), 2, 2),
    "1x3 stride 1, very wide": large((1, 4200), (1, 3), 1, padding=(0, 1)),
    "wider than a block": large((2, 4300), (2, 4200), 1),
}
EVERY_MEAN = pytest.mark.parametrize("call", MEANS.values(), ids=MEANS)
EVERY_LARGE = pytest.mark.parametrize("call", LARGE.values(), ids=LARGE)
#: How windows may lie on rows of any width: kernel, stride, padding, dilation.
ROW_WINDOWS = pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation"),
    [
        (2, 2, 0, 1),
        (3, 2, 1, 1),
        (3, 1, 1, 1),
        (3, 1, 2, 1),
        (5, 1, 2, 1),
        (4, 3, 2, 1),
        (2, 3, 0, 1),
        (3, 1, 2, 2),
    ],
)
INDEX_TYPES = [np.int16, np.int32, np.int64, np.uint16, np.uint32, np.uint64, ">i4", ">u8"]


def pool(call, x, **keywords):
    windows = call.windows
    return sd.max_pool2d(
        x, windows.kernel_size, ceil_mode=windows.ceil_mode, **call.options, **keywords
    )


def reference_pool(call, x, **keywords):
    windows = call.windows
    return reference.max_pool2d(
        x, windows.kernel_size, ceil_mode=windows.ceil_mode, **call.options, **keywords
    )


def special(rng, shape):
    """Return few different values, among them NaN and both infinities."""
    return rng.choice([np.nan, -np.inf, np.inf, -1.0, 0.0, 2.0], shape, p=[0.1, *[0.18] * 5])


def minus_infinity(rng, shape):
    """Return what padding must not be taken for."""
    return np.full(shape, -np.inf)


NUMBERS = [integers, reals, special, minus_infinity]
NO_DILATION = st.just(1)
COUNTS = pytest.mark.parametrize("count_include_pad", [True, False], ids=["padding", "pixels"])


def mean_options(call, count_include_pad):
    """The keywords of `avg_pool2d` and its gradient."""
    windows = call.windows
    return {
        "stride": windows.stride,
        "padding": windows.padding,
        "ceil_mode": windows.ceil_mode,
        "count_include_pad": count_include_pad,
    }


def mean(call, x, count_include_pad=True, of=sd, **keywords):
    options = mean_options(call, count_include_pad)
    return of.avg_pool2d(x, call.windows.kernel_size, **options, **keywords)


def mean_backward(call, grad_out, count_include_pad=True, of=sd, **keywords):
    options = mean_options(call, count_include_pad)
    size, kernel_size = call.windows.size, call.windows.kernel_size
    return of.avg_pool2d_backward(grad_out, size, kernel_size, **options, **keywords)


def pixels(call):
    """The most pixels of a window; no pixel is in more windows."""
    return math.prod(min(axis.kernel, axis.size) for axis in call.windows.axes)


def any_places(call, rng, index_type):
    """Return any pixel for each window, even one that the window does not hold."""
    pixels = call.windows.size[0] * call.windows.size[1]
    return rng.integers(0, pixels, call.y_shape).astype(index_type)


def gather(planes, places):
    """Return the values that flat indices name, plane by plane."""
    flat, indices = (a.reshape(*a.shape[:-2], a.shape[-2] * a.shape[-1]) for a in (planes, places))
    return np.take_along_axis(flat, indices.astype(np.intp), axis=-1).reshape(places.shape)


# ------------------------------------------------------------------------ the specification


@given(call=plane_calls(pool_windows()), numbers=st.sampled_from(NUMBERS), places=st.booleans())
def test_maxima_and_their_places(dtype, call, numbers, places):
    x = call.array(call.x_shape, dtype, numbers)
    out = place_out(call.y_shape, dtype, call.out)
    with unchanged(x):
        result = pool(call, x, return_argmax=places, out=out)
    expected_y, expected_argmax = reference_pool(call, x, return_argmax=True)
    if places:
        result, argmax = result
        assert argmax.dtype == np.int32
        assert_same(argmax, expected_argmax)
        assert_same(gather(x, argmax), result.astype(x.dtype))
    assert_same(result, expected_y)
    assert_delivered(result, out)


@given(call=plane_calls(pool_windows()), index_type=st.sampled_from(INDEX_TYPES))
def test_backward_is_exact_on_integers(dtype, call, index_type):
    grad_out = call.array(call.y_shape, dtype, integers, 0)
    argmax = any_places(call, np.random.default_rng(call.seed), index_type)
    argmax = lay_out(argmax, call.layouts[1])
    out = place_out(call.x_shape, dtype, call.out)
    with unchanged(grad_out, argmax):
        grad = sd.max_pool2d_backward(grad_out, argmax, call.windows.size, out=out)
    assert_same(grad, reference.max_pool2d_backward(grad_out, argmax, call.windows.size))
    assert_delivered(grad, out)


@given(call=plane_calls(pool_windows()))
def test_backward_is_within_the_bound(dtype, call):
    check_backward_bound(call, dtype)


def check_backward_bound(call, dtype):
    grad_out = call.array(call.y_shape, dtype, reals, 0)
    _, argmax = pool(call, call.array(call.x_shape, dtype, integers, 1), return_argmax=True)
    grad = sd.max_pool2d_backward(grad_out, argmax, call.windows.size)
    expected, magnitude = (
        reference.max_pool2d_backward(g.astype(np.float64), argmax, call.windows.size)
        for g in (grad_out, np.abs(grad_out))
    )
    overlap = call.windows.kernel[0] * call.windows.kernel[1]  # windows that a pixel is part of
    assert_sums_close(grad, expected, magnitude, overlap)


@given(call=plane_calls(pool_windows()), index_type=st.sampled_from(INDEX_TYPES))
def test_unpooling_puts_the_last_value_at_its_place(dtype, call, index_type):
    y = call.array(call.y_shape, dtype, special, 0)
    argmax = any_places(call, np.random.default_rng(call.seed), index_type)
    argmax = lay_out(argmax, call.layouts[1])
    out = place_out(call.x_shape, dtype, call.out)
    with unchanged(y, argmax):
        x = sd.max_unpool2d(y, argmax, call.windows.size, out=out)
    assert_same(x, reference.max_unpool2d(y, argmax, call.windows.size))
    assert_delivered(x, out)


@EVERY_LARGE
def test_large(dtype, call):
    for numbers in NUMBERS:
        x = call.array(call.x_shape, dtype, numbers)
        y, argmax = pool(call, x, return_argmax=True)
        expected_y, expected_argmax = reference_pool(call, x, return_argmax=True)
        assert_same(y, expected_y)
        assert_same(argmax, expected_argmax)
        assert_same(pool(call, x), y)
        size = call.windows.size
        assert_same(sd.max_unpool2d(y, argmax, size), reference.max_unpool2d(y, argmax, size))
    check_backward_bound(call, dtype)


# ------------------------------------------------------------------------ who wins


@ROW_WINDOWS
@pytest.mark.parametrize("numbers", NUMBERS)
def test_every_row_width(dtype, kernel, stride, padding, dilation, numbers):
    span = dilation * (kernel - 1) + 1
    for width in range(max(span - 2 * padding, dilation), 41):
        windows = Windows((2 * span + 1, width), kernel, stride, padding, dilation)
        call = PlaneCall(1, 3, windows)
        x = call.array(call.x_shape, dtype, numbers)
        y, argmax = pool(call, x, return_argmax=True)
        expected_y, expected_argmax = reference_pool(call, x, return_argmax=True)
        assert_same(y, expected_y)
        assert_same(argmax, expected_argmax)
        assert_same(pool(call, x), y)


@ROW_WINDOWS
def test_a_nan_wins_from_every_place(dtype, kernel, stride, padding, dilation):
    span = dilation * (kernel - 1) + 1
    height = 2 * span + 1
    for width in range(max(span - 2 * padding, dilation), 41):
        windows = Windows((height, width), kernel, stride, padding, dilation)
        # Each plane has one NaN, and nothing else tells the kernel that there is any.
        call = PlaneCall(None, height * width, windows)
        x = call.array(call.x_shape, dtype, integers)
        clean_y, clean_argmax = pool(call, x, return_argmax=True)
        place = np.arange(height * width)
        row, column = np.divmod(place, width)
        x[place, row, column] = np.nan
        y, argmax = pool(call, x, return_argmax=True)
        rows, columns = windows.axes
        held = holds(rows, row)[:, :, np.newaxis] & holds(columns, column)[:, np.newaxis, :]
        assert_same(y, np.where(held, np.array(np.nan, dtype), clean_y))
        place = place[:, np.newaxis, np.newaxis]
        assert_same(argmax, np.where(held, place, clean_argmax).astype(np.int32))
        assert_same(pool(call, x), y)


def holds(axis, pixels):
    """Return a table ``[pixel, window]``: whether the window has a tap on the pixel."""
    starts = np.arange(axis.out) * axis.stride - axis.before
    taps = starts[:, np.newaxis] + np.arange(axis.kernel) * axis.dilation
    return (pixels[:, np.newaxis, np.newaxis] == taps).any(axis=2)


def test_the_first_maximum_and_the_first_nan_win(dtype):
    nan, inf = np.nan, np.inf
    rows = [
        ([1, 3, 3, 3], 1),
        ([0.0, -0.0, 0.0, -0.0], 0),
        ([-0.0, 0.0, -0.0, 0.0], 0),  # equal, so the first
        ([1, nan, inf, nan], 1),
        ([nan, nan, nan, nan], 0),
        ([-inf, -inf, -inf, -inf], 0),
        ([-inf, -inf, nan, -inf], 2),
        ([inf, inf, 1, nan], 3),
        ([-inf, -inf, -inf, -5], 3),
    ]
    x = np.array([row for row, _ in rows], dtype).reshape(1, len(rows), 2, 2)
    y, argmax = sd.max_pool2d(x, 2, return_argmax=True)
    assert argmax.ravel().tolist() == [place for _, place in rows]
    assert_same_bits(y.ravel(), x.reshape(-1, 4)[np.arange(len(rows)), argmax.ravel()])


@EVERY_LARGE
def test_the_first_zero_wins_with_and_without_places(dtype, call):
    # 0 and -0 are equal: only their bits tell which of them won.
    x = np.random.default_rng(0).choice(np.array([-1, -0.0, 0], dtype), call.x_shape)
    y, _ = pool(call, x, return_argmax=True)
    first = gather(x, reference_pool(call, x, return_argmax=True)[1])
    assert_same_bits(y, first)
    assert_same_bits(pool(call, x), first)


def test_padding_never_wins(dtype):
    x = np.full((1, 1, 2, 2), -np.inf, dtype)
    y, argmax = sd.max_pool2d(x, 3, stride=2, padding=2, return_argmax=True)
    assert_same(y, np.full((1, 1, 2, 2), -np.inf, dtype))
    assert argmax.ravel().tolist() == [0, 0, 0, 0]
    x[...] = -5
    assert_same(sd.max_pool2d(x, 3, stride=2, padding=2), np.full_like(y, -5))


def test_the_stride_is_the_kernel_size_by_default(dtype):
    x = reals(np.random.default_rng(0), (2, 3, 9, 11)).astype(dtype)
    assert_same(sd.max_pool2d(x, (2, 3)), sd.max_pool2d(x, (2, 3), stride=(2, 3)))


def test_places_beyond_int32(dtype):
    # Planes of 2**32 equal pixels that are all the same one in memory.
    x = np.broadcast_to(np.ones((1, 1, 1, 1), dtype), (1, 1, 2**16, 2**16))
    y, argmax = sd.max_pool2d(x, 1, stride=2**14, return_argmax=True)
    corners = np.arange(4) * 2**14
    assert_same(y, np.ones((1, 1, 4, 4), dtype))
    assert_same(argmax[0, 0], corners[:, np.newaxis] * 2**16 + corners)


@given(call=plane_calls(pool_windows(), st.just(2)), numbers=st.sampled_from(NUMBERS))
def test_wide_places_are_the_same(dtype, call, numbers):
    # Only planes of over 2**31 pixels have int64 places; the kernel gives them for any.
    x = np.ascontiguousarray(call.array(call.x_shape, dtype, numbers)).astype(dtype)
    y, argmax = pool(call, x, return_argmax=True)
    wide_y, wide = np.empty_like(y), np.empty(y.shape, np.int64)
    assert _dispatch.kernels.pooling.max_forward(x, wide_y, wide, *call.windows.axes, 1)
    assert_same(wide_y, y)
    assert_same(wide, argmax.astype(np.int64))


# ------------------------------------------------------------------------ the gradient


@pytest.mark.parametrize(
    "call",
    [
        PlaneCall(2, 2, Windows((6, 7), 2, 2, 0, 1)),
        PlaneCall(2, 2, Windows((6, 7), 3, 1, 1, 1)),
        PlaneCall(2, 2, Windows((7, 6), (3, 2), (2, 1), ((0, 2), (1, 0)), 1, True)),
        PlaneCall(2, 2, Windows((8, 9), 2, 1, 1, 2)),
    ],
)
def test_the_gradient_is_the_numerical_one(call):
    # Pixels are different integers, so a step of 1/4 changes no maximum's place; around it the
    # outputs are linear, and all sums are exact.
    rng = np.random.default_rng(7)
    x = rng.permutation(np.prod(call.x_shape)).reshape(call.x_shape).astype(np.float64)
    y, argmax = pool(call, x, return_argmax=True)
    grad_out = integers(rng, y.shape)
    numerical = np.empty_like(x)
    for place in np.ndindex(x.shape):
        losses = []
        for step in (0.25, -0.25):
            moved = x.copy()
            moved[place] += step
            losses.append(np.vdot(pool(call, moved), grad_out))
        numerical[place] = (losses[0] - losses[1]) / 0.5
    assert_same(sd.max_pool2d_backward(grad_out, argmax, call.windows.size), numerical)


@given(call=plane_calls(pool_windows()))
def test_the_gradient_is_adjoint_to_gathering(dtype, call):
    # <x[places], g> = <x, gradient of g>
    x = call.array(call.x_shape, dtype, integers, 0).astype(np.float64)
    grad_out = call.array(call.y_shape, dtype, integers, 1).astype(np.float64)
    places = any_places(call, np.random.default_rng(call.seed), np.int64)
    grad = sd.max_pool2d_backward(grad_out, places, call.windows.size)
    assert np.vdot(gather(x, places), grad_out) == np.vdot(x, grad)


@pytest.mark.parametrize("column", range(20))
def test_a_non_finite_gradient_reaches_its_pixel(dtype, column):
    x = reals(np.random.default_rng(0), (1, 2, 5, 41)).astype(dtype)
    _, argmax = sd.max_pool2d(x, 2, return_argmax=True)
    grad_out = np.ones(argmax.shape, dtype)
    grad_out[0, 1, 1, column] = np.nan
    grad = sd.max_pool2d_backward(grad_out, argmax, (5, 41))
    place = divmod(int(argmax[0, 1, 1, column]), 41)
    assert np.argwhere(np.isnan(grad)).tolist() == [[0, 1, *place]]


@pytest.mark.parametrize("column", range(20))
def test_a_place_outside_its_window_is_kept(dtype, column):
    # As by the sizes these are 2x2 windows, but one index says otherwise: of the whole plane.
    argmax = (np.arange(2)[:, None] * 2 * 41 + np.arange(20) * 2).astype(np.int32)
    argmax = np.stack([argmax] * 5)[None]  # planes: some with their gradients added in step
    argmax[0, 3, 1, column] = 4 * 41 + 40
    grad_out = integers(np.random.default_rng(0), argmax.shape).astype(dtype)
    grad = sd.max_pool2d_backward(grad_out, argmax, (5, 41))
    assert_same(grad, reference.max_pool2d_backward(grad_out, argmax, (5, 41)))


def test_a_gradient_of_minus_zero_is_added_to_zero(dtype):
    argmax = np.zeros((1, 1, 1, 20), np.int32) + 2 * np.arange(20, dtype=np.int32)
    grad = sd.max_pool2d_backward(np.full(argmax.shape, -0.0, dtype), argmax, (2, 40))
    assert_same_bits(grad, np.zeros((1, 1, 2, 40), dtype))


# ------------------------------------------------------------------------ unpooling


@given(call=plane_calls(pool_windows()), numbers=st.sampled_from(NUMBERS))
def test_pooled_values_return_to_their_pixels(dtype, call, numbers):
    x = call.array(call.x_shape, dtype, numbers)
    y, argmax = pool(call, x, return_argmax=True)
    back = sd.max_unpool2d(y, argmax, call.windows.size)
    kept = sd.max_pool2d_backward(np.ones_like(y), argmax, call.windows.size) > 0
    assert_same(back, np.where(kept, x, 0).astype(dtype))


@pytest.mark.parametrize("column", range(20))
def test_a_value_goes_to_a_place_outside_its_window(dtype, column):
    # As by the sizes these are 2x2 windows, but one index says otherwise, one before or one after.
    for place in (0, 4 * 41 + 40):
        argmax = (np.arange(2)[:, None] * 2 * 41 + np.arange(20) * 2).astype(np.int32)
        argmax = np.stack([argmax] * 5)[None]
        argmax[0, 3, 1, column] = place
        y = reals(np.random.default_rng(0), argmax.shape).astype(dtype)
        assert_same(sd.max_unpool2d(y, argmax, (5, 41)), reference.max_unpool2d(y, argmax, (5, 41)))


@pytest.mark.parametrize("size", [(2, 40), (3, 41)])
def test_minus_zero_is_a_value(dtype, size):
    argmax = np.zeros((1, 1, 1, 20), np.int32) + 2 * np.arange(20, dtype=np.int32)
    expected = np.zeros((1, 1, *size), dtype)
    expected[0, 0, 0, : 2 * 20 : 2] = -0.0
    y = np.full(argmax.shape, -0.0, dtype)
    assert_same_bits(sd.max_unpool2d(y, argmax, size), expected)


# ------------------------------------------------------------------------ averages


@given(call=plane_calls(pool_windows(NO_DILATION)), count_include_pad=st.booleans())
def test_means_of_integers_are_rounded_once(dtype, call, count_include_pad):
    x = call.array(call.x_shape, dtype, integers)
    out = place_out(call.y_shape, dtype, call.out)
    with unchanged(x):
        y = mean(call, x, count_include_pad, out=out)
    assert_same(y, mean(call, x, count_include_pad, of=reference))
    assert_delivered(y, out)


@given(call=plane_calls(pool_windows(NO_DILATION)), count_include_pad=st.booleans())
def test_the_gradient_of_means(dtype, call, count_include_pad):
    grad_out = call.array(call.y_shape, dtype, reals)
    out = place_out(call.x_shape, dtype, call.out)
    with unchanged(grad_out):
        grad = mean_backward(call, grad_out, count_include_pad, out=out)
    check_mean_sums(mean_backward, call, grad_out, grad, count_include_pad)
    assert_delivered(grad, out)


def check_mean_sums(function, call, given, actual, count_include_pad):
    """Assert that `actual`, what `function` gave, is within the bound of sums and a division."""
    expected, magnitude = (
        function(call, np.array(values, np.float64), count_include_pad, of=reference)
        for values in (given, np.abs(given))
    )
    assert_sums_close(actual, expected, magnitude, pixels(call) + 1)


@COUNTS
@EVERY_MEAN
def test_large_means(dtype, call, count_include_pad):
    x = call.array(call.x_shape, dtype, integers)
    assert_same(mean(call, x, count_include_pad), mean(call, x, count_include_pad, of=reference))
    x, grad_out = (call.array(shape, dtype, reals) for shape in (call.x_shape, call.y_shape))
    check_mean_sums(mean, call, x, mean(call, x, count_include_pad), count_include_pad)
    grad = mean_backward(call, grad_out, count_include_pad)
    check_mean_sums(mean_backward, call, grad_out, grad, count_include_pad)


@pytest.mark.parametrize(
    ("kernel", "stride", "padding"),
    [
        (1, 1, 0),
        (2, 2, 0),
        (3, 2, 1),
        (3, 1, 1),
        (3, 1, 2),
        (2, 1, 1),
        (5, 2, 2),
        (4, 3, 2),
        (2, 3, 0),
    ],
)
def test_every_row_width_of_means(dtype, kernel, stride, padding):
    for width in range(max(kernel - 2 * padding, 1), 41):
        call = PlaneCall(1, 3, Windows((2 * kernel + 1, width), kernel, stride, padding, 1))
        x = call.array(call.x_shape, dtype, integers)
        assert_same(mean(call, x, False), mean(call, x, False, of=reference))
        grad_out = call.array(call.y_shape, dtype, reals)
        check_mean_sums(mean_backward, call, grad_out, mean_backward(call, grad_out), True)


@pytest.mark.parametrize("size", [(1, 1), (2, 1), (3, 3), (7, 7), (5, 33), (31, 33), (33, 32)])
def test_global_average_pooling(dtype, size):
    x = integers(np.random.default_rng(0), (3, 19, *size)).astype(dtype)
    y = sd.avg_pool2d(x, x.shape[-2:])
    expected = x.sum(axis=(2, 3), keepdims=True) / dtype.type(math.prod(size))
    assert_same(y, expected)
    grad = sd.avg_pool2d_backward(y, size, size)
    assert_same(grad, np.broadcast_to(y / dtype.type(math.prod(size)), x.shape))


def test_the_mean_of_a_large_plane_is_accurate(dtype):
    # By its bound as accurate as a sum of 200 terms: of partial sums in rows, lanes and bands.
    x = 1 + reals(np.random.default_rng(0), (1, 2, 700, 900)).astype(dtype)
    expected, magnitude = (
        a.astype(np.float64).mean(axis=(2, 3), keepdims=True) for a in (x, np.abs(x))
    )
    assert_sums_close(sd.avg_pool2d(x, (700, 900)), expected, magnitude, 200)


@given(call=plane_calls(pool_windows(NO_DILATION)), count_include_pad=st.booleans())
def test_the_gradient_of_means_is_adjoint(call, count_include_pad):
    # <means of x, g> = <x, gradient of g>, where all quotients are integers
    multiple = math.lcm(*range(1, 26))
    x, grad_out = (
        multiple * call.array(shape, np.dtype("float64"), integers, number)
        for number, shape in enumerate((call.x_shape, call.y_shape))
    )
    y = mean(call, x, count_include_pad)
    grad = mean_backward(call, grad_out, count_include_pad)
    exact = [a.astype(int).astype(object).ravel() for a in (y, grad_out, x, grad)]
    assert exact[0] @ exact[1] == exact[2] @ exact[3]


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding"),
    [(2, 2, 0), (3, 2, 1), (3, 1, 1), (5, 1, 2), (4, 3, 2), (2, 3, 0), (33, 40, 2)],
)
def test_what_is_not_finite_reaches_the_windows_that_hold_it(
    dtype, kernel, stride, padding, number
):
    for width in (kernel, kernel + 1, kernel + 8, kernel + 23):
        # Plane c has it in column c of the row that the window's middle tap lies on.
        call = PlaneCall(None, width, Windows((kernel + 2, width), kernel, stride, padding, 1))
        x = call.array(call.x_shape, dtype, integers)
        clean = mean(call, x)
        columns, row = np.arange(width), kernel // 2
        x[columns, row, columns] = number
        rows, cols = call.windows.axes
        held = holds(rows, np.array([row]))[0][np.newaxis, :, np.newaxis]
        held = held & holds(cols, columns)[:, np.newaxis, :]
        assert_same(mean(call, x), np.where(held, np.array(number, dtype), clean))


def test_nan_in_a_whole_plane_stays_there(dtype):
    for width in range(1, 41):
        x = np.ones((1, width, 3, width), dtype)
        x[0, np.arange(width), 1, np.arange(width)] = np.nan
        x = np.concatenate([x, np.ones_like(x)])
        y = sd.avg_pool2d(x, (3, width))
        assert np.isnan(y[0]).all()
        assert (y[1] == 1).all()


@pytest.mark.parametrize("layout", LAYOUTS)
@EVERY_MEAN
def test_layouts_do_not_change_the_bits_of_means(dtype, layout, call):
    x, grad_out = (
        lay_out(call.array(shape, dtype, reals), layout) for shape in (call.x_shape, call.y_shape)
    )
    with unchanged(x, grad_out):
        y = mean(call, x)
        grad = mean_backward(call, grad_out)
    x, grad_out = (a.astype(dtype, order="C") for a in (x, grad_out))
    assert_same_bits(y, mean(call, x))
    assert_same_bits(grad, mean_backward(call, grad_out))


@EVERY_MEAN
def test_neither_threads_nor_the_batch_change_the_bits_of_means(dtype, call, monkeypatch):
    x, grad_out = (call.array(shape, dtype, reals) for shape in (call.x_shape, call.y_shape))
    y, grad = mean(call, x, False), mean_backward(call, grad_out, False)
    for n in range(len(x)):
        for alone in (slice(n, n + 1), n):
            assert_same_bits(mean(call, x[alone], False), y[alone])
            assert_same_bits(mean_backward(call, grad_out[alone], False), grad[alone])
    monkeypatch.setattr(_threads, "WORK_PER_THREAD", 1)
    for threads in (2, 3, 4, 4):
        with sd.num_threads(threads):
            assert_same_bits(mean(call, x, False), y)
            assert_same_bits(mean_backward(call, grad_out, False), grad)


def test_means_of_an_empty_batch(dtype):
    x = np.empty((0, 3, 5, 6), dtype)
    y = sd.avg_pool2d(x, 2)
    assert_same(y, np.empty((0, 3, 2, 3), dtype))
    assert_same(sd.avg_pool2d_backward(y, (5, 6), 2), x)


def test_windows_of_means_take_their_stride_from_the_kernel(dtype):
    x = reals(np.random.default_rng(0), (2, 3, 9, 11)).astype(dtype)
    y = sd.avg_pool2d(x, (2, 3))
    assert_same(y, sd.avg_pool2d(x, (2, 3), stride=(2, 3)))
    grad = sd.avg_pool2d_backward(y, (9, 11), (2, 3))
    assert_same(grad, sd.avg_pool2d_backward(y, (9, 11), (2, 3), stride=(2, 3)))


# ------------------------------------------------------------------------ same bits


@pytest.mark.parametrize("layout", LAYOUTS)
@EVERY_LARGE
def test_layouts_do_not_change_bits(dtype, layout, call):
    x = lay_out(call.array(call.x_shape, dtype, special), layout)
    grad_out = lay_out(call.array(call.y_shape, dtype, reals), layout)
    places = lay_out(any_places(call, np.random.default_rng(0), np.int32), layout)
    size = call.windows.size
    with unchanged(x, grad_out, places):
        y, argmax = pool(call, x, return_argmax=True)
        grad = sd.max_pool2d_backward(grad_out, places, size)
        back = sd.max_unpool2d(grad_out, places, size)
    expected_y, expected_argmax = pool(call, x.astype(dtype, order="C"), return_argmax=True)
    assert_same_bits(y, expected_y)
    assert_same_bits(argmax, expected_argmax)
    grad_out, places = grad_out.astype(dtype, order="C"), places.astype(np.int32, order="C")
    assert_same_bits(grad, sd.max_pool2d_backward(grad_out, places, size))
    assert_same_bits(back, sd.max_unpool2d(grad_out, places, size))


@EVERY_LARGE
def test_threads_and_repetition_do_not_change_bits(dtype, call, monkeypatch):
    x = call.array(call.x_shape, dtype, integers)
    grad_out = call.array(call.y_shape, dtype, reals)
    monkeypatch.setattr(_threads, "WORK_PER_THREAD", 1)  # no call is too small for threads
    results = []
    for threads in (1, 2, 3, 4, 4):
        with sd.num_threads(threads):
            y, argmax = pool(call, x, return_argmax=True)
            grad = sd.max_pool2d_backward(grad_out, argmax, call.windows.size)
            back = sd.max_unpool2d(grad_out, argmax, call.windows.size)
            results.append((y, argmax, grad, back, pool(call, x)))
    for result in results[1:]:
        for actual, expected in zip(result, results[0], strict=True):
            assert_same_bits(actual, expected)


@EVERY_LARGE
def test_the_rest_of_the_batch_does_not_change_bits(dtype, call):
    x = call.array(call.x_shape, dtype, integers)
    grad_out = call.array(call.y_shape, dtype, reals)
    size = call.windows.size
    y, argmax = pool(call, x, return_argmax=True)
    grad = sd.max_pool2d_backward(grad_out, argmax, size)
    back = sd.max_unpool2d(grad_out, argmax, size)
    for n in range(len(x)):
        for alone in (slice(n, n + 1), n):  # a batch of one, and a single image
            y_alone, argmax_alone = pool(call, x[alone], return_argmax=True)
            assert_same_bits(y_alone, y[alone])
            assert_same_bits(argmax_alone, argmax[alone])
            grad_alone = sd.max_pool2d_backward(grad_out[alone], argmax[alone], size)
            assert_same_bits(grad_alone, grad[alone])
            back_alone = sd.max_unpool2d(grad_out[alone], argmax[alone], size)
            assert_same_bits(back_alone, back[alone])


def test_an_empty_batch_has_no_maxima(dtype):
    x = np.empty((0, 3, 5, 6), dtype)
    y, argmax = sd.max_pool2d(x, 2, return_argmax=True)
    assert_same(y, np.empty((0, 3, 2, 3), dtype))
    assert_same(argmax, np.empty((0, 3, 2, 3), np.int32))
    assert_same(sd.max_pool2d_backward(y, argmax, (5, 6)), x)
    assert_same(sd.max_unpool2d(y, argmax, (5, 6)), x)


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize(
    "window",
    [(2, 2, 0), (2, 2, 1), (2, 2, "same"), (3, 2, 0), (3, 2, 1), (3, 1, 1), (3, 1, "same")],
)
def test_planes_smaller_than_what_is_read(level, dtype, window, channels):
    """So small that none of their rows, or few, may be read in whole vectors."""
    kernel, stride, padding = window
    rng = np.random.default_rng(0)
    for *size, ceil_mode in itertools.product(range(1, 7), (1, 2, 3, 6, 9), (False, True)):
        x = rng.standard_normal((channels, *size)).astype(dtype)
        how = {"stride": stride, "padding": padding, "ceil_mode": ceil_mode}
        try:
            expected, places = reference.max_pool2d(x, kernel, return_argmax=True, **how)
        except ValueError:  # a kernel larger than the plane
            continue
        out = np.full((3, *expected.shape), 7, dtype)
        sd.max_pool2d(x, kernel, out=out[1], **how)
        assert_same(out[1], expected)
        y, argmax = sd.max_pool2d(x, kernel, return_argmax=True, **how)
        assert_same(y, expected)
        assert_same(argmax, places)
        y = sd.avg_pool2d(x, kernel, out=out[1], **how)
        expected = reference.avg_pool2d(x.astype(np.float64), kernel, **how)
        magnitude = reference.avg_pool2d(np.abs(x).astype(np.float64), kernel, **how)
        assert_sums_close(y, expected, magnitude, kernel**2)
        assert (out[::2] == 7).all()

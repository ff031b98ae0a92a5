"""conv2d and conv2d_backward against the specification, and the laws that convolution obeys."""

import functools
import itertools

import numpy as np
import pytest
from checks import (
    assert_delivered,
    assert_same,
    assert_same_bits,
    assert_sums_close,
    unchanged,
)
from hypothesis import given, note
from strategies import (
    ALGORITHMS,
    LAYOUTS,
    Convolution,
    Windows,
    convolutions,
    integers,
    lay_out,
    place_out,
    reals,
)

import slidedot as sd
from slidedot import _threads, reference

pytestmark = pytest.mark.usefixtures("level")


def large(channels, kernel_size, size, *, stride=1, padding=0, dilation=1, groups=1, batch=1):
    """A call too large to draw by the hundred: several vectors, channel panels and blocks."""
    return Convolution(
        batch, channels, groups, Windows(size, kernel_size, stride, padding, dilation)
    )


LARGE = {
    "3x3": large((16, 24), 3, (9, 70), padding=1, batch=2),
    "3x3, 576 terms": large((64, 17), 3, (7, 33)),
    "3x3, 1161 terms": large((129, 33), 3, (5, 9), padding=1),
    "3x3 stride 2": large((5, 40), 3, (17, 67), stride=2, padding=1, batch=2),
    "7x7 stride 2": large((3, 33), 7, (23, 61), stride=2, padding=3, batch=2),
    "11x11 stride 4": large((3, 19), 11, (27, 67), stride=4, padding=((2, 1), (1, 2))),
    "few terms": large((3, 8), 3, (23, 40), padding=1, batch=9),
    "narrow rows": large((6, 16), 5, (14, 14), batch=3),
    "5x5 in full": large((16, 6), 5, (10, 10), padding=4, batch=3),
    "1x1": large((70, 40), 1, (6, 35), batch=2),
    "1x1, 600 terms": large((600, 18), 1, (3, 5), batch=3),
    "1x1 stride 2": large((30, 25), 1, (11, 51), stride=2),
    "3x3 dilation 2": large((9, 17), 3, (12, 50), padding=2, dilation=2),
    "1x5": large((6, 21), (1, 5), (5, 69), padding=(0, 2)),
    "5x1": large((6, 21), (5, 1), (13, 37), padding=(2, 0)),
    "groups": large((10, 17), 3, (8, 36), padding=1, groups=3),
    "depthwise": large((1, 1), 3, (5, 70), padding=1, groups=9, batch=2),
    "depthwise 5x5 stride 2": large((1, 1), 5, (11, 69), stride=2, padding=2, groups=7),
    "depthwise, 2 outputs": large((1, 2), 3, (7, 41), padding=1, groups=9),
    "channels as lanes": large((32, 48), 3, (9, 30), padding=1, batch=2),
    "channels as lanes, 576 terms": large((64, 30), 3, (7, 33), padding=1),
    "channels as lanes, 1152 terms": large((128, 96), 3, (9, 14), padding=1, batch=2),
    "channels as lanes, stride 2": large((64, 32), 3, (13, 31), stride=2, padding=1, batch=2),
    "channels as lanes, stride 3": large((48, 32), 4, (11, 28), stride=3, padding=2),
    "channels as lanes, groups": large((32, 16), 3, (6, 27), padding=1, groups=2),
    "channels as lanes, 5x5": large((16, 16), 5, (14, 14), batch=3),
    "channels as lanes, 5x5 in full": large((16, 32), 5, (10, 23), padding=4, batch=2),
    "channels as lanes, dilation": large((32, 31), 3, (12, 40), padding=2, dilation=2),
    "channels as lanes, 1x1": large((280, 47), 1, (6, 35), batch=2),
    "channels as lanes, narrow planes": large((64, 32), 3, (7, 5), padding=1, batch=5),
    "channels as lanes, 5x5 on narrow planes": large((16, 32), 5, (4, 3), padding=2, batch=5),
    "channels as lanes, wide planes": large((32, 32), 3, (3, 300), padding=1),
    "whole image (fully connected)": large((12, 40), (7, 6), (7, 6), batch=3),
    "one pixel": large((40, 40), 3, (1, 1), padding=1, batch=2),
    "one row": large((20, 18), 3, (1, 70), padding=1),
    "one column": large((20, 18), 3, (40, 1), padding=1),
}
ROWS = {
    f"{kernel}x{kernel}, {channels[0]} channels, width {width}": large(
        channels, kernel, (4, width), padding=padding
    )
    for width in range(1, 41)
    for kernel, channels, padding in ((3, (2, 17), 1), (5, (2, 4), 4), (3, (32, 16), 1))
}
# A band of columns after the other, whose last vectors must not reach into the next one.
ROWS["blocks of columns"] = large((32, 14), 3, (4, 2048))
# The last bands of rows are smaller: what an earlier one left behind them is no part of a sum.
ROWS["few terms, bands of rows"] = large((3, 100), 3, (15, 67), batch=5)
EVERY_LARGE = pytest.mark.parametrize("call", LARGE.values(), ids=LARGE)
EVERY_ALGORITHM = pytest.mark.parametrize("algorithm", ALGORITHMS)


def forward(call, x, weight, bias, **keywords):
    return sd.conv2d(x, weight, bias, **call.options, **keywords)


def backward(call, grad_out, x, weight, **keywords):
    return sd.conv2d_backward(grad_out, x, weight, **call.options, **keywords)


def wide(*arrays):
    """Return float64 copies."""
    return [None if array is None else array.astype(np.float64) for array in arrays]


def absolute(*arrays):
    return [None if array is None else np.abs(array) for array in arrays]


# ------------------------------------------------------------------------ the specification


def algorithms():
    """Yield each algorithm, and have a counterexample name the one that failed."""
    for algorithm in ALGORITHMS:
        note(f"algorithm={algorithm!r}")
        yield algorithm


@given(call=convolutions())
def test_forward_is_exact_on_integers(dtype, call):
    x, weight, bias, _ = call.arrays(dtype, integers)
    keywords = {"activation": call.activation, **call.options}
    expected = reference.conv2d(x, weight, bias, **keywords)
    for algorithm in algorithms():
        out = place_out(call.y_shape, dtype, call.out)
        with unchanged(x, weight, bias):
            y = sd.conv2d(x, weight, bias, algorithm=algorithm, out=out, **keywords)
        assert_same(y, expected)
        assert_delivered(y, out)


@given(call=convolutions())
def test_backward_is_exact_on_integers(dtype, call):
    x, weight, _, grad_out = call.arrays(dtype, integers)
    keywords = {"need": call.need, **call.options}
    expected = reference.conv2d_backward(grad_out, x, weight, **keywords)
    for algorithm in algorithms():
        with unchanged(x, weight, grad_out):
            grads = sd.conv2d_backward(grad_out, x, weight, algorithm=algorithm, **keywords)
        assert grads._fields == ("x", "weight", "bias")
        for name, grad in grads._asdict().items():
            if name in call.need:
                assert_same(grad, getattr(expected, name))
                assert_delivered(grad, None)
            else:
                assert grad is None


@given(call=convolutions())
def test_a_plan_is_conv2d(dtype, call):
    x, weight, bias, _ = call.arrays(dtype, reals)
    keywords = {"activation": call.activation, **call.options}
    for algorithm in algorithms():
        plan = sd.Conv2dPlan(weight, bias, algorithm=algorithm, **keywords)
        out = place_out(call.y_shape, dtype, call.out)
        with unchanged(x, weight, bias):
            y = plan(x, out)
        assert_same_bits(y, sd.conv2d(x, weight, bias, algorithm=algorithm, **keywords))
        assert_delivered(y, out)


def check_forward_bound(call, dtype, algorithm):
    x, weight, bias, _ = call.arrays(dtype, reals)
    expected, magnitude = exact_forward(call, dtype)
    y = forward(call, x, weight, bias, activation=call.activation, algorithm=algorithm)
    assert_sums_close(y, expected, magnitude, call.terms["y"])


@functools.lru_cache(maxsize=64)
def exact_forward(call, dtype):
    """The outputs in float64, and the sums of their products' absolute values.

    A ReLU moves no two numbers further apart, so it keeps the bound.
    """
    x, weight, bias = wide(*call.arrays(dtype, reals)[:3])
    return (
        reference.conv2d(x, weight, bias, activation=call.activation, **call.options),
        reference.conv2d(*absolute(x, weight, bias), **call.options),
    )


def check_backward_bound(call, dtype, algorithm):
    x, weight, _, grad_out = call.arrays(dtype, reals)
    expected, magnitude = exact_backward(call, dtype)
    grads = backward(call, grad_out, x, weight, algorithm=algorithm)
    for name, *sums in zip(grads._fields, grads, expected, magnitude, strict=True):
        assert_sums_close(*sums, call.terms[name])


@functools.lru_cache(maxsize=64)
def exact_backward(call, dtype):
    """The gradients in float64, and the sums of their products' absolute values."""
    x, weight, _, grad_out = wide(*call.arrays(dtype, reals))
    return (
        reference.conv2d_backward(grad_out, x, weight, **call.options),
        reference.conv2d_backward(*absolute(grad_out, x, weight), **call.options),
    )


@given(call=convolutions())
def test_forward_is_within_the_bound(dtype, call):
    for algorithm in algorithms():
        check_forward_bound(call, dtype, algorithm)


@given(call=convolutions())
def test_backward_is_within_the_bound(dtype, call):
    for algorithm in algorithms():
        check_backward_bound(call, dtype, algorithm)


@EVERY_LARGE
@EVERY_ALGORITHM
def test_large_forward_is_within_the_bound(dtype, call, algorithm):
    check_forward_bound(call, dtype, algorithm)


@EVERY_LARGE
@EVERY_ALGORITHM
def test_large_backward_is_within_the_bound(dtype, call, algorithm):
    check_backward_bound(call, dtype, algorithm)


@functools.lru_cache(maxsize=64)
def exact_on_integers(call, dtype):
    x, weight, bias, grad_out = call.arrays(dtype, integers)
    return (
        reference.conv2d(x, weight, bias, **call.options),
        reference.conv2d_backward(grad_out, x, weight, **call.options),
    )


@pytest.mark.parametrize("call", [*LARGE.values(), *ROWS.values()], ids=[*LARGE, *ROWS])
@EVERY_ALGORITHM
def test_large_is_exact_on_integers(dtype, call, algorithm):
    x, weight, bias, grad_out = call.arrays(dtype, integers)
    y, grads = exact_on_integers(call, dtype)
    assert_same(forward(call, x, weight, bias, algorithm=algorithm), y)
    for name, grad in backward(call, grad_out, x, weight, algorithm=algorithm)._asdict().items():
        assert_same(grad, getattr(grads, name))


# ------------------------------------------------------------------------ laws


@given(call=convolutions())
def test_gradients_are_adjoint_to_the_forward_pass(dtype, call):
    # y is linear in x, in weight and in bias: <y, g> is each of them times its gradient. All
    # sums are of integers, hence exact.
    x, weight, bias, grad_out = call.arrays(dtype, integers)
    for algorithm in algorithms():
        y = forward(call, x, weight, bias, algorithm=algorithm)
        grads = backward(call, grad_out, x, weight, algorithm=algorithm)
        share_of_bias = 0 if bias is None else inner(bias, grads.bias)
        assert inner(y, grad_out) - share_of_bias == inner(x, grads.x)
        assert inner(y, grad_out) - share_of_bias == inner(weight, grads.weight)


def inner(a, b):
    return np.vdot(*wide(a, b))


@given(call=convolutions())
def test_forward_is_linear_in_x_and_in_weight(dtype, call):
    x, weight, _, _ = call.arrays(dtype, integers)
    rng = np.random.default_rng(call.seed + 1)
    other_x = integers(rng, x.shape).astype(dtype)
    other_weight = integers(rng, weight.shape).astype(dtype)
    for algorithm in algorithms():
        y, of_other_x, of_other_weight, of_sum_x, of_sum_weight = (
            forward(call, *factors, None, algorithm=algorithm)
            for factors in (
                (x, weight),
                (other_x, weight),
                (x, other_weight),
                (3 * x - other_x, weight),
                (x, 3 * weight - other_weight),
            )
        )
        assert_same(of_sum_x, 3 * y - of_other_x)
        assert_same(of_sum_weight, 3 * y - of_other_weight)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stride": (2, 3), "padding": "same"},
        {"padding": ((0, 4), (1, 2)), "dilation": (1, 2)},
        {"groups": 2, "padding": 2, "stride": 2},
    ],
)
@EVERY_ALGORITHM
def test_gradients_are_the_numerical_ones(options, algorithm):
    # The outputs are linear in each argument, so a central difference has no truncation error,
    # and none from rounding on integers.
    options = {**options, "algorithm": algorithm}
    rng = np.random.default_rng(5)
    x = integers(rng, (2, 4, 6, 5))
    weight = integers(rng, (6, 4 // options.get("groups", 1), 3, 2))
    arguments = {"x": x, "weight": weight, "bias": integers(rng, (6,))}
    grad_out = integers(rng, sd.conv2d(**arguments, **options).shape)
    grads = sd.conv2d_backward(grad_out, x, weight, **options)
    for name, array in arguments.items():
        numerical = np.empty_like(array)
        for place in np.ndindex(array.shape):
            losses = []
            for step in (1, -1):
                moved = array.copy()
                moved[place] += step
                y = sd.conv2d(**{**arguments, name: moved}, **options)
                losses.append(np.vdot(y, grad_out))
            numerical[place] = (losses[0] - losses[1]) / 2
        assert_same(getattr(grads, name), numerical)


# ------------------------------------------------------------------------ same bits


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["3x3 dilation 2", "1x1 stride 2", "depthwise", "groups"])
def test_layouts_do_not_change_bits(dtype, layout, name):
    call = LARGE[name]
    arrays = [lay_out(array, layout) for array in call.arrays(dtype, reals)]
    x, weight, bias, grad_out = arrays
    with unchanged(*arrays):
        y = forward(call, x, weight, bias)
        grads = backward(call, grad_out, x, weight)
    x, weight, bias, grad_out = (array.astype(dtype, order="C") for array in arrays)
    assert_same_bits(y, forward(call, x, weight, bias))
    for grad, expected in zip(grads, backward(call, grad_out, x, weight), strict=True):
        assert_same_bits(grad, expected)


@EVERY_LARGE
def test_threads_and_repetition_do_not_change_bits(dtype, call, monkeypatch):
    x, weight, bias, grad_out = call.arrays(dtype, reals)
    monkeypatch.setattr(_threads, "WORK_PER_THREAD", 1)  # no call is too small for threads
    results = []
    for threads in (1, 2, 3, 4, 4):
        with sd.num_threads(threads):
            y = forward(call, x, weight, bias)
            results.append([y, *backward(call, grad_out, x, weight)])
    for result in results[1:]:
        for actual, expected in zip(result, results[0], strict=True):
            assert_same_bits(actual, expected)


@given(call=convolutions())
def test_threads_do_not_change_bits_of_small_calls(dtype, call):
    x, weight, bias, grad_out = call.arrays(dtype, reals)
    results = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_threads, "WORK_PER_THREAD", 1)
        for threads in (1, 4):
            with sd.num_threads(threads):
                y = forward(call, x, weight, bias)
                results.append([y, *backward(call, grad_out, x, weight)])
    for actual, expected in zip(*results, strict=True):
        assert_same_bits(actual, expected)


@EVERY_LARGE
@EVERY_ALGORITHM
def test_the_rest_of_the_batch_does_not_change_bits(dtype, call, algorithm):
    x, weight, bias, grad_out = call.arrays(dtype, reals)
    x, grad_out = (np.concatenate([a[:1], -a[:1], 2 * a[:1]]) for a in (x, grad_out))
    options = {**call.options, "algorithm": algorithm}
    y = sd.conv2d(x, weight, bias, **options)
    grad_x = sd.conv2d_backward(grad_out, x, weight, need=("x",), **options).x
    for alone in (slice(0, 1), slice(1, 3)):
        assert_same_bits(sd.conv2d(x[alone], weight, bias, **options), y[alone])
        grads = sd.conv2d_backward(grad_out[alone], x[alone], weight, need=("x",), **options)
        assert_same_bits(grads.x, grad_x[alone])


@EVERY_LARGE
def test_a_single_image_is_a_batch_of_one(dtype, call):
    x, weight, bias, grad_out = (
        a[:1] if a.ndim == 4 and i in (0, 3) else a for i, a in enumerate(call.arrays(dtype, reals))
    )
    y = forward(call, x, weight, bias)
    assert_same_bits(forward(call, x[0], weight, bias), y[0])
    grads = backward(call, grad_out, x, weight)
    single = backward(call, grad_out[0], x[0], weight)
    assert_same_bits(single.x, grads.x[0])
    assert_same_bits(single.weight, grads.weight)
    assert_same_bits(single.bias, grads.bias)


@EVERY_LARGE
def test_what_is_needed_does_not_change_bits(dtype, call):
    x, weight, _, grad_out = call.arrays(dtype, reals)
    grads = backward(call, grad_out, x, weight)
    for name in grads._fields:
        alone = backward(call, grad_out, x, weight, need=(name,))
        assert_same_bits(getattr(alone, name), getattr(grads, name))
        assert sum(grad is not None for grad in alone) == 1


# ------------------------------------------------------------------------ special values


@EVERY_ALGORITHM
def test_an_empty_batch_has_empty_outputs_and_zero_gradients(dtype, algorithm):
    x, weight = np.empty((0, 4, 5, 6), dtype), np.ones((6, 2, 3, 3), dtype)
    bias, grad_out = np.ones(6, dtype), np.empty((0, 6, 3, 4), dtype)
    assert_same(sd.conv2d(x, weight, bias, groups=2, algorithm=algorithm), grad_out)
    grads = sd.conv2d_backward(grad_out, x, weight, groups=2, algorithm=algorithm)
    assert_same(grads.x, x)
    assert_same(grads.weight, np.zeros_like(weight))
    assert_same(grads.bias, np.zeros_like(bias))


NON_FINITE = pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
SOME_LARGE = pytest.mark.parametrize(
    "name",
    [
        "3x3",
        "3x3 stride 2",
        "3x3 dilation 2",
        "1x1",
        "few terms",
        "channels as lanes",
        "channels as lanes, stride 2",
        "depthwise",
        "groups",
    ],
)


def never_zero(rng, shape):
    """Return integers other than 0, which would make a NaN of an infinity."""
    return rng.choice([-3.0, -2.0, -1.0, 1.0, 2.0, 3.0], shape)


def spike(shape, place):
    array = np.zeros(shape)
    array[place] = 1
    return array


@functools.lru_cache(maxsize=64)
def share_in_outputs(call, place):
    """How often each output holds the pixel at `place`."""
    _, weight, _, _ = call.arrays(np.float64, never_zero)
    return reference.conv2d(spike(call.x_shape, place), weight, **call.options)


@functools.lru_cache(maxsize=64)
def share_in_gradients(call, place):
    """How often each gradient holds the gradient of the output at `place`."""
    x, weight, _, _ = call.arrays(np.float64, never_zero)
    return reference.conv2d_backward(spike(call.y_shape, place), x, weight, **call.options)


def overwritten(array, share, value):
    """Return `array` with `value` in the sums that hold it: what else is in them is finite."""
    assert 0 < np.count_nonzero(share) < share.size
    expected = array.copy()
    expected[share != 0] = share[share != 0] * value
    return expected


@NON_FINITE
@SOME_LARGE
def test_a_non_finite_pixel_reaches_the_windows_that_hold_it(dtype, name, value):
    call = LARGE[name]
    x, weight, bias, _ = call.arrays(dtype, never_zero)
    options = {**call.options, "algorithm": "direct"}
    clean = sd.conv2d(x, weight, bias, **options)
    place = (0, 1, call.windows.size[0] // 2, call.windows.size[1] // 2)
    x[place] = value
    expected = overwritten(clean, share_in_outputs(call, place), value)
    assert_same(sd.conv2d(x, weight, bias, **options), expected)
    relu = sd.conv2d(x, weight, bias, activation="relu", **options)
    assert_same(relu, np.maximum(expected, 0))  # a NaN stays one


@NON_FINITE
@SOME_LARGE
def test_a_non_finite_gradient_reaches_its_window_and_its_filter(dtype, name, value):
    call = LARGE[name]
    x, weight, _, grad_out = call.arrays(dtype, never_zero)
    options = {**call.options, "algorithm": "direct"}
    clean = sd.conv2d_backward(grad_out, x, weight, **options)
    place = (0, 1, call.windows.out[0] // 2, call.windows.out[1] // 2)
    grad_out[place] = value
    grads = sd.conv2d_backward(grad_out, x, weight, **options)
    for grad, before, share in zip(grads, clean, share_in_gradients(call, place), strict=True):
        assert_same(grad, overwritten(before, share, value))


def test_an_infinite_gradient_stays_in_its_band_of_rows(dtype):
    # Wherever it lies: what a later band finds of it in memory times 0 would be a NaN.
    call = ROWS["few terms, bands of rows"]
    x, weight, _, grad_out = call.arrays(dtype, never_zero)
    clean = sd.conv2d_backward(grad_out, x, weight, need=("weight",)).weight
    for n, row in itertools.product(range(call.batch), range(call.windows.out[0])):
        changed, expected = grad_out.copy(), clean.copy()
        changed[n, 1, row, 0] = np.inf
        expected[1] = np.inf * x[n, :, row : row + 3, :3]
        grads = sd.conv2d_backward(changed, x, weight, need=("weight",))
        assert_same(grads.weight, expected)


@functools.lru_cache(maxsize=64)
def share_in_weight_gradient(call, place):
    """How often each tap meets the pixel at `place`."""
    x, weight = spike(call.x_shape, place), np.ones(call.weight_shape)
    ones = np.ones(call.y_shape)
    return reference.conv2d_backward(ones, x, weight, need=("weight",), **call.options).weight


@SOME_LARGE
@pytest.mark.parametrize("corner", [(0, 0), (-1, -1)])
def test_a_nan_in_a_corner_reaches_the_taps_that_meet_it(dtype, name, corner):
    call = LARGE[name]
    x, weight, _, grad_out = call.arrays(dtype, never_zero)
    options = {**call.options, "algorithm": "direct"}
    clean = sd.conv2d_backward(grad_out, x, weight, **options)
    place = (0, 1, *corner)
    x[place] = np.nan
    grads = sd.conv2d_backward(grad_out, x, weight, **options)
    share = share_in_weight_gradient(call, place)
    assert_same(grads.weight, overwritten(clean.weight, share, np.nan))
    assert_same(grads.x, clean.x)
    assert_same(grads.bias, clean.bias)


@EVERY_ALGORITHM
def test_denormal_numbers_are_kept(dtype, algorithm):
    tiny = np.finfo(dtype).smallest_subnormal
    x, weight = np.ones((1, 3, 4, 20), dtype), np.full((5, 3, 3, 3), tiny, dtype)
    y = sd.conv2d(x, weight, algorithm=algorithm)
    assert_same(y, np.full_like(y, 27 * tiny))


def test_relu_cuts_below_zero_after_the_bias(dtype):
    x = np.array([[[-3, -1, 0, 2]]], dtype)
    weight, bias = np.ones((2, 1, 1, 1), dtype), np.array([0, 1], dtype)
    y = sd.conv2d(x, weight, bias, activation="relu")
    assert_same(y, np.array([[[0, 0, 0, 2]], [[0, 0, 1, 3]]], dtype))


def test_integers_with_an_index_are_sizes(dtype):
    call = LARGE["3x3 stride 2"]
    x, weight, bias, _ = call.arrays(dtype, reals)
    options = {
        "stride": (np.int64(2), np.uint8(2)),
        "padding": np.int32(1),
        "dilation": np.int8(1),
        "groups": np.int16(1),
    }
    assert_same_bits(sd.conv2d(x, weight, bias, **options), forward(call, x, weight, bias))


# ------------------------------------------------------------------------ plans


@EVERY_LARGE
def test_a_plan_is_conv2d_at_any_size_and_number(dtype, call):
    _, weight, bias, _ = call.arrays(dtype, reals)
    plan = sd.Conv2dPlan(weight, bias, activation="relu", **call.options)
    x = call.arrays(dtype, reals)[0]
    for images in (x, x[:1], np.concatenate([x, x], axis=2), np.repeat(x, 3, axis=3)):
        y = sd.conv2d(images, weight, bias, activation="relu", **call.options)
        assert_same_bits(plan(images), y)


def test_a_plan_keeps_its_own_weight(dtype):
    rng = np.random.default_rng(0)
    x, weight, bias = (rng.standard_normal(s).astype(dtype) for s in ((3, 9, 9), (7, 3, 3, 3), 7))
    for algorithm in ALGORITHMS:
        plan = sd.Conv2dPlan(weight, bias, algorithm=algorithm)
        y = plan(x)
        kept = weight.copy(), bias.copy()
        weight[...], bias[...] = 0, 0
        assert_same_bits(plan(x), y)
        weight[...], bias[...] = kept


def test_a_plan_says_what_it_takes():
    """A large image needs little: the columns of this one would take 9 GB."""
    weight = np.ones((16, 3, 7, 7), np.float32)
    shape = (1, 3, 4096, 4096)
    plan = sd.Conv2dPlan(weight, padding=3, input_size=4096)
    assert 0 < plan.workspace_bytes(shape) < 64 * 2**20
    assert plan.workspace_bytes((0, *shape[1:])) == 0
    assert plan.flops(shape) == 2 * 4096**2 * weight.size
    assert plan.flops(shape[1:]) == plan.flops(shape)
    assert plan.algorithm(4096) == plan.algorithm((7, 9)) == "direct"
    columns = sd.Conv2dPlan(weight, padding=3, algorithm="im2col")
    assert columns.algorithm(4096) == "im2col"
    assert columns.workspace_bytes(shape) == 3 * 7 * 7 * 4096**2 * 4


@EVERY_LARGE
def test_auto_is_the_algorithm_that_a_plan_names(dtype, call):
    x, weight, bias, grad_out = call.arrays(dtype, reals)
    chosen = sd.Conv2dPlan(weight, **call.options).algorithm(x.shape[-2:])
    assert chosen in ("direct", "winograd")
    assert_same_bits(
        forward(call, x, weight, bias), forward(call, x, weight, bias, algorithm=chosen)
    )
    grads = backward(call, grad_out, x, weight)
    expected = backward(call, grad_out, x, weight, algorithm=chosen)
    for grad, other in zip(grads, expected, strict=True):
        assert_same_bits(grad, other)


def test_auto_takes_winograd_where_it_pays_whatever_the_batch():
    weight = np.random.default_rng(0).standard_normal((32, 32, 3, 3), dtype=np.float32)
    x = np.random.default_rng(1).standard_normal((3, 32, 14, 14), dtype=np.float32)
    plan = sd.Conv2dPlan(weight, padding=1)
    assert plan.algorithm(14) == "winograd"
    y = sd.conv2d(x, weight, padding=1)
    assert_same_bits(y, sd.conv2d(x, weight, padding=1, algorithm="winograd"))
    for image, result in zip(x, y, strict=True):
        assert_same_bits(sd.conv2d(image, weight, padding=1), result)
    for other in (
        sd.Conv2dPlan(weight, padding=1, stride=2),
        sd.Conv2dPlan(weight, padding=2, dilation=2),
        sd.Conv2dPlan(weight[:, :, :1], padding=1),
        sd.Conv2dPlan(weight[:15], padding=1),
        sd.Conv2dPlan(weight[:, :15], padding=1),
        sd.Conv2dPlan(weight.astype(np.float64), padding=1),
        sd.Conv2dPlan(weight[:, :8], padding=1, groups=4),
    ):
        assert other.algorithm(14) == "direct"

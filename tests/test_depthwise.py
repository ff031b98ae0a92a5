"""Depthwise convolution, one filter per channel: its own kernels against the specification."""

import numpy as np
import pytest
from checks import assert_delivered, assert_same, assert_same_bits, assert_sums_close, unchanged
from hypothesis import given
from hypothesis import strategies as st
from strategies import (
    BATCHES,
    LAYOUTS,
    NEEDS,
    OUTS,
    SEEDS,
    Convolution,
    Windows,
    integers,
    place_out,
    reals,
    windows,
)

import slidedot as sd
from slidedot import _threads, reference

pytestmark = pytest.mark.usefixtures("level")

DEPTHWISE = st.builds(
    Convolution,
    batch=BATCHES,
    channels=st.just((1, 1)),
    groups=st.integers(2, 5),
    windows=windows(),
    with_bias=st.booleans(),
    activation=st.sampled_from([None, "relu"]),
    need=NEEDS.map(tuple),
    out=OUTS,
    layouts=st.tuples(*[st.sampled_from(LAYOUTS)] * 4),
    seed=SEEDS,
)


def large(size, kernel_size, stride=1, padding=0, dilation=1):
    return Convolution(2, (1, 1), 3, Windows(size, kernel_size, stride, padding, dilation))


LARGE = {
    "3x3": large((21, 30), 3, padding=1),
    "3x3 stride 2": large((23, 67), 3, stride=2, padding=1),
    "5x5": large((12, 41), 5, padding=2),
    "7x7": large((27, 27), 7, padding=3),
    "7x7 on less": large((2, 5), 7, padding=3),
    "2x4 stride (3, 1)": large((20, 33), (2, 4), stride=(3, 1), padding=((0, 2), (3, 0))),
    "3x3 dilation 2": large((17, 35), 3, padding=2, dilation=2),
    "far apart": large((45, 70), 3, dilation=20),
    # more than one block of columns, or band of rows
    "wide": large((5, 1100), 3, padding=1),
    "wide, stride 2": large((6, 2100), 3, stride=2, padding=1),
    "tall": large((420, 9), 3, padding=1),
    "tall, stride 2": large((411, 10), 5, stride=2, padding=2),
}
EVERY_LARGE = pytest.mark.parametrize("call", LARGE.values(), ids=LARGE)


def forward(call, x, weight, bias, **keywords):
    return sd.conv2d(x, weight, bias, activation=call.activation, **call.options, **keywords)


def backward(call, x, weight, grad_out, need=("x", "weight")):
    return sd.conv2d_backward(grad_out, x, weight, need=need, **call.options)


@given(call=DEPTHWISE)
def test_exact_on_integers(dtype, call):
    x, weight, bias, grad_out = call.arrays(dtype, integers)
    out = place_out(call.y_shape, dtype, call.out)
    with unchanged(x, weight, bias, grad_out):
        y = forward(call, x, weight, bias, out=out)
        gradients = backward(call, x, weight, grad_out, call.need)
    options = {"activation": call.activation, **call.options}
    assert_same(y, reference.conv2d(x, weight, bias, **options))
    assert_delivered(y, out)
    expected = reference.conv2d_backward(grad_out, x, weight, need=call.need, **call.options)
    for name in call.need:
        assert_same(getattr(gradients, name), getattr(expected, name))


@EVERY_LARGE
def test_large(dtype, call):
    x, weight, bias, grad_out = call.arrays(dtype, integers)
    y, expected = (f(x, weight, bias, **call.options) for f in (sd.conv2d, reference.conv2d))
    assert_same(y, expected)
    gradients = backward(call, x, weight, grad_out)
    expected = reference.conv2d_backward(grad_out, x, weight, need=("x", "weight"), **call.options)
    assert_same(gradients.x, expected.x)
    assert_same(gradients.weight, expected.weight)


@EVERY_LARGE
def test_within_the_bound(dtype, call):
    arrays = x, weight, bias, grad_out = call.arrays(dtype, reals)
    wide = [a.astype(np.float64) for a in arrays]
    results = {"y": forward(call, x, weight, bias)}
    results |= backward(call, x, weight, grad_out)._asdict()
    exact, magnitudes = {}, {}
    for sums, (x, weight, bias, grad_out) in (
        (exact, wide),
        (magnitudes, [np.abs(a) for a in wide]),
    ):
        sums["y"] = reference.conv2d(x, weight, bias, **call.options)
        sums |= reference.conv2d_backward(grad_out, x, weight, **call.options)._asdict()
    for name in ("y", "x", "weight"):
        assert_sums_close(results[name], exact[name], magnitudes[name], call.terms[name])


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel", [1, 2, 3, 5, 7])
def test_every_row_width(dtype, kernel, stride):
    for width in range(1, 41):
        call = large((kernel + 5, width), kernel, stride, padding=kernel // 2)
        x, weight, _, grad_out = call.arrays(dtype, integers)
        expected = reference.conv2d(x, weight, **call.options)
        assert_same(forward(call, x, weight, None), expected)
        gradients = backward(call, x, weight, grad_out)
        expected = reference.conv2d_backward(grad_out, x, weight, **call.options)
        assert_same(gradients.x, expected.x)
        assert_same(gradients.weight, expected.weight)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_stays_in_its_windows(dtype, value):
    # Pixels beyond the last window are loaded with it, and count nothing.
    call = large((9, 24), 3, stride=2)
    x, weight, _, grad_out = call.arrays(dtype, integers)
    expected = forward(call, x, weight, None), backward(call, x, weight, grad_out).weight
    x[..., 23] = value
    assert_same(forward(call, x, weight, None), expected[0])
    assert_same(backward(call, x, weight, grad_out).weight, expected[1])


@EVERY_LARGE
def test_threads_and_the_batch_do_not_change_bits(dtype, call, monkeypatch):
    x, weight, bias, grad_out = call.arrays(dtype, reals)
    monkeypatch.setattr(_threads, "WORK_PER_THREAD", 1)  # no call is too small for threads
    results = []
    for threads in (1, 2, 3):
        with sd.num_threads(threads):
            results.append(
                (forward(call, x, weight, bias), *backward(call, x, weight, grad_out)[:2])
            )
    for result in results[1:]:
        for actual, expected in zip(result, results[0], strict=True):
            assert_same_bits(actual, expected)
    for n in range(len(x)):
        assert_same_bits(forward(call, x[n], weight, bias), results[0][0][n])
        alone = backward(call, x[n], weight, grad_out[n], need=("x",))
        assert_same_bits(alone.x, results[0][1][n])

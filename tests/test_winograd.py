"""algorithm="winograd": as `conv2d` and its gradients, within the error bound of the transforms.

On numbers of which each is 1 or -1 the sums are whole numbers, and the bound is below a half: a
term too many or too few would show.
"""

import functools

import numpy as np
import pytest
from checks import assert_delivered, assert_same, assert_same_bits, gamma, unchanged
from hypothesis import given
from strategies import (
    LAYOUTS,
    Convolution,
    Windows,
    convolutions,
    lay_out,
    place_out,
    reals,
    signs,
    winograd_windows,
)

import slidedot as sd
from slidedot import _dispatch, _threads, reference
from slidedot.convolution import _winograd_pays, winograd_tiles
from slidedot.geometry import windows

pytestmark = pytest.mark.usefixtures("level")

FLOAT32 = np.dtype(np.float32)

# ------------------------------------------------------------------------ the bound

#: The transforms at the points 0, +-1/sqrt 2, +-sqrt 2 and infinity, in absolute values: of pixels,
#: of taps, and to outputs.
LOW, HIGH = 0.5**0.5, 2**0.5
PIXELS = np.array(
    [
        [1, 0, 2.5, 0, 1, 0],
        [0, HIGH, 2, LOW, 1, 0],
        [0, HIGH, 2, LOW, 1, 0],
        [0, LOW, 0.5, HIGH, 1, 0],
        [0, LOW, 0.5, HIGH, 1, 0],
        [0, 1, 0, 2.5, 0, 1],
    ]
)
TAPS = np.array(
    [
        [1, 0, 0],
        *[[2 / 3, 2 / 3 * LOW, 1 / 3]] * 2,
        *[[1 / 6, 1 / 6 * HIGH, 1 / 3]] * 2,
        [0, 0, 1],
    ]
)
OUTPUTS = np.array(
    [
        [1, 1, 1, 1, 1, 0],
        [0, LOW, LOW, HIGH, HIGH, 0],
        [0, 0.5, 0.5, 2, 2, 0],
        [0, LOW / 2, LOW / 2, 2 * HIGH, 2 * HIGH, 1],
    ]
)

#: By how much the sums of absolute values grow on the way to an output, or to a tap's gradient:
#: the maximum norms of the transforms, multiplied point by point, on both axes.
TO_OUTPUT = (OUTPUTS @ (PIXELS.sum(1) * TAPS.sum(1))).max() ** 2
TO_TAP = (TAPS.T @ (PIXELS.sum(1) * OUTPUTS.sum(0))).max() ** 2

#: Roundings on the way of one product through three transforms: on each axis at most six
#: (constants, multiplications and additions), and those of the product and of the bias.
ROUNDINGS = 38


def bound(growth, terms, *factors):
    """What sums of `terms` products of these arrays may be wrong by."""
    largest = np.prod([np.abs(factor).max(initial=0) for factor in factors])
    return gamma(terms + ROUNDINGS, FLOAT32) * growth * terms * largest


def bounds(call, x, weight, bias, grad_out):
    """The bounds of y and of the gradients for x and weight."""
    c, k = call.channels
    pixels = (call.batch or 1) * call.windows.out[0] * call.windows.out[1]
    return {
        "y": bound(TO_OUTPUT, c, x, weight)
        + (0 if bias is None else gamma(2, FLOAT32) * np.abs(bias).max()),
        "x": bound(TO_OUTPUT, k, grad_out, weight),
        "weight": bound(TO_TAP, pixels, grad_out, x),
    }


def test_the_bound_sees_a_missing_term():
    """The growth is what the formulas give, and the bound small beside a term on the tests'
    layers, for outputs and gradients for x; for weight on the small ones."""
    assert 600 < TO_OUTPUT < 650
    assert 900 < TO_TAP < 1000
    one = np.ones(1)
    assert bound(TO_OUTPUT, 70, one, one) < 0.5
    assert bound(TO_TAP, 60, one, one) < 0.5


def assert_within(actual, expected, limit):
    assert actual.dtype == FLOAT32
    assert actual.shape == expected.shape
    error = np.abs(actual.astype(np.float64) - expected).max(initial=0)
    assert error <= limit, f"error {error}, bound {limit}"


# ------------------------------------------------------------------------ calls


def forward(call, x, weight, bias, **keywords):
    return sd.conv2d(x, weight, bias, algorithm="winograd", **call.options, **keywords)


def backward(call, grad_out, x, weight, need=("x", "weight")):
    how = {"algorithm": "winograd", "need": need, **call.options}
    return sd.conv2d_backward(grad_out, x, weight, **how)


def large(channels, size, *, padding=1, groups=1, batch=1):
    return Convolution(batch, channels, groups, Windows(size, 3, 1, padding, 1))


LARGE = {
    "several blocks of tiles": large((17, 24), (21, 70)),
    "one row of many tiles": large((5, 9), (2, 300)),
    "one column of many tiles": large((5, 9), (300, 1)),
    "131x97": large((3, 4), (131, 97)),
    "7x7": large((40, 36), (7, 7), batch=9),
    "14x14": large((33, 8), (14, 14), batch=5),
    "one pixel": large((40, 40), (1, 1), batch=3),
    "two chunks of channels": large((70, 66), (5, 9)),
    "groups": large((10, 17), (13, 27), groups=3, batch=2),
    "depthwise": large((1, 1), (9, 33), groups=11, batch=2),
    "asymmetric padding": large((9, 20), (10, 31), padding=((0, 2), (1, 0)), batch=2),
    "padding wider than the window": large((9, 20), (6, 5), padding=((7, 3), (4, 9)), batch=2),
    "no padding": large((9, 20), (15, 18), padding=0, batch=2),
}
EVERY_LARGE = pytest.mark.parametrize("call", LARGE.values(), ids=LARGE)


def check(call, expected_y, expected):
    """Hold outputs and gradients of the call's signs against sums in float64."""
    x, weight, bias, grad_out = call.arrays(FLOAT32, signs)
    limit = bounds(call, x, weight, bias, grad_out)
    with unchanged(x, weight, bias, grad_out):
        y = forward(call, x, weight, bias, activation=call.activation)
        grads = backward(call, grad_out, x, weight)
    assert_within(y, expected_y, limit["y"])
    assert_within(grads.x, expected.x, limit["x"])
    assert_within(grads.weight, expected.weight, limit["weight"])


@given(call=convolutions(winograd_windows()))
def test_is_within_the_bound(call):
    x, weight, bias, grad_out = call.arrays(FLOAT32, signs)
    y = reference.conv2d(x, weight, bias, activation=call.activation, **call.options)
    check(call, y, reference.conv2d_backward(grad_out, x, weight, **call.options))


@given(call=convolutions(winograd_windows()))
def test_out_is_filled_and_nothing_around_it(call):
    x, weight, bias, _ = call.arrays(FLOAT32, reals)
    out = place_out(call.y_shape, FLOAT32, call.out)
    y = forward(call, x, weight, bias, out=out)
    assert_same_bits(y.copy(), forward(call, x, weight, bias))
    assert_delivered(y, out)


@functools.lru_cache(maxsize=1024)
def exact(call):
    """The results on signs: whole numbers, which the direct kernels give exactly."""
    x, weight, bias, grad_out = call.arrays(FLOAT32, signs)
    how = {"algorithm": "direct", **call.options}
    return sd.conv2d(x, weight, bias, **how), sd.conv2d_backward(grad_out, x, weight, **how)


@EVERY_LARGE
def test_large_is_within_the_bound(call):
    check(call, *exact(call))


@pytest.mark.parametrize("height", range(1, 21))
def test_every_size_is_within_the_bound(height):
    for width in range(1, 21):
        call = large((3, 5), (height, width))
        check(call, *exact(call))


@pytest.mark.parametrize("outputs", [1, 4, 7, 8, 9, 16, 31, 33, 65])
def test_every_number_of_channels_is_within_the_bound(outputs):
    for channels in (1, 3, 4, 8, 15, 17, 32, 34, 70, 129):
        call = large((channels, outputs), (4, 9))
        check(call, *exact(call))


@pytest.mark.parametrize(
    "call",
    [
        large((64, 32), (24, 24), batch=2),
        large((256, 16), (7, 7), batch=4),
        large((16, 128), (30, 41)),
    ],
    ids=["64 channels", "256 channels", "128 outputs"],
)
def test_normal_numbers_lose_less_than_the_documented_digits(call):
    """The bound is the worst case; 3e-6 of the largest output is what normal numbers give."""
    arrays = call.arrays(FLOAT32, reals)
    wide = [a.astype(np.float64) for a in arrays]
    x, weight, bias, grad_out = arrays
    results = [forward(call, x, weight, bias), *backward(call, grad_out, x, weight)[:2]]
    x, weight, bias, grad_out = wide
    expected = [
        sd.conv2d(x, weight, bias, **call.options),
        *sd.conv2d_backward(grad_out, x, weight, **call.options)[:2],
    ]
    for actual, exactly in zip(results, expected, strict=True):
        assert_within(actual, exactly, 3e-6 * np.abs(exactly).max())


def test_agrees_with_torch():
    torch = pytest.importorskip("torch")
    x, weight, bias, grad_out = large((70, 40), (14, 27), batch=2).arrays(FLOAT32, reals)
    leaves = [torch.tensor(a, dtype=torch.float64, requires_grad=True) for a in (x, weight)]
    y = torch.nn.functional.conv2d(*leaves, torch.tensor(bias, dtype=torch.float64), padding=1)
    grads = torch.autograd.grad(y, leaves, torch.tensor(grad_out, dtype=torch.float64))
    how = {"padding": 1, "algorithm": "winograd"}
    actual = sd.conv2d_backward(grad_out, x, weight, **how)
    for ours, theirs in (
        (sd.conv2d(x, weight, bias, **how), y.detach()),
        (actual.x, grads[0]),
        (actual.weight, grads[1]),
    ):
        assert_within(ours, theirs.numpy(), 3e-6 * float(theirs.abs().max()))


# ------------------------------------------------------------------------ laws


def inner(a, b):
    return np.vdot(a.astype(np.float64), b.astype(np.float64))


@given(call=convolutions(winograd_windows()))
def test_gradients_are_adjoint_to_the_forward_pass(call):
    x, weight, _, grad_out = call.arrays(FLOAT32, signs)
    limit = bounds(call, x, weight, None, grad_out)
    y = forward(call, x, weight, None)
    grads = backward(call, grad_out, x, weight)
    error = limit["y"] * grad_out.size
    assert abs(inner(y, grad_out) - inner(x, grads.x)) <= error + limit["x"] * x.size
    assert abs(inner(y, grad_out) - inner(weight, grads.weight)) <= (
        error + limit["weight"] * weight.size
    )


@given(call=convolutions(winograd_windows()))
def test_is_linear_in_each_factor(call):
    x, weight, _, grad_out = call.arrays(FLOAT32, signs)
    rng = np.random.default_rng(call.seed + 1)
    others = [signs(rng, a.shape).astype(FLOAT32) for a in (x, weight, grad_out)]
    sums = [3 * a - b for a, b in zip((x, weight, grad_out), others, strict=True)]
    limit = bounds(call, *sums[:2], None, sums[2])  # the largest numbers of them all

    def results(x, weight, grad_out):
        return [forward(call, x, weight, None), *backward(call, grad_out, x, weight)[:2]]

    one = results(x, weight, grad_out)
    for changed, linear in ((0, (0, 2)), (1, (0, 1)), (2, (1, 2))):
        arguments = [x, weight, grad_out]
        arguments[changed] = others[changed]
        other = results(*arguments)
        arguments[changed] = sums[changed]
        both = results(*arguments)
        for i in linear:
            expected = 3 * one[i].astype(np.float64) - other[i]
            assert_within(both[i], expected, 5 * limit[("y", "x", "weight")[i]])


# ------------------------------------------------------------------------ same bits


@EVERY_LARGE
def test_threads_and_repetition_do_not_change_bits(call, monkeypatch):
    x, weight, bias, grad_out = call.arrays(FLOAT32, reals)
    monkeypatch.setattr(_threads, "WORK_PER_THREAD", 1)  # no call is too small for threads
    results = []
    for threads in (1, 2, 3, 8, 8):
        with sd.num_threads(threads):
            y = forward(call, x, weight, bias)
            results.append([y, *backward(call, grad_out, x, weight)[:2]])
    for result in results[1:]:
        for actual, expected in zip(result, results[0], strict=True):
            assert_same_bits(actual, expected)


@EVERY_LARGE
def test_the_rest_of_the_batch_does_not_change_bits(call):
    x, weight, bias, grad_out = call.arrays(FLOAT32, reals)
    x, grad_out = (np.concatenate([a[:1], -a[:1], *[2 * a[:1]] * 70]) for a in (x, grad_out))
    y = forward(call, x, weight, bias)
    grad_x = backward(call, grad_out, x, weight, need=("x",)).x
    for alone in (slice(0, 1), slice(1, 3), slice(3, 40)):
        assert_same_bits(forward(call, x[alone], weight, bias), y[alone])
        grads = backward(call, grad_out[alone], x[alone], weight, need=("x",))
        assert_same_bits(grads.x, grad_x[alone])


@EVERY_LARGE
@pytest.mark.parametrize("threads", [1, 3])
def test_packed_weights_do_not_change_bits(call, threads, monkeypatch):
    x, weight, bias, _ = call.arrays(FLOAT32, reals)
    monkeypatch.setattr(_threads, "WORK_PER_THREAD", 1)
    how = {"algorithm": "winograd", "activation": "relu", **call.options}
    with sd.num_threads(threads):
        plan = sd.Conv2dPlan(weight, bias, **how)
        assert plan.algorithm(call.windows.size) == "winograd"
        assert_same_bits(plan(x), sd.conv2d(x, weight, bias, **how))


@EVERY_LARGE
@pytest.mark.parametrize("threads", [1, 3])
def test_packed_weights_spare_workspace(call, threads):
    weight = call.arrays(FLOAT32, reals)[1]
    axes = windows("test", call.windows.size, (3, 3), 1, call.options["padding"], 1)
    arguments = (call.x_shape[0], weight, *axes, call.groups, threads)
    kernels = _dispatch.kernels.winograd
    assert 0 < kernels.forward_workspace(*arguments) < kernels.forward_workspace(*arguments, False)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["14x14", "groups", "asymmetric padding", "one pixel"])
def test_layouts_do_not_change_bits(layout, name):
    call = LARGE[name]
    arrays = [lay_out(array, layout) for array in call.arrays(FLOAT32, reals)]
    x, weight, bias, grad_out = arrays
    with unchanged(*arrays):
        y = forward(call, x, weight, bias)
        grads = backward(call, grad_out, x, weight)
    x, weight, bias, grad_out = (array.astype(FLOAT32, order="C") for array in arrays)
    assert_same_bits(y, forward(call, x, weight, bias))
    expected = backward(call, grad_out, x, weight)
    assert_same_bits(grads.x, expected.x)
    assert_same_bits(grads.weight, expected.weight)


@EVERY_LARGE
def test_the_bias_gradient_is_the_direct_one(call):
    x, weight, _, grad_out = call.arrays(FLOAT32, reals)
    grads = backward(call, grad_out, x, weight, need=("bias",))
    expected = sd.conv2d_backward(grad_out, x, weight, need=("bias",), **call.options)
    assert grads.x is None
    assert grads.weight is None
    assert_same_bits(grads.bias, expected.bias)


# ------------------------------------------------------------------------ special values


def test_an_empty_batch_has_empty_outputs_and_zero_gradients():
    x, weight = np.empty((0, 4, 5, 6), FLOAT32), np.ones((6, 2, 3, 3), FLOAT32)
    bias, grad_out = np.ones(6, FLOAT32), np.empty((0, 6, 3, 4), FLOAT32)
    how = {"groups": 2, "algorithm": "winograd"}
    assert_same(sd.conv2d(x, weight, bias, **how), grad_out)
    grads = sd.conv2d_backward(grad_out, x, weight, **how)
    assert_same(grads.x, x)
    assert_same(grads.weight, np.zeros_like(weight))
    assert_same(grads.bias, np.zeros_like(bias))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["several blocks of tiles", "14x14", "groups"])
def test_a_non_finite_pixel_stays_within_its_tiles(name, value):
    """It reaches all outputs whose windows hold it, and no others than those of their tiles."""
    call = LARGE[name]
    x, weight, bias, grad_out = call.arrays(FLOAT32, reals)
    clean = forward(call, x, weight, bias)
    clean_grads = backward(call, grad_out, x, weight)
    row, column = call.windows.size[0] // 2, call.windows.size[1] // 2

    def check_plane(actual, before, last):
        hit = ~np.isfinite(actual[0, 0])
        assert hit[row - 1 : row + 2, column - 1 : column + 2].all()
        hit[row - 4 : row + 5, column - 4 : column + 5] = False
        assert not hit.any()
        if last > 0:
            assert_same_bits(actual[-1, -1], before[-1, -1])

    x[0, 0, row, column] = value
    y = forward(call, x, weight, bias)
    check_plane(y, clean, max(call.groups, call.batch) - 1)
    x[0, 0, row, column] = 0
    grad_out[0, 0, row, column] = value
    grads = backward(call, grad_out, x, weight)
    check_plane(grads.x, clean_grads.x, max(call.groups, call.batch) - 1)
    assert not np.isfinite(grads.weight[0]).any()
    assert np.isfinite(grads.weight[1:]).all()


# ------------------------------------------------------------------------ workspace and rule


def workspace(channels, filters, side, threads, packed):
    weight = np.broadcast_to(np.float32(1), (filters, channels, 3, 3))
    axes = windows("test", (side, side), (3, 3), 1, 1, 1)
    return _dispatch.kernels.winograd.forward_workspace(1, weight, *axes, 1, threads, packed)


def test_the_workspace_does_not_grow_with_the_image():
    taken = [workspace(32, 64, side, 2, False) for side in (2**7, 2**10, 2**20)]
    assert max(taken) < 1.1 * min(taken)
    assert max(taken) < 8 * 2**20


@pytest.mark.parametrize("channels", [2**9, 2**12, 2**14])
def test_the_workspace_hardly_grows_with_the_channels(channels):
    """Where there are many, a block of tiles is as small as the tile of sums allows."""
    taken = workspace(channels, channels, 56, 1, False)
    assert taken < 16 * 2**20 + 36 * 4 * 28 * channels


def test_a_workspace_beyond_the_memory_is_a_memory_error():
    ones = np.broadcast_to(np.float32(1), (1, 2**38, 3, 3))
    with pytest.raises(MemoryError, match=r"^conv2d: no memory for the workspace"):
        sd.conv2d(ones, ones, algorithm="winograd")


def test_where_it_pays():
    assert _winograd_pays(64, 64, 56, 56)
    assert _winograd_pays(512, 512, 7, 7)
    assert not _winograd_pays(3, 64, 224, 224)
    assert not _winograd_pays(64, 8, 224, 224)
    assert not _winograd_pays(512, 512, 1, 1)
    assert not _winograd_pays(512, 512, 2, 200)


def test_whole_tiles_have_the_bits_of_the_plane():
    """Computed apart, from the pixels that they see."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((2, 5, 3, 3), dtype=np.float32)

    def rows(x):
        return sd.conv2d(x, weight, algorithm="winograd")

    for out in range(1, 24):
        x = rng.standard_normal((5, out + 2, 7), dtype=np.float32)
        y = rows(x)
        for start in range(out):
            for stop in range(start + 1, out + 1):
                first, last = winograd_tiles(out, start, stop)
                assert max(0, start - 3) <= first <= start < stop <= last <= min(out, stop + 3)
                assert_same_bits(rows(x[:, first : last + 2]), y[:, first:last])

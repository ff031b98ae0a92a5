"""conv_transpose2d against the specification, and as the transpose of conv2d."""

import numpy as np
import pytest
from checks import (
    assert_delivered,
    assert_same,
    assert_same_bits,
    assert_sums_close,
    unchanged,
)
from hypothesis import assume, given
from strategies import (
    LAYOUTS,
    TransposedConvolution,
    integers,
    lay_out,
    place_out,
    reals,
    transposed_convolutions,
)

import slidedot as sd
from slidedot import _threads, reference

pytestmark = pytest.mark.usefixtures("level")


def large(channels, kernel_size, size, *, stride=1, padding=0, extra=0, dilation=1, groups=1):
    """A call too large to draw by the hundred: several vectors, channel panels and blocks."""
    return TransposedConvolution(
        2, channels, groups, size, kernel_size, stride, padding, extra, dilation
    )


LARGE = {
    "4x4 stride 2 (DCGAN)": large((40, 24), 4, (8, 9), stride=2, padding=1),
    "2x2 stride 2 (U-Net)": large((33, 17), 2, (7, 35), stride=2),
    "3x3 stride 2, one row more": large((20, 19), 3, (9, 17), stride=2, padding=1, extra=1),
    "16x16 stride 8 (FCN)": large((5, 6), 16, (5, 6), stride=8, padding=4),
    "3x3": large((24, 20), 3, (9, 41), padding=1),
    "3x3, padding wider than the filter": large((17, 16), 3, (13, 14), padding=4),
    "1x1": large((40, 33), 1, (6, 35)),
    "1x1 stride 3": large((12, 9), 1, (5, 11), stride=3, extra=2),
    "3x3 dilation 3, two rows more": large((9, 17), 3, (8, 20), dilation=3, extra=2, padding=1),
    "groups": large((10, 11), 3, (8, 18), padding=1, stride=2, groups=3),
    "depthwise": large((1, 1), 3, (7, 40), padding=1, groups=9),
    "depthwise stride 2": large((1, 1), 4, (7, 40), stride=2, padding=1, groups=7),
    "depthwise dilation 3, two rows more": large((1, 1), 3, (7, 20), dilation=3, extra=2, groups=5),
    "a pixel to an image (fully connected)": large((30, 12), (7, 6), (1, 1)),
}
SERVED_BY_WINOGRAD = {"3x3", "3x3, padding wider than the filter"}
EVERY_LARGE = pytest.mark.parametrize("call", LARGE.values(), ids=LARGE)


def forward(call, x, weight, bias=None, **keywords):
    keywords |= {"output_padding": call.output_padding, **call.options}
    return sd.conv_transpose2d(x, weight, bias, **keywords)


def specified(call, x, weight, bias=None):
    keywords = {"output_padding": call.output_padding, **call.options}
    return reference.conv_transpose2d(x, weight, bias, **keywords)


# ------------------------------------------------------------------------ the specification


@given(call=transposed_convolutions())
def test_it_is_exact_on_integers(dtype, call):
    x, weight, bias, _ = call.arrays(dtype, integers)
    out = place_out(call.y_shape, dtype, call.out)
    with unchanged(x, weight, bias):
        y = forward(call, x, weight, bias, out=out)
    assert_same(y, specified(call, x, weight, bias))
    assert_delivered(y, out)


@pytest.mark.parametrize("name", [name for name in LARGE if name not in SERVED_BY_WINOGRAD])
def test_large_is_exact_on_integers(dtype, name):
    call = LARGE[name]
    x, weight, bias, _ = call.arrays(dtype, integers)
    assert_same(forward(call, x, weight, bias), specified(call, x, weight, bias))


def check_bound(call, dtype):
    x, weight, bias, _ = call.arrays(dtype, reals)
    wide = [None if a is None else a.astype(np.float64) for a in (x, weight, bias)]
    magnitude = specified(call, *(None if a is None else np.abs(a) for a in wide))
    y = forward(call, x, weight, bias)
    assert_sums_close(y, specified(call, *wide), magnitude, call.terms)


@given(call=transposed_convolutions())
def test_it_is_within_the_bound(dtype, call):
    check_bound(call, dtype)


@EVERY_LARGE
def test_large_is_within_the_bound(dtype, call):
    check_bound(call, dtype)


# ------------------------------------------------------------------------ laws


@given(call=transposed_convolutions())
def test_it_is_the_transpose_of_conv2d(dtype, call):
    """<conv2d(image), x> = <image, conv_transpose2d(x)>, exactly on integers."""
    assume(call.padding != "same" and all(e < s for e, s in extra_and_stride(call)))
    x, weight, _, image = call.arrays(dtype, integers)
    y = sd.conv2d(image, weight, **call.options)
    assert np.vdot(y, x) == np.vdot(image, forward(call, x, weight))


def extra_and_stride(call):
    """What each axis gains, and its stride: less than it, or `conv2d` has one output more."""
    for axis in call.axes:
        full = (axis.out - 1) * axis.stride + axis.span
        yield axis.before + axis.size + axis.after - full, axis.stride


@given(call=transposed_convolutions())
def test_it_is_the_gradient_of_conv2d(dtype, call):
    assume(call.padding != "same" and all(e < s for e, s in extra_and_stride(call)))
    x, weight, _, image = call.arrays(dtype, reals)
    grads = sd.conv2d_backward(x, image, weight, need=("x",), **call.options)
    assert_same_bits(forward(call, x, weight), grads.x)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel_size", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("dilation", [1, 2])
def test_same_multiplies_the_size_by_the_stride(dtype, stride, kernel_size, dilation):
    call = large((2, 3), kernel_size, (4, 5), stride=stride, padding="same", dilation=dilation)
    x, weight, _, image = call.arrays(dtype, integers)
    y = forward(call, x, weight)
    assert y.shape[2:] == (4 * stride, 5 * stride)
    assert_same(y, specified(call, x, weight))
    assert np.vdot(sd.conv2d(image, weight, **call.options), x) == np.vdot(image, y)


# ------------------------------------------------------------------------ same bits


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["4x4 stride 2 (DCGAN)", "3x3", "depthwise stride 2", "groups"])
def test_layouts_do_not_change_bits(dtype, layout, name):
    call = LARGE[name]
    arrays = [lay_out(array, layout) for array in call.arrays(dtype, reals)[:3]]
    with unchanged(*arrays):
        y = forward(call, *arrays)
    assert_same_bits(y, forward(call, *(array.astype(dtype, order="C") for array in arrays)))


@EVERY_LARGE
def test_threads_and_the_batch_do_not_change_bits(dtype, call, monkeypatch):
    x, weight, bias, _ = call.arrays(dtype, reals)
    monkeypatch.setattr(_threads, "WORK_PER_THREAD", 1)  # no call is too small for threads
    y = forward(call, x, weight, bias)
    for threads in (2, 3, 4):
        with sd.num_threads(threads):
            assert_same_bits(forward(call, x, weight, bias), y)
    for image, alone in zip(x, y, strict=True):
        assert_same_bits(forward(call, image, weight, bias), alone)


def test_an_empty_batch_has_an_empty_result(dtype):
    x, weight = np.empty((0, 4, 5, 6), dtype), np.ones((4, 3, 2, 2), dtype)
    y = sd.conv_transpose2d(x, weight, np.ones(6, dtype), stride=2, groups=2)
    assert_same(y, np.empty((0, 6, 10, 12), dtype))


def test_a_bias_alone_where_no_tap_falls(dtype):
    x, weight = np.ones((1, 2, 3), dtype), np.full((1, 1, 1, 1), 2, dtype)
    y = sd.conv_transpose2d(x, weight, np.array([5], dtype), stride=2, output_padding=1)
    assert_same(y[0], np.array([[7, 5] * 3, [5] * 6] * 2, dtype))


def test_steps_beyond_all_pixels(dtype):
    """A stride or dilation that no second tap follows may be as large as a size."""
    x, weight = np.full((1, 1, 1), 3, dtype), np.full((1, 1, 1, 1), 2, dtype)
    y = sd.conv_transpose2d(x, weight, stride=2**62, dilation=2**62)
    assert_same(y, np.full((1, 1, 1), 6, dtype))
    x = np.arange(1, 3, dtype=dtype).reshape(1, 1, 2)
    far = 2**40
    y = sd.conv_transpose2d(x, weight, stride=(1, far), padding=((0, 0), (far - 2, 0)))
    assert_same(y, np.array([[[0, 0, 4]]], dtype))
    wide = np.full((1, 1, 1, 2), 2, dtype)
    y = sd.conv_transpose2d(x[..., :1], wide, dilation=(1, far), padding=((0, 0), (far - 1, 0)))
    assert_same(y, np.array([[[0, 2]]], dtype))


def test_a_result_too_large_for_memory_names_its_size(dtype):
    x, weight = np.ones((1, 2, 2), dtype), np.ones((1, 1, 1, 1), dtype)
    with pytest.raises(MemoryError, match=r"conv_transpose2d.*shape"):
        sd.conv_transpose2d(x, weight, stride=2**30)

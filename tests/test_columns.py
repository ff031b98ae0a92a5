"""im2col and col2im against the specification, and how they belong together."""

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
from strategies import (
    LAYOUTS,
    PlaneCall,
    Windows,
    integers,
    lay_out,
    place_out,
    plane_calls,
    reals,
    windows,
)

import slidedot as sd
from slidedot import _threads, reference

pytestmark = pytest.mark.usefixtures("level")


def large(size, kernel_size, stride=1, padding=0, dilation=1):
    return PlaneCall(2, 5, Windows(size, kernel_size, stride, padding, dilation))


LARGE = {
    "3x3": large((21, 70), 3, padding=1),
    "3x3 stride 2": large((23, 67), 3, stride=2, padding=1),
    "2x2 stride 2": large((20, 66), 2, stride=2),
    "7x5 stride (3, 2)": large((31, 69), (7, 5), stride=(3, 2), padding=((3, 0), (1, 4))),
    "3x3 dilation (2, 3)": large((25, 70), 3, padding=2, dilation=(2, 3)),
    "1x1": large((11, 37), 1),
    "1x1 stride 3": large((40, 70), 1, stride=3),
    "wide padding": large((5, 33), 2, padding=20),
    "one column": large((70, 1), 3, padding=1),
    "one row": large((1, 70), 3, padding=1),
}
EVERY_LARGE = pytest.mark.parametrize("call", LARGE.values(), ids=LARGE)
#: How windows may lie on a row of any width: kernel, stride, padding, dilation.
ROW_WINDOWS = pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation"),
    [(3, 1, 1, 1), (2, 2, 1, 1), (3, 2, 1, 1), (5, 3, (4, 2), 1), (1, 4, 0, 1), (3, 1, 3, 3)],
)


def to_columns(call, x, **keywords):
    return sd.im2col(x, call.windows.kernel_size, **call.options, **keywords)


def to_images(call, columns, **keywords):
    windows = call.windows
    return sd.col2im(columns, windows.size, windows.kernel_size, **call.options, **keywords)


def reference_images(call, columns):
    windows = call.windows
    return reference.col2im(columns, windows.size, windows.kernel_size, **call.options)


def overlap(call):
    """The most columns that one pixel is part of."""
    return call.windows.kernel[0] * call.windows.kernel[1]


# ------------------------------------------------------------------------ the specification


@given(call=plane_calls(windows()))
def test_im2col_moves_pixels_unchanged(dtype, call):
    x = call.array(call.x_shape, dtype, reals)
    out = place_out(call.columns_shape, dtype, call.out)
    with unchanged(x):
        columns = to_columns(call, x, out=out)
    assert_same(columns, reference.im2col(x, call.windows.kernel_size, **call.options))
    assert_delivered(columns, out)


@given(call=plane_calls(windows()))
def test_col2im_is_exact_on_integers(dtype, call):
    columns = call.array(call.columns_shape, dtype, integers)
    out = place_out(call.x_shape, dtype, call.out)
    with unchanged(columns):
        images = to_images(call, columns, out=out)
    assert_same(images, reference_images(call, columns))
    assert_delivered(images, out)


def check_col2im_bound(call, dtype):
    columns = call.array(call.columns_shape, dtype, reals)
    expected = reference_images(call, columns.astype(np.float64))
    magnitude = reference_images(call, np.abs(columns).astype(np.float64))
    assert_sums_close(to_images(call, columns), expected, magnitude, overlap(call))


@given(call=plane_calls(windows()))
def test_col2im_is_within_the_bound(dtype, call):
    check_col2im_bound(call, dtype)


@EVERY_LARGE
def test_large(dtype, call):
    x = call.array(call.x_shape, dtype, reals)
    assert_same(to_columns(call, x), reference.im2col(x, call.windows.kernel_size, **call.options))
    columns = call.array(call.columns_shape, dtype, integers)
    assert_same(to_images(call, columns), reference_images(call, columns))
    check_col2im_bound(call, dtype)


@ROW_WINDOWS
def test_every_row_width(dtype, kernel, stride, padding, dilation):
    padding = padding if isinstance(padding, tuple) else (padding, padding)
    narrowest = max(dilation * (kernel - 1) + 1 - sum(padding), 1)
    for width in range(narrowest, 41):
        on_rows = Windows((2, width), (1, kernel), (1, stride), ((0, 0), padding), (1, dilation))
        call = PlaneCall(2, 2, on_rows)
        x = call.array(call.x_shape, dtype, reals)
        expected = reference.im2col(x, on_rows.kernel_size, **call.options)
        assert_same(to_columns(call, x), expected)
        columns = call.array(call.columns_shape, dtype, integers)
        assert_same(to_images(call, columns), reference_images(call, columns))


# ------------------------------------------------------------------------ laws


@given(call=plane_calls(windows()))
def test_col2im_is_adjoint_to_im2col(dtype, call):
    # <im2col x, c> = <x, col2im c>; sums of integers, hence exact
    x = call.array(call.x_shape, dtype, integers, 0).astype(np.float64)
    columns = call.array(call.columns_shape, dtype, integers, 1).astype(np.float64)
    assert np.vdot(to_columns(call, x), columns) == np.vdot(x, to_images(call, columns))


@given(call=plane_calls(windows()))
def test_convolution_is_a_matrix_product_of_columns(dtype, call):
    x = call.array(call.x_shape, dtype, integers)
    weight = integers(np.random.default_rng(call.seed), (3, call.channels, *call.windows.kernel))
    weight = weight.astype(dtype)
    y = sd.conv2d(x, weight, **call.options)
    product = weight.reshape(3, -1) @ to_columns(call, x)
    assert_same(y, product.reshape(y.shape))


# ------------------------------------------------------------------------ same bits


@pytest.mark.parametrize("layout", LAYOUTS)
@EVERY_LARGE
def test_layouts_do_not_change_bits(dtype, layout, call):
    x = lay_out(call.array(call.x_shape, dtype, reals), layout)
    columns = lay_out(call.array(call.columns_shape, dtype, reals), layout)
    with unchanged(x, columns):
        results = to_columns(call, x), to_images(call, columns)
    assert_same_bits(results[0], to_columns(call, x.astype(dtype, order="C")))
    assert_same_bits(results[1], to_images(call, columns.astype(dtype, order="C")))


@EVERY_LARGE
def test_threads_and_repetition_do_not_change_bits(dtype, call, monkeypatch):
    x = call.array(call.x_shape, dtype, reals)
    columns = call.array(call.columns_shape, dtype, reals)
    monkeypatch.setattr(_threads, "WORK_PER_THREAD", 1)  # no call is too small for threads
    results = []
    for threads in (1, 2, 3, 4, 4):
        with sd.num_threads(threads):
            results.append((to_columns(call, x), to_images(call, columns)))
    for result in results[1:]:
        assert_same_bits(result[0], results[0][0])
        assert_same_bits(result[1], results[0][1])


@EVERY_LARGE
def test_the_rest_of_the_batch_does_not_change_bits(dtype, call):
    x = call.array(call.x_shape, dtype, reals)
    columns = call.array(call.columns_shape, dtype, reals)
    whole = to_columns(call, x), to_images(call, columns)
    for n in range(len(x)):
        alone = slice(n, n + 1)
        assert_same_bits(to_columns(call, x[alone]), whole[0][alone])
        assert_same_bits(to_images(call, columns[alone]), whole[1][alone])
        assert_same_bits(to_columns(call, x[n]), whole[0][n])  # a single image, too
        assert_same_bits(to_images(call, columns[n]), whole[1][n])


# ------------------------------------------------------------------------ special values


def test_an_empty_batch_has_no_columns(dtype):
    x, columns = np.empty((0, 3, 5, 6), dtype), np.empty((0, 27, 12), dtype)
    assert_same(sd.im2col(x, 3), columns)
    assert_same(sd.col2im(columns, (5, 6), 3), x)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -0.0, 5e-324])
def test_special_values_are_moved_bit_for_bit(dtype, value):
    x = np.zeros((1, 2, 4, 21), dtype)
    x[0, 1, 2, 3:] = value
    assert_same_bits(sd.im2col(x, 3, padding=1), reference.im2col(x, 3, padding=1))


def test_a_non_finite_column_reaches_its_window(dtype):
    columns = np.ones((1, 18, 4 * 21), dtype)
    columns[0, 9 + 4, 2 * 21 + 19] = np.nan  # channel 1, the middle tap of window (2, 19)
    images = sd.col2im(columns, (4, 21), 3, padding=1)
    assert np.argwhere(np.isnan(images)).tolist() == [[0, 1, 2, 19]]

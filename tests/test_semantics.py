"""docs/semantics.md: its code runs, and its layouts are what the other libraries make."""

import numpy as np
import pytest
from pages import run

import slidedot as sd
from slidedot.geometry import windows


@pytest.fixture(scope="module")
def page():
    """Return the page's names, and what came out otherwise than the page says."""
    return run("semantics.md")


@pytest.fixture
def names(page):
    """Return the page's names."""
    return page[0]


def sliding(x, kh, kw):
    """Yield each output's place and its window of images (N, H, W, C)."""
    for i in range(x.shape[1] - kh + 1):
        for j in range(x.shape[2] - kw + 1):
            yield (i, j), x[:, i : i + kh, j : j + kw]


def test_it_prints_what_it_says(page):
    assert not page[1], page[1]


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel_size", [1, 2, 3, 4, 5])
def test_same_lower_is_same_in_a_mirror(names, kernel_size, stride):
    for size in range(1, 12):
        _, axis = windows("test", (1, size), (1, kernel_size), stride, "same", 1)
        before, after = names["same_lower"](size, kernel_size, stride)
        assert (before, after) == (axis.after, axis.before)
        assert sd.conv_output_size(size, kernel_size, stride, (before, after)) == axis.out


def test_columns_of_cs231n(names):
    """Its `im2col_indices`: rows and columns of the image by index arrays."""
    x, c, kh, kw = (names[name] for name in ("x", "C", "kh", "kw"))
    oh, ow = names["OH"], names["OW"]
    channel, tap_row, tap_col = (a.reshape(-1, 1) for a in np.indices((c, kh, kw)))
    row, col = (a.reshape(1, -1) for a in np.indices((oh, ow)))
    cols = x[:, channel, tap_row + row, tap_col + col]
    cols = cols.transpose(1, 2, 0).reshape(c * kh * kw, -1)
    np.testing.assert_array_equal(names["cs231n"], cols)


def test_columns_of_chainer_and_of_deep_learning_from_scratch(names):
    """Both fill the columns tap by tap."""
    x, oh, ow = names["x"], names["OH"], names["OW"]
    cols = np.empty((*x.shape[:2], names["kh"], names["kw"], oh, ow))
    for i, j in np.ndindex(cols.shape[2:4]):
        cols[:, :, i, j] = x[:, :, i : i + oh, j : j + ow]
    np.testing.assert_array_equal(names["chainer"], cols)
    rows = cols.transpose(0, 4, 5, 1, 2, 3).reshape(len(x) * oh * ow, -1)
    np.testing.assert_array_equal(names["scratch"], rows)


def test_convolution_of_tensorflow(names):
    x, weight, depthwise = (names[name] for name in ("x_nhwc", "weight_hwio", "depthwise"))
    for (i, j), window in sliding(x, *weight.shape[:2]):
        y = np.einsum("nhwc,hwck->nk", window, weight)
        np.testing.assert_allclose(names["y_nhwc"][:, i, j], y, rtol=1e-12, atol=1e-12)
        y = np.einsum("nhwc,hwcm->ncm", window, depthwise).reshape(len(x), -1)
        np.testing.assert_allclose(names["depthwise_nhwc"][:, i, j], y, rtol=1e-12, atol=1e-12)


def test_transposed_convolution_of_tensorflow(names):
    x, weight = names["x_nhwc"], names["transposed"]
    kh, kw = weight.shape[:2]
    y = np.zeros((len(x), names["H"] + kh - 1, names["W"] + kw - 1, names["K"]))
    for i, j in np.ndindex(names["H"], names["W"]):
        y[:, i : i + kh, j : j + kw] += np.einsum("nc,hwkc->nhwk", x[:, i, j], weight)
    np.testing.assert_allclose(names["transposed_y"], y, rtol=1e-12, atol=1e-12)


def test_patches_and_places_of_tensorflow(names):
    x, patches = names["x_nhwc"], names["patches"]
    for (i, j), window in sliding(x, names["kh"], names["kw"]):
        np.testing.assert_array_equal(patches[:, i, j], window.reshape(len(x), -1))
    for n, plane in enumerate(x):
        values = plane.ravel()[names["argmax_nhwc"][n]]
        np.testing.assert_array_equal(values, names["maxima"][n].transpose(1, 2, 0))


def test_dense_layer_of_keras(names):
    expected = names["x_nhwc"].reshape(names["N"], -1) @ names["kernel"]
    actual = names["x"].reshape(names["N"], -1) @ names["linear"].T
    np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-12)


def test_flipped_filters(names):
    """`numpy.convolve` flips, along one axis."""
    y = sum(
        np.convolve(names["x"][0, c, i], names["weight"][0, c, -1 - i], "valid")
        for c, i in np.ndindex(names["C"], names["kh"])
    )
    np.testing.assert_allclose(names["flipped"][0, 0, 0], y, rtol=1e-12, atol=1e-12)

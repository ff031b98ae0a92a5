"""Planes and batches whose bytes and elements 32 bits do not count.

Most of the memory is never touched: `numpy.zeros` gets it from the system page by page, and the
windows lie far apart. Where a result must be filled, the test is marked slow: ``pytest -m slow``
takes up to 12 GiB of memory and a few minutes.
"""

import numpy as np
import pytest
from checks import assert_same

import slidedot as sd

pytestmark = pytest.mark.usefixtures("level")

SIDE = 50_000  # 2.5e9 pixels: their numbers need 32 bits, their bytes 34
STEP = 24_998  # windows of 3x3 at the beginning, in the middle and at the end
STARTS = (0, STEP, 2 * STEP)
SLOW = pytest.mark.slow


@pytest.fixture(scope="module")
def plane():
    """A plane of zeros but for what the nine windows see, all different."""
    x = np.zeros((1, SIDE, SIDE), np.float32)
    values = np.random.default_rng(0).permutation(81).astype(np.float32).reshape(3, 3, 3, 3)
    for i, top in enumerate(STARTS):
        for j, left in enumerate(STARTS):
            x[0, top : top + 3, left : left + 3] = values[i, j]
    return x


@pytest.fixture(scope="module")
def seen(plane):
    """The nine windows side by side, a plane of 9x9 pixels."""
    rows = np.concatenate([plane[:, top : top + 3] for top in STARTS], axis=1)
    return np.concatenate([rows[:, :, left : left + 3] for left in STARTS], axis=2)


WEIGHT = np.arange(18, dtype=np.float32).reshape(2, 1, 3, 3) - 9


@pytest.mark.parametrize("algorithm", ["direct", "im2col"])
def test_convolution(plane, seen, algorithm):
    y = sd.conv2d(plane, WEIGHT, stride=STEP, algorithm=algorithm)
    assert_same(y, sd.conv2d(seen, WEIGHT, stride=3))
    grad_out = np.arange(18, dtype=np.float32).reshape(2, 3, 3)
    need = ("weight", "bias")
    grads = sd.conv2d_backward(grad_out, plane, WEIGHT, stride=STEP, need=need, algorithm=algorithm)
    expected = sd.conv2d_backward(grad_out, seen, WEIGHT, stride=3, need=need)
    assert_same(grads.weight, expected.weight)
    assert_same(grads.bias, expected.bias)


def test_depthwise(plane, seen):
    two = np.broadcast_to(plane, (2, SIDE, SIDE))  # the same memory twice
    y = sd.conv2d(two, WEIGHT, stride=STEP, groups=2)
    assert_same(y, sd.conv2d(np.concatenate([seen] * 2), WEIGHT, stride=3, groups=2))


def test_strides_of_many_bytes(plane, seen):
    """Nine pixels whose neighbours are 10 GB apart in one dimension, or backwards."""
    far = plane[:, ::STEP, ::STEP]
    assert far.strides[1] > 2**32
    assert_same(sd.conv2d(far, WEIGHT), sd.conv2d(far.copy(), WEIGHT))
    back = plane[:, ::-STEP, ::-STEP]
    assert_same(sd.conv2d(back, WEIGHT), sd.conv2d(back.copy(), WEIGHT))


def test_columns(plane, seen):
    assert_same(sd.im2col(plane, 3, stride=STEP), sd.im2col(seen, 3, stride=3))


def test_max_pool(plane, seen):
    y, argmax = sd.max_pool2d(plane, 3, stride=STEP, return_argmax=True)
    assert_same(y, sd.max_pool2d(seen, 3))
    assert argmax.dtype == np.int64
    assert argmax.max() > 2**31
    assert_same(plane.reshape(-1)[argmax], y)


def test_many_images():
    """2**32 pixels of the same image, all ones: their sum is exact."""
    x = np.broadcast_to(np.ones((1, 128, 128), np.float32), (2**18, 1, 128, 128))
    weight = np.ones((1, 1, 1, 1), np.float32)
    grads = sd.conv2d_backward(x, x, weight, need=("bias",))
    assert grads.bias.tolist() == [2.0**32]


def test_an_index_beyond_32_bits_is_checked_at_full_width():
    grad_out = np.ones((1, 1, 1), np.float32)
    for index in (2**32, 2**32 + 1, 2**63 - 1):
        with pytest.raises(IndexError, match=f"argmax={index}"):
            sd.max_pool2d_backward(grad_out, np.full((1, 1, 1), index), (4, 4))


# ------------------------------------------------------------------------------ filled


@SLOW
def test_every_pixel_of_a_large_plane():
    """Rows that have each their own value."""
    x = np.broadcast_to(np.arange(SIDE, dtype=np.float32)[:, None], (1, SIDE, SIDE))
    y = sd.conv2d(x, np.ones((1, 1, 1, 1), np.float32))
    assert all((y[0, i] == i).all() for i in range(SIDE))
    y = sd.max_pool2d(y, 2)
    assert all((y[0, i] == 2 * i + 1).all() for i in range(SIDE // 2))


@SLOW
@pytest.mark.parametrize("function", ["gradient", "transposed"])
def test_gradient_of_a_large_plane(function):
    """Of an even gradient: but for the borders, all pixels are alike."""

    def even(side):
        grad_out = np.broadcast_to(np.float32([1, 2])[:, None, None], (2, side - 2, side - 2))
        if function == "transposed":
            return sd.conv_transpose2d(grad_out, WEIGHT)
        x = np.broadcast_to(np.float32(0), (1, side, side))
        return sd.conv2d_backward(grad_out, x, WEIGHT, need=("x",)).x

    small, grad = even(5)[0], even(SIDE)[0]
    for i in range(SIDE):
        row = small[i if i < 2 else i - SIDE + 5 if i >= SIDE - 2 else 2]
        assert_same(grad[i, :2], row[:2])
        assert (grad[i, 2:-2] == row[2]).all()
        assert_same(grad[i, -2:], row[-2:])


@SLOW
def test_gradient_of_pooling_a_large_plane(plane, seen):
    _, argmax = sd.max_pool2d(plane, 3, stride=STEP, return_argmax=True)
    grad_out = np.arange(1, 10, dtype=np.float32).reshape(1, 3, 3)
    grad = sd.max_pool2d_backward(grad_out, argmax, SIDE)
    _, argmax = sd.max_pool2d(seen, 3, return_argmax=True)
    assert_filled(grad, sd.max_pool2d_backward(grad_out, argmax, 9))


@SLOW
def test_columns_to_a_large_plane(seen):
    cols = sd.im2col(seen, 3, stride=3)
    assert_filled(sd.col2im(cols, SIDE, 3, stride=STEP), seen)


def assert_filled(result, windows):
    """Assert that the large plane holds the nine windows where they belong, and zeros."""
    total = 0
    for i, top in enumerate(STARTS):
        for j, left in enumerate(STARTS):
            window = windows[:, 3 * i : 3 * i + 3, 3 * j : 3 * j + 3]
            assert_same(result[:, top : top + 3, left : left + 3], window)
            total += np.count_nonzero(window)
    assert sum(np.count_nonzero(row) for row in result[0]) == total

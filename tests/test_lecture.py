"""The lecture's figures, each by running code."""

import numpy as np
import pytest

import slidedot as sd
from slidedot.layers import Conv2d, Linear, MaxPool2d, Sequential


def integers(shape, seed=0):
    """Return small integers: their sums of products are exact."""
    return np.random.default_rng(seed).integers(-4, 5, shape).astype(np.float64)


def parameters(layer):
    """Return how many numbers a layer has learned."""
    return sum(array.size for array in layer.parameters().values())


# ---------------------------------------------------------------------------------- sizes


@pytest.mark.parametrize(("stride", "size"), [(1, 5), (2, 3)])
def test_3x3_filter_over_7x7_input(stride, size):
    assert sd.conv_output_size(7, 3, stride, exact=True) == size
    image, weight = integers((1, 7, 7)), integers((1, 1, 3, 3))
    assert sd.conv2d(image, weight, stride=stride).shape == (1, size, size)


def test_stride_3_does_not_tile_7x7():
    with pytest.raises(ValueError, match=r"windows of 3 pixels with stride 3 do not tile the .* 7"):
        sd.conv_output_size(7, 3, 3, exact=True)


def test_padding_keeps_the_size():
    """With stride 1, (F - 1) / 2 pixels of zeros around the image."""
    for kernel_size in (1, 3, 5, 7):
        padding = (kernel_size - 1) // 2
        assert sd.conv_output_size(7, kernel_size, 1, padding) == 7
        y = sd.conv2d(
            integers((1, 7, 7)), integers((1, 1, kernel_size, kernel_size)), padding=padding
        )
        assert y.shape == (1, 7, 7)


def test_without_padding_the_image_shrinks():
    image = integers((3, 32, 32))
    sizes = []
    for channels in (3, 6, 10):
        image = sd.conv2d(image, integers((6 if channels == 3 else 10, channels, 5, 5)))
        sizes.append(image.shape)
    assert sizes == [(6, 28, 28), (10, 24, 24), (10, 20, 20)]


def test_ten_5x5_filters_over_32x32x3():
    layer = Conv2d(3, 10, 5, stride=1, padding=2, rng=0)
    assert layer(np.zeros((3, 32, 32), np.float32)).shape == (10, 32, 32)
    assert sd.conv_output_size(32, 5, 1, 2) == 32
    assert parameters(layer) == sd.conv2d_parameters(3, 10, 5) == 760


# ---------------------------------------------------------------------------------- neurons


def test_an_output_is_a_dot_product():
    """A 5x5x3 filter at one place: a neuron with 75 inputs and a bias."""
    image, weight, bias = integers((3, 32, 32)), integers((6, 3, 5, 5), 1), integers(6, 2)
    y = sd.conv2d(image, weight, bias)
    assert y.shape == (6, 28, 28)
    for k, i, j in [(0, 0, 0), (5, 27, 27), (3, 10, 17)]:
        patch = image[:, i : i + 5, j : j + 5]
        assert patch.size == 75
        assert y[k, i, j] == np.dot(weight[k].ravel(), patch.ravel()) + bias[k]


def test_convolution_as_a_matrix_product():
    image, weight = integers((1, 3, 8, 9)), integers((6, 3, 5, 5), 1)
    columns = sd.im2col(image, 5)
    assert columns.shape == (1, 3 * 5 * 5, 4 * 5)
    product = weight.reshape(6, 75) @ columns
    np.testing.assert_array_equal(product.reshape(1, 6, 4, 5), sd.conv2d(image, weight))


def test_a_neuron_over_a_large_image():
    """Fully connected to 1024x1024 pixels of three channels: 3,145,728 weights each."""
    assert sd.linear_parameters(1024 * 1024 * 3, 1, bias=False) == 3_145_728
    neuron = Linear(1024 * 1024 * 3, 1, bias=False, rng=0)
    assert neuron.weight.size == 3_145_728
    assert neuron(np.zeros(3 * 1024 * 1024, np.float32)).shape == (1,)
    # a filter has 75 for as many outputs as there are places
    shared = Conv2d(3, 1, 5, padding=2, bias=False, rng=0)
    assert shared.weight.size == 75
    assert shared(np.zeros((3, 1024, 1024), np.float32)).shape == (1, 1024, 1024)


def test_sparse_connections():
    """A neuron of a convolution layer sees its window; a fully connected one sees everything."""
    convolution = Conv2d(1, 1, 3, bias=False, dtype=np.float64)
    convolution.weight[...] = 1
    y = convolution.forward(np.zeros((1, 7, 7)), training=True)
    one = np.zeros_like(y)
    one[0, 2, 3] = 1
    seen = np.zeros((1, 7, 7))
    seen[0, 2:5, 3:6] = 1
    np.testing.assert_array_equal(convolution.backward(one), seen)
    full = Linear(49, 25, bias=False, dtype=np.float64)
    full.weight[...] = 1
    full.forward(np.zeros(49), training=True)
    np.testing.assert_array_equal(full.backward(one.ravel()), np.ones(49))


def test_a_fully_connected_layer_is_a_convolution_of_the_whole_image():
    full = Linear(3 * 7 * 7, 10, dtype=np.float64)
    full.weight[...], full.bias[...] = integers((10, 147), 1), integers(10, 2)
    convolution = Conv2d(3, 10, 7, dtype=np.float64)
    convolution.load_state_dict({"weight": full.weight.reshape(10, 3, 7, 7), "bias": full.bias})
    image = integers((3, 7, 7))
    np.testing.assert_array_equal(convolution(image).ravel(), full(image.ravel()))


def test_a_convolution_is_a_fully_connected_layer_with_shared_weights():
    """The same nine weights in each row of the matrix, and zeros where nothing is connected."""
    weight = integers((1, 1, 3, 3), 1) + 5  # none is 0
    pixels = np.eye(49).reshape(49, 1, 7, 7)
    matrix = sd.conv2d(pixels, weight).reshape(49, 25).T
    assert matrix.shape == (25, 49)
    for row in matrix:
        np.testing.assert_array_equal(row[row != 0], weight.ravel())
    image = integers((1, 7, 7))
    np.testing.assert_array_equal(matrix @ image.ravel(), sd.conv2d(image, weight).ravel())


# ---------------------------------------------------------------------------------- depth


def test_three_3x3_layers_see_7_pixels():
    """As one 7x7 layer, with 27 C**2 weights against 49 C**2."""
    channels = 4
    assert [field.size for field in sd.receptive_field([3, 3, 3])] == [3, 5, 7]
    stack = Sequential(*(Conv2d(channels, channels, 3, bias=False) for _ in range(3)))
    single = Sequential(Conv2d(channels, channels, 7, bias=False))
    assert [field.size for field in sd.receptive_field(stack.layers)] == [3, 5, 7]
    for model, size in [(stack, 27), (single, 49)]:
        assert parameters(model) == size * channels**2
        for weight in model.parameters().values():
            weight[...] = 1
        y = model.forward(np.zeros((channels, 11, 11), np.float32), training=True)
        assert y.shape == (channels, 5, 5)
        grad_out = np.zeros_like(y)
        grad_out[0, 1, 2] = 1
        seen = model.backward(grad_out)[0] != 0
        expected = np.zeros((11, 11), bool)
        expected[1:8, 2:9] = True
        np.testing.assert_array_equal(seen, expected)
    assert 3 * sd.conv2d_parameters(channels, channels, 3, bias=False) == 27 * channels**2
    assert sd.conv2d_parameters(channels, channels, 7, bias=False) == 49 * channels**2


# ---------------------------------------------------------------------------------- backward


def test_the_gradient_of_a_convolution_is_a_convolution():
    """For the input with the filter turned by 180 degrees, for the filter with the input."""
    image, weight = integers((1, 1, 7, 7)), integers((1, 1, 3, 3), 1)
    grad_out = integers((1, 1, 5, 5), 2)
    grads = sd.conv2d_backward(grad_out, image, weight)
    turned = weight[:, :, ::-1, ::-1]
    np.testing.assert_array_equal(grads.x, sd.conv2d(grad_out, turned, padding=2))
    np.testing.assert_array_equal(grads.weight, sd.conv2d(image, grad_out))
    np.testing.assert_array_equal(grads.bias, [grad_out.sum()])


# ---------------------------------------------------------------------------------- pooling


def test_max_pooling():
    image = np.float32([[[1, 1, 2, 4], [5, 6, 7, 8], [3, 2, 1, 0], [1, 2, 3, 4]]])
    pool = MaxPool2d(2)
    np.testing.assert_array_equal(pool.forward(image, training=True), [[[6, 8], [3, 4]]])
    gradient = pool.backward(np.float32([[[1, 2], [3, 4]]]))
    expected = [[[0, 0, 0, 0], [0, 1, 0, 2], [3, 0, 0, 0], [0, 0, 0, 4]]]
    np.testing.assert_array_equal(gradient, expected)
    assert parameters(pool) == 0


def test_pooling_halves_each_channel_by_itself():
    image = integers((64, 224, 224))
    y = MaxPool2d(2)(image)
    assert y.shape == (64, 112, 112)
    blocks = image.reshape(64, 112, 2, 112, 2)
    np.testing.assert_array_equal(y, blocks.max(axis=(2, 4)))

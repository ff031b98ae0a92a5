"""Projections against gradients, against a slow deconvnet and torch's; top activations against a
sort of everything; the model is left alone.

Small integers in float64 make every sum exact, so that most comparisons allow no error at all.
"""

import tracemalloc

import numpy as np
import pytest
from checks import assert_same, assert_same_bits, unchanged
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from strategies import DILATIONS, LAYOUTS, SEEDS, integers, lay_out, reals

from slidedot import receptive_field, visualize
from slidedot.layers import (
    Conv2d,
    ConvTranspose2d,
    Flatten,
    Linear,
    MaxPool2d,
    ReLU,
    Sequential,
)
from slidedot.visualize import project, top_activations

# ---------------------------------------------------------------------------------- networks


@st.composite
def network_layers(draw, rectifiers):
    """Draw the layers of a network for images (2, 16, 19), with overlapping pooling windows or
    without, and the shape of its output (channels, h, w)."""
    layers, channels = [], 2
    for _ in range(draw(st.integers(1, 4))):
        window = {
            "kernel_size": draw(st.tuples(*[st.integers(1, 3)] * 2)),
            "stride": draw(st.sampled_from([1, 2, (1, 2), (3, 1)])),
            "dilation": draw(DILATIONS),
            "padding": draw(st.sampled_from([0, 1, (1, 0), ((0, 1), (2, 0))])),
        }
        kind = draw(st.sampled_from(["conv", "conv", "pool", "relu"]))
        if kind == "relu":
            if rectifiers:
                layers.append(ReLU())
        elif kind == "pool":
            layers.append(MaxPool2d(**window, ceil_mode=draw(st.booleans())))
        else:
            groups = draw(st.sampled_from([g for g in (1, 2, 3) if channels % g == 0]))
            out_channels = groups * draw(st.integers(1, 3))
            window["activation"] = draw(st.sampled_from([None, "relu"])) if rectifiers else None
            layers.append(Conv2d(channels, out_channels, **window, groups=groups, dtype=np.float64))
            channels = out_channels
    assume(layers)
    try:
        y = Sequential(*layers)(np.zeros((0, 2, 16, 19)))
    except ValueError:  # a kernel that does not fit, a window without a pixel
        assume(False)
    return layers, y.shape[1:]


@st.composite
def activations(draw, rectifiers):
    """Draw a network, the channel and position of an activation, and a seed for the rest."""
    layers, (channels, h, w) = draw(network_layers(rectifiers))
    channel = draw(st.integers(0, channels - 1))
    position = draw(st.integers(0, h - 1)), draw(st.integers(0, w - 1))
    return Sequential(*layers), channel, position, draw(SEEDS)


def fill(model, numbers, seed):
    """Fill the parameters with numbers and return images of them (2, 2, 16, 19)."""
    rng = np.random.default_rng(seed)
    for array in model.parameters().values():
        array[...] = numbers(rng, array.shape)
    return numbers(rng, (2, 2, 16, 19))


def mixed_network(dtype=np.float64, rng=0):
    """Return a network with layers in layers, for images (1, 10, 11)."""
    return Sequential(
        Conv2d(1, 4, 3, padding=1, activation="relu", dtype=dtype, rng=rng),
        Sequential(Conv2d(4, 6, 3, groups=2, dtype=dtype, rng=rng), ReLU(), MaxPool2d(3, stride=2)),
        Flatten(),
        Linear(72, 8, dtype=dtype, rng=rng),
        ReLU(),
        Linear(8, 3, dtype=dtype, rng=rng),
    )


def one_at(shape, channel, position):
    """Return zeros (N, C, H, W) with a one at the place in each image."""
    one = np.zeros(shape)
    one[(slice(None), channel, *position)] = 1
    return one


# ---------------------------------------------------------------------------------- gradients


@given(activations(rectifiers=False))
def test_without_rectifier_it_is_the_gradient(drawn):
    """To the bit, also for numbers whose sums are rounded; and in the middle of a training step."""
    model, channel, position, seed = drawn
    x = fill(model, reals, seed)
    y = model.forward(x, training=True)
    projection = project(model, x, len(model.layers) - 1, channel, position)
    assert_same_bits(projection, model.backward(one_at(y.shape, channel, position)))


@pytest.mark.parametrize(
    "layers",
    [
        lambda: [Conv2d(16, 24, 3, padding=1), MaxPool2d(2), Conv2d(24, 16, 3)],  # by Winograd
        lambda: [Conv2d(16, 16, 3, padding="same", stride=2), Conv2d(16, 4, 3, algorithm="im2col")],
        lambda: [Conv2d(16, 4, 3), ConvTranspose2d(4, 2, 3, stride=2, output_padding=1)],
        lambda: [MaxPool2d(3, stride=1), Flatten(), Linear(16 * 14 * 14, 3), Linear(3, 2)],
    ],
)
def test_it_is_the_gradient_through_every_linear_layer(layers):
    model = Sequential(*layers())
    x = np.random.default_rng(0).standard_normal((3, 16, 16, 16), np.float32)
    y = model.forward(x, training=True)
    channel, position = 1, (4, 3) if y.ndim == 4 else (0, 0)
    one = np.zeros_like(y)
    one[(slice(None), channel, *position)[: y.ndim]] = 1
    assert_same_bits(
        project(model, x, len(model.layers) - 1, channel, position), model.backward(one)
    )


def test_overlapping_windows_add_up_where_they_found_one_maximum():
    """The gradient of 2 * first + 3 * second window; what keeps the last one would give 3."""
    model = Sequential(MaxPool2d((1, 2), stride=1), Conv2d(1, 1, (1, 2), dtype=np.float64))
    model.layers[1].weight[...] = [2, 3]
    x = np.array([[[1.0, 7.0, 4.0]]])
    np.testing.assert_array_equal(project(model, x, 1, 0), [[[0, 5, 0]]])


# ------------------------------------------------------------------------- receptive fields


def seen(field, position, size):
    """Return the rows and columns of an image that lie in the field of the output there."""
    pairs = [term if isinstance(term, tuple) else (term, term) for term in field]
    slices = []
    for extent, jump, start, place, pixels in zip(*pairs, position, size, strict=True):
        first = start + place * jump - (extent - 1) / 2
        assert first == int(first)
        slices.append(slice(max(int(first), 0), min(max(int(first) + extent, 0), pixels)))
    return tuple(slices)


@given(activations(rectifiers=True))
def test_it_lies_in_the_receptive_field(drawn):
    model, channel, position, seed = drawn
    x = fill(model, integers, seed)
    projection = project(model, x, len(model.layers) - 1, channel, position)
    inside = (..., *seen(receptive_field(model.layers)[-1], position, x.shape[2:]))
    outside = projection.copy()
    outside[inside] = 0
    assert not outside.any()


@given(network_layers(rectifiers=True))
@settings(max_examples=80)
def test_it_reaches_the_ends_of_the_receptive_field(drawn):
    """Where weights are all one, and neither padding nor pooling takes something away."""
    layers = [layer for layer in drawn[0] if not isinstance(layer, MaxPool2d)]
    assume(layers)
    for layer in layers:
        if isinstance(layer, Conv2d):
            layer.padding = 0
            layer.weight[...] = 1
    size = 40, 41
    projection = project(Sequential(*layers), np.ones((2, *size)), len(layers) - 1, 0, (0, 0))
    rows, columns = np.nonzero(projection.any(axis=0))
    ends = slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1)
    assert ends == seen(receptive_field(layers)[-1], (0, 0), size)


# ------------------------------------------------------------------------- slow deconvnet


def edges(layer):
    """Return a layer's padding as (top, bottom), (left, right)."""
    both = layer.padding if isinstance(layer.padding, tuple) else (layer.padding,) * 2
    return [pixels if isinstance(pixels, tuple) else (pixels, pixels) for pixels in both]


def slow_step_back(layer, x, signal):
    """Carry a signal (K, OH, OW) back through one layer, value by value and tap by tap."""
    if isinstance(layer, ReLU) or getattr(layer, "activation", None):
        signal = np.where(signal > 0, signal, 0)
    if isinstance(layer, ReLU):
        return signal
    h, w = x.shape[1:]
    (top, _), (left, _) = edges(layer)
    back = np.zeros(x.shape)
    for k, i, j in np.argwhere(signal):
        pixels = {}  # of the window, by tap
        for a, b in np.ndindex(*layer.kernel_size):
            row = i * layer.stride[0] + a * layer.dilation[0] - top
            column = j * layer.stride[1] + b * layer.dilation[1] - left
            if 0 <= row < h and 0 <= column < w:
                pixels[a, b] = row, column
        if isinstance(layer, MaxPool2d):
            values = [x[k][pixel] for pixel in pixels.values()]
            largest = list(pixels.values())[values.index(max(values))]
            back[k][largest] += signal[k, i, j]
        else:
            inputs = layer.in_channels // layer.groups
            first = k // (layer.out_channels // layer.groups) * inputs
            for (a, b), pixel in pixels.items():
                filters = layer.weight[k, :, a, b]
                back[(slice(first, first + inputs), *pixel)] += signal[k, i, j] * filters
    return back


@given(activations(rectifiers=True))
@settings(max_examples=80)
def test_it_is_what_a_slow_deconvnet_gives(drawn):
    """Which starts from the activation itself: a positive one only scales the projection."""
    model, channel, position, seed = drawn
    image = fill(model, integers, seed)[0]
    inputs = [image]
    for layer in model.layers:
        inputs.append(layer(inputs[-1]))
    value = inputs[-1][(channel, *position)]
    assume(value > 0)
    back = np.zeros(inputs[-1].shape)
    back[(channel, *position)] = value
    for layer, x in zip(reversed(model.layers), reversed(inputs[:-1]), strict=True):
        back = slow_step_back(layer, x, back)
    projection = project(model, image, len(model.layers) - 1, channel, position)
    np.testing.assert_array_equal(value * projection, back)


def test_a_rectifier_rectifies_what_comes_back_whatever_it_let_through():
    """The gradient through both rectifiers is zero; one of the two signals that come back is not
    positive."""
    model = Sequential(Conv2d(1, 2, 1, dtype=np.float64), ReLU(), Conv2d(2, 1, 1, dtype=np.float64))
    model.layers[0].weight[...] = np.reshape([-2, -3], (2, 1, 1, 1))
    model.layers[2].weight[...] = np.reshape([5, -7], (1, 2, 1, 1))
    x = np.ones((1, 1, 1))
    model.forward(x, training=True)
    assert not model.backward(np.ones((1, 1, 1))).any()
    np.testing.assert_array_equal(project(model, x, 2, 0), [[[-10]]])


@given(activations(rectifiers=True))
@settings(max_examples=80)
def test_it_is_torchs_gradient_with_the_deconvnet_rule(drawn):
    torch = pytest.importorskip("torch")
    model, channel, position, seed = drawn
    x = fill(model, integers, seed)
    parts = []
    for layer in model.layers:
        if not isinstance(layer, ReLU):
            (top, bottom), (left, right) = edges(layer)
            window = {"stride": layer.stride, "dilation": layer.dilation}
        if isinstance(layer, MaxPool2d):
            # torch pads with less freedom
            assume(not layer.ceil_mode and (top, left, bottom, right) == (0, 0, 0, 0))
            parts.append(torch.nn.MaxPool2d(layer.kernel_size, **window))
        elif isinstance(layer, Conv2d):
            parts.append(torch.nn.ZeroPad2d((left, right, top, bottom)))
            parts.append(
                torch.nn.Conv2d(
                    layer.in_channels,
                    layer.out_channels,
                    layer.kernel_size,
                    **window,
                    groups=layer.groups,
                    dtype=torch.float64,
                )
            )
            state = {name: torch.from_numpy(array) for name, array in layer.state_dict().items()}
            parts[-1].load_state_dict(state)
        if isinstance(layer, ReLU) or getattr(layer, "activation", None):
            parts.append(deconvnet_rectifier(torch))
    tensor = torch.tensor(x, requires_grad=True)
    y = torch.nn.Sequential(*parts)(tensor)
    y.backward(torch.from_numpy(one_at(y.shape, channel, position)))
    np.testing.assert_array_equal(
        project(model, x, len(model.layers) - 1, channel, position), tensor.grad.numpy()
    )


def deconvnet_rectifier(torch):
    """Return torch's ReLU, whose gradient is replaced by the deconvnet's rule."""
    rectifier = torch.nn.ReLU()
    rectifier.register_full_backward_hook(lambda _, __, grad_out: (torch.relu(grad_out[0]),))
    return rectifier


# ---------------------------------------------------------------------------------- arguments


def test_each_image_of_a_batch_is_projected_by_itself():
    model, rng = mixed_network(), np.random.default_rng(1)
    x = rng.standard_normal((5, 1, 10, 11))
    positions = rng.integers(0, 3, (5, 2))
    for layer in (0, "1.0", "1.1", "1.2", 1):
        for position in (None, (2, 1), positions):
            together = project(model, x, layer, 3, position)
            for n in range(5):
                at = positions[n] if position is positions else position
                assert_same_bits(together[n], project(model, x[n], layer, 3, at))


def test_no_images_have_no_projections():
    assert project(mixed_network(), np.zeros((0, 1, 10, 11)), 1, 3).shape == (0, 1, 10, 11)


def test_a_layer_of_layers_is_its_last():
    model = mixed_network()
    x = np.random.default_rng(2).standard_normal((2, 1, 10, 11))
    for same in ("1", "1.2", np.int64(1)):
        assert_same_bits(project(model, x, same, 5), project(model, x, 1, 5))
        for a, b in zip(
            top_activations(model, x, same, 1), top_activations(model, x, 1, 1), strict=True
        ):
            assert_same_bits(a, b)


@pytest.mark.parametrize("kind", [tuple, list, np.array, np.uint64, np.int8])
def test_a_position_is_any_two_integers(kind):
    model, x = mixed_network(), np.random.default_rng(3).standard_normal((1, 10, 11))
    expected = project(model, x, "1.1", np.uint8(2), (4, 6))
    assert_same_bits(project(model, x, "1.1", 2, kind([4, 6])), expected)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(dtype, layout):
    model = mixed_network(dtype)
    x = lay_out(np.random.default_rng(4).standard_normal((3, 1, 10, 11)).astype(dtype), layout)
    plain = x.astype(dtype, order="C")
    with unchanged(x):
        assert_same_bits(project(model, x, 1, 2), project(model, plain, 1, 2))
        for a, b in zip(
            top_activations(model, x, 1, 2), top_activations(model, plain, 1, 2), strict=True
        ):
            assert_same_bits(a, b)


def test_without_a_position_it_is_the_strongest_ones():
    """The first of equal ones, and a NaN before every number."""
    model = Sequential(Conv2d(1, 1, 1, dtype=np.float64))
    model.layers[0].weight[...] = 1
    x = np.array([[[[3, 5], [5, 1]]], [[[3, 5], [np.nan, np.nan]]], [[[-2, -1], [-1, -1]]]])
    expected = np.zeros_like(x)
    expected[(0, 1, 2), 0, (0, 1, 0), (1, 0, 1)] = 1
    np.testing.assert_array_equal(project(model, x, 0, 0), expected)


# ---------------------------------------------------------------------------------- strongest


def ranked(y, k):
    """Return the k strongest of y (N, channels, OH, OW) by sorting Python's numbers."""
    found = []
    for channel in np.swapaxes(y, 0, 1):
        images = []
        for n, plane in enumerate(channel):
            ranks = [
                (0 if np.isnan(value) else 1, -value if value == value else 0, n, place)
                for place, value in np.ndenumerate(plane)
            ]
            images.append(min(ranks))
        found.append(sorted(images)[:k])
    numbers = np.array([[n for _, _, n, _ in best] for best in found])
    positions = np.array([[place for *_, place in best] for best in found])
    values = np.array([[y[(n, c, *at)] for _, _, n, at in best] for c, best in enumerate(found)])
    return values, numbers, positions


@pytest.mark.parametrize("batch", [1, 3, 100])
@given(seed=SEEDS, k=st.integers(1, 7), nans=st.booleans())
@settings(max_examples=25)
def test_top_activations_are_the_first_of_all_sorted(batch, seed, k, nans):
    """Full of ties, within images and between them, whatever the batches."""
    rng = np.random.default_rng(seed)
    model = Sequential(Conv2d(2, 3, 2, dtype=np.float64), ReLU())
    for array in model.parameters().values():
        array[...] = rng.integers(-1, 2, array.shape)
    images = rng.integers(0, 3, (7, 2, 4, 5)).astype(np.float64)
    if nans:
        images[rng.integers(0, 7, 2), 0, rng.integers(0, 4, 2), 2] = np.nan
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(visualize, "BATCH_BYTES", batch * 2 * 4 * 5 * 8)
        top = top_activations(model, images, 1, k)
    for actual, expected in zip(top, ranked(model(images), k), strict=True):
        assert_same(actual, expected)


def test_top_activations_of_features():
    """One place for each."""
    model, images = mixed_network(), np.random.default_rng(5).standard_normal((6, 1, 10, 11))
    top = top_activations(model, images, 5, k=4)
    order = np.argsort(-model(images).T, axis=1)[:, :4]
    np.testing.assert_array_equal(top.images, order)
    np.testing.assert_array_equal(top.values, np.take_along_axis(model(images).T, order, 1))
    np.testing.assert_array_equal(top.positions, np.zeros((3, 4, 2), int))
    for at in (top.positions[1], None):
        projections = project(model, images[top.images[1]], 5, 1, at)
        assert projections.shape == (4, 1, 10, 11)
        assert projections.any(axis=(1, 2, 3)).all()


def test_what_top_activations_finds_can_be_projected(dtype):
    """A place per image is also the one that `project` takes by itself."""
    model = mixed_network(dtype)
    images = np.random.default_rng(6).standard_normal((20, 1, 10, 11)).astype(dtype)
    top = top_activations(model, images, 1)
    assert top.values.dtype == dtype
    assert top.values.shape == top.images.shape == (6, 9)
    for channel in range(6):
        chosen = images[top.images[channel]]
        assert_same_bits(
            project(model, chosen, 1, channel, top.positions[channel]),
            project(model, chosen, 1, channel),
        )


def test_images_may_lie_in_a_file(tmp_path):
    model, images = mixed_network(), np.random.default_rng(7).standard_normal((6, 1, 10, 11))
    np.save(tmp_path / "images.npy", images)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    for a, b in zip(
        top_activations(model, mapped, 1, 3), top_activations(model, images, 1, 3), strict=True
    ):
        assert_same_bits(a, b)


def test_memory_does_not_grow_with_the_number_of_images(monkeypatch):
    monkeypatch.setattr(visualize, "BATCH_BYTES", 2**20)
    model = Sequential(Conv2d(1, 4, 3, padding=1), ReLU())
    peaks = []
    for number in (100, 100, 400):  # once for what is kept after the first call
        images = np.broadcast_to(np.float32(1), (number, 1, 64, 64))
        tracemalloc.start()
        top_activations(model, images, 1)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] > 2**20
    assert peaks[2] - peaks[1] < 2**16


# ---------------------------------------------------------------------------------- state


def state(model):
    """Return what the layers hold: each attribute's identity, and the parameters' bytes."""
    held = {
        place: {name: id(value) for name, value in vars(leaf).items()}
        for place, leaf in model._leaves()
    }
    return held, {name: array.tobytes() for name, array in model.parameters().items()}


def test_the_model_is_left_alone():
    """Fresh, with plans, and between the two halves of a training step."""
    model, twin = mixed_network(), mixed_network()
    x = np.random.default_rng(8).standard_normal((12, 1, 10, 11))
    grad_out = np.ones((12, 3))
    for prepare in (lambda each: None, lambda each: each(x), lambda each: each.forward(x, True)):
        for each in (model, twin):
            prepare(each)
        before = state(model)
        for layer in (0, 1, 5):
            project(model, x[0], layer, 2)
            top_activations(model, x, layer)
        assert state(model) == before
    assert_same_bits(model.backward(grad_out), twin.backward(grad_out))
    for name, grad in twin.grads.items():
        assert_same_bits(model.grads[name], grad)


def test_nothing_is_written_to_parameters_and_images():
    model = mixed_network()
    x = np.random.default_rng(9).standard_normal((12, 1, 10, 11))
    for array in (x, *model.parameters().values()):
        array.flags.writeable = False
    with unchanged(x, *model.parameters().values()):
        project(model, x, 5, 0)
        top_activations(model, x, 5)


# ---------------------------------------------------------------------------------- refusals


class Halve:
    """A layer of another library."""

    grads = {}  # noqa: RUF012

    def forward(self, x, training=False):
        return x / 2

    def backward(self, grad_out, *, need_input_grad=True):
        return grad_out / 2

    def parameters(self):
        return {}


def test_a_foreign_layer_is_ranked_and_not_projected():
    convolution = Conv2d(1, 1, 1, dtype=np.float64)
    convolution.weight[...] = 1
    model = Sequential(convolution, Halve(), ReLU())
    x = np.arange(8.0).reshape(2, 1, 2, 2)
    np.testing.assert_array_equal(top_activations(model, x, 2, 2).values, [[3.5, 1.5]])
    assert project(model, x, 0, 0).any()
    with pytest.raises(ValueError, match=r"^project: layer 1 .* has no known transpose, got <.*"):
        project(model, x, 2, 0)


GOOD = {
    "project": {"x": np.ones((2, 1, 10, 11)), "layer": "1.1", "channel": 5, "position": (7, 8)},
    "top_activations": {"images": np.ones((9, 1, 10, 11)), "layer": 5, "k": 9},
}


def call(function, **arguments):
    model = arguments.pop("model", mixed_network())
    return getattr(visualize, function)(model, **arguments)


@pytest.mark.parametrize("function", GOOD)
def test_what_the_refusals_change_is_accepted(function):
    call(function, **GOOD[function])


@pytest.mark.parametrize("function", GOOD)
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"model": Conv2d(1, 1, 3)},
            TypeError,
            r"model must be a Sequential, got Conv2d\(1, 1, 3\)",
        ),
        ({"model": None}, TypeError, "model must be a Sequential, got None"),
        ({"layer": 6}, IndexError, r"layer must be one of 0, 1\.0, 1\.1, .* 5, got layer=6"),
        ({"layer": -1}, IndexError, "got layer=-1"),
        ({"layer": 2**70}, ValueError, "layer is too large"),
        ({"layer": "1.3"}, IndexError, r"got layer='1\.3'"),
        ({"layer": "1."}, IndexError, r"got layer='1\.'"),
        ({"layer": ""}, IndexError, "got layer=''"),
        ({"layer": "01"}, IndexError, "got layer='01'"),
        ({"layer": 1.0}, TypeError, r"layer must be an int, got 1\.0"),
        ({"layer": True}, TypeError, "layer must be an int, got True"),
        ({"layer": (1, 1)}, TypeError, r"layer must be an int, got \(1, 1\)"),
    ],
)
def test_models_and_layers_that_are_refused(function, change, error, message):
    with pytest.raises(error, match=f"^{function}: .*{message}"):
        call(function, **GOOD[function] | change)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": np.ones((10, 11))}, ValueError, r"x must be \(N, C, H, W\) or \(C, H, W\), got"),
        ({"x": np.ones((1, 0, 11))}, ValueError, "x needs at least one channel, row and column"),
        ({"x": np.ones((1, 10, 11), int)}, TypeError, "x must be float32 or float64, got int64"),
        ({"x": np.ma.ones((1, 10, 11))}, TypeError, r"x is a masked array; call \.filled\(\)"),
        ({"channel": 6}, IndexError, r"channel must be in \[0, 6\), got channel=6"),
        ({"channel": -1}, IndexError, r"channel must be in \[0, 6\), got channel=-1"),
        ({"channel": 1.0}, TypeError, r"channel must be an int, got 1\.0"),
        ({"channel": None}, TypeError, "channel must be an int, got None"),
        ({"position": (8, 8)}, IndexError, r"position .* 8 x 9, got position=\[8, 8\]"),
        ({"position": (7, 9)}, IndexError, r"position .* 8 x 9, got position=\[7, 9\]"),
        ({"position": (-1, 0)}, IndexError, r"got position=\[-1, 0\]"),
        ({"position": np.uint64([0, 2**64 - 1])}, IndexError, r"\[0, 18446744073709551615\]"),
        ({"position": [(0, 0), (0, 9)]}, IndexError, r"got position=\[\[0, 0\], \[0, 9\]\]"),
        ({"position": [(0, 0)]}, ValueError, r"\(h, w\) or \(2, 2\), got shape \(1, 2\)"),
        ({"position": 3}, ValueError, r"position must be \(h, w\) or \(2, 2\), got shape \(\)"),
        ({"position": (1, 2, 3)}, ValueError, r"got shape \(3,\)"),
        (
            {"x": np.ones((1, 10, 11)), "position": [(0, 0)]},
            ValueError,
            r"position must be \(h, w\), got shape \(1, 2\)",
        ),
        ({"position": (1.0, 2.0)}, TypeError, "position must be of an integer dtype, got float64"),
        ({"position": (True, False)}, TypeError, "position must be of an integer dtype, got bool"),
        ({"position": "ab"}, TypeError, "position must be of an integer dtype"),
        ({"position": ()}, TypeError, "position must be of an integer dtype"),
    ],
)
def test_project_refuses(change, error, message):
    with pytest.raises(error, match=f"^project: .*{message}"):
        call("project", **GOOD["project"] | change)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"images": np.ones((1, 10, 11))}, ValueError, r"images must be \(N, C, H, W\), got shape"),
        ({"images": np.ones((9, 1, 10, 0))}, ValueError, "images needs at least one channel"),
        ({"images": np.ones((9, 1, 10, 11), bool)}, TypeError, "images must be float32 or float64"),
        ({"images": np.ma.ones((9, 1, 10, 11))}, TypeError, "images is a masked array"),
        ({"images": np.ones((8, 1, 10, 11))}, ValueError, "number of images, 8, got k=9"),
        ({"images": np.ones((0, 1, 10, 11))}, ValueError, "number of images, 0, got k=9"),
        ({"k": 10}, ValueError, "k must be at most the number of images, 9, got k=10"),
        ({"k": 0}, ValueError, "k must be >= 1, got k=0"),
        ({"k": 1.0}, TypeError, r"k must be an int, got 1\.0"),
        ({"k": None}, TypeError, "k must be an int, got None"),
    ],
)
def test_top_activations_refuses(change, error, message):
    with pytest.raises(error, match=f"^top_activations: .*{message}"):
        call("top_activations", **GOOD["top_activations"] | change)


@pytest.mark.parametrize("function", GOOD)
def test_the_layers_refuse_images_that_do_not_fit(function):
    name = "x" if function == "project" else "images"
    for x, error in (
        (np.ones((9, 1, 10, 11), np.float32), TypeError),
        (np.ones((9, 2, 10, 11)), ValueError),
        (np.ones((9, 1, 2, 2)), ValueError),
    ):
        with pytest.raises(error):
            call(function, **GOOD[function] | {name: x, "layer": 1})

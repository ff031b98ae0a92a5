"""The layers: gradients against differences, parameters against torch, and what is refused.

Where the values are small integers and halves, every product and sum in float64 is exact, and so
is a difference quotient whose step is a power of two: those comparisons allow no error at all.
"""

import copy
import pickle
import re
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from checks import assert_same_bits, assert_sums_close
from strategies import LAYOUTS, integers, lay_out

from slidedot import conv2d, conv2d_backward, layers, max_pool2d, receptive_field
from slidedot.layers import (
    AvgPool2d,
    Conv2d,
    ConvTranspose2d,
    Flatten,
    Linear,
    MaxPool2d,
    MaxUnpool2d,
    ReLU,
    Sequential,
    softmax_cross_entropy,
)
from slidedot.optim import Adam

STEP = 2.0**-8


def difference_quotients(function, array, step=STEP):
    """Return ``(f(a + step) - f(a - step)) / (2 step)`` for each element of `array`, in place."""
    quotients = np.empty_like(array)
    for i in np.ndindex(array.shape):
        value = array[i]
        array[i] = value + step
        above = function()
        array[i] = value - step
        below = function()
        array[i] = value
        quotients[i] = (above - below) / (2 * step)
    return quotients


def set_integers(layer, rng):
    """Fill the parameters with integers, and biases with halves: no output is 0, ReLU's kink."""
    for name, array in layer.parameters().items():
        array[...] = integers(rng, array.shape) + (0.5 if name.endswith("bias") else 0)


def assert_gradients_exact(layer, x, rng):
    """Assert that backward returns and stores what the difference quotients are."""
    y = layer.forward(x, training=True)
    grad_out = integers(rng, y.shape)
    grad_x = layer.backward(grad_out)

    def loss():
        return float((layer(x) * grad_out).sum())

    np.testing.assert_array_equal(grad_x, difference_quotients(loss, x))
    assert layer.grads.keys() == layer.parameters().keys()
    for name, array in layer.parameters().items():
        np.testing.assert_array_equal(layer.grads[name], difference_quotients(loss, array), name)


def small_network(dtype=np.float64, seed=0):
    """Return a network with every kind of layer, for images (2, 8, 9)."""
    rng = np.random.default_rng(seed)
    return Sequential(
        Conv2d(2, 4, 3, padding=1, groups=2, dtype=dtype, rng=rng),
        ReLU(),
        MaxPool2d(2),
        Conv2d(4, 3, (2, 3), stride=2, activation="relu", bias=False, dtype=dtype, rng=rng),
        Flatten(),
        Linear(6, 5, dtype=dtype, rng=rng),
    )


# ---------------------------------------------------------------------------------- gradients


@pytest.mark.parametrize("batch", [(), (2,)], ids=["single image", "batch"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bias": False},
        {"activation": "relu"},
        {"stride": (2, 1), "padding": ((1, 0), (0, 2))},
        {"stride": 2, "padding": "same", "activation": "relu"},
        {"dilation": (1, 2), "padding": 1},
        {"groups": 2, "activation": "relu"},
    ],
    ids=str,
)
def test_conv2d_gradients(options, batch):
    rng = np.random.default_rng(1)
    layer = Conv2d(2, 4, (3, 2), dtype=np.float64, **options)
    set_integers(layer, rng)
    assert_gradients_exact(layer, integers(rng, (*batch, 2, 5, 6)), rng)


@pytest.mark.parametrize("batch", [(), (2,)], ids=["single image", "batch"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bias": False},
        {"stride": (2, 1), "padding": ((1, 0), (0, 2))},
        {"stride": 2, "padding": "same"},
        {"stride": 4, "padding": "same"},  # wider than the filter: pixels that no tap reaches
        {"stride": 2, "output_padding": 1, "groups": 2},
        {"dilation": 3, "output_padding": (2, 1), "padding": (2, 1)},
        # nothing but the bias reaches what is left
        {"stride": 3, "kernel_size": 1, "padding": ((5, 0), (0, 0)), "output_padding": 2},
    ],
    ids=str,
)
def test_conv_transpose2d_gradients(options, batch):
    rng = np.random.default_rng(1)
    layer = ConvTranspose2d(2, 4, **{"kernel_size": (3, 2)} | options, dtype=np.float64)
    set_integers(layer, rng)
    assert_gradients_exact(layer, integers(rng, (*batch, 2, 2, 3)), rng)


@pytest.mark.parametrize("batch", [(), (2,)], ids=["single image", "batch"])
@pytest.mark.parametrize(
    "layer",
    [
        MaxPool2d(2),
        MaxPool2d((3, 2), stride=1),
        MaxPool2d(3, stride=2, padding=1),
        MaxPool2d(2, dilation=2, stride=2, ceil_mode=True),
    ],
    ids=repr,
)
def test_max_pool2d_gradients(layer, batch):
    rng = np.random.default_rng(2)
    shape = (*batch, 3, 5, 6)
    x = rng.permutation(np.prod(shape)).reshape(shape).astype(np.float64)  # no ties
    assert_gradients_exact(layer, x, rng)


@pytest.mark.parametrize("batch", [(), (2,)], ids=["single image", "batch"])
@pytest.mark.parametrize(
    "layer",
    [
        AvgPool2d(2),
        AvgPool2d((4, 2), stride=1),
        AvgPool2d(4, stride=2, padding=1),
        AvgPool2d(2, stride=2, ceil_mode=True, count_include_pad=False),
    ],
    ids=repr,
)
def test_avg_pool2d_gradients(layer, batch):
    rng = np.random.default_rng(2)
    assert_gradients_exact(layer, integers(rng, (*batch, 3, 5, 6)), rng)


@pytest.mark.parametrize("batch", [(), (2,)], ids=["single image", "batch"])
@pytest.mark.parametrize("pool", [MaxPool2d(2), MaxPool2d(2, stride=3, padding=1)], ids=repr)
def test_max_unpool2d_gradients(pool, batch):
    rng = np.random.default_rng(2)
    layer = MaxUnpool2d(pool)
    y = pool(integers(rng, (*batch, 3, 5, 6)))  # windows that share no pixel
    assert layer(y).shape == (*batch, 3, 5, 6)
    assert_gradients_exact(layer, integers(rng, y.shape), rng)


def test_unpooling_as_in_torch(dtype):
    """An encoder and a decoder, as SegNet's."""
    torch = pytest.importorskip("torch")
    pools = MaxPool2d(2), MaxPool2d(3, stride=2, padding=1)
    model = Sequential(*pools, *map(MaxUnpool2d, reversed(pools)), AvgPool2d(3, stride=2))
    x = np.random.default_rng(0).standard_normal((2, 3, 14, 18)).astype(dtype)
    twin = torch.from_numpy(x).requires_grad_()
    first, inner = torch.nn.functional.max_pool2d(twin, 2, return_indices=True)
    second, outer = torch.nn.functional.max_pool2d(first, 3, 2, 1, return_indices=True)
    back = torch.ops.aten.max_unpool2d(second, outer, first.shape[2:])
    back = torch.ops.aten.max_unpool2d(back, inner, x.shape[2:])
    expected = torch.nn.functional.avg_pool2d(back, 3, 2)
    y = model.forward(x, training=True)
    np.testing.assert_allclose(y, expected.detach(), rtol=1e-5)
    np.testing.assert_array_equal(model(x), y)
    grad_out = np.random.default_rng(1).standard_normal(y.shape).astype(dtype)
    expected.backward(torch.from_numpy(grad_out))
    np.testing.assert_allclose(model.backward(grad_out), twin.grad, rtol=1e-4, atol=1e-6)


def test_unpooling_follows_its_pool():
    pool = MaxPool2d(2)
    unpool = MaxUnpool2d(pool)
    images = np.random.default_rng(0).standard_normal((2, 5, 3, 4, 6)).astype(np.float32)
    with pytest.raises(ValueError, match=r"^MaxUnpool2d: its pool must run before, got MaxPool2d"):
        unpool(images[0])
    y = pool.forward(images[0], training=True)
    assert np.count_nonzero(unpool.forward(y, training=True)) == y.size
    other = pool(images[1])  # what backward needs is not the pool's, but its own
    grad_out = np.random.default_rng(1).standard_normal(images[0].shape).astype(np.float32)
    _, argmax = max_pool2d(images[0], 2, return_argmax=True)
    flat = grad_out.reshape(5, 3, 24)
    expected = np.take_along_axis(flat, argmax.reshape(5, 3, 6), axis=2).reshape(y.shape)
    np.testing.assert_array_equal(unpool.backward(grad_out), expected)
    np.testing.assert_array_equal(pool(unpool(abs(other))), abs(other))
    for wrong in (other[:4], other[0], other[:, :2], other[..., :2], np.zeros_like(images[0])):
        with pytest.raises(ValueError, match=r"^MaxUnpool2d: x must have shape \(5, 3, 2, 3\)"):
            unpool(wrong)
    with pytest.raises(TypeError, match=r"^MaxUnpool2d: x must be float32 or float64"):
        unpool(other.astype(int))
    assert unpool(pool(images[0][:0])).shape == (0, 3, 4, 6)


def test_a_pool_keeps_places_only_for_unpooling():
    pool = MaxPool2d(2)
    pool(np.ones((1, 4, 4), np.float32))
    assert pool._places is None
    MaxUnpool2d(pool)
    pool(np.ones((1, 4, 4), np.float32))
    assert pool._places[1] == (4, 4)


def test_a_summary_with_unpooling():
    pool = MaxPool2d(2)
    model = Sequential(Conv2d(1, 4, 3, padding=1), pool, AvgPool2d(3, stride=1), MaxPool2d(2))
    rows = rows_of(model.summary((1, 12, 12)))
    assert [row[4] for row in rows[3:7]] == ["3 x 3", "4 x 4", "8 x 8", "10 x 10"]
    model = Sequential(Conv2d(1, 4, 3, padding=1), pool, MaxUnpool2d(pool), Conv2d(4, 1, 3))
    rows = rows_of(model.summary((1, 12, 12)))
    assert rows[5][1:5] == ("MaxUnpool2d(MaxPool2d(2))", "(4, 12, 12)", "0", "varies")
    assert rows[6][4] == "varies"
    with pytest.raises(ValueError, match=r"^receptive_field: .* unpooling .*got MaxUnpool2d"):
        receptive_field(model.layers)


def test_relu_gradients():
    rng = np.random.default_rng(3)
    assert_gradients_exact(ReLU(), integers(rng, (2, 3, 4)) + 0.5, rng)


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (3, 4, 5)])
def test_flatten_gradients(shape):
    rng = np.random.default_rng(4)
    assert_gradients_exact(Flatten(), integers(rng, shape), rng)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(3, 4), (4,), (1, 4)])
def test_linear_gradients(shape, bias):
    rng = np.random.default_rng(5)
    layer = Linear(4, 2, bias=bias, dtype=np.float64)
    set_integers(layer, rng)
    assert_gradients_exact(layer, integers(rng, shape), rng)


def test_network_gradients():
    rng = np.random.default_rng(6)
    model = Sequential(
        Conv2d(1, 3, 3, activation="relu", dtype=np.float64),
        MaxPool2d(2),
        Sequential(Flatten(), Linear(12, 4, dtype=np.float64)),
        ReLU(),
        Linear(4, 2, dtype=np.float64),
    )
    set_integers(model, rng)
    # numbers of many sizes, so that no window has two equal largest ones
    model.layers[0].weight[...] = rng.integers(-40, 41, (3, 1, 3, 3))
    assert_gradients_exact(model, integers(rng, (2, 1, 6, 6)), rng)


def test_loss_gradient():
    rng = np.random.default_rng(7)
    logits, labels, step = 3 * rng.standard_normal((4, 5)), np.array([0, 4, 2, 2]), 1e-4
    _, grad = softmax_cross_entropy(logits, labels)
    quotients = difference_quotients(lambda: softmax_cross_entropy(logits, labels)[0], logits, step)
    # Taylor: step**2 / 6 times the third derivative, p (1 - p) (1 - 2p) / N <= 0.0963 / N; and the
    # loss, of 4 * 5 terms no larger than the logits' range, is rounded in each.
    truncation = step**2 / 6 * 0.0963 / 4
    rounding = 20 * np.finfo(np.float64).eps * (np.ptp(logits) + np.log(5)) / step
    np.testing.assert_allclose(quotients, grad, rtol=0, atol=truncation + rounding)


# ---------------------------------------------------------------------------------- loss


@pytest.mark.parametrize("labels_dtype", [np.int64, np.uint8, np.uint64])
def test_loss_equals_torch(dtype, labels_dtype):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(8)
    logits = (10 * rng.standard_normal((6, 7))).astype(dtype)
    labels = rng.integers(0, 7, 6).astype(labels_dtype)
    loss, grad = softmax_cross_entropy(logits, labels)
    tensor = torch.tensor(logits, requires_grad=True)
    expected = torch.nn.functional.cross_entropy(tensor, torch.tensor(labels.astype(np.int64)))
    expected.backward()
    # Both round the difference of two logits, 7 exponentials, their sum, a logarithm and a mean.
    bound = 2 * (7 + 6 + 8) * np.finfo(dtype).eps * (1 + np.ptp(logits))
    assert isinstance(loss, float)
    assert abs(loss - expected.item()) <= bound
    assert grad.dtype == dtype
    np.testing.assert_allclose(grad, tensor.grad.numpy(), rtol=0, atol=bound)


def test_loss_does_not_overflow(dtype):
    huge = np.finfo(dtype).max / 4
    loss, grad = softmax_cross_entropy(np.array([[huge, 0], [0, -huge]], dtype), np.array([0, 0]))
    assert loss == 0
    np.testing.assert_array_equal(grad, np.zeros((2, 2), dtype))
    loss, grad = softmax_cross_entropy(np.array([[huge, 0]], dtype), np.array([1]))
    assert loss == huge
    np.testing.assert_array_equal(grad, [[1, -1]])


@pytest.mark.parametrize(
    ("logits", "labels", "error", "message"),
    [
        (
            np.zeros((2, 3)),
            np.array([0.0, 1.0]),
            TypeError,
            "labels must be of an integer dtype, got float64",
        ),
        (
            np.zeros((2, 3)),
            np.array([True, False]),
            TypeError,
            "labels must be of an integer dtype, got bool",
        ),
        (np.zeros((2, 3)), np.array([0, 3]), IndexError, r"labels must be in \[0, 3\).* 3"),
        (np.zeros((2, 3)), np.array([-1, 0]), IndexError, r"labels must be in \[0, 3\).* -1"),
        (
            np.zeros((2, 3)),
            np.array([0, 2**64 - 1], np.uint64),
            IndexError,
            "the label 18446744073709551615",
        ),
        (
            np.zeros((2, 3)),
            np.array([0]),
            ValueError,
            r"labels must have shape \(2,\), got shape \(1,\)",
        ),
        (np.zeros((2, 3)), np.array([[0], [1]]), ValueError, r"labels must have shape \(2,\)"),
        (np.zeros(3), np.array([0]), ValueError, r"logits must be \(N, classes\)"),
        (np.zeros((0, 3)), np.zeros(0, int), ValueError, "logits must be"),
        (np.zeros((2, 0)), np.array([0, 0]), ValueError, "logits must be"),
        (np.zeros((2, 3), int), np.array([0, 0]), TypeError, "logits must be float32 or float64"),
        (np.zeros((2, 3)), np.ma.array([0, 0]), TypeError, "labels is a masked array"),
        (np.ma.zeros((2, 3)), np.array([0, 0]), TypeError, r"masked array; call \.filled\(\)"),
    ],
)
def test_loss_refuses(logits, labels, error, message):
    with pytest.raises(error, match=f"softmax_cross_entropy: .*{message}"):
        softmax_cross_entropy(logits, labels)


# ---------------------------------------------------------------------------------- values


def test_same_as_torch():
    """Loaded from torch and into torch: the same names, the same logits, the same gradients."""
    torch = pytest.importorskip("torch")
    nn = torch.nn
    twin = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, groups=2),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2, padding=1),
        nn.Sequential(nn.Conv2d(4, 6, (2, 3), stride=(1, 2), dilation=2, bias=False), nn.ReLU()),
        nn.ConvTranspose2d(6, 4, 3, stride=2, padding=1, output_padding=1, groups=2),
        nn.Flatten(),
        nn.Linear(64, 5),
    ).double()
    model = Sequential(
        Conv2d(2, 4, 3, padding=1, groups=2, dtype=np.float64),
        ReLU(),
        MaxPool2d(3, stride=2, padding=1),
        Sequential(
            Conv2d(4, 6, (2, 3), stride=(1, 2), dilation=2, bias=False, dtype=np.float64), ReLU()
        ),
        ConvTranspose2d(6, 4, 3, stride=2, padding=1, output_padding=1, groups=2, dtype=np.float64),
        Flatten(),
        Linear(64, 5, dtype=np.float64),
    )
    rng = np.random.default_rng(9)
    set_integers(model, rng)
    twin.load_state_dict({k: torch.from_numpy(v) for k, v in model.state_dict().items()})
    for array in model.parameters().values():
        array[...] = np.nan
    model.load_state_dict(twin.state_dict())

    x = integers(rng, (3, 2, 8, 14))
    tensor = torch.tensor(x, requires_grad=True)
    expected = twin(tensor)
    y = model.forward(x, training=True)
    np.testing.assert_array_equal(y, expected.detach().numpy())
    grad_out = integers(rng, y.shape)
    expected.backward(torch.from_numpy(grad_out))
    np.testing.assert_array_equal(model.backward(grad_out), tensor.grad.numpy())
    for name, parameter in twin.named_parameters():
        np.testing.assert_array_equal(model.grads[name], parameter.grad.numpy(), name)
    assert list(model.grads) == list(twin.state_dict())


def test_float32_is_as_accurate_as_its_sums():
    """A ReLU and a maximum add no error, so the network is one sum of products of products."""
    rng = np.random.default_rng(10)
    shape = (4, 3, 16, 16)

    def network(dtype):
        return Sequential(
            Conv2d(3, 8, 5, activation="relu", dtype=dtype, rng=0),
            MaxPool2d(2),
            Flatten(),
            Linear(288, 10, dtype=dtype, rng=1),
        )

    model, exact, absolute = network(np.float32), network(np.float64), network(np.float64)
    exact.load_state_dict(model.state_dict())
    absolute.load_state_dict({name: abs(v) for name, v in model.state_dict().items()})
    x = rng.standard_normal(shape).astype(np.float32)
    y = model(x)
    assert y.dtype == np.float32
    x = x.astype(np.float64)
    assert_sums_close(y, exact(x), absolute(abs(x)), terms=(75 + 1) + (288 + 1))


def test_layers_pass_their_options_on():
    rng = np.random.default_rng(16)
    x = integers(rng, (2, 4, 12, 13))
    options = {"stride": (2, 1), "padding": ((1, 1), (2, 1)), "dilation": (1, 2)}
    for pooling in ({"ceil_mode": True}, {}):
        layer = MaxPool2d((3, 2), **options, **pooling)
        np.testing.assert_array_equal(layer(x), max_pool2d(x, (3, 2), **options, **pooling))
    options |= {"groups": 2, "activation": "relu"}
    layer = Conv2d(4, 6, (3, 2), dtype=np.float64, **options)
    set_integers(layer, rng)
    np.testing.assert_array_equal(layer(x), conv2d(x, layer.weight, layer.bias, **options))


@pytest.mark.parametrize("algorithm", ["direct", "im2col", "winograd"])
def test_conv2d_computes_by_its_algorithm(algorithm):
    """Forward, in inference and training, and backward; each algorithm rounds differently."""
    rng = np.random.default_rng(17)
    x = rng.standard_normal((2, 16, 9, 10), dtype=np.float32)
    layer = Conv2d(16, 16, 3, padding=1, algorithm=algorithm, rng=rng)
    options = {"padding": 1, "algorithm": algorithm}
    y = conv2d(x, layer.weight, layer.bias, **options)
    assert_same_bits(layer(x), y)
    assert_same_bits(layer.forward(x, training=True), y)
    grads = conv2d_backward(y, x, layer.weight, **options)
    assert_same_bits(layer.backward(y), grads.x)
    assert_same_bits(layer.grads["weight"], grads.weight)
    others = {"direct", "im2col", "winograd"} - {algorithm}
    assert not any(
        np.array_equal(y, conv2d(x, layer.weight, layer.bias, padding=1, algorithm=other))
        for other in others
    )


def test_layers_can_be_pickled():
    """Also after inference, when a `Conv2d` holds a plan."""
    rng = np.random.default_rng(18)
    x = rng.standard_normal((2, 3, 12, 13), dtype=np.float32)
    model = Sequential(
        Conv2d(3, 16, 3, activation="relu", rng=rng),
        Conv2d(16, 16, 3, padding=1, algorithm="winograd", rng=rng),
        MaxPool2d(2, ceil_mode=True),
        ReLU(),
        Flatten(),
        Linear(480, 4, rng=rng),
    )
    fresh = pickle.dumps(model)
    y = model(x)
    for pickled in (fresh, pickle.dumps(model)):
        again = pickle.loads(pickled)
        assert_same_bits(again(x), y)
        again.layers[0].weight[:] = 0
        assert not np.array_equal(again(x), y)
    assert_same_bits(copy.deepcopy(model)(x), y)


def test_threads_share_a_model():
    """In inference: the first call of each of them finds no plan yet."""
    rng = np.random.default_rng(19)
    x = rng.standard_normal((16, 30, 31), dtype=np.float32)
    for _ in range(20):
        model = Sequential(
            Conv2d(16, 16, 3, rng=rng), Conv2d(16, 8, 5, stride=2, rng=rng), MaxPool2d(2)
        )
        start = threading.Barrier(4)
        with ThreadPoolExecutor(4) as pool:
            results = list(pool.map(lambda _: (start.wait(), model(x))[1], range(4)))  # noqa: B023
        y = model(x)
        for result in results:
            assert_same_bits(result, y)


@pytest.mark.parametrize(
    "change",
    [
        lambda layer: layer.weight.__setitem__(0, 0),
        lambda layer: layer.bias.__setitem__(1, 5),
        lambda layer: setattr(layer, "weight", -layer.weight),
        lambda layer: setattr(layer, "bias", None),
        lambda layer: setattr(layer, "padding", 0),
        lambda layer: setattr(layer, "activation", "relu"),
        lambda layer: setattr(layer, "algorithm", "im2col"),
        lambda layer: layer.load_state_dict({k: v + 1 for k, v in layer.state_dict().items()}),
    ],
)
def test_conv2d_is_what_its_weight_is_now(change):
    """In inference it holds a plan, which a change must end."""
    x = np.random.default_rng(0).standard_normal((2, 3, 6, 7), dtype=np.float32)
    layer = Conv2d(3, 4, 3, padding=1, rng=0)

    def expected():
        names = ("padding", "activation", "algorithm")
        options = {name: getattr(layer, name) for name in names}
        return conv2d(x, layer.weight, layer.bias, **options)

    assert np.array_equal(layer(x), expected())
    plan = layer._current_plan()
    assert layer._current_plan() is plan
    change(layer)
    assert np.array_equal(layer(x), expected())
    assert layer._current_plan() is not plan


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_memory_layout(layout):
    rng = np.random.default_rng(11)
    model = small_network()
    set_integers(model, rng)
    x = lay_out(integers(rng, (2, 2, 8, 9)), layout)
    copy = np.array(x, np.float64, order="C")
    expected = model.forward(copy, training=True)
    grad_out = integers(rng, expected.shape)
    grad_x = model.backward(grad_out)
    np.testing.assert_array_equal(model.forward(x, training=True), expected)
    again = lay_out(grad_out, "byte-swapped")
    np.testing.assert_array_equal(model.backward(again), grad_x)
    np.testing.assert_array_equal(x, copy)
    np.testing.assert_array_equal(again, grad_out)
    for layer in (ReLU(), Flatten()):
        np.testing.assert_array_equal(layer(x), layer(copy))


def test_single_image_is_a_batch_of_one():
    rng = np.random.default_rng(12)
    model = small_network()
    set_integers(model, rng)
    x = integers(rng, (2, 8, 9))
    y = model.forward(x[None], training=True)
    grad_out = integers(rng, y.shape)
    grad_x, grads = model.backward(grad_out), model.grads
    np.testing.assert_array_equal(model.forward(x, training=True), y[0])
    np.testing.assert_array_equal(model.backward(grad_out[0]), grad_x[0])
    for name, grad in grads.items():
        np.testing.assert_array_equal(model.grads[name], grad, name)


def test_empty_batch(dtype):
    model = small_network(dtype)
    y = model.forward(np.zeros((0, 2, 8, 9), dtype), training=True)
    assert y.shape == (0, 5)
    assert model.backward(y).shape == (0, 2, 8, 9)
    for name, array in model.parameters().items():
        np.testing.assert_array_equal(model.grads[name], np.zeros_like(array), name)


def test_relu_keeps_nan():
    layer = ReLU()
    y = layer.forward(np.array([np.nan, -1.0, 2.0]), training=True)
    np.testing.assert_array_equal(y, [np.nan, 0, 2])
    np.testing.assert_array_equal(layer.backward(np.array([3.0, 4.0, 5.0])), [3, 0, 5])


def test_all_gradients_have_the_dtype(dtype):
    model = small_network(dtype)
    y = model.forward(np.ones((2, 2, 8, 9), dtype), training=True)
    assert y.dtype == dtype
    assert model.backward(y).dtype == dtype
    assert {grad.dtype for grad in model.grads.values()} == {dtype}


# ---------------------------------------------------------------------------------- training


def test_overfits_a_tiny_batch(dtype):
    """Ten images of noise with ten arbitrary labels are learned by heart."""
    rng = np.random.default_rng(13)
    model = Sequential(
        Conv2d(1, 8, 3, padding=1, activation="relu", dtype=dtype, rng=rng),
        MaxPool2d(2),
        Flatten(),
        Linear(128, 10, dtype=dtype, rng=rng),
    )
    optimizer = Adam(model, learning_rate=0.01)
    x, labels = rng.standard_normal((10, 1, 8, 8)).astype(dtype), rng.integers(0, 10, 10)
    losses = []
    for _ in range(100):
        loss, grad = softmax_cross_entropy(model.forward(x, training=True), labels)
        losses.append(loss)
        model.backward(grad, need_input_grad=False)
        optimizer.step()
    assert losses[0] > 1
    assert losses[-1] < 0.01
    np.testing.assert_array_equal(model(x).argmax(axis=1), labels)


@pytest.mark.parametrize("activation", [None, "relu"])
def test_input_gradient_is_skipped(monkeypatch, activation):
    """No gradient is computed below the first layer with parameters, nor that layer's own."""
    needs = []
    genuine = layers.conv2d_backward

    def spy(*args, need, **options):
        needs.append(need)
        return genuine(*args, need=need, **options)

    monkeypatch.setattr(layers, "conv2d_backward", spy)
    rng = np.random.default_rng(14)
    pool = MaxPool2d(2)
    model = Sequential(
        pool,
        Sequential(Conv2d(1, 2, 3, activation=activation, dtype=np.float64), ReLU()),
        Conv2d(2, 2, 3, bias=False, dtype=np.float64),
    )
    set_integers(model, rng)
    x = integers(rng, (2, 1, 16, 16))
    y = model.forward(x, training=True)
    grad_out = integers(rng, y.shape)
    assert model.backward(grad_out).shape == x.shape
    assert needs == [("x", "weight"), ("x", "weight", "bias")]
    expected, needs[:] = model.grads, []

    monkeypatch.setattr(layers, "max_pool2d_backward", None)
    model.forward(x, training=True)
    assert model.backward(grad_out, need_input_grad=False) is None
    assert needs == [("x", "weight"), ("weight", "bias")]
    for name, grad in expected.items():
        np.testing.assert_array_equal(model.grads[name], grad, name)


@pytest.mark.parametrize(
    "layer",
    [
        Conv2d(2, 2, 3, rng=0),
        ConvTranspose2d(2, 2, 3, rng=0),
        MaxPool2d(2),
        ReLU(),
        Flatten(),
        Linear(4, 2, rng=0),
    ],
    ids=repr,
)
def test_backward_without_input_gradient_is_none(layer):
    x = np.ones((2, 4) if isinstance(layer, Linear) else (2, 2, 4, 4), np.float32)
    y = layer.forward(x, training=True)
    assert layer.backward(y, need_input_grad=False) is None
    assert layer.grads.keys() == layer.parameters().keys()


def every_layer():
    """Return each kind of layer, fresh, with an input for it."""
    image = np.ones((2, 2, 4, 4), np.float32)
    return [
        (Conv2d(2, 2, 3, rng=0), image),
        (Conv2d(2, 2, 3, activation="relu", rng=0), image),
        (ConvTranspose2d(2, 2, 3, rng=0), image),
        (MaxPool2d(2), image),
        (ReLU(), image),
        (Flatten(), image),
        (Linear(4, 2, rng=0), image[:, 0, 0]),
        (Sequential(ReLU(), MaxPool2d(2)), image),
    ]


@pytest.mark.parametrize(("layer", "x"), every_layer(), ids=lambda v: repr(v)[:30])
def test_each_backward_needs_a_training_forward(layer, x):
    grad_out = layer(x)  # inference keeps nothing
    message = rf"{type(layer).__name__}\.backward: each backward must follow a forward\(x, train"
    with pytest.raises(ValueError, match=message):
        layer.backward(grad_out)
    layer.forward(x, training=True)
    layer.backward(grad_out)
    with pytest.raises(ValueError, match=message):
        layer.backward(grad_out)


@pytest.mark.parametrize(("layer", "x"), every_layer(), ids=lambda v: repr(v)[:30])
def test_backward_refuses_another_gradient(layer, x):
    y = layer.forward(x, training=True)
    name = rf"{type(layer).__name__}\.backward: grad_out must"
    for wrong in (y[:1], y[..., :1], y[None], np.float32(1)):  # NumPy would broadcast each
        with pytest.raises(ValueError, match=rf"{name} have shape {re.escape(str(y.shape))}"):
            layer.backward(wrong)
    with pytest.raises(TypeError, match=f"{name} be float32 as the layer, got float64"):
        layer.backward(y.astype(np.float64))
    with pytest.raises(TypeError, match=f"{name} be float32 or float64, got int64"):
        layer.backward(y.astype(np.int64))
    with pytest.raises(TypeError, match=r"\.filled\(\)"):
        layer.backward(np.ma.masked_array(y))
    layer.backward(y)  # the refusals left it ready


@pytest.mark.parametrize("layer", [ReLU(), Flatten(), Linear(4, 2)], ids=repr)
@pytest.mark.parametrize("kind", [np.int32, np.bool_, np.float16, np.complex64, object, str])
def test_forward_refuses_other_dtypes(layer, kind):
    x = np.ones((1, 4, 4, 4) if isinstance(layer, Flatten) else (1, 4)).astype(kind)
    message = (
        rf"{type(layer).__name__}: x must be float32 or float64, got {re.escape(str(x.dtype))}"
    )
    with pytest.raises(TypeError, match=message):
        layer(x)
    with pytest.raises(TypeError, match=r"is a masked array; call \.filled\(\)"):
        layer(np.ma.ones((1, 4)))


def test_forward_refuses_other_shapes():
    linear = Linear(4, 2)
    for shape in [(4, 5), (5,), (1, 1, 4), ()]:
        with pytest.raises(ValueError, match=r"Linear: x must be \(N, 4\) or \(4,\), got shape"):
            linear(np.zeros(shape, np.float32))
    with pytest.raises(TypeError, match="Linear: x must be float32 as the layer, got float64"):
        linear(np.zeros((1, 4)))
    for shape in [(4, 5), (1, 1, 1, 4, 5)]:
        with pytest.raises(ValueError, match=r"Flatten: x must be \(N, C, H, W\) or \(C, H, W\)"):
            Flatten()(np.zeros(shape))


# ---------------------------------------------------------------------------------- parameters


def test_shapes_and_names_are_torchs():
    model = small_network()
    assert {name: array.shape for name, array in model.parameters().items()} == {
        "0.weight": (4, 1, 3, 3),
        "0.bias": (4,),
        "3.weight": (3, 4, 2, 3),
        "5.weight": (5, 6),
        "5.bias": (5,),
    }
    assert model.parameters()["5.weight"] is model.layers[5].weight
    nested = Sequential(ReLU(), Sequential(ReLU(), Linear(2, 3)))
    assert list(nested.state_dict()) == ["1.1.weight", "1.1.bias"]


def test_initial_weights():
    """Normal with variance 2 / fan-in, where fan-in is what one output sees; biases zero."""
    for layer, inputs in [
        (Conv2d(16, 64, (5, 3), groups=2, rng=0), 8 * 5 * 3),
        (Linear(300, 200, rng=0), 300),
        # of the outputs of each phase of its stride, on average
        (ConvTranspose2d(64, 64, 4, stride=2, groups=2, rng=0), 32 * 4 * 4 / (2 * 2)),
    ]:
        n = layer.weight.size
        # mean and variance of n normal numbers have standard errors sigma / sqrt(n) and
        # sigma**2 * sqrt(2 / n); six of them
        variance = 2 / inputs
        assert abs(layer.weight.mean()) < 6 * np.sqrt(variance / n)
        assert abs(layer.weight.var() - variance) < 6 * variance * np.sqrt(2 / n)
        assert layer.bias.shape == (len(layer.weight),)
        assert not layer.bias.any()


@pytest.mark.parametrize(
    "make",
    [
        lambda **k: Conv2d(3, 4, 5, **k),
        lambda **k: ConvTranspose2d(3, 4, 5, **k),
        lambda **k: Linear(6, 7, **k),
    ],
)
def test_seeds(make):
    weight = make(rng=1).weight
    np.testing.assert_array_equal(make(rng=1).weight, weight)
    np.testing.assert_array_equal(make(rng=np.int64(1)).weight, weight)
    assert (make(rng=2).weight != weight).any()
    assert (make().weight != make().weight).any()
    rng = np.random.default_rng(1)
    np.testing.assert_array_equal(make(rng=rng).weight, weight)
    assert (make(rng=rng).weight != weight).any()
    double = make(rng=1, dtype=np.float64).weight
    assert double.dtype == np.float64
    np.testing.assert_array_equal(double.astype(np.float32), weight)


def test_state_dict_round_trip(tmp_path, dtype):
    model, other = small_network(dtype, seed=0), small_network(dtype, seed=1)
    x = np.random.default_rng(15).standard_normal((2, 2, 8, 9)).astype(dtype)
    y = model(x)
    assert (other(x) != y).any()
    np.savez(tmp_path / "model.npz", **model.state_dict())
    with np.load(tmp_path / "model.npz") as state:
        other.load_state_dict(state)
    np.testing.assert_array_equal(other(x), y)


def test_state_is_copied_out_and_in():
    model, other = small_network(seed=0), small_network(seed=1)
    arrays = other.parameters()
    state = model.state_dict()
    other.load_state_dict(state)
    for name, array in other.parameters().items():
        assert array is arrays[name]  # an optimizer's view of the layer stays true
    for array in state.values():
        array[...] = np.nan
    assert all(np.isfinite(array).all() for array in model.parameters().values())
    assert all(np.isfinite(array).all() for array in other.parameters().values())
    other.layers[0].weight[...] = 7
    assert (model.layers[0].weight != 7).all()


def test_load_takes_other_floating_values():
    layer = Linear(2, 1, bias=False)
    for dtype in (np.float16, ">f4", np.float64, np.longdouble):
        layer.weight[...] = 0
        layer.load_state_dict({"weight": np.array([[1, 0.5]], dtype)})
        np.testing.assert_array_equal(layer.weight, [[1, 0.5]])
        assert layer.weight.dtype == np.float32


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"bias": None}, ValueError, r"missing=\['bias'\], unexpected=\[\]"),
        ({"wieght": np.zeros(3)}, ValueError, r"missing=\[\], unexpected=\['wieght'\]"),
        ({"bias": np.zeros(1)}, ValueError, r"bias must have shape \(3,\), got shape \(1,\)"),
        (
            {"weight": np.zeros((2, 3))},
            ValueError,
            r"weight must have shape \(3, 2\), got shape \(2, 3",
        ),
        ({"bias": np.zeros(3, int)}, TypeError, "bias must be floating, got int64"),
        ({"bias": np.zeros(3, complex)}, TypeError, "bias must be floating, got complex128"),
        ({"bias": np.ma.zeros(3)}, TypeError, r"bias is a masked array; call \.filled"),
        ({"bias": "abc"}, TypeError, "bias must be floating, got <U3"),
    ],
)
def test_load_refuses(change, error, message):
    layer = Linear(2, 3)
    before = layer.state_dict()
    state = {"weight": np.ones((3, 2)), "bias": np.ones(3), **change}
    state = {name: value for name, value in state.items() if value is not None}
    with pytest.raises(error, match=f"load_state_dict: .*{message}"):
        layer.load_state_dict(state)
    for name, array in layer.parameters().items():
        np.testing.assert_array_equal(array, before[name], name)


def test_load_refuses_what_is_no_mapping():
    with pytest.raises(TypeError, match="load_state_dict: state must be a mapping, got"):
        Linear(2, 3).load_state_dict([("weight", np.zeros((3, 2)))])


# ---------------------------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: Conv2d(0, 1, 3),
            ValueError,
            "Conv2d: in_channels must be >= 1, got in_channels=0",
        ),
        (lambda: Conv2d(1, 2.0, 3), TypeError, "Conv2d: out_channels must be an int, got 2.0"),
        (lambda: Conv2d(1, 1, 0), ValueError, "Conv2d: kernel_size must be >= 1"),
        (lambda: Conv2d(1, 1, (3, 3, 3)), ValueError, r"Conv2d: kernel_size must be .*\(h, w\)"),
        (lambda: Conv2d(1, 1, True), TypeError, "Conv2d: kernel_size must be an int, got True"),
        (lambda: Conv2d(1, 1, 3, stride=(1, 0)), ValueError, r"stride must be >= 1.*\(1, 0\)"),
        (lambda: Conv2d(1, 1, 3, padding=-1), ValueError, "Conv2d: padding must be >= 0"),
        (lambda: Conv2d(1, 1, 3, padding="full"), ValueError, "Conv2d: padding must be 'valid', "),
        (lambda: Conv2d(1, 1, 3, padding=1.5), TypeError, "Conv2d: padding must be an int"),
        (lambda: Conv2d(1, 1, 3, dilation=0), ValueError, "Conv2d: dilation must be >= 1"),
        (lambda: Conv2d(4, 6, 3, groups=3), ValueError, "groups=3 does not divide in_channels=4"),
        (lambda: Conv2d(6, 4, 3, groups=3), ValueError, "groups=3 does not divide out_channels=4"),
        (lambda: Conv2d(1, 1, 3, groups=0), ValueError, "Conv2d: groups must be >= 1"),
        (
            lambda: Conv2d(1, 1, 3, activation="tanh"),
            ValueError,
            "activation must be one of .*'tanh'",
        ),
        (lambda: Conv2d(1, 1, 3, algorithm="fft"), ValueError, "algorithm must be one of .*'fft'"),
        (
            lambda: Conv2d(1, 1, 5, algorithm="winograd"),
            ValueError,
            r"Conv2d: algorithm needs kernel_size=\(3, 3\), got kernel_size=\(5, 5\)",
        ),
        (lambda: Conv2d(1, 1, 3, dtype=np.float16), TypeError, "Conv2d: dtype must be float32 or"),
        (lambda: Conv2d(1, 1, 3, dtype="quick"), TypeError, "dtype must be .*got 'quick"),
        (lambda: Conv2d(1, 1, 3, dtype=None), TypeError, "dtype must be .*got None"),
        (lambda: Conv2d(1, 1, 3, rng=-1), ValueError, "Conv2d: rng must be >= 0, got rng=-1"),
        (lambda: Conv2d(1, 1, 3, rng="seed"), TypeError, "Conv2d: rng must be an int, got 'seed'"),
        (
            lambda: ConvTranspose2d(1, 1, 3, stride=2, output_padding=(1, 2)),
            ValueError,
            r"ConvTranspose2d: output_padding must be less .*\(1, 2\) with stride 2 and dilation 1",
        ),
        (
            lambda: ConvTranspose2d(1, 1, 3, output_padding=0.0),
            TypeError,
            "ConvTranspose2d: output_padding must be an int",
        ),
        (lambda: ConvTranspose2d(1, 1, 3, padding=-1), ValueError, "ConvTranspose2d: padding must"),
        (lambda: ConvTranspose2d(3, 4, 3, groups=2), ValueError, "groups=2 .* in_channels=3"),
        (lambda: MaxPool2d(0), ValueError, "MaxPool2d: kernel_size must be >= 1"),
        (lambda: MaxUnpool2d(2), TypeError, "MaxUnpool2d: pool must be a MaxPool2d, got 2"),
        (lambda: AvgPool2d(0), ValueError, "AvgPool2d: kernel_size must be >= 1"),
        (lambda: AvgPool2d(2, stride=0), ValueError, "AvgPool2d: stride must be >= 1"),
        (lambda: AvgPool2d(2, padding=(0, -1)), ValueError, "AvgPool2d: padding must be >= 0"),
        (lambda: MaxPool2d(2, stride=0), ValueError, "MaxPool2d: stride must be >= 1"),
        (lambda: MaxPool2d(2, padding=(0, -1)), ValueError, "MaxPool2d: padding must be >= 0"),
        (lambda: MaxPool2d(2, dilation=1.0), TypeError, "MaxPool2d: dilation must be an int"),
        (lambda: Linear(0, 1), ValueError, "Linear: in_features must be >= 1"),
        (lambda: Linear(1, "2"), TypeError, "Linear: out_features must be an int, got '2'"),
        (lambda: Linear(1, 1, dtype=int), TypeError, "Linear: dtype must be float32 or float64"),
        (lambda: Sequential(), ValueError, "Sequential: layers must be at least one"),
        (lambda: Sequential(ReLU), TypeError, "Sequential: layers must be layer objects, got <cla"),
        (lambda: Sequential(np.tanh), TypeError, "Sequential: layers must be layer objects"),
    ],
)
def test_constructors_refuse(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_layer_stands_in_one_place():
    relu = ReLU()
    with pytest.raises(ValueError, match="Sequential: layers must all be different objects"):
        Sequential(relu, Flatten(), Sequential(relu))


def test_pool_takes_its_stride_from_the_kernel():
    assert MaxPool2d((2, 3)).stride == (2, 3)
    assert MaxPool2d(3, stride=2).stride == (2, 2)


@pytest.mark.parametrize(
    ("layer", "text"),
    [
        (Conv2d(1, 2, 3), "Conv2d(1, 2, 3)"),
        (
            Conv2d(2, 4, (3, 5), stride=2, padding="same", groups=2, bias=False, activation="relu"),
            "Conv2d(2, 4, (3, 5), stride=2, padding='same', groups=2, bias=False, "
            "activation='relu')",
        ),
        (
            Conv2d(1, 1, 2, padding=((1, 0), (0, 1)), dilation=(1, 2)),
            "Conv2d(1, 1, 2, padding=((1, 0), (0, 1)), dilation=(1, 2))",
        ),
        (
            ConvTranspose2d(2, 4, 4, stride=2, padding=1, output_padding=(0, 1), groups=2),
            "ConvTranspose2d(2, 4, 4, stride=2, padding=1, output_padding=(0, 1), groups=2)",
        ),
        (Conv2d(2, 2, 3, algorithm="direct"), "Conv2d(2, 2, 3, algorithm='direct')"),
        (MaxPool2d(2), "MaxPool2d(2)"),
        (MaxPool2d((2, 3)), "MaxPool2d((2, 3))"),
        (MaxUnpool2d(MaxPool2d(2)), "MaxUnpool2d(MaxPool2d(2))"),
        (AvgPool2d((2, 3)), "AvgPool2d((2, 3))"),
        (
            AvgPool2d(3, stride=2, padding=1, ceil_mode=True, count_include_pad=False),
            "AvgPool2d(3, stride=2, padding=1, ceil_mode=True, count_include_pad=False)",
        ),
        (MaxPool2d(3, stride=2, padding=1), "MaxPool2d(3, stride=2, padding=1)"),
        (MaxPool2d(2, dilation=2, ceil_mode=True), "MaxPool2d(2, dilation=2, ceil_mode=True)"),
        (Linear(3, 4, bias=False), "Linear(3, 4, bias=False)"),
        (Sequential(Flatten(), ReLU()), "Sequential(Flatten(), ReLU())"),
    ],
)
def test_repr_is_the_call(layer, text):
    assert repr(layer) == text
    assert repr(eval(text)) == text


# ---------------------------------------------------------------------------------- summary


def rows_of(summary):
    """Return a summary's lines as tuples of cells; empty cells are left out."""
    return [tuple(re.split(r"\s{2,}", line.strip())) for line in summary.splitlines()]


def test_summary_of_lenet5():
    """LeCun et al. 1998, with full connections in the third layer: 61,706 parameters."""
    model = Sequential(
        Conv2d(1, 6, 5, activation="relu"),
        MaxPool2d(2),
        Conv2d(6, 16, 5, activation="relu"),
        MaxPool2d(2),
        Conv2d(16, 120, 5, activation="relu"),
        Flatten(),
        Sequential(Linear(120, 84), ReLU(), Linear(84, 10)),
    )
    rows = rows_of(model.summary((1, 32, 32)))
    rule = rows[1]
    assert set(rule[0]) == {"-"}
    assert rows == [
        ("layer", "output shape", "parameters", "receptive field", "multiply-adds"),
        rule,
        ("input", "(1, 32, 32)", "1 x 1"),
        ("0", "Conv2d(1, 6, 5, activation='relu')", "(6, 28, 28)", "156", "5 x 5", "117,600"),
        ("1", "MaxPool2d(2)", "(6, 14, 14)", "0", "6 x 6", "0"),
        ("2", "Conv2d(6, 16, 5, activation='relu')", "(16, 10, 10)", "2,416", "14 x 14", "240,000"),
        ("3", "MaxPool2d(2)", "(16, 5, 5)", "0", "16 x 16", "0"),
        (
            "4",
            "Conv2d(16, 120, 5, activation='relu')",
            "(120, 1, 1)",
            "48,120",
            "32 x 32",
            "48,000",
        ),
        ("5", "Flatten()", "(120,)", "0", "32 x 32", "0"),
        ("6.0", "Linear(120, 84)", "(84,)", "10,164", "all", "10,080"),
        ("6.1", "ReLU()", "(84,)", "0", "all", "0"),
        ("6.2", "Linear(84, 10)", "(10,)", "850", "all", "840"),
        rule,
        ("total", "61,706", "416,520"),
    ]


def test_summary_of_rectangles_and_same_padding():
    """Padding "same" with a stride has no fixed place, but an image's size gives it one."""
    model = Sequential(
        Conv2d(2, 4, (3, 5), stride=(2, 1), padding="same", groups=2, dtype=np.float64),
        MaxPool2d(2, stride=2, padding="same"),
    )
    rows = rows_of(model.summary([2, 7, 9]))
    assert [row[-4:] for row in rows[3:5]] == [
        ("(4, 4, 9)", "64", "3 x 5", "2,160"),
        ("(4, 2, 5)", "0", "5 x 6", "0"),
    ]


def test_summary_of_an_autoencoder():
    """A transposed convolution uses each weight for each pixel of its input."""
    model = Sequential(
        Conv2d(1, 4, 3, stride=2, padding=1),
        ConvTranspose2d(4, 2, 4, stride=2, padding=1),
        Conv2d(2, 1, 3, padding=1),
    )
    rows = rows_of(model.summary((1, 8, 8)))
    assert [row[-4:] for row in rows[3:6]] == [
        ("(4, 4, 4)", "40", "3 x 3", "576"),
        ("(2, 8, 8)", "130", "varies", "2,048"),
        ("(1, 8, 8)", "19", "varies", "1,152"),
    ]


def test_a_transposed_convolution_has_no_one_receptive_field():
    with pytest.raises(
        ValueError, match=r"receptive_field: .* a transposed convolution .*got Conv"
    ):
        receptive_field([Conv2d(1, 1, 3), ConvTranspose2d(1, 1, 2, stride=2)])


def test_summary_without_images():
    rows = rows_of(Sequential(Linear(3, 4), ReLU(), Linear(4, 2)).summary((3,)))
    assert rows[-1] == ("total", "26", "20")
    rows = rows_of(Sequential(MaxPool2d(2)).summary((5, 1000, 1000)))
    assert rows[-1] == ("total", "0", "0")


@pytest.mark.parametrize(
    ("shape", "error", "message"),
    [
        (8, TypeError, "summary: input_shape must be a tuple of int, got 8"),
        ((2, 8.0, 9), TypeError, r"summary: input_shape must be an int, got \(2, 8.0, 9\)"),
        ((2, 0, 9), ValueError, "summary: input_shape must be >= 1"),
        ((2, 9, 20), ValueError, "Linear: x must be"),
    ],
)
def test_summary_refuses(shape, error, message):
    with pytest.raises(error, match=message):
        small_network().summary(shape)

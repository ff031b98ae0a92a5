"""The optimizers: their formulas by hand and against torch, and what is refused."""

import numpy as np
import pytest

from slidedot.layers import Linear, ReLU, Sequential
from slidedot.optim import SGD, Adam


def layer_with(weight, dtype=np.float64):
    """Return a layer whose only parameter is this row of weights."""
    layer = Linear(len(weight), 1, bias=False, dtype=dtype)
    layer.weight[...] = weight
    return layer


def test_sgd_by_hand(dtype):
    """Sums of powers of two: exact in both dtypes."""
    layer = layer_with([4.0, -2.0], dtype)
    optimizer = SGD(layer, 0.25, momentum=0.5, weight_decay=0.5)
    weight = layer.weight
    layer.grads = {"weight": np.array([[1, 1]], dtype)}
    optimizer.step()  # velocity [1 + 2, 1 - 1]
    np.testing.assert_array_equal(layer.weight, [[3.25, -2]])
    optimizer.step()  # velocity [1.5 + 1 + 1.625, 0 + 1 - 1]
    np.testing.assert_array_equal(layer.weight, [[2.21875, -2]])
    assert layer.weight is weight
    assert layer.weight.dtype == dtype
    np.testing.assert_array_equal(layer.grads["weight"], [[1, 1]])


def test_adam_takes_steps_of_the_learning_rate(dtype):
    """While a gradient does not change, the step is the learning rate, whatever its size."""
    layer = layer_with([1.0, 1.0, 1.0], dtype)
    optimizer = Adam(layer, learning_rate=0.125)
    layer.grads = {"weight": np.array([[1000, -2, 0]], dtype)}
    for _ in range(4):
        optimizer.step()
    # epsilon shortens a step by epsilon / |gradient|; a handful of roundings in each
    bound = 4 * 0.125 * 1e-8 / 2 + 4 * 20 * np.finfo(dtype).eps
    np.testing.assert_allclose(layer.weight, [[0.5, 1.5, 1]], rtol=0, atol=bound)
    assert layer.weight.dtype == dtype


@pytest.mark.parametrize(
    ("make", "make_torch"),
    [
        (lambda m: SGD(m, 0.1), lambda t, p: t.optim.SGD(p, lr=0.1)),
        (
            lambda m: SGD(m, 0.1, momentum=0.9, weight_decay=0.01),
            lambda t, p: t.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01),
        ),
        (lambda m: Adam(m), lambda t, p: t.optim.Adam(p)),
        (
            lambda m: Adam(m, 0.05, betas=(0.8, 0.95), epsilon=1e-4, weight_decay=0.1),
            lambda t, p: t.optim.Adam(p, lr=0.05, betas=(0.8, 0.95), eps=1e-4, weight_decay=0.1),
        ),
    ],
    ids=["SGD", "SGD with momentum", "Adam", "Adam with options"],
)
def test_equals_torch(make, make_torch):
    """Ten steps along given gradients, the learning rate halved in the middle."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    model = Sequential(
        Linear(4, 3, dtype=np.float64, rng=rng), ReLU(), Linear(3, 2, dtype=np.float64, rng=rng)
    )
    tensors = {name: torch.tensor(array) for name, array in model.parameters().items()}
    optimizer, twin = make(model), make_torch(torch, list(tensors.values()))
    start = model.state_dict()
    for step in range(10):
        grads = {name: rng.standard_normal(a.shape) for name, a in model.parameters().items()}
        model.grads = grads
        for name, tensor in tensors.items():
            tensor.grad = torch.tensor(grads[name])
        if step == 5:
            optimizer.learning_rate /= 2
            twin.param_groups[0]["lr"] /= 2
        optimizer.step()
        twin.step()
    for name, array in model.parameters().items():
        # A step has some ten roundings, each relative to a number that the sum of the absolute
        # gradients bounds: below 10 * 10 in ten steps, and the parameter is of the order of 1.
        np.testing.assert_allclose(
            array, tensors[name].numpy(), rtol=0, atol=100 * 10 * np.finfo(np.float64).eps
        )
        assert (array != start[name]).all()


def test_follows_a_loaded_state():
    layer = layer_with([1.0])
    optimizer = SGD(layer, 1)
    layer.load_state_dict({"weight": np.array([[5.0]])})
    layer.grads = {"weight": np.array([[2.0]])}
    optimizer.step()
    np.testing.assert_array_equal(layer.weight, [[3]])


@pytest.mark.parametrize("make", [lambda layer: SGD(layer, 0.1), Adam])
def test_needs_gradients(make):
    layer = layer_with([1.0])
    name = type(make(layer)).__name__
    with pytest.raises(
        ValueError, match=rf"{name}\.step: every parameter .* none for \['weight'\]"
    ):
        make(layer).step()
    np.testing.assert_array_equal(layer.weight, [[1]])


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda m: SGD([1, 2], 0.1), TypeError, r"SGD: layer must be a layer object, got \[1, 2\]"),
        (lambda m: SGD(m, "0.1"), TypeError, "SGD: learning_rate must be a real number, got '0.1'"),
        (lambda m: SGD(m, True), TypeError, "SGD: learning_rate must be a real number, got True"),
        (lambda m: SGD(m, 1j), TypeError, "SGD: learning_rate must be a real number"),
        (lambda m: SGD(m, -0.1), ValueError, r"SGD: learning_rate must be in \[0, inf\), got .*-0"),
        (
            lambda m: SGD(m, np.nan),
            ValueError,
            r"SGD: learning_rate must be in \[0, inf\), got .*nan",
        ),
        (
            lambda m: SGD(m, np.inf),
            ValueError,
            r"SGD: learning_rate must be in \[0, inf\), got .*inf",
        ),
        (lambda m: SGD(m, 10**400), ValueError, r"SGD: learning_rate must be in \[0, inf\)"),
        (
            lambda m: SGD(m, 1, momentum=1),
            ValueError,
            r"SGD: momentum must be in \[0, 1\), got .*1",
        ),
        (
            lambda m: SGD(m, 1, weight_decay=-1),
            ValueError,
            r"SGD: weight_decay must be in \[0, inf",
        ),
        (lambda m: Adam(None), TypeError, "Adam: layer must be a layer object, got None"),
        (lambda m: Adam(m, None), TypeError, "Adam: learning_rate must be a real number, got None"),
        (lambda m: Adam(m, betas=0.9), TypeError, "Adam: betas must be two real numbers, got 0.9"),
        (lambda m: Adam(m, betas=(0.9,)), ValueError, r"Adam: betas must be two .*betas=\(0.9,\)"),
        (lambda m: Adam(m, betas=(0.9, 1.0)), ValueError, r"Adam: betas must be in \[0, 1\), got"),
        (lambda m: Adam(m, epsilon=0), ValueError, r"Adam: epsilon must be in \(0, inf\), got eps"),
        (lambda m: Adam(m, weight_decay=-1), ValueError, "Adam: weight_decay must be in"),
    ],
)
def test_refuses(make, error, message):
    with pytest.raises(error, match=message):
        make(layer_with([1.0]))


def test_takes_numpy_numbers():
    optimizer = SGD(layer_with([1.0]), np.float32(0.5), momentum=np.int64(0))
    assert (type(optimizer.learning_rate), optimizer.learning_rate) == (float, 0.5)

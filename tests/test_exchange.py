"""Weights and arrays to and from other libraries: PyTorch, NumPy's and safetensors files, DLPack.

The layers' docstrings and docs/exchange.md promise that names and shapes of parameters are torch's,
and that arrays are read where they lie.
"""

import copy
import functools

import numpy as np
import pytest
from checks import assert_same, gamma
from pages import run
from test_refusals import ARRAYS, GOOD

import slidedot as sd
from slidedot import _validation
from slidedot.layers import (
    AvgPool2d,
    Conv2d,
    ConvTranspose2d,
    Flatten,
    Linear,
    MaxPool2d,
    ReLU,
    Sequential,
    softmax_cross_entropy,
)
from slidedot.optim import SGD


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


# ------------------------------------------------------------------------ networks


def network(dtype=np.float32):
    """Return a network with every kind of layer, for images (2, 8, 8)."""
    rng = np.random.default_rng(17)
    make = {"dtype": dtype, "rng": rng}
    model = Sequential(
        Conv2d(2, 4, 3, padding=1, groups=2, **make),
        MaxPool2d(2),
        ReLU(),
        Sequential(
            ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2, **make),
            ReLU(),
        ),
        AvgPool2d(3, stride=1, padding=1),
        Conv2d(6, 5, (3, 2), stride=2, dilation=(1, 2), bias=False, activation="relu", **make),
        Flatten(),
        Linear(45, 7, **make),
        ReLU(),
        Linear(7, 4, bias=False, **make),
    )
    for name, array in model.parameters().items():
        if name.endswith("bias"):
            array[...] = rng.uniform(-0.5, 0.5, array.shape)
    return model


def torch_network(torch, dtype=np.float32):
    """Return the same in torch, with other weights."""
    nn = torch.nn

    class ConvReLU(nn.Conv2d):
        def forward(self, x):
            return nn.functional.relu(super().forward(x))

    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, groups=2),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Sequential(
            nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2), nn.ReLU()
        ),
        nn.AvgPool2d(3, stride=1, padding=1),
        ConvReLU(6, 5, (3, 2), stride=2, dilation=(1, 2), bias=False),
        nn.Flatten(),
        nn.Linear(45, 7),
        nn.ReLU(),
        nn.Linear(7, 4, bias=False),
    )
    return model.to(getattr(torch, np.dtype(dtype).name))


def assert_same_state(actual, expected):
    """Assert the same names, in one order, and bits; arrays or tensors."""
    assert list(actual) == list(expected)
    for name, array in actual.items():
        assert_same(np.asarray(array), np.asarray(expected[name]))


# ------------------------------------------------------------------------ a training step


def magnitudes(layer):
    """Return the layer that sums absolute products: no signs, no bias, no activation."""
    layer = copy.deepcopy(layer)
    layer.activation = None
    for name, array in layer.parameters().items():
        array[...] = np.abs(array) if name == "weight" else 0
    return layer


def products(layer):
    """Return the most products that an output's or an input gradient's sum has."""
    if isinstance(layer, AvgPool2d):
        return layer.kernel_size[0] * layer.kernel_size[1]
    return layer.weight.size


def assert_routes_hold(layer, x, error):
    """Assert that errors of this size change neither a maximum's place nor a sign."""
    if isinstance(layer, MaxPool2d):
        taps = layer.kernel_size[0] * layer.kernel_size[1]
        columns = sd.im2col(x, layer.kernel_size, stride=layer.stride)
        ranked = np.sort(columns.reshape(*x.shape[:2], taps, -1), axis=2)
        lead = ranked[:, :, -1] - ranked[:, :, -2]
        assert (lead > 2 * layer(error).reshape(lead.shape)).all()
    if isinstance(layer, ReLU):
        assert (np.abs(x) > error).all()


def step_bounds(model, images, labels, dtype):
    """Return by how much the loss and each parameter's gradient may be wrong in `dtype`.

    `model` and `images` are in float64. A layer's output has the errors of its input, weighted as
    the input is, and those of its sums (see checks.py); its gradients likewise. ReLU and maxima
    pass errors on, as long as no error is large enough to send something another way.
    """
    unit = functools.partial(gamma, dtype=dtype)
    x, error, trail = images, np.zeros_like(images), []
    for name, layer in model._leaves():
        trail.append((name, layer, x, error))
        y = layer.forward(x, training=True)
        if isinstance(layer, (ReLU, MaxPool2d, Flatten)):
            assert_routes_hold(layer, x, error)
            error = layer(error)
        else:
            sums = magnitudes(layer)
            # with weights, those of one output's channel or number; and the bias, or the division
            terms = products(layer) // (1 if layer.weight is None else y.shape[1]) + 1
            largest = sums(np.abs(x) + error)
            if layer.bias is not None:
                largest += np.abs(layer.bias).reshape(-1, *[1] * (x.ndim - 2))
            error = sums(error) + unit(terms) * largest
            if getattr(layer, "activation", None):
                linear = copy.deepcopy(layer)
                linear.activation = None
                assert_routes_hold(ReLU(), linear(x), error)
        x = y

    _, grad = softmax_cross_entropy(x, labels)
    classes, spread = x.shape[1], np.ptp(x)
    # a logit's error multiplies its probability; exp, the sum and the division add a few roundings
    logits = error.max() + unit(1) * spread
    probability = grad + (np.arange(classes) == labels[:, None]) / len(labels)
    error = probability * (np.expm1(2 * logits) + unit(classes + 16)) + unit(3) * np.abs(grad)
    bounds = {"loss": 2 * logits + unit(classes + len(labels) + 20) * (1 + spread)}

    for name, layer, x, x_error in reversed(trail):
        largest = np.abs(grad) + error
        if isinstance(layer, (ReLU, MaxPool2d, Flatten)):
            grad = layer.backward(grad)
            layer.forward(x, training=True)
            error = layer.backward(error)
            continue
        if getattr(layer, "activation", None):
            passed = layer(x) > 0
            largest, error = largest * passed, error * passed
        sums, terms = magnitudes(layer), products(layer) + grad.size

        def back(x, grad, sums=sums):
            """Return the sums of absolute products for x and for the parameters."""
            sums.forward(x, training=True)
            return sums.backward(grad), dict(sums.grads)

        all_x, all_weights = back(np.abs(x) + x_error, largest)
        grad_x, by_grad = back(np.abs(x), error)
        _, by_x = back(x_error, largest)
        for key in layer.parameters():
            from_x = by_x[key] if key == "weight" else 0  # a bias has no factor
            bounds[f"{name}.{key}"] = by_grad[key] + from_x + unit(terms) * all_weights[key]
        grad = layer.backward(grad)
        error = grad_x + unit(terms) * all_x
    return bounds


def test_two_training_steps_are_torchs(torch, dtype):
    """Forward, loss, backward and SGD with momentum, from the same weights and velocities.

    torch computes in float64: what differs is this package's error, in float64 also torch's own.
    """
    rng = np.random.default_rng(2)
    model, exact, twin = network(dtype), network(np.float64), torch_network(torch, np.float64)
    optimizer = SGD(model, 0.125, momentum=0.75, weight_decay=0.0625)
    torch_optimizer = torch.optim.SGD(
        twin.parameters(), lr=0.125, momentum=0.75, weight_decay=0.0625
    )
    # the bounds are of the worst case, all the way through six layers
    own, sharpness = (2, 1e-9) if dtype == np.float64 else (1 + 1e-6, 0.25)
    velocity = dict.fromkeys(model.parameters(), 0)
    for _ in range(2):
        state = model.state_dict()
        exact.load_state_dict(state)
        twin.load_state_dict({name: torch.tensor(a) for name, a in state.items()})
        images = rng.standard_normal((3, 2, 8, 8)).astype(dtype)
        labels = rng.integers(0, 4, 3)
        bounds = step_bounds(exact, images.astype(np.float64), labels, dtype)

        loss, grad = softmax_cross_entropy(model.forward(images, training=True), labels)
        model.backward(grad, need_input_grad=False)
        optimizer.step()
        torch_optimizer.zero_grad()
        logits = twin(torch.tensor(images, dtype=torch.float64))
        torch_loss = torch.nn.functional.cross_entropy(logits, torch.tensor(labels))
        torch_loss.backward()
        torch_optimizer.step()

        assert abs(loss - torch_loss.item()) <= own * bounds["loss"]
        for name, parameter in twin.named_parameters():
            expected, limit = parameter.grad.numpy(), own * bounds[name]
            assert (np.abs(model.grads[name] - expected) <= limit).all(), name
            assert limit.max() < sharpness * np.abs(expected).max(), "a bound that says nothing"
            # weight decay, momentum and the step itself round a few times
            rounding = gamma(5, dtype) * (
                np.abs(state[name]) + 4 * np.abs(expected) + np.abs(velocity[name])
            )
            velocity[name] = 0.75 * velocity[name] + limit + 2 * rounding
            wrong = np.abs(model.parameters()[name] - parameter.detach().numpy())
            assert (wrong <= 0.125 * velocity[name] + rounding).all(), name
            assert (model.parameters()[name] != state[name]).any()


# ------------------------------------------------------------------------ weights


@pytest.mark.parametrize("saved", ["float16", "float32", "float64"])
def test_weights_go_to_torch_and_back(torch, dtype, saved):
    model, twin = network(dtype), torch_network(torch, saved)
    model.load_state_dict(twin.state_dict())
    expected = {name: tensor.numpy().astype(dtype) for name, tensor in twin.state_dict().items()}
    assert_same_state(model.state_dict(), expected)

    state = network(dtype).state_dict()  # others again
    missing, unexpected = twin.to(getattr(torch, dtype.name)).load_state_dict(
        {name: torch.from_numpy(array) for name, array in state.items()}
    )
    assert not missing
    assert not unexpected
    assert_same_state(twin.state_dict(), state)
    back = network(dtype)
    for array in back.parameters().values():
        array[...] = np.nan
    back.load_state_dict(twin.state_dict())
    assert_same_state(back.state_dict(), state)


def test_weights_go_through_an_npz_file(tmp_path, dtype):
    model, other = network(dtype), network(dtype)
    state = model.state_dict()
    np.savez(tmp_path / "model.npz", **state)
    for array in other.parameters().values():
        array[...] = np.nan
    with np.load(tmp_path / "model.npz") as file:
        assert list(file) == list(state)
        other.load_state_dict(file)
    assert_same_state(other.state_dict(), state)


def test_weights_go_through_a_safetensors_file(tmp_path, dtype):
    files = pytest.importorskip("safetensors.numpy")
    model, other = network(dtype), network(dtype)
    # The library writes an array's memory in whatever order it has; a state's is C-contiguous.
    model.layers[0].weight = np.asfortranarray(model.layers[0].weight)
    state = model.state_dict()
    files.save_file(state, tmp_path / "model.safetensors")
    for array in other.parameters().values():
        array[...] = np.nan
    other.load_state_dict(files.load_file(tmp_path / "model.safetensors"))
    assert_same_state(other.state_dict(), state)


def test_safetensors_files_go_to_torch_and_back(torch, tmp_path, dtype):
    files = pytest.importorskip("safetensors.numpy")
    torch_files = pytest.importorskip("safetensors.torch")
    model, twin = network(dtype), torch_network(torch, dtype)
    torch_files.save_file(twin.state_dict(), tmp_path / "torch.safetensors")
    model.load_state_dict(files.load_file(tmp_path / "torch.safetensors"))
    assert_same_state(model.state_dict(), twin.state_dict())

    state = network(dtype).state_dict()
    files.save_file(state, tmp_path / "ours.safetensors")
    twin.load_state_dict(torch_files.load_file(tmp_path / "ours.safetensors"))
    assert_same_state(twin.state_dict(), state)


def test_bfloat16_weights_are_refused_until_converted(torch):
    """NumPy has no such dtype; torch converts it without loss."""
    model, twin = network(), torch_network(torch).bfloat16()
    before = model.state_dict()
    message = r"load_state_dict: 0\.weight must be an array, got Tensor: .*BFloat16"
    with pytest.raises(TypeError, match=message):
        model.load_state_dict(twin.state_dict())
    assert_same_state(model.state_dict(), before)
    model.load_state_dict(twin.float().state_dict())
    assert_same_state(model.state_dict(), twin.state_dict())


# ------------------------------------------------------------------------ arrays


class OnlyDLPack:
    """What a library offers that knows nothing of NumPy."""

    def __init__(self, array, device=(1, 0)):
        self._array, self._device = array, device

    def __dlpack__(self, **keywords):
        return self._array.__dlpack__(**keywords)

    def __dlpack_device__(self):
        return self._device


class OnlyArray:
    def __init__(self, array):
        self._array = array

    def __array__(self, dtype=None, copy=None):
        return self._array


class Subclass(np.ndarray):
    pass


def read_only(array):
    array = array.view()
    array.flags.writeable = False
    return array


#: Other things than arrays that hold an array, or make of one's memory.
KINDS = {
    "DLPack": OnlyDLPack,
    "read-only DLPack": lambda array: OnlyDLPack(read_only(array)),
    "__array__": OnlyArray,
    "buffer": memoryview,
    "subclass": lambda array: array.view(Subclass),
}


def as_tensor(array):
    return pytest.importorskip("torch").from_numpy(array)


EVERY_KIND = pytest.mark.parametrize(
    "kind", [*KINDS.values(), as_tensor], ids=[*KINDS, "torch.Tensor"]
)


@EVERY_KIND
def test_arrays_are_read_where_they_lie(kind):
    """Also a part of a larger one: its strides come along."""
    memory = np.arange(2.0 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    for array in (memory, memory.transpose(0, 3, 1, 2), memory[:, ::2, 1:, 1:4]):
        read = _validation.floats("test", "x", kind(array))
        assert type(read) is np.ndarray
        assert np.shares_memory(read, memory)
        assert read.strides == array.strides
        assert_same(read, array)


@EVERY_KIND
@pytest.mark.parametrize("function", ARRAYS)
def test_every_function_takes_them(kind, function):
    arguments = {name: value for name, value in GOOD[function]().items() if name != "out"}
    expected = getattr(sd, function)(**arguments)
    given = {
        name: kind(value) if isinstance(value, np.ndarray) else value
        for name, value in arguments.items()
    }
    actual = getattr(sd, function)(**given)
    if function == "Conv2dPlan":
        x = np.ones((2, 4, 6, 7), np.float32)
        actual, expected = actual(kind(x)), expected(x)
    actual, expected = (r if isinstance(r, tuple) else (r,) for r in (actual, expected))
    for a, e in zip(actual, expected, strict=True):
        assert_same(a, e)


@EVERY_KIND
def test_layers_and_the_loss_take_them(kind):
    x, labels = np.random.default_rng(0).standard_normal((2, 2, 8, 8)), np.array([3, 1])
    model, same = network(np.float64), network(np.float64)
    expected = softmax_cross_entropy(model.forward(x, training=True), labels)
    actual = softmax_cross_entropy(kind(same.forward(kind(x), training=True)), kind(labels))
    assert actual[0] == expected[0]
    assert_same(same.backward(kind(actual[1])), model.backward(expected[1]))
    assert_same_state(same.grads, model.grads)


def test_results_go_into_another_librarys_memory(torch):
    x = torch.arange(18.0).reshape(1, 2, 3, 3)
    tensor = torch.full((1, 2, 2, 2), torch.nan)
    for out in (tensor.numpy(), np.from_dlpack(tensor)):
        tensor.fill_(torch.nan)
        assert sd.max_pool2d(x, 2, stride=1, out=out) is out
        assert torch.equal(tensor, torch.nn.functional.max_pool2d(x, 2, 1))
    with pytest.raises(ValueError, match="max_pool2d: out shares memory with x"):
        sd.max_pool2d(x, 2, stride=1, out=x.numpy()[:, :, 1:, 1:])
    with pytest.raises(TypeError, match="max_pool2d: out must be a NumPy array, got Tensor"):
        sd.max_pool2d(x, 2, stride=1, out=tensor)


def test_results_become_tensors_without_a_copy(torch):
    y = sd.max_pool2d(np.arange(16.0).reshape(1, 1, 4, 4), 2)
    for tensor in (torch.from_numpy(y), torch.from_dlpack(y)):
        assert np.shares_memory(tensor.numpy(), y)


class Broken:
    def __dlpack__(self, **keywords):
        raise RuntimeError("nothing here")

    def __dlpack_device__(self):
        return (1, 0)


class NoCapsule(Broken):
    def __dlpack__(self, **keywords):
        return 5


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (OnlyDLPack(np.ones((1, 2, 2)), (2, 1)), r"the CPU's memory, got DLPack device \(2, 1\)"),
        (OnlyDLPack(np.ones((1, 2, 2), np.float16)), "float32 or float64, got float16"),
        (OnlyDLPack(np.ones((1, 2, 2), np.int32)), "float32 or float64, got int32"),
        (OnlyDLPack(np.ones((1, 2, 2), ">f8")), "must be an array, got OnlyDLPack: .*byte order"),
        (Broken(), "must be an array, got Broken: nothing here"),
        (NoCapsule(), "must be an array, got NoCapsule"),
    ],
)
def test_what_cannot_be_read_is_refused(x, message):
    with pytest.raises(TypeError, match=f"im2col: x .*{message}"):
        sd.im2col(x, 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x.requires_grad_(), r"got Tensor: .*requires grad\. Use tensor\.detach\(\)"),
        (lambda x: x.half(), "must be float32 or float64, got float16"),
        (lambda x: x.bfloat16(), "got Tensor: .*BFloat16"),
        (lambda x: x.int(), "must be float32 or float64, got int32"),
        (lambda x: x.to("meta"), "got Tensor: can't convert meta device"),
        (lambda x: x.to_sparse(), "got Tensor: can't convert Sparse"),
    ],
    ids=["requires_grad", "float16", "bfloat16", "int32", "another device", "sparse"],
)
def test_tensors_that_cannot_be_read_are_refused(torch, change, message):
    """In torch's own words, which say what to do."""
    with pytest.raises(TypeError, match=f"conv2d: x .*{message}"):
        sd.conv2d(change(torch.ones(1, 1, 4, 4)), np.ones((1, 1, 2, 2), np.float32))


def test_bfloat16_arrays_are_refused():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    with pytest.raises(TypeError, match="im2col: x must be float32 or float64, got bfloat16"):
        sd.im2col(np.ones((1, 4, 4), ml_dtypes.bfloat16), 2)


# ------------------------------------------------------------------------ the page


def test_the_page_prints_what_it_says(torch, tmp_path, monkeypatch):
    pytest.importorskip("safetensors")
    monkeypatch.chdir(tmp_path)  # where its files go
    _, report = run("exchange.md")
    assert not report, report

"""The example that puts slidedot into PyTorch: its gradients, and the modules beside torch's."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
GradcheckError = pytest.importorskip("torch.autograd.gradcheck").GradcheckError

PATH = Path(__file__).resolve().parents[1] / "examples" / "torch_autograd.py"


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("torch_autograd", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_gradients(example, level):
    assert example.check_gradients() == len(example.CONVOLUTIONS) + len(example.POOLINGS)


def test_a_wrong_gradient_is_found(example, monkeypatch):
    """Otherwise the test above might hold for anything."""
    right = example.sd.conv2d_backward

    def wrong(*arguments, **options):
        grads = right(*arguments, **options)
        return grads._replace(weight=grads.weight * 1.01)

    monkeypatch.setattr(example.sd, "conv2d_backward", wrong)
    with pytest.raises(GradcheckError):
        example.check_gradients()


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_model_taken_over(example, memory_format):
    """Integers, whose sums are exact: outputs, and the gradients of all parameters, are equal."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(2, 4, 3, stride=2, padding=1, bias=False),
        torch.nn.Sequential(torch.nn.ReLU(), torch.nn.MaxPool2d(3, 2, 1, ceil_mode=True)),
        torch.nn.Conv2d(4, 6, (2, 3), padding="same", dilation=2, groups=2),
    ).double()
    for parameter in model.parameters():
        parameter.data = torch.randint(-3, 4, parameter.shape).double()
    ours = example.on_slidedot(model)
    assert list(ours.state_dict()) == list(model.state_dict())
    x = torch.randint(-3, 4, (3, 2, 17, 14)).double().to(memory_format=memory_format)
    gradients = []
    for net in (model, ours):
        y = net(x)
        (y * torch.arange(y.numel()).reshape(y.shape)).sum().backward()
        gradients.append([y, *(parameter.grad for parameter in net.parameters())])
    for a, b in zip(*gradients, strict=True):
        np.testing.assert_array_equal(a.detach(), b.detach())
    assert {type(module) for module in ours.modules()} >= {example.Conv2d, example.MaxPool2d}
    assert type(model[0]) is torch.nn.Conv2d  # the model itself is left alone


def test_places_are_torchs(example):
    x = torch.randn(2, 3, 9, 8)
    layer = torch.nn.MaxPool2d(3, 2, 1, return_indices=True)
    for a, b in zip(layer(x), example.MaxPool2d.of(layer)(x), strict=True):
        assert torch.equal(a, b)
        assert a.dtype == b.dtype


def test_other_paddings_are_refused(example):
    with pytest.raises(ValueError, match="padding_mode must be 'zeros', got 'circular'"):
        example.Conv2d.of(torch.nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular"))

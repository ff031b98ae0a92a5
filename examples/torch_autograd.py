"""Put slidedot's convolution and max pooling into PyTorch: autograd functions and modules.

Tensors and arrays share their memory, nothing is copied. The program checks every gradient with
torch's own `gradcheck`, trains one small ConvNet on the 1,797 digits of scikit-learn with either
backend from the same weights, prints both test accuracies, and then how long layers take beside
torch's own. To use it, copy the two functions and the two modules.

    pip install "slidedot[examples,torch]"
    python torch_autograd.py --epochs 5 --threads 1
"""

import argparse
import copy
import time

import numpy as np
import torch
from torch import nn
from torch.autograd.function import once_differentiable

import slidedot as sd


class Convolution(torch.autograd.Function):
    """`slidedot.conv2d` and its gradients, those that autograd needs."""

    @staticmethod
    def forward(ctx, x, weight, bias, options):
        """Return the convolution of x (N, C, H, W); `options` are keywords of `conv2d`."""
        ctx.save_for_backward(x, weight)
        ctx.options = options
        bias = None if bias is None else bias.detach().numpy()
        return torch.from_numpy(
            sd.conv2d(x.detach().numpy(), weight.detach().numpy(), bias, **options)
        )

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_out):
        """Return the gradients for x, weight and bias, and none for the options."""
        x, weight = (tensor.detach().numpy() for tensor in ctx.saved_tensors)
        names = ("x", "weight", "bias")
        need = tuple(n for n, needed in zip(names, ctx.needs_input_grad, strict=False) if needed)
        grads = sd.conv2d_backward(grad_out.numpy(), x, weight, need=need, **ctx.options)
        return *(None if grad is None else torch.from_numpy(grad) for grad in grads), None


class MaxPooling(torch.autograd.Function):
    """`slidedot.max_pool2d` with the places of the maxima, and its gradient."""

    @staticmethod
    def forward(ctx, x, kernel_size, options):
        """Return the maxima (N, C, OH, OW) and their places, of x (N, C, H, W)."""
        y, argmax = map(
            torch.from_numpy,
            sd.max_pool2d(x.detach().numpy(), kernel_size, return_argmax=True, **options),
        )
        ctx.save_for_backward(argmax)
        ctx.mark_non_differentiable(argmax)
        ctx.size = tuple(x.shape[-2:])
        return y, argmax

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_out, _):
        """Return the gradient for x."""
        (argmax,) = ctx.saved_tensors
        grad = sd.max_pool2d_backward(grad_out.numpy(), argmax.numpy(), ctx.size)
        return torch.from_numpy(grad), None, None


class Conv2d(nn.Conv2d):
    """`torch.nn.Conv2d`, computed by slidedot."""

    @classmethod
    def of(cls, layer):
        """Return such a layer that shares the parameters of a `torch.nn.Conv2d`."""
        if layer.padding_mode != "zeros":
            raise ValueError(f"padding_mode must be 'zeros', got {layer.padding_mode!r}")
        # on the meta device no memory is taken for the parameters that are replaced at once
        result = cls(
            layer.in_channels,
            layer.out_channels,
            layer.kernel_size,
            layer.stride,
            layer.padding,
            layer.dilation,
            layer.groups,
            device="meta",
        )
        result.weight, result.bias = layer.weight, layer.bias
        return result

    def options(self):
        """Return the keywords for `slidedot.conv2d`."""
        return {name: getattr(self, name) for name in ("stride", "padding", "dilation", "groups")}

    def forward(self, x):
        """Return the convolution of x (N, C, H, W) or (C, H, W)."""
        return Convolution.apply(x, self.weight, self.bias, self.options())


class MaxPool2d(nn.MaxPool2d):
    """`torch.nn.MaxPool2d`, computed by slidedot."""

    @classmethod
    def of(cls, layer):
        """Return such a layer with the numbers of a `torch.nn.MaxPool2d`."""
        names = ("kernel_size", "stride", "padding", "dilation", "return_indices", "ceil_mode")
        return cls(**{name: getattr(layer, name) for name in names})

    def forward(self, x):
        """Return the maxima of x (N, C, H, W) or (C, H, W), with `return_indices` their places."""
        options = {n: getattr(self, n) for n in ("stride", "padding", "dilation", "ceil_mode")}
        y, argmax = MaxPooling.apply(x, self.kernel_size, options)
        return (y, argmax.long()) if self.return_indices else y


OURS = {nn.Conv2d: Conv2d, nn.MaxPool2d: MaxPool2d}


def on_slidedot(model):
    """Return a copy of a torch model whose convolutions and max poolings slidedot computes."""

    def replace(module):
        for name, child in module.named_children():
            if type(child) in OURS:
                setattr(module, name, OURS[type(child)].of(child))
            else:
                replace(child)

    model = nn.Sequential(copy.deepcopy(model))
    replace(model)
    return model[0]


# ---------------------------------------------------------------------------------- the check

#: Channels, filters, image and kernel, and the options of a convolution.
CONVOLUTIONS = [
    (2, 3, (4, 5), 3, {}),
    (2, 4, (5, 4), (3, 2), {"stride": (2, 1), "padding": (1, 2), "groups": 2}),
    (3, 3, (5, 4), 3, {"padding": 2, "dilation": 2, "groups": 3}),
    (2, 2, (4, 5), (2, 4), {"padding": "same"}),
    (3, 2, (7, 5), 1, {"stride": 3, "bias": False}),
]

#: Image and kernel, and the options of a pooling.
POOLINGS = [
    ((4, 6), 2, {}),
    ((5, 6), 3, {"stride": 2, "padding": 1}),
    ((6, 5), (2, 3), {"stride": (3, 1), "dilation": (2, 1), "ceil_mode": True}),
]


def check_gradients():
    """Hold every gradient against differences of outputs, in float64; return how many layers."""
    torch.manual_seed(0)
    for channels, filters, size, kernel_size, options in CONVOLUTIONS:
        layer = Conv2d(channels, filters, kernel_size, dtype=torch.float64, **options)
        x = torch.randn(2, channels, *size, dtype=torch.float64, requires_grad=True)
        inputs = x, layer.weight, layer.bias, layer.options()
        torch.autograd.gradcheck(Convolution.apply, inputs)
    for size, kernel_size, options in POOLINGS:
        # numbers far enough apart that a small step changes no maximum
        pixels = torch.randperm(2 * size[0] * size[1], dtype=torch.float64)
        x = pixels.reshape(1, 2, *size).requires_grad_()
        torch.autograd.gradcheck(MaxPool2d(kernel_size, **options), (x,))
    return len(CONVOLUTIONS) + len(POOLINGS)


# ---------------------------------------------------------------------------------- a network


def load():
    """Return images (N, 1, 8, 8) in [0, 1] and labels (N,), for training and for the test."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    images = (digits.images[:, None] / 16).astype(np.float32)
    parts = train_test_split(
        images, digits.target, test_size=0.2, stratify=digits.target, random_state=0
    )
    x, x_test, labels, labels_test = map(torch.from_numpy, parts)
    return x, labels, x_test, labels_test


def network():
    """Return the untrained network, in torch's own layers."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 4 * 4, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


def train(model, x, labels, epochs, seed):
    """Train in place, in an order that depends on the seed alone."""
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    order = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for batch in torch.randperm(len(x), generator=order).split(32):
            loss = nn.functional.cross_entropy(model(x[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


# ---------------------------------------------------------------------------------- the times

#: A layer of torch and the shape of its input.
LAYERS = {
    "LeNet, 5x5, 6 -> 16": (nn.Conv2d(6, 16, 5), (128, 6, 14, 14)),
    "VGG, 3x3, 64 -> 64": (nn.Conv2d(64, 64, 3, padding=1), (4, 64, 56, 56)),
    "ResNet, 3x3 / 2, 64 -> 128": (nn.Conv2d(64, 128, 3, stride=2, padding=1), (4, 64, 56, 56)),
    "depthwise, 3x3, 64": (nn.Conv2d(64, 64, 3, padding=1, groups=64), (4, 64, 56, 56)),
    "max pooling, 2x2": (nn.MaxPool2d(2), (4, 64, 56, 56)),
    "max pooling, 3x3 / 2": (nn.MaxPool2d(3, 2, 1), (4, 64, 56, 56)),
}


def measure(layer, shape, rounds):
    """Return the milliseconds (forward, backward) of slidedot and of torch, the least of all
    rounds, taken in turn."""
    backends = OURS[type(layer)].of(layer), layer
    x = torch.randn(shape, requires_grad=True)
    grad_out = torch.randn_like(layer(x))
    times = np.full((rounds, 2, 2), np.inf)
    for times_of_round in times:
        for i, backend in enumerate(backends):
            start = time.perf_counter()
            y = backend(x)
            middle = time.perf_counter()
            y.backward(grad_out)
            times_of_round[i] = middle - start, time.perf_counter() - middle
    return times.min(axis=0) * 1e3


def main():
    """Run the program."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=5, help="passes over the training images")
    parser.add_argument("--seed", type=int, default=0, help="of the weights and of the order")
    parser.add_argument("--threads", type=int, default=1, help="of either backend")
    parser.add_argument("--quick", action="store_true", help="one epoch and few rounds, as a check")
    arguments = parser.parse_args()
    epochs, rounds = (1, 2) if arguments.quick else (arguments.epochs, 30)
    torch.set_num_threads(arguments.threads)
    sd.set_num_threads(arguments.threads)

    print(f"gradients of {check_gradients()} layers agree with differences of their outputs")

    x, labels, x_test, labels_test = load()
    torch.manual_seed(arguments.seed)
    start = network()
    for name, model in (("torch", copy.deepcopy(start)), ("slidedot", on_slidedot(start))):
        train(model, x, labels, epochs, arguments.seed)
        with torch.inference_mode():
            right = (model(x_test).argmax(1) == labels_test).double().mean()
        print(f"test accuracy with {name}: {right:.2%} of {len(labels_test)} digits")

    print(f"\n{'':<28}{'forward: ms':>14}{'torch':>8}{'/ torch':>9}", end="")
    print(f"{'backward: ms':>15}{'torch':>8}{'/ torch':>9}")
    for name, (layer, shape) in LAYERS.items():
        ours, torchs = measure(layer, shape, rounds)
        columns = "".join(
            f"{ms:{width}.2f}{other:8.2f}{other / ms:8.1f}x"
            for ms, other, width in zip(ours, torchs, (14, 15), strict=True)
        )
        print(f"{name:<28}{columns}")


if __name__ == "__main__":
    main()

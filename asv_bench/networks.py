"""Whole networks, slidedot's layers beside torch's, measured in turn in one process.

    pip install ".[compare]"
    python asv_bench/networks.py                              # every network, one thread
    python asv_bench/networks.py --networks lenet --threads 2

A training step is forward, loss, backward and SGD's update. Both libraries start from the same
weights, and before the time starts their losses and gradients, or their outputs, are compared.
"""

import argparse
import sys
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
from compare import Column, contenders, heading, render, shortest
from contenders import Contender
from families import Family
from threadpoolctl import threadpool_limits

from slidedot import _dispatch, set_num_threads
from slidedot.layers import (
    Conv2d,
    Flatten,
    Linear,
    MaxPool2d,
    ReLU,
    Sequential,
    softmax_cross_entropy,
)
from slidedot.optim import SGD

LEARNING_RATE = 1e-4  # thousands of steps on one batch leave the weights ordinary

#: A larger difference between the two libraries, relative to the largest number of an array, means
#: another computation: rounding alone makes one of about 1e-6 per layer.
TOLERANCE = 1e-4


class Network(NamedTuple):
    """``layers(rng)`` returns the network's layers; `classes` is None where it is not trained."""

    layers: Callable
    x: tuple
    classes: int | None = None

    @property
    def task(self):
        return "forward" if self.classes is None else "training step"


def lenet(rng):
    return [
        Conv2d(1, 6, 5, padding=2, activation="relu", rng=rng),
        MaxPool2d(2),
        Conv2d(6, 16, 5, activation="relu", rng=rng),
        MaxPool2d(2),
        Flatten(),
        Linear(400, 120, rng=rng),
        ReLU(),
        Linear(120, 84, rng=rng),
        ReLU(),
        Linear(84, 10, rng=rng),
    ]


def vgg_features(channels, blocks, rng):
    """Return 3x3 convolutions, of so many outputs, with a pooling after each block."""
    layers = []
    for block in blocks:
        for outputs in block:
            layers.append(Conv2d(channels, outputs, 3, padding=1, activation="relu", rng=rng))
            channels = outputs
        layers.append(MaxPool2d(2))
    return layers


def small_vgg(rng):
    features = vgg_features(3, [(32, 32), (64, 64)], rng)
    return [*features, Flatten(), Linear(4096, 256, rng=rng), ReLU(), Linear(256, 10, rng=rng)]


VGG16 = [(64, 64), (128, 128), (256,) * 3, (512,) * 3, (512,) * 3]

NETWORKS = {
    "lenet": Network(lenet, (64, 1, 28, 28), 10),
    "small-vgg": Network(small_vgg, (64, 3, 32, 32), 10),
    "vgg16-features": Network(partial(vgg_features, 3, VGG16), (1, 3, 224, 224)),
}


# The libraries: contenders as in `contenders`, of a network and its arrays


class Arrays(NamedTuple):
    """The state that a network starts with, its input, and a label per image or None."""

    state: dict
    x: np.ndarray
    labels: np.ndarray | None


def slidedot_contenders(settings):
    def prepare(network, a):
        model = Sequential(*network.layers(np.random.default_rng(0)))
        model.load_state_dict(a.state)
        if a.labels is None:
            return partial(model, a.x), lambda y: [y]
        optimizer = SGD(model, LEARNING_RATE)

        def step():
            logits = model.forward(a.x, training=True)
            loss, grad = softmax_cross_entropy(logits, a.labels)
            model.backward(grad, need_input_grad=False)
            optimizer.step()
            return loss

        return step, lambda loss: [np.float32(loss), *model.grads.values()]

    return [Contender("slidedot", prepare)]


def torch_model(layers):
    """Return the same network as a torch module, with weights of its own."""
    from torch import nn

    modules = []
    for layer in layers:
        if isinstance(layer, Conv2d):
            channels = layer.in_channels, layer.out_channels
            modules.append(nn.Conv2d(*channels, layer.kernel_size, padding=layer.padding))
        elif isinstance(layer, MaxPool2d):
            modules.append(nn.MaxPool2d(layer.kernel_size))
        elif isinstance(layer, Flatten):
            modules.append(nn.Flatten())
        elif isinstance(layer, Linear):
            modules.append(nn.Linear(layer.in_features, layer.out_features))
        if isinstance(layer, ReLU) or getattr(layer, "activation", None):
            modules.append(nn.ReLU(inplace=True))
    return nn.Sequential(*modules)


def torch_contenders(settings):
    import torch

    torch.set_num_threads(settings.threads)

    def prepare(memory_format, network, a):
        """The input and the weights lie in that format before the time starts."""
        model = torch_model(network.layers(np.random.default_rng(0)))
        # the numbers in the names differ: torch counts each ReLU as a layer
        values = map(torch.from_numpy, a.state.values())
        model.load_state_dict(dict(zip(model.state_dict(), values, strict=True)))
        model.to(memory_format=memory_format)
        x = torch.from_numpy(a.x).contiguous(memory_format=memory_format)
        if a.labels is None:
            return torch.inference_mode()(partial(model.eval(), x)), lambda y: [y.numpy()]
        labels = torch.from_numpy(a.labels)
        optimizer = torch.optim.SGD(model.parameters(), LEARNING_RATE)

        def step():
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(x), labels)
            loss.backward()
            optimizer.step()
            return loss.item()

        return step, lambda loss: [np.float32(loss), *(p.grad.numpy() for p in model.parameters())]

    return [
        Contender("torch", partial(prepare, torch.contiguous_format)),
        Contender("torch NHWC", partial(prepare, torch.channels_last)),
    ]


LIBRARIES = {"slidedot": slidedot_contenders, "torch": torch_contenders}


# Measuring and reporting


class Measured(NamedTuple):
    """A network's seconds, and differences from slidedot, by contender."""

    network: str
    seconds: dict
    differences: dict


def measure(name, field, settings):
    """Compare the contenders' results, then time them."""
    network, rng = NETWORKS[name], np.random.default_rng(0)
    state = Sequential(*network.layers(rng)).state_dict()
    x = rng.standard_normal(network.x, np.float32)
    labels = None if network.classes is None else rng.integers(network.classes, size=len(x))
    calls, differences = {}, {}
    for contender, prepare, *_ in field:
        calls[contender], results = prepare(network, Arrays(state, x, labels))
        arrays = results(calls[contender]())
        if contender == "slidedot":
            own = [np.array(array) for array in arrays]
            continue
        differences[contender] = max(
            np.abs(a - b).max() / np.abs(b).max() for a, b in zip(own, arrays, strict=True)
        )
        if not differences[contender] <= TOLERANCE:
            sys.exit(f"{contender} differs on {name}, by {differences[contender]}")
    return Measured(name, shortest(calls, settings.seconds), differences)


def table(measured):
    """Return the table's columns; a ratio is another's time over slidedot's."""
    names = list(measured[0].seconds)
    own = np.array([m.seconds["slidedot"] for m in measured])
    networks = [NETWORKS[m.network] for m in measured]
    columns = [
        Column("network", [m.network for m in measured]),
        Column("task", [network.task for network in networks]),
        Column("input", [", ".join(map(str, network.x)) for network in networks]),
        *(Column(f"{name} ms", [1e3 * m.seconds[name] for m in measured], ".3g") for name in names),
    ]
    for name in names[1:]:
        ratios = [m.seconds[name] for m in measured] / own
        columns.append(Column(f"/ {name}", ratios, ".2f", summed_up=True))
    for name in names[1:]:
        differences = [m.differences[name] for m in measured]
        columns.append(Column(f"difference from {name}", differences, ".1e"))
    return columns


def selected(text):
    """Return the networks with these words in their names."""
    parts = text.split(",")
    chosen = [name for name in NETWORKS if any(part in name for part in parts)]
    if not all(any(part in name for name in NETWORKS) for part in parts):
        raise argparse.ArgumentTypeError(f"no network {text!r}; there are {', '.join(NETWORKS)}")
    return chosen


def arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--networks", type=selected, default=list(NETWORKS), help="parts of names: lenet,16")
    add("--threads", type=int, default=1, help="of both")
    add("--seconds", type=float, default=9, help="for each network, shared by all contenders")
    add("--markdown", action="store_true", help="a table for docs/performance.md")
    parser.set_defaults(dtype="float32")
    return parser.parse_args(argv)


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    settings = arguments(argv)
    set_num_threads(settings.threads)
    threadpool_limits(1, "blas")  # NumPy's, for `Linear`: its threads spin on the kernels' CPUs
    field = contenders(Family("Networks", LIBRARIES, exact=None), settings)
    measured = []
    for name in settings.networks:
        print(name, file=sys.stderr)
        measured.append(measure(name, field, settings))
    peak = settings.threads * _dispatch.kernels.tile.peak(0.2, False)
    print(heading("networks", argv, settings, _dispatch.kernels.level, peak))
    print("", render(table(measured), settings.markdown), sep="\n")


if __name__ == "__main__":
    main()

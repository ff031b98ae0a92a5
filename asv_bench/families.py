"""What `compare` measures: the tables, their layers, and the libraries in each."""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from benchmarks.shapes import COLUMNS, CONVOLUTIONS, DEPTHWISE, MEANS, POOLINGS, TRANSPOSED, Layer
from contenders import (
    alone,
    averages_by,
    columns_by,
    exact_pooling,
    model_readers,
    onnxruntime_contenders,
    slidedot_algorithms,
    slidedot_contenders,
    slidedot_im2col,
    slidedot_layer,
    slidedot_pooling,
    slidedot_transposed,
    torch_averages,
    torch_columns,
    torch_contenders,
    torch_convolution,
    torch_pooling,
    torch_transposed,
)


def chosen(layers, names):
    return {name: layers[name] for name in names.split()}


LAYERS = {
    "vgg-1-n4": Layer(4, 3, 224, 64, 3, padding=1),
    **chosen(CONVOLUTIONS, "vgg-2"),
    "vgg-4": Layer(1, 128, 112, 128, 3, padding=1),
    "vgg-6": Layer(1, 256, 56, 256, 3, padding=1),
    **chosen(CONVOLUTIONS, "vgg-9"),
    "vgg-11": Layer(1, 512, 14, 512, 3, padding=1),
    "resnet-stem-n4": COLUMNS["resnet-stem-batch"],
    **chosen(CONVOLUTIONS, "resnet-3x3 resnet-1x1 resnet-down"),
    "resnet-1x1-late": Layer(8, 256, 14, 1024, 1),
    **chosen(CONVOLUTIONS, "resnet-last lenet-1 lenet-2"),
    **chosen(COLUMNS, "cifar-5x5"),
    "cs231n": Layer(100, 3, 31, 25, 3, stride=2, padding=1),
    "alexnet-1": Layer(8, 3, 227, 96, 11, stride=4),
}

POOL = chosen(POOLINGS, "vgg-batch alexnet-batch lenet inception-56 5x5 spp")
POOL["portrait"] = Layer(1, 16, 1500, 0, 2, stride=2, width=1000)


class Rate(NamedTuple):
    """What a table counts: ``work(layer, output, itemsize)``, where `output` is a shape."""

    unit: str
    work: Callable
    form: str


#: Both gradients have as many multiply-adds as the forward pass.
FLOPS = Rate("GFLOP/s", lambda layer, y, _: 2 * math.prod(y) * math.prod(layer.weight[1:]), ".0f")
BYTES = Rate(
    "GB/s of input and output",
    lambda layer, y, itemsize: itemsize * (math.prod(layer.x) + math.prod(y)),
    ".2f",
)


class Family(NamedTuple):
    """A table. By library, a function of (settings) that imports it and returns its contenders;
    ``exact(layer, arrays)``, with arrays of float64, is a contender's ``prepare``.

    `output` is the layer's property with the shape of its output, `axes` the letters of its sizes;
    with `tolerance` None the dtype's holds.
    """

    title: str
    libraries: dict
    exact: Callable
    layers: dict = LAYERS
    rate: Rate = FLOPS
    output: str = "y"
    axes: str = "N, C, H, K, k, s"
    tolerance: float | None = None
    by_algorithm: bool = False


def convolution(title, need=(), others=(), layers=LAYERS):
    """The lecture's matrix product, which shares no kernel with conv2d, is the exact result."""
    libraries = {
        "slidedot": partial(slidedot_contenders, need=need),
        "torch": partial(torch_contenders, partial(torch_convolution, need=need)),
    }
    exact = partial(slidedot_layer, need=need, algorithm="im2col")
    return Family(title, {**libraries, **dict(others)}, exact, layers)


def algorithms(title, need=()):
    libraries = {
        "slidedot": partial(slidedot_algorithms, need=need),
        "im2col": partial(slidedot_im2col, need=need),
    }
    return convolution(title, need)._replace(libraries=libraries, by_algorithm=True)


def transposed():
    """The layers are the convolutions that are transposed."""
    libraries = {
        "slidedot": partial(alone, slidedot_transposed),
        "torch": partial(torch_contenders, torch_transposed),
    }
    family = convolution("Transposed convolution", ("x",), layers=TRANSPOSED)
    return family._replace(libraries=libraries)


def pooling(title, task, others=(), tolerance=0):
    libraries = {
        "slidedot": partial(alone, partial(slidedot_pooling, task=task)),
        "torch": partial(torch_contenders, partial(torch_pooling, task=task)),
    }
    return Family(
        title, {**libraries, **dict(others)}, partial(exact_pooling, task=task), POOL, BYTES,
        axes="N, C, H, W, k, s, p", tolerance=tolerance,
    )  # fmt: skip


def averages(title, back, others=()):
    libraries = {
        "slidedot": partial(alone, partial(averages_by, "slidedot", back=back)),
        "torch": partial(torch_contenders, partial(torch_averages, back=back)),
    }
    return Family(
        title, {**libraries, **dict(others)},
        partial(averages_by, "slidedot.reference", back=back), MEANS, BYTES,
        axes="N, C, H, W, k, s, p",
    )  # fmt: skip


def columns(title, task, tolerance=None):
    timed = partial(torch_columns, task=task)
    libraries = {
        "slidedot": partial(alone, partial(columns_by, "slidedot", task=task)),
        "torch": partial(torch_contenders, timed, formats=["torch"]),
    }
    layers = chosen(COLUMNS, "resnet-3x3 resnet-stem-batch cifar-5x5 lenet-2")
    return Family(
        title, libraries, partial(columns_by, "slidedot.reference", task=task), layers, BYTES,
        output="cols", axes="N, C, H, W, k, s, p", tolerance=tolerance,
    )  # fmt: skip


WITH_ARGMAX = {"onnxruntime": partial(onnxruntime_contenders, "MaxPool", outputs=["y", "argmax"])}

#: By the option that asks for them, and whether --backward is given too.
FAMILIES = {
    ("layers", False): [convolution("Forward", others=model_readers("Conv"))],
    ("layers", True): [
        convolution("Gradient for x", ("x",)),
        convolution("Gradient for weight and bias", ("weight", "bias")),
    ],
    ("algorithms", False): [algorithms("Forward")],
    ("algorithms", True): [
        algorithms("Gradient for x", ("x",)),
        algorithms("Gradient for weight and bias", ("weight", "bias")),
    ],
    ("depthwise", False): [
        convolution("Depthwise", (), model_readers("Conv"), DEPTHWISE),
        convolution("Depthwise, gradient for x", ("x",), layers=DEPTHWISE),
        convolution("Depthwise, gradient for weight", ("weight",), layers=DEPTHWISE),
    ],
    ("transposed", False): [transposed()],
    ("pool", False): [
        pooling("Max pooling with argmax", "argmax", WITH_ARGMAX),
        pooling("Max pooling without argmax", "maxima", model_readers("MaxPool")),
        pooling("Max pooling, backward", "gradient", tolerance=None),
    ],
    ("average", False): [
        averages("Average pooling", False, model_readers("AveragePool")),
        averages("Average pooling, backward", True),
    ],
    ("columns", False): [
        columns("im2col", "im2col", tolerance=0),
        columns("col2im", "col2im"),
    ],
}

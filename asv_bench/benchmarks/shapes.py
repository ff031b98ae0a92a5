"""Layers by name. The names are keys of asv's history: add new ones, never redefine one."""

import math
from typing import NamedTuple

import numpy as np


class Layer(NamedTuple):
    """A layer with square windows; `filters` is 0 for pooling, `width` 0 for a square image."""

    images: int
    channels: int
    size: int
    filters: int
    kernel: int
    stride: int = 1
    padding: int = 0
    groups: int = 1
    width: int = 0

    @property
    def x(self):
        """Shape of the input (N, C, H, W)."""
        return self.images, self.channels, self.size, self.width or self.size

    @property
    def weight(self):
        """Shape of the filters (K, C // groups, kh, kw)."""
        return self.filters, self.channels // self.groups, self.kernel, self.kernel

    @property
    def out_size(self):
        """Windows along each axis (OH, OW)."""
        padding = 2 * self.padding - self.kernel
        return tuple((size + padding) // self.stride + 1 for size in self.x[2:])

    @property
    def y(self):
        """Shape of the output (N, K or C, OH, OW)."""
        return self.images, self.filters or self.channels, *self.out_size

    @property
    def cols(self):
        """Shape of the input's columns (N, C * kh * kw, OH * OW)."""
        return self.images, self.channels * self.kernel**2, math.prod(self.out_size)


CONVOLUTIONS = {
    "tiny": Layer(1, 1, 3, 1, 3),
    "lenet-1": Layer(128, 1, 28, 6, 5, padding=2),
    "lenet-2": Layer(128, 6, 14, 16, 5),
    "vgg-1": Layer(1, 3, 224, 64, 3, padding=1),
    "vgg-2": Layer(1, 64, 224, 64, 3, padding=1),
    "vgg-9": Layer(1, 512, 28, 512, 3, padding=1),
    "resnet-stem": Layer(1, 3, 224, 64, 7, stride=2, padding=3),
    "resnet-3x3": Layer(8, 64, 56, 64, 3, padding=1),
    "resnet-1x1": Layer(8, 64, 56, 256, 1),
    "resnet-down": Layer(8, 128, 56, 128, 3, stride=2, padding=1),
    "resnet-last": Layer(8, 512, 7, 512, 3, padding=1),
}

#: Transposed convolutions, as the convolutions that they transpose: their results are `x`.
TRANSPOSED = {
    "dcgan": Layer(16, 128, 32, 256, 4, stride=2, padding=1),
    "dcgan-image": Layer(16, 3, 64, 64, 4, stride=2, padding=1),
    "unet-up": Layer(2, 64, 112, 128, 2, stride=2),
    "decoder-3x3": Layer(2, 64, 56, 64, 3, padding=1),
    "fcn-8x": Layer(1, 21, 128, 21, 16, stride=8, padding=4),
}

WINOGRAD = ("vgg-2", "vgg-9", "resnet-3x3", "resnet-last")  # 3x3 with stride 1

#: One filter per channel.
DEPTHWISE = {
    "mobilenet-56": Layer(1, 256, 56, 256, 3, padding=1, groups=256),
    "mobilenet-56-batch": Layer(8, 64, 56, 64, 3, padding=1, groups=64),
    "mobilenet-14": Layer(1, 512, 14, 512, 3, padding=1, groups=512),
    "mobilenet-down": Layer(8, 144, 56, 144, 3, stride=2, padding=1, groups=144),
    "efficientnet-5x5": Layer(1, 96, 112, 96, 5, padding=2, groups=96),
    "convnext-7x7": Layer(1, 384, 27, 384, 7, padding=3, groups=384),
}

COLUMNS = {name: CONVOLUTIONS[name] for name in ("lenet-2", "vgg-2", "resnet-stem", "resnet-down")}
COLUMNS |= {
    "resnet-3x3": CONVOLUTIONS["resnet-3x3"],
    "resnet-stem-batch": Layer(4, 3, 224, 64, 7, stride=2, padding=3),
    "cifar-5x5": Layer(64, 3, 32, 32, 5, padding=2),
}

POOLINGS = {
    "lenet": Layer(128, 6, 28, 0, 2, stride=2),
    "vgg": Layer(1, 64, 224, 0, 2, stride=2),
    "resnet": Layer(8, 64, 112, 0, 3, stride=2, padding=1),
    "inception": Layer(8, 64, 28, 0, 3, padding=1),
    "inception-56": Layer(8, 64, 56, 0, 3, padding=1),
    "vgg-batch": Layer(8, 64, 112, 0, 2, stride=2),
    "alexnet-batch": Layer(8, 64, 112, 0, 3, stride=2),
    "5x5": Layer(8, 32, 64, 0, 5, padding=2),
    "spp": Layer(1, 512, 13, 0, 13, padding=6),
    "photo": Layer(1, 16, 1224, 0, 2, stride=2),
}

#: Average poolings, the last ones of whole planes.
MEANS = {name: POOLINGS[name] for name in ("lenet", "resnet", "inception", "vgg-batch", "photo")}
MEANS |= {
    "resnet-global": Layer(8, 2048, 7, 0, 7),
    "vgg-global": Layer(8, 64, 56, 0, 56),
}


def normal(shape):
    """Return the same normal float32 numbers at every call."""
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)

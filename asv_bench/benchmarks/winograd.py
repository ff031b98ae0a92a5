"""algorithm="winograd": its filters' transform, workspace and error.

`Conv2d` times it as "auto", beside "direct" and torch.
"""

from functools import partial
from time import process_time

import numpy as np

import slidedot as sd
from slidedot import _dispatch
from slidedot.geometry import windows

from .shapes import CONVOLUTIONS, WINOGRAD, normal

timer = process_time


class Packed:
    """The filters' transform, and the forward pass that is spared it."""

    params = (WINOGRAD,)
    param_names = ("layer",)

    def setup(self, layer):
        shape = CONVOLUTIONS[layer]
        kernels = _dispatch.kernels.winograd
        x, weight, bias, y = map(normal, (shape.x, shape.weight, shape.filters, shape.y))
        axes = windows("benchmark", x.shape[2:], (3, 3), 1, 1, 1)
        packed = np.empty(kernels.packed_size(weight.shape, 1), np.float32)
        self.pack = partial(kernels.pack, weight, packed, 1, 1)
        self.pack()
        self.forward = partial(kernels.forward, x, weight, packed, bias, y, *axes, 1, False, 1)
        self.bytes = kernels.forward_workspace(shape.images, weight, *axes, 1, 1)

    def time_pack(self, layer):
        self.pack()

    def time_forward(self, layer):
        self.forward()

    def track_workspace(self, layer):
        return self.bytes

    track_workspace.unit = "bytes"


class Error:
    """The largest error, of what normal numbers give, in units of the largest output."""

    params = (("winograd", "direct"),)
    param_names = ("by",)

    def setup(self, by):
        shape = CONVOLUTIONS["resnet-3x3"]
        self.x, self.weight = normal((1, *shape.x[1:])), normal(shape.weight)

    def track_forward(self, by):
        y = sd.conv2d(self.x, self.weight, padding=1, algorithm=by)
        exact = sd.conv2d(*(a.astype(np.float64) for a in (self.x, self.weight)), padding=1)
        return np.abs(y - exact).max() / np.abs(exact).max()

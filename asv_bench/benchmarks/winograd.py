"""algorithm="winograd" of `slidedot.convolution`, beside "direct" and torch."""

from functools import partial

import numpy as np

import slidedot as sd
from slidedot import _dispatch
from slidedot.geometry import windows

from . import peers
from .shapes import CONVOLUTIONS, WINOGRAD, normal


class Winograd:
    params = (WINOGRAD, ("winograd", "direct", "torch"))
    param_names = ("layer", "by")

    def setup(self, layer, by):
        shape = CONVOLUTIONS[layer]
        arrays = map(normal, (shape.x, shape.weight, shape.filters, shape.y))
        if by == "torch":
            torch = peers.installed(peers.torch)
            x, weight, bias, grad_out = map(torch.from_numpy, arrays)
            self.forward = partial(torch.nn.functional.conv2d, x, weight, bias, padding=1)
            backward = partial(
                torch.ops.aten.convolution_backward,
                *(grad_out, x, weight, [shape.filters], [1, 1], [1, 1], [1, 1], False, [0, 0], 1),
            )
            self.gradient_x = partial(backward, [True, False, False])
            self.gradient_weight = partial(backward, [False, True, False])
        else:
            x, weight, bias, grad_out = arrays
            how = {"padding": 1, "algorithm": by}
            self.forward = partial(sd.conv2d, x, weight, bias, **how)
            backward = partial(sd.conv2d_backward, grad_out, x, weight, **how)
            self.gradient_x = partial(backward, need=("x",))
            self.gradient_weight = partial(backward, need=("weight",))

    def time_forward(self, layer, by):
        self.forward()

    def time_gradient_x(self, layer, by):
        self.gradient_x()

    def time_gradient_weight(self, layer, by):
        self.gradient_weight()


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

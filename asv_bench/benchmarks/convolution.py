"""`slidedot.convolution`: conv2d, and its gradients one at a time."""

from functools import partial
from time import process_time

import numpy as np

import slidedot as sd

from . import peers
from .shapes import CONVOLUTIONS, TRANSPOSED, normal

timer = process_time


class Conv2d:
    params = (tuple(CONVOLUTIONS), ("auto", "direct", "im2col", "torch"))
    param_names = ("layer", "by")

    def setup(self, layer, by):
        shape = CONVOLUTIONS[layer]
        arrays = map(normal, (shape.x, shape.weight, shape.filters, shape.y))
        if by == "torch":
            torch = peers.installed(peers.torch)
            x, weight, bias, grad_out = map(torch.from_numpy, arrays)
            geometry = [shape.stride] * 2, [shape.padding] * 2
            self.forward = partial(torch.nn.functional.conv2d, x, weight, bias, *geometry)
            backward = partial(
                torch.ops.aten.convolution_backward,
                *(grad_out, x, weight, [shape.filters], *geometry, [1, 1], False, [0, 0], 1),
            )
            self.gradient_x = partial(backward, [True, False, False])
            self.gradient_weight = partial(backward, [False, True, True])
        else:
            x, weight, bias, grad_out = arrays
            how = {"stride": shape.stride, "padding": shape.padding, "algorithm": by}
            self.forward = partial(sd.conv2d, x, weight, bias, **how)
            backward = partial(sd.conv2d_backward, grad_out, x, weight, **how)
            self.gradient_x = partial(backward, need=("x",))
            self.gradient_weight = partial(backward, need=("weight", "bias"))

    def time_forward(self, layer, by):
        self.forward()

    def time_gradient_x(self, layer, by):
        self.gradient_x()

    def time_gradient_weight_bias(self, layer, by):
        self.gradient_weight()


class ConvTranspose2d:
    params = (tuple(TRANSPOSED), ("slidedot", "torch"))
    param_names = ("layer", "by")

    def setup(self, layer, by):
        shape = TRANSPOSED[layer]
        arrays = map(normal, (shape.y, shape.weight))
        how = {"stride": shape.stride, "padding": shape.padding}
        if by == "torch":
            torch = peers.installed(peers.torch)
            transposed, arrays = torch.nn.functional.conv_transpose2d, map(torch.from_numpy, arrays)
        else:
            transposed = sd.conv_transpose2d
        self.forward = partial(transposed, *arrays, **how)

    def time_forward(self, layer, by):
        self.forward()


class Plan:
    params = (tuple(CONVOLUTIONS),)
    param_names = ("layer",)

    def setup(self, layer):
        shape = CONVOLUTIONS[layer]
        self.x, weight, bias = map(normal, (shape.x, shape.weight, shape.filters))
        how = {"stride": shape.stride, "padding": shape.padding}
        self.plan = sd.Conv2dPlan(weight, bias, input_size=shape.size, **how)

    def time_call(self, layer):
        self.plan(self.x)

    def track_workspace(self, layer):
        return self.plan.workspace_bytes(self.x.shape)

    track_workspace.unit = "bytes"


class Calls:
    """A thousand calls on 3x3 pixels: what is spent outside the kernels.

    asv times one call at a time where there is a setup; one of these is too short for that.
    """

    def setup(self):
        shape = CONVOLUTIONS["tiny"]
        self.x, self.weight, self.y = map(normal, (shape.x, shape.weight, shape.y))

    def time_conv2d(self):
        for _ in range(1000):
            sd.conv2d(self.x, self.weight)

    def time_conv2d_backward(self):
        for _ in range(1000):
            sd.conv2d_backward(self.y, self.x, self.weight)

    def time_plan(self):
        plan = sd.Conv2dPlan(self.weight)
        for _ in range(1000):
            plan(self.x)


class LargeImage:
    """A photo of 4096x4096 pixels in three channels, as decoders give it: (H, W, C)."""

    def setup(self):
        self.x = np.ones((4096, 4096, 3), np.float32).transpose(2, 0, 1)
        self.weight = np.ones((4, 3, 3, 3), np.float32)
        self.grad_out = np.ones((4, 4096, 4096), np.float32)

    def peakmem_forward(self):
        sd.conv2d(self.x, self.weight, padding=1)

    def peakmem_gradient_x(self):
        sd.conv2d_backward(self.grad_out, self.x, self.weight, padding=1, need=("x",))

    def peakmem_gradient_weight_bias(self):
        sd.conv2d_backward(self.grad_out, self.x, self.weight, padding=1, need=("weight", "bias"))

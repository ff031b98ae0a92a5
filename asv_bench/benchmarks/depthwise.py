"""`slidedot.convolution` where each channel has a filter of its own."""

from functools import partial
from time import process_time

import slidedot as sd

from . import peers
from .shapes import DEPTHWISE, normal

timer = process_time


class Depthwise:
    params = (tuple(DEPTHWISE), ("slidedot", "torch", "torch, channels last"))
    param_names = ("layer", "by")

    def setup(self, layer, by):
        shape = DEPTHWISE[layer]
        x, weight, grad_out = map(normal, (shape.x, shape.weight, shape.y))
        if by == "slidedot":
            how = {"stride": shape.stride, "padding": shape.padding, "groups": shape.groups}
            self.forward = partial(sd.conv2d, x, weight, **how)
            backward = partial(sd.conv2d_backward, grad_out, x, weight, **how)
            self.gradient_x = partial(backward, need=("x",))
            self.gradient_weight = partial(backward, need=("weight",))
        else:
            x, weight, grad_out = peers.lay_out(by, x, weight, grad_out)
            torch = peers.torch
            geometry = [shape.stride] * 2, [shape.padding] * 2, [1, 1]
            self.forward = partial(
                torch.nn.functional.conv2d, x, weight, None, *geometry, shape.groups
            )
            backward = partial(
                torch.ops.aten.convolution_backward,
                *(grad_out, x, weight, None, *geometry, False, [0, 0], shape.groups),
            )
            self.gradient_x = partial(backward, [True, False, False])
            self.gradient_weight = partial(backward, [False, True, False])

    def time_forward(self, layer, by):
        self.forward()

    def time_gradient_x(self, layer, by):
        self.gradient_x()

    def time_gradient_weight(self, layer, by):
        self.gradient_weight()

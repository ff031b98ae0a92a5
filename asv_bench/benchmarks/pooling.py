"""`slidedot.pooling`: maxima with and without their indices, means, gradients and unpooling."""

from functools import partial
from time import process_time

import numpy as np

import slidedot as sd

from . import peers
from .shapes import MEANS, POOLINGS, normal

timer = process_time


class MaxPool2d:
    params = (tuple(POOLINGS), ("slidedot", "torch", "torch, channels last"))
    param_names = ("layer", "by")

    def setup(self, layer, by):
        shape = POOLINGS[layer]
        x, grad_out = map(normal, (shape.x, shape.y))
        if by != "slidedot":
            x, grad_out = peers.lay_out(by, x, grad_out)
            torch = peers.torch
            windows = [shape.kernel] * 2, [shape.stride] * 2, [shape.padding] * 2, [1, 1], False
            self.argmax = partial(torch.ops.aten.max_pool2d_with_indices, x, *windows)
            self.forward = partial(torch.nn.functional.max_pool2d, x, *windows)
            backward = torch.ops.aten.max_pool2d_with_indices_backward
            self.backward = partial(backward, grad_out, x, *windows, self.argmax()[1])
        else:
            self.forward = partial(
                sd.max_pool2d, x, shape.kernel, stride=shape.stride, padding=shape.padding
            )
            self.argmax = partial(self.forward, return_argmax=True)
            backward = sd.max_pool2d_backward
            self.backward = partial(backward, grad_out, self.argmax()[1], shape.x[2:])

    def time_forward(self, layer, by):
        self.forward()

    def time_forward_argmax(self, layer, by):
        self.argmax()

    def time_backward(self, layer, by):
        self.backward()


class MaxUnpool2d:
    params = MaxPool2d.params
    param_names = ("layer", "by")

    def setup(self, layer, by):
        shape = POOLINGS[layer]
        x, y = map(normal, (shape.x, shape.y))
        windows = {"stride": shape.stride, "padding": shape.padding}
        _, argmax = sd.max_pool2d(x, shape.kernel, **windows, return_argmax=True)
        if by == "slidedot":
            unpool = sd.max_unpool2d
        else:
            y, argmax = peers.lay_out(by, y, argmax.astype(np.int64))
            unpool = peers.torch.ops.aten.max_unpool2d
        self.forward = partial(unpool, y, argmax, shape.x[2:])

    def time_forward(self, layer, by):
        self.forward()


class AvgPool2d:
    params = (tuple(MEANS), ("slidedot", "torch", "torch, channels last"))
    param_names = ("layer", "by")

    def setup(self, layer, by):
        shape = MEANS[layer]
        x, grad_out = map(normal, (shape.x, shape.y))
        if by != "slidedot":
            x, grad_out = peers.lay_out(by, x, grad_out)
            torch = peers.torch
            windows = [shape.kernel] * 2, [shape.stride] * 2, [shape.padding] * 2
            self.forward = partial(torch.nn.functional.avg_pool2d, x, *windows)
            backward = torch.ops.aten.avg_pool2d_backward
            self.backward = partial(backward, grad_out, x, *windows, False, True, None)
        else:
            windows = {"stride": shape.stride, "padding": shape.padding}
            self.forward = partial(sd.avg_pool2d, x, shape.kernel, **windows)
            backward = sd.avg_pool2d_backward
            self.backward = partial(backward, grad_out, shape.x[2:], shape.kernel, **windows)

    def time_forward(self, layer, by):
        self.forward()

    def time_backward(self, layer, by):
        self.backward()


class LargeImage:
    """A photo of 4096x4096 pixels in three channels, as decoders give it: (H, W, C)."""

    def setup(self):
        self.x = np.ones((4096, 4096, 3), np.float32).transpose(2, 0, 1)
        self.grad_out = np.ones((3, 2048, 2048), np.float32)
        self.first = np.arange(2048)[:, None] * 2 * 4096 + np.arange(2048) * 2
        self.argmax = np.broadcast_to(self.first.astype(np.int32), self.grad_out.shape)

    def peakmem_forward(self):
        sd.max_pool2d(self.x, 2)

    def peakmem_forward_argmax(self):
        sd.max_pool2d(self.x, 2, return_argmax=True)

    def peakmem_backward(self):
        sd.max_pool2d_backward(self.grad_out, self.argmax, (4096, 4096))

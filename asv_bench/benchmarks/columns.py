"""`slidedot.columns`: im2col and col2im."""

from functools import partial
from time import process_time

import numpy as np

import slidedot as sd

from . import peers
from .shapes import COLUMNS, normal

timer = process_time


class Columns:
    params = (tuple(COLUMNS), ("slidedot", "torch"))
    param_names = ("layer", "by")

    def setup(self, layer, by):
        shape = COLUMNS[layer]
        x, cols = map(normal, (shape.x, shape.cols))
        size = shape.x[2:]
        how = {"stride": shape.stride, "padding": shape.padding}
        if by == "torch":
            torch = peers.installed(peers.torch)
            functional = torch.nn.functional
            x, cols = map(torch.from_numpy, (x, cols))
            self.im2col = partial(functional.unfold, x, shape.kernel, **how)
            self.col2im = partial(functional.fold, cols, size, shape.kernel, **how)
        else:
            self.im2col = partial(sd.im2col, x, shape.kernel, **how)
            self.col2im = partial(sd.col2im, cols, size, shape.kernel, **how)

    def time_im2col(self, layer, by):
        self.im2col()

    def time_col2im(self, layer, by):
        self.col2im()


class LargeImage:
    """Patches of 8x8 of a photo of 4096x4096 pixels in three channels: (H, W, C)."""

    def setup(self):
        self.x = np.ones((4096, 4096, 3), np.float32).transpose(2, 0, 1)
        self.cols = np.ones((3 * 64, 512 * 512), np.float32)

    def peakmem_im2col(self):
        sd.im2col(self.x, 8, stride=8)

    def peakmem_col2im(self):
        sd.col2im(self.cols, (4096, 4096), 8, stride=8)

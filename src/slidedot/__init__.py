"""Convolution and pooling kernels for NumPy arrays.

Slide the filter over the image and take dot products: `conv2d` and its gradients, `im2col` and
`col2im`, max pooling with the place of each maximum, the sizes that follow, and layers made of
them.
"""

from slidedot import layers, optim
from slidedot._dispatch import show_config
from slidedot._threads import get_num_threads, num_threads, set_num_threads
from slidedot.columns import col2im, im2col
from slidedot.convolution import (
    Conv2dGradients,
    Conv2dPlan,
    conv2d,
    conv2d_backward,
    conv_transpose2d,
)
from slidedot.geometry import (
    ReceptiveField,
    conv2d_parameters,
    conv_output_size,
    linear_parameters,
    receptive_field,
)
from slidedot.pooling import (
    avg_pool2d,
    avg_pool2d_backward,
    max_pool2d,
    max_pool2d_backward,
    max_unpool2d,
)

__version__ = "0.1.0"

__all__ = [
    "Conv2dGradients",
    "Conv2dPlan",
    "ReceptiveField",
    "avg_pool2d",
    "avg_pool2d_backward",
    "col2im",
    "conv2d",
    "conv2d_backward",
    "conv2d_parameters",
    "conv_output_size",
    "conv_transpose2d",
    "get_num_threads",
    "im2col",
    "layers",
    "linear_parameters",
    "max_pool2d",
    "max_pool2d_backward",
    "max_unpool2d",
    "num_threads",
    "optim",
    "receptive_field",
    "set_num_threads",
    "show_config",
]

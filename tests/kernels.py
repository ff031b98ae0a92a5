"""Each public function that computes, called at a size for many threads."""

import numpy as np

import slidedot as sd


def normal(*shape, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).standard_normal(shape, dtype=dtype)


def every_kernel(seed=0, dtype=np.float32, size=40):
    """Return each kernel's name and a call of it; the call may be given a slice of the images."""

    def array(*shape, seed=0):
        return normal(*shape, seed=seed, dtype=dtype)

    x, weight, bias = array(4, 24, size, size, seed=seed), array(32, 24, 3, 3), array(32)
    grad_out = array(4, 32, size, size, seed=seed)
    filters = array(24, 1, 3, 3)
    cols = array(4, 24 * 9, size * size, seed=seed)
    pooled, argmax = sd.max_pool2d(x, 3, stride=1, padding=1, return_argmax=True)
    plan = sd.Conv2dPlan(weight, bias, padding=1)
    direct = sd.Conv2dPlan(weight, bias, stride=2, algorithm="direct")
    every = slice(None)

    def gradient(name, algorithm="auto"):
        def call(n=every):
            how = {"padding": 1, "need": (name,), "algorithm": algorithm}
            return getattr(sd.conv2d_backward(grad_out[n], x[n], weight, **how), name)

        return call

    def depthwise_gradient(name):
        def call(n=every):
            how = {"padding": 1, "need": (name,), "groups": 24}
            return getattr(sd.conv2d_backward(grad_out[n, :24], x[n], filters, **how), name)

        return call

    kernels = {
        "conv2d": lambda n=every: sd.conv2d(x[n], weight, bias, padding=1, activation="relu"),
        "conv2d stride": lambda n=every: sd.conv2d(x[n], weight, bias, stride=2),
        "conv2d groups": lambda n=every: sd.conv2d(x[n], weight[:, :3], padding=1, groups=8),
        "conv2d depthwise": lambda n=every: sd.conv2d(x[n], filters, padding=1, groups=24),
        "conv2d direct": lambda n=every: sd.conv2d(
            x[n], weight, bias, padding=1, algorithm="direct"
        ),
        "conv2d im2col": lambda n=every: sd.conv2d(
            x[n], weight, bias, padding=1, algorithm="im2col"
        ),
        "Conv2dPlan": lambda n=every: plan(x[n]),
        "Conv2dPlan direct": lambda n=every: direct(x[n]),
        "gradient x": gradient("x"),
        "gradient x direct": gradient("x", "direct"),
        "gradient x depthwise": depthwise_gradient("x"),
        "gradient weight": gradient("weight"),
        "gradient weight direct": gradient("weight", "direct"),
        "gradient weight depthwise": depthwise_gradient("weight"),
        "gradient bias": gradient("bias"),
        "conv_transpose2d": lambda n=every: sd.conv_transpose2d(grad_out[n], weight, padding=1),
        "conv_transpose2d stride": lambda n=every: sd.conv_transpose2d(
            grad_out[n], weight, bias[:24], stride=2
        ),
        "im2col": lambda n=every: sd.im2col(x[n], 3, padding=1),
        "col2im": lambda n=every: sd.col2im(cols[n], (size, size), 3, padding=1),
        "max_pool2d": lambda n=every: sd.max_pool2d(x[n], 3, stride=1, padding=1),
        "max_pool2d argmax": lambda n=every: sd.max_pool2d(x[n], 2, return_argmax=True)[1],
        "max_pool2d_backward": lambda n=every: sd.max_pool2d_backward(
            pooled[n], argmax[n], (size, size)
        ),
        "max_unpool2d": lambda n=every: sd.max_unpool2d(pooled[n], argmax[n], (size, size)),
        "avg_pool2d": lambda n=every: sd.avg_pool2d(x[n], 3, stride=1, padding=1),
        "avg_pool2d global": lambda n=every: sd.avg_pool2d(x[n], size),
        "avg_pool2d_backward": lambda n=every: sd.avg_pool2d_backward(
            pooled[n], size, 3, stride=1, padding=1
        ),
    }
    if np.dtype(dtype) == np.float32:
        kernels |= {
            "conv2d winograd": lambda n=every: sd.conv2d(
                x[n], weight, bias, padding=1, algorithm="winograd"
            ),
            "gradient x winograd": gradient("x", "winograd"),
            "gradient weight winograd": gradient("weight", "winograd"),
        }
    return kernels


KERNELS = tuple(every_kernel())

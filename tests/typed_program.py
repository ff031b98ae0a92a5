"""A user's program, for mypy: the types that the calls have, and calls that it must refuse."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import assert_type

import slidedot as sd
from slidedot.layers import Conv2d, Flatten, Linear, MaxPool2d, ReLU, Sequential
from slidedot.visualize import project, top_activations

Single = NDArray[np.float32]
Double = NDArray[np.float64]
Places = NDArray[np.integer[Any]]


def functions() -> None:
    """What goes in comes out: float32 or float64."""
    x = np.ones((2, 3, 8, 8), np.float32)
    weight = np.ones((4, 3, 3, 3), np.float32)
    bias = np.zeros(4, np.float32)
    y = sd.conv2d(x, weight, bias, stride=(1, 1), padding=((1, 1), (1, 1)), activation="relu")
    assert_type(y, Single)
    assert_type(sd.conv2d(np.ones((3, 8, 8)), np.ones((4, 3, 3, 3)), padding="same"), Double)

    pooled = sd.max_pool2d(y, 2)
    assert_type(pooled, Single)
    maxima, places = sd.max_pool2d(y, (2, 2), return_argmax=True)
    assert_type(maxima, Single)
    assert_type(places, Places)
    assert_type(sd.max_pool2d_backward(pooled, places, y.shape[2:]), Single)
    assert_type(sd.max_unpool2d(pooled, places, y.shape[2:]), Single)
    assert_type(sd.avg_pool2d(y, y.shape[2:], count_include_pad=False), Single)
    assert_type(sd.avg_pool2d_backward(pooled, (8, 8), 2), Single)

    gradients = sd.conv2d_backward(y, x, weight, padding=1, need=("x", "weight"))
    grad_x: Single = gradients.x
    assert gradients.bias is None
    assert grad_x.shape == x.shape

    assert_type(sd.conv_transpose2d(y, weight, padding=1, output_padding=(0, 0)), Single)

    cols = sd.im2col(x, 3, padding=1)
    assert_type(sd.col2im(cols, (8, 8), 3, padding=1, out=np.empty_like(x)), Single)

    plan = sd.Conv2dPlan(weight, bias, padding="same")
    assert_type(plan(x), Single)
    assert plan.algorithm(8) == "direct"
    assert_type(plan.flops(x.shape), int)

    with sd.num_threads(1):
        assert_type(sd.get_num_threads(), int)
    assert_type(sd.show_config(mode="dicts"), dict[str, Any])
    assert_type(sd.conv_output_size(np.int64(8), 3, padding=(1, 0)), int)
    assert_type(sd.receptive_field([3, (3, 2), Conv2d(3, 4, 3)]), list[sd.ReceptiveField])


def network() -> None:
    """A training step."""
    model = Sequential(
        Conv2d(1, 4, 3, padding="same", rng=0), ReLU(), MaxPool2d(2), Flatten(), Linear(16, 2)
    )
    optimizer = sd.optim.SGD(model, 0.1, momentum=0.9)
    images, labels = np.ones((5, 1, 4, 4), np.float32), np.zeros(5, np.int64)
    logits = model.forward(images, training=True)
    assert_type(logits, Single)
    loss, grad = sd.layers.softmax_cross_entropy(logits, labels)
    assert_type(loss, float)
    assert_type(model.backward(grad), Single)
    optimizer.step()
    model.forward(images, training=True)
    assert_type(model.backward(grad, need_input_grad=False), Single | None)
    state = model.state_dict()
    model.load_state_dict(state)
    model.load_state_dict({name: array.tolist() for name, array in state.items()})
    assert_type(Linear(2, 1).weight, NDArray[np.floating[Any]])
    assert_type(model.summary((1, 4, 4)), str)
    top = top_activations(model, images, 0, k=2)
    assert_type(top.images, Places)
    assert_type(project(model, images, 0, 1), Single)


def refused(x: Single, weight: Single) -> None:
    """What is wrong at run time is wrong for mypy: an ignored error that is none is an error."""
    integers = np.ones((3, 8, 8), np.int64)
    sd.conv2d(integers, weight)  # type: ignore[type-var]
    sd.conv2d(x, weight, stride=1.5)  # type: ignore[arg-type]
    sd.conv2d(x, weight, stride=(1, 1, 1))  # type: ignore[arg-type]
    sd.conv2d(x, weight, padding="full")  # type: ignore[arg-type]
    sd.conv2d(x, weight, algorithm="fft")  # type: ignore[arg-type]
    sd.conv2d(x, weight, None, 2)  # type: ignore[call-arg]
    sd.max_pool2d(x, 2, return_argmax="yes")  # type: ignore[call-overload]
    sd.max_pool2d_backward(x, x, 8)  # type: ignore[arg-type]
    sd.layers.Sequential(sd.conv2d)  # type: ignore[arg-type]
    sd.optim.SGD(weight, 0.1)  # type: ignore[arg-type]


if __name__ == "__main__":
    functions()
    network()

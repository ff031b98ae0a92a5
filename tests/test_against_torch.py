"""The same calls in PyTorch, which knows nothing of this package or its specification."""

import numpy as np
import pytest
from checks import assert_same, assert_sums_close
from hypothesis import assume, given
from strategies import (
    ALGORITHMS,
    convolutions,
    integers,
    plane_calls,
    pool_windows,
    reals,
    transposed_convolutions,
    windows,
)

import slidedot as sd

torch = pytest.importorskip("torch")
F = torch.nn.functional
torch.set_num_threads(1)  # beside this package's own threads

pytestmark = pytest.mark.usefixtures("level")


def tensor(array, dtype=None):
    """Return a copy of an array in any layout, which torch does not read."""
    return torch.from_numpy(np.array(array, dtype or array.dtype.newbyteorder("="), order="C"))


def tensors(arrays, dtype=None):
    return [None if array is None else tensor(array, dtype) for array in arrays]


def pad(x, drawn, value=0.0):
    """Pad as the `Windows` say: torch's own padding is symmetric, and limited in pooling."""
    rows, cols = drawn.axes
    return F.pad(x, (cols.before, cols.after, rows.before, rows.after), value=value)


def steps(drawn):
    """The strides and dilations as pairs."""
    return {
        "stride": tuple(axis.stride for axis in drawn.axes),
        "dilation": tuple(axis.dilation for axis in drawn.axes),
    }


# ------------------------------------------------------------------------ convolution


def torch_conv2d(call, x, weight, bias):
    x = pad(x, call.windows)
    y = F.conv2d(x, weight, bias, groups=call.groups, **steps(call.windows))
    return F.relu(y) if call.activation == "relu" else y


def torch_conv2d_backward(call, grad_out, x, weight):
    bias = torch.zeros(len(weight), dtype=x.dtype)
    leaves = [leaf.requires_grad_() for leaf in (x, weight, bias)]
    y = F.conv2d(pad(x, call.windows), weight, bias, groups=call.groups, **steps(call.windows))
    return [gradient.numpy() for gradient in torch.autograd.grad(y, leaves, grad_out)]


@given(call=convolutions())
def test_conv2d_on_integers(dtype, call):
    x, weight, bias, _ = call.arrays(dtype, integers)
    expected = torch_conv2d(call, *tensors((x, weight, bias))).numpy()
    for algorithm in ALGORITHMS:
        keywords = {"activation": call.activation, "algorithm": algorithm, **call.options}
        assert_same(sd.conv2d(x, weight, bias, **keywords), expected)


@given(call=convolutions())
def test_conv2d_on_reals(dtype, call):
    x, weight, bias, _ = call.arrays(dtype, reals)
    wide = tensors((x, weight, bias), np.float64)
    expected = torch_conv2d(call, *wide).numpy()
    # of positive numbers, which a ReLU leaves as they are
    magnitude = torch_conv2d(call, *(None if a is None else a.abs() for a in wide)).numpy()
    for algorithm in ALGORITHMS:
        keywords = {"activation": call.activation, "algorithm": algorithm, **call.options}
        y = sd.conv2d(x, weight, bias, **keywords)
        assert_sums_close(y, expected, magnitude, call.terms["y"])


@given(call=convolutions())
def test_conv2d_backward_on_integers(dtype, call):
    x, weight, _, grad_out = call.arrays(dtype, integers)
    expected = torch_conv2d_backward(call, *tensors((grad_out, x, weight)))
    for algorithm in ALGORITHMS:
        grads = sd.conv2d_backward(grad_out, x, weight, algorithm=algorithm, **call.options)
        for actual, gradient in zip(grads, expected, strict=True):
            assert_same(actual, gradient)


@given(call=convolutions())
def test_conv2d_backward_on_reals(dtype, call):
    x, weight, _, grad_out = call.arrays(dtype, reals)
    wide = tensors((grad_out, x, weight), np.float64)
    expected = torch_conv2d_backward(call, *wide)
    magnitude = torch_conv2d_backward(call, *(a.detach().abs() for a in wide))
    for algorithm in ALGORITHMS:
        grads = sd.conv2d_backward(grad_out, x, weight, algorithm=algorithm, **call.options)
        for name, *sums in zip(grads._fields, grads, expected, magnitude, strict=True):
            assert_sums_close(*sums, call.terms[name])


def torch_conv_transpose2d(call, x, weight, bias):
    """The whole result, then cut: torch's own padding is symmetric and may leave nothing."""
    keywords = {
        "stride": [axis.stride for axis in call.axes],
        "dilation": [axis.dilation for axis in call.axes],
        "groups": call.groups,
    }
    if all(axis.before == axis.after for axis in call.axes) and call.padding != "same":
        padding = [axis.before for axis in call.axes]
        keywords |= {"padding": padding, "output_padding": call.output_padding}
        return F.conv_transpose2d(x, weight, bias, **keywords)
    y = F.conv_transpose2d(x, weight, **keywords)
    rows, cols = call.axes
    ends = [
        max(0, axis.before + axis.size - size)
        for axis, size in zip(call.axes, y.shape[-2:], strict=True)
    ]
    y = F.pad(y, (0, ends[1], 0, ends[0]))
    y = y[..., rows.before : rows.before + rows.size, cols.before : cols.before + cols.size]
    return y if bias is None else y + bias[:, None, None]


@given(call=transposed_convolutions())
def test_conv_transpose2d(dtype, call):
    x, weight, bias, _ = call.arrays(dtype, integers)
    keywords = {"output_padding": call.output_padding, **call.options}
    y = sd.conv_transpose2d(x, weight, bias, **keywords)
    assert_same(y, torch_conv_transpose2d(call, *tensors((x, weight, bias))).numpy())


# ------------------------------------------------------------------------ columns


@given(call=plane_calls(windows()))
def test_im2col(dtype, call):
    assume(call.batch != 0)  # which torch's unfold and fold refuse
    x = call.array(call.x_shape, dtype, reals)
    expected = F.unfold(pad(tensor(x), call.windows), call.windows.kernel, **steps(call.windows))
    columns = sd.im2col(x, call.windows.kernel_size, **call.options)
    assert_same(columns, expected.numpy())


@given(call=plane_calls(windows()))
def test_col2im(dtype, call):
    assume(call.batch != 0)
    columns = call.array(call.columns_shape, dtype, integers)
    rows, cols = call.windows.axes
    padded_size = [axis.before + axis.size + axis.after for axis in call.windows.axes]
    padded = F.fold(tensor(columns), padded_size, call.windows.kernel, **steps(call.windows))
    expected = padded.numpy()[
        ..., rows.before : rows.before + rows.size, cols.before : cols.before + cols.size
    ]
    images = sd.col2im(columns, call.windows.size, call.windows.kernel_size, **call.options)
    assert_same(images, expected)


# ------------------------------------------------------------------------ pooling


def torch_max_pool2d(x, drawn):
    """Return the maxima and their places in the image, from an image of finite pixels.

    Padding that torch does not take is put around it before, as -inf, which never is a maximum.
    """
    axes = drawn.axes
    keywords = {"ceil_mode": drawn.ceil_mode, "return_indices": True, **steps(drawn)}
    if all(axis.before == axis.after <= axis.kernel // 2 for axis in axes):
        padding = [axis.before for axis in axes]
        return F.max_pool2d(x, drawn.kernel, padding=padding, **keywords)
    padded = pad(x, drawn, -torch.inf)
    y, places = F.max_pool2d(padded, drawn.kernel, **keywords)
    # With ceil_mode, torch lets a last window start in what it takes for the image's end.
    y, places = (result[..., : drawn.out[0], : drawn.out[1]] for result in (y, places))
    h = torch.div(places, padded.shape[-1], rounding_mode="floor") - axes[0].before
    w = places % padded.shape[-1] - axes[1].before
    return y, h * drawn.size[1] + w


@given(call=plane_calls(pool_windows()))
def test_max_pool2d(dtype, call):
    x = call.array(call.x_shape, dtype, integers)
    y, argmax = sd.max_pool2d(
        x,
        call.windows.kernel_size,
        ceil_mode=call.windows.ceil_mode,
        return_argmax=True,
        **call.options,
    )
    expected, places = torch_max_pool2d(tensor(x), call.windows)
    assert_same(y, expected.numpy())
    assert_same(argmax, places.numpy().astype(np.int32))


@given(call=plane_calls(pool_windows()))
def test_max_pool2d_backward(dtype, call):
    x = tensor(call.array(call.x_shape, dtype, integers, 0)).requires_grad_()
    grad_out = call.array(call.y_shape, dtype, integers, 1)
    y, places = torch_max_pool2d(x, call.windows)
    (expected,) = torch.autograd.grad(y, x, tensor(grad_out))
    grad = sd.max_pool2d_backward(grad_out, places.numpy(), call.windows.size)
    assert_same(grad, expected.numpy())

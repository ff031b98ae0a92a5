"""The same calls in PyTorch, which knows nothing of this package or its specification.

Hypothesis draws the calls of each operation; the distinct combinations of parameters on which torch
agrees are counted, and pytest's summary shows them. Along one axis all small combinations are
tried, also those that are to be refused.
"""

import functools
import itertools
from dataclasses import replace

import numpy as np
import pytest
from checks import assert_same, assert_sums_close
from hypothesis import assume, given
from hypothesis import strategies as st
from strategies import (
    Windows,
    convolutions,
    hold_pixels,
    integers,
    plane_calls,
    pool_windows,
    reals,
    search,
    signs,
    transposed_convolutions,
    windows,
    winograd_windows,
)
from test_winograd import assert_within, bounds

import slidedot as sd

torch = pytest.importorskip("torch")
F = torch.nn.functional

pytestmark = [
    pytest.mark.usefixtures("level"),
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning"),
]


@pytest.fixture(scope="module", autouse=True)
def _one_thread_of_torch():
    torch.set_num_threads(1)


#: The default, which takes "direct" on as few channels as are drawn, and the matrix product, on
#: integers only.
ALGORITHMS = ("auto", "im2col")


def tensor(array, dtype=None):
    """Return a copy of an array in any layout, which torch does not read."""
    return torch.from_numpy(np.array(array, dtype or array.dtype.newbyteorder("="), order="C"))


def tensors(arrays, dtype=None):
    return [None if array is None else tensor(array, dtype) for array in arrays]


def steps(drawn):
    """The strides and dilations as pairs."""
    return {
        "stride": tuple(axis.stride for axis in drawn.axes),
        "dilation": tuple(axis.dilation for axis in drawn.axes),
    }


def padded(x, drawn, value=0.0, most=None):
    """Return `x`, and the padding that torch's function is to add itself.

    Torch takes the same number at both ends of an axis, in pooling of at most half a window. What
    it does not take is put around `x` before.
    """
    before = [axis.before for axis in drawn.axes]
    after = [axis.after for axis in drawn.axes]
    if before == after and (most is None or all(map(int.__le__, before, most))):
        return x, tuple(before)
    rows, cols = drawn.axes
    return F.pad(x, (cols.before, cols.after, rows.before, rows.after), value=value), (0, 0)


# ------------------------------------------------------------------------ convolution


def torch_conv2d(call, x, weight, bias):
    drawn = call.windows
    if drawn.padding == "valid" or (drawn.padding == "same" and drawn.stride in (1, (1, 1))):
        padding = drawn.padding  # torch knows "same" with a stride of 1 only
    else:
        x, padding = padded(x, drawn)
    return F.conv2d(x, weight, bias, padding=padding, groups=call.groups, **steps(drawn))


def torch_conv2d_backward(call, grad_out, x, weight):
    bias = torch.zeros(len(weight), dtype=x.dtype)
    leaves = [leaf.requires_grad_() for leaf in (x, weight, bias)]
    y = torch_conv2d(call, x, weight, bias)
    return [gradient.numpy() for gradient in torch.autograd.grad(y, leaves, grad_out)]


def conv2d(call, dtype):
    keywords = {"activation": call.activation, **call.options}
    relu = F.relu if call.activation else torch.Tensor.clone
    arrays = call.arrays(dtype, integers)[:3]
    expected = relu(torch_conv2d(call, *tensors(arrays)))
    for algorithm in ALGORITHMS:
        assert_same(sd.conv2d(*arrays, algorithm=algorithm, **keywords), expected.numpy())

    arrays = call.arrays(dtype, reals)[:3]
    wide = tensors(arrays, np.float64)
    expected = relu(torch_conv2d(call, *wide))
    magnitude = torch_conv2d(call, *(None if a is None else a.abs() for a in wide))
    y = sd.conv2d(*arrays, **keywords)
    assert_sums_close(y, expected.numpy(), magnitude.numpy(), call.terms["y"])


def conv2d_backward(call, dtype):
    x, weight, _, grad_out = call.arrays(dtype, integers)
    expected = torch_conv2d_backward(call, *tensors((grad_out, x, weight)))
    for algorithm in ALGORITHMS:
        grads = sd.conv2d_backward(grad_out, x, weight, algorithm=algorithm, **call.options)
        for actual, gradient in zip(grads, expected, strict=True):
            assert_same(actual, gradient)

    x, weight, _, grad_out = call.arrays(dtype, reals)
    wide = tensors((grad_out, x, weight), np.float64)
    expected = torch_conv2d_backward(call, *wide)
    magnitude = torch_conv2d_backward(call, *(a.detach().abs() for a in wide))
    grads = sd.conv2d_backward(grad_out, x, weight, **call.options)
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


def conv_transpose2d(call, dtype):
    keywords = {"output_padding": call.output_padding, **call.options}
    arrays = call.arrays(dtype, integers)[:3]
    expected = torch_conv_transpose2d(call, *tensors(arrays))
    assert_same(sd.conv_transpose2d(*arrays, **keywords), expected.numpy())

    arrays = call.arrays(dtype, reals)[:3]
    wide = tensors(arrays, np.float64)
    expected = torch_conv_transpose2d(call, *wide)
    magnitude = torch_conv_transpose2d(call, *(None if a is None else a.abs() for a in wide))
    y = sd.conv_transpose2d(*arrays, **keywords)
    assert_sums_close(y, expected.numpy(), magnitude.numpy(), call.terms)


# ------------------------------------------------------------------------ columns


def im2col(call, dtype):
    assume(call.batch != 0)  # which torch's unfold and fold refuse
    drawn = call.windows
    array = call.array(call.x_shape, dtype, reals)
    x, padding = padded(tensor(array), drawn)
    expected = F.unfold(x, drawn.kernel, padding=padding, **steps(drawn))
    assert_same(sd.im2col(array, drawn.kernel_size, **call.options), expected.numpy())


def col2im(call, dtype):
    assume(call.batch != 0)
    drawn = call.windows
    columns = call.array(call.columns_shape, dtype, integers)
    image, padding = padded(torch.empty(drawn.size)[None], drawn)
    size = image.shape[1:]
    expected = F.fold(tensor(columns), size, drawn.kernel, padding=padding, **steps(drawn))
    if padding == (0, 0):
        (h, w), (rows, cols) = drawn.size, drawn.axes
        expected = expected[..., rows.before :, cols.before :][..., :h, :w]
    images = sd.col2im(columns, drawn.size, drawn.kernel_size, **call.options)
    assert_same(images, expected.numpy())


# ------------------------------------------------------------------------ pooling


def half(drawn):
    """The most padding that torch's pooling takes."""
    return [kernel // 2 for kernel in drawn.kernel]


def torch_max_pool2d(x, drawn):
    """Return the maxima and their places in the image, from an image of finite pixels.

    Padding that torch does not take is put around it before, as -inf, which never is a maximum.
    """
    image, padding = padded(x, drawn, -torch.inf, half(drawn))
    y, places = F.max_pool2d(
        image,
        drawn.kernel,
        padding=padding,
        ceil_mode=drawn.ceil_mode,
        return_indices=True,
        **steps(drawn),
    )
    if image is x:
        return y, places
    # With ceil_mode, torch lets a last window start in what it takes for the image's end.
    y, places = (result[..., : drawn.out[0], : drawn.out[1]] for result in (y, places))
    h = torch.div(places, image.shape[-1], rounding_mode="floor") - drawn.axes[0].before
    w = places % image.shape[-1] - drawn.axes[1].before
    return y, h * drawn.size[1] + w


def max_pool2d(call, dtype):
    drawn = call.windows
    x = call.array(call.x_shape, dtype, integers)
    expected, places = torch_max_pool2d(tensor(x), drawn)
    keywords = {"ceil_mode": drawn.ceil_mode, "return_argmax": True, **call.options}
    y, argmax = sd.max_pool2d(x, drawn.kernel_size, **keywords)
    assert_same(y, expected.numpy())
    assert_same(argmax, places.numpy().astype(np.int32))


def max_pool2d_backward(call, dtype):
    x = tensor(call.array(call.x_shape, dtype, integers, 0)).requires_grad_()
    grad_out = call.array(call.y_shape, dtype, integers, 1)
    y, places = torch_max_pool2d(x, call.windows)
    (expected,) = torch.autograd.grad(y, x, tensor(grad_out))
    grad = sd.max_pool2d_backward(grad_out, places.numpy(), call.windows.size)
    assert_same(grad, expected.numpy())


def max_unpool2d(call, dtype):
    """Any pixels, of which the same one may be there twice; torch does not say which stays."""
    x = tensor(call.array(call.x_shape, dtype, reals))
    flat = x.flatten(start_dim=-2)
    rng = np.random.default_rng(call.seed)
    places = torch.from_numpy(rng.integers(0, flat.shape[-1], call.y_shape))
    y = flat.gather(-1, places.flatten(start_dim=-2)).reshape(places.shape)
    expected = torch.ops.aten.max_unpool2d(y, places, call.windows.size)
    assert_same(sd.max_unpool2d(y.numpy(), places.numpy(), call.windows.size), expected.numpy())
    narrow = places.numpy().astype(np.int32)
    assert_same(sd.max_unpool2d(y.numpy(), narrow, call.windows.size), expected.numpy())


def torch_avg_pool2d(x, drawn, count_include_pad):
    """Padding that torch does not take is put around the image before; where it is not to count,
    sums of ones tell what to divide by."""
    image, padding = padded(x, drawn, most=half(drawn))
    options = {
        "stride": [axis.stride for axis in drawn.axes],
        "padding": padding,
        "ceil_mode": drawn.ceil_mode,
    }
    if image is x or count_include_pad:
        y = F.avg_pool2d(image, drawn.kernel, count_include_pad=count_include_pad, **options)
    else:
        ones, _ = padded(torch.ones_like(x), drawn, most=half(drawn))
        sums, counts = (
            F.avg_pool2d(added, drawn.kernel, divisor_override=1, **options)
            for added in (image, ones)
        )
        y = sums / counts.clamp(min=1)
    # With ceil_mode, torch lets a last window start in what it takes for the image's end.
    return y[..., : drawn.out[0], : drawn.out[1]]


def avg_pool2d(call, dtype):
    drawn = call.windows
    x = call.array(call.x_shape, dtype, integers)
    counted = call.seed % 2 == 0
    expected = torch_avg_pool2d(tensor(x), drawn, counted)
    y = sd.avg_pool2d(x, drawn.kernel_size, **options_of(drawn), count_include_pad=counted)
    assert_same(y, expected.numpy())


def avg_pool2d_backward(call, dtype):
    drawn = call.windows
    grad_out = call.array(call.y_shape, dtype, reals)
    counted = call.seed % 2 == 0
    expected = []
    for gradient in (grad_out, np.abs(grad_out)):
        x = torch.zeros(call.x_shape, dtype=torch.float64, requires_grad=True)
        y = torch_avg_pool2d(x, drawn, counted)
        expected += torch.autograd.grad(y, x, tensor(gradient, np.float64))
    grad = sd.avg_pool2d_backward(
        *(grad_out, drawn.size, drawn.kernel_size),
        **options_of(drawn),
        count_include_pad=counted,
    )
    terms = drawn.kernel[0] * drawn.kernel[1] + 1
    assert_sums_close(grad, *(e.numpy() for e in expected), terms)


# ------------------------------------------------------------------------ drawn calls


def wider(windows):
    """Some of the images much wider: rows of several vectors and a rest."""

    def widen(drawn, pixels):
        return replace(drawn, size=(drawn.size[0], drawn.size[1] + pixels))

    return st.builds(widen, windows, st.sampled_from([0, 0, 0, 21, 50]))


OPERATIONS = {
    "conv2d": (conv2d, convolutions(wider(windows()))),
    "conv2d_backward": (conv2d_backward, convolutions(wider(windows()))),
    "conv_transpose2d": (conv_transpose2d, transposed_convolutions()),
    "im2col": (im2col, plane_calls(wider(windows()))),
    "col2im": (col2im, plane_calls(wider(windows()))),
    "max_pool2d": (max_pool2d, plane_calls(wider(pool_windows()))),
    "max_pool2d_backward": (max_pool2d_backward, plane_calls(wider(pool_windows()))),
    "max_unpool2d": (max_unpool2d, plane_calls(wider(pool_windows()))),
    "avg_pool2d": (avg_pool2d, plane_calls(wider(pool_windows(st.just(1))))),
    "avg_pool2d_backward": (avg_pool2d_backward, plane_calls(wider(pool_windows(st.just(1))))),
}

#: How many distinct combinations each operation must agree on: 2,000 in all.
SHARE = -(-2000 // len(OPERATIONS))


def combination(call):
    """The parameters that a drawn call has, whatever the way they are written: not the batch, the
    channels of a group, the memory layouts or the numbers."""
    windows = getattr(call, "windows", call)
    names = ("groups", "with_bias", "activation", "output_padding")
    return (
        *windows.axes,
        getattr(windows, "ceil_mode", None),
        *(getattr(call, name, None) for name in names),
    )


@pytest.mark.parametrize("operation", OPERATIONS)
def test_agrees_on_drawn_calls(operation, combinations):
    agree, calls = OPERATIONS[operation]
    agreed = set()

    @search(2 * SHARE)  # some are drawn twice
    @given(call=calls, dtype=st.sampled_from(["float32", "float64"]).map(np.dtype))
    def check(call, dtype):
        agree(call, dtype)
        agreed.add(combination(call))

    check()
    combinations("torch", operation, agreed)
    assert len(agreed) >= SHARE


@given(
    call=convolutions(winograd_windows()),
    channels=st.tuples(st.integers(16, 20), st.integers(16, 20)),
)
def test_agrees_where_the_default_is_winograds_algorithm(call, channels):
    """Within the bound of its transforms; see test_winograd.py."""
    call = replace(call, channels=channels, groups=1)
    x, weight, bias, grad_out = call.arrays(np.dtype(np.float32), signs)
    plan = sd.Conv2dPlan(weight, bias, activation=call.activation, **call.options)
    assume(plan.algorithm(call.windows.size) == "winograd")
    limits = bounds(call, x, weight, bias, grad_out)
    y = torch_conv2d(call, *tensors((x, weight, bias), np.float64))
    y = (F.relu(y) if call.activation else y).numpy()
    for result in (sd.conv2d(x, weight, bias, activation=call.activation, **call.options), plan(x)):
        assert_within(result, y, limits["y"])
    expected = torch_conv2d_backward(call, *tensors((grad_out, x, weight), np.float64))
    grads = sd.conv2d_backward(grad_out, x, weight, **call.options)
    assert_within(grads.x, expected[0], limits["x"])
    assert_within(grads.weight, expected[1], limits["weight"])
    assert_same(grads.bias, expected[2].astype(np.float32))


# ------------------------------------------------------------------------ all small axes


def every(**ranges):
    """Yield each combination of the named values, as a dict."""
    for values in itertools.product(*ranges.values()):
        yield dict(zip(ranges, values, strict=True))


def along(axis, value, other):
    """Return the pair for an image of which one axis has `value` and the other one `other`."""
    return (value, other) if axis == 0 else (other, value)


def unless_refused(error, function, arguments, options):
    """Return what a function returns, as NumPy arrays, or None if it raises `error`."""
    try:
        results = function(*arguments, **options)
    except error:
        return None
    results = results if isinstance(results, tuple) else (results,)
    return [np.asarray(result) for result in results]


def assert_agree(ours, theirs, arguments, options):
    """Assert that both functions return the same, or both refuse."""
    actual = unless_refused(ValueError, ours, arguments, options)
    arguments = [tensor(a) if isinstance(a, np.ndarray) else a for a in arguments]
    expected = unless_refused(RuntimeError, theirs, arguments, options)
    assert (actual is None) == (expected is None)
    for a, e in zip(actual or [], expected or [], strict=True):
        assert a.shape == e.shape
        np.testing.assert_array_equal(a, e)


@pytest.mark.parametrize("axis", [0, 1], ids=["rows", "columns"])
def test_conv2d_on_all_small_axes(axis, combinations):
    agreed = set()
    for case in every(
        size=range(1, 7), kernel=range(1, 5), stride=(1, 2, 3, 5), padding=range(4), dilation=(1, 2)
    ):
        size, kernel, stride, padding, dilation = case.values()
        x = np.arange(1.0, size + 1).reshape(1, 1, *along(axis, size, 1))
        weight = 10.0 ** np.arange(kernel).reshape(1, 1, *along(axis, kernel, 1))
        options = {
            "stride": along(axis, stride, 1),
            "padding": along(axis, padding, 0),
            "dilation": along(axis, dilation, 1),
        }
        assert_agree(sd.conv2d, F.conv2d, (x, weight), options)
        agreed.add((axis, *case.values()))
    combinations("torch", "conv2d", agreed)


@pytest.mark.parametrize("axis", [0, 1], ids=["rows", "columns"])
def test_conv_transpose2d_on_all_small_axes(axis, combinations):
    """What padding leaves nothing of, and output_padding of a step, are refused by both."""
    agreed = set()
    for case in every(
        size=range(1, 4),
        kernel=range(1, 5),
        stride=(1, 2, 3, 5),
        padding=range(4),
        output_padding=range(4),
        dilation=(1, 2, 3),
    ):
        size, kernel, stride, padding, output_padding, dilation = case.values()
        x = np.arange(1.0, size + 1).reshape(1, 1, *along(axis, size, 1))
        weight = 10.0 ** np.arange(kernel).reshape(1, 1, *along(axis, kernel, 1))
        options = {
            "stride": along(axis, stride, 1),
            "padding": along(axis, padding, 0),
            "output_padding": along(axis, output_padding, 0),
            "dilation": along(axis, dilation, 1),
        }
        assert_agree(sd.conv_transpose2d, F.conv_transpose2d, (x, weight), options)
        agreed.add((axis, *case.values()))
    combinations("torch", "conv_transpose2d", agreed)


@pytest.mark.parametrize("axis", [0, 1], ids=["rows", "columns"])
def test_conv2d_same_on_all_small_axes(axis, combinations):
    """Of an even window, or an odd number of gaps, the odd pixel of padding comes last."""
    agreed = set()
    for case in every(size=range(1, 8), kernel=range(1, 7), dilation=(1, 2, 3)):
        size, kernel, dilation = case.values()
        x = np.arange(1.0, size + 1).reshape(1, 1, *along(axis, size, 1))
        weight = 10.0 ** np.arange(kernel).reshape(1, 1, *along(axis, kernel, 1))
        options = {"padding": "same", "dilation": along(axis, dilation, 1)}
        expected = F.conv2d(*tensors((x, weight)), **options).numpy()
        assert_same(sd.conv2d(x, weight, **options), expected)
        agreed.add((axis, "same", *case.values()))
    combinations("torch", "conv2d", agreed)


def pooled_axes(axis):
    """Yield all small pooled axes: an image, the windows and what counts a combination."""
    rng = np.random.default_rng(0)
    for case in every(
        size=range(1, 8),
        kernel=range(1, 5),
        stride=range(1, 6),
        padding=range(3),
        dilation=(1, 2, 3),
        ceil_mode=(False, True),
    ):
        size, kernel, stride, padding, dilation, ceil_mode = case.values()
        if padding <= kernel // 2:  # torch takes no more
            sizes = (along(axis, n, 1) for n in (size, kernel, stride))
            drawn = Windows(*sizes, along(axis, padding, 0), along(axis, dilation, 1), ceil_mode)
            x = rng.permutation(size).astype(np.float64).reshape(1, 1, *drawn.size)
            yield x, drawn, (axis, *case.values())


def options_of(drawn, *names):
    return {name: getattr(drawn, name) for name in ("stride", "padding", "ceil_mode", *names)}


@pytest.mark.parametrize("axis", [0, 1], ids=["rows", "columns"])
def test_max_pool2d_on_all_small_axes(axis, combinations):
    """Which windows there are, ceil_mode's dropped one included, and what they hold."""
    ours = functools.partial(sd.max_pool2d, return_argmax=True)
    theirs = functools.partial(F.max_pool2d, return_indices=True)
    agreed = set()
    for x, drawn, case in pooled_axes(axis):
        options = options_of(drawn, "dilation")
        try:
            out_of_pixels = not hold_pixels(drawn)
        except ValueError:
            out_of_pixels = False  # not even one window: both refuse
        if out_of_pixels:
            y, _ = theirs(tensor(x), drawn.kernel_size, **options)
            assert y.min() == -np.inf  # from nowhere
            with pytest.raises(ValueError, match="holds none of the input's"):
                ours(x, drawn.kernel_size, **options)
        else:
            assert_agree(ours, theirs, (x, drawn.kernel_size), options)
            agreed.add(case)
    combinations("torch", "max_pool2d", agreed)


@pytest.mark.parametrize("axis", [0, 1], ids=["rows", "columns"])
def test_avg_pool2d_on_all_small_axes(axis, combinations):
    """What each window is divided by, also where it hangs over the end."""
    agreed = set()
    for x, drawn, case in pooled_axes(axis):
        if drawn.dilation == (1, 1):
            for counted in (True, False):
                options = options_of(drawn) | {"count_include_pad": counted}
                assert_agree(sd.avg_pool2d, F.avg_pool2d, (x, drawn.kernel_size), options)
                agreed.add((*case, counted))
    combinations("torch", "avg_pool2d", agreed)


# ------------------------------------------------------------------------ documented differences


@pytest.mark.parametrize(
    ("row", "first", "last"),
    [([1, np.nan, np.nan, 2], 1, 2), ([np.nan] * 4, 0, 3), ([np.inf, np.nan, 5, np.nan], 1, 3)],
)
def test_of_several_nans_the_first_ones_place_is_stored(dtype, row, first, last):
    """As numpy.argmax does it; torch stores the last one's."""
    x = np.array(row, dtype).reshape(1, 1, 4)
    y, argmax = sd.max_pool2d(x, (1, 4), return_argmax=True)
    expected, places = F.max_pool2d(tensor(x), (1, 4), return_indices=True)
    assert_same(y, expected.numpy())
    assert argmax.item() == np.argmax(x) == first
    assert places.item() == last


def test_windows_of_minus_infinity_have_a_place(dtype):
    x = np.full((1, 5, 6), -np.inf, dtype)
    y, argmax = sd.max_pool2d(x, 3, stride=2, padding=1, return_argmax=True)
    expected, places = F.max_pool2d(tensor(x), 3, 2, 1, return_indices=True)
    assert_same(y, expected.numpy())
    assert_same(argmax, places.numpy().astype(np.int32))


def test_same_with_a_stride_is_not_in_torch():
    """TensorFlow's and ONNX's rule serves then: see test_against_onnx.py."""
    x, weight = torch.ones(1, 1, 5, 5), torch.ones(1, 1, 3, 3)
    with pytest.raises(RuntimeError, match="not supported for strided"):
        F.conv2d(x, weight, stride=2, padding="same")
    assert sd.conv2d(x.numpy(), weight.numpy(), stride=2, padding="same").shape == (1, 1, 3, 3)

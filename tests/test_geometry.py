"""Sizes, windows, receptive fields and parameter counts against counting and against arrays."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from strategies import Windows, hold_pixels, pool_windows, windows

from slidedot import geometry, reference
from slidedot.geometry import (
    ReceptiveField,
    conv2d_parameters,
    conv_output_size,
    linear_parameters,
    receptive_field,
)

HUGE = 2**63 - 1

#: size, kernel size, stride, (before, after), dilation of one axis
AXES = st.tuples(
    st.integers(1, 20),
    st.integers(1, 6),
    st.integers(1, 7),
    st.tuples(st.integers(0, 9), st.integers(0, 9)),
    st.integers(1, 5),
).filter(lambda axis: axis[4] * (axis[1] - 1) < axis[0] + sum(axis[3]))


def starts_that_fit(size, kernel, stride, padding, dilation):
    """Count off the windows that lie on the padded axis."""
    end = size + sum(padding)
    span = dilation * (kernel - 1) + 1
    return [start for start in range(0, end, stride) if start + span <= end]


# ------------------------------------------------------------------------ sizes


@given(axis=AXES)
def test_output_size_counts_the_windows_that_fit(axis):
    assert conv_output_size(*axis) == len(starts_that_fit(*axis))


@given(axis=AXES)
def test_ceil_mode_adds_a_window_that_starts_before_the_end(axis):
    size, kernel, stride, padding, dilation = axis
    starts = starts_that_fit(*axis)
    covered = starts[-1] + dilation * (kernel - 1) + 1
    left_over = covered < size + sum(padding)
    starts_inside = starts[-1] + stride < padding[0] + size
    expected = len(starts) + (left_over and starts_inside)
    assert conv_output_size(*axis, ceil_mode=True) == expected


def test_in_ceil_mode_even_the_first_window_may_hang_over_the_end():
    """By less than a stride, as in torch."""
    assert conv_output_size(2, 4, 3, ceil_mode=True) == 1
    assert conv_output_size(1, 3, 4, (1, 0), dilation=2, ceil_mode=True) == 1
    for size, kernel, stride in ((2, 4, 2), (2, 5, 3), (2, 4, 1)):
        with pytest.raises(ValueError, match=f"spans {kernel} pixels, more than .* 2 "):
            conv_output_size(size, kernel, stride, ceil_mode=True)


@given(axis=AXES)
def test_exact_refuses_pixels_left_over(axis):
    size, kernel, _, padding, dilation = axis
    starts = starts_that_fit(*axis)
    left_over = size + sum(padding) - (starts[-1] + dilation * (kernel - 1) + 1)
    if left_over:
        with pytest.raises(ValueError, match=f"do not tile .*: {left_over} left over"):
            conv_output_size(*axis, exact=True)
    else:
        assert conv_output_size(*axis, exact=True) == len(starts)


@given(axis=AXES)
def test_same_divides_the_size_by_the_stride(axis):
    size, kernel, stride, _, dilation = axis
    assert conv_output_size(size, kernel, stride, "same", dilation) == -(-size // stride)
    (rows, _) = geometry.windows("f", (size, 1), (kernel, 1), stride, "same", dilation)
    assert rows.out == -(-size // stride)
    assert rows.after - rows.before in (0, 1)  # the odd pixel comes last
    if rows.before + rows.after:  # and no pixel more than the windows take
        last = (rows.out - 1) * stride + rows.span
        assert rows.before + size + rows.after == last


@pytest.mark.parametrize(
    ("size", "kernel_size", "stride", "padding", "expected"),
    [
        (7, 3, 1, 0, 5),
        (7, 3, 2, 0, 3),
        (32, 5, 1, 2, 32),
        (224, 11, 4, 2, 55),  # AlexNet's first layer
        (224, 7, 2, 3, 112),  # ResNet's
        (HUGE, 1, 1, 0, HUGE),
        (HUGE, 3, 2, 0, 2**62 - 1),
    ],
)
def test_known_sizes(size, kernel_size, stride, padding, expected):
    assert conv_output_size(size, kernel_size, stride, padding) == expected


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((7, 3, 0), ValueError, "stride must be >= 1, got stride=0"),
        ((7, 3, -1), ValueError, "stride must be >= 1, got stride=-1"),
        ((0, 3), ValueError, "size must be >= 1, got size=0"),
        ((7, 0), ValueError, "kernel_size must be >= 1"),
        ((7, 3, 1, -1), ValueError, "padding must be >= 0, got padding=-1"),
        ((7, 3, 1, 0, 0), ValueError, "dilation must be >= 1"),
        ((7, 3, 1, "full"), ValueError, "padding must be 'valid', 'same' or integers"),
        ((7, 3, 1, (1, 2, 3)), ValueError, "padding must be"),
        ((7, 8), ValueError, "kernel's size 8 with dilation 1 spans 8 .* input's 7"),
        ((7, 3, 1, 0, 4), ValueError, "kernel's size 3 with dilation 4 spans 9 .* input's 7"),
        ((7, 2**62, 1, 0, 2**62), ValueError, "spans"),
        ((2**63, 3), ValueError, "size is too large"),
        ((7, 3, 1, HUGE), ValueError, "padding is too large"),
        ((7.0, 3), TypeError, r"size must be an int, got 7\.0"),
        ((7, 3, True), TypeError, "stride must be an int, got True"),
        ((7, 3, 1, 1.5), TypeError, "padding must be an int"),
        ((7, "3"), TypeError, "kernel_size must be an int, got '3'"),
        ((7, None), TypeError, "kernel_size must be an int"),
    ],
)
def test_sizes_that_are_refused(arguments, error, message):
    with pytest.raises(error, match=f"^conv_output_size: .*{message}"):
        conv_output_size(*arguments)


@pytest.mark.parametrize("index", [np.int8, np.uint64, lambda n: np.array(n)])
def test_anything_with_an_index_is_an_integer(index):
    size = conv_output_size(index(9), index(3), index(2), index(1), index(1))
    assert size == 5
    assert type(size) is int


# ------------------------------------------------------------------------ parts


def taps(axis, first=0):
    """Return what each tap of each window meets: a pixel, counted from `first`, "padding", or, over
    the end of the padding, "nothing"."""

    def met(place):
        if 0 <= place < axis.size:
            return first + place
        return "padding" if place < axis.size + axis.after else "nothing"

    starts = [o * axis.stride - axis.before for o in range(axis.out)]
    return [[met(s + axis.dilation * tap) for tap in range(axis.kernel)] for s in starts]


@st.composite
def axes_and_outputs(draw):
    """Draw an axis of a convolution or of a pool, and some of its outputs."""
    drawn = draw(st.one_of(windows(), pool_windows()))
    axis = drawn.axes[0]
    start = draw(st.integers(0, axis.out - 1))
    return drawn.ceil_mode, axis, start, draw(st.integers(start + 1, axis.out))


@given(drawn=axes_and_outputs())
def test_a_part_meets_what_the_whole_meets(drawn):
    """Each window meets the same pixels, the same padding and the same nothing."""
    ceil_mode, axis, start, stop = drawn
    part = axis.part(start, stop)
    assert 0 <= part.start < part.stop <= axis.size
    within = geometry.windows(
        "test",
        (part.stop - part.start, 1),
        (axis.kernel, 1),
        (axis.stride, 1),
        ((part.before, part.after), (0, 0)),
        (axis.dilation, 1),
        ceil_mode,
    )[0]
    assert taps(within, part.start)[part.kept] == taps(axis)[start:stop]


@given(drawn=axes_and_outputs())
def test_a_part_reads_no_more_than_its_windows_span(drawn):
    """Unless a window holds no pixel, or is the one that hangs over the end."""
    _, axis, start, stop = drawn
    begin = start * axis.stride - axis.before
    end = (stop - 1) * axis.stride - axis.before + axis.span
    part = axis.part(start, stop)
    if begin + axis.span <= axis.size + axis.after and begin < axis.size and end > 0:
        assert part == (
            max(begin, 0),
            min(end, axis.size),
            max(-begin, 0),
            min(max(end - axis.size, 0), axis.after),
            slice(0, stop - start),
        )
    else:
        assert part.stop - part.start <= axis.stride + axis.span


@given(drawn=axes_and_outputs(), more=st.tuples(st.integers(0, 3), st.integers(0, 3)))
def test_a_part_may_be_computed_within_a_larger_one(drawn, more):
    _, axis, start, stop = drawn

    def widen(out, first, last):
        assert out == axis.out
        return max(0, first - more[0]), min(out, last + more[1])

    part, plain = axis.part(start, stop, widen), axis.part(start, stop)
    larger = axis.part(*widen(axis.out, start - plain.kept.start, stop))
    first = max(0, start - plain.kept.start - more[0])
    assert part.kept == slice(start - first, stop - first)
    assert part.start <= larger.start < larger.stop <= part.stop


@given(
    numbers=st.tuples(*[st.integers(1, 7)] * 4),
    cut=st.one_of(st.tuples(st.integers(0, 9), st.integers(0, 9)), st.just("same")),
    extra=st.integers(0, 6),
    data=st.data(),
)
def test_a_transposed_part_is_reached_as_the_whole(numbers, cut, extra, data):
    """Each pixel of the result by the same taps of the same inputs, which are no more than that."""
    size, kernel, stride, dilation = numbers
    padding = cut if cut == "same" else (cut, (0, 0))
    try:
        window = (kernel, 1), (stride, 1), padding, (extra, 0), (dilation, 1)
        axis = geometry.transposed_windows("test", (size, 1), *window)[0]
    except ValueError:  # nothing is left, or too much output_padding
        assume(False)

    def reached(axis, first=0):
        by = [set() for _ in range(axis.size)]
        for o in range(axis.out):
            for tap in range(axis.kernel):
                place = o * axis.stride + tap * axis.dilation - axis.before
                if 0 <= place < axis.size:
                    by[place].add((first + o, tap))
        return by

    start = data.draw(st.integers(0, axis.size - 1))
    stop = data.draw(st.integers(start + 1, axis.size))
    part = axis.transposed_part(start, stop)
    assert 0 <= part.start < part.stop <= axis.out
    assert part.before >= 0
    out = part.stop - part.start
    whole = (out - 1) * stride + axis.span - part.before - part.after
    within = axis._replace(size=whole, out=out, before=part.before)
    assert reached(within, part.start)[part.kept] == reached(axis)[start:stop]
    inputs = {o for by in reached(axis)[start:stop] for o, _ in by}
    if dilation == 1 and inputs:
        gaps = axis.span < stride  # a part that begins in one has the input before it too
        assert min(inputs) - gaps <= part.start <= min(inputs)
        assert part.stop == max(inputs) + 1


def test_a_part_of_a_huge_axis():
    axis = geometry.windows("test", (2**61, 1), (3, 1), (2**59, 1), ((5, 2**60), (0, 0)), 1)[0]
    assert axis.part(1, 2) == (2**59 - 5, 2**59 - 2, 0, 0, slice(0, 1))
    assert axis.part(axis.out - 1, axis.out).kept.stop <= axis.out


# ------------------------------------------------------------------------ windows


@pytest.mark.parametrize(
    ("padding", "expected"),
    [
        (2, ((2, 2), (2, 2))),
        ((2, 1), ((2, 2), (1, 1))),
        ([2, 1], ((2, 2), (1, 1))),
        (((0, 1), (2, 3)), ((0, 1), (2, 3))),
        ("valid", ((0, 0), (0, 0))),
        ("same", ((1, 1), (1, 2))),
    ],
)
def test_every_form_of_padding(padding, expected):
    axes = geometry.windows("f", (8, 9), (3, 4), 1, padding, 1)
    assert tuple((axis.before, axis.after) for axis in axes) == expected


@pytest.mark.parametrize(
    "padding", [(1, 2, 3), ((1, 2), 3), ((1, 2, 3), (1, 2)), (1,), (), (-1, 0), ((0, 0), (0, -1))]
)
def test_no_other_form_of_padding(padding):
    with pytest.raises(ValueError, match=r"^f: padding must be"):
        geometry.windows("f", (8, 9), 3, 1, padding, 1)


@given(drawn=windows())
def test_windows_are_the_sizes_of_both_axes(drawn):
    kernel, stride, dilation = (
        geometry.pair("f", "numbers", value)
        for value in (drawn.kernel_size, drawn.stride, drawn.dilation)
    )
    for i, axis in enumerate(drawn.axes):
        assert axis[:4] == (drawn.size[i], kernel[i], stride[i], dilation[i])
        padding = (axis.before, axis.after)
        assert axis.out == conv_output_size(*axis[:3], padding, dilation[i])


#: Taps further apart than the image is long: some windows miss it, and where is number theory.
SPARSE_AXES = st.tuples(
    st.integers(1, 12),
    st.integers(1, 4),
    st.integers(1, 60),
    st.tuples(st.integers(0, 70), st.integers(0, 70)),
    st.integers(1, 25),
).filter(lambda axis: axis[4] * (axis[1] - 1) < axis[0] + sum(axis[3]))


@settings(max_examples=1000)
@given(
    # pooling refuses padding of a whole window or more before it asks
    axis=st.one_of(AXES, SPARSE_AXES).filter(lambda axis: max(axis[3]) <= axis[4] * (axis[1] - 1)),
    ceil_mode=st.booleans(),
)
def test_an_empty_window_is_found_where_there_is_one(axis, ceil_mode):
    size, kernel, stride, padding, dilation = axis
    drawn = Windows((size, 1), (kernel, 1), stride, (padding, (0, 0)), (dilation, 1), ceil_mode)
    rows, cols = drawn.axes
    assert geometry.empty_window(cols) is None
    empty = geometry.empty_window(rows)
    assert (empty is None) == hold_pixels(drawn)
    if empty is not None:
        taps = empty * stride - padding[0] + dilation * np.arange(kernel)
        assert 0 <= empty < rows.out
        assert not ((taps >= 0) & (taps < size)).any()


@given(drawn=pool_windows())
def test_windows_that_hold_pixels_have_no_empty_one(drawn):
    assert all(geometry.empty_window(axis) is None for axis in drawn.axes)


# ------------------------------------------------------------------------ receptive fields


LAYERS = st.lists(
    st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(0, 3), st.integers(1, 2)),
    min_size=1,
    max_size=3,
)


@given(layers=LAYERS)
def test_receptive_field_is_what_an_output_depends_on(layers):
    # The gradients of two neighbouring outputs, sent back through filters of ones, reach just the
    # pixels that each one sees. Both lie in the middle, where no padding cuts their fields.
    fields = receptive_field(layers)
    sizes = [200]
    for layer in layers:
        sizes.append(conv_output_size(sizes[-1], *layer))
    for depth, field in enumerate(fields, 1):
        middle = sizes[depth] // 2
        grad = np.zeros((2, 1, 1, sizes[depth]))
        grad[0, 0, 0, middle] = grad[1, 0, 0, middle + 1] = 1
        for i in reversed(range(depth)):
            kernel, stride, padding, dilation = layers[i]
            grad = reference.conv2d_backward(
                grad,
                np.zeros((2, 1, 1, sizes[i])),
                np.ones((1, 1, 1, kernel)),
                stride=(1, stride),
                padding=(0, padding),
                dilation=(1, dilation),
            ).x
        first, second = (np.flatnonzero(pixels) for pixels in grad[:, 0, 0])
        assert first[-1] - first[0] + 1 == field.size
        assert second[0] - first[0] == field.jump
        assert (first[0] + first[-1]) / 2 == field.start + middle * field.jump


def test_receptive_fields_of_known_networks():
    vgg_block = [(3, 1, 1), (3, 1, 1), (2, 2)]
    assert [field.size for field in receptive_field(vgg_block * 2)] == [3, 5, 6, 10, 14, 16]
    alexnet = [(11, 4, 2), (3, 2), (5, 1, 2), (3, 2), (3, 1, 1), (3, 1, 1), (3, 1, 1), (3, 2)]
    assert receptive_field(alexnet)[-1] == ReceptiveField(195, 32, 31.0)
    rectangular = [((3, 5), (1, 2), (1, 0)), 3]
    assert receptive_field(rectangular) == [
        ReceptiveField((3, 5), (1, 2), (0.0, 2.0)),
        ReceptiveField((5, 9), (1, 2), (1.0, 4.0)),
    ]
    assert receptive_field([]) == []


@pytest.mark.parametrize(
    ("layers", "error", "message"),
    [
        ([(3, 0)], ValueError, "stride must be >= 1, got stride=0"),
        ([0], ValueError, "kernel_size must be >= 1"),
        ([(3, 1, 1, 1, 1)], ValueError, "a layer must be"),
        ([()], ValueError, "a layer must be"),
        ([(3, 2, "same")], ValueError, "padding='same' and stride 2"),
        ([3.0], TypeError, "kernel_size must be an int"),
    ],
)
def test_layers_that_are_refused(layers, error, message):
    with pytest.raises(error, match=f"^receptive_field: .*{message}"):
        receptive_field(layers)


def test_same_padding_keeps_the_first_field_in_place():
    assert receptive_field([(3, 1, "same")]) == [ReceptiveField(3, 1, 0.0)]
    assert receptive_field([(3, 1, "valid")]) == [ReceptiveField(3, 1, 1.0)]


# ------------------------------------------------------------------------ parameters


def test_parameters_are_counted_as_the_arrays_have_them():
    weight, bias = np.empty((12, 8 // 4, 3, 5)), np.empty(12)
    assert conv2d_parameters(8, 12, (3, 5), groups=4) == weight.size + bias.size
    assert conv2d_parameters(8, 12, (3, 5), groups=4, bias=False) == weight.size
    assert linear_parameters(100, 10) == 100 * 10 + 10
    assert linear_parameters(100, 10, bias=False) == 100 * 10
    assert conv2d_parameters(2**40, 2**40, 3, bias=False) == 9 * 2**80


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((8, 12, 3, 5), "groups=5 does not divide in_channels=8"),
        ((8, 12, 3, 8), "groups=8 does not divide out_channels=12"),
        ((8, 12, 3, 0), "groups must be >= 1, got groups=0"),
        ((0, 12, 3), "in_channels must be >= 1"),
        ((8, 12, (3, 3, 3)), r"kernel_size must be an int or \(h, w\)"),
    ],
)
def test_parameters_that_are_refused(arguments, message):
    with pytest.raises(ValueError, match=f"^conv2d_parameters: .*{message}"):
        conv2d_parameters(*arguments)


# ------------------------------------------------------------------------ words of an error


class Unprintable:
    def __repr__(self):
        raise RuntimeError("no text")


@pytest.mark.parametrize("value", [Unprintable(), [1] * 10**6, "x" * 10**6])
def test_an_error_shows_any_value_briefly(value):
    with pytest.raises(TypeError, match=r"^f: size must be an int, got ") as caught:
        geometry.integer("f", "size", value)
    assert len(str(caught.value)) < 200


def test_an_error_shows_a_number_too_long_to_print():
    with pytest.raises(ValueError, match=r"^f: size is too large") as caught:
        geometry.integer("f", "size", 10**10_000)
    assert len(str(caught.value)) < 200

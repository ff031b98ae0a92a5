"""ONNX's definitions of the operators, as two other programs compute them.

``onnx.reference`` is the standard's own evaluator, onnxruntime an independent implementation. The
operator's text (https://onnx.ai/onnx/operators) decides where one of them departs from it, and each
operator below says where that is. On integers results are exact; on reals, the evaluator in float64
gives what the error bound is held against.

ONNX pads each end of an axis by itself, or by rule (``auto_pad``), which is written out here as
explicit padding. The default of its strides is 1 also in pooling.
"""

from dataclasses import dataclass

import numpy as np
import pytest
from checks import assert_same, assert_sums_close
from hypothesis import assume, given
from hypothesis import strategies as st
from strategies import Windows, hold_pixels, integers, reals, search

import slidedot as sd

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
reference = pytest.importorskip("onnx.reference")

OPSET = 22  # the first one of these operators as they are today


# ------------------------------------------------------------------------ the oracles


def model_of(operator, arrays, outputs, attributes):
    """Return a model of one node, and its inputs by name; an input may be missing."""
    inputs = {f"input{i}": array for i, array in enumerate(arrays) if array is not None}
    names = [f"input{i}" if array is not None else "" for i, array in enumerate(arrays)]
    declare = onnx.helper.make_tensor_value_info
    kind = onnx.helper.np_dtype_to_tensor_dtype
    kinds = [kind(arrays[0].dtype), onnx.TensorProto.INT64][:outputs]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node(operator, names, [f"y{i}" for i in range(outputs)], **attributes)],
        operator,
        [declare(name, kind(array.dtype), array.shape) for name, array in inputs.items()],
        [declare(f"y{i}", kind, None) for i, kind in enumerate(kinds)],
    )
    opset = onnx.helper.make_opsetid("", OPSET)
    return onnx.helper.make_model(graph, opset_imports=[opset], ir_version=10), inputs


def by_reference(operator, arrays, outputs=1, **attributes):
    model, inputs = model_of(operator, arrays, outputs, attributes)
    return reference.ReferenceEvaluator(model).run(None, inputs)


def by_onnxruntime(operator, arrays, outputs=1, **attributes):
    model, inputs = model_of(operator, arrays, outputs, attributes)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4  # errors are raised as well
    providers = ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=providers)
    return session.run(None, inputs)


# ------------------------------------------------------------------------ drawn nodes

PAIR = st.tuples(st.integers(1, 4), st.integers(1, 4))
STEPS = st.tuples(st.integers(1, 5), st.integers(1, 5))  # also larger than the kernel
DILATIONS = st.tuples(st.integers(1, 3), st.integers(1, 3)) | st.just((1, 1))
AUTO_PADS = ("NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID")


def split(total, auto_pad):
    """Halve padding as the texts say: the odd pixel at the end, or at the beginning."""
    half = total // 2
    return (half, total - half) if auto_pad == "SAME_UPPER" else (total - half, half)


@dataclass(frozen=True)
class Node:
    """What the operators on windows have in common. `pads` are ``((top, bottom), (left, right))``
    as this package writes them, and count where `auto_pad` is "NOTSET"."""

    size: tuple[int, int]
    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    auto_pad: str
    pads: tuple
    seed: int

    @property
    def spans(self):
        return [d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilations, strict=True)]

    @property
    def same(self):
        return self.auto_pad.startswith("SAME")

    @property
    def same_totals(self):
        """``(output - 1) * stride + span - input`` of each axis, which a large stride makes
        negative."""
        axes = zip(self.size, self.strides, self.spans, strict=True)
        return [(-(-n // stride) - 1) * stride + span - n for n, stride, span in axes]

    @property
    def padding(self):
        """The padding in pixels: `pads` cannot be negative."""
        if self.auto_pad == "VALID":
            return ((0, 0), (0, 0))
        if self.same:
            return tuple(split(max(total, 0), self.auto_pad) for total in self.same_totals)
        return self.pads

    @property
    def attributes(self):
        """As ONNX has them."""
        padding = {"auto_pad": self.auto_pad}
        if self.auto_pad == "NOTSET":
            (top, bottom), (left, right) = self.pads
            padding["pads"] = [top, left, bottom, right]
        return {"strides": self.strides, "dilations": self.dilations, **padding}

    @property
    def options(self):
        """As this package has them."""
        return {"stride": self.strides, "padding": self.padding, "dilation": self.dilations}

    def windows(self, ceil_mode=False):
        return Windows(
            self.size, self.kernel, self.strides, self.padding, self.dilations, ceil_mode
        )

    def array(self, *shape, numbers=integers, number=0):
        return numbers(np.random.default_rng([self.seed, number]), shape).astype(np.float32)


@st.composite
def nodes(draw, dilations=DILATIONS, pooling=False):
    """Draw nodes whose windows fit; in pooling, padding is less than the window."""
    kernel, strides, dilations = draw(PAIR), draw(STEPS), draw(dilations)
    spans = [d * (k - 1) + 1 for k, d in zip(kernel, dilations, strict=True)]
    auto_pad = draw(st.sampled_from(AUTO_PADS))
    pads = [(0, 0), (0, 0)]
    if auto_pad == "NOTSET":
        most = [span - 1 if pooling else 6 for span in spans]
        pads = [(draw(st.integers(0, m)), draw(st.integers(0, m))) for m in most]
    size = tuple(
        max(1, (1 if auto_pad.startswith("SAME") else span) - sum(ends)) + draw(st.integers(0, 8))
        for span, ends in zip(spans, pads, strict=True)
    )
    seed = draw(st.integers(0, 2**32 - 1))
    return Node(size, kernel, strides, dilations, auto_pad, tuple(pads), seed)


def distinct(*values):
    """What counts as one combination of parameters."""
    node, *others = values
    return (node.windows().axes, node.auto_pad, *others)


# ------------------------------------------------------------------------ Conv


def test_conv(combinations):
    agreed = set()

    @search(300)
    @given(
        node=nodes(),
        group=st.integers(1, 3),
        channels=st.tuples(st.integers(1, 3), st.integers(1, 3)),
        with_bias=st.booleans(),
    )
    def check(node, group, channels, with_bias):
        """onnxruntime does not know "SAME" with dilation, and with a stride beyond the window it
        starts before the first pixel."""
        c, k = channels
        shapes = ((2, c * group, *node.size), (k * group, c, *node.kernel), (k * group,))
        attributes = {"group": group, **node.attributes}

        def arrays(numbers):
            x, weight, bias = (
                node.array(*shape, numbers=numbers, number=i) for i, shape in enumerate(shapes)
            )
            return x, weight, bias if with_bias else None

        def ours(arrays):
            return sd.conv2d(*arrays, groups=group, **node.options)

        y = ours(arrays(integers))
        assert_same(y, by_reference("Conv", arrays(integers), **attributes)[0])
        if not (node.same and (max(node.dilations) > 1 or min(node.same_totals) < 0)):
            assert_same(y, by_onnxruntime("Conv", arrays(integers), **attributes)[0])
        if node.auto_pad == "SAME_UPPER":
            same = {**node.options, "padding": "same"}
            assert_same(sd.conv2d(*arrays(integers), groups=group, **same), y)

        wide = [None if a is None else a.astype(np.float64) for a in arrays(reals)]
        expected = by_reference("Conv", wide, **attributes)[0]
        magnitude = ours([None if a is None else np.abs(a) for a in wide])
        terms = c * node.kernel[0] * node.kernel[1] + 1
        assert_sums_close(ours(arrays(reals)), expected, magnitude, terms)
        agreed.add(distinct(node, group, with_bias))

    check()
    combinations("ONNX", "Conv", agreed)


# ------------------------------------------------------------------------ ConvTranspose


@dataclass(frozen=True)
class Transposed:
    """A ConvTranspose node. `pads` are those that its `auto_pad` or `output_shape` comes to."""

    size: tuple[int, int]
    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    output_padding: tuple[int, int]
    auto_pad: str
    output_shape: tuple[int, int] | None
    pads: tuple
    seed: int

    array = Node.array

    @property
    def attributes(self):
        """As ONNX has them."""
        padding = {"auto_pad": self.auto_pad}
        if self.output_shape:
            padding["output_shape"] = self.output_shape
        elif self.auto_pad == "NOTSET":
            (top, bottom), (left, right) = self.pads
            padding["pads"] = [top, left, bottom, right]
        names = ("strides", "dilations", "output_padding")
        return {**{name: getattr(self, name) for name in names}, **padding}

    @property
    def options(self):
        """As this package has them."""
        return {
            "stride": self.strides,
            "padding": self.pads,
            "output_padding": self.output_padding,
            "dilation": self.dilations,
        }


@st.composite
def transposed_nodes(draw):
    """Draw nodes whose padding does not come out negative: the text gives that no meaning, and the
    two programs give it different ones."""
    kernel, strides, dilations = draw(PAIR), draw(STEPS), draw(DILATIONS)
    size = draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    output_padding = tuple(draw(st.integers(0, stride - 1)) for stride in strides)
    whole = [
        (n - 1) * stride + dilation * (taps - 1) + 1 + more
        for n, stride, dilation, taps, more in zip(
            size, strides, dilations, kernel, output_padding, strict=True
        )
    ]
    auto_pad, with_shape = draw(st.sampled_from(AUTO_PADS)), draw(st.booleans())
    output_shape = None
    if auto_pad == "VALID":
        pads = ((0, 0), (0, 0))
    elif with_shape or auto_pad != "NOTSET":
        if with_shape:
            output_shape = tuple(draw(st.integers(max(1, w - 7), w)) for w in whole)
        shape = output_shape or [n * stride for n, stride in zip(size, strides, strict=True)]
        totals = [w - n for w, n in zip(whole, shape, strict=True)]
        assume(min(totals) >= 0)
        pads = tuple(split(total, auto_pad) for total in totals)  # NOTSET as SAME_LOWER
    else:
        before = [draw(st.integers(0, min(6, w - 1))) for w in whole]
        after = [
            draw(st.integers(0, min(6, w - 1 - b))) for w, b in zip(whole, before, strict=True)
        ]
        pads = tuple(zip(before, after, strict=True))
    seed = draw(st.integers(0, 2**32 - 1))
    return Transposed(
        size, kernel, strides, dilations, output_padding, auto_pad, output_shape, pads, seed
    )


def test_conv_transpose(combinations):
    agreed = set()

    @search(300)
    @given(
        node=transposed_nodes(),
        group=st.sampled_from([1, 1, 2, 3]),
        channels=st.tuples(st.integers(1, 3), st.integers(1, 3)),
        with_bias=st.booleans(),
    )
    def check(node, group, channels, with_bias):
        """The evaluator mixes groups up, and ignores an `output_shape` without an `auto_pad`."""
        c, k = channels
        shapes = ((2, c * group, *node.size), (c * group, k, *node.kernel), (k * group,))
        attributes = {"group": group, **node.attributes}

        def arrays(numbers):
            x, weight, bias = (
                node.array(*shape, numbers=numbers, number=i) for i, shape in enumerate(shapes)
            )
            return x, weight, bias if with_bias else None

        def ours(arrays):
            return sd.conv_transpose2d(*arrays, groups=group, **node.options)

        y = ours(arrays(integers))
        assert_same(y, by_onnxruntime("ConvTranspose", arrays(integers), **attributes)[0])
        if group == 1 and not (node.output_shape and node.auto_pad == "NOTSET"):
            assert_same(y, by_reference("ConvTranspose", arrays(integers), **attributes)[0])
            wide = [None if a is None else a.astype(np.float64) for a in arrays(reals)]
            expected = by_reference("ConvTranspose", wide, **attributes)[0]
            magnitude = ours([None if a is None else np.abs(a) for a in wide])
            terms = c * node.kernel[0] * node.kernel[1] + 1
            assert_sums_close(ours(arrays(reals)), expected, magnitude, terms)
        windows = (node.size, node.kernel, *node.options.values())
        agreed.add((*windows, node.auto_pad, node.output_shape, group, with_bias))

    check()
    combinations("ONNX", "ConvTranspose", agreed)


# ------------------------------------------------------------------------ Col2Im


def test_col2im(combinations):
    agreed = set()

    @search(200)
    @given(node=nodes().filter(lambda node: node.auto_pad == "NOTSET"), channels=st.integers(1, 3))
    def check(node, channels):
        """The operator has no auto_pad. Its sizes are inputs, not attributes."""
        out, kernel = node.windows().out, node.kernel
        cols = node.array(2, channels * kernel[0] * kernel[1], out[0] * out[1])
        y = sd.col2im(cols, node.size, kernel, **node.options)
        attributes = {name: v for name, v in node.attributes.items() if name != "auto_pad"}
        arrays = (cols, np.array(node.size), np.array(kernel))
        for evaluate in (by_reference, by_onnxruntime):
            assert_same(y, evaluate("Col2Im", arrays, **attributes)[0])
        agreed.add(distinct(node))

    check()
    combinations("ONNX", "Col2Im", agreed)


# ------------------------------------------------------------------------ MaxPool


def to_onnx(argmax, size):
    """Turn places in their planes into ONNX's: in the whole tensor, seen as one row."""
    n, c = argmax.shape[:2]
    planes = np.arange(n * c).reshape(n, c, 1, 1)
    return planes * (size[0] * size[1]) + argmax


def from_onnx(indices, size):
    """Turn ONNX's places in the whole tensor into those in their planes."""
    return indices % (size[0] * size[1])


def test_max_pool(combinations):
    agreed = set()

    @search(400)
    @given(node=nodes(pooling=True), ceil_mode=st.booleans())
    def check(node, ceil_mode):
        """With all strides and dilations 1 the evaluator takes an older path, which knows neither
        Indices nor asymmetric pads; for SAME_LOWER it rounds the size down, and pads as for
        SAME_UPPER. onnxruntime forgets the dilation in "SAME", and refuses pads of a kernel's taps.
        With a stride beyond the window, both start "SAME" before the first pixel.
        """
        ceil_mode = ceil_mode and node.auto_pad == "NOTSET"
        assume(hold_pixels(node.windows(ceil_mode)))
        x = node.array(2, 3, *node.size)
        keywords = {"ceil_mode": ceil_mode, **node.options}
        y, argmax = sd.max_pool2d(x, node.kernel, return_argmax=True, **keywords)
        indices = to_onnx(argmax, node.size)
        assert_same(from_onnx(indices, node.size), argmax.astype(np.int64))

        attributes = {
            "kernel_shape": node.kernel,
            "ceil_mode": int(ceil_mode),
            "storage_order": 0,  # row-major
            **node.attributes,
        }
        evaluators = []
        before_the_first = node.same and min(node.same_totals) < 0
        if not (
            {*node.strides, *node.dilations} == {1}
            or node.auto_pad == "SAME_LOWER"
            or before_the_first
        ):
            evaluators.append(by_reference)
        if not (
            (node.same and max(node.dilations) > 1)
            or any(max(ends) >= k for ends, k in zip(node.padding, node.kernel, strict=True))
            or before_the_first
        ):
            evaluators.append(by_onnxruntime)
        assume(evaluators)
        for evaluate in evaluators:
            expected, places = evaluate("MaxPool", (x,), 2, **attributes)
            assert_same(y, expected)
            assert_same(indices, places)
        agreed.add(distinct(node, ceil_mode))

    check()
    combinations("ONNX", "MaxPool", agreed)


# ------------------------------------------------------------------------ AveragePool


def test_average_pool(combinations):
    agreed = set()

    @search(300)
    @given(
        node=nodes(dilations=st.just((1, 1)), pooling=True),
        ceil_mode=st.booleans(),
        count_include_pad=st.booleans(),
    )
    def check(node, ceil_mode, count_include_pad):
        """What a window hangs over the end by, the evaluator divides between both ends. With a
        stride beyond the window it refuses "SAME", and onnxruntime starts before the first pixel.
        """
        assume(not (node.same and min(node.same_totals) < 0))
        ceil_mode = ceil_mode and node.auto_pad == "NOTSET"
        drawn = node.windows(ceil_mode)
        assume(hold_pixels(drawn))
        keywords = {
            "stride": node.strides,
            "padding": node.padding,
            "ceil_mode": ceil_mode,
            "count_include_pad": count_include_pad,
        }
        attributes = {
            "kernel_shape": node.kernel,
            "ceil_mode": int(ceil_mode),
            "count_include_pad": int(count_include_pad),
            **node.attributes,
        }

        x = node.array(2, 3, *node.size)
        y = sd.avg_pool2d(x, node.kernel, **keywords)
        expected = by_onnxruntime("AveragePool", (x,), **attributes)[0].astype(np.float64)
        # sums of integers are exact, and both divide, or multiply by a reciprocal
        assert_sums_close(y, expected, np.abs(expected), 4)

        over = [
            (axis.out - 1) * axis.stride + axis.kernel - axis.before - axis.size - axis.after
            for axis in drawn.axes
        ]
        if max(over) <= 1:
            x = node.array(2, 3, *node.size, numbers=reals)
            wide = x.astype(np.float64)
            expected, magnitude = (
                by_reference("AveragePool", (a,), **attributes)[0] for a in (wide, np.abs(wide))
            )
            terms = node.kernel[0] * node.kernel[1] + 1
            assert_sums_close(sd.avg_pool2d(x, node.kernel, **keywords), expected, magnitude, terms)
        agreed.add(distinct(node, ceil_mode, count_include_pad))

    check()
    combinations("ONNX", "AveragePool", agreed)


# ------------------------------------------------------------------------ MaxUnpool


def test_max_unpool(combinations):
    agreed = set()

    @search(200)
    @given(
        kernel=PAIR,
        strides=STEPS,
        pooled=st.tuples(st.integers(1, 4), st.integers(1, 4)),
        extra=st.tuples(st.integers(0, 4), st.integers(0, 4)),
        data=st.data(),
    )
    def check(kernel, strides, pooled, extra, data):
        """`extra` rows and columns were left over by the pooling, and are in `output_shape`: the
        evaluator puts the smaller image, with its own indices, into the larger."""
        extra = [min(e, stride - 1) for e, stride in zip(extra, strides, strict=True)]
        pads = [
            (data.draw(st.integers(0, k - 1)), data.draw(st.integers(0, k - 1))) for k in kernel
        ]
        if any(extra):
            pads = [(before, 0) for before, _ in pads]
        size = tuple(
            (n - 1) * stride + k - sum(ends) + more
            for n, stride, k, ends, more in zip(pooled, strides, kernel, pads, extra, strict=True)
        )
        assume(min(size) > 0)
        padding = tuple(pads)
        assume(hold_pixels(Windows(size, kernel, strides, padding, 1)))
        seed = data.draw(st.integers(0, 2**32 - 1))
        image = integers(np.random.default_rng(seed), (2, 3, *size)).astype(np.float32)
        keywords = {"stride": strides, "padding": padding, "return_argmax": True}
        y, argmax = sd.max_pool2d(image, kernel, **keywords)
        assert y.shape[2:] == pooled
        indices = to_onnx(argmax, size)
        (top, bottom), (left, right) = padding
        attributes = {
            "kernel_shape": kernel,
            "strides": strides,
            "pads": [top, left, bottom, right],
        }
        unpooled = sd.max_unpool2d(y, from_onnx(indices, size), size)
        if any(extra):
            arrays = (y, indices, np.array([2, 3, *size]))
        else:
            arrays = (y, indices)
            assert_same(unpooled, by_reference("MaxUnpool", arrays, **attributes)[0])
        assert_same(unpooled, by_onnxruntime("MaxUnpool", arrays, **attributes)[0])
        agreed.add((size, kernel, strides, padding))

    check()
    combinations("ONNX", "MaxUnpool", agreed)

"""The libraries that compute a layer, each as a contender for `compare`.

A function per library, of the settings among others, imports it and returns its contenders. Each
prepares its weights beforehand where the library has a place for that, and answers in NCHW.
"""

import importlib
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np


class Arrays(NamedTuple):
    """What a layer computes with; `grad_out` has the shape of its output."""

    x: np.ndarray
    weight: np.ndarray
    bias: np.ndarray
    grad_out: np.ndarray


class Contender(NamedTuple):
    """A column. ``prepare(layer, arrays)`` returns two functions: ``call()``, which is timed, and
    ``results(call())``, the outcome as a list of arrays, images in NCHW. ``serves(layer)`` tells
    whether it computes a layer at all."""

    name: str
    prepare: Callable
    serves: Callable = lambda layer: True


def listed(outcome):
    """Return what slidedot or torch returned as a list of arrays."""
    outcome = outcome if isinstance(outcome, tuple) else (outcome,)
    return [np.asarray(result) for result in outcome if result is not None]


# slidedot


def slidedot_layer(layer, a, need, algorithm):
    import slidedot as sd

    how = {
        "stride": layer.stride,
        "padding": layer.padding,
        "groups": layer.groups,
        "algorithm": algorithm,
    }
    if need:
        return partial(sd.conv2d_backward, a.grad_out, a.x, a.weight, need=need, **how), listed
    return partial(sd.conv2d, a.x, a.weight, a.bias, **how), listed


def slidedot_transposed(layer, a):
    from slidedot import conv_transpose2d

    how = {"stride": layer.stride, "padding": layer.padding, "groups": layer.groups}
    return partial(conv_transpose2d, a.grad_out, a.weight, **how), listed


def slidedot_plan(layer, a, algorithm):
    """Into memory that is there before, as the peers that prepare their weights."""
    from slidedot import Conv2dPlan

    how = {"stride": layer.stride, "padding": layer.padding, "groups": layer.groups}
    out = np.empty(layer.y, a.x.dtype)
    return partial(Conv2dPlan(a.weight, a.bias, algorithm=algorithm, **how), a.x, out=out), listed


def slidedot_contenders(settings, need=()):
    algorithm = settings.algorithm
    found = [Contender("slidedot", partial(slidedot_layer, need=need, algorithm=algorithm))]
    if settings.plan and not need:
        found.append(Contender("slidedot plan", partial(slidedot_plan, algorithm=algorithm)))
    return found


def slidedot_algorithms(settings, need=()):
    """Each of slidedot's own algorithms."""

    def winograd_serves(layer):
        return settings.dtype == "float32" and (layer.kernel, layer.stride) == (3, 1)

    def contender(algorithm, **serves):
        prepare = partial(slidedot_layer, need=need, algorithm=algorithm)
        return Contender(algorithm, prepare, **serves)

    return [
        contender("auto"),
        contender("direct"),
        contender("winograd", serves=winograd_serves),
    ]


def slidedot_im2col(settings, need=()):
    """The algorithm whose matrix product is NumPy's, on as many threads."""
    import threadpoolctl

    threadpoolctl.threadpool_limits(settings.threads, "blas")
    return [Contender("im2col", partial(slidedot_layer, need=need, algorithm="im2col"))]


def slidedot_pooling(layer, a, task):
    """`task` is "argmax", "maxima" or "gradient"."""
    import slidedot as sd

    window = {"stride": layer.stride, "padding": layer.padding, "return_argmax": task != "maxima"}
    forward = partial(sd.max_pool2d, a.x, layer.kernel, **window)
    if task != "gradient":
        return forward, listed
    return partial(sd.max_pool2d_backward, a.grad_out, forward()[1], layer.x[2:]), listed


def averages_by(module, layer, a, back):
    """`module` is "slidedot", or "slidedot.reference", which has the same functions."""
    library = importlib.import_module(module)
    window = {"stride": layer.stride, "padding": layer.padding}
    if back:
        backward = library.avg_pool2d_backward
        return partial(backward, a.grad_out, layer.x[2:], layer.kernel, **window), listed
    return partial(library.avg_pool2d, a.x, layer.kernel, **window), listed


def columns_by(module, layer, a, task):
    """As `averages_by`; `task` is "im2col" or "col2im"."""
    library = importlib.import_module(module)
    window = {"stride": layer.stride, "padding": layer.padding}
    if task == "im2col":
        return partial(library.im2col, a.x, layer.kernel, **window), listed
    return partial(library.col2im, a.grad_out, layer.x[2:], layer.kernel, **window), listed


def alone(prepare, settings):
    return [Contender("slidedot", prepare)]


# The results that share no kernel with what is measured


def exact_pooling(layer, a, task):
    """The maxima over the columns of an image padded with -inf, and the columns of its places."""
    import slidedot as sd

    def windows(images, border):
        around = [(0, 0)] * 2 + [(layer.padding,) * 2] * 2
        padded = np.pad(images, around, constant_values=border)
        cols = sd.im2col(padded, layer.kernel, stride=layer.stride)
        return cols.reshape(*images.shape[:2], layer.kernel**2, *layer.out_size)

    cols = windows(a.x, -np.inf)
    first = cols.argmax(axis=2)[:, :, None]
    y = np.take_along_axis(cols, first, axis=2)[:, :, 0]
    size = layer.x[2] * layer.x[3]
    places = windows(np.arange(float(size)).reshape(1, 1, *layer.x[2:]), -1)
    argmax = np.take_along_axis(places, first, axis=2)[:, :, 0].astype(np.int64)
    if task != "gradient":
        return lambda: (y, argmax)[: 1 + (task == "argmax")], listed
    planes = np.arange(len(a.x) * layer.channels).reshape(*a.x.shape[:2], 1, 1)
    pixels = (planes * size + argmax).ravel()
    return lambda: np.bincount(pixels, a.grad_out.ravel(), a.x.size).reshape(a.x.shape), listed


# torch: a function of (torch, layer, tensors) returns what is timed


def torch_convolution(torch, layer, t, need):
    where = [layer.stride] * 2, [layer.padding] * 2
    if not need:
        return partial(
            torch.nn.functional.conv2d, t.x, t.weight, t.bias, *where, groups=layer.groups
        )
    return partial(
        torch.ops.aten.convolution_backward, t.grad_out, t.x, t.weight, [layer.filters], *where,
        [1, 1], False, [0, 0], layer.groups, [name in need for name in ("x", "weight", "bias")],
    )  # fmt: skip


def torch_transposed(torch, layer, t):
    how = {"stride": layer.stride, "padding": layer.padding, "groups": layer.groups}
    return partial(torch.nn.functional.conv_transpose2d, t.grad_out, t.weight, **how)


def torch_pooling(torch, layer, t, task):
    window = [layer.kernel] * 2, [layer.stride] * 2, [layer.padding] * 2, [1, 1], False
    if task == "maxima":
        return partial(torch.nn.functional.max_pool2d, t.x, *window)
    forward = partial(torch.ops.aten.max_pool2d_with_indices, t.x, *window)
    if task == "argmax":
        return forward
    backward = torch.ops.aten.max_pool2d_with_indices_backward
    return partial(backward, t.grad_out, t.x, *window, forward()[1])


def torch_averages(torch, layer, t, back):
    window = [layer.kernel] * 2, [layer.stride] * 2, [layer.padding] * 2
    if back:
        backward = torch.ops.aten.avg_pool2d_backward
        return partial(backward, t.grad_out, t.x, *window, False, True, None)
    return partial(torch.nn.functional.avg_pool2d, t.x, *window)


def torch_columns(torch, layer, t, task):
    window = {"stride": layer.stride, "padding": layer.padding}
    if task == "im2col":
        return partial(torch.nn.functional.unfold, t.x, layer.kernel, **window)
    return partial(torch.nn.functional.fold, t.grad_out, layer.x[2:], layer.kernel, **window)


def torch_contenders(timed, settings, formats=("torch", "torch NHWC")):
    import torch

    torch.set_num_threads(settings.threads)
    torch.set_grad_enabled(False)
    memory = {"torch": torch.contiguous_format, "torch NHWC": torch.channels_last}

    def prepare(memory_format, layer, a):
        """The images and filters lie in that format before the time starts."""
        tensors = map(torch.from_numpy, a)
        laid_out = Arrays(
            *(t.contiguous(memory_format=memory_format) if t.ndim == 4 else t for t in tensors)
        )
        return timed(torch, layer, laid_out), listed

    return [Contender(name, partial(prepare, memory[name])) for name in formats]


# What reads a model: a convolution, or a pooling


def onnx_model(operator, outputs, layer, a):
    """Return the layer as an ONNX model, of versions that both its readers know."""
    from onnx import TensorProto, helper, numpy_helper

    inputs = ["weight", "bias"] if operator == "Conv" else []
    window = {"strides": [layer.stride] * 2, "pads": [layer.padding] * 4}
    window["kernel_shape"] = [layer.kernel] * 2
    if operator == "Conv":
        window["group"] = layer.groups
    if operator == "AveragePool":
        window["count_include_pad"] = 1
    node = helper.make_node(operator, ["x", *inputs], outputs, **window)
    types = {"y": TensorProto.FLOAT, "argmax": TensorProto.INT64}
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, layer.x)
    results = [helper.make_tensor_value_info(name, types[name], layer.y) for name in outputs]
    weights = [numpy_helper.from_array(getattr(a, name), name) for name in inputs]
    graph = helper.make_graph([node], "layer", [x], results, weights)
    opsets = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()


def onnxruntime_contenders(operator, settings, outputs=("y",)):
    import onnx  # noqa: F401 - if it is missing, this is the place to notice
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = settings.threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")

    def prepare(layer, a):
        model = onnx_model(operator, outputs, layer, a)
        session = ort.InferenceSession(model, options, ["CPUExecutionProvider"])
        binding = session.io_binding()
        types = {"y": a.x.dtype, "argmax": np.int64}
        made = {
            name: ort.OrtValue.ortvalue_from_shape_and_type(layer.y, types[name])
            for name in outputs
        }
        binding.bind_ortvalue_input("x", ort.OrtValue.ortvalue_from_numpy(a.x))
        for name, value in made.items():
            binding.bind_ortvalue_output(name, value)

        def results(_):
            arrays = {name: value.numpy() for name, value in made.items()}
            if "argmax" in arrays:  # counted from the first pixel of the batch
                arrays["argmax"] = arrays["argmax"] % (layer.x[2] * layer.x[3])
            return list(arrays.values())

        return partial(session.run_with_iobinding, binding), results

    return [Contender("onnxruntime", prepare)]


def openvino_contenders(operator, settings):
    import onnx  # noqa: F401 - if it is missing, this is the place to notice
    import openvino as ov

    config = {
        "INFERENCE_NUM_THREADS": settings.threads,
        "NUM_STREAMS": 1,
        "INFERENCE_PRECISION_HINT": "f32",
    }

    def prepare(layer, a):
        core = ov.Core()
        model = core.read_model(onnx_model(operator, ["y"], layer, a))
        request = core.compile_model(model, "CPU", config).create_infer_request()
        request.set_input_tensor(ov.Tensor(a.x, shared_memory=True))
        return request.infer, lambda _: [request.get_output_tensor().data]

    return [Contender("OpenVINO", prepare)]


def ncnn_model(operator, layer, a):
    """Return the layer's description for ncnn, and its weights."""
    if operator in ("MaxPool", "AveragePool"):
        window = f"1={layer.kernel} 2={layer.stride} 3={layer.padding}"
        mean = int(operator == "AveragePool")  # 5=1: sizes are rounded down; 6=1: padding counts
        return f"Pooling y 1 1 x y 0={mean} {window} 5=1 6={mean}", b""
    kind = "Convolution" if layer.groups == 1 else "ConvolutionDepthWise"
    window = f"1={layer.kernel} 3={layer.stride} 4={layer.padding}"
    description = (
        f"{kind} y 1 1 x y 0={layer.filters} {window} 5=1 6={a.weight.size} 7={layer.groups}"
    )
    return description, bytes(4) + a.weight.tobytes() + a.bias.tobytes()  # 0: as float32


def ncnn_contenders(operator, settings):
    import ncnn

    def prepare(layer, a):
        net, allocator = ncnn.Net(), ncnn.UnlockedPoolAllocator()
        net.opt.num_threads = settings.threads
        for narrow in ("bf16_storage", "bf16_packed", "fp16_storage", "fp16_packed"):
            setattr(net.opt, f"use_{narrow}", False)
        description, weights = ncnn_model(operator, layer, a)
        # a magic number; how many layers and blobs
        net.load_param_mem(f"7767517\n2 2\nInput x 0 1 x\n{description}\n")
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "weights.bin")
            file.write_bytes(weights)
            net.load_model(str(file))
        # Gives each call the memory of the one before; not the weights, which live until the end.
        net.opt.blob_allocator = allocator
        images = [ncnn.Mat(image).clone() for image in a.x]  # singly: faster than ncnn's batches

        def extract(image, allocator=allocator):  # which must live as long as the net
            extractor = net.create_extractor()
            extractor.input("x", image)
            return extractor.extract("y")[1]

        return (
            lambda: [extract(image) for image in images],
            lambda outcome: [np.stack([np.array(mat) for mat in outcome])],
        )

    return [Contender("ncnn", prepare)]


FLOAT32_ONLY = {
    "onnxruntime": onnxruntime_contenders,
    "OpenVINO": openvino_contenders,
    "ncnn": ncnn_contenders,
}


def model_readers(operator):
    return {name: partial(library, operator) for name, library in FLOAT32_ONLY.items()}

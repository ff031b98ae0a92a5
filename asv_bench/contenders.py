"""The libraries that compute a convolution layer, each as a contender for `compare`.

A function per library, of the settings, imports it and returns its contenders. Each prepares its
weights beforehand where the library has a place for that, and answers in NCHW.
"""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np


class Arrays(NamedTuple):
    """What a layer computes with."""

    x: np.ndarray
    weight: np.ndarray
    bias: np.ndarray
    grad_out: np.ndarray


class Contender(NamedTuple):
    """A column. ``prepare(layer, arrays)`` returns two functions: ``call()``, which is timed, and
    ``results(call())``, the outcome as a list of arrays, images in NCHW."""

    name: str
    prepare: Callable


def listed(outcome):
    """Return what slidedot or torch returned as a list of arrays."""
    outcome = outcome if isinstance(outcome, tuple) else (outcome,)
    return [np.asarray(result) for result in outcome if result is not None]


def slidedot_layer(layer, a, need, algorithm):
    import slidedot as sd

    how = {"stride": layer.stride, "padding": layer.padding, "algorithm": algorithm}
    if need:
        return partial(sd.conv2d_backward, a.grad_out, a.x, a.weight, need=need, **how), listed
    return partial(sd.conv2d, a.x, a.weight, a.bias, **how), listed


def slidedot_plan(layer, a, algorithm):
    from slidedot import Conv2dPlan

    how = {"stride": layer.stride, "padding": layer.padding, "algorithm": algorithm}
    return partial(Conv2dPlan(a.weight, a.bias, **how), a.x), listed


def slidedot_contenders(settings, need=()):
    algorithm = settings.algorithm
    found = [Contender("slidedot", partial(slidedot_layer, need=need, algorithm=algorithm))]
    if settings.plan and not need:
        found.append(Contender("slidedot plan", partial(slidedot_plan, algorithm=algorithm)))
    return found


def torch_contenders(settings, need=()):
    import torch

    torch.set_num_threads(settings.threads)
    torch.set_grad_enabled(False)

    def prepare(memory_format, layer, a):
        """The arrays lie in that format before the time starts."""
        x, weight, grad_out = (
            torch.from_numpy(array).contiguous(memory_format=memory_format)
            for array in (a.x, a.weight, a.grad_out)
        )
        where = [layer.stride] * 2, [layer.padding] * 2
        if not need:
            bias = torch.from_numpy(a.bias)
            return partial(torch.nn.functional.conv2d, x, weight, bias, *where), listed
        backward = partial(
            torch.ops.aten.convolution_backward, grad_out, x, weight, [layer.filters], *where,
            [1, 1], False, [0, 0], 1, [name in need for name in ("x", "weight", "bias")],
        )  # fmt: skip
        return backward, listed

    return [
        Contender("torch", partial(prepare, torch.contiguous_format)),
        Contender("torch NHWC", partial(prepare, torch.channels_last)),
    ]


def onnx_model(layer, a):
    """Return the layer as an ONNX model, of versions that both its readers know."""
    from onnx import TensorProto, helper, numpy_helper

    conv = helper.make_node(
        "Conv", ["x", "weight", "bias"], ["y"],
        strides=[layer.stride] * 2, pads=[layer.padding] * 4,
    )  # fmt: skip
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, layer.x)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, layer.y)
    weights = [numpy_helper.from_array(getattr(a, name), name) for name in ("weight", "bias")]
    graph = helper.make_graph([conv], "layer", [x], [y], weights)
    opsets = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()


def onnxruntime_contenders(settings):
    import onnx  # noqa: F401 - if it is missing, this is the place to notice
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = settings.threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")

    def prepare(layer, a):
        session = ort.InferenceSession(onnx_model(layer, a), options, ["CPUExecutionProvider"])
        binding = session.io_binding()
        y = ort.OrtValue.ortvalue_from_shape_and_type(layer.y, a.x.dtype)
        binding.bind_ortvalue_input("x", ort.OrtValue.ortvalue_from_numpy(a.x))
        binding.bind_ortvalue_output("y", y)
        return partial(session.run_with_iobinding, binding), lambda _: [y.numpy()]

    return [Contender("onnxruntime", prepare)]


def openvino_contenders(settings):
    import onnx  # noqa: F401 - if it is missing, this is the place to notice
    import openvino as ov

    config = {
        "INFERENCE_NUM_THREADS": settings.threads,
        "NUM_STREAMS": 1,
        "INFERENCE_PRECISION_HINT": "f32",
    }

    def prepare(layer, a):
        core = ov.Core()
        model = core.compile_model(core.read_model(onnx_model(layer, a)), "CPU", config)
        request = model.create_infer_request()
        request.set_input_tensor(ov.Tensor(a.x, shared_memory=True))
        return request.infer, lambda _: [request.get_output_tensor().data]

    return [Contender("OpenVINO", prepare)]


def ncnn_contenders(settings):
    import ncnn

    def prepare(layer, a):
        net, allocator = ncnn.Net(), ncnn.UnlockedPoolAllocator()
        net.opt.num_threads = settings.threads
        net.opt.blob_allocator = allocator  # gives each call the memory of the one before
        for narrow in ("bf16_storage", "bf16_packed", "fp16_storage", "fp16_packed"):
            setattr(net.opt, f"use_{narrow}", False)
        net.load_param_mem(
            "7767517\n2 2\n"  # a magic number; how many layers and blobs
            "Input x 0 1 x\n"
            f"Convolution y 1 1 x y 0={layer.filters} 1={layer.kernel} 3={layer.stride} "
            f"4={layer.padding} 5=1 6={a.weight.size}\n"
        )
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "weights.bin")
            file.write_bytes(bytes(4) + a.weight.tobytes() + a.bias.tobytes())  # 0: as float32
            net.load_model(str(file))
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

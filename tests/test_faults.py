"""What goes wrong around a call: memory that is not there, and Ctrl-C."""

import ast
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import slidedot as sd
from slidedot import _threads

HERE = Path(__file__).parent

#: Seconds after which a process counts as hanging.
PATIENCE = 300

# ------------------------------------------------------------------------------------- memory


def calls(dtype):
    """Every public function that takes arrays, once for each kernel and way through it."""
    rng = np.random.default_rng(0)

    def normal(*shape):
        return rng.standard_normal(shape).astype(dtype)

    x, weight, bias = normal(3, 16, 20, 24), normal(32, 16, 3, 3), normal(32)
    grad_out = normal(3, 32, 20, 24)
    filters, deep = normal(16, 1, 3, 3), normal(32, 8, 3, 3)
    cols = normal(3, 16 * 9, 20 * 24)
    pooled, argmax = sd.max_pool2d(x, 2, return_argmax=True)
    out = np.empty((3, 20, 24, 32), dtype).transpose(0, 3, 1, 2)  # written through a copy
    swapped = x.astype(x.dtype.newbyteorder())
    named = {
        "depthwise": (filters, {"groups": 16}),
        "groups": (deep, {"groups": 2}),
        "stride": (weight, {"stride": 2}),
        **{a: (weight, {"algorithm": a}) for a in ("direct", "im2col")},
        **({"winograd": (weight, {"algorithm": "winograd"})} if dtype == "float32" else {}),
    }
    found = {}
    for name, (w, how) in named.items():
        how = {"padding": 1, **how}
        y = sd.conv2d(x, w, **how)
        found[f"conv2d {name}"] = lambda w=w, how=how: sd.conv2d(x, w, **how)
        for need in ("x", "weight", "bias"):
            found[f"conv2d_backward {name} {need}"] = lambda y=y, w=w, how=how, need=need: (
                sd.conv2d_backward(y, x, w, need=(need,), **how)
            )
        found[f"Conv2dPlan {name}"] = lambda w=w, how=how: sd.Conv2dPlan(w, **how)(x)
    for stride in (1, 2, 3):
        found[f"conv_transpose2d {stride}"] = lambda stride=stride: sd.conv_transpose2d(
            grad_out, weight, stride=stride
        )
    return found | {
        "conv2d out": lambda: sd.conv2d(x, weight, bias, padding=1, activation="relu", out=out),
        "conv2d swapped": lambda: sd.conv2d(swapped, weight),
        "im2col": lambda: sd.im2col(x, 3, padding=1),
        "col2im": lambda: sd.col2im(cols, (20, 24), 3, padding=1),
        "max_pool2d": lambda: sd.max_pool2d(x, 2, return_argmax=True),
        "max_pool2d overlapping": lambda: sd.max_pool2d(x, 3, stride=2, padding=1),
        "max_pool2d_backward": lambda: sd.max_pool2d_backward(pooled, argmax, (20, 24)),
        "max_unpool2d": lambda: sd.max_unpool2d(pooled, argmax, (20, 24)),
        "avg_pool2d": lambda: sd.avg_pool2d(x, 2),
        "avg_pool2d overlapping": lambda: sd.avg_pool2d(x, 3, stride=1, padding=1),
        "avg_pool2d_backward": lambda: sd.avg_pool2d_backward(x, (22, 26), 3, stride=1),
    }


def bits(result):
    results = result if isinstance(result, tuple) else (result,)
    return [None if a is None else a.tobytes() for a in results]


def attempt(call):
    """Return the result's bits and no message, or no result and the MemoryError's message."""
    try:
        return bits(call()), None
    except MemoryError as error:
        return None, str(error)


def refuse_each(library, dtype):
    """Refuse each block that each call asks for, one after the other; print how many there were."""
    shim = ctypes.CDLL(library)
    shim.watch.argtypes = (ctypes.c_char_p, ctypes.c_size_t, ctypes.c_long)
    shim.blocks_asked.restype = shim.blocks_held.restype = ctypes.c_long
    total = dict.fromkeys(MODULES, 0)
    _threads.WORK_PER_THREAD = 1  # such small calls would take one thread
    for name, call in calls(dtype).items():
        expected = bits(call())
        for (module, least), threads in [(m, t) for m in MODULES.items() for t in (1, 3)]:
            refused, asked = 0, 1
            with sd.num_threads(threads):
                while refused <= asked:  # from none on
                    shim.watch(module.encode(), least, refused)
                    result, message = attempt(call)
                    if result is not None:
                        assert not refused, f"{name}: refusal {refused} of {asked} went unseen"
                        assert result == expected, name
                        asked = shim.blocks_asked()
                    else:
                        assert refused, f"{name}: {message}"
                    if message and module == "_kernels":  # NumPy's own begins otherwise
                        assert message.startswith(name.split()[0]), message
                    held = shim.blocks_held()
                    shim.watch(b"", 0, 0)
                    assert held == 0, f"{name}: {held} blocks held after refusal {refused}"
                    refused += 1
            assert bits(call()) == expected, name
            total[module] += asked
    print(total)


#: Whose blocks are refused, and the smallest that count: NumPy keeps those below for itself.
MODULES = {"_kernels": 0, "multiarray": 1024}


@pytest.fixture(scope="module")
def shim(tmp_path_factory):
    compiler = shutil.which("cc") or pytest.skip("there is no C compiler")
    library = tmp_path_factory.mktemp("faults") / "faults.so"
    source = HERE / "faults.h"  # an sdist holds no .c
    flags = ["-O1", "-shared", "-fPIC", "-x", "c"]
    subprocess.run([compiler, *flags, source, "-o", library, "-ldl", "-lpthread"], check=True)
    return str(library)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="stands before glibc's malloc")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_memory_that_is_refused_is_a_memory_error_and_none_leaks(shim, dtype):
    process = subprocess.run(
        [sys.executable, __file__, shim, dtype],
        env={**os.environ, "LD_PRELOAD": shim},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert process.returncode == 0, process.stderr
    total = ast.literal_eval(process.stdout)
    assert min(total.values()) > 50, total  # or the shim sees nothing


def test_every_function_on_arrays_is_called():
    named = {name.split()[0] for name in calls("float32")}
    families = (sd.convolution, sd.columns, sd.pooling)
    assert named == {name for family in families for name in family.__all__} - {"Conv2dGradients"}


# ------------------------------------------------------------------------------------- Ctrl-C


def interrupted(call, result):
    """Make a call and send SIGINT once `result`, filled with NaN, is being written.

    Return how long it took from there to the KeyboardInterrupt.
    """
    result.fill(np.nan)
    sent = []

    def send():
        while np.isnan(result.flat[0]):
            time.sleep(1e-3)
        sent.append(time.perf_counter())
        os.kill(os.getpid(), signal.SIGINT)

    watcher = threading.Thread(target=send)
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    watcher.start()

    def call_and_wait():  # if the call is the faster one
        call()
        time.sleep(PATIENCE)

    try:
        with pytest.raises(KeyboardInterrupt):
            call_and_wait()
        seconds = time.perf_counter() - sent[0]
    finally:
        watcher.join()
        signal.signal(signal.SIGINT, handler)
    return seconds


@pytest.mark.parametrize("algorithm", ["direct", "winograd", "im2col"])
def test_a_long_batch_is_interrupted_between_images(monkeypatch, algorithm):
    """And what is done with it afterwards has the bits it would have had."""
    monkeypatch.setattr(_threads, "WORK_PER_CALL", 10**7)  # an image has more
    x, weight = np.ones((1000, 16, 64, 64), np.float32), np.ones((16, 16, 3, 3), np.float32)
    x[:] = np.random.default_rng(0).standard_normal(x.shape[1:], np.float32)
    out = np.empty_like(x)
    how = {"padding": 1, "algorithm": algorithm}
    interrupted(lambda: sd.conv2d(x, weight, out=out, **how), out)
    assert np.isnan(out[-1]).all()
    assert np.array_equal(out[0], sd.conv2d(x[0], weight, **how))


def test_a_long_transposed_convolution_is_interrupted_between_images(monkeypatch):
    monkeypatch.setattr(_threads, "WORK_PER_CALL", 10**7)
    x, weight = np.ones((1000, 16, 64, 64), np.float32), np.ones((16, 16, 3, 3), np.float32)
    out = np.empty_like(x)
    interrupted(lambda: sd.conv_transpose2d(x, weight, padding=1, out=out), out)
    assert np.isnan(out[-1]).all()


def test_an_interrupt_within_a_kernel_is_answered_when_it_ends():
    x, weight = np.ones((64, 32, 64, 64)), np.ones((32, 32, 3, 3))
    out = np.empty_like(x)
    start = time.perf_counter()
    sd.conv2d(x, weight, padding=1, out=out)
    whole = time.perf_counter() - start
    seconds = interrupted(lambda: sd.conv2d(x, weight, padding=1, out=out), out)
    assert seconds < 10 * whole + 1
    assert not np.isnan(out).any()


@pytest.mark.parametrize("images", [1, 2, 3, 6])
@pytest.mark.parametrize("algorithm", ["direct", "winograd"])
def test_images_in_several_calls_have_the_same_bits(monkeypatch, algorithm, images):
    rng = np.random.default_rng(0)
    x, weight = rng.standard_normal((7, 16, 9, 9), np.float32), np.ones((16, 16, 3, 3), np.float32)
    weight *= rng.standard_normal(weight.shape, np.float32)
    bias = rng.standard_normal(16, np.float32)
    plan = sd.Conv2dPlan(weight, bias, padding=1, algorithm=algorithm)

    def results():
        y = sd.conv2d(x, weight, bias, padding=1, algorithm=algorithm)
        grads = sd.conv2d_backward(y, x, weight, padding=1, algorithm=algorithm)
        transposed = sd.conv_transpose2d(x, weight, bias)
        return [a.tobytes() for a in (y, *grads, transposed, plan(x))]

    expected = results()
    monkeypatch.setattr(_threads, "WORK_PER_CALL", images * 9 * 9 * weight.size)
    assert results() == expected


if __name__ == "__main__":
    refuse_each(*sys.argv[1:])

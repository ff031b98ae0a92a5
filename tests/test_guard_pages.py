"""No load or store leaves the arrays: they lie against pages that may not be touched.

Each array ends at such a page, then begins at one, for every kernel, at every CPU level. A process
of its own runs the calls, since one that goes outside ends it; the last line it wrote names the
call.
"""

import ctypes
import itertools
import mmap
import os
import subprocess
import sys

import numpy as np
import pytest

import slidedot as sd
from slidedot import _dispatch

PROTECTED = 0  # PROT_NONE
READ_WRITE = 3  # PROT_READ | PROT_WRITE

pytestmark = pytest.mark.skipif(os.name != "posix", reason="pages are protected by POSIX calls")


class Guarded:
    """Hands out arrays between two protected pages."""

    def __init__(self, at_end):
        self.at_end = at_end
        self.held = []
        self.mprotect = ctypes.CDLL(None, use_errno=True).mprotect
        self.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)

    def __call__(self, values):
        """Return a copy of `values`, contiguous, against the page after it or the one before."""
        page, values = mmap.PAGESIZE, np.asarray(values)
        inside = -(-values.nbytes // page) * page
        pages = mmap.mmap(-1, inside + 2 * page)
        start = ctypes.addressof(ctypes.c_char.from_buffer(pages))
        for guard in (start, start + page + inside):
            assert self.mprotect(guard, page, PROTECTED) == 0
        offset = page + (inside - values.nbytes if self.at_end else 0)
        array = np.frombuffer(pages, values.dtype, values.size, offset).reshape(values.shape)
        array[...] = values
        self.held.append((pages, start, inside))
        return array

    def release(self):
        """Make the pages ordinary ones again, which Python frees as it likes."""
        for _, start, inside in self.held:
            self.mprotect(start, inside + 2 * mmap.PAGESIZE, READ_WRITE)
        self.held.clear()


def run(at_end, dtype):
    """Every kernel, at sizes around the vectors' and with every kind of tail."""
    rng = np.random.default_rng(0)
    guarded = Guarded(at_end)

    def filled(function, *arguments, **how):
        """Return the guarded array that a call fills, with what it returns in one of its own."""
        y = function(*arguments, **how)
        out = guarded(np.zeros_like(y))
        function(*arguments, out=out, **how)
        assert np.array_equal(out, y)
        return out

    def check_gradients(*arrays, **how):
        """They do not depend on where the arrays lie."""
        grads = sd.conv2d_backward(*arrays, **how)
        for grad, elsewhere in zip(
            grads, sd.conv2d_backward(*(a.copy() for a in arrays), **how), strict=True
        ):
            assert np.array_equal(grad, elsewhere)

    for size, (kernel, stride, padding), (channels, filters) in (
        *itertools.product(
            [(1, 1), (2, 7), (3, 8), (5, 9), (4, 16), (3, 17), (9, 33), (7, 40)],
            [(1, 1, 0), (2, 2, 0), (3, 1, 1), (3, 2, 1), (5, 1, 2), (3, 4, 1), ((1, 4), 1, (0, 2))],
            [(1, 1), (1, 20), (3, 7), (5, 20), (32, 31)],
        ),
        *itertools.product(  # what is read behind a row, and how many rows are, depends on these
            [(5, width) for width in range(1, 41)],
            [(1, 1, 0), (3, 1, 0), (3, 2, 1), (4, 1, 0), (4, 2, 0)],
            [(1, 1)],
        ),
    ):
        kh, kw = (kernel, kernel) if isinstance(kernel, int) else kernel
        p, q = (padding, padding) if isinstance(padding, int) else padding
        if size[0] + 2 * p < kh or size[1] + 2 * q < kw:
            continue
        print(size, kernel, stride, padding, channels, filters, flush=True)
        x = guarded(rng.standard_normal((2, channels, *size)).astype(dtype))
        weight = guarded(rng.standard_normal((filters, channels, kh, kw)).astype(dtype))
        bias = guarded(np.ones(filters, dtype))
        how = {"stride": stride, "padding": padding}
        y = filled(sd.conv2d, x, weight, bias, **how)
        check_gradients(y, x, weight, **how)
        if (kh, kw, stride, dtype) == (3, 3, 1, np.float32):
            winograd = {"algorithm": "winograd", **how}
            assert np.allclose(filled(sd.conv2d, x, weight, bias, **winograd), y, atol=1e-3)
            check_gradients(y, x, weight, **winograd)
        zeros = guarded(np.zeros(channels, dtype))
        filled(sd.conv_transpose2d, y, weight, zeros, output_padding=stride - 1, **how)
        weight = guarded(rng.standard_normal((channels, 1, kh, kw)).astype(dtype))
        depthwise = {"groups": channels, **how}
        y = filled(sd.conv2d, x, weight, **depthwise)
        check_gradients(y, x, weight, **depthwise)
        filled(sd.conv_transpose2d, y, weight, **depthwise)
        cols = filled(sd.im2col, x, (kh, kw), **how)
        filled(sd.col2im, cols, size, (kh, kw), **how)
        y = filled(sd.max_pool2d, x, (kh, kw), **how)
        argmax = guarded(sd.max_pool2d(x, (kh, kw), return_argmax=True, **how)[1])
        filled(sd.max_pool2d_backward, y, argmax, size)
        filled(sd.max_unpool2d, y, argmax, size)
        y = filled(sd.avg_pool2d, x, (kh, kw), **how)
        filled(sd.avg_pool2d_backward, y, size, (kh, kw), **how)
        y = filled(sd.avg_pool2d, x, size)
        filled(sd.avg_pool2d_backward, y, size, size)
        guarded.release()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("at_end", [True, False], ids=["end", "beginning"])
@pytest.mark.parametrize("level", _dispatch.runnable_levels())
def test_nothing_is_touched_outside(level, at_end, dtype):
    process = subprocess.run(
        [sys.executable, __file__, str(int(at_end)), dtype],
        env={**os.environ, "SLIDEDOT_CPU_LEVEL": level},
        capture_output=True,
        text=True,
        timeout=3600,  # emulated, it takes minutes
    )
    last = (process.stdout.splitlines() or ["no call"])[-1]
    assert process.returncode == 0, f"{last}: {process.returncode}\n{process.stderr}"
    assert last == "all"


def test_a_guard_page_guards():
    """Otherwise the test above would see nothing."""
    code = (
        "import numpy as np, test_guard_pages as t\n"
        "a = t.Guarded(True)(np.zeros(8, np.float32))\n"
        "print(np.lib.stride_tricks.as_strided(a, (9,))[8])\n"
    )
    process = subprocess.run(
        [sys.executable, "-c", code],
        cwd=os.path.dirname(__file__),
        capture_output=True,
        check=False,
    )
    assert process.returncode < 0


if __name__ == "__main__":
    for each in sys.argv[2:]:
        run(bool(int(sys.argv[1])), np.dtype(each))
    print("all")

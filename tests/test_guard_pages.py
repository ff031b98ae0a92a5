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
    for size, (kernel, stride, padding), (channels, filters) in itertools.product(
        [(1, 1), (2, 7), (3, 8), (5, 9), (4, 16), (3, 17), (9, 33), (7, 40)],
        [(1, 1, 0), (2, 2, 0), (3, 1, 1), (3, 2, 1), (5, 1, 2), (3, 4, 1), ((1, 4), 1, (0, 2))],
        [(1, 1), (3, 7), (5, 20)],
    ):
        kh, kw = (kernel, kernel) if isinstance(kernel, int) else kernel
        p, q = (padding, padding) if isinstance(padding, int) else padding
        if size[0] + 2 * p < kh or size[1] + 2 * q < kw:
            continue
        print(size, kernel, stride, padding, channels, filters, flush=True)
        guarded = Guarded(at_end)
        x = guarded(rng.standard_normal((2, channels, *size)).astype(dtype))
        weight = guarded(rng.standard_normal((filters, channels, kh, kw)).astype(dtype))
        bias = guarded(np.ones(filters, dtype))
        how = {"stride": stride, "padding": padding}
        y = sd.conv2d(x, weight, bias, **how)
        out = guarded(np.zeros_like(y))
        sd.conv2d(x, weight, bias, out=out, **how)
        assert np.array_equal(out, y)
        sd.conv2d_backward(out, x, weight, **how)
        if (kh, kw, stride, dtype) == (3, 3, 1, np.float32):
            how["algorithm"] = "winograd"
            sd.conv2d(x, weight, bias, out=out, **how)
            assert np.allclose(out, y, atol=1e-3)
            sd.conv2d_backward(out, x, weight, **how)
            del how["algorithm"]
        how["output_padding"] = stride - 1
        zeros = guarded(np.zeros(channels, dtype))
        image = sd.conv_transpose2d(out, weight, zeros, **how)
        wide_out = guarded(np.zeros_like(image))
        sd.conv_transpose2d(out, weight, zeros, out=wide_out, **how)
        assert np.array_equal(wide_out, image)
        del how["output_padding"]
        filters = guarded(rng.standard_normal((channels, 1, kh, kw)).astype(dtype))
        how["groups"] = channels
        y = sd.conv2d(x, filters, **how)
        out = guarded(np.zeros_like(y))
        sd.conv2d(x, filters, out=out, **how)
        assert np.array_equal(out, y)
        sd.conv2d_backward(out, x, filters, **how)
        wide_out = guarded(np.zeros_like(sd.conv_transpose2d(out, filters, **how)))
        sd.conv_transpose2d(out, filters, out=wide_out, **how)
        del how["groups"]
        cols = sd.im2col(x, (kh, kw), **how)
        out = guarded(np.zeros_like(cols))
        sd.im2col(x, (kh, kw), out=out, **how)
        assert np.array_equal(out, cols)
        image = guarded(np.zeros_like(x))
        sd.col2im(out, size, (kh, kw), out=image, **how)
        y, argmax = sd.max_pool2d(x, (kh, kw), return_argmax=True, **how)
        out = guarded(np.zeros_like(y))
        sd.max_pool2d(x, (kh, kw), out=out, **how)
        assert np.array_equal(out, y)
        sd.max_pool2d_backward(out, guarded(argmax), size, out=image)
        sd.max_unpool2d(out, guarded(argmax), size, out=image)
        y = sd.avg_pool2d(x, (kh, kw), **how)
        sd.avg_pool2d(x, (kh, kw), out=out, **how)
        assert np.array_equal(out, y)
        sd.avg_pool2d_backward(out, size, (kh, kw), out=image, **how)
        y = sd.avg_pool2d(x, size)
        out = guarded(np.zeros_like(y))
        sd.avg_pool2d(x, size, out=out)
        assert np.array_equal(out, y)
        sd.avg_pool2d_backward(out, size, size, out=image)
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
        timeout=300,
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
    run(bool(int(sys.argv[1])), np.dtype(sys.argv[2]))
    print("all")

"""The same bits, of every public function: on any threads, in any batch, in each run of a program.

What else bits do not depend on is tested where it is at home: memory layouts and single images in
each family's file, tiles in test_tiled.
"""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from checks import assert_same_bits
from kernels import every_kernel

import slidedot as sd
from slidedot import _dispatch, _threads

#: The last tiles of Winograd give three rows and columns, and two tasks share their border.
SIZE = 21
#: NumPy's BLAS multiplies: nothing is promised.
BY_BLAS = {"conv2d im2col"}
#: One sum over all images.
OVER_THE_BATCH = {
    "gradient weight",
    "gradient weight direct",
    "gradient weight depthwise",
    "gradient weight winograd",
    "gradient bias",
}
#: Moves, comparisons, and sums in one order.
SAME_AT_EVERY_LEVEL = [
    "im2col",
    "col2im",
    "max_pool2d",
    "max_pool2d argmax",
    "max_pool2d_backward",
    "max_unpool2d",
]


@pytest.fixture
def kernels(level, dtype, monkeypatch):
    """Return every kernel of a level, none too small for threads."""
    monkeypatch.setattr(_threads, "WORK_PER_THREAD", 1)
    return every_kernel(dtype=dtype.type, size=SIZE)


def test_the_number_of_threads_does_not_change_bits(kernels):
    for name, run in kernels.items():
        expected = run()
        for count in range(2, 9):
            with sd.num_threads(count):
                assert run().tobytes() == expected.tobytes(), f"{name}, {count} threads"


@pytest.mark.parametrize("threads", [1, 3])
def test_splitting_the_batch_does_not_change_bits(kernels, threads):
    assert set(kernels) > BY_BLAS
    with sd.num_threads(threads):
        for name in set(kernels) - BY_BLAS - OVER_THE_BATCH:
            whole = kernels[name]()
            for split in ((0, 1, 4), (0, 2, 4), (0, 3, 4), (0, 1, 2, 3, 4)):
                for n in map(slice, split[:-1], split[1:]):
                    assert_same_bits(kernels[name](n), whole[n])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", SAME_AT_EVERY_LEVEL)
def test_cpu_levels_agree_where_nothing_depends_on_them(name, dtype, monkeypatch):
    run = every_kernel(dtype=dtype, size=SIZE)[name]
    expected = run()
    for level in _dispatch.runnable_levels():
        monkeypatch.setattr(_dispatch, "kernels", _dispatch.load(level))
        assert_same_bits(run(), expected)


def digests(threads):
    """Return a hash of each kernel's bytes, for both dtypes."""
    with sd.num_threads(threads):
        return [
            f"{dtype} {name}: {hashlib.sha256(run().tobytes()).hexdigest()}"
            for dtype in ("float32", "float64")
            for name, run in every_kernel(dtype=dtype, size=SIZE).items()
            if name not in BY_BLAS
        ]


def test_another_run_gives_the_same_bytes(level):
    """In a process of its own, where memory lies elsewhere, and of another number of threads."""
    here = Path(__file__).parent
    code = f"import sys; sys.path.insert(0, {str(here)!r})\n"
    code += "from test_determinism import digests; print(*digests(3), sep='\\n')"
    run = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"SLIDEDOT_CPU_LEVEL": level},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines() == digests(1)

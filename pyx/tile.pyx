"""How fast the register tile runs, and the CPU's limit beside it: for benchmarks.

The limit is multiply-adds from registers alone. The tile runs on operands that fit in the L1 cache,
laid out as a row of taps: term k of a pixel is one element further on.
"""

from cython cimport floating
from time import perf_counter

from scratch cimport Scratch, scratch_free, scratch_part, scratch_take
from simd cimport (
    SD_MAX_ROWS, SD_PEAK_VECTORS, SD_VECTOR_BYTES, SD_VECTORS, multiply_adds, tile,
)

cdef enum:
    ROUNDS = 100_000
    TERMS = 256
    CALLS = 200


def shapes():
    """Return (rows, vectors) of the widest tile of each height at this CPU level."""
    return [(rows, SD_VECTORS(rows)) for rows in range(1, SD_MAX_ROWS + 1)]


cdef double best_rate(object run, double flops, double seconds) except -1:
    """GFLOP/s of the fastest of the runs that fit into `seconds`."""
    cdef double best = 0, start, now = perf_counter(), end = now + seconds
    while now < end:
        start = perf_counter()
        run()
        now = perf_counter()
        best = max(best, flops / (now - start) * 1e-9)
    return best


def peak(double seconds=0.1, bint double_precision=False):
    """Return the most multiply-adds that one core does, in GFLOP/s (two for each)."""
    cdef Py_ssize_t lanes = SD_VECTOR_BYTES // (
        sizeof(double) if double_precision else sizeof(float))

    def run():
        cdef double result
        with nogil:
            if double_precision:
                result = multiply_adds[double](ROUNDS, 0.5, 1)
            else:
                result = multiply_adds[float](ROUNDS, 0.5, 1)
        return result  # or the compiler would leave it out

    return best_rate(run, 2.0 * ROUNDS * SD_PEAK_VECTORS * lanes, seconds)


cdef void run_tile(
    floating *memory, Py_ssize_t rows, Py_ssize_t vectors, const Py_ssize_t *off
) noexcept nogil:
    cdef Py_ssize_t _i, width = vectors * SD_VECTOR_BYTES // <Py_ssize_t> sizeof(floating)
    cdef floating *b = memory + TERMS * rows
    cdef floating *c = b + TERMS + width
    cdef Py_ssize_t i
    cdef Py_ssize_t row[SD_MAX_ROWS]
    for i in range(rows):
        row[i] = i * TERMS
    for _i in range(CALLS):
        tile(rows, vectors, TERMS, memory, row, NULL, b, off, c, width, <floating *> NULL, 0,
             <floating *> NULL, False)


def rate(Py_ssize_t rows, Py_ssize_t vectors, double seconds=0.1, bint double_precision=False):
    """Return the GFLOP/s of the tile of `rows` x `vectors`, which must be one that there is."""
    cdef Py_ssize_t i, width, itemsize = sizeof(double) if double_precision else sizeof(float)
    cdef Py_ssize_t off[TERMS]
    cdef Scratch scratch
    cdef char *memory
    if not (1 <= rows <= SD_MAX_ROWS and 1 <= vectors <= SD_VECTORS(rows)):
        raise ValueError(f"rate: no tile of {rows} x {vectors}")
    width = vectors * SD_VECTOR_BYTES // itemsize
    if not scratch_take(&scratch, itemsize * (TERMS * (rows + 1) + width * (rows + 1)), 1):
        raise MemoryError("rate: no memory for the workspace")
    memory = <char *> scratch_part(&scratch, 0)
    for i in range(itemsize * (TERMS * (rows + 1) + width * (rows + 1))):
        memory[i] = 0
    for i in range(TERMS):
        off[i] = i

    def run():
        with nogil:
            if double_precision:
                run_tile[double](<double *> memory, rows, vectors, off)
            else:
                run_tile[float](<float *> memory, rows, vectors, off)

    try:
        return best_rate(run, 2.0 * CALLS * TERMS * rows * width, seconds)
    finally:
        scratch_free(&scratch)

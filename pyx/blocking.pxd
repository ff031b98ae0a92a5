# A layer's shape -> the sizes of its blocks: pure integers. What fixes the order of a sum (how many
# terms are added up before the partial sum is) depends on the shape alone, never on the cache, the
# batch or the threads; that keeps bits equal. The rest may follow the cache.
from simd cimport SD_MAX_ROWS, SD_VECTOR_BYTES, SD_VECTORS_WIDEST

cdef enum:
    STRIP_BYTES = 18 * 1024    # a tile's operand, beside a panel of the other in the L1 cache
    TERMS = STRIP_BYTES // (SD_VECTORS_WIDEST * SD_VECTOR_BYTES)  # of a sum added up from zero
    LONG_SUM = 128             # terms that make output channels the better lanes; of few rows twice
    WIDE_VECTOR = 32           # bytes that are as fast when it is pixels that are broadcast
    FEW_ROWS = 8               # of a tile, whose addresses the CPU's registers hold
    CHUNK = 256                # pixels whose sums, of a panel, are turned at once
    LONG_ROW = 5               # taps of a kernel's row that are worth a copy of their own
    COPY_COST = 4              # of a row of taps, in multiply-adds of each of its pixels
    STAGED_PANELS = 3          # panels that make it worth to lay out a strip's terms for the tile
    BAND_BYTES = 384 * 1024    # a packed band of the input: a part of the L2 cache
    WEIGHT_BYTES = 256 * 1024  # packed weights that pass over it: another part
    SUM_BYTES = 1024 * 1024    # a band's partial sums, touched once per TERMS terms
    PIXELS = 1024              # of a bias gradient, added up before the sum goes on in double
    DOTS = 32                  # terms of a weight gradient that are summed by lanes of pixels
    WEIGHTS = 64 * 1024        # weight gradients up to this many elements are summed in SEGMENTS
    SEGMENTS = 8
    MOST_LANES = 128           # lanes of the widest strip, and so its most runs


cdef inline Py_ssize_t parts(Py_ssize_t total, Py_ssize_t most) noexcept nogil:
    """How many parts of at most `most` hold `total`; at least one."""
    return max(1, (total + most - 1) // most)


cdef inline Py_ssize_t even(Py_ssize_t total, Py_ssize_t most) noexcept nogil:
    """The size, at most `most`, of as few and as equal parts of `total` as can be."""
    cdef Py_ssize_t count = parts(total, max(1, most))
    return max(1, (total + count - 1) // count)


cdef inline Py_ssize_t spread(Py_ssize_t elements) noexcept nogil:
    """At least so many elements, in an odd number of cache lines: rows of that length never all
    fall into the same few sets of a cache."""
    return ((elements + 15) // 16 | 1) * 16


cdef struct Panels:  # output channels in groups that fill the tile's rows as evenly as can be
    Py_ssize_t count, base, larger  # the first `larger` panels have base + 1 rows


cdef inline Panels panels_of(Py_ssize_t channels, Py_ssize_t most = SD_MAX_ROWS) noexcept nogil:
    cdef Panels p
    p.count = parts(channels, most)
    p.base = channels // p.count
    p.larger = channels % p.count
    return p


cdef inline Py_ssize_t panel_start(Panels *p, Py_ssize_t i) noexcept nogil:
    return i * p.base + min(i, p.larger)


cdef inline Py_ssize_t panel_rows(Panels *p, Py_ssize_t i) noexcept nogil:
    return p.base + (1 if i < p.larger else 0)


cdef inline Py_ssize_t widest_panel(Panels *p) noexcept nogil:
    return panel_rows(p, 0)

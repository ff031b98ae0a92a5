"""Max pooling, forward with or without the place of each maximum, backward, and unpooling; average
pooling, forward and backward.

Forward: the maxima across, of each row of the input that a band of outputs needs, then down these
rows. A strict > keeps the first of equals across, and down, which is row-major order. A NaN beats
every number and no later NaN beats it; until one is seen, maxima are plain ones. The place starts
at the window's first pixel, so that a window of -inf alone has a real one. Windows of 2x2 that tile
the input are taken at once; without places, others of 2x2 and 3x3 as well.
    Loops: plane, block of columns, band of rows; rows of the input, rows of the output.
Backward: a few planes in step, each gradient is added at its stored place, in row-major order;
where the sizes and all indices are those of 2x2 windows, comparisons say where each value goes.
Unpooling: the same with values, each of which is stored, the last one over those before it.
Averages: for each row of the output, the sums down the input's rows, then across them, from a row
with zeros for padding; windows of 2x2 and 3x3 at once; where windows are few or huge, one at a
time; of small planes that one window covers, several at once. Backward: for each row of the input,
the same sums over gradients divided by what their windows count; a row in the same windows as the
one above is its copy.
"""

from cpython.pycapsule cimport PyCapsule_New
from cython cimport floating
from cython.parallel cimport parallel, prange, threadid
from libc.math cimport INFINITY
from libc.stdint cimport INT32_MAX, int32_t, int64_t, uint32_t, uint64_t
from libc.string cimport memcpy, memmove, memset

from blocking cimport even, parts
from entries cimport PoolingEntries
from rows cimport count_inside, far_apart, fill_row, first_inside, phases_of, reach_of, take
from scratch cimport Scratch, scratch_free, scratch_part, scratch_take
from simd cimport SD_VECTOR_BYTES, add_run, copy_run, fill_run, total_of
from views cimport Axis, Extent, View, axis, extent_of, view


cdef extern from "pooling.h" nogil:
    void sd_float_quads(
        float *y, int32_t *argmax, Py_ssize_t y_pitch, Py_ssize_t rows, const float *x,
        Py_ssize_t x_pitch, uint32_t unit, uint32_t first, Py_ssize_t count)
    bint sd_float_unquads(
        bint add, bint more, float *x, Py_ssize_t x_pitch, const float *g, const int32_t *argmax,
        Py_ssize_t g_pitch, Py_ssize_t rows, Py_ssize_t count)
    bint sd_float_across(
        int safe, int step, int fixed, float *m, uint32_t *a, Py_ssize_t pitch, Py_ssize_t rows,
        const uint32_t *start, const float *x, Py_ssize_t x_pitch, Py_ssize_t pixels,
        const Py_ssize_t *off, Py_ssize_t taps, uint32_t unit)
    void sd_double_quads(
        double *y, int32_t *argmax, Py_ssize_t y_pitch, Py_ssize_t rows, const double *x,
        Py_ssize_t x_pitch, uint64_t unit, uint64_t first, Py_ssize_t count)
    bint sd_double_unquads(
        bint add, bint more, double *x, Py_ssize_t x_pitch, const double *g, const int32_t *argmax,
        Py_ssize_t g_pitch, Py_ssize_t rows, Py_ssize_t count)
    bint sd_double_across(
        int safe, int step, int fixed, double *m, uint64_t *a, Py_ssize_t pitch, Py_ssize_t rows,
        const uint64_t *start, const double *x, Py_ssize_t x_pitch, Py_ssize_t pixels,
        const Py_ssize_t *off, Py_ssize_t taps, uint64_t unit)
    void sd_float_down(
        int safe, float *y, int32_t *argmax, Py_ssize_t y_pitch, Py_ssize_t rows,
        const float *m, const uint32_t *a, Py_ssize_t row_pitch, Py_ssize_t pitch,
        Py_ssize_t taps, uint32_t unit, uint32_t first, uint32_t row_step, uint32_t step,
        Py_ssize_t count)
    void sd_double_down(
        int safe, double *y, int32_t *argmax, Py_ssize_t y_pitch, Py_ssize_t rows,
        const double *m, const uint64_t *a, Py_ssize_t row_pitch, Py_ssize_t pitch,
        Py_ssize_t taps, uint64_t unit, uint64_t first, uint64_t row_step, uint64_t step,
        Py_ssize_t count)
    void sd_float_down_sharing(
        float *y, Py_ssize_t y_pitch, Py_ssize_t rows, const float *m, float *above,
        Py_ssize_t pitch, Py_ssize_t taps, Py_ssize_t shared, Py_ssize_t first, Py_ssize_t last,
        Py_ssize_t count)
    void sd_double_down_sharing(
        double *y, Py_ssize_t y_pitch, Py_ssize_t rows, const double *m, double *above,
        Py_ssize_t pitch, Py_ssize_t taps, Py_ssize_t shared, Py_ssize_t first, Py_ssize_t last,
        Py_ssize_t count)


cdef extern from "averages.h" nogil:
    void sd_float_sum_down(
        float *to, const float *x, Py_ssize_t pitch, Py_ssize_t rows, const float *widths,
        float height, Py_ssize_t count)
    void sd_double_sum_down(
        double *to, const double *x, Py_ssize_t pitch, Py_ssize_t rows, const double *widths,
        double height, Py_ssize_t count)
    void sd_float_sum_across(
        Py_ssize_t step, float *y, const float *row, Py_ssize_t taps, const float *widths,
        float height, Py_ssize_t count)
    void sd_double_sum_across(
        Py_ssize_t step, double *y, const double *row, Py_ssize_t taps, const double *widths,
        double height, Py_ssize_t count)
    void sd_float_spread_twos(float *to, const float *row, Py_ssize_t taps, Py_ssize_t count)
    void sd_double_spread_twos(double *to, const double *row, Py_ssize_t taps, Py_ssize_t count)
    void sd_float_run_means(
        float *y, const float **x, Py_ssize_t run, float divisor, Py_ssize_t planes)
    void sd_double_run_means(
        double *y, const double **x, Py_ssize_t run, double divisor, Py_ssize_t planes)


cdef extern from "windows.h" nogil:
    enum: SD_MAXIMUM
    enum: SD_MEAN
    void sd_float_windows(
        int what, int kernel, int step, float *y, Py_ssize_t y_pitch, Py_ssize_t rows,
        Py_ssize_t count, const float *x, Py_ssize_t pitch, Py_ssize_t top, Py_ssize_t height,
        Py_ssize_t left, Py_ssize_t width, const float *outside, const float *widths,
        Py_ssize_t low, Py_ssize_t high)
    void sd_double_windows(
        int what, int kernel, int step, double *y, Py_ssize_t y_pitch, Py_ssize_t rows,
        Py_ssize_t count, const double *x, Py_ssize_t pitch, Py_ssize_t top, Py_ssize_t height,
        Py_ssize_t left, Py_ssize_t width, const double *outside, const double *widths,
        Py_ssize_t low, Py_ssize_t high)

ctypedef fused index_t:
    int32_t
    int64_t

cdef enum:
    BAND = 1536      # maxima of a band's input rows: with their places, most of the L1 cache
    STAGED = 8       # input rows that are staged at a time
    HIGH = 7         # rows of windows from which on sharing their maxima down pays
    TOGETHER = 4     # planes that a gradient is added to in step,
    MOST_TOGETHER = 8  # and how many small ones
    ROW = 4096       # pixels of a row of sums, which stays in the L1 cache
    SMALL = 1024     # pixels of a plane that is taken with others
    DEEP = 16        # rows that are summed down before the sum across, where windows are large
    LONG = 32        # taps across that are worth a sum of their own
    MOST_PLANES = 16  # lanes of the widest vector


# ------------------------------------------------------------------------------------ whole windows


cdef struct Rows:  # of the output
    Py_ssize_t first, end


cdef inline bint are_small(const Axis *h, const Axis *w, const View *xv) noexcept nogil:
    """Windows of 2x2 or 3x3 that are taken whole, from rows of pixels side by side."""
    return (h.kernel == w.kernel and h.stride == w.stride and h.dilation == w.dilation == 1
            and ((w.kernel == 2 and w.stride == 2) or (w.kernel == 3 and w.stride <= 2))
            and xv.stride[3] == 1 and xv.stride[2] > 0)


cdef Rows readable(
    const Axis *h, const Axis *w, const View *xv, Py_ssize_t plane, Py_ssize_t column0,
    Py_ssize_t columns, Py_ssize_t row0, Py_ssize_t end,
) noexcept nogil:
    """Of output rows row0 .. end those that need only input rows which lie in the array's memory
    with all that is read before and behind them; `plane` is the first pixel's place in it."""
    cdef Py_ssize_t lanes = SD_VECTOR_BYTES // xv.itemsize
    cdef Py_ssize_t left = column0 * w.stride - w.before, reach
    cdef Py_ssize_t first = <Py_ssize_t> xv.data + plane * xv.itemsize
    cdef Extent array = extent_of(xv)
    cdef Py_ssize_t low = (array.begin - first) // xv.itemsize
    cdef Py_ssize_t high = (array.end - first) // xv.itemsize
    cdef Rows rows
    rows.first, rows.end = row0, end
    # from its first pixel to behind its last a row of windows reads so many
    reach = max(columns, lanes) * w.stride + (w.kernel - 1) // w.stride * w.stride
    low = first_inside(left - low, xv.stride[2])
    if low > 0:
        rows.first = min(end, max(row0, parts(low + h.before, h.stride)))
    high = count_inside(left + reach - 1, xv.stride[2], high, h.size)
    if high < h.size:
        rows.end = min(end, max(0, high + h.before - h.kernel + h.stride) // h.stride)
    rows.end = max(rows.first, rows.end)
    return rows


cdef inline void small_windows(
    int what, floating *y, const floating *x, const Axis *h, const Axis *w, Py_ssize_t x_sh,
    Rows *rows, Py_ssize_t column0, Py_ssize_t columns, const floating *outside,
    const floating *widths, Py_ssize_t low, Py_ssize_t high,
) noexcept nogil:
    """Rows of the output, `columns` from column0 on."""
    cdef Py_ssize_t top = rows.first * h.stride - h.before, left = column0 * w.stride - w.before
    y += rows.first * w.out + column0
    if floating is float:
        sd_float_windows(
            what, <int> w.kernel, <int> w.stride, y, w.out, rows.end - rows.first, columns, x,
            x_sh, top, h.size, left, w.size, outside - left, widths, low, high)
    else:
        sd_double_windows(
            what, <int> w.kernel, <int> w.stride, y, w.out, rows.end - rows.first, columns, x,
            x_sh, top, h.size, left, w.size, outside - left, widths, low, high)


# ------------------------------------------------------------------------------------ maxima


cdef struct Job:
    Axis h, w
    Py_ssize_t channels, x_sn, x_sc, x_sh, x_sw
    # A staged row: its phases, in which tap j lies `off[j]` from the first output's on, and output
    # o is `step` * o further
    Py_ssize_t step, phases, length, fixed
    bint far              # its taps' phases are rows of their own
    bint adjacent         # it is one phase, the row itself
    bint straight         # a row needs no staging if the input goes on behind it: `read` elements
    Py_ssize_t read       # are read from a block's first pixel on
    bint small            # windows that are taken whole, without places
    bint sharing          # high windows one row apart, without places
    bint quads            # windows of 2x2 with nothing between or around them, with places
    # blocks: columns of the output, whose maxima across lie `pitch` apart; output rows of a band;
    # output rows of a task, and how many of each
    Py_ssize_t columns, pitch, rows, share, blocks, shares
    # output row o of a band has its tap i in the band's input row o * row_step + i * tap_step;
    # input rows are `row_pixels` rows of the image apart
    Py_ssize_t height, row_step, tap_step, row_pixels
    # where in a thread's scratch memory all this is
    Py_ssize_t maxima, places, start, staged, outside, bytes
    Py_ssize_t unit       # a place counts taps of `dilation` pixels in these


cdef struct Band:  # where a task is: its columns and rows of the output
    Py_ssize_t column0, columns, row0, rows
    Py_ssize_t kept  # input rows whose maxima across are there already
    bint safe        # whether there may be a NaN


cdef inline Py_ssize_t shift_of(const Job *job, Py_ssize_t j) noexcept nogil:
    return 0 if job.far else j * job.w.dilation // job.w.stride


cdef void plan(
    Job *job, View *xv, Axis *h, Axis *w, Py_ssize_t itemsize, int threads
) noexcept nogil:
    cdef Py_ssize_t lanes = SD_VECTOR_BYTES // itemsize, span = (h.kernel - 1) * h.dilation + 1
    cdef Py_ssize_t reach = (w.kernel - 1) * w.dilation
    job.h, job.w = h[0], w[0]
    job.channels = xv.size[1]
    job.x_sn, job.x_sc, job.x_sh, job.x_sw = xv.stride[0], xv.stride[1], xv.stride[2], xv.stride[3]
    if span < h.stride or far_apart(h):  # rows that no other output needs: those of one output
        job.height, job.row_step, job.tap_step, job.row_pixels = h.kernel, 0, 1, h.dilation
        job.rows = 1
    else:
        job.height, job.row_step, job.tap_step, job.row_pixels = span, h.stride, h.dilation, 1
    job.pitch = parts(even(w.out, max(64, BAND // job.height)), lanes) * lanes
    job.columns = min(w.out, job.pitch)
    job.blocks = parts(w.out, job.columns)
    job.share = h.out
    if threads > 1:
        job.share = even(h.out, max(1, xv.size[0] * job.channels * h.out * job.blocks // (
            8 * threads)))
    job.shares = parts(h.out, job.share)
    if job.row_step:
        job.rows = even(job.share, max(1, (BAND // job.pitch - job.height) // h.stride + 1))
        job.height = (job.rows - 1) * h.stride + span
    job.step, job.fixed, job.far, job.read = 1, 0, far_apart(w), 0
    if job.far:
        job.phases, job.length = w.kernel, job.pitch
    elif w.stride <= 2:
        job.step = w.stride
        job.read = job.pitch * w.stride + reach + lanes
        job.phases, job.length = 1, job.read
        job.fixed = w.kernel if w.dilation == 1 and 2 <= w.kernel <= 3 else 0
    else:
        job.phases = phases_of(w)
        job.length = job.pitch + reach_of(w)
    job.length = parts(job.length, lanes) * lanes
    job.adjacent = job.step == w.stride and not job.far
    job.straight = (
        job.adjacent and xv.stride[3] == 1 and xv.stride[2] > 0
        and w.before == 0 and (w.out - 1) * w.stride + reach < w.size)
    job.small = are_small(h, w, xv)
    job.quads = (job.small and w.kernel == 2 and job.straight and h.before == 0
                 and h.out * 2 <= h.size)
    job.sharing = job.row_step == job.tap_step == 1 and h.stride == 1 and h.kernel >= HIGH
    job.maxima = w.kernel * sizeof(Py_ssize_t)
    job.maxima = (job.maxima + 63) // 64 * 64
    job.places = job.maxima + job.height * job.pitch * itemsize
    job.start = job.places + job.height * job.pitch * itemsize
    job.staged = job.start + job.pitch * itemsize
    job.outside = job.staged + STAGED * job.phases * job.length * itemsize
    job.bytes = job.outside + job.read * itemsize


cdef void offsets(Py_ssize_t *off, Job *job) noexcept nogil:
    cdef Py_ssize_t j
    cdef Axis *w = &job.w
    for j in range(w.kernel):
        if job.adjacent:
            off[j] = j * w.dilation
        else:
            off[j] = j % job.phases * job.length + shift_of(job, j)


cdef void stage_rows(
    floating *staged, const floating *x, Py_ssize_t pitch, Py_ssize_t rows, Job *job,
    Py_ssize_t o0,
) noexcept nogil:
    """The pixels of windows o0 .. of input rows, -inf where there are none."""
    cdef Axis *w = &job.w
    cdef Py_ssize_t r, _r, j, first = o0 * w.stride - w.before, outside = max(0, -first)
    cdef Py_ssize_t count = max(0, min(job.read - outside, w.size - first - outside))
    cdef Py_ssize_t step = 1 if job.adjacent else w.stride
    if job.adjacent and job.x_sw == 1:  # what lies outside is there already
        for r in range(rows):
            copy_run(staged + r * job.length + outside, x + r * pitch + first + outside, count)
        return
    for _r in range(rows):
        for j in range(job.phases):
            fill_row(staged, job.length, x, job.x_sw, w.size,
                     first + j * w.dilation - shift_of(job, j) * w.stride, step,
                     <floating> -INFINITY)
            staged += job.length
        x += pitch


cdef inline void across(
    Job *job, Band *band, floating *m, floating *a, Py_ssize_t rows, const floating *start,
    const floating *x, Py_ssize_t x_pitch, const Py_ssize_t *off,
) noexcept nogil:
    """The maxima across input rows, and their places, which are kept as wide as a pixel."""
    cdef Py_ssize_t pixels = job.read if job.straight else job.phases * job.length
    if floating is float:
        band.safe = sd_float_across(
            band.safe, <int> job.step, <int> job.fixed, m, <uint32_t *> a, job.pitch, rows,
            <uint32_t *> start, x, x_pitch, pixels, off, job.w.kernel, <uint32_t> job.unit)
    else:
        band.safe = sd_double_across(
            band.safe, <int> job.step, <int> job.fixed, m, <uint64_t *> a, job.pitch, rows,
            <uint64_t *> start, x, x_pitch, pixels, off, job.w.kernel, <uint64_t> job.unit)


cdef inline void down(
    Job *job, Band *band, floating *y, index_t *argmax, Py_ssize_t rows, const floating *m,
    const floating *a, Py_ssize_t taps, Py_ssize_t first,
) noexcept nogil:
    """The maxima down the `taps` input rows of output rows; `first` is their first index."""
    cdef Py_ssize_t pitch = job.tap_step * job.pitch, unit = job.h.dilation * job.w.size
    cdef Py_ssize_t row_pitch = job.row_step * job.pitch, row_unit = job.h.stride * job.w.size
    cdef Py_ssize_t stride = job.w.stride, count = band.columns, o, i, _r, winner
    cdef floating value, best
    if index_t is int64_t:
        for _r in range(rows):
            for o in range(count):
                best, winner = m[o], 0
                for i in range(1, taps):
                    value = m[i * pitch + o]
                    if value > best or (value != value and best == best):
                        best, winner = value, i
                y[o] = best
                argmax[o] = first + o * stride + winner * unit + job.w.dilation * <Py_ssize_t> (
                    (<uint32_t *> a if floating is float else <uint64_t *> a)[winner * pitch + o])
            first += row_unit
            y += job.w.out
            argmax += job.w.out
            m += row_pitch
            a += row_pitch
    elif floating is float:
        sd_float_down(band.safe, y, argmax, job.w.out, rows, m, <uint32_t *> a, row_pitch, pitch,
                      taps, <uint32_t> unit, <uint32_t> first, <uint32_t> row_unit,
                      <uint32_t> stride, count)
    else:
        sd_double_down(band.safe, y, argmax, job.w.out, rows, m, <uint64_t *> a, row_pitch, pitch,
                       taps, <uint64_t> unit, <uint64_t> first, <uint64_t> row_unit,
                       <uint64_t> stride, count)


cdef inline Py_ssize_t rows_before(Job *job, Band *band) noexcept nogil:
    """How many rows of the image have, behind a block's first pixel, all that is read."""
    cdef Py_ssize_t more = job.read - (job.w.size - band.column0 * job.w.stride)
    return job.h.size - parts(max(0, more), job.x_sh) + (1 if more <= 0 else 0)


cdef void read_rows(
    const floating *x, char *scratch, Job *job, Band *band, bint want
) noexcept nogil:
    """The maxima across the band's input rows, those that lie in the image."""
    cdef Axis *h = &job.h
    cdef floating *maxima = <floating *> (scratch + job.maxima)
    cdef floating *places = <floating *> (scratch + job.places)
    cdef floating *start = <floating *> (scratch + job.start)
    cdef floating *staged = <floating *> (scratch + job.staged)
    cdef Py_ssize_t *off = <Py_ssize_t *> scratch
    cdef Py_ssize_t base = band.row0 * h.stride - h.before, step = job.row_pixels
    cdef Py_ssize_t column = band.column0 * job.w.stride, safe, rows
    cdef Py_ssize_t first = max(band.kept, first_inside(base, step))
    cdef Py_ssize_t last = count_inside(
        base, step, h.size, (band.rows - 1) * job.row_step + (h.kernel - 1) * job.tap_step + 1)
    x += base * job.x_sh
    if job.straight:
        safe = count_inside(base, step, rows_before(job, band), last)
        if safe > first:
            x += column
            across(job, band, maxima + first * job.pitch,
                   places + first * job.pitch if want else NULL, safe - first, start,
                   x + first * step * job.x_sh, step * job.x_sh, off)
            x -= column
            first = safe
    while first < last:
        rows = min(STAGED, last - first)
        stage_rows(staged, x + first * step * job.x_sh, step * job.x_sh, rows, job, band.column0)
        across(job, band, maxima + first * job.pitch,
               places + first * job.pitch if want else NULL, rows, start, staged,
               job.phases * job.length, off)
        first += rows


cdef void share_rows(floating *y, char *scratch, Job *job, Band *band) noexcept nogil:
    """The maxima down high windows that are one row apart, for the band's output rows: groups of
    them share a row."""
    cdef floating *maxima = <floating *> (scratch + job.maxima)
    cdef floating *above = <floating *> (scratch + job.places)
    cdef Py_ssize_t o = 0, base = band.row0 - job.h.before, first, last, shared, rows
    y += band.row0 * job.w.out + band.column0
    while o < band.rows:
        first, last = first_inside(base + o, 1), job.h.size - base - o
        shared = min(job.h.kernel, last) - 1
        rows = min(shared + 1, band.rows - o)
        if floating is float:
            sd_float_down_sharing(
                y + o * job.w.out, job.w.out, rows, maxima + o * job.pitch, above, job.pitch,
                job.h.kernel, shared, first, last, band.columns)
        else:
            sd_double_down_sharing(
                y + o * job.w.out, job.w.out, rows, maxima + o * job.pitch, above, job.pitch,
                job.h.kernel, shared, first, last, band.columns)
        o += rows


cdef void write_rows(
    floating *y, index_t *argmax, char *scratch, Job *job, Band *band
) noexcept nogil:
    """The maxima down them, for the band's output rows."""
    cdef Axis *h = &job.h
    cdef floating *maxima = <floating *> (scratch + job.maxima)
    cdef floating *places = <floating *> (scratch + job.places)
    cdef Py_ssize_t column = band.column0 * job.w.stride - job.w.before
    cdef Py_ssize_t o = 0, top, low, high, slot, place, rows
    while o < band.rows:
        top = (band.row0 + o) * h.stride - h.before
        low = first_inside(top, h.dilation)
        high = count_inside(top, h.dilation, h.size, h.kernel)
        rows = 1
        if low == 0 and high == h.kernel:  # and so are the next ones
            rows = count_inside(
                top + (h.kernel - 1) * h.dilation, h.stride, h.size, band.rows - o)
        slot = (o * job.row_step + low * job.tap_step) * job.pitch
        place = (band.row0 + o) * job.w.out + band.column0
        down(job, band, y + place, argmax + place if argmax != NULL else NULL, rows,
             maxima + slot, places + slot if argmax != NULL else NULL, high - low,
             (top + low * h.dilation) * job.w.size + column)
        o += rows


cdef void quads(
    floating *y, index_t *argmax, const floating *x, Job *job, Rows *rows, Py_ssize_t column0,
    Py_ssize_t columns,
) noexcept nogil:
    """2x2 windows and their places, straight from the input."""
    cdef Py_ssize_t top = rows.first * 2, width = job.w.out, count = rows.end - rows.first
    cdef Py_ssize_t place = rows.first * width + column0, first = top * job.w.size + column0 * 2
    x += top * job.x_sh + column0 * 2
    if floating is float:
        sd_float_quads(y + place, <int32_t *> argmax + place, width, count, x, job.x_sh,
                       <uint32_t> job.w.size, <uint32_t> first, columns)
    else:
        sd_double_quads(y + place, <int32_t *> argmax + place, width, count, x, job.x_sh,
                        <uint64_t> job.w.size, <uint64_t> first, columns)


cdef void prepare(
    char *scratch, floating *staged, Job *job, Py_ssize_t column0
) noexcept nogil:
    """What a block of columns finds in scratch memory, of which `staged` is a part."""
    cdef Py_ssize_t o, place
    offsets(<Py_ssize_t *> scratch, job)
    for o in range(job.pitch):
        place = first_inside((column0 + o) * job.w.stride - job.w.before, job.w.dilation)
        place *= job.unit
        if floating is float:
            (<uint32_t *> (scratch + job.start))[o] = <uint32_t> place
        else:
            (<uint64_t *> (scratch + job.start))[o] = <uint64_t> place
    # staged rows too: what no row brings is padding, and `across` looks for NaN behind their ends
    fill_run(staged, <floating> -INFINITY, STAGED * job.phases * job.length + job.read)


cdef void max_rows(
    floating *y, index_t *argmax, const floating *x, char *scratch, Job *job, Py_ssize_t column0,
    Py_ssize_t columns, Py_ssize_t row0, Py_ssize_t end,
) noexcept nogil:
    """Output rows row0 .. end of a block of columns, band by band."""
    cdef Band band
    cdef Py_ssize_t moved = max(0, job.height - job.rows * job.row_step) if job.row_step else 0
    cdef Py_ssize_t used = (job.height - moved) * job.pitch * sizeof(floating)
    cdef Py_ssize_t size = moved * job.pitch * sizeof(floating)
    band.column0, band.columns = column0, columns
    band.kept, band.safe = 0, False
    while row0 < end:
        band.row0, band.rows = row0, min(job.rows, end - row0)
        read_rows(x, scratch, job, &band, argmax != NULL)
        if job.sharing and argmax == NULL and not band.safe:
            share_rows(y, scratch, job, &band)
        else:
            write_rows(y, argmax, scratch, job, &band)
        row0 += band.rows
        band.kept = moved
        if row0 < end:
            memmove(scratch + job.maxima, scratch + job.maxima + used, size)
            if argmax != NULL:
                memmove(scratch + job.places, scratch + job.places + used, size)


cdef void max_task(
    floating *y, index_t *argmax, const floating *x, char *scratch, Job *job, View *xv,
    Py_ssize_t plane, Py_ssize_t column0, Py_ssize_t row0, Py_ssize_t end,
) noexcept nogil:
    """Output rows row0 .. end of a block of columns of the plane that begins at x[plane]."""
    cdef Py_ssize_t columns = min(job.columns, job.w.out - column0)
    cdef Rows whole
    whole.first = whole.end = row0
    if job.blocks > 1:
        prepare(scratch, <floating *> (scratch + job.staged), job, column0)
    if (job.quads and index_t is not int64_t) if argmax != NULL else job.small:
        whole = readable(&job.h, &job.w, xv, plane, column0, columns, row0, end)
        if argmax != NULL:
            quads(y, argmax, x + plane, job, &whole, column0, columns)
        else:
            small_windows(
                SD_MAXIMUM, y, x + plane, &job.h, &job.w, job.x_sh, &whole, column0, columns,
                <floating *> (scratch + job.outside), <floating *> NULL, 0, 0)
    max_rows(y, argmax, x + plane, scratch, job, column0, columns, row0, whole.first)
    max_rows(y, argmax, x + plane, scratch, job, column0, columns, whole.end, end)


cdef bint max_planes(
    floating *y, index_t *argmax, const floating *x, View *xv, Axis *h, Axis *w, int threads
) noexcept nogil:
    cdef Py_ssize_t task, plane, row0
    cdef Job job
    cdef Scratch scratch
    plan(&job, xv, h, w, sizeof(floating), threads)
    if not scratch_take(&scratch, job.bytes, threads):
        return False
    job.unit = 1 if index_t is int64_t else w.dilation
    with parallel(num_threads=threads):
        if job.blocks == 1:
            prepare(<char *> scratch_part(&scratch, threadid()),
                    <floating *> (<char *> scratch_part(&scratch, threadid()) + job.staged), &job,
                    0)
        for task in prange(xv.size[0] * job.channels * job.blocks * job.shares, schedule="static"):
            plane = task // (job.blocks * job.shares)
            row0 = task % job.shares * job.share
            max_task(
                y + plane * h.out * w.out,
                argmax + plane * h.out * w.out if argmax != NULL else NULL, x,
                <char *> scratch_part(&scratch, threadid()), &job, xv,
                plane // job.channels * job.x_sn + plane % job.channels * job.x_sc,
                task // job.shares % job.blocks * job.columns, row0, min(row0 + job.share, h.out))
    scratch_free(&scratch)
    return True


# ------------------------------------------------------------------------------------ to places


cdef struct Plane:  # sizes of the input's and the output's
    Py_ssize_t h, w, oh, ow


cdef inline bint unquads(
    floating *x, const floating *values, const index_t *argmax, Plane *s, bint add, bint more
) noexcept nogil:
    """Back into 2x2 windows, as by their sizes these may be; returns whether they were. Whether
    `more` planes follow, to be overwritten."""
    cdef Py_ssize_t row, width = s.ow * 2
    cdef bint inside = False
    if s.h // 2 != s.oh or s.w // 2 != s.ow or index_t is int64_t or s.h * s.w > INT32_MAX:
        return False
    if floating is float:
        inside = sd_float_unquads(add, more, x, s.w, values, <int32_t *> argmax, s.ow, s.oh, s.ow)
    else:
        inside = sd_double_unquads(add, more, x, s.w, values, <int32_t *> argmax, s.ow, s.oh, s.ow)
    if width < s.w:
        for row in range(s.h):
            x[row * s.w + width] = 0
    memset(x + s.oh * 2 * s.w, 0, (s.h - s.oh * 2) * s.w * sizeof(floating))
    return inside


cdef inline Py_ssize_t add_in_step(
    floating *x, const floating *values, const index_t *argmax, Py_ssize_t plane0,
    Py_ssize_t planes, Plane *s,
) noexcept nogil:
    """Each value is added at its place; returns how many planes."""
    cdef Py_ssize_t o, p, pixels = s.h * s.w, outputs = s.oh * s.ow
    x += plane0 * pixels
    values += plane0 * outputs
    argmax += plane0 * outputs
    for o in range(outputs):
        for p in range(planes):
            x[p * pixels + argmax[p * outputs + o]] += values[p * outputs + o]
    return planes


cdef void scatter_group(
    floating *x, const floating *values, const index_t *argmax, Py_ssize_t planes, Plane *s,
    bint add,
) noexcept nogil:
    """A few planes in step: an addition to a pixel waits for the last one to it, and the other
    planes' additions fill that time. Where it is not to `add`, the last one stays."""
    cdef Py_ssize_t o, p, pixels = s.h * s.w, outputs = s.oh * s.ow
    cdef Py_ssize_t lanes = SD_VECTOR_BYTES // sizeof(floating)
    for p in range(planes):
        if not unquads(x + p * pixels, values + p * outputs, argmax + p * outputs, s, add,
                       (planes - p - 1) * outputs >= lanes):
            break
    else:
        return
    memset(x, 0, planes * pixels * sizeof(floating))
    if not add:
        for p in range(planes):
            for o in range(outputs):
                x[p * pixels + argmax[p * outputs + o]] = values[p * outputs + o]
        return
    p = 0
    while p < planes:
        if planes - p >= MOST_TOGETHER:
            p += add_in_step(x, values, argmax, p, MOST_TOGETHER, s)
        elif planes - p >= TOGETHER:
            p += add_in_step(x, values, argmax, p, TOGETHER, s)
        else:
            p += add_in_step(x, values, argmax, p, 1, s)


cdef void scatter_planes(
    floating *x, const floating *values, const index_t *argmax, Py_ssize_t planes, Plane *s,
    bint add, int threads,
) noexcept nogil:
    cdef Py_ssize_t group, first, together = MOST_TOGETHER if s.h * s.w <= SMALL else TOGETHER
    for group in prange(parts(planes, together), num_threads=threads, schedule="static"):
        first = group * together
        scatter_group(x + first * s.h * s.w, values + first * s.oh * s.ow,
                      argmax + first * s.oh * s.ow, min(together, planes - first), s, add)


# ------------------------------------------------------------------------------------ averages


cdef struct Means:
    Axis h, w
    # what a window's size counts of an axis: from `low` to `high`, the image or with its padding
    Py_ssize_t h_low, h_high, w_low, w_high
    Py_ssize_t channels, x_sn, x_sc, x_sh, x_sw
    bint small    # windows that are taken whole
    bint whole    # one window covers the plane
    bint singly   # windows are few or huge: one at a time
    # blocks of a row: outputs forward, pixels backward; rows of a task, and how many of each
    Py_ssize_t columns, blocks, share, shares
    Py_ssize_t widths, second, bytes  # where in a thread's scratch memory all this is


cdef inline Py_ssize_t start_of(const Axis *a, Py_ssize_t o) noexcept nogil:
    return o * a.stride - a.before


cdef inline Py_ssize_t counted(
    const Axis *a, Py_ssize_t low, Py_ssize_t high, Py_ssize_t o
) noexcept nogil:
    """How many pixels, of those that count, window o has along an axis."""
    cdef Py_ssize_t start = start_of(a, o)
    return min(a.kernel, high - start) - max(0, low - start)


cdef inline bint covers(const Axis *a) noexcept nogil:
    return a.out == 1 and a.kernel - a.before >= a.size


cdef void plan_means(Means *job, Axis *h, Axis *w, const Py_ssize_t *ends) noexcept nogil:
    job.h, job.w = h[0], w[0]
    job.h_low, job.h_high, job.w_low, job.w_high = ends[0], ends[1], ends[2], ends[3]
    job.whole = covers(h) and covers(w)


cdef void share_means(
    Means *job, View *xv, Py_ssize_t rows, Py_ssize_t width, Py_ssize_t reach, Py_ssize_t itemsize,
    int threads,
) noexcept nogil:
    """Blocks of `width` of a row that needs `reach` more pixels, rows of a task, and scratch."""
    cdef Py_ssize_t slack = 4 * SD_VECTOR_BYTES, planes
    job.channels = xv.size[1]
    job.x_sn, job.x_sc, job.x_sh, job.x_sw = xv.stride[0], xv.stride[1], xv.stride[2], xv.stride[3]
    job.columns = even(width, 1 if job.singly else (ROW - reach) // job.w.stride + 1)
    job.blocks = 1 if job.singly else parts(width, job.columns)
    job.share, planes = rows, xv.size[0] * xv.size[1]
    if threads > 1:
        job.share = even(rows, max(1, planes * rows * job.blocks // (8 * threads)))
    job.shares = parts(rows, job.share)
    job.widths = 2 * ROW * itemsize + slack
    job.second = job.widths + ROW * itemsize + slack
    job.bytes = job.second + 2 * ROW * itemsize + slack


cdef inline void down_sums(
    floating *to, const floating *x, Py_ssize_t pitch, Py_ssize_t step, Py_ssize_t rows,
    const floating *widths, floating height, Py_ssize_t count,
) noexcept nogil:
    """to[i] = the sum over r < rows of x[r * pitch + i * step]; where step is 1, divided by
    widths[i] * height unless there are no `widths`."""
    cdef Py_ssize_t r, i
    if step != 1:
        take(to, count, x, step)
        for r in range(1, rows):
            for i in range(count):
                to[i] += x[r * pitch + i * step]
    elif floating is float:
        sd_float_sum_down(to, x, pitch, rows, widths, height, count)
    else:
        sd_double_sum_down(to, x, pitch, rows, widths, height, count)


cdef inline void across_sums(
    Py_ssize_t step, floating *y, const floating *row, Py_ssize_t taps, const floating *widths,
    floating height, Py_ssize_t count,
) noexcept nogil:
    if floating is float:
        sd_float_sum_across(step, y, row, taps, widths, height, count)
    else:
        sd_double_sum_across(step, y, row, taps, widths, height, count)


cdef void count_widths(
    floating *widths, Means *job, Py_ssize_t o0, Py_ssize_t count
) noexcept nogil:
    """The widths of windows o0 .. ; what vectors read behind them is a number too."""
    cdef Py_ssize_t o
    for o in range(count):
        widths[o] = <floating> counted(&job.w, job.w_low, job.w_high, o0 + o)
    fill_run(widths + count, <floating> 1, SD_VECTOR_BYTES // <Py_ssize_t> sizeof(floating))


cdef void prepare_means(floating *row, Means *job, Py_ssize_t column0) noexcept nogil:
    """What a block of columns finds in scratch memory: rows of padding, which is -0, since adding
    that changes nothing, and the windows' widths."""
    cdef char *scratch = <char *> row
    cdef Py_ssize_t lanes = SD_VECTOR_BYTES // <Py_ssize_t> sizeof(floating)
    cdef Py_ssize_t columns = min(job.columns, job.w.out - column0)
    cdef Py_ssize_t length = (columns - 1) * job.w.stride + job.w.kernel + 3 * lanes
    fill_run(row, <floating> -0.0, length)
    fill_run(<floating *> (scratch + job.second), <floating> -0.0, length)
    count_widths(<floating *> (scratch + job.widths), job, column0, columns)


cdef void mean_rows(
    floating *y, const floating *x, char *scratch, Means *job, Py_ssize_t column0, Py_ssize_t row0,
    Py_ssize_t end,
) noexcept nogil:
    """Output rows row0 .. end of a block of columns."""
    cdef floating *row = <floating *> scratch
    cdef floating *widths = <floating *> (scratch + job.widths)
    cdef Axis *h = &job.h
    cdef Axis *w = &job.w
    cdef Py_ssize_t columns = min(job.columns, w.out - column0), first = start_of(w, column0)
    cdef Py_ssize_t length = (columns - 1) * w.stride + w.kernel
    cdef Py_ssize_t left = first_inside(first, 1), right = count_inside(first, 1, w.size, length)
    cdef Py_ssize_t o, top, low, high
    x += (first + left) * job.x_sw
    for o in range(row0, end):
        top = start_of(h, o)
        low, high = first_inside(top, 1), count_inside(top, 1, h.size, h.kernel)
        down_sums(row + left, x + (top + low) * job.x_sh, job.x_sh, job.x_sw, high - low,
                  <floating *> NULL, <floating> 1, right - left)
        across_sums(w.stride, y + o * w.out + column0, row, w.kernel, widths,
                    <floating> counted(h, job.h_low, job.h_high, o), columns)


cdef void mean_singly(
    floating *y, const floating *x, char *scratch, Means *job, Py_ssize_t row0, Py_ssize_t end
) noexcept nogil:
    """Output rows row0 .. end, window by window."""
    cdef floating *row = <floating *> scratch
    cdef Axis *h = &job.h
    cdef Axis *w = &job.w
    cdef Py_ssize_t o, q, r, top, low, high, first, left, right, i, count
    cdef floating total, height
    for o in range(row0, end):
        top = start_of(h, o)
        low, high = first_inside(top, 1), count_inside(top, 1, h.size, h.kernel)
        height = <floating> counted(h, job.h_low, job.h_high, o)
        for q in range(w.out):
            first = start_of(w, q)
            left = first + first_inside(first, 1)
            right = first + count_inside(first, 1, w.size, w.kernel)
            total = 0
            r = low
            while r < high:
                i = left
                while i < right:
                    count = min(ROW, right - i)
                    down_sums(row, x + (top + r) * job.x_sh + i * job.x_sw, job.x_sh, job.x_sw,
                              min(DEEP, high - r), <floating *> NULL, <floating> 1, count)
                    total += total_of(row, count)
                    i += count
                r += DEEP
            y[o * w.out + q] = total / (<floating> counted(w, job.w_low, job.w_high, q) * height)


cdef void mean_planes(
    floating *y, const floating *x, char *scratch, Means *job, Py_ssize_t plane0, Py_ssize_t planes
) noexcept nogil:
    """The mean of each of a few small planes."""
    cdef const floating *plane[MOST_PLANES]
    cdef Py_ssize_t p, r, height = job.h.size, width = job.w.size
    cdef Py_ssize_t n = plane0 // job.channels, c = plane0 - n * job.channels
    cdef bint packed = (job.x_sw == 1 or width == 1) and (job.x_sh == width or height == 1)
    cdef floating *to = <floating *> scratch
    cdef floating divisor = (<floating> counted(&job.w, job.w_low, job.w_high, 0)
                             * <floating> counted(&job.h, job.h_low, job.h_high, 0))
    for p in range(planes):
        plane[p] = x + (n * job.x_sn + c * job.x_sc)
        c += 1
        if c == job.channels:
            n, c = n + 1, 0
        if not packed:
            for r in range(height):
                take(to + r * width, width, plane[p] + r * job.x_sh, job.x_sw)
            plane[p] = to
            to += height * width
    if floating is float:
        sd_float_run_means(y + plane0, plane, height * width, divisor, planes)
    else:
        sd_double_run_means(y + plane0, plane, height * width, divisor, planes)


cdef bint means(floating *y, const floating *x, View *xv, Means *job, int threads) noexcept nogil:
    cdef Py_ssize_t task, plane, row0, planes = xv.size[0] * xv.size[1]
    cdef Py_ssize_t some = SD_VECTOR_BYTES // <Py_ssize_t> sizeof(floating)
    cdef Scratch scratch
    job.whole = job.whole and job.h.size <= SMALL and job.w.size <= SMALL // job.h.size
    job.singly = (job.w.kernel > ROW or job.w.out == 1
                  or (job.w.stride > 2 and job.w.kernel >= LONG))
    job.small = are_small(&job.h, &job.w, xv) and not job.singly
    share_means(job, xv, job.h.out, job.w.out, job.w.kernel, sizeof(floating), threads)
    if job.whole:
        job.bytes = some * job.h.size * job.w.size * sizeof(floating)
    if not scratch_take(&scratch, job.bytes, threads):
        return False
    with parallel(num_threads=threads):
        if job.whole:
            for task in prange(parts(planes, some), schedule="static"):
                mean_planes(y, x, <char *> scratch_part(&scratch, threadid()), job, task * some,
                            min(some, planes - task * some))
        else:
            if job.blocks == 1 and not job.singly:
                prepare_means(<floating *> scratch_part(&scratch, threadid()), job, 0)
            for task in prange(planes * job.blocks * job.shares, schedule="static"):
                plane = task // (job.blocks * job.shares)
                row0 = task % job.shares * job.share
                mean_task(
                    y + plane * job.h.out * job.w.out, x,
                    <char *> scratch_part(&scratch, threadid()), job, xv,
                    plane // job.channels * job.x_sn + plane % job.channels * job.x_sc,
                    task // job.shares % job.blocks * job.columns, row0,
                    min(row0 + job.share, job.h.out))
    scratch_free(&scratch)
    return True


cdef void mean_task(
    floating *y, const floating *x, char *scratch, Means *job, View *xv, Py_ssize_t plane,
    Py_ssize_t column0, Py_ssize_t row0, Py_ssize_t end,
) noexcept nogil:
    """Output rows row0 .. end of a block of columns of the plane that begins at x[plane]."""
    cdef Py_ssize_t columns = min(job.columns, job.w.out - column0)
    cdef Rows whole
    x += plane
    if job.singly:
        mean_singly(y, x, scratch, job, row0, end)
        return
    if job.blocks > 1:
        prepare_means(<floating *> scratch, job, column0)
    whole.first = whole.end = row0
    if job.small:
        whole = readable(&job.h, &job.w, xv, plane, column0, columns, row0, end)
        small_windows(
            SD_MEAN, y, x, &job.h, &job.w, job.x_sh, &whole, column0, columns,
            <floating *> (scratch + job.second), <floating *> (scratch + job.widths), job.h_low,
            job.h_high)
    mean_rows(y, x, scratch, job, column0, row0, whole.first)
    mean_rows(y, x, scratch, job, column0, whole.end, end)


# ------------------------------------------------------------------------------------ and back


cdef void shares_of(
    floating *to, const floating *grad_out, char *scratch, Means *job, Py_ssize_t o0,
    Py_ssize_t count, Py_ssize_t low, Py_ssize_t high,
) noexcept nogil:
    """What a pixel of each of windows o0 .. gets from output rows low .. high, added up."""
    cdef floating *widths = <floating *> (scratch + job.widths)
    cdef floating *other = <floating *> (scratch + job.second)
    cdef Axis *h = &job.h
    cdef Py_ssize_t o, pitch = job.w.out
    cdef Py_ssize_t height = counted(h, job.h_low, job.h_high, low)
    grad_out += o0
    if low + 1 == high or height == counted(h, job.h_low, job.h_high, high - 1) == h.kernel:
        down_sums(to, grad_out + low * pitch, pitch, 1, high - low, widths, <floating> height,
                  count)
        return
    fill_run(to, <floating> 0, count)
    for o in range(low, high):
        down_sums(other, grad_out + o * pitch, pitch, 1, 1, widths,
                  <floating> counted(h, job.h_low, job.h_high, o), count)
        add_run(to, other, count)


cdef struct Reach:  # the windows that may hold the pixels of a block, number `first` and so on
    Py_ssize_t column0, columns, first, count
    Py_ssize_t left, right  # which of them there are


cdef Reach reach_back(Means *job, Py_ssize_t column0) noexcept nogil:
    cdef Reach s
    cdef Axis *w = &job.w
    cdef Py_ssize_t place = column0 + w.before  # of the first pixel in the padded row
    s.column0, s.columns = column0, min(job.columns, w.size - column0)
    s.first = place // w.stride - (w.kernel - 1) // w.stride
    s.count = (place + s.columns - 1) // w.stride - s.first + 1
    s.left = first_inside(s.first, 1)
    s.right = max(s.left, count_inside(s.first, 1, w.out, s.count))
    return s


cdef void spread_block(
    floating *x, const floating *grad_out, char *scratch, Means *job, Reach *s, Py_ssize_t low,
    Py_ssize_t high,
) noexcept nogil:
    """A block of pixels of a row, of windows of stride 1 or 2 in output rows low .. high."""
    cdef floating *row = <floating *> scratch
    cdef floating *pairs = <floating *> (scratch + job.second)
    cdef Axis *w = &job.w
    cdef Py_ssize_t lanes = SD_VECTOR_BYTES // <Py_ssize_t> sizeof(floating)
    fill_run(row, <floating> 0, s.left)
    fill_run(row + s.right, <floating> 0, s.count - s.right + lanes)
    if s.left < s.right:
        shares_of(row + s.left, grad_out, scratch, job, s.first + s.left, s.right - s.left, low,
                  high)
    if w.stride == 1:
        across_sums(1, x + s.column0, row, w.kernel, <floating *> NULL, <floating> 1, s.columns)
        return
    if floating is float:
        sd_float_spread_twos(pairs, row, w.kernel, s.count - (w.kernel - 1) // 2)
    else:
        sd_double_spread_twos(pairs, row, w.kernel, s.count - (w.kernel - 1) // 2)
    copy_run(x + s.column0, pairs + (s.column0 + w.before) % 2, s.columns)


cdef void spread_singly(
    floating *x, const floating *grad_out, char *scratch, Means *job, Py_ssize_t low,
    Py_ssize_t high,
) noexcept nogil:
    """A row, of windows of any stride, each of which adds to its pixels."""
    cdef floating *row = <floating *> scratch
    cdef Axis *w = &job.w
    cdef Py_ssize_t first = 0, o, i, start, count
    cdef floating value
    fill_run(x, <floating> 0, w.size)
    while first < w.out:
        count = min(ROW, w.out - first)
        count_widths(<floating *> (scratch + job.widths), job, first, count)
        shares_of(row, grad_out, scratch, job, first, count, low, high)
        for o in range(count):
            start, value = start_of(w, first + o), row[o]
            for i in range(max(0, start), start + count_inside(start, 1, w.size, w.kernel)):
                x[i] += value
        first += count


cdef void spread_task(
    floating *x, const floating *grad_out, char *scratch, Means *job, Py_ssize_t column0,
    Py_ssize_t row0, Py_ssize_t end,
) noexcept nogil:
    """Input rows row0 .. end of a block of pixels."""
    cdef Axis *h = &job.h
    cdef Py_ssize_t i, low, high, last_low = -1, last_high = -1, width = job.w.size
    cdef Py_ssize_t columns = width
    cdef Reach reach
    if not job.singly:
        reach = reach_back(job, column0)
        columns = reach.columns
        count_widths(<floating *> (scratch + job.widths), job, reach.first + reach.left,
                     reach.right - reach.left)
    for i in range(row0, end):
        # the output rows whose windows hold the row
        low = max(0, i + h.before - h.kernel + h.stride) // h.stride
        high = min(h.out, (i + h.before) // h.stride + 1)
        if low == last_low and high == last_high:
            memcpy(x + i * width + column0, x + (i - 1) * width + column0,
                   columns * sizeof(floating))
        elif low >= high:
            fill_run(x + i * width + column0, <floating> 0, columns)
        elif job.singly:
            spread_singly(x + i * width, grad_out, scratch, job, low, high)
        else:
            spread_block(x + i * width, grad_out, scratch, job, &reach, low, high)
        last_low, last_high = low, high


cdef bint spread_means(
    floating *x, const floating *grad_out, View *xv, Means *job, int threads
) noexcept nogil:
    cdef Py_ssize_t task, plane, row0, planes = xv.size[0] * xv.size[1]
    cdef Py_ssize_t pixels = job.h.size * job.w.size
    cdef floating divisor
    cdef Scratch scratch
    if job.whole:
        divisor = (<floating> counted(&job.w, job.w_low, job.w_high, 0)
                   * <floating> counted(&job.h, job.h_low, job.h_high, 0))
        for plane in prange(planes, num_threads=threads, schedule="static"):
            fill_run(x + plane * pixels, grad_out[plane] / divisor, pixels)
        return True
    job.singly = job.w.kernel > ROW or job.w.stride > 2
    share_means(job, xv, job.h.size, job.w.size, job.w.kernel, sizeof(floating), threads)
    if not scratch_take(&scratch, job.bytes, threads):
        return False
    with parallel(num_threads=threads):
        for task in prange(planes * job.blocks * job.shares, schedule="static"):
            plane = task // (job.blocks * job.shares)
            row0 = task % job.shares * job.share
            spread_task(
                x + plane * pixels, grad_out + plane * job.h.out * job.w.out,
                <char *> scratch_part(&scratch, threadid()), job,
                task // job.shares % job.blocks * job.columns, row0,
                min(row0 + job.share, job.h.size))
    scratch_free(&scratch)
    return True


cdef bint run_max_forward(
    View *x, View *y, View *argmax, Axis *h, Axis *w, int threads,
) noexcept nogil:
    cdef bint narrow = argmax.data == NULL or argmax.itemsize == sizeof(int32_t)
    if x.itemsize == sizeof(float):
        if narrow:
            return max_planes(<float *> y.data, <int32_t *> argmax.data, <float *> x.data, x, h, w,
                              threads)
        return max_planes(<float *> y.data, <int64_t *> argmax.data, <float *> x.data, x, h, w,
                          threads)
    if narrow:
        return max_planes(<double *> y.data, <int32_t *> argmax.data, <double *> x.data, x, h, w,
                          threads)
    return max_planes(<double *> y.data, <int64_t *> argmax.data, <double *> x.data, x, h, w,
                      threads)


def max_forward(x, y, argmax, rows, columns, int threads):
    """x (n, c, h, w) -> y and argmax (n, c, oh, ow), contiguous; argmax may be None.

    False where the workspace could not be had."""
    cdef View xv = view(x), yv = view(y), av = view(argmax)
    cdef Axis h = axis(rows), w = axis(columns)
    cdef bint done
    with nogil:
        done = run_max_forward(&xv, &yv, &av, &h, &w, threads)
    return done


cdef void run_scatter(
    View *values, View *argmax, View *x, bint add, int threads,
) noexcept nogil:
    cdef Py_ssize_t planes = values.size[0] * values.size[1]
    cdef Plane s
    s.h, s.w, s.oh, s.ow = x.size[2], x.size[3], values.size[2], values.size[3]
    if x.itemsize == sizeof(float):
        if argmax.itemsize == sizeof(int32_t):
            scatter_planes(<float *> x.data, <float *> values.data, <int32_t *> argmax.data,
                           planes, &s, add, threads)
        else:
            scatter_planes(<float *> x.data, <float *> values.data, <int64_t *> argmax.data,
                           planes, &s, add, threads)
    elif argmax.itemsize == sizeof(int32_t):
        scatter_planes(<double *> x.data, <double *> values.data, <int32_t *> argmax.data, planes,
                       &s, add, threads)
    else:
        scatter_planes(<double *> x.data, <double *> values.data, <int64_t *> argmax.data, planes,
                       &s, add, threads)


cdef void run_max_backward(View *grad_out, View *argmax, View *x, int threads) noexcept nogil:
    run_scatter(grad_out, argmax, x, True, threads)


cdef void run_unpool(View *y, View *argmax, View *x, int threads) noexcept nogil:
    run_scatter(y, argmax, x, False, threads)


def scatter(values, argmax, x, bint add, int threads):
    """values and argmax (n, c, oh, ow) -> x (n, c, h, w), all contiguous, the indices in range.

    Zeros, and each value added, or else stored, at its place."""
    cdef View vv = view(values), av = view(argmax), xv = view(x)
    with nogil:
        run_scatter(&vv, &av, &xv, add, threads)


cdef bint run_avg_forward(
    View *x, View *y, Axis *h, Axis *w, const Py_ssize_t *ends, int threads,
) noexcept nogil:
    cdef Means job
    plan_means(&job, h, w, ends)
    if x.itemsize == sizeof(float):
        return means(<float *> y.data, <float *> x.data, x, &job, threads)
    return means(<double *> y.data, <double *> x.data, x, &job, threads)


cdef bint run_avg_backward(
    View *grad_out, View *x, Axis *h, Axis *w, const Py_ssize_t *ends, int threads,
) noexcept nogil:
    cdef Means job
    plan_means(&job, h, w, ends)
    if x.itemsize == sizeof(float):
        return spread_means(<float *> x.data, <float *> grad_out.data, x, &job, threads)
    return spread_means(<double *> x.data, <double *> grad_out.data, x, &job, threads)


def avg_forward(x, y, rows, columns, row_ends, column_ends, int threads):
    """x (n, c, h, w) -> y (n, c, oh, ow), contiguous; of an axis, windows count what lies between
    its ends. False where the workspace could not be had."""
    cdef View xv = view(x), yv = view(y)
    cdef Axis h = axis(rows), w = axis(columns)
    cdef Py_ssize_t[4] ends = [row_ends[0], row_ends[1], column_ends[0], column_ends[1]]
    cdef bint done
    with nogil:
        done = run_avg_forward(&xv, &yv, &h, &w, ends, threads)
    return done


def avg_backward(grad_out, x, rows, columns, row_ends, column_ends, int threads):
    """grad_out (n, c, oh, ow) -> x (n, c, h, w), both contiguous; otherwise as `avg_forward`."""
    cdef View gv = view(grad_out), xv = view(x)
    cdef Axis h = axis(rows), w = axis(columns)
    cdef Py_ssize_t[4] ends = [row_ends[0], row_ends[1], column_ends[0], column_ends[1]]
    cdef bint done
    with nogil:
        done = run_avg_backward(&gv, &xv, &h, &w, ends, threads)
    return done


cdef PoolingEntries table
table.max_forward = run_max_forward
table.max_backward = run_max_backward
table.unpool = run_unpool
table.avg_forward = run_avg_forward
table.avg_backward = run_avg_backward
entries = PyCapsule_New(&table, "PoolingEntries", NULL)

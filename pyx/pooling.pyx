"""Max pooling, forward with or without the place of each maximum, backward, and unpooling.

Forward: the maxima across, of each row of the input that a band of outputs needs, then down these
rows. A strict > keeps the first of equals across, and down, which is row-major order. A NaN beats
every number and no later NaN beats it; until one is seen, maxima are plain ones. The place starts
at the window's first pixel, so that a window of -inf alone has a real one. Windows of 2x2 that tile
the input are taken at once.
    Loops: plane, block of columns, band of rows; rows of the input, rows of the output.
Backward: a few planes in step, each gradient is added at its stored place, in row-major order;
where the sizes and all indices are those of 2x2 windows, comparisons say where each value goes.
Unpooling: the same with values, each of which is stored, the last one over those before it.
"""

from cpython.pycapsule cimport PyCapsule_New
from cython cimport floating
from cython.parallel cimport parallel, prange, threadid
from libc.math cimport INFINITY
from libc.stdint cimport INT32_MAX, int32_t, int64_t, uint32_t, uint64_t
from libc.string cimport memmove, memset

from blocking cimport even, parts
from entries cimport PoolingEntries
from rows cimport count_inside, far_apart, fill_row, first_inside, phases_of, reach_of
from scratch cimport Scratch, scratch_free, scratch_part, scratch_take
from simd cimport SD_VECTOR_BYTES, copy_run, fill_run
from views cimport Axis, View, axis, view


cdef extern from "pooling.h" nogil:
    void sd_float_quads(
        float *y, int32_t *argmax, Py_ssize_t y_pitch, Py_ssize_t rows, const float *x,
        Py_ssize_t x_pitch, uint32_t unit, uint32_t first, Py_ssize_t count)
    bint sd_float_unquads(
        bint add, float *x, Py_ssize_t x_pitch, const float *g, const int32_t *argmax,
        Py_ssize_t g_pitch, Py_ssize_t rows, Py_ssize_t count)
    bint sd_float_across(
        int safe, int step, int fixed, float *m, uint32_t *a, Py_ssize_t pitch, Py_ssize_t rows,
        const uint32_t *start, const float *x, Py_ssize_t x_pitch, Py_ssize_t pixels,
        const Py_ssize_t *off, Py_ssize_t taps, uint32_t unit)
    void sd_double_quads(
        double *y, int32_t *argmax, Py_ssize_t y_pitch, Py_ssize_t rows, const double *x,
        Py_ssize_t x_pitch, uint64_t unit, uint64_t first, Py_ssize_t count)
    bint sd_double_unquads(
        bint add, double *x, Py_ssize_t x_pitch, const double *g, const int32_t *argmax,
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

ctypedef fused index_t:
    int32_t
    int64_t

cdef enum:
    BAND = 1536      # maxima of a band's input rows: with their places, most of the L1 cache
    STAGED = 8       # input rows that are staged at a time
    TOGETHER = 4     # planes that a gradient is added to in step


# ------------------------------------------------------------------------------------ forward


cdef struct Job:
    Axis h, w
    Py_ssize_t channels, x_sn, x_sc, x_sh, x_sw
    # A staged row: its phases, in which tap j lies `off[j]` from the first output's on, and output
    # o is `step` * o further
    Py_ssize_t step, phases, length, fixed
    bint straight         # a row needs no staging if the input goes on behind it: `read` elements
    Py_ssize_t read       # are read from a block's first pixel on
    bint quads            # windows of 2x2 with nothing between or around them
    # blocks: columns of the output, whose maxima across lie `pitch` apart; output rows of a band;
    # output rows of a task, and how many of each
    Py_ssize_t columns, pitch, rows, share, blocks, shares
    # output row o of a band has its tap i in the band's input row o * row_step + i * tap_step;
    # input rows are `row_pixels` rows of the image apart
    Py_ssize_t height, row_step, tap_step, row_pixels
    # where in a thread's scratch memory all this is
    Py_ssize_t maxima, places, start, staged, bytes


cdef struct Band:  # where a task is: its columns and rows of the output
    Py_ssize_t column0, columns, row0, rows
    Py_ssize_t kept  # input rows whose maxima across are there already
    bint safe        # whether there may be a NaN


cdef inline Py_ssize_t shift_of(const Axis *w, Py_ssize_t j) noexcept nogil:
    return 0 if far_apart(w) else j * w.dilation // w.stride


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
    job.step, job.fixed = 1, 0
    job.read = job.pitch * w.stride + reach + lanes
    if far_apart(w):
        job.phases, job.length = w.kernel, job.pitch
    elif w.stride <= 2:
        job.step = w.stride
        job.phases, job.length = 1, job.read
        job.fixed = w.kernel if w.dilation == 1 and 2 <= w.kernel <= 3 else 0
    else:
        job.phases = phases_of(w)
        job.length = job.pitch + reach_of(w)
    job.length = parts(job.length, lanes) * lanes
    job.straight = (
        job.step == w.stride and not far_apart(w) and xv.stride[3] == 1 and xv.stride[2] > 0
        and w.before == 0 and (w.out - 1) * w.stride + reach < w.size)
    job.quads = (
        job.straight and w.kernel == 2 and w.stride == 2 and w.dilation == 1
        and h.kernel == 2 and h.stride == 2 and h.dilation == 1 and h.before == 0)
    job.maxima = w.kernel * sizeof(Py_ssize_t)
    job.maxima = (job.maxima + 63) // 64 * 64
    job.places = job.maxima + job.height * job.pitch * itemsize
    job.start = job.places + job.height * job.pitch * itemsize
    job.staged = job.start + job.pitch * itemsize
    job.bytes = job.staged + STAGED * job.phases * job.length * itemsize


cdef void offsets(Py_ssize_t *off, Job *job) noexcept nogil:
    cdef Py_ssize_t j
    cdef Axis *w = &job.w
    for j in range(w.kernel):
        if job.step == w.stride and not far_apart(w):
            off[j] = j * w.dilation
        else:
            off[j] = j % job.phases * job.length + shift_of(w, j)


cdef void stage_row(
    floating *staged, const floating *x, Job *job, Py_ssize_t o0
) noexcept nogil:
    """The pixels of windows o0 .. of an input row, -inf where there are none."""
    cdef Axis *w = &job.w
    cdef Py_ssize_t j, first = o0 * w.stride - w.before
    cdef Py_ssize_t step = 1 if job.step == w.stride and not far_apart(w) else w.stride
    cdef Py_ssize_t outside = max(0, -first)
    if step == 1 and job.phases == 1 and job.x_sw == 1:  # what lies outside is there already
        copy_run(staged + outside, x + first + outside,
                 max(0, min(job.read - outside, w.size - first - outside)))
        return
    for j in range(job.phases):
        fill_row(staged + j * job.length, job.length, x, job.x_sw, w.size,
                 first + j * w.dilation - shift_of(w, j) * w.stride, step, <floating> -INFINITY)


cdef inline void across(
    Job *job, Band *band, floating *m, floating *a, Py_ssize_t rows, const floating *start,
    const floating *x, Py_ssize_t x_pitch, const Py_ssize_t *off, Py_ssize_t unit,
) noexcept nogil:
    """The maxima across input rows, and their places, which are kept as wide as a pixel."""
    cdef Py_ssize_t pixels = job.read if job.straight else job.phases * job.length
    if floating is float:
        band.safe = sd_float_across(
            band.safe, <int> job.step, <int> job.fixed, m, <uint32_t *> a, job.pitch, rows,
            <uint32_t *> start, x, x_pitch, pixels, off, job.w.kernel, <uint32_t> unit)
    else:
        band.safe = sd_double_across(
            band.safe, <int> job.step, <int> job.fixed, m, <uint64_t *> a, job.pitch, rows,
            <uint64_t *> start, x, x_pitch, pixels, off, job.w.kernel, <uint64_t> unit)


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
    const floating *x, char *scratch, Job *job, Band *band, bint want, Py_ssize_t unit
) noexcept nogil:
    """The maxima across the band's input rows, those that lie in the image."""
    cdef Axis *h = &job.h
    cdef floating *maxima = <floating *> (scratch + job.maxima)
    cdef floating *places = <floating *> (scratch + job.places)
    cdef floating *start = <floating *> (scratch + job.start)
    cdef floating *staged = <floating *> (scratch + job.staged)
    cdef Py_ssize_t *off = <Py_ssize_t *> scratch
    cdef Py_ssize_t base = band.row0 * h.stride - h.before, step = job.row_pixels
    cdef Py_ssize_t column = band.column0 * job.w.stride, r, safe, rows
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
                   x + first * step * job.x_sh, step * job.x_sh, off, unit)
            x -= column
            first = safe
    while first < last:
        rows = min(STAGED, last - first)
        for r in range(rows):
            stage_row(staged + r * job.phases * job.length, x + (first + r) * step * job.x_sh, job,
                      band.column0)
        across(job, band, maxima + first * job.pitch,
               places + first * job.pitch if want else NULL, rows, start, staged,
               job.phases * job.length, off, unit)
        first += rows


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


cdef Py_ssize_t quads(
    floating *y, index_t *argmax, const floating *x, Job *job, Band *band, Py_ssize_t end
) noexcept nogil:
    """2x2 windows straight from the input; returns the first output row that is not done."""
    cdef Py_ssize_t top = band.row0 * 2, column = band.column0 * 2, width = job.w.out
    cdef Py_ssize_t place = band.row0 * width + band.column0, first = top * job.w.size + column
    cdef Py_ssize_t rows = count_inside(top + 1, 2, rows_before(job, band), end - band.row0)
    x += top * job.x_sh + column
    y += place
    argmax = argmax + place if argmax != NULL else NULL
    if index_t is int64_t:
        rows = 0
    elif floating is float:
        sd_float_quads(y, argmax, width, rows, x, job.x_sh, <uint32_t> job.w.size,
                       <uint32_t> first, band.columns)
    else:
        sd_double_quads(y, argmax, width, rows, x, job.x_sh, <uint64_t> job.w.size,
                        <uint64_t> first, band.columns)
    return band.row0 + rows


cdef void max_task(
    floating *y, index_t *argmax, const floating *x, char *scratch, Job *job, Py_ssize_t column0,
    Py_ssize_t row0, Py_ssize_t end,
) noexcept nogil:
    """Output rows row0 .. end of a block of columns, band by band."""
    cdef Band band
    cdef Py_ssize_t o, place, unit = 1 if index_t is int64_t else job.w.dilation
    cdef Py_ssize_t moved = max(0, job.height - job.rows * job.row_step) if job.row_step else 0
    cdef Py_ssize_t used = (job.height - moved) * job.pitch * sizeof(floating)
    cdef Py_ssize_t size = moved * job.pitch * sizeof(floating)
    offsets(<Py_ssize_t *> scratch, job)
    for o in range(job.pitch):
        place = first_inside((column0 + o) * job.w.stride - job.w.before, job.w.dilation) * unit
        if floating is float:
            (<uint32_t *> (scratch + job.start))[o] = <uint32_t> place
        else:
            (<uint64_t *> (scratch + job.start))[o] = <uint64_t> place
    if not job.straight:
        fill_run(<floating *> (scratch + job.staged), <floating> -INFINITY,
                 STAGED * job.phases * job.length)
    band.column0, band.columns = column0, min(job.columns, job.w.out - column0)
    band.row0, band.kept, band.safe = row0, 0, False
    if job.quads:
        row0 = quads(y, argmax, x, job, &band, end)
    while row0 < end:
        band.row0, band.rows = row0, min(job.rows, end - row0)
        read_rows(x, scratch, job, &band, argmax != NULL, unit)
        write_rows(y, argmax, scratch, job, &band)
        row0 += band.rows
        band.kept = moved
        memmove(scratch + job.maxima, scratch + job.maxima + used, size)
        if argmax != NULL:
            memmove(scratch + job.places, scratch + job.places + used, size)


cdef bint max_planes(
    floating *y, index_t *argmax, const floating *x, View *xv, Axis *h, Axis *w, int threads
) noexcept nogil:
    cdef Py_ssize_t task, plane, row0
    cdef Job job
    cdef Scratch scratch
    plan(&job, xv, h, w, sizeof(floating), threads)
    if not scratch_take(&scratch, job.bytes, threads):
        return False
    with parallel(num_threads=threads):
        for task in prange(xv.size[0] * job.channels * job.blocks * job.shares, schedule="static"):
            plane = task // (job.blocks * job.shares)
            row0 = task % job.shares * job.share
            max_task(
                y + plane * h.out * w.out,
                argmax + plane * h.out * w.out if argmax != NULL else NULL,
                x + plane // job.channels * job.x_sn + plane % job.channels * job.x_sc,
                <char *> scratch_part(&scratch, threadid()), &job,
                task // job.shares % job.blocks * job.columns, row0, min(row0 + job.share, h.out))
    scratch_free(&scratch)
    return True


# ------------------------------------------------------------------------------------ to places


cdef struct Plane:  # sizes of the input's and the output's
    Py_ssize_t h, w, oh, ow


cdef inline bint unquads(
    floating *x, const floating *values, const index_t *argmax, Plane *s, bint add
) noexcept nogil:
    """Back into 2x2 windows, as by their sizes these may be; returns whether they were."""
    cdef Py_ssize_t row, width = s.ow * 2
    cdef bint inside = False
    if s.h // 2 != s.oh or s.w // 2 != s.ow or index_t is int64_t or s.h * s.w > INT32_MAX:
        return False
    if floating is float:
        inside = sd_float_unquads(add, x, s.w, values, <int32_t *> argmax, s.ow, s.oh, s.ow)
    else:
        inside = sd_double_unquads(add, x, s.w, values, <int32_t *> argmax, s.ow, s.oh, s.ow)
    if width < s.w:
        for row in range(s.h):
            x[row * s.w + width] = 0
    memset(x + s.oh * 2 * s.w, 0, (s.h - s.oh * 2) * s.w * sizeof(floating))
    return inside


cdef void scatter_group(
    floating *x, const floating *values, const index_t *argmax, Py_ssize_t planes, Plane *s,
    bint add,
) noexcept nogil:
    """A few planes in step: an addition to a pixel waits for the last one to it, and the other
    planes' additions fill that time. Where it is not to `add`, the last one stays."""
    cdef Py_ssize_t o, p, pixels = s.h * s.w, outputs = s.oh * s.ow
    for p in range(planes):
        if not unquads(x + p * pixels, values + p * outputs, argmax + p * outputs, s, add):
            break
    else:
        return
    memset(x, 0, planes * pixels * sizeof(floating))
    if not add:
        for p in range(planes):
            for o in range(outputs):
                x[p * pixels + argmax[p * outputs + o]] = values[p * outputs + o]
    elif planes == TOGETHER:
        for o in range(outputs):
            for p in range(TOGETHER):
                x[p * pixels + argmax[p * outputs + o]] += values[p * outputs + o]
    else:
        for p in range(planes):
            for o in range(outputs):
                x[p * pixels + argmax[p * outputs + o]] += values[p * outputs + o]


cdef void scatter_planes(
    floating *x, const floating *values, const index_t *argmax, Py_ssize_t planes, Plane *s,
    bint add, int threads,
) noexcept nogil:
    cdef Py_ssize_t group, first
    for group in prange(parts(planes, TOGETHER), num_threads=threads, schedule="static"):
        first = group * TOGETHER
        scatter_group(x + first * s.h * s.w, values + first * s.oh * s.ow,
                      argmax + first * s.oh * s.ow, min(TOGETHER, planes - first), s, add)


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


def scatter(values, argmax, x, bint add, int threads):
    """values and argmax (n, c, oh, ow) -> x (n, c, h, w), all contiguous, the indices in range.

    Zeros, and each value added, or else stored, at its place."""
    cdef View vv = view(values), av = view(argmax), xv = view(x)
    with nogil:
        run_scatter(&vv, &av, &xv, add, threads)


cdef PoolingEntries table
table.max_forward = run_max_forward
table.max_backward = run_max_backward
entries = PyCapsule_New(&table, "PoolingEntries", NULL)

"""Convolution of each channel with a filter of its own, and its gradients.

    y[n, c, o] = bias[c] + sum over taps of weight[c, tap] * x[n, c, o * stride + tap]
The filter walks over a plane where it lies, by blocks of a few rows, and each pixel that is loaded
serves all of them. A table of rows, with rows of zeros above and below the plane's, and a mask of
the columns stand for the padding; rows are copied only where their pixels are apart or a load could
leave the array. The gradient for x is the same walk of the turned filter over grad_out, by each
phase of the stride with the taps that meet it. The gradient for weight is a dot product per tap, of
grad_out with the rows that the filter walks over.
    Loops: plane, band of rows; rows, vectors, taps.
"""

from cpython.pycapsule cimport PyCapsule_New
from cython cimport floating
from cython.parallel cimport parallel, prange, threadid
from libc.string cimport memset

from blocking cimport even, parts
from entries cimport ConvolutionEntries
from rows cimport count_inside, first_inside, take
from scratch cimport Scratch, scratch_free, scratch_part, scratch_take
from simd cimport SD_VECTOR_BYTES
from views cimport Axis, Extent, View, axis, extent_of, view


cdef extern from "depthwise.h" nogil:
    enum: SD_WALK_ROWS
    enum: SD_HELD
    void sd_float_walk(
        bint held, int run, int step, float *y, Py_ssize_t y_pitch, Py_ssize_t rows,
        Py_ssize_t count, float **at, Py_ssize_t jump, const float *valid, const Py_ssize_t *row,
        const Py_ssize_t *col, const float *w, Py_ssize_t taps, float bias, bint relu)
    void sd_double_walk(
        bint held, int run, int step, double *y, Py_ssize_t y_pitch, Py_ssize_t rows,
        Py_ssize_t count, double **at, Py_ssize_t jump, const double *valid, const Py_ssize_t *row,
        const Py_ssize_t *col, const double *w, Py_ssize_t taps, double bias, bint relu)
    void sd_float_walk_twice(
        float *y, Py_ssize_t y_pitch, Py_ssize_t rows, Py_ssize_t count, float **at,
        const float *valid, const Py_ssize_t *row, const Py_ssize_t *col, const float *w,
        Py_ssize_t evens, Py_ssize_t taps, float bias)
    void sd_double_walk_twice(
        double *y, Py_ssize_t y_pitch, Py_ssize_t rows, Py_ssize_t count, double **at,
        const double *valid, const Py_ssize_t *row, const Py_ssize_t *col, const double *w,
        Py_ssize_t evens, Py_ssize_t taps, double bias)
    void sd_float_tap_sums(
        int run, int step, int columns, double *sums, Py_ssize_t sums_pitch, float **g,
        Py_ssize_t rows, Py_ssize_t begin, Py_ssize_t end, float **at, Py_ssize_t jump,
        const float *valid, const Py_ssize_t *col)
    void sd_double_tap_sums(
        int run, int step, int columns, double *sums, Py_ssize_t sums_pitch, double **g,
        Py_ssize_t rows, Py_ssize_t begin, Py_ssize_t end, double **at, Py_ssize_t jump,
        const double *valid, const Py_ssize_t *col)

cdef enum:
    BAND = 16 * 1024  # bytes of a band's rows: half of the L1 cache
    COLUMNS = 512     # of a block, at most


cdef struct Way:  # along an axis: output o + phase reads pixels o // up * stride + low ...
    Py_ssize_t out, up, stride, low, span


cdef struct Rows:  # of an array's planes, as the walk reads them
    Py_ssize_t height, width, sh, sw
    Extent extent             # of the array
    Py_ssize_t low            # pixel of a row's first element
    Py_ssize_t strips, apart  # pixels between the first ones of a row's strips,
    Py_ssize_t step, length   # between the elements of a strip, and how many these are


cdef struct Walk:
    Way h, w
    Rows x, g  # what it reads; of a gradient for weight, grad_out
    Py_ssize_t channels, x_sn, x_sc
    Py_ssize_t kernel_h, kernel_w, taps, dilation_h
    Py_ssize_t rows, bands, height  # output rows of a band, bands, and rows that a band reads
    Py_ssize_t block    # output columns that a gradient adds up before it goes on in double
    bint below, beside  # taps share their pixels: those of a column, those of a row
    bint across         # taps are summed up row by row, not column by column
    bint held           # in registers: the filter
    bint in_order       # the filter lies in memory as its taps are summed up
    int run, step       # taps of a column at a time; pixels between outputs, 1 in strips
    Py_ssize_t *row     # by tap: the row that its first output reads,
    Py_ssize_t *col     # the element there,
    Py_ssize_t *source  # and its place in the filter
    Py_ssize_t *first   # by phase: its first tap
    Py_ssize_t *column  # by column of taps: its element
    char *zeros  # a row
    char *valid  # a row and a vector: all bits set where there is a pixel
    Py_ssize_t table_bytes
    # where in a thread's scratch memory the filter or its sums, tables and copies of rows are
    Py_ssize_t at, at_g, staged, staged_g, bytes
    Scratch tables, scratch


cdef Py_ssize_t floored(Py_ssize_t a, Py_ssize_t b) noexcept nogil:
    """a // b as in Python."""
    return a // b if a >= 0 else -parts(-a, b)


cdef Way way(const Axis *a, bint back) noexcept nogil:
    """Forwards, or back from the outputs to the pixels."""
    cdef Way v
    cdef Py_ssize_t reach = (a.kernel - 1) * a.dilation
    if back:
        v.out, v.up, v.stride = a.size, a.given_stride, 1  # a tile of one output has its phases
        v.low = floored(a.before - reach, v.up)
        v.span = floored(a.before + v.up - 1, v.up) - v.low + 1
    else:
        v.out, v.up, v.stride = a.out, 1, a.stride
        v.low, v.span = -a.before, reach + 1
    return v


cdef bint meets(
    const Axis *a, bint back, Py_ssize_t phase, Py_ssize_t tap, Py_ssize_t *pixel
) noexcept nogil:
    """Whether a tap meets a phase's outputs, and the pixel that it reads for the first of them."""
    cdef Py_ssize_t forwards = tap * a.dilation - a.before
    pixel[0] = forwards
    if back:
        pixel[0] = floored(phase - forwards, a.given_stride)
        return pixel[0] * a.given_stride == phase - forwards
    return True


cdef Rows rows_of(const View *v, Py_ssize_t low, Py_ssize_t length) noexcept nogil:
    """The rows of an array's planes where they lie, from pixel `low` on."""
    cdef Rows r
    r.height, r.width, r.sh, r.sw = v.size[2], v.size[3], v.stride[2], v.stride[3]
    r.extent = extent_of(v)
    r.low, r.length, r.step, r.strips, r.apart = low, length, 1, 1, 0
    return r


cdef void span_of(
    Rows *x, Py_ssize_t strip, Py_ssize_t *first, Py_ssize_t *count
) noexcept nogil:
    """Which elements of a strip are pixels."""
    cdef Py_ssize_t pixel = x.low + strip * x.apart, end
    end = count_inside(pixel, x.step, x.width, x.length)
    first[0] = min(first_inside(pixel, x.step), end)
    count[0] = end - first[0]


cdef void plan(
    Walk *walk, View *xv, Axis *h, Axis *w, Py_ssize_t itemsize, bint back
) noexcept nogil:
    cdef Py_ssize_t lanes = SD_VECTOR_BYTES // itemsize, outputs, height, length
    walk.h, walk.w = way(h, back), way(w, back)
    walk.channels, walk.x_sn, walk.x_sc = xv.size[1], xv.stride[0], xv.stride[1]
    walk.kernel_h, walk.kernel_w, walk.taps = h.kernel, w.kernel, h.kernel * w.kernel
    walk.dilation_h = h.dilation
    # outputs of a row, whole vectors where it has less or they are taken by twos
    outputs = max(walk.w.out, lanes) if walk.w.up == 1 else parts(w.size, 2 * lanes) * lanes
    walk.step = 2 if walk.w.stride == 2 else 1
    if walk.w.stride <= 2:
        length = (outputs - 1) * walk.step + walk.w.span + walk.step - 1
        walk.x = rows_of(xv, walk.w.low, length)
    else:  # a strip for each column of taps
        walk.x = rows_of(xv, walk.w.low, outputs)
        walk.x.step, walk.x.strips, walk.x.apart = w.stride, w.kernel, w.dilation
        length = outputs * w.kernel
    walk.below = h.dilation == 1 and walk.h.up == walk.w.up == 1 and walk.h.stride == walk.step
    walk.beside = walk.step == 1 or w.dilation == 1
    # by the kernel alone: a tile's walk may be another than that of the whole plane
    walk.across = h.kernel == w.kernel == SD_HELD
    walk.held = walk.across and walk.below and w.dilation == 1 and walk.w.stride == walk.step
    walk.run = 1
    if h.kernel in (3, 5) or h.kernel == 7 and walk.step == 1:
        if walk.below and not walk.across:
            walk.run = <int> h.kernel
    outputs = parts(walk.h.out, walk.h.up)
    height = (BAND // itemsize // length - walk.h.span) // walk.h.stride + 1
    walk.rows = even(outputs, max(SD_WALK_ROWS, height)) * walk.h.up
    walk.bands = parts(walk.h.out, walk.rows)
    walk.block = even(walk.w.out, COLUMNS)
    walk.height = (max(walk.rows // walk.h.up, SD_WALK_ROWS) - 1) * walk.h.stride + walk.h.span
    walk.height += walk.h.stride - 1  # rows that are read in pairs
    walk.table_bytes = 2 * length * itemsize + SD_VECTOR_BYTES + <Py_ssize_t> sizeof(Py_ssize_t) * (
        3 * walk.taps + walk.h.up * walk.w.up + 1 + walk.kernel_w)
    walk.at = (walk.taps * <Py_ssize_t> sizeof(double) + 63) // 64 * 64
    walk.at_g = walk.at + walk.height * <Py_ssize_t> sizeof(void *)
    walk.staged = (walk.at_g + walk.rows * <Py_ssize_t> sizeof(void *) + 63) // 64 * 64
    walk.staged_g = walk.staged + walk.height * length * itemsize
    walk.bytes = walk.staged_g


cdef bint take_memory(
    Walk *walk, Axis *h, Axis *w, View *wv, bint back, int threads
) noexcept nogil:
    """The tables, and scratch memory."""
    cdef Rows *x = &walk.x
    cdef Py_ssize_t a, b, i, j, q, t = 0, iy, ix, first, count, length = x.strips * x.length
    if not scratch_take(&walk.tables, walk.table_bytes, 1):
        return False
    if not scratch_take(&walk.scratch, walk.bytes, threads):
        scratch_free(&walk.tables)
        return False
    walk.zeros = <char *> scratch_part(&walk.tables, 0)
    walk.valid = walk.zeros + length * wv.itemsize
    walk.row = <Py_ssize_t *> (walk.valid + length * wv.itemsize + SD_VECTOR_BYTES)
    walk.col, walk.source = walk.row + walk.taps, walk.row + 2 * walk.taps
    walk.first = walk.row + 3 * walk.taps
    walk.column = walk.first + walk.h.up * walk.w.up + 1
    memset(walk.zeros, 0, 2 * length * wv.itemsize + SD_VECTOR_BYTES)
    for j in range(x.strips):
        span_of(x, j, &first, &count)
        memset(walk.valid + (j * x.length + first) * wv.itemsize, 0xFF, count * wv.itemsize)
    for a in range(walk.h.up):
        for b in range(walk.w.up):
            walk.first[a * walk.w.up + b] = t
            for q in range(walk.taps):
                if walk.across:
                    i, j = q // w.kernel, q % w.kernel
                else:
                    j, i = q // h.kernel, q % h.kernel
                if back:  # turned: rows and columns that follow each other
                    j, i = w.kernel - 1 - j, h.kernel - 1 - i
                if meets(h, back, a, i, &iy) and meets(w, back, b, j, &ix):
                    walk.row[t] = iy - walk.h.low
                    walk.col[t] = j * x.length if x.strips > 1 else ix - walk.w.low
                    walk.column[j] = walk.col[t]
                    walk.source[t] = i * wv.stride[2] + j * wv.stride[3]
                    t += 1
    walk.first[walk.h.up * walk.w.up] = t
    walk.in_order = True
    for t in range(walk.taps):
        walk.in_order = walk.in_order and walk.source[t] == t
    return True


cdef void free_memory(Walk *walk) noexcept nogil:
    scratch_free(&walk.scratch)
    scratch_free(&walk.tables)


cdef void find_rows(
    floating **at, Py_ssize_t count, const floating *plane, Py_ssize_t top, Rows *x, char *zeros,
    floating *copies,
) noexcept nogil:
    """Where rows top, top + 1, ... of a plane are: in the plane, unless their pixels are apart or a
    load of a row's `length` could leave the array."""
    cdef Py_ssize_t low = min(max(0, -top), count), high = max(low, min(count, x.height - top))
    cdef Py_ssize_t pitch = x.strips * x.length, first, inside, pixel, r, j
    cdef const floating *rows = plane + (top + low) * x.sh + x.low
    cdef Py_ssize_t itemsize = sizeof(floating), least = <Py_ssize_t> rows
    cdef Py_ssize_t most = least + (high - low - 1) * x.sh * itemsize
    for r in range(low):
        at[r] = <floating *> zeros
    for r in range(high, count):
        at[r] = <floating *> zeros
    if most < least:
        least, most = most, least
    if (x.sw == 1 and x.strips == 1 and x.step == 1 and least >= x.extent.begin
            and most + x.length * itemsize <= x.extent.end):
        for r in range(low, high):
            at[r] = <floating *> rows + (r - low) * x.sh
        return
    for j in range(x.strips):
        span_of(x, j, &first, &inside)
        pixel = x.low + j * x.apart + first * x.step
        for r in range(low, high):
            at[r] = copies + r * pitch
            take(at[r] + j * x.length + first, inside,
                 plane + (top + r) * x.sh + pixel * x.sw, x.step * x.sw)


cdef Py_ssize_t by_phases(Py_ssize_t rows, Py_ssize_t up) noexcept nogil:
    """rows // up, without the division that small planes would feel."""
    return rows if up == 1 else rows // 2


cdef void walk_band(
    floating *y, const floating *x, const floating *filter, floating bias, char *scratch,
    Walk *walk, Py_ssize_t band, bint relu,
) noexcept nogil:
    """A band of a plane."""
    cdef Way *h = &walk.h
    cdef Way *w = &walk.w
    cdef floating *to
    cdef floating *valid = <floating *> walk.valid
    cdef floating **at = <floating **> (scratch + walk.at)
    cdef Py_ssize_t row0 = band * walk.rows, rows = min(walk.rows, h.out - row0)
    cdef Py_ssize_t t, end, phase, count, pitch = h.up * w.out
    find_rows(at, walk.height, x, by_phases(row0, h.up) * h.stride + h.low, &walk.x, walk.zeros,
              <floating *> (scratch + walk.staged))
    for phase in range(min(h.up, rows)):
        to = y + (row0 + phase) * w.out
        count = by_phases(rows - phase - 1, h.up) + 1
        t, end = walk.first[phase * w.up], walk.first[(phase + 1) * w.up]
        if floating is float:
            if w.up == 1:
                sd_float_walk(
                    walk.held, walk.run, walk.step, to, pitch, count, w.out, at, h.stride, valid,
                    walk.row + t, walk.col + t, filter + t, end - t, bias, relu)
            else:
                sd_float_walk_twice(
                    to, pitch, count, w.out, at, valid, walk.row + t, walk.col + t, filter + t,
                    walk.first[phase * 2 + 1] - t, end - t, bias)
        elif w.up == 1:
            sd_double_walk(
                walk.held, walk.run, walk.step, to, pitch, count, w.out, at, h.stride, valid,
                walk.row + t, walk.col + t, filter + t, end - t, bias, relu)
        else:
            sd_double_walk_twice(
                to, pitch, count, w.out, at, valid, walk.row + t, walk.col + t, filter + t,
                walk.first[phase * 2 + 1] - t, end - t, bias)


cdef void walk_some(
    floating *y, const floating *x, const floating *weight, View *wv, const floating *bias,
    char *scratch, Walk *walk, Py_ssize_t begin, Py_ssize_t end, bint relu,
) noexcept nogil:
    """Bands `begin` to `end` of all planes."""
    cdef Py_ssize_t plane = begin // walk.bands, band = begin - plane * walk.bands
    cdef Py_ssize_t n = plane // walk.channels, channel = plane - n * walk.channels, t
    cdef floating *copy = <floating *> scratch
    cdef const floating *filter = NULL
    while begin < end:
        if filter == NULL:
            filter = weight + channel * wv.stride[0]
            if not walk.in_order:
                for t in range(walk.taps):
                    copy[t] = filter[walk.source[t]]
                filter = copy
        walk_band(
            y + plane * walk.h.out * walk.w.out, x + n * walk.x_sn + channel * walk.x_sc, filter,
            bias[channel] if bias != NULL else <floating> 0, scratch, walk, band, relu)
        begin += 1
        band += 1
        if band == walk.bands:
            band, filter = 0, NULL
            plane += 1
            channel += 1
            if channel == walk.channels:
                channel = 0
                n += 1


cdef bint walk_planes(
    floating *y, const floating *x, const floating *weight, View *wv, const floating *bias,
    Walk *walk, Axis *h, Axis *w, Py_ssize_t images, bint back, bint relu, int threads,
) noexcept nogil:
    cdef Py_ssize_t tasks = images * walk.channels * walk.bands, share = parts(tasks, threads)
    cdef int thread
    if not take_memory(walk, h, w, wv, back, threads):
        return False
    for thread in prange(threads, num_threads=threads, schedule="static"):
        walk_some(y, x, weight, wv, bias, <char *> scratch_part(&walk.scratch, thread), walk,
                  min(thread * share, tasks), min((thread + 1) * share, tasks), relu)
    free_memory(walk)
    return True


cdef Py_ssize_t taps_held(Py_ssize_t left, bint shared) noexcept nogil:
    """How many taps of a row or a column are summed up at a time, as evenly as can be."""
    if not shared:
        return 1
    return 2 if left == SD_HELD + 1 else min(left, SD_HELD)


cdef void sum_taps(
    double *sums, floating **g, Py_ssize_t rows, floating **at, Walk *walk
) noexcept nogil:
    """A band of a plane's part in the sums of all taps, [column][row]."""
    cdef Py_ssize_t i, j, begin = 0, end, run, some
    cdef floating *valid = <floating *> walk.valid
    while begin < walk.w.out:
        end = min(begin + walk.block, walk.w.out)
        i = 0
        while i < walk.kernel_h:
            run = taps_held(walk.kernel_h - i, walk.below)
            j = 0
            while j < walk.kernel_w:
                some = taps_held(walk.kernel_w - j, walk.beside)
                if floating is float:
                    sd_float_tap_sums(
                        <int> run, walk.step, <int> some, sums + j * walk.kernel_h + i,
                        walk.kernel_h, g, rows, begin, end, at + i * walk.dilation_h, walk.h.stride,
                        valid, walk.column + j)
                else:
                    sd_double_tap_sums(
                        <int> run, walk.step, <int> some, sums + j * walk.kernel_h + i,
                        walk.kernel_h, g, rows, begin, end, at + i * walk.dilation_h, walk.h.stride,
                        valid, walk.column + j)
                j += some
            i += run
        begin = end


cdef void weight_of_channel(
    floating *weight, const floating *g, View *gv, const floating *x, char *scratch, Walk *walk
) noexcept nogil:
    """One channel's filter: its sums over all images, in one fixed order."""
    cdef double *sums = <double *> scratch
    cdef floating **at = <floating **> (scratch + walk.at)
    cdef floating **at_g = <floating **> (scratch + walk.at_g)
    cdef Py_ssize_t n, band, row0, rows, i, j
    for i in range(walk.taps):
        sums[i] = 0
    for n in range(gv.size[0]):
        for band in range(walk.bands):
            row0 = band * walk.rows
            rows = min(walk.rows, walk.h.out - row0)
            find_rows(at, (rows - 1) * walk.h.stride + walk.h.span, x + n * walk.x_sn,
                      row0 * walk.h.stride + walk.h.low, &walk.x, walk.zeros,
                      <floating *> (scratch + walk.staged))
            find_rows(at_g, rows, g + n * gv.stride[0], row0, &walk.g, walk.zeros,
                      <floating *> (scratch + walk.staged_g))
            sum_taps(sums, at_g, rows, at, walk)
    for i in range(walk.kernel_h):
        for j in range(walk.kernel_w):
            weight[i * walk.kernel_w + j] = <floating> sums[j * walk.kernel_h + i]


cdef bint weight_of_channels(
    floating *weight, View *wv, const floating *g, View *gv, const floating *x, Walk *walk,
    Axis *h, Axis *w, int threads,
) noexcept nogil:
    cdef Py_ssize_t channel
    if not take_memory(walk, h, w, wv, False, threads):
        return False
    with parallel(num_threads=threads):
        for channel in prange(walk.channels, schedule="static"):
            weight_of_channel(
                weight + channel * walk.taps, g + channel * gv.stride[1], gv,
                x + channel * walk.x_sc, <char *> scratch_part(&walk.scratch, threadid()), walk)
    free_memory(walk)
    return True


def packed_size(_weight_shape, Py_ssize_t _groups, Py_ssize_t _itemsize):
    """None: `forward` takes the weight as it is."""
    return 0


def pack(_weight, _packed, Py_ssize_t _groups, int _threads):
    return True


def forward_workspace(
    Py_ssize_t images, weight, rows, columns, Py_ssize_t groups, int threads
):
    """The bytes that `forward` takes for itself."""
    cdef View wv = view(weight)
    cdef Axis h = axis(rows), w = axis(columns)
    cdef Walk walk
    with nogil:
        plan(&walk, &wv, &h, &w, wv.itemsize, False)
    return threads * walk.bytes + walk.table_bytes


cdef bint run(
    View *x, View *weight, View *bias, View *y, Axis *h, Axis *w, bint back, bint relu,
    int threads,
) noexcept nogil:
    """Forwards, or back: from `x`, which is grad_out, to `y`, which is x."""
    cdef Walk walk
    plan(&walk, x, h, w, x.itemsize, back)
    if x.itemsize == sizeof(float):
        return walk_planes(<float *> y.data, <float *> x.data, <float *> weight.data, weight,
                           <float *> bias.data, &walk, h, w, x.size[0], back, relu, threads)
    return walk_planes(<double *> y.data, <double *> x.data, <double *> weight.data, weight,
                       <double *> bias.data, &walk, h, w, x.size[0], back, relu, threads)


cdef bint run_forward(
    View *x, View *weight, View *packed, View *bias, View *y, Axis *h, Axis *w,
    Py_ssize_t groups, bint relu, int threads,
) noexcept nogil:
    return run(x, weight, bias, y, h, w, False, relu, threads)


def forward(
    x, weight, packed, bias, y, rows, columns, Py_ssize_t groups, bint relu, int threads
):
    """x (n, c, h, w), weight (c, 1, kh, kw), bias (c,) or None -> y (n, c, oh, ow), contiguous.

    False where the workspace could not be had. `packed` and `groups` are what
    `convolution.forward` takes."""
    cdef View xv = view(x), wv = view(weight), bv = view(bias), yv = view(y)
    cdef Axis h = axis(rows), w = axis(columns)
    cdef bint done
    with nogil:
        done = run_forward(&xv, &wv, NULL, &bv, &yv, &h, &w, groups, relu, threads)
    return done


cdef bint run_gradient_x(
    View *grad_out, View *weight, View *bias, View *x, Axis *h, Axis *w, Py_ssize_t groups,
    int threads,
) noexcept nogil:
    return run(grad_out, weight, bias, x, h, w, True, False, threads)


def gradient_x(grad_out, weight, bias, x, rows, columns, Py_ssize_t groups, int threads):
    """grad_out (n, c, oh, ow), weight (c, 1, kh, kw), bias (c,) or None -> x (n, c, h, w),
    contiguous."""
    cdef View gv = view(grad_out), wv = view(weight), bv = view(bias), xv = view(x)
    cdef Axis h = axis(rows), w = axis(columns)
    cdef bint done
    with nogil:
        done = run_gradient_x(&gv, &wv, &bv, &xv, &h, &w, groups, threads)
    return done


cdef bint run_gradient_weight(
    View *grad_out, View *x, View *weight, Axis *h, Axis *w, Py_ssize_t groups, int threads,
) noexcept nogil:
    cdef Walk walk
    plan(&walk, x, h, w, x.itemsize, False)
    walk.g = rows_of(grad_out, 0, max(w.out, SD_VECTOR_BYTES // x.itemsize))
    walk.bytes += walk.rows * walk.g.length * x.itemsize
    if x.itemsize == sizeof(float):
        return weight_of_channels(
            <float *> weight.data, weight, <float *> grad_out.data, grad_out, <float *> x.data,
            &walk, h, w, threads)
    return weight_of_channels(
        <double *> weight.data, weight, <double *> grad_out.data, grad_out, <double *> x.data,
        &walk, h, w, threads)


def gradient_weight(grad_out, x, weight, rows, columns, Py_ssize_t groups, int threads):
    """grad_out (n, c, oh, ow), x (n, c, h, w) -> weight (c, 1, kh, kw), contiguous."""
    cdef View gv = view(grad_out), xv = view(x), wv = view(weight)
    cdef Axis h = axis(rows), w = axis(columns)
    cdef bint done
    with nogil:
        done = run_gradient_weight(&gv, &xv, &wv, &h, &w, groups, threads)
    return done


cdef ConvolutionEntries table
table.forward = run_forward
table.gradient_x = run_gradient_x
table.gradient_weight = run_gradient_weight
entries = PyCapsule_New(&table, "ConvolutionEntries", NULL)

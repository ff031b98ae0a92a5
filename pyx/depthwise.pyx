"""Convolution of each channel with a filter of its own, and its gradients.

    y[n, c, o] = bias[c] + sum over taps of weight[c, tap] * x[n, c, o * stride + tap]
A band of a plane is staged with its padding and split into phases; the filter walks over it by
blocks of a few rows, and each pixel that is loaded serves all of them. The gradient for x is the
same walk of the turned filter over grad_out, with zeros between its pixels where there is a stride.
The gradient for weight is a dot product per tap, of grad_out with the staged band.
    Loops: plane, band of rows and block of columns; rows, vectors, taps.
"""

from cpython.pycapsule cimport PyCapsule_New
from cython cimport floating
from cython.parallel cimport parallel, prange, threadid
from libc.string cimport memset

from blocking cimport even, parts
from entries cimport ConvolutionEntries
from rows cimport count_inside, far_apart, first_inside, give, phases_of, take
from scratch cimport Scratch, scratch_free, scratch_part, scratch_take
from simd cimport SD_VECTOR_BYTES, fill_run
from views cimport Axis, View, axis, view


cdef extern from "depthwise.h" nogil:
    enum: SD_WALK_ROWS
    enum: SD_WALK_VECTORS
    enum: SD_WALK_TAPS
    void sd_float_walk(
        int rolling, float *y, Py_ssize_t y_pitch, Py_ssize_t rows, Py_ssize_t count,
        const float *x, Py_ssize_t pitch, const float *w, const Py_ssize_t *off, Py_ssize_t taps,
        float bias, bint relu)
    void sd_double_walk(
        int rolling, double *y, Py_ssize_t y_pitch, Py_ssize_t rows, Py_ssize_t count,
        const double *x, Py_ssize_t pitch, const double *w, const Py_ssize_t *off, Py_ssize_t taps,
        double bias, bint relu)
    void sd_float_tap_sums(
        int taps, double *sums, const float *g, Py_ssize_t g_pitch, Py_ssize_t rows,
        Py_ssize_t count, const float *x, Py_ssize_t pitch, const Py_ssize_t *off)
    void sd_double_tap_sums(
        int taps, double *sums, const double *g, Py_ssize_t g_pitch, Py_ssize_t rows,
        Py_ssize_t count, const double *x, Py_ssize_t pitch, const Py_ssize_t *off)

cdef enum:
    STAGED = 16 * 1024  # bytes of a staged band: half of the L1 cache
    COLUMNS = 512       # most outputs of a block of columns


cdef struct Walk:
    Axis h, w             # of the walk: a gradient's differ from its layer's
    Py_ssize_t up_h, up_w  # pixels of the source lie so far apart, with zeros between
    Py_ssize_t channels, x_sn, x_sc, x_sh, x_sw
    # the staged band: its phases, `length` each, of rows that `pitch` elements hold
    Py_ssize_t phases, length, pitch, columns, rows, blocks, bands
    int rolling
    # where in a thread's scratch memory the filter, the band, the gradient's rows and its sums are
    Py_ssize_t staged, gradient, sums, bytes
    Py_ssize_t *off     # of a tap in the band, [column][row]
    Py_ssize_t *origin  # pixel of a phase's element 0, for column 0
    Scratch tables, scratch


cdef void plan(Walk *walk, View *xv, Axis *h, Axis *w, Py_ssize_t itemsize) noexcept nogil:
    cdef Py_ssize_t lanes = SD_VECTOR_BYTES // itemsize, width = SD_WALK_VECTORS * lanes
    cdef Py_ssize_t span = (h.kernel - 1) * h.dilation + 1, height, shift
    walk.h, walk.w = h[0], w[0]
    walk.channels = xv.size[1]
    walk.x_sn, walk.x_sc, walk.x_sh, walk.x_sw = (
        xv.stride[0], xv.stride[1], xv.stride[2], xv.stride[3])
    walk.columns = even(w.out, COLUMNS)
    walk.blocks = parts(w.out, walk.columns)
    walk.phases = w.kernel if far_apart(w) else phases_of(w)
    shift = 0 if far_apart(w) else (w.kernel - 1) * w.dilation // w.stride
    walk.length = parts(parts(walk.columns, width) * width + shift, lanes) * lanes
    walk.pitch = walk.phases * walk.length
    height = STAGED // itemsize // walk.pitch
    walk.rows = even(h.out, max(SD_WALK_ROWS, (height - span) // h.stride + 1))
    walk.bands = parts(h.out, walk.rows)
    height = (max(walk.rows, SD_WALK_ROWS) - 1) * h.stride + span
    walk.rolling = 0
    if h.stride == 1 and h.dilation == 1 and h.kernel in (3, 5, 7):
        walk.rolling = <int> h.kernel
    walk.staged = (h.kernel * w.kernel * itemsize + 63) // 64 * 64
    walk.gradient = walk.staged + height * walk.pitch * itemsize
    walk.sums = (walk.gradient + walk.rows * walk.length * itemsize + 7) // 8 * 8
    walk.bytes = walk.sums + h.kernel * w.kernel * <Py_ssize_t> sizeof(double)


cdef bint take_memory(Walk *walk, int threads) noexcept nogil:
    """The tables, and scratch memory whose staged rows are zeros, as beside every image."""
    cdef Py_ssize_t i, j, shift, taps = walk.h.kernel * walk.w.kernel
    cdef Axis *h = &walk.h
    cdef Axis *w = &walk.w
    cdef bint apart = far_apart(w)
    if not scratch_take(&walk.tables, (taps + walk.phases) * <Py_ssize_t> sizeof(Py_ssize_t), 1):
        return False
    if not scratch_take(&walk.scratch, walk.bytes, threads):
        scratch_free(&walk.tables)
        return False
    for i in range(threads):
        memset(<char *> scratch_part(&walk.scratch, <int> i) + walk.staged, 0,
               walk.gradient - walk.staged)
    walk.off = <Py_ssize_t *> scratch_part(&walk.tables, 0)
    walk.origin = walk.off + taps
    for j in range(w.kernel):
        shift = 0 if apart else j * w.dilation // w.stride
        if j < walk.phases:
            walk.origin[j] = j * w.dilation - shift * w.stride - w.before
        for i in range(h.kernel):
            walk.off[j * h.kernel + i] = (
                i * h.dilation * walk.pitch + j % walk.phases * walk.length + shift)
    return True


cdef void free_memory(Walk *walk) noexcept nogil:
    scratch_free(&walk.scratch)
    scratch_free(&walk.tables)


cdef void stage(
    floating *staged, const floating *x, Walk *walk, Py_ssize_t row0, Py_ssize_t rows,
    Py_ssize_t column0,
) noexcept nogil:
    """What `rows` output rows read; zeros where there are no pixels."""
    cdef Axis *h = &walk.h
    cdef Axis *w = &walk.w
    cdef Py_ssize_t height = (rows - 1) * h.stride + (h.kernel - 1) * h.dilation + 1
    cdef Py_ssize_t top = row0 * h.stride - h.before, jump = w.stride * walk.x_sw
    cdef Py_ssize_t r, j, iy, first, low, high, count, pixel
    cdef floating *row
    for j in range(walk.phases):
        first = column0 * w.stride + walk.origin[j]
        # elements low .. high of the row, and low + walk.up_w ..., are pixels
        if walk.up_w == 1:
            high = count_inside(first, w.stride, w.size, walk.length)
            low = min(first_inside(first, w.stride), high)
            pixel, count = first + low * w.stride, high - low
        else:
            pixel = parts(first, walk.up_w) if first > 0 else 0
            low = pixel * walk.up_w - first
            count = max(0, min(w.size - pixel, (walk.length - low - 1) // walk.up_w + 1))
            high = walk.length
        for r in range(height):
            iy = top + r
            row = staged + r * walk.pitch + j * walk.length
            if walk.up_h > 1 and iy >= 0:
                iy = iy // walk.up_h if iy % walk.up_h == 0 else -1
            if iy < 0 or iy >= h.size:
                fill_run(row, <floating> 0, walk.length)
            elif walk.up_w == 1:
                take(row + low, count, x + iy * walk.x_sh + pixel * walk.x_sw, jump)
                if walk.blocks > 1:  # else the zeros are there already
                    fill_run(row, <floating> 0, low)
                    fill_run(row + high, <floating> 0, walk.length - high)
            else:
                fill_run(row, <floating> 0, walk.length)
                give(row + low, walk.up_w, x + iy * walk.x_sh + pixel * walk.x_sw, walk.x_sw,
                     count)


cdef void walk_band(
    floating *y, const floating *x, const floating *weight, View *wv, floating bias, char *scratch,
    Walk *walk, Py_ssize_t band, Py_ssize_t column0, bint relu,
) noexcept nogil:
    """A band of a plane and a block of its columns."""
    cdef Axis *h = &walk.h
    cdef floating *filter = <floating *> scratch
    cdef floating *staged = <floating *> (scratch + walk.staged)
    cdef Py_ssize_t row0 = band * walk.rows, rows = min(walk.rows, h.out - row0), i, j
    cdef Py_ssize_t count = min(walk.columns, walk.w.out - column0), taps = h.kernel * walk.w.kernel
    for j in range(walk.w.kernel):
        for i in range(h.kernel):
            filter[j * h.kernel + i] = weight[i * wv.stride[2] + j * wv.stride[3]]
    stage(staged, x, walk, row0, rows, column0)
    y += row0 * walk.w.out + column0
    if floating is float:
        sd_float_walk(walk.rolling, y, walk.w.out, rows, count, staged, h.stride * walk.pitch,
                      filter, walk.off, taps, bias, relu)
    else:
        sd_double_walk(walk.rolling, y, walk.w.out, rows, count, staged, h.stride * walk.pitch,
                       filter, walk.off, taps, bias, relu)


cdef bint walk_planes(
    floating *y, const floating *x, const floating *weight, View *wv, const floating *bias,
    Walk *walk, Py_ssize_t images, bint relu, int threads,
) noexcept nogil:
    cdef Py_ssize_t task, plane, channel, tasks = walk.bands * walk.blocks
    if not take_memory(walk, threads):
        return False
    with parallel(num_threads=threads):
        for task in prange(images * walk.channels * tasks, schedule="static"):
            plane = task // tasks
            channel = plane % walk.channels
            walk_band(
                y + plane * walk.h.out * walk.w.out,
                x + plane // walk.channels * walk.x_sn + channel * walk.x_sc,
                weight + channel * wv.stride[0], wv,
                bias[channel] if bias != NULL else <floating> 0,
                <char *> scratch_part(&walk.scratch, threadid()), walk, task % walk.bands,
                task // walk.bands % walk.blocks * walk.columns, relu)
    free_memory(walk)
    return True


cdef void sum_taps(
    double *sums, const floating *g, const floating *x, Walk *walk, Py_ssize_t rows,
    Py_ssize_t count,
) noexcept nogil:
    cdef Py_ssize_t t = 0, taps = walk.h.kernel * walk.w.kernel
    cdef Py_ssize_t some = even(taps, SD_WALK_TAPS), pitch = walk.h.stride * walk.pitch
    cdef Py_ssize_t *off = walk.off
    while t < taps:
        some = min(some, taps - t)
        if floating is float:
            sd_float_tap_sums(<int> some, sums + t, g, walk.length, rows, count, x, pitch, off + t)
        else:
            sd_double_tap_sums(<int> some, sums + t, g, walk.length, rows, count, x, pitch, off + t)
        t += some


cdef void weight_of_channel(
    floating *weight, const floating *g, View *gv, const floating *x, char *scratch, Walk *walk
) noexcept nogil:
    """One channel's filter: its sums over all images, in one fixed order."""
    cdef floating *staged = <floating *> (scratch + walk.staged)
    cdef floating *rows_of_g = <floating *> (scratch + walk.gradient)
    cdef double *sums = <double *> (scratch + walk.sums)
    cdef Py_ssize_t n, band, block, row0, rows, column0, count, r, i, j
    for i in range(walk.h.kernel * walk.w.kernel):
        sums[i] = 0
    for n in range(gv.size[0]):
        for band in range(walk.bands):
            row0 = band * walk.rows
            rows = min(walk.rows, walk.h.out - row0)
            for block in range(walk.blocks):
                column0 = block * walk.columns
                count = min(walk.columns, walk.w.out - column0)
                stage(staged, x + n * walk.x_sn, walk, row0, rows, column0)
                for r in range(rows):
                    take(rows_of_g + r * walk.length, count,
                         g + n * gv.stride[0] + (row0 + r) * gv.stride[2]
                         + column0 * gv.stride[3], gv.stride[3])
                sum_taps(sums, rows_of_g, staged, walk, rows, count)
    for i in range(walk.h.kernel):
        for j in range(walk.w.kernel):
            weight[i * walk.w.kernel + j] = <floating> sums[j * walk.h.kernel + i]


cdef bint weight_of_channels(
    floating *weight, const floating *g, View *gv, const floating *x, Walk *walk, int threads
) noexcept nogil:
    cdef Py_ssize_t channel, taps = walk.h.kernel * walk.w.kernel
    if not take_memory(walk, threads):
        return False
    with parallel(num_threads=threads):
        for channel in prange(walk.channels, schedule="static"):
            weight_of_channel(
                weight + channel * taps, g + channel * gv.stride[1], gv, x + channel * walk.x_sc,
                <char *> scratch_part(&walk.scratch, threadid()), walk)
    free_memory(walk)
    return True


def packed_size(_weight_shape, Py_ssize_t _groups):
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
        plan(&walk, &wv, &h, &w, wv.itemsize)
    return threads * walk.bytes + (h.kernel * w.kernel + walk.phases) * <Py_ssize_t> sizeof(
        Py_ssize_t)


cdef bint run_forward(
    View *x, View *weight, View *packed, View *bias, View *y, Axis *h, Axis *w,
    Py_ssize_t groups, bint relu, int threads,
) noexcept nogil:
    cdef Walk walk
    plan(&walk, x, h, w, x.itemsize)
    walk.up_h = walk.up_w = 1
    if x.itemsize == sizeof(float):
        return walk_planes(<float *> y.data, <float *> x.data, <float *> weight.data, weight,
                           <float *> bias.data, &walk, x.size[0], relu, threads)
    return walk_planes(<double *> y.data, <double *> x.data, <double *> weight.data, weight,
                       <double *> bias.data, &walk, x.size[0], relu, threads)


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


cdef inline Axis turned(const Axis *a) noexcept nogil:
    """The axis that the turned filter walks along, back from the outputs to the pixels."""
    cdef Axis t = a[0]
    t.size, t.out, t.stride = a.out, a.size, 1
    t.before = (a.kernel - 1) * a.dilation - a.before
    return t


cdef bint run_gradient_x(
    View *grad_out, View *weight, View *bias, View *x, Axis *h, Axis *w, Py_ssize_t groups,
    int threads,
) noexcept nogil:
    cdef Axis th = turned(h), tw = turned(w)
    cdef View filters = weight[0]
    cdef Walk walk
    filters.data += filters.itemsize * (
        (h.kernel - 1) * weight.stride[2] + (w.kernel - 1) * weight.stride[3])
    filters.stride[2], filters.stride[3] = -weight.stride[2], -weight.stride[3]
    plan(&walk, grad_out, &th, &tw, x.itemsize)
    walk.up_h, walk.up_w = h.stride, w.stride
    if x.itemsize == sizeof(float):
        return walk_planes(<float *> x.data, <float *> grad_out.data, <float *> filters.data,
                           &filters, <float *> bias.data, &walk, x.size[0], False, threads)
    return walk_planes(<double *> x.data, <double *> grad_out.data, <double *> filters.data,
                       &filters, <double *> bias.data, &walk, x.size[0], False, threads)


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
    plan(&walk, x, h, w, x.itemsize)
    walk.up_h = walk.up_w = 1
    if x.itemsize == sizeof(float):
        return weight_of_channels(<float *> weight.data, <float *> grad_out.data, grad_out,
                                  <float *> x.data, &walk, threads)
    return weight_of_channels(<double *> weight.data, <double *> grad_out.data, grad_out,
                              <double *> x.data, &walk, threads)


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

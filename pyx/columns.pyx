"""im2col and col2im.

cols[n, (c * kh + i) * kw + j, oy * ow + ox] = x[n, c, oy * stride + i * dilation - top, ...]: each
row of the columns is one tap's view of one channel, so it is filled, and added back, by rows of
the image. Tasks are the planes (n, c); a plane's columns are read and written in one fixed order.
"""

from cpython.pycapsule cimport PyCapsule_New
from cython cimport floating
from cython.parallel cimport prange
from libc.string cimport memset

from entries cimport ColumnsEntries
from rows cimport count_inside, first_inside, give, take
from simd cimport fill_run, sd_prefetch
from views cimport Axis, View, axis, view


cdef enum:
    AHEAD = 12288    # bytes before a row of columns is added: memory's latency, for long rows
    PREFETCHED = 128  # bytes of a row above which asking for it costs less than waiting


cdef struct Inside:  # along an axis, the outputs low .. high whose tap lies inside the image
    Py_ssize_t low, high, first  # and where output 0's would


cdef inline Inside inside(const Axis *a, Py_ssize_t tap) noexcept nogil:
    cdef Inside s
    s.first = tap * a.dilation - a.before
    s.high = count_inside(s.first, a.stride, a.size, a.out)
    s.low = min(first_inside(s.first, a.stride), s.high)
    return s


cdef void im2col_plane(
    floating *cols, const floating *x, Py_ssize_t x_sh, Py_ssize_t x_sw, Axis *h, Axis *w
) noexcept nogil:
    cdef Py_ssize_t i, j, oy, count, jump = w.stride * x_sw
    cdef Inside r, c
    cdef const floating *pixels
    for i in range(h.kernel):
        r = inside(h, i)
        for j in range(w.kernel):
            c = inside(w, j)
            count = c.high - c.low
            pixels = x + (c.first + c.low * w.stride) * x_sw
            fill_run(cols, <floating> 0, r.low * w.out)
            for oy in range(r.low, r.high):
                if count < w.out:
                    fill_run(cols + oy * w.out, <floating> 0, c.low)
                    fill_run(cols + oy * w.out + c.high, <floating> 0, w.out - c.high)
                take(cols + oy * w.out + c.low, count, pixels + (r.first + oy * h.stride) * x_sh,
                     jump)
            fill_run(cols + r.high * w.out, <floating> 0, (h.out - r.high) * w.out)
            cols += h.out * w.out


cdef void col2im_plane(
    floating *x, const floating *cols, Py_ssize_t cols_sr, Py_ssize_t cols_sp, Axis *h, Axis *w
) noexcept nogil:
    cdef Py_ssize_t i, j, oy, row = w.out * sizeof(floating)
    cdef bint ahead = cols_sp == 1 and row > PREFETCHED
    cdef Inside r, c
    memset(x, 0, h.size * w.size * sizeof(floating))
    for i in range(h.kernel):
        r = inside(h, i)
        for j in range(w.kernel):
            c = inside(w, j)
            for oy in range(r.low, r.high):
                if ahead:
                    sd_prefetch(<const char *> (cols + oy * w.out) + AHEAD, row)
                give(x + (r.first + oy * h.stride) * w.size + c.first + c.low * w.stride, w.stride,
                     cols + (oy * w.out + c.low) * cols_sp, cols_sp, c.high - c.low)
            cols += cols_sr


cdef void im2col_planes(
    floating *cols, const floating *x, View *xv, Axis *h, Axis *w, int threads
) noexcept nogil:
    cdef Py_ssize_t plane, channels = xv.size[1], planes = xv.size[0] * channels
    cdef Py_ssize_t step = h.kernel * w.kernel * h.out * w.out
    for plane in prange(planes, num_threads=threads, schedule="static"):
        im2col_plane(
            cols + plane * step,
            x + plane // channels * xv.stride[0] + plane % channels * xv.stride[1],
            xv.stride[2], xv.stride[3], h, w)


cdef void col2im_planes(
    floating *x, const floating *cols, View *cv, Py_ssize_t channels, Axis *h, Axis *w, int threads
) noexcept nogil:
    cdef Py_ssize_t plane, planes = cv.size[0] * channels
    cdef Py_ssize_t taps = h.kernel * w.kernel
    for plane in prange(planes, num_threads=threads, schedule="static"):
        col2im_plane(
            x + plane * h.size * w.size,
            cols + plane // channels * cv.stride[0] + plane % channels * taps * cv.stride[1],
            cv.stride[1], cv.stride[2], h, w)


cdef void run_im2col(View *x, View *cols, Axis *h, Axis *w, int threads) noexcept nogil:
    if x.itemsize == sizeof(float):
        im2col_planes(<float *> cols.data, <float *> x.data, x, h, w, threads)
    else:
        im2col_planes(<double *> cols.data, <double *> x.data, x, h, w, threads)


def im2col(x, cols, rows, columns, int threads):
    """x (n, c, h, w) -> cols (n, c * kh * kw, oh * ow), contiguous."""
    cdef View xv = view(x), cv = view(cols)
    cdef Axis h = axis(rows), w = axis(columns)
    with nogil:
        run_im2col(&xv, &cv, &h, &w, threads)


cdef void run_col2im(View *cols, View *x, Axis *h, Axis *w, int threads) noexcept nogil:
    if x.itemsize == sizeof(float):
        col2im_planes(<float *> x.data, <float *> cols.data, cols, x.size[1], h, w, threads)
    else:
        col2im_planes(<double *> x.data, <double *> cols.data, cols, x.size[1], h, w, threads)


def col2im(cols, x, rows, columns, int threads):
    """cols (n, c * kh * kw, oh * ow) -> x (n, c, h, w), contiguous."""
    cdef View cv = view(cols), xv = view(x)
    cdef Axis h = axis(rows), w = axis(columns)
    with nogil:
        run_col2im(&cv, &xv, &h, &w, threads)


cdef ColumnsEntries table
table.im2col = run_im2col
table.col2im = run_col2im
entries = PyCapsule_New(&table, "ColumnsEntries", NULL)

"""im2col and col2im.

cols[n, (c * kh + i) * kw + j, oy * ow + ox] = x[n, c, oy * stride + i * dilation - top, ...]: each
row of the columns is one tap's view of one channel, so it is filled, and added back, by rows of
the image. Tasks are the planes (n, c); a plane's columns are read and written in one fixed order.
"""

from cython cimport floating
from cython.parallel cimport prange
from libc.string cimport memset

from rows cimport add_row, fill_row
from views cimport Axis, View, axis, view


cdef void im2col_plane(
    floating *cols, const floating *x, Py_ssize_t x_sh, Py_ssize_t x_sw, Axis *h, Axis *w
) noexcept nogil:
    cdef Py_ssize_t i, j, oy, iy
    for i in range(h.kernel):
        for j in range(w.kernel):
            for oy in range(h.out):
                iy = oy * h.stride + i * h.dilation - h.before
                # a row outside the image is one of no pixels
                fill_row(cols, w.out, x + iy * x_sh, x_sw, w.size if 0 <= iy < h.size else 0,
                         j * w.dilation - w.before, w.stride, <floating> 0)
                cols += w.out


cdef void col2im_plane(
    floating *x, const floating *cols, Py_ssize_t cols_sr, Py_ssize_t cols_sp, Axis *h, Axis *w
) noexcept nogil:
    cdef Py_ssize_t i, j, oy, iy
    memset(x, 0, h.size * w.size * sizeof(floating))
    for i in range(h.kernel):
        for j in range(w.kernel):
            for oy in range(h.out):
                iy = oy * h.stride + i * h.dilation - h.before
                if 0 <= iy < h.size:
                    add_row(x + iy * w.size, w.size, j * w.dilation - w.before, w.stride,
                            cols + oy * w.out * cols_sp, cols_sp, w.out)
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


def im2col(x, cols, rows, columns, int threads):
    """x (n, c, h, w) -> cols (n, c * kh * kw, oh * ow), contiguous."""
    cdef View xv = view(x), cv = view(cols)
    cdef Axis h = axis(rows), w = axis(columns)
    with nogil:
        if xv.itemsize == sizeof(float):
            im2col_planes(<float *> cv.data, <float *> xv.data, &xv, &h, &w, threads)
        else:
            im2col_planes(<double *> cv.data, <double *> xv.data, &xv, &h, &w, threads)


def col2im(cols, x, rows, columns, int threads):
    """cols (n, c * kh * kw, oh * ow) -> x (n, c, h, w), contiguous."""
    cdef View cv = view(cols), xv = view(x)
    cdef Axis h = axis(rows), w = axis(columns)
    with nogil:
        if xv.itemsize == sizeof(float):
            col2im_planes(<float *> xv.data, <float *> cv.data, &cv, xv.size[1], &h, &w, threads)
        else:
            col2im_planes(<double *> xv.data, <double *> cv.data, &cv, xv.size[1], &h, &w, threads)

"""Max pooling, forward with or without the place of each maximum, and backward.

Forward: one output row at a time. Each input row of the window is staged, padded with -inf and
split into its phases, so that a tap is a contiguous run of the staged row; the taps pass over the
row of maxima in row-major order, and a strict > keeps the first of equals. A NaN beats every
number and no later NaN beats it. The index starts at the window's first pixel, so that a window of
-inf alone has a real one.
Backward: plane by plane, each gradient is added at its stored place, in row-major order.
"""

from cython cimport floating
from cython.parallel cimport parallel, prange, threadid
from libc.math cimport INFINITY
from libc.stdint cimport int32_t, int64_t
from libc.string cimport memset

from rows cimport far_apart, fill_row, first_inside, phases_of, reach_of
from scratch cimport Scratch, scratch_free, scratch_part, scratch_take
from views cimport Axis, View, axis, view

ctypedef fused index_t:
    int32_t
    int64_t


cdef void max_tap(
    floating *y, const floating *tap, Py_ssize_t count
) noexcept nogil:
    cdef Py_ssize_t o
    cdef floating value, best
    for o in range(count):
        value = tap[o]
        best = y[o]
        y[o] = value if (value > best) | (value != value) else best


cdef void max_tap_argmax(
    floating *y, index_t *argmax, const floating *tap, Py_ssize_t count,
    index_t place, index_t step,
) noexcept nogil:
    cdef Py_ssize_t o
    cdef floating value, best
    cdef bint wins
    for o in range(count):
        value = tap[o]
        best = y[o]
        wins = (value > best) | ((value != value) & (best == best))
        y[o] = value if wins else best
        argmax[o] = place + <index_t> o * step if wins else argmax[o]


cdef struct Staged:
    # A staged input row: its phases, in which tap j is phases[j % phases] from j * dilation //
    # stride on; or, where taps are far apart, a row per tap
    Py_ssize_t phases, length


cdef Staged stage(Axis *w) noexcept nogil:
    cdef Staged s
    s.phases = w.kernel if far_apart(w) else phases_of(w)
    s.length = w.out + (0 if s.phases == w.kernel else reach_of(w))
    return s


cdef void max_row(
    floating *y, index_t *argmax, floating *staged, const floating *x, Py_ssize_t x_sh,
    Py_ssize_t x_sw, Py_ssize_t oy, Axis *h, Axis *w, Staged s,
) noexcept nogil:
    """One output row; `argmax` may be NULL."""
    cdef Py_ssize_t top = oy * h.stride - h.before
    cdef Py_ssize_t i, iy, j, o, left, column, shift
    cdef const floating *tap
    for o in range(w.out):
        y[o] = -INFINITY
    if argmax != NULL:
        iy = top + first_inside(top, h.dilation) * h.dilation
        for o in range(w.out):
            left = o * w.stride - w.before
            argmax[o] = <index_t> (iy * w.size + left + first_inside(left, w.dilation) * w.dilation)
    for i in range(h.kernel):
        iy = top + i * h.dilation
        if iy < 0 or iy >= h.size:
            continue
        for j in range(w.kernel):
            column = j * w.dilation - w.before
            shift = 0 if s.phases == w.kernel else j * w.dilation // w.stride
            if j < s.phases:
                fill_row(staged + j * s.length, s.length, x + iy * x_sh, x_sw, w.size,
                         column - shift * w.stride, w.stride, <floating> -INFINITY)
            tap = staged + j % s.phases * s.length + shift
            if argmax != NULL:
                max_tap_argmax(y, argmax, tap, w.out, <index_t> (iy * w.size + column),
                               <index_t> w.stride)
            else:
                max_tap(y, tap, w.out)


cdef bint max_rows(
    floating *y, index_t *argmax, const floating *x, View *xv, Axis *h, Axis *w, int threads
) noexcept nogil:
    cdef Py_ssize_t row, plane, channels = xv.size[1], rows = xv.size[0] * channels * h.out
    cdef Staged s = stage(w)
    cdef Scratch scratch
    if not scratch_take(&scratch, s.phases * s.length * <Py_ssize_t> sizeof(floating), threads):
        return False
    with parallel(num_threads=threads):
        for row in prange(rows, schedule="static"):
            plane = row // h.out
            max_row(
                y + row * w.out, argmax + row * w.out if argmax != NULL else NULL,
                <floating *> scratch_part(&scratch, threadid()),
                x + plane // channels * xv.stride[0] + plane % channels * xv.stride[1],
                xv.stride[2], xv.stride[3], row % h.out, h, w, s)
    scratch_free(&scratch)
    return True


cdef void scatter_planes(
    floating *x, const floating *grad_out, const index_t *argmax, Py_ssize_t planes,
    Py_ssize_t outputs, Py_ssize_t pixels, int threads,
) noexcept nogil:
    cdef Py_ssize_t plane
    for plane in prange(planes, num_threads=threads, schedule="static"):
        scatter_plane(x + plane * pixels, grad_out + plane * outputs, argmax + plane * outputs,
                      outputs, pixels)


cdef void scatter_plane(
    floating *x, const floating *grad_out, const index_t *argmax, Py_ssize_t outputs,
    Py_ssize_t pixels,
) noexcept nogil:
    cdef Py_ssize_t o
    memset(x, 0, pixels * sizeof(floating))
    for o in range(outputs):
        x[argmax[o]] += grad_out[o]


def max_forward(x, y, argmax, rows, columns, int threads):
    """x (n, c, h, w) -> y and argmax (n, c, oh, ow), contiguous; argmax may be None.

    False where the workspace could not be had."""
    cdef View xv = view(x), yv = view(y), av = view(argmax)
    cdef Axis h = axis(rows), w = axis(columns)
    cdef bint done
    with nogil:
        if xv.itemsize == sizeof(float):
            if av.data == NULL or av.itemsize == sizeof(int32_t):
                done = max_rows(<float *> yv.data, <int32_t *> av.data, <float *> xv.data,
                                &xv, &h, &w, threads)
            else:
                done = max_rows(<float *> yv.data, <int64_t *> av.data, <float *> xv.data,
                                &xv, &h, &w, threads)
        elif av.data == NULL or av.itemsize == sizeof(int32_t):
            done = max_rows(<double *> yv.data, <int32_t *> av.data, <double *> xv.data,
                            &xv, &h, &w, threads)
        else:
            done = max_rows(<double *> yv.data, <int64_t *> av.data, <double *> xv.data,
                            &xv, &h, &w, threads)
    return done


def max_backward(grad_out, argmax, x, int threads):
    """grad_out and argmax (n, c, oh, ow) -> x (n, c, h, w), all contiguous."""
    cdef View gv = view(grad_out), av = view(argmax), xv = view(x)
    cdef Py_ssize_t planes = gv.size[0] * gv.size[1]
    cdef Py_ssize_t outputs = gv.size[2] * gv.size[3], pixels = xv.size[2] * xv.size[3]
    with nogil:
        if xv.itemsize == sizeof(float):
            if av.itemsize == sizeof(int32_t):
                scatter_planes(<float *> xv.data, <float *> gv.data, <int32_t *> av.data,
                               planes, outputs, pixels, threads)
            else:
                scatter_planes(<float *> xv.data, <float *> gv.data, <int64_t *> av.data,
                               planes, outputs, pixels, threads)
        elif av.itemsize == sizeof(int32_t):
            scatter_planes(<double *> xv.data, <double *> gv.data, <int32_t *> av.data,
                           planes, outputs, pixels, threads)
        else:
            scatter_planes(<double *> xv.data, <double *> gv.data, <int64_t *> av.data,
                           planes, outputs, pixels, threads)

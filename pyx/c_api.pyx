"""The kernels for C: plain integers are checked, then the CPU level's own functions are called.

For pointers this is what `slidedot.convolution`, `columns` and `pooling` do for arrays, by the same
rules; c_api.pxd says what each function computes.
"""

import os

from cpython.pycapsule cimport PyCapsule_GetPointer
from cython cimport floating
from libc.stdint cimport INT32_MAX, int32_t
from libc.string cimport memset

from entries cimport ColumnsEntries, ConvolutionEntries, PoolingEntries
from views cimport Axis, View, settle

from slidedot import _dispatch, _threads
from slidedot.convolution import _DEPTHWISE_STEP

__all__: list[str] = []  # all that it offers is C's

cdef extern from "Python.h":
    const Py_ssize_t PY_SSIZE_T_MAX


# ------------------------------------------------------------------------------- what is called


cdef ConvolutionEntries *direct
cdef ConvolutionEntries *winograd
cdef ConvolutionEntries *depthwise
cdef ColumnsEntries *columns
cdef PoolingEntries *pooling
cdef Py_ssize_t depthwise_step = _DEPTHWISE_STEP
cdef Py_ssize_t most_threads = _threads.MAX_THREADS
cdef double work_per_thread = _threads.WORK_PER_THREAD
cdef bint forked = _threads._forked


def _use(kernels):
    """Call the functions of these modules, a `slidedot._dispatch.Kernels`, from now on."""
    global direct, winograd, depthwise, columns, pooling
    cdef const char *name = "ConvolutionEntries"
    direct = <ConvolutionEntries *> PyCapsule_GetPointer(kernels.convolution.entries, name)
    winograd = <ConvolutionEntries *> PyCapsule_GetPointer(kernels.winograd.entries, name)
    depthwise = <ConvolutionEntries *> PyCapsule_GetPointer(kernels.depthwise.entries, name)
    columns = <ColumnsEntries *> PyCapsule_GetPointer(kernels.columns.entries, "ColumnsEntries")
    pooling = <PoolingEntries *> PyCapsule_GetPointer(kernels.pooling.entries, "PoolingEntries")


_use(_dispatch.kernels)


def _after_fork():
    global forked
    forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


cdef int c_api_version() noexcept nogil:
    return SLIDEDOT_C_API


cdef int threads_for(double work, int threads) noexcept nogil:
    """slidedot._threads.threads_for"""
    if forked or work < 2 * work_per_thread:
        return 1
    return <int> min(<double> threads, work // work_per_thread)


# ------------------------------------------------------------------------------------- geometry


cdef bint lay_windows(
    Axis *a, Py_ssize_t size, Py_ssize_t kernel, Py_ssize_t stride, Py_ssize_t dilation,
    Py_ssize_t before, Py_ssize_t after, bint ceil_mode,
) noexcept nogil:
    """slidedot.geometry._axis; False where no window fits."""
    cdef Py_ssize_t span, room
    if min(size, kernel, stride, dilation) < 1 or min(before, after) < 0:
        return False
    if before > PY_SSIZE_T_MAX - size or after > PY_SSIZE_T_MAX - size - before:
        return False
    if kernel - 1 > (PY_SSIZE_T_MAX - 1) // dilation:
        return False
    span = dilation * (kernel - 1) + 1
    room = before + size + after - span
    if room < 0 and not (ceil_mode and room > -stride):
        return False
    a.size, a.kernel, a.stride, a.dilation, a.before = size, kernel, stride, dilation, before
    a.out = room // stride + 1 if room >= 0 else 1
    if ceil_mode and room > 0 and room % stride and a.out <= (size + before - 1) // stride:
        a.out += 1
    return True


cdef bint lay_transposed(
    Axis *a, Py_ssize_t size, Py_ssize_t kernel, Py_ssize_t stride, Py_ssize_t dilation,
    Py_ssize_t before, Py_ssize_t after, Py_ssize_t extra,
) noexcept nogil:
    """slidedot.geometry.transposed_windows: the axis of the convolution that is transposed; False
    where nothing is left of the result."""
    cdef Py_ssize_t span, full
    if min(size, kernel, stride, dilation) < 1 or min(before, after, extra) < 0:
        return False
    if extra >= max(stride, dilation) or kernel - 1 > (PY_SSIZE_T_MAX - 1) // dilation:
        return False
    span = dilation * (kernel - 1) + 1
    if extra > PY_SSIZE_T_MAX - span or size - 1 > (PY_SSIZE_T_MAX - span - extra) // stride:
        return False
    full = (size - 1) * stride + span + extra
    if before >= full or after >= full - before:
        return False
    a.size, a.kernel, a.stride, a.dilation, a.before = (
        full - before - after, kernel, stride, dilation, before)
    a.out = size
    return True


cdef bint sees_pixels(const Axis *a, Py_ssize_t after) noexcept nogil:
    """Whether each window holds a pixel: slidedot.pooling._pool_windows."""
    cdef Py_ssize_t start = -a.before
    if max(a.before, after) > a.dilation * (a.kernel - 1):
        return False
    if a.size < a.dilation:  # the first tap that is not before the image may be beyond it
        while start < 0 and start + a.before <= (a.out - 1) * a.stride:
            if a.dilation - 1 - (-start - 1) % a.dilation >= a.size:
                return False
            start += a.stride
    return True


cdef bint countable(
    Py_ssize_t itemsize, Py_ssize_t n, Py_ssize_t c, Py_ssize_t h, Py_ssize_t w
) noexcept nogil:
    """Whether memory could hold an array of this shape."""
    cdef Py_ssize_t most = PY_SSIZE_T_MAX // itemsize // max(1, n) // max(1, c)
    return h <= most and w <= most // max(1, h)


cdef View laid_out(
    const void *data, Py_ssize_t itemsize, Py_ssize_t n, Py_ssize_t c, Py_ssize_t h, Py_ssize_t w,
    const Py_ssize_t *strides,
) noexcept nogil:
    cdef View v
    cdef int i
    v.data, v.itemsize = <char *> data, itemsize
    v.size[0], v.size[1], v.size[2], v.size[3] = n, c, h, w
    v.stride[3] = 1
    for i in range(2, -1, -1):
        v.stride[i] = v.stride[i + 1] * v.size[i + 1]
    if strides != NULL:
        for i in range(4):
            v.stride[i] = strides[i]
    return v


# ---------------------------------------------------------------------------------- convolution


cdef struct Job:  # a convolution x (n, c, h, w) -> (n, k, oh, ow) that has been checked
    Axis h, w
    Py_ssize_t n, c, k, groups
    Py_ssize_t itemsize
    bint wide_stride
    ConvolutionEntries *kernels
    int threads


cdef ConvolutionEntries *kernels_of(const Job *job, int algorithm) noexcept nogil:
    """slidedot.convolution._served; NULL where the algorithm cannot serve."""
    cdef const Axis *h = &job.h
    cdef const Axis *w = &job.w
    cdef Py_ssize_t step = max(h.stride, w.stride, h.dilation, w.dilation)
    cdef bint serves = step == 1 and h.kernel == w.kernel == 3 and job.itemsize == sizeof(float)
    cdef bint pays = min(job.c, job.k) // job.groups >= 16 and min(h.out, w.out) >= 3
    if algorithm == WINOGRAD:
        return winograd if serves else NULL
    if algorithm == AUTO and serves and pays:
        return winograd
    if algorithm != AUTO and algorithm != DIRECT:
        return NULL
    if job.groups == job.k == job.c > 1 and step <= depthwise_step:
        return depthwise
    return direct


cdef bint check_job(Job *job, int algorithm, int threads) noexcept nogil:
    """Check what the axes do not say, and choose kernels and threads."""
    cdef Axis *h = &job.h
    cdef Axis *w = &job.w
    cdef Py_ssize_t channels
    if job.n < 0 or min(job.c, job.k, job.groups) < 1 or not 1 <= threads <= most_threads:
        return False
    if job.c % job.groups or job.k % job.groups:
        return False
    channels = job.c // job.groups
    if not (countable(job.itemsize, job.n, job.c, h.size, w.size)
            and countable(job.itemsize, job.n, job.k, h.out, w.out)
            and countable(job.itemsize, job.k, channels, h.kernel, w.kernel)):
        return False
    job.kernels = kernels_of(job, algorithm)
    job.wide_stride = max(h.stride, w.stride) > 2
    job.threads = threads_for(
        <double> job.n * job.k * h.out * w.out * channels * h.kernel * w.kernel, threads)
    settle(h)
    settle(w)
    return job.kernels != NULL


cdef bint check(Job *job, const Conv2d *s, Py_ssize_t itemsize, int threads) noexcept nogil:
    job.n, job.c, job.k, job.groups, job.itemsize = s.n, s.c, s.k, s.groups, itemsize
    return (
        lay_windows(&job.h, s.h, s.kh, s.stride_h, s.dilation_h, s.top, s.bottom, False)
        and lay_windows(&job.w, s.w, s.kw, s.stride_w, s.dilation_w, s.left, s.right, False)
        and check_job(job, s.algorithm, threads))


cdef bint check_transposed(
    Job *job, const ConvTranspose2d *s, Py_ssize_t itemsize, int threads
) noexcept nogil:
    job.n, job.c, job.k, job.groups, job.itemsize = s.n, s.k, s.c, s.groups, itemsize
    return (
        lay_transposed(
            &job.h, s.h, s.kh, s.stride_h, s.dilation_h, s.top, s.bottom, s.output_padding_h)
        and lay_transposed(
            &job.w, s.w, s.kw, s.stride_w, s.dilation_w, s.left, s.right, s.output_padding_w)
        and check_job(job, AUTO, threads))


cdef View images(const Job *job, const void *data, const Py_ssize_t *strides) noexcept nogil:
    """x, or its gradient."""
    return laid_out(data, job.itemsize, job.n, job.c, job.h.size, job.w.size, strides)


cdef View outputs(const Job *job, const void *data, const Py_ssize_t *strides) noexcept nogil:
    return laid_out(data, job.itemsize, job.n, job.k, job.h.out, job.w.out, strides)


cdef View filters(const Job *job, const void *data, const Py_ssize_t *strides) noexcept nogil:
    return laid_out(data, job.itemsize, job.k, job.c // job.groups, job.h.kernel, job.w.kernel,
                    strides)


cdef int conv2d_size(const Conv2d *layer, Py_ssize_t *oh, Py_ssize_t *ow) noexcept nogil:
    cdef Job job
    if not check(&job, layer, sizeof(float), 1):
        return BAD_ARGUMENT
    oh[0], ow[0] = job.h.out, job.w.out
    return OK


cdef int conv_transpose2d_size(
    const ConvTranspose2d *layer, Py_ssize_t *oh, Py_ssize_t *ow
) noexcept nogil:
    cdef Job job
    if not check_transposed(&job, layer, sizeof(float), 1):
        return BAD_ARGUMENT
    oh[0], ow[0] = job.h.size, job.w.size
    return OK


cdef int conv2d(
    const Conv2d *layer, const floating *x, const Py_ssize_t *x_strides, const floating *weight,
    const Py_ssize_t *weight_strides, const floating *bias, floating *y, bint relu, int threads,
) noexcept nogil:
    cdef View xv, wv, none, bv, yv
    cdef Job job
    if not check(&job, layer, sizeof(floating), threads):
        return BAD_ARGUMENT
    if job.n == 0:
        return OK
    if x == NULL or weight == NULL or y == NULL:
        return BAD_ARGUMENT
    memset(&none, 0, sizeof(none))
    xv, wv = images(&job, x, x_strides), filters(&job, weight, weight_strides)
    bv, yv = laid_out(bias, job.itemsize, job.k, 1, 1, 1, NULL), outputs(&job, y, NULL)
    if not job.kernels.forward(
            &xv, &wv, &none, &bv, &yv, &job.h, &job.w, job.groups, relu, job.threads):
        return NO_MEMORY
    return OK


cdef int gradient_x(
    Job *job, const void *grad_out, const Py_ssize_t *grad_out_strides, const void *weight,
    const Py_ssize_t *weight_strides, const void *bias, void *x,
) noexcept nogil:
    cdef View gv, wv, bv, xv
    if job.n == 0:
        return OK
    if grad_out == NULL or weight == NULL or x == NULL:
        return BAD_ARGUMENT
    if job.wide_stride:  # as slidedot.convolution._gradient_x
        job.kernels = direct
    gv, wv = outputs(job, grad_out, grad_out_strides), filters(job, weight, weight_strides)
    bv, xv = laid_out(bias, job.itemsize, job.c, 1, 1, 1, NULL), images(job, x, NULL)
    if not job.kernels.gradient_x(
            &gv, &wv, &bv, &xv, &job.h, &job.w, job.groups, job.threads):
        return NO_MEMORY
    return OK


cdef int conv2d_gradient_x(
    const Conv2d *layer, const floating *grad_out, const Py_ssize_t *grad_out_strides,
    const floating *weight, const Py_ssize_t *weight_strides, floating *grad_x, int threads,
) noexcept nogil:
    cdef Job job
    if not check(&job, layer, sizeof(floating), threads):
        return BAD_ARGUMENT
    return gradient_x(&job, grad_out, grad_out_strides, weight, weight_strides, NULL, grad_x)


cdef int conv_transpose2d(
    const ConvTranspose2d *layer, const floating *x, const Py_ssize_t *x_strides,
    const floating *weight, const Py_ssize_t *weight_strides, const floating *bias, floating *y,
    int threads,
) noexcept nogil:
    cdef Job job
    if not check_transposed(&job, layer, sizeof(floating), threads):
        return BAD_ARGUMENT
    return gradient_x(&job, x, x_strides, weight, weight_strides, bias, y)


cdef int conv2d_gradient_weight(
    const Conv2d *layer, const floating *grad_out, const Py_ssize_t *grad_out_strides,
    const floating *x, const Py_ssize_t *x_strides, floating *grad_weight, int threads,
) noexcept nogil:
    cdef View gv, xv, wv
    cdef Job job
    if not check(&job, layer, sizeof(floating), threads) or grad_weight == NULL:
        return BAD_ARGUMENT
    if job.n == 0:
        memset(grad_weight, 0, job.k * (job.c // job.groups) * layer.kh * layer.kw
               * sizeof(floating))
        return OK
    if grad_out == NULL or x == NULL:
        return BAD_ARGUMENT
    gv, xv = outputs(&job, grad_out, grad_out_strides), images(&job, x, x_strides)
    wv = filters(&job, grad_weight, NULL)
    if not job.kernels.gradient_weight(
            &gv, &xv, &wv, &job.h, &job.w, job.groups, job.threads):
        return NO_MEMORY
    return OK


cdef int conv2d_gradient_bias(
    const Conv2d *layer, const floating *grad_out, const Py_ssize_t *grad_out_strides,
    floating *grad_bias, int threads,
) noexcept nogil:
    cdef View gv, bv
    cdef Job job
    if not check(&job, layer, sizeof(floating), threads) or grad_bias == NULL:
        return BAD_ARGUMENT
    if job.n == 0:
        memset(grad_bias, 0, job.k * sizeof(floating))
        return OK
    if grad_out == NULL:
        return BAD_ARGUMENT
    gv = outputs(&job, grad_out, grad_out_strides)
    bv = laid_out(grad_bias, job.itemsize, job.k, 1, 1, 1, NULL)
    threads = threads_for(<double> job.n * job.k * job.h.out * job.w.out, threads)
    direct.gradient_bias(&gv, &bv, threads)
    return OK


# -------------------------------------------------------------------------- pooling and columns


cdef bint check_windows(
    Axis *h, Axis *w, const Windows *s, Py_ssize_t itemsize, int threads
) noexcept nogil:
    if s.n < 0 or s.c < 1 or not 1 <= threads <= most_threads:
        return False
    if not lay_windows(h, s.h, s.kh, s.stride_h, s.dilation_h, s.top, s.bottom, s.ceil_mode):
        return False
    if not lay_windows(w, s.w, s.kw, s.stride_w, s.dilation_w, s.left, s.right, s.ceil_mode):
        return False
    return countable(itemsize, s.n, s.c, s.h, s.w) and countable(itemsize, s.n, s.c, h.out, w.out)


cdef bint check_pool(
    Axis *h, Axis *w, const Windows *s, Py_ssize_t itemsize, Py_ssize_t index, int threads
) noexcept nogil:
    """`index` is the size of a stored place, in bytes."""
    if not check_windows(h, w, s, itemsize, threads):
        return False
    if index == sizeof(int32_t) and s.h > INT32_MAX // s.w:
        return False
    if not (sees_pixels(h, s.bottom) and sees_pixels(w, s.right)):
        return False
    settle(h)
    settle(w)
    return True


cdef int windows_size(const Windows *windows, Py_ssize_t *oh, Py_ssize_t *ow) noexcept nogil:
    cdef Axis h, w
    if not check_windows(&h, &w, windows, sizeof(float), 1):
        return BAD_ARGUMENT
    oh[0], ow[0] = h.out, w.out
    return OK


cdef int max_pool2d(
    const Windows *windows, const floating *x, const Py_ssize_t *x_strides, floating *y,
    index_t *argmax, int threads,
) noexcept nogil:
    cdef const Windows *s = windows
    cdef Py_ssize_t itemsize = sizeof(floating)
    cdef Py_ssize_t index = sizeof(index_t) if argmax != NULL else sizeof(int64_t)
    cdef View xv, yv, av
    cdef Axis h, w
    if not check_pool(&h, &w, s, itemsize, index, threads):
        return BAD_ARGUMENT
    if s.n == 0:
        return OK
    if x == NULL or y == NULL:
        return BAD_ARGUMENT
    xv = laid_out(x, itemsize, s.n, s.c, s.h, s.w, x_strides)
    yv = laid_out(y, itemsize, s.n, s.c, h.out, w.out, NULL)
    av = laid_out(argmax, index, s.n, s.c, h.out, w.out, NULL)
    threads = threads_for(<double> s.n * s.c * h.out * w.out * s.kh * s.kw, threads)
    return OK if pooling.max_forward(&xv, &yv, &av, &h, &w, threads) else NO_MEMORY


cdef int to_places(
    const Windows *s, const floating *values, const index_t *argmax, floating *x, bint add,
    int threads,
) noexcept nogil:
    """max_pool2d_backward, which is to `add`, or max_unpool2d."""
    cdef Py_ssize_t itemsize = sizeof(floating), i
    cdef size_t pixels
    cdef View vv, av, xv
    cdef Axis h, w
    cdef bint outside = False
    if not check_pool(&h, &w, s, itemsize, sizeof(index_t), threads):
        return BAD_ARGUMENT
    if s.n == 0:
        return OK
    if values == NULL or argmax == NULL or x == NULL:
        return BAD_ARGUMENT
    pixels = s.h * s.w
    for i in range(s.n * s.c * h.out * w.out):
        outside |= <size_t> argmax[i] >= pixels  # below 0 becomes huge
    if outside:
        return BAD_INDEX
    vv = laid_out(values, itemsize, s.n, s.c, h.out, w.out, NULL)
    av = laid_out(argmax, sizeof(index_t), s.n, s.c, h.out, w.out, NULL)
    xv = laid_out(x, itemsize, s.n, s.c, s.h, s.w, NULL)
    threads = threads_for(<double> s.n * s.c * s.h * s.w, threads)
    if add:
        pooling.max_backward(&vv, &av, &xv, threads)
    else:
        pooling.unpool(&vv, &av, &xv, threads)
    return OK


cdef int max_pool2d_backward(
    const Windows *windows, const floating *grad_out, const index_t *argmax, floating *grad_x,
    int threads,
) noexcept nogil:
    return to_places(windows, grad_out, argmax, grad_x, True, threads)


cdef int max_unpool2d(
    const Windows *windows, const floating *y, const index_t *argmax, floating *x, int threads,
) noexcept nogil:
    return to_places(windows, y, argmax, x, False, threads)


cdef int average(
    const Windows *s, bint count_include_pad, void *x, const Py_ssize_t *x_strides, void *y,
    Py_ssize_t itemsize, bint back, int threads,
) noexcept nogil:
    """avg_pool2d, or `back`."""
    cdef Py_ssize_t[4] ends
    cdef View xv, yv
    cdef Axis h, w
    if s.dilation_h != 1 or s.dilation_w != 1:
        return BAD_ARGUMENT
    if not check_pool(&h, &w, s, itemsize, sizeof(int64_t), threads):
        return BAD_ARGUMENT
    if s.n == 0:
        return OK
    if x == NULL or y == NULL:
        return BAD_ARGUMENT
    ends[0], ends[1], ends[2], ends[3] = 0, s.h, 0, s.w
    if count_include_pad:
        ends[0], ends[1] = -s.top, s.h + s.bottom
        ends[2], ends[3] = -s.left, s.w + s.right
    xv = laid_out(x, itemsize, s.n, s.c, s.h, s.w, x_strides)
    yv = laid_out(y, itemsize, s.n, s.c, h.out, w.out, NULL)
    threads = threads_for(
        <double> s.n * s.c * h.out * w.out * min(s.kh, s.h) * min(s.kw, s.w), threads)
    if back:
        return OK if pooling.avg_backward(&yv, &xv, &h, &w, ends, threads) else NO_MEMORY
    return OK if pooling.avg_forward(&xv, &yv, &h, &w, ends, threads) else NO_MEMORY


cdef int avg_pool2d(
    const Windows *windows, bint count_include_pad, const floating *x,
    const Py_ssize_t *x_strides, floating *y, int threads,
) noexcept nogil:
    return average(
        windows, count_include_pad, <void *> x, x_strides, y, sizeof(floating), False, threads)


cdef int avg_pool2d_backward(
    const Windows *windows, bint count_include_pad, const floating *grad_out, floating *grad_x,
    int threads,
) noexcept nogil:
    return average(
        windows, count_include_pad, grad_x, NULL, <void *> grad_out, sizeof(floating), True,
        threads)


cdef int convert(
    const Windows *s, void *x, const Py_ssize_t *x_strides, void *cols, Py_ssize_t itemsize,
    bint back, int threads,
) noexcept nogil:
    """im2col, or `back`."""
    cdef Py_ssize_t rows, positions
    cdef View xv, cv
    cdef Axis h, w
    if s.ceil_mode or not check_windows(&h, &w, s, itemsize, threads):
        return BAD_ARGUMENT
    positions = h.out * w.out
    if not (countable(1, s.c, s.kh, s.kw, 1)
            and countable(itemsize, s.n, s.c * s.kh * s.kw, positions, 1)):
        return BAD_ARGUMENT
    if s.n == 0:
        return OK
    if x == NULL or cols == NULL:
        return BAD_ARGUMENT
    settle(&h)
    settle(&w)
    rows = s.c * s.kh * s.kw
    xv = laid_out(x, itemsize, s.n, s.c, s.h, s.w, x_strides)
    cv = laid_out(cols, itemsize, s.n, rows, positions, 1, NULL)
    threads = threads_for(<double> s.n * rows * positions, threads)
    if back:
        columns.col2im(&cv, &xv, &h, &w, threads)
    else:
        columns.im2col(&xv, &cv, &h, &w, threads)
    return OK


cdef int im2col(
    const Windows *windows, const floating *x, const Py_ssize_t *x_strides, floating *cols,
    int threads,
) noexcept nogil:
    return convert(windows, <void *> x, x_strides, cols, sizeof(floating), False, threads)


cdef int col2im(
    const Windows *windows, const floating *cols, floating *x, int threads,
) noexcept nogil:
    return convert(windows, x, NULL, <void *> cols, sizeof(floating), True, threads)

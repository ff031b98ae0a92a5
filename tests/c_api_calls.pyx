# cython: language_level=3, freethreading_compatible=True
"""slidedot.c_api by addresses, of float or double, for test_c_api.py: nothing is checked here."""

from cython cimport floating
from libc.stdint cimport int32_t, int64_t
from libc.stdlib cimport free, malloc

cimport slidedot.c_api as sd

VERSION, INSTALLED = sd.SLIDEDOT_C_API, sd.c_api_version()
STATUS = {"OK": sd.OK, "NO_MEMORY": sd.NO_MEMORY, "BAD_ARGUMENT": sd.BAD_ARGUMENT,
          "BAD_INDEX": sd.BAD_INDEX}
ALGORITHMS = {"auto": sd.AUTO, "direct": sd.DIRECT, "winograd": sd.WINOGRAD}

cdef extern from "<pthread.h>" nogil:
    ctypedef struct pthread_t:
        pass
    int pthread_create(pthread_t *, void *, void *(*)(void *) noexcept nogil, void *)
    int pthread_join(pthread_t, void **)


cdef struct Strides:
    Py_ssize_t of[4]


cdef Strides strides(object given) except *:
    cdef Strides s
    s.of[0], s.of[1], s.of[2], s.of[3] = given or (0, 0, 0, 0)
    return s


cdef sd.Conv2d conv(object numbers) except *:
    """From the sizes, and from a dictionary of what is no default."""
    cdef sd.Conv2d s
    sizes, others = numbers
    s = sd.conv2d_of(sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], sizes[5], sizes[6])
    s.stride_h, s.stride_w = others.get("stride", (1, 1))
    s.top, s.bottom, s.left, s.right = others.get("padding", (0, 0, 0, 0))
    s.dilation_h, s.dilation_w = others.get("dilation", (1, 1))
    s.groups = others.get("groups", 1)
    s.algorithm = others.get("algorithm", sd.AUTO)
    return s


cdef sd.ConvTranspose2d transposed(object numbers) except *:
    cdef sd.ConvTranspose2d s
    sizes, others = numbers
    s = sd.conv_transpose2d_of(
        sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], sizes[5], sizes[6])
    s.stride_h, s.stride_w = others.get("stride", (1, 1))
    s.top, s.bottom, s.left, s.right = others.get("padding", (0, 0, 0, 0))
    s.output_padding_h, s.output_padding_w = others.get("output_padding", (0, 0))
    s.dilation_h, s.dilation_w = others.get("dilation", (1, 1))
    s.groups = others.get("groups", 1)
    return s


cdef sd.Windows windows(object numbers) except *:
    cdef sd.Windows s
    sizes, others = numbers
    s = sd.windows_of(sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], sizes[5])
    s.stride_h, s.stride_w = others.get("stride", (1, 1))
    s.top, s.bottom, s.left, s.right = others.get("padding", (0, 0, 0, 0))
    s.dilation_h, s.dilation_w = others.get("dilation", (1, 1))
    s.ceil_mode = others.get("ceil_mode", False)
    return s


def conv2d_size(numbers):
    cdef sd.Conv2d s = conv(numbers)
    cdef Py_ssize_t oh = -1, ow = -1
    return sd.conv2d_size(&s, &oh, &ow), oh, ow


def conv_transpose2d_size(numbers):
    cdef sd.ConvTranspose2d s = transposed(numbers)
    cdef Py_ssize_t oh = -1, ow = -1
    return sd.conv_transpose2d_size(&s, &oh, &ow), oh, ow


def windows_size(numbers):
    cdef sd.Windows s = windows(numbers)
    cdef Py_ssize_t oh = -1, ow = -1
    return sd.windows_size(&s, &oh, &ow), oh, ow


def conv2d(numbers, bint double, size_t x, xs, size_t weight, ws, size_t bias, size_t y, bint relu,
           int threads):
    cdef sd.Conv2d s = conv(numbers)
    cdef Strides a = strides(xs), b = strides(ws)
    cdef Py_ssize_t *of_x = a.of if xs else NULL
    cdef Py_ssize_t *of_w = b.of if ws else NULL
    cdef int status
    with nogil:
        if double:
            status = sd.conv2d(&s, <const double *> x, of_x, <const double *> weight, of_w,
                               <const double *> bias, <double *> y, relu, threads)
        else:
            status = sd.conv2d(&s, <const float *> x, of_x, <const float *> weight, of_w,
                               <const float *> bias, <float *> y, relu, threads)
    return status


def conv2d_gradient_x(numbers, bint double, size_t g, gs, size_t weight, ws, size_t x, int threads):
    cdef sd.Conv2d s = conv(numbers)
    cdef Strides a = strides(gs), b = strides(ws)
    cdef Py_ssize_t *of_g = a.of if gs else NULL
    cdef Py_ssize_t *of_w = b.of if ws else NULL
    cdef int status
    with nogil:
        if double:
            status = sd.conv2d_gradient_x(&s, <const double *> g, of_g, <const double *> weight,
                                          of_w, <double *> x, threads)
        else:
            status = sd.conv2d_gradient_x(&s, <const float *> g, of_g, <const float *> weight, of_w,
                                          <float *> x, threads)
    return status


def conv2d_gradient_weight(numbers, bint double, size_t g, gs, size_t x, xs, size_t weight,
                           int threads):
    cdef sd.Conv2d s = conv(numbers)
    cdef Strides a = strides(gs), b = strides(xs)
    cdef Py_ssize_t *of_g = a.of if gs else NULL
    cdef Py_ssize_t *of_x = b.of if xs else NULL
    cdef int status
    with nogil:
        if double:
            status = sd.conv2d_gradient_weight(&s, <const double *> g, of_g, <const double *> x,
                                               of_x, <double *> weight, threads)
        else:
            status = sd.conv2d_gradient_weight(&s, <const float *> g, of_g, <const float *> x, of_x,
                                               <float *> weight, threads)
    return status


def conv2d_gradient_bias(numbers, bint double, size_t g, gs, size_t bias, int threads):
    cdef sd.Conv2d s = conv(numbers)
    cdef Strides a = strides(gs)
    cdef Py_ssize_t *of_g = a.of if gs else NULL
    cdef int status
    with nogil:
        if double:
            status = sd.conv2d_gradient_bias(&s, <const double *> g, of_g, <double *> bias, threads)
        else:
            status = sd.conv2d_gradient_bias(&s, <const float *> g, of_g, <float *> bias, threads)
    return status


def conv_transpose2d(numbers, bint double, size_t x, xs, size_t weight, ws, size_t bias, size_t y,
                     int threads):
    cdef sd.ConvTranspose2d s = transposed(numbers)
    cdef Strides a = strides(xs), b = strides(ws)
    cdef Py_ssize_t *of_x = a.of if xs else NULL
    cdef Py_ssize_t *of_w = b.of if ws else NULL
    cdef int status
    with nogil:
        if double:
            status = sd.conv_transpose2d(&s, <const double *> x, of_x, <const double *> weight,
                                         of_w, <const double *> bias, <double *> y, threads)
        else:
            status = sd.conv_transpose2d(&s, <const float *> x, of_x, <const float *> weight, of_w,
                                         <const float *> bias, <float *> y, threads)
    return status


def max_pool2d(numbers, bint double, size_t x, xs, size_t y, size_t argmax, bint wide, int threads):
    cdef sd.Windows s = windows(numbers)
    cdef Strides a = strides(xs)
    cdef Py_ssize_t *of_x = a.of if xs else NULL
    cdef int status
    with nogil:
        if double and wide:
            status = sd.max_pool2d(&s, <const double *> x, of_x, <double *> y, <int64_t *> argmax,
                                   threads)
        elif double:
            status = sd.max_pool2d(&s, <const double *> x, of_x, <double *> y, <int32_t *> argmax,
                                   threads)
        elif wide:
            status = sd.max_pool2d(&s, <const float *> x, of_x, <float *> y, <int64_t *> argmax,
                                   threads)
        else:
            status = sd.max_pool2d(&s, <const float *> x, of_x, <float *> y, <int32_t *> argmax,
                                   threads)
    return status


cdef int to_places(
    bint add, sd.Windows *s, const floating *values, const sd.index_t *argmax, floating *x,
    int threads,
) noexcept nogil:
    if add:
        return sd.max_pool2d_backward(s, values, argmax, x, threads)
    return sd.max_unpool2d(s, values, argmax, x, threads)


cdef int put(
    bint add, numbers, bint double, size_t values, size_t argmax, size_t x, bint wide, int threads
) except *:
    cdef sd.Windows s = windows(numbers)
    cdef int status
    with nogil:
        if double and wide:
            status = to_places(add, &s, <const double *> values, <const int64_t *> argmax,
                               <double *> x, threads)
        elif double:
            status = to_places(add, &s, <const double *> values, <const int32_t *> argmax,
                               <double *> x, threads)
        elif wide:
            status = to_places(add, &s, <const float *> values, <const int64_t *> argmax,
                               <float *> x, threads)
        else:
            status = to_places(add, &s, <const float *> values, <const int32_t *> argmax,
                               <float *> x, threads)
    return status


def max_pool2d_backward(numbers, bint double, size_t g, size_t argmax, size_t x, bint wide,
                        int threads):
    return put(True, numbers, double, g, argmax, x, wide, threads)


def max_unpool2d(numbers, bint double, size_t y, size_t argmax, size_t x, bint wide, int threads):
    return put(False, numbers, double, y, argmax, x, wide, threads)


def avg_pool2d(numbers, bint double, bint counted, size_t x, xs, size_t y, int threads):
    cdef sd.Windows s = windows(numbers)
    cdef Strides a = strides(xs)
    cdef Py_ssize_t *of_x = a.of if xs else NULL
    cdef int status
    with nogil:
        if double:
            status = sd.avg_pool2d(&s, counted, <const double *> x, of_x, <double *> y, threads)
        else:
            status = sd.avg_pool2d(&s, counted, <const float *> x, of_x, <float *> y, threads)
    return status


def avg_pool2d_backward(numbers, bint double, bint counted, size_t g, size_t x, int threads):
    cdef sd.Windows s = windows(numbers)
    cdef int status
    with nogil:
        if double:
            status = sd.avg_pool2d_backward(&s, counted, <const double *> g, <double *> x, threads)
        else:
            status = sd.avg_pool2d_backward(&s, counted, <const float *> g, <float *> x, threads)
    return status


def im2col(numbers, bint double, size_t x, xs, size_t cols, int threads):
    cdef sd.Windows s = windows(numbers)
    cdef Strides a = strides(xs)
    cdef Py_ssize_t *of_x = a.of if xs else NULL
    cdef int status
    with nogil:
        if double:
            status = sd.im2col(&s, <const double *> x, of_x, <double *> cols, threads)
        else:
            status = sd.im2col(&s, <const float *> x, of_x, <float *> cols, threads)
    return status


def col2im(numbers, bint double, size_t cols, size_t x, int threads):
    cdef sd.Windows s = windows(numbers)
    cdef int status
    with nogil:
        if double:
            status = sd.col2im(&s, <const double *> cols, <double *> x, threads)
        else:
            status = sd.col2im(&s, <const float *> cols, <float *> x, threads)
    return status


cdef struct Task:
    sd.Conv2d layer
    const float *x
    const float *weight
    float *y
    int threads, status


cdef void *run(void *task) noexcept nogil:
    cdef Task *t = <Task *> task
    t.status = sd.conv2d(&t.layer, t.x, NULL, t.weight, NULL, NULL, t.y, False, t.threads)
    return NULL


def conv2d_in_c_threads(numbers, size_t x, size_t weight, size_t y, Py_ssize_t step, int count,
                        int threads):
    """The same float convolution in `count` threads that Python does not know of, each with
    results of its own, `step` elements apart."""
    cdef pthread_t *ids = <pthread_t *> malloc(count * sizeof(pthread_t))
    cdef Task *tasks = <Task *> malloc(count * sizeof(Task))
    cdef int i, started = 0
    for i in range(count):
        tasks[i].layer, tasks[i].threads, tasks[i].status = conv(numbers), threads, -1
        tasks[i].x, tasks[i].weight = <const float *> x, <const float *> weight
        tasks[i].y = <float *> y + i * step
    with nogil:
        while started < count and pthread_create(&ids[started], NULL, run, &tasks[started]) == 0:
            started += 1
        for i in range(started):
            pthread_join(ids[i], NULL)
    statuses = [tasks[i].status for i in range(started)]
    free(tasks)
    free(ids)
    return statuses

# What the public functions hand over: arrays as pointer, sizes and strides in elements; an axis of
# windows as plain integers. The Python side has checked everything.
from cpython.buffer cimport PyBUF_STRIDES, PyBuffer_Release, PyObject_GetBuffer
from libc.string cimport memset


cdef struct View:
    char *data
    Py_ssize_t size[4]
    Py_ssize_t stride[4]
    Py_ssize_t itemsize


cdef inline View view(object array) except *:
    """The caller holds the array, so its memory outlives the released buffer."""
    cdef Py_buffer buffer
    cdef View v
    cdef int i
    memset(&v, 0, sizeof(v))
    if array is None:
        return v
    PyObject_GetBuffer(array, &buffer, PyBUF_STRIDES)
    v.data = <char *> buffer.buf
    v.itemsize = buffer.itemsize
    for i in range(min(buffer.ndim, 4)):
        v.size[i] = buffer.shape[i]
        v.stride[i] = buffer.strides[i] // buffer.itemsize
    PyBuffer_Release(&buffer)
    return v


cdef struct Extent:  # an array's addresses
    Py_ssize_t begin, end


cdef inline Extent extent_of(const View *v) noexcept nogil:
    cdef Extent extent
    cdef Py_ssize_t last
    cdef int i
    extent.begin = <Py_ssize_t> v.data
    extent.end = extent.begin + v.itemsize
    for i in range(4):
        last = (v.size[i] - 1) * v.stride[i] * v.itemsize
        if last < 0:
            extent.begin += last
        else:
            extent.end += last
    return extent


cdef struct Axis:  # slidedot.geometry.Axis
    Py_ssize_t size, kernel, stride, dilation, before, out
    Py_ssize_t given_stride  # for what must not depend on `out`


cdef inline void settle(Axis *a) noexcept nogil:
    """A step that is never taken may be huge: it becomes 1."""
    a.given_stride = a.stride
    if a.out == 1:
        a.stride = 1
    if a.kernel == 1:
        a.dilation = 1


cdef inline Axis axis(object windows) except *:
    cdef Axis a
    a.size, a.kernel, a.stride, a.dilation, a.before, _, a.out = windows
    settle(&a)
    return a

# The padded row: pixels first, first + step, first + 2 step, ... of an input row of any stride,
# with what lies outside the row filled in. A row of stride s is staged as s such rows, its phases,
# and then every tap of every window is a contiguous run.
from cython cimport floating

from simd cimport add_evens, add_run, copy_evens, copy_run, fill_run, put_evens
from views cimport Axis


cdef inline Py_ssize_t reach_of(const Axis *a) noexcept nogil:
    """How many elements of its phase lie between a window's first tap and its last."""
    return (a.kernel - 1) * a.dilation // a.stride


cdef inline bint far_apart(const Axis *a) noexcept nogil:
    """Taps so far apart that their phases would mostly hold what lies between them: each tap gets a
    row of its own instead."""
    return reach_of(a) > 4 * a.kernel


cdef inline Py_ssize_t phases_of(const Axis *a) noexcept nogil:
    """How many phases hold a tap: taps j and j + stride / gcd(stride, dilation) share one."""
    cdef Py_ssize_t u = a.stride, v = a.dilation
    while v:
        u, v = v, u % v
    return min(a.stride // u, a.kernel)


cdef inline Py_ssize_t first_inside(Py_ssize_t first, Py_ssize_t step) noexcept nogil:
    """The smallest j >= 0 with first + j * step >= 0."""
    if first >= 0:
        return 0
    return -first if step == 1 else (-first - 1) // step + 1  # dividing costs more than a short row


cdef inline Py_ssize_t count_inside(
    Py_ssize_t first, Py_ssize_t step, Py_ssize_t size, Py_ssize_t count
) noexcept nogil:
    """How many j in [0, count) have first + j * step < size."""
    if first >= size:
        return 0
    return min(size - first if step == 1 else (size - first - 1) // step + 1, count)


cdef inline void take(
    floating *row, Py_ssize_t count, const floating *pixels, Py_ssize_t jump
) noexcept nogil:
    """row[j] = pixels[j * jump]"""
    cdef Py_ssize_t j
    if jump == 1:
        copy_run(row, pixels, count)
    elif jump == 2:
        copy_evens(row, pixels, count)
    else:
        for j in range(count):
            row[j] = pixels[j * jump]


cdef inline void put_run(
    floating *to, Py_ssize_t step, const floating *values, Py_ssize_t count
) noexcept nogil:
    """to[i * step] = values[i]"""
    cdef Py_ssize_t i
    if step == 1:
        copy_run(to, values, count)
    elif step == 2:
        put_evens(to, values, count)
    else:
        for i in range(count):
            to[i * step] = values[i]


cdef inline void give(
    floating *pixels, Py_ssize_t step, const floating *row, Py_ssize_t jump, Py_ssize_t count
) noexcept nogil:
    """pixels[j * step] += row[j * jump]"""
    cdef Py_ssize_t j
    if step == 1 and jump == 1:
        add_run(pixels, row, count)
    elif step == 2 and jump == 1:
        add_evens(pixels, row, count)
    else:
        for j in range(count):
            pixels[j * step] += row[j * jump]


cdef inline void fill_inside(
    floating *row, Py_ssize_t count, const floating *pixels, Py_ssize_t jump, Py_ssize_t low,
    Py_ssize_t high, floating outside,
) noexcept nogil:
    """row[j] = pixels[j * jump] for low <= j < high, `outside` elsewhere."""
    fill_run(row, outside, low)
    take(row + low, high - low, pixels + low * jump, jump)
    fill_run(row + high, outside, count - high)


cdef inline void fill_row(
    floating *row, Py_ssize_t count, const floating *pixels, Py_ssize_t stride, Py_ssize_t size,
    Py_ssize_t first, Py_ssize_t step, floating outside,
) noexcept nogil:
    """row[j] = pixels[first + j * step], or `outside`."""
    cdef Py_ssize_t high = count_inside(first, step, size, count)
    fill_inside(row, count, pixels + first * stride, step * stride,
                min(first_inside(first, step), high), high, outside)

# The kernels for Cython and C: `from slidedot.c_api cimport conv2d_of, conv2d, ...`. Nothing here
# needs the GIL or touches a Python object, and any number of threads may call at a time.
# docs/frameworks.md has a complete example, and says what holds and what does not.
#
# Arrays are pointers to float or double, one type per call. Inputs have strides, in elements, or
# NULL where they are C-contiguous; results are C-contiguous, share no memory with an input, and
# are written whole. Sizes and steps are checked; that the pointers hold what the sizes say is up
# to the caller. `threads` is the most that a call may use, from 1 to 256; bits do not depend on it.
from cython cimport floating
from libc.stdint cimport int32_t, int64_t

ctypedef fused index_t:
    int32_t
    int64_t


cdef enum:
    SLIDEDOT_C_API = 1  # counts up when what is declared here changes, not when it grows


cdef int c_api_version() noexcept nogil  # SLIDEDOT_C_API of the installed package


cdef enum:  # what each function returns; where it is not OK, no result has been written
    OK = 0
    NO_MEMORY = 1     # none for the workspace
    BAD_ARGUMENT = 2  # a size or step out of range, windows that do not fit, a NULL pointer
    BAD_INDEX = 3     # a stored place that is not in its plane


cdef enum:
    AUTO = 0      # by the layer's shape, as slidedot.conv2d
    DIRECT = 1
    WINOGRAD = 2  # 3x3 filters, stride and dilation 1, float


cdef struct Conv2d:  # x (n, c, h, w) * weight (k, c / groups, kh, kw) -> y (n, k, oh, ow)
    Py_ssize_t n, c, h, w                # n may be 0
    Py_ssize_t k, kh, kw
    Py_ssize_t stride_h, stride_w
    Py_ssize_t top, bottom, left, right  # zeros around the image
    Py_ssize_t dilation_h, dilation_w
    Py_ssize_t groups
    int algorithm


cdef inline Conv2d conv2d_of(
    Py_ssize_t n, Py_ssize_t c, Py_ssize_t h, Py_ssize_t w, Py_ssize_t k, Py_ssize_t kh,
    Py_ssize_t kw,
) noexcept nogil:
    """Stride and dilation 1, no padding, one group, AUTO: set what is otherwise."""
    cdef Conv2d layer
    layer.n, layer.c, layer.h, layer.w = n, c, h, w
    layer.k, layer.kh, layer.kw = k, kh, kw
    layer.stride_h = layer.stride_w = layer.dilation_h = layer.dilation_w = layer.groups = 1
    layer.top = layer.bottom = layer.left = layer.right = 0
    layer.algorithm = AUTO
    return layer


cdef struct ConvTranspose2d:  # x (n, c, h, w) -> y (n, k, oh, ow), weight (c, k / groups, kh, kw)
    Py_ssize_t n, c, h, w                # n may be 0
    Py_ssize_t k, kh, kw
    Py_ssize_t stride_h, stride_w
    Py_ssize_t top, bottom, left, right  # rows and columns that are cut from the result
    Py_ssize_t output_padding_h, output_padding_w  # less than the stride or the dilation
    Py_ssize_t dilation_h, dilation_w
    Py_ssize_t groups


cdef inline ConvTranspose2d conv_transpose2d_of(
    Py_ssize_t n, Py_ssize_t c, Py_ssize_t h, Py_ssize_t w, Py_ssize_t k, Py_ssize_t kh,
    Py_ssize_t kw,
) noexcept nogil:
    """Stride and dilation 1, no padding, one group: set what is otherwise."""
    cdef ConvTranspose2d layer
    layer.n, layer.c, layer.h, layer.w = n, c, h, w
    layer.k, layer.kh, layer.kw = k, kh, kw
    layer.stride_h = layer.stride_w = layer.dilation_h = layer.dilation_w = layer.groups = 1
    layer.top = layer.bottom = layer.left = layer.right = 0
    layer.output_padding_h = layer.output_padding_w = 0
    return layer


cdef struct Windows:  # of kh x kw taps over x (n, c, h, w), oh x ow of them: pooling and columns
    Py_ssize_t n, c, h, w                # n may be 0
    Py_ssize_t kh, kw
    Py_ssize_t stride_h, stride_w
    Py_ssize_t top, bottom, left, right
    Py_ssize_t dilation_h, dilation_w
    bint ceil_mode  # pooling only: a last window may hang over the end, if it starts inside


cdef inline Windows windows_of(
    Py_ssize_t n, Py_ssize_t c, Py_ssize_t h, Py_ssize_t w, Py_ssize_t kh, Py_ssize_t kw
) noexcept nogil:
    """Stride and dilation 1, no padding: set what is otherwise."""
    cdef Windows windows
    windows.n, windows.c, windows.h, windows.w = n, c, h, w
    windows.kh, windows.kw = kh, kw
    windows.stride_h = windows.stride_w = windows.dilation_h = windows.dilation_w = 1
    windows.top = windows.bottom = windows.left = windows.right = 0
    windows.ceil_mode = False
    return windows


# The output's height and width.
cdef int conv2d_size(const Conv2d *layer, Py_ssize_t *oh, Py_ssize_t *ow) noexcept nogil
cdef int conv_transpose2d_size(
    const ConvTranspose2d *layer, Py_ssize_t *oh, Py_ssize_t *ow) noexcept nogil
cdef int windows_size(const Windows *windows, Py_ssize_t *oh, Py_ssize_t *ow) noexcept nogil

# slidedot.conv2d; `bias` (k) may be NULL. With `relu` y = max(y, 0).
cdef int conv2d(
    const Conv2d *layer, const floating *x, const Py_ssize_t *x_strides, const floating *weight,
    const Py_ssize_t *weight_strides, const floating *bias, floating *y, bint relu, int threads,
) noexcept nogil

# slidedot.conv2d_backward, gradient by gradient: grad_out (n, k, oh, ow) -> grad_x (n, c, h, w),
# grad_weight (k, c / groups, kh, kw), grad_bias (k).
cdef int conv2d_gradient_x(
    const Conv2d *layer, const floating *grad_out, const Py_ssize_t *grad_out_strides,
    const floating *weight, const Py_ssize_t *weight_strides, floating *grad_x, int threads,
) noexcept nogil
cdef int conv2d_gradient_weight(
    const Conv2d *layer, const floating *grad_out, const Py_ssize_t *grad_out_strides,
    const floating *x, const Py_ssize_t *x_strides, floating *grad_weight, int threads,
) noexcept nogil
cdef int conv2d_gradient_bias(
    const Conv2d *layer, const floating *grad_out, const Py_ssize_t *grad_out_strides,
    floating *grad_bias, int threads,
) noexcept nogil

# slidedot.conv_transpose2d; `bias` (k) may be NULL. Its gradients are a convolution's.
cdef int conv_transpose2d(
    const ConvTranspose2d *layer, const floating *x, const Py_ssize_t *x_strides,
    const floating *weight, const Py_ssize_t *weight_strides, const floating *bias, floating *y,
    int threads,
) noexcept nogil

# slidedot.max_pool2d: x -> y and argmax (n, c, oh, ow), the latter h * w + w of each maximum;
# `<int32_t *> NULL` where it is not wanted. Planes of more than 2**31 - 1 pixels need int64_t.
cdef int max_pool2d(
    const Windows *windows, const floating *x, const Py_ssize_t *x_strides, floating *y,
    index_t *argmax, int threads,
) noexcept nogil

# slidedot.max_pool2d_backward: contiguous grad_out and argmax (n, c, oh, ow) -> grad_x.
cdef int max_pool2d_backward(
    const Windows *windows, const floating *grad_out, const index_t *argmax, floating *grad_x,
    int threads,
) noexcept nogil

# slidedot.max_unpool2d: contiguous y and argmax (n, c, oh, ow) -> x; its gradient is grad_x[argmax].
cdef int max_unpool2d(
    const Windows *windows, const floating *y, const index_t *argmax, floating *x, int threads,
) noexcept nogil

# slidedot.avg_pool2d: x -> y (n, c, oh, ow), dilation 1; with `count_include_pad` padding counts
# among a window's pixels. And slidedot.avg_pool2d_backward: contiguous grad_out -> grad_x.
cdef int avg_pool2d(
    const Windows *windows, bint count_include_pad, const floating *x,
    const Py_ssize_t *x_strides, floating *y, int threads,
) noexcept nogil
cdef int avg_pool2d_backward(
    const Windows *windows, bint count_include_pad, const floating *grad_out, floating *grad_x,
    int threads,
) noexcept nogil

# slidedot.im2col: x -> cols (n, c * kh * kw, oh * ow); and slidedot.col2im: contiguous cols -> x.
cdef int im2col(
    const Windows *windows, const floating *x, const Py_ssize_t *x_strides, floating *cols,
    int threads,
) noexcept nogil
cdef int col2im(
    const Windows *windows, const floating *cols, floating *x, int threads,
) noexcept nogil

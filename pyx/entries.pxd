# What a kernel module offers to C: the functions that its `def`s call as well. The API for C takes
# them from the modules of the CPU level in use.
from views cimport Axis, View

ctypedef bint (*forward_entry)(
    View *x, View *weight, View *packed, View *bias, View *y, Axis *h, Axis *w, Py_ssize_t groups,
    bint relu, int threads) noexcept nogil
ctypedef bint (*gradient_x_entry)(
    View *grad_out, View *weight, View *bias, View *x, Axis *h, Axis *w, Py_ssize_t groups,
    int threads) noexcept nogil
ctypedef bint (*gradient_weight_entry)(
    View *grad_out, View *x, View *weight, Axis *h, Axis *w, Py_ssize_t groups, int threads,
) noexcept nogil


cdef struct ConvolutionEntries:  # of convolution, winograd and depthwise
    forward_entry forward
    gradient_x_entry gradient_x
    gradient_weight_entry gradient_weight
    void (*gradient_bias)(View *grad_out, View *bias, int threads) noexcept nogil  # NULL but in one


cdef struct ColumnsEntries:
    void (*im2col)(View *x, View *cols, Axis *h, Axis *w, int threads) noexcept nogil
    void (*col2im)(View *cols, View *x, Axis *h, Axis *w, int threads) noexcept nogil


cdef struct PoolingEntries:
    bint (*max_forward)(
        View *x, View *y, View *argmax, Axis *h, Axis *w, int threads) noexcept nogil
    void (*max_backward)(View *grad_out, View *argmax, View *x, int threads) noexcept nogil
    void (*unpool)(View *y, View *argmax, View *x, int threads) noexcept nogil
    # `ends`: a window's size counts, of rows, what lies from ends[0] to ends[1], of columns from
    # ends[2] to ends[3]
    bint (*avg_forward)(
        View *x, View *y, Axis *h, Axis *w, const Py_ssize_t *ends, int threads) noexcept nogil
    bint (*avg_backward)(
        View *grad_out, View *x, Axis *h, Axis *w, const Py_ssize_t *ends, int threads,
    ) noexcept nogil

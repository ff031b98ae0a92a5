# cython: language_level=3, boundscheck=False, wraparound=False, freethreading_compatible=True
"""A layer on slidedot's C API: convolution, ReLU and max pooling, without the GIL.

Both passes are one `nogil` block each, so that Python threads compute side by side, each with a
`Block` of its own: `backward` reads what the last `forward` kept.
"""

from libc.stdint cimport int32_t

cimport slidedot.c_api as sd

import numpy as np

if sd.c_api_version() != sd.SLIDEDOT_C_API:
    raise ImportError("built for another version of slidedot's C API")


cdef int check(int status) except -1:
    if status == sd.NO_MEMORY:
        raise MemoryError("no memory for the workspace")
    if status == sd.BAD_INDEX:
        raise IndexError("a stored index is outside its plane")
    if status != sd.OK:
        raise ValueError("the layer does not fit the images")
    return 0


cdef class Block:
    """y = max_pool2d(relu(conv2d(x, weight, bias, padding=1)), 2), in float32."""

    cdef readonly object weight, bias, grads
    cdef float[:, :, :, ::1] w, x, seen
    cdef float[::1] b
    cdef int32_t[:, :, :, ::1] argmax
    cdef sd.Conv2d conv
    cdef sd.Windows pool
    cdef int threads

    def __init__(self, weight, bias, int threads=1):
        self.weight, self.bias, self.threads = weight, bias, threads
        self.w, self.b = weight, bias

    def forward(self, float[:, :, :, ::1] x not None):
        """x (N, C, H, W) -> (N, K, H / 2, W / 2); keeps what `backward` needs."""
        cdef Py_ssize_t oh, ow
        cdef int status
        self.conv = sd.conv2d_of(x.shape[0], x.shape[1], x.shape[2], x.shape[3],
                                 self.w.shape[0], self.w.shape[2], self.w.shape[3])
        self.conv.top = self.conv.bottom = self.conv.left = self.conv.right = 1
        if x.shape[1] != self.w.shape[1]:  # the one thing here that no number in `conv` says
            raise ValueError(f"the weight has {self.w.shape[1]} channels, x has {x.shape[1]}")
        check(sd.conv2d_size(&self.conv, &oh, &ow))
        self.pool = sd.windows_of(x.shape[0], self.w.shape[0], oh, ow, 2, 2)
        self.pool.stride_h = self.pool.stride_w = 2
        self.seen = np.empty((x.shape[0], self.w.shape[0], oh, ow), np.float32)
        check(sd.windows_size(&self.pool, &oh, &ow))
        y = np.empty((x.shape[0], self.w.shape[0], oh, ow), np.float32)
        self.argmax = np.empty(y.shape, np.int32)
        self.x = x
        cdef float[:, :, :, ::1] pooled = y
        with nogil:
            status = sd.conv2d(&self.conv, &x[0, 0, 0, 0], NULL, &self.w[0, 0, 0, 0], NULL,
                               &self.b[0], &self.seen[0, 0, 0, 0], True, self.threads)
            if status == sd.OK:
                status = sd.max_pool2d(&self.pool, &self.seen[0, 0, 0, 0], NULL,
                                       &pooled[0, 0, 0, 0], &self.argmax[0, 0, 0, 0], self.threads)
        check(status)
        return y

    def backward(self, float[:, :, :, ::1] grad_out not None):
        """Return the gradient for x; those for weight and bias are then in `grads`."""
        cdef int status
        cdef Py_ssize_t i, count = self.seen.size
        if np.shape(grad_out) != np.shape(self.argmax):
            raise ValueError(f"grad_out must have shape {np.shape(self.argmax)}")
        grad_x = np.empty_like(self.x)
        self.grads = np.empty_like(self.weight), np.empty_like(self.bias)
        cdef float[:, :, :, ::1] grad = np.empty_like(self.seen)
        cdef float[:, :, :, ::1] for_x = grad_x
        cdef float[:, :, :, ::1] for_weight = self.grads[0]
        cdef float[::1] for_bias = self.grads[1]
        cdef float *g = &grad[0, 0, 0, 0]
        cdef float *y = &self.seen[0, 0, 0, 0]
        with nogil:
            status = sd.max_pool2d_backward(&self.pool, &grad_out[0, 0, 0, 0],
                                            &self.argmax[0, 0, 0, 0], g, self.threads)
            for i in range(count):  # through the ReLU
                if y[i] <= 0:
                    g[i] = 0
            if status == sd.OK:
                status = sd.conv2d_gradient_x(&self.conv, g, NULL, &self.w[0, 0, 0, 0], NULL,
                                              &for_x[0, 0, 0, 0], self.threads)
            if status == sd.OK:
                status = sd.conv2d_gradient_weight(&self.conv, g, NULL, &self.x[0, 0, 0, 0], NULL,
                                                   &for_weight[0, 0, 0, 0], self.threads)
            if status == sd.OK:
                status = sd.conv2d_gradient_bias(&self.conv, g, NULL, &for_bias[0], self.threads)
        check(status)
        return grad_x

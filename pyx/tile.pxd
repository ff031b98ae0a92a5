# The register tile of simd.h, for both dtypes, and its sizes.
from cython cimport floating


cdef extern from "simd.h" nogil:
    enum: SD_VECTOR_BYTES
    enum: SD_MAX_ROWS
    enum: SD_MAX_VECTORS
    Py_ssize_t SD_VECTORS(Py_ssize_t rows)
    enum: SD_DOT_ROWS
    enum: SD_DOT_TAPS
    void sd_tile_float_dot(
        int rows, int taps, Py_ssize_t pixels, const float *a, Py_ssize_t lda, const float *b,
        const Py_ssize_t *off, float *c, Py_ssize_t ldc, int add)
    void sd_tile_double_dot(
        int rows, int taps, Py_ssize_t pixels, const double *a, Py_ssize_t lda, const double *b,
        const Py_ssize_t *off, double *c, Py_ssize_t ldc, int add)
    void sd_tile_float(
        int rows, int vectors, Py_ssize_t terms, const float *a, const float *b,
        const Py_ssize_t *off, float *c, Py_ssize_t ldc, const float *add, Py_ssize_t lda,
        const float *bias, int relu)
    void sd_tile_double(
        int rows, int vectors, Py_ssize_t terms, const double *a, const double *b,
        const Py_ssize_t *off, double *c, Py_ssize_t ldc, const double *add, Py_ssize_t lda,
        const double *bias, int relu)


cdef inline void tile(
    Py_ssize_t rows, Py_ssize_t vectors, Py_ssize_t terms, const floating *a, const floating *b,
    const Py_ssize_t *off, floating *c, Py_ssize_t ldc, const floating *add, Py_ssize_t lda,
    const floating *bias, bint relu,
) noexcept nogil:
    """c[i][lane] = sum over k < terms of a[k][i] * b[off[k] + lane], then as the flags say."""
    if floating is float:
        sd_tile_float(<int> rows, <int> vectors, terms, a, b, off, c, ldc, add, lda,
                      bias, relu)
    else:
        sd_tile_double(<int> rows, <int> vectors, terms, a, b, off, c, ldc, add, lda,
                       bias, relu)


cdef inline void dot_tile(
    Py_ssize_t rows, Py_ssize_t taps, Py_ssize_t pixels, const floating *a, Py_ssize_t lda,
    const floating *b, const Py_ssize_t *off, floating *c, Py_ssize_t ldc, bint add,
) noexcept nogil:
    """c[i][t] = sum over p < pixels of a[i * lda + p] * b[off[t] + p]; added to c if `add`."""
    if floating is float:
        sd_tile_float_dot(<int> rows, <int> taps, pixels, a, lda, b, off, c, ldc, add)
    else:
        sd_tile_double_dot(<int> rows, <int> taps, pixels, a, lda, b, off, c, ldc, add)

# The register tile of simd.h, for both dtypes, and its sizes.
from cython cimport floating


cdef extern from "simd.h" nogil:
    enum: SD_VECTOR_BYTES
    enum: SD_MAX_ROWS
    enum: SD_MAX_VECTORS
    Py_ssize_t SD_VECTORS(Py_ssize_t rows)
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

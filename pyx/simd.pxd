# What simd.h has, for both dtypes: the tiles and their sizes, and runs of whole vectors.
from cython cimport floating


cdef extern from "simd.h" nogil:
    enum: SD_VECTOR_BYTES
    enum: SD_MAX_ROWS
    enum: SD_MAX_VECTORS
    Py_ssize_t SD_VECTORS(Py_ssize_t rows)
    void sd_float_copy(float *to, const float *values, Py_ssize_t count)
    void sd_double_copy(double *to, const double *values, Py_ssize_t count)
    void sd_float_fill(float *to, float value, Py_ssize_t count)
    void sd_double_fill(double *to, double value, Py_ssize_t count)
    void sd_float_evens(float *to, const float *values, Py_ssize_t count)
    void sd_double_evens(double *to, const double *values, Py_ssize_t count)
    enum: SD_PEAK_VECTORS
    float sd_float_peak(Py_ssize_t rounds, float factor, float term)
    double sd_double_peak(Py_ssize_t rounds, double factor, double term)
    enum: SD_DOT_ROWS
    enum: SD_DOT_TAPS
    void sd_float_dot(
        int rows, int taps, Py_ssize_t pixels, const float *a, Py_ssize_t lda, const float *b,
        const Py_ssize_t *off, float *c, Py_ssize_t ldc, int add)
    void sd_double_dot(
        int rows, int taps, Py_ssize_t pixels, const double *a, Py_ssize_t lda, const double *b,
        const Py_ssize_t *off, double *c, Py_ssize_t ldc, int add)
    void sd_float(
        int rows, int vectors, Py_ssize_t terms, const float *a, const float *b,
        const Py_ssize_t *off, float *c, Py_ssize_t ldc, const float *add, Py_ssize_t lda,
        const float *bias, int relu)
    void sd_double(
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
        sd_float(<int> rows, <int> vectors, terms, a, b, off, c, ldc, add, lda, bias, relu)
    else:
        sd_double(<int> rows, <int> vectors, terms, a, b, off, c, ldc, add, lda, bias, relu)


cdef inline void dot_tile(
    Py_ssize_t rows, Py_ssize_t taps, Py_ssize_t pixels, const floating *a, Py_ssize_t lda,
    const floating *b, const Py_ssize_t *off, floating *c, Py_ssize_t ldc, bint add,
) noexcept nogil:
    """c[i][t] = sum over p < pixels of a[i * lda + p] * b[off[t] + p]; added to c if `add`."""
    if floating is float:
        sd_float_dot(<int> rows, <int> taps, pixels, a, lda, b, off, c, ldc, add)
    else:
        sd_double_dot(<int> rows, <int> taps, pixels, a, lda, b, off, c, ldc, add)


cdef inline void copy_run(floating *to, const floating *values, Py_ssize_t count) noexcept nogil:
    """to[i] = values[i]"""
    if floating is float:
        sd_float_copy(to, values, count)
    else:
        sd_double_copy(to, values, count)


cdef inline void fill_run(floating *to, floating value, Py_ssize_t count) noexcept nogil:
    """to[i] = value"""
    if floating is float:
        sd_float_fill(to, value, count)
    else:
        sd_double_fill(to, value, count)


cdef inline void copy_evens(floating *to, const floating *values, Py_ssize_t count) noexcept nogil:
    """to[i] = values[2 * i]"""
    if floating is float:
        sd_float_evens(to, values, count)
    else:
        sd_double_evens(to, values, count)


cdef inline floating multiply_adds(
    Py_ssize_t rounds, floating factor, floating term
) noexcept nogil:
    """SD_PEAK_VECTORS independent vectors, each `rounds` times: v = v * factor + term."""
    if floating is float:
        return sd_float_peak(rounds, factor, term)
    else:
        return sd_double_peak(rounds, factor, term)

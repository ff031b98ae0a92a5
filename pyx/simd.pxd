# What simd.h has, for both dtypes: the tiles and their sizes, and runs of whole vectors.
from cython cimport floating


cdef extern from "simd.h" nogil:
    enum: SD_VECTOR_BYTES
    enum: SD_MAX_ROWS
    enum: SD_MAX_VECTORS
    enum: SD_VECTORS_WIDEST
    enum: SD_DOT_ROWS
    enum: SD_DOT_COLUMNS
    Py_ssize_t SD_VECTORS(Py_ssize_t rows)
    void sd_float_copy(float *to, const float *values, Py_ssize_t count)
    void sd_double_copy(double *to, const double *values, Py_ssize_t count)
    void sd_float_fill(float *to, float value, Py_ssize_t count)
    void sd_double_fill(double *to, double value, Py_ssize_t count)
    void sd_prefetch(const void *memory, Py_ssize_t bytes)
    enum: SD_PEAK_VECTORS
    float sd_float_peak(Py_ssize_t rounds, float factor, float term)
    double sd_double_peak(Py_ssize_t rounds, double factor, double term)
    void sd_float_transpose(
        float *to, Py_ssize_t width, const float *values, Py_ssize_t stride, Py_ssize_t rows,
        Py_ssize_t count)
    float sd_float_total(const float *values, Py_ssize_t count)
    void sd_double_transpose(
        double *to, Py_ssize_t width, const double *values, Py_ssize_t stride, Py_ssize_t rows,
        Py_ssize_t count)
    double sd_double_total(const double *values, Py_ssize_t count)
    void sd_float_stage(
        float *strip, Py_ssize_t width, const float *b, const Py_ssize_t *off, Py_ssize_t terms,
        const Py_ssize_t *to, const Py_ssize_t *source, Py_ssize_t moves)
    void sd_float(
        int rows, int vectors, Py_ssize_t terms, const float *a, const Py_ssize_t *row,
        const Py_ssize_t *index, const float *b, const Py_ssize_t *off, float *c, Py_ssize_t ldc,
        const float *add, Py_ssize_t lda, const float *bias, int relu)
    void sd_float_runs(
        int run, int runs, int vectors, Py_ssize_t terms, const float *a, const Py_ssize_t *row,
        const Py_ssize_t *index, const float *b, Py_ssize_t ldb, float *c, Py_ssize_t ldc,
        const float *add, Py_ssize_t lda, const float *bias, int relu)
    void sd_double_runs(
        int run, int runs, int vectors, Py_ssize_t terms, const double *a, const Py_ssize_t *row,
        const Py_ssize_t *index, const double *b, Py_ssize_t ldb, double *c, Py_ssize_t ldc,
        const double *add, Py_ssize_t lda, const double *bias, int relu)
    void sd_float_dot(
        int rows, int columns, Py_ssize_t vectors, const float *a, Py_ssize_t lda, const float *b,
        const Py_ssize_t *off, const float *inside, float *sums, Py_ssize_t lds)
    void sd_double_dot(
        int rows, int columns, Py_ssize_t vectors, const double *a, Py_ssize_t lda, const double *b,
        const Py_ssize_t *off, const double *inside, double *sums, Py_ssize_t lds)
    void sd_double_stage(
        double *strip, Py_ssize_t width, const double *b, const Py_ssize_t *off, Py_ssize_t terms,
        const Py_ssize_t *to, const Py_ssize_t *source, Py_ssize_t moves)
    void sd_double(
        int rows, int vectors, Py_ssize_t terms, const double *a, const Py_ssize_t *row,
        const Py_ssize_t *index, const double *b, const Py_ssize_t *off, double *c, Py_ssize_t ldc,
        const double *add, Py_ssize_t lda, const double *bias, int relu)


cdef inline void tile(
    Py_ssize_t rows, Py_ssize_t vectors, Py_ssize_t terms, const floating *a,
    const Py_ssize_t *row, const Py_ssize_t *index, const floating *b, const Py_ssize_t *off,
    floating *c, Py_ssize_t ldc, const floating *add, Py_ssize_t lda, const floating *bias,
    bint relu,
) noexcept nogil:
    """c[i][lane] = sum over k < terms of a[row[i] + index[k]] * b[off[k] + lane], then as the flags
    say; without `index`, a[row[i] + k]."""
    if floating is float:
        sd_float(<int> rows, <int> vectors, terms, a, row, index, b, off, c, ldc, add, lda, bias,
                 relu)
    else:
        sd_double(<int> rows, <int> vectors, terms, a, row, index, b, off, c, ldc, add, lda, bias,
                  relu)


cdef inline void tile_of_runs(
    Py_ssize_t run, Py_ssize_t runs, Py_ssize_t vectors, Py_ssize_t terms, const floating *a,
    const Py_ssize_t *row, const Py_ssize_t *index, const floating *b, Py_ssize_t ldb,
    floating *c, Py_ssize_t ldc, const floating *add, Py_ssize_t lda, const floating *bias,
    bint relu,
) noexcept nogil:
    """c[i][lane] = sum over k < terms of a[row[i // run] + i % run + index[k]] * b[k * ldb + lane],
    then as the flags say; the bias is by lane. One run, or two or four, where as many rows have
    SD_VECTORS >= vectors."""
    if floating is float:
        sd_float_runs(<int> run, <int> runs, <int> vectors, terms, a, row, index, b, ldb, c, ldc,
                      add, lda, bias, relu)
    else:
        sd_double_runs(<int> run, <int> runs, <int> vectors, terms, a, row, index, b, ldb, c, ldc,
                       add, lda, bias, relu)


cdef inline void dot(
    Py_ssize_t rows, Py_ssize_t columns, Py_ssize_t vectors, const floating *a, Py_ssize_t lda,
    const floating *b, const Py_ssize_t *off, const floating *inside, floating *sums,
    Py_ssize_t lds,
) noexcept nogil:
    """sums[i * lds + j * lanes + lane] += the sum over p of that lane of a[i * lda + p] *
    b[off[j] + p], where inside[p] has all its bits set; elsewhere a is 0, b anything."""
    if floating is float:
        sd_float_dot(<int> rows, <int> columns, vectors, a, lda, b, off, inside, sums, lds)
    else:
        sd_double_dot(<int> rows, <int> columns, vectors, a, lda, b, off, inside, sums, lds)


cdef inline void stage(
    floating *strip, Py_ssize_t width, const floating *b, const Py_ssize_t *off, Py_ssize_t terms,
    const Py_ssize_t *to, const Py_ssize_t *source, Py_ssize_t moves,
) noexcept nogil:
    """For each of the terms, move after move, a vector: strip[k * width + to[m]] ..  =
    b[off[k] + source[m]] .. ; what hangs over is overwritten by the next move or term."""
    if floating is float:
        sd_float_stage(strip, width, b, off, terms, to, source, moves)
    else:
        sd_double_stage(strip, width, b, off, terms, to, source, moves)


cdef inline void transpose(
    floating *to, Py_ssize_t width, const floating *values, Py_ssize_t stride, Py_ssize_t rows,
    Py_ssize_t count,
) noexcept nogil:
    """to[j * width + i] = values[i * stride + j] for i < rows, which one vector's lanes hold, and
    j < count; zeros in its other lanes."""
    if floating is float:
        sd_float_transpose(to, width, values, stride, rows, count)
    else:
        sd_double_transpose(to, width, values, stride, rows, count)


cdef inline floating total_of(const floating *values, Py_ssize_t count) noexcept nogil:
    """The sum of values[i]."""
    if floating is float:
        return sd_float_total(values, count)
    else:
        return sd_double_total(values, count)


cdef extern from "lanes.h" nogil:
    enum: SD_ROW_VECTORS
    void sd_float_rows(
        float *to, Py_ssize_t length, const float *values, Py_ssize_t stride, Py_ssize_t rows,
        int step, Py_ssize_t low, Py_ssize_t high, Py_ssize_t ahead)
    void sd_double_rows(
        double *to, Py_ssize_t length, const double *values, Py_ssize_t stride, Py_ssize_t rows,
        int step, Py_ssize_t low, Py_ssize_t high, Py_ssize_t ahead)
    void sd_float_evens(float *to, const float *values, Py_ssize_t count)
    void sd_double_evens(double *to, const double *values, Py_ssize_t count)
    void sd_float_add(float *to, const float *values, Py_ssize_t count)
    void sd_double_add(double *to, const double *values, Py_ssize_t count)
    void sd_float_add_evens(float *to, const float *values, Py_ssize_t count)
    void sd_double_add_evens(double *to, const double *values, Py_ssize_t count)
    void sd_float_put_evens(float *to, const float *values, Py_ssize_t count)
    void sd_double_put_evens(double *to, const double *values, Py_ssize_t count)


cdef inline void copy_rows(
    floating *to, Py_ssize_t length, const floating *values, Py_ssize_t stride, Py_ssize_t rows,
    Py_ssize_t step, Py_ssize_t low, Py_ssize_t high, Py_ssize_t ahead,
) noexcept nogil:
    """to[r * length + j] = values[r * stride + j * step] for low <= j < high, else 0, for rows of
    at most SD_ROW_VECTORS vectors and a step of 1 or 2; whole vectors are read and written. What
    lies `ahead` of each is prefetched."""
    if floating is float:
        sd_float_rows(to, length, values, stride, rows, <int> step, low, high, ahead)
    else:
        sd_double_rows(to, length, values, stride, rows, <int> step, low, high, ahead)


cdef inline void add_run(floating *to, const floating *values, Py_ssize_t count) noexcept nogil:
    """to[i] += values[i]"""
    if floating is float:
        sd_float_add(to, values, count)
    else:
        sd_double_add(to, values, count)


cdef inline void add_evens(floating *to, const floating *values, Py_ssize_t count) noexcept nogil:
    """to[2 * i] += values[i]"""
    if floating is float:
        sd_float_add_evens(to, values, count)
    else:
        sd_double_add_evens(to, values, count)


cdef inline void put_evens(floating *to, const floating *values, Py_ssize_t count) noexcept nogil:
    """to[2 * i] = values[i]"""
    if floating is float:
        sd_float_put_evens(to, values, count)
    else:
        sd_double_put_evens(to, values, count)


cdef inline void copy_run(floating *to, const floating *values, Py_ssize_t count) noexcept nogil:
    """to[i] = values[i]"""
    if floating is float:
        sd_float_copy(to, values, count)
    else:
        sd_double_copy(to, values, count)


cdef inline void sum_segments(
    floating *to, const floating *sums, Py_ssize_t count, Py_ssize_t segments
) noexcept nogil:
    """to[i] = the sum over s, in order, of sums[s * count + i]"""
    cdef Py_ssize_t s
    copy_run(to, sums, count)
    for s in range(1, segments):
        add_run(to, sums + s * count, count)


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

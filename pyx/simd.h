/* Vectors of the CPU level, and the register tile that every convolution runs on.

   The only C here, because it needs what Cython has no words for: vector types and forced
   unrolling. GCC and clang only. */
#ifndef SLIDEDOT_SIMD_H
#define SLIDEDOT_SIMD_H

#include <stddef.h>
#include <string.h>

#if !defined(__GNUC__)
#error "slidedot needs a compiler with GNU vector types: gcc or clang"
#endif

/* Bytes of a vector register, and how many registers there are. A narrower machine runs wider
   vectors in halves, so the widest tile can be tested where its level cannot run. */
#ifndef SD_VECTOR_BYTES
#if defined(__AVX512F__)
#define SD_VECTOR_BYTES 64
#elif defined(__AVX__)
#define SD_VECTOR_BYTES 32
#else
#define SD_VECTOR_BYTES 16
#endif
#endif

#if SD_VECTOR_BYTES == 64
#define SD_REGISTERS 32
#define SD_MAX_ROWS 14
#elif defined(__aarch64__) /* of narrow vectors, a squarer tile loads less for each product */
#define SD_REGISTERS 32
#define SD_MAX_ROWS 8
#else
#define SD_REGISTERS 16
#define SD_MAX_ROWS 6
#endif
#define SD_MAX_VECTORS 8
/* Rows and columns of a tile of dot products, whose sums leave room for a vector of each column. */
#define SD_DOT_ROWS (SD_REGISTERS == 32 ? 6 : 4)
#define SD_DOT_COLUMNS (SD_REGISTERS == 32 ? 4 : 3)

/* Vectors that fit beside `rows` accumulators each: their own register and one broadcast. */
#define SD_FIT(rows) ((SD_REGISTERS - 1) / ((rows) + 1))
#define SD_VECTORS(rows) (SD_FIT(rows) < SD_MAX_VECTORS ? SD_FIT(rows) : SD_MAX_VECTORS)
#define SD_VECTORS_WIDEST SD_VECTORS(SD_MAX_ROWS)

#define SD_INLINE static inline __attribute__((always_inline))
#if defined(__clang__) /* clang 14 passes over GCC's pragma without a word */
#define SD_UNROLL _Pragma("clang loop unroll(full)")
#else
#define SD_UNROLL _Pragma("GCC unroll 32")
#endif

/* A function whose sums fill the registers. GCC for aarch64 would load numbers ahead of their use,
   as it does not for x86, and put sums on the stack for them. */
#if defined(__aarch64__) && !defined(__clang__)
#define SD_TILE __attribute__((noinline, unused, optimize("no-schedule-insns")))
#else
#define SD_TILE __attribute__((noinline, unused))
#endif

/* Ask for memory that no prefetcher guesses; the address need not be valid. */
SD_INLINE void sd_prefetch(const void *from, ptrdiff_t bytes) {
    for (ptrdiff_t i = 0; i < bytes; i += 64) __builtin_prefetch((const char *)from + i);
}

/* The tile: c[i][0..W) = sum over k < terms of a[row[i] + index[k]] * b[off[k]..off[k] + W), with
   W = vectors * lanes; without an `index`, a[row[i] + k]. Because the tables, not the loop, know the
   layouts, one tile does every kernel size, stride, dilation and direction. Or its rows are `runs`
   of neighbours, a[row[i / run] + i % run + index[k]], and b[k * ldb], which saves it addresses. At
   the end, in registers: `add` (or NULL), a partial sum, is added, then `bias` (or NULL), one number
   a row, or, with an `index`, a lane; `relu` clips at zero and keeps NaN. */
#define SD_DEFINE_TILE(T, NAME, VEC, MASK)                                                         \
    typedef T VEC __attribute__((vector_size(SD_VECTOR_BYTES)));                                   \
    SD_INLINE VEC NAME##_load(const T *p) { VEC v; memcpy(&v, p, sizeof v); return v; }            \
    SD_INLINE void NAME##_store(T *p, VEC v) { memcpy(p, &v, sizeof v); }                          \
    SD_INLINE VEC NAME##_relu(VEC v) { return (VEC)((MASK)v & ~(MASK)(v <= 0)); }                  \
                                                                                                   \
    SD_INLINE void NAME##_body(const int rows, const int vectors, const int run, ptrdiff_t terms,  \
                               const T *a, const ptrdiff_t *row, const ptrdiff_t *index,           \
                               const T *b, const ptrdiff_t *off, ptrdiff_t ldb, T *c,              \
                               ptrdiff_t ldc, const T *add, ptrdiff_t lda, const T *bias,          \
                               int relu) {                                                         \
        enum { LANES = SD_VECTOR_BYTES / sizeof(T) };                                              \
        const T *r[SD_MAX_ROWS];                                                                   \
        VEC acc[2 * SD_MAX_ROWS][SD_MAX_VECTORS];                                                  \
        SD_UNROLL for (int i = 0; i < rows / run; i++) r[i] = a + row[i];                          \
        SD_UNROLL for (int i = 0; i < rows; i++)                                                   \
            SD_UNROLL for (int j = 0; j < vectors; j++) acc[i][j] = (VEC){0};                      \
        for (ptrdiff_t k = 0; k < terms; k++) {                                                    \
            const T *p = off ? b + off[k] : b;                                                     \
            ptrdiff_t q = index ? index[k] : k;                                                    \
            VEC x[SD_MAX_VECTORS];                                                                 \
            SD_UNROLL for (int j = 0; j < vectors; j++) x[j] = NAME##_load(p + j * LANES);         \
            SD_UNROLL for (int i = 0; i < rows; i++)                                               \
                SD_UNROLL for (int j = 0; j < vectors; j++)                                        \
                    acc[i][j] += (r[i / run] + q)[i % run] * x[j];                                 \
            b += ldb;                                                                              \
        }                                                                                          \
        if (add)                                                                                   \
            SD_UNROLL for (int i = 0; i < rows; i++)                                               \
                SD_UNROLL for (int j = 0; j < vectors; j++)                                        \
                    acc[i][j] += NAME##_load(add + i * lda + j * LANES);                           \
        if (bias)                                                                                  \
            SD_UNROLL for (int i = 0; i < rows; i++)                                               \
                SD_UNROLL for (int j = 0; j < vectors; j++)                                        \
                    acc[i][j] += index ? NAME##_load(bias + j * LANES) : bias[i] - (VEC){0};       \
        if (relu)                                                                                  \
            SD_UNROLL for (int i = 0; i < rows; i++)                                               \
                SD_UNROLL for (int j = 0; j < vectors; j++)                                        \
                    acc[i][j] = NAME##_relu(acc[i][j]);                                            \
        SD_UNROLL for (int i = 0; i < rows; i++)                                                   \
            SD_UNROLL for (int j = 0; j < vectors; j++)                                            \
                NAME##_store(c + i * ldc + j * LANES, acc[i][j]);                                  \
    }                                                                                              \
    SD_ALL_ROWS(SD_TILE_FUNCTION, T, NAME)                                                         \
                                                                                                   \
    static inline void NAME(int rows, int vectors, ptrdiff_t terms, const T *a,                    \
                            const ptrdiff_t *row, const ptrdiff_t *index, const T *b,              \
                            const ptrdiff_t *off, T *c, ptrdiff_t ldc, const T *add,               \
                            ptrdiff_t lda, const T *bias, int relu) {                              \
        switch (rows * 16 + vectors) { SD_ALL_ROWS(SD_TILE_CASE, T, NAME) }                        \
    }                                                                                              \
    SD_ALL_RUNS(SD_RUNS_FUNCTION, T, NAME)                                                         \
    static inline void NAME##_runs(int run, int runs, int vectors, ptrdiff_t terms, const T *a,    \
                                   const ptrdiff_t *row, const ptrdiff_t *index, const T *b,       \
                                   ptrdiff_t ldb, T *c, ptrdiff_t ldc, const T *add,               \
                                   ptrdiff_t lda, const T *bias, int relu) {                       \
        switch (run * 16 + vectors) { SD_ALL_RUNS(SD_RUNS_CASE, T, NAME) }                         \
    }

/* The tile of dot products, whose lanes are terms: sums[i * lds + j * lanes ..] += the sums by lanes
   of a[i * lda + p] * b[off[j] + p] over `vectors` of p, where `inside` has all its bits set. The
   other lanes of a are 0, those of b anything. */
#define SD_DEFINE_DOT(T, NAME, VEC, MASK)                                                          \
    SD_INLINE void NAME##_dot_body(const int rows, const int columns, ptrdiff_t vectors,           \
                                   const T *a, ptrdiff_t lda, const T *b, const ptrdiff_t *off,    \
                                   const T *inside, T *sums, ptrdiff_t lds) {                      \
        enum { LANES = SD_VECTOR_BYTES / sizeof(T) };                                              \
        VEC acc[6][4];                                                                             \
        const T *p[4];                                                                             \
        SD_UNROLL for (int j = 0; j < columns; j++) {                                              \
            p[j] = b + off[j];                                                                     \
            SD_UNROLL for (int i = 0; i < rows; i++) acc[i][j] = (VEC){0};                         \
        }                                                                                          \
        for (ptrdiff_t k = 0; k < vectors * LANES; k += LANES) {                                   \
            MASK keep = (MASK)NAME##_load(inside + k);                                             \
            VEC x[4];                                                                              \
            SD_UNROLL for (int j = 0; j < columns; j++)                                            \
                x[j] = (VEC)((MASK)NAME##_load(p[j] + k) & keep);                                  \
            SD_UNROLL for (int i = 0; i < rows; i++) {                                             \
                VEC v = NAME##_load(a + i * lda + k);                                              \
                SD_UNROLL for (int j = 0; j < columns; j++) acc[i][j] += v * x[j];                 \
            }                                                                                      \
        }                                                                                          \
        SD_UNROLL for (int i = 0; i < rows; i++)                                                   \
            SD_UNROLL for (int j = 0; j < columns; j++) {                                          \
                T *to = sums + i * lds + j * LANES;                                                \
                NAME##_store(to, NAME##_load(to) + acc[i][j]);                                     \
            }                                                                                      \
    }                                                                                              \
    SD_DOT_ALL(SD_DOT_FUNCTION, T, NAME)                                                           \
    static inline void NAME##_dot(int rows, int columns, ptrdiff_t vectors, const T *a,            \
                                  ptrdiff_t lda, const T *b, const ptrdiff_t *off, const T *inside,\
                                  T *sums, ptrdiff_t lds) {                                        \
        switch (rows * 4 + columns - 1) { SD_DOT_ALL(SD_DOT_CASE, T, NAME) }                       \
    }
#define SD_DOT_FUNCTION(R, C, T, NAME)                                                             \
    static SD_TILE void NAME##_dot_##R##x##C(ptrdiff_t vectors, const T *a, ptrdiff_t lda,         \
                                             const T *b, const ptrdiff_t *off, const T *inside,    \
                                             T *sums, ptrdiff_t lds) {                             \
        if (R > SD_DOT_ROWS || C > SD_DOT_COLUMNS) return;                                         \
        NAME##_dot_body(R, C, vectors, a, lda, b, off, inside, sums, lds);                         \
    }
#define SD_DOT_CASE(R, C, T, NAME)                                                                 \
    case R * 4 + C - 1:                                                                            \
        if (R <= SD_DOT_ROWS && C <= SD_DOT_COLUMNS)                                               \
            NAME##_dot_##R##x##C(vectors, a, lda, b, off, inside, sums, lds);                      \
        break;
#define SD_DOT_ROW(F, R, T, NAME) F(R, 1, T, NAME) F(R, 2, T, NAME) F(R, 3, T, NAME) F(R, 4, T, NAME)
#define SD_DOT_ALL(F, T, NAME)                                                                     \
    SD_DOT_ROW(F, 1, T, NAME) SD_DOT_ROW(F, 2, T, NAME) SD_DOT_ROW(F, 3, T, NAME)                  \
    SD_DOT_ROW(F, 4, T, NAME) SD_DOT_ROW(F, 5, T, NAME) SD_DOT_ROW(F, 6, T, NAME)

#define SD_TILE_FUNCTION(R, V, T, NAME)                                                            \
    static SD_TILE void NAME##_##R##x##V(                                                          \
        ptrdiff_t terms, const T *a, const ptrdiff_t *row, const ptrdiff_t *index, const T *b,     \
        const ptrdiff_t *off, T *c, ptrdiff_t ldc, const T *add, ptrdiff_t lda, const T *bias,     \
        int relu) {                                                                                \
        if (R > SD_MAX_ROWS || V > SD_VECTORS(R)) return;                                          \
        if (!off) __builtin_unreachable();                                                         \
        if (index)                                                                                 \
            NAME##_body(R, V, 1, terms, a, row, index, b, off, 0, c, ldc, add, lda, bias, relu);   \
        else                                                                                       \
            NAME##_body(R, V, 1, terms, a, row, NULL, b, off, 0, c, ldc, add, lda, bias, relu);    \
    }
#define SD_TILE_CASE(R, V, T, NAME)                                                                \
    case R * 16 + V:                                                                               \
        if (R <= SD_MAX_ROWS && V <= SD_VECTORS(R))                                                \
            NAME##_##R##x##V(terms, a, row, index, b, off, c, ldc, add, lda, bias, relu);          \
        break;
#define SD_RUNS_FUNCTION(R, V, T, NAME)                                                            \
    static SD_TILE void NAME##_runs_##R##x##V(                                                     \
        int runs, ptrdiff_t terms, const T *a, const ptrdiff_t *row, const ptrdiff_t *index,       \
        const T *b, ptrdiff_t ldb, T *c, ptrdiff_t ldc, const T *add, ptrdiff_t lda,               \
        const T *bias, int relu) {                                                                 \
        if (R > SD_MAX_ROWS || V > SD_VECTORS_WIDEST || !index) return;                            \
        if (V <= SD_VECTORS(4 * R) && runs == 4)                                                   \
            NAME##_body(4 * R, V, R, terms, a, row, index, b, NULL, ldb, c, ldc, add, lda, bias,   \
                        relu);                                                                     \
        else if (V <= SD_VECTORS(2 * R) && runs == 2)                                              \
            NAME##_body(2 * R, V, R, terms, a, row, index, b, NULL, ldb, c, ldc, add, lda, bias,   \
                        relu);                                                                     \
        else                                                                                       \
            NAME##_body(R, V, R, terms, a, row, index, b, NULL, ldb, c, ldc, add, lda, bias,       \
                        relu);                                                                     \
    }
#define SD_RUNS_CASE(R, V, T, NAME)                                                                \
    case R * 16 + V:                                                                               \
        if (R <= SD_MAX_ROWS && V <= SD_VECTORS_WIDEST)                                            \
            NAME##_runs_##R##x##V(runs, terms, a, row, index, b, ldb, c, ldc, add, lda, bias,      \
                                  relu);                                                           \
        break;
#define SD_ALL_VECTORS(F, R, T, NAME)                                                              \
    F(R, 1, T, NAME) F(R, 2, T, NAME) F(R, 3, T, NAME) F(R, 4, T, NAME)                            \
    F(R, 5, T, NAME) F(R, 6, T, NAME) F(R, 7, T, NAME) F(R, 8, T, NAME)
#define SD_ALL_ROWS(F, T, NAME)                                                                    \
    SD_ALL_VECTORS(F, 1, T, NAME) SD_ALL_VECTORS(F, 2, T, NAME) SD_ALL_VECTORS(F, 3, T, NAME)      \
    SD_ALL_VECTORS(F, 4, T, NAME) SD_ALL_VECTORS(F, 5, T, NAME) SD_ALL_VECTORS(F, 6, T, NAME)      \
    SD_ALL_VECTORS(F, 7, T, NAME) SD_ALL_VECTORS(F, 8, T, NAME) SD_ALL_VECTORS(F, 9, T, NAME)      \
    SD_ALL_VECTORS(F, 10, T, NAME) SD_ALL_VECTORS(F, 11, T, NAME) SD_ALL_VECTORS(F, 12, T, NAME)   \
    SD_ALL_VECTORS(F, 13, T, NAME) SD_ALL_VECTORS(F, 14, T, NAME)

#define SD_RUN(F, R, T, NAME) F(R, 1, T, NAME) F(R, 2, T, NAME) F(R, 3, T, NAME)
#define SD_ALL_RUNS(F, T, NAME)                                                                    \
    SD_RUN(F, 1, T, NAME) SD_RUN(F, 2, T, NAME) SD_RUN(F, 3, T, NAME) SD_RUN(F, 4, T, NAME)        \
    SD_RUN(F, 5, T, NAME) SD_RUN(F, 6, T, NAME) SD_RUN(F, 7, T, NAME) SD_RUN(F, 8, T, NAME)        \
    SD_RUN(F, 9, T, NAME) SD_RUN(F, 10, T, NAME) SD_RUN(F, 11, T, NAME) SD_RUN(F, 12, T, NAME)     \
    SD_RUN(F, 13, T, NAME) SD_RUN(F, 14, T, NAME)

/* Lanes of two vectors, of 16, 8, 4 or 2 lanes, that a step of a transpose exchanges: blocks of 8,
   4, 2 or 1. */
#define SD_LOW_1_OF_2 0, 2
#define SD_HIGH_1_OF_2 1, 3
#define SD_LOW_2_OF_4 0, 1, 4, 5
#define SD_HIGH_2_OF_4 2, 3, 6, 7
#define SD_LOW_1_OF_4 0, 4, 2, 6
#define SD_HIGH_1_OF_4 1, 5, 3, 7
#define SD_LOW_4_OF_8 0, 1, 2, 3, 8, 9, 10, 11
#define SD_HIGH_4_OF_8 4, 5, 6, 7, 12, 13, 14, 15
#define SD_LOW_2_OF_8 0, 1, 8, 9, 4, 5, 12, 13
#define SD_HIGH_2_OF_8 2, 3, 10, 11, 6, 7, 14, 15
#define SD_LOW_1_OF_8 0, 8, 2, 10, 4, 12, 6, 14
#define SD_HIGH_1_OF_8 1, 9, 3, 11, 5, 13, 7, 15
#define SD_LOW_8_OF_16 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23
#define SD_HIGH_8_OF_16 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31
#define SD_LOW_4_OF_16 0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27
#define SD_HIGH_4_OF_16 4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31
#define SD_LOW_2_OF_16 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29
#define SD_HIGH_2_OF_16 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31
#define SD_LOW_1_OF_16 0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30
#define SD_HIGH_1_OF_16 1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31
#if defined(__clang__)
#define SD_SHUFFLE(MASK, a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SD_SHUFFLE(MASK, a, b, ...) __builtin_shuffle(a, b, (MASK){__VA_ARGS__})
#endif
#define SD_EXCHANGE(VEC, MASK, v, D, LANES)                                                        \
    SD_UNROLL for (int i = 0; i < LANES; i++)                                                      \
        if (!(i & D)) {                                                                            \
            VEC low = SD_SHUFFLE(MASK, v[i], v[i + D], SD_LOW_##D##_OF_##LANES);                   \
            v[i + D] = SD_SHUFFLE(MASK, v[i], v[i + D], SD_HIGH_##D##_OF_##LANES);                 \
            v[i] = low;                                                                            \
        }
#define SD_TRANSPOSE_2(VEC, MASK, v, L) SD_EXCHANGE(VEC, MASK, v, 1, L)
#define SD_TRANSPOSE_4(VEC, MASK, v, L) SD_EXCHANGE(VEC, MASK, v, 2, L) SD_TRANSPOSE_2(VEC, MASK, v, L)
#define SD_TRANSPOSE_8(VEC, MASK, v, L) SD_EXCHANGE(VEC, MASK, v, 4, L) SD_TRANSPOSE_4(VEC, MASK, v, L)
#define SD_TRANSPOSE_16(VEC, MASK, v, L) SD_EXCHANGE(VEC, MASK, v, 8, L) SD_TRANSPOSE_8(VEC, MASK, v, L)

/* A run shorter than a vector: two halves of one that overlap, or two quarters, and so on. Spelt out,
   because GCC leaves a loop over the parts as it is where much is inlined, and its memcpy with it. */
#define SD_SHORT(ENDS, LANES, T, to, from, n)                                                      \
    if (LANES > 8 && n >= 8) ENDS(8, T, to, from, n)                                               \
    else if (LANES > 4 && n >= 4) ENDS(4, T, to, from, n)                                          \
    else if (LANES > 2 && n >= 2) ENDS(2, T, to, from, n)                                          \
    else if (n >= 1) ENDS(1, T, to, from, n)
#define SD_COPY_ENDS(PART, T, to, from, n)                                                         \
    {                                                                                              \
        T head[PART], tail[PART];                                                                  \
        memcpy(head, from, sizeof head);                                                           \
        memcpy(tail, from + n - PART, sizeof tail);                                                \
        memcpy(to, head, sizeof head);                                                             \
        memcpy(to + n - PART, tail, sizeof tail);                                                  \
    }
#define SD_FILL_ENDS(PART, T, to, v, n)                                                            \
    {                                                                                              \
        memcpy(to, &v, PART * sizeof(T));                                                          \
        memcpy(to + n - PART, &v, PART * sizeof(T));                                               \
    }

/* Runs, exact to the element: of blocks that overlap at the end, so that no loop runs over single
   elements. */
#define SD_DEFINE_LANES(T, NAME, VEC, MASK, LANES)                                                 \
    SD_INLINE void NAME##_copy(T *to, const T *from, ptrdiff_t n) {                                \
        if (n >= LANES) {                                                                          \
            for (ptrdiff_t i = 0; i + LANES <= n; i += LANES)                                      \
                NAME##_store(to + i, NAME##_load(from + i));                                       \
            NAME##_store(to + n - LANES, NAME##_load(from + n - LANES));                           \
            return;                                                                                \
        }                                                                                          \
        SD_SHORT(SD_COPY_ENDS, LANES, T, to, from, n)                                              \
    }                                                                                              \
    SD_INLINE void NAME##_fill(T *to, T value, ptrdiff_t n) {                                      \
        VEC v = value - (VEC){0};                                                                  \
        if (n >= LANES) {                                                                          \
            for (ptrdiff_t i = 0; i + LANES <= n; i += LANES) NAME##_store(to + i, v);             \
            NAME##_store(to + n - LANES, v);                                                       \
            return;                                                                                \
        }                                                                                          \
        SD_SHORT(SD_FILL_ENDS, LANES, T, to, v, n)                                                 \
    }                                                                                              \
    SD_INLINE void NAME##_stage_moves(const int moves, T *strip, ptrdiff_t width, const T *b,      \
                                      const ptrdiff_t *off, ptrdiff_t terms, const ptrdiff_t *to,  \
                                      const ptrdiff_t *from) {                                     \
        for (ptrdiff_t k = 0; k < terms; k++, strip += width) {                                    \
            const T *p = b + off[k];                                                               \
            SD_UNROLL for (int m = 0; m < moves; m++)                                              \
                NAME##_store(strip + to[m], NAME##_load(p + from[m]));                             \
        }                                                                                          \
    }                                                                                              \
    static inline void NAME##_stage(T *strip, ptrdiff_t width, const T *b, const ptrdiff_t *off,   \
                                    ptrdiff_t terms, const ptrdiff_t *to, const ptrdiff_t *from,   \
                                    ptrdiff_t moves) {                                             \
        switch (moves) {                                                                           \
        case 1: NAME##_stage_moves(1, strip, width, b, off, terms, to, from); break;               \
        case 2: NAME##_stage_moves(2, strip, width, b, off, terms, to, from); break;               \
        case 3: NAME##_stage_moves(3, strip, width, b, off, terms, to, from); break;               \
        case 4: NAME##_stage_moves(4, strip, width, b, off, terms, to, from); break;               \
        default:                                                                                   \
            for (ptrdiff_t k = 0; k < terms; k++, strip += width)                                  \
                for (ptrdiff_t m = 0; m < moves; m++)                                              \
                    NAME##_store(strip + to[m], NAME##_load(b + off[k] + from[m]));                \
        }                                                                                          \
    }                                                                                              \
    /* to[j * width + i] = from[i * stride + j] for i < rows <= lanes, j < n */                    \
    SD_INLINE void NAME##_turn(T *to, ptrdiff_t width, const T *from, ptrdiff_t stride,            \
                               ptrdiff_t rows, ptrdiff_t n) {                                      \
        VEC v[LANES];                                                                              \
        SD_UNROLL for (int i = 0; i < LANES; i++) {                                                \
            v[i] = i < rows ? NAME##_load(from + i * stride) : (VEC){0};                           \
            __builtin_prefetch(from + (LANES + i) * stride); /* the rows to come */                \
        }                                                                                          \
        SD_TRANSPOSE_##LANES(VEC, MASK, v, LANES)                                                  \
        SD_UNROLL for (int j = 0; j < LANES; j++)                                                  \
            if (j < n) NAME##_store(to + j * width, v[j]);                                         \
    }                                                                                              \
    static inline void NAME##_transpose(T *to, ptrdiff_t width, const T *from, ptrdiff_t stride,   \
                                        ptrdiff_t rows, ptrdiff_t n) {                             \
        if (n < LANES && stride == n) { /* end to end: a copy may be read beyond their ends */     \
            T runs[LANES * LANES];                                                                 \
            NAME##_copy(runs, from, rows * n);                                                     \
            NAME##_turn(to, width, runs, stride, rows, n);                                         \
            return;                                                                                \
        }                                                                                          \
        if (n < LANES) {                                                                           \
            for (ptrdiff_t j = 0; j < n; j++)                                                      \
                for (ptrdiff_t i = 0; i < LANES; i++)                                              \
                    to[j * width + i] = i < rows ? from[i * stride + j] : 0;                       \
            return;                                                                                \
        }                                                                                          \
        for (ptrdiff_t j = 0; j + LANES <= n; j += LANES)                                          \
            NAME##_turn(to + j * width, width, from + j, stride, rows, LANES);                     \
        if (n % LANES)                                                                             \
            NAME##_turn(to + (n - LANES) * width, width, from + n - LANES, stride, rows, LANES);   \
    }                                                                                              \
    static inline T NAME##_total(const T *from, ptrdiff_t n) {                                     \
        VEC acc[4] = {{0}};                                                                        \
        T total = 0, lanes[LANES];                                                                 \
        ptrdiff_t j = 0;                                                                           \
        for (; j + 4 * LANES <= n; j += 4 * LANES)                                                 \
            SD_UNROLL for (int i = 0; i < 4; i++) acc[i] += NAME##_load(from + j + i * LANES);     \
        for (; j + LANES <= n; j += LANES) acc[0] += NAME##_load(from + j);                        \
        for (; j < n; j++) total += from[j];                                                       \
        NAME##_store(lanes, (acc[0] + acc[1]) + (acc[2] + acc[3]));                                \
        for (int i = 0; i < LANES; i++) total += lanes[i];                                         \
        return total;                                                                              \
    }

/* `rounds` multiply-adds of as many independent vectors as the tile's accumulators, from registers
   alone: the CPU's limit, to measure the tile against. */
#define SD_PEAK_VECTORS (SD_REGISTERS == 32 ? 24 : 12)
#define SD_DEFINE_PEAK(T, NAME, VEC)                                                               \
    static T NAME##_peak(ptrdiff_t rounds, T factor, T term) {                                     \
        volatile T known_later[2] = {factor, term};                                                \
        VEC acc[SD_PEAK_VECTORS], x = known_later[0] - (VEC){0}, y = known_later[1] - (VEC){0};    \
        SD_UNROLL for (int k = 0; k < SD_PEAK_VECTORS; k++) acc[k] = x * (T)k;                     \
        for (; rounds > 0; rounds--)                                                               \
            SD_UNROLL for (int k = 0; k < SD_PEAK_VECTORS; k++) acc[k] = acc[k] * x + y;           \
        SD_UNROLL for (int k = 1; k < SD_PEAK_VECTORS; k++) acc[0] += acc[k];                      \
        return acc[0][0];                                                                          \
    }

typedef int sd_mask32 __attribute__((vector_size(SD_VECTOR_BYTES)));
typedef long long sd_mask64 __attribute__((vector_size(SD_VECTOR_BYTES)));

SD_DEFINE_TILE(float, sd_float, sd_floats, sd_mask32)
SD_DEFINE_TILE(double, sd_double, sd_doubles, sd_mask64)
SD_DEFINE_DOT(float, sd_float, sd_floats, sd_mask32)
SD_DEFINE_DOT(double, sd_double, sd_doubles, sd_mask64)
#if SD_VECTOR_BYTES == 64
SD_DEFINE_LANES(float, sd_float, sd_floats, sd_mask32, 16)
SD_DEFINE_LANES(double, sd_double, sd_doubles, sd_mask64, 8)
#elif SD_VECTOR_BYTES == 32
SD_DEFINE_LANES(float, sd_float, sd_floats, sd_mask32, 8)
SD_DEFINE_LANES(double, sd_double, sd_doubles, sd_mask64, 4)
#else
SD_DEFINE_LANES(float, sd_float, sd_floats, sd_mask32, 4)
SD_DEFINE_LANES(double, sd_double, sd_doubles, sd_mask64, 2)
#endif
SD_DEFINE_PEAK(float, sd_float, sd_floats)
SD_DEFINE_PEAK(double, sd_double, sd_doubles)

#endif

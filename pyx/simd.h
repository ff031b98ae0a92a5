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

#if SD_VECTOR_BYTES == 64 || defined(__aarch64__)
#define SD_REGISTERS 32
#define SD_MAX_ROWS 14
#else
#define SD_REGISTERS 16
#define SD_MAX_ROWS 6
#endif
#define SD_MAX_VECTORS 8

/* Vectors that fit beside `rows` accumulators each: their own register and one broadcast. */
#define SD_FIT(rows) ((SD_REGISTERS - 1) / ((rows) + 1))
#define SD_VECTORS(rows) (SD_FIT(rows) < SD_MAX_VECTORS ? SD_FIT(rows) : SD_MAX_VECTORS)

#define SD_INLINE static inline __attribute__((always_inline))
#define SD_UNROLL _Pragma("GCC unroll 32")

/* The tile: c[i][0..W) = sum over k < terms of a[k * rows + i] * b[off[k]..off[k] + W), with
   W = vectors * lanes. Because the table `off`, not the loop, knows the layout of b, one tile does
   every kernel size, stride, dilation and direction. At the end, in registers: `add` (or NULL), a
   partial sum, is added, then `bias` (or NULL), one number a row; `relu` clips at zero and keeps
   NaN. */
#define SD_DEFINE_TILE(T, NAME, VEC, MASK)                                                         \
    typedef T VEC __attribute__((vector_size(SD_VECTOR_BYTES)));                                   \
    SD_INLINE VEC NAME##_load(const T *p) { VEC v; memcpy(&v, p, sizeof v); return v; }            \
    SD_INLINE void NAME##_store(T *p, VEC v) { memcpy(p, &v, sizeof v); }                          \
    SD_INLINE VEC NAME##_relu(VEC v) { return (VEC)((MASK)v & ~(MASK)(v <= 0)); }                  \
                                                                                                   \
    SD_INLINE void NAME##_body(const int rows, const int vectors, ptrdiff_t terms, const T *a,     \
                               const T *b, const ptrdiff_t *off, T *c, ptrdiff_t ldc,              \
                               const T *add, ptrdiff_t lda, const T *bias, int relu) {             \
        enum { LANES = SD_VECTOR_BYTES / sizeof(T) };                                              \
        VEC acc[SD_MAX_ROWS][SD_MAX_VECTORS];                                                      \
        SD_UNROLL for (int i = 0; i < rows; i++)                                                   \
            SD_UNROLL for (int j = 0; j < vectors; j++) acc[i][j] = (VEC){0};                      \
        for (ptrdiff_t k = 0; k < terms; k++, a += rows) {                                         \
            const T *p = b + off[k];                                                               \
            VEC x[SD_MAX_VECTORS];                                                                 \
            SD_UNROLL for (int j = 0; j < vectors; j++) x[j] = NAME##_load(p + j * LANES);         \
            SD_UNROLL for (int i = 0; i < rows; i++)                                               \
                SD_UNROLL for (int j = 0; j < vectors; j++) acc[i][j] += a[i] * x[j];              \
        }                                                                                          \
        SD_UNROLL for (int i = 0; i < rows; i++)                                                   \
            SD_UNROLL for (int j = 0; j < vectors; j++) {                                          \
                VEC v = acc[i][j];                                                                 \
                if (add) v += NAME##_load(add + i * lda + j * LANES);                              \
                if (bias) v += bias[i];                                                            \
                if (relu) v = NAME##_relu(v);                                                      \
                NAME##_store(c + i * ldc + j * LANES, v);                                          \
            }                                                                                      \
    }                                                                                              \
    SD_ALL_ROWS(SD_TILE_FUNCTION, T, NAME)                                                         \
                                                                                                   \
    static inline void NAME(int rows, int vectors, ptrdiff_t terms, const T *a, const T *b,        \
                            const ptrdiff_t *off, T *c, ptrdiff_t ldc, const T *add,               \
                            ptrdiff_t lda, const T *bias, int relu) {                              \
        switch (rows * 16 + vectors) { SD_ALL_ROWS(SD_TILE_CASE, T, NAME) }                        \
    }

#define SD_TILE_FUNCTION(R, V, T, NAME)                                                            \
    static __attribute__((noinline, unused)) void NAME##_##R##x##V(                                \
        ptrdiff_t terms, const T *a, const T *b, const ptrdiff_t *off, T *c, ptrdiff_t ldc,        \
        const T *add, ptrdiff_t lda, const T *bias, int relu) {                                    \
        if (R <= SD_MAX_ROWS && V <= SD_VECTORS(R))                                                \
            NAME##_body(R, V, terms, a, b, off, c, ldc, add, lda, bias, relu);                          \
    }
#define SD_TILE_CASE(R, V, T, NAME)                                                                \
    case R * 16 + V:                                                                               \
        if (R <= SD_MAX_ROWS && V <= SD_VECTORS(R))                                                \
            NAME##_##R##x##V(terms, a, b, off, c, ldc, add, lda, bias, relu);                           \
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

/* The dot tile: c[i][t] = sum over p < pixels of a[i * lda + p] * b[off[t] + p], lanes along the
   pixels, added to what c holds if `add`. Whole vectors are read; lanes past the last pixel count
   nothing, even where b holds an infinity there. */
#define SD_DOT_ROWS (SD_REGISTERS == 32 ? 6 : 3)
#define SD_DOT_TAPS 4

/* Lanes of two vectors, of 16, 8, 4 or 2 lanes: every second one, and pairs to add up. */
#define SD_SECOND_2 0, 2
#define SD_SECOND_4 0, 2, 4, 6
#define SD_SECOND_8 0, 2, 4, 6, 8, 10, 12, 14
#define SD_SECOND_16 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30
#define SD_EVEN_2 0, 2
#define SD_ODD_2 1, 3
#define SD_EVEN_4 0, 4, 2, 6
#define SD_ODD_4 1, 5, 3, 7
#define SD_EVENS_4 0, 1, 4, 5
#define SD_ODDS_4 2, 3, 6, 7
#define SD_EVEN_8 0, 8, 2, 10, 4, 12, 6, 14
#define SD_ODD_8 1, 9, 3, 11, 5, 13, 7, 15
#define SD_EVENS_8 0, 1, 8, 9, 4, 5, 12, 13
#define SD_ODDS_8 2, 3, 10, 11, 6, 7, 14, 15
#define SD_EVEN_16 0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30
#define SD_ODD_16 1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31
#define SD_EVENS_16 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29
#define SD_ODDS_16 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31
#if defined(__clang__)
#define SD_SHUFFLE(MASK, a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SD_SHUFFLE(MASK, a, b, ...) __builtin_shuffle(a, b, (MASK){__VA_ARGS__})
#endif

/* sum[t] = the sum of v[t]'s lanes, for four vectors at once; and runs, exact to the element: of
   blocks that overlap at the end, so that no loop runs over single elements. */
#define SD_DEFINE_LANES(T, NAME, VEC, MASK, LANES)                                                 \
    SD_INLINE void NAME##_copy(T *to, const T *from, ptrdiff_t n) {                                \
        if (n >= LANES) {                                                                          \
            for (ptrdiff_t i = 0; i + LANES <= n; i += LANES)                                      \
                NAME##_store(to + i, NAME##_load(from + i));                                       \
            NAME##_store(to + n - LANES, NAME##_load(from + n - LANES));                           \
            return;                                                                                \
        }                                                                                          \
        SD_UNROLL for (int part = LANES / 2; part; part /= 2)                                      \
            if (n >= part) {                                                                       \
                T head[LANES / 2], tail[LANES / 2];                                                \
                memcpy(head, from, part * sizeof(T));                                              \
                memcpy(tail, from + n - part, part * sizeof(T));                                   \
                memcpy(to, head, part * sizeof(T));                                                \
                memcpy(to + n - part, tail, part * sizeof(T));                                     \
                return;                                                                            \
            }                                                                                      \
    }                                                                                              \
    SD_INLINE void NAME##_fill(T *to, T value, ptrdiff_t n) {                                      \
        VEC v = value - (VEC){0};                                                                  \
        if (n >= LANES) {                                                                          \
            for (ptrdiff_t i = 0; i + LANES <= n; i += LANES) NAME##_store(to + i, v);             \
            NAME##_store(to + n - LANES, v);                                                       \
            return;                                                                                \
        }                                                                                          \
        SD_UNROLL for (int part = LANES / 2; part; part /= 2)                                      \
            if (n >= part) {                                                                       \
                memcpy(to, &v, part * sizeof(T));                                                  \
                memcpy(to + n - part, &v, part * sizeof(T));                                       \
                return;                                                                            \
            }                                                                                      \
    }                                                                                              \
    SD_INLINE void NAME##_evens(T *to, const T *from, ptrdiff_t n) {                               \
        ptrdiff_t i = 0;                                                                           \
        for (; i + LANES < n; i += LANES) /* the last odd one lies before another even one */      \
            NAME##_store(to + i, SD_SHUFFLE(MASK, NAME##_load(from + 2 * i),                       \
                                            NAME##_load(from + 2 * i + LANES),                     \
                                            SD_SECOND_##LANES));                                   \
        for (; i < n; i++) to[i] = from[2 * i];                                                    \
    }                                                                                              \
    SD_INLINE void NAME##_sums(T *sum, const VEC *v) {                                             \
        VEC a = SD_SHUFFLE(MASK, v[0], v[1], SD_EVEN_##LANES)                                      \
              + SD_SHUFFLE(MASK, v[0], v[1], SD_ODD_##LANES);                                      \
        VEC b = SD_SHUFFLE(MASK, v[2], v[3], SD_EVEN_##LANES)                                      \
              + SD_SHUFFLE(MASK, v[2], v[3], SD_ODD_##LANES);                                      \
        SD_SUMS_##LANES(NAME, MASK, a, b)                                                          \
    }
#define SD_SUMS_2(NAME, MASK, a, b) NAME##_store(sum, a); NAME##_store(sum + 2, b);
#define SD_SUMS_WIDE(NAME, MASK, LANES, a, b)                                                      \
    a = SD_SHUFFLE(MASK, a, b, SD_EVENS_##LANES) + SD_SHUFFLE(MASK, a, b, SD_ODDS_##LANES);        \
    NAME##_store(sum, a);                                                                          \
    SD_UNROLL for (int l = 4; l < LANES; l++) sum[l % 4] += sum[l];
#define SD_SUMS_4(NAME, MASK, a, b) SD_SUMS_WIDE(NAME, MASK, 4, a, b)
#define SD_SUMS_8(NAME, MASK, a, b) SD_SUMS_WIDE(NAME, MASK, 8, a, b)
#define SD_SUMS_16(NAME, MASK, a, b) SD_SUMS_WIDE(NAME, MASK, 16, a, b)

#define SD_DEFINE_DOT(T, NAME, VEC, MASK, INT)                                                     \
    SD_INLINE void NAME##_dot_step(const int rows, const int taps, VEC acc[6][4], const T *a,      \
                                   ptrdiff_t lda, const T *b, const ptrdiff_t *off, MASK keep,     \
                                   const int masked) {                                             \
        VEC g[6];                                                                                  \
        SD_UNROLL for (int i = 0; i < rows; i++) {                                                 \
            g[i] = NAME##_load(a + i * lda);                                                       \
            if (masked) g[i] = (VEC)((MASK)g[i] & keep);                                           \
        }                                                                                          \
        SD_UNROLL for (int t = 0; t < taps; t++) {                                                 \
            VEC x = NAME##_load(b + off[t]);                                                       \
            if (masked) x = (VEC)((MASK)x & keep);                                                 \
            SD_UNROLL for (int i = 0; i < rows; i++) acc[i][t] += g[i] * x;                        \
        }                                                                                          \
    }                                                                                              \
    SD_INLINE void NAME##_dot_body(const int rows, const int taps, ptrdiff_t pixels, const T *a,   \
                                   ptrdiff_t lda, const T *b, const ptrdiff_t *off, T *c,          \
                                   ptrdiff_t ldc, int add) {                                       \
        enum { LANES = SD_VECTOR_BYTES / sizeof(T) };                                              \
        VEC acc[6][4];                                                                             \
        MASK keep = {0};                                                                           \
        SD_UNROLL for (int i = 0; i < rows; i++)                                                   \
            SD_UNROLL for (int t = 0; t < taps; t++) acc[i][t] = (VEC){0};                         \
        ptrdiff_t p = 0;                                                                           \
        for (; p + LANES <= pixels; p += LANES)                                                    \
            NAME##_dot_step(rows, taps, acc, a + p, lda, b + p, off, keep, 0);                     \
        if (p < pixels) {                                                                          \
            INT on[LANES];                                                                         \
            for (int l = 0; l < LANES; l++) on[l] = l < pixels - p ? -1 : 0;                       \
            memcpy(&keep, on, sizeof keep);                                                        \
            NAME##_dot_step(rows, taps, acc, a + p, lda, b + p, off, keep, 1);                     \
        }                                                                                          \
        SD_UNROLL for (int i = 0; i < rows; i++) {                                                 \
            SD_UNROLL for (int t = taps; t < 4; t++) acc[i][t] = (VEC){0};                         \
            T sum[2 * LANES];                                                                      \
            NAME##_sums(sum, acc[i]);                                                              \
            SD_UNROLL for (int t = 0; t < taps; t++)                                               \
                c[i * ldc + t] = add ? c[i * ldc + t] + sum[t] : sum[t];                           \
        }                                                                                          \
    }                                                                                              \
    SD_DOT_ALL(SD_DOT_FUNCTION, T, NAME)                                                           \
    static inline void NAME##_dot(int rows, int taps, ptrdiff_t pixels, const T *a, ptrdiff_t lda, \
                                  const T *b, const ptrdiff_t *off, T *c, ptrdiff_t ldc,           \
                                  int add) {                                                       \
        switch (rows * 8 + taps) { SD_DOT_ALL(SD_DOT_CASE, T, NAME) }                              \
    }

#define SD_DOT_FUNCTION(R, K, T, NAME)                                                             \
    static __attribute__((noinline, unused)) void NAME##_dot_##R##x##K(                            \
        ptrdiff_t pixels, const T *a, ptrdiff_t lda, const T *b, const ptrdiff_t *off, T *c,       \
        ptrdiff_t ldc, int add) {                                                                  \
        if (R <= SD_DOT_ROWS) NAME##_dot_body(R, K, pixels, a, lda, b, off, c, ldc, add);          \
    }
#define SD_DOT_CASE(R, K, T, NAME)                                                                 \
    case R * 8 + K:                                                                                \
        if (R <= SD_DOT_ROWS) NAME##_dot_##R##x##K(pixels, a, lda, b, off, c, ldc, add);           \
        break;
#define SD_DOT_TAPS_OF(F, R, T, NAME) F(R, 1, T, NAME) F(R, 2, T, NAME) F(R, 3, T, NAME) F(R, 4, T, NAME)
#define SD_DOT_ALL(F, T, NAME)                                                                     \
    SD_DOT_TAPS_OF(F, 1, T, NAME) SD_DOT_TAPS_OF(F, 2, T, NAME) SD_DOT_TAPS_OF(F, 3, T, NAME)      \
    SD_DOT_TAPS_OF(F, 4, T, NAME) SD_DOT_TAPS_OF(F, 5, T, NAME) SD_DOT_TAPS_OF(F, 6, T, NAME)

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
SD_DEFINE_DOT(float, sd_float, sd_floats, sd_mask32, int)
SD_DEFINE_DOT(double, sd_double, sd_doubles, sd_mask64, long long)
SD_DEFINE_PEAK(float, sd_float, sd_floats)
SD_DEFINE_PEAK(double, sd_double, sd_doubles)

#endif

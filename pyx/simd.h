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
#define SD_UNROLL _Pragma("GCC unroll 16")

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

typedef int sd_mask32 __attribute__((vector_size(SD_VECTOR_BYTES)));
typedef long long sd_mask64 __attribute__((vector_size(SD_VECTOR_BYTES)));

SD_DEFINE_TILE(float, sd_tile_float, sd_float, sd_mask32)
SD_DEFINE_TILE(double, sd_tile_double, sd_double, sd_mask64)

#endif

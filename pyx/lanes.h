/* Lanes taken apart and together: every second pixel of a row, out of it and back into it. */
#ifndef SLIDEDOT_LANES_H
#define SLIDEDOT_LANES_H

#include "simd.h"

/* Every second lane of two vectors in two steps, the first of which stays within 16 bytes where a
   vector has two such parts: compilers make three shuffles of one that does not. */
#define SD_SECONDS_2 0, 2
#define SD_OTHERS_2 1, 3
#define SD_SORT_2 0, 1
#if SD_VECTOR_BYTES == 32
#define SD_SECONDS_4 0, 4, 2, 6
#define SD_OTHERS_4 1, 5, 3, 7
#define SD_SORT_4 0, 2, 1, 3
#define SD_SECONDS_8 0, 2, 8, 10, 4, 6, 12, 14
#define SD_OTHERS_8 1, 3, 9, 11, 5, 7, 13, 15
#define SD_SORT_8 0, 1, 4, 5, 2, 3, 6, 7
#else
#define SD_SECONDS_4 0, 2, 4, 6
#define SD_OTHERS_4 1, 3, 5, 7
#define SD_SORT_4 0, 1, 2, 3
#define SD_SECONDS_8 0, 2, 4, 6, 8, 10, 12, 14
#define SD_OTHERS_8 1, 3, 5, 7, 9, 11, 13, 15
#define SD_SORT_8 0, 1, 2, 3, 4, 5, 6, 7
#endif
#define SD_SECONDS_16 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30
#define SD_OTHERS_16 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31
#define SD_SORT_16 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
/* Their lanes in turn, likewise. */
#define SD_FIRST_2 0, 1
#define SD_LAST_2 2, 3
#define SD_ZIP_2 0, 2
#define SD_ZAP_2 1, 3
#define SD_ZIP_16 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define SD_ZAP_16 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#define SD_FIRST_16 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
#define SD_LAST_16 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31
#if SD_VECTOR_BYTES == 32
#define SD_ZIP_4 0, 4, 2, 6
#define SD_ZAP_4 1, 5, 3, 7
#define SD_FIRST_4 0, 1, 4, 5
#define SD_LAST_4 2, 3, 6, 7
#define SD_ZIP_8 0, 8, 1, 9, 4, 12, 5, 13
#define SD_ZAP_8 2, 10, 3, 11, 6, 14, 7, 15
#define SD_FIRST_8 0, 1, 2, 3, 8, 9, 10, 11
#define SD_LAST_8 4, 5, 6, 7, 12, 13, 14, 15
#else
#define SD_ZIP_4 0, 4, 1, 5
#define SD_ZAP_4 2, 6, 3, 7
#define SD_FIRST_4 0, 1, 2, 3
#define SD_LAST_4 4, 5, 6, 7
#define SD_ZIP_8 0, 8, 1, 9, 2, 10, 3, 11
#define SD_ZAP_8 4, 12, 5, 13, 6, 14, 7, 15
#define SD_FIRST_8 0, 1, 2, 3, 4, 5, 6, 7
#define SD_LAST_8 8, 9, 10, 11, 12, 13, 14, 15
#endif

/* The even lanes of the first vector, the odd ones of the second. */
#define SD_BLEND_2 0, 3
#define SD_BLEND_4 0, 5, 2, 7
#define SD_BLEND_8 0, 9, 2, 11, 4, 13, 6, 15
#define SD_BLEND_16 0, 17, 2, 19, 4, 21, 6, 23, 8, 25, 10, 27, 12, 29, 14, 31
/* All but the first lane, and one more: AVX-512 has an instruction for it, which GCC does not
   choose. */
#if SD_VECTOR_BYTES == 64 && defined(__AVX512F__)
#include <immintrin.h>
#define SD_NEXT_8(VEC, MASK, v, last) (VEC)_mm512_alignr_epi64((__m512i)last, (__m512i)v, 1)
#define SD_NEXT_16(VEC, MASK, v, last) (VEC)_mm512_alignr_epi32((__m512i)last, (__m512i)v, 1)
#else
#define SD_NEXT_2(VEC, MASK, v, last) SD_SHUFFLE(MASK, v, last, 1, 2)
#define SD_NEXT_4(VEC, MASK, v, last) SD_SHUFFLE(MASK, v, last, 1, 2, 3, 4)
#define SD_NEXT_8(VEC, MASK, v, last) SD_SHUFFLE(MASK, v, last, 1, 2, 3, 4, 5, 6, 7, 8)
#define SD_NEXT_16(VEC, MASK, v, last)                                                             \
    SD_SHUFFLE(MASK, v, last, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16)
#endif

/* Vectors of the longest row that is packed whole. */
#define SD_ROW_VECTORS 4
#define SD_ROWS(V, NAME)                                                                           \
    case V * 4 + 1: NAME##_rows_of(1, V, to, length, from, stride, rows, low, high, ahead); break; \
    case V * 4 + 2: NAME##_rows_of(2, V, to, length, from, stride, rows, low, high, ahead); break;

#define SD_ADD_PART(T, PART, LANES)                                                                \
    if (PART < LANES && (n - i) & PART) {                                                          \
        typedef T some __attribute__((vector_size(PART * sizeof(T))));                             \
        some sum, term;                                                                            \
        memcpy(&sum, to + i, sizeof sum);                                                          \
        memcpy(&term, from + i, sizeof term);                                                      \
        sum += term;                                                                               \
        memcpy(to + i, &sum, sizeof sum);                                                          \
        i += PART;                                                                                 \
    }
#define SD_DEFINE_PAIRS(T, NAME, VEC, MASK, LANES)                                                 \
    /* The even lanes of two vectors or the odd ones, mixed as `sorted` undoes it. */              \
    SD_INLINE VEC NAME##_half(VEC low, VEC high, const int odd) {                                  \
        return odd ? SD_SHUFFLE(MASK, low, high, SD_OTHERS_##LANES)                                \
                   : SD_SHUFFLE(MASK, low, high, SD_SECONDS_##LANES);                              \
    }                                                                                              \
    /* Pixels j, j + step, j + 2 step ..., mixed likewise; taps share their loads. */              \
    SD_INLINE VEC NAME##_mixed(const int step, const T *p, const int j) {                          \
        if (step == 1) return NAME##_load(p + j);                                                  \
        p += j / 2 * 2;                                                                            \
        return NAME##_half(NAME##_load(p), NAME##_load(p + LANES), j % 2);                         \
    }                                                                                              \
    SD_INLINE VEC NAME##_sorted(const int step, VEC v) {                                           \
        return step == 1 ? v : SD_SHUFFLE(MASK, v, v, SD_SORT_##LANES);                            \
    }                                                                                              \
    SD_INLINE VEC NAME##_tap(const int step, const T *p, const int j) {                            \
        return NAME##_sorted(step, NAME##_mixed(step, p, j));                                      \
    }                                                                                              \
    /* v from its second lane on, and the first lane of `last`. */                                 \
    SD_INLINE VEC NAME##_next(VEC v, VEC last) {                                                   \
        return SD_NEXT_##LANES(VEC, MASK, v, last);                                                \
    }                                                                                              \
    /* a and b, lane by lane in turn. */                                                           \
    SD_INLINE void NAME##_zip(VEC a, VEC b, VEC *low, VEC *high) {                                 \
        VEC even = SD_SHUFFLE(MASK, a, b, SD_ZIP_##LANES);                                         \
        VEC odd = SD_SHUFFLE(MASK, a, b, SD_ZAP_##LANES);                                          \
        *low = SD_SHUFFLE(MASK, even, odd, SD_FIRST_##LANES);                                      \
        *high = SD_SHUFFLE(MASK, even, odd, SD_LAST_##LANES);                                      \
    }                                                                                              \
    SD_INLINE void NAME##_evens(T *to, const T *from, ptrdiff_t n) {                               \
        ptrdiff_t i = 0;                                                                           \
        for (; i + LANES < n; i += LANES) /* the last odd one lies before another even one */      \
            NAME##_store(to + i, NAME##_tap(2, from + 2 * i, 0));                                  \
        if (i) { /* from the odd one before the last LANES: none is read after the last */         \
            NAME##_store(to + n - LANES, NAME##_tap(2, from + 2 * (n - LANES) - 1, 1));            \
        } else if (n > LANES / 2) { /* the first and the last half of a vector */                  \
            VEC low = NAME##_load(from), high = NAME##_load(from + 2 * n - 1 - LANES);             \
            low = NAME##_sorted(2, SD_SHUFFLE(MASK, low, low, SD_SECONDS_##LANES));                \
            high = NAME##_sorted(2, SD_SHUFFLE(MASK, high, high, SD_OTHERS_##LANES));              \
            memcpy(to, &low, sizeof(VEC) / 2);                                                     \
            memcpy(to + n - LANES / 2, &high, sizeof(VEC) / 2);                                    \
        } else {                                                                                   \
            for (; i < n; i++) to[i] = from[2 * i];                                                \
        }                                                                                          \
    }                                                                                              \
    /* For each row: to[j] = from[j * step] for low <= j < high, else 0, for j < length; in whole  \
       vectors, so that what hangs over is overwritten by the next row. */                         \
    SD_INLINE void NAME##_rows_of(const int step, const int vectors, T *to, ptrdiff_t length,      \
                                  const T *from, ptrdiff_t stride, ptrdiff_t rows, ptrdiff_t low,  \
                                  ptrdiff_t high, ptrdiff_t ahead) {                               \
        MASK lane, inside[SD_ROW_VECTORS];                                                         \
        SD_UNROLL for (int i = 0; i < LANES; i++) lane[i] = i;                                     \
        SD_UNROLL for (int v = 0; v < vectors; v++)                                                \
            inside[v] = (lane + v * LANES >= (int)low) & (lane + v * LANES < (int)high);           \
        for (; rows > 0; rows--, to += length, from += stride)                                     \
            SD_UNROLL for (int v = 0; v < vectors; v++) {                                          \
                VEC pixels = NAME##_tap(step, from + v * step * LANES, 0);                         \
                NAME##_store(to + v * LANES, (VEC)((MASK)pixels & inside[v]));                     \
                __builtin_prefetch(from + v * step * LANES + ahead);                               \
            }                                                                                      \
    }                                                                                              \
    static void NAME##_rows(T *to, ptrdiff_t length, const T *from, ptrdiff_t stride, ptrdiff_t rows,\
                            int step, ptrdiff_t low, ptrdiff_t high, ptrdiff_t ahead) {            \
        switch ((length + LANES - 1) / LANES * 4 + step) {                                         \
            SD_ROWS(1, NAME) SD_ROWS(2, NAME) SD_ROWS(3, NAME) SD_ROWS(4, NAME)                    \
        }                                                                                          \
    }                                                                                              \
    SD_INLINE void NAME##_add(T *to, const T *from, ptrdiff_t n) {                                 \
        ptrdiff_t i = 0;                                                                           \
        for (; i + LANES <= n; i += LANES)                                                         \
            NAME##_store(to + i, NAME##_load(to + i) + NAME##_load(from + i));                     \
        SD_ADD_PART(T, 8, LANES) SD_ADD_PART(T, 4, LANES)                                          \
        SD_ADD_PART(T, 2, LANES) SD_ADD_PART(T, 1, LANES)                                          \
    }                                                                                              \
    /* What is added to the odd ones is 0. */                                                      \
    SD_INLINE void NAME##_add_evens(T *to, const T *from, ptrdiff_t n) {                           \
        ptrdiff_t i = 0;                                                                           \
        for (; i + LANES < n; i += LANES) {                                                        \
            VEC low, high;                                                                         \
            T *p = to + 2 * i;                                                                     \
            NAME##_zip(NAME##_load(from + i), (VEC){0}, &low, &high);                              \
            NAME##_store(p, NAME##_load(p) + low);                                                 \
            NAME##_store(p + LANES, NAME##_load(p + LANES) + high);                                \
        }                                                                                          \
        for (; i < n; i++) to[2 * i] += from[i];                                                   \
    }                                                                                              \
    /* The odd ones between them are written back; the one after the last is another thread's. */  \
    SD_INLINE void NAME##_put_evens(T *to, const T *from, ptrdiff_t n) {                           \
        ptrdiff_t i = 0;                                                                           \
        VEC low, high;                                                                             \
        for (; i + LANES <= n; i += LANES) {                                                       \
            T *p = to + 2 * i;                                                                     \
            NAME##_zip(NAME##_load(from + i), NAME##_load(from + i), &low, &high);                 \
            NAME##_store(p, SD_SHUFFLE(MASK, low, NAME##_load(p), SD_BLEND_##LANES));              \
            if (i + LANES == n) {                                                                  \
                i += LANES / 2;                                                                    \
                break;                                                                             \
            }                                                                                      \
            p += LANES;                                                                            \
            NAME##_store(p, SD_SHUFFLE(MASK, high, NAME##_load(p), SD_BLEND_##LANES));             \
        }                                                                                          \
        for (; i < n; i++) to[2 * i] = from[i];                                                    \
    }

#if SD_VECTOR_BYTES == 64
SD_DEFINE_PAIRS(float, sd_float, sd_floats, sd_mask32, 16)
SD_DEFINE_PAIRS(double, sd_double, sd_doubles, sd_mask64, 8)
#elif SD_VECTOR_BYTES == 32
SD_DEFINE_PAIRS(float, sd_float, sd_floats, sd_mask32, 8)
SD_DEFINE_PAIRS(double, sd_double, sd_doubles, sd_mask64, 4)
#else
SD_DEFINE_PAIRS(float, sd_float, sd_floats, sd_mask32, 4)
SD_DEFINE_PAIRS(double, sd_double, sd_doubles, sd_mask64, 2)
#endif

#endif

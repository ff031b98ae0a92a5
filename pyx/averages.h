/* Sums down the rows of windows, then across them, and of whole planes; and back. */
#ifndef SLIDEDOT_AVERAGES_H
#define SLIDEDOT_AVERAGES_H

#include "lanes.h"

#define SD_DEFINE_AVERAGES(T, NAME, VEC, MASK, LANES)                                              \
    /* A vector of results, or the `count` lanes of it that there are. */                          \
    SD_INLINE void NAME##_put_some(T *y, VEC v, ptrdiff_t count) {                                 \
        T lanes[LANES];                                                                            \
        if (count >= LANES) {                                                                      \
            NAME##_store(y, v);                                                                    \
        } else {                                                                                   \
            NAME##_store(lanes, v);                                                                \
            NAME##_copy(y, lanes, count);                                                          \
        }                                                                                          \
    }                                                                                              \
    SD_INLINE void NAME##_sums_some(const int vectors, const int fixed, T *to, const T *x,         \
                                    ptrdiff_t pitch, ptrdiff_t rows, const T *widths, T height) {  \
        VEC sum[4];                                                                                \
        SD_UNROLL for (int v = 0; v < vectors; v++) sum[v] = NAME##_load(x + v * LANES);           \
        for (ptrdiff_t r = 1; r < (fixed ? fixed : rows); r++)                                     \
            SD_UNROLL for (int v = 0; v < vectors; v++)                                            \
                sum[v] += NAME##_load(x + r * pitch + v * LANES);                                  \
        SD_UNROLL for (int v = 0; v < vectors; v++) {                                              \
            if (widths) sum[v] /= NAME##_load(widths + v * LANES) * height;                        \
            NAME##_store(to + v * LANES, sum[v]);                                                  \
        }                                                                                          \
    }                                                                                              \
    SD_INLINE void NAME##_sums_body(const int fixed, T *to, const T *x, ptrdiff_t pitch,           \
                                    ptrdiff_t rows, const T *widths, T height, ptrdiff_t count) {  \
        ptrdiff_t i = 0;                                                                           \
        for (; i + 4 * LANES <= count; i += 4 * LANES)                                             \
            NAME##_sums_some(4, fixed, to + i, x + i, pitch, rows, widths ? widths + i : NULL,     \
                             height);                                                              \
        for (; i < count; i += LANES) {                                                            \
            if (i > count - LANES) i = count - LANES;                                              \
            NAME##_sums_some(1, fixed, to + i, x + i, pitch, rows, widths ? widths + i : NULL,     \
                             height);                                                              \
        }                                                                                          \
    }                                                                                              \
    /* to[i] = the sum over r < rows of x[r * pitch + i], divided by widths[i] * height unless     \
       `widths` is NULL. */                                                                        \
    static void NAME##_sum_down(T *to, const T *x, ptrdiff_t pitch, ptrdiff_t rows,                \
                                const T *widths, T height, ptrdiff_t count) {                      \
        if (count >= LANES) {                                                                      \
            switch (rows) {                                                                        \
            case 1: NAME##_sums_body(1, to, x, pitch, rows, widths, height, count); return;        \
            case 2: NAME##_sums_body(2, to, x, pitch, rows, widths, height, count); return;        \
            case 3: NAME##_sums_body(3, to, x, pitch, rows, widths, height, count); return;        \
            default: NAME##_sums_body(0, to, x, pitch, rows, widths, height, count); return;       \
            }                                                                                      \
        }                                                                                          \
        for (ptrdiff_t i = 0; i < count; i++) {                                                    \
            T sum = x[i];                                                                          \
            for (ptrdiff_t r = 1; r < rows; r++) sum += x[r * pitch + i];                          \
            to[i] = widths ? sum / (widths[i] * height) : sum;                                     \
        }                                                                                          \
    }                                                                                              \
                                                                                                   \
    SD_INLINE VEC NAME##_taps_sum(const int step, const int fixed, const T *row, ptrdiff_t taps) { \
        VEC sum = NAME##_mixed(step, row, 0);                                                      \
        if (fixed) {                                                                               \
            SD_UNROLL for (int j = 1; j < fixed; j++) sum += NAME##_mixed(step, row, j);           \
        } else {                                                                                   \
            for (ptrdiff_t j = 1; j < taps; j++) sum += NAME##_mixed(step, row + j, 0);            \
        }                                                                                          \
        return NAME##_sorted(step, sum);                                                           \
    }                                                                                              \
    SD_INLINE void NAME##_across_means(const int step, const int fixed, T *y, const T *row,        \
                                       ptrdiff_t taps, const T *widths, T height,                  \
                                       ptrdiff_t count) {                                          \
        for (ptrdiff_t o = 0; o < count; o += LANES) {                                             \
            if (o > 0 && o > count - LANES) o = count - LANES;                                     \
            VEC sum = NAME##_taps_sum(step, fixed, row + o * step, taps);                          \
            if (widths) sum /= NAME##_load(widths + o) * height;                                   \
            NAME##_put_some(y + o, sum, count);                                                    \
        }                                                                                          \
    }                                                                                              \
    /* y[o] = the sum over j < taps of row[o * step + j], divided by widths[o] * height unless     \
       `widths` is NULL. With steps of 1 and 2, whole vectors are read of a row and of widths. */  \
    static void NAME##_sum_across(ptrdiff_t step, T *y, const T *row, ptrdiff_t taps,              \
                                  const T *widths, T height, ptrdiff_t count) {                    \
        switch (step > 2 ? 0 : step * 4 + (taps == 2 || taps == 3 ? taps : 0)) {                   \
            SD_MEANS(1, 0, NAME) SD_MEANS(1, 2, NAME) SD_MEANS(1, 3, NAME)                         \
            SD_MEANS(2, 0, NAME) SD_MEANS(2, 2, NAME) SD_MEANS(2, 3, NAME)                         \
        }                                                                                          \
        for (ptrdiff_t o = 0; o < count; o++) {                                                    \
            T sum = row[o * step];                                                                 \
            for (ptrdiff_t j = 1; j < taps; j++) sum += row[o * step + j];                         \
            y[o] = widths ? sum / (widths[o] * height) : sum;                                      \
        }                                                                                          \
    }                                                                                              \
    SD_INLINE void NAME##_spread_body(const int fixed, T *to, const T *row, ptrdiff_t taps,        \
                                      ptrdiff_t count) {                                           \
        ptrdiff_t kernel = fixed ? fixed : taps, even = (kernel + 1) / 2, odd = kernel / 2;        \
        for (ptrdiff_t i = 0; i < count; i += LANES, to += 2 * LANES) {                            \
            VEC low = NAME##_taps_sum(1, fixed ? (fixed + 1) / 2 : 0, row + i, even), high = {0};  \
            if (odd) high = NAME##_taps_sum(1, fixed / 2, row + i + even - odd, odd);              \
            NAME##_zip(low, high, &low, &high);                                                    \
            NAME##_store(to, low);                                                                 \
            NAME##_store(to + LANES, high);                                                        \
        }                                                                                          \
    }                                                                                              \
    /* What windows of stride 2 give to pairs of pixels: the sums over j < taps, of which every    \
       second is one pixel's and the others the next one's. Whole vectors are read and written. */ \
    static void NAME##_spread_twos(T *to, const T *row, ptrdiff_t taps, ptrdiff_t count) {         \
        if (taps == 2)                                                                             \
            NAME##_spread_body(2, to, row, taps, count);                                           \
        else if (taps == 3)                                                                        \
            NAME##_spread_body(3, to, row, taps, count);                                           \
        else                                                                                       \
            NAME##_spread_body(0, to, row, taps, count);                                           \
    }                                                                                              \
                                                                                                   \
    /* The sum of a run, in lanes; what the last vector shares with the one before counts once. */ \
    SD_INLINE VEC NAME##_run_sum(const T *x, ptrdiff_t run) {                                      \
        VEC sum[4] = {{0}}, last;                                                                  \
        MASK lane;                                                                                 \
        ptrdiff_t i = 0;                                                                           \
        if (run < LANES) {                                                                         \
            T lanes[LANES] = {0};                                                                  \
            for (; i < run; i++) lanes[i] = x[i];                                                  \
            return NAME##_load(lanes);                                                             \
        }                                                                                          \
        for (; i + 4 * LANES <= run; i += 4 * LANES)                                               \
            SD_UNROLL for (int v = 0; v < 4; v++) sum[v] += NAME##_load(x + i + v * LANES);        \
        SD_UNROLL for (int v = 0; v < 3; v++)                                                      \
            if (i + LANES <= run) {                                                                \
                sum[v] += NAME##_load(x + i);                                                      \
                i += LANES;                                                                        \
            }                                                                                      \
        for (int l = 0; l < LANES; l++) lane[l] = l;                                               \
        last = (VEC)((MASK)NAME##_load(x + run - LANES) & (lane >= (int)(LANES - (run - i))));     \
        return (sum[0] + sum[1]) + (sum[2] + (sum[3] + last));                                     \
    }                                                                                              \
    /* y[p] = the sum of the run x[p] .., divided by `divisor`, for p < planes <= LANES. */        \
    static void NAME##_run_means(T *y, const T *const *x, ptrdiff_t run, T divisor,                \
                                 ptrdiff_t planes) {                                               \
        VEC sum[LANES];                                                                            \
        for (int p = 0; p < LANES; p++)                                                            \
            sum[p] = p < planes ? NAME##_run_sum(x[p], run) : (VEC){0};                            \
        SD_TRANSPOSE_##LANES(VEC, MASK, sum, LANES)                                                \
        SD_UNROLL for (int step = LANES / 2; step; step /= 2)                                      \
            SD_UNROLL for (int p = 0; p < step; p++) sum[p] += sum[p + step];                      \
        NAME##_put_some(y, sum[0] / divisor, planes);                                              \
    }
#define SD_MEANS(STEP, FIXED, NAME)                                                                \
    case STEP * 4 + FIXED:                                                                         \
        NAME##_across_means(STEP, FIXED, y, row, taps, widths, height, count);                     \
        return;

#if SD_VECTOR_BYTES == 64
SD_DEFINE_AVERAGES(float, sd_float, sd_floats, sd_mask32, 16)
SD_DEFINE_AVERAGES(double, sd_double, sd_doubles, sd_mask64, 8)
#elif SD_VECTOR_BYTES == 32
SD_DEFINE_AVERAGES(float, sd_float, sd_floats, sd_mask32, 8)
SD_DEFINE_AVERAGES(double, sd_double, sd_doubles, sd_mask64, 4)
#else
SD_DEFINE_AVERAGES(float, sd_float, sd_floats, sd_mask32, 4)
SD_DEFINE_AVERAGES(double, sd_double, sd_doubles, sd_mask64, 2)
#endif

#endif

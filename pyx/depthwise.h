/* A small filter that walks over a staged plane, and the sums for its gradient. */
#ifndef SLIDEDOT_DEPTHWISE_H
#define SLIDEDOT_DEPTHWISE_H

#include "simd.h"

#define SD_WALK_ROWS 4    /* output rows of a block */
#define SD_WALK_VECTORS 2 /* and vectors of each, where rows are so long */
#define SD_WALK_TAPS 9    /* of a gradient, at a time */

#define SD_DEFINE_WALK(T, NAME, VEC, MASK, INT, LANES)                                             \
    SD_INLINE void NAME##_walk_body(                                                               \
        const int kh, const int vectors, T *y, ptrdiff_t y_pitch, ptrdiff_t rows, ptrdiff_t count, \
        const T *x, ptrdiff_t pitch, const T *w, const ptrdiff_t *off, ptrdiff_t taps, T bias,     \
        int relu) {                                                                                \
        const ptrdiff_t width = vectors * LANES;                                                   \
        const int run = kh ? kh : 1, reach = SD_WALK_ROWS + run - 1;                               \
        for (ptrdiff_t r0 = 0; r0 < rows; r0 += SD_WALK_ROWS) {                                    \
            if (r0 > 0 && r0 > rows - SD_WALK_ROWS) r0 = rows - SD_WALK_ROWS;                      \
            for (ptrdiff_t o = 0; o < count; o += width) {                                         \
                if (o > 0 && o > count - width) o = count - width;                                 \
                VEC acc[SD_WALK_ROWS][SD_WALK_VECTORS];                                            \
                SD_UNROLL for (int r = 0; r < SD_WALK_ROWS; r++)                                   \
                    SD_UNROLL for (int v = 0; v < vectors; v++) acc[r][v] = (VEC){0};              \
                for (ptrdiff_t t = 0; t < taps; t += run) {                                        \
                    const T *p = x + r0 * pitch + o + off[t];                                      \
                    VEC k[8];                                                                      \
                    SD_UNROLL for (int i = 0; i < run; i++) k[i] = w[t + i] - (VEC){0};            \
                    SD_UNROLL for (int r = 0; r < reach; r++)                                      \
                        SD_UNROLL for (int v = 0; v < vectors; v++) {                              \
                            VEC pixels = NAME##_load(p + r * pitch + v * LANES);                   \
                            SD_UNROLL for (int i = 0; i < run; i++)                                \
                                if (r >= i && r - i < SD_WALK_ROWS)                                \
                                    acc[r - i][v] += k[i] * pixels;                                \
                        }                                                                          \
                }                                                                                  \
                SD_UNROLL for (int r = 0; r < SD_WALK_ROWS; r++)                                   \
                    SD_UNROLL for (int v = 0; v < vectors; v++) {                                  \
                        acc[r][v] += bias;                                                         \
                        if (relu) acc[r][v] = NAME##_relu(acc[r][v]);                              \
                    }                                                                              \
                T *to = y + r0 * y_pitch + o;                                                      \
                if (count >= width && rows >= SD_WALK_ROWS) {                                      \
                    SD_UNROLL for (int r = 0; r < SD_WALK_ROWS; r++)                               \
                        SD_UNROLL for (int v = 0; v < vectors; v++)                                \
                            NAME##_store(to + r * y_pitch + v * LANES, acc[r][v]);                 \
                    continue;                                                                      \
                }                                                                                  \
                T lanes[SD_WALK_ROWS][SD_WALK_VECTORS * LANES];                                    \
                SD_UNROLL for (int r = 0; r < SD_WALK_ROWS; r++)                                   \
                    SD_UNROLL for (int v = 0; v < vectors; v++)                                    \
                        NAME##_store(lanes[r] + v * LANES, acc[r][v]);                             \
                for (int r = 0; r < SD_WALK_ROWS && r < rows; r++)                                 \
                    NAME##_copy(to + r * y_pitch, lanes[r], count < width ? count : width);        \
            }                                                                                      \
        }                                                                                          \
    }                                                                                              \
    /* y[r][o] = bias + sum over t < taps of w[t] * x[r * pitch + off[t] + o]. Whole blocks of     \
       rows and vectors are read. `rolling` = kh says that taps come in runs of kh, each of which  \
       is a row after the last; else it is 0. */                                                   \
    static void NAME##_walk(int rolling, T *y, ptrdiff_t y_pitch, ptrdiff_t rows, ptrdiff_t count, \
                            const T *x, ptrdiff_t pitch, const T *w, const ptrdiff_t *off,         \
                            ptrdiff_t taps, T bias, int relu) {                                    \
        switch (rolling * 4 + (count >= 2 * LANES ? 2 : 1)) {                                           \
            SD_WALK(0, 1, NAME) SD_WALK(3, 1, NAME) SD_WALK(5, 1, NAME) SD_WALK(7, 1, NAME)        \
            SD_WALK(0, 2, NAME) SD_WALK(3, 2, NAME) SD_WALK(5, 2, NAME) SD_WALK(7, 2, NAME)        \
        }                                                                                          \
    }                                                                                              \
                                                                                                   \
    SD_INLINE void NAME##_sums_body(                                                               \
        const int taps, double *sums, const T *g, ptrdiff_t g_pitch, ptrdiff_t rows,               \
        ptrdiff_t count, const T *x, ptrdiff_t pitch, const ptrdiff_t *off) {                      \
        VEC acc[SD_WALK_TAPS];                                                                     \
        INT on[LANES];                                                                             \
        MASK keep;                                                                                 \
        const ptrdiff_t whole = count / LANES * LANES;                                             \
        for (int l = 0; l < LANES; l++) on[l] = l < count - whole ? -1 : 0;                        \
        memcpy(&keep, on, sizeof keep);                                                            \
        SD_UNROLL for (int t = 0; t < taps; t++) acc[t] = (VEC){0};                                \
        for (; rows > 0; rows--, g += g_pitch, x += pitch) {                                       \
            for (ptrdiff_t o = 0; o < whole; o += LANES) {                                         \
                VEC value = NAME##_load(g + o);                                                    \
                SD_UNROLL for (int t = 0; t < taps; t++)                                           \
                    acc[t] += value * NAME##_load(x + o + off[t]);                                 \
            }                                                                                      \
            if (whole < count) { /* an infinity beside the row is no part of the sums */           \
                VEC value = (VEC)((MASK)NAME##_load(g + whole) & keep);                            \
                SD_UNROLL for (int t = 0; t < taps; t++)                                           \
                    acc[t] += value * (VEC)((MASK)NAME##_load(x + whole + off[t]) & keep);         \
            }                                                                                      \
        }                                                                                          \
        SD_UNROLL for (int t = 0; t < taps; t++) {                                                 \
            T lanes[LANES];                                                                        \
            NAME##_store(lanes, acc[t]);                                                           \
            for (int l = 0; l < LANES; l++) sums[t] += (double)lanes[l];                           \
        }                                                                                          \
    }                                                                                              \
    /* sums[t] += the sum over r < rows and o < count of g[r][o] * x[r * pitch + off[t] + o], for  \
       up to SD_WALK_TAPS taps. */                                                                 \
    static void NAME##_tap_sums(int taps, double *sums, const T *g, ptrdiff_t g_pitch,             \
                                ptrdiff_t rows, ptrdiff_t count, const T *x, ptrdiff_t pitch,      \
                                const ptrdiff_t *off) {                                            \
        switch (taps) {                                                                            \
            SD_TAPS(1, NAME) SD_TAPS(2, NAME) SD_TAPS(3, NAME) SD_TAPS(4, NAME) SD_TAPS(5, NAME)   \
            SD_TAPS(6, NAME) SD_TAPS(7, NAME) SD_TAPS(8, NAME) SD_TAPS(9, NAME)                    \
        }                                                                                          \
    }
#define SD_WALK(KH, VECTORS, NAME)                                                                 \
    case KH * 4 + VECTORS:                                                                         \
        NAME##_walk_body(KH, VECTORS, y, y_pitch, rows, count, x, pitch, w, off, taps, bias,       \
                         relu);                                                                    \
        break;
#define SD_TAPS(TAPS, NAME)                                                                        \
    case TAPS:                                                                                     \
        NAME##_sums_body(TAPS, sums, g, g_pitch, rows, count, x, pitch, off);                      \
        break;

SD_DEFINE_WALK(float, sd_float, sd_floats, sd_mask32, int,
               ((int)(SD_VECTOR_BYTES / sizeof(float))))
SD_DEFINE_WALK(double, sd_double, sd_doubles, sd_mask64, long long,
               ((int)(SD_VECTOR_BYTES / sizeof(double))))

#endif

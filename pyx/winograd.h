/* Winograd's F(4x4, 3x3) on vectors of channels: the transforms, and the sums between them.

   Points 0, +-1/sqrt 2, +-sqrt 2 and infinity. Every transform works on an array of vectors whose
   lanes are channels, so tiles need no particular number or place. */
#ifndef SLIDEDOT_WINOGRAD_H
#define SLIDEDOT_WINOGRAD_H

#include "simd.h"

#define SD_LANES (SD_VECTOR_BYTES / 4)
#define SD_BLOCK (2 * SD_LANES) /* channels that lie together: what one tile of sums is wide */

/* Not to be inlined into a loop, where the compiler would keep the 36 pitches in memory. */
#define SD_APART __attribute__((noinline))

#define SD_LOW 0.70710678118654752f /* the points; their squares are 1/2 and 2 */
#define SD_HIGH 1.41421356237309505f

/* ------------------------------------------------------------------- rows of pixels <-> lanes */

SD_INLINE void sd_turn(sd_floats *v) {
#if SD_LANES == 16
    SD_TRANSPOSE_16(sd_floats, sd_mask32, v, 16)
#elif SD_LANES == 8
    SD_TRANSPOSE_8(sd_floats, sd_mask32, v, 8)
#else
    SD_TRANSPOSE_4(sd_floats, sd_mask32, v, 4)
#endif
}

/* Load a block of LANES rows, those from `rows` on as the last one. */
SD_INLINE void sd_load_rows(sd_floats *v, const float *from, ptrdiff_t rows, ptrdiff_t pitch) {
    SD_UNROLL for (int i = 0; i < SD_LANES; i++)
        v[i] = sd_float_load(from + (i < rows ? i : rows - 1) * pitch);
}

/* to[j * BLOCK + lane] = from[lane * pitch + j * stride] for j < n. Lanes from `rows` on repeat the
   last row. What lies `ahead` of each row is prefetched. */
static void sd_rows_to_lanes(float *to, const float *from, ptrdiff_t rows, ptrdiff_t pitch,
                             ptrdiff_t stride, ptrdiff_t n, ptrdiff_t ahead) {
    sd_floats v[SD_LANES];
    if (stride == 1 && n >= SD_LANES) {
        while (n % SD_LANES && n % SD_LANES <= SD_LANES / 4) { /* not worth a block */
            n--;
            for (ptrdiff_t i = 0; i < SD_LANES; i++)
                to[n * SD_BLOCK + i] = from[(i < rows ? i : rows - 1) * pitch + n];
        }
        for (ptrdiff_t j = 0; j < n; j += SD_LANES) { /* the last block overlaps the one before */
            if (j > n - SD_LANES) j = n - SD_LANES;
            if (rows >= SD_LANES) {
                SD_UNROLL for (int i = 0; i < SD_LANES; i++)
                    __builtin_prefetch(from + j + i * pitch + ahead);
                sd_load_rows(v, from + j, SD_LANES, pitch);
            } else {
                sd_load_rows(v, from + j, rows, pitch);
            }
            sd_turn(v);
            SD_UNROLL for (int i = 0; i < SD_LANES; i++)
                sd_float_store(to + (j + i) * SD_BLOCK, v[i]);
        }
    } else if (stride == 1) {
        SD_UNROLL for (int i = 0; i < SD_LANES; i++) {
            const float *row = from + (i < rows ? i : rows - 1) * pitch;
            if (i * pitch + SD_LANES <= (rows - 1) * pitch + n) { /* and some of the rows to come */
                v[i] = sd_float_load(row);
                __builtin_prefetch(row + ahead);
            } else {
                sd_float_copy((float *)(v + i), row, n);
            }
        }
        sd_turn(v);
        for (ptrdiff_t j = 0; j < n; j++) sd_float_store(to + j * SD_BLOCK, v[j]);
    } else if (pitch == 1 && rows >= SD_LANES) {
        for (ptrdiff_t j = 0; j < n; j++)
            sd_float_store(to + j * SD_BLOCK, sd_float_load(from + j * stride));
    } else {
        for (ptrdiff_t i = 0; i < SD_LANES; i++)
            for (ptrdiff_t j = 0; j < n; j++)
                to[j * SD_BLOCK + i] = from[(i < rows ? i : rows - 1) * pitch + j * stride];
    }
}

/* to[lane * pitch + j] = from[j * BLOCK + lane] for lane < rows, j < n. Of `from`, whole squares are
   read. */
static void sd_lanes_to_rows(float *to, ptrdiff_t pitch, const float *from, ptrdiff_t rows,
                             ptrdiff_t n, ptrdiff_t ahead) {
    sd_floats v[SD_LANES];
    for (ptrdiff_t j = 0; j < n; j += SD_LANES) {
        if (j > n - SD_LANES && n >= SD_LANES) j = n - SD_LANES;
        SD_UNROLL for (int i = 0; i < SD_LANES; i++)
            v[i] = sd_float_load(from + (j + i) * SD_BLOCK);
        sd_turn(v);
        SD_UNROLL for (int i = 0; i < SD_LANES; i++) {
            if (i >= rows) break;
            if (n >= SD_LANES) {
                __builtin_prefetch(to + i * pitch + j + ahead, 1);
                sd_float_store(to + i * pitch + j, v[i]);
            } else {
                float row[SD_LANES];
                sd_float_store(row, v[i]);
                sd_float_copy(to + i * pitch, row, n);
            }
        }
    }
}

/* The same for the rows of a block of channels. */
static void sd_rows_to_block(float *to, const float *from, ptrdiff_t rows, ptrdiff_t pitch,
                             ptrdiff_t stride, ptrdiff_t n, ptrdiff_t ahead) {
    for (; rows > 0; rows -= SD_LANES, to += SD_LANES, from += SD_LANES * pitch)
        sd_rows_to_lanes(to, from, rows, pitch, stride, n, ahead);
}

static void sd_block_to_rows(float *to, ptrdiff_t pitch, const float *from, ptrdiff_t rows,
                             ptrdiff_t n, ptrdiff_t ahead) {
    for (; rows > 0; rows -= SD_LANES, from += SD_LANES, to += SD_LANES * pitch)
        sd_lanes_to_rows(to, pitch, from, rows, n, ahead);
}

/* -------------------------------------------------------------------------------- transforms */

/* The six points of: six pixels (B^T), three taps (G), four outputs' gradients (A). What is left out
   of them, the factors of the two pairs of points, is in the ways back. */
#define SD_LOW_FACTOR (-2 / 3.f)
#define SD_HIGH_FACTOR (1 / 6.f)

SD_INLINE void sd_points_of_pixels(sd_floats *v, const sd_floats *d) {
    sd_floats even = d[4] - 2 * d[2], odd = d[3] - 2 * d[1];
    v[0] = d[0] - 2.5f * d[2] + d[4];
    v[1] = even + SD_LOW * odd;
    v[2] = even - SD_LOW * odd;
    even = d[4] - 0.5f * d[2];
    odd = d[3] - 0.5f * d[1];
    v[3] = even + SD_HIGH * odd;
    v[4] = even - SD_HIGH * odd;
    v[5] = d[1] - 2.5f * d[3] + d[5];
}

SD_INLINE void sd_points_of_taps(sd_floats *u, const sd_floats *w) {
    sd_floats even = w[0] + 0.5f * w[2];
    u[0] = w[0];
    u[1] = even + SD_LOW * w[1];
    u[2] = even - SD_LOW * w[1];
    even = w[0] + 2 * w[2];
    u[3] = even + SD_HIGH * w[1];
    u[4] = even - SD_HIGH * w[1];
    u[5] = w[2];
}

SD_INLINE void sd_points_of_outputs(sd_floats *y, const sd_floats *g) {
    sd_floats even = g[0] + 0.5f * g[2], odd = g[1] + 0.5f * g[3];
    y[0] = g[0];
    y[1] = even + SD_LOW * odd;
    y[2] = even - SD_LOW * odd;
    even = g[0] + 2 * g[2];
    odd = g[1] + 2 * g[3];
    y[3] = even + SD_HIGH * odd;
    y[4] = even - SD_HIGH * odd;
    y[5] = g[3];
}

/* And back: four outputs (A^T) or three taps' gradients (G^T) of six points. */
SD_INLINE void sd_outputs_of_points(sd_floats *y, const sd_floats *m) {
    sd_floats even = m[1] + m[2], odd = m[1] - m[2];
    sd_floats higher_even = m[3] + m[4], higher_odd = m[3] - m[4];
    y[0] = m[0] + SD_LOW_FACTOR * even + SD_HIGH_FACTOR * higher_even;
    y[1] = SD_LOW_FACTOR * SD_LOW * odd + SD_HIGH_FACTOR * SD_HIGH * higher_odd;
    y[2] = SD_LOW_FACTOR / 2 * even + SD_HIGH_FACTOR * 2 * higher_even;
    y[3] = m[5] + SD_LOW_FACTOR / 2 * SD_LOW * odd + SD_HIGH_FACTOR * 2 * SD_HIGH * higher_odd;
}

SD_INLINE void sd_taps_of_points(sd_floats *w, const sd_floats *u) {
    sd_floats even = u[1] + u[2], higher_even = u[3] + u[4];
    w[0] = u[0] + SD_LOW_FACTOR * even + SD_HIGH_FACTOR * higher_even;
    w[1] = SD_LOW_FACTOR * SD_LOW * (u[1] - u[2]) + SD_HIGH_FACTOR * SD_HIGH * (u[3] - u[4]);
    w[2] = u[5] + SD_LOW_FACTOR / 2 * even + SD_HIGH_FACTOR * 2 * higher_even;
}

/* A tile that gives only three rows or columns of outputs does without the points at infinity,
   which only the fourth one needs. `place` says where a tile lies among those that have point
   (i, j): all of them, with j = 5, with i = 5, with both; or a negative number. */
SD_INLINE ptrdiff_t sd_place(const ptrdiff_t *place, int i, int j) {
    return place[2 * (i == 5) + (j == 5)];
}

/* Columns of six pixels, or of four outputs' gradients, to columns of six points; in place too. */
static void sd_points_of_columns(float *to, ptrdiff_t to_row, const float *d, ptrdiff_t row,
                                 ptrdiff_t columns, int vectors, int outputs) {
    for (ptrdiff_t x = 0; x < columns; x++, d += SD_BLOCK, to += SD_BLOCK)
        for (int h = 0; h < vectors * SD_LANES; h += SD_LANES) {
            sd_floats from[6], points[6];
            SD_UNROLL for (int i = 0; i < 6; i++) {
                if (outputs && i >= 4) break;
                from[i] = sd_float_load(d + i * row + h);
            }
            if (outputs) sd_points_of_outputs(points, from);
            else sd_points_of_pixels(points, from);
            SD_UNROLL for (int i = 0; i < 6; i++) sd_float_store(to + i * to_row + h, points[i]);
        }
}

/* Then a tile's columns: v[i][j][place] of its 36 points. */
static void sd_points_of_tile(float *v, ptrdiff_t pitch, const ptrdiff_t *place, const float *d,
                              ptrdiff_t row, int vectors, int outputs) {
    for (int i = 0; i < 6 && sd_place(place, i, 0) >= 0; i++, d += row)
        for (int h = 0; h < vectors; h++) {
            sd_floats from[6], to[6];
            float *p = v + 6 * i * pitch + h * SD_LANES;
            SD_UNROLL for (int j = 0; j < 6; j++) {
                if (outputs && j >= 4) break;
                from[j] = sd_float_load(d + j * SD_BLOCK + h * SD_LANES);
            }
            if (outputs) {
                if (place[1] < 0) from[3] = (sd_floats){0};
                sd_points_of_outputs(to, from);
            } else {
                sd_points_of_pixels(to, from);
            }
            SD_UNROLL for (int j = 0; j < 5; j++)
                sd_float_store(p + j * pitch + sd_place(place, i, 0) * SD_BLOCK, to[j]);
            if (sd_place(place, i, 5) >= 0)
                sd_float_store(p + 5 * pitch + sd_place(place, i, 5) * SD_BLOCK, to[5]);
        }
}

/* The first columns of a tile's 4 x 4 outputs of its points' sums; a fourth row that it does not
   give is not defined. */
static SD_APART void sd_outputs_of_vector(float *y, ptrdiff_t row, ptrdiff_t columns,
                                          const float *m, ptrdiff_t pitch, const ptrdiff_t *place,
                                          const float *bias, int relu) {
    sd_floats half[4][6], from[6], to[4], b = sd_float_load(bias);
    SD_UNROLL for (int j = 0; j < 6; j++) {
        SD_UNROLL for (int i = 0; i < 6; i++) {
            ptrdiff_t there = sd_place(place, i, j);
            from[i] = (sd_floats){0};
            if (there >= 0) from[i] = sd_float_load(m + (6 * i + j) * pitch + there * SD_BLOCK);
        }
        sd_outputs_of_points(to, from);
        SD_UNROLL for (int i = 0; i < 4; i++) half[i][j] = to[i];
    }
    SD_UNROLL for (int i = 0; i < 4; i++) {
        sd_outputs_of_points(to, half[i]);
        SD_UNROLL for (int j = 0; j < 4; j++) {
            to[j] += b;
            if (j < columns) sd_float_store(y + i * row + j * SD_BLOCK, relu ? sd_float_relu(to[j]) : to[j]);
        }
    }
}

/* u[i][j] of 3 x 3 filters whose taps, row by row, lie `step` apart. */
static SD_APART void sd_points_of_taps_vector(float *u, ptrdiff_t pitch, const float *w,
                                              ptrdiff_t step) {
    sd_floats half[6][3], from[3], to[6];
    SD_UNROLL for (int j = 0; j < 3; j++) {
        SD_UNROLL for (int i = 0; i < 3; i++) from[i] = sd_float_load(w + (3 * i + j) * step);
        sd_points_of_taps(to, from);
        SD_UNROLL for (int i = 0; i < 6; i++) half[i][j] = to[i];
    }
    SD_UNROLL for (int i = 0; i < 6; i++) {
        sd_points_of_taps(to, half[i]);
        SD_UNROLL for (int j = 0; j < 6; j++) sd_float_store(u + (6 * i + j) * pitch, to[j]);
    }
}

/* w[tap] of the gradients for filters' points. */
static SD_APART void sd_taps_of_vector(float *w, const float *u, ptrdiff_t pitch) {
    sd_floats half[3][6], from[6], to[3];
    SD_UNROLL for (int j = 0; j < 6; j++) {
        SD_UNROLL for (int i = 0; i < 6; i++) from[i] = sd_float_load(u + (6 * i + j) * pitch);
        sd_taps_of_points(to, from);
        SD_UNROLL for (int i = 0; i < 3; i++) half[i][j] = to[i];
    }
    SD_UNROLL for (int i = 0; i < 3; i++) {
        sd_taps_of_points(to, half[i]);
        SD_UNROLL for (int j = 0; j < 3; j++) sd_float_store(w + (3 * i + j) * SD_BLOCK, to[j]);
    }
}

static inline void sd_outputs_of_tile(float *y, ptrdiff_t row, ptrdiff_t columns, const float *m,
                                      ptrdiff_t pitch, const ptrdiff_t *place, const float *bias,
                                      int vectors, int relu) {
    for (int h = 0; h < vectors * SD_LANES; h += SD_LANES)
        sd_outputs_of_vector(y + h, row, columns, m + h, pitch, place, bias + h, relu);
}

static inline void sd_points_of_filter(float *u, ptrdiff_t pitch, const float *w, ptrdiff_t step,
                                       int vectors) {
    for (int h = 0; h < vectors * SD_LANES; h += SD_LANES)
        sd_points_of_taps_vector(u + h, pitch, w + h, step);
}

static inline void sd_filter_of_points(float *w, const float *u, ptrdiff_t pitch, int vectors) {
    for (int h = 0; h < vectors * SD_LANES; h += SD_LANES)
        sd_taps_of_vector(w + h, u + h, pitch);
}

/* ------------------------------------------------------------------------- sums at one point */

/* A register tile of two vectors, as that of simd.h; but rows and terms lie at fixed steps, and
   without tables it is 3 % faster. acc[i] += a[k * step + i * row] * b[k], over k < terms. */
SD_INLINE void sd_terms(const int rows, const int vectors, const int step, const int row,
                        sd_floats (*acc)[2], ptrdiff_t terms, const float *a, const float *b) {
    _Pragma("GCC unroll 4") for (ptrdiff_t k = 0; k < terms; k++) {
        sd_floats x[2];
        SD_UNROLL for (int j = 0; j < vectors; j++)
            x[j] = sd_float_load(b + k * SD_BLOCK + j * SD_LANES);
        SD_UNROLL for (int i = 0; i < rows; i++)
            SD_UNROLL for (int j = 0; j < vectors; j++) acc[i][j] += a[k * step + i * row] * x[j];
    }
}

SD_INLINE void sd_sums(const int rows, const int vectors, const int over_tiles, ptrdiff_t terms,
                       const float *a, ptrdiff_t pitch, const float *b, float *c, int add) {
    sd_floats acc[SD_MAX_ROWS][2];
    SD_UNROLL for (int i = 0; i < rows; i++)
        SD_UNROLL for (int j = 0; j < vectors; j++) acc[i][j] = (sd_floats){0};
    if (over_tiles) {
        sd_terms(rows, vectors, SD_BLOCK, 1, acc, terms, a, b);
    } else {
        for (; terms >= SD_BLOCK; terms -= SD_BLOCK, a += pitch, b += SD_BLOCK * SD_BLOCK)
            sd_terms(rows, vectors, 1, SD_BLOCK, acc, SD_BLOCK, a, b);
        sd_terms(rows, vectors, 1, SD_BLOCK, acc, terms, a, b);
    }
    SD_UNROLL for (int i = 0; i < rows; i++)
        SD_UNROLL for (int j = 0; j < vectors; j++) {
            float *p = c + i * SD_BLOCK + j * SD_LANES;
            sd_float_store(p, add ? sd_float_load(p) + acc[i][j] : acc[i][j]);
        }
}

#define SD_SUMS_FUNCTION(R)                                                                        \
    static SD_TILE void sd_sums_##R(                                                               \
        int vectors, int over_tiles, ptrdiff_t terms, const float *a, ptrdiff_t pitch,             \
        const float *b, float *c, int add) {                                                       \
        if (R > SD_MAX_ROWS) return;                                                               \
        if (over_tiles && vectors == 2) sd_sums(R, 2, 1, terms, a, pitch, b, c, add);              \
        else if (over_tiles) sd_sums(R, 1, 1, terms, a, pitch, b, c, add);                         \
        else if (vectors == 2) sd_sums(R, 2, 0, terms, a, pitch, b, c, add);                       \
        else sd_sums(R, 1, 0, terms, a, pitch, b, c, add);                                         \
    }
#define SD_SUMS_CASE(R) case R: sd_sums_##R(vectors, over_tiles, terms, a, pitch, b, c, add); break;
#define SD_SUMS_ALL(F) F(1) F(2) F(3) F(4) F(5) F(6) F(7) F(8) F(9) F(10) F(11) F(12) F(13) F(14)
SD_SUMS_ALL(SD_SUMS_FUNCTION)

static inline void sd_sums_of(ptrdiff_t rows, int vectors, int over_tiles, ptrdiff_t terms,
                              const float *a, ptrdiff_t pitch, const float *b, float *c, int add) {
    switch (rows) { SD_SUMS_ALL(SD_SUMS_CASE) }
}

/* c[tile] = sum over channels of a[channel / BLOCK][tile][channel % BLOCK] * b[channel]. */
static inline void sd_sums_over_channels(ptrdiff_t tiles, int vectors, ptrdiff_t channels,
                                         const float *a, ptrdiff_t pitch, const float *b, float *c,
                                         int add) {
    sd_sums_of(tiles, vectors, 0, channels, a, pitch, b, c, add);
}

/* c[channel] = sum over tiles of a[tile][channel] * b[tile]. */
static inline void sd_sums_over_tiles(ptrdiff_t channels, int vectors, ptrdiff_t tiles,
                                      const float *a, const float *b, float *c, int add) {
    sd_sums_of(channels, vectors, 1, tiles, a, 0, b, c, add);
}

#endif

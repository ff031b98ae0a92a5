/* A small filter that walks over the rows of a plane, and the sums for its gradient. */
#ifndef SLIDEDOT_DEPTHWISE_H
#define SLIDEDOT_DEPTHWISE_H

#include "lanes.h"

/* Rows of a block, and of one where less are left: planes of 7, 14, 28, ... are whole blocks. */
#define SD_WALK_ROWS (SD_REGISTERS == 32 ? 14 : 7)
#define SD_WALK_FEW 7
#define SD_WALK_RUN 7 /* most taps, one below the other, that share their pixels */
#define SD_HELD 3     /* rows and columns of the filter that registers hold */
#define SD_WIDE (SD_VECTOR_BYTES == 64)

#define SD_DEFINE_WALK(T, NAME, VEC, MASK, INT, LANES)                                             \
    /* Every `step`-th pixel from the j-th on, mixed as `sorted` undoes it. */                     \
    SD_INLINE VEC NAME##_nth(const int step, const T *p, const int j) {                            \
        return NAME##_mixed(step, p + j / step * step, j % step);                                  \
    }                                                                                              \
    /* From tap j on; with a step of 2, it follows tap j - 1. */                                   \
    SD_INLINE VEC NAME##_taps(const int step, const T *p, const ptrdiff_t *col, const int j) {     \
        return step == 1 ? NAME##_load(p + col[j]) : NAME##_nth(2, p + col[0], j);                 \
    }                                                                                              \
    SD_INLINE VEC NAME##_kept(VEC v, MASK inside) { return (VEC)((MASK)v & inside); }              \
    /* At most `count` lanes, but a whole vector where it ends before `end`: what hangs over a row \
       is overwritten by the next one. */                                                          \
    SD_INLINE void NAME##_put(T *to, VEC value, ptrdiff_t count, const T *end) {                   \
        if (count >= LANES || to + LANES <= end) {                                                 \
            NAME##_store(to, value);                                                               \
        } else {                                                                                   \
            T lanes[2 * LANES];                                                                    \
            NAME##_store(lanes, value);                                                            \
            NAME##_copy(to, lanes, count);                                                         \
        }                                                                                          \
    }                                                                                              \
    /* A block of rows, column of taps after column of taps. */                                    \
    SD_INLINE void NAME##_walk_block(                                                              \
        const int block, const int run, const int step, T *y, ptrdiff_t y_pitch, ptrdiff_t rows,   \
        ptrdiff_t count, const T *end, T *const *at, ptrdiff_t jump, const T *valid,               \
        const ptrdiff_t *row, const ptrdiff_t *col, const T *w, ptrdiff_t taps, T bias, int relu) {\
        const int reach = run > 1 ? (block - 1) * step + run : block;                              \
        const ptrdiff_t next = run > 1 ? 1 : jump;                                                 \
        for (ptrdiff_t o = 0; o < count; o += LANES) {                                             \
            if (o > 0 && o > count - LANES) o = count - LANES;                                     \
            VEC acc[SD_WALK_ROWS];                                                                 \
            SD_UNROLL for (int r = 0; r < block; r++) acc[r] = (VEC){0};                           \
            for (ptrdiff_t t = 0; t < taps; t += run) {                                            \
                T *const *from = run > 1 ? at : at + row[t];                                       \
                const ptrdiff_t c = o * step;                                                      \
                const MASK inside = (MASK)NAME##_taps(step, valid + c, col + t, 0);                \
                VEC k[SD_WALK_RUN];                                                                \
                SD_UNROLL for (int i = 0; i < run; i++) k[i] = w[t + i] - (VEC){0};                \
                SD_UNROLL for (int r = 0; r < reach; r++) {                                        \
                    VEC pixels = NAME##_taps(step, from[r * next] + c, col + t, 0);                \
                    pixels = NAME##_kept(pixels, inside);                                          \
                    SD_UNROLL for (int i = 0; i < run; i++) {                                      \
                        const int to = run > 1 ? (r - i) / step : r;                               \
                        if (run == 1 || (r >= i && (r - i) % step == 0 && to < block))             \
                            acc[to] += k[i] * pixels;                                              \
                    }                                                                              \
                }                                                                                  \
            }                                                                                      \
            SD_UNROLL for (int r = 0; r < block; r++)                                              \
                acc[r] = NAME##_sorted(step, acc[r]) + bias;                                       \
            if (relu) SD_UNROLL for (int r = 0; r < block; r++) acc[r] = NAME##_relu(acc[r]);      \
            T *to = y + o;                                                                         \
            SD_UNROLL for (int r = 0; r < block; r++, to += y_pitch)                               \
                if (r < rows) NAME##_put(to, acc[r], count, end);                                  \
        }                                                                                          \
    }                                                                                              \
    SD_INLINE void NAME##_walk_rows(                                                               \
        const int run, const int step, T *y, ptrdiff_t y_pitch, ptrdiff_t rows, ptrdiff_t count,   \
        T *const *at, ptrdiff_t jump, const T *valid, const ptrdiff_t *row, const ptrdiff_t *col,  \
        const T *w, ptrdiff_t taps, T bias, int relu) {                                            \
        const T *end = y_pitch == count ? y + rows * count : y;                                    \
        for (ptrdiff_t r0 = 0, few = 0; r0 < rows; r0 += few ? SD_WALK_FEW : SD_WALK_ROWS) {       \
            few = rows - r0 <= SD_WALK_FEW || SD_WALK_ROWS == SD_WALK_FEW;                         \
            const ptrdiff_t block = few ? SD_WALK_FEW : SD_WALK_ROWS;                              \
            if (r0 > 0 && r0 > rows - block) r0 = rows > block ? rows - block : 0;                 \
            if (few)                                                                               \
                NAME##_walk_block(SD_WALK_FEW, run, step, y + r0 * y_pitch, y_pitch, rows, count,  \
                                  end, at + r0 * jump, jump, valid, row, col, w, taps, bias, relu);\
            else                                                                                   \
                NAME##_walk_block(SD_WALK_ROWS, run, step, y + r0 * y_pitch, y_pitch, rows, count, \
                                  end, at + r0 * jump, jump, valid, row, col, w, taps, bias, relu);\
        }                                                                                          \
    }                                                                                              \
    /* The pixels of a row's taps, each a pixel after the last, where they are `inside`, or as they\
       are (NULL). Wide vectors are loaded once, for most of their loads would cross cache lines,  \
       and moved on by one lane. */                                                                \
    SD_INLINE void NAME##_beside(const int step, const int columns, const T *p, const MASK *inside,\
                                 VEC *pixels) {                                                    \
        if (!SD_WIDE) {                                                                            \
            SD_UNROLL for (int j = 0; j < columns; j++) {                                          \
                pixels[j] = NAME##_nth(step, p, j);                                                \
                if (inside) pixels[j] = NAME##_kept(pixels[j], inside[j]);                         \
            }                                                                                      \
            return;                                                                                \
        }                                                                                          \
        VEC loaded[SD_HELD];                                                                       \
        SD_UNROLL for (int j = 0; j < step; j++) {                                                 \
            loaded[j] = NAME##_load(p + j * LANES);                                                \
            if (inside) loaded[j] = NAME##_kept(loaded[j], inside[j]);                             \
        }                                                                                          \
        SD_UNROLL for (int j = 0; j < step; j++)                                                   \
            pixels[j] = step == 1 ? loaded[0] : NAME##_half(loaded[0], loaded[1], j);              \
        SD_UNROLL for (int j = step; j < columns; j++) {                                           \
            VEC last = p[step * LANES + j - step] - (VEC){0};                                      \
            if (inside) last = NAME##_kept(last, inside[j]);                                       \
            pixels[j] = NAME##_next(pixels[j - step], last);                                       \
        }                                                                                          \
    }                                                                                              \
    SD_INLINE void NAME##_inside_of(const int step, const T *valid, MASK *inside) {                \
        SD_UNROLL for (int j = 0; j < SD_HELD; j++)                                                \
            inside[j] = !SD_WIDE ? (MASK)NAME##_nth(step, valid, j)                                \
                                 : (MASK)NAME##_load(valid + (j < step ? j : step) * LANES +       \
                                                     (j < step ? 0 : j - step));                   \
    }                                                                                              \
    /* Row r of a column of vectors adds to the outputs that it is a part of: acc[turn] begins, the\
       one that it ends is returned. */                                                            \
    SD_INLINE VEC NAME##_meet(const int step, const int turn, VEC *acc, VEC (*k)[SD_HELD],         \
                              T *const *from, ptrdiff_t o, const MASK *inside) {                   \
        enum { held = SD_HELD };                                                                   \
        const int later = (held - 1) / step + 1; /* outputs that a row is a part of, at most */    \
        acc[turn] = (VEC){0}; /* of two products, a compiler may round either */                   \
        SD_UNROLL for (int p = 0; p < step; p++) {                                                 \
            VEC pixels[held];                                                                      \
            NAME##_beside(step, held, from[p] + o * step, inside, pixels);                         \
            SD_UNROLL for (int j = 0; j < held; j++)                                               \
                SD_UNROLL for (int i = p; i < held; i += step)                                     \
                    acc[(turn + i / step) % later] += k[i][j] * pixels[j];                         \
        }                                                                                          \
        return acc[(turn + later - 1) % later];                                                    \
    }                                                                                              \
    /* Rows of outputs follow each other. What hangs over one is overwritten by the next one; the  \
       last ones, which nothing may hang over, are put aside first. */                             \
    SD_INLINE void NAME##_walk_down(const int step, T *y, ptrdiff_t rows, ptrdiff_t count,         \
                                    T *const *at, const T *valid, const T *w, T bias, int relu) {  \
        const int later = (SD_HELD - 1) / step + 1;                                                \
        T aside[2 * LANES];                                                                        \
        VEC k[SD_HELD][SD_HELD];                                                                   \
        ptrdiff_t safe = rows;                                                                     \
        if (count < LANES)                                                                         \
            while (safe > 0 && (safe - 1) * count + LANES > rows * count) safe--;                  \
        SD_UNROLL for (int i = 0; i < SD_HELD; i++)                                                \
            SD_UNROLL for (int j = 0; j < SD_HELD; j++) k[i][j] = w[i * SD_HELD + j] - (VEC){0};   \
        for (ptrdiff_t o = 0; o < count; o += LANES) {                                             \
            if (o > 0 && o > count - LANES) o = count - LANES;                                     \
            MASK inside[SD_HELD];                                                                  \
            VEC acc[SD_HELD];                                                                      \
            NAME##_inside_of(step, valid + o * step, inside);                                      \
            SD_UNROLL for (int i = 0; i < later; i++) acc[i] = (VEC){0};                           \
            SD_UNROLL for (int r = 1; r < later; r++)                                              \
                NAME##_meet(step, later - r, acc, k, at + (r - 1) * step, o, inside);              \
            T *const *from = at + (later - 1) * step;                                              \
            T *to = safe > 0 ? y + o : aside;                                                      \
            ptrdiff_t left = safe > 0 ? safe : rows, rest = rows - left;                           \
            for (;;)                                                                               \
                SD_UNROLL for (int turn = later; turn > 0; turn--) { /* no sum is moved */         \
                    VEC value = NAME##_meet(step, turn % later, acc, k, from, o, inside);          \
                    value = NAME##_sorted(step, value) + bias;                                     \
                    if (relu) value = NAME##_relu(value);                                          \
                    NAME##_store(to, value);                                                       \
                    from += step;                                                                  \
                    to += count;                                                                   \
                    if (--left == 0) {                                                             \
                        if (rest == 0) goto next;                                                  \
                        to = aside;                                                                \
                        left = rest;                                                               \
                        rest = 0;                                                                  \
                    }                                                                              \
                }                                                                                  \
        next:;                                                                                     \
        }                                                                                          \
        if (safe < rows) NAME##_copy(y + safe * count, aside, (rows - safe) * count);              \
    }                                                                                              \
    /* y[r][o] = bias + sum over t < taps of w[t] * at[r * jump + row[t]][o * step + col[t]], where\
       `valid`, laid out like a row, has all bits set, and 0 elsewhere: in this order, bias last.  \
       Taps come in runs of `run`, each a row after the last; if that is more than one, jump =     \
       step. `held` says that there are SD_HELD rows, from row 0 on, of SD_HELD taps, each a pixel \
       after the last, from element 0 on, and jump = step. */                                      \
    static void NAME##_walk(int held, int run, int step, T *y, ptrdiff_t y_pitch, ptrdiff_t rows,  \
                            ptrdiff_t count, T *const *at, ptrdiff_t jump, const T *valid,         \
                            const ptrdiff_t *row, const ptrdiff_t *col, const T *w,                \
                            ptrdiff_t taps, T bias, int relu) {                                    \
        switch (held ? step : run * 4 + step) {                                                    \
            SD_WALK_DOWN(1, NAME) SD_WALK_ROWS_OF(1, 1, NAME) SD_WALK_ROWS_OF(3, 1, NAME)          \
            SD_WALK_DOWN(2, NAME) SD_WALK_ROWS_OF(1, 2, NAME) SD_WALK_ROWS_OF(3, 2, NAME)          \
            SD_WALK_ROWS_OF(5, 1, NAME) SD_WALK_ROWS_OF(5, 2, NAME) SD_WALK_ROWS_OF(7, 1, NAME)    \
        }                                                                                          \
    }                                                                                              \
    /* y[r][2 * o] from the first `evens` taps and y[r][2 * o + 1] from the others: bias plus their\
       sum of w[t] * at[r + row[t]][o + col[t]]. */                                                \
    static void NAME##_walk_twice(T *y, ptrdiff_t y_pitch, ptrdiff_t rows, ptrdiff_t count,        \
                                  T *const *at, const T *valid, const ptrdiff_t *row,              \
                                  const ptrdiff_t *col, const T *w, ptrdiff_t evens,               \
                                  ptrdiff_t taps, T bias) {                                        \
        enum { block = SD_WALK_FEW };                                                              \
        const ptrdiff_t width = 2 * LANES;                                                         \
        for (ptrdiff_t r0 = 0; r0 < rows; r0 += block) {                                           \
            if (r0 > 0 && r0 > rows - block) r0 = rows - block;                                    \
            for (ptrdiff_t o = 0; o < count; o += width) {                                         \
                if (o > 0 && o > count - width && count % 2 == 0) o = count - width;               \
                VEC acc[2][block];                                                                 \
                SD_UNROLL for (int v = 0; v < 2; v++) {                                            \
                    SD_UNROLL for (int r = 0; r < block; r++) acc[v][r] = (VEC){0};                \
                    for (ptrdiff_t t = v ? evens : 0; t < (v ? taps : evens); t++) {               \
                        T *const *from = at + r0 + row[t];                                         \
                        const ptrdiff_t c = o / 2 + col[t];                                        \
                        const MASK inside = (MASK)NAME##_load(valid + c);                          \
                        const VEC k = w[t] - (VEC){0};                                             \
                        SD_UNROLL for (int r = 0; r < block; r++)                                  \
                            acc[v][r] +=                                                           \
                                k * NAME##_kept(NAME##_load(from[r] + c), inside);                 \
                    }                                                                              \
                }                                                                                  \
                const ptrdiff_t left = count - o;                                                  \
                SD_UNROLL for (int r = 0; r < block; r++)                                          \
                    if (r < rows) {                                                                \
                        T *to = y + (r0 + r) * y_pitch + o, lanes[2 * LANES];                      \
                        T *whole = left < width ? lanes : to;                                      \
                        VEC low, high;                                                             \
                        NAME##_zip(acc[0][r] + bias, acc[1][r] + bias, &low, &high);               \
                        NAME##_store(whole, low);                                                  \
                        NAME##_store(whole + LANES, high);                                         \
                        if (left < width) NAME##_copy(to, lanes, left);                            \
                    }                                                                              \
            }                                                                                      \
        }                                                                                          \
    }                                                                                              \
                                                                                                   \
    /* Row r of the outputs' pixels with those of its taps whose rows of g there are. */           \
    SD_INLINE void NAME##_add_edge(                                                                \
        const int run, const int step, const int columns, VEC (*acc)[SD_HELD], T *const *g,        \
        ptrdiff_t rows, ptrdiff_t r, ptrdiff_t o, T *const *from, const ptrdiff_t *col,            \
        MASK keep, const MASK *inside) {                                                           \
        SD_UNROLL for (int i = 0; i < run; i++)                                                    \
            if (r >= i / step && r - i / step < rows) {                                            \
                VEC value = NAME##_sorted(step, NAME##_load(g[r - i / step] + o));                 \
                value = NAME##_kept(value, keep);                                                  \
                SD_UNROLL for (int j = 0; j < columns; j++)                                        \
                    acc[j][i] += value * NAME##_kept(                                              \
                        NAME##_taps(step, from[i % step] + o * step, col, j), inside[j]);          \
            }                                                                                      \
    }                                                                                              \
    /* The sum of the lanes: by halves for as long as these are vectors, or compilers would take   \
       all lanes apart. */                                                                         \
    SD_INLINE T NAME##_across(VEC v) {                                                             \
        typedef T half __attribute__((vector_size(32)));                                           \
        typedef T quarter __attribute__((vector_size(16)));                                        \
        enum { least = 16 / sizeof(T) };                                                           \
        T lanes[2 * LANES];                                                                        \
        NAME##_store(lanes, v);                                                                    \
        if (LANES == 4 * least) {                                                                  \
            half low, high;                                                                        \
            memcpy(&low, lanes, sizeof low);                                                       \
            memcpy(&high, lanes + LANES / 2, sizeof high);                                         \
            low += high;                                                                           \
            memcpy(lanes, &low, sizeof low);                                                       \
        }                                                                                          \
        if (LANES > least) {                                                                       \
            quarter low, high;                                                                     \
            memcpy(&low, lanes, sizeof low);                                                       \
            memcpy(&high, lanes + least, sizeof high);                                             \
            low += high;                                                                           \
            memcpy(lanes, &low, sizeof low);                                                       \
        }                                                                                          \
        SD_UNROLL for (int part = least / 2; part; part /= 2)                                      \
            SD_UNROLL for (int l = 0; l < part; l++) lanes[l] += lanes[l + part];                  \
        return lanes[0];                                                                           \
    }                                                                                              \
    SD_INLINE void NAME##_sums_body(                                                               \
        const int run, const int step, const int columns, double *sums, ptrdiff_t sums_pitch,      \
        T *const *g, ptrdiff_t rows, ptrdiff_t begin, ptrdiff_t end, T *const *at, ptrdiff_t jump, \
        const T *valid, const ptrdiff_t *col) {                                                    \
        const int late = (run - 1) / step, phases = run > 1 ? step : 1;                            \
        const int near = columns > 1 && (step == 2 || col[1] - col[0] == 1);                       \
        const ptrdiff_t top = rows < late ? rows : late;                                           \
        VEC acc[SD_HELD][SD_HELD];                                                                 \
        MASK ramp;                                                                                 \
        SD_UNROLL for (int l = 0; l < LANES; l++) ramp[l] = l;                                     \
        SD_UNROLL for (int j = 0; j < columns; j++)                                                \
            SD_UNROLL for (int i = 0; i < run; i++) acc[j][i] = (VEC){0};                          \
        for (ptrdiff_t next = begin; next < end; next += LANES) {                                  \
            const ptrdiff_t o = next <= end - LANES ? next : end < LANES ? 0 : end - LANES;        \
            /* an infinity beside the block is no part of the sums */                              \
            const INT first = (INT)(next - o), last = (INT)(end - o);                              \
            const MASK keep =                                                                      \
                (MASK)NAME##_sorted(step, (VEC)((ramp >= first) & (ramp < last)));                 \
            MASK inside[SD_HELD];                                                                  \
            VEC value[SD_HELD]; /* of g in row r and those before */                               \
            SD_UNROLL for (int j = 0; j < columns; j++)                                            \
                inside[j] = (MASK)NAME##_taps(step, valid + o * step, col, j) & keep;              \
            for (ptrdiff_t r = 0; r < top; r++)                                                    \
                NAME##_add_edge(run, step, columns, acc, g, rows, r, o, at + r * jump, col, keep,  \
                                inside);                                                           \
            SD_UNROLL for (int i = 0; i < late; i++)                                               \
                if (late < rows)                                                                   \
                    value[i] = NAME##_kept(                                                        \
                        NAME##_sorted(step, NAME##_load(g[late - 1 - i] + o)), keep);              \
            VEC sum[SD_HELD][SD_HELD]; /* apart from acc, which compilers leave in memory */       \
            SD_UNROLL for (int j = 0; j < columns; j++)                                            \
                SD_UNROLL for (int i = 0; i < run; i++) sum[j][i] = (VEC){0};                      \
            for (ptrdiff_t r = late; r < rows; r++) {                                              \
                SD_UNROLL for (int i = late; i > 0; i--) value[i] = value[i - 1];                  \
                value[0] = NAME##_kept(NAME##_sorted(step, NAME##_load(g[r] + o)), keep);          \
                SD_UNROLL for (int p = 0; p < phases; p++) {                                       \
                    VEC pixels[SD_HELD];                                                           \
                    const T *from = at[r * jump + p] + o * step;                                   \
                    if (SD_WIDE && columns > step && near)                                         \
                        NAME##_beside(step, columns, from + col[0], NULL, pixels);                 \
                    else                                                                           \
                        SD_UNROLL for (int j = 0; j < columns; j++)                                \
                            pixels[j] = NAME##_taps(step, from, col, j);                           \
                    SD_UNROLL for (int j = 0; j < columns; j++) {                                  \
                        pixels[j] = NAME##_kept(pixels[j], inside[j]);                             \
                        SD_UNROLL for (int i = p; i < run; i += phases)                            \
                            sum[j][i] += value[i / step] * pixels[j];                              \
                    }                                                                              \
                }                                                                                  \
            }                                                                                      \
            SD_UNROLL for (int j = 0; j < columns; j++)                                            \
                SD_UNROLL for (int i = 0; i < run; i++) acc[j][i] += sum[j][i];                    \
            for (ptrdiff_t r = rows; r < rows + late; r++)                                         \
                NAME##_add_edge(run, step, columns, acc, g, rows, r, o, at + r * jump, col, keep,  \
                                inside);                                                           \
        }                                                                                          \
        SD_UNROLL for (int j = 0; j < columns; j++)                                                \
            SD_UNROLL for (int i = 0; i < run; i++)                                                \
                sums[j * sums_pitch + i] += (double)NAME##_across(acc[j][i]);                      \
    }                                                                                              \
    /* sums[j * sums_pitch + i] += the sum over r < rows and begin <= o < end of                   \
       g[r][o] * at[r * jump + i][o * step + col[j]] for i < run and j < columns; both are at most \
       SD_HELD. If run > 1, jump = step; if columns > 1 and step = 2, each is a pixel after the    \
       last. */                                                                                    \
    static void NAME##_tap_sums(int run, int step, int columns, double *sums,                      \
                                ptrdiff_t sums_pitch, T *const *g, ptrdiff_t rows,                 \
                                ptrdiff_t begin, ptrdiff_t end, T *const *at, ptrdiff_t jump,      \
                                const T *valid, const ptrdiff_t *col) {                            \
        switch (run * 16 + step * 4 + columns) {                                                   \
            SD_TAPS_OF(1, 1, NAME) SD_TAPS_OF(2, 1, NAME) SD_TAPS_OF(3, 1, NAME)                   \
            SD_TAPS_OF(1, 2, NAME) SD_TAPS_OF(2, 2, NAME) SD_TAPS_OF(3, 2, NAME)                   \
        }                                                                                          \
    }
#define SD_WALK_DOWN(STEP, NAME)                                                                   \
    case STEP:                                                                                     \
        NAME##_walk_down(STEP, y, rows, count, at, valid, w, bias, relu);                          \
        break;
#define SD_WALK_ROWS_OF(RUN, STEP, NAME)                                                           \
    case RUN * 4 + STEP:                                                                           \
        NAME##_walk_rows(RUN, STEP, y, y_pitch, rows, count, at, RUN > 1 ? STEP : jump, valid,     \
                         row, col, w, taps, bias, relu);                                           \
        break;
#define SD_TAPS_OF(RUN, STEP, NAME)                                                                \
    SD_TAPS(RUN, STEP, 1, NAME) SD_TAPS(RUN, STEP, 2, NAME) SD_TAPS(RUN, STEP, 3, NAME)
#define SD_TAPS(RUN, STEP, COLUMNS, NAME)                                                          \
    case RUN * 16 + STEP * 4 + COLUMNS:                                                            \
        NAME##_sums_body(RUN, STEP, COLUMNS, sums, sums_pitch, g, rows, begin, end, at,            \
                         RUN > 1 ? STEP : jump, valid, col);                                       \
        break;

SD_DEFINE_WALK(float, sd_float, sd_floats, sd_mask32, int,
               ((int)(SD_VECTOR_BYTES / sizeof(float))))
SD_DEFINE_WALK(double, sd_double, sd_doubles, sd_mask64, long long,
               ((int)(SD_VECTOR_BYTES / sizeof(double))))

#endif

/* Maxima across a row of windows, then down its rows, with the place of each. */
#ifndef SLIDEDOT_POOLING_H
#define SLIDEDOT_POOLING_H

#include <stdint.h>
#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "lanes.h"

/* So many bytes ahead the rows of large images are asked for: what prefetchers guess of several
   rows that are read at once comes too late. */
#define SD_AHEAD 8192

/* a where it is greater than b, else b: what a CPU's maximum is, and what GNU C has no word for. */
#define SD_DEFINE_GREATER(NAME, VEC, MAXIMUM)                                                      \
    SD_INLINE VEC NAME##_greater(VEC a, VEC b) { return (VEC)(MAXIMUM); }
#if SD_VECTOR_BYTES == 64 && defined(__AVX512F__)
SD_DEFINE_GREATER(sd_float, sd_floats, _mm512_max_ps((__m512)a, (__m512)b))
SD_DEFINE_GREATER(sd_double, sd_doubles, _mm512_max_pd((__m512d)a, (__m512d)b))
#elif SD_VECTOR_BYTES == 32 && defined(__AVX__)
SD_DEFINE_GREATER(sd_float, sd_floats, _mm256_max_ps((__m256)a, (__m256)b))
SD_DEFINE_GREATER(sd_double, sd_doubles, _mm256_max_pd((__m256d)a, (__m256d)b))
#elif SD_VECTOR_BYTES == 16 && defined(__SSE2__)
SD_DEFINE_GREATER(sd_float, sd_floats, _mm_max_ps((__m128)a, (__m128)b))
SD_DEFINE_GREATER(sd_double, sd_doubles, _mm_max_pd((__m128d)a, (__m128d)b))
#else
SD_DEFINE_GREATER(sd_float, sd_floats, ((a > b) & (sd_mask32)a) | (~(a > b) & (sd_mask32)b))
SD_DEFINE_GREATER(sd_double, sd_doubles, ((a > b) & (sd_mask64)a) | (~(a > b) & (sd_mask64)b))
#endif

/* A place is a number within the window, as wide as a pixel, so that one mask picks both. */
#define SD_DEFINE_MAX(T, NAME, VEC, MASK, LANES, PLACE)                                            \
    typedef PLACE NAME##_places __attribute__((vector_size(SD_VECTOR_BYTES)));                     \
    typedef int32_t NAME##_indices __attribute__((vector_size(LANES * 4)));                        \
                                                                                                   \
    SD_INLINE NAME##_places NAME##_load_places(const PLACE *p) {                                   \
        NAME##_places v;                                                                           \
        memcpy(&v, p, sizeof v);                                                                   \
        return v;                                                                                  \
    }                                                                                              \
    /* `best` and `place` become v and p where v is greater, or, if `safe`, the first NaN. */      \
    SD_INLINE void NAME##_challenge(const int want, const int safe, VEC *best,                     \
                                    NAME##_places *place, VEC v, NAME##_places p) {                \
        MASK wins = v > *best;                                                                     \
        if (safe) wins = ~(v <= *best) & (*best == *best);                                         \
        if (want) *place = (NAME##_places)((wins & (MASK)p) | (~wins & (MASK)*place));             \
        *best = safe ? (VEC)((wins & (MASK)v) | (~wins & (MASK)*best)) : NAME##_greater(v, *best); \
    }                                                                                              \
    /* Where neither is NaN. */                                                                    \
    SD_INLINE MASK NAME##_ordered(VEC a, VEC b) { return (a <= b) | (a > b); }                     \
    SD_INLINE int NAME##_all(MASK m) {                                                             \
        long long part[SD_VECTOR_BYTES / 8], all = -1;                                             \
        memcpy(part, &m, sizeof part);                                                             \
        SD_UNROLL for (unsigned l = 0; l < SD_VECTOR_BYTES / 8; l++) all &= part[l];               \
        return all == -1;                                                                          \
    }                                                                                              \
    /* Whether there is no NaN in the first `count` >= LANES pixels of each row. */                \
    static int NAME##_numbers(const T *x, ptrdiff_t pitch, ptrdiff_t rows, ptrdiff_t count) {      \
        MASK ordered = ~(MASK){0};                                                                 \
        for (; rows > 0; rows--, x += pitch) {                                                     \
            ptrdiff_t i = 0;                                                                       \
            for (; i + 2 * LANES <= count; i += 2 * LANES)                                         \
                ordered &= NAME##_ordered(NAME##_load(x + i), NAME##_load(x + i + LANES));         \
            ordered &= NAME##_ordered(NAME##_load(x + (i < count - LANES ? i : count - LANES)),    \
                                      NAME##_load(x + count - LANES));                             \
        }                                                                                          \
        return NAME##_all(ordered);                                                                \
    }                                                                                              \
    /* A vector of results, or `count` lanes of it where that is less. */                          \
    SD_INLINE void NAME##_put(const int want, T *y, int32_t *argmax, VEC best,                     \
                              NAME##_places place, ptrdiff_t count) {                              \
        NAME##_indices index = __builtin_convertvector(place, NAME##_indices);                     \
        if (count >= LANES) {                                                                      \
            NAME##_store(y, best);                                                                 \
            if (want) memcpy(argmax, &index, sizeof index);                                        \
        } else {                                                                                   \
            T values[LANES];                                                                       \
            float indices[LANES];                                                                  \
            NAME##_store(values, best);                                                            \
            memcpy(indices, &index, sizeof index);                                                 \
            NAME##_copy(y, values, count);                                                         \
            if (want) sd_float_copy((float *)argmax, indices, count);                              \
        }                                                                                          \
    }                                                                                              \
    SD_INLINE NAME##_places NAME##_ramp(PLACE first, PLACE step) {                                 \
        NAME##_places ramp;                                                                        \
        for (int l = 0; l < LANES; l++) ramp[l] = first + l * step;                                \
        return ramp;                                                                               \
    }                                                                                              \
                                                                                                   \
    /* Returns whether what it wrote is right: `safe`, or without NaN. */                          \
    SD_INLINE int NAME##_quads_body(                                                               \
        const int safe, T *y, int32_t *argmax, ptrdiff_t y_pitch, ptrdiff_t rows, const T *x,      \
        ptrdiff_t x_pitch, PLACE unit, PLACE first, ptrdiff_t count) {                             \
        NAME##_places ramp = NAME##_ramp(first, 2);                                                \
        MASK ordered = ~(MASK){0};                                                                 \
        for (; rows > 0; rows--, y += y_pitch, x += 2 * x_pitch, ramp += 2 * unit) {               \
            for (ptrdiff_t o = 0; o < count; o += LANES) {                                         \
                if (o > 0 && o > count - LANES) o = count - LANES;                                 \
                const T *row = x + 2 * o;                                                          \
                sd_prefetch((const char *)row + SD_AHEAD, 2 * SD_VECTOR_BYTES);                    \
                sd_prefetch((const char *)(row + x_pitch) + SD_AHEAD, 2 * SD_VECTOR_BYTES);        \
                VEC best = NAME##_mixed(2, row, 0), right = NAME##_mixed(2, row, 1);               \
                NAME##_places place = {0}, zero = {0};                                             \
                ordered &= NAME##_ordered(best, right);                                            \
                NAME##_challenge(1, safe, &best, &place, right, zero + 1);                         \
                VEC left = NAME##_mixed(2, row + x_pitch, 0);                                      \
                right = NAME##_mixed(2, row + x_pitch, 1);                                         \
                ordered &= NAME##_ordered(left, right);                                            \
                NAME##_challenge(1, safe, &best, &place, left, zero + unit);                       \
                NAME##_challenge(1, safe, &best, &place, right, zero + unit + 1);                  \
                place = (NAME##_places)NAME##_sorted(2, (VEC)place) + ramp + (PLACE)(2 * o);       \
                NAME##_put(1, y + o, argmax + o, NAME##_sorted(2, best), place, count);            \
            }                                                                                      \
            argmax += y_pitch;                                                                     \
        }                                                                                          \
        return safe || NAME##_all(ordered);                                                        \
    }                                                                                              \
    /* 2x2 windows of stride 2: y[o], and argmax[o], its index, where `unit` is how far rows are   \
       apart; for each of `rows`. */                                                               \
    static void NAME##_quads(T *y, int32_t *argmax, ptrdiff_t y_pitch, ptrdiff_t rows,             \
                             const T *x, ptrdiff_t x_pitch, PLACE unit, PLACE first,               \
                             ptrdiff_t count) {                                                    \
        if (!SD_QUADS(0, NAME)) SD_QUADS(1, NAME);                                                 \
    }                                                                                              \
                                                                                                   \
    SD_INLINE int NAME##_unquads_body(const int narrow, int add, int more, T *x, ptrdiff_t x_pitch,\
                                      const T *g, const int32_t *argmax, ptrdiff_t g_pitch,        \
                                      ptrdiff_t rows, ptrdiff_t count) {                           \
        const VEC none = add ? (VEC){0} : -(VEC){0}; /* 0 + -0 is 0 */                             \
        NAME##_places ramp = NAME##_ramp(0, 2);                                                    \
        MASK outside = {0}, there = (MASK)(ramp < (PLACE)(2 * count));                             \
        T values[LANES] = {0}, pixels[4 * LANES];                                                  \
        float indices[LANES] = {0};                                                                \
        for (; rows > 0; rows--, g += g_pitch, argmax += g_pitch, x += 2 * x_pitch) {              \
            int aside = narrow && !more && (count + (rows - 1) * g_pitch < LANES ||                \
                                            (2 * rows - 1) * x_pitch < 2 * LANES);                 \
            const void *places = argmax;                                                           \
            const T *from = g;                                                                     \
            T *to = x;                                                                             \
            ptrdiff_t pitch = x_pitch;                                                             \
            if (aside) {                                                                           \
                NAME##_copy(values, g, count);                                                     \
                sd_float_copy(indices, (const float *)argmax, count);                              \
                places = indices, from = values, to = pixels, pitch = 2 * LANES;                   \
            }                                                                                      \
            for (ptrdiff_t o = 0; o < count; o += LANES) {                                         \
                if (o > 0 && o > count - LANES) o = count - LANES;                                 \
                NAME##_indices index;                                                              \
                memcpy(&index, (const int32_t *)places + o, sizeof index);                         \
                NAME##_places place = __builtin_convertvector(index, NAME##_places) - ramp;        \
                MASK value = (MASK)NAME##_load(from + o), any = {0};                               \
                place -= (PLACE)(2 * o);                                                           \
                SD_UNROLL for (int i = 0; i < 2; i++) {                                            \
                    MASK left = place == (PLACE)(i * x_pitch);                                     \
                    MASK right = place == (PLACE)(i * x_pitch + 1);                                \
                    VEC l = (VEC)(value & left) + none, r = (VEC)(value & right) + none;           \
                    NAME##_zip(l, r, &l, &r);                                                      \
                    NAME##_store(to + i * pitch + 2 * o, l);                                       \
                    NAME##_store(to + i * pitch + 2 * o + LANES, r);                               \
                    any |= left | right;                                                           \
                }                                                                                  \
                outside |= narrow ? there & ~any : ~any;                                           \
            }                                                                                      \
            for (int i = 0; i < 2 && aside; i++)                                                   \
                NAME##_copy(x + i * x_pitch, pixels + i * pitch, 2 * count);                       \
            ramp += 2 * (PLACE)x_pitch;                                                            \
        }                                                                                          \
        return NAME##_all(~outside);                                                               \
    }                                                                                              \
    /* The inverse of `quads`: each value to its place in its window, or, to `add`, on the zero    \
       there, and zeros beside it. What hangs over the end of a narrow row is overwritten by the   \
       next row; of the last rows it is put aside, unless there is `more`, other planes of all three\
       arrays that follow. Returns whether all places lie in their windows; if not, what was written\
       is of no use. */                                                                            \
    static int NAME##_unquads(int add, int more, T *x, ptrdiff_t x_pitch, const T *g,              \
                              const int32_t *argmax, ptrdiff_t g_pitch, ptrdiff_t rows,            \
                              ptrdiff_t count) {                                                   \
        if (count < LANES) return SD_UNQUADS(1, NAME);                                             \
        return SD_UNQUADS(0, NAME);                                                                \
    }                                                                                              \
                                                                                                   \
    /* A few vectors at once, so that short loops over taps are fewer; returns where the first two \
       taps are numbers. */                                                                        \
    SD_INLINE MASK NAME##_across_some(                                                             \
        const int vectors, const int want, const int safe, const int step, const int fixed, T *m,  \
        PLACE *a, const PLACE *start, const T *row, const ptrdiff_t *off, ptrdiff_t taps,          \
        PLACE unit) {                                                                              \
        VEC best[2], v;                                                                            \
        NAME##_places place[2] = {{0}}, number = {0};                                              \
        MASK ordered = ~(MASK){0};                                                                 \
        SD_UNROLL for (int i = 0; i < vectors; i++) {                                              \
            best[i] = NAME##_tap(step, row + (fixed ? 0 : off[0]) + i * step * LANES, 0);          \
            if (want) place[i] = NAME##_load_places(start + i * LANES);                            \
        }                                                                                          \
        SD_UNROLL for (int j = 1; j < fixed; j++) {                                                \
            v = NAME##_tap(step, row, j);                                                          \
            if (j == 1) ordered = NAME##_ordered(best[0], v);                                      \
            NAME##_challenge(want, safe, best, place, v, number += unit);                          \
        }                                                                                          \
        ptrdiff_t j = 1;                                                                           \
        for (; !fixed && !want && !safe && j + 4 <= taps; j += 4) /* pairs: the first still wins */\
            SD_UNROLL for (int i = 0; i < vectors; i++) {                                          \
                VEC pair[4];                                                                       \
                SD_UNROLL for (int p = 0; p < 4; p++)                                              \
                    pair[p] = NAME##_tap(step, row + off[j + p] + i * step * LANES, 0);            \
                pair[0] = NAME##_greater(pair[1], pair[0]);                                        \
                pair[2] = NAME##_greater(pair[3], pair[2]);                                        \
                best[i] = NAME##_greater(NAME##_greater(pair[2], pair[0]), best[i]);               \
            }                                                                                      \
        for (; !fixed && j < taps; j++) {                                                          \
            number += unit;                                                                        \
            SD_UNROLL for (int i = 0; i < vectors; i++) {                                          \
                v = NAME##_tap(step, row + off[j] + i * step * LANES, 0);                          \
                NAME##_challenge(want, safe, best + i, place + i, v, number);                      \
            }                                                                                      \
        }                                                                                          \
        SD_UNROLL for (int i = 0; i < vectors; i++) {                                              \
            NAME##_store(m + i * LANES, best[i]);                                                  \
            if (want) memcpy(a + i * LANES, place + i, sizeof *place);                             \
        }                                                                                          \
        return ordered;                                                                            \
    }                                                                                              \
    /* Returns whether what it wrote is right: always but for `fixed` and not `safe`. */           \
    SD_INLINE int NAME##_across_body(                                                              \
        const int want, const int safe, const int step, const int fixed, T *m, PLACE *a,           \
        ptrdiff_t pitch, ptrdiff_t rows, const PLACE *start, const T *x, ptrdiff_t x_pitch,        \
        const ptrdiff_t *off, ptrdiff_t taps, PLACE unit) {                                        \
        MASK ordered = ~(MASK){0};                                                                 \
        for (; rows > 0; rows--, m += pitch, a += want ? pitch : 0, x += x_pitch) {                \
            ptrdiff_t o = 0;                                                                       \
            for (; !fixed && o + 2 * LANES <= pitch; o += 2 * LANES)                               \
                NAME##_across_some(2, want, safe, step, fixed, m + o, want ? a + o : a, start + o, \
                                   x + o * step, off, taps, unit);                                 \
            for (; o < pitch; o += LANES) {                                                        \
                if (fixed)                                                                         \
                    sd_prefetch((const char *)(x + o * step) + SD_AHEAD, step * SD_VECTOR_BYTES);  \
                ordered &= NAME##_across_some(1, want, safe, step, fixed, m + o, want ? a + o : a, \
                                              start + o, x + o * step, off, taps, unit);           \
            }                                                                                      \
            if (fixed > 2) { /* the one pixel that no earlier tap has been on */                   \
                VEC last = NAME##_tap(step, x + (pitch - LANES) * step, fixed - 1);                \
                ordered &= NAME##_ordered(last, last);                                             \
            }                                                                                      \
        }                                                                                          \
        return NAME##_all(ordered);                                                                \
    }                                                                                              \
    /* m[o] = the maximum over j < taps of x[off[j] + o * step], and a[o], unless NULL, its place: \
       j * unit, or start[o] where no tap is greater than the first; for each of `rows`, which     \
       are `pitch`, whole vectors, long. `fixed` = taps says that off[j] = j; else it is 0. Without\
       NaN in rows of `pixels` it need not be `safe`; returns whether it had to be. */             \
    static int NAME##_across(int safe, int step, int fixed, T *m, PLACE *a, ptrdiff_t pitch,       \
                             ptrdiff_t rows, const PLACE *start, const T *x, ptrdiff_t x_pitch,    \
                             ptrdiff_t pixels, const ptrdiff_t *off, ptrdiff_t taps, PLACE unit) { \
        if (!safe && !fixed) safe = !NAME##_numbers(x, x_pitch, rows, pixels);                     \
        switch ((a != NULL) * 32 + safe * 16 + step * 4 + (safe ? 0 : fixed)) {                    \
            SD_ACROSS(0, 0, 1, 0, NAME) SD_ACROSS(0, 0, 1, 2, NAME) SD_ACROSS(0, 0, 1, 3, NAME)    \
            SD_ACROSS(0, 0, 2, 0, NAME) SD_ACROSS(0, 0, 2, 2, NAME) SD_ACROSS(0, 0, 2, 3, NAME)    \
            SD_ACROSS(1, 0, 1, 0, NAME) SD_ACROSS(1, 0, 1, 2, NAME) SD_ACROSS(1, 0, 1, 3, NAME)    \
            SD_ACROSS(1, 0, 2, 0, NAME) SD_ACROSS(1, 0, 2, 2, NAME) SD_ACROSS(1, 0, 2, 3, NAME)    \
            SD_ACROSS(0, 1, 1, 0, NAME) SD_ACROSS(0, 1, 2, 0, NAME)                                \
            SD_ACROSS(1, 1, 1, 0, NAME) SD_ACROSS(1, 1, 2, 0, NAME)                                \
        }                                                                                          \
        return NAME##_across(1, step, fixed, m, a, pitch, rows, start, x, x_pitch, pixels, off,    \
                             taps, unit);                                                          \
    }                                                                                              \
                                                                                                   \
    SD_INLINE void NAME##_down_body(                                                               \
        const int vectors, const int want, const int safe, const int fixed, T *y, int32_t *argmax, \
        ptrdiff_t y_pitch, ptrdiff_t rows, const T *m, const PLACE *a, ptrdiff_t row_pitch,        \
        ptrdiff_t pitch, ptrdiff_t taps, PLACE unit, PLACE first, PLACE row_step, PLACE step,      \
        ptrdiff_t count) {                                                                         \
        NAME##_places ramp = NAME##_ramp(first, step);                                             \
        for (; rows > 0; rows--, y += y_pitch, m += row_pitch, ramp += row_step) {                 \
            for (ptrdiff_t o = 0; o < count; o += vectors * LANES) {                               \
                NAME##_places place[2] = {{0}}, p = {0}, row = {0};                                \
                VEC best[2];                                                                       \
                ptrdiff_t at[2];                                                                   \
                SD_UNROLL for (int v = 0; v < vectors; v++) {                                      \
                    at[v] = o + v * LANES;                                                         \
                    if (at[v] > 0 && at[v] > count - LANES) at[v] = count - LANES;                 \
                    best[v] = NAME##_load(m + at[v]);                                              \
                    if (want) place[v] = NAME##_load_places(a + at[v]);                            \
                }                                                                                  \
                for (ptrdiff_t i = 1; i < (fixed ? fixed : taps); i++) {                           \
                    row += unit;                                                                   \
                    SD_UNROLL for (int v = 0; v < vectors; v++) {                                  \
                        if (want) p = NAME##_load_places(a + i * pitch + at[v]) + row;             \
                        NAME##_challenge(want, safe, best + v, place + v,                          \
                                         NAME##_load(m + i * pitch + at[v]), p);                   \
                    }                                                                              \
                }                                                                                  \
                SD_UNROLL for (int v = 0; v < vectors; v++) {                                      \
                    place[v] += ramp + (PLACE)(at[v] * step);                                      \
                    NAME##_put(want, y + at[v], argmax + at[v], best[v], place[v], count);         \
                }                                                                                  \
            }                                                                                      \
            if (want) argmax += y_pitch, a += row_pitch;                                           \
        }                                                                                          \
    }                                                                                              \
    /* Windows of `taps` rows, one row apart, that share row `shared`: each is the maximum of what \
       is above that row, and below. y[o], for each of `rows`, without NaN, is the maximum of rows \
       i, i + 1, ... of m, as far as they are from `first` on and before `last`; the maxima from   \
       these rows on are put into `above`. */                                                      \
    static void NAME##_down_sharing(T *y, ptrdiff_t y_pitch, ptrdiff_t rows, const T *m, T *above, \
                                    ptrdiff_t pitch, ptrdiff_t taps, ptrdiff_t shared,             \
                                    ptrdiff_t first, ptrdiff_t last, ptrdiff_t count) {            \
        NAME##_places none = {0};                                                                  \
        for (ptrdiff_t o = 0; o < count; o += LANES) {                                             \
            if (o > 0 && o > count - LANES) o = count - LANES;                                     \
            VEC best = NAME##_load(m + shared * pitch + o), middle = best;                         \
            ptrdiff_t row = shared;                                                                \
            for (ptrdiff_t i = rows - 1; i >= 0; i--) {                                            \
                while (row > i && row > first)                                                     \
                    best = NAME##_greater(best, NAME##_load(m + --row * pitch + o));               \
                NAME##_store(above + i * LANES, best);                                             \
            }                                                                                      \
            best = middle;                                                                         \
            row = shared + 1;                                                                      \
            for (ptrdiff_t i = 0; i < rows; i++) {                                                 \
                for (; row < i + taps && row < last; row++)                                        \
                    best = NAME##_greater(NAME##_load(m + row * pitch + o), best);                 \
                NAME##_put(0, y + i * y_pitch + o, NULL,                                           \
                           NAME##_greater(best, NAME##_load(above + i * LANES)), none, count);     \
            }                                                                                      \
        }                                                                                          \
    }                                                                                              \
    /* y[o] = the maximum over i < taps of m[i * pitch + o], and argmax[o], unless a is NULL, its  \
       index first + o * step + i * unit + its place; for each of `rows`. */                       \
    static void NAME##_down(int safe, T *y, int32_t *argmax, ptrdiff_t y_pitch, ptrdiff_t rows,    \
                            const T *m, const PLACE *a, ptrdiff_t row_pitch, ptrdiff_t pitch,      \
                            ptrdiff_t taps, PLACE unit, PLACE first, PLACE row_step, PLACE step,   \
                            ptrdiff_t count) {                                                     \
        int fixed = !safe && (taps == 2 || taps == 3) ? (int)taps : 0;                             \
        switch ((a != NULL) * 8 + safe * 4 + fixed + (!safe && !fixed && count > LANES)) {         \
            SD_DOWN(0, 0, 0, NAME) SD_DOWN(0, 0, 2, NAME) SD_DOWN(0, 0, 3, NAME)                   \
            SD_DOWN(1, 0, 0, NAME) SD_DOWN(1, 0, 2, NAME) SD_DOWN(1, 0, 3, NAME)                   \
            SD_DOWN(0, 0, 1, NAME) SD_DOWN(0, 1, 0, NAME)                                          \
            SD_DOWN(1, 0, 1, NAME) SD_DOWN(1, 1, 0, NAME)                                          \
        }                                                                                          \
    }
#define SD_ACROSS(WANT, SAFE, STEP, FIXED, NAME)                                                   \
    case WANT * 32 + SAFE * 16 + STEP * 4 + FIXED:                                                 \
        if (NAME##_across_body(WANT, SAFE, STEP, FIXED, m, a, pitch, rows, start, x, x_pitch, off, \
                               taps, unit))                                                        \
            return SAFE;                                                                           \
        break;
/* `FIXED` = 1: any number of taps, two vectors at once. */
#define SD_DOWN(WANT, SAFE, FIXED, NAME)                                                           \
    case WANT * 8 + SAFE * 4 + FIXED:                                                              \
        NAME##_down_body(FIXED == 1 ? 2 : 1, WANT, SAFE, FIXED == 1 ? 0 : FIXED, y, argmax,        \
                         y_pitch, rows, m, a, row_pitch, pitch, taps, unit, first, row_step, step, \
                         count);                                                                   \
        break;
#define SD_UNQUADS(NARROW, NAME)                                                                   \
    NAME##_unquads_body(NARROW, add, more, x, x_pitch, g, argmax, g_pitch, rows, count)
#define SD_QUADS(SAFE, NAME)                                                                       \
    NAME##_quads_body(SAFE, y, argmax, y_pitch, rows, x, x_pitch, unit, first, count)

#if SD_VECTOR_BYTES == 64
SD_DEFINE_MAX(float, sd_float, sd_floats, sd_mask32, 16, uint32_t)
SD_DEFINE_MAX(double, sd_double, sd_doubles, sd_mask64, 8, uint64_t)
#elif SD_VECTOR_BYTES == 32
SD_DEFINE_MAX(float, sd_float, sd_floats, sd_mask32, 8, uint32_t)
SD_DEFINE_MAX(double, sd_double, sd_doubles, sd_mask64, 4, uint64_t)
#else
SD_DEFINE_MAX(float, sd_float, sd_floats, sd_mask32, 4, uint32_t)
SD_DEFINE_MAX(double, sd_double, sd_doubles, sd_mask64, 2, uint64_t)
#endif

#endif

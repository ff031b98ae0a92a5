/* Small windows taken whole: of 2x2 or 3x3 pixels, their maximum or mean, in registers. */
#ifndef SLIDEDOT_WINDOWS_H
#define SLIDEDOT_WINDOWS_H

#include <math.h>

#include "averages.h"
#include "pooling.h"

/* What is taken of a window. A maximum is right where there is no NaN, a safe one always. */
enum { SD_MAXIMUM, SD_SAFE_MAXIMUM, SD_MEAN };

#define SD_DEFINE_WINDOWS(T, NAME, VEC, MASK, LANES)                                               \
    /* Where the taps of windows from pixel `at` on, mixed, lie in a row of `size` pixels. */      \
    SD_INLINE void NAME##_inside(const int kernel, const int step, ptrdiff_t at, ptrdiff_t size,   \
                                 MASK *inside) {                                                   \
        const int low = at < 0 ? -at : 0, high = size - at < 3 * LANES ? size - at : 3 * LANES;    \
        for (int j = 0; j < kernel; j++) {                                                         \
            MASK column;                                                                           \
            for (int l = 0; l < LANES; l++) column[l] = l * step + j;                              \
            inside[j] = (MASK)NAME##_sorted(step, (VEC)((column >= low) & (column < high)));       \
        }                                                                                          \
    }                                                                                              \
    /* A vector of each of `outs` output rows: the windows from these places of input rows on. At  \
       an `edge`, only what is `inside` counts. Says in `ordered` where each row's first `step`    \
       taps, or, at an edge, all, are numbers; not of the last kernel - step rows. */              \
    SD_INLINE void NAME##_windows_at(const int what, const int kernel, const int step,             \
                                     const int outs, const int edge, const MASK *inside,           \
                                     const T *const *row, ptrdiff_t at, VEC *y,                    \
                                     MASK *ordered) {                                              \
        const VEC nothing = what == SD_MEAN ? -(VEC){0} : (VEC){0} - (T)INFINITY; /* v + -0 is v */\
        const int starts = step * outs, rows = starts - step + kernel;                             \
        NAME##_places none = {0};                                                                  \
        VEC across[4];                                                                             \
        SD_UNROLL for (int j = 0; j < kernel; j++) {                                               \
            VEC tap[4];                                                                            \
            SD_UNROLL for (int i = 0; i < rows; i++) {                                             \
                tap[i] = NAME##_mixed(step, row[i] + at, j);                                       \
                if (edge)                                                                          \
                    tap[i] =                                                                       \
                        (VEC)(((MASK)tap[i] & inside[j]) | ((MASK)nothing & ~inside[j]));          \
                if (j == 0)                                                                        \
                    across[i] = tap[i];                                                            \
                else if (what != SD_MEAN)                                                          \
                    NAME##_challenge(0, what == SD_SAFE_MAXIMUM, across + i, &none, tap[i], none); \
            }                                                                                      \
            if (what == SD_MAXIMUM && (edge || j < step))                                          \
                SD_UNROLL for (int i = 0; i < starts; i += 2)                                      \
                    *ordered &= NAME##_ordered(tap[i], tap[i + 1 < starts ? i + 1 : i]);           \
            SD_UNROLL for (int r = 0; what == SD_MEAN && r < outs; r++) { /* down first */         \
                VEC sum = tap[r * step];                                                           \
                SD_UNROLL for (int i = 1; i < kernel; i++) sum += tap[r * step + i];               \
                y[r] = j ? y[r] + sum : sum;                                                       \
            }                                                                                      \
        }                                                                                          \
        SD_UNROLL for (int r = 0; what != SD_MEAN && r < outs; r++) {                              \
            y[r] = across[r * step];                                                               \
            SD_UNROLL for (int i = 1; i < kernel; i++)                                             \
                NAME##_challenge(0, what == SD_SAFE_MAXIMUM, y + r, &none, across[r * step + i],   \
                                 none);                                                            \
        }                                                                                          \
    }                                                                                              \
    SD_INLINE void NAME##_windows_rows(const int what, const int kernel, const int step,           \
                                       const int outs, T *y, const T *over, ptrdiff_t y_pitch,     \
                                       ptrdiff_t count,                                            \
                                       const T *x, ptrdiff_t pitch, ptrdiff_t top,                 \
                                       ptrdiff_t height, ptrdiff_t left, const T *outside,         \
                                       const T *widths, ptrdiff_t low, ptrdiff_t high,             \
                                       const MASK *first, const MASK *last, MASK *ordered) {       \
        const T *row[4];                                                                           \
        T tall[2];                                                                                 \
        ptrdiff_t o = 0;                                                                           \
        SD_UNROLL for (int i = 0; i < step * (outs - 1) + kernel; i++)                             \
            row[i] = top + i < 0 || top + i >= height ? outside : x + (top + i) * pitch;           \
        SD_UNROLL for (int r = 0; r < outs; r++, top += step)                                      \
            tall[r] = (top + kernel < high ? top + kernel : high) - (top > low ? top : low);       \
        if (left < 0 && LANES < count) {                                                           \
            SD_WINDOWS_AT(1, first, LANES, NAME)                                                   \
            o = LANES;                                                                             \
        }                                                                                          \
        for (; o + LANES < count; o += LANES) {                                                    \
            SD_UNROLL for (int i = 0; step > 1 && i < step; i++)                                   \
                sd_prefetch((const char *)(row[kernel - 1 - i] + left + o * step) + SD_AHEAD,      \
                            step * SD_VECTOR_BYTES);                                               \
            SD_WINDOWS_AT(0, NULL, LANES, NAME)                                                    \
        }                                                                                          \
        if (o > 0) o = count - LANES; /* from here on windows may hang over the end */             \
        if (last)                                                                                  \
            SD_WINDOWS_AT(1, last, count, NAME)                                                    \
        else                                                                                       \
            SD_WINDOWS_AT(0, NULL, count, NAME)                                                    \
    }                                                                                              \
    SD_INLINE int NAME##_windows_body(const int what, const int kernel, const int step, T *y,      \
                                      ptrdiff_t y_pitch, ptrdiff_t rows, ptrdiff_t count,          \
                                      const T *x, ptrdiff_t pitch, ptrdiff_t top,                  \
                                      ptrdiff_t height, ptrdiff_t left, ptrdiff_t width,           \
                                      const T *outside, const T *widths, ptrdiff_t low,            \
                                      ptrdiff_t high) {                                            \
        MASK first[3], last[3], ordered = ~(MASK){0};                                              \
        /* What hangs over the end of a short row is overwritten by the next row. */               \
        const T *over = y;                                                                         \
        if (y_pitch == count && count < LANES) over += rows * count - LANES + 1;                   \
        ptrdiff_t at = left + (count > LANES ? count - LANES : 0) * step, end;                     \
        int edge = at < 0 || at + (LANES - 1) * step + kernel > width ||                           \
                   (what == SD_MAXIMUM && kernel > step);                                          \
        NAME##_inside(kernel, step, left, width, first);                                           \
        NAME##_inside(kernel, step, at, width, last);                                              \
        for (; step == 1 && rows > 1; rows -= 2, y += 2 * y_pitch, top += 2 * step)                \
            NAME##_windows_rows(what, kernel, step, 2, y, over, y_pitch, count, x, pitch, top,     \
                                height, left, outside, widths, low, high, first,                   \
                                edge ? last : NULL, &ordered);                                     \
        for (; rows > 0; rows--, y += y_pitch) {                                                   \
            NAME##_windows_rows(what, kernel, step, 1, y, over, y_pitch, count, x, pitch, top,     \
                                height, left, outside, widths, low, high, first,                   \
                                edge ? last : NULL, &ordered);                                     \
            top += step;                                                                           \
        }                                                                                          \
        if (what != SD_MAXIMUM) return 1;                                                          \
        end = left + (count - 1) * step + kernel;                                                  \
        if (end > width) end = width;                                                              \
        for (int i = step; i < kernel; i++, top++) { /* the last windows' other rows */            \
            int number = 1;                                                                        \
            if (top < 0 || top >= height) continue;                                                \
            for (ptrdiff_t o = left < 0 ? 0 : left; o < end; o++)                                  \
                number &= x[top * pitch + o] == x[top * pitch + o];                                \
            if (!number) return 0;                                                                 \
        }                                                                                          \
        return NAME##_all(ordered);                                                                \
    }                                                                                              \
    /* y[o] = the maximum, or the mean, of the window of kernel x kernel pixels that starts at     \
       pixel left + o * step of input row `top`; for each of `rows`, whose windows are `step` rows \
       apart. What is beyond height x width pixels is not there, instead of rows there `outside`   \
       is read; a mean is of widths[o] columns and the rows from `low` to `high`. Whole vectors    \
       are read. */                                                                                \
    static void NAME##_windows(int what, int kernel, int step, T *y, ptrdiff_t y_pitch,            \
                               ptrdiff_t rows, ptrdiff_t count, const T *x, ptrdiff_t pitch,       \
                               ptrdiff_t top, ptrdiff_t height, ptrdiff_t left, ptrdiff_t width,   \
                               const T *outside, const T *widths, ptrdiff_t low,                   \
                               ptrdiff_t high) {                                                   \
        int done = 0;                                                                              \
        switch (what * 16 + kernel * 4 + step) {                                                   \
            SD_WINDOWS(SD_MAXIMUM, 2, 2, NAME)                                                     \
            SD_WINDOWS(SD_MAXIMUM, 3, 2, NAME)                                                     \
            SD_WINDOWS(SD_MAXIMUM, 3, 1, NAME)                                                     \
            SD_WINDOWS(SD_SAFE_MAXIMUM, 2, 2, NAME)                                                \
            SD_WINDOWS(SD_SAFE_MAXIMUM, 3, 2, NAME)                                                \
            SD_WINDOWS(SD_SAFE_MAXIMUM, 3, 1, NAME)                                                \
            SD_WINDOWS(SD_MEAN, 2, 2, NAME)                                                        \
            SD_WINDOWS(SD_MEAN, 3, 2, NAME)                                                        \
            SD_WINDOWS(SD_MEAN, 3, 1, NAME)                                                        \
        }                                                                                          \
        if (!done)                                                                                 \
            NAME##_windows(SD_SAFE_MAXIMUM, kernel, step, y, y_pitch, rows, count, x, pitch, top,  \
                           height, left, width, outside, widths, low, high);                       \
    }

#define SD_WINDOWS_AT(EDGE, INSIDE, COUNT, NAME)                                                   \
    {                                                                                              \
        NAME##s v[2];                                                                              \
        NAME##_windows_at(what, kernel, step, outs, EDGE, INSIDE, row, left + o * step, v,         \
                          ordered);                                                                \
        SD_UNROLL for (int r = 0; r < outs; r++) {                                                 \
            v[r] = NAME##_sorted(step, v[r]);                                                      \
            if (what == SD_MEAN) v[r] /= NAME##_load(widths + o) * tall[r];                        \
            NAME##_put_some(y + r * y_pitch + o, v[r],                                             \
                            y + r * y_pitch < over ? SD_VECTOR_BYTES : COUNT);                     \
        }                                                                                          \
    }
#define SD_WINDOWS(WHAT, KERNEL, STEP, NAME)                                                       \
    case WHAT * 16 + KERNEL * 4 + STEP:                                                            \
        done = NAME##_windows_body(WHAT, KERNEL, STEP, y, y_pitch, rows, count, x, pitch, top,     \
                                   height, left, width, outside, widths, low, high);               \
        break;

#if SD_VECTOR_BYTES == 64
SD_DEFINE_WINDOWS(float, sd_float, sd_floats, sd_mask32, 16)
SD_DEFINE_WINDOWS(double, sd_double, sd_doubles, sd_mask64, 8)
#elif SD_VECTOR_BYTES == 32
SD_DEFINE_WINDOWS(float, sd_float, sd_floats, sd_mask32, 8)
SD_DEFINE_WINDOWS(double, sd_double, sd_doubles, sd_mask64, 4)
#else
SD_DEFINE_WINDOWS(float, sd_float, sd_floats, sd_mask32, 4)
SD_DEFINE_WINDOWS(double, sd_double, sd_doubles, sd_mask64, 2)
#endif

#endif

"""Convolution and its gradients, as implicit matrix products over one register tile.

Forward:
    y[n, k, o] = bias[k] + sum over c, tap of weight[k, c, tap] * x[n, c, o * stride + tap]
Gradient for x:
    x[n, c, i] = sum over k, tap of weight[k, c, tap] * grad_out[n, k, (i - tap) / stride]
Gradient for weight:
    weight[k, c, tap] = sum over n, o of grad_out[n, k, o] * x[n, c, o * stride + tap]

The first two gather: an output is a sum over source channels and taps, so one driver does both.
With a stride the gradient's pixels fall into stride * stride phases, and each has its own taps.
    Loops: images, group, band of rows and columns; block of source channels (packed once, with its
    padding, so that a tap is an offset); phase; where lanes are pixels, panels that stay in the
    cache, tile of pixels, panel of output channels; where they are output channels, panel, chunk of
    pixels, tile.
The gradient for weight contracts over pixels, from the same packed block, where a term's pixels
are a row of the tile, and from grad_out, transposed strip by strip.
    Loops: segment of pixels, group, block of input channels, share of the output channels; band of
    pixels, strip of pixels and output channels, panel of terms.
Few terms are dot products over lanes of pixels instead.
    Loops: segment of pixels, group; band of an image, panel of output channels, of terms.
"""

from cpython.pycapsule cimport PyCapsule_New
from cython cimport floating
from cython.parallel cimport parallel, prange, threadid
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from blocking cimport (
    BAND_BYTES, CHUNK, COPY_COST, DOTS, FEW_ROWS, LONG_ROW, LONG_SUM, MOST_LANES, PIXELS, SEGMENTS,
    STAGED_PANELS, SUM_BYTES, TERMS, WEIGHT_BYTES, WEIGHTS, WIDE_VECTOR, Panels, even, panel_rows,
    panel_start, panels_of, parts, spread, widest_panel,
)
from entries cimport ConvolutionEntries
from rows cimport (
    count_inside, far_apart, fill_inside, first_inside, phases_of, put_run, reach_of,
)
from scratch cimport Scratch, scratch_free, scratch_part, scratch_take
from simd cimport (
    SD_DOT_COLUMNS, SD_DOT_ROWS, SD_MAX_ROWS, SD_MAX_VECTORS, SD_ROW_VECTORS, SD_VECTOR_BYTES,
    SD_VECTORS, SD_VECTORS_WIDEST, copy_rows, copy_run, dot, fill_run, sd_prefetch, stage,
    sum_segments, tile, tile_of_runs, total_of, transpose,
)
from views cimport Axis, Extent, View, axis, extent_of, view


# --------------------------------------------------------------------------- one axis of a gather


cdef struct Side:
    # Output o of phase p is pixel p + o * phases. Its tap t reads element o + shift[t] of the
    # source's slot[t], and element e of a slot is source pixel origin[slot] + e * step.
    Py_ssize_t size, out, outputs, phases, step, slots, reach, taps, most_taps
    Py_ssize_t kernel, shared  # taps, in all and at most in an output, of any plane's size
    Py_ssize_t *origin  # [slots]
    Py_ssize_t *first   # [phases + 1]: the phase's taps are first[p] .. first[p + 1]
    Py_ssize_t *index   # [taps]: which tap of the kernel
    Py_ssize_t *slot
    Py_ssize_t *shift


cdef bint side_take(Side *s, Py_ssize_t slots, Py_ssize_t phases, Py_ssize_t taps) noexcept nogil:
    s.slots, s.phases = slots, phases
    s.origin = <Py_ssize_t *> malloc((slots + phases + 1 + 3 * taps) * sizeof(Py_ssize_t))
    if s.origin == NULL:
        return False
    s.first = s.origin + slots
    s.index = s.first + phases + 1
    s.slot = s.index + taps
    s.shift = s.slot + taps
    return True


cdef bint forward_side(Side *s, Axis *a, bint apart) noexcept nogil:
    """One phase; the input is split into the phases of its stride, those that hold a tap, or, where
    they are to lie `apart`, into the pixels of each tap."""
    cdef Py_ssize_t t
    if not side_take(s, a.kernel if apart else phases_of(a), 1, a.kernel):
        return False
    s.size, s.out, s.outputs, s.step = a.size, a.out, a.out, a.stride
    s.taps = s.most_taps = s.kernel = s.shared = a.kernel
    s.first[0], s.first[1] = 0, a.kernel
    for t in range(a.kernel):
        s.index[t] = t
        s.slot[t] = t % s.slots
        s.shift[t] = 0 if apart else t * a.dilation // a.stride
        if t < s.slots:
            s.origin[t] = t * a.dilation - s.shift[t] * a.stride - a.before
    s.reach = s.shift[a.kernel - 1]
    return True


cdef bint gradient_side(Side *s, Axis *a) noexcept nogil:
    """Pixel i takes tap t from output (i + before - t * dilation) / stride, where that is whole."""
    cdef bint apart = far_apart(a)
    cdef Axis given = a[0]
    cdef Py_ssize_t p, t, numerator, low = 0, high = 0
    if not side_take(s, a.kernel if apart else 1, min(a.stride, a.size), a.kernel):
        return False
    s.size, s.out, s.step = a.out, a.size, 1
    s.outputs = parts(a.size, s.phases)
    given.stride = a.given_stride
    s.kernel, s.shared = a.kernel, parts(a.kernel, phases_of(&given))
    s.taps = s.most_taps = 0
    for p in range(s.phases):
        s.first[p] = s.taps
        for t in range(a.kernel):
            numerator = p + a.before - t * a.dilation
            if numerator % a.stride == 0:
                s.index[s.taps] = t
                s.slot[s.taps] = 0
                s.shift[s.taps] = numerator // a.stride
                low = s.shift[s.taps] if s.taps == 0 else min(low, s.shift[s.taps])
                high = s.shift[s.taps] if s.taps == 0 else max(high, s.shift[s.taps])
                s.taps += 1
        s.most_taps = max(s.most_taps, s.taps - s.first[p])
    s.first[s.phases] = s.taps
    s.origin[0] = low
    s.reach = 0 if apart else high - low
    for t in range(s.taps):
        if apart:
            s.slot[t] = t
            s.origin[t] = s.shift[t]
            s.shift[t] = 0
        else:
            s.shift[t] -= low
    if apart:
        s.slots = max(1, s.taps)
    return True


cdef inline Py_ssize_t taps_before(Side *h, Side *w, Py_ssize_t py, Py_ssize_t px) noexcept nogil:
    """Taps of all phases before (py, px), in row-major order."""
    return h.first[py] * w.taps + (h.first[py + 1] - h.first[py]) * w.first[px]


# ------------------------------------------------------------------- forward and gradient for x


cdef struct Gather:
    Side h, w
    Py_ssize_t images, groups, channels, outputs  # channels of the source and the result per group
    Py_ssize_t x_sn, x_sc, x_sh, x_sw
    Extent extent  # of the source
    Py_ssize_t w_sg, w_so, w_si, w_sh, w_sw  # the weight: group, result's and source's channel, tap
    bint channel_lanes  # lanes are output channels and rows pixels, not the other way round
    Panels panels  # of output channels, or of vectors of them
    Py_ssize_t vectors, lanes, stored  # weights of a term, packed
    bint relu, late  # weights packed by each task, just before use
    bint staged      # each strip of pixels is laid out for the tile, term after term
    bint by_rows     # or keeps to one row
    bint rows_first  # terms are [tap row][channel][tap column], not [channel][tap row][tap column]
    # blocks: source channels, images, rows and columns of a phase, panels that stay in the cache,
    # panels of a task; and how many of each
    Py_ssize_t block, batch, rows, columns, resident, share
    Py_ssize_t blocks, batches, bands_h, bands_w, shares, tasks
    # the packed block is [channel][slot h][slot w][image][row][column]
    Py_ssize_t length, height, plane
    Py_ssize_t flat    # pixels of a band's phase, with a tile's overhang, if they are lanes
    Py_ssize_t *off    # [phase][term]
    Py_ssize_t *steps  # [term of a strip]


cdef inline bint channels_fill(Gather *job, Py_ssize_t taps, Py_ssize_t itemsize) noexcept nogil:
    """Whether output channels fill lanes, and sums are so long that turning them round pays."""
    cdef Py_ssize_t lanes = SD_VECTOR_BYTES // itemsize
    cdef Py_ssize_t least = LONG_SUM if SD_MAX_ROWS > FEW_ROWS else 2 * LONG_SUM
    return (SD_VECTOR_BYTES >= WIDE_VECTOR and job.channels * taps >= least
            and 8 * job.outputs >= 7 * lanes * parts(job.outputs, lanes))


cdef void choose_terms(Gather *job, Py_ssize_t itemsize) noexcept nogil:
    """How the channels fall into panels and blocks: by the weight's shape alone."""
    cdef Py_ssize_t taps = job.h.shared * job.w.shared, most = TERMS
    job.lanes = SD_VECTOR_BYTES // itemsize
    job.channel_lanes = channels_fill(job, taps, itemsize)
    if job.channel_lanes:
        job.panels = panels_of(parts(job.outputs, job.lanes), SD_VECTORS_WIDEST)
        job.vectors = widest_panel(&job.panels)
        job.stored = job.panels.count * job.vectors * job.lanes
        most = 2 * TERMS  # a panel's weights
    else:
        job.panels = panels_of(job.outputs)
        job.vectors = SD_VECTORS(widest_panel(&job.panels))
        job.stored = job.outputs
        if job.panels.count < STAGED_PANELS or taps < job.h.kernel * job.w.kernel:
            most = 2 * TERMS  # nothing is laid out, or the phases have fewer
    # a third more terms are better than another block
    job.block = parts(job.channels, max(1, (job.channels * taps + most * 2 // 3) // most))
    job.blocks = parts(job.channels, job.block)
    # so that rows of padding can be left out; with shorter rows, packing would cost more than that
    job.rows_first = job.w.kernel >= LONG_ROW and job.channels % job.block == 0


cdef inline Py_ssize_t most_terms(Gather *job) noexcept nogil:
    """Of a block, in any phase."""
    return max(1, job.block * job.h.most_taps * job.w.most_taps)


cdef inline Py_ssize_t lanes_of_rows(Gather *job) noexcept nogil:
    """That a plane of a phase takes unless it is staged: also what lies between its rows."""
    return job.lanes * parts(
        job.h.outputs * job.w.outputs + (job.h.outputs - 1) * job.w.reach, job.lanes)


cdef Py_ssize_t weights_size(Gather *job) noexcept nogil:
    return job.groups * job.stored * job.channels * job.h.taps * job.w.taps


cdef void choose_blocks(
    Gather *job, Py_ssize_t itemsize, bint prepared, int threads
) noexcept nogil:
    cdef Side *h = &job.h
    cdef Side *w = &job.w
    cdef Py_ssize_t budget = BAND_BYTES // itemsize, unit, weights, most
    cdef Py_ssize_t sums = SUM_BYTES // itemsize // (job.outputs * h.phases * w.phases)
    choose_terms(job, itemsize)
    if job.channel_lanes:
        job.staged, job.resident = False, 1
    else:
        job.staged = job.panels.count >= STAGED_PANELS and 2 * job.panels.count * (
            lanes_of_rows(job) - h.outputs * w.outputs) > lanes_of_rows(job)
        job.resident = even(
            job.panels.count,
            WEIGHT_BYTES // itemsize // (most_terms(job) * widest_panel(&job.panels)))
    job.share = job.panels.count
    unit = job.block * h.slots * w.slots
    job.columns = even(w.outputs, max(64, budget // unit // (1 + h.reach) - w.reach))
    most = job.vectors * job.lanes
    job.by_rows = not job.channel_lanes and not job.staged and (
        parts(w.outputs, most) * most <= w.outputs + w.reach)
    most = max(1, budget // unit // (job.columns + w.reach) - h.reach)
    if job.blocks > 1:  # partial sums of the band wait for the next block of channels
        most = min(most, sums // (job.columns + w.reach))
    job.rows = even(h.outputs, max(1, most))
    job.batch = 1
    if ((job.channel_lanes or job.staged) and job.rows >= h.outputs
            and job.columns >= w.outputs):
        most = budget // unit // ((job.rows + h.reach) * (job.columns + w.reach))
        if job.blocks > 1:
            most = min(most, sums // (job.rows * job.columns))
        job.batch = even(job.images, max(1, min(16, most)))
    count_blocks(job)
    # give every thread something to do: the panels are shared out where the weights are more than
    # the image, which each task then packs for itself; else the pixels are
    weights = job.outputs * h.taps * w.taps
    while threads > 1 and job.tasks < 2 * threads:
        if job.batch > 1:
            job.batch = even(job.images, job.batch // 2)
        elif job.share > 1 and (weights > h.size * w.size or job.rows == 1):
            job.share = (job.share + 1) // 2
        elif job.rows > 1:
            job.rows = even(h.outputs, job.rows // 2)
        else:
            break
        count_blocks(job)
    if job.tasks % threads and job.bands_h > 1 and job.tasks < 8 * threads:  # as much to do
        job.rows = parts(h.outputs, parts(job.bands_h, threads) * threads)
        count_blocks(job)
    job.late = not prepared and (
        job.batches * job.bands_h * job.bands_w == 1
        # packed for each band they need no memory beyond the L1 cache
        or (job.channel_lanes and job.flat >= CHUNK and weights_size(job) * itemsize > SUM_BYTES))


cdef void count_blocks(Gather *job) noexcept nogil:
    job.batches = parts(job.images, job.batch)
    job.bands_h = parts(job.h.outputs, job.rows)
    job.bands_w = parts(job.w.outputs, job.columns)
    job.shares = parts(job.panels.count, job.share)
    job.tasks = job.batches * job.groups * job.bands_h * job.bands_w * job.shares
    job.length = job.columns + job.w.reach
    job.height = job.rows + job.h.reach
    job.plane = job.h.slots * job.w.slots * job.height * job.batch * job.length
    job.flat = job.batch * job.rows * job.columns
    if not job.channel_lanes:
        job.flat = spread(
            (job.flat if job.staged else job.batch * job.rows * job.length)
            + job.vectors * job.lanes)


cdef bint forward_sides(Gather *job, Axis *h, Axis *w, Py_ssize_t itemsize) noexcept nogil:
    cdef bint apart = far_apart(w)
    if (not apart and panels_of(job.outputs).count < STAGED_PANELS
            and not channels_fill(job, h.kernel * w.kernel, itemsize)):
        # what lies between short rows costs the tile more than copies of them do
        apart = reach_of(w) * h.kernel * job.outputs > COPY_COST * (w.out + reach_of(w))
    if not forward_side(&job.h, h, far_apart(h)):
        return False
    if forward_side(&job.w, w, apart):
        return True
    free(job.h.origin)
    return False


cdef void free_sides(Gather *job) noexcept nogil:
    free(job.w.origin)
    free(job.h.origin)


cdef struct Row:  # of terms: a channel's tap row
    Py_ssize_t channel, tap


cdef inline void next_row(
    Row *row, Gather *job, Py_ssize_t py, Py_ssize_t channels
) noexcept nogil:
    """On to the row that follows in a phase's sum over so many channels."""
    if job.rows_first:
        row.channel += 1
        if row.channel == channels:
            row.channel, row.tap = 0, row.tap + 1
    else:
        row.tap += 1
        if row.tap == job.h.first[py + 1]:
            row.channel, row.tap = row.channel + 1, job.h.first[py]


cdef bint offsets(Gather *job, Py_ssize_t most) noexcept nogil:
    """Where in the packed block each term of a phase's sum lies; where in a strip, which holds
    `most`."""
    cdef Side *h = &job.h
    cdef Side *w = &job.w
    cdef Py_ssize_t py, px, _n, j, k
    cdef Py_ssize_t slot = job.batch * job.height * job.length
    cdef Py_ssize_t *off = <Py_ssize_t *> malloc(
        (job.block * h.taps * w.taps + most + 1) * sizeof(Py_ssize_t))
    cdef Row row
    job.off = off
    if off == NULL:
        return False
    for py in range(h.phases):
        for px in range(w.phases):
            row.channel, row.tap = 0, h.first[py]
            for _n in range(job.block * (h.first[py + 1] - h.first[py])):
                for j in range(w.first[px], w.first[px + 1]):
                    off[0] = (row.channel * job.plane
                              + (h.slot[row.tap] * w.slots + w.slot[j]) * slot
                              + h.shift[row.tap] * job.length + w.shift[j])
                    off += 1
                next_row(&row, job, py, job.block)
    job.steps = off
    for k in range(most):
        off[k] = k * job.vectors * job.lanes
    return True


cdef inline Py_ssize_t taps_of(Side *h, Side *w, Py_ssize_t py, Py_ssize_t px) noexcept nogil:
    return (h.first[py + 1] - h.first[py]) * (w.first[px + 1] - w.first[px])


cdef inline Py_ssize_t packed_place(
    Gather *job, Py_ssize_t group, Py_ssize_t channel0, Py_ssize_t channels, Py_ssize_t py,
    Py_ssize_t px,
) noexcept nogil:
    """Where the packed weights of a phase and a block of source channels lie."""
    return job.stored * ((group * job.channels + channel0) * job.h.taps * job.w.taps
                         + channels * taps_before(&job.h, &job.w, py, px))


cdef inline Py_ssize_t panel_place(
    Gather *job, Py_ssize_t panel, Py_ssize_t terms
) noexcept nogil:
    """Where a panel's lie among them, if lanes are output channels."""
    return panel * terms * job.vectors * job.lanes


cdef Py_ssize_t terms_in_a_run(
    Gather *job, Py_ssize_t py, Py_ssize_t px, Py_ssize_t rows, Py_ssize_t columns
) noexcept nogil:
    """Terms of an output that lie end to end in the weights: one, a row's, a channel's, or all."""
    cdef Side *h = &job.h
    cdef Side *w = &job.w
    if columns == 0 or columns < w.taps or job.w_sw != 1 or w.index[w.taps - 1] != w.taps - 1:
        return 1
    if (job.rows_first or h.first[py + 1] - h.first[py] < h.taps or job.w_sh != w.taps
            or h.index[h.taps - 1] != h.taps - 1):
        return columns
    return rows * columns if job.w_si == h.taps * w.taps else h.taps * w.taps


cdef void pack_filters(
    floating *a, const floating *weight, Gather *job, Py_ssize_t py, Py_ssize_t px,
    Py_ssize_t channel0, Py_ssize_t channels, Py_ssize_t output0, Py_ssize_t outputs,
) noexcept nogil:
    """[output][term] of one phase's weights."""
    cdef Side *h = &job.h
    cdef Side *w = &job.w
    cdef Py_ssize_t rows = channels * (h.first[py + 1] - h.first[py])
    cdef Py_ssize_t columns = w.first[px + 1] - w.first[px], run, o, c, _n, j, ready = 0
    cdef Row row
    cdef const floating *filter
    cdef const floating *taps
    if rows * columns == 0:
        return
    run = terms_in_a_run(job, py, px, rows, columns)
    weight += output0 * job.w_so + channel0 * job.w_si
    if run == 1 and h.taps * w.taps == job.w_so == 1:  # a matrix to be transposed
        while ready + job.lanes <= channels:
            transpose(a + ready, channels, weight + ready * job.w_si, job.w_si, job.lanes, outputs)
            ready += job.lanes
    for o in range(outputs):
        filter = weight + o * job.w_so
        if run > columns:
            for c in range(rows * columns // run):
                copy_run(a, filter + c * job.w_si, run)
                a += run
            continue
        a += ready
        row.channel, row.tap = ready, h.first[py]
        for _n in range(ready, rows):
            taps = filter + row.channel * job.w_si + h.index[row.tap] * job.w_sh
            if run > 1:
                copy_run(a, taps, run)
            else:
                for j in range(columns):
                    a[j] = taps[w.index[w.first[px] + j] * job.w_sw]
            a += columns
            next_row(&row, job, py, channels)


cdef void pack_lanes(
    floating *b, const floating *weight, Gather *job, Py_ssize_t py, Py_ssize_t px,
    Py_ssize_t channel0, Py_ssize_t channels, Py_ssize_t panel,
) noexcept nogil:
    """[term][output] of one phase's weights for a panel, zeros in lanes that are left."""
    cdef Side *h = &job.h
    cdef Side *w = &job.w
    cdef Py_ssize_t rows = channels * (h.first[py + 1] - h.first[py])
    cdef Py_ssize_t columns = w.first[px + 1] - w.first[px], width = job.vectors * job.lanes
    cdef Py_ssize_t v, o, outputs, run, i, j, _n
    cdef Row row
    cdef const floating *filter
    cdef const floating *taps
    cdef const floating *tap
    cdef floating *to
    run = terms_in_a_run(job, py, px, rows, columns)
    for v in range(panel_rows(&job.panels, panel)):
        o = (panel_start(&job.panels, panel) + v) * job.lanes
        outputs = min(job.lanes, job.outputs - o)
        filter = weight + o * job.w_so + channel0 * job.w_si
        to = b + v * job.lanes
        row.channel, row.tap = 0, h.first[py]
        if run > columns:
            for i in range(rows * columns // run):
                transpose(to, width, filter + i * job.w_si, job.w_so, outputs, run)
                to += run * width
            continue
        for _n in range(rows):
            taps = filter + row.channel * job.w_si + h.index[row.tap] * job.w_sh
            if run > 1:
                transpose(to, width, taps, job.w_so, outputs, run)
            else:
                for j in range(columns):
                    tap = taps + w.index[w.first[px] + j] * job.w_sw
                    if job.w_so == 1:
                        copy_run(to + j * width, tap, outputs)
                    else:
                        for i in range(outputs):
                            to[j * width + i] = tap[i * job.w_so]
                    fill_run(to + j * width + outputs, <floating> 0, job.lanes - outputs)
            to += columns * width
            next_row(&row, job, py, channels)


cdef void pack_weights(
    floating *a, const floating *weight, Gather *job, Py_ssize_t part, Py_ssize_t panel
) noexcept nogil:
    """One group's block of source channels: [phase], then as `pack_filters`, or a panel of each
    phase as `pack_lanes`."""
    cdef Side *h = &job.h
    cdef Side *w = &job.w
    cdef Py_ssize_t group = part // job.blocks, channel0 = part % job.blocks * job.block
    cdef Py_ssize_t channels = min(job.block, job.channels - channel0), py, px
    cdef floating *phase
    weight += group * job.w_sg
    for py in range(h.phases):
        for px in range(w.phases):
            phase = a + packed_place(job, group, channel0, channels, py, px)
            if job.channel_lanes:
                pack_lanes(phase + panel_place(job, panel, channels * taps_of(h, w, py, px)),
                           weight, job, py, px, channel0, channels, panel)
            else:
                pack_filters(phase, weight, job, py, px, channel0, channels, 0, job.outputs)


cdef void pack_all(
    floating *packed, const floating *weight, Gather *job, int threads
) noexcept nogil:
    cdef Py_ssize_t part, panels = job.panels.count if job.channel_lanes else 1
    for part in prange(
            job.groups * job.blocks * panels, num_threads=threads, schedule="static"):
        pack_weights(packed, weight, job, part // panels, part % panels)


cdef inline void lay_rows(
    floating *b, Py_ssize_t length, const floating *row, Py_ssize_t pitch, Py_ssize_t rows,
    Py_ssize_t jump, Py_ssize_t low, Py_ssize_t high, Py_ssize_t ahead, const Extent *array,
) noexcept nogil:
    """b[r * length + j] = row[r * pitch + j * jump] for low <= j < high, else 0. What lies `ahead`
    of each is asked for."""
    cdef Py_ssize_t lanes = SD_VECTOR_BYTES // sizeof(floating)
    cdef Py_ssize_t vectors = parts(length, lanes), _r
    cdef Py_ssize_t least = <Py_ssize_t> row, most = <Py_ssize_t> (row + (rows - 1) * pitch)
    if most < least:
        least, most = most, least
    if (vectors <= SD_ROW_VECTORS and 1 <= jump <= 2 and least >= array.begin
            and most + jump * vectors * lanes * <Py_ssize_t> sizeof(floating) <= array.end):
        copy_rows(b, length, row, pitch, rows, jump, low, high, ahead)
        return
    for _r in range(rows):
        if ahead and low < high:
            sd_prefetch(row + low * jump + ahead, ((high - low - 1) * jump + 1)
                        * <Py_ssize_t> sizeof(floating))
        fill_inside(b, length, row, jump, low, high, <floating> 0)
        b += length
        row += pitch


cdef void pack_block(
    floating *b, const floating *x, Gather *job, Py_ssize_t channels, Py_ssize_t images,
    Py_ssize_t row0, Py_ssize_t column0,
) noexcept nogil:
    """A block of source channels, its padding filled in, split into slots."""
    cdef Side *h = &job.h
    cdef Side *w = &job.w
    cdef Py_ssize_t c, sy, sx, n, top, bottom, above, low, high, first
    cdef Py_ssize_t ahead  # from a channel's pixel to the next one's
    for c in range(channels):
        ahead = job.x_sc if c + 1 < channels and job.x_sw == 1 else 0
        for sy in range(h.slots):
            top = h.origin[sy] + row0 * h.step
            bottom = count_inside(top, h.step, h.size, job.height)
            above = min(first_inside(top, h.step), bottom)
            for sx in range(w.slots):
                first = w.origin[sx] + column0 * w.step
                high = count_inside(first, w.step, w.size, job.length)
                low = min(first_inside(first, w.step), high)
                for n in range(images):
                    fill_run(b, <floating> 0, above * job.length)
                    lay_rows(b + above * job.length, job.length,
                             x + n * job.x_sn + c * job.x_sc + (top + above * h.step) * job.x_sh
                             + first * job.x_sw, h.step * job.x_sh, bottom - above,
                             w.step * job.x_sw, low, high, ahead, &job.extent)
                    fill_run(b + bottom * job.length, <floating> 0,
                             (job.height - bottom) * job.length)
                    b += job.height * job.length
                b += (job.batch - images) * job.height * job.length


cdef struct Band:  # where a task is
    Py_ssize_t images, rows, columns  # of the phase
    Py_ssize_t row0                   # the first of its rows, which has the taps from `tap` on
    Py_ssize_t tap, taps
    Py_ssize_t pitch                  # from one row's first pixel to the next one's
    Py_ssize_t total                  # its pixels, rows laid end to end
    Py_ssize_t image, row, column     # where the next strip starts
    Py_ssize_t panel0, panels         # the panels that are in the cache
    bint first, last                  # block of source channels


cdef struct Run:  # pixels of a strip that lie side by side
    Py_ssize_t lane, size, source, result


cdef Py_ssize_t next_strip(Run *runs, Gather *job, Band *band, Py_ssize_t width) noexcept nogil:
    """Cut the next `width` pixels of a band into runs; return how many."""
    cdef Py_ssize_t count = 0, lane = 0, size
    cdef Py_ssize_t y_sh = job.h.phases * job.w.out
    cdef Py_ssize_t y_sn = job.groups * job.outputs * job.h.out * job.w.out
    while lane < width:
        size = min(band.pitch - band.column, width - lane)
        runs[count].lane = lane
        runs[count].size = min(size, band.columns - band.column)
        runs[count].source = (band.image * job.height + band.row) * job.length + band.column
        runs[count].result = (band.image * y_sn + band.row * y_sh + band.column * job.w.phases)
        count += runs[count].size > 0
        lane += size
        band.column += size
        if band.column == band.pitch:
            band.column = 0
            band.row += 1
            if band.row == band.rows:
                band.row = 0
                band.image += 1
    return count


cdef void stage_strip(
    floating *strip, const floating *packed, Gather *job, const Py_ssize_t *off, Py_ssize_t terms,
    Run *runs, Py_ssize_t count,
) noexcept nogil:
    """The strip's pixels of every term, side by side."""
    cdef Py_ssize_t to[MOST_LANES]
    cdef Py_ssize_t source[MOST_LANES]
    cdef Py_ssize_t i, lane, moves = 0
    for i in range(count):
        lane = 0
        while lane < runs[i].size:
            to[moves] = runs[i].lane + lane
            source[moves] = runs[i].source + lane
            moves += 1
            lane += job.lanes
    stage(strip, job.vectors * job.lanes, packed, off, terms, to, source, moves)


cdef inline bint sees(
    Side *h, Py_ssize_t tap, Py_ssize_t top, Py_ssize_t bottom
) noexcept nogil:
    """Whether one of a phase's outputs, top to bottom, has a source row under a tap."""
    cdef Py_ssize_t row = h.origin[h.slot[tap]] + h.shift[tap] * h.step
    return row + bottom * h.step >= 0 and row + top * h.step < h.size


cdef Py_ssize_t terms_outside(
    Py_ssize_t *summed, Gather *job, Band *band, Py_ssize_t terms, Py_ssize_t top,
    Py_ssize_t bottom,
) noexcept nogil:
    """How many terms come before those whose row of taps sees a pixel, for rows top to bottom of
    a band; how many those are."""
    cdef Py_ssize_t low = band.tap, high = band.tap + band.taps, of_tap = terms // band.taps
    while low < high and not sees(&job.h, low, band.row0 + top, band.row0 + bottom):
        low += 1
    while low < high and not sees(&job.h, high - 1, band.row0 + top, band.row0 + bottom):
        high -= 1
    summed[0] = of_tap * (high - low)
    return of_tap * (low - band.tap)


cdef Py_ssize_t gather_strip(
    floating *y, floating *sums, floating *buffer, floating *strip, const floating *a,
    const floating *packed, const Py_ssize_t *off, Gather *job, Band *band, Py_ssize_t terms,
    Py_ssize_t start, const floating *bias,
) noexcept nogil:
    """Pixels start .. for the panels in the cache, while their terms are in L1; how many.

    `y` is the plane of the first panel's first channel at the band's first pixel, `sums` is that
    channel's row of partial sums.
    """
    cdef Py_ssize_t plane = job.h.out * job.w.out, step = job.w.phases
    cdef Py_ssize_t pixels = min(
        job.vectors * job.lanes,
        band.pitch - band.column if job.by_rows else band.total - start)
    cdef Py_ssize_t vectors = parts(pixels, job.lanes), width = vectors * job.lanes
    cdef Py_ssize_t first = panel_start(&job.panels, band.panel0), p, o, i, j, rows, count, over
    cdef Py_ssize_t top = band.row, last = band.column + pixels - 1, bottom
    cdef Py_ssize_t skipped, summed = terms
    cdef Run runs[MOST_LANES]
    cdef Py_ssize_t row[SD_MAX_ROWS]
    cdef const floating *b
    cdef const floating *add = NULL
    cdef bint whole
    count = next_strip(runs, job, band, pixels)
    if count == 0:
        return pixels  # they lie between two rows
    if job.rows_first and band.taps > 1:
        bottom = top + last // band.pitch
        if bottom >= band.rows:  # and on to the next image
            top, bottom = 0, band.rows - 1
        skipped = terms_outside(&summed, job, band, terms, top, bottom)
        a += skipped
        off += skipped
    if job.staged:
        stage_strip(strip, packed, job, off, summed, runs, count)
        b, off = strip, job.steps
    else:
        b = packed + runs[0].source - runs[0].lane
    # side by side in y as well, nothing between its runs, and what hangs over a row's end is
    # overwritten by the next rows
    over = width - runs[count - 1].lane - runs[count - 1].size
    whole = (step == 1 and (count == 1 or band.pitch == band.columns)
             and runs[count - 1].result - runs[0].result == runs[count - 1].lane)
    if over > 0 and (not job.by_rows or job.h.phases > 1 or band.columns < job.w.out
                     or over > (band.rows - 1 - top) * band.columns):
        whole = False
    y += runs[0].result
    for i in range(SD_MAX_ROWS):
        row[i] = i * terms
    for p in range(band.panel0, band.panel0 + band.panels):
        rows = panel_rows(&job.panels, p)
        o = panel_start(&job.panels, p) - first
        if not band.first:
            add = sums + o * job.flat + start
        if not band.last:
            tile(rows, vectors, summed, a + o * terms, row, NULL, b, off,
                 sums + o * job.flat + start, job.flat, add, job.flat, <floating *> NULL, False)
            continue
        tile(rows, vectors, summed, a + o * terms, row, NULL, b, off,
             y + o * plane if whole else buffer, plane if whole else width, add, job.flat,
             bias + o if bias != NULL else NULL, job.relu)
        if whole:
            continue
        # ends of rows, and rows that interleave with other phases
        for j in range(count):
            for i in range(rows):
                put_run(y + (o + i) * plane + runs[j].result - runs[0].result, step,
                        buffer + i * width + runs[j].lane, runs[j].size)
    return pixels


cdef struct Chunk:  # of a band's pixels: rows of its images end to end, some of their columns
    Py_ssize_t row, rows, column, columns


cdef struct Spot:  # a pixel of a band
    Py_ssize_t image, row, column


cdef inline Py_ssize_t run_from(Spot *spot, Chunk *chunk, Py_ssize_t most) noexcept nogil:
    """How many pixels of its row follow, itself among them."""
    return min(most, chunk.column + chunk.columns - spot.column)


cdef inline void move_on(Spot *spot, Band *band, Chunk *chunk, Py_ssize_t count) noexcept nogil:
    spot.column += count
    if spot.column == chunk.column + chunk.columns:
        spot.column = chunk.column
        spot.row += 1
        if spot.row == band.rows:
            spot.row = 0
            spot.image += 1


cdef void sum_chunk(
    floating *sums, const floating *packed, const Py_ssize_t *off, const floating *weights,
    Gather *job, Band *band, Chunk *chunk, Py_ssize_t terms, Py_ssize_t vectors,
    const floating *bias, const floating *y,
) noexcept nogil:
    """[pixel][output channel] of a panel, added to the sums of earlier blocks; `y` as in
    `gather_panel`, or NULL where more blocks follow."""
    cdef Py_ssize_t width = job.vectors * job.lanes, rest = chunk.rows * chunk.columns
    cdef Py_ssize_t run, runs, most, size, bottom, skipped = 0, summed = terms
    cdef Py_ssize_t place[SD_MAX_ROWS]
    cdef Py_ssize_t y_sh = job.h.phases * job.w.out, plane = job.h.out * job.w.out, i
    cdef Py_ssize_t y_sn = job.groups * job.outputs * job.h.out * job.w.out
    cdef const floating *result
    cdef Spot here, top
    # or each row of a tile is a pixel of any place: so few that registers hold their addresses, or
    # too few side by side
    cdef bint side_by_side = SD_MAX_ROWS > FEW_ROWS and 2 * chunk.columns >= SD_MAX_ROWS
    run, most = 1, even(rest, SD_MAX_ROWS)
    if side_by_side:
        run = even(chunk.columns, SD_MAX_ROWS)
        most = 2 if SD_VECTORS(2 * run) >= vectors else 1
    here.image, here.row = chunk.row // band.rows, chunk.row % band.rows
    here.column = chunk.column
    while rest > 0:
        top = here
        runs, size = 0, run_from(&here, chunk, run)
        while runs < most and (runs + 1) * size <= rest and run_from(&here, chunk, run) == size:
            place[runs] = (here.image * job.height + here.row) * job.length + here.column
            runs += 1
            if y != NULL and (side_by_side or runs == 1):  # where they will be turned to
                result = y + here.image * y_sn + here.row * y_sh + here.column * job.w.phases
                for i in range(vectors * job.lanes):
                    sd_prefetch(result + i * plane, 1)
            move_on(&here, band, chunk, size)
        if job.rows_first and band.taps > 1:
            bottom = (place[runs - 1] // job.length) - top.image * job.height
            if bottom < job.height:
                skipped = terms_outside(&summed, job, band, terms, top.row, bottom)
            else:
                skipped, summed = 0, terms  # on to the next image
        if side_by_side:
            tile_of_runs(size, runs, vectors, summed, packed, place, off + skipped,
                         weights + skipped * width, width, sums, width,
                         NULL if band.first else sums, width, bias, job.relu and band.last)
        else:
            tile(runs, vectors, summed, packed, place, off + skipped, weights + skipped * width,
                 job.steps, sums, width, NULL if band.first else sums, width, bias,
                 job.relu and band.last)
        sums += runs * size * width
        rest -= runs * size


cdef void turn_run(
    floating *y, Py_ssize_t step, const floating *sums, floating *turned, Gather *job,
    Py_ssize_t pixels, Py_ssize_t outputs,
) noexcept nogil:
    """[pixel][output channel] -> y, the planes' pixels, `step` apart."""
    cdef Py_ssize_t plane = job.h.out * job.w.out, width = job.vectors * job.lanes
    cdef Py_ssize_t lanes = job.lanes, o = 0, i, k, count
    while o < outputs:
        i = 0
        while i < pixels:
            if step == 1 and pixels >= lanes and o + lanes <= outputs:
                i = min(i, pixels - lanes)
                transpose(y + o * plane + i, plane, sums + i * width + o, width, lanes, lanes)
            else:
                count = min(lanes, pixels - i)
                transpose(turned, lanes, sums + i * width + o, width, count, lanes)
                for k in range(min(lanes, outputs - o)):
                    put_run(y + (o + k) * plane + i * step, step, turned + k * lanes, count)
            i += lanes
        o += lanes


cdef void turn_chunk(
    floating *y, const floating *sums, floating *turned, Gather *job, Band *band, Chunk *chunk,
    Py_ssize_t outputs,
) noexcept nogil:
    """As `turn_run`, row after row, or those of an image at once where nothing lies between."""
    cdef Py_ssize_t y_sh = job.h.phases * job.w.out
    cdef Py_ssize_t y_sn = job.groups * job.outputs * job.h.out * job.w.out
    cdef Py_ssize_t row = chunk.row, last = chunk.row + chunk.rows, rows
    cdef bint whole = job.h.phases == job.w.phases == 1 and chunk.columns == job.w.out
    while row < last:
        rows = min(last - row, band.rows - row % band.rows) if whole else 1
        turn_run(y + row // band.rows * y_sn + row % band.rows * y_sh + chunk.column * job.w.phases,
                 job.w.phases, sums, turned, job, rows * chunk.columns, outputs)
        sums += rows * chunk.columns * job.vectors * job.lanes
        row += rows


cdef void gather_panel(
    floating *y, floating *sums, floating *turned, const floating *weights, const floating *packed,
    const Py_ssize_t *off, Gather *job, Band *band, Py_ssize_t terms, Py_ssize_t panel,
    const floating *bias,
) noexcept nogil:
    """A band's pixels as rows of the tile, a panel's channels as its lanes.

    `y` is the plane of the panel's first channel at the band's first pixel. `sums` are of the whole
    band, or, where there is one block of source channels, of a chunk."""
    cdef Py_ssize_t vectors = panel_rows(&job.panels, panel), rows = band.images * band.rows
    cdef Py_ssize_t o = panel_start(&job.panels, panel) * job.lanes, at = 0
    cdef Py_ssize_t outputs = min(vectors * job.lanes, job.outputs - o)
    cdef Py_ssize_t columns = even(band.columns, CHUNK), high = 1
    cdef floating of_lanes[MOST_LANES]
    cdef Chunk chunk
    if columns == band.columns:
        high = CHUNK // columns
    if bias != NULL:
        copy_run(of_lanes, bias + o, outputs)
        fill_run(of_lanes + outputs, <floating> 0, vectors * job.lanes - outputs)
    chunk.row = 0
    while chunk.row < rows:
        chunk.rows = min(high, rows - chunk.row)
        chunk.column = 0
        while chunk.column < band.columns:
            chunk.columns = min(columns, band.columns - chunk.column)
            sum_chunk(sums + at, packed, off, weights, job, band, &chunk, terms, vectors,
                      of_lanes if bias != NULL and band.last else NULL,
                      y if band.last else NULL)
            if band.last:
                turn_chunk(y, sums + at, turned, job, band, &chunk, outputs)
            if job.blocks > 1:
                at += chunk.rows * chunk.columns * job.vectors * job.lanes
            chunk.column += chunk.columns
        chunk.row += chunk.rows


cdef struct Layout:  # of one thread's scratch, in elements
    Py_ssize_t buffer, own, strip, sums, size


cdef Layout layout(Gather *job) noexcept nogil:
    """The packed block, a tile's results, weights that a task packs for itself, a strip's terms,
    partial sums; where pixels are lanes with room for a tile's overhang."""
    cdef Layout part
    cdef Py_ssize_t terms = most_terms(job), width = job.vectors * job.lanes
    cdef Py_ssize_t slack = SD_MAX_VECTORS * job.lanes
    part.buffer = spread(job.block * job.plane + slack)
    part.own = part.buffer + max(slack * SD_MAX_ROWS, job.lanes * job.lanes)
    part.strip = part.own + spread(job.late * terms * (
        width if job.channel_lanes else job.resident * SD_MAX_ROWS))
    part.sums = part.strip + spread(job.staged * (terms * job.vectors + 1) * job.lanes)
    part.size = part.sums
    if job.blocks > 1:
        part.size += job.flat * job.h.phases * job.w.phases * job.stored
    elif job.channel_lanes:
        part.size += CHUNK * width
    return part


cdef void gather_task(
    floating *y, const floating *x, const floating *weight, const floating *weights,
    const floating *bias, floating *packed, Gather *job, Py_ssize_t task,
) noexcept nogil:
    """`weight` is as the caller gave it, `weights` is packed, or NULL where that is done here."""
    cdef Side *h = &job.h
    cdef Side *w = &job.w
    cdef Py_ssize_t share = task % job.shares, rest = task // job.shares
    cdef Py_ssize_t column0 = rest % job.bands_w * job.columns
    cdef Py_ssize_t row0 = rest // job.bands_w % job.bands_h * job.rows
    cdef Py_ssize_t group = rest // (job.bands_w * job.bands_h) % job.groups
    cdef Py_ssize_t n0 = rest // (job.bands_w * job.bands_h * job.groups) * job.batch
    cdef Py_ssize_t panel_last = min((share + 1) * job.share, job.panels.count)
    cdef Py_ssize_t i, channel0, channels, py, px, o, taps, start, phase, panel
    cdef floating *sums
    cdef Py_ssize_t plane = h.out * w.out
    cdef Py_ssize_t first = panel_start(&job.panels, share * job.share)
    cdef Layout part = layout(job)
    cdef const floating *a
    cdef Band band
    band.images = min(job.batch, job.images - n0)
    memset(packed + job.block * job.plane, 0, SD_MAX_VECTORS * job.lanes * sizeof(floating))
    x += n0 * job.x_sn + group * job.channels * job.x_sc
    y += (n0 * job.groups + group) * job.outputs * plane
    if bias != NULL:
        bias += group * job.outputs
    for i in range(job.blocks):
        channel0 = i * job.block
        channels = min(job.block, job.channels - channel0)
        band.first, band.last = i == 0, i == job.blocks - 1
        pack_block(packed, x + channel0 * job.x_sc, job, channels, band.images, row0, column0)
        for phase in range(h.phases * w.phases):
            py, px = phase // w.phases, phase % w.phases
            band.rows = min(job.rows, parts(h.out - py, h.phases) - row0)
            band.columns = min(job.columns, parts(w.out - px, w.phases) - column0)
            if band.rows <= 0 or band.columns <= 0:
                continue
            if job.staged:
                band.pitch = band.columns
            elif job.by_rows:
                band.pitch = parts(band.columns, job.lanes) * job.lanes
            else:
                band.pitch = job.length
            band.row0, band.tap, band.taps = row0, h.first[py], h.first[py + 1] - h.first[py]
            band.total = (band.images * band.rows - 1) * band.pitch + band.columns
            taps = band.taps * (w.first[px + 1] - w.first[px])
            if job.channel_lanes:
                for panel in range(share * job.share, panel_last):
                    if weights == NULL:
                        a = packed + part.own
                        pack_lanes(packed + part.own, weight + group * job.w_sg, job, py, px,
                                   channel0, channels, panel)
                    else:
                        a = (weights + packed_place(job, group, channel0, channels, py, px)
                             + panel_place(job, panel, channels * taps))
                    sums = packed + part.sums
                    if job.blocks > 1:
                        sums += job.flat * job.vectors * job.lanes * (
                            phase * job.panels.count + panel - share * job.share)
                    gather_panel(
                        y + panel_start(&job.panels, panel) * job.lanes * plane
                        + (row0 * h.phases + py) * w.out + column0 * w.phases + px,
                        sums, packed + part.buffer, a, packed,
                        job.off + job.block * taps_before(h, w, py, px), job, &band,
                        channels * taps, panel, bias)
                continue
            band.panel0 = share * job.share
            while band.panel0 < panel_last:
                band.panels = min(job.resident, panel_last - band.panel0)
                o = panel_start(&job.panels, band.panel0)
                if weights == NULL:
                    pack_filters(
                        packed + part.own, weight + group * job.w_sg, job, py, px, channel0,
                        channels, o, panel_start(&job.panels, band.panel0 + band.panels) - o)
                    a = packed + part.own
                else:
                    a = (weights + packed_place(job, group, channel0, channels, py, px)
                         + o * channels * taps)
                band.image = band.row = band.column = start = 0
                while start < band.total:
                    start += gather_strip(
                        y + o * plane + (row0 * h.phases + py) * w.out + column0 * w.phases + px,
                        packed + part.sums + (phase * job.outputs + o - first) * job.flat,
                        packed + part.buffer, packed + part.strip, a, packed,
                        job.off + job.block * taps_before(h, w, py, px), job, &band,
                        channels * taps, start, bias + o if bias != NULL else NULL)
                band.panel0 += band.panels


cdef bint gather(
    floating *y, const floating *x, const floating *weight, floating *packed,
    const floating *bias, Gather *job, int threads,
) noexcept nogil:
    """Run the job, with weights `packed` or NULL; False where the workspace could not be had."""
    cdef Scratch weights, scratch
    cdef Py_ssize_t task
    cdef bint packing, done = False
    choose_blocks(job, sizeof(floating), packed != NULL, threads)
    packing = packed == NULL and not job.late
    if offsets(job, most_terms(job)):
        if scratch_take(&weights, packing * weights_size(job) * <Py_ssize_t> sizeof(floating), 1):
            if scratch_take(&scratch, layout(job).size * <Py_ssize_t> sizeof(floating), threads):
                if packing:
                    packed = <floating *> scratch_part(&weights, 0)
                    pack_all(packed, weight, job, threads)
                if threads == 1:  # even one thread's parallel region costs a tiny call a fifth
                    for task in range(job.tasks):
                        gather_task(y, x, weight, packed, bias,
                                    <floating *> scratch_part(&scratch, 0), job, task)
                else:
                    with parallel(num_threads=threads):
                        for task in prange(job.tasks, schedule="dynamic"):
                            gather_task(y, x, weight, packed, bias,
                                        <floating *> scratch_part(&scratch, threadid()), job, task)
                done = True
                scratch_free(&scratch)
            scratch_free(&weights)
        free(job.off)
    return done


cdef void describe_source(Gather *job, View *x, Py_ssize_t groups) noexcept nogil:
    job.images = x.size[0]
    job.groups = groups
    job.channels = x.size[1] // groups
    job.x_sn, job.x_sc, job.x_sh, job.x_sw = x.stride[0], x.stride[1], x.stride[2], x.stride[3]
    job.extent = extent_of(x)


cdef void describe_weight(
    Gather *job, View *weight, Py_ssize_t group, int output, int source
) noexcept nogil:
    """`group`: output channels of the weight per group; which axes are the gather's channels."""
    job.w_sg = group * weight.stride[0]
    job.w_so, job.w_si = weight.stride[output], weight.stride[source]
    job.w_sh, job.w_sw = weight.stride[2], weight.stride[3]


def packed_size(weight_shape, Py_ssize_t groups, Py_ssize_t itemsize):
    """How many numbers `pack` writes."""
    cdef Gather job
    job.groups, job.outputs, job.channels = groups, weight_shape[0] // groups, weight_shape[1]
    job.h.kernel = job.h.shared = job.h.taps = weight_shape[2]
    job.w.kernel = job.w.shared = job.w.taps = weight_shape[3]
    choose_terms(&job, itemsize)
    return weights_size(&job)


def pack(weight, packed, Py_ssize_t groups, int threads):
    """weight (k, c / groups, kh, kw) -> packed, of as many elements, as `forward` takes it.

    False where the workspace could not be had."""
    cdef View wv = view(weight), pv = view(packed)
    cdef Axis h = axis((wv.size[2], wv.size[2], 1, 1, 0, 0, 1))
    cdef Axis w = axis((wv.size[3], wv.size[3], 1, 1, 0, 0, 1))
    cdef Gather job
    cdef bint done = False
    with nogil:
        job.groups, job.channels, job.outputs = groups, wv.size[1], wv.size[0] // groups
        describe_weight(&job, &wv, job.outputs, 0, 1)
        if forward_sides(&job, &h, &w, wv.itemsize):
            choose_terms(&job, wv.itemsize)
            if wv.itemsize == sizeof(float):
                pack_all(<float *> pv.data, <float *> wv.data, &job, threads)
            else:
                pack_all(<double *> pv.data, <double *> wv.data, &job, threads)
            done = True
            free_sides(&job)
    return done


def forward_workspace(
    Py_ssize_t images, weight, rows, columns, Py_ssize_t groups, int threads
):
    """The bytes that `forward` takes for itself with a packed weight; 0 where even the tables of
    its axes do not fit into memory."""
    cdef View wv = view(weight)
    cdef Axis h = axis(rows), w = axis(columns)
    cdef Gather job
    cdef Py_ssize_t size = 0
    with nogil:
        job.images, job.groups = images, groups
        job.channels, job.outputs = wv.size[1], wv.size[0] // groups
        if forward_sides(&job, &h, &w, wv.itemsize):
            choose_blocks(&job, wv.itemsize, True, threads)
            size = threads * layout(&job).size * wv.itemsize
            free_sides(&job)
    return size


cdef bint run_forward(
    View *x, View *weight, View *packed, View *bias, View *y, Axis *h, Axis *w,
    Py_ssize_t groups, bint relu, int threads,
) noexcept nogil:
    cdef Gather job
    cdef bint done = False
    describe_source(&job, x, groups)
    job.outputs = weight.size[0] // groups
    describe_weight(&job, weight, job.outputs, 0, 1)
    job.relu = relu
    if forward_sides(&job, h, w, x.itemsize):
        if x.itemsize == sizeof(float):
            done = gather(<float *> y.data, <float *> x.data, <float *> weight.data,
                          <float *> packed.data, <float *> bias.data, &job, threads)
        else:
            done = gather(<double *> y.data, <double *> x.data, <double *> weight.data,
                          <double *> packed.data, <double *> bias.data, &job, threads)
        free_sides(&job)
    return done


def forward(
    x, weight, packed, bias, y, rows, columns, Py_ssize_t groups, bint relu, int threads
):
    """x (n, c, h, w), weight (k, c / groups, kh, kw), which may be `packed` too, bias (k,) or None
    -> y (n, k, oh, ow), contiguous. False where the workspace could not be had."""
    cdef View xv = view(x), wv = view(weight), pv = view(packed), bv = view(bias), yv = view(y)
    cdef Axis h = axis(rows), w = axis(columns)
    cdef bint done
    with nogil:
        done = run_forward(&xv, &wv, &pv, &bv, &yv, &h, &w, groups, relu, threads)
    return done


cdef bint run_gradient_x(
    View *grad_out, View *weight, View *bias, View *x, Axis *h, Axis *w, Py_ssize_t groups,
    int threads,
) noexcept nogil:
    cdef Gather job
    cdef bint done = False
    describe_source(&job, grad_out, groups)
    job.outputs = weight.size[1]
    describe_weight(&job, weight, job.channels, 1, 0)
    job.relu = False
    if gradient_side(&job.h, h):
        if gradient_side(&job.w, w):
            if x.itemsize == sizeof(float):
                done = gather(<float *> x.data, <float *> grad_out.data, <float *> weight.data,
                              <float *> NULL, <float *> bias.data, &job, threads)
            else:
                done = gather(<double *> x.data, <double *> grad_out.data, <double *> weight.data,
                              <double *> NULL, <double *> bias.data, &job, threads)
            free(job.w.origin)
        free(job.h.origin)
    return done


def gradient_x(grad_out, weight, bias, x, rows, columns, Py_ssize_t groups, int threads):
    """grad_out (n, k, oh, ow), weight (k, c / groups, kh, kw), bias (c,) or None, which is added ->
    x (n, c, h, w), contiguous. False where the workspace could not be had."""
    cdef View gv = view(grad_out), wv = view(weight), bv = view(bias), xv = view(x)
    cdef Axis h = axis(rows), w = axis(columns)
    cdef bint done
    with nogil:
        done = run_gradient_x(&gv, &wv, &bv, &xv, &h, &w, groups, threads)
    return done


# ------------------------------------------------------------------------- gradient for weight


cdef struct Contract:
    Gather x  # how the input is packed
    Py_ssize_t g_sn, g_sc, g_sh, g_sw
    Py_ssize_t bands, pixels   # blocks of pixels, the most pixels of one
    Py_ssize_t width, strip    # output channels of a strip, its most pixels
    Py_ssize_t segments        # parts of the bands
    Py_ssize_t share, shares   # parts of the output channels
    Py_ssize_t tasks
    bint dots                  # pixels are the lanes, not output channels
    bint runs                  # a row of taps lies side by side
    Extent extent              # of grad_out


cdef inline Py_ssize_t dots_length(Contract *job) noexcept nogil:
    """Of a band's rows laid end to end, the packed input's or grad_out's, in whole vectors."""
    return parts(job.x.rows * job.x.length, job.x.lanes) * job.x.lanes


cdef inline bint dots_pay(Contract *job) noexcept nogil:
    """Whether few terms or outputs would leave more lanes empty than short rows of pixels do."""
    cdef Gather *x = &job.x
    cdef Py_ssize_t terms = x.channels * x.h.taps * x.w.taps
    return terms <= DOTS and 8 * x.w.out >= 7 * (x.w.out + x.w.reach) and (
        x.h.out * x.w.out >= 8 * x.lanes)


cdef void choose_band(Gather *x, Py_ssize_t budget, Py_ssize_t unit) noexcept nogil:
    """Rows and columns of the output whose pixels, so many numbers each, a part of the L2 cache
    holds."""
    x.columns = even(x.w.out, max(64, budget // unit // (1 + x.h.reach) - x.w.reach))
    x.rows = even(x.h.out, budget // unit // (x.columns + x.w.reach) - x.h.reach)
    x.batch = 1


cdef void choose_dots(Contract *job, Py_ssize_t itemsize) noexcept nogil:
    """A band of one image's rows: all the input channels, and the gradient of all outputs."""
    cdef Gather *x = &job.x
    x.block, x.blocks = x.channels, 1
    choose_band(x, BAND_BYTES // itemsize, x.channels * x.h.slots * x.w.slots + x.outputs)
    count_blocks(x)
    job.bands = x.batches * x.bands_h * x.bands_w
    job.pixels = job.strip = job.width = 0
    job.segments = min(SEGMENTS, job.bands)
    job.share, job.shares = x.outputs, 1
    job.tasks = job.segments * x.groups


cdef void choose_contract(Contract *job, Py_ssize_t itemsize, int threads) noexcept nogil:
    cdef Gather *x = &job.x
    cdef Py_ssize_t taps = x.h.taps * x.w.taps, budget = BAND_BYTES // itemsize, unit, most
    x.lanes = SD_VECTOR_BYTES // itemsize
    x.panels = panels_of(x.outputs)
    x.vectors = min(<Py_ssize_t> SD_VECTORS_WIDEST, parts(x.outputs, x.lanes))
    x.staged, x.share = True, x.panels.count
    x.rows_first = False
    job.dots = dots_pay(job)
    if job.dots:
        choose_dots(job, itemsize)
        return
    job.width = x.vectors * x.lanes
    # where an address a row would be as many loads again as there are multiply-adds
    job.runs = SD_MAX_ROWS > FEW_ROWS and x.vectors == x.w.slots == 1 and (
        2 < x.w.taps == x.w.reach + 1 <= SD_MAX_ROWS)
    x.block = even(x.channels, min(TERMS // taps, budget // (TERMS * x.h.slots * x.w.slots)))
    x.blocks = parts(x.channels, x.block)
    unit = x.block * x.h.slots * x.w.slots
    choose_band(x, budget, unit)
    if x.rows == x.h.out and x.columns == x.w.out:
        x.batch = even(x.images, budget // unit // (
            (x.rows + x.h.reach) * (x.columns + x.w.reach)))
    count_blocks(x)
    job.bands = x.batches * x.bands_h * x.bands_w
    job.pixels = x.batch * x.rows * x.columns
    job.strip = even(job.pixels, TERMS)
    job.segments = 1
    if x.groups * x.outputs * x.channels * taps <= WEIGHTS:
        job.segments = min(SEGMENTS, job.bands)
    # sums that stay in the cache while the pixels pass, and something to do for every thread
    most = WEIGHT_BYTES // itemsize // (x.block * taps)
    while True:
        job.share = job.width * even(parts(x.outputs, job.width), most // job.width)
        job.shares = parts(x.outputs, job.share)
        job.tasks = job.segments * x.groups * x.blocks * job.shares
        if threads == 1 or job.tasks >= 2 * threads or job.share == job.width:
            break
        most = job.share // 2


cdef Py_ssize_t sums_pitch(Contract *job) noexcept nogil:
    return spread(job.share)


cdef void transpose_strip(
    floating *strip, const floating *g, Contract *job, Py_ssize_t outputs, Py_ssize_t rows,
    Py_ssize_t columns, Py_ssize_t start, Py_ssize_t count,
) noexcept nogil:
    """[pixel][output channel] of pixels start .. of a band."""
    cdef Py_ssize_t vector, o, r, n, i, j, k, size
    cdef const floating *pixels
    if job.g_sh == columns * job.g_sw:  # rows that lie end to end
        columns, rows = columns * rows, 1
    n, i = start // (rows * columns), start % columns
    r = start // columns % rows
    while count > 0:
        size = min(count, columns - i)
        vector = 0
        while vector < outputs:
            o = min(job.x.lanes, outputs - vector)
            pixels = g + n * job.g_sn + vector * job.g_sc + r * job.g_sh + i * job.g_sw
            if job.g_sw == 1:
                transpose(strip + vector, job.width, pixels, job.g_sc, o, size)
            else:
                for j in range(size):
                    for k in range(o):
                        strip[j * job.width + vector + k] = pixels[k * job.g_sc + j * job.g_sw]
            vector += job.x.lanes
        strip += size * job.width
        count -= size
        i, r = 0, r + 1
        if r == rows:
            r, n = 0, n + 1


cdef void contract_runs(
    floating *sums, Py_ssize_t pitch, const floating *packed, const floating *strip,
    const Py_ssize_t *place, Py_ssize_t pixels, Contract *job, Py_ssize_t runs,
    Py_ssize_t vectors, bint first,
) noexcept nogil:
    """The terms as rows of taps, some at once."""
    cdef Py_ssize_t run = job.x.w.taps, done = 0, count, i
    cdef Py_ssize_t row[4]
    while done < runs:
        count = 4
        while count > runs - done or count > 1 and SD_VECTORS(count * run) < vectors:
            count //= 2
        for i in range(count):
            row[i] = job.x.off[(done + i) * run]
        tile_of_runs(run, count, vectors, pixels, packed, row, place, strip, job.width, sums, pitch,
                     NULL if first else sums, pitch, <floating *> NULL, False)
        sums += count * run * pitch
        done += count


cdef void contract_task(
    floating *partial, const floating *grad_out, const floating *x_in, char *memory,
    Contract *job, Py_ssize_t task,
) noexcept nogil:
    """One segment's pixels, one group, some input and output channels, into the segment's sum."""
    cdef Gather *x = &job.x
    cdef Py_ssize_t output0 = task % job.shares * job.share
    cdef Py_ssize_t outputs = min(job.share, x.outputs - output0)
    cdef Py_ssize_t channel0 = task // job.shares % x.blocks * x.block
    cdef Py_ssize_t channels = min(x.block, x.channels - channel0)
    cdef Py_ssize_t group = task // (job.shares * x.blocks) % x.groups
    cdef Py_ssize_t segment = task // (job.shares * x.blocks * x.groups)
    cdef Py_ssize_t taps = x.h.taps * x.w.taps, pitch = sums_pitch(job)
    cdef Py_ssize_t band, n0, row0, column0, images, rows, columns, vectors
    cdef Py_ssize_t n, r, i, o, p, start, count, total
    cdef bint first = True
    cdef Panels panels = panels_of(channels * taps)
    cdef Py_ssize_t *place = <Py_ssize_t *> memory  # [pixel of the band] in the packed block
    cdef floating *packed = <floating *> (place + job.pixels)
    cdef floating *strip = packed + spread(x.block * x.plane + x.lanes)
    cdef floating *sums = strip + spread(job.strip * job.width)  # [channel, tap][output]
    cdef floating *to
    grad_out += (group * x.outputs + output0) * job.g_sc
    x_in += (group * x.channels + channel0) * x.x_sc
    for band in range(job.bands * segment // job.segments,
                      job.bands * (segment + 1) // job.segments):
        column0 = band % x.bands_w * x.columns
        row0 = band // x.bands_w % x.bands_h * x.rows
        n0 = band // (x.bands_w * x.bands_h) * x.batch
        images = min(x.batch, x.images - n0)
        rows = min(x.rows, x.h.out - row0)
        columns = min(x.columns, x.w.out - column0)
        pack_block(packed, x_in + n0 * x.x_sn, x, channels, images, row0, column0)
        total = 0
        for n in range(images):
            for r in range(rows):
                for i in range(columns):
                    place[total] = (n * x.height + r) * x.length + i
                    total += 1
        start = 0
        while start < total:
            count = min(job.strip, total - start)
            o = 0
            while o < outputs:
                transpose_strip(
                    strip, grad_out + n0 * job.g_sn + o * job.g_sc + row0 * job.g_sh
                    + column0 * job.g_sw, job, min(job.width, outputs - o), rows, columns, start,
                    count)
                vectors = parts(min(job.width, outputs - o), x.lanes)
                if job.runs:
                    contract_runs(sums + o, pitch, packed, strip, place + start, count, job,
                                  channels * x.h.taps, vectors, first)
                else:
                    for p in range(panels.count):
                        i = panel_start(&panels, p)
                        to = sums + i * pitch + o
                        tile(panel_rows(&panels, p), vectors, count, packed, x.off + i,
                             place + start, strip, x.steps, to, pitch, NULL if first else to,
                             pitch, <floating *> NULL, False)
                o += job.width
            start += count
            first = False
    partial += ((segment * x.groups + group) * x.outputs + output0) * x.channels * taps
    for o in range(outputs):
        for i in range(channels * taps):
            partial[(o * x.channels + channel0) * taps + i] = sums[i * pitch + o]


cdef void contract_dots(
    floating *partial, const floating *grad_out, const floating *x_in, floating *packed,
    Contract *job, Py_ssize_t task,
) noexcept nogil:
    """One segment's pixels and one group, into the segment's sum."""
    cdef Gather *x = &job.x
    cdef Py_ssize_t group = task % x.groups, segment = task // x.groups
    cdef Py_ssize_t terms = x.channels * x.h.taps * x.w.taps, length = dots_length(job)
    cdef Py_ssize_t pitch = terms * x.lanes, band, n, row0, column0, rows, columns, o, r, i, vectors
    cdef Py_ssize_t of_tile  # output channels
    cdef floating *g = packed + spread(x.block * x.plane + x.lanes)  # [output][pixel]
    cdef floating *inside = g + x.outputs * length
    cdef floating *sums = inside + length  # [output][term][lane]
    grad_out += group * x.outputs * job.g_sc
    x_in += group * x.channels * x.x_sc
    memset(packed, 0, (sums + x.outputs * pitch - packed) * sizeof(floating))
    for band in range(job.bands * segment // job.segments,
                      job.bands * (segment + 1) // job.segments):
        column0 = band % x.bands_w * x.columns
        row0 = band // x.bands_w % x.bands_h * x.rows
        n = band // (x.bands_w * x.bands_h)
        rows = min(x.rows, x.h.out - row0)
        columns = min(x.columns, x.w.out - column0)
        pack_block(packed, x_in + n * x.x_sn, x, x.channels, 1, row0, column0)
        for o in range(x.outputs):
            lay_rows(g + o * length, x.length,
                     grad_out + n * job.g_sn + o * job.g_sc + row0 * job.g_sh + column0 * job.g_sw,
                     job.g_sh, rows, job.g_sw, 0, columns,
                     job.g_sc if o + 1 < x.outputs and job.g_sw == 1 else 0, &job.extent)
            fill_run(g + o * length + rows * x.length, <floating> 0, length - rows * x.length)
        memset(inside, 0, length * sizeof(floating))
        for r in range(rows):
            memset(inside + r * x.length, 0xff, columns * sizeof(floating))
        vectors = parts(rows * x.length, x.lanes)
        o = 0
        while o < x.outputs:
            of_tile = even(x.outputs - o, SD_DOT_ROWS)
            i = 0
            while i < terms:
                dot(of_tile, min(<Py_ssize_t> SD_DOT_COLUMNS, terms - i), vectors, g + o * length,
                    length, packed, x.off + i, inside, sums + o * pitch + i * x.lanes, pitch)
                i += SD_DOT_COLUMNS
            o += of_tile
    partial += (segment * x.groups + group) * x.outputs * terms
    for i in range(x.outputs * terms):
        partial[i] = total_of(sums + i * x.lanes, x.lanes)


cdef bint contract(
    floating *weight, const floating *grad_out, const floating *x, Contract *job, int threads,
) noexcept nogil:
    """False where the workspace could not be had."""
    cdef Scratch scratch, partials
    cdef Py_ssize_t task, size, elements
    cdef floating *partial = weight
    cdef bint done = False
    choose_contract(job, sizeof(floating), threads)
    size = job.x.groups * job.x.outputs * job.x.channels * job.x.h.taps * job.x.w.taps
    elements = spread(job.x.block * job.x.plane + job.x.lanes)
    if job.dots:
        elements += (job.x.outputs + 1) * dots_length(job) + job.x.outputs * (
            job.x.channels * job.x.h.taps * job.x.w.taps * job.x.lanes)
    else:
        elements += spread(job.strip * job.width) + sums_pitch(job) * (
            job.x.block * job.x.h.taps * job.x.w.taps)
    if offsets(&job.x, job.strip):
        if scratch_take(&partials, size * (job.segments if job.segments > 1 else 0)
                        * <Py_ssize_t> sizeof(floating), 1):
            if scratch_take(&scratch, job.pixels * <Py_ssize_t> sizeof(Py_ssize_t)
                            + elements * <Py_ssize_t> sizeof(floating), threads):
                if job.segments > 1:
                    partial = <floating *> scratch_part(&partials, 0)
                with parallel(num_threads=threads):
                    for task in prange(job.tasks, schedule="dynamic"):
                        if job.dots:
                            contract_dots(
                                partial, grad_out, x,
                                <floating *> scratch_part(&scratch, threadid()), job, task)
                        else:
                            contract_task(partial, grad_out, x,
                                          <char *> scratch_part(&scratch, threadid()), job, task)
                if job.segments > 1:
                    sum_segments(weight, partial, size, job.segments)
                done = True
                scratch_free(&scratch)
            scratch_free(&partials)
        free(job.x.off)
    return done


cdef bint run_gradient_weight(
    View *grad_out, View *x, View *weight, Axis *h, Axis *w, Py_ssize_t groups, int threads,
) noexcept nogil:
    cdef Contract job
    cdef bint done = False
    describe_source(&job.x, x, groups)
    job.extent = extent_of(grad_out)
    job.x.outputs = weight.size[0] // groups
    job.g_sn, job.g_sc = grad_out.stride[0], grad_out.stride[1]
    job.g_sh, job.g_sw = grad_out.stride[2], grad_out.stride[3]
    if forward_side(&job.x.h, h, far_apart(h)):
        if forward_side(&job.x.w, w, far_apart(w)):
            if x.itemsize == sizeof(float):
                done = contract(<float *> weight.data, <float *> grad_out.data, <float *> x.data,
                                &job, threads)
            else:
                done = contract(<double *> weight.data, <double *> grad_out.data, <double *> x.data,
                                &job, threads)
            free(job.x.w.origin)
        free(job.x.h.origin)
    return done


def gradient_weight(grad_out, x, weight, rows, columns, Py_ssize_t groups, int threads):
    """grad_out (n, k, oh, ow), x (n, c, h, w) -> weight (k, c / groups, kh, kw), contiguous.

    False where the workspace could not be had."""
    cdef View gv = view(grad_out), xv = view(x), wv = view(weight)
    cdef Axis h = axis(rows), w = axis(columns)
    cdef bint done
    with nogil:
        done = run_gradient_weight(&gv, &xv, &wv, &h, &w, groups, threads)
    return done


# --------------------------------------------------------------------------- gradient for bias


cdef void channel_sum(
    floating *bias, const floating *g, View *v, Py_ssize_t channel
) noexcept nogil:
    """Runs of a plane's pixels, whose sums are added up in double, in a fixed order."""
    cdef double sum = 0
    cdef floating run[PIXELS]
    cdef Py_ssize_t n, i, j, count, width = v.size[3], pixels = v.size[2] * width
    cdef bint flat = v.stride[3] == 1 and v.stride[2] == width
    cdef const floating *plane
    for n in range(v.size[0]):
        plane = g + n * v.stride[0] + channel * v.stride[1]
        i = 0
        while i < pixels:
            count = min(<Py_ssize_t> PIXELS, pixels - i)
            if flat:
                sum += total_of(plane + i, count)
            else:
                for j in range(count):
                    run[j] = plane[
                        (i + j) // width * v.stride[2] + (i + j) % width * v.stride[3]]
                sum += total_of(run, count)
            i += count
    bias[channel] = <floating> sum


cdef void channel_sums(floating *bias, const floating *g, View *v, int threads) noexcept nogil:
    cdef Py_ssize_t channel
    for channel in prange(v.size[1], num_threads=threads, schedule="static"):
        channel_sum(bias, g, v, channel)


cdef void run_gradient_bias(View *grad_out, View *bias, int threads) noexcept nogil:
    if grad_out.itemsize == sizeof(float):
        channel_sums(<float *> bias.data, <float *> grad_out.data, grad_out, threads)
    else:
        channel_sums(<double *> bias.data, <double *> grad_out.data, grad_out, threads)


def gradient_bias(grad_out, bias, int threads):
    """grad_out (n, k, oh, ow) -> bias (k,), contiguous."""
    cdef View gv = view(grad_out), bv = view(bias)
    with nogil:
        run_gradient_bias(&gv, &bv, threads)


# --------------------------------------------------------------------------- gradient of the ReLU


cdef void keep(
    floating *x, const floating *y, const floating *g, Py_ssize_t size, int threads
) noexcept nogil:
    cdef Py_ssize_t i
    for i in prange(size, num_threads=threads, schedule="static"):
        x[i] = 0 if y[i] <= 0 else g[i]


def gradient_relu(y, grad_out, x, int threads):
    """y (size,), what the ReLU gave, grad_out (size,) -> x (size,): grad_out where the ReLU let its
    input through, NaN included. All contiguous."""
    cdef View yv = view(y), gv = view(grad_out), xv = view(x)
    with nogil:
        if yv.itemsize == sizeof(float):
            keep(<float *> xv.data, <float *> yv.data, <float *> gv.data, yv.size[0], threads)
        else:
            keep(<double *> xv.data, <double *> yv.data, <double *> gv.data, yv.size[0], threads)


cdef ConvolutionEntries table
table.forward = run_forward
table.gradient_x = run_gradient_x
table.gradient_weight = run_gradient_weight
table.gradient_bias = run_gradient_bias
entries = PyCapsule_New(&table, "ConvolutionEntries", NULL)

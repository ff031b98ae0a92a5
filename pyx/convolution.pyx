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
    padding, so that a tap is an offset); phase, panels that stay in the cache, tile of pixels,
    panel of output channels.
The gradient for weight contracts over pixels, from the same packed block.
    Loops: segment of pixels, group, share of the output channels; block of pixels, block of input
    channels; output channels that stay in L2, taps that stay in L1, and the dot tile.
"""

from cython cimport floating
from cython.parallel cimport parallel, prange, threadid
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from blocking cimport (
    BAND_BYTES, PIXELS, SEGMENTS, SUM_BYTES, TAP_BYTES, TERMS, WEIGHT_BYTES, WEIGHTS, Panels, even,
    panel_rows, panel_start, panels_of, parts, widest_panel,
)
from rows cimport far_apart, fill_row, phases_of, reach_of
from scratch cimport Scratch, scratch_free, scratch_part, scratch_take
from simd cimport (
    SD_DOT_ROWS, SD_DOT_TAPS, SD_MAX_ROWS, SD_MAX_VECTORS, SD_VECTOR_BYTES, SD_VECTORS, copy_run,
    dot_tile, tile,
)
from views cimport Axis, View, axis, view


# --------------------------------------------------------------------------- one axis of a gather


cdef struct Side:
    # Output o of phase p is pixel p + o * phases. Its tap t reads element o + shift[t] of the
    # source's slot[t], and element e of a slot is source pixel origin[slot] + e * step.
    Py_ssize_t size, out, outputs, phases, step, slots, reach, taps, most_taps
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


cdef bint copies_pay(Axis *a, Py_ssize_t products, Py_ssize_t lines) noexcept nogil:
    """Whether each tap along a row gets a row of its own in the packed block, without the pixels
    between one output row's end and the next one's start: those cost `products` each, packing as
    much as some products, for each of `lines` rows of the input per output row."""
    cdef Py_ssize_t reach = reach_of(a)
    cdef Py_ssize_t more = a.kernel - min(a.stride, a.kernel)
    return far_apart(a) or (12 * reach > a.out and reach * products > (
        24 if a.stride == 1 else 48) * more * lines * (a.out + reach))


cdef bint forward_side(Side *s, Axis *a, bint copies) noexcept nogil:
    """One phase; the input is split into the phases of its stride, those that hold a tap."""
    cdef Py_ssize_t t
    if not side_take(s, a.kernel if copies else phases_of(a), 1, a.kernel):
        return False
    s.size, s.out, s.outputs, s.step = a.size, a.out, a.out, a.stride
    s.taps = s.most_taps = a.kernel
    s.first[0], s.first[1] = 0, a.kernel
    for t in range(a.kernel):
        s.index[t] = t
        s.slot[t] = t % s.slots
        s.shift[t] = 0 if copies else t * a.dilation // a.stride
        if t < s.slots:
            s.origin[t] = t * a.dilation - s.shift[t] * a.stride - a.before
    s.reach = s.shift[a.kernel - 1]
    return True


cdef bint gradient_side(Side *s, Axis *a, bint copies) noexcept nogil:
    """Pixel i takes tap t from output (i + before - t * dilation) / stride, where that is whole."""
    cdef Py_ssize_t p, t, numerator, low = 0, high = 0
    if not side_take(s, a.kernel if copies else 1, min(a.stride, a.size), a.kernel):
        return False
    s.size, s.out, s.step = a.out, a.size, 1
    s.outputs = parts(a.size, s.phases)
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
    s.reach = 0 if copies else high - low
    for t in range(s.taps):
        if copies:
            s.slot[t] = t
            s.origin[t] = s.shift[t]
            s.shift[t] = 0
        else:
            s.shift[t] -= low
    if copies:
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
    Py_ssize_t w_sg, w_so, w_si, w_sh, w_sw  # the weight: group, result's and source's channel, tap
    Panels panels
    Py_ssize_t vectors, lanes
    bint relu, late  # weights packed by each task, just before use
    # blocks: source channels, images, rows and columns of a phase, panels that stay in the cache,
    # panels of a task; and how many of each
    Py_ssize_t block, batch, rows, columns, resident, share
    Py_ssize_t blocks, batches, bands_h, bands_w, shares, tasks
    # the packed block is [channel][slot h][slot w][row][image][column]
    Py_ssize_t length, height, plane
    Py_ssize_t flat  # pixels of a band's phase, rows laid end to end, with a tile's overhang
    Py_ssize_t *off  # [phase][channel of the block][tap]


cdef void choose_blocks(Gather *job, Py_ssize_t itemsize, int threads) noexcept nogil:
    cdef Side *h = &job.h
    cdef Side *w = &job.w
    cdef Py_ssize_t budget = BAND_BYTES // itemsize, unit, weights, most, terms
    cdef Py_ssize_t phases = h.phases * w.phases
    terms = max(1, h.most_taps * w.most_taps)
    job.lanes = SD_VECTOR_BYTES // itemsize
    job.panels = panels_of(job.outputs)
    job.vectors = SD_VECTORS(widest_panel(&job.panels))
    job.block = even(job.channels, TERMS // terms)
    job.blocks = parts(job.channels, job.block)
    terms *= job.block
    job.resident = even(
        job.panels.count, WEIGHT_BYTES // itemsize // (terms * widest_panel(&job.panels)))
    job.share = job.panels.count
    unit = job.block * h.slots * w.slots
    job.columns = even(w.outputs, max(64, budget // unit // (1 + h.reach) - w.reach))
    most = max(1, budget // unit // (job.columns + w.reach) - h.reach)
    if job.blocks > 1:  # partial sums of the band wait for the next block of channels
        most = min(most, SUM_BYTES // itemsize // (
            job.outputs * phases * (job.columns + w.reach)))
    job.rows = even(h.outputs, max(1, most))
    job.batch = 1
    if job.rows >= h.outputs and job.columns >= w.outputs:
        most = budget // unit // ((job.rows + h.reach) * (job.columns + w.reach))
        if job.blocks > 1:
            most = min(most, SUM_BYTES // itemsize // (
                job.outputs * phases * job.rows * (job.columns + w.reach)))
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
    job.late = job.batches * job.bands_h * job.bands_w == 1


cdef void count_blocks(Gather *job) noexcept nogil:
    job.batches = parts(job.images, job.batch)
    job.bands_h = parts(job.h.outputs, job.rows)
    job.bands_w = parts(job.w.outputs, job.columns)
    job.shares = parts(job.panels.count, job.share)
    job.tasks = job.batches * job.groups * job.bands_h * job.bands_w * job.shares
    job.length = job.columns + job.w.reach
    job.height = job.rows + job.h.reach
    job.plane = job.h.slots * job.w.slots * job.height * job.batch * job.length
    job.flat = job.rows * job.batch * job.length + job.vectors * job.lanes


cdef bint offsets(Gather *job) noexcept nogil:
    """Where in the packed block each term of a phase's sum lies."""
    cdef Side *h = &job.h
    cdef Side *w = &job.w
    cdef Py_ssize_t py, px, c, i, j
    cdef Py_ssize_t row = job.batch * job.length, slot = job.height * row
    cdef Py_ssize_t *off = <Py_ssize_t *> malloc(
        (job.block * h.taps * w.taps + 1) * sizeof(Py_ssize_t))
    job.off = off
    if off == NULL:
        return False
    for py in range(h.phases):
        for px in range(w.phases):
            for c in range(job.block):
                for i in range(h.first[py], h.first[py + 1]):
                    for j in range(w.first[px], w.first[px + 1]):
                        off[0] = (c * job.plane + (h.slot[i] * w.slots + w.slot[j]) * slot
                                  + h.shift[i] * row + w.shift[j])
                        off += 1
    return True


cdef void pack_panels(
    floating *a, const floating *weight, Gather *job, Py_ssize_t py, Py_ssize_t px,
    Py_ssize_t channel0, Py_ssize_t channels, Py_ssize_t panel0, Py_ssize_t panels,
) noexcept nogil:
    """[panel][channel][tap][row of the panel] of one phase's weights."""
    cdef Side *h = &job.h
    cdef Side *w = &job.w
    cdef Py_ssize_t taps = (h.first[py + 1] - h.first[py]) * (w.first[px + 1] - w.first[px])
    cdef Py_ssize_t run = 1, runs, p, i, j, k, r, rows, c
    cdef const floating *tap
    cdef const floating *row
    # terms that lie end to end in the weights: all taps of a channel, or of all channels
    if (taps > 0 and taps == h.taps * w.taps and job.w_sw == 1 and job.w_sh == w.taps
            and h.index[h.taps - 1] == h.taps - 1 and w.index[w.taps - 1] == w.taps - 1):
        run = channels * taps if job.w_si == taps else taps
    runs = channels * taps // run if run > 1 else 0
    for p in range(panel0, panel0 + panels):
        rows = panel_rows(&job.panels, p)
        row = weight + panel_start(&job.panels, p) * job.w_so + channel0 * job.w_si
        for c in range(runs):
            for r in range(rows):
                tap = row + r * job.w_so + c * job.w_si
                for k in range(run):
                    a[k * rows + r] = tap[k]
            a += run * rows
        for c in range(channels if run == 1 else 0):
            for i in range(h.first[py], h.first[py + 1]):
                for j in range(w.first[px], w.first[px + 1]):
                    tap = row + c * job.w_si + h.index[i] * job.w_sh + w.index[j] * job.w_sw
                    for r in range(rows):
                        a[r] = tap[r * job.w_so]
                    a += rows


cdef void pack_weights(
    floating *a, const floating *weight, Gather *job, Py_ssize_t part
) noexcept nogil:
    """One group's block of source channels: [phase], then as `pack_panels`."""
    cdef Side *h = &job.h
    cdef Side *w = &job.w
    cdef Py_ssize_t group = part // job.blocks, channel0 = part % job.blocks * job.block
    cdef Py_ssize_t channels = min(job.block, job.channels - channel0), py, px
    a += (group * job.channels + channel0) * job.outputs * h.taps * w.taps
    for py in range(h.phases):
        for px in range(w.phases):
            pack_panels(
                a + job.outputs * channels * taps_before(h, w, py, px), weight + group * job.w_sg,
                job, py, px, channel0, channels, 0, job.panels.count)


cdef void pack_block(
    floating *b, const floating *x, Gather *job, Py_ssize_t channels, Py_ssize_t images,
    Py_ssize_t row0, Py_ssize_t column0,
) noexcept nogil:
    """A block of source channels, its padding filled in, split into slots."""
    cdef Py_ssize_t c, sy, sx, r, n, iy
    for c in range(channels):
        for sy in range(job.h.slots):
            for sx in range(job.w.slots):
                for r in range(job.height):
                    iy = job.h.origin[sy] + (row0 + r) * job.h.step
                    for n in range(job.batch):
                        fill_row(
                            b, job.length, x + n * job.x_sn + c * job.x_sc + iy * job.x_sh,
                            job.x_sw,
                            job.w.size if 0 <= iy < job.h.size and n < images else 0,
                            job.w.origin[sx] + column0 * job.w.step, job.w.step, <floating> 0)
                        b += job.length


cdef struct Band:  # where a task is
    Py_ssize_t images, rows, columns  # of the phase
    Py_ssize_t total                  # its pixels, rows laid end to end
    Py_ssize_t panel0, panels         # the panels that are in the cache
    bint first, last                  # block of source channels


cdef void gather_tile(
    floating *y, floating *sums, floating *buffer, const floating *a, const floating *b,
    const Py_ssize_t *off, Gather *job, Band *band, Py_ssize_t terms, Py_ssize_t start,
    const floating *bias,
) noexcept nogil:
    """Pixels start .. for the panels in the cache, while the tile's part of the block is in L1.

    `y` is the plane of the first panel's first channel at the band's first pixel, `sums` is that
    channel's row of partial sums.
    """
    cdef Py_ssize_t plane = job.h.out * job.w.out, step = job.w.phases
    cdef Py_ssize_t vectors = min(job.vectors, parts(band.total - start, job.lanes))
    cdef Py_ssize_t width = vectors * job.lanes
    cdef Py_ssize_t row = start // job.length, column = start % job.length
    cdef Py_ssize_t y_sn = job.groups * job.outputs * plane, y_sh = job.h.phases * job.w.out
    cdef Py_ssize_t first = panel_start(&job.panels, band.panel0)
    cdef Py_ssize_t p, o, i, j, k, n, size, done, run, ahead
    cdef bint whole = step == 1 and column + width <= band.columns
    cdef floating *to
    if step == 1 and job.length == job.w.out and job.batch == 1 and job.h.phases == 1:
        whole = start + width <= band.total  # the rows lie end to end in y as well
    if whole and row % job.batch >= band.images:
        return  # a place that the last images of the batch leave empty
    y += row % job.batch * y_sn + row // job.batch * y_sh + column * step
    for p in range(band.panel0, band.panel0 + band.panels):
        size = panel_rows(&job.panels, p)
        o = panel_start(&job.panels, p) - first
        if not band.last:
            tile(size, vectors, terms, a + o * terms, b + start, off, sums + o * job.flat + start,
                 job.flat, NULL if band.first else sums + o * job.flat + start, job.flat,
                 <floating *> NULL, False)
            continue
        tile(size, vectors, terms, a + o * terms, b + start, off,
             y + o * plane if whole else buffer, plane if whole else width,
             NULL if band.first else sums + o * job.flat + start, job.flat,
             bias + o if bias != NULL else NULL, job.relu)
        if whole:
            continue
        # ends of rows, and rows that interleave with other phases
        n, j, done = row % job.batch, column, 0
        to = y + o * plane
        while done < width and start + done < band.total:
            ahead = min(job.length - j, width - done)
            run = min(band.columns - j, ahead) if n < band.images else 0
            for i in range(size):
                if step == 1:
                    copy_run(to + i * plane, buffer + i * width + done, run)
                else:
                    for k in range(run):
                        to[i * plane + k * step] = buffer[i * width + done + k]
            done += ahead
            to += y_sn - j * step
            j = 0
            n += 1
            if n == job.batch:
                n = 0
                to += y_sh - job.batch * y_sn


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
    cdef Py_ssize_t i, channel0, channels, py, px, o, taps, start, phase
    cdef Py_ssize_t plane = h.out * w.out, slack = SD_MAX_VECTORS * job.lanes
    cdef Py_ssize_t first = panel_start(&job.panels, share * job.share)
    cdef floating *buffer = packed + job.block * job.plane + slack
    cdef floating *own = buffer + slack * SD_MAX_ROWS
    cdef floating *sums = own + late_size(job)
    cdef const floating *a
    cdef Band band
    band.images = min(job.batch, job.images - n0)
    memset(packed + job.block * job.plane, 0, slack * sizeof(floating))
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
            band.total = (band.rows * job.batch - 1) * job.length + band.columns
            taps = (h.first[py + 1] - h.first[py]) * (w.first[px + 1] - w.first[px])
            band.panel0 = share * job.share
            while band.panel0 < panel_last:
                band.panels = min(job.resident, panel_last - band.panel0)
                o = panel_start(&job.panels, band.panel0)
                if weights == NULL:
                    pack_panels(own, weight + group * job.w_sg, job, py, px, channel0, channels,
                                band.panel0, band.panels)
                    a = own
                else:
                    a = (weights + (group * job.channels + channel0) * job.outputs * h.taps * w.taps
                         + job.outputs * channels * taps_before(h, w, py, px)
                         + o * channels * taps)
                start = 0
                while start < band.total:
                    gather_tile(
                        y + o * plane + (row0 * h.phases + py) * w.out + column0 * w.phases + px,
                        sums + (phase * job.outputs + o - first) * job.flat, buffer, a, packed,
                        job.off + job.block * taps_before(h, w, py, px), job, &band,
                        channels * taps, start, bias + o if bias != NULL else NULL)
                    start += job.vectors * job.lanes
                band.panel0 += band.panels


cdef Py_ssize_t late_size(Gather *job) noexcept nogil:
    """Elements of the weights that a task packs for itself at a time."""
    return job.late * job.resident * SD_MAX_ROWS * job.block * job.h.most_taps * job.w.most_taps


cdef Py_ssize_t task_size(Gather *job) noexcept nogil:
    """Elements of one thread's scratch: packed block, buffer of a tile, weights, partial sums."""
    cdef Py_ssize_t size = job.block * job.plane + SD_MAX_VECTORS * job.lanes * (1 + SD_MAX_ROWS)
    if job.blocks > 1:
        size += job.flat * job.h.phases * job.w.phases * job.outputs
    return size + late_size(job)


cdef bint gather(
    floating *y, const floating *x, const floating *weight, const floating *bias, Gather *job,
    int threads,
) noexcept nogil:
    """Run the job; False where the workspace could not be had."""
    cdef Scratch weights, scratch
    cdef Py_ssize_t part, task
    cdef Py_ssize_t size = job.groups * job.outputs * job.channels * job.h.taps * job.w.taps
    cdef floating *packed = NULL
    cdef bint done = False
    choose_blocks(job, sizeof(floating), threads)
    if offsets(job):
        if scratch_take(&weights, (0 if job.late else size) * <Py_ssize_t> sizeof(floating), 1):
            if scratch_take(&scratch, task_size(job) * <Py_ssize_t> sizeof(floating), threads):
                if not job.late:
                    packed = <floating *> scratch_part(&weights, 0)
                    for part in prange(
                            job.groups * job.blocks, num_threads=threads, schedule="static"):
                        pack_weights(packed, weight, job, part)
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


cdef void describe_weight(
    Gather *job, View *weight, Py_ssize_t group, int output, int source
) noexcept nogil:
    """`group`: output channels of the weight per group; which axes are the gather's channels."""
    job.w_sg = group * weight.stride[0]
    job.w_so, job.w_si = weight.stride[output], weight.stride[source]
    job.w_sh, job.w_sw = weight.stride[2], weight.stride[3]


def forward(x, weight, bias, y, rows, columns, Py_ssize_t groups, bint relu, int threads):
    """x (n, c, h, w), weight (k, c / groups, kh, kw), bias (k,) or None -> y (n, k, oh, ow),
    contiguous. False where the workspace could not be had."""
    cdef View xv = view(x), wv = view(weight), bv = view(bias), yv = view(y)
    cdef Axis h = axis(rows), w = axis(columns)
    cdef Gather job
    cdef bint done = False
    with nogil:
        describe_source(&job, &xv, groups)
        job.outputs = wv.size[0] // groups
        describe_weight(&job, &wv, job.outputs, 0, 1)
        job.relu = relu
        if forward_side(&job.h, &h, far_apart(&h)):
            if forward_side(&job.w, &w, copies_pay(
                    &w, job.outputs * h.kernel * w.kernel, job.h.slots)):
                if xv.itemsize == sizeof(float):
                    done = gather(<float *> yv.data, <float *> xv.data, <float *> wv.data,
                                  <float *> bv.data, &job, threads)
                else:
                    done = gather(<double *> yv.data, <double *> xv.data, <double *> wv.data,
                                  <double *> bv.data, &job, threads)
                free(job.w.origin)
            free(job.h.origin)
    return done


def gradient_x(grad_out, weight, x, rows, columns, Py_ssize_t groups, int threads):
    """grad_out (n, k, oh, ow), weight (k, c / groups, kh, kw) -> x (n, c, h, w), contiguous.

    False where the workspace could not be had."""
    cdef View gv = view(grad_out), wv = view(weight), xv = view(x)
    cdef Axis h = axis(rows), w = axis(columns)
    cdef Gather job
    cdef bint done = False
    with nogil:
        describe_source(&job, &gv, groups)
        job.outputs = wv.size[1]
        describe_weight(&job, &wv, job.channels, 1, 0)
        job.relu = False
        if gradient_side(&job.h, &h, far_apart(&h)):
            if gradient_side(&job.w, &w, copies_pay(
                    &w, job.outputs * h.kernel * w.kernel, h.stride)):
                if xv.itemsize == sizeof(float):
                    done = gather(<float *> xv.data, <float *> gv.data, <float *> wv.data,
                                  <float *> NULL, &job, threads)
                else:
                    done = gather(<double *> xv.data, <double *> gv.data, <double *> wv.data,
                                  <double *> NULL, &job, threads)
                free(job.w.origin)
            free(job.h.origin)
    return done


# ------------------------------------------------------------------------- gradient for weight


cdef struct Contract:
    Gather x  # how the input is packed: as in forward, a row of its own for each tap
    Py_ssize_t g_sn, g_sc, g_sh, g_sw
    Py_ssize_t bands, pixels            # blocks of pixels, and the most pixels of one
    bint in_place
    Py_ssize_t taps, resident           # taps that stay in L1, output channels that stay in L2
    Py_ssize_t segments, share, shares  # parts of the bands, and of the output channels


cdef void choose_contract(Contract *job, Py_ssize_t itemsize, int threads) noexcept nogil:
    cdef Gather *x = &job.x
    cdef Py_ssize_t tasks
    x.lanes = SD_VECTOR_BYTES // itemsize
    x.panels = panels_of(x.outputs)
    x.vectors = x.share = 1
    x.columns = even(x.w.outputs, PIXELS)
    x.rows = even(x.h.outputs, PIXELS // x.columns)
    x.batch = 1
    if x.rows == x.h.outputs and x.columns == x.w.outputs:
        x.batch = even(x.images, PIXELS // (x.rows * x.columns))
    count_blocks(x)
    x.block = even(x.channels, BAND_BYTES // itemsize // x.plane)
    x.blocks = parts(x.channels, x.block)
    job.bands = x.batches * x.bands_h * x.bands_w
    job.pixels = parts(x.rows * x.batch * x.columns, x.lanes) * x.lanes
    job.taps = SD_DOT_TAPS * max(
        1, TAP_BYTES // itemsize * x.h.taps * x.w.taps // (x.plane * SD_DOT_TAPS))
    job.resident = SD_DOT_ROWS * max(
        1, WEIGHT_BYTES // itemsize // (job.pixels * SD_DOT_ROWS))
    # whole vectors of pixels that lie end to end need no packing
    job.in_place = (
        x.batch == 1 and job.g_sw == 1 and x.columns % x.lanes == 0 and x.w.out % x.lanes == 0
        and (x.rows == 1 or (x.columns == x.w.out and job.g_sh == x.w.out)))
    job.segments = 1
    if x.groups * x.outputs * x.channels * x.h.taps * x.w.taps <= WEIGHTS:
        job.segments = min(SEGMENTS, job.bands)
    job.share = x.outputs
    tasks = job.segments * x.groups
    if threads > 1 and tasks < 2 * threads:
        job.share = even(x.outputs, parts(x.outputs, parts(2 * threads, tasks)))
    job.shares = parts(x.outputs, job.share)


cdef void pack_grad_out(
    floating *a, const floating *g, Contract *job, Py_ssize_t outputs, Py_ssize_t images,
    Py_ssize_t rows, Py_ssize_t columns,
) noexcept nogil:
    """[output channel][row][image][column], as the pixels of the packed input lie."""
    cdef Py_ssize_t o, r, n
    for o in range(outputs):
        for r in range(rows):
            for n in range(job.x.batch):
                fill_row(a + (r * job.x.batch + n) * job.x.columns, job.x.columns,
                         g + n * job.g_sn + o * job.g_sc + r * job.g_sh, job.g_sw,
                         columns if n < images else 0, 0, 1, <floating> 0)
        a += job.pixels


cdef void contract_task(
    floating *partial, const floating *grad_out, const floating *x_in, floating *packed,
    Contract *job, Py_ssize_t task,
) noexcept nogil:
    """One segment's pixels, one group, some output channels, into the segment's partial sum."""
    cdef Gather *x = &job.x
    cdef Py_ssize_t first_output = task % job.shares * job.share
    cdef Py_ssize_t outputs = min(job.share, x.outputs - first_output)
    cdef Py_ssize_t group = task // job.shares % x.groups
    cdef Py_ssize_t segment = task // (job.shares * x.groups)
    cdef Py_ssize_t first = job.bands * segment // job.segments
    cdef Py_ssize_t last = job.bands * (segment + 1) // job.segments
    cdef Py_ssize_t taps = x.h.taps * x.w.taps, terms = x.channels * taps
    cdef Py_ssize_t band, i, n0, row0, column0, rows, images, channel0, channels
    cdef Py_ssize_t o, t, each, start, stop, outer, last_output, slack = x.lanes
    cdef floating *a = packed + x.block * x.plane + slack
    cdef const floating *g
    cdef Py_ssize_t lda, pixels
    memset(packed + x.block * x.plane, 0, slack * sizeof(floating))
    partial += ((segment * x.groups + group) * x.outputs + first_output) * terms
    grad_out += (group * x.outputs + first_output) * job.g_sc
    x_in += group * x.channels * x.x_sc
    for band in range(first, last):
        column0 = band % x.bands_w * x.columns
        row0 = band // x.bands_w % x.bands_h * x.rows
        n0 = band // (x.bands_w * x.bands_h) * x.batch
        images = min(x.batch, x.images - n0)
        rows = min(x.rows, x.h.out - row0)
        g, lda = grad_out + n0 * job.g_sn + row0 * job.g_sh + column0 * job.g_sw, job.g_sc
        if not job.in_place:
            pack_grad_out(a, g, job, outputs, images, rows, min(x.columns, x.w.out - column0))
            g, lda = a, job.pixels
        # the last columns of a narrower band are zeros only where they were packed
        pixels = (rows * x.batch * x.columns if not job.in_place or x.rows > 1
                  else min(x.columns, x.w.out - column0))
        for i in range(x.blocks):
            channel0 = i * x.block
            channels = min(x.block, x.channels - channel0)
            pack_block(packed, x_in + n0 * x.x_sn + channel0 * x.x_sc, x, channels, images,
                       row0, column0)
            outer = 0
            while outer < outputs:  # gradients that stay in the L2 cache while the taps pass
                last_output = min(outer + job.resident, outputs)
                start = 0
                while start < channels * taps:  # taps that stay in L1 while those gradients pass
                    stop = min(start + job.taps, channels * taps)
                    each = even(stop - start, SD_DOT_TAPS)
                    o = outer
                    while o < last_output:
                        t = start
                        while t < stop:
                            dot_tile(min(<Py_ssize_t> SD_DOT_ROWS, last_output - o),
                                     min(each, stop - t), pixels,
                                     g + o * lda, lda, packed, x.off + t,
                                     partial + o * terms + channel0 * taps + t, terms,
                                     band > first)
                            t += each
                        o += SD_DOT_ROWS
                    start = stop
                outer = last_output


cdef bint contract(
    floating *weight, const floating *grad_out, const floating *x, Contract *job, int threads,
) noexcept nogil:
    """False where the workspace could not be had."""
    cdef Scratch scratch, partials
    cdef Py_ssize_t task, segment, i, size
    cdef floating *partial = weight
    cdef bint done = False
    choose_contract(job, sizeof(floating), threads)
    size = job.x.groups * job.x.outputs * job.x.channels * job.x.h.taps * job.x.w.taps
    if offsets(&job.x):
        if scratch_take(&partials, size * (job.segments if job.segments > 1 else 0)
                        * <Py_ssize_t> sizeof(floating), 1):
            if scratch_take(&scratch, (job.x.block * job.x.plane + 2 * job.x.lanes
                            + job.share * job.pixels) * <Py_ssize_t> sizeof(floating), threads):
                if job.segments > 1:
                    partial = <floating *> scratch_part(&partials, 0)
                with parallel(num_threads=threads):
                    for task in prange(
                            job.segments * job.x.groups * job.shares, schedule="dynamic"):
                        contract_task(partial, grad_out, x,
                                      <floating *> scratch_part(&scratch, threadid()), job, task)
                if job.segments > 1:
                    for i in range(size):
                        weight[i] = partial[i]
                    for segment in range(1, job.segments):
                        for i in range(size):
                            weight[i] += partial[segment * size + i]
                done = True
                scratch_free(&scratch)
            scratch_free(&partials)
        free(job.x.off)
    return done


def gradient_weight(grad_out, x, weight, rows, columns, Py_ssize_t groups, int threads):
    """grad_out (n, k, oh, ow), x (n, c, h, w) -> weight (k, c / groups, kh, kw), contiguous.

    False where the workspace could not be had."""
    cdef View gv = view(grad_out), xv = view(x), wv = view(weight)
    cdef Axis h = axis(rows), w = axis(columns)
    cdef Contract job
    cdef bint done = False
    with nogil:
        describe_source(&job.x, &xv, groups)
        job.x.outputs = wv.size[0] // groups
        job.g_sn, job.g_sc = gv.stride[0], gv.stride[1]
        job.g_sh, job.g_sw = gv.stride[2], gv.stride[3]
        if forward_side(&job.x.h, &h, far_apart(&h)):
            if forward_side(&job.x.w, &w, True):
                if xv.itemsize == sizeof(float):
                    done = contract(<float *> wv.data, <float *> gv.data, <float *> xv.data,
                                    &job, threads)
                else:
                    done = contract(<double *> wv.data, <double *> gv.data, <double *> xv.data,
                                    &job, threads)
                free(job.x.w.origin)
            free(job.x.h.origin)
    return done


# --------------------------------------------------------------------------- gradient for bias


cdef void channel_sums(
    floating *bias, const floating *g, View *v, Py_ssize_t channel, Py_ssize_t channels
) noexcept nogil:
    """The sums of a few channels over images and pixels, in a fixed order: runs of a plane are dot
    products with ones, and their sums are added up in double."""
    cdef double sums[SD_DOT_ROWS]
    cdef floating run[SD_DOT_ROWS]
    cdef floating ones[PIXELS]
    cdef floating packed[SD_DOT_ROWS * PIXELS]
    cdef Py_ssize_t n, i, j, k, count, none = 0, lanes = SD_VECTOR_BYTES // sizeof(floating)
    cdef Py_ssize_t width = v.size[3], pixels = v.size[2] * width
    cdef bint flat = v.stride[3] == 1 and v.stride[2] == width
    cdef const floating *plane
    for i in range(PIXELS):
        ones[i] = 1
    for k in range(channels):
        sums[k] = 0
    for n in range(v.size[0]):
        plane = g + n * v.stride[0] + channel * v.stride[1]
        i = 0
        while i < pixels:
            count = min(<Py_ssize_t> PIXELS, pixels - i)
            if flat and count % lanes == 0:
                dot_tile(channels, 1, count, plane + i, v.stride[1], ones, &none, run, 1, False)
            else:
                for k in range(channels):
                    for j in range(count):
                        packed[k * PIXELS + j] = plane[
                            k * v.stride[1] + (i + j) // width * v.stride[2]
                            + (i + j) % width * v.stride[3]]
                dot_tile(channels, 1, count, packed, PIXELS, ones, &none, run, 1, False)
            for k in range(channels):
                sums[k] += run[k]
            i += count
    for k in range(channels):
        bias[channel + k] = <floating> sums[k]


cdef void all_channel_sums(floating *bias, const floating *g, View *v, int threads) noexcept nogil:
    cdef Py_ssize_t part, channels = v.size[1]
    for part in prange(parts(channels, SD_DOT_ROWS), num_threads=threads, schedule="static"):
        channel_sums(bias, g, v, part * SD_DOT_ROWS,
                     min(<Py_ssize_t> SD_DOT_ROWS, channels - part * SD_DOT_ROWS))


def gradient_bias(grad_out, bias, int threads):
    """grad_out (n, k, oh, ow) -> bias (k,), contiguous."""
    cdef View gv = view(grad_out), bv = view(bias)
    with nogil:
        if gv.itemsize == sizeof(float):
            all_channel_sums(<float *> bv.data, <float *> gv.data, &gv, threads)
        else:
            all_channel_sums(<double *> bv.data, <double *> gv.data, &gv, threads)

"""Winograd's F(4x4, 3x3): 3x3 convolution with stride 1 and its gradients in a quarter of the
multiplications, float32 only.

On tiles of 4 x 4 outputs, with d the 6 x 6 pixels under one, w a filter and g the gradients of its
outputs (Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks"):
    outputs    A^T [sum over channels of (G w G^T) * (B^T d B)] A
    gradient   G^T [sum over tiles of (A g A^T) * (B^T d B)] G

Between the transforms stand 36 matrix products, one for each point; the gradient for x is the
first formula with filters turned around. An axis of outputs that is no multiple of four ends in
tiles of three, which do without one point.
    Forward and gradient for x: group, block of tiles, share of the panels of output channels;
    transform the pixels; panel, point, chunk of channels, tiles; transform the outputs.
    Gradient for weight: group, share of the input and of the output channels; block of tiles;
    transform pixels and gradients; point, output channels, input channels; at last transform back.
"""

from cpython.pycapsule cimport PyCapsule_New
from cython.parallel cimport parallel, prange, threadid
from libc.string cimport memcpy, memset

from blocking cimport (
    SEGMENTS, WEIGHTS, Panels, even, panel_rows, panel_start, panels_of, parts,
)
from entries cimport ConvolutionEntries
from scratch cimport Scratch, scratch_free, scratch_part, scratch_take
from simd cimport SD_MAX_ROWS, fill_run, sum_segments
from views cimport Axis, View, axis, view


cdef extern from "winograd.h" nogil:
    enum: SD_LANES
    enum: SD_BLOCK
    void sd_rows_to_block(
        float *to, const float *rows_of, Py_ssize_t rows, Py_ssize_t pitch, Py_ssize_t stride,
        Py_ssize_t n, Py_ssize_t ahead)
    void sd_block_to_rows(
        float *to, Py_ssize_t pitch, const float *block, Py_ssize_t rows, Py_ssize_t n,
        Py_ssize_t ahead)
    void sd_points_of_columns(
        float *to, Py_ssize_t to_row, const float *d, Py_ssize_t row, Py_ssize_t columns,
        int vectors, int outputs)
    void sd_points_of_tile(
        float *v, Py_ssize_t pitch, const Py_ssize_t *place, const float *d, Py_ssize_t row,
        int vectors, int outputs)
    void sd_outputs_of_tile(
        float *y, Py_ssize_t row, Py_ssize_t columns, const float *m, Py_ssize_t pitch,
        const Py_ssize_t *place, const float *bias, int vectors, int relu)
    void sd_points_of_filter(
        float *u, Py_ssize_t pitch, const float *w, Py_ssize_t step, int vectors)
    void sd_filter_of_points(float *w, const float *u, Py_ssize_t pitch, int vectors)
    void sd_sums_over_channels(
        Py_ssize_t tiles, int vectors, Py_ssize_t channels, const float *a, Py_ssize_t pitch,
        const float *b, float *c, int add)
    void sd_sums_over_tiles(
        Py_ssize_t channels, int vectors, Py_ssize_t tiles, const float *a, const float *b,
        float *c, int add)


cdef enum:
    POINTS = 36
    CHUNK = 64       # channels that are summed from zero
    TILES = 56       # of a block: its points stay in the cache while the filters pass
    SUMMED = 64      # tiles of a weight gradient's sum, likewise
    SHARE = 128      # input or output channels of a weight gradient's task
    SEGMENT = 14     # tiles side by side that are transformed at once, in the L1 cache
    STRIP = 4 * SEGMENT + 2
    FLAT = 32        # pixels of a row that is transformed out of place
    FILTERS = 8      # channels of filters, likewise
    FILTER_FLOATS = 1024 * 1024  # transformed once per call
    POINT_FLOATS = 2 * 1024 * 1024  # of a block


# ------------------------------------------------------------------------------------- tiles


cdef struct Side:  # one axis of a plane
    Py_ssize_t size, before  # pixels, and zeros before them (negative: pixels left out)
    Py_ssize_t out, tiles, whole  # outputs; tiles; how many give four outputs, the rest give three


cdef struct Tile:
    Py_ssize_t image, y, x  # of its first output
    Py_ssize_t place[4]  # see `sd_place`


cdef struct Plane:  # channels of images as the transforms read them
    const float *data
    Py_ssize_t channels
    Py_ssize_t sn, sc, sh, sw
    Side h, w


cdef inline Side side(Py_ssize_t size, Py_ssize_t before, Py_ssize_t out) noexcept nogil:
    cdef Side s
    s.size, s.before, s.out = size, before, out
    s.tiles = parts(out, 4)
    s.whole = s.tiles - min(s.tiles, 4 * s.tiles - out)
    return s


cdef inline Py_ssize_t start_of(Side *s, Py_ssize_t tile) noexcept nogil:
    return 4 * tile - max(<Py_ssize_t> 0, tile - s.whole)


cdef void list_tiles(
    Tile *tile, Py_ssize_t *counts, Side *h, Side *w, Py_ssize_t first, Py_ssize_t count
) noexcept nogil:
    """`counts`: how many have each kind of point."""
    cdef Py_ssize_t i, row, column, kind
    for kind in range(4):
        counts[kind] = 0
    for i in range(first, first + count):
        row, column = i // w.tiles % h.tiles, i % w.tiles
        tile.image = i // (w.tiles * h.tiles)
        tile.y, tile.x = start_of(h, row), start_of(w, column)
        for kind in range(4):
            if (kind & 1 and column >= w.whole) or (kind & 2 and row >= h.whole):
                tile.place[kind] = -1
            else:
                tile.place[kind] = counts[kind]
                counts[kind] += 1
        tile += 1


cdef inline Py_ssize_t side_by_side(Tile *tile, Py_ssize_t most) noexcept nogil:
    """How many tiles of a row, from this one on."""
    cdef Py_ssize_t n = 1
    while n < min(most, <Py_ssize_t> SEGMENT) and (
            tile[n].image == tile.image and tile[n].y == tile.y):
        n += 1
    return n


cdef inline Py_ssize_t kind_of(Py_ssize_t point) noexcept nogil:
    return 2 * (point // 6 == 5) + (point % 6 == 5)


cdef inline Py_ssize_t pitch_of(Py_ssize_t blocks) noexcept nogil:
    """From one point's array to the next one's, an odd number of blocks: the 36 arrays are written
    side by side, and must not fall on the same lines of the cache."""
    return (blocks | 1) * SD_BLOCK


cdef inline Py_ssize_t strip_floats() noexcept nogil:
    return 6 * (STRIP + FLAT) * SD_BLOCK


cdef inline int vectors_of(Py_ssize_t channels) noexcept nogil:
    return 2 if channels > SD_LANES else 1


cdef void fill_strip(
    float *strip, Plane *x, Py_ssize_t channel, Py_ssize_t channels, Tile *tile, Py_ssize_t columns,
    Py_ssize_t ahead, bint outputs,
) noexcept nogil:
    """strip[point][column][channel] of the pixels under a tile and those beside it."""
    cdef Py_ssize_t x0 = tile.x - x.w.before, y0 = tile.y - x.h.before
    cdef Py_ssize_t all_rows = 4 if outputs else 6
    cdef Py_ssize_t left = min(columns, max(<Py_ssize_t> 0, -x0))
    cdef Py_ssize_t inside = max(<Py_ssize_t> 0, min(columns, x.w.size - x0) - left)
    cdef Py_ssize_t top = min(all_rows, max(<Py_ssize_t> 0, -y0)), r, _r
    # the gradients of a fourth row that the tile does not give belong to the next tile
    cdef Py_ssize_t rows = max(<Py_ssize_t> 0, min(
        all_rows - (1 if tile.place[2] < 0 else 0), x.h.size - y0) - top)
    cdef bint flat = inside == x.w.size and x.sw == 1 and x.sh == inside and inside <= FLAT
    cdef Py_ssize_t pitch = (inside if flat else STRIP) * SD_BLOCK
    # rows end to end are one run, and then need a place of their own
    cdef float *pixels = strip + (6 * STRIP * SD_BLOCK if flat else left * SD_BLOCK)
    cdef const float *source = (
        x.data + tile.image * x.sn + channel * x.sc + (y0 + top) * x.sh + (x0 + left) * x.sw)
    for r in range(all_rows):
        if r < top or r >= top + rows:
            fill_run(pixels + r * pitch, <float> 0, inside * SD_BLOCK)
    if flat and rows > 0:
        sd_rows_to_block(
            pixels + top * pitch, source, channels, x.sc, 1, rows * inside, ahead)
    else:
        for r in range(rows):
            sd_rows_to_block(pixels + (top + r) * pitch, source + r * x.sh, channels, x.sc, x.sw,
                             inside, ahead)
    sd_points_of_columns(strip + left * SD_BLOCK, STRIP * SD_BLOCK, pixels, pitch, inside,
                         vectors_of(channels), outputs)
    for _r in range(6):
        fill_run(strip, <float> 0, left * SD_BLOCK)
        fill_run(strip + (left + inside) * SD_BLOCK, <float> 0,
                 (columns - left - inside) * SD_BLOCK)
        strip += STRIP * SD_BLOCK


cdef inline Py_ssize_t offset_of(Plane *x, Tile *tile) noexcept nogil:
    return tile.image * x.sn + tile.y * x.sh + tile.x * x.sw


cdef void transform_pixels(
    float *v, float *strip, Plane *x, Tile *tiles, Py_ssize_t count, Py_ssize_t pitch, bint outputs,
) noexcept nogil:
    """v[point][channel / BLOCK][tile][channel % BLOCK], of pixels or of outputs' gradients."""
    cdef Py_ssize_t block, channels, t, i, n, columns
    cdef Py_ssize_t ahead  # to the pixels that come next, which no prefetcher guesses
    cdef Tile *tile
    for block in range(parts(x.channels, SD_BLOCK)):
        channels = min(<Py_ssize_t> SD_BLOCK, x.channels - block * SD_BLOCK)
        t = 0
        while t < count:
            tile = tiles + t
            n = side_by_side(tile, count - t)
            columns = tile[n - 1].x - tile.x + (4 if outputs else 6)
            if t + n < count:
                ahead = offset_of(x, tile + n) - offset_of(x, tile)
            else:
                ahead = SD_BLOCK * x.sc + offset_of(x, tiles) - offset_of(x, tile)
            fill_strip(
                strip, x, block * SD_BLOCK, channels, tile, columns, ahead, outputs)
            for i in range(n):
                sd_points_of_tile(v, pitch, tile[i].place,
                                  strip + (tile[i].x - tile.x) * SD_BLOCK, STRIP * SD_BLOCK,
                                  vectors_of(channels), outputs)
            t += n
        v += count * SD_BLOCK


# --------------------------------------------------------------------------- forward, gradient x


cdef struct Job:
    Plane x
    Py_ssize_t images, groups, outputs  # outputs: channels of the result, per group
    Py_ssize_t w_sg, w_so, w_si, w_sh, w_sw  # the weight: group, result's and source's channel, tap
    bint turned  # filters by 180 degrees
    bint relu
    Py_ssize_t panels, share, shares  # panels of SD_BLOCK outputs; of a task; tasks per block
    Py_ssize_t tiles, block, blocks
    Py_ssize_t chunk, chunks  # of source channels
    bint packed, late  # filters are given as points, or made so by each task, just before use
    Py_ssize_t v_pitch, u_pitch, m_pitch  # from point to point


cdef inline Py_ssize_t group_floats(Job *job) noexcept nogil:
    """Of all panels and chunks of a group's transformed filters."""
    return job.panels * job.chunks * POINTS * job.u_pitch


cdef void choose_blocks(Job *job, bint packed, int threads) noexcept nogil:
    cdef Py_ssize_t most = POINT_FLOATS // (POINTS * job.x.channels), tasks
    job.tiles = job.images * job.x.h.tiles * job.x.w.tiles
    job.block = even(job.tiles, max(2 * <Py_ssize_t> SD_MAX_ROWS, min(<Py_ssize_t> TILES, most)))
    job.blocks = parts(job.tiles, job.block)
    job.panels = parts(job.outputs, SD_BLOCK)
    job.share = job.panels
    job.shares = 1
    while job.share > 1:
        tasks = job.groups * job.blocks * job.shares
        if tasks % threads == 0 or tasks >= 2 * threads:  # as much to do for every thread
            break
        job.share = (job.share + 1) // 2  # each share transforms the pixels for itself
        job.shares = parts(job.panels, job.share)
    # whole blocks of channels, so that a chunk is a run in both operands
    job.chunk = parts(even(job.x.channels, CHUNK), SD_BLOCK) * SD_BLOCK
    job.chunks = parts(job.x.channels, job.chunk)
    job.v_pitch = pitch_of(parts(job.x.channels, SD_BLOCK) * job.block)
    job.u_pitch = pitch_of(job.chunk)
    job.m_pitch = pitch_of(job.block)
    # fresh memory for many filters costs more than their transform
    job.packed = packed
    job.late = not packed and (
        job.blocks == 1 or job.groups * group_floats(job) > FILTER_FLOATS)


cdef void fill_taps(
    float *taps, const float *w, Job *job, Py_ssize_t outputs, Py_ssize_t channels
) noexcept nogil:
    """[source channel][tap][output]"""
    cdef Py_ssize_t _c, i
    cdef bint filters = job.w_sw == 1 and job.w_sh == 3  # each is a run, perhaps all of them
    if filters and job.w_si == 9:
        sd_rows_to_block(taps, w, outputs, job.w_so, 1, 9 * channels, 2 * 9 * FILTERS)
        return
    for _c in range(channels):
        if filters:
            sd_rows_to_block(taps, w, outputs, job.w_so, 1, 9, 2 * job.w_si)
        else:
            for i in range(3):
                sd_rows_to_block(taps + i * 3 * SD_BLOCK, w + i * job.w_sh, outputs, job.w_so,
                                 job.w_sw, 3, 0)
        taps += 9 * SD_BLOCK
        w += job.w_si


cdef inline Py_ssize_t panel_outputs(Job *job, Py_ssize_t panel) noexcept nogil:
    return min(<Py_ssize_t> SD_BLOCK, job.outputs - panel * SD_BLOCK)


cdef void transform_filters(
    float *u, const float *weight, Job *job, Py_ssize_t panel, Py_ssize_t channel0,
) noexcept nogil:
    """u[point][source channel][output of the panel] of a chunk of one group's channels."""
    cdef float taps[FILTERS * 9 * SD_BLOCK]
    cdef Py_ssize_t part, count, c, channels = min(job.chunk, job.x.channels - channel0)
    cdef Py_ssize_t outputs = panel_outputs(job, panel), last = 0, step = SD_BLOCK
    if job.turned:
        last, step = 8 * SD_BLOCK, -SD_BLOCK
    weight += panel * SD_BLOCK * job.w_so + channel0 * job.w_si
    for part in range(parts(channels, FILTERS)):
        count = min(<Py_ssize_t> FILTERS, channels - part * FILTERS)
        fill_taps(taps, weight + part * FILTERS * job.w_si, job, outputs, count)
        for c in range(count):
            sd_points_of_filter(u, job.u_pitch, taps + c * 9 * SD_BLOCK + last, step,
                                vectors_of(outputs))
            u += SD_BLOCK


cdef void transform_all_filters(
    float *u, const float *weight, Job *job, int threads
) noexcept nogil:
    cdef Py_ssize_t part
    for part in prange(
            job.groups * job.panels * job.chunks, num_threads=threads, schedule="static"):
        transform_filters(
            u + part * POINTS * job.u_pitch,
            weight + part // (job.panels * job.chunks) * job.w_sg, job,
            part // job.chunks % job.panels, part % job.chunks * job.chunk)


cdef void multiply(
    float *m, const float *u, const float *v, Job *job, Py_ssize_t count, Py_ssize_t *counts,
    int vectors, Py_ssize_t channel0,
) noexcept nogil:
    """m[point][tile][output of the panel]: the sums over a chunk of channels."""
    cdef Py_ssize_t point, i, t, channels = min(job.chunk, job.x.channels - channel0)
    cdef Panels groups
    v += channel0 * count
    for point in range(POINTS):
        groups = panels_of(counts[kind_of(point)])
        for i in range(groups.count if counts[kind_of(point)] else 0):
            t = panel_start(&groups, i) * SD_BLOCK
            sd_sums_over_channels(panel_rows(&groups, i), vectors, channels, v + t,
                                  count * SD_BLOCK, u, m + t, channel0 > 0)
        v += job.v_pitch
        u += job.u_pitch
        m += job.m_pitch


cdef void transform_outputs(
    float *y, float *strip, const float *m, const float *bias, Job *job, Tile *tiles,
    Py_ssize_t count, Py_ssize_t group, Py_ssize_t panel,
) noexcept nogil:
    cdef float biases[SD_BLOCK]
    cdef Py_ssize_t t, i, n, x, columns, rows, outputs = panel_outputs(job, panel)
    cdef Py_ssize_t channel = group * job.outputs + panel * SD_BLOCK
    cdef Py_ssize_t plane = job.x.h.out * job.x.w.out
    cdef Tile *tile
    cdef float *to
    memset(biases, 0, sizeof(biases))
    if bias != NULL:
        memcpy(biases, bias + channel, outputs * sizeof(float))
    t = 0
    while t < count:
        tile = tiles + t
        n = side_by_side(tile, count - t)
        rows = min(4 - (1 if tile.place[2] < 0 else 0), job.x.h.out - tile.y)
        columns = min(
            tile[n - 1].x + 4 - (1 if tile[n - 1].place[1] < 0 else 0), job.x.w.out) - tile.x
        for i in range(n):
            x = tile[i].x - tile.x
            sd_outputs_of_tile(
                strip + x * SD_BLOCK, columns * SD_BLOCK,
                min(columns - x, 4 - (1 if tile[i].place[1] < 0 else 0)), m, job.m_pitch,
                tile[i].place, biases, vectors_of(outputs), job.relu)
        to = (y + (tile.image * job.groups * job.outputs + channel) * plane
              + tile.y * job.x.w.out + tile.x)
        if columns == job.x.w.out:  # rows end to end are one run
            sd_block_to_rows(to, plane, strip, outputs, rows * columns, rows * columns)
        else:
            for i in range(rows):
                sd_block_to_rows(to + i * job.x.w.out, plane, strip + i * columns * SD_BLOCK,
                                 outputs, columns, job.x.w.out)
        t += n


cdef inline Py_ssize_t task_floats(Job *job) noexcept nogil:
    return (strip_floats() + POINTS * (job.v_pitch + job.m_pitch)
            + (POINTS * job.u_pitch if job.late else 0))


cdef inline Py_ssize_t task_bytes(Job *job) noexcept nogil:
    return task_floats(job) * sizeof(float) + job.block * sizeof(Tile)


cdef inline Py_ssize_t filters_bytes(Job *job) noexcept nogil:
    """Of those that all tasks share."""
    return (0 if job.packed or job.late else job.groups * group_floats(job)) * sizeof(float)


cdef void gather_task(
    float *y, const float *weight, const float *packed, const float *bias, float *memory,
    Job *job, Py_ssize_t task,
) noexcept nogil:
    cdef Py_ssize_t counts[4]
    cdef Py_ssize_t group = task % job.groups
    cdef Py_ssize_t share = task // job.groups % job.shares * job.share, panel, chunk
    cdef Py_ssize_t first = task // (job.groups * job.shares) * job.block
    cdef Py_ssize_t count = min(job.block, job.tiles - first)
    cdef float *strip = memory
    cdef float *m = strip + strip_floats()
    cdef float *v = m + POINTS * job.m_pitch
    cdef float *late = v + POINTS * job.v_pitch
    cdef Tile *tiles = <Tile *> (memory + task_floats(job))
    cdef const float *u
    cdef Plane x = job.x
    x.data += group * x.channels * x.sc
    list_tiles(tiles, counts, &x.h, &x.w, first, count)
    transform_pixels(v, strip, &x, tiles, count, job.v_pitch, False)
    for panel in range(share, min(share + job.share, job.panels)):
        for chunk in range(job.chunks):
            if job.late:
                transform_filters(
                    late, weight + group * job.w_sg, job, panel, chunk * job.chunk)
                u = late
            else:
                u = packed + ((group * job.panels + panel) * job.chunks + chunk) * (
                    POINTS * job.u_pitch)
            multiply(m, u, v, job, count, counts,
                     vectors_of(panel_outputs(job, panel)), chunk * job.chunk)
        transform_outputs(y, strip, m, bias, job, tiles, count, group, panel)


cdef bint gather(
    float *y, const float *weight, const float *packed, const float *bias, Job *job, int threads
) noexcept nogil:
    """False where the workspace could not be had."""
    cdef Scratch scratch, filters
    cdef Py_ssize_t task
    cdef bint done = False
    choose_blocks(job, packed != NULL, threads)
    if scratch_take(&filters, filters_bytes(job), 1):
        if scratch_take(&scratch, task_bytes(job), threads):
            if not job.packed and not job.late:
                transform_all_filters(
                    <float *> scratch_part(&filters, 0), weight, job, threads)
                packed = <float *> scratch_part(&filters, 0)
            with parallel(num_threads=threads):
                for task in prange(job.groups * job.blocks * job.shares, schedule="dynamic"):
                    gather_task(y, weight, packed, bias,
                                <float *> scratch_part(&scratch, threadid()), job, task)
            done = True
            scratch_free(&scratch)
        scratch_free(&filters)
    return done


cdef Plane plane_of(View *x, Py_ssize_t groups, Side h, Side w) noexcept nogil:
    cdef Plane p
    p.data = <const float *> x.data
    p.channels = x.size[1] // groups
    p.sn, p.sc, p.sh, p.sw = x.stride[0], x.stride[1], x.stride[2], x.stride[3]
    p.h, p.w = h, w
    return p


cdef void describe_weight(
    Job *job, View *weight, Py_ssize_t group, int output, int source
) noexcept nogil:
    """`group`: output channels of the weight per group; which axes are the job's channels."""
    job.w_sg = group * weight.stride[0]
    job.w_so, job.w_si = weight.stride[output], weight.stride[source]
    job.w_sh, job.w_sw = weight.stride[2], weight.stride[3]


cdef Job forward_job(
    View *x, View *weight, Axis *h, Axis *w, Py_ssize_t groups, bint relu
) noexcept nogil:
    cdef Job job
    job.x = plane_of(
        x, groups, side(h.size, h.before, h.out), side(w.size, w.before, w.out))
    job.images, job.groups, job.outputs = x.size[0], groups, weight.size[0] // groups
    describe_weight(&job, weight, job.outputs, 0, 1)
    job.turned, job.relu = False, relu
    return job


def packed_size(shape, Py_ssize_t groups, Py_ssize_t _itemsize=4):
    """How many floats `pack` fills for a weight of this shape."""
    cdef Job job
    job.outputs, job.x.channels = shape[0] // groups, shape[1]
    job.images = job.x.h.tiles = job.x.w.tiles = job.groups = 1
    choose_blocks(&job, False, 1)
    return groups * group_floats(&job)


def pack(weight, packed, Py_ssize_t groups, int threads):
    """weight (k, c / groups, 3, 3) -> packed (packed_size,), its points, as `forward` takes it."""
    cdef View wv = view(weight), pv = view(packed), none
    cdef Axis h
    cdef Job job
    with nogil:
        memset(&none, 0, sizeof(none))
        memset(&h, 0, sizeof(h))
        none.size[1] = wv.size[1] * groups
        job = forward_job(&none, &wv, &h, &h, groups, False)
        choose_blocks(&job, False, threads)
        transform_all_filters(<float *> pv.data, <const float *> wv.data, &job, threads)
    return True


def forward_workspace(
    Py_ssize_t images, weight, rows, columns, Py_ssize_t groups, int threads, bint packed=True
):
    """The bytes that `forward` takes for itself, with a packed weight or without."""
    cdef View wv = view(weight), x
    cdef Axis h = axis(rows), w = axis(columns)
    cdef Job job
    memset(&x, 0, sizeof(x))
    x.size[0], x.size[1] = images, wv.size[1] * groups
    job = forward_job(&x, &wv, &h, &w, groups, False)
    choose_blocks(&job, packed, threads)
    return threads * task_bytes(&job) + filters_bytes(&job)


cdef bint run_forward(
    View *x, View *weight, View *packed, View *bias, View *y, Axis *h, Axis *w,
    Py_ssize_t groups, bint relu, int threads,
) noexcept nogil:
    cdef Job job = forward_job(x, weight, h, w, groups, relu)
    return gather(<float *> y.data, <float *> weight.data, <float *> packed.data,
                  <float *> bias.data, &job, threads)


def forward(
    x, weight, packed, bias, y, rows, columns, Py_ssize_t groups, bint relu, int threads
):
    """x (n, c, h, w), weight (k, c / groups, 3, 3), which may be `packed` too, bias (k,) or None
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
    cdef Job job
    job.x = plane_of(grad_out, groups, side(h.out, 2 - h.before, h.size),
                     side(w.out, 2 - w.before, w.size))
    job.images, job.groups, job.outputs = grad_out.size[0], groups, weight.size[1]
    describe_weight(&job, weight, job.x.channels, 1, 0)
    job.turned, job.relu = True, False
    return gather(<float *> x.data, <float *> weight.data, NULL, <float *> bias.data, &job, threads)


def gradient_x(grad_out, weight, bias, x, rows, columns, Py_ssize_t groups, int threads):
    """grad_out (n, k, oh, ow), weight (k, c / groups, 3, 3), bias (c,) or None -> x (n, c, h, w),
    contiguous. False where the workspace could not be had."""
    cdef View gv = view(grad_out), wv = view(weight), bv = view(bias), xv = view(x)
    cdef Axis h = axis(rows), w = axis(columns)
    cdef bint done
    with nogil:
        done = run_gradient_x(&gv, &wv, &bv, &xv, &h, &w, groups, threads)
    return done


# --------------------------------------------------------------------------- gradient for weight


cdef struct Contract:
    Plane x, g
    Py_ssize_t groups
    Py_ssize_t share_c, share_k, shares_c, shares_k  # channels of a task, and tasks
    Py_ssize_t tiles, block, blocks
    Py_ssize_t segments  # parts of the blocks of tiles, each with a sum of its own
    Py_ssize_t v_pitch, y_pitch, u_pitch


cdef inline Py_ssize_t share_of(Py_ssize_t channels, Py_ssize_t most) noexcept nogil:
    """Whole blocks of channels."""
    return parts(even(channels, most), SD_BLOCK) * SD_BLOCK


cdef inline Py_ssize_t weights_of(Contract *job) noexcept nogil:
    return job.groups * job.g.channels * job.x.channels * 9


cdef void choose_contract(Contract *job, Py_ssize_t images, int threads) noexcept nogil:
    cdef Py_ssize_t tasks
    job.tiles = images * job.x.h.tiles * job.x.w.tiles
    job.block = even(job.tiles, SUMMED)
    job.blocks = parts(job.tiles, job.block)
    job.segments = 1
    if weights_of(job) <= WEIGHTS:
        job.segments = min(SEGMENTS, job.blocks)
    job.share_c = share_of(job.x.channels, SHARE)
    job.share_k = share_of(job.g.channels, SHARE)
    while True:
        job.shares_c = parts(job.x.channels, job.share_c)
        job.shares_k = parts(job.g.channels, job.share_k)
        tasks = job.segments * job.groups * job.shares_c * job.shares_k
        # give every thread as much to do
        if (tasks % threads == 0 or tasks >= 2 * threads
                or max(job.share_c, job.share_k) == SD_BLOCK):
            break
        if job.share_c > job.share_k:
            job.share_c = share_of(job.share_c, job.share_c // 2)
        else:
            job.share_k = share_of(job.share_k, job.share_k // 2)
    job.v_pitch = pitch_of(job.share_c // SD_BLOCK * job.block)
    job.y_pitch = pitch_of(job.share_k // SD_BLOCK * job.block)
    job.u_pitch = pitch_of(job.share_c)


cdef inline Py_ssize_t contract_floats(Contract *job) noexcept nogil:
    return (strip_floats() + POINTS * (job.v_pitch + job.y_pitch)
            + job.share_k // SD_BLOCK * POINTS * job.u_pitch)


cdef void sum_tiles(
    float *u, const float *v, const float *y, Contract *job, Py_ssize_t channels,
    Py_ssize_t outputs, Py_ssize_t count, Py_ssize_t *counts, bint add,
) noexcept nogil:
    """u[output / BLOCK][point][channel][output % BLOCK]"""
    cdef Py_ssize_t point, k, c, i, block = SD_BLOCK
    cdef int vectors
    cdef Panels rows
    for point in range(POINTS):
        for k in range(parts(outputs, block)):
            vectors = vectors_of(outputs - k * block)
            for c in range(parts(channels, block)):
                rows = panels_of(min(block, channels - c * block))
                for i in range(rows.count):
                    sd_sums_over_tiles(
                        panel_rows(&rows, i), vectors, counts[kind_of(point)],
                        v + point * job.v_pitch + c * count * block + panel_start(&rows, i),
                        y + point * job.y_pitch + k * count * block,
                        u + (k * POINTS + point) * job.u_pitch
                        + (c * block + panel_start(&rows, i)) * block, add)


cdef void transform_back(
    float *weight, Py_ssize_t pitch, const float *u, Contract *job, Py_ssize_t channels,
    Py_ssize_t outputs,
) noexcept nogil:
    cdef float taps[(FILTERS * 9 + SD_LANES) * SD_BLOCK]
    cdef Py_ssize_t k, part, c, count, outputs_here
    cdef const float *points
    for k in range(parts(outputs, SD_BLOCK)):
        outputs_here = min(<Py_ssize_t> SD_BLOCK, outputs - k * SD_BLOCK)
        points = u + k * POINTS * job.u_pitch
        for part in range(parts(channels, FILTERS)):
            count = min(<Py_ssize_t> FILTERS, channels - part * FILTERS)
            for c in range(count):
                sd_filter_of_points(taps + c * 9 * SD_BLOCK, points, job.u_pitch,
                                    vectors_of(outputs_here))
                points += SD_BLOCK
            sd_block_to_rows(weight + k * SD_BLOCK * pitch + part * FILTERS * 9, pitch, taps,
                             outputs_here, 9 * count, 9 * FILTERS)


cdef void contract_task(
    float *weight, float *memory, Contract *job, Py_ssize_t task
) noexcept nogil:
    """One segment's tiles, some channels, into the segment's sum."""
    cdef Py_ssize_t counts[4]
    cdef Py_ssize_t channel = task % job.shares_c * job.share_c
    cdef Py_ssize_t output = task // job.shares_c % job.shares_k * job.share_k
    cdef Py_ssize_t group = task // (job.shares_c * job.shares_k) % job.groups, i, first, count
    cdef Py_ssize_t segment = task // (job.shares_c * job.shares_k * job.groups)
    cdef Py_ssize_t begin = job.blocks * segment // job.segments, pitch = 9 * job.x.channels
    cdef float *strip = memory
    cdef float *v = strip + strip_floats()
    cdef float *y = v + POINTS * job.v_pitch
    cdef float *u = y + POINTS * job.y_pitch
    cdef Tile *tiles = <Tile *> (memory + contract_floats(job))
    cdef Plane x = job.x, g = job.g
    x.data += (group * job.x.channels + channel) * x.sc
    x.channels = min(job.share_c, job.x.channels - channel)
    g.data += (group * job.g.channels + output) * g.sc
    g.channels = min(job.share_k, job.g.channels - output)
    for i in range(begin, job.blocks * (segment + 1) // job.segments):
        first = i * job.block
        count = min(job.block, job.tiles - first)
        list_tiles(tiles, counts, &x.h, &x.w, first, count)
        transform_pixels(v, strip, &x, tiles, count, job.v_pitch, False)
        transform_pixels(y, strip, &g, tiles, count, job.y_pitch, True)
        sum_tiles(u, v, y, job, x.channels, g.channels, count, counts, i > begin)
    weight += (
        segment * weights_of(job) + (group * job.g.channels + output) * pitch + 9 * channel)
    transform_back(weight, pitch, u, job, x.channels, g.channels)


cdef bint run_gradient_weight(
    View *grad_out, View *x, View *weight, Axis *h, Axis *w, Py_ssize_t groups, int threads,
) noexcept nogil:
    cdef Contract job
    cdef Scratch scratch, partials
    cdef Py_ssize_t task, size
    cdef float *sums = <float *> weight.data
    cdef bint done = False
    job.x = plane_of(x, groups, side(h.size, h.before, h.out), side(w.size, w.before, w.out))
    job.g = plane_of(grad_out, groups, side(h.out, 0, h.out), side(w.out, 0, w.out))
    job.groups = groups
    choose_contract(&job, x.size[0], threads)
    size = weights_of(&job)
    if scratch_take(&partials, size * (job.segments if job.segments > 1 else 0)
                    * <Py_ssize_t> sizeof(float), 1):
        if scratch_take(&scratch, contract_floats(&job) * <Py_ssize_t> sizeof(float)
                        + job.block * <Py_ssize_t> sizeof(Tile), threads):
            if job.segments > 1:
                sums = <float *> scratch_part(&partials, 0)
            with parallel(num_threads=threads):
                for task in prange(job.segments * job.groups * job.shares_c * job.shares_k,
                                   schedule="dynamic"):
                    contract_task(
                        sums, <float *> scratch_part(&scratch, threadid()), &job, task)
            if job.segments > 1:
                sum_segments(<float *> weight.data, sums, size, job.segments)
            done = True
            scratch_free(&scratch)
        scratch_free(&partials)
    return done


def gradient_weight(grad_out, x, weight, rows, columns, Py_ssize_t groups, int threads):
    """grad_out (n, k, oh, ow), x (n, c, h, w) -> weight (k, c / groups, 3, 3), contiguous.

    False where the workspace could not be had."""
    cdef View gv = view(grad_out), xv = view(x), wv = view(weight)
    cdef Axis h = axis(rows), w = axis(columns)
    cdef bint done
    with nogil:
        done = run_gradient_weight(&gv, &xv, &wv, &h, &w, groups, threads)
    return done


cdef ConvolutionEntries table
table.forward = run_forward
table.gradient_x = run_gradient_x
table.gradient_weight = run_gradient_weight
entries = PyCapsule_New(&table, "ConvolutionEntries", NULL)

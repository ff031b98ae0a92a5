"""Networks over tiles: the result is that of the whole image, bit for bit."""

import contextlib
import math
import multiprocessing
import subprocess
import sys
import tracemalloc
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import pytest
from checks import assert_delivered, assert_same, assert_same_bits, assert_sums_close, unchanged
from hypothesis import assume, given
from hypothesis import strategies as st
from strategies import DILATIONS, KERNELS, LAYOUTS, OUT_LAYOUTS, SEEDS, STRIDES, lay_out, place_out

from slidedot import Conv2dPlan, _threads, receptive_field, tiled
from slidedot.layers import (
    AvgPool2d,
    Conv2d,
    ConvTranspose2d,
    Flatten,
    Linear,
    MaxPool2d,
    ReLU,
    Sequential,
)

# ---------------------------------------------------------------------------------- networks

#: Of both axes, of each, and of each end.
PADDINGS = st.one_of(
    st.integers(0, 3),
    st.tuples(st.integers(0, 3), st.integers(0, 3)),
    st.tuples(*[st.tuples(st.integers(0, 6), st.integers(0, 6))] * 2),
    st.sampled_from(["valid", "same"]),
)


@st.composite
def convolutions(draw, channels, dtype):
    """Draw a `Conv2d` of any windows, by sums or by Winograd's algorithm."""
    groups = draw(st.sampled_from([g for g in range(1, channels + 1) if channels % g == 0]))
    outputs = groups * draw(st.integers(1, 3))
    options = {
        "padding": draw(PADDINGS),
        "groups": groups,
        "activation": draw(st.sampled_from([None, "relu"])),
        "rng": draw(SEEDS),
        "dtype": dtype,
    }
    if dtype == np.float32 and draw(st.booleans()):
        return Conv2d(channels, outputs, 3, algorithm="winograd", **options)
    options |= {"stride": draw(STRIDES), "dilation": draw(DILATIONS), "algorithm": "direct"}
    return Conv2d(channels, outputs, draw(KERNELS), **options)


@st.composite
def transposed(draw, channels, dtype):
    """Draw a `ConvTranspose2d` of any windows."""
    groups = draw(st.sampled_from([g for g in range(1, channels + 1) if channels % g == 0]))
    stride, dilation = draw(STRIDES), draw(DILATIONS)
    options = {
        "stride": stride,
        "dilation": dilation,
        "padding": draw(PADDINGS),
        "output_padding": draw(st.integers(0, max(np.min(stride), np.min(dilation)) - 1)),
        "groups": groups,
        "rng": draw(SEEDS),
        "dtype": dtype,
    }
    return ConvTranspose2d(channels, groups * draw(st.integers(1, 3)), draw(KERNELS), **options)


@st.composite
def pools(draw):
    """Draw a `MaxPool2d` of any windows."""
    options = {"padding": draw(PADDINGS), "dilation": draw(DILATIONS)}
    stride = draw(st.one_of(st.none(), STRIDES))
    try:
        return MaxPool2d(draw(KERNELS), stride=stride, ceil_mode=draw(st.booleans()), **options)
    except ValueError:  # padding that no window may have
        return MaxPool2d(2)


@st.composite
def averages(draw, channels, dtype):
    """Draw an `AvgPool2d` of any windows."""
    options = {"padding": draw(PADDINGS), "count_include_pad": draw(st.booleans())}
    stride = draw(st.one_of(st.none(), STRIDES))
    try:
        return AvgPool2d(draw(KERNELS), stride=stride, ceil_mode=draw(st.booleans()), **options)
    except ValueError:  # padding that no window may have
        return AvgPool2d(2)


@st.composite
def networks(draw, channels, dtype):
    """Draw one to four layers."""
    layers = []
    for kind in draw(st.lists(st.sampled_from("cctpr"), min_size=1, max_size=4)):
        if kind in "ct":
            kinds = {"c": convolutions, "t": transposed}
            layers.append(draw(kinds[kind](channels, dtype)))
            channels = layers[-1].out_channels
        else:
            layers.append(draw(pools()) if kind == "p" else ReLU())
    return layers[0] if len(layers) == 1 else Sequential(*layers)


#: Of zeros of both signs, and of NaN, a maximum must choose the same one in each tile.
SPECIAL = st.sampled_from([(), (0.0, -0.0), (0.0, -0.0, np.nan, np.inf, -np.inf)])


@dataclass(frozen=True)
class Call:
    """A network, an image, and a tile as a share of the output in sixths."""

    model: object
    shape: tuple[int, ...]
    sixths: tuple[int, int]
    special: tuple[float, ...]
    layout: str
    seed: int

    def image(self, dtype):
        rng = np.random.default_rng(self.seed)
        image = rng.standard_normal(self.shape).astype(dtype)
        for value in self.special:
            image[rng.random(self.shape) < 0.2 / len(self.special)] = value
        return lay_out(image, self.layout)

    def tile(self, size):
        return tuple(max(1, sixth * n // 6) for sixth, n in zip(self.sixths, size, strict=True))


@st.composite
def calls(draw, dtype, models=networks):
    channels = draw(st.integers(1, 4))
    size = draw(st.tuples(st.integers(1, 40), st.integers(1, 40)))
    model = draw(models(channels, dtype))
    try:
        model(np.empty((0, channels, *size), dtype))
    except ValueError:  # a window larger than its input, or one of padding alone
        assume(False)
    return Call(
        model,
        (*draw(st.sampled_from([(), (), (1,), (2,), (0,)])), channels, *size),
        draw(st.tuples(st.integers(0, 7), st.integers(0, 7))),
        draw(SPECIAL),
        draw(st.sampled_from(LAYOUTS)),
        draw(SEEDS),
    )


@pytest.mark.usefixtures("level")
@given(data=st.data())
def test_tiles_have_the_bits_of_the_whole(dtype, data):
    call = data.draw(calls(dtype.type))
    image = call.image(dtype)
    with unchanged(image), np.errstate(all="ignore"):
        expected = call.model(image)
        actual = tiled.apply(call.model, image, call.tile(expected.shape[-2:]), progress=False)
    for y in (actual, expected):  # of two NaN, a sum may have the bits of either
        y[np.isnan(y)] = np.nan
    assert_same_bits(actual, expected)


def network(dtype=np.float32, algorithm="auto"):
    """Return a network of every kind of layer, of jump 4, in two levels of `Sequential`."""
    return Sequential(
        Conv2d(2, 16, 5, padding=2, activation="relu", dtype=dtype, rng=0),
        Sequential(
            MaxPool2d(3, stride=2, padding=1, ceil_mode=True),
            Conv2d(16, 16, 3, padding="same", algorithm=algorithm, dtype=dtype, rng=1),
            ReLU(),
        ),
        Conv2d(16, 3, 3, stride=2, dilation=2, dtype=dtype, rng=2),
    )


def picture(*shape, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


@pytest.mark.parametrize("tile", [1, (3, 50), 7, (1000, 2), 1000])
def test_each_layer_takes_the_algorithm_of_the_whole(level, tile):
    """Winograd's too, which no plane as thin as a tile of one or two rows would take by itself."""
    model, image = network(), picture(2, 90, 110)
    assert model.layers[1].layers[1]._current_plan().algorithm((45, 55)) == "winograd"
    assert_same_bits(tiled.apply(model, image, tile, progress=False), model(image))


@pytest.mark.parametrize("tile", [1, (3, 50), 7, (1000, 2), 1000])
def test_a_transposed_layer_does_so_too(level, tile):
    image = picture(16, 30, 41)
    for options in ({"padding": 1}, {"padding": ((2, 0), (0, 3))}, {"bias": False}):
        layer = ConvTranspose2d(16, 16, 3, rng=0, **options)
        if layer.bias is not None:
            layer.bias[:] = np.arange(16)
        assert_same_bits(tiled.apply(layer, image, tile, progress=False), layer(image))


@pytest.mark.parametrize("tile", [1, 2, (1, 40), (5, 3)])
@pytest.mark.parametrize("window", [(2, 2), (3, 2), (5, 4), (4, 3), (16, 8)])
def test_long_sums_of_a_transposed_layer_are_cut_as_in_the_whole(level, dtype, window, tile):
    """Also by a tile too small to hold every phase of the stride, or more than one pixel."""
    kernel, stride = window
    layer = ConvTranspose2d(130, 3, kernel, stride=stride, dtype=dtype, rng=0)
    image = picture(130, 4, 5, dtype=dtype)
    assert_same_bits(tiled.apply(layer, image, tile, progress=False), layer(image))


@pytest.mark.parametrize("stride", [1, 2, 3, (1, 2), (2, 1), (1, 3)], ids=str)
@pytest.mark.parametrize("kernel", [3, 5, 7, (3, 5)], ids=str)
@pytest.mark.parametrize("layer", [Conv2d, ConvTranspose2d])
def test_a_filter_a_channel_sums_in_the_order_of_the_whole(level, dtype, layer, kernel, stride):
    """Also where a tile holds no whole vector, or no second step of the stride."""
    image = picture(3, 17, 37, dtype=dtype)
    for dilation in (1, 2):
        options = {"stride": stride, "dilation": dilation, "padding": 2, "groups": 3}
        model = layer(3, 3, kernel, dtype=dtype, rng=0, **options)
        model.bias[:] = picture(3, dtype=dtype, seed=1)
        for tile in (1, (40, 1), (3, 9), 17):
            assert_same_bits(tiled.apply(model, image, tile, progress=False), model(image))


@pytest.mark.parametrize("stride", [1, 2, (1, 3)], ids=str)
@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("layer", [Conv2d, ConvTranspose2d])
def test_many_channels_are_summed_in_the_order_of_the_whole(level, dtype, layer, kernel, stride):
    """They are the lanes, whatever the tile."""
    image = picture(40, 9, 17, dtype=dtype)
    options = {"algorithm": "direct"} if layer is Conv2d else {}
    model = layer(40, 32, kernel, stride=stride, padding=2, dtype=dtype, rng=0, **options)
    for tile in (1, (40, 1), (3, 9)):
        assert_same_bits(tiled.apply(model, image, tile, progress=False), model(image))


def test_im2col_is_within_its_rounding(dtype):
    model, image = Conv2d(8, 4, 3, algorithm="im2col", dtype=dtype, rng=0), picture(8, 50, 60)
    image = image.astype(dtype)
    exact = Conv2d(8, 4, 3, dtype=np.float64, rng=0)
    absolute = Conv2d(8, 4, 3, dtype=np.float64)
    exact.load_state_dict(model.state_dict())
    absolute.load_state_dict({name: abs(value) for name, value in model.state_dict().items()})
    image64 = image.astype(np.float64)
    y = tiled.apply(model, image, 7, progress=False)
    assert_sums_close(y, exact(image64), absolute(abs(image64)), terms=73)


@pytest.mark.usefixtures("level")
@given(data=st.data())
def test_averages_are_within_their_rounding(dtype, data):
    """Those of integers, whose sums are exact, have the bits of the whole."""
    call = data.draw(calls(dtype.type, averages))
    image = replace(call, special=()).image(dtype)
    wide, (kh, kw) = image.astype(np.float64), call.model.kernel_size
    expected = call.model(wide)
    tile = call.tile(expected.shape[-2:])
    y = tiled.apply(call.model, image, tile, progress=False)
    assert_sums_close(y, expected, call.model(abs(wide)), terms=kh * kw + 1)
    whole = np.rint(8 * image)
    assert_same(tiled.apply(call.model, whole, tile, progress=False), call.model(whole))


# ---------------------------------------------------------------------------------- images, out


class Strips:
    """An image or an `out` that is no array: it notes what is asked of it."""

    def __init__(self, array):
        self.array, self.shape, self.dtype = array, array.shape, array.dtype
        self.asked = []

    def _inside(self, index):
        assert index[0] is Ellipsis
        for part, size in zip(index[1:], self.shape[-2:], strict=True):
            assert 0 <= part.start < part.stop <= size
            assert part.step is None
        self.asked.append(index[1:])
        return index

    def __getitem__(self, index):
        return self.array[self._inside(index)]

    def __setitem__(self, index, value):
        self.array[self._inside(index)] = value


def test_a_tile_reads_what_it_sees_and_nothing_else():
    """Away from the borders, the receptive field of its outputs: once, in bounds."""
    model = Sequential(Conv2d(1, 2, 5, padding=2), MaxPool2d((3, 2)), Conv2d(2, 1, 3, dilation=2))
    image = Strips(picture(1, 200, 210))
    out = Strips(np.full((1, 62, 101), np.nan, np.float32))
    assert tiled.apply(model, image, (10, 15), out, progress=False) is out
    assert_same_bits(out.array, model(image.array))
    assert len(image.asked) == len(out.asked) == 7 * 7
    covered = np.zeros((62, 101), int)
    for rows, columns in out.asked:
        covered[rows, columns] += 1
    assert (covered == 1).all()
    field = receptive_field(model.layers)[-1]
    for (rows, columns), (top, left) in zip(out.asked, image.asked, strict=True):
        for i, part, read in ((0, rows, top), (1, columns, left)):
            size, jump = field.size[i], field.jump[i]
            begin = part.start * jump + field.start[i] - (size - 1) / 2
            end = (part.stop - 1) * jump + field.start[i] + (size - 1) / 2 + 1
            assert (read.start, read.stop) == (max(begin, 0), min(end, image.shape[1 + i]))


class Endless(Strips):
    """An image of no memory, each pixel of which is its row plus its column."""

    def __init__(self, *shape):
        super().__init__(np.broadcast_to(np.float32(0), shape))

    def __getitem__(self, index):
        rows, columns = (np.arange(part.start, part.stop) for part in self._inside(index)[1:])
        return (rows[None, :, None] + columns).astype(np.float32)

    def __setitem__(self, index, value):
        self._inside(index)


def test_memory_is_that_of_a_tile():
    model = Sequential(Conv2d(1, 4, 3, rng=0), ReLU(), Conv2d(4, 1, 3, rng=1))
    image, out = Endless(1, 3000, 3000), Endless(1, 2996, 2996)
    tracemalloc.start()
    try:
        tiled.apply(model, image, 200, out, progress=False)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(image.asked) == 15 * 15
    # the tile's pixels, and two layers' four channels, in float32
    assert peak < 1.2 * (1 + 4 + 4) * 204**2 * 4 < math.prod(image.shape) * 4 / 10


def test_memmaps(tmp_path):
    """An image is read from a file and the result written to one."""
    model = network()
    pixels = picture(2, 150, 170)
    pixels.tofile(tmp_path / "image")
    image = np.memmap(tmp_path / "image", np.float32, "r", shape=pixels.shape)
    expected = model(pixels)
    out = np.memmap(tmp_path / "out", np.float32, "w+", shape=expected.shape)
    assert tiled.apply(model, image, (11, 40), out, progress=False) is out
    out.flush()
    assert (tmp_path / "out").read_bytes() == expected.tobytes()
    assert (tmp_path / "image").read_bytes() == pixels.tobytes()
    again = tiled.apply(model, image, progress=False)
    assert type(again) is np.ndarray
    assert_same_bits(again, expected)


@pytest.mark.parametrize("layout", OUT_LAYOUTS)
def test_out(layout):
    model, image = network(), picture(2, 2, 70, 80)
    expected = model(image)
    out = place_out(expected.shape, expected.dtype, layout)
    assert tiled.apply(model, image, 8, out, progress=False) is out
    assert_same(out, expected)
    assert_delivered(out, out)


def test_nested_lists_are_an_image():
    image = [[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]]
    y = tiled.apply(MaxPool2d(2, stride=1), image, 1, progress=False)
    assert y.tolist() == [[[5.0, 6.0]]]


def test_the_model_may_have_been_trained():
    model, image = network(), picture(2, 60, 60)
    model.backward(model.forward(image, training=True))
    assert_same_bits(tiled.apply(model, image, 5, progress=False), model(image))


# ---------------------------------------------------------------------------------- progress


def test_progress_is_drawn_by_tqdm(capsys):
    pytest.importorskip("tqdm")
    model, image = network(), picture(2, 60, 60)
    tiled.apply(model, image, (4, 5))
    drawn = capsys.readouterr()
    assert "12/12" in drawn.err
    assert "tile" in drawn.err
    assert drawn.out == ""
    tiled.apply(model, image, (4, 5), progress=False)
    assert capsys.readouterr() == ("", "")


def test_without_tqdm_the_error_names_the_extra(monkeypatch):
    """Before anything is read or written."""
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    image, out = Strips(picture(1, 9, 9)), np.full((1, 8, 8), np.nan, np.float32)
    message = r"^apply: the progress bar needs tqdm: pip install 'slidedot\[tiled\]', or pass"
    with pytest.raises(ImportError, match=message):
        tiled.apply(MaxPool2d(2, stride=1), image, out=out)
    assert image.asked == []
    assert np.isnan(out).all()


# ---------------------------------------------------------------------------------- Dask


def dask_array():
    pytest.importorskip("dask")
    return pytest.importorskip("dask.array")


def test_a_dask_array_stays_lazy():
    """Nothing is computed, or drawn, before it is asked for; then the chunks are the tiles."""
    array = dask_array()
    model, pixels = network(), picture(2, 90, 110)
    asked = []

    def block(block_info):
        (_, *place) = block_info[None]["array-location"]
        asked.append(place)
        return pixels[:, slice(*place[0]), slice(*place[1])]

    image = array.map_blocks(
        block, chunks=((2,), (30,) * 3, (55,) * 2), dtype=np.float32, meta=np.empty((0, 0, 0), "f4")
    )
    expected = model(pixels)
    lazy = tiled.apply(model, image, (10, 20))
    assert isinstance(lazy, array.Array)
    assert (lazy.shape, lazy.dtype) == (expected.shape, expected.dtype)
    assert lazy.chunks == ((3,), (10, 10, 1), (20, 6))
    assert asked == []
    model.layers[0].weight[:] = 0  # the model was taken as it was
    assert_same_bits(lazy.compute(scheduler="synchronous"), expected)
    asked.clear()
    first = lazy[:, :5, :5].compute(scheduler="synchronous")
    assert_same_bits(first, np.ascontiguousarray(expected[:, :5, :5]))
    assert len(set(map(str, asked))) == 4


SPAWN = multiprocessing.get_context("spawn")
POOLS = {
    "synchronous": contextlib.nullcontext,
    "threads": contextlib.nullcontext,
    "processes": lambda: ProcessPoolExecutor(2, mp_context=SPAWN),
}


@pytest.mark.parametrize("scheduler", POOLS)
def test_a_scheduler_computes(scheduler):
    """Lazily, and into an array that only this process has."""
    array = dask_array()
    import dask

    model, pixels = network(), picture(2, 2, 90, 110)
    image = array.from_array(pixels, chunks=(1, 2, 40, 50))
    expected = model(pixels)
    out = np.full(expected.shape, np.nan, np.float32)
    with (
        POOLS[scheduler]() as pool,
        dask.config.set(scheduler=scheduler, pool=pool),
        unchanged(pixels),
    ):
        assert tiled.apply(model, image, (7, 12), out, progress=False) is out
        assert_same_bits(out, expected)
        assert_same_bits(tiled.apply(model, image, (7, 12)).compute(), expected)


# distributed warns where a folder or a process takes a second to come up, as on a busy machine
@pytest.mark.filterwarnings("default")
def test_a_cluster_computes(tmp_path):
    """Two processes; the result goes to a file of this one's, then to files of the workers'."""
    array = dask_array()
    distributed = pytest.importorskip("distributed")
    model, pixels = network(), picture(2, 90, 110)
    image = array.from_array(pixels, chunks=(2, 40, 50))
    expected = model(pixels)
    out = np.memmap(tmp_path / "out", np.float32, "w+", shape=expected.shape)
    with (
        distributed.LocalCluster(2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster),
    ):
        assert tiled.apply(model, image, (7, 12), out, progress=False) is out
        assert_same_bits(np.array(out), expected)
        array.to_npy_stack(tmp_path / "stack", tiled.apply(model, image, (7, 12)), axis=1)
    assert_same_bits(array.from_npy_stack(tmp_path / "stack").compute(), expected)


def test_a_dask_task_takes_one_thread(monkeypatch):
    """Whatever the process's number: the scheduler runs as many tasks as there are CPUs."""
    array = dask_array()
    taken = []
    call = Conv2dPlan.__call__

    def spy(plan, x):
        taken.append(_threads.threads_for(10**9))
        return call(plan, x)

    monkeypatch.setattr(Conv2dPlan, "__call__", spy)
    model, pixels = Conv2d(1, 1, 3, rng=0), picture(1, 12, 12)
    with _threads.num_threads(3):
        tiled.apply(model, array.from_array(pixels), 5).compute(scheduler="threads")
        assert taken == [3] + [1] * 4  # the first one is of an empty batch
        taken.clear()
        tiled.apply(model, pixels, 5, progress=False)
        assert taken == [3] * 5


def test_dask_is_given_some_tiles_for_each_of_its_threads(monkeypatch):
    """With `out`: else all tiles would be in memory at once."""
    array = dask_array()
    import dask

    sizes = []
    compute = dask.compute
    monkeypatch.setattr(dask, "compute", lambda *tasks: sizes.append(len(tasks)) or compute(*tasks))
    monkeypatch.setattr(dask.system, "CPU_COUNT", 3)
    pixels = picture(1, 20, 20)
    out = np.empty((1, 19, 19), np.float32)
    tiled.apply(MaxPool2d(2, stride=1), array.from_array(pixels), 5, out, progress=False)
    assert sizes == [6, 6, 4]
    assert_same_bits(out, MaxPool2d(2, stride=1)(pixels))


def test_dask_is_not_imported_for_other_images():
    code = """
import sys
import numpy as np
from slidedot import layers, tiled
tiled.apply(layers.MaxPool2d(2), np.zeros((1, 8, 8)), 2, progress=False)
assert not {"dask", "distributed", "tqdm"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


# ---------------------------------------------------------------------------------- refusals


GOOD = {
    "model": Sequential(Conv2d(2, 3, 3), MaxPool2d(2)),
    "image": np.zeros((2, 20, 22), np.float32),
    "progress": False,
}
RESULT = (3, 9, 10)


class Unknown(Conv2d):
    """Who knows what it computes."""


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"model": Flatten()}, ValueError, r"apply: model must be .* \(Avg.*\), got Flatten"),
        (
            {"model": Sequential(Conv2d(2, 3, 3), Sequential(ReLU(), Linear(20, 3)))},
            ValueError,
            r"apply: model must be .*, got Linear\(20, 3\)",
        ),
        ({"model": Unknown(2, 3, 3)}, ValueError, r"got Unknown\(2, 3, 3\)"),
        ({"model": np.tanh}, ValueError, "model must be a layer .*, got <ufunc 'tanh'>"),
        ({"tile": 0}, ValueError, "apply: tile must be >= 1, got tile=0"),
        ({"tile": (4, -1)}, ValueError, r"apply: tile must be >= 1, got tile=\(4, -1\)"),
        ({"tile": (4, 4, 4)}, ValueError, r"apply: tile must be an int or \(h, w\)"),
        ({"tile": 4.0}, TypeError, "apply: tile must be an int, got 4.0"),
        ({"tile": None}, TypeError, "apply: tile must be an int, got None"),
        ({"progress": np.zeros(2)}, TypeError, "apply: progress must be a bool, got array"),
        ({"image": np.zeros((2, 20, 22), int)}, TypeError, "image must be float32 or float64, got"),
        ({"image": np.ma.zeros((2, 20, 22))}, TypeError, "apply: image is a masked array; call"),
        ({"image": np.zeros((20, 22))}, ValueError, r"apply: image must be \(N, C, H, W\) or"),
        ({"image": np.zeros((2, 0, 22))}, ValueError, "apply: image needs at least one channel"),
        ({"image": np.zeros((2, 20, 22))}, TypeError, "one dtype, got float64 and float32"),
        ({"image": "picture.png"}, TypeError, "apply: image must be float32 or float64, got <U11"),
        ({"image": np.zeros((3, 20, 22), np.float32)}, ValueError, "weight must have C // groups"),
        ({"image": np.zeros((2, 2, 22), np.float32)}, ValueError, "spans 3 pixels, more than the"),
        (
            {"image": np.zeros((2, 3, 22), np.float32)},
            ValueError,
            "max_pool2d: the kernel's height",
        ),
        (
            {"out": np.zeros(RESULT)},
            TypeError,
            "apply: out must have dtype float32, got float64",
        ),
        (
            {"out": np.zeros((3, 9, 11), np.float32)},
            ValueError,
            r"apply: out must have shape \(3, 9, 10\), got shape \(3, 9, 11\)",
        ),
        (
            {"out": np.broadcast_to(np.float32(0), RESULT)},
            ValueError,
            "apply: out is read-only",
        ),
        ({"out": [1.0]}, TypeError, "apply: out must be a NumPy array, got list"),
        (
            {"out": Strips(np.zeros(RESULT))},
            ValueError,
            r"apply: out must have shape \(3, 9, 10\) and dtype float32, .* and dtype float64",
        ),
    ],
)
def test_refused(changes, error, message):
    with pytest.raises(error, match=message):
        tiled.apply(**(GOOD | changes))


def test_good_calls_are_accepted():
    assert tiled.apply(**GOOD).shape == RESULT
    assert tiled.apply(**GOOD, tile=np.int8(3), out=np.zeros(RESULT, np.float32)).shape == RESULT


def test_out_may_not_be_the_image():
    image = np.zeros((1, 8, 8), np.float32)
    with pytest.raises(ValueError, match="apply: out shares memory with image"):
        tiled.apply(ReLU(), image, out=image, progress=False)


def test_a_dask_array_of_unknown_size_is_refused():
    array = dask_array()
    flags = array.from_array(np.ones(8, bool))
    image = array.ones((1, 8, 8), dtype=np.float32)[:, flags]
    with pytest.raises(TypeError, match=r"apply: image.shape must be an int, got \(1, nan, 8\)"):
        tiled.apply(ReLU(), image)


def test_more_than_the_memory_is_a_memory_error():
    image = np.broadcast_to(np.float32(0), (1, 2**24, 2**24))
    with pytest.raises(MemoryError, match=r"^apply: a result of shape \(1, 16777216, 16777216\)"):
        tiled.apply(ReLU(), image, progress=False)

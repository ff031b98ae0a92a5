"""Networks over images that do not fit into memory, or lie on a cluster: tile by tile.

The output is cut into tiles. For each of them the layers are walked backwards: so many outputs
need so many inputs, down to a rectangle of the image, which overlaps the next one by the network's
receptive field less its jump. Then the layers run forwards over that rectangle alone. Padding lies
around a layer's own input, so a tile gets it where it touches that border and nowhere else, and the
result is that of the whole image.

The module needs NumPy alone; ``pip install "slidedot[tiled]"`` brings tqdm, which draws the
progress bar, and Dask, which deals out the tiles of its arrays to threads, processes or machines.
"""

from __future__ import annotations

import copy
import functools
import itertools
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from slidedot import _threads, _validation
from slidedot._types import Algorithm, Floats, Layer
from slidedot.convolution import Conv2dPlan, transpose_part, transposed_layer, winograd_tiles
from slidedot.geometry import Axis, Part, Size, flag, integer, pair, shown, windows
from slidedot.layers import AvgPool2d, Conv2d, ConvTranspose2d, MaxPool2d, ReLU, Sequential

__all__ = ["apply"]

#: Layers whose outputs see a window of the input each. What a subclass computes is not known.
LOCAL = (AvgPool2d, Conv2d, ConvTranspose2d, MaxPool2d, ReLU)

# ---------------------------------------------------------------------------------- stages


class _Stage(NamedTuple):
    """A layer over the whole image: where its windows lie, and how to compute a part of them."""

    axes: tuple[Axis, Axis]
    part: Callable[[Axis, int, int], Part]
    run: Callable[[Floats, Part, Part], Floats]


def _padding(h: Part, w: Part) -> tuple[tuple[int, int], tuple[int, int]]:
    return (h.before, h.after), (w.before, w.after)


def _run_plan(plan: Conv2dPlan, algorithm: Algorithm, x: Floats, h: Part, w: Part) -> Floats:
    return plan._variant(_padding(h, w), algorithm)(x)


def _run_layer(layer: Any, x: Floats, h: Part, w: Part) -> Floats:
    layer = copy.copy(layer)
    layer.padding = _padding(h, w)
    y: Floats = layer.forward(x)
    return y


def _run_transposed(
    weight: Floats, bias: Floats | None, geometry: Any, x: Floats, h: Part, w: Part
) -> Floats:
    return transpose_part(x, weight, bias, geometry, (h, w))


def _stage(layer: Any, size: tuple[int, int]) -> _Stage:
    """Return the stage of a layer as it is now, for an input of `size` ``(h, w)``."""
    if isinstance(layer, ConvTranspose2d):
        geometry = transposed_layer(layer, size)
        widen = winograd_tiles if geometry.algorithm == "winograd" else None
        part = functools.partial(Axis.transposed_part, widen=widen)
        arrays = layer.weight.copy(), None if layer.bias is None else layer.bias.copy()
        run = functools.partial(_run_transposed, *arrays, geometry)
        return _Stage((geometry.h, geometry.w), part, run)
    if isinstance(layer, ReLU):
        axes = windows("apply", size, 1, 1, 0, 1)
    else:
        window = layer.kernel_size, layer.stride, layer.padding, getattr(layer, "dilation", 1)
        axes = windows("apply", size, *window, getattr(layer, "ceil_mode", False))
    if isinstance(layer, Conv2d):
        plan = layer._current_plan()
        algorithm = plan.algorithm(size)  # by the whole image: a thin tile might take another
        part = functools.partial(Axis.part, widen=winograd_tiles)
        run = functools.partial(_run_plan, plan, algorithm)
        return _Stage(axes, part if algorithm == "winograd" else Axis.part, run)
    layer = copy.copy(layer)
    layer._saved = None  # of training: as large as an image
    return _Stage(axes, Axis.part, functools.partial(_run_layer, layer))


def _stages(model: Layer, probe: Floats) -> tuple[list[_Stage], tuple[int, ...]]:
    """Return the stages of a model for an image like `probe`, and their output's shape.

    An empty batch costs nothing, and the layers themselves refuse what they do not take.
    """
    named: Iterable[tuple[str, Any]]
    named = model._leaves() if isinstance(model, Sequential) else [("", model)]
    layers = [layer for _, layer in named]
    for layer in layers:
        if type(layer) not in LOCAL:
            names = ", ".join(kind.__name__ for kind in LOCAL)
            raise ValueError(
                "apply: model must be a layer whose outputs see a window of the image each, or a "
                f"Sequential of such layers ({names}), got {shown(layer)}"
            )
    x: Floats = np.empty((0, *probe.shape[-3:]), probe.dtype.type)
    stages = []
    for layer in layers:
        y = layer.forward(x)
        stages.append(_stage(layer, (x.shape[2], x.shape[3])))
        x = y
    return stages, (*probe.shape[:-3], *x.shape[1:])


# ---------------------------------------------------------------------------------- tiles


class _Tile(NamedTuple):
    """A rectangle of the output, the one of the image that it needs, and each stage's parts."""

    output: tuple[Any, slice, slice]
    image: tuple[Any, slice, slice]
    rows: tuple[Part, ...]
    columns: tuple[Part, ...]


class _Chain(NamedTuple):
    """Along one axis: a tile's outputs, the pixels that they need, and each stage's part."""

    outputs: slice
    pixels: slice
    parts: tuple[Part, ...]


def _chain(stages: list[_Stage], axis: int, start: int, stop: int) -> _Chain:
    outputs, parts = slice(start, stop), []
    for stage in reversed(stages):
        parts.append(stage.part(stage.axes[axis], start, stop))
        start, stop = parts[-1].start, parts[-1].stop
    return _Chain(outputs, slice(start, stop), tuple(reversed(parts)))


def _chains(stages: list[_Stage], axis: int, out: int, step: int) -> list[_Chain]:
    """Return the tiles' chains along an axis of `out` outputs, `step` to a tile."""
    return [_chain(stages, axis, i, min(i + step, out)) for i in range(0, out, step)]


def _tile(row: _Chain, column: _Chain) -> _Tile:
    """Return the tile of a row's chain and a column's."""
    (y, top, h), (x, left, w) = row, column
    return _Tile((..., y, x), (..., top, left), h, w)


def _compute(
    stages: list[_Stage], rows: tuple[Part, ...], columns: tuple[Part, ...], x: Floats
) -> Floats:
    """Return what the stages make of a rectangle `x` of the image."""
    for stage, h, w in zip(stages, rows, columns, strict=True):
        x = stage.run(x, h, w)[..., h.kept, w.kept]
    return x


#: A tile's place in the output, and its values.
_Results: TypeAlias = Iterable[tuple[Any, Floats]]


def _with_progress(results: _Results, count: int, progress: bool) -> _Results:
    """Return the iterable `results`, with a bar if it is wanted."""
    if not progress:
        return results
    try:
        from tqdm.auto import tqdm
    except ImportError as error:
        raise ImportError(
            "apply: the progress bar needs tqdm: pip install 'slidedot[tiled]', or pass "
            "progress=False"
        ) from error
    bar: _Results = tqdm(results, total=count, unit="tile")
    return bar


# ---------------------------------------------------------------------------------- Dask


def _task(
    stages: list[_Stage], rows: tuple[Part, ...], columns: tuple[Part, ...], x: Floats
) -> Floats:
    """Compute a tile; the scheduler runs as many such tasks as it has threads."""
    with _threads.one_thread():
        return _compute(stages, rows, columns, x)


def _tasks(image: Any, stages: list[_Stage], tiles: list[_Tile]) -> list[Any]:
    """Return a task of Dask's for each tile."""
    import dask

    stages = dask.delayed(stages, traverse=False)
    task = dask.delayed(_task)
    return [task(stages, t.rows, t.columns, image[t.image]) for t in tiles]


def _lazy(
    tasks: list[Any], tiles: list[_Tile], columns: int, shape: tuple[int, ...], dtype: type
) -> Any:
    """Return the tasks, so many to a row, as one Dask array, whose chunks they are."""
    from dask import array

    chunks = []
    for task, tile in zip(tasks, tiles, strict=True):
        size = (part.stop - part.start for part in tile.output[1:])
        chunks.append(array.from_delayed(task, (*shape[:-2], *size), dtype))
    return array.block([chunks[i : i + columns] for i in range(0, len(chunks), columns)])


def _threads_of_dask() -> int:
    """Return how many tasks the scheduler in use runs at once."""
    from dask import base, system

    client = getattr(base.get_scheduler(), "__self__", None)  # None: not of `distributed`
    return int(sum(client.nthreads().values()) if client else system.CPU_COUNT)


def _computed(tasks: list[Any]) -> Iterator[Floats]:
    """Yield what the tasks give, in order; no more of them are under way than keep Dask busy."""
    import dask

    most = 2 * _threads_of_dask()
    for start in range(0, len(tasks), most):
        yield from dask.compute(*tasks[start : start + most])


# ---------------------------------------------------------------------------------- public


def _is_array_like(value: object) -> bool:
    return isinstance(getattr(value, "dtype", None), np.dtype) and hasattr(value, "shape")


def _probe(image: Any) -> Floats:
    """Check an image; return an array like it that takes no memory."""
    shape = tuple(integer("apply", "image.shape", n, 0, whole=image.shape) for n in image.shape)
    probe: Floats = np.broadcast_to(np.empty((), image.dtype), shape)
    _validation.images("apply", "image", probe)
    return probe


def _check_out(out: Any, shape: tuple[int, ...], dtype: type[Any], image: Any) -> None:
    """Refuse an `out` that cannot take the result."""
    if isinstance(out, np.ndarray) or not (_is_array_like(out) and hasattr(out, "__setitem__")):
        image = image if isinstance(image, np.ndarray) else None
        _validation.writable("apply", out, shape, dtype, image=image)
    elif (tuple(out.shape), out.dtype) != (shape, dtype):
        raise ValueError(
            f"apply: out must have shape {shape} and dtype {np.dtype(dtype)}, "
            f"got shape {tuple(out.shape)} and dtype {out.dtype}"
        )


def apply(
    model: Layer,
    image: Any,
    tile: Size = (1024, 1024),
    out: Any = None,
    progress: bool = True,
) -> Any:
    """Run a network over an image of any size, tile by tile; the result is the untiled one.

    Parameters
    ----------
    model : layer
        An ``AvgPool2d``, ``Conv2d``, ``ConvTranspose2d``, ``MaxPool2d`` or ``ReLU`` of
        `slidedot.layers`, or a ``Sequential`` of such layers. It is taken as it is now, also where
        Dask computes later.
    image : array_like, (C, H, W) or (N, C, H, W), float32 or float64
        A NumPy array, a `numpy.memmap`, a Dask array, or anything with `shape`, `dtype` and slicing
        (a Zarr or HDF5 data set). For each tile one rectangle is sliced from it.
    tile : int or (int, int)
        Rows and columns of an *output* tile. What it needs of the image is larger, by the stride
        and the receptive field.
    out : array_like, optional
        Where to put the result, tile by tile: a NumPy array, a `numpy.memmap`, or anything with
        `shape`, `dtype` and assignment to slices.
    progress : bool
        Draw a progress bar, by tqdm, while tiles are computed.

    Returns
    -------
    ndarray, Dask array, or `out`
        ``model(image)``. Of a Dask array without `out`: a Dask array whose chunks are the tiles,
        of which nothing has been computed yet.

    Raises
    ------
    ValueError
        A model with a layer of another kind, such as ``Flatten`` or ``Linear``, each output of
        which sees all pixels; an image or an `out` that does not fit.
    TypeError
        An image of another dtype, a number that is not an integer.
    ImportError
        `progress` where tqdm is not installed.
    MemoryError
        The result, without `out`, does not fit into memory.

    Notes
    -----
    The result has the bits of ``model(image)``, whatever the tiles (NaN is NaN; on a cluster, of
    CPUs of one level). Each layer takes the algorithm that it takes for the whole image, and where
    that is Winograd's, whole tiles of its own. Only ``algorithm="im2col"`` and ``AvgPool2d`` may
    differ, by rounding: they may add up in another order for another number of pixels. With a bias,
    a sum of ``n = C // groups * kh * kw + 1`` terms then differs by at most
    ``2 g sum |x| |weight|``, where ``g = n u / (1 - n u)``, u half the dtype's epsilon; an average,
    with ``n = kh * kw + 1``, by at most ``2 g`` times that of the absolute values.

    Memory, besides `image` and `out`, is that of the rectangle and of two layers' outputs over it
    (all N images of a batch at once). Pixels of a memmap that were read or written may stay in
    memory for as long as nobody else needs it.

    Of a Dask array each tile is a task for the scheduler in use (threads, processes, a cluster)
    and computes in one thread, as Dask expects: tiles are what is done at the same time. With
    `out`, tiles are computed now, some for each of the scheduler's threads at a time, and are
    written by this process: `out` need not be known to the others. (The scheduler "processes"
    starts its processes anew each time, unless it is given a ``pool``.) Without, the array goes on
    to ``compute``, ``to_zarr`` or ``dask.array.store``. Of any other image tiles come one after the
    other, and the kernels use `slidedot.get_num_threads` threads.

    Examples
    --------
    >>> import numpy as np
    >>> from slidedot import layers, tiled
    >>> model = layers.Sequential(
    ...     layers.Conv2d(1, 4, 5, padding=2, activation="relu", rng=0), layers.MaxPool2d(2)
    ... )
    >>> image = np.random.default_rng(0).standard_normal((1, 300, 400), dtype=np.float32)
    >>> y = tiled.apply(model, image, tile=64, progress=False)
    >>> y.shape, np.array_equal(y, model(image))
    ((4, 150, 200), True)
    """
    function = "apply"
    tile = pair(function, "tile", tile)
    progress = flag(function, "progress", progress)
    if isinstance(image, np.ndarray) or not _is_array_like(image):
        image = _validation.array(function, "image", image)
    probe = _probe(image)
    stages, shape = _stages(model, probe)
    dtype = probe.dtype.type
    if out is not None:
        _check_out(out, shape, dtype, image)
    rows, columns = (_chains(stages, i, shape[i - 2], tile[i]) for i in range(2))
    count = len(rows) * len(columns)
    tiles: Iterable[_Tile] = itertools.starmap(_tile, itertools.product(rows, columns))
    dask = sys.modules.get("dask.array")  # whoever has an array of Dask's has imported it
    if dask is not None and isinstance(image, dask.Array):
        known = list(tiles)
        tasks = _tasks(image, stages, known)
        if out is None:
            return _lazy(tasks, known, len(columns), shape, dtype)
        results: _Results = zip((t.output for t in known), _computed(tasks), strict=True)
    else:
        results = (
            (t.output, _compute(stages, t.rows, t.columns, np.asarray(image[t.image])))
            for t in tiles
        )
    results = _with_progress(results, count, progress)
    if out is None:
        out = _validation.empty(function, shape, dtype)
    for index, y in results:
        out[index] = y
    return out

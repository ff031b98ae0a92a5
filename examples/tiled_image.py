"""Run a network over an image that is larger than the memory it may take.

The image is a rock's texture of 20,000 x 20,000 pixels, 1.6 GB in a raw file, made on the fly. The
network measures how strongly and how finely it is grained: Gabor filters in eight directions,
rectified; the strongest response of each 2x2 pixels; and a weighted mean of all directions over
their neighbours. The result, 400 MB, is written to another file, tile by tile. First one process
does so, then a cluster of two on this machine, then both results are compared.

    pip install "slidedot[tiled]"
    python tiled_image.py
"""

import argparse
import re
import resource
import sys
import tempfile
import time
from pathlib import Path

import dask.array
import numpy as np
from dask.distributed import Client, LocalCluster

from slidedot import layers, receptive_field, tiled

SIZE, TILE = 20_000, 1024
QUICK_SIZE, QUICK_TILE = 1_000, 128
STRIP = 256  # rows that are made, or compared, at a time
GRAINS = [(5, 0.6), (17, 0.8), (67, 1.0), (300, 1.5)]  # pixels from crest to trough, strength
DIRECTIONS, TAPS = 8, 9


class Raster:
    """A raw file of pixels, mapped anew for each access: what was touched does not stay in memory.

    It has what `tiled.apply` asks of an image and of an `out`, and goes to other processes by name.
    """

    def __init__(self, path, shape):
        self.path, self.shape, self.ndim, self.dtype = path, shape, 3, np.dtype(np.float32)
        if not path.exists():
            np.memmap(path, self.dtype, "w+", shape=shape)

    def __getitem__(self, index):
        return np.array(np.memmap(self.path, self.dtype, "r", shape=self.shape)[index])

    def __setitem__(self, index, value):
        np.memmap(self.path, self.dtype, "r+", shape=self.shape)[index] = value


def strips(rows):
    """Yield slices of so many rows that fit into memory."""
    return (slice(top, min(top + STRIP, rows)) for top in range(0, rows, STRIP))


def between(points, places):
    """Interpolate along the first axis of `points`, at `places`."""
    below = places.astype(int)
    share = (places - below).astype(np.float32)[:, None]
    return points[below] * (1 - share) + points[below + 1] * share


def make_texture(image, rng):
    """Fill an image with grains of several sizes: smooth noise at each, added up."""
    _, rows, columns = image.shape
    noise = [
        (step, strength * rng.standard_normal((rows // step + 2, columns // step + 2), np.float32))
        for step, strength in GRAINS
    ]
    for strip in strips(rows):
        texture = sum(
            between(between(points, np.arange(strip.start, strip.stop) / step).T,
                    np.arange(columns) / step)
            for step, points in noise
        )  # fmt: skip
        image[0, strip] = texture.T


def gabor_filters():
    """Return waves (DIRECTIONS, 1, TAPS, TAPS) of six pixels under a bell, of zero sum."""
    y, x = np.mgrid[:TAPS, :TAPS] - TAPS // 2
    angles = np.arange(DIRECTIONS) * np.pi / DIRECTIONS
    along = x * np.cos(angles)[:, None, None] + y * np.sin(angles)[:, None, None]
    filters = np.cos(2 * np.pi * along / 6) * np.exp(-(x**2 + y**2) / 8)
    filters -= filters.mean(axis=(1, 2), keepdims=True)
    return filters[:, None]


def make_network():
    """Return the three layers."""
    directions = layers.Conv2d(1, DIRECTIONS, TAPS, padding="same", activation="relu")
    directions.weight[:] = gabor_filters()
    mean = layers.Conv2d(DIRECTIONS, 1, 5, padding="same")
    row = np.array([1, 4, 6, 4, 1]) / 16
    mean.weight[:] = np.outer(row, row) / DIRECTIONS
    return layers.Sequential(directions, layers.MaxPool2d(2), mean)


def peak():
    """Return the most memory that this process has had so far, in MiB."""
    status = Path("/proc/self/status")
    if status.exists():  # Linux, whose getrusage counts for a new process what its parent had
        return int(re.search(r"VmHWM:\s*(\d+) kB", status.read_text())[1]) // 1024
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // unit


def compare(a, b):
    """Return whether two images are equal."""
    return all(np.array_equal(a[0, strip], b[0, strip]) for strip in strips(a.shape[1]))


def main():
    """Run the program."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small image")
    parser.add_argument("--folder", type=Path, help="where to put the files; a temporary one")
    parser.add_argument("--no-progress", action="store_true", help="draw no progress bar")
    arguments = parser.parse_args()
    size, tile = (QUICK_SIZE, QUICK_TILE) if arguments.quick else (SIZE, TILE)

    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        image = Raster(Path(folder, "image.raw"), (1, size, size))
        start = time.perf_counter()
        make_texture(image, np.random.default_rng(0))
        print(f"made an image of {size:,} x {size:,} pixels in {time.perf_counter() - start:.1f} s")

        network = make_network()
        print(network.summary(image.shape))
        field = receptive_field(network.layers)[-1]
        shape = (1, size // field.jump, size // field.jump)
        results = [Raster(Path(folder, name), shape) for name in ("one.raw", "cluster.raw")]

        start = time.perf_counter()
        tiled.apply(network, image, tile, results[0], progress=not arguments.no_progress)
        print(f"one process: {time.perf_counter() - start:.1f} s, peak {peak()} MiB")

        with (
            LocalCluster(2, threads_per_worker=1, dashboard_address=None) as cluster,
            Client(cluster) as client,
        ):
            client.run(make_network)  # both have imported slidedot before the clock starts
            start = time.perf_counter()
            chunks = dask.array.from_array(image, chunks=(1, 2 * tile, 2 * tile), name=False)
            dask.array.store(tiled.apply(network, chunks, tile), results[1], lock=False)
            seconds = time.perf_counter() - start
            peaks = ", ".join(f"{workers} MiB" for workers in client.run(peak).values())
        print(f"two workers: {seconds:.1f} s, peak {peaks}")

        if not compare(*results):
            raise SystemExit("the results differ")
        print(f"both results, {shape[1]:,} x {shape[2]:,} pixels, are equal, bit for bit")


if __name__ == "__main__":
    main()

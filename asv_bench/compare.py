"""slidedot beside its peers, layer by layer, measured in turn in one process.

    pip install ".[compare]"
    python asv_bench/compare.py                          # forward, one thread
    python asv_bench/compare.py --backward --layers vgg  # the gradients, layers named vgg
    python asv_bench/compare.py --markdown --chart speed.png

Each round gives every contender a turn, so that what else the machine does hits all alike; the
shortest call counts. A contender prepares its weights beforehand where its library has a place for
that (a session, a compiled model, a plan), else within each call. Rates count the multiply-adds of
the plain convolution, twice, whatever the algorithm does: Winograd may exceed the peak.
"""

import argparse
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from datetime import date
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
from benchmarks.shapes import Layer
from contenders import FLOAT32_ONLY, Arrays, slidedot_contenders, slidedot_layer, torch_contenders

LAYERS = {
    "vgg-1-n4": Layer(4, 3, 224, 64, 3, padding=1),
    "vgg-2": Layer(1, 64, 224, 64, 3, padding=1),
    "vgg-4": Layer(1, 128, 112, 128, 3, padding=1),
    "vgg-6": Layer(1, 256, 56, 256, 3, padding=1),
    "vgg-9": Layer(1, 512, 28, 512, 3, padding=1),
    "vgg-11": Layer(1, 512, 14, 512, 3, padding=1),
    "resnet-stem-n4": Layer(4, 3, 224, 64, 7, stride=2, padding=3),
    "resnet-3x3": Layer(8, 64, 56, 64, 3, padding=1),
    "resnet-1x1": Layer(8, 64, 56, 256, 1),
    "resnet-down": Layer(8, 128, 56, 128, 3, stride=2, padding=1),
    "resnet-1x1-late": Layer(8, 256, 14, 1024, 1),
    "resnet-last": Layer(8, 512, 7, 512, 3, padding=1),
    "lenet-1": Layer(128, 1, 28, 6, 5, padding=2),
    "lenet-2": Layer(128, 6, 14, 16, 5),
    "cifar-5x5": Layer(64, 3, 32, 32, 5, padding=2),
    "cs231n": Layer(100, 3, 31, 25, 3, stride=2, padding=1),
    "alexnet-1": Layer(8, 3, 227, 96, 11, stride=4),
}

ROUNDS = 7
SETTLE = 0.01  # seconds between turns, in which threads that wait by spinning fall asleep

#: A larger error, relative to the largest result, means another computation: float16, or a mistake.
TOLERANCE = {"float32": 1e-4, "float64": 1e-12}


class Family(NamedTuple):
    """A table. By library, a function of (settings) that imports it and returns its contenders;
    ``exact(layer, arrays)``, with arrays of float64, is a contender's ``prepare``."""

    title: str
    libraries: dict
    exact: Callable


def convolution(title, need=(), others=()):
    """The lecture's matrix product, which shares no kernel with conv2d, is the exact result."""
    own = {"slidedot": slidedot_contenders, "torch": torch_contenders}
    libraries = {name: partial(contenders, need=need) for name, contenders in own.items()}
    exact = partial(slidedot_layer, need=need, algorithm="im2col")
    return Family(title, {**libraries, **dict(others)}, exact)


FORWARD = [convolution("Forward", others=FLOAT32_ONLY)]
BACKWARD = [
    convolution("Gradient for x", need=("x",)),
    convolution("Gradient for weight and bias", need=("weight", "bias")),
]


# Measuring


class Measured(NamedTuple):
    """A layer's seconds and errors, by contender."""

    layer: str
    seconds: dict
    errors: dict

    def rate(self, contender):
        """GFLOP/s; both gradients have as many multiply-adds as the forward pass."""
        layer = LAYERS[self.layer]
        work = 2e-9 * math.prod(layer.y) * math.prod(layer.weight[1:])
        return work / self.seconds.get(contender, math.nan)

    def best_peer(self, besides=()):
        """GFLOP/s of the fastest, NaN where there is none."""
        peers = (c for c in self.seconds if not c.startswith("slidedot") and c not in besides)
        return max(map(self.rate, peers), default=math.nan)


def contenders(family, settings):
    """Return a family's contenders; say in a line which library is left out, and why."""
    found = []
    for name, library in family.libraries.items():
        try:
            if settings.dtype != "float32" and name in FLOAT32_ONLY:
                raise ImportError("it computes in float32 only")
            found += library(settings)
        except ImportError as reason:
            print(f"{name} is left out: {reason}", file=sys.stderr)
    return found


def shortest(calls, seconds, rounds=ROUNDS):
    """Return the shortest time of each call; they take turns within about `seconds`."""
    best = dict.fromkeys(calls, math.inf)
    for _ in range(rounds):
        for name, call in calls.items():
            time.sleep(SETTLE)
            call()  # fills the caches and wakes the threads
            now = time.perf_counter()
            end = now + seconds / rounds / len(calls)
            while now < end:
                start = now
                call()
                now = time.perf_counter()
                best[name] = min(best[name], now - start)
    return best


def measure(name, family, field, settings):
    """Check and time a layer."""
    layer, rng = LAYERS[name], np.random.default_rng(0)
    shapes = layer.x, layer.weight, layer.filters, layer.y
    arrays = Arrays(*(rng.standard_normal(shape).astype(settings.dtype) for shape in shapes))

    def run(prepare, arrays):
        call, results = prepare(layer, arrays)
        return call, results(call())

    _, exact = run(family.exact, Arrays(*(array.astype(np.float64) for array in arrays)))
    calls, errors = {}, {}
    for contender, prepare in field:
        calls[contender], results = run(prepare, arrays)
        errors[contender] = max(
            np.abs(r - e).max() / np.abs(e).max() for r, e in zip(results, exact, strict=True)
        )
        if not errors[contender] <= TOLERANCE[settings.dtype]:
            sys.exit(f"{contender} computes {name} wrongly: its error is {errors[contender]}")
    return Measured(name, shortest(calls, settings.seconds), errors)


# Reporting


class Column(NamedTuple):
    """A table's column; `summed_up` by geometric mean and minimum where these make sense."""

    title: str
    values: list
    form: str = ""
    summed_up: bool = False


def speed(measured, peak):
    """Return the columns of the speed table; `peak` in GFLOP/s."""
    shapes = [(*LAYERS[m.layer][:5], LAYERS[m.layer].stride) for m in measured]
    rates = {c: np.array([m.rate(c) for m in measured]) for c in [*measured[0].seconds, "torch"]}
    best = np.array([m.best_peer() for m in measured])
    columns = [
        Column("layer", [m.layer for m in measured]),
        Column("N, C, H, K, k, s", [", ".join(map(str, shape)) for shape in shapes]),
        *(Column(contender, rates[contender], ".0f") for contender in measured[0].seconds),
    ]
    for own in (c for c in measured[0].seconds if c.startswith("slidedot")):
        label = own.removeprefix("slidedot").lstrip()
        columns += [
            Column(f"{label} ms", [1e3 * m.seconds[own] for m in measured], ".3g"),
            Column(f"{label} / peak", rates[own] / peak, ".2f"),
            Column(f"{label} / torch", rates[own] / rates["torch"], ".2f", summed_up=True),
            Column(f"{label} / best peer", rates[own] / best, ".2f", summed_up=True),
        ]
    return columns


def accuracy(measured):
    """Return the columns of the error table."""
    errors = (Column(c, [m.errors[c] for m in measured], ".1e") for c in measured[0].errors)
    return [Column("layer", [m.layer for m in measured]), *errors]


def render(columns, markdown=False):
    """Return a table as text; a dash stands for NaN."""

    def cell(value, form):
        return "-" if value != value else format(value, form)

    rows = [[column.title.strip() for column in columns]]
    rows += zip(*([cell(v, c.form) for v in c.values] for c in columns), strict=True)
    if any(column.summed_up for column in columns):
        for title, summary in (("geometric mean", statistics.geometric_mean), ("minimum", min)):
            sums = (cell(summary(c.values), c.form) if c.summed_up else "" for c in columns[1:])
            rows.append([title, *sums])
    if markdown:
        rows.insert(1, ["---:" if column.form else "---" for column in columns])
        return "\n".join(f"| {' | '.join(row)} |" for row in rows)
    widths = [max(map(len, texts)) for texts in zip(*rows, strict=True)]
    aligned = [f"{'>' if c.form else '<'}{w}" for c, w in zip(columns, widths, strict=True)]
    return "\n".join("  ".join(map(format, row, aligned)).rstrip() for row in rows)


def bars(measured):
    """Return the chart's GFLOP/s by label: slidedot, torch, and the best of the other peers."""
    return {
        "slidedot": [m.rate("slidedot") for m in measured],
        "torch": [m.rate("torch") for m in measured],
        "best other peer": [m.best_peer(besides=("torch",)) for m in measured],
    }


def draw(file, tables, peak):
    """Draw the bars, one panel for each table."""
    from matplotlib.figure import Figure

    figure = Figure((10, 4.5 * len(tables)), layout="constrained")
    panels = figure.subplots(len(tables), squeeze=False)[:, 0]
    for axes, (title, measured) in zip(panels, tables.items(), strict=True):
        for i, (label, rates) in enumerate(bars(measured).items()):
            axes.bar(np.arange(len(rates)) + 0.28 * (i - 1), rates, 0.28, label=label)
        axes.axhline(peak, color="gray", linestyle=":", label="FMA peak")
        axes.set(title=title, ylabel="GFLOP/s")
        axes.set_xticks(range(len(measured)), [m.layer for m in measured], rotation=40, ha="right")
        axes.legend()
    figure.savefig(file, dpi=150)


def cpu_model():
    """Return the CPU's name as Linux knows it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text("utf-8").splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def selected(text):
    """Return the layers with these numbers, counted from 1, or with these words in their names."""
    numbers, chosen = {str(i): name for i, name in enumerate(LAYERS, 1)}, set()
    for part in text.split(","):
        found = [numbers[part]] if part in numbers else [name for name in LAYERS if part in name]
        if not found:
            raise argparse.ArgumentTypeError(f"no layer {part!r}; there are {', '.join(LAYERS)}")
        chosen.update(found)
    return [name for name in LAYERS if name in chosen]


def arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--backward", action="store_true", help="the gradients instead of the forward pass")
    add("--algorithm", default="auto", help="slidedot's: auto, direct, winograd, ...")
    add("--plan", action="store_true", help="also slidedot's Conv2dPlan")
    add("--layers", type=selected, default=list(LAYERS), help="numbers or parts of names: 1,vgg")
    add("--dtype", choices=TOLERANCE, default="float32")
    add("--threads", type=int, default=1, help="of every contender")
    add("--level", help="slidedot's CPU level, for instance x86-64-v2")
    add("--seconds", type=float, default=3, help="for each layer, shared by all contenders")
    add("--markdown", action="store_true", help="tables for the README")
    add("--chart", metavar="FILE", help="also draw the rates")
    return parser.parse_args(argv)


def heading(argv, settings, level, peak):
    """Return a line that says what was measured, where, and how to measure it again."""
    peers = [name for name in ("torch", "onnxruntime", "openvino", "ncnn") if sys.modules.get(name)]
    versions = (f"{name} {version(name)}" for name in ("slidedot", "numpy", *peers))
    threads = f"{settings.threads} thread{'s' if settings.threads > 1 else ''}"
    command = " ".join(["python asv_bench/compare.py", *argv])
    return (
        f"{date.today()}, {cpu_model()}, {threads}, {settings.dtype}, FMA peak {peak:.0f} GFLOP/s; "
        f"{', '.join(versions)}; CPU level {level}: `{command}`"
    )


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    settings = arguments(argv)
    if settings.level:
        os.environ["SLIDEDOT_CPU_LEVEL"] = settings.level
    import slidedot as sd
    from slidedot import _dispatch

    sd.set_num_threads(settings.threads)
    fma_peak = partial(_dispatch.kernels.tile.peak, 0.2, settings.dtype == "float64")
    peak, tables = fma_peak(), {}
    for family in BACKWARD if settings.backward else FORWARD:
        field = contenders(family, settings)
        tables[family.title] = []
        for name in settings.layers:
            print(f"{family.title}: {name}", file=sys.stderr)
            tables[family.title].append(measure(name, family, field, settings))
    peak = settings.threads * max(peak, fma_peak())
    print(heading(argv, settings, _dispatch.kernels.level, peak))
    for title, measured in tables.items():
        print(f"\n{title}, GFLOP/s", render(speed(measured, peak), settings.markdown), sep="\n\n")
        print("\nLargest error", render(accuracy(measured), settings.markdown), sep="\n\n")
    if settings.chart:
        draw(settings.chart, tables, peak)


if __name__ == "__main__":
    main()

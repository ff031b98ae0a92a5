"""slidedot beside its peers, layer by layer, measured in turn in one process.

    pip install ".[compare]"
    python asv_bench/compare.py                          # forward, one thread
    python asv_bench/compare.py --backward --layers vgg  # the gradients, layers named vgg
    python asv_bench/compare.py --depthwise              # a filter per channel, all directions
    python asv_bench/compare.py --pool                   # max pooling and its gradient
    python asv_bench/compare.py --average                # average pooling and its gradient
    python asv_bench/compare.py --columns                # im2col and col2im
    python asv_bench/compare.py --algorithms             # slidedot's own beside each other
    python asv_bench/compare.py --markdown --chart speed.png

Each round gives every contender a turn, so that what else the machine does hits all alike; the
shortest call counts. A contender prepares its weights beforehand where its library has a place for
that (a session, a compiled model, a plan), else within each call. Rates count the multiply-adds of
the plain convolution, twice, whatever the algorithm does: Winograd may exceed the peak. Pooling and
columns count the bytes of input and output, once each and without the places of the maxima: what
stays in a cache may exceed the memory's rate.
"""

import argparse
import math
import os
import platform
import statistics
import sys
import time
from datetime import date
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
from benchmarks.shapes import Layer
from contenders import FLOAT32_ONLY, Arrays
from families import FAMILIES, FLOPS, Family

ROUNDS = 7
SETTLE = 0.01  # seconds between turns, in which threads that wait by spinning fall asleep
PEAK_SECONDS = 0.2  # for the peak, before and after the layers

#: A larger error, relative to the largest result, means another computation: float16, or a mistake.
TOLERANCE = {"float32": 1e-4, "float64": 1e-12}


# Measuring


def fastest(rates):
    """Return the largest rate that is one, NaN where there is none."""
    return max((rate for rate in rates if not math.isnan(rate)), default=math.nan)


class Measured(NamedTuple):
    """A layer, its work in GFLOP or GB, and by contender the seconds and errors: NaN where the
    contender does not serve it."""

    name: str
    layer: Layer
    work: float
    seconds: dict
    errors: dict

    def rate(self, contender):
        """GFLOP/s or GB/s."""
        return self.work / self.seconds.get(contender, math.nan)

    def best_peer(self, besides=()):
        """The fastest one's rate, NaN where there is none."""
        peers = (c for c in self.seconds if not c.startswith("slidedot") and c not in besides)
        return fastest(map(self.rate, peers))


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
    layer, rng = family.layers[name], np.random.default_rng(0)
    output = getattr(layer, family.output)
    shapes = layer.x, layer.weight, layer.filters, output
    arrays = Arrays(*(rng.standard_normal(shape).astype(settings.dtype) for shape in shapes))

    def run(prepare, arrays):
        call, results = prepare(layer, arrays)
        return call, results(call())

    _, exact = run(family.exact, Arrays(*(array.astype(np.float64) for array in arrays)))
    tolerance = TOLERANCE[settings.dtype] if family.tolerance is None else family.tolerance
    calls, errors = {}, dict.fromkeys([c.name for c in field], math.nan)
    for contender, prepare in ((c.name, c.prepare) for c in field if c.serves(layer)):
        calls[contender], results = run(prepare, arrays)
        errors[contender] = max(
            np.abs(r - e).max() / np.abs(e).max() for r, e in zip(results, exact, strict=True)
        )
        if not errors[contender] <= tolerance:
            sys.exit(f"{contender} computes {name} wrongly: its error is {errors[contender]}")
    work = family.rate.work(layer, output, arrays.x.itemsize) / 1e9
    seconds = dict.fromkeys(errors, math.nan) | shortest(calls, settings.seconds)
    return Measured(name, layer, work, seconds, errors)


# Reporting


class Table(NamedTuple):
    family: Family
    measured: list


class Column(NamedTuple):
    """A table's column; `summed_up` by geometric mean and minimum where these make sense."""

    title: str
    values: list
    form: str = ""
    summed_up: bool = False


def sizes(layer, axes):
    """Return a layer's sizes as text."""
    letters = dict(zip("NCHW", layer.x, strict=True))
    letters |= {"K": layer.filters, "k": layer.kernel, "s": layer.stride, "p": layer.padding}
    return ", ".join(str(letters[axis]) for axis in axes.split(", "))


def speed(family, measured, peak):
    """Return the columns of the speed table; `peak` in GFLOP/s."""
    form = family.rate.form
    rates = {c: np.array([m.rate(c) for m in measured]) for c in [*measured[0].seconds, "torch"]}
    columns = [
        Column("layer", [m.name for m in measured]),
        Column(family.axes, [sizes(m.layer, family.axes) for m in measured]),
        *(Column(contender, rates[contender], form) for contender in measured[0].seconds),
    ]
    if family.by_algorithm:
        ratios = rates["auto"] / [fastest(map(m.rate, m.seconds)) for m in measured]
        return [*columns, Column("auto / best", ratios, ".2f", summed_up=True)]
    best = np.array([m.best_peer() for m in measured])
    for own in (c for c in measured[0].seconds if c.startswith("slidedot")):
        label = own.removeprefix("slidedot").lstrip()
        columns.append(Column(f"{label} ms", [1e3 * m.seconds[own] for m in measured], ".3g"))
        if family.rate is FLOPS:
            columns.append(Column(f"{label} / peak", rates[own] / peak, ".2f"))
        columns += [
            Column(f"{label} / torch", rates[own] / rates["torch"], ".2f", summed_up=True),
            Column(f"{label} / best peer", rates[own] / best, ".2f", summed_up=True),
        ]
    return columns


def accuracy(measured):
    """Return the columns of the error table."""
    errors = (Column(c, [m.errors[c] for m in measured], ".1e") for c in measured[0].errors)
    return [Column("layer", [m.name for m in measured]), *errors]


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


def bars(family, measured):
    """Return the chart's rates by label: slidedot, torch and the best of the other peers, or each
    algorithm."""
    if family.by_algorithm:
        return {name: [m.rate(name) for m in measured] for name in measured[0].seconds}
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
    for axes, (family, measured) in zip(panels, tables, strict=True):
        groups = bars(family, measured)
        width = 0.84 / len(groups)
        for i, (label, rates) in enumerate(groups.items()):
            places = np.arange(len(rates)) + width * (i - (len(groups) - 1) / 2)
            axes.bar(places, rates, width, label=label)
        if family.rate is FLOPS:
            axes.axhline(peak, color="gray", linestyle=":", label="FMA peak")
        axes.set(title=family.title, ylabel=family.rate.unit)
        axes.set_xticks(range(len(measured)), [m.name for m in measured], rotation=40, ha="right")
        axes.legend()
    figure.savefig(file, dpi=150)


def cpu_model():
    """Return the CPU's name as Linux knows it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text("utf-8").splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def selected(text, layers):
    """Return the layers with these numbers, counted from 1, or with these words in their names."""
    numbers, found = {str(i): name for i, name in enumerate(layers, 1)}, set()
    for part in text.split(","):
        hits = [numbers[part]] if part in numbers else [name for name in layers if part in name]
        if not hits:
            raise argparse.ArgumentTypeError(f"no layer {part!r}; there are {', '.join(layers)}")
        found.update(hits)
    return [name for name in layers if name in found]


def arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add, one_of = parser.add_argument, parser.add_mutually_exclusive_group().add_argument
    for table, text in (
        ("pool", "max pooling with and without argmax, and its gradient"),
        ("average", "average pooling and its gradient"),
        ("columns", "im2col and col2im"),
        ("transposed", "transposed convolutions, listed as the convolutions that they transpose"),
        ("depthwise", "convolutions with a filter per channel, and their gradients"),
        ("algorithms", "slidedot's algorithms beside each other; with --backward for gradients"),
    ):
        one_of(f"--{table}", dest="table", action="store_const", const=table, help=text)
    add("--backward", action="store_true", help="the gradients instead of the forward pass")
    add("--algorithm", default="auto", help="slidedot's: auto, direct, winograd, ...")
    add("--plan", action="store_true", help="also slidedot's Conv2dPlan")
    add("--layers", default="", help="numbers or parts of names: 1,vgg")
    add("--dtype", choices=TOLERANCE, default="float32")
    add("--threads", type=int, default=1, help="of every contender")
    add("--level", help="slidedot's CPU level, for instance x86-64-v2")
    add("--seconds", type=float, default=3, help="for each layer, shared by all contenders")
    add("--markdown", action="store_true", help="tables for docs/performance.md")
    add("--chart", metavar="FILE", help="also draw the rates")
    parser.set_defaults(table="layers")
    settings = parser.parse_args(argv)
    settings.families = FAMILIES.get((settings.table, settings.backward))
    if settings.families is None:
        parser.error(f"--{settings.table} shows the gradients without --backward")
    try:
        settings.layers = selected(settings.layers, settings.families[0].layers)
    except argparse.ArgumentTypeError as reason:
        parser.error(str(reason))
    return settings


def heading(program, argv, settings, level, peak):
    """Return a line that says what was measured, where, and how to measure it again."""
    peers = [name for name in ("torch", "onnxruntime", "openvino", "ncnn") if sys.modules.get(name)]
    versions = (f"{name} {version(name)}" for name in ("slidedot", "numpy", *peers))
    threads = f"{settings.threads} thread{'s' if settings.threads > 1 else ''}"
    command = " ".join([f"python asv_bench/{program}.py", *argv])
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
    fma_peak = partial(_dispatch.kernels.tile.peak, PEAK_SECONDS, settings.dtype == "float64")
    peak, tables = fma_peak(), []
    for family in settings.families:
        field, measured = contenders(family, settings), []
        for name in settings.layers:
            print(f"{family.title}: {name}", file=sys.stderr)
            measured.append(measure(name, family, field, settings))
        tables.append(Table(family, measured))
    peak = settings.threads * max(peak, fma_peak())
    print(heading("compare", argv, settings, _dispatch.kernels.level, peak))
    for family, measured in tables:
        table = render(speed(family, measured, peak), settings.markdown)
        print(f"\n{family.title}, {family.rate.unit}", table, sep="\n\n")
        print("\nLargest error", render(accuracy(measured), settings.markdown), sep="\n\n")
    if settings.chart:
        draw(settings.chart, tables, peak)


if __name__ == "__main__":
    main()

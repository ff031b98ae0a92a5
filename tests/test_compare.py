"""`asv_bench/compare.py`: what its tables say, with no library but slidedot to compare."""

import argparse
import importlib
import math
import sys
from pathlib import Path

import pytest

import slidedot as sd

BENCH = Path(__file__).resolve().parents[1] / "asv_bench"

#: N, C, H, K, k, s of the layers whose limits were measured when the kernels were designed.
LAYERS = [
    (4, 3, 224, 64, 3, 1),
    (1, 64, 224, 64, 3, 1),
    (1, 128, 112, 128, 3, 1),
    (1, 256, 56, 256, 3, 1),
    (1, 512, 28, 512, 3, 1),
    (1, 512, 14, 512, 3, 1),
    (4, 3, 224, 64, 7, 2),
    (8, 64, 56, 64, 3, 1),
    (8, 64, 56, 256, 1, 1),
    (8, 128, 56, 128, 3, 2),
    (8, 256, 14, 1024, 1, 1),
    (8, 512, 7, 512, 3, 1),
    (128, 1, 28, 6, 5, 1),
    (128, 6, 14, 16, 5, 1),
    (64, 3, 32, 32, 5, 1),
    (100, 3, 31, 25, 3, 2),
    (8, 3, 227, 96, 11, 4),
]


@pytest.fixture(scope="module")
def compare():
    """The program, as a module; the environment stays as it is."""
    with pytest.MonkeyPatch.context() as patch:
        for variable in ("OMP_NUM_THREADS", "SLIDEDOT_NUM_THREADS"):  # which `benchmarks` sets
            patch.setenv(variable, "1")
        patch.syspath_prepend(BENCH)
        yield importlib.import_module("compare")


@pytest.fixture(scope="module")
def forward(compare):
    return compare.FAMILIES["layers", False][0]


@pytest.fixture(scope="module")
def measured(compare, forward):
    """Two layers."""
    return [
        compare.Measured(
            "lenet-2",
            forward.layers["lenet-2"],
            0.06144,
            {"slidedot": 1e-3, "torch": 2e-3, "torch NHWC": 4e-3, "ncnn": 5e-4},
            {"slidedot": 1e-7, "torch": 2e-7, "torch NHWC": 2e-7, "ncnn": 3e-6},
        ),
        compare.Measured(
            "resnet-1x1",
            forward.layers["resnet-1x1"],
            0.8220836,
            {"slidedot": 1e-2, "torch": 8e-2, "torch NHWC": 4e-2, "ncnn": 5e-2},
            {"slidedot": 1e-7, "torch": 2e-7, "torch NHWC": 2e-7, "ncnn": 3e-6},
        ),
    ]


def test_layers_are_those_of_the_design(forward):
    layers = forward.layers.values()
    assert [(*layer[:5], layer.stride) for layer in layers] == LAYERS


def work(family, name):
    layer = family.layers[name]
    return family.rate.work(layer, getattr(layer, family.output), 4)


def test_rates_count_two_for_each_multiply_add(compare, forward, measured):
    assert work(forward, "lenet-2") == 2 * 128 * 16 * 10 * 10 * 6 * 5 * 5
    assert work(forward, "resnet-1x1") == 2 * 8 * 256 * 56 * 56 * 64
    for depthwise in compare.FAMILIES["depthwise", False]:
        assert work(depthwise, "mobilenet-down") == 2 * 8 * 144 * 28 * 28 * 3 * 3
    lenet, resnet = measured
    assert lenet.rate("slidedot") == pytest.approx(61.44)
    assert resnet.rate("ncnn") == pytest.approx(16.441672)


def test_rates_count_the_bytes_of_input_and_output(compare):
    for pooling in compare.FAMILIES["pool", False]:
        assert work(pooling, "portrait") == 4 * 16 * (1500 * 1000 + 750 * 500)
    for columns in compare.FAMILIES["columns", False]:
        assert work(columns, "lenet-2") == 4 * 128 * 6 * (14 * 14 + 25 * 10 * 10)


def test_the_best_peer_is_not_slidedot(measured):
    lenet, resnet = measured
    assert lenet.best_peer() == lenet.rate("ncnn")
    assert resnet.best_peer() == resnet.rate("torch NHWC")
    assert resnet.best_peer(besides=("torch", "torch NHWC")) == resnet.rate("ncnn")


def columns_by_title(columns):
    return {column.title.strip(): column for column in columns}


def test_speed_holds_ratios_of_the_rates(compare, forward, measured):
    columns = columns_by_title(compare.speed(forward, measured, 100))
    assert list(columns) == [
        *("layer", "N, C, H, K, k, s", "slidedot", "torch", "torch NHWC", "ncnn"),
        *("ms", "/ peak", "/ torch", "/ best peer"),
    ]
    assert columns["N, C, H, K, k, s"].values == ["128, 6, 14, 16, 5, 1", "8, 64, 56, 256, 1, 1"]
    assert columns["ms"].values == pytest.approx([1, 10])
    assert columns["/ peak"].values == pytest.approx([0.6144, 0.8220836])
    assert columns["/ torch"].values == pytest.approx([2, 8])
    assert columns["/ best peer"].values == pytest.approx([0.5, 4])


def test_bytes_have_no_peak(compare, measured):
    pooling = compare.FAMILIES["pool", False][0]
    portrait = measured[0]._replace(name="portrait", layer=pooling.layers["portrait"])
    columns = columns_by_title(compare.speed(pooling, [portrait], 100))
    assert columns["N, C, H, W, k, s, p"].values == ["1, 16, 1500, 1000, 2, 2, 0"]
    assert list(columns)[-3:] == ["ms", "/ torch", "/ best peer"]
    assert columns["slidedot"].form == ".2f"


@pytest.fixture(scope="module")
def by_algorithm(compare, measured):
    """Where "auto" chose well, and where winograd does not serve and it chose badly."""
    seconds = (
        {"auto": 2e-3, "direct": 4e-3, "winograd": 2e-3, "im2col": 5e-3},
        {"auto": 4e-3, "direct": 4e-3, "winograd": math.nan, "im2col": 2e-3},
    )
    return [m._replace(seconds=s, errors=s) for m, s in zip(measured, seconds, strict=True)]


def test_auto_is_compared_with_the_best_algorithm(compare, by_algorithm):
    family = compare.FAMILIES["algorithms", False][0]
    lines = compare.render(compare.speed(family, by_algorithm, 100)).splitlines()
    assert lines[0].endswith("auto  direct  winograd  im2col  auto / best")
    assert [line.split()[-2:] for line in lines[1:3]] == [["12", "1.00"], ["411", "0.50"]]
    assert lines[2].split()[-3] == "-"
    assert lines[-1].split() == ["minimum", "0.50"]
    assert compare.render(compare.accuracy(by_algorithm)).splitlines()[2].split()[-2] == "-"


def test_a_plan_has_columns_of_its_own(compare, forward, measured):
    planned = [m._replace(seconds={**m.seconds, "slidedot plan": 5e-4}) for m in measured]
    columns = columns_by_title(compare.speed(forward, planned, 100))
    assert columns["/ torch"].values == pytest.approx([2, 8])
    assert columns["plan / torch"].values == pytest.approx([4, 160])
    assert columns["plan / best peer"].values == pytest.approx([1, 80])


def test_the_last_rows_are_geometric_mean_and_minimum(compare, forward, measured):
    lines = compare.render(compare.speed(forward, measured, 100)).splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["layer", "lenet-2", "resnet-1x1"]
    assert lines[-2].split() == ["geometric", "mean", "4.00", "1.41"]  # sqrt(2 * 8), sqrt(0.5 * 4)
    assert lines[-1].split() == ["minimum", "2.00", "0.50"]
    assert len({len(line) for line in lines}) == 1  # the numbers are aligned to the right


def test_accuracy_has_one_column_for_each_contender(compare, measured):
    lines = compare.render(compare.accuracy(measured)).splitlines()
    assert lines[0].split() == ["layer", "slidedot", "torch", "torch", "NHWC", "ncnn"]
    assert lines[1].split() == ["lenet-2", "1.0e-07", "2.0e-07", "2.0e-07", "3.0e-06"]
    assert len(lines) == 3


def test_markdown_is_a_rectangle(compare, forward, measured):
    text = compare.render(compare.speed(forward, measured, 100), markdown=True)
    rows = [line.strip("|").split(" | ") for line in text.splitlines()]
    assert {len(row) for row in rows} == {10}
    assert [cell.strip() for cell in rows[1]] == ["---"] * 2 + ["---:"] * 8
    assert [row[0].strip() for row in rows[2:]] == [
        *("lenet-2", "resnet-1x1", "geometric mean", "minimum")
    ]
    assert all(line.startswith("| ") and line.endswith(" |") for line in text.splitlines())


def test_without_peers_the_ratios_are_dashes(compare, forward, measured):
    alone = [m._replace(seconds={"slidedot": m.seconds["slidedot"]}) for m in measured]
    lines = compare.render(compare.speed(forward, alone, 100)).splitlines()
    assert [line.split()[-2:] for line in lines[1:]] == [["-", "-"]] * 4


def test_contenders_take_turns(compare, monkeypatch):
    """Each turn is one call that is not timed and at least one that is."""
    monkeypatch.setattr(compare, "SETTLE", 0)
    order = []
    calls = {name: lambda name=name: order.append(name) for name in "abc"}
    best = compare.shortest(calls, 1e-9, rounds=3)
    assert order == ["a", "a", "b", "b", "c", "c"] * 3
    assert list(best) == ["a", "b", "c"]
    assert all(0 <= seconds < 1 for seconds in best.values())


def test_layers_are_selected_by_number_or_by_name(compare, forward):
    names = list(forward.layers)

    def selected(text):
        return compare.selected(text, forward.layers)

    assert selected("") == names
    assert selected("17,1") == [names[0], names[16]]
    assert selected("lenet,2") == ["vgg-2", "lenet-1", "lenet-2"]
    assert len(selected("vgg")) == 6
    for text in ("0", "18", "lenet,none"):
        with pytest.raises(argparse.ArgumentTypeError, match="there are vgg-1-n4, "):
            selected(text)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("--pool --layers vgg-2", "no layer 'vgg-2'; there are vgg-batch, alexnet-batch, lenet, "),
        ("--pool --columns", "--columns: not allowed with argument --pool"),
        ("--columns --backward", "--columns shows the gradients without --backward"),
    ],
)
def test_wrong_options_are_refused(compare, capsys, argv, message):
    with pytest.raises(SystemExit):
        compare.arguments(argv.split())
    assert message in capsys.readouterr().err


@pytest.fixture
def without_peers(monkeypatch):
    for peer in ("torch", "onnx", "onnxruntime", "openvino", "ncnn", "threadpoolctl"):
        monkeypatch.setitem(sys.modules, peer, None)  # importing it now fails


GFLOPS, GBS = "GFLOP/s", "GB/s of input and output"


@pytest.mark.parametrize(
    ("argv", "layers", "titles"),
    [
        (
            "--backward --layers lenet",
            ["lenet-1", "lenet-2"],
            [f"Gradient for x, {GFLOPS}", f"Gradient for weight and bias, {GFLOPS}"],
        ),
        ("--transposed --layers fcn", ["fcn-8x"], [f"Transposed convolution, {GFLOPS}"]),
        (
            "--depthwise --layers 14",
            ["mobilenet-14"],
            [
                f"Depthwise, {GFLOPS}",
                f"Depthwise, gradient for x, {GFLOPS}",
                f"Depthwise, gradient for weight, {GFLOPS}",
            ],
        ),
        (
            "--pool --layers lenet",
            ["lenet"],
            [
                f"Max pooling with argmax, {GBS}",
                f"Max pooling without argmax, {GBS}",
                f"Max pooling, backward, {GBS}",
            ],
        ),
        (
            "--average --layers lenet",
            ["lenet"],
            [f"Average pooling, {GBS}", f"Average pooling, backward, {GBS}"],
        ),
        ("--columns --layers lenet", ["lenet-2"], [f"im2col, {GBS}", f"col2im, {GBS}"]),
        ("--algorithms --layers 12,14", ["resnet-last", "lenet-2"], [f"Forward, {GFLOPS}"]),
        (
            "--algorithms --backward --layers 14",
            ["lenet-2"],
            [f"Gradient for x, {GFLOPS}", f"Gradient for weight and bias, {GFLOPS}"],
        ),
    ],
)
def test_the_program_runs_without_peers(
    compare, capsys, monkeypatch, without_peers, argv, layers, titles
):
    for pause in ("SETTLE", "PEAK_SECONDS"):
        monkeypatch.setattr(compare, pause, 1e-3)
    with sd.num_threads(1):
        compare.main([*argv.split(), "--seconds", "0.01"])
    printed = capsys.readouterr()
    assert " is left out: " in printed.err
    heading, *tables = printed.out.split("\n\n")
    assert f"`python asv_bench/compare.py {argv} --seconds 0.01`" in heading
    expected = [part for title in titles for part in (title, "Largest error")]
    assert [table.splitlines()[0] for table in tables[::2]] == expected
    for table in tables[3::4]:  # the errors
        assert [line.split()[0] for line in table.splitlines()] == ["layer", *layers]


@pytest.mark.parametrize(
    ("table", "number", "layer", "which"),
    [
        ("layers", 0, "lenet-2", 0),
        ("pool", 0, "lenet", 0),
        ("pool", 0, "lenet", 1),
        ("pool", 1, "lenet", 0),
        ("pool", 2, "lenet", 0),
        ("average", 0, "lenet", 0),
        ("average", 1, "lenet", 0),
        ("columns", 0, "lenet-2", 0),
        ("columns", 1, "lenet-2", 0),
    ],
)
def test_a_wrong_result_ends_the_program(compare, without_peers, table, number, layer, which):
    """No table is printed of a contender that computes something else: here one number of one of
    its results."""
    family = compare.FAMILIES[table, False][number]
    settings = compare.arguments([])
    (right,) = compare.contenders(family, settings)

    def prepare(layer, arrays):
        call, results = right.prepare(layer, arrays)

        def wrong(outcome):
            changed = [result.copy() for result in results(outcome)]
            changed[which].flat[5] += 1
            return changed

        return call, wrong

    with pytest.raises(SystemExit, match=rf"wrong computes {layer} wrongly: its error is 0\.\d"):
        compare.measure(layer, family, [right._replace(name="wrong", prepare=prepare)], settings)


def test_peers_that_lack_the_dtype_are_left_out(compare, forward, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)
    field = compare.contenders(forward, compare.arguments(["--dtype", "float64"]))
    assert [contender.name for contender in field] == ["slidedot"]
    assert capsys.readouterr().err.splitlines()[1:] == [
        f"{peer} is left out: it computes in float32 only"
        for peer in ("onnxruntime", "OpenVINO", "ncnn")
    ]


def test_the_chart_shows_each_algorithm(compare, by_algorithm):
    bars = compare.bars(compare.FAMILIES["algorithms", False][0], by_algorithm)
    assert list(bars) == ["auto", "direct", "winograd", "im2col"]
    assert bars["auto"] == [m.rate("auto") for m in by_algorithm]


def test_the_chart_shows_torch_and_the_best_of_the_others(compare, forward, measured):
    lenet, resnet = measured
    assert compare.bars(forward, measured) == {
        "slidedot": [lenet.rate("slidedot"), resnet.rate("slidedot")],
        "torch": [lenet.rate("torch"), resnet.rate("torch")],
        "best other peer": [lenet.rate("ncnn"), resnet.rate("torch NHWC")],
    }

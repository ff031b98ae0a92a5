"""`asv_bench/compare.py`: what its tables say, with no library but slidedot to compare."""

import argparse
import importlib
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
def measured(compare):
    """Two layers: lenet-2 of 0.0614 GFLOP and resnet-1x1 of 0.8221."""
    return [
        compare.Measured(
            "lenet-2",
            {"slidedot": 1e-3, "torch": 2e-3, "torch NHWC": 4e-3, "ncnn": 5e-4},
            {"slidedot": 1e-7, "torch": 2e-7, "torch NHWC": 2e-7, "ncnn": 3e-6},
        ),
        compare.Measured(
            "resnet-1x1",
            {"slidedot": 1e-2, "torch": 8e-2, "torch NHWC": 4e-2, "ncnn": 5e-2},
            {"slidedot": 1e-7, "torch": 2e-7, "torch NHWC": 2e-7, "ncnn": 3e-6},
        ),
    ]


def test_layers_are_those_of_the_design(compare):
    layers = compare.LAYERS.values()
    assert [(*layer[:5], layer.stride) for layer in layers] == LAYERS


def test_rates_count_two_for_each_multiply_add(measured):
    lenet, resnet = measured
    assert lenet.rate("slidedot") == pytest.approx(2e-9 * 128 * 16 * 10 * 10 * 6 * 5 * 5 / 1e-3)
    assert resnet.rate("ncnn") == pytest.approx(2e-9 * 8 * 256 * 56 * 56 * 64 / 5e-2)


def test_the_best_peer_is_not_slidedot(measured):
    lenet, resnet = measured
    assert lenet.best_peer() == lenet.rate("ncnn")
    assert resnet.best_peer() == resnet.rate("torch NHWC")
    assert resnet.best_peer(besides=("torch", "torch NHWC")) == resnet.rate("ncnn")


def columns_by_title(columns):
    return {column.title.strip(): column for column in columns}


def test_speed_holds_ratios_of_the_rates(compare, measured):
    columns = columns_by_title(compare.speed(measured, 100))
    assert list(columns) == [
        *("layer", "N, C, H, K, k, s", "slidedot", "torch", "torch NHWC", "ncnn"),
        *("ms", "/ peak", "/ torch", "/ best peer"),
    ]
    assert columns["N, C, H, K, k, s"].values == ["128, 6, 14, 16, 5, 1", "8, 64, 56, 256, 1, 1"]
    assert columns["ms"].values == pytest.approx([1, 10])
    assert columns["/ peak"].values == pytest.approx([0.6144, 0.8220836])
    assert columns["/ torch"].values == pytest.approx([2, 8])
    assert columns["/ best peer"].values == pytest.approx([0.5, 4])


def test_a_plan_has_columns_of_its_own(compare, measured):
    planned = [m._replace(seconds={**m.seconds, "slidedot plan": 5e-4}) for m in measured]
    columns = columns_by_title(compare.speed(planned, 100))
    assert columns["/ torch"].values == pytest.approx([2, 8])
    assert columns["plan / torch"].values == pytest.approx([4, 160])
    assert columns["plan / best peer"].values == pytest.approx([1, 80])


def test_the_last_rows_are_geometric_mean_and_minimum(compare, measured):
    lines = compare.render(compare.speed(measured, 100)).splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["layer", "lenet-2", "resnet-1x1"]
    assert lines[-2].split() == ["geometric", "mean", "4.00", "1.41"]  # sqrt(2 * 8), sqrt(0.5 * 4)
    assert lines[-1].split() == ["minimum", "2.00", "0.50"]
    assert len({len(line) for line in lines}) == 1  # the numbers are aligned to the right


def test_accuracy_has_one_column_for_each_contender(compare, measured):
    lines = compare.render(compare.accuracy(measured)).splitlines()
    assert lines[0].split() == ["layer", "slidedot", "torch", "torch", "NHWC", "ncnn"]
    assert lines[1].split() == ["lenet-2", "1.0e-07", "2.0e-07", "2.0e-07", "3.0e-06"]
    assert len(lines) == 3


def test_markdown_is_a_rectangle(compare, measured):
    text = compare.render(compare.speed(measured, 100), markdown=True)
    rows = [line.strip("|").split(" | ") for line in text.splitlines()]
    assert {len(row) for row in rows} == {10}
    assert [cell.strip() for cell in rows[1]] == ["---"] * 2 + ["---:"] * 8
    assert [row[0].strip() for row in rows[2:]] == [
        *("lenet-2", "resnet-1x1", "geometric mean", "minimum")
    ]
    assert all(line.startswith("| ") and line.endswith(" |") for line in text.splitlines())


def test_without_peers_the_ratios_are_dashes(compare, measured):
    alone = [m._replace(seconds={"slidedot": m.seconds["slidedot"]}) for m in measured]
    lines = compare.render(compare.speed(alone, 100)).splitlines()
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


def test_layers_are_selected_by_number_or_by_name(compare):
    names = list(compare.LAYERS)
    assert compare.selected("17,1") == [names[0], names[16]]
    assert compare.selected("lenet,2") == ["vgg-2", "lenet-1", "lenet-2"]
    assert len(compare.selected("vgg")) == 6
    for text in ("0", "18", "lenet,none"):
        with pytest.raises(argparse.ArgumentTypeError, match="there are vgg-1-n4, "):
            compare.selected(text)


def test_the_program_runs_without_peers(compare, monkeypatch, capsys):
    for peer in ("torch", "onnx", "onnxruntime", "openvino", "ncnn"):
        monkeypatch.setitem(sys.modules, peer, None)  # importing it now fails
    with sd.num_threads(1):
        compare.main(["--backward", "--layers", "lenet", "--seconds", "0.01"])
    printed = capsys.readouterr()
    assert "torch is left out: " in printed.err
    heading, *tables = printed.out.split("\n\n")
    assert "`python asv_bench/compare.py --backward --layers lenet --seconds 0.01`" in heading
    assert [table.splitlines()[0] for table in tables[::2]] == [
        "Gradient for x, GFLOP/s",
        "Largest error",
        "Gradient for weight and bias, GFLOP/s",
        "Largest error",
    ]
    for table in tables[3::4]:  # the errors
        assert [line.split()[0] for line in table.splitlines()] == ["layer", "lenet-1", "lenet-2"]


def test_a_wrong_result_ends_the_program(compare, monkeypatch):
    """No table is printed of a contender that computes something else."""

    def prepare(layer, arrays):
        call, results = compare.slidedot_layer(layer, arrays, (), "auto")
        return call, lambda y: [result * 1.01 for result in results(y)]

    settings = compare.arguments(["--seconds", "0.01"])
    field = [("wrong", prepare)]
    with pytest.raises(SystemExit, match=r"wrong computes lenet-2 wrongly: its error is 0\.0"):
        compare.measure("lenet-2", compare.FORWARD[0], field, settings)


def test_peers_that_lack_the_dtype_are_left_out(compare, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)
    field = compare.contenders(compare.FORWARD[0], compare.arguments(["--dtype", "float64"]))
    assert [contender.name for contender in field] == ["slidedot"]
    assert capsys.readouterr().err.splitlines()[1:] == [
        f"{peer} is left out: it computes in float32 only"
        for peer in ("onnxruntime", "OpenVINO", "ncnn")
    ]


def test_the_chart_shows_torch_and_the_best_of_the_others(compare, measured):
    lenet, resnet = measured
    assert compare.bars(measured) == {
        "slidedot": [lenet.rate("slidedot"), resnet.rate("slidedot")],
        "torch": [lenet.rate("torch"), resnet.rate("torch")],
        "best other peer": [lenet.rate("ncnn"), resnet.rate("torch NHWC")],
    }

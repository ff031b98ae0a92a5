"""`asv_bench/networks.py`: what its table says, with no library but slidedot to compare."""

import argparse
import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

import slidedot as sd
from slidedot.layers import Sequential

BENCH = Path(__file__).resolve().parents[1] / "asv_bench"


@pytest.fixture(scope="module")
def networks():
    """The program, as a module; the environment stays as it is."""
    with pytest.MonkeyPatch.context() as patch:
        for variable in ("OMP_NUM_THREADS", "SLIDEDOT_NUM_THREADS"):  # which `benchmarks` sets
            patch.setenv(variable, "1")
        patch.syspath_prepend(BENCH)
        yield importlib.import_module("networks")


@pytest.mark.parametrize(
    ("name", "parameters", "outputs"),
    [
        ("lenet", 61_706, (10,)),
        ("small-vgg", 1_116_970, (10,)),
        ("vgg16-features", 14_714_688, (512, 7, 7)),
    ],
)
def test_networks_are_those_of_the_field(networks, name, parameters, outputs):
    network = networks.NETWORKS[name]
    model = Sequential(*network.layers(np.random.default_rng(0)))
    assert sum(array.size for array in model.parameters().values()) == parameters
    assert model(np.zeros((0, *network.x[1:]), np.float32)).shape == (0, *outputs)


@pytest.fixture(scope="module")
def measured(networks):
    return [
        networks.Measured(
            "lenet",
            {"slidedot": 2e-3, "torch": 6e-3, "torch NHWC": 8e-3},
            {"torch": 1e-6, "torch NHWC": 2e-6},
        ),
        networks.Measured(
            "vgg16-features",
            {"slidedot": 1e-1, "torch": 5e-1, "torch NHWC": 2e-1},
            {"torch": 3e-6, "torch NHWC": 4e-6},
        ),
    ]


def test_table_holds_ratios_of_the_times(networks, measured):
    columns = {column.title: column.values for column in networks.table(measured)}
    assert columns["network"] == ["lenet", "vgg16-features"]
    assert columns["task"] == ["training step", "forward"]
    assert columns["input"] == ["64, 1, 28, 28", "1, 3, 224, 224"]
    assert columns["slidedot ms"] == pytest.approx([2, 100])
    assert columns["torch NHWC ms"] == pytest.approx([8, 200])
    assert columns["/ torch"] == pytest.approx([3, 5])
    assert columns["/ torch NHWC"] == pytest.approx([4, 2])
    assert columns["difference from torch"] == [1e-6, 3e-6]
    assert columns["difference from torch NHWC"] == [2e-6, 4e-6]


def test_a_training_step_returns_its_loss_and_gradients(networks, monkeypatch):
    """The field's second contender takes the same step, by hand."""
    network, rng = networks.NETWORKS["lenet"], np.random.default_rng(1)
    model = Sequential(*network.layers(rng))
    a = networks.Arrays(
        model.state_dict(), rng.standard_normal(network.x, np.float32), np.arange(64) % 10
    )
    [(_, prepare, *_)] = networks.slidedot_contenders(None)
    step, results = prepare(network, a)
    logits = model.forward(a.x, training=True)
    loss, grad = networks.softmax_cross_entropy(logits, a.labels)
    model.backward(grad)
    expected = [np.float32(loss), *model.grads.values()]
    for got, array in zip(results(step()), expected, strict=True):
        np.testing.assert_array_equal(got, array)
    assert step() < loss  # the weights have moved downhill


def test_another_result_ends_the_program(networks):
    [own] = networks.slidedot_contenders(None)

    def prepare(network, arrays):
        call, results = own.prepare(network, arrays)
        return call, lambda outcome: [array * np.float32(1.01) for array in results(outcome)]

    settings = networks.arguments(["--seconds", "0.01"])
    with pytest.raises(SystemExit, match=r"wrong differs on lenet, by 0\.0"):
        networks.measure("lenet", [own, ("wrong", prepare)], settings)


def test_networks_are_selected_by_name(networks):
    assert networks.selected("vgg") == ["small-vgg", "vgg16-features"]
    assert networks.selected("16,lenet") == ["lenet", "vgg16-features"]
    with pytest.raises(argparse.ArgumentTypeError, match="there are lenet, small-vgg, vgg16-"):
        networks.selected("lenet,resnet")


def test_the_program_runs_without_torch(networks, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)  # importing it now fails
    with sd.num_threads(1):
        networks.main(["--networks", "lenet", "--seconds", "0.01"])
    printed = capsys.readouterr()
    assert "torch is left out: " in printed.err
    heading, table = printed.out.split("\n\n")
    assert "`python asv_bench/networks.py --networks lenet --seconds 0.01`" in heading
    titles, row = table.splitlines()
    assert titles.split() == ["network", "task", "input", "slidedot", "ms"]
    assert row.split()[:3] == ["lenet", "training", "step"]

"""The CPU level: picked once, at import, and lowered by an environment variable."""

import importlib.metadata
import json
import os
import re
import subprocess
import sys

import pytest

import slidedot as sd
from slidedot import _dispatch

LEVELS = _dispatch.runnable_levels()

#: What an import of the package and a call leave behind, as JSON.
REPORT = """
import json, sys
import numpy as np
import slidedot as sd

y = sd.conv2d(np.ones((1, 1, 3, 3)), np.ones((1, 1, 3, 3)))
assert y == 9, y
modules = [name for name in sys.modules if name.startswith("slidedot._kernels.")]
print(json.dumps([sd.show_config(mode="dicts"), sorted(modules)]))
"""


def report(level):
    """Import the package in a new interpreter with ``SLIDEDOT_CPU_LEVEL=level``."""
    environment = {k: v for k, v in os.environ.items() if k != "SLIDEDOT_CPU_LEVEL"}
    if level is not None:
        environment["SLIDEDOT_CPU_LEVEL"] = level
    return subprocess.run(
        [sys.executable, "-c", REPORT],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,  # emulated, it takes half a minute, and more where others compute
    )


def modules_of(level):
    """Return the full names of a level's kernel modules, and of the probe."""
    kernels = _dispatch.load(level)
    return sorted(
        ["slidedot._kernels.cpu", *(getattr(kernels, f).__name__ for f in _dispatch.FAMILIES)]
    )


def test_some_level_runs_here():
    assert LEVELS
    assert set(LEVELS) <= set(_dispatch.built_levels()) <= set(_dispatch.LEVELS)
    assert sorted(LEVELS, key=_dispatch.LEVELS.index) == LEVELS  # best first


@pytest.mark.parametrize("level", LEVELS)
def test_level_is_picked_by_the_environment(level):
    """And no module of another level is imported: its mere initialisation may be illegal."""
    result = report(level)
    config, modules = json.loads(result.stdout)
    assert config["cpu_level"] == level
    assert modules == modules_of(level)


@pytest.mark.parametrize("level", [None, ""])
def test_best_level_is_the_default(level):
    config, modules = json.loads(report(level).stdout)
    assert config["cpu_level"] == LEVELS[0]
    assert modules == modules_of(LEVELS[0])


@pytest.mark.parametrize(
    "level", ["x86-64-v9", "avx2", "X86-64-V2", *sorted(set(_dispatch.LEVELS) - set(LEVELS))]
)
def test_level_that_does_not_run_is_refused(level):
    result = report(level)
    assert result.returncode != 0
    error = result.stderr.splitlines()[-1]
    assert re.match(rf"ImportError: .*SLIDEDOT_CPU_LEVEL={level!r}", error), result.stderr
    assert all(known in error for known in LEVELS)


def test_each_level_has_modules_of_its_own():
    modules = [getattr(_dispatch.load(level), f) for level in LEVELS for f in _dispatch.FAMILIES]
    assert len({id(module) for module in modules}) == len(modules)
    assert len({module.__name__ for module in modules}) == len(modules)
    assert len({module.__file__ for module in modules}) == len(modules)


# ------------------------------------------------------------------------------ show_config


def test_config_as_a_dictionary():
    config = sd.show_config(mode="dicts")
    assert config == {
        "version": importlib.metadata.version("slidedot"),
        "cpu_level": _dispatch.kernels.level,
        "levels_built": _dispatch.built_levels(),
        "levels_runnable": LEVELS,
        "threads": sd.get_num_threads(),
        "openmp": config["openmp"],
    }
    assert config["openmp"] in (None, "libgomp", "libomp")
    with sd.num_threads(3):
        assert sd.show_config(mode="dicts")["threads"] == 3


def test_config_is_printed(capsys):
    assert sd.show_config() is None
    printed = capsys.readouterr().out
    lines = dict(line.split(":", 1) for line in printed.splitlines())
    lines = {name: text.strip() for name, text in lines.items()}
    config = sd.show_config(mode="dicts")
    assert lines == {
        name: ", ".join(value) if isinstance(value, list) else str(value)
        for name, value in config.items()
    }


@pytest.mark.parametrize("mode", ["dict", "", None, 1, object()])
def test_unknown_mode_is_refused(mode, capsys):
    with pytest.raises(ValueError, match=r"^show_config: mode must be 'stdout' or 'dicts', got"):
        sd.show_config(mode=mode)
    assert capsys.readouterr().out == ""

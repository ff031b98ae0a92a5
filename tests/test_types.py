"""The hints: mypy accepts a user's program and refuses its wrong calls, and the program runs."""

import os
import runpy
import site
import subprocess
import sys
from pathlib import Path

import pytest

import slidedot as sd

PROGRAM = Path(__file__).with_name("typed_program.py")


def test_the_package_says_that_it_is_typed():
    assert Path(sd.__file__).with_name("py.typed").exists()


def test_mypy_agrees_with_a_users_program(tmp_path):
    pytest.importorskip("mypy")
    environment = dict(os.environ)
    folder = str(Path(sd.__file__).parents[1])
    if folder not in site.getsitepackages():  # an editable install, which mypy does not find
        environment["MYPYPATH"] = folder
    arguments = ["--strict", "--config-file=", f"--cache-dir={tmp_path}", str(PROGRAM)]
    result = subprocess.run(
        [sys.executable, "-m", "mypy", *arguments],
        capture_output=True,
        text=True,
        timeout=600,
        cwd=tmp_path,
        env=environment,
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_program_runs():
    pytest.importorskip("typing_extensions")
    runpy.run_path(str(PROGRAM), run_name="__main__")

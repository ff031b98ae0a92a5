"""The installed package: what it needs, says of itself, and weighs."""

import importlib.metadata
import io
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import slidedot as sd

FOLDER = Path(sd.__file__).parent

#: Names of what the import adds to the interpreter besides what NumPy does. Modules without a
#: file, as Cython's own, are part of their importer.
ADDED = """
import sys
import numpy.typing
before = set(sys.modules)
import slidedot
added = {name for name in set(sys.modules) - before if getattr(sys.modules[name], "__file__", None)}
print(*sorted({name.partition(".")[0] for name in added} - sys.stdlib_module_names))
"""


def test_import_pulls_in_nothing_but_numpy():
    result = subprocess.run(
        [sys.executable, "-c", ADDED], capture_output=True, text=True, timeout=120
    )
    assert set(result.stdout.split()) - {"numpy"} == {"slidedot"}, result.stderr


def test_metadata():
    metadata = importlib.metadata.metadata("slidedot")
    assert metadata["Name"] == "slidedot"
    assert metadata["Version"] == sd.__version__
    assert metadata["License-Expression"] == "BSD-3-Clause"
    assert metadata["Requires-Python"] == ">=3.10"
    requirements = importlib.metadata.requires("slidedot")
    needed = [requirement for requirement in requirements if "extra ==" not in requirement]
    assert [re.match(r"[\w.-]+", requirement)[0] for requirement in needed] == ["numpy"]


def test_package_is_below_two_mebibytes():
    """Compressed, as in a wheel."""
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in FOLDER.rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                archive.write(path)
    kernels = [name for name in archive.namelist() if "_kernels" in name]
    assert len(kernels) > 3  # they were counted
    assert memory.tell() < 2 * 2**20


def test_only_what_runs_is_installed():
    """No sources of the kernels and no tests: those are for the sdist. One .pxd beside its own
    declares what other Cython modules may call."""
    suffixes = {path.suffix for path in FOLDER.rglob("*") if path.is_file()}
    declarations = {path.name for path in FOLDER.rglob("*.pxd")}
    assert declarations == {"__init__.pxd", "c_api.pxd"}
    assert suffixes <= {".py", ".pyc", ".so", ".pyd", ".pxd", ".typed", ".pyi"}

"""The house's rules: who may import whom, and that a family has one name in every place."""

import ast
import re
import sys
from pathlib import Path

import pytest

import slidedot as sd

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "slidedot"

FAMILIES = {"convolution", "columns", "pooling"}
#: Kernels that a family above uses where they serve.
INNER_FAMILIES = {"depthwise", "winograd"}
BELOW_FAMILIES = {"_validation", "_threads", "_dispatch", "_types", "geometry"}

#: What each module may import of this package. A new module needs a line here.
MAY_IMPORT = {
    "__init__": FAMILIES | {"layers", "optim", "_threads", "_dispatch", "geometry"},
    "layers": FAMILIES | {"_buffers", "_validation", "_types", "geometry"},
    "optim": FAMILIES | {"_types", "geometry"},
    "tiled": {"layers", "convolution", "_validation", "_threads", "_types", "geometry"},
    "visualize": {"layers", "convolution", "_validation", "_types", "geometry"},
    "convolution": BELOW_FAMILIES | {"columns"},  # its "im2col" algorithm
    "columns": BELOW_FAMILIES,
    "pooling": BELOW_FAMILIES,
    "_validation": {"_buffers", "_types", "geometry"},
    "_buffers": set(),
    "_threads": {"_kernels", "geometry"},  # the probe, which is no kernel
    "_dispatch": {"_kernels", "_threads", "geometry"},
    "geometry": set(),
    "_types": set(),
    "reference": {"_types", "geometry"},
    "_kernels": set(),
}

#: The compiled modules that are no kernels: what they may import of this package.
COMPILED_MAY_IMPORT = {"c_api": {"_dispatch", "_threads", "convolution"}}  # the choice's constant

#: Modules that may import NumPy. All else comes from the standard library.
USE_NUMPY = set(MAY_IMPORT) - {"__init__", "geometry", "_threads", "_dispatch", "_kernels"}

#: What else the optional modules import, within the functions that need it; extras install it.
EXTRAS = {"tiled": {"dask", "tqdm"}}

#: All functions and types that a user may rely on, by where they are defined.
PUBLIC = {
    "convolution": {
        "conv2d",
        "conv2d_backward",
        "conv_transpose2d",
        "Conv2dGradients",
        "Conv2dPlan",
    },
    "columns": {"im2col", "col2im"},
    "pooling": {
        "avg_pool2d",
        "avg_pool2d_backward",
        "max_pool2d",
        "max_pool2d_backward",
        "max_unpool2d",
    },
    "geometry": {
        "conv_output_size",
        "receptive_field",
        "ReceptiveField",
        "conv2d_parameters",
        "linear_parameters",
    },
    "_threads": {"set_num_threads", "get_num_threads", "num_threads"},
    "_dispatch": {"show_config"},
}

#: What ``import slidedot`` offers besides.
PUBLIC_MODULES = {"layers", "optim"}


def source(module):
    """Return the path of a module or subpackage of ours."""
    path = PACKAGE / f"{module}.py"
    return path if path.exists() else PACKAGE / module / "__init__.py"


def imports(module):
    """Return what a module imports anywhere in it: our modules, and others' top-level names."""
    ours, others = set(), set()
    for node in ast.walk(ast.parse(source(module).read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports here are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            top, _, rest = name.partition(".")
            if top == "slidedot":
                ours.add(rest.split(".")[0] or "__init__")
            else:
                others.add(top)
    return ours, others


def test_every_module_has_its_rule():
    files = {path.stem for path in PACKAGE.glob("*.py")}
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert files | folders == set(MAY_IMPORT)


@pytest.mark.parametrize("module", MAY_IMPORT)
def test_imports_keep_to_the_layers(module):
    ours, others = imports(module)
    assert ours <= MAY_IMPORT[module]
    allowed = {"numpy"} if module in USE_NUMPY else set()
    assert others - sys.stdlib_module_names <= allowed | EXTRAS.get(module, set())


@pytest.mark.parametrize("path", sorted((ROOT / "pyx").glob("*.p*")), ids=lambda path: path.name)
def test_compiled_modules_keep_to_the_layers(path):
    lines = re.findall(r"^ *(?:from|import) +slidedot\b.*", path.read_text("utf-8"), re.MULTILINE)
    ours = set()
    for line in lines:
        module, names = re.fullmatch(r"from slidedot(?:\.(\w+))? import (.+)", line).groups()
        ours |= {module} if module else set(names.split(", "))
    assert ours == COMPILED_MAY_IMPORT.get(path.stem, set())


def test_layers_have_no_cycle():
    """The rules themselves lead downwards only."""
    order = []
    while len(order) < len(MAY_IMPORT):
        free = [m for m in MAY_IMPORT if m not in order and MAY_IMPORT[m] <= set(order)]
        assert free, set(MAY_IMPORT) - set(order)
        order += free


def test_the_import_reader_sees_every_form(tmp_path, monkeypatch):
    """Otherwise the rules above would hold by reading nothing."""
    text = """
import slidedot.a
import slidedot.b as b, numpy.linalg
from slidedot import c, d
from slidedot.e import f
def g():
    from slidedot._kernels import h
    import torch
import slidedot
"""
    (tmp_path / "m.py").write_text(text)
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path)
    assert imports("m") == (
        {"a", "b", "c", "d", "e", "_kernels", "__init__"},
        {"numpy", "torch"},
    )


def test_public_names_are_the_documented_ones():
    names = set().union(*PUBLIC.values())
    assert sorted(sd.__all__) == sorted(names | PUBLIC_MODULES)
    for module, defined in PUBLIC.items():
        assert {getattr(sd, name).__module__ for name in defined} == {f"slidedot.{module}"}
    modules = {module for module in MAY_IMPORT if not module.startswith("_")}
    modules |= set(COMPILED_MAY_IMPORT)
    public = {name for name in vars(sd) if not name.startswith("_")}
    assert public - modules == names


@pytest.mark.parametrize("module", sorted(FAMILIES | {"geometry"}))
def test_modules_declare_the_same_names(module):
    declared = sys.modules[f"slidedot.{module}"].__all__
    assert set(declared) == PUBLIC[module]


def test_a_family_has_one_name_in_every_place():
    kernels = {path.stem for path in (ROOT / "pyx").glob("*.pyx")}
    probes = {"cpu", "tile"}  # of the CPU and of the register tile
    assert kernels == FAMILIES | INNER_FAMILIES | probes | set(COMPILED_MAY_IMPORT)
    for family in FAMILIES:
        assert (PACKAGE / f"{family}.py").exists()
    for family in FAMILIES | INNER_FAMILIES | {"tile"}:
        assert (ROOT / "tests" / f"test_{family}.py").exists()
        assert (ROOT / "asv_bench" / "benchmarks" / f"{family}.py").exists()


def test_setup_is_short():
    assert len((ROOT / "setup.py").read_text("utf-8").splitlines()) < 80

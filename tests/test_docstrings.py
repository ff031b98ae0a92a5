"""Every public name is documented the numpydoc way, and its examples run."""

import doctest
import importlib
import inspect
import pkgutil
import re

import pytest

import slidedot


def public_objects():
    """Return every public function and class, by its full name."""
    modules = [slidedot]
    for found in pkgutil.iter_modules(slidedot.__path__):
        if not found.name.startswith("_"):
            modules.append(importlib.import_module(f"slidedot.{found.name}"))
    objects = {}
    for module in modules:
        for name in module.__all__:
            value = getattr(module, name)
            if not inspect.ismodule(value) and value not in objects.values():
                objects[f"{module.__name__}.{name}"] = value
    return objects


def is_named_tuple(value):
    return inspect.isclass(value) and issubclass(value, tuple)


OBJECTS = public_objects()
FUNCTIONS = {name: value for name, value in OBJECTS.items() if inspect.isfunction(value)}
CLASSES = {name: value for name, value in OBJECTS.items() if inspect.isclass(value)}
EVERY_OBJECT = pytest.mark.parametrize("value", OBJECTS.values(), ids=OBJECTS)


def sections(value):
    """Return the docstring's sections by their headings; what comes first is called ''."""
    parts = re.split(r"^([A-Z][A-Za-z ]*)\n-{3,}$", inspect.getdoc(value), flags=re.MULTILINE)
    return {"": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))}


def names(section):
    """Return the names that a section of parameters describes."""
    heads = re.findall(r"^(\S.*)$", section, flags=re.MULTILINE)
    return [name.strip(" *") for head in heads for name in head.split(" : ")[0].split(",")]


def parameters(value):
    """Return the names in a signature, without `self`."""
    return [name for name in inspect.signature(value).parameters if name != "self"]


def test_there_is_something_to_document():
    assert {"slidedot.conv2d", "slidedot.num_threads"} <= FUNCTIONS.keys()
    assert {"slidedot.Conv2dGradients", "slidedot.ReceptiveField"} <= CLASSES.keys()
    assert "slidedot.reference.conv2d" in FUNCTIONS
    assert len(FUNCTIONS) + len(CLASSES) == len(OBJECTS)


@EVERY_OBJECT
def test_a_summary_comes_first(value):
    assert value.__doc__, "no docstring"
    summary, *rest = inspect.getdoc(value).split("\n")
    assert summary.endswith(".")
    assert not any(rest[:1]), "the summary is one line"


@pytest.mark.parametrize("value", FUNCTIONS.values(), ids=FUNCTIONS)
def test_a_function_says_what_goes_in_and_out(value):
    found = sections(value)
    assert sorted(names(found.get("Parameters", ""))) == sorted(parameters(value))
    if value.__annotations__["return"] != "None":
        assert found["Returns"].strip()
    assert ">>> " in found["Examples"]


@pytest.mark.parametrize("value", FUNCTIONS.values(), ids=FUNCTIONS)
def test_hints_are_shown_as_written(value):
    hints = inspect.unwrap(value).__annotations__
    assert sorted(hints) == sorted([*parameters(value), "return"])
    assert all(isinstance(hint, str) for hint in hints.values())


@pytest.mark.parametrize("value", CLASSES.values(), ids=CLASSES)
def test_a_class_says_what_it_holds(value):
    found = sections(value)
    if is_named_tuple(value):  # the functions that return it show it
        assert names(found["Attributes"]) == list(value._fields)
    else:
        assert sorted(names(found.get("Parameters", ""))) == sorted(parameters(value))
        assert ">>> " in found["Examples"]


@pytest.mark.parametrize("value", CLASSES.values(), ids=CLASSES)
def test_a_class_describes_its_methods(value):
    methods = {
        name: member
        for name, member in vars(value).items()
        if not name.startswith("_") and inspect.isfunction(member)
    }
    # a method may be described where it is declared first
    assert [name for name in methods if not inspect.getdoc(getattr(value, name))] == []


@EVERY_OBJECT
def test_examples_run(value):
    module = inspect.getmodule(inspect.unwrap(value))
    report = []
    runner = doctest.DocTestRunner(verbose=False)
    for example in doctest.DocTestFinder().find(value, module=module, globs=vars(module).copy()):
        runner.run(example, out=report.append)
    assert not report, "".join(report)

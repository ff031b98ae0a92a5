"""The documentation site has a place for every public name."""

import re
from pathlib import Path

import pytest
from test_docstrings import OBJECTS

DOCS = Path(__file__).resolve().parents[1] / "docs"

#: The page of each module, and what it lists: all lines of three spaces and a name.
PAGES = {"slidedot": "api", "slidedot.layers": "layers", "slidedot.optim": "optim",
         "slidedot.reference": "reference"}  # fmt: skip


@pytest.mark.parametrize("module", PAGES)
def test_the_site_lists_every_name(module):
    listed = re.findall(r"^   (\w+)$", (DOCS / f"{PAGES[module]}.md").read_text("utf-8"), re.M)
    public = [name for name in OBJECTS if name.rpartition(".")[0] == module]
    assert sorted(f"{module}.{name}" for name in listed) == sorted(public)


def test_every_module_has_its_page():
    modules = {name.rpartition(".")[0] for name in OBJECTS}
    assert modules == set(PAGES)

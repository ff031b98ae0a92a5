"""The documentation site has a place for every public name."""

import re
from pathlib import Path

import pytest
from test_docstrings import OBJECTS

DOCS = Path(__file__).resolve().parents[1] / "docs"

MODULES = sorted({name.rpartition(".")[0] for name in OBJECTS})


@pytest.mark.parametrize("module", MODULES)
def test_a_modules_page_lists_its_names(module):
    page = "api" if module == "slidedot" else module.replace("slidedot.", "modules/")
    text = (DOCS / f"{page}.md").read_text("utf-8")
    listed = re.findall(r"^   (\w+)$", text, flags=re.MULTILINE)  # by autosummary
    public = [name for name in OBJECTS if name.rpartition(".")[0] == module]
    assert sorted(f"{module}.{name}" for name in listed) == sorted(public)

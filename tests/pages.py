"""The pages of docs/ as doctests: all Python blocks of a page run in order, in one namespace.

A block that begins with a prompt is checked against the output in the text, any other one is run
as it stands. ``python tests/pages.py`` runs the tour and thereby draws its pictures again.
"""

import doctest
import os
import re
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1] / "docs"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def run(page):
    """Run a page; return its namespace, and what did not come out as printed."""
    path = DOCS / page
    text = path.read_text("utf-8")
    names, report = {}, []
    runner = doctest.DocTestRunner(verbose=False)
    for block in BLOCK.finditer(text):
        code, line = block[1], text.count("\n", 0, block.start(1))
        if code.startswith(">>> "):
            test = doctest.DocTestParser().get_doctest(code, {}, page, str(path), line)
            test.globs = names
            runner.run(test, out=report.append, clear_globs=False)
        else:
            exec(compile("\n" * line + code, path, "exec"), names)
    return names, "".join(report)


if __name__ == "__main__":
    os.chdir(DOCS)
    print(run("tour.md")[1])

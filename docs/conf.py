"""The documentation site; building it fetches nothing from the network."""

import slidedot

project = "slidedot"
author = "the slidedot authors"
release = version = slidedot.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.viewcode",
    "numpydoc",
]
exclude_patterns = ["_build"]
templates_path = ["_templates"]
#: Other projects' names stay plain.
nitpick_ignore_regex = [("py:.*", r"(numpy|torch)\..*")]
default_role = "autolink"  # single backticks link where there is something to link to

autosummary_ignore_module_all = False
autodoc_preserve_defaults = True
autodoc_typehints = "none"  # docstrings tell shapes and axes too
numpydoc_show_class_members = False  # the template lists them

#: numpydoc's rules, all but those that ask for another style than this one.
numpydoc_validation_checks = {
    "all",
    "ES01",  # an extended summary everywhere
    "EX01",  # examples of methods: the class shows them in use
    "GL01",  # a summary beside or below the quotes: versions differ
    "PR03",  # the signature's order: arguments of one kind share a line
    "PR04",  # a type for each: "As in `conv2d`" has none
    "PR06",  # "int" for "integer", also in "any integer dtype"
    "SA01",  # "See Also" everywhere
    "YD01",  # "Yields" of a context manager
}
#: Named tuples, whose fields are attributes.
numpydoc_validation_exclude = {r"\.(Conv2dGradients|ReceptiveField)$"}

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = f"slidedot {release}"
html_show_copyright = False
html_static_path = ["_static"]
html_css_files = ["site.css"]

"""How Sphinx builds the site: `sphinx-build -W docs docs/_build`."""

import os
import sys
from pathlib import Path

# For the processes of the pages: they show what comes out, not how fast, so XLA need not optimize.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE / "extensions"), str(HERE.parent)]

import jaxprune  # noqa: E402  (this checkout, wherever another one is installed)

project = "jaxprune"
author = "the jaxprune authors"
copyright = "the jaxprune authors, Apache-2.0"
version = release = jaxprune.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "docstrings",
    "drawn",
    "method_pages",
    "public_names",
    "reference_pages",
    "result_pages",
]
exclude_patterns = ["_build", "_drawn", "jupyter_execute"]
suppress_warnings = ["mystnb.unknown_mime_type"]

# Every page runs from the top in a process of its own; a cell that fails fails the build.
nb_execution_mode = "force"
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_merge_streams = True
myst_enable_extensions = ["attrs_block", "colon_fence", "deflist"]
myst_heading_anchors = 3

default_role = "literal"  # docstrings write code in single backticks
autodoc_preserve_defaults = True  # else the table of rules stands in the signature of `jp.trace`
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
maximum_signature_line_length = 80
napoleon_use_ivar = True
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_title = f"jaxprune {release}"
html_favicon = "_static/icon.svg"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {"source_repository": "", "navigation_with_keys": True}
copybutton_exclude = ".linenos, .gp, .go"

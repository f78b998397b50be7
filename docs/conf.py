"""The site: ``nox -s docs`` builds it into build/site, with warnings as errors."""

from __future__ import annotations

import inspect
import re
from importlib.metadata import version as version_of
from typing import Any

project = "lrcore"
author = "The lrcore developers"
copyright = author
release = version = version_of("lrcore")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx-mathjax-offline",  # equations without a network, for readers behind a proxy and for screenshots alike
    "sphinx_copybutton",
]
exclude_patterns = ["**.in.md"]
html_theme = "furo"
html_title = f"lrcore {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {"navigation_with_keys": True}
html_show_copyright = False
html_show_sourcelink = html_copy_source = False
pygments_style = "friendly"
pygments_dark_style = "monokai"

myst_enable_extensions = ["dollarmath"]
myst_fence_as_directive = ["math"]
myst_heading_anchors = 3

default_role = "literal"  # single backticks name code in NumPy's docstrings
napoleon_numpy_docstring = True
napoleon_google_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
autodoc_typehints = "none"  # the docstrings say what arguments are
autodoc_member_order = "bysource"
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True


suppress_warnings = [
    "ref.python"
]  # words in the types of arguments, such as schedule, name attributes as well

FOLDERS = {"optimizers/index": "[A-Z]*", "schedules": "schedules/[A-Z]*"}
"""For a page the pages below it."""


def for_the_site(_app: Any, name: str, source: list[str]) -> None:
    """Put the pages below a page into its contents, and leave out links to files that are not of the site."""
    source[0] = re.sub(r"\[([^\]]*)\]\((?:\.\./)+(?:[A-Z]+(?:\.md)?)\)", r"\1", source[0])
    if name in FOLDERS:
        source[0] += f"\n```{{toctree}}\n:hidden:\n:glob:\n\n{FOLDERS[name]}\n```\n"


def without_signature(_app: Any, what: str, _name: str, member: Any, _options: Any, lines: list[str]) -> None:
    """Leave out the line with the signature that pybind11 puts first."""
    if what == "method" and not inspect.isfunction(member) and lines and "self: " in lines[0]:
        del lines[:2]


def without_paths(
    _app: Any, _what: str, _name: str, _member: Any, _options: Any, signature: Any, returns: Any
) -> Any:
    """Return modules that are defaults by their names."""
    return signature and re.sub(r"<module '(\w+)' from '[^']*'>", r"\1", signature), returns


def without_others(_app: Any, _what: str, _name: str, member: Any, _skip: bool, _options: Any) -> bool | None:
    """Leave out attributes that are there for the sake of their errors."""
    return True if type(member).__name__ == "_Elsewhere" else None


def setup(app: Any) -> None:
    """Connect what is above."""
    app.connect("source-read", for_the_site)
    app.connect("autodoc-process-docstring", without_signature)
    app.connect("autodoc-process-signature", without_paths)
    app.connect("autodoc-skip-member", without_others)

"""Configuration of the site, which ``nox -s docs`` builds into build/site with warnings as errors."""

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
    "sphinx-mathjax-offline",  # displays equations without network access: behind a proxy, and in screenshots
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
autodoc_typehints = "none"  # the docstrings describe the types
autodoc_member_order = "bysource"
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True


suppress_warnings = [
    "ref.python"
]  # words in the types of arguments, such as schedule, are also names of attributes

FOLDERS = {"optimizers/index": "[A-Z]*", "schedules": "schedules/[A-Z]*"}
"""Maps a page to the pattern of the pages below it."""


def for_the_site(_app: Any, name: str, source: list[str]) -> None:
    """Add the pages below a page to its table of contents, and remove links to files outside the site."""
    source[0] = re.sub(r"\[([^\]]*)\]\((?:\.\./)+(?:[A-Z]+(?:\.md)?)\)", r"\1", source[0])
    if name in FOLDERS:
        source[0] += f"\n```{{toctree}}\n:hidden:\n:glob:\n\n{FOLDERS[name]}\n```\n"


def without_signature(_app: Any, what: str, _name: str, member: Any, _options: Any, lines: list[str]) -> None:
    """Remove the signature line that pybind11 puts first in a docstring."""
    if what == "method" and not inspect.isfunction(member) and lines and "self: " in lines[0]:
        del lines[:2]


def without_paths(
    _app: Any, _what: str, _name: str, _member: Any, _options: Any, signature: Any, returns: Any
) -> Any:
    """Return the signature with modules in its defaults shown by name only."""
    return signature and re.sub(r"<module '(\w+)' from '[^']*'>", r"\1", signature), returns


def without_others(_app: Any, _what: str, _name: str, member: Any, _skip: bool, _options: Any) -> bool | None:
    """Skip attributes that exist only to raise an error."""
    return True if type(member).__name__ == "_Elsewhere" else None


def setup(app: Any) -> None:
    """Connect the event handlers."""
    app.connect("source-read", for_the_site)
    app.connect("autodoc-process-docstring", without_signature)
    app.connect("autodoc-process-signature", without_paths)
    app.connect("autodoc-skip-member", without_others)

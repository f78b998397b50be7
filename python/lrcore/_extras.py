"""Packages that only some functions need: imported when used, and named with the extra that installs them."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def optional_dependency(extra: str) -> Iterator[None]:
    """Say which extra brings what is imported in this block and is not there."""
    try:
        yield
    except ModuleNotFoundError as error:
        module, _, _ = str(error.name).partition(".")
        package = "scikit-learn" if module == "sklearn" else module
        raise ImportError(f'{package} is not installed: pip install "lrcore[{extra}]"') from error


def require_installed(extra: str, *modules: str) -> None:
    """ImportError that names the extra where a module is not there: before work that would need it in the end."""
    with optional_dependency(extra):
        for module in modules:
            importlib.import_module(module)

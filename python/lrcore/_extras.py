"""Packages that only some functions need: imported when used, and named with the extra that installs them.

Also the progress bar that one of them draws.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any


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


@contextmanager
def progress_bar(
    extra: str, total: int, unit: str, *, shown: bool, title: str | None = None, leave: bool = True
) -> Iterator[Any]:
    """Yield a progress bar on stderr, of `total` calls of `update`; or, if it is not `shown`, what takes its calls.

    tqdm, which `extra` installs, is imported only if the bar is shown.
    """
    if not shown:
        yield SimpleNamespace(update=lambda: None, clear=lambda: None)
        return
    with optional_dependency(extra):
        from tqdm import tqdm
    with tqdm(total=total, desc=title, unit=unit, leave=leave) as bar:
        yield bar

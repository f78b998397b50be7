"""Support for optional packages, which are imported when used. Errors name the extra that installs them.

The progress bar, which requires one of these packages, is also here.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any


@contextmanager
def optional_dependency(extra: str) -> Iterator[None]:
    """Raise an ImportError that names the extra if a package imported in this block is not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        module, _, _ = str(error.name).partition(".")
        package = "scikit-learn" if module == "sklearn" else module
        raise ImportError(f'{package} is not installed: pip install "lrcore[{extra}]"') from error


def require_installed(extra: str, *modules: str) -> None:
    """Raise an ImportError that names the extra if a module is not installed.

    Call this before starting work that needs the modules later.
    """
    with optional_dependency(extra):
        for module in modules:
            importlib.import_module(module)


@contextmanager
def progress_bar(
    extra: str, total: int, unit: str, *, shown: bool, title: str | None = None, leave: bool = True
) -> Iterator[Any]:
    """Yield a progress bar on stderr for `total` calls to `update`, or a stand-in that ignores them if not `shown`.

    tqdm, which `extra` installs, is imported only if the bar is shown.
    """
    if not shown:
        yield SimpleNamespace(update=lambda: None, clear=lambda: None)
        return
    with optional_dependency(extra):
        from tqdm import tqdm
    with tqdm(total=total, desc=title, unit=unit, leave=leave) as bar:
        yield bar

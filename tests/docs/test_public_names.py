"""The public names, their arguments and defaults are those in golden/public_names.txt.

After an intended change, ``python tests/docs/test_public_names.py`` rewrites the list. Its diff shows what
changes for users.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import lrcore
from lrcore import bench, demo, functional, optimizers, pack, plot, schedules, tune
from lrcore._names import is_elsewhere

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "public_names.txt"
MODULES = (
    *(lrcore, bench, demo, functional, optimizers, pack, plot, schedules, tune),
    *([importlib.import_module("lrcore.torch")] if find_spec("torch") else []),
)


@dataclasses.dataclass(frozen=True)
class Module:
    """Stands in for a module that is a default value. The module's repr contains a machine-dependent path."""

    name: str

    def __repr__(self) -> str:
        return self.name


def arguments(value: Any) -> str:
    """Return the arguments and defaults of a callable, without annotations, or an empty string."""
    if not callable(value):
        return ""
    try:
        parameters = inspect.signature(value).parameters.values()
    except (TypeError, ValueError):  # a function of the extension, or a type alias
        return ""
    bare = [
        each.replace(
            annotation=each.empty,
            default=Module(each.default.__name__) if inspect.ismodule(each.default) else each.default,
        )
        for each in parameters
    ]
    return re.sub(r" at 0x[0-9a-f]+", "", str(inspect.Signature(bare)))  # from the repr of a function


def attributes(cls: type[Any], listed: dict[Any, str]) -> Iterator[str]:
    """Yield the public methods and properties of a class, except fields and members of listed bases."""
    fields = {*getattr(cls, "__dataclass_fields__", ()), *getattr(cls, "_fields", ())}
    for name in sorted({*dir(cls)} - fields):
        if is_elsewhere(cls, name):
            continue
        owner = next(each for each in cls.__mro__ if name in vars(each))
        is_ours = owner.__module__.startswith("lrcore")
        is_new = not any(
            base in listed and getattr(base, name, None) is getattr(cls, name) for base in cls.__mro__[1:]
        )
        if not name.startswith("_") and is_ours and is_new:
            yield f"{name}{arguments(getattr(cls, name))}"


def names() -> Iterator[str]:
    """Yield a line for each public name of a module, and for each public attribute of its classes."""
    listed: dict[Any, str] = {}
    for module in MODULES:
        public = {name: getattr(module, name) for name in module.__all__}
        # base classes first
        for name, value in sorted(public.items(), key=lambda each: len(getattr(each[1], "__mro__", ()))):
            path = f"{module.__name__}.{name}"
            if not (inspect.isclass(value) or inspect.isfunction(value)):
                yield path
            elif value in listed:
                yield f"{path} = {listed[value]}"
            else:
                listed[value] = path
                yield f"{path}{arguments(value)}"
                if inspect.isclass(value):
                    yield from (f"{path}.{each}" for each in attributes(value, listed))


def text() -> str:
    """Return the list as the text of the file."""
    return "".join(f"{line}\n" for line in sorted(names()))


def test_public_names() -> None:
    golden = GOLDEN.read_text(encoding="utf-8")
    if find_spec("torch") is None:
        golden = re.sub(r"^lrcore\.torch\..*\n", "", golden, flags=re.MULTILINE)
    assert text() == golden, f"if this is intended, run python {Path(__file__).name} with torch installed"


if __name__ == "__main__":
    GOLDEN.write_text(text(), encoding="utf-8")

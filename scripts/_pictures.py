"""What the scripts that draw the pictures of docs/ share: drawing them small, and telling whether they are all there."""

from __future__ import annotations

import importlib
import io
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DPI = 100
"""Of the pictures, in pixels per inch."""
PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"


@dataclass(frozen=True)
class Drawing:
    """A picture."""

    text: str
    """For those who do not see it."""
    draw: Callable[[Any], object]
    """Draws it on an ax."""
    height: int
    """In pixels."""


def draw(drawings: Mapping[str, Drawing], folder: Path, width: int) -> None:
    """Draw the pictures, in few colours, which keeps them small. Needs matplotlib.

    Parameters
    ----------
    drawings : mapping of str to Drawing
        The pictures by name.
    folder : Path
        Where ``<name>.png`` goes; made where it is not there.
    width : int
        Of the pictures, in pixels.
    """
    figures, images = (importlib.import_module(name) for name in ("matplotlib.figure", "PIL.Image"))
    folder.mkdir(exist_ok=True)
    for name, each in drawings.items():
        figure = figures.Figure(figsize=(width / DPI, each.height / DPI), dpi=DPI, layout="constrained")
        each.draw(figure.subplots())
        figure.savefig(drawn := io.BytesIO(), format="png")
        images.open(drawn).convert("RGB").quantize(64).save(folder / f"{name}.png", optimize=True)


def problems(drawings: Mapping[str, Drawing], folder: Path, width: int) -> list[str]:
    """Tell which files of a folder are missing, of another size, or belong to nothing; the arguments are those of `draw`.

    Of a picture, its size is looked at: matplotlib's versions draw otherwise.
    """
    wanted = {f"{name}.png": PNG + struct.pack(">II", width, each.height) for name, each in drawings.items()}
    there = {path.name: path.read_bytes()[:24] for path in folder.glob("*") if path.suffix != ".md"}
    found = [
        f"{name} is missing, or no PNG of its size" for name in wanted if there.get(name) != wanted[name]
    ]
    return sorted(found + [f"{name} belongs to nothing" for name in there.keys() - wanted.keys()])

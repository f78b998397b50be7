"""Shared code of the scripts that draw the pictures of docs/: write small files, and check that none is missing."""

from __future__ import annotations

import importlib
import io
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DPI = 100
"""Resolution of the pictures, in pixels per inch."""
PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"


@dataclass(frozen=True)
class Drawing:
    """A picture."""

    text: str
    """Alternative text."""
    draw: Callable[[Any], object]
    """Function that draws the picture on a matplotlib Axes."""
    height: int
    """Height in pixels."""


def draw(drawings: Mapping[str, Drawing], folder: Path, width: int) -> None:
    """Draw the pictures, with few colors to keep the files small. Requires matplotlib.

    Parameters
    ----------
    drawings : mapping of str to Drawing
        The pictures by name.
    folder : Path
        Folder for the files ``<name>.png``. It is created if it does not exist.
    width : int
        Width of the pictures, in pixels.
    """
    figures, images = (importlib.import_module(name) for name in ("matplotlib.figure", "PIL.Image"))
    folder.mkdir(exist_ok=True)
    for name, each in drawings.items():
        figure = figures.Figure(figsize=(width / DPI, each.height / DPI), dpi=DPI, layout="constrained")
        each.draw(figure.subplots())
        figure.savefig(drawn := io.BytesIO(), format="png")
        images.open(drawn).convert("RGB").quantize(64).save(folder / f"{name}.png", optimize=True)


def problems(drawings: Mapping[str, Drawing], folder: Path, width: int) -> list[str]:
    """Return a message for each file in a folder that is missing, has the wrong size, or belongs to no picture.

    The arguments are those of `draw`. Only the sizes of pictures are compared, because drawings differ between
    versions of matplotlib.
    """
    wanted = {f"{name}.png": PNG + struct.pack(">II", width, each.height) for name, each in drawings.items()}
    there = {path.name: path.read_bytes()[:24] for path in folder.glob("*") if path.suffix != ".md"}
    found = [
        f"{name} is missing or not a PNG of the right size"
        for name in wanted
        if there.get(name) != wanted[name]
    ]
    return sorted(found + [f"{name} belongs to no picture" for name in there.keys() - wanted.keys()])

"""Read the imports and includes of all files, and draw the modules of both languages into docs/architecture.svg.

    python scripts/layout.py            # rewrites the drawing
    python scripts/layout.py --check    # reports whether it differs

A module is a subpackage of python/lrcore, a folder of csrc, or a file outside of these. A header and its source file
are one module.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import TypeAlias

import _pages

Graph: TypeAlias = dict[str, set[str]]
"""File or module -> the files or modules that it imports or includes."""
Row: TypeAlias = list[str | tuple[str, str]]
"""Modules side by side, and the arrows that pass between them."""

PYTHON = _pages.ROOT / "python" / "lrcore"
CSRC = _pages.ROOT / "csrc"
DRAWING = _pages.DOCS / "architecture.svg"

PYTHON_FLOORS = (
    ("__main__",),
    ("bench", "demo"),
    ("__init__",),
    ("functional", "tune", "torch"),
    ("plot",),
    ("optimizers",),
    ("pack",),
    ("schedules",),
    ("_arrays", "_files", "_command_line"),
    ("_interpreter", "_names", "_checks", "_extras", "_runtime", "_sums"),
    ("_lrcore_core",),
)
"""The modules of python/lrcore from the top. Each may import modules on its own floor and below."""
CSRC_FLOORS = (
    ("bind",),
    ("dispatch",),
    ("cuda",),
    ("cpu", "constants"),
    ("cost",),
    ("update",),
    ("rules", "plan", "sums"),
    ("step",),
)
"""The modules of csrc from the top. Each may include modules on its own floor and below."""


def python_files(root: Path = PYTHON) -> Graph:
    """Return the imports of each file of the package, including imports in functions and for types.

    Importing a module also runs the ``__init__.py`` of its package; this dependency is not counted.
    """
    paths = [path for path in sorted(root.rglob("*.py*")) if path.suffix in (".py", ".pyi")]
    files = {_dotted(path.relative_to(root)): path.relative_to(root).as_posix() for path in paths}
    return {
        files[name]: {files[each] for each in _imported(root / files[name], name, files)} - {files[name]}
        for name in files
    }


def _dotted(path: Path) -> str:
    parts = ["lrcore", *path.with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imported(path: Path, name: str, known: Mapping[str, str]) -> Iterator[str]:
    """Yield the dotted names of the known modules that a module imports."""
    package = name.split(".") if path.stem == "__init__" else name.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names if each.name in known)
        elif isinstance(node, ast.ImportFrom):
            parents = package[: len(package) + 1 - node.level] if node.level else []
            source = ".".join([*parents, *filter(None, [node.module])])
            for each in node.names:
                yield from [one for one in (f"{source}.{each.name}", source) if one in known][:1]


def csrc_files(root: Path = CSRC) -> Graph:
    """Return the files of csrc that each file of csrc includes."""
    files = [path for path in sorted(root.rglob("*")) if path.suffix in (".h", ".cpp", ".cu")]
    return {
        path.relative_to(root).as_posix(): {
            (path.parent / name).resolve().relative_to(root.resolve()).as_posix()
            for name in re.findall(r'^#include "(.+)"', path.read_text(encoding="utf-8"), re.MULTILINE)
        }
        for path in files
    }


def module(file: str) -> str:
    """Return the module of a file."""
    path = Path(file)
    return path.parts[0] if len(path.parts) > 1 else path.stem


def modules(files: Graph) -> Graph:
    """Return the graph of modules for a graph of files."""
    graph: Graph = {}
    for file, targets in files.items():
        graph.setdefault(module(file), set()).update(map(module, targets))
    return {name: targets - {name} for name, targets in graph.items()}


def circle(graph: Graph) -> list[str]:
    """Return the names on a cycle of arrows, with the first name repeated at the end; empty if there is no cycle."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return [*reversed(error.args[1])]
    return []


def upward(graph: Graph, floors: Iterable[Iterable[str]]) -> list[tuple[str, str]]:
    """Return the arrows that lead to a higher floor.

    Raises
    ------
    ValueError
        If a module is on no floor, or a name on a floor is not a module.
    """
    depth = {name: number for number, floor in enumerate(floors) for name in floor}
    if strangers := sorted(depth.keys() ^ graph.keys()):
        raise ValueError(
            f"{', '.join(strangers)}: expected every module on a floor, and only modules; edit PYTHON_FLOORS or "
            "CSRC_FLOORS in scripts/layout.py"
        )
    return [
        (name, each) for name in sorted(graph) for each in sorted(graph[name]) if depth[each] < depth[name]
    ]


def reduced(graph: Graph) -> Graph:
    """Return a graph without the arrows that a path along other arrows implies."""
    below: Graph = {}
    for name in TopologicalSorter(graph).static_order():
        below[name] = graph[name].union(*(below[each] for each in graph[name]))
    return {name: targets.difference(*(below[each] for each in targets)) for name, targets in graph.items()}


def rows(graph: Graph, floors: Iterable[Iterable[str]]) -> list[Row]:
    """Return the floors split into rows without sideways arrows, ordered so that few arrows cross.

    Each row also contains the arrows that pass through it.
    """
    split: list[Row] = []
    for floor in floors:
        sorter = TopologicalSorter({name: graph[name] & {*floor} for name in floor})
        sorter.prepare()
        within: list[Row] = []
        while sorter.is_active():
            ready = sorter.get_ready()
            sorter.done(*ready)
            within.insert(0, [name for name in floor if name in ready])
        split += within
    depth = {name: number for number, row in enumerate(split) for name in row}
    for name in graph:
        for each in sorted(graph[name]):
            for row in split[depth[name] + 1 : depth[each]]:
                row.append((name, each))
    for _ in range(8):
        _order(split, split[0], graph)
        _order(split[::-1], split[-1], graph)
    return split


def _order(split: list[Row], first: Row, graph: Graph) -> None:
    """Order each row except the first by the mean position of its neighbors in the previous row."""
    former = first
    for row in split[1:]:
        middle = {}
        for index, each in enumerate(row):
            joined = [
                (at + 0.5) / len(former) for at, other in enumerate(former) if _meet(other, each, graph)
            ]
            middle[each] = sum(joined) / len(joined) if joined else (index + 0.5) / len(row)
        row.sort(key=lambda each: middle[each])
        former = row


def _meet(one: str | tuple[str, str], other: str | tuple[str, str], graph: Graph) -> bool:
    """Return whether an arrow joins a place in one row and a place in the next, in either direction."""
    if isinstance(one, tuple):
        return other in (one, *one)
    return one in other if isinstance(other, tuple) else other in graph[one] or one in graph[other]


BOX, GAP, PASS = (30, 16, 10)
"""The height of a box, the space between two boxes, and the width reserved for a passing arrow."""
TOP, FLOOR = 34, 64
"""The top of the first row, and the distance between rows."""
LETTER = 7.9
"""The width of a letter in a monospaced font of 13 pixels."""
STYLE = """\
text { font: 13px ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; text-anchor: middle; fill: #14213d }
text.title { font-weight: bold; fill: #7d8590 }
rect { fill: #dbe7f6; stroke: #7d8590 }
path { fill: none; stroke: #7d8590; stroke-width: 1.3 }
path.head { fill: #7d8590; stroke: none }"""
"""The boxes are filled and the rest is grey, so the drawing is readable on white and on black."""


def _width(label: str) -> float:
    return LETTER * len(label) + 18


def panel(
    title: str, graph: Graph, floors: Iterable[Iterable[str]], labels: Mapping[str, str]
) -> tuple[list[str], float, float]:
    """Return the elements of one language's drawing, its width and its height."""
    if found := upward(graph, floors):
        raise ValueError(f"{title}: expected no arrow that leads to a higher floor, got {found}")
    arrows = reduced(graph)
    split = rows(arrows, floors)
    extents = [[_width(labels[each]) if isinstance(each, str) else PASS for each in row] for row in split]
    width = max(sum(row) + GAP * (len(row) + 1) for row in extents)
    places: dict[str | tuple[str, str], dict[int, tuple[float, float]]] = {}
    for number, (row, extent) in enumerate(zip(split, extents, strict=True)):
        space = (width - sum(extent)) / (len(row) + 1)
        left = space
        for each, own in zip(row, extent, strict=True):
            places.setdefault(each, {})[number] = left + own / 2, TOP + FLOOR * number
            left += own + space
    drawn = [f'<text class="title" x="{width / 2:.0f}" y="18">{title}</text>']
    for name in sorted(arrows):
        for target in sorted(arrows[name]):
            passed = places.get((name, target), {})
            drawn += _arrow([*places[name].values(), *passed.values(), *places[target].values()])
    for name in (each for row in split for each in row if isinstance(each, str)):
        ((x, y),) = places[name].values()
        own = _width(labels[name])
        drawn.append(f'<rect x="{x - own / 2:.0f}" y="{y:.0f}" width="{own:.0f}" height="{BOX}" rx="4"/>')
        drawn.append(f'<text x="{x:.0f}" y="{y + 20:.0f}">{labels[name]}</text>')
    return drawn, width, TOP + FLOOR * (len(split) - 1) + BOX + 8


def _arrow(places: list[tuple[float, float]]) -> Iterator[str]:
    """Yield the elements of an arrow through `places`, the top centers of its boxes and passages.

    The arrow is vertical inside rows.
    """
    (x, top), *following = places
    drawn = [f"M{x:.0f} {top + BOX:.0f}"]
    for to, below in following:
        half = (top + BOX + below) / 2
        drawn.append(f"C{x:.0f} {half:.0f} {to:.0f} {half:.0f} {to:.0f} {below:.0f}")
        drawn.append(f"V{below + BOX:.0f}")
        x, top = to, below
    yield f'<path d="{" ".join(drawn[:-1])}"/>'
    yield f'<path class="head" d="M{x:.0f} {top:.0f} l-4 -8 h8 z"/>'


def _labels(files: Graph) -> dict[str, str]:
    """Return the label of each module in the drawing."""
    labels: dict[str, str] = {}
    for file in files:
        name = module(file)
        if "/" in file:
            labels[name] = f"{name}/"
        else:
            labels[name] = f"{name}.*" if name in labels else file
    return labels


def drawing() -> str:
    """Return the drawing: Python on the left, C++ on the right."""
    python, csrc = python_files(), csrc_files()
    labels = _labels(python) | {"_lrcore_core": "_lrcore_core (csrc)"}
    left, width, height = panel("python/lrcore", modules(python), PYTHON_FLOORS, labels)
    right, other, tall = panel("csrc", modules(csrc), CSRC_FLOORS, _labels(csrc))
    begin, high = width + 40, max(height, tall)
    size = f'width="{begin + other:.0f}" height="{high:.0f}" viewBox="0 0 {begin + other:.0f} {high:.0f}"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size}>',
            f"<!-- Made by scripts/{Path(__file__).name} from the imports and the includes. -->",
            "<title>The modules of both languages: arrows lead to what is imported or included</title>",
            f"<style>\n{STYLE}\n</style>",
            *left,
            f'<g transform="translate({begin:.0f} 0)">',
            *right,
            "</g>",
            "</svg>\n",
        ]
    )


def pages() -> dict[Path, str]:
    """Return the drawing, keyed by its path."""
    return {DRAWING: drawing()}


def problems() -> list[str]:
    """Return a message if the drawing is missing or out of date."""
    return _pages.differing(pages())


if __name__ == "__main__":
    sys.exit(_pages.main("Draw the modules of both languages.", lambda: _pages.write(pages()), problems))

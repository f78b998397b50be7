"""Generate the pages of the optimizers, docs/optimizers/.

    python scripts/optimizer_pages.py           # write the pages
    python scripts/optimizer_pages.py --check   # report missing pages and differences; status 1 if there are any

The prose is in docs/optimizers/index.in.md. The description of an optimizer comes from its docstring, its variants from
`lrcore.rules()`, and the calls of other packages from the table in tests/rules/peer_rows.py. Requires only NumPy.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import _pages
import numpy as np
from _pages import DOCS, PEERS, wrapped

import lrcore
from rules import peer_rows
from support import CLASSES, all_configurations

FOLDER = DOCS / "optimizers"
TEMPLATE = FOLDER / "index.in.md"


def variants(name: str) -> dict[str, dict[str, Any]]:
    """Return the rules that a class can select, and for each the non-default arguments that select it."""
    cls = CLASSES[name]
    taken = inspect.signature(cls).parameters
    found: dict[str, dict[str, Any]] = {}
    for rule, way in all_configurations():
        if way.cls is cls:
            others = {key: value for key, value in way.arguments.items() if value != taken[key].default}
            others = {key: value for key, value in others.items() if rule_of(cls, others, key) != rule}
            if rule not in found or len(others) < len(found[rule]):
                found[rule] = others
    return found


def rule_of(cls: Any, chosen: dict[str, Any], without: str) -> str:
    """Return the rule that a class selects if `without` is left out; empty if it rejects the others."""
    try:
        opt = cls(np.zeros(0, np.float32), **{key: value for key, value in chosen.items() if key != without})
    except ValueError:
        return ""
    return str(opt.rule)


def arguments(chosen: dict[str, Any]) -> str:
    """Return arguments formatted as code."""
    return ", ".join(f"`{key}={value!r}`" for key, value in chosen.items()) or "defaults"


def table_of_variants(name: str) -> str:
    """Return a table with a row for each rule of a class."""
    rows = ["| arguments | rule | states | bytes |", "| --- | --- | --- | ---: |"]
    for rule, chosen in variants(name).items():
        facts = lrcore.rules()[rule]
        states = ", ".join(f"`{each}`" for each in facts.states) or "none"
        rows.append(f"| {arguments(chosen)} | `{rule}` | {states} | {facts.bytes_per_element} |")
    return "\n".join(rows)


def table() -> str:
    """Return a table with a row for each class."""
    rows = ["| optimizer | | states | bytes |", "| --- | --- | ---: | ---: |"]
    for name, cls in CLASSES.items():
        facts = [lrcore.rules()[rule] for rule in variants(name)]
        states = span(len(each.states) for each in facts)
        rows.append(
            f"| [{name}]({name}.md) | {_pages.summary(cls)} | {states} | {span(each.bytes_per_element for each in facts)} |"
        )
    return "\n".join(rows)


def span(numbers: Iterable[int]) -> str:
    """Return the range from the smallest to the largest number."""
    found = sorted(numbers)
    return f"{found[0]}" if found[0] == found[-1] else f"{found[0]} to {found[-1]}"


def elsewhere(name: str) -> Iterable[str]:
    """Yield the calls of other packages that match a class, as list items."""
    rows = [row for row in peer_rows.ROWS if row.ours.name == name]
    for peer, called in PEERS.items():
        same = [f"`{row.theirs}`" for row in rows if row.peer == peer and str(row.theirs) == str(row.ours)]
        if same:
            yield wrapped(f"- {called}, with identical calls: {', '.join(same)}.", "  ")
        for row in rows:
            if row.peer == peer and str(row.theirs) != str(row.ours):
                yield wrapped(f"- {called}: `{row.theirs}` is `{row.ours}`.", "  ")


def page(name: str, choice: str) -> str:
    """Return the page of an optimizer."""
    own = [
        "## Variants",
        "The arguments that select each rule, its states, and the bytes per element that a step reads and writes.",
        table_of_variants(name),
    ]
    return _pages.page(CLASSES[name], choice, [], own, elsewhere(name))


def pages() -> dict[Path, str]:
    """Return all pages.

    Raises
    ------
    ValueError
        If a placeholder in the template is unknown or occurs twice.
    """
    template = _pages.Template(TEMPLATE, [*CLASSES, "table"])
    pieces = {name: f"### [{name}]({name}.md)" for name in CLASSES} | {"table": table()}
    made = {FOLDER / "index.md": template.fill(pieces, __file__)}
    for name in CLASSES:
        text = page(name, template.choice(name))
        made[FOLDER / f"{name}.md"] = f"{_pages.notice(__file__, TEMPLATE.name)}{text}\n"
    return made


def problems() -> list[str]:
    """Return a message for each missing or differing page."""
    return _pages.differing(pages())


if __name__ == "__main__":
    sys.exit(_pages.main("Generate the pages of the optimizers.", lambda: _pages.write(pages()), problems))

"""Make docs/schedules.md and the pictures in docs/schedules/.

    python scripts/schedule_pages.py           # write them
    python scripts/schedule_pages.py --check   # tell what is missing or differs; 1 where something does

The prose is in docs/schedules.in.md, with a ``{{Name}}`` for each schedule and picture. What is said of a schedule is
its docstring; the calls of other packages are the tables of tests/schedule_peers.py and tests/plateau_peers.py.
Needs what the demo needs; ``--check`` needs NumPy alone.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import io
import re
import struct
import sys
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
import lrcore
import plateau_peers
import schedule_peers
from lrcore import demo, schedules
from lrcore.schedules import Plateau, Rate, Schedule

Row: TypeAlias = schedule_peers.Row | plateau_peers.Row

TEMPLATE = ROOT / "docs" / "schedules.in.md"
PAGE = ROOT / "docs" / "schedules.md"
PICTURES = ROOT / "docs" / "schedules"
WIDTH, DPI = 640, 100
"""Of the pictures, in pixels and per inch."""
PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
NOTICE = "<!-- Made by scripts/schedule_pages.py from schedules.in.md and the docstrings: edit those. -->\n"


@dataclass(frozen=True)
class Drawing:
    """A picture."""

    text: str
    """For those who do not see it."""
    draw: Callable[[Any], object]
    """Draws it on an ax."""
    height: int


def curves(
    *texts: str, steps: int = 100, log: bool = False, rates: Sequence[Rate] = (), height: int = 300
) -> Drawing:
    """Give the picture of schedules: those of the texts, or the rates where `parse` does not read the texts."""
    drawn = rates or [schedules.parse(text) for text in texts]
    return Drawing(
        f"Over {steps} steps: {', '.join(texts)}",
        lambda ax: lrcore.plot.schedules(*drawn, steps=steps, labels=texts, log=log, ax=ax),
        height,
    )


def told(plateau: Plateau, steps: int) -> Rate:
    """Give the rates of a plateau that is told, after each step, a loss that falls ever more slowly."""
    rates = []
    for t in range(steps):
        rates.append(plateau(t))
        plateau.observe(round(1 / (1 + t / 4), 2))
    return rates.__getitem__


def train(ax: Any) -> None:
    """Draw a training of the digits."""
    trained = demo.train("Adam", schedules.Cosine(0.01, steps=630).warmup(60))
    lrcore.plot.training(trained.losses, trained.rates, ax)


DRAWINGS: dict[str, Drawing] = {
    "Constant": curves("Constant(0.1)"),
    "PiecewiseConstant": curves("PiecewiseConstant([30, 60, 80], [0.1, 0.03, 0.05, 0.01])"),
    "StepDecay": curves("StepDecay(0.1, every=30)", "StepDecay(0.1, every=10, factor=0.5)", log=True),
    "Linear": curves("Linear(0.1, 0, steps=80)", "Linear(0.02, 0.08, steps=50)"),
    "Polynomial": curves(
        "Polynomial(0.1, steps=80, power=0.5)", "Polynomial(0.1, steps=80, power=2)",
        "Polynomial(0.1, steps=40, end=0.01, cycle=True)", steps=120),
    "PolynomialProduct": curves(
        "PolynomialProduct(0.1, steps=80, power=0.5, power2=0)",
        "PolynomialProduct(0.1, steps=80, power=0.5, power2=2)"),
    "Cosine": curves("Cosine(0.1, steps=80)", "Cosine(0.1, steps=80, end=0.03)"),
    "Rex": curves("Rex(0.1, steps=80)", "Linear(0.1, 0, steps=80)"),
    "Exponential": curves("Exponential(0.1, 0.97)", "Exponential(0.1, 0.5, steps=20, staircase=True)"),
    "NaturalExponential": curves("NaturalExponential(0.1, k=0.02)", "NaturalExponential(0.1, k=0.05)"),
    "InverseTime": curves(
        "InverseTime(0.1, k=0.1)", "InverseTime(0.1, k=1, steps=20, staircase=True)", steps=150),
    "InverseSqrt": curves("InverseSqrt(0.1, warmup=20)", "InverseSqrt(0.1, warmup=60)", steps=300),
    "Noam": curves("Noam(512, warmup=4000)", "Noam(512, warmup=8000)", steps=30_000),
    "WarmupStableDecay": curves(
        "WarmupStableDecay(0.1, warmup=20, stable=40, decay=40)",
        "WarmupStableDecay(0.1, warmup=20, stable=40, decay=40, shape='linear')", steps=120),
    "CosineRestarts": curves(
        "CosineRestarts(0.1, steps=50)",
        "CosineRestarts(0.1, steps=20, cycle_mult=2, peak_mult=0.7, end=0.01)", steps=140),
    "Cyclic": curves(
        "Cyclic(0.01, 0.1, up=10, down=30)", "Cyclic(0.01, 0.1, up=20, mode='triangular2')", steps=160),
    "OneCycle": curves(
        "OneCycle(0.1, steps=100)",
        "OneCycle(0.1, steps=100, pct_start=0.4, shape='linear', three_phase=True)", steps=110),
    "CyclicStages": curves("CyclicStages([(0.1, 20), (0.05, 10), (0.01, 5)])"),
    "PeriodicPulse": curves("PeriodicPulse(0.01, [(0.1, 25), (0.05, 5)])"),
    "Plateau": curves(
        "Plateau(Constant(0.1).warmup(10), factor=0.5, patience=2, cooldown=3)", steps=80,
        rates=[told(Plateau(schedules.Constant(0.1).warmup(10), factor=0.5, patience=2, cooldown=3), 80)]),
    "Function": curves(
        "Function(lambda t: 0.1 / (1 + t % 25 / 5))", rates=[lambda t: 0.1 / (1 + t % 25 / 5)]),
    "Recursive": curves(
        "Recursive(lambda t, lr: 0.8 * lr if t % 10 == 9 else lr, lr=0.1)", steps=95,
        rates=[schedules.Recursive(lambda t, lr: 0.8 * lr if t % 10 == 9 else lr, lr=0.1)]),
    "Sequence": curves("Sequence([(0.05, 30), (Linear(0.05, 0.1, 20), 20), Cosine(0.1, 50)])", steps=120),
    "composing": curves(
        "Cosine(0.1, steps=80).warmup(20)", "Constant(0.08).then(Linear(0.08, 0, steps=20), at=80)",
        "Cosine(0.1, steps=100).clip(0.02, 0.06)",
        "StepDecay(0.04, every=1, factor=0.7).per_epoch(20) * Cyclic(0.6, 1, up=5)", steps=120, height=400),
    "range_test": Drawing(
        "Losses of a range test on the digits: flat at small rates, then falling, then rising steeply",
        lambda ax: lrcore.plot.range_test(demo.find_lr(), ax), height=400),
    "training": Drawing("The loss of a training on the digits, and its rate below", train, height=400),
}  # fmt: skip
"""The pictures by name: one of each schedule, and more."""

PEERS = {"torch": "PyTorch", "optax": "optax", "keras": "Keras", "transformers": "transformers"}

HOMES = {
    "CosineAnnealingLR": "Cosine",
    "get_cosine": "Cosine",
    "sgdr_schedule": "CosineRestarts",
    "CosineDecayRestarts": "CosineRestarts",
    "get_cosine_with_hard_restarts": "CosineRestarts",
    "cosine_onecycle_schedule": "OneCycle",
    "linear_onecycle_schedule": "OneCycle",
    "get_wsd_schedule": "WarmupStableDecay",
    "SequentialLR": "Sequence",
    "ChainedScheduler": "Sequence",
    "join_schedules": "Sequence",
}
"""Under which schedule a reader looks for a peer's call, by its beginning, where that is not the first it comes to."""

NAME = r"\b(?!PyTorch)([a-zT]\w*_\w+(=[\w']+)?|[A-Z]\w*[a-z][A-Z]\w*|Cosine|Cyclic|Plateau|Recursive)\b'?"
"""What is code in a note."""


def classes() -> dict[str, type[Schedule]]:
    """Give the public schedules by name."""
    public = [getattr(schedules, name) for name in schedules.__all__]
    made = [each for each in public if inspect.isclass(each) and issubclass(each, Schedule)]
    return {each.__name__: each for each in made if each is not Schedule}


def home(row: Row) -> str:
    """Give the schedule under which a row is listed: the first that our call names, `Constant` where it is alone."""
    fitting = [begin for begin in HOMES if row.theirs.startswith(begin)]
    if fitting:
        return HOMES[max(fitting, key=len)]
    named: list[str] = [name for name in re.findall(r"\w+", row.ours) if name in DRAWINGS]
    return next((name for name in named if name != "Constant"), named[0])


def sections(cls: type[Schedule]) -> dict[str, str]:
    """Give the parts of a docstring: "" is what it begins with."""
    parts = re.split(r"^(\w+)\n-+\n", inspect.getdoc(cls) or "", flags=re.MULTILINE)
    return dict(zip(["", *parts[1::2]], (each.strip() for each in parts[::2]), strict=True))


def wrapped(text: str, indent: str = "") -> str:
    """Break prose into lines, but not within code."""
    whole = re.sub(r"`[^`]*`", lambda code: re.sub(r"\s+", "\0", code.group()), text.replace("``", "`"))
    lines = textwrap.wrap(
        whole, 110, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
    return "\n".join(lines).replace("\0", " ")


def signature(cls: type[Schedule]) -> str:
    """Give the call that makes a schedule, with its defaults."""
    arguments = inspect.signature(cls).parameters.values()
    return f"{cls.__name__}({', '.join(str(each.replace(annotation=each.empty)) for each in arguments)})"


def parameters(text: str) -> Iterable[str]:
    """Give the arguments of a docstring, as items of a list."""
    for names, kind, what in re.findall(r"^(\w.*?) : (.*)\n((?: +.*\n?)+)", text, flags=re.MULTILINE):
        code = ", ".join(f"`{name}`" for name in names.split(", "))
        yield wrapped(f"- {code}: {kind}. {' '.join(what.split())}", "  ")


def elsewhere(name: str) -> Iterable[str]:
    """Give the calls of others for a schedule, as items of a list; a note stands where it first applies."""
    rows: tuple[Row, ...] = (*schedule_peers.ROWS, *plateau_peers.ROWS)
    seen: set[object] = set()
    for row in rows:
        call = f"- {PEERS[row.peer]}: `{row.theirs}` is `{row.ours}`."
        if home(row) == name and call not in seen:
            note = re.sub(NAME, r"`\g<0>`", row.note)
            yield wrapped(call if (row.peer, note) in seen else f"{call} {note}", "  ")
            seen |= {call, (row.peer, note)}


def picture(name: str) -> str:
    """Give the link to a picture."""
    text = re.sub(r"([\[\]*_])", r"\\\1", DRAWINGS[name].text)
    return f"![{text}](schedules/{name}.png)"


def section(cls: type[Schedule]) -> str:
    """Give what is said of a schedule."""
    parts = sections(cls)
    about = [wrapped(each) for each in parts[""].split("\n\n")]
    calls = [*elsewhere(cls.__name__)]
    return "\n\n".join(
        [
            f"### {cls.__name__}",
            f"`{signature(cls)}`",
            *about,
            "\n".join(parameters(parts["Parameters"])),
            picture(cls.__name__),
            wrapped(f"Reference: {parts['References']}"),
            *(["Elsewhere:", "\n".join(calls)] if calls else []),
        ]
    )


def page() -> str:
    """Give the page.

    Raises
    ------
    ValueError
        When a schedule has no drawing, or the template lacks a name or has one too many.
    """
    known = classes()
    if missing := known.keys() - DRAWINGS.keys():
        raise ValueError(f"DRAWINGS: expected one of each schedule, lacks {', '.join(sorted(missing))}")
    template = TEMPLATE.read_text(encoding="utf-8")
    placed = re.findall(r"{{(\w+)}}", template)
    if sorted(placed) != sorted(DRAWINGS):
        raise ValueError(f"{TEMPLATE.name}: expected each name of DRAWINGS once, got {placed}")
    filled = re.sub(
        r"{{(\w+)}}",
        lambda found: section(known[found[1]]) if found[1] in known else picture(found[1]),
        template,
    )
    return NOTICE + filled


def draw() -> None:
    """Draw the pictures, in few colours, which keeps them small."""
    figures, images = (importlib.import_module(name) for name in ("matplotlib.figure", "PIL.Image"))
    PICTURES.mkdir(exist_ok=True)
    for name, each in DRAWINGS.items():
        figure = figures.Figure(figsize=(WIDTH / DPI, each.height / DPI), dpi=DPI, layout="constrained")
        each.draw(figure.subplots())
        figure.savefig(drawn := io.BytesIO(), format="png")
        images.open(drawn).convert("RGB").quantize(64).save(PICTURES / f"{name}.png", optimize=True)


def problems() -> list[str]:
    """Tell what is missing or differs. Of a picture, its size is looked at: matplotlib's versions draw otherwise."""
    wanted = {f"{name}.png": PNG + struct.pack(">II", WIDTH, each.height) for name, each in DRAWINGS.items()}
    there = {path.name: path.read_bytes()[:24] for path in PICTURES.glob("*")}
    found = [
        f"{name} is missing, or no PNG of its size" for name in wanted if there.get(name) != wanted[name]
    ]
    found += [f"{name} belongs to nothing" for name in there.keys() - wanted.keys()]
    if not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != page():
        found.append(f"{PAGE.name} is not what the script gives")
    return sorted(found)


def main() -> int:
    """Write everything, or check it."""
    parser = argparse.ArgumentParser(description="Make docs/schedules.md and its pictures.")
    parser.add_argument("--check", action="store_true", help="tell what is missing or differs")
    if parser.parse_args().check:
        found = problems()
        print("\n".join(found or ["all is as the script gives it"]))
        return bool(found)
    PAGE.write_text(page(), encoding="utf-8")
    draw()
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Generate docs/schedules.md, the pages of the schedules in docs/schedules/ and their pictures.

    python scripts/schedule_pages.py           # write the pages and pictures
    python scripts/schedule_pages.py --check   # report missing files and differences; status 1 if there are any

The prose is in docs/schedules.in.md. The description of a schedule comes from its docstring, and the calls of other packages
from the tables in tests/schedules/peers.py and tests/schedules/plateau_peers.py. Requires the dependencies of the demo;
``--check`` requires only NumPy.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import _pages
import _pictures
from _pages import DOCS, PEERS, wrapped
from _pictures import Drawing

import lrcore
from lrcore import demo, schedules
from lrcore.schedules import Plateau, Rate, Schedule
from schedules import examples as schedule_examples
from schedules import peers as schedule_peers
from schedules import plateau_peers
from schedules.peers import Row

TEMPLATE = DOCS / "schedules.in.md"
PICTURES = DOCS / "schedules"
WIDTH = 640
"""Width of the pictures, in pixels."""


def curves(
    *texts: str, steps: int = 100, log: bool = False, rates: Sequence[Rate] = (), height: int = 300
) -> Drawing:
    """Return a picture of the schedules that `texts` describe, or of `rates` if `parse` cannot read `texts`."""
    drawn = rates or [schedules.parse(text) for text in texts]
    return Drawing(
        f"Over {steps} steps: {', '.join(texts)}",
        lambda ax: lrcore.plot.schedules(*drawn, steps=steps, labels=texts, log=log, ax=ax),
        height,
    )


def told(plateau: Plateau, steps: int) -> Rate:
    """Return the rates of a plateau that observes, after each step, a loss that falls ever more slowly."""
    rates = []
    for t in range(steps):
        rates.append(plateau(t))
        plateau.observe(round(1 / (1 + t / 4), 2))
    return rates.__getitem__


def train(ax: Any) -> None:
    """Draw a training run on the digits."""
    trained = demo.train("Adam", schedules.Cosine(0.01, steps=630).warmup(60))
    lrcore.plot.training(trained.losses, trained.rates, ax)


def one_cycle() -> list[Rate]:
    """Return the schedules of the learning rate and the momentum of PyTorch's OneCycleLR over 100 steps."""
    falling = schedules.Cosine(0.95, steps=29, end=0.85)
    return [
        schedules.OneCycle(1.0, steps=100),
        falling.then(schedules.Cosine(0.85, steps=70, end=0.95), at=29),
    ]


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
    "InverseSqrt": curves("InverseSqrt(0.1, warmup_steps=20)", "InverseSqrt(0.1, warmup_steps=60)", steps=300),
    "Noam": curves("Noam(512, warmup_steps=4000)", "Noam(512, warmup_steps=8000)", steps=30_000),
    "WarmupStableDecay": curves(
        "WarmupStableDecay(0.1, warmup_steps=20, stable=40, decay=40)",
        "WarmupStableDecay(0.1, warmup_steps=20, stable=40, decay=40, shape='linear')", steps=120),
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
    "numbers": Drawing(
        "The learning rate and the momentum of OneCycleLR over 100 steps: one falls while the other rises",
        lambda ax: lrcore.plot.schedules(
            *one_cycle(), steps=100, labels=["learning rate", "momentum"], ax=ax).set_ylabel(""),
        height=300),
    "range_test": Drawing(
        "Losses of a range test on the digits: flat at small rates, then falling, then rising steeply",
        lambda ax: lrcore.plot.range_test(demo.find_lr(), ax), height=400),
    "training": Drawing("The loss of a training run on the digits, and its learning rate below", train, height=400),
}  # fmt: skip
"""Pictures by name. A schedule without one here is drawn from the first example in its docstring."""


ALONE = "composing", "numbers"
"""Pictures that stand in docs/schedules.md without a schedule's summary."""


def drawn() -> dict[str, Drawing]:
    """Return all pictures by name, with at least one for each schedule."""
    added = {}
    for name in classes().keys() - DRAWINGS.keys():
        example = schedule_examples.example_of(classes()[name])
        added[name] = curves(repr(example), steps=round(1.25 * getattr(example, "steps", 80)))
    return DRAWINGS | added


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
"""Beginning of a peer's call -> schedule whose page lists the call. For other calls, see `home`."""

NAME = r"\b(?!PyTorch)([a-zT]\w*_\w+(=[\w']+)?|[A-Z]\w*[a-z][A-Z]\w*|Cosine|Cyclic|Plateau|Recursive)\b'?"
"""Pattern of the words in a note that are code."""


def classes() -> dict[str, type[Schedule]]:
    """Return the public schedules by name."""
    public = [getattr(schedules, name) for name in schedules.__all__]
    made = [each for each in public if inspect.isclass(each) and issubclass(each, Schedule)]
    return {each.__name__: each for each in made if each is not Schedule}


def home(row: Row) -> str:
    """Return the schedule whose page lists a row.

    By default, this is the first schedule in lrcore's call other than `Constant`, or else `Constant`.
    """
    fitting = [begin for begin in HOMES if row.theirs.startswith(begin)]
    if fitting:
        return HOMES[max(fitting, key=len)]
    named: list[str] = [name for name in re.findall(r"\w+", row.ours) if name in classes()]
    return next((name for name in named if name != "Constant"), named[0])


def elsewhere(name: str) -> Iterable[str]:
    """Yield the calls of other packages for a schedule, as list items; a note is shown where it first applies."""
    rows: tuple[Row, ...] = (*schedule_peers.ROWS, *plateau_peers.ROWS)
    seen: set[object] = set()
    for row in rows:
        call = f"- {PEERS[row.peer]}: `{row.theirs}` is `{row.ours}`."
        if home(row) == name and call not in seen:
            note = re.sub(NAME, r"`\g<0>`", row.note)
            yield wrapped(call if (row.peer, note) in seen else f"{call} {note}", "  ")
            seen |= {call, (row.peer, note)}


def picture(name: str, folder: str = "") -> str:
    """Return the Markdown of a picture; `folder` is the path from the page to the pictures, with a final slash."""
    text = re.sub(r"([\[\]*_])", r"\\\1", drawn()[name].text)
    return f"![{text}]({folder}{name}.png)"


def page(cls: type[Schedule], choice: str) -> str:
    """Return the page of a schedule."""
    examples = ["## Examples", f"```pycon\n{_pages.sections(cls)['Examples']}\n```"]
    return _pages.page(cls, choice, [picture(cls.__name__)], examples, elsewhere(cls.__name__))


def pages() -> dict[Path, str]:
    """Return all pages.

    Raises
    ------
    ValueError
        If a placeholder in the template is unknown or occurs twice.
    """
    known = classes()
    template = _pages.Template(TEMPLATE, [*known, *ALONE])
    pieces = {name: picture(name, "schedules/") for name in ALONE}
    for name, cls in known.items():
        pieces[name] = (
            f"### [{name}](schedules/{name}.md)\n\n{_pages.summary(cls)}\n\n{picture(name, 'schedules/')}"
        )
    made = {DOCS / "schedules.md": template.fill(pieces, __file__)}
    for name, cls in known.items():
        text = page(cls, template.choice(name))
        made[PICTURES / f"{name}.md"] = f"{_pages.notice(__file__, '../' + TEMPLATE.name)}{text}\n"
    return made


def problems() -> list[str]:
    """Return a message for each missing or differing file."""
    return _pages.differing(pages()) + _pictures.problems(drawn(), PICTURES, WIDTH)


def make() -> None:
    """Write the pages and draw the pictures."""
    _pages.write(pages())
    _pictures.draw(drawn(), PICTURES, WIDTH)


if __name__ == "__main__":
    sys.exit(_pages.main("Generate the pages of the schedules and their pictures.", make, problems))

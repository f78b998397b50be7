"""Draw the pictures of docs/tutorial.md into docs/tutorial/, from the results of the page's own code.

    python scripts/tutorial_pictures.py           # draw the pictures
    python scripts/tutorial_pictures.py --check   # report missing files and differences; status 1 if there are any

The alternative texts are on the page. Requires the dependencies of the demo; ``--check`` has no requirements.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import _pictures
from _pictures import Drawing

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGE = DOCS / "tutorial.md"
PICTURES = DOCS / "tutorial"
WIDTH = 720
"""Width of the pictures, in pixels."""
STYLES = ("solid", "dashed", "dotted", "dashdot")
"""Line styles, which distinguish curves without colors."""


@functools.cache
def computed() -> dict[str, Any]:
    """Run the page's code in an empty directory, and return its namespace."""
    code = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    namespace: dict[str, Any] = {}
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.chdir(folder),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        exec("\n".join(code), namespace)  # noqa: S102 - the page is ours
    return namespace


def mean_of(losses: Any, window: int) -> tuple[Any, Any]:
    """Return the steps from `window` on, and for each of them the mean of the last `window` losses."""
    np = computed()["np"]
    return np.arange(window, len(losses) + 1), np.convolve(losses, np.full(window, 1 / window), mode="valid")


def finish(ax: Any, x: str, y: str, **legend: Any) -> None:
    """Add labels, a grid and a legend to the axes."""
    ax.set_xlabel(x)
    ax.set_ylabel(y)
    ax.grid(alpha=0.3)
    if ax.get_legend_handles_labels()[0]:
        ax.legend(fontsize="small", **legend)


def panels(ax: Any, rows: int, columns: int, **options: Any) -> Any:
    """Replace an Axes with several, and return them."""
    figure = ax.figure
    ax.remove()
    return figure.subplots(rows, columns, **options)


def titled(ax: Any, title: str) -> None:
    """Add a title and labels to an Axes of losses over steps."""
    ax.set_title(title, fontsize="medium")
    finish(ax, "step", "training loss (nats)")


def training(ax: Any) -> None:
    """Draw the first training run. The page reuses its variable names, so the run is repeated here."""
    page = computed()
    steps, schedule = page["steps"], page["Cosine"](0.01, steps=page["steps"])
    _, losses = page["train"](page["lrcore"].Adam, schedule)
    axes = page["lrcore"].plot.training(losses, schedule(page["np"].arange(steps)), ax)
    axes.set_ylabel("training loss (nats)")


def rates(ax: Any) -> None:
    """Draw the losses at four rates: the beginning and the whole curves."""
    begin, whole = panels(ax, 1, 2)
    for style, (lr, (_, losses)) in zip(STYLES, computed()["by_rate"].items(), strict=True):
        begin.plot(losses[:25], linestyle=style, linewidth=1.8)
        whole.plot(*mean_of(losses, 23), linestyle=style, linewidth=1.8, label=f"SGD, rate {lr:g}")
    begin.set_yscale("log")
    whole.set_ylim(0, 3.6)
    titled(begin, "the first 25 steps")
    titled(whole, "all steps, mean over 23")


def range_test(ax: Any) -> None:
    """Draw the range test."""
    computed()["lrcore"].plot.range_test(computed()["found"], ax)
    for style, line in zip(STYLES[1:], ax.lines[2:], strict=True):
        line.set_linestyle(style)
    finish(ax, "rate", "training loss (nats)")


def decay(ax: Any) -> None:
    """Draw the losses at a constant and at a falling rate, and the rates."""
    page = computed()
    above, below = panels(ax, 2, 1, sharex=True, height_ratios=(2, 1))
    steps = page["np"].arange(page["small_steps"])
    schedules = (page["lrcore"].schedules.Constant(0.05), page["Cosine"](0.05, steps=len(steps)))
    trained = (page["constant"], page["cosine"])
    for style, schedule, (_, losses) in zip(STYLES, schedules, trained, strict=False):
        above.plot(*mean_of(losses, 30), linestyle=style, linewidth=1.5, label=repr(schedule))
        below.plot(steps, schedule(steps), linestyle=style, linewidth=1.8)
    above.set_yscale("log")
    finish(above, "", "training loss (nats),\nmean over 30 steps")
    finish(below, "step", "rate")


def warmup(ax: Any) -> None:
    """Draw the losses of training runs with and without warm-up: the beginning and the whole curves."""
    page = computed()
    begin, whole = panels(ax, 1, 2)
    for color, style, name, label in (("C1", "dashed", "cold", "without"), ("C0", "solid", "warm", "with")):
        for i, (_, losses) in enumerate(page[name]):
            line = {
                "color": color,
                "linestyle": style,
                "linewidth": 1.3,
                "label": None if i else f"{label} warm-up",
            }
            begin.plot(losses[:60], **line)
            whole.plot(*mean_of(losses, 23), **line)
    for each in (begin, whole):
        each.set_yscale("log")
    titled(begin, "the first 60 steps")
    titled(whole, "all steps, mean over 23")


def own_rates(ax: Any) -> None:
    """Draw the distribution of the parameters' individual rates over the steps, for three rules."""
    page = computed()
    np = page["np"]
    for each, (rule, lr) in zip(panels(ax, 1, 3, sharey=True), page["rules"].items(), strict=True):
        own = page["history"][rule][:, page["moved"]]
        low, middle, high = np.quantile(own, (0.1, 0.5, 0.9), axis=1)
        steps = np.arange(1, len(own) + 1)
        each.fill_between(steps, low, high, color="C0", alpha=0.25, linewidth=0, label="middle 80 %")
        each.plot(steps, middle, color="C0", linewidth=2, label="median")
        each.axhline(
            page["right"], color="black", linestyle="dashed", linewidth=1.3, label="SGD's single rate"
        )
        each.set(xscale="log", yscale="log")
        each.set_title(f"{rule.__name__}, lr={lr:g}", fontsize="medium")
        each.set_ylim(top=1000)
        finish(each, "step", "per-parameter rate" if rule is page["lrcore"].Adagrad else "")


def pixels(ax: Any) -> None:
    """Draw the rates of each pixel's weights against its brightness, for three rules."""
    page = computed()
    np, lit = page["np"], page["lit"]
    for marker, rule in zip("^so", page["rules"], strict=True):
        weights = page["history"][rule][-1][: 64 * 64].reshape(64, 64)
        middle = np.median(weights[lit > 0], axis=1)
        ax.plot(lit[lit > 0], middle, marker, markersize=5, alpha=0.7, label=rule.__name__)
    ax.axhline(page["right"], color="black", linestyle="dashed", linewidth=1.3, label="SGD's single rate")
    ax.set(xscale="log", yscale="log")
    finish(ax, "mean brightness of the pixel (from 0 to 1)", "median rate of its 64 weights")


DRAWN: dict[str, tuple[Callable[[Any], None], int]] = {
    "training": (training, 400),
    "rates": (rates, 380),
    "range_test": (range_test, 380),
    "decay": (decay, 440),
    "warmup": (warmup, 360),
    "own_rates": (own_rates, 360),
    "pixels": (pixels, 380),
}
"""Picture -> function that draws it, and its height in pixels."""


def drawings() -> dict[str, Drawing]:
    """Return the pictures by name, with their alternative texts from the page.

    Raises
    ------
    ValueError
        If the page does not show each picture exactly once, or shows an unknown one.
    """
    shown = re.findall(r"!\[([^]]+)\]\(tutorial/(\w+)\.png\)", PAGE.read_text(encoding="utf-8"))
    if sorted(name for _, name in shown) != sorted(DRAWN):
        raise ValueError(f"{PAGE.name}: expected each name of DRAWN once, got {[name for _, name in shown]}")
    return {name: Drawing(" ".join(text.split()), *DRAWN[name]) for text, name in shown}


def problems() -> list[str]:
    """Return a message for each picture that is missing, has the wrong size, or is not on the page."""
    return _pictures.problems(drawings(), PICTURES, WIDTH)


def main() -> int:
    """Draw or check the pictures, and return the exit status."""
    parser = argparse.ArgumentParser(description="Draw the pictures of docs/tutorial.md.")
    parser.add_argument("--check", action="store_true", help="report missing files and differences")
    if parser.parse_args().check:
        found = problems()
        print("\n".join(found or ["everything is up to date"]))
        return bool(found)
    _pictures.draw(drawings(), PICTURES, WIDTH)
    return 0


if __name__ == "__main__":
    sys.exit(main())

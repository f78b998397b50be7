"""Figures of schedules, range tests and training runs."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lrcore._checks import flag, num_steps, one_of, safe_repr, sequence, vector
from lrcore._extras import optional_dependency
from lrcore._names import explain_keywords
from lrcore.schedules import Rate, as_schedule

if TYPE_CHECKING:
    from matplotlib.axes import Axes


_EXAMINED = 200_000
"""Maximum number of steps at which a schedule is evaluated. If there are more, it is evaluated at evenly spaced ones."""
_POINTS = 10_000
"""Maximum number of points in a line."""

_LARGEST = 1e150
"""Largest magnitude on an axis. Above it matplotlib overflows, for example in the margins of logarithmic axes."""


SuggestionMethod: TypeAlias = Literal["steepest", "valley", "minimum/10"]
"""The methods of `lrcore.tune.RangeTest.suggest`."""


class _RangeTest(Protocol):
    """The part of `lrcore.tune.RangeTest` that is drawn."""

    @property
    def rates(self) -> NDArray[np.float64]: ...
    @property
    def losses(self) -> NDArray[np.float64]: ...
    @property
    def smoothed(self) -> NDArray[np.float64]: ...
    @property
    def mode(self) -> str: ...
    def suggest(self, method: SuggestionMethod = ...) -> float: ...


@explain_keywords
def schedules(
    *rates: Rate,
    steps: int,
    labels: Sequence[str] | None = None,
    log: bool = False,
    ax: Axes | None = None,
) -> Axes:
    """Draw schedules over the steps 0 to ``steps - 1``.

    Parameters
    ----------
    *rates : float, schedule or callable
        Rates in any form that an optimizer accepts as `lr`.
    steps : int
        Number of steps to draw. If there are more than 200,000, the schedules are evaluated at 200,000 evenly spaced
        ones.
    labels : sequence of str, optional
        Labels for the legend. The default is the repr of each schedule.
    log : bool
        Whether the axis of the rates is logarithmic. Rates of 0 are then left out.
    ax : Axes, optional
        Axes to draw on.

    Raises
    ------
    TypeError, ValueError
        If an argument is invalid.
    ImportError
        If matplotlib is not installed.
    """
    steps, log = steps_to_draw("steps", steps), flag("log", log)
    if not rates:
        raise ValueError("rates: expected at least one schedule")
    drawn = [as_schedule(rate) for rate in rates]
    labels = [repr(each) for each in drawn] if labels is None else _labels(labels)
    if len(labels) != len(drawn):
        raise ValueError(f"labels: expected {len(drawn)}, one for each schedule, got {len(labels)}")
    t = examined_steps(steps)
    lines = [_drawable("rates", schedule(t)) for schedule in drawn]
    ax = _axes(ax)
    for values, label in zip(lines, labels, strict=True):
        if log:
            values[values == 0] = np.nan
        kept = _outline(values)
        marker = "o" if steps == 1 else None  # a line with one point would be invisible
        ax.plot(
            t[kept],
            values[kept],
            drawstyle="steps-post",
            linewidth=1.8,
            marker=marker,
            label=textwrap.fill(label, 90),
        )
    if log:
        ax.set_yscale("log")
    else:
        ax.set_ylim(bottom=0)
    _finish(ax, "step", "learning rate", loc="lower left", bbox_to_anchor=(0, 1), frameon=False)
    return ax


def examined_steps(steps: int) -> NDArray[np.int64]:
    """Return the steps at which a schedule is evaluated to draw its first `steps` steps."""
    return np.unique(np.linspace(0, steps - 1, min(steps, _EXAMINED)).astype(np.int64))


def _outline(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the indices of at most `_POINTS` values, including the lowest and the highest of each part of the line."""
    if len(values) <= _POINTS:
        return np.arange(len(values))
    edges = np.linspace(0, len(values), _POINTS // 4 + 1).astype(np.int64)
    comparable = np.where(np.isnan(values), 0.0, values)
    kept = [
        (a, a + comparable[a:b].argmin(), a + comparable[a:b].argmax(), b - 1)
        for a, b in itertools.pairwise(edges)
    ]
    return np.unique(kept)


def steps_to_draw(name: str, value: Any) -> int:
    """Check a number of steps, which must be small enough for float64 to represent every step number."""
    steps = num_steps(name, value)
    if steps > 2**53:
        raise ValueError(f"{name}: expected at most 2**53 steps, got {steps}")
    return steps


@explain_keywords
def range_test(
    found: _RangeTest,
    ax: Axes | None = None,
    suggestions: Sequence[SuggestionMethod] = ("steepest", "valley", "minimum/10"),
) -> Axes:
    """Draw the losses of a range test against its rates, and the rates that it suggests.

    Parameters
    ----------
    found : lrcore.tune.RangeTest
        The result of `lrcore.tune.range_test`.
    ax : Axes, optional
        Axes to draw on.
    suggestions : sequence of str
        The methods of `RangeTest.suggest` whose rates are marked. No rate is marked if `suggest` raises ValueError.

    Raises
    ------
    TypeError, ValueError
        If an argument is invalid.
    ImportError
        If matplotlib is not installed.
    """
    check = one_of(*get_args(SuggestionMethod))
    methods = [check("suggestions", each) for each in sequence("suggestions", suggestions)]
    fallen = int(found.smoothed.argmin()) if found.smoothed.size else 0
    # Losses after the minimum do not set the upper limit: if they diverged, they would flatten the others.
    before = found.losses[: fallen + 1] if fallen else found.losses
    if before.size:
        lowest, highest = _drawable("found", np.array([found.losses.min(), before.max()]))
    ax = _axes(ax)
    ax.plot(found.rates, found.losses, color="C0", alpha=0.35, linewidth=0.9, label="loss of each step")
    ax.plot(found.rates, found.smoothed, color="C0", linewidth=2, label="smoothed")
    try:
        marked = {method: found.suggest(method) for method in methods}
    except ValueError:
        marked = {}
    for color, (method, lr) in enumerate(marked.items(), 1):
        ax.axvline(lr, color=f"C{color}", linestyle="--", linewidth=1.3, label=f"{method}: {lr:.2g}")
    if found.mode == "exponential":
        ax.set_xscale("log")
    if fallen and lowest < highest:
        margin = 0.15 * (highest - lowest)
        ax.set_ylim(lowest - margin, highest + margin)
    _finish(ax, "learning rate", "loss")
    return ax


@explain_keywords
def training(losses: ArrayLike, lrs: ArrayLike, ax: Axes | None = None) -> Axes:
    """Draw the loss of a training run over its steps, and the learning rate below it.

    Parameters
    ----------
    losses, lrs : array of float, (n,)
        The loss and the learning rate of each step. The axis of the losses is logarithmic if all losses are > 0.
    ax : Axes, optional
        Axes to draw on, in a grid such as that of ``plt.subplots``. Their lower third becomes the axes of the rates.

    Returns
    -------
    Axes
        The axes of the losses. The axes of the rates are the last of ``ax.figure.axes``.

    Raises
    ------
    TypeError, ValueError
        If an argument is invalid.
    ImportError
        If matplotlib is not installed.
    """
    loss, rate = vector("losses", losses), vector("lrs", lrs)
    if not loss.size:
        raise ValueError("losses: expected at least one, got none")
    if rate.shape != loss.shape:
        raise ValueError(f"lrs: expected shape {loss.shape} like losses, got {rate.shape}")
    loss, rate = _drawable("losses", loss), _drawable("lrs", rate)
    above = _axes(ax)
    grid = above.get_subplotspec()
    if grid is None:
        raise ValueError("ax: expected axes in a grid, such as those of plt.subplots")
    rows = grid.subgridspec(2, 1, height_ratios=(2, 1))
    above.set_subplotspec(rows[0])
    below = above.figure.add_subplot(rows[1], sharex=above)
    above.tick_params(labelbottom=False)

    steps = np.arange(len(loss))
    window = max(1, len(loss) // 30)
    above.plot(steps, loss, color="C0", alpha=0.3, linewidth=0.8, label="each step")
    if window > 1:
        means = np.convolve(loss, np.full(window, 1 / window), mode="valid")
        middles = np.arange(len(means)) + (window - 1) / 2
        above.plot(middles, means, color="C0", linewidth=2, label=f"mean over {window} steps")
    if (loss > 0).all():
        above.set_yscale("log")
    below.plot(steps, rate, color="C1", linewidth=2, drawstyle="steps-post")
    below.set_ylim(bottom=0)
    _finish(above, "", "training loss")
    _finish(below, "step", "learning rate")
    return above


def _labels(labels: Any) -> tuple[str, ...]:
    """Check labels, which may be any iterable of strings except a string."""
    checked = sequence("labels", labels)
    for label in checked:
        if not isinstance(label, str):
            raise TypeError(f"labels: expected strings, got {safe_repr(label)}")
    return checked


def _drawable(name: str, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Check that matplotlib can draw the finite values."""
    too_large = values[np.isfinite(values) & (abs(values) > _LARGEST)]
    if too_large.size:
        raise ValueError(
            f"{name}: expected magnitudes up to {_LARGEST:g}, which matplotlib can draw, got {too_large[0]:g}"
        )
    return values


def _axes(ax: Axes | None) -> Axes:
    """Return the axes to draw on."""
    if ax is not None:
        return ax
    with optional_dependency("plot"):
        from matplotlib import pyplot
    _, ax = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    return ax


def _finish(ax: Any, x: str, y: str, **legend: Any) -> None:
    """Label the axes, and add a grid and a legend with the options in `legend`."""
    ax.set_xlabel(x)
    ax.set_ylabel(y)
    ax.grid(alpha=0.3)
    if ax.get_legend_handles_labels()[0]:
        ax.legend(fontsize="small", **legend)

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
from lrcore.optimizers import Optimizer
from lrcore.schedules import Rate, Schedule, as_schedule
from lrcore.schedules._state import states_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes


_EXAMINED = 200_000
"""Maximum number of steps at which a schedule is evaluated. If there are more, it is evaluated at evenly spaced ones."""
_POINTS = 10_000
"""Maximum number of points in a line."""

_COLORS = 10
"""Number of colors of matplotlib. More lines than that differ in their style."""
_STYLES = ("-", "--", ":", "-.")
_ROWS = 5
"""Number of entries above which a legend has several columns."""
_ABOVE: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0, 1), "frameon": False}
"""The options of a legend above the axes."""

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
    *rates: Rate | Optimizer,
    steps: int,
    labels: Sequence[str] | None = None,
    log: bool = False,
    ax: Axes | None = None,
) -> Axes:
    """Draw schedules over the steps 0 to ``steps - 1``.

    Parameters
    ----------
    *rates : float, schedule, callable or Optimizer
        Rates in any form that an optimizer accepts as `lr`. An optimizer stands for the rates of its groups: groups
        with equal rates are one line. Groups without elements are not drawn, nor are frozen groups, unless all groups
        are frozen.
    steps : int
        Number of steps to draw. If there are more than 200,000, the schedules are evaluated at 200,000 evenly spaced
        ones.
    labels : sequence of str, optional
        Labels for the legend, one for each line. The default is the repr of each schedule. If an optimizer has several
        lines, each repr follows the groups of its line, such as ``groups[1], groups[2]``; with more than ten lines, the
        label has only the groups.
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
    drawn: list[tuple[str, Schedule]] = []
    for rate in rates:
        drawn += rates_of(rate) if isinstance(rate, Optimizer) else [("", as_schedule(rate))]
    if labels is None:
        labels = [label_of(*each) if len(drawn) <= _COLORS else each[0] or repr(each[1]) for each in drawn]
    else:
        labels = _labels(labels)
    if len(labels) != len(drawn):
        raise ValueError(f"labels: expected {len(drawn)}, one for each line, got {len(labels)}")
    t = examined_steps(steps)
    lines = [_drawable("rates", schedule(t)) for _, schedule in drawn]
    ax = _axes(ax)
    for i, (values, label) in enumerate(zip(lines, labels, strict=True)):
        if log:
            values[values == 0] = np.nan
        kept = _outline(values)
        marker = "o" if steps == 1 else None  # a line with one point would be invisible
        ax.plot(
            t[kept],
            values[kept],
            drawstyle="steps-post",
            linestyle=_style(i),
            linewidth=1.8,
            marker=marker,
            label=textwrap.fill(label, 90),
        )
    if log:
        ax.set_yscale("log")
    else:
        ax.set_ylim(bottom=0)
    _finish(ax, "step", "learning rate", **_ABOVE)
    return ax


def rates_of(opt: Optimizer) -> list[tuple[str, Schedule]]:
    """Return the distinct rates of an optimizer's groups, each after the list of its groups, or "" if there is one rate.

    Groups without elements are left out, and so are frozen groups, unless all groups are frozen.
    """
    filled = [i for i, group in enumerate(opt.groups) if group.size] or [0]
    found: list[tuple[Schedule, list[int]]] = []
    for i in [i for i in filled if not opt.groups[i].frozen] or filled:
        group = opt.groups[i]
        rate = opt.schedule if group.schedule is None else group.schedule
        if group.lr_scale != 1:
            rate = rate * group.lr_scale
        for other, groups in found:
            # equal plateaus may differ in their states
            if rate == other and states_of(rate) == states_of(other):
                groups.append(i)
                break
        else:
            found.append((rate, [i]))
    return [(_listed(groups) if len(found) > 1 else "", rate) for rate, groups in found]


def _listed(groups: Sequence[int]) -> str:
    """Return groups as text, such as ``groups[0], groups[2]``; if there are many, only the first two and the last."""
    names = [f"groups[{i}]" for i in groups]
    return ", ".join(names if len(names) <= 4 else [*names[:2], "...", names[-1]])


def label_of(groups: str, rate: Schedule) -> str:
    """Return the label of a rate from the result of `rates_of`."""
    return f"{groups}: {rate!r}" if groups else repr(rate)


def _style(i: int) -> str:
    """Return the style of the line with the index i."""
    return _STYLES[i // _COLORS % len(_STYLES)]


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
    losses : array of float, (n,)
        The loss of each step. The axis of the losses is logarithmic if all losses are > 0.
    lrs : array of float, (n,) or (n, groups)
        The learning rate of each step, or the rates of ``opt.groups``, such as ``[group.lr for group in opt.groups]`` in
        each step. Equal columns are one line, whose label lists the groups. NaN leaves a gap, and a column of NaN is
        not drawn: use it for groups that take no steps, because they are frozen or have no elements.
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
    loss, rates = vector("losses", losses), vector("lrs", lrs, max_ndim=2)
    if not loss.size:
        raise ValueError("losses: expected at least one, got none")
    if rates.shape[0] != len(loss) or not rates.size:
        raise ValueError(
            f"lrs: expected shape {loss.shape} like losses, or ({len(loss)}, groups) with at least one group, "
            f"got {rates.shape}"
        )
    loss, rates = _drawable("losses", loss), _drawable("lrs", rates)
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
    for i, (groups, rate) in enumerate(_distinct(rates)):
        below.plot(
            steps,
            rate,
            color=f"C{1 + i}",
            linestyle=_style(i),
            linewidth=2,
            drawstyle="steps-post",
            label=groups or None,
        )
    below.set_ylim(bottom=0)
    _finish(above, "", "training loss")
    _finish(below, "step", "learning rate", **(_ABOVE if len(below.lines) > _ROWS else {}))
    return above


def _distinct(rates: NDArray[np.float64]) -> list[tuple[str, NDArray[np.float64]]]:
    """Return the rates of each step, or the distinct columns that are not all NaN, each after the list of its groups."""
    if rates.ndim == 1:
        return [("", rates)]
    found: dict[bytes, list[int]] = {}
    for i, column in enumerate(rates.T):
        if not np.isnan(column).all():
            found.setdefault(column.tobytes(), []).append(i)
    return [(_listed(groups) if len(found) > 1 else "", rates[:, groups[0]]) for groups in found.values()]


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
    """Label the axes, and add a grid and a legend with the options in `legend`.

    The legend has several columns if it has more than `_ROWS` entries and they are short.
    """
    ax.set_xlabel(x)
    ax.set_ylabel(y)
    ax.grid(alpha=0.3)
    if labels := ax.get_legend_handles_labels()[1]:
        most = 110 // (max(map(len, labels)) + 4)  # columns in a figure of 8 inches
        ax.legend(fontsize="small", ncols=max(1, min(-(-len(labels) // _ROWS), most)), **legend)

"""Plots with matplotlib, and text charts. The tests compare the drawn values, not pixels."""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import lrcore
from lrcore import schedules
from lrcore.plot._chart import chart
from lrcore.plot._duration import DEFAULT, duration
from lrcore.tune import RangeTest
from schedules.examples import every, label

plot: Any = lrcore.plot

METHODS = ("steepest", "valley", "minimum/10")
HUGE = 1e308


@pytest.fixture
def plt(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Yield pyplot with a backend that needs no screen, and close its figures afterwards."""
    pytest.importorskip("matplotlib")
    monkeypatch.setenv("MPLBACKEND", "agg")
    import matplotlib
    from matplotlib import pyplot

    before = matplotlib.get_backend()
    pyplot.switch_backend("agg")
    yield pyplot
    pyplot.close("all")
    pyplot.switch_backend(before)


def entries(ax: Any) -> list[str]:
    """Return the texts of the legend."""
    return [text.get_text() for text in ax.get_legend().get_texts()]


def found(mode: Any = "exponential", losses: Any = (20, 19, 13, 8, 7, 6, 5, 6, 9)) -> Any:
    values = np.array(losses, np.float64)
    rates = np.geomspace(1e-6, 1.0, len(values)) if len(values) else values
    return RangeTest(rates, values + 0.5, values, mode, "divergence")


@pytest.mark.parametrize("schedule", every(), ids=label)
def test_lines_hold_the_values(plt: Any, schedule: Any) -> None:
    ax = plot.schedules(schedule, steps=40)
    assert plt.gcf() is ax.figure
    (line,) = ax.lines
    np.testing.assert_array_equal(line.get_xydata(), np.c_[np.arange(40), schedule(np.arange(40))])
    assert line.get_drawstyle() == "steps-post"
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("step", "learning rate")
    assert [entry.replace("\n", " ") for entry in entries(ax)] == [repr(schedule)]
    assert (ax.get_xscale(), ax.get_yscale(), ax.get_ylim()[0]) == ("linear", "linear", 0)


def test_several_schedules_on_given_axes(plt: Any) -> None:
    figure, (left, right) = plt.subplots(1, 2)
    rates: list[Any] = [0.1, schedules.Cosine(0.1, 9), lambda t: 0.1 / (t + 1)]
    names = ["a number", "a schedule", "a callable"]
    assert plot.schedules(*rates, steps=9, labels=names, ax=right) is right
    assert entries(right) == names
    for line, rate in zip(right.lines, rates, strict=True):
        np.testing.assert_array_equal(line.get_ydata(), schedules.as_schedule(rate)(np.arange(9)))
    assert not left.lines
    assert plt.get_fignums() == [figure.number]


COSINE = schedules.Cosine(0.1, 9)
REDUCED = schedules.Plateau(0.1, patience=0)
for metric in (1, 1):
    REDUCED.observe(metric)
GROUPS: dict[str, tuple[list[dict[str, Any]], int, dict[str, int]]] = {
    # the settings of groups of one element, the number of other elements, and the group of each label
    "no groups": ([], 2, {repr(COSINE): 0}),
    "equal": ([{"lr": schedules.Cosine(0.1, 9)}, {"weight_decay": 0.5}], 2, {repr(COSINE): 1}),
    "scaled": (
        [{"lr_scale": 0.3}, {"lr": 0.2}, {"lr_scale": 0.3}, {"lr": COSINE}, {"lr": 0.2}],
        1,
        {
            f"groups[0], groups[4]: {COSINE!r}": 0,
            f"groups[1], groups[3]: {COSINE * 0.3!r}": 1,
            "groups[2], groups[5]: Constant(lr=0.2)": 2,
        },
    ),
    "empty rest": ([{"lr": 0.2}] * 3, 0, {"Constant(lr=0.2)": 1}),
    "frozen": ([{"lr": 0.2, "frozen": True}, {"lr_scale": 0.5, "frozen": True}], 1, {repr(COSINE): 0}),
    "all frozen": (
        [{"lr": 0.2, "frozen": True}, {"lr": 0.3, "frozen": True}],
        0,
        {"groups[1]: Constant(lr=0.2)": 1, "groups[2]: Constant(lr=0.3)": 2},
    ),
    "plateaus": (
        [{"lr": REDUCED}, {"lr": schedules.Plateau(0.1, patience=0)}, {"lr": REDUCED}],
        0,
        {f"groups[1], groups[3]: {REDUCED!r}": 1, f"groups[2]: {REDUCED!r}": 2},
    ),
    "many in one line": (
        [{"lr": 0.2}, {}, {}, {}, {}],
        1,
        {f"groups[0], groups[2], ..., groups[5]: {COSINE!r}": 0, "groups[1]: Constant(lr=0.2)": 1},
    ),
    "many lines": (
        [{"lr_scale": 0.5**i} for i in range(24)],
        1,
        {f"groups[{i}]": i for i in range(2, 25)} | {"groups[0], groups[1]": 0},
    ),
    "no elements": ([], 0, {repr(COSINE): 0}),
}


def grouped(settings: list[dict[str, Any]], others: int) -> lrcore.Adam:
    """Return an optimizer with groups of one element each, and with other elements."""
    groups = [{"params": (i, i + 1), **each} for i, each in enumerate(settings)]
    return lrcore.Adam(np.zeros(len(groups) + others, np.float32), COSINE, groups=groups)


@pytest.mark.parametrize("case", GROUPS)
def test_the_rates_of_an_optimizer(plt: Any, case: str) -> None:  # noqa: ARG001
    """An optimizer stands for the distinct rates of its groups, which are exactly those of its steps."""
    settings, others, expected = GROUPS[case]
    opt = grouped(settings, others)
    rates = []
    for t in range(9):
        opt.step_count = t
        rates.append([group.lr for group in opt.groups])
    ax = plot.schedules(0.5, opt, steps=9)
    first, *lines = ax.lines
    assert {*first.get_ydata()} == {0.5}
    labels = [entry.replace("\n", " ") for entry in entries(ax)[1:]]
    assert {*labels} == {*expected}
    for line, its in zip(lines, labels, strict=True):
        np.testing.assert_array_equal(line.get_ydata(), np.array(rates)[:, expected[its]])
    assert len({(line.get_color(), line.get_linestyle()) for line in ax.lines}) == len(ax.lines)
    ax.figure.canvas.draw()
    given = [f"{i}" for i in range(len(ax.lines))]
    assert entries(plot.schedules(0.5, opt, steps=9, labels=given)) == given


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("steps", [1, 2, 10_000, 10_001, 10**7])
def test_lines_of_any_length(plt: Any, steps: int, log: bool) -> None:  # noqa: ARG001
    """A line has at most 10,000 points from the first step to the last, without large gaps."""
    cosine = schedules.Cosine(0.1, steps)
    (line,) = plot.schedules(cosine, steps=steps, log=log).lines
    x = line.get_xdata()
    assert (x[0], x[-1]) == (0, steps - 1)
    assert min(steps, 5_000) <= len(x) <= 10_000
    np.testing.assert_array_equal(line.get_ydata(), cosine(x))
    assert np.diff(x, prepend=-1).max() <= max(1, steps / 2_000)


PULSES = schedules.PeriodicPulse(0.01, [(0.1, 999)])


def test_no_step_of_200_000_is_lost(plt: Any) -> None:  # noqa: ARG001
    """All pulses of a single step are in the line and in the chart, and so is the peak of a long decay."""
    pulses = np.arange(0, 50_000, 999)
    (line,) = plot.schedules(PULSES, steps=50_000).lines
    assert line.get_xdata()[line.get_ydata() == 0.1].tolist() == pulses.tolist()
    tops = cells(chart([PULSES], 50_000, plain=True), plain=True)[0]
    assert {*pulses * 64 // 50_000} <= {*np.flatnonzero(tops)}
    assert chart([schedules.InverseSqrt(0.01, 100)], 50_000).startswith(" 0.01 |")


def test_a_logarithmic_axis_leaves_zeros_out(plt: Any) -> None:  # noqa: ARG001
    linear = schedules.Linear(0.1, 0, steps=4)
    ax = plot.schedules(linear, steps=7, log=True)
    assert ax.get_yscale() == "log"
    y = ax.lines[0].get_ydata()
    assert np.isnan(y).tolist() == [False] * 4 + [True] * 3
    np.testing.assert_array_equal(y[:4], linear(np.arange(4)))
    plot.schedules(0.0, steps=3, log=True).figure.canvas.draw()


@pytest.mark.parametrize(("mode", "scale"), [("exponential", "log"), ("linear", "linear")])
def test_range_test(plt: Any, mode: Any, scale: str) -> None:
    test = found(mode)
    ax = plot.range_test(test)
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), test.losses)
    np.testing.assert_array_equal(ax.lines[1].get_ydata(), test.smoothed)
    for line in ax.lines[:2]:
        np.testing.assert_array_equal(line.get_xdata(), test.rates)
    assert [line.get_xdata()[0] for line in ax.lines[2:]] == [test.suggest(method) for method in METHODS]
    assert (ax.get_xscale(), ax.get_yscale()) == (scale, "linear")
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("learning rate", "loss")
    assert entries(ax) == [
        "loss of each step",
        "smoothed",
        *(f"{method}: {test.suggest(method):.2g}" for method in METHODS),
    ]
    ax.figure.canvas.draw()
    _, given = plt.subplots()
    assert test.plot(given) is given
    assert len(given.lines) == 5
    assert len(plot.range_test(test, suggestions=iter(["valley"])).lines) == 3
    assert len(plot.range_test(test, suggestions=[]).lines) == 2
    assert test.plot().figure is plt.gcf()


def test_a_range_test_without_suggestions(plt: Any) -> None:  # noqa: ARG001
    """A constant loss causes no warning either, although rounding makes its moving average seem to fall."""
    for losses in ([], [1], [0.0], [1, 2, 3, 4, 5, 6], [0.0] * 9, [2, 3, 2.1, 3, 1.9, 3, 2, 3], [2.3] * 9):
        test = found(losses=losses)
        test.smoothed[4:] = np.nextafter(test.smoothed[4:], 0)
        ax = test.plot()
        assert len(ax.lines) == 2
        ax.figure.canvas.draw()
    low, high = ax.get_ylim()
    assert low < 2.3 < high


@pytest.mark.parametrize("mode", ["exponential", "linear"])
def test_huge_losses(plt: Any, mode: Any) -> None:
    """Losses that diverge at the end are cut off, so that they do not flatten the rest of the curve.

    Other huge losses are refused, because they would overflow in matplotlib.
    """
    ax = plot.range_test(found(mode, [5, 4, 3, 2, 1, 2, 3, HUGE]))
    ax.figure.canvas.draw()
    low, high = ax.get_ylim()
    assert -1 < low < 1.5
    assert 5.5 < high < 10
    plt.close("all")
    message = r"^found: expected magnitudes up to 1e\+150, which matplotlib can draw, got -?1e\+308"
    for losses in ([HUGE, 5, 4, 3, 2, 1, 2, 3], [HUGE], [5, 4, 3, 2, -HUGE, 2], [1, 2, HUGE]):
        with pytest.raises(ValueError, match=message):
            plot.range_test(found(mode, losses))
        assert plt.get_fignums() == []
    for losses in ([1e150, 1e149, 5e148, 1e148, 1e147, 1e-300], [-1e150, 1e150]):
        plot.range_test(found(mode, losses)).figure.canvas.draw()


@pytest.mark.slow
def test_the_largest_that_is_drawn(plt: Any) -> None:  # noqa: ARG001
    for losses in ([1e150, -1e150, 0.0], np.geomspace(1e150, 1e-300, 64), [1.0, np.nan, np.inf, 2.0]):
        plot.training(losses, np.linspace(1e150, 0, len(losses))).figure.canvas.draw()
    for log in (False, True):
        ax = plot.schedules(lambda t: 1e150 / 10.0**t, 0.0, steps=300, log=log, labels=iter("ab"))
        ax.figure.canvas.draw()


def test_training(plt: Any) -> None:
    """For 60 losses, the moving mean has windows of 2. The sum of two halves is exact here."""
    losses, rates = np.arange(60.0) + 1, schedules.Cosine(0.1, 60)(np.arange(60))
    ax = plot.training(losses, rates)
    above, below = ax.figure.axes
    assert above is ax
    np.testing.assert_array_equal(above.lines[0].get_xydata(), np.c_[np.arange(60), losses])
    np.testing.assert_array_equal(above.lines[1].get_xydata(), np.c_[np.arange(59) + 0.5, losses[:-1] + 0.5])
    np.testing.assert_array_equal(below.lines[0].get_xydata(), np.c_[np.arange(60), rates])
    assert entries(above) == ["each step", "mean over 2 steps"]
    assert (above.get_ylabel(), below.get_ylabel()) == ("training loss", "learning rate")
    assert (above.get_yscale(), below.get_xlabel(), below.get_ylim()[0]) == ("log", "step", 0)
    assert above.get_xlim() == below.get_xlim()
    ax.figure.canvas.draw()
    upper, lower = above.get_position(), below.get_position()
    assert upper.y0 > lower.y1
    assert upper.height > 1.5 * lower.height

    figure, (left, right) = plt.subplots(1, 2)
    assert plot.training([3.0, 0.0], [1, 2], right) is right
    assert right.get_yscale() == "linear"
    assert figure.axes[:2] == [left, right]
    figure.canvas.draw()
    assert left.get_position().height > right.get_position().height
    plot.training([1.0], [0.1]).figure.canvas.draw()


def test_the_rates_of_groups_in_a_training(plt: Any) -> None:  # noqa: ARG001
    """Equal columns are one line. Missing rates leave gaps, and a column without rates is left out."""
    one, other, gone = np.linspace(1, 0, 9), np.full(9, 0.5), np.full(9, np.nan)
    thawed = np.where(np.arange(9) < 4, gone, one)
    cases: list[tuple[list[Any], dict[str, Any]]] = [
        ([one], {}),
        ([other, other, gone], {}),
        ([one, other, one, thawed, gone, thawed, one], {
            "groups[0], groups[2], groups[6]": one, "groups[1]": other, "groups[3], groups[5]": thawed,
        }),
        ([one * 0.5**i for i in range(25)], {f"groups[{i}]": one * 0.5**i for i in range(25)}),
    ]  # fmt: skip
    for columns, expected in cases:
        above, below = plot.training(np.ones(9), np.stack(columns, axis=1)).figure.axes
        assert (entries(below) if below.get_legend() else []) == [*expected]
        for line, values in zip(below.lines, expected.values() or columns[:1], strict=True):
            np.testing.assert_array_equal(line.get_ydata(), values)
        assert len({(line.get_color(), line.get_linestyle()) for line in below.lines}) == len(below.lines)
        above.figure.canvas.draw()


RATES: list[tuple[Any, dict[str, Any], str]] = [
    ((), {}, "rates: expected at least one schedule"),
    ((0.1,), {"steps": 0}, "steps: "),
    ((0.1,), {"steps": 2.5}, "steps: "),
    ((0.1,), {"log": 1}, "log: "),
    ((0.1,), {"labels": []}, "labels: expected 1, one for each line, got 0"),
    ((grouped([{"lr": 0.2}], 1),), {"labels": ["a"]}, "labels: expected 2, one for each line, got 1"),
    ((0.1, 0.2), {"labels": "ab"}, "labels: expected a sequence, got str"),
    ((0.1,), {"labels": [None]}, "labels: expected strings, got None"),
    ((0.1, lambda t: HUGE * (t == 1)), {}, r"rates: .* up to 1e\+150, .* 1e\+308"),
    ((-0.1,), {}, "lr: "),
]
SUGGESTIONS: list[tuple[Any, str]] = [
    ("valley", "expected a sequence, got str"),
    (3, "expected a sequence, got int"),
    ([3], "expected one of steepest, valley, minimum/10, got 3"),
]
TRAININGS: list[tuple[Any, Any, str]] = [
    ([], [], "losses: expected at least one, got none"),
    ([[1.0]], [[1.0]], "losses: "),
    *(
        ([1.0, 2.0], lrs, rf"lrs: expected shape \(2,\) like losses, or \(2, groups\) .*, got {shape}")
        for lrs, shape in (([1.0], r"\(1,\)"), ([[1.0, 2.0]], r"\(1, 2\)"), (np.empty((2, 0)), r"\(2, 0\)"))
    ),
    ([1.0, 2.0], [[[1.0]], [[2.0]]], "lrs: expected one or two dimensions, got 3"),
    ([1.0, 2.0], 0.1, "lrs: expected one or two dimensions, got 0"),
    ([1.0, 2.0], [[1.0], [2.0, 3.0]], "lrs: expected one or two dimensions, got rows of different lengths"),
    (["a"], [1.0], "losses: "),
    ([[1.0], [1.0, 2.0]], [1.0], "losses: "),
    ([1.0, -1e308, 1e200], [0.1] * 3, r"losses: .* up to 1e\+150, .* got -1e\+308"),
    ([1.0, 2.0], [0.1, 1e155], r"lrs: .* up to 1e\+150, .* got 1e\+155"),
]


@pytest.mark.parametrize(
    ("draw", "arguments", "options", "message"),
    [
        *(("schedules", rates, {"steps": 3} | options, message) for rates, options, message in RATES),
        *(("range_test", (found(),), {"suggestions": each}, f"suggestions: {m}") for each, m in SUGGESTIONS),
        *(("training", (losses, lrs), {}, message) for losses, lrs, message in TRAININGS),
    ],
)
def test_what_is_wrong_opens_no_figure(
    plt: Any, draw: str, arguments: Any, options: Any, message: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=f"^{message}"):
        getattr(plot, draw)(*arguments, **options)
    assert plt.get_fignums() == []


def test_a_training_needs_axes_of_a_grid(plt: Any) -> None:
    with pytest.raises(ValueError, match="^ax: expected axes in a grid"):
        plot.training([1.0], [1.0], plt.figure().add_axes((0, 0, 1, 1)))


def test_missing_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(sys.modules):
        if name.partition(".")[0] == "matplotlib":
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    draws: list[Callable[[], Any]] = [
        lambda: plot.schedules(0.1, steps=3),
        lambda: plot.range_test(found()),
        lambda: found().plot(),
        lambda: plot.training([1.0], [1.0]),
    ]
    for draw in draws:
        with pytest.raises(ImportError, match=r'^matplotlib is not installed: pip install "lrcore\[plot\]"$'):
            draw()


BRAILLE = [(0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (2, 1), (3, 0), (3, 1)]
"""The row and column of the dot that each bit stands for."""


def cells(text: str, plain: bool) -> Any:
    """Return a boolean array of the dots in a chart, read from its characters, with row 0 at the top."""
    *lines, axis, _ = text.splitlines()
    width = len(axis.partition("+")[2])
    rows = [line.partition("|")[2].ljust(width) for line in lines]
    if plain:
        return np.array([[character == "*" for character in row] for row in rows])
    dots = np.zeros((len(rows) * 4, width * 2), bool)
    for (y, row), (bit, (down, across)) in itertools.product(enumerate(rows), enumerate(BRAILLE)):
        dots[4 * y + down, across::2] = [c != " " and ord(c) - 0x2800 >> bit & 1 for c in row]
    return dots


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("steps", [1, 2, 3, 50, 63, 64, 65, 127, 128, 129, 1000, 4096])
def test_a_peak_is_in_its_cell(steps: int, plain: bool) -> None:
    """A single step of 1 among zeros reaches the top at its own position, and nowhere else."""
    for peak in {0, steps // 3, steps // 2, steps - 1}:
        dots = cells(chart([lambda t, peak=peak: (t == peak).astype(np.float64)], steps, plain=plain), plain)  # type: ignore[misc]
        top = np.flatnonzero(dots[0])
        columns = dots.shape[1]
        first, last = peak * columns / steps, (peak + 1) * columns / steps
        # a peak fills whole columns, and the falling line may reach the top of one more
        assert first - 1 < top[0]
        assert top[-1] <= math.ceil(last)
        assert dots[-1].any() == (steps > 1)


FALLING = [
    schedules.Linear(0.3, 0, 900),
    schedules.Exponential(0.1, 0.99),
    schedules.PiecewiseConstant([3, 60], [1, 0.5, 0.1]),
]


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("steps", [1, 5, 64, 100, 1000, 10**6])
@pytest.mark.parametrize("schedule", FALLING, ids=label)
def test_what_falls_falls_in_the_chart(schedule: Any, steps: int, plain: bool) -> None:
    dots = cells(chart([schedule], steps, plain=plain), plain)
    highest = dots.argmax(0)
    lowest = len(dots) - 1 - dots[::-1].argmax(0)
    assert dots.any(0).all()  # no column is empty
    assert (np.diff(highest) >= 0).all()
    assert (np.diff(lowest) >= 0).all()
    assert (highest[1:] <= lowest[:-1] + 1).all()  # no gap between one column and the next
    assert highest[0] == 0
    last = round((1 - schedule(steps - 1) / schedule(0)) * (len(dots) - 1))
    assert abs(int(lowest[-1]) - last) <= 1  # a chart of many steps evaluates only some of them


@pytest.mark.parametrize("plain", [False, True])
def test_constant_rates(plain: bool) -> None:
    for steps in (1, 7, 1000):
        zero = cells(chart([schedules.Constant(0)], steps, plain=plain), plain)
        assert zero[-1].all()
        assert not zero[:-1].any()
        other = cells(chart([schedules.Constant(0.25)], steps, plain=plain), plain)
        assert other[0].all()
        assert not other[1:].any()


def test_labels_and_size() -> None:
    text = chart([schedules.Linear(0.25, 0, 100)], 120, width=20, height=5)
    lines = text.splitlines()
    assert [line.partition("|")[0].strip() for line in lines[:5]] == ["0.25", "", "0.125", "", "0"]
    assert lines[5].strip() == "+" + "-" * 20
    assert lines[6].split() == ["0", "119"]
    assert {len(line.partition("|")[2]) for line in lines[:5]} <= set(range(21))
    assert len(lines[6]) == len(lines[5])
    assert not any(line.endswith(" ") for line in lines[1:4:2])


def test_several_lines_in_one_chart() -> None:
    """All lines share the scale of the highest one. Where lines cross, the last one is visible."""
    rates = [schedules.Linear(0.2, 0, 50), schedules.Constant(0.1), schedules.Linear(0, 0.2, 50)]
    text = chart(rates, 51, width=17, height=5)
    rows = [line.partition("|")[2].ljust(17) for line in text.splitlines()[:5]]
    falling, rising = (
        cells(chart([rate], 51, width=17, height=5, plain=True), plain=True) for rate in rates[::2]
    )
    np.testing.assert_array_equal([[each == "3" for each in row] for row in rows], rising)
    assert rows[2].replace("3", "2") == "2" * 17
    for y in (0, 1, 3, 4):
        assert [each == "1" for each in rows[y]] == list(falling[y] & ~rising[y])
    assert len(text.splitlines()) == 7


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        # to the end of the schedule, plus a tenth
        ("Cosine(0.1, steps=80)", 88),
        ("Cosine(0.1, steps=80).warmup(20) * 0.5", 110),
        ("Linear(0.1, 0.0999, steps=100000)", 110_000),
        ("PiecewiseConstant([3, 60], [1, 0.5, 0.1])", 66),
        ("Constant(0.08).then(Linear(0.08, 0, steps=20), at=80)", 110),
        # twice the steps after which the rate stays below 0.3 of its highest value:
        # 0.97^t <= 0.3 from t = 40, and 1 / (1 + 0.1 t) <= 0.3 from t = 24
        ("Exponential(0.1, rate=0.97)", 80),
        ("InverseTime(0.1, k=0.1)", 48),
        ("StepDecay(0.1, every=30)", 60),
        # four periods
        ("Cyclic(0.01, 0.1, up=2000)", 16_000),
        ("Cyclic(0.09, 0.1, up=2000)", 16_000),  # never below 0.3 of its highest rate
        ("CyclicStages([(0.1, 30), (0.2, 40)])", 280),
        # the rates suggest no number of steps
        ("0.1", DEFAULT),
        ("Plateau(0.1)", DEFAULT),
        ("Exponential(0.1, rate=1.01)", DEFAULT),
        ("CosineRestarts(0.1, steps=20, cycle_mult=2)", DEFAULT),
    ],
)
def test_how_many_steps_show_a_schedule(text: str, steps: int) -> None:
    assert duration(schedules.parse(text)) == steps

"""The learning-rate range test: a short training run at increasing rates, whose effects are undone afterwards."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from lrcore import plot
from lrcore._arrays.memory import allocate
from lrcore._checks import flag, fraction, nonnegative_float32, num_steps, one_of, positive
from lrcore._extras import progress_bar
from lrcore._lrcore_core import commit, copy, to_float
from lrcore._names import explain_keywords
from lrcore.optimizers._base import Optimizer
from lrcore.optimizers._settings import Change
from lrcore.plot._figures import SuggestionMethod
from lrcore.schedules._state import states_of, states_to_set
from lrcore.tune._diagnose import FLAT, ROUNDING, noise_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Growth: TypeAlias = Literal["exponential", "linear"]
End: TypeAlias = Literal["steps", "divergence", "not finite"]

_SPACES: dict[Growth, Callable[[float, float, int], NDArray[np.float64]]] = {
    "exponential": np.geomspace,
    "linear": np.linspace,
}


@explain_keywords
@dataclasses.dataclass(frozen=True, eq=False)
class RangeTest:
    """The result of a range test.

    Attributes
    ----------
    rates : array of float64, (n,)
        The learning rate of each step. If `stopped_by` is "divergence", the last step was not taken.
    losses : array of float64, (n,)
        The loss before each step.
    smoothed : array of float64, (n,)
        The exponential moving average of the losses, with bias correction.
    mode : str
        "exponential" if the rates grew by a constant factor, "linear" if they grew by a constant difference.
    stopped_by : str
        "steps" if all steps were taken, "divergence" if the smoothed loss exceeded its minimum by too much (see
        `stop_factor`), or "not finite" if a loss was infinite or NaN. That loss is not in `losses`.
    """

    rates: NDArray[np.float64]
    losses: NDArray[np.float64]
    smoothed: NDArray[np.float64]
    mode: Growth
    stopped_by: End

    METHODS: ClassVar[tuple[SuggestionMethod, ...]] = get_args(SuggestionMethod)
    """The methods that `suggest` accepts."""

    @explain_keywords
    def suggest(self, method: SuggestionMethod = "steepest") -> float:
        """Suggest a learning rate.

        Parameters
        ----------
        method : {"steepest", "valley", "minimum/10"}
            - "steepest": the rate at which the smoothed loss falls most steeply on its way to the minimum.
              The slope is that of a line through a tenth of the points, plotted against the logarithm of
              the rate, or against the rate itself if `mode` is "linear".
            - "valley": the rate that precedes the end of the longest decreasing subsequence of the
              smoothed loss by half the length of that subsequence.
            - "minimum/10": a tenth of the rate at which the smoothed loss is lowest.

        Raises
        ------
        ValueError
            If there are fewer than five losses, if they did not change, or if their fall may be chance: the
            mean of the tenth that ends at the minimum must be more than three standard errors below the mean
            of the first tenth.

        References
        ----------
        Smith 2017, "Cyclical Learning Rates for Training Neural Networks", section 3.3. "valley" is fastai's method.
        """
        suggestion = _SUGGESTIONS[one_of(*self.METHODS)("method", method)]
        if len(self.losses) < 5:
            raise ValueError(
                f"suggest: expected at least 5 losses, got {len(self.losses)}; start at a smaller rate"
            )
        if np.ptp(_scaled(self.losses)) <= ROUNDING:
            raise ValueError(
                "suggest: the loss did not change; check that the closure fills the bound gradients"
            )
        if not _fell(self):
            raise ValueError(
                "suggest: the loss never fell by more than its noise; start at a smaller rate, take more steps, or "
                "check that the closure fills the bound gradients"
            )
        return suggestion(self)

    @explain_keywords
    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the losses against the rates with `lrcore.plot.range_test`."""
        return plot.range_test(self, ax)


def _scaled(losses: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the losses divided by their largest magnitude, so that no difference overflows."""
    return losses / (abs(losses).max() or 1.0)


def _width(found: RangeTest) -> int:
    """Return a tenth of the number of points, at least 3."""
    return max(3, len(found.rates) // 10)


def _fell(found: RangeTest) -> bool:
    """Return whether the fall of the losses up to the minimum is larger than chance would explain."""
    lowest = int(np.argmin(found.smoothed))
    if lowest == 0:
        return False
    losses, width = _scaled(found.losses), _width(found)
    before, after = losses[:width], losses[: lowest + 1][-width:]
    # second differences cancel a steady fall
    error = noise_of(losses, 2) * math.hypot(1 / math.sqrt(len(before)), 1 / math.sqrt(len(after)))
    return float(before.mean() - after.mean()) > FLAT * error


def _steepest(found: RangeTest) -> float:
    along = np.log(found.rates) if found.mode == "exponential" else found.rates
    smoothed, width = _scaled(found.smoothed), _width(found)
    begins = range(max(1, int(np.argmin(smoothed)) + 2 - width))
    slopes = [
        np.polynomial.Polynomial.fit(along[i : i + width], smoothed[i : i + width], 1).deriv()(0)
        for i in begins
    ]
    begin = int(np.argmin(slopes))
    middle = float(along[begin : begin + width].mean())
    return math.exp(middle) if found.mode == "exponential" else middle


def _valley(found: RangeTest) -> float:
    smoothed = found.smoothed
    lengths = np.ones(len(smoothed), int)  # of the longest decreasing subsequence ending at i
    for i in range(1, len(smoothed)):
        lengths[i] += np.max(lengths[:i], where=smoothed[:i] > smoothed[i], initial=0)
    end = int(np.argmax(lengths))
    return float(found.rates[end - lengths[end] // 2])


def _tenth_of_minimum(found: RangeTest) -> float:
    return float(found.rates[np.argmin(found.smoothed)] / 10)


_SUGGESTIONS: dict[SuggestionMethod, Callable[[RangeTest], float]] = {
    "steepest": _steepest,
    "valley": _valley,
    "minimum/10": _tenth_of_minimum,
}


def _restorer(opt: Optimizer) -> Callable[[], object]:
    """Return a function that restores the current parameters, states, step count, hyperparameters and schedule.

    The function is a single call into the extension module, which Ctrl-C cannot interrupt.
    """
    params = allocate(opt._memory)
    copy(opt._array, params)
    states = [allocate(opt._memory) for _ in opt.state]
    step_count, counts, settings, schedule, skipped_steps = opt._snapshot(states)
    every = [schedule, *settings.schedules()]
    observed = [attribute for each in every for attribute in states_to_set(each, states_of(each))]
    numbers, rate = opt._new_settings(settings), opt._rate_of(schedule)
    change = Change(opt, states, step_count, counts, numbers, rate, params, skipped_steps)
    return functools.partial(commit, [change], observed)


@explain_keywords
def range_test(
    opt: Optimizer,
    closure: Callable[[], Any],
    lr_min: float = 1e-7,
    lr_max: float = 10.0,
    steps: int = 100,
    mode: Growth = "exponential",
    smoothing: float = 0.9,
    stop_factor: float = 4.0,
    *,
    progress: bool = False,
) -> RangeTest:
    """Take steps at increasing learning rates, then undo them.

    Parameter groups with a rate of their own keep that rate during the test.

    At the end, even after an exception or Ctrl-C, the parameters and the optimizer's states, step count and
    schedule, including the observations of a `Plateau`, are restored bitwise. The gradients keep their values
    from the last call of `closure`.

    Parameters
    ----------
    opt : Optimizer
        An optimizer with bound gradients, such as ``lrcore.Adam(params, grads=grads)``.
    closure : callable
        A function without arguments that fills the bound gradients for the next batch and returns the loss.
    lr_min, lr_max : float
        The first and the last rate.
    steps : int
        Number of rates.
    mode : {"exponential", "linear"}
        Whether the rate grows by a constant factor or by a constant difference at each step.
    smoothing : float
        Weight of the previous value in the moving average of the losses, in [0, 1).
    stop_factor : float
        The test ends early if the smoothed loss exceeds its minimum so far by more than
        ``(stop_factor - 1) |minimum|``. If the losses are > 0, this means that it exceeds `stop_factor` times the
        minimum. Because the minimum may be close to 0, the excess must also be more than a tenth of the fall so far.
    progress : bool
        Whether to show a progress bar on stderr.

    Raises
    ------
    TypeError, ValueError
        If an argument is invalid, or `closure` does not return a number.
    ImportError
        If `progress` is true and tqdm is not installed.

    References
    ----------
    Smith 2017, "Cyclical Learning Rates for Training Neural Networks", section 3.3.

    Examples
    --------
    >>> params, grads = numpy.ones(3, numpy.float32), numpy.empty(3, numpy.float32)
    >>> opt = lrcore.SGD(params, grads=grads)
    >>> def closure():
    ...     grads[:] = params
    ...     return (params**2).sum() / 2
    >>> found = range_test(opt, closure, 1e-4, 100.0)
    >>> len(found.rates), opt.step_count, params
    (100, 0, array([1., 1., 1.], dtype=float32))
    >>> 0.01 < found.suggest() < 2
    True
    """
    _check_optimizer(opt)
    lr_min, lr_max = nonnegative_float32("lr_min", lr_min), nonnegative_float32("lr_max", lr_max)
    if lr_min == 0:
        raise ValueError("lr_min: expected a number > 0, got 0")
    if lr_min >= lr_max:
        raise ValueError(f"lr_min: expected a number less than lr_max = {lr_max}, got {lr_min}")
    steps = num_steps("steps", steps, least=2)
    space = _SPACES[one_of(*get_args(Growth))("mode", mode)]
    smoothing, stop_factor = fraction("smoothing", smoothing), positive("stop_factor", stop_factor)
    if stop_factor <= 1:
        raise ValueError(f"stop_factor: expected a number > 1, got {stop_factor}")
    progress = flag("progress", progress)
    if not callable(closure):
        raise TypeError(f"closure: expected a callable, got {type(closure).__name__}")

    rates = space(lr_min, lr_max, steps)
    losses: list[float] = []
    smoothed: list[float] = []
    average = 0.0
    stopped_by: End = "steps"
    restore = _restorer(opt)
    try:
        with progress_bar("tune", steps, "step", shown=progress, title="range test") as bar:
            for lr in rates.tolist():
                loss = to_float("closure", closure())
                if not math.isfinite(loss):
                    stopped_by = "not finite"
                    break
                average = smoothing * average + (1 - smoothing) * loss
                losses.append(loss)
                smoothed.append(average / (1 - smoothing ** len(losses)))
                lowest = min(smoothed)
                if smoothed[-1] > lowest + max((stop_factor - 1) * abs(lowest), (smoothed[0] - lowest) / 10):
                    stopped_by = "divergence"
                    break
                opt.lr = lr
                opt.step()
                bar.update()
    finally:
        restore()
    return RangeTest(rates[: len(losses)], np.array(losses), np.array(smoothed), mode, stopped_by)


def _check_optimizer(opt: Any) -> None:
    if not isinstance(opt, Optimizer):
        raise TypeError(f"opt: expected an optimizer, got {type(opt).__name__}")
    if opt.grads is None:
        raise ValueError(
            "opt: expected bound gradients, which the closure fills; pass grads= to the constructor"
        )
    if opt._max_steps is not None:
        raise ValueError(
            "opt: expected an optimizer that is not capturable, because the rates of a capturable one are fixed"
        )

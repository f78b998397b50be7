"""Bayesian search for a learning rate with Optuna."""

from __future__ import annotations

import dataclasses
import itertools
import math
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

from lrcore._checks import integer, one_of, positive
from lrcore._extras import require_installed
from lrcore._lrcore_core import to_float
from lrcore._names import explain_keywords

if TYPE_CHECKING:
    import optuna

Report: TypeAlias = Callable[[float], None]

Sampler: TypeAlias = Literal["tpe", "gp", "random"]
Direction: TypeAlias = Literal["minimize", "maximize"]

_PATIENCE = 10.0
"""Seconds for which to retry the creation of a storage while other processes are creating it."""


@explain_keywords
@dataclasses.dataclass(frozen=True)
class Trial:
    """One training run of a search.

    Attributes
    ----------
    lr : float
        The learning rate.
    value : float or None
        The result of the run, or None if the run was pruned. A result that was NaN or infinite is recorded as
        infinity, or as minus infinity when maximizing.
    pruned : bool
        Whether the run was stopped early.
    """

    lr: float
    value: float | None
    pruned: bool


@explain_keywords
@dataclasses.dataclass(frozen=True)
class Search:
    """The result of a search.

    Attributes
    ----------
    lr : float
        The rate of the best run.
    value : float
        The result of that run.
    trials : tuple of Trial
        All completed or pruned runs, in order.
    study : optuna.Study
        The study, for Optuna's own plots and analyses.
    """

    lr: float
    value: float
    trials: tuple[Trial, ...]
    study: optuna.Study = dataclasses.field(repr=False)


@explain_keywords
def search(
    train: Callable[[float, Report], float],
    low: float,
    high: float,
    trials: int,
    sampler: Sampler = "tpe",
    *,
    direction: Direction = "minimize",
    storage: str | Path | None = None,
    name: str = "lrcore",
    seed: int | None = None,
    progress: bool = False,
) -> Search:
    """Search for a learning rate on a logarithmic scale.

    Parameters
    ----------
    train : callable
        A function that takes a rate and a callable `report`, and returns the result of a training run, such
        as the validation loss. It may call ``report(loss)`` after each epoch. `report` ends the run with an
        exception if the loss is not finite or, once five runs are completed, if it is worse than their median
        at that epoch.
    low, high : float
        Bounds of the rate, > 0.
    trials : int
        Number of completed or pruned training runs. Runs that are already in the storage are included if their rate
        is between `low` and `high`. The storage is checked before each run, so several processes that share it perform
        `trials` runs in total, plus at most one run each that had already begun.
    sampler : {"tpe", "gp", "random"}
        A tree-structured Parzen estimator, a Gaussian process (which needs PyTorch), or no model.
    direction : {"minimize", "maximize"}
        Whether a smaller or a larger result is better.
    storage : str or path, optional
        An SQLite file, or the URL of another Optuna storage. An interrupted search can be continued by calling
        `search` again with the same storage and name.
    name : str
        Name of the study in the storage.
    seed : int, optional
        Seed for a repeatable search. Searches that run at the same time need different seeds; with equal
        seeds they try the same rates.
    progress : bool
        Whether to show Optuna's progress bar.

    Raises
    ------
    TypeError, ValueError
        If an argument is invalid, the storage cannot be used, or no run has a finite result.
    ImportError
        If Optuna, or a package that the sampler needs, is not installed.

    References
    ----------
    Bergstra et al. 2011, "Algorithms for Hyper-Parameter Optimization" (tpe). Snoek et al. 2012, "Practical Bayesian
    Optimization of Machine Learning Algorithms" (gp). Akiba et al. 2019, "Optuna".
    """
    low, high = positive("low", low), positive("high", high)
    if low >= high:
        raise ValueError(f"low: expected a number less than high = {high}, got {low}")
    trials = integer("trials", trials)
    one_of(*get_args(Sampler))("sampler", sampler)
    worst = math.inf if one_of(*get_args(Direction))("direction", direction) == "minimize" else -math.inf
    if seed is not None and integer("seed", seed, least=0) >= 2**32:
        raise ValueError(f"seed: expected a number < 2**32, got {seed}")
    if not callable(train):
        raise TypeError(f"train: expected a callable, got {type(train).__name__}")
    require_installed("tune", "optuna", "sqlalchemy")
    import optuna

    def objective(trial: optuna.Trial) -> float:
        epochs = itertools.count()

        def report(metric: float) -> None:
            value = to_float("report", metric)
            finite = math.isfinite(value)
            trial.report(value if finite else worst, step=next(epochs))
            if not finite or trial.should_prune():
                raise optuna.TrialPruned

        value = to_float("train", train(trial.suggest_float("lr", low, high, log=True), report))
        return value if math.isfinite(value) else worst

    study = _study(name, storage, direction)
    if [each.name for each in study.directions] != [direction.upper()]:
        found = ", ".join(each.name.lower() for each in study.directions)
        raise ValueError(f"direction: expected {found}, as in the stored study {name!r}, got {direction}")
    study.sampler = _sampler(sampler, None if seed is None else (seed + len(study.trials)) % 2**32)
    missing = trials - len(_finished(study, low, high))

    def stop_if_done(study: optuna.Study, _: optuna.trial.FrozenTrial) -> None:
        if len(_finished(study, low, high)) >= trials:  # including those of other processes
            study.stop()

    if missing > 0:
        study.optimize(objective, n_trials=missing, callbacks=[stop_if_done], show_progress_bar=progress)

    finished = _finished(study, low, high)
    results = [each.value for each in finished if each.value is not None and math.isfinite(each.value)]
    if not results:
        raise ValueError(
            f"search: expected a finite result, got none for rates from {low} to {high}; try a smaller high"
        )
    value = min(results) if direction == "minimize" else max(results)
    lr = next(each.lr for each in finished if each.value == value)
    return Search(lr, value, finished, study)


def _study(name: str, storage: str | Path | None, direction: Direction) -> optuna.Study:
    """Return the study of this name from the storage if it has one, else a new study."""
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    url = _url(storage)
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            return optuna.create_study(
                study_name=name, storage=url, direction=direction, load_if_exists=storage is not None
            )
        except (OSError, SQLAlchemyError, optuna.exceptions.OptunaError) as error:
            if not _is_race(error) or time.monotonic() > deadline:
                raise ValueError(f"storage: Optuna cannot use {storage}: {error}") from error
        time.sleep(random.uniform(0.01, 0.1))


def _is_race(error: Exception) -> bool:
    """Return whether a storage could not be created because another process was creating it at the same time."""
    from sqlalchemy.exc import IntegrityError

    return any(
        isinstance(each, IntegrityError) or "already exists" in str(each) or "is locked" in str(each)
        for each in (error, error.__cause__)  # Optuna wraps some of these errors
    )


def _url(storage: str | Path | None) -> str | None:
    """Return the URL of a storage for Optuna."""
    if storage is None:
        return None
    if not isinstance(storage, (str, Path)):
        raise TypeError(f"storage: expected the path of a file or a URL, got {type(storage).__name__}")
    if not str(storage):
        raise ValueError("storage: expected the path of a file or a URL, got an empty string")
    if "://" in str(storage):
        return str(storage)
    if "?" in str(storage):
        raise ValueError(f"storage: expected the path of a file without '?', got {str(storage)!r}")
    return f"sqlite:///{storage}"


def _sampler(name: Sampler, seed: int | None) -> optuna.samplers.BaseSampler:
    from optuna import samplers

    if name == "random":
        return samplers.RandomSampler(seed=seed)
    if name == "tpe":
        return samplers.TPESampler(seed=seed)
    require_installed("tune", "scipy")
    try:
        import torch  # noqa: F401
    except ModuleNotFoundError as error:
        raise ImportError(
            "torch is not installed, and Optuna's Gaussian process needs it: pip install torch"
        ) from error
    return samplers.GPSampler(seed=seed)


def _finished(study: optuna.Study, low: float, high: float) -> tuple[Trial, ...]:
    """Return the completed or pruned trials within the bounds; others were interrupted or are still running."""
    return tuple(
        Trial(
            each.params["lr"],
            None if each.state.name == "PRUNED" else each.value,
            each.state.name == "PRUNED",
        )
        for each in study.get_trials(deepcopy=False)
        if each.state.name in ("COMPLETE", "PRUNED") and low <= each.params.get("lr", 0) <= high
    )

"""The Bayesian search for a learning rate. Equal searches try bitwise identical rates."""

from __future__ import annotations

import dataclasses
import logging
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lrcore.tune import Search, _search, search
from support import slow_but_first

SAMPLERS = ["tpe", "random"]


@pytest.fixture(autouse=True)
def optuna() -> Iterator[Any]:
    """Yield Optuna with its log limited to errors, or skip the test if Optuna is not installed."""
    module = pytest.importorskip("optuna")
    before = module.logging.get_verbosity()
    module.logging.set_verbosity(logging.ERROR)
    yield module
    module.logging.set_verbosity(before)


def bowl(lr: float, _report: Any = None) -> float:
    """Return a loss that is 0 at 0.01, and 1 at a distance of a decade."""
    return (math.log10(lr) + 2) ** 2


class Training:
    """A training function that records its rates, and can raise an exception in one of its calls."""

    def __init__(self, fail_at: int | None = None, error: type[BaseException] = RuntimeError) -> None:
        self.rates: list[float] = []
        self._fail_at, self._error = fail_at, error

    def __call__(self, lr: float, report: Callable[[float], None]) -> float:
        self.rates.append(lr)
        if len(self.rates) == self._fail_at:
            raise self._error
        for _ in range(2):
            report(bowl(lr))
        return bowl(lr)


def rates(found: Search) -> list[float]:
    return [trial.lr for trial in found.trials]


def check(found: Search, sign: int = 1) -> None:
    """Check that the result of a search is consistent."""
    values = [sign * trial.value for trial in found.trials if trial.value is not None]
    assert sign * found.value == min(values)
    best = [trial.lr for trial in found.trials if trial.value == found.value]
    assert found.lr == best[0]
    assert all(trial.pruned == (trial.value is None) for trial in found.trials)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize(("direction", "sign"), [("minimize", 1), ("maximize", -1)])
def test_it_finds_the_best_rate(sampler: Any, direction: Any, sign: int) -> None:
    """The best rate found is within a third of a decade of the best rate.

    With 50 random rates in five decades, one search in a thousand tries no rate in this range.
    """
    training = Training()
    found = search(
        lambda lr, _: sign * training(lr, lambda _: None), 1e-5, 1.0, 50, sampler, direction=direction, seed=4
    )
    check(found, sign)
    assert abs(math.log10(found.lr) + 2) < 1 / 3
    assert found.value == sign * bowl(found.lr)
    assert rates(found) == training.rates
    assert len(set(rates(found))) == len(found.study.trials) == 50
    assert min(rates(found)) >= 1e-5
    assert max(rates(found)) <= 1


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_rates_are_even_on_a_logarithmic_scale(sampler: Any) -> None:
    """If the rates themselves were evenly distributed, about one in a hundred would be below 1e-2."""
    found = search(bowl, 1e-4, 1.0, 20, sampler, seed=1)
    assert sum(lr < 1e-2 for lr in rates(found)) >= 5


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_seed_repeats_a_search(sampler: Any) -> None:
    first, again, other = (search(bowl, 1e-5, 1.0, 12, sampler, seed=seed) for seed in (3, 3, 5))
    assert rates(first) == rates(again)
    assert first.trials == again.trials
    assert rates(first) != rates(other)
    assert rates(search(bowl, 1e-5, 1.0, 3, sampler)) != rates(search(bowl, 1e-5, 1.0, 3, sampler))


@pytest.mark.parametrize(("direction", "sign"), [("minimize", 1), ("maximize", -1)])
def test_trainings_that_are_worse_than_the_median_are_pruned(direction: Any, sign: int) -> None:
    """Once five runs are complete, a run is pruned if it is worse than the median of the completed ones."""
    reports = 0

    def train(lr: float, report: Callable[[float], None]) -> float:
        nonlocal reports
        for _ in range(3):
            reports += 1
            report(sign * bowl(lr))
        return sign * bowl(lr)

    found = search(train, 1e-5, 1.0, 30, "random", direction=direction, seed=2)
    check(found, sign)
    completed: list[float] = []
    for lr, _, pruned in map(dataclasses.astuple, found.trials):
        assert pruned == (len(completed) >= 5 and bowl(lr) > np.median(completed))
        completed += [] if pruned else [bowl(lr)]
    assert 5 < len(completed) < 30
    assert reports == 3 * len(completed) + 30 - len(completed)  # each pruned run ended at its first report


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("sampler", "direction", "worst"),
    [("random", "minimize", math.inf), ("random", "maximize", -math.inf), ("tpe", "minimize", math.inf)],
)
def test_results_that_are_not_finite(wrong: float, sampler: Any, direction: Any, worst: float) -> None:
    """Non-finite results count as the worst possible results, even if they look like the best."""
    found = search(
        lambda lr, _: wrong if lr > 1e-2 else lr, 1e-4, 1.0, 12, sampler, direction=direction, seed=3
    )
    check(found, 1 if direction == "minimize" else -1)
    assert found.lr <= 1e-2
    assert {trial.value for trial in found.trials if trial.lr > 1e-2} == {worst}


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_without_a_finite_result_there_is_none(wrong: float) -> None:
    with pytest.raises(
        ValueError, match=r"^search: expected a finite result, got none for rates from 0.1 to 1.0; try"
    ):
        search(lambda *_: wrong, 0.1, 1.0, 3)

    def train(_: float, report: Callable[[float], None]) -> float:
        report(wrong)
        return 1.0

    with pytest.raises(ValueError, match="^search: expected a finite result"):
        search(train, 0.1, 1.0, 3)


@pytest.mark.parametrize("error", slow_but_first([KeyboardInterrupt, RuntimeError]))
def test_an_interrupted_search_goes_on(error: type[BaseException], tmp_path: Path) -> None:
    path = tmp_path / "rates of a search.db"
    first, second, third = Training(4, error), Training(), Training()
    with pytest.raises(error):
        search(first, 1e-5, 1.0, 7, storage=path, seed=1)
    found = search(second, 1e-5, 1.0, 7, storage=path, seed=1)
    check(found)
    assert rates(found) == first.rates[:3] + second.rates
    assert len(set(rates(found))) == 7
    again = search(third, 1e-5, 1.0, 7, storage=str(path), seed=1)
    assert again.trials == found.trials
    with pytest.raises(
        ValueError, match="^direction: expected minimize, as in the stored study 'lrcore', got maximize"
    ):
        search(third, 1e-5, 1.0, 7, storage=path, direction="maximize")
    assert (again.lr, again.value, third.rates) == (found.lr, found.value, [])


def test_trainings_outside_of_the_bounds_are_not_counted(tmp_path: Path) -> None:
    storage = tmp_path / "a.db"
    for low, high in ((1e-5, 1e-4), (0.1, 1.0)):
        search(bowl, low, high, 3, storage=storage, seed=1)
    found = search(bowl, 1e-3, 1e-2, 2, storage=storage, seed=1)
    assert len(found.trials) == 2
    assert all(1e-3 <= lr <= 1e-2 for lr in rates(found))


def test_pruned_trainings_are_listed_and_not_repeated(tmp_path: Path) -> None:
    """A report of NaN ends a training run, so its result is never used."""

    def train(lr: float, report: Callable[[float], None]) -> float:
        called.append(lr)
        report(math.nan if len(called) % 2 else 1.0)
        return bowl(lr)

    called: list[float] = []
    search(train, 1e-5, 1.0, 4, storage=tmp_path / "a.db", seed=1)
    found = search(train, 1e-5, 1.0, 6, storage=tmp_path / "a.db", seed=1)
    check(found)
    assert rates(found) == called
    assert [trial.pruned for trial in found.trials] == [True, False] * 3
    reports = [[*trial.intermediate_values.values()] for trial in found.study.trials]
    assert reports == [[math.inf], [1.0]] * 3  # as passed to the samplers
    other = search(bowl, 1e-5, 1.0, 2, storage=f"sqlite:///{tmp_path}/a.db", name="other", seed=1)
    assert len(other.trials) == 2


def test_what_a_training_raises_comes_through() -> None:
    training = Training(3, OSError)
    with pytest.raises(OSError):
        search(training, 1e-5, 1.0, 9)
    assert len(training.rates) == 3
    with pytest.raises(TypeError, match="^train: expected a number, got None$"):
        search(lambda *_: None, 1e-5, 1.0, 9)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="^report: expected a number, got str"):
        search(lambda _, report: report("high"), 1e-5, 1.0, 9)  # type: ignore[arg-type, return-value]


WRONG: dict[str, list[Any]] = {
    "train": [None, 3.0],
    "low": [0, -1, math.nan, "1", 1.0, 2.0],
    "high": [math.inf, None],
    "trials": [0, 2.5, None],
    "sampler": ["bayes", None],
    "direction": ["up", None],
    "seed": [-1, 1.5, "1", 2**32],
    "storage": [3, "", "a?.db"],
}


@pytest.mark.parametrize(("name", "value"), [(name, each) for name in WRONG for each in WRONG[name]])
def test_wrong_arguments(name: str, value: Any) -> None:
    training = Training()
    arguments: dict[str, Any] = {"train": training, "low": 0.1, "high": 1.0, "trials": 2}
    with pytest.raises((TypeError, ValueError), match=f"^{name}: "):
        search(**arguments | {name: value})
    assert training.rates == []


@pytest.mark.parametrize(
    ("module", "sampler", "message"),
    [
        ("optuna", "tpe", r'^optuna is not installed: pip install "lrcore\[tune\]"$'),
        ("scipy", "gp", r'^scipy is not installed: pip install "lrcore\[tune\]"$'),
        ("torch", "gp", "^torch is not installed.*pip install torch$"),
    ],
)
def test_missing_package(
    module: str, sampler: Any, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in list(sys.modules):
        if name.partition(".")[0] == module:
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    training = Training()
    with pytest.raises(ImportError, match=message):
        search(training, 0.1, 1.0, 3, sampler, storage=tmp_path / "a.db")
    assert training.rates == []


@pytest.mark.slow
def test_gaussian_process() -> None:
    pytest.importorskip("torch")
    first, again = (search(bowl, 1e-5, 1.0, 20, "gp", seed=4) for _ in range(2))
    check(first)
    assert first.trials == again.trials
    assert abs(math.log10(first.lr) + 2) < 1 / 3


def test_progress_is_shown_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    search(bowl, 0.1, 1.0, 3)
    assert capsys.readouterr() == ("", "")
    search(bowl, 0.1, 1.0, 3, progress=True)
    assert "3/3" in capsys.readouterr().err


SEARCHES = """
import sys
from lrcore.tune import search

for path in sys.argv[1:]:
    rates = []
    print("ready", flush=True)
    sys.stdin.readline()
    found = search(lambda lr, report: rates.append(lr) or lr, 1e-5, 1.0, 8, storage=path)
    print(len(rates), len(found.trials), flush=True)
"""


@pytest.mark.slow
def test_processes_share_a_new_storage(tmp_path: Path) -> None:
    """All processes finish, whichever of them creates the storage.

    Together they perform the requested number of runs, plus any that had already begun.
    """
    paths = [str(tmp_path / f"{i}.db") for i in range(3)]
    command = [sys.executable, "-W", "ignore", "-c", SEARCHES, *paths]
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with ExitStack() as stack:
        processes: list[Any] = [
            stack.enter_context(subprocess.Popen(command, text=True, **pipes)) for _ in range(3)
        ]
        for _ in paths:
            assert [process.stdout.readline() for process in processes] == ["ready\n"] * 3
            for process in processes:
                print(file=process.stdin, flush=True)
            found = [[*map(int, process.stdout.readline().split())] for process in processes]
            own, seen = zip(*found, strict=True)
            assert 8 <= sum(own) <= 8 + 2
            assert min(seen) >= 8
    assert [process.returncode for process in processes] == [0, 0, 0]


@pytest.mark.parametrize(
    "words", slow_but_first(["database is locked", "table studies already exists", "not unique"])
)
def test_a_storage_that_others_create_is_tried_again(
    words: str, optuna: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The attempts stop after a while, and an error that persists is raised."""
    exc = pytest.importorskip("sqlalchemy").exc
    create, failures = optuna.create_study, iter([True, True, False])

    def created(**arguments: Any) -> Any:
        if not next(failures, True):
            return create(**arguments)
        if words == "not unique":
            raise exc.IntegrityError("INSERT", {}, ValueError(words))
        operational = exc.OperationalError("CREATE", {}, ValueError(words))
        if words == "database is locked":
            raise optuna.exceptions.StorageInternalError("during the commit") from operational
        raise operational

    monkeypatch.setattr(optuna, "create_study", created)
    assert len(search(bowl, 1e-5, 1.0, 2, storage=tmp_path / "a.db").trials) == 2
    assert next(failures, None) is None
    monkeypatch.setattr(_search, "_PATIENCE", 0.0)
    with pytest.raises(ValueError, match="^storage: Optuna cannot use .*a.db"):
        search(bowl, 1e-5, 1.0, 2, storage=tmp_path / "a.db")


def test_a_storage_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("not a database, despite the name")
    for storage in (tmp_path / "text.db", tmp_path / "missing" / "file.db", ""):
        with pytest.raises(ValueError, match="^storage: "):
            search(lambda lr, _: lr, 0.1, 1.0, 1, storage=storage)

"""FusedOptimizer with every scheduler of `torch.optim.lr_scheduler`, compared with the optimizers of `torch.optim`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lrcore.schedules import Cosine
from trainers.runs import (
    LR,
    STEPS,
    MakeOptimizer,
    assert_close,
    assert_same,
    groups_of,
    loss_of,
    network,
    our_sgd,
    ours,
    their_sgd,
    theirs,
    torch,
    values,
)

schedulers = torch.optim.lr_scheduler


def sequence(opt: Any) -> Any:
    parts = [schedulers.LinearLR(opt, 0.1, total_iters=5), schedulers.CosineAnnealingLR(opt, 30)]
    return schedulers.SequentialLR(opt, parts, [5])


def chain(opt: Any) -> Any:
    return schedulers.ChainedScheduler(
        [schedulers.ConstantLR(opt, 0.5, total_iters=10), schedulers.ExponentialLR(opt, 0.97)], opt
    )


SCHEDULERS: dict[str, Callable[[Any], Any]] = {
    "LambdaLR": lambda opt: schedulers.LambdaLR(opt, [lambda t: 1 / (1 + t), lambda t: 0.9**t]),
    "MultiplicativeLR": lambda opt: schedulers.MultiplicativeLR(opt, lambda t: 1 - 1 / (t + 2)),
    "StepLR": lambda opt: schedulers.StepLR(opt, 10, 0.5),
    "MultiStepLR": lambda opt: schedulers.MultiStepLR(opt, [10, 24, 25, 40], 0.5),
    "ConstantLR": lambda opt: schedulers.ConstantLR(opt, 0.25, total_iters=30),
    "LinearLR": lambda opt: schedulers.LinearLR(opt, 0.1, total_iters=30),
    "ExponentialLR": lambda opt: schedulers.ExponentialLR(opt, 0.95),
    "SequentialLR": sequence,
    "ChainedScheduler": chain,
    "CosineAnnealingLR": lambda opt: schedulers.CosineAnnealingLR(opt, 30, 1e-4),
    "CosineAnnealingWarmRestarts": lambda opt: schedulers.CosineAnnealingWarmRestarts(opt, 7, 2),
    "PolynomialLR": lambda opt: schedulers.PolynomialLR(opt, 40, 2.0),
    "ReduceLROnPlateau": lambda opt: schedulers.ReduceLROnPlateau(opt, factor=0.5, patience=3, cooldown=2),
    "OneCycleLR": lambda opt: schedulers.OneCycleLR(opt, [0.02, 0.03], STEPS + 1, three_phase=True),
    "OneCycleLR without momentum": lambda opt: schedulers.OneCycleLR(opt, 0.02, STEPS + 1, cycle_momentum=False),
    "CyclicLR": lambda opt: schedulers.CyclicLR(opt, 1e-3, [0.01, 0.02], 7, mode="exp_range", gamma=0.99),
    "CyclicLR without momentum": lambda opt: schedulers.CyclicLR(opt, 1e-3, 0.01, 7, cycle_momentum=False),
    "SWALR": lambda opt: torch.optim.swa_utils.SWALR(opt, 1e-3, anneal_epochs=30),
}  # fmt: skip
"""Schedulers by the names of their classes."""
OPTIMIZERS: dict[str, tuple[MakeOptimizer, MakeOptimizer]] = {
    "betas": (ours, theirs),
    "momentum": (our_sgd, their_sgd),
}
"""Optimizers of lrcore and of PyTorch by the name of the number that some schedulers change besides the rate."""


class Run:
    """A module, its optimizer and a scheduler."""

    def __init__(self, make: MakeOptimizer, scheduler: str, seed: int = 0) -> None:
        self.model = network(seed)
        self.opt = make(groups_of(self.model))
        self.scheduler = SCHEDULERS[scheduler](self.opt)

    def train(self, steps: range) -> list[list[dict[str, Any]]]:
        """Take steps, and return the numbers of each group at each step."""
        numbers = []
        for step in steps:
            self.opt.zero_grad()
            loss_of(self.model, step).backward()
            numbers.append([numbers_in(group) for group in self.opt.param_groups])
            self.opt.step()
            is_plateau = isinstance(self.scheduler, schedulers.ReduceLROnPlateau)
            self.scheduler.step(*[abs(step - 10)] * is_plateau)
        return numbers

    def parts(self) -> tuple[Any, Any, Any]:
        return self.model, self.opt, self.scheduler


def numbers_in(group: dict[str, Any]) -> dict[str, Any]:
    return {name: group[name] for name in ("lr", "betas", "momentum") if name in group}


def test_the_table_has_every_scheduler() -> None:
    public = {each for each in schedulers.__all__ if isinstance(getattr(schedulers, each), type)}
    assert {each.split()[0] for each in SCHEDULERS} == public - {"LRScheduler"} | {"SWALR"}


@pytest.mark.parametrize("cycled", OPTIMIZERS)
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_scheduler(scheduler: str, cycled: str, tmp_path: Path) -> None:
    """A run has PyTorch's numbers and results, and its checkpoint continues it to the bit, and PyTorch's run in float32."""
    runs = [Run(make, scheduler) for make in OPTIMIZERS[cycled]]
    seen, expected = (run.train(range(STEPS // 2)) for run in runs)
    for i, run in enumerate(runs):
        torch.save([each.state_dict() for each in run.parts()], tmp_path / f"{i}.pt")
    seen += runs[0].train(range(STEPS // 2, STEPS))
    expected += runs[1].train(range(STEPS // 2, STEPS))
    assert seen == expected
    assert len({str(each) for each in seen}) > 1
    if cycled in seen[0][0]:
        cycles = scheduler in ("OneCycleLR", "CyclicLR")
        assert (len({str(each[0][cycled]) for each in seen}) > 1) == cycles
    assert_close(values(runs[0].model), values(runs[1].model))

    for source, target in ((0, 0), (0, 1), (1, 0)):
        resumed = Run(OPTIMIZERS[cycled][target], scheduler, seed=1)
        resumed.train(range(3))
        # SWALR stores a function
        loaded = torch.load(tmp_path / f"{source}.pt", weights_only=not scheduler.startswith("SWALR"))
        for each, state in zip(resumed.parts(), loaded, strict=True):
            each.load_state_dict(state)
        assert resumed.train(range(STEPS // 2, STEPS)) == expected[STEPS // 2 :]
        check = assert_same if source == target else assert_close
        check(values(runs[target].model), values(resumed.model))


def test_a_schedule_in_place_of_a_scheduler() -> None:
    """The rates of a schedule are those of a LambdaLR with the same function."""
    rate = Cosine(LR, steps=STEPS).warmup(5)
    one, other = network(), network()
    opt, its = ours(groups_of(one), lr=rate), theirs(groups_of(other), lr=1.0)
    scheduler = schedulers.LambdaLR(its, rate)
    for step in range(STEPS):
        assert [group["lr"] for group in opt.param_groups] == [group["lr"] for group in its.param_groups]
        for model, optimizer in ((one, opt), (other, its)):
            optimizer.zero_grad()
            loss_of(model, step).backward()
            optimizer.step()
        scheduler.step()
    assert_close(values(one), values(other))

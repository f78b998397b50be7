"""FusedOptimizer with `torch.optim.swa_utils` and `torch.amp`, compared with torch.optim.AdamW."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

import lrcore
from lrcore.schedules import Constant, Cosine
from trainers.runs import (
    LR,
    STEPS,
    MakeOptimizer,
    assert_close,
    assert_moved,
    assert_same,
    batch,
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

swa = torch.optim.swa_utils
HALF = STEPS // 2


def resumed(run: Any, other: Any, path: Path) -> Any:
    """Return another run, which has loaded the state of a run from a file."""
    torch.save([each.state_dict() for each in run.parts()], path)
    # SWALR stores a function
    for each, state in zip(other.parts(), torch.load(path, weights_only=False), strict=True):
        each.load_state_dict(state)
    return other


AVERAGES: dict[str, dict[str, Any]] = {
    "mean": {},
    "exponential": {"multi_avg_fn": swa.get_ema_multi_avg_fn(0.9), "use_buffers": True},
    "own function": {"avg_fn": lambda average, value, n: average + (value - average) / (n + 2)},
}


class Averaged:
    """A module with batch normalization, whose average begins at step 20, as does SWALR."""

    def __init__(self, make: MakeOptimizer, average: str, averaged_first: bool, seed: int = 0) -> None:
        self.model = torch.nn.Sequential(torch.nn.BatchNorm1d(8), network(seed))
        if averaged_first:
            self.average = swa.AveragedModel(self.model, **AVERAGES[average])
        self.opt = make(groups_of(self.model))
        self.scheduler = swa.SWALR(self.opt, 0.005, anneal_epochs=10)
        if not averaged_first:
            self.average = swa.AveragedModel(self.model, **AVERAGES[average])

    def train(self, steps: Iterable[int]) -> None:
        for step in steps:
            self.opt.zero_grad()
            loss_of(self.model, step).backward()
            self.opt.step()
            if step >= 20:
                self.average.update_parameters(self.model)
                self.scheduler.step()

    def parts(self) -> tuple[Any, Any, Any, Any]:
        return self.model, self.average, self.opt, self.scheduler

    def averages(self) -> dict[str, Any]:
        """Return the averages, with the statistics of batch normalization."""
        swa.update_bn([batch(step)[0] for step in range(5)], self.average)
        return {name: each.clone().float() for name, each in self.average.state_dict().items()}


@pytest.mark.parametrize("averaged_first", [True, False])
@pytest.mark.parametrize("average", AVERAGES)
def test_averages(average: str, averaged_first: bool, tmp_path: Path) -> None:
    """The average does not depend on whether it was made before the optimizer, which moves the parameters of the module."""
    run, other = (Averaged(make, average, averaged_first) for make in (ours, theirs))
    run.train(range(HALF))
    again = resumed(run, Averaged(ours, average, averaged_first, seed=1), tmp_path / "run.pt")
    run.train(range(HALF, STEPS))
    again.train(range(HALF, STEPS))
    other.train(range(STEPS))
    average_of_run = run.averages()
    assert_same(average_of_run, again.averages())
    assert_close(average_of_run, other.averages())
    assert_moved(values(run.model), values(run.average.module))

    run.model.load_state_dict(run.average.module.state_dict())
    other.model.load_state_dict(other.average.module.state_dict())
    for each in (run, other):
        each.train(range(10))
    assert_close(values(run.model), values(other.model))


class Scaled:
    """A module with two optimizers under one GradScaler. The second meets an infinity in two steps."""

    INFINITE = (12, 30)

    def __init__(self, make: MakeOptimizer, dtype: Any, rate: Any, clips: bool, seed: int = 0) -> None:
        self.model = network(seed)
        lr = rate if make in (ours, our_sgd) else LR
        self.opts = [make([group], lr=lr) for group in groups_of(self.model)]
        self.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=4)
        self.dtype, self.rate, self.clips = dtype, rate, clips

    def train(self, steps: Iterable[int]) -> None:
        for step in steps:
            for opt in self.opts:
                opt.zero_grad()
            with torch.autocast("cpu", self.dtype, enabled=self.dtype is not None):
                loss = loss_of(self.model, step)
            self.scaler.scale(loss).backward()
            for opt, infinite in zip(self.opts, [(), self.INFINITE], strict=True):
                params = opt.param_groups[0]["params"]
                if not isinstance(opt, lrcore.torch.FusedOptimizer):
                    opt.param_groups[0]["lr"] = self.rate(step - sum(each < step for each in infinite))
                if step in infinite:
                    params[0].grad.view(-1)[0] = torch.inf
                if self.clips:
                    self.scaler.unscale_(opt)
                    torch.nn.utils.clip_grad_norm_(params, 0.1)
                self.scaler.step(opt)
            self.scaler.update()

    def parts(self) -> tuple[Any, ...]:
        return self.model, *self.opts, self.scaler


def assert_near(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Check that two runs in bfloat16 agree.

    A parameter may round to the neighboring bfloat16, which is up to 2^-8 away. If all gradients differ by as much in
    each step, which has a length of about LR, the sum is STEPS * LR / 256.
    """
    for name, each in one.items():
        assert torch.allclose(each, other[name], rtol=0, atol=STEPS * LR / 256), name


@pytest.mark.parametrize("clips", [False, True])
@pytest.mark.parametrize("rate", [Constant(LR), Cosine(LR, steps=STEPS).warmup(5)], ids=str)
@pytest.mark.parametrize(
    ("make", "make_other", "dtype"),
    [(ours, theirs, None), (ours, theirs, torch.bfloat16), (our_sgd, their_sgd, None)],
)
def test_amp(
    make: MakeOptimizer, make_other: MakeOptimizer, dtype: Any, rate: Any, clips: bool, tmp_path: Path
) -> None:
    """A step with an infinity is skipped and not counted. Scale and parameters change as with PyTorch's optimizers."""
    run = Scaled(make, dtype, rate, clips)
    run.train(range(HALF))
    again = resumed(run, Scaled(make, dtype, rate, clips, seed=1), tmp_path / "run.pt")
    run.train(range(HALF, STEPS))
    again.train(range(HALF, STEPS))
    assert_same(values(run.model), values(again.model))
    assert run.scaler.state_dict() == again.scaler.state_dict()
    assert [opt.step_count for opt in run.opts] == [STEPS, STEPS - len(Scaled.INFINITE)]

    other = Scaled(make_other, dtype, rate, clips)
    other.train(range(STEPS))
    assert run.scaler.state_dict() == other.scaler.state_dict()
    (assert_close if dtype is None else assert_near)(values(run.model), values(other.model))


def test_autocast_alone() -> None:
    """Without a scaler, the optimizer gets float32 gradients of a module that computes in bfloat16."""
    runs = []
    for make in (ours, theirs):
        model = network()
        opt = make(groups_of(model))
        for step in range(STEPS):
            opt.zero_grad()
            with torch.autocast("cpu", torch.bfloat16):
                loss = loss_of(model, step)
            loss.backward()
            assert {each.grad.dtype for each in model.parameters()} == {torch.float32}
            opt.step()
        runs.append(values(model))
    assert_near(*runs)

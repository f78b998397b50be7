"""`lrcore.torch.FusedOptimizer` with accelerate."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import lrcore
from lrcore.schedules import Cosine, Plateau, Schedule, plateaus
from pytorch.modules import assert_same_dictionary
from trainers.runs import (
    LR,
    STEPS,
    MakeOptimizer,
    assert_close,
    assert_moved,
    assert_same,
    groups_of,
    loss_of,
    move,
    network,
    ours,
    theirs,
    torch,
    values,
)

accelerate = pytest.importorskip("accelerate")
shared = accelerate.state

MakeScheduler = Callable[[Any], Any]
SCHEDULE = Cosine(LR, steps=STEPS).warmup(5)


@pytest.fixture(autouse=True)
def reset() -> Iterator[None]:
    """Reset what the Accelerators of a process share."""
    yield
    shared.AcceleratorState._reset_state(reset_partial_state=True)
    shared.GradientState._reset_state()


def cosine(opt: Any) -> Any:
    return torch.optim.lr_scheduler.CosineAnnealingLR(opt, T_max=STEPS)


def one_cycle(opt: Any) -> Any:
    return torch.optim.lr_scheduler.OneCycleLR(opt, max_lr=LR, total_steps=STEPS)


def as_schedule(opt: Any) -> Any:
    return torch.optim.lr_scheduler.LambdaLR(opt, lambda t: SCHEDULE(t) / LR)


def with_lr(lr: Callable[[], Schedule]) -> MakeOptimizer:
    return lambda groups: ours(groups, lr=lr())


def lion(groups: Any) -> Any:
    return lrcore.torch.FusedOptimizer(groups, lrcore.Lion, lr=Plateau(0.001, factor=0.5, patience=1))


def momentum(groups: Any) -> Any:
    return lrcore.torch.FusedOptimizer(groups, lrcore.SGD, lr=LR, momentum=0.9)


class Run:
    """A module and its optimizer, and the loop that trains them with an Accelerator."""

    def __init__(
        self,
        make: MakeOptimizer,
        scheduler: MakeScheduler | None = None,
        seed: int = 0,
        clip: str = "",
        moved: bool = False,
        accelerator: Any = None,
        **options: Any,
    ) -> None:
        self.accelerator = accelerator or accelerate.Accelerator(cpu=True, **options)
        model = network(seed)
        opt = make(groups_of(model))
        if moved:
            move(model)
        self.model, self.opt, *self.schedulers = self.accelerator.prepare(
            model, opt, *([] if scheduler is None else [scheduler(opt)])
        )
        self.clip = clip

    def train(self, steps: range = range(STEPS)) -> Run:
        accelerator, size = self.accelerator, self.accelerator.gradient_accumulation_steps
        for step in range(steps.start * size, steps.stop * size):
            with accelerator.accumulate(self.model):
                with accelerator.autocast():
                    loss = loss_of(self.model, step)
                accelerator.backward(loss)
                if accelerator.sync_gradients and self.clip:
                    getattr(accelerator, self.clip)(self.model.parameters(), 0.05)
                self.opt.step()
                for each in self.schedulers:
                    each.step()
                self.opt.zero_grad()
            if isinstance(self.opt.optimizer, lrcore.torch.FusedOptimizer):
                for plateau in plateaus(self.opt.optimizer):
                    plateau.observe(1.0)
        return self

    @property
    def values(self) -> dict[str, Any]:
        return values(self.model)


@pytest.mark.parametrize(
    ("scheduler", "options"),
    [
        (None, {"moved": True}),
        (one_cycle, {"gradient_accumulation_steps": 3, "clip": "clip_grad_norm_"}),
        (cosine, {"clip": "clip_grad_value_"}),
    ],
)
def test_steps(scheduler: MakeScheduler | None, options: dict[str, Any]) -> None:
    """A run equals one with torch.optim.AdamW: with schedulers, and with accumulated and clipped gradients.

    If the module was moved after the optimizer was made, as `prepare` does if it is not on the device, the optimizer
    follows.
    """
    one, other = (Run(make, scheduler, **options).train() for make in (ours, theirs))
    assert_moved(one.values, values(network()))
    assert one.opt.optimizer.step_count == STEPS
    assert_close(one.values, other.values)
    for group, its in zip(one.opt.param_groups, other.opt.param_groups, strict=True):
        assert (group["lr"], group["betas"]) == (its["lr"], its["betas"])


def test_a_schedule_of_lrcore() -> None:
    """A schedule in place of the rate equals a scheduler with the same rates, and prepare keeps the object."""
    rate = Plateau(SCHEDULE, patience=STEPS)
    one = Run(lambda groups: ours(groups, lr=rate))
    assert one.opt.optimizer.schedule is rate
    assert_close(one.train().values, Run(theirs, as_schedule).train().values)


def test_bf16() -> None:
    """The forward pass is in bfloat16, as under torch.autocast, with parameters and steps in float32."""
    expected = []
    for enabled in (True, False):
        model = network()
        opt = ours(groups_of(model))
        for step in range(STEPS):
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                loss = loss_of(model, step)
            loss.backward()
            opt.step()
            opt.zero_grad()
        expected.append(values(model))
    assert_same(Run(ours, mixed_precision="bf16").train().values, expected[0])
    assert_moved(*expected)


@pytest.mark.parametrize(
    ("make", "scheduler", "safe"),
    [
        (ours, None, True),
        (ours, one_cycle, False),
        (with_lr(lambda: SCHEDULE), None, False),
        (with_lr(lambda: Plateau(SCHEDULE, factor=0.5, patience=3)), None, True),
        (lion, None, False),
        (momentum, cosine, True),
    ],
)
def test_resuming(make: MakeOptimizer, scheduler: MakeScheduler | None, safe: bool, tmp_path: Path) -> None:
    """A run that is resumed from accelerate's files equals one without a break, with the same or a new Accelerator."""
    expected = Run(make, scheduler).train()
    saved = Run(make, scheduler).train(range(25))
    saved.accelerator.save_state(tmp_path, safe_serialization=safe)
    saved.train(range(25, 30))
    for run in (saved, Run(make, scheduler, seed=1)):
        run.accelerator.load_state(tmp_path)
        assert run.opt.optimizer.step_count == 25
        run.train(range(25, STEPS))
        assert_same(run.values, expected.values)
        assert_same_dictionary(run.opt.state_dict(), expected.opt.state_dict())


@pytest.mark.parametrize(("first", "second"), [(theirs, ours), (ours, theirs)])
def test_exchange_with_torch(first: MakeOptimizer, second: MakeOptimizer, tmp_path: Path) -> None:
    """A run of one optimizer is continued by the other, with its scheduler."""
    saved = Run(first, one_cycle).train(range(25))
    saved.accelerator.save_state(tmp_path)
    loaded = Run(second, one_cycle, seed=1)
    loaded.accelerator.load_state(tmp_path)
    assert_close(loaded.train(range(25, STEPS)).values, Run(theirs, one_cycle).train().values)


def cut(folder: Path) -> None:
    """Leave half of the optimizer's file, as an interrupted save would."""
    file = folder / "optimizer.bin"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


BAD: dict[str, tuple[MakeOptimizer, Callable[[Path], None], str]] = {
    "another class": (lion, lambda _: None, "^rule: expected adam, got lion"),
    "one group": (
        lambda groups: ours([each for group in groups for each in group["params"]]),
        lambda _: None,
        "^param_groups: expected 2 groups, got 1",
    ),
    "cut off": (ours, cut, "Invalid argument|archive"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files(name: str, tmp_path: Path) -> None:
    """They leave the optimizer as it was. accelerate loads the module before the optimizer."""
    make, damage, message = BAD[name]
    Run(make).train(range(3)).accelerator.save_state(tmp_path)
    damage(tmp_path)
    run = Run(ours, seed=1).train(range(2))
    before = copy.deepcopy(run.opt.state_dict())
    with pytest.raises((ValueError, RuntimeError, OSError), match=message):
        run.accelerator.load_state(tmp_path)
    assert_same_dictionary(run.opt.state_dict(), before)
    run.train(range(2, 4))
    assert run.opt.optimizer.step_count == 4


def test_steps_that_the_scaler_skips() -> None:
    """A step with infinite gradients is skipped; as with fused=True, accelerate does not notice this."""
    accelerate.Accelerator(cpu=True)
    runs = []
    for make in (ours, lambda groups: theirs(groups, fused=True)):
        model = network()
        scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
        opt = accelerate.optimizer.AcceleratedOptimizer(make(groups_of(model)), scaler=scaler)
        for step in range(STEPS):
            opt.zero_grad()
            scaler.scale(loss_of(model, step) * (float("inf") if step == 10 else 1.0)).backward()
            opt.step()
            assert not opt.step_was_skipped
        runs.append((model, opt.optimizer))
    assert runs[0][1].step_count == STEPS - 1
    assert_close(*(values(model) for model, _ in runs))


def test_leaving_the_accelerator(tmp_path: Path) -> None:
    """save_model writes one file, free_memory keeps no reference, and the unwrapped module trains on."""
    run = Run(ours).train(range(3))
    run.accelerator.save_model(run.model, tmp_path)
    assert [each.name for each in tmp_path.iterdir()] == ["model.safetensors"]
    other = network(1)
    accelerate.load_checkpoint_in_model(other, str(tmp_path))
    assert_same(values(other), run.values)

    model, opt = run.accelerator.unwrap_model(run.model), run.opt.optimizer
    loss_of(model, 3).backward()
    opt.step()
    assert_same(values(model), Run(ours).train(range(4)).values)
    gone = weakref.ref(opt)
    del opt
    run.model, run.opt = run.accelerator.free_memory(run.model, run.opt)
    gc.collect()
    assert gone() is None

"""`lrcore.torch.FusedOptimizer` with the Trainer of transformers."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import lrcore
from lrcore.schedules import Cosine, Plateau, plateaus
from pytorch.modules import assert_same_dictionary
from trainers.runs import (
    LR,
    STEPS,
    assert_close,
    assert_moved,
    assert_same,
    language_model,
    move,
    torch,
    values,
)

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")
Trainer: Any = transformers.Trainer
TrainerCallback: Any = transformers.TrainerCallback

MakeTrainer = Callable[..., Any]
WARMUP = 5
DECAY = 0.1
EPS = 1e-4
"""The biases of attention keys have no effect. Their gradients are rounding errors, which a smaller eps would scale to
whole steps."""
NUMBERS = {"lr": LR, "betas": (0.9, 0.95), "eps": EPS}
SCHEDULE = Cosine(LR, steps=STEPS - WARMUP).warmup(WARMUP, start=0.0)
"""The rates of the Trainer's scheduler."""
TOKENS = torch.randint(0, 32, (64, 12), generator=torch.Generator().manual_seed(0))
DATA = [{"input_ids": each, "labels": each} for each in TOKENS]


def ours(params: Any, lr: Any = LR) -> Any:
    return lrcore.torch.FusedOptimizer(params, lrcore.AdamW, **{**NUMBERS, "lr": lr})


def arguments(folder: Path, **others: Any) -> Any:
    defaults = {
        "output_dir": str(folder), "use_cpu": True, "report_to": [], "disable_tqdm": True, "seed": 0,
        "max_steps": STEPS, "save_steps": 25, "logging_steps": 1,
        "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "max_grad_norm": 1.0,
        "learning_rate": LR, "weight_decay": DECAY, "adam_beta1": 0.9, "adam_beta2": 0.95, "adam_epsilon": EPS,
        "lr_scheduler_type": "cosine", "warmup_steps": WARMUP,
    }  # fmt: skip
    return transformers.TrainingArguments(**{**defaults, **others})


def torchs(folder: Path, seed: int = 0, **others: Any) -> Any:
    return Trainer(language_model(seed), arguments(folder, optim="adamw_torch", **others), train_dataset=DATA)


def by_class(folder: Path, seed: int = 0, **others: Any) -> Any:
    made = lrcore.torch.FusedOptimizer, {"optimizer": lrcore.AdamW, **NUMBERS}
    return Trainer(
        language_model(seed), arguments(folder, **others), train_dataset=DATA, optimizer_cls_and_kwargs=made
    )


def with_scheduler(folder: Path, seed: int = 0, moved: bool = True) -> Any:
    """Return a Trainer whose module was moved after its optimizer was made, as the Trainer itself does to use a GPU."""
    model = language_model(seed)
    opt = ours(lrcore.torch.decay_groups(model, DECAY))
    if moved:
        move(model)
    scheduler = transformers.get_cosine_schedule_with_warmup(opt, WARMUP, STEPS)
    return Trainer(model, arguments(folder), train_dataset=DATA, optimizers=(opt, scheduler))


class OurTrainer(Trainer):  # type: ignore[misc]
    """A Trainer that makes the optimizer in a method."""

    optimizer: Any

    def create_optimizer(self, model: Any = None) -> Any:
        if self.optimizer is None:
            self.optimizer = ours(lrcore.torch.decay_groups(model or self.model, self.args.weight_decay))
        return self.optimizer


def by_method(folder: Path, seed: int = 0) -> Any:
    return OurTrainer(language_model(seed), arguments(folder), train_dataset=DATA)


def with_schedule(folder: Path, seed: int = 0, rate: Callable[[], Any] = lambda: SCHEDULE) -> Any:
    model = language_model(seed)
    opt = ours(lrcore.torch.decay_groups(model, DECAY), rate())
    made = opt, lrcore.torch.FollowSchedules(opt)
    return Trainer(model, arguments(folder), train_dataset=DATA, optimizers=made, callbacks=[Observe()])


class Observe(TrainerCallback):  # type: ignore[misc]
    """Call `observe` with a metric that never falls."""

    def on_step_end(self, *_: Any, optimizer: Any, **__: Any) -> None:
        for each in plateaus(optimizer.optimizer):  # the Trainer's optimizer is accelerate's wrapper
            each.observe(1.0)


def with_plateau(folder: Path, seed: int = 0) -> Any:
    return with_schedule(folder, seed, lambda: Plateau(SCHEDULE, factor=0.5, patience=10))


def with_bf16(folder: Path, seed: int = 0) -> Any:
    return by_class(folder, seed, bf16=True)


def rates(trainer: Any) -> list[float]:
    return [each["learning_rate"] for each in trainer.state.log_history if "learning_rate" in each]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return a run with torch.optim.AdamW, which has saved a checkpoint after 25 steps."""
    trainer = torchs(tmp_path_factory.mktemp("torch"))
    trainer.train()
    assert_moved(values(trainer.model), values(language_model()))
    return trainer


def resumed(make: MakeTrainer, folder: Path) -> Any:
    """Return a run that was continued from a checkpoint, after comparing it with the run that saved the checkpoint."""
    trainer, other = make(folder), make(folder, seed=1)
    trainer.train()
    assert trainer.optimizer.optimizer.step_count == STEPS
    other.train(resume_from_checkpoint=str(folder / "checkpoint-25"))
    assert_same(values(other.model), values(trainer.model))
    assert_same_dictionary(other.optimizer.state_dict(), trainer.optimizer.state_dict())
    assert rates(other) == rates(trainer)
    return other


@pytest.mark.parametrize("make", [by_class, with_scheduler, by_method, with_schedule])
def test_steps_and_resuming(make: MakeTrainer, expected: Any, tmp_path: Path) -> None:
    """A resumed run equals one without a break to the bit, and one with torch.optim.AdamW, also in the logged rates."""
    trainer = resumed(make, tmp_path)
    assert_close(values(trainer.model), values(expected.model))
    assert rates(trainer) == pytest.approx(rates(expected), rel=1e-6, abs=1e-12)  # float64 in another order


@pytest.mark.parametrize("make", [with_bf16, with_plateau])
def test_resuming_other_runs(make: MakeTrainer, expected: Any, tmp_path: Path) -> None:
    """Runs in bfloat16, with float32 parameters, and runs with a Plateau resume to the bit."""
    trainer = resumed(make, tmp_path)
    assert {each.dtype for each in trainer.model.parameters()} == {torch.float32}
    assert not torch.equal(trainer.model.lm_head.weight, expected.model.lm_head.weight)
    if make is with_plateau:
        (plateau,) = plateaus(trainer.optimizer.optimizer)
        assert plateau.reductions == 4


def test_exchange_with_torch(expected: Any, tmp_path: Path) -> None:
    """A run of one optimizer is continued by the other."""
    by_class(tmp_path).train()
    for make, folder in ((by_class, expected.args.output_dir), (torchs, tmp_path)):
        trainer = make(tmp_path, seed=1)
        trainer.train(resume_from_checkpoint=str(Path(folder) / "checkpoint-25"))
        assert_close(values(trainer.model), values(expected.model))


def cut(folder: Path) -> None:
    """Leave half of the optimizer's file, as an interrupted save would."""
    file = folder / "optimizer.pt"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


BAD: dict[str, tuple[Callable[[Any], Any], Callable[[Path], None], str]] = {
    "another class": (
        lambda model: lrcore.torch.FusedOptimizer(lrcore.torch.decay_groups(model, DECAY), lrcore.Lion),
        lambda _: None,
        "^rule: expected adam, got lion",
    ),
    "one group": (
        lambda model: ours(model.parameters()),
        lambda _: None,
        "^param_groups: expected 2 groups, got 1",
    ),
    "cut off": (lambda model: ours(lrcore.torch.decay_groups(model, DECAY)), cut, "Invalid argument|archive"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_checkpoints(name: str, tmp_path: Path) -> None:
    """They leave the optimizer as it was. The Trainer loads the module before the optimizer."""
    make, damage, message = BAD[name]
    model = language_model()
    options = arguments(tmp_path, max_steps=2, save_steps=2)
    Trainer(model, options, train_dataset=DATA, optimizers=(make(model), None)).train()
    damage(tmp_path / "checkpoint-2")
    trainer = with_scheduler(tmp_path, seed=1, moved=False)
    opt = trainer.optimizer
    for each in opt.param_groups[1]["params"]:
        each.grad = torch.ones_like(each)
    opt.step()
    before = copy.deepcopy(opt.state_dict())
    with pytest.raises((ValueError, RuntimeError, OSError), match=message):
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert_same_dictionary(opt.state_dict(), before)
    opt.step()
    assert opt.step_count == 2


@pytest.mark.parametrize(("warmup", "steps"), [(5, 0), (0, 1)])
def test_the_scheduler_of_the_trainer_over_a_schedule(warmup: int, steps: int, tmp_path: Path) -> None:
    """The Trainer makes a scheduler unless it is given one: the first rate that differs is refused."""
    model = language_model()
    opt = ours(model.parameters(), SCHEDULE.shift(WARMUP))
    options = arguments(tmp_path, warmup_steps=warmup)
    trainer = Trainer(model, options, train_dataset=DATA, optimizers=(opt, None))
    with pytest.raises(
        ValueError, match=r"^param_groups\[0\]: lr: .* perhaps by a PyTorch scheduler, but the rate"
    ):
        trainer.train()
    assert opt.step_count == steps

"""FusedOptimizer in Lightning's Trainer: the results of torch.optim.AdamW, checkpoints, callbacks, and what is refused."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lrcore.schedules import Cosine, Plateau, plateaus
from pytorch.modules import assert_same_dictionary
from trainers import runs
from trainers.runs import LR, STEPS, groups_of, ours, theirs, torch, values

L = pytest.importorskip("lightning.pytorch")
pytestmark = pytest.mark.filterwarnings(
    "ignore"
)  # Lightning warns about loggers, workers and its own imports

EPOCH = STEPS // 2
Make = Callable[..., Any]


class Task(L.LightningModule):  # type: ignore[misc,name-defined]
    """The task of `runs`; `before` has the optimizer's dictionary when it was made."""

    def __init__(self, make: Make, seed: int = 0, groups: Make = groups_of, scheduler: Any = None) -> None:
        super().__init__()
        self.model = runs.network(seed)
        self.choices = make, groups, scheduler

    def configure_optimizers(self) -> Any:
        make, groups, scheduler = self.choices
        self.opt = make(groups(self.model))
        self.before = copy.deepcopy(self.opt.state_dict())
        if scheduler is None:
            return self.opt
        return {"optimizer": self.opt, "lr_scheduler": {"scheduler": scheduler(self.opt), "interval": "step"}}

    def training_step(self, _: Any, i: int) -> Any:
        return runs.loss_of(self.model, self.current_epoch * EPOCH + i)

    def on_train_batch_end(self, *_: Any) -> None:
        for each in plateaus(self.opt) if hasattr(self.opt, "schedule") else ():
            each.observe(1.0)


class Manual(Task):
    """Manual optimization, in which a group is added through Lightning's wrapper of the optimizer."""

    automatic_optimization = False

    def training_step(self, batch: Any, i: int) -> None:
        opt = self.optimizers()
        if self.current_epoch == 1 and i == 0:
            opt.add_param_group({"params": self.model[0].weight, "lr": 0.002})
        opt.zero_grad()
        self.manual_backward(super().training_step(batch, i))
        opt.step()


class Finetuning(L.callbacks.BaseFinetuning):  # type: ignore[misc,name-defined]
    """Freeze the first layer, and add it as a group in the second epoch. A resumed run freezes it again at first."""

    def freeze_before_training(self, pl_module: Any) -> None:
        self.freeze(pl_module.model[0])

    def finetune_function(self, pl_module: Any, epoch: int, optimizer: Any) -> None:
        if epoch >= 1:
            self.unfreeze_and_add_param_group(pl_module.model[0], optimizer, lr=0.002)


def fit(task: Task, path: Path | None = None, epochs: int = 2, **options: Any) -> Any:
    """Train until the end of an epoch, from the beginning or from a checkpoint, and return the Trainer."""
    quiet = dict.fromkeys(
        ("enable_progress_bar", "enable_model_summary", "enable_checkpointing", "logger"), False
    )
    trainer = L.Trainer(accelerator="cpu", devices=1, max_epochs=epochs, **quiet | options)
    trainer.fit(task, torch.utils.data.DataLoader(range(EPOCH), batch_size=None), ckpt_path=path)
    return trainer


def trainable(model: Any) -> list[Any]:
    return [each for each in model.parameters() if each.requires_grad]


def one_cycle(opt: Any) -> Any:
    return torch.optim.lr_scheduler.OneCycleLR(opt, max_lr=LR, total_steps=3 * EPOCH)


def averaging() -> Any:
    return L.callbacks.StochasticWeightAveraging(swa_lrs=0.005, swa_epoch_start=1, annealing_epochs=1)


CASES: dict[str, tuple[type[Task], dict[str, Any], Callable[[], dict[str, Any]]]] = {
    "groups": (Task, {}, dict),
    "clipped by norm": (Task, {}, lambda: {"gradient_clip_val": 0.1}),
    "clipped by value": (Task, {}, lambda: {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"}),
    "accumulated": (Task, {}, lambda: {"accumulate_grad_batches": 2}),
    "a scheduler": (Task, {"scheduler": one_cycle}, dict),
    "averaged": (Task, {}, lambda: {"callbacks": [averaging()]}),
    "averaged in each step": (Task, {}, lambda: {"callbacks": [L.callbacks.EMAWeightAveraging(decay=0.9)]}),
    "manual": (Manual, {"groups": lambda model: [*model.parameters()][1:]}, dict),
    "finetuned": (Task, {"groups": trainable}, lambda: {"callbacks": [Finetuning()]}),
}
"""The kind of task and its arguments, and options of the Trainer."""


@pytest.mark.parametrize("case", CASES)
def test_as_with_adamw(case: str) -> None:
    kind, arguments, options = CASES[case]
    one, other = (kind(make, **arguments) for make in (ours, theirs))
    for task in (one, other):
        fit(task, **options())
    runs.assert_close(values(one.model), values(other.model))
    runs.assert_moved(values(one.model), values(runs.network()))


def test_a_schedule_of_lrcore(tmp_path: Path) -> None:
    """It needs no scheduler, and LearningRateMonitor shows its rates."""
    rate = Cosine(LR, steps=STEPS).warmup(5)
    one = Task(lambda groups: ours(groups, lr=rate))
    lambdas = lambda opt: torch.optim.lr_scheduler.LambdaLR(opt, rate)
    other = Task(lambda groups: theirs(groups, lr=1.0), scheduler=lambdas)
    monitor = L.callbacks.LearningRateMonitor("step")
    fit(one, callbacks=[monitor], logger=L.loggers.CSVLogger(tmp_path), log_every_n_steps=1)
    fit(other)
    runs.assert_close(values(one.model), values(other.model))
    assert monitor.lrs == {f"lr-FusedOptimizer/pg{i}": [*map(rate, range(STEPS))] for i in (1, 2)}


@pytest.mark.parametrize("clip", [0.0, 0.1])
@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_mixed_precision(precision: str, clip: float) -> None:
    """The bits of a loop without Lightning. To be clipped, the optimizer needs fused=False."""
    make = (lambda groups: ours(groups, fused=False)) if clip else ours
    task, model = Task(make), runs.network()
    fit(task, plugins=[L.plugins.MixedPrecision(precision, "cpu")], gradient_clip_val=clip)
    opt = make(groups_of(model))
    dtype = torch.float16 if precision == "16-mixed" else torch.bfloat16
    scaler = torch.amp.GradScaler("cpu", enabled=dtype == torch.float16)
    for step in range(STEPS):
        opt.zero_grad()
        with torch.autocast("cpu", dtype, cache_enabled=False):
            loss = runs.loss_of(model, step)
        scaler.scale(loss).backward()
        if clip:
            scaler.unscale_(opt)
            params = [each for group in opt.param_groups for each in group["params"]]
            torch.nn.utils.clip_grad_norm_(params, clip)
        scaler.step(opt)
        scaler.update()
    runs.assert_same(values(task.model), values(model))
    assert task.opt.step_count == opt.step_count > STEPS - 5  # GradScaler skips some steps


RATES: dict[str, Callable[[], Any]] = {
    "number": lambda: LR,
    "schedule": lambda: Cosine(LR, steps=STEPS).warmup(5),
    "plateau": lambda: Plateau(LR, factor=0.5, patience=10),
}
RESUMED = [*(("groups", each) for each in RATES), ("a scheduler", "number"), ("averaged", "number")]


@pytest.mark.parametrize(("case", "rate"), [*RESUMED, ("finetuned", "number"), ("finetuned", "schedule")])
def test_resumed(case: str, rate: str, tmp_path: Path) -> None:
    """A run that is resumed after its first or second epoch has the bits of the run without a pause."""
    _, arguments, options = CASES[case]
    make = lambda groups: ours(groups, lr=RATES[rate]())
    one = Task(make, **arguments)
    callbacks = options().get("callbacks", [])
    saving = L.callbacks.ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1)
    fit(one, epochs=3, callbacks=[*callbacks, saving], enable_checkpointing=True)
    for epoch in (0, 1):
        other = Task(make, seed=1, **arguments)
        fit(other, tmp_path / f"epoch={epoch}.ckpt", epochs=3, **options())
        runs.assert_same(values(one.model), values(other.model))
        assert_same_dictionary(one.opt.state_dict(), other.opt.state_dict())


@pytest.mark.parametrize(("first", "second"), [(theirs, ours), (ours, theirs)])
def test_continued_with_the_other_optimizer(first: Make, second: Make, tmp_path: Path) -> None:
    one, other = Task(first), Task(second, seed=1)
    fit(one, epochs=1).save_checkpoint(tmp_path / "file.ckpt")
    fit(other, tmp_path / "file.ckpt")
    fit(one, tmp_path / "file.ckpt")
    runs.assert_close(values(one.model), values(other.model))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (torch.optim.SGD, r"^param_groups\[0\]: .*betas"),
        (lambda groups: ours(groups, amsgrad=True), "^rule: expected adam, got adam_amsgrad"),
        (lambda groups: ours(groups[:1]), "^param_groups: expected 2 groups, got 1"),
        (lambda groups: ours(groups[::-1]), r"^param_groups\[0\]: params: expected 3 parameters, got 6"),
    ],
)
def test_a_checkpoint_of_another_optimizer(make: Make, message: str, tmp_path: Path) -> None:
    """It is refused, and the optimizer is left unchanged."""
    fit(Task(make), epochs=1).save_checkpoint(tmp_path / "file.ckpt")
    task = Task(ours, seed=1)
    with pytest.raises((TypeError, ValueError), match=message):
        fit(task, tmp_path / "file.ckpt")
    assert_same_dictionary(task.opt.state_dict(), task.before)


@pytest.mark.parametrize(
    ("lr", "arguments", "options", "error", "message"),
    [
        (LR, {}, {"precision": "bf16-mixed", "gradient_clip_val": 0.1}, RuntimeError, "'fused' optimizer"),
        (LR, {}, {"precision": "bf16-true"}, TypeError, "float32, got torch.bfloat16; .*torch.autocast"),
        (
            Cosine(LR, steps=9),
            {"scheduler": one_cycle},
            {},
            ValueError,
            "^param_groups.*PyTorch's schedulers",
        ),
        (
            Cosine(LR, steps=9),
            {},
            {"callbacks": [averaging()]},
            ValueError,
            "^param_groups.*PyTorch's schedulers",
        ),
    ],
)
def test_what_is_refused(lr: Any, arguments: Any, options: Any, error: type[Exception], message: str) -> None:
    """The error is raised before the first step."""
    task = Task(lambda groups: ours(groups, lr=lr), **arguments)
    with pytest.raises(error, match=message):
        fit(task, **options)
    assert task.trainer.global_step == 0

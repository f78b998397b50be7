"""FusedOptimizer in skorch's nets: the results of torch.optim.AdamW, files, copies, and what is refused."""

from __future__ import annotations

import copy
import functools
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import lrcore
from lrcore.schedules import Cosine, Plateau, plateaus
from pytorch.modules import assert_same_dictionary, assert_unchanged, everything
from trainers import runs
from trainers.runs import LR, STEPS, torch, values

skorch = pytest.importorskip("skorch")
callbacks = pytest.importorskip("skorch.callbacks")
import sklearn.base

EPOCH = STEPS // 2
OURS = {"optimizer": functools.partial(lrcore.torch.FusedOptimizer, optimizer=lrcore.AdamW)}
CLASS = {"optimizer": lrcore.torch.FusedOptimizer, "optimizer__optimizer": lrcore.AdamW}
THEIRS = {"optimizer": torch.optim.AdamW}
GROUPS = [("*bias", {"weight_decay": 0.0}), ("network.1.*", {"lr": 0.005, "weight_decay": 0.0})]
X, Y = (torch.cat(each) for each in zip(*map(runs.batch, range(EPOCH)), strict=True))


class Module(torch.nn.Module):  # type: ignore[misc]
    """The network of `runs`, as a class with arguments."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.network = runs.network(seed)

    def forward(self, x: Any) -> Any:
        return self.network(x)


class Observer(callbacks.Callback):  # type: ignore[misc,name-defined]
    """Let each plateau observe the metric after a batch."""

    def on_batch_end(self, net: Any, **_: Any) -> None:
        for each in plateaus(net.optimizer_):
            each.observe(1.0)


def net(optimizer: dict[str, Any], seed: int = 0, epochs: int = 2, **changes: Any) -> Any:
    """Return a net whose epoch has `EPOCH` batches."""
    numbers = {f"optimizer__{name}": value for name, value in runs.NUMBERS.items()}
    arguments = {"optimizer__param_groups": GROUPS, "optimizer__weight_decay": 0.1, "lr": LR, **numbers}
    return skorch.NeuralNetRegressor(
        Module, module__seed=seed, max_epochs=epochs, batch_size=len(X) // EPOCH, iterator_train__shuffle=False,
        train_split=None, verbose=0, **arguments | optimizer | changes,
    )  # fmt: skip


def falling(steps: str = "batch") -> Any:
    return callbacks.LRScheduler(torch.optim.lr_scheduler.ExponentialLR, step_every=steps, gamma=0.95)


CASES: dict[str, Callable[[], Any]] = {
    "groups": lambda: None,
    "clipped": lambda: [callbacks.GradientNormClipping(0.1)],
    "a scheduler": lambda: [falling()],
    "a scheduler of epochs": lambda: [callbacks.LRScheduler()],
    "frozen": lambda: [callbacks.Freezer("network.0.*")],
}


@pytest.mark.parametrize(("case", "optimizer"), [*((each, OURS) for each in CASES), ("groups", CLASS)])
def test_as_with_adamw(case: str, optimizer: dict[str, Any]) -> None:
    one, other = (net(each, callbacks=CASES[case]()).fit(X, Y) for each in (optimizer, THEIRS))
    runs.assert_close(values(one.module_), values(other.module_))
    assert one.optimizer_.step_count == STEPS


def test_a_schedule_of_lrcore() -> None:
    """It is passed as `lr`, and copied with the net."""
    rate = Cosine(LR, steps=STEPS).warmup(5)
    lambdas = callbacks.LRScheduler(torch.optim.lr_scheduler.LambdaLR, step_every="batch", lr_lambda=rate)
    groups: dict[str, Any] = {"optimizer__param_groups": GROUPS[:1]}
    one = sklearn.base.clone(net(OURS, lr=rate, **groups)).fit(X, Y)
    other = net(THEIRS, lr=1.0, callbacks=[lambdas], **groups).fit(X, Y)
    runs.assert_close(values(one.module_), values(other.module_))


def test_numbers_that_are_set() -> None:
    """They act in the next step, as with torch.optim.AdamW. A schedule can be set too."""
    nets = [net(each, epochs=1).fit(X, Y) for each in (OURS, THEIRS)]
    for each in nets:
        each.set_params(lr=0.002, optimizer__param_groups__1__weight_decay=0.3).partial_fit(X, Y)
    runs.assert_close(*(values(each.module_) for each in nets))
    assert [group["lr"] for group in nets[0].optimizer_.param_groups] == [0.002] * 3
    nets[0].set_params(lr=Cosine(LR, steps=3 * EPOCH)).partial_fit(X, Y)
    assert nets[0].optimizer_.lr == 0.0


Way = Callable[[Any, Callable[..., Any], Path], Any]


def by_files(one: Any, make: Callable[..., Any], folder: Path) -> Any:
    files = {f"f_{name}": folder / name for name in ("params", "optimizer", "history")}
    one.save_params(**files)
    other = make().initialize()
    other.load_params(**files)
    return other


def by_checkpoint(_: Any, make: Callable[..., Any], folder: Path) -> Any:
    return make(callbacks.LoadInitState(callbacks.Checkpoint(dirname=folder)))


WAYS: dict[str, Way] = {
    "files": by_files,
    "checkpoint": by_checkpoint,
    "pickle": lambda one, *_: pickle.loads(pickle.dumps(one)),
    "copy": lambda one, *_: copy.deepcopy(one),
}
RATES: dict[str, Callable[[], Any]] = {
    "number": lambda: LR,
    "schedule": lambda: Cosine(LR, steps=STEPS).warmup(5),
    "plateau": lambda: Plateau(LR, factor=0.5, patience=10),
    "scheduler": lambda: LR,
}


@pytest.mark.parametrize(
    ("rate", "way"),
    [*((each, "files") for each in RATES), *(("plateau", each) for each in WAYS if each != "files")],
)
def test_resumed(rate: str, way: str, tmp_path: Path) -> None:
    """A net that is loaded or copied after an epoch has the bits of the net that continues."""

    def make(*added: Any, seed: int = 1) -> Any:
        used = [Observer(), *([falling("epoch")] if rate == "scheduler" else []), *added]
        return net(OURS, seed, 1, lr=RATES[rate](), callbacks=used)

    one = make(callbacks.Checkpoint(dirname=tmp_path, monitor=None), seed=0).fit(X, Y)
    other = WAYS[way](one, make, tmp_path)
    before = values(one.module_)
    for each in (other, one):  # the checkpoint is overwritten by `one`
        each.partial_fit(X, Y)
    runs.assert_same(values(one.module_), values(other.module_))
    runs.assert_moved(values(one.module_), before)
    assert_same_dictionary(one.optimizer_.state_dict(), other.optimizer_.state_dict())


@pytest.mark.parametrize(("first", "second"), [(THEIRS, OURS), (OURS, THEIRS)])
def test_continued_with_the_other_optimizer(first: Any, second: Any, tmp_path: Path) -> None:
    one = net(first, epochs=1).fit(X, Y)
    other = by_files(one, lambda: net(second, 1, 1, lr=0.5), tmp_path)
    runs.assert_close(*(values(each.partial_fit(X, Y).module_) for each in (one, other)))


@pytest.mark.parametrize(
    ("optimizer", "changes", "end", "message"),
    [
        ({"optimizer": torch.optim.NAdam}, {}, None, r"^param_groups\[0\]: expected the entries .*'amsgrad'"),
        (OURS, {"optimizer__amsgrad": True}, None, "^rule: expected adam, got adam_amsgrad"),
        (OURS, {"optimizer__param_groups": []}, None, "^param_groups: expected 3 groups, got 1"),
        (OURS, {}, -1000, None),
    ],
    ids=["NAdam", "amsgrad", "groups", "cut"],
)
def test_a_file_that_is_refused(
    optimizer: Any, changes: Any, end: int | None, message: str, tmp_path: Path
) -> None:
    """The optimizer is left unchanged."""
    path = tmp_path / "optimizer"
    net(optimizer, epochs=1, **changes).fit(X, Y).save_params(f_optimizer=path)
    path.write_bytes(path.read_bytes()[:end])
    one = net(OURS, epochs=1).fit(X, Y)
    before = everything(one.optimizer_)
    with pytest.raises((TypeError, ValueError, OSError), match=message):
        one.load_params(f_optimizer=path)
    assert_unchanged(one.optimizer_, before)


RATE = Cosine(LR, steps=STEPS)


@pytest.mark.parametrize(
    ("arguments", "changes", "error", "message"),
    [
        ({"optimizer": {"optimizer": lrcore.AdamW}}, {}, TypeError, "write lrcore.torch.FusedOptimizer"),
        ({"optimizer__bets": 0.5}, {}, TypeError, "^bets: AdamW takes no such argument; did you mean betas"),
        (
            {"lr": RATE, "callbacks": [falling()]},
            {},
            ValueError,
            "^param_groups.*PyTorch's schedulers cannot",
        ),
        ({"lr": RATE}, {"lr": 0.5}, ValueError, "^param_groups.*assign lrcore.schedules.Constant"),
        ({}, {"optimizer__amsgrad": True}, ValueError, "^param_groups.*amsgrad: fixed at construction"),
    ],
)
def test_what_is_refused(arguments: Any, changes: Any, error: type[Exception], message: str) -> None:
    """The error is raised before the first step with the wrong number."""
    one = net(arguments.pop("optimizer", OURS), epochs=1, **arguments)
    with pytest.raises(error, match=message):
        one.initialize().set_params(**changes).partial_fit(X, Y)
    if hasattr(one, "optimizer_"):
        runs.assert_same(values(one.module_), values(Module()))


def test_a_copy_with_a_scheduler() -> None:
    """The scheduler is copied by itself, with its optimizer, which is refused. Pickling the net copies all of it."""
    one = net(OURS, callbacks=[falling()]).fit(X, Y)
    with pytest.raises(TypeError, match="^a FusedOptimizer cannot be copied alone"):
        copy.deepcopy(one)

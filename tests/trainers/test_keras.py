"""FusedOptimizer with models of Keras 3, which are torch.nn.Modules if Keras runs on PyTorch.

Keras reads KERAS_BACKEND when it is imported, so each program runs in its own process.
"""

from __future__ import annotations

import copy
import importlib.util
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from lrcore.schedules import Cosine, Plateau, plateaus
from pytorch.modules import assert_same_dictionary, assert_unchanged, everything
from support import assert_runs
from trainers import runs
from trainers.runs import LR, STEPS, groups_of, ours, theirs, torch, values

if importlib.util.find_spec("keras") is None:
    pytest.skip("keras is not installed", allow_module_level=True)

HALF = STEPS // 2
RATES: list[Callable[[], Any]] = [
    lambda: LR,
    lambda: Cosine(LR, steps=STEPS).warmup(5),
    lambda: Plateau(LR, factor=0.5, patience=10),
]


def network(seed: int = 0, name: str | None = "layer") -> Any:
    """Return a model with a shared layer, as in `runs`. Without a name, Keras numbers the layers of a process."""
    import keras

    class Model(keras.Model):  # type: ignore[misc]
        """A model that `fit` trains with the optimizer in its attribute `fused`."""

        def train_step(self, data: Any) -> dict[str, Any]:
            x, y = data
            self.zero_grad()
            loss = self.compute_loss(y=y, y_pred=self(x, training=True))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.parameters(), 0.5)
            self.fused.step()
            for metric in self.metrics:
                metric.update_state(loss) if metric.name == "loss" else metric.update_state(y, self(x))
            return {metric.name: metric.result() for metric in self.metrics}

    keras.utils.set_random_seed(seed)
    names = iter([f"{name}{i}" if name else None for i in range(4)])
    x = keras.Input((8,))
    first = keras.layers.Dense(16, name=next(names))(x)
    normal = keras.layers.LayerNormalization(name=next(names))(first)
    shared = keras.layers.Dense(16, activation="tanh", name=next(names))
    return Model(x, keras.layers.Dense(1, name=next(names))(shared(shared(normal))))


def train(model: Any, opt: Any, steps: Iterable[int], scheduler: Any = None) -> None:
    """Train in a loop as in Keras's guide to loops in PyTorch."""
    for step in steps:
        model.zero_grad()
        runs.loss_of(model, step).backward()
        opt.step()
        if scheduler is not None:
            scheduler.step()
        for each in plateaus(opt) if hasattr(opt, "schedule") else ():
            each.observe(1.0)


def loops() -> None:
    """A loop trains as with AdamW, also with a schedule."""
    rate = Cosine(LR, steps=STEPS).warmup(5)
    for lr in (LR, rate):
        one, other = network(), network()
        opt = theirs(groups_of(other), lr=1.0)
        scheduler = torch.optim.lr_scheduler.LambdaLR(opt, rate if lr is rate else lambda _: LR)
        train(one, ours(groups_of(one), lr=lr), range(STEPS))
        train(other, opt, range(STEPS), scheduler)
        runs.assert_close(values(one), values(other))
        runs.assert_moved(values(one), values(network()))


def resumed() -> None:
    """Runs continue with the same bits from Keras's weights and the dictionary, and in float32 with AdamW's."""
    with tempfile.TemporaryDirectory() as folder:
        weights, states = Path(folder, "model.weights.h5"), Path(folder, "optimizer.pt")
        same = [(ours, ours, each) for each in RATES]
        for first, second, rate in [*same, (ours, theirs, RATES[0]), (theirs, ours, RATES[0])]:
            one, other = network(), network(1)
            opt, its = first(groups_of(one), lr=rate()), second(groups_of(other), lr=rate())
            train(one, opt, range(HALF))
            one.save_weights(weights)
            torch.save(opt.state_dict(), states)
            other.load_weights(weights)
            its.load_state_dict(torch.load(states))
            train(one, opt, range(HALF, STEPS))
            train(other, its, range(HALF, STEPS))
            if first is second:
                runs.assert_same(values(one), values(other))
                assert_same_dictionary(opt.state_dict(), its.state_dict())
            else:
                runs.assert_close(values(one), values(other))


def fits() -> None:
    """`fit` with a `train_step` that steps the optimizer has the bits of a loop, and trains as with AdamW."""
    x, y = (torch.cat(each) for each in zip(*map(runs.batch, range(STEPS)), strict=True))
    models = [network() for _ in range(3)]
    for model, make in zip(models, (ours, theirs, ours), strict=True):
        model.fused = make(groups_of(model))
    for model in models[:2]:
        model.compile(optimizer=None, loss="mse", metrics=["mae"])
        history = model.fit(x, y, batch_size=len(x) // STEPS, shuffle=False, verbose=0).history
        assert 0.0 < history["loss"][0] < 10.0
    for step in range(STEPS):
        models[2].zero_grad()
        runs.loss_of(models[2], step).backward()
        torch.nn.utils.clip_grad_norm_(models[2].parameters(), 0.5)
        models[2].fused.step()
    runs.assert_close(values(models[0]), values(models[1]))
    runs.assert_same(values(models[0]), values(models[2]))
    assert models[0].fused.step_count == STEPS


def raises(
    error: type[Exception], message: str, call: Callable[..., Any], *args: Any, **options: Any
) -> None:
    with pytest.raises(error, match=message):
        call(*args, **options)


def refused() -> None:
    """What cannot work is refused before anything is changed."""
    import keras

    model = network()
    opt = ours(groups_of(model))
    train(model, opt, range(3))
    before = everything(opt)
    raises(
        ValueError, "Could not interpret optimizer identifier: FusedOptimizer", model.compile, optimizer=opt
    )
    raises(TypeError, "^a FusedOptimizer cannot be copied alone", copy.deepcopy, opt)
    saved = torch.optim.SGD(groups_of(model)).state_dict()
    raises(ValueError, r"^param_groups\[0\]: expected the entries .*'betas'", opt.load_state_dict, saved)
    for name in (
        None,
        "other",
    ):  # Keras numbers layers without names, and PyTorch sorts dense_10 before dense_9
        saved = ours(groups_of(network(name=name))).state_dict()
        raises(ValueError, r"^param_groups\[0\]: param_names: .*layer0", opt.load_state_dict, saved)
    layers = [keras.layers.Dense(3), keras.layers.Dropout(0.5), keras.layers.BatchNormalization()]
    with_seed = keras.Sequential([keras.Input((8,)), *layers])
    raises(
        TypeError, "got torch.int32; pass only the parameters that are trained", ours, with_seed.parameters()
    )
    train(with_seed, ours(groups_of(with_seed)), range(2))
    raises(ValueError, "empty", ours, keras.Sequential([keras.layers.Dense(3)]).parameters())
    assert_unchanged(opt, before)


def test_on_pytorch() -> None:
    """All programs run in one process, because importing Keras takes seconds."""
    calls = "".join(f"trainers.test_keras.{each.__name__}()\n" for each in (loops, resumed, fits, refused))
    folder = str(Path(__file__).parents[1])
    assert_runs(f"import trainers.test_keras\n{calls}", KERAS_BACKEND="torch", PYTHONPATH=folder)

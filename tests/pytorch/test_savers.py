"""`lrcore.torch.FusedOptimizer` with tools that save checkpoints.

The tools are torch.save and torch.distributed.checkpoint. Neither is mocked.
"""

from __future__ import annotations

import copy
import gc
import json
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import lrcore
from lrcore.schedules import Cosine, Plateau, plateaus
from pytorch.modules import FusedOptimizer, assert_same_dictionary, each_optimizer, loss_of, network, torch
from pytorch.modules import build as build_by_name

RATES: dict[str, Callable[[], Any]] = {
    "number": lambda: 0.1,
    "schedule": lambda: Cosine(0.1, steps=20).warmup(2),
    "plateau": lambda: Plateau(Cosine(0.1, steps=20), factor=0.5, patience=1),
    "one plateau twice": lambda: (p := Plateau(0.1, factor=0.5, patience=1)).then(p * 0.5, at=5),
}
OPTIMIZERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "SGD": (lrcore.SGD, {}),
    "SGD with momentum": (lrcore.SGD, {"momentum": 0.9}),
    "SGD with dampening": (lrcore.SGD, {"momentum": 0.9, "dampening": 0.1, "maximize": True}),
    "Lion": (lrcore.Lion, {}),
    "AdamW": (lrcore.AdamW, {"amsgrad": True}),
    "Adam with eps before the correction": (lrcore.Adam, {"eps_placement": "hat"}),
    "NAdam": (lrcore.NAdam, {}),
    "RAdam with independent decay": (lrcore.RAdam, {"weight_decay": 0.01, "decay": "independent"}),
}


def build(optimizer: str = "AdamW", rate: str = "plateau", seed: int = 0) -> tuple[Any, Any]:
    cls, options = OPTIMIZERS[optimizer]
    model = network(seed)
    return model, FusedOptimizer(model.parameters(), cls, lr=RATES[rate](), **options)


def parted(seed: int) -> tuple[Any, Any]:
    """Return a module with a shared parameter, and its two optimizers."""
    model = network(seed)
    model.append(torch.nn.Linear(3, 3)).append(torch.nn.Linear(3, 3))
    model[-1].weight = model[-2].weight
    first, *others = model.parameters()
    return model, [
        FusedOptimizer([first], lrcore.SGD, lr=0.1, momentum=0.9),
        FusedOptimizer(others, lrcore.Lion, lr=RATES["plateau"]()),
    ]


def train(model: Any, opts: Any, steps: range) -> None:
    """Train a module with one or several optimizers."""
    opts = opts if isinstance(opts, list) else [opts]
    for step in steps:
        for opt in opts:
            opt.zero_grad()
        loss_of(model, step).backward()
        for opt in opts:
            opt.step()
            for each in plateaus(opt.schedule):
                each.observe(1.0)


def assert_same(one: tuple[Any, Any], other: tuple[Any, Any]) -> None:
    """Check that the modules have equal bits and the optimizers agree in whatever affects later steps."""
    for name, values in one[0].state_dict().items():
        assert torch.equal(values, other[0].state_dict()[name]), name
    for each in ("step_count", "lr", "schedule"):
        assert getattr(one[1], each) == getattr(other[1], each)
    assert_same_dictionary(one[1].state_dict(), other[1].state_dict())


def test_a_view_outlives_module_and_optimizer() -> None:
    """A view keeps its memory alive."""
    model, opt = build("AdamW", "number")
    train(model, opt, range(2))
    weight = model[0].weight
    kept = [weight.data, weight.grad, weight.grad.view(-1), opt.state[weight]["exp_avg"]]
    kept += [opt.state_dict()["state"][0]["exp_avg"], opt.optimizers[0].params]
    kept += [torch.from_numpy(weight.detach().numpy())]
    expected = [each.clone() for each in kept]
    gone = weakref.ref(opt)
    del model, opt, weight
    gc.collect()
    assert gone() is None
    others = [torch.full((16,), 7.0) for _ in range(1000)]  # these would reuse freed memory
    assert all(map(torch.equal, kept, expected))
    del others


@pytest.mark.parametrize("rate", ["number", "plateau"])
@each_optimizer
def test_torch_save(name: str, rate: str, tmp_path: Path) -> None:
    """A run resumed from a file is bitwise identical to the run that continued after saving.

    The dictionary is a copy, and loading the file executes no code.
    """
    for taken in (0, 1, 5):
        one = (model := network(0)), build_by_name(name, model, lr=RATES[rate]())
        other = (model := network(1)), build_by_name(name, model, lr=RATES[rate](), weight_decay=0.125)
        train(*one, range(taken))
        train(*other, range(3))
        saved = copy.deepcopy(one[0].state_dict()), one[1].state_dict()
        train(*one, range(taken, 8))
        torch.save(saved, tmp_path / "file.pt")
        for each, read in zip(other, torch.load(tmp_path / "file.pt", weights_only=True), strict=True):
            each.load_state_dict(read)
        assert other[1].step_count == taken
        train(*other, range(taken, 8))
        assert_same(one, other)


def distributed(flattened: bool) -> tuple[Any, Any]:
    """Return functions that copy and load the dictionaries of a module and optimizers, in one process."""
    tools = pytest.importorskip("torch.distributed.checkpoint.state_dict")
    options = tools.StateDictOptions(flatten_optimizer_state_dict=flattened)

    def get(model: Any, opts: Any) -> dict[str, Any]:
        found = copy.deepcopy(tools.get_state_dict(model, opts, options=options))
        return dict(zip(("model_state_dict", "optim_state_dict"), found, strict=True))

    def set_all(model: Any, opts: Any, found: dict[str, Any]) -> None:
        tools.set_state_dict(model, opts, **found, options=options)

    return get, set_all


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # from torch.distributed.checkpoint, which has no process group here
@pytest.mark.parametrize("flattened", [False, True])
@pytest.mark.parametrize(
    ("optimizer", "rate"),
    [*((each, "plateau") for each in OPTIMIZERS), *(("AdamW", each) for each in RATES if each != "plateau")],
)
def test_distributed_checkpoint(optimizer: str, rate: str, flattened: bool, tmp_path: Path) -> None:
    """torch.distributed.checkpoint saves only states and groups.

    The test also saves before the first step, and loads into optimizers that have already taken steps.
    """
    checkpoint = pytest.importorskip("torch.distributed.checkpoint")
    get, set_all = distributed(flattened)
    for taken, stepped in ((0, 0), (4, 0), (4, 3)):
        one, other = build(optimizer, rate), build(optimizer, rate, seed=1)
        train(*one, range(taken))
        train(*other, range(stepped))
        folder = tmp_path / f"{taken}-{stepped}"
        checkpoint.save(get(*one), checkpoint_id=folder)
        read = get(*other)
        checkpoint.load(read, checkpoint_id=folder)
        set_all(*other, read)
        assert_same(one, other)
        for each in (one, other):
            train(*each, range(taken, taken + 4))
        assert_same(one, other)


@pytest.mark.filterwarnings("ignore")  # from torch.distributed.checkpoint, which has no process group here
@pytest.mark.parametrize("flattened", [False, True])
def test_distributed_checkpoint_of_two_optimizers(flattened: bool) -> None:
    """The group of each optimizer contains its step count and schedule."""
    get, set_all = distributed(flattened)
    (model, opts), (other, its) = parted(0), parted(1)
    train(model, opts[:1], range(1))
    train(model, opts[1], range(3))
    set_all(other, its, get(model, opts))
    assert [each.step_count for each in its] == [1, 3]
    for opt, loaded in zip(opts, its, strict=True):
        assert_same((model, opt), (other, loaded))


def falling(t: int) -> float:
    return 0.1 / (1 + t)


@pytest.mark.filterwarnings("ignore")  # from torch.distributed.checkpoint, which has no process group here
@pytest.mark.parametrize("momentum", [0.0, 0.5])
@pytest.mark.parametrize("second", ["number", "schedule"])
@pytest.mark.parametrize("first", ["number", "schedule", "callable"])
@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_distributed_checkpoint_before_the_first_step(
    name: str, first: str, second: str, momentum: float
) -> None:
    """It creates the states by a step with rates of 0. The step moves no parameter, and advances no schedule."""
    rates: dict[str, Callable[[], Any]] = {**RATES, "callable": lambda: falling}
    numbers = {"momentum": momentum} if name == "SGD" else {"betas": (momentum, 0.9)}

    def made() -> tuple[Any, Any]:
        model = network()
        head, *others = model.parameters()
        groups = [{"params": head}, {"params": others, "lr": rates[second]()}]
        options = {"weight_decay": 0.5, "decay": "independent"}
        return model, FusedOptimizer(groups, getattr(lrcore, name), lr=rates[first](), **numbers, **options)

    get, set_all = distributed(False)
    model, opt = made()
    for _ in range(2):
        before = [each.detach().clone() for each in model.parameters()]
        count = opt.step_count
        other, its = made()
        set_all(other, its, get(model, opt))
        assert all(map(torch.equal, model.parameters(), before))
        if first != "callable":  # which is not called before the step
            assert_same((model, opt), (other, its))
        assert opt.step_count == its.step_count == count
        for each in ((model, opt), (other, its)):
            train(*each, range(2))
            each[1].zero_grad()
        assert_same((model, opt), (other, its))
        assert opt.step_count == count + 2


def test_a_rate_of_0_over_a_schedule() -> None:
    """Like other numbers, it is refused in steps that do not only create the states."""
    weight = torch.nn.Parameter(torch.ones(3))
    opt = FusedOptimizer([weight], lrcore.SGD, lr=RATES["schedule"]())
    weight.grad = torch.ones(3)
    opt.param_groups[0]["lr"] = 0.0
    with pytest.raises(ValueError, match=r"^param_groups\[0\]: lr: 0\.0 was assigned"):
        opt.step()
    assert (weight.tolist(), opt.step_count) == ([1.0] * 3, 0)


def test_in_inference_mode() -> None:
    """Tensors that are made, read or saved in inference mode can be used outside of it.

    PyTorch's optimizer can step with the tensors of a dictionary.
    """
    model = network()
    with torch.inference_mode():
        opt = FusedOptimizer(model.parameters(), lrcore.NAdam)
    train(model, opt, range(2))
    with torch.inference_mode():
        saved = opt.state_dict()
        states = [*opt.state[model[0].weight].values()]
        opt.zero_grad()
    given = [*saved["state"][0].values(), *states, *(each.grad for each in model.parameters())]
    assert not any(each.is_inference() for each in given if each is not None)
    opt.load_state_dict(saved)
    train(model, opt, range(2, 4))
    theirs = torch.optim.NAdam(model.parameters())
    theirs.load_state_dict(saved)
    theirs.step()
    assert float(theirs.state[model[0].weight]["step"]) == 3


def test_what_pytorch_wrote_after_loading_ours_is_pytorchs() -> None:
    """PyTorch's optimizers keep our entry, with options that they lack, and count their own steps."""
    model, opt = build("Adam with eps before the correction", "plateau")
    theirs = torch.optim.Adam(model.parameters())
    train(model, opt, range(4))
    saved = opt.state_dict()
    theirs.load_state_dict(saved)
    opt.load_state_dict(theirs.state_dict())  # PyTorch has taken no step since
    assert_same_dictionary(opt.state_dict(), saved)
    assert plateaus(opt.schedule)[0].reductions == 1
    train(model, opt, range(4, 8))
    for i in range(3):
        sum((i + 1) * each.sum() for each in model.parameters()).backward()
        theirs.step()
    schedule = opt.schedule
    opt.load_state_dict(theirs.state_dict())
    assert opt.step_count == 7
    assert opt.schedule is schedule  # PyTorch's dictionary has no schedule
    assert plateaus(schedule)[0].reductions == 3


def test_sgd_of_pytorch_after_loading_ours() -> None:
    """PyTorch's SGD does not count its steps. Our count is kept, or passed as an argument."""
    weight = torch.nn.Parameter(torch.zeros(3))
    opt = FusedOptimizer([weight], lrcore.SGD, lr=Plateau(0.5, patience=3), momentum=0.5)
    weight.grad = torch.ones(3)
    for _ in range(4):
        opt.step()
    saved = opt.state_dict()
    theirs = torch.optim.SGD([weight], momentum=0.5)
    theirs.load_state_dict(saved)
    theirs.step()
    for counted, count in (({}, 4), ({"step_count": 5}, 5)):
        opt.load_state_dict(theirs.state_dict(), **counted)
        assert opt.step_count == count
    opt.lr = 0.25
    opt.load_state_dict(saved, step_count=7)
    assert (opt.step_count, opt.schedule) == (7, Plateau(0.5, patience=3))
    plain = lrcore.SGD(torch.zeros(3), momentum=0.5)
    plain.load_torch_state_dict(theirs.state_dict())
    assert plain.step_count == 4


def test_dictionaries_of_former_versions() -> None:
    """Former versions stored everything that PyTorch's dictionaries lack in an entry next to the groups."""
    one, other = build(), build(seed=1)
    train(*one, range(4))
    saved = one[1].state_dict()
    saved["lrcore"] = json.loads(saved["param_groups"][0].pop("lrcore"))
    other[1].load_state_dict(saved)
    other[0].load_state_dict(one[0].state_dict())
    assert_same(one, other)

"""`lrcore.torch.FusedOptimizer` in the tools that people save trainings with.

They are safetensors, accelerate, torch.distributed.checkpoint and torch.save, and each runs for real.
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

torch = pytest.importorskip("torch")

import lrcore.torch
from lrcore.torch import FusedOptimizer

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
    "Adam with eps beside the root": (lrcore.Adam, {"eps_placement": "hat"}),
    "NAdam": (lrcore.NAdam, {}),
}


def module(seed: int) -> Any:
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Conv1d(3, 2, 1), torch.nn.BatchNorm1d(2))


def build(optimizer: str = "AdamW", rate: str = "plateau", seed: int = 0) -> tuple[Any, Any]:
    cls, options = OPTIMIZERS[optimizer]
    model = module(seed)
    return model, FusedOptimizer(model.parameters(), cls, lr=RATES[rate](), **options)


def parted(seed: int) -> tuple[Any, Any]:
    """Return a module with two optimizers."""
    model = module(seed)
    first, *others = model.parameters()
    return model, [
        FusedOptimizer([first], lrcore.SGD, lr=0.1, momentum=0.9),
        FusedOptimizer(others, lrcore.Lion, lr=RATES["plateau"]()),
    ]


def train(model: Any, opts: Any, steps: range, backward: Any = torch.Tensor.backward) -> None:
    """Train with an optimizer, or with several."""
    opts = opts if isinstance(opts, list) else [opts]
    for i in steps:
        torch.manual_seed(i)
        for opt in opts:
            opt.zero_grad()
        hidden = model[0](torch.randn(5, 4)).reshape(5, 3, 1)
        backward((model[2](model[1](hidden)) - 1).square().mean())
        for opt in opts:
            opt.step()
            for each in plateaus(getattr(opt, "optimizer", opt).schedule):
                each.observe(1.0)


def assert_same(one: tuple[Any, Any], other: tuple[Any, Any]) -> None:
    """Assert equal bits of the modules, and equal in each optimizer what the next steps depend on."""
    for name, values in one[0].state_dict().items():
        assert torch.equal(values, other[0].state_dict()[name]), name
    for each in ("step_count", "lr", "schedule"):
        assert getattr(one[1], each) == getattr(other[1], each)
    ours, theirs = (opt.state_dict() for _, opt in (one, other))
    assert ours["param_groups"] == theirs["param_groups"]
    for number, states in ours["state"].items():
        assert all(torch.equal(states[name], theirs["state"][number][name]) for name in states)


def test_each_tensor_has_a_storage_of_its_own() -> None:
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 5, 3).to(memory_format=torch.channels_last),
        torch.nn.Linear(7, 1),
        torch.nn.ParameterList([torch.zeros(()), torch.zeros(0, 3), torch.zeros(2, 1, 4)]),
    )
    opt = FusedOptimizer(model.parameters(), lrcore.Adam)
    sum(each.sum() for each in model.parameters()).backward()
    opt.step()
    for i, parameter in enumerate(model.parameters()):
        tensors = [parameter, parameter.grad, *opt.state[parameter].values()]
        tensors += [each for name, each in opt.state_dict()["state"][i].items() if name != "step"]
        assert len(tensors) == 6
        for each in tensors:
            assert each.untyped_storage().nbytes() == 4 * parameter.numel()
            assert each.stride() == torch.empty_like(parameter).stride()
    flat = opt.optimizers[0].params
    model[1].weight.data.fill_(3)
    assert (flat == 3).sum() == 7  # and yet the memory is one


def test_a_view_outlives_module_and_optimizer() -> None:
    """Whatever somebody keeps holds the memory."""
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
    others = [torch.full((16,), 7.0) for _ in range(1000)]  # where freed memory would be taken again
    assert all(map(torch.equal, kept, expected))
    del others


@pytest.mark.parametrize("optimizer", ["SGD with momentum", "AdamW"])
def test_torch_save(optimizer: str, tmp_path: Path) -> None:
    one, other = build(optimizer), build(optimizer, seed=1)
    train(*one, range(4))
    torch.save([each.state_dict() for each in one], tmp_path / "file.pt")
    for each, saved in zip(other, torch.load(tmp_path / "file.pt", weights_only=True), strict=True):
        each.load_state_dict(saved)
    assert_same(one, other)
    train(*one, range(4, 8))
    train(*other, range(4, 8))
    assert_same(one, other)


def test_safetensors(tmp_path: Path) -> None:
    tools = pytest.importorskip("safetensors.torch")
    one, other = build(), build(seed=1)
    train(*one, range(4))
    tools.save_model(one[0], tmp_path / "model.safetensors")
    tools.load_model(other[0], tmp_path / "model.safetensors")
    tools.save_file(one[0].state_dict(), tmp_path / "file.safetensors")
    for name, values in tools.load_file(tmp_path / "file.safetensors").items():
        assert torch.equal(values, other[0].state_dict()[name])
    tools.save_file(dict(one[1].state_dict()["state"][0]), tmp_path / "state.safetensors")
    gradients = {name: each.grad for name, each in one[0].named_parameters()}
    tools.save_file(gradients, tmp_path / "gradients.safetensors")
    other[1].load_state_dict(one[1].state_dict())
    train(*one, range(4, 8))
    train(*other, range(4, 8))
    assert_same(one, other)


def test_tied_weights(tmp_path: Path) -> None:
    """Two modules over one parameter, which safetensors' save_model finds by its storage."""
    tools = pytest.importorskip("safetensors.torch")

    def tied() -> Any:
        model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
        model[1].weight = model[0].weight
        return model, FusedOptimizer(model.parameters(), lrcore.AdamW)

    model, opt = tied()
    model(torch.ones(1, 4)).sum().backward()
    opt.step()
    tools.save_model(model, tmp_path / "model.safetensors")
    other, _ = tied()
    tools.load_model(other, tmp_path / "model.safetensors")
    assert torch.equal(other[1].weight, model[0].weight)
    assert other[1].weight is other[0].weight


def test_several_optimizers_over_one_module(tmp_path: Path) -> None:
    """Each has buffers of its own, and the module is saved as one."""
    tools = pytest.importorskip("safetensors.torch")
    one, other = parted(0), parted(1)
    train(*one, range(4))
    tools.save_model(one[0], tmp_path / "model.safetensors")
    torch.save([each.state_dict() for each in one[1]], tmp_path / "file.pt")
    tools.load_model(other[0], tmp_path / "model.safetensors")
    read = torch.load(tmp_path / "file.pt", weights_only=True, mmap=True)
    for each, saved in zip(other[1], read, strict=True):
        each.load_state_dict(saved)
    train(*one, range(4, 8))
    train(*other, range(4, 8))
    for opt, its in zip(one[1], other[1], strict=True):
        assert_same((one[0], opt), (other[0], its))


@pytest.mark.parametrize(
    ("optimizer", "safe"), [("SGD", True), ("SGD with momentum", False), ("Lion", False), ("AdamW", True)]
)
def test_accelerate(optimizer: str, safe: bool, tmp_path: Path) -> None:
    accelerate = pytest.importorskip("accelerate")
    accelerator = accelerate.Accelerator(cpu=True)
    model, opt = accelerator.prepare(*build(optimizer))
    train(model, opt, range(4), accelerator.backward)
    accelerator.save_state(tmp_path / "state", safe_serialization=safe)
    accelerator.save_model(model, tmp_path / "model")
    assert {each.name for each in (tmp_path / "model").iterdir()} == {"model.safetensors"}
    train(model, opt, range(4, 8), accelerator.backward)
    expected = copy.deepcopy([each.state_dict() for each in (model, opt.optimizer)])

    for again in (accelerator, accelerate.Accelerator(cpu=True)):
        if again is not accelerator:
            model, opt = again.prepare(*build(optimizer, seed=1))
        again.load_state(tmp_path / "state")
        assert opt.optimizer.step_count == 4
        train(model, opt, range(4, 8), again.backward)
        other, its = build(optimizer, seed=2)
        other.load_state_dict(expected[0])
        its.load_state_dict(expected[1])
        assert_same((model, opt.optimizer), (other, its))


def distributed() -> tuple[Any, Any]:
    checkpoint = pytest.importorskip("torch.distributed.checkpoint")
    return checkpoint, pytest.importorskip("torch.distributed.checkpoint.state_dict")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of torch.distributed.checkpoint, which has no process group here
@pytest.mark.parametrize("flattened", [False, True])
@pytest.mark.parametrize(
    ("optimizer", "rate"),
    [*((each, "plateau") for each in OPTIMIZERS), *(("AdamW", each) for each in RATES if each != "plateau")],
)
def test_distributed_checkpoint(optimizer: str, rate: str, flattened: bool, tmp_path: Path) -> None:
    """It keeps states and groups alone. Taken before the first step too, and into optimizers that have stepped."""
    checkpoint, state_dict = distributed()
    options = state_dict.StateDictOptions(flatten_optimizer_state_dict=flattened)
    for taken, stepped in ((0, 0), (4, 0), (4, 3)):
        one, other = build(optimizer, rate), build(optimizer, rate, seed=1)
        train(*one, range(taken))
        train(*other, range(stepped))
        found = copy.deepcopy(state_dict.get_state_dict(*one, options=options))
        folder = tmp_path / f"{taken}-{stepped}"
        checkpoint.save(dict(zip(("model", "optimizer"), found, strict=True)), checkpoint_id=folder)
        found = state_dict.get_state_dict(*other, options=options)
        read = dict(zip(("model", "optimizer"), found, strict=True))
        checkpoint.load(read, checkpoint_id=folder)
        state_dict.set_state_dict(
            *other, model_state_dict=read["model"], optim_state_dict=read["optimizer"], options=options
        )
        assert_same(one, other)
        train(*one, range(taken, taken + 4))
        train(*other, range(taken, taken + 4))
        assert_same(one, other)


@pytest.mark.filterwarnings("ignore")  # of torch.distributed.checkpoint, which has no process group here
@pytest.mark.parametrize("flattened", [False, True])
def test_distributed_checkpoint_of_two_optimizers(flattened: bool) -> None:
    """Each has its own step count and schedule in its group."""
    _, state_dict = distributed()
    options = state_dict.StateDictOptions(flatten_optimizer_state_dict=flattened)
    (model, opts), (other, its) = parted(0), parted(1)
    opts[0].step()
    train(model, opts[1], range(3))
    found = copy.deepcopy(state_dict.get_state_dict(model, opts, options=options))
    state_dict.set_state_dict(
        other, its, model_state_dict=found[0], optim_state_dict=found[1], options=options
    )
    assert [each.step_count for each in its] == [1, 3]
    for opt, loaded in zip(opts, its, strict=True):
        assert_same((model, opt), (other, loaded))


def test_in_inference_mode() -> None:
    """What is made, looked at or saved there can be used outside; PyTorch's optimizer steps the tensors of a dictionary."""
    model = module(0)
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


def test_a_live_group_is_nobodys_checkpoint() -> None:
    """What is said beside PyTorch's entries is in a state dictionary, and never acts from a group."""
    _, opt = build()
    assert opt.param_groups[0]["lrcore"] == ""
    assert opt.state_dict()["param_groups"][0]["lrcore"] != ""
    opt.load_state_dict(opt.state_dict())
    assert opt.param_groups[0]["lrcore"] == ""


def test_what_pytorch_wrote_after_loading_ours_is_pytorchs() -> None:
    """Its optimizers carry the entry along, and go on counting beside it."""
    model, opt = build("Adam with eps beside the root", "plateau")
    theirs = torch.optim.Adam(model.parameters())
    train(model, opt, range(4))
    saved = copy.deepcopy(opt.state_dict())
    theirs.load_state_dict(saved)
    assert theirs.param_groups[0]["lrcore"] == saved["param_groups"][0]["lrcore"]
    opt.load_state_dict(theirs.state_dict())  # nothing has happened since
    assert (opt.step_count, plateaus(opt.schedule)[0].reductions) == (4, 1)
    train(model, opt, range(4, 8))
    for i in range(3):
        sum((i + 1) * each.sum() for each in model.parameters()).backward()
        theirs.step()
    schedule = opt.schedule
    opt.load_state_dict(theirs.state_dict())
    assert opt.step_count == 7
    assert opt.schedule is schedule  # PyTorch's has none
    assert plateaus(schedule)[0].reductions == 3


def test_sgd_of_pytorch_after_loading_ours() -> None:
    """It has no count of its own: that of ours stays, or is given."""
    weight = torch.nn.Parameter(torch.zeros(3))
    opt = FusedOptimizer([weight], lrcore.SGD, momentum=0.5)
    for _ in range(4):
        weight.grad = torch.ones(3)
        opt.step()
    theirs = torch.optim.SGD([weight], momentum=0.5)
    theirs.load_state_dict(opt.state_dict())
    weight.grad = torch.ones(3)
    theirs.step()
    opt.load_state_dict(theirs.state_dict())
    assert opt.step_count == 4
    opt.load_state_dict(theirs.state_dict(), step_count=5)
    assert opt.step_count == 5
    opt.lr = Plateau(0.5, patience=3)
    saved = opt.state_dict()
    opt.lr = 0.25
    opt.load_state_dict(saved, step_count=7)
    assert (opt.step_count, opt.schedule) == (7, Plateau(0.5, patience=3))
    plain = lrcore.SGD(torch.zeros(3), momentum=0.5)
    plain.load_torch_state_dict(theirs.state_dict())
    assert plain.step_count == 4


def test_dictionaries_of_former_versions() -> None:
    """They have what PyTorch's lack in an entry beside the groups."""
    one, other = build(), build(seed=1)
    train(*one, range(4))
    saved = one[1].state_dict()
    text = saved["param_groups"][0].pop("lrcore")
    saved["lrcore"] = json.loads(text)
    other[1].load_state_dict(saved)
    other[0].load_state_dict(one[0].state_dict())
    assert_same(one, other)

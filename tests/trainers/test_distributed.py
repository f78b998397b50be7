"""FusedOptimizer with the tools of `torch.distributed`, in two processes and in one.

The cases in two processes are in processes.py.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import lrcore
from pytorch.modules import FusedOptimizer, assert_same_dictionary
from pytorch.modules import network as network_of_images
from pytorch.savers import OPTIMIZERS, RATES, assert_same, build, parted, train
from trainers.runs import STEPS, MakeOptimizer, assert_close, groups_of, network, ours, theirs, torch, values

if not torch.distributed.is_available():
    pytest.skip("this PyTorch has no torch.distributed", allow_module_level=True)

import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict

from trainers import processes

without_a_group = pytest.mark.filterwarnings("ignore")  # torch.distributed.checkpoint warns in one process
each_form = pytest.mark.parametrize("flattened", [False, True])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the two processes, after they have run all cases."""
    folder = tmp_path_factory.mktemp("processes")
    torch.multiprocessing.spawn(processes.run, (folder,), nprocs=2)
    return folder


@pytest.mark.parametrize("name", processes.CASES)
def test_two_processes(name: str, folder: Path) -> None:
    for rank in range(2):
        outcome = json.loads((folder / f"{rank}.json").read_text()).get(name, "not reached")
        assert outcome == "passed", f"process {rank}: {outcome}"


@without_a_group
@each_form
@pytest.mark.parametrize("rate", processes.RATES)
def test_a_checkpoint_of_two_processes_in_one(rate: str, flattened: bool, folder: Path) -> None:
    """One process continues with the whole batches, whose gradients are those of two processes in float32."""
    model, opt = processes.made(rate, seed=1)
    processes.load(model, opt, folder / f"{rate} {flattened}", flattened)
    assert opt.step_count == processes.HALF
    processes.train(model, opt, range(processes.HALF, STEPS))
    assert_close(values(model), torch.load(folder / f"{rate} {flattened}" / "final.pt"))


@without_a_group
@each_form
@pytest.mark.parametrize(("source", "target"), [(ours, theirs), (theirs, ours)])
def test_a_checkpoint_of_another_optimizer(
    source: MakeOptimizer, target: MakeOptimizer, flattened: bool, tmp_path: Path
) -> None:
    """PyTorch's optimizers can load our checkpoints. Theirs lack entries, so that PyTorch's optimizer must load them first."""
    model = network()
    opt = source(groups_of(model))
    processes.train(model, opt, range(processes.HALF))
    dcp.save(processes.state_of(model, opt, flattened), checkpoint_id=tmp_path)
    processes.train(model, opt, range(processes.HALF, STEPS))

    other = network(1)
    loader = theirs(groups_of(other))
    processes.load(other, loader, tmp_path, flattened)
    its = target(groups_of(other))
    its.load_state_dict(loader.state_dict())
    processes.train(other, its, range(processes.HALF, STEPS))
    assert_close(values(model), values(other))


@without_a_group
@pytest.mark.parametrize("file", [".metadata", "__0_0.distcp"])
def test_a_checkpoint_that_is_cut_off(file: str, tmp_path: Path) -> None:
    """The optimizer keeps its state."""
    model, opt = processes.made("plateau")
    processes.train(model, opt, range(5))
    dcp.save(processes.state_of(model, opt, False), checkpoint_id=tmp_path)
    processes.train(model, opt, range(5))
    before = copy.deepcopy(opt.state_dict())
    whole = (tmp_path / file).read_bytes()
    (tmp_path / file).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(dcp.CheckpointException):
        processes.load(model, opt, tmp_path, False)
    assert_same_dictionary(opt.state_dict(), before)


def distributed(flattened: bool) -> tuple[Any, Any]:
    """Return functions that copy and load the dictionaries of a module and optimizers, in one process."""
    options = StateDictOptions(flatten_optimizer_state_dict=flattened)

    def get(model: Any, opts: Any) -> dict[str, Any]:
        found = copy.deepcopy(get_state_dict(model, opts, options=options))
        return dict(zip(("model_state_dict", "optim_state_dict"), found, strict=True))

    def set_all(model: Any, opts: Any, found: dict[str, Any]) -> None:
        set_state_dict(model, opts, **found, options=options)

    return get, set_all


@pytest.mark.slow
@without_a_group
@each_form
@pytest.mark.parametrize(
    ("optimizer", "rate"),
    [*((each, "plateau") for each in OPTIMIZERS), *(("AdamW", each) for each in RATES if each != "plateau")],
)
def test_distributed_checkpoint(optimizer: str, rate: str, flattened: bool, tmp_path: Path) -> None:
    """torch.distributed.checkpoint saves only states and groups.

    The test also saves before the first step, and loads into optimizers that have already taken steps.
    """
    get, set_all = distributed(flattened)
    for taken, stepped in ((0, 0), (4, 0), (4, 3)):
        one, other = build(optimizer, rate), build(optimizer, rate, seed=1)
        train(*one, range(taken))
        train(*other, range(stepped))
        folder = tmp_path / f"{taken}-{stepped}"
        dcp.save(get(*one), checkpoint_id=folder)
        read = get(*other)
        dcp.load(read, checkpoint_id=folder)
        set_all(*other, read)
        assert_same(one, other)
        for each in (one, other):
            train(*each, range(taken, taken + 4))
        assert_same(one, other)


@without_a_group
@each_form
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


@without_a_group
@pytest.mark.parametrize("momentum", [0.0, 0.5])
@pytest.mark.parametrize("second", ["number", "schedule"])
@pytest.mark.parametrize("first", ["number", "schedule", "callable"])
@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_distributed_checkpoint_before_the_first_step(
    name: str, first: str, second: str, momentum: float
) -> None:
    """PyTorch creates the states by a step with rates of 0. The step moves no parameter, and advances no schedule."""
    rates: dict[str, Callable[[], Any]] = {**RATES, "callable": lambda: falling}
    numbers = {"momentum": momentum} if name == "SGD" else {"betas": (momentum, 0.9)}

    def made() -> tuple[Any, Any]:
        model = network_of_images()
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

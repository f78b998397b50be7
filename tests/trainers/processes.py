"""Cases of test_distributed.py that run in two processes, each of which computes with half of each batch.

`run` runs all cases in the processes of one group, because it takes seconds to start them.
"""

from __future__ import annotations

import copy
import functools
import json
import re
import traceback
import warnings
from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.distributed.algorithms.model_averaging import averagers, utils
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel as DDP

import lrcore
import lrcore.torch
from lrcore.schedules import Cosine, Plateau, plateaus
from trainers.runs import (
    LR,
    NUMBERS,
    STEPS,
    MakeOptimizer,
    assert_close,
    assert_same,
    batch,
    groups_of,
    network,
    ours,
    theirs,
    values,
)

with warnings.catch_warnings(action="ignore"):  # it uses torch.jit.script
    from torch.distributed.optim import (
        PostLocalSGDOptimizer,
        ZeroRedundancyOptimizer,
        _apply_optimizer_in_backward,
    )

HALF = STEPS // 2
CPU = torch.device("cpu")
Case = Callable[[Path], None]
CASES: dict[str, Case] = {}
RATES: dict[str, Callable[[], Any]] = {
    "number": lambda: LR,
    "schedule": lambda: Cosine(LR, steps=STEPS).warmup(5),
    "plateau": lambda: Plateau(Cosine(LR, steps=STEPS), factor=0.5, patience=3),
}


def case(name: str, *args: Any, **kwargs: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add a function with these arguments to the cases."""

    def added(function: Callable[..., None]) -> Callable[..., None]:
        CASES[name] = lambda folder: function(folder, *args, **kwargs)
        return function

    return added


def run(rank: int, folder: Path) -> None:
    """Run the cases in one of two processes up to the first error, and write the outcomes to a file."""
    torch.set_num_threads(1)
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", store, timedelta(seconds=60), world_size=2, rank=rank)
    outcomes = {}
    for name, function in CASES.items():
        try:
            with warnings.catch_warnings(action="ignore"):  # the tools use what PyTorch has deprecated
                function(folder)
            outcomes[name] = "passed"
        except BaseException:  # such as CheckpointException
            outcomes[name] = traceback.format_exc()
            break
    (folder / f"{rank}.json").write_text(json.dumps(outcomes))
    dist.destroy_process_group()


def train(model: Any, opt: Any, steps: Iterable[int], change: Callable[[Any], Any] = lambda _: None) -> None:
    """Train with this process' part of each batch; `change` is called before each step of the optimizer."""
    rank, size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    for step in steps:
        x, y = (each[rank::size] for each in batch(step))
        opt.zero_grad()
        torch.nn.functional.mse_loss(model(x), y).backward()
        change(model)
        opt.step()
        for each in plateaus(opt.schedule) if isinstance(opt, lrcore.torch.FusedOptimizer) else ():
            each.observe(1.0)


def assert_same_everywhere(model: Any) -> None:
    """Check that the parameters of both processes have equal bits."""
    for each in values(model).values():
        found = [torch.empty_like(each) for _ in range(2)]
        dist.all_gather(found, each)
        assert torch.equal(*found)


# DistributedDataParallel


def accumulating(model: Any) -> None:
    """Add the gradients of another batch, after one that was not reduced."""
    with model.no_sync():
        model(batch(100)[0]).sum().backward()
    model(batch(101)[0]).sum().backward()


def clipping(model: Any) -> None:
    torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)


@case("DDP before the optimizer")
@case("DDP after the optimizer", wrapped_first=False)
@case("DDP with gradients in buckets", gradient_as_bucket_view=True)
@case("DDP with gradients in buckets, after the optimizer", wrapped_first=False, gradient_as_bucket_view=True)
@case("DDP with a static graph", static_graph=True)
@case("DDP with unused parameters", find_unused_parameters=True)
@case("DDP with a hook", hook=default_hooks.allreduce_hook)
@case("DDP with no_sync", change=accumulating)
@case("DDP with clipping", change=clipping, gradient_as_bucket_view=True)
def ddp(
    _: Path, wrapped_first: bool = True, hook: Any = None, change: Any = lambda _: None, **options: Any
) -> None:
    runs = []
    for make in (ours, theirs):
        model = network()
        if options.get("find_unused_parameters"):
            model.register_parameter("unused", torch.nn.Parameter(torch.ones(3)))
        wrapped = DDP(model, **options) if wrapped_first else None
        opt = make(groups_of(model))
        wrapped = wrapped or DDP(model, **options)
        if hook is not None:
            wrapped.register_comm_hook(None, hook)
        train(wrapped, opt, range(STEPS), change)
        assert_same_everywhere(model)
        runs.append(values(model))
    assert_close(*runs)


# Checkpoints


def made(rate: str, seed: int = 0) -> tuple[Any, Any]:
    model = network(seed)
    return model, ours(groups_of(model), lr=RATES[rate]())


def state_of(model: Any, opt: Any, flattened: bool) -> dict[str, Any]:
    options = StateDictOptions(flatten_optimizer_state_dict=flattened)
    return dict(zip(("model", "optimizer"), get_state_dict(model, opt, options=options), strict=True))


def load(model: Any, opt: Any, folder: Path, flattened: bool) -> None:
    state = state_of(model, opt, flattened)
    dcp.load(state, checkpoint_id=folder)
    options = StateDictOptions(flatten_optimizer_state_dict=flattened)
    set_state_dict(
        model, opt, model_state_dict=state["model"], optim_state_dict=state["optimizer"], options=options
    )


@case("checkpoint of a number", "number", False, False)
@case("checkpoint of a schedule", "schedule", False, True)
@case("checkpoint of a plateau", "plateau", False, False)
@case("flattened checkpoint of a number", "number", True, True)
@case("flattened checkpoint of a schedule", "schedule", True, False)
@case("flattened checkpoint of a plateau", "plateau", True, True)
def checkpoint(folder: Path, rate: str, flattened: bool, is_async: bool) -> None:
    """Save a run, and continue it in both processes. The test continues it in one."""
    folder = folder / f"{rate} {flattened}"
    model, opt = made(rate)
    wrapped = DDP(model)
    train(wrapped, opt, range(HALF))
    state = state_of(wrapped, opt, flattened)
    if is_async:
        # the saving thread and training must not share a group
        saving = dcp.async_save(state, checkpoint_id=folder, process_group=dist.new_group())
        train(wrapped, opt, range(HALF, STEPS))
        saving.result()
    else:
        dcp.save(state, checkpoint_id=folder)
        train(wrapped, opt, range(HALF, STEPS))
    other, its = made(rate, seed=1)
    wrapped = DDP(other)
    load(wrapped, its, folder, flattened)
    train(wrapped, its, range(HALF, STEPS))
    assert_same(values(model), values(other))
    if dist.get_rank() == 0:
        torch.save(values(model), folder / "final.pt")


# Sharding


def sharded(make: MakeOptimizer, seed: int = 0, **options: Any) -> tuple[Any, Any]:
    model = network(seed)
    model[0] = FSDP(model[0], device_id=CPU)
    model = FSDP(model, device_id=CPU)
    return model, make(model.parameters(), **options)


def whole(model: Any) -> dict[str, Any]:
    with FSDP.summon_full_params(model):
        return values(model)


def clipping_shards(model: Any) -> None:
    model.clip_grad_norm_(0.1)


@case("FSDP")
@case("FSDP with clipping", change=clipping_shards)
def fsdp(_: Path, change: Any = lambda _: None) -> None:
    runs = []
    for make in (ours, theirs):
        model, opt = sharded(make)
        for begin in (0, 20):
            train(model, opt, range(begin, begin + 20), change)
            with FSDP.summon_full_params(model), torch.no_grad():  # writes the parameters back
                model[1].weight.mul_(0.5)
        runs.append(whole(model))
    assert_close(*runs)


@case("flattened checkpoint of FSDP with a number", "number")
@case("flattened checkpoint of FSDP with a schedule", "schedule")
@case("flattened checkpoint of FSDP with a plateau", "plateau")
def checkpoint_of_fsdp(folder: Path, rate: str) -> None:
    """PyTorch cannot load its own checkpoints of FSDP that are not flattened, whichever the optimizer."""
    folder = folder / f"FSDP {rate}"
    model, opt = sharded(ours, lr=RATES[rate]())
    train(model, opt, range(HALF))
    dcp.save(state_of(model, opt, True), checkpoint_id=folder)
    train(model, opt, range(HALF, STEPS))
    other, its = sharded(ours, 1, lr=RATES[rate]())
    load(other, its, folder, True)
    train(other, its, range(HALF, STEPS))
    assert_same(whole(model), whole(other))


def zero(model: Any, cls: Any = lrcore.torch.FusedOptimizer, **options: Any) -> Any:
    own = {"optimizer": lrcore.AdamW} if cls is lrcore.torch.FusedOptimizer else {}
    # it takes no names
    groups = [{**group, "params": [each for _, each in group["params"]]} for group in groups_of(model)]
    return ZeroRedundancyOptimizer(groups, cls, **{"lr": LR, **NUMBERS, **own, **options})


def resumed_zero(model: Any, opt: Any, **options: Any) -> tuple[Any, Any]:
    """Return another module and optimizer with the states of all processes."""
    opt.consolidate_state_dict(0)
    states = [opt.state_dict() if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(states)
    other = network(1)
    its = zero(other, **options)
    other.load_state_dict(copy.deepcopy(model.state_dict()))
    its.load_state_dict(states[0])
    return other, its


@case("ZeroRedundancyOptimizer")
def zero_redundancy(_: Path) -> None:
    model, reference = network(), network()
    opt = zero(model)
    train(DDP(reference), zero(reference, torch.optim.AdamW), range(STEPS))
    train(DDP(model), opt, range(HALF))
    other, its = resumed_zero(model, opt)
    train(DDP(model), opt, range(HALF, STEPS))
    train(DDP(other), its, range(HALF, STEPS))
    assert_same_everywhere(model)
    assert_close(values(model), values(reference))
    assert_same(values(model), values(other))


# Other tools


class Nothing:
    """An optimizer that does nothing, because the backward pass steps."""

    def zero_grad(self) -> None: ...
    def step(self) -> None: ...


@case("steps in the backward pass")
def in_backward(_: Path) -> None:
    runs = []
    for cls, own in ((lrcore.torch.FusedOptimizer, {"optimizer": lrcore.AdamW}), (torch.optim.AdamW, {})):
        model = network()
        _apply_optimizer_in_backward(cls, model.parameters(), {"lr": LR, **own})
        train(model, Nothing(), range(STEPS))
        runs.append(values(model))
    assert_close(*runs)


@case("averages of flat buffers")
def averages(_: Path) -> None:
    """A reduction of the flat parameters does what average_parameters does with the parameters."""
    runs = []
    for make in (ours, theirs):
        model = network()
        opt = make(model.parameters())
        for step in range(STEPS):
            train(model, opt, [step])
            if step % 5 == 4 and make is theirs:
                utils.average_parameters(iter([*model.parameters()]), None)
            elif step % 5 == 4:
                dist.all_reduce(opt.optimizers[0].params.div_(2))
        assert_same_everywhere(model)
        runs.append(values(model))
    assert_close(*runs)


# Refusals


def refused(error: type[Exception], words: str, attempt: Callable[[], Any]) -> None:
    with pytest.raises(error, match=re.escape(words)):
        attempt()


PARALLEL = "got a DTensor, as fully_shard and parallelize_module make them; use DistributedDataParallel"
MOVED = "cannot be used: FullyShardedDataParallel with use_orig_params=True, ZeroRedundancyOptimizer with"


@case("refused when it is made")
def refusals(_: Path) -> None:
    mesh = init_device_mesh("cpu", (2,))

    def after_a_pass() -> None:
        model = FSDP(network(), device_id=CPU)
        model(batch(0)[0])
        ours(model.parameters())

    attempts: list[tuple[type[Exception], str, Callable[[], Any]]] = [
        (TypeError, PARALLEL, lambda: ours(fully_shard(network(), mesh=mesh).parameters())),
        (
            TypeError,
            PARALLEL,
            lambda: ours(parallelize_module(network(), mesh, {"0": ColwiseParallel()}).parameters()),
        ),
        (
            ValueError,
            "pass use_orig_params=False",
            lambda: ours(FSDP(network(), device_id=CPU, use_orig_params=True).parameters()),
        ),
        (ValueError, "before the first forward pass", after_a_pass),
    ]
    for error, words, attempt in attempts:
        refused(error, words, attempt)


@case("refused at a step")
def refusals_of_steps(_: Path) -> None:
    """Parameters that a tool moves are refused at the first step after that, which changes nothing."""

    def wrapped(model: Any) -> tuple[Any, Any]:
        opt = ours(model.parameters())
        return FSDP(model, device_id=CPU, use_orig_params=True), opt

    def averaged(model: Any) -> tuple[Any, Any]:
        averager = averagers.PeriodicModelAverager(period=1, warmup_steps=0)
        return model, PostLocalSGDOptimizer(ours(model.parameters()), averager)

    for tool in (wrapped, averaged, lambda model: (model, zero(model, parameters_as_bucket_view=True))):
        model, opt = tool(network())
        if tool is averaged:
            train(model, opt, range(1))
        before = values(model)
        refused(RuntimeError, MOVED, functools.partial(train, model, opt, range(1)))
        assert_same(before, values(model))


@case("ZeroRedundancyOptimizer that has lost the steps of a schedule")
def zero_with_a_schedule(_: Path) -> None:
    """It saves no counts of steps, and the first step after loading says so."""
    model = network()
    opt = zero(model, lr=RATES["schedule"]())
    train(model, opt, range(10))
    other, its = resumed_zero(model, opt, lr=RATES["schedule"]())
    refused(ValueError, "but the rate comes from Cosine", lambda: train(other, its, range(1)))

"""The errors of a FusedOptimizer, which are raised before any change."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import lrcore
from pytorch.modules import (
    FusedOptimizer,
    assert_unchanged,
    everything,
    loss_of,
    network,
    ones,
    sgd,
    torch,
    zeros,
)


def made_in_inference_mode() -> Any:
    with torch.inference_mode():
        return torch.ones(3, requires_grad=True)


def in_shared_memory() -> Any:
    weight = ones(3)
    weight.share_memory_()
    return weight


W = torch.arange(24.0).view(4, 6)
FREE = ones(4)
FIRST, SECOND = (rf"param_groups\[0\]: params\[{k}\]: " for k in range(2))
SHARED = f"{SECOND}shares memory with .*params\\[0\\]; pass only one"


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        ([ones(3, dtype=torch.bfloat16)], TypeError, f"^{FIRST}expected dtype float32, got .*bfloat16"),
        (
            [ones(3), ones(3, dtype=torch.float16)],
            TypeError,
            f"^{SECOND}expected dtype float32, got .*float16",
        ),
        (
            [torch.ones(3).int()],
            TypeError,
            f"^{FIRST}expected dtype float32, got .*int32; pass only the parameters",
        ),
        ([ones(3, dtype=torch.complex64)], TypeError, f"^{FIRST}expected dtype float32, got .*complex64"),
        (
            [("w", ones(3)), ("v", ones(3, dtype=torch.float64))],
            TypeError,
            r"^param_groups\[0\]: v: expected dtype float32",
        ),
        (
            [{"params": [ones(3)]}, {"params": [ones(2), ones(3, dtype=torch.float64)]}],
            TypeError,
            r"^param_groups\[1\]: params\[1\]: expected dtype float32",
        ),
        ([ones(3) * 2], ValueError, "leaf"),
        ([np.ones(3)], TypeError, "can only optimize Tensors|expected a tensor"),
        ([torch.ones(3).to_sparse().requires_grad_()], TypeError, f"^{FIRST}expected a dense tensor"),
        (
            [ones(3, device="meta")],
            ValueError,
            f"^{FIRST}expected a tensor on a CPU or CUDA device, got meta",
        ),
        ([made_in_inference_mode()], ValueError, f"^{FIRST}.*inference_mode"),
        ([in_shared_memory()], ValueError, f"^{FIRST}expected unshared memory"),
        ({ones(3), ones(2)}, TypeError, "ordered collections"),
        ([{"params": {ones(3), ones(2)}}], TypeError, "ordered collections"),
        ([{"params": []}], ValueError, "^params: expected at least one parameter"),
        (
            [{"params": [ones(3)], "param_names": ["a", "b"]}],
            ValueError,
            r"^param_groups\[0\]: param_names: expected 1 names",
        ),
        (ones(3), TypeError, "params.*iterable"),
        (torch.nn.Linear(2, 3), TypeError, r"^params: .* got a module; pass module\.parameters\(\)$"),
        (lrcore.Pack({"w": 3}), TypeError, r"^params: .* got a Pack; pass it to an optimizer"),
        ([], ValueError, "expected at least one parameter|empty parameter list"),
        ([("w", ones(3)), ones(2)], ValueError, "with/without names"),
        ([{"params": [("w", ones(3))]}, {"params": ones(2)}], ValueError, "with/without names"),
        ([{"lr": 0.5}], (KeyError, ValueError), "params"),
        ([{"params": ones(3), "lr": -1.0}], ValueError, r"^param_groups\[0\]: lr: "),
        ([torch.ones(6).requires_grad_()] * 2, ValueError, SECOND),
        ([{"params": FREE}, {"params": [ones(2), FREE]}], ValueError, "more than one parameter group|params"),
        ([torch.nn.Parameter(W[:, ::2]), torch.nn.Parameter(W[:, ::3])], ValueError, f"^{SHARED}"),
        (
            [{"params": torch.nn.Parameter(W[1:])}, {"params": [ones(2), torch.nn.Parameter(W[:2])]}],
            ValueError,
            r"^param_groups\[1\]: params\[1\]: shares memory with param_groups\[0\]: params\[0\]",
        ),
    ],
)
def test_wrong_parameters(params: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        FusedOptimizer(params, lrcore.SGD)


class Own(lrcore.AdamW):
    """A user-defined class."""


@pytest.mark.parametrize(
    "given",
    [
        lambda module: module,
        lambda module: module.parameters(),
        lambda module: module.named_parameters(),
        lambda module: filter(lambda each: each.requires_grad, module.parameters()),
        lambda module: [*module.parameters()],
        lambda module: (*module.named_parameters(),),
        lambda module: {*module.parameters()},
        lambda module: dict(module.named_parameters()),
        lambda module: dict(module.named_parameters()).values(),
        lambda module: dict(module.named_parameters()).items(),
        lambda module: [{"params": module.parameters(), "lr": 0.1}],
    ],
)
@pytest.mark.parametrize("groups", [None, []])
def test_an_optimizer_of_arrays_names_this_one(given: Callable[[Any], Any], groups: Any) -> None:
    """Its error does not advance an iterator, which the caller may pass to a FusedOptimizer next."""
    module = torch.nn.Linear(2, 3)
    params = given(module)
    with pytest.raises(TypeError, match=r"^params: expected a float32 array or a Pack, got ") as caught:
        Own(params, groups=groups)
    assert str(caught.value).startswith(
        f"params: expected a float32 array or a Pack, got {type(params).__name__}; "
    )
    assert str(caught.value).endswith("write lrcore.torch.FusedOptimizer(module.parameters(), lrcore.AdamW)")
    if isinstance(params, Iterator):
        assert len([*params]) == 2


@pytest.mark.parametrize("params", [[], {}, [1.0], [W], {"w": W}, (each for each in [W]), np.zeros(3)])
def test_other_arguments_have_the_error_of_arrays(params: Any) -> None:
    with pytest.raises(TypeError, match="^params: expected .*float32") as caught:
        Own(params)
    assert "write lrcore.torch" not in str(caught.value)


def test_what_is_refused_leaves_the_module() -> None:
    model = network()
    addresses = [each.data_ptr() for each in model.parameters()]
    refused: list[dict[str, Any]] = [
        {"eps": -1},
        {"grads": torch.ones(3)},
        {"groups": []},
        {"differentiable": True},
    ]
    for wrong in refused:
        with pytest.raises((TypeError, ValueError), match=next(iter(wrong))):
            FusedOptimizer(model.parameters(), lrcore.Adam, **wrong)
    for cls in (torch.optim.Adam, lrcore.Adam(np.ones(3, np.float32)), "Adam", lrcore.optimizers.Optimizer):
        with pytest.raises(TypeError, match="^(optimizer|Optimizer)"):
            FusedOptimizer(model.parameters(), cls)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"got <class 'torch\..*AdamW'>; did you mean lrcore\.AdamW\?$"):
        FusedOptimizer(model.parameters(), torch.optim.AdamW)
    with pytest.raises(ValueError, match=r"^param_groups\[0\]: params\[7\]: shares memory"):
        FusedOptimizer([*model.parameters(), model[0].weight[1:].detach().requires_grad_()], lrcore.SGD)
    assert [each.data_ptr() for each in model.parameters()] == addresses
    assert all(each.grad is None for each in model.parameters())


def transpose(weight: Any) -> None:
    weight.data = weight.data.transpose(2, 3)


def clone(weight: Any) -> None:
    weight.data = weight.data.clone()


def send(weight: Any) -> Any:
    """Return a parameter that was sent through a queue between processes."""
    queue = torch.multiprocessing.SimpleQueue()
    queue.put(weight)
    return queue.get()


def widen(weight: Any) -> None:
    weight.data = weight.data.double()


CHANGES: dict[str, Callable[[Any], Any]] = {
    "another optimizer": lambda weight: FusedOptimizer([weight], lrcore.SGD),
    "sent": send,
    "cloned": clone,
    "transposed": transpose,
    "another dtype": widen,
    "shared": lambda weight: weight.share_memory_(),
}


@pytest.mark.parametrize("way", CHANGES)
@pytest.mark.parametrize("named", [True, False])
def test_parameters_that_were_moved(way: str, named: bool) -> None:
    """A step names the group and the parameter, and changes nothing, whether or not there is a gradient."""
    model = network()
    pairs = [*model.named_parameters()] if named else [*model.parameters()]
    opt = FusedOptimizer([{"params": pairs[1:]}, {"params": pairs[:1]}], lrcore.AdamW)
    loss_of(model, 0).backward()
    kept = CHANGES[way](model[0].weight)
    others = [*model.parameters()][1:]
    before = [each.detach().clone() for each in others]
    name = r"0\.weight" if named else r"params\[0\]"
    with pytest.raises(
        (RuntimeError, TypeError), match=rf"^param_groups\[1\]: {name}: .*moved.*make a new FusedOptimizer"
    ):
        opt.step()
    assert all(map(torch.equal, others, before))
    assert opt.step_count == 0
    del kept


def into_a_larger_storage(weight: Any) -> None:
    weight.data = torch.cat([weight.data, weight.data])[: len(weight)]


def into_another_shape(weight: Any) -> None:
    weight.data = weight.data.reshape(-1).clone()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (send, "expected unshared memory"),
        (CHANGES["shared"], "expected unshared memory"),
        (widen, "expected dtype float32, got torch.float64"),
        (into_a_larger_storage, ".*moved.*make a new FusedOptimizer"),
        (into_another_shape, ".*moved.*make a new FusedOptimizer"),
    ],
)
def test_loading_after_a_move_that_cannot_be_followed(change: Callable[[Any], Any], message: str) -> None:
    """The parameters stay where they are."""
    model = network()
    opt = FusedOptimizer(model.named_parameters(), lrcore.AdamW)
    loss_of(model, 0).backward()
    opt.step()
    saved = opt.state_dict()
    kept = change(model[0].weight)
    before = everything(opt)
    places = [each.data_ptr() for each in model.parameters()]
    with pytest.raises(
        (TypeError, ValueError, RuntimeError), match=rf"^param_groups\[0\]: 0\.weight: {message}"
    ):
        opt.load_state_dict(saved)
    assert_unchanged(opt, before)
    assert [each.data_ptr() for each in model.parameters()] == places
    del kept


def test_sparse_gradients() -> None:
    """They are refused by name at the step, which changes no other parameter."""
    layer, other = torch.nn.Embedding(5, 3, sparse=True), ones(2)
    opt = FusedOptimizer([{"params": [("other", other)]}, {"params": layer.named_parameters()}], lrcore.SGD)
    for _ in range(2):
        opt.zero_grad()
        (layer(torch.tensor([1, 2])).sum() + other.sum()).backward()
        with pytest.raises(
            TypeError, match=r"^param_groups\[1\]: weight: expected a dense gradient, got a sparse one"
        ):
            opt.step()
    assert (other.tolist(), opt.step_count) == ([1.0] * 2, 0)


def test_gradients_of_another_shape() -> None:
    """PyTorch checks a gradient when it is assigned; one that was changed later is refused by name."""
    first, weight = ones(2), ones(3, 2)
    opt = sgd(first, weight)
    for changed in (torch.ones(3, 1), torch.ones(8, 2), torch.ones(2, 3), torch.ones(0)):
        first.grad, weight.grad = torch.ones(2), torch.ones(3, 2)
        weight.grad.data = changed
        with pytest.raises(ValueError, match=r"^param_groups\[0\]: params\[1\]: .*shape"):
            opt.step()
    assert (first.tolist(), opt.step_count) == ([1.0] * 2, 0)


def fake() -> Any:
    """Return a tensor without memory."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        return torch.ones(3)


def freed() -> Any:
    """Return a tensor whose memory was freed."""
    values = torch.ones(3)
    values.untyped_storage().resize_(0)
    return values


@pytest.mark.parametrize(("make_one", "error"), [(fake, TypeError), (freed, ValueError)])
def test_tensors_without_memory(make_one: Callable[[], Any], error: type[Exception]) -> None:
    """Tensors without memory are refused as parameters, gradients and states, whether assigned or loaded."""
    first, weight = ones(2), ones(3)
    opt = FusedOptimizer([{"params": first}, {"params": weight}], lrcore.Adam)
    first.grad, weight.grad = torch.ones(2), torch.ones(3)
    opt.step()
    before = everything(opt)
    saved = copy.deepcopy(before[1])
    saved["state"][1]["exp_avg"] = make_one()

    def step() -> None:
        weight.grad = make_one()
        opt.step()

    def assign() -> None:
        opt.state[weight]["exp_avg"] = make_one()
        opt.step()

    attempts: list[tuple[str, Callable[[], object]]] = [
        (
            r"param_groups\[0\]: params\[0\]: ",
            lambda: FusedOptimizer([torch.nn.Parameter(make_one())], lrcore.SGD),
        ),
        (r"param_groups\[1\]: params\[0\]: ", step),
        (r"param_groups\[1\]: params\[0\]: exp_avg: ", lambda: opt.load_state_dict(saved)),
        (r"param_groups\[1\]: params\[0\]: .*exp_avg", assign),
    ]
    for name, attempt in attempts:
        with pytest.raises(error, match=f"^{name}"):
            attempt()
        weight.grad = torch.ones(3)
    opt.state[weight]["exp_avg"] = before[1]["state"][1]["exp_avg"]
    assert_unchanged(opt, before)


def test_a_parameter_that_holds_its_optimizer_is_collected() -> None:
    weight = zeros(9)
    weight.opt = sgd(weight, momentum=0.5)
    weight.sum().backward()
    weight.opt.step()
    alive = weakref.ref(weight.opt)
    del weight
    gc.collect()
    assert alive() is None

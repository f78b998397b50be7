"""What a FusedOptimizer refuses, before it changes anything, and what is left of it when it is gone."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import lrcore
from pytorch.modules import (
    FusedOptimizer,
    assert_equal,
    build,
    built,
    loss_of,
    network,
    ones,
    parameters,
    sgd,
    torch,
    train,
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
SHARED = r"^params\[1\]: shares memory with params\[0\]; pass one"


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        ([ones(3, dtype=torch.bfloat16)], TypeError, "expected dtype float32, got .*bfloat16; .*autocast"),
        ([ones(3, dtype=torch.float64)], TypeError, "expected dtype float32, got .*float64"),
        ([torch.ones(3)], ValueError, "does not require its gradient; pass"),
        ([ones(3) * 2], ValueError, "expected a leaf"),
        ([np.ones(3)], TypeError, "expected a tensor, got ndarray"),
        ([torch.ones(3).to_sparse().requires_grad_()], TypeError, "expected a dense tensor"),
        ([ones(3, device="meta")], ValueError, "expected a tensor on a CPU or CUDA device, got meta"),
        ([made_in_inference_mode()], ValueError, ".*inference_mode"),
        ([in_shared_memory()], ValueError, "lies in shared memory"),
    ],
)
def test_a_wrong_parameter(params: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=rf"^params\[0\]: {message}"):
        FusedOptimizer(params, lrcore.SGD)


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        ([("w", ones(3)), ("v", ones(3, dtype=torch.float64))], TypeError, "^v: expected dtype float32"),
        ([{"params": [ones(3)]}] * 2, TypeError, "^params: expected parameters, got a group"),
        (ones(3), TypeError, "^params: expected an iterable of parameters, got a tensor"),
        ([], ValueError, "^params: expected at least one parameter, got none"),
        ([torch.ones(6).requires_grad_()] * 2, ValueError, SHARED),
        *(
            ([torch.nn.Parameter(each) for each in views], ValueError, SHARED)
            for views in ((W[:, ::2], W[:, ::3]), (W, W[1:3, 2:4]), (W[1:3, 2:4], W), (W[:, :4], W[:, :4].T))
        ),
    ],
)
def test_wrong_parameters(params: Any, error: type[Exception], message: str) -> None:
    tensors = [each for each in params if isinstance(each, torch.Tensor)]
    addresses = [each.data_ptr() for each in tensors]
    with pytest.raises(error, match=message):
        FusedOptimizer(params, lrcore.SGD)
    assert [each.data_ptr() for each in tensors] == addresses


def test_a_refused_argument_leaves_the_module() -> None:
    model = network()
    addresses = [each.data_ptr() for each in model.parameters()]
    for wrong in ({"eps": -1}, {"grads": torch.ones(3)}, {"fused": True}):
        with pytest.raises((TypeError, ValueError), match=next(iter(wrong))):
            FusedOptimizer(model.parameters(), lrcore.Adam, **wrong)
    for cls in (torch.optim.Adam, lrcore.Adam(np.ones(3, np.float32)), "Adam", lrcore.optimizers.Optimizer):
        with pytest.raises(TypeError, match="^(optimizer|Optimizer)"):
            FusedOptimizer(model.parameters(), cls)  # type: ignore[arg-type]
    assert [each.data_ptr() for each in model.parameters()] == addresses
    assert all(each.grad is None for each in model.parameters())
    opt = build("Adam", model)
    with pytest.raises(ValueError, match="^param_group: a FusedOptimizer has one group"):
        opt.add_param_group({"params": [ones(3)]})


def transpose(model: Any) -> None:
    model[0].weight.data = model[0].weight.data.transpose(2, 3)


def clone(model: Any) -> None:
    model[0].weight.data = model[0].weight.data.clone()


@pytest.mark.parametrize(
    "move",
    [
        lambda model: model.to(torch.float64).to(torch.float32),
        lambda model: FusedOptimizer(model.parameters(), lrcore.SGD),
        lambda model: model[0].weight.data.share_memory_(),
        clone,
        transpose,
    ],
)
def test_storage_that_has_moved(move: Callable[[Any], Any]) -> None:
    model = network()
    opt = FusedOptimizer(model.named_parameters(), lrcore.SGD)
    loss_of(model, 0).backward()
    kept = move(model)
    before = parameters(model)
    with pytest.raises(RuntimeError, match=r"^0\.weight: its storage has moved.*make a new FusedOptimizer"):
        opt.step()
    assert_equal(model, before)
    assert opt.step_count == 0
    del kept


def test_a_tensor_that_was_sent_to_another_process() -> None:
    """A copy can be sent; sending a parameter moves its storage, and the message says how to send it."""
    model, opt = built("SGD")
    queue = torch.multiprocessing.SimpleQueue()
    queue.put({name: values.clone() for name, values in model.state_dict().items()})
    queue.get()
    opt.step()
    queue.put({"weight": model[0].weight})
    queue.get()
    with pytest.raises(
        RuntimeError, match=r"its storage has moved .*another process.*send clones: .*v\.clone\(\)"
    ):
        opt.step()
    assert opt.step_count == 1


def test_a_parameter_that_is_frozen_later() -> None:
    model = network()
    opt = FusedOptimizer(model.named_parameters(), lrcore.AdamW)
    model[3].bias.requires_grad_(False)
    before = parameters(model)
    with pytest.raises(ValueError, match=r"^3\.bias: does not require its gradient any more"):
        opt.step()
    assert_equal(model, before)


def test_sparse_gradients() -> None:
    layer = torch.nn.Embedding(5, 3, sparse=True)
    opt = FusedOptimizer(layer.named_parameters(), lrcore.SGD)
    opt.zero_grad()
    with pytest.raises(
        TypeError, match="^weight: expected a dense gradient, got a sparse one; pass sparse=False"
    ):
        layer(torch.tensor([1, 2])).sum().backward()
    layer = torch.nn.Embedding(5, 3, sparse=True)
    layer(torch.tensor([1, 2])).sum().backward()
    other = ones(3)
    addresses = layer.weight.data_ptr(), other.data_ptr()
    with pytest.raises(TypeError, match=r"^params\[1\]: expected a dense gradient"):
        FusedOptimizer([other, layer.weight], lrcore.SGD)
    assert (layer.weight.data_ptr(), other.data_ptr()) == addresses
    assert layer.weight.grad.is_sparse


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
    """As parameters, gradients and states, assigned or loaded."""
    with pytest.raises(error, match=r"^params\[0\]: expected"):
        FusedOptimizer([torch.nn.Parameter(make_one())], lrcore.SGD)
    weight, other = ones(3), ones(3)
    opt = FusedOptimizer([weight], lrcore.Adam)
    weight.grad = other.grad = make_one()
    with pytest.raises(error, match=r"^params\[0\]: expected"):
        opt.step()
    with pytest.raises(error, match=r"^params\[0\]: expected"):
        FusedOptimizer([other], lrcore.SGD)
    weight.grad = torch.ones(3)
    opt.step()
    before, saved = weight.detach().clone(), opt.state_dict()
    saved["state"][0]["exp_avg"] = make_one()
    with pytest.raises(error, match=r"^state\[0\]: exp_avg: expected"):
        opt.load_state_dict(saved)
    with pytest.raises(error, match=r"^state\[params\[0\]\]: exp_avg: expected"):
        opt.state[weight]["exp_avg"] = make_one()
    assert torch.equal(weight, before)
    assert opt.state[weight]["exp_avg"].any()
    assert opt.step_count == 1


def test_no_copies() -> None:
    _, opt = built("Adam")
    for take in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match=r"cannot be copied or pickled.*state_dict\(\)"):
            take(opt)
    assert repr(opt) == "FusedOptimizer(Adam(size=547, device=cpu, lr=0.001, step_count=0))"


def test_an_optimizer_that_is_gone_leaves_nothing() -> None:
    """Its hooks go with it; parameters and their last gradients stay."""
    (model, opt), twin = built("Adam"), network()
    train(model, opt, range(1))
    train(twin, build("Adam", twin), range(1))
    before = [each.grad for each in model.parameters()]
    del opt
    gc.collect()
    model.zero_grad()
    loss_of(model, 1).backward()
    assert not {id(each.grad) for each in model.parameters()} & {id(each) for each in before}
    model.zero_grad()
    for each in (model, twin):
        train(each, build("SGD", each), range(1, 4))
    assert_equal(model, parameters(twin))


@pytest.mark.parametrize("stepped", [False, True])
def test_a_parameter_that_holds_its_optimizer_is_collected(stepped: bool) -> None:
    weight = zeros(9)
    weight.opt = sgd(weight, momentum=0.5)
    if stepped:
        weight.sum().backward()
        weight.opt.step()
    alive = weakref.ref(weight.opt)
    del weight
    gc.collect()
    assert alive() is None

"""The errors of a FusedOptimizer, which are raised before any change, and the effects of deleting it."""

from __future__ import annotations

import copy
import gc
import pickle
import re
import weakref
from collections.abc import Callable, Iterator
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
FIRST = r"params\[0\]: "
SHARED = r"params\[1\]: shares memory with params\[0\]; pass only one"


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        (
            [ones(3, dtype=torch.bfloat16)],
            TypeError,
            f"{FIRST}expected dtype float32, got .*bfloat16; .*auto",
        ),
        ([("w", ones(3)), ("v", ones(3, dtype=torch.float64))], TypeError, "v: expected dtype float32"),
        ([torch.ones(3)], ValueError, f"{FIRST}does not require a gradient; pass"),
        ([ones(3) * 2], ValueError, f"{FIRST}expected a leaf tensor"),
        ([np.ones(3)], TypeError, f"{FIRST}expected a tensor, got ndarray"),
        ([torch.ones(3).to_sparse().requires_grad_()], TypeError, f"{FIRST}expected a dense tensor"),
        ([ones(3, device="meta")], ValueError, f"{FIRST}expected a tensor on a CPU or CUDA device, got meta"),
        ([made_in_inference_mode()], ValueError, f"{FIRST}.*inference_mode"),
        ([in_shared_memory()], ValueError, f"{FIRST}expected unshared memory"),
        ([{"params": [ones(3)]}] * 2, TypeError, "params: expected parameters, got a group"),
        (ones(3), TypeError, "params: expected an iterable of parameters, got a tensor"),
        (torch.nn.Linear(2, 3), TypeError, r"params: .* got a module; pass module\.parameters\(\)$"),
        (lrcore.Pack({"w": 3}), TypeError, r"params: .* got a Pack; pass it to an optimizer"),
        ([], ValueError, "params: expected at least one parameter, got none"),
        ([torch.ones(6).requires_grad_()] * 2, ValueError, SHARED),
        ([torch.nn.Parameter(W[:, ::2]), torch.nn.Parameter(W[:, ::3])], ValueError, SHARED),
    ],
)
def test_wrong_parameters(params: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^{message}"):
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
    model, sparse = network(), torch.nn.Embedding(5, 3, sparse=True)
    sparse(torch.tensor([1, 2])).sum().backward()
    weights = [*model.parameters(), sparse.weight]
    addresses = [each.data_ptr() for each in weights]
    for wrong in ({"eps": -1}, {"grads": torch.ones(3)}, {"fused": True}):
        with pytest.raises((TypeError, ValueError), match=next(iter(wrong))):
            FusedOptimizer(model.parameters(), lrcore.Adam, **wrong)
    for cls in (torch.optim.Adam, lrcore.Adam(np.ones(3, np.float32)), "Adam", lrcore.optimizers.Optimizer):
        with pytest.raises(TypeError, match="^(optimizer|Optimizer)"):
            FusedOptimizer(model.parameters(), cls)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"got <class 'torch\..*AdamW'>; did you mean lrcore\.AdamW\?$"):
        FusedOptimizer(model.parameters(), torch.optim.AdamW)
    with pytest.raises(TypeError, match=r"^params\[7\]: expected a dense gradient"):
        FusedOptimizer(weights, lrcore.SGD)
    with pytest.raises(ValueError, match=r"^params\[7\]: shares memory"):
        FusedOptimizer([*model.parameters(), model[0].weight[1:].detach().requires_grad_()], lrcore.SGD)
    assert [each.data_ptr() for each in weights] == addresses
    assert all(each.grad is None for each in model.parameters())
    assert sparse.weight.grad.is_sparse
    opt = build("Adam", model)
    with pytest.raises(ValueError, match="^param_group: a FusedOptimizer has one group"):
        opt.add_param_group({"params": [ones(3)]})


def transpose(weight: Any) -> None:
    weight.data = weight.data.transpose(2, 3)


def clone(weight: Any) -> None:
    weight.data = weight.data.clone()


def send(weight: Any) -> Any:
    """Return a parameter that was sent through a queue between processes."""
    queue = torch.multiprocessing.SimpleQueue()
    queue.put(weight)
    return queue.get()


MOVED = r"its storage has moved.*make a new FusedOptimizer .*send clones: .*v\.clone"
FROZEN = "no longer requires a gradient"


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda weight: FusedOptimizer([weight], lrcore.SGD), RuntimeError, MOVED),
        (send, RuntimeError, MOVED),
        (clone, RuntimeError, MOVED),
        (transpose, RuntimeError, MOVED),
        (lambda weight: weight.requires_grad_(False), ValueError, FROZEN),
    ],
)
def test_parameters_that_were_changed(
    change: Callable[[Any], Any], error: type[Exception], message: str
) -> None:
    model = network()
    opt = FusedOptimizer(model.named_parameters(), lrcore.AdamW)
    loss_of(model, 0).backward()
    kept = change(model[0].weight)
    before = parameters(model)
    with pytest.raises(error, match=rf"^0\.weight: {message}"):
        opt.step()
    assert_equal(model, before)
    assert opt.step_count == 0
    del kept


def test_sparse_gradients() -> None:
    layer = torch.nn.Embedding(5, 3, sparse=True)
    opt = FusedOptimizer(layer.named_parameters(), lrcore.SGD)
    opt.zero_grad()
    with pytest.raises(TypeError, match="^weight: expected a dense gradient, got a sparse one; pass sparse="):
        layer(torch.tensor([1, 2])).sum().backward()


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
    weight, other = ones(3), ones(3)
    opt = FusedOptimizer([weight], lrcore.Adam)
    saved = opt.state_dict()
    saved["state"][0]["exp_avg"] = make_one()
    other.grad = weight.grad = make_one()
    attempts: list[tuple[str, Callable[[], object]]] = [
        ("params[0]", lambda: FusedOptimizer([torch.nn.Parameter(make_one())], lrcore.SGD)),
        ("params[0]", lambda: FusedOptimizer([other], lrcore.SGD)),
        ("params[0]", opt.step),
        ("state[0]: exp_avg", lambda: opt.load_state_dict(saved)),
        ("state[params[0]]: exp_avg", lambda: opt.state[weight].update(exp_avg=make_one())),
    ]
    for name, attempt in attempts:
        with pytest.raises(error, match=f"^{re.escape(name)}: expected"):
            attempt()
    assert torch.equal(weight, ones(3))
    assert not opt.state[weight]["exp_avg"].any()
    assert opt.step_count == 0


def test_no_copies() -> None:
    _, opt = built("Adam")
    for take in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match=r"cannot be copied or pickled.*state_dict\(\)"):
            take(opt)
    assert repr(opt) == "FusedOptimizer(Adam(size=547, device=cpu, lr=0.001, step_count=0))"


def test_an_optimizer_that_is_gone_leaves_nothing() -> None:
    """The hooks of an optimizer are removed with it. The parameters and their last gradients remain."""
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


def test_a_parameter_that_holds_its_optimizer_is_collected() -> None:
    weight = zeros(9)
    weight.opt = sgd(weight, momentum=0.5)
    weight.sum().backward()
    weight.opt.step()
    alive = weakref.ref(weight.opt)
    del weight
    gc.collect()
    assert alive() is None

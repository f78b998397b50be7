"""lrcore.torch.decay_groups: nanoGPT's rule, for whole modules and within given groups."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

import lrcore
from pytorch.modules import loss_of, network, ones, torch

decay_groups = lrcore.torch.decay_groups


def by_name(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the groups with the names of the parameters alone."""
    return [group | {"params": [name for name, _ in group["params"]]} for group in groups]


def tied() -> Any:
    """Return a module with an embedding, which is also the weight of its last layer, and a frozen layer."""
    nn = torch.nn
    module = nn.ModuleDict(
        {
            "embed": nn.Embedding(9, 4),
            "norm": nn.LayerNorm(4),
            "old": nn.Linear(4, 4),
            "head": nn.Linear(4, 9),
        }
    )
    module.head.weight = module.embed.weight
    module.old.requires_grad_(False)
    return module


def as_nanogpt(module: Any, weight_decay: float) -> list[dict[str, Any]]:
    """Return the groups of the method `configure_optimizers` of nanoGPT's model."""
    param_dict = {pn: p for pn, p in module.named_parameters() if p.requires_grad}
    decay_params = [p for p in param_dict.values() if p.dim() >= 2]
    nodecay_params = [p for p in param_dict.values() if p.dim() < 2]
    return [
        {"params": decay_params, "weight_decay": weight_decay},
        {"params": nodecay_params, "weight_decay": 0.0},
    ]


@pytest.mark.parametrize("make", [network, tied])
def test_the_rule_of_nanogpt(make: Callable[[], Any]) -> None:
    """The parameters, their order and the numbers are the same, so PyTorch's steps have the same bits."""
    module = make()
    found, expected = decay_groups(module, 0.1), as_nanogpt(module, 0.1)
    assert [group.keys() for group in found] == [group.keys() for group in expected]
    for group, wanted in zip(found, expected, strict=True):
        assert group["weight_decay"] == wanted["weight_decay"]
        assert [id(each) for _, each in group["params"]] == [*map(id, wanted["params"])]
    names = dict(module.named_parameters())
    assert all(names[name] is each for group in found for name, each in group["params"])


def test_torchs_optimizer_takes_the_groups() -> None:
    """A step has the bits of a step with groups of tensors alone, and the groups keep the names."""
    results = []
    for make in (decay_groups, as_nanogpt):
        model = network()
        opt = torch.optim.AdamW(make(model, 0.5), lr=0.1)
        loss_of(model, 0).backward()
        opt.step()
        results.append(torch.cat([each.detach().flatten() for each in model.parameters()]))
        if make is decay_groups:
            assert [len(each["param_names"]) for each in opt.param_groups] == [3, 4]
    assert torch.equal(*results)


COSINE = lrcore.schedules.Cosine(0.1, steps=9)


def test_given_groups() -> None:
    """Each is split in two and keeps its other entries, and so is the rest. The argument stays as it is."""
    model = network()  # a convolution 0, a linear layer 3, a PReLU 4 and a linear layer 5
    forms: list[Any] = [
        "5.*",
        ["5.weight", "5.bias"],
        lambda name, _: name.startswith("5."),
        model[5].parameters(),
        [*model[5].parameters()],
        [(f"5.{name}", each) for name, each in model[5].named_parameters()],
        ["5.weight", ("5.bias", model[5].bias), model[5].bias],
        {f"5.{name}": each for name, each in model[5].named_parameters()},
    ]
    for params in forms:
        groups = [
            {"params": params, "lr": 1.0, "weight_decay": COSINE},
            {"params": model[0].bias, "weight_decay": 0.3, "note": "kept", "param_names": ["0.bias"]},
        ]
        before = [{**each} for each in groups]
        assert by_name(decay_groups(model, 0.1, groups)) == [
            {"params": ["5.weight"], "lr": 1.0, "weight_decay": COSINE},
            {"params": ["5.bias"], "lr": 1.0, "weight_decay": 0.0},
            {"params": ["0.bias"], "weight_decay": 0.0, "note": "kept"},
            {"params": ["0.weight", "3.weight"], "weight_decay": 0.1},
            {"params": ["3.bias", "4.weight"], "weight_decay": 0.0},
        ]
        assert groups == before
    of_torch = torch.optim.AdamW(decay_groups(model, 0.1), lr=0.5).param_groups
    again = decay_groups(model, 0.9, of_torch)
    assert by_name(again) == by_name(decay_groups(model, 0.1, [{**each} for each in of_torch]))
    assert [group["weight_decay"] for group in again] == [0.1, 0.0]
    torch.optim.AdamW(again)


@pytest.mark.parametrize("params", ["embed.*", "head.weight", lambda module: module.head.weight])
def test_any_name_of_a_tied_parameter_selects_it(params: Any) -> None:
    module = tied()
    given = params(module) if callable(params) else params
    assert by_name(decay_groups(module, 0.1, [{"params": given, "lr": 1.0}])) == [
        {"params": ["embed.weight"], "lr": 1.0, "weight_decay": 0.1},
        {"params": ["norm.weight", "norm.bias", "head.bias"], "weight_decay": 0.0},
    ]


def test_frozen_parameters_are_left_out() -> None:
    """This includes groups that select them."""
    module = tied()
    for params in ("old.*", "old.bias", module.old.parameters()):
        assert by_name(decay_groups(module, 0.1, [{"params": params}])) == by_name(decay_groups(module, 0.1))
    module.head.bias.requires_grad_(False)
    assert by_name(decay_groups(module, 0.1, [{"params": ["old.*", "norm.bias", "head.*"]}])) == [
        {"params": ["embed.weight"], "weight_decay": 0.1},
        {"params": ["norm.bias"], "weight_decay": 0.0},
        {"params": ["norm.weight"], "weight_decay": 0.0},
    ]


def test_unusual_modules() -> None:
    assert decay_groups(torch.nn.ReLU(), 0.1) == []
    assert decay_groups(network().requires_grad_(False), 0.1) == []
    module = torch.nn.ParameterDict({"a": ones(0, 3), "b": ones(0, 3), "c": ones()})
    module["d"] = module["a"]
    assert by_name(decay_groups(module, 0.1)) == [
        {"params": ["a", "b"], "weight_decay": 0.1},
        {"params": ["c"], "weight_decay": 0.0},
    ]


MODEL = network()
REFUSED: list[tuple[type[Exception], str, tuple[Any, ...]]] = [
    (TypeError, r"^module: expected a torch\.nn\.Module, got generator$", (MODEL.parameters(), 0.1)),
    (ValueError, "^module: weight has no shape yet; ", (torch.nn.LazyLinear(3), 0.1)),
    (ValueError, "^weight_decay: ", (MODEL, -0.1)),
    (TypeError, "^groups: expected a list of dictionaries, got dict$", (MODEL, 0.1, {"params": "0.*"})),
    (TypeError, r"^groups\[0\]: expected a dictionary, got str$", (MODEL, 0.1, ["0.*"])),
    (ValueError, r"^groups\[0\]: weight_decay: ", (MODEL, 0.1, [{"params": "0.bias", "weight_decay": -1.0}])),
    (ValueError, r"^groups\[1\]: params: 5\.bias is also in groups\[0\]$",
     (MODEL, 0.1, [{"params": "5.*"}, {"params": [MODEL[5].bias]}])),
    (TypeError, r"^groups\[0\]: params: missing; expected parameters ", (MODEL, 0.1, [{"lr": 1.0}])),
]  # fmt: skip
REFUSED += [
    (error, rf"^groups\[0\]: params: {words}", (MODEL, 0.1, [{"params": params}]))
    for error, words, params in [
        (ValueError, r"'5\.weigth' matches none of the names .*; did you mean '5\.weight'\?$", "5.weigth"),
        (ValueError, r"'weight' matches none of the names .*; did you mean '\*\.weight'\?$", ["weight"]),
        (ValueError, r"got a tensor of shape \(2,\) that is not a parameter of the module$", [ones(2)]),
        (ValueError, r"got a tensor of shape \(3,\) ", [("5.bias", MODEL[5].bias.detach())]),
        (ValueError, "expected at least one entry", []),
        (TypeError, "expected parameters, got a module; pass ", MODEL[5]),
        (TypeError, "expected parameters .*, or a list of these, got set$", {MODEL[5].bias}),
        (TypeError, "expected parameters .*, or a list of these, got int$", 3),
        (TypeError, r"expected parameters .*, got slice\(0, 3, None\)$", [slice(0, 3)]),
    ]
]


@pytest.mark.parametrize(("error", "message", "arguments"), REFUSED)
def test_what_is_refused(error: type[Exception], message: str, arguments: tuple[Any, ...]) -> None:
    with pytest.raises(error, match=message):
        decay_groups(*arguments)


def test_the_function_for_packs_names_this_one() -> None:
    with pytest.raises(
        TypeError, match=r"^pack: expected a Pack, got .*; write lrcore\.torch\.decay_groups\("
    ):
        lrcore.decay_groups(network(), 0.1)


def test_the_module_is_only_read() -> None:
    model = network()
    before = copy.deepcopy(model.state_dict())
    decay_groups(model, 0.1, [{"params": "0.*"}])
    assert all(torch.equal(before[name], each) for name, each in model.state_dict().items())
    assert all(each.grad is None for each in model.parameters())

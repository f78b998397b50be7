"""Copies and pickles of a FusedOptimizer together with its module. A copy of the optimizer alone is refused."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest

import lrcore
from lrcore.schedules import Cosine, Plateau
from pytorch.modules import (
    ARGUMENTS,
    FusedOptimizer,
    assert_same_dictionary,
    assert_unchanged,
    built,
    each_optimizer,
    everything,
    in_groups,
    network,
    parameters,
    torch,
    train,
)


def by_torch(both: Any) -> Any:
    file = io.BytesIO()
    torch.save(both, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


TOGETHER: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda both: pickle.loads(pickle.dumps(both)),
    "torch.save": by_torch,
}
RATES: dict[str, Callable[[], Any]] = {
    "number": lambda: 0.01,
    "schedule": lambda: Plateau(Cosine(0.01, steps=20), factor=0.5, patience=1),
}


def assert_together(model: Any, opt: Any) -> None:
    """Check that the optimizer has the parameters of the module, in its own flat buffer."""
    found = {id(each) for group in opt.param_groups for each in group["params"]}
    assert found == {id(each) for each in model.parameters()}
    flat = opt.optimizers[0].params
    for each in model.parameters():
        assert 0 <= each.data_ptr() - flat.data_ptr() < 4 * flat.numel()


@pytest.mark.parametrize("taken", [0, 3])
@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("way", TOGETHER)
@each_optimizer
def test_a_module_and_its_optimizer(name: str, way: str, rate: str, taken: int) -> None:
    """The copy continues with equal bits, independently of the original, which does not change."""
    model = network()
    groups = in_groups(name, [*model.parameters()])
    groups[0].update(frozen=True, initial_lr=0.5)
    opt = FusedOptimizer(groups, getattr(lrcore, name), **ARGUMENTS.get(name, {}) | {"lr": RATES[rate]()})
    model[0].bias.requires_grad_(False)
    train(model, opt, range(taken))
    if rate == "schedule":
        lrcore.schedules.plateaus(opt)[0].observe(1.0)
    before = everything(opt)
    copied, its = TOGETHER[way]((model, opt))
    assert_unchanged(opt, before)
    assert_same_dictionary(its.state_dict(), before[1])
    assert_together(copied, its)
    assert_together(model, opt)
    assert not {each.data_ptr() for each in copied.parameters()} & {
        each.data_ptr() for each in model.parameters()
    }
    assert type(its) is FusedOptimizer
    assert its.step_count == taken
    assert (its.param_groups[0]["frozen"], its.param_groups[0]["initial_lr"]) == (True, 0.5)
    train(copied, its, range(taken, taken + 3))
    assert_unchanged(opt, before)
    train(model, opt, range(taken, taken + 3))
    assert all(map(torch.equal, model.parameters(), copied.parameters()))
    assert_same_dictionary(its.state_dict(), opt.state_dict())


def test_two_copies_of_a_tied_module_in_one_call() -> None:
    """A container may hold several modules and optimizers; names, groups that were added and hooks' effects remain."""
    pairs: list[Any] = []
    for seed in range(2):
        model = network(seed)
        model.append(torch.nn.Linear(3, 3)).append(torch.nn.Linear(3, 3))
        model[-1].weight = model[-2].weight
        first, *others = model.named_parameters()
        opt = FusedOptimizer([first], lrcore.Adam)
        opt.add_param_group({"params": others, "lr": 0.1})
        train(model, opt, range(2))
        pairs.append((model, opt))
    copies = copy.deepcopy(pairs)
    for (model, opt), (copied, its) in zip(pairs, copies, strict=True):
        assert copied[-1].weight is copied[-2].weight
        assert [group["param_names"] for group in its.param_groups] == [
            group["param_names"] for group in opt.param_groups
        ]
        for each, other in ((model, opt), (copied, its)):
            train(each, other, range(2, 4))
        assert all(map(torch.equal, model.parameters(), copied.parameters()))


def test_a_copy_of_the_optimizer_alone() -> None:
    """It would step the parameters of no module. The message has the lines that make a copy of both."""
    model, opt = built("Adam")
    train(model, opt, range(1))
    before = parameters(model)
    for copied, wrong in ((copy.copy, opt), *((copy.deepcopy, each) for each in (opt, (opt, model), [opt]))):
        with pytest.raises(TypeError, match=r"(?s)copy\.deepcopy\(\(model, opt(imizer)?\)\)"):
            copied(wrong)
    assert all(map(torch.equal, model.parameters(), before))
    train(model, opt, range(1, 2))

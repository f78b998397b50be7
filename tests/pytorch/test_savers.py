"""State dictionaries of `lrcore.torch.FusedOptimizer` in files of `torch.save`, and exchanged with PyTorch."""

from __future__ import annotations

import copy
import gc
import json
import weakref
from pathlib import Path

import pytest

import lrcore
from lrcore.schedules import Plateau, plateaus
from pytorch.modules import FusedOptimizer, assert_same_dictionary, each_optimizer, network, torch
from pytorch.modules import build as build_by_name
from pytorch.savers import RATES, assert_same, build, train


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

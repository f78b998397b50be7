"""Copying, pickling and printing optimizers."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

import lrcore
from lrcore import schedules
from lrcore._lrcore_core import commit, step_together
from lrcore.optimizers._settings import Change
from support import assert_bits, assert_runs, assert_same, make, run, start


def through_pickle(opt: Any) -> Any:
    """Return a copy of the optimizer, made by pickling."""
    return pickle.loads(pickle.dumps(opt))


@pytest.mark.parametrize("copied", [copy.deepcopy, through_pickle])
def test_copies_go_on_by_themselves(rule: str, copied: Any) -> None:
    opt = make(rule, start(), schedules.Cosine(0.1, steps=9), weight_decay=0.1)
    run(opt, 3)
    twin = copied(opt)
    assert type(twin) is type(opt)
    assert repr(twin) == repr(opt)
    assert dict(twin.hyper) == dict(opt.hyper)
    run(opt, 2)
    assert twin.step_count == 3
    run(twin, 2)
    assert_same(twin, opt.params, list(map(np.array, opt.state.values())))


def test_a_shallow_copy_shares_parameters_and_no_state() -> None:
    opt = lrcore.Adam(start())
    run(opt, 2)
    twin = copy.copy(opt)
    assert twin.params is opt.params
    assert_bits(twin.state["exp_avg"], opt.state["exp_avg"])
    assert not np.shares_memory(twin.state["exp_avg"], opt.state["exp_avg"])


def test_a_pickle_keeps_what_belongs_together() -> None:
    """An optimizer copied together with its parameters and gradients uses the copies of these arrays."""
    pack = lrcore.Pack({"w": start(), "b": 3})
    grads = pack.like()
    opt = lrcore.Adam(pack.flat, grads=grads.flat)
    for copied in (through_pickle, copy.deepcopy):
        new_pack, new_grads, new_opt = copied((pack, grads, opt))
        assert new_opt.params is new_pack.flat
        new_grads["b"][:] = 1
        new_opt.step()
        assert (new_pack["b"] != 0).all()


class Trainer:
    """An object with an optimizer whose schedule is a method of the object."""

    def __init__(self) -> None:
        self.base = 0.5
        self.opt = lrcore.Lion(start(), lr=self.rate)

    def rate(self, t: int) -> float:
        """Return a rate that depends on this trainer."""
        return self.base * (1 + t)


@pytest.mark.parametrize("copied", [copy.deepcopy, through_pickle])
def test_a_copied_owner_gets_an_optimizer_that_asks_the_copy(copied: Any) -> None:
    trainer = Trainer()
    run(trainer.opt, 1)
    for twin in (copied(trainer), copied(trainer.opt).schedule.fn.__self__):
        twin.base = 7.0
        assert twin.opt.lr == 14
        assert trainer.opt.lr == 1
        assert twin.opt.step_count == 1
        assert_bits(run(twin.opt, 0), np.array(trainer.opt.params))


def test_the_base_is_no_optimizer() -> None:
    with pytest.raises(TypeError, match="^Optimizer is abstract; use one of lrcore.optimizers.__all__"):
        lrcore.Optimizer(start(), 0.1)


def test_repr() -> None:
    opt = lrcore.AdamW(start(), lr=schedules.Cosine(0.1, steps=9))
    opt.step_count = 4
    assert repr(opt) == "AdamW(size=21, device=cpu, lr=Cosine(lr=0.1, steps=9), step_count=4)"
    assert repr(lrcore.SGD(start(), lr=0.5)) == "SGD(size=21, device=cpu, lr=0.5, step_count=0)"


def test_a_collection_during_the_first_construction() -> None:
    """The garbage collector sees an instance of each class before its members are allocated.

    This includes a subclass.
    """
    assert_runs("""
        import gc
        classes = [getattr(lrcore, name) for name in lrcore.optimizers.__all__ if name != "Optimizer"]
        classes.append(type("Own", (lrcore.Adam,), {}))
        params = np.ones(8, np.float32)
        gc.set_threshold(1)
        for cls in classes:
            cls(params).step(params.copy())
        lrcore.functional.sgd(params, params.copy(), step=1, lr=0.1)
    """)


def test_init_was_not_called() -> None:
    """An object made by `__new__` alone cannot be stepped or printed."""
    opt = lrcore.Adam.__new__(lrcore.Adam)
    for use in (
        lambda: repr(opt),
        lambda: opt.step(start()),
        lambda: opt.step_count,
        lambda: opt.schedule,
        lambda: step_together([opt]),
        lambda: commit([Change(opt, step_count=1)]),
    ):
        with pytest.raises(TypeError, match=r"^Optimizer\.__init__ has not been called$"):
            use()

"""Optimizers over packs: their states and gradients are packs, and everything else is as with the buffer."""

from __future__ import annotations

import copy
import functools
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import lrcore
from lrcore import tune
from packs.trees import (
    OTHERS,
    PARTS,
    assert_like,
    assert_same,
    draw,
    entries,
    fill,
    model,
    names_of,
    other_than_model,
)
from rules.stepping import rate
from support import Array, assert_bits, make

Adam: Any = lrcore.Adam
SGD: Any = lrcore.SGD


def pair(rule: str, pack: Any, **arguments: Any) -> tuple[Any, Any]:
    """Return an optimizer over a pack with bound gradients, and one over a copy of the pack's buffer."""
    settings = {"weight_decay": 0.1} | arguments
    return make(rule, pack, rate, grads=pack.like(), **settings), make(
        rule, pack.flat.copy(), rate, **settings
    )


def step_both(opt: Any, plain: Any) -> None:
    """Step both optimizers on the same gradients."""
    fill(opt.grads, plain.step_count)
    opt.step()
    plain.step(opt.grads.flat.copy())


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("pad", [False, True])
def test_bits_of_the_buffer(rule: str, pad: bool, part: str) -> None:
    """The gradients of a step may be bound, another pack or an array. The states are packs over their memory."""
    pack = PARTS[part](model(pad))
    opt, plain = pair(rule, pack)
    assert opt.params is pack
    assert (opt.size, opt.rule) == (plain.size, plain.rule)
    grads = opt.grads
    for t, kind in enumerate(("bound", "pack", "array")):
        fill(grads, t)
        plain.step(grads.flat.copy())
        passed = {"bound": None, "pack": copy.deepcopy(grads), "array": grads.flat.copy()}[kind]
        if passed is not None:
            grads.flat = np.nan
        opt.step(passed)
        assert_same(opt, plain)
    assert opt.grads is grads
    for state in opt.state.values():
        assert_like(state, pack)
    assert all(type(state) is np.ndarray and state.ndim == 1 for state in opt.state_dict()["state"].values())


@pytest.mark.parametrize("seed", range(8))
def test_random_packs_and_their_parts(seed: int) -> None:
    """Each part that has a buffer can have its own optimizer. A part with memory outside is refused."""
    pack = draw(np.random.default_rng([seed, 1]))
    for part in (pack, *(each for each in pack.values() if not isinstance(each, np.ndarray))):
        try:
            part.flat  # noqa: B018
        except ValueError:
            with pytest.raises(ValueError, match="flat"):
                Adam(part)
            with pytest.raises(ValueError, match="^grads: .*flat"):
                Adam(part.like(), grads=part)
            continue
        opt, plain = pair("adam_amsgrad", part)
        for _ in range(3):
            step_both(opt, plain)
        assert_same(opt, plain)
        for state in opt.state.values():
            assert_like(state, part)
            assert names_of(state) == names_of(part)


def test_packs_without_elements() -> None:
    for pack in (lrcore.Pack({}), lrcore.Pack({"none": [(0, 3)], "nodes": {}}, pad=True)):
        opt = Adam(pack, grads=pack.like())
        opt.step()
        assert (opt.step_count, opt.size) == (1, 0)
        assert_like(opt.state["exp_avg"], pack)


def test_states_are_written_in_place() -> None:
    opt, plain = pair("adam", model())
    step_both(opt, plain)
    state = opt.state["exp_avg"]
    state["blocks"][0]["b"], state["head"]["w"] = [1, 2, 3], 4
    plain.state["exp_avg"][[*range(12), 21, 22, 23]] = [*[4] * 12, 1, 2, 3]
    opt.state["exp_avg_sq"].flat *= 2
    plain.state["exp_avg_sq"] *= 2
    assert_same(opt, plain)
    step_both(opt, plain)
    assert_same(opt, plain)
    with pytest.raises(TypeError, match="^exp_avg: "):
        opt.state["exp_avg"] = state.like()


# ---- gradients that do not fit


UNFIT: dict[str, tuple[Callable[[], Any], str]] = {
    "another order": (lambda: lrcore.Pack(dict(reversed(entries().items()))), "embed|head"),
    "a name less": (
        lambda: lrcore.Pack({name: each for name, each in entries().items() if name != "none"}),
        "none",
    ),
    "padding": (lambda: model(pad=True), "pad"),
    "a part": (lambda: model()["blocks"], r"embed|0\.w"),
    **{case: (functools.partial(other_than_model, case), words) for case, (_, words) in OTHERS.items()},
}


@pytest.mark.parametrize("case", UNFIT)
def test_gradients_of_other_packs_are_refused(case: str) -> None:
    """The message has the first name that differs, and nothing is stepped."""
    build, words = UNFIT[case]
    other = build()
    pack = model()
    opt = Adam(pack)
    opt.step(fill(pack.like(), 0))
    before = pack.flat.copy(), opt.state["exp_avg"].flat.copy()
    calls: list[Callable[[], Any]] = [lambda: Adam(pack, grads=other), lambda: opt.step(other)]
    for call in calls:
        with pytest.raises(ValueError, match=f"^grads: .*({words})"):
            call()
    assert opt.step_count == 1
    for found, expected in zip((pack, opt.state["exp_avg"]), before, strict=True):
        assert_bits(found.flat, expected)


def test_what_fits_has_the_same_dotted_names() -> None:
    """Dictionaries in place of lists do not change them."""
    tree = entries()
    same = lrcore.Pack(tree | {"blocks": dict(zip("01", tree["blocks"], strict=True))})
    pack = model()
    opt, plain = SGD(pack, 1.0, grads=fill(same, 0)), SGD(pack.flat.copy(), 1.0)
    opt.step()
    plain.step(same.flat)
    assert_same(opt, plain)


def test_the_layouts_of_two_packs_are_compared_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Later steps take the time of a step of arrays. Another pack, and a pack that is set again, are still compared."""
    pack, same = model(), model()
    opt = SGD(pack)
    opt.step(same)
    assert same._layout() is pack._layout()
    with monkeypatch.context() as patched:
        patched.setattr(lrcore.Pack, "_places", None)
        for _ in range(2):
            opt.step(same)
    for other in (same, lrcore.Pack({})):
        other.__setstate__(model(pad=True).__getstate__())
        with pytest.raises(ValueError, match="^grads: .*offset"):
            opt.step(other)
    assert opt.step_count == 3


def test_a_pack_for_an_array_is_refused() -> None:
    pack, flat = model(), np.zeros(50, np.float32)
    calls: list[Callable[[], Any]] = [lambda: Adam(flat, grads=pack), lambda: Adam(flat).step(pack)]
    for call in calls:
        with pytest.raises(TypeError, match=r"^grads: .*\bflat\b"):
            call()
    for call in (lambda: Adam(entries()), lambda: Adam(pack.named_arrays())):
        with pytest.raises(TypeError, match="^params: "):
            call()


@pytest.mark.parametrize(
    "arguments",
    [
        {"lr": -1.0},
        {"eps": "small"},
        {"grads": np.zeros(49, np.float32)},
        {"grads": np.zeros(50)},
        {"grads": []},
        {"groups": [{"params": (0, 51)}]},
    ],
    ids=["lr", "eps", "size", "dtype", "list", "groups"],
)
def test_other_errors_are_those_of_the_buffer(arguments: dict[str, Any]) -> None:
    messages = []
    for params in (model(), model().flat):
        with pytest.raises((TypeError, ValueError)) as caught:
            Adam(params, **arguments)
        messages.append((caught.type, str(caught.value)))
    assert messages[0] == messages[1]


# ---- copies and range tests


def through_pickle(made: Any) -> Any:
    """Return a copy made by pickling."""
    return pickle.loads(pickle.dumps(made))


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("copied", [copy.deepcopy, through_pickle])
def test_copies(part: str, copied: Callable[[Any], Any]) -> None:
    """An optimizer that is copied together with its packs uses their copies; alone, it gets packs of its own."""
    pack = PARTS[part](model(pad=True))
    groups = [{"params": "*b", "weight_decay": 0.5}]
    opt: Any = make("adam", pack, rate, weight_decay=0.1, grads=pack.like(), groups=groups)
    fill(opt.grads, 0)
    opt.step()
    before = pack.flat.copy()
    new_pack, new_grads, together = copied((pack, opt.grads, opt))
    assert (together.params is new_pack, together.grads is new_grads) == (True, True)
    alone = copied(opt)
    fill(opt.grads, 1)
    opt.step()
    for each in (alone, together):
        assert_bits(each.params.flat, before)
        fill(each.grads, 1)
        each.step()
        assert repr(each) == repr(opt)
        assert each.groups[1].names == opt.groups[1].names
        assert_bits(each.params.flat, pack.flat)
        for name, state in opt.state.items():
            assert_like(each.state[name], pack)
            assert_bits(each.state[name].flat, state.flat)


def test_a_shallow_copy_shares_the_packs_and_no_state() -> None:
    opt, _ = pair("adam", model())
    twin = copy.copy(opt)
    assert (twin.params is opt.params, twin.grads is opt.grads) == (True, True)
    assert_like(twin.state["exp_avg"], opt.state["exp_avg"])


def test_a_range_test() -> None:
    """It has the losses of one over the buffer, and puts all bits back."""
    losses = []
    pack = model(pad=True)
    for params, grads in ((pack, pack.like()), (model(pad=True).flat, np.zeros_like(pack.flat))):
        opt = make("adam", params, rate, grads=grads)
        flat, into = (each if isinstance(each, np.ndarray) else each.flat for each in (params, grads))
        opt.step(flat.copy())

        def closure(flat: Array = flat, into: Array = into) -> float:
            into[:] = flat
            return float(np.square(flat, dtype=np.float64).sum())

        before = flat.copy(), opt.state_dict()
        losses.append(tune.range_test(opt, closure, 1e-3, 0.5, steps=20).losses.tolist())
        assert_bits(flat, before[0])
        assert opt.step_count == 1
        for name, state in before[1]["state"].items():
            assert_bits(opt.state_dict()["state"][name], state)
    assert losses[0] == losses[1]

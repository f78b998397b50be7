"""`ema`: the argument and the attribute, schedules, skipped steps, `averaged`, packs, saving and copying."""

from __future__ import annotations

import copy
import inspect
import json
import math
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lrcore
from lrcore import schedules
from optimizers.resuming import ways_to_resume
from optimizers.test_groups import assert_refused, contents
from packs import trees
from rules.oracle import averaged
from rules.stepping import Averaged
from support import CLASSES, ONES, Array, N, assert_bits, assert_goes_on, gradients, make, run, start

SGD: Any = lrcore.SGD
Adam: Any = lrcore.Adam
RISING = schedules.Linear(0.25, end=0.875, steps=9)
BAD = np.full(N, np.nan, np.float32)
GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "format_1"


# ---- the argument and the attribute


@pytest.mark.parametrize("name", CLASSES)
def test_every_class_has_the_argument(name: str) -> None:
    """It is None by default, and a class keyword changes that. A group cannot have its own."""
    cls: Any = CLASSES[name]
    parameter = inspect.signature(cls).parameters["ema"]
    assert (parameter.default, parameter.kind) == (None, inspect.Parameter.KEYWORD_ONLY)
    opt = cls(start())
    assert opt.ema is None
    assert "ema" not in opt.state
    mine: Any = types.new_class("Mine", (cls,), {"ema": 0.25})
    assert (mine(start()).ema, mine(start(), ema=None).ema) == (0.25, None)
    with pytest.raises(TypeError, match=r"groups\[0\]: ema: "):
        cls(start(), groups=[{"params": (0, 3), "ema": 0.5}])


def test_the_average_begins_as_a_copy_and_is_a_state() -> None:
    """It does not follow changes of the parameters between steps, and can be written in place."""
    opt = Adam(start().reshape(3, 7), 0.1, ema=0.5)
    assert [*opt.state] == ["exp_avg", "exp_avg_sq", "ema"]
    opt.params *= 2
    average = opt.state["ema"]
    assert_bits(average, start())
    average[:] = expected = gradients(np.random.default_rng(1), N)
    opt.step(ONES.reshape(3, 7))
    assert opt.state["ema"] is average
    assert_bits(average, averaged(expected, opt.params.reshape(-1), 0.5))


WRONG: list[tuple[Any, type[Exception]]] = [
    *((value, ValueError) for value in (1, 1.0, -0.1, 1.5, math.nan, math.inf)),
    *((value, TypeError) for value in (True, "0.9", [0.9], 1j, np.ones(2), schedules.Cosine)),
]


@pytest.mark.parametrize(("value", "error"), WRONG, ids=repr)
def test_wrong_values(value: Any, error: type[Exception]) -> None:
    """They are refused at construction, at an assignment, and from a schedule, whose step changes nothing."""
    opt = Adam(start(), 0.1, ema=0.5)
    before = contents(opt)
    for call in (lambda: Adam(start(), ema=value), lambda: setattr(opt, "ema", value)):
        with pytest.raises(error, match="^ema: "):
            call()
    assert contents(opt) == before
    is_wrong = True
    opt.ema = lambda t: value if is_wrong and t == 2 else 0.25
    run(opt, 2)
    before = contents(opt)
    with pytest.raises(error, match="^ema: .* from the schedule at t = 2$"):
        opt.step(ONES)
    assert contents(opt) == before
    is_wrong = False
    run(opt, 1)
    assert opt.step_count == 3


@pytest.mark.parametrize("value", [0, 0.0, np.float32(0.5), np.array(0.25), 1e-60, 1 - 2.0**-53])
def test_numbers_of_other_types_and_at_the_ends_of_the_range(value: Any) -> None:
    for given in (value, lambda _: value):
        opt = Adam(p := start(), 0.1, ema=given)
        assert (type(opt.ema), opt.ema) == (float, float(value))
        opt.step(ONES)
        assert_bits(opt.state["ema"], averaged(start(), p, float(value)))


def test_assignments() -> None:
    """A number, schedule or callable acts from the next step on. What would add or remove the average is refused."""
    opt, plain = Adam(start(), 0.1, ema=0.5), Adam(start(), 0.1)
    followed = Averaged(opt, plain, lambda t: float(its(t)) if callable(its := VALUES[t // 2]) else its)
    for t in range(2 * len(VALUES)):
        if t % 2 == 0:
            opt.ema = VALUES[t // 2]
        assert opt.ema == followed.ema(t)
        followed.step(ONES)
    before = contents(opt)
    assert_refused(lambda: setattr(opt, "ema", None), ValueError, "^ema: .*new optimizer")
    assert contents(opt) == before
    for value in (0.5, RISING):
        assert_refused(lambda: setattr(plain, "ema", value), ValueError, "^ema: .*new optimizer")  # noqa: B023
    plain.ema = None
    assert plain.ema is None
    assert [*plain.state] == ["exp_avg", "exp_avg_sq"]


VALUES: list[Any] = [0.75, RISING, lambda t: t / 16, 0]


def test_schedules_are_called_once_per_step_and_again_after_a_skipped_one() -> None:
    asked: dict[str, list[int]] = {"lr": [], "ema": []}

    def recording(name: str) -> Callable[[int], float]:
        def number(t: int) -> float:
            asked[name].append(t)
            return 0.5

        return number

    opt = Adam(start(), **{name: recording(name) for name in asked}, skip_nonfinite=9)
    for g in (ONES, BAD, ONES):
        opt.step(g)
    with pytest.raises(ValueError, match="^grads: "):
        opt.step(ONES[:3])
    opt.step_count = 7
    opt.step(ONES)
    assert [*asked.values()] == 2 * [[0, 1, 1, 7]]
    assert opt.ema == 0.5
    assert asked["ema"][-1] == 8


def test_a_callable_that_raises_changes_nothing() -> None:
    opt = Adam(start(), 0.1, ema=lambda t: 0.5 / (1 - t))
    run(opt, 1)
    before = contents(opt)
    with pytest.raises(ZeroDivisionError):
        opt.step(ONES)
    assert contents(opt) == before


# ---- steps


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("zero_grads", [False, True])
def test_with_everything_else(zero_grads: bool) -> None:
    """Clipped and skipped steps, lists of gradients, groups, a scale. The bits are those of the definition."""
    settings: dict[str, Any] = {
        "lr": schedules.Cosine(0.1, steps=9),
        "max_norm": lambda t: 0.5 / (t + 1),
        "skip_nonfinite": 9,
        "groups": [{"params": (3, 9), "maximize": True}, {"params": (12, 15), "frozen": True}],
    }
    followed = Averaged(Adam(start(), ema=RISING, **settings), Adam(start(), **settings), RISING)
    for t in range(9):
        for opt in (followed.opt, followed.plain):
            opt.groups[2].frozen = t < 5
        grads = [gradients(np.random.default_rng([t, i]), N) for i in range(3)]
        grads[1][0] = np.inf if t in (2, 3, 6) else 1.0
        followed.step(grads if t % 2 else grads[1], zero_grads=zero_grads, grad_scale=-0.5)
    assert (followed.opt.step_count, followed.opt.skipped_steps) == (6, 3)


def test_the_step_that_is_skipped_with_an_error_changes_no_average() -> None:
    opt = Adam(start(), 0.1, ema=0.5, skip_nonfinite=1)
    run(opt, 1)
    before = np.array(opt.state["ema"])
    with pytest.raises(FloatingPointError, match="^skip_nonfinite: "):
        opt.step(BAD)
    assert_bits(opt.state["ema"], before)


def test_a_range_test_restores_the_average() -> None:
    opt = Adam(start(), 0.1, ema=RISING, grads=ONES.copy())
    run(opt, 2)
    before = contents(opt)
    lrcore.tune.range_test(opt, lambda: float(np.square(opt.params).sum()), 1e-3, 0.5, steps=9)
    assert contents(opt) == before


# ---- averaged


@pytest.mark.parametrize("shape", [(N,), (3, 7), (0,), ()])
def test_averaged_is_a_new_array_in_the_shape_of_the_parameters(shape: tuple[int, ...]) -> None:
    opt = Adam(np.ones(shape, np.float32), 0.1, ema=0.5)
    opt.step(np.ones(shape, np.float32))
    found, again = opt.averaged(), opt.averaged()
    for each in (found, again):
        assert type(each) is np.ndarray
        assert_bits(each, opt.state["ema"].reshape(shape))
    found[...] = 7
    assert_bits(again, opt.averaged())
    into = np.full(shape, 7, np.float32)
    assert opt.averaged(into) is into
    assert opt.averaged(out=into) is into
    assert_bits(into, again)


def test_averaged_into_the_parameters() -> None:
    """Training may end with this, or go on."""
    opt = Adam(p := start(), 0.1, ema=0.5)
    run(opt, 3)
    average = np.array(opt.state["ema"])
    assert opt.averaged(out=opt.params) is p
    assert_bits(p, average)
    run(opt, 1)
    assert_bits(opt.state["ema"], averaged(average, p, 0.5))


def test_averaged_of_another_library() -> None:
    torch = pytest.importorskip("torch")
    opt = Adam(torch.ones(3, 7), 0.1, ema=0.5)
    opt.step(torch.ones(3, 7))
    found, into = opt.averaged(), torch.zeros(3, 7)
    assert opt.averaged(into) is into
    for each in (found, into):
        assert torch.equal(each, opt.state["ema"].view(3, 7))
        assert each.data_ptr() != opt.state["ema"].data_ptr()


READ_ONLY = np.zeros((3, 7), np.float32)
READ_ONLY.setflags(write=False)
UNFIT: list[tuple[Any, type[Exception]]] = [
    (np.zeros((3, 6), np.float32), ValueError),
    (np.zeros((3, 7)), TypeError),
    (np.zeros((7, 3), np.float32).T, ValueError),
    (READ_ONLY, ValueError),
    ([0.0] * N, TypeError),
    (lrcore.Pack({"a": (3, 7)}), TypeError),
    (3, TypeError),
]


@pytest.mark.parametrize(("out", "error"), UNFIT)
def test_an_output_that_does_not_fit_is_refused(out: Any, error: type[Exception]) -> None:
    opt = Adam(start().reshape(3, 7), 0.1, ema=0.5)
    before = contents(opt)
    with pytest.raises(error, match="^out: "):
        opt.averaged(out)
    assert contents(opt) == before


def test_without_an_average_there_is_none_to_return() -> None:
    for arguments in ((), (np.zeros(N, np.float32),)):
        with pytest.raises(ValueError, match=r"ema"):
            Adam(start()).averaged(*arguments)


# ---- packs


@pytest.mark.parametrize("part", trees.PARTS)
@pytest.mark.parametrize("pad", [False, True])
def test_packs(part: str, pad: bool) -> None:
    """The average is a pack over its own memory, and so is what `averaged` returns."""
    pack = trees.PARTS[part](trees.model(pad))
    groups = [{"params": "*b", "lr_scale": 0.5}]
    plain = Adam(trees.PARTS[part](trees.model(pad)), 0.1, groups=groups)
    followed = Averaged(Adam(pack, 0.1, groups=groups, ema=RISING), plain, RISING)
    for t in range(3):
        followed.step(trees.fill(pack.like(), t))
    opt, into = followed.opt, pack.like()
    assert opt.averaged(into) is into
    for each in (opt.state["ema"], opt.averaged(), into):
        trees.assert_like(each, pack)
        assert_bits(each.flat, followed.average)
    assert not np.shares_memory(opt.averaged().flat, opt.state["ema"].flat)


@pytest.mark.parametrize("case", trees.OTHERS)
def test_another_pack_is_no_output(case: str) -> None:
    _, words = trees.OTHERS[case]
    opt, other = Adam(trees.model(), ema=0.5), trees.other_than_model(case)
    before = other.flat.copy()
    with pytest.raises(ValueError, match=f"^out: .*({words})"):
        opt.averaged(other)
    assert_bits(other.flat, before)


@pytest.mark.parametrize("seed", range(3))
def test_averages_follow_the_names(seed: int, tmp_path: Path) -> None:
    """A run goes on over a pack of another order, nesting and padding."""
    rng = np.random.default_rng(seed)
    pack = trees.draw(rng)
    opt = Adam(pack, 0.1, ema=RISING)
    for t in range(3):
        opt.step(trees.fill(pack.like(), t))
    opt.save(tmp_path / "state.safetensors")
    into = Adam(trees.reordered(rng, pack), ema=0.0)
    into.load_state_dict(opt.state_dict())
    from_file: Any = lrcore.load(tmp_path / "state.safetensors", trees.reordered(rng, pack))
    for t in range(3, 6):
        for each in (opt, into, from_file):
            each.step(trees.fill(each.params.like(), t))
    for each in (into, from_file):
        views = each.averaged().named_arrays()
        for name, view in opt.averaged().named_arrays().items():
            assert_bits(views[name], view, name)


# ---- saving and copying


def fresh(params: Array, ema: Any = 0.125) -> Any:
    """Return an optimizer with another decay than the one that it loads."""
    return Adam(params, 7.0, ema=ema, groups=[{"params": (5, 9)}])


WAYS = ways_to_resume(fresh)


@pytest.mark.parametrize("ema", [0.0, 0.9, 1 - 2.0**-53, RISING], ids=str)
@pytest.mark.parametrize("way", WAYS)
def test_a_run_is_resumed(way: str, ema: Any, tmp_path: Path) -> None:
    """With the bits of the uninterrupted run, in groups, one of which was frozen."""
    opt = Adam(start(), 0.1, ema=ema, groups=[{"params": (5, 9), "frozen": True}])
    run(opt, 3)
    opt.groups[1].frozen = False
    run(opt, 3)
    again = WAYS[way](copy.deepcopy(opt), tmp_path / "state.safetensors")
    assert again.ema == opt.ema
    assert_bits(again.averaged(), opt.averaged())
    run(opt, 5)
    assert_goes_on(again, opt, 5)
    assert again.ema == opt.ema


def test_copies_have_averages_of_their_own() -> None:
    opt = Adam(start(), 0.1, ema=0.5)
    run(opt, 2)
    saved, twin = opt.state_dict(), copy.copy(opt)
    kept = np.array(opt.state["ema"])
    run(opt, 1)
    for average in (saved["state"]["ema"], twin.state["ema"]):
        assert_bits(average, kept)


def test_entries_of_dictionaries() -> None:
    """The entry `ema` has a number, or a schedule as a dictionary, in a form for JSON."""
    for ema, entry in ((0.5, 0.5), (RISING, {"schedule": RISING.to_dict(), "schedule_state": []})):
        assert json.loads(json.dumps(Adam(start(), ema=ema).state_dict()["ema"])) == entry


def test_a_callable_is_not_stored(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    opt = Adam(start(), ema=lambda _: 0.25)
    run(opt, 1)
    opt.save(path)
    own = Adam(start(), ema=lambda _: 0.75)
    own.load(path)
    assert own.ema == 0.75
    assert_bits(own.state["ema"], opt.state["ema"])
    for call in (lambda: Adam(start(), ema=0.5).load(path), lambda: lrcore.load(path, start())):
        with pytest.raises(ValueError, match="ema: not stored, because it came from a callable"):
            call()


def test_a_plateau(tmp_path: Path) -> None:
    """It is found, and remains one object with that of the rate."""
    plateau = schedules.Plateau(0.5, patience=0, threshold=0)
    opt = Adam(start(), plateau * 0.1, ema=plateau)
    assert schedules.plateaus(opt) == schedules.plateaus(Adam(start(), ema=plateau)) == [plateau]
    for _ in range(2):
        plateau.observe(1)
    assert opt.ema == plateau(0) < 0.5
    opt.save(tmp_path / "state.safetensors")
    again: Any = lrcore.load(tmp_path / "state.safetensors", start())
    (carried,) = schedules.plateaus(again)
    carried.observe(1)
    assert again.lr == 0.1 * again.ema < 0.1 * opt.ema
    opt.load_state_dict(again.state_dict())
    assert schedules.plateaus(opt) == [plateau]
    assert (opt.lr, opt.ema) == (again.lr, again.ema)


def assert_refuses(opt: Any, load: Callable[[], object], prefix: str = "") -> None:
    """Assert that a load is refused with a remedy, and that nothing changes."""
    before = contents(opt)
    assert_refused(load, ValueError, f"^{prefix}ema: .+; .+")
    assert contents(opt) == before


@pytest.mark.parametrize("own", [None, 0.5, RISING])
def test_an_average_on_one_side_alone_is_refused(own: Any, tmp_path: Path) -> None:
    """The message of a file begins with its path."""
    path = tmp_path / "state.safetensors"
    opt, other = Adam(start(), 0.1, ema=own), Adam(start(), 0.2, ema=0.5 if own is None else None)
    for each in (opt, other):
        run(each, 2)
    other.save(path)
    assert_refuses(opt, lambda: opt.load(path), f"{path}: ")
    assert_refuses(opt, lambda: opt.load_state_dict(other.state_dict()))


def test_files_and_dictionaries_of_earlier_versions_have_no_average() -> None:
    """They make optimizers without one, and are refused by others."""
    file = GOLDEN / "adam.safetensors"
    former: Any = lrcore.load(file, np.zeros(5, np.float32))
    assert former.ema is None
    opt = Adam(np.zeros(5, np.float32), decay="decoupled", ema=0.5)
    assert_refuses(opt, lambda: opt.load(file), f"{file}: ")
    old = {name: each for name, each in former.state_dict().items() if name != "ema"}
    assert_refuses(opt, lambda: opt.load_state_dict(old))
    former.load_state_dict(old)
    assert former.ema is None


def without(entries: dict[str, Any], name: str) -> dict[str, Any]:
    return {each: value for each, value in entries.items() if each != name}


SPOILED: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    **{
        f"ema {value}": lambda saved, value=value: saved | {"ema": value}  # type: ignore[misc]
        for value in (1.0, -0.5, True, "0.5", None, RISING, [0.5], {"schedule": 1, "schedule_state": []})
    },
    "no ema": lambda saved: without(saved, "ema"),
    "no average": lambda saved: saved | {"state": without(saved["state"], "ema")},
    "too few": lambda saved: saved | {"state": saved["state"] | {"ema": np.zeros(9, np.float32)}},
}


@pytest.mark.parametrize("case", SPOILED)
def test_a_wrong_entry_is_refused(case: str) -> None:
    opt, other = (Adam(start(), 0.1, ema=RISING) for _ in range(2))
    for each, steps in ((opt, 2), (other, 3)):
        run(each, steps)
    before = contents(opt)
    with pytest.raises((TypeError, ValueError), match="ema|schedule"):
        opt.load_state_dict(SPOILED[case](other.state_dict()))
    assert contents(opt) == before
    opt.load_state_dict(other.state_dict())


@pytest.mark.parametrize("rule", ["sgd_momentum", "adam", "adagrad"])
def test_dictionaries_of_pytorch(rule: str) -> None:
    """They have no average; after loading one, the average is that of the parameters at that time."""
    torch = pytest.importorskip("torch")
    opt, plain = make(rule, start(), ema=RISING), make(rule, start())
    for each in (opt, plain):
        run(each, 3)
    found, expected = opt.torch_state_dict(), plain.torch_state_dict()
    assert found["param_groups"] == expected["param_groups"]
    for entries, wanted in zip(found["state"].values(), expected["state"].values(), strict=True):
        assert entries.keys() == wanted.keys()
        assert all(
            torch.equal(torch.as_tensor(entries[name]), torch.as_tensor(wanted[name])) for name in wanted
        )
    opt.params *= 2
    opt.load_torch_state_dict(expected, **({"step_count": 3} if rule == "sgd_momentum" else {}))
    assert (opt.ema, opt.step_count) == (RISING(3), 3)
    assert_bits(opt.state["ema"], opt.params)
    before = np.array(opt.params)
    run(opt, 1)
    assert_bits(opt.state["ema"], averaged(before, opt.params, RISING(3)))

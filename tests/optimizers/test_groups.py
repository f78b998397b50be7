"""Parameter groups: their attributes, accepted and refused arguments, copies and files."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lrcore
from gpu.devices import imitated
from lrcore import schedules
from lrcore._lrcore_core import commit
from lrcore.optimizers._settings import Change
from support import CLASSES, ONES, N, assert_bits, assert_same, make, run, start

AdamW: Any = lrcore.AdamW
SGD: Any = lrcore.SGD
functional: Any = lrcore.functional
COSINE = schedules.Cosine(0.01, steps=30)

GROUPS: list[dict[str, Any]] = [
    {"params": [slice(0, 3), (5, 9)], "weight_decay": 0.0},
    {"params": slice(9, 12), "lr_scale": 0.125, "betas": (0.5, 0.75)},
    {"params": (-9, -4), "frozen": True},
    {"params": (17, 18), "lr": 0.5, "maximize": True},
]


def grouped(params: Any = None, **arguments: Any) -> Any:
    """Return an optimizer with a group of each kind."""
    chosen = {"lr": COSINE, "weight_decay": 0.25, "groups": GROUPS} | arguments
    return AdamW(start() if params is None else params, **chosen)


def numbers(opt: Any, name: str) -> list[Any]:
    """Return a number of each group."""
    return [group.hyper[name] for group in opt.groups]


def shown(opt: Any, *names: str) -> list[Any]:
    """Return attributes of each group, of all of them by default."""
    all_names = ("ranges", "size", "schedule", "lr", "lr_scale", "frozen", "maximize", "step_count")
    groups = [[getattr(group, name) for name in names or all_names] for group in opt.groups]
    return groups if names else [[*each, dict(opt.groups[i].hyper)] for i, each in enumerate(groups)]


def contents(opt: Any) -> Any:
    """Return everything that a step or an assignment can change, without a call to a schedule."""
    dictionary = opt.state_dict()
    arrays = [each.tobytes() for each in (opt.params, *dictionary.pop("state").values())]
    return dictionary, arrays, shown(opt, "schedule", "lr_scale", "frozen", "maximize", "step_count")


def assert_refused(call: Callable[[], object], error: Any, *words: str) -> None:
    """Assert that a call raises an error whose message matches all regular expressions."""
    with pytest.raises(error) as caught:
        call()
    for each in words:
        assert re.search(each, str(caught.value)), f"{each} is not in {caught.value}"


# ---- what groups show and accept


def test_the_rest_comes_first() -> None:
    opt = grouped()
    assert isinstance(opt.groups, Sequence)
    assert len(opt.groups) == 5
    assert [group.ranges for group in opt.groups] == [
        ((3, 5), (18, 21)), ((0, 3), (5, 9)), ((9, 12),), ((12, 17),), ((17, 18),)
    ]  # fmt: skip
    assert [group.size for group in opt.groups] == [5, 7, 3, 5, 1]
    assert opt.groups[-2].ranges == ((12, 17),)
    with pytest.raises(IndexError):
        _ = opt.groups[5]
    assert [group.ranges for group in AdamW(start()).groups] == [((0, N),)]
    whole = AdamW(start(), groups=({"params": slice(None)},))
    assert shown(whole, "ranges", "size") == [[(), 0], [((0, N),), N]]


@pytest.mark.parametrize(
    ("params", "ranges"),
    [
        (slice(3, None), ((3, 21),)),
        (slice(-4), ((0, 17),)),
        (slice(-4, -1, 1), ((17, 20),)),
        ((-21, -1), ((0, 20),)),
        ((np.int64(2), 21), ((2, 21),)),
        ([(5, 9), slice(0, 5)], ((0, 9),)),
        ([slice(9, 12), (2, 4), slice(-1, None)], ((2, 4), (9, 12), (20, 21))),
    ],
)
def test_ranges_are_of_flat_elements(params: Any, ranges: Any) -> None:
    """They are shown in order, and merged where they touch."""
    opt = SGD(np.zeros((3, 7), np.float32), 0.0, groups=[{"params": params, "lr": 1.0}])
    assert opt.groups[1].ranges == ranges
    opt.step(ONES.reshape(3, 7))
    expected = np.zeros(N, np.float32)
    for begin, end in ranges:
        expected[begin:end] = -1
    assert_bits(opt.params.ravel(), expected)


@pytest.mark.parametrize("name", CLASSES)
def test_every_class_takes_groups_with_all_its_numbers(name: str) -> None:
    cls = CLASSES[name]
    assert inspect.signature(cls).parameters["groups"].default is None
    own = dict(cls(start()).hyper)
    opt = cls(start(), groups=[{"params": (0, 9)} | own])
    assert dict(opt.groups[1].hyper) == own


def test_what_a_group_shows() -> None:
    opt = grouped()
    run(opt, 3)
    rate = COSINE(3)
    assert shown(opt, "lr", "lr_scale", "frozen", "maximize", "schedule") == [
        [rate, 1, False, False, None],
        [rate, 1, False, False, None],
        [rate * 0.125, 0.125, False, False, None],
        [rate, 1, True, False, None],
        [0.5, 1, False, True, schedules.Constant(0.5)],
    ]
    expected = {"betas": (0.5, 0.75), "eps": 1e-8, "weight_decay": 0.25}
    assert dict(opt.groups[2].hyper) == expected
    assert repr(opt.groups[2].hyper) == repr(expected)
    assert numbers(opt, "weight_decay") == [0.25, 0, 0.25, 0.25, 0.25]


def test_assignments_to_a_group_concern_no_other() -> None:
    opt = grouped()
    others = shown(opt)
    group = opt.groups[1]
    group.hyper["eps"] = 1
    group.hyper.update(betas=(0.5, 0.7), weight_decay=0.1)
    assert dict(group.hyper) == {"betas": (0.5, 0.7), "eps": 1.0, "weight_decay": 0.1}
    group.lr = linear = schedules.Linear(0.5, end=0.0, steps=10)
    opt.step_count = 4
    assert (group.lr, group.schedule) == (linear(4), linear)
    group.lr = lambda t: t / 8
    assert group.lr == 0.5
    group.lr = None
    assert (group.lr, group.schedule) == (COSINE(4), None)
    group.lr_scale, group.frozen, group.maximize = np.float32(0.5), True, True
    assert (group.lr, opt.groups[1].frozen, opt.groups[1].maximize) == (COSINE(4) * 0.5, True, True)
    opt.groups[4].lr_scale = 1  # as it is
    opt.step_count = 0
    assert [*shown(opt)[:1], *shown(opt)[2:]] == [*others[:1], *others[2:]]


def test_changes_of_the_optimizer_leave_what_groups_named() -> None:
    """That includes the rest. Until it names something, it has the optimizer's numbers."""
    opt = grouped()
    opt.groups[3].hyper["eps"] = 0.5
    opt.hyper.update(weight_decay=0.75, eps=0.25, betas=(0.1, 0.2))
    opt.lr = 2.0
    assert numbers(opt, "weight_decay") == [0.75, 0, 0.75, 0.75, 0.75]
    assert numbers(opt, "eps") == [0.25, 0.25, 0.25, 0.5, 0.25]
    assert numbers(opt, "betas") == [(0.1, 0.2), (0.1, 0.2), (0.5, 0.75), (0.1, 0.2), (0.1, 0.2)]
    assert [group.lr for group in opt.groups] == [2, 2, 0.25, 2, 0.5]
    opt.groups[0].hyper["eps"], opt.groups[0].lr, opt.groups[4].lr = 0.125, 1.0, None
    assert (opt.hyper["eps"], opt.lr) == (0.25, 2)
    opt.hyper["eps"] = opt.lr = 4.0
    assert numbers(opt, "eps") == [0.125, 4, 4, 0.5, 4]
    assert [group.lr for group in opt.groups] == [1, 4, 0.5, 4, 4]


def test_step_counts() -> None:
    """A frozen group does not count; `opt.step_count` counts every step, and assigning it sets all counts."""
    opt = grouped()
    run(opt, 3)
    opt.groups[3].frozen, opt.groups[1].frozen = False, True
    run(opt, 2)
    assert opt.step_count == 5
    assert [group.step_count for group in opt.groups] == [5, 3, 5, 2, 5]
    opt.step_count = 7
    assert [group.step_count for group in opt.groups] == [7] * 5


def test_schedules_are_called_once_before_anything_is_written() -> None:
    """They are called with the optimizer's count. The schedule of a frozen group is not called."""
    asked: list[tuple[str, int]] = []

    def rate(name: str) -> Callable[[int], float]:
        def called(t: int) -> float:
            asked.append((name, t))
            assert_bits(opt.params, before)
            return 0.5

        return called

    groups = [{"params": (0, 5), "lr": rate("own")}, {"params": (5, 9), "lr": rate("frozen"), "frozen": True}]
    opt = AdamW(start(), rate("optimizer"), groups=groups)
    for t in range(3):
        before = opt.params.copy()
        asked.clear()
        opt.groups[2].frozen = t < 2
        opt.step(ONES)
        names = ["frozen"] * (t == 2) + ["optimizer", "own"]
        assert sorted(asked) == [(name, t) for name in names]


@pytest.mark.parametrize(
    ("lr", "own"),
    [
        (0.1, {"lr": lambda t: np.nan if t == 2 else 0.1}),
        (0.1, {"lr": lambda t: 0.1 - t}),
        (lambda t: 1e30 if t == 2 else 0.1, {"lr_scale": 1e10}),
    ],
)
def test_a_rate_that_fails_in_one_group(lr: Any, own: dict[str, Any]) -> None:
    """No group is stepped, and nothing else changes. While the group is frozen, the others step."""
    opt = AdamW(start(), lr, groups=[{"params": (0, 5)}, {"params": (9, 12)} | own])
    opt.groups[2].frozen = True
    run(opt, 2)
    opt.groups[2].frozen = False
    before = contents(opt)
    assert_refused(lambda: opt.step(ONES), ValueError, r"opt\.groups\[2\]", r"\blr\b")
    assert contents(opt) == before
    opt.groups[2].frozen = True
    opt.step(ONES)
    assert [group.step_count for group in opt.groups] == [3, 3, 0]


def test_a_group_that_a_schedule_thaws() -> None:
    """The step takes the group's own rate or leaves it frozen, however often the schedule changes its mind."""

    def rate(_: int) -> float:
        opt.groups[1].frozen = not opt.groups[1].frozen
        return 8.0

    opt = SGD(np.zeros(4, np.float32), rate, groups=[{"params": (0, 2), "lr": 0.5, "frozen": True}])
    for _ in range(5):
        before = opt.params.copy()
        opt.step(np.ones(4, np.float32))
        moved = (before - opt.params).tolist()
        assert moved in ([0, 0, 8, 8], [0.5, 0.5, 8, 8])


def test_a_count_that_is_set_while_a_group_is_frozen() -> None:
    """Neither change loses the other. Here, one comes between the check of the count and its assignment."""

    class Freezing:
        array = np.zeros(N, np.float32)

        def __dlpack_device__(self) -> Any:
            return self.array.__dlpack_device__()

        def __dlpack__(self, **keywords: Any) -> Any:
            opt.groups[1].frozen = True
            return self.array.__dlpack__(**keywords)

    opt, other = SGD(start(), 1.0, groups=[TWO]), SGD(start(), 1.0, momentum=0.9)
    changes = [Change(opt, step_count=5), Change(other, states=[Freezing()])]
    commit(changes)
    assert (opt.step_count, opt.groups[1].frozen) == (5, True)
    opt.step(ONES)
    assert_bits(opt.params[:5], start()[:5])
    assert [group.step_count for group in opt.groups] == [6, 5]


def test_groups_as_objects() -> None:
    """Two views of a group are equal, and a copy is the group of a copied optimizer."""
    opt = grouped()
    group = opt.groups[1]
    assert group == opt.groups[1] != opt.groups[2]
    assert group != grouped().groups[1]
    assert group != 1
    assert {*opt.groups, *opt.groups} == {*opt.groups}
    assert len({*opt.groups}) == 5
    assert opt.groups.index(group) == 1
    copy.copy(group).frozen = True
    assert group.frozen
    for copied in (copy.deepcopy(group), pickle.loads(pickle.dumps(group))):
        assert repr(copied) == repr(group)
        copied.frozen = False
        assert group.frozen
    for wrong in (5, -6, "lr", 1.0):
        with pytest.raises(
            (IndexError, TypeError), match=r"opt\.groups: expected an index from -5 to 4, got"
        ):
            _ = opt.groups[wrong]
    with pytest.raises(AttributeError):
        opt.groups.lr = 0.5


def test_reprs() -> None:
    """A group has one line. The optimizer's repr has one more line for each group if groups were passed."""
    opt, plain = grouped(), grouped(groups=None)
    plain.groups[0].lr_scale = 0.5
    assert all(len(repr(group).splitlines()) == 1 for group in opt.groups)
    first, *others = repr(opt).splitlines()
    assert first == repr(plain)
    assert len(others) == len(opt.groups)


# ---- refusals

BOTH = (TypeError, ValueError)
TWO: dict[str, Any] = {"params": (0, 5)}

GROUPS_REFUSED: list[tuple[Any, Any, tuple[str, ...]]] = [
    # not a list of dictionaries with places
    (5, TypeError, ("^groups: expected",)),
    (TWO, TypeError, ("^groups: expected",)),
    ([TWO, 5], TypeError, (r"^groups\[1\]: expected",)),
    ([TWO, {"frozen": True}], BOTH, (r"^groups\[1\]: ", "params")),
    *(([TWO, {"params": each}], BOTH, (r"^groups\[1\]: params", "expected"))
      for each in (7, [7], None, (7.5, 9), (7, 8, 9), slice(7.5, 9), [slice(7, 9), "w"],
                   [7, 9], range(7, 9), slice(7, 9, 1.0), (7, 10**5000))),  # the first two may mean elements 7, ...
    # not elements of the buffer
    *(([TWO, {"params": each}], ValueError, (rf"^groups\[1\]: params: expected {words}",))
      for words, places in {
          "a range inside the 21 elements": (slice(9, 22), (9, 22), slice(-22, 3), (-22, 3), (22, 23)),
          "a range that is not empty": (slice(7, 7), (9, 7), [(7, 9), (12, 12)]),
          "slices with step 1": (slice(7, 15, 2), slice(15, 7, -1)),
      }.items() for each in places),
    # twice
    ([{"params": slice(4, 8)}, TWO], ValueError, ("0:5", "4:8", r"groups\[0\]", r"groups\[1\]")),
    ([TWO, {"params": slice(None)}], ValueError, ("0:5", "0:21", r"groups\[0\]", r"groups\[1\]")),
    ([TWO, {"params": [(9, 12), (7, 8), slice(-11, -9)]}], ValueError, ("9:12", "10:12", r"groups\[1\]")),
]  # fmt: skip

OWN_REFUSED: list[tuple[dict[str, Any], Any, str]] = [
    ({"lr_scale": -1.0}, ValueError, r"lr_scale: expected a finite number >= 0, got -1\.0"),
    *(({name: value}, ValueError, rf"{name}(\[1\])?: ") for name, value in (
        ("lr_scale", np.nan), ("lr_scale", np.inf), ("lr", -1.0), ("lr", np.nan), ("betas", (0.9, 1.0)),
        ("eps", -1.0), ("weight_decay", np.inf), ("amsgrad", True), ("eps_placement", "hat"),
        ("decay", "l2"))),
    *(({name: value}, TypeError, f"{name}: expected") for name, value in (
        ("lr_scale", "half"), ("lr_scale", True), ("lr", "fast"), ("frozen", 1), ("frozen", None),
        ("maximize", "yes"), ("betas", 0.5), ("eps", "small"))),
    ({"decoupled_weight_decay": False}, ValueError, "(decoupled_weight_)?decay: "),
    ({"lr": 0.1, "lr_scale": 0.5}, ValueError, r"(?=.*\blr\b).*\blr_scale\b"),
    *(({name: value}, TypeError, f"{name}: .*; {hint}$") for name, value, hint in (
        ("weight_decy", 0.1, r"did you mean weight_decay\?"), ("initial_lr", 0.1, r"did you mean lr\?"),
        ("lr_mult", 0.5, r"did you mean lr_scale\?"), ("name", "biases", "leave it out; .* have no names"),
        ("decay_mult", 0, r"write weight_decay=factor \* weight_decay"))),
    ({"momentum": None}, TypeError, "momentum: "),
    *(({name: None}, TypeError, f"{name}: an argument of the optimizer")
      for name in ("grads", "capturable", "max_steps", "groups")),
]  # fmt: skip


OF_THE_SECOND: list[tuple[Any, Any, tuple[str, ...]]] = [
    ([TWO, {"params": (7, 9)} | own], error, (rf"^groups\[1\]: {words}",))
    for own, error, words in OWN_REFUSED
]


@pytest.mark.parametrize(("groups", "error", "words"), GROUPS_REFUSED + OF_THE_SECOND)
def test_groups_that_are_refused(groups: Any, error: Any, words: tuple[str, ...]) -> None:
    """The message names the group by its index in the list, and the argument."""
    params = start()
    assert_refused(lambda: AdamW(params, groups=groups), error, *words)
    assert_bits(params, start())


def test_numbers_that_do_not_fit_the_options() -> None:
    groups = [TWO, {"params": (7, 9), "dampening": 0.5}]
    assert_refused(
        lambda: SGD(start(), momentum=0.9, nesterov=True, groups=groups),
        ValueError,
        r"^groups\[1\]: nesterov: ",
    )


def test_options_that_agree_are_accepted() -> None:
    agreeing = {"amsgrad": False, "decay": "decoupled", "eps_placement": "corrected"}
    for own in (agreeing, {"decoupled_weight_decay": True}):
        assert_bits(run(AdamW(start(), groups=[TWO | own]), 2), run(AdamW(start()), 2))


@pytest.mark.parametrize(
    ("i", "name", "value", "error"),
    [
        (2, "lr", 0.5, ValueError),  # its lr_scale is not 1
        (4, "lr_scale", 0.5, ValueError),  # it has a rate of its own
        *((1, name, value, ValueError) for name, value in (
            ("lr_scale", -1.0), ("lr_scale", np.nan), ("lr", -1.0))),
        *((1, name, value, TypeError) for name, value in (
            ("lr_scale", "x"), ("lr", "x"), ("frozen", 1), ("maximize", None))),
        *((0, name, 1, AttributeError) for name in ("ranges", "size", "step_count", "schedule", "colour")),
        *((1, name, 0.5, AttributeError) for name in ("weight_decay", "amsgrad", "params")),
    ],
)  # fmt: skip
def test_assignments_that_are_refused(i: int, name: str, value: Any, error: Any) -> None:
    opt = grouped()
    run(opt, 2)
    before = contents(opt)
    assert_refused(lambda: setattr(opt.groups[i], name, value), error, rf"opt\.groups\[{i}\]", rf"\b{name}\b")
    assert contents(opt) == before


def test_other_changes_that_are_refused() -> None:
    """A group's numbers change all or none. Groups are not replaced, and keep the optimizer's rule."""
    opt = grouped()
    run(opt, 2)
    before = contents(opt), shown(opt)
    hyper, here = opt.groups[1].hyper, r"opt\.groups\[1\]"
    assert_refused(lambda: hyper.update(eps=0.5, weight_decay=-1), ValueError, here, "weight_decay: expected")
    assert_refused(lambda: hyper.update(eps=0.5, betas=0.5), TypeError, here, "betas: expected two numbers")
    assert_refused(lambda: hyper.update(eps=0.5, epz=0.5), KeyError, "epz: .*did you mean eps")
    assert_refused(lambda: hyper.pop("eps"), TypeError, "cannot be removed")
    group: Any = opt.groups[1]
    assert_refused(lambda: group["lr"], TypeError, here, r"did you mean opt\.groups\[1\]\.lr\?")
    assert_refused(lambda: group["param_names"], TypeError, here, r"did you mean opt\.groups\[1\]\.names\?")
    assert_refused(
        lambda: group.__setitem__("eps", 1), TypeError, r'did you mean opt\.groups\[1\]\.hyper\["eps"\]\?'
    )
    assert_refused(lambda: setattr(opt, "groups", []), AttributeError, "^groups: ", "construct", "frozen")
    assert_refused(lambda: opt.groups.__setitem__(1, opt.groups[2]), (TypeError, AttributeError))
    assert (contents(opt), shown(opt)) == before
    sgd = SGD(start(), groups=[TWO])
    assert_refused(lambda: sgd.groups[1].hyper.update(momentum=0.5), ValueError, here, "rule")
    assert_refused(
        lambda: functional.sgd(start(), ONES, step=1, lr=0.1, groups=[TWO]), TypeError, "^groups: "
    )


def test_groups_of_a_capturable_optimizer_are_fixed() -> None:
    with imitated() as xp:
        opt = grouped(xp.array(start()), grads=xp.array(ONES), capturable=True, max_steps=9)
        expected = grouped(grads=ONES)
        for each in (opt, expected, opt, expected):
            each.step()
        for name, value in {"frozen": True, "lr": 0.5, "lr_scale": 0.5, "maximize": True}.items():
            assert_refused(partial(setattr, opt.groups[1], name, value), AttributeError, name)
        assert_refused(lambda: opt.groups[1].hyper.update(eps=0.5), AttributeError, "hyper|eps")
        opt.step()
        expected.step()
        assert_bits(opt.params.get(), expected.params)
        plateau = [TWO | {"lr": schedules.Plateau(0.1)}]
        assert_refused(
            lambda: grouped(xp.array(start()), groups=plateau, grads=xp.array(ONES), capturable=True, max_steps=9),
            ValueError, r"^opt\.groups\[1\]\.lr: .* Plateau",
        )  # fmt: skip


# ---- copies, dictionaries and files


def another(opt: Any) -> Any:
    """Return an optimizer of the same groups, with other numbers and rates, some of which the groups name."""
    others = {"eps": 0.5, "frozen": True, "lr_scale": 3.0}
    groups = [{"params": [*group.ranges]} | others for group in [*opt.groups][1:]]
    return AdamW(np.array(opt.params), 7.0, weight_decay=0.5, groups=groups)


def from_dictionary(opt: Any, _: Path) -> Any:
    resumed = another(opt)
    resumed.load_state_dict(opt.state_dict())
    return resumed


def from_file(opt: Any, path: Path) -> Any:
    resumed = another(opt)
    opt.save(path)
    resumed.load(path)
    return resumed


def made_from_file(opt: Any, path: Path) -> Any:
    opt.save(path)
    return lrcore.load(path, np.array(opt.params))


WAYS: dict[str, Callable[[Any, Path], Any]] = {
    "copy": lambda opt, _: copy.copy(opt),
    "deepcopy": lambda opt, _: copy.deepcopy(opt),
    "pickle": lambda opt, _: pickle.loads(pickle.dumps(opt)),
    "dictionary": from_dictionary,
    "file": from_file,
    "lrcore.load": made_from_file,
}
every_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


@every_way
def test_groups_are_carried(way: Callable[[Any, Path], Any], tmp_path: Path) -> None:
    """So is what they named: after the same changes of the optimizers, the runs go on with equal bits."""
    opt = grouped()
    opt.groups[0].hyper["eps"], opt.groups[0].lr = 1e-3, schedules.Linear(0.1, end=0.0, steps=9)
    run(opt, 2)
    opt.groups[1].frozen, opt.groups[2].maximize, opt.groups[3].frozen = True, True, False
    run(opt, 2)
    resumed = way(opt, tmp_path / "file.safetensors")
    assert shown(resumed) == shown(opt)
    for each in (opt, resumed):
        each.hyper.update(eps=0.125, betas=(0.1, 0.2), weight_decay=0.75)
        each.lr = 0.25
    assert shown(resumed) == shown(opt)
    before = opt.params.copy()
    run(opt, 3)
    after = opt.params.copy()
    resumed.params[:] = before  # a shallow copy has the same parameters
    run(resumed, 3)
    assert_same(resumed, after, [*opt.state.values()])
    resumed.groups[1].frozen = False
    resumed.groups[1].hyper["eps"] = 0.5
    assert (opt.groups[1].frozen, opt.groups[1].hyper["eps"]) == (True, 0.125)


@every_way
def test_a_plateau_of_a_group_is_carried(way: Callable[[Any, Path], Any], tmp_path: Path) -> None:
    plateau = schedules.Plateau(0.5, patience=0, threshold=0)
    opt = AdamW(start(), 1.0, groups=[{"params": (0, 9), "lr": plateau}])
    plateau.observe(1)
    plateau.observe(1)
    resumed = way(opt, tmp_path / "file.safetensors")
    (carried,) = schedules.plateaus(resumed.groups[1].schedule)
    assert carried.state_dict() == plateau.state_dict()
    assert resumed.groups[1].lr == opt.groups[1].lr == plateau(0)
    carried.observe(1)
    assert resumed.groups[1].lr == carried(0)
    assert carried.reductions == 2


def test_a_plateau_that_equals_the_stored_one_stays_in_use() -> None:
    """As the optimizer's own does: the caller has a reference to it."""
    opts, plateaus = [], [schedules.Plateau(0.5, patience=0, threshold=0) for _ in range(2)]
    for plateau in plateaus:
        opts.append(AdamW(start(), 1.0, groups=[{"params": (0, 9), "lr": plateau}]))
    for _ in range(3):
        plateaus[0].observe(1)
    opts[1].load_state_dict(opts[0].state_dict())
    assert opts[1].groups[1].schedule is plateaus[1]
    assert plateaus[1].reductions == 2


def shared_by(first: Any, second: Any, third: Any) -> Any:
    """Return an optimizer with plateaus in its own schedule and in two groups."""
    groups = [{"params": (0, 9), "lr": second * 0.5}, {"params": (9, 12), "lr": third}]
    return AdamW(start(), first.warmup(2), groups=groups)


def plateau_after(metrics: int) -> Any:
    """Return a Plateau that has observed metrics which do not improve."""
    plateau = schedules.Plateau(0.5, patience=0, threshold=0)
    for _ in range(metrics):
        plateau.observe(1)
    return plateau


@every_way
def test_a_shared_plateau_is_carried_as_one_object(way: Callable[[Any, Path], Any], tmp_path: Path) -> None:
    shared, other = plateau_after(2), plateau_after(3)
    opt = shared_by(shared, shared, other)
    resumed = way(opt, tmp_path / "file.safetensors")
    found = schedules.plateaus(resumed)
    assert [each.reductions for each in found] == [1, 2]
    found[0].observe(1)
    if found[0] is not shared:
        shared.observe(1)
    assert shown(resumed, "lr") == shown(opt, "lr")
    assert resumed.lr == opt.lr == 0.5 * 0.1**2 / 2


@pytest.mark.parametrize("which", [(0, 0, 0), (0, 0, 1), (0, 1, 0), (0, 1, 2)])
@pytest.mark.parametrize("others", [(0, 0, 0), (0, 0, 1), (0, 1, 1), (0, 1, 2)])
@pytest.mark.parametrize("same_states", [False, True])
def test_plateaus_that_are_shared_in_another_way(
    which: tuple[int, ...], others: tuple[int, ...], same_states: bool
) -> None:
    """A loaded optimizer has the stored rates. Those of its plateaus that can have the stored states stay in use."""
    stored = [plateau_after(1 if same_states else 1 + i) for i in range(3)]
    own = [plateau_after(0) for _ in range(3)]
    source, target = (shared_by(*(from_[i] for i in at)) for from_, at in ((stored, which), (own, others)))
    target.load_state_dict(source.state_dict())
    assert shown(target, "lr") == shown(source, "lr")
    found = schedules.plateaus(target)
    kept = [each for each in found if any(each is one for one in own)]
    if which == others:
        assert found == kept
    for each in found:
        each.observe(2)
    for each in schedules.plateaus(source):
        each.observe(2)
    assert shown(target, "lr") == shown(source, "lr")


def test_schedules_that_share_a_plateau_are_replaced_together() -> None:
    source, target = (shared_by(*[plateau_after(count)] * 3) for count in (2, 0))
    (former,) = schedules.plateaus(target)
    target.groups[2].lr = former * 0.25
    target.load_state_dict(source.state_dict())
    (plateau,) = schedules.plateaus(target)
    assert plateau is not former
    assert shown(target, "lr") == shown(source, "lr")


def test_a_wrong_number_of_a_shared_plateau_is_refused() -> None:
    opt = shared_by(*[plateau_after(1)] * 3)
    changes: tuple[Callable[[Any], None], ...] = (
        lambda saved: saved["schedule"]["inner"].update(id=-1),
        lambda saved: saved["schedule"]["inner"].update(id="0"),
        lambda saved: saved["schedule"]["inner"].update(factor=0.5),
        lambda saved: saved["schedule"].update(id=0),
    )
    for change in changes:
        saved = opt.state_dict()
        change(saved)
        assert_refused(partial(opt.load_state_dict, saved), (TypeError, ValueError), "id: expected")


def test_the_dictionary_has_groups_if_there_is_something_to_say() -> None:
    assert "groups" in grouped().state_dict()
    opt = grouped(groups=None)
    assert "groups" not in opt.state_dict()
    own = {"lr": 0.5, "lr_scale": 0.5, "frozen": True, "maximize": True, "eps": 0.5}
    for name, value in own.items():
        opt = grouped(groups=None)
        rest = opt.groups[0]
        rest.hyper.update(eps=value) if name == "eps" else setattr(rest, name, value)
        assert "groups" in opt.state_dict(), name


def go(opt: Any, steps: int) -> None:
    """Step, freezing and thawing groups at certain steps."""
    for _ in range(steps):
        t = opt.step_count
        for i, begin, end in ((1, 4, 9), (3, 0, 7), (0, 12, 15), (4, 14, 99)):
            if t in (begin, end):
                opt.groups[i].frozen = t == begin
        run(opt, 1)


@pytest.mark.parametrize("name", ["adam", "radam", "nadam", "adagrad", "sgd_momentum", "rmsprop_momentum"])
@pytest.mark.parametrize("by_file", [False, True])
def test_resume_in_the_middle_of_a_freeze(name: str, by_file: bool, tmp_path: Path) -> None:
    """A run that is resumed after any of 20 steps has the bits of the uninterrupted one."""
    groups = [{key: value for key, value in each.items() if key != "betas"} for each in GROUPS]
    opt: Any = make(name, start(), COSINE, weight_decay=0.1, groups=groups)
    saved: list[Any] = []
    for k in range(20):
        go(opt, 1)
        path = tmp_path / f"{k}.safetensors"
        if by_file:
            opt.save(path)
        saved.append((path if by_file else opt.state_dict(), opt.params.copy(), shown(opt)))
    go(opt, 3)
    places = [{"params": group["params"]} for group in GROUPS]
    for k, (state, params, expected) in enumerate(saved, 1):
        resumed: Any = make(name, params, 7.0, weight_decay=0.5, groups=places)
        resumed.load(state) if by_file else resumed.load_state_dict(state)
        assert shown(resumed) == expected
        go(resumed, 23 - k)
        assert_same(resumed, opt.params, [*opt.state.values()], f"{name}, {k}:")


def test_thousands_of_ranges_with_other_step_counts(tmp_path: Path) -> None:
    """Each group's are stored by range, also where neighbours of several groups have the same count."""
    n = 30_000
    every = [[(3 * i + k, 3 * i + k + 1) for i in range(n)] for k in range(2)]
    opt = SGD(np.zeros(3 * n, np.float32), groups=[{"params": each, "frozen": True} for each in every])
    opt.step(np.ones(3 * n, np.float32))
    opt.groups[1].frozen = False
    for count, ranges, of_group in zip((None, 0, 0), ([], *every), opt.state_dict()["groups"], strict=True):
        assert of_group["step_counts"] == [[*each, count] for each in ranges]
    resumed = made_from_file(opt, tmp_path / "file.safetensors")
    assert [group.step_count for group in resumed.groups] == [1, 0, 0]


def test_damaged_entries_are_refused() -> None:
    opt = grouped()
    run(opt, 2)
    opt.groups[3].frozen = False
    before = contents(opt)
    for name, value, words in (
        ("step_counts", [[12, 17, 3]], "at most .* 2, got 3"),
        ("step_counts", [[12, 18, 1]], "ranges of the group, got 12:18"),
        ("step_counts", [[9, 10, 1]], "ranges of the group, got 9:10"),
        ("step_counts", [[20, 21, 1]], "ranges of the group, got 20:21"),
        ("step_counts", [[13, 13, 1]], "ranges of the group, got 13:13"),
        ("step_counts", [[12, 15, 1], [14, 17, 0]], "each element once, got 14 twice"),
        ("schedule_state", [], "expected an entry schedule"),
    ):
        dictionary = opt.state_dict()
        dictionary["groups"][3][name] = value
        assert_refused(
            partial(opt.load_state_dict, dictionary), ValueError, rf"^groups\[3\]: {name}: ", words
        )
        assert contents(opt) == before


@pytest.mark.parametrize(
    "groups",
    [
        None,
        GROUPS[:3],
        [*GROUPS, {"params": (20, 21)}],
        [*GROUPS[:3], {"params": (17, 19)}],
        [*GROUPS[:2], *GROUPS[:1:-1]],
    ],
    ids=["no groups", "fewer", "more", "other ranges", "another order"],
)
def test_another_partition_is_refused(groups: Any, tmp_path: Path) -> None:
    """Neither takes the other's state, and nothing changes."""
    path = tmp_path / "file.safetensors"
    opts = [grouped(), grouped(groups=groups)]
    for opt, other in (opts, opts[::-1]):
        run(other, 2)
        before = contents(opt)
        other.save(path)
        remedy = "make the optimizer with the groups"
        assert_refused(partial(opt.load_state_dict, other.state_dict()), ValueError, "^groups", remedy)
        assert_refused(partial(opt.load, path), ValueError, "groups", remedy)
        assert contents(opt) == before

"""Numeric arguments that are schedules or callables: their bits, when they are called, refusals, saving and resuming."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lrcore
from gpu.devices import imitated
from lrcore import schedules
from support import CLASSES, CONFIGURATIONS, ONES, N, assert_bits, gradients, run, start

SGD: Any = lrcore.SGD
Adam: Any = lrcore.Adam
AdamW: Any = lrcore.AdamW
Adagrad: Any = lrcore.Adagrad
COSINE = schedules.Cosine(0.4, steps=12, end=0.1)
LINEAR = schedules.Linear(0.9, end=0.3, steps=9)


def scheduled(opt: Any) -> dict[str, Any]:
    """Return a schedule for each numeric argument of an optimizer, near its current number."""
    found: dict[str, Any] = {}
    for name, value in opt.hyper.items():
        if name == "betas":
            first = value[0] if type(opt) is lrcore.NAdam else LINEAR
            found[name] = (first, lambda t: 0.9 - t / 64)
        elif name != "momentum_decay" and (name != "dampening" or value):
            found[name] = COSINE * (value or (0.5 if name == "weight_decay" else 0.0))
    return found


def at(schedule: Any, t: int) -> Any:
    """Return the number of the step after t steps."""
    return (
        tuple(at(each, t) for each in schedule)
        if isinstance(schedule, tuple)
        else (schedule(t) if callable(schedule) else schedule)
    )


@pytest.mark.parametrize("rule", CONFIGURATIONS)
@pytest.mark.parametrize("decay", ["l2", "decoupled"])
def test_steps_are_those_of_numbers_that_are_assigned(rule: str, decay: str) -> None:
    """For all rules and arguments, of the optimizer and of groups."""
    cls, arguments = CONFIGURATIONS[rule]
    arguments = arguments | {"decay": decay, "lr": COSINE}
    every = scheduled(cls(start(), **arguments))
    own = {name: value for name, value in every.items() if name in ("weight_decay", "eps", "betas")}
    groups: list[dict[str, Any]] = [
        {"params": (0, 7)} | {name: at(value, 3) for name, value in own.items()},
        {"params": (9, 14), "lr_scale": 0.5, "weight_decay": lambda t: 0.25 + t / 32},
        {"params": (14, 16), "frozen": True},
    ]
    changing = cls(start(), **arguments | every, groups=groups)
    groups[1] = {**groups[1], "weight_decay": 0.25}
    numbers = cls(start(), **arguments | {name: at(value, 0) for name, value in every.items()}, groups=groups)
    for t in range(6):
        g = gradients(np.random.default_rng(t), N)
        numbers.hyper.update({name: at(value, t) for name, value in every.items()})
        numbers.groups[2].hyper["weight_decay"] = 0.25 + t / 32
        assert dict(changing.hyper) == dict(numbers.hyper)
        assert [dict(each.hyper) for each in changing.groups] == [dict(each.hyper) for each in numbers.groups]
        changing.step(g)
        numbers.step(g)
        assert_bits(changing.params, numbers.params)
        for name, state in numbers.state.items():
            assert_bits(changing.state[name], state, name)


def test_schedules_are_called_once_per_step_with_the_count_of_the_optimizer() -> None:
    asked: dict[str, list[int]] = {"decay": [], "eps": [], "frozen": []}

    def recording(name: str) -> Callable[[int], float]:
        def number(t: int) -> float:
            asked[name].append(t)
            return 0.5

        return number

    groups = [
        {"params": (0, 3)},
        {"params": (3, 6), "weight_decay": 0.0, "eps": recording("eps")},
        {"params": (6, 9), "frozen": True, "betas": (recording("frozen"), 0.5)},
    ]
    opt = Adam(start(), 0.1, weight_decay=recording("decay"), groups=groups)
    run(opt, 2)
    with pytest.raises(ValueError, match="^grads: "):
        opt.step(ONES[:3])
    opt.step_count = 7
    run(opt, 1)
    assert asked == {"decay": [0, 1, 7], "eps": [0, 1, 7], "frozen": []}
    opt.groups[3].frozen = False
    run(opt, 1)
    assert asked["frozen"] == [8]


WRONG: list[tuple[str, dict[str, Any], Any, type[Exception], str]] = [
    ("nan", {"weight_decay": float("nan")}, None, ValueError, r"weight_decay: expected a finite number >= 0, got nan"),
    ("negative", {"eps": -1.0}, None, ValueError, r"eps: expected a finite number >= 0, got -1\.0"),
    ("one", {"betas": (0.5, 1.0)}, None, ValueError, r"betas\[1\]: expected a number in \[0, 1\), got 1\.0"),
    ("almost one", {"betas": (1 - 2.0**-26, 0.5)}, None, ValueError, r"betas\[0\]: .* becomes 1 in float32"),
    ("overflow", {"eps": 1e39}, None, ValueError, "eps: .* becomes inf in float32"),
    ("complex", {"betas": (0.5, 1j)}, None, TypeError, r"betas\[1\]: expected a number, got complex"),
    ("array", {"eps": ONES}, None, TypeError, "eps: expected a number, got ndarray"),
    ("group", {}, {"weight_decay": "0.1"}, TypeError, r"opt\.groups\[1\]\.weight_decay: expected a number, got str"),
]  # fmt: skip


@pytest.mark.parametrize(("own", "of_group", "error", "words"), [each[1:] for each in WRONG], ids=[each[0] for each in WRONG])  # fmt: skip
def test_a_number_out_of_range(own: Any, of_group: Any, error: type[Exception], words: str) -> None:
    """The message names the argument and the step. Nothing changes, and the same step can be tried again."""
    is_wrong = True

    def sometimes(number: Any) -> Any:
        if isinstance(number, tuple):
            return tuple(map(sometimes, number))
        return (
            number
            if isinstance(number, float) and number == 0.5
            else lambda t: number if is_wrong and t == 2 else 0.25
        )

    arguments = {name: sometimes(value) for name, value in own.items()}
    if of_group is not None:
        arguments["groups"] = [
            {"params": (0, 3)} | {name: sometimes(value) for name, value in of_group.items()}
        ]
    opt = Adam(start(), 0.1, **arguments)
    run(opt, 2)
    before = [np.array(each) for each in (opt.params, *opt.state.values())]
    with pytest.raises(error, match=f"^{words}.* from the schedule at t = 2$"):
        opt.step(ONES)
    for array, former in zip((opt.params, *opt.state.values()), before, strict=True):
        assert_bits(array, former)
    assert opt.step_count == 2
    is_wrong = False
    opt.step(ONES)
    assert opt.step_count == 3


def test_a_callable_that_raises_changes_nothing() -> None:
    def fail(t: int) -> float:
        raise KeyError(t)

    opt = Adam(start(), 0.1, weight_decay=fail)
    for _ in range(2):
        with pytest.raises(KeyError, match="^0$"):
            opt.step(ONES)
    assert_bits(opt.params, start())


def test_numbers_of_other_types_and_tiny_ones_are_accepted() -> None:
    """As in a schedule of rates, a number may round to 0 in float32."""
    for number in (1, np.float32(0.5), np.float64(0.25), 1e-60, np.array(0.5)):
        changing, constant = (
            Adam(start(), 0.1, eps=eps)
            for eps in (lambda _, number=number: number, 0.0 if number == 1e-60 else number)
        )
        run(changing, 2)
        run(constant, 2)
        assert_bits(changing.params, constant.params)


def test_assignments_between_steps() -> None:
    opt = Adam(start(), 0.1, groups=[{"params": (0, 9), "eps": 0.5}])
    opt.hyper["weight_decay"] = COSINE
    opt.hyper.update(betas=(LINEAR, 0.99), eps=lambda t: t / 8)
    opt.groups[1].hyper["weight_decay"] = LINEAR
    opt.step_count = 4
    assert dict(opt.hyper) == {"betas": (LINEAR(4), 0.99), "eps": 0.5, "weight_decay": COSINE(4)}
    assert opt.hyper.schedules["betas"] == (LINEAR, 0.99)
    assert (opt.groups[0].hyper.schedules["weight_decay"], opt.groups[1].hyper.schedules["weight_decay"]) == (
        COSINE,
        LINEAR,
    )
    assert {*opt.groups[1].hyper.schedules} == {"betas", "weight_decay"}
    assert repr(opt.hyper) == repr(dict(opt.hyper))
    opt.hyper["weight_decay"] = 0.25
    assert {*opt.hyper.schedules} == {"betas", "eps"}
    assert opt.groups[1].hyper["weight_decay"] == LINEAR(4)


def test_a_scheduled_momentum_chooses_the_rule_with_momentum() -> None:
    """It may pass 0. A number 0 chooses the rule without, and an assignment across is refused."""
    opt = SGD(start(), 0.1, momentum=schedules.Linear(0.5, end=0.0, steps=2))
    numbers = SGD(start(), 0.1, momentum=0.5)
    assert opt.rule == "sgd_momentum"
    for t in range(4):
        opt.step(ONES)
        if t < 2:
            numbers.hyper["momentum"] = 0.5 - t / 4
            numbers.step(ONES)
            assert_bits(opt.params, numbers.params)
    without = SGD(start(), 0.1)
    for each, value in ((opt, 0.0), (without, COSINE)):
        with pytest.raises(
            ValueError, match="^hyper: momentum cannot change from or to 0, .* with a schedule"
        ):
            each.hyper["momentum"] = value


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: lrcore.NAdam(start(), betas=(COSINE, 0.9)), TypeError, r"^betas\[0\]: expected a number, got Cosine"),
        (lambda: lrcore.NAdam(start(), momentum_decay=COSINE), TypeError, "^momentum_decay: expected a number"),
        (lambda: lrcore.NAdam(start(), groups=[{"params": (0, 3), "betas": (COSINE, 0.9)}]), TypeError, r"^groups\[0\]: betas\[0\]: "),
        (lambda: Adagrad(start(), initial_accumulator_value=COSINE), TypeError, "^initial_accumulator_value: expected a number"),
        (lambda: Adam(start(), amsgrad=COSINE), TypeError, "^amsgrad: expected True or False"),
        (lambda: Adam(start(), eps=schedules.Cosine), TypeError, "^eps: expected .* got the class Cosine itself"),
        (lambda: Adam(start(), betas=COSINE), TypeError, "^betas: expected two numbers, got Cosine"),
        (lambda: Adam(start(), groups=[{"params": (0, 3), "lr_scale": COSINE}]), TypeError, r"^groups\[0\]: lr_scale: expected a number"),
        (lambda: lrcore.functional.adam(start(), ONES, *np.zeros((2, N), np.float32), step=1, lr=0.1, eps=COSINE), TypeError, "^eps: expected a number"),
    ],
)  # fmt: skip
def test_schedules_that_are_refused(make: Callable[[], object], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        make()


WAYS: dict[str, Callable[[Any, Path], Any]] = {
    "copy": lambda opt, _: copy.copy(opt),
    "pickle": lambda opt, _: pickle.loads(pickle.dumps(opt)),
    "load": lambda opt, path: (opt.save(path), lrcore.load(path, opt.params.copy()))[1],
    "dictionary": lambda opt, _: resumed(opt.params.copy(), opt.state_dict()),
}


def changing(params: Any, *numbers: Any) -> Any:
    decay, beta, eps = numbers or (COSINE, LINEAR, COSINE * 1e-6)
    return AdamW(
        params, COSINE, weight_decay=decay, betas=(0.5, beta), groups=[{"params": (0, 9), "eps": eps}]
    )


def resumed(params: Any, dictionary: Any) -> Any:
    opt = changing(params)
    opt.load_state_dict(dictionary)
    return opt


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_run_can_be_resumed_at_any_step(way: Callable[[Any, Path], Any], tmp_path: Path) -> None:
    """The numbers change at steps 9 and 12."""
    opt = changing(start())
    for t in range(20):
        again = way(copy.deepcopy(opt), tmp_path / "state.safetensors")
        assert again.hyper.schedules == opt.hyper.schedules
        assert again.groups[1].hyper.schedules == opt.groups[1].hyper.schedules
        g = gradients(np.random.default_rng(t), N)
        for each in (opt, again):
            each.step(g)
        assert_bits(again.params, opt.params)


def test_a_callable_is_not_stored() -> None:
    """The dictionary of a callable loads into an optimizer that has one in its place."""
    opt = changing(start(), lambda _: 0.5, LINEAR, lambda t: t / 8)
    saved = opt.state_dict()
    assert saved["hyper"]["weight_decay"]["schedule"] is None
    own = changing(start(), decay := lambda _: 0.25, 0.5, eps := lambda _: 1.0)
    own.load_state_dict(saved)
    assert own.hyper.schedules == {"betas": (0.5, LINEAR), "weight_decay": schedules.Function(decay)}
    assert own.groups[1].hyper.schedules["eps"] == schedules.Function(eps)
    for wrong, name in (
        (changing(start(), 0.5, 0.5, eps), "weight_decay"),
        (changing(start(), decay, 0.5, 0.5), "eps"),
    ):
        with pytest.raises(ValueError, match=f"{name}: not stored, because it came from a callable"):
            wrong.load_state_dict(saved)


@pytest.mark.parametrize(
    "change",
    [
        {"eps": COSINE},
        {"betas": (0.5, lambda _: 0.5)},
        {"betas": {"schedule": COSINE.to_dict(), "schedule_state": []}},
        {"weight_decay": {"schedule": 1, "schedule_state": []}},
        {"weight_decay": {"schedule": COSINE.to_dict(), "schedule_state": [1]}},
    ],
)
def test_a_wrong_number_in_a_dictionary_is_refused(change: dict[str, Any]) -> None:
    """State dictionaries have dictionaries in place of schedules; nothing changes."""
    opt = changing(start())
    saved = opt.state_dict()
    wrong = saved | {"hyper": saved["hyper"] | change}
    (name,) = change
    with pytest.raises((TypeError, ValueError), match=f"{name}|schedule"):
        opt.load_state_dict(wrong)
    assert opt.state_dict()["hyper"] == saved["hyper"]


def test_plateaus_of_numbers(tmp_path: Path) -> None:
    """They observe, are listed, and remain one object with that of the rate."""
    plateau = schedules.Plateau(0.5, patience=0, threshold=0)
    opt = AdamW(
        start(), plateau * 0.1, weight_decay=plateau, groups=[{"params": (0, 9), "betas": (plateau, 0.5)}]
    )
    assert schedules.plateaus(opt) == [plateau]
    for _ in range(2):
        plateau.observe(1)
    opt.save(tmp_path / "state.safetensors")
    again = lrcore.load(tmp_path / "state.safetensors", start())
    (carried,) = schedules.plateaus(again)
    assert carried is not plateau
    assert again.hyper["weight_decay"] == opt.hyper["weight_decay"] == plateau(0) < 0.5
    carried.observe(1)
    assert again.lr == 0.1 * again.hyper["weight_decay"] == 0.1 * again.groups[1].hyper["betas"][0]
    opt.load_state_dict(again.state_dict())
    assert schedules.plateaus(opt) == [plateau]
    assert opt.lr == again.lr
    with imitated() as xp, pytest.raises(ValueError, match="^weight_decay: .* Plateau"):
        Adam(xp.array(start()), weight_decay=plateau, grads=xp.array(ONES), capturable=True, max_steps=9)


def test_captured_graphs_use_the_numbers_of_each_step() -> None:
    with imitated() as xp:
        groups = [{"params": (0, 9), "eps": COSINE}]
        arguments: dict[str, Any] = {"weight_decay": COSINE, "betas": (LINEAR, 0.5), "groups": groups}
        opt = Adam(xp.array(start()), 0.1, **arguments, grads=xp.array(ONES), capturable=True, max_steps=6)
        expected = Adam(start(), 0.1, **arguments)
        replay = xp.capture(opt.step)
        for _ in range(5):
            replay()
            expected.step(ONES)
        assert_bits(xp.numpy(opt.params), expected.params)


def test_a_range_test_restores_the_plateau_of_a_number() -> None:
    plateau = schedules.Plateau(0.5, patience=0, threshold=0)
    opt = Adam(start(), 0.1, weight_decay=plateau, grads=ONES.copy())
    plateau.observe(1)

    def closure() -> float:
        plateau.observe(1)
        return 1.0

    lrcore.tune.range_test(opt, closure, steps=5)
    assert plateau.reductions == 0


def test_pytorch_gets_the_numbers_of_the_next_step() -> None:
    pytest.importorskip("torch")
    opt = changing(start())
    run(opt, 3)
    _, group = opt.torch_state_dict()["param_groups"]
    assert group["weight_decay"] == COSINE(3)
    assert group["betas"] == (0.5, LINEAR(3))
    assert group["eps"] == COSINE(3) * 1e-6
    opt.load_torch_state_dict(opt.torch_state_dict())
    assert not opt.hyper.schedules


@pytest.mark.parametrize("name", CLASSES)
def test_every_class_accepts_schedules(name: str) -> None:
    opt = CLASSES[name](start())
    every = scheduled(opt)
    again = CLASSES[name](start(), **every)
    assert {*again.hyper.schedules} >= {"weight_decay"}
    run(again, 2)

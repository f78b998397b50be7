"""The optimizers' Python face: arguments, rate, clock, state, copies."""

from __future__ import annotations

import copy
import gc
import inspect
import pickle
import weakref
from typing import Any

import numpy as np
import pytest

import lrcore
from lrcore import schedules
from lrcore._arguments import NUMBERS, OPTIONS
from support import CLASSES, Array, assert_bits, assert_same, choices, gradients, make

N = 21


def start(n: int = N) -> Array:
    """Give the same parameters every time."""
    return np.random.default_rng(1).standard_normal(n).astype(np.float32)


def run(optimizer: Any, steps: int, seed: int = 2) -> Array:
    """Step on the same gradients every time, chosen by the step number."""
    for _ in range(steps):
        optimizer.step(gradients(np.random.default_rng([seed, optimizer.step_count]), optimizer.size))
    return np.array(optimizer.params)


# Arguments ------------------------------------------------------------------------------------------------------------


def arguments() -> list[tuple[str, str]]:
    """Give every argument of every class that is the rate, a number or an option."""
    taken = [(name, each) for name, cls in CLASSES.items() for each in inspect.signature(cls).parameters]
    return [(name, each) for name, each in taken if each not in ("params", "grads")]


def base(name: str) -> dict[str, Any]:
    """Give arguments under which every other argument has something to act on."""
    parameters = inspect.signature(CLASSES[name]).parameters
    seen = {
        "weight_decay": 0.1,
        "momentum": 0.9,
        "eps": 0.01,
    }  # a smaller epsilon is lost beside these gradients
    return {each: value for each, value in seen.items() if each in parameters}


@pytest.mark.parametrize(("name", "argument"), arguments())
def test_every_argument_acts_or_is_refused(name: str, argument: str) -> None:
    """Changing one changes the result of a few steps, in every combination with the options that is accepted."""
    cls = CLASSES[name]
    default = inspect.signature(cls).parameters[argument].default
    changed: Any
    if isinstance(default, bool):
        changed = not default
    elif isinstance(default, str):
        (changed,) = {"corrected", "hat"} - {default}
    elif isinstance(default, tuple):
        changed = (0.5, 0.7)
    else:
        changed = 0.3
    arguments = base(name)
    steps = 8
    without, with_it = cls(start(), **arguments), cls(start(), **arguments | {argument: changed})
    assert not np.array_equal(run(without, steps), run(with_it, steps))
    for option, values in choices(cls).items():
        if option == argument or len(values) < 2 or not isinstance(values[1], (bool, str)):
            continue
        try:
            pair = [
                cls(start(), **arguments | {option: values[1]} | extra) for extra in ({}, {argument: changed})
            ]
        except ValueError:
            continue
        assert not np.array_equal(run(pair[0], steps), run(pair[1], steps)), f"beside {option}"


BAD_NUMBERS = [np.nan, np.inf, -np.inf, -0.1]
FRACTIONS = {"alpha", "rho", "momentum", "dampening"}


@pytest.mark.parametrize(("name", "argument"), arguments())
def test_numbers_out_of_range(name: str, argument: str) -> None:
    """ValueError that names the argument; TypeError for what is no number."""
    cls = CLASSES[name]
    if argument in OPTIONS:
        expected = ValueError if argument == "eps_placement" else TypeError
        for option in ("yes", 1, None):
            with pytest.raises(expected, match=f"^{argument}: expected"):
                cls(start(), **{argument: option})
        return
    bad: list[Any] = [*BAD_NUMBERS]
    if argument in FRACTIONS:
        bad += [1.0, 1.1]
    if argument in {"alpha", "rho"}:
        bad += [1 - 1e-9]
    if argument in {"lr", "eps", "weight_decay", "lr_decay", "momentum_decay", "initial_accumulator_value"}:
        bad += [1e-50, 1e39]
    if argument == "betas":
        bad = [(value, 0.9) for value in [*BAD_NUMBERS, 1.0, 1.1, 1 - 1e-9]]
        bad += [(0.9, value) for value, _ in bad]
    if argument != "betas":
        bad += [10**400]
    kept = start()
    for value in bad:
        with pytest.raises(ValueError, match=rf"^{argument}(\[[01]\])?: "):
            cls(kept, **base(name) | {argument: value})
    strange = ("0.5", np.str_("0.5"), None, True, np.True_, 1j, np.complex64(1), [0.5], np.ones(3), object())
    for value in strange:
        with pytest.raises(TypeError, match=rf"^{argument}(\[[01]\])?: expected"):
            cls(kept, **base(name) | {argument: value})
    assert_bits(kept, start())


def test_integers_and_scalars_are_numbers() -> None:
    """1 works as 1.0, and so does a NumPy scalar."""
    numbers: dict[str, Any] = {
        "betas": (0, np.float32(0.5)),
        "eps": np.float64(1),
        "weight_decay": np.int64(1),
    }
    ours = lrcore.Adam(start(), lr=1, **numbers)
    theirs = lrcore.Adam(start(), lr=1.0, betas=(0.0, 0.5), eps=1.0, weight_decay=1.0)
    assert_bits(run(ours, 3), run(theirs, 3))


@pytest.mark.parametrize(
    ("cls", "refused", "match"),
    [
        (lrcore.SGD, {"nesterov": True}, "nesterov: .*without momentum"),
        (lrcore.SGD, {"dampening": 0.1}, "dampening: .*without momentum"),
        (lrcore.SGD, {"lr_in_velocity": True}, "lr_in_velocity: .*without momentum"),
        (lrcore.SGD, {"momentum": 0.9, "nesterov": True, "dampening": 0.1}, "nesterov: .*dampening=0"),
        (
            lrcore.SGD,
            {"momentum": 0.9, "lr_in_velocity": True, "dampening": 0.1},
            "lr_in_velocity: .*dampening=0",
        ),
        (lrcore.RMSprop, {"lr_in_velocity": True}, "lr_in_velocity: .*without momentum"),
    ],
)
def test_refused_combinations(cls: type[Any], refused: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=f"^{match}"):
        cls(start(), **refused)


def test_every_argument_has_a_check_and_is_used() -> None:
    """The table of checks holds what the classes take, nothing else."""
    taken = {argument for _, argument in arguments()} - {"lr", "initial_accumulator_value"}
    assert taken == set(NUMBERS) | set(OPTIONS)


# Rate and clock -------------------------------------------------------------------------------------------------------


def test_the_schedule_is_asked_once_a_step_with_the_steps_taken() -> None:
    asked = []

    def rate(t: int) -> float:
        asked.append(t)
        return 0.5

    opt = lrcore.SGD(start(), lr=rate)
    run(opt, 3)
    assert asked == [0, 1, 2]
    assert opt.lr == 0.5
    assert asked == [0, 1, 2, 3]


def test_assigning_the_rate() -> None:
    opt = lrcore.SGD(start(), lr=schedules.Cosine(1.0, steps=10))
    run(opt, 2)
    assert opt.lr == schedules.Cosine(1.0, steps=10)(2)
    opt.lr = 0.25
    assert opt.lr == 0.25
    before = np.array(opt.params)
    opt.step(np.ones(N, np.float32))
    assert_bits(opt.params, before - np.float32(0.25))
    opt.lr = lambda t: t * 1.0
    assert opt.lr == 3
    for bad in (-1.0, np.nan, 1e-50):
        with pytest.raises(ValueError, match="^lr: "):
            opt.lr = bad
    with pytest.raises(TypeError, match="^lr: expected a number"):
        opt.lr = "fast"  # type: ignore[assignment]
    assert opt.lr == 3


@pytest.mark.parametrize(
    ("rate", "error", "match"),
    [
        (
            lambda _: np.nan,
            ValueError,
            "^lr: expected a number >= 0 that is finite in float32, got nan from the schedule at t = 1",
        ),
        (
            lambda _: -1.0,
            ValueError,
            "^lr: expected a number >= 0 that is finite in float32, got -1.0 from the schedule",
        ),
        (
            lambda _: 1e39,
            ValueError,
            r"^lr: expected a number >= 0 that is finite in float32, got 1e\+39 from",
        ),
        (lambda _: "fast", TypeError, "^lr from the schedule: expected a number, got str"),
        (lambda _: None, TypeError, "^lr from the schedule: expected a number, got None"),
        (lambda _: 1 / 0, ZeroDivisionError, "division"),
    ],
)
def test_a_schedule_that_fails(rate: Any, error: type[Exception], match: str) -> None:
    """Nothing is changed and the clock stands still."""
    opt = lrcore.SGD(start(), lr=0.5, momentum=0.9)
    run(opt, 1)
    opt.lr = rate
    before, buffer = np.array(opt.params), np.array(opt.state["momentum_buffer"])
    with pytest.raises(error, match=match):
        opt.step(np.ones(N, np.float32))
    assert_bits(opt.params, before)
    assert_bits(opt.state["momentum_buffer"], buffer)
    assert opt.step_count == 1
    opt.lr = 0.5
    opt.step(np.ones(N, np.float32))
    assert opt.step_count == 2


def test_a_scheduled_rate_may_round_to_zero() -> None:
    opt = lrcore.SGD(start(), lr=lambda _: 1e-60)
    opt.step(np.ones(N, np.float32))
    assert_bits(opt.params, start())


def test_a_schedule_must_not_touch_its_own_optimizer() -> None:
    """It would wait for itself; reading is fine."""
    opt = lrcore.SGD(start(), lr=0.5)
    g = np.ones(N, np.float32)

    def stepping(t: int) -> float:
        assert opt.step_count == t
        opt.step(g)
        return 0.5

    def assigning(_: int) -> float:
        opt.step_count = 9
        return 0.5

    for rate in (stepping, assigning):
        opt.lr = rate
        with pytest.raises(RuntimeError, match="a schedule must not step or change the optimizer"):
            opt.step(g)
    assert opt.step_count == 0
    assert_bits(opt.params, start())


def test_another_optimizer_may_be_stepped_by_a_schedule() -> None:
    other = lrcore.SGD(start(), lr=0.5)

    def rate(_: int) -> float:
        other.step(np.ones(N, np.float32))
        return 0.5

    lrcore.SGD(start(), lr=rate).step(np.ones(N, np.float32))
    assert other.step_count == 1


def test_step_count() -> None:
    opt = lrcore.Adam(start())
    assert opt.step_count == 0
    opt.step_count = 100
    assert opt.step_count == 100
    for bad in (-1, 2**53, 2**70):
        with pytest.raises(
            ValueError, match="^step_count: expected an integer from 0 to 9007199254740991, got"
        ):
            opt.step_count = bad
    for wrong in (1.5, "3", None, True):
        with pytest.raises(TypeError, match="^step_count: expected an integer, got"):
            opt.step_count = wrong  # type: ignore[assignment]
    assert opt.step_count == 100


def test_step_returns_none_and_bound_gradients_are_read_at_every_step() -> None:
    g = np.ones(N, np.float32)
    opt = lrcore.SGD(start(), lr=1.0, grads=g)
    assert opt.step() is None  # type: ignore[func-returns-value]
    g[:] = 2
    opt.step()
    opt.step(np.full(N, 4, np.float32))
    assert_bits(opt.params, start() - np.float32(1) - np.float32(2) - np.float32(4))


# Hyperparameters ------------------------------------------------------------------------------------------------------


def test_hyper_reads_and_assigns() -> None:
    opt = lrcore.Adam(start(), betas=(0.8, 0.9))
    assert dict(opt.hyper) == {"betas": (0.8, 0.9), "eps": 1e-8, "weight_decay": 0.0}
    assert list(opt.hyper) == ["betas", "eps", "weight_decay"]
    opt.hyper["eps"] = 1
    opt.hyper.update(betas=(0.5, 0.6), weight_decay=0.1)
    assert repr(opt.hyper) == "{'betas': (0.5, 0.6), 'eps': 1.0, 'weight_decay': 0.1}"
    assert_bits(run(opt, 3), run(lrcore.Adam(start(), betas=(0.5, 0.6), eps=1.0, weight_decay=0.1), 3))


def test_hyper_refuses() -> None:
    opt = lrcore.SGD(start(), momentum=0.9)
    before = dict(opt.hyper)
    with pytest.raises(ValueError, match="^momentum: expected"):
        opt.hyper.update(weight_decay=0.5, momentum=2)
    with pytest.raises(KeyError, match="betas"):
        opt.hyper["betas"] = (0.1, 0.2)
    with pytest.raises(ValueError, match="change the rule from sgd_momentum to sgd;"):
        opt.hyper["momentum"] = 0
    with pytest.raises(TypeError, match="cannot be removed"):
        del opt.hyper["momentum"]
    with pytest.raises(ValueError, match="change the rule from sgd to sgd_momentum"):
        lrcore.SGD(start()).hyper["momentum"] = 0.5
    with pytest.raises(ValueError, match="^dampening: "):
        lrcore.SGD(start()).hyper["dampening"] = 0.5
    with pytest.raises(AttributeError):
        opt.hyper = {}  # type: ignore[misc, assignment]
    assert dict(opt.hyper) == before


# State ----------------------------------------------------------------------------------------------------------------


def test_state_is_named_flat_and_live(rule: str) -> None:
    opt = make(rule, start().reshape(3, 7))
    assert tuple(opt.state) == lrcore.rules()[rule].states
    for state in opt.state.values():
        assert state.shape == (N,)
        assert state.dtype == np.float32
        assert state.ctypes.data % 64 == 0
        assert not state.any()
    run(opt, 2)
    expected = make(rule, np.array(opt.params))
    expected.step_count = 2
    for name, state in opt.state.items():
        expected.state[name][:] = state
    run(opt, 1)
    run(expected, 1)
    assert_same(opt, np.ravel(expected.params).reshape(3, 7), list(expected.state.values()))
    with pytest.raises(TypeError):
        opt.state["more"] = 1  # type: ignore[index]


def test_initial_accumulator_value() -> None:
    opt = lrcore.Adagrad(start(), initial_accumulator_value=0.1)
    assert_bits(opt.state["sum"], np.full(N, 0.1, np.float32))
    assert "initial_accumulator_value" not in opt.hyper


@pytest.mark.parametrize("k", range(1, 21))
def test_resume_from_a_state_dict(rule: str, k: int) -> None:
    """A fresh object with other numbers and another rate goes on with the bits of the uninterrupted run."""
    cosine = schedules.Cosine(0.02, steps=30)
    opt = make(rule, start(), cosine, weight_decay=0.01)
    run(opt, k)
    saved, params = opt.state_dict(), np.array(opt.params)
    run(opt, 3)

    others: dict[str, Any] = {"betas": (0.5, 0.6)} if "betas" in opt.hyper else {}
    resumed = make(rule, params, 7.0, weight_decay=0.5, **others)
    resumed.load_state_dict(saved)
    assert resumed.step_count == k
    assert resumed.lr == cosine(k)
    run(resumed, 3)
    assert_same(resumed, opt.params, [np.array(state) for state in opt.state.values()])
    assert resumed.lr == opt.lr
    assert dict(resumed.hyper) == dict(opt.hyper)


def test_a_state_dict_is_a_copy() -> None:
    opt = lrcore.Adam(start(), lr=0.1)
    run(opt, 2)
    saved = opt.state_dict()
    kept = np.array(saved["state"]["exp_avg"])
    run(opt, 1)
    assert_bits(saved["state"]["exp_avg"], kept)
    assert saved["step_count"] == 2
    assert saved["schedule"] == {"schedule": "Constant", "lr": 0.1}
    assert set(saved) == {"rule", "options", "hyper", "step_count", "state", "schedule"}


def test_a_callable_is_not_stored_and_the_targets_own_stays() -> None:
    opt = lrcore.Adam(start(), lr=lambda _: 0.1)
    saved = opt.state_dict()
    assert "schedule" not in saved
    target = lrcore.Adam(start(), lr=0.25)
    target.load_state_dict(saved)
    assert target.lr == 0.25


def spoiled() -> list[tuple[Any, Any, str]]:
    """Give state dictionaries with one thing wrong: where, what, and the message."""
    nine = np.zeros(9, np.float32)
    return [
        ("rule", "adamax", "^rule: expected adam, got adamax"),
        ("options", {"decoupled_weight_decay": True, "maximize": False}, "^options: expected"),
        ("options", {}, "^options: expected"),
        ("hyper", {"betas": (0.9, 0.999), "eps": 1e-8}, "^hyper: expected the entries"),
        ("hyper", {"betas": (0.9, 0.999), "eps": np.nan, "weight_decay": 0.0}, "^eps: expected"),
        ("hyper", {"betas": (0.9, 1.0), "eps": 1e-8, "weight_decay": 0.0}, r"^betas\[1\]: expected"),
        ("step_count", -1, "^step_count: expected"),
        ("step_count", 2**53, "^step_count: expected"),
        ("state", {"exp_avg": nine}, "^state: expected the entries"),
        ("state", {"exp_avg": nine, "exp_avg_sq": nine}, "^exp_avg: expected 21 elements"),
        ("state", {"exp_avg": np.zeros(N), "exp_avg_sq": np.zeros(N)}, "^exp_avg: expected dtype float32"),
        ("schedule", {"schedule": "Nothing"}, "^schedule: expected the name"),
        ("schedule", {"schedule": "Cosine", "lr": 1.0, "steps": 0}, "^steps: expected"),
        ("more", 1, "^state_dict: expected the entries"),
        (3, 1, "^state_dict: expected the entries"),
        ("rule", np.array(["adam"]), "^rule: expected adam"),
        ("rule", None, "^rule: expected adam"),
        ("options", None, "^options: expected a dictionary, got NoneType"),
        (
            "options",
            {"decoupled_weight_decay": 0, "maximize": False},
            "^decoupled_weight_decay: expected True or False",
        ),
        ("hyper", ["betas", "eps", "weight_decay"], "^hyper: expected a dictionary, got list"),
        ("hyper", {3: 1, "eps": 1.0}, "^hyper: expected the entries"),
        ("step_count", 2**70, "^step_count: expected an integer from 0"),
        ("step_count", 1.0, "^step_count: expected an integer, got float"),
        ("step_count", True, "^step_count: expected an integer, got bool"),
        ("state", ["exp_avg", "exp_avg_sq"], "^state: expected a dictionary, got list"),
        ("state", {"exp_avg": None, "exp_avg_sq": None}, "^exp_avg: expected a float32 array"),
        ("schedule", None, "^schedule: expected a dictionary, got NoneType"),
    ]


@pytest.mark.parametrize(("entry", "value", "match"), spoiled())
def test_a_wrong_state_dict_changes_nothing(entry: str, value: Any, match: str) -> None:
    opt = lrcore.Adam(start(), lr=0.1)
    run(opt, 2)
    saved = lrcore.Adam(start(), lr=0.3, eps=0.5).state_dict() | {entry: value}
    before, states = np.array(opt.params), [np.array(state) for state in opt.state.values()]
    with pytest.raises((ValueError, TypeError), match=match):
        opt.load_state_dict(saved)
    assert_same(opt, before, states)
    assert (opt.step_count, opt.lr, opt.hyper["eps"]) == (2, 0.1, 1e-8)
    with pytest.raises(TypeError, match="^state_dict: expected a dictionary, got NoneType"):
        opt.load_state_dict(None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected the entries"):
        opt.load_state_dict({name: each for name, each in saved.items() if name != "hyper"})


def test_states_that_trade_places_are_refused() -> None:
    """Each would be read after it was written."""
    opt = lrcore.Adam(start())
    run(opt, 2)
    saved = opt.state_dict()
    states = [np.array(state) for state in opt.state.values()]
    saved["state"] = {"exp_avg": opt.state["exp_avg_sq"], "exp_avg_sq": opt.state["exp_avg"]}
    with pytest.raises(ValueError, match="^exp_avg: shares memory with exp_avg_sq"):
        opt.load_state_dict(saved)
    assert_same(opt, np.array(opt.params), states)
    opt.load_state_dict(saved | {"state": dict(opt.state)})


def test_a_schedule_of_the_callers_own_is_not_stored_and_replaces_none() -> None:
    """Whatever it is called."""
    saved = lrcore.SGD(start(), lr=schedules.Cosine(0.5, steps=9)).state_dict()

    class Cosine(schedules.Schedule):
        def _value(self, t: int) -> float:
            return 999.0 + t

    class Constant(schedules.Constant):
        def _value(self, t: int) -> float:
            return self.lr * (1 + t)

    opt = lrcore.SGD(start(), lr=Cosine())
    assert opt.lr == 999
    assert "schedule" not in opt.state_dict()
    opt.load_state_dict(saved)
    assert opt.lr == 0.5
    own = lrcore.SGD(start(), lr=Constant(0.5))
    run(own, 2)
    assert own.lr == 1.5
    assert "schedule" not in own.state_dict()
    expected = lrcore.SGD(start(), lr=lambda t: 0.5 * (1 + t))
    assert_bits(own.params, run(expected, 2))


# Copies ---------------------------------------------------------------------------------------------------------------


def through_pickle(opt: Any) -> Any:
    """Pickle and unpickle."""
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
    """Parameters and gradients pickled beside their optimizer are the ones that it steps afterwards."""
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
    """Owns an optimizer that asks it for its rate."""

    def __init__(self) -> None:
        self.base = 0.5
        self.opt = Named(start(), lr=self.rate)

    def rate(self, t: int) -> float:
        """Give a rate of this trainer's."""
        return self.base * (1 + t)


class Named(lrcore.Lion):
    """A subclass with a constructor and attributes of its own."""

    def __init__(self, params: Any, lr: Any, name: str = "unnamed") -> None:
        super().__init__(params, lr, betas=(0.5, 0.6))
        self.name = name


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


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, through_pickle])
def test_subclasses_copy_with_their_attributes(copied: Any) -> None:
    opt: Any = Named(start(), 0.1, name="own")
    vars(opt)["seen"] = {3}
    twin = copied(opt)
    assert (twin.name, twin.seen, dict(twin.hyper)) == ("own", {3}, dict(opt.hyper))
    assert type(twin) is Named
    assert opt.rule == "lion"


def test_the_base_is_no_optimizer() -> None:
    with pytest.raises(TypeError, match="^Optimizer is no optimizer by itself"):
        lrcore.Optimizer(start(), 0.1, None)


def test_repr() -> None:
    opt = lrcore.AdamW(start(), lr=schedules.Cosine(0.1, steps=9))
    opt.step_count = 4
    assert repr(opt) == "AdamW(size=21, device=cpu, lr=Cosine(lr=0.1, steps=9, end=0.0), step_count=4)"
    assert repr(lrcore.SGD(start(), lr=0.5)) == "SGD(size=21, device=cpu, lr=0.5, step_count=0)"


def test_an_optimizer_in_a_cycle_with_its_schedule_is_collected() -> None:
    trainer = Trainer()
    trainer.opt.step(np.ones(N, np.float32))
    reference = weakref.ref(trainer)
    del trainer
    gc.collect()
    assert reference() is None

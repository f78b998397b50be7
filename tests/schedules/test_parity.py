"""Against the schedules of PyTorch, optax, Keras and transformers themselves, where they are installed.

Each peer runs in a process of its own. Equal means: the difference at each t, or after each metric, is within the
tolerance. Where a peer differs, a test says at which t, and that everything before and between is equal.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from schedules import peers as schedule_peers
from schedules import plateau_peers
from schedules.peers import DIFFERENCE, Tolerance

TESTS = Path(__file__).resolve().parents[1]
GOLDEN = TESTS / "golden"
NOISE = Tolerance(
    1e-12,
    "of the row's largest rate: float64 on another machine or in another version may round otherwise, by 2^-53 = "
    "1.1e-16, which a chain of rates magnifies; the stored rates and ours are within 4.0e-15",
    of_largest=True,
)
FLOAT32 = Tolerance(
    1e-6, "of the largest rate: float32 rounds by 2^-24 = 6e-8, in several operations", of_largest=True
)

each_row = pytest.mark.parametrize("row", schedule_peers.ROWS, ids=lambda row: f"{row.peer}-{row.theirs}")
each_plateau = pytest.mark.parametrize("row", plateau_peers.ROWS, ids=lambda row: f"{row.peer}-{row}")


def run(command: Sequence[str], given: str = "") -> Any:
    """Run a command in another process that takes text and gives JSON."""
    done = subprocess.run(command, input=given, capture_output=True, check=False, text=True, timeout=600)
    assert done.returncode == 0, f"{' '.join(command)} failed:\n{done.stderr}"
    return json.loads(done.stdout)


def need(peer: str) -> None:
    """Skip the test where the peer is not installed."""
    for package in schedule_peers.PACKAGES[peer]:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: pip install {peer}")


@functools.cache
def run_all(peer: str) -> dict[str, Any]:
    """Run all rows of a peer; the contents of the golden file for it."""
    contents: dict[str, Any] = run(
        [sys.executable, str(GOLDEN / "make_schedules.py"), "--peer", peer, "--output", "-"]
    )
    return contents


def live(table: str, peer: str, name: str) -> list[float]:
    """Return the installed peer's rates, or skip the test where it is not installed."""
    need(peer)
    rates: list[float] = run_all(peer)[table][peer][name]
    return rates


def check_stored(table: str, peer: str, name: str) -> None:
    """Compare what is stored with the installed peer."""
    actual = live(table, peer, name)
    golden = json.loads((GOLDEN / "schedules.json").read_text(encoding="utf-8"))
    known = {package: golden["versions"][package] for package in schedule_peers.PACKAGES[peer]}
    now = run_all(peer)["versions"]
    what = f"{peer}'s {name} under {now} against the stored {known}"
    schedule_peers.check(actual, golden[table][peer][name], NOISE, what)


@each_row
def test_schedule_matches_live_peer(row: schedule_peers.Row) -> None:
    """Our call gives the rates of the installed peer."""
    expected = live("schedules", row.peer, row.theirs)
    ours = schedule_peers.run_lrcore(row.ours, row.steps)
    schedule_peers.check(ours, expected, row.tolerance, f"{row.ours} against {row.peer}'s {row.theirs}")


@each_row
def test_stored_peer_is_live_peer(row: schedule_peers.Row) -> None:
    """The installed peer gives what is stored: a failure says that the peer has changed, or the rows."""
    check_stored("schedules", row.peer, row.theirs)


@each_plateau
def test_plateau_matches_live_peer(row: plateau_peers.Row) -> None:
    """Our call gives the rates of the installed peer after each metric."""
    expected = live("plateaus", row.peer, str(row))
    ours = plateau_peers.run_lrcore(row.ours, plateau_peers.METRICS[row.metrics])
    schedule_peers.check(ours, expected, row.tolerance, f"{row.ours} against {row.peer}'s {row}")


@each_plateau
def test_stored_plateau_is_live_plateau(row: plateau_peers.Row) -> None:
    """The installed peer gives what is stored."""
    check_stored("plateaus", row.peer, str(row))


@dataclass(frozen=True)
class Oddity:
    """Where a peer's call gives other rates than the call of ours that looks like it."""

    claim: str
    peer: str
    theirs: str
    ours: str
    at: Sequence[float]
    """The steps, or the metrics of a plateau."""
    differ: Iterable[int] = ()
    """At which of them the rates differ, as indices; at all others they are equal."""
    raises: str = ""
    """What the peer raises in place of its last rate."""
    tolerance: Tolerance = DIFFERENCE

    @property
    def peers(self) -> ModuleType:
        """The module that runs the calls."""
        return plateau_peers if "lateau" in self.theirs else schedule_peers


CREEPING = [-1.0 + index * 5e-5 for index in range(12)]

ODDITIES: tuple[Oddity, ...] = (
    Oddity(
        "CosineAnnealingLR rises again after its end",
        "torch",
        "CosineAnnealingLR(T_max=10)",
        "Cosine(0.1, 10)",
        range(41),
        differ={*range(11, 41)} - {30},
        tolerance=schedule_peers.CHAIN,
    ),
    Oddity(
        "CosineAnnealingLR is back at its first rate after twice its steps",
        "torch",
        "CosineAnnealingLR(T_max=10)",
        "Constant(0.1)",
        [0, 20, 40],
        tolerance=schedule_peers.CHAIN,
    ),
    Oddity(
        "OneCycleLR rebounds at t = total_steps",
        "torch",
        "OneCycleLR(max_lr=0.1, total_steps=40)",
        "OneCycle(0.1, 40)",
        range(41),
        differ={40},
    ),
    Oddity(
        "OneCycleLR raises after that",
        "torch",
        "OneCycleLR(max_lr=0.1, total_steps=40)",
        "OneCycle(0.1, 40)",
        range(42),
        raises="ValueError: Tried to step 41 times",
    ),
    Oddity(
        "CosineAnnealingWarmRestarts slips where it is told the epoch",
        "torch",
        "ByEpoch(CosineAnnealingWarmRestarts(T_0=1, T_mult=3))",
        "CosineRestarts(0.1, 1, cycle_mult=3)",
        range(300),
        differ={121},
    ),
    Oddity(
        "triangular2 is what it says until cycle 1023",
        "torch",
        "CyclicLR(base_lr=0.01, max_lr=0.1, step_size_up=1, mode='triangular2')",
        "Cyclic(0.01, 0.1, 1, mode='triangular2')",
        range(2048),
    ),
    Oddity(
        "triangular2 overflows at cycle 1024",
        "torch",
        "CyclicLR(base_lr=0.01, max_lr=0.1, step_size_up=1, mode='triangular2')",
        "Cyclic(0.01, 0.1, 1, mode='triangular2')",
        range(2049),
        raises="OverflowError",
    ),
    Oddity(
        "MultiplicativeLR in a SequentialLR goes on from the last rate, not from the optimizer's",
        "torch",
        "SequentialLR([LinearLR(start_factor=0.1, total_iters=5), MultiplicativeLR(lambda t: 0.5)], milestones=[5])",
        "Linear(0.01, 0.1, 5).then(Exponential(0.041, 0.5), at=5)",
        range(20),
    ),
    Oddity(
        "ReduceLROnPlateau takes negative metrics that worsen by little for improvements",
        "torch",
        "ReduceLROnPlateau(patience=5)",
        "Plateau(0.1, patience=5)",
        CREEPING,
        differ=range(6, 12),
    ),
    Oddity(
        "ReduceLROnPlateau skips reductions of less than eps",
        "torch",
        "ReduceLROnPlateau(patience=0)",
        "Plateau(0.1, patience=0)",
        [1.0] * 11,
        differ=range(8, 11),
        tolerance=schedule_peers.PRODUCT,
    ),
    Oddity(
        "a staircase of optax in float32 under jit slips",
        "optax",
        "jitted(exponential_decay(0.1, 41, 0.5, staircase=True))",
        "StepDecay(0.1, 41, factor=0.5)",
        range(170),
        differ={41, 82, 164},
        tolerance=FLOAT32,
    ),
    Oddity(
        "piecewise constants of optax do not slip there",
        "optax",
        "jitted(piecewise_constant_schedule(0.1, {41: 0.5, 2**24 + 1: 0.5}))",
        "PiecewiseConstant([41, 2**24 + 1], [0.1, 0.05, 0.025])",
        [40, 41, 2**24, 2**24 + 1],
        tolerance=FLOAT32,
    ),
    Oddity(
        "sgdr_schedule ends",
        "optax",
        "sgdr_schedule([dict(init_value=0.1, peak_value=0.1, warmup_steps=0, decay_steps=6)] * 2)",
        "CosineRestarts(0.1, 6)",
        range(24),
        differ={*range(12, 24)},
    ),
    Oddity(
        "cosine_onecycle_schedule has its peak one step after OneCycle and its end one step after that of OneCycle",
        "optax",
        "cosine_onecycle_schedule(40, 0.1)",
        "OneCycle(0.1, 40)",
        range(60),
        differ=range(1, 40),
    ),
    Oddity(
        "linear_onecycle_schedule ends at peak_value / div_factor / final_div_factor, not as its docstring says",
        "optax",
        "linear_onecycle_schedule(40, 0.1, div_factor=10, final_div_factor=100)",
        "Constant(0.1 / 10 / 100)",
        [40, 41, 80],
    ),
    Oddity(
        "reduce_on_plateau with patience 0 reduces where a metric improves",
        "optax",
        "reduce_on_plateau(factor=0.5, patience=0)",
        "Plateau(0.1, factor=0.5, patience=0)",
        [3.0, 2.0, 1.0, 1.0, 1.0],
        differ=range(5),
    ),
    Oddity(
        "PiecewiseConstantDecay switches one step after its boundaries",
        "keras",
        "PiecewiseConstantDecay([5, 12], [0.1, 0.05, 0.02])",
        "PiecewiseConstant([5, 12], [0.1, 0.05, 0.02])",
        range(20),
        differ={5, 12},
    ),
    Oddity(
        "CosineDecayRestarts scales the peak but not the floor",
        "keras",
        "CosineDecayRestarts(0.1, 5, m_mul=0.5, alpha=0.1)",
        "CosineRestarts(0.1, 5, cycle_mult=2, peak_mult=0.5, end=0.01)",
        range(35),
        differ={*range(5, 35)},
    ),
    Oddity(
        "CosineDecayRestarts in float32 slips where a cycle begins",
        "keras",
        "float32(CosineDecayRestarts(0.1, 1, t_mul=7.0))",
        "CosineRestarts(0.1, 1, cycle_mult=7)",
        range(100),
        differ={57},
        tolerance=Tolerance(
            1e-5, "of the largest rate: as FLOAT32, where 1 + cos magnifies", of_largest=True
        ),
    ),
    Oddity(
        "a staircase in float32 slips where t has more than 24 bits",
        "keras",
        "float32(InverseTimeDecay(0.1, 1000, 0.001, staircase=True))",
        "InverseTime(0.1, 0.001, 1000, staircase=True)",
        [999, 1000, 16776999, 16777000, 16777999, 16778000],
        differ={4},
        tolerance=FLOAT32,
    ),
    Oddity(
        "get_cosine_schedule_with_warmup climbs back after the end",
        "transformers",
        "get_cosine_schedule_with_warmup(5, 30)",
        "Cosine(0.1, 25).warmup(5, start=0.0)",
        range(61),
        differ={*range(31, 61)},
    ),
    Oddity(
        "and so do those with a least rate",
        "transformers",
        "get_cosine_with_min_lr_schedule_with_warmup(5, 30, min_lr=0.01)",
        "Cosine(0.1, 25, end=0.01).warmup(5, start=0.0)",
        range(61),
        differ={*range(31, 61)},
    ),
    Oddity(
        "where the warm-up has a rate of its own, from num_training_steps on",
        "transformers",
        "get_cosine_with_min_lr_schedule_with_warmup_lr_rate(5, 30, min_lr=0.01)",
        "Constant(0.1).warmup(5).then(Cosine(0.1, 25, end=0.01).shift(1), at=5)",
        range(55),
        differ={*range(30, 55)},
    ),
    Oddity(
        "the hard restarts end",
        "transformers",
        "get_cosine_with_hard_restarts_schedule_with_warmup(5, 35, num_cycles=3)",
        "CosineRestarts(0.1, 10).warmup(5, start=0.0)",
        range(55),
        differ={*range(35, 55)},
    ),
    Oddity(
        "get_inverse_sqrt_schedule is one step late",
        "transformers",
        "get_inverse_sqrt_schedule(10)",
        "InverseSqrt(0.1, 10)",
        range(40),
        differ={*range(40)},
    ),
)

ASK = """
import importlib, json, sys
sys.path.insert(0, sys.argv[1])
answers = []
for module, peer, code, at in json.load(sys.stdin):
    try:
        answers.append(importlib.import_module(module).run_peer(peer, code, at))
    except (ArithmeticError, ValueError) as error:
        answers.append(f"{type(error).__name__}: {error}")
json.dump(answers, sys.stdout)
"""


@functools.cache
def ask_all(peer: str) -> dict[str, Any]:
    """Return what a peer says to all its oddities."""
    odd = [each for each in ODDITIES if each.peer == peer]
    questions = [(each.peers.__name__, peer, each.theirs, [*each.at]) for each in odd]
    answers = run([sys.executable, "-c", ASK, str(TESTS)], json.dumps(questions))
    return {each.claim: answer for each, answer in zip(odd, answers, strict=True)}


@pytest.mark.parametrize("odd", ODDITIES, ids=lambda odd: f"{odd.peer}-{odd.claim}")
def test_oddity(odd: Oddity) -> None:
    """The installed peer differs from our call there and nowhere else, or raises; ours goes on."""
    need(odd.peer)
    theirs = ask_all(odd.peer)[odd.claim]
    ours = odd.peers.run_lrcore(odd.ours, odd.at)
    if odd.raises:
        assert isinstance(theirs, str)
        assert theirs.startswith(odd.raises)
        return
    assert not isinstance(theirs, str), theirs
    allowed = odd.tolerance.limit * max(theirs)
    found = [
        index for index, pair in enumerate(zip(ours, theirs, strict=True)) if abs(pair[0] - pair[1]) > allowed
    ]
    assert found == sorted(odd.differ)

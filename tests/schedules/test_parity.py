"""What is stored of PyTorch, optax, Keras and transformers is what they give, where they are installed.

Our rates are held against what is stored, by test_golden.py. Where a peer differs from us, a test says at which t, and
that everything before and between is equal. Each peer runs in a process of its own.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import re
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
from schedules.peers import Tolerance

pytestmark = pytest.mark.slow  # each peer takes seconds to start
GOLDEN = Path(__file__).resolve().parents[1] / "golden"
NOISE = Tolerance(
    1e-12,
    "of the row's largest rate: float64 on another machine or in another version may round otherwise, by 2^-53 = "
    "1.1e-16, which a chain of rates magnifies; the stored rates and ours are within 4.0e-15",
    of_largest=True,
)
ROWS: list[Any] = [*schedule_peers.ROWS, *plateau_peers.ROWS]


def live(peer: str) -> dict[str, Any]:
    """Return what the installed peer gives, or skip the test where it is not installed."""
    for package in schedule_peers.PACKAGES[peer]:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: pip install {peer}")
    return ask(peer)


ASK = """
import importlib, json, sys
sys.path.insert(0, sys.argv[1])
import make_schedules
contents = make_schedules.collect([sys.argv[2]])
contents["oddities"] = {}
for claim, module, code, at in json.load(sys.stdin):
    try:
        answer = importlib.import_module(module).run_peer(sys.argv[2], code, at)
    except (ArithmeticError, ValueError) as error:
        answer = f"{type(error).__name__}: {error}"
    contents["oddities"][claim] = answer
json.dump(contents, sys.stdout)
"""


@functools.cache
def ask(peer: str) -> dict[str, Any]:
    """Run all rows of a peer, as the golden file has them, and its oddities."""
    odd = [
        (each.claim, each.peers.__name__, each.theirs, [*each.at]) for each in ODDITIES if each.peer == peer
    ]
    command = [sys.executable, "-c", ASK, str(GOLDEN), peer]
    done = subprocess.run(
        command, input=json.dumps(odd), capture_output=True, check=False, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    contents: dict[str, Any] = json.loads(done.stdout)
    return contents


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.peer}-{row}")
def test_stored_peer_is_live_peer(row: Any) -> None:
    """A failure says that the peer has changed, or the rows."""
    contents = live(row.peer)
    golden = json.loads((GOLDEN / "schedules.json").read_text(encoding="utf-8"))
    known = {package: golden["versions"][package] for package in schedule_peers.PACKAGES[row.peer]}
    what = f"{row.peer}'s {row} under {contents['versions']} against the stored {known}"
    stored = golden[row.table][row.peer][str(row)]
    schedule_peers.check(contents[row.table][row.peer][str(row)], stored, NOISE, what)


@dataclass(frozen=True)
class Oddity:
    """Where a peer's call gives other rates than the call of ours that looks like it."""

    peer: str
    claim: str
    theirs: str
    ours: str
    at: Sequence[float]
    """The steps, or the metrics of a plateau."""
    differ: Iterable[int]
    """At which of them the rates differ, as indices; at all others they are equal."""
    raises: str
    """What the peer raises in place of its last rate."""

    @property
    def peers(self) -> ModuleType:
        """The module that runs the calls."""
        return plateau_peers if "lateau" in self.theirs else schedule_peers

    @property
    def limit(self) -> float:
        """The largest difference between equal rates, as a share of the largest rate."""
        if (
            "float32(" in self.theirs or "jitted(" in self.theirs
        ):  # which rounds by 2^-24 = 6e-8, several times
            return 1e-5 if "Cosine" in self.theirs else 1e-6  # 1 + cos magnifies
        return schedule_peers.of_differences(self.theirs).limit


_TABLES = {
    "torch": """
CosineAnnealingLR rises again after its end
    CosineAnnealingLR(T_max=10)
    Cosine(0.1, 10)  # at range(41) but {*range(11, 41)} - {30}
CosineAnnealingLR is back at its first rate after twice its steps
    CosineAnnealingLR(T_max=10)
    Constant(0.1)  # at [0, 20, 40]
OneCycleLR rebounds at t = total_steps
    OneCycleLR(max_lr=0.1, total_steps=40)
    OneCycle(0.1, 40)  # at range(41) but {40}
OneCycleLR raises after that
    OneCycleLR(max_lr=0.1, total_steps=40)
    OneCycle(0.1, 40)  # at range(42) but ValueError: Tried to step 41 times
CosineAnnealingWarmRestarts slips where it is told the epoch
    ByEpoch(CosineAnnealingWarmRestarts(T_0=1, T_mult=3))
    CosineRestarts(0.1, 1, cycle_mult=3)  # at range(300) but {121}
triangular2 is what it says until cycle 1023
    CyclicLR(base_lr=0.01, max_lr=0.1, step_size_up=1, mode='triangular2')
    Cyclic(0.01, 0.1, 1, mode='triangular2')  # at range(2048)
triangular2 overflows at cycle 1024
    CyclicLR(base_lr=0.01, max_lr=0.1, step_size_up=1, mode='triangular2')
    Cyclic(0.01, 0.1, 1, mode='triangular2')  # at range(2049) but OverflowError
MultiplicativeLR in a SequentialLR goes on from the last rate, not from the optimizer's
    SequentialLR([LinearLR(start_factor=0.1, total_iters=5), MultiplicativeLR(lambda t: 0.5)], milestones=[5])
    Linear(0.01, 0.1, 5).then(Exponential(0.041, 0.5), at=5)  # at range(20)
ReduceLROnPlateau takes negative metrics that worsen by little for improvements
    ReduceLROnPlateau(patience=5)
    Plateau(0.1, patience=5)  # at [-1.0 + i * 5e-5 for i in range(12)] but range(6, 12)
ReduceLROnPlateau skips reductions of less than eps
    ReduceLROnPlateau(patience=0)
    Plateau(0.1, patience=0)  # at [1.0] * 11 but range(8, 11)
""",
    "optax": """
a staircase of optax in float32 under jit slips
    jitted(exponential_decay(0.1, 41, 0.5, staircase=True))
    StepDecay(0.1, 41, factor=0.5)  # at range(170) but {41, 82, 164}
piecewise constants of optax do not slip there
    jitted(piecewise_constant_schedule(0.1, {41: 0.5, 2**24 + 1: 0.5}))
    PiecewiseConstant([41, 2**24 + 1], [0.1, 0.05, 0.025])  # at [40, 41, 2**24, 2**24 + 1]
sgdr_schedule ends
    sgdr_schedule([dict(init_value=0.1, peak_value=0.1, warmup_steps=0, decay_steps=6)] * 2)
    CosineRestarts(0.1, 6)  # at range(24) but {*range(12, 24)}
cosine_onecycle_schedule has its peak one step after OneCycle and its end one step after that of OneCycle
    cosine_onecycle_schedule(40, 0.1)
    OneCycle(0.1, 40)  # at range(60) but range(1, 40)
linear_onecycle_schedule ends at peak_value / div_factor / final_div_factor, not as its docstring says
    linear_onecycle_schedule(40, 0.1, div_factor=10, final_div_factor=100)
    Constant(0.1 / 10 / 100)  # at [40, 41, 80]
reduce_on_plateau with patience 0 reduces where a metric improves
    reduce_on_plateau(factor=0.5, patience=0)
    Plateau(0.1, factor=0.5, patience=0)  # at [3.0, 2.0, 1.0, 1.0, 1.0] but range(5)
""",
    "keras": """
PiecewiseConstantDecay switches one step after its boundaries
    PiecewiseConstantDecay([5, 12], [0.1, 0.05, 0.02])
    PiecewiseConstant([5, 12], [0.1, 0.05, 0.02])  # at range(20) but {5, 12}
CosineDecayRestarts scales the peak but not the floor
    CosineDecayRestarts(0.1, 5, m_mul=0.5, alpha=0.1)
    CosineRestarts(0.1, 5, cycle_mult=2, peak_mult=0.5, end=0.01)  # at range(35) but {*range(5, 35)}
CosineDecayRestarts in float32 slips where a cycle begins
    float32(CosineDecayRestarts(0.1, 1, t_mul=7.0))
    CosineRestarts(0.1, 1, cycle_mult=7)  # at range(100) but {57}
a staircase in float32 slips where t has more than 24 bits
    float32(InverseTimeDecay(0.1, 1000, 0.001, staircase=True))
    InverseTime(0.1, 0.001, 1000, staircase=True)  # at [999, 1000, 16776999, 16777000, 16777999, 16778000] but {4}
""",
    "transformers": """
get_cosine_schedule_with_warmup climbs back after the end
    get_cosine_schedule_with_warmup(5, 30)
    Cosine(0.1, 25).warmup(5, start=0.0)  # at range(61) but {*range(31, 61)}
and so do those with a least rate
    get_cosine_with_min_lr_schedule_with_warmup(5, 30, min_lr=0.01)
    Cosine(0.1, 25, end=0.01).warmup(5, start=0.0)  # at range(61) but {*range(31, 61)}
where the warm-up has a rate of its own, from num_training_steps on
    get_cosine_with_min_lr_schedule_with_warmup_lr_rate(5, 30, min_lr=0.01)
    Constant(0.1).warmup(5).then(Cosine(0.1, 25, end=0.01).shift(1), at=5)  # at range(55) but {*range(30, 55)}
the hard restarts end
    get_cosine_with_hard_restarts_schedule_with_warmup(5, 35, num_cycles=3)
    CosineRestarts(0.1, 10).warmup(5, start=0.0)  # at range(55) but {*range(35, 55)}
get_inverse_sqrt_schedule is one step late
    get_inverse_sqrt_schedule(10)
    InverseSqrt(0.1, 10)  # at range(40) but {*range(40)}
""",
}

"""By peer: what is odd; its call; the call of ours that looks like it, where they are compared, and what is different."""

_ODDITY = re.compile(
    r"^(\S.*)\n    (.*)\n    (.*)  # at (.*?)(?: but (\w+Error.*)| but (.*))?$", re.MULTILINE
)

ODDITIES = tuple(
    Oddity(peer, claim, theirs, ours, eval(at), eval(differ or "()"), raises)
    for peer, table in _TABLES.items()
    for claim, theirs, ours, at, raises, differ in _ODDITY.findall(table)
)


@pytest.mark.parametrize("odd", ODDITIES, ids=lambda odd: f"{odd.peer}-{odd.claim}")
def test_oddity(odd: Oddity) -> None:
    """The installed peer differs from our call there and nowhere else, or raises; ours goes on."""
    theirs = live(odd.peer)["oddities"][odd.claim]
    ours = odd.peers.run_lrcore(odd.ours, odd.at)
    if odd.raises:
        assert isinstance(theirs, str)
        assert theirs.startswith(odd.raises)
        return
    assert not isinstance(theirs, str), theirs
    allowed = odd.limit * max(theirs)
    pairs = enumerate(zip(ours, theirs, strict=True))
    assert [index for index, (rate, its) in pairs if abs(rate - its) > allowed] == sorted(odd.differ)

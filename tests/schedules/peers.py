"""Schedules of PyTorch, optax, Keras and transformers: a table of calls, and functions that evaluate them.

Each row pairs a peer's call with a call of ours that gives the same rates, within the row's tolerance. The
rates are compared from t = 0 to the row's end, and for `past` further steps if the peer also holds its last
rate. Calls are written as code. A peer's call leaves out the optimizer, which is an SGD with ``lr=0.1``; its
rate is read before each step.
PyTorch's schedulers are advanced by ``step()`` without an epoch. The peers compute in float64: optax under
``jax.enable_x64``, called with Python integers, and Keras with ``floatx`` float64 on its PyTorch backend; its
NumPy backend computes in float32 regardless of ``floatx``.

Any function of t alone can at least be written as a `Function`. Some of the rows below show calls that have no
other form. The same is true of calls with these arguments: an ``exponent`` of optax that is not a whole number,
or that is not 1 and is combined with an ``alpha`` or ``end_value``; a ``t_mul`` of Keras that is not an integer,
from the first cycle that is not a whole number of steps; and ``num_cycles`` of transformers if the falls and
rises of the cosine do not take whole numbers of steps.

Some calls have no row, because no call here matches them: transformers' ``get_greedy_schedule``, which
raises the rate when a metric improves, and ``get_adafactor_schedule``, which reports the rate that Adafactor
computes by itself; and the momentum that PyTorch's ``CyclicLR`` and ``OneCycleLR`` change along with the rate.
transformers' ``get_scheduler`` returns the other schedules by name, and its ``get_reduce_on_plateau_schedule``
is PyTorch's ``ReduceLROnPlateau``.
"""

from __future__ import annotations

import functools
import importlib
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

LR = 0.1
"""Learning rate of the optimizer that is passed to the schedulers of PyTorch and transformers."""

PACKAGES = {
    "torch": ("torch",),
    "optax": ("optax", "jax"),
    "keras": ("keras", "torch"),
    "transformers": ("transformers", "torch"),
}
"""Distributions whose versions determine a peer's rates."""

PRODUCT = 1e-14
"""Tolerance, relative to the rate itself. Both sides multiply, divide and exponentiate the same numbers in
float64, some of them step by step, and the relative rounding error of each operation is at most 2^-53 =
1.1e-16. The largest difference found is 6.9e-16."""
DIFFERENCE = 1e-14
"""Tolerance, relative to the row's largest rate. In float64, lr - end, 1 - z and 1 + cos(pi z) cancel and leave
the rounding errors of their operands. The largest difference found is 8.3e-16."""
CHAIN = 1e-13
"""Tolerance, relative to the row's largest rate. PyTorch computes each rate from the previous one in float64, so
rounding errors accumulate. Its CosineAnnealingLR magnifies them near the end by dividing by 1 + cos. The largest
difference found is 4.0e-15."""


@dataclass(frozen=True)
class Row:
    """A peer's call, and our call for the same schedule."""

    peer: str
    """Package: a key of `PACKAGES`."""
    theirs: str
    """The peer's call, as code in terms of the peer's names."""
    ours: str
    """The call that gives the same rates, as code in terms of `lrcore.schedules`."""
    steps: Sequence[float]
    """The steps at which the rates are compared, or the metrics that both schedules observe."""
    note: str
    """A remark about the peer, in a sentence, in the first row that it applies to."""
    metrics: str = ""
    """The name of the metrics, if the row is about a plateau."""

    def __str__(self) -> str:
        """Return the name of the row: the peer's call, and the metrics if there are any."""
        return f"{self.theirs} on {self.metrics}" if self.metrics else self.theirs

    @property
    def table(self) -> str:
        """The table of the golden file that contains the row, under its peer and its name."""
        return "plateaus" if self.metrics else "schedules"

    def rates(self) -> list[float]:
        """Return our rates: at each step, or after each metric."""
        schedule = eval(self.ours, dict(vars(importlib.import_module("lrcore.schedules"))))
        rates = []
        for t, metric in zip(range(len(self.steps)) if self.metrics else self.steps, self.steps, strict=True):
            if self.metrics:
                schedule.observe(metric)
            rates.append(schedule(t))
        return rates

    def about(self, theirs: Sequence[float]) -> Any:
        """Return a value that is equal to all rates within the tolerance.

        The tolerance depends on whether we subtract rates, and on whether the peer computes each rate from
        the previous one.
        """
        import pytest  # not needed by the scripts that make pages

        if not re.search("Linear|Polynomial|Cosine|Cycl|WarmupStable", self.ours):
            return pytest.approx(theirs, rel=PRODUCT, abs=0)
        chained = re.search("LinearLR|PolynomialLR|CosineAnnealingLR", self.theirs)
        return pytest.approx(theirs, rel=0, abs=(CHAIN if chained else DIFFERENCE) * max(theirs))


_TABLES = {
    "torch": """
LambdaLR(lambda t: 0.95**t)
    Exponential(0.1, 0.95)  # 40
LambdaLR(lambda t: 1 / (1 + t % 7))
    Function(lambda t: 0.1 / (1 + t % 7))  # 40
LambdaLR(lambda t: 64**-0.5 * min((t + 1) ** -0.5, (t + 1) * 10**-1.5))
    Noam(64, warmup_steps=10, scale=0.1)  # 40
MultiplicativeLR(lambda t: 0.9 if t % 3 == 0 else 1.0)
    Recursive(lambda t, lr: 0.9 * lr if t > 0 and t % 3 == 0 else lr, 0.1)  # 40
    # MultiplicativeLR does not call its function for t = 0; Recursive does.
StepLR(step_size=7)
    StepDecay(0.1, every=7)  # 30
StepLR(step_size=1, gamma=0.97)
    StepDecay(0.1, every=1, factor=0.97)  # 30
MultiStepLR(milestones=[5, 12, 20], gamma=0.5)
    PiecewiseConstant([5, 12, 20], [0.1, 0.05, 0.025, 0.0125])  # 20 + 20
MultiStepLR(milestones=[5, 5, 12])
    PiecewiseConstant([5, 12], [0.1, 0.001, 0.0001])  # 12 + 12
    # A milestone that is listed twice counts twice; boundaries must increase.
ConstantLR()
    PiecewiseConstant([5], [0.1 / 3, 0.1])  # 5 + 5
ConstantLR(factor=0.5, total_iters=8)
    PiecewiseConstant([8], [0.05, 0.1])  # 8 + 8
LinearLR()
    Linear(0.1 / 3, 0.1, steps=5)  # 5 + 5
LinearLR(start_factor=1.0, end_factor=0.2, total_iters=20)
    Linear(0.1, 0.02, steps=20)  # 20 + 20
ExponentialLR(gamma=0.95)
    Exponential(0.1, 0.95)  # 60
PolynomialLR()
    Polynomial(0.1, steps=5)  # 5 + 5
PolynomialLR(total_iters=20, power=2.5)
    Polynomial(0.1, steps=20, power=2.5)  # 20 + 20
CosineAnnealingLR(T_max=30)
    Cosine(0.1, steps=30)  # 30
    # CosineAnnealingLR rises again after T_max, back to the first rate at t = 2 T_max; Cosine holds its last rate.
CosineAnnealingLR(T_max=40, eta_min=0.01)
    Cosine(0.1, steps=40, end=0.01)  # 40
CosineAnnealingLR(T_max=10, eta_min=0.01)
    Sequence([(Cosine(0.1, 10, end=0.01), 10), (Cosine(0.01, 10, end=0.1), 10), Cosine(0.1, 10, end=0.01)])  # 30
    # The sequence reproduces the rise after T_max, and the fall that follows it.
CosineAnnealingWarmRestarts(T_0=10)
    CosineRestarts(0.1, steps=10)  # 40
CosineAnnealingWarmRestarts(T_0=4, T_mult=2, eta_min=0.001)
    CosineRestarts(0.1, steps=4, cycle_mult=2, end=0.001)  # 62
CosineAnnealingWarmRestarts(T_0=1, T_mult=3)
    CosineRestarts(0.1, steps=1, cycle_mult=3)  # 122
    # This holds for step() without an epoch; step(epoch) finds the cycle with a floating-point logarithm, which is wrong at exact powers, for example at t = 121 for T_0=1, T_mult=3.
CyclicLR(base_lr=0.01, max_lr=0.1, step_size_up=5)
    Cyclic(0.01, 0.1, up=5)  # 40
CyclicLR(base_lr=0.01, max_lr=0.1, step_size_up=3, step_size_down=8)
    Cyclic(0.01, 0.1, up=3, down=8)  # 40
CyclicLR(base_lr=0.01, max_lr=0.1, step_size_up=4, step_size_down=1, mode='triangular2')
    Cyclic(0.01, 0.1, up=4, down=1, mode='triangular2')  # 40
    # CyclicLR overflows at cycle 1024; Cyclic underflows to its lower rate.
CyclicLR(base_lr=0.01, max_lr=0.1, step_size_up=5, mode='exp_range', gamma=0.97)
    Cyclic(0.01, 0.1, up=5, mode='exp_range', gamma=0.97)  # 40
CyclicLR(base_lr=0.0, max_lr=0.1, step_size_up=5, scale_fn=lambda cycle: 0.8 ** (cycle - 1))
    Cyclic(0, 0.1, up=5) * StepDecay(1, every=10, factor=0.8)  # 40
    # The product scales the whole rate, but scale_fn scales only the height above base_lr; they agree if base_lr is 0.
OneCycleLR(max_lr=0.1, total_steps=40)
    OneCycle(0.1, steps=40)  # 39
    # By default, OneCycleLR also changes the momentum; pass it cycle_momentum=False to compare.
    # At t = total_steps, OneCycleLR rebounds, and one step later it raises an error; OneCycle holds its last rate.
OneCycleLR(max_lr=0.1, epochs=4, steps_per_epoch=9, pct_start=0.4, div_factor=10, final_div_factor=50)
    OneCycle(0.1, steps=36, pct_start=0.4, div=10, final_div=50)  # 35
OneCycleLR(max_lr=0.1, total_steps=37, anneal_strategy='linear')
    OneCycle(0.1, steps=37, shape='linear')  # 36
OneCycleLR(max_lr=0.1, total_steps=40, three_phase=True)
    OneCycle(0.1, steps=40, three_phase=True)  # 39
OneCycleLR(max_lr=0.1, total_steps=37, pct_start=0.27, anneal_strategy='linear', three_phase=True)
    OneCycle(0.1, steps=37, pct_start=0.27, shape='linear', three_phase=True)  # 36
SequentialLR([LinearLR(start_factor=0.1, total_iters=5), CosineAnnealingLR(T_max=20)], milestones=[5])
    Cosine(0.1, steps=20).warmup(5, start=0.01)  # 25
    # CosineAnnealingLR rises again after T_max, back to the first rate at t = 2 T_max; Cosine holds its last rate.
SequentialLR([ConstantLR(factor=0.5, total_iters=99), ExponentialLR(gamma=0.9)], milestones=[6])
    Constant(0.05).then(Exponential(0.1, 0.9), at=6)  # 30
    # Each part starts from the optimizer's rate, except MultiplicativeLR, which continues from the last rate.
SequentialLR([LinearLR(), StepLR(step_size=4), PolynomialLR(total_iters=6)], milestones=[5, 15])
    Sequence([(Linear(0.1 / 3, 0.1, 5), 5), (StepDecay(0.1, every=4), 10), Polynomial(0.1, 6)])  # 21 + 10
SequentialLR([CyclicLR(base_lr=0.01, max_lr=0.1, step_size_up=3), LambdaLR(lambda t: 1 / (2 + t))], [12])
    Cyclic(0.01, 0.1, up=3).then(Function(lambda t: 0.01 / (2 + t)), at=12)  # 30
    # CyclicLR sets the optimizer's rate to its base_lr, and the second part starts from that.
ChainedScheduler([ConstantLR(factor=0.1, total_iters=5), ExponentialLR(gamma=0.9)])
    Exponential(0.1, 0.9) * PiecewiseConstant([5], [0.1, 1.0])  # 30
ChainedScheduler([LinearLR(start_factor=0.1, total_iters=8), CosineAnnealingLR(T_max=30)])
    Cosine(0.1, steps=30) * Linear(0.1, 1.0, steps=8)  # 30
    # The result is a product if each scheduler multiplies the rate; CyclicLR and OneCycleLR overwrite it instead.
""",
    "optax": """
constant_schedule(0.1)
    Constant(0.1)  # 5
polynomial_schedule(0.1, 0.01, 2.5, 20)
    Polynomial(0.1, 20, power=2.5, end=0.01)  # 20 + 20
polynomial_schedule(0.01, 0.1, 2, 15)
    Polynomial(0.01, 15, power=2, end=0.1)  # 15 + 15
polynomial_schedule(0.1, 0.0, 1, 20, transition_begin=7)
    Polynomial(0.1, 20).warmup(7, start=0.1)  # 27 + 20
polynomial_schedule(0.1, 0.01, 2, 0)
    Constant(0.1)  # 5
linear_schedule(0.1, 0.01, 20)
    Linear(0.1, 0.01, steps=20)  # 20 + 20
linear_schedule(0.0, 0.1, 20, transition_begin=5)
    Constant(0.0).then(Linear(0.0, 0.1, steps=20), at=5)  # 25 + 20
exponential_decay(0.1, 7, 0.5)
    Exponential(0.1, 0.5, steps=7)  # 40
exponential_decay(0.1, 41, 0.5, staircase=True)
    Exponential(0.1, 0.5, steps=41, staircase=True)  # 125
    # This holds for Python integers; in float32 under jit, a staircase can be wrong, for example at t = 41 for 41 transition steps.
exponential_decay(0.1, 7, 0.5, transition_begin=6, staircase=True, end_value=0.02)
    Constant(0.1).then(StepDecay(0.1, every=7, factor=0.5), at=6).clip(0.02, 0.1)  # 30 + 10
exponential_decay(0.1, 10, 1.5, transition_begin=3, end_value=0.3)
    Constant(0.1).then(Exponential(0.1, 1.5, steps=10), at=3).clip(0.0, 0.3)  # 31 + 10
    # end_value is the smallest rate of a falling schedule and the largest rate of a rising one.
cosine_decay_schedule(0.1, 30)
    Cosine(0.1, steps=30)  # 30 + 30
cosine_decay_schedule(0.1, 31, alpha=0.17)
    Cosine(0.1, steps=31, end=0.017)  # 31 + 31
cosine_decay_schedule(0.1, 30, exponent=2)
    Cosine(0.1, steps=30) * Cosine(1.0, steps=30)  # 30 + 10
cosine_decay_schedule(0.1, 30, alpha=0.1, exponent=1.5)
    Function(lambda t: 0.01 + 0.09 * Cosine(1.0, steps=30)(t) ** 1.5)  # 30 + 10
    # Cosine has no exponent; without alpha, a power with a whole exponent is a product of cosines.
cosine_onecycle_schedule(40, 0.1)
    Cosine(0.004, 12, end=0.1).then(Cosine(0.1, 28, end=4e-7), at=12)  # 40 + 20
    # Its phases end at whole steps: at pct_start times transition_steps, and at transition_steps. Those of PyTorch and OneCycle do not.
cosine_onecycle_schedule(37, 0.1, pct_start=0.4, div_factor=10, final_div_factor=100)
    Cosine(0.01, 14, end=0.1).then(Cosine(0.1, 23, end=1e-4), at=14)  # 37 + 10
linear_onecycle_schedule(40, 0.1)
    Sequence([(Linear(0.004, 0.1, 12), 12), (Linear(0.1, 0.004, 22), 22), Linear(0.004, 4e-7, 6)])  # 40 + 20
    # It ends at peak_value / div_factor / final_div_factor, although its docstring says peak_value / final_div_factor.
piecewise_constant_schedule(0.1, {5: 0.5, 12: 0.1, 20: 4.0})
    PiecewiseConstant([5, 12, 20], [0.1, 0.05, 0.005, 0.02])  # 20 + 20
    # Each scale multiplies the previous rate; the values of PiecewiseConstant are rates.
piecewise_interpolate_schedule('linear', 0.1, {5: 0.3, 12: 0.5})
    Linear(0.1, 0.03, steps=5).then(Linear(0.03, 0.015, steps=7), at=5)  # 12 + 12
piecewise_interpolate_schedule('cosine', 0.1, {5: 3.0, 12: 0.5})
    Cosine(0.1, steps=5, end=0.3).then(Cosine(0.3, steps=7, end=0.15), at=5)  # 12 + 12
warmup_constant_schedule(0.01, 0.1, 7)
    Constant(0.1).warmup(7, start=0.01)  # 7 + 7
warmup_cosine_decay_schedule(0.0, 0.1, 5, 30)
    Cosine(0.1, steps=25).warmup(5, start=0.0)  # 30 + 30
    # decay_steps includes the warm-up.
warmup_cosine_decay_schedule(0.02, 0.1, 7, 30, end_value=0.01)
    Cosine(0.1, steps=23, end=0.01).warmup(7, start=0.02)  # 30 + 10
warmup_cosine_decay_schedule(0.0, 0.1, 5, 30, exponent=2.0)
    (Cosine(0.1, steps=25) * Cosine(1.0, steps=25)).warmup(5, start=0.0)  # 30 + 10
warmup_exponential_decay_schedule(0.0, 0.1, 5, 7, 0.5)
    Exponential(0.1, 0.5, steps=7).warmup(5, start=0.0)  # 40
warmup_exponential_decay_schedule(0.01, 0.1, 5, 6, 0.5, 4, staircase=True, end_value=0.02)
    StepDecay(0.1, every=6, factor=0.5).warmup(4, start=0.1).clip(0.02, 0.1).warmup(5, start=0.01)  # 30 + 10
join_schedules([linear_schedule(0.0, 0.1, 8), constant_schedule(0.05), cosine_decay_schedule(0.1, 9)], [8, 12])
    Sequence([(Linear(0.0, 0.1, 8), 8), (0.05, 4), Cosine(0.1, 9)])  # 21 + 10
sgdr_schedule([dict(init_value=0.0, peak_value=p, warmup_steps=2, decay_steps=d, end_value=0.01) for p, d in [(0.1, 6), (0.08, 12), (0.05, 24)]])
    Sequence([(Cosine(0.1, 4, end=0.01).warmup(2, start=0.0), 6), (Cosine(0.08, 10, end=0.01).warmup(2, start=0.0), 12), Cosine(0.05, 22, end=0.01).warmup(2, start=0.0)])  # 42 + 10
    # It takes a list of cycles and holds the last rate of the last cycle; CosineRestarts goes on forever.
""",
    "keras": """
CosineDecay(0.1, 30)
    Cosine(0.1, steps=30)  # 30 + 30
CosineDecay(0.1, 31, alpha=0.17)
    Cosine(0.1, steps=31, end=0.017)  # 31 + 31
CosineDecay(0.01, 30, alpha=0.1, warmup_target=0.1, warmup_steps=7)
    Cosine(0.1, steps=30, end=0.01).warmup(7, start=0.01)  # 37 + 10
    # decay_steps does not include the warm-up, and alpha is a fraction of warmup_target.
CosineDecayRestarts(0.1, 7, t_mul=1.0, m_mul=0.8)
    CosineRestarts(0.1, steps=7, peak_mult=0.8)  # 40
CosineDecayRestarts(0.1, 5, alpha=0.1)
    CosineRestarts(0.1, steps=5, cycle_mult=2, end=0.01)  # 76
    # Keras finds the cycle with a floating-point logarithm, which in float32 is wrong at exact powers, for example at t = 57 for a first cycle of one step and t_mul=7.
CosineDecayRestarts(0.1, 4, t_mul=3.0, m_mul=0.5)
    CosineRestarts(0.1, steps=4, cycle_mult=3, peak_mult=0.5)  # 53
CosineDecayRestarts(0.1, 5, t_mul=2.0, m_mul=0.5, alpha=0.1)
    Sequence([(Cosine(0.1, 5, end=0.01), 5), (Cosine(0.055, 10, end=0.01), 10), Cosine(0.0325, 20, end=0.01)])  # 34
    # m_mul scales the part above the floor alpha, but not the floor, so the peaks are not proportional to powers of m_mul.
CosineDecayRestarts(0.1, 8, t_mul=1.5)
    Sequence([(Cosine(0.1, 8), 8), (Cosine(0.1, 12), 12), Cosine(0.1, 18)])  # 37
    # cycle_mult must be an integer.
ExponentialDecay(0.1, 7, 0.5)
    Exponential(0.1, 0.5, steps=7)  # 40
ExponentialDecay(0.1, 7, 0.5, staircase=True)
    StepDecay(0.1, every=7, factor=0.5)  # 40
    # In float32, a staircase can be wrong if t has more than 24 bits.
InverseTimeDecay(0.1, 7, 0.3)
    InverseTime(0.1, k=0.3, steps=7)  # 40
InverseTimeDecay(0.1, 7, 0.3, staircase=True)
    InverseTime(0.1, k=0.3, steps=7, staircase=True)  # 40
PiecewiseConstantDecay([5, 12, 20], [0.1, 0.05, 0.005, 0.02])
    PiecewiseConstant([6, 13, 21], [0.1, 0.05, 0.005, 0.02])  # 21 + 20
    # PiecewiseConstantDecay switches one step after its boundary; pass it boundaries - 1 to match PiecewiseConstant.
PolynomialDecay(0.1, 30)
    Polynomial(0.1, steps=30, end=1e-4)  # 30 + 30
PolynomialDecay(0.1, 20, end_learning_rate=0.01, power=2.5)
    Polynomial(0.1, steps=20, power=2.5, end=0.01)  # 20 + 20
PolynomialDecay(0.1, 9, end_learning_rate=0.01, power=0.5, cycle=True)
    Polynomial(0.1, steps=9, power=0.5, end=0.01, cycle=True)  # 40
""",
    "transformers": """
get_constant_schedule()
    Constant(0.1)  # 5
get_constant_schedule_with_warmup(7)
    Constant(0.1).warmup(7, start=0.0)  # 7 + 7
    # The first step has the rate 0.
get_linear_schedule_with_warmup(5, 30)
    Linear(0.1, 0.0, steps=25).warmup(5, start=0.0)  # 30 + 30
get_linear_schedule_with_warmup(0, 30)
    Linear(0.1, 0.0, steps=30)  # 30 + 10
get_cosine_schedule_with_warmup(5, 30)
    Cosine(0.1, steps=25).warmup(5, start=0.0)  # 30
    # It rises again after num_training_steps, or earlier if num_cycles is above 0.5; Cosine holds its last rate.
get_cosine_schedule_with_warmup(4, 34, num_cycles=1.5)
    Sequence([(Cosine(0.1, 10).warmup(4, start=0.0), 14), (Cosine(0.0, 10, end=0.1), 10), Cosine(0.1, 10)])  # 34
get_cosine_with_hard_restarts_schedule_with_warmup(5, 30)
    Cosine(0.1, steps=25).warmup(5, start=0.0)  # 30 + 30
get_cosine_with_hard_restarts_schedule_with_warmup(5, 35, num_cycles=3)
    CosineRestarts(0.1, steps=10).warmup(5, start=0.0).then(0.0, at=35)  # 35 + 35
    # It stays at 0 after num_training_steps; CosineRestarts goes on forever.
get_polynomial_decay_schedule_with_warmup(5, 30)
    Polynomial(0.1, steps=25, end=1e-7).warmup(5, start=0.0)  # 30 + 30
get_polynomial_decay_schedule_with_warmup(3, 30, lr_end=0.01, power=2.5)
    Polynomial(0.1, steps=27, power=2.5, end=0.01).warmup(3, start=0.0)  # 30 + 10
get_inverse_sqrt_schedule(10)
    Constant(0.0).then(InverseSqrt(0.1, warmup_steps=10), at=1)  # 40
    # It is one step later than InverseSqrt, which has no first step at rate 0.
get_inverse_sqrt_schedule(6, timescale=20)
    InverseSqrt(0.1, warmup_steps=20).shift(19).warmup(6, start=0.0)  # 40
get_inverse_sqrt_schedule(0)
    InverseSqrt(0.1, warmup_steps=10_000).shift(9_999)  # 40
    # Without a warm-up, its timescale defaults to 10000.
get_cosine_with_min_lr_schedule_with_warmup(5, 30, min_lr=0.01)
    Cosine(0.1, steps=25, end=0.01).warmup(5, start=0.0)  # 30
get_cosine_with_min_lr_schedule_with_warmup(0, 20, num_cycles=1.0, min_lr_rate=0.2)
    Cosine(0.1, steps=10, end=0.02).then(Cosine(0.02, steps=10, end=0.1), at=10)  # 20
get_cosine_with_min_lr_schedule_with_warmup_lr_rate(5, 30, min_lr_rate=0.1)
    Constant(0.1).warmup(5).then(Cosine(0.1, steps=25, end=0.01).shift(1), at=5)  # 29
    # The cosine is one step ahead: it reaches its end at num_training_steps - 1, and then rises again.
get_cosine_with_min_lr_schedule_with_warmup_lr_rate(5, 30, min_lr=0.02, warmup_lr_rate=0.3)
    Linear(0.03, 0.1, steps=4).then(Cosine(0.1, steps=25, end=0.02).shift(1), at=5)  # 29
    # With warmup_lr_rate, the warm-up reaches the full rate in its last step.
get_wsd_schedule(5, 10, num_stable_steps=8)
    WarmupStableDecay(0.1, warmup_steps=0, stable=8, decay=10, shape='cosine').warmup(5, start=0.0)  # 23 + 20
    # Its warm-up rises from min_lr_ratio at t = 0; the warm-up of WarmupStableDecay rises from 1 / warmup_steps.
get_wsd_schedule(5, 12, num_training_steps=25, decay_type='1-sqrt', min_lr_ratio=0.1)
    WarmupStableDecay(0.1, warmup_steps=0, stable=8, decay=12, end=0.01, shape='1-sqrt').warmup(5, start=0.01)  # 25 + 10
get_wsd_schedule(6, 9, num_stable_steps=5, warmup_type='cosine', decay_type='linear', min_lr_ratio=0.2)
    Cosine(0.02, 6, end=0.1).then(WarmupStableDecay(0.1, 0, 5, 9, end=0.02, shape='linear'), at=6)  # 20 + 10
get_wsd_schedule(6, 9, num_stable_steps=5, warmup_type='1-sqrt', num_cycles=1.5)
    Sequence([(Polynomial(0.0, 6, power=0.5, end=0.1), 11), (Cosine(0.1, 3), 3), (Cosine(0.0, 3, end=0.1), 3), Cosine(0.1, 3)])  # 20 + 10
""",
}
"""For each peer, rows of its call; our call, with the last step to compare and the number of further steps; and
perhaps a note."""

_ROW = re.compile(r"^(\S.*)\n    (.*)  # (\d+)(?: \+ (\d+))?(?:\n    # (.*))?$", re.MULTILINE)

ROWS = tuple(
    Row(peer, theirs, ours, range(int(end) + int(past or 0) + 1), note)
    for peer, table in _TABLES.items()
    for theirs, ours, end, past, note in _ROW.findall(table)
)
"""Every schedule of a peer that lrcore can express, with our call for it."""


def run_stepped(module: str, code: str, steps: Sequence[int]) -> list[float]:
    """Return the rates that a scheduler of PyTorch or transformers sets as it is stepped."""
    torch = importlib.import_module("torch")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=LR, momentum=0.9)
    names: dict[str, Any] = {
        name: functools.partial(made, optimizer)
        for name, made in vars(importlib.import_module(module)).items()
        if name.startswith("get_")
        or (isinstance(made, type) and issubclass(made, torch.optim.lr_scheduler.LRScheduler))
    }
    names["ChainedScheduler"] = torch.optim.lr_scheduler.ChainedScheduler
    scheduler = eval(code, names)
    rates = [optimizer.param_groups[0]["lr"]]
    for _ in range(max(steps)):
        optimizer.step()
        scheduler.step()
        rates.append(optimizer.param_groups[0]["lr"])
    return [float(rates[t]) for t in steps]


def run_optax(code: str, steps: Sequence[int]) -> list[float]:
    """Return the rates of an optax schedule, computed in float64 on the CPU."""
    jax = importlib.import_module("jax")
    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
        schedule = eval(code, dict(vars(importlib.import_module("optax.schedules"))))
        return [float(schedule(t)) for t in steps]


def run_keras(code: str, steps: Sequence[int]) -> list[float]:
    """Return the rates of a Keras schedule, computed in float64 on its PyTorch backend."""
    os.environ["KERAS_BACKEND"] = "torch"
    keras = importlib.import_module("keras")
    before = keras.config.floatx()
    keras.config.set_floatx("float64")
    try:
        schedule = eval(code, dict(vars(keras.optimizers.schedules)))
        return [float(schedule(t)) for t in steps]
    finally:
        keras.config.set_floatx(before)


PEERS: dict[str, Callable[[str, Sequence[Any]], list[float]]] = {
    "torch": functools.partial(run_stepped, "torch.optim.lr_scheduler"),
    "optax": run_optax,
    "keras": run_keras,
    "transformers": functools.partial(run_stepped, "transformers.optimization"),
}
"""For each peer, the function that returns the rates of a call. It raises ImportError if the peer is not
installed."""

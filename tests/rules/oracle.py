"""Reference for the update rules, written from their equations and independent of the compiled library.

Each equation is written once, generic over the arithmetic, and is evaluated in three arithmetics:

`Float32`     NumPy float32 arrays, each operation rounded separately, in the written order: the exact bits.
`Arithmetic`  Python floats, one element, step constants not rounded to float32.
`Bound`       pairs of a float64 value and a magnitude S, for ``|float32 - float64| <= k * 2**-24 * S``.

S is the same expression evaluated on absolute values: subtraction adds, and a quotient is |a| / |b|. If a
denominator or the argument of a root has cancelled (its S exceeds its absolute value), this S would be too
small for a bound; `Magnitude.__truediv__` and `Bound.sqrt` describe the larger S that is used instead. No S
is below 2**-126: a rounding errs by at most 2**-24 of its result or, if the result is subnormal, by 2**-150 =
2**-24 * 2**-126, and later operations amplify underflow like any other error. If an S exceeds 2**127, so that
float32 may overflow, or if a denominator does not exceed its own bound, the bound is infinite.

k counts roundings to first order (Higham, Accuracy and Stability of Numerical Algorithms, 2002, chapters
2 and 3); second-order terms are smaller by a factor of k * 2**-24. Inputs count 0 and step constants 1;
``a + b`` and ``a - b`` count max(a, b) + 1, ``a * b`` and ``a / b`` count a + b + 1, ``sqrt(a)`` counts
a / 2 + 1 (a root halves relative errors) and ``max(a, b)`` counts max(a, b); ``abs`` and ``sign`` add
nothing. After the preceding stages, a rule starts with 2 in p (``p * KEEP``) and 3 in g (``g * GSCALE`` 2,
``WD * p`` 2, their sum 3); the comment above each rule continues from there. k is the largest count among p
and the states, rounded up to an integer.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace as Names
from typing import Any, Final, Literal, Required, TypeAlias, TypedDict, Unpack

import numpy as np
import numpy.typing as npt

__all__ = ["RULES", "Decay", "Rule", "averaged", "bounds", "step32", "step64"]

Array: TypeAlias = npt.NDArray[np.float32]
Value: TypeAlias = Any  # a float32 array, a float or a Magnitude: they define + - * /
New: TypeAlias = tuple[Value, list[Value]]  # p and the states after the step
Equations: TypeAlias = Callable[..., New]
Decay: TypeAlias = Literal["l2", "decoupled", "independent"]

UNIT: Final = 2.0**-24
SMALLEST: Final = 2.0**-126
LARGEST: Final = 2.0**127


class Arithmetic:
    """The functions that an equation needs in addition to the operators, on Python floats."""

    def stored(self, state: Value, _least: float, /) -> Value:
        """Return the state as it is stored. Here, states of any size are kept."""
        return state

    def constants(self, **values: float) -> Names:
        return Names(**{name: self.constant(value) for name, value in values.items()})

    def constant(self, x: float) -> Value:
        return x

    def sqrt(self, x: Value) -> Value:
        return math.sqrt(x)

    def abs(self, x: Value) -> Value:
        return abs(x)

    def max(self, a: Value, b: Value) -> Value:
        """Return ``a > b ? a : b``: the second operand if they are equal or either is NaN."""
        return max(b, a)

    def sign(self, x: Value) -> Value:
        """Return the sign of x: 1 or -1, +0 for either zero, or NaN for NaN."""
        return x if math.isnan(x) else float((x > 0) - (x < 0))

    def resolved(self, x: Value) -> Value:
        """Return x; float32 is compared with float64 only if |x| exceeds its own bound."""
        return x


class Float32(Arithmetic):
    def constant(self, x: float) -> Value:
        return np.float32(x)

    def stored(self, state: Value, least: float, /) -> Value:
        return np.where(np.abs(state) < np.float32(least), np.float32(0), state)

    def sqrt(self, x: Value) -> Value:
        return np.sqrt(x)

    def max(self, a: Value, b: Value) -> Value:
        return np.where(a > b, a, b)

    def sign(self, x: Value) -> Value:
        return np.where(x == 0, np.float32(0), np.copysign(np.where(np.isnan(x), x, np.float32(1)), x))


class Magnitude:
    """A float64 `value` and its `size` S; with `unit` = k * 2**-24, the error is at most unit * size."""

    __slots__ = ("size", "unit", "value")

    def __init__(self, value: float, size: float, unit: float) -> None:
        self.value = value
        self.size = max(size, SMALLEST) if size <= LARGEST else math.inf
        self.unit = unit

    def __add__(self, b: Magnitude) -> Magnitude:
        return Magnitude(self.value + b.value, self.size + b.size, self.unit)

    def __sub__(self, b: Magnitude) -> Magnitude:
        return Magnitude(self.value - b.value, self.size + b.size, self.unit)

    def __mul__(self, b: Magnitude) -> Magnitude:
        return Magnitude(self.value * b.value, self.size * b.size, self.unit)

    def __truediv__(self, b: Magnitude) -> Magnitude:
        """With a' and b' in float32, ``a'/b' - a/b = ((a' - a) * b - a * (b' - b)) / (b * b')``."""
        least = abs(b.value) - b.unit * b.size
        if least <= 0:
            return Magnitude(math.nan, math.inf, self.unit)
        size = max(self.size, abs(self.value) * (b.size / abs(b.value))) / least
        return Magnitude(self.value / b.value, size, self.unit)


class Bound(Arithmetic):
    """The arithmetic of magnitudes, for a rule with count `k`; `resolved` updates `comparable`."""

    def __init__(self, k: float) -> None:
        self.unit = k * UNIT
        self.comparable = True

    def constant(self, x: float) -> Value:
        return Magnitude(x, abs(x), self.unit)

    def stored(self, state: Value, least: float, /) -> Value:
        """Return the state; storing it as 0 adds an error of less than `least`."""
        return Magnitude(state.value, state.size + least / self.unit, self.unit)

    def sqrt(self, x: Value) -> Value:
        """With x' in float32, ``|sqrt(x') - sqrt(x)| = |x' - x| / (sqrt(x') + sqrt(x)) <= sqrt(|x' - x|)``.

        The last form is used if x is lost in its rounding errors; with the count c of x, it is
        ``sqrt(c * 2**-24 * S) <= (c / 2 + 1) * 2**-24 * sqrt(S / 2**-24)``.
        """
        lost = math.sqrt(x.size / UNIT)
        roots = math.sqrt(x.value) + math.sqrt(max(0.0, x.value - x.unit * x.size))
        return Magnitude(math.sqrt(x.value), min(2 * x.size / roots, lost) if roots else lost, x.unit)

    def abs(self, x: Value) -> Value:
        return Magnitude(abs(x.value), x.size, x.unit)

    def max(self, a: Value, b: Value) -> Value:
        return Magnitude(max(b.value, a.value), max(a.size, b.size), a.unit)

    def sign(self, x: Value) -> Value:
        return self.constant(float((x.value > 0) - (x.value < 0)))

    def resolved(self, x: Value) -> Value:
        self.comparable = self.comparable and abs(x.value) > x.unit * x.size
        return x


@dataclass(frozen=True)
class Rule:
    """Public names of the states and of the hyperparameters, the k of the error bound, and the equations.

    The equations take the arithmetic, `h` (t, lr and the hyperparameters), p, g and the states in order.
    """

    states: tuple[str, ...]
    hyper: tuple[str, ...]
    k: float
    equations: Equations


RULES: dict[str, Rule] = {}


def register(name: str, states: str, hyper: str, k: float, **form: Any) -> Callable[[Equations], Equations]:
    """Register the decorated equations under `name`, in the form that the keywords choose."""

    def enter(equations: Equations) -> Equations:
        chosen = functools.partial(equations, **form)
        RULES[name] = Rule(tuple(states.split()), tuple(hyper.split()), k, chosen)
        return equations

    return enter


# LR * g 5, p 6.
@register("sgd", "", "", k=6)
def sgd(op: Arithmetic, h: Names, p: Value, g: Value) -> New:
    c = op.constants(LR=h.lr)
    return p - c.LR * g, []


# DAMP * g 5, b 6, LR * b 8, p 9; nesterov: MU * b 8, g + MU * b 9, times LR 11, p 12.
@register("sgd_momentum", "momentum_buffer", "momentum dampening", k=9)
@register("sgd_nesterov", "momentum_buffer", "momentum", k=12, nesterov=True)
def sgd_momentum(op: Arithmetic, h: Names, p: Value, g: Value, b: Value, nesterov: bool = False) -> New:
    c = op.constants(LR=h.lr, MU=h.momentum, DAMP=1.0 if nesterov or h.t == 1 else 1 - h.dampening)
    b = c.MU * b + c.DAMP * g
    return p - c.LR * (g + c.MU * b if nesterov else b), [b]


# LR * g 5, b 6, p 7; nesterov: MU * b 8, MU * b + LR * g 9, p 10.
@register("sgd_velocity", "momentum_buffer", "momentum", k=7)
@register("sgd_nesterov_velocity", "momentum_buffer", "momentum", k=10, nesterov=True)
def sgd_velocity(op: Arithmetic, h: Names, p: Value, g: Value, b: Value, nesterov: bool = False) -> New:
    c = op.constants(LR=h.lr, MU=h.momentum)
    b = c.MU * b + c.LR * g
    return p - (c.MU * b + c.LR * g if nesterov else b), [b]


# Duchi, Hazan & Singer 2011.
# g * g 7, s 8; outside: sqrt 5, d 6, g / d 10, LR * 12, p 13; inside: s + EPS 9, d 5.5, g / d 9.5, p 12.5.
@register("adagrad", "sum", "eps lr_decay", k=13)
@register("adagrad_inside", "sum", "eps lr_decay", k=13, inside=True)
def adagrad(op: Arithmetic, h: Names, p: Value, g: Value, s: Value, inside: bool = False) -> New:
    c = op.constants(LR=h.lr / (1 + (h.t - 1) * h.lr_decay), EPS=h.eps)
    s = s + g * g
    d = op.sqrt(s + c.EPS) if inside else op.sqrt(s) + c.EPS
    return p - c.LR * (g / d), [s]


# Tieleman & Hinton 2012; centered: Graves 2013.
# ONE_MINUS_ALPHA * (g * g) 9, v 10, sqrt 6, d 7, g / d 11, LR * 13, p 14; momentum: b 12, LR * b 14, p 15; velocity:
# b 14, p 15. Centered: a 6, a * a 13, v - a * a 14, so 2 more from d on. Inside: v + EPS 11, so 0.5 less from d on.
def rmsprop(op: Arithmetic, h: Names, p: Value, g: Value, v: Value, *more: Value, form: Sequence[str]) -> New:
    momentum = {"MU": h.momentum} if "momentum" in form or "velocity" in form else {}
    c = op.constants(LR=h.lr, ALPHA=h.alpha, ONE_MINUS_ALPHA=1 - h.alpha, EPS=h.eps, **momentum)
    v = c.ALPHA * v + c.ONE_MINUS_ALPHA * (g * g)
    w, states = v, [v]
    if "centered" in form:
        a = c.ALPHA * more[0] + c.ONE_MINUS_ALPHA * g
        w, states = op.max(op.constant(0.0), op.resolved(v - a * a)), [v, a]
    d = op.sqrt(w + c.EPS) if "inside" in form else op.sqrt(w) + c.EPS
    if "velocity" in form:
        b = c.MU * more[-1] + c.LR * (g / d)
        return p - b, [*states, b]
    if "momentum" in form:
        b = c.MU * more[-1] + g / d
        return p - c.LR * b, [*states, b]
    return p - c.LR * (g / d), states


for form in itertools.product(("", "centered"), ("", "inside"), ("", "momentum", "velocity")):
    register(
        "_".join(["rmsprop", *filter(None, form)]),
        "square_avg" + " grad_avg" * bool(form[0]) + " momentum_buffer" * bool(form[2]),
        "alpha eps" + " momentum" * bool(form[2]),
        k=14 + 2 * bool(form[0]) + bool(form[2]),
        form=form,
    )(rmsprop)


# Zeiler 2012.
# v 10, sqrt(v + EPS) 6.5, sqrt(u + EPS) 2, their quotient 9.5, d 13.5, p 16.5; d * d 28, ONE_MINUS_RHO * 30, u 31.
@register("adadelta", "square_avg acc_delta", "rho eps", k=31)
def adadelta(op: Arithmetic, h: Names, p: Value, g: Value, v: Value, u: Value) -> New:
    c = op.constants(LR=h.lr, RHO=h.rho, ONE_MINUS_RHO=1 - h.rho, EPS=h.eps)
    v = c.RHO * v + c.ONE_MINUS_RHO * (g * g)
    d = (op.sqrt(u + c.EPS) / op.sqrt(v + c.EPS)) * g
    u = c.RHO * u + c.ONE_MINUS_RHO * (d * d)
    return p - c.LR * d, [v, u]


def averaging(h: Names) -> dict[str, float]:
    return {
        "BETA1": h.beta1,
        "ONE_MINUS_BETA1": 1 - h.beta1,
        "BETA2": h.beta2,
        "ONE_MINUS_BETA2": 1 - h.beta2,
    }


def moments(c: Names, g: Value, m: Value, v: Value) -> tuple[Value, Value]:
    return c.BETA1 * m + c.ONE_MINUS_BETA1 * g, c.BETA2 * v + c.ONE_MINUS_BETA2 * (g * g)


# Kingma & Ba 2015; hat: the end of their section 2; amsgrad, with a third state x: Reddi et al. 2018.
# m 6, v 10, x 10, sqrt 6, * ROOT 8, + EPS 9, m / d 16, STEP * 18, p 19.
@register("adam", "exp_avg exp_avg_sq", "beta1 beta2 eps", k=19)
@register("adam_hat", "exp_avg exp_avg_sq", "beta1 beta2 eps", k=19, hat=True)
@register("adam_amsgrad", "exp_avg exp_avg_sq max_exp_avg_sq", "beta1 beta2 eps", k=19)
@register("adam_amsgrad_hat", "exp_avg exp_avg_sq max_exp_avg_sq", "beta1 beta2 eps", k=19, hat=True)
def adam(
    op: Arithmetic, h: Names, p: Value, g: Value, m: Value, v: Value, *x: Value, hat: bool = False
) -> New:
    first, second = 1 - h.beta1**h.t, 1 - h.beta2**h.t
    if hat:
        c = op.constants(**averaging(h), STEP=h.lr * math.sqrt(second) / first, ROOT=1.0, EPS=h.eps)
    else:
        c = op.constants(**averaging(h), STEP=h.lr / first, ROOT=1 / math.sqrt(second), EPS=h.eps)
    return adam_step(op, c, p, g, m, v, *x)


def adam_step(op: Arithmetic, c: Names, p: Value, g: Value, m: Value, v: Value, *x: Value) -> New:
    m, v = moments(c, g, m, v)
    top = [op.max(largest, v) for largest in x]
    return p - c.STEP * (m / (op.sqrt([v, *top][-1]) * c.ROOT + c.EPS)), [m, v, *top]


# Liu et al. 2020.
# As for adam.
@register("radam", "exp_avg exp_avg_sq", "beta1 beta2 eps", k=19)
def radam(op: Arithmetic, h: Names, p: Value, g: Value, m: Value, v: Value) -> New:
    first, second = 1 - h.beta1**h.t, 1 - h.beta2**h.t
    rho_inf = 2 / (1 - h.beta2) - 1
    rho = rho_inf - 2 * h.t * h.beta2**h.t / second
    if rho > 5:
        variance = (rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho)
        step = h.lr * math.sqrt(second) / first * math.sqrt(variance)
        c = op.constants(**averaging(h), STEP=step, ROOT=1.0, EPS=h.eps)
    else:
        c = op.constants(**averaging(h), STEP=h.lr / first, ROOT=0.0, EPS=1.0)
    return adam_step(op, c, p, g, m, v)


def nadam_momentum(h: Names, step: float) -> float:
    return float(h.beta1 * (1 - 0.5 * 0.96 ** (step * h.momentum_decay)))


def nadam_momentum_product(h: Names) -> float:
    """Return the product of the momenta of steps 1 to t; a product below 2**-60 becomes 0."""
    product, step = 1.0, 0
    while product and step < h.t:
        step += 1
        product *= nadam_momentum(h, step)
        product = product if product >= 2.0**-60 else 0.0
    return product


# Dozat 2016.
# sqrt(v) * ROOT + EPS 9, as for adam; CG * g 5, CM * m 8, their sum 9, its quotient 19, p 20.
@register("nadam", "exp_avg exp_avg_sq", "beta1 beta2 eps momentum_decay", k=20)
def nadam(op: Arithmetic, h: Names, p: Value, g: Value, m: Value, v: Value) -> New:
    product, after = nadam_momentum_product(h), nadam_momentum(h, h.t + 1)
    c = op.constants(
        **averaging(h),
        CG=h.lr * (1 - nadam_momentum(h, h.t)) / (1 - product),
        CM=h.lr * after / (1 - product * after),
        ROOT=1 / math.sqrt(1 - h.beta2**h.t),
        EPS=h.eps,
    )
    m, v = moments(c, g, m, v)
    return p - (c.CG * g + c.CM * m) / (op.sqrt(v) * c.ROOT + c.EPS), [m, v]


# Kingma & Ba 2015, section 7.
# m 6; BETA2 * u 2, abs(g) + EPS 4, u 4; m / u 11, STEP * 13, p 14.
@register("adamax", "exp_avg exp_inf", "beta1 beta2 eps", k=14)
def adamax(op: Arithmetic, h: Names, p: Value, g: Value, m: Value, u: Value) -> New:
    c = op.constants(
        BETA1=h.beta1, ONE_MINUS_BETA1=1 - h.beta1, BETA2=h.beta2, EPS=h.eps, STEP=h.lr / (1 - h.beta1**h.t)
    )
    m = c.BETA1 * m + c.ONE_MINUS_BETA1 * g
    u = op.max(c.BETA2 * u, op.abs(g) + c.EPS)
    return p - c.STEP * (m / u), [m, u]


# Chen et al. 2023.
# c 6, m 6; LR * sign(c) 2, p 3.
@register("lion", "exp_avg", "beta1 beta2", k=6)
def lion(op: Arithmetic, h: Names, p: Value, g: Value, m: Value) -> New:
    c = op.constants(LR=h.lr, **averaging(h))
    direction = op.sign(op.resolved(c.BETA1 * m + c.ONE_MINUS_BETA1 * g))
    return p - c.LR * direction, [c.BETA2 * m + c.ONE_MINUS_BETA2 * g]


class Options(TypedDict, total=False):
    """Step number from 1, scheduled learning rate, hyperparameters, and the stages around every rule.

    The stage `store` is on by default: a state below 2**-126 becomes +0 after p has been computed from it.
    With an eps below 1e-10, the state is kept.
    """

    t: Required[int]
    lr: Required[float]
    hyper: Required[Mapping[str, float]]
    weight_decay: float
    decay: Decay
    maximize: bool
    grad_scale: float
    store: bool


def step(op: Arithmetic, rule: str, p: Value, g: Value, states: Sequence[Value], options: Options) -> New:
    hyper = {name: float(options["hyper"][name]) for name in RULES[rule].hyper}
    lr, weight_decay = float(options["lr"]), float(options.get("weight_decay", 0.0))
    decay, scale = options.get("decay", "l2"), float(options.get("grad_scale", 1.0))
    keep = {"l2": 1.0, "decoupled": 1 - lr * weight_decay, "independent": 1 - weight_decay}[decay]
    g = g * op.constant(-scale if options.get("maximize", False) else scale)
    if weight_decay != 0 and decay == "l2":
        g = g + op.constant(weight_decay) * p
    p = p * op.constant(keep)
    p, states = RULES[rule].equations(op, Names(t=float(options["t"]), lr=lr, **hyper), p, g, *states)
    least = 0.0 if hyper.get("eps", 1.0) < 1e-10 or not options.get("store", True) else SMALLEST
    return p, [op.stored(state, least) for state in states]


def step32(
    rule: str, p: Array, g: Array, states: Sequence[Array], **options: Unpack[Options]
) -> tuple[Array, list[Array]]:
    """Return p and the states after a step, as one-dimensional float32 arrays; the inputs are unchanged."""
    with np.errstate(all="ignore"):
        return step(Float32(), rule, p, g, states, options)


def averaged(e: Array, p: Array, ema: float) -> Array:
    """Return the average of the parameters after a step, from the average `e` before it and the parameters `p` after it."""
    with np.errstate(all="ignore"):
        return e + np.float32(1 - ema) * (p - e)


def step64(
    rule: str, p: float, g: float, states: Sequence[float], **options: Unpack[Options]
) -> tuple[float, list[float]]:
    """Return p and the states of one element after a step in float64; small states are kept.

    The inputs must be finite, and second moments >= 0. Raises `ZeroDivisionError` if a denominator is 0, for
    example if eps is 0 and every gradient was 0; `step32` then returns the result of IEEE arithmetic.
    """
    return step(Arithmetic(), rule, p, g, states, options)


def bounds(
    rule: str, p: float, g: float, states: Sequence[float], **options: Unpack[Options]
) -> tuple[float, list[float], bool]:
    """Return the bounds on ``|step32 - step64|`` for p and each state, and whether p can be compared.

    The inputs are those of `step64`. If the argument of Lion's sign or the variance of centered RMSprop is
    below its own bound, p and the momentum buffer cannot be compared. If float32 may overflow or a
    denominator may vanish, the bound is infinite.
    """
    op = Bound(RULES[rule].k)
    start = [op.constant(x) for x in states]
    new, new_states = step(op, rule, op.constant(p), op.constant(g), start, options)
    return op.unit * new.size, [op.unit * x.size for x in new_states], op.comparable

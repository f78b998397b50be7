"""Schedules that decay, most of them to a final rate that they then hold."""

from __future__ import annotations

import dataclasses
import functools
from math import cos, exp, pi
from typing import ClassVar

from lrcore._checks import num_steps
from lrcore._names import explain_keywords
from lrcore.schedules._base import Checked


@explain_keywords
@dataclasses.dataclass(frozen=True, repr=False)
class Exponential(Checked):
    """Decay exponentially, by the factor `rate` every `steps` steps. There is no final rate.

    ::

        smooth       s(t) = lr rate^(t / steps)
        staircase    s(t) = lr rate^floor(t / steps)

    Parameters
    ----------
    lr : float
        The rate at t = 0.
    rate : float
        Factor by which the learning rate is multiplied every `steps` steps, > 0.
    steps : int
        Number of steps in which the learning rate is multiplied by `rate`. With 1, this is the textbook form ``lr rate^t``.
    staircase : bool
        Whether to take the floor of the exponent.

    References
    ----------
    Senior et al. 2013, "An Empirical Study of Learning Rates in Deep Neural Networks for Speech Recognition",
    section 2.1. The arguments correspond to those of Keras' ``ExponentialDecay``.

    Examples
    --------
    >>> halving = Exponential(0.1, rate=0.5, steps=10)
    >>> halving(0), halving(10), halving(20)
    (0.1, 0.05, 0.025)
    >>> round(halving(5), 4)  # 0.1 / sqrt(2)
    0.0707
    """

    lr: float
    rate: float
    steps: int = 1
    staircase: bool = False

    def _value(self, t: int) -> float:
        return self.lr * self._power(self.rate, t // self.steps if self.staircase else t / self.steps, t)


@explain_keywords
@dataclasses.dataclass(frozen=True, repr=False)
class NaturalExponential(Checked):
    """Decay exponentially with the decay constant `k`. There is no final rate.

    ::

        s(t) = lr e^(-k t)

    Parameters
    ----------
    lr : float
        The rate at t = 0.
    k : float
        Decay constant, >= 0.

    References
    ----------
    TensorFlow 1's ``natural_exp_decay`` has this form.

    Examples
    --------
    >>> fall = NaturalExponential(0.1, k=0.01)
    >>> fall(0), round(fall(100), 4)  # 0.1 / e
    (0.1, 0.0368)
    """

    lr: float
    k: float

    def _value(self, t: int) -> float:
        return self.lr * exp(-self.k * t)


@explain_keywords
@dataclasses.dataclass(frozen=True, repr=False)
class InverseTime(Checked):
    """Divide `lr` by a linearly growing number. There is no final rate.

    ::

        smooth       s(t) = lr / (1 + k t / steps)
        staircase    s(t) = lr / (1 + k floor(t / steps))

    Parameters
    ----------
    lr : float
        The rate at t = 0.
    k : float
        Growth of the denominator in `steps` steps, >= 0.
    steps : int
        Number of steps in which the denominator grows by `k`.
    staircase : bool
        Whether to take the floor of ``t / steps``.

    References
    ----------
    Darken & Moody 1991, "Note on Learning Rate Schedules for Stochastic Optimization": ``lr / (1 + t / tau)``. The
    arguments correspond to those of Keras' ``InverseTimeDecay``.

    Examples
    --------
    >>> fall = InverseTime(0.1, k=1, steps=10)
    >>> fall(0), fall(10), fall(30)
    (0.1, 0.05, 0.025)
    """

    lr: float
    k: float
    steps: int = 1
    staircase: bool = False

    def _value(self, t: int) -> float:
        if self.staircase:
            return self.lr / (1 + self.k * (t // self.steps))
        return self.lr / (1 + self.k * t / self.steps)


@explain_keywords
@dataclasses.dataclass(frozen=True, repr=False)
class Linear(Checked):
    """Change linearly from `lr` to `end`, then hold `end`.

    ::

        z = min(t, steps) / steps
        s(t) = lr + (end - lr) z

    Parameters
    ----------
    lr : float
        The rate at t = 0.
    end : float
        The final rate.
    steps : int
        Number of steps until the rate is `end`.

    References
    ----------
    Goodfellow, Bengio & Courville 2016, "Deep Learning", section 8.3.1.

    Examples
    --------
    >>> line = Linear(0.1, 0.0, steps=10)
    >>> line(0), line(5), line(10), line(1000)
    (0.1, 0.05, 0.0, 0.0)
    """

    lr: float
    end: float
    steps: int

    def _value(self, t: int) -> float:
        return self.lr + (self.end - self.lr) * (t / self.steps) if t < self.steps else self.end


@explain_keywords
@dataclasses.dataclass(frozen=True, repr=False)
class Polynomial(Checked):
    """Decay from `lr` to `end` as a power of the remaining steps, then hold `end`.

    ::

        z = min(t, steps) / steps
        s(t) = (lr - end) (1 - z)^power + end

    Parameters
    ----------
    lr : float
        The rate at t = 0.
    steps : int
        Number of steps until the rate is `end`.
    power : float
        Exponent, >= 0.
    end : float
        The final rate.
    cycle : bool
        Whether to replace `steps` by its smallest positive multiple that is at least t, instead of holding `end`.

    References
    ----------
    Chen et al. 2018, "DeepLab: Semantic Image Segmentation with Deep Convolutional Nets, Atrous Convolution,
    and Fully Connected CRFs", the "poly" policy, with power 0.9. `cycle` works as in Keras'
    ``PolynomialDecay``.

    Examples
    --------
    >>> square = Polynomial(0.4, steps=10, power=2)
    >>> square(0), square(5), square(10)
    (0.4, 0.1, 0.0)
    >>> cycling = Polynomial(0.4, steps=10, cycle=True)
    >>> cycling(5), cycling(10), cycling(15)
    (0.2, 0.0, 0.1)
    """

    lr: float
    steps: int
    power: float = 1.0
    end: float = 0.0
    cycle: bool = False

    def _value(self, t: int) -> float:
        if self.cycle:
            z = t / (self.steps * max(1, -(-t // self.steps)))
        else:
            z = t / self.steps if t < self.steps else 1.0
        return (self.lr - self.end) * float((1 - z) ** self.power) + self.end


@explain_keywords
@dataclasses.dataclass(frozen=True, repr=False)
class PolynomialProduct(Checked):
    """Decay from `lr` to 0 as a product of two powers, then hold 0.

    ::

        t < steps - 1    s(t) = lr (1 - t / steps)^power (1 - t / (steps - 1))^power2
        else             s(t) = 0

    Parameters
    ----------
    lr : float
        The rate at t = 0.
    steps : int
        Number of steps, >= 2. The rate is 0 from ``t = steps - 1`` on.
    power, power2 : float
        Exponents, >= 0.

    References
    ----------
    None known. This is the product of two `Polynomial` decays, the second of which ends one step earlier.

    Examples
    --------
    >>> fall = PolynomialProduct(0.1, steps=5, power=1, power2=1)
    >>> fall(0), fall(4)
    (0.1, 0.0)
    >>> round(fall(2), 4)  # 0.1 * 0.6 * 0.5
    0.03
    """

    lr: float
    steps: int
    power: float
    power2: float

    _checks: ClassVar = {"steps": functools.partial(num_steps, least=2)}

    def _value(self, t: int) -> float:
        if t >= self.steps - 1:
            return 0.0
        return self.lr * float((1 - t / self.steps) ** self.power * (1 - t / (self.steps - 1)) ** self.power2)


@explain_keywords
@dataclasses.dataclass(frozen=True, repr=False)
class Cosine(Checked):
    """Decay from `lr` to `end` along half a cosine, then hold `end`.

    ::

        z = min(t, steps) / steps
        s(t) = end + (lr - end) (1 + cos(pi z)) / 2

    Parameters
    ----------
    lr : float
        The rate at t = 0.
    steps : int
        Number of steps until the rate is `end`.
    end : float
        The final rate.

    References
    ----------
    Loshchilov & Hutter 2017, "SGDR: Stochastic Gradient Descent with Warm Restarts": one cycle of their schedule.

    Examples
    --------
    >>> fall = Cosine(0.1, steps=10)
    >>> fall(0), fall(5), fall(10), fall(1000)
    (0.1, 0.05, 0.0, 0.0)
    """

    lr: float
    steps: int
    end: float = 0.0

    def _value(self, t: int) -> float:
        z = t / self.steps if t < self.steps else 1.0
        return self.end + (self.lr - self.end) * (1 + cos(pi * z)) / 2


@explain_keywords
@dataclasses.dataclass(frozen=True, repr=False)
class Rex(Checked):
    """Decay from `lr` to `end`, slowly at first and steeply towards the end, then hold `end`.

    ::

        z = min(t, steps) / steps
        s(t) = end + (lr - end) (1 - z) / (1 - z / 2)

    Parameters
    ----------
    lr : float
        The rate at t = 0.
    steps : int
        Number of steps until the rate is `end`.
    end : float
        The final rate.

    References
    ----------
    Chen et al. 2021, "REX: Revisiting Budgeted Training with an Improved Schedule".

    Examples
    --------
    >>> fall = Rex(0.3, steps=10)
    >>> fall(0), round(fall(5), 4), fall(10)  # 0.3 * 0.5 / 0.75
    (0.3, 0.2, 0.0)
    """

    lr: float
    steps: int
    end: float = 0.0

    def _value(self, t: int) -> float:
        z = t / self.steps if t < self.steps else 1.0
        return self.end + (self.lr - self.end) * (1 - z) / (1 - z / 2)

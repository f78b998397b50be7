"""The optimizers. Each class documents its arguments and their defaults; the equations are implemented in C++.

Arrays passed to a constructor stay bound to the optimizer. Before each step, the address and size of every bound NumPy
array and PyTorch tensor are compared with those at construction. If the memory has been replaced
(``tensor.data = ...``, ``set_``, ``resize_``, ``share_memory_``, ``ndarray.resize``), the step raises RuntimeError and
writes nothing; in that case, make a new optimizer. A memory map or shared memory under a bound array cannot be closed
while the optimizer lives: its ``close()`` raises BufferError. Two cases cannot be detected. The map under a PyTorch
tensor (``torch.from_numpy(memmap)``, ``torch.frombuffer``) can be closed, so keep it open yourself. An array that
shares a tensor's memory (``np.from_dlpack(tensor)``, ``tensor.numpy()``) keeps the old memory when the tensor is given
new memory; bind the tensor itself instead.

An optimizer may be read, saved, copied, pickled and assigned to at any time: by another thread, by a signal handler, by
a finalizer, and while its own schedule is being called. A schedule is called once before a step begins. It is called
again only if the step count or the schedule has been changed in the meantime. If a schedule steps the optimizer that is
calling it, RuntimeError is raised.

Invalid arrays raise the errors that `Stepper.step` documents. Numbers out of range and unknown values of `decay` or
`eps_placement` raise ValueError. All other values of a wrong type raise TypeError. In the equations, ``g``, ``p`` and
``t`` are the gradient, the parameter and the step number, counted from 1; every operation is rounded to float32
separately. `lrcore.functional` has each optimizer as a function.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lrcore import _names
from lrcore.optimizers._base import Optimizer
from lrcore.optimizers.adadelta import Adadelta
from lrcore.optimizers.adagrad import Adagrad
from lrcore.optimizers.adam import Adam, AdamW
from lrcore.optimizers.adamax import Adamax
from lrcore.optimizers.lion import Lion
from lrcore.optimizers.nadam import NAdam
from lrcore.optimizers.radam import RAdam
from lrcore.optimizers.rmsprop import RMSprop
from lrcore.optimizers.sgd import SGD

__all__ = [
    "SGD",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Lion",
    "NAdam",
    "Optimizer",
    "RAdam",
    "RMSprop",
]

if not TYPE_CHECKING:  # with __getattr__, type checkers would accept every name
    __getattr__, __dir__ = _names.public_face(__name__)

"""The optimizers. Each class names its arguments, their defaults and what they mean; the equations are in C++.

Arrays that are bound stay bound. Before each step their address and size are compared with those at construction, for
arrays of NumPy and tensors of torch: memory that has been replaced since (``tensor.data = ...``, ``set_``, ``resize_``,
``share_memory_``, ``ndarray.resize``) is a RuntimeError, and nothing has been written. Make a new optimizer then. A map or
shared memory under a bound array cannot be closed while the optimizer lives: its ``close()`` raises BufferError. What nobody
can see: the map under a torch tensor (``torch.from_numpy(memmap)``, ``torch.frombuffer``), which you keep open yourself, and
an array that hands on a tensor's memory (``np.from_dlpack(tensor)``, ``tensor.numpy()``) once the tensor gets other memory:
bind the tensor itself.

An optimizer may be read, saved, copied, pickled and assigned to at any moment: by another thread, by a signal handler, by a
finalizer, and while its own schedule is being called. A schedule is called before the step begins, and once more only if
the step count or the schedule has been replaced meanwhile. It must not step the optimizer that calls it: RuntimeError.

Wrong arrays raise what `Stepper.step` says; numbers out of range raise ValueError, other types TypeError.
``g``, ``p`` and ``t`` in the equations are the gradient, the parameter and the number of the step, from 1; every
operation is rounded to float32 by itself. `lrcore.functional` has each of these as a function.
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

if not TYPE_CHECKING:  # type checkers know the names that there are
    __getattr__, __dir__ = _names.public_face(__name__)

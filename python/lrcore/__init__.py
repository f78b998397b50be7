"""The optimizer step as a library: fused, in place, bitwise identical on every backend.

Optimizers     SGD, Adagrad, RMSprop, Adadelta, Adam, AdamW, NAdam, RAdam, Adamax, Lion: help(lrcore.Adam)
Rates          a number, a callable, or one of lrcore.schedules
Flat buffers   Pack: named and nested views of one buffer; Adam(pack, grads=grads); pack.save(), Pack.from_file()
Groups         groups=[{"params": "head.*", "lr_scale": 10.0}], decay_groups(), opt.groups: own settings for some arrays
Functions      lrcore.functional: the same steps as functions on state that you keep
Sums           norm(x), dot(x, y), pack.norms(): float64, bitwise identical on every backend
Finding a rate lrcore.tune: range test, diagnosis, search; lrcore.plot: figures
Resuming       opt.save(), lrcore.load(), or opt.state_dict(), opt.load_state_dict(); save the parameters separately
PyTorch        lrcore.torch.FusedOptimizer(model.parameters(), lrcore.AdamW): a torch.optim.Optimizer
From PyTorch   opt.load_torch_state_dict(), opt.torch_state_dict()
Runtime        rules(), backends(), use_backend(), set_num_threads(), info()
CUDA           device arrays are stepped on their device, on the current stream; capturable=True for CUDA graphs

>>> import lrcore, numpy
>>> params, grads = numpy.ones(3, numpy.float32), numpy.ones(3, numpy.float32)
>>> opt = lrcore.SGD(params, lr=0.5)
>>> opt.step(grads)
>>> params
array([0.5, 0.5, 0.5], dtype=float32)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

try:
    import lrcore._interpreter  # noqa: F401 its check must run before the core is loaded
    from lrcore import _names, functional, optimizers, plot, schedules, tune
except ModuleNotFoundError as error:
    if error.name != "lrcore._lrcore_core":
        raise
    raise ImportError(
        f"{error.name}: expected the compiled extension, got none in {__path__[0]}; "
        "if that is the source tree, run `pip install .` in its root, and start Python in another directory"
    ) from error

from lrcore._lrcore_core import build_info as _build_info
from lrcore._runtime import (
    Rule,
    backends,
    info,
    register_threadpoolctl,
    rules,
    set_num_threads,
    use_backend,
)
from lrcore._sums import dot, norm
from lrcore.optimizers import *
from lrcore.optimizers._decay_groups import decay_groups
from lrcore.optimizers._load import load
from lrcore.pack import Pack

__all__ = [
    "Pack",
    "Rule",
    "backends",
    "decay_groups",
    "dot",
    "functional",
    "info",
    "load",
    "norm",
    "optimizers",
    "plot",
    "register_threadpoolctl",
    "rules",
    "schedules",
    "set_num_threads",
    "tune",
    "use_backend",
]
__all__ += optimizers.__all__

__version__: str = _build_info()["version"]

if TYPE_CHECKING:  # with __getattr__, type checkers would accept every name
    from lrcore import torch as torch
else:
    __getattr__, __dir__ = _names.public_face(__name__, "torch")

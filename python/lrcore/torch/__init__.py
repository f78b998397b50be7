"""Step all parameters of a PyTorch module in one call. Requires ``pip install "lrcore[torch]"``.

::

    import lrcore.torch

    opt = lrcore.torch.FusedOptimizer(model.parameters(), lrcore.AdamW, lr=1e-3)
    for x, y in data:
        opt.zero_grad()
        loss(model(x), y).backward()
        opt.step()

Importing this module imports PyTorch; importing `lrcore` does not.
"""

from lrcore._lrcore_core import join_openmp
from lrcore.torch._decay_groups import decay_groups
from lrcore.torch._follow import FollowSchedules
from lrcore.torch._fused import FusedOptimizer

__all__ = ["FollowSchedules", "FusedOptimizer", "decay_groups"]

join_openmp()  # PyTorch's threads do the large steps; see csrc/cpu/openmp.h

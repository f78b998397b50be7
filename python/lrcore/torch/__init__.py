"""Stepping the parameters of a PyTorch module in one call: ``pip install "lrcore[torch]"``.

::

    import lrcore.torch

    opt = lrcore.torch.FusedOptimizer(model.parameters(), lrcore.AdamW, lr=1e-3)
    for x, y in data:
        opt.zero_grad()
        loss(model(x), y).backward()
        opt.step()

PyTorch is imported with this module and not with `lrcore`.
"""

from lrcore.torch._fused import FusedOptimizer

__all__ = ["FusedOptimizer"]

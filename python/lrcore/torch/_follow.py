"""A PyTorch scheduler for tools that require one, although the optimizer has schedules of its own."""

from __future__ import annotations

from typing import Any

from lrcore._extras import optional_dependency
from lrcore._names import explain_keywords
from lrcore.torch._fused import FusedOptimizer

with optional_dependency("torch"):
    import torch


class FollowSchedules(torch.optim.lr_scheduler.LRScheduler):  # type: ignore[misc]
    """The rates of a `FusedOptimizer` whose schedules set them, as a scheduler of PyTorch shows rates.

    Some tools, such as the Trainer of transformers, create a scheduler of their own unless they are given one, and
    would assign its rates over those of the optimizer's schedules. Pass this object instead. It changes no rate, and its
    state dictionary is empty, because the state dictionary of the optimizer contains the schedules.

    Parameters
    ----------
    optimizer : FusedOptimizer
        The optimizer, or accelerate's wrapper of one.

    Raises
    ------
    TypeError
        If `optimizer` is another object.

    Examples
    --------
    >>> import torch, lrcore.torch
    >>> rate = lrcore.schedules.Cosine(0.1, steps=100)
    >>> opt = lrcore.torch.FusedOptimizer([torch.nn.Parameter(torch.ones(3))], lrcore.AdamW, lr=rate)
    >>> lrcore.torch.FollowSchedules(opt).get_last_lr()
    [0.1]
    """

    @explain_keywords
    def __init__(self, optimizer: Any) -> None:
        # LRScheduler's constructor is left out, because it would assign rates.
        self.optimizer = getattr(optimizer, "optimizer", optimizer)
        if not isinstance(self.optimizer, FusedOptimizer):
            raise TypeError(f"optimizer: expected a FusedOptimizer, got {type(optimizer).__name__}")
        self.step()

    def step(self, epoch: Any = None) -> None:  # noqa: ARG002 part of the interface
        """Read the rates of the optimizer's next step, which `get_last_lr` returns until the next call."""
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """Return an empty dictionary."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:  # noqa: ARG002 as above
        """Read the rates of the optimizer, whose state must have been loaded before."""
        self.step()

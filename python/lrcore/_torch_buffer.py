"""Parameters of a PyTorch module as views of one flat buffer, and their gradients as views of another."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lrcore import _torch_state
from lrcore._arguments import require_entries
from lrcore._extras import needs
from lrcore.optimizers import Optimizer
from lrcore.pack import layout

with needs("torch"):
    import torch


class Slot:
    """A parameter and its places in the flat buffers."""

    __slots__ = ("address", "grads", "name", "parameter", "place", "values")

    def __init__(self, name: str, parameter: Any, values: Any, grads: Any) -> None:
        self.name, self.parameter, self.values = name, parameter, values
        self.place = grads
        self.address = grads.data_ptr()
        self.grads = grads.detach()
        """What becomes the parameter's gradient. Others may give it other memory, so the place itself is kept."""

    def is_attached(self) -> bool:
        """Tell whether the parameter's gradient is its place in the buffer."""
        return self.parameter.grad is self.grads and self.grads.data_ptr() == self.address

    def attach(self) -> None:
        """Make the place in the buffer the parameter's gradient, with the values that are there."""
        if self.grads.data_ptr() != self.address:
            self.grads = self.place.detach()
        self.parameter.grad = self.grads

    def after_backward(self, parameter: Any) -> None:
        """Take a new gradient into the buffer: the hook that a backward pass calls for each parameter.

        One that can be differentiated stays as it is, for what is computed of it.
        """
        found = parameter.grad
        if found is self.grads and found.data_ptr() == self.address:
            return
        if not found.requires_grad:
            self.place.copy_(dense(self.name, found))
            self.attach()


class Buffer:
    """The parameters of one device in a flat buffer, their gradients in another, and the optimizer of both."""

    def __init__(
        self,
        indices: Sequence[int],
        names: Sequence[str],
        parameters: Sequence[Any],
        cls: type[Optimizer],
        arguments: Mapping[str, Any],
    ) -> None:
        self.indices, self.names, self.parameters = indices, names, parameters
        self._starts, size = layout([tuple(each.shape) for each in parameters], pad=True)
        device = parameters[0].device
        with torch.no_grad():
            # Those of the parameter where it is dense, channels last for instance.
            self._strides = [torch.empty_like(each, device="meta").stride() for each in parameters]
            self._params = torch.zeros(size, device=device, dtype=torch.float32)
            self._grads = torch.zeros_like(self._params)
        self._addresses = self._params.data_ptr(), self._grads.data_ptr()
        self.optimizer: Any = cls(self._params, grads=self._grads, **arguments)
        places = zip(names, parameters, self.views(self._params), self.views(self._grads), strict=True)
        self._slots = [Slot(*each) for each in places]
        self._watched = [
            (
                each,
                each.parameter,
                each.values.data_ptr(),
                each.values.stride() if each.values.dim() > 1 else None,
            )
            for each in self._slots
        ]
        self.handles: list[Any] = []

    def views(self, flat: Any) -> list[Any]:
        """Give the part of a flat buffer that belongs to each parameter, in its shape."""
        places = zip(self.parameters, self._strides, self._starts, strict=True)
        return [flat.as_strided(each.shape, strides, start) for each, strides, start in places]

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def move_in(self) -> None:
        """Make the parameters and their gradients views of the flat buffers."""
        for slot in self._slots:
            slot.parameter.data = slot.values.copy_(slot.parameter)
        self.gather()
        for slot in self._slots:
            slot.attach()
            self.handles.append(slot.parameter.register_post_accumulate_grad_hook(slot.after_backward))

    def states(self) -> list[dict[str, Any]]:
        """Give the state of each parameter."""
        views = {name: self.views(flat) for name, flat in self.optimizer.state.items()}
        return [{name: tensors[i] for name, tensors in views.items()} for i in range(len(self.parameters))]

    def gather(self) -> None:
        """See that the flat gradients are those of the parameters, and that these are where they were.

        A gradient that was assigned is copied and stays what it is, so that it is read again at the next step.
        """
        if (self._params.data_ptr(), self._grads.data_ptr()) != self._addresses:
            raise RuntimeError(f"params: {_MOVED}")
        foreign = []
        for slot, parameter, address, strides in self._watched:
            if parameter.data_ptr() != address or (strides is not None and parameter.stride() != strides):
                raise RuntimeError(f"{slot.name}: {_MOVED}")
            if not parameter.requires_grad:
                raise ValueError(
                    f"{slot.name}: does not require its gradient any more; make a new FusedOptimizer of those that do"
                )
            grads = slot.grads
            if parameter.grad is not grads or grads.data_ptr() != slot.address:
                foreign.append(slot)
        if foreign:
            self._copy_gradients(foreign)

    def _copy_gradients(self, foreign: Sequence[Slot]) -> None:
        """Copy gradients that are not in their places; zeros where there are none."""
        own = self._grads.untyped_storage().data_ptr()
        found = []
        for slot in foreign:
            grad = slot.parameter.grad
            if grad is not None:
                grad = dense(slot.name, grad).detach()
                if grad.untyped_storage().data_ptr() == own:
                    grad = grad.clone()  # before another is written over it
            found.append(grad)
        for slot, grad in zip(foreign, found, strict=True):
            if grad is None:
                slot.place.zero_()
                slot.attach()
            else:
                slot.place.copy_(grad)

    def zero_grad(self, set_to_none: bool) -> None:
        """Do what `FusedOptimizer.zero_grad` says."""
        self._grads.zero_()
        for slot in self._slots:
            if set_to_none:
                slot.parameter.grad = None
            elif not slot.is_attached():
                slot.attach()

    def join(self, name: str, tensors: Sequence[Any]) -> Any:
        """Give a flat state of the tensors of all parameters, those of other devices among them."""
        flat = torch.zeros_like(self._params)
        for i, view in zip(self.indices, self.views(flat), strict=True):
            values = _torch_state.require_dense(f"state[{i}]: {name}", tensors[i])
            if values.shape != view.shape:
                raise ValueError(
                    f"state[{i}]: {name}: expected shape {tuple(view.shape)}, got {tuple(values.shape)}"
                )
            view.copy_(torch.as_tensor(values).detach())
        return flat

    def join_all(self, of_parameters: Sequence[Mapping[str, Any]], step_count: Any) -> dict[str, Any]:
        """Give the flat states of the dictionaries of all parameters; zeros where there are none yet."""
        names = tuple(self.optimizer.state)
        for i, each in enumerate(of_parameters):
            if "step" in each and each["step"] != step_count:
                raise ValueError(f"state[{i}]: step: expected {step_count}, got {float(each['step'])}")
        found = [
            {name: each[name] for name in each if name not in ("step", "mu_product")}
            for each in of_parameters
        ]
        if not any(found):
            return {name: torch.zeros_like(self._params) for name in names}
        for i, each in enumerate(found):
            require_entries(f"state[{i}]", each, names)
        return {name: self.join(name, [each[name] for each in found]) for name in names}


_MOVED = (
    "its storage has moved since the optimizer was made, as .to() and .share_memory() move it; make a new FusedOptimizer "
    "after that"
)


def dense(name: str, grad: Any) -> Any:
    """Give a gradient that is not sparse."""
    if grad.layout != torch.strided:
        raise TypeError(
            f"{name}: expected a dense gradient, got a sparse one; pass sparse=False to its layer"
        )
    return grad


def named(params: Iterable[Any]) -> tuple[list[str], list[Any]]:
    """Give the parameters and what the messages call them."""
    if isinstance(params, torch.Tensor):
        raise TypeError("params: expected an iterable of parameters, got a tensor; put it into a list")
    names, tensors = [], []
    for i, each in enumerate(params):
        if isinstance(each, Mapping):
            raise TypeError(
                "params: expected parameters, got a group; a FusedOptimizer has one, so make one for each group"
            )
        name, tensor = each if isinstance(each, tuple) else (f"params[{i}]", each)
        names.append(name)
        tensors.append(tensor)
    if not tensors:
        raise ValueError("params: expected at least one parameter, got none")
    return names, tensors


def place_of(tensor: Any) -> Any:
    """Give what the parameters of one buffer have in common."""
    return tensor.device


def check_parameters(names: Sequence[str], tensors: Sequence[Any]) -> None:
    """Refuse what cannot become a view of a flat buffer of float32."""
    for name, tensor in zip(names, tensors, strict=True):
        if not isinstance(tensor, torch.Tensor):
            raise TypeError(f"{name}: expected a tensor, got {type(tensor).__name__}")
        if tensor.layout != torch.strided:
            raise TypeError(f"{name}: expected a dense tensor, got {tensor.layout}")
        if tensor.dtype != torch.float32:
            raise TypeError(
                f"{name}: expected dtype float32, got {tensor.dtype}; keep the parameters in float32 and use torch.autocast"
            )
        if tensor.device.type not in ("cpu", "cuda"):
            raise ValueError(f"{name}: expected a tensor on a CPU or CUDA device, got {tensor.device}")
        if tensor.is_inference():
            raise ValueError(f"{name}: expected a tensor that was made outside of torch.inference_mode()")
        if tensor.device.type == "cpu" and tensor.is_shared():
            raise ValueError(f"{name}: lies in shared memory, which a flat buffer would take it out of")
        if not tensor.is_leaf:
            raise ValueError(f"{name}: expected a leaf, got the result of an operation")
        if not tensor.requires_grad:
            raise ValueError(
                f"{name}: does not require its gradient; pass (p for p in model.parameters() if p.requires_grad)"
            )
    ranges = sorted(
        (str(each.device), each.data_ptr(), each.data_ptr() + _extent(each), name)
        for name, each in zip(names, tensors, strict=True)
        if each.numel()
    )
    for (device, _, end, one), (other_device, begin, _, other) in itertools.pairwise(ranges):
        if device == other_device and begin < end:
            raise ValueError(f"{other}: shares memory with {one}; pass one of them")


def _extent(tensor: Any) -> int:
    """Give how many bytes a tensor reaches over."""
    reached = sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.stride(), strict=True)) + 1
    return int(reached * tensor.element_size())

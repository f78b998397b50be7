"""Parameters of a PyTorch module as views of one flat buffer, and their gradients as views of another."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from lrcore import _torch_state
from lrcore._arguments import require_entries
from lrcore._extras import needs
from lrcore.optimizers import Optimizer
from lrcore.pack import layout

with needs("torch"):
    import torch


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
        with torch.no_grad():
            # Those of the parameter where it is dense, channels last for instance.
            self._strides = [torch.empty_like(each, device="meta").stride() for each in parameters]
            self._params, self._grads = (torch.zeros(size, device=parameters[0].device) for _ in range(2))
        self.optimizer: Any = cls(self._params, grads=self._grads, **arguments)
        self.handles: list[Any] = []

    def views(self, flat: Any) -> list[Any]:
        """Give the part of a flat buffer that belongs to each parameter, in its shape."""
        places = zip(self.parameters, self._strides, self._starts, strict=True)
        return [flat.as_strided(each.shape, strides, start) for each, strides, start in places]

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def move_in(self) -> None:
        """Make the parameters and their gradients views of the flat buffers."""
        self._grad_views = self.views(self._grads)
        for name, parameter, values, grads in zip(
            self.names, self.parameters, self.views(self._params), self._grad_views, strict=True
        ):
            parameter.data = values.copy_(parameter)
            attach(name, grads, parameter)
            self.handles.append(parameter.register_post_accumulate_grad_hook(attaching(name, grads)))
        addresses = [each.data_ptr() for each in self.parameters]
        self._watched = list(zip(self.parameters, self._grad_views, addresses, strict=True))

    def states(self) -> list[dict[str, Any]]:
        """Give the state of each parameter."""
        views = {name: self.views(flat) for name, flat in self.optimizer.state.items()}
        return [{name: tensors[i] for name, tensors in views.items()} for i in range(len(self.parameters))]

    def gather(self) -> None:
        """See that the flat gradients are those of the parameters, and that these are where they were."""
        for i, (parameter, grads, address) in enumerate(self._watched):
            if parameter.data_ptr() != address:
                raise RuntimeError(
                    f"{self.names[i]}: its storage has moved since the optimizer was made, as .to() moves it; make a new "
                    "FusedOptimizer after that"
                )
            if parameter.grad is not grads:
                attach(self.names[i], grads, parameter)

    def zero_grad(self, set_to_none: bool) -> None:
        """Do what `FusedOptimizer.zero_grad` says."""
        if not set_to_none:
            self._grads.zero_()
        for parameter, grads, _ in self._watched:
            parameter.grad = None if set_to_none else grads

    def join(self, name: str, tensors: Sequence[Any]) -> Any:
        """Give a flat state of the tensors of all parameters, those of other devices among them."""
        flat = torch.zeros_like(self._params)
        for i, view in zip(self.indices, self.views(flat), strict=True):
            values = _torch_state.require_dense(name, tensors[i])
            if values.shape != view.shape:
                raise ValueError(
                    f"state[{i}]: {name}: expected shape {tuple(view.shape)}, got {tuple(values.shape)}"
                )
            view.copy_(values)
        return flat

    def join_all(self, of_parameters: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Give the flat states of the dictionaries of all parameters; zeros where there are none yet."""
        names = [*self.optimizer.state]
        found = [{name: each[name] for name in each if name in names} for each in of_parameters]
        if not any(found):
            return {name: torch.zeros_like(self._params) for name in names}
        for i, each in enumerate(found):
            require_entries(f"state[{i}]", each, tuple(names))
        return {name: self.join(name, [each[name] for each in found]) for name in names}


def attach(name: str, grads: Any, parameter: Any) -> None:
    """Make a parameter's gradient the view of the flat buffer, with the values that it has; none are zeros."""
    found = parameter.grad
    if found is None:
        grads.zero_()
    elif found.layout != torch.strided:
        raise TypeError(
            f"{name}: expected a dense gradient, got a sparse one; pass sparse=False to its layer"
        )
    else:
        grads.copy_(
            found.detach() if found.requires_grad else found
        )  # it does where it can be differentiated
    parameter.grad = grads


def attaching(name: str, grads: Any) -> Callable[[Any], None]:
    """Give the hook that a backward pass calls for each parameter, so that it does as little as it can."""

    def hook(parameter: Any) -> None:
        if parameter.grad is not grads:
            attach(name, grads, parameter)

    return hook


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

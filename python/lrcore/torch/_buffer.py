"""Parameters of a PyTorch module as views of one flat buffer, and their gradients as views of another."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lrcore import schedules
from lrcore._checks import integer, require_entries
from lrcore._extras import optional_dependency
from lrcore._lrcore_core import Watch, require_memory, to_float
from lrcore.optimizers import Optimizer, _torch_import, _torch_state
from lrcore.pack import Pack, PackList, layout
from lrcore.pack._tree import sharing
from lrcore.schedules import Constant

with optional_dependency("torch"):
    import torch

if TYPE_CHECKING:
    from lrcore._lrcore_core import _Change


def fitting(name: str, given: Any, view: Any) -> Any:
    """Return a given state as a tensor, after checking that it has the shape of the parameter's state."""
    values = _torch_state.require_dense(name, given)
    if values.shape != view.shape:
        raise ValueError(f"{name}: expected shape {tuple(view.shape)}, got {tuple(values.shape)}")
    return values.detach() if isinstance(values, torch.Tensor) else torch.as_tensor(values, device="cpu")


class Slot:
    """A parameter and its places in the flat buffers."""

    __slots__ = ("__weakref__", "address", "grads", "name", "parameter", "place", "unkept", "values")

    def __init__(self, name: str, parameter: Any, values: Any, grads: Any) -> None:
        self.name, self.parameter, self.values = name, parameter, values
        self.place = grads
        self.address = grads.data_ptr()
        self.grads = with_own_storage(grads)
        """The tensor to attach as the parameter's gradient. Callers may replace its memory, so `place` is kept too."""
        self.unkept = self._references()
        """The reference count of `grads` while it is not attached and no caller holds a reference to it."""

    def _references(self) -> int:
        return sys.getrefcount(self.grads)

    def is_attached(self) -> bool:
        """Return whether the parameter's gradient is its place in the buffer."""
        return self.parameter.grad is self.grads and self.grads.data_ptr() == self.address

    def attach(self) -> None:
        """Make the place in the buffer, with its current values, the parameter's gradient."""
        if self.grads.data_ptr() != self.address:
            self.grads = with_own_storage(self.place)
        self.parameter.grad = self.grads

    def takes_float32(self) -> bool:
        """Return whether the place can be the parameter's gradient; `grad_dtype` may require another dtype."""
        return getattr(self.parameter, "grad_dtype", None) in (None, torch.float32)

    def let_go(self) -> None:
        """Move the gradient to its own memory, before its place is overwritten, if a caller holds a reference to it."""
        if self._references() != self.unkept:
            if self.grads.data_ptr() == self.address:
                give_own_memory(self.grads)
            self.grads = with_own_storage(self.place)

    def after_backward(self, parameter: Any) -> None:
        """Copy a new gradient into its place, and attach the place. Backward passes call this hook for each parameter.

        A differentiable gradient, which later computations may use, and a view of a caller's buffer are left alone. A
        gradient of another dtype is copied, but remains the parameter's gradient.
        """
        found = parameter.grad
        if found is None:  # another hook has removed it
            return
        if found is self.grads and found.data_ptr() == self.address:
            return
        if not found.requires_grad:
            if type(found) is not torch.Tensor or found.layout is not torch.strided:
                dense(self.name, found)
            if found._is_view():
                return
            self.let_go()
            self.place.copy_(found)
            if found.dtype is torch.float32:
                self.attach()


class Buffer:
    """The parameters of one device in a flat buffer, their gradients in another, and the optimizer that steps them."""

    def __init__(
        self,
        indices: Sequence[int],
        names: Sequence[str],
        parameters: Sequence[Any],
        cls: Callable[..., Optimizer],
        arguments: Mapping[str, Any],
    ) -> None:
        self.indices, self.names, self.parameters = indices, names, parameters
        self._starts, size = layout([tuple(each.shape) for each in parameters], pad=True)
        device = parameters[0].device
        with torch.no_grad():
            # The strides of the parameter itself if it is dense, for example channels last.
            self._strides = [torch.empty_like(each, device="meta").stride() for each in parameters]
            self._params = torch.zeros(size, device=device, dtype=torch.float32)
            self._grads = torch.zeros_like(self._params)
        self.optimizer: Any = cls(self._params, grads=self._grads, **arguments)
        self.optimizer._has_groups = False
        for name, schedule in self.optimizer.hyper.schedules.items():
            raise TypeError(
                f"{name}: expected a number, got {schedule!r}; a FusedOptimizer has a schedule only for lr: assign "
                f"opt.param_groups[0][{name!r}] between steps"
            )
        values = map(with_own_storage, self.views(self._params))
        places = zip(names, parameters, values, self.views(self._grads), strict=True)
        self._slots = [Slot(*each) for each in places]
        self.state_views = {
            name: [*map(with_own_storage, self.views(flat))] for name, flat in self.optimizer.state.items()
        }
        self._initial = {name: flat[0].item() if size else 0.0 for name, flat in self.optimizer.state.items()}
        self.state_is_shown = False
        """Whether a caller may hold views of the states."""
        self.handles: list[Any] = []

    def views(self, flat: Any) -> list[Any]:
        """Return each parameter's part of a flat buffer, in the parameter's shape."""
        places = zip(self.parameters, self._strides, self._starts, strict=True)
        return [flat.as_strided(each.shape, strides, start) for each, strides, start in places]

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def move_in(self) -> None:
        """Make the parameters and their gradients views of the flat buffers."""
        for slot in self._slots:
            slot.parameter.data = slot.values.copy_(slot.parameter)
        tensors = [*self.parameters, self._params, self._grads]
        states = [
            (f"state[{name}]: {each}", view)
            for each, views in self.state_views.items()
            for name, view in zip(self.names, views, strict=True)
        ]
        self._watch = Watch([*self.names, "params", "grads"], tensors, _MOVED)
        self._state_watch = Watch([name for name, _ in states], [view for _, view in states], _STATE_MOVED)
        self.gather()
        for slot in self._slots:
            if slot.parameter.grad is not None and slot.takes_float32():
                slot.attach()
            self.handles.append(slot.parameter.register_post_accumulate_grad_hook(_hook(slot)))

    def beginning(self) -> dict[str, Any]:
        """Return flat states with their initial values."""
        return {
            name: torch.full_like(flat, self._initial[name]) for name, flat in self.optimizer.state.items()
        }

    def change_to(self, states: Mapping[str, Any], step_count: int) -> _Change:
        """Return the change for `commit` that replaces the optimizer's states and step count."""
        flats = [states[name] for name in self.optimizer.state]
        return self.optimizer, flats, step_count, (), None, None, None

    def gather(self) -> None:
        """Update the flat gradients from the parameters' gradients, after checking that no memory has moved.

        An assigned gradient is copied but stays the parameter's gradient, so it is read again at the next step.
        """
        self._watch.check()
        if self.state_is_shown:
            self._state_watch.check()
        foreign = []
        for slot in self._slots:
            parameter = slot.parameter
            if not parameter.requires_grad:
                raise ValueError(
                    f"{slot.name}: no longer requires a gradient; make a new FusedOptimizer for the parameters that do"
                )
            if parameter.grad is not slot.grads or slot.grads.data_ptr() != slot.address:
                foreign.append(slot)
        if foreign:
            self._copy_gradients(foreign)

    def _copy_gradients(self, foreign: Sequence[Slot]) -> None:
        """Copy gradients from other memory into their places. A gradient of None counts as zeros and stays None."""
        begin = self._grads.data_ptr()
        end = begin + self._grads.nbytes
        found = [slot.parameter.grad for slot in foreign]
        for slot, grad in zip(foreign, found, strict=True):
            if grad is not None:
                dense(slot.name, grad)
        for grad in found:
            if grad is not None and begin <= grad.data_ptr() < end:
                give_own_memory(grad)  # it lies in a place that is written below
        for slot, grad in zip(foreign, found, strict=True):
            slot.let_go()
            if grad is None:
                slot.place.zero_()
            else:
                slot.place.copy_(grad.detach())

    def zero_grad(self, set_to_none: bool) -> None:
        """Implement `FusedOptimizer.zero_grad`."""
        for slot in self._slots:
            if set_to_none:
                slot.parameter.grad = None
                slot.let_go()
            elif not slot.is_attached():
                grad = slot.parameter.grad
                if grad is not None and (grad._is_view() or not slot.takes_float32()):
                    grad.detach().zero_()
                elif slot.takes_float32():
                    slot.attach()
        self._grads.zero_()

    def join(self, name: str, tensors: Sequence[Any]) -> Any:
        """Return this buffer's flat state, given the tensors of the parameters of all devices."""
        flat = torch.zeros_like(self._params)
        for i, view in zip(self.indices, self.views(flat), strict=True):
            view.copy_(fitting(f"state[{i}]: {name}", tensors[i], view))
        return flat

    def join_all(self, of_parameters: Sequence[Mapping[str, Any]], step_count: Any) -> dict[str, Any]:
        """Return the flat states, given the dictionary of each parameter; zeros if there are no states yet."""
        names = tuple(self.optimizer.state)
        for i, each in enumerate(of_parameters):
            _torch_state.require_step_count(f"state[{i}]", each, step_count)
        found = [
            {name: each[name] for name in each if name not in _torch_state.COUNTS} for each in of_parameters
        ]
        if not any(found) and not step_count:
            return {name: torch.zeros_like(self._params) for name in names}
        for i, each in enumerate(found):
            require_entries(f"state[{i}]", each, names)
        return {name: self.join(name, [each[name] for each in found]) for name in names}

    def entries_of(
        self,
        dictionary: Mapping[str, Any],
        group: Mapping[str, Any],
        shown: Mapping[str, Any],
        step_count: int | None,
        keeps_schedule: bool,
    ) -> dict[str, Any]:
        """Convert a state dictionary in PyTorch's form to one for this buffer's optimizer.

        `shown` has the names of the entries that a group written by lrcore must have.
        """
        states = _torch_state.states_in_order(dictionary.get("state"), group["params"])
        stored = _torch_state.own_entry(dictionary, group, states)
        if stored is not None and step_count is not None and self.optimizer._public_class().__name__ == "SGD":
            stored, step_count = {**stored, "step_count": integer("step_count", step_count, 0)}, None
        if stored is None or step_count is not None:
            entries = _torch_import.converted(self.optimizer._kind(), dictionary, step_count, self.join)
            if keeps_schedule:
                del entries["schedule"]  # it has only the rate of PyTorch's group
            return entries
        found = {name: value for name, value in group.items() if name in shown or name in _torch_state.FIXED}
        require_entries("param_groups", found, shown)
        entries = {
            **stored,
            "hyper": {name: found[name] for name in self.optimizer.hyper},
            "options": _torch_state.options_of_group(found),
            "state": self.join_all(states, stored["step_count"]),
        }
        if "schedule" in stored and type(schedules.from_dict(stored["schedule"])) is Constant:
            entries["schedule"] = Constant(to_float("lr", found["lr"])).to_dict()
        return entries


def with_own_storage(view: Any) -> Any:
    """Return a view's memory as a tensor with its own storage, so that saving it does not save the whole buffer."""
    if torch.is_inference_mode_enabled():
        with torch.inference_mode(False):  # from_dlpack would return an inference tensor
            return with_own_storage(view)
    if not view.numel():
        return torch.empty_like(view)
    tensor = torch.utils.dlpack.from_dlpack(torch.utils.dlpack.to_dlpack(view))
    # The result is a view, because `after_backward` treats a tensor that is not a view as a new gradient. It gets the
    # strides of `view`, because DLPack may change the strides of dimensions of size 1.
    return tensor.as_strided(view.shape, view.stride())


_MOVED = (
    "its storage has moved since the optimizer was made, for example by .to(), .share_memory() or sending it to another "
    "process; make a new FusedOptimizer after that, or send clones: {k: v.clone() for k, v in module.state_dict().items()}"
)
_STATE_MOVED = (
    "its storage has moved; to change a state, assign its values: opt.state[parameter][name] = values"
)


def dense(name: str, grad: Any) -> None:
    """Raise TypeError if a gradient is sparse or has no memory."""
    if grad.layout != torch.strided:
        raise TypeError(
            f"{name}: expected a dense gradient, got a sparse one; pass sparse=False to its layer"
        )
    require_memory(name, grad)


def _hook(slot: Slot) -> Callable[[Any], None]:
    """Return the hook of a slot.

    It holds a weak reference to the slot, because the garbage collector cannot see references held by PyTorch's hooks.
    """
    known = weakref.ref(slot)

    def after_backward(parameter: Any) -> None:
        if (slot := known()) is not None:
            slot.after_backward(parameter)

    return after_backward


def give_own_memory(tensor: Any) -> None:
    """Move a tensor from a buffer to memory of its own."""
    with torch.inference_mode(False):
        tensor.data = tensor.detach().clone()


def named(params: Iterable[Any]) -> tuple[list[str], list[Any]]:
    """Return the names that messages use for the parameters, and the parameters."""
    if isinstance(params, torch.Tensor):
        raise TypeError("params: expected an iterable of parameters, got a tensor; put it into a list")
    if isinstance(params, torch.nn.Module):
        raise TypeError("params: expected an iterable of parameters, got a module; pass module.parameters()")
    if isinstance(params, (Pack, PackList)):
        raise TypeError(
            "params: expected an iterable of parameters, got a Pack; pass it to an optimizer of lrcore itself"
        )
    names, tensors = [], []
    for i, each in enumerate(params):
        if isinstance(each, Mapping):
            raise TypeError("params: expected parameters, got a group; make a FusedOptimizer for each group")
        name, tensor = each if isinstance(each, tuple) else (f"params[{i}]", each)
        names.append(name)
        tensors.append(tensor)
    if not tensors:
        raise ValueError("params: expected at least one parameter, got none")
    return names, tensors


def place_of(tensor: Any) -> Any:
    """Return the device of a tensor; parameters on the same device share a buffer."""
    return tensor.device


def check_parameters(names: Sequence[str], tensors: Sequence[Any]) -> None:
    """Raise TypeError or ValueError if a parameter cannot become a view of a flat float32 buffer."""
    for name, tensor in zip(names, tensors, strict=True):
        if not isinstance(tensor, torch.Tensor):
            raise TypeError(f"{name}: expected a tensor, got {type(tensor).__name__}")
        if tensor.layout != torch.strided:
            raise TypeError(f"{name}: expected a dense tensor, got {tensor.layout}")
        if tensor.dtype != torch.float32:
            raise TypeError(
                f"{name}: expected dtype float32, got {tensor.dtype}; keep the parameters in float32 and use torch.autocast"
            )
        require_memory(name, tensor)
        if tensor.device.type not in ("cpu", "cuda"):
            raise ValueError(f"{name}: expected a tensor on a CPU or CUDA device, got {tensor.device}")
        if tensor.is_inference():
            raise ValueError(f"{name}: expected a tensor that was created outside of torch.inference_mode()")
        if tensor.device.type == "cpu" and tensor.is_shared():
            raise ValueError(
                f"{name}: expected unshared memory; a flat buffer would move it out of shared memory"
            )
        if not tensor.is_leaf:
            raise ValueError(f"{name}: expected a leaf tensor, got the result of an operation")
        if not tensor.requires_grad:
            raise ValueError(
                f"{name}: does not require a gradient; pass (p for p in model.parameters() if p.requires_grad)"
            )
        if tensor.grad is not None:
            dense(name, tensor.grad)
    for first, second in sharing(tensors):
        raise ValueError(f"{names[second]}: shares memory with {names[first]}; pass only one of them")

"""The parameters of one device as views of a flat buffer, and the optimizer that steps them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Self

from lrcore._extras import optional_dependency
from lrcore._lrcore_core import Watch, require_memory
from lrcore.optimizers import Optimizer
from lrcore.optimizers._ranges import merged, rest_of
from lrcore.optimizers._settings import AVERAGE, Settings, WholeSettings
from lrcore.pack import layout
from lrcore.schedules import Schedule

with optional_dependency("torch"):
    import torch


class Prototype(NamedTuple):
    """What the optimizers of all devices have in common apart from the settings."""

    cls: type[Optimizer]
    options: dict[str, Any]
    max_steps: int | None
    whole: WholeSettings
    """The settings that the optimizers begin with."""
    initial: Mapping[str, float]
    """The initial values of the states of the rule."""
    attributes: Mapping[str, Any]
    """The attributes that the constructor of a user-defined subclass has set."""

    @classmethod
    def of(cls, optimizer: Optimizer) -> Self:
        """Return what this optimizer, of at least one parameter, has in common with others of its kind."""
        attributes = optimizer.__getstate__()["attributes"]
        initial = {name: float(values[0]) for name, values in optimizer.state.items() if name != AVERAGE}
        whole = optimizer._settings.whole
        return cls(type(optimizer), optimizer._options, optimizer._max_steps, whole, initial, attributes)


class Slot(NamedTuple):
    """A parameter, and its place in the flat buffers."""

    number: int
    """Its index among all parameters."""
    name: str
    """Its name in messages."""
    group: int
    parameter: Any
    begin: int
    end: int
    """The end of its elements. A parameter without elements has one here, which is never stepped, for its step count."""
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def view(self, flat: Any) -> Any:
        """Return the parameter's part of a flat tensor, in the shape of the parameter."""
        return flat.as_strided(self.shape, self.stride, self.begin)


class Buffer:
    """The parameters of one device, in a flat buffer."""

    def __init__(
        self, given: Sequence[tuple[int, str, int, Any]], groups: int, prototype: Prototype, settings: Settings,
        schedule: Schedule,
    ) -> None:  # fmt: skip
        """Create the flat buffers, with the values of the parameters.

        `given` has the index, the name in messages, the group and the tensor of each parameter, and `groups` is the number
        of groups on all devices. The parameters stay where they are until the assignments of `moves` are made.
        """
        sizes = [max(each.numel(), 1) for *_, each in given]
        starts, size = layout([(each,) for each in sizes], pad=True)
        # These are the parameter's own strides if it is dense, for example channels last.
        strides = [torch.empty_like(each, device="meta").stride() for *_, each in given]
        self.slots = [
            Slot(*each, begin, begin + count, tuple(each[3].shape), stride)
            for each, begin, count, stride in zip(given, starts, sizes, strides, strict=True)
        ]
        device = given[0][3].device
        self.params = torch.zeros(size, device=device, dtype=torch.float32)
        for slot in self.slots:
            slot.view(self.params).copy_(slot.parameter)
        self._views = [with_own_storage(slot.view(self.params)) for slot in self.slots]
        ranges = [
            merged((each.begin, each.end) for each in self.slots if each.group == i) for i in range(groups)
        ]
        padding = rest_of(ranges, size)
        tensors = (
            [each.name for each in self.slots],
            [each.parameter for each in self.slots],
            self._views,
            [each.begin for each in self.slots],
            self._fitting,
            zero,
        )
        self.optimizer: Any = prototype.cls.__new__(prototype.cls)
        self.optimizer._bind(
            self.params, None, prototype.options, (padding, *ranges), settings, schedule, prototype.max_steps,
            prototype.initial, tensors,
        )  # fmt: skip
        vars(self.optimizer).update(prototype.attributes)
        self.optimizer._has_groups = False
        self._initial = prototype.initial
        self.states = [
            {name: with_own_storage(slot.view(flat)) for name, flat in self.optimizer.state.items()}
            for slot in self.slots
        ]
        """The states of each parameter, as views of the flat states."""
        names = [f"{slot.name}: {name}" for slot in self.slots for name in self.optimizer.state]
        views = [view for states in self.states for view in states.values()]
        self.states_watch = Watch(names, views, _STATE_MOVED)

    def moves(self) -> Iterator[tuple[Any, str, Any]]:
        """Yield the assignments that make the parameters views of the flat buffer."""
        for slot, view in zip(self.slots, self._views, strict=True):
            yield slot.parameter, "data", view

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def averages(self) -> Any:
        """Return a flat tensor with the averages of the parameters that have taken a step, and the values of the others."""
        averages = self.optimizer.state[AVERAGE].clone()
        for slot, count in zip(self.slots, self.counts(), strict=True):
            if count == 0:
                slot.view(averages).copy_(slot.view(self.params))
        return averages

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def set_moved_parameters(self, flat: Any) -> None:
        """Copy the values of a flat tensor into the parameters whose storage has moved, unless they have another shape."""
        for slot in self.slots:
            if not self._is_in_place(slot) and slot.parameter.shape == slot.shape:
                slot.parameter.copy_(slot.view(flat))

    def require_unmoved(self) -> None:
        """Raise RuntimeError if the storage of a parameter has moved."""
        if self.has_moved():
            raise RuntimeError(
                "params: their storage has moved since the optimizer was made, for example by .to(); make a new "
                "FusedOptimizer, or call opt.load_state_dict(opt.state_dict())"
            )

    def has_moved(self) -> bool:
        """Return whether the storage of a parameter has moved.

        Raises RuntimeError if a parameter has moved into a larger storage, which another library may manage, or has another
        shape than before.
        """
        moved = False
        for slot in self.slots:
            parameter = slot.parameter
            if self._is_in_place(slot):
                continue
            if parameter.shape != slot.shape or parameter.untyped_storage().nbytes() != parameter.nbytes:
                raise RuntimeError(f"{slot.name}: {_MOVED}")
            moved |= parameter.numel() > 0
        return moved

    def _is_in_place(self, slot: Slot) -> bool:
        """Return whether a parameter has elements, which are in the flat buffer."""
        # Not compared with the view, whose storage moves together with that of the parameter.
        place = self.params.data_ptr() + slot.begin * self.params.itemsize
        return bool(slot.parameter.numel()) and slot.parameter.data_ptr() == place

    def _fitting(self, i: int, grad: Any) -> Any:
        """Return a copy of a parameter's gradient that has the parameter's dtype and strides.

        Raises TypeError or ValueError if the gradient is sparse, has no memory or has another shape.
        """
        slot = self.slots[i]
        if grad.layout != torch.strided:
            raise TypeError(
                f"{slot.name}: expected a dense gradient, got a sparse one; pass sparse=False to its layer"
            )
        require_memory(slot.name, grad)
        if grad.shape != slot.parameter.shape:
            raise ValueError(
                f"{slot.name}: expected a gradient of shape {tuple(slot.parameter.shape)}, got {tuple(grad.shape)}"
            )
        return torch.empty_like(self._views[i]).copy_(grad.detach())

    def counts(self) -> list[int]:
        """Return the number of steps that each parameter has taken."""
        return self.counts_in(*self.optimizer._counts())

    def counts_in(self, step_count: int, others: Sequence[tuple[int, int, int]]) -> list[int]:
        """Return the number of steps of each parameter, given the optimizer's number and the ranges with other numbers."""
        begins = [begin for begin, _, _ in others]
        found = []
        for slot in self.slots:
            k = bisect_right(begins, slot.begin) - 1
            is_other = k >= 0 and slot.begin < others[k][1]
            found.append(others[k][2] if is_other else step_count)
        return found

    def ranges_of(self, counts: Sequence[int], step_count: int) -> list[tuple[int, int, int]]:
        """Return the ranges of the parameters whose number of steps is not the optimizer's, each with its own number."""
        return [
            (slot.begin, slot.end, count)
            for slot, count in zip(self.slots, counts, strict=True)
            if count != step_count
        ]

    def begun(self, name: str) -> Any:
        """Return the initial values of a flat state. An average begins as a copy of the parameters."""
        if name == AVERAGE:
            return self.params.clone()
        return torch.full_like(self.params, self._initial.get(name, 0.0))

    def flat_states(self, of_slots: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return new flat states with the given values of each parameter, and the initial values of missing states."""
        flats = {}
        for name in self.optimizer.state:
            flats[name] = self.begun(name)
            for slot, given in zip(self.slots, of_slots, strict=True):
                if name in given:
                    slot.view(flats[name]).copy_(given[name])
        return flats


@torch.no_grad()  # type: ignore[untyped-decorator]
def zero(grads: Sequence[Any]) -> None:
    """Zero gradients as PyTorch's `zero_grad` does. They no longer belong to a graph."""
    for grad in grads:
        with torch.inference_mode(grad.is_inference()):
            if grad.grad_fn is None:
                grad.requires_grad_(False)
            else:
                grad.detach_()
            grad.zero_()


def with_own_storage(view: Any) -> Any:
    """Return a view's memory as a tensor with its own storage, so that saving it does not save the whole buffer."""
    if torch.is_inference_mode_enabled():
        with torch.inference_mode(False):  # from_dlpack would return an inference tensor
            return with_own_storage(view)
    if not view.numel():
        return torch.empty_like(view)
    tensor = torch.utils.dlpack.from_dlpack(torch.utils.dlpack.to_dlpack(view))
    # DLPack may change the strides of dimensions of size 1.
    return tensor.as_strided(view.shape, view.stride())


_MOVED = (
    "has moved into a part of a larger storage, or has another shape than before; make a new FusedOptimizer"
)
_STATE_MOVED = (
    "its storage has moved; to change a state, assign its values: opt.state[parameter][name] = values"
)

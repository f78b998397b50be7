"""The states of a `lrcore.torch.FusedOptimizer` in PyTorch's form: for each parameter, views of the flat states.

As in PyTorch, the mapping and its entries are plain dictionaries. What is assigned or removed there takes effect at the
next step, which compares the entries with those that were shown.
"""

from __future__ import annotations

import operator
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from lrcore._checks import integer, naming, require_entries
from lrcore._extras import optional_dependency
from lrcore._lrcore_core import commit, to_float
from lrcore.optimizers import _torch_state
from lrcore.torch._buffer import Buffer, Slot, with_own_storage

with optional_dependency("torch"):
    import torch


def fitting(name: str, given: Any, view: Any) -> Any:
    """Return a given state as a tensor, after checking that it has the shape of the parameter's state."""
    values = _torch_state.require_dense(name, given)
    if values.shape != view.shape:
        raise ValueError(f"{name}: expected shape {tuple(view.shape)}, got {tuple(values.shape)}")
    return values.detach() if isinstance(values, torch.Tensor) else torch.as_tensor(values, device="cpu")


def names_of(names: Sequence[str], hyper: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the states that PyTorch has in a group with these numbers: without momentum, no buffer."""
    return tuple(name for name in names if name != "momentum_buffer" or hyper["momentum"] != 0)


def require_states(
    name: str, entries: Mapping[str, Any], names: Sequence[str], hyper: Mapping[str, Any]
) -> None:
    """Raise ValueError if entries lack one of the states that a parameter of a group with these numbers has."""
    required = names_of(names, hyper)
    require_entries(name, entries, required, *({*names} - {*required}), *_torch_state.COUNTS)


class States:
    """The states of all parameters, and the dictionaries that show them."""

    def __init__(self, buffers: Sequence[Buffer], hyper_of: Callable[[int], Mapping[str, Any]]) -> None:
        """`hyper_of` returns the current numbers of a group."""
        self._buffers, self._hyper_of = buffers, hyper_of
        first = buffers[0].optimizer
        self._class = first._public_class().__name__
        self._names = tuple(first.state)
        self._total = sum(len(each.slots) for each in buffers)
        self.mapping: Any = defaultdict(dict)
        """The dictionary of the caller."""
        self.is_exposed = False
        """Whether the caller may hold it."""
        self._parameters: list[Any] = []
        """The parameters with states."""
        self._entries: list[dict[str, Any]] = []
        """The entries that were shown for them."""
        self._known: list[dict[str, Any]] = []
        """Copies of these entries."""
        with torch.inference_mode(False):
            self._steps = torch.zeros(self._total, dtype=torch.float32, device="cpu")
            self._shown_steps = self._steps.clone()
            # each in its own storage, so that saving one does not save all
            self._step_of = [with_own_storage(each) for each in self._steps]
        self._shown_count = -1
        self._counts = [0] * self._total
        """The steps that each parameter had taken when they were shown."""

    def slots(self) -> Iterator[tuple[Buffer, int, Slot]]:
        """Yield each parameter with its buffer and its index there."""
        for buffer in self._buffers:
            for k, slot in enumerate(buffer.slots):
                yield buffer, k, slot

    def expose(self) -> Any:
        """Return the dictionary for the caller, with the current states unless others were assigned there."""
        if not self.is_exposed or not self._has_changed():
            self._show()
        self.is_exposed = True
        return self.mapping

    def has_states(self, count: int) -> bool:
        """Return whether PyTorch's optimizer has states for a parameter that has taken so many steps."""
        return count > 0 or self._class == "Adagrad"

    @torch.inference_mode(False)  # type: ignore[untyped-decorator]
    @torch.no_grad()  # type: ignore[untyped-decorator]
    def _show(self) -> None:
        """Show the states of the parameters that have some."""
        step_count = self._buffers[0].optimizer.step_count
        if step_count == self._shown_count:
            return
        counts = {id(buffer): buffer.counts() for buffer in self._buffers}
        self._parameters, self._entries, self._known = [], [], []
        used: set[int] = set()
        for buffer, k, slot in self.slots():
            count = self._counts[slot.number] = counts[id(buffer)][k]
            self._steps[slot.number] = count
            found = (
                self.entries_of(slot, count, buffer.states[k], self._step_of[slot.number])
                if self.has_states(count)
                else {}
            )
            if not found:
                dict.pop(self.mapping, slot.parameter, None)
                continue
            entries = dict.setdefault(self.mapping, slot.parameter, {})
            if id(entries) in used:  # assigned to several parameters
                entries = self.mapping[slot.parameter] = {}
            used.add(id(entries))
            entries.update(found)
            self._parameters.append(slot.parameter)
            self._entries.append(entries)
            self._known.append(dict(entries))
        self._shown_steps.copy_(self._steps)
        self._shown_count = step_count

    def entries_of(
        self, slot: Slot, count: int, states: Mapping[str, Any], step: Any = None
    ) -> dict[str, Any]:
        """Return the entries of a parameter in PyTorch's order; `step` is the tensor that has the count."""
        hyper = self._hyper_of(slot.group)
        entries = _torch_state.counts_of(self._class, count, hyper)
        if step is not None and "step" in entries:
            entries["step"] = step
        return entries | {name: states[name] for name in names_of(self._names, hyper)}

    def replace(self, given: Any) -> None:
        """Make another dictionary the states; if it is invalid, change nothing. The former one keeps its values."""
        if not isinstance(given, Mapping):
            raise TypeError("state: expected a dictionary of dictionaries, as in PyTorch")
        before = self.expose()
        former = [
            (entries, {name: _copied(each) for name, each in entries.items()}) for entries in self._entries
        ]
        self.mapping = defaultdict(dict, {parameter: _plain(entries) for parameter, entries in given.items()})
        try:
            self._apply(begins=True)
        except BaseException:
            self.mapping = before
            raise
        for entries, values in former:
            entries.update(values)
        self._show()

    def obey(self) -> None:
        """Apply what was assigned or removed in the dictionaries since they were shown; if a value is invalid, apply nothing."""
        for buffer in self._buffers:
            buffer.states_watch.check()
        if self._has_changed():
            self._apply()
            self._show()

    def _has_changed(self) -> bool:
        """Return whether the dictionaries or the step counts differ from those that were shown."""
        if len(self.mapping) != len(self._entries) or not torch.equal(self._steps, self._shown_steps):
            return True
        shown = zip(self._parameters, self._entries, self._known, strict=True)
        return not all(
            self.mapping.get(p) is entries and _are_same(entries, known) for p, entries, known in shown
        )

    @torch.inference_mode(False)  # type: ignore[untyped-decorator]
    @torch.no_grad()  # type: ignore[untyped-decorator]
    def _apply(self, begins: bool = False) -> None:
        """Check and apply all entries of the dictionaries.

        If `begins` is true, the step count of the optimizers becomes the largest one of the parameters.
        """
        known = {id(entries): copy for entries, copy in zip(self._entries, self._known, strict=True)}
        shown = {*self._parameters}
        parameters = {slot.parameter for _, _, slot in self.slots()}
        if any(each not in parameters for each in self.mapping):
            raise ValueError("state: expected parameters of this optimizer as keys")
        counts: dict[int, int] = {}
        changes: list[Any] = []
        writes: dict[int, list[tuple[Slot, str, Any]]] = {id(buffer): [] for buffer in self._buffers}
        for buffer, k, slot in self.slots():
            given, views, name = dict.get(self.mapping, slot.parameter), buffer.states[k], slot.name
            count = self._counts[slot.number]
            if given is not None and not isinstance(given, Mapping):
                raise TypeError(f"{name}: state: expected a dictionary, got {type(given).__name__}")
            if not given:
                was_shown = slot.parameter in shown
                counts[slot.number] = 0 if was_shown else count
                if was_shown:
                    writes[id(buffer)] += [(slot, each, buffer.initial.get(each, 0.0)) for each in views]
                continue
            require_states(name, given, self._names, self._hyper_of(slot.group))
            former = known.get(id(given), {})
            for each, view in views.items():
                if each in given and given[each] is not view:
                    writes[id(buffer)].append((slot, each, fitting(f"{name}: {each}", given[each], view)))
            if "step" in given:
                with naming(name):
                    step = to_float("step", given["step"])
                    if step != _torch_state.as_float32(count):
                        count = integer("step", _torch_state.whole(step), 0)
            elif "step" in former:
                raise ValueError(f"{name}: step: missing; to begin again, remove all states of the parameter")
            counts[slot.number] = max(count, 1) if self._class == "SGD" else count
        step_count = self._buffers[0].optimizer.step_count
        if begins or (self._entries and not any(counts.values())):
            step_count = max(counts.values(), default=0)
        for buffer in self._buffers:
            written = writes[id(buffer)]
            flats = {name: flat.clone() for name, flat in buffer.optimizer.state.items()} if written else {}
            for slot, name, values in written:
                part = slot.view(flats[name])
                part.copy_(values) if isinstance(values, torch.Tensor) else part.fill_(values)
            own = [counts[slot.number] for slot in buffer.slots]
            states = [*flats.values()] if written else None
            changes.append(
                (buffer.optimizer, states, step_count, buffer.ranges_of(own, step_count), None, None, None)
            )
        self._shown_count = -1
        commit(changes)


def _are_same(entries: Mapping[str, Any], known: Mapping[str, Any]) -> bool:
    """Return whether two dictionaries have the same objects."""
    return entries.keys() == known.keys() and all(map(operator.is_, entries.values(), known.values()))


def _plain(entries: Any) -> Any:
    return dict(entries) if isinstance(entries, Mapping) else entries


def _copied(value: Any) -> Any:
    return value.clone() if isinstance(value, torch.Tensor) else value

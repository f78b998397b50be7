"""The states of a `lrcore.torch.FusedOptimizer` in PyTorch's form: for each parameter, views of the flat states.

As in PyTorch, the mapping and its entries are plain dictionaries. What is assigned or removed there takes effect at the
next step, which compares the entries with those that were shown.
"""

from __future__ import annotations

import functools
import operator
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from lrcore._checks import integer, naming, require_entries
from lrcore._extras import optional_dependency
from lrcore._lrcore_core import commit, to_float
from lrcore.optimizers import _torch_state
from lrcore.optimizers._settings import Change
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


class _Shown(NamedTuple):
    """What the dictionaries showed last."""

    step_count: int
    """The optimizer's step count at that time; -1 if the states have been replaced since."""
    parameters: list[Any]
    """The parameters that had states."""
    entries: list[dict[str, Any]]
    """Their dictionaries."""
    copies: list[dict[str, Any]]
    """Copies of these."""


class States:
    """The states of all parameters, and the dictionaries that show them."""

    def __init__(
        self,
        buffers: Sequence[Buffer],
        hyper_of: Callable[[int], Mapping[str, Any]],
        former: States | None = None,
    ) -> None:
        """`hyper_of` returns the current numbers of a group. The dictionary is that of the `former` states, if any."""
        self._buffers, self._hyper_of = buffers, hyper_of
        first = buffers[0].optimizer
        self._class = first._public_class().__name__
        self._names = tuple(first.state)
        self._total = sum(len(each.slots) for each in buffers)
        self.mapping: Any = defaultdict(dict) if former is None else former.mapping
        """The dictionary that the attribute `state` of the optimizer returns."""
        self.is_exposed: bool = former is not None and former.is_exposed
        """Whether the caller has received the dictionary, and may have changed it."""
        self._shown = _Shown(-1, [], [], [])
        self._lock = threading.RLock()
        """Held while the dictionaries are read or written, so that a step of another thread is not an assignment."""
        self._is_showing = former is not None
        """Whether the states are being shown, or have yet to be shown, for example after an interrupt."""
        with torch.inference_mode(False):
            self._steps = torch.zeros(self._total, dtype=torch.float32, device="cpu")
            self._shown_steps = self._steps.clone()
            # each in its own storage, so that saving one does not save all
            self._step_of = [with_own_storage(each) for each in self._steps]

    def _every(self) -> Iterator[tuple[Buffer, Slot, dict[str, Any], int]]:
        """Yield each parameter with its buffer, the views of its states, and the number of its steps."""
        for buffer in self._buffers:
            for each in zip(buffer.slots, buffer.states, buffer.counts(), strict=True):
                yield buffer, *each

    def expose(self) -> Any:
        """Return the dictionary for the caller, with the current states unless others were assigned there."""
        with self._lock:
            is_current = self._shown.step_count == self._buffers[0].optimizer.step_count
            if self._is_showing or not (is_current or (self.is_exposed and self._has_changed())):
                self._show()
            self.is_exposed = True
            return self.mapping

    def has_states(self, count: int) -> bool:
        """Return whether PyTorch's optimizer has states for a parameter that has taken this many steps."""
        return count > 0 or self._class == "Adagrad"

    @torch.inference_mode(False)  # type: ignore[untyped-decorator]
    @torch.no_grad()  # type: ignore[untyped-decorator]
    def _show(self) -> None:
        """Show the states of the parameters that have some."""
        step_count = self._buffers[0].optimizer.step_count
        if step_count == self._shown.step_count:
            return
        self._is_showing = True
        shown = _Shown(step_count, [], [], [])
        steps = [0.0] * self._total
        used: set[int] = set()
        for _, slot, states, count in self._every():
            steps[slot.number] = float(count)
            found = {}
            if self.has_states(count):
                found = self.entries_of(slot, count, states, self._step_of[slot.number])
            if not found:
                dict.pop(self.mapping, slot.parameter, None)
                continue
            entries = dict.setdefault(self.mapping, slot.parameter, {})
            if id(entries) in used:  # assigned to several parameters
                entries = self.mapping[slot.parameter] = {}
            used.add(id(entries))
            entries.update(found)
            shown.parameters.append(slot.parameter)
            shown.entries.append(entries)
            shown.copies.append(dict(entries))
        self._steps.copy_(torch.tensor(steps, dtype=torch.float32, device="cpu"))
        self._shown_steps.copy_(self._steps)
        self._shown = shown
        self._is_showing = False

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def create(self) -> None:
        """Count a step of each parameter with a gradient, which then has the initial states, but none of the optimizers."""
        changes = []
        for buffer in self._buffers:
            step_count, others = buffer.optimizer._counts()
            counts = [
                count + (slot.parameter.grad is not None)
                for slot, count in zip(buffer.slots, buffer.counts_in(step_count, others), strict=True)
            ]
            changes.append(Change(buffer.optimizer, None, step_count, buffer.ranges_of(counts, step_count)))
        self._shown = self._shown._replace(step_count=-1)
        commit(changes)

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
        """Replace the states by those of another dictionary; if it is invalid, change nothing.

        The entries of the former dictionary become copies, which keep their values.
        """
        if not isinstance(given, Mapping):
            raise TypeError("state: expected a dictionary of dictionaries, as in PyTorch")
        before = self.expose()
        former = [
            (entries, {name: _copied(each) for name, each in entries.items()})
            for entries in self._shown.entries
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
        with self._lock:
            if self._is_showing:
                self._show()
            elif self._has_changed():
                self._apply()
                self._show()

    def _has_changed(self) -> bool:
        """Return whether the dictionaries or the step counts differ from those that were shown."""
        if len(self.mapping) != len(self._shown.entries) or not torch.equal(self._steps, self._shown_steps):
            return True
        shown = zip(self._shown.parameters, self._shown.entries, self._shown.copies, strict=True)
        return not all(
            self.mapping.get(p) is entries and _are_same(entries, copy) for p, entries, copy in shown
        )

    @torch.inference_mode(False)  # type: ignore[untyped-decorator]
    @torch.no_grad()  # type: ignore[untyped-decorator]
    def _apply(self, begins: bool = False) -> None:
        """Check and apply all entries of the dictionaries.

        If `begins` is true, the step count of the optimizers becomes the largest one of the parameters.
        """
        shown = dict(zip(self._shown.parameters, self._shown.copies, strict=True))
        steps = self._shown_steps.tolist()
        parameters = {slot.parameter for _, slot, _, _ in self._every()}
        if any(each not in parameters for each in self.mapping):
            raise ValueError("state: expected parameters of this optimizer as keys")
        counts: dict[int, int] = {}
        changes: list[Any] = []
        writes: dict[int, list[tuple[Slot, str, Any]]] = {id(buffer): [] for buffer in self._buffers}
        for buffer, slot, views, current in self._every():
            given, name = dict.get(self.mapping, slot.parameter), slot.name
            if given is not None and not isinstance(given, Mapping):
                raise TypeError(f"{name}: state: expected a dictionary, got {type(given).__name__}")
            if not given:
                was_removed = slot.parameter in shown
                counts[slot.number] = 0 if was_removed else current
                if was_removed:
                    writes[id(buffer)] += [(slot, each, None) for each in views]
                continue
            require_states(name, given, self._names, self._hyper_of(slot.group))
            for each, view in views.items():
                if each in given and given[each] is not view:
                    writes[id(buffer)].append((slot, each, fitting(f"{name}: {each}", given[each], view)))
            count = current
            if "step" in given:
                with naming(name):
                    step = to_float("step", given["step"])
                    if slot.parameter not in shown or step != steps[slot.number]:
                        count = integer("step", _torch_state.whole(step), 0)
            elif "step" in shown.get(slot.parameter, {}):
                raise ValueError(f"{name}: step: missing; to begin again, remove all states of the parameter")
            counts[slot.number] = max(count, 1) if self._class == "SGD" else count
        step_count = self._buffers[0].optimizer.step_count
        if begins or (shown and not any(counts.values())):
            step_count = max(counts.values(), default=0)
        for buffer in self._buffers:
            written = writes[id(buffer)]
            flats = {name: flat.clone() for name, flat in buffer.optimizer.state.items()} if written else {}
            begun = functools.cache(buffer.begun)
            for slot, name, values in written:
                slot.view(flats[name]).copy_(slot.view(begun(name)) if values is None else values)
            own = [counts[slot.number] for slot in buffer.slots]
            states = [*flats.values()] if written else None
            changes.append(Change(buffer.optimizer, states, step_count, buffer.ranges_of(own, step_count)))
        self._shown = self._shown._replace(step_count=-1)
        commit(changes)


def _are_same(entries: Mapping[str, Any], known: Mapping[str, Any]) -> bool:
    """Return whether two dictionaries have the same objects."""
    return entries.keys() == known.keys() and all(map(operator.is_, entries.values(), known.values()))


def _plain(entries: Any) -> Any:
    return dict(entries) if isinstance(entries, Mapping) else entries


def _copied(value: Any) -> Any:
    return value.clone() if isinstance(value, torch.Tensor) else value

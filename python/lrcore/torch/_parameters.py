"""The parameters of a `lrcore.torch.FusedOptimizer`: PyTorch's forms of parameters and groups, and the checks of lrcore."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lrcore._checks import naming
from lrcore._extras import optional_dependency
from lrcore._lrcore_core import require_memory
from lrcore.pack import Pack, PackList
from lrcore.pack._tree import sharing

with optional_dependency("torch"):
    import torch


class _Reader(torch.optim.Optimizer):  # type: ignore[misc]
    """An optimizer that takes no steps: its constructor reads parameters and groups in all forms that PyTorch accepts."""


def read_groups(params: Any) -> list[dict[str, Any]]:
    """Return PyTorch's groups for the argument `params`, without default numbers.

    Raises
    ------
    TypeError, ValueError
        If PyTorch or lrcore cannot take these parameters.
    """
    if isinstance(params, torch.nn.Module) and not isinstance(params, torch.nn.ParameterList):
        raise TypeError("params: expected an iterable of parameters, got a module; pass module.parameters()")
    if isinstance(params, (Pack, PackList)):
        raise TypeError(
            "params: expected an iterable of parameters, got a Pack; pass it to an optimizer of lrcore itself"
        )
    if isinstance(params, set):
        params = [{"params": params}]  # PyTorch refuses a set inside a group
    # The groups are copied, because PyTorch writes into them.
    given = params if isinstance(params, torch.Tensor) else [_copied(each) for each in params]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "optimizer contains a parameter group with duplicate parameters")
        groups: list[dict[str, Any]] = _Reader(given, {}).param_groups
    if not any(group["params"] for group in groups):
        raise ValueError("params: expected at least one parameter, got empty groups")
    for i, group in enumerate(groups):
        own = group.get("param_names", group["params"])
        if len(own) != len(group["params"]):
            raise ValueError(
                f"{label(i)}: param_names: expected {len(group['params'])} names, one for each parameter, got {len(own)}"
            )
    _check(groups)
    return groups


def _copied(group: Any) -> Any:
    return dict(group) if isinstance(group, Mapping) else group


def label(i: int) -> str:
    """Return the name of a group in messages."""
    return f"param_groups[{i}]"


def names_in(groups: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the names of all parameters in messages."""
    return [
        f"{label(i)}: {name}"
        for i, group in enumerate(groups)
        for name in group.get("param_names") or [f"params[{k}]" for k in range(len(group["params"]))]
    ]


def _check(groups: Sequence[Mapping[str, Any]]) -> None:
    """Raise TypeError or ValueError if a parameter cannot become a view of a flat float32 buffer."""
    names, tensors = names_in(groups), [each for group in groups for each in group["params"]]
    for name, tensor in zip(names, tensors, strict=True):
        if tensor.layout != torch.strided:
            raise TypeError(f"{name}: expected a dense tensor, got {tensor.layout}")
        if tensor.dtype != torch.float32:
            remedy = "keep the parameters in float32 and use torch.autocast"
            if not (tensor.is_floating_point() or tensor.is_complex()):
                remedy = "pass only the parameters that are trained"
            raise TypeError(f"{name}: expected dtype float32, got {tensor.dtype}; {remedy}")
        _refuse_distributed(name, tensor)
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
    for first, second in sharing(tensors):
        raise ValueError(f"{names[second]}: shares memory with {names[first]}; pass only one of them")
    for i, group in enumerate(groups):
        with naming(label(i)):
            given = group["params"]
            if len({*map(id, given)}) != len(given):  # parameters without elements share no memory
                raise ValueError("params: expected each parameter once")
            own = group.get("param_names")
            if own is not None and len({*own}) != len(own):
                raise ValueError("param_names: expected each name once")


def _refuse_distributed(name: str, tensor: Any) -> None:
    """Raise TypeError or ValueError if a parameter belongs to a tool of `torch.distributed` that cannot be used."""
    if type(tensor).__name__ == "DTensor":
        raise TypeError(
            f"{name}: expected a plain tensor, got a DTensor, as fully_shard and parallelize_module make them; use "
            "DistributedDataParallel, or FullyShardedDataParallel with use_orig_params=False"
        )
    is_flat = getattr(tensor, "_is_flat_param", False)
    if getattr(tensor, "_fsdp_flattened", False) and not is_flat:
        raise ValueError(
            f"{name}: expected a parameter with memory of its own, got one of FullyShardedDataParallel, which moves it in "
            "each iteration; pass use_orig_params=False"
        )
    if is_flat and hasattr(tensor, "_local_shard"):
        raise ValueError(
            f"{name}: FullyShardedDataParallel has already run, and would return the parameter to its former memory; make "
            "the optimizer before the first forward pass"
        )


def with_tools(error: RuntimeError) -> RuntimeError:
    """Return an error about memory that has moved, with the tools that may have moved it in distributed training."""
    distributed = torch.distributed
    if not (" moved " in str(error) and distributed.is_available() and distributed.is_initialized()):
        return error
    return RuntimeError(f"{error}. {_MOVING_TOOLS}")


_MOVING_TOOLS = (
    "Tools of torch.distributed that move parameters cannot be used: FullyShardedDataParallel with use_orig_params=True, "
    "ZeroRedundancyOptimizer with parameters_as_bucket_view=True, PostLocalSGDOptimizer and average_parameters; to average "
    "modules, call torch.distributed.all_reduce for opt.optimizers[0].params"
)

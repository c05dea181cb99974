"""A pretended GPU: tensors on the CPU that keep CUDA's rules, to try code without one.

Within `pretended_gpu()` a tensor that was sent to `cuda` says that it lies there. Its values are
computed on the CPU, but where it meets a tensor of the CPU, or is read as numpy, torch's own error
is raised. Every wait of the host for the device, and every copy to it that blocks, is counted.

What is not pretended: numbers that a GPU would draw or round differently, speed and memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, cast
from unittest.mock import patch

import torch
from lightning_fabric import Fabric
from lightning_fabric.accelerators.cpu import CPUAccelerator
from lightning_fabric.strategies.single_device import SingleDeviceStrategy
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map_only

GPU = torch.device("cuda", 0)
CPU = torch.device("cpu")
# Calls after which the host knows something that the device has computed: it waits.
WAITING = frozenset(
    [
        "item",
        "tolist",
        "__bool__",
        "__int__",
        "__float__",
        "__index__",
        "__complex__",
        "nonzero",
        "argwhere",
        "masked_select",
        "unique",
        "unique_consecutive",
        "equal",
        "allclose",
        "is_nonzero",
        "bincount",
        "__contains__",
        "cpu",
        "repeat_interleave",
        "svd",
        "pinv",
        "solve",
        "eigh",
        "cholesky",
        "lstsq",
    ]
)
# Calls that may take tensors of two devices.
CROSSING = frozenset(
    [
        "copy_",
        "to",
        "cuda",
        "cpu",
        "type_as",
        "__set__",
        "__get__",
        "backward",
        "swap_tensors",
        "grad",
        "__deepcopy__",
    ]
)
NUMPY = frozenset(["numpy", "__array__"])
_GRAPH_CHECKS = ("_accelerator_graph_capture_health_check", "_cuda_graph_capture_health_check")


class PretendedTensor(Tensor):
    """A tensor whose values lie on the CPU, and which says that it lies on the GPU."""

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, arguments: Any = (), keywords: Any = None
    ) -> Any:
        """Compute on the CPU what the GPU would, where the GPU would."""
        return _call(function, arguments, keywords or {})


class _Mode(TorchFunctionMode):
    """Also catches calls that no pretended tensor takes part in, such as `zeros(device=…)`."""

    def __torch_function__(
        self, function: Any, types: Any, arguments: Any = (), keywords: Any = None
    ) -> Any:
        return _call(function, arguments, keywords or {})


_waits: Counter[str] = Counter()


@contextmanager
def pretended_gpu() -> Iterator[Counter[str]]:
    """Pretend that this machine has one GPU; gives the counts of waits and blocking copies."""

    class Event:
        """A mark in a stream that needs no time."""

        def __init__(self, **options: Any) -> None:
            pass

        def record(self, *stream: Any) -> None:
            """Mark."""

        def elapsed_time(self, other: Any) -> float:
            """Milliseconds."""
            return 0.0

    cuda = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "get_device_name": lambda device=None: "pretended",
        "is_bf16_supported": lambda including_emulation=True: False,
        "synchronize": lambda device=None: None,
        "get_rng_state": lambda device=None: torch.zeros(16, dtype=torch.uint8),
        "set_rng_state": lambda state, device=None: None,
        "Event": Event,
    }
    former = torch.__future__.get_overwrite_module_params_on_conversion()
    _waits.clear()
    with ExitStack() as stack:
        for name, answer in cuda.items():
            stack.enter_context(patch.object(torch.cuda, name, answer))
        for name in _GRAPH_CHECKS:  # of the stream that an optimiser works in
            if hasattr(torch.optim.Optimizer, name):
                stack.enter_context(patch.object(torch.optim.Optimizer, name, lambda self: None))
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        stack.callback(torch.__future__.set_overwrite_module_params_on_conversion, former)
        stack.enter_context(_Mode())
        yield _waits


class _Accelerator(CPUAccelerator):
    def setup_device(self, device: torch.device) -> None:
        """Accept the pretended device."""


def pretended_fabric() -> Fabric:
    """Make a Fabric that works on the pretended GPU."""
    return Fabric(strategy=SingleDeviceStrategy(device=GPU, accelerator=_Accelerator()))


def on_gpu(tensor: Tensor) -> bool:
    """Return whether a tensor lies on the pretended GPU."""
    return isinstance(tensor, PretendedTensor)


def _call(function: Any, arguments: Any, keywords: dict[str, Any]) -> Any:
    name = getattr(function, "__name__", "")
    tensors = [leaf for leaf in tree_leaves((arguments, keywords)) if isinstance(leaf, Tensor)]
    held = any(map(on_gpu, tensors))
    if name in ("__get__", "__set__"):
        return _attribute(function, arguments, held)
    if name in ("to", "cpu", "cuda", "pin_memory") and tensors:
        return _moved(name, function, arguments, keywords)
    if name == "_has_compatible_shallow_copy_type" and held:
        return False
    wanted = _device(keywords.get("device"))
    if wanted is not None:
        keywords = {**keywords, "device": CPU}
        held = wanted.type == "cuda"
        if held and keywords.get("generator") is not None:
            raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
        if held and name in ("tensor", "as_tensor", "asarray"):
            _count("copy", name)
    elif held:
        _refuse(name, arguments, keywords, tensors)
    if held and name == "__deepcopy__":
        return arguments[1].setdefault(id(arguments[0]), _twin(arguments[0]))
    if held and name == "__reduce_ex__":
        plain: Any = _plain(arguments[0])
        return plain.__reduce_ex__(arguments[1])
    found = _compute(function, arguments, keywords)
    return tree_map_only(Tensor, _pretend, found) if held else found


def _compute(function: Any, arguments: Any, keywords: dict[str, Any]) -> Any:
    with torch._C.DisableTorchFunctionSubclass():
        return function(*arguments, **keywords)


def _pretend(tensor: Tensor) -> Tensor:
    if on_gpu(tensor):
        return tensor
    with torch._C.DisableTorchFunctionSubclass():
        return tensor.as_subclass(PretendedTensor)


def _plain(tensor: Tensor) -> Tensor:
    with torch._C.DisableTorchFunctionSubclass():
        return tensor.as_subclass(Tensor)


def _twin(tensor: Tensor) -> Tensor:
    """A copy that is a leaf of its own, and a parameter where the original is one."""
    with torch._C.DisableTorchFunctionSubclass():
        twin = tensor.detach().clone().as_subclass(PretendedTensor)
        twin.requires_grad_(tensor.requires_grad)
    if getattr(tensor, "_is_param", False):
        twin._is_param = True
    return twin


def _attribute(function: Any, arguments: Any, held: bool) -> Any:
    attribute = getattr(getattr(function, "__self__", None), "__name__", "")
    if held and on_gpu(arguments[0]) and function.__name__ == "__get__":
        if attribute == "device":
            return GPU
        if attribute in ("is_cuda", "is_cpu"):
            return attribute == "is_cuda"
    found = _compute(function, arguments, {})
    return tree_map_only(Tensor, _pretend, found) if held else found


def _moved(name: str, function: Any, arguments: Any, keywords: dict[str, Any]) -> Any:
    tensor, *rest = arguments
    if name == "pin_memory":
        pinned = cast(Tensor, tensor.clone())
        pinned._is_pinned_here = True  # type: ignore[attr-defined]
        return pinned
    keywords, named = dict(keywords), _device(keywords.get("device"))
    if name != "to":
        named, rest = torch.device(name), []
    elif rest and isinstance(rest[0], Tensor):
        named, keywords["dtype"] = GPU if on_gpu(rest[0]) else CPU, rest[0].dtype
        rest = []
    elif rest and (rest[0] is None or _device(rest[0]) is not None):
        named = _device(rest[0])
        keywords |= dict(zip(("dtype", "non_blocking", "copy"), rest[1:], strict=False))
        rest = []
    keywords.pop("device", None)
    target = on_gpu(tensor) if named is None else named.type == "cuda"
    waits = not keywords.pop("non_blocking", False) or name == "cpu"
    found = _plain(tensor)
    keywords = {key: value for key, value in keywords.items() if value is not None}
    if rest or keywords:
        found = _compute(Tensor.to, (found, *rest), keywords)
    if target != on_gpu(tensor):
        if not target:
            _count("wait", name)
        elif waits or not getattr(tensor, "_is_pinned_here", False):
            _count("copy", name)
        found = _compute(Tensor.clone, (found,), {})
    elif found.data_ptr() == tensor.data_ptr() and found.dtype == tensor.dtype:
        return tensor
    return _pretend(found) if target else found


def _device(value: Any) -> torch.device | None:
    """Device that an argument names, if it names one."""
    if isinstance(value, torch.device):
        return value
    if isinstance(value, str):
        return torch.device(value)
    return torch.device("cuda", value) if type(value) is int else None


def _refuse(name: str, arguments: Any, keywords: Any, tensors: list[Tensor]) -> None:
    """Raise what CUDA would; count what the host has to wait for."""
    if name in NUMPY:
        raise TypeError(
            "can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor "
            "to host memory first."
        )
    if name in ("__getitem__", "__setitem__", "index_put", "index_put_"):
        _index(name, arguments)
    elif name not in CROSSING and any(not on_gpu(each) and each.dim() for each in tensors):
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two devices, cuda:0 "
            f"and cpu! (when checking arguments of {name})"
        )
    if name in WAITING or (name == "where" and len(arguments) == 1):
        _count("wait", name)


def _index(name: str, arguments: Any) -> None:
    """Indices may lie on the CPU or with what they index; values only there."""
    subject, index = arguments[:2]
    indices = [each for each in tree_leaves(index) if isinstance(each, Tensor)]
    if not on_gpu(subject) and any(on_gpu(each) and each.dim() for each in indices):
        raise RuntimeError(
            "indices should be either on cpu or on the same device as the indexed tensor (cpu)"
        )
    value = arguments[2] if len(arguments) > 2 else None
    if indices and isinstance(value, Tensor) and value.dim() and on_gpu(value) != on_gpu(subject):
        raise RuntimeError("Expected all tensors to be on the same device: value of an index put")
    if any(each.dtype == torch.bool for each in indices):
        _count("wait", name)
    elif any(not on_gpu(each) for each in indices):
        _count("copy", name)


def _count(kind: str, name: str) -> None:
    _waits[f"{kind}: {name}"] += 1

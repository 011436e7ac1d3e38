"""A simulated CUDA device: its tensors have a shape, a type and a device, but no values.

Within `pretended()`, code that uses `cuda` runs on a machine without CUDA. Tensors on the host are computed as usual
(the scheduler's tables, the noise, the image); tensors on the device are torch's `FakeTensor`, which like CUDA rejects
operations across devices. Values that the host reads from the device are zeros (`True` for conditions). Code thus runs
end to end at its real size within seconds and shows the device and type of every tensor, where the host waits for the
device, the peak memory, and the behavior when memory runs out.
"""

import operator
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any, Final, TypeVar
from unittest import mock

import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

T = TypeVar("T", bound=dict[str, Any])

aten: Final = torch.ops.aten

#: Operations that fill a tensor with random numbers.
_RANDOM: Final = {aten.uniform_.default, aten.normal_.default}

#: CUDA's limit on the second and third dimension of a grid, in which flash attention counts the rows of a batch
#: (https://github.com/pytorch/pytorch/issues/142228). The memory-efficient kernel splits larger batches itself.
_MOST_ROWS: Final = 65_535

#: The largest size of a head that flash attention has code for.
_MOST_HEAD: Final = 256

#: Packages whose innermost frame is recorded as the place where the host waits.
PACKAGES: Final = ("/svd_service/", "/diffusers/", "/transformers/", "/accelerate/")


@dataclass(frozen=True)
class Wait:
    """An operation in which the host waits for the device: `kind` is `item`, `nonzero`, `to host` or `to device`."""

    kind: str
    module: str
    function: str


class PretendedCuda(TorchDispatchMode):
    """The device. `room` is its memory in bytes; using more raises `torch.OutOfMemoryError`.

    `waits` counts the operations in which the host waits, except for moving a module's weights; `attention` counts the
    calls of each attention kernel. `peak` is the peak memory in bytes, without an allocator's rounding and the
    libraries' workspaces; set it to 0 to reset it.
    """

    def __init__(self, room: float = float("inf")) -> None:
        super().__init__()
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)
        self.room = room
        self.waits: Counter[Wait] = Counter()
        self.attention: Counter[str] = Counter()
        self.peak = 0
        self.moves_weights = False
        # Weights stay where they are for long: they are looked through after modules were moved only.
        self._weights: dict[int, tuple[StorageWeakRef, int]] = {}
        self._living: dict[int, tuple[StorageWeakRef, int]] = {}
        self._sum = 0

    def on_host(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return a tensor like `tensor` on the host, without values."""
        with self.fake:
            return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cpu")

    @property
    def used(self) -> int:
        """Bytes of the tensors that are currently on the device."""
        self.sweep()
        return self._sum

    def __torch_dispatch__(self, operation: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation, with values if all of its tensors are on the host."""
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        target = torch.device(kwargs["device"]) if kwargs.get("device") is not None else None
        if not any(isinstance(each, FakeTensor) for each in tensors) and (target is None or target.type == "cpu"):
            return operation(*args, **kwargs)
        if operation is aten._local_scalar_dense.default:
            return self.read(tensors[0])
        if operation in _RANDOM:
            return args[0]
        if operation is aten.nonzero.default:
            self._wait("nonzero")
            return self._create(aten.new_empty.default, (tensors[0], [1, tensors[0].dim()]), {"dtype": torch.long})
        if operation is aten._to_copy.default and target is not None and not self.moves_weights:
            source = tensors[0]
            if target.type == "cpu" and source.device.type == "cuda":
                self._wait("to host")
                return torch.zeros(source.shape, dtype=kwargs.get("dtype") or source.dtype)
            if target.type == "cuda" and source.device.type == "cpu":
                self._wait("to device")
        return self._create(operation, args, kwargs)

    def read(self, tensor: torch.Tensor) -> Any:
        """Return the value in `tensor` and record that the host waits for it."""
        self._wait("item")
        return True if tensor.dtype is torch.bool else torch.zeros((), dtype=tensor.dtype).item()

    def attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attn_mask: torch.Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
    ) -> torch.Tensor:
        """Compute attention in the kernel that torch chooses on a device of compute capability 8 or 9, without cuDNN's.

        Raises:
            torch.AcceleratorError: the batch has more rows than the kernel takes.
        """
        half = query.dtype in {torch.float16, torch.bfloat16}
        if half and attn_mask is None and query.shape[-1] <= _MOST_HEAD:
            self.attention["flash"] += 1
            if len(query) > _MOST_ROWS:
                raise torch.AcceleratorError("CUDA error: invalid configuration argument")
            kernel = aten._scaled_dot_product_flash_attention.default
            made = kernel(query, key, value, dropout_p, is_causal, scale=scale)
        else:
            self.attention["memory-efficient" if attn_mask is None else "memory-efficient with a mask"] += 1
            kernel = aten._scaled_dot_product_efficient_attention.default
            made = kernel(query, key, value, attn_mask, compute_log_sumexp=False, dropout_p=dropout_p, scale=scale)
        attended: torch.Tensor = made[0]
        return attended

    def _create(self, operation: Any, args: Any, kwargs: Any) -> Any:
        with self.fake:
            args, kwargs = tree_map(_without_values, (args, kwargs))
            made = operation(*args, **kwargs)
        for each in tree_leaves(made):
            if isinstance(each, FakeTensor) and each.device.type == "cuda":
                self._account(each)
        return made

    def _account(self, tensor: torch.Tensor) -> None:
        storage = StorageWeakRef(tensor.untyped_storage())
        size = tensor.untyped_storage().nbytes()
        kept = self._weights if self.moves_weights else self._living
        for known in (self._weights, self._living):
            before = known.get(storage.cdata)
            if before is not None and not before[0].expired():
                return
            if before is not None:
                del known[storage.cdata]
                self._sum -= before[1]
        kept[storage.cdata] = storage, size
        self._sum += size
        # Deleted tensors stay in the sum until it reaches a limit.
        if self._sum > self.room or (self._sum > self.peak and not self.moves_weights):
            self.sweep(weights=self._sum > self.room)
            if self._sum > self.room:
                del kept[storage.cdata]
                self._sum -= size
                raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {size / 2**20:.2f} MiB.")
            self.peak = max(self.peak, self._sum)

    def sweep(self, *, weights: bool = True) -> None:
        """Drop the records of deleted tensors, except `weights` of modules that have not been moved since."""
        if weights:
            self._weights = {key: one for key, one in self._weights.items() if not one[0].expired()}
        self._living = {key: one for key, one in self._living.items() if not one[0].expired()}
        self._sum = sum(size for each in (self._weights, self._living) for _, size in each.values())

    def _wait(self, kind: str) -> None:
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and not any(name in frame.f_code.co_filename for name in PACKAGES):
            frame = frame.f_back
        where = ("", "") if frame is None else (frame.f_globals["__name__"], frame.f_code.co_name)
        self.waits[Wait(kind, *where)] += 1


def _without_values(value: Any) -> Any:
    """Return a tensor of the host without its values, so that torch does not compute with them in advance."""
    if not isinstance(value, torch.Tensor) or isinstance(value, FakeTensor):
        return value
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="cpu")


@contextmanager
def pretended(room: float = float("inf")) -> Iterator[PretendedCuda]:
    """Simulate one CUDA device of `room` bytes within the block."""
    device = PretendedCuda(room)
    with ExitStack() as stack:
        # Also called inside torch's operations, where function modes are not active.
        replaced = [(FakeTensor, "contiguous", _contiguous), (torch.nn.Module, "_apply", _moved(device))]
        for target, name, value in (*_patches(device), *replaced):
            stack.enter_context(mock.patch.object(target, name, value, create=True))
        stack.enter_context(_Methods(device))
        yield stack.enter_context(device)


def without_values(device: PretendedCuda, make: Callable[[], T]) -> T:
    """Return the dictionary of modules that `make` returns, on the host and without values."""
    with torch.device("meta"):
        modules = make()
    for module in modules.values():
        module._apply(device.on_host)
    return modules


def _patches(device: PretendedCuda) -> list[tuple[Any, str, Any]]:
    cuda = torch.cuda
    return [
        # Torch calls this when the first tensor is created on a CUDA device.
        (cuda, "_lazy_init", lambda: None),
        (cuda, "is_available", lambda: True),
        (cuda, "device_count", lambda: 1),
        (cuda, "get_device_name", lambda *_: "pretended"),
        (cuda, "synchronize", lambda *_: None),
        (cuda, "empty_cache", lambda: None),
        (cuda, "current_stream", lambda *_: None),
        (cuda, "Event", mock.Mock),
        (cuda, "mem_get_info", lambda *_: (int(min(device.room, 1e12)) - device.used, int(min(device.room, 1e12)))),
        (cuda, "memory_reserved", lambda *_: device.used),
    ]


class _Methods(TorchFunctionMode):
    """Replaces what needs a device guard or a device's kernels, which a build of torch without CUDA lacks."""

    def __init__(self, device: PretendedCuda) -> None:
        super().__init__()
        self._attend = device.attend
        # Some of them are called where torch has disabled this dispatch mode.
        self._reads = {
            torch.Tensor.item: device.read,
            torch.Tensor.__bool__: lambda tensor: bool(device.read(tensor)),
            torch.Tensor.__float__: lambda tensor: float(device.read(tensor)),
            torch.Tensor.__int__: lambda tensor: int(device.read(tensor)),
            torch.Tensor.__index__: lambda tensor: operator.index(device.read(tensor)),
        }

    def __torch_function__(self, function: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the function, or its replacement for a tensor without values."""
        if function in self._reads and isinstance(args[0], FakeTensor):
            return self._reads[function](args[0])
        if function is F.scaled_dot_product_attention and args[0].device.type == "cuda":
            return self._attend(*args, **(kwargs or {}))
        if function is torch.Tensor.to:
            function = _to
        elif function in _REPLACED and isinstance(args[0], FakeTensor):
            function = _REPLACED[function]
        return function(*args, **(kwargs or {}))


def _item_of(tensor: Any, key: Any) -> Any:
    keys = key if isinstance(key, tuple) else (key,)
    named = sum(each is not None and each is not Ellipsis for each in keys)
    dimension = 0
    for each in keys:
        if each is None:
            tensor, dimension = tensor.unsqueeze(dimension), dimension + 1
        elif each is Ellipsis:
            dimension += tensor.dim() - named
        elif isinstance(each, slice):
            tensor = aten.slice.Tensor(tensor, dimension, each.start, each.stop, each.step or 1)
            dimension += 1
        else:
            tensor = tensor.select(dimension, int(each))
        named -= each is not None and each is not Ellipsis
    return tensor


def _to(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    if args and isinstance(args[0], torch.Tensor):
        args = (args[0].device, args[0].dtype, *args[1:])
    parse: Any = torch._C._nn._parse_to  # its stub omits that each part may be `None`
    named = {name: value for name, value in kwargs.items() if name != "copy"}
    device, dtype, _, memory_format = parse(*args, **named)
    if device is None or device.type == "cpu":
        return torch.Tensor.to(tensor, *args, **kwargs)
    device = torch.device(device.type, device.index or 0)
    if device == tensor.device and dtype in (None, tensor.dtype) and memory_format is None:
        return tensor
    moved: torch.Tensor = aten._to_copy.default(tensor, dtype=dtype, device=device, memory_format=memory_format)
    return moved


def _contiguous(tensor: Any, memory_format: torch.memory_format = torch.contiguous_format) -> Any:
    if tensor.is_contiguous(memory_format=memory_format):
        return tensor
    return aten.clone.default(tensor, memory_format=memory_format)


_REPLACED: Final = {
    torch.Tensor.__getitem__: _item_of,
    torch.Tensor.cpu: lambda tensor: aten._to_copy.default(tensor, device=torch.device("cpu")),
    torch.Tensor.copy_: aten.copy_.default,
    torch.Tensor.nonzero: aten.nonzero.default,
}


def _moved(device: PretendedCuda) -> Callable[..., Any]:
    """Return a replacement of `Module._apply` that replaces the tensors, which cannot replace absent values."""

    def apply(module: Any, move: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Any:
        outer, device.moves_weights = device.moves_weights, True
        try:
            for child in module.children() if recurse else ():
                apply(child, move)
            for name, weight in module._parameters.items():
                if weight is not None:
                    module._parameters[name] = torch.nn.Parameter(move(weight), requires_grad=False)
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[name] = move(buffer)
        finally:
            device.moves_weights = outer
            if not outer:
                device.sweep()
                device.peak = max(device.peak, device.used)
        return module

    return apply

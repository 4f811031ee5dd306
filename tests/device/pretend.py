"""A second device, "pretend:0", that lives in this process and computes on the CPU.

It is as strict as an accelerator: a tensor there meets no tensor of the CPU but a single number
or an index, and no generator of the CPU. What would make the CPU wait is counted in `COUNTS`.
It is torch's Python backend (torch >= 2.11), and may be set up once in a process.
"""

from collections import Counter

import torch
from torch.utils import _pytree, backend_registration

NAME = "pretend"
COUNTS = Counter()
"""reads: how often the CPU waited for the device; sends: tensors that were copied to it."""

_ONE_NUMBER = {"_local_scalar_dense", "is_nonzero", "equal"}
_SIZE_BY_VALUES = {"nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive"}
_INDEXED = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"}
_KEPT = []  # what torch must not lose


def available():
    """Whether this torch has such backends."""
    return hasattr(backend_registration, "_setup_privateuseone_for_python_backend")


class There(torch.Tensor):
    """A tensor of the device; `here` are its numbers."""

    @staticmethod
    def __new__(cls, here):
        make = torch.Tensor._make_wrapper_subclass
        strides = {"strides": here.stride(), "storage_offset": here.storage_offset()}
        return make(cls, here.shape, **strides, dtype=here.dtype, device=f"{NAME}:0")

    def __init__(self, here):
        self.here = here

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if function is torch.Tensor.tolist:  # torch has none for such a class
            return args[0].cpu().tolist()
        with torch._C.DisableTorchFunctionSubclass():
            answer = function(*args, **(kwargs or {}))
        if function == torch.Tensor.data.__set__ and isinstance(args[0], There):
            args[0].here = args[1].here
        return answer

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return _run(function, args, kwargs or {})


def _here(value):
    if isinstance(value, torch.device):
        return torch.device("cpu")
    return value.here if isinstance(value, There) else value


def _there(value):
    return There(value) if isinstance(value, torch.Tensor) else value


def _copied(args, kwargs):
    target, source = kwargs.get("device"), args[0]
    named = {**kwargs, "device": None}
    copy = torch.ops.aten._to_copy.default(_here(source), **named)
    stays = isinstance(source, There) if target is None else torch.device(target).type == NAME
    COUNTS["reads"] += isinstance(source, There) and not stays
    COUNTS["sends"] += stays and not isinstance(source, There)
    return There(copy) if stays else copy


def _written(to, source, *rest):
    COUNTS["reads"] += isinstance(source, There) and not isinstance(to, There)
    COUNTS["sends"] += isinstance(to, There) and not isinstance(source, There)
    _here(to).copy_(_here(source), *rest)
    return to


def _check_met(name, values, args):
    """One device, but for single numbers and what is an index."""
    free = [id(v) for v in _pytree.tree_leaves(args[1])] if name in _INDEXED else []
    tensors = [v for v in values if isinstance(v, torch.Tensor)]
    if any(isinstance(v, There) for v in tensors):
        strangers = [v for v in tensors if not isinstance(v, There)]
        met = [v for v in strangers if v.dim() > 0 and id(v) not in free]
        if met or (name in _INDEXED and not isinstance(args[0], There)):
            raise RuntimeError(f"{name}: tensors on two devices, {NAME} and cpu")
        COUNTS["sends"] += sum(id(v) in free for v in strangers)
        if any(isinstance(v, torch.Generator) for v in values):
            raise RuntimeError(f"{name}: a generator of the cpu for a tensor on {NAME}")


def _waits(name, args, values):
    by_mask = name in _INDEXED and any(
        isinstance(v, There) and v.dtype in (torch.bool, torch.uint8)
        for v in _pytree.tree_leaves(args[1])
    )
    by_lengths = name == "repeat_interleave" and isinstance(args[-1], There)
    return name in _ONE_NUMBER | _SIZE_BY_VALUES or by_mask or by_lengths


def _run(function, args, kwargs):
    name = function._schema.name.removeprefix("aten::")
    if name == "_to_copy":
        return _copied(args, kwargs)
    if name == "copy_":
        return _written(*args)
    values, form = _pytree.tree_flatten((args, kwargs))
    _check_met(name, values, args)
    COUNTS["reads"] += _waits(name, args, values)
    args_here, kwargs_here = _pytree.tree_unflatten([_here(v) for v in values], form)
    answer = function(*args_here, **kwargs_here)
    if function.is_view and not args[0].is_inference():
        with torch.inference_mode(False):  # a view of a tensor is one of its kind
            return _pytree.tree_map(_there, answer)
    written = [
        args[place] if place < len(args) else kwargs.get(argument.name)
        for place, argument in enumerate(function._schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    ]
    if function._schema.is_mutable and written:
        returned = function._schema.returns
        if not returned or returned[0].alias_info is None:
            return _pytree.tree_map(_there, answer)
        return written[0] if len(returned) == 1 else tuple(written[: len(returned)])
    on_cpu = kwargs.get("device") is not None and torch.device(kwargs["device"]).type == "cpu"
    return answer if on_cpu else _pytree.tree_map(_there, answer)


def _factories():
    """Names and operations that make a tensor out of no tensor, on a device that they are told."""
    for full in torch._C._dispatch_get_all_op_names():
        space, _, name = full.partition("::")
        packet, _, overload = name.partition(".")
        if space != "aten":
            continue
        try:
            found = getattr(getattr(torch.ops.aten, packet), overload or "default")
        except (AttributeError, RuntimeError):
            continue
        arguments = found._schema.arguments
        told = any(argument.name == "device" for argument in arguments)
        if told and not any("Tensor" in str(argument.type) for argument in arguments):
            yield name, found


def _made(function):
    def made(*args, **kwargs):
        if kwargs.get("generator") is not None:
            raise RuntimeError(f"{function}: a generator of the cpu for a tensor on {NAME}")
        return _there(function(*args, **{**kwargs, "device": "cpu"}))

    return made


def set_up():
    """Make the device known to torch."""
    backend_registration._setup_privateuseone_for_python_backend(NAME)
    library = torch.library.Library("aten", "IMPL")
    _KEPT.append(library)
    library.impl("_copy_from", lambda source, to, *rest: _written(to, source, *rest), "PrivateUse1")
    for name, function in _factories():
        try:
            library.impl(name, _made(function), "PrivateUse1")
        except RuntimeError:  # torch takes none of its own compositions
            continue

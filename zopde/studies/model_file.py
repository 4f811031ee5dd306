"""A trained network as one file: its tensors, and in the metadata how to build it."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

import msgspec
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from zopde import __version__
from zopde.errors import InputError
from zopde.files import identity_of, key_of, reading, write_bytes
from zopde.plugins import load_object
from zopde.seeding import generator, global_stream

_EXPECTED = "a model.safetensors of a zopde run"
_MOST = 2**16  # no network of a plan has more of anything, unless its tensors are that large
Network = TypeVar("Network", bound=nn.Module)


def named_network(kind: str) -> Callable[..., nn.Module]:
    """The class of a network, or a function that makes one, by its name and module or file."""
    factory = load_object(kind, what="network")
    # A model file may come from anywhere: what it names must not be, say, os:kill.
    if inspect.isfunction(factory) or (inspect.isclass(factory) and issubclass(factory, nn.Module)):
        return cast(Callable[..., nn.Module], factory)
    raise InputError("network", got=repr(kind), expected="the class of a network")


def check_storable(network: nn.Module) -> None:
    """Require tensors of types that a model file can hold."""
    held = (*network.parameters(), *network.buffers())
    if any(value.dtype == torch.complex128 for value in held):
        raise InputError("network", got="complex128 tensors", expected="complex64 or real ones")


def write_model(
    path: Path, kind: str, plan: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> None:
    """Write a safetensors file whole or not at all; `plan` tells how to build the network."""
    # Copies: the format refuses tensors that share memory, as tied weights do.
    plain = {name: value.contiguous().cpu().clone() for name, value in tensors.items()}
    plan = {**plan, "zopde": __version__}
    plan["checksum"] = _checksum(plan, plain)
    # One entry: several would be written in an order that changes from run to run.
    write_bytes(path, save(plain, {kind: json.dumps(plan)}))


def read_model(
    path: Path | str, kind: str, types: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(plan, tensors) of a file that `write_model` wrote; the plan has entries of these types."""
    with reading("model file", path, _EXPECTED), _opened(path) as file:
        plan = json.loads((file.metadata() or {})[kind])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        checksum = plan.pop("checksum", None)  # older versions wrote none
        if checksum is not None and checksum != _checksum(plan, tensors):
            raise ValueError("its checksum is wrong")
        if not plan.keys() <= {*types, "zopde"}:
            raise ValueError(f"a plan of {', '.join(plan)}")
        if not all(bool(value.isfinite().all()) for value in tensors.values()):
            raise ValueError("weights that are not finite")
        plan |= {name: msgspec.convert(plan.get(name), type_) for name, type_ in types.items()}
        _check_sizes(plan, tensors)
        return plan, tensors


def kinds_of(path: Path | str) -> set[str]:
    """What sorts of network a safetensors file says it holds."""
    with reading("model file", path, _EXPECTED), _opened(path) as file:
        return set(file.metadata() or {})


def _opened(path: Path | str) -> Any:  # noqa: ANN401 - of a library without types
    if not Path(path).is_file():
        raise InputError("model file", got=f"{path}, which is no file", expected=_EXPECTED)
    return safe_open(path, framework="pt")


def built(
    path: Path | str, make: Callable[[], Network], tensors: Mapping[str, Tensor], own: bool = True
) -> Network:
    """The network of a file, in eval mode. `own`: without memory first, to compare the shapes.

    The weights that it is built with are thrown away, so no random stream may notice them.
    """
    with reading("model file", path, _EXPECTED), global_stream(generator(0, "weights")):
        if own:
            with torch.device("meta"):
                planned = {name: value.shape for name, value in make().state_dict().items()}
            if planned != {name: value.shape for name, value in tensors.items()}:
                raise ValueError("tensors of another network than its plan")
        network = make()
        network.load_state_dict(tensors)
        return network.eval()


def _check_sizes(plan: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Require whole numbers, also of the tables in a plan, that its tensors bear out."""
    most = max((_MOST, *(n for value in tensors.values() if value.numel() for n in value.shape)))
    for name, value in plan.items():
        if isinstance(value, Mapping):
            _check_sizes(value, tensors)
        limit: float = len(tensors) if name in ("depth", "blocks") else most
        limit = math.inf if isinstance(value, float) else limit
        if isinstance(value, int | float) and not 0 <= value <= limit:
            raise ValueError(f"{name} = {value}, which its tensors do not bear out")


def _checksum(plan: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    names = sorted(tensors)
    words = json.dumps([plan, names], sort_keys=True)
    return key_of(identity_of(words), *(tensors[name] for name in names)).hex()

"""A trained network as one file: its tensors, and in the metadata how to build it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from zopde import __version__
from zopde.errors import InputError, first_line
from zopde.files import replacing
from zopde.seeding import generator, global_stream

M = TypeVar("M", bound=nn.Module)


def write_model(
    path: Path, kind: str, plan: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> None:
    """Write a safetensors file whole or not at all; `plan` tells how to build the network."""
    plain = {name: value.contiguous().cpu() for name, value in tensors.items()}
    # One entry: several would be written in an order that changes from run to run.
    with replacing(path) as partial:
        save_file(plain, partial, {kind: json.dumps({**plan, "zopde": __version__})})


def read_model(path: Path | str, kind: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(plan, tensors) of a file that `write_model` wrote."""
    with _opened(path) as file:
        plan = json.loads((file.metadata() or {})[kind])
        return plan, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def restored(build: Callable[[], M], state: Mapping[str, Tensor]) -> M:
    """A network with the weights of a file, in eval mode.

    The weights that it is built with are thrown away, so no random stream may notice them.
    """
    with global_stream(generator(0, "weights")):
        network = build()
    network.load_state_dict(state)
    return network.eval()


def kinds_of(path: Path | str) -> set[str]:
    """What sorts of network a safetensors file says it holds."""
    with _opened(path) as file:
        return set(file.metadata() or {})


@contextmanager
def _opened(path: Path | str) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        reason = first_line(error)
        raise InputError(
            "model file", got=f"{path} ({reason})", expected="a model.safetensors of a zopde run"
        ) from error

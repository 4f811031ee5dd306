"""Checkpoints: written whole or not at all, read without running anything."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from zopde.errors import InputError, first_line
from zopde.files import replacing


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write `state` (tensors and plain values) so that a kill leaves the old file or the new."""
    with replacing(path) as partial, partial.open("wb") as file:
        torch.save(state, file)


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """Read a checkpoint, with `weights_only=True`; None where there is no such file.

    Raises:
        InputError: If the file is not a complete checkpoint.
    """
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise InputError(
            f"checkpoint {path}",
            got=f"unreadable ({first_line(error)})",
            expected="a checkpoint of zopde",
            remedy="delete it to train this label again, or start over with --overwrite",
        ) from error
    return state

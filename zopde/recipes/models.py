"""Trained correctors as files: weights, normalisation and how to build them, in one."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from zopde import __version__
from zopde.errors import InputError, first_line
from zopde.nets import Normalised, build_corrector
from zopde.recipes.config import CorrectionConfig


def save_corrector(network: Normalised, config: CorrectionConfig, path: Path) -> None:
    """Write weights and normalisation as safetensors, the architecture in its metadata."""
    body = network.body
    plan = {
        "kind": config.corrector.kind,
        "sizes": config.corrector.sizes,
        "inputs": len(network.input_scale),
        "outputs": len(_output_scale(network)),
        "padding": _padding(body),
        "inject": network.inject,
        "solver": config.solver.spec,
        "zopde": __version__,
    }
    # One entry: several would be written in an order that changes from run to run.
    metadata = {"corrector": json.dumps(plan)}
    partial = path.with_suffix(".partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.contiguous().cpu() for name, value in network.state_dict().items()}
    save_file(tensors, partial, metadata)
    partial.replace(path)


def load_corrector(path: Path | str) -> Normalised:
    """The corrector of a `model.safetensors`, ready for `CorrectedSolver`.

    Args:
        path: A file that a correction run wrote.

    Returns:
        The network in eval mode, with the precision it was trained in; its `inject` tells
        `CorrectedSolver` where the correction belongs.

    Raises:
        InputError: If the file is missing or no model of zopde.

    Example:
        >>> from zopde import CorrectedSolver, load_corrector, load_solver
        >>> def corrected(run):
        ...     network = load_corrector(run / "ZO-weights" / "seed-0" / "model.safetensors")
        ...     return CorrectedSolver(load_solver("burgers"), network)
    """
    try:
        with safe_open(path, framework="pt") as file:
            plan = json.loads((file.metadata() or {})["corrector"])
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        reason = first_line(error)
        raise InputError(
            "model file", got=f"{path} ({reason})", expected="a model.safetensors of a zopde run"
        ) from error
    body = build_corrector(
        plan["kind"], plan["inputs"], plan["outputs"], plan["padding"], plan["sizes"]
    )
    scale = state["state_scale"]
    forcing_scale = torch.ones(plan["inputs"] - len(scale))
    inject = plan.get("inject", "after")  # as every file before there was a choice
    network = Normalised(body, scale, forcing_scale, scale.dim() - 1, inject)
    network.to(scale.dtype).load_state_dict(state)
    return network.eval()


def _output_scale(network: Normalised) -> torch.Tensor:
    return network.state_scale if network.output_scale is None else network.output_scale


def _padding(body: torch.nn.Module) -> str:
    convolution = next(m for m in body.modules() if isinstance(m, torch.nn.Conv2d))
    return "periodic" if convolution.padding_mode == "circular" else "zero"

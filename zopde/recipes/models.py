"""Trained correctors as files: weights, normalisation and how to build them, in one."""

from __future__ import annotations

from pathlib import Path

import torch

from zopde.nets import Normalised, build_corrector
from zopde.recipes.config import CorrectionConfig
from zopde.recipes.model_file import read_model, write_model


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
    }
    write_model(path, "corrector", plan, network.state_dict())


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
    plan, state = read_model(path, "corrector")
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

"""What a network has found inside the solver: the parameter f exp(C) of every step of a rollout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from zopde.blackbox.wrapper import Wrapper
from zopde.contracts import Domain, Forcing, Solver, State
from zopde.data import Trajectories, load_rollout
from zopde.report.fields import draw_parameter
from zopde.report.page import Drawn
from zopde.studies.correct.evaluate import finite, save_states
from zopde.studies.folder import RunFolder

FILE = "parameter.nc"  # of a training: (simulation, time, parameter, *space)
GUESS = "first_guess.nc"  # of the run: the same before any training, f


@final
class Recorded(Wrapper):
    """Keeps what each step of a solver is given as its forcing: with a network, f exp(C)."""

    def __init__(self, solver: Solver) -> None:
        super().__init__(solver)
        self._given: list[Tensor] = []  # shared with the twins of `with_seed`

    def step(self, state: State, forcing: Forcing | None = None) -> State:
        """One step; see `zopde.Solver.step`."""
        assert forcing is not None, "a parameter is a forcing channel"
        self._given.append(forcing.detach().cpu().clone())
        return self._solver.step(state, forcing)

    def given(self, every: int) -> Tensor:
        """(batch, time, parameter, *space), of the first of every so many steps."""
        return torch.stack(self._given[::every], dim=1)


def first_guess(test: Trajectories, names: Sequence[str]) -> Tensor:
    """(simulation, time, parameter, *space), what the unseen runs' data hold of the parameters.

    The states follow a correction each, as `Trajectories.strided` has them. The parameters are the
    first of the forcing channels; others are for the network alone.
    """
    assert test.forcing is not None, "a parameter is a forcing channel"
    given = test.forcing[:, : test.steps].cpu()
    several = given.dim() > test.states.dim()  # one for each step to a correction
    return (given[:, :, 0] if several else given)[:, :, : len(names)]


def save_given(given: Tensor, test: Trajectories, names: Sequence[str], path: Path) -> None:
    """Write (simulation, time, parameter, *space) as rollouts are written."""
    whole: Any = test.grid
    units = {name: unit for name, unit in whole.units.items() if name not in whole.channels}
    grid = replace(whole, channels=tuple(names), forcing_channels=(), units=units)
    save_states(given, Trajectories(grid, given, None, test.settings), path)


def found_in(
    test: Trajectories, names: Sequence[str], found: Mapping[str, Sequence[Tensor | None]]
) -> dict[str, Any]:
    """Mean, least and largest of each parameter, of the first guess and of every label.

    Over seeds, unseen runs, times and the fluid; the mean is by the weights of the cells. None
    where a rollout diverged.

    Args:
        test: The unseen runs.
        names: Of the parameters.
        found: Label -> (simulation, time, parameter, *space) of every seed; None without any.
    """
    guess = {"first_guess": _told(first_guess(test, names), names, test.grid)}
    given = {label: [one for one in of if one is not None] for label, of in found.items()}
    return guess | {k: _told(torch.stack(of), names, test.grid) for k, of in given.items() if of}


def _told(given: Tensor, names: Sequence[str], grid: Domain) -> dict[str, Any]:
    values = grid.fluid_values(given).double()
    weights = values.new_ones(values.shape[-1])
    if grid.cell_weights is not None:
        weights = grid.fluid_values(grid.cell_weights).to(values)
    means = (values * weights).sum(dim=-1) / weights.sum()
    return {
        name: {
            "mean": finite(mean.mean()),
            "min": finite(whole.min()),
            "max": finite(whole.max()),
        }
        for name, mean, whole in zip(names, means.unbind(-1), values.unbind(-2), strict=True)
    }


def parameter_drawn(folder: RunFolder, labels: Sequence[str], seed: int) -> dict[str, Drawn]:
    """The first guess beside what every label found, as far as the run keeps it.

    Of the first unseen run at its first state, which all labels share.
    """
    paths = {label: folder.of(label, seed) / FILE for label in labels}
    found = {label: load_rollout(path) for label, path in paths.items() if path.exists()}
    if not (found and (folder.root / GUESS).exists()):
        return {}
    guess = load_rollout(folder.root / GUESS)
    fields = {label: given.states[0, 0] for label, given in found.items()}
    drawn = Drawn(
        draw_parameter({"first guess": guess.states[0, 0], **fields}, guess.grid),
        "The learned parameter, label beside label",
        f"The first unseen run at its first state, seed {seed}. First guess: what the data hold.",
    )
    return {"parameter": drawn}

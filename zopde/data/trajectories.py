"""Reference trajectories, and their form as an xarray Dataset."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from zopde.contracts import ReferenceSolver
from zopde.errors import InputError
from zopde.grid import Grid

Settings = dict[str, Any]


@dataclass(frozen=True)
class Trajectories:
    """Reference states of several simulations on one grid.

    Args:
        grid: The (coarse) grid.
        states: (simulation, time, channel, *space).
        forcing: (simulation, time, forcing_channel, *space), or None; entry t drove the step
            from t to t + 1.
        settings: Everything that decided the numbers; plain values, by name.
    """

    grid: Grid
    states: Float[Tensor, "simulation time channel *space"]
    forcing: Float[Tensor, "simulation time forcing_channel *space"] | None = None
    settings: Settings = field(default_factory=dict)

    @property
    def simulations(self) -> int:
        """Number of simulations."""
        return self.states.shape[0]

    @property
    def steps(self) -> int:
        """Number of steps of each simulation; it has one more state than that."""
        return self.states.shape[1] - 1

    def take(self, simulations: slice) -> Trajectories:
        """Some of the simulations."""
        forcing = None if self.forcing is None else self.forcing[simulations]
        return replace(self, states=self.states[simulations], forcing=forcing)

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Trajectories:
        """The same numbers elsewhere."""
        forcing = None if self.forcing is None else self.forcing.to(device, dtype)
        return replace(self, states=self.states.to(device, dtype), forcing=forcing)

    def state_scale(self) -> Float[Tensor, " channel"]:
        """Standard deviation of every state channel over simulations, time and space."""
        return _scale(self.states)

    def forcing_scale(self) -> Float[Tensor, " forcing_channel"]:
        """Likewise of every forcing channel; empty without forcing."""
        return self.states.new_zeros(0) if self.forcing is None else _scale(self.forcing)


def simulate(
    solver: ReferenceSolver,
    coarse: Callable[[Tensor], Tensor],
    coarse_grid: Grid,
    simulations: int,
    skip: int,
    steps: int,
    generator: torch.Generator,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    progress: Callable[[int], None] | None = None,
    coarse_forcing: Callable[[Tensor], Tensor] | None = None,
) -> Trajectories:
    """Run a fine solver from random scenarios and keep what the coarse grid can hold.

    Args:
        solver: The solver on the fine grid.
        coarse: Brings (batch, channel, *fine) to the coarse grid, for example `downsample`.
        coarse_grid: The grid it arrives on.
        simulations: Number of random cases, >= 1.
        skip: Steps before the first kept state, >= 0.
        steps: Steps kept; there is one more state than that.
        generator: Draws the scenarios.
        dtype: Precision of solver and result.
        device: Where to compute.
        progress: Called with 1 after every solver step.
        coarse_forcing: Brings a forcing to the coarse grid; left out, `coarse` does.
    """
    bring_forcing = coarse_forcing or coarse
    scenario = solver.scenario(simulations, generator)
    state = scenario.initial.to(device, dtype)
    states, forcings = [], []
    for t in range(skip + steps + 1):
        forcing = scenario.forcing(t).to(device, dtype) if scenario.forcing else None
        if t >= skip:
            states.append(coarse(state))
            if forcing is not None:
                forcings.append(bring_forcing(forcing))
        if t < skip + steps:
            state = solver.step(state, forcing)
            if progress:
                progress(1)
    stacked = torch.stack(forcings, dim=1) if forcings else None
    return Trajectories(coarse_grid, torch.stack(states, dim=1), stacked)


def to_dataset(trajectories: Trajectories) -> xr.Dataset:
    """As a Dataset with dims (simulation, time, *space) and a variable per channel."""
    grid = trajectories.grid
    dims = ("simulation", "time", *grid.dims)
    variables: dict[str, Any] = {}
    for names, values in (
        (grid.channels, trajectories.states),
        (grid.forcing_channels, trajectories.forcing),
    ):
        for i, name in enumerate(names):
            assert values is not None
            data = values[:, :, i].cpu().numpy()
            variables[name] = (dims, data, {"units": grid.unit(name)})
    start = int(trajectories.settings.get("skip", 0))
    time = (start + np.arange(trajectories.steps + 1)) * grid.dt
    coords: dict[str, Any] = {
        "simulation": np.arange(trajectories.simulations),
        "time": ("time", time, {"units": grid.unit("time")}),
    }
    for axis, dim in enumerate(grid.dims):
        coords[dim] = (dim, grid.centres(axis), {"units": grid.unit("space")})
    attributes = {
        "dt": grid.dt,
        "extent": list(grid.extent),
        "boundary": grid.boundary,
        "settings": json.dumps(trajectories.settings, sort_keys=True),
    }
    for name in ("solver", "seed", "zopde_version"):
        if name in trajectories.settings:
            attributes[name] = trajectories.settings[name]
    return xr.Dataset(variables, coords, attributes)


def from_dataset(dataset: xr.Dataset, grid: Grid) -> Trajectories:
    """Read a Dataset back, checking it against the grid of the solver that will use it.

    Args:
        dataset: As `to_dataset` writes it; a user's own needs the dims, a variable per channel
            and, if present, agreeing attributes `dt` and `extent`.
        grid: What the solver expects.

    Raises:
        InputError: On a missing variable, other dims or shape, NaN, or another dt or extent.
    """
    if len(dataset.get("time", ())) > 1 and "dt" not in dataset.attrs:
        spacing = float(dataset["time"][1] - dataset["time"][0])
        if "time" in dataset.coords and not np.isclose(spacing, grid.dt):
            raise InputError("data time", got=f"steps of {spacing:g}", expected=f"{grid.dt:g}")
    dims = ("simulation", "time", *grid.dims)
    for name in (*grid.channels, *grid.forcing_channels):
        _check_variable(dataset, name, dims, grid)
    for name, expected in (("dt", [grid.dt]), ("extent", list(grid.extent))):
        found = dataset.attrs.get(name, expected)
        if not _close(found, expected):
            raise InputError(f"data {name}", got=found, expected=str(expected))
    states = _stack(dataset, grid.channels, dims)
    forcing = _stack(dataset, grid.forcing_channels, dims) if grid.forcing_channels else None
    if states.shape[1] < 2:
        raise InputError("data", got=f"{states.shape[1]} times", expected="at least 2")
    return Trajectories(grid, states, forcing, _settings(dataset))


def from_own(dataset: xr.Dataset) -> Trajectories:
    """Read back what `to_dataset` wrote, with the grid recorded in it; states may be NaN."""
    names = tuple(map(str, dataset.data_vars))
    dims = tuple(map(str, dataset[names[0]].dims))
    boundary = dataset.attrs["boundary"]
    grid = Grid(
        shape=tuple(dataset.sizes[dim] for dim in dims[2:]),
        extent=tuple(float(length) for length in np.atleast_1d(dataset.attrs["extent"])),
        dt=float(dataset.attrs["dt"]),
        channels=names,
        dims=dims[2:],
        boundary="periodic" if boundary == "periodic" else "open",
        units={
            **{name: str(dataset[name].attrs.get("units", "1")) for name in (*names, "time")},
            "space": str(dataset[dims[2]].attrs.get("units", "1")),
        },
    )
    return Trajectories(grid, _stack(dataset, names, dims), None, _settings(dataset))


def _settings(dataset: xr.Dataset) -> Settings:
    try:
        settings = json.loads(dataset.attrs.get("settings", "{}"))
    except (TypeError, ValueError):
        settings = None
    if not isinstance(settings, dict):
        raise InputError("data attribute 'settings'", got="no JSON object", expected="one, or none")
    return settings


def _close(found: object, expected: list[float]) -> bool:
    try:
        return bool(np.allclose(np.atleast_1d(np.asarray(found, dtype=float)), expected))
    except (TypeError, ValueError):
        return False


def _check_variable(dataset: xr.Dataset, name: str, dims: tuple[str, ...], grid: Grid) -> None:
    if name not in dataset:
        known = ", ".join(map(str, dataset.data_vars)) or "nothing"
        raise InputError("data", got=f"variables {known}", expected=f"a variable {name!r}")
    variable = dataset[name]
    if set(variable.dims) != set(dims):
        raise InputError(f"data {name!r}", got=f"dims {variable.dims}", expected=str(dims))
    if not np.issubdtype(variable.dtype, np.floating):
        raise InputError(f"data {name!r}", got=f"type {variable.dtype}", expected="real numbers")
    shape = tuple(variable.sizes[dim] for dim in grid.dims)
    if shape != grid.shape:
        raise InputError(f"data {name!r}", got=f"{shape} cells", expected=f"{grid.shape}")
    finite = np.isfinite(variable.values)
    if not finite.all():
        where = tuple(int(i) for i in np.argwhere(~finite)[0])
        raise InputError(
            f"data {name!r}", got=f"NaN or infinity, first at {where}", expected="finite values"
        )


def _stack(dataset: xr.Dataset, names: tuple[str, ...], dims: tuple[str, ...]) -> Tensor:
    arrays = [dataset[name].transpose(*dims).values for name in names]
    return torch.from_numpy(np.stack(arrays, axis=2))


def _scale(values: Tensor) -> Tensor:
    per_channel = values.transpose(0, 2).flatten(1)
    # A constant channel carries nothing to scale; dividing by 1 leaves it alone.
    deviation = per_channel.std(dim=1)
    return torch.where(deviation > 0, deviation, torch.ones_like(deviation))

"""Reference trajectories: how a fine solver makes them; as an xarray Dataset, and as NetCDF4."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float
from torch import Tensor

from zopde.contracts import Domain, ReferenceSolver
from zopde.data.deviations import deviations
from zopde.data.fitting import fitted
from zopde.data.layout import PARTS, domain_of, layout_of
from zopde.data.sources import Files, Said, check_alike, data_files, read_data, said_by
from zopde.data.times import Times, order_in_time, times_of
from zopde.data.well import write_well
from zopde.domain import strided
from zopde.errors import InputError, first_line
from zopde.netcdf import read_netcdf, write_netcdf
from zopde.validate import check_count, check_folder_writable, check_not_negative, checked

Settings = dict[str, Any]


@dataclass(frozen=True)
class Trajectories:
    """Reference states of several simulations on one grid.

    Args:
        grid: The (coarse) grid.
        states: (simulation, time, channel, *space); NaN where nothing was measured.
        forcing: (simulation, time, forcing_channel, *space), or None; entry t drove the step
            from t to t + 1.
        settings: Everything that decided the numbers; plain values, by name.
    """

    grid: Domain
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

    @property
    def measured(self) -> Bool[Tensor, "simulation time channel cells"]:
        """Where there is a number, of the cells with fluid."""
        return ~self.grid.fluid_values(self.states).isnan()

    @property
    def whole(self) -> Bool[Tensor, "simulation time"]:
        """Which states can be stepped: every number of theirs was measured."""
        return self.measured.flatten(2).all(dim=2)

    @property
    def seen(self) -> Bool[Tensor, "simulation time"]:
        """Which states tell anything at all."""
        return self.measured.flatten(2).any(dim=2)

    def take(self, simulations: slice, times: slice = slice(None)) -> Trajectories:
        """Some of the simulations, or some of their times."""
        forcing = None if self.forcing is None else self.forcing[simulations, times]
        return replace(self, states=self.states[simulations, times], forcing=forcing)

    def strided(self, every: int) -> Trajectories:
        """The states after every few steps, for who takes so many as one.

        The forcing is then (simulation, time, every, forcing_channel, *space), without that of
        the last state.
        """
        if every == 1:
            return self
        steps = self.steps // every
        states, forcing = self.states[:, : steps * every + 1 : every], self.forcing
        if forcing is not None:
            forcing = forcing[:, : steps * every].unflatten(1, (steps, every))
        settings = {**self.settings, "every": every}
        return Trajectories(strided(self.grid, every), states, forcing, settings)

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Trajectories:
        """The same numbers elsewhere."""
        forcing = None if self.forcing is None else self.forcing.to(device, dtype)
        return replace(self, states=self.states.to(device, dtype), forcing=forcing)

    def of_solver(self, grid: Domain) -> Trajectories:
        """The same for a solver's grid, which has the first of the forcing channels, or none."""
        own, forcing = len(grid.forcing_channels), self.forcing
        forcing = None if forcing is None or not own else forcing[:, :, :own]
        return replace(self, grid=grid, forcing=forcing)

    def state_scale(self) -> Float[Tensor, " channel"]:
        """Standard deviation of every state channel over all that was measured in the fluid."""
        return deviations(self.grid, self.states)

    def forcing_scale(self) -> Float[Tensor, " forcing_channel"]:
        """Likewise of every forcing channel; empty without forcing."""
        if self.forcing is None:
            return self.states.new_zeros(0)
        return deviations(self.grid, self.forcing, self.grid.forcing_channels)


Piece = tuple[Trajectories, Times | None]  # a file's


def _kept(kept: Tensor | None, values: Tensor, time: int, times: int) -> Tensor:
    """(batch, time, ...) with the values of a time; all the memory is taken at the first.

    What is kept of every step, allocated among the step's temporaries, would leave holes that
    no other step's fit into: some GiB.
    """
    if kept is None:
        kept = values.new_empty(len(values), times, *values.shape[1:])
    kept[:, time] = values
    return kept


@checked
def simulate(
    solver: ReferenceSolver,
    coarse: Callable[[Tensor], Tensor],
    coarse_grid: Domain,
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
    check_count("simulations", simulations)
    check_count("steps", steps)
    check_not_negative("skip", skip)
    scenario = solver.scenario(simulations, generator)
    state = scenario.initial.to(device, dtype)
    states: Tensor | None = None
    forcings: Tensor | None = None
    for t in range(skip + steps + 1):
        forcing = scenario.forcing(t).to(device, dtype) if scenario.forcing else None
        if t >= skip:
            states = _kept(states, coarse_grid.filled(coarse(state)), t - skip, steps + 1)
            if forcing is not None:
                driving = coarse_grid.filled((coarse_forcing or coarse)(forcing))
                forcings = _kept(forcings, driving, t - skip, steps + 1)
        if t < skip + steps:
            state = solver.step(state, forcing)
            if progress:
                progress(1)
    assert states is not None
    return Trajectories(coarse_grid, states, forcings)


@checked
def save_trajectories(trajectories: Trajectories, path: Path | str) -> None:
    """Write NetCDF4 through h5netcdf; a reader sees the old file or the new one, never half.

    Args:
        trajectories: What to keep; see `to_dataset` for the layout.
        path: The file; its folder is made where it does not exist. One that ends in .hdf5 is of
            the layout of The Well, see `write_well`.

    Raises:
        InputError: If the folder is not writable.
    """
    check_folder_writable("folder of the data file", Path(path).parent)
    write = write_well if Path(path).suffix == ".hdf5" else write_netcdf
    write(to_dataset(trajectories), Path(path))


@checked
def load_trajectories(
    path: Files,
    grid: Domain,
    settings: Settings | None = None,
    names: Mapping[str, str] | None = None,
    partial: bool = False,
) -> Trajectories:
    """Read trajectories for a solver's grid.

    Args:
        path: A file, NetCDF or of the layout of The Well; or several, as a list or a pattern such
            as "run*.nc". Of several, each is a simulation, or they are the consecutive times of
            one run: their times tell. Files without times are simulations.
        grid: The solver's grid; see `from_dataset` for what is checked.
        settings: What the file's recorded settings must be. A file without any, a user's
            own, is taken as it is.
        names: Name of a dim or variable of the file -> the grid's, "time" or "simulation".
        partial: Whether states may be NaN, where nothing was measured; a forcing never.

    Raises:
        InputError: If a file is missing, unreadable, does not fit the grid or the other files, or
            was made with other settings.
    """
    known = ("simulation", "time", *grid.dims, *grid.channels, *grid.forcing_channels, *PARTS)
    files, found, said = data_files(path), list[Piece](), list[Said]()
    for file in files:
        dataset = read_data(file, names or {}, known)
        try:
            found.append(_piece(dataset, grid, partial))
            said.append(said_by(dataset, grid))
        except InputError as error:
            raise error.of(file) from error
    whole = found[0][0] if len(files) == 1 else _joined(files, found, said, grid)
    trajectories = _with_steps(whole)
    recorded = trajectories.settings
    if settings is None or not recorded:
        return trajectories
    remedy = "name another file with --data, which is made where there is none"
    if recorded.get("content") != settings.get("content") and "content" in recorded:
        other = "states of other code than the solver's of now"
        raise InputError(f"data file {path}", got=other, expected="its states", remedy=remedy)
    for name in sorted((recorded.keys() | settings.keys()) - {"zopde_version", "content"}):
        got, wanted = recorded.get(name), settings.get(name)
        if name == "solver":  # its code is told by the content, wherever it lies
            got, wanted = (Path(str(spec)).name for spec in (got, wanted))
        if got != wanted:
            what = f"setting {name!r} of data file {path}"
            raise InputError(what, got=repr(got), expected=repr(wanted), remedy=remedy)
    return trajectories


def _joined(files: list[Path], found: list[Piece], said: list[Said], grid: Domain) -> Trajectories:
    """Files side by side, as simulations, or one after the other, as the times of one run."""
    order = order_in_time(files, [times for _, times in found], grid)
    check_alike(files, said, bool(order))
    parts = [found[number][0] for number in order or range(len(files))]
    along, across, what = (1, 0, "simulations") if order else (0, 1, "times")
    for file, part in zip(files, parts, strict=True):
        got, wanted = part.states.shape[across], parts[0].states.shape[across]
        if got != wanted:
            raise InputError(
                f"data file {file}", got=f"{got} {what}", expected=f"{wanted}, as in the first"
            )
    states = torch.cat([part.states for part in parts], along)
    forcings = [part.forcing for part in parts if part.forcing is not None]
    return Trajectories(grid, states, torch.cat(forcings, along) if forcings else None)


def recorded_settings(path: Path) -> Settings:
    """What a data file says that it was made with; nothing where it cannot be read."""
    try:
        with xr.open_dataset(path, engine="h5netcdf") as dataset:
            return _settings(dataset)
    except (OSError, ValueError, KeyError, RuntimeError):
        return {}


def load_rollout(path: Path) -> Trajectories:
    """Read the predictions of unseen runs that a run folder keeps; diverged ones are NaN.

    Args:
        path: A `rollout.nc`, or the `reference.nc` beside it; it knows its grid.

    Raises:
        InputError: If the file is missing or was not written by zopde.
    """
    dataset = read_netcdf(path)
    try:
        grid = domain_of(dataset)
        dims = ("simulation", "time", *grid.dims)
        states = grid.filled(_stack(dataset, grid.channels, dims))
        return Trajectories(grid, states, None, _settings(dataset))
    except (KeyError, IndexError, TypeError, ValueError) as error:
        got, expected = f"other content ({first_line(error)})", "states that a zopde run wrote"
        raise InputError(f"data file {path}", got=got, expected=expected) from error


def to_dataset(trajectories: Trajectories) -> xr.Dataset:
    """Convert trajectories to an xarray Dataset.

    Args:
        trajectories: Of any grid.

    Returns:
        Dims (simulation, time, *space) and a variable per channel, with its unit. Where the grid
        has a mask or weights, they are coordinates, and values outside of the mask are NaN.
    """
    grid, settings = trajectories.grid, trajectories.settings
    dims = ("simulation", "time", *grid.dims)
    fields = dict(zip(grid.channels, trajectories.states.unbind(2), strict=True))
    if trajectories.forcing is not None:
        fields |= zip(grid.forcing_channels, trajectories.forcing.unbind(2), strict=True)
    variables: dict[str, Any] = {
        name: (dims, _shown(grid, values), {"units": grid.unit(name)})
        for name, values in fields.items()
    }
    skipped = int(settings.get("skip", 0)) / int(settings.get("every", 1))
    time = (skipped + np.arange(trajectories.steps + 1)) * grid.dt
    coords: dict[str, Any] = {
        "simulation": np.arange(trajectories.simulations),
        "time": ("time", time, {"units": grid.unit("time")}),
    }
    of_domain, attributes = layout_of(grid)
    attributes["settings"] = json.dumps(settings, sort_keys=True)
    shown = ("solver", "seed", "zopde_version")
    attributes |= {name: settings[name] for name in shown if name in settings}
    return xr.Dataset(variables, coords | of_domain, attributes)


def _shown(grid: Domain, values: Tensor) -> np.ndarray:
    """Values as a file has them: NaN outside of the mask."""
    if grid.fluid is not None:
        values = values.masked_fill(~grid.fluid.to(values.device), torch.nan)
    return values.cpu().numpy()


def from_dataset(dataset: xr.Dataset, grid: Domain) -> Trajectories:
    """Read a Dataset back, checking it against the grid of the solver that will use it.

    Args:
        dataset: As `to_dataset` writes it. A user's own needs a variable per channel; its dims
            in any order, "t" or "Time" for "time", "simulation" only where there are several.
            Attributes `dt` and `extent`, times (also those of CF), coordinates and units, as far
            as they are there, must agree with the grid; descending coordinates are turned round.
            What lies outside of the grid's mask is not looked at, and becomes 0. A forcing may
            have whole numbers.
        grid: What the solver expects.

    Returns:
        States and forcing, clocks too, in one dtype: that of the states.

    Raises:
        InputError: On a missing variable, other dims or shape, a gap between times, NaN, a fill
            value that is not marked, or another dt, extent, cell or unit.
    """
    return _with_steps(_piece(dataset, grid)[0])


def _with_steps(trajectories: Trajectories) -> Trajectories:
    if not trajectories.steps:
        raise InputError("data", got="1 time", expected="at least 2")
    return trajectories


def _piece(dataset: xr.Dataset, grid: Domain, partial: bool = False) -> Piece:
    """The states of a dataset that fits the grid, and their times, where it has some."""
    dataset, dims = fitted(dataset, grid, partial), ("simulation", "time", *grid.dims)
    for name, own in layout_of(grid)[1].items():
        expected = np.atleast_1d(own).tolist()
        value = dataset.attrs.get(name, expected)
        if name != "boundary" and not _close(value, expected):
            raise InputError(f"data {name}", got=value, expected=str(expected))
    states, forcing = grid.filled(_stack(dataset, grid.channels, dims)), None
    if grid.forcing_channels:
        forcing = grid.filled(_stack(dataset, grid.forcing_channels, dims))
    times = times_of(dataset["time"], grid) if "time" in dataset.coords else None
    return Trajectories(grid, states, forcing, _settings(dataset)), times


def _settings(dataset: xr.Dataset) -> Settings:
    try:
        settings = json.loads(dataset.attrs.get("settings", "{}"))
    except (TypeError, ValueError, RecursionError):
        settings = None
    if not isinstance(settings, dict):
        raise InputError("data attribute 'settings'", got="no JSON object", expected="one, or none")
    return settings


def _close(value: object, expected: list[float]) -> bool:
    try:
        return bool(np.allclose(np.atleast_1d(np.asarray(value, dtype=float)), expected))
    except (TypeError, ValueError):
        return False


def _stack(dataset: xr.Dataset, names: tuple[str, ...], dims: tuple[str, ...]) -> Tensor:
    arrays = [dataset[name].transpose(*dims).values for name in names]
    stacked = np.stack(arrays, axis=2)  # classic files have the bytes of a number the other way
    return torch.from_numpy(stacked.astype(stacked.dtype.newbyteorder("="), copy=False))

"""How a state goes into a run's folder, and how its answer comes out."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, final

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from zopde.errors import InputError, StepError
from zopde.grid import Grid
from zopde.solvers.callable import loaded
from zopde.solvers.rows import reals
from zopde.validate import check_choice

if TYPE_CHECKING:  # it takes long to import, and only NetCDF needs it
    from xarray import DataArray

Array = Float[ndarray, "channel *space"]
Format = Literal["npy", "raw", "netcdf"]
RECORDS = "raw files have no record markers: open them with access='stream'"
_TIMES = ("time", "t", "times", "record")
_UNWRITTEN = 9.969209968386869e36  # what NetCDF puts where a program wrote nothing
_SUFFIX = {"npy": ".npy", "raw": ".bin", "netcdf": ".nc"}


class Files(Protocol):
    """What a solver reads and writes, one state at a time."""

    @property
    def names(self) -> dict[str, str]:
        """Placeholder -> what stands for it in the command line, such as state -> state.npy."""

    def write(self, folder: Path, state: Array, forcing: Array | None) -> None:
        """Put a state, and the forcing if there is one, into a run's folder."""

    def read(self, folder: Path) -> Array:
        """The answer that the run left; may raise anything where there is none."""


@final
@dataclass(frozen=True)
class ArrayFiles:
    """One file each for state, forcing and answer; see `zopde.solvers.command.Command`."""

    grid: Grid
    format: Format = "npy"  # its `files`
    dtype: str = "float64"
    order: Literal["C", "F"] = "C"
    state: str = ""
    forcing: str = ""
    answer: str = ""

    def __post_init__(self) -> None:
        check_choice("files", self.format, _SUFFIX)
        check_choice("order", self.order, ("C", "F"))
        try:
            real = np.dtype(self.dtype).kind == "f"
        except TypeError:
            real = False
        if not real:
            raise InputError("dtype", got=repr(self.dtype), expected='such as "float64" or ">f4"')

    @property
    def names(self) -> dict[str, str]:
        """See `Files`."""
        given = {"state": self.state, "forcing": self.forcing, "answer": self.answer}
        return {key: name or key + _SUFFIX[self.format] for key, name in given.items()}

    def write(self, folder: Path, state: Array, forcing: Array | None) -> None:
        """See `Files`. An answer that the template holds is deleted: it is not the run's."""
        names = self.names
        (folder / names["answer"]).unlink(missing_ok=True)
        self._put(folder / names["state"], state, self.grid.channels)
        if forcing is not None:
            self._put(folder / names["forcing"], forcing, self.grid.forcing_channels)

    def read(self, folder: Path) -> Array:
        """See `Files`."""
        path = folder / self.names["answer"]
        if not path.exists():
            raise StepError(f"no {path.name} was written")
        return self._get(path)

    def _put(self, path: Path, values: Array, channels: tuple[str, ...]) -> None:
        values = values.astype(self.dtype)
        if self.format == "npy":
            with path.open("wb") as file:  # a path would be given a suffix of NumPy's own
                np.save(file, values)
        elif self.format == "raw":
            path.write_bytes(values.tobytes(self.order))
        else:
            import xarray

            fields = {
                name: (self.grid.dims, value, {"units": self.grid.unit(name)})
                for name, value in zip(channels, values, strict=True)
            }
            centres = {d: self.grid.centres(axis) for axis, d in enumerate(self.grid.dims)}
            xarray.Dataset(fields, centres).to_netcdf(path, engine="h5netcdf")

    def _get(self, path: Path) -> Array:
        if self.format == "npy":
            values: Array = np.load(path, allow_pickle=False)
            return values
        if self.format == "raw":
            shape = self.grid.state_shape
            expected = np.dtype(self.dtype).itemsize * int(np.prod(shape))
            got = path.stat().st_size
            if got != expected:
                word = f"; {RECORDS}" if _in_records(path) else ""
                raise StepError(f"{path.name} holds {got:,} bytes, expected {expected:,}{word}")
            return np.fromfile(path, self.dtype).reshape(shape, order=self.order)
        return self._netcdf(path)

    def _netcdf(self, path: Path) -> Array:
        """Of either format, the classic one of many Fortran programs and NetCDF4."""
        import xarray

        classic = path.read_bytes()[:4] in (b"CDF\x01", b"CDF\x02")
        engine: Literal["scipy", "h5netcdf"] = "scipy" if classic else "h5netcdf"
        try:
            with xarray.open_dataset(path, engine=engine, decode_times=False) as opened:
                data = opened.load()
        except (OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
            kinds = "neither NetCDF4 nor a classic file (nf90_clobber, nf90_64bit_offset)"
            raise StepError(f"{path.name} is {kinds}, or it is cut short") from error
        missing = [name for name in self.grid.channels if name not in data]
        if missing:
            known = ", ".join(map(str, data.data_vars)) or "none"
            raise StepError(f"{path.name} has no variable {missing[0]!r}; its variables: {known}")
        fields = (self._field(data[name], path.name) for name in self.grid.channels)
        return np.stack([reals(values).numpy() for values in fields])

    def _field(self, field: DataArray, file: str) -> Array:
        """The field at the last time, its axes as the grid's, along rising coordinates."""
        dims = self.grid.dims
        what = f"{file}: {field.name!r} has the axes ({', '.join(map(str, field.dims))})"
        for dim in [dim for dim in field.dims if dim not in dims]:
            times = field[dim]
            timely = str(dim).lower() in _TIMES or " since " in str(times.attrs.get("units", ""))
            if not times.size:
                raise StepError(f"{what}, and {dim} is empty")
            if times.size > 1 and not timely:
                raise StepError(f"{what}, expected ({', '.join(dims)}), and a time at most")
            field = field.isel({dim: int(np.argmax(times.to_numpy()))})
        if set(field.dims) != set(dims):
            raise StepError(f"{what}, expected ({', '.join(dims)})")
        for dim in dims:
            places = field[dim].to_numpy()
            if len(places) > 1 and (np.diff(places) < 0).all():
                field = field.isel({dim: slice(None, None, -1)})
        values: Array = field.transpose(*dims).to_numpy()
        unwritten = np.isclose(values, _UNWRITTEN, rtol=1e-6)
        return np.where(unwritten, np.nan, values) if unwritten.any() else values


def _in_records(path: Path) -> bool:
    """Whether a file begins with a record of Fortran: its length stands before and behind it."""
    content = path.read_bytes()
    length = int.from_bytes(content[:4], sys.byteorder)
    return 0 < length <= len(content) - 8 and content[4 + length : 8 + length] == content[:4]


@final
class FunctionFiles:
    """A user's two Python functions, of NumPy arrays (channel, *space) in float64."""

    def __init__(self, write: str, read: str, home: Path) -> None:
        self._specs = (write, read, home)
        self._write, self._read = (loaded(spec, home) for spec in (write, read))
        self.names: dict[str, str] = {}  # the functions know them

    def write(self, folder: Path, state: Array, forcing: Array | None) -> None:
        """See `Files`."""
        self._write(folder, state, forcing)

    def read(self, folder: Path) -> Array:
        """See `Files`."""
        answer: Array = self._read(folder)
        return answer

    def __reduce__(self) -> tuple[type[FunctionFiles], tuple[str, str, Path]]:
        return type(self), self._specs

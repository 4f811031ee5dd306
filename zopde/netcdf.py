"""NetCDF files of every kind: read whole, and written through memory with a checksum."""

from __future__ import annotations

import warnings
from hashlib import sha256
from io import BytesIO
from pathlib import Path

import h5netcdf
import xarray as xr
from xarray.backends import H5NetCDFStore

from zopde.errors import InputError
from zopde.files import reading, write_bytes

_HDF5 = b"\x89HDF\r\n\x1a\n"
_END_AT = {0: 40, 1: 44, 2: 28, 3: 28}  # by the version of an HDF5 file: where its length stands
_MARK = b"zopde: sha-256: "  # and 32 bytes; HDF5 does not look behind its own end


def read_netcdf(path: Path) -> xr.Dataset:
    """Read a NetCDF file into memory: NetCDF4, or classic with 32-bit or 64-bit offsets.

    Packed values are unpacked and fill values are NaN. Times stay the numbers of the file.

    Raises:
        InputError: If the file is missing, unreadable, or not what zopde once wrote.
    """
    if not path.is_file():
        raise InputError("data file", got=f"{path}", expected="an existing NetCDF file")
    remedy = "fetch or make it again under another name, and name that with --data"
    expected = "a complete NetCDF file, classic or NetCDF4"
    with reading("data file", path, expected, remedy), warnings.catch_warnings():
        engine = _engine(path)
        warnings.simplefilter("ignore")  # what xarray thinks of a file says nothing to its user
        with xr.open_dataset(path, engine=engine, decode_times=False) as dataset:
            return dataset.load()


def write_netcdf(dataset: xr.Dataset, path: Path, durable: bool = True) -> None:
    """Write NetCDF4, whole or not at all; behind it a checksum, which other programs pass over.

    Raises:
        InputError: If the disk is full, or the folder cannot be written.
    """
    # HDF5 ends the process where its disk is full, so it writes to memory.
    memory = BytesIO()
    with h5netcdf.File(memory, "w") as file:
        dataset.dump_to_store(H5NetCDFStore(file))
    content = memory.getvalue()
    write_bytes(path, content, _MARK + sha256(content).digest(), durable=durable)


def _engine(path: Path) -> str:
    """Who reads a file. One with a checksum, or the place of one, is compared with it."""
    with path.open("rb") as file:
        head = file.read(52)
        if head[:4] in (b"CDF\x01", b"CDF\x02"):
            return "scipy"
        if head[:3] == b"CDF":
            raise ValueError("of the kind CDF-5: nccopy -k nc4 old.nc new.nc makes NetCDF4 of it")
        size, at = path.stat().st_size, _END_AT.get(head[8], 0) if head[:8] == _HDF5 else 0
        end = size - len(_MARK) - 32
        file.seek(max(end, 0))
        behind = file.read()
        if behind.startswith(_MARK) or (at and int.from_bytes(head[at : at + 8], "little") == end):
            file.seek(0)
            content = file.read(end)
            if behind != _MARK + sha256(content).digest():
                raise ValueError("its checksum is wrong: it is not as it was written")
    return "h5netcdf"

"""What this machine has for zopde, and what it lacks."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path
from tempfile import gettempdir
from typing import Any

# No accelerator of these kinds works without its file, so without one torch need not be asked.
_ACCELERATORS = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/kfd", "/dev/dxg")
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class Part:
    """Something that zopde needs, or can use.

    Args:
        name: Of the package or program.
        found: Its version or place; "" where it is missing.
        gives: What it is for.
        remedy: How to get it.
        needed: Whether zopde does not work without it.
    """

    name: str
    found: str
    gives: str
    remedy: str
    needed: bool = False


@dataclass(frozen=True)
class Machine:
    """What computes here.

    Args:
        system: Of the machine.
        python: Version, and where.
        zopde: Version.
        cores: That this process may use.
        threads: What the environment says of threads; empty: torch takes all cores.
        memory_gib: Of the machine; None where it is not told.
        devices: As torch calls them.
        temporary: Folder of temporary files, and how much is free there, in GiB.
    """

    system: str
    python: str
    zopde: str
    cores: int
    threads: dict[str, str]
    memory_gib: float | None
    devices: tuple[str, ...]
    temporary: tuple[str, float]


@dataclass(frozen=True)
class Diagnosis:
    """All that `examine` found.

    Args:
        machine: What computes here.
        parts: The needed ones first.
    """

    machine: Machine
    parts: tuple[Part, ...]

    @property
    def sound(self) -> bool:
        """Whether everything needed is there."""
        return all(part.found for part in self.parts if part.needed)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {**asdict(self), "sound": self.sound}


# name -> (what it gives, how to get it); packages by their distribution and module.
_PACKAGES = {
    ("distributed", "distributed"): (
        "--executor dask: probes on a cluster",
        'pip install "zopde[dask]"',
    ),
    ("fipy", "fipy"): ("examples/07_fipy.py", "pip install fipy"),
    ("umbridge", "umbridge"): (
        "tests of the http solver against the reference client",
        'pip install "zopde[test]"',
    ),
}
_PROGRAMS = {
    "gfortran": ("examples/06_fortran.py; compiling your own", "apt install gfortran"),
    "icoFoam": ("solver openfoam, examples/05_openfoam.py", "apt install openfoam"),
}


def examine() -> Diagnosis:
    """Look around, in less than a second where there is no accelerator; nothing is imported."""
    return Diagnosis(_machine(), (*_needed(), *_optional()))


def _machine() -> Machine:
    folder = gettempdir()
    return Machine(
        system=f"{platform.system()} {platform.release()}, {platform.machine()}",
        python=f"{platform.python_version()}, {sys.executable}",
        zopde=version("zopde"),
        cores=len(os.sched_getaffinity(0)),
        threads={name: os.environ[name] for name in _THREADS if name in os.environ},
        memory_gib=_memory(),
        devices=_devices(),
        temporary=(folder, round(shutil.disk_usage(folder).free / 2**30, 1)),
    )


def _memory() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (ValueError, OSError):
        return None


def _devices() -> tuple[str, ...]:
    if not any(Path(path).exists() for path in _ACCELERATORS) or find_spec("torch") is None:
        return ("cpu",)
    import torch

    if not torch.cuda.is_available():
        return ("cpu",)
    count = torch.cuda.device_count()
    return ("cpu", *(f"cuda:{i} ({torch.cuda.get_device_name(i)})" for i in range(count)))


def _needed() -> list[Part]:
    parts = []
    for line in requires("zopde") or ():
        match = re.match(r"[A-Za-z0-9._-]+", line)
        if match and "extra ==" not in line:
            name = match[0]
            remedy = "" if (found := _version(name)) else f"pip install {name}"
            parts.append(Part(name, found, line.partition(";")[0].strip(), remedy, needed=True))
    return parts


def _optional() -> list[Part]:
    parts = []
    for (name, module), (gives, remedy) in _PACKAGES.items():
        # A package without its metadata is one that no pip knows, but it works.
        found = _version(name) or ("found" if find_spec(module) else "")
        parts.append(Part(name, found, gives, "" if found else remedy))
    for name, (gives, remedy) in _PROGRAMS.items():
        found = shutil.which(name) or ""
        parts.append(Part(name, found, gives, "" if found else remedy))
    return parts


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""

"""What this machine has for zopde, and what it lacks."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

# No accelerator of these kinds works without its file, so without one torch need not be asked.
_ACCELERATORS = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/kfd", "/dev/dxg")

# Name -> what it gives, how to get it.
_PACKAGES = {
    "distributed": ("--executor dask: probes on a cluster", 'pip install "zopde[dask]"'),
    "fipy": ("examples/07_fipy.py", "pip install fipy"),
    "meshio": ("zopde report --vtk: files for ParaView", "pip install meshio"),
    "onnxruntime": ("zopde export --to FILE.onnx", 'pip install "zopde[export]"'),
    "py-pde": ("examples/12_pypde.py", "pip install py-pde jax"),
    "pyqg-jax": ("examples/13_quasi_geostrophic.py", "pip install pyqg-jax"),
    "tesseract-core": ("solver tesseract", 'pip install "zopde[tesseract]"'),
    "umbridge": ("tests of the http solver by its reference", 'pip install "zopde[test]"'),
}
_PROGRAMS = {
    "gfortran": ("examples/06_fortran.py; compiling your own", "apt install gfortran"),
    "icoFoam": ("solver openfoam, examples/05_openfoam.py", "apt install openfoam"),
}


def examine() -> dict[str, Any]:
    """Look around, in less than a second where there is no accelerator; nothing is imported.

    "machine" says what computes here. "parts" are packages and programs, the needed ones first:
    "found" is a version or a place, "" if it is missing. "sound": all that is needed is there.
    """
    lines = [line for line in requires("zopde") or () if "extra ==" not in line]
    needed = {re.split(r"[^\w.-]", line)[0]: line.partition(";")[0].strip() for line in lines}
    parts = [
        *(_part(n, _version(n), line, f"pip install {n}", True) for n, line in needed.items()),
        *(_part(name, _version(name), *more) for name, more in _PACKAGES.items()),
        *(_part(name, shutil.which(name) or "", *more) for name, more in _PROGRAMS.items()),
    ]
    machine = {
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "python": f"{platform.python_version()}, {sys.executable}",
        "zopde": version("zopde"),
        "cores": len(os.sched_getaffinity(0)),
        "threads": os.environ.get("OMP_NUM_THREADS", "all cores"),
        "devices": _devices(),
    }
    sound = all(part["found"] for part in parts if part["needed"])
    return {"machine": machine, "parts": parts, "sound": sound}


def versions(*packages: str) -> dict[str, str]:
    """Versions of zopde, Python, torch and those of further packages that are installed."""
    installed = {name: _version(name) for name in ("torch", *packages)}
    own = {"zopde": version("zopde"), "python": platform.python_version()}
    return own | {name: number for name, number in installed.items() if number}


def _part(name: str, found: str, gives: str, remedy: str, needed: bool = False) -> dict[str, Any]:
    remedy = "" if found else remedy
    return {"name": name, "found": found, "gives": gives, "remedy": remedy, "needed": needed}


def _devices() -> list[str]:
    if not any(Path(path).exists() for path in _ACCELERATORS) or not _version("torch"):
        return ["cpu"]
    import torch

    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return ["cpu", *(f"cuda:{i} ({name})" for i, name in enumerate(names))]


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""

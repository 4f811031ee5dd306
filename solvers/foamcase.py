"""An OpenFOAM case: where the programs are, what its mesh is, and the copy that is run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from operator import sub
from pathlib import Path
from typing import final

from zopde.errors import InputError

_PACKAGE = Path("/usr/share/openfoam")  # where Debian's and Ubuntu's package lies
_NUMBER = r"[-+.\deE]+"
_BLOCK = re.compile(
    r"hex\s*\(([\d\s]+)\)\s*\(\s*(\d+)\s+(\d+)\s+(\d+)\s*\)\s*simpleGrading\s*\(\s*1\s+1\s+1\s*\)"
)
_COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)
_MESH_SECONDS = 600


def environment() -> dict[str, str]:
    """What OpenFOAM's programs need to be told, unless its own set-up script was sourced."""
    if "WM_PROJECT_DIR" in os.environ or not _PACKAGE.is_dir():
        return {}
    return {"WM_PROJECT_DIR": str(_PACKAGE)}


def check_installed(application: str) -> None:
    """Require OpenFOAM's programs.

    Raises:
        InputError: If one is not found.
    """
    for name in ("blockMesh", application):
        if shutil.which(name) is None:
            raise InputError(
                f"OpenFOAM's {name}",
                got="no such program",
                expected="an OpenFOAM that is installed",
                remedy="apt install openfoam, or source its etc/bashrc",
            )


@final
@dataclass(frozen=True)
class Box:
    """A uniform mesh of one block in the plane of x and y, one cell thick.

    Args:
        shape: Cells along (y, x).
        extent: Length along (y, x), in metres.
        text: The blockMeshDict, with {cells} where the numbers of cells were.
    """

    shape: tuple[int, int]
    extent: tuple[float, float]
    text: str

    @classmethod
    def of(cls, case: Path) -> Box:
        """The mesh of a case's system/blockMeshDict.

        blockMesh numbers the cells of a block along its first axis first: cell k lies in row
        k // nx, column k % nx.

        Raises:
            InputError: If there is none, or the mesh is another.
        """
        path = case / "system" / "blockMeshDict"
        if not path.is_file():
            raise InputError("case", got=f"no {path}", expected="an OpenFOAM case with blockMesh")
        text = _COMMENT.sub("", path.read_text(encoding="utf-8"))
        blocks = list(_BLOCK.finditer(text))
        listed = re.search(r"vertices\s*\((.*?)\)\s*;", text, re.DOTALL)
        curved = re.search(r"edges\s*\(\s*[^)\s]", text)
        if len(blocks) != 1 or text.count("hex") != 1 or not listed or curved or "$" in text:
            raise _not_a_box(path, "another mesh")
        block, scale = blocks[0], re.search(rf"(?:scale|convertToMeters)\s+({_NUMBER})\s*;", text)
        factor = float(scale[1]) if scale else 1.0
        triple = rf"\(\s*({_NUMBER})\s+({_NUMBER})\s+({_NUMBER})\s*\)"
        points = [[factor * float(x) for x in p] for p in re.findall(triple, listed[1])]
        corners = [points[int(i)] for i in block[1].split()]
        low, high = corners[0], corners[6]
        turns = [(0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 1, 0)]
        turns += [(x, y, 1) for x, y, _ in turns]
        square = [[(low, high)[far][axis] for axis, far in enumerate(t)] for t in turns]
        if corners != square or min(map(sub, high, low)) <= 0 or int(block[4]) != 1:
            raise _not_a_box(path, "another block")
        start, end = block.span()
        whole = re.sub(r"(\)\s*)\([\d\s]+\)", r"\1{cells}", block[0], count=1)
        return cls(
            (int(block[3]), int(block[2])),
            (high[1] - low[1], high[0] - low[0]),
            text[:start] + whole + text[end:],
        )

    def dictionary(self, shape: tuple[int, ...]) -> str:
        """The blockMeshDict of another resolution."""
        return self.text.replace("{cells}", f"({shape[1]} {shape[0]} 1)")


def prepare(case: Path, box: Box, shape: tuple[int, ...], control: str, folder: Path) -> None:
    """Make in `folder` what every run's folder is a copy of: settings and mesh.

    Args:
        case: The user's, with 0, constant and system; it stays as it is.
        box: Its mesh.
        shape: Cells along (y, x).
        control: Entries that go before those of its controlDict.
        folder: There, and empty.

    Raises:
        InputError: If blockMesh fails.
    """
    for name in ("0", "constant", "system"):
        if not (case / name).is_dir():
            raise InputError("case", got=f"no {case / name}", expected="0, constant and system")
        shutil.copytree(case / name, folder / name, ignore=shutil.ignore_patterns("polyMesh"))
    (folder / "system" / "blockMeshDict").write_text(box.dictionary(shape), encoding="utf-8")
    with (folder / "system" / "controlDict").open("a", encoding="utf-8") as file:
        file.write(f"\n{control}")  # of an entry that is there twice, OpenFOAM takes the last
    made = subprocess.run(
        ["blockMesh"],
        cwd=folder,
        env={**os.environ, **environment()},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_MESH_SECONDS,
        check=False,
    )
    if made.returncode:
        lines = [line.strip() for line in (made.stdout + made.stderr).splitlines() if line.strip()]
        raise InputError(
            "case", got=f"{case}: blockMesh says {' | '.join(lines[-4:])}", expected="a mesh"
        )


def _not_a_box(path: Path, got: str) -> InputError:
    return InputError(
        f"mesh {path}",
        got=got,
        expected="one hex block of straight edges along x, y and z, simpleGrading (1 1 1), "
        "one cell along z, no macros",
    )

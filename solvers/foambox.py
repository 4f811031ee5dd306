"""The mesh of an OpenFOAM case, as its blockMeshDict describes it: one uniform block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from zopde.errors import InputError
from zopde.solvers.foamtext import (
    Entry,
    FoamSyntaxError,
    Group,
    Token,
    content_of,
    expanded,
    find,
    nested,
)

# Each moves, curves, cuts or repeats what the block says.
_MORE = ("edges", "faces", "geometry", "mergePatchPairs", "prescale", "transform")
_SQUARE = ((0, 0), (1, 0), (1, 1), (0, 1))
_TURNS = [(x, y, z) for z in (0, 1) for x, y in _SQUARE]  # the corners of a block, in their order
Entries = Mapping[str, Sequence[Token]]
Point = tuple[float, ...]


@final
@dataclass(frozen=True)
class Box:
    """A uniform mesh of one block in the plane of x and y, one cell thick."""

    shape: tuple[int, int]  # cells along (y, x)
    extent: tuple[float, float]  # length along (y, x), in metres
    periodic: tuple[bool, bool]  # whether the sides across (y, x) are cyclic
    before: bytes  # the blockMeshDict up to the numbers of cells
    after: bytes  # the rest

    @classmethod
    def of(cls, case: Path) -> Box:
        """The mesh of a case's system/blockMeshDict.

        blockMesh numbers the cells of a block along its first axis first: cell k lies in row
        k // nx, column k % nx.
        """
        path = case / "system" / "blockMeshDict"
        found = find(path)
        if found is None:
            raise InputError("case", got=f"no {path}", expected="an OpenFOAM case with blockMesh")
        try:
            entries = expanded(found, ("boundary", "patches"))
            return cls._of(content_of(found), entries)
        except FoamSyntaxError as error:
            block = "one hex block of straight edges along x, y and z, simpleGrading (1 1 1)"
            expected = f"{block}, one cell along z"
            raise InputError(f"mesh {path}", got=str(error), expected=expected) from error

    @classmethod
    def _of(cls, content: bytes, entries: Entries) -> Box:
        corners, cells = _block(entries)
        points, names = _points(entries), [token.text for token in corners]
        square = [points.get(name, ()) for name in names]
        numbers = [token.text for token in _plain("blocks", cells.parts)]
        if len(square) != len(_TURNS) or not all(n.isdecimal() and int(n) for n in numbers):
            raise FoamSyntaxError("another block")
        low, high = square[0], square[6]
        turned = [tuple((low, high)[far][a] for a, far in enumerate(t[: len(low)])) for t in _TURNS]
        if len(low) != 3 or len(high) != 3 or square != turned or numbers[2:] != ["1"]:
            raise FoamSyntaxError("another block")
        if not all(a < b for a, b in zip(low, high, strict=True)):
            raise FoamSyntaxError("another block")
        x, y = _periodic(entries, dict(zip(names, _TURNS, strict=True)))
        return cls(
            (int(numbers[1]), int(numbers[0])),
            (high[1] - low[1], high[0] - low[0]),
            (y, x),
            content[: cells.start],
            content[cells.end :],
        )

    def dictionary(self, shape: tuple[int, ...]) -> bytes:
        """The blockMeshDict of another resolution."""
        return self.before + f"({shape[1]} {shape[0]} 1)".encode() + self.after


def _block(entries: Entries) -> tuple[list[Token], Group]:
    """The corners and the numbers of cells of the only block, which is not graded.

    hex (0 1 2 3 4 5 6 7) zone (16 16 1) simpleGrading (1 1 1)        both words are optional
    """
    for key in _MORE:
        if any(token.text not in ("(", ")", "{", "}", "0") for token in entries.get(key, ())):
            raise FoamSyntaxError(f"another mesh, with {key}")
    parts = _listed(entries, "blocks")
    words = [part for part in parts if isinstance(part, Token)]
    groups = [part for part in parts if isinstance(part, Group)]
    if [word.text for word in words].count("hex") != 1 or len(groups) != 3:
        raise FoamSyntaxError("another mesh: not one hex block")
    ratios = _plain("grading", groups[2].parts)
    if len(ratios) not in (1, 3, 12) or any(_number("grading", [r]) != 1 for r in ratios):
        raise FoamSyntaxError(f"another mesh: grading ({' '.join(r.text for r in ratios)})")
    cells = groups[1]
    if cells.start < 0 or cells.start == groups[0].start:
        raise FoamSyntaxError(
            "numbers of cells that an included file or a macro of all blocks holds"
        )
    return _plain("blocks", groups[0].parts), cells


def _points(entries: Entries) -> dict[str, Point]:
    """The vertices in metres, by number and by name: (0 0 0), or name origin (0 0 0)."""
    scale = entries.get("scale") or entries.get("convertToMeters")  # in the order of blockMesh
    factor = _number("scale", scale) if scale else 1.0
    points: dict[str, Point] = {}
    number, name = 0, ""
    for part in _listed(entries, "vertices"):
        if isinstance(part, Token):
            name = part.text
            continue
        words = _plain("vertices", part.parts)
        points[str(number)] = tuple(factor * _number("vertices", [word]) for word in words)
        if name:
            points[name] = points[str(number)]
        number, name = number + 1, ""
    return points


def _periodic(entries: Entries, turns: Mapping[str, tuple[int, ...]]) -> tuple[bool, bool]:
    """Whether the sides across x, and across y, are each other's neighbours."""
    patches: dict[tuple[int, int], str] = {}  # by axis and end of the side
    neighbours: dict[str, str] = {}  # of the cyclic ones
    tokens = tuple(entries.get("boundary", ()))  # the older `patches` take no cyclic ones
    _known("boundary", tokens[:1])
    first = next((i for i, token in enumerate(tokens) if token.text == "("), len(tokens))
    for patch in Entry("boundary", tokens[first:]).entries:
        says = {entry.key: entry.tokens for entry in patch.entries}
        if any(key[0] in "$#" for key in (patch.key, *says)):
            what = f"a macro or directive in patch {patch.key}"
            raise FoamSyntaxError(f"{what}, whose value is not known here")
        kind, other = (_words(patch.key, says.get(key, ())) for key in ("type", "neighbourPatch"))
        if kind.startswith("cyclic"):  # cyclicAMI, too
            neighbours[patch.key] = other
        for face in _listed(says, "faces"):
            labels = (
                [t.text for t in _plain("faces", face.parts)] if isinstance(face, Group) else []
            )
            if side := _side(labels, turns):
                patches[side] = patch.key
    periodic = []
    for axis in range(len(_SQUARE[0])):
        low, high = (patches.get((axis, end), "") for end in (0, 1))
        periodic.append(neighbours.get(low) == high and neighbours.get(high) == low)
        if not periodic[-1] and (low in neighbours or high in neighbours):
            alone = low if low in neighbours else high
            raise FoamSyntaxError(f"cyclic {alone} without its opposite side")
    return periodic[0], periodic[1]


def _side(labels: Sequence[str], turns: Mapping[str, tuple[int, ...]]) -> tuple[int, int] | None:
    """Axis and end of a face: of its corners, or of (block face)."""
    if len(labels) == 2 and labels[1].isdecimal():
        return divmod(int(labels[1]), 2)
    corners = [turns.get(label, ()) for label in labels]
    ends = [(axis, end) for axis in range(3) for end in (0, 1)]
    return next((s for s in ends if all(c and c[s[0]] == s[1] for c in corners)), None)


def _listed(entries: Entries, key: str) -> list[Token | Group]:
    """The parts of a list, which may stand behind their number."""
    parts = nested(_known(key, entries.get(key, ())))
    if not parts or not isinstance(parts[-1], Group):
        raise FoamSyntaxError(f"another mesh: {key} is no list")
    return parts[-1].parts


def _known(key: str, tokens: Sequence[Token]) -> Sequence[Token]:
    for token in tokens:
        if token.text[0] in "$#":
            raise FoamSyntaxError(f"{token.text} in {key}, whose value is not known here")
    return tokens


def _words(key: str, tokens: Sequence[Token]) -> str:
    return " ".join(token.text for token in _known(key, tokens))


def _plain(key: str, parts: Sequence[Token | Group]) -> list[Token]:
    """The words of a group that holds no other group."""
    words = [part for part in parts if isinstance(part, Token)]
    if len(words) != len(parts):
        raise FoamSyntaxError(f"another mesh: {key} with brackets in brackets")
    return words


def _number(key: str, tokens: Sequence[Token]) -> float:
    words = _words(key, tokens)
    try:
        return float(words)
    except ValueError:
        raise FoamSyntaxError(f"{key} {words}, which is no number") from None

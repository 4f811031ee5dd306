"""The way of the interface cut that a run chooses by itself, once, and keeps in its folder."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

from zopde.blackbox import CountedSolver
from zopde.errors import InputError
from zopde.files import reading
from zopde.progress import Progress
from zopde.studies.correct.bank import check_bank, steps_of_bank
from zopde.studies.correct.cut import coloured_of
from zopde.studies.correct.cuts import InterfaceCut
from zopde.studies.correct.problem import Opened, products_of
from zopde.studies.folder import RunFolder
from zopde.tangent.choose import Chosen, choose, told

WAY = "way.json"


@dataclass(frozen=True)
class Choice:
    """The way that was chosen, and from what."""

    way: Chosen
    coloured: int | None  # solver steps of all products; None where the step is not local
    bank: int | None  # of the snapshots; None where they do not fit
    tangent: int  # at most
    checking: int  # solver steps that the choice took


def chosen_of(opened: Opened, cut: InterfaceCut) -> Choice:
    """Measure the reach, count, and choose; see `zopde.tangent.choose`.

    Raises:
        InputError: If a radius is declared that the step leaves, or the fallback will not do.
    """
    problem, training, count = opened.problem, opened.training, CountedSolver(opened.problem.solver)
    coloured: int | None = None
    try:
        found = coloured_of(cut, problem, count, 0)
        products = products_of(problem.injection, training.unroll, problem.every)
        each = sum(products[v] * pullback.probes_for(v) for v, pullback in found.items())
        coloured = each * training.batch * training.iterations
    except InputError:
        if cut.radius or cut.fallback == "coloured":
            raise
    bank: int | None = steps_of_bank(cut, problem.solver.grid, problem.variables)
    try:
        check_bank(cut, problem.solver.grid, problem.variables)
    except InputError:
        bank = None
    way = choose(coloured, bank, cut.budget, problem.solver.grid)
    return Choice(way, coloured, bank, cut.budget, count.steps + count.counts()["checking"])


def decided(opened: Opened, progress: Progress, folder: RunFolder | None = None) -> Opened:
    """The same with a way in place of "auto": the one in the run's folder, or else chosen now.

    Args:
        opened: What will be trained.
        progress: Who is told in a line.
        folder: The run's; None for a dry run, which writes nothing.
    """
    for label, cut in opened.cuts.items():
        if cut.way != "auto":
            continue
        if folder is not None and (folder.root / WAY).exists():
            choice = _read(folder.root / WAY)
        else:
            choice = chosen_of(opened, cut)
            if folder is not None:
                folder.write_json(WAY, vars(choice))
        few = min(cut.snapshots, len(opened.problem.answered))
        known = replace(cut, way=choice.way, snapshots=few)
        cuts, checking = {**opened.cuts, label: known}, opened.checking + choice.checking
        opened = replace(opened, cuts=cuts, checking=checking)
        prices = choice.coloured, choice.bank, choice.tangent, opened.problem.solver.grid
        said = told(choice.way, *prices)
        if opened.chance and choice.coloured is None:
            said += "; the solver is random: its noise looks like a step that is not local"
        progress.note(f"{label}: {said}")
    return opened


def _read(path: Path) -> Choice:
    """What a run chose when it began."""
    expected, remedy = "what the run chose", "restore it, or start over with --overwrite"
    with reading("file", path, expected, remedy):
        choice = Choice(**json.loads(path.read_text(encoding="utf-8")))
        if choice.way not in get_args(Chosen) or not isinstance(choice.checking, int):
            raise ValueError(f"the way {choice.way!r}")
        return choice

"""The solver of a run: behind the line, kept in the store, asked again where it fails."""

from __future__ import annotations

import hashlib
import inspect
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from zopde import __version__
from zopde.hybrid import Apart, BlackBox, Dropping, Retrying, Store, Stored
from zopde.protocols import Solver
from zopde.recipes.config import CorrectionConfig


def guarded(config: CorrectionConfig, solver: Solver) -> Solver:
    """The user's solver as a run asks it, from the inside out.

    In a process of its own (`run.apart`); checked; answers kept (`run.store`); what failed is
    asked for again (`run.retries`) and then raised or left out (`run.failures`).
    """
    run = config.run
    inside = BlackBox(Apart(solver, run.timeout or None) if run.apart else solver)
    if run.store:
        store = Store(Path(run.store), run.store_gib)
        stored = Stored(inside, store, solver_identity(config, solver))
        kept = Retrying(stored, _times(config), run.failure_limit)
    else:
        kept = Retrying(inside, _times(config), run.failure_limit)
    return Dropping(kept) if run.failures == "drop" else kept


def solver_identity(config: CorrectionConfig, solver: Solver) -> str:
    """A digest of everything but its input that decides a solver's answer.

    The spec, the options, the grid, the source file of its class, and the content of every file
    that the spec or an option names.
    """
    spec, options = config.solver.spec, config.solver.options
    whole = hashlib.blake2b(digest_size=16)
    plain = [spec, options, repr(solver.grid), getattr(solver, "options", {}), __version__]
    whole.update(json.dumps(plain, sort_keys=True, default=str).encode())
    for path in _files(spec, options, solver):
        whole.update(path.read_bytes())
    return whole.hexdigest()


def _files(spec: str, options: dict[str, Any], solver: Solver) -> list[Path]:
    named = [spec, spec.rpartition(":")[0], *(v for v in options.values() if isinstance(v, str))]
    with suppress(TypeError):  # a class of the interpreter's own has no file
        named.append(inspect.getsourcefile(type(solver)) or "")
    return [Path(name) for name in dict.fromkeys(named) if name and Path(name).is_file()]


def _times(config: CorrectionConfig) -> int:
    return 0 if config.run.failures == "raise" else config.run.retries

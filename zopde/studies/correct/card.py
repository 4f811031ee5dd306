"""The page beside an exported corrector: what it computes, from what it learned, how to call it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from zopde.contracts import Domain
from zopde.doctor import versions
from zopde.grid import Grid
from zopde.nets import Normalised
from zopde.studies.correct.models import Model
from zopde.studies.correct.table import table_of
from zopde.studies.folder import look_up
from zopde.studies.report.found import reproduce
from zopde.studies.settings import literal

# Where the answer enters the solver's step S: the formula, and what its caller does
_USE = {
    "after": (
        "v = S(u{f}),  u' = v + C(v{f})",
        "Make a step of the solver, give the network the result, and add its answer to the result.",
    ),
    "before": (
        "u' = S(u + C(u{f}){f})",
        "Give the network the state, add its answer to the state, and make a step of the solver.",
    ),
    "forcing": (
        "u' = S(u, f + C(u, f))",
        "Give the network state and forcing, add its answer to the forcing, and make a step of the "
        "solver with that.",
    ),
    "parameter": (
        "u' = S(u, f F(u, f)),  F = exp(C)",
        "Give the network the state and the first guess of the parameter, multiply the guess by "
        "its answer, the factor F > 0, and make a step of the solver with that.",
    ),
}
_PYTHON = {
    ".onnx": (
        "import onnxruntime",
        'session = onnxruntime.InferenceSession("{name}")',
        "({answer},) = session.run(None, {{{pairs}}})  # NumPy arrays",
    ),
    ".pt2": (
        "import torch",
        'network = torch.export.load("{name}").module()',
        "{answer} = network({fields})  # tensors",
    ),
    ".pt": (
        "import torch",
        'network = torch.jit.load("{name}")',
        "{answer} = network({fields})  # tensors",
    ),
}
_CPP = """
```cpp
#include <torch/script.h>  // libtorch
torch::jit::Module network = torch::jit::load("{name}");
auto state = torch::from_blob(numbers, {{{shape}}}, torch::k{type});  // your array{more}
auto {answer} = network.forward({{{fields}}}).toTensor().contiguous();  // .data_ptr<{c}>()
```

From Fortran, call such lines by `bind(c)`, or use FTorch, which loads this file. Fortran's first
index is the one that lies closest together: the array is `{fortran}`."""


@dataclass(frozen=True)
class Card:
    """What a card is made of."""

    model: Model  # the model of the run
    network: Normalised  # the same, loaded
    grid: Domain  # on which it works
    file: Path  # the exported file
    states: int  # so many were compared
    difference: float  # the largest
    largest: float  # answer of the network

    def text(self) -> str:
        """The whole page, in Markdown."""
        run, (formula, use) = self.model.run, _USE[self.network.inject]
        f = ", f" if self._forced else ""
        about = (
            f"A neural network that corrects the solver `{run.subject}` at each of its steps. "
            f"zopde trained it (run `{run.root}`, label {self.model.label}, seed "
            f"{self.model.seed}) and wrote it as `{self.file.name}`."
        )
        sections = {
            "What it computes": [
                f"    {formula.format(f=f)}",
                f"u is the state{', f the forcing' * self._forced}, S one step of the solver, C "
                f"the network, and u' the corrected state, {self._time} later. {use}",
                "All numbers are in physical units; the network's own scales are in the file.",
                _table(("", "name", "shape", "type", "channels"), list(self._fields())),
                "`batch` is free: states side by side, each corrected by itself. All other sizes "
                "are fixed. Channels are in this order, and the last dimension lies closest "
                "together in memory.",
            ],
            "Where it lives": list(self._domain()),
            "How to call it": [self._call()],
            "What it learned from": list(self._data()),
            "How good it is": list(self._scores()),
            "How to make it again": list(self._again()),
        }
        parts = [f"# {self.file.name}", about]
        for head, paragraphs in sections.items():
            parts += [f"## {head}", *paragraphs]
        return "\n\n".join(parts) + "\n"

    @property
    def _forced(self) -> bool:
        return bool(self.grid.forcing_channels)

    @property
    def _time(self) -> str:
        return _with_unit(f"{self.grid.dt:g}", self.grid.unit("time"))

    @property
    def _answer(self) -> str:
        return "factor" if self.network.inject == "parameter" else "correction"

    @property
    def _shape(self) -> tuple[str, ...]:
        """Of the state, as a program writes it."""
        return "batch", *map(str, self.grid.state_shape)

    def _fields(self) -> Iterator[list[str]]:
        grid, kind = self.grid, str(self.network.state_scale.dtype).removeprefix("torch.")
        of_state = self.network.output_scale is None
        fields = {"state": grid.channels, "forcing": grid.forcing_channels}
        fields[self._answer] = grid.channels if of_state else grid.forcing_channels
        for name, channels in fields.items():
            units = (grid.unit(channel) for channel in channels)
            named = [_with_unit(*pair) for pair in zip(channels, units, strict=True)]
            if name == "factor":
                named = [f"of {channel}" for channel in channels]
            side = "output" if name == self._answer else "input"
            shape = ", ".join(("batch", str(len(channels)), *map(str, grid.shape)))
            if channels:
                yield [side, f"`{name}`", f"({shape})", kind, ", ".join(named)]

    def _domain(self) -> Iterator[str]:
        grid = self.grid
        if not isinstance(grid, Grid):
            yield f"A mesh of {grid.shape[0]} points, numbered as in the solver's grid."
        else:
            rows = []
            each = zip(grid.dims, grid.shape, grid.extent, grid.periodic, strict=True)
            for axis, (dim, cells, extent, periodic) in enumerate(each):
                long = _with_unit(f"{extent:g}", grid.unit("space"))
                size = "one size" if grid.is_uniform(axis) else "several sizes"
                ends = "periodic" if periodic else "open"
                rows.append([dim, str(cells), long, size, ends])
            yield _table(("dimension", "cells", "extent", "cells of", "boundary"), rows)
        if grid.fluid is not None:
            yield (
                f"{grid.fluid_cells} of the cells have fluid. What the others hold does not matter,"
                f" and the answer there is {int(self._answer == 'factor')}."
            )
        yield f"One step covers {self._time}. It is no network for another grid or step."

    def _call(self) -> str:
        suffix = ".pt" if self.file.suffix == ".ts" else self.file.suffix
        names = ["state", "forcing"][: 1 + self._forced]
        double = self.network.state_scale.dtype.itemsize == 8
        words = {
            "name": self.file.name,
            "answer": self._answer,
            "fields": ", ".join(names),
            "pairs": ", ".join(f'"{name}": {name}' for name in names),
            "shape": ", ".join(self._shape),
            "more": "; forcing alike" * self._forced,
            "type": "Float64" if double else "Float32",
            "c": "double" if double else "float",
            "fortran": f"real({'c_double' if double else 'c_float'}) :: "
            f"state({', '.join(reversed(self._shape))})",
        }
        code = "\n".join(_PYTHON[suffix]).format(**words)
        own = (
            "\nWith zopde: `zopde.CorrectedSolver(solver, network)` with `network = "
            f"zopde.load_corrector({str(self.model.path)!r})`, which needs the run, not this file."
        )
        more = _CPP.format(**words) + "\n" if suffix == ".pt" else ""
        return f"```python\n{code}\n```\n{more}{own}"

    def _data(self) -> Iterator[str]:
        run = self.model.run
        path, options = look_up(run.settings, "data.path"), look_up(run.settings, "solver.options")
        made = "made by the solver itself on a finer grid" if not path else f"from `{path}`"
        yield f"Reference data {made}; the settings of `[data]`:"
        yield "\n".join(f"    {k} = {literal(v)}" for k, v in run.settings["data"].items())
        digest = run.root / "data.sha256"
        if digest.exists():
            known = digest.read_text(encoding="utf-8").strip()
            yield f"SHA-256 of their numbers: `{known}`."
        given = f", options `{literal(options)}`" if options else ""
        yield f"Solver: `{run.subject}`{given}."

    def _scores(self) -> Iterator[str]:
        metrics, label = self.model.run.metrics, self.model.label
        if metrics is None:
            yield "The run was not finished: there are no scores."
        else:
            shown = table_of(metrics)
            for one in filter(None, (shown, shown.also)):
                rows = [row for row in one.rows if row[0] in ("SRC", label)]
                yield f"{one.title}."
                yield _table([head.replace("\n", " ") for head in one.columns], rows)
            yield (
                "SRC is the solver without correction. MAE is the mean absolute error over all "
                "steps of runs that no training has seen; of several seeds it is the mean, and "
                f"this file is seed {self.model.seed}. It says nothing of other flows than these."
            )
        yield (
            f"This file was run on {self.states} states of the data: its answers differ from the "
            f"network's by {self.difference:.2g} at most, where the largest is {self.largest:.3g}."
        )

    def _again(self) -> Iterator[str]:
        run = self.model.run
        command = f"zopde export {run.root} --label {self.model.label} --seed {self.model.seed}"
        yield f"```sh\n{reproduce(run)}\n{command} --to {self.file.name}\n```"
        trained = (run.metrics or {}).get("versions", {})
        told = ", ".join(f"{name} {number}" for name, number in trained.items())
        now = versions("onnx", "onnxruntime") if self.file.suffix == ".onnx" else versions()
        here = ", ".join(f"{name} {number}" for name, number in now.items())
        yield f"Trained with {told or 'unknown versions'}; written with {here}."


def _with_unit(text: str, unit: str) -> str:
    return text if unit == "1" else f"{text} {unit}"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)

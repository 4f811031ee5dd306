"""The page beside an exported corrector: what it computes, from what it learned, how to call it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from zopde.contracts import Domain
from zopde.doctor import versions
from zopde.grid import Grid
from zopde.hybrid import INJECTIONS
from zopde.nets import Normalised
from zopde.studies.correct.models import Model
from zopde.studies.correct.table import table_of
from zopde.studies.report.found import reproduce
from zopde.studies.settings import literal

_JIT = """```python
{answer} = torch.jit.load("{file}")({inputs})  # tensors
```

```cpp
torch::jit::Module network = torch::jit::load("{file}");  // #include <torch/script.h>
auto state = torch::from_blob(numbers, {{batch, {sizes}}}, torch::k{type});  // your array
auto {answer} = network.forward({{{inputs}}}).toTensor().contiguous();  // .data_ptr<{c}>()
```

Fortran calls such lines by `bind(c)`, or by FTorch. Its first index lies closest together: the
array is `real(c_{c}) :: state({reversed}, batch)`."""
_CALL = {
    ".onnx": '```python\nsession = onnxruntime.InferenceSession("{file}")\n'
    "({answer},) = session.run(None, {{{pairs}}})  # NumPy arrays\n```",
    ".pt2": '```python\n{answer} = torch.export.load("{file}").module()({inputs})  # tensors\n```',
    **dict.fromkeys((".pt", ".ts"), _JIT),
}

# The same formulas for one correction to k steps; see `corrector.every`
_HELD = {
    "after": "Corrects the state after every {k} steps of the solver: "
    "v = S^{k}(u; f[1], .., f[{k}]), u' = v + C(v, f[1]).",
    "before": "Corrects the state before every {k} steps of the solver: "
    "u' = S^{k}(u + C(u, f[1]); f[1], .., f[{k}]).",
    "forcing": "Adds a learned source term, or a closure, to the solver's forcing, the same in "
    "{k} steps: u' = S^{k}(u; f[1] + c, .., f[{k}] + c), c = C(u, f[1]).",
    "parameter": "Learns a positive field of the solver, such as a viscosity, by a factor that is "
    "the same in {k} steps: u' = S^{k}(u; f[1] exp(c), .., f[{k}] exp(c)), c = C(u, f[1]).",
}


def card_of(model: Model, network: Normalised, grid: Domain, file: Path, agreement: str) -> str:
    """The page, in Markdown; `agreement` is what was found when the file was run.

    The dt of `grid` is the time from one correction to the next.
    """
    run, metrics, digest = model.run, model.run.metrics or {}, model.run.root / "data.sha256"
    answer = "factor" if network.inject == "parameter" else "correction"
    own = grid.forcing_channels[: len(grid.forcing_channels) - len(network.told)]
    added_to = grid.channels if network.output_scale is None else own
    fields = {"state": grid.channels, "forcing": grid.forcing_channels, answer: added_to}
    inputs = [name for name in ("state", "forcing") if fields[name]]
    kind, sizes = str(network.state_scale.dtype).removeprefix("torch."), [*map(str, grid.shape)]
    rows = []
    for name, channels in fields.items():
        units = ("1" if name == "factor" else grid.unit(channel) for channel in channels)
        named, many = ", ".join(map(_with_unit, channels, units)), str(len(channels))
        cells = f"| `{name}` | (batch, {', '.join([many, *sizes])}) | {kind} | {named} |"
        rows += [f"| {'input' if name in inputs else 'output'} {cells}"] * bool(channels)
    call = _CALL[file.suffix].format(
        answer=answer,
        file=file.name,
        inputs=", ".join(inputs),
        pairs=", ".join(f'"{name}": {name}' for name in inputs),
        sizes=", ".join([str(len(grid.channels)), *sizes]),
        reversed=", ".join([*reversed(sizes), str(len(grid.channels))]),
        type=kind.capitalize(),
        c="double" if kind == "float64" else "float",
    )
    known = "" if network.fixed is None else "; the file holds where they lie"
    if network.told:
        known += f"; of `forcing`, the solver itself has nothing of {', '.join(network.told)}"
    data = run.settings["data"]
    words = {
        **{"file": file.name, "solver": run.subject, "run": run.root, "label": model.label},
        **{"seed": model.seed, "call": call, "answer": answer, "agreement": agreement},
        "c": "exp(C)" if answer == "factor" else "C",
        **_use(network, grid),
        **{"fields": "\n".join(rows), "domain": _domain(grid) + known, "again": reproduce(run)},
        "model": repr(str(model.path)),
        "data": f"from {data['path']}" if data.get("path") else "that the solver made itself",
        "settings": literal(data),
        "digest": digest.read_text("utf-8").strip() if digest.exists() else "not recorded",
        "options": literal(run.settings["solver"]["options"]),
        "scores": _scores(metrics, model.label),
        "trained": literal(metrics.get("versions", {})),
        "written": literal(versions("onnx", "onnxruntime")),
    }
    page = files("zopde.studies.correct") / "card.md"
    return Template(page.read_text(encoding="utf-8")).substitute(words)


def _use(network: Normalised, grid: Domain) -> dict[str, str]:
    """The formula, and when the correction is due."""
    k, unit = network.every, grid.unit("time")
    words = {"time": _with_unit(grid.dt / k, unit)}
    if k == 1:
        does = inspect.getdoc(type(INJECTIONS[network.inject])) or ""  # begins with the formula
        words |= {"does": does.splitlines()[0], "held": "", "judged": "all steps"}
        return words | {"when": "at each of its steps"}
    held = f" S^{k} is {k} such steps in a row, the i-th with the forcing f[i]; u' is the state "
    held += f"behind them, {_with_unit(grid.dt, unit)} later. The file is asked once in {k} steps, "
    held += "not at each."
    if grid.forcing_channels:
        held += " `forcing` is f[1], that of the first of them."
    words |= {"does": _HELD[network.inject].format(k=k), "held": held}
    return words | {"when": f"once in {k} of its steps", "judged": "the times of the corrections"}


def _with_unit(value: float | str, unit: str) -> str:
    text = value if isinstance(value, str) else f"{value:g}"
    return text if unit == "1" else f"{text} {unit}"


def _domain(grid: Domain) -> str:
    if not isinstance(grid, Grid):
        return f"a mesh of {grid.shape[0]} points, numbered as the solver's"
    each = zip(grid.dims, grid.shape, grid.extent, grid.periodic, strict=True)
    told = [
        f"{dim}: {cells} cells{' of several sizes' * (not grid.is_uniform(axis))} in "
        f"{_with_unit(extent, grid.unit('space'))}, {'periodic' if periodic else 'open'}"
        for axis, (dim, cells, extent, periodic) in enumerate(each)
    ]
    land = "; cells outside of the mask hold anything, and are not corrected"
    return "; ".join(told) + land * (grid.fluid is not None)


def _scores(metrics: Mapping[str, Any], label: str) -> str:
    """The rows of the tables of results that count here."""
    if not metrics:
        return "The run was not finished: there are no scores."
    shown, parts = table_of(metrics), list[str]()
    for one in filter(None, (shown, shown.also)):
        heads = [head.replace("\n", " ") for head in one.columns]
        rows = [heads, ["---"] * len(heads), *(r for r in one.rows if r[0] in ("SRC", label))]
        parts += [f"{one.title}.", "\n".join(f"| {' | '.join(row)} |" for row in rows)]
    return "\n\n".join(parts)

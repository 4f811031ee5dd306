"""A trained corrector as one file for other programs, compared with the network before it stays."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from zopde.contracts import Domain
from zopde.data import load_rollout
from zopde.domain import strided
from zopde.errors import InputError, first_line
from zopde.files import write_bytes, write_text
from zopde.nets import Normalised
from zopde.studies.correct.card import card_of
from zopde.studies.correct.evaluate import load_corrector
from zopde.studies.correct.models import Model, model_of
from zopde.studies.correct.open import open_solver, reference_of
from zopde.studies.correct.settings import CorrectionConfig
from zopde.studies.correct.train import REFERENCE
from zopde.studies.settings import build
from zopde.validate import check_choice, check_new_file, checked

_STATES = 8  # of the run's data, at which file and network are compared
_ROUNDING = 1e3  # units in the last place of the largest answer
# What torch says, tracing or exporting, of a network that asks for the len of its input
_FIXED_BATCH = ("Using len to get tensor shape", "specialized it to be a constant")
_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_SAID = "run on {states} states of the data, its answers differ from the network's by at most "
_SAID += "{off:.2g}, where the largest is {largest:.3g}"
Fields = tuple[Tensor, ...]
Ask = Callable[..., Tensor]


class Exported(NamedTuple):
    """What was written, and how well it agrees with the network."""

    card: Path  # the page that explains the file
    model: Path  # what it was made of
    difference: float  # the largest between file and network
    agreement: str  # the same in words


@checked
def export_corrector(
    run: Path | str,
    to: Path | str,
    label: str | None = None,
    seed: int | None = None,
    overwrite: bool = False,
) -> Exported:
    """Write a trained corrector as one file that needs no zopde, and a card about it, `<to>.md`.

    It maps state, and forcing if the solver has one, to the correction, or for "parameter" to the
    factor exp(C), in physical units, for any batch. It is run on states of the run's data first.

    Args:
        run: The folder of a run of `run_correction`.
        to: The file: .onnx is ONNX, .pt2 `torch.export`, .pt or .ts TorchScript, which C++ loads.
        label: By which way it was trained; by default that of least error without a gradient of
            the solver.
        seed: Of the training; the run's first by default.
        overwrite: Replace both files.

    Raises:
        InputError: If there is no such model, or no data; if a file is there; if the format, or a
            missing package, does not allow it; if file and network differ by more than rounding.
    """
    to, model = Path(to), model_of(Path(run), label, seed)
    check_choice("suffix of --to", to.suffix, _FORMATS)
    card = to.with_name(f"{to.name}.md")
    for path in (to, card):
        check_new_file("--to", path, overwrite)
    network = load_corrector(model.path).requires_grad_(False)
    if network.history:
        got, expected = f"corrector.history = {network.history}", "0: a file keeps no earlier state"
        raise InputError("export", got=got, expected=expected)
    grid, fields = _sample(model, network)
    content, off, largest = _tried(_Physical(network).eval(), to, fields)
    said = _SAID.format(states=len(fields[0]), off=off, largest=largest)
    page = card_of(model, network, grid, to, f"This file was {said}.")
    write_bytes(to, content)
    write_text(card, page)
    return Exported(card, model.path, off, said)


class _Physical(nn.Module):
    """What a file holds: physical units in, what enters the solver's step out."""

    def __init__(self, network: Normalised) -> None:
        super().__init__()
        self.network, self.is_factor = network, network.inject == "parameter"
        # What the network is told is not corrected, so the file leaves it out of the answer
        self.own = None if network.output_scale is None else len(network.output_scale)

    def forward(self, state: Tensor, forcing: Tensor | None = None) -> Tensor:
        correction: Tensor = self.network(state, forcing)
        if self.own is not None:
            correction = correction[:, : self.own]
        return correction.exp() if self.is_factor else correction


def _sample(model: Model, network: Normalised) -> tuple[Domain, Fields]:
    """Some whole states of the run's data, with the forcing that the network has; their grid.

    Its dt is the time from one correction to the next.
    """
    run, scale = model.run, network.state_scale
    if len(network.input_scale) == len(scale) and (run.root / REFERENCE).exists():
        data = load_rollout(run.root / REFERENCE)  # the states that follow a correction
        grid = data.grid
    else:  # the forcing lies in the data file alone
        config: CorrectionConfig = build(run.study.settings, run.settings)
        data = reference_of(config, open_solver(config), run.root.parent).read()
        grid = strided(data.grid, network.every)
    fields = [data.states] if data.forcing is None else [data.states, data.forcing]
    whole = data.whole[:, : data.steps]
    if not bool(whole.any()):
        expected = "one in which all was measured, to try the file on"
        raise InputError("data", got="no whole state", expected=expected)
    flat = [values[:, : data.steps][whole] for values in fields]
    rows = torch.linspace(0, len(flat[0]) - 1, _STATES).long()
    return grid, tuple(values[rows].to(scale.dtype) for values in flat)


def _program(module: _Physical, fields: Fields) -> torch.export.ExportedProgram:
    dynamic = tuple({0: torch.export.Dim("batch")} for _ in fields)
    return torch.export.export(module, fields, dynamic_shapes=dynamic)


def _as_onnx(module: _Physical, fields: Fields) -> tuple[bytes, Ask]:
    from onnxruntime import InferenceSession
    from torch import onnx

    names = ["state", "forcing"][: len(fields)]
    answer = ["factor" if module.is_factor else "correction"]
    told: dict[str, Any] = {"input_names": names, "output_names": answer, "verbose": False}
    made: Any = onnx.export(_program(module, fields), dynamo=True, **told)
    content: bytes = made.model_proto.SerializeToString()
    session = InferenceSession(content, providers=["CPUExecutionProvider"])

    def ask(*fields: Tensor) -> Tensor:
        given = {name: values.numpy() for name, values in zip(names, fields, strict=True)}
        return torch.from_numpy(session.run(None, given)[0])

    return content, ask


def _as_program(module: _Physical, fields: Fields) -> tuple[bytes, Ask]:
    buffer = BytesIO()
    torch.export.save(_program(module, fields), buffer)
    return buffer.getvalue(), torch.export.load(BytesIO(buffer.getvalue())).module()


def _as_script(module: _Physical, fields: Fields) -> tuple[bytes, Ask]:
    buffer = BytesIO()
    # A warning says that a branch by values was taken for good: the file would be wrong elsewhere
    warnings.simplefilter("error", torch.jit.TracerWarning)  # type: ignore[attr-defined]
    torch.jit.save(torch.jit.trace(module, fields, check_trace=False), buffer)
    return buffer.getvalue(), torch.jit.load(BytesIO(buffer.getvalue()))


# Suffix -> (module, fields) -> what a file holds, and what it is when it is read again
_FORMATS = {".onnx": _as_onnx, ".pt2": _as_program, ".pt": _as_script, ".ts": _as_script}


def _tried(module: _Physical, to: Path, fields: Fields) -> tuple[bytes, float, float]:
    """What the file will hold; the largest difference from the network, and its largest answer."""
    if to.suffix == ".onnx" and (missing := [n for n in _PACKAGES if find_spec(n) is None]):
        expected, remedy = f"the packages {', '.join(_PACKAGES)}", "pip install 'zopde[export]'"
        raise InputError(f"{to}", got=f"no {missing[0]}", expected=expected, remedy=remedy)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it tells what torch itself lacks
    wanted, alone = module(*fields), tuple(values[:1] for values in fields)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            # Of two states: a batch of one might be kept for good
            content, ask = _FORMATS[to.suffix](module, tuple(values[:2] for values in fields))
            found = torch.cat([ask(*alone), ask(*(values[1:] for values in fields))])
    except Exception as error:  # a user's network, and a library, may raise anything
        got = f"a network that it cannot hold ({type(error).__name__}: {first_line(error)})"
        expected = "tensor operations of a fixed sequence that this format knows"
        others = (name for name, made in _FORMATS.items() if made is not _FORMATS[to.suffix])
        remedy = f"another format may do: {', '.join(others)}"
        if any(words in str(error) for words in _FIXED_BATCH):
            remedy = "write x.shape[0] in place of len(x), or of what else fixes the batch"
        raise InputError(f"{to}", got=got, expected=expected, remedy=remedy) from error
    off, largest = float((found - wanted).abs().max()), float(wanted.abs().max())
    if not off <= _ROUNDING * torch.finfo(wanted.dtype).eps * largest:
        got = f"answers off by {off:.2g}, where the largest is {largest:.2g}"
        raise InputError(f"{to}", got=got, expected="the network's, up to rounding")
    return content, off, largest

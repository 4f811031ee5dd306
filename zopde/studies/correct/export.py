"""A trained corrector as one file for other programs, compared with the network before it stays."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from zopde.contracts import Domain
from zopde.data import load_rollout
from zopde.errors import InputError, first_line
from zopde.files import write_bytes, write_text
from zopde.nets import Normalised
from zopde.studies.correct.card import Card
from zopde.studies.correct.evaluate import load_corrector
from zopde.studies.correct.models import Model, model_of
from zopde.studies.correct.open import open_solver, reference_of
from zopde.studies.correct.settings import CorrectionConfig
from zopde.studies.correct.train import REFERENCE
from zopde.studies.settings import build
from zopde.validate import check_choice, check_new_file, checked

_STATES = 8  # of the run's data, at which file and network are compared
_ROUNDING = 1e3  # units in the last place of the largest answer
_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
Ask = Callable[..., Tensor]


@dataclass(frozen=True)
class Exported:
    """What was written, and how well the file agrees with the network."""

    path: Path  # the file
    card: Path  # the page that explains it
    model: Path  # the model that it was made of
    states: int  # so many states of the run's data were tried
    difference: float  # the largest between an answer of the file and one of the network
    largest: float  # the largest answer of the network


@checked
def export_corrector(
    run: Path | str,
    to: Path | str,
    label: str | None = None,
    seed: int | None = None,
    overwrite: bool = False,
) -> Exported:
    """Write a trained corrector as one file that programs without zopde run, with a card beside it.

    The file maps (state) to a correction, or (state, forcing) where the solver has a forcing: all
    in physical units, (batch, channel, *space), for any batch. For `inject = "parameter"` it
    answers exp(C), the factor of the parameter. It is run on states of the run's data, and what
    does not agree with the network up to rounding is not written.

    Args:
        run: The folder of a run of `run_correction`.
        to: The file: .onnx is ONNX, .pt2 `torch.export`, .pt or .ts TorchScript, which C++ loads.
            The card is beside it, `<to>.md`.
        label: By which way it was trained; by default the one of least error that a black box
            can have.
        seed: Of the training; the run's first by default.
        overwrite: Replace both files.

    Returns:
        Where the two files are, and the largest difference.

    Raises:
        InputError: If there is no such model, or no data to compare on; if a file is there; if the
            network cannot be written in this format, or a package is missing; if the file does
            not agree.
    """
    to = Path(to)
    check_choice("suffix of --to", to.suffix, _FORMATS)
    card_path = to.with_name(f"{to.name}.md")
    for path in (to, card_path):
        check_new_file("--to", path, overwrite)
    model = model_of(Path(run), label, seed)
    network = load_corrector(model.path).requires_grad_(False)
    module, (grid, fields) = _Physical(network).eval(), _sample(model, network)
    content, ask = _converted(module, _FORMATS[to.suffix], to, fields)
    difference, largest = _compared(ask, module, to, fields)
    exported = Exported(to, card_path, model.path, len(fields[0]), difference, largest)
    card = Card(model, network, grid, to, len(fields[0]), difference, largest)
    write_bytes(to, content)
    write_text(card_path, card.text())
    return exported


class _Physical(nn.Module):
    """What a file holds: physical units in, what enters the solver's step out."""

    def __init__(self, network: Normalised) -> None:
        super().__init__()
        self.network, self.is_factor = network, network.inject == "parameter"

    def forward(self, state: Tensor, forcing: Tensor | None = None) -> Tensor:
        correction: Tensor = self.network(state, forcing)
        return correction.exp() if self.is_factor else correction


def _sample(model: Model, network: Normalised) -> tuple[Domain, tuple[Tensor, ...]]:
    """The grid, and some states of the run's data; with their forcing, where the network has it."""
    run, path = model.run, model.run.root / REFERENCE
    scale = network.state_scale
    if len(network.input_scale) == len(scale) and path.exists():
        data = load_rollout(path)
    else:  # the forcing lies in the data file alone
        config = build(CorrectionConfig, run.settings)
        solver = open_solver(config)
        data = reference_of(config, solver, run.root.parent).read()
    states = data.states[:, : data.steps].flatten(0, 1)
    forcing = None if data.forcing is None else data.forcing[:, : data.steps].flatten(0, 1)
    rows = torch.linspace(0, len(states) - 1, _STATES).long()
    fields = [states] if forcing is None else [states, forcing]
    return data.grid, tuple(values[rows].to(scale.dtype) for values in fields)


class _Format(NamedTuple):
    """A way to write a module, and to run what was written."""

    write: Callable[[_Physical, tuple[Tensor, ...]], bytes]
    load: Callable[[bytes], Ask]


def _write_onnx(module: _Physical, fields: tuple[Tensor, ...]) -> bytes:
    from torch import onnx

    names, program = ["state", "forcing"][: len(fields)], _program(module, fields)
    answer = "factor" if module.is_factor else "correction"
    told = {"input_names": names, "output_names": [answer]}
    made = onnx.export(program, dynamo=True, verbose=False, **told)
    assert made is not None
    content: bytes = made.model_proto.SerializeToString()
    return content


def _load_onnx(content: bytes) -> Ask:
    from onnxruntime import InferenceSession

    session = InferenceSession(content, providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]

    def ask(*fields: Tensor) -> Tensor:
        given = {name: values.numpy() for name, values in zip(names, fields, strict=True)}
        return torch.from_numpy(session.run(None, given)[0])

    return ask


def _program(module: _Physical, fields: tuple[Tensor, ...]) -> torch.export.ExportedProgram:
    dynamic = tuple({0: torch.export.Dim("batch")} for _ in fields)
    return torch.export.export(module, fields, dynamic_shapes=dynamic)


def _write_program(module: _Physical, fields: tuple[Tensor, ...]) -> bytes:
    buffer = BytesIO()
    torch.export.save(_program(module, fields), buffer)
    return buffer.getvalue()


def _write_script(module: _Physical, fields: tuple[Tensor, ...]) -> bytes:
    buffer = BytesIO()
    # A warning says that a branch by values was taken for good: the file would be wrong elsewhere
    warnings.simplefilter("error", torch.jit.TracerWarning)  # type: ignore[attr-defined]
    torch.jit.save(torch.jit.trace(module, fields, check_trace=False), buffer)
    return buffer.getvalue()


_SCRIPT = _Format(_write_script, lambda content: torch.jit.load(BytesIO(content)))
_FORMATS = {
    ".onnx": _Format(_write_onnx, _load_onnx),
    ".pt2": _Format(_write_program, lambda data: torch.export.load(BytesIO(data)).module()),
    ".pt": _SCRIPT,
    ".ts": _SCRIPT,
}


def _converted(
    module: _Physical, to_format: _Format, to: Path, fields: tuple[Tensor, ...]
) -> tuple[bytes, Ask]:
    """What a file will hold, and what it is when it is read again."""
    if to.suffix == ".onnx" and (missing := [n for n in _PACKAGES if find_spec(n) is None]):
        expected, remedy = f"the packages {', '.join(_PACKAGES)}", "pip install 'zopde[export]'"
        raise InputError(f"{to}", got=f"no {missing[0]}", expected=expected, remedy=remedy)
    pair = tuple(values[:2] for values in fields)  # of one state, a batch of one might be kept
    try:
        with _quiet():
            content = to_format.write(module, pair)
            return content, to_format.load(content)
    except Exception as error:  # a user's network, and a library, may raise anything
        got = f"a network that it cannot hold ({type(error).__name__}: {first_line(error)})"
        expected = "tensor operations of a fixed sequence that this format knows"
        others = ", ".join(suffix for suffix in _FORMATS if suffix != to.suffix)
        remedy = f"another format may do: {others}"
        raise InputError(f"{to}", got=got, expected=expected, remedy=remedy) from error


def _compared(
    ask: Ask, module: _Physical, to: Path, fields: tuple[Tensor, ...]
) -> tuple[float, float]:
    """The largest difference, and the largest answer; of one state alone, and of the others."""
    with torch.no_grad(), _quiet():
        wanted = module(*fields)
        parts = [ask(*(v[:1] for v in fields)), ask(*(v[1:] for v in fields))]
    off = float((torch.cat(parts) - wanted).abs().max())
    largest = float(wanted.abs().max())
    if not off <= _ROUNDING * torch.finfo(wanted.dtype).eps * largest:
        got = f"answers off by {off:.2g}, where the largest is {largest:.2g}"
        raise InputError(f"{to}", got=got, expected="the network's, up to rounding")
    return off, largest


@contextmanager
def _quiet() -> Iterator[None]:
    """What libraries say about themselves is not for a user of zopde."""
    log: Any = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)

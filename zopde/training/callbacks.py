"""Telling other programs, such as TensorBoard, what a run has reached while it goes on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, final

from zopde.errors import InputError


@final
@dataclass(frozen=True)
class Event:
    """Something that a run has just done."""

    # "iteration": an update of the weights; "training": a label with one seed, trained and judged
    # on unseen data; "run": everything, `metrics.json` included
    kind: Literal["iteration", "training", "run"]
    label: str = ""  # the row of the table; "" of a whole run
    seed: int = 0
    # Of an iteration the columns of history.csv, of a training its scores, of both `all_steps`, the
    # solver steps so far with those that compared products, looked at noise or at a validation; of
    # a run its metrics
    figures: Mapping[str, Any] = field(default_factory=dict)


class Callback(Protocol):
    """Is called after each iteration, each training and the run: pass any function of an `Event`.

    A run that is resumed judges every training again, and so tells of "training" and "run" again;
    of "iteration" it tells only of new ones.

    The time that it takes is not counted as training. If it raises, the run ends, its checkpoint
    is written, and --resume goes on.

    Example:
        >>> def shout(event: Event) -> None:
        ...     if event.kind == "iteration":
        ...         print(event.label, event.figures["loss"])
        >>> shout(Event("iteration", "NOG", 0, {"loss": 0.25}))
        NOG 0.25
    """

    def __call__(self, event: Event) -> None:
        """Hear of an event."""


def check_callbacks(callbacks: object) -> None:
    """Require a list of functions."""
    listed = callbacks if isinstance(callbacks, list | tuple) else [callbacks]
    wrong = [one for one in listed if listed is not callbacks or not callable(one)]
    if wrong:
        got = "a function" if callable(wrong[0]) else repr(wrong[0])
        remedy = "callbacks=[function]"
        raise InputError("callbacks", got=got, expected="a list of functions", remedy=remedy)


@final
class TensorBoardCallback:
    """Draws the history and the scores of every training in TensorBoard.

    Needs the package tensorboard, `pip install tensorboard`.

    Args:
        folder: Where its files are written; `tensorboard --logdir FOLDER` shows them.

    Raises:
        InputError: If tensorboard is not installed.
    """

    def __init__(self, folder: Path | str) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise _missing("tensorboard") from error
        self._writer = SummaryWriter(str(folder))

    def __call__(self, event: Event) -> None:
        """See `Callback`."""
        if event.kind == "run":
            self._writer.close()
            return
        iteration = event.figures.get("iteration", 0)
        for name, value in _numbers(event).items():
            where = f"{event.label}/seed-{event.seed}/{event.kind}/{name}"
            self._writer.add_scalar(where, value, iteration)


@final
class TrackioCallback:
    """Keeps the history and the scores of every training in trackio, a run for each of them.

    Needs the package trackio, `pip install trackio`; `trackio show` draws what it has kept.

    Args:
        project: The name that trackio files it under.

    Raises:
        InputError: If trackio is not installed.
    """

    def __init__(self, project: str) -> None:
        try:
            import trackio  # type: ignore[import-not-found, import-untyped, unused-ignore]
        except ImportError as error:
            raise _missing("trackio") from error
        self._trackio: Any = trackio
        self._project, self._begun = project, ("", -1)

    def __call__(self, event: Event) -> None:
        """See `Callback`."""
        if event.kind == "run":
            self._trackio.finish()
            return
        if self._begun != (event.label, event.seed):
            if self._begun[0]:
                self._trackio.finish()
            name = f"{event.label}, seed {event.seed}"
            self._trackio.init(project=self._project, name=name, resume="allow")
            self._begun = event.label, event.seed
        named = {f"{event.kind}/{name}": value for name, value in _numbers(event).items()}
        self._trackio.log(named)


def _numbers(event: Event) -> dict[str, float]:
    """The figures that a curve can be drawn of."""
    drawn = {k: v for k, v in event.figures.items() if isinstance(v, int | float)}
    return {k: float(v) for k, v in drawn.items() if k != "iteration"}


def _missing(package: str) -> InputError:
    return InputError(
        f"package {package}", got="none", expected="it", remedy=f"pip install {package}"
    )

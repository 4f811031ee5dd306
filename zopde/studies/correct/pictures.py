"""Pictures of the user's own: found by name, tried before anything is trained, then drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from inspect import signature
from typing import Protocol

import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from zopde.contracts import Domain
from zopde.data import Trajectories
from zopde.errors import InputError, first_line
from zopde.plugins import load_object
from zopde.report.panels import png_of

FOLDER = "pictures"  # of a run, where they are kept
_SETTING = "run.pictures"
Run = Float[Tensor, "time channel *space"]


class Picture(Protocol):
    """Draws one unseen run as you like to see it."""

    def __call__(self, predicted: Mapping[str, Run], reference: Run, domain: Domain) -> Figure:
        """Draw the run.

        Args:
            predicted: Label -> (time, channel, *space), the states of its rollout, the initial one
                included; of the first seed; NaN or infinite after a rollout diverged.
            reference: The same of the reference data; NaN where nothing was measured.
            domain: The grid or mesh of both.

        Returns:
            A `matplotlib.figure.Figure`.
        """


def picture_named(spec: str) -> tuple[str, Picture]:
    """A short name, the last part of the spec, and the function.

    Raises:
        InputError: If there is none of that name, or it does not take three arguments.
    """
    picture: Picture = load_object(spec, what="picture")
    try:
        signature(picture).bind(None, None, None)
    except (TypeError, ValueError) as error:
        got = f"{spec!r} ({first_line(error)})"
        expected = "a function (predicted, reference, domain)"
        raise InputError(_SETTING, got=got, expected=expected) from error
    return spec.rpartition(":")[2], picture


def pictures_of(specs: Sequence[str]) -> dict[str, Picture]:
    """What `run.pictures` names, by the short name of each.

    Raises:
        InputError: If one will not do, or two have the same short name.
    """
    found: dict[str, Picture] = {}
    for name, picture in map(picture_named, specs):
        if name in found:
            raise InputError(_SETTING, got=f"{name!r} twice", expected="different names")
        found[name] = picture
    return found


def draw_own(name: str, picture: Picture, states: Mapping[str, Tensor], domain: Domain) -> Figure:
    """The user's picture of some states, "reference" among them; they stay as they are.

    Raises:
        InputError: If the function raises, or returns no figure that can be drawn.
    """
    copies = {label: whole.detach().cpu().clone() for label, whole in states.items()}
    reference, expected = copies.pop("reference"), "a matplotlib Figure"
    try:
        figure = picture(copies, reference, domain)
        if isinstance(figure, Figure):
            png_of(figure)  # a title, say, is read when it is drawn
    except Exception as error:  # a user's function may raise anything
        got = f"{type(error).__name__}: {first_line(error)}"
        raise InputError(f"{_SETTING} {name}", got=got, expected=expected) from error
    if not isinstance(figure, Figure):
        raise InputError(f"{_SETTING} {name}", got=type(figure).__name__, expected=expected)
    return figure


def check_pictures(
    pictures: Mapping[str, Picture], labels: Sequence[str], test: Trajectories
) -> None:
    """Draw every picture once before anything is trained, the reference in each label's place.

    Raises:
        InputError: If one will not do.
    """
    reference = test.states[test.simulations // 2]
    whole = torch.where(reference.isnan(), reference.nanmean(), reference)
    states = {"reference": reference, **dict.fromkeys(labels, whole)}
    for name, picture in pictures.items():
        draw_own(name, picture, states, test.grid)

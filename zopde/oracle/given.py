"""What an objective is given in place of the network: calls of it, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

from torch import Tensor, nn

from zopde.contracts import Network
from zopde.errors import ObjectiveError

_WHAT = "objective"


class NoModuleError(ObjectiveError, AttributeError):
    """The objective takes what it is given for the network itself; `hasattr` says False."""


@final
class Given:
    """Calls the network with the weights of its probes, and notes that it was called.

    It is no module: what an objective would read or set there is not that of the probes.
    """

    def __init__(self, network: nn.Module, ask: Network) -> None:
        self.called = False
        self._network, self._ask = network, ask
        self._shared: Callable[..., Tensor] = getattr(ask, "shared", ask)

    def __call__(self, *args: Any, **named: Any) -> Tensor:  # noqa: ANN401 - as the network takes them
        """Stacked states to stacked answers."""
        self.called = True
        return self._ask(*args, **named)

    def shared(self, *args: Any, **named: Any) -> Tensor:  # noqa: ANN401
        """States that all probes have in common, see `zopde.contracts.ask_shared`."""
        self.called = True
        return self._shared(*args, **named)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        if name.startswith("_") or not hasattr(self._network, name):
            raise AttributeError(name)
        got = f"{name!r} read from what it is given as the network"
        expected = "calls of it: it is a function that holds the weights of the probes, no module"
        remedy = "set modes on the network itself, before; a penalty on weights is `weight_decay`"
        raise NoModuleError(_WHAT, got=got, expected=expected, remedy=remedy)


def unused(how: str) -> ObjectiveError:
    """An objective whose losses do not come from the network that it is given."""
    expected = "losses of the network that it is given as its first argument"
    remedy = "call that argument in the objective, not a network from outside"
    return ObjectiveError(_WHAT, got=how, expected=expected, remedy=remedy)

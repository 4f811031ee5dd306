"""The line between a solver and the rest: no gradient crosses it, and no nonsense either."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from zopde.blackbox.wrapper import Wrapper
from zopde.contracts import Forcing, State
from zopde.errors import SolverError, first_line


@final
class BlackBox(Wrapper):
    """A solver as the rest of zopde sees it, whatever it is inside.

    States go in detached, so that `state.numpy()` works, and answers come out detached, so
    that nothing is differentiated by accident: NOG stays NOG even for a solver written in torch.

    Args:
        solver: The user's solver.
    """

    def step(self, state: State, forcing: Forcing | None = None) -> State:
        """One step; see `zopde.Solver.step`.

        Raises:
            SolverError: If the solver raises, or answers with something else than a tensor of
                the state's shape, dtype and device.
        """
        given = None if forcing is None else forcing.detach()
        try:
            with torch.no_grad():
                answer = self._solver.step(state.detach(), given)
        except SolverError:
            raise
        except Exception as error:  # it is the user's code and may raise anything
            kind = type(error).__name__
            raise SolverError(f"step raised {kind}: {first_line(error)}") from error
        if not isinstance(answer, Tensor):
            raise SolverError(f"step: got {type(answer).__name__}, expected a torch.Tensor")
        for name in ("shape", "dtype", "device"):
            found, expected = getattr(answer, name), getattr(state, name)
            if found != expected:
                raise SolverError(f"step: got {name} {found}, expected the state's {expected}")
        return answer.detach()

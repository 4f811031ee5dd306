"""Calling a network with some of its tensors replaced, without touching the network."""

from __future__ import annotations

from typing import Any, final

from torch import Tensor, nn
from torch.func import functional_call


@final
class Replaced:
    """Calls a network with other parameters or buffers, in every place where each one acts.

    `torch.func.functional_call` finds tied tensors by itself, but leaves a module that the
    network holds under two names with the replaced ones. So every place is named here, once
    per module and not once per path to it.

    Args:
        network: The module; it has its own tensors again after every call.
    """

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        places: dict[int, list[str]] = {}
        for path, module in network.named_modules():
            own = {**dict(module.named_parameters(recurse=False)), **module._buffers}
            for role, tensor in own.items():
                if tensor is not None:
                    places.setdefault(id(tensor), []).append(f"{path}.{role}" if path else role)
        self._places = {names[0]: names for names in places.values()}

    def __call__(self, tensors: dict[str, Tensor], *args: Any) -> Tensor:  # noqa: ANN401
        """The network's answer.

        Args:
            tensors: By name, as `named_parameters` and `named_buffers` have it.
            args: What the network takes.
        """
        everywhere = {place: t for name, t in tensors.items() for place in self._places[name]}
        answer: Tensor = functional_call(self._network, everywhere, args, tie_weights=False)
        return answer

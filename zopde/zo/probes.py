"""Coordinate probes of a module, side by side in one forward.

A moved weight is a rank-one change of its layer's output (`zopde.zo.rank_one`). So a stacked
batch of probes passes every layer once, with the common weights, and each layer then adds its
own probes' share. No weight is copied and no convolution is grouped by probe.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from zopde.errors import InputError
from zopde.zo.norms import NORMS, statistics_per_probe, updates_statistics
from zopde.zo.rank_one import Block, Share, Site, rule_for, share


def rank_one_sites(module: nn.Module) -> dict[str, list[Site]]:
    """Where each parameter acts, for those whose every use has a rank-one rule.

    A layer that draws random numbers (Dropout in train mode), writes its own statistics, or
    couples the states of a batch in a way not known here makes stacked probes wrong, so a
    network with one has no sites at all until it is in eval mode. BatchNorm in train mode is
    known: `statistics_per_probe`.
    """
    if any(_forbids_stacking(part) for part in module.modules()):
        return {}
    uses: dict[int, list[Site]] = {}
    for part in module.modules():
        for role, parameter in part.named_parameters(recurse=False):
            uses.setdefault(id(parameter), []).append(Site(part, role))
    return {
        name: uses[id(parameter)]
        for name, parameter in module.named_parameters()
        if all(rule_for(site) for site in uses[id(parameter)])
    }


def never_called(block: Block) -> InputError:
    """A moved weight whose layer never ran is used in some other way, or not at all."""
    return InputError(
        f"parameter {block.slot.name!r}",
        got="a layer that the objective never calls",
        expected="weights used through their layer's forward",
        remedy="freeze it (requires_grad_(False)) or pass stacked=False",
    )


@contextmanager
def stacked(
    network: nn.Module, sites: dict[str, list[Site]], blocks: list[Block], num_probes: int
) -> Iterator[None]:
    """Inside this context the network's batch axis holds `num_probes` probes, probe-major.

    Raises:
        InputError: On leaving, if a moved parameter's layer was never called.
    """
    called: set[str] = set()
    with ExitStack() as stack, statistics_per_probe(network, lambda x: len(x) // num_probes):
        for block in blocks:
            for site in sites[block.slot.name]:
                hook = _hook(share(site, block), block, num_probes, called)
                stack.callback(site.module.register_forward_hook(hook).remove)
        yield
    for block in blocks:
        if block.slot.name not in called:
            raise never_called(block)


def _forbids_stacking(part: nn.Module) -> bool:
    if isinstance(part, nn.modules.batchnorm._NormBase) and type(part) not in NORMS:
        return part.training or part.running_mean is None
    random = isinstance(part, nn.modules.dropout._DropoutNd) and part.training and part.p > 0
    return random or updates_statistics(part)


def _hook(
    change: Share, block: Block, num_probes: int, called: set[str]
) -> Callable[[nn.Module, Any, Tensor], None]:
    def hook(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        called.add(block.slot.name)
        change.add(_probes(args[0], block, num_probes), _probes(output, block, num_probes))

    return hook


def _probes(stacked_batch: Tensor, block: Block, num_probes: int) -> Tensor:
    """The block's part of a stacked batch, as a view (k, batch, ...)."""
    if len(stacked_batch) % num_probes:
        raise InputError(
            f"batch axis at {block.slot.name!r}",
            got=len(stacked_batch),
            expected=f"a multiple of the {num_probes} probes, as the first axis",
        )
    apart = stacked_batch.view(num_probes, -1, *stacked_batch.shape[1:])
    return apart[block.first : block.first + len(block)]

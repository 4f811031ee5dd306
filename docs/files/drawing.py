"""How the mean of every channel goes along one unseen run, label beside label."""

from collections.abc import Mapping

from matplotlib.figure import Figure
from torch import Tensor

import zopde


def means(predicted: Mapping[str, Tensor], reference: Tensor, domain: zopde.Grid) -> Figure:
    """Label -> (time, channel, *space), and the reference likewise."""
    figure = Figure(layout="constrained")
    panels = figure.subplots(len(domain.channels), 1, squeeze=False)[:, 0]
    for channel, axes in enumerate(panels):
        for label, states in {"reference": reference, **predicted}.items():
            axes.plot(states[:, channel].flatten(1).mean(dim=1), label=label)
        axes.set(ylabel=f"mean {domain.channels[channel]}", xlabel="step")
    axes.legend()
    return figure

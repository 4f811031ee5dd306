"""Trained classifiers as files: weights, statistics and how to build them, in one."""

from __future__ import annotations

from pathlib import Path
from typing import final

from jaxtyping import Float, Shaped
from torch import Tensor, nn

from zopde.data import standardised
from zopde.seeding import generator, global_stream
from zopde.studies.classify.problem import Problem, build_network
from zopde.studies.classify.settings import ClassificationConfig
from zopde.studies.model_file import read_model, write_model


@final
class Classifier(nn.Module):
    """A network behind its standardisation: from pixels, in the units of the file, to logits.

    Args:
        body: The network.
        mean: (channel,).
        deviation: (channel,).
        classes: What the logits mean, in their order.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(
        self, body: nn.Module, mean: Tensor, deviation: Tensor, classes: tuple[str, ...]
    ) -> None:
        super().__init__()
        self.body = body
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", deviation)
        self.classes = classes

    def forward(
        self, pixels: Shaped[Tensor, "batch channel y x"]
    ) -> Float[Tensor, "batch classes"]:
        """Logits."""
        logits: Tensor = self.body(standardised(pixels, self.mean, self.deviation))
        return logits


def save_classifier(
    network: nn.Module, config: ClassificationConfig, problem: Problem, path: Path
) -> None:
    """Write weights and statistics as safetensors, the architecture in its metadata."""
    plan = {
        "kind": config.network.kind,
        "sizes": config.network.sizes,
        "channels": problem.data.channels,
        "classes": problem.data.classes,
    }
    whole = Classifier(network, problem.mean, problem.deviation, problem.data.classes)
    write_model(path, "classifier", plan, whole.state_dict())


def load_classifier(path: Path | str) -> Classifier:
    """The classifier of a `model.safetensors`, in eval mode: pixels to logits.

    Args:
        path: A file that a classification run wrote.

    Raises:
        InputError: If the file is missing or no classifier of zopde.
    """
    plan, state = read_model(path, "classifier")
    classes = tuple(plan["classes"])
    with global_stream(generator(0, "weights")):  # its first weights are thrown away
        body = build_network(plan["kind"], plan["channels"], len(classes), plan["sizes"])
    found = Classifier(body, state["mean"], state["deviation"], classes)
    found.load_state_dict(state)
    return found.eval()

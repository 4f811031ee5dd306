"""What a prompting run will take in answers and time, from a sample of its own work."""

from __future__ import annotations

from zopde.studies.price import Price
from zopde.studies.prompt.labels import LABELS
from zopde.studies.prompt.open import Opened
from zopde.studies.prompt.train import gradient_of, trained_part
from zopde.studies.run import Place
from zopde.timing import median_seconds
from zopde.training import Backprop


def price(opened: Opened, name: str, place: Place) -> Price:  # noqa: ARG001 - no workers
    """What one label will cost, for one seed, with the training of the model, which all share."""
    label, seed = LABELS[name], opened.seeds[0]
    start, first = opened.build(seed).train(), opened.base["train"].at(opened.base_batch, seed, 0)
    backprop = Backprop()
    model = opened.base_iterations * median_seconds(lambda: backprop(start, first, 0))
    updates, update = opened.updates[name], 0.0
    if updates:
        network = trained_part(opened, label, opened.prompted(label, seed), seed)
        source = gradient_of(opened, label, network, seed)
        objective = opened.other["train"].at(opened.batch, seed, 0)
        update = median_seconds(lambda: source(network, objective, 0))
    queries = updates * opened.per_update[name]
    seconds = model + updates * update
    return Price(name, updates, queries, seconds, seconds_per_iteration=update)

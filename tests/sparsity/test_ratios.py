import json

import pytest
import torch
from torch import nn

from zopde import InputError
from zopde.oracle.coordinates import Coordinates
from zopde.sparsity import LayerMasks, LayerRatios, Scores, layer_ratios, random_scores


def network():
    """Maskable: 2 x 27, 2 x 2 x 9, 40; always active: 2 + 2 + 2 + 2 + (4, 4) + (4, 4) + 4."""
    return nn.Sequential(
        nn.Conv2d(3, 2, 3),
        nn.BatchNorm2d(2),
        nn.Conv2d(2, 2, 3, bias=False),
        nn.LayerNorm((4, 4)),
        nn.Linear(10, 4),
    )


MASKABLE, ALWAYS = 54 + 36 + 40, 2 + 4 + 32 + 4


def scores(net, **by_name):
    """Zero, but for the named tensors."""
    slices = Coordinates(net).slices
    values = torch.zeros(slices[-1].stop)
    for parameter in slices:
        values[parameter.start : parameter.stop] = by_name.get(parameter.name.replace(".", "_"), 0)
    return Scores(values, 0)


def active(ratios):
    return {layer.name: layer.active for layer in ratios.layers if layer.maskable}


@pytest.mark.parametrize("sparsity", [0.0, 0.35, 0.8, 0.9, 0.99])
def test_active_weights_are_counted_exact(sparsity):
    net = network()
    ratios = layer_ratios(net, random_scores(net, torch.Generator().manual_seed(0)), sparsity)
    kept = max(3, MASKABLE - round(sparsity * MASKABLE))
    assert ratios.total == sum(p.numel() for p in net.parameters())
    assert ratios.active == kept + ALWAYS
    assert sum(active(ratios).values()) == kept


def test_biases_and_norms_are_always_active():
    net = network()
    ratios = layer_ratios(net, random_scores(net, torch.Generator().manual_seed(0)), 0.9)
    always = {layer.name for layer in ratios.layers if not layer.maskable}
    assert always == {"0.bias", "1.weight", "1.bias", "3.weight", "3.bias", "4.bias"}
    assert all(layer.active == layer.weights for layer in ratios.layers if not layer.maskable)


def test_highest_scores_are_pruned_over_all_layers():
    net = network()
    low, high = torch.arange(40.0) - 100, torch.arange(36.0)
    found = layer_ratios(net, scores(net, **{"4_weight": low, "2_weight": high}), 0.5)
    # Of 130 weights 65 go: all 36 of the high ones but the guarded one, then equal zeros.
    assert active(found) == {"0.weight": 24, "2.weight": 1, "4.weight": 40}


def test_sign_is_kept():
    net = network()
    one = layer_ratios(net, scores(net, **{"4_weight": -5.0}), 0.9)
    other = layer_ratios(net, scores(net, **{"4_weight": 5.0}), 0.9)
    assert active(one)["4.weight"] == 11
    assert active(other)["4.weight"] == 1


def test_no_layer_loses_everything():
    net = network()
    ratios = layer_ratios(net, scores(net, **{"2_weight": 1e9}), 0.999)
    assert active(ratios) == {"0.weight": 1, "2.weight": 1, "4.weight": 1}


def test_table_can_be_read_and_json_round_trips():
    net = network()
    ratios = layer_ratios(net, scores(net, **{"2_weight": 1.0}), 0.5)
    lines = str(ratios).splitlines()
    assert lines[0].split() == ["layer", "weights", "active", "sparsity"]
    assert lines[2].split() == ["2.weight", "36", "1", "97.2", "%"]
    assert lines[-2].split()[:3] == ["always", "active", "(6"]
    assert lines[-1].split() == ["all", "172", "107", "37.8", "%"]
    assert len({len(line) for line in lines}) == 1
    assert LayerRatios.from_tree(json.loads(json.dumps(ratios.as_tree()))) == ratios


@pytest.mark.parametrize(
    "tree",
    [
        {},
        {"layers": [{"name": "a"}]},
        {"layers": 3},
        {"layers": [{"name": "a", "weights": 2, "active": 3, "maskable": True}]},
    ],
)
def test_malformed_json_raises(tree):
    with pytest.raises(InputError, match="layer ratios"):
        LayerRatios.from_tree(tree)


@pytest.mark.parametrize(
    ("values", "sparsity", "words"),
    [
        (torch.zeros(172), 1.0, "sparsity"),
        (torch.zeros(171), 0.5, r"shape \(171,\), expected \(172,\)"),
        (torch.full((172,), torch.nan), 0.5, "172 values not finite"),
    ],
)
def test_raises(values, sparsity, words):
    with pytest.raises(InputError, match=words):
        layer_ratios(network(), Scores(values, 0), sparsity)


def masks(every=5, seed=0):
    net = network()
    ratios = layer_ratios(net, random_scores(net, torch.Generator().manual_seed(0)), 0.8)
    return ratios, LayerMasks(ratios, every, seed)


def test_masks_have_the_ratios_exact():
    ratios, drawn = masks()
    mask = drawn.mask(7)
    assert mask.sum() == drawn.active == ratios.active
    parts = mask.split([layer.weights for layer in ratios.layers])
    assert [int(part.sum()) for part in parts] == [layer.active for layer in ratios.layers]


def test_masks_are_a_function_of_seed_and_iteration_resumes():
    _, drawn = masks()
    assert torch.equal(drawn.mask(0), drawn.mask(4))
    assert not torch.equal(drawn.mask(4), drawn.mask(5))
    assert torch.equal(drawn.mask(13), masks()[1].mask(13))
    assert not torch.equal(drawn.mask(0), masks(seed=1)[1].mask(0))


def test_every_weight_of_a_layer_has_the_same_chance_unbiased():
    ratios, drawn = masks(every=1)
    hits = torch.stack([drawn.mask(i) for i in range(2000)]).double().mean(dim=0)
    chance = torch.cat([torch.full((x.weights,), x.active / x.weights) for x in ratios.layers])
    error = (chance * (1 - chance) / 2000).sqrt()
    assert ((hits - chance).abs() <= 4.5 * error).all()


def test_resample_raises():
    with pytest.raises(InputError, match="resample"):
        masks(every=0)

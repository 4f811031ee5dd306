import math

import numpy as np
import pytest
import torch
from torch import nn

from zopde import InputError, Smooth
from zopde.oracle.chunks import peak_bytes
from zopde.smoothing import votes

SHAPE = (2, 3, 4)


class Halves(nn.Module):
    """Class 1 where w . x > b: the exact smoothed radius is |w . x - b| / |w|."""

    def __init__(self, gen, dtype=torch.float64):
        super().__init__()
        self.register_buffer("w", torch.randn(math.prod(SHAPE), generator=gen, dtype=dtype))

    def forward(self, x):
        score = x.flatten(1) @ self.w
        return torch.stack([-score, score], dim=1)

    def at(self, distance):
        return (distance * self.w / self.w.norm()).view(SHAPE)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("distance", [0.4, -0.25])
def test_the_radius_of_a_linear_classifier_exact(gen, distance):
    """p_A is known, so is the radius; the certified one lies below by the bound's width."""
    halves, sigma, n = Halves(gen), 0.5, 100_000
    found = Smooth(halves, 2, sigma).certify(halves.at(distance), 100, n, 0.001, generator(), 5000)
    assert found.prediction == int(distance > 0)
    assert found.radius < abs(distance), "unsound"
    p = 0.5 * (1 + math.erf(abs(distance) / sigma / math.sqrt(2)))
    slope = sigma * math.sqrt(2 * math.pi) * math.exp((distance / sigma) ** 2 / 2)
    assert abs(distance) - found.radius < 7 * slope * math.sqrt(p * (1 - p) / n)


def test_certificates_cover_a_known_radius(gen):
    """Above the truth in at most a share alpha of 2,000 certificates."""
    halves, alpha, count = Halves(gen, torch.float32), 0.1, 2000
    smooth, draw = Smooth(halves, 2, 1.0), generator()
    found = [smooth.certify(halves.at(0.5), 20, 200, alpha, draw) for _ in range(count)]
    wrong = sum(each.radius > 0.5 or each.prediction == 0 for each in found)
    assert 0 < wrong <= alpha * count + 3 * math.sqrt(alpha * count)


def test_too_close_to_call_abstains(gen):
    halves = Halves(gen)
    smooth, x = Smooth(halves, 2, 0.5), halves.at(0.0)
    assert smooth.certify(x, 10, 100, 0.001, generator())[:2] == (-1, 0.0)
    assert smooth.predict(x, 100, 0.001, generator()) == -1
    assert smooth.predict(halves.at(0.5), 100, 0.001, generator()) == 1
    assert smooth.predict(halves.at(-0.5), 100, 0.001, generator()) == 0


def test_a_third_class_is_not_the_runner_up(gen):
    """The test is between the two largest, as in Cohen et al."""

    def thirds(x):
        return (x[:, 0, 0, 0] > 0.3).long() + (x[:, 0, 0, 0] > 0.6).long()

    smooth = Smooth(thirds, 3, 1.0)
    counts = smooth.counts(torch.zeros(1, 1, 1), 2000, generator())
    assert counts.argsort(descending=True).tolist() == [0, 2, 1]
    assert smooth.predict(torch.zeros(1, 1, 1), 2000, 0.001, generator()) == 0
    # Its probability is below one half after 0.35 to the right, so nothing is certified there.
    assert smooth.certify(torch.full((1, 1, 1), 0.35), 100, 2000, 0.001, generator())[0] == -1


@pytest.mark.parametrize("batch", [1, 7, 16, 300, 5000])
def test_batches_of_any_size_agrees(gen, batch):
    halves = Halves(gen)
    seen = []

    def keeps(x):
        seen.append(x.clone())
        return halves(x)

    smooth = Smooth(keeps, 2, 0.5)
    whole = smooth.counts(halves.at(0.1), 1000, generator(), 1000)
    (together,) = seen
    seen.clear()
    assert torch.equal(smooth.counts(halves.at(0.1), 1000, generator(), batch), whole)
    assert torch.equal(torch.cat(seen), together)


def test_the_noise_is_what_is_said(gen):
    seen = []
    smooth = Smooth(lambda x: seen.append(x) or torch.zeros(len(x), dtype=torch.int64), 2, 0.5)
    smooth.counts(torch.full(SHAPE, 3), 20_000, generator(), 999)  # whole numbers, as pixels are
    noise = (torch.cat(seen) - 3).double().flatten(1)
    assert float(noise.mean()) == pytest.approx(0, abs=0.003)
    expected = 0.25 * torch.eye(noise.shape[1], dtype=torch.float64)
    assert torch.allclose(noise.T.cov(), expected, atol=0.01)


def test_memory_does_not_grow_with_n(gen):
    halves = Halves(gen, torch.float32)
    smooth, x = Smooth(halves, 2, 0.5), halves.at(0.3)
    few, many = (
        peak_bytes(lambda n=n: smooth.certify(x, 10, n, 0.001, generator(), 500))
        for n in (20_000, 100_000)  # both fill the block of noise
    )
    assert many <= 1.01 * few


def test_labels_and_arrays_will_do_agrees(gen):
    halves = Halves(gen)
    forms = (
        lambda x: halves(x).argmax(dim=1),
        lambda x: halves(x).argmax(dim=1).numpy().astype(np.int32),
        lambda x: halves(x).softmax(dim=1).numpy(),
        lambda x: halves(x).log_softmax(dim=1).tolist(),
    )
    whole = Smooth(halves, 2, 0.5).counts(halves.at(0.1), 500, generator())
    for form in forms:
        assert torch.equal(Smooth(form, 2, 0.5).counts(halves.at(0.1), 500, generator()), whole)


def test_modes_restores(gen):
    """BatchNorm and Dropout answer as in eval mode, and go on training afterwards."""
    network = nn.Sequential(nn.BatchNorm2d(2), nn.Dropout(), nn.Flatten(), nn.Linear(24, 3))
    network[1].eval()
    x = torch.randn(SHAPE, generator=gen)
    found = Smooth(network, 3, 0.5).counts(x, 200, generator(), 50)
    assert [part.training for part in network] == [True, False, True, True]
    assert network[0].num_batches_tracked == 0
    assert torch.equal(Smooth(network.eval(), 3, 0.5).counts(x, 200, generator(), 33), found)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (torch.full((4, 3), torch.nan), "NaN among the scores of 4 of 4"),
        (torch.zeros(4, 2), r"shape \(4, 2\), expected scores \(4, 3\) or integer labels"),
        (torch.zeros(3, dtype=torch.int64), r"integer labels \(4,\)"),
        (torch.zeros(4), "integer labels"),
        (torch.tensor([0, 1, 2, 3]), r"labels in \[0, 3\]"),
        (torch.tensor([0, 1, 2, -1]), r"labels in \[-1, 2\]"),
        ("cat", "an answer str"),
        (None, "an answer NoneType"),
    ],
)
def test_an_answer_that_is_none_raises(answer, said):
    with pytest.raises(InputError, match=said):
        votes(answer, 4, 3)
    with pytest.raises(InputError, match=said):
        Smooth(lambda x: answer, 3, 0.5).counts(torch.zeros(SHAPE), 4, generator())


def test_infinite_scores_are_scores():
    scores = torch.tensor([[-torch.inf, 0.0], [torch.inf, 0.0]])
    assert votes(scores, 2, 2).tolist() == [1, 0]


def test_arguments_that_will_not_do_raises():
    with pytest.raises(InputError, match="sigma"):
        Smooth(Halves(generator()), 2, 0.0)
    with pytest.raises(InputError, match="num_classes"):
        Smooth(Halves(generator()), 1, 0.5)
    smooth, x = Smooth(Halves(generator(), torch.float32), 2, 0.5), torch.zeros(SHAPE)
    for change, said in (
        ({"n0": 0}, "n: got 0"),
        ({"n": 0}, "n: got 0"),
        ({"alpha": 1.0}, "alpha"),
        ({"batch": 0}, "batch"),
    ):
        with pytest.raises(InputError, match=said):
            smooth.certify(
                **{"x": x, "n0": 5, "n": 5, "alpha": 0.1, "generator": generator()} | change
            )

import pytest
import torch

from zopde import InputError, WeightOracle
from zopde.zo import es
from zopde.zo.evolution import low_rank, shaped

SHAPES = [(6, 5), (4, 3, 2, 2), (7,)]
D = 30 + 48 + 7


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_matrices_have_their_rank_and_vectors_all_entries_exact():
    moves = low_rank(3, SHAPES, 2, seeded(), torch.float64)
    assert moves.shape == (3, D)
    for move in moves:
        dense, kernel, bias = move.split([30, 48, 7])
        assert torch.linalg.matrix_rank(dense.view(6, 5)) == 2
        assert torch.linalg.matrix_rank(kernel.view(4, 12)) == 2
        assert len(bias.unique()) == 7


@pytest.mark.parametrize("rank", [1, 3, 9])
def test_moves_have_the_identity_as_second_moment_unbiased(rank):
    moves = low_rank(5_000, [(3, 4), (2,)], rank, seeded(), torch.float64)
    moment = moves.T @ moves / len(moves)
    # Entries of rank one have the largest fourth moment: 9, a variance 8 of the square.
    assert (moment - torch.eye(14, dtype=moment.dtype)).abs().max() < 5 * (8 / len(moves)) ** 0.5
    assert moves.mean(dim=0).abs().max() < 5 / len(moves) ** 0.5


def test_rank_one_has_the_fourth_moment_of_a_product_of_two_normals():
    """E[E_ij^2 E_il^2] = E[a^4] E[b^2]^2 = 3, where independent entries have 1."""
    squares = low_rank(10_000, [(2, 2)], 1, seeded(), torch.float64).square()
    same_row, apart = (squares[:, 0] * squares[:, k] for k in (1, 3))
    assert float(same_row.mean()) == pytest.approx(3, rel=0.3)
    assert float(apart.mean()) == pytest.approx(1, rel=0.15)


def test_moves_do_not_depend_on_the_pieces():
    gen = seeded()
    parts = [low_rank(count, SHAPES, 2, gen, torch.float32) for count in (1, 3, 1)]
    assert torch.equal(torch.cat(parts), low_rank(5, SHAPES, 2, seeded(), torch.float32))


@pytest.mark.parametrize("sigma", [0.7, torch.tensor([0.1, 0.2, 0.3, 0.4, 5.0])])
def test_on_a_quadratic_it_is_the_gradient_along_the_moves_exact(sigma, quadratic):
    """(l(+) - l(-)) / 2 = sigma u . grad l, whatever sigma and the curvature are."""
    oracle = quadratic()
    found = es(oracle, [(5,)], 6, sigma, seeded(), shaping="none")
    moves = low_rank(3, [(5,)], 1, seeded(), torch.get_default_dtype()).double()
    slopes = moves @ (torch.as_tensor(sigma) * oracle.gradient)
    expected = slopes @ moves / 3 / sigma
    torch.testing.assert_close(found.gradient, expected.double(), rtol=1e-5, atol=1e-5)
    assert found.queries == oracle.asked == 7
    torch.testing.assert_close(found.loss, oracle.base())


@pytest.mark.parametrize("shapes", [[(5,)], [(2, 2), (1,)]])
def test_mean_is_the_gradient_unbiased(shapes, quadratic):
    oracle = quadratic()
    runs = [es(oracle, shapes, 40, 0.05, seeded(s), shaping="none") for s in range(400)]
    errors = torch.stack([run.gradient - oracle.gradient for run in runs])
    assert (errors.mean(dim=0).abs() < 4 * errors.std(dim=0) / 20).all()


@pytest.mark.parametrize("shaping", ["standard", "rank"])
def test_shaping_leaves_the_direction_and_not_the_size(shaping, quadratic):
    oracle, larger = quadratic(), quadratic()
    larger.hessian, larger.linear = 50 * larger.hessian, 50 * larger.linear
    one, other = (es(o, [(5,)], 400, 1e-3, seeded(), shaping=shaping) for o in (oracle, larger))
    torch.testing.assert_close(one.gradient, other.gradient, rtol=1e-6, atol=1e-6)
    assert torch.cosine_similarity(one.gradient, oracle.gradient, dim=0) > 0.98


def test_weights_of_losses_exact():
    losses = torch.tensor([[3.0, 1.0], [1.0, 9.0]])
    ranks = shaped(losses, "rank").flatten().tolist()
    assert ranks == pytest.approx([1 / 6, -1 / 3, -1 / 3, 1 / 2])
    standard = shaped(losses, "standard")
    assert float(standard.mean()) == pytest.approx(0, abs=1e-6)
    assert float(standard.std(correction=0)) == pytest.approx(1)
    for shaping in ("rank", "standard"):
        assert shaped(torch.full((2, 3), 4.0), shaping).eq(0).all()


class Failing:
    """A plane with holes."""

    num_coordinates = 5

    def __init__(self, *holes):
        self.holes = list(holes)

    def directions(self, directions, mu):
        losses = mu * directions.sum(dim=1)
        losses[self.holes] = torch.nan
        return losses


def test_a_pair_with_a_loss_that_is_not_finite_is_dropped_or_ends_it():
    """Probe 0 is the base, 1 to 3 are ahead, 4 to 6 behind."""
    found = es(Failing(5), [(5,)], 6, 1.0, seeded(), shaping="none", failed="drop")
    moves = low_rank(3, [(5,)], 1, seeded(), torch.float32)[[0, 2]]
    torch.testing.assert_close(found.gradient, moves.sum(dim=1) @ moves / 2)
    assert found.failed == 1
    assert es(Failing(5), [(5,)], 6, 1.0, seeded(), shaping="rank").gradient.isnan().all()
    nothing = es(Failing(1, 2, 6), [(5,)], 6, 1.0, seeded(), failed="drop")
    assert nothing.unknown.all()
    assert nothing.gradient.eq(0).all()


def test_through_a_network_padding_stays_and_stacked_is_plain():
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Embedding(4, 3, padding_idx=1), torch.nn.Linear(3, 2))
    words = torch.tensor([0, 1, 2, 3])

    def objective(f, num_probes):
        return f(words.repeat(num_probes)).view(num_probes, -1).square().mean(dim=1)

    shapes = [p.shape for p in network.parameters()]
    stacked, plain = (
        es(WeightOracle(network, objective, stacked=way), shapes, 20, 1e-2, seeded(), rank=1)
        for way in (True, False)
    )
    torch.testing.assert_close(stacked.gradient, plain.gradient, rtol=1e-3, atol=1e-4)
    assert stacked.gradient[3:6].eq(0).all()
    assert stacked.gradient[6:].ne(0).all()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"members": 3}, "members: got 3"),
        ({"members": 0}, "members: got 0"),
        ({"sigma": 0.0}, "sigma: got 0"),
        ({"rank": 0}, "rank: got 0"),
        ({"shapes": [(4,)]}, "shapes: got 4 weights"),
        ({"shaping": "ranks"}, "did you mean 'rank'"),
    ],
)
def test_raises(arguments, words, quadratic):
    given = {"shapes": [(5,)], "members": 2, "sigma": 0.1, "generator": seeded(), **arguments}
    with pytest.raises(InputError, match=words):
        es(quadratic(), **given)

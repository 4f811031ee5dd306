from importlib import import_module

import pytest
import torch

from zopde import InputError, rge
from zopde.zo.rge import SAMPLERS

SCHEMES = ["forward", "central"]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_directions_have_the_identity_as_second_moment_unbiased(sampler):
    u = SAMPLERS[sampler](40_000, 6, seeded(), torch.float64)
    moment = u.T @ u / len(u)
    # The fourth moment of a normal entry is the largest of the three: variance 2 of u_i^2.
    assert (moment - torch.eye(6, dtype=u.dtype)).abs().max() < 5 * (2 / len(u)) ** 0.5
    assert u.mean(dim=0).abs().max() < 5 / len(u) ** 0.5


def test_sphere_and_rademacher_have_fixed_length_exact():
    for sampler in ("sphere", "rademacher"):
        u = SAMPLERS[sampler](7, 9, seeded(), torch.float64)
        torch.testing.assert_close(u.norm(dim=1), torch.full((7,), 3.0, dtype=torch.float64))
    assert set(u.flatten().tolist()) == {-1.0, 1.0}


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_directions_do_not_depend_on_the_pieces(sampler):
    gen = seeded()
    parts = [SAMPLERS[sampler](count, 37, gen, torch.float32) for count in (1, 3, 1)]
    assert torch.equal(torch.cat(parts), SAMPLERS[sampler](5, 37, seeded(), torch.float32))


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_mean_is_the_gradient_and_the_error_is_calibrated_unbiased(sampler, scheme, quadratic):
    oracle = quadratic()
    runs = [rge(oracle, 50, 0.05, seeded(s), sampler, scheme) for s in range(400)]
    errors = torch.stack([run.gradient - oracle.gradient for run in runs])
    claimed = torch.stack([run.standard_error for run in runs])
    spread = errors.std(dim=0)
    assert (errors.mean(dim=0).abs() < 4 * spread / 20).all()
    ratio = claimed.square().mean(dim=0).sqrt() / spread
    assert ((ratio > 0.85) & (ratio < 1.18)).all()


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_some_coordinates_alone_and_no_others_move_unbiased(sampler, scheme, quadratic):
    oracle, active = quadratic(), torch.tensor([3, 0])
    runs = [rge(oracle, 50, 0.05, seeded(s), sampler, scheme, indices=active) for s in range(400)]
    errors = torch.stack([run.gradient - oracle.gradient for run in runs])[:, active]
    assert (errors.mean(dim=0).abs() < 4 * errors.std(dim=0) / 20).all()
    for run in runs:
        for values in (run.gradient, run.standard_error):
            assert values.nonzero().flatten().tolist() == [0, 3]


def test_all_coordinates_by_name_are_all(quadratic):
    whole, named = (
        rge(quadratic(), 6, 0.05, seeded(), indices=given) for given in (None, torch.arange(5))
    )
    assert torch.equal(whole.gradient, named.gradient)


@pytest.mark.parametrize("indices", [[0, 0], [5], [-1], [0.5]])
def test_what_is_no_coordinate_raises(indices, quadratic):
    with pytest.raises(InputError, match="indices"):
        rge(quadratic(), 6, 0.05, seeded(), indices=torch.tensor(indices))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_error_falls_with_the_root_of_q_order(sampler, quadratic):
    def error(q):
        oracle = quadratic()
        found = [rge(oracle, q, 1e-3, seeded(s), sampler).gradient for s in range(60)]
        return float((torch.stack(found) - oracle.gradient).square().mean().sqrt())

    assert 3.2 < error(40) / error(640) < 5.0


def test_mu_does_not_bias_a_quadratic(quadratic):
    """u and -u are as likely, so even the forward scheme's bias is of even order in mu."""
    oracle = quadratic()
    found = rge(oracle, 100_000, 0.3, seeded())
    assert ((found.gradient - oracle.gradient).abs() < 4.5 * found.standard_error).all()


def test_pieces_agree_with_the_whole(monkeypatch, quadratic):
    whole = rge(quadratic(), 50, 1e-2, seeded())
    monkeypatch.setattr(import_module("zopde.zo.rge"), "_ENTRIES", 7 * 5)
    pieces = rge(quadratic(), 50, 1e-2, seeded())
    torch.testing.assert_close(pieces.gradient, whole.gradient, rtol=1e-12, atol=0)
    torch.testing.assert_close(pieces.standard_error, whole.standard_error, rtol=1e-12, atol=0)
    assert pieces.queries == whole.queries


def test_the_formula_exact(quadratic):
    oracle = quadratic()
    u = SAMPLERS["gaussian"](3, 5, seeded(), torch.get_default_dtype()).double()
    rises = (u @ oracle.gradient) + 0.05 * ((u @ oracle.hessian) * u).sum(dim=1)
    terms = rises[:, None] * u
    found = rge(oracle, 3, 0.1, seeded())
    torch.testing.assert_close(found.gradient, terms.mean(dim=0))
    torch.testing.assert_close(found.standard_error, terms.std(dim=0) / 3**0.5)


@pytest.mark.parametrize(("scheme", "queries"), [("forward", 12), ("central", 22)])
def test_queries_are_what_was_asked(scheme, queries, quadratic):
    oracle = quadratic()
    found = rge(oracle, 11, 1e-3, seeded(), scheme=scheme)
    assert found.queries == oracle.asked == queries
    assert (found.loss is not None) == (scheme == "forward")


def test_one_direction_has_no_standard_error(quadratic):
    assert rge(quadratic(), 1, 1e-3, seeded()).standard_error is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"num_directions": 0}, "num_directions: got 0"),
        ({"num_directions": 2.5}, "num_directions: got 2.5"),
        ({"mu": -1e-3}, "mu: got -0.001"),
        ({"sampler": "gausian"}, "did you mean 'gaussian'"),
        ({"scheme": "backward"}, "scheme: got 'backward'"),
    ],
)
def test_raises(arguments, words, quadratic):
    with pytest.raises(InputError, match=words):
        rge(quadratic(), **{"num_directions": 2, "mu": 1e-3, "generator": seeded(), **arguments})


def test_projected_slopes_are_the_projected_gradient_exact(quadratic):
    """Whatever is measured along the directions is kept, and nothing is invented beside them."""
    oracle = quadratic(12)
    for count in (1, 5, 12, 30):
        found = rge(oracle, count, 1.0, seeded(), "rademacher", "central", combine="project")
        rows = SAMPLERS["rademacher"](count, 12, seeded(), torch.get_default_dtype()).double()
        onto = torch.linalg.pinv(rows) @ rows
        torch.testing.assert_close(found.gradient, onto @ oracle.gradient)
        assert found.queries == 2 * count
        assert found.standard_error is None
        assert found.directions == count
        cosine = torch.cosine_similarity(found.gradient, oracle.gradient, dim=0)
        assert cosine == pytest.approx(
            float((onto @ oracle.gradient).norm() / oracle.gradient.norm())
        )
        other = rge(oracle, count, 1.0, seeded(), "rademacher", "central").gradient
        assert cosine >= torch.cosine_similarity(other, oracle.gradient, dim=0) - 1e-9
    torch.testing.assert_close(found.gradient, oracle.gradient)


def test_a_projection_leaves_out_probes_that_failed(quadratic):
    class Failing(quadratic):
        def directions(self, directions, mu):
            losses = super().directions(directions, mu)
            losses[2] = torch.nan
            return losses

    found = rge(Failing(4), 7, 1.0, seeded(), scheme="central", failed="drop", combine="project")
    torch.testing.assert_close(found.gradient, quadratic(4).gradient, atol=1e-4, rtol=1e-4)
    assert (found.directions, found.failed) == (6, 2)


def test_some_coordinates_are_projected_alone(quadratic):
    oracle, active = quadratic(), torch.tensor([3, 0])
    found = rge(oracle, 6, 1.0, seeded(), scheme="central", indices=active, combine="project")
    exact = torch.zeros(5, dtype=torch.float64)
    exact[active] = oracle.gradient[active]
    torch.testing.assert_close(found.gradient, exact, atol=1e-5, rtol=1e-5)

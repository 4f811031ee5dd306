"""What several rooms' tests share."""

import os
from dataclasses import replace
from pathlib import Path

# The tests share the cores, and so do the programs that they start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

from zopde import ConvCorrector, Normalised, Window, load_solver
from zopde.interface.vjp import differences

HERE = Path(__file__).parent

# Tensors of a few numbers gain nothing from threads, and lose much where cores are shared.
torch.set_num_threads(1)
TOY = f"{HERE / 'toy_solver.py'}:Toy"

# A run of a second: every label, one seed, tiny grids.
TINY = [
    "data.fine=[16,16]",
    "data.coarse=[4,4]",
    "data.skip=2",
    "data.steps=12",
    "data.train=3",
    "data.test=2",
    "corrector.sizes={width=3,depth=2}",
    'non.length="20 iterations"',
    "non.batch=4",
    'training.length="12 iterations"',
    "training.batch=2",
    "training.unroll=3",
    "training.look_every=0",  # looks have tests of their own
    "interface.way=dense",  # 4 x 4 cells are too few for colours
    "run.checkpoint_seconds=0.01",
]


@pytest.fixture
def double():
    """Tensors without a dtype are float64, and random ones are drawn by one seed."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(1)
    yield
    torch.set_default_dtype(before)


@pytest.fixture(scope="session")
def toy_spec():
    return TOY


@pytest.fixture(scope="session")
def tiny():
    return list(TINY)


@pytest.fixture(scope="session")
def forecast():
    """(settings, data file, which need not be there) -> what a dry run says of every label."""
    from zopde.progress import Silent
    from zopde.studies.run import price_study, study_named

    def priced(config, path):
        study = study_named("correct")
        if path.exists():
            config = replace(config, data=replace(config.data, path=str(path)))
        return price_study(study, study.sample(config, path.parent / "run", Silent()), Silent())

    return priced


@pytest.fixture
def toy():
    return load_solver(TOY)


@pytest.fixture
def gen():
    return torch.Generator().manual_seed(0)


@pytest.fixture
def window(gen):
    def draw(*shape):
        return torch.randn(*shape, generator=gen, dtype=torch.float64)

    fields = draw(3, 2, 8, 8), draw(3, 4, 2, 8, 8), 0.1 * draw(3, 4, 2, 8, 8)
    return Window(*fields, initial=draw(3, 2, 8, 8))


@pytest.fixture
def corrector():
    torch.manual_seed(3)
    network = Normalised(
        ConvCorrector(4, 2, width=3, depth=3), torch.tensor([1.5, 0.7]), torch.tensor([0.3, 0.4])
    ).double()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return network


class Quadratic:
    """l(theta) = b . theta + theta' H theta / 2, as an oracle; it counts what it is asked."""

    def __init__(self, d=5, noise=0.0):
        gen = torch.Generator().manual_seed(1)
        root = torch.randn(d, d, generator=gen, dtype=torch.float64)
        self.hessian = root @ root.T
        self.linear = torch.randn(d, generator=gen, dtype=torch.float64)
        self.theta = torch.randn(d, generator=gen, dtype=torch.float64)
        self.num_coordinates = d
        self.noise, self.gen = noise, gen
        self.asked = 0

    def losses(self, moved):
        self.asked += len(moved)
        exact = moved @ self.linear + 0.5 * ((moved @ self.hessian) * moved).sum(dim=1)
        return exact + self.noise * torch.randn(len(exact), generator=self.gen, dtype=exact.dtype)

    def base(self):
        return self.losses(self.theta[None])[0]

    def coordinates(self, indices, mu):
        units = torch.eye(self.num_coordinates, dtype=torch.float64)[indices]
        steps = torch.as_tensor(mu, dtype=torch.float64).expand(len(indices))
        return self.losses(self.theta + steps[:, None] * units)

    def directions(self, directions, mu):
        return self.losses(self.theta + mu * directions)

    @property
    def gradient(self):
        return self.linear + self.hessian @ self.theta


@pytest.fixture
def quadratic():
    return Quadratic


@pytest.fixture
def jacobians():
    """J^T of every state of a step's batch by its definition, all entries in one call."""

    def of(step, mu, scheme="forward"):
        entries = step.point[0].numel()
        rows = torch.arange(len(step.point)).repeat_interleave(entries)
        units = torch.eye(entries, dtype=step.point.dtype).repeat(len(step.point), 1)
        responses = differences(step, rows, units.view(-1, *step.point.shape[1:]), mu, scheme)
        return responses.view(len(step.point), entries, -1)

    return of

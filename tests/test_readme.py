"""What the README says is true."""

import re
import tomllib
from pathlib import Path

import pytest
import torch

from zopde.blackbox import BlackBox

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_two_lines_come_first():
    first_screen = README.splitlines()[:16]
    lines = [line for line in first_screen if line.startswith("python3 -m venv")]
    assert len(lines) == 2
    assert lines[0].endswith("pip install -e . && zopde correct kuramoto-sivashinsky")
    assert lines[1].endswith('pip install -e ".[test]" && pytest')


def test_python_blocks_run():
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(blocks) == 2
    names = {}
    with torch.random.fork_rng():
        torch.manual_seed(0)  # a difference of two float32 losses may be zero by chance
        for block in blocks:
            exec(compile(block, "README.md", "exec"), names)
    assert names["estimate"].queries == 50
    weights = sum(p.numel() for p in names["network"].parameters())
    assert names["estimate"].gradient.count_nonzero() == weights == 49
    assert len(blocks[0].splitlines()) == 12
    assert names["solver"].report().way == "coloured"
    leaf = names["state"].detach().requires_grad_()
    moved = leaf
    for _ in range(2):
        around = sum(moved.roll(shift, axis) - moved for shift in (1, -1) for axis in (2, 3))
        moved = moved + 0.1 * around
    moved.square().mean().backward()
    assert torch.allclose(names["state"].grad, leaf.grad, rtol=1e-2, atol=1e-6)
    state, solver = torch.rand(2, 1, 32, 32), BlackBox(names["MySolver"]())
    assert solver.step(state).mean() == pytest.approx(float(state.mean()))


def test_the_tutorial_names_what_a_run_writes():
    tutorial = (ROOT / "docs/tutorial.md").read_text()
    for name in ("config.toml", "metrics.json", "model.safetensors", "rollout.nc", "history.csv"):
        assert name in tutorial


def test_changelog_and_version_belong_together():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert f"[{version}]" in changelog or "[Unreleased]" in changelog

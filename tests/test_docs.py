"""What the documentation shows is in the code, and runs."""

import importlib
import importlib.util
import re
import shutil
import subprocess
import sys
from functools import reduce
from pathlib import Path

import pytest
import torch

import zopde
from zopde import load_config, load_defence, load_solver

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
FILES = DOCS / "files"
_ROOMS = re.compile(r"<!-- rooms:.*?-->\n(.*?)<!-- end of rooms -->", flags=re.DOTALL)


def test_every_public_name_has_its_place_in_the_reference():
    shown = [
        name
        for page in (DOCS / "reference").glob("*.md")
        for name in re.findall(r"^::: (zopde\.\S+)$", page.read_text(), flags=re.MULTILINE)
    ]
    found = {}
    for name in shown:
        # A module of the same name would hide a function, so these are given with their path.
        module, _, attribute = name.rpartition(".")
        thing = getattr(importlib.import_module(module), attribute)
        if not module.startswith("zopde.studies."):
            assert thing is getattr(zopde, attribute), name
            assert attribute not in found, f"{attribute} twice"
            found[attribute] = name
    assert set(found) == set(zopde.__all__) - {"__version__"}


def rooms_table():
    spec = importlib.util.spec_from_file_location("rooms", ROOT / "tests/test_architecture.py")
    plan = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(plan)
    lines = ["| room | may import, besides the ground | and the packages |", "|---|---|---|"]
    for room, others in plan.ROOMS.items():
        packages = ", ".join(sorted(plan.THIRD_PARTY[room]))
        lines.append(f"| `{room}` | {', '.join(sorted(others)) or 'nothing'} | {packages} |")
    return "\n" + "\n".join(lines) + "\n\n"


def test_the_page_of_rooms_is_the_table_that_is_enforced():
    (shown,) = _ROOMS.findall((DOCS / "architecture.md").read_text())
    assert shown == rooms_table(), f"docs/architecture.md should have:\n{rooms_table()}"


def test_every_page_is_reached_and_every_file_shown():
    navigation = (ROOT / "mkdocs.yml").read_text()
    pages = [page.relative_to(DOCS) for page in DOCS.rglob("*.md")]
    assert pages
    for page in pages:
        assert str(page) in navigation, page
    text = "".join(page.read_text() for page in DOCS.rglob("*.md"))
    for file in FILES.iterdir():
        if file.is_file():
            assert f"docs/files/{file.name}" in text, file


@pytest.mark.parametrize("name", ["first", "tracer"])
def test_settings_that_are_shown_are_legal(name):
    assert "SRC" in load_config(file=FILES / f"{name}.toml").run.labels


def test_settings_of_the_defence_are_legal():
    assert load_defence(file=FILES / "defend.toml").training.queries == 60_000


@pytest.mark.parametrize("name", ["function", "once", "resident", "library"])
def test_ways_in_that_are_shown_agree(name, tmp_path):
    """One step of each is one step of the Python solver."""
    for file in FILES.glob("*.*"):
        shutil.copy(file, tmp_path)
    if name == "library":
        if shutil.which("gcc") is None:
            pytest.skip("no gcc here")
        command = ["gcc", "-O2", "-shared", "-fPIC", "tracer.c", "-o", "libtracer.so"]
        subprocess.run(command, cwd=tmp_path, check=True)
    table = tmp_path / f"{name}.toml"
    table.write_text(table.read_text().replace('"python3"', f'"{sys.executable}"'))
    states = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    expected = load_solver(f"{FILES / 'tracer.py'}:Tracer").step(states)
    torch.testing.assert_close(load_solver(str(table)).step(states), expected)


@pytest.mark.parametrize("name", ["network", "selfcheck", "data"])
def test_scripts_that_are_shown_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(FILES))
    exec(compile((FILES / f"{name}.py").read_text(), name, "exec"), {"__name__": name})
    if name == "data":
        grid = load_solver(f"{FILES / 'tracer.py'}:Tracer").grid
        assert zopde.load_trajectories(tmp_path / "mine.nc", grid).simulations == 4


def test_prices_that_are_shown_add_up():
    """The sums of which-cut.md, as they stand there."""
    text = (DOCS / "which-cut.md").read_text().replace("\n", " ")
    sums = re.findall(r"((?:\(\d+ \+ \d+\))(?: · \d+)+) = ([\d,]+)", text)
    assert len(sums) >= 5
    for product, total in sums:
        parts = [sum(map(int, re.findall(r"\d+", part))) for part in product.split("·")]
        assert reduce(int.__mul__, parts) == int(total.replace(",", "")), product


if __name__ == "__main__":  # python tests/test_docs.py writes the table of rooms
    page = DOCS / "architecture.md"
    head = "<!-- rooms: `python tests/test_docs.py` writes them, a test holds them -->"
    new = f"{head}\n{rooms_table()}<!-- end of rooms -->"
    page.write_text(_ROOMS.sub(lambda _: new, page.read_text()))

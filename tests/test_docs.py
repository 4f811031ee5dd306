"""What the documentation shows is in the code, and runs."""

import html
import importlib
import importlib.util
import inspect
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from functools import reduce
from pathlib import Path

import griffe
import pytest
import torch

import zopde
from zopde import load_config, load_defence, load_solver
from zopde.studies.correct import CorrectionConfig
from zopde.studies.report.found import dotted
from zopde.studies.settings import as_tree, literal

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
FILES = DOCS / "files"
_TITLED = re.compile(r'^```(\w+) title="([^"\n]*)"\n(.*?)^```$', flags=re.DOTALL | re.MULTILINE)
_ROOMS = re.compile(r"<!-- rooms:.*?-->\n(.*?)<!-- end of rooms -->", flags=re.DOTALL)


# Not imported by users, but shown: the tables of a run's config.toml, and the solvers' options.
_TABLES = re.compile(
    r"solvers\.|zopde\.studies\.(\w+\.)?settings\."
    r"|zopde\.studies\.correct\.(cuts|network|push|compare\.settings)\."
)


def house_plan():
    spec = importlib.util.spec_from_file_location("plan", ROOT / "tests/test_architecture.py")
    plan = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(plan)
    return plan


def test_every_public_name_has_its_place_in_the_reference():
    plan = house_plan()
    public = {name for name, _ in plan.public_things()}
    # A function that hides the module it is in is shown by that module's path.
    expected = {f"{n}.{n.rpartition('.')[2]}" if n in plan.HIDDEN else n for n in public}
    pages = [page.read_text() for page in (DOCS / "reference").glob("*.md")]
    shown = [n for page in pages for n in re.findall(r"^::: (\S+)$", page, flags=re.MULTILINE)]
    assert sorted(n for n in shown if not _TABLES.match(n)) == sorted(expected)


def test_public_tables_and_types_are_explained():
    """They have no docstring when they run, but one below them."""
    house = griffe.load("zopde", search_paths=[ROOT])
    for name, thing in house_plan().public_things():
        if not (inspect.isclass(thing) or inspect.isfunction(thing)):
            shown = house[name.removeprefix("zopde.")]
            assert (shown.final_target if shown.is_alias else shown).docstring, name


def test_the_reference_says_what_is_imported_from_zopde_itself():
    plan = house_plan()
    index = (DOCS / "reference/index.md").read_text()
    cells = re.findall(r"^\| \[.*\| (.*) \|$", index, flags=re.MULTILINE)
    named = re.findall(r"`(\w+)`", " ".join(cells))
    assert sorted(named) == sorted(plan.AT_THE_TOP.split())
    in_rooms = [thing for _, thing in plan.public_things()]
    for name in named:
        assert any(thing is getattr(zopde, name) for thing in in_rooms), f"{name} is in no room"


def rooms_table():
    plan = house_plan()
    lines = ["| room | may import, besides the ground | and the packages |", "|---|---|---|"]
    for room, others in plan.ROOMS.items():
        packages = ", ".join(sorted(plan.THIRD_PARTY[room]))
        lines.append(f"| `{room}` | {', '.join(sorted(others)) or 'nothing'} | {packages} |")
    return "\n" + "\n".join(lines) + "\n\n"


def test_the_page_of_rooms_is_the_table_that_is_enforced():
    (shown,) = _ROOMS.findall((DOCS / "architecture.md").read_text())
    assert shown == rooms_table(), f"docs/architecture.md should have:\n{rooms_table()}"


def test_the_list_of_settings_has_them_all_with_default_limits_and_a_sentence():
    listed = runpy.run_path(str(DOCS / "hooks.py"))["settings_of"]
    (asked,) = re.findall(r"settings of (.*)\.(\w+) ", (DOCS / "reference/settings.md").read_text())
    rows = re.findall(r"(?m)^\| `(.*?)` \| `(.*)` \| (.+) \| (.+) \|$", listed(*asked))
    settings = dotted(as_tree(CorrectionConfig()))
    assert {name: value for name, value, *_ in rows} == {k: literal(v) for k, v in settings.items()}
    assert all(told.endswith(".") for *_, told in rows)
    assert ("run.failure_limit", "a number in (0, 1]") in {(name, may) for name, _, may, _ in rows}


def titled_blocks():
    """(page, file, code): what stands in a page under the name of a file."""
    for page in sorted(DOCS.rglob("*.md")):
        for _, name, code in _TITLED.findall(page.read_bytes().decode()):
            yield page.relative_to(DOCS), name, code


def test_every_page_is_reached_and_every_file_shown():
    navigation = (ROOT / "mkdocs.yml").read_text()
    pages = [page.relative_to(DOCS) for page in DOCS.rglob("*.md")]
    assert pages
    for page in pages:
        assert str(page) in navigation, page
    names = {name for _, name, _ in titled_blocks()}
    for file in FILES.iterdir():
        if file.is_file():
            assert f"docs/files/{file.name}" in names, file


def test_code_under_the_name_of_a_file_is_that_file_exact():
    for page, name, code in titled_blocks():
        remedy = f"{page}: `python tests/test_docs.py` copies {name} into it"
        assert code.encode() == (ROOT / name).read_bytes(), remedy


def test_built_pages_show_the_code_of_their_files(tmp_path):
    """As a browser has it: every file is there, and no line that should have included one."""
    build = [sys.executable, "-m", "mkdocs", "build", "-q", "-d", str(tmp_path)]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    subprocess.run(build, cwd=ROOT, env=quiet, check=True)
    shown = {}
    for page in (path.relative_to(DOCS) for path in DOCS.rglob("*.md")):
        built = (tmp_path / page.with_suffix(".html")).read_text()
        shown[page] = html.unescape(re.sub(r"(?s)<!--.*?-->|<[^>]*>", "", built))
        assert "--8" not in shown[page], page
    for page, name, code in titled_blocks():
        assert code.strip() in shown[page], f"{page} does not show {name}"


@pytest.mark.parametrize("name", ["first", "tracer", "model"])
def test_settings_that_are_shown_are_legal(name):
    assert "SRC" in load_config(file=FILES / f"{name}.toml").run.labels


def test_settings_of_the_defence_are_legal():
    assert load_defence(file=FILES / "defend.toml").training.queries == 60_000


@pytest.mark.parametrize("name", ["function", "once", "resident", "library", "component"])
def test_ways_in_that_are_shown_agree(name, tmp_path):
    """One step of each is one step of the Python solver."""
    for file in FILES.glob("*.*"):
        shutil.copy(file, tmp_path)
    if name == "library":
        if shutil.which("gcc") is None:
            pytest.skip("no gcc here")
        command = ["gcc", "-O2", "-shared", "-fPIC", "tracer.c", "-o", "libtracer.so"]
        subprocess.run(command, cwd=tmp_path, check=True)
    if name == "component":
        pytest.importorskip("tesseract_core.runtime.serve", exc_type=ImportError)
    table = tmp_path / f"{name}.toml"
    table.write_text(table.read_text().replace('"python3"', f'"{sys.executable}"'))
    states = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    expected = load_solver(f"{FILES / 'tracer.py'}:Tracer").step(states)
    torch.testing.assert_close(load_solver(str(table)).step(states), expected)


@pytest.mark.parametrize("name", ["network", "selfcheck", "data", "bank", "differentiable", "lake"])
def test_scripts_that_are_shown_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(FILES))
    exec(compile((FILES / f"{name}.py").read_text(), name, "exec"), {"__name__": name})
    if name == "data":
        grid = load_solver(f"{FILES / 'tracer.py'}:Tracer").grid
        assert zopde.load_trajectories(tmp_path / "mine.nc", grid).simulations == 4


def test_the_network_that_is_shown_corrects(tmp_path, monkeypatch):
    """With the data of `data.py`, as the command beside it says."""
    monkeypatch.chdir(tmp_path)
    exec(compile((FILES / "data.py").read_text(), "data", "exec"), {})
    changes = ["data.train=3", "data.test=1", "data.coarse=[16,16]", "data.path=mine.nc"]
    changes += [f'corrector.kind="{FILES / "unet.py"}:UNet"', 'run.labels=["SRC","NON"]']
    changes += ['non.length="60 iterations"', 'training.length="1 iteration"', "training.unroll=2"]
    changes.append(f'run.pictures=["{FILES / "drawing.py"}:means"]')
    tables = {"solver": {"spec": f"{FILES / 'tracer.py'}:Tracer"}}
    metrics = zopde.run_correction(load_config("quick", None, changes, tables), "run")
    assert metrics["mae"]["NON"]["mean"] < 0.5 * metrics["mae"]["SRC"]["mean"]
    network = zopde.load_corrector("run/NON/seed-0/model.safetensors")
    assert type(network.body).__name__ == "UNet"
    means = zopde.draw_figures("run")["pictures/means"].axes[0]
    assert [line.get_label() for line in means.lines] == ["reference", "SRC", "NON"]
    assert Path("run/pictures/means.png").exists()


def test_the_callback_that_is_shown_listens(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exec(compile((FILES / "data.py").read_text(), "data", "exec"), {})
    changes = ["data.train=3", "data.test=1", "data.path=mine.nc", 'run.labels=["SRC","NOG"]']
    changes += ["training.init=scratch", 'training.length="12 iterations"', "training.unroll=2"]
    arguments = ["listening.py", f"{FILES / 'tracer.py'}:Tracer", "data.coarse=[16,16]", *changes]
    monkeypatch.setattr(sys, "argv", arguments)
    runpy.run_path(str(FILES / "listening.py"), run_name="__main__")
    lines = re.findall(r"(SRC|NOG), seed 0: (loss|error) [0-9.e-]+", capsys.readouterr().out)
    assert lines == [("SRC", "error"), ("NOG", "loss"), ("NOG", "loss"), ("NOG", "error")]


def test_the_mesh_that_is_shown_is_corrected(tmp_path, monkeypatch):
    """The walk of meshes.md, with few nodes."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(FILES / "plate.py", tmp_path)
    command = [sys.executable, str(FILES / "plate_data.py"), "120"]
    subprocess.run(command, env={**os.environ, "PYTHONPATH": str(FILES)}, check=True)
    changes = ["solver.options.nodes=120", "data.path=plate.nc", 'run.labels=["SRC","NON"]']
    changes += ['non.length="60 iterations"', 'training.length="1 iteration"']
    solver = {"solver": {"spec": "plate.py:Plate"}}
    metrics = zopde.run_correction(load_config("quick", None, changes, solver), "run")
    assert 0 < metrics["mae"]["SRC"]["mean"] != metrics["mae"]["NON"]["mean"] < 0.1
    assert "no wave numbers" in zopde.write_report(["run"], "page.html").read_text()


def test_prices_that_are_shown_add_up():
    """The sums of ways.md, as they stand there."""
    text = (DOCS / "ways.md").read_text().replace("\n", " ")
    sums = re.findall(r"((?:\(\d+ \+ \d+\))(?: · \d+)+) = ([\d,]+)", text)
    assert len(sums) >= 5
    for product, total in sums:
        parts = [sum(map(int, re.findall(r"\d+", part))) for part in product.split("·")]
        assert reduce(int.__mul__, parts) == int(total.replace(",", "")), product


def as_its_file(block):
    language, name, _ = block.groups()
    return f'```{language} title="{name}"\n{(ROOT / name).read_text()}```'


if __name__ == "__main__":  # python tests/test_docs.py writes the table of rooms and the files
    page = DOCS / "architecture.md"
    head = "<!-- rooms: `python tests/test_docs.py` writes them, a test holds them -->"
    new = f"{head}\n{rooms_table()}<!-- end of rooms -->"
    page.write_text(_ROOMS.sub(lambda _: new, page.read_text()))
    for page in DOCS.rglob("*.md"):
        page.write_text(_TITLED.sub(as_its_file, page.read_text()))


def test_the_column_that_is_shown_finds_its_diffusivity(tmp_path, monkeypatch):
    """The walk of parameter.md, with one seed and a tenth of the iterations."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(FILES / "column.py", tmp_path)
    runpy.run_path("column.py", run_name="__main__")
    changes = ["data.path=column.nc", "data.train=9", "data.test=3", "corrector.inject=parameter"]
    changes += ["corrector.kind=column.py:Profile", "corrector.sizes.cells=40", "training.lr=0.1"]
    changes += ['training.length="20 iterations"', 'run.labels=["SRC","ZO-interface"]']
    solver = {"solver": {"spec": "column.py:Column"}}
    metrics = zopde.run_correction(load_config("quick", None, changes, solver), "run")
    assert metrics["mae"]["ZO-interface"]["mean"] < 0.5 * metrics["mae"]["SRC"]["mean"]
    network = zopde.load_corrector("run/ZO-interface/seed-0/model.safetensors")
    guess = torch.full((1, 1, 40), 5e-5)
    found = guess * network(torch.full_like(guess, 15.0), guess).exp().detach()
    depth = (torch.arange(40) + 0.5) / 2
    truth = 1e-5 + 2e-4 * torch.exp(-depth / 5)
    assert (found / truth).log().abs().mean() < 0.5 * (guess / truth).log().abs().mean()


def test_the_search_that_is_shown_scores_by_the_validation(tmp_path, monkeypatch, capsys):
    pytest.importorskip("optuna")
    monkeypatch.chdir(tmp_path)
    exec(compile((FILES / "data.py").read_text(), "data", "exec"), {})
    changes = ["data.train=3", "data.test=1", "data.path=mine.nc", "data.validation=1"]
    changes += ['run.labels=["SRC","ZO-interface"]', "training.init=scratch", "training.unroll=2"]
    changes += ['training.length="3 iterations"', "data.coarse=[16,16]"]
    arguments = ["search.py", f"{FILES / 'tracer.py'}:Tracer", *changes]
    monkeypatch.setattr(sys, "argv", arguments)
    runpy.run_path(str(FILES / "search.py"), run_name="__main__")
    best = float(capsys.readouterr().out.split("with a loss of ")[1])
    found = [json.loads(p.read_text()) for p in Path("runs").glob("search-*/metrics.json")]
    assert len(found) == 8
    scores = [one["validation"]["ZO-interface"][0]["loss"] for one in found]
    assert best == pytest.approx(min(scores), abs=1e-5)
    assert max(scores) > min(scores)

"""Pictures of a run as figures, and pictures of the user's own."""

import base64
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from zopde import InputError, draw_figures, plugins, run_correction, write_report
from zopde.data import load_rollout
from zopde.progress import Silent
from zopde.report.panels import png_of
from zopde.studies.correct import load_config

DRAWING = """
from matplotlib.figure import Figure


def profile(predicted, reference, domain):
    figure = Figure()
    axes = figure.add_subplot(title=domain.channels[0])
    for label, states in predicted.items():
        axes.plot((states - reference).abs().flatten(1).mean(dim=1), label=label)
        states += 1  # of a copy
    return figure


def nothing(predicted, reference, domain):
    return None


def untitled(predicted, reference, domain):
    figure = Figure()
    figure.suptitle("$x^$")
    return figure


def two(predicted, reference):
    return Figure()


calls = []


def once(predicted, reference, domain):
    calls.append(1)
    if len(calls) > 1:
        raise ValueError("the licence is gone")
    return Figure()
"""
OWN = ("profile.py:profile", "profile.py:once")


class Notes(Silent):
    """Keeps what is said."""

    def __init__(self):
        self.lines = []

    def note(self, text):
        self.lines.append(text)


@pytest.fixture(scope="module")
def home(tmp_path_factory, monkeypatch_module):
    folder = tmp_path_factory.mktemp("home")
    monkeypatch_module.chdir(folder)
    monkeypatch_module.setattr(plugins, "_loaded", {})
    Path("profile.py").write_text(DRAWING)
    return folder


@pytest.fixture(scope="module")
def monkeypatch_module():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


def config_of(spec, tiny, *pictures):
    changes = [*tiny, 'run.labels=["SRC","NON"]', f"run.pictures={json.dumps(pictures)}"]
    return load_config("quick", None, changes, {"solver": {"spec": spec}})


@pytest.fixture(scope="module")
def finished(home, toy_spec, tiny):
    notes = Notes()
    metrics = run_correction(config_of(toy_spec, tiny, *OWN), home / "run", progress=notes)
    return home / "run", metrics, notes.lines


def test_the_figures_of_a_run_are_the_pictures_of_its_report(finished):
    """Each of them stands in the page, bit for bit, and the page has no other."""
    folder = finished[0]
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    figures = draw_figures(folder)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    names = ["error_over_time", "training_loss", "fields", "energy_spectrum", "pictures/profile"]
    assert list(figures) == names
    html = write_report([folder], folder.parent / "page.html").read_text()
    for figure in figures.values():
        assert base64.b64encode(png_of(figure)).decode() in html
    assert html.count('src="data:image/png') == len(names)


def test_a_picture_of_the_users_own_is_of_the_shown_run_exact(finished):
    folder = finished[0]
    axes = draw_figures(folder)["pictures/profile"].axes[0]
    reference = load_rollout(folder / "reference.nc").states[1]
    assert axes.get_title() == "velocity_y"
    for line in axes.lines:
        states = load_rollout(folder / line.get_label() / "seed-0" / "rollout.nc").states[1]
        expected = (states - reference).abs().flatten(1).mean(dim=1)
        np.testing.assert_allclose(line.get_ydata(), expected)
    assert len(axes.lines) == 2
    assert (folder / "pictures" / "profile.png").read_bytes().startswith(b"\x89PNG")


def test_a_picture_that_fails_is_named_and_loses_nothing(finished):
    folder, metrics, notes = finished
    (line,) = [line for line in notes if "no picture" in line]
    assert "once.png: run.pictures once: got ValueError: the licence is gone" in line
    assert metrics["mae"]["NON"]["mean"] is not None
    assert not (folder / "pictures" / "once.png").exists()
    assert "the licence is gone" in write_report([folder], folder.parent / "p.html").read_text()


def test_without_the_users_file_the_page_has_what_the_run_kept(finished, tmp_path, monkeypatch):
    shutil.copytree(finished[0], tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    assert "pictures/profile" not in draw_figures("run")
    kept = base64.b64encode(Path("run/pictures/profile.png").read_bytes()).decode()
    assert kept in write_report(["run"]).read_text()


def test_pictures_may_be_added_later_and_overwrite_deletes_them(finished, toy_spec, tiny):
    folder, metrics, _ = finished
    again = run_correction(config_of(toy_spec, tiny), folder, resume=True)
    assert again["mae"] == metrics["mae"]
    assert "pictures/profile" not in draw_figures(folder)
    run_correction(config_of(toy_spec, tiny, OWN[0]), folder, resume=True)
    assert "pictures/profile" in draw_figures(folder)
    run_correction(config_of(toy_spec, tiny), folder, overwrite=True)
    assert not (folder / "pictures").exists()


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["profile"], "picture: got 'profile', expected package.module:name or file.py:name"),
        (["profile.py:none"], "name in profile.py"),
        ([OWN[0], OWN[0]], "run.pictures: got 'profile' twice"),
        (["profile.py:two"], "run.pictures: got 'profile.py:two'"),
        (["profile.py:nothing"], "run.pictures nothing: got NoneType, expected a matplotlib"),
        (["profile.py:untitled"], "run.pictures untitled: got ValueError"),
    ],
)
def test_a_picture_that_will_not_do_is_refused_before_anything_is_trained(
    home, names, words, toy_spec, tiny
):
    with pytest.raises(InputError, match=words):
        run_correction(config_of(toy_spec, tiny, *names), home / "refused")
    assert not (home / "refused").exists()


def test_a_picture_is_tried_on_whole_states_beside_a_reference_with_gaps():
    from zopde import Grid, Trajectories
    from zopde.studies.correct.pictures import check_pictures

    states, seen = torch.rand(1, 3, 1, 4), {}
    states[0, 1, 0, 2] = torch.nan

    def look(predicted, reference, domain):
        seen.update(predicted, reference=reference)
        raise ValueError("seen")

    test = Trajectories(Grid((4,), (1.0,), 0.1, ("u",)), states)
    with pytest.raises(InputError, match="seen"):
        check_pictures({"look": look}, ["SRC", "SOL"], test)
    assert list(seen) == ["SRC", "SOL", "reference"]
    assert bool(seen["SOL"].isfinite().all())
    torch.testing.assert_close(seen["reference"], states[0], equal_nan=True)

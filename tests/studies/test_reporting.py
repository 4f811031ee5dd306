"""Pages of real, tiny runs."""

import json
import re
import shutil

import meshio
import pytest
import torch
import xarray as xr

from zopde import InputError, load_classification, run_classification, write_report
from zopde.data import load_rollout
from zopde.numerals import measured
from zopde.studies.correct import load_config, run_correction
from zopde.studies.correct.rollouts import read_rollouts
from zopde.studies.report.found import changes_from_preset, find_run, reproduce

LABELS = ["SRC", "NON", "ZO-weights", "ZO-interface"]
DIGITS = [
    "network.sizes={depth=1,width=4}",
    "training.batch=480",
    'training.length="2 epochs"',
    "zo.score_directions=4",
    "zo.score_images=2",
    "run.seeds=[0,1]",
]


@pytest.fixture(scope="module")
def corrected(tmp_path_factory, toy_spec, tiny):
    changes = [*tiny, "run.seeds=[0,1]", f"run.labels={json.dumps(LABELS)}", "zo.score=magnitude"]
    config = load_config("quick", None, changes, {"solver": {"spec": toy_spec}})
    folder = tmp_path_factory.mktemp("runs") / "toy"
    run_correction(config, folder)
    return folder, config


@pytest.fixture(scope="module")
def classified(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "digits"
    config = load_classification("quick", None, DIGITS)
    run_classification(config, folder)
    return folder, config


@pytest.fixture
def copied(corrected, tmp_path):
    return shutil.copytree(corrected[0], tmp_path / "copy")


def headings(path):
    return re.findall(r"<h2>(.*?)</h2>", path.read_text())


def test_a_correction_run_on_one_page(corrected):
    folder, _ = corrected
    gif = folder.parent / "toy.gif"
    place = write_report([folder], animation=gif)
    assert place == folder / "report.html"
    assert headings(place) == [
        "What was asked",
        "Result",
        "Error over time",
        "Learning",
        "In motion",
        "Fields",
        "Energy spectrum",
        "Layer ratios",
        "Cost",
        "Failures",
        "Once more",
    ]
    html = place.read_text()
    metrics = json.loads((folder / "metrics.json").read_text())
    for label in LABELS:
        error = metrics["mae"][label]
        spread_of_seeds = None if label == "SRC" else error["std_over_seeds"]
        for shown in measured(error["mean"], error["std"], spread_of_seeds, decimals=4):
            assert f"<td>{shown}</td>" in html
        assert f"<td>{metrics['queries'][label]:,}</td>" in html
        for shown in metrics["nrmse"][label]["channels"].values():
            assert f"<td>{shown:.3g}</td>" in html
    assert html.count("<td>0/2</td>") == 1  # SRC
    assert html.count("<td>0/4</td>") == 3
    assert "not finished" not in html
    assert html.count("data:image/png") == 6
    assert html.count("data:image/gif") == 1
    assert metrics["versions"]["torch"] in html
    assert gif.read_bytes().startswith(b"GIF89a")
    assert len(html) < 4_000_000


def test_the_run_that_the_pictures_show_as_vtk_files_agrees(corrected, copied, tmp_path):
    folder, _ = corrected
    rollouts = read_rollouts(find_run(folder))
    write_report([folder], tmp_path / "page.html", vtk=tmp_path / "vtk")
    names = {file.stem for file in (tmp_path / "vtk").glob("*.pvd")}
    assert names == {"reference", *LABELS}
    for name in names:
        expected = rollouts.states(name)
        files = sorted((tmp_path / "vtk" / name).glob("*.vtu"))
        assert len(files) == len(expected)
        velocity = meshio.read(files[-1]).cell_data["velocity"][0]
        assert torch.equal(torch.tensor(velocity[:, [1, 0]].T), expected[-1].flatten(1))
    with pytest.raises(InputError, match="vtk, which is not empty, expected a new folder"):
        write_report([folder], tmp_path / "page.html", vtk=tmp_path / "vtk")
    with pytest.raises(InputError, match=r"page.html, which is a file, expected a new folder"):
        write_report([folder], tmp_path / "page.html", vtk=tmp_path / "page.html")
    with pytest.raises(InputError, match="vtk: got 2 run folders"):
        write_report([folder, copied], tmp_path / "page.html", vtk=tmp_path / "both")
    for file in copied.glob("**/rollout.nc"):
        file.unlink()
    with pytest.raises(InputError, match="vtk: got no fields"):
        write_report([copied], vtk=tmp_path / "none")
    assert not any((tmp_path / name).exists() for name in ("both", "none"))


def test_what_a_run_keeps_of_its_reference_agrees(corrected):
    """The folder alone gives the errors that the run computed, to the last digit."""
    folder, _ = corrected
    rollouts = read_rollouts(find_run(folder))
    metrics = json.loads((folder / "metrics.json").read_text())
    for label, found in rollouts.evaluations.items():
        runs = torch.stack([e.error.mean_mae for e in found])
        kept = torch.tensor(metrics["mae"][label]["runs"])
        torch.testing.assert_close(runs, kept, rtol=1e-6, atol=0)
    assert rollouts.best in ("NON", "ZO-weights", "ZO-interface")
    with xr.open_dataset(folder / "reference.nc") as file:
        assert list(file.data_vars) == ["velocity_y", "velocity_x"]
    grid = load_rollout(folder / "reference.nc").grid
    assert (grid.dt, grid.extent, grid.dims) == (0.1, (8.0, 8.0), ("y", "x"))
    assert (grid.boundary, grid.unit("time"), grid.unit("velocity_y")) == ("periodic", "s", "m/s")


def test_a_run_from_before_there_was_a_reference_takes_it_from_the_data(copied, corrected):
    (copied / "reference.nc").unlink()
    write_report([copied])
    assert "Energy spectrum" not in headings(copied / "report.html"), "the data is not here"
    assert "Fields" in headings(copied / "report.html"), "the run's own pictures are"
    data = next(corrected[0].parent.glob("*.nc"))
    shutil.copy(data, copied.parent)
    write_report([copied])
    assert "Energy spectrum" in headings(copied / "report.html")


def test_data_of_another_run_does_not_pass_for_the_reference(copied):
    path = copied / "reference.nc"
    with xr.open_dataset(path) as file:
        other = file.load() + 1e-6
    other.attrs = file.attrs
    path.unlink()
    other.to_netcdf(path, engine="h5netcdf")
    assert read_rollouts(find_run(copied)) is None


def test_an_unfinished_run_says_so_and_shows_what_there_is(copied):
    (copied / "metrics.json").unlink()
    for gone in ("ZO-interface", "ZO-weights/seed-1"):
        shutil.rmtree(copied / gone)
    history = copied / "ZO-weights" / "seed-0" / "history.csv"
    history.write_text(history.read_text()[:-9])  # a kill in the middle of a row
    write_report([copied])
    html = (copied / "report.html").read_text()
    assert "This run is not finished" in html
    assert "seeds so far" in html
    assert {"Result", "Learning", "Fields", "Cost"} <= set(headings(copied / "report.html"))
    for entry in list(copied.iterdir()):
        if entry.is_dir():
            shutil.rmtree(entry)
    write_report([copied])
    assert "No rollout of an unseen run yet" in (copied / "report.html").read_text()


def test_a_diverged_label_is_no_obstacle(copied):
    for path in copied.glob("NON/*/rollout.nc"):
        with xr.open_dataset(path) as file:
            broken = file.load()
        broken["velocity_y"][:, 5:] = float("nan")
        path.unlink()
        broken.to_netcdf(path, engine="h5netcdf")
    found = read_rollouts(find_run(copied))
    assert found.evaluations["NON"][0].error.diverged.all()
    assert found.best != "NON"
    write_report([copied])


def test_the_command_makes_the_same_settings_exact(corrected, classified, tmp_path):
    folder, config = corrected
    run = find_run(folder)
    preset, changes = changes_from_preset(run)
    spec = {"solver": {"spec": config.solver.spec}}
    sets = [f"{key}={value}" for key, value in changes.items()]
    assert load_config(preset, None, sets, spec) == config
    assert reproduce(run).startswith("zopde correct ")
    folder, config = classified
    preset, changes = changes_from_preset(find_run(folder))
    sets = [f"{key}={value}" for key, value in changes.items()]
    assert load_classification(preset, None, sets) == config


def test_what_was_measured_belongs_to_the_command(copied):
    assert "zo.chunk" not in reproduce(find_run(copied))
    (copied / "chunk.txt").write_text("7\n")
    assert "--set zo.chunk=7 " in reproduce(find_run(copied))


@pytest.mark.parametrize("inject", ["before", "forcing"])
def test_the_command_of_another_injection_makes_the_same_settings_exact(inject, tmp_path):
    tables = {"solver": {"spec": "wake"}, "corrector": {"inject": inject}}
    config = load_config("quick", None, ["run.seeds=[3]"], tables)
    from zopde.studies.correct.study import STUDY
    from zopde.studies.folder import open_folder

    open_folder(tmp_path / "run", STUDY, config)
    preset, changes = changes_from_preset(find_run(tmp_path / "run"))
    assert set(changes) == {"corrector.inject", "run.seeds"}
    sets = [f"{key}={value}" for key, value in changes.items()]
    assert load_config(preset, None, sets, {"solver": {"spec": "wake"}}) == config


@pytest.mark.parametrize(
    "spec", ["burgers", "wake", "kuramoto-sivashinsky", "lorenz96", "turbulence", "shallow-water"]
)
def test_a_run_of_every_solver_has_a_page_whose_command_makes_it_again(spec, tmp_path):
    """A solver may have fewer presets than others."""
    from zopde.studies.correct.study import STUDY
    from zopde.studies.folder import open_folder

    config = load_config("quick", None, ["run.seeds=[3]"], {"solver": {"spec": spec}})
    open_folder(tmp_path / "run", STUDY, config)
    preset, changes = changes_from_preset(find_run(tmp_path / "run"))
    assert (preset, set(changes)) == ("quick", {"run.seeds"})
    sets = [f"{key}={value}" for key, value in changes.items()]
    assert load_config(preset, None, sets, {"solver": {"spec": spec}}) == config
    assert reproduce(find_run(tmp_path / "run")).startswith(f"zopde correct {spec}")
    assert write_report([tmp_path / "run"]).exists()


def test_a_classification_run_on_one_page(classified):
    folder, _ = classified
    place = write_report([folder])
    wanted = {"Result", "Learning", "What was taken for what", "Layer ratios", "Cost", "Once more"}
    assert wanted <= set(headings(place))
    metrics = json.loads((folder / "metrics.json").read_text())
    assert f"<td>{metrics['accuracy']['DeepZero']['mean']:.2f}</td>" in place.read_text()
    with pytest.raises(InputError, match="nothing to show in motion"):
        write_report([folder], animation=folder / "a.gif")
    with pytest.raises(InputError, match=r"vtk: got no fields to write, expected one run of"):
        write_report([folder], vtk=folder / "vtk")


def test_several_runs_side_by_side(corrected, copied, classified, tmp_path):
    folder, _ = corrected
    record = copied / "config.toml"
    record.write_text(record.read_text().replace("mu = 0.001", "mu = 0.002", 1))
    place = write_report([folder, copied], tmp_path / "both.html")
    html = place.read_text()
    assert headings(place) == ["What differs", "Result", "What it cost", "toy", "copy"]
    assert len(re.findall(r"<tr><td[^>]*>\w+\.\w+</td>", html)) == 1
    assert html.count('<td class="word">ZO-weights</td>') == 4  # in two tables
    assert html.count('<th scope="col">nRMSE</th>') == 1
    assert write_report([classified[0], classified[0]]).name == "report.html"
    with pytest.raises(InputError, match="got runs of classify and correct"):
        write_report([folder, classified[0]])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda p: None, "no folder"),
        (lambda p: p.mkdir(), "without a config.toml"),
        (lambda p: (p.mkdir(), (p / "config.toml").write_text("[a]\nb = 1")), "another config"),
        (lambda p: (p.mkdir(), (p / "config.toml").write_text("[a")), "valid TOML"),
    ],
)
def test_what_is_no_run_raises(make, words, tmp_path):
    make(tmp_path / "x")
    with pytest.raises(InputError, match=words):
        write_report([tmp_path / "x"])


def test_a_place_that_will_not_do_raises(corrected, tmp_path):
    with pytest.raises(InputError, match="a folder"):
        write_report([corrected[0]], tmp_path)
    with pytest.raises(InputError, match="writable"):
        write_report([corrected[0]], "/proc/zopde/report.html")
    with pytest.raises(InputError, match="one or more"):
        write_report([])


def test_damaged_metrics_raise(copied):
    (copied / "metrics.json").write_text("{")
    with pytest.raises(InputError, match=r"metrics\.json: got other content"):
        write_report([copied])

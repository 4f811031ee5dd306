import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from toy_halves import MODEL, config, halves, save, table

from zopde import CertifyConfig, InputError, Smooth, run_certification
from zopde.data import ImageData, Images
from zopde.seeding import generator
from zopde.smoothing import largest_radius
from zopde.studies.certificates import COLUMNS, FILE, read_rows
from zopde.studies.certify import load_base_classifier
from zopde.studies.certify.show import read_certification
from zopde.studies.certify.study import STUDY


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("certify")
    (folder / "mine.py").write_text(MODEL)
    return folder


@pytest.fixture(scope="module")
def data():
    return halves()


@pytest.fixture(scope="module")
def finished(home, data):
    return home / "whole", run_certification(config(home), home / "whole", images=data)


def test_the_table_says_what_smooth_says_agrees(home, data, finished):
    folder, metrics = finished
    smooth = Smooth(load_base_classifier(f"{home / 'mine.py'}:bright", 1.0), 2, 0.3)
    rows = read_rows(folder / FILE)
    assert [row.index for row in rows] == list(range(24))
    for row in rows:
        x = data.test.pixels[row.index].float() / 255
        found = smooth.certify(x, 20, 200, 0.001, generator(0, "smoothing", row.index), 64)
        assert (row.prediction, row.radius) == found[:2], "to the last bit"
        assert row.label == data.test.labels[row.index]
    assert metrics["largest_radius"] == largest_radius(0.3, 200, 0.001)
    assert metrics["abstained"] == sum(row.prediction == -1 for row in rows) > 0
    right = [row.radius for row in rows if row.correct]
    for each in metrics["certified_accuracy"]:
        held = sum(radius >= each["radius"] for radius in right)
        assert each["percent"] == pytest.approx(100 * held / 24)
        assert each["band"][0] <= each["percent"] <= each["band"][1]
    assert table(folder)[0] == list(COLUMNS[:-1])
    assert (folder / "certified_accuracy.png").read_bytes().startswith(b"\x89PNG")
    names = {*STUDY.files, "checksums.txt", "config.toml"}
    assert {entry.name for entry in folder.iterdir()} <= names


def test_some_images_are_certified_as_among_all_agrees(home, data, finished, tmp_path):
    """The noise of an image does not depend on which others are certified."""
    few = config(home, every=5, images=3)
    run_certification(few, tmp_path / "few", images=data)
    whole = table(finished[0])
    assert table(tmp_path / "few") == [whole[0], *(whole[1 + i] for i in (0, 5, 10))]


@pytest.mark.parametrize("keep", [0, 5, 200, 10**6])
def test_a_table_that_is_cut_anywhere_resumes(home, data, finished, tmp_path, keep):
    shutil.copytree(finished[0], tmp_path / "run")
    path = tmp_path / "run" / FILE
    path.write_bytes(path.read_bytes()[:keep])
    run_certification(config(home), tmp_path / "run", resume=True, images=data)
    assert table(tmp_path / "run") == table(finished[0])


def test_other_settings_images_or_models_raises(home, data, finished, tmp_path):
    folder, _ = finished
    with pytest.raises(InputError, match="--resume"):
        run_certification(config(home), folder, images=data)
    with pytest.raises(InputError, match="'sigma'"):
        run_certification(config(home, sigma=0.4), folder, resume=True, images=data)
    other = ImageData("other", data.train, Images(data.test.pixels.flip(0), data.test.labels), "01")
    with pytest.raises(InputError, match="images: got other numbers"):
        run_certification(config(home), folder, resume=True, images=other)
    (tmp_path / "mine.py").write_text(MODEL)
    run_certification(config(tmp_path), tmp_path / "run", images=data)
    (tmp_path / "mine.py").write_text(MODEL + "\n# changed\n")
    with pytest.raises(InputError, match=r"model .*mine.py:bright: got other"):
        run_certification(config(tmp_path), tmp_path / "run", resume=True, images=data)
    path = tmp_path / "run" / FILE
    path.write_text(path.read_text().replace("\t", " ", 8))
    with pytest.raises(InputError, match="columns"):
        read_certification(path)


def test_files_that_have_moved_are_known_by_their_content_resumes(home, data, finished, tmp_path):
    folder, here, there = tmp_path / "run", tmp_path / "here", tmp_path / "there"
    here.mkdir()
    (here / "mine.py").write_text(MODEL)
    save(data, here / "data.npz")
    run_certification(config(here, data=str(here / "data.npz")), folder)
    path = folder / FILE
    path.write_bytes(path.read_bytes()[:200])
    here.rename(there)
    moved = config(there, data=str(there / "data.npz"))
    run_certification(moved, folder, resume=True)
    assert table(folder) == table(finished[0])
    assert read_certification(folder)[0] == moved
    with pytest.raises(InputError, match=r"model .*mine.py:Bright: got other"):
        run_certification(config(there, "Bright", data=moved.data), folder, resume=True)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("brigt", "name in .*did you mean 'bright'"),
        ("number", "a callable"),
        ("Needs", "builds without arguments"),
        ("wrong", r"expected scores \(2, 2\)"),
        ("torch", "a callable"),
    ],
)
def test_a_model_that_will_not_do_raises(home, data, tmp_path, name, said):
    with pytest.raises(InputError, match=said):
        run_certification(config(home, name), tmp_path / "run", images=data)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sigma": -1.0}, "sigma"),
        ({"alpha": 1.0}, "alpha"),
        ({"n": 0}, "n: got 0"),
        ({"part": "trian"}, "did you mean 'train'"),
        ({"every": 0}, "every"),
        ({"images": -1}, "images"),
        ({"device": "warp"}, "device"),
    ],
)
def test_settings_that_will_not_do_raises(change, said):
    with pytest.raises(InputError, match=said):
        CertifyConfig("model.safetensors", **change)


def test_labels_and_classes_are_models_agrees(home, data, finished, tmp_path):
    for name in ("labels", "Bright"):
        run_certification(config(home, name), tmp_path / name, images=data)
        assert table(tmp_path / name) == table(finished[0])


def test_killed_between_images_and_resumed_is_identical_resumes(home, data, tmp_path):
    """SIGKILL of a process in the middle of its work."""
    save(data, tmp_path / "data.npz")
    words = ["certify", f"{home / 'mine.py'}:slow", "--data", "data.npz", "--n", "200"]
    words += ["--n0", "20", "--batch", "64", "--sigma", "0.3", "--out"]
    command = [sys.executable, "-m", "zopde.cli.app", *words]
    plain = {"cwd": tmp_path, "env": {**os.environ, "OMP_NUM_THREADS": "1"}}
    process = subprocess.Popen([*command, "run"], stderr=subprocess.PIPE, **plain)
    path = tmp_path / "run" / FILE
    deadline = time.monotonic() + 120
    while not (path.exists() and len(read_rows(path)) >= 3) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    before = table(tmp_path / "run")
    assert 4 <= len(before) < 25
    again = subprocess.run(
        [*command, "run", "--resume"], check=False, capture_output=True, text=True, **plain
    )
    assert again.returncode == 0, again.stderr
    assert "images are certified" in again.stderr
    assert "largest radius" in again.stdout
    run_certification(config(home), tmp_path / "whole", images=data)
    assert table(tmp_path / "run") == table(tmp_path / "whole")
    assert table(tmp_path / "run")[: len(before)] == before

"""Pages of real, tiny runs whose result is a certificate."""

import json
import re
import shutil
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

from zopde import CertifyConfig, load_defence, run_certification, run_defence, write_report
from zopde.cli.app import app
from zopde.data import ImageData, Images
from zopde.studies.report.found import changes_from_preset, find_run, reproduce

METHODS = ["none", "AE-MSE", "ZO-DS", "DeepZero"]
DEFENCE = [
    'classifier.changes=["training.length=\\"2 epochs\\"", "network.sizes={depth=1,width=4}"]',
    "defence={sigma=0.25,depth=3,width=4,latent=3}",
    'pretraining={denoiser="2 iterations",autoencoder="2 iterations",batch=16}',
    "training.queries=2000",
    "training.batch=6",
    "training.watch=2",
    "training.watch_images=8",
    "zo.directions=2",
    "zo.weights=10",
    "zo.score_directions=2",
    "certify={images=3,n0=10,n=20}",
    f"run.methods={json.dumps(METHODS)}",
    "run.seeds=[0,1]",
]
MODEL = """
import torch


def bright(x):
    level = x.mean(dim=(1, 2, 3))
    return torch.stack([level, 1 - level], dim=1)
"""


def headings(path):
    return re.findall(r"<h2>(.*?)</h2>", path.read_text())


def few():
    pixels = torch.randint(17, (26, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    pixels, labels = pixels.to(torch.uint8), torch.arange(26) % 2
    parts = Images(pixels[:20], labels[:20]), Images(pixels[20:], labels[20:])
    return ImageData("few", *parts, ("a", "b"))


@pytest.fixture(scope="module")
def defended(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "defence"
    config = load_defence("quick", None, DEFENCE)
    run_defence(config, folder, images=few())
    return folder, config


@pytest.fixture(scope="module")
def certified(tmp_path_factory):
    home = tmp_path_factory.mktemp("certified")
    (home / "mine.py").write_text(MODEL)
    config = CertifyConfig(f"{home}/mine.py:bright", n0=10, n=50, images=4, sigma=0.5)
    configs = {"one": config, "two": replace(config, sigma=0.1, decide=(0.02, 0.05))}
    for name, each in configs.items():
        run_certification(each, home / name, images=few())
    return home, configs


def test_a_defence_on_one_page(defended):
    folder, _ = defended
    place = write_report([folder])
    assert headings(place) == [
        "What was asked",
        "Result",
        "Certified accuracy",
        "Images",
        "Learning",
        "Layer ratios",
        "Failures",
        "Once more",
    ]
    html, metrics = place.read_text(), json.loads((folder / "metrics.json").read_text())
    for method in METHODS:
        assert f"<td>{metrics['certified'][method][0]['mean']:.1f}</td>" in html
        assert f"<td>{metrics['queries'][method]:,.0f}</td>" in html
    assert html.count("data:image/png") == 4
    assert "not finished" not in html


def test_an_unfinished_defence_shows_the_images_it_certified(defended, tmp_path):
    copy = shutil.copytree(defended[0], tmp_path / "copy")
    (copy / "metrics.json").unlink()
    shutil.rmtree(copy / "DeepZero")
    table = copy / "ZO-DS" / "seed-1" / "certificates.tsv"
    table.write_text(table.read_text()[:-5])  # a kill in the middle of a line
    html = write_report([copy]).read_text()
    assert "This run is not finished" in html
    cells = re.findall(r"<td class=\"word\">ZO-DS</td><td>(\d)</td><td>(\d)</td>", html)
    assert cells == [("0", "3"), ("1", "2")]
    assert {"Certified accuracy", "Learning"} <= set(headings(copy / "report.html"))
    for method in METHODS:
        shutil.rmtree(copy / method, ignore_errors=True)
    assert "No image is certified yet" in write_report([copy]).read_text()


def test_defences_side_by_side(defended, tmp_path):
    copy = shutil.copytree(defended[0], tmp_path / "copy")
    record = copy / "config.toml"
    record.write_text(record.read_text().replace("queries = 2000", "queries = 2001", 1))
    place = write_report([defended[0], copy], tmp_path / "both.html")
    assert headings(place) == ["What differs", "Result", "What it cost", "defence", "copy"]
    html = place.read_text()
    assert re.findall(r"<tr><td[^>]*>(\w+\.\w+)</td>", html) == ["training.queries"]
    assert html.count('<td class="word">DeepZero</td>') == 2


def test_a_certification_on_one_page(certified, tmp_path):
    home, _ = certified
    copy = shutil.copytree(home / "one", tmp_path / "one")
    assert "Attack" not in headings(write_report([copy]))
    found = {"points": 3, "reach": 1.0, "steps": 4, "changed": 0, "expected": 0.003, "no_answer": 1}
    (copy / "attack.json").write_text(json.dumps(found))
    place = write_report([copy])
    wanted = ["What was asked", "Result", "Certified accuracy", "Attack", "Once more"]
    assert headings(place) == wanted
    html, metrics = place.read_text(), json.loads((copy / "metrics.json").read_text())
    for at in metrics["certified_accuracy"]:
        assert f"<td>{at['percent']:.1f} %</td>" in html
    assert "3 certified points, attacked within 1 times" in html
    (copy / "metrics.json").unlink()
    assert "4 images are certified so far" in write_report([copy]).read_text()


def test_certifications_side_by_side(certified, tmp_path):
    home, _ = certified
    place = write_report([home / "one", home / "two"], tmp_path / "both.html")
    assert headings(place) == ["What differs", "Result", "one", "two"]
    html = place.read_text()
    assert '<td class="word">sigma</td>' in html
    assert html.count("data:image/png") == 1


def test_the_command_makes_the_same_settings_exact(defended, certified, monkeypatch):
    folder, config = defended
    preset, changes = changes_from_preset(find_run(folder))
    assert load_defence(preset, None, [f"{k}={v}" for k, v in changes.items()]) == config
    home, configs = certified
    seen = []
    monkeypatch.setattr(
        "zopde.studies.certify.run_certification", lambda *given: seen.append(given) or 1 / 0
    )
    for name, config in configs.items():
        command = reproduce(find_run(home / name)).replace("\\\n", "").split()
        assert command[:2] == ["zopde", "certify"]
        with pytest.raises(ZeroDivisionError):
            CliRunner().invoke(app, command[1:], catch_exceptions=False)
        assert seen[-1][0] == config

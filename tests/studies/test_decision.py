"""Certifications that decide about given radii: the same run, fewer answers, its ledger."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from toy_halves import MODEL, config, halves, save, table

from zopde import CertifyConfig, InputError, Smooth, run_certification, write_report
from zopde.seeding import generator
from zopde.studies.certificates import DECIDED, FILE, read_rows
from zopde.studies.certify import attack_certificates, load_base_classifier
from zopde.studies.certify.study import STUDY

RADII = (0.05, 0.3)


def deciding(home, name="bright", **changes):
    return config(home, name, **{"n": 2000, "decide": RADII} | changes)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("decide")
    (folder / "mine.py").write_text(MODEL)
    return folder


@pytest.fixture(scope="module")
def data():
    return halves()


@pytest.fixture(scope="module")
def finished(home, data):
    return home / "decided", run_certification(deciding(home), home / "decided", images=data)


def test_the_table_says_what_smooth_decides_agrees(home, data, finished):
    folder, _ = finished
    smooth = Smooth(load_base_classifier(f"{home / 'mine.py'}:bright", 1.0), 2, 0.3)
    rows = read_rows(folder / FILE)
    assert [row.index for row in rows] == list(range(24))
    for row in rows:
        x = data.test.pixels[row.index].float() / 255
        draw = generator(0, "smoothing", row.index)
        found = smooth.decide(x, RADII, 20, 2000, 0.001, draw, 999)
        assert (row.prediction, row.radius, row.answers, row.verdicts) == found
    assert table(folder)[0] == list(DECIDED[:-1])


def test_the_figures_count_verdicts_and_answers_exact(finished):
    folder, metrics = finished
    rows = read_rows(folder / FILE)
    for i, (at, shown) in enumerate(
        zip(metrics["verdicts"], metrics["certified_accuracy"], strict=True)
    ):
        assert at["radius"] == shown["radius"] == RADII[i]
        for said in ("yes", "no", "undecided"):
            assert at[said] == sum(row.verdicts[i] == said for row in rows)
        held = sum(row.verdicts[i] == "yes" and row.correct for row in rows)
        assert shown["percent"] == pytest.approx(100 * held / 24)
    assert metrics["verdicts"][0]["yes"] > metrics["verdicts"][1]["yes"] > 0
    assert metrics["abstained"] == sum("yes" not in row.verdicts for row in rows) > 0
    asked = sorted(row.answers for row in rows)
    assert metrics["answers"]["all"] == sum(asked)
    assert metrics["answers"]["mean"] == pytest.approx(sum(asked) / 24)
    assert asked[11] <= metrics["answers"]["median"] <= asked[12]
    assert sum(each <= metrics["answers"]["90 %"] for each in asked) >= 0.9 * 24
    assert asked[0] < metrics["answers"]["mean"] < asked[-1] == 2020
    shown = STUDY.table(metrics)
    assert shown.columns[-3:] == ("yes", "no", "undecided")
    assert "2,020 at most" in "".join(shown.notes)


def test_decisions_are_those_of_a_fixed_number(home, data, finished, tmp_path):
    """Where both know: what one certifies, the other never denies."""
    run_certification(config(home, n=2000), tmp_path / "fixed", images=data)
    for fixed, row in zip(
        read_rows(tmp_path / "fixed" / FILE), read_rows(finished[0] / FILE), strict=True
    ):
        for radius, said in zip(RADII, row.verdicts, strict=True):
            if said != "undecided":
                assert (fixed.radius >= radius) == (said == "yes")


@pytest.mark.parametrize("keep", [0, 5, 300, 10**6])
def test_a_table_that_is_cut_anywhere_resumes(home, data, finished, tmp_path, keep):
    shutil.copytree(finished[0], tmp_path / "run")
    path = tmp_path / "run" / FILE
    path.write_bytes(path.read_bytes()[:keep])
    metrics = run_certification(deciding(home), tmp_path / "run", resume=True, images=data)
    assert table(tmp_path / "run") == table(finished[0])
    assert {**metrics, "seconds": 0} == {**finished[1], "seconds": 0}


def test_a_killed_process_resumes(home, data, tmp_path):
    """SIGKILL in the middle of its work; other batches change nothing either."""
    save(data, tmp_path / "data.npz")
    words = ["certify", f"{home / 'mine.py'}:slow", "--data", "data.npz", "--n", "300"]
    words += ["--n0", "20", "--sigma", "0.3", "--decide", "0.05", "--decide", "0.3", "--json"]
    command = [sys.executable, "-m", "zopde.cli.app", *words, "--out", "run", "--batch", "64"]
    plain = {"cwd": tmp_path, "env": {**os.environ, "OMP_NUM_THREADS": "1"}}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, **plain)
    path = tmp_path / "run" / FILE
    deadline = time.monotonic() + 120
    while not (path.exists() and len(read_rows(path)) >= 3) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    before = table(tmp_path / "run")
    assert 4 <= len(before) < 25
    again = subprocess.run([*command, "--resume"], check=True, capture_output=True, **plain)
    assert json.loads(again.stdout)["verdicts"][0]["radius"] == 0.05
    run_certification(deciding(home, n=300, batch=7), tmp_path / "whole", images=data)
    assert table(tmp_path / "run") == table(tmp_path / "whole")
    assert table(tmp_path / "run")[: len(before)] == before


def test_the_report_and_the_attack_take_it(home, data, finished, tmp_path):
    copy = shutil.copytree(finished[0], tmp_path / "copy")
    found = attack_certificates(copy, images=data, model=f"{home / 'mine.py'}:bright")
    held = [row for row in read_rows(copy / FILE) if row.prediction >= 0]
    assert found["points"] == len(held)
    html = write_report([copy]).read_text()
    assert "--decide 0.05" in html
    assert "--decide 0.3" in html
    assert f"{finished[1]['answers']['mean']:,.0f} on average" in html


def test_what_cannot_be_decided_or_shown_raises(home, data, finished, tmp_path):
    for change, said in (
        ({"decide": (-1.0,)}, "decide: got .* each a number in"),
        ({"decide": (0.1, 0.1)}, "each once"),
        ({"decide": (0.1, 5.0)}, "radius: got 5, for which .* are the fewest"),
        ({"n": 10}, r"radius: got 0.05, for which \d+ equal answers are the fewest"),
    ):
        with pytest.raises(InputError, match=said):
            deciding(home, **change)
    with pytest.raises(InputError, match=r"radius: got 0.1, .* decided: 0.05, 0.3"):
        run_certification(deciding(home), tmp_path / "run", images=data, at=(0.1,))
    assert not (tmp_path / "run").exists()
    with pytest.raises(InputError, match="'decide'"):
        run_certification(deciding(home, decide=(0.05,)), finished[0], resume=True, images=data)


@pytest.mark.parametrize(
    ("old", "new"), [("\tyes,", "\tyse,"), ("yes,no", "yes"), ("\tverd", "\t")]
)
def test_a_table_of_other_verdicts_raises(home, data, finished, tmp_path, old, new):
    copy = shutil.copytree(finished[0], tmp_path / "copy")
    text = (copy / FILE).read_text()
    assert old in text
    (copy / FILE).write_text(text.replace(old, new))
    with pytest.raises(InputError, match="table"):
        run_certification(deciding(home), copy, resume=True, images=data)


def test_settings_without_radii_are_as_before():
    assert CertifyConfig("model.safetensors").decide == ()

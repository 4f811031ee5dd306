"""A run goes on wherever its files lie; what decides its numbers is compared by content."""

import shutil
from pathlib import Path

import pytest

from zopde import InputError, load_config, run_correction, write_report
from zopde.studies.correct.study import STUDY
from zopde.studies.folder import read_record

FILES = Path(__file__).parents[2] / "docs" / "files"
SMALL = [
    *("data.train=2", "data.test=1", "corrector.sizes={width=3,depth=2}"),
    *('non.length="4 iterations"', 'run.labels=["SRC","NON"]', "training.unroll=2"),
]


def config(home, **tables):
    tables = {"solver": {"spec": str(home / "function.toml")}, **tables}
    return load_config("quick", None, [*SMALL, f'data.path="{home / "mine.nc"}"'], tables)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A solver as a function, in a table, and data of its own, in a folder `a`."""
    folder = tmp_path / "a"
    folder.mkdir()
    for file in FILES.glob("*.*"):
        shutil.copy(file, folder)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    exec(compile((FILES / "data.py").read_text(), "data", "exec"), {"__name__": "data"})
    monkeypatch.chdir(tmp_path)
    run_correction(config(Path("a")), Path("a/run"))
    return tmp_path


def test_the_same_files_by_another_path_resume(home, monkeypatch):
    monkeypatch.chdir(home / "a")
    run_correction(config(Path()), Path("run"), resume=True)
    monkeypatch.chdir(home)
    shutil.move("a", "b")
    run_correction(config(Path("b")), Path("b/run"), resume=True)


@pytest.mark.parametrize("changed", ["function.py", "function.toml"])
def test_other_code_by_the_same_path_raises(home, changed):
    with (home / "a" / changed).open("a") as file:
        file.write("\n# another line\n")
    with pytest.raises(InputError, match=r"solver 'a/function.toml': got other numbers"):
        run_correction(config(Path("a")), Path("a/run"), resume=True)


def test_the_record_of_an_earlier_version_is_read(home):
    """Before, no record named its study, and the way of the interface cut was its kind."""
    record = home / "a" / "run" / "config.toml"
    text = record.read_text()
    assert text.startswith('study = "correct"\n')
    assert 'way = "auto"' in text
    old = text.replace('study = "correct"\n', "").replace('way = "auto"', 'kind = "amortised"')
    record.write_text(old)
    assert read_record(STUDY, record).interface.way == "bank"
    assert write_report([home / "a" / "run"]).exists()
    tables = {"interface": {"way": "bank"}}
    run_correction(config(Path("a"), **tables), Path("a/run"), resume=True)


def test_the_record_of_a_run_given_as_its_config_repeats_it_exact(home):
    record = home / "a" / "run" / "config.toml"
    assert load_config(file=record) == read_record(STUDY, record)


def test_a_record_of_another_study_is_no_run_of_this_one(home):
    record = home / "a" / "run" / "config.toml"
    record.write_text(record.read_text().replace('study = "correct"', 'study = "classify"'))
    with pytest.raises(InputError, match="files of no zopde run"):
        run_correction(config(Path("a")), Path("a/run"), overwrite=True)

"""A class or function of the user's own in a run that goes on: its code counts, not its path."""

import sys

import pytest

from zopde import InputError, run_classification
from zopde.files import identity_of as digest
from zopde.studies.classifiers import content_of, identity_of
from zopde.studies.classify import load_classification

NETWORK = """
from torch import nn
import beside

class Net(nn.Sequential):
    def __init__(self, channels, classes, **sizes):
        super().__init__(nn.Flatten(), nn.Linear(channels * 64, classes))

class Other(Net):
    pass

def scores(images):
    return images.flatten(1)[:, :3]
"""


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine.py").write_text(NETWORK)
        (tmp_path / name / "beside.py").write_text("width = 3\n")
    return tmp_path


def test_a_classification_goes_on_with_the_same_network_alone(home):
    def run(where, name="Net", **how):
        changes = [f'network.kind="{home / where}/mine.py:{name}"', 'run.methods=["FO"]']
        changes += ['training.length="1 epoch"', 'training.warmup="0 epochs"']
        run_classification(load_classification("quick", None, changes), home / "run", **how)

    run("here")
    run("there", resume=True)
    with pytest.raises(InputError, match=r"network .*mine\.py:Other': got other"):
        run("there", "Other", resume=True)
    for name in ("mine.py", "beside.py"):
        content = (home / "there" / name).read_text()
        (home / "there" / name).write_text(f"{content}# edited\n")
        with pytest.raises(InputError, match=r"network .*mine\.py:Net'.*--overwrite"):
            run("there", resume=True)
        (home / "there" / name).write_text(content)
    run("there", overwrite=True)


@pytest.mark.parametrize("edited", ["mine.py", "beside.py"])
def test_a_black_box_is_its_code_and_what_that_imports(home, edited, monkeypatch):
    here, there = (f"{home / name}/mine.py:scores" for name in ("here", "there"))
    record = home / "digest"
    before = content_of(here, record), identity_of(here)
    assert content_of(there, record) == before[0]
    module = type("mine", (), {"__file__": str(home / "here" / "mine.py")})
    monkeypatch.setitem(sys.modules, "package.mine", module)
    of_module = content_of("package.mine:scores", record)
    with (home / "here" / edited).open("a") as file:
        file.write("# edited\n")
    assert content_of(here, record) != before[0]
    assert identity_of(here) != before[1]
    assert content_of("package.mine:scores", record) != of_module


def test_the_record_of_a_run_before_what_a_file_imports_counted(home):
    spec, record = f"{home}/here/mine.py:scores", home / "digest"
    own = [home / "here" / "mine.py"]
    for old in (digest(f"{spec} logits", own), digest("scores", own)):
        record.write_text(f"{old}\n")
        assert content_of(spec, record) == old

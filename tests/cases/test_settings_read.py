"""Settings files, tables, grids, devices and sizes that a user may well bring."""

import json
import re
import sys
from pathlib import Path

import pytest
import torch
from shifting import STEP, TABLE

from zopde import Grid, InputError, Trajectories, load_config, load_solver, save_trajectories
from zopde.cli.app import _run
from zopde.grid import as_grid
from zopde.studies.classify import load_classification
from zopde.studies.correct.open import open_solver
from zopde.studies.defend import load_defence
from zopde.studies.run import study_named
from zopde.validate import check_device, checked


@pytest.fixture
def case(tmp_path, monkeypatch):
    """Write the table of a solver of so many cells, in a folder that is the working folder."""
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(STEP)

    def write(*shape):
        text = TABLE.format(shape=list(shape), extent=[1.0] * len(shape))
        Path("case.toml").write_text(text)
        return "case.toml"

    return write


@pytest.fixture
def zopde(monkeypatch, capsys):
    """Type a command: its exit code, what it printed, what it complained of."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["zopde", *map(str, words)])
        code = _run()
        shown = capsys.readouterr()
        lines = [line for line in shown.err.splitlines() if line.startswith("zopde: ")]
        return code, shown.out, lines

    return run


@pytest.mark.parametrize("load", [load_config, load_classification, load_defence])
@pytest.mark.parametrize("value", [1, "x", True, [1], 0.5])
def test_a_table_is_not_replaced_by_a_value(load, value, tmp_path):
    text = json.dumps(value)
    for table in ("zo", "run", "data", "training"):
        with pytest.raises(InputError, match=f"{table}: got .* expected a table"):
            load(changes=[f"{table}={text}"])
        with pytest.raises(InputError, match="a table"):  # the option would have hidden it
            load(changes=[f"{table}={text}"], tables={table: {"seed": 1}})
        with pytest.raises(InputError, match="a table"):
            load(changes=[f"{table}.x=1", f"{table}={text}"])
        (tmp_path / "mine.toml").write_text(f"{table} = {text}\n")
        with pytest.raises(InputError, match="a table"):
            load(file=tmp_path / "mine.toml", changes=[f"{table}.mu=1e-3"])


@pytest.mark.parametrize(
    "change",
    ["corrector.sizes=3", "interface.labels=1", "interface.labels.ZO-bank=1", "solver.options=[]"],
)
def test_nor_is_a_table_within_a_table(change):
    with pytest.raises(InputError, match="a table"):
        load_config(changes=[change])
    with pytest.raises(InputError, match="a table"):
        load_config(changes=[change, f"{change.partition('=')[0]}.more=1"])


def test_one_assignment_sets_one_setting():
    with pytest.raises(InputError, match=r"zo\.mu"):
        load_config(changes=["zo.mu=1e-3\nsparsity=0.5"])


CONTENT = "[zo]\nmu = 2e-3\n"


@pytest.mark.parametrize(
    "encode",
    [
        lambda text: text.encode(),
        lambda text: text.encode("utf-8-sig"),
        lambda text: text.replace("\n", "\r\n").encode(),
        lambda text: text.replace("\n", "\r\n").encode("utf-8-sig"),
    ],
)
def test_a_file_of_any_editor_is_read(encode, case):
    Path("mine.toml").write_bytes(encode(CONTENT))
    assert load_config(file=Path("mine.toml")).zo.mu == 2e-3
    Path("case.toml").write_bytes(encode(Path(case(4, 6)).read_text()))
    assert load_solver("case.toml").grid.shape == (4, 6)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (CONTENT.encode("utf-16"), "no UTF-8"),
        ('[zo]\nnote = "\u00e9"'.encode("latin-1"), "no UTF-8"),
        (b"\xef\xbb\xbf\xef\xbb\xbf[zo]", "not valid TOML"),
        (b"[zo]\rmu = 1", "not valid TOML"),
        (b"[zo]\nmu = 1\nmu = 2", "not valid TOML"),
        (b"[zo]\n[zo]", "not valid TOML"),
        (b"a = " + b"[" * 10_000, "TOML"),
        (b"a = " + b"9" * 5000, "readable TOML"),
        (b"\0", "not valid TOML"),
        (b"[[zo]]\nmu = 1", "zo: got .* a table"),
        (b"[[solver]]\nspec = 'burgers'", "solver: got .* a table"),
        (b"# " + b"x" * 2**24, "16 MiB"),
    ],
)
def test_a_file_that_is_none_is_refused_in_a_line(content, words, case):
    Path("mine.toml").write_bytes(content)
    with pytest.raises(InputError, match=words) as caught:
        load_config(file=Path("mine.toml"))
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError):
        load_solver("mine.toml")


def test_a_file_may_be_empty_but_not_a_folder_or_shut(tmp_path):
    (tmp_path / "empty.toml").write_text("")
    assert load_config(file=tmp_path / "empty.toml") == load_config()
    with pytest.raises(InputError, match="a key `solver`"):
        load_solver(str(tmp_path / "empty.toml"))
    (tmp_path / "folder.toml").mkdir()
    for read in (lambda p: load_config(file=p), lambda p: load_solver(str(p))):
        for name in ("folder.toml", "none.toml", "empty.toml/x.toml", "x" * 5000 + ".toml"):
            with pytest.raises(InputError, match="file: got"):
                read(tmp_path / name)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"channels": ()}, "grid channels: got"),
        ({"channels": ("u", "u")}, "each once"),
        ({"channels": ("",)}, "each once"),
        ({"channels": "u"}, "grid channels: got 'u', expected a list"),
        ({"forcing_channels": ("f", "f")}, "grid forcing_channels"),
        ({"dims": ("y", "y")}, "grid dims"),
        ({"dims": "yx"}, "grid dims: got 'yx', expected a list"),
        ({"dims": ("x",)}, "one cell count and one length per dimension"),
        ({"units": 5}, "grid units: got 5, expected a table"),
        ({"units": {"u": 1}}, "grid units"),
        ({"units": {"v": "m/s"}}, "grid unit of: got 'v'"),
        ({"shape": (4, True)}, "grid shape"),
        ({"shape": (4.0, 4.0)}, "grid shape"),
        ({"shape": (10**6, 10**6)}, "GiB of this machine"),
        ({"shape": (2**62, 2**62)}, "GiB of this machine"),
        ({"shape": (), "extent": ()}, "per dimension|grid dims"),
        ({"extent": (1.0, float("inf"))}, "grid extent"),
        ({"dt": True}, "grid dt"),
        ({"dt": "0.1"}, "grid dt"),
    ],
)
def test_a_grid_that_is_none_is_refused(changes, words):
    given = {"shape": (4, 4), "extent": (1.0, 1.0), "dt": 0.1, "channels": ("u",)} | changes
    with pytest.raises(InputError, match=words):
        Grid(**given)
    table = {key: list(v) if isinstance(v, tuple) else v for key, v in given.items()}
    with pytest.raises(InputError, match=words):
        as_grid(table)


@pytest.mark.parametrize(("axes", "dims"), [(1, ("x",)), (2, ("y", "x")), (3, ("z", "y", "x"))])
def test_dims_have_the_usual_names(axes, dims):
    grid = Grid((4,) * axes, (1.0,) * axes, 0.1, ("u",), units={"u": "m/s", "time": "s"})
    assert grid.dims == dims
    assert grid == Grid([4] * axes, [1] * axes, 0.1, ["u"], units={"u": "m/s", "time": "s"})


def test_a_grid_of_four_dimensions_names_them():
    with pytest.raises(InputError):
        Grid((4,) * 4, (1.0,) * 4, 0.1, ("u",))
    assert Grid((4,) * 4, (1.0,) * 4, 0.1, ("u",), dims=("w", "z", "y", "x")).shape == (4,) * 4


@pytest.mark.parametrize("value", ['"false"', '"no"', '"0"', '"off"', "0", "1", '""', "[]", "0.0"])
def test_a_boolean_of_a_table_is_a_boolean(value, case):
    text = Path(case(4, 6)).read_text()
    Path("case.toml").write_text(f"batched = {value}\n{text}")
    with pytest.raises(InputError, match=r"option 'batched' .* expected true or false"):
        load_solver("case.toml")


def test_cells_that_contradict_the_solver_are_refused(case):
    spec = case(16, 16)
    assert open_solver(load_config(changes=[f"solver.spec={spec}"])).grid.shape == (16, 16)
    for coarse in ([16, 16], [32, 32], [8, 8], [16]):
        config = load_config(changes=[f"solver.spec={spec}", f"data.coarse={coarse}"])
        if coarse == [16, 16]:
            assert open_solver(config).grid.shape == (16, 16)
        else:
            with pytest.raises(InputError, match=r"data.coarse: got .* expected \[16, 16\]"):
                open_solver(config)


def test_a_solver_of_ones_own_data_has_the_usual_cells(toy_spec):
    for spec in (toy_spec, "burgers"):
        assert open_solver(load_config(changes=[f"solver.spec={spec}"])).grid.shape == (32, 32)
    config = load_config(changes=[f"solver.spec={toy_spec}", "data.coarse=[8]"])
    with pytest.raises(InputError, match=r"data\.coarse: got \[8\], .* each of y, x"):
        open_solver(config)


@pytest.mark.parametrize(
    "name",
    ["cpu:9", "cpu:-1", "cpu:", "CPU", " cpu", "cuda:99", "mps", "meta", "", "gpu", "xla", "hpu"],
)
def test_a_device_is_one_that_is_here(name):
    with pytest.raises(InputError, match=r"run\.device: got .* a device that torch has"):
        load_config(changes=[f"run.device={json.dumps(name)}"])
    with pytest.raises(InputError, match="device"):
        check_device("device", name)


def test_the_processor_is_here():
    assert load_config(changes=["run.device=cpu:0"]).run.device == "cpu:0"


@pytest.mark.parametrize(
    "change",
    [
        'training.length="1000000000000 iterations"',
        f'training.length="{"9" * 5000} epochs"',
        'training.length="1e12 iterations"',
        'training.length="\u0661 epoch"',  # an Arabic digit
        "training.lr=1e30",
        "non.lr=1e30",
        "zo.mu=1e30",
        "zo.mu=1e-300",
        "interface.mu=1e30",
        "training.batch=0",
        "training.batch=1000000000000",
        "run.workers=100000",
        "run.threads=100000",
        "run.threads=0",
        "run.timeout=1e12",
        "corrector.sizes={width=10000000}",
        "corrector.sizes={depth=10000000}",
    ],
)
def test_what_no_machine_can_do_is_no_setting(change):
    with pytest.raises(InputError, match=f"^{change.partition('=')[0]}: got"):
        load_config(changes=[change])


TINY = ["data.steps=4", "data.train=2", "data.test=1", "training.unroll=2", "data.skip=0"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("data.fine=[1000000,1000000]", "GiB of this machine"),
        ("data.coarse=[1000000,1000000]", "GiB of this machine"),
        ("data.train=1000000000", "reference data: got .* GiB of this machine"),
        ("data.steps=1000000000", "reference data: got .* GiB of this machine"),
        ("corrector.sizes={width=10000,depth=999}", "corrector.sizes: got .* GiB of this machine"),
    ],
)
def test_memory_that_no_machine_has_is_refused_first(
    change, words, toy_spec, tmp_path, monkeypatch
):
    monkeypatch.setattr("zopde.memory.os.sysconf", lambda _: 2**17)  # 16 GiB
    config = load_config(
        changes=[f"solver.spec={toy_spec}", *TINY, "data.coarse=[8,8]", "data.fine=[8,8]", change]
    )
    study = study_named("correct")
    with pytest.raises(InputError, match=words):
        study.open(config, tmp_path / "run", _Silent())
    assert not list(tmp_path.iterdir())


class _Silent:
    def stage(self, title, total):
        from zopde.progress import Silent

        return Silent().stage(title, total)

    def note(self, text):
        pass


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["corect"], "No such command: got corect, .*did you mean 'correct'"),
        (["correct"], "Missing argument .*: got nothing, expected what `.*correct --help` says"),
        (["correct", "burgers", "--dri-run"], "No such option: got --dri-run, .*--dry-run"),
        (["certify", "m", "--n", "many"], "Invalid value for '--n': got no int"),
        (["certify", "m", "--n"], "requires an argument: got nothing, expected"),
        (["correct", "burgers", "more"], "arguments: got also more, expected"),
        (["correct", "burgers", "--dry-run=yes"], "--dry-run: got a value, expected"),
        (
            ["correct", "burgers", "--set", "zo=1", "--chunk", "3"],
            "setting zo: got 1, expected a table",
        ),
        (["correct", "--set", "solver=1", "burgers"], "setting solver: got 1, .*a table"),
        (["correct", "burgers", "--out", "x" * 5000], "file: got File name too long"),
        (["report", "\0"], "got"),
    ],
)
def test_a_command_line_is_refused_by_what_it_says(words, told, zopde, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, shown, lines = zopde(*words)
    assert (code, shown, len(lines)) == (2, "", 1)
    assert re.search(told, lines[0])
    assert not list(tmp_path.iterdir())


def test_a_function_asks_of_its_arguments_what_it_declares():
    @checked
    def mix(count: int, share: float = 0.5, *rest: int, flag: bool = False, **more: int):
        return count, share, rest, flag, more

    assert mix(3, 1, "any", flag=True, other="any") == (3, 1, ("any",), True, {"other": "any"})
    for wrong in (
        {"count": 1.0},
        {"count": True},
        {"count": 1, "share": "1"},
        {"count": 1, "flag": 0},
    ):
        with pytest.raises(InputError, match=f"{list(wrong)[-1]}: got"):
            mix(**wrong)
    with pytest.raises(TypeError, match="missing"):
        mix()


def test_a_run_of_an_earlier_version_resumes_whatever_its_unused_cells_were(case, zopde):
    spec = case(8, 8)
    states = torch.rand(3, 6, 1, 8, 8)
    save_trajectories(Trajectories(load_solver(spec).grid, states), "mine.nc")
    words = ["--data", "mine.nc", "--set", "data.train=2", "--set", "data.test=1", "--out", "run"]
    words += ["--set", "training.unroll=2", "--set", 'run.labels=["SRC"]']
    assert zopde("correct", spec, *words)[0] == 0
    record = Path("run/config.toml")
    assert "coarse = []" in record.read_text()
    record.write_text(record.read_text().replace("coarse = []", "coarse = [32, 32]"))
    assert zopde("correct", spec, *words, "--resume")[0] == 0
    code, _, lines = zopde("correct", spec, *words, "--resume", "--set", "data.coarse=[16,16]")
    assert code == 2
    assert "data.coarse: got [16, 16], expected [8, 8]" in lines[0]

"""Help, completion and `zopde doctor`: quick, and saying what they should."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import typer.main

import zopde
from zopde import doctor
from zopde.cli.app import app
from zopde.cli.options import solver_names
from zopde.cli.study import preset_names
from zopde.plugins import find_solvers
from zopde.studies.run import study_named

HEAVY = {"torch", "scipy", "xarray", "matplotlib", "numpy", "phi", "PIL", "h5netcdf", "jaxtyping"}


def imported_by(words, cwd):
    """Which heavy packages a command loads."""
    script = (
        "import sys, contextlib\n"
        f"sys.argv = ['zopde', *{words!r}]\n"
        "from zopde.cli.app import main\n"
        "with contextlib.suppress(SystemExit):\n"
        "    main()\n"
        "print('LOADED', *sorted(m for m in sys.modules if '.' not in m))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=cwd, capture_output=True, text=True, check=True
    )
    loaded = done.stdout.splitlines()[-1].split()
    assert loaded[0] == "LOADED"
    return set(loaded) & HEAVY


@pytest.mark.parametrize("words", [["--help"], ["correct", "--help"], ["data", "--help"]])
def test_help_loads_nothing_heavy(words, tmp_path):
    assert imported_by(words, tmp_path) == set()


@pytest.mark.skipif(
    len(doctor.examine()["machine"]["devices"]) > 1, reason="torch is asked for devices"
)
def test_doctor_loads_nothing_heavy(tmp_path):
    assert imported_by(["doctor"], tmp_path) == set()


def test_version_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["zopde", "--version"])
    from zopde.cli.app import main

    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert capsys.readouterr() == (f"zopde {zopde.__version__}\n", "")


ELSEWHERE = """
import sys
sys.platform = {system!r}
sys.modules.update(fcntl=None, resource=None)  # Windows has neither
"""


@pytest.mark.parametrize("system", ["darwin", "freebsd14"])
@pytest.mark.parametrize(
    "use",
    [
        "import zopde; zopde.rge",
        "from zopde import load_solver",
        "import zopde.studies.folder",
        "sys.argv = ['zopde', 'doctor']; from zopde.cli.app import main; main()",
        "sys.argv = ['zopde']; from zopde.cli.app import main; main()",
    ],
)
def test_another_operating_system_is_one_line(system, use, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE.format(system=system) + use],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    line = done.stderr.splitlines()[-1]
    assert f"operating system: got {system!r}, expected Linux; on Windows use WSL" in line
    assert "ImportError" not in done.stderr
    if "main()" in use:
        assert (done.returncode, done.stdout) == (2, "")
        assert len(done.stderr.splitlines()) == 1


def commands(group, path=()):
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield " ".join((*path, name)), command


def test_every_option_has_help_and_a_default():
    checked = 0
    for name, command in commands(typer.main.get_command(app)):
        assert command.help, name
        for parameter in command.params:
            if parameter.param_type_name != "option" or parameter.name == "help":
                continue
            where = f"{name} {parameter.opts[0]}"
            assert parameter.help, where
            shown = parameter.show_default and parameter.default is not None
            said = "default" in parameter.help.lower()
            assert parameter.required or parameter.is_flag or shown or said, where
            checked += 1
    assert checked > 40


def test_completion_knows_the_solvers_exact():
    assert list(solver_names("")) == [info.name for info in find_solvers()]
    assert list(solver_names("wa")) == ["wake"]


@pytest.mark.parametrize("name", ["correct", "classify", "defend", "prompt"])
def test_completion_knows_the_presets_exact(name):
    assert set(preset_names(name)) == set(study_named(name).presets)
    assert list(preset_names(name, "qui")) == ["quick"]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("zopde rep", "report"),
        ("zopde correct bur", "burgers"),
        ("zopde correct x --preset p", "paper"),
    ],
)
def test_the_shell_completes(line, expected, tmp_path):
    environment = {
        **os.environ,
        "_ZOPDE_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(line.split()) - 1),
    }
    script = "import sys; sys.argv = ['zopde']; from zopde.cli.app import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", script],
        check=False,
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == [expected], done.stderr


def test_doctor_tells_what_is_there_and_what_is_not(monkeypatch):
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    found = doctor.examine()
    parts = {part["name"]: part for part in found["parts"]}
    assert found["sound"]
    assert parts["torch"]["needed"]
    assert parts["torch"]["found"].startswith("2.")
    assert parts["torch"]["remedy"] == ""
    assert not parts["icoFoam"]["found"]
    assert "install" in parts["icoFoam"]["remedy"]
    assert found["machine"]["zopde"] == zopde.__version__
    assert found["machine"]["cores"] >= 1
    assert "cpu" in found["machine"]["devices"]
    assert json.loads(json.dumps(found))["sound"] is True


def test_versions_leave_out_what_is_not_installed():
    found = doctor.versions("numpy", "no-such-package")
    assert list(found) == ["zopde", "python", "torch", "numpy"]
    assert found["torch"] == torch.__version__


def test_a_needed_package_that_is_missing_is_exit_code_1(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "_version", lambda name: "" if name == "safetensors" else "1.0")
    monkeypatch.setattr(sys, "argv", ["zopde", "doctor", "--json"])
    from zopde.cli.app import main

    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    found = json.loads(capsys.readouterr().out)
    missing = [part for part in found["parts"] if part["needed"] and not part["found"]]
    assert [(part["name"], part["remedy"]) for part in missing] == [
        ("safetensors", "pip install safetensors")
    ]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["report"], "Missing argument"),
        (["report", "nowhere"], "run folder: got nowhere, no folder"),
        (["report", "empty"], "without a config.toml"),
        (["report", "empty", "--out"], "requires an argument"),
        (["doctor", "--jsn"], "No such option"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(words, expected, tmp_path, monkeypatch, capsys):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["zopde", *words])
    from zopde.cli.app import main

    with pytest.raises(SystemExit) as ended:
        main()
    shown = capsys.readouterr()
    assert ended.value.code == 2
    assert shown.out == ""
    (line,) = shown.err.splitlines()
    assert expected in line
    assert list(Path("empty").iterdir()) == []


def test_tables_show_brackets_as_they_are(capsys):
    from zopde.cli.console import table

    table(("a", "b"), [["x", 'pip install "zopde[dask]"']])
    assert "zopde[dask]" in capsys.readouterr().out

"""A full disk, a permission, a limit, a kill: one line, nothing half written, and resume works."""

import ast
import errno
import os
import resource
import socket
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch

import zopde.files
from zopde import InputError, Trajectories, save_trajectories
from zopde.errors import refusal
from zopde.files import append_text, replacing, save_tensors, write_bytes, write_text
from zopde.interface import JacobianStore, Probing, Step
from zopde.report.panels import save
from zopde.studies.correct import load_config, run_correction
from zopde.studies.model_file import write_model

ROOT = Path(__file__).parents[2]
FEW = [
    'run.labels=["SRC","NON","ZO-weights"]',
    'non.length="6 iterations"',
    'training.length="4 iterations"',
    "run.checkpoint_seconds=0.001",
]


@pytest.fixture
def config(toy_spec, tiny):
    return load_config("quick", None, [*tiny, *FEW], {"solver": {"spec": toy_spec}})


def numbers_of(folder):
    """What a run is for, byte by byte."""
    names = ("model.safetensors", "rollout.nc", "reference.nc")
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.name in names
    }


def left_over(folder):
    return [path for path in folder.rglob("*") if path.name.endswith(".partial")]


@contextmanager
def limited(size):
    """No file may grow beyond so many bytes: a write stops in the middle, as on a full disk."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


def once(config, folder, **how):
    """What a run says that ends early; "" if it does not."""
    try:
        run_correction(config, folder, **how)
    except InputError as error:
        return str(error)
    return ""


def resumed(config, folder, said):
    assert said.startswith("file ")
    assert str(folder.parent) in said
    assert "make room on its disk" in said
    assert "\n" not in said
    assert not left_over(folder.parent)
    run_correction(config, folder, resume=True)
    return numbers_of(folder)


def test_a_disk_that_is_full_at_ten_places_loses_nothing(config, tmp_path, monkeypatch):
    whole, real, calls = tmp_path / "whole" / "run", os.fsync, []
    monkeypatch.setattr(os, "fsync", lambda handle: (calls.append(handle), real(handle)))
    run_correction(config, whole)
    expected, last = numbers_of(whole), len(calls) - 1
    for number in range(5):  # that many names reach the disk, and then no more
        folder, left = tmp_path / str(number) / "run", [number * last // 5]

        def full(handle, left=left):
            left[0] -= 1
            if left[0] < 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(handle)

        monkeypatch.setattr(os, "fsync", full)
        said = once(config, folder)
        monkeypatch.setattr(os, "fsync", real)
        assert resumed(config, folder, said) == expected
    sizes = sorted({path.stat().st_size for path in whole.parent.rglob("*") if path.is_file()})
    for number in range(5):  # files up to that size are written, and no larger one
        folder = tmp_path / f"size {number}" / "run"
        with limited(sizes[number * (len(sizes) - 1) // 5]):
            said = once(config, folder)
        assert resumed(config, folder, said) == expected


def step_of(toy):
    solver = toy.at((4, 4))
    state, forcing = torch.randn(2, 1, 2, 4, 4)
    return Step(solver, state, forcing, solver.step(state, forcing))


def figure():
    from matplotlib.figure import Figure

    figure = Figure()
    figure.subplots().plot([1, 2, 3])
    return figure


WRITERS = {
    "text": lambda path, toy: write_text(path, "a" * 9000),
    "bytes": lambda path, toy: write_bytes(path, bytes(9000)),
    "appended": lambda path, toy: append_text(path, "a" * 9000),
    "tensors": lambda path, toy: save_tensors(path, {"a": torch.ones(3000)}),
    "model": lambda path, toy: write_model(path, "corrector", {}, {"a": torch.ones(3000)}),
    "data": lambda path, toy: save_trajectories(
        Trajectories(toy.grid, torch.ones(1, 9, 2, 8, 8), torch.ones(1, 9, 2, 8, 8)), path
    ),
    "figure": lambda path, toy: save(figure(), path),
    "bank": lambda path, toy: JacobianStore(path.parent).fetch(
        step_of(toy), Probing(1e-3, states=64)
    ),
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("room", [0, 100, 4000])
def test_every_writer_leaves_the_old_file_or_the_new_one(tmp_path, toy, name, room):
    path = tmp_path / "file"
    if name != "appended":
        path.write_bytes(b"as it was")
    with limited(room), pytest.raises(InputError, match="File too large") as caught:
        WRITERS[name](path, toy)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
    assert name == "appended" or path.read_bytes() == b"as it was"
    WRITERS[name](path, toy)


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 60 KiB of its own; only root may have one."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=60k", "zopde-test", str(place)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("no right to mount a small disk")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def command(*words, cwd):
    run = [sys.executable, "-m", "zopde.cli.app", *map(str, words)]
    return subprocess.run(run, cwd=cwd, check=False, capture_output=True, text=True)


def test_a_full_disk_ends_the_command_with_one_line(small_disk, toy_spec, tiny, tmp_path):
    changes = [word for change in tiny for word in ("--set", change)]
    larger = ["--set", "data.coarse=[16,16]", "--set", "data.fine=[32,32]"]
    path = small_disk / "data.nc"
    done = command("simulate", toy_spec, *changes, *larger, "--out", path, cwd=tmp_path)
    assert done.returncode == 2
    assert f"zopde: file {path}: got No space left on device" in done.stderr
    assert list(small_disk.iterdir()) == []
    only = ["--set", 'run.labels=["SRC"]']
    done = command("correct", toy_spec, *changes, *only, "--out", small_disk / "run", cwd=tmp_path)
    assert done.returncode == 2
    assert "No space left on device" in done.stderr.splitlines()[-1]
    assert not left_over(small_disk)


NUMBERS = {
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room",
    errno.EFBIG: "make room",
    errno.EACCES: "the right to write",
    errno.EPERM: "the right to write",
    errno.EROFS: "the right to write",
    errno.EMFILE: "ulimit -n",
    errno.ENFILE: "ulimit -n",
    errno.EIO: "the disk fails",
}


@pytest.mark.parametrize("number", NUMBERS)
def test_what_the_system_refuses_is_one_line_with_a_remedy(tmp_path, monkeypatch, number, capsys):
    from zopde.cli import app

    error = OSError(number, os.strerror(number), str(tmp_path / "other"))

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(zopde.files, "_to_disk", fail)
    with pytest.raises(InputError, match=f"file {tmp_path}/a: got {os.strerror(number)}") as caught:
        write_text(tmp_path / "a", "text")
    assert NUMBERS[number] in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(app, "app", fail)  # wherever else it is met
    assert app._run() == 2
    said = capsys.readouterr().err
    assert f"file {tmp_path}/other: got {os.strerror(number)}" in said
    assert said.count("\n") == 1


def test_other_errors_are_not_the_disks(tmp_path):
    assert refusal(FileNotFoundError(errno.ENOENT, "gone", "a")) is None
    assert refusal(OSError("of nobody")) is None
    assert refusal(ValueError(errno.ENOSPC)) is None


def test_the_limit_of_open_files_is_named(tmp_path):
    old, held = resource.getrlimit(resource.RLIMIT_NOFILE), []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, old[1]))
        with suppress(OSError):
            while True:
                held.append(os.open("/dev/null", os.O_RDONLY))
        with pytest.raises(InputError, match="ulimit -n"):
            append_text(tmp_path / "a", "text")
    finally:
        for handle in held:
            os.close(handle)
        resource.setrlimit(resource.RLIMIT_NOFILE, old)
    write_text(tmp_path / "a", "text")


def test_what_the_dead_left_is_taken_away_and_nothing_else(tmp_path):
    ended = subprocess.Popen(["true"])
    ended.wait()
    host = socket.gethostname()
    dead = [f".data.nc.{ended.pid}@{host}.partial", f".config.toml.{ended.pid}.partial"]
    others = [
        f".data.nc.{os.getppid()}@{host}.partial",
        f".data.nc.{ended.pid}@elsewhere.example.org.partial",
        "mine.partial",
        f"data.nc.{ended.pid}.partial",
        f".data.nc.{ended.pid}@{host}.partial.txt",
    ]
    for name in (*dead, *others):
        (tmp_path / name).write_text("half")
    write_text(tmp_path / "new.txt", "whole")
    assert {path.name for path in tmp_path.iterdir()} == {*others, "new.txt"}


KILLED = """
import os, signal, sys
from pathlib import Path
from zopde.files import replacing
with replacing(Path(sys.argv[1])) as partial:
    partial.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_after_a_kill_the_next_writer_cleans_up(tmp_path):
    path = tmp_path / "new" / "data.nc"
    subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
    assert len(left_over(tmp_path)) == 1
    write_text(path, "whole")
    assert list(path.parent.iterdir()) == [path]


def test_two_writers_of_one_name_do_not_meet(tmp_path):
    path = tmp_path / "a"
    with replacing(path) as outer:
        outer.write_text("outer")
        done = subprocess.run(
            [sys.executable, "-c", KILLED.replace("os.kill", "str or os.kill"), str(path)],
            check=False,
        )
        assert done.returncode == 0
        assert path.read_text() == "half"
    assert path.read_text() == "outer"


ELSEWHERE = {"to_netcdf", "save_file", "tofile", "savez", "savetxt", "truncate", "write_bytes"}


def test_every_file_is_written_through_one_door():
    """Whole or not at all: nobody else opens a file for writing, or lets a library do it."""
    found = []
    for path in (*ROOT.joinpath("zopde").rglob("*.py"), *ROOT.joinpath("cli").rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if path.name == "files.py":
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                owner = ast.unparse(node.func.value)
                modes = [a.value for a in node.args if isinstance(a, ast.Constant)]
                opens = node.func.attr == "open" and {"w", "wb", "a", "ab"} & {*map(str, modes)}
                library = node.func.attr in ELSEWHERE or f"{owner}.{node.func.attr}" in (
                    "torch.save",
                    "np.save",
                )
                if (opens and "partial" not in owner) or library:
                    found.append(f"{path.relative_to(ROOT)}: {owner}.{node.func.attr}")
    # A table of certificates is cut back to whole lines; what `fetch` downloads is checked first;
    # the pending lines of a history are no file.
    assert sorted(found) == [
        "zopde/data/fetch.py: path.open",
        "zopde/studies/certificates.py: os.truncate",
        "zopde/training/loop.py: self._pending.truncate",
    ]

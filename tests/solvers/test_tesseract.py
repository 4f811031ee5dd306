"""A component of Tesseract Core as a solver, and a solver of zopde as a component."""

import os
import pickle
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from zopde import Grid, InputError, SolverError, Trajectories, load_solver, save_trajectories
from zopde.errors import MistakeError
from zopde.identity import content_of
from zopde.studies.correct import load_config, run_correction

FILES = Path(__file__).parents[2] / "docs" / "files"
GRID = {"shape": [4, 6], "extent": [4.0, 6.0], "dt": 0.1, "channels": ["heat"]}
PAIR = {**GRID, "channels": ["a", "b"], "forcing_channels": ["f", "g"]}

COMPONENT = """
import numpy as np
from pydantic import BaseModel
from tesseract_core.runtime import Array, Float64, Int64
import helper


class InputSchema(BaseModel):
    {inputs}


class OutputSchema(BaseModel):
    {outputs}


def apply(inputs: InputSchema) -> OutputSchema:
    print("a component may print")
    {work}
"""
PLANE, FIELD = "Array[(None, None), Float64]", "Array[(None, None, None), Float64]"
DIFFUSE = "u = inputs.u; return OutputSchema(later=u + inputs.rate * (np.roll(u, 1, 1) - u))"


def test_without_the_package_one_line_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tesseract_core", None)
    with pytest.raises(InputError, match=r"api: got .*; pip install 'zopde\[tesseract\]'"):
        load_solver("tesseract", {"api": "a.py", "grid": GRID})


@pytest.fixture
def component(tmp_path):
    pytest.importorskip(
        "tesseract_core.runtime.serve", exc_type=ImportError
    )  # all of it: "tesseract-core[runtime]"
    (tmp_path / "helper.py").write_text("")

    def write(work=DIFFUSE, inputs=f"u: {FIELD}; rate: float", outputs=f"later: {FIELD}"):
        path = tmp_path / "component.py"
        path.write_text(COMPONENT.format(inputs=inputs, outputs=outputs, work=work))
        return path

    return write


def solver(path, grid=GRID, others=None, **options):
    others = {"rate": 0.5} if others is None else others
    what = {"input": "u", "output": "later", **options}
    return load_solver("tesseract", {"api": str(path), "grid": grid, "others": others, **what})


def states(channels=1, batch=3):
    return torch.randn(batch, channels, 4, 6, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("batched", [False, True])
def test_a_component_steps_every_state(batched, component, monkeypatch):
    work = DIFFUSE.replace("1, 1", "1, 2") if batched else DIFFUSE
    field = f"Array[{(None,) * (3 + batched)}, Float64]"
    path = component(work, f"u: {field}; rate: float", f"later: {field}")
    monkeypatch.chdir(path.parent)
    u = states()
    answer = solver(path.name, batched=batched, home=str(path.parent)).step(u)
    torch.testing.assert_close(answer, u + 0.5 * (u.roll(1, 2) - u))


def test_an_array_for_each_channel_and_a_forcing(component):
    inputs = "; ".join(f"{name}: {PLANE}" for name in ("north", "east", "wind", "rain"))
    work = "return OutputSchema(n=inputs.north + inputs.rain, e=inputs.east * inputs.wind)"
    path = component(work, inputs, f"n: {PLANE}; e: {PLANE}")
    names = {"input": ["north", "east"], "forcing": ["wind", "rain"], "output": ["n", "e"]}
    given, driven = states(2), states(2).flip(0)
    answer = solver(path, PAIR, {}, **names).step(given, driven)
    expected = [given[:, 0] + driven[:, 1], given[:, 1] * driven[:, 0]]
    torch.testing.assert_close(answer, torch.stack(expected, dim=1))


def test_what_a_component_raises_fails_its_state_alone(component):
    work = "if inputs.u[0, 0, 0] > 5: raise ValueError('no\\nconvergence')\n    " + DIFFUSE
    one, given = solver(component(work)), states()
    given[1, 0, 0, 0] = 9.0
    with pytest.raises(SolverError, match="no convergence") as caught:
        one.step(given)
    assert [failure.row for failure in caught.value.failures] == [1]
    assert caught.value.answers[[0, 2]].isfinite().all()
    assert not isinstance(caught.value, MistakeError)


@pytest.mark.parametrize(
    ("work", "outputs", "words"),
    [
        ("return {'later': inputs.u[:, 1:]}", f"later: {FIELD}", "an array of shape"),
        ("return {'later': inputs.u > 0}", f"later: {FIELD.replace('Float', 'Int')}", "int64"),
    ],
)
def test_an_answer_that_no_state_is_ends_a_run(work, outputs, words, component):
    with pytest.raises(MistakeError, match=words) as caught:
        solver(component(work, outputs=outputs)).step(states())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("work", "words"),
    [
        ("return OutputSchema(later=np.nan * inputs.u)", "not finite"),
        ("return OutputSchema(later=inputs.u[0])", "1 validation error for .*OutputSchema later"),
    ],
)
def test_an_answer_that_it_did_not_mean_is_a_failed_step(work, words, component):
    with pytest.raises(SolverError, match=words) as caught:
        solver(component(work)).step(states())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"input": "v"}, "input: got 'v', expected one of"),
        ({"output": "latr"}, "output: got 'latr', .*; did you mean 'later'"),
        ({"others": {}}, "others: got no value of rate"),
        ({"others": {"rate": 1.0, "rte": 1.0}}, "others: got 'rte'.*; did you mean 'rate'"),
        ({"input": ["u", "u"]}, r"input: got \['u', 'u'\], expected one name, or one for each of"),
        ({"forcing": "u"}, "forcing: got 'u', expected none"),
        ({"grid": PAIR}, "forcing: got '', expected one name, or one for each of"),
        ({"api": "nothing.py"}, r"api: got .*nothing.py \(FileNotFoundError: .*expected a tesser"),
        ({"api": "http://127.0.0.1:9"}, r"api: got http://127.0.0.1:9 \("),
        ({"input": 3}, "option 'input' of solver 'tesseract'"),
    ],
)
def test_what_will_not_do_is_one_line(options, words, component):
    with pytest.raises(InputError, match=words) as caught:
        solver(**{"path": component(), **options})
    assert "\n" not in str(caught.value)


def test_a_file_that_does_not_load_is_told_by_what_it_raised(component):
    path = component()
    path.write_text("import no_such_package\n" + path.read_text())
    with pytest.raises(InputError, match=r"api: got .*ModuleNotFoundError: No module named 'no_s"):
        solver(path)


def test_another_process_loads_its_own_and_an_edit_is_seen(component):
    path = component()
    one, options = solver(path), {"api": str(path), "home": ""}
    again = pickle.loads(pickle.dumps(one))
    assert again.step(states()).equal(one.step(states()))
    before = content_of("tesseract", options, one)
    (path.parent / "helper.py").write_text("changed = True\n")
    assert content_of("tesseract", options, one) != before


@pytest.mark.slow
def test_a_component_is_corrected(component, tmp_path):
    """The reference differs from it in the rate, and the first step shows it."""
    u, runs = states(batch=4).double(), []
    for _ in range(7):
        runs.append(u)
        u = u + 0.4 * (u.roll(1, 2) - u)
    grid = Grid(**{k: tuple(v) if isinstance(v, list) else v for k, v in GRID.items()})
    save_trajectories(Trajectories(grid, torch.stack(runs, dim=1)), tmp_path / "mine.nc")
    field = f"Array[{(None,) * 4}, Float64]"
    path = component(DIFFUSE.replace("1, 1", "1, 2"), f"u: {field}; rate: float", f"later: {field}")
    what = f'api="{path}", input="u", output="later", others={{rate=0.5}}, batched=true'
    table = 'shape=[4,6], extent=[4.0,6.0], dt=0.1, channels=["heat"]'
    changes = [f"solver.options={{{what}, grid={{{table}}}}}", f'data.path="{tmp_path}/mine.nc"']
    changes += ["data.train=3", "data.test=1", "training.unroll=2", "data.coarse=[]"]
    changes += ['training.length="8 iterations"', 'run.labels=["SRC","NON","ZO-interface"]']
    changes += ["corrector.sizes={width=2,depth=1}", 'non.length="60 iterations"']
    config = load_config("quick", None, changes, {"solver": {"spec": "tesseract"}})
    mae = run_correction(config, tmp_path / "run")["mae"]
    assert mae["ZO-interface"]["mean"] < 0.3 * mae["SRC"]["mean"]


@pytest.mark.slow
def test_a_served_one_is_the_same(component, tmp_path):
    path, port = component(), 0
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tesseract_core.runtime.cli", "serve", "--port", str(port)]
    environment = {**os.environ, "TESSERACT_API_PATH": str(path)}
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        for _ in range(300):
            time.sleep(0.1)
            with socket.socket() as there:
                if there.connect_ex(("127.0.0.1", port)) == 0:
                    break
        served, here = solver(f"http://127.0.0.1:{port}"), solver(path)
        assert served.step(states()).equal(here.step(states()))
        with pytest.raises(MistakeError, match="shape"):
            solver(f"http://127.0.0.1:{port}", {**GRID, "shape": [4], "extent": [1.0]}).step(
                torch.ones(1, 1, 4)
            )
    finally:
        server.terminate()
        server.wait()


# The other way round: docs/files/tesseract_api.py


@pytest.fixture(scope="module")
def tracer():
    pytest.importorskip("tesseract_core.runtime.serve", exc_type=ImportError)
    from tesseract_core import Tesseract

    return Tesseract.from_tesseract_api(FILES / "tesseract_api.py")


def test_the_component_that_is_shown_steps_and_is_differentiated(tracer):
    """Its step is linear: v . S(d) = S^T(v) . d for any u, v and d."""
    u, v, d = np.random.default_rng(0).normal(size=(3, 2, 1, 16, 16)).astype("float32")
    by_itself = load_solver(f"{FILES / 'tracer.py'}:Tracer")
    stepped = tracer.apply({"state": u})["state"]
    np.testing.assert_allclose(stepped, by_itself.step(torch.tensor(u)), rtol=1e-6)
    product = tracer.vector_jacobian_product({"state": u}, ["state"], ["state"], {"state": v})
    along = by_itself.step(torch.tensor(d)).numpy()
    assert (product["state"] * d).sum() == pytest.approx((v * along).sum(), rel=1e-2)
    shape = tracer.abstract_eval({"state": {"shape": [5, 1, 16, 16], "dtype": "float32"}})["state"]
    assert (list(shape["shape"]), shape["dtype"]) == ([5, 1, 16, 16], "float32")


@pytest.mark.slow
def test_it_needs_no_jax():
    pytest.importorskip("tesseract_core.runtime.serve", exc_type=ImportError)
    script = (
        "import sys; sys.modules['jax'] = None; import numpy as np\n"
        "from tesseract_core import Tesseract\n"
        f"component = Tesseract.from_tesseract_api({str(FILES / 'tesseract_api.py')!r})\n"
        "u = {'state': np.ones((1, 1, 16, 16), 'float32')}\n"
        "g = component.vector_jacobian_product(u, ['state'], ['state'], u)['state']\n"
        "print(f'{float(g.mean()):.3f}')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "1.000"  # what goes out on one side comes in on the other


@pytest.mark.filterwarnings("default")  # JAX has warnings of its own
def test_jax_differentiates_through_it_as_the_page_says(monkeypatch):
    """Along a random direction, against central differences of the loss of the page."""
    for package in ("jax", "tesseract_jax", "tesseract_core.runtime.serve"):
        pytest.importorskip(package, exc_type=ImportError)
    page = (FILES.parent / "howto" / "other-codes.md").read_text()
    (code,) = re.findall(r"```python\n(import jax\n.*?)```", page, flags=re.DOTALL)
    u, d = np.random.default_rng(1).normal(size=(2, 1, 1, 16, 16)).astype("float32")
    found = {"state": u}
    monkeypatch.chdir(FILES)
    exec(code, found)
    central = (found["loss"](u + 1e-2 * d) - found["loss"](u - 1e-2 * d)) / 2e-2
    assert float((found["gradient"] * d).sum()) == pytest.approx(float(central), rel=1e-2)

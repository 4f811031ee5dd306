import json
from pathlib import Path

import pytest

from zopde import InputError
from zopde.studies.correct import load_config
from zopde.studies.correct.check import check_gradient

# A twin's gradient and the probes must be of the same numbers: double precision, small steps.
FINE = ["run.dtype=float64", "zo.mu=1e-6"]


def config_of(spec, changes):
    return load_config("quick", None, changes, {"solver": {"spec": spec}})


def test_the_gradient_of_the_run_agrees_with_its_twin(toy_spec, tiny):
    found = check_gradient(config_of(toy_spec, [*tiny, *FINE]))
    assert found.check.against == "autograd"
    assert found.check.warnings == ()
    assert all(layer.cosine > 0.9999 for layer in found.check.layers)
    assert found.data == "2 short runs of the reference"
    json.dumps(found.as_dict(), allow_nan=False)


def test_a_solver_without_a_twin_gets_the_taylor_rate(toy_spec, tiny):
    spec = toy_spec.replace(":Toy", ":Blind")
    found = check_gradient(config_of(spec, [*tiny, *FINE]))
    assert found.check.against == "extrapolation"
    assert found.check.warnings == ()
    assert any(layer.taylor_rate for layer in found.check.layers)


def test_relative_mu_and_random_directions(toy_spec, tiny):
    changes = [*tiny, "run.dtype=float64"]
    relative = config_of(toy_spec, [*changes, "zo.mu_relative=true", "zo.mu=1e-4"])
    assert check_gradient(relative).check.warnings == ()
    found = check_gradient(config_of(toy_spec, [*changes, "zo.mu=1e-6"]), directions=20)
    assert found.estimator == "RGE, 20 directions"
    assert all(layer.deviation is not None for layer in found.check.layers)
    with pytest.raises(InputError, match=r"zo\.mu_relative: got true"):
        check_gradient(relative, directions=20)
    with pytest.raises(InputError, match="directions: got -1"):
        check_gradient(relative, directions=-1)


def test_a_missing_data_file_raises(toy_spec, tiny):
    with pytest.raises(InputError, match=r"none\.nc"):
        check_gradient(config_of(toy_spec, [*tiny, "data.path=none.nc"]))


def test_nothing_is_written(toy_spec, tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check_gradient(config_of(toy_spec, tiny))
    assert not list(Path(tmp_path).iterdir())

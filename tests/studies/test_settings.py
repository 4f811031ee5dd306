from dataclasses import replace
from itertools import product
from typing import get_type_hints

import pytest
import tomli_w

from zopde import InputError
from zopde.studies.classify import ClassificationConfig
from zopde.studies.correct import load_config
from zopde.studies.correct.settings import CorrectionConfig
from zopde.studies.defend import DefenceConfig
from zopde.studies.settings import (
    as_tree,
    assignments,
    build,
    differences,
    iterations_in,
    read_toml,
)


@pytest.mark.parametrize(
    ("solver", "preset"),
    [
        *product(["burgers", "wake"], ["quick", "paper"]),
        *product(["kuramoto-sivashinsky"], ["quick", "every-step"]),
        ("turbulence", "quick"),
        ("shallow-water", "quick"),
        ("lorenz96", "quick"),
    ],
)
def test_presets_round_trip(solver, preset, tmp_path):
    config = load_config(preset, tables={"solver": {"spec": solver}})
    assert config.solver.spec == solver
    (tmp_path / "config.toml").write_text(tomli_w.dumps(as_tree(config)))
    assert build(CorrectionConfig, read_toml(tmp_path / "config.toml")) == config


def test_paper_preset_is_the_published_size():
    config = load_config("paper")
    assert config.data.fine == (128, 128)
    assert config.data.coarse == (32, 32)
    assert (config.data.train, config.data.test) == (10, 5)
    assert config.corrector.kind == "residual"
    assert config.training.length == "100 epochs"
    assert config.training.lr == 1e-4


def test_a_solver_with_presets_of_its_own_gets_them_wherever_it_is_named(tmp_path):
    (tmp_path / "wake.toml").write_text('[solver]\nspec = "wake"\n')
    named = load_config("paper", tmp_path / "wake.toml")
    assert named.data.fine == (256, 128)
    assert named == load_config("paper", None, ["solver.spec=wake"])
    assert named == load_config("paper", tables={"solver": {"spec": "wake"}})
    assert (named.data.skip, named.data.steps) == (1000, 500)
    assert (named.data.train, named.data.test) == (6, 5)
    assert named.corrector.sizes == {"width": 32, "blocks": 5, "kernel": 5}


@pytest.mark.parametrize("solver", ["kuramoto-sivashinsky", "turbulence", "shallow-water"])
def test_a_preset_that_a_solver_does_not_have_raises(solver):
    with pytest.raises(InputError, match=f"preset: got 'paper', expected of the .*{solver}.*quick"):
        load_config("paper", tables={"solver": {"spec": solver}})


@pytest.mark.parametrize("spec", ["mine.py:Mine", "../wake", "", "."])
def test_any_other_solver_gets_the_common_presets(spec):
    common, found = (load_config(changes=[f"solver.spec={s!r}"]) for s in ("burgers", spec))
    assert found.solver.spec == spec
    assert (found.zo, found.training) == (common.zo, common.training)
    assert found.data == replace(common.data, coarse=())  # it may have a grid of its own


def test_changes_lie_over_the_file_over_the_preset(tmp_path):
    (tmp_path / "my.toml").write_text("[zo]\nmu = 1e-2\nsparsity = 0.5\n")
    config = load_config("quick", tmp_path / "my.toml", ["zo.mu=2e-2", "run.seeds=[3,4]"])
    assert (config.zo.mu, config.zo.sparsity, config.run.seeds) == (2e-2, 0.5, (3, 4))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("zo.mu=0", "zo.mu: got 0"),
        ("zo.mu=-1e-3", "zo.mu: got -0.001"),
        ("zo.mu=nan", "zo.mu: got nan"),
        ("zo.mu=small", "a value of type float"),
        ("zo.mu_relative=0.01", "zo.mu_relative: got 0.01, expected a value of type bool"),
        ("zo.mu_relativ=true", "did you mean 'zo.mu_relative'"),
        ("zo.sparsity=1.0", r"expected a number in \[0, 1\)"),
        ("zo.sparsity=-0.1", "zo.sparsity"),
        ("zo.sparsty=0.5", "did you mean 'zo.sparsity'"),
        ("zo.score=grap", "one of .*'zo-grasp'"),
        ("zo.score_directions=0", "zo.score_directions: got 0"),
        ("sparsity=0.5", "did you mean 'zo.sparsity'"),
        ("zo=3", "expected a table"),
        ("training.optimizer=adamw", r"one of \['adam', 'sgd'\]"),
        ("training.length=600", "a value of type str"),
        ('training.length="0 epochs"', "at least 1"),
        ("zo.resample=never", 'such as "600 iterations"'),
        ("training.batch=1.5", "type int"),
        ("run.seeds=[]", "some, each once"),
        ("run.seeds=[1,1]", "some, each once"),
        ("run.seeds=[-1]", "run.seeds: got -1"),
        ("run.device=gpuu", "device"),
        ("run.device=meta", "device"),
        ("data.train=0", "data.train"),
        ("training.weight_decay=nan", "training.weight_decay: got nan"),
        ("data.seed=99999999999999999999999", "data.seed"),
        ("interface.watch_below=nan", "watch_below: got nan"),
        ("zo.mu", "expected key=value"),
    ],
)
def test_bad_settings_raise_one_line(change, words):
    with pytest.raises(InputError, match=words) as caught:
        load_config("quick", None, [change])
    assert "\n" not in str(caught.value)


def test_unknown_preset_and_broken_file_raise(tmp_path):
    with pytest.raises(InputError, match="did you mean 'quick'"):
        load_config("quik")
    with pytest.raises(InputError, match="readable TOML"):
        load_config("quick", tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("[zo\n")
    with pytest.raises(InputError, match="valid TOML"):
        load_config("quick", tmp_path / "bad.toml")


def test_assignments_and_differences():
    tree = assignments(["a.b=1", "a.c=[1, 2]", "d=text", 'e="x=y"'])
    assert tree == {"a": {"b": 1, "c": [1, 2]}, "d": "text", "e": "x=y"}
    assert differences(tree, {**tree, "a": {"b": 2, "c": [1, 2]}}) == ["a.b"]


def test_a_length_in_iterations():
    assert iterations_in("3 epochs", 10) == 30
    assert iterations_in("1 iteration", 10) == 1


def test_a_setting_that_is_a_table_is_replaced_whole():
    config = load_config("quick", None, ["corrector.kind=residual", "corrector.sizes={blocks=2}"])
    assert config.corrector.sizes == {"blocks": 2}


def test_two_sources_that_disagree_raise():
    with pytest.raises(InputError, match=r"solver.spec: got 'other' and 'burgers'"):
        load_config("quick", None, ["solver.spec=other"], {"solver": {"spec": "burgers"}})


def test_any_text_survives_the_file(tmp_path):
    tree = {"data": {"path": 'a "b"\\c\nd\t\u00e9'}}
    (tmp_path / "x.toml").write_text(tomli_w.dumps(tree), encoding="utf-8")
    assert read_toml(tmp_path / "x.toml") == tree


@pytest.mark.parametrize(
    "kind",
    [CorrectionConfig, ClassificationConfig, DefenceConfig],
)
def test_no_number_among_the_settings_goes_unchecked(kind):
    plain = (int, float, tuple[int, ...], tuple[float, ...])
    unlimited = {
        f"{table}.{name}"
        for table, settings in get_type_hints(kind).items()
        for name, hint in get_type_hints(settings, include_extras=True).items()
        if hint in plain
    }
    numbers = [
        name
        for settings in get_type_hints(kind).values()
        for name, hint in get_type_hints(settings).items()
        if hint in plain
    ]
    assert len(numbers) > 10
    assert not unlimited


def test_an_old_key_is_refused_with_the_new_name():
    with pytest.raises(InputError, match="its new name 'interface\\.way'"):
        load_config("quick", None, ["interface.kind=dense"])


def test_a_label_has_its_own_table_over_the_one_for_all():
    labels = 'run.labels=["SRC","ZO-interface","ZO-bank","ZO-dense"]'
    changes = ["interface.mu=1e-2", "interface.labels.ZO-bank.snapshots=6", labels]
    changes += ["interface.labels.ZO-bank.mu=1e-4", "interface.labels.ZO-bank.way=bank"]
    config = load_config("quick", None, changes)
    bank, dense = config.cut_of("ZO-bank"), config.cut_of("ZO-dense")
    assert (bank.way, bank.snapshots, bank.mu) == ("bank", 6, 1e-4)
    assert (dense.way, dense.snapshots, dense.mu) == ("dense", 10, 1e-2)
    assert config.cut_of("ZO-interface").way == "coloured"
    assert config.cut_of("NOG") is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("interface.labels.ZO-bank.snapshots=0", "snapshots: got 0"),
        ("interface.labels.ZO-bank.snapshot=1", "did you mean 'snapshots'"),
        ("interface.labels.ZO-banc.snapshots=1", "did you mean 'ZO-bank'"),
        ("interface.labels.NOG.mu=1.0", "interface.labels.NOG"),
        ("interface.labels.ZO-bank=3", "interface.labels"),
        ("interface.labels.ZO-bank.way=dense", "ZO-bank.way: got 'dense', expected 'bank'"),
    ],
)
def test_a_table_of_a_label_that_will_not_do_raises(change, words):
    with pytest.raises(InputError, match=words):
        load_config("quick", None, [change])

import torch
from safetensors.torch import load_file

from zopde.studies.correct import load_config, run_correction


def weights(folder):
    found = load_file(folder / "seed-0" / "model.safetensors")
    return torch.cat([found[name].flatten() for name in sorted(found)])


def test_a_bank_of_the_forcing_too(tmp_path, toy_spec, tiny):
    changes = [
        *tiny,
        "data.coarse=[8,8]",
        "training.unroll=4",
        "training.init=scratch",
        "corrector.inject=forcing",
        'run.labels=["SRC","ZO-interface","SOL"]',
        "interface={way='bank',snapshots=10,watch_every=3}",
    ]
    config = load_config("quick", None, changes, {"solver": {"spec": toy_spec}})
    run_correction(config, tmp_path / "run")
    found, exact = (weights(tmp_path / "run" / label) for label in ("ZO-interface", "SOL"))
    assert (found - exact).norm() < 1e-2 * exact.norm()
    assert (tmp_path / "run" / "ZO-interface" / "seed-0" / "watch.csv").exists()

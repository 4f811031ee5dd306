import pytest, torch
from safetensors.torch import load_file
from zopde.recipes import load_config, run_correction

def test_a_bank_of_the_forcing_too(tmp_path, toy_spec, tiny):
    changes = [*tiny, "data.coarse=[8,8]", "training.unroll=4", "corrector.inject=forcing", 'run.labels=["SRC","ZO-interface","SOL"]', "training.init=scratch",
      "interface={kind='amortised',snapshots=10,watch_every=3}"]
    config = load_config("quick", None, changes, {"solver": {"spec": toy_spec}})
    metrics = run_correction(config, tmp_path / "run")
    print(metrics["solver_steps"])
    print((tmp_path/"run/ZO-interface/seed-0/watch.csv").read_text())
    zo, sol = (torch.cat([v.flatten() for _, v in sorted(load_file(tmp_path/"run"/l/"seed-0/model.safetensors").items())]) for l in ("ZO-interface","SOL"))
    print((zo-sol).norm()/sol.norm())
    assert (zo-sol).norm() < 1e-2*sol.norm()

"""Search for the learning rate and the optimiser, by runs that no training sees."""

import sys

import optuna

import zopde


def score(trial: optuna.Trial) -> float:
    """The least loss that the validation has shown."""
    rate = trial.suggest_float("training.lr", 1e-3, 1e-1, log=True)
    optimizer = trial.suggest_categorical("training.optimizer", ["adam", "sgd"])
    changes = [*sys.argv[2:], f"training.lr={rate}", f"training.optimizer={optimizer}"]
    config = zopde.load_config("quick", None, changes, {"solver": {"spec": sys.argv[1]}})
    metrics = zopde.run_correction(config, f"runs/search-{trial.number}")
    return metrics["validation"]["ZO-interface"][0]["loss"]


study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0))
study.optimize(score, n_trials=8)
print("best:", study.best_params, "with a loss of", round(study.best_value, 5))

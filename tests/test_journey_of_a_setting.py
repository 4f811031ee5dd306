"""How many files a setting visits, from `--set` to where it acts: traced in a real run."""

import sys
from pathlib import Path

import pytest

from zopde import load_config, run_correction

ROOT = Path(__file__).parent.parent


class Visits:
    """Files, in order, with a function that handles a setting: by value, or by its name.

    Args:
        name: The setting, without its table.
        value: One that nothing else in the run has.
        acts: The file where it acts; there the walk ends.
    """

    def __init__(self, name, value, acts):
        self.name, self.value, self.acts, self.files = name, value, acts, []

    def __call__(self, frame, event, arg):
        file = Path(frame.f_code.co_filename)
        if ROOT not in file.parents or file.name == "__init__.py":
            return
        place = file.relative_to(ROOT)
        if event != ("call" if str(place) == self.acts else "return"):
            return
        if place.parts[0] not in ("zopde", "solvers") or str(place) in self.files:
            return
        values = [*frame.f_locals.values(), arg]
        named = self.name in (*frame.f_code.co_names, *frame.f_code.co_varnames)
        if any(self._holds(value, 4) or (named and self._bears(value)) for value in values):
            self.files.append(str(place))
            if self.acts == str(place):
                sys.setprofile(None)

    def _holds(self, value, depth):
        """Whether it is the value, or a plain tree or text with it."""
        if isinstance(value, dict):
            return depth > 0 and any(self._holds(inner, depth - 1) for inner in value.values())
        if isinstance(value, (list, tuple)):
            return depth > 0 and any(self._holds(inner, depth - 1) for inner in value)
        if isinstance(value, str):
            return f"{self.name}={self.value}" in value
        return type(value) is type(self.value) and value == self.value

    def _bears(self, value):
        """Whether it is an object with that setting, or with a table that has it."""
        inner = [value, *getattr(value, "__dict__", {}).values()]
        return any(self._holds(getattr(owner, self.name, None), 0) for owner in inner)


@pytest.mark.parametrize(
    ("key", "value", "acts"),
    [
        ("training.lr", 0.00123, "zopde/training/optimise.py"),
        ("training.clip", 0.0777, "zopde/training/optimise.py"),
        ("zo.mu", 0.00321, "zopde/zo/cge.py"),
        ("interface.mu", 0.00231, "zopde/studies/correct/cut.py"),  # there it gets the data's units
        ("interface.states", 413, "zopde/interface/dense.py"),
    ],
)
def test_a_setting_visits_few_files(key, value, acts, tmp_path, toy_spec, tiny):
    visits = Visits(key.rpartition(".")[2], value, acts)
    label = "ZO-weights" if key == "zo.mu" else "ZO-interface"
    changes = [*tiny, f'run.labels=["SRC","{label}"]', "training.init=scratch", "zo.chunk=8"]
    sys.setprofile(visits)
    try:
        changes += [f"{key}={value}"]
        config = load_config("quick", None, changes, {"solver": {"spec": toy_spec}})
        run_correction(config, tmp_path / "run")
    finally:
        sys.setprofile(None)
    assert visits.files[-1] == acts, visits.files
    assert "zopde/studies/settings.py" in visits.files
    assert len(visits.files) <= 6, visits.files

"""How many files a reader walks through who follows one iteration of ZO-interface."""

import sys
from contextlib import contextmanager
from pathlib import Path

import zopde
from zopde.studies.correct import load_config, run_correction

ROOT = Path(zopde.__file__).resolve().parent.parent
MOST = 12


class Tracer:
    """Notes the files whose functions are entered during the second iteration of a label."""

    def __init__(self, label):
        self.label, self.files = label, set()

    def note(self, text):
        pass

    @contextmanager
    def stage(self, title, total):
        before, done = sys.getprofile(), 0

        def advance(steps=1, text=""):
            nonlocal done
            done += steps
            if title.startswith(self.label) and done == 1 and not self.files:
                sys.setprofile(self._profile)
            if done == 2:
                sys.setprofile(before)

        yield advance

    def _profile(self, frame, event, _):
        path = Path(frame.f_code.co_filename)
        rooms = (ROOT / "zopde", ROOT / "solvers")
        if event == "call" and path.name != "__init__.py" and any(r in path.parents for r in rooms):
            self.files.add(str(path.relative_to(ROOT)))


def test_journey_of_an_interface_iteration(toy_spec, tiny, tmp_path):
    """Coloured, the way by default, on the toy solver; from one update to the next."""
    changes = [change for change in tiny if not change.startswith("interface.")]
    changes += ["data.coarse=[8,8]", "run.checkpoint_seconds=10"]
    changes += ['run.labels=["SRC","ZO-interface"]']
    config = load_config("quick", None, changes, {"solver": {"spec": toy_spec}})
    tracer = Tracer("ZO-interface")
    run_correction(config, tmp_path / "run", progress=tracer)
    assert "zopde/interface/coloured.py" in tracer.files, "the trace saw the iteration"
    assert len(tracer.files) <= MOST, " ".join(sorted(tracer.files))

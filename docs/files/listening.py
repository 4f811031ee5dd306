"""Print the loss of every tenth iteration, and what each training has reached."""

import sys

import zopde
from zopde.training import Event


def listen(event: Event) -> None:
    """What is called while the run goes on."""
    if event.kind == "iteration" and event.figures["iteration"] % 10 == 0:
        print(f"{event.label}, seed {event.seed}: loss {event.figures['loss']:.4g}")
    elif event.kind == "training":
        print(f"{event.label}, seed {event.seed}: error {event.figures['mae']:.4g}")


if __name__ == "__main__":
    config = zopde.load_config("quick", None, sys.argv[2:], {"solver": {"spec": sys.argv[1]}})
    zopde.run_correction(config, "runs/listening", callbacks=[listen])

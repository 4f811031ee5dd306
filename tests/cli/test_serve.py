"""`zopde serve` as a user types it."""

import re
import signal
import subprocess
import sys

import torch

from zopde import load_solver


def zopde(*words):
    return subprocess.Popen(
        [sys.executable, "-m", "zopde.cli.app", "serve", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_solver_is_served_until_ctrl_c(toy_spec, gen):
    server = zopde(toy_spec, "--set", "viscosity=0.3", "--set", "shape=[4,4]", "--port", "0")
    try:
        line = server.stderr.readline()
        remote = load_solver("http", {"url": re.search(r"http://\S+:\d+", line)[0]})
        local = load_solver(toy_spec, {"viscosity": 0.3, "shape": [4, 4]})
        state, forcing = torch.randn(2, 3, 2, 4, 4, generator=gen, dtype=torch.float64)
        assert remote.step(state, forcing).equal(local.step(state, forcing))
        server.send_signal(signal.SIGINT)
        said = server.communicate(timeout=20)
        assert said == ("", "ended; steps answered: 3\n")
        assert server.returncode == 0
    finally:
        server.kill()
        server.communicate()


def test_wrong_settings_end_with_one_line_raises(toy_spec):
    for words, said in (
        ((toy_spec, "--port", "99999"), "a free port"),
        ((toy_spec, "--set", "viscosty=1"), "did you mean 'viscosity'"),
    ):
        done = zopde(*words)
        _, lines = done.communicate(timeout=60)
        assert done.returncode == 2
        assert said in lines
        assert len(lines.splitlines()) == 1

import subprocess
import sys

PROGRAM = """
import resource, torch
from zopde.memory import keep_freed_memory
if {keep}:
    assert keep_freed_memory()
for _ in range(20):
    torch.ones(16_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
"""


def test_freed_memory_is_used_again():
    """Twenty times 64 MB, more than glibc ever keeps by itself: touched once, or mapped anew."""

    def faults(keep):
        command = [sys.executable, "-c", PROGRAM.format(keep=keep)]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    if sys.platform == "linux":
        assert faults(keep=True) < faults(keep=False)

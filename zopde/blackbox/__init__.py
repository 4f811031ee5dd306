"""What can be put round a solver that is no part of this program."""

from zopde.blackbox.apart import Apart
from zopde.blackbox.failures import (
    Dropping,
    OneAtATime,
    Retrying,
    TooManyFailuresError,
    failures_of,
)
from zopde.blackbox.store import Store, Stored
from zopde.blackbox.wrapper import BlackBox, CountedSolver, Filled

__all__ = [
    "Apart",
    "BlackBox",
    "CountedSolver",
    "Dropping",
    "Filled",
    "OneAtATime",
    "Retrying",
    "Store",
    "Stored",
    "TooManyFailuresError",
    "failures_of",
]

"""How good a gradient is, and which step it needs."""

from zopde.check.gradient import SelfCheck, selfcheck

__all__ = [
    "SelfCheck",
    "selfcheck",
]

"""Randomized smoothing: any classifier becomes one whose answers hold within a radius."""

from zopde.smoothing.attacks import attack
from zopde.smoothing.bounds import (
    CertifiedShare,
    certified_accuracy,
    certified_radius,
    check_alpha,
    largest_radius,
    lower_bound,
    sign_test,
    upper_bound,
)
from zopde.smoothing.sequential import (
    Verdict,
    fewest_answers,
    log_evidence,
    looks,
    thresholds,
    verdict,
)
from zopde.smoothing.smooth import (
    ABSTAIN,
    BaseClassifier,
    Certificate,
    Decision,
    Smooth,
    votes,
)

__all__ = [
    "ABSTAIN",
    "BaseClassifier",
    "Certificate",
    "CertifiedShare",
    "Decision",
    "Smooth",
    "Verdict",
    "attack",
    "certified_accuracy",
    "certified_radius",
    "check_alpha",
    "fewest_answers",
    "largest_radius",
    "log_evidence",
    "looks",
    "lower_bound",
    "sign_test",
    "thresholds",
    "upper_bound",
    "verdict",
    "votes",
]

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
from zopde.smoothing.smooth import ABSTAIN, BaseClassifier, Certificate, Smooth, votes

__all__ = [
    "ABSTAIN",
    "BaseClassifier",
    "Certificate",
    "CertifiedShare",
    "Smooth",
    "attack",
    "certified_accuracy",
    "certified_radius",
    "check_alpha",
    "largest_radius",
    "lower_bound",
    "sign_test",
    "upper_bound",
    "votes",
]

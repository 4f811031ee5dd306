"""Certifying any classifier, and trying to break what was certified."""

from zopde.recipes.certification.base import load_base_classifier
from zopde.recipes.certification.breaking import AttackSettings, attack_certificates
from zopde.recipes.certification.config import CertifyConfig
from zopde.recipes.certification.run import RADII, read_curve, run_certification

__all__ = [
    "RADII",
    "AttackSettings",
    "CertifyConfig",
    "attack_certificates",
    "load_base_classifier",
    "read_curve",
    "run_certification",
]

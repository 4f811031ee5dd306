"""Certifying any classifier, and trying to break what was certified."""

from zopde.studies.certify.attack import AttackSettings, attack_certificates
from zopde.studies.certify.problem import load_base_classifier
from zopde.studies.certify.run import RADII, read_curve, run_certification
from zopde.studies.certify.settings import CertifyConfig

__all__ = [
    "RADII",
    "AttackSettings",
    "CertifyConfig",
    "attack_certificates",
    "load_base_classifier",
    "read_curve",
    "run_certification",
]

"""Certifying any classifier, and trying to break what was certified."""

from zopde.studies.certificates import RADII
from zopde.studies.certify.attack import AttackSettings, attack_certificates
from zopde.studies.certify.settings import CertifyConfig
from zopde.studies.certify.study import run_certification
from zopde.studies.defended import load_base_classifier

__all__ = [
    "RADII",
    "AttackSettings",
    "CertifyConfig",
    "attack_certificates",
    "load_base_classifier",
    "run_certification",
]

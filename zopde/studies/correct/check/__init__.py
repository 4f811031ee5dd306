"""Judging a solver, and a gradient through it."""

from zopde.studies.correct.check.gradient import GradientCheck, check_gradient
from zopde.studies.correct.check.solver import SolverCheck, check_solver

__all__ = ["GradientCheck", "SolverCheck", "check_gradient", "check_solver"]

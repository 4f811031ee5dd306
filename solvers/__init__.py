"""Solvers that come with zopde: one PDE or one bridge per file."""

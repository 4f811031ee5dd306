"""Whole jobs, a folder each: the only room that wires the others together."""

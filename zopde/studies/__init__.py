"""Whole jobs, a folder each: the only room that wires the others together."""

from zopde.errors import check_system

check_system()  # its locks and its limits on memory are Linux's

"""What a run folder holds, as one page."""

from zopde.recipes.reporting.write import write_report

__all__ = ["write_report"]

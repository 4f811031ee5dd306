"""What run folders hold, as one page."""

from zopde.studies.report.page import write_report

__all__ = ["write_report"]

"""What run folders hold, as one page, or as figures."""

from zopde.studies.report.page import draw_figures, write_report

__all__ = ["draw_figures", "write_report"]

"""What a run folder holds, as one page."""

from zopde.studies.report.write import write_report

__all__ = [
    "write_report",
]

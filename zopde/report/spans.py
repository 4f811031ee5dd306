"""Spans of videos: the true ones, and below them those that were found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

Span = tuple[float, ...]  # start and end, in shares of the video


@dataclass(frozen=True)
class SpanRow:
    """One video."""

    sentence: str  # what it was asked for
    true: Span  # where that is
    found: Mapping[str, Span]  # label -> where it was found


def draw_spans(rows: Sequence[SpanRow]) -> Figure:
    """Draw a panel for each video, and in it a bar for the true span and one for each label."""
    lines = 1 + len(rows[0].found)
    figure = Figure(figsize=(7.0, len(rows) * (0.45 + 0.16 * lines)), layout="constrained")
    panels = figure.subplots(len(rows), 1, squeeze=False)[:, 0]
    for row, panel in zip(rows, panels, strict=True):
        spans = {"true": row.true, **row.found}
        for height, (label, (start, end)) in enumerate(spans.items()):
            colour = "#000000" if label == "true" else "#0072B2"
            panel.barh(height, end - start, left=start, height=0.7, color=colour)
        panel.set_yticks(range(lines), list(spans), fontsize=6)
        panel.set_xlim(0, 1)
        panel.invert_yaxis()
        panel.set_title(row.sentence, fontsize=8, loc="left")
        panel.tick_params(axis="x", labelsize=6)
    panels[-1].set_xlabel("share of the video", fontsize=8)
    return figure

"""One HTML page that needs nothing but itself: no script, no font, no picture from elsewhere."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib.resources import files
from pathlib import Path

from matplotlib.figure import Figure

from zopde.files import write_text
from zopde.report.panels import png_of
from zopde.validate import check_folder_writable


@dataclass(frozen=True)
class Drawn:
    """A figure of a page."""

    figure: Figure
    alt: str  # what it shows, for those who do not see it
    caption: str = ""

    @property
    def html(self) -> str:
        """As a picture."""
        return picture(png_of(self.figure), self.alt, self.caption)


@dataclass(frozen=True)
class Section:
    """A part of a page, with a heading; its body is HTML, made by the functions below."""

    title: str
    body: str | Callable[[], str] = ""  # a function where it takes long
    figures: Mapping[str, Drawn] = field(default_factory=dict)  # by name; they stand first

    @property
    def html(self) -> str:
        """All that stands under the heading."""
        body = self.body if isinstance(self.body, str) else self.body()
        return "".join(drawn.html for drawn in self.figures.values()) + body


def text(words: str, kind: str = "") -> str:
    """A paragraph; `kind` is "", "lead", "soft" or "warning"."""
    return f"<p{_class(kind)}>{escape(words)}</p>"


def table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], caption: str = "", words: bool = False
) -> str:
    """A table that scrolls by itself where the screen is narrow; its caption does not.

    Columns of words stand to the left, figures to the right. `words`: long cells are broken.
    """
    of_words = [any(c[:1].isalpha() for c in cells) for cells in zip(*rows, strict=True)]
    kinds = [_class("word" if is_word else "") for is_word in of_words] or [""] * len(columns)

    def line(cells: Sequence[str], start: str, end: str) -> str:
        whole = (f"{start}{k}>{escape(c)}{end}" for k, c in zip(kinds, cells, strict=True))
        return f"<tr>{''.join(whole)}</tr>"

    head = line(columns, '<th scope="col"', "</th>")
    body = "".join(line(row, "<td", "</td>") for row in rows)
    return (
        (text(caption, "soft") if caption else "")
        + f'<div class="wide"><table{_class("words" if words else "")}>'
        + f"<thead>{head}</thead><tbody>{body}</tbody></table></div>"
    )


def picture(png: bytes, alt: str, caption: str = "") -> str:
    """A picture with what it shows, for those who do not see it, and a caption."""
    image = f'<img {_width(png)} src="{_data("png", png)}" alt="{escape(alt)}">'
    return _figure(image, caption)


def moving(gif: bytes, still: bytes, alt: str, caption: str = "") -> str:
    """An animation; its last frame for readers who asked their system for no motion."""
    image = (
        f'<picture><source media="(prefers-reduced-motion: reduce)" srcset="{_data("png", still)}">'
        f'<img {_width(still)} src="{_data("gif", gif)}" alt="{escape(alt)}"></picture>'
    )
    return _figure(image, caption, "moving")


def code(lines: str, command: bool = False) -> str:
    """Text as it is; a command is broken where the screen ends."""
    return f"<pre{_class('command' if command else '')}>{escape(lines)}</pre>"


def folded(title: str, body: str) -> str:
    """Something that opens on a click, without a script."""
    return f"<details><summary>{escape(title)}</summary>{body}</details>"


def page(title: str, lead: str, sections: Sequence[Section]) -> str:
    """The whole document, `lead` before its sections; those without a body are left out."""
    shown = [(section.title, html) for section in sections if (html := section.html)]
    links = "".join(f'<a href="#s{i}">{escape(title)}</a>' for i, (title, _) in enumerate(shown))
    parts = "".join(
        f'<section id="s{i}"><h2>{escape(title)}</h2>{html}</section>'
        for i, (title, html) in enumerate(shown)
    )
    style = files("zopde.report").joinpath("page.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{style}</style></head>"
        f"<body><h1>{escape(title)}</h1>{lead}<nav>{links}</nav>{parts}</body></html>\n"
    )


def write_page(path: Path, html: str) -> None:
    """Write a page whole or not at all."""
    check_folder_writable("folder of the report", path.parent)
    write_text(path, html)


def _figure(image: str, caption: str, kind: str = "") -> str:
    words = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f'<figure{_class(kind)}><div class="wide">{image}</div>{words}</figure>'


def _width(png: bytes) -> str:
    """For the style sheet: a PNG tells its width in the bytes 16 to 19."""
    return f'style="--full: {int.from_bytes(png[16:20], "big")}px"'


def _data(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""

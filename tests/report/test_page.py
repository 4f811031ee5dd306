import base64
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from matplotlib.figure import Figure

from zopde import InputError
from zopde.report.curves import CostCurve, Paid, draw_loss_curves, draw_price, running_mean
from zopde.report.page import (
    Section,
    code,
    folded,
    moving,
    page,
    picture,
    table,
    text,
    write_page,
)
from zopde.report.panels import png_of, save, short_ticks

VOID = {"meta", "img", "source", "link", "br"}


class Balance(HTMLParser):
    """Every element that is opened is closed, in order."""

    def __init__(self):
        super().__init__()
        self.open, self.seen = [], []

    def handle_starttag(self, tag, attributes):
        self.seen.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def parsed(html):
    reader = Balance()
    reader.feed(html)
    assert not reader.open
    return reader.seen


def loss_picture():
    curve = CostCurve("NON", np.arange(1, 9.0), np.arange(1, 9.0), np.linspace(2, 1, 8), True)
    return png_of(draw_loss_curves([curve]))


def test_a_page_is_whole_and_needs_nothing_from_elsewhere():
    png = loss_picture()
    body = table(("a", "b"), [["1", "2"]], "what") + picture(png, "a picture", "of something")
    body += moving(b"GIF89a", png, "moves") + folded("more", code("x\ny", command=True))
    html = page("a title", text("hello", "lead"), [Section("One", body), Section("None", "")])
    seen = parsed(html)
    tags = [tag for tag, _ in seen]
    assert "script" not in tags
    assert "link" not in tags
    assert tags.count("h2") == 1  # a section without a body is left out
    for _, attributes in seen:
        for name in ("src", "srcset", "href"):
            value = attributes.get(name, "#")
            assert value.startswith(("#", "data:image/")), value
    assert not re.search(r"url\(|@import|https?://", html)
    found = [a for tag, a in seen if tag == "img"]
    assert all(a["alt"] for a in found)
    assert base64.b64decode(found[0]["src"].partition(",")[2]) == png
    assert found[0]["style"] == "--full: 1350px"


def test_words_of_the_user_are_no_html_exact():
    evil = '<script>alert("x")</script>&'
    body = text(evil) + table((evil,), [[evil]], evil) + code(evil) + folded(evil, "")
    html = page(evil, "", [Section(evil, body)])
    assert "script" not in [tag for tag, _ in parsed(html)]
    assert html.count("&lt;script&gt;") == 10


def test_a_page_is_written_whole_or_not_at_all(tmp_path):
    write_page(tmp_path / "new" / "page.html", "<p>")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["page.html"]
    with pytest.raises(InputError, match="folder of the report"):
        write_page(tmp_path / "new" / "page.html" / "x.html", "<p>")


def test_running_mean_exact():
    np.testing.assert_allclose(running_mean(np.array([1.0, 2, 3, 4]), 2), [1, 1.5, 2.5, 3.5])
    np.testing.assert_allclose(running_mean(np.array([1.0, 2]), 9), [1, 1.5])
    np.testing.assert_allclose(running_mean(np.array([5.0]), 0), [5])


def test_price_picture(tmp_path):
    points = [Paid(run, "NON", 10, 2.0, 0.1) for run in map(str, range(16))]
    save(draw_price(points, "error"), tmp_path / "p.png")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("top", [2.1e-2, 3e2])
def test_ticks_between_powers_of_ten_tell_numbers_apart(top):
    axes = Figure().add_subplot()
    axes.plot([1, 2], [1.1e-2, top])
    axes.set_yscale("log")
    short_ticks(axes)
    axes.figure.canvas.draw()
    labels = [t.get_text() for t in axes.get_yticklabels(minor=True) if t.get_text()]
    assert len(set(labels)) == len(labels)
    assert all(float(label) > 0 for label in labels)
    assert bool(labels) == (top < 1)

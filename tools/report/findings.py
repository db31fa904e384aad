"""Pages of findings, of one look: parts with sentences, plots and tables."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.figure import Figure

from tools.report.page import render

__all__ = ["Section", "data_uri", "findings_page", "png"]


class Section(NamedTuple):
    """A part of a page."""

    title: str
    verdict: str = ""  # good, bad or empty
    sentences: Sequence[str] = ()
    plot: str = ""  # data URIs, separated by spaces
    details: str = ""
    headers: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()


def findings_page(title: str, parts: Sequence[Section]) -> str:
    """Return a page that opens offline and needs no other file."""
    return render("findings.html", title=title, parts=parts)


def png(figure: Figure, dpi: int = 110) -> bytes:
    """Return a figure as a PNG."""
    with io.BytesIO() as stream:
        figure.savefig(stream, dpi=dpi, format="png")
        return stream.getvalue()


def data_uri(content: bytes) -> str:
    """Return a PNG as it stands in a page."""
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"

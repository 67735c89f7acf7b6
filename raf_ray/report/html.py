"""One self-contained HTML page: facts, tables and pictures, for any kind of study."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader

from raf_ray.files import write_text
from raf_ray.terminal import printable


@dataclass(frozen=True)
class Part:
    """One headed part of a report: a text, a table, a picture, or several of these."""

    title: str
    text: str = ""
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    picture: Path | None = None
    """A PNG file, which goes into the page"""
    code: str = ""
    """Text to copy, such as a config"""


def write_report(path: Path, title: str, facts: Mapping[str, str], parts: Sequence[Part]) -> None:
    """Write the page; it needs no other file and no network."""
    template = Environment(autoescape=True, loader=PackageLoader("raf_ray.report", "")).get_template("report.html.j2")
    pictures = {
        part.title: base64.b64encode(part.picture.read_bytes()).decode() for part in parts if part.picture is not None
    }
    page = template.render(title=title, facts=facts, parts=parts, pictures=pictures)
    write_text(path, printable(page) + "\n")

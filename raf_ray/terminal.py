"""The terminal: one console for all commands, on which what users name is text and never markup."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.text import Text

from raf_ray.masking import masked_in

WIDTH_ELSEWHERE = 160
"""Columns where the output is no terminal: wide enough for every table."""


def make_console(width_elsewhere: int = WIDTH_ELSEWHERE) -> Console:
    """A console on stdout. Square brackets and colons in names of folders, tiers and the like stay as they are."""
    width = None if sys.stdout.isatty() else width_elsewhere
    return Console(file=sys.stdout, width=width, markup=False, emoji=False)


def warn(console: Console, line: str) -> None:
    """A line that says ``warning`` before it."""
    console.print(Text.assemble(("warning ", "yellow"), masked_in(line)), highlight=False, soft_wrap=True)

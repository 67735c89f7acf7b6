"""Other simulators on the same people: each a program for an environment of its own."""

from __future__ import annotations

import argparse


def arguments(about: str | None) -> argparse.Namespace:
    """The words of each contestant."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("people")
    for name, default in (("levels", 3), ("rounds", 4), ("processes", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    return parser.parse_args()

"""docs/architecture.md lists the rooms that there are."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_rooms_it_lists_are_the_files_and_folders_that_exist():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    listed = [room.rstrip("/") for cell in table for room in re.findall(r"`([^`]+)`", cell)]
    there = {path.name for path in (ROOT / "raf_ray").iterdir() if path.is_dir() or path.suffix == ".py"} - {
        "__pycache__",
        "__init__.py",
    }
    assert sorted(listed) == sorted(there)


def test_the_files_its_walks_pass_exist():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    walks = text[text.index("## Three walks") :]
    named = {path for path in re.findall(r"`([\w/]+\.py)`", walks) if "/" in path}
    assert len(named) > 8 and all((ROOT / "raf_ray" / path).is_file() for path in named)


def test_what_a_reader_must_hold_in_mind_at_once_is_short():
    """300 lines a file, 60 a function: more hides a second idea."""
    for path in (ROOT / "raf_ray").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 300, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 60, (path, node.name)

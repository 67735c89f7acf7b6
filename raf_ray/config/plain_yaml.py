"""YAML of plain values: mappings, lists, text, numbers, true, false, null. Anything else is refused by its line.

By the rules of YAML 1.2, where `off`, `12:30` and `2026-01-31` are text. No tag makes an object.
"""

from __future__ import annotations

import warnings
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, ReusedAnchorWarning
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError

from raf_ray.errors import abridged
from raf_ray.files import Json
from raf_ray.masking import masked_in

MOST_CHARACTERS = 1_000_000
MOST_VALUES = 200_000
"""With aliases written out, of which a few lines can stand for billions."""
DEEPEST = 50

_TAG = "tag:yaml.org,2002:"
_TEXT = ("str", "timestamp", "value", "merge")
"""Scalars that are taken as they are written: a date is text to YAML 1.2."""


class NotPlain(ValueError):
    """What is wrong, and where: with the line and entry of one value, or without of the whole text."""

    def __init__(self, what: str, line: int | None = None, entry: str = "") -> None:
        super().__init__(what)
        self.line, self.entry = line, entry


def read(text: str) -> Any:
    """The value that a document holds; None where it is empty. Raises NotPlain."""
    if len(text) > MOST_CHARACTERS:
        raise NotPlain(f"is {len(text) / 1e6:.1f} million characters long, which no config is")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ReusedAnchorWarning)  # an anchor may be set anew
            node = YAML(typ="safe", pure=True).compose(text)
    except MarkedYAMLError as error:
        raise NotPlain(f"is not valid YAML: {_in_words(error)}") from error
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise NotPlain(
            f"is not valid YAML: it holds the character {chr(error.character)!r} (line {line}), which YAML does not "
            "allow; take it out, or save the text as UTF-8"
        ) from error
    except RecursionError:
        raise NotPlain("is nested too deeply to be read; it is damaged or no config") from None
    except Exception as error:  # ruamel.yaml lets pass what its own code meets: AssertionError, OverflowError ...
        told = str(error).split("\n")[0][:100]
        raise NotPlain(f"is not valid YAML ({told}); check its escapes and directives") from error
    return None if node is None else _Reader().value(node, ())


class _Reader:
    def __init__(self) -> None:
        self._left = MOST_VALUES
        self._open: set[int] = set()
        """Nodes around the one that is read."""

    def value(self, node: Node, place: tuple[str, ...]) -> Any:
        self._left -= 1
        if self._left < 0:
            raise NotPlain(f"holds more than {MOST_VALUES:,} values, counted with its aliases written out; shorten it")
        if id(node) in self._open:
            raise _wrong(node, place, f"the alias *{node.anchor} stands inside what it names; write that out")
        if len(place) > DEEPEST:
            raise _wrong(node, place[:3], f"it is nested more than {DEEPEST} deep, which no config is")
        kind = str(node.tag).removeprefix(_TAG)
        if isinstance(node, ScalarNode):
            return _scalar(node, kind, place)
        self._open.add(id(node))
        try:
            if isinstance(node, SequenceNode) and kind == "seq":
                return [self.value(item, (*place, str(i))) for i, item in enumerate(node.value)]
            if isinstance(node, MappingNode) and kind == "map":
                return self._mapping(node, place)
        finally:
            self._open.remove(id(node))
        raise _unknown_tag(node, kind, place)

    def _mapping(self, node: MappingNode, place: tuple[str, ...]) -> Json:
        """Keys are text as written. ``<<`` takes over the keys of the mapping, or list of them, that it names."""
        merged: Json = {}
        own: Json = {}
        for key, value in node.value:
            if not isinstance(key, ScalarNode):
                raise _wrong(key, place, "a key is a word, not a list or mapping")
            name = _text(key, place)
            if name in own:
                raise _wrong(key, place, f"the key {shown(name)} is there twice; keep one")
            found = self.value(value, (*place, name))
            if str(key.tag) != f"{_TAG}merge":
                own[name] = found
                continue
            for one in found if isinstance(found, list) else [found]:
                if not isinstance(one, dict):
                    raise _wrong(value, place, "<< takes a mapping or a list of mappings")
                merged = {**one, **merged}
        return {**merged, **own}


def _scalar(node: ScalarNode, kind: str, place: tuple[str, ...]) -> Any:
    text = node.value
    if kind in _TEXT:
        return _text(node, place)
    if kind == "null":
        return None
    try:
        if kind == "bool":
            return {"true": True, "false": False}[text.lower()]
        if kind == "int":
            return _integer(text)
        if kind == "float":
            return _number(text)
    except OverflowError as error:
        raise _wrong(node, place, f"{shown(text)} is {error}; write a smaller number, or quote it as text") from None
    except (ValueError, KeyError):
        raise _wrong(node, place, f"{shown(text)} is no {kind}; correct it, or leave the tag out") from None
    raise _unknown_tag(node, kind, place)


def _text(node: ScalarNode, place: tuple[str, ...]) -> str:
    try:
        node.value.encode("utf-8")
    except UnicodeEncodeError:
        raise _wrong(node, place, f"{shown(node.value)} holds half a character (a lone surrogate)") from None
    return str(node.value)


def _integer(text: str) -> int:
    digits = text.replace("_", "").lower()
    base = {"0x": 16, "0o": 8, "0b": 2}.get(digits.lstrip("+-")[:2], 10)
    value = int(digits, base) if len(digits) < 1000 else 2**64  # Python itself refuses some thousands of digits
    if not -(2**63) <= value < 2**63:
        raise OverflowError("an integer beyond 64 bits")
    return value


def _number(text: str) -> float:
    digits = text.replace("_", "").lower()
    special = {".inf": float("inf"), ".nan": float("nan")}.get(digits.lstrip("+-"))
    if special is not None:
        return -special if digits.startswith("-") else special
    value = float(digits)
    if value in (float("inf"), -float("inf")):
        raise OverflowError("beyond what a float holds")
    return value


def _unknown_tag(node: Node, kind: str, place: tuple[str, ...]) -> NotPlain:
    tag = f"!!{kind}" if str(node.tag).startswith(_TAG) else str(node.tag)
    return _wrong(node, place, f"the tag {shown(tag)} means nothing here; leave it out")


def _wrong(node: Node, place: tuple[str, ...], what: str) -> NotPlain:
    return NotPlain(what, node.start_mark.line + 1, shown(".".join(place))[1:-1])


def _in_words(error: MarkedYAMLError) -> str:
    words = ", ".join(" ".join(str(part).split()) for part in (error.context, error.problem) if part)
    mark = error.problem_mark or error.context_mark
    place = "" if mark is None else f" (line {mark.line + 1}, column {mark.column + 1})"
    return words[:200] + place + ("; indent with spaces" if "\\t" in words else "")


def shown(value: object, most: int = 80) -> str:
    """A value as Python writes it, its passwords masked, cut where it is long."""
    try:
        text = masked_in(repr(value))
    except (ValueError, RecursionError):  # an integer of thousands of digits; lists around lists
        return f"a {type(value).__name__} too long to show"
    return abridged(text, most, most // 2, most // 4)

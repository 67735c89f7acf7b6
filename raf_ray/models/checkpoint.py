"""Load a checkpoint file into a model: this project's own, or a pre-trained one in a published layout.

| layout | loaded | must match |
| --- | --- | --- |
| own `model.pt`, or one without a mark of the others | everything | every name and shape |
| one of `raf_ray.models.layouts`, known by its names | what fits | the backbone |
| another file with a key `state_dict` | what fits | the backbone, and half of the model's parameters |

With `partial` nothing must match, but something has to: parameters are counted by their elements, and a file that
fills none is always refused. How files are read, and what prefixes are seen through: `raf_ray.models.entries`.

Published ViTs hold a table of positions for one size (`pos_embed`). A model with a table (`model.variant=vitpose`, and
`authors`, which does not read it) takes it, resized where it is of another grid; `raf_ray`'s computes positions for any
size and leaves the table out. A class token goes to `authors` alone, and stays fresh where a file has none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from raf_ray.errors import InputError
from raf_ray.models import heatmap_stride
from raf_ray.models.entries import Found, plain_name, prefixes_in, read_entries, shape_of, without_prefix
from raf_ray.models.layouts import known
from raf_ray.models.simple_head import decoder_of
from raf_ray.models.vit_positions import TABLE_GRID, is_position_embedding, resized_table, variant_of

OWN, PUBLISHED = "this project's own", "another tool's"
"""Titles of the layouts that no file of `raf_ray.models.layouts` knows."""

SHOWN = 3
"""Entries that an error names before it stops."""

LEAST_SHARE = 0.5
"""Of the model's parameters that a published checkpoint must fill; a choice: less is hardly the same model."""

PUBLISHED_KEYS = {"state_dict", "state_dict_ema", "ema_state_dict"}
"""Where the tools that publish checkpoints put weights, among them a loss's or another head's."""

NO_WEIGHTS = {"n_averaged"}
"""Entries of a file that no model need have: the counter of torch's averaged models."""


@dataclass(frozen=True)
class CheckpointReport:
    """What became of every entry; names are the model's, those of `unexpected` the file's."""

    loaded: list[str]
    """Entries whose values now come from the file."""
    missing: list[str]
    """Entries of the model that the file does not have; they keep the values that they had."""
    unexpected: list[str]
    """Entries of the file that the model has no place for, such as MAE's decoder; ignored."""
    mismatched: list[str]
    """Entries in both with another shape, such as a head for other joints; the model keeps its own values."""
    share: float
    """Of the model's parameters, by their elements, that come from the file."""
    source: str
    """Key of the file that the weights stand under; empty: its top."""
    others: list[str]
    """Keys of the file with further weights, such as averaged ones, that were not used."""
    prefix: str
    """Taken off the file's names, such as `module.`."""
    layout: str
    """Title of the layout that its names are of."""
    decoder: str | None
    """The `model.decoder` whose head the file has, where the model has the other."""


@dataclass(frozen=True)
class Reading:
    """One way to understand a file's names."""

    prefix: str
    layout: str
    entries: dict[str, Tensor]
    """By the model's names where it has such."""


def load_checkpoint(model: nn.Module, path: str | Path, partial: bool = False) -> CheckpointReport:
    """Load a file's weights into the model, in place, and report entry by entry; checks precede any change.

    See the table above for what must match. The head may stay as it was (MAE has none, and a ViTPose of another
    joint count has another last layer), so look at the report.

    Raises:
        InputError (a ValueError): there is no such file, it holds no checkpoint, it holds objects other than
            plain tensors and containers, it is a checkpoint of another model, or what fits has no usable values.
    """
    path = Path(path)
    found = read_entries(path)
    if not partial:
        otherwise = ", or model.partial=true, which takes all but its last layer"
        check_stride(found.heatmap_stride, heatmap_stride(model), path, otherwise)
    return fill(model, found, path, partial)


def fill(model: nn.Module, found: Found, path: Path, partial: bool = False) -> CheckpointReport:
    """`load_checkpoint` of what was read of the file at `path`, whose stride was checked."""
    own = model.state_dict()
    reading = best_reading(found.entries, own, found.source.rpartition(".")[2] in PUBLISHED_KEYS)
    entries = reading.entries
    fitting = [name for name in own if name in entries and shape_of(entries[name]) == own[name].shape]
    fits = set(fitting)
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    report = CheckpointReport(
        loaded=fitting,
        missing=[name for name in own if name not in entries],
        unexpected=[name for name in entries if name not in own],
        mismatched=[name for name in own if name in entries and name not in fits],
        share=sum(sizes.get(name, 0) for name in fitting) / max(sum(sizes.values()), 1),
        source=found.source,
        others=found.others,
        prefix=reading.prefix,
        layout=reading.layout,
        decoder=theirs if (theirs := decoder_of(entries)) and decoder_of(own) not in (None, theirs) else None,
    )
    check_fit(report, reading, own, path, partial)
    check_values({name: entries[name] for name in fitting}, own, path)
    model.load_state_dict({name: entries[name] for name in fitting}, strict=False)
    return report


def best_reading(entries: Mapping[str, Tensor], own: Mapping[str, Tensor], published: bool) -> Reading:
    """The file's entries by the model's names, as they are or without the prefix that lets most elements fit."""
    by_plain = {plain_name(name): name for name in own}
    readings = [_reading("", dict(entries), own, published)]
    for prefix in prefixes_in(entries):
        stripped = {by_plain.get(name, name): value for name, value in without_prefix(entries, prefix).items()}
        readings.append(_reading(_taken_off(entries, prefix), stripped, own, published))

    def fitting(reading: Reading) -> int:
        return sum(v.numel() for name, v in reading.entries.items() if name in own and shape_of(v) == own[name].shape)

    return max(readings, key=fitting)  # of equals the first, which takes least away


def _reading(prefix: str, entries: dict[str, Tensor], own: Mapping[str, Tensor], published: bool) -> Reading:
    seen = [layout for layout in known() if layout.is_seen(entries) and (layout.ours or not layout.is_seen(own))]
    for layout in seen:
        return Reading(prefix, layout.title, with_table_of(own, layout.to_own(entries)))
    return Reading(prefix, PUBLISHED if published else OWN, entries)


TABLE = "backbone.pos_embed"


def with_table_of(own: Mapping[str, Tensor], entries: dict[str, Tensor]) -> dict[str, Tensor]:
    """The entries with their table of positions brought to the model's grid, where both have one of the same width."""
    table, wanted = entries.get(TABLE), own.get(TABLE)
    if table is None or wanted is None or table.shape == wanted.shape or table.shape[2:] != wanted.shape[2:]:
        return entries
    found = resized_table(table, TABLE_GRID)
    return entries if found is None else {**entries, TABLE: found}


def _taken_off(entries: Mapping[str, Tensor], prefix: str) -> str:
    """What a file's names are without where wrappers and `prefix` are taken off."""
    for name in entries:
        left = plain_name(name).removeprefix(prefix)
        if name != left and name.endswith(left):
            return name.removesuffix(left)
    return ""


def check_fit(report: CheckpointReport, reading: Reading, own: Mapping[str, Tensor], path: Path, partial: bool) -> None:
    """Raise InputError where the file is a checkpoint of another model."""
    everything = report.mismatched + report.missing + report.unexpected
    if not report.share:
        differing = everything
    elif partial:
        differing = []
    else:
        differing = differences(report, reading.layout)
        if not differing and reading.layout == PUBLISHED and report.share < LEAST_SHARE:
            differing = everything
    if not differing:
        return
    named = [describe(name, own, reading.entries) for name in differing[:SHOWN]]
    more = ", ..." if len(differing) > SHOWN else ""
    fits = f"; {percent(report.share)} of the parameters fit: model.partial=true takes these" if report.share else ""
    count = f"{len(differing)} entries do not match{'' if report.share else ' and none fits'}"
    key = f" (model.decoder={report.decoder})" if report.decoder else ""
    theirs, here = variant_of(reading.entries), variant_of(own)
    by_variant = all(name in REPLACED or is_position_embedding(name) for name in differing)
    if by_variant and theirs and here and theirs != here:
        what, remedy = f"variant, model.variant={theirs} where this is {here}", f"set model.variant={theirs}"
    else:
        what, remedy = "model", f"build the model that it was saved from{key}"
    raise InputError(
        f"{path} is a checkpoint of another {what}: {count}, {', '.join(named)}{more};"
        f" {remedy}, or give one of this model{fits}"
    )


def check_stride(stored: int | None, own: int, path: Path, otherwise: str = "") -> None:
    """Raise InputError where a run's file is of a model of another `model.heatmap_stride`."""
    if stored not in (None, own):
        raise InputError(
            f"{path} is of a model whose heatmaps have stride {stored}, and here it is {own}: set model.heatmap_stride="
            f"{stored}{otherwise}"
        )


def percent(share: float) -> str:
    """A share in words that are 0 or 100 % only where it is."""
    return "less than 1 %" if 0 < share < 0.01 else f"{int(100 * share)} %"


def differences(report: CheckpointReport, layout: str) -> list[str]:
    """The entries that make a file a checkpoint of another model; empty for one of this model."""
    if layout == OWN:
        return report.mismatched + report.missing + [name for name in report.unexpected if name not in NO_WEIGHTS]
    needed = [name for name in report.missing if not is_position_embedding(name) and name != CLASS_TOKEN]
    unknown = [name for name in report.unexpected if name not in REPLACED]
    return [name for name in report.mismatched + needed + unknown if name.startswith("backbone.")]


CLASS_TOKEN = "backbone.cls_token"

REPLACED = {TABLE, CLASS_TOKEN}
"""Entries of an official ViTPose backbone that ours does without: see `GlobalPosition`."""


def describe(name: str, own: Mapping[str, Tensor], entries: Mapping[str, Tensor]) -> str:
    """One entry that does not match, for an error: its name and why."""
    if name not in entries:
        return f"{name} (not in the file)"
    if name not in own:
        return f"{name} (not in this model)"
    return f"{name} (shape {shape_of(entries[name])}, here {tuple(own[name].shape)})"


# --- values ---------------------------------------------------------------------------------------------


def check_values(entries: Mapping[str, Tensor], own: Mapping[str, Tensor], path: Path) -> None:
    """Raise InputError where an entry that fits holds what the model's cannot: by name."""
    faults = {name: fault for name, value in entries.items() if (fault := fault_of(value, own[name]))}
    if faults:
        named = [f"{name} {fault}" for name, fault in list(faults.items())[:SHOWN]]
        more = f" and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
        raise InputError(
            f"{path} cannot be loaded: {', '.join(named)}{more}; save plain, finite weights, or give another checkpoint"
        )


def fault_of(value: Tensor, own: Tensor) -> str | None:
    """Why an entry of a file cannot stand in for the model's; None where it can. Other float types are cast."""
    for wrong, what in (
        (value.is_meta, "has no values (a meta tensor)"),
        (value.is_quantized, "is quantised"),
        (value.layout != torch.strided, "is sparse"),
        (value.is_complex(), "is complex"),
    ):
        if wrong:
            return what
    if own.is_floating_point() and not value.is_floating_point():
        return f"is {_type(value)} where the model has {_type(own)}"
    known = value.to(torch.float64) if value.is_floating_point() else value
    if not torch.isfinite(known).all():
        return "is not finite (NaN or infinite)"
    if not torch.isfinite(known.to(own.dtype)).all():
        return f"holds numbers beyond {_type(own)}"
    if not own.is_floating_point() and not torch.equal(known.to(own.dtype).to(known.dtype), known):
        return f"holds fractions where the model has {_type(own)}"
    return None


def _type(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")

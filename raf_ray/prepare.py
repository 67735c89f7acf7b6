"""``python -m raf_ray.prepare``: cut each client's people at its own tier, once, into Parquet to train from."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from raf_ray.cli import Parser, add_config_arguments, config_from, run_command
from raf_ray.config.help import PRECEDENCE, preset_lines
from raf_ray.data.prepared import CLIENTS_PER_FILE
from raf_ray.errors import InputError
from raf_ray.masking import masked_in
from raf_ray.paths import given_path
from raf_ray.resolution import tier_label
from raf_ray.storage import is_uri, open_storage

if TYPE_CHECKING:
    from raf_ray.data.prepared.shards import Written
    from raf_ray.experiment.shards import PreparedShards

TABLE_ROWS = 30
"""Clients that the table shows one by one; of more, a row a tier."""

EXAMPLES = """examples:
  python -m raf_ray.prepare --output shards data.augment=true
  python -m raf_ray.prepare --output shards --encoding jpeg data.name=coco data.root=DIR data.people_per_client=null
  python -m raf_ray.run data.augment=true data.name=shards data.root=shards

A shard holds no finer pixels than its client's tier, and as much around each person as data.augment reaches. Training
from PNG shards gives the same bits as training from the pictures with the same words (but for people left out for
a bad picture); JPEG, quality 95, is about a third of the size.
Fixed when prepared: the seed's split and partition, the clients' tiers and order, the joints, the margins.
Free in a run: fewer people (the first stored), data.upsampled, less augmentation, another seed for all else, and
evaluation sizes for which the held-out pictures suffice. These are not reduced, but hold only what scoring at
evaluation.resolutions needs; smaller sizes reach farther, so name the smallest when preparing.
A comparison's one-tier references have other shards: prepare those apart, or leave them out with --only.
"""


def parser() -> argparse.ArgumentParser:
    lines = ["presets:", *preset_lines(), "", PRECEDENCE, "All keys: python -m raf_ray.run --help."]
    parser = Parser(
        prog="python -m raf_ray.prepare",
        description="Cut each client's people at its own tier into Parquet files, with an index, to train from.",
        epilog=EXAMPLES + "\n" + "\n".join(lines),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_config_arguments(parser)
    parser.add_argument(
        "--output",
        metavar="DIR",
        required=True,
        help="folder for the shards, or the URI of one such as s3://BUCKET/shards",
    )
    parser.add_argument("--encoding", choices=("png", "jpeg"), default="png", help="of pictures (default: png)")
    parser.add_argument("--clients-per-file", metavar="N", type=int, default=CLIENTS_PER_FILE,
                        help=f"clients in one Parquet file (default: {CLIENTS_PER_FILE})")  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="replace the shards in --output")
    return parser


def main(words: Sequence[str]) -> None:
    # Options and key=value words may come in any order.
    arguments = parser().parse_intermixed_args(words)
    if arguments.clients_per_file < 1:
        raise InputError(f"--clients-per-file {arguments.clients_per_file}: it must be at least 1")
    config = config_from(arguments)
    given = arguments.output
    output = open_storage(given, "--output", writes=True) if is_uri(given) else given_path(given, "--output")

    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from raf_ray.experiment.shards import prepare_shards
    from raf_ray.terminal import make_console, warn

    console = make_console(120)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("people", total=None)
        prepared = prepare_shards(
            config, output, encoding=arguments.encoding, clients_per_file=arguments.clients_per_file,
            overwrite=arguments.overwrite, begin=lambda total: progress.update(bar, total=total),
            advance=lambda: progress.advance(bar),
        )  # fmt: skip
    for note in prepared.notes:
        warn(console, note)
    console.print(summary(prepared))
    for line in closing_lines(prepared, arguments):
        console.print(line, highlight=False, soft_wrap=True)


def summary(prepared: PreparedShards) -> Any:
    """The table at the end: a row a client (or, of many, a tier), then the held-out splits."""
    from rich.table import Table

    many = len(prepared.clients) > TABLE_ROWS
    groups: dict[str, list[Written]] = {}
    for one in prepared.clients:
        groups.setdefault(one.record.tier if many else one.record.name, []).append(one)
    table = Table(title=f"Prepared shards ({prepared.index.encoding})", title_justify="left")
    table.add_column("clients" if many else "client", no_wrap=True)
    for title in ("tier", "people", "upsampled", "MB", "people/s"):
        table.add_column(title, justify="right", no_wrap=True)
    for name, group in groups.items():
        first = group[0].record
        people = sum(one.record.people for one in group)
        upsampled = sum(one.record.people * one.record.upsampled for one in group) / people
        megabytes = sum(one.picture_bytes for one in group) / 1e6
        speed = people / sum(one.seconds for one in group)
        table.add_row(
            str(len(group)) if many else name, tier_label(first.tier, first.size),
            str(people), f"{100 * upsampled:.0f} %", f"{megabytes:.1f}", f"{speed:.0f}",
        )  # fmt: skip
    table.add_section()
    for split, record in prepared.index.held_out.items():
        megabytes = prepared.held_out_bytes[split] / 1e6
        table.add_row(split, "unreduced", str(record.people), "", f"{megabytes:.1f}", "", style="dim")
    return table


def closing_lines(prepared: PreparedShards, arguments: argparse.Namespace) -> Iterator[str]:
    """Who was left out, where the shards are, and the command that trains from them."""
    told = [f"{name} {count}" for name, count in prepared.left_out.items() if count]
    if told:
        shown = ", ".join(told[:6]) + (", ..." if len(told) > 6 else "")
        yield f"People left out because their picture could not be read: {sum(prepared.left_out.values())} ({shown})."
    files = len({one.record.file for one in prepared.clients}) + len(prepared.index.held_out)
    yield f"Shards: {prepared.folder} (index.json and {files} Parquet files)"
    words = ["python", "-m", "raf_ray.run"]
    for preset in arguments.preset:
        words += ["--preset", preset]
    if arguments.config:
        words += ["--config", arguments.config]
    words += [word for word in arguments.overrides if word.partition("=")[0] not in ("data.name", "data.root")]
    yield masked_in(f"Train from them: {shlex.join([*words, 'data.name=shards', f'data.root={prepared.folder}'])}")


if __name__ == "__main__":
    sys.exit(run_command(main))

"""checkpoint.pt: all that a run needs to go on, and whether a file is this run's."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from raf_ray.algorithms.interface import Memory
from raf_ray.errors import InputError
from raf_ray.files import Json
from raf_ray.plain_tensors import save_plain
from raf_ray.state import Layout
from raf_ray.training.exchange import Down

if TYPE_CHECKING:
    import torch

STATE = "global state"
"""Among an older state's tensors, the state itself; the others went down beside it"""


@dataclass(frozen=True)
class Checkpoint:
    """All that a run needs to go on after `round` whole rounds."""

    round: int
    buffer: np.ndarray
    """(num_bytes,) uint8 global state"""
    server: Memory
    """What the method and transforms keep on the server"""
    clients: dict[str, int]
    """Client name -> round after which it kept what it keeps; see `raf_ray.runs.memories`"""
    account: Json
    """`raf_ray.federation.accounting.Account.state`"""
    older: tuple[Down, ...] = ()
    """Older states that clients are at, where the server does not wait for whole rounds"""


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    values = {
        "round": checkpoint.round,
        "buffer": _tensor(checkpoint.buffer),
        "server": {name: _tensor(array) for name, array in checkpoint.server.items()},
        "clients": checkpoint.clients,
        "account": checkpoint.account,
        "older": {
            down.version: {name: _tensor(array) for name, array in {STATE: down.state, **down.vectors}.items()}
            for down in checkpoint.older
        },
    }
    save_plain(values, path)


def _tensor(array: np.ndarray) -> torch.Tensor:
    """Of its memory where it may be written to, which torch asks for."""
    import torch

    return torch.from_numpy(array if array.flags.writeable else array.copy())


def read_checkpoint(path: Path, layout: Layout, clients: Collection[str], rounds: int) -> Checkpoint:
    """The checkpoint in a file.

    Args:
        layout: of the run's model.
        clients: names of the run's clients.
        rounds: of the whole run.

    Raises InputError where it cannot be read, or is of another run.
    """
    import torch

    try:
        values = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # torch raises a different type for every kind of damage
        raise InputError(f"{path} cannot be read ({type(error).__name__}); start again with --overwrite") from error
    try:
        return _checkpoint_of(values, layout, clients, rounds)
    except ValueError as error:
        raise InputError(not_this_run(path, error)) from error


def not_this_run(path: Path, error: ValueError) -> str:
    return f"{path} is not this run's: {error}; start again with --overwrite"


def _checkpoint_of(values: object, layout: Layout, known: Collection[str], rounds: int) -> Checkpoint:
    """What a checkpoint file holds, checked. Raises ValueError saying what is wrong."""
    names = {field.name for field in fields(Checkpoint)}
    if not isinstance(values, dict) or not names & set(values):
        raise ValueError("it is no checkpoint")
    if set(values) != names:
        odd = sorted(map(str, names ^ set(values)))[0]
        raise ValueError(f"it holds {'no' if odd in names else 'a'} '{odd[:40]}', as one of another version of raf-ray")
    done, buffer, server, clients, account, older = (
        values[name] for name in ("round", "buffer", "server", "clients", "account", "older")
    )
    if type(done) is not int or not 1 <= done <= rounds:
        raise ValueError(f"its round is {done!r:.40}, of {rounds} rounds")
    state = _state_of(buffer, layout)
    if not isinstance(clients, dict) or not set(clients) <= set(known):
        raise ValueError("its clients are others")
    if not all(type(kept) is int and 1 <= kept <= done for kept in clients.values()):
        raise ValueError("its clients are of no round of it")
    if not isinstance(account, dict):
        raise ValueError("it holds no totals")
    if not isinstance(older, dict) or not all(type(version) is int and 0 <= version < done for version in older):
        raise ValueError("its older states are of no round of it")
    downs = (Down(version, *_split(_arrays(held), layout)) for version, held in older.items())
    return Checkpoint(done, state, _arrays(server), clients, account, tuple(downs))


def _split(held: Memory, layout: Layout) -> tuple[np.ndarray, Memory]:
    """An older state, and what went down beside it."""
    return _state_of(held.pop(STATE, None), layout), held


def _state_of(buffer: object, layout: Layout) -> np.ndarray:
    """(num_bytes,) uint8 of a tensor. Raises ValueError where it is no state of this model."""
    array = np.asarray(buffer)
    if array.dtype != np.uint8 or array.shape != (layout.num_bytes,):
        raise ValueError(f"its state is not the {layout.num_bytes} bytes of this model")
    if not np.isfinite(layout.floats(array)).all():
        raise ValueError("its state holds NaN or Inf")
    return array


def _arrays(kept: object) -> Memory:
    if not isinstance(kept, dict) or not all(hasattr(tensor, "numpy") for tensor in kept.values()):
        raise ValueError("what its method keeps is no vectors")
    return {name: tensor.numpy() for name, tensor in kept.items()}

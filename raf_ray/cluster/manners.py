"""What Ray says and shows of the process that drives it: nothing beside our own sentences, and no password."""

from __future__ import annotations

from raf_ray.masking import masked_in


def mask_command_line() -> None:
    """Ray's dashboard shows a driver's whole command line to everybody: without the passwords in it."""
    from ray._private import utils

    if getattr(utils.get_entrypoint_name, "is_masked", False):
        return
    whole = utils.get_entrypoint_name

    def masked_entrypoint() -> str:
        return masked_in(whole())

    masked_entrypoint.is_masked = True  # type: ignore[attr-defined]
    utils.get_entrypoint_name = masked_entrypoint


def print_errors(wanted: bool) -> None:
    """Whether Ray prints its own paragraphs about lost processes to stdout; their cause is in our sentence."""
    from ray._private import worker

    worker._worker_logs_enabled = wanted

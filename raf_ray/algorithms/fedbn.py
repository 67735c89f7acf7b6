"""FedBN (Li et al. 2021, "FedBN: Federated learning on non-IID features via local batch normalization", section 3)."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from pydantic.dataclasses import dataclass

from raf_ray.algorithms.fedavg import FedAvg
from raf_ray.algorithms.interface import PARAMETERS, Setting

if TYPE_CHECKING:
    from raf_ray.state import Entry


@dataclass(frozen=True, config=PARAMETERS)
class FedBN(FedAvg):
    """FedAvg of all but the norms: their scale and shift, and the statistics that they gather, stay with each client.

    The paper's norms are batch norms. Of a model with group or layer norms, which gather nothing, the scales and
    shifts stay.
    """

    def is_private(self, entry: Entry) -> bool:
        return entry.norm != ""

    def requires(self, setting: Setting) -> str | None:
        if any(map(self.is_private, setting.layout.entries)):
            return None
        return (
            "the model has no norm layers, so nothing would stay with the clients; choose a model with norms, or fedavg"
        )

    def says(self, setting: Setting) -> str | None:
        own = [entry for entry in setting.layout.entries if self.is_private(entry)]
        kinds = ", ".join(f"{count} x {kind}" for kind, count in Counter(entry.norm for entry in own).items())
        gathered = sum(entry.size for entry in own if entry.kind == "statistics")
        kept = sum(entry.size for entry in own if entry.kind == "weights")
        what = f"{kept} scales and shifts" + (f" and {gathered} running statistics" if gathered else "")
        return (
            f"fedbn: {what} stay with each client (entries: {kinds}){'' if gathered else '; they gather no statistics'}"
        )

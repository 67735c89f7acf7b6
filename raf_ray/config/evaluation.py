"""How models are scored, and at which sizes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from raf_ray.config.section import Positive, Section
from raf_ray.metrics import built_in

if TYPE_CHECKING:
    MetricName = str
else:  # what the files of the room name
    MetricName = Literal[*built_in()]


class EvaluationConfig(Section):
    """How models are scored."""

    resolutions: list[str] = ["160x120", "128x96", "112x84", "96x72", "80x60", "64x48", "48x36"]
    """Sizes of the drift curve; the trained tiers are always added."""
    every: Positive = 4
    """Rounds between scorings on `val` (and the last round)."""
    round_sizes: Literal["tiers", "all"] = "tiers"
    """Sizes of those scorings: the trained tiers, or all of `resolutions` too."""
    train_people: Annotated[int, Field(ge=0)] = 0
    """Of the clients' own people, drawn by the seed, to be scored beside `val`: does a federation overfit?"""
    metric: MetricName = "pck_torso_0.2"
    """PCKh by head box, by neck to head top; PCK by torso; COCO's OKS AP. Of poses: other tasks have their own."""
    val_metric: MetricName | None = None
    """Metric of the rounds' scores on `val`, where its people lack what `metric` needs; null: the same."""
    boxes: str | None = None
    """File of detected boxes (COCO's result form) in the final split's pictures: an AP beside that of given boxes."""
    decode: Literal["argmax", "dark", "udp_dark"] = "argmax"
    """Peak with a quarter-pixel offset; DARK (near a border: a Gaussian fitted around the peak); UDP's, unbounded."""
    flip_test: bool = False
    """Average with the mirror image's heatmaps."""
    upsample: Literal["none", "nearest", "bilinear", "bicubic"] = "none"
    """Bring smaller test images to a trained size before the model (the RAF paper's baseline of interpolation)."""
    upsample_to: Literal["next", "largest"] = "next"
    """A size that is not trained to the next trained one above it, or all smaller sizes to the largest trained one."""
    split: Literal["test", "val"] = "test"
    """Split of the final table; `val` leaves the test people unseen (for searches)."""
    batch_size: Positive = 50
    """People a forward pass."""
    own_models: Positive = 8
    """Clients of a tier that are scored by their own models, where the method leaves them some of it (`fedbn` ...)."""

"""What can be asked for: one typed, frozen tree. The text under each field is its help on the command line.

The defaults are those of the `demo` preset: a federation that learns on a CPU in minutes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from raf_ray.config.augment import AugmentConfig
from raf_ray.config.devices import DevicesConfig
from raf_ray.config.evaluation import EvaluationConfig
from raf_ray.config.methods import AggregationConfig, AlgorithmConfig, AttackConfig, TransformsConfig
from raf_ray.config.resources import ResourcesConfig
from raf_ray.config.section import ImportPath, People, Positive, SecretUri, Section, Share, Use, fault_of_name
from raf_ray.config.task import TaskConfig
from raf_ray.plugins import names_in

if TYPE_CHECKING:
    SourceName = str
    ModelName = str
else:  # what the files of these rooms name
    SourceName = Literal["synthetic", *names_in("raf_ray.data.sources"), "shards"]
    ModelName = Literal[*names_in("raf_ray.models")]


class ResolutionConfig(Section):
    """Which sizes exist."""

    tiers: dict[str, str] = {"high": "128x96", "mid": "96x72", "low": "64x48"}
    """Tier names and their sizes, height x width. A preset or file that names tiers replaces them all."""

    @field_validator("tiers")
    @classmethod
    def _names(cls, value: dict[str, str]) -> dict[str, str]:
        for name in value:
            fault = fault_of_name(name)
            if fault:
                raise ValueError(f"resolution.tiers: {name[:80]!r} {fault}; a tier's name is part of file names")
        return value


class DataConfig(Section):
    """Whose people, and how they are split."""

    name: SourceName | ImportPath = "synthetic"
    """`synthetic`, a data set (docs/data.md), `shards` (made by raf_ray.prepare), or `package.module:function`."""
    root: str | None = None
    """Folder of the data set or of the prepared shards."""
    annotations: dict[Literal["train", "test"], str] | None = None
    """Annotation files below the root, by split; null: the data set's official layout."""
    images: dict[Literal["train", "test"], str] | None = None
    """Picture folders below the root, by split; null: the data set's official layout."""
    skeleton: Literal["coco17", "mpii16", "lsp14"] | ImportPath | None = None
    """Joints of a data set whose form leaves them open: a known set or `package.module:SKELETON`; null: its own."""
    category: str | None = None
    """Whose labels, by the category's name, where a file has several with joints; null: the one, or `person`."""
    people_per_client: Annotated[People | None, Use.TRAINING] = 600
    """Training people a client (of shards: the first); null: all, in equal parts. Not used by `partition: counts`."""
    val_people: People | None = 200
    """People that rounds are scored on (of shards: the first); null: the whole validation split (synthetic: 200)."""
    test_people: People | None = 400
    """People that the final table is scored on (of shards: the first); null: the whole test split (synthetic: 400)."""
    val_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of the training pictures that become `val` (coco, mpii and their like; shards: as prepared)."""
    test_fraction: Annotated[float | None, Field(gt=0, lt=1)] = None
    """Share of the training pictures that become `test`, for exports without a test split; null: its own files."""
    partition: Annotated[
        Literal["equal", "counts", "dirichlet_size", "dirichlet_pose", "overlapping"], Use.TRAINING
    ] = "equal"
    """Same number each, `counts`, non-IID by size or pose cluster, or each drawn anew from all (the RAF authors')."""
    counts: Annotated[list[People] | None, Use.TRAINING] = None
    """Training people of each client, in order, for `partition: counts`."""
    concentration: Annotated[float, Field(gt=0), Use.TRAINING] = 0.5
    """Dirichlet concentration; smaller is less alike."""
    crop: Literal["fit", "stretch"] = "fit"
    """A box of the tier's ratio around the person, or a square squeezed into the tier (the RAF authors')."""
    codec: Literal["subpixel", "udp", "authors"] = "subpixel"
    """Joints to heatmaps and back: exact; UDP's (w - 1) rule; the RAF authors' whole pixels (docs/reproduce.md)."""
    pyramid: Literal["area", "resample"] = "area"
    """Lower levels: area averages of the tier's crop, or warped anew from the original picture (the RAF authors')."""
    augment: Annotated[AugmentConfig | None, Use.TRAINING] = None
    """`true` for HRNet's augmentation, its own keys below, or `false`."""
    on_bad_image: Literal["stop", "skip"] = "stop"
    """A picture that is missing or cannot be decoded ends the run, or its people are left out and counted."""
    allow_overlap: Annotated[bool, Use.FREE] = False
    """Go on where one picture is in two of train, val and test: scores are then of people that were trained on."""
    upsampled: Annotated[Literal["keep", "skip"], Use.TRAINING] = "keep"
    """People smaller in the picture than the client's tier: train on them, or leave them out."""
    synthetic_height: Annotated[int, Field(gt=0, le=4096)] = 160
    """Smallest height in pixels of a synthetic person's box; larger tiers upsample."""
    cache_mb: Annotated[float, Field(ge=0), Use.FREE] = 4096
    """Memory for a client's pixels; what does not fit is read and cut again every epoch."""

    @field_validator("augment", mode="before")
    @classmethod
    def _switch(cls, value: object) -> Any:
        return {True: {}, False: None}[value] if isinstance(value, bool) else value

    @model_validator(mode="after")
    def _needs(self) -> DataConfig:
        if self.name != "synthetic" and ":" not in self.name and not self.root:
            raise ValueError(f"data.root: {self.name} needs the folder of its data; set data.root=FOLDER")
        for key in ("category", "test_fraction"):
            if getattr(self, key) is not None and self.name in ("synthetic", "shards"):
                raise ValueError(f"data.{key}: {self.name} takes none; leave it out, or set data.name to a data set")
        if self.category is not None and (self.name == "mpii" or ":" in self.name):
            raise ValueError(f"data.category: {self.name} has no categories; leave it out")
        if (self.partition == "counts") != (self.counts is not None):
            raise ValueError("data.counts: give it exactly with data.partition=counts")
        return self


class ModelConfig(Section):
    """Image of any size -> heatmaps."""

    name: ModelName | ImportPath = "demo"
    """A built-in model or `package.module:function` of the number of joints."""
    depth: Literal[18, 50] = 18
    """ResNet depth of `simple_baseline`."""
    checkpoint: str | None = None
    """Weights to start from: a run's model.pt, or a published file of the model: docs/models.md says which."""
    variant: Literal["raf_ray", "vitpose", "authors"] = "raf_ray"
    """Of `vitpose_*`: positions by code and convolutions, the published table of them, or the RAF authors' model."""
    decoder: Literal["classic", "simple"] = "classic"
    """Of `vitpose_*`: two deconvolutions, or the published simple one (enlarge, then one convolution)."""
    heatmap_stride: Literal[4, 2, 1] = 4
    """Image pixels per heatmap pixel, on each side; below 4 by a finer head with pixel shuffle (docs/models.md)."""
    freeze_norms: bool | None = None
    """Batch norms keep their statistics (running mean and variance); null: the model's own default."""
    partial: bool = False
    """Take what fits of a checkpoint that fits in part only; the rest keeps its fresh values."""


class ObjectiveConfig(Section):
    """What a client minimises. Defaults are the RAF paper's; `raf_plus` and marked switches are ours."""

    name: Literal["heatmap", "multires", "mrkd"] | ImportPath = "mrkd"
    """`heatmap` (own tier only), `multires` (no distillation), `mrkd` (RAF), or `package.module:function`."""
    alpha: Share = 0.5
    """Share of the target in a student's loss; 1 is no distillation."""
    levels: Literal["tiers"] | list[str] = "tiers"
    """Pyramid below a client's own tier: every lower tier, or those of this list that are lower."""
    teacher: Literal["previous", "highest", "ensemble"] = "previous"
    """Which higher levels teach a level."""
    weighting: Literal["convex", "additive"] = "convex"
    """alpha * gt + (1 - alpha) * kd, or gt + kd_weight * kd."""
    kd_weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the distillation loss with `weighting: additive`."""
    loss: Literal["mse", "kl"] = "mse"
    """Distillation loss of heatmaps; other tasks have their own."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Temperature of `loss: kl`, and of class probabilities."""
    resize: Literal["nearest", "bilinear", "matched"] = "nearest"
    """How student and teacher come to one size; `matched` is ours."""
    level_weights: Literal["equal", "area"] | list[Annotated[float, Field(ge=0)]] = "equal"
    """Weight of each level's loss, own tier first; `area` is ours."""
    reduction: Literal["mean", "sum"] = "mean"
    """Of the losses of the levels drawn; the RAF authors': `sum` with `convex`, later `mean` with `additive`."""
    sampling: Literal["all", "pair", "random"] = "all"
    """Levels that a batch trains: all, own + one lower, or one alone; the latter two are ours."""
    own_share: Share | None = None
    """Probability of the own tier alone (`pair`, null = 0; `random`, null = 0.5); ours."""


class CohortConfig(Section):
    """Who trains in a round."""

    size: Positive | None = None
    """Clients a round; null: federation.participation of them."""
    draw: Literal["uniform", "by_tier", "by_people", "poisson"] = "uniform"
    """Each alike; each tier its share; in proportion to people; each by itself with probability `participation`."""


class FederationConfig(Section):
    """Who takes part, for how long, and where it runs."""

    clients: list[str] | dict[str, Annotated[int, Field(gt=0, le=1_000_000)]] = ["high", "mid", "low"]
    """One tier (or HxW) a client, or a number of clients a tier."""
    rounds: Positive = 11
    """Rounds of training."""
    local_epochs: Positive = 1
    """Passes over a client's people in a round."""
    participation: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the clients that train in a round, at least one; with cohort.draw=poisson each one's probability."""
    cohort: CohortConfig = CohortConfig()
    """Their number and how they are drawn."""
    engine: Annotated[Literal["ray", "in_process"], Use.FREE] = "ray"
    """Ray actors, or the same clients one after the other in this process, for a debugger; same bits."""
    on_client_failure: Literal["stop", "drop"] = "stop"
    """A client whose own work fails (a NaN loss, a bad picture) ends the run, or is left out of that round."""
    checkpoint_every: Annotated[Positive, Use.FREE] = 1
    """Rounds between checkpoints, from which --resume goes on."""

    @field_validator("clients")
    @classmethod
    def _some(cls, value: list[str] | dict[str, int]) -> list[str] | dict[str, int]:
        if not value:
            raise ValueError("federation.clients: name at least one client, such as [high, mid, low]")
        return value

    @model_validator(mode="after")
    def _cohort(self) -> FederationConfig:
        clients = sum(self.clients.values()) if isinstance(self.clients, dict) else len(self.clients)
        if self.cohort.size is not None and self.cohort.size > clients:
            raise ValueError(f"federation.cohort.size={self.cohort.size}, but there are {clients} clients; lower it")
        if self.cohort.size is not None and self.cohort.draw == "poisson":
            raise ValueError(
                "federation.cohort.size: poisson draws each client with the probability federation.participation, "
                "so that no round has a size; leave it out"
            )
        if self.cohort.size is not None and self.participation < 1:
            raise ValueError("federation.cohort.size and federation.participation say the same; give one of them")
        return self


class OptimizerConfig(Section):
    """A client's local optimiser."""

    name: Literal["adamw", "sgd"] = "adamw"
    """AdamW or SGD."""
    lr: Annotated[float, Field(gt=0)] = 6e-3
    """Peak learning rate."""
    batch_size: Positive = 8
    """People a step."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """Not applied to norms, biases and position embeddings; see `decayed`."""
    decayed: Literal["weights", "authors"] = "weights"
    """`authors`: all but names with `norm`, `bias` or `pos_embed`, as the RAF authors' code has it."""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    """AdamW's moments."""
    momentum: Share = 0.9
    """SGD's momentum."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Learning-rate factor a layer from the head down (ViTPose: 0.75); models that name layers only."""
    clip: Annotated[float, Field(gt=0)] | None = None
    """Largest gradient norm; null: none."""
    schedule: Literal["constant", "cosine", "steps"] = "cosine"
    """Learning rate over the rounds."""
    steps: list[Positive] = []
    """Rounds after which `steps` multiplies the rate by 0.1."""
    reset_each_round: bool = True
    """Make the optimiser anew each round, or keep its moments between rounds."""


class TrackingConfig(Section):
    """MLflow."""

    mlflow: bool = True
    """Log the run to MLflow."""
    uri: SecretUri | None = None
    """Tracking server; null: SQLite file mlflow.db beside the run folders. A password in it is stored nowhere."""
    experiment: str = "raf-ray"
    """MLflow experiment."""
    log_model: bool = True
    """Log the model as an MLflow pyfunc, `model/` among the run's artifacts."""
    register_model: str | None = None
    """Registered model that the logged one becomes a version of; null: none."""
    system_metrics: bool = False
    """Log CPU, memory and GPU use of this machine every 10 s."""

    @property
    def address(self) -> str | None:
        """The URI with its secrets, for who connects."""
        return None if self.uri is None else self.uri.get_secret_value()

    @model_validator(mode="after")
    def _check(self) -> TrackingConfig:
        if self.register_model is not None and not self.log_model:
            raise ValueError("tracking.register_model needs tracking.log_model=true: it registers the logged model")
        return self


class Config(Section):
    """One federation."""

    resolution: ResolutionConfig = ResolutionConfig()
    data: Annotated[DataConfig, Use.PEOPLE] = DataConfig()
    task: Annotated[TaskConfig, Use.PEOPLE] = TaskConfig()
    model: ModelConfig = ModelConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    algorithm: AlgorithmConfig = AlgorithmConfig()
    transforms: TransformsConfig = TransformsConfig()
    aggregation: AggregationConfig = AggregationConfig()
    attack: AttackConfig = AttackConfig()
    federation: FederationConfig = FederationConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    devices: DevicesConfig | None = None
    """Devices and a virtual clock, its own keys below (docs/devices.md), or null: every client is there and answers."""
    evaluation: Annotated[EvaluationConfig, Use.SETTING] = EvaluationConfig()
    resources: Annotated[ResourcesConfig, Use.SETTING] = ResourcesConfig()
    tracking: Annotated[TrackingConfig, Use.FREE] = TrackingConfig()
    seed: Annotated[int, Field(ge=0, lt=2**63), Use.PEOPLE] = 0
    """Of everything random: data, splits, initial weights, orders, augmentation."""

"""What clients' devices can do, for the virtual clock."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from raf_ray.config.section import Section, Share, Use
from raf_ray.devices.profiles import PRESETS

if TYPE_CHECKING:
    PresetName = str
else:
    PresetName = Literal[*PRESETS]

Rate = Annotated[float, Field(gt=0, le=1e9)]
"""The bound is a choice, beyond any device."""
NEEDED = ("gmacs_per_s", "mbit_down", "mbit_up")


class DeviceConfig(Section):
    """A kind of device: a preset, one's own numbers, or a preset with some of them changed."""

    preset: PresetName | None = None
    """What the other keys change; null: they say it all."""
    gmacs_per_s: Rate | None = None
    """Sustained speed in training, 10^9 multiply-accumulates a second."""
    mbit_down: Rate | None = None
    """Bandwidth from the server, 10^6 bit a second."""
    mbit_up: Rate | None = None
    """Bandwidth to the server, 10^6 bit a second."""
    availability: Annotated[float, Field(gt=0, le=1)] | None = None
    """Probability that it is there in a round; without a preset 1."""
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Probability that it is lost in the midst of a round; without a preset 0."""
    spread: Annotated[float, Field(ge=0, le=2)] | None = None
    """Sigma of the log-normal factors that a client's speed and bandwidth differ by; without a preset 0."""

    @property
    def given(self) -> dict[str, float]:
        """Its own numbers."""
        return self.model_dump(exclude={"preset"}, exclude_none=True)


class DevicesConfig(Section):
    """Devices and a virtual clock: when rounds would end on them, and who would answer."""

    profiles: dict[str, DeviceConfig]
    """Tier or client -> phone|camera|workstation, or a device's own keys below."""
    over_select: Annotated[float, Field(ge=1, le=100)] = 1.3
    """Clients asked for each that is wanted; the first to answer are taken (Bonawitz et al. 2019: 1.3)."""
    deadline_s: Annotated[float, Field(gt=0)] | None = None
    """Virtual seconds after which a round waits for nobody; null: until all have answered or are lost."""
    retry_s: Annotated[float, Field(gt=0)] = 60.0
    """Virtual seconds that a round takes for which no client is there."""
    target: Annotated[Share | None, Use.SETTING] = None
    """Score in [0, 1] on val, mean over the trained tiers, to which virtual hours are told; null: none."""

    @field_validator("profiles", mode="before")
    @classmethod
    def _named(cls, value: object) -> Any:
        """A preset's name stands for it."""
        if not isinstance(value, dict):
            return value
        if not value:
            raise ValueError("devices.profiles: name a device for each tier, such as {high: workstation, low: phone}")
        for name, device in value.items():
            preset = device.get("preset") if isinstance(device, dict) else device
            if isinstance(preset, str) and preset not in PRESETS:
                raise ValueError(f"devices.profiles.{name}: unknown preset '{preset[:80]}'{_near(preset, PRESETS)}")
            for key in device if isinstance(device, dict) else ():
                if key not in DeviceConfig.model_fields:
                    fields = DeviceConfig.model_fields
                    raise ValueError(f"devices.profiles.{name}: unknown key '{str(key)[:80]}'{_near(str(key), fields)}")
        return {name: {"preset": device} if isinstance(device, str) else device for name, device in value.items()}

    @model_validator(mode="after")
    def _whole(self) -> DevicesConfig:
        for name, device in self.profiles.items():
            lacks = [key for key in NEEDED if getattr(device, key) is None]
            if device.preset is None and lacks:
                raise ValueError(f"devices.profiles.{name}: give {', '.join(lacks)} too, or a preset to start from")
        return self


def _near(name: str, known: Any) -> str:
    close = difflib.get_close_matches(name[:100], list(known), n=1)
    return f"; did you mean '{close[0]}'?" if close else f" (known: {', '.join(known)})"

"""What an actor's process logs, so that the dashboard's log page of the actor reads by itself."""

from __future__ import annotations

import logging


class ActorLog(logging.Formatter):
    """Puts `[client-high-003 round 7]` before every line that this process logs, a user's own code included."""

    def __init__(self, actor: str) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")
        self._actor = actor
        self.doing = ""
        """Such as `round 7`."""

    @classmethod
    def install(cls, actor: str) -> ActorLog:
        """Log to stderr, which Ray keeps as the actor's log."""
        log = cls(actor)
        handler = logging.StreamHandler()
        handler.setFormatter(log)
        root = logging.getLogger()
        root.addHandler(handler)
        root.setLevel(logging.INFO)
        return log

    def formatMessage(self, record: logging.LogRecord) -> str:
        prefix = f"{self._actor} {self.doing}".strip()
        record.message = f"[{prefix}] {record.message}"
        return super().formatMessage(record)

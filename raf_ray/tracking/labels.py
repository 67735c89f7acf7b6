"""What every MLflow run is labelled with, besides its parameters: config hash, seed, tiers, the code's state."""

from __future__ import annotations

import subprocess
from pathlib import Path

from raf_ray.config import Config
from raf_ray.config.loading import config_hash
from raf_ray.resolution import tier_label
from raf_ray.training.clients import Plans

GIT_SECONDS = 2.0


def run_tags(config: Config, plans: Plans, folder: Path) -> dict[str, str]:
    return {
        "run_folder": str(folder.resolve()),
        "raf_ray.config_hash": config_hash(config),
        "raf_ray.seed": str(config.seed),
        "raf_ray.tiers": ", ".join(tier_label(tier.name, tier.size) for tier in plans.tiers),
        **git_tags(),
    }


def git_tags() -> dict[str, str]:
    """Commit of the working directory's checkout and whether tracked files differ from it; empty outside of one."""
    try:
        commit = _git("rev-parse", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return {}
    return {"mlflow.source.git.commit": commit, "raf_ray.git_dirty": str(bool(changed)).lower()}


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], capture_output=True, text=True, timeout=GIT_SECONDS, check=True)
    return done.stdout.strip()

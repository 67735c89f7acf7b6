"""What a key is for is written once, in the tree: resumes, the config's hash and searches go by it."""

from __future__ import annotations

import pytest

from raf_ray.config import Config, load_config, write_yaml
from raf_ray.config.loading import config_hash, dump_yaml, parse_override, use_of, walk
from raf_ray.config.section import Use
from raf_ray.errors import InputError
from raf_ray.experiment.run import check_output
from raf_ray.search.space import check_space, parse_space
from raf_ray.search.spec import SearchConfig, check_search
from raf_ray.search.study import SPEC, _check_same, _spec_values

FREE = {
    "data.allow_overlap=true": "data.allow_overlap",
    "data.cache_mb=0.5": "data.cache_mb",
    "federation.engine=in_process": "federation.engine",
    "federation.checkpoint_every=3": "federation.checkpoint_every",
    "resources.cpus_per_client=0.5": "resources.cpus_per_client",
    "resources.labels={high: {kind: edge}}": "resources.labels",
    "resources.dashboard=false": "resources.dashboard",
    "resources.clients_per_actor=2": "resources.clients_per_actor",
    "resources.retries=0": "resources.retries",
    "resources.wait_for_room_s=1": "resources.wait_for_room_s",
    "resources.profile={client: client-high-000, round: 1}": "resources.profile",
    "tracking.mlflow=false": "tracking.mlflow",
    "tracking.uri=http://host:5000": "tracking.uri",
    "tracking.experiment=other": "tracking.experiment",
    "tracking.log_model=false": "tracking.log_model",
    "tracking.register_model=mine": "tracking.register_model",
    "tracking.system_metrics=true": "tracking.system_metrics",
}
"""Each free key with another value than its default."""

BOUND = (
    "seed=1", "data.val_people=5", "data.on_bad_image=skip", "data.synthetic_height=100", "data.augment=true",
    "data.augment.flip=0", "data.people_per_client=7", "model.depth=50", "objective.alpha=0.1", "optimizer.lr=0.1",
    "federation.rounds=3", "federation.participation=0.5", "resolution.tiers={high: 96x72, mid: 64x48, low: 48x36}",
    "evaluation.batch_size=7", "evaluation.every=2", "evaluation.decode=dark", "resources.threads=2",
    "resources.precision=bf16", "resources.gpus_per_client=0.5",
)  # fmt: skip
"""Others, with another value than their default; some change no more than bits."""


def test_the_free_keys_are_these():
    free = {key for key, _ in walk(Config) if use_of(key) is Use.FREE}
    assert free == {*FREE.values(), "resources.profile.client", "resources.profile.round"}


def resumed(tmp_path, word):
    """Go on with a run of the demo, changed by `word`."""
    (tmp_path / "config.yaml").write_text(write_yaml(Config()))
    check_output(tmp_path, load_config(overrides=[word]), resume=True, overwrite=False)


def search(base):
    return check_search(
        "mine", {"base": base, "param_space": {"objective.alpha": {"choice": [0.2, 0.8]}}, "search_alg": "grid"}
    )


def resumed_search(tmp_path, word):
    (tmp_path / SPEC).write_text(dump_yaml(_spec_values(search({}))))
    _check_same(search(parse_override(word)), tmp_path)


@pytest.mark.parametrize(("word", "key"), FREE.items())
def test_a_free_key_keeps_the_hash_may_change_on_a_resume_of_runs_and_searches_and_is_not_searched(word, key, tmp_path):
    assert config_hash(load_config(overrides=[word])) == config_hash(Config())
    resumed(tmp_path, word)
    resumed_search(tmp_path, word)
    with pytest.raises(InputError, match=rf"{key} cannot be searched: no result depends on it; set it in base"):
        check_space(parse_space({key: {"choice": [1]}}), {})


@pytest.mark.parametrize("word", BOUND)
def test_any_other_key_changes_the_hash_and_stays_as_it_is_on_a_resume(word, tmp_path):
    assert config_hash(load_config(overrides=[word])) != config_hash(Config())
    with pytest.raises(InputError, match=r"cannot resume .* with another config: "):
        resumed(tmp_path, word)


def test_a_search_varies_what_is_trained_and_nothing_else():
    for key, _ in walk(Config):
        if use_of(key) is not Use.TRAINING:
            with pytest.raises(InputError, match=r"cannot be searched|changes the people that trials are scored on"):
                check_space(parse_space({key: {"choice": [1]}}), {})
    varied = {"data.augment.flip": [0.1], "data.concentration": [0.3], "resolution.tiers.low": ["48x36"],
              "model.name": ["demo"], "algorithm.weighting": ["equal"], "federation.participation": [0.5]}  # fmt: skip
    check_space(parse_space({key: {"choice": values} for key, values in varied.items()}), {"data": {"augment": True}})


def test_a_resumed_search_may_change_how_much_is_tried_and_not_what():
    free = {key for key, _ in walk(SearchConfig) if use_of(key, SearchConfig) is Use.FREE}
    assert free == {"num_samples", "max_concurrent_trials", "time_budget_s", "max_failures",
                    *(f"resources.{name}" for name in SearchConfig().resources.model_dump())}  # fmt: skip

"""The typed tree: precedence, YAML 1.2, one clear sentence for what is wrong."""

from __future__ import annotations

import subprocess
import sys

import pytest

from raf_ray.config import Config, load_config, write_yaml
from raf_ray.config.help import key_lines, preset_lines
from raf_ray.config.loading import differences, parse_yaml, preset_names, walk
from raf_ray.errors import InputError


def test_yaml_is_read_by_the_rules_of_1_2():
    assert parse_yaml("[4e-3, off, yes, true, null, 010]") == [0.004, "off", "yes", True, None, 10]


def test_presets_then_file_then_overrides_later_ones_win(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("objective: {alpha: 0.7}\nfederation: {rounds: 3}\n")
    config = load_config(["demo", "raf_plus"], file, ["federation.rounds=4"])
    assert config.objective.sampling == "pair"  # raf_plus over demo
    assert config.objective.alpha == 0.7  # file over presets
    assert config.federation.rounds == 4  # override over file
    assert load_config(["raf_plus", "demo"]).objective.sampling == "all"


def test_the_defaults_are_the_demo():
    assert load_config(["demo"]) == Config()


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_is_valid_and_says_what_it_is(name):
    config = load_config([name], overrides=["data.root=somewhere"])
    assert isinstance(config, Config)
    assert any(line.split()[0] == name and len(line.split()) > 4 for line in preset_lines())


def test_raf_plus_sets_objective_keys_only_and_stacks_on_the_paper():
    plain = load_config(["paper_mpii"], overrides=["data.root=x"])
    plus = load_config(["paper_mpii", "raf_plus"], overrides=["data.root=x"])
    assert set(differences(plain, plus)) == {"objective.level_weights", "objective.resize", "objective.sampling"}


def test_the_paper_presets_hold_the_papers_method():
    config = load_config(["paper_mpii"], overrides=["data.root=x"])
    assert (config.model.name, config.optimizer.lr, config.optimizer.layer_decay) == ("vitpose_small", 5e-4, 0.75)
    assert (config.federation.rounds, config.optimizer.steps, config.data.people_per_client) == (210, [170, 200], 4000)
    assert (config.objective.alpha, config.objective.resize, config.evaluation.metric) == (0.5, "nearest", "pckh_0.5")


def test_the_authors_presets_differ_from_the_papers_by_their_pipeline_alone():
    for name in ("mpii", "coco"):
        paper, authors = (load_config([f"{who}_{name}"], overrides=["data.root=x"]) for who in ("paper", "authors"))
        pipeline = {"data.codec", "data.pyramid", "data.partition", "data.augment.shift", "data.augment.rotation_cut",
                    "objective.reduction", "federation.rounds", "optimizer.lr", "optimizer.clip", "optimizer.decayed",
                    "evaluation.decode", "resources.precision", "model.variant"}  # fmt: skip
        assert set(differences(paper, authors)) == pipeline | ({"data.crop"} if name == "mpii" else set())
        assert (authors.optimizer.lr, authors.optimizer.clip, authors.federation.rounds) == (2.5e-4, 0.003, 211)
        assert (paper.model.variant, authors.model.variant) == ("raf_ray", "authors")
        assert authors.data.augment.rotation_cut == 2 * authors.data.augment.rotation == (60 if name == "mpii" else 80)


def test_a_resolved_config_gives_itself_back(tmp_path):
    config = load_config(["raf_plus"], overrides=["data.augment=true", "federation.clients={high: 2, 64x48: 1}"])
    file = tmp_path / "config.yaml"
    file.write_text(write_yaml(config))
    assert load_config(file=file) == config


def test_mappings_of_clients_and_tiers_are_replaced_whole():
    config = load_config(overrides=["resolution.tiers={big: 96x72}", "federation.clients={big: 2}"])
    assert config.resolution.tiers == {"big": "96x72"}


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("federation.roundz=3", "unknown key 'federation.roundz'; did you mean 'federation.rounds'?"),
        ("objective.alpa=0.1", "did you mean 'objective.alpha'?"),
        ("federation.rounds=-1", "federation.rounds: input should be greater than 0"),
        ("objective.alpha=1.5", "objective.alpha: input should be less than or equal to 1"),
        ("objective.alpha=high", "objective.alpha: input should be a valid number"),
        ("objective.teacher=best", "objective.teacher: must be 'previous', 'highest' or 'ensemble'"),
        ("data.name=cocoo", "data.name: must be 'synthetic', 'coco', 'label_studio', 'mpii', 'yolo_pose' or 'shards'"),
        ("data.name=coco", "data.root: coco needs the folder"),
        ("federation=3", "'federation' is a section"),
        ("federation.clients=[]", "name at least one client"),
        ("data.augment.flip=2", "data.augment.flip: input should be less than or equal to 1"),
        ("seed=-1", "seed: input should be greater than or equal to 0"),
        ("rounds", "is not an override"),
        ("seed=[", "is not valid YAML"),
        ("optimizer.lr=.nan", "optimizer.lr: input should be a finite number"),
        ("data.counts=[1,2,3]", "data.counts: give it exactly with data.partition=counts"),
    ],
)
def test_a_wrong_word_gets_one_clear_sentence(word, says):
    with pytest.raises(InputError) as error:
        load_config(overrides=[word])
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_an_unknown_preset_names_the_nearest():
    with pytest.raises(InputError, match="did you mean 'raf_plus'"):
        load_config(["raf_pluss"])


def test_a_missing_or_broken_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"config file .* does not exist"):
        load_config(file=tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(InputError, match="is not valid YAML"):
        load_config(file=tmp_path / "bad.yaml")
    (tmp_path / "list.yaml").write_text("[1]")
    with pytest.raises(InputError, match="holds no mapping"):
        load_config(file=tmp_path / "list.yaml")


def test_every_key_has_its_meaning_in_the_help():
    text = "\n".join(key_lines())
    for key, field in walk(Config):
        assert field.description, key
        assert f"  {key}: " in text


def test_help_imports_nothing_heavy():
    code = (
        "import sys; sys.argv = ['run', '--help']\n"
        "from raf_ray import run\n"
        "try: run.main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'ray', 'mlflow', 'cv2', 'matplotlib', 'scipy'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "objective.alpha" in done.stdout and "paper_mpii" in done.stdout and "examples:" in done.stdout


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("algorithm.fedprox.mu=0.1", "set algorithm.name=fedprox"),
        ("aggregation.krum.bad=4", "set aggregation.name=krum"),
        ("attack.noise.std=1", "set attack.name=noise"),
        ("attack.share=0.5", "name an attack"),
        ("transforms.clip.norm=3", r"set transforms.apply=\[clip\]"),
    ],
)
def test_a_parameter_of_what_was_not_chosen_is_refused(word, says):
    with pytest.raises(InputError, match=f"{word.split('=')[0]} is of .*{says}, or leave it out"):
        load_config(overrides=[word])


def test_a_file_may_hold_the_parameters_of_what_a_word_then_chooses(tmp_path):
    (tmp_path / "a.yaml").write_text("algorithm: {fedprox: {mu: 0.5}}")
    assert load_config(file=tmp_path / "a.yaml").algorithm.name == "fedavg"
    assert load_config(file=tmp_path / "a.yaml", overrides=["algorithm.name=fedprox"]).algorithm.fedprox.mu == 0.5


@pytest.mark.parametrize(("word", "near"), [("algorithm.name=fedporx", "fedprox"), ("objective.name=mkrd", "mrkd"),
                                            ("transforms.apply=[clp]", "clip")])  # fmt: skip
def test_a_name_that_there_is_not_is_answered_with_the_nearest_one(word, near):
    with pytest.raises(InputError, match=rf"\(got '\w+'; did you mean '{near}'\?\)"):
        load_config(overrides=[word])


def test_a_name_like_no_other_is_answered_with_the_list_alone():
    with pytest.raises(InputError, match=r"must be .* \(got 'xyz'\)"):
        load_config(overrides=["algorithm.name=xyz"])

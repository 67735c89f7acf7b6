"""YAML as people write it, and as it comes damaged: a value, or one sentence with file, line, key and what to do."""

from __future__ import annotations

import pytest

from raf_ray.config import Config, load_config
from raf_ray.config.loading import parse_override, parse_yaml, read_yaml, validate
from raf_ray.config.section import LARGEST_FLOAT
from raf_ray.errors import InputError
from raf_ray.search.spec import check_search, load_search
from tests.searching import TINY

LAUGHS = "\n".join(["a0: &a0 [ha, ha, ha]", *(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}, *a{i - 1}]" for i in range(1, 40))])

WRONG_FILES = {
    "seed: 1\n\trounds: 2": "is not valid YAML: while scanning for the next token, found character '\\t'",
    "a: b: c": "is not valid YAML: mapping values are not allowed here (line 1, column 5)",
    "seed: 1\n---\nseed: 2\n": "a single document in the stream, but found another document (line 2, column 1)",
    "seed: 1\0": "it holds the character '\\x00' (line 1), which YAML does not allow",
    "seed: 1\n\x1b[0m: 2": "it holds the character '\\x1b' (line 2), which YAML does not allow",
    "seed: *there": "is not valid YAML: found undefined alias 'there' (line 1, column 7)",
    'seed: "\\UFFFFFFFF"': "is not valid YAML (",
    "%YAML 1.9\n---\nseed: 1": "is not valid YAML (",
    "[\n" * 5000: "is nested too deeply to be read; it is damaged or no config",
    "{a:\n" * 5000: "is nested too deeply to be read",
    "- " * 5000 + "a": "is nested too deeply to be read",
    "data: " + "[" * 60 + "]" * 60: "line 1, data.0.0: it is nested more than 50 deep",
    "seed: 1\nmodel: !!python/object/apply:os.system [ls]": ", line 2, model: the tag '!!python/object",
    "seed: 1\nmodel: {name: !env HOME}": ", line 2, model.name: the tag '!env' means nothing here; leave it out",
    "data: !!set {a, b}": ", line 1, data: the tag '!!set' means nothing here",
    "data: !!omap [a: 1]": ", line 1, data: the tag '!!omap' means nothing here",
    "data: {root: !!binary aGk=}": ", line 1, data.root: the tag '!!binary' means nothing here",
    "data: !!str {a: b}": ", line 1, data: the tag '!!str' means nothing here",
    "seed: !!int abc": ", line 1, seed: 'abc' is no int; correct it, or leave the tag out",
    "seed: !!float abc": ", line 1, seed: 'abc' is no float",
    "seed: !!bool abc": ", line 1, seed: 'abc' is no bool",
    f"seed: {'9' * 400}": "999' is an integer beyond 64 bits; write a smaller number, or quote it as text",
    f"seed: {'9' * 5000}": "is an integer beyond 64 bits",
    f"seed: 0x{'f' * 5000}": "is an integer beyond 64 bits",
    f"data:\n  people_per_client: {2**70}": ", line 2, data.people_per_client: '1180591620717411303424' is an integer",
    "federation: {rounds: 1e400}": ", line 1, federation.rounds: '1e400' is beyond what a float holds",
    "seed: 1\ndata: {root: a}\nseed: 2": ", line 3: the key 'seed' is there twice; keep one",
    "data: {root: a, name: coco, root: b}": ", line 1, data: the key 'root' is there twice",
    "? [1, 2]\n: 3": ", line 1: a key is a word, not a list or mapping",
    "data: &a {root: *a}": ", line 1, data.root: the alias *a stands inside what it names",
    "data: {<<: 3}": ", line 1, data: << takes a mapping or a list of mappings",
    LAUGHS: "holds more than 200,000 values, counted with its aliases written out",
    'tracking: {experiment: "\\ud800"}': ", line 1, tracking.experiment: '\\ud800' holds half a character",
    "seed: " + "x" * 2_000_000: "is 2.0 million characters long, which no config is",
    "just words": "holds no mapping of config keys; write lines such as seed: 1",
    "- seed": "holds no mapping of config keys",
}


@pytest.mark.parametrize(("text", "says"), WRONG_FILES.items(), ids=lambda text: text[:24])
def test_a_file_that_holds_no_plain_values_is_refused_by_line_and_key(text, says, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(text, encoding="utf-8")
    for read in (lambda: load_config(file=file), lambda: load_search(file)):
        with pytest.raises(InputError) as error:
            read()
        message = str(error.value)
        assert str(file) in message and says in message
        assert "\n" not in message and len(message) < 500 + len(str(file))


@pytest.mark.parametrize(
    "text", [text for text in WRONG_FILES if text.startswith(("seed: ", "data: ", "federation: "))]
)
def test_the_same_in_a_word_is_refused_by_its_key(text):
    key, _, value = text.partition(": ")
    with pytest.raises(InputError) as error:
        load_config(overrides=[f"{key}={value}"])
    message = str(error.value)
    assert message.startswith((f"{key}: ", f"{key}.")) and "\n" not in message and len(message) < 500


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_any_unicode_encoding_is_read_with_its_byte_order_mark_or_without(encoding, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_bytes("seed: 3\ntracking: {experiment: Füße 足}\n".encode(encoding))
    config = load_config(file=file)
    assert (config.seed, config.tracking.experiment) == (3, "Füße 足")


def test_bytes_that_are_no_text_are_refused(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_bytes("tracking: {experiment: Füße}".encode("latin-1"))
    with pytest.raises(InputError, match=r"mine.yaml is no UTF-8 text \(byte 24 is 0xfc\); save it as UTF-8"):
        load_config(file=file)


@pytest.mark.parametrize("text", ["2026-01-31", "2026-13-45", "2026-01-31T25:00:00Z", "12:30", "off", "=", "<<"])
def test_what_older_yaml_takes_for_dates_and_such_is_text(text, tmp_path):
    assert load_config(overrides=[f"tracking.experiment={text}"]).tracking.experiment == text
    file = tmp_path / "mine.yaml"
    file.write_text(f"tracking:\n  experiment: {text}\n")
    assert load_config(file=file).tracking.experiment == text


def test_keys_are_text_as_written():
    config = load_config(overrides=["resolution.tiers={1: 96x72, 2026-01-01: 64x48}", "federation.clients={1: 2}"])
    assert list(config.resolution.tiers) == ["1", "2026-01-01"] and config.federation.clients == {"1": 2}


def test_numbers_are_read_as_yaml_writes_them():
    text = "[0o17, 0x1f, 0b11, 1_000, -5, 010, 1e3, .5, 1., -.inf, !!int 7, !!str 7, !!float 7, 9223372036854775807]"
    assert parse_yaml(text) == [15, 31, 3, 1000, -5, 10, 1000.0, 0.5, 1.0, -float("inf"), 7, "7", 7.0, 2**63 - 1]


@pytest.mark.filterwarnings("error")
def test_an_anchor_may_be_set_anew():
    assert parse_yaml("[&a 1, *a, &a 2, *a]") == [1, 1, 2, 2]


def test_anchors_aliases_and_merge_keys_are_understood(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(
        "data: &d {root: a, name: coco}\nmodel: {<<: *d, name: own}\nresolution: {<<: [{a: 1}, {a: 2, b: 3}], c: 4}\n"
    )
    assert read_yaml(file) == {
        "data": {"root": "a", "name": "coco"},
        "model": {"root": "a", "name": "own"},
        "resolution": {"a": 1, "b": 3, "c": 4},
    }


@pytest.mark.parametrize(
    ("word", "says"),
    [
        (f"seed={'1' * 18}{'0' * 400}", "is an integer beyond 64 bits"),
        ("seed=10**400", "seed: input should be a valid integer"),
        (f"seed={2**63}", "seed: '9223372036854775808' is an integer beyond 64 bits"),
        ("optimizer.lr=1e300", "optimizer.lr: a number beyond a float of 32 bits; write a smaller one (got 1e+300)"),
        ("objective.level_weights=[1, 1e39]", "objective.level_weights: a number beyond a float of 32 bits"),
        ("data.cache_mb=-1e400", "data.cache_mb: '-1e400' is beyond what a float holds"),
        ("optimizer.lr=.inf", "optimizer.lr: input should be a finite number"),
        ("data.root=[" + "1, " * 5000 + "1]", "data.root: input should be a valid string (got [1, 1, 1"),
        ("tracking.experiment=3", "tracking.experiment: input should be a valid string (got 3)"),
        ("x" * 10_000 + "=1", "unknown key 'xxx"),
        ("a." * 10_000 + "a=1", "unknown key 'a.a."),
        ("x" * 10_000, "is not an override; write key=value"),
        ("seed=\udcff", "it holds the character '\\udcff'"),
        ("resources.threads=100000", "resources.threads: input should be less than or equal to 256"),
        ("data.people_per_client=1000000000000", "data.people_per_client: input should be less than or equal to 10000"),
        ("data.val_people=1000000000000", "data.val_people: input should be less than or equal to 1000000"),
        ("data.synthetic_height=1000000000", "data.synthetic_height: input should be less than or equal to 4096"),
        ("federation.clients={high: 10000000}", "federation.clients: "),
    ],
    ids=lambda text: text[:30].encode("ascii", "replace").decode(),
)
def test_a_value_out_of_bounds_is_refused_and_never_shown_whole(word, says):
    with pytest.raises(InputError) as error:
        load_config(overrides=[word])
    assert says in str(error.value)
    assert "\n" not in str(error.value) and len(str(error.value)) < 2000


@pytest.mark.parametrize(
    "value", [10**400, 10**5000, -(2**63) - 1, 2 * LARGEST_FLOAT], ids=["400", "5000", "64bit", "float"]
)
@pytest.mark.parametrize("place", [("seed",), ("optimizer", "lr"), ("data", "counts"), ("data", "root"), ("tracking",)])
def test_numbers_out_of_bounds_are_refused_from_python_too(value, place):
    values = [value] if place == ("data", "counts") else value
    for key in reversed(place):
        values = {key: values}
    with pytest.raises(InputError) as error:
        validate(Config, values)
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"num_samples": 10**9}, "the search asks for 1000000000 trials, of which at most 100,000 can be drawn"),
        ({"param_space": {f"objective.{key}": {"grid_search": [i / 100 for i in range(1, 100)]} for key in
                          ("alpha", "kd_weight", "temperature", "own_share")}}, "trials, of which at most 100,000"),
        ({"param_space": {"objective.alpha": {"quniform": [0, 1, 1e-320]}}}, "quniform needs a step above 0"),
        ({"param_space": {"objective.alpha": {"uniform": [0, 1e39]}}}, "a number beyond a float of 32 bits"),
        ({"param_space": {"x" * 9999: {"uniform": [0, 1]}}}, "param_space: unknown config key 'xxx"),
        ({"base": {"seed": 10**400}}, "base: a number beyond 64 bits"),
        ({"base": {"presets": "x" * 9999}}, "base.presets: write a list, such as [demo]"),
    ],
    ids=lambda changes: next(iter(changes)) if isinstance(changes, dict) else "",
)  # fmt: skip
def test_a_search_out_of_bounds_is_refused_in_a_sentence(changes, says):
    space = {"param_space": {"objective.alpha": {"uniform": [0.2, 0.8]}}}
    with pytest.raises(InputError) as error:
        check_search("mine", {**space, **changes})
    assert says in str(error.value)
    assert "\n" not in str(error.value) and len(str(error.value)) < 2000


def test_a_search_file_is_read_by_the_same_rules(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(TINY.replace("num_samples: 4", "num_samples: !!int 2"), encoding="utf-16")
    assert load_search(file).config.num_samples == 2


def test_a_word_that_sets_nothing_is_empty_text():
    assert parse_override("data.root=") == {"data": {"root": ""}}

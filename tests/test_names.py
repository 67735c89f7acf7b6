"""Names that users give tiers: any text that can be part of a file's name and of a CSV's head; the rest is refused."""

from __future__ import annotations

import csv
import json

import pytest

from raf_ray import run_federation
from raf_ray.compare import methods_of
from raf_ray.config import load_config
from raf_ray.errors import InputError
from raf_ray.request.plans import plan_clients
from raf_ray.runs.folder import TRACES, RunFolder
from raf_ray.training.tracing import trace_name
from tests.tiny import tiny

BAD = ["a/b", "/a", "..", "../a", ".a", ".", "a\\b", "", "  ", "a\nb", "a\rb", "a\tb", "a\0", "\x1b[31m", "\x7f",
       "\x85", "\u2028", "\ud800", "x" * 101, "\u00e4" * 51]  # fmt: skip
GOOD = ["[high] tier", "h\u00f6ch", "\u9ad8", "a b", "a,b", 'a "b"', "x" * 100, "-a", "a..b", "1.5", "=a", "%s", "{0}"]


def named(tier: str):
    return load_config(overrides=[f"resolution.tiers={json.dumps({tier: '64x48'})}",
                                  f"federation.clients={json.dumps([tier])}"])  # fmt: skip


@pytest.mark.parametrize("tier", BAD, ids=ascii)
def test_a_tier_whose_name_no_file_can_bear_is_refused_in_a_line_that_can_be_printed(tier):
    with pytest.raises(InputError, match=r"^resolution\.tiers: ") as caught:
        named(tier)
    assert str(caught.value).encode("utf-8") and str(caught.value).isprintable()


@pytest.mark.parametrize("tier", GOOD, ids=ascii)
def test_any_other_text_is_a_tiers_name(tier, tmp_path):
    (plan,) = plan_clients(named(tier))
    name = trace_name(plan.name, 2)
    (tmp_path / name).write_text("")
    assert [path.name for path in tmp_path.iterdir()] == [name] and TRACES.fullmatch(name)


@pytest.mark.parametrize("given", ["64x48", " 64 X 48", "\n64x48\n", "\uff16\uff14x48"], ids=ascii)
def test_a_size_in_place_of_a_tier_is_named_as_sizes_are_written(given):
    (plan,) = plan_clients(load_config(overrides=[f"federation.clients={json.dumps([given])}"]))
    assert (plan.name, plan.tier) == ("client-64x48-000", "64x48")


@pytest.mark.parametrize("given", ["../x", "a\nb", "\ud800", "9" * 5000 + "x48"], ids=["path", "lines", "half", "long"])
def test_a_client_of_no_tier_is_refused_in_a_line_that_can_be_printed(given):
    with pytest.raises(InputError) as caught:
        plan_clients(load_config(overrides=[f"federation.clients={json.dumps([given])}"]))
    assert str(caught.value).isprintable()


def test_a_tier_may_not_take_the_name_of_a_comparisons_run():
    with pytest.raises(InputError, match="rename tier 'mixed'"):
        methods_of(load_config(overrides=["resolution.tiers={mixed: 64x48}", "federation.clients=[mixed]",
                                          "objective.name=mrkd"]))  # fmt: skip


def test_commas_and_quotes_in_a_tiers_name_do_not_tear_the_tables(tmp_path):
    tier = 'a, "b" [c]'
    config = tiny(f"resolution.tiers={json.dumps({tier: '64x48'})}", f"federation.clients={json.dumps([tier])}",
                  "federation.engine=in_process", "evaluation.resolutions=[64x48]")  # fmt: skip
    folder = RunFolder(run_federation(config, tmp_path / "run").folder)
    with open(folder / "rounds.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["round"] for row in rows] == ["1", "2"] and all(float(row[f"update_norm_{tier}"]) > 0 for row in rows)
    folder.cut_rows_after("rounds.csv", 1)
    assert folder.read_rows("rounds.csv") == rows[:1]

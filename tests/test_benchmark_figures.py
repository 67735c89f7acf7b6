"""What benchmarks say of their goals."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from benchmarks.figures import Section, interval, with_section


def test_the_interval_of_paired_ratios_is_students_on_their_logarithms():
    pairs = [0.9, 1.1, 1.0, 0.95, 1.2]
    logs = np.log(pairs)
    wanted = stats.t.interval(0.95, len(logs) - 1, loc=logs.mean(), scale=stats.sem(logs))
    assert interval(pairs) == pytest.approx(tuple(np.exp(wanted)))
    assert interval([2.0]) == (0.0, float("inf"))


@pytest.mark.parametrize(("pairs", "better", "bound", "verdict"), [
    ([1.0, 1.1, 1.05], "at least", 1.0, "met"),
    ([0.5, 0.52, 0.51], "at least", 1.0, "missed"),
    ([0.5, 1.4, 0.9], "at least", 1.0, "undecided"),
    ([0.5], "at least", 1.0, "undecided"),
    ([2.0, 2.1, 2.05], "at most", 1.5, "missed"),
    ([1.0, 1.1, 1.05], "at most", 1.5, "met"),
])  # fmt: skip
def test_a_ratio_is_missed_only_where_the_interval_says_so(pairs, better, bound, verdict):
    section = Section("s", "about")
    section.ratio("r", pairs, better, bound)
    assert section.figures[0].verdict == verdict and section.is_missed == (verdict == "missed")


def test_a_figure_measured_once_is_met_or_missed():
    section = Section("s", "about")
    section.goal("fast", 3.0, " s", "at most", 2.0)
    section.goal("small", 3.0, " GB", "at least", 2.0)
    assert [figure.verdict for figure in section.figures] == ["missed", "met"]
    assert "| fast | 3 s | at most 2 s | missed |" in section.markdown("today")


def test_a_section_takes_the_place_of_its_last_result_and_leaves_the_others():
    text = "# Results\n\n## a\n\nold a\n\n## b\n\nold b\n"
    found = with_section(with_section(text, "a", "## a\n\nnew a\n"), "c", "## c\n\nnew c\n")
    assert found == "# Results\n\n## a\n\nnew a\n\n## b\n\nold b\n\n## c\n\nnew c\n"

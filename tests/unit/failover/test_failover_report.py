"""The table and the picture of what trials of failover came to."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

from tests.bench.generator import percentile
from tests.failover.report import document, picture, table
from tests.failover.trials import Trial

KILLS = [Trial("kill -9", second, second + 0.5, 2 * second) for second in (0.4, 0.2, 0.3)]
STOP = Trial("SIGSTOP", 5.5, 5.6, 0.05)


def test_percentiles_are_values_that_were_measured() -> None:
    values = [5.0, 1.0, 4.0, 2.0, 3.0]
    assert [percentile(values, part) for part in (0.0, 0.5, 0.8, 0.81, 1.0)] == [1.0, 3.0, 4.0, 5.0, 5.0]


def test_the_table_has_a_row_for_each_figure_of_each_fault_that_was_tried() -> None:
    lines = table([*KILLS, STOP]).splitlines()
    assert len(lines) == 2 + 3 + 3
    assert lines[2] == "| kill -9 | next change | 3 | 0.20 | 0.30 | 0.40 | 0.40 |"
    assert lines[5] == "| SIGSTOP | next change | 1 | 5.50 | 5.50 | 5.50 | 5.50 |"


def test_the_picture_has_a_dot_for_each_figure_of_each_trial_and_the_later_is_to_the_right() -> None:
    tree = ElementTree.fromstring(picture([*KILLS, STOP]))
    dots = [each for each in tree if each.tag.endswith("circle")]
    assert len(dots) == 3 * 4
    at = [float(dot.attrib["cx"]) for dot in dots[:3]]
    assert at[1] < at[2] < at[0]


def test_the_document_has_the_table_and_the_facts() -> None:
    text = document([STOP], {"processor": "abacus"})
    assert table([STOP]) in text
    assert "- processor: abacus" in text
    assert "failover.svg" in text

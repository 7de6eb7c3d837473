"""What was seen of each class stands beside what there is of it."""

import json
from pathlib import Path

from instar.report import balance, blocks, html
from instar.run import Run

PLAN = {"classes": ["a", "b", "<c>"], "class_counts_K": [100, 10, 1]}


def test_counts_of_all_epochs_are_summed_and_the_rarest_class_comes_first():
    metrics = [{"kind": "val", "seen": [20, 18, 12]}, {"kind": "train"}, {"kind": "val", "seen": [20, 22, 28]}]
    section = balance.section(metrics, PLAN)
    text, bars = section.blocks
    assert "was seen 1 times as often as the one" in text.text
    assert "the largest has 100 times the images" in text.text
    assert [(bar.name, bar.count) for bar in bars.rows] == [("<c>", 40), ("b", 40), ("a", 40)]
    assert bars.rows[2].values == (1.0, (1 / 3) / (100 / 111))
    assert "&lt;c&gt;" in html.render(blocks.Page("t", "", (section,)))


def test_a_run_that_counted_nothing_or_another_number_of_classes_has_no_such_section():
    assert balance.section([{"kind": "val"}], PLAN) is None
    assert balance.section([{"kind": "val", "seen": [1, 2]}], PLAN) is None
    assert balance.section([{"kind": "val", "seen": [1]}], {"classes": ["a"], "class_counts_K": [1]}) is None


def test_the_status_is_read_from_a_last_line_with_thousands_of_classes(tmp_path: Path):
    lines = [{"kind": "val", "samples": 10, "seen": [1]}, {"kind": "val", "samples": 7000, "seen": [100_000] * 20_000}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert Run(tmp_path).status()["samples"] == 7000

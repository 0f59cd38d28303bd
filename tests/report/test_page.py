"""The page: whole, self-contained, for every kind of run."""

import json
import math
import re
import shutil
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from mft_jax.record.columns import Series
from mft_jax.record.reading import read_record
from mft_jax.record.schema import COLUMNS, Quantity
from mft_jax.report.charts import spread
from mft_jax.report.conflicts import pairs_by_conflict
from mft_jax.report.figures import token_shares
from mft_jax.report.page import write_report
from mft_jax.types import MftError

VERSION_0_1 = Path(__file__).parents[1] / "record" / "version_0_1.jsonl"
VOID = {"meta", "br", "link", "img"}


class Outline(HTMLParser):
    """Checks that tags nest; gathers tags, attributes and text outside scripts."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.attributes, self.words = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes.extend(attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes.extend(attrs)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] not in (["script"], ["style"]):
            self.words.append(data)


def outline(page):
    parsed = Outline()
    parsed.feed(page)
    parsed.close()
    assert parsed.open == []
    return parsed


TITLES = {
    "valid_loss": Quantity("Validation loss measured", shown=False),
    "ratio": Quantity("Its ratio", shown=False),
    "slope": Quantity("Convergence slope", "below 0 it improves", reference=0.0),
    "rcs": Quantity("Relative convergence score (RCS)", zero_based=True),
    "acs": Quantity("Absolute convergence score (ACS)", zero_based=True),
    "df": Quantity("Divergence factor (DF) < 1", "RCS at 1 & ACS at 0"),
}


def write_run(
    workdir, tasks, steps, *, valid_every=None, coba=False, constant=False, end=None, fights=False,
    titles=None, more=(),
):  # fmt: skip
    def each(value):
        return {task: value(n) for n, task in enumerate(tasks)}

    lines = [{
        "kind": "run", "time": "2026-11-20T10:00:00Z", "version": "0.1.0",
        "config": {"loop": {"steps": 120}, "balancer": {"name": "coba"},
                   "data": {"tasks": [{"name": task} for task in tasks]}},
        "tasks": tasks, "data": each(lambda n: dict.fromkeys(COLUMNS, n)),
        "model": {"family": "qwen2", "parameters": 4e6, "trainable": 1e5, "stored_bytes": 2e6,
                  "bits_per_weight": 4.127},
        "packing": {"row_length": 8, "rows": 3, "packed": 0.985, "static": 0.31, "dynamic": 0.62},
        "mesh": {"data": 1, "fsdp": 2}, "devices": "2 x cpu",
        "balancer_logs": {name: asdict(quantity) for name, quantity in (titles or {}).items()},
    }]  # fmt: skip
    for step in range(steps + 1):  # after `step` optimiser steps
        wave = 0.0 if constant else math.sin(step)
        loss = each(lambda n, s=step, w=wave: None if (s + n) % 5 == 4 else 2 + 0.1 * n + 0.2 * w)
        share = each(lambda n: 1 / len(tasks))
        if step:
            lines.append({
                "kind": "train", "step": step - 1, "loss": 2.0, "grad_norm": 0.7,
                "learning_rate": 1e-3, "tokens_per_sec": None if step == 1 else 2200.0,
                "tokens": each(lambda n: 10 * (n + 1)), "padding": 0.016, "train_loss": loss,
                "weight": share,
            })  # fmt: skip
        if step and coba:
            names = ("valid_loss", "ratio", "slope", "rcs", "acs")
            lines[-1]["balancer"] = dict.fromkeys(names, share) | {"df": 0.93}
        if fights and step % 5 == 0:
            angle = [[math.cos(a - b + wave) for a in range(len(tasks))] for b in range(len(tasks))]
            angle[0][-1] = angle[-1][0] = None
            lines.append({"kind": "conflicts", "step": step, "cosine": angle, "norm": share})
        if valid_every and step % valid_every == 0:
            tokens = each(lambda n: 5)
            lines.append(dict(kind="valid", step=step, loss=loss, ratio=share, tokens=tokens))
    if end:
        lines.append({"kind": "end", "step": steps, "reason": end, "seconds": 201.3})
    lines += more
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (workdir / "metrics.jsonl").write_text(text, encoding="utf-8")
    return workdir


FIVE = ["completion", "text2code", "comment", "unit_test", "translation"]
RUNS = {
    "one task": dict(tasks=FIVE[:1], steps=40, valid_every=10, end="finished"),
    "forty tasks": dict(tasks=[f"task_{n}" for n in range(40)], steps=50, valid_every=9, coba=True),
    "nothing yet": dict(tasks=FIVE, steps=0),
    "valid at step 0 alone": dict(tasks=FIVE, steps=0, valid_every=1),
    "one step": dict(tasks=FIVE, steps=1, coba=True),
    "no valid": dict(tasks=FIVE, steps=30, end="interrupted"),
    "constant": dict(tasks=FIVE, steps=60, valid_every=5, constant=True, coba=True),
}


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS.keys())
def test_every_kind_of_run_renders_whole_and_offline(tmp_path, run):
    target = write_report(write_run(tmp_path, **run))
    page = target.read_text(encoding="utf-8")
    assert target == tmp_path / "report.html"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.jsonl", "report.html"]
    parsed = outline(page)
    assert not {"link", "img", "iframe"} & set(parsed.tags)
    assert not [name for name, _ in parsed.attributes if name in ("src", "href", "xlink:href")]
    assert "@import" not in page and "url(" not in page
    drawn = " ".join(v for name, v in parsed.attributes if name in ("points", "d", "cx", "cy"))
    assert not re.search("nan|inf", drawn)
    assert all(task in parsed.words for task in run["tasks"])


def test_figures_follow_what_the_run_recorded(tmp_path):
    run = write_run(tmp_path, FIVE, 30, valid_every=10, coba=True, titles=TITLES)
    with_coba = write_report(run).read_text()
    without = write_report(write_run(tmp_path, FIVE, 30, valid_every=10)).read_text()
    for name in ("(RCS)", "(ACS)", "(DF)", "Convergence slope"):
        assert name in with_coba and name not in without
    figures = outline(with_coba).tags.count("figure")
    assert figures == 3 + 5 + 2 + 3
    assert with_coba.count('role="img" aria-label="') == figures


def headings(page):
    return re.findall("<h3>(.*?)</h3>", page)


def test_a_balancer_is_shown_under_its_own_titles(tmp_path):
    run = write_run(tmp_path, FIVE, 30, valid_every=10, coba=True, titles=TITLES)
    page = write_report(run).read_text()
    assert "Divergence factor (DF) &lt; 1" in headings(page) and "RCS at 1 &amp; ACS at 0" in page
    assert not {"Validation loss measured", "Its ratio"} & set(headings(page))
    scores = [name for name in headings(page) if "score" in name or "slope" in name]
    assert scores == [TITLES[name].title for name in ("slope", "rcs", "acs")]
    assert "relative to the loss before training; behind: micro-batches" in page


def test_a_record_without_titles_shows_the_names_of_the_logs(tmp_path):
    page = write_report(write_run(tmp_path, FIVE, 30, valid_every=10, coba=True)).read_text()
    assert {"slope", "rcs", "acs", "df"} <= set(headings(page))
    assert not {"valid loss", "ratio"} & set(headings(page))  # behind the validation loss
    assert "relative to the loss before training; behind: micro-batches" in page


def test_samples_dropped_or_cut_stand_in_the_data_table_of_a_real_run(tmp_path):
    shutil.copy(VERSION_0_1, tmp_path / "metrics.jsonl")
    page = write_report(tmp_path).read_text()
    table = page[page.index("<h2>Data</h2>") : page.index("<h2>Packing</h2>")]
    heads = re.findall('<th scope="col">(.*?)</th>', table)
    rows = [re.findall("<td>(.*?)</td>", row) for row in re.findall("<tr>.*?</tr>", table)]
    rare, total = rows[3], rows[4]
    assert [heads[0], *heads[-6:]] == [
        "task", "dropped", "truncated", "split", "untrainable", "tokens", "share",
    ]  # fmt: skip
    assert rare[-6:-2] == total[-6:-2] == ["0", "0", "2", "3"]


def test_what_repeats_in_an_epoch_has_a_column(tmp_path):
    page = write_report(write_run(tmp_path, FIVE, 2)).read_text()
    assert "drawn per epoch" not in page
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text().replace('"epoch_samples": 1', '"epoch_samples": 7'))
    assert "drawn per epoch" in outline(write_report(tmp_path).read_text()).words


def test_what_a_newer_release_wrote_is_said_once(tmp_path):
    later = [{"kind": "scores", "step": 4, "pass@1": 0.5}, {"kind": "scores", "step": 5}]
    page = write_report(write_run(tmp_path, FIVE, 4, valid_every=2, more=later)).read_text()
    notes = re.findall('<p class="note">(.*?)</p>', page)
    assert len(notes) == 1 and notes[0].count("scores") == 1 and "passed over" in notes[0]


def test_conflicts_are_a_heat_map_of_pairs_and_a_matrix_of_few_tasks(tmp_path):
    write_run(tmp_path, FIVE, 30, valid_every=10, fights=True)
    page = write_report(tmp_path).read_text()
    assert "Which tasks fight" in page and "Mean cosine between gradients" in page
    assert page.count("<rect x=") > 10 * 7 + 25  # pairs by diagnosed steps, and the matrix
    many = [f"task_{n}" for n in range(12)]
    page = write_report(write_run(tmp_path, many, 30, valid_every=10, fights=True)).read_text()
    assert "the 20 of 66 pairs that conflict most" in page
    assert "Mean cosine between gradients" not in page


def test_pairs_are_ordered_by_conflict_and_unknown_ones_come_last():
    mean = np.array([[1, -0.2, np.nan], [-0.2, 1, -0.7], [np.nan, -0.7, 1]])
    assert pairs_by_conflict(mean) == [(1, 2), (0, 1), (0, 2)]


def test_names_and_values_are_escaped(tmp_path):
    hostile = '<script>alert("&")</script>'
    page = write_report(write_run(tmp_path, [hostile, "b"], 3, valid_every=1)).read_text()
    assert hostile not in page
    parsed = outline(page)
    assert parsed.tags.count("script") == 1 and hostile in parsed.words


def test_a_task_has_one_colour_in_every_figure(tmp_path):
    page = write_report(write_run(tmp_path, FIVE, 30, valid_every=10, coba=True)).read_text()
    looks = re.findall(r'<\w+ class="[\w ]*?(c\d d\d)" data-task="(\d)"', page)
    assert len(looks) > 30 and all(look == f"c{task} d0" for look, task in looks)


def test_the_summary_says_how_far_the_run_came(tmp_path):
    for end, words in (
        ("finished", "Finished at step 4 of 120"),
        ("early_stop", "Stopped early at step 4 of 120"),
        ("interrupted", "Interrupted at step 4 of 120"),
        (None, "No end recorded, last at step 4 of 120"),
    ):
        page = write_report(write_run(tmp_path, FIVE, 4, end=end)).read_text()
        assert words in outline(page).words


def test_a_cut_line_is_said_on_the_page(tmp_path):
    path = write_run(tmp_path, FIVE, 4) / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-30])
    assert "incomplete and has been left out" in write_report(tmp_path).read_text()


def test_a_malformed_record_leaves_the_old_page_in_place(tmp_path):
    before = write_report(write_run(tmp_path, FIVE, 4)).read_text()
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text() + "oops\n")
    with pytest.raises(MftError):
        write_report(tmp_path)
    assert (tmp_path / "report.html").read_text() == before
    assert len(list(tmp_path.iterdir())) == 2


def test_a_long_run_gives_a_small_page(tmp_path):
    write_run(tmp_path, FIVE, 2500, valid_every=2, coba=True)
    page = write_report(tmp_path).read_text()
    assert len(page) < 700_000
    lines = re.findall(r'<polyline[^>]*points="([^"]*)"', page)
    assert max(len(line.split()) for line in lines) <= 600


def test_token_shares_sum_to_one_over_tasks(tmp_path):
    record = read_record(write_run(tmp_path, FIVE, 200) / "metrics.jsonl")
    edges, share = token_shares(record.train)
    assert len(edges) == len(share) + 1 and (edges[0], edges[-1]) == (0, 200)
    np.testing.assert_allclose(share, np.tile(np.arange(1, 6) / 15, (len(share), 1)))
    nothing = Series(record.train.step, {}, {"tokens": np.zeros((200, 5))})
    np.testing.assert_array_equal(token_shares(nothing)[1], 0.0)


def test_labels_are_spread_without_leaving_the_plot():
    assert spread([10.0, 11.0, 40.0], 8.0, 0.0, 100.0) == [10, 18, 40]
    assert spread([98.0, 99.0, 100.0], 8.0, 0.0, 100.0) == [84, 92, 100]
    assert spread([-5.0], 8.0, 0.0, 100.0) == [0]
    tight = spread([50.0] * 11, 20.0, 0.0, 100.0)
    np.testing.assert_allclose(np.diff(tight), 10)
    assert (tight[0], tight[-1]) == pytest.approx((0, 100))

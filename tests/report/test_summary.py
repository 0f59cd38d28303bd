"""What the page says before any figure: verdict, times, versions, command, memory."""

import json
import shutil
from html import escape
from pathlib import Path

from mft_jax.record.reading import read_record
from mft_jax.record.verdict import verdict
from mft_jax.report.page import write_report

VERSION_0_1 = Path(__file__).parents[1] / "record" / "version_0_1.jsonl"


def test_the_page_has_the_verdict_of_the_run_and_of_every_task(tmp_path):
    lines = [json.loads(line) for line in VERSION_0_1.read_text().splitlines()]
    for line in lines:
        if line["kind"] == "valid" and line["step"]:
            line["ratio"] |= {"rare": 1.02}
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = write_report(tmp_path).read_text()
    judged = verdict(read_record(tmp_path / "metrics.jsonl"))
    assert judged.word == "improved" and "1 task no better than the base (rare)" in str(judged)
    assert escape(str(judged)) in page and escape(judged.advice) in page
    table = page[page.index("<h2>Tasks</h2>") :]
    words = ("improved", "improved", "no better than the base")
    assert [table.count(f"<td>{word}</td>") for word in words] == [2, 2, 1]


def test_the_page_says_when_with_what_and_by_which_command_the_run_was_made(tmp_path):
    lines = [json.loads(line) for line in VERSION_0_1.read_text().splitlines()]
    lines[0] |= {"software": {"python": "3.12.1", "commit": "abc123"}, "command": "mft train --a=1"}
    lines[-1] |= {"time": "2026-11-21T17:05:00.250Z", "peak_host_bytes": 3 * 2**30,
                  "peak_device_bytes": 70 * 2**30}  # fmt: skip
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = write_report(tmp_path).read_text()
    for words in ("ended 21 November 2026, 17:05 UTC", "python 3.12.1", "commit abc123",
                  "mft train --a=1", "70 GiB", "host 3 GiB"):  # fmt: skip
        assert words in page


def test_a_record_of_version_0_1_has_a_page_without_them(tmp_path):
    shutil.copy(VERSION_0_1, tmp_path / "metrics.jsonl")
    page = write_report(tmp_path).read_text()
    assert "ended" not in page.partition("<h2>Verdict</h2>")[0].partition("</head>")[2]
    assert "host memory" not in page and "python 3" not in page

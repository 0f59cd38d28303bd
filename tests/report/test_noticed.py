"""What was noticed before training, on the page of a real run."""

import json
from pathlib import Path

from mft_jax.report.page import write_report

VERSION_0_1 = Path(__file__).parents[1] / "record" / "version_0_1.jsonl"


def page_of(folder, **more):
    """The page of a run whose first line also holds these."""
    line, *rest = VERSION_0_1.read_text().splitlines(keepends=True)
    lines = [json.dumps(json.loads(line) | more) + "\n", *rest]
    (folder / "metrics.jsonl").write_text("".join(lines))
    return write_report(folder).read_text()


def test_what_was_noticed_stands_before_the_tasks_and_is_escaped(tmp_path):
    found = [{"kind": "epochs", "task": "add", "text": f"<b>{n} & more"} for n in range(11)]
    found[0]["task"] = None
    page = page_of(tmp_path, findings=found)
    assert page.index("Noticed before training") < page.index("<h2>Tasks</h2>")
    assert page.count("<li>") == 11 and "<summary>6 more</summary>" in page
    assert "<li>&lt;b&gt;0 &amp; more</li>" in page
    assert "<li><b>add</b>: &lt;b&gt;1 &amp; more</li>" in page


def test_what_records_were_taken_for_and_the_epochs_are_on_the_page(tmp_path):
    page = page_of(tmp_path, read_as={"add": "`text`; not read: `<id>`"}, epochs=2.5)
    assert "`text`; not read: `&lt;id&gt;`" in page and "6 steps, 2.5 epochs" in page


def test_a_record_that_does_not_know_says_nothing(tmp_path):
    page = page_of(tmp_path)
    assert "Noticed" not in page and "taken for" not in page and "epochs" not in page

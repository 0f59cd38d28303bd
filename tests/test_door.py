"""The door for Python and notebooks: cheap to import, and a run by its folder."""

import io
import json
import shutil
import subprocess
import sys
import threading

import jax
import pytest
from rich.console import Console

import mft_jax as mft
from mft_jax import door, testing


@pytest.fixture(scope="module")
def run(single_device, tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy")
    config = testing.toy_config(folder, steps=2)
    config.loop.eval_every_steps = 2
    runs = []  # in a thread, as some notebooks run their cells: it gets no signals
    thread = threading.Thread(target=lambda: runs.append(mft.train(config, folder / "run")))
    thread.start()
    thread.join()
    return runs[0]


def test_the_import_is_cheap_and_starts_nothing():
    script = (
        "import time; began = time.perf_counter(); import sys; before = set(sys.modules)\n"
        "import mft_jax\n"
        "print(time.perf_counter() - began, *sorted(set(sys.modules) - before))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    seconds, *modules = done.stdout.split()
    assert modules == ["mft_jax"] and float(seconds) < 0.3


def test_public_names_are_there_and_others_are_not():
    assert {"train", "open_run", "export", "default_config", "MftError"} <= set(dir(mft))
    assert mft.default_config().loop.steps == 1000
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        mft.trian  # noqa: B018


def test_a_run_tells_how_it_ended_and_what_it_recorded(run):
    assert run.reason == "finished" and mft.open_run(run.workdir) == run
    rows = list(run.record())
    assert [(row["step"], row["task"]) for row in rows] == [
        (step, task) for step in range(3) for task in ("add", "echo", "rare")
    ]
    assert rows[0]["train_loss"] > 0 and rows[0]["valid_ratio"] == 1.0
    assert rows[3]["weight"] > 0 and rows[3]["valid_loss"] is None
    assert rows[6]["train_loss"] is None and rows[6]["valid_loss"] > 0


def test_a_run_has_a_verdict_in_words(run):
    judged = run.verdict
    assert judged.word in str(judged) and set(judged.tasks) == {"add", "echo", "rare"}


def test_the_record_as_a_data_frame_says_what_it_needs(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)  # as if it were not installed
    with pytest.raises(mft.MftError, match="pip install pandas"):
        door.Table(({"step": 0},)).to_pandas()


def test_the_report_shows_itself_in_a_notebook(run):
    report = run.report()
    assert report.path.is_file() and str(report) == str(report.path)
    shown = report._repr_html_()
    assert shown.startswith('<iframe srcdoc="&lt;') and "rare" in shown and shown.count("<") == 2


def test_a_run_is_exported(run, tmp_path):
    exported = mft.export(run, format="peft", output=tmp_path / "adapter")
    assert (exported.folder / "adapter_model.safetensors").is_file() and exported.step in (0, 2)
    with pytest.raises(mft.MftError, match="format='gguf': expected one of peft, merged"):
        mft.export(run, format="gguf", output=tmp_path / "other")


def test_an_adapter_that_is_no_better_than_the_base_is_exported_with_a_note(run, tmp_path):
    workdir = shutil.copytree(run.workdir, tmp_path / "run")
    record = workdir / "metrics.jsonl"
    lines = [json.loads(line) for line in record.read_text().splitlines()]
    for line in lines:
        if line["kind"] == "valid":
            line["ratio"] = dict.fromkeys(line["ratio"], 1.01)
    record.write_text("".join(json.dumps(line) + "\n" for line in lines))
    console = Console(file=io.StringIO(), width=80)
    exported = mft.export(
        workdir, format="peft", output=tmp_path / "a", checkpoint="last", console=console
    )
    said = console.file.getvalue()
    assert "note: step 2 is no better than the model before training" in said
    assert exported.step == 2 and mft.open_run(workdir).verdict.word == "no better than the base"


def test_a_folder_without_a_run_cannot_be_opened(tmp_path):
    with pytest.raises(mft.MftError, match="is no run's folder"):
        mft.open_run(tmp_path)


def test_a_workdir_that_is_no_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    config = testing.toy_config(tmp_path / "toy", steps=2)
    for workdir, message in (("", "workdir is empty"), (tmp_path / "file", "cannot be made a")):
        with pytest.raises(mft.MftError, match=message):
            mft.train(config, workdir)


def test_a_full_device_is_an_error_with_advice(tmp_path, monkeypatch):
    def full(*_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 99999999 b")

    monkeypatch.setattr(door.session, "train", full)
    config = mft.default_config()
    config.data.tasks = [{"name": "a", "path": "a.jsonl"}]
    with pytest.raises(mft.MftError, match=r"out of memory: .*100\.0 MB.* What helps most"):
        mft.train(config, tmp_path / "run")

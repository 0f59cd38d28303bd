"""When, with what and by which command a run was made; records of 0.1 do not say it."""

import json
import math
from pathlib import Path

import pytest

from mft_jax.record.reading import read_record
from mft_jax.types import MftError


def write(path, *lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_stamps_versions_and_peaks_come_back(tmp_path, run_line):
    software = {"python": "3.12.1", "jax": "0.10.2", "commit": "abc"}
    run = {**run_line("a"), "software": software, "command": "mft train", "attention": "blockwise"}
    valid = {"kind": "valid", "time": "2026-11-20T10:02:00.250Z", "step": 0, "loss": {"a": 1.0},
             "ratio": {"a": 1.0}, "tokens": {"a": 5}}  # fmt: skip
    end = {"kind": "end", "time": "2026-11-20T10:03:00.500Z", "step": 1, "reason": "finished",
           "seconds": 9.5, "peak_host_bytes": 3e9, "peak_device_bytes": None}  # fmt: skip
    record = read_record(write(tmp_path / "metrics.jsonl", run, valid, end))
    assert record.passed_over == ()
    assert (record.header.software, record.header.command) == (software, "mft train")
    assert record.header.attention == "blockwise"
    assert record.last_time.isoformat() == "2026-11-20T10:03:00.500000+00:00"
    assert record.end.peak_host_bytes == 3e9 and math.isnan(record.end.peak_device_bytes)


def test_a_record_of_version_0_1_has_none_of_them():
    record = read_record(Path(__file__).with_name("version_0_1.jsonl"))
    assert (record.header.software, record.header.command, record.last_time) == ({}, "", None)
    assert math.isnan(record.end.peak_host_bytes) and record.header.attention == ""


def test_a_time_that_is_none_is_named_by_its_line(tmp_path, run_line):
    end = {"kind": "end", "time": "noon", "step": 1, "reason": "finished", "seconds": 9.5}
    with pytest.raises(MftError, match=r":2: found time 'noon'"):
        read_record(write(tmp_path / "metrics.jsonl", run_line("a"), end))

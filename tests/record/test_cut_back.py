"""The record of a resumed run: what will be repeated goes, what was lost is named."""

import json

from mft_jax.record.cut_back import cut_back

LINES = [
    {"kind": "run"},
    {"kind": "valid", "step": 0},
    *({"kind": "train", "step": step} for step in range(8)),
]


def write(path, lines, tail=b""):
    path.write_bytes(b"".join(json.dumps(line).encode() + b"\n" for line in lines) + tail)
    return path


def steps(path) -> list[int]:
    rows = map(json.loads, path.read_text().splitlines())
    return [row["step"] for row in rows if row["kind"] == "train"]


def test_a_whole_record_is_left_as_it_is_without_a_note(tmp_path):
    path = write(tmp_path / "metrics.jsonl", LINES)
    before = path.stat()
    assert cut_back(path, 8) == []
    assert path.stat().st_mtime_ns == before.st_mtime_ns and steps(path) == list(range(8))


def test_nul_bytes_of_a_power_cut_are_cut_off_with_a_note(tmp_path):
    path = write(tmp_path / "metrics.jsonl", LINES, b'{"kind": "tra' + bytes(4096))
    (note,) = cut_back(path, 8)
    assert "metrics.jsonl ended with 4,096 NUL bytes" in note
    assert b"\0" not in path.read_bytes() and steps(path) == list(range(8))


def test_steps_whose_lines_were_lost_are_named_until_the_record_says_so(tmp_path):
    path = write(tmp_path / "metrics.jsonl", [*LINES[:5], *LINES[6:7]])
    (note,) = cut_back(path, 40)
    assert "no line for training steps 3, 5 to 39 (counted from 0)" in note
    event = {"kind": "event", "step": 40, "what": "storage", "text": note}
    write(path, [*LINES[:5], *LINES[6:7], event])
    assert cut_back(path, 40) == []

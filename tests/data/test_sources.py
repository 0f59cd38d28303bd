import gzip
import json

import datasets
import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from mft_jax.data.samples import to_sample
from mft_jax.data.sources import read_records
from mft_jax.types import MftError

RECORDS = [{"text": f"line {i} \u2028 \x85 ü"} for i in range(5)]
JSONL = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in RECORDS).encode()


def write(path, data):
    if path.name.endswith(".gz"):
        data = gzip.compress(data)
    if path.name.endswith(".zst"):
        data = zstandard.compress(data)
    path.write_bytes(data)
    return path


def data_of(path):
    return [record.data for record in read_records(str(path))]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst"])
def test_every_kind_of_jsonl_gives_the_same_records_with_their_lines(tmp_path, name):
    path = write(tmp_path / name, JSONL)
    assert data_of(path) == RECORDS
    assert [r.where for r in read_records(str(path))] == [f"{path}:{i}" for i in range(1, 6)]


def test_parquet_rows_are_records_with_their_number(tmp_path):
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(RECORDS), path)
    assert data_of(path) == RECORDS
    assert next(read_records(str(path))).where == f"{path} row 1"


def test_several_zst_frames_and_gz_members_are_read(tmp_path):
    for compress, name in ((zstandard.compress, "a.jsonl.zst"), (gzip.compress, "a.jsonl.gz")):
        path = tmp_path / name
        path.write_bytes(compress(JSONL[:20]) + compress(JSONL[20:]))
        assert data_of(path) == RECORDS


def test_folders_and_patterns_are_read_in_order_of_file_names(tmp_path):
    for name in ("b", "a", "c"):
        write(tmp_path / f"{name}.jsonl", json.dumps({"text": name}).encode())
    (tmp_path / "README.md").write_text("no data")
    assert [r["text"] for r in data_of(tmp_path)] == ["a", "b", "c"]
    assert [r["text"] for r in data_of(tmp_path / "[bc].jsonl")] == ["b", "c"]


def test_blank_lines_are_skipped_and_counted(tmp_path):
    path = write(tmp_path / "a.jsonl", b'\n{"text": "x"}\r\n  \n{"text": "y"}')
    assert [r.where[-2:] for r in read_records(str(path))] == [":2", ":4"]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.jsonl", b'{"text": "x"}\n{"text": \n', "a.jsonl:2: invalid JSON"),
        ("a.jsonl", b'{"text": "x"}\n{"text": "\xff"}\n', r"a.jsonl:2: invalid UTF-8 at byte 11"),
        ("a.jsonl.gz", b'{"text": "x"}\n["x"]\n', "a.jsonl.gz:2: the line holds a JSON list"),
        ("a.xlsx", b"text\n", "a.xlsx: its name ends in none of the known suffixes"),
        ("a.parquet", b"PAR1 no more", "a.parquet: not a readable Parquet file"),
        ("a.parquet", b"", "a.parquet: not a readable Parquet file"),
    ],
)
def test_bad_data_is_named_by_file_and_line(tmp_path, name, data, message):
    path = write(tmp_path / name, data)
    with pytest.raises(MftError, match=message):
        data_of(path)


ROWS = [{"text": 'a, "b"\n\tc \u2028', "lang": "py"}, {"text": "d", "lang": None}]
CSV = '\ufefftext,lang\r\n"a, ""b""\n\tc \u2028",py\r\n\r\nd,\r\n'.encode()


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.csv", CSV),
        ("a.csv.gz", CSV),
        ("a.tsv.zst", 'text\tlang\n"a, ""b""\n\tc \u2028"\tpy\nd\t\n'.encode()),
        ("a.json", json.dumps(ROWS, indent=1).encode()),
        ("a.json.gz", b"\n " + json.dumps(ROWS).encode()),
        ("a.json", "".join(json.dumps(row) + "\n" for row in ROWS).encode()),
    ],
)
def test_tables_and_arrays_give_the_records_that_lines_of_json_give(tmp_path, name, data):
    path = write(tmp_path / name, data)
    assert data_of(path) == ROWS
    places = [record.where for record in read_records(str(path))]
    assert places in ([f"{path} row 1", f"{path} row 2"], [f"{path}:1", f"{path}:2"])


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.csv", b"a,b\n1,2\n1,2,3\n", r"a.csv row 2: 3 cells; expected 2, one for each of a, b"),
        ("a.csv", b'a,b\n1,"2\n3,4\n', "a.csv:3: not a readable table .*quotes that are closed"),
        ("a.csv", b"a,a\n1,2\n", "names the column 'a' twice"),
        ("a.csv", b"a,b\n1,\xff\n", r"a.csv:2: invalid UTF-8 at byte 3"),
        ("a.json", b'[{"a": 1},\n {"a": }]', "a.json:2: invalid JSON, .* at character 8"),
        ("a.json", b'[{"a": 1}, 3]', "a.json row 2: the array holds a JSON int"),
        ("a.csv", b"a;b\n1,2;3\n", r"row 1: 2 cells; .* table's first line, split at commas"),
        ("a.json", b'{\n "a": 1\n}', r"a.json:1: invalid JSON, .* or one array \[...\] of objects"),
        ("a.json", b"[" * 99999, "a.json: JSON nested too deeply"),
        ("a.json", b'["\xff"]', "a.json: invalid UTF-8 at byte 3"),
    ],
)
def test_bad_tables_and_arrays_are_named_by_their_place(tmp_path, name, data, message):
    with pytest.raises(MftError, match=message):
        data_of(write(tmp_path / name, data))


def test_a_table_of_unknown_names_says_where_they_come_from(tmp_path):
    [record] = read_records(str(write(tmp_path / "a.csv", b"prompt;answer\n1 + 1?;2\n")))
    with pytest.raises(MftError, match="fields `prompt;answer` .* first line, split at commas"):
        to_sample(record)


def test_a_table_beside_lines_of_json_in_a_folder_is_no_data(tmp_path):
    (tmp_path / "counts.csv").write_text("text\nno data\n")
    assert data_of(tmp_path) == [{"text": "no data"}]
    write(tmp_path / "a.jsonl", JSONL)
    assert data_of(tmp_path) == RECORDS


def test_a_name_of_the_hub_without_its_prefix_is_told_how_to_write_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MftError, match="is written datasets:openai/gsm8k"):
        data_of("openai/gsm8k")


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst"])
@pytest.mark.parametrize("left_out", [1, 5, 30])
def test_a_compressed_file_cut_short_is_an_error(tmp_path, name, left_out):
    path = write(tmp_path / name, JSONL)
    path.write_bytes(path.read_bytes()[:-left_out])
    with pytest.raises(MftError, match="cut short or damaged"):
        data_of(path)


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst"])
def test_a_file_that_is_not_what_its_name_says_is_an_error(tmp_path, name):
    (tmp_path / name).write_bytes(JSONL)
    with pytest.raises(MftError, match="cut short or damaged"):
        data_of(tmp_path / name)


@pytest.mark.parametrize("path", ["nowhere.jsonl", "*.jsonl", "nowhere/"])
def test_a_path_that_names_nothing_is_an_error(tmp_path, path):
    with pytest.raises(MftError, match="no file at .*expected an existing file"):
        data_of(tmp_path / path)


def test_a_folder_without_data_files_is_an_error(tmp_path):
    (tmp_path / "sub").mkdir()
    write(tmp_path / "sub" / "a.jsonl", JSONL)
    with pytest.raises(MftError, match="holds no data file"):
        data_of(tmp_path)


def test_a_saved_hugging_face_dataset_is_read_row_by_row(tmp_path):
    rows = [{"prompt": f"p{i}", "answer": f"a{i}"} for i in range(3)]
    datasets.Dataset.from_list(rows).save_to_disk(str(tmp_path / "saved"))
    records = list(read_records(str(tmp_path / "saved")))
    assert [record.data for record in records] == rows
    assert records[2].where == f"{tmp_path / 'saved'} row 3"


def test_a_saved_dataset_with_splits_asks_for_one_of_them(tmp_path):
    part = datasets.Dataset.from_list([{"text": "x"}])
    datasets.DatasetDict({"train": part, "valid": part}).save_to_disk(str(tmp_path / "both"))
    with pytest.raises(MftError, match="splits train, valid"):
        list(read_records(str(tmp_path / "both")))

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mft_jax.huggingface import tensors
from mft_jax.huggingface.tensors import (
    TensorType,
    read,
    read_json,
    read_spans,
    weight_files,
    write_tensors,
)
from mft_jax.types import MftError

TENSORS = {
    "b": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a": np.arange(5).astype(ml_dtypes.bfloat16),
    "scalar": np.array(2, np.float16),
    "empty": np.zeros((0, 3), np.float32),
}
TYPES = {
    "b": TensorType("F32", (2, 3)),
    "a": TensorType("BF16", (5,)),
    "scalar": TensorType("F16", ()),
    "empty": TensorType("F32", (0, 3)),
}


def test_the_safetensors_library_reads_what_is_written(tmp_path):
    write_tensors(tmp_path / "x", TYPES, TENSORS.items())
    loaded = load_file(tmp_path / "x")
    assert loaded.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert loaded[name].dtype == tensor.dtype
        np.testing.assert_array_equal(loaded[name], tensor)


def test_what_the_safetensors_library_writes_is_read(tmp_path):
    save_file(TENSORS, tmp_path / "x", metadata={"format": "pt"})
    spans = read_spans(tmp_path / "x")
    assert spans.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        found = read(spans[name])
        assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape)
        np.testing.assert_array_equal(found, tensor)


def test_a_transposed_view_is_written_in_its_own_order(tmp_path):
    view = TENSORS["b"].T
    write_tensors(tmp_path / "x", {"b": TensorType("F32", (3, 2))}, [("b", view)])
    np.testing.assert_array_equal(load_file(tmp_path / "x")["b"], view)


def test_a_tensor_that_was_not_declared_is_refused(tmp_path):
    with pytest.raises(ValueError, match="announced b"):
        write_tensors(tmp_path / "x", {"b": TYPES["b"]}, [("b", TENSORS["b"].T)])


@pytest.mark.parametrize(
    "header",
    [
        b"[1, 2]",
        b'{"a": 3}',
        b'{"a": {"dtype": "F32", "shape": [2]}}',
        b"{{{{",
        b'{"a":' * 100_000,
        *(
            b'{"a": {"dtype": "F32", "shape": %s, "data_offsets": %s}}' % parts
            for parts in [
                (b"[0.5]", b"[0, 0]"),
                (b'["0"]', b"[0, 0]"),
                (b"[false]", b"[0, 0]"),
                (b"[-1, 0]", b"[0, 0]"),
                (b"[0]", b"[false, 0]"),
                (b"[0]", b"[1, 0]"),
            ]
        ),
    ],
    ids=lambda header: header[:60].decode(),
)
def test_a_damaged_header_is_refused(tmp_path, header):
    (tmp_path / "x").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(MftError, match="header is damaged"):
        read_spans(tmp_path / "x")


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a": 1' + b"0" * 5000 + b"}", "cannot be read .*digits"),
        (b'{"a": "' + b"b" * 100_000 + b'"}', "has 100,009 bytes; expected at most 99,999 of JSON"),
    ],
    ids=["deep", "a long number", "long"],
)
def test_json_without_an_end_is_refused(tmp_path, monkeypatch, content, fault):
    monkeypatch.setattr(tensors, "MAX_JSON_BYTES", 100_000 - content.startswith(b'{"a": "'))
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(MftError, match=fault):
        read_json(tmp_path / "x")


@pytest.mark.parametrize("name", ["../b/model.safetensors", "/etc/passwd", "a/../../x"])
def test_an_index_that_names_files_outside_of_the_folder_is_refused(tmp_path, name):
    (tmp_path / "model.safetensors.index.json").write_text(f'{{"weight_map": {{"w": "{name}"}}}}')
    with pytest.raises(MftError, match="lies outside of the folder"):
        weight_files(tmp_path)

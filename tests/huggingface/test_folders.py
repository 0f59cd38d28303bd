"""Folders of models; the rest of `model_folder` is tested in test_base_weights."""

import json
import shlex

import numpy as np
import pytest
from safetensors.numpy import load_file

from mft_jax.cli.check import transformers_logits
from mft_jax.huggingface.base_weights import checked_spans, read_model
from mft_jax.huggingface.folders import model_folder, own_files
from mft_jax.huggingface.tensors import read
from mft_jax.testing import tiny_checkpoint
from mft_jax.types import MftError


@pytest.mark.parity
@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("family", ["gemma", "baichuan"])  # with a tied head; with modelling code
def test_the_named_conversion_of_pickles_works(tmp_path, monkeypatch, family, shards):
    torch = pytest.importorskip("torch", reason="needs the extra `parity` (torch)")
    monkeypatch.chdir(tmp_path)  # the conversion changes it
    folder = tiny_checkpoint(tmp_path / "it's a model", family)
    kind, config = read_model(folder)
    expected = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    tensors = {name: torch.from_numpy(array) for name, array in expected.items()}
    if config.tied_head:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    for i in range(shards):
        part = dict(list(sorted(tensors.items()))[i::shards])
        name = f"pytorch_model-{i}.bin" if shards > 1 else "pytorch_model.bin"
        torch.save(part, folder / name)
    with pytest.raises(MftError, match="is never read; convert it once") as raised:
        model_folder(str(folder))
    python, _, code = shlex.split(str(raised.value).partition("\n")[2])
    assert python == "python"
    exec(code, {})
    assert model_folder(str(folder)) == folder
    for name, span in checked_spans(folder, kind, config).items():
        np.testing.assert_array_equal(read(span), expected[name])
    if kind.reference != "numpy":  # transformers reads the result, too
        assert transformers_logits(folder, np.arange(3, dtype=np.int32)).shape[0] == 3


def test_a_pickle_without_weights_is_ignored(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({}))
    (tmp_path / "training_args.bin").touch()
    assert model_folder(str(tmp_path)) == tmp_path


def test_a_link_that_leads_out_of_the_model_is_not_copied(tmp_path):
    outside, folder = tmp_path / "secret", tmp_path / "model"
    folder.mkdir()
    outside.write_text("secret")
    (folder / "real.json").write_text("{}")
    (folder / "alias.json").symlink_to("real.json")
    assert [file.name for file in own_files(folder, ["*.json"])] == ["alias.json", "real.json"]
    (folder / "tokenizer.json").symlink_to(outside)
    with pytest.raises(MftError, match="tokenizer.json is a link to .*secret, outside of"):
        own_files(folder, ["tokenizer.json", "absent.json"])


def test_links_of_the_hub_cache_to_its_blobs_are_the_models_own(tmp_path):
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "1234"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    (blobs / "abcd").write_text("{}")
    (snapshot / "tokenizer.json").symlink_to("../../blobs/abcd")
    assert own_files(snapshot, ["tokenizer.json"]) == [snapshot / "tokenizer.json"]

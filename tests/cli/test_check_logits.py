"""`mft check` against transformers."""

import json
import re
import sys

import numpy as np
import pytest

from mft_jax.cli.check import transformers_logits
from mft_jax.testing import tiny_checkpoint
from mft_jax.types import MftError


def edit_json(file, **changes):
    value = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({k: v for k, v in value.items() if v is not None}))


def test_without_torch_the_remedy_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)  # as if it were not installed
    with pytest.raises(MftError, match="--headers_only") as raised:
        transformers_logits(tmp_path, np.arange(3, dtype=np.int32))
    assert "pip install -e '.[parity]'" in str(raised.value)


def test_without_torch_the_check_ends_well_and_says_what_it_left_out(tmp_path, check, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    folder = tiny_checkpoint(tmp_path / "model", "llama")
    code, out, err = check(folder)
    assert (code, err) == (0, "") and "logits not compared: torch is not installed" in out
    code, _, err = check(folder, "--prompt=x = 1")
    assert code == 2 and "torch is not installed" in err


@pytest.mark.parity
@pytest.mark.parametrize("change", [{"hidden_act": "nope"}, {"pad_token_id": "x"}])
def test_what_transformers_cannot_compute_is_said(tmp_path, change):
    pytest.importorskip("torch", reason="needs the extra `parity` (torch)")
    folder = tiny_checkpoint(tmp_path / "model", "llama")
    edit_json(folder / "config.json", **change)
    with pytest.raises(MftError, match="transformers cannot compute it"):
        transformers_logits(folder, np.arange(3, dtype=np.int32))


@pytest.mark.parity
def test_a_forward_pass_that_fails_is_no_traceback(tmp_path, monkeypatch):
    pytest.importorskip("torch", reason="needs the extra `parity` (torch)")
    from transformers import LlamaForCausalLM

    def forward(self, **inputs):
        raise TypeError("no tensor")

    monkeypatch.setattr(LlamaForCausalLM, "forward", forward)
    with pytest.raises(MftError, match="TypeError: no tensor"):
        transformers_logits(tiny_checkpoint(tmp_path / "m", "llama"), np.arange(3, dtype=np.int32))


@pytest.mark.parity
@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_logits_are_those_of_transformers(tmp_path, check, family):
    pytest.importorskip("torch", reason="needs the extra `parity` (torch)")
    folder = tiny_checkpoint(tmp_path / "model", family)
    code, out, err = check(folder, "--prompt=print('hello')\n")
    assert code == 0, err
    assert "PASS" in out and "FAIL" not in out
    gap = float(re.search(r"max \|difference\| +│ +(\S+)", out)[1])
    assert 0 < gap < 1e-4
    assert "same first choice" in out and "100.00%" in out and "KL" in out


@pytest.mark.parity
def test_a_model_that_transformers_computes_otherwise_fails(tmp_path, check, monkeypatch):
    pytest.importorskip("torch", reason="needs the extra `parity` (torch)")
    from mft_jax.cli import check as command

    real = command.transformers_logits

    def other(folder, ids):  # the same checkpoint read with another epsilon and rotation
        edit_json(folder / "config.json", rope_theta=100.0)
        return real(folder, ids)

    folder = tiny_checkpoint(tmp_path / "model", "llama")
    monkeypatch.setattr(command, "transformers_logits", other)
    code, out, _ = check(folder)
    assert code == 1 and "FAIL" in out and "PASS" not in out


@pytest.mark.parity
def test_a_prompt_longer_than_the_model_has_positions_is_refused(tmp_path, check):
    pytest.importorskip("torch", reason="needs the extra `parity` (torch)")
    code, _, err = check(tiny_checkpoint(tmp_path / "model", "llama"), f"--prompt={'x = 1' * 500}")
    assert code == 2 and "expected 1 to 512" in err

"""Adapters train and compute as peft's do, for every family that transformers has; QLoRA follows
bitsandbytes.
"""

import copy
import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mft_jax.composition import combine
from mft_jax.finetune import FinetuneConfig, freeze, init_trainable, split_start
from mft_jax.huggingface.adapter_import import read_adapter
from mft_jax.huggingface.adapters import part_names, peft_tensors, save_adapter
from mft_jax.huggingface.checkpoint import load_params, read_model
from mft_jax.models.decoder import bind, param_shapes
from mft_jax.models.families import FAMILIES
from mft_jax.models.nll import next_token_nll
from mft_jax.sharding import MeshConfig, leaf_shardings, make_mesh

torch = pytest.importorskip("torch", reason="parity needs the extra `parity` (torch)")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft", reason="parity needs the extra `parity` (peft)")
pytestmark = [
    pytest.mark.parity,
    # peft reads an attribute that the newest transformers deprecates.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]

NAMES = [family.name for family in FAMILIES.values() if family.reference == "transformers"]
LENGTH = 24
NORMAL = FinetuneConfig("lora", rank=4, alpha=6.0)


def tokens(rows=2, length=LENGTH, seed=0):
    return np.random.default_rng(seed).integers(3, 4096, (rows, length))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """`base(family) -> (folder, transformers' model)`; the model is to be copied."""
    shelf = tmp_path_factory.mktemp("bases")

    @functools.cache
    def make(name):
        options = FAMILIES[name].tiny_config()
        options.pop("dtype")
        hf_config = transformers.AutoConfig.for_model(options.pop("model_type"), **options)
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(
            hf_config, dtype=torch.float32, attn_implementation="eager"
        ).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        model.save_pretrained(shelf / name)
        return shelf / name, model

    return make


def load(folder, settings, adapted=()):
    """(family, config, params, start)"""
    mesh = make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1])
    family, config = read_model(folder)
    put = functools.partial(freeze, settings, dtype=jnp.float32, adapted=adapted)
    where = functools.partial(leaf_shardings, mesh)
    params = load_params(folder, family, config, freeze=put, shardings=where)
    return family, config, *split_start(params)


def noise(tree, size=0.05):
    """Every leaf moved by a random array of its own."""
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    moved = [x + size * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(structure, moved)


def positions(ids):
    return np.broadcast_to(np.arange(ids.shape[1]), ids.shape), np.ones(ids.shape, int)


def logits(config, params, ids):
    @jax.jit
    def run(params):
        decoder = bind(config, params)
        return decoder.logit_head().logits(decoder(ids, *positions(ids)).states)

    return np.asarray(run(params))


def loss(config, settings, trainable, frozen, ids):
    """Mean nll of the next token, as transformers computes it, in chunks of the vocabulary."""
    decoder = bind(config, combine(settings, trainable, frozen, jnp.float32))
    hidden = decoder(ids, *positions(ids)).states
    targets = jnp.roll(ids, -1, axis=1)
    nll = next_token_nll(hidden, decoder.logit_head(), targets, vocab_chunk=1000)
    return nll[:, :-1].mean()


def their_logits(model, ids):
    with torch.no_grad():
        return model(input_ids=torch.from_numpy(ids)).logits.numpy()


def their_loss(model, ids):
    """Of the logits alone: models with experts add their router's loss to `.loss`."""
    out = model(input_ids=torch.from_numpy(ids)).logits[:, :-1].float()
    return torch.nn.functional.cross_entropy(
        out.reshape(-1, out.shape[-1]), torch.from_numpy(ids)[:, 1:].reshape(-1)
    )


def wrapped(name, base, folder, trainable, settings, **more):
    """peft's model with our adapter, through the folder that we write."""
    path, model = base(name)
    family, config = read_model(path)
    save_adapter(
        folder,
        trainable=trainable,
        start=more.get("start", {}),
        finetune_config=settings,
        family=family,
        config=config,
        base_model=str(path),
    )
    model = copy.deepcopy(model)
    return peft.PeftModel.from_pretrained(model, str(folder), is_trainable=True).eval()


def their_gradients(model, trainable, entries):
    """peft's gradients in our tree."""
    named = {
        name.replace(".default", ""): parameter.grad.numpy()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    found = jax.tree.map(lambda x: np.full(x.shape, np.nan, np.float32), trainable)
    for entry in entries:
        if entry.path in trainable:
            for tensor, index in entry.tensors():
                for part, ending in part_names(entry.path).items():
                    if part in trainable[entry.path]:
                        key = f"base_model.model.{tensor.removesuffix('.weight')}.{ending}"
                        key = key if key in named else f"{key}.weight"
                        found[entry.path][part][index] = named.pop(key).T
    assert not named, f"peft trains what we do not: {sorted(named)}"
    return found


def worst(got, want):
    """Largest error of a leaf, relative to the largest value of the leaf."""
    errors = jax.tree.map(lambda g, w: np.abs(g - w).max() / np.abs(w).max(), got, want)
    return max(map(float, jax.tree.leaves(errors)))


OPTIONS = {
    "plain": {},
    "dora": {"dora": True},
    "tables": {"targets": ("all_linear", "embedding", "head"), "rslora": True},
}
STEPS = [(name, "plain") for name in NAMES] + [
    (name, option) for name in ("llama", "phi3", "gpt_neox") for option in ("dora", "tables")
]


@pytest.mark.parametrize(("name", "option"), STEPS)
def test_a_step_of_lora_is_pefts(name, option, base, tmp_path):
    """Loss, logits and the gradient of every adapter, from the same random A and B."""
    settings = dataclasses.replace(NORMAL, **OPTIONS[option])
    family, config, params, _ = load(base(name)[0], settings)
    trainable = noise(init_trainable(settings, params, param_shapes(config), 0))
    theirs = wrapped(name, base, tmp_path / "adapter", trainable, settings)
    ids = tokens()
    step = jax.jit(jax.value_and_grad(functools.partial(loss, config, settings)))
    value, grads = step(trainable, params, ids)
    expected = their_loss(theirs, ids)
    expected.backward()
    expected = float(expected.detach())
    assert float(value) == pytest.approx(expected, rel=1e-5)
    plain = float(their_loss(base(name)[1], ids).detach())
    assert abs(expected - plain) > 1e-3 * plain, "the adapter makes no difference"
    want = their_gradients(theirs, trainable, family.entries(config))
    gap = worst(grads, want)
    print(
        f"PARITY {name} {option} loss {abs(float(value) - expected) / expected:.1e} grads {gap:.1e}"
    )
    assert gap < 1e-4

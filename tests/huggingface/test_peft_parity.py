"""Adapters train and compute like peft's in every family, and QLoRA like bitsandbytes."""

import copy
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mft_jax.finetune.attach import init_trainable, split_initial_adapters, store_weight
from mft_jax.finetune.combine import combine
from mft_jax.finetune.merge import TrainedWeights
from mft_jax.finetune.tuning import FinetuneConfig, adapted_paths
from mft_jax.huggingface.adapter_export import module_name, not_for_peft, part_names, save_adapter
from mft_jax.huggingface.adapter_import import read_adapter
from mft_jax.huggingface.base_weights import checked_spans, load_params, read_model
from mft_jax.models.decoder import bind
from mft_jax.models.families import FAMILIES
from mft_jax.models.nll import next_token_nll
from mft_jax.models.params import param_infos
from mft_jax.sharding import MeshConfig, leaf_shardings, make_mesh
from mft_jax.testing import add_noise, largest_relative_error

torch = pytest.importorskip("torch", reason="parity needs the extra `parity` (torch)")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft", reason="parity needs the extra `parity` (peft)")
torch.set_num_threads(1)  # tiny products: more threads would only wait for each other
pytestmark = [
    pytest.mark.parity,
    # peft reads an attribute that the newest transformers deprecates.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    # An adapter of a tied embedding changes the embedding, but not the head, in peft as here.
    pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning"),
]

NAMES = [family.name for family in FAMILIES.values() if family.reference == "transformers"]
LENGTH = 24
NORMAL = FinetuneConfig("lora", rank=4, alpha=6.0)
TABLES = ("all_linear", "embedding", "head")


def tokens(rows=2, length=LENGTH, seed=0):
    return np.random.default_rng(seed).integers(3, 4096, (rows, length))


def load(folder, settings, adapted=()):
    """(family, config, params, start)"""
    if not adapted:  # then only the method is read of them
        settings = FinetuneConfig(settings.method, quantization=settings.quantization)
    return loaded(folder, settings, tuple(adapted))


@functools.cache
def loaded(folder, settings, adapted):
    mesh = make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1])
    family, config = read_model(folder)
    put = functools.partial(store_weight, settings, dtype=jnp.float32, adapted=adapted)
    where = functools.partial(leaf_shardings, mesh)
    params = load_params(folder, family, config, store_weight=put, shardings=where)
    return family, config, *split_initial_adapters(params)


def positions(ids):
    return jnp.broadcast_to(jnp.arange(ids.shape[1])[None], ids.shape), jnp.ones(ids.shape, int)


def logits(config, settings, trainable, frozen):
    @jax.jit
    def run(trainable, frozen, ids):
        params = combine(settings, param_infos(config), trainable, frozen, jnp.float32)
        decoder = bind(config, params)
        return decoder.logit_head().logits(decoder(ids, *positions(ids)).states)

    return np.asarray(run(trainable, frozen, tokens()))


def loss(config, settings, trainable, frozen, ids):
    """Mean nll of the next token, as transformers computes it, in chunks of positions."""
    decoder = bind(config, combine(settings, param_infos(config), trainable, frozen, jnp.float32))
    hidden = decoder(ids, *positions(ids)).states
    targets = jnp.roll(ids, -1, axis=1)
    counted = jnp.ones_like(ids, bool)
    nll = next_token_nll(hidden, decoder.logit_head(), targets, counted, chunk=10)
    return nll[:, :-1].mean()


def their_logits(model, ids):
    with torch.no_grad():
        return model(input_ids=torch.from_numpy(ids)).logits.numpy()


def their_loss(model, ids):
    """The loss of the logits only: models with experts add their router's loss to `.loss`."""
    out = model(input_ids=torch.from_numpy(ids)).logits[:, :-1].float()
    return torch.nn.functional.cross_entropy(
        out.reshape(-1, out.shape[-1]), torch.from_numpy(ids)[:, 1:].reshape(-1)
    )


def wrapped(name, base, folder, trainable, settings, start=None, renamed=True):
    """The model of peft with our adapter, loaded from the folder that we write."""
    path, model = base(name)
    family, config = read_model(path)
    trained = TrainedWeights(settings, trainable, start or {})
    save_adapter(folder, trained=trained, family=family, model_config=config, base_model=str(path))
    model = copy.deepcopy(model)
    if name == "deepseek_v2" and renamed:
        # Under this name peft 0.21 takes shared experts for the routed ones, which it cannot load.
        model.config.model_type = "deepseek_v2 of transformers 4"
    return peft.PeftModel.from_pretrained(model, str(folder), is_trainable=True).eval()


def their_gradients(model, trainable, family, config):
    """The gradients of peft in our tree."""
    named = {
        name.replace(".default", ""): parameter.grad.numpy()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    found = jax.tree.map(lambda x: np.full(x.shape, np.nan, np.float32), trainable)
    for entry in family.entries(config):
        if entry.path in trainable:
            for tensor, index in entry.tensors():
                for part, ending in part_names(param_infos(config)[entry.path].kind).items():
                    if part in trainable[entry.path]:
                        key = f"base_model.model.{module_name(tensor)}.{ending}"
                        key = key if key in named else f"{key}.weight"
                        found[entry.path][part][index] = named.pop(key).T
    assert not named, f"peft trains what we do not: {sorted(named)}"
    return found


STEPS = [(name, {"targets": TABLES, "rslora": True}) for name in NAMES] + [
    (name, {"dora": True}) for name in ("llama", "phi3", "gpt_neox", "deepseek_v2")
]


@pytest.mark.parametrize(("name", "options"), STEPS)
def test_a_step_of_lora_is_pefts(name, options, base, tmp_path):
    """The loss and the gradient of every adapter are equal for the same random A and B."""
    settings = dataclasses.replace(NORMAL, **options)
    family, config, params, _ = load(base(name)[0], settings)
    if config.tied_head:
        settings = dataclasses.replace(settings, targets=settings.targets[:2])
    trainable = add_noise(init_trainable(settings, params, param_infos(config), 0))
    theirs = wrapped(name, base, tmp_path / "adapter", trainable, settings)
    ids = tokens()
    step = jax.jit(jax.value_and_grad(functools.partial(loss, config, settings)))
    value, grads = step(trainable, params, ids)
    expected = their_loss(theirs, ids)
    expected.backward()
    expected = float(expected.detach())
    assert float(value) == pytest.approx(expected, rel=1e-5)
    plain = float(their_loss(base(name)[1], ids).detach())
    assert abs(expected - plain) > 1e-4 * plain, "the adapter makes no difference"
    want = their_gradients(theirs, trainable, family, config)
    assert largest_relative_error(grads, want) < 1e-4


EXPORTS = {
    "pissa": ("llama", {"init": "pissa", "targets": TABLES}),
    "pissa, rslora": ("phi3", {"init": "pissa", "rslora": True}),
    "pissa, dora": ("qwen2", {"init": "pissa", "dora": True}),
}


@pytest.mark.parametrize("case", EXPORTS)
def test_peft_computes_the_same_from_the_original_weights(case, base, tmp_path):
    name, options = EXPORTS[case]
    settings = dataclasses.replace(NORMAL, **options)
    adapted = adapted_paths(settings, param_infos(read_model(base(name)[0])[1]))
    _, config, params, start = load(base(name)[0], settings, adapted)
    assert start
    trainable = add_noise(init_trainable(settings, params, param_infos(config), 0, start))
    theirs = wrapped(name, base, tmp_path / "adapter", trainable, settings, start=start)
    ours = logits(config, settings, trainable, params)
    assert np.abs(ours - their_logits(base(name)[1], tokens())).max() > 0.1
    np.testing.assert_allclose(ours, their_logits(theirs, tokens()), rtol=0, atol=1e-4)


ALL, EXPERTS = ("all_linear",), ("all_linear", "mlp/*")
BY_EXPERT = (ALL, EXPERTS, ("mlp/down",), ("mlp/gate", "mlp/up"), ("mlp/gate",))
LOADED = [(name, targets) for name in ("mixtral", "qwen3_moe") for targets in BY_EXPERT]
LOADED += [("qwen2_moe", ALL), ("qwen2_moe", EXPERTS), ("deepseek_v2", ALL)]


@pytest.mark.parametrize("name, targets", [*LOADED, ("deepseek_v2", ("attention/*",))])
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")  # peft's
def test_a_note_names_exactly_what_peft_does_not_load(name, targets, base, tmp_path):
    settings = dataclasses.replace(NORMAL, targets=targets, rslora=True)
    family, config, params, _ = load(base(name)[0], settings)
    trainable = add_noise(init_trainable(settings, params, param_infos(config), 0))
    ours = logits(config, settings, trainable, params)
    try:
        theirs = wrapped(name, base, tmp_path / "a", trainable, settings, renamed=False)
        same = np.abs(ours - their_logits(theirs, tokens())).max() < 1e-4
    except (ValueError, RuntimeError):
        same = False
    assert same == (not_for_peft(trainable, family, config) == "")


LINEAR = {"target_modules": ["q_proj", "v_proj", "o_proj", "up_proj"]}
RANKS = {"q_proj": 7, r"layers\.1\.self_attn\.v_proj": 2}
ALPHAS = {"up_proj": 9, r"model\.layers\.0\.self_attn\.q_proj": 30}
PATTERNS = {**LINEAR, "rank_pattern": RANKS, "alpha_pattern": ALPHAS}
WRITTEN = {
    "patterns": ("llama", PATTERNS),
    "patterns, rslora": ("qwen2", {**PATTERNS, "use_rslora": True}),
    "some layers": ("llama", {**LINEAR, "layers_to_transform": [1]}),
    "dora": ("llama", {**LINEAR, "use_dora": True, "rank_pattern": {"o_proj": 2}}),
    "all linear": ("phi3", {"target_modules": "all-linear"}),
    "tables": ("gpt_neox", {"target_modules": ["embed_in", "lm_head", "query_key_value"]}),
    "tables and what they are of": ("phi", {"target_modules": ["embed_tokens", "lm_head"]}),
    "experts not adapted": ("mixtral", {"target_modules": ["q_proj", "o_proj"]}),
}


@pytest.mark.parametrize("case", WRITTEN)
def test_what_peft_wrote_computes_the_same(case, base, tmp_path):
    name, options = WRITTEN[case]
    folder, model = base(name)
    torch.manual_seed(1)
    settings = peft.LoraConfig(r=4, lora_alpha=6, task_type="CAUSAL_LM", **options)
    theirs = peft.get_peft_model(copy.deepcopy(model), settings).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    carried = "what they are of" in case  # as peft does by default
    theirs.save_pretrained(tmp_path / "adapter", save_embedding_layers=carried)
    family, config, params, _ = load(folder, NORMAL)
    found = read_adapter(tmp_path / "adapter", NORMAL, family, config)
    assert bool(found.carried) == carried
    found.check_base(checked_spans(folder, family, config))
    trainable = jax.tree.map(jnp.asarray, found.load())
    ours = logits(config, found.tuning, trainable, params)
    want = their_logits(theirs, tokens())
    assert np.abs(want - their_logits(model, tokens())).max() > 0.05
    np.testing.assert_allclose(ours, want, rtol=0, atol=1e-4)


# Transformers keeps experts as 3-D parameters, which bitsandbytes does not quantise.
QUANTIZED = [name for name in NAMES if "num_experts_per_tok" not in FAMILIES[name].tiny_config()]
STEPS_OF_QLORA, RATE = 20, 5e-3


def their_losses(folder, adapter, batches):
    four_bits = transformers.BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=four_bits, dtype=torch.float32, attn_implementation="eager"
    )
    model = peft.PeftModel.from_pretrained(model, str(adapter), is_trainable=True).eval()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=RATE, weight_decay=0.0)
    losses = np.zeros(len(batches))
    for index, ids in enumerate(batches):
        optimizer.zero_grad()
        value = their_loss(model, ids)
        value.backward()
        optimizer.step()
        losses[index] = value.detach()
    return losses


@pytest.mark.filterwarnings("ignore::DeprecationWarning:bitsandbytes")
@pytest.mark.parametrize("name", QUANTIZED)
def test_qlora_follows_bitsandbytes(name, base, tmp_path):
    """The start and the steps are the same; each library has its own rounding to four bits."""
    pytest.importorskip("bitsandbytes", reason="parity needs the extra `parity` (bitsandbytes)")
    settings = FinetuneConfig("qlora", rank=8, alpha=16.0)
    folder, _ = base(name)
    _, config, params, _ = load(folder, settings)
    trainable = init_trainable(settings, params, param_infos(config), 0)
    wrapped(name, base, tmp_path / "adapter", trainable, settings)
    batches = [tokens(seed=seed % 4) % 50 + 3 for seed in range(STEPS_OF_QLORA)]
    want = their_losses(folder, tmp_path / "adapter", batches)
    optimizer = optax.adamw(RATE, weight_decay=0.0)

    @jax.jit
    def step(trainable, state, ids):
        run = functools.partial(loss, config, settings)
        value, grads = jax.value_and_grad(run)(trainable, params, ids)
        updates, state = optimizer.update(grads, state, trainable)
        return optax.apply_updates(trainable, updates), state, value

    state, ours = optimizer.init(trainable), []
    for ids in batches:
        trainable, state, value = step(trainable, state, ids)
        ours.append(float(value))
    assert want[-4:].mean() < 0.9 * want[:4].mean(), "nothing was learnt"
    np.testing.assert_allclose(ours, want, rtol=0.01)

"""`finetune.targets` by the names of the checkpoint, as users of peft know them.

q_proj, self_attn.q_proj   attention/q
c_attn, query_key_value    attention/qkv
gate_proj                  mlp/gate, of experts and shared experts too where they are called so
all-linear                 all_linear
"""

import fnmatch
from collections.abc import Sequence

from mft_jax.huggingface.adapter_export import module_name
from mft_jax.models.config import ModelConfig
from mft_jax.models.families.base import Family
from mft_jax.models.params import param_infos
from mft_jax.types import MftError, suggest


def our_targets(
    targets: Sequence[str], family: Family, model_config: ModelConfig
) -> tuple[str, ...]:
    """The targets as patterns over our layers' names; those that already are stay as they are.

    As in peft a name means every module that ends in it. Raises `MftError` where there is none, and
    where it means only some of the matrices that have one name here: they are trained together.
    """
    modules = _modules(family, model_config)
    found: list[str] = []
    for target in targets:
        if target == "all_linear" or any(fnmatch.fnmatch(layer, target) for layer in modules):
            found.append(target)
        elif target == "all-linear":
            found.append("all_linear")
        else:
            found += _layers(target, modules)
    return tuple(dict.fromkeys(found))


def _modules(family: Family, model_config: ModelConfig) -> dict[str, list[str]]:
    """The modules of the checkpoint by our name of their layer, of those that can be adapted."""
    infos = param_infos(model_config)
    modules: dict[str, list[str]] = {}
    for entry in family.entries(model_config):
        info = infos[entry.path]
        if info.adaptable:
            named = modules.setdefault(info.layer, [])
            named += [module_name(name) for name, _ in entry.tensors()]
    return modules


def _layers(target: str, modules: dict[str, list[str]]) -> list[str]:
    def matches(module: str) -> bool:
        return fnmatch.fnmatch(module, target) or fnmatch.fnmatch(module, f"*.{target}")

    matched = {layer: sum(map(matches, names)) for layer, names in modules.items()}
    found = [layer for layer, count in matched.items() if count]
    known = sorted({name.rpartition(".")[2] for names in modules.values() for name in names})
    if not found:
        hint = suggest(target, [*modules, *known])
        raise MftError(
            f"finetune.targets: {target!r} matches no linear layer; {f'{hint} ' if hint else ''}"
            f"expected 'all_linear', patterns over {', '.join(sorted(modules))}, or names of the "
            f"checkpoint: {', '.join(known)}"
        )
    for layer in found:
        if matched[layer] < len(modules[layer]):
            raise MftError(
                f"finetune.targets: {target!r} means {matched[layer]} of the "
                f"{len(modules[layer])} matrices of {layer!r}, which are trained together; "
                f"expected all of them: {layer!r}"
            )
    return found

"""Settings of what is trained and how the rest is stored; the weights that get an adapter."""

import dataclasses
import fnmatch
import math
from typing import Literal

from mft_jax.models.params import ParamInfos
from mft_jax.types import MftError, at_least, check_local
from mft_jax.weights.storage import QuantizedDtype


@dataclasses.dataclass(frozen=True)
class FinetuneConfig:
    """Settings of what is trained and of how the rest is stored.

    method            qlora: adapters on a quantised base; lora: on a dense base; full: all weights
    quantization      of the matrices; auto: nf4 for qlora, none otherwise. lora with a quantised
                      base is qlora; full with one trains through the rounding (straight-through
                      estimator, arXiv 1308.3432)
    rank              of the adapters
    alpha             the update is scaled by alpha / rank, or with rslora by alpha / sqrt(rank)
    targets           all_linear (every matrix but those of experts), patterns over layer names
                      (attention/*, mlp/down, embedding, head), or names of the checkpoint as in
                      peft (q_proj, c_attn)
    dropout           share of an adapter's input that is left out while training
    rslora            scale by alpha / sqrt(rank) (arXiv 2312.03732)
    dora              train magnitudes and directions separately (arXiv 2402.09353)
    init              lora: A random, B zero; pissa, loftq: from the weight (arXiv 2404.02948,
                      2310.08659)
    loftq_iterations  rounds of quantisation and decomposition of init=loftq
    adapter           a folder in PEFT's format to continue from: it says rank, alpha, targets,
                      rslora and dora itself
    """

    method: Literal["full", "lora", "qlora"] = "qlora"
    quantization: Literal["auto", "none", QuantizedDtype] = "auto"
    rank: int = 16
    alpha: float = 32.0
    targets: tuple[str, ...] = ("all_linear",)
    dropout: float = 0.0
    rslora: bool = False
    dora: bool = False
    init: Literal["lora", "pissa", "loftq"] = "lora"
    loftq_iterations: int = 5
    adapter: str = ""

    def __post_init__(self) -> None:
        at_least("finetune", self, rank=1, loftq_iterations=1, dropout=0.0)
        check_local("finetune.adapter", self.adapter)
        problem = None
        if not 0 < self.alpha < math.inf:
            problem = f"alpha={self.alpha:g} must be above 0: the update is scaled by it"
        elif not self.targets:
            problem = "targets=() leaves nothing to train; expected 'all_linear' or patterns"
        elif self.dropout >= 1:
            problem = f"dropout={self.dropout:g} must be below 1: it is the share left out"
        elif self.method == "qlora" and self.quantization == "none":
            problem = "quantization='none' contradicts method='qlora'; use method='lora'"
        elif self.init == "loftq" and self.stored is None:
            problem = "init='loftq' starts from what quantisation loses; use method='qlora'"
        elif self.method == "full" and (
            self.dora or self.adapter or self.dropout or self.init != "lora"
        ):
            problem = (
                "method='full' has no adapter: dropout, dora, init and adapter are for lora and "
                "qlora"
            )
        elif self.adapter and self.init != "lora":
            problem = (
                f"init={self.init!r} contradicts adapter={self.adapter!r}: the adapter "
                "is the start; use init='lora'"
            )
        if problem:
            raise MftError(f"finetune: {problem}")

    @property
    def scale(self) -> float:
        """Factor of an adapter's update."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)

    @property
    def stored(self) -> QuantizedDtype | None:
        """Quantisation of the matrices; None: none."""
        if self.quantization == "auto":
            return "nf4" if self.method == "qlora" else None
        return None if self.quantization == "none" else self.quantization


def adapted_paths(tuning: FinetuneConfig, infos: ParamInfos) -> list[str]:
    """The weights that get an adapter, sorted. Every pattern must match at least one."""
    if tuning.method == "full":
        return []
    known = {path: info.layer for path, info in infos.items() if info.adaptable}
    all_linear = [path for path in known if infos[path].kind == "matrix"]
    chosen: set[str] = set()
    for pattern in tuning.targets:
        matched = [path for path, name in known.items() if fnmatch.fnmatch(name, pattern)]
        matched = all_linear if pattern == "all_linear" else matched
        if not matched:
            raise MftError(
                f"finetune.targets: {pattern!r} matches no linear layer; expected 'all_linear' or "
                f"patterns over {', '.join(sorted(set(known.values())))}"
            )
        chosen.update(matched)
    others = sorted(known[path] for path in chosen if infos[path].kind != "matrix")
    if tuning.dora and others:
        raise MftError(
            f"finetune.dora has no magnitudes for {', '.join(others)}; leave "
            "embedding, head and experts out of finetune.targets"
        )
    return sorted(chosen)

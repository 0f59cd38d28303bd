"""A training step of `transformers` + `peft` on torch. It needs the extra `parity`."""

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import peft  # pyright: ignore[reportMissingImports]
import torch  # pyright: ignore[reportMissingImports]
import transformers

from mft_jax.cli.bench.peer_batches import Padded


def make_model(folder: Path, vocab_size: int, shape: Mapping[str, int], positions: int) -> None:
    """Random weights in transformers' own form, which both sides read."""
    transformers.utils.logging.disable_progress_bar()
    settings: dict[str, Any] = {**shape, "max_position_embeddings": positions}
    torch.manual_seed(0)
    llama = transformers.LlamaConfig(vocab_size=vocab_size, tie_word_embeddings=False, **settings)
    transformers.LlamaForCausalLM(llama).save_pretrained(folder, safe_serialization=True)


@dataclasses.dataclass
class PeftSide:
    """peft's model and its optimiser; attention is transformers' default for torch (sdpa)."""

    model: Any
    optimizer: torch.optim.Optimizer

    @classmethod
    def load(cls, folder: Path, rank: int, alpha: int) -> "PeftSide":
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        model = transformers.LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
        lora = peft.LoraConfig(
            r=rank, lora_alpha=alpha, target_modules="all-linear", task_type="CAUSAL_LM"
        )
        adapted = peft.get_peft_model(model, lora).train()
        trained = [p for p in adapted.parameters() if p.requires_grad]
        return cls(adapted, torch.optim.AdamW(trained, lr=1e-3, weight_decay=0.0))

    @property
    def num_parameters(self) -> int:
        """Those of the base."""
        return sum(p.numel() for p in self.model.parameters() if not p.requires_grad)

    def loss(self, batches: Sequence[Padded]) -> float:
        """Nats per trained token over all batches, without a step."""
        total = count = 0.0
        with torch.no_grad():
            for batch in batches:
                labels = int((batch.labels[:, 1:] >= 0).sum())
                total += labels * float(self._forward(batch))
                count += labels
        return total / count

    def steps(self, batches: Sequence[Padded]) -> Callable[[], None]:
        trained = self.optimizer.param_groups[0]["params"]

        def call() -> None:
            for batch in batches:
                self._forward(batch).backward()
                torch.nn.utils.clip_grad_norm_(trained, 1.0)
                self.optimizer.step()
                self.optimizer.zero_grad(set_to_none=True)

        return call

    def _forward(self, batch: Padded) -> torch.Tensor:
        tokens, labels, mask = (torch.from_numpy(part).long() for part in batch)
        whole = {} if bool(mask.all()) else {"attention_mask": mask}
        return self.model(input_ids=tokens, labels=labels, use_cache=False, **whole).loss

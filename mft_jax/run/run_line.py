"""The record's first line, built from the parts of a run."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from mft_jax import __version__
from mft_jax.config import TrainConfig, to_dict
from mft_jax.data.mixture import Mixture
from mft_jax.data.packed_rows import join_tasks
from mft_jax.data.packing import padding_report
from mft_jax.data.tasks import TokenizedData
from mft_jax.finetune.combine import count_parameters
from mft_jax.record import schema
from mft_jax.record.schema import ModelFacts, PackingFacts, Quantity, TaskCounts
from mft_jax.run.base_model import BaseModelInfo
from mft_jax.run.batches import Data
from mft_jax.run.epochs import settled
from mft_jax.run.parts import attention
from mft_jax.run.provenance import command, software
from mft_jax.run.recorder import time_stamp


def run_record(
    config: TrainConfig,
    base: BaseModelInfo,
    data: Data,
    mesh: Mesh,
    balancer_logs: Mapping[str, Quantity],
) -> dict[str, Any]:
    """What this run is, with the steps and the warm-up that follow from its configuration.

    balancer_logs  the balancer's titles of what it logs, by name
    """
    dtype = config.model.compute_dtype
    count = count_parameters(base.tuning, base.infos, base.trainable_shapes, dtype)
    facts = ModelFacts(
        family=base.family.name,
        parameters=count.total,
        trainable=count.trainable,
        stored_bytes=count.stored_bytes,
        bits_per_weight=count.bits_per_weight,
    )
    counts = task_counts(data.tokenized, data.tasks.mixture)
    packing = packing_facts(data.tokenized, config.data.row_length, config.loop.rows_per_step)
    return schema.line(
        schema.RUN,
        time=time_stamp(),
        version=__version__,
        config=to_dict(settled(config, data.plan)),
        tasks=list(data.tasks.table.names),
        model=dataclasses.asdict(facts),
        data={name: dataclasses.asdict(row) for name, row in counts.items()},
        packing=dataclasses.asdict(packing),
        mesh=dict(mesh.shape),
        devices=f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        balancer_logs={name: dataclasses.asdict(told) for name, told in balancer_logs.items()},
        read_as=dict(zip(data.tasks.table.names, data.tokenized.read_as, strict=True)),
        findings=[dataclasses.asdict(finding) for finding in data.findings],
        epochs=data.plan.epochs,
        software=dict(software()),
        command=command(),
        attention=str(attention(config, base, mesh)),
    )


def task_counts(data: TokenizedData, mixture: Mixture) -> dict[str, TaskCounts]:
    """Per task: what there is, what an epoch takes, and what could not be used whole."""
    rows = {}
    repeats = mixture.counts / mixture.sizes  # 1 where every sample comes once in an epoch
    for name, train, valid, repeat in zip(
        data.tasks.names, data.train_stats, data.valid_stats, repeats, strict=True
    ):
        rows[name] = TaskCounts(
            train_samples=train.kept,
            epoch_samples=round(train.kept * float(repeat)),
            valid_samples=valid.kept,
            train_tokens=train.tokens,
            trained_tokens=train.trained_tokens,
            valid_tokens=valid.tokens,
            dropped=train.dropped + valid.dropped,
            truncated=train.truncated + valid.truncated,
            split=train.split + valid.split,
            untrainable=train.untrainable + valid.untrainable,
        )
    return rows


def packing_facts(data: TokenizedData, row_length: int, batch_rows: int) -> PackingFacts:
    """The share of positions that hold a real token: packed, and what two ways of padding give."""
    lengths = join_tasks(data.train).lengths
    report = padding_report(lengths, row_length, batch_rows)
    return PackingFacts(
        row_length=row_length,
        rows=round(float(lengths.sum()) / (report.packed * row_length)),
        packed=report.packed,
        static=report.static,
        dynamic=report.dynamic,
    )

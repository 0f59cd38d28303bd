"""Lines as the program writes them."""

import dataclasses

import pytest

from mft_jax.record import schema


@pytest.fixture
def run_line():
    """`run_line(*tasks)`: the first line of a run on these tasks."""

    def make(*tasks, **balancer_logs):
        model = schema.ModelFacts("qwen2", 100, 4, 55, 4.1)
        packing = schema.PackingFacts(8, 3, 0.9, 0.3, 0.6)
        counts = schema.TaskCounts(10, 10, 2, 90, 50, 20, 1, 0, 2, 3)
        return schema.line(
            schema.RUN,
            time="2026-11-20T10:00:00Z",
            version="0.2.0",
            config={"loop": {"steps": 7}},
            tasks=list(tasks),
            model=dataclasses.asdict(model),
            data={task: dataclasses.asdict(counts) for task in tasks},
            packing=dataclasses.asdict(packing),
            mesh={"data": 1, "fsdp": 1, "tensor": 1},
            devices="1 x cpu",
            balancer_logs=balancer_logs,
        )

    return make

"""Compiling in a process of its own: a compiler's noise stays there, Ctrl-C ends it at once, and it
has the environment that its topology needs.

`python -m mft_jax.run.plan_worker` reads a request from its input and writes the answer to the file
that is its argument: {"compiled": ...} or {"refused": text}.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from mft_jax.config import TrainConfig, resolve, to_dict
from mft_jax.run.plan_compiled import Compiled, compile_step, from_json, seen
from mft_jax.run.plan_topology import Topology
from mft_jax.types import MftError

MODULE = "mft_jax.run.plan_worker"
LAST_LINES = 15


def compile_apart(config: TrainConfig, topology: Topology) -> Compiled:
    """`compile_step` in a new process, which is ended where this one is interrupted. Raises
    `MftError`."""
    return _asked({"config": to_dict(config)}, topology)


def look(topology: Topology) -> Compiled:
    """`seen` in a new process. Raises `MftError`."""
    return _asked({}, topology)


def _asked(request: dict[str, Any], topology: Topology) -> Compiled:
    text = json.dumps({**request, "topology": [topology.kind, topology.shape]})
    command = [sys.executable, "-m", MODULE]
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        process = subprocess.Popen(
            [*command, str(answer)],
            env=os.environ | topology.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C reaches this process alone, which ends the other
        )
        try:
            _, noise = process.communicate(text)
        finally:
            process.kill()
            process.wait()
        if not answer.is_file():
            raise MftError(_died(process.returncode, noise))
        found = json.loads(answer.read_text("utf-8"))
    if "refused" in found:
        raise MftError(found["refused"])
    return from_json(found["compiled"])


def _died(code: int, noise: str) -> str:
    """What is said of a process without an answer: its last lines are all that is known."""
    last = "\n  ".join(noise.strip().splitlines()[-LAST_LINES:])
    if code == -9:
        return (
            "the compiler's process was killed, as a machine does that runs out of memory; plan on "
            "one with more, or a smaller step (a shorter data.row_length)"
        )
    return f"the compiler's process ended with code {code} and no answer; its last lines:\n  {last}"


def answer(request: dict[str, Any]) -> dict[str, Any]:
    kind, shape = request["topology"]
    topology = Topology(kind, tuple(shape))
    try:
        if "config" not in request:
            return {"compiled": seen(topology).to_json()}
        return {"compiled": compile_step(resolve(request["config"]), topology).to_json()}
    except MftError as error:
        return {"refused": str(error)}


def main() -> None:
    found = json.dumps(answer(json.load(sys.stdin)))
    Path(sys.argv[1]).write_text(found, "utf-8")


if __name__ == "__main__":
    main()

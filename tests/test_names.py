"""One name per type: whoever reads a parameter's name knows what it is."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NAMES = {
    "TrainConfig": "config",
    "ModelConfig": "model_config",
    "FinetuneConfig": "tuning",
    "DataConfig": "data_config",
    "MeshConfig": "mesh_config",
    "OptimConfig": "optim_config",
    "ObjectiveConfig": "objective_config",
    "BalancerConfig": "balancer_config",
    "LoopConfig": "loop_config",
}
# In a settings tree a field is named after its room, as on the command line.
FIELDS = {"TrainConfig"}
# Poetry and words that need a second reading; what to say instead.
WORDS = {
    "looks on": "is updated, but not used",
    "held against": "compared with",
    "goes on": "continues",
    "a hair": "a little",
    "hardly": "not",
    "nobody's": "no one's",
}


def misnamed(source: str) -> Iterator[str]:
    """Parameters and fields whose annotation is one of `NAMES` and whose name is another."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            named = [(arg.lineno, arg.arg, arg.annotation) for arg in every]
        elif isinstance(node, ast.ClassDef) and node.name not in FIELDS:
            named = [
                (item.lineno, item.target.id, item.annotation)
                for item in node.body
                if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
            ]
        else:
            continue
        for line, name, annotation in named:
            kind = ast.unparse(annotation).removesuffix(" | None") if annotation else ""
            if kind in NAMES and name != NAMES[kind]:
                yield f"{line}: {name}: {kind}, expected {NAMES[kind]}"


def mannered(source: str) -> Iterator[str]:
    for number, line in enumerate(source.splitlines(), start=1):
        yield from (
            f"{number}: {word!r}; say {better!r}"
            for word, better in WORDS.items()
            if word in line.lower()
        )


def test_misnamed_catches():
    source = "def f(config: ModelConfig): ...\nclass A:\n    finetune: FinetuneConfig | None = None"
    assert len(list(misnamed(source))) == 2
    assert not list(misnamed("def f(config: TrainConfig, tuning: FinetuneConfig): ..."))


@pytest.mark.parametrize("check", [misnamed, mannered])
def test_the_package_says_what_it_means(check):
    files = sorted((ROOT / "mft_jax").rglob("*.py"))
    found = [
        f"{path.relative_to(ROOT).as_posix()}:{breach}"
        for path in files
        for breach in check(path.read_text("utf-8"))
    ]
    assert not found, "\n".join(found)

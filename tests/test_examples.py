"""The examples in docstrings are true, and every public factory has one."""

import doctest
import importlib
import inspect
import pkgutil

import pytest

import mft_jax

# Rooms whose public factories are held to have an example each.
HELD = ("balancers",)
# Rooms whose examples, where there are any, are run.
ROOMS = ("losses", "balancers", "optim", "weights")
NOT_FACTORIES = {"balancers": ("base", "convergence", "coba_mftcoder", "gramian", "task_adam")}


def modules(room: str) -> list[str]:
    """The modules of a room, by name below the package: `losses`, or `balancers.coba`, ..."""
    found = importlib.import_module(f"{mft_jax.__name__}.{room}")
    inside = pkgutil.iter_modules(getattr(found, "__path__", []))
    return [room, *(f"{room}.{module.name}" for module in inside)]


def public_factories(name: str) -> list[str]:
    """Public functions of a module that return what the room is about."""
    module = importlib.import_module(f"{mft_jax.__name__}.{name}")
    return [
        key
        for key, value in vars(module).items()
        if inspect.isfunction(value)
        and value.__module__ == module.__name__
        and not key.startswith("_")
        and value.__annotations__.get("return") in RETURNS[name.partition(".")[0]]
    ]


def returns() -> dict[str, tuple[type, ...]]:
    from mft_jax.balancers.base import Balancer

    return {"balancers": (Balancer,)}


RETURNS = returns()


@pytest.mark.parametrize("name", [name for room in ROOMS for name in modules(room)])
def test_examples_are_true(name):
    module = importlib.import_module(f"{mft_jax.__name__}.{name}")
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize("room", HELD)
def test_every_public_factory_has_an_example(room):
    missing, seen = [], 0
    for name in modules(room):
        if name.partition(".")[2] in NOT_FACTORIES[room]:
            continue
        module = importlib.import_module(f"{mft_jax.__name__}.{name}")
        for key in public_factories(name):
            seen += 1
            if ">>>" not in (inspect.getdoc(getattr(module, key)) or ""):
                missing.append(f"{name}.{key}")
    assert seen > 0 and missing == []

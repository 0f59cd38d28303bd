"""The README's table of settings is made from the configuration's docstrings."""

from pathlib import Path

from mft_jax.testing import load_module

ROOT = Path(__file__).resolve().parents[2]
settings_table = load_module(ROOT / "docs" / "settings_table.py")


def test_the_readme_holds_the_table_of_the_settings():
    readme = (ROOT / "README.md").read_text("utf-8")
    remedy = "run `python docs/settings_table.py` and put what it prints into README.md"
    assert settings_table.table() in readme, remedy

"""The README's table of settings is made from the configuration's docstrings."""

import importlib.util
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SPEC = importlib.util.spec_from_file_location("settings_table", ROOT / "docs" / "settings_table.py")
settings_table = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(settings_table)


def test_the_readme_holds_the_table_of_the_settings():
    readme = (ROOT / "README.md").read_text("utf-8")
    remedy = "run `python docs/settings_table.py` and put what it prints into README.md"
    assert settings_table.table() in readme, remedy

"""The README's table of families is the registry's."""

import importlib.util
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SPEC = importlib.util.spec_from_file_location("support_table", ROOT / "docs" / "support_table.py")
support_table = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(support_table)


def test_the_readme_holds_the_table_of_the_registry():
    readme = (ROOT / "README.md").read_text("utf-8")
    remedy = "run `python docs/support_table.py` and put what it prints into README.md"
    assert support_table.table() in readme, remedy

"""`check`: the command as a user calls it."""

import pytest

from mft_jax.cli import main


@pytest.fixture
def check(tmp_path, capsys):
    """`check(folder, *flags) -> (exit code, stdout, stderr)`"""
    config = tmp_path / "config.py"
    config.write_text(
        "from mft_jax import config as configs\n\n\ndef get_config():\n"
        "    config = configs.default()\n    config.model.compute_dtype = 'float32'\n"
        "    config.finetune.rank = 4\n    return config\n"
    )

    def call(folder, *flags):
        with pytest.raises(SystemExit) as ended:
            main(["check", f"--config={config}", f"--config.model.path={folder}", *flags])
        captured = capsys.readouterr()
        return ended.value.code, captured.out, captured.err

    return call


@pytest.fixture
def rows():
    """`rows(out)`: the printed table as {label: value}, folded lines joined."""

    def parse(out):
        table, label = {}, ""
        for line in out.splitlines():
            cells = [cell.strip() for cell in line.strip("│").split("│")]
            if line.startswith("│") and len(cells) == 2:
                label = cells[0] or label
                table[label] = f"{table[label]} {cells[1]}" if label in table else cells[1]
        return table

    return parse

"""A config file that cannot be used: one line that names the file, its line and the reason."""

import pytest

from mft_jax.cli import main


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("1 / 0", "config.py:5: ZeroDivisionError: division by zero"),
        ("undefined", "config.py:5: NameError: name 'undefined' is not defined"),
        ("raise ValueError('two\\nlines')", "config.py:5: ValueError: two lines"),
        ("open('absent.txt')", "config.py:5: FileNotFoundError: [Errno 2] No such file"),
        ("import absent_module", "config.py:5: ModuleNotFoundError: No module named"),
        ("b'\\xff'.decode()", "config.py:5: UnicodeDecodeError: 'utf-8' codec can't decode"),
        ("assert False, 'no'", "config.py:5: AssertionError: no"),
        ("helper()", "config.py:3: KeyError: 'inner'"),
        ("raise MemoryError", "config.py:5: MemoryError; correct the config"),
        (
            "config.objective.vocab_chunk = 9",
            "unknown setting 'objective.vocab_chunk'; set objective.loss_chunk, which",
        ),
        ("config.loop.steps = 'many'", "config.py:5: loop.steps must be of type int"),
        (
            "config.model.remat = False",
            "config.py:5: model.remat must be of type str; True is now 'block'; False is now",
        ),
        (
            "config.data.tasks = {'math': {'path': 'x'}}",
            'config.py:5: data.tasks must be a list, such as [{"name": ..., "path": ...}, ...]',
        ),
        (
            "config.data = {'tasks': {'name': 'a', 'path': 'x'}}",
            "data.tasks={'name': 'a', 'path': 'x'}: expected a list, such as [{'name': ..., ",
        ),
        ("return None", "config.py: get_config() returns nothing; expected `return config`"),
    ],
)
def test_what_a_config_raises_is_named_by_file_and_line(
    tmp_path, monkeypatch, capsys, statement, words
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.py").write_text(
        "from mft_jax.config import default\n"
        "def helper():\n    return {}['inner']\n"
        f"def get_config():\n    config = default(); {statement}\n    return config\n"
    )
    with pytest.raises(SystemExit) as ended:
        main(["config", "--config=config.py"])
    out, err = capsys.readouterr()
    assert (ended.value.code, out) == (2, "") and len(err.splitlines()) == 1
    assert err.startswith(f"mft config: {words}")

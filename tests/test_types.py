"""Sums and counts travel, means are taken once; tasks are addressed by name."""

import numpy as np
import pytest

from mft_jax.types import (
    MftError,
    TaskSums,
    TaskTable,
    check_local,
    foreign_code,
    suggest,
    visible,
)


def test_mean_of_merged_parts_is_the_mean_of_the_whole_not_of_the_means():
    rng = np.random.default_rng(0)
    nll, task = rng.random(100), rng.integers(0, 3, 100)

    def sums(part: slice) -> TaskSums:
        count = np.bincount(task[part], minlength=3)
        return TaskSums(np.bincount(task[part], nll[part], minlength=3), count.astype(float))

    merged = sums(slice(0, 7)).merge(sums(slice(7, 100)))
    want = [nll[task == t].mean() for t in range(3)]
    np.testing.assert_allclose(merged.mean(), want, rtol=1e-12)
    means = (sums(slice(0, 7)).mean() + sums(slice(7, 100)).mean()) / 2
    assert not np.allclose(means, want)


def test_absent_is_count_zero_and_never_loss_zero():
    sums = TaskSums(np.array([0.0, 0.0]), np.array([4.0, 0.0]))
    assert sums.present().tolist() == [True, False]
    with np.errstate(invalid="ignore"):
        mean = sums.mean()
    assert mean[0] == 0.0 and np.isnan(mean[1])


def test_table_is_an_immutable_bijection_of_names_and_ids():
    table = TaskTable(("sql", "text2code"))
    assert len(table) == 2 and [table.id(name) for name in table.names] == [0, 1]
    assert table.by_name([0.5, np.nan]) == {"sql": 0.5, "text2code": None}
    with pytest.raises(AttributeError):
        table.names = ()  # type: ignore[misc]
    with pytest.raises(ValueError, match="zip"):
        table.by_name([0.5])


@pytest.mark.parametrize(
    ("names", "message"), [((), "no task is configured"), (("a", "b", "a"), "unique, but 'a'")]
)
def test_table_refuses_no_tasks_and_the_same_name_twice(names, message):
    with pytest.raises(MftError, match=message):
        TaskTable(names)


@pytest.mark.parametrize(
    ("name", "known", "most", "said"),
    [
        ("qlore", ["lora", "qlora", "full"], 1, "did you mean 'qlora'?"),
        ("qwen", ["llama", "qwen2", "qwen3"], 3, "did you mean 'qwen2' or 'qwen3'?"),
        ("gpt", ["gpt2_xl_with_a_long_name", "phi"], 1, "did you mean 'gpt2_xl_with_a_long_name'?"),
        ("optim.lr", ["optim.eps", "loop.l_r", "optim.learning_rate"], 1,
         "did you mean 'optim.learning_rate'?"),
        ("loop.learning_rate", ["loop.log_every_steps", "optim.learning_rate"], 1,
         "did you mean 'optim.learning_rate'?"),
        ("zebra", ["lora", "full"], 1, ""),
        ("", ["lora"], 1, ""),
    ],
)  # fmt: skip
def test_a_mistyped_name_gets_the_nearest_known_ones(name, known, most, said):
    assert suggest(name, iter(known), most) == said


@pytest.mark.parametrize("code", [*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x202E, 0x2066, 0xDC80])
def test_what_a_terminal_would_obey_is_spelt_out_in_every_error(code):
    text = str(MftError(f"record {chr(code)}[2J"))
    if chr(code) in "\n\t":
        assert text == f"record {chr(code)}[2J"
    else:
        assert chr(code) not in text and text == f"record {chr(code)!r}[2J".replace("'", "")


def test_words_of_any_language_stay_as_they_are():
    text = "naïve 日本語 \N{ZERO WIDTH JOINER}\N{NO-BREAK SPACE}👩\u200d💻 │ …\n\t"
    assert visible(text) == text


class PanicException(BaseException):
    """As packages written in Rust define it, each its own."""


@pytest.mark.parametrize(
    "error",
    [PanicException("index out of bounds"), MemoryError("40 GiB"), Exception("plain"),
     RecursionError("deep"), EOFError("cut"), OverflowError("large")],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_what_foreign_code_raises_over_a_file_is_an_error_of_that_file(error):
    with pytest.raises(MftError, match=rf"^a.json is damaged \({type(error).__name__}: .*\); mend"):
        with foreign_code("a.json is damaged", "mend it"):
            raise error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1), MftError("known")])
def test_what_is_not_about_the_file_passes_unchanged(error):
    with pytest.raises(type(error)) as raised, foreign_code("a.json is damaged", "mend it"):
        raise error
    assert raised.value is error


@pytest.mark.parametrize(
    ("path", "remedy"),
    [
        ("gs://bucket/run", "mount the bucket"),
        ("gs:/bucket/run", "mount the bucket"),  # what is left of it in a pathlib.Path
        ("s3://b", "mount the bucket"),
        ("file:///data/x.jsonl", "write /data/x.jsonl"),
        ("https://huggingface.co/Qwen/Qwen2.5-0.5B", "by its name, Qwen/Qwen2.5-0.5B"),
    ],
)
def test_a_url_is_never_a_folder(path, remedy):
    with pytest.raises(MftError, match=f"model.path={path} is a URL.*{remedy}"):
        check_local("model.path", path)


@pytest.mark.parametrize(
    "path", ["", "run", "a/b:c", "builtin:tiny", "stdlib:comment", "packages:jax,flax:text",
             "C:/models/x", "Qwen/Qwen2.5-0.5B", "data/*.jsonl", "datasets:a/b?split=train"],
)  # fmt: skip
def test_a_path_or_a_name_is_no_url(path):
    check_local("data.tasks.a.path", path)

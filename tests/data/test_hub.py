"""Names of data sets of the hub, and what is read under them. Nothing here opens a connection."""

import datasets
import pytest

from mft_jax.data.hub import HubDataset
from mft_jax.data.sources import read_records
from mft_jax.types import MftError


def test_a_name_with_subset_split_and_revision_is_read_under_them(monkeypatch):
    rows = [{"question": "1 + 1?", "answer": "2"}, {"question": "2 + 2?", "answer": "4"}]
    asked = []

    def load(*names, **options):
        asked.append((names, options))
        return datasets.Dataset.from_list(rows)

    monkeypatch.setattr(datasets, "load_dataset", load)
    path = "datasets:openai/gsm8k?subset=main&split=test&revision=abc"
    records = list(read_records(path))
    assert [record.data for record in records] == rows
    assert records[1].where == f"{path} row 2"
    assert asked == [(("openai/gsm8k", "main"), {"split": "test", "revision": "abc"})]
    assert HubDataset.parse("datasets:imdb") == HubDataset("imdb", None, "train", None)


def test_without_a_network_the_message_says_what_was_asked_for(monkeypatch):
    def load(*names, **options):
        raise ConnectionError("Couldn't reach\nthe hub")

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(MftError, match="'imdb' .subset default, split train, revision newest. "):
        list(read_records("datasets:imdb"))


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("datasets:", "is not the name of a data set"),
        ("datasets:a/b?spilt=test", "did you mean 'split'"),
        ("datasets:a/b?split=", "expected datasets:<name>"),
        ("datasets:a/b?main", "expected datasets:<name>"),
    ],
)
def test_a_name_that_cannot_be_read_is_refused_with_the_form(path, hint):
    with pytest.raises(MftError, match=hint):
        list(read_records(path))

"""Data sets of the Hugging Face hub: `datasets:<name>?subset=...&split=...&revision=...`.

They are read by the library `datasets`, which keeps them in its cache and runs no code of theirs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qsl

from mft_jax.types import FOREIGN_CODE_ERRORS, MftError, suggest

PREFIX = "datasets:"
DEFAULT_SPLIT = "train"


@dataclasses.dataclass(frozen=True)
class HubDataset:
    """A split of a data set of the hub; without a revision it is the newest one.

    >>> HubDataset.parse("datasets:openai/gsm8k?subset=main&split=test")
    HubDataset(name='openai/gsm8k', subset='main', split='test', revision=None)
    """

    name: str
    subset: str | None = None
    split: str = DEFAULT_SPLIT
    revision: str | None = None

    @classmethod
    def parse(cls, path: str) -> HubDataset:
        name, _, rest = path.removeprefix(PREFIX).partition("?")
        options = dict(parse_qsl(rest, keep_blank_values=True))
        known = ("subset", "split", "revision")
        unknown = [key for key, value in options.items() if key not in known or not value]
        if not name or unknown or (rest and not options):
            hint = suggest(unknown[0], known) if unknown else ""
            raise MftError(
                f"{path!r} is not the name of a data set; expected {PREFIX}<name>, and after a "
                f"question mark subset, split and revision, such as {PREFIX}openai/gsm8k?"
                f"subset=main&split=train; correct the path{f' ({hint})' if hint else ''}"
            )
        return cls(name, **options)


def hub_rows(path: str) -> Iterator[tuple[dict[str, Any], str]]:
    """The rows of a split, with their places."""
    wanted = HubDataset.parse(path)
    import datasets  # here, because it takes as long to import as JAX
    import pyarrow
    from datasets.exceptions import DatasetsError

    try:
        # One split is asked for, which its annotation cannot say.
        split: Any = datasets.load_dataset(
            wanted.name, wanted.subset, split=wanted.split, revision=wanted.revision
        )
        for number, row in enumerate(split, start=1):
            yield dict(row), f"{path} row {number}"
    except (DatasetsError, OSError, pyarrow.ArrowInvalid, *FOREIGN_CODE_ERRORS) as error:
        said = " ".join(str(error).split()) or type(error).__name__
        raise MftError(
            f"{path}: the data set {wanted.name!r} (subset {wanted.subset or 'default'}, split "
            f"{wanted.split}, revision {wanted.revision or 'newest'}) cannot be read: {said}; "
            "expected a data set of the hub, or one that is in the cache already; correct the name "
            "or the part behind the question mark, or download its files and give their folder"
        ) from error

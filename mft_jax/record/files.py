"""A text file that appears whole or not at all."""

import os
from pathlib import Path


def write_whole(path: Path, text: str) -> Path:
    """Replace `path` by `text` (UTF-8) in one move; whoever reads it sees the old or the new text.

    Where writing fails, the old file stays and no draft is left behind. Returns `path`.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        draft.write_text(text, encoding="utf-8")
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    return path

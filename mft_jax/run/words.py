"""Words in lines of a width, none of them broken."""

import re
import textwrap

INDENT = 2
LABEL = re.compile(r"\w+ {2,16}(?=\S)")  # as "report      " before a path
GLUE = "\N{NO-BREAK SPACE}"  # between words that belong together; shown as a space


def fit_words(text: str, width: int, indent: int | None = None) -> str:
    """The text in lines of at most `width`. A word longer than that, such as a path, stays whole;
    words with `GLUE` between them stay together. What follows a first line is indented by
    `indent`; if that is not given, by `INDENT` or as far as a label reaches.

    >>> print(fit_words("one two three", 8))
    one two
      three
    >>> print(fit_words("label   one two three", 16))
    label   one two
            three
    """
    lines = []
    for line in text.split("\n"):
        label = LABEL.match(line)
        left = indent if indent is not None else label.end() if label else INDENT
        lines += textwrap.wrap(
            line,
            max(width, 2 * left, 1),
            subsequent_indent=" " * left,
            break_long_words=False,
            break_on_hyphens=False,
        ) or [""]
    return "\n".join(lines).replace(GLUE, " ")

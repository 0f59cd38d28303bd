"""HTML of a page. Text becomes HTML here and nowhere else in the report, and is escaped on the way.

    >>> element("p", "a < b", class_="note")
    '<p class="note">a &lt; b</p>'
    >>> element("ul", *(element("li", name) for name in ("a", "<b>")))
    '<ul><li>a</li><li>&lt;b&gt;</li></ul>'

What these functions return is `Html`. Any other text, also one that was put together from several
`Html`, counts as plain text and is escaped.
"""

import base64
import hashlib
import re
import string
from collections.abc import Iterable
from html import escape

EMPTY = frozenset({"circle", "path", "polygon", "polyline", "rect"})  # of SVG, without an end tag


class Html(str):
    """Text that is HTML already. No other module makes one."""


def element(tag: str, *content: str, **attributes: str | float | None) -> Html:
    """An element. In names of attributes `_` stands for `-`, and a last one is dropped (`class_`);
    one that is None is left out."""
    named = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
        for name, value in attributes.items()
        if value is not None
    )
    if tag in EMPTY:
        return Html(f"<{tag}{named}/>")
    return Html(f"<{tag}{named}>{join(content)}</{tag}>")


def join(content: Iterable[str], between: str = "") -> Html:
    """The parts one after the other."""
    return Html(_html(between).join(map(_html, content)))


def _html(text: str) -> str:
    return text if isinstance(text, Html) else escape(text)


def fill(template: str, **parts: str) -> str:
    """A whole page: the template with its parts, and with a policy in place of `$policy`.

    By this policy a browser runs the template's own script and styles, which are named by their
    hashes, and loads or runs nothing else, whatever the parts hold.
    """
    hashes = {
        tag: " ".join(_hash(text) for text in re.findall(rf"<{tag}>(.*?)</{tag}>", template, re.S))
        for tag in ("script", "style")
    }
    policy = (
        f"default-src 'none'; script-src {hashes['script']}; style-src {hashes['style']}; "
        "base-uri 'none'; form-action 'none'"
    )
    filled = {name: _html(part) for name, part in parts.items()}
    return string.Template(template).substitute(filled, policy=escape(policy))


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

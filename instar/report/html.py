"""A page as one self-contained HTML file: no request leaves it, and no text in it can act.

Whatever a block says is text. Jinja escapes it, `harmless` shows what cannot be seen, and the content policy forbids
every script but our own (by its hash) should both ever fail.
"""

import base64
import hashlib
import os
import re
import unicodedata
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from instar.report import figures, matrix
from instar.report.blocks import Page
from instar.run import beside

TEMPLATES = Path(__file__).parent / "templates"
THIN = "\N{NARROW NO-BREAK SPACE}"


def write(page: Page, path: Path, *, halfway: Callable[[], object] = lambda: None) -> Path:
    """Write the page, whole or not at all: a kill leaves the page that was there before.

    halfway   called with half of the page on disk; tests kill there
    """
    text = render(page).encode("utf-8")
    temporary = beside(path)
    try:
        with open(temporary, "wb") as file:
            file.write(text[: len(text) // 2])
            file.flush()
            halfway()
            file.write(text[len(text) // 2 :])
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def render(page: Page) -> str:
    """The page as text."""
    style, script = ("".join(_asset(f"{name}.{kind}") for name in _assets(page, kind)) for kind in ("css", "js"))
    return (
        _environment()
        .get_template("page.html.j2")
        .render(page=page, style=_ours(style), script=_ours(script), policy=policy(script))
    )


def _assets(page: Page, kind: str) -> list[str]:
    """The files that a page needs: its own, and those of its blocks, named after them."""
    names = dict.fromkeys(type(block).__name__.lower() for section in page.sections for block in section.blocks)
    return ["page", *(name for name in names if (TEMPLATES / f"{name}.{kind}").exists())]


def standalone(name: str, facts: dict[str, Any], *, connects: bool = False) -> tuple[str, str]:
    """A page of its own template, style and script, in the run page's design; and the content policy it goes with.

    connects   whether its script may speak to the server it came from
    """
    style, script = _asset("page.css") + _asset(f"{name}.css"), _asset(f"{name}.js")
    text = _environment().get_template(f"{name}.html.j2").render(**facts, style=_ours(style), script=_ours(script))
    return text, policy(script) + ("; connect-src 'self'" if connects else "")


def policy(script: str) -> str:
    """The content policy: pictures from data: addresses, our styles, and this one script; nothing from anywhere."""
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    return (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )


def harmless(value: Any) -> Any:
    """Text in which everything can be seen: a line break as \\n, a change of direction as \\u202e, and so on."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    text = value.encode("utf-8", "backslashreplace").decode("utf-8")
    return "".join(map(_seen, text)) if not text.isprintable() else text


def lines(text: str) -> Markup:
    """Several lines of text, each harmless, that stay lines."""
    return Markup("\n").join(Markup.escape(harmless(line)) for line in text.splitlines())


def yaml(text: str) -> Markup:
    """YAML with its keys marked."""
    key = re.compile(r"^(\s*(?:- )?)([\w.]+)(:)(.*)$", re.DOTALL)
    marked = []
    for line in text.splitlines():
        found = key.match(line)
        if found:
            indent, name, colon, rest = map(harmless, found.groups())
            marked.append(Markup("{}<b>{}</b>{}<span>{}</span>").format(indent, name, colon, rest))
        else:
            marked.append(Markup.escape(harmless(line)))
    return Markup("\n").join(marked)


def as_data(text: str) -> Markup:
    """JSON for a script element of data: no text in it can end the element."""
    return Markup(text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))  # noqa: S704


def percent(value: float, decimals: int = 1) -> str:
    """0.983 as 98.3 %."""
    return f"{100 * value:.{decimals}f}{THIN}%"


def number(value: Any) -> Any:
    """A number with thin spaces between thousands and four figures after a point; anything else as it is."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    if isinstance(value, int) or float(value).is_integer():
        return f"{int(value):,}".replace(",", THIN)
    return f"{value:.4g}"


def slug(title: str) -> str:
    """A title as the name of a place in the page."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=harmless,
    )
    environment.filters |= {"lines": lines, "yaml": yaml, "percent": percent, "number": number, "slug": slug}
    environment.filters |= {
        "chart": lambda block: _ours(figures.chart(block)),
        "reliability": lambda table: _ours(figures.reliability(table)),
        "confidence_histogram": lambda table: _ours(figures.confidence_histogram(table)),
        "corner": lambda block: _ours(figures.corner(block)),
        "as_data": as_data,
        "matrix": matrix.laid_out,
        "overall": figures.overall,
        "kind": lambda block: type(block).__name__.lower(),
        "pathed": figures.pathed,
    }
    return environment


def _ours(text: str) -> Markup:
    """Text that is markup already: our own files, and drawings, whose texts Matplotlib has escaped."""
    return Markup(text)  # noqa: S704 - the one place where text is let through


def _seen(character: str) -> str:
    if character.isprintable():
        return character
    return character if unicodedata.category(character) == "Zs" else repr(character)[1:-1]


def _asset(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")

"""Write a report as one HTML file: Jinja2 templates in which everything is escaped except charts."""

import base64
import hashlib
import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any
from xml.etree.ElementTree import Element

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from asr_kd.evaluation.report.charts import draw
from asr_kd.evaluation.report.document import Cell, Document
from asr_kd.evaluation.report.svg import mark, markup

_UNSAFE_IN_SCRIPT = {ord(symbol): f"\\u{ord(symbol):04x}" for symbol in "<>&\u2028\u2029"}


def render(document: Document, browser: Mapping[str, Any] | None = None) -> str:
    """The page, with style sheet and script inside, and a policy that allows nothing else.

    Lone surrogates, which UTF-8 cannot hold, become question marks.

    Args:
        browser: what the template shows of single utterances; None leaves them out.
    """
    style, script = asset("page.css"), asset("page.js")
    policy = (
        "default-src 'none'; img-src data:; media-src data:; base-uri 'none'; form-action 'none'; "
        f"style-src '{_source(style)}'; script-src '{_source(script)}'"
    )
    text = _environment().get_template("page.html").render(
        document=document, browser=browser, policy=policy, style=Markup(style), script=Markup(script)
    )  # fmt: skip
    return text.encode("utf-8", "replace").decode("utf-8")


def cell_markup(cell: Cell) -> str | Markup:
    """A system's name behind its mark; any other text as it is, to be escaped."""
    if isinstance(cell, str):
        return cell
    picture = Element("svg", {"viewBox": "0 0 12 12", "aria-hidden": "true"})
    mark(picture, 6, 6, cell.shape, cell.kind)
    return Markup('<span class="sys {}">{}{}</span>').format(cell.kind, markup(picture), cell.name)


def embedded(data: Any) -> Markup:
    """Plain data as JSON that may stand inside a script element: no text in it can end that element."""
    return Markup(json.dumps(data, ensure_ascii=False, separators=(",", ":")).translate(_UNSAFE_IN_SCRIPT))


def asset(name: str) -> str:
    """The text of a file in assets/."""
    return files("asr_kd.evaluation.report").joinpath("assets", name).read_text(encoding="utf-8")


def _source(content: str) -> str:
    """The name of inline content in a content security policy."""
    return f"sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode('ascii')}"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FunctionLoader(asset), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(cell=cell_markup, draw=draw)
    return environment

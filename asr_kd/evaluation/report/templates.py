"""The page's templates: Jinja2 with everything escaped that is not marked as a picture of ours."""

import base64
import hashlib
import json
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

_UNSAFE_IN_SCRIPT = {ord(symbol): f"\\u{ord(symbol):04x}" for symbol in "<>&\u2028\u2029"}


def render(template: str, **context: Any) -> str:
    """A whole page: the template with style sheet and script inside, and a policy that allows nothing else.

    Lone surrogates, which UTF-8 cannot hold, become question marks.
    """
    style, script = asset("page.css"), asset("page.js")
    policy = (
        "default-src 'none'; img-src data:; media-src data:; base-uri 'none'; form-action 'none'; "
        f"style-src '{_source(style)}'; script-src '{_source(script)}'"
    )
    page = _environment().get_template(template)
    text = page.render(policy=policy, style=Markup(style), script=Markup(script), **context)
    return text.encode("utf-8", "replace").decode("utf-8")


def embedded(data: Any) -> Markup:
    """Plain data as JSON that may stand inside a script element: no text in it can end that element."""
    return Markup(json.dumps(data, ensure_ascii=False, separators=(",", ":")).translate(_UNSAFE_IN_SCRIPT))


def asset(name: str) -> str:
    """The text of a file in assets/."""
    return files("asr_kd.evaluation.report").joinpath("assets", name).read_text(encoding="utf-8")


def _source(content: str) -> str:
    """How a content security policy names inline content."""
    return f"sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode('ascii')}"


@cache
def _environment() -> Environment:
    return Environment(
        loader=FunctionLoader(asset), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )

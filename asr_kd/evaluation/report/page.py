"""Write a report as one HTML file, with a browser of its utterances, within a given size.

Jinja2 fills `assets/page.html` and escapes everything except charts; `assets/page.js` draws the utterances from plain
data.
"""

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any
from xml.etree.ElementTree import Element

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from asr_kd.evaluation.report.assemble import assemble
from asr_kd.evaluation.report.charts import draw, mark, markup
from asr_kd.evaluation.report.document import Cell, Document
from asr_kd.evaluation.report.evidence import Evidence
from asr_kd.evaluation.report.loading import Report
from asr_kd.evaluation.settings import ReportSettings

CONTROLS_BYTES = 6_000
"""Size of the controls around the utterances, without the names of speakers."""


def page(report: Report, evidence: Sequence[Evidence] = (), settings: ReportSettings | None = None) -> str:
    """The whole report as one HTML file that loads nothing.

    The page states how much of the evidence, the most telling first, does not fit into `settings.max_mb`.
    """
    settings = settings or ReportSettings()
    document = assemble(report)
    text = render(document)
    if not report.views:
        return text
    room = settings.max_mb * 1e6 - len(text.encode())
    return render(document, browser(report, evidence, room, settings.max_mb))


def browser(report: Report, evidence: Sequence[Evidence], room: float, max_mb: float) -> dict[str, Any]:
    """The data that the template shows of the utterances.

    Args:
        report: its views are kept in their order when there is too little room.
        evidence: the most telling first; kept when all utterances have found room.
        room: bytes that are left for all of this.
        max_mb: of the whole page; stated where something is left out.
    """
    main, styles = report.main, report.styles
    all_rows: list[list[Any]] = [
        [view.test_set, view.id, view.speaker, view.reference,
         {key: [found.text, found.edits] for key, found in view.outputs.items()}, ""]
        for view in report.views
    ]  # fmt: skip
    rows, room = _within(((row, embedded(row)) for row in all_rows), room - CONTROLS_BYTES)
    by_id = {(row[0], row[1]): row for row, _ in rows}
    shown = [
        ({key: value for key, value in item.items() if key not in ("test_set", "id")}, by_id[place])
        for item in evidence
        if (place := (item["test_set"], item["id"])) in by_id
    ]
    kept, _ = _within(((row, embedded(data)) for data, row in shown), room)
    for number, (row, _) in enumerate(kept):
        row[5] = f"e{number}"  # the id of its evidence
    data = {
        "systems": {key: {"name": style.name, "kind": style.kind} for key, style in styles.items()},
        "order": list(styles),
        "student": main.student,
        "teacher": main.teacher,
        "rows": [row for row, _ in rows],
    }
    return {
        "utterances": len(rows),
        "left_out": (len(evidence) - len(kept), len(all_rows) - len(rows)),
        "max_mb": f"{max_mb:g}",
        "teacher": main.teacher,
        "student": main.student,
        "students": [(key, style.name) for key, style in styles.items() if key != main.teacher],
        "sets": sorted({row[0] for row, _ in rows}),
        "speakers": sorted({row[2] for row, _ in rows if row[2]}),
        "data": embedded(data),
        "evidence": [{"id": row[5], "data": text} for row, text in kept],
    }


def _within(items: Iterable[tuple[Any, Markup]], room: float) -> tuple[list[tuple[Any, Markup]], float]:
    """The first items that fit into `room` bytes, and the bytes that are left."""
    kept = []
    for item, text in items:
        size = len(text.encode("utf-8", "replace")) + 60  # its element
        if size > room:
            break
        kept.append((item, text))
        room -= size
    return kept, room


_UNSAFE_IN_SCRIPT = {ord(symbol): f"\\u{ord(symbol):04x}" for symbol in "<>&\u2028\u2029"}


def render(document: Document, browser: Mapping[str, Any] | None = None) -> str:
    """The page, with style sheet and script inside, and a policy that allows nothing else.

    Lone surrogates, which UTF-8 cannot hold, become question marks. `browser` is what the template shows of single
    utterances.
    """
    style, script = asset("page.css"), asset("page.js")
    policy = (
        "default-src 'none'; img-src data:; media-src data:; base-uri 'none'; form-action 'none'; "
        f"style-src '{_source(style)}'; script-src '{_source(script)}'"
    )
    text = _environment(markup=True).get_template("page.html").render(
        document=document, browser=browser, policy=policy, style=Markup(style), script=Markup(script)
    )  # fmt: skip
    return text.encode("utf-8", "replace").decode("utf-8")


def fill_text(file: str, /, **values: Any) -> str:
    """A text of assets/ with these values, which are not escaped."""
    return _environment(markup=False).get_template(file).render(**values)


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
def _environment(markup: bool) -> Environment:
    environment = Environment(
        loader=FunctionLoader(asset), autoescape=markup, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(cell=cell_markup, draw=draw)
    return environment

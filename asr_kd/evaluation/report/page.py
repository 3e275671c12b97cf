"""The page of an evaluation: the report as HTML with a browser of its utterances, within a given size.

`assets/page.js` draws the utterances from plain data.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from markupsafe import Markup

from asr_kd.evaluation.report.assemble import assemble
from asr_kd.evaluation.report.document import Styles, styles_of
from asr_kd.evaluation.report.evidence import Evidence
from asr_kd.evaluation.report.html_renderer import embedded, render
from asr_kd.evaluation.report.loading import Report
from asr_kd.evaluation.report.main_systems import MainSystems, main_systems
from asr_kd.evaluation.report.utterance_views import View, views
from asr_kd.evaluation.settings import ReportSettings

CONTROLS_BYTES = 6_000
"""Size of the controls around the utterances, without the names of speakers."""

_KINDS = (
    ("all", "every utterance"),
    ("student", "errors of the student only"),
    ("teacher", "errors of the teacher only"),
    ("both", "errors of both"),
    ("wrong", "errors of the student"),
    ("right", "no errors"),
    ("evidence", "with audio and posteriors"),
)
_WITHOUT_TEACHER = ("all", "wrong", "right", "evidence")
_ORDERS = (
    ("worst", "most errors of the student"),
    ("behind", "student furthest behind teacher"),
    ("ahead", "student furthest ahead of teacher"),
    ("long", "longest"),
    ("id", "id"),
)
_BROWSER = "Reference and systems, aligned word by word."
_EVIDENCE = (
    " {shown} of {all} can be opened: waveform, spectrogram, and each system's token posteriors over time, without the "
    "blank. They are taken in turn from those with most errors, those that only the student got wrong, those that only "
    "the teacher got wrong, and the longest correct ones."
)


@dataclass(frozen=True)
class _Item:
    """Evidence in the page."""

    id: str
    data: Markup


def page(report: Report, evidence: Sequence[Evidence] = (), settings: ReportSettings | None = None) -> str:
    """The whole report as one HTML file that loads nothing.

    Args:
        report: fresh or read again.
        evidence: the most telling first; the page states how much does not fit into `settings.max_mb`.
    """
    settings = settings or ReportSettings()
    main = main_systems(report)
    found = views(report, main) if main is not None else []
    document = assemble(report, found)
    text = render(document)
    if main is None or not found:
        return text
    room = settings.max_mb * 1e6 - len(text.encode())
    styles = styles_of(report.summary["models"])
    return render(document, browser(found, main, styles, evidence, room, settings.max_mb))


def browser(
    found: Sequence[View],
    main: MainSystems,
    styles: Styles,
    evidence: Sequence[Evidence],
    room: float,
    max_mb: float,
) -> dict[str, Any]:
    """The data that the template shows of the utterances.

    Args:
        found: in the order in which they are kept when there is too little room.
        evidence: the most telling first; kept when all utterances have found room.
        room: bytes that are left for all of this.
        max_mb: of the whole page; stated where something is left out.
    """
    rows, room = _within(((view, embedded(_row(view, ""))) for view in found), room - CONTROLS_BYTES)
    shown = {(view.test_set, view.id) for view, _ in rows}
    there = ((item, embedded(_plain(item))) for item in evidence if (item.test_set, item.id) in shown)
    kept, _ = _within(there, room)
    ids = {(item.test_set, item.id): f"e{number}" for number, (item, _) in enumerate(kept)}
    data = {
        "systems": {key: {"name": look.name, "kind": look.kind} for key, look in styles.items()},
        "order": list(styles),
        "student": main.student,
        "teacher": main.teacher,
        "rows": [_row(view, ids.get((view.test_set, view.id), "")) for view, _ in rows],
    }
    left_out = (len(evidence) - len(kept), len(found) - len(rows))
    return {
        "intro": _intro(len(kept), len(rows), left_out, max_mb),
        **_choices(main, styles, bool(kept)),
        "student": main.student,
        "sets": sorted({view.test_set for view, _ in rows}),
        "speakers": sorted({view.speaker for view, _ in rows if view.speaker}),
        "data": embedded(data),
        "evidence": [_Item(ids[item.test_set, item.id], text) for item, text in kept],
    }


def _intro(shown: int, rows: int, left_out: tuple[int, int], max_mb: float) -> str:
    intro = _BROWSER + (_EVIDENCE.format(shown=shown, all=rows) if shown else "")
    if any(left_out):
        intro += (
            f" To keep this file below {max_mb:g} MB, {left_out[0]} utterances with audio or posteriors and "
            f"{left_out[1]} others are left out (evaluate.report.max_mb)."
        )
    return intro


def _choices(main: MainSystems, styles: Styles, evidence: bool) -> dict[str, Any]:
    """Values and labels of the menus."""
    offered = {kind for kind, _ in _KINDS} if main.teacher is not None else set(_WITHOUT_TEACHER)
    offered -= set() if evidence else {"evidence"}
    return {
        "kinds": [kind for kind in _KINDS if kind[0] in offered],
        "orders": [order for order in _ORDERS if main.teacher is not None or order[0] not in ("behind", "ahead")],
        "students": [(key, look.name) for key, look in styles.items() if key != main.teacher],
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


def _row(view: View, evidence: str) -> list[Any]:
    outputs = {key: [found.text, found.edits] for key, found in view.outputs.items()}
    return [view.test_set, view.id, view.speaker, view.reference, outputs, evidence]


def _plain(item: Evidence) -> dict[str, Any]:
    return {
        "seconds": round(item.seconds, 3),
        "envelope": item.envelope,
        "spectrogram": item.spectrogram,
        "audio": item.audio,
        "posteriors": {key: asdict(posteriors) for key, posteriors in item.posteriors.items()},
    }

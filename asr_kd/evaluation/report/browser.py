"""The browser of utterances: which are in the page, within the room that there is, and what its script is given.

Knows texts and evidence as plain data; `assets/page.js` draws them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from markupsafe import Markup

from asr_kd.evaluation.report.charts import Look
from asr_kd.evaluation.report.evidence import Evidence
from asr_kd.evaluation.report.main_systems import MainSystems
from asr_kd.evaluation.report.templates import embedded
from asr_kd.evaluation.report.utterance_views import View

CONTROLS_BYTES = 6_000
"""What the controls around the utterances take, beside a name a speaker."""

_KINDS = (
    ("all", "every utterance"),
    ("student", "only the student wrong"),
    ("teacher", "only the teacher wrong"),
    ("both", "both wrong"),
    ("wrong", "the student wrong"),
    ("right", "nothing wrong"),
    ("heard", "those to listen to"),
)
_WITHOUT_TEACHER = ("all", "wrong", "right", "heard")
_ORDERS = (
    ("worst", "most errors of the student"),
    ("behind", "student furthest behind teacher"),
    ("ahead", "student furthest ahead of teacher"),
    ("long", "longest"),
    ("id", "id"),
)
_BROWSER = "Reference and systems, aligned word by word."
_EVIDENCE = (
    " {heard} of {all} can be opened: waveform, spectrogram, and how sure "
    "each system was of each token at each moment, the blank left out. They are taken in turn from the worst, those "
    "that only the student got wrong, those that only the teacher got wrong, and the longest right ones."
)


@dataclass(frozen=True)
class _Item:
    """Evidence in the page."""

    id: str
    data: Markup


def browser(
    found: Sequence[View],
    main: MainSystems,
    styles: Mapping[str, Look],
    evidence: Sequence[Evidence],
    room: float,
    max_mb: float,
) -> dict[str, Any]:
    """What the template shows of the utterances.

    Args:
        found: in the order in which they are kept when there is too little room.
        evidence: the most telling first; kept when all utterances have found room.
        room: bytes that are left for all of this.
        max_mb: of the whole page, to be said where something is left out.
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


def _intro(heard: int, rows: int, left_out: tuple[int, int], max_mb: float) -> str:
    intro = _BROWSER + (_EVIDENCE.format(heard=heard, all=rows) if heard else "")
    if any(left_out):
        intro += (
            f" To keep this file below {max_mb:g} MB, {left_out[0]} of those to listen to and {left_out[1]} of the "
            "others are not in it (evaluate.report.max_mb)."
        )
    return intro


def _choices(main: MainSystems, styles: Mapping[str, Look], heard: bool) -> dict[str, Any]:
    """What can be asked for: (value, words) each."""
    offered = {kind for kind, _ in _KINDS} if main.teacher is not None else set(_WITHOUT_TEACHER)
    offered -= set() if heard else {"heard"}
    return {
        "kinds": [kind for kind in _KINDS if kind[0] in offered],
        "orders": [order for order in _ORDERS if main.teacher is not None or order[0] not in ("behind", "ahead")],
        "students": [(key, look.name) for key, look in styles.items() if key != main.teacher],
    }


def _within(items: Iterable[tuple[Any, Markup]], room: float) -> tuple[list[tuple[Any, Markup]], float]:
    """The first of these that fit into so many bytes, and the room that is left."""
    kept = []
    for item, text in items:
        size = len(text.encode("utf-8", "replace")) + 60  # its element
        if size > room:
            break
        kept.append((item, text))
        room -= size
    return kept, room


def _row(view: View, evidence: str) -> list[Any]:
    heard = {key: [found.text, found.edits] for key, found in view.heard.items()}
    return [view.test_set, view.id, view.speaker, view.reference, heard, evidence]


def _plain(item: Evidence) -> dict[str, Any]:
    return {
        "seconds": round(item.seconds, 3),
        "envelope": item.envelope,
        "spectrogram": item.spectrogram,
        "audio": item.audio,
        "posteriors": {key: asdict(posteriors) for key, posteriors in item.posteriors.items()},
    }

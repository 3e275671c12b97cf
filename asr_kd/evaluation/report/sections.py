"""The page's sections about errors: results, size and speed, training, speakers, confusions. Knows plain data only."""

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from markupsafe import Markup

from asr_kd.evaluation.cells import UNKNOWN, interval, millions, percent
from asr_kd.evaluation.distillation import comparisons_of, gap, gap_cell
from asr_kd.evaluation.report.blocks import Block, Figure, Section, Table, system_cell
from asr_kd.evaluation.report.charts import Point, against, bars, curves, dumbbells, forest
from asr_kd.evaluation.report.loading import Report
from asr_kd.evaluation.report.main_systems import MainSystems, order_of_sets
from asr_kd.evaluation.report.measured import Looks, cost_table
from asr_kd.evaluation.report.utterance_views import Kind, View, confusions, speaker_rates

MOST_SPEAKERS = 40
"""Speakers that a figure shows; of more, those with most errors."""
MOST_CONFUSIONS = 12

_RESULT_HEADER = (
    "System", "WER %", "95 % interval", "by speaker", "S", "D", "I", "CER %", "Parameters", "Size", "RTF",
    "Gap recovered",
)  # fmt: skip
_LEGEND = (
    "WER: word errors in 100 words, with the interval that drawing utterances, then speakers, anew gives; S, D, I: "
    "words substituted, left out, inserted; CER: the same of characters; RTF: seconds of computing a second of speech, "
    "one thread."
)


def result_section(report: Report, looks: Looks, main: MainSystems) -> Section:
    """Tables of all sets, and the intervals in a picture."""
    figures, blocks = [], []
    for name in order_of_sets(report, main):
        found, first = report.sets[name], name == main.test_set
        label = f"WER of each system on {name} with 95 % intervals"
        figures.append(Figure(name, forest(points_of(report, looks, name), label), set_size(found)))
        rows = [_result_row(report, looks, found, key) for key in report.systems(name)]
        tables = [Table(_RESULT_HEADER, rows), *_pair_tables(looks, found)]
        blocks.append(Block(title=name if first else "", tables=tables, fold="" if first else f"Tables of {name}"))
    return Section(
        "result",
        "How many words go wrong",
        "Result",
        "",
        [Block(figures=figures), *blocks, Block(text=_LEGEND)],
        key=True,
    )


def cost_section(report: Report, looks: Looks, main: MainSystems) -> Section | None:
    """WER of the main set against what systems cost."""
    models = report.summary["models"]
    wanted = (
        ("Size", "megabytes of weights", {key: _scaled(model["size_bytes"], 1e6) for key, model in models.items()}),
        ("Parameters", "millions", {key: _scaled(model["parameters"], 1e6) for key, model in models.items()}),
        ("Speed", "seconds of computing a second of speech",
         {key: model["real_time_factor"] for key, model in models.items()}),
        ("Speed of a stream", "the same, audio arriving in packets",
         {key: model["streaming_real_time_factor"] for key, model in models.items()}),
        ("Waiting", "milliseconds of audio a chunk",
         {key: model.get("chunk_ms") for key, model in models.items()}),
    )  # fmt: skip
    figures: list[Figure] = []
    for title, axis, costs in wanted:
        notes = dict.fromkeys(costs, "needs it all") if title == "Waiting" else {}
        points = points_of(report, looks, main.test_set, costs, notes)
        known = [point for point in points if point.cost]
        if known and (title != "Parameters" or not any(figure.title == "Size" for figure in figures)):
            label = f"WER on {main.test_set} against {axis}"
            figures.append(Figure(title, against(points, axis, label), f"WER on {main.test_set}; lower left is better"))
    intro = "Measured in the same run on the same utterances, system by system in turn."
    measured = cost_table(report, looks)
    if not figures and measured is None:
        return None
    block = Block(figures=figures, tables=[measured] if measured is not None else [])
    return Section("cost", "What it costs to run", "Size and speed", intro, [block])


def training_section(report: Report, looks: Looks) -> Section | None:
    """How the dev WER fell."""
    by_name = report.summary.get("curves", {})
    rows = {key: [row for row in by_name.get(look.name, []) if "dev_wer" in row] for key, look in looks.items()}
    found = {key: (looks[key], measured) for key, measured in rows.items() if measured}
    if not found:
        return None
    figure = Figure(
        "WER on dev after each epoch",
        curves(found, "dev_wer", "WER on dev after each epoch of training"),
        "above 100 % is cut off",
    )
    return Section("training", "How they learned", "Training", "", [Block(figures=[figure])], key=True)


def speaker_section(report: Report, looks: Looks, main: MainSystems) -> Section | None:
    """How the WER spreads over speakers."""
    figures = []
    for name in order_of_sets(report, main):
        rates = speaker_rates(report, name)
        if len(rates) > 1:
            order = sorted(rates, key=lambda speaker: (-rates[speaker].get(main.student, 0.0), speaker))
            shown = {speaker: rates[speaker] for speaker in order[:MOST_SPEAKERS]}
            label = f"WER of each speaker of {name}"
            figures.append(Figure(name, dumbbells(shown, looks, label), _spread(rates, looks, main)))
    if not figures:
        return None
    intro = "Each row is a speaker; the line spans the systems. Sorted by the student's errors."
    return Section("speakers", "Who is understood", "Speakers", intro, [Block(figures=figures)], key=True)


def confusion_section(report: Report, looks: Looks, main: MainSystems, found: Sequence[View]) -> Section | None:
    """The words that go wrong most often."""
    blocks = []
    for name in order_of_sets(report, main):
        here = [view for view in found if view.test_set == name]
        tables = _confusion_tables(here, {key: looks[key] for key in report.systems(name)}, main)
        if tables:
            fold = "" if name == main.test_set else f"Confusions on {name}"
            title = name if name == main.test_set else ""
            blocks.append(Block(title=title, tables=tables, side_by_side=True, fold=fold))
    if not blocks:
        return None
    intro = "How often each system made the same mistake, the student's most frequent first."
    return Section("confusions", "Which words go wrong", "Words", intro, blocks, key=True)


def points_of(
    report: Report,
    looks: Looks,
    name: str,
    costs: Mapping[str, float | None] | None = None,
    notes: Mapping[str, str] | None = None,
) -> list[Point]:
    """The systems of a set as points, with their costs or what is said of those that have none."""
    found = report.sets[name]
    return [
        Point(looks[key], found[key]["wer"], found[key]["wer_low"], found[key]["wer_high"],
              (costs or {}).get(key), (notes or {}).get(key, ""))
        for key in report.systems(name)
    ]  # fmt: skip


def set_size(found: Mapping[str, Any]) -> str:
    """How much there is of a set."""
    parts = [f"{found['utterances']} utterances"]
    if found.get("speakers"):
        parts.append(f"{found['speakers']} speakers")
    seconds = found.get("seconds")
    if seconds:
        parts.append(f"{seconds / 3600:.2f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min")
    return ", ".join(parts)


def _result_row(report: Report, looks: Looks, found: Mapping[str, Any], key: str) -> list[str | Markup]:
    errors, model = found[key], report.summary["models"][key]
    size, factor = model["size_bytes"], model["real_time_factor"]
    return [
        system_cell(looks[key]),
        Markup("<b>{}</b>").format(percent(errors["wer"])),
        interval(errors["wer_low"], errors["wer_high"]),
        interval(errors["wer_low_speakers"], errors["wer_high_speakers"]),
        *(str(errors[count]) for count in ("substitutions", "deletions", "insertions")),
        percent(errors["cer"]),
        millions(model["parameters"]),
        UNKNOWN if size is None else f"{size / 1e6:.1f} MB",
        UNKNOWN if factor is None else f"{factor:.2g}",
        gap_cell(found, key),
    ]


def _pair_tables(looks: Looks, found: Mapping[str, Any]) -> list[Table]:
    """Whether differences are real, and how alike student and teacher are; where an evaluation says so."""
    tables = []
    pairs = [
        [
            Markup("{} – {}").format(system_cell(looks[pair["first"]]), system_cell(looks[pair["second"]])),
            signed(pair["difference"]["wer"]),
            interval(pair["difference"]["low"], pair["difference"]["high"]),
            interval(pair["difference"].get("low_speakers"), pair["difference"].get("high_speakers")),
            UNKNOWN if pair["mapsswe"]["p"] is None else probability(pair["mapsswe"]["p"]),
        ]
        for pair in found.get("pairs", [])
    ]
    if pairs:
        header = ("First – second", "Difference, points", "95 % interval", "by speaker", "p (matched pairs)")
        tables.append(Table(header, pairs, "Is the difference real? Every two systems on the same words"))
    gaps = [
        [system_cell(looks[pair["distilled"]]), looks[pair["baseline"]].name,
         looks[pair["teacher"]].name if pair["teacher"] else UNKNOWN, gap(pair)]
        for pair in comparisons_of(found)
    ]  # fmt: skip
    if len(gaps) > 1:
        tables.append(Table(("With a teacher", "Without", "Teacher", "Gap recovered"), gaps, left=3))
    return tables


def signed(fraction: float) -> str:
    """A difference in percentage points, with its sign."""
    return f"{100 * fraction:+.2f}".replace("-", "−")


def probability(value: float) -> str:
    """A p value."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _spread(rates: Mapping[str, Mapping[str, float]], looks: Looks, main: MainSystems) -> str:
    own = [found[main.student] for found in rates.values() if main.student in found]
    if not own:
        return f"{len(rates)} speakers"
    more = f"; the {MOST_SPEAKERS} with most errors are shown" if len(rates) > MOST_SPEAKERS else ""
    return (
        f"{looks[main.student].name}: {100 * min(own):.0f} to {100 * max(own):.0f} %, "
        f"median {100 * median(own):.0f} %, {len(rates)} speakers{more}"
    )


def _confusion_tables(found: Sequence[View], looks: Looks, main: MainSystems) -> list[Table]:
    counts = {key: confusions(found, key) for key in looks}
    titles: dict[Kind, str] = {"substitutions": "Substituted", "deletions": "Left out", "insertions": "Inserted"}
    tables = []
    for kind, title in titles.items():
        words = {word for key in looks for word in counts[key][kind]}
        own = counts[main.student][kind] if main.student in counts else Counter()
        order = sorted(
            words, key=lambda word: (-own.get(word, 0), -sum(counts[key][kind][word] for key in looks), word)
        )
        shown = order[:MOST_CONFUSIONS]
        most = max((counts[key][kind][word] for word in shown for key in looks), default=0)
        rows = [
            [
                Markup('<span class="mono">{}</span>').format(_confused(word)),
                ", ".join(str(counts[key][kind][word]) for key in looks),
                bars([(counts[key][kind][word], looks[key].kind) for key in looks], most),
            ]
            for word in shown
        ]
        if rows:
            tables.append(
                Table((title, "times", ""), rows, f"{title}: {sum(own.values())} by {_own_name(looks, main)}")
            )
    return tables


def _own_name(looks: Looks, main: MainSystems) -> str:
    return looks[main.student].name if main.student in looks else "the student"


def _confused(words: tuple[str, str]) -> str:
    reference, hypothesis = words
    return f"{reference} → {hypothesis}" if reference and hypothesis else reference or hypothesis


def _scaled(value: float | None, unit: float) -> float | None:
    return None if value is None else value / unit

"""Sections of the report on errors: results and their significance, speakers, confusions, training, systems."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from asr_kd.evaluation.cells import (
    UNKNOWN,
    gap,
    gap_of_system,
    interval,
    megabytes,
    millions,
    optional,
    percent,
    plain,
    points,
    probability,
    set_size,
    short_factor,
)
from asr_kd.evaluation.report.document import (
    Cell,
    Curves,
    Dumbbells,
    Figure,
    Forest,
    Point,
    ReportTable,
    Section,
    SectionBlock,
    Styles,
)
from asr_kd.evaluation.report.loading import Report
from asr_kd.evaluation.report.main_systems import MainSystems, order_of_sets
from asr_kd.evaluation.report.utterance_views import Kind, View, confusions
from asr_kd.scoring.paired import ENOUGH_SEGMENTS

Plain = Mapping[str, Any]

MOST_SPEAKERS = 40
"""Speakers in a chart; of more, those with most errors."""
SPEAKERS_LISTED = 60
"""Speakers of a set up to which every one is listed with its WER."""
MOST_CONFUSIONS = 12
PAIRS_SHOWN = 15
"""Pairs of systems in the report; results.json has all."""
EXCLUDED_LISTED = 50
SHORT_HASH = 12

_ERRORS = ("System", "WER %", "95 % interval", "by speaker", "S", "D", "I", "Words", "CER %")
_COSTS = ("Parameters", "Size", "RTF")
_GAPS = ("With KD", "Without", "Teacher", "Gap recovered", "WER with minus without, points")
_PAIRS = ("First", "Second", "Points", "95 % interval", "by speaker", "z", "p", "Segments")
_SPREAD = ("System", "Speakers", "Lowest WER %", "Median", "Highest", "of")
_LEGEND = (
    "WER: word error rate with its bootstrap interval over utterances, then over speakers; S, D, I: substituted, "
    "deleted, inserted words; CER: character error rate; {costs}gap recovered: (WER without KD − WER with KD) / (WER "
    "without KD − WER of the teacher)."
)
_COSTS_LEGEND = (
    "Size: weights on disk; RTF: computing time per second of speech on one thread, median over {utterances} "
    "utterances, all systems in the same run; "
)
_PAIRS_NOTE = (
    "WER of the first minus WER of the second, in points, with paired bootstrap intervals over utterances and over "
    "speakers; MAPSSWE: matched-pairs sentence-segment word error test (Gillick & Cox 1989), two-sided."
)
_IN_OTHER_TABLES = frozenset(
    {"cost", "name", "role", "parameters", "size_bytes", "real_time_factor", "rtf_utterances", "rtf_threads", "device"}
    | {"streaming_real_time_factor", "external", "sha256", "hypotheses_sha256", "symbols", "frame_shift_ms"}
)


def result_section(report: Report, styles: Styles, main: MainSystems) -> Section:
    """Error tables of all sets, their intervals as a chart, and the test of every pair."""
    figures, blocks = [], []
    for name in order_of_sets(report, main):
        found, first = report.sets[name], name == main.test_set
        label = f"WER of each system on {name} with 95 % intervals"
        figures.append(Figure(name, Forest(points_of(report, styles, name)), label, set_size(found)))
        tables = [_result_table(report, styles, found), *_gap_table(styles, found), *_pair_table(styles, found)]
        text = " ".join([f"{set_size(found)}.", *_gap_sentences(found)])
        blocks.append(SectionBlock(title=name, text=text, tables=tables, fold="" if first else f"Tables of {name}"))
        if found["excluded"]:
            blocks.append(_excluded_block(found))
    timed = max((model["rtf_utterances"] for model in report.summary["models"].values()), default=0)
    legend = _LEGEND.format(costs=_COSTS_LEGEND.format(utterances=timed) if timed else "")
    return Section(
        "result",
        "Word error rates",
        "Result",
        "",
        [SectionBlock(figures=figures), *blocks, SectionBlock(text=legend)],
        key=True,
    )


def points_of(
    report: Report,
    styles: Styles,
    name: str,
    costs: Mapping[str, float | None] | None = None,
    notes: Mapping[str, str] | None = None,
) -> list[Point]:
    """The systems of a set as points of a chart, with their costs, or notes where they have none."""
    found = report.sets[name]
    return [
        Point(styles[key], found[key]["wer"], found[key]["wer_low"], found[key]["wer_high"],
              (costs or {}).get(key), (notes or {}).get(key, ""))
        for key in report.systems(name)
    ]  # fmt: skip


def speaker_section(report: Report, styles: Styles, main: MainSystems) -> Section | None:
    """Spread of the WER over speakers."""
    figures, blocks = [], []
    for name in order_of_sets(report, main):
        rates = _rates_by_speaker(report, name)
        if len(rates) > 1:
            order = sorted(rates, key=lambda speaker: (-rates[speaker].get(main.student, 0.0), speaker))
            shown = {speaker: rates[speaker] for speaker in order[:MOST_SPEAKERS]}
            more = f"; the {MOST_SPEAKERS} with most errors are shown" if len(rates) > MOST_SPEAKERS else ""
            label = f"WER of each speaker of {name}"
            figures.append(Figure(name, Dumbbells(shown, styles), label, f"{len(rates)} speakers{more}"))
        tables = list(_speaker_tables(report, styles, name))
        blocks.append(SectionBlock(title=name, tables=tables[:1])) if tables else None
        blocks.append(SectionBlock(tables=tables[1:], fold=f"Every speaker of {name}")) if tables[1:] else None
    if not figures and not blocks:
        return None
    if figures:
        text = "Each row is a speaker, and the line spans the systems. Sorted by the student's errors."
        blocks = [SectionBlock(text=text, figures=figures), *blocks]
    return Section("speakers", "Errors by speaker", "Speakers", "", blocks, key=bool(figures))


def confusion_section(styles: Styles, main: MainSystems, report: Report, found: Sequence[View]) -> Section | None:
    """The most frequent word errors."""
    blocks = []
    for name in order_of_sets(report, main):
        here = [view for view in found if view.test_set == name]
        tables = _confusion_tables(here, {key: styles[key] for key in report.systems(name)}, main)
        if tables:
            fold = "" if name == main.test_set else f"Word errors on {name}"
            blocks.append(SectionBlock(title=name, tables=tables, side_by_side=True, fold=fold))
    if not blocks:
        return None
    intro = "How often each system made the same error, the student's most frequent ones first."
    return Section("confusions", "Most frequent word errors", "Words", intro, blocks)


def training_section(report: Report, styles: Styles) -> Section | None:
    """Dev WER by epoch."""
    curves = report.summary["curves"]
    series = []
    for style in styles.values():
        rows = [row for row in curves.get(style.name, []) if "dev_wer" in row]
        if rows:
            series.append((style, [(float(row["epoch"]), float(row["dev_wer"])) for row in rows]))
    if not series:
        return None
    title = "WER on dev after each epoch"
    figure = Figure(title, Curves(series), f"{title} of training", "above 100 % is cut off")
    return Section("training", "Training", "Training", "", [SectionBlock(figures=[figure])], key=True)


def system_section(report: Report, styles: Styles) -> Section:
    """Role, device and settings of every system."""
    models = report.summary["models"]
    details = list(dict.fromkeys(name for model in models.values() for name in model if name not in _IN_OTHER_TABLES))
    rows: list[list[Cell]] = [
        [styles[key], model["role"], model["device"], short_factor(model["streaming_real_time_factor"]),
         *(plain(model.get(name)) for name in details)]
        for key, model in models.items()
    ]  # fmt: skip
    table = ReportTable(["System", "Role", "Device", "RTF streamed", *details], rows, left=3)
    return Section("systems", "Models", "Models", "", [SectionBlock(tables=[table])])


def teacher_section(report: Report, styles: Styles) -> Section | None:
    """Teachers that this run did not train, and how much smaller their students are; None without such a teacher."""
    models = report.summary["models"]
    external = [key for key, model in models.items() if model.get("external")]
    if not external:
        return None
    blocks = []
    for key in external:
        facts = report.summary["teachers"].get(models[key]["name"], {})
        blocks.append(
            SectionBlock(text=_teacher(models[key]), items=[f"{name}: {plain(value)}" for name, value in facts.items()])
        )
    pairs = {
        (pair["distilled"], pair["teacher"]): None
        for found in report.sets.values()
        for pair in found["comparisons"]
        if pair["teacher"] in external
    }
    rows: list[list[Cell]] = [
        [styles[student], styles[teacher],
         f"{millions(models[student]['parameters'])}{_times(models, teacher, student, 'parameters')}",
         f"{megabytes(models[student]['size_bytes'])}{_times(models, teacher, student, 'size_bytes')}",
         f"{short_factor(models[student]['real_time_factor'])}{_times(models, teacher, student, 'real_time_factor')}",
         *(gap_of_system(found, student) for found in report.sets.values())]
        for student, teacher in pairs
    ]  # fmt: skip
    if rows:
        header = ["Student", "Teacher", *_COSTS, *(f"Gap recovered, {name}" for name in report.sets)]
        note = "In brackets: how many times less than the teacher."
        blocks.append(SectionBlock(tables=[ReportTable(header, rows, left=2, note=note)]))
    return Section("distillation", "Distillation", "Distillation", "", blocks)


def speaker_rows(found: Plain, keys: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a set: speaker, reference words, each system's WER; most errors of the first system first."""
    by_speaker = {key: found[key]["by_speaker"] for key in keys}
    first = by_speaker[keys[0]]
    order = sorted(first, key=lambda speaker: (-(first[speaker]["wer"] or 0.0), speaker))
    header = ["Speaker", "Words", *(f"{found[key]['name']} WER %" for key in keys)]
    return header, [
        [speaker, str(first[speaker]["words"]),
         *(optional(by_speaker[key].get(speaker, {}).get("wer"), percent) for key in keys)]
        for speaker in order
    ]  # fmt: skip


def known_rates(errors: Plain) -> dict[str, float]:
    """Speaker → WER of one system, of speakers with reference words."""
    return {speaker: row["wer"] for speaker, row in errors["by_speaker"].items() if row["wer"] is not None}


def _result_table(report: Report, styles: Styles, found: Plain) -> ReportTable:
    models = report.summary["models"]
    costs = {
        key: [millions(models[key]["parameters"]), megabytes(models[key]["size_bytes"]),
              short_factor(models[key]["real_time_factor"])]
        for key in found if key in styles
    }  # fmt: skip
    any_cost = any(set(cells) != {UNKNOWN} for cells in costs.values())  # files of hypotheses have none
    rows: list[list[Cell]] = [
        [styles[key], percent(errors["wer"]), interval(errors["wer_low"], errors["wer_high"]),
         interval(errors["wer_low_speakers"], errors["wer_high_speakers"]),
         *(str(errors[count]) for count in ("substitutions", "deletions", "insertions", "words")),
         percent(errors["cer"]), *(costs[key] if any_cost else []), gap_of_system(found, key)]
        for key, errors in found.items() if key in styles
    ]  # fmt: skip
    return ReportTable([*_ERRORS, *(_COSTS if any_cost else []), "Gap recovered"], rows, kind="result")


def _gap_sentences(found: Plain) -> list[str]:
    """The only pair of a set as sentences; several have a table."""
    pairs = found["comparisons"]
    if not pairs:
        concerned = any(key in found for key in ("teacher", "student_hard", "student_kd"))
        return [f"Gap recovered: {gap(found)}."] if concerned else []
    if len(pairs) > 1:
        return []
    difference = pairs[0]["difference"]
    return [
        f"Gap recovered: {gap(pairs[0])}.",
        f"WER with KD minus WER without: {points(difference['wer'])} points "
        f"{interval(difference['low'], difference['high'])} (paired, resampled by {found['resampled_by']}).",
    ]


def _gap_table(styles: Styles, found: Plain) -> Iterator[ReportTable]:
    pairs = found["comparisons"]
    if len(pairs) > 1:
        rows: list[list[Cell]] = [
            [styles[pair["distilled"]], styles[pair["baseline"]],
             UNKNOWN if pair["teacher"] is None else styles[pair["teacher"]], gap(pair),
             f"{points(pair['difference']['wer'])} {interval(pair['difference']['low'], pair['difference']['high'])}"]
            for pair in pairs
        ]  # fmt: skip
        yield ReportTable(_GAPS, rows, left=3, note=f"Differences are paired, resampled by {found['resampled_by']}.")


def _pair_table(styles: Styles, found: Plain) -> Iterator[ReportTable]:
    """The test of every two systems."""
    pairs = found["pairs"]
    if not pairs:
        return
    rows: list[list[Cell]] = [
        [styles[pair["first"]], styles[pair["second"]], points(pair["difference"]["wer"]),
         interval(pair["difference"]["low"], pair["difference"]["high"]),
         interval(pair["difference"]["low_speakers"], pair["difference"]["high_speakers"]),
         optional(pair["mapsswe"]["z"], lambda z: f"{z:+.2f}".replace("-", "−")), probability(pair["mapsswe"]["p"]),
         str(pair["mapsswe"]["segments"])]
        for pair in pairs[:PAIRS_SHOWN]
    ]  # fmt: skip
    notes = [_PAIRS_NOTE]
    if len(pairs) > PAIRS_SHOWN:
        notes.append(f"{len(pairs) - PAIRS_SHOWN} more pairs are in results.json.")
    if any(0 < pair["mapsswe"]["segments"] < ENOUGH_SEGMENTS for pair in pairs):
        notes.append(f"Below about {ENOUGH_SEGMENTS} segments p is a rough estimate.")
    yield ReportTable(_PAIRS, rows, "Significance of the differences", left=2, note=" ".join(notes))


def _excluded_block(found: Plain) -> SectionBlock:
    excluded = found["excluded"]
    count = f"{len(excluded)} of {found['utterances'] + len(excluded)} utterances left out, for every system alike"
    items = [f"{item['id']}: {item['reason']}" for item in excluded[:EXCLUDED_LISTED]]
    if len(excluded) > EXCLUDED_LISTED:
        items.append(f"… and {len(excluded) - EXCLUDED_LISTED} more, see results.json")
    return SectionBlock(text=f"{count}:", items=items, fold=count)


def _speaker_tables(report: Report, styles: Styles, name: str) -> Iterator[ReportTable]:
    """The spread over speakers, then every speaker where there are not too many."""
    found = report.sets[name]
    rates = {key: known for key in report.systems(name) if (known := known_rates(found[key]))}
    if not rates:
        return
    rows: list[list[Cell]] = [
        [styles[key], str(len(known)), *(percent(of(known.values())) for of in (min, median, max)),
         max(known, key=known.__getitem__)]
        for key, known in rates.items()
    ]  # fmt: skip
    yield ReportTable(_SPREAD, rows)
    header, everyone = speaker_rows(found, list(rates))
    if len(everyone) <= SPEAKERS_LISTED:
        yield ReportTable(header, everyone)


def _confusion_tables(found: Sequence[View], styles: Styles, main: MainSystems) -> list[ReportTable]:
    counts = {key: confusions(found, key) for key in styles}
    titles: dict[Kind, str] = {"substitutions": "Substituted", "deletions": "Deleted", "insertions": "Inserted"}
    tables = []
    for kind, title in titles.items():
        own = counts[main.student][kind] if main.student in counts else Counter()
        words = {word for key in styles for word in counts[key][kind]}
        order = sorted(words, key=lambda word: (-own[word], -sum(counts[key][kind][word] for key in styles), word))
        shown = order[:MOST_CONFUSIONS]
        values = [[float(counts[key][kind][word]) for key in styles] for word in shown]
        shades = _shades(values)
        rows = [
            [" → ".join(filter(None, word)), *(str(int(value)) for value in row)]
            for word, row in zip(shown, values, strict=True)
        ]
        if rows:
            name = styles[main.student].name if main.student in styles else "the student"
            caption = f"{title}: {sum(own.values())} by {name}"
            tables.append(ReportTable((title, *styles.values()), rows, caption, kind="words heat", heat=shades))
    return tables


def _rates_by_speaker(report: Report, name: str) -> dict[str, dict[str, float]]:
    """Speaker → system's key → WER on a set."""
    rates: dict[str, dict[str, float]] = {}
    for key in report.systems(name):
        for speaker, rate in known_rates(report.sets[name][key]).items():
            rates.setdefault(speaker, {})[key] = rate
    return rates


def _shades(values: Sequence[Sequence[float]]) -> list[list[int]]:
    most = max((value for row in values for value in row), default=0) or 1
    return [[round(6 * value / most) for value in row] for row in values]


def _teacher(model: Plain) -> str:
    source = f" ({model['source']})" if model.get("source") else ""
    weights = f", weights {model['sha256'][:SHORT_HASH]}…" if model.get("sha256") else ""
    how = "with the settings of `evaluate.decoding`" if model.get("decoding") else "greedily"
    return (
        f"The teacher {model['name']}{source}{weights} was not trained by this run. Its training data is unknown here "
        f"and may contain these recordings or their transcripts. It is decoded {how}, in its own "
        f"{plain(model.get('symbols'))} symbols with a frame every {plain(model.get('frame_shift_ms'))} ms, and "
        "normalized and scored like every other system."
    )


def _times(models: Plain, teacher: str, student: str, quantity: str) -> str:
    more, less = models[teacher][quantity], models[student][quantity]
    return f" ({more / less:.3g} ×)" if more and less else ""

"""Sections of the report on errors: word error rates and their significance, training seeds, speakers, word errors."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from statistics import median

from asr_kd.evaluation.cells import (
    UNKNOWN,
    gap,
    gap_of_system,
    interval,
    megabytes,
    millions,
    only_gap,
    optional,
    percent,
    points,
    probability,
    set_size,
    short_factor,
    signed,
)
from asr_kd.evaluation.report.document import (
    SYSTEM,
    Cell,
    Columns,
    Figure,
    Plain,
    Point,
    ReportTable,
    RowChart,
    Section,
    SectionBlock,
    SystemStyle,
    table,
)
from asr_kd.evaluation.report.loading import Kind, Report, confusions
from asr_kd.scoring.paired import ENOUGH_SEGMENTS

MOST_SPEAKERS = 40
"""Speakers in a chart; of more, those with most errors."""
SPEAKERS_LISTED = 60
"""Speakers of a set up to which every one is listed with its WER."""
MOST_CONFUSIONS = 12
PAIRS_SHOWN = 15
"""Pairs of systems in the report; results.json has all."""
EXCLUDED_LISTED = 50

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
_SEEDS_NOTE = (
    "WER: mean over runs, their standard deviation (n − 1) and range; the interval covers the choice of runs as well "
    "as that of speakers (utterances where speakers are not known); gap recovered: ratio of the means over runs."
)
COSTS: Columns = (
    ("Parameters", "model.parameters", millions),
    ("Size", "model.size_bytes", megabytes),
    ("RTF", "model.real_time_factor", short_factor),
)
_RESULT: Columns = (
    SYSTEM,
    ("WER %", "wer", percent),
    ("95 % interval", "", lambda row: interval(row["wer_low"], row["wer_high"])),
    ("by speaker", "", lambda row: interval(row["wer_low_speakers"], row["wer_high_speakers"])),
    ("S", "substitutions", str),
    ("D", "deletions", str),
    ("I", "insertions", str),
    ("Words", "words", str),
    ("CER %", "cer", percent),
)
_PAIRS: Columns = (
    ("First", "first", lambda style: style),
    ("Second", "second", lambda style: style),
    ("Points", "difference.wer", points),
    ("95 % interval", "difference", lambda by: interval(by["low"], by["high"])),
    ("by speaker", "difference", lambda by: interval(by["low_speakers"], by["high_speakers"])),
    ("z", "mapsswe.z", lambda z: signed(f"{z:+.2f}")),
    ("p", "mapsswe.p", probability),
    ("Segments", "mapsswe.segments", str),
)
_GAPS: Columns = (
    ("With KD", "distilled", lambda style: style),
    ("Without", "baseline", lambda style: style),
    ("Teacher", "teacher", lambda style: style),
    ("Gap recovered", "", gap),
    (
        "WER with minus without, points",
        "difference",
        lambda by: f"{points(by['wer'])} {interval(by['low'], by['high'])}",
    ),
)
_SEEDS: Columns = (
    ("Row", "name", str),
    ("Set", "set", str),
    ("Runs", "runs", lambda runs: str(len(runs))),
    ("WER %", "mean", percent),
    ("SD", "deviation", percent),
    ("Range", "", lambda row: f"{percent(row['lowest'])}–{percent(row['highest'])}"),
    ("95 % interval", "", lambda row: interval(row["low"], row["high"])),
    ("Gap recovered", "", lambda row: gap(row) if "gap_recovered" in row else ""),
)
_SPREAD: Columns = (
    SYSTEM,
    ("Speakers", "rates", lambda rates: str(len(rates))),
    ("Lowest WER %", "rates", lambda rates: percent(min(rates.values()))),
    ("Median", "rates", lambda rates: percent(median(rates.values()))),
    ("Highest", "rates", lambda rates: percent(max(rates.values()))),
    ("of", "rates", lambda rates: max(rates, key=rates.__getitem__)),
)


def result_section(report: Report) -> Section:
    """Error tables of all sets, their intervals as a chart, and the test of every pair."""
    figures, blocks = [], []
    for name in report.order:
        found = report.sets[name]
        chart = RowChart([(point.style.name, [point]) for point in report.points(name)], of_systems=True)
        figures.append(Figure(name, chart, f"WER of each system on {name} with 95 % intervals", set_size(found)))
        tables = [_result_table(report, name), *_gap_table(report, found), *_pair_table(report, found["pairs"])]
        text = " ".join([f"{set_size(found)}.", *_gap_sentences(found)])
        blocks.append(SectionBlock(title=name, text=text, tables=tables, fold=report.fold(name, "Tables of")))
        if found["excluded"]:
            blocks.append(_excluded_block(found))
    timed = max((model["rtf_utterances"] for model in report.summary["models"].values()), default=0)
    legend = _LEGEND.format(costs=_COSTS_LEGEND.format(utterances=timed) if timed else "")
    return Section("result", "Word error rates", "Result", [*blocks, SectionBlock(text=legend)], figures)


def seed_section(report: Report) -> Section:
    """Several training runs of one system as one row."""
    rows = [{"name": name, **row} for name, found in report.summary["seeds"].items() for row in found]
    blocks = [SectionBlock(tables=[table(_SEEDS, rows, left=2, note=_SEEDS_NOTE)])] if rows else []
    return Section("seeds", "Several training runs", "Seeds", blocks)


def speaker_section(report: Report) -> Section:
    """Spread of the WER over speakers."""
    figures: list[Figure] = []
    blocks = []
    for name in report.order:
        rates = {key: known for key in report.systems(name) if (known := known_rates(report.sets[name][key]))}
        if not rates:
            continue
        figures += _speaker_figure(report, name, rates)
        rows = [{"style": report.styles[key], "rates": known} for key, known in rates.items()]
        blocks.append(SectionBlock(title=name, tables=[table(_SPREAD, rows)]))
        every = speaker_table(report.sets[name], list(rates))
        if len(every.rows) <= SPEAKERS_LISTED:
            blocks.append(SectionBlock(tables=[every], fold=f"Every speaker of {name}"))
    return Section("speakers", "Errors by speaker", "Speakers", blocks, figures)


def confusion_section(report: Report) -> Section:
    """The most frequent word errors."""
    blocks = []
    for name in report.order:
        tables = _confusion_tables(report, name)
        if tables:
            fold = report.fold(name, "Word errors on")
            blocks.append(SectionBlock(title=name, tables=tables, side_by_side=True, fold=fold))
    intro = "How often each system made the same error, the student's most frequent ones first."
    return Section("confusions", "Most frequent word errors", "Words", blocks, intro=intro)


def speaker_table(found: Plain, keys: Sequence[str]) -> ReportTable:
    """Reference words of each speaker of a set, and each system's WER; most errors of the first system first."""
    by_speaker = {key: found[key]["by_speaker"] for key in keys}
    first = by_speaker[keys[0]]
    order = sorted(first, key=lambda speaker: (-(first[speaker]["wer"] or 0.0), speaker))
    rows = [
        [speaker, str(first[speaker]["words"]),
         *(optional(by_speaker[key].get(speaker, {}).get("wer"), percent) for key in keys)]
        for speaker in order
    ]  # fmt: skip
    return ReportTable(["Speaker", "Words", *(f"{found[key]['name']} WER %" for key in keys)], rows)


def known_rates(errors: Plain) -> dict[str, float]:
    """Speaker → WER of one system, of speakers with reference words."""
    return {speaker: row["wer"] for speaker, row in errors["by_speaker"].items() if row["wer"] is not None}


def with_costs(columns: Columns, rows: Sequence[Plain]) -> Columns:
    """The columns, and those of the costs where a row has any."""
    known = any(cell != UNKNOWN for row in table(COSTS, rows).rows for cell in row)
    return [*columns, *(COSTS if known else ())]


def _result_table(report: Report, name: str) -> ReportTable:
    found, models = report.sets[name], report.summary["models"]
    rows = [
        {**found[key], "style": report.styles[key], "model": models[key], "gap": gap_of_system(found, key)}
        for key in report.systems(name)
    ]
    return table([*with_costs(_RESULT, rows), ("Gap recovered", "gap", str)], rows, kind="result")


def _gap_sentences(found: Plain) -> Iterator[str]:
    """The only pair of a set as sentences; several have a table."""
    recovered = only_gap(found)
    if recovered is not None:
        yield f"{recovered}."
    if len(found["comparisons"]) == 1:
        difference = found["comparisons"][0]["difference"]
        yield (
            f"WER with KD minus WER without: {points(difference['wer'])} points "
            f"{interval(difference['low'], difference['high'])} (paired, resampled by {found['resampled_by']})."
        )


def _gap_table(report: Report, found: Plain) -> Iterator[ReportTable]:
    if len(found["comparisons"]) > 1:
        rows = [_with_styles(report.styles, pair, "distilled", "baseline", "teacher") for pair in found["comparisons"]]
        yield table(_GAPS, rows, left=3, note=f"Differences are paired, resampled by {found['resampled_by']}.")


def _pair_table(report: Report, pairs: Sequence[Plain]) -> Iterator[ReportTable]:
    """The test of every two systems."""
    if not pairs:
        return
    notes = [_PAIRS_NOTE]
    if len(pairs) > PAIRS_SHOWN:
        notes.append(f"{len(pairs) - PAIRS_SHOWN} more pairs are in results.json.")
    if any(0 < pair["mapsswe"]["segments"] < ENOUGH_SEGMENTS for pair in pairs):
        notes.append(f"Below about {ENOUGH_SEGMENTS} segments p is a rough estimate.")
    rows = [_with_styles(report.styles, pair, "first", "second") for pair in pairs[:PAIRS_SHOWN]]
    yield table(_PAIRS, rows, caption="Significance of the differences", left=2, note=" ".join(notes))


def _with_styles(styles: Mapping[str, SystemStyle], row: Plain, *places: str) -> Plain:
    """A row with styles in place of systems' keys."""
    return {**row, **{place: styles.get(row[place]) for place in places}}


def _excluded_block(found: Plain) -> SectionBlock:
    excluded = found["excluded"]
    count = f"{len(excluded)} of {found['utterances'] + len(excluded)} utterances left out, for every system alike"
    items = [f"{item['id']}: {item['reason']}" for item in excluded[:EXCLUDED_LISTED]]
    if len(excluded) > EXCLUDED_LISTED:
        items.append(f"… and {len(excluded) - EXCLUDED_LISTED} more, see results.json")
    return SectionBlock(text=f"{count}:", items=items, fold=count)


def _speaker_figure(report: Report, name: str, rates: Mapping[str, Mapping[str, float]]) -> Iterator[Figure]:
    student = rates.get(report.main.student, {})
    speakers = {speaker for known in rates.values() for speaker in known}
    order = sorted(speakers, key=lambda speaker: (-student.get(speaker, 0.0), speaker))
    if len(order) > 1:
        rows = [
            (speaker, [Point(report.styles[key], rate[speaker]) for key, rate in rates.items() if speaker in rate])
            for speaker in order[:MOST_SPEAKERS]
        ]
        more = f"; the {MOST_SPEAKERS} with most errors are shown" if len(order) > MOST_SPEAKERS else ""
        note = f"{len(order)} speakers{more}; the line spans the systems; sorted by the student's errors"
        yield Figure(name, RowChart(rows), f"WER of each speaker of {name}", note)


def _confusion_tables(report: Report, name: str) -> list[ReportTable]:
    found = [view for view in report.views if view.test_set == name]
    keys, student = report.systems(name), report.main.student
    counts = {key: confusions(found, key) for key in keys}
    titles: dict[Kind, str] = {"substitutions": "Substituted", "deletions": "Deleted", "insertions": "Inserted"}
    tables = []
    for kind, title in titles.items():
        own = counts[student][kind] if student in counts else Counter()
        words = {word for key in keys for word in counts[key][kind]}
        order = sorted(words, key=lambda word: (-own[word], -sum(counts[key][kind][word] for key in keys), word))
        values = [[counts[key][kind][word] for key in keys] for word in order[:MOST_CONFUSIONS]]
        most = max((value for row in values for value in row), default=0) or 1
        rows = [[" → ".join(filter(None, word)), *map(str, row)] for word, row in zip(order, values, strict=False)]
        if rows:
            caption = f"{title}: {sum(own.values())} by {report.name(student) if student in keys else 'the student'}"
            header: list[Cell] = [title, *(report.styles[key] for key in keys)]
            shades = [[round(6 * value / most) for value in row] for row in values]
            tables.append(ReportTable(header, rows, caption, kind="words heat", heat=shades))
    return tables

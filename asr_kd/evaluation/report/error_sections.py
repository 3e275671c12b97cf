"""Sections of the report on errors: word error rates and their significance, training seeds, speakers, word errors."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from statistics import median

from asr_kd.evaluation.cells import (
    COSTS,
    UNKNOWN,
    cost_cells,
    gap,
    gap_of_system,
    interval,
    only_gap,
    optional,
    percent,
    points,
    probability,
    set_size,
    signed,
)
from asr_kd.evaluation.report.document import (
    Cell,
    Columns,
    Dumbbells,
    Figure,
    Forest,
    Plain,
    ReportTable,
    Section,
    SectionBlock,
    SystemStyle,
    optional_section,
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


def result_section(report: Report) -> Section:
    """Error tables of all sets, their intervals as a chart, and the test of every pair."""
    figures, blocks = [], []
    for name in report.order:
        found = report.sets[name]
        label = f"WER of each system on {name} with 95 % intervals"
        figures.append(Figure(name, Forest(report.points(name)), label, set_size(found)))
        tables = [
            _result_table(report, name),
            *_gap_table(report.styles, found),
            *_pair_table(report.styles, found["pairs"]),
        ]
        text = " ".join([f"{set_size(found)}.", *_gap_sentences(found)])
        blocks.append(SectionBlock(title=name, text=text, tables=tables, fold=report.fold(name, "Tables of")))
        if found["excluded"]:
            blocks.append(_excluded_block(found))
    timed = max((model["rtf_utterances"] for model in report.summary["models"].values()), default=0)
    legend = _LEGEND.format(costs=_COSTS_LEGEND.format(utterances=timed) if timed else "")
    blocks = [SectionBlock(figures=figures), *blocks, SectionBlock(text=legend)]
    return Section("result", "Word error rates", "Result", "", blocks, key=True)


def seed_section(report: Report) -> Section | None:
    """Several training runs of one system as one row."""
    rows = [(name, row) for name, found in report.summary["seeds"].items() for row in found]
    if not rows:
        return None
    columns: Columns = [
        ("Row", lambda name, _: name),
        ("Set", lambda _, row: row["set"]),
        ("Runs", lambda _, row: str(len(row["runs"]))),
        ("WER %", lambda _, row: percent(row["mean"])),
        ("SD", lambda _, row: optional(row["deviation"], percent)),
        ("Range", lambda _, row: f"{percent(row['lowest'])}–{percent(row['highest'])}"),
        ("95 % interval", lambda _, row: interval(row["low"], row["high"])),
        ("Gap recovered", lambda _, row: gap(row) if "gap_recovered" in row else ""),
    ]
    blocks = [SectionBlock(tables=[table(columns, rows, left=2, note=_SEEDS_NOTE)])]
    return Section("seeds", "Several training runs", "Seeds", "", blocks)


def speaker_section(report: Report) -> Section | None:
    """Spread of the WER over speakers."""
    figures, blocks = [], []
    for name in report.order:
        rates = {key: known for key in report.systems(name) if (known := known_rates(report.sets[name][key]))}
        by_speaker: dict[str, dict[str, float]] = {}
        for key, known in rates.items():
            for speaker, rate in known.items():
                by_speaker.setdefault(speaker, {})[key] = rate
        if len(by_speaker) > 1:
            order = sorted(
                by_speaker, key=lambda speaker: (-by_speaker[speaker].get(report.main.student, 0.0), speaker)
            )
            shown = {speaker: by_speaker[speaker] for speaker in order[:MOST_SPEAKERS]}
            more = f"; the {MOST_SPEAKERS} with most errors are shown" if len(by_speaker) > MOST_SPEAKERS else ""
            note = f"{len(by_speaker)} speakers{more}"
            figures.append(Figure(name, Dumbbells(shown, report.styles), f"WER of each speaker of {name}", note))
        if rates:
            blocks.append(SectionBlock(title=name, tables=[_spread_table(report.styles, rates)]))
            header, rows = speaker_rows(report.sets[name], list(rates))
            if len(rows) <= SPEAKERS_LISTED:
                blocks.append(SectionBlock(tables=[ReportTable(header, rows)], fold=f"Every speaker of {name}"))
    if figures:
        text = "Each row is a speaker, and the line spans the systems. Sorted by the student's errors."
        blocks.insert(0, SectionBlock(text=text, figures=figures))
    return optional_section("speakers", "Errors by speaker", "Speakers", "", blocks, key=bool(figures))


def confusion_section(report: Report) -> Section | None:
    """The most frequent word errors."""
    blocks = []
    for name in report.order:
        tables = _confusion_tables(report, name)
        if tables:
            fold = report.fold(name, "Word errors on")
            blocks.append(SectionBlock(title=name, tables=tables, side_by_side=True, fold=fold))
    intro = "How often each system made the same error, the student's most frequent ones first."
    return optional_section("confusions", "Most frequent word errors", "Words", intro, blocks)


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


def _result_table(report: Report, name: str) -> ReportTable:
    found, models = report.sets[name], report.summary["models"]
    keys = report.systems(name)
    costs = {key: cost_cells(models[key]) for key in keys}
    shown = COSTS if any(set(cells) != {UNKNOWN} for cells in costs.values()) else ()
    counts = {"S": "substitutions", "D": "deletions", "I": "insertions", "Words": "words"}
    columns: Columns = [
        ("System", lambda key, _: report.styles[key]),
        ("WER %", lambda _, row: percent(row["wer"])),
        ("95 % interval", lambda _, row: interval(row["wer_low"], row["wer_high"])),
        ("by speaker", lambda _, row: interval(row["wer_low_speakers"], row["wer_high_speakers"])),
        *((title, lambda _, row, count=count: str(row[count])) for title, count in counts.items()),
        ("CER %", lambda _, row: percent(row["cer"])),
        *((title, lambda key, _, place=place: costs[key][place]) for place, title in enumerate(shown)),
        ("Gap recovered", lambda key, _: gap_of_system(found, key)),
    ]
    return table(columns, [(key, found[key]) for key in keys], kind="result")


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


def _gap_table(styles: Mapping[str, SystemStyle], found: Plain) -> Iterator[ReportTable]:
    if len(found["comparisons"]) > 1:
        columns: Columns = [
            ("With KD", lambda pair, _: styles[pair["distilled"]]),
            ("Without", lambda pair, _: styles[pair["baseline"]]),
            ("Teacher", lambda pair, _: UNKNOWN if pair["teacher"] is None else styles[pair["teacher"]]),
            ("Gap recovered", lambda pair, _: gap(pair)),
            ("WER with minus without, points", lambda _, by: f"{points(by['wer'])} {interval(by['low'], by['high'])}"),
        ]
        rows = [(pair, pair["difference"]) for pair in found["comparisons"]]
        yield table(columns, rows, left=3, note=f"Differences are paired, resampled by {found['resampled_by']}.")


def _pair_table(styles: Mapping[str, SystemStyle], pairs: Sequence[Plain]) -> Iterator[ReportTable]:
    """The test of every two systems."""
    if not pairs:
        return
    columns: Columns = [
        ("First", lambda pair, *_: styles[pair["first"]]),
        ("Second", lambda pair, *_: styles[pair["second"]]),
        ("Points", lambda _, by, __: points(by["wer"])),
        ("95 % interval", lambda _, by, __: interval(by["low"], by["high"])),
        ("by speaker", lambda _, by, __: interval(by["low_speakers"], by["high_speakers"])),
        ("z", lambda _, __, test: optional(test["z"], lambda z: signed(f"{z:+.2f}"))),
        ("p", lambda _, __, test: probability(test["p"])),
        ("Segments", lambda _, __, test: str(test["segments"])),
    ]
    rows = [(pair, pair["difference"], pair["mapsswe"]) for pair in pairs[:PAIRS_SHOWN]]
    notes = [_PAIRS_NOTE]
    if len(pairs) > PAIRS_SHOWN:
        notes.append(f"{len(pairs) - PAIRS_SHOWN} more pairs are in results.json.")
    if any(0 < pair["mapsswe"]["segments"] < ENOUGH_SEGMENTS for pair in pairs):
        notes.append(f"Below about {ENOUGH_SEGMENTS} segments p is a rough estimate.")
    yield table(columns, rows, caption="Significance of the differences", left=2, note=" ".join(notes))


def _excluded_block(found: Plain) -> SectionBlock:
    excluded = found["excluded"]
    count = f"{len(excluded)} of {found['utterances'] + len(excluded)} utterances left out, for every system alike"
    items = [f"{item['id']}: {item['reason']}" for item in excluded[:EXCLUDED_LISTED]]
    if len(excluded) > EXCLUDED_LISTED:
        items.append(f"… and {len(excluded) - EXCLUDED_LISTED} more, see results.json")
    return SectionBlock(text=f"{count}:", items=items, fold=count)


def _spread_table(styles: Mapping[str, SystemStyle], rates: Mapping[str, Mapping[str, float]]) -> ReportTable:
    columns: Columns = [
        ("System", lambda key, _: styles[key]),
        ("Speakers", lambda _, known: str(len(known))),
        ("Lowest WER %", lambda _, known: percent(min(known.values()))),
        ("Median", lambda _, known: percent(median(known.values()))),
        ("Highest", lambda _, known: percent(max(known.values()))),
        ("of", lambda _, known: max(known, key=known.__getitem__)),
    ]
    return table(columns, rates.items())


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

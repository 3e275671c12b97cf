"""What the statistics say, as something to read: pairs of systems, agreement with the teacher, speakers, seeds.

Works on the plain data of `summary`; a section that an older report lacks is left out. Knows nothing of how numbers
were measured.
"""

from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from asr_kd.evaluation.cells import UNKNOWN, escape, interval, percent, pipe_table
from asr_kd.evaluation.distillation import gap
from asr_kd.scoring.matched_pairs import ENOUGH_SEGMENTS

Plain = Mapping[str, Any]

PAIRS_SHOWN = 15
"""Pairs that results.md shows of a set, and lines that the terminal does; results.json has all."""
LINES_SHOWN = 6
SPEAKERS_SHOWN = 60
WORDS_SHOWN = 5

PAIRS_LEGEND = (
    "WER of the first minus WER of the second, in points, with paired bootstrap intervals over utterances and over "
    "speakers; MAPSSWE: matched-pairs sentence-segment word error test (Gillick & Cox 1989), two-sided."
)
_PAIRS = ("First", "Second", "Points", "95 % interval", "by speaker", "z", "p", "Segments")
_AGREEMENT = ("System", "WER against teacher %", "Only teacher right", "Only student right", "Both", "Neither")
_SPREAD = ("System", "Speakers", "Lowest WER %", "Median", "Highest", "of")
_SEEDS = ("Row", "Set", "Runs", "WER %", "SD", "Range", "95 % interval", "Gap recovered")


def pair_test_sections(found: Plain) -> list[str]:
    """Every two systems of a set in Markdown."""
    pairs = found.get("pairs", [])
    if not pairs:
        return []
    rows = [_pair_cells(found, pair) for pair in pairs[:PAIRS_SHOWN]]
    more = len(pairs) - PAIRS_SHOWN
    notes = [PAIRS_LEGEND]
    if more > 0:
        notes.append(f"{more} more pairs are in results.json.")
    if any(0 < pair["mapsswe"]["segments"] < ENOUGH_SEGMENTS for pair in pairs):
        notes.append(f"Below about {ENOUGH_SEGMENTS} segments its p is a rough guess.")
    return ["### Is it real", pipe_table(_PAIRS, rows, left=2), " ".join(notes)]


def pair_test_lines(found: Plain) -> Iterator[str]:
    """Every two systems of a set for the terminal."""
    pairs = found.get("pairs", [])
    for pair in pairs[:LINES_SHOWN]:
        difference = pair["difference"]
        yield (
            f"{_name(found, pair['first'])} − {_name(found, pair['second'])}: {_points(difference['wer'])} points "
            f"{interval(difference['low'], difference['high'])}, {_tested(pair['mapsswe'])}"
        )
    if len(pairs) > LINES_SHOWN:
        yield f"… and {len(pairs) - LINES_SHOWN} more pairs in results.json"


def agreement_sections(found: Plain) -> list[str]:
    """Every system beside its teacher in Markdown: words. Frames stand where they are measured."""
    agreement = {key: row for key, row in found.get("agreement", {}).items() if "only_teacher_words" in row}
    if not agreement:
        return []
    rows = [
        [
            _name(found, key),
            UNKNOWN if row["wer_against_teacher"] is None else percent(row["wer_against_teacher"]),
            *(str(row[count]) for count in ("only_teacher_words", "only_student_words", "both_words", "neither_words")),
        ]
        for key, row in agreement.items()
    ]
    lines = [line for key, row in agreement.items() for line in _most(_name(found, key), row)]
    table = pipe_table(_AGREEMENT, rows, left=1)
    return ["### Agreement with the teacher", table, *(["\n".join(lines)] if lines else [])]


def speaker_sections(found: Plain, systems: Sequence[str]) -> list[str]:
    """The spread over speakers in Markdown, and every speaker where there are not too many."""
    told = {key: _known(found[key]) for key in systems if _known(found[key])}
    if not told:
        return []
    rows = []
    for key, speakers in told.items():
        worst = max(speakers, key=speakers.__getitem__)
        rates = list(speakers.values())
        middle = [percent(rate) for rate in (min(rates), median(rates), max(rates))]
        rows.append([_name(found, key), str(len(rates)), *middle, worst])
    parts = ["### Speakers", pipe_table(_SPREAD, rows, left=1)]
    header, everyone = _speaker_rows(found, list(told))
    return [*parts, pipe_table(header, everyone, left=1)] if len(everyone) <= SPEAKERS_SHOWN else parts


def seed_sections(summary: Plain) -> list[str]:
    """Systems of several training runs, a row each, in Markdown."""
    seeds = summary.get("seeds", {})
    if not seeds:
        return []
    rows = [_seed_cells(name, row) for name, told in seeds.items() for row in told]
    return [
        "## Several training runs",
        pipe_table(_SEEDS, rows, left=2),
        "WER: mean over runs, their standard deviation (n − 1) and range; the interval holds the choice of runs as "
        "well as that of speakers (utterances where these are not known); gap recovered: ratio of the means over runs.",
    ]


def seed_lines(summary: Plain) -> Iterator[str]:
    """The same for the terminal."""
    for name, told in summary.get("seeds", {}).items():
        for row in told:
            _, test_set, runs, mean, deviation, _, ends, closed = _seed_cells(name, row)
            recovered = f", gap recovered {closed}" if closed else ""
            yield f"{name} on {test_set}, {runs} runs: WER {mean} % (SD {deviation}) {ends}{recovered}"


def speaker_table(summary: Plain) -> Table:
    """Every speaker's WER of every set for the terminal."""
    page = Table.grid()
    for name, found in summary["test_sets"].items():
        keys = [key for key in summary["models"] if key in found and _known(found[key])]
        if not keys:
            page.add_row(Text(f"{name}: speakers are not known"))
            continue
        header, rows = _speaker_rows(found, keys)
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
        for column, heading in enumerate(header):
            table.add_column(heading, justify="right" if column else "left")
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        page.add_row(table)
    return page


def _speaker_rows(found: Plain, keys: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Header and rows: speaker, reference words, and each system's WER; the hardest speaker of the first first."""
    told = {key: found[key]["by_speaker"] for key in keys}
    first = told[keys[0]]
    order = sorted(first, key=lambda speaker: (-(first[speaker]["wer"] or 0.0), speaker))
    header = ["Speaker", "Words", *(f"{_name(found, key)} WER %" for key in keys)]
    return header, [
        [speaker, str(first[speaker]["words"]), *(_rate(told[key].get(speaker, {}).get("wer")) for key in keys)]
        for speaker in order
    ]


def _known(errors: Plain) -> dict[str, float]:
    """Speaker → WER, of those with reference words."""
    told = errors.get("by_speaker") or {}
    return {speaker: row["wer"] for speaker, row in told.items() if row["wer"] is not None}


def _pair_cells(found: Plain, pair: Plain) -> list[str]:
    difference, tested = pair["difference"], pair["mapsswe"]
    return [
        _name(found, pair["first"]),
        _name(found, pair["second"]),
        _points(difference["wer"]),
        interval(difference["low"], difference["high"]),
        interval(difference["low_speakers"], difference["high_speakers"]),
        UNKNOWN if tested["z"] is None else f"{tested['z']:+.2f}",
        _probability(tested["p"]),
        str(tested["segments"]),
    ]


def _tested(tested: Plain) -> str:
    if tested["p"] is None:
        return f"MAPSSWE undefined ({tested['reason']})"
    return f"MAPSSWE p {_probability(tested['p'])} ({tested['segments']} segments)"


def _seed_cells(name: str, row: Plain) -> list[str]:
    return [
        name,
        row["set"],
        str(len(row["runs"])),
        percent(row["mean"]),
        UNKNOWN if row["deviation"] is None else percent(row["deviation"]),
        f"{percent(row['lowest'])}–{percent(row['highest'])}",
        interval(row["low"], row["high"]),
        gap(row) if "gap_recovered" in row else "",
    ]


def _most(name: str, row: Plain) -> Iterator[str]:
    """The words that only one of the two has right, most frequent first."""
    sides = {
        "only_teacher_most": f"the teacher has right and {escape(name)} has not",
        "only_student_most": f"{escape(name)} has right and the teacher has not",
    }
    for told, side in sides.items():
        words = ", ".join(f"{escape(word)} ({count})" for word, count in row[told][:WORDS_SHOWN])
        if words:
            yield f"- Words that {side}, most often: {words}"


def _name(found: Plain, key: str) -> str:
    return str(found[key]["name"])


def _points(difference: float) -> str:
    return f"{100 * difference:+.2f}"


def _rate(rate: float | None) -> str:
    return UNKNOWN if rate is None else percent(rate)


def _probability(p: float | None) -> str:
    if p is None:
        return UNKNOWN
    return "< 0.0001" if p < 0.0001 else f"{p:.4f}"

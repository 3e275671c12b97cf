"""results.json as something to read: Markdown, and a table for the terminal.

Works on the plain data of `summary`, so that a stored evaluation prints like a fresh one. Knows nothing of
how numbers were measured.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from asr_kd.evaluation.cells import UNKNOWN, escape, interval, millions, percent, pipe_table, plain
from asr_kd.evaluation.distillation import gap_cell, pair_lines, pair_sections, teacher_sections
from asr_kd.evaluation.statistics_tables import (
    agreement_sections,
    pair_test_lines,
    pair_test_sections,
    seed_lines,
    seed_sections,
    speaker_sections,
)
from asr_kd.evaluation.tables_measured import cost_sections, set_sections, sweep_sections

Summary = Mapping[str, Any]

SYNTHETIC_NOTICE = "Synthetic speech: says nothing about real speech."
LISTED = 50
"""Excluded utterances that results.md lists; results.json has them all."""

_ERRORS = ("System", "WER %", "95 % interval", "by speaker", "S", "D", "I", "Words", "CER %")
_COSTS = ("Parameters", "Size", "RTF")
_GAP = "Gap recovered"
_STREAMED = ["streaming_real_time_factor"]
_MEASURED = {
    "cost",
    "name",
    "role",
    "parameters",
    "size_bytes",
    "real_time_factor",
    "rtf_utterances",
    "rtf_threads",
    "device",
    *_STREAMED,
}
_ELSEWHERE = {"external", "sha256", "hypotheses_sha256", "symbols", "frame_shift_ms"}
"""Details of a teacher from elsewhere, which stand in a section of their own."""
_LEGEND = (
    "WER: word error rate with its bootstrap interval over utterances, then over speakers; S, D, I: substituted, "
    "deleted, inserted words; CER: character error rate; {costs}gap recovered: (WER without KD − WER with KD) / (WER "
    "without KD − WER of the teacher)."
)
_COSTS_LEGEND = (
    "Size: weights on disk; RTF: computing time per second of speech on one thread, median over {rtf_utterances} "
    "utterances, all systems in the same run; "
)


def markdown(summary: Summary) -> str:
    """The whole report, results.md."""
    parts = ["# Results", *_notices(summary)]
    for name, found in summary["test_sets"].items():
        parts += _set_section(name, found, summary["models"])
    parts += seed_sections(summary)
    timed = max((model["rtf_utterances"] for model in summary["models"].values()), default=0)
    costs = _COSTS_LEGEND.format(rtf_utterances=timed) if timed else ""
    parts += [_LEGEND.format(costs=costs), *teacher_sections(summary)]
    parts += [*sweep_sections(summary), *cost_sections(summary["models"])]
    parts += [*_models_section(summary["models"]), *_provenance_section(summary)]
    return "\n\n".join(parts) + "\n"


def terminal_table(summary: Summary) -> Table:
    """All test sets for `rich` to print, each with its gap recovered below; fits a terminal of 80 columns."""
    page = Table.grid()
    for notice in _notices(summary):
        page.add_row(Text(notice))
    for name, found in summary["test_sets"].items():
        page.add_row("")
        if "skipped" in found:
            page.add_row(Text(f"{name}: not evaluated ({found['skipped']})"))
            continue
        page.add_row(Text(f"{name}: {_size(found)}", style="bold"))
        page.add_row(_terminal_set(found, summary["models"]))
        for line in (*pair_lines(found), *pair_test_lines(found)):
            page.add_row(Text(line))
        if found["excluded"]:
            page.add_row(Text(f"{_excluded_count(found)}, listed in results.md"))
    for line in seed_lines(summary):
        page.add_row(Text(line))
    return page


def _terminal_set(found: Mapping[str, Any], models: Mapping[str, Any]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, collapse_padding=True)
    table.add_column("System", overflow="fold")
    costs = ("Params", "Size", "RTF") if _any_cost(found, models) else ()
    for heading in ("WER % [95 %]", "S/D/I", "CER %", *costs):
        table.add_column(heading, justify="right", no_wrap=True)
    for key in _systems(found):
        cells = [*_terminal_cells(found[key]), *(_cost_cells(models[key]) if costs else [])]
        table.add_row(*(Text(cell) for cell in cells))
    return table


def _systems(found: Mapping[str, Any]) -> list[str]:
    """Keys of the systems in a set: the entries that hold a WER of their own words."""
    return [key for key, value in found.items() if isinstance(value, Mapping) and "words" in value]


def _notices(summary: Summary) -> list[str]:
    facts = summary["provenance"]
    notices = [SYNTHETIC_NOTICE] if facts["synthetic"] else []
    absent = "; ".join(f"{name} ({reason})" for name, reason in summary.get("absent_systems", {}).items())
    notices += [f"Not evaluated: {absent}."] if absent else []
    seeds = "" if summary.get("seeds") else f" {_seeds_notice(facts['seeds'])}"
    return [*notices, f"Normalizer: {facts['normalizer']}.{seeds}"]


def _seeds_notice(seeds: Sequence[int]) -> str:
    if len(seeds) == 1:
        return f"One seed ({seeds[0]}): the intervals do not hold what another training run would change."
    if seeds:
        return f"Seeds: {', '.join(map(str, seeds))}."
    return "Seeds are not stated."


def _set_section(name: str, found: Mapping[str, Any], models: Mapping[str, Any]) -> list[str]:
    if "skipped" in found:
        return [f"## {name}", f"Not evaluated ({escape(found['skipped'])})."]
    systems, costs = _systems(found), _any_cost(found, models)
    rows = [
        [*_error_cells(found[key]), *(_cost_cells(models[key]) if costs else []), gap_cell(found, key)]
        for key in systems
    ]
    parts = [
        f"## {name}",
        f"{_size(found)}.",
        pipe_table([*_ERRORS, *(_COSTS if costs else []), _GAP], rows, left=1),
        *pair_sections(found),
        *pair_test_sections(found),
        *agreement_sections(found),
        *speaker_sections(found, systems),
        *set_sections(found),
    ]
    if found["excluded"]:
        parts.append(_excluded_list(found))
    return parts


def _error_cells(errors: Mapping[str, Any]) -> list[str]:
    return [
        errors["name"],
        percent(errors["wer"]),
        interval(errors["wer_low"], errors["wer_high"]),
        interval(errors["wer_low_speakers"], errors["wer_high_speakers"]),
        *(str(errors[count]) for count in ("substitutions", "deletions", "insertions", "words")),
        percent(errors["cer"]),
    ]


def _terminal_cells(errors: Mapping[str, Any]) -> list[str]:
    low, high = errors["wer_low"], errors["wer_high"]
    return [
        errors["name"],
        percent(errors["wer"]) + ("" if low is None else f" [{100 * low:.1f}, {100 * high:.1f}]"),
        "/".join(str(errors[count]) for count in ("substitutions", "deletions", "insertions")),
        percent(errors["cer"]),
    ]


def _any_cost(found: Mapping[str, Any], models: Mapping[str, Any]) -> bool:
    """Whether anything is known of what a set's systems cost; hypotheses from files say nothing of it."""
    return any(set(_cost_cells(models[key])) != {UNKNOWN} for key in _systems(found))


def _cost_cells(model: Mapping[str, Any]) -> list[str]:
    parameters, size, factor = model["parameters"], model["size_bytes"], model["real_time_factor"]
    return [
        millions(parameters),
        UNKNOWN if size is None else f"{size / 1e6:.1f} MB",
        UNKNOWN if factor is None else f"{factor:.2g}",
    ]


def _excluded_count(found: Mapping[str, Any]) -> str:
    total = found["utterances"] + len(found["excluded"])
    return f"{len(found['excluded'])} of {total} utterances left out"


def _excluded_list(found: Mapping[str, Any]) -> str:
    lines = [f"{_excluded_count(found)}, for every system alike:", ""]
    lines += [f"- {escape(item['id'])}: {escape(item['reason'])}" for item in found["excluded"][:LISTED]]
    if len(found["excluded"]) > LISTED:
        lines.append(f"- … and {len(found['excluded']) - LISTED} more, see results.json")
    return "\n".join(lines)


def _models_section(models: Mapping[str, Any]) -> list[str]:
    elsewhere = _MEASURED | _ELSEWHERE
    details = list(dict.fromkeys(name for model in models.values() for name in model if name not in elsewhere))
    header = ["System", "Role", "Device", "RTF streamed", *details]
    rows = [
        [model["name"], model["role"], model["device"], *(plain(model.get(name)) for name in _STREAMED + details)]
        for model in models.values()
    ]
    return ["## Models", pipe_table(header, rows, left=3)]


def _provenance_section(summary: Summary) -> list[str]:
    facts = summary["provenance"]
    machine = facts["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    bootstrap = facts["bootstrap"]
    lines = [
        f"- Date: {facts['date']}",
        f"- Command: `{escape(facts['command'])}`",
        f"- Git commit: {facts['git_commit'] or 'not in a checkout'}",
        f"- Machine: {machine['cpu']}, {machine['cpus']} CPUs ({machine['system']}), GPU: {machine['gpu'] or 'none'}",
        f"- Versions: {versions}",
        f"- Bootstrap: {bootstrap['samples']} samples, seed {bootstrap['seed']}, percentile interval",
        "- Hypotheses: `hypotheses/SET/SYSTEM.jsonl`; numbers for programs: `results.json`",
    ]
    return ["## Where this comes from", "\n".join(lines)]


def _size(found: Mapping[str, Any]) -> str:
    seconds = found["seconds"]
    speakers = f"{found['speakers']} speakers" if found["speakers"] else "speakers not known"
    if seconds is None:
        return f"{found['utterances']} utterances, {speakers}"
    duration = f"{seconds / 3600:.2f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"
    return f"{found['utterances']} utterances, {speakers}, {duration} of speech"

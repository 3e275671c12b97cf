"""results.json as something to read: Markdown, and a table for the terminal.

Works on the plain data of `summary`, so that a stored evaluation prints like a fresh one. Knows nothing of
how numbers were measured.
"""

import html
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

Summary = Mapping[str, Any]

SYNTHETIC_NOTICE = "Synthetic speech: says nothing about real speech."
LISTED = 50
"""Excluded utterances that results.md lists; results.json has them all."""
UNKNOWN = "–"

_HEADER = (
    "System", "WER %", "95 % interval", "by speaker", "S", "D", "I", "Words", "CER %",
    "Parameters", "Size", "RTF", "Gap recovered",
)  # fmt: skip
_STREAMED = ["streaming_real_time_factor"]
_MEASURED = {
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
_LEGEND = (
    "WER: word error rate with its bootstrap interval over utterances, then over speakers; S, D, I: substituted, "
    "deleted, inserted words; CER: character error rate; Size: weights on disk; RTF: computing time per second of "
    "speech on one thread, median over {rtf_utterances} utterances, all systems in the same run; gap recovered: "
    "(WER without KD − WER with KD) / (WER without KD − WER of the teacher)."
)


def markdown(summary: Summary) -> str:
    """The whole report, results.md."""
    parts = ["# Results", *_notices(summary)]
    for name, found in summary["test_sets"].items():
        parts += _set_section(name, found, summary["models"])
    timed = max((model["rtf_utterances"] for model in summary["models"].values()), default=0)
    parts += [_LEGEND.format(rtf_utterances=timed), *_models_section(summary["models"]), *_provenance_section(summary)]
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
        page.add_row(Text(f"Gap recovered: {_gap(found)}"))
        if found["excluded"]:
            page.add_row(Text(f"{_excluded_count(found)}, listed in results.md"))
    return page


def _terminal_set(found: Mapping[str, Any], models: Mapping[str, Any]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, collapse_padding=True)
    table.add_column("System", overflow="fold")
    for heading in ("WER % [95 %]", "S/D/I", "CER %", "Params", "Size", "RTF"):
        table.add_column(heading, justify="right", no_wrap=True)
    for key in _systems(found):
        table.add_row(*(Text(cell) for cell in _terminal_cells(found[key], models[key])))
    return table


def _systems(found: Mapping[str, Any]) -> list[str]:
    """Keys of the systems in a set: the entries that hold a WER of their own words."""
    return [key for key, value in found.items() if isinstance(value, Mapping) and "words" in value]


def _notices(summary: Summary) -> list[str]:
    facts = summary["provenance"]
    notices = [SYNTHETIC_NOTICE] if facts["synthetic"] else []
    return [*notices, f"Normalizer: {facts['normalizer']}. {_seeds_notice(facts['seeds'])}"]


def _seeds_notice(seeds: Sequence[int]) -> str:
    if len(seeds) == 1:
        return f"One seed ({seeds[0]}): the intervals do not hold what another training run would change."
    if seeds:
        return f"Seeds: {', '.join(map(str, seeds))}."
    return "Seeds are not stated."


def _set_section(name: str, found: Mapping[str, Any], models: Mapping[str, Any]) -> list[str]:
    if "skipped" in found:
        return [f"## {name}", f"Not evaluated ({_escape(found['skipped'])})."]
    rows = [_markdown_cells(key, found, models[key]) for key in _systems(found)]
    parts = [
        f"## {name}",
        f"{_size(found)}.",
        _pipe_table(_HEADER, rows, left=1),
        f"Gap recovered: {_escape(_gap(found))}.",
    ]
    difference = found["kd_minus_hard"]
    if difference is not None:
        spread = _interval(difference["low"], difference["high"])
        parts.append(
            f"WER with KD minus WER without: {100 * difference['wer']:+.2f} points {spread} "
            f"(paired, resampled by {found['resampled_by']})."
        )
    if found["excluded"]:
        parts.append(_excluded_list(found))
    return parts


def _markdown_cells(key: str, found: Mapping[str, Any], model: Mapping[str, Any]) -> list[str]:
    errors = found[key]
    return [
        errors["name"],
        _percent(errors["wer"]),
        _interval(errors["wer_low"], errors["wer_high"]),
        _interval(errors["wer_low_speakers"], errors["wer_high_speakers"]),
        *(str(errors[count]) for count in ("substitutions", "deletions", "insertions", "words")),
        _percent(errors["cer"]),
        *_cost_cells(model),
        (_gap(found) if found["gap_recovered"] is not None else "undefined") if key == "student_kd" else "",
    ]


def _terminal_cells(errors: Mapping[str, Any], model: Mapping[str, Any]) -> list[str]:
    low, high = errors["wer_low"], errors["wer_high"]
    return [
        errors["name"],
        _percent(errors["wer"]) + ("" if low is None else f" [{100 * low:.1f}, {100 * high:.1f}]"),
        "/".join(str(errors[count]) for count in ("substitutions", "deletions", "insertions")),
        _percent(errors["cer"]),
        *_cost_cells(model),
    ]


def _cost_cells(model: Mapping[str, Any]) -> list[str]:
    parameters, size, factor = model["parameters"], model["size_bytes"], model["real_time_factor"]
    return [
        UNKNOWN if parameters is None else f"{parameters / 1e6:.2f} M",
        UNKNOWN if size is None else f"{size / 1e6:.1f} MB",
        UNKNOWN if factor is None else f"{factor:.2g}",
    ]


def _gap(found: Mapping[str, Any]) -> str:
    if found["gap_recovered"] is None:
        return f"undefined ({found['gap_recovered_reason']})"
    low, high = found["gap_recovered_low"], found["gap_recovered_high"]
    return f"{100 * found['gap_recovered']:.0f} % [{100 * low:.0f}, {100 * high:.0f}]"


def _excluded_count(found: Mapping[str, Any]) -> str:
    total = found["utterances"] + len(found["excluded"])
    return f"{len(found['excluded'])} of {total} utterances left out"


def _excluded_list(found: Mapping[str, Any]) -> str:
    lines = [f"{_excluded_count(found)}, for every system alike:", ""]
    lines += [f"- {_escape(item['id'])}: {_escape(item['reason'])}" for item in found["excluded"][:LISTED]]
    if len(found["excluded"]) > LISTED:
        lines.append(f"- … and {len(found['excluded']) - LISTED} more, see results.json")
    return "\n".join(lines)


def _models_section(models: Mapping[str, Any]) -> list[str]:
    details = list(dict.fromkeys(name for model in models.values() for name in model if name not in _MEASURED))
    header = ["System", "Role", "Device", "RTF streamed", *details]
    rows = [
        [model["name"], model["role"], model["device"], *(_plain(model.get(name)) for name in _STREAMED + details)]
        for model in models.values()
    ]
    return ["## Models", _pipe_table(header, rows, left=3)]


def _provenance_section(summary: Summary) -> list[str]:
    facts = summary["provenance"]
    machine = facts["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    bootstrap = facts["bootstrap"]
    lines = [
        f"- Date: {facts['date']}",
        f"- Command: `{_escape(facts['command'])}`",
        f"- Git commit: {facts['git_commit'] or 'not in a checkout'}",
        f"- Machine: {machine['cpu']}, {machine['cpus']} CPUs ({machine['system']}), GPU: {machine['gpu'] or 'none'}",
        f"- Versions: {versions}",
        f"- Bootstrap: {bootstrap['samples']} samples, seed {bootstrap['seed']}, percentile interval",
        "- Hypotheses: `hypotheses/SET/SYSTEM.jsonl`; numbers for programs: `results.json`",
    ]
    return ["## Where this comes from", "\n".join(lines)]


def _pipe_table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> str:
    """A Markdown table; the first `left` columns are text, the others numbers."""
    rule = [":--" if column < left else "--:" for column in range(len(header))]
    lines = [header, rule, *([_escape(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _plain(value: Any) -> str:
    return UNKNOWN if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.2f}"


def _interval(low: float | None, high: float | None) -> str:
    return UNKNOWN if low is None or high is None else f"[{100 * low:.2f}, {100 * high:.2f}]"


def _size(found: Mapping[str, Any]) -> str:
    seconds = found["seconds"]
    duration = f"{seconds / 3600:.2f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"
    return f"{found['utterances']} utterances, {found['speakers']} speakers, {duration} of speech"


def _escape(text: Any) -> str:
    """Text as data: no markup, no table cell or line ended early."""
    return " ".join(html.escape(str(text), quote=False).replace("|", "\\|").split())

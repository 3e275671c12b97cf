"""The table as LaTeX rows, for \\input between \\toprule and \\bottomrule of a paper's own table."""

from collections.abc import Mapping
from typing import Any

from asr_kd.evaluation.cells import percent
from asr_kd.evaluation.distillation import comparisons_of
from asr_kd.evaluation.report.loading import Report

COLUMNS = "System & Parameters & WER [\\%] & 95\\,\\% interval & S/D/I & CER [\\%] & RTF & Gap recovered"

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    **{symbol: f"\\{symbol}" for symbol in "&%$#_{}"},
}


def latex(report: Report) -> str:
    """results.tex: comments that say what it is, then a group of rows for each test set (needs booktabs)."""
    facts = report.summary["provenance"]
    lines = [
        "% Rows of a table with the columns",
        f"%   {COLUMNS} \\\\",
        f"% for \\begin{{tabular}}{{lrrrrrrr}}. Normalizer: {_plain(facts['normalizer'])}.",
        f"% {_plain(facts['date'])}, {_plain(facts['command'])}",
    ]
    for position, (name, found) in enumerate(report.sets.items()):
        lines += ["\\midrule"] if position else []
        lines.append(f"\\multicolumn{{8}}{{l}}{{\\emph{{{escape(name)}}}, {found['utterances']} utterances}} \\\\")
        lines += [_row(report, found, key) for key in report.systems(name)]
    return "\n".join(lines) + "\n"


def escape(text: Any) -> str:
    """Text as data: no command, no cell or line ended early."""
    return " ".join("".join(_SPECIAL.get(symbol, symbol) for symbol in str(text)).split())


def _row(report: Report, found: Mapping[str, Any], key: str) -> str:
    errors, model = found[key], report.summary["models"][key]
    parameters, factor = model["parameters"], model["real_time_factor"]
    low, high = errors["wer_low"], errors["wer_high"]
    cells = [
        escape(errors["name"]),
        "--" if parameters is None else f"{parameters / 1e6:.2f}\\,M",
        percent(errors["wer"]),
        "--" if low is None else f"{percent(low)}--{percent(high)}",
        "/".join(str(errors[count]) for count in ("substitutions", "deletions", "insertions")),
        percent(errors["cer"]),
        "--" if factor is None else f"{factor:.2g}",
        _gap(found, key),
    ]
    return " & ".join(cells) + r" \\"


def _gap(found: Mapping[str, Any], key: str) -> str:
    pair = next((pair for pair in comparisons_of(found) if pair["distilled"] == key), None)
    if pair is None or pair["gap_recovered"] is None:
        return "" if pair is None else "--"
    low, high = pair["gap_recovered_low"], pair["gap_recovered_high"]
    return f"{100 * pair['gap_recovered']:.0f}\\,\\% [{100 * low:.0f}, {100 * high:.0f}]"


def _plain(text: Any) -> str:
    """Within a comment: one line."""
    return " ".join(str(text).split())

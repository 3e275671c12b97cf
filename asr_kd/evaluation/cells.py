"""Numbers and texts as cells of tables."""

import html
from collections.abc import Callable, Mapping, Sequence
from typing import Any

UNKNOWN = "–"
"""Stands for a value that is not there."""


def pipe_table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> str:
    """A Markdown table; the first `left` columns are text, the others numbers. Cells are escaped, the header is not."""
    rule = [":--" if column < left else "--:" for column in range(len(header))]
    lines = [header, rule, *([escape(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def optional(value: Any, show: Callable[[Any], str]) -> str:
    """A value as `show` writes it, or what stands for none."""
    return UNKNOWN if value is None else show(value)


def plain(value: Any) -> str:
    """Any value, floats short."""
    return UNKNOWN if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def percent(fraction: float) -> str:
    """A fraction in percent, without the sign."""
    return f"{100 * fraction:.2f}"


def points(fraction: float) -> str:
    """A difference of rates in percentage points, signed, with a typographic minus."""
    return signed(f"{100 * fraction:+z.2f}")


def interval(low: float | None, high: float | None) -> str:
    """Two fractions in percent, or what stands for no interval."""
    return UNKNOWN if low is None or high is None else signed(f"[{100 * low:z.2f}, {100 * high:z.2f}]")


def rate_with_interval(rate: str, low: float | None, high: float | None) -> str:
    """A rate and its short interval, for narrow tables."""
    return rate + ("" if low is None or high is None else signed(f" [{100 * low:.1f}, {100 * high:.1f}]"))


def millions(count: float) -> str:
    """A number of parameters."""
    return f"{count / 1e6:.2f} M"


def megabytes(size_bytes: float) -> str:
    """A size on disk."""
    return f"{size_bytes / 1e6:.1f} MB"


def short_factor(factor: float) -> str:
    """A real-time factor."""
    return f"{factor:.2g}"


def probability(p: float) -> str:
    """A p value."""
    return "< 0.0001" if p < 0.0001 else f"{p:.4f}"


def gap(pair: Mapping[str, Any]) -> str:
    """The gap that a pair recovered, with its interval, or why it is undefined."""
    if pair["gap_recovered"] is None:
        return f"undefined ({pair['gap_recovered_reason']})"
    low, high = pair["gap_recovered_low"], pair["gap_recovered_high"]
    return signed(f"{100 * pair['gap_recovered']:z.0f} % [{100 * low:z.0f}, {100 * high:z.0f}]")


def gap_of_system(found: Mapping[str, Any], key: str) -> str:
    """The gap that a system recovered on a test set; empty for one that was not distilled."""
    own = next((pair for pair in found["comparisons"] if pair["distilled"] == key), None)
    if own is None:
        return ""
    return gap(own) if own["gap_recovered"] is not None else "undefined"


def only_gap(found: Mapping[str, Any]) -> str | None:
    """The gap recovered on a test set in words; None where there are several comparisons, or none."""
    pairs = found["comparisons"]
    return f"Gap recovered: {gap(pairs[0])}" if len(pairs) == 1 else None


def set_size(found: Mapping[str, Any]) -> str:
    """Utterances, speakers and duration of a test set."""
    speakers = _counted(found["speakers"], "speaker") if found["speakers"] else "speakers not known"
    size, seconds = f"{_counted(found['utterances'], 'utterance')}, {speakers}", found["seconds"]
    if seconds is None:
        return size
    duration = f"{seconds / 3600:.2f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"
    return f"{size}, {duration} of speech"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def signed(text: str) -> str:
    """Numbers with a typographic minus."""
    return text.replace("-", "−")


def escape(text: Any) -> str:
    """Text as Markdown data: no markup, no table cell or line ended early."""
    return " ".join(html.escape(str(text), quote=False).replace("|", "\\|").split())

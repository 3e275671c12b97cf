"""Numbers and texts as cells of a Markdown table. Knows nothing of what they mean."""

import html
from collections.abc import Sequence
from typing import Any

UNKNOWN = "–"


def pipe_table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> str:
    """A Markdown table; the first `left` columns are text, the others numbers."""
    rule = [":--" if column < left else "--:" for column in range(len(header))]
    lines = [header, rule, *([escape(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def plain(value: Any) -> str:
    """Anything, floats short."""
    return UNKNOWN if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def percent(fraction: float) -> str:
    """A fraction in percent, without the sign."""
    return f"{100 * fraction:.2f}"


def interval(low: float | None, high: float | None) -> str:
    """Two fractions in percent, or what stands for no interval."""
    return UNKNOWN if low is None or high is None else f"[{100 * low:.2f}, {100 * high:.2f}]"


def millions(count: int | None) -> str:
    """A number of parameters."""
    return UNKNOWN if count is None else f"{count / 1e6:.2f} M"


def escape(text: Any) -> str:
    """Text as data: no markup, no table cell or line ended early."""
    return " ".join(html.escape(str(text), quote=False).replace("|", "\\|").split())

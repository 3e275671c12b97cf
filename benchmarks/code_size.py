"""Count files, lines, code lines and docstring lines of a checkout, folder by folder.

    python benchmarks/code_size.py                       # this checkout
    python benchmarks/code_size.py ../before .           # two checkouts side by side, as a Markdown table

A line is code when it holds a token that is neither a comment nor part of a docstring.
"""

import argparse
import ast
import io
import sys
import tokenize
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

LAYOUT = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING}


class Size(NamedTuple):
    """Counts of one file or folder."""

    files: int = 0
    lines: int = 0
    code: int = 0
    docstrings: int = 0

    def plus(self, other: "Size") -> "Size":
        return Size(*(a + b for a, b in zip(self, other, strict=True)))


def docstring_lines(source: str) -> set[int]:
    """Return the numbers of the lines that docstrings cover, those of fields included."""
    return {
        number
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for number in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }


def size_of(path: Path) -> Size:
    """Count one Python file."""
    source = path.read_text(encoding="utf-8")
    documented = docstring_lines(source)
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    occupied = {
        number
        for token in tokens
        if token.type not in LAYOUT and token.type != tokenize.ENDMARKER
        for number in range(token.start[0], token.end[0] + 1)
    }
    return Size(1, len(source.splitlines()), len(occupied - documented), len(documented))


def sizes(checkout: Path) -> dict[str, Size]:
    """Count every folder of `asr_kd/` at its first level, then tests, benchmarks and recipes."""
    found: dict[str, Size] = defaultdict(Size)
    for top in ("asr_kd", "tests", "benchmarks", "recipes"):
        for path in sorted((checkout / top).rglob("*.py")):
            parts = path.relative_to(checkout).parts
            inside = f"asr_kd/{parts[1]}" if len(parts) > 2 else "asr_kd/*.py"
            size = size_of(path)
            if top == "asr_kd":
                found[inside] = found[inside].plus(size)
            found[top] = found[top].plus(size)
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkouts", type=Path, nargs="*", default=[Path(__file__).parents[1]])
    checkouts = parser.parse_args().checkouts
    counted = [sizes(checkout) for checkout in checkouts]
    folders = sorted({name for one in counted for name in one}, key=lambda name: ("/" not in name, name))
    if not folders:
        sys.exit(f"no Python files in {', '.join(map(str, checkouts))}: expected the root of a checkout")
    columns = ("files", "lines", "code", "docstrings")
    print("| folder | " + " | ".join(columns) + " |")
    print("| :-- | " + " | ".join("--:" for _ in columns) + " |")
    for name in folders:
        rows = zip(*(one.get(name, Size()) for one in counted), strict=True)
        print(f"| `{name}` | " + " | ".join(" → ".join(f"{value:,}" for value in values) for values in rows) + " |")


if __name__ == "__main__":
    main()

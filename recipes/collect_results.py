"""Puts what a run measured into small JSON Lines that can be committed.

    python recipes/collect_results.py exp/an4 recipes/AN4/results

Writes rows.jsonl (a row for each system on each set, with its model and where the numbers come from), pairs.jsonl (a
row for each pair of students on each set, where there are several) and curves.jsonl (a row for each system and epoch).
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from asr_kd.evaluation.report import read_results
from asr_kd.files import write_text

CARRIED = ("seeds", "synthetic", "normalizer", "date", "command", "git_commit", "machine", "versions")


def rows(work_dir: Path) -> Iterator[dict[str, Any]]:
    """Every system on every set that was evaluated."""
    results = read_results(work_dir / "report")
    origin = {key: results["provenance"].get(key) for key in CARRIED}
    for test_set, found in results["test_sets"].items():
        if "skipped" in found:
            continue
        shared = {key: value for key, value in found.items() if not isinstance(value, dict | list)}
        for key, model in results["models"].items():
            if key in found:  # others' hypotheses need not be of every set
                errors = {name: value for name, value in found[key].items() if name != "by_speaker"}
                yield {"set": test_set, "system": key, "errors": errors, "model": model, "of_set": shared, **origin}


def pairs(work_dir: Path) -> Iterator[dict[str, Any]]:
    """Every pair of students on every set; none for a single pair, which stands in the rows."""
    for test_set, found in read_results(work_dir / "report")["test_sets"].items():
        compared = found.get("comparisons", [])
        yield from ({"set": test_set, **pair} for pair in compared if len(compared) > 1)


def curves(work_dir: Path) -> Iterator[dict[str, Any]]:
    """Every epoch of every teacher and student."""
    for path in sorted([*work_dir.glob("teachers/*/curve.jsonl"), *work_dir.glob("students/*/curve.jsonl")]):
        for line in path.read_text(encoding="utf-8").splitlines():
            yield {"system": path.parent.name, **json.loads(line)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work_dir", type=Path)
    parser.add_argument("destination", type=Path)
    arguments = parser.parse_args()
    for name, made in (("rows", rows), ("pairs", pairs), ("curves", curves)):
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in made(arguments.work_dir)]
        if name == "pairs" and not lines:
            continue
        write_text(arguments.destination / f"{name}.jsonl", "".join(lines))
        print(f"{arguments.destination / name}.jsonl: {len(lines)} rows")


if __name__ == "__main__":
    main()

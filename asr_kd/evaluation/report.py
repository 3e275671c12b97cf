"""The report's files: results.json, results.md and the hypotheses of every utterance.

results.json is written last, so that in a new folder its presence means that the rest is whole. Knows
nothing of how numbers were measured.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from asr_kd.errors import EvaluationError
from asr_kd.evaluation.results import Results, SetResult, SystemResult
from asr_kd.evaluation.summary import FORMAT, FORMAT_VERSION, summarize
from asr_kd.evaluation.tables import markdown
from asr_kd.files import atomic_folder, write_json, write_text

RESULTS, READABLE, HYPOTHESES = "results.json", "results.md", "hypotheses"


def write_report(results: Results, folder: Path) -> dict[str, Any]:
    """Write the report and return what results.json holds.

    Hypotheses of an earlier evaluation in the same folder are replaced.

    Raises:
        AsrKdError: the folder cannot be written or the disk is full.
    """
    summary = summarize(results)
    with atomic_folder(folder / HYPOTHESES) as partial:
        for name, found in results.sets.items():
            (partial / name).mkdir()
            for key, result in found.systems.items():
                lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in _hypothesis_rows(found, result)]
                (partial / name / f"{key}.jsonl").write_text("".join(lines), encoding="utf-8")
    write_text(folder / READABLE, markdown(summary))
    write_json(folder / RESULTS, summary)
    return summary


def read_results(folder: Path) -> dict[str, Any]:
    """Read a report's results.json.

    Raises:
        EvaluationError: missing, not JSON, or not written by this version of the format.
    """
    path = folder / RESULTS
    remedy = "Run the evaluate stage (again)"
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EvaluationError(
            f"cannot be read ({error})", where=path, expected="an evaluation's results", remedy=remedy
        ) from error
    found = (summary.get("format"), summary.get("version")) if isinstance(summary, dict) else type(summary).__name__
    if found != (FORMAT, FORMAT_VERSION):
        raise EvaluationError(f"is {found}", where=path, expected=f"{(FORMAT, FORMAT_VERSION)}", remedy=remedy)
    return summary


def _hypothesis_rows(found: SetResult, result: SystemResult) -> Iterator[dict[str, Any]]:
    """One utterance a row: both texts as they were scored, and as they were where the normalizer changed them."""
    for utterance_id, scored in result.score.utterances.items():
        words = scored.words
        row: dict[str, Any] = {
            "id": utterance_id,
            "speaker": found.speakers[utterance_id],
            "reference": scored.reference,
            "hypothesis": scored.hypothesis,
            "errors": {
                "substitutions": words.substitutions,
                "deletions": words.deletions,
                "insertions": words.insertions,
                "words": words.words,
            },
        }
        if found.references[utterance_id] != scored.reference:
            row["raw_reference"] = found.references[utterance_id]
        if result.hypotheses[utterance_id] != scored.hypothesis:
            row["raw_hypothesis"] = result.hypotheses[utterance_id]
        yield row

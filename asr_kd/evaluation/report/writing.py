"""Write the files of a report: results.json, results.md, results.tex, index.html, hypotheses and model cards.

Model cards are in the Hugging Face format: YAML with a model-index, then results, use, limits and origin. results.json
is written last, so that in a new folder its presence means that the rest is complete.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from asr_kd.evaluation.cells import escape, gap, interval, millions, percent, plain
from asr_kd.evaluation.report.assemble import assemble
from asr_kd.evaluation.report.evidence import Evidence
from asr_kd.evaluation.report.loading import HYPOTHESES, RESULTS, Report, rows_text
from asr_kd.evaluation.report.page import fill_text, page
from asr_kd.evaluation.report.text_renderers import latex, markdown
from asr_kd.evaluation.settings import ReportSettings
from asr_kd.evaluation.system import file_stem
from asr_kd.files import atomic_folder, register_files, write_json, write_text

READABLE, LATEX, PAGE, CARDS = "results.md", "results.tex", "index.html", "cards"


def write_report(
    report: Report, folder: Path, evidence: Sequence[Evidence] = (), settings: ReportSettings | None = None
) -> None:
    """Write the report.

    Hypotheses and cards of an earlier evaluation in the same folder are replaced.

    Raises:
        AsrKdError: the folder cannot be written or the disk is full.
    """
    document = assemble(report)
    register_files(folder, [READABLE, LATEX, PAGE, RESULTS])
    with atomic_folder(folder / HYPOTHESES, guard=True) as partial:
        for name, systems in report.rows.items():
            (partial / name).mkdir()
            for key, rows in systems.items():
                (partial / name / f"{file_stem(key)}.jsonl").write_text(rows_text(rows), encoding="utf-8")
    write_text(folder / READABLE, markdown(document))
    write_text(folder / LATEX, latex(document))
    write_cards(report, folder / CARDS)
    write_text(folder / PAGE, page(report, evidence, settings))
    write_json(folder / RESULTS, report.summary)


TASK = {"type": "automatic-speech-recognition", "name": "Automatic Speech Recognition"}


def write_cards(report: Report, folder: Path) -> None:
    """Write a card for every streaming system that this run trained, FOLDER/NAME.md; cards from before are replaced.

    Cards go into bundles, whose clients decode greedily: after a beam search none are written.
    """
    with atomic_folder(folder, guard=True) as partial:
        for key, model in report.summary["models"].items():
            if model.get("chunk_ms") and not model.get("external") and "decoding" not in model:
                (partial / f"{report.name(key)}.md").write_text(card(report, key), encoding="utf-8")


def card(report: Report, key: str) -> str:
    """The model card of a system, `assets/card.md` filled."""
    facts, model = report.summary["provenance"], report.summary["models"][key]
    dev_sets = ", ".join(map(escape, facts.get("dev_sets") or ()))
    known = {
        "Recipe": facts.get("recipe"),
        "Corpus": facts.get("corpus"),
        "Training utterances": model.get("training_utterances"),
        "Epochs": model.get("epochs"),
        "Seed": model.get("seed"),
        "Date": facts["date"],
        "Command": facts["command"],
        "Git commit": facts["git_commit"],
    }
    return fill_text(
        "card.md",
        front=yaml.safe_dump(metadata(report, key), sort_keys=False, allow_unicode=True, width=120),
        name=report.name(key),
        key=key,
        facts=facts,
        model=model,
        architecture=_architecture(model),
        size=f"{model['size_bytes'] / 1e6:.1f} MB of weights" if model["size_bytes"] else "weights of unknown size",
        sets={name: found for name, found in report.sets.items() if key in found},
        selected=f" Epochs were selected on {dev_sets}." if dev_sets else "",
        teachers=[
            (name, report.name(pair["teacher"]), pair)
            for name, found in report.sets.items()
            for pair in found["comparisons"]
            if pair["distilled"] == key and pair["teacher"] is not None
        ],
        origin={name: value for name, value in known.items() if value is not None},
        **{show.__name__: show for show in (escape, gap, interval, millions, percent, plain)},
    )


def metadata(report: Report, key: str) -> dict[str, Any]:
    """The card's front matter. No license or language, which depend on the recordings."""
    corpus = report.summary["provenance"].get("corpus") or "unknown"
    results = [
        {
            "task": dict(TASK),
            "dataset": {"name": f"{corpus} {name}", "type": _slug(corpus), "split": name},
            "metrics": [
                {"type": "wer", "value": round(100 * found[key]["wer"], 2), "name": "Word error rate, %"},
                {"type": "cer", "value": round(100 * found[key]["cer"], 2), "name": "Character error rate, %"},
            ],
        }
        for name, found in report.sets.items()
        if key in found
    ]
    tags = ["asr-kd", "ctc", _architecture(report.summary["models"][key]).lower(), "streaming", "sherpa-onnx"]
    distilled = any(pair["distilled"] == key for found in report.sets.values() for pair in found["comparisons"])
    return {
        "library_name": "sherpa-onnx",
        "pipeline_tag": "automatic-speech-recognition",
        "tags": [*tags, "knowledge-distillation"] if distilled else tags,
        "model-index": [{"name": report.name(key), "results": results}],
    }


def _architecture(model: Mapping[str, Any]) -> str:
    return str(model.get("architecture", "Conformer"))


def _slug(text: str) -> str:
    """A dataset's type, with letters, digits and - _ . only."""
    return "".join(symbol if symbol.isascii() and (symbol.isalnum() or symbol in "-_.") else "-" for symbol in text)

"""Write the files of a report: results.json, results.md, results.tex, index.html, hypotheses and model cards.

Model cards are in the Hugging Face format: YAML with a model-index, then results, use, limits and origin. results.json
is written last, so that in a new folder its presence means that the rest is complete.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from asr_kd.evaluation.cells import escape, gap, interval, millions, optional, percent, plain
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
    origin = {
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
        parameters=optional(model["parameters"], millions),
        size=f"{model['size_bytes'] / 1e6:.1f} MB of weights" if model["size_bytes"] else "weights of unknown size",
        sets={name: found for name, found in report.sets.items() if key in found},
        selected=f" Epochs were selected on {dev_sets}." if dev_sets else "",
        teachers=[(name, report.name(pair["teacher"]), pair) for name, pair in _pairs(report, key) if pair["teacher"]],
        origin={name: value for name, value in origin.items() if value is not None},
        **{show.__name__: show for show in (escape, gap, interval, percent, plain)},
    )


def metadata(report: Report, key: str) -> dict[str, Any]:
    """The card's front matter. No license or language, which depend on the recordings."""
    corpus = report.summary["provenance"].get("corpus") or "unknown"
    results = [
        {
            "task": {"type": "automatic-speech-recognition", "name": "Automatic Speech Recognition"},
            # A type has letters, digits and - _ . only.
            "dataset": {"name": f"{corpus} {name}", "type": re.sub(r"[^A-Za-z0-9_.-]", "-", corpus), "split": name},
            "metrics": [
                {"type": kind, "value": round(100 * found[key][kind], 2), "name": f"{title} error rate, %"}
                for kind, title in (("wer", "Word"), ("cer", "Character"))
            ],
        }
        for name, found in report.sets.items()
        if key in found
    ]
    tags = ["asr-kd", "ctc", _architecture(report.summary["models"][key]).lower(), "streaming", "sherpa-onnx"]
    return {
        "library_name": "sherpa-onnx",
        "pipeline_tag": "automatic-speech-recognition",
        "tags": [*tags, *(["knowledge-distillation"] if _pairs(report, key) else [])],
        "model-index": [{"name": report.name(key), "results": results}],
    }


def _architecture(model: Mapping[str, Any]) -> str:
    return str(model.get("architecture", "Conformer"))


def _pairs(report: Report, key: str) -> list[tuple[str, Mapping[str, Any]]]:
    """Test sets with the comparisons in which a system is the distilled one."""
    return [
        (name, pair) for name, found in report.sets.items() for pair in found["comparisons"] if pair["distilled"] == key
    ]

"""Write the files of a report: results.json, results.md, results.tex, index.html, hypotheses and model cards.

Model cards are in the Hugging Face format: YAML with a model-index, then results, use, limits and origin. results.json
is written last, so that in a new folder its presence means that the rest is complete.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from asr_kd.evaluation.cells import escape, gap, interval, millions, percent, pipe_table, plain
from asr_kd.evaluation.report.assemble import assemble
from asr_kd.evaluation.report.evidence import Evidence
from asr_kd.evaluation.report.loading import HYPOTHESES, RESULTS, Report, from_results, rows_text
from asr_kd.evaluation.report.page import page
from asr_kd.evaluation.report.text_renderers import latex, markdown
from asr_kd.evaluation.results import Results
from asr_kd.evaluation.results_json import summarize
from asr_kd.evaluation.system import file_stem
from asr_kd.files import atomic_folder, register_files, write_json, write_text

READABLE, LATEX, PAGE, CARDS = "results.md", "results.tex", "index.html", "cards"


def write_report(results: Results, folder: Path, evidence: Sequence[Evidence] = ()) -> dict[str, Any]:
    """Write the report and return the contents of results.json.

    Hypotheses and cards of an earlier evaluation in the same folder are replaced.


    Raises:
        AsrKdError: the folder cannot be written or the disk is full.
    """
    report = from_results(results, summarize(results))
    summary, document = dict(report.summary), assemble(report)
    register_files(folder, [READABLE, LATEX, PAGE, RESULTS])
    with atomic_folder(folder / HYPOTHESES, guard=True) as partial:
        for name, systems in report.rows.items():
            (partial / name).mkdir()
            for key, rows in systems.items():
                (partial / name / f"{file_stem(key)}.jsonl").write_text(rows_text(rows), encoding="utf-8")
    write_text(folder / READABLE, markdown(document))
    write_text(folder / LATEX, latex(document))
    write_cards(report, folder / CARDS)
    write_text(folder / PAGE, page(report, evidence, results.settings.report))
    write_json(folder / RESULTS, summary)
    return summary


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
    """The model card of a system."""
    front = yaml.safe_dump(metadata(report, key), sort_keys=False, allow_unicode=True, width=120)
    return f"---\n{front}---\n\n" + "\n\n".join(_sections(report, key)) + "\n"


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


def _sections(report: Report, key: str) -> list[str]:
    facts, model = report.summary["provenance"], report.summary["models"][key]
    parts = [f"# {escape(report.name(key))}", _described(model)]
    if facts["synthetic"]:
        parts.append("**Trained and measured on synthetic speech: these results do not apply to real speech.**")
    parts += ["## Results", _results(report, key), _measured(facts, model)]
    parts += _distillation(report, key)
    parts += [
        "## Use",
        "```bash\nasr-kd transcribe . recording.wav\n```\n\nsherpa-onnx reads `model.onnx` and "
        "`tokens.txt` as an online zipformer2 CTC model.",
        "## Limits",
        "Measured on the sets above only. Error rates may be much higher for other speakers, rooms, microphones "
        "and topics. Differences between groups of speakers have not been examined.",
        "## Where this comes from",
        _origin(facts, model),
    ]
    return parts


def _architecture(model: Mapping[str, Any]) -> str:
    return str(model.get("architecture", "Conformer"))


def _described(model: Mapping[str, Any]) -> str:
    size = f"{model['size_bytes'] / 1e6:.1f} MB of weights" if model["size_bytes"] else "weights of unknown size"
    return (
        f"A streaming {_architecture(model)} CTC model, {millions(model['parameters'])} parameters, {size}: chunks of "
        f"{model['chunk_ms']} ms with {model.get('left_context_ms')} ms of left context."
    )


def _results(report: Report, key: str) -> str:
    header = ("Set", "WER %", "95 % interval", "CER %", "Utterances")
    rows = [
        [
            name,
            percent(found[key]["wer"]),
            interval(found[key]["wer_low"], found[key]["wer_high"]),
            percent(found[key]["cer"]),
            str(found["utterances"]),
        ]
        for name, found in report.sets.items()
        if key in found
    ]
    return pipe_table(header, rows, left=1)


def _measured(facts: Mapping[str, Any], model: Mapping[str, Any]) -> str:
    looked_at = facts.get("dev_sets")
    chosen = f" Epochs were selected on {', '.join(map(escape, looked_at))}." if looked_at else ""
    decoding = escape(plain(model.get("decoding", "greedy")))
    return f"Decoding: {decoding}; normalizer: `{facts['normalizer']}`.{chosen}"


def _distillation(report: Report, key: str) -> list[str]:
    lines = [
        f"- {escape(name)}: distilled from {escape(report.name(pair['teacher']))}; gap recovered: {escape(gap(pair))}."
        for name, found in report.sets.items()
        for pair in found["comparisons"]
        if pair["distilled"] == key and pair["teacher"] is not None
    ]
    return ["## Distillation", "\n".join(lines)] if lines else []


def _origin(facts: Mapping[str, Any], model: Mapping[str, Any]) -> str:
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
    return "\n".join(f"- {name}: {escape(plain(value))}" for name, value in known.items() if value is not None)


def _slug(text: str) -> str:
    """A dataset's type, with letters, digits and - _ . only."""
    return "".join(symbol if symbol.isascii() and (symbol.isalnum() or symbol in "-_.") else "-" for symbol in text)

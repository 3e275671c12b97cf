"""Model cards in the Hugging Face format: YAML with a model-index, then results, use, limits and origin."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from asr_kd.evaluation.cells import escape, gap, interval, millions, percent, pipe_table, plain
from asr_kd.evaluation.report.loading import Report
from asr_kd.files import atomic_folder

TASK = {"type": "automatic-speech-recognition", "name": "Automatic Speech Recognition"}


def write_cards(report: Report, folder: Path) -> None:
    """Write a card for every streaming system that this run trained, FOLDER/NAME.md; cards from before are replaced."""
    with atomic_folder(folder, guard=True) as partial:
        for key in report.summary["models"]:
            if _has_card(report, key):
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
    tags = ["asr-kd", "ctc", "conformer", "streaming", "sherpa-onnx"]
    distilled = any(pair["distilled"] == key for found in report.sets.values() for pair in found["comparisons"])
    return {
        "library_name": "sherpa-onnx",
        "pipeline_tag": "automatic-speech-recognition",
        "tags": [*tags, "knowledge-distillation"] if distilled else tags,
        "model-index": [{"name": report.name(key), "results": results}],
    }


def _has_card(report: Report, key: str) -> bool:
    model = report.summary["models"][key]
    return bool(model.get("chunk_ms")) and not model.get("external")


def _sections(report: Report, key: str) -> list[str]:
    facts, model = report.summary["provenance"], report.summary["models"][key]
    parts = [f"# {escape(report.name(key))}", _described(model)]
    if facts["synthetic"]:
        parts.append("**Trained and measured on synthetic speech: these results say nothing about real speech.**")
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


def _described(model: Mapping[str, Any]) -> str:
    size = f"{model['size_bytes'] / 1e6:.1f} MB of weights" if model["size_bytes"] else "weights of unknown size"
    return (
        f"A streaming Conformer CTC model, {millions(model['parameters'])} parameters, {size}: chunks of "
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

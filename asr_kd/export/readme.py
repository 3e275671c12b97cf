"""A bundle's README.md (model card, facts, how to run it) and runnable examples.

Examples and how to run them are files of assets/, NAME.in, with the bundle's numbers in places marked ``@{name}``.
"""

import re
import textwrap
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from asr_kd.evaluation.cells import escape, percent
from asr_kd.features.fbank import SAMPLE_RATE
from asr_kd.models.layers import FRAME_SHIFT_MS
from asr_kd.models.settings import Streaming
from asr_kd.runtime.bundle import BPE_MODEL, DESCRIPTION, INT8, MODEL, PT2, TOKENS, BundleInfo, Latency

EXAMPLES = ("sherpa_onnx_file.py", "onnxruntime_file.py", "command_line.sh", "c_plus_plus.cc")
FOLDER, README = "examples", "README.md"
CLIENT_SPARE_MS = 50
"""Frames beyond the last chunk, which the client needs for its last step."""
PROGRAM_TAIL_MS = 800
"""Silence that the client's own program appends to a recording (2.0.1); no option changes it."""

FORMS = {
    MODEL: "float32, for sherpa-onnx and onnxruntime",
    INT8: "the same with 8-bit weights: smaller, and faster on a CPU",
    PT2: "float32, for torch (`torch.export.load`), with the same inputs and outputs",
}

SHORT_PROGRAM = (
    "The program's {program} ms are less than the {tail_ms} ms that this model may need: a last word may be missing "
    "unless the recording itself ends in silence."
)


class ScriptTemplate(Template):
    """A file with places marked ``@{name}``, which neither shells nor Python use."""

    delimiter = "@"


def write_readme(folder: Path, info: BundleInfo, card: str | None, own: Streaming | None = None) -> None:
    """Write README.md, with a model card or a short one, and, where there is an ONNX graph, examples/.

    `own` are the streaming settings of the model itself, to which its card refers; None: as the bundle.
    """
    parts = [(card or f"# {escape(info.name)}\n\n{_described(info)}").rstrip(), "## Files", _files(info)]
    parts.append(_facts(info, own or Streaming.model_validate(info.model.streaming)))
    if info.files.model is not None:
        numbers = _numbers(info)
        (folder / FOLDER).mkdir(exist_ok=True)
        for name in EXAMPLES:
            (folder / FOLDER / name).write_text(_filled(name, numbers), encoding="utf-8")
        parts.append(_filled("run_it.md", numbers).rstrip())
    (folder / README).write_text("\n\n".join(part for part in parts if part) + "\n", encoding="utf-8")


def _filled(name: str, numbers: dict[str, str]) -> str:
    """A file of assets/ with the bundle's numbers."""
    template = files("asr_kd.export").joinpath("assets", f"{name}.in").read_text(encoding="utf-8")
    return ScriptTemplate(template).substitute(numbers)


def _numbers(info: BundleInfo) -> dict[str, str]:
    streaming = info.streaming
    client_tail_ms = _client_tail_ms(info)
    numbers = {
        "chunk_ms": streaming.chunk_ms,
        "chunk_samples": streaming.chunk_ms * SAMPLE_RATE // 1000,
        "window_frames": streaming.context.window_feature_frames,
        "shift_frames": streaming.context.shift_feature_frames,
        "tail_samples": streaming.tail_ms * SAMPLE_RATE // 1000,
        "client_tail_ms": client_tail_ms,
        "client_tail_samples": client_tail_ms * SAMPLE_RATE // 1000,
    }
    graph = INT8 if info.files.int8 is not None else MODEL
    short = _short_program(info)
    words = {
        "name": re.sub(r"[^\w .,()-]", "_", info.name),  # it is part of comments in scripts
        "graph": graph,
        "stem": graph.removesuffix(".onnx"),
        "note": short and f" {short}",
        "program_note": "".join(f"\n# {line}" for line in textwrap.wrap(short, 116)),
    }
    return words | {key: str(number) for key, number in numbers.items()}


def _client_tail_ms(info: BundleInfo) -> int:
    """Silence after which the client has completed the last chunk and the last word."""
    streaming = info.streaming
    return streaming.tail_ms + streaming.chunk_ms + streaming.lookahead_ms + CLIENT_SPARE_MS


def _short_program(info: BundleInfo) -> str:
    tail_ms = _client_tail_ms(info)
    return SHORT_PROGRAM.format(program=PROGRAM_TAIL_MS, tail_ms=tail_ms) if tail_ms > PROGRAM_TAIL_MS else ""


def _described(info: BundleInfo) -> str:
    text = f"A streaming {info.model.architecture} CTC model, {info.num_parameters / 1e6:.2f} million parameters."
    if info.trace.wer:
        return text
    return f"{text} Its error rates with these chunks and greedy decoding, which clients use, were not measured."


def _files(info: BundleInfo) -> str:
    lines = ["| File | MB | SHA-256 | |", "| :-- | --: | :-- | :-- |"]
    for name, entry in info.files.graphs.items():
        lines.append(f"| `{name}` | {entry.size_bytes / 1e6:.2f} | `{entry.sha256}` | {FORMS[name]} |")
    rest = {TOKENS: (info.files.tokens, f"{info.vocabulary.size} tokens")}
    if info.files.bpe is not None:
        rest[BPE_MODEL] = (info.files.bpe, "the sentencepiece model of the subwords; not needed to run the model")
    for name, (entry, description) in rest.items():
        lines.append(f"| `{name}` | {entry.size_bytes / 1e6:.2f} | `{entry.sha256}` | {description} |")
    return "\n".join(lines)


def _facts(info: BundleInfo, own: Streaming) -> str:
    streaming, parity = info.streaming, info.parity
    lines = [
        f"Licence: {escape(info.licence or 'not stated')}.",
        f"Chunks of {streaming.chunk_ms} ms that look back {40 * streaming.left_context_frames} ms, and "
        f"{streaming.lookahead_ms} ms ahead, so a sound waits at most {streaming.latency_ms} ms for its step. After "
        f"the end of speech the model needs {streaming.tail_ms} ms of silence, in addition to completing the chunk.",
        f"Verified on {parity['utterances']} utterances ({parity['seconds']} s): log-probabilities within "
        f"{parity['graph_difference']:.1g} nats of the trained model's"
        + (f", the same transcripts from {parity['client']}." if parity["client"] else "."),
    ]
    if info.trace.wer:
        rates = ", ".join(f"{escape(name)} {percent(rate)} %" for name, rate in info.trace.wer.items())
        lines.append(f"Word error rate in float32: {rates}.")
    lines += _other_chunks(streaming, own)
    if parity.get("int8"):
        lines.append(_int8_is_near(parity))
    if info.int8_wer:
        lines.append(_int8_wer(info))
    lines.append(f"`{DESCRIPTION}` holds the same for programs, with the feature contract and all versions.")
    return "\n".join(f"- {line}" for line in lines)


def _other_chunks(streaming: Latency, own: Streaming) -> list[str]:
    """Notes on a bundle whose chunks differ from its model's own."""
    if streaming.context == own.context:
        return []
    trained = (
        "it was trained on these too" if streaming.context in own.train_contexts else "it was not trained on these"
    )
    right_ms = FRAME_SHIFT_MS * own.right_context_frames
    ahead = f", with {right_ms} ms of right context" if right_ms else ""
    return [
        f"The model's own chunks are of {FRAME_SHIFT_MS * own.chunk_frames} ms and look back "
        f"{FRAME_SHIFT_MS * own.left_context_frames} ms{ahead}; {trained}."
    ]


def _int8_is_near(parity: dict[str, Any]) -> str:
    found, utterances = parity["int8"], parity["utterances"]
    agreement = percent(found["best_token_agreement"])
    client = f"; {found['client']} gives the same as this project for {found['client_transcripts_equal']}"
    return (
        f"`{INT8}` is close to that, not equal: within {found['difference']:.2g} nats, the best token the same in "
        f"{agreement} % of frames, {found['transcripts_equal']} of {utterances} transcripts the same to the frame"
        f"{client if found['client'] else ''}. Where several of its streams share a step they share a scale, so a "
        f"stream's numbers depend on its neighbours: by up to {found['batch_difference']:.2g} nats, with "
        f"{found['batch_transcripts_equal']} of {utterances} transcripts as alone. `{MODEL}` is exact there."
    )


def _int8_wer(info: BundleInfo) -> str:
    found = info.int8_wer
    interval = ""
    if found["low"] is not None:
        interval = f" (95 % interval {100 * found['low']:+.2f} to {100 * found['high']:+.2f})"
    return (
        f"With 8-bit weights: {percent(found['wer_int8'])} % beside {percent(found['wer_fp32'])} % in float32, a "
        f"difference of {100 * found['difference']:+.2f} points{interval}, over {found['utterances']} utterances of "
        f"{found['speakers']} held-out speakers."
    )

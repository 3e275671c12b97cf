"""What a bundle says to people: README.md (a model card, then facts and how to run it) and runnable examples.

The examples are files of assets/, NAME.in, with the bundle's own numbers in the places marked ``@{name}``.
"""

from importlib.resources import files
from pathlib import Path
from string import Template

from asr_kd.evaluation.cells import escape, percent
from asr_kd.features.fbank import SAMPLE_RATE
from asr_kd.models.subsampling import FACTOR, feature_frames_for
from asr_kd.runtime.bundle import DESCRIPTION, INT8, MODEL, PT2, BundleInfo

EXAMPLES = ("sherpa_onnx_file.py", "onnxruntime_file.py", "command_line.sh", "c_plus_plus.cc")
FOLDER, README = "examples", "README.md"
CLIENT_SPARE_MS = 50
"""The client takes a step only when more than the window is there: some frames beyond the last chunk."""

SAYS = {
    MODEL: "float32, for sherpa-onnx and onnxruntime",
    INT8: "the same with its matrices as 8-bit integers: smaller, and faster on a CPU",
    PT2: "float32, for torch: `torch.export.load`, by the same inputs and outputs",
}

PHONES = """- Android: put `{graph}` and `tokens.txt` into `app/src/main/assets/` of `android/SherpaOnnx` in
  [k2-fsa/sherpa-onnx](https://github.com/k2-fsa/sherpa-onnx), and name them in an `OnlineModelConfig` with
  `zipformer2Ctc = OnlineZipformer2CtcModelConfig(model = "{graph}")`, `tokens = "tokens.txt"`.
- iOS: add both files to the bundle of `ios-swiftui/SherpaOnnx` there, and make its recognizer of
  `sherpaOnnxOnlineModelConfig(tokens:zipformer2Ctc:)` with
  `sherpaOnnxOnlineZipformer2CtcModelConfig(model: "{graph}")`.
- Features are made by the client. Give it audio at 16 kHz, and {tail_ms} ms of silence at the end of a recording."""


class Example(Template):
    """A file with places marked ``@{name}``: neither a shell's variables nor Python's braces."""

    delimiter = "@"


def write_readme(folder: Path, info: BundleInfo, card: str | None) -> None:
    """README.md and, where there is an ONNX graph, examples/.

    Args:
        folder: the bundle.
        info: what it holds.
        card: a model card, Markdown; None: a short one.
    """
    has_onnx = info.files.model is not None
    parts = [(card or f"# {escape(info.name)}\n\n{_described(info)}").rstrip(), "## Files", _files(info), _facts(info)]
    if has_onnx:
        numbers = _numbers(info)
        write_examples(folder, numbers)
        phones = PHONES.format(graph=numbers["graph"], tail_ms=numbers["client_tail_ms"])
        parts += ["## Run it", _runs(), phones]
    (folder / README).write_text("\n\n".join(part for part in parts if part) + "\n", encoding="utf-8")


def write_examples(folder: Path, numbers: dict[str, str]) -> None:
    """examples/, with these numbers in them."""
    (folder / FOLDER).mkdir(exist_ok=True)
    assets = files("asr_kd.export") / "assets"
    for name in EXAMPLES:
        text = Example((assets / f"{name}.in").read_text(encoding="utf-8")).substitute(numbers)
        (folder / FOLDER / name).write_text(text, encoding="utf-8")


def _numbers(info: BundleInfo) -> dict[str, str]:
    streaming = info.streaming
    client_tail_ms = streaming.tail_ms + streaming.chunk_ms + streaming.lookahead_ms + CLIENT_SPARE_MS
    numbers = {
        "chunk_ms": streaming.chunk_ms,
        "chunk_samples": streaming.chunk_ms * SAMPLE_RATE // 1000,
        "window_frames": feature_frames_for(streaming.chunk_frames),
        "shift_frames": FACTOR * streaming.chunk_frames,
        "tail_samples": streaming.tail_ms * SAMPLE_RATE // 1000,
        "client_tail_ms": client_tail_ms,
        "client_tail_samples": client_tail_ms * SAMPLE_RATE // 1000,
    }
    graph = INT8 if info.files.int8 is not None else MODEL
    return {"name": info.name, "graph": graph, **{key: str(number) for key, number in numbers.items()}}


def _described(info: BundleInfo) -> str:
    text = f"A streaming Conformer CTC model, {info.num_parameters / 1e6:.2f} million parameters."
    if info.trace.wer:
        return text
    return f"{text} It was exported without an evaluation beside it: what it is good at is not known here."


def _files(info: BundleInfo) -> str:
    lines = ["| File | MB | SHA-256 | |", "| :-- | --: | :-- | :-- |"]
    for name, entry in info.files.graphs.items():
        lines.append(f"| `{name}` | {entry.size_bytes / 1e6:.2f} | `{entry.sha256}` | {SAYS[name]} |")
    tokens = info.files.tokens
    lines.append(
        f"| `tokens.txt` | {tokens.size_bytes / 1e6:.2f} | `{tokens.sha256}` | {info.vocabulary.size} tokens |"
    )
    return "\n".join(lines)


def _facts(info: BundleInfo) -> str:
    streaming, parity = info.streaming, info.parity
    lines = [
        f"Licence: {escape(info.licence or 'not stated')}.",
        f"Chunks of {streaming.chunk_ms} ms that look back {40 * streaming.left_context_frames} ms, and "
        f"{streaming.lookahead_ms} ms ahead: a sound waits at most {streaming.latency_ms} ms for its step. After the "
        f"end of speech the model needs {streaming.tail_ms} ms of silence, on top of completing the chunk.",
        f"Verified on {parity['utterances']} utterances ({parity['seconds']} s): log-probabilities within "
        f"{parity['graph_difference']:.1g} nats of the trained model's"
        + (f", the same transcripts from {parity['client']}." if parity["client"] else "."),
    ]
    if info.trace.wer:
        rates = ", ".join(f"{escape(name)} {percent(rate)} %" for name, rate in info.trace.wer.items())
        lines.append(f"Word error rate: {rates}.")
    if info.int8_wer:
        lines.append(_int8(info))
    lines.append(f"`{DESCRIPTION}` says the same for programs, with the feature contract and all versions.")
    return "\n".join(f"- {line}" for line in lines)


def _int8(info: BundleInfo) -> str:
    found = info.int8_wer
    interval = ""
    if found["low"] is not None:
        interval = f" (95 % interval {100 * found['low']:+.2f} to {100 * found['high']:+.2f})"
    return (
        f"With 8-bit weights: {percent(found['wer_int8'])} % beside {percent(found['wer_fp32'])} % in float32, a "
        f"difference of {100 * found['difference']:+.2f} points{interval}, over {found['utterances']} utterances of "
        f"{found['speakers']} held-out speakers."
    )


def _runs() -> str:
    return (
        "```bash\n"
        f"python {FOLDER}/sherpa_onnx_file.py recording.wav    # sherpa-onnx in Python\n"
        f"sh {FOLDER}/command_line.sh recording.wav            # sherpa-onnx's program\n"
        f"python {FOLDER}/onnxruntime_file.py recording.wav    # onnxruntime alone\n"
        "asr-kd transcribe . recording.wav                    # this project\n"
        f"```\n\n`{FOLDER}/c_plus_plus.cc` does it in C++."
    )

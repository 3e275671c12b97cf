"""8-bit weights: onnxruntime's dynamic quantisation of MatMul and Gemm, and its word error rate beside float32.

Weights get one scale per output; activations are scaled by their range in every step. Convolutions stay float32:
as integers they are slower on a CPU. Streams that share a step share that range, so a stream's log-probabilities depend
on its neighbours, by about as much as 8-bit weights change them at all. A range per row avoids this and costs the time
that 8-bit weights save."""

import contextlib
import importlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from asr_kd.corpora.manifest import Utterance
from asr_kd.corpora.recordings import read_utterance
from asr_kd.errors import MissingExtraError
from asr_kd.evaluation.comparison import error_counts, word_counts
from asr_kd.evaluation.settings import EvaluationSettings
from asr_kd.progress import SILENT, Progress
from asr_kd.runtime.bundle import INT8, MODEL
from asr_kd.runtime.recognizer import open_recognizer
from asr_kd.scoring.significance import bootstrap_difference
from asr_kd.scoring.wer import score

QUANTISED = ("MatMul", "Gemm")


def write_int8(source: Path, path: Path) -> None:
    """Quantise an ONNX file; its metadata, inputs and outputs are unchanged.

    Args:
        source: a float32 graph.
        path: where to write; the caller makes the writing atomic.

    Raises:
        MissingExtraError: onnxruntime or onnx is not installed.
    """
    try:
        quantization: Any = importlib.import_module("onnxruntime.quantization")
    except ImportError as error:
        raise MissingExtraError("onnxruntime and onnx", "export") from error
    with _without_advice():
        quantization.quantize_dynamic(
            source,
            path,
            op_types_to_quantize=list(QUANTISED),
            per_channel=True,
            weight_type=quantization.QuantType.QInt8,
        )


@contextlib.contextmanager
def _without_advice() -> Iterator[None]:
    """Silence its advice to infer shapes first, which our graphs do not need."""
    logger = logging.getLogger()
    disabled = logger.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(disabled)


def compare_int8(folder: Path, utterances: Sequence[Utterance], progress: Progress = SILENT) -> dict[str, Any]:
    """Compare word error rates of a bundle's int8 and float32 graphs, with a paired interval over speakers.

    Utterances are transcribed one at a time, because streams of a batch share a scale.

    Args:
        folder: a bundle with both graphs.
        utterances: those without a reference are left out.
        progress: receives the number of finished utterances.

    Returns:
        wer_fp32, wer_int8 and difference (fractions), its 95 % interval low and high (None: one speaker only), and
        the numbers of utterances, words and speakers.

    Raises:
        BundleError: damaged, or without one of the two graphs.
        EvaluationError: no reference holds a word.
    """
    transcribed = {utterance.id: utterance for utterance in utterances if utterance.text is not None}
    graphs = {name: open_recognizer(folder / name) for name in (MODEL, INT8)}
    texts: dict[str, dict[str, str]] = {name: {} for name in graphs}
    for done, (utterance_id, utterance) in enumerate(transcribed.items(), start=1):
        waveform = read_utterance(utterance)
        for name, recognizer in graphs.items():
            texts[name][utterance_id] = recognizer.transcribe([waveform])[0]
        progress.update("int8 beside fp32", done, len(transcribed), "utterances")
    references = {utterance_id: utterance.text or "" for utterance_id, utterance in transcribed.items()}
    normalizer = EvaluationSettings().normalizer
    full, small = (score(references, texts[name], normalizer) for name in (MODEL, INT8))
    speakers = [utterance.speaker for utterance in transcribed.values()]
    several = len(set(speakers)) > 1
    found = bootstrap_difference(
        error_counts(small), error_counts(full), word_counts(full), groups=speakers if several else None
    )
    return {
        "wer_fp32": full.wer,
        "wer_int8": small.wer,
        "difference": found.value,
        "low": found.interval.low if found.interval else None,
        "high": found.interval.high if found.interval else None,
        "texts_equal": sum(texts[MODEL][utterance_id] == texts[INT8][utterance_id] for utterance_id in transcribed),
        "utterances": len(transcribed),
        "words": full.words.words,
        "speakers": len(set(speakers)),
        "resampled_by": "speakers" if several else "utterances",
        "normalizer": normalizer,
    }

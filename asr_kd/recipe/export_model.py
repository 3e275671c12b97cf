"""Export of one trained model without its recipe: names, rates and held-out speech come from its run, or are given."""

from collections.abc import Sequence
from pathlib import Path

from asr_kd.corpora.manifest import Utterance, read_manifest
from asr_kd.corpora.recordings import readable_utterances
from asr_kd.corpora.settings import FURTHER_SPEECH, UNTRANSCRIBED
from asr_kd.errors import BundleError, CheckpointError
from asr_kd.evaluation.cells import percent
from asr_kd.evaluation.report import CARDS, RESULTS, read_results
from asr_kd.evaluation.system_outputs import spread
from asr_kd.export.export_bundle import ExportSettings, Origin, bundle_places, export_bundle
from asr_kd.models.settings import Context
from asr_kd.models.weights import DESCRIPTION, load_model
from asr_kd.progress import SILENT, Progress
from asr_kd.runtime.bundle import BundleInfo

TRAINED_ON = {"train", UNTRANSCRIBED, FURTHER_SPEECH}
"""Manifests of a run that are not held out."""
VERIFIED_ON = 8
"""Utterances that a bundle is verified on, spread from the shortest to the longest."""


def export_model(
    folder: Path,
    out: Path | None,
    settings: ExportSettings,
    contexts: Sequence[Context] = (),
    speech: Sequence[Path] = (),
    progress: Progress = SILENT,
) -> dict[Path, BundleInfo]:
    """Export a model once for each context; return the bundles by folder.

    Args:
        folder: the model's, RUN/students/NAME/model, or RUN/students/NAME.
        out: folder of the bundle, or of the bundles' folders; None: RUN/export/NAME of the model's run.
        contexts: empty: the model's own.
        speech: manifests of held-out utterances; empty: all sets of the model's run but its training set.

    Raises:
        BundleError: no speech to verify on, no place to write to, or a bundle does not do what its model does.
        CheckpointError, CorpusError, MissingExtraError: as reading the parts raises them.
    """
    folder = _model_folder(folder)
    recipe = load_model(folder).card.get("recipe")
    above, name = folder.parent.parent.parent, folder.parent.name
    run = above if folder.name == "model" and (above / "manifests").is_dir() else None
    destination = out or (run / "export" / name if run is not None else None)
    if destination is None:
        raise BundleError(
            "is not in a run", where=folder, expected="RUN/students/NAME/model", remedy="Name a folder with --out"
        )
    held_out = _held_out(folder, run, speech)
    origin, sample = _origin(recipe, run, name, held_out), spread(held_out, VERIFIED_ON)
    return export_bundles(folder, destination, contexts, settings, sample, origin, progress)


def export_bundles(
    model: Path,
    destination: Path,
    contexts: Sequence[Context],
    settings: ExportSettings,
    sample: Sequence[Utterance],
    origin: Origin,
    progress: Progress,
) -> dict[Path, BundleInfo]:
    """Export a model once for each context, verify the bundles on a sample, and report them; see `bundle_places`."""
    waveforms = [waveform for _, waveform in readable_utterances(sample, progress)]
    if not waveforms:
        raise BundleError("none of the utterances to verify its bundle on can be read", where=model)
    found = {}
    for place, context in bundle_places(contexts, destination).items():
        chosen = settings.model_copy(update={"context": context or settings.context})
        found[place] = export_bundle(model, place, waveforms, origin=origin, settings=chosen, progress=progress)
        report_bundle(progress, place, found[place])
    return found


def contexts_of(folder: Path, chunks: Sequence[int], lefts: Sequence[int], rights: Sequence[int] = ()) -> list[Context]:
    """Return a context for each chunk; numbers are in frames. Empty where nothing is given.

    What is not given is the model's own. `lefts` and `rights` are empty, one number for all chunks, or one for each.
    """
    if not (chunks or lefts or rights):
        return []
    streaming = load_model(_model_folder(folder)).model.settings.streaming
    if streaming is None:
        raise CheckpointError("is a full-context model", where=folder, expected="a streaming one")
    chunks = list(chunks) or [streaming.chunk_frames]
    given = (list(lefts) or [streaming.left_context_frames], list(rights) or [streaming.right_context_frames])
    each = [frames * len(chunks) if len(frames) == 1 else frames for frames in given]
    return [Context(*numbers) for numbers in zip(chunks, *each, strict=True)]


def _model_folder(folder: Path) -> Path:
    inside = folder / "model"
    found = inside if not (folder / DESCRIPTION).is_file() and (inside / DESCRIPTION).is_file() else folder
    return found.resolve()


def _held_out(folder: Path, run: Path | None, speech: Sequence[Path]) -> list[Utterance]:
    own = sorted((run / "manifests").glob("*.jsonl")) if run is not None else []
    manifests = speech or [path for path in own if path.stem not in TRAINED_ON]
    found = [utterance for path in manifests for utterance in read_manifest(path) if utterance.text is not None]
    if not found:
        raise BundleError(
            "there is no speech to verify its bundle on",
            where=folder,
            expected="a run's held-out sets beside it, or a manifest",
            remedy="Name one with --speech",
        )
    return found


def _origin(recipe: str | None, run: Path | None, name: str, held_out: Sequence[Utterance]) -> Origin:
    """Name, error rates and model card from the run's report, where there is one."""
    if run is None or not (run / "report" / RESULTS).is_file():
        return Origin(recipe=recipe, name=name, held_out=held_out)
    rates, card = greedy_rates(run / "report", name)
    normalizer = read_results(run / "report")["provenance"]["normalizer"]
    return Origin(recipe=recipe, name=name, wer=rates, card=card, held_out=held_out, normalizer=normalizer)


def greedy_rates(report: Path, name: str) -> tuple[dict[str, float], str | None]:
    """Return a model's word error rate by test set, and its card, of the evaluation in `report`, if any.

    Nothing where it was decoded by a beam search.
    """
    if not (report / RESULTS).is_file():
        return {}, None
    results, card = read_results(report), report / CARDS / f"{name}.md"
    models = results["models"].items()
    keys = [key for key, model in models if model.get("name", key) == name and "decoding" not in model]
    rates = {
        test_set: rows[key]["wer"] for test_set, rows in results["test_sets"].items() for key in keys if key in rows
    }
    return rates, card.read_text(encoding="utf-8") if rates and card.is_file() else None


def report_bundle(progress: Progress, folder: Path, info: BundleInfo) -> None:
    """Report a bundle's folder, chunks, forms and sizes, and the WER of 8-bit weights where it was measured."""
    forms = ", ".join(f"{name} {entry.size_bytes / 1e6:.1f} MB" for name, entry in info.files.graphs.items())
    wer = info.int8_wer
    cost = f"; WER {percent(wer['wer_int8'])} % with 8-bit weights, {percent(wer['wer_fp32'])} % without" if wer else ""
    progress.message(
        f"  {folder}: computes what its model computes, {info.streaming.described}, {forms}{cost}; see its README.md"
    )
    if not info.trace.trained:
        progress.message(
            f"  its model was not trained with {info.streaming.described}: words may be wrong. Measure it with "
            "evaluate.matrix before use"
        )
    elif not info.trace.wer:
        progress.message("  its error rates with these chunks and greedy decoding were not measured")

"""Evaluation sets and the models of a recipe's `hypotheses`: dev sets that they label, and their own outputs."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from asr_kd.corpora.corpus import PreparedCorpus
from asr_kd.corpora.manifest import Utterance
from asr_kd.corpora.settings import FolderSettings
from asr_kd.errors import CorpusError, TargetsError
from asr_kd.files import json_lines, loads_json, write_text
from asr_kd.recipe.context import RunContext, store_sha256
from asr_kd.recipe.pseudo_labels import FILTERS_FILE, reading_scorer
from asr_kd.recipe.settings import Recipe
from asr_kd.recipe.system_settings import transcripts_task_names
from asr_kd.recipe.teachers import source_hashes, source_in_key
from asr_kd.targets.hypotheses import HYPOTHESES_INDEX, HypothesisStore
from asr_kd.targets.pseudo_labelling import read_out
from asr_kd.targets.storage import Storage, open_storage
from asr_kd.targets.whisper_transcripts import TRANSCRIPTS_INDEX, read_transcripts


def labelled_sets(recipe: Recipe) -> tuple[str, ...]:
    """Evaluation sets without transcripts, whose references are the recipe's first pseudo-labels."""
    return ("dev",) if isinstance(recipe.corpus, FolderSettings) and not recipe.corpus.dev else ()


def utterances_to_pseudo_label(context: RunContext) -> list[Utterance]:
    """The training set and the dev sets without transcripts."""
    corpus, _ = context.read_corpus()
    return [*corpus.train, *(u for name in labelled_sets(context.recipe) for u in corpus.sets[name])]


def evaluated_corpus(context: RunContext) -> PreparedCorpus:
    """The corpus, with pseudo-labels as the transcripts of dev sets that have none.

    Raises:
        CorpusError: none of the utterances of such a set has a pseudo-label.
        AsrKdError: prepare or extract has not run.
    """
    corpus, _ = context.read_corpus()
    names = labelled_sets(context.recipe)
    if not names:
        return corpus
    store = HypothesisStore.open(context.stored_at(_first_labels(context)))
    sets = dict(corpus.sets)
    for name in names:
        sets[name] = [replace(u, text=store[u.id][0].text) for u in corpus.sets[name] if store.get(u.id)]
        if not sets[name]:
            raise CorpusError(
                f"no utterance of the set {name!r} has a pseudo-label that passed the filters",
                where=str(context.stored_at(_first_labels(context))),
                expected="at least one",
                remedy="Raise corpus.held_out_share, loosen the filters, or name transcribed manifests: corpus.dev",
            )
    return replace(corpus, sets=sets)


def dev_label_hashes(context: RunContext) -> list[str]:
    """The identity of the pseudo-labels that dev sets have in place of transcripts; empty where they have some."""
    if not labelled_sets(context.recipe):
        return []
    return [store_sha256(context.stored_at(_first_labels(context)), HYPOTHESES_INDEX)]


def utterances_to_transcribe(context: RunContext) -> list[Utterance]:
    """The evaluation utterances with transcripts."""
    corpus, _ = context.read_corpus()
    left_out = labelled_sets(context.recipe)
    return [u for name, members in corpus.sets.items() if name not in left_out for u in members if u.text is not None]


def evaluating_models(context: RunContext) -> list[str]:
    """Names of the pseudo-labels whose models are systems of the report."""
    chosen = [name for name, settings in context.recipe.hypotheses.items() if settings.evaluate]
    return [name for name in chosen if TRANSCRIPTS_INDEX in open_storage(_outputs(context, name)).sizes()]


def model_outputs(context: RunContext, folder: Path) -> dict[str, Path]:
    """Write each evaluating model's transcripts, in the reading that its labels have, into `folder`; name → file."""
    normalizer = context.recipe.vocabulary.normalizer
    utterances = utterances_to_transcribe(context)
    files = {}
    for name in evaluating_models(context):
        settings = context.recipe.hypotheses[name]
        scorer = reading_scorer(settings, normalizer)
        _, found = read_transcripts(_outputs(context, name))
        rows = [
            {"id": u.id, "text": read_out(u, found[u.id].text, settings, normalizer, scorer)}
            for u in utterances
            if u.id in found
        ]
        files[name] = folder / f"{name}.jsonl"
        write_text(files[name], json_lines(rows))
    return files


def model_output_hashes(context: RunContext) -> list[Any]:
    """The identity of what `model_outputs` writes."""
    hashes: list[Any] = []
    for name in evaluating_models(context):
        settings = context.recipe.hypotheses[name]
        readings = settings.model_dump(mode="json", include={"verbalize", "reading_model", "language"})
        if settings.reading_model is not None:
            readings["reading_model"] = source_in_key(context, settings.reading_model)
        model = source_hashes(context, [settings.reading_model])
        hashes.append([name, readings, store_sha256(_outputs(context, name), TRANSCRIPTS_INDEX), *model])
    return hashes


def label_reports(context: RunContext) -> dict[str, dict[str, Any]]:
    """Pseudo-labels by name: their source, the yield of every filter, and the sets that they are references of.

    Raises:
        TargetsError: the file of the yields is damaged.
    """
    found = {}
    for number, (name, settings) in enumerate(context.recipe.hypotheses.items()):
        place = open_storage(context.stored_at(context.hypotheses_folder(name)))
        if FILTERS_FILE in place.sizes():
            sets = labelled_sets(context.recipe) if number == 0 else ()
            kept = _yields(place)
            found[name] = {"source": settings.source, **kept, "references_of": list(sets)}
    return found


def _yields(place: Storage) -> dict[str, Any]:
    try:
        content = loads_json(place.read(FILTERS_FILE))
        return {key: content[key] for key in ("steps", "from_transcripts")}
    except (ValueError, KeyError, TypeError) as error:
        raise TargetsError(
            f"cannot be read ({error!r})",
            where=f"{place}/{FILTERS_FILE}",
            expected="the yield of each filter",
            remedy="Make these labels again (asr-kd extract --only NAME --force)",
        ) from error


def _first_labels(context: RunContext) -> Path:
    return context.hypotheses_folder(next(iter(context.recipe.hypotheses)))


def _outputs(context: RunContext, name: str) -> str:
    """Where the transcripts of the evaluation sets by the model of `hypotheses.NAME` lie."""
    _, task = transcripts_task_names(name)
    return f"{context.stored_at(context.folder('transcripts', task))}/1"

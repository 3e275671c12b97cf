"""`asr-kd init`: look at a folder of speech and write a recipe for it."""

import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from asr_kd.corpora.an4 import find_an4
from asr_kd.corpora.corpus import balanced_folds, shuffled
from asr_kd.corpora.folder import audio_files
from asr_kd.corpora.formats.catalogue import complete, named_sets, read_table
from asr_kd.corpora.manifest import Utterance, hours, read_manifest, write_manifest
from asr_kd.corpora.settings import LIBRISPEECH_SPLITS, LibriSpeechSettings
from asr_kd.errors import CorpusError, RecipeError
from asr_kd.files import atomic_path
from asr_kd.progress import SILENT, Progress
from asr_kd.recipe.folder_utterances import utterances_in
from asr_kd.recipe.pseudo_labels import pseudo_label
from asr_kd.recipe.recipe_text import FoundCorpus, Start, render_recipe
from asr_kd.targets.hypotheses import HypothesisStore
from asr_kd.targets.pseudo_labelling import PREFIX, PseudoLabelSettings
from asr_kd.text.normalize import Normalizer, letters_beyond_english, normalize

PARTS = ("train", "dev", "test")
HELD_OUT_HOURS = 1.0
"""Most of the speech that dev and test are each given."""
FOLDS = 10
"""Dev and test are each a tenth, or less of a large corpus."""
WORDS_FOR_SUBWORDS = 5_000
"""Fewest words of transcripts from which subwords are learned."""
ENGLISH = "ABCDEFGHIJKLMNOPQRSTUVWXYZ'"


def write_recipe(
    folder: Path,
    target: Path | None = None,
    progress: Progress = SILENT,
    whisper: str = "openai/whisper-base",
    language: str = "en",
    start: Start | None = None,
) -> Path:
    """Write a recipe for a folder of speech, and manifests beside it where the folder has no sets of its own.

    Args:
        folder: a corpus, manifests, or audio at any depth with or without transcripts (see `utterances_in`).
        target: the recipe; None: `folder`'s name in the working folder.
        whisper: transcribes a dev set, and in the run the training set, of audio without transcripts.
        language: of the speech, by Whisper's code.
        start: first weights of the student; None: Whisper's where there are no transcripts, which needs Whisper anyway.

    Raises:
        CorpusError: no such folder, no speech in it, or it cannot be divided.
        RecipeError: the recipe or the folder for its manifests exists already.
        MissingExtraError: audio without transcripts needs the extra `whisper`.
    """
    if not folder.is_dir():
        raise CorpusError("no such folder", where=folder, expected="a folder of speech")
    recipe = target or Path(f"{folder.absolute().name}.yaml")
    manifests = recipe.with_name(f"{recipe.stem}-manifests")
    if recipe.exists():
        raise RecipeError("exists already", where=recipe, expected="a new name", remedy="Name another recipe file")
    if manifests.exists():  # the recipe is written last
        raise RecipeError(
            f"exists already, without {recipe.name}",
            where=manifests,
            expected="a new name",
            remedy="Delete the folder if it is of an init that was killed, or name another recipe file",
        )
    try:
        corpus = (
            _known_layout(folder) or _named_manifests(folder) or _divided(utterances_in(folder, progress), manifests)
        )
        if not corpus.transcribed:
            corpus = _with_whisper_dev(corpus, manifests, progress, whisper, language)
    except BaseException:
        shutil.rmtree(manifests, ignore_errors=True)  # begun here: the same command must work when its cause is gone
        raise
    with atomic_path(recipe) as partial:
        partial.write_text(render_recipe(recipe.stem, folder, corpus, whisper, language, start), encoding="utf-8")
    progress.message(f"{folder}: {corpus.found}, {corpus.train_hours:.2f} hours for training")
    for note in corpus.notes:
        progress.message(f"  {note}")
    return recipe


def _known_layout(folder: Path) -> FoundCorpus | None:
    splits = [split for split in LIBRISPEECH_SPLITS if (folder / split).is_dir()]
    train = [split for split in splits if split.startswith("train-")]
    dev = [split for split in splits if split.startswith("dev-")]
    if train and dev:
        settings = LibriSpeechSettings(root=folder, train=train, dev=dev)
        found = [path for split in train for path in audio_files(folder / split, (".flac", ".wav", ".ogg", ".opus"))]
        corpus = {**settings.model_dump(mode="json", include={"kind", "train", "dev", "test"}), "root": str(folder)}
        return FoundCorpus(corpus, f"LibriSpeech's layout, {', '.join(splits)}", len(found) * 12 / 3600, subwords=True)
    try:
        an4 = find_an4(folder)
    except CorpusError:
        return None
    return FoundCorpus({"kind": "an4", "root": str(an4)}, "AN4", 0.8)


def _named_manifests(folder: Path) -> FoundCorpus | None:
    """Manifests of sets; that of test may be missing."""
    sets = named_sets(folder)
    if "train" not in sets or "dev" not in sets:
        return None
    recordings = {name: read_table(path, "auto").recordings for name, path in sets.items()}
    train, _ = complete(recordings["train"], "refuse")
    texts = [u.text for u in train if u.text]
    if not texts:
        return None
    all_texts = [recording.text for members in recordings.values() for recording in members if recording.text]
    corpus: dict[str, object] = {"kind": "manifest", "train": str(sets["train"]), "dev": str(sets["dev"])}
    if "test" in sets:
        corpus["test"] = {"test": str(sets["test"])}
    return FoundCorpus(
        corpus,
        f"manifests of {', '.join(sets)}",
        hours(train),
        normalizer=_normalizer(all_texts),
        alphabet=_alphabet(all_texts),
        subwords=_enough_for_subwords(texts),
    )


def _divided(utterances: Sequence[Utterance], manifests: Path) -> FoundCorpus:
    """Write train, dev and test manifests of disjoint speakers, or of disjoint utterances where speakers are few."""
    texts = [u.text for u in utterances if u.text]
    transcribed = len(texts) > len(utterances) / 2
    notes: list[str] = []
    if transcribed:
        normalizer = _normalizer(texts)
        kept = [u for u in utterances if u.text and normalize(u.text, normalizer)]
        if left_out := len(utterances) - len(kept):
            notes.append(f"{left_out} without a transcript {'is' if left_out == 1 else 'are'} left out")
        utterances = kept
    by_speaker = len({u.speaker for u in utterances}) >= len(PARTS)
    group = {u.id: u.speaker if by_speaker else u.id for u in utterances}
    if len(set(group.values())) < len(PARTS):
        raise CorpusError(
            f"{len(utterances)} recordings cannot be divided into train, dev and test",
            where=manifests.parent,
            expected="at least three",
        )
    seconds: Counter[str] = Counter()
    for u in utterances:
        seconds[group[u.id]] += max(1, round(u.duration))
    count = min(len(seconds), max(FOLDS, round(hours(utterances) / HELD_OUT_HOURS)))
    folds = sorted(balanced_folds(seconds, count, seed=0), key=lambda fold: sum(seconds[name] for name in fold))
    held = {"dev": folds[0], "test": folds[1] if transcribed else set()}
    sets: dict[str, list[Utterance]] = {part: [] for part in PARTS}
    for u in sorted(utterances, key=lambda u: shuffled(u.id, 0)):
        sets[next((part for part, names in held.items() if group[u.id] in names), "train")].append(u)
    manifests.mkdir(parents=True)
    corpus: dict[str, object] = {"kind": "manifest"}
    for part, members in sets.items():
        if members:
            path = manifests / f"{part}.jsonl"
            write_manifest(path, sorted(members, key=lambda u: u.id))
            corpus[part] = {"test": str(path)} if part == "test" else str(path)
    sizes = ", ".join(f"{part} {len(members)}" for part, members in sets.items() if members)
    kind = "transcribed recordings" if transcribed else "recordings without transcripts"
    if not by_speaker:
        notes.append("fewer than three speakers are named: the sets share them, and WER is optimistic")
    return FoundCorpus(
        corpus,
        f"{len(utterances)} {kind} ({sizes})",
        hours(sets["train"]),
        transcribed,
        _normalizer(texts),
        _alphabet(texts) if transcribed else None,
        subwords=transcribed and _enough_for_subwords(texts),
        notes=tuple(notes),
    )


def _with_whisper_dev(
    corpus: FoundCorpus, manifests: Path, progress: Progress, whisper: str, language: str
) -> FoundCorpus:
    """Transcribe the dev set with Whisper: training needs one for its choices."""
    path = manifests / "dev.jsonl"
    normalizer: Normalizer = "librispeech" if language == "en" else "unicode"
    labels = manifests / "dev-labels"
    settings = PseudoLabelSettings(source=PREFIX + whisper.removeprefix(PREFIX), language=language)
    pseudo_label(path, settings, labels, progress, normalizer)
    store = HypothesisStore.open(labels)
    dev = [replace(u, text=store[u.id][0].text) for u in read_manifest(path) if u.id in store]
    if not dev:
        raise CorpusError("Whisper found no speech in the dev set", where=path, expected="recordings of speech")
    write_manifest(path, dev)
    letters = sorted({character for u in dev for character in u.text or "" if not character.isspace()})
    note = (
        f"dev is transcribed by {whisper}, so its WER is the distance to Whisper: correct {path} by hand where you can"
    )
    return replace(
        corpus,
        normalizer=normalizer,
        alphabet=ENGLISH if language == "en" else "".join(letters),
        notes=(*corpus.notes, note),
    )


def _normalizer(texts: Sequence[str]) -> Normalizer:
    return "unicode" if letters_beyond_english(texts) else "librispeech"


def _alphabet(texts: Sequence[str]) -> str:
    """All characters of the transcripts of all sets: a letter of dev alone must be in the vocabulary too."""
    normalizer = _normalizer(texts)
    found = {character for text in texts for character in normalize(text, normalizer) if not character.isspace()}
    english = ENGLISH if normalizer == "librispeech" else ""
    return english + "".join(sorted(found - set(english)))


def _enough_for_subwords(texts: Sequence[str]) -> bool:
    return sum(len(text.split()) for text in texts) >= WORDS_FOR_SUBWORDS

"""Speech beside a corpus: untranscribed audio for students, and further transcribed speech for teachers."""

from collections.abc import Sequence
from dataclasses import replace

from asr_kd.corpora.corpus import PreparedCorpus
from asr_kd.corpora.folder import list_folder
from asr_kd.corpora.manifest import Utterance
from asr_kd.corpora.prepare import Listing, check_sets, cut
from asr_kd.corpora.recordings import Exclusion
from asr_kd.corpora.settings import FURTHER_SPEECH, UNTRANSCRIBED, FurtherSpeechSettings, UntranscribedSettings
from asr_kd.progress import SILENT, Progress


def add_untranscribed(
    corpus: PreparedCorpus,
    settings: UntranscribedSettings,
    progress: Progress = SILENT,
    *,
    max_excluded_share: float | None = None,
) -> PreparedCorpus:
    """Add untranscribed audio to a corpus, cut where it is long; audio of the corpus itself is excluded.

    Raises:
        CorpusError: no such folder, no audio in it, or too much of it is unusable.
    """
    recordings = [recording for folder in settings.folders for recording in list_folder(folder, settings)]
    listing = Listing("folder", settings.folders[0], {UNTRANSCRIBED: recordings}, remedy=_remedy(UNTRANSCRIBED))
    others, excluded = _measured(corpus, listing, settings, max_excluded_share)
    extra, unusable = cut(others, settings, listing, progress)
    excluded += unusable
    check_sets({**corpus.manifests, UNTRANSCRIBED: extra}, excluded, listing.place)
    return replace(corpus, untranscribed=extra, excluded=[*corpus.excluded, *excluded])


def add_further_speech(
    corpus: PreparedCorpus, settings: FurtherSpeechSettings, *, max_excluded_share: float | None = None
) -> PreparedCorpus:
    """Add transcribed speech that teachers alone are trained on; audio of the corpus itself is excluded.

    Raises:
        CorpusError: a manifest that cannot be read, an empty one, or too much of it is unusable.
    """
    listing = Listing("manifest", settings.manifests[0], remedy=_remedy(FURTHER_SPEECH))
    for path in settings.manifests:
        listing.add_manifest(FURTHER_SPEECH, path, settings)
    others, excluded = _measured(corpus, listing, settings, max_excluded_share)
    check_sets({**corpus.manifests, FURTHER_SPEECH: others}, excluded, listing.place)
    return replace(corpus, further_speech=others, excluded=[*corpus.excluded, *excluded])


def _remedy(section: str) -> str:
    """The way out of too much unusable audio, with the key that counts: that of the recipe's own section."""
    return f"Correct the folders, manifests or files, or raise {section}.max_excluded_share to go on without them"


def _measured(
    corpus: PreparedCorpus,
    listing: Listing,
    settings: UntranscribedSettings | FurtherSpeechSettings,
    max_excluded_share: float | None,
) -> tuple[list[Utterance], list[Exclusion]]:
    """The one set of a listing with durations, without audio of the corpus; and what is left out."""
    listing.limits(settings)
    if max_excluded_share is not None:
        listing.max_excluded_share = max_excluded_share
    measured, excluded = listing.measure()
    (members,) = measured.values()
    own = {utterance.audio.resolve() for utterance in corpus.utterances}
    known: Sequence[Utterance] = [utterance for utterance in members if utterance.audio.resolve() in own]
    others = [utterance for utterance in members if utterance.audio.resolve() not in own]
    return others, [*excluded, *(Exclusion.of(u, "is audio of the corpus itself") for u in known)]

"""From utterances to batches: audio read, features cached, tokens, soft targets and hypotheses beside them.

What cannot be read is handed on by name, for the trainer to count and list. Knows nothing of models.

Shapes: B utterances, T feature frames, F mel bins, U tokens, K kept entries.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from asr_kd.audio import SAMPLE_RATE
from asr_kd.corpora.manifest import Utterance
from asr_kd.corpora.recordings import read_utterance
from asr_kd.errors import AudioError
from asr_kd.features.fbank import FRAME_SHIFT_SAMPLES, fbank, num_frames, pad_batch
from asr_kd.features.waveform_augment import VOICES, Perturbation, Sound, augment_waveform
from asr_kd.losses import Hypotheses, References
from asr_kd.losses.base import hypotheses_of
from asr_kd.models.subsampling import output_len
from asr_kd.posteriors.occupancy import POOLED
from asr_kd.posteriors.types import SoftTargets, SparsePosteriors, collate
from asr_kd.targets.pooled import read_pooled
from asr_kd.targets.store import Store
from asr_kd.targets.variants import variant_name, variant_of
from asr_kd.training.batch_sampler import Draw
from asr_kd.training.cache import MemoryCache
from asr_kd.training.pseudo_labels import WeightedHypothesis, collate_hypotheses


class Unreadable(NamedTuple):
    """An utterance that could not be read, and why."""

    id: str
    audio: str
    reason: str


@dataclass(frozen=True)
class Example:
    """One utterance, ready to be put into a batch."""

    id: str
    features: Tensor  # [T, F]
    audio_frames: int  # feature frames before appended silence
    tokens: list[int] | None  # None: there is no transcript, and the teacher alone teaches
    targets: SparsePosteriors | None
    taught: Sequence[WeightedHypothesis] = ()  # hypotheses of a teacher
    arrays: Mapping[str, Tensor] = field(default_factory=dict)  # named arrays of the store, [n, …] each


@dataclass(frozen=True)
class Batch:
    """What a training step sees."""

    ids: list[str]
    features: Tensor  # [B, T, F], padded with zeros
    feature_lens: Tensor  # [B] int64
    audio_lens: Tensor  # [B] int64: feature frames that are not appended silence
    references: References
    targets: SoftTargets | None
    unreadable: list[Unreadable] = field(default_factory=list)
    hypotheses: Hypotheses | None = None
    arrays: Mapping[str, Tensor] = field(default_factory=dict)  # [B, n, …] each, padded with zeros
    untranscribed: tuple[int, ...] = ()  # rows without a transcript

    def to(self, device: torch.device) -> "Batch":
        """The same batch on a device; from pinned memory the copy does not wait.

        Lengths, and which utterance a hypothesis belongs to, stay on the host: a GPU would be waited for at each look.
        """
        moved = self._each(lambda part: part.to(device, non_blocking=True))
        hypotheses = self.hypotheses
        if hypotheses is not None and moved.hypotheses is not None:
            hypotheses = hypotheses._replace(tokens=moved.hypotheses.tokens)
        return replace(
            moved,
            feature_lens=self.feature_lens,
            audio_lens=self.audio_lens,
            references=moved.references._replace(lens=self.references.lens),
            targets=self.targets and moved.targets and moved.targets._replace(lens=self.targets.lens),
            hypotheses=hypotheses,
        )

    def pin_memory(self) -> "Batch":
        """The same batch in memory that a GPU reads by itself; a DataLoader with `pin_memory` calls this."""
        return self._each(Tensor.pin_memory)

    def pieces(self, count: int) -> "list[Batch]":
        """The batch in so many pieces of about as many utterances, each with the batch's padding."""
        if count == 1:
            return [self]
        rows = list(range(len(self.ids)))
        return [self._rows(rows[number::count]) for number in range(count) if rows[number::count]]

    def _rows(self, rows: list[int]) -> "Batch":
        hypotheses = hypotheses_of(self.hypotheses, rows, len(self.ids)) if self.hypotheses is not None else None
        piece = replace(self, hypotheses=None)._each(lambda part: part[rows])
        untranscribed = tuple(number for number, row in enumerate(rows) if row in self.untranscribed)
        ids = [self.ids[row] for row in rows]
        return replace(piece, ids=ids, unreadable=[], hypotheses=hypotheses, untranscribed=untranscribed)

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        targets = self.targets
        if targets is not None:
            posteriors = SparsePosteriors(*(change(part) for part in targets.posteriors))
            targets = SoftTargets(posteriors, change(targets.lens))
        return replace(
            self,
            features=change(self.features),
            feature_lens=change(self.feature_lens),
            audio_lens=change(self.audio_lens),
            references=References(*(change(part) for part in self.references)),
            targets=targets,
            hypotheses=Hypotheses(*(change(part) for part in self.hypotheses)) if self.hypotheses is not None else None,
            arrays={name: change(array) for name, array in self.arrays.items()},
        )


class SpeechDataset(Dataset[Example | Unreadable]):
    """Utterances as examples. An item is asked for by a `Draw`.

    Args:
        utterances: what to read.
        tokens: the reference of each, in the same order; empty where none is needed, None where there is none.
        max_silence_seconds: the most silence any draw asks for.
        cache_mb: memory for features, and for what is read from the store.
        store: soft targets, when the objective needs them from there.
        taught: a teacher's hypotheses of each utterance, when the objective needs them.
        arrays: names of further arrays of the store that the objective needs.
        perturb: how the sound of those draws is disturbed that say so.
        versions: what the versions sound like that draws may name.
        features: of a waveform [S], [T, F] with T = `num_frames(S)`.
    """

    def __init__(
        self,
        utterances: Sequence[Utterance],
        tokens: Sequence[list[int] | None],
        max_silence_seconds: float,
        cache_mb: int,
        store: Store | None = None,
        taught: Sequence[Sequence[WeightedHypothesis]] | None = None,
        arrays: Sequence[str] = (),
        perturb: Perturbation | None = None,
        versions: Mapping[str, Sound] | None = None,
        features: Callable[[Tensor], Tensor] = fbank,
    ) -> None:
        self.utterances, self.tokens, self.store, self.taught = utterances, tokens, store, taught
        self._arrays, self._perturb, self._versions = arrays, perturb, versions or {}
        self._compute = features
        self._silence_samples = round(max_silence_seconds * SAMPLE_RATE) + FRAME_SHIFT_SAMPLES
        self._cache = MemoryCache(cache_mb)

    def __len__(self) -> int:
        return len(self.utterances)

    def __getitem__(self, draw: Draw) -> Example | Unreadable:
        utterance = self.utterances[draw.row]
        try:
            features, audio_frames = self._features(draw)
        except AudioError as error:
            return Unreadable(utterance.id, str(utterance.audio), str(error))
        targets, arrays = None, {}
        if self.store is not None:
            variant = variant_name(draw.speed, draw.version)
            targets = self._targets(draw.row, variant, audio_frames, self.store)
            arrays = {name: self._array(name, draw.row, variant, self.store) for name in self._arrays}
        # Appended silence is a crop of what the audio followed by silence gives, as a client would see it.
        heard = features[: audio_frames + draw.silence_frames]
        taught = self.taught[draw.row] if self.taught is not None else ()
        return Example(utterance.id, heard, audio_frames, self.tokens[draw.row], targets, taught, arrays)

    def _targets(self, row: int, variant: str, audio_frames: int, store: Store) -> SparsePosteriors:
        """Targets of an utterance with so many feature frames of audio."""

        def read() -> SparsePosteriors:
            stored = store.read(self.utterances[row].id, variant, num_frames=output_len(audio_frames))
            return SparsePosteriors(*(part.clone() for part in stored))  # a view would keep its whole block

        return self._cache.get(("targets", row, variant), read)

    def _array(self, name: str, row: int, variant: str, store: Store) -> Tensor:
        utterance_id = self.utterances[row].id

        def read() -> tuple[Tensor]:
            if name == POOLED:
                return (read_pooled(store, utterance_id, variant, self.tokens[row] or []),)
            return (torch.from_numpy(store.read_array(name, utterance_id, variant).copy()),)

        return self._cache.get((name, utterance_id, variant), read)[0]

    def _features(self, draw: Draw) -> tuple[Tensor, int]:
        """Features with silence behind them, and how many frames come before it; disturbed ones are made anew."""
        if draw.disturbance is None:
            return self._cache.get((draw.row, draw.speed, draw.version), lambda: self._unaugmented(draw))
        if self._perturb is None:
            raise ValueError("the draw is disturbed, and the dataset does not know how")
        waveform = self._waveform(draw)
        # What is drawn is of this silence's length, not the longest's, so that the noise is as loud as it should be.
        silence = draw.silence_frames * FRAME_SHIFT_SAMPLES + FRAME_SHIFT_SAMPLES
        generator = torch.Generator().manual_seed(draw.disturbance)
        padded = torch.nn.functional.pad(waveform, (0, silence))
        heard = augment_waveform(padded, self._perturb, generator, lambda drawing: self._voices(draw.row, drawing))
        return self._compute(heard), num_frames(waveform.shape[0])

    def _unaugmented(self, draw: Draw) -> tuple[Tensor, int]:
        waveform = self._waveform(draw)
        padded = torch.nn.functional.pad(waveform, (0, self._silence_samples))
        return self._compute(padded), num_frames(waveform.shape[0])

    def _waveform(self, draw: Draw) -> Tensor:
        utterance = self.utterances[draw.row]
        variant = variant_of(draw.speed, draw.version, self._versions)
        return variant.apply(read_utterance(utterance), utterance.id)

    def _voices(self, row: int, generator: torch.Generator) -> list[Tensor]:
        """Some other utterances for babble; one that cannot be read is named when it has its own turn."""
        others = torch.randint(len(self.utterances), (VOICES,), generator=generator).tolist()
        voices = []
        for other in others:
            if other != row:
                with contextlib.suppress(AudioError):
                    voices.append(read_utterance(self.utterances[other]))
        return voices


def collate_batch(examples: Sequence[Example | Unreadable]) -> Batch:
    """Pad examples into a batch; the unreadable ones travel beside it."""
    good = [item for item in examples if isinstance(item, Example)]
    unreadable = [item for item in examples if isinstance(item, Unreadable)]
    features, lens = pad_batch([item.features for item in good] or [torch.zeros(0, 80)])
    spelled = [torch.tensor(item.tokens or [], dtype=torch.int64) for item in good]
    token_lens = torch.tensor([len(row) for row in spelled], dtype=torch.int64)
    tokens = pad_sequence(spelled, batch_first=True) if spelled else torch.zeros(0, 0, dtype=torch.int64)
    targets = [item.targets for item in good if item.targets is not None]
    return Batch(
        ids=[item.id for item in good],
        features=features,
        feature_lens=lens if good else lens[:0],
        audio_lens=torch.tensor([item.audio_frames for item in good], dtype=torch.int64),
        references=References(tokens, token_lens),
        targets=collate(targets) if targets else None,
        unreadable=unreadable,
        hypotheses=collate_hypotheses([item.taught for item in good]) if any(item.taught for item in good) else None,
        arrays={name: pad_sequence([e.arrays[name] for e in good], batch_first=True) for name in good[0].arrays}
        if good
        else {},
        untranscribed=tuple(row for row, item in enumerate(good) if item.tokens is None),
    )

"""Dataset of utterances: features of augmented audio, with tokens, soft targets, stored layers and pseudo-labels."""

import contextlib
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from torch.utils.data import Dataset

from asr_kd.audio import SAMPLE_RATE
from asr_kd.corpora.manifest import Utterance
from asr_kd.corpora.recordings import read_utterance
from asr_kd.errors import AudioError
from asr_kd.features.augment import VOICES, Perturbation, WaveformAugmentation, augment_waveform, splice
from asr_kd.features.fbank import FRAME_SHIFT_SAMPLES, num_frames
from asr_kd.features.perturb import change_gain
from asr_kd.features.silence import LOG_MEL, FrameFeatures
from asr_kd.models.layers import FACTOR, output_len
from asr_kd.posteriors.measures import POOLED
from asr_kd.posteriors.types import SoftTargets, after_blanks, after_zeros, map_tensors
from asr_kd.targets.settings import variant_name, variant_of
from asr_kd.targets.store import Store
from asr_kd.targets.stored_arrays import read_pooled
from asr_kd.training.batch import Example, Unreadable, WeightedHypothesis
from asr_kd.training.batch_sampler import SampledUtterance

Made = TypeVar("Made", bound=tuple[Any, ...])


class MemoryCache:
    """In-memory cache of tuples of tensors and plain values. Entries are never evicted.

    Each epoch visits every key once in another order, so evicting the oldest entry would gain nothing. An entry that
    does not fit into so many megabytes of tensors is not kept.
    """

    def __init__(self, megabytes: int) -> None:
        self._left_bytes = megabytes * 1_000_000
        self._kept: dict[Hashable, tuple[Any, ...]] = {}

    def get(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """Return the entry of `key`, made by `make` where it is missing. Callers must not modify it."""
        if key in self._kept:
            return cast(Made, self._kept[key])
        made = make()
        size = sum(part.numel() * part.element_size() for part in made if isinstance(part, Tensor))
        if size <= self._left_bytes:
            self._left_bytes -= size
            self._kept[key] = made
        return made


class SpeechDataset(Dataset[Example | Unreadable]):
    """Map-style dataset of utterances, indexed by `SampledUtterance`.

    An item is an `Example`, or `Unreadable` where the audio cannot be read.

    Raises, for an item:
        TargetsError: the store lacks it or has another number of frames.

    Args:
        utterances: by row of a `SampledUtterance`.
        tokens: the reference of each utterance; empty where none is needed, None where there is none.
        max_silence_seconds: the longest silence behind any sample.
        cache_mb: memory for features, and for what is read from the store.
        store: soft targets, when the objective needs them from there, and `arrays` of it.
        perturb: waveform augmentation of samples with an `augmentation_seed`. Samples with a `splice_seed` are pieces
            of several of the utterances and have no transcript.
        with_waveforms: also return the waveform, for a teacher that runs during training; it is not cached.
    """

    def __init__(
        self,
        utterances: Sequence[Utterance],
        tokens: Sequence[list[int] | None],
        max_silence_seconds: float,
        cache_mb: int,
        store: Store | None = None,
        hypotheses: Sequence[Sequence[WeightedHypothesis]] | None = None,
        arrays: Sequence[str] = (),
        perturb: Perturbation | None = None,
        augmented_copies: Mapping[str, WaveformAugmentation] | None = None,
        features: FrameFeatures = LOG_MEL,
        with_waveforms: bool = False,
    ) -> None:
        self.utterances, self.tokens, self.store, self.hypotheses = utterances, tokens, store, hypotheses
        self._arrays, self._perturb, self._augmented_copies = arrays, perturb, augmented_copies or {}
        self._kind, self._with_waveforms = features, with_waveforms
        self._silence_samples = round(max_silence_seconds * SAMPLE_RATE) + FRAME_SHIFT_SAMPLES
        self._cache = MemoryCache(cache_mb)

    def __len__(self) -> int:
        return len(self.utterances)

    def __getitem__(self, sample: SampledUtterance) -> Example | Unreadable:
        utterance = self.utterances[sample.row]
        try:
            features, audio_frames, waveform = self._view(sample)
        except AudioError as error:
            return Unreadable(utterance.id, str(utterance.audio), str(error))
        targets, arrays = None, {}
        if self.store is not None:
            variant = variant_name(sample.speed, sample.augmented_copy)
            targets = self._targets(sample.row, variant, audio_frames, self.store)
            arrays = {name: self._array(name, sample.row, variant, self.store) for name in self._arrays}
            if sample.lead_frames:
                lead = sample.lead_frames // FACTOR
                targets = after_blanks(targets, lead, self.store.info.vocabulary.blank_id)
                arrays = {name: after_zeros(name, array, lead) for name, array in arrays.items()}
        hypotheses = self.hypotheses[sample.row] if self.hypotheses is not None else ()
        tokens, lead = self.tokens[sample.row], sample.lead_frames
        if sample.splice_seed is not None and tokens:
            tokens = None
        return Example(utterance.id, features, audio_frames, tokens, targets, hypotheses, arrays, lead, waveform)

    def _view(self, sample: SampledUtterance) -> tuple[Tensor, int, Tensor | None]:
        """Return a sample's features with its gain and silence, the frames of the utterance itself, and, where a
        teacher runs on waveforms, the same audio [S] without the silence."""
        if sample.augmentation_seed is None and sample.splice_seed is None:
            features, audio_frames = self._surrounded(sample)
            waveform = self._waveform(sample) if self._with_waveforms else None
        else:
            # Not cached: drawn anew each epoch. The augmentation covers the silence too.
            augmented = self._augmented_waveform(sample)
            lead, behind = (frames * FRAME_SHIFT_SAMPLES for frames in (sample.lead_frames, sample.silence_frames + 1))
            waveform = augmented[lead : len(augmented) - behind]
            audio_frames = num_frames(len(waveform))
            features = self._kind.compute(augmented)[: audio_frames + sample.extra_frames]
            if sample.gain_db:
                features = self._kind.amplify(features, sample.gain_db)
        if waveform is not None and sample.gain_db:
            waveform = change_gain(waveform, sample.gain_db)
        return features, audio_frames, waveform if self._with_waveforms else None

    def _targets(self, row: int, variant: str, audio_frames: int, store: Store) -> SoftTargets:
        """Return the targets of an utterance with `audio_frames` feature frames of audio."""

        def read() -> SoftTargets:
            stored = store.read(self.utterances[row].id, variant, num_frames=output_len(audio_frames))
            return map_tensors(stored, torch.clone)  # a view would keep its whole block in memory

        return self._cache.get(("targets", row, variant), read)

    def _array(self, name: str, row: int, variant: str, store: Store) -> Tensor:
        utterance_id = self.utterances[row].id

        def read() -> tuple[Tensor]:
            if name == POOLED:
                tokens = self.tokens[row]
                if tokens is None:  # no transcript to pool over: the objective leaves the utterance out
                    return (torch.zeros(0, store.info.max_entries, 2),)
                return (read_pooled(store, utterance_id, variant, tokens),)
            return (torch.from_numpy(store.read_array(name, utterance_id, variant).copy()),)

        return self._cache.get((name, utterance_id, variant), read)[0]

    def _surrounded(self, sample: SampledUtterance) -> tuple[Tensor, int]:
        """Return the features of a sample with its gain and silence, and the frames of the utterance itself."""
        key = (sample.row, sample.speed, sample.augmented_copy)
        features, audio_frames, front = self._cache.get(key, lambda: self._unaugmented(sample))
        # Silence behind is cut from the features of audio followed by zeros, as a streaming client computes them.
        cropped = features[: audio_frames + sample.silence_frames]
        seed = sample.silence_seed
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        found = self._kind.surround(cropped, audio_frames, front, sample.lead_frames, sample.gain_db, generator)
        return found, audio_frames

    def _augmented_waveform(self, sample: SampledUtterance) -> Tensor:
        waveform = self._waveform(sample)
        # Pad by this sample's silence, not by the longest: the noise level depends on the length.
        silence = sample.silence_frames * FRAME_SHIFT_SAMPLES + FRAME_SHIFT_SAMPLES
        padded = torch.nn.functional.pad(waveform, (sample.lead_frames * FRAME_SHIFT_SAMPLES, silence))
        if sample.augmentation_seed is None:
            return padded
        if self._perturb is None:
            raise ValueError("the sample has an augmentation_seed, but the dataset has no `perturb` settings")
        generator = torch.Generator().manual_seed(sample.augmentation_seed)
        return augment_waveform(padded, self._perturb, generator, lambda drawn: self._voices(sample.row, drawn))

    def _unaugmented(self, sample: SampledUtterance) -> tuple[Tensor, int, Tensor]:
        waveform = self._waveform(sample)
        padded = torch.nn.functional.pad(waveform, (0, self._silence_samples))
        return self._kind.compute(padded), num_frames(waveform.shape[0]), self._kind.front(waveform)

    def _waveform(self, sample: SampledUtterance) -> Tensor:
        utterance = self.utterances[sample.row]
        variant = variant_of(sample.speed, sample.augmented_copy, self._augmented_copies)
        waveform = variant.apply(read_utterance(utterance), utterance.id)
        if sample.splice_seed is None:
            return waveform
        generator = torch.Generator().manual_seed(sample.splice_seed)
        return splice(len(waveform), generator, self._drawn)

    def _drawn(self, generator: torch.Generator) -> Tensor:
        """Return the waveform of an utterance that can be read."""
        while True:
            row = int(torch.randint(len(self.utterances), (), generator=generator))
            with contextlib.suppress(AudioError):
                return read_utterance(self.utterances[row])

    def _voices(self, row: int, generator: torch.Generator) -> list[Tensor]:
        """Return other utterances for babble. Unreadable ones are left out here and reported when they are sampled."""
        others = torch.randint(len(self.utterances), (VOICES,), generator=generator).tolist()
        voices = []
        for other in others:
            if other != row:
                with contextlib.suppress(AudioError):
                    voices.append(read_utterance(self.utterances[other]))
        return voices

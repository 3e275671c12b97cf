"""Arrays stored beside frame posteriors: hidden layers of the teacher, and posteriors pooled over tokens.

Only model folders of this project and public encoders expose layers; these are stored with 8 bits a channel. Pooled
posteriors are packed as frames are. A fingerprint of the transcript's tokens is stored beside them; reading with
another transcript is an error.

Shapes: B utterances, S samples, T frames, D' width of the teacher, U tokens, K most entries of a token.
"""

import zlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from asr_kd.corpora.manifest import Utterance
from asr_kd.errors import TargetsError, is_out_of_memory
from asr_kd.features.fbank import SAMPLE_RATE
from asr_kd.files import sha256_of
from asr_kd.posteriors import DensePosteriors, keep_nucleus
from asr_kd.posteriors.measures import POOLED, occupancy, pooled_log_probs
from asr_kd.posteriors.types import array_names, dequantise, quantise
from asr_kd.targets.packing import Codec, Packed
from asr_kd.targets.shard import Array
from asr_kd.targets.store import Store
from asr_kd.targets.store_index import EXTRACT_AGAIN
from asr_kd.teachers.base import LayeredTeacher, Teacher
from asr_kd.teachers.windows import in_halves
from asr_kd.text.normalize import Normalizer, normalize
from asr_kd.text.vocabulary import Vocabulary


def layered(teacher: Teacher, layers: Sequence[int]) -> LayeredTeacher:
    """Return the teacher, checked to have these layers.

    Raises:
        TargetsError: it exposes no layers, or has fewer.
    """
    if not isinstance(teacher, LayeredTeacher):
        raise TargetsError(
            f"the teacher {teacher.name!r} does not expose its hidden layers",
            where="targets.layers",
            expected="a model of this project in its students' vocabulary, or an `encoder:`",
            remedy="Remove targets.layers and the objective `representation`, or name such a teacher",
        )
    unknown = [layer for layer in layers if not 1 <= layer <= teacher.num_layers]
    if unknown:
        raise TargetsError(
            f"the teacher {teacher.name!r} has no layer {unknown[0]}",
            where="targets.layers",
            expected=f"1 to {teacher.num_layers}",
        )
    return teacher


def layer_widths(teacher: Teacher, layers: Sequence[int]) -> dict[int, int]:
    """Each of these layers with its width.

    Raises:
        TargetsError: the teacher does not have them.
    """
    return dict.fromkeys(layers, layered(teacher, layers).width) if layers else {}


Outputs = tuple[DensePosteriors, Mapping[int, Tensor]]
"""Posteriors of a batch, and the outputs of layers, [B, T, D'] each."""


def run_teacher(
    teacher: Teacher, waveforms: Sequence[Tensor], layers: Sequence[int] = (), ids: Sequence[str] = ()
) -> Outputs:
    """The teacher's posteriors of waveforms [S] each, and the outputs of its layers, [B, T, D'] each.

    A batch that does not fit into memory is computed in halves, down to single utterances; see also
    `teachers.local.LocalTeacher` and `teachers.windows`, which split an utterance.

    Args:
        layers: counted from 1.
        ids: of the utterances, for the error.

    Raises:
        TargetsError: the teacher does not have these layers, or a single utterance does not fit into memory.
    """

    def compute(rows: Sequence[int]) -> list[Outputs]:
        lens = torch.tensor([waveforms[row].shape[0] for row in rows])
        padded = pad_sequence([waveforms[row] for row in rows], batch_first=True)
        try:
            if not layers:
                return [(teacher.log_probs(padded, lens), {})]
            return [layered(teacher, layers).with_layers(padded, lens, layers)]
        except (RuntimeError, MemoryError) as error:
            if len(rows) > 1 or not is_out_of_memory(error):
                raise
            named = f"utterance {ids[rows[0]]!r}" if ids else "an utterance"
            raise TargetsError(
                f"{named} of {int(lens[0]) / SAMPLE_RATE:.1f} s does not fit into memory",
                where=f"teacher {teacher.name}",
                expected="an utterance that fits",
                remedy="Set the teacher's window_seconds, cut the recording, or leave the utterance out",
            ) from error

    parts = in_halves(compute, range(len(waveforms)))
    if len(parts) == 1:
        return parts[0]

    def stacked(batches: Iterable[Tensor]) -> Tensor:
        return pad_sequence([row for batch in batches for row in batch], batch_first=True)

    lens = torch.cat([dense.lens for dense, _ in parts])
    dense = DensePosteriors(stacked(dense.log_probs for dense, _ in parts), lens)
    return dense, {layer: stacked(hidden[layer] for _, hidden in parts) for layer in layers}


def layer_arrays(layers: Mapping[int, Tensor], row: int, num_frames: int) -> dict[str, Array]:
    """Return the arrays to store of one utterance's layers [B, T, D'], by name."""
    arrays: dict[str, Array] = {}
    for layer, hidden in layers.items():
        codes, scale = quantise(hidden[row, :num_frames])
        arrays |= dict(zip(array_names(layer), (codes.cpu().numpy(), scale.cpu().numpy()), strict=True))
    return arrays


def read_layer(store: Store, layer: int, utterance_id: str, variant: str = "speed-1.0") -> Tensor:
    """A stored layer of an utterance, [T, D'] float32.

    Raises:
        TargetsError: it is not stored.
    """
    codes, scale = (
        torch.from_numpy(store.read_array(name, utterance_id, variant).copy()) for name in array_names(layer)
    )
    return dequantise(codes, scale)


FINGERPRINT = "pooled_over"
"""Name of the array beside the pooled posteriors: the CRC-32 of the transcript's tokens, 4 bytes."""

Transcripts = Mapping[str, Sequence[int]]
"""Tokens by the utterance's id; empty where there is no transcript that the vocabulary can spell."""


def spell_transcripts(utterances: Iterable[Utterance], vocabulary: Vocabulary, normalizer: Normalizer) -> Transcripts:
    """The transcripts as tokens, as a student's training spells them."""
    spelled = {}
    for utterance in utterances:
        text = normalize(utterance.text or "", normalizer)
        spelled[utterance.id] = [] if vocabulary.unknown_characters(text) else vocabulary.encode(text)
    return spelled


def transcripts_sha256(transcripts: Transcripts) -> str:
    """Identity of a set of transcripts."""
    return sha256_of(sorted((name, list(tokens)) for name, tokens in transcripts.items()))


def pool(
    dense: DensePosteriors, references: Sequence[Sequence[int]], codec: Codec, epsilon: float
) -> list[tuple[dict[str, Array], dict[str, Packed]]]:
    """Pool a batch of posteriors over the tokens of its references.

    Args:
        dense: [B, T, V].
        references: tokens of each utterance.
        codec: how what is kept is packed.
        epsilon: mass that may stay outside the kept entries of a token.

    Returns:
        For each utterance the named arrays and the named posteriors to store beside its frames. It has posteriors of
        every token, or none when the transcript needs more frames than there are.
    """
    device = dense.log_probs.device
    token_lens = torch.tensor([len(tokens) for tokens in references], device=device)
    tokens = pad_sequence([torch.tensor(row, dtype=torch.int64) for row in references], batch_first=True).to(device)
    occupied = occupancy(dense.log_probs, dense.lens, tokens, token_lens, codec.blank_id)
    nucleus = keep_nucleus(pooled_log_probs(dense.log_probs, occupied).exp(), epsilon, codec.max_entries)
    aligned = (occupied.sum((1, 2)) > 0).tolist()
    kept_tokens, kept_probs = nucleus.tokens.cpu().numpy(), nucleus.probs.cpu().numpy()
    rows = []
    for index, reference in enumerate(references):
        end = len(reference) if aligned[index] else 0
        packed = codec.pack(kept_tokens[index, :end], kept_probs[index, :end])
        rows.append(({FINGERPRINT: fingerprint_of(reference)}, {POOLED: packed}))
    return rows


def read_pooled(store: Store, utterance_id: str, variant: str, tokens: Sequence[int]) -> Tensor:
    """Pooled posteriors of an utterance, [U, K, 2] float32: token and probability of each entry.

    What is missing to a probability of 1 is the tail. U is 0 when the teacher could not align the transcript.

    Raises:
        TargetsError: the store has none, or is over another transcript of this utterance.
    """
    if store.info.transcripts_sha256 is None:
        raise TargetsError(
            "holds no posteriors pooled over the tokens of transcripts",
            where=store.folder,
            expected="a store extracted with targets.pooled: true",
            remedy=EXTRACT_AGAIN,
        )
    found = store.read_array(FINGERPRINT, utterance_id, variant)
    if not np.array_equal(found, fingerprint_of(tokens)):
        raise TargetsError(
            f"the pooled posteriors of utterance {utterance_id!r} are over another transcript than the manifest's "
            f"{len(tokens)} tokens",
            where=store.folder,
            expected="the transcript, its normalizer and the vocabulary as they were at extraction",
            remedy=EXTRACT_AGAIN,
        )
    stored = store.read(utterance_id, variant, name=POOLED)
    entries = torch.zeros(len(stored.tokens), store.info.max_entries, 2)
    entries[:, : stored.tokens.shape[1]] = torch.stack([stored.tokens.float(), stored.probs], -1)
    return entries


def fingerprint_of(tokens: Sequence[int]) -> Array:
    """Return the CRC-32 of the tokens, 4 bytes."""
    return np.frombuffer(zlib.crc32(np.asarray(tokens, "<i4").tobytes()).to_bytes(4, "little"), np.uint8)

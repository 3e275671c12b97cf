"""Segments of a long recording's transcript, assigned by their times to the pieces that the recording was cut into."""

from collections.abc import Sequence
from dataclasses import replace

from asr_kd.corpora.manifest import Utterance
from asr_kd.teachers.whisper_transcriber import TimedSegment, Transcription, combine

TOLERANCE_SECONDS = 0.3
"""How far a segment may reach into the next piece: recognizers place the ends of words about so exactly."""


def transcripts_of_pieces(
    segments: Sequence[TimedSegment], pieces: Sequence[Utterance]
) -> tuple[dict[str, Transcription], set[str]]:
    """Join the segments that lie in each piece.

    Args:
        segments: of the recording; words, where the system wrote times of words.
        pieces: utterances of one recording, with `start` and `duration`.

    Returns:
        Piece id → its transcription, empty text for a piece without a segment; and the ids of pieces that are left out,
        because a segment reaches over their border by more than 0.3 s: which words lie where is then not known.
    """
    inside: dict[str, list[TimedSegment]] = {piece.id: [] for piece in pieces}
    crossed: set[str] = set()
    for segment in segments:
        overlaps = {
            piece.id: min(segment.end, piece.start + piece.duration) - max(segment.start, piece.start)
            for piece in pieces
        }
        touched = [id_ for id_, seconds in overlaps.items() if seconds > min(TOLERANCE_SECONDS, _half(segment))]
        if len(touched) > 1:
            crossed.update(touched)
        elif touched:
            inside[touched[0]].append(segment)
    texts = {id_: combine([_spaced(each) for each in found]) for id_, found in inside.items() if id_ not in crossed}
    return texts, crossed


def _half(segment: TimedSegment) -> float:
    """A short word belongs to the piece that holds more than half of it."""
    return max(segment.end - segment.start, 0.02) / 2 - 1e-9


def _spaced(segment: TimedSegment) -> TimedSegment:
    return replace(segment, text=f" {segment.text.strip()}")

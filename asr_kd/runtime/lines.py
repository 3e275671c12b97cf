"""Transcripts as lines: plain, JSON with words and n-best, or ctm."""

import json
from typing import Literal

from asr_kd.runtime.transcribe import Transcript
from asr_kd.scoring.formats import TimedWord, ctm_lines

WordForm = Literal["json", "ctm"]


def transcript_lines(transcript: Transcript, form: WordForm | None = None) -> str:
    """What is printed of one file, with line ends.

    Args:
        transcript: of a file that could be read.
        form: None: the path and the text. `json`: one object with words, seconds, confidences and n-best. `ctm`: a line
            a word under the file's name without its ending; none for a file without words.
    """
    if form is None:
        return f"{transcript.path}\t{transcript.text}\n"
    if form == "ctm":
        words = transcript.words
        timed = [TimedWord(w.text, w.start_seconds, w.end_seconds - w.start_seconds, w.confidence) for w in words]
        return ctm_lines(transcript.path.stem, timed)
    plain = {
        "audio": str(transcript.path),
        "text": transcript.text,
        "words": [
            {"word": w.text, "start": w.start_seconds, "end": w.end_seconds, "confidence": round(w.confidence, 4)}
            for w in transcript.words
        ],
        "nbest": [{"text": item.text, "score": round(item.score, 4)} for item in transcript.nbest],
    }
    return json.dumps(plain, ensure_ascii=False) + "\n"

"""Open teachers by their settings."""

from pathlib import Path

import torch

from asr_kd.errors import RecipeError
from asr_kd.hub import own_model
from asr_kd.teachers.base import Teacher
from asr_kd.teachers.ensemble import Ensemble
from asr_kd.teachers.local import open_local
from asr_kd.teachers.settings import EncoderSettings, TeacherSource, parse_source
from asr_kd.teachers.windows import WindowedTeacher


def open_teacher_source(settings: TeacherSource, device: torch.device | str = "cpu") -> Teacher:
    """Open the teacher, or ensemble, that the settings name.

    Raises:
        AsrKdError: a source that cannot be opened, with the file that is missing and the command that fetches it;
            members of an ensemble that differ; windows that do not fit the teacher's frames.
    """
    if settings.is_encoder:  # which has windows of its own
        return _open_encoder(settings, device)
    opened = [_open_one(member.source, settings, device) for member in settings.members]
    weights = [member.weight for member in settings.members]
    teacher = opened[0] if len(opened) == 1 else Ensemble(opened, weights, settings.average)
    if settings.window_seconds is None:
        return teacher
    return WindowedTeacher(teacher, settings.window_seconds, settings.overlap_seconds)


def _open_encoder(settings: TeacherSource, device: torch.device | str) -> Teacher:
    from asr_kd.teachers.encoder_layers import EncoderLayers

    source = "hf:" + settings.members[0].source.partition(":")[2]
    window = {} if settings.window_seconds is None else {"window_seconds": settings.window_seconds}
    chosen = EncoderSettings.model_validate({"source": source, "overlap_seconds": settings.overlap_seconds, **window})
    return EncoderLayers(chosen, device, settings.precision)


def _open_one(source: str, settings: TeacherSource, device: torch.device | str) -> Teacher:
    kind, place, revision = parse_source(source)
    # Each library is imported only when one of its models is opened.
    if kind == "local":
        return open_local(Path(place).expanduser(), device, settings.precision)
    if kind == "torchaudio":
        from asr_kd.teachers.torchaudio_ctc import open_torchaudio

        return open_torchaudio(place, device, settings.precision)
    if kind == "hf":
        if (own := own_model(place, revision)) is not None:
            return open_local(own, device, settings.precision)
        from asr_kd.teachers.huggingface_ctc import open_huggingface

        return open_huggingface(place, revision, device, settings.precision)
    if kind == "speechbrain":
        from asr_kd.teachers.speechbrain_ctc import SpeechbrainTeacher

        return SpeechbrainTeacher(
            place, revision or "", allow_code=settings.allow_code, device=device, precision=settings.precision
        )
    raise RecipeError(
        f"{source!r} names a teacher that a recipe trains",
        expected="a source that exists outside a recipe: torchaudio:, hf:, encoder:, speechbrain: or local:",
    )

"""From settings to a teacher. The one place that knows which file opens which kind of source."""

from pathlib import Path

import torch

from asr_kd.errors import RecipeError
from asr_kd.teachers.base import Teacher
from asr_kd.teachers.local import LocalTeacher
from asr_kd.teachers.settings import TeacherSource, parse_source


def open_teacher(settings: TeacherSource, device: torch.device | str = "cpu") -> Teacher:
    """Open the teacher, or ensemble, that the settings name.

    Raises:
        AsrKdError: a source that cannot be opened, with the file that is missing and the command that fetches it;
            members of an ensemble that differ; windows that do not fit the teacher's frames.
    """
    kind, place, _ = parse_source(settings.members[0].source)
    if kind == "local":
        return LocalTeacher(Path(place).expanduser(), device)
    raise RecipeError(f"the source {settings.source!r} cannot be opened yet")

"""Teachers: models that give frame posteriors of audio, behind one protocol."""

from asr_kd.teachers.base import Teacher
from asr_kd.teachers.ensemble import open_teacher_source
from asr_kd.teachers.local import LocalTeacher
from asr_kd.teachers.settings import TeacherSource

__all__ = ["LocalTeacher", "Teacher", "TeacherSource", "open_teacher_source"]

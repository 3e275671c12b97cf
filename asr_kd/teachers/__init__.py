"""Models that label audio with frame posteriors, behind one protocol. Know no student and no store."""

from asr_kd.teachers.base import Teacher
from asr_kd.teachers.local import LocalTeacher

__all__ = ["LocalTeacher", "Teacher"]

"""Who listens to which utterance: one teacher to all, or of several the one that never heard it. Hears nothing."""

from collections.abc import Iterable

from asr_kd.corpora.manifest import Utterance
from asr_kd.targets.sharding import plan_batches
from asr_kd.teachers.base import Teacher
from asr_kd.teachers.out_of_fold import OutOfFold


def batches_by_teacher(
    teacher: Teacher, utterances: Iterable[Utterance], batch_seconds: float
) -> list[tuple[Teacher, list[Utterance]]]:
    """Batches as of `plan_batches`, each with the teacher that hears it; a batch has one."""
    groups: dict[int, tuple[Teacher, list[Utterance]]] = {}
    for utterance in utterances:
        listener = teacher.listener(utterance.id) if isinstance(teacher, OutOfFold) else teacher
        groups.setdefault(id(listener), (listener, []))[1].append(utterance)
    return [(listener, batch) for listener, heard in groups.values() for batch in plan_batches(heard, batch_seconds)]

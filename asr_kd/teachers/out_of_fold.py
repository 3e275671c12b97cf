"""Teachers of folds as one: each labels what it never heard in training, together they hear everything else.

A teacher is nearly certain of its own training audio and has nothing soft to say about it; of a speaker that it never
heard it says what it would say of any.
"""

from collections.abc import Mapping, Sequence

from asr_kd.files import sha256_of
from asr_kd.teachers.base import Teacher
from asr_kd.teachers.ensemble import Ensemble


class OutOfFold(Ensemble):
    """See `teachers.base.Teacher`; posteriors of audio that none of them was trained on are the members' average.

    Args:
        members: member i was trained on all but fold i.
        fold_of: fold of each training utterance by its id.
        name: of them all.

    Raises:
        RecipeError: members that differ in vocabulary or frames.
    """

    def __init__(self, members: Sequence[Teacher], fold_of: Mapping[str, int], name: str) -> None:
        super().__init__(members, [1.0] * len(members), "probabilities")
        self.fold_of = dict(fold_of)
        self.name = name

    @property
    def sha256(self) -> str:
        """Of all members and of who labels what."""
        hashes = [member.sha256 for member in self.members]
        return sha256_of({"out_of_fold": hashes, "fold_of": sorted(self.fold_of.items())})

    def listener(self, utterance_id: str) -> Teacher:
        """Who labels this utterance: the member that never heard it; all of them where none has."""
        fold = self.fold_of.get(utterance_id)
        return self if fold is None else self.members[fold]

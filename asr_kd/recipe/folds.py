"""Which training speakers each teacher of a recipe's folds leaves out. Trains nothing."""

from asr_kd.corpora.an4 import person_of
from asr_kd.corpora.corpus import read_prepared
from asr_kd.corpora.manifest import Utterance
from asr_kd.corpora.settings import An4Settings
from asr_kd.corpora.speaker_folds import fold_of_utterances
from asr_kd.recipe.context import RunContext
from asr_kd.recipe.system_settings import TrainedTeacher


def fold_of_training(context: RunContext, teacher: TrainedTeacher) -> dict[str, int]:
    """Fold of each training utterance by its id, from 0.

    Raises:
        CorpusError: the corpus is not prepared, or has fewer speakers than the teacher has folds.
    """
    corpus = read_prepared(context.work_dir)
    people = person_of if isinstance(context.recipe.corpus, An4Settings) else str
    return fold_of_utterances(corpus.train, teacher.folds or 1, context.recipe.seed_of(teacher), people)


def utterances_of_fold(context: RunContext, teacher: TrainedTeacher, fold: int) -> list[Utterance]:
    """What the teacher of a fold is trained on: all but that fold.

    Raises:
        CorpusError: see `fold_of_training`.
    """
    fold_of = fold_of_training(context, teacher)
    return [utterance for utterance in read_prepared(context.work_dir).train if fold_of[utterance.id] != fold]

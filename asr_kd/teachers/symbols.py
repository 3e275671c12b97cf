"""From another project's labels to a vocabulary of ours: same ids, our names of blank and word separator.

Knows labels only, not where they came from.
"""

from collections.abc import Sequence

from asr_kd.errors import VocabularyError
from asr_kd.text.vocabulary import BLANK, WORD_SEPARATOR, Vocabulary


def ctc_vocabulary(labels: Sequence[str | None], blank_id: int | None, separator: str | None, where: str) -> Vocabulary:
    """The vocabulary of a model's outputs.

    Every output keeps its id. The blank becomes `<blk>`, the separator `▁`; pieces such as ``▁the`` stay as they
    are. Outputs without a label, or with one that cannot be printed or is taken, get a distinct name that no text
    holds, ``<unused-7>``: they are part of the softmax, so they are part of the vocabulary.

    Args:
        labels: of each output from 0; None where the model's files name none.
        blank_id: CTC's blank.
        separator: the label that stands between words, ``|`` for example; None where pieces carry ▁ themselves.
        where: what errors name.

    Raises:
        VocabularyError: there is no such blank.
    """
    if blank_id is None or not 0 <= blank_id < len(labels):
        raise VocabularyError(
            f"blank is {blank_id}", where=where, expected=f"the id of one of the {len(labels)} outputs"
        )
    names = [WORD_SEPARATOR if separator is not None and label == separator else label for label in labels]
    names[blank_id] = BLANK
    taken = {BLANK}
    symbols = []
    for index, name in enumerate(names):
        usable = name is not None and name.split() == [name] and (index == blank_id or name not in taken)
        symbols.append(name if usable and name is not None else f"<unused-{index}>")
        taken.add(symbols[-1])
    return Vocabulary(tuple(symbols))

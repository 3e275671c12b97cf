"""Table from a teacher's symbols to a student's, one to one where possible; an error where letters would be lost.

Shapes: B utterances, T frames, V the teacher's vocabulary, V' the student's.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from asr_kd.errors import VocabularyError
from asr_kd.text.vocabulary import BLANK, WORD_SEPARATOR, Vocabulary

SEPARATORS = ("|", WORD_SEPARATOR, "<space>", "[SPACE]")
"""Symbols of the space between words in different models; they correspond to each other."""

_SPECIAL = re.compile(r"<[^<>]+>|\[[A-Z]+\]")
"""Symbols that spell nothing: <s>, </s>, <unk>, <pad>, [UNK] …"""


@dataclass(frozen=True)
class SymbolMap:
    """Map from the teacher's tokens to the student's.

    A symbol without a counterpart becomes blank. Renormalising instead would raise the probability of noise.
    """

    teacher: Vocabulary
    student: Vocabulary
    table: tuple[int | None, ...]
    """By the teacher's token: the student's, or None."""

    @property
    def identical(self) -> bool:
        return self.teacher.symbols == self.student.symbols and self.table == tuple(range(len(self.student)))

    @property
    def exact(self) -> bool:
        """Whether it is one to one: every token of both sides has exactly one counterpart."""
        return sorted(-1 if token is None else token for token in self.table) == list(range(len(self.student)))

    @property
    def unmapped(self) -> tuple[str, ...]:
        """The teacher's symbols that become blanks."""
        return tuple(self.teacher.symbols[index] for index, token in enumerate(self.table) if token is None)

    @property
    def never_emitted(self) -> tuple[str, ...]:
        """The student's symbols that the teacher never emits: they have probability 0."""
        emitted = set(self.table)
        return tuple(symbol for index, symbol in enumerate(self.student.symbols) if index not in emitted)

    def describe(self) -> dict[str, object]:
        """As plain data, for a store to record: symbols whose name changes, and those without a counterpart."""
        pairs = zip(self.teacher.symbols, self.table, strict=True)
        renamed = {old: self.student.symbols[token] for old, token in pairs if token is not None}
        return {
            "teacher_vocabulary_sha256": self.teacher.sha256,
            "renamed": {old: new for old, new in renamed.items() if old != new},
            "to_blank": list(self.unmapped),
            "never_emitted": list(self.never_emitted),
            "exact": self.exact,
        }

    def apply(self, log_probs: Tensor) -> Tensor:
        """Log-probabilities over the student's vocabulary, [B, T, V] → [B, T, V']; probability is conserved."""
        first = torch.tensor([sources[0] if sources else 0 for sources in self._sources], device=log_probs.device)
        mapped = log_probs.index_select(-1, first)
        for token, sources in enumerate(self._sources):
            if len(sources) > 1:
                mapped[..., token] = log_probs[..., sources].logsumexp(-1)
            elif not sources:
                mapped[..., token] = -torch.inf
        return mapped

    def unmapped_mass(self, log_probs: Tensor) -> Tensor:
        """Probability of what has no counterpart, a frame, [B, T, V] → [B, T]."""
        tokens = [index for index, token in enumerate(self.table) if token is None]
        return log_probs[..., tokens].exp().sum(-1)

    @cached_property
    def _sources(self) -> list[list[int]]:
        """The teacher's tokens of each of the student's; the blank also gets what has no counterpart."""
        sources: list[list[int]] = [[] for _ in self.student.symbols]
        for index, token in enumerate(self.table):
            sources[self.student.blank_id if token is None else token].append(index)
        return sources


def map_symbols(
    teacher: Vocabulary, student: Vocabulary, symbols: Mapping[str, str] | None = None, ignore: Collection[str] = ()
) -> SymbolMap:
    """Find each symbol's counterpart: from `symbols`, else the same symbol, another word separator, or in another case.

    Equal vocabularies need no table and use none.

    Args:
        symbols: the teacher's symbol → the student's, where their names differ; two may become one.
        ignore: symbols that may stay without a counterpart, on either side; special ones (<s>, <unk>) always may.

    Raises:
        VocabularyError: characters against subwords, or two sets of those; letters without a counterpart on either
            side; or `symbols` and `ignore` naming what is not there.
    """
    if teacher.symbols == student.symbols:  # the tables of a recipe are for its other teachers
        return SymbolMap(teacher, student, tuple(range(len(student))))
    symbols = symbols or {}
    _check_named(teacher, student, symbols, ignore)
    # What the teacher spells itself, or the table gives away, is taken: nothing becomes one symbol by itself.
    taken = {*teacher.symbols, *symbols.values()}
    found: list[str | None] = []
    for symbol in teacher.symbols:
        found.append(symbols.get(symbol) or _counterpart(symbol, student, taken, ignore))
        taken |= {found[-1]} if found[-1] is not None else set()
    ids = {symbol: index for index, symbol in enumerate(student.symbols)}
    result = SymbolMap(teacher, student, tuple(None if symbol is None else ids[symbol] for symbol in found))
    lost = [symbol for symbol in result.unmapped if not _may_go(symbol, ignore)]
    never_emitted = [symbol for symbol in result.never_emitted if not _may_go(symbol, ignore)]
    if (lost or never_emitted) and (_has_subwords(teacher) or _has_subwords(student)):
        kinds = [f"{len(each)} {'subwords' if _has_subwords(each) else 'characters'}" for each in (teacher, student)]
        raise VocabularyError(
            f"the teacher has {kinds[0]}, the student {kinds[1]}: their frames cannot be matched",
            expected="the same symbols on both sides for distillation frame by frame",
            where="bridge",
            remedy="Distil from the teacher's n-best transcripts instead, which any vocabulary can spell: "
            "distill.level: sequence; or give the student the teacher's vocabulary",
        )
    if lost or never_emitted:
        raise _without_counterpart(lost, never_emitted)
    return result


def _counterpart(symbol: str, student: Vocabulary, taken: Collection[str], ignore: Collection[str]) -> str | None:
    if symbol in student.symbols:
        return symbol
    if symbol in ignore:
        return None
    # A symbol matches in another case where the way back leads to it: ı and ς have none.
    cases = [name for name in (symbol.upper(), symbol.lower()) if symbol in (name.upper(), name.lower())]
    candidates = SEPARATORS if symbol in SEPARATORS else cases
    return next((name for name in candidates if name in student.symbols and name not in taken), None)


def _check_named(teacher: Vocabulary, student: Vocabulary, symbols: Mapping[str, str], ignore: Collection[str]) -> None:
    unknown = [name for name in symbols if name not in teacher.symbols]
    unknown += [name for name in symbols.values() if name not in student.symbols]
    unknown += [name for name in ignore if name not in teacher.symbols and name not in student.symbols]
    if BLANK in symbols or BLANK in symbols.values() or BLANK in ignore:
        raise VocabularyError(
            f"the bridge's tables name {BLANK}",
            expected="symbols other than the blank: the two blanks always correspond",
            where="bridge",
            remedy="To drop a symbol of the teacher's list it under bridge.ignore",
        )
    if unknown:
        raise VocabularyError(
            f"{_listed(unknown)}: not in the vocabulary that this table of the bridge refers to",
            expected="the teacher's symbols on the left of bridge.symbols, the student's on the right, either's in "
            "bridge.ignore",
            where="bridge",
        )


def _may_go(symbol: str, ignore: Collection[str]) -> bool:
    return symbol in ignore or bool(_SPECIAL.fullmatch(symbol))


def _has_subwords(vocabulary: Vocabulary) -> bool:
    return any(len(symbol) > 1 and not _SPECIAL.fullmatch(symbol) for symbol in vocabulary.symbols)


def _without_counterpart(lost: Sequence[str], never_emitted: Sequence[str]) -> VocabularyError:
    found = [f"the student has no counterpart of the teacher's {_listed(lost)}"] if lost else []
    found += [f"the teacher never emits the student's {_listed(never_emitted)}"] if never_emitted else []
    return VocabularyError(
        "; ".join(found),
        expected="a counterpart for every letter, in any case",
        where="bridge",
        remedy="Name the counterparts under bridge.symbols (the teacher's: the student's); list under bridge.ignore "
        "symbols without one: the teacher's becomes blank, the student's gets probability 0",
    )


def _listed(symbols: Sequence[str]) -> str:
    shown = ", ".join(map(repr, symbols[:12]))
    return f"{shown} and {len(symbols) - 12} more" if len(symbols) > 12 else shown

"""Random sentences from a small grammar in a text file, whose form is described at the top of `grammar.txt`."""

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from asr_kd.errors import CorpusError

START = "sentence"

_TRIES = 200
"""Draws for one new sentence before the grammar counts as exhausted."""

_REFERENCE = re.compile(r"<(\w+)>")
_PART = re.compile(r"<\w+>|'*[^\W\d_](?:[^\W\d_]|')*")


@dataclass(frozen=True)
class Grammar:
    """Alternatives (sequences of words and <names>) by name."""

    rules: dict[str, tuple[tuple[str, ...], ...]]

    @property
    def words(self) -> set[str]:
        """Every word of the sentences."""
        return {
            part for options in self.rules.values() for option in options for part in option if not part.startswith("<")
        }

    @property
    def topics(self) -> list[str]:
        """Topics of <sentence>, in the grammar's order."""
        return list(dict.fromkeys(part.strip("<>") for option in self.rules[START] for part in option))

    def about(self, topics: Sequence[str]) -> "Grammar":
        """Return the grammar with sentences of these topics only, equally likely; an empty list keeps all.

        Raises:
            CorpusError: no such topic.
        """
        unknown = [topic for topic in topics if topic not in self.topics]
        if unknown:
            raise CorpusError(
                f"no topic of the grammar is called {unknown[0]!r}", expected=f"some of {', '.join(self.topics)}"
            )
        if not topics:
            return self
        return Grammar({**self.rules, START: tuple((f"<{topic}>",) for topic in topics)})

    def sentence(self, generator: random.Random) -> str:
        """Return one sentence in lower case."""
        return " ".join(self._expand(START, generator))

    def distinct_sentences(self, count: int, generator: random.Random, taken: set[str]) -> list[str]:
        """Return `count` sentences that differ from each other and from those in `taken`, to which they are added.

        Raises:
            CorpusError: the grammar does not give so many.
        """
        chosen: list[str] = []
        for _ in range(count):
            new = next((text for _ in range(_TRIES) if (text := self.sentence(generator)) not in taken), None)
            if new is None:
                raise CorpusError(
                    f"the grammar gave only {len(chosen)} new sentences",
                    expected=f"{count} distinct sentences",
                    remedy="Use fewer synthetic utterances, or extend the grammar",
                )
            taken.add(new)
            chosen.append(new)
        return chosen

    def _expand(self, name: str, generator: random.Random) -> Iterator[str]:
        for part in generator.choice(self.rules[name]):
            if part.startswith("<"):
                yield from self._expand(part[1:-1], generator)
            else:
                yield part


def grammar_text() -> str:
    """Return the text of the package's grammar."""
    return resources.files("asr_kd.corpora").joinpath("grammar.txt").read_text(encoding="utf-8")


def parse_grammar(text: str, where: str | Path = "grammar.txt") -> Grammar:
    """Read a grammar.

    Raises:
        CorpusError: a line of another form, a name that is not defined, a name that leads back to itself, or no
            <sentence>.
    """
    rules: dict[str, list[tuple[str, ...]]] = {}
    for row, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        left, equals, right = line.partition("=")
        name = _REFERENCE.fullmatch(left.strip())
        options = [tuple(option.split()) for option in right.split("|")]
        if name is None or not equals or not all(options) or not all(map(_PART.fullmatch, sum(options, ()))):
            raise CorpusError(f"row {line!r}", where=f"{where}:{row}", expected="<name> = words and <names> | …")
        rules.setdefault(name[1], []).extend(options)
    grammar = Grammar({name: tuple(options) for name, options in rules.items()})
    _check_references(grammar, where)
    return grammar


def _check_references(grammar: Grammar, where: str | Path) -> None:
    finished: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name not in grammar.rules or name in path:
            problem = "leads back to itself" if name in path else "is not defined"
            raise CorpusError(f"<{name}> {problem}", where=where, expected="every name defined, none within itself")
        if name not in finished:
            for option in grammar.rules[name]:
                for part in option:
                    if part.startswith("<"):
                        visit(part[1:-1], (*path, name))
            finished.add(name)

    visit(START, ())

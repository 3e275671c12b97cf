"""A decoding graph of words for sherpa-onnx's `--ctc-graph`: CTC topology ∘ lexicon ∘ n-gram (HLG), by kaldifst.

The client biases transducers only with hotwords; a graph limits a CTC model to a vocabulary and weighs its words. Only
this file imports kaldifst. Sources: Mohri et al. 2002, "Weighted finite-state transducers in speech
recognition"; Miao et al. 2015, "EESEN" (the token transducer T, here H).

Labels: on the input side, token id + 1 (0 is epsilon); on the output side, the number of a word in words.txt.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from asr_kd.decoding.lexicon import build_lexicon, separator_of
from asr_kd.errors import LanguageModelError, import_extra
from asr_kd.files import atomic_path, register_files
from asr_kd.text.kneser_ney import reading_text
from asr_kd.text.vocabulary import Vocabulary

EPSILON, BACKOFF = "<eps>", "#0"

Gram = tuple[str, ...]


class GraphReport(NamedTuple):
    """What was built."""

    words: int
    left_out: int  # words that the vocabulary cannot spell
    states: int
    arcs: int


def write_graph(
    path: Path,
    vocabulary: Vocabulary,
    words: Sequence[str],
    lm: Path | None = None,
    lm_weight: float = 1.0,
    word_score: float = 0.0,
) -> GraphReport:
    """Write HLG as a file of OpenFst, and the words beside it (the name of `path` followed by .words.txt).

    Args:
        lm: an n-gram model over words, ARPA, packed with gzip or not; None: every word costs the same.
        lm_weight: factor of the model's natural logarithms.
        word_score: added for every word, natural logarithm; above 0 favours more words.

    Raises:
        LanguageModelError: the vocabulary cannot spell half of the words, or the n-gram model cannot be read.
        MissingExtraError: kaldifst is not installed.
        AsrKdError: a file of one of these names exists, and asr-kd did not write it.
    """
    fst = import_extra("kaldifst", "graph")
    symbols = path.with_name(f"{path.name}.words.txt")
    register_files(path.parent, [path.name, symbols.name])
    lexicon = build_lexicon(words, vocabulary)
    kept = list(lexicon.spellings)
    numbers = {word: number for number, word in enumerate(kept, start=1)}
    backoff_word, backoff_token = len(kept) + 1, len(vocabulary) + 1
    spellings = {word: vocabulary.encode(word) for word in kept}

    grammar = _grammar(fst, numbers, backoff_word, lm, lm_weight, word_score)
    letters = fst.compile(_lines(_lexicon_arcs(spellings, numbers, separator_of(vocabulary))), acceptor=False)
    fst.add_self_loops(letters, [backoff_token], [backoff_word])
    fst.arcsort(letters, sort_type="olabel")
    fst.arcsort(grammar, sort_type="ilabel")
    words_of_letters = fst.compose(letters, grammar)
    fst.determinize_star(words_of_letters)
    fst.minimize_encoded(words_of_letters)
    words_of_letters = _without_backoff(fst, words_of_letters, backoff_token, backoff_word)
    fst.connect(words_of_letters)
    fst.arcsort(words_of_letters, sort_type="ilabel")

    topology = fst.compile(_lines(_topology_arcs(len(vocabulary), vocabulary.blank_id)), acceptor=False)
    fst.arcsort(topology, sort_type="olabel")
    graph = fst.compose(topology, words_of_letters)
    fst.connect(graph)
    arcs = sum(graph.num_arcs(state) for state in range(graph.num_states))
    if not arcs:
        raise LanguageModelError("allows no word", where=lm or path, expected="words that are in the model's lexicon")
    with atomic_path(path) as partial:
        graph.write(str(partial))
    with atomic_path(symbols) as partial:
        lines = [EPSILON, *kept, BACKOFF]
        partial.write_text("".join(f"{word} {number}\n" for number, word in enumerate(lines)), encoding="utf-8")
    return GraphReport(len(kept), lexicon.left_out, graph.num_states, arcs)


def _lines(arcs: Iterable[tuple[float, ...]]) -> str:
    """Arcs and final states in OpenFst's text format: from, to, input, output, cost; or state, cost."""
    return "".join(
        " ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in arc) + "\n" for arc in arcs
    )


def _topology_arcs(num_tokens: int, blank_id: int) -> Iterator[tuple[float, ...]]:
    """CTC: state 0 after a blank, state t + 1 after token t; repeats have no output."""
    tokens = [token for token in range(num_tokens) if token != blank_id]
    for state in (0, *(token + 1 for token in tokens)):
        yield state, 0, blank_id + 1, 0
        for token in tokens:
            yield state, token + 1, token + 1, 0 if state == token + 1 else token + 1
        yield state, 0.0


def _lexicon_arcs(
    spellings: dict[str, list[int]], numbers: dict[str, int], separator: int | None
) -> Iterator[tuple[float, ...]]:
    """State 0 before a word; state 1 after one, where a separator must come before the next."""
    after = 0 if separator is None else 1
    state = 1
    for word, tokens in spellings.items():
        at, output = 0, numbers[word]
        for token in tokens[:-1]:
            state += 1
            yield at, state, token + 1, output
            at, output = state, 0
        yield at, after, tokens[-1] + 1, output
    if separator is not None:
        yield 1, 0, separator + 1, 0
        yield 1, 0.0
    yield 0, 0.0


def _grammar(
    fst: Any, numbers: dict[str, int], backoff: int, lm: Path | None, lm_weight: float, word_score: float
) -> Any:
    if lm is None:
        arcs: list[tuple[float, ...]] = [(0, 0, number, number, -word_score) for number in numbers.values()]
        return fst.compile(_lines([*arcs, (0, 0.0)]), acceptor=False)
    scale = -lm_weight * math.log(10)
    grams = read_arpa(lm)
    histories = {gram[:-1] for gram in grams} | {(word,) for word in numbers}
    histories = {gram for gram in histories if "</s>" not in gram} - {(), ("<s>",)}
    states = {history: number for number, history in enumerate([("<s>",), (), *sorted(histories)])}

    def state_after(words: Gram) -> int:
        """The longest history that is known."""
        return states[next(words[start:] for start in range(len(words) + 1) if words[start:] in states)]

    arcs = []
    for gram, (log_prob, _) in grams.items():
        history, word = gram[:-1], gram[-1]
        if history not in states or word == "<s>":
            continue
        if word == "</s>":
            arcs.append((states[history], scale * log_prob))
        elif word in numbers:
            cost = scale * log_prob - word_score
            arcs.append((states[history], state_after(gram), numbers[word], numbers[word], cost))
    for history, number in states.items():
        if history:
            backs_off = grams[history][1] if history in grams else None
            arcs.append((number, state_after(history[1:]), backoff, backoff, scale * (backs_off or 0.0)))
    arcs.sort(key=lambda arc: arc[0])  # the first state that is written is the initial one: <s>
    return fst.compile(_lines(arcs), acceptor=False)


def read_arpa(path: Path) -> dict[Gram, tuple[float, float | None]]:
    """Read an n-gram model: n-gram → log10 of its probability, and its backoff weight where it has one.

    Raises:
        LanguageModelError: cannot be read, a row is malformed, which is named, or rows are missing.
    """
    grams: dict[Gram, tuple[float, float | None]] = {}
    promised: dict[int, int] = {}
    order, ended = 0, False
    with reading_text(path, "ARPA, or ARPA in gzip") as file:
        for number, line in enumerate(file, start=1):
            if section := re.fullmatch(r"\\(\d+)-grams:", line.strip()):
                order = int(section[1])
            elif not order and (header := re.fullmatch(r"ngram +(\d+) *= *(\d+)", line.strip())):
                promised[int(header[1])] = int(header[2])
            elif line.strip() == "\\end\\":
                ended = True
            elif order and line.strip():
                fields = line.split()
                if len(fields) not in (order + 1, order + 2):
                    raise ValueError(f"row {number} has {len(fields)} columns")
                log_prob, backs_off = float(fields[0]), float(fields[-1]) if len(fields) == order + 2 else None
                if not log_prob <= 0 or math.isnan(backs_off or 0.0):
                    raise ValueError(f"row {number} has a probability of {fields[0]}, backoff {backs_off}")
                grams[tuple(fields[1 : order + 1])] = log_prob, backs_off
    if not ended or ("</s>",) not in grams:
        raise LanguageModelError("has no \\end\\ or no </s>", where=path, expected="a complete ARPA file over words")
    counts = Counter(map(len, grams))
    for length, count in promised.items():
        if counts[length] != count:
            raise LanguageModelError(
                f"has {counts[length]} different {length}-grams",
                where=path,
                expected=f"{count}, as in its header",
                remedy="Copy the file again, or build the model again",
            )
    return grams


def _without_backoff(fst: Any, graph: Any, token: int, word: int) -> Any:
    """Replace the backoff symbol, which kept the composition deterministic, with epsilon."""
    rows = []
    for line in str(graph).splitlines():
        fields = line.split()
        if len(fields) >= 4:
            fields[2] = "0" if int(fields[2]) == token else fields[2]
            fields[3] = "0" if int(fields[3]) == word else fields[3]
        rows.append(" ".join(fields))
    return fst.compile("\n".join(rows) + "\n", acceptor=False)

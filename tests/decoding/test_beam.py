"""Beam search against enumeration of all paths and torchaudio's decoder called directly; streams against the whole."""

import gzip
import itertools
import math
import sys
from collections import defaultdict

import pytest
import torch
from torchaudio.models.decoder import ctc_decoder

from asr_kd.decoding import beam as beam_module
from asr_kd.decoding.base import text_of, words_of
from asr_kd.decoding.beam import BeamSearch, open_decoder
from asr_kd.decoding.greedy import greedy
from asr_kd.decoding.lexicon import build_lexicon
from asr_kd.decoding.settings import DecodingSettings, read_decoding
from asr_kd.errors import LanguageModelError, MissingExtraError, RecipeError, VocabularyError
from asr_kd.text.kneser_ney import estimate
from asr_kd.text.vocabulary import Vocabulary

LETTERS = Vocabulary(("<blk>", "▁", "A", "B"))
BLANK, SEPARATOR = 0, 1
WORDS = ["A", "B", "AB", "BA"]
SENTENCES = ["A B", "AB A", "B BA A", "A AB", "BA B", "A A B"]
WIDE = {"beam_size": 4_000, "beam_threshold": 900.0}
ANY = {"kind": "beam", "beam_size": 30, "beam_threshold": 25.0, "beam_tokens": 40}


@pytest.fixture(scope="module")
def lm(tmp_path_factory):
    """Word and token models, and a lexicon: their paths."""
    folder = tmp_path_factory.mktemp("lm")
    (folder / "words.arpa").write_text("".join(estimate(SENTENCES, 2).arpa_lines()))
    spelled = [" ".join(LETTERS.symbols[token] for token in LETTERS.encode(text)) for text in SENTENCES]
    (folder / "tokens.arpa").write_text("".join(estimate(spelled, 3).arpa_lines()))
    (folder / "words.txt").write_text("".join(f"{word}\n" for word in WORDS))
    return {"lm": folder / "words.arpa", "lexicon": folder / "words.txt", "tokens": folder / "tokens.arpa"}


def search(vocabulary=LETTERS, **options) -> BeamSearch:
    return BeamSearch(vocabulary, DecodingSettings.model_validate({**ANY, **options}))


def random_posteriors(frames: int, seed: int, size: int = 4, sharpness: float = 2.0) -> torch.Tensor:
    """[1, T, V]"""
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(1, frames, size, generator=generator) * sharpness).log_softmax(-1)


def arpa_score(path, sentence: str, weight: float) -> float:
    """Weighted log10 probability of a sentence, its end included."""
    table = {}
    for line in path.read_text().splitlines():
        row = line.split("\t")
        if len(row) > 1:
            table[row[1]] = (float(row[0]), float(row[2]) if len(row) > 2 else 0.0)

    def score(context: tuple[str, ...], word: str) -> float:
        if " ".join((*context, word)) in table:
            return table[" ".join((*context, word))][0]
        return table.get(" ".join(context), (0.0, 0.0))[1] + score(context[1:], word)

    words = ["<s>", *sentence.split(), "</s>"]
    return weight * sum(score(tuple(words[max(i - 1, 0) : i]), words[i]) for i in range(1, len(words)))


def enumerated(log_probs: torch.Tensor) -> dict[str, float]:
    """Sentence → probability of all paths that spell it, in words of the lexicon."""
    mass: dict[str, float] = defaultdict(float)
    for path in itertools.product(range(4), repeat=log_probs.shape[1]):
        tokens = [token for token, _ in itertools.groupby(path) if token != BLANK]
        words = LETTERS.decode(tokens).split()
        if all(word in WORDS for word in words):
            mass[" ".join(words)] += math.exp(sum(float(log_probs[0, t, x]) for t, x in enumerate(path)))
    return mass


def test_with_lexicon_and_lm_the_scores_are_those_of_all_paths(lm):
    log_probs = random_posteriors(5, 3)
    decoder = search(lm=lm["lm"], lexicon=lm["lexicon"], lm_weight=1.3, word_score=0.4, nbest=1_000, **WIDE)
    [found] = decoder.decode(log_probs, torch.tensor([5]))
    expected = {
        text: math.log(mass) + arpa_score(lm["lm"], text, 1.3) + 0.4 * len(text.split())
        for text, mass in enumerated(log_probs).items()
    }
    best = max(expected, key=expected.__getitem__)
    assert text_of(found[0], LETTERS) == best
    assert len(expected) > 10
    for item in found:
        assert item.score == pytest.approx(expected[text_of(item, LETTERS)], abs=1e-4)
    assert {text_of(item, LETTERS) for item in found} == expected.keys()
    assert [item.score for item in found] == sorted((item.score for item in found), reverse=True)


def test_it_is_torchaudios_decoder(lm, tmp_path):
    """The same lexicon, spelled as torchaudio's documentation has it, and the same options."""
    names = ["-", "|", "A", "B"]
    (tmp_path / "lexicon.txt").write_text("".join(f"{word} {' '.join(word)} |\n" for word in WORDS))
    theirs = ctc_decoder(
        lexicon=str(tmp_path / "lexicon.txt"),
        tokens=names,
        lm=str(lm["lm"]),
        nbest=3,
        beam_size=30,
        beam_threshold=25,
        lm_weight=0.7,
        word_score=-0.3,
        log_add=True,
    )
    ours = search(lm=lm["lm"], lexicon=lm["lexicon"], lm_weight=0.7, word_score=-0.3)
    for seed in range(10):
        log_probs = random_posteriors(30, seed)
        ended = torch.cat([log_probs, torch.from_numpy(ours.last_frame()).unsqueeze(0)], dim=1)
        reference = theirs(ended)[0][0]
        [[found]] = ours.decode(log_probs, torch.tensor([30]))
        assert list(found.words) == reference.words
        assert found.score == pytest.approx(reference.score, abs=1e-5)
        assert len(found.words) > 2


def test_without_a_lexicon_the_lm_is_over_tokens(lm):
    log_probs = random_posteriors(40, 1, sharpness=1.0)
    lens = torch.tensor([40])
    [[plain]] = search().decode(log_probs, lens)
    [[ruled]] = search(lm=lm["tokens"], lm_weight=8.0).decode(log_probs, lens)
    assert plain.tokens != ruled.tokens
    seen = {pair for text in SENTENCES for pair in itertools.pairwise(LETTERS.encode(text))}
    assert set(itertools.pairwise(ruled.tokens)) <= seen, "only what the text holds"


def test_sharp_posteriors_need_no_search(lm):
    log_probs = random_posteriors(30, 5, sharpness=40.0)
    [[found]] = search().decode(log_probs, torch.tensor([30]))
    assert found.tokens == greedy(log_probs, torch.tensor([30]), BLANK)[0].tokens
    [[alike]] = open_decoder(LETTERS).decode(log_probs, torch.tensor([30]))
    assert (found.tokens, found.frames, found.ends) == (alike.tokens, alike.frames, alike.ends)
    assert found.log_probs == pytest.approx(alike.log_probs)


def test_padding_batches_and_no_frames_change_nothing(lm):
    decoder = search(lm=lm["lm"], lexicon=lm["lexicon"])
    log_probs = torch.cat([random_posteriors(30, seed) for seed in (1, 2, 3)])
    together = decoder.decode(log_probs, torch.tensor([12, 30, 0]))
    assert together[0] == decoder.decode(log_probs[:1, :12], torch.tensor([12]))[0]
    assert together[1] == decoder.decode(log_probs[1:2], torch.tensor([30]))[0]
    assert text_of(together[2][0], LETTERS) == ""
    assert decoder.decode(log_probs.bfloat16().float(), torch.tensor([12, 30, 0]))[0]


CASES = ["plain", "lexicon", "words", "tokens", "hotwords", "hotwords and words"]


def settings_of(case: str, lm) -> dict:
    return {
        "plain": {},
        "lexicon": {"lexicon": lm["lexicon"]},
        "words": {"lm": lm["lm"], "lexicon": lm["lexicon"]},
        "tokens": {"lm": lm["tokens"], "lm_weight": 0.5},
        "hotwords": {"hotwords": ("AB", "B A")},
        "hotwords and words": {"lm": lm["lm"], "lexicon": lm["lexicon"], "hotwords": ("AB",)},
    }[case]


@pytest.mark.parametrize("seed", [0, 2])
@pytest.mark.parametrize("case", CASES)
def test_a_stream_gives_what_the_whole_gives_however_it_is_cut(case, seed, lm, monkeypatch):
    monkeypatch.setattr(beam_module, "SETTLE_FRAMES", 20)  # look often for settled frames
    decoder = search(nbest=3, beam_threshold=8.0, **settings_of(case, lm))
    log_probs = random_posteriors(120, seed, sharpness=6.0)
    [whole] = decoder.decode(log_probs, torch.tensor([120]))
    cuts = sorted(torch.randint(0, 120, (6,), generator=torch.Generator().manual_seed(seed)).tolist())
    for ends in ([120], [*cuts, 120], [*range(1, 121)]):
        stream = decoder.stream()
        for start, stop in itertools.pairwise([0, *ends]):
            stream.accept(log_probs[0, start:stop])
        stream.finish()
        streamed = stream.nbest()
        assert stream.num_frames == 120
        assert stream.pending_frames < 120, "something was settled"
        assert streamed[0]._replace(score=0) == whole[0]._replace(score=0)
        assert [text_of(item, LETTERS) for item in streamed] == [text_of(item, LETTERS) for item in whole]
        for ours, theirs in zip(streamed, whole, strict=True):
            assert ours.score == pytest.approx(theirs.score, abs=1e-3)
    assert len(whole[0].tokens) > 10


def test_a_stream_remembers_no_more_than_a_bound(lm):
    stream = search(lm=lm["lm"], lexicon=lm["lexicon"]).stream()
    longest = 0
    for seed in range(30):
        stream.accept(random_posteriors(200, seed)[0])
        longest = max(longest, stream.pending_frames)
    assert stream.num_frames == 6_000
    assert longest <= beam_module.SETTLE_FRAMES + 200
    stream.reset()
    assert stream.num_frames == stream.pending_frames == 0


def test_a_tie_that_never_ends_is_settled_all_the_same():
    """The first letter is A or B with equal probability, whatever follows: no prefix is in all hypotheses."""
    tie = torch.tensor([[0.001, 0.001, 0.499, 0.499], [0.9, 0.04, 0.03, 0.03]]).log()
    calm = torch.tensor([[0.9, 0.04, 0.03, 0.03], [0.03, 0.04, 0.9, 0.03]]).log().repeat(20, 1)
    stream, pending = search().stream(), []
    stream.accept(tie)
    for _ in range(100):
        stream.accept(calm)
        pending.append(stream.pending_frames)
    longest = beam_module.LONGEST_UNSETTLED_FRAMES
    assert longest - len(calm) <= max(pending) <= longest + beam_module.SETTLE_FRAMES
    assert max(pending[50:]) < longest / 2, "the tie is gone"
    stream.finish()
    found = stream.nbest()[0]
    assert found.frames == sorted(set(found.frames))
    assert (len(found.frames), found.frames[-1]) == (2_001, stream.num_frames - 1)


def test_partial_results_grow_with_the_stream_and_a_stream_can_start_anew(lm):
    decoder = search(lm=lm["lm"], lexicon=lm["lexicon"])
    log_probs = random_posteriors(60, 7, sharpness=5.0)
    stream = decoder.stream()
    assert stream.nbest()[0].tokens == []
    stream.accept(log_probs[0, :40])
    partial = text_of(stream.nbest()[0], LETTERS)
    stream.accept(log_probs[0, 40:])
    stream.finish()
    stream.finish()
    final = text_of(stream.nbest()[0], LETTERS)
    assert partial
    assert final.startswith(partial[:3])
    with pytest.raises(ValueError, match="ended"):
        stream.accept(log_probs[0])
    stream.reset()
    stream.accept(log_probs[0])
    stream.finish()
    assert text_of(stream.nbest()[0], LETTERS) == final


def test_streams_of_one_search_do_not_disturb_each_other(lm):
    decoder = search(lm=lm["lm"], lexicon=lm["lexicon"])
    both = [random_posteriors(40, seed)[0] for seed in (1, 2)]
    streams = [decoder.stream(), decoder.stream()]
    for start in range(0, 40, 8):
        for stream, log_probs in zip(streams, both, strict=True):
            stream.accept(log_probs[start : start + 8])
            decoder.decode(random_posteriors(5, start), torch.tensor([5]))
    for stream, log_probs in zip(streams, both, strict=True):
        stream.finish()
        [[whole]] = decoder.decode(log_probs.unsqueeze(0), torch.tensor([40]))
        assert stream.nbest()[0].tokens == whole.tokens


def test_the_beam_counts_trailing_blanks_as_greedy_does():
    log_probs = random_posteriors(50, 2, sharpness=5.0)
    log_probs[0, 44:] = torch.tensor([0.97, 0.01, 0.01, 0.01]).log()
    streams = [search().stream(), open_decoder(LETTERS).stream()]
    for stream in streams:
        for part in log_probs[0].split(7):
            stream.accept(part)
    assert streams[0].trailing_blanks == streams[1].trailing_blanks == 6


@pytest.mark.parametrize("case", ["plain", "words"])
def test_frames_that_are_surely_blank_can_be_left_out(case, lm):
    log_probs = random_posteriors(80, 4, sharpness=5.0)
    quiet = torch.tensor([0.9991, 0.0003, 0.0003, 0.0003]).log()
    for start, stop in ((0, 9), (20, 21), (30, 44), (70, 80)):
        log_probs[0, start:stop] = quiet
    lens = torch.tensor([80])
    all_heard = search(sure_blank=1.0, **settings_of(case, lm))
    [[every]], [[few]] = (decoder.decode(log_probs, lens) for decoder in (all_heard, search(**settings_of(case, lm))))
    assert few._replace(score=0) == every._replace(score=0), "also the times"
    assert few.score == pytest.approx(every.score, abs=0.1)
    stream = search(**settings_of(case, lm)).stream()
    for part in log_probs[0].split(3):
        stream.accept(part)
    assert (stream.num_frames, stream.trailing_blanks) == (80, 10)
    sure = log_probs[0, :, BLANK].exp() > 0.995
    assert stream.pending_frames == 80 - int((sure[1:] & sure[:-1]).sum()) <= 50
    stream.finish()
    assert stream.nbest()[0]._replace(score=0) == few._replace(score=0)
    assert stream.nbest()[0].score == pytest.approx(few.score, abs=1e-4)


# -- hotwords --------------------------------------------------------------------------------------------


def close_call() -> torch.Tensor:
    """[1, 5, 4]: spells "AB", and "BB" a little less likely."""
    rows = [[0.0, 0.0, 0.6, 0.4], [1, 0, 0, 0], [0, 0, 0.0, 1.0], [1, 0, 0, 0], [1, 0, 0, 0]]
    return (torch.tensor(rows) + 1e-6).log().unsqueeze(0)


@pytest.mark.parametrize("case", ["plain", "words", "tokens"])
def test_a_hotword_rises_by_its_score_and_no_other(case, lm, tmp_path):
    options = settings_of(case, lm)
    if case == "words":
        (tmp_path / "words.txt").write_text("A\nB\nAB\nBA\nBB\n")
        options["lexicon"] = tmp_path / "words.txt"
    lens = torch.tensor([5])
    [before] = search(nbest=30, **options).decode(close_call(), lens)
    [after] = search(nbest=30, hotwords=("BB",), hotword_score=3.0, **options).decode(close_call(), lens)
    scores = [{text_of(item, LETTERS): item.score for item in found} for found in (before, after)]
    assert text_of(before[0], LETTERS) == "AB"
    assert text_of(after[0], LETTERS) == "BB"
    assert scores[1]["BB"] - scores[0]["BB"] == pytest.approx(3.0, abs=1e-4)
    assert scores[1]["AB"] == pytest.approx(scores[0]["AB"], abs=1e-4)


def test_no_hotword_changes_nothing(lm):
    log_probs, lens = random_posteriors(40, 3), torch.tensor([40])
    for case in ("plain", "words", "tokens"):
        options = settings_of(case, lm)
        assert search(**options).decode(log_probs, lens) == search(hotwords=(), **options).decode(log_probs, lens)
        [[plain]] = search(**options).decode(log_probs, lens)
        [[absent]] = search(hotwords=("BBBBBBBB",), hotword_score=0.0, **options).decode(log_probs, lens)
        assert absent.tokens == plain.tokens
        assert absent.score == pytest.approx(plain.score, abs=1e-4)


def test_a_hotword_need_not_be_in_the_lexicon(lm):
    [[found]] = search(lexicon=lm["lexicon"], lm=lm["lm"], hotwords=("BB",), hotword_score=20.0).decode(
        close_call(), torch.tensor([5])
    )
    assert found.words == ("BB",)


# -- what it is made of ----------------------------------------------------------------------------------


def test_every_hypothesis_has_another_text(lm, tmp_path):
    texts = ["ABBA BABA", "ABA BAB ABBA"] * 5
    subwords = Vocabulary.subwords(texts, 8)
    for vocabulary, options in ((LETTERS, {}), (LETTERS, {"lexicon": lm["lexicon"]}), (subwords, {})):
        log_probs = random_posteriors(12, 1, size=len(vocabulary), sharpness=1.0)
        decoder = search(vocabulary, nbest=8, **{**options, "beam_size": 200})
        [found] = decoder.decode(log_probs, torch.tensor([12]))
        written = [text_of(item, vocabulary) for item in found]
        assert len(set(written)) == len(written) == 8
        assert [item.score for item in found] == sorted((item.score for item in found), reverse=True)


def test_weights_can_be_changed_without_loading_anew(lm, monkeypatch):
    decoder = search(lm=lm["lm"], lexicon=lm["lexicon"], lm_weight=0.0, word_score=0.0)
    monkeypatch.setattr("asr_kd.decoding.beam.open_kenlm", None)
    other = decoder.reweighted(2.0, 1.5)
    log_probs, lens = random_posteriors(30, 4), torch.tensor([30])
    monkeypatch.undo()
    fresh = search(lm=lm["lm"], lexicon=lm["lexicon"], lm_weight=2.0, word_score=1.5)
    assert other.decode(log_probs, lens) == fresh.decode(log_probs, lens)
    assert (other.settings.lm_weight, decoder.settings.lm_weight) == (2.0, 0.0)


def test_packed_models_and_published_lexica_are_read(lm, tmp_path):
    with gzip.open(tmp_path / "3-gram.arpa.gz", "wt") as file:
        file.write(lm["lm"].read_text())
    # LibriSpeech's: a word, then its sounds; some words twice; marks.
    published = "A  AH0\nA  EY1\nAB\tAE1 B\nB  B IY1\nBA  B AA1\n<UNK>  SPN\n"
    with gzip.open(tmp_path / "lexicon.txt.gz", "wt") as file:
        file.write(published)
    log_probs, lens = random_posteriors(30, 4), torch.tensor([30])
    plain = search(lm=lm["lm"], lexicon=lm["lexicon"])
    packed = search(lm=tmp_path / "3-gram.arpa.gz", lexicon=tmp_path / "lexicon.txt.gz")
    assert packed.decode(log_probs, lens) == plain.decode(log_probs, lens)
    assert packed.lexicon.left_out == 1


def test_subwords_may_fill_several_frames_at_the_end_of_a_word(tmp_path):
    texts = ["ABBA BABA", "ABA BAB ABBA"] * 5
    vocabulary = Vocabulary.subwords(texts, 8)
    words = {word for text in texts for word in text.split()}
    assert not build_lexicon(words, vocabulary).ends_in_separator
    (tmp_path / "words.txt").write_text("".join(f"{word}\n" for word in sorted(words)))
    path = [token for token in vocabulary.encode("ABBA BAB") for _ in range(3)]
    log_probs = (torch.nn.functional.one_hot(torch.tensor(path), len(vocabulary)).float() * 12).log_softmax(-1)

    [[free]] = search(vocabulary).decode(log_probs.unsqueeze(0), torch.tensor([len(path)]))
    assert text_of(free, vocabulary) == "ABBA BAB"
    decoder = search(vocabulary, lexicon=tmp_path / "words.txt")
    [[found]] = decoder.decode(log_probs.unsqueeze(0), torch.tensor([len(path)]))
    assert found.words == ("ABBA", "BAB")
    assert found.score == pytest.approx(free.score, abs=0.01)
    words = words_of(found, vocabulary, 40.0)
    assert [word.text for word in words] == ["ABBA", "BAB"]
    assert words[1].end_seconds == pytest.approx(0.04 * len(path))


def test_what_does_not_fit_is_refused_with_a_reason(lm, tmp_path):
    bad = tmp_path / "bad.arpa"
    bad.write_text("no model\n")
    lower = tmp_path / "lower.txt"
    lower.write_text("a\nb\nab\nA\n")
    with pytest.raises(LanguageModelError, match="no such file"):
        search(lm=tmp_path / "missing.arpa", lexicon=lm["lexicon"])
    with pytest.raises(LanguageModelError, match=r"bad\.arpa.*KenLM cannot read"):
        search(lm=bad, lexicon=lm["lexicon"])
    with pytest.raises(LanguageModelError, match="can spell 1 of its 4 words"):
        search(lexicon=lower)
    with pytest.raises(LanguageModelError, match="cannot be read"):
        search(lexicon=tmp_path / "missing.txt")
    with pytest.raises(LanguageModelError, match="--unit token"):
        search(Vocabulary(("<blk>", "▁", "X", "Y")), lm=lm["lm"])
    bad.write_text("\n\n")
    with pytest.raises(LanguageModelError, match="holds no word"):
        search(lexicon=bad)


def test_without_flashlight_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchaudio.models.decoder", None)
    with pytest.raises(MissingExtraError, match=r"asr-kd\[lm\]"):
        search()


def test_settings_come_from_a_file_and_hotwords_make_a_beam(tmp_path):
    path = tmp_path / "tuned.json"
    path.write_text('{"decoding": {"kind": "beam", "lm_weight": 0.5, "hotwords": ["A B"]}, "dev": {}}')
    assert read_decoding(None) == DecodingSettings()
    assert read_decoding(path).lm_weight == 0.5
    assert read_decoding(path, ["C"]).hotwords == ("A B", "C")
    assert read_decoding(None, ["C"]).kind == "beam"
    path.write_text("kind: beem\n")
    with pytest.raises(RecipeError, match="kind"):
        read_decoding(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lm: 3-gram.arpa", "lm needs kind: beam"),
        ("lm_weight: 0.5", "lm_weight needs kind: beam"),
        ("{word_score: 1, nbest: 5, beam_size: 50}", "word_score, beam_size, nbest need kind: beam"),
    ],
)
def test_what_greedy_decoding_would_ignore_is_refused(text, message, tmp_path):
    path = tmp_path / "decoding.yaml"
    path.write_text(f"{text}\n")
    with pytest.raises(RecipeError, match=message):
        read_decoding(path)
    path.write_text("{kind: greedy, lm: null, lm_weight: null, beam_size: 25}\n")
    assert read_decoding(path) == DecodingSettings()


@pytest.mark.parametrize("lexicon", [False, True])
def test_a_partial_result_stays_where_all_frames_are_settled(lexicon, lm):
    path = [BLANK, 2, BLANK, 3, SEPARATOR] * 100
    log_probs = torch.full((len(path), 4), -30.0)
    log_probs[torch.arange(len(path)), path] = 0.0
    stream = search(beam_size=1, **({"lexicon": lm["lexicon"]} if lexicon else {})).stream()
    for end in range(50, len(path) + 1, 50):
        stream.accept(log_probs[end - 50 : end])
        words = text_of(stream.nbest()[0], LETTERS).split()
        assert words == ["AB"] * len(words)
        assert 0 <= end // 5 - len(words) <= lexicon, end  # the last word of a lexicon may not have ended
    if not lexicon:
        assert stream.pending_frames == 0


def test_a_token_model_fits_a_vocabulary_with_a_symbol_for_unknown_ones(lm):
    with_unknown = Vocabulary((*LETTERS.symbols, "<unk>"))
    log_probs = random_posteriors(30, 1)
    more = torch.cat([log_probs, torch.full((1, 30, 1), -50.0)], -1)
    [[plain]] = search(lm=lm["tokens"]).decode(log_probs, torch.tensor([30]))
    [[found]] = search(with_unknown, lm=lm["tokens"]).decode(more, torch.tensor([30]))
    assert (found.tokens, found.score) == (plain.tokens, pytest.approx(plain.score, abs=1e-3))


@pytest.mark.parametrize("text", ["decoding: null", "decoding: 5", "hotwords: WORD", "hotwords: null", "hotwords: 5"])
def test_malformed_decoding_files_are_refused_beside_hotwords_too(tmp_path, text):
    path = tmp_path / "decoding.yaml"
    path.write_text(text)
    for hotwords in ([], ["A"]):
        with pytest.raises(RecipeError, match="expected a"):
            read_decoding(path, hotwords)


def test_words_that_the_vocabulary_cannot_spell_are_counted_in_a_warning(tmp_path, caplog):
    (tmp_path / "words.txt").write_text("A\nAB\nBOX\n")
    assert list(search(lexicon=tmp_path / "words.txt").lexicon.spellings) == ["A", "AB"]
    assert caplog.messages == [f"{tmp_path / 'words.txt'}: the vocabulary cannot spell 1 of its words, left out"]


def test_a_lexicon_for_subwords_without_their_model_is_refused_with_the_cause(lm):
    with pytest.raises(VocabularyError, match=r"subwords but no bpe\.model"):
        search(Vocabulary(("<blk>", "▁A", "B")), lexicon=lm["lexicon"])

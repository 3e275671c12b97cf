"""Beside NIST's sclite and sc_stats: our trn is theirs, our totals are theirs or lower, our test is theirs."""

import random
import re
from itertools import combinations

import pytest

from asr_kd.scoring.formats import TimedWord
from asr_kd.scoring.paired import matched_pairs, segment_errors
from asr_kd.scoring.transcripts import write_transcripts
from asr_kd.scoring.wer import score, score_groups
from tests.helpers import sclite

needs_sclite = pytest.mark.skipif(not sclite.command("sclite"), reason=sclite.MISSING)

STORED = """\
<SYSTEM title="h1.trn" ref_fname="ref.trn" hyp_fname="h1.trn" format="2.4" frag_corr="FALSE" opt_del="FALSE">
<SPEAKER id="ann">
<PATH id="(ann-1)" word_cnt="6" sequence="0">
C,"the","the":C,"cat","cat":C,"sat","sat":C,"on","on":S,"the","a":C,"mat","mat"
</PATH>
<PATH id="(ann-2)" word_cnt="9" sequence="1">
C,"one","one":C,"two","two":C,"three","three":S,"four","for":C,"five","five":C,"six","six":C,"seven","seven":I,,\
"eight":C,"eight","eight"
</PATH>
</SPEAKER>
</SYSTEM>
"""
"""What sclite 2.10 writes of test_paired's first system, as it is laid out."""


@pytest.fixture(scope="module")
def texts():
    """References of 4 speakers and 3 systems of 9 to 20 % errors; no system inserts at the end of an utterance."""
    rng = random.Random(7)
    vocabulary = [a + b for a in "bdfgklmnprstvz" for b in ("a", "e", "i", "o", "u", "an", "es")]
    references = {f"s{n % 4}-{n:03d}": rng.choices(vocabulary, k=rng.randint(1, 25)) for n in range(120)}
    systems = []
    for rate in (0.03, 0.05, 0.07):
        systems.append({key: " ".join(with_errors(words, rate, vocabulary, rng)) for key, words in references.items()})
    return {name: " ".join(words) for name, words in references.items()}, systems


def with_errors(words, rate, vocabulary, rng):
    """Words with errors of each kind at this rate."""
    for word in words:
        chance = rng.random()
        if chance < rate and word != words[-1]:
            yield rng.choice(vocabulary)
        if not rate <= chance < 2 * rate:
            yield rng.choice(vocabulary) if chance > 1 - rate else word


@pytest.fixture(scope="module")
def aligned(texts, tmp_path_factory):
    """sclite's alignments of the three systems, as it writes them."""
    folder = tmp_path_factory.mktemp("sclite")
    references, systems = texts
    write_transcripts(folder / "ref.trn", "trn", references)
    for number, system in enumerate(systems):
        write_transcripts(folder / f"h{number}.trn", "trn", system)
    written = [sclite.sgml(folder / "ref.trn", folder / f"h{number}.trn") for number in range(3)]
    return folder, written


def test_stored_output_of_sclite_reads_as_our_alignment():
    cells = sclite.paths(STORED)
    references = {name: " ".join(word for _, word, _ in path if word) for name, path in cells.items()}
    hypotheses = {name: " ".join(word for _, _, word in path if word) for name, path in cells.items()}
    scored = score(references, hypotheses, "none")
    assert len(cells) == 2
    for name, path in cells.items():
        words = scored.utterances[name].words
        kinds = [kind for kind, _, _ in path]
        assert (words.substitutions, words.deletions, words.insertions, words.hits) == tuple(map(kinds.count, "SDIC"))


@needs_sclite
def test_totals_are_sclites_or_lower_and_its_alignments_are_of_our_texts(texts, aligned):
    """sclite weighs a substitution 4 and the others 3: now and then that takes one error more."""
    references, systems = texts
    for system, written in zip(systems, aligned[1], strict=True):
        ours, theirs = score(references, system, "none"), sclite.paths(written)
        assert theirs.keys() == references.keys()
        errors = 0
        for name, cells in theirs.items():
            assert " ".join(word for _, word, _ in cells if word) == references[name]
            assert " ".join(word for _, _, word in cells if word) == system[name]
            own = sum(kind != "C" for kind, _, _ in cells)
            assert ours.utterances[name].words.errors <= own
            errors += own
        assert errors > 100
        assert ours.words.errors == pytest.approx(errors, rel=0.01)


@needs_sclite
def test_errors_of_each_speaker_are_sclites(texts, aligned):
    references, systems = texts
    ours = score_groups(score(references, systems[0], "none"), {name: name.split("-")[0] for name in references})
    folder = aligned[0]
    table = sclite.run(
        *("sclite", "-r", "ref.trn", "trn", "-h", "h0.trn", "trn", "-i", "spu_id", "-o", "rsum", "stdout"),
        folder=folder,
    )
    rows = re.findall(r"\| (s\d) +\| +(\d+) +(\d+) \| +(\d+) +(\d+) +(\d+) +(\d+) +(\d+) +(\d+) +\|", table)
    assert len(rows) == 4
    for speaker, *numbers in rows:
        utterances, words, _, _, _, _, errors, _ = map(int, numbers)
        own = ours[speaker]
        assert (own.utterances, own.words.length) == (utterances, words)
        assert 0 <= errors - own.words.errors <= 1


@needs_sclite
def test_mapsswe_on_sclites_alignments_is_that_of_sc_stats(aligned):
    folder, written = aligned
    sclite.run(*("sc_stats", "-p", "-t", "mapsswe", "-v", "-n", "all"), folder=folder, text="".join(written))
    found = re.findall(
        r"systems: h(\d).trn h(\d).trn\) \(# segs: (\d+)\).*\(mean: *(\S+)\).*\(Z Stat: *(\S+)\)",
        (folder / "all.stats.mapsswe").read_text(),
    )
    assert len(found) == 3
    paths = [sclite.paths(sgml) for sgml in written]
    lengths = [sum(kind != "I" for kind, _, _ in cells) for cells in paths[0].values()]
    alignments = [[sclite.alignment(cells) for cells in own.values()] for own in paths]
    for (first, second), (*systems, segments, mean, z) in zip(combinations(range(3), 2), found, strict=True):
        assert [first, second] == list(map(int, systems))
        found = matched_pairs(alignments[first], alignments[second], lengths)
        assert found.segments == int(segments)
        assert found.mean == pytest.approx(float(mean), abs=6e-4)
        assert found.z == pytest.approx(float(z), abs=6e-4)
        assert segment_errors(alignments[first], alignments[second], lengths).shape == (2, int(segments))


@needs_sclite
def test_sclite_reads_our_ctm(tmp_path):
    """Times show which word belongs to which utterance of a recording's transcript (stm)."""
    words = [TimedWord("one", 0.0, 0.4, 0.9), TimedWord("too", 0.5, 0.3, 0.5), TimedWord("three", 1.1, 0.4, None)]
    write_transcripts(tmp_path / "h.ctm", "ctm", {"rec": "one too three"}, {"rec": words})
    (tmp_path / "r.stm").write_text("rec 1 ann 0.0 1.0 one two\nrec 1 ann 1.0 2.0 three four\n")
    written = sclite.run(
        *("sclite", "-r", "r.stm", "stm", "-h", "h.ctm", "ctm", "-o", "rsum", "stdout"), folder=tmp_path
    )
    assert re.search(r"\| Sum +\| +2 +4 \| +2 +1 +1 +0 +2 +2 +\|", written), written

"""The dev set in parts scores as the whole does."""

import pytest
import torch

from asr_kd.distributed import ALONE, Ranks
from asr_kd.losses.base import References
from asr_kd.text.vocabulary import Vocabulary
from asr_kd.training.dev_scores import DevScores

VOCABULARY = Vocabulary.characters(["ABCD"])
REFERENCES = {f"u{index}": text for index, text in enumerate(["AB", "CD", "DA", "BBC", "A"])}


class InTurn(Ranks):
    """Two processes, of which the first has ended and left what it had."""

    def __init__(self, theirs):
        super().__init__(1, 2)
        self.theirs = theirs

    def gather(self, value):
        return [self.theirs, value]


class Left(Ranks):
    def gather(self, value):
        self.left = value
        return [value]


def add(scores: DevScores, ids: list[str]) -> None:
    generator = torch.Generator().manual_seed(int(ids[0][1]))
    log_probs = (torch.randn(1, 12, len(VOCABULARY), generator=generator) * 3).log_softmax(-1)
    for id_ in ids:
        tokens = VOCABULARY.encode(REFERENCES[id_])
        scores.add(
            [id_], log_probs, torch.tensor([12]), References(torch.tensor([tokens]), torch.tensor([len(tokens)]))
        )


def test_parts_together_are_the_whole():
    whole, first = DevScores(REFERENCES, VOCABULARY, ALONE), DevScores(REFERENCES, VOCABULARY, Left())
    for id_ in REFERENCES:
        add(whole, [id_])
    for id_ in ("u0", "u3"):
        add(first, [id_])
    first.row()
    second = DevScores(REFERENCES, VOCABULARY, InTurn(first.ranks.left))
    for id_ in ("u1", "u2", "u4"):
        add(second, [id_])
    assert second.row()["dev_wer"] == whole.row()["dev_wer"] > 0
    assert second.row()["dev_loss"] == pytest.approx(whole.row()["dev_loss"])
    second.clear()
    assert second.row() == pytest.approx(first.row() | {})


def test_a_transcript_that_is_too_long_for_its_audio_has_no_loss_and_counts_its_errors():
    """The loss of the others is then as finite as without it: epochs of equal WER are ordered by the loss."""
    plain, both = (DevScores(REFERENCES, VOCABULARY, ALONE) for _ in range(2))
    log_probs = torch.randn(2, 12, len(VOCABULARY), generator=torch.Generator().manual_seed(1)).log_softmax(-1)
    tokens = torch.tensor([[*VOCABULARY.encode("AB"), 0], VOCABULARY.encode("BBC")])
    token_lens, lens = torch.tensor([2, 3]), torch.tensor([12, 3])  # the second needs four frames
    alone = plain.add(["u0"], log_probs[:1], lens[:1], References(tokens[:1], token_lens[:1]))
    together = both.add(["u0", "u3"], log_probs, lens, References(tokens, token_lens))
    assert float(together) == pytest.approx(float(alone))
    assert both.row()["dev_loss"] == pytest.approx(plain.row()["dev_loss"])
    assert both.row()["dev_wer"] != plain.row()["dev_wer"]
    assert float(both.add(["u3"], log_probs[1:], lens[1:], References(tokens[1:], token_lens[1:]))) == 0.0

"""What a student reads of a store has an identity of its own, whatever else the store keeps."""

import pytest

from asr_kd.posteriors.measures import POOLED
from asr_kd.targets import Store, extract
from asr_kd.targets.store_index import StoreInfo
from tests.helpers.fake_teacher import FakeTeacher


@pytest.fixture
def info(tmp_path, corpus, settings):
    """Extracts with these settings and transcripts, and returns the store's index."""

    def made(token: int = 1, **changes) -> StoreInfo:
        transcripts = {utterance.id: [token] for utterance in corpus} if changes.get("pooled") else None
        folder = tmp_path / f"store-{len(list(tmp_path.iterdir()))}"
        extract(FakeTeacher(), corpus, settings.model_copy(update=changes), folder, transcripts=transcripts)
        return Store.open(folder).info

    return made


def test_frames_are_the_same_whether_more_is_kept_or_not(info):
    plain, more = info(), info(pooled=True)
    assert [shard.sha256 for shard in plain.shards] != [shard.sha256 for shard in more.shards]
    assert plain.parts_identity(()) == more.parts_identity(()) is not None
    assert plain.parts_identity((POOLED,)) is None
    assert more.parts_identity((POOLED,)) not in (None, more.parts_identity(()))


def test_each_part_has_its_own(info):
    one, other = info(pooled=True, token=1), info(pooled=True, token=2)
    assert one.parts_identity(()) == other.parts_identity(())
    assert one.parts_identity((POOLED,)) != other.parts_identity((POOLED,))


@pytest.mark.parametrize("change", [{"epsilon": 0.2}, {"levels": 5}, {"speeds": (1.0,)}])
def test_other_frames_are_distinguished(info, change):
    assert info().parts_identity(()) != info(**change).parts_identity(())


def test_a_store_with_a_shard_that_lacks_a_part_has_no_identity(info):
    whole = info()
    other = whole.model_copy(update={"shards": (*whole.shards[:-1], whole.shards[-1].model_copy(update={"parts": {}}))})
    assert other.parts_identity(()) is None

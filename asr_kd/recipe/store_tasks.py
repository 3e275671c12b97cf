"""Tasks of the stage extract that fill a store: its place, and its shards divided among processes by a fixed plan."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from asr_kd.errors import StoppedEarly, TargetsError
from asr_kd.files import read_json, write_json
from asr_kd.recipe.context import RunContext, Stop, store_sha256
from asr_kd.recipe.stage import StageTask
from asr_kd.targets.shard_manifest import done_shards
from asr_kd.targets.sharded_extraction import ShardReport
from asr_kd.targets.sharding import EVERYTHING, Share
from asr_kd.targets.storage import open_storage

PLACE = "place.json"
"""Note with the URL of a store that is outside the work_dir."""

Report = TypeVar("Report", bound=ShardReport[Any])


@dataclass(frozen=True)
class StorePlace:
    """Where a task puts a store: its folder, or below the recipe's `store_url`, with a note in the folder.

    Attributes:
        context: of the run.
        folder: of the task, in the work_dir.
        index: the file that completes the store.
    """

    context: RunContext
    folder: Path
    index: str

    @property
    def store(self) -> Path | str:
        """The folder or URL of the store."""
        return self.context.stored_at(self.folder)

    @property
    def result(self) -> Path:
        """The file in the work_dir without which the task is not done."""
        return self.folder / (self.index if self.context.recipe.store_url is None else PLACE)

    def key_settings(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Return the settings of the task's cache key."""
        url = self.context.recipe.store_url
        return settings if url is None else {**settings, "store_url": url}

    def write_note(self) -> None:
        """Write the store's URL and hash into the folder, where the recipe has a `store_url`."""
        if self.context.recipe.store_url is not None:
            write_json(self.result, {"place": str(self.store), "sha256": store_sha256(self.store, self.index)})

    def is_intact(self, check: Callable[[Path | str], bool]) -> bool:
        """Whether the store is the noted one and passes `check`, which may raise a TargetsError for damage."""
        try:
            return self._is_as_noted() and check(self.store)
        except TargetsError:
            return False  # the task runs again: it makes what is missing, or raises the error

    def _is_as_noted(self) -> bool:
        if self.context.recipe.store_url is None:
            return True
        try:
            note = read_json(self.result)
        except (OSError, ValueError):
            return False
        return open_storage(note["place"]).sha256(self.index) == note["sha256"]


def stop_after_a_shard(should_stop: Callable[[], Stop | None], stores: Sequence[Path | str]) -> Callable[[], bool]:
    """Return the `should_stop` of an extraction into these stores.

    On a signal it stops at once; at the time limit once a shard is done, so that each call makes progress.
    """

    def count() -> int:
        return sum(done_shards(store) for store in stores)

    before = count()

    def stop_now() -> bool:
        stop = should_stop()
        return stop is not None and (stop.urgent or count() > before)

    return stop_now


def sharded_task(
    places: Sequence[StorePlace],
    name: str,
    owner: str,
    folder: Path,
    compute: Callable[[Share], Report],
    check: Callable[[Path | str], bool],
    settings: dict[str, Any],
    stated: dict[str, Any],
    inputs: Callable[[], list[Any]],
    report: Callable[[Report], None] = lambda found: None,
) -> StageTask:
    """A task of the stage extract that fills stores, divided among several processes.

    Args:
        places: of the stores, in `folder`.
        owner: the teacher or labels that `--only` selects it by.
        compute: computes a share of the shards.
        check: whether a finished store is complete and of the present audio; may raise a TargetsError.
        settings, stated, inputs: of the cache key (`StageTask`).
        report: reports what was made, once the shards of all shares are done.
    """
    context = places[0].context
    reports: list[Report] = []

    def run(folder: Path) -> None:
        reports.append(compute((context.share or EVERYTHING).split(context.ranks.rank, context.ranks.count)))

    def finish(folder: Path) -> str | None:
        found = reports[-1]
        if not found.complete and context.ranks.count > 1:
            found = compute(context.share or EVERYTHING)  # finds the shards of the other processes
        if found.complete:
            for place in places:
                place.write_note()
            report(found)
            return None
        if found.busy:
            raise StoppedEarly(
                f"other processes still make {len(found.busy)} shards ({found.busy[0]})",
                where=str(context.stored_at(folder)),
                remedy="Run the same command again when they are done",
            )
        return f"{found.share_line()}. When all shares are done, run the recipe without --share to continue"

    return StageTask(
        "extract",
        name,
        context.work_dir,
        folder,
        settings=places[0].key_settings(settings),
        stated=places[0].key_settings(stated),
        inputs=inputs,
        run=run,
        results=tuple(place.result for place in places),
        parallel=True,
        finish=finish,
        is_intact=lambda: all(place.is_intact(check) for place in places),
        shared=True,
        owner=owner,
    )

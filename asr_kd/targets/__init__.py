"""Targets of a teacher: computed once, stored, read at random by utterance.

Soft targets, in the order of the data:

- `extraction_checks`: the teacher's WER on a sample, and the estimated cost, before anything is extracted.
- `sharding`: plan of shards, shares of workers; `sharded_extraction` runs it over audio in batches that threads
  read ahead; `shard_manifest` lists finished shards.
- `extract`: rows of posteriors' nuclei, packed; `stored_arrays`: hidden layers and pooled posteriors.
- `bridge` (`bridge_vocabulary`, `bridge_frames`): posteriors in the students' vocabulary and frames.
- `packing`: frames as small integers, compressed blocks of rows; `shard`: a shard's file.
- `storage`: opens a folder (`local_storage`, with file locks) or a URL (`s3_storage`).
- `store`, `store_index`: the reader; `fidelity`, `inspect`: what was lost, what is stored.

Hypotheses: `hypotheses` (their store), `nbest` (a teacher's beam search), `importing` with `hypothesis_formats` (other
systems), `whisper_transcripts`, `pseudo_labelling` with `pseudo_label_filters`.

An utterance's posteriors pass through four types: `DensePosteriors` of the teacher, `Packed` rows of the store,
`SoftTargets` as read and in a batch, and `Supervision` of the losses.
"""

from asr_kd.posteriors.types import collate
from asr_kd.targets.extract import ExtractionReport, extract
from asr_kd.targets.settings import TargetSettings, variant_name
from asr_kd.targets.store import Store
from asr_kd.targets.store_index import StoreInfo

__all__ = [
    "ExtractionReport",
    "Store",
    "StoreInfo",
    "TargetSettings",
    "collate",
    "extract",
    "variant_name",
]

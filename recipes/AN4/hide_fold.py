"""AN4's training set as if nobody had transcribed the speakers of one fold of out-of-fold.yaml.

    asr-kd run recipes/AN4/out-of-fold.yaml
    python recipes/AN4/hide_fold.py 1

Writes exp/an4-untranscribed/given/train.jsonl, in which rows of those speakers have no transcript: what teacher-fold-1
never heard. untranscribed.yaml trains on it.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch

from asr_kd.corpora.corpus import read_prepared
from asr_kd.corpora.manifest import write_manifest
from asr_kd.errors import AsrKdError
from asr_kd.progress import SILENT
from asr_kd.recipe.context import RunContext
from asr_kd.recipe.settings import load_recipe
from asr_kd.recipe.system_settings import TeacherSettings
from asr_kd.recipe.teachers import utterances_of_fold

RECIPE = Path(__file__).parent / "out-of-fold.yaml"


def hide(fold: int, out: Path) -> str:
    """Write the manifest; returns what was done in a line."""
    recipe = load_recipe(RECIPE, [])
    teacher = cast(TeacherSettings, recipe.teachers["teacher"])
    if not 1 <= fold <= (teacher.folds or 0):
        raise AsrKdError(f"there is no fold {fold}", where=RECIPE, expected=f"1 to {teacher.folds}")
    context = RunContext(recipe, SILENT, torch.device("cpu"))
    heard = {utterance.id for utterance in utterances_of_fold(context, teacher, fold - 1)}
    utterances = read_prepared(recipe.work_dir).train
    given = [each if each.id in heard else replace(each, text=None) for each in utterances]
    hidden = [each for each in given if each.id not in heard]
    out.parent.mkdir(parents=True, exist_ok=True)
    write_manifest(out, given)
    return (
        f"{out}: {len(given)} utterances, {len(hidden)} of {len({each.speaker for each in hidden})} speakers "
        f"without transcript ({sum(each.duration for each in hidden) / 60:.1f} minutes)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fold", type=int, help="from 1, as in the name of its teacher")
    parser.add_argument("--out", type=Path, default=Path("exp/an4-untranscribed/given/train.jsonl"))
    arguments = parser.parse_args()
    try:
        print(hide(arguments.fold, arguments.out))
    except AsrKdError as error:
        parser.exit(1, f"{error}\n")


if __name__ == "__main__":
    main()

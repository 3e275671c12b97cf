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

from asr_kd.config import load_yaml, parse_settings
from asr_kd.corpora.an4 import person_of
from asr_kd.corpora.folds import fold_of_utterances
from asr_kd.corpora.manifest import read_manifest, write_manifest
from asr_kd.recipe.models import TeacherSettings
from asr_kd.recipe.settings import Recipe

RECIPE = Path(__file__).parent / "out-of-fold.yaml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fold", type=int, help="from 1, as in the name of its teacher")
    parser.add_argument("--out", type=Path, default=Path("exp/an4-untranscribed/given/train.jsonl"))
    arguments = parser.parse_args()
    recipe = parse_settings(Recipe, load_yaml(RECIPE), RECIPE)
    teacher = cast(TeacherSettings, recipe.teachers["teacher"])
    utterances = read_manifest(recipe.work_dir / "manifests" / "train.jsonl")
    fold_of = fold_of_utterances(utterances, teacher.folds or 1, recipe.seed_of(teacher), person_of)
    given = [replace(each, text=None) if fold_of[each.id] == arguments.fold - 1 else each for each in utterances]
    hidden = [each for each in given if each.text is None]
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    write_manifest(arguments.out, given)
    print(
        f"{arguments.out}: {len(given)} utterances, {len(hidden)} of {len({each.speaker for each in hidden})} speakers "
        f"without transcript ({sum(each.duration for each in hidden) / 60:.1f} minutes)"
    )


if __name__ == "__main__":
    main()

"""`make demo-whisper`: AN4 without its transcripts, from Whisper's pseudo-labels to a bundle of a streaming student.

    ASR_KD_CORPORA=FOLDER ASR_KD_MODELS=FOLDER python recipes/Whisper/demo.py [KEY=VALUE …]

Whisper tiny.en is taken from the folder that ASR_KD_MODELS names, else from the hub. Run from the root of the checkout.
"""

import json
import sys
from pathlib import Path

from asr_kd.cli import main
from asr_kd.corpora.an4 import find_an4
from asr_kd.errors import AsrKdError
from asr_kd.recipe.settings import load_recipe
from asr_kd.targets.pseudo_labelling import PREFIX
from asr_kd.teachers.whisper_transcriber import TranscriberSettings, open_transcriber

RECIPE = Path("recipes/Whisper/demo.yaml")


def check(overrides: list[str]) -> Path:
    """The run's folder, when corpus and model are there.

    Raises:
        AsrKdError: one of them is missing.
    """
    recipe = load_recipe(RECIPE, overrides)
    find_an4(getattr(recipe.corpus, "root", None))
    for settings in recipe.hypotheses.values():
        open_transcriber(TranscriberSettings(settings.source.removeprefix(PREFIX), settings.language))
    return recipe.work_dir


def summary(run: Path) -> list[str]:
    """What came out, and what to open."""
    results = json.loads((run / "report" / "results.json").read_text(encoding="utf-8"))
    lines = []
    for name, found in results["test_sets"].items():
        if "skipped" in found:
            continue
        student, whisper = (100 * found[key]["wer"] for key in ("student", "teacher"))
        lines.append(
            f"{name}: WER {student:.1f} % of the student, {whisper:.1f} % of Whisper tiny.en, "
            f"gap {student - whisper:+.1f} points"
        )
    steps = results["pseudo_labels"]["whisper"]["steps"]
    lines.append(
        f"pseudo-labels: {steps[-1]['kept']} of {steps[0]['kept']} utterances kept, {100 * steps[-1]['wer']:.1f} % of "
        "their words differ from AN4's transcripts, which no model was trained on"
    )
    models = results["models"]
    lines.append(f"student: {models['student']['parameters'] / 1e6:.2f} M parameters, chunks of 320 ms")
    lines.append(f"open {run / 'report' / 'index.html'}; the bundle for sherpa-onnx is {run / 'export' / 'student'}")
    lines.append(f"transcribe a file: asr-kd transcribe {run / 'export' / 'student'} FILE.wav")
    return lines


if __name__ == "__main__":
    try:
        folder = check(sys.argv[1:])
    except AsrKdError as error:
        sys.exit(f"demo-whisper: {error}")
    sys.argv = ["asr-kd", "run", str(RECIPE), *sys.argv[1:]]
    try:
        main()
    except SystemExit as end:
        if end.code:
            raise
    print("", *summary(folder), sep="\n")

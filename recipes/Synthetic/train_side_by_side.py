"""`make demo`: recipes/Synthetic/synthetic.yaml with the student without a teacher trained beside the teacher.

    python recipes/Synthetic/train_side_by_side.py [KEY=VALUE …]

Neither needs the other, so two cores are busy. The result is that of `asr-kd run recipes/Synthetic/synthetic.yaml`.
Run from the root of the checkout; run again to resume.
"""

import subprocess
import sys
from pathlib import Path

RECIPE = "recipes/Synthetic/synthetic.yaml"
CONTROL = "student-hard"
LOG = Path("exp/synthetic/student-hard.log")
ASR_KD = [sys.executable, "-P", "-m", "asr_kd"]
LINES = 20
"""Of the log that are printed after a failure."""


def main(overrides: list[str]) -> int:
    """Return the exit code of the first command that fails, else 0."""

    def run(command: str) -> int:
        return subprocess.run([*ASR_KD, command, RECIPE, *overrides], check=False).returncode

    if code := run("prepare"):
        return code
    LOG.parent.mkdir(parents=True, exist_ok=True)
    print(f"{CONTROL} is trained meanwhile; its progress: {LOG}", flush=True)
    with LOG.open("w", encoding="utf-8") as log:
        words = [*ASR_KD, "distill", RECIPE, *overrides, "--only", CONTROL]
        control = subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT)
    try:
        code = run("train") or run("extract")
    except BaseException:
        control.terminate()  # it saves its state
        raise
    if code:
        control.terminate()
    if control.wait() and not code:
        print("".join(LOG.read_text(encoding="utf-8").splitlines(keepends=True)[-LINES:]), file=sys.stderr)
        return control.returncode
    return code or run("run")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

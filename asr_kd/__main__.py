"""`python -m asr_kd` is the command line."""

from asr_kd.cli import main

main()

#!/usr/bin/env bash
# Checks a GPU in at most ten minutes, from a checkout: the tests that a GPU concerns, then throughput and memory.
#
#   benchmarks/gpu_check.sh                          # exits with 0 and one line where PyTorch finds no GPU
#   WHEELS=wheels benchmarks/gpu_check.sh            # first installs the project from a folder of wheels, without a network
#
# PYTHON         interpreter; default .venv/bin/python, else python3
# STUDENT        size of the student that is trained: 5m
# STEPS          optimizer steps of each training: 300
# BATCH_SECONDS  audio in a batch: 480
# HOURS          hours of audio that are made up: 2
# WORKERS        processes that read audio: 8
# ENCODER        hf:FOLDER of a Whisper encoder; default a random one of base's size
# MINUTES        after which no further part begins: 8
# DEVICE         cuda; cpu rehearses the script
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PYTHON=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
export DEVICE=${DEVICE:-cuda} PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
if [ -n "${WHEELS:-}" ]; then
  "$PYTHON" -m pip install --quiet --no-index --find-links "$WHEELS" '.[hf]' pytest
fi
if [ "$DEVICE" = cuda ] && ! "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
  echo "gpu_check: PyTorch finds no GPU here, so nothing is checked. Run it on a machine with an NVIDIA GPU and its driver."
  exit 0
fi
ASR_KD_GPU_CHECK=$DEVICE timeout 240 "$PYTHON" -m pytest -q tests/training/test_on_gpu.py
exec "$PYTHON" benchmarks/gpu_check.py

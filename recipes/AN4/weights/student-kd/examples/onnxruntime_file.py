"""student-kd in plain onnxruntime (pip install onnxruntime kaldi-native-fbank numpy): a 16 kHz mono 16-bit WAV.

    python onnxruntime_file.py recording.wav
"""

import sys
import wave
from pathlib import Path

import kaldi_native_fbank as knf
import numpy as np
import onnxruntime

BUNDLE = Path(__file__).parent.parent
WINDOW, SHIFT = 35, 32  # feature frames of 10 ms that a step reads, and that it moves on by
TAIL = 5120  # samples of silence in which the last word is finished

if len(sys.argv) != 2:
    sys.exit(__doc__)
try:
    with wave.open(sys.argv[1]) as file:
        if (file.getframerate(), file.getnchannels(), file.getsampwidth()) != (16_000, 1, 2):
            raise wave.Error("has another rate, number of channels or sample size")
        samples = np.frombuffer(file.readframes(file.getnframes()), np.int16).astype(np.float32) / 32768
        if len(samples) < file.getnframes():
            raise wave.Error("ends before its last sample")
except (OSError, EOFError, ValueError, wave.Error) as error:
    sys.exit(f"{sys.argv[1]}: {error}; expected a complete mono WAV of 16 kHz and 16 bits")

# Complete chunks: round up, then one look-ahead of 3 frames.
chunks = max(-(-((len(samples) + TAIL + 80) // 160) // SHIFT), 1)
samples = np.concatenate([samples, np.zeros(160 * (SHIFT * chunks + 3) - len(samples), np.float32)])

options = knf.FbankOptions()
options.frame_opts.samp_freq = 16_000
options.frame_opts.dither = 0.0
options.frame_opts.snip_edges = False
options.frame_opts.preemph_coeff = 0.97
options.frame_opts.window_type = "povey"
options.mel_opts.num_bins = 80
options.mel_opts.low_freq = 20.0
options.mel_opts.high_freq = 7600.0
fbank = knf.OnlineFbank(options)
fbank.accept_waveform(16_000, samples.tolist())
fbank.input_finished()
features = np.stack([fbank.get_frame(index) for index in range(fbank.num_frames_ready)]).astype(np.float32)

symbols = [line.split()[0] for line in (BUNDLE / "tokens.txt").read_text(encoding="utf-8").splitlines()]
blank = symbols.index("<blk>")
settings = onnxruntime.SessionOptions()
settings.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(str(BUNDLE / "model.int8.onnx"), settings, providers=["CPUExecutionProvider"])
first, *states = session.get_inputs()
types = {"tensor(float)": np.float32, "tensor(int64)": np.int64}
shapes = [[size if isinstance(size, int) else 1 for size in state.shape] for state in states]
caches = [np.zeros(shape, types[state.type]) for shape, state in zip(shapes, states)]

tokens, last = [], blank
for start in range(0, len(features) - WINDOW + 1, SHIFT):
    inputs = {first.name: features[None, start : start + WINDOW]}
    inputs.update({state.name: cache for state, cache in zip(states, caches)})
    log_probs, *caches = session.run(None, inputs)
    for token in log_probs[0].argmax(-1).tolist():
        if token not in (blank, last):
            tokens.append(symbols[token])
        last = token
print(" ".join("".join(tokens).replace("\u2581", " ").split()))

"""student-kd in sherpa-onnx (pip install sherpa-onnx numpy): a 16 kHz mono 16-bit WAV, as if it came live.

    python sherpa_onnx_file.py recording.wav
"""

import sys
import wave
from pathlib import Path

import numpy as np
import sherpa_onnx

BUNDLE = Path(__file__).parent.parent
CHUNK = 5120  # samples: 320 ms; packets of any size give the same text

recognizer = sherpa_onnx.OnlineRecognizer.from_zipformer2_ctc(
    tokens=str(BUNDLE / "tokens.txt"), model=str(BUNDLE / "model.int8.onnx"), num_threads=1
)
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

# The client neither completes the last chunk nor waits for the last word: give it silence.
samples = np.concatenate([samples, np.zeros(11520, np.float32)])
stream = recognizer.create_stream()
for start in range(0, len(samples), CHUNK):
    stream.accept_waveform(16_000, samples[start : start + CHUNK])
    while recognizer.is_ready(stream):
        recognizer.decode_stream(stream)
stream.input_finished()
while recognizer.is_ready(stream):
    recognizer.decode_stream(stream)
print(recognizer.get_result(stream).strip())

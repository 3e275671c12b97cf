#!/bin/sh
# student-kd with sherpa-onnx's own program (pip install sherpa-onnx-bin, or a release of k2-fsa/sherpa-onnx; the wheel
# sherpa-onnx has none). The program puts 0.5 s of silence before the recording and 0.8 s behind it by itself, so
# chunks begin elsewhere than in the other examples, and a word on the brink may come out otherwise.
#
#     sh command_line.sh recording.wav...
here=$(dirname "$0")/..
exec sherpa-onnx --tokens="$here/tokens.txt" --zipformer2-ctc-model="$here/model.int8.onnx" --num-threads=1 "$@"

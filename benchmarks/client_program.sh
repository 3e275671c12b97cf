#!/bin/sh
# Real-time factor, peak memory and first-word latency of a bundle in sherpa-onnx's own program, on any Linux or Android shell.
#
#     sh benchmarks/client_program.sh BUNDLE RECORDING.wav [PROGRAM] [GRAPH]
#
# BUNDLE holds tokens.txt and GRAPH (model.int8.onnx where it exists, else model.onnx); PROGRAM is sherpa-onnx. The latency
# is the longest wait for a word without the client's buffers: chunk + look-ahead + the computing of one chunk.
set -eu
bundle=$1 recording=$2 program=${3:-sherpa-onnx}
graph=${4:-$([ -f "$bundle/model.int8.onnx" ] && echo model.int8.onnx || echo model.onnx)}
printed=${TMPDIR:-/tmp}/client_program.$$
trap 'rm -f "$printed"' EXIT
"$program" --tokens="$bundle/tokens.txt" --zipformer2-ctc-model="$bundle/$graph" --num-threads=1 "$recording" >"$printed" 2>&1 &
process=$!
peak=0
while kill -0 "$process" 2>/dev/null; do
  now=$(sed -n 's/^VmHWM:[^0-9]*\([0-9]*\).*/\1/p' "/proc/$process/status" 2>/dev/null || true)
  [ -n "$now" ] && peak=$now
  sleep 0.02
done
wait "$process" || { cat "$printed" >&2; echo "client_program.sh: $program failed on $bundle/$graph" >&2; exit 1; }
factor=$(sed -n 's/.*[Rr]eal time factor (RTF)[^=]*=.*= *\([0-9.e-]*\).*/\1/p; s/.*RTF = .*= *\([0-9.e-]*\).*/\1/p' "$printed" | head -n 1)
chunk=$(sed -n 's/.*"chunk_ms": *\([0-9]*\).*/\1/p' "$bundle/bundle.json" | head -n 1)
ahead=$(sed -n 's/.*"lookahead_ms": *\([0-9]*\).*/\1/p' "$bundle/bundle.json" | head -n 1)
echo "graph: $graph, $(wc -c <"$bundle/$graph") bytes"
echo "real-time factor: ${factor:-not printed by the program}"
echo "peak memory: $((peak / 1024)) MB"
[ -n "$factor" ] && awk "BEGIN { printf \"first word: at most %.0f ms (chunk $chunk + look-ahead $ahead + computing %.1f)\n\", $chunk + $ahead + $chunk * $factor, $chunk * $factor }"

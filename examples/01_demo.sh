#!/usr/bin/env bash
# Dense against STC on a slice of the mini benchmarks that ship with the package: real videos, the real lmms-eval, a tiny
# random model (pretrained=demo). Shows the whole path from mp4 to a scored row; the scores mean nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-results/demo}
rm -rf "$out"
for method in none stc; do
  echo "== lmms-eval --model llava_ov_stc --model_args pretrained=demo,method=$method =="
  lmms-eval --model llava_ov_stc --model_args "pretrained=demo,method=$method" \
    --tasks ovobench_stream_tiny,streamingbench_tiny --device cpu \
    --output_path "$out/$method" --log_samples --verbosity WARNING
done
echo
stc-lmms report "$out/none" "$out/stc"
echo
stc-lmms leaderboard "$out" --output "$out/leaderboard"
echo
echo "pretrained=demo has random weights: its scores mean nothing. Everything is in $out/."

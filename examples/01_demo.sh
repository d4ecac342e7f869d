#!/usr/bin/env bash
# The demo model (trained, ships with the package) on video files, on a CPU: first STC through the plain lmms-eval command,
# then eight methods at a third of the tokens through its evaluator, and a leaderboard page of all of them.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-results/demo}
rm -rf "${out:?}"/{stc,compare,leaderboard}
echo "== lmms-eval --model llava_ov_stc --model_args pretrained=demo --tasks ovobench_stream_tiny =="
lmms-eval --model llava_ov_stc --model_args pretrained=demo --tasks ovobench_stream_tiny --device cpu \
  --output_path "$out/stc" --log_samples --verbosity WARNING
methods=none,stc,tome,visionzip,vidcom2,dycoke,random,uniform_frames
echo "== stc-lmms compare --methods $methods =="
stc-lmms compare --methods "$methods" --tasks ovobench_stream_tiny,streamingbench_tiny \
  --model_args pretrained=demo,device=cpu --output "$out/compare" > "$out/table.txt" \
  2> >(tee "$out/compare.log" | grep '^stc-lmms: [0-9]' >&2)
wait
cat "$out/table.txt"
stc-lmms leaderboard "$out" --output "$out/leaderboard" > /dev/null
echo
echo "So few questions tell little apart: docs/demo-model.md has the whole comparison, and what a toy cannot tell."
echo "Open $out/leaderboard/leaderboard.html"

#!/usr/bin/env bash
# What docs/demo-model.md shows, all but its part about training. A run that was stopped goes on where it was.
# Afterwards: python scripts/demo_results.py
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-results/demo-model} kept=benchmarks/results/demo
methods=stc,stc_pruner,tome,tome_oneshot,visionzip,vidcom2,vidcom2_two_score,dycoke,streamdycoke
controls=random,uniform,uniform_frames,downsample,pixel_diff

compare() { # folder, further model arguments, options
  local folder=$1 args=pretrained=demo,device=cpu$2
  shift 2
  stc-lmms compare --tasks ovobench_stream_mini,streamingbench_mini --model_args "$args" --output "$out/$folder" "$@"
  mkdir -p "$kept/$folder"
  cp "$out/$folder/compare.json" "$out/$folder/scores.json" "$kept/$folder/"
}

python -m training.demo.evaluate demo --blind --json $kept/arrays.json \
  --methods method=none method=stc method=stc,positions=original
python -m training.demo.evaluate demo --mp4 --json $kept/mp4.json
python -m training.demo.text_only --json $kept/text_only.json
compare methods "" --methods none,$methods,stc_cacher,$controls --budgets 18,12,9
compare cacher "" --methods none,stc_cacher --vary cache_interval=2,4,8 --vary update_ratio=0.1,0.25,0.5
compare choices "" --methods none,stc --vary history=official,aligned --vary selection=per_layer,shared
compare adaptive ,refresh=adaptive --methods none,stc --vary cut_similarity=0.8,0.9,0.95
compare positions ,positions=original --methods none,stc,stc_pruner,random,uniform_frames --budgets 18,12,9

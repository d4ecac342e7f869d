#!/usr/bin/env bash
# Parity and the whole latency card on a machine with a GPU. Needs torch, transformers, numpy, safetensors; no
# network, no checkpoint. From the root of the repository:
#
#   PYTHONPATH=. bash benchmarks/gpu_card.sh [folder for the JSON files, default benchmarks/results]
#
# STC_CARD_DEVICE=cpu STC_CARD_SMALL=1 runs parity and three cards with one layer each, to test the script.
set -euo pipefail
out=${1:-benchmarks/results}
device=${STC_CARD_DEVICE:-cuda}
small=${STC_CARD_SMALL:-}
python=${PYTHON:-python3}
export HF_HUB_OFFLINE=1

if [[ $device == cuda* ]] && ! "$python" -c 'import torch; assert torch.cuda.is_available()' 2>/dev/null; then
  echo "gpu_card: error: $python has no torch that sees a CUDA device (PYTHON=... names another one)" >&2
  exit 2
fi
[[ $device == cuda* ]] && kind=gpu || kind=$device
mkdir -p "$out"

card() { # name, then options of stc-lmms bench; shows all but the last line, which is the JSON
  local name=$1
  shift
  [[ -z $small ]] || set -- "$@" --size 0.5b --layers 1 --llm-layers 1 --frames 2 --repeats 1 --warmup 0
  echo "== $name =="
  "$python" -m stc_lmms.cli bench --device "$device" --output "$out/${kind}_card_$name.json" "$@" | sed '$d'
}

echo "== parity =="
"$python" benchmarks/gpu_parity.py --device "$device" ${small:+--small} --output "$out/${kind}_parity.json" | sed '$d'
card 7b_grouped --size 7b --frames 1,2,4,8,16,32,64
card 7b_live --size 7b --protocol live --frames 1,4,16
card 7b_official --size 7b --protocol official
if [[ -z $small ]]; then
  card 7b_interval2 --size 7b --interval 2 --frames 16,64
  card 7b_shared --size 7b --selection shared --frames 16,64
  card 0.5b_grouped --size 0.5b --frames 1,4,16,64
fi
echo "done in $SECONDS s; results in $out"

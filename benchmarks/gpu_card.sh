#!/usr/bin/env bash
# Parity and the whole latency card on a machine with a GPU. Needs torch, transformers, numpy, safetensors; no
# network, no checkpoint. From the root of the repository:
#
#   PYTHONPATH=. bash benchmarks/gpu_card.sh [folder for the JSON files, default benchmarks/results]
#
# The most important steps come first. A failed step does not stop the others: failed steps are named at the end,
# and the script exits with the worst status.
# STC_CARD_DEVICE=cpu STC_CARD_SMALL=1 runs parity and three cards with one layer each, to test the script.
set -euo pipefail
out=${1:-benchmarks/results}
device=${STC_CARD_DEVICE:-cuda}
small=${STC_CARD_SMALL:-}
python=${PYTHON:-python3}
export HF_HUB_OFFLINE=1 PYTHONUNBUFFERED=1

if [[ $device == cuda* ]] && ! "$python" -c 'import torch; assert torch.cuda.is_available()' 2>/dev/null; then
  echo "gpu_card: error: $python has no torch that sees a CUDA device (PYTHON=... names another one)" >&2
  exit 2
fi
[[ $device == cuda* ]] && kind=gpu || kind=$device
mkdir -p "$out"
failed=()
worst=0

step() { # NAME COMMAND...: runs the command and shows its output without the JSON
  local name=$1 status=0
  shift
  echo "== $name =="
  # JSON is recognised by its first character: when a step is killed, its last line is text.
  "$@" --device "$device" --output "$out/${kind}_$name.json" | sed -u '/^{/d' || status=$?
  ((status == 0)) || failed+=("$name")
  ((status <= worst)) || worst=$status
}

card() { # NAME OPTIONS...: options of stc-lmms bench
  local name=$1
  shift
  [[ -z $small ]] || set -- "$@" --size 0.5b --layers 1 --llm-layers 1 --frames 2 --repeats 1 --warmup 0
  step "card_$name" "$python" -m stc_lmms.cli.bench "$@"
}

step parity "$python" benchmarks/gpu_parity.py ${small:+--small}
step row_kernels "$python" benchmarks/row_kernels.py ${small:+--small}
card 7b_grouped --size 7b --frames 1,2,4,8,16,32,64
card 7b_live --size 7b --protocol live --frames 1,4,16
if [[ -z $small ]]; then
  fewer=(--repeats 5 --warmup 2) # variants: half the rounds, to save time
  card 7b_interval2 --size 7b --interval 2 --frames 16,64 "${fewer[@]}"
  card 7b_shared --size 7b --selection shared --frames 16,64 "${fewer[@]}"
  card 0.5b_grouped --size 0.5b --frames 1,4,16,64 "${fewer[@]}"
fi
card 7b_official --size 7b --protocol official
echo "done in $SECONDS s; results in $out"
((worst == 0)) || echo "gpu_card: error: failed: ${failed[*]}" >&2
exit "$worst"

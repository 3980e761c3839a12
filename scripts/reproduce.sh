#!/usr/bin/env bash
# Repeat a published training: background, objects, both together, then the figures. Stop it whenever you like; the same
# command goes on from where it was.
#
#   scripts/reproduce.sh PRESET DATA [OUT] [OPTIONS OF astseg train ...]
#
#   PRESET   one of `astseg presets`, for example clevrtex-ct or clevrtex-ct-unet
#   DATA     the data set, as for `astseg train`
#   OUT      run folder; runs/PRESET-seed-SEED if it is left out
#
# From the environment: SEED (0), TRAIN_SPLIT (train), TEST_SPLIT (test), TEST_DATA (DATA), PROTOCOL (reference),
# ASTSEG (the command). Data without splits: TRAIN_SPLIT=:-500 TEST_SPLIT=-500: scripts/reproduce.sh ...
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

usage() {
  sed -n '2,13s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
  exit 2
}

[[ $# -ge 2 && $1 != -* && $2 != -* ]] || usage
preset=$1 data=$2
shift 2
seed=${SEED:-0}
out=runs/$preset-seed-$seed
if [[ $# -gt 0 && $1 != -* ]]; then
  out=$1
  shift
fi
if [[ -z ${ASTSEG:-} ]]; then
  ASTSEG=$here/../.venv/bin/astseg
  [[ -x $ASTSEG ]] || ASTSEG=astseg
fi

# What to expect ------------------------------------------------------------------------------------------------------
"$ASTSEG" presets "$preset" | sed -n 1p
base=$preset
while [[ $base == *-* ]] && ! grep -q "^$base"$'\t' "$here/expected.tsv"; do
  base=${base%-*}
done
awk -F '\t' -v base="$base" '
  $1 == base {
    if (!told++) printf "\nOn an A100-class GPU, from the authors'"'"' logged step times and counted arithmetic (docs/reproduction.md):\n"
    printf "  %-10s %7d steps  %6s to %s hours  %3s GiB of GPU memory or more\n", $2, $3, $5, $6, $7
  }' "$here/expected.tsv"
[[ $base == "$preset" ]] || echo "  (of $base; its ablations differ)"
cat <<'TEXT'

A run looks hopeless for a long time. The authors' own (CLEVRTEX, objects, step 5,751 of 125,000) stood at mIoU 0.17 and
ARI-FG 0.04; objects weigh next to nothing until the learning rate has warmed up (5,000 steps) and the entropy weight is full (10,000).
Stop it if a loss is no number (it stops itself), not because it is slow. Watch panels/latest.png in the run folder.

TEXT

# The three phases ----------------------------------------------------------------------------------------------------
common=("$data" --preset "$preset" --split "${TRAIN_SPLIT:-train}" --seed "$seed" --out "$out")
if [[ $preset == *-bt* ]]; then
  echo "== baseline training: background and objects together, in $out"
else
  echo "== phase 1: the background, in $out"
  "$ASTSEG" train-background "${common[@]}" "$@"
  echo "== phases 2 and 3: the objects on the frozen background, then both"
fi
"$ASTSEG" train "${common[@]}" "$@"

# The figures ---------------------------------------------------------------------------------------------------------
echo "== figures"
"$ASTSEG" evaluate "$out" "${TEST_DATA:-$data}" --split="${TEST_SPLIT:-test}" --protocol "${PROTOCOL:-reference}" \
  --json "$out/reproduction.json" --table "$out/reproduction.md"
cat "$out/reproduction.md"

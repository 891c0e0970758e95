#!/bin/sh
# DCD diverges at 4 bits and fewer, DeepSqueeze and CHOCO hold at 2: sh results/gossip/run.sh [FOLDER]
# Norms and ranges are those of the whole vector (bucket=0): short buckets hide the effect.
set -e
folder=${1:-results/gossip/run}
here=$(dirname "$0")
mpisqueeze launch -n 8 compare dpsgd \
  dcd/qsgd:8,bucket=0 dcd/qsgd:4,bucket=0 dcd/qsgd:3,bucket=0 dcd/qsgd:2,bucket=0 \
  deepsqueeze/uniform:2,bucket=0 choco/uniform:2,bucket=0 deepsqueeze/qsgd:2,bucket=0 choco/qsgd:2,bucket=0 \
  dpsgd-naive/uniform:2,bucket=0 \
  --epochs 20 --out "$folder"
COLUMNS=130 mpisqueeze report "$folder" --markdown "$here/table.md" --csv "$here/table.csv" --plot "$here/loss.svg" > "$here/report.txt"

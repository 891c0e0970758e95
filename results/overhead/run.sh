#!/bin/sh
# The framework beside the same loops by hand, three minutes on two cores: sh results/overhead/run.sh [FOLDER]
# MPI must be allowed more ranks than cores.
set -e
folder=${1:-results/overhead}
: > "$folder/allreduce.txt"
for ranks in 2 4 8; do
  mpirun -n "$ranks" mpisqueeze bench comm allreduce by-hand sharded root --compressor identity -m 64Ki:4Mi -i 60 \
    >> "$folder/allreduce.txt"
done
echo '$ mpirun -n 2 python results/overhead/compare.py' > "$folder/compare.txt"
for _ in 1 2 3; do
  mpirun -n 2 python results/overhead/compare.py >> "$folder/compare.txt"
done

#!/bin/sh
# The framework beside the same loops by hand, and steps beside their kernels: four minutes on two cores.
# sh results/overhead/run.sh [FOLDER]
# MPI must be allowed more ranks than cores.
set -e
folder=${1:-results/overhead}
: > "$folder/allreduce.txt"
for ranks in 2 4 8; do
  mpirun -n "$ranks" mpisqueeze bench comm allreduce by-hand sharded root --compressor identity -m 64Ki:4Mi -i 60 \
    >> "$folder/allreduce.txt"
done
: > "$folder/steps.txt"
for ranks in 2 4 8; do
  mpirun -n "$ranks" mpisqueeze bench comm allreduce by-hand sharded root ring --compressor onebit \
    -m "1Mi:$([ "$ranks" = 8 ] && echo 4Mi || echo 16Mi)" -i 30 --check off >> "$folder/steps.txt"
done
echo '$ mpirun -n 2 python results/overhead/compare.py' > "$folder/compare.txt"
for _ in 1 2 3; do
  mpirun -n 2 python results/overhead/compare.py >> "$folder/compare.txt"
done

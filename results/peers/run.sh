#!/bin/sh
# Everything beside the peers, fourteen minutes on two cores: sh results/peers/run.sh [FOLDER]
# Needs torch, mpirun and what `mpisqueeze lab` needs. MPI must be allowed more ranks than cores.
set -e
folder=${1:-results/peers}
export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
python results/peers/kernels.py --rounds 7 4Mi 16Mi > "$folder/kernels.txt"
: > "$folder/shared.txt"
for ranks in 2 4 8; do
  mpirun -n "$ranks" python results/peers/exchanges.py --rounds 15 1Mi 4Mi >> "$folder/shared.txt"
done
mpirun -n 2 python results/peers/exchanges.py --rounds 15 --only powersgd resnet18 > "$folder/powersgd.txt"
mpisqueeze lab -n 4 --rate 1gbit --exec -- python results/peers/exchanges.py --rounds 5 --only powersgd resnet18 >> "$folder/powersgd.txt"
: > "$folder/lab.txt"
mpisqueeze lab -n 4 --rate 1gbit --exec -- python results/peers/exchanges.py --rounds 9 4Mi >> "$folder/lab.txt"
mpisqueeze lab -n 4 --rate 100mbit --exec -- python results/peers/exchanges.py --rounds 9 4Mi >> "$folder/lab.txt"
mpirun -n 4 python results/peers/losses.py > "$folder/losses.txt"

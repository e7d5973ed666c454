#!/usr/bin/env bash
# Makes .venv with everything the pipeline needs, in exact versions. Needs Python 3.11 or 3.12 with its
# headers, a C++ compiler and make. May be stopped at any time: the next call repairs what is there.
#   ./setup.sh          set up, or do nothing where all is up to date; EXTRAS=hf: with the packages of that extra
#                       MMCV_WITH_CUDA=1: mmcv for GPUs also where none is seen; 0: for CPUs only
#   ./setup.sh --state  print the state that a finished setup has, for the Makefile to compare
set -euo pipefail
cd "$(dirname "$0")"

venv=.venv
ready=$venv/ready
log=.venv.setup.log
seconds_between_lines=${SETUP_SECONDS_BETWEEN_LINES:-10}

# Extras stay: a setup without them keeps those of an earlier one.
extras=${EXTRAS:-$(cat "$venv/extras" 2>/dev/null || true)}

# A moved checkout, other versions or extras, another setup: each asks for a new look.
state="$(cat constraints.txt pyproject.toml setup.sh | cksum | tr ' ' '-')-$PWD${extras:++$extras}"

if [ "${1-}" = --state ]; then
    echo "$state"
    exit
fi
if [ "$(cat "$ready" 2>/dev/null)" = "$state" ]; then
    echo "set up already: $venv"
    exit
fi

fail() {
    printf 'setup: %s\n' "$@" >&2
    exit 1
}

# What a command in progress does, by the end of its log: bytes of a download, files that are compiled, pip's last word.
doing() {
    last=$(tail -n 1 "$log" | tr '\r' '\n' | tail -n 1)
    # A compiler may say much between two numbers of ninja's.
    compiled=$(tail -n 60 "$log" | sed -n 's/^ *\[\([0-9]*\)\/\([0-9]*\)\].*/\1 of \2/p' | tail -n 1)
    case $last in
        "Progress "*" of "*)
            set -- $last
            echo "downloaded $(($2 / 1000000)) of $(($4 / 1000000)) MB"
            ;;
        *)
            if [ -z "$compiled" ]; then
                printf '%.100s\n' "$(echo "$last" | sed 's/^ *//')"
            elif [ "${compiled% of *}" = "${compiled#* of }" ]; then
                echo "linking ${compiled% of *} compiled files"
            else
                echo "compiled $compiled files"
            fi
            ;;
    esac
}

# Says every few seconds what the command in progress does, until this script or the watcher is stopped.
watch() {
    waited=0
    while sleep "$seconds_between_lines" >/dev/null && kill -0 $$ 2>/dev/null; do
        waited=$((waited + seconds_between_lines))
        echo "setup:   $waited s: $(doing)"
    done
}

stop_watching() {
    [ -z "${watcher-}" ] || kill "$watcher" 2>/dev/null || true
    watcher=
}
trap stop_watching EXIT

# Runs a command with its output in the log and says what it does meanwhile; returns its status.
watched() {
    watch 2>/dev/null &
    watcher=$!
    status=0
    "$@" >>"$log" 2>&1 || status=$?
    stop_watching
    return $status
}

# Runs a command; on failure shows the end of its output.
step() {
    echo "setup: $1"
    shift
    if ! watched "$@"; then
        grep -v '^Progress ' "$log" | tail -n 25 >&2
        fail "failed: $*" "the whole output is in $log; after mending the cause, run make setup again"
    fi
}

# An extra of pyproject.toml for each word between commas; pip itself only warns of one that it does not know.
check_extras() {
    known=$(sed -n '/^\[project.optional-dependencies\]/,/^$/s/^\([a-z]*\) = .*/\1/p' pyproject.toml)
    for extra in ${extras//,/ }; do
        grep -qx -- "$extra" <<<"$known" || fail "EXTRAS=$extras: there is no extra $extra" "those that there are: ${known//$'\n'/, }"
    done
}

find_python() {
    for candidate in ${PYTHON:-} python3.11 python3.12 python3; do
        if command -v "$candidate" >/dev/null 2>&1 &&
            "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    return 1
}

gpu_is_seen() {
    nvidia-smi -L 2>/dev/null | grep -q '^GPU'
}

# Whether mmcv is to have operators for GPUs: as it was asked for, else as this machine is.
for_gpus() {
    case ${MMCV_WITH_CUDA:-} in
        0) return 1 ;;
        1) return 0 ;;
        "") gpu_is_seen ;;
        *) fail "MMCV_WITH_CUDA=$MMCV_WITH_CUDA: give 1 (build mmcv for GPUs) or 0 (for CPUs only)" ;;
    esac
}

# The operators for GPUs are compiled by CUDA's own compiler; torch looks for it in these places too.
require_nvcc() {
    for candidate in "${CUDA_HOME:+$CUDA_HOME/bin/}nvcc" "${SETUP_USUAL_CUDA:-/usr/local/cuda}/bin/nvcc"; do
        if command -v "$candidate" >/dev/null 2>&1; then return; fi
    done
    cuda=$("$venv/bin/python" -c 'import torch; print(torch.version.cuda or "none: it is a build for CPUs")')
    fail "mmcv is to be built for GPUs, and there is no CUDA compiler (nvcc)" \
        "install the CUDA toolkit of torch's version (CUDA $cuda) and set CUDA_HOME to its folder" \
        "or name an index with a ready mmcv: PIP_EXTRA_INDEX_URL=... make setup; or set up for CPUs only: make setup MMCV_WITH_CUDA=0"
}

build_mmcv() {
    compiler=${CXX:-c++}
    command -v "$compiler" >/dev/null 2>&1 ||
        fail "no C++ compiler ($compiler): mmcv is built from source" "install one (Debian: apt install g++), then run make setup again"
    "$venv/bin/python" -c 'import pathlib, sys, sysconfig; sys.exit(not (pathlib.Path(sysconfig.get_paths()["include"]) / "Python.h").exists())' ||
        fail "Python's headers are missing: mmcv is built from source" "install them (Debian: apt install python3-dev), then run make setup again"
    what="building mmcv from source, about 10 minutes on 2 cores"
    if for_gpus; then
        require_nvcc
        export FORCE_CUDA=1
        what="building mmcv with operators for GPUs from source, which takes up to an hour on few cores"
    elif [ "${MMCV_WITH_CUDA:-}" = 0 ]; then
        export CUDA_VISIBLE_DEVICES=  # else mmcv's own setup takes GPUs for a wish
    fi
    MMCV_WITH_OPS=1 MAX_JOBS=${MAX_JOBS:-$(nproc)} step "$what" \
        "${pip[@]}" install -v --no-build-isolation "onedl-mmcv"
}

check_extras
# Making it anew would empty what it points to: another checkout's, most likely.
[ ! -L "$venv" ] || fail "$venv is a link to $(readlink "$venv")" "remove the link, then run make setup again"
python=$(find_python) ||
    fail "Python 3.11 or 3.12 is needed and was not found" "install it (Debian: apt install python3 python3-venv python3-dev), or name it: make setup PYTHON=/path/to/python"
: >"$log"
rm -f "$ready"
# A virtual environment that was moved or left half made is of no use.
if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1 || ! grep -q "^VIRTUAL_ENV=.*$PWD/$venv" "$venv/bin/activate" 2>/dev/null; then
    step "making $venv with $("$python" --version)" "$python" -m venv --clear "$venv"
fi
export PIP_CONSTRAINT="$PWD/constraints.txt" PIP_DISABLE_PIP_VERSION_CHECK=1
pip=("$venv/bin/python" -m pip)
step "installing build tools" "${pip[@]}" install pip setuptools wheel ninja psutil
step "installing torch (large: some minutes)" "${pip[@]}" install --progress-bar raw torch torchvision numpy
echo "setup: looking for a ready build of mmcv"
if ! watched "${pip[@]}" install --only-binary onedl-mmcv onedl-mmcv; then
    build_mmcv
fi
step "installing everything else" "${pip[@]}" install --no-build-isolation -e ".[dev${extras:+,$extras}]"
# MMDetection asks for both builds of OpenCV, which overwrite each other; the one with windows needs libGL.
if "${pip[@]}" show opencv-python >/dev/null 2>&1; then
    step "keeping the OpenCV that needs no screen" "${pip[@]}" uninstall -y opencv-python
    step "putting its files back" "${pip[@]}" install --force-reinstall --no-deps opencv-python-headless
fi
step "trying what was installed" "$venv/bin/python" -c 'import cv2, mmcv.ops, mmdet, segment_anything, torch, zarr, pipeline, s4m, stages'
if [ "${MMCV_WITH_CUDA:-}" != 0 ] && gpu_is_seen; then
    step "running mmcv's operators on the GPU" "$venv/bin/python" -c '
import sys, torch
from pipeline.errors import S4MError
try:
    if not torch.cuda.is_available():
        raise S4MError(f"there is a GPU, and torch cannot use it: its driver must be new enough for CUDA {torch.version.cuda}")
    from pipeline.detection.gpu_operators import require_gpu_operators
    require_gpu_operators()
except S4MError as error:
    sys.exit(str(error))'
fi
case ",$extras," in
    *,hf,*) step "trying the extra hf" "$venv/bin/python" -c 'from transformers import AutoModelForMaskGeneration; import timm' ;;
esac
if [ -n "$extras" ]; then echo "$extras" >"$venv/extras"; fi
echo "$state" >"$ready"
echo "setup: done"

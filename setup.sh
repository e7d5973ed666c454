#!/usr/bin/env bash
# Makes .venv with everything the pipeline needs, in exact versions. Needs Python 3.11 or 3.12 with its
# headers, a C++ compiler and make. May be stopped at any time: the next call repairs what is there.
#   ./setup.sh          set up, or do nothing where all is up to date
#   ./setup.sh --state  print the state that a finished setup has, for the Makefile to compare
set -euo pipefail
cd "$(dirname "$0")"

venv=.venv
ready=$venv/ready
log=.venv.setup.log

# A moved checkout, other versions or another setup: each asks for a new look.
state="$(cat constraints.txt pyproject.toml setup.sh | cksum | tr ' ' '-')-$PWD"

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

# Runs a command with its output in the log; on failure shows the end of it.
step() {
    echo "setup: $1"
    shift
    if ! "$@" >>"$log" 2>&1; then
        tail -n 25 "$log" >&2
        fail "failed: $*" "the whole output is in $log; after mending the cause, run make setup again"
    fi
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

build_mmcv() {
    compiler=${CXX:-c++}
    command -v "$compiler" >/dev/null 2>&1 ||
        fail "no C++ compiler ($compiler): mmcv is built from source" "install one (Debian: apt install g++), then run make setup again"
    "$venv/bin/python" -c 'import pathlib, sys, sysconfig; sys.exit(not (pathlib.Path(sysconfig.get_paths()["include"]) / "Python.h").exists())' ||
        fail "Python's headers are missing: mmcv is built from source" "install them (Debian: apt install python3-dev), then run make setup again"
    echo "setup: building mmcv from source, about 10 minutes on 2 cores"
    # ninja numbers its steps as [12/150]: show every tenth of them, keep everything in the log.
    if ! MMCV_WITH_OPS=1 MAX_JOBS=${MAX_JOBS:-$(nproc)} "${pip[@]}" install -v --no-build-isolation "onedl-mmcv" 2>&1 |
        tee -a "$log" | sed -u -n 's/^ *\[\([0-9]*0\)\/\([0-9]*\)\].*/setup:   compiled \1 of \2 files/p'; then
        tail -n 25 "$log" >&2
        fail "mmcv could not be built" "the whole output is in $log; after mending the cause, run make setup again"
    fi
}

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
step "installing torch (large: some minutes)" "${pip[@]}" install torch torchvision numpy
if ! "${pip[@]}" install --only-binary onedl-mmcv onedl-mmcv >>"$log" 2>&1; then
    build_mmcv
fi
step "installing everything else" "${pip[@]}" install --no-build-isolation -e '.[dev]'
# MMDetection asks for both builds of OpenCV, which overwrite each other; the one with windows needs libGL.
if "${pip[@]}" show opencv-python >/dev/null 2>&1; then
    step "keeping the OpenCV that needs no screen" "${pip[@]}" uninstall -y opencv-python
    step "putting its files back" "${pip[@]}" install --force-reinstall --no-deps opencv-python-headless
fi
step "trying what was installed" "$venv/bin/python" -c 'import cv2, mmcv.ops, mmdet, segment_anything, torch, zarr, pipeline, stages'
echo "$state" >"$ready"
echo "setup: done"

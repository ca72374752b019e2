#!/usr/bin/env bash
# Sets up .venv with all that the project needs; a second call does nothing.
#
#   make setup                  TensorFlow for CPUs
#   make setup TF=tensorflow    TensorFlow for GPUs (see README, "GPU machines")
#
# What is missing of the system (Open MPI with headers, CMake, a C++ compiler,
# Python's venv) is installed with apt-get where that is allowed, otherwise the
# command to do so is named.
set -euo pipefail
cd "$(dirname "$0")/.."

# What an earlier call was told holds until another call says otherwise, so
# that `make test` on a GPU machine keeps the GPU build.
choices=.venv/.setup-choices
if [ -f "$choices" ]; then
  while IFS='=' read -r name value; do
    [ -n "${!name:-}" ] || export "$name=$value"
  done < "$choices"
fi
TF=${TF:-tensorflow-cpu}
print_choices() {
  local name
  for name in TF PYTHON HOROVOD_GPU_OPERATIONS HOROVOD_NCCL_HOME; do
    echo "$name=${!name:-}"
  done
}
has_mpi() { command -v mpirun >/dev/null && command -v mpicxx >/dev/null; }

stamp=.venv/.setup-finished
fingerprint() {
  print_choices
  has_mpi && echo "with MPI"
  cat requirements.txt demo/setup.sh | sha256sum
}
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$(fingerprint)" ]; then
  exit 0
fi

say() { echo "setup: $*"; }
fail() { echo "setup: error: $*" >&2; exit 1; }

apt_install() {
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    return 1
  fi
  say "installing with apt-get: $*"
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

fits() {
  "$1" -c 'import sys; sys.exit(not (3, 9) <= sys.version_info[:2] <= (3, 11))' 2>/dev/null
}
find_python() {
  local name
  if [ -n "${PYTHON:-}" ]; then
    fits "$PYTHON" || fail "PYTHON=$PYTHON is not a Python 3.9, 3.10 or 3.11."
    echo "$PYTHON"
    return
  fi
  for name in python3.11 python3.10 python3.9 python3; do
    if fits "$name"; then
      echo "$name"
      return
    fi
  done
}

python=$(find_python)
if [ -z "$python" ]; then
  apt_install python3 python3-venv || true
  python=$(find_python)
fi
[ -n "$python" ] || fail "TensorFlow 2.15 needs Python 3.9, 3.10 or 3.11, and none was found. \
Debian 12 has it (apt-get install python3 python3-venv); elsewhere use pyenv (pyenv install 3.11) \
or conda (conda create -n bert python=3.11), then run: make setup PYTHON=/path/to/python3.11"
if ! "$python" -c 'import venv, ensurepip' 2>/dev/null; then
  apt_install "python$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv" ||
    apt_install python3-venv ||
    fail "$python has no venv module. Run as root: apt-get install python3-venv"
fi

missing=()
command -v g++ >/dev/null || missing+=(g++)
command -v make >/dev/null || missing+=(make)
command -v cmake >/dev/null || missing+=(cmake)
has_mpi || missing+=(openmpi-bin libopenmpi-dev)
if [ ${#missing[@]} -gt 0 ] && ! apt_install "${missing[@]}"; then
  say "not found: ${missing[*]}. With them: sudo apt-get install ${missing[*]}"
  command -v g++ >/dev/null || fail "Horovod can't be built without a C++ compiler."
fi

say "making .venv with $("$python" --version)"
rm -rf .venv
"$python" -m venv .venv
pip=(.venv/bin/python -m pip --disable-pip-version-check)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

say "installing requirements (TensorFlow: $TF)"
grep -v -e '^horovod' -e no-deps requirements.txt | sed "s/^tensorflow-cpu==/${TF}==/" > "$scratch/requirements.txt"
"${pip[@]}" install -q -r "$scratch/requirements.txt"
# These ask for `tensorflow`, also where tensorflow-cpu is.
grep no-deps requirements.txt > "$scratch/no-deps.txt"
"${pip[@]}" install -q --no-deps -r "$scratch/no-deps.txt"

export HOROVOD_WITH_TENSORFLOW=1 HOROVOD_WITHOUT_PYTORCH=1 HOROVOD_WITHOUT_MXNET=1
export HOROVOD_WITH_GLOO=1 MAKEFLAGS="-j$(nproc)"
if has_mpi; then
  export HOROVOD_WITH_MPI=1
  wanted="TensorFlow MPI Gloo"
else
  say "no Open MPI: Horovod is built with Gloo alone. Start ranks with horovodrun --gloo, not with mpirun."
  export HOROVOD_WITHOUT_MPI=1
  wanted="TensorFlow Gloo"
fi
if [ "${HOROVOD_GPU_OPERATIONS:-}" = NCCL ]; then
  wanted="$wanted NCCL"
fi
if ! command -v cmake >/dev/null; then
  say "no CMake: taking the one of PyPI"
  "${pip[@]}" install -q cmake==3.31.6
  export PATH="$PWD/.venv/bin:$PATH"
fi

check_horovod() {
  local report part
  report=$(.venv/bin/horovodrun --check-build 2>/dev/null) || return 1
  for part in $wanted; do
    grep -q "\[X\] $part" <<<"$report" || return 1
  done
}

# The build hands TensorFlow's folders to the compiler unquoted, so it sees the
# project through a link whose path has no blanks. Only the finished wheel is
# installed from the real path, whose name then stands in its scripts.
ln -s "$PWD" "$scratch/project"
build_horovod() {
  rm -rf "$scratch/wheels"
  "$scratch/project/.venv/bin/python" -m pip --disable-pip-version-check wheel -q \
    --no-build-isolation --no-deps -w "$scratch/wheels" "$@" \
    "$(grep '^horovod' requirements.txt)" || fail "Horovod could not be built, see above."
  "${pip[@]}" install -q --no-deps --force-reinstall "$scratch"/wheels/horovod-*.whl
}

say "building Horovod with $wanted (some minutes)"
build_horovod
if ! check_horovod; then
  # pip may have kept a build of other settings.
  build_horovod --no-cache-dir
  check_horovod || fail "Horovod lacks one of: $wanted. See: .venv/bin/horovodrun --check-build"
fi

print_choices > "$choices"
fingerprint > "$stamp"
say "finished: .venv/bin/python has TensorFlow $(.venv/bin/python -c "from importlib import metadata as m; print(m.version(\"${TF%%[*}\"))") and Horovod with $wanted"

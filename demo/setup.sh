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

TF=${TF:-tensorflow-cpu}
stamp=.venv/.setup-finished
fingerprint="$TF ${HOROVOD_GPU_OPERATIONS:-} $(cat requirements.txt demo/setup.sh | sha256sum)"
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$fingerprint" ]; then
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

find_python() {
  local name
  for name in ${PYTHON:-} python3.11 python3.10 python3.9 python3; do
    if "$name" -c 'import sys; sys.exit(not (3, 9) <= sys.version_info[:2] <= (3, 11))' 2>/dev/null; then
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
{ command -v mpirun && command -v mpicxx; } >/dev/null || missing+=(openmpi-bin libopenmpi-dev)
if [ ${#missing[@]} -gt 0 ] && ! apt_install "${missing[@]}"; then
  say "not found: ${missing[*]}. With them: sudo apt-get install ${missing[*]}"
  command -v g++ >/dev/null || fail "Horovod can't be built without a C++ compiler."
fi

say "making .venv with $("$python" --version)"
rm -rf .venv
"$python" -m venv .venv
# Horovod's build passes TensorFlow's folders to the compiler unquoted, so
# where the path has blanks it is reached through a link without them.
link=$(mktemp -d)
trap 'rm -rf "$link"' EXIT
ln -s "$PWD" "$link/project"
pip="$link/project/.venv/bin/python -m pip --disable-pip-version-check"

say "installing requirements (TensorFlow: $TF)"
grep -v '^horovod' requirements.txt | sed "s/^tensorflow-cpu==/${TF}==/" > "$link/requirements.txt"
$pip install -q -r "$link/requirements.txt"

export HOROVOD_WITH_TENSORFLOW=1 HOROVOD_WITHOUT_PYTORCH=1 HOROVOD_WITHOUT_MXNET=1
export HOROVOD_WITH_GLOO=1 MAKEFLAGS="-j$(nproc)"
if command -v mpirun >/dev/null && command -v mpicxx >/dev/null; then
  export HOROVOD_WITH_MPI=1
  wanted="TensorFlow MPI Gloo"
else
  say "no Open MPI: Horovod is built with Gloo alone. Start ranks with horovodrun --gloo, not with mpirun."
  export HOROVOD_WITHOUT_MPI=1
  wanted="TensorFlow Gloo"
fi
if ! command -v cmake >/dev/null; then
  say "no CMake: taking the one of PyPI"
  $pip install -q cmake==3.31.6
  export PATH="$link/project/.venv/bin:$PATH"
fi

check_horovod() {
  local report part
  report=$(.venv/bin/python -m horovod.runner.launch --check-build 2>/dev/null) || return 1
  for part in $wanted; do
    grep -q "\[X\] $part" <<<"$report" || return 1
  done
}

say "building Horovod with $wanted (two to three minutes on 2 cores)"
horovod=$(grep '^horovod' requirements.txt)
$pip install -q --no-build-isolation "$horovod" || fail "Horovod could not be built, see above."
if ! check_horovod; then
  # pip may have kept a build of other settings.
  $pip install -q --no-build-isolation --no-cache-dir --force-reinstall --no-deps "$horovod"
  check_horovod || fail "Horovod was built without one of: $wanted. See .venv/bin/horovodrun --check-build"
fi

echo "$fingerprint" > "$stamp"
say "finished: .venv/bin/python has TensorFlow $(.venv/bin/python -c "from importlib import metadata as m; print(m.version(\"${TF%%[*}\"))") and Horovod with $wanted"

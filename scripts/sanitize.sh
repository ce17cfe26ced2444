#!/usr/bin/env bash
# Passes the compiled kernels' tests with GCC's address and undefined-behaviour sanitizers watching the kernels.
# Some ten times slower than the tests are. Extra arguments go to pytest.
set -euo pipefail
source "$(dirname "$0")/environment.sh"

CXX=${CXX:-g++}
libraries=$("$CXX" -print-file-name=libasan.so):$("$CXX" -print-file-name=libubsan.so)
cache=$(mktemp -d)
trap 'rm -rf "$cache"' EXIT

# Python itself is not compiled for them: they are loaded first, and what Python leaves allocated is no leak of ours.
export CXX="$CXX -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer -g"
export EARLY_EXIT_CACHE=$cache ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 OMP_NUM_THREADS=1
"$PYTHON" -c "from early_exit.kernels.native.build import built_library; built_library()"  # or the tests would be skipped
LD_PRELOAD=$libraries "$PYTHON" -m pytest -p no:cacheprovider \
  tests/early_exit/test_native.py tests/early_exit/test_loop.py tests/early_exit/test_linear.py \
  --deselect tests/early_exit/test_native.py::test_without_a_compiler_torch_decodes "$@"

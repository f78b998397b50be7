#!/usr/bin/env bash
# Checks this tree on a machine with a CUDA device, within nine minutes: builds and installs it into a temporary
# directory, finds the device, and runs the tests marked gpu, the benchmark, and a few tests under compute-sanitizer.
# Stages that do not fit in the time are dropped from the end and listed. Nothing is downloaded, and no device setting
# is changed.
#
#   scripts/gpu_check.sh [--out DIR] [--seconds N]
#
# Requires Python with NumPy, pytest, pybind11, scikit-build-core, cmake and ninja, and nvcc; the benchmark requires
# PyTorch. Writes gpu_check.json, gpu_check.log and the benchmark's results to DIR (default: bench/results). Exits with
# status 1 if a stage failed; a dropped stage is not a failure.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=${PYTHON:-python3}
marked=${LRCORE_GPU_TESTS:-gpu}        # marker expression that selects the tests
# The tests that compute-sanitizer runs: every rule with vectors of four and with single elements, a graph, and guarded
# steps.
short=${LRCORE_SANITIZE_TESTS:-"(any_alignment and cupy and 33) or (share_the_count and cupy) or (bits_of_every_rule and cupy)"}
out=bench/results
total=520 # seconds; the rest of the nine minutes is for stages that overrun their limit
stages=(build device tests bench sanitize)
declare -A limit=([build]=240 [device]=60 [tests]=200 [bench]=150 [sanitize]=180) # maximum seconds per stage
declare -A least=([build]=30 [device]=5 [tests]=15 [bench]=45 [sanitize]=30)      # seconds needed to start a stage
declare -A state=() took=() figures=() needs=([device]=build [tests]=device [bench]=device [sanitize]=device)

usage() {
  sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"
  exit "$1"
}

while (($#)); do
  case $1 in
    --out) out=${2:?--out needs a directory} && shift 2 ;;
    --seconds) total=${2:?--seconds needs a number} && shift 2 ;;
    -h | --help) usage 0 ;;
    *) usage 2 >&2 ;;
  esac
done

mkdir -p "$out"
out=$(cd "$out" && pwd)
log=$out/gpu_check.log
: >"$log"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

export PYTHONPATH=$scratch/site${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore

# Runs a command for at most the given number of seconds; SIGINT lets pytest write its results so far.
within() {
  local seconds=$1
  shift
  timeout --signal=INT --kill-after=10 "$seconds" "$@"
}

build() {
  local capabilities
  export LRCORE_CUDA=ON CMAKE_BUILD_PARALLEL_LEVEL=${CMAKE_BUILD_PARALLEL_LEVEL:-$(nproc)}
  if [[ -z ${LRCORE_CUDA_ARCHITECTURES:-} ]]; then
    capabilities=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | tr -d ' .' | sort -u | paste -sd ';') ||
      capabilities=
    if [[ $capabilities =~ ^[0-9\;]+$ ]]; then export LRCORE_CUDA_ARCHITECTURES=$capabilities; fi
  fi
  echo "figures: architectures ${LRCORE_CUDA_ARCHITECTURES:-of a release}"
  within "$1" "$python" -m pip install --no-build-isolation --no-deps --no-index --target "$scratch/site" .
}

device() {
  within "$1" "$python" - "$scratch/site" <<'PYTHON'
import pathlib
import sys

import lrcore

place = pathlib.Path(lrcore.__file__).resolve()
if not place.is_relative_to(pathlib.Path(sys.argv[1]).resolve()):
    sys.exit(f"another lrcore is imported: {place}; uninstall it")
info = lrcore.info()
if not info["cuda"]:
    sys.exit("this build does not include CUDA")
if "cuda" not in lrcore.backends():
    sys.exit(f"no device works: {info.get('cuda_error') or 'no device was found'}")
devices = [name for name in info["devices"] if name != "cpu"]
architectures = ",".join(map(str, info.get("cuda_architectures", [])))
print(f"figures: lrcore {info['version']} for {architectures} on {'; '.join(map(str, devices))}")
PYTHON
}

# Prints the counts of a JUnit file; fails unless at least one test passed.
counts() {
  "$python" - "$1" <<'PYTHON'
import pathlib
import sys
import xml.etree.ElementTree as ElementTree

file = pathlib.Path(sys.argv[1])
if not file.exists():
    sys.exit("figures: the test report is missing")
suites = ElementTree.parse(file).getroot().iter("testsuite")
total = dict.fromkeys(("tests", "failures", "errors", "skipped"), 0)
for suite in suites:
    for name in total:
        total[name] += int(suite.get(name, 0))
passed = total["tests"] - total["failures"] - total["errors"] - total["skipped"]
print(f"figures: {passed} passed, {total['failures'] + total['errors']} failed, {total['skipped']} skipped")
if passed == 0:
    sys.exit("no test passed")
PYTHON
}

tests() {
  local status=0
  within "$1" "$python" -m pytest -m "$marked" -p no:cacheprovider --junitxml="$scratch/tests.xml" || status=$?
  counts "$scratch/tests.xml" || status=$((status ? status : 1))
  return "$status"
}

bench() {
  local budget=$(($1 - 15)) status=0 quick=()
  ((budget >= 90)) || quick=(--quick)
  within "$1" "$python" bench/gpu.py --budget "$budget" "${quick[@]}" --out "$out" || status=$?
  return "$status"
}

sanitize() {
  local status=0
  # API errors are not reported: lrcore checks its own, and other libraries provoke some on purpose.
  within "$1" compute-sanitizer --tool memcheck --report-api-errors no --error-exitcode 99 \
    "$python" -m pytest -m "$marked" -k "$short" -p no:cacheprovider --junitxml="$scratch/sanitize.xml" || status=$?
  counts "$scratch/sanitize.xml" || status=$((status ? status : 1))
  return "$status"
}

# Searches the log from a given line on, and prints the last line that begins with a given word, without the word.
said() { tail -n "+$1" "$log" | sed -n "s/^$2//p" | tail -n 1; }

# Prints the figures of a finished stage: those in its log, or the last line of the log if it failed without figures.
figures_of() {
  local stage=$1 from=$2 status=$3 text file
  text=$(said "$from" 'figures: ')
  if [[ $stage == bench ]]; then
    file=$(said "$from" 'wrote ')
    text=${file:+"$(reached "$file") in $(basename "$file")"}
  elif [[ $stage == sanitize ]]; then
    text+="; $(said "$from" '========= ERROR SUMMARY: ')"
  fi
  if ((status)) && [[ -z $text ]]; then text=$(tail -n "+$from" "$log" | grep -v '^[[:space:]]*$' | tail -n 1) || true; fi
  echo "${text//$'\t'/ }"
}

reached() {
  "$python" -c '
import json, sys
content = json.load(open(sys.argv[1]))
verdicts = [goal["reached"] for goal in content["goals"]]
print(f"{verdicts.count(True)} goals reached, {verdicts.count(False)} missed, {verdicts.count(None)} unknown,",
      len(content["rows"]), "rows", end="")' "$1" || true
}

drop() {
  state[$1]=dropped took[$1]=${took[$1]:-0} figures[$1]=$2
  echo "== $1: dropped, $2" | tee -a "$log"
}

run() {
  local stage=$1 left=$((total - SECONDS)) need=${needs[$1]:-} seconds began=$SECONDS from status=0
  if [[ -n $need && ${state[$need]} != ok ]]; then
    drop "$stage" "$need did not succeed"
    return
  fi
  if [[ $stage == sanitize ]] && ! command -v compute-sanitizer >/dev/null; then
    drop "$stage" "compute-sanitizer is not installed"
    return
  fi
  if ((left < least[$stage])); then
    drop "$stage" "only $((left > 0 ? left : 0)) s remained"
    return
  fi
  seconds=$((left < limit[$stage] ? left : limit[$stage]))
  echo "== $stage, at most $seconds s" | tee -a "$log"
  from=$(($(wc -l <"$log") + 1))
  set +e
  (
    set -e
    "$stage" "$seconds"
  ) 2>&1 | tee -a "$log"
  status=${PIPESTATUS[0]}
  set -e
  took[$stage]=$((SECONDS - began))
  state[$stage]=ok
  figures[$stage]=$(figures_of "$stage" "$from" "$status")
  if ((status == 124 || status == 137)); then
    state[$stage]=failed figures[$stage]="not finished within $seconds s; ${figures[$stage]}"
  elif [[ $stage == sanitize ]] && tail -n "+$from" "$log" | grep -q 'Device not supported'; then
    drop "$stage" "compute-sanitizer does not support this device"
  elif ((status)); then
    state[$stage]=failed figures[$stage]="status $status; ${figures[$stage]}"
  fi
}

summary() {
  local stage
  echo
  printf '%-9s %-8s %7s  %s\n' stage state seconds figures
  for stage in "${stages[@]}"; do
    printf '%-9s %-8s %7s  %s\n' "$stage" "${state[$stage]}" "${took[$stage]}" "${figures[$stage]}"
  done
}

store() {
  local stage
  for stage in "${stages[@]}"; do
    printf '%s\t%s\t%s\t%s\n' "$stage" "${state[$stage]}" "${took[$stage]}" "${figures[$stage]}"
  done | "$python" -c '
import datetime, json, pathlib, re, subprocess, sys
stages = {}
for line in sys.stdin:
    name, state, seconds, figures = line.rstrip("\n").split("\t")
    stages[name] = {"state": state, "seconds": int(seconds), "figures": figures}
    counted = dict((what, int(n)) for n, what in re.findall(r"(\d+) (passed|failed|skipped)", figures))
    if name in ("tests", "sanitize") and counted:
        stages[name]["tests"] = counted
file = re.search(r" in (\S+\.json)$", stages["bench"]["figures"])
git = subprocess.run(["git", "-c", "safe.directory=*", "rev-parse", "HEAD"], capture_output=True, text=True)
content = {
    "check": "scripts/gpu_check.sh",
    "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    "commit": git.stdout.strip() or None,
    "seconds": int(sys.argv[2]),
    "stages": stages,
    "bench": file[1] if file else None,
}
pathlib.Path(sys.argv[1]).write_text(json.dumps(content, indent=1) + "\n")
' "$out/gpu_check.json" "$SECONDS"
}

for stage in "${stages[@]}"; do run "$stage"; done
store || echo "gpu_check.json could not be written"
summary | tee -a "$log"
echo "$SECONDS s; wrote $out/gpu_check.json"
for stage in "${stages[@]}"; do
  [[ ${state[$stage]} != failed ]] || exit 1
done

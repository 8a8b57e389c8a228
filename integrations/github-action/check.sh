#!/usr/bin/env bash
# Runs `policyguard check` with the action's inputs (INPUT_*), writes every report, and says how it ended in the
# step's outputs. Ends in 0 once there is an exit code to hand on: finish.sh fails the job, after the uploads.
#
# A line of the log that starts with `::` is a command to GitHub, and names of files come from strangers:
# policyguard prints none that is one, on stderr, where its report for GitHub goes too. The verdicts go to a file.
set -euo pipefail

reports="$RUNNER_TEMP/policyguard-reports-$$"
mkdir -p "$reports"

# One argument per line that is not blank, whatever it holds.
arguments=()
add_lines() {
  local line
  while IFS= read -r line || [[ -n "$line" ]]; do
    line="${line#"${line%%[![:space:]]*}"}"
    line="${line%"${line##*[![:space:]]}"}"
    if [[ -n "$line" ]]; then
      arguments+=("$1$line")
    fi
  done <<<"$2"
}
add() {
  if [[ -n "$2" ]]; then
    arguments+=("$1=$2")
  fi
}
flag() {
  case "$2" in
    true) arguments+=("$1") ;;
    false | "") ;;
    *)
      echo "::error::the input ${1#--} must be true or false, not '$2'"
      exit 2
      ;;
  esac
}

add_lines --policy= "${INPUT_POLICY:-}"
add --model "${INPUT_MODEL:-}"
add --base-url "${INPUT_BASE_URL:-}"
add --changed-since "${INPUT_CHANGED_SINCE:-}"
add --fail-on "${INPUT_FAIL_ON:-}"
flag --explain "${INPUT_EXPLAIN:-}"
add --workers "${INPUT_WORKERS:-}"
add --timeout "${INPUT_TIMEOUT:-}"
add --config "${INPUT_CONFIG:-}"
flag --allow-empty "${INPUT_ALLOW_EMPTY:-}"
if [[ "${INPUT_CACHE:-}" == true ]]; then
  mkdir -p "$RUNNER_TEMP/policyguard-scores"
  arguments+=("--cache=$RUNNER_TEMP/policyguard-scores/scores.sqlite")
fi
arguments+=(
  --format=jsonl
  --report=github
  "--report=markdown=$reports/policyguard.md"
  "--report=sarif=$reports/policyguard.sarif"
  "--report=html=$reports/policyguard.html"
  "--report=junit=$reports/policyguard.xml"
  --
)
add_lines "" "${INPUT_PATHS:-}"

set +e
policyguard check "${arguments[@]}" >"$reports/verdicts.jsonl"
code=$?
set -e

{
  echo "exit-code=$code"
  echo "reports=$reports"
  for report in markdown:md sarif:sarif html:html junit:xml; do
    if [[ -s "$reports/policyguard.${report#*:}" ]]; then
      echo "${report%%:*}=$reports/policyguard.${report#*:}"
    fi
  done
} >>"$GITHUB_OUTPUT"

#!/usr/bin/env bash
# Installs policyguard from the commit that the action was taken from, with what it needs to judge:
# a client where a server runs the model, else the libraries that run it here.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
extra=transformers
if [[ -n "${INPUT_BASE_URL:-${POLICYGUARD_BASE_URL:-}}" ]]; then
  extra=remote
fi
# On Linux without a GPU: torch without CUDA, whose builds sort above PyPI's of the same version, saves gigabytes.
# A job that sets PIP_EXTRA_INDEX_URL, if only to "", decides for itself.
if [[ $extra == transformers && "$(uname -s)" == Linux ]] && ! command -v nvidia-smi >/dev/null; then
  export PIP_EXTRA_INDEX_URL="${PIP_EXTRA_INDEX_URL-https://download.pytorch.org/whl/cpu}"
fi
python3 -m pip install --quiet --disable-pip-version-check "$root[$extra]"
policyguard --version

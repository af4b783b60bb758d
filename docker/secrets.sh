#!/bin/sh
# Make the secrets that compose.yaml wants and that are not there, in docker/secrets.
# Containers read the files as other users; on this machine the folder's mode keeps others out.
set -eu
umask 077

cd "$(dirname "$0")"
mkdir -p secrets
for name in postgres_password worker_password http_token grafana_password; do
    [ -s "secrets/$name" ] && continue
    head -c 24 /dev/urandom | od -An -v -tx1 | tr -d ' \n' >"secrets/$name"
    chmod 0444 "secrets/$name"
done

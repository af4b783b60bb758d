#!/bin/sh
# Secrets from their files, then the command. PGPASSWORD_FILE names the file with the database's password; a secret
# whose name ends in _API_KEY is the variable of that name, as models of providers want it (VOYAGE_API_KEY).
set -eu

if [ -n "${PGPASSWORD_FILE:-}" ]; then
    [ -s "$PGPASSWORD_FILE" ] || { echo "sidecar-entrypoint: $PGPASSWORD_FILE has no password" >&2; exit 1; }
    PGPASSWORD=$(cat "$PGPASSWORD_FILE")
    export PGPASSWORD
fi
for file in "${SECRETS:-/run/secrets}"/*_API_KEY; do
    [ -s "$file" ] || continue
    export "${file##*/}=$(cat "$file")"
done
exec "$@"

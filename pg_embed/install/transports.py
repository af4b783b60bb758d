"""Which transport a server allows, and how it is set up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Literal, get_args

import psycopg
from psycopg.types.json import Jsonb

from pg_embed import statements
from pg_embed.errors import InvalidArgument, TransportMissing
from pg_embed.resources import sql_dir

TransportKind = Literal["plpython", "spool", "dblink", "none"]
KINDS: tuple[TransportKind, ...] = get_args(TransportKind)  # the best first
READY = "this role has what it needs"

# What the database is told, by transport. For dblink it is how the server reaches itself: 127.0.0.1 and its
# own port if not given, with user and password only where no role can be created.
SETTINGS: Mapping[TransportKind, tuple[str, ...]] = {
    "plpython": ("socket", "host", "port", "token_file"),
    "spool": ("directory",),
    "dblink": ("loopback_host", "loopback_port", "loopback_user", "loopback_password"),
    "none": (),
}
COMMON = ("timeout",)

# What a loopback asks of TLS. A certificate could be checked only with a root certificate on the server; with
# BOUND the server has to prove instead, within this very TLS connection, that it knows the password.
BOUND = {"loopback_sslmode": "require", "loopback_channel_binding": "require"}
ENCRYPTED = {"loopback_sslmode": "require"}
AS_OFFERED: dict[str, str] = {}  # TLS where the server has it, by libpq's default
HERE = ("127.0.0.1", "::1", "localhost")
CHOSEN = "chosen"  # marks that "none" was wanted, and not for want of better
DERIVED: Mapping[TransportKind, tuple[str, ...]] = {
    "none": (CHOSEN,),
    "dblink": tuple(BOUND),
}  # nobody gives these
PATHS = ("socket", "token_file", "directory")  # on the server's host, which has another working directory
PORTS = ("port", "loopback_port")
MAX_TIMEOUT = 3600.0  # seconds

Connection = psycopg.Connection[Any]
Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Probe:
    """Whether a transport can be had, and why."""

    kind: TransportKind
    available: bool
    reason: str


@dataclass(frozen=True)
class Chosen:
    """The transport that was set up, and what was found about each."""

    kind: TransportKind
    reasons: Mapping[str, str]
    kept: bool = False  # it was there before


def set_up(connection: Connection, wanted: str | None = None, settings: Settings | None = None) -> Chosen:
    """Set up the transport that is wanted, or the best one; with none named, keep the one there is."""
    settings = _checked(settings or {})
    kept = _kept(connection)
    if wanted is None and kept is not None and not set(settings) - set(COMMON):
        connection.execute(statements.load("transports")["adjust_transport"], _parameters(kept, settings))
        connection.execute(body(kept))
        return Chosen(kept, {kept: "it was chosen before"}, kept=True)
    probes = probe(connection, settings)
    kind = choose(probes, wanted).kind
    if wanted == "none":
        settings = {**settings, CHOSEN: True}
    elif kind == "dblink":
        settings = _ways(connection, settings)[0]
    install_transport(connection, kind, settings)
    return Chosen(kind, {found.kind: found.reason for found in probes})


def reach(connection: Connection, settings: Settings, kept: bool) -> str | None:
    """Try the loopback of a committed dblink transport; what is wrong, if the server does not reach itself.

    Unless the transport is an old one, other ways are tried: with less TLS, but never less than `connection`
    itself demands; and, if no host is named, by the addresses that led `connection` there, as some services
    let no server connect to 127.0.0.1.
    """
    problem = _problem(connection)
    if problem is None or kept:
        return problem
    told = [problem]
    for way in _ways(connection, settings)[1:]:
        install_transport(connection, "dblink", way)
        if (problem := _problem(connection)) is None:
            return None
        told.append(problem)
    return "; ".join(dict.fromkeys(told))


def take_down(connection: Connection) -> None:
    """Remove what a transport made outside our schema: a foreign server and a login role."""
    connection.execute(statements.load("transports")["drop_loopback"])


def probe(connection: Connection, settings: Settings) -> list[Probe]:
    """What this role can set up on this server, the best first; tried, and rolled back."""
    return [
        _probe("plpython", _missing_address(settings) or _missing_plpython(connection)),
        _probe("spool", _missing_folder(settings) or _missing_rights(connection)),
        _probe("dblink", _missing_dblink(connection, settings)),
        Probe("none", True, "queries are embedded by the client"),
    ]


def choose(probes: Sequence[Probe], wanted: str | None = None) -> Probe:
    """The transport that is wanted, or the best one; an error when it cannot be had."""
    if wanted in (None, "auto"):
        return next(found for found in probes if found.available)
    for found in probes:
        if found.kind == wanted:
            if not found.available:
                raise TransportMissing(f"the transport {wanted} cannot be set up: {found.reason}")
            return found
    raise InvalidArgument(f"there is no transport {wanted!r}", hint=f"there are: auto, {', '.join(KINDS)}")


def install_transport(connection: Connection, kind: TransportKind, settings: Settings) -> None:
    """Make what the transport needs and its `embed._call`, in one transaction."""
    words = statements.load("transports")
    with connection.transaction():
        if kind == "plpython":
            connection.execute(words["create_plpython"])
        connection.execute(words["set_transport"], _parameters(kind, settings))
        connection.execute(body(kind))


def body(kind: TransportKind) -> bytes:
    """The file that defines `embed._call`."""
    return (sql_dir() / "transports" / f"{kind}.sql").read_bytes()


def _problem(connection: Connection) -> str | None:
    row = connection.execute(statements.load("transports")["loopback_problem"]).fetchone()
    return None if row is None else row[0]


def _ways(connection: Connection, settings: Settings) -> list[dict[str, Any]]:
    """Settings of loopbacks to try, in order; for each host with the most TLS first, and the least last."""
    row = connection.execute(statements.load("transports")["server"]).fetchone()
    has_tls, address, port = row or (False, None, None)
    places: list[dict[str, Any]] = [dict(settings)]
    if "loopback_host" not in settings:
        named = dict.fromkeys([(address, port), (connection.info.host, connection.info.port)])
        places += [
            {"loopback_port": port, **settings, "loopback_host": host}
            for host, port in named
            if host and not host.startswith("/")
        ]
    return [
        {**place, **tls}
        for place in places
        for tls in _tls(connection, has_tls, _is_here(str(place.get("loopback_host", HERE[0])), address))
    ]


def _is_here(host: str, address: str | None) -> bool:
    """Whether a host, as the server sees it, is the server itself, whose `address` this is."""
    return host in (*HERE, address) or host.startswith("/")


def _tls(connection: Connection, has_tls: bool, is_here: bool) -> list[Mapping[str, str]]:
    """What a loopback may ask of TLS, the most first; to the server itself no password leaves the machine."""
    demanded = _demanded(connection)
    if is_here and demanded == BOUND:
        demanded = ENCRYPTED
    if not has_tls:
        return [AS_OFFERED if is_here else demanded]
    return [BOUND] if demanded == BOUND else [BOUND, demanded]


def _demanded(connection: Connection) -> Mapping[str, str]:
    """The same of a connection's own words, those of the environment and of a service file among them."""
    words = {option.keyword: option.val for option in connection.pgconn.info}
    if words[b"sslmode"] in (b"verify-ca", b"verify-full") or words.get(b"channel_binding") == b"require":
        return BOUND
    return ENCRYPTED if words[b"sslmode"] == b"require" else AS_OFFERED


def _kept(connection: Connection) -> TransportKind | None:
    row = connection.execute(statements.load("transports")["current_transport"]).fetchone()
    if row is None:
        return None
    kind, stands = row
    return kind if stands else None


def _checked(settings: Settings) -> Settings:
    known = {*COMMON, *(name for names in SETTINGS.values() for name in names)}
    if unknown := sorted(set(settings) - known):
        raise InvalidArgument(
            f"no transport has a setting {unknown[0]!r}", hint=f"there are: {', '.join(sorted(known))}"
        )
    told = {name: value for name, value in settings.items() if value is not None}
    for name in PATHS:
        if name in told and not PurePath(told[name]).is_absolute():
            raise InvalidArgument(f"the transport's {name} {str(told[name])!r} is not an absolute path")
    for name in PORTS:
        if name in told and not (str(told[name]).isdecimal() and 1 <= int(told[name]) <= 65_535):
            raise InvalidArgument(f"the transport's {name} {told[name]} is not a port from 1 to 65535")
    if not 0 < told.get("timeout", 1) <= MAX_TIMEOUT:
        raise InvalidArgument(f"the transport's timeout must be up to {MAX_TIMEOUT:g} seconds, and not zero")
    return told


def _parameters(kind: TransportKind, settings: Settings) -> dict[str, Any]:
    names = (*SETTINGS[kind], *COMMON, *DERIVED.get(kind, ()))
    wanted = {name: settings[name] for name in names if name in settings}
    return {"kind": kind, "settings": Jsonb({name: _plain(value) for name, value in wanted.items()})}


def _plain(value: Any) -> Any:
    return value if isinstance(value, (int, float)) else str(value)


def _probe(kind: TransportKind, missing: str | None) -> Probe:
    return Probe(kind, missing is None, missing or READY)


def _missing_address(settings: Settings) -> str | None:
    if "socket" in settings or ("host" in settings and "port" in settings):
        return None
    return "no socket of the sidecar is named, and no host with a port"


def _missing_folder(settings: Settings) -> str | None:
    return None if "directory" in settings else "no spool directory is named"


def _missing_rights(connection: Connection) -> str | None:
    row = connection.execute(statements.load("transports")["try_spool"]).fetchone()
    return None if row is None else str(row[0])


def _missing_plpython(connection: Connection) -> str | None:
    return _missing_extension(connection, "plpython3u") or _try(connection, "try_plpython")


def _missing_dblink(connection: Connection, settings: Settings) -> str | None:
    return _missing_extension(connection, "dblink") or _try(
        connection, "set_transport", _parameters("dblink", settings)
    )


def _missing_extension(connection: Connection, name: str) -> str | None:
    row = connection.execute(statements.load("transports")["has_extension"], {"name": name}).fetchone()
    return None if row is not None and row[0] else f"the server does not have the extension {name}"


def _try(connection: Connection, name: str, parameters: Mapping[str, Any] | None = None) -> str | None:
    """Why the statement fails; None when it does not. Its effects are rolled back."""
    words = statements.load("transports")
    try:
        with connection.transaction(force_rollback=True):
            connection.execute(words["wait_briefly"])
            connection.execute(words[name], parameters)
    except psycopg.Error as exc:
        return exc.diag.message_primary or str(exc)
    return None

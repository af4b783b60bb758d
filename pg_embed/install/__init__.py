"""Installing pg_embed in a database, upgrading it, and taking it away."""

from __future__ import annotations

from pg_embed.install.installer import (
    Report,
    install,
    install_by,
    install_sql,
    install_within,
    installation_steps,
    installed_revision,
    removal_steps,
    uninstall,
    uninstall_sql,
    upgrade_sql,
)

__all__ = [
    "Report",
    "install",
    "install_by",
    "install_sql",
    "install_within",
    "installation_steps",
    "installed_revision",
    "removal_steps",
    "uninstall",
    "uninstall_sql",
    "upgrade_sql",
]

"""Which families there are: names and loaders, none of them imported before a model of theirs is loaded."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import cast

import pg_embed.models
from pg_embed.errors import InvalidArgument, ModelMisconfigured
from pg_embed.protocols import Embedder, Reranker
from pg_embed.records import ModelSpec

ENTRY_POINTS = "pg_embed.families"  # other packages name their loaders here: family = "module:attribute"

Loader = Callable[[ModelSpec], Embedder | Reranker]


class Registry:
    """Families by name; a loader is a string "module:attribute", resolved at the first load."""

    def __init__(self) -> None:
        self._loaders: dict[str, str] = {}

    def register(self, family: str, loader: str) -> None:
        """Name the loader of a family; a second loader of one name is an error, not an override."""
        known = self._loaders.setdefault(family, loader)
        if known != loader:
            raise InvalidArgument(f"family {family!r} is registered twice: {known} and {loader}")

    def families(self) -> list[str]:
        """The known names, sorted."""
        return sorted(self._loaders)

    def load(self, spec: ModelSpec) -> Embedder | Reranker:
        """Load a model; blocks for as long as that takes."""
        loader = self._loaders.get(spec.family)
        if loader is None:
            raise InvalidArgument(
                f"unknown model family {spec.family!r}", hint=f"known families: {', '.join(self.families())}"
            )
        return self._resolve(spec.family, loader)(spec)

    def _resolve(self, family: str, loader: str) -> Loader:
        try:
            return cast(Loader, EntryPoint(family, loader, ENTRY_POINTS).load())
        except (ImportError, AttributeError) as exc:
            raise ModelMisconfigured(
                f"the loader {loader} of family {family!r} cannot be used: {exc}"
            ) from exc


def default_registry() -> Registry:
    """Our own families and those of installed packages."""
    registry = Registry()
    for module in pkgutil.iter_modules(pg_embed.models.__path__, "pg_embed.models."):
        register = getattr(import_module(module.name), "register", None)
        if register is not None:
            register(registry)
    for point in entry_points(group=ENTRY_POINTS):
        registry.register(point.name, point.value)
    return registry

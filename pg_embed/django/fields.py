"""The field that pg_embed fills with the vectors of a text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from django.apps import apps
from django.core import checks
from django.db import connections, router
from django.db.models import F, Field, Value
from pgvector import HalfVector, SparseVector, Vector

from pg_embed.django.templates import names_of
from pg_embed.django.tokens import TokenVectors
from pg_embed.errors import InvalidArgument
from pg_embed.models.presets import HALFVEC_MOST, known_size
from pg_embed.records import VECTORS, Output

ColumnType = Literal["halfvec", "vector"]
COLUMN_TYPES: dict[Output, str] = {"sparse": "sparsevec", "multi": "halfvec[]"}  # of dense ones there are two
FIXED = {"null": True, "blank": True, "editable": False, "serialize": False}
VALUES: dict[str, Any] = {
    "halfvec": HalfVector,
    "vector": Vector,
    "sparsevec": SparseVector,
    "halfvec[]": TokenVectors,
}


class TemplateField(Field):
    """A field that declares a vectorizer: which text is embedded, and by which model."""

    empty_strings_allowed = False
    template: str
    embedding_model: str | None

    def check(self, **kwargs: Any) -> list[checks.CheckMessage]:
        """What would make a migration fail later."""
        found = super().check(**kwargs)
        return [
            *found,
            *self._check_app(),
            *self._check_engine(kwargs.get("databases")),
            *self._check_names(),
        ]

    def _check_app(self) -> list[checks.CheckMessage]:
        if apps.is_installed("pg_embed.django"):
            return []
        hint = 'add "pg_embed.django" to INSTALLED_APPS'
        told = "pg_embed.django is not installed, and no migration would make the vectorizer"
        return [checks.Error(told, hint=hint, obj=self, id="pg_embed.E001")]

    def _check_engine(self, databases: Any) -> list[checks.CheckMessage]:
        allowed = [
            alias
            for alias in databases or connections
            if router.allow_migrate_model(alias, self.model) and self.model._meta.managed
        ]
        engines = {alias: connections[alias].vendor for alias in allowed}
        wrong = sorted(alias for alias, vendor in engines.items() if vendor != "postgresql")
        if not wrong or (not databases and len(wrong) < len(allowed)):
            return []
        hint = "use the engine django.db.backends.postgresql, or a router that keeps the model elsewhere"
        told = f"vectors are kept in PostgreSQL, and database {wrong[0]!r} is {engines[wrong[0]]}"
        return [checks.Error(told, hint=hint, obj=self, id="pg_embed.E002")]

    def _check_names(self) -> list[checks.CheckMessage]:
        own = self.model._meta.local_concrete_fields
        known = {name for field in own for name in (field.name, field.attname, field.column)}
        unknown = sorted(names_of(self.template) - known)
        if not unknown:
            return []
        hint = f"{self.model._meta.label} has in its own table: {', '.join(sorted(f.name for f in own))}"
        told = f"the template names {{{unknown[0]}}}, which is no field of the model's own table"
        return [checks.Error(told, hint=hint, obj=self, id="pg_embed.E003")]


class EmbeddedField(TemplateField):
    """A nullable column of vectors, read by Django and written by pg_embed alone.

        embedding = EmbeddedField("{title}\\n{body}", model="bge-m3")

    The template names fields of the model. `makemigrations` writes what makes the vectorizer, one for all
    fields of one template and model. A model that is known by its name tells the size of its vectors; for
    others, and for one that is set to another size, give `dimensions`. Dense vectors are halfvec up to 4,000
    dimensions unless `column_type` is "vector"; other outputs of a model are "sparse" vectors and "multi", a
    list with a vector for each token. `filter` (SQL over columns), `index` and the name `vectorizer` are
    those of embed.create_vectorizer. A new object reads its vector from the database when it is asked for.
    """

    description = "Vectors of a text, kept by pg_embed"
    non_db_attrs = (*Field.non_db_attrs, "template", "model", "filter", "index", "vectorizer")
    # what Django asks of a field that it must not write
    expression = Value(None)
    referenced_fields: frozenset[Any] = frozenset()

    def __init__(
        self,
        template: str,
        *args: Any,
        model: str | None = None,
        output: Output = "dense",
        dimensions: int | None = None,
        column_type: ColumnType | None = None,
        filter: str | None = None,
        index: str = "none",
        vectorizer: str | None = None,
        **options: Any,
    ) -> None:
        if output not in VECTORS:
            hint = 'use "dense", "sparse" or "multi"'
            raise InvalidArgument(f"a field cannot hold {output!r} vectors", hint=hint)
        self.template = template
        self.embedding_model = model
        self.output = output
        self.dimensions = dimensions or known_size(model, output)
        self.column_type = COLUMN_TYPES.get(output) or column_type or type_of(self.dimensions)
        self.filter = filter
        self.index = index
        self.vectorizer = vectorizer
        super().__init__(*args, **{**options, **FIXED})

    @property
    def output_field(self) -> EmbeddedField:
        """Itself, as a generated field has one."""
        return self

    def contribute_to_class(self, cls: Any, name: str, private_only: bool = False) -> None:
        """Be left out of what is written, but for the models of migrations, which make the column."""
        super().contribute_to_class(cls, name, private_only)
        self.generated = cls._meta.apps is apps

    def pre_save(self, model_instance: Any, add: bool) -> Any:
        """What an update writes, of a migration's models: the vector that is there by then."""
        return super().pre_save(model_instance, add) if add else F(self.name)

    def generated_sql(self, connection: Any) -> tuple[str, tuple[Any, ...]]:
        """No table is made from a model itself: it would have no vectorizer."""
        hint = f"run: manage.py makemigrations {self.model._meta.app_label}"
        raise InvalidArgument(
            f"{self} is made by migrations, and app {self.model._meta.app_label!r} has none", hint=hint
        )

    def deconstruct(self) -> tuple[Any, Any, Any, Any]:
        """The size is said, whatever will be known of the model later."""
        name, _, args, kwargs = super().deconstruct()
        told = {
            "model": (self.embedding_model, None),
            "output": (self.output, "dense"),
            "dimensions": (self.dimensions, None),
            "column_type": (self.column_type if self.output == "dense" else None, None),
            "filter": (self.filter, None),
            "index": (self.index, "none"),
            "vectorizer": (self.vectorizer, None),
        }
        return name, "pg_embed.django.EmbeddedField", [self.template, *args], described(kwargs, told)

    def switched(self, model: str, dimensions: Mapping[Output, int]) -> EmbeddedField:
        """The same for vectors of another model, of which sizes by output may be told."""
        _, _, args, kwargs = self.deconstruct()
        kept = {key: value for key, value in kwargs.items() if key not in ("dimensions", "column_type")}
        if self.column_type == "vector":
            kept["column_type"] = "vector"
        return EmbeddedField(*args, **{**kept, "model": model, "dimensions": dimensions.get(self.output)})

    def db_type(self, connection: Any) -> str:
        """The type of pgvector with its size."""
        kind, brackets, _ = self.column_type.partition("[]")
        return f"{kind}({self.dimensions}){brackets}"

    def from_db_value(self, value: Any, expression: Any, connection: Any) -> Any:
        """A list of numbers, a SparseVector, or a list of lists of numbers."""
        return VALUES[self.column_type]._from_db(value)

    def to_python(self, value: Any) -> Any:
        """The same from a text."""
        return value if isinstance(value, list) else VALUES[self.column_type]._from_db(value)

    def get_prep_value(self, value: Any) -> Any:
        """A vector as pgvector reads it."""
        return VALUES[self.column_type]._to_db(value)


def by_output(dimensions: int | Mapping[Output, int] | None) -> Mapping[Output, int]:
    """Sizes as they are told: a number is that of dense vectors."""
    return {"dense": dimensions} if isinstance(dimensions, int) else dimensions or {}


def type_of(dimensions: int) -> ColumnType:
    """The type of a column of dense vectors, unless another is asked for."""
    return "halfvec" if dimensions <= HALFVEC_MOST else "vector"


def described(kwargs: dict[str, Any], told: dict[str, tuple[Any, Any]]) -> dict[str, Any]:
    """What a field is made of: Django's options, and ours that are not as by default."""
    own = {key: value for key, (value, default) in told.items() if value != default}
    return {**{key: value for key, value in kwargs.items() if key not in FIXED}, **own}

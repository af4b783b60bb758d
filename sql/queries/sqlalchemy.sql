-- name: installed
-- Whether our schema is there.
SELECT to_regclass('embed.vectorizers') IS NOT NULL AS installed;

-- name: has_model
-- Whether a model is in the catalog.
SELECT EXISTS (SELECT FROM embed.models AS m WHERE m.name = CAST(:name AS text)) AS found;

-- name: create_model
-- A model that is known by its name.
SELECT embed.create_model(
    CAST(:name AS text),
    family => CAST(:family AS text),
    options => CAST(CAST(:options AS text) AS jsonb),
    card => CAST(CAST(:card AS text) AS jsonb)
) AS name;

-- name: create_vectorizer
-- A vectorizer whose columns are there, or with a view of chunks one that makes its own.
SELECT embed.create_vectorizer(
    CAST(CAST(:source AS text) AS regclass),
    template => CAST(:template AS text),
    model => CAST(:model AS text),
    filter => CAST(:filter AS text),
    column_name => CAST(:dense AS text),
    sparse_column => CAST(:sparse AS text),
    name => CAST(:name AS text),
    index => CAST(:index AS text),
    multi_column => CAST(:multi AS text),
    sparse => CAST(:sparse_model AS text),
    column_type => CAST(:column_type AS text),
    storage => CASE WHEN CAST(:chunk_view AS text) IS NULL THEN 'column' ELSE 'table' END,
    chunking => CAST(CAST(:chunking AS text) AS jsonb),
    chunk_table => CAST(:chunk_table AS text),
    chunk_view => CAST(:chunk_view AS text)
) AS name;

-- name: declare
-- The statement that says of the chunks of a vectorizer that a model declares them.
SELECT format('COMMENT ON VIEW %s IS %L', v.chunk_view, replace(COALESCE(obj_description(v.chunk_view, 'pg_class'), ''), ' Declared by a model.', '') || ' Declared by a model.') AS statement
FROM embed.vectorizers AS v WHERE v.name = CAST(:name AS text);

-- name: drop_vectorizers
-- All vectorizers of a table; chunks would keep it.
SELECT embed.drop_vectorizer(v.name, drop_column => v.storage = 'table') FROM embed.vectorizers AS v WHERE v.source = to_regclass(CAST(:source AS text));

-- name: give
-- Vectors of queries, for the searches of this transaction, or until others are given.
SELECT embed._give_vectors_v1(CAST(CAST(:given AS text) AS jsonb), CAST(:lasting AS boolean)) AS given;

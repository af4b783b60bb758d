-- name: vectors
-- The vectors of texts, by way of the database's transport.
SELECT v.vector FROM embed._vectors_v1(%(texts)s::text[], %(model)s::text, %(kind)s::text, %(output)s::text) AS v (vector);

-- name: model
-- The model that embed() would take, to ask it here.
SELECT m.name, m.family, m.options, m.space_id FROM embed._asked_model_v1(%(model)s::text, %(output)s::text) AS m;

-- name: limit_time
-- How long a model may take, until the transaction ends; and what held before.
SELECT COALESCE(current_setting('embed.timeout', true), '') AS before, set_config('embed.timeout', %(timeout)s::text, true);

-- name: status
-- How far the vectorizers are, of one table or of all.
SELECT
    s.vectorizer_name,
    s.source::text AS source,
    s.model,
    s.sparse_model,
    s.state,
    s.reason,
    s.pending,
    s.in_flight,
    s.failed,
    s.backfill,
    s.rows_per_second::float8 AS rows_per_second,
    s.oldest,
    s.time_left,
    s.last_error
FROM embed.status(NULL) AS s
WHERE %(table)s::text IS NULL OR s.source = %(table)s::regclass;

-- name: wait
-- Until every committed row of a table is embedded, or listed as failed.
SELECT embed.wait(%(table)s::regclass, make_interval(secs => %(timeout)s::float8));

-- name: create_vectorizer
-- Keep vectors of columns or of a template.
SELECT embed.create_vectorizer(
    %(table)s::regclass,
    %(columns)s::text[],
    template => %(template)s::text,
    model => %(model)s::text,
    filter => %(filter)s::text,
    column_name => %(column)s::text,
    column_type => %(column_type)s::text,
    sparse_column => %(sparse_column)s::text,
    multi_column => %(multi_column)s::text,
    name => %(name)s::text,
    backfill => %(backfill)s::boolean,
    if_not_exists => %(if_not_exists)s::boolean,
    index => %(index)s::text,
    sparse => %(sparse)s::text,
    storage => %(storage)s::text,
    chunking => %(chunking)s::jsonb,
    chunk_table => %(chunk_table)s::text,
    chunk_view => %(chunk_view)s::text
) AS vectorizer;

-- name: models
-- The models of the catalog.
SELECT m.name, m.family, m.dimensions, m.metric, m.max_tokens, m.is_default AS "default", m.options::text AS options
FROM embed.models AS m
ORDER BY m.name;

-- name: models_in_use
-- How to load the models that the vectorizers use, and the default.
SELECT m.name, m.family, m.options
FROM embed.models AS m
WHERE m.is_default OR EXISTS (SELECT FROM embed.vectorizers AS v WHERE m.name IN (v.model, v.sparse_model))
ORDER BY m.name;

-- name: create_model
-- Enter a model with the card that was read from it.
SELECT embed.create_model(%(name)s, %(family)s, %(options)s, %(card)s, %(is_default)s) AS name;

-- name: transport
-- How the database reaches its sidecar.
SELECT t.kind, t.settings FROM embed._transport AS t;

-- name: ping
-- To the sidecar and back.
SELECT embed._ask('{"op": "ping"}') ->> 'pong' AS pong;

-- name: workers
-- How many are connected.
SELECT embed._workers() AS workers;

-- name: create_vectorizer
-- Keep vectors of columns or of a template.
SELECT embed.create_vectorizer(
    %(table)s::regclass,
    %(columns)s::text[],
    template => %(template)s,
    model => %(model)s,
    filter => %(filter)s,
    column_name => %(column)s,
    column_type => %(column_type)s,
    sparse_column => %(sparse_column)s,
    multi_column => %(multi_column)s,
    prepare => %(prepare)s,
    name => %(name)s,
    if_not_exists => %(if_not_exists)s,
    index => %(index)s,
    sparse => %(sparse)s
) AS vectorizer;

-- name: status
-- How far the vectorizers are.
SELECT
    s.vectorizer_name AS vectorizer,
    s.source::text AS "table",
    s.model,
    s.sparse_model,
    s.state,
    s.reason,
    s.pending,
    s.in_flight,
    s.failed,
    s.backfill,
    s.rows_per_second::float8 AS rows_per_second,
    extract(epoch FROM s.oldest)::float8 AS oldest_seconds,
    extract(epoch FROM s.time_left)::float8 AS seconds_left,
    s.last_error,
    s.index_kind,
    s.index_state,
    s.index_rows,
    s.index_error
FROM embed.status(%(vectorizer)s) AS s;

-- name: failures
-- Rows that were given up.
SELECT f.vectorizer_name AS vectorizer, f.source::text AS "table", f.key, f.code, f.error, f.attempts, f.failed_at
FROM embed.failures(%(vectorizer)s) AS f
LIMIT %(most)s;

-- name: retry
-- Send failed rows again.
SELECT embed.retry(%(vectorizer)s, %(key)s) AS rows;

-- name: backfill
-- Look at the rows of a table again.
SELECT embed.backfill(%(vectorizer)s, %(mode)s);

-- name: embed
-- The vector of a text.
SELECT embed.embed(%(text)s, %(model)s)::text AS vector;

-- name: embed_document
-- The vector of a text as a vectorizer would store it.
SELECT embed.embed_document(%(text)s, %(model)s)::text AS vector;

-- name: rerank
-- Texts by how well they answer a query, the best first.
SELECT row_number() OVER (ORDER BY r.score DESC, r.index) AS rank, r.score, (%(texts)s::text[])[r.index] AS text
FROM embed.rerank(%(query)s, %(texts)s::text[], %(model)s) AS r
ORDER BY rank;

-- name: indexes
-- The indexes over dense vectors, and how far they are.
SELECT
    i.vectorizer_name AS vectorizer,
    i.source::text AS "table",
    i.index_name AS index,
    i.wanted,
    i.kind,
    i.state,
    i.phase,
    i.progress::float8 AS progress,
    i.rows,
    i.bytes,
    i.explanation,
    i.error
FROM embed.indexes(%(vectorizer)s) AS i;

-- name: index_plan
-- What would be built, and what it costs.
SELECT
    p.vectorizer_name AS vectorizer,
    p.chosen AS kind,
    p.state,
    p.rows,
    p.index_bytes,
    p.memory_bytes,
    p.seconds::float8 AS seconds,
    p.ddl,
    p.remarks
FROM embed.index_plan(%(vectorizer)s, %(kind)s, %(m)s, %(ef_construction)s, %(min_rows)s) AS p;

-- name: create_index
-- Ask for an index, and for it to be looked after.
SELECT embed.create_index(%(vectorizer)s, %(kind)s, %(m)s, %(ef_construction)s, %(min_rows)s, %(memory)s, %(parallel_workers)s) AS told;

-- name: recall
-- How well an index finds.
SELECT
    r.recall::float8 AS recall,
    r.index_p50_ms::float8 AS index_p50_ms,
    r.index_p95_ms::float8 AS index_p95_ms,
    r.exact_p50_ms::float8 AS exact_p50_ms,
    r.exact_p95_ms::float8 AS exact_p95_ms,
    r.ef_search,
    r.ef_search_95,
    r.ef_search_99,
    r.sampled,
    r.index_name AS index,
    r.tried,
    r.remarks
FROM embed.recall(%(vectorizer)s, %(k)s, %(samples)s, %(seconds)s) AS r;

-- name: switches
-- The switches from one model to another, and how far they are.
SELECT
    s.vectorizer_name AS vectorizer,
    s.source::text AS "table",
    s.model,
    s.other_model,
    s.state,
    s.rows_left,
    s.failed,
    s.index_state,
    s.overlap_at_10::float8 AS overlap_at_10,
    s.compared,
    s.auto,
    s.keep,
    s.shadow,
    s.columns,
    s.started_at,
    s.swapped_at,
    s.explanation
FROM embed.switches(%(vectorizer)s) AS s;

-- name: switch_begin
-- Begin to change a vectorizer's model.
SELECT embed.switch_model(%(vectorizer)s, %(model)s, auto => %(auto)s, keep => %(keep)s, dependants => %(dependants)s, chunking => CAST(%(chunking)s AS jsonb)) AS shadow;

-- name: switch_finish
-- Swap.
SELECT embed.finish_switch(%(vectorizer)s, force => %(force)s) AS vectorizer;

-- name: switch_abort
-- Give a switch up.
SELECT embed.abort_switch(%(vectorizer)s);

-- name: switch_rollback
-- Go back to the old vectors.
SELECT embed.rollback_switch(%(vectorizer)s) AS told;

-- name: switch_forget
-- Drop the old vectors.
SELECT embed.forget_switch(%(vectorizer)s);

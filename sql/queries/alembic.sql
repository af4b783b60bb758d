-- name: call
-- One of the functions that users call.
SELECT embed.{function}({arguments})

-- name: drop_unused_model
-- Remove a model, if it is there and no vectorizer uses it.
SELECT embed.drop_model(m.name) FROM embed.models AS m
WHERE m.name = {name} AND NOT EXISTS (SELECT FROM embed.vectorizers AS v WHERE m.name IN (v.model, v.sparse_model))

-- name: keep_path
-- Remember the search_path of a migration.
SELECT pg_catalog.set_config('pg_embed.search_path', pg_catalog.current_setting('search_path'), false)

-- name: restore_path
-- Set the search_path as it was.
SELECT pg_catalog.set_config('search_path', pg_catalog.current_setting('pg_embed.search_path'), false)

-- name: installed
-- Whether our schema is there.
SELECT to_regclass('embed.vectorizers') IS NOT NULL AS installed

-- name: vectorizers
-- What the database has: each with its table, the index that is asked for, its table and view of chunks, and those
-- columns of its own table that pg_embed added itself; in a switch, the model to be, and the columns beside.
SELECT
    v.name,
    s.nspname::text AS schema,
    c.relname::text AS table_name,
    v.model,
    v.sparse_model,
    v.template,
    v.filter,
    v.outputs::text[] AS outputs,
    v.columns::text[] AS columns,
    v.max_attempts,
    COALESCE(i.wanted, 'none') AS index,
    v.chunking,
    v.column_type,
    (SELECT CAST(r.relname AS text) FROM pg_catalog.pg_class AS r WHERE r.oid = v.chunk_table) AS chunk_table,
    (SELECT CAST(r.relname AS text) FROM pg_catalog.pg_class AS r WHERE r.oid = v.chunk_view) AS chunk_view,
    CASE WHEN w.state <> 'swapped' THEN w.other_model END AS next_model,
    w.columns AS parked,
    (SELECT array_agg(CAST(a.attname AS text)) FROM pg_catalog.pg_attribute AS a
        WHERE a.attrelid = v.source AND NOT a.attisdropped
            AND starts_with(pg_catalog.col_description(a.attrelid, a.attnum), 'pg_embed:')) AS added
FROM embed.vectorizers AS v
JOIN pg_catalog.pg_class AS c ON c.oid = v.source
JOIN pg_catalog.pg_namespace AS s ON s.oid = c.relnamespace
LEFT JOIN embed.indexes AS i ON i.vectorizer_name = v.name
LEFT JOIN embed.switches AS w ON w.vectorizer_name = v.name
ORDER BY v.name

-- name: chunk_tables
-- The tables of chunks, those that no search sees yet included.
SELECT s.nspname::text AS schema, c.relname::text AS name
FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS s ON s.oid = c.relnamespace
WHERE c.relkind = 'r' AND pg_catalog.obj_description(c.oid, 'pg_class') ~ '^Chunks of the texts of .* kept by pg_embed\.$'

-- name: indexes
-- The indexes that pg_embed made, those of partitions included.
WITH RECURSIVE ours AS (
    SELECT c.oid, c.relnamespace, c.relname FROM pg_catalog.pg_class AS c
    WHERE c.relkind IN ('i', 'I') AND starts_with(pg_catalog.obj_description(c.oid, 'pg_class'), 'pg_embed:')
    UNION ALL
    SELECT c.oid, c.relnamespace, c.relname
    FROM ours AS o JOIN pg_catalog.pg_inherits AS h ON h.inhparent = o.oid JOIN pg_catalog.pg_class AS c ON c.oid = h.inhrelid
)
SELECT s.nspname::text AS schema, o.relname::text AS name
FROM ours AS o JOIN pg_catalog.pg_namespace AS s ON s.oid = o.relnamespace

-- name: models
-- The names of all models.
SELECT m.name FROM embed.models AS m

-- name: spell_filter
-- A condition as Postgres spells it for the catalog.
SELECT string_agg(
    CASE jsonb_typeof(p.piece)
        WHEN 'number' THEN embed._column_name(CAST(t.source AS oid), CAST(p.piece #>> '{}' AS smallint))
        ELSE p.piece #>> '{}'
    END, '' ORDER BY p.position)
FROM (SELECT CAST(CAST(:source AS text) AS regclass) AS source) AS t,
    embed._filter(t.source, CAST(:filter AS text)) AS f,
    jsonb_array_elements(f.pieces) WITH ORDINALITY AS p (piece, position)

-- name: spell_chunking
-- Settings of chunks, as the catalog has them for a model.
SELECT embed._chunking(
    CAST(CAST(:chunking AS text) AS jsonb), (SELECT CAST(m.card ->> 'max_tokens' AS integer) FROM embed._model AS m WHERE m.name = :model)
)

-- name: switch_model
-- Come to a model: a switch to it is begun, unless that or the model is there; one to another is given up; vectors that a
-- switch has kept are taken back.
SELECT CASE
    WHEN v.model = {model} AND s.state <> 'swapped' THEN CAST(embed.abort_switch(v.name) AS text)
    WHEN v.model = {model} OR s.other_model = {model} AND s.state <> 'swapped' THEN v.name
    WHEN s.other_model = {model} THEN embed.rollback_switch(v.name)
    ELSE ({begin})
END
FROM embed._vectorizer AS i JOIN embed.vectorizers AS v ON v.name = i.name LEFT JOIN embed.switches({vectorizer}) AS s ON true
WHERE i.id = embed._vectorizer_id({vectorizer})

-- name: await_switch
-- Wait until a switch is ready or done, and end it. Each look is a transaction of its own: an index is built when older
-- ones are over.
DECLARE
    until timestamptz := clock_timestamp() + make_interval(secs => {seconds});
    seen record;
BEGIN
    LOOP
        SELECT s.vectorizer_name, s.state, s.explanation INTO seen
        FROM embed.switches({vectorizer}) AS s WHERE s.other_model = {model} AND s.state <> 'swapped';
        EXIT WHEN NOT FOUND;
        IF seen.state = 'ready' THEN
            PERFORM embed.finish_switch(seen.vectorizer_name);
            EXIT;
        ELSIF clock_timestamp() > until OR seen.state NOT IN ('filling', 'indexing', 'comparing') THEN
            PERFORM embed._fail('PE040', format('vectorizer %L has not come to model %L: the switch is %s: %s', seen.vectorizer_name, {model}, seen.state, seen.explanation),
                CASE WHEN embed._workers() = 0 THEN 'no worker is connected; start one with pg-embed worker, and run the migration again'
                    ELSE 'run the migration again, which goes on waiting for the same switch; or see embed.switches' END);
        END IF;
        COMMIT;
        PERFORM pg_sleep(0.1);
        COMMIT;
    END LOOP;
END

-- name: run
-- A block of statements.
DO {block}

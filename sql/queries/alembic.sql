-- name: installed
-- Whether our schema is there, and whether the caller may see how indexes are to be built, and switches done.
SELECT to_regclass('embed.vectorizers') IS NOT NULL AS installed, has_table_privilege(to_regclass('embed._index'), 'SELECT') AS sees_details

-- name: vectorizers
-- What the database has: each with its table, the index that is asked for, its table and view of chunks, and those
-- columns of its own table that pg_embed added itself; in a switch, the model to be, and the columns beside, which may be of
-- another storage. Chunks that a model declares say so.
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
    v.prepare,
    v.state = 'paused' AS paused,
    v.replication,
    strpos(COALESCE(pg_catalog.obj_description(v.chunk_view, 'pg_class'), ''), 'Declared by a model.') > 0 AS declared,
    (SELECT CAST(r.relname AS text) FROM pg_catalog.pg_class AS r WHERE r.oid = v.chunk_table) AS chunk_table,
    (SELECT CAST(r.relname AS text) FROM pg_catalog.pg_class AS r WHERE r.oid = v.chunk_view) AS chunk_view,
    (SELECT array_agg(pg_catalog.format_type(a.atttypid, a.atttypmod) ORDER BY k.position)
        FROM unnest(v.columns) WITH ORDINALITY AS k (name, position)
        JOIN pg_catalog.pg_attribute AS a ON a.attrelid = COALESCE(v.chunk_table, v.source) AND a.attname = k.name AND NOT a.attisdropped) AS types,
    w.state AS switch,
    w.other_model,
    v.key AS key_columns,
    EXISTS (SELECT FROM pg_catalog.pg_trigger AS g WHERE g.tgrelid = v.source AND g.tgname ~ '^pg_embed_[0-9]+_posting_update$') AS has_postings,
    w.columns AS other_columns,
    w.chunk_table IS NOT NULL AS other_is_table,
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
-- The tables of chunks, those of switches from one model to another among them.
SELECT s.nspname::text AS schema, c.relname::text AS name
FROM (SELECT v.chunk_table FROM embed.vectorizers AS v UNION SELECT w.chunk_table FROM embed.switches AS w) AS t
JOIN pg_catalog.pg_class AS c ON c.oid = t.chunk_table
JOIN pg_catalog.pg_namespace AS s ON s.oid = c.relnamespace

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

-- name: next_chunking
-- How texts will be split after the switches that are under way.
SELECT w.vectorizer_name AS name, n.chunking
FROM embed.switches AS w JOIN embed._vectorizer AS n ON n.name = w.shadow
WHERE w.state <> 'swapped'

-- name: index_settings
-- How the indexes are to be built that were asked for, where that was said.
SELECT v.name, i.m, i.ef_construction, NULLIF(i.min_rows, 10000) AS min_rows, (i.memory / 1024) || 'kB' AS memory, i.parallel_workers
FROM embed._index AS i JOIN embed._vectorizer AS v ON v.id = i.vectorizer_id

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
-- Settings of chunks, as the catalog has them for a model, or would have them for one that is to come.
SELECT embed._chunking(
    CAST(CAST(:chunking AS text) AS jsonb),
    COALESCE((SELECT CAST(m.card ->> 'max_tokens' AS integer) FROM embed._model AS m WHERE m.name = :model), CAST(:most AS integer))
)


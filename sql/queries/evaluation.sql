-- name: place
-- Where a new table comes to stand, and how SQL writes its name.
SELECT pg_catalog.current_schema() AS schema, pg_catalog.format('%%I.%%I', pg_catalog.current_schema(), %(name)s::text) AS written;

-- name: remark
-- What is remembered of the table; no row when there is none.
SELECT pg_catalog.obj_description(c.oid, 'pg_class') AS remark
FROM pg_catalog.pg_class AS c
WHERE c.oid = pg_catalog.to_regclass(%(table)s);

-- name: create
-- The table of the documents.
CREATE TABLE {table} (key text PRIMARY KEY, title text NOT NULL, text text NOT NULL);

-- name: copy
-- Load it.
COPY {table} (key, title, text) FROM STDIN;

-- name: comment
-- Remember which documents they are, and that the table is ours to drop.
COMMENT ON TABLE {table} IS {remark};

-- name: forget
-- The vectorizers of the table.
SELECT embed.drop_vectorizer(v.name) FROM embed.vectorizers AS v WHERE v.source = %(table)s::regclass;

-- name: drop
-- What an evaluation leaves behind.
DROP TABLE {table};

-- name: vectorize
-- Keep the dense vectors of one model beside the sparse ones of another, or of the same.
SELECT embed.create_vectorizer(
    %(table)s::regclass,
    %(input)s::text[],
    template => %(template)s::text,
    model => %(model)s::text,
    column_name => 'dense',
    sparse => NULLIF(%(sparse)s::text, %(model)s::text),
    sparse_column => 'sparse',
    if_not_exists => true
) AS vectorizer;

-- name: progress
-- How many vectors there are, how many there are to be, how many are in hand, and how many were given up.
SELECT t.vectors, t.wanted, s.in_flight, s.failed
FROM (SELECT count(d.dense) + count(d.sparse) AS vectors, 2 * count(*) AS wanted FROM {table} AS d) AS t,
    (SELECT COALESCE(sum(v.in_flight), 0)::bigint AS in_flight, COALESCE(sum(v.failed), 0)::bigint AS failed
        FROM embed.status AS v WHERE v.source = %(table)s::regclass) AS s;

-- name: trouble
-- What keeps rows from being embedded.
SELECT COALESCE(
    (SELECT f.error FROM embed.failures AS f WHERE f.source = %(table)s::regclass LIMIT 1),
    (SELECT COALESCE(s.reason, s.last_error) FROM embed.status AS s
        WHERE s.source = %(table)s::regclass AND COALESCE(s.reason, s.last_error) IS NOT NULL LIMIT 1)
) AS trouble;

-- name: refresh
-- What BM25 weighs words by is of a moment before.
SELECT embed.refresh_postings(%(vectorizer)s::text);

-- name: vacuum
-- What the planner and an index know of the table is of before the load.
VACUUM ANALYZE {table};

-- name: patience
-- A model may have to be loaded for the first search.
SELECT pg_catalog.set_config('embed.timeout', %(seconds)s::text, false);

-- name: search
-- What a user types.
SELECT (hit).key
FROM embed.search(
    NULL::{table},
    %(query)s::text,
    k => %(k)s::integer,
    mode => %(mode)s::text,
    fusion => %(fusion)s::text,
    rerank => %(rerank)s::text
);

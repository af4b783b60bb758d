-- name: search
-- Rows that answer a query, with their scores last. A condition and a boost run with the caller's rights.
SELECT {columns}, s.score, s.dense_rank, s.dense_score, s.sparse_rank, s.sparse_score, s.rerank_score
FROM embed._search_v1(
    NULL::{table},
    %(query)s::text,
    %(k)s::integer,
    %(mode)s::text,
    %(filter)s::jsonb,
    %(fusion)s::text,
    %(weights)s::real[],
    %(candidates)s::integer,
    %(rerank)s::text,
    %(min_score)s::real,
    %(vectorizer)s::text,
    %(condition)s::text,
    %(key)s::text,
    %(diversity)s::real,
    %(boost)s::jsonb,
    %(boosting)s::text,
    %(skip)s::integer
) AS s;

-- name: search_chunks
-- The same rows, each with its best chunks.
SELECT {columns}, s.chunk_no, s.chunk, s.context, s.score, s.chunk_score
FROM embed._search_chunks_v1(
    NULL::{table},
    %(query)s::text,
    %(k)s::integer,
    %(mode)s::text,
    %(filter)s::jsonb,
    %(fusion)s::text,
    %(weights)s::real[],
    %(candidates)s::integer,
    %(rerank)s::text,
    %(min_score)s::real,
    %(vectorizer)s::text,
    %(per_row)s::integer,
    %(condition)s::text,
    %(diversity)s::real,
    %(boost)s::jsonb,
    %(boosting)s::text,
    %(skip)s::integer
) AS s;

-- name: asks
-- What a search asks of models for its query, for a client that makes the vectors itself.
SELECT a.output, a.name, a.family, a.options, a.space_id, a.size
FROM embed._search_asks_v1(NULL::{table}, %(mode)s::text, %(rerank)s::text, %(vectorizer)s::text) AS a;

-- name: give
-- Those vectors, for the searches of this transaction.
SELECT embed._give_vectors_v1(%(given)s::jsonb);

-- name: explain
-- How the same search would run, or with run did.
SELECT embed._search_explain_v1(
    NULL::{table},
    %(query)s::text,
    %(k)s::integer,
    %(mode)s::text,
    %(filter)s::jsonb,
    %(fusion)s::text,
    %(weights)s::real[],
    %(candidates)s::integer,
    %(rerank)s::text,
    %(min_score)s::real,
    %(vectorizer)s::text,
    %(condition)s::text,
    %(key)s::text,
    %(diversity)s::real,
    %(boost)s::jsonb,
    %(boosting)s::text,
    %(skip)s::integer,
    %(run)s::boolean
);

-- name: recency
-- A boost as an expression: it halves with the time since the column's. NULL adds nothing, what lies ahead is new, and beyond
-- 1000 half-lives the power would be an underflow.
(CASE WHEN {column} IS NULL THEN 0 ELSE {weight} * pg_catalog.power(0.5::float8, LEAST(GREATEST(
    extract(epoch FROM pg_catalog.now())::float8 - extract(epoch FROM {column}::timestamptz)::float8, 0) / {seconds}, 1000)) END)

-- name: columns
-- The columns of a table that hold no vectors.
SELECT a.attname AS name
FROM pg_catalog.pg_attribute AS a
WHERE a.attrelid = %(table)s::regclass AND a.attnum > 0 AND NOT a.attisdropped
    AND pg_catalog.format_type(a.atttypid, NULL) !~ '(^|\.)(vector|halfvec|sparsevec)(\[\])?$'
ORDER BY a.attnum;

-- name: search
-- Rows that answer a query, with their scores last. A condition runs with the caller's rights.
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
    %(condition)s::text
) AS s;

-- name: columns
-- The columns of a table that hold no vectors.
SELECT a.attname AS name
FROM pg_catalog.pg_attribute AS a
WHERE a.attrelid = %(table)s::regclass AND a.attnum > 0 AND NOT a.attisdropped
    AND pg_catalog.format_type(a.atttypid, NULL) !~ '(^|\.)(vector|halfvec|sparsevec)(\[\])?$'
ORDER BY a.attnum;

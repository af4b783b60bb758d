-- name: loaded
-- Which texts the table has; no row when there is no table.
SELECT pg_catalog.obj_description(c.oid, 'pg_class') AS edition
FROM pg_catalog.pg_class AS c
WHERE c.oid = pg_catalog.to_regclass('public.docstrings');

-- name: drop
-- Make room for other texts.
DROP TABLE IF EXISTS public.docstrings;

-- name: create
-- The table, as a user would have made it.
CREATE TABLE public.docstrings (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    module text NOT NULL,
    name text NOT NULL,
    signature text NOT NULL,
    docstring text NOT NULL
);

-- name: copy
-- Load it.
COPY public.docstrings (module, name, signature, docstring) FROM STDIN;

-- name: comment
-- Remember which texts they are.
COMMENT ON TABLE public.docstrings IS {edition};

-- name: vectorize
-- From here on its rows are embedded.
SELECT embed.create_vectorizer(
    'public.docstrings', template => '{module}.{name}: {docstring}', model => 'all-MiniLM-L6-v2', if_not_exists => true
);

-- name: retry
-- Rows that an earlier demo gave up are tried again.
SELECT embed.retry();

-- name: progress
-- How many rows have their vector, and how many were given up.
SELECT count(*) AS rows, count(d.embedding) AS embedded, (SELECT count(*) FROM embed.failures) AS failed
FROM public.docstrings AS d;

-- name: trouble
-- What keeps rows from being embedded.
SELECT COALESCE(
    (SELECT f.error FROM embed.failures AS f LIMIT 1),
    (SELECT COALESCE(s.reason, s.last_error) FROM embed.status AS s WHERE COALESCE(s.reason, s.last_error) IS NOT NULL LIMIT 1)
) AS trouble;

-- name: index
-- Worth its while now that the rows have vectors.
CREATE INDEX IF NOT EXISTS docstrings_embedding ON public.docstrings USING hnsw (embedding halfvec_cosine_ops);

-- name: search
-- What a user types.
SELECT module, name, signature, docstring
FROM docstrings
ORDER BY embedding <=> embed({question})
LIMIT 5;

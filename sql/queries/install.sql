-- name: lock_installation
-- One installation at a time in a database.
SELECT pg_catalog.pg_advisory_xact_lock(1885695330, 2);

-- name: brief_locks
-- Rather give up than let everybody wait behind us for a table.
SELECT pg_catalog.set_config('lock_timeout', %(milliseconds)s::text, true);

-- name: in_the_way
-- Who holds locks on our tables, the longest first.
SELECT a.pid, a.application_name, a.state, extract(epoch FROM pg_catalog.clock_timestamp() - min(a.xact_start))::float8 AS seconds
FROM pg_catalog.pg_locks AS l
JOIN pg_catalog.pg_class AS c ON c.oid = l.relation
JOIN pg_catalog.pg_namespace AS s ON s.oid = c.relnamespace AND s.nspname = 'embed'
JOIN pg_catalog.pg_stat_activity AS a ON a.pid = l.pid AND a.datname = pg_catalog.current_database()
WHERE l.granted AND a.pid <> pg_catalog.pg_backend_pid() AND a.xact_start IS NOT NULL
GROUP BY a.pid, a.application_name, a.state
ORDER BY seconds DESC
LIMIT 3;

-- name: is_fresh
-- Whether nothing is installed yet.
SELECT pg_catalog.to_regclass('embed._schema_version') IS NULL AS fresh

-- name: has_tables
-- Whether our tables are there.
SELECT pg_catalog.to_regclass('embed._model') IS NOT NULL AS has_tables;

-- name: revision
-- Which revision is installed.
SELECT v.version_num FROM embed._schema_version AS v

-- name: check_revision
-- Fails where another revision is installed.
DO $check$
BEGIN
    IF (SELECT v.version_num FROM embed._schema_version AS v) <> %(revision)s THEN
        RAISE EXCEPTION USING MESSAGE = 'another revision of pg_embed is installed: '
            || (SELECT v.version_num FROM embed._schema_version AS v),
            HINT = 'print its upgrade with: pg-embed upgrade --sql --from REVISION';
    END IF;
END $check$

-- name: seed_model
-- Enter a model that the package knows, unless there is one of its name; the first is the default.
INSERT INTO embed._model (name, family, options, card, outputs, dimensions, sparse_dimensions, multi_dimensions, metric, space_id, is_default)
SELECT m.name, m.family, m.options, m.card, embed._card_outputs(m.card), (m.card ->> 'dimensions')::integer,
    (m.card ->> 'sparse_dimensions')::integer, (m.card ->> 'multi_dimensions')::integer, m.card ->> 'metric', m.card ->> 'space_id',
    NOT EXISTS (SELECT FROM embed._model AS d WHERE d.is_default)
FROM (SELECT %(name)s::text AS name, %(family)s::text AS family, %(options)s::jsonb AS options, %(card)s::jsonb AS card) AS m
ON CONFLICT (name) DO NOTHING;

-- name: roles
-- Which of our roles are there.
SELECT r.rolname FROM pg_catalog.pg_roles AS r WHERE r.rolname IN ('embed_reader', 'embed_owner', 'embed_worker') ORDER BY 1;

-- name: query_schema
-- Where embed() stands: beside pgvector's operators if that was allowed.
SELECT s.nspname
FROM pg_catalog.pg_proc AS p
JOIN pg_catalog.pg_namespace AS s ON s.oid = p.pronamespace
WHERE p.proname = 'embed'
    AND (p.prosrc = 'SELECT embed.embed(query, model, vectorizer)' OR p.oid = pg_catalog.to_regprocedure('embed.embed(text, text, text)'))
ORDER BY s.nspname = 'embed'
LIMIT 1;

-- name: drop_vectorizers
-- Take the triggers and the worker's rights off every table; vectors stay.
SELECT embed.drop_vectorizer(v.name) FROM embed.vectorizers AS v;

-- name: has_query_functions
-- Whether embed() or one of its kin stands outside of schema embed.
SELECT EXISTS (SELECT FROM pg_catalog.pg_proc AS p WHERE p.proname IN ('embed', 'embed_sparse', 'embed_multi')
    AND p.prosrc = 'SELECT embed.' OPERATOR(pg_catalog.||) p.proname OPERATOR(pg_catalog.||) '(query, model, vectorizer)') AS found;

-- name: drop_query_functions
-- Remove embed() and its kin from the schemas where pgvector is, and where it was.
DO $$
DECLARE
    ours pg_catalog.regprocedure;
BEGIN
    FOR ours IN
        SELECT p.oid FROM pg_catalog.pg_proc AS p
        WHERE p.proname IN ('embed', 'embed_sparse', 'embed_multi')
            AND p.prosrc = 'SELECT embed.' OPERATOR(pg_catalog.||) p.proname OPERATOR(pg_catalog.||) '(query, model, vectorizer)'
    LOOP
        EXECUTE pg_catalog.format('DROP FUNCTION %s', ours);
    END LOOP;
END $$;

-- name: drop_schema
-- Remove everything of ours.
DROP SCHEMA embed CASCADE;

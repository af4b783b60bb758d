-- name: server
-- Version of the server, and how far its clock is from ours.
SELECT
    pg_catalog.current_setting('server_version') AS version,
    pg_catalog.current_setting('server_version_num')::integer / 10000 AS major,
    extract(epoch FROM pg_catalog.clock_timestamp())::float8 AS clock,
    pg_catalog.pg_is_in_recovery() AS is_standby;

-- name: pgvector
-- The extension as this database has it, and the library that the server has.
SELECT e.extversion AS version, COALESCE(a.default_version, e.extversion) AS library
FROM pg_catalog.pg_extension AS e
LEFT JOIN pg_catalog.pg_available_extensions AS a ON a.name = e.extname
WHERE e.extname = 'vector';

-- name: revision
-- Of our schema; fails where it is not.
SELECT v.version_num AS revision FROM embed._schema_version AS v;

-- name: check_generation
-- An error where the database does not serve programs of this generation.
SELECT embed._check_generation_v1(%(generation)s);

-- name: query_function
-- Whether embed() is found without naming its schema.
SELECT
    n.nspname AS schema,
    pg_catalog.pg_function_is_visible(p.oid) AS is_visible
FROM pg_catalog.pg_proc AS p
JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace
WHERE p.proname = 'embed' AND pg_catalog.pg_get_function_identity_arguments(p.oid) = 'query text, model text, vectorizer text'
ORDER BY n.nspname = 'embed'
LIMIT 1;

-- name: transport
-- What was set up, and what the better ones would need.
SELECT
    t.kind,
    t.settings - '{seal,role,conninfo,database}'::text[] AS settings,
    EXISTS (SELECT FROM pg_catalog.pg_available_extensions AS a WHERE a.name = 'plpython3u') AS has_plpython,
    EXISTS (SELECT FROM pg_catalog.pg_available_extensions AS a WHERE a.name = 'dblink') AS has_dblink,
    pg_catalog.pg_has_role('pg_write_server_files', 'USAGE') AND pg_catalog.pg_has_role('pg_read_server_files', 'USAGE') AS has_files
FROM embed._transport AS t;

-- name: loopback
-- Why the server cannot connect to itself; NULL when it can.
SELECT embed._loopback_problem() AS problem;

-- name: roles
-- Which of our roles are missing.
SELECT r.name
FROM pg_catalog.unnest(ARRAY['embed_reader', 'embed_owner', 'embed_worker']) AS r (name)
WHERE pg_catalog.to_regrole(r.name) IS NULL;

-- name: patience
-- How long the sidecar may take in this transaction: the session may be a pooler's.
SELECT pg_catalog.set_config('embed.timeout', %(seconds)s::text, true);

-- name: ping
-- To the sidecar and back.
SELECT embed._ask('{"op": "ping"}') ->> 'pong' AS pong;

-- name: models
-- The models of the vectorizers, and the default.
SELECT m.name, m.space_id
FROM embed.models AS m
WHERE m.is_default OR EXISTS (SELECT FROM embed.vectorizers AS v WHERE m.name IN (v.model, v.sparse_model))
ORDER BY m.name;

-- name: card
-- What the sidecar says of a model, which it loads.
SELECT
    embed._ask(pg_catalog.jsonb_build_object('op', 'card', 'model',
        pg_catalog.jsonb_build_object('name', m.name, 'family', m.family, 'options', m.options))) #>> '{card,space_id}' AS space_id
FROM embed.models AS m
WHERE m.name = %(name)s;

-- name: workers
-- How many are connected, and whether there is work for them.
SELECT embed._workers() AS workers, (SELECT count(*) FROM embed.vectorizers) AS vectorizers;

-- name: queue
-- How much waits, and for how long.
SELECT
    COALESCE(sum(s.pending), 0)::bigint AS pending,
    COALESCE(sum(s.failed), 0)::bigint AS failed,
    extract(epoch FROM max(s.oldest))::float8 AS oldest,
    max(s.rows_per_second)::float8 AS rate,
    max(s.last_error) AS last_error
FROM embed.status AS s;

-- name: vectorizers
-- Those that do not work.
SELECT v.name, v.state, v.reason FROM embed.vectorizers AS v WHERE v.state <> 'active' ORDER BY v.name;

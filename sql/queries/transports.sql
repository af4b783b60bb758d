-- name: wait_briefly
-- A probe does not wait for long.
SET LOCAL lock_timeout = '10s';

-- name: has_extension
-- Whether the server has the files of an extension.
SELECT EXISTS (SELECT FROM pg_available_extensions AS e WHERE e.name = %(name)s);

-- name: try_plpython
-- Fails where this role cannot have functions in PL/Python.
CREATE EXTENSION IF NOT EXISTS plpython3u;
CREATE FUNCTION pg_temp._pg_embed_probe() RETURNS integer LANGUAGE plpython3u AS 'return 1';

-- name: try_spool
-- What is missing for files to be written and read; no row when nothing is.
SELECT missing
FROM (VALUES
    (pg_has_role('pg_write_server_files', 'USAGE'), 'this role is no member of pg_write_server_files'),
    (pg_has_role('pg_read_server_files', 'USAGE'), 'this role is no member of pg_read_server_files'),
    (has_function_privilege('pg_stat_file(text, boolean)', 'EXECUTE'),
        'this role may not execute pg_stat_file(text, boolean)'),
    (has_function_privilege('pg_read_binary_file(text, bigint, bigint, boolean)', 'EXECUTE'),
        'this role may not execute pg_read_binary_file(text, bigint, bigint, boolean)')
) AS needed (is_there, missing)
WHERE NOT is_there;

-- name: create_plpython
-- The language of the plpython transport.
CREATE EXTENSION IF NOT EXISTS plpython3u;

-- name: set_transport
-- Write the choice down; for dblink make the foreign server and the login role.
SELECT embed._transport_set(%(kind)s, %(settings)s);

-- name: current_transport
-- What there is, and whether it stands: a copy's loopback leads to the original, and none may be for want of better.
SELECT
    t.kind,
    CASE t.kind
        WHEN 'none' THEN t.settings ? 'chosen'
        WHEN 'dblink' THEN t.settings ->> 'database' IS NOT DISTINCT FROM current_database() OR EXISTS (
            SELECT FROM pg_foreign_server AS s
            WHERE s.srvname = 'pg_embed_loopback' AND 'dbname=' || current_database() = ANY (s.srvoptions))
        ELSE true
    END AS stands
FROM embed._transport AS t;

-- name: adjust_transport
-- Change what all transports have, and leave the rest.
UPDATE embed._transport AS t SET settings = t.settings || %(settings)s WHERE t.kind = %(kind)s;

-- name: loopback_problem
-- Why the server cannot connect to itself; NULL when it can.
SELECT embed._loopback_problem();

-- name: server
-- Whether it has TLS, and where this connection arrived; NULL when that was a Unix socket.
SELECT current_setting('ssl')::boolean, host(inet_server_addr()), inet_server_port();

-- name: drop_loopback
-- Remove what lies outside our schema.
SELECT embed._loopback_drop(), embed._dblink_drop();

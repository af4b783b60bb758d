-- Which transport the database has, and the loopback that the dblink transport needs. Run by the owner.

CREATE OR REPLACE FUNCTION embed._loopback_drop()
RETURNS void
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    role text := (SELECT t.settings ->> 'role' FROM embed._transport AS t WHERE t.kind = 'dblink');
BEGIN
    IF EXISTS (SELECT FROM pg_foreign_server AS s WHERE s.srvname = 'pg_embed_loopback') THEN
        DROP SERVER pg_embed_loopback CASCADE;
    END IF;
    IF EXISTS (SELECT FROM pg_roles AS r WHERE r.rolname = role) THEN
        EXECUTE format('REVOKE ALL ON FUNCTION embed._mailbox_put_v1(uuid, text, bytea) FROM %I', role);
        EXECUTE format('REVOKE ALL ON FUNCTION embed._mailbox_wait_v1(uuid, bytea, double precision) FROM %I', role);
        EXECUTE format('REVOKE ALL ON PROCEDURE embed._mailbox_ask_v1(uuid, text, bytea, double precision, text) FROM %I', role);
        EXECUTE format('REVOKE ALL ON SCHEMA embed FROM %I', role);
        EXECUTE format('REVOKE ALL ON DATABASE %I FROM %I', current_database(), role);
        BEGIN
            EXECUTE format('DROP ROLE %I', role);
        EXCEPTION WHEN dependent_objects_still_exist THEN
            NULL;  -- this database is a copy, and the role that of the original
        END;
    END IF;
END $$;
COMMENT ON FUNCTION embed._loopback_drop() IS 'Remove the foreign server and the role that _loopback_create made.';

CREATE OR REPLACE FUNCTION embed._dblink_drop()
RETURNS void
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
BEGIN
    IF EXISTS (SELECT FROM pg_extension AS e WHERE e.extname = 'dblink' AND e.extnamespace = to_regnamespace('embed_dblink')) THEN
        BEGIN
            DROP EXTENSION dblink;
            DROP SCHEMA embed_dblink;
        EXCEPTION WHEN dependent_objects_still_exist OR insufficient_privilege THEN
            NULL;  -- somebody else has come to use it, or the service that created it for us keeps it
        END;
    END IF;
END $$;
COMMENT ON FUNCTION embed._dblink_drop() IS 'Remove the extension that _loopback_create made, behind _loopback_drop.';

-- wanted may have loopback_host, _port, _sslmode, _channel_binding, and where no role can be created _user and _password.
CREATE OR REPLACE FUNCTION embed._loopback_create(wanted jsonb)
RETURNS jsonb
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
SET password_encryption = 'scram-sha-256'  -- so that the server, too, can prove that it knows the password
SET standard_conforming_strings = on
AS $$
DECLARE
    owner text := (SELECT pg_get_userbyid(n.nspowner) FROM pg_namespace AS n WHERE n.nspname = 'embed');
    made_role text;
    login text := wanted ->> 'loopback_user';
    password text := wanted ->> 'loopback_password';
    host text := coalesce(wanted ->> 'loopback_host', '127.0.0.1');
    port text := coalesce(wanted ->> 'loopback_port', current_setting('port'));
    options text := '-c search_path=pg_catalog -c default_transaction_isolation=read\ committed -c default_transaction_read_only=off'
        ' -c statement_timeout=0 -c idle_session_timeout=0 -c synchronous_commit=off';
    words jsonb;  -- of the connection string but user and password
    conninfo text;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_extension AS e WHERE e.extname = 'dblink') THEN
        -- A schema that nobody else may use: sessions shall not play with the connection that is kept for them.
        CREATE SCHEMA IF NOT EXISTS embed_dblink;
        CREATE EXTENSION dblink SCHEMA embed_dblink;
    END IF;
    IF login IS NULL THEN
        login := 'embed_mailbox_' || left(encode(sha256(convert_to(current_database(), 'UTF8')), 'hex'), 12);
        made_role := login;
        password := replace(gen_random_uuid()::text || gen_random_uuid(), '-', '');
        IF NOT EXISTS (SELECT FROM pg_roles AS r WHERE r.rolname = login) THEN
            EXECUTE format('CREATE ROLE %I', login);
        END IF;
        EXECUTE format('ALTER ROLE %I LOGIN PASSWORD %L', login, password);
    END IF;
    EXECUTE format('GRANT USAGE ON SCHEMA embed TO %I', login);
    EXECUTE format('GRANT EXECUTE ON FUNCTION embed._mailbox_put_v1(uuid, text, bytea) TO %I', login);
    EXECUTE format('GRANT EXECUTE ON FUNCTION embed._mailbox_wait_v1(uuid, bytea, double precision) TO %I', login);
    EXECUTE format('GRANT EXECUTE ON PROCEDURE embed._mailbox_ask_v1(uuid, text, bytea, double precision, text) TO %I', login);
    IF NOT has_database_privilege(login, current_database(), 'CONNECT') THEN
        EXECUTE format('GRANT CONNECT ON DATABASE %I TO %I', current_database(), login);
    END IF;
    words := jsonb_strip_nulls(jsonb_build_object(
        'host', host, 'port', port, 'dbname', current_database(), 'connect_timeout', '5',
        'application_name', 'pg_embed loopback', 'options', options,
        'sslmode', wanted -> 'loopback_sslmode', 'channel_binding', wanted -> 'loopback_channel_binding'));
    IF has_foreign_data_wrapper_privilege('dblink_fdw', 'USAGE') THEN
        EXECUTE format('CREATE SERVER pg_embed_loopback FOREIGN DATA WRAPPER dblink_fdw OPTIONS (%s)',
            (SELECT string_agg(format('%I %L', w.key, w.value), ', ') FROM jsonb_each_text(words) AS w));
        EXECUTE format('CREATE USER MAPPING FOR %I SERVER pg_embed_loopback OPTIONS (user %L, password %L)',
            owner, login, password);
    ELSE  -- the extension is a superuser's: what the foreign server would keep is kept where only the owner reads
        SELECT string_agg(format('%s=''%s''', w.key, regexp_replace(w.value, '([\\''])', '\\\1', 'g')), ' ') INTO conninfo
        FROM jsonb_each_text(words || jsonb_build_object('user', login, 'password', password)) AS w;
    END IF;
    RETURN jsonb_strip_nulls(jsonb_build_object(
        'server', CASE WHEN conninfo IS NULL THEN 'pg_embed_loopback' END,
        'conninfo', conninfo,
        'database', CASE WHEN conninfo IS NOT NULL THEN current_database() END,
        'role', made_role,
        'sslmode', words -> 'sslmode',
        'channel_binding', words -> 'channel_binding',
        'seal', gen_random_uuid()::text || gen_random_uuid(),
        'timeout', wanted -> 'timeout'
    ));
END $$;
COMMENT ON FUNCTION embed._loopback_create(jsonb) IS 'Make a foreign server, or a connection string, that leads back into this database, for a role that may only use the mailbox.';

-- Only a loopback that was committed can be tried; and by the role for which embed._call opens it.
CREATE OR REPLACE FUNCTION embed._loopback_problem()
RETURNS text
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SECURITY DEFINER
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    path text := (SELECT 'pg_catalog, embed, ' || quote_ident(n.nspname) || ', pg_temp'
        FROM pg_extension AS e JOIN pg_namespace AS n ON n.oid = e.extnamespace WHERE e.extname = 'dblink');
    target text := (SELECT coalesce(t.settings ->> 'conninfo', t.settings ->> 'server') FROM embed._transport AS t WHERE t.kind = 'dblink');
    link text := 'pg_embed_' || replace(gen_random_uuid()::text, '-', '');
    message text;
    detail text;
BEGIN
    IF path IS NULL THEN
        RETURN 'the extension dblink was dropped';
    END IF;
    PERFORM set_config('search_path', path, true);
    PERFORM dblink_connect(link, target);
    PERFORM dblink_disconnect(link);
    RETURN NULL;
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL;
    RETURN pg_catalog.concat_ws(': ', message, nullif(detail, ''));
END $$;
COMMENT ON FUNCTION embed._loopback_problem() IS 'Owner: why the server cannot connect to itself as the dblink transport does; NULL when it can.';

CREATE OR REPLACE FUNCTION embed._transport_set(kind text, settings jsonb)
RETURNS void
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
BEGIN
    PERFORM embed._loopback_drop();
    IF kind = 'dblink' THEN
        settings := embed._loopback_create(settings);
    ELSE  -- not in between: an administrator may have created it for a role that could not do it again
        PERFORM embed._dblink_drop();
    END IF;
    DELETE FROM embed._transport;
    INSERT INTO embed._transport (kind, settings) VALUES (kind, settings);
END $$;
COMMENT ON FUNCTION embed._transport_set(text, jsonb) IS 'Owner: choose the transport; its embed._call is created next.';

REVOKE ALL ON FUNCTION
    embed._loopback_drop(),
    embed._dblink_drop(),
    embed._loopback_create(jsonb),
    embed._loopback_problem(),
    embed._transport_set(text, jsonb)
FROM PUBLIC;

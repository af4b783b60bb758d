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
    IF EXISTS (SELECT FROM pg_extension AS e WHERE e.extname = 'dblink' AND e.extnamespace = to_regnamespace('embed_dblink')) THEN
        BEGIN
            DROP EXTENSION dblink;
            DROP SCHEMA embed_dblink;
        EXCEPTION WHEN dependent_objects_still_exist THEN
            NULL;  -- somebody else has come to use it
        END;
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
COMMENT ON FUNCTION embed._loopback_drop() IS 'Remove the foreign server, the role and the extension that _loopback_create made.';

-- wanted may have loopback_host, _port, and where no role can be created _user and _password.
CREATE OR REPLACE FUNCTION embed._loopback_create(wanted jsonb)
RETURNS jsonb
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    owner text := (SELECT pg_get_userbyid(n.nspowner) FROM pg_namespace AS n WHERE n.nspname = 'embed');
    made_role text;
    login text := wanted ->> 'loopback_user';
    password text := wanted ->> 'loopback_password';
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
    EXECUTE format(
        'CREATE SERVER pg_embed_loopback FOREIGN DATA WRAPPER dblink_fdw'
        ' OPTIONS (host %L, port %L, dbname %L, connect_timeout ''5'', application_name ''pg_embed loopback'', options %L)',
        coalesce(wanted ->> 'loopback_host', '127.0.0.1'),
        coalesce(wanted ->> 'loopback_port', current_setting('port')),
        current_database(),
        '-c search_path=pg_catalog -c default_transaction_isolation=read\ committed -c default_transaction_read_only=off'
        ' -c statement_timeout=0 -c idle_session_timeout=0 -c synchronous_commit=off'
    );
    EXECUTE format('CREATE USER MAPPING FOR %I SERVER pg_embed_loopback OPTIONS (user %L, password %L)',
        owner, login, password);
    RETURN jsonb_strip_nulls(jsonb_build_object(
        'server', 'pg_embed_loopback',
        'role', made_role,
        'seal', gen_random_uuid()::text || gen_random_uuid(),
        'timeout', wanted -> 'timeout'
    ));
END $$;
COMMENT ON FUNCTION embed._loopback_create(jsonb) IS 'Make a foreign server that leads back into this database, for a role that may only use the mailbox.';

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
    END IF;
    DELETE FROM embed._transport;
    INSERT INTO embed._transport (kind, settings) VALUES (kind, settings);
END $$;
COMMENT ON FUNCTION embed._transport_set(text, jsonb) IS 'Owner: choose the transport; its embed._call is created next.';

REVOKE ALL ON FUNCTION
    embed._loopback_drop(),
    embed._loopback_create(jsonb),
    embed._transport_set(text, jsonb)
FROM PUBLIC;

-- The dblink transport: the request is a row committed over a kept loopback connection, the answer comes back in the row.

CREATE OR REPLACE FUNCTION embed._call(request text, timeout double precision)
RETURNS text
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
SET client_min_messages = warning  -- dblink tells of a kept connection that broke in a notice; we connect anew
AS $$
DECLARE
    request_id uuid := request::json ->> 'id';
    path text;  -- search_path with the schema of the extension at its end
    target text;  -- the foreign server's name, or a connection string, which no message may show
    link text;  -- name of the connection: not to be guessed, so that nobody can open one of that name beforehand
    is_kept boolean;
    answer text;
    detail text;
BEGIN
    timeout := coalesce(timeout, 30);
    IF request_id IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'PE023', MESSAGE = 'the request has no id';
    ELSIF pg_is_in_recovery() THEN
        RAISE EXCEPTION USING
            ERRCODE = 'PE013',
            MESSAGE = 'this server is a standby: the dblink transport writes its requests into a table, which only the primary can',
            HINT = 'ask the primary; or set up the transport plpython or spool there, which a standby can use, too; or embed the text in the client and pass the vector';
    END IF;
    SELECT
        coalesce(t.settings ->> 'conninfo', t.settings ->> 'server'),
        'pg_embed_' || left(encode(sha256(convert_to((t.settings ->> 'seal') || pg_backend_pid(), 'UTF8')), 'hex'), 32)
    INTO target, link
    FROM embed._transport AS t;
    SELECT 'pg_catalog, embed, ' || quote_ident(n.nspname) || ', pg_temp' INTO path
    FROM pg_extension AS e JOIN pg_namespace AS n ON n.oid = e.extnamespace
    WHERE e.extname = 'dblink';
    IF path IS NULL THEN
        RAISE EXCEPTION USING
            ERRCODE = 'PE013',
            MESSAGE = 'this database has no transport to a sidecar: the extension dblink was dropped',
            HINT = '"pg-embed doctor" tells which transports this server allows; or embed the text in the client and pass the vector';
    END IF;
    PERFORM embed._mailbox_check_attended();
    -- Until this function ends. Whoever may create functions and operators there has some that fit better than Postgres' own
    -- where these take any type, or others: so from here on functions are qualified, and operators have exactly their types.
    PERFORM set_config('search_path', path, true);
    is_kept := coalesce(link = ANY (dblink_get_connections()), false);
    LOOP
        BEGIN
            IF NOT is_kept THEN
                PERFORM dblink_connect(link, target);
            END IF;
            answer := embed._mailbox_exchange(path, link, request_id, request, timeout);
            IF answer IS NULL THEN
                RAISE EXCEPTION USING
                    ERRCODE = 'PE011',
                    MESSAGE = pg_catalog.format('no answer from the sidecar within %s s', timeout),
                    HINT = 'the model may be loading, or the sidecar busy: try again, or set embed.timeout higher';
            END IF;
            EXIT;
        EXCEPTION
            WHEN connection_exception OR connection_failure OR admin_shutdown
                OR sqlclient_unable_to_establish_sqlconnection THEN
                GET STACKED DIAGNOSTICS detail = MESSAGE_TEXT;
                PERFORM embed._mailbox_hang_up(path, link);
                IF NOT is_kept THEN
                    RAISE EXCEPTION USING
                        ERRCODE = 'PE010',
                        MESSAGE = pg_catalog.format('the sidecar cannot be reached: the loopback: %s', detail),
                        HINT = '"pg-embed doctor" tells what is missing';
                END IF;
                is_kept := false;  -- it broke while it was idle: once more; embedding twice does no harm
            WHEN query_canceled OR OTHERS THEN
                PERFORM embed._mailbox_hang_up(path, link);
                RAISE;
        END;
    END LOOP;
    IF NOT starts_with(answer, '{"id":"' || request_id::text || '"')
        AND coalesce(pg_catalog.json_extract_path_text(answer::json, 'id'),
            CASE WHEN pg_catalog.json_extract_path(answer::json, 'error') IS NOT NULL THEN request_id::text END)
            IS DISTINCT FROM request_id::text
    THEN
        RAISE EXCEPTION USING
            ERRCODE = 'PE020',
            MESSAGE = 'the answer belongs to another request',
            HINT = 'try again; if it happens again, restart the sidecar';
    END IF;
    RETURN answer;
END $$;
COMMENT ON FUNCTION embed._call(text, double precision) IS 'Send a request to the sidecar and return its answer, through rows of embed._mailbox and a loopback connection.';
REVOKE ALL ON FUNCTION embed._call(text, double precision) FROM PUBLIC;

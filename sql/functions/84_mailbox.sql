-- The mailbox of the dblink transport: requests come in as rows over a loopback connection, answers go out the same way.

-- A session can use, or replace, the loopback connection that dblink keeps for it. So requests are sealed: only code that
-- reads embed._transport, which is the owner's, can put one into the mailbox or fetch its answer.
CREATE OR REPLACE FUNCTION embed._mailbox_seal(request text)
RETURNS bytea
LANGUAGE sql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
    SELECT sha256(convert_to(t.settings ->> 'seal', 'UTF8') || sha256(convert_to(request, 'UTF8')))
    FROM embed._transport AS t
    WHERE t.kind = 'dblink'
$$;
COMMENT ON FUNCTION embed._mailbox_seal(text) IS 'The proof that a request was made by the owner''s functions.';

CREATE OR REPLACE FUNCTION embed._mailbox_attended()
RETURNS boolean
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
BEGIN
    -- Sidecars share this lock for as long as they are connected; whoever gets it alone knows that there is none, and
    -- gives it back by an error.
    IF pg_try_advisory_xact_lock(1885695330, 4) THEN
        RAISE EXCEPTION USING ERRCODE = 'lock_not_available';
    END IF;
    RETURN true;
EXCEPTION WHEN lock_not_available THEN
    RETURN false;
END $$;
COMMENT ON FUNCTION embed._mailbox_attended() IS 'Is a sidecar listening to the mailbox?';

CREATE OR REPLACE FUNCTION embed._mailbox_check_attended()
RETURNS void
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
BEGIN
    IF NOT embed._mailbox_attended() THEN
        RAISE EXCEPTION USING
            ERRCODE = 'PE010',
            MESSAGE = 'the sidecar cannot be reached: none is connected to the mailbox of this database',
            HINT = 'start it with "pg-embed serve"; "pg-embed doctor" tells what is missing';
    END IF;
END $$;
COMMENT ON FUNCTION embed._mailbox_check_attended() IS 'Raise PE010 when no sidecar is listening to the mailbox.';

CREATE OR REPLACE FUNCTION embed._mailbox_attend_v1()
RETURNS void
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
SET lock_timeout = '5s'
AS $$
BEGIN
    PERFORM pg_advisory_lock_shared(1885695330, 4);
END $$;
COMMENT ON FUNCTION embed._mailbox_attend_v1() IS 'Sidecar: tell by a lock that this session listens to the mailbox.';

CREATE OR REPLACE FUNCTION embed._mailbox_put_v1(id uuid, request text, proof bytea)
RETURNS void
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SECURITY DEFINER
SET search_path = pg_catalog, embed, pg_temp
AS $$
BEGIN
    IF proof IS DISTINCT FROM embed._mailbox_seal(request) THEN
        RAISE EXCEPTION USING ERRCODE = 'PE023', MESSAGE = 'the request is not sealed by this database''s transport';
    END IF;
    INSERT INTO embed._mailbox (id, request) VALUES (id, request) ON CONFLICT DO NOTHING;
    PERFORM pg_notify('pg_embed_mailbox', id::text);  -- never the request: anybody may listen
END $$;
COMMENT ON FUNCTION embed._mailbox_put_v1(uuid, text, bytea) IS 'Loopback: put a sealed request into the mailbox and tell the sidecars.';

CREATE OR REPLACE FUNCTION embed._mailbox_wait_v1(request_id uuid, proof bytea, timeout double precision)
RETURNS text
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SECURITY DEFINER
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    started timestamptz := clock_timestamp();
    waited double precision := 0;
    entry embed._mailbox;
BEGIN
    WHILE waited < timeout LOOP
        SELECT m.* INTO entry FROM embed._mailbox AS m WHERE m.id = request_id;
        IF NOT FOUND THEN
            RETURN NULL;  -- swept: its time was over
        END IF;
        IF entry.answer IS NOT NULL THEN
            IF proof IS DISTINCT FROM embed._mailbox_seal(entry.request) THEN
                RAISE EXCEPTION USING ERRCODE = 'PE023', MESSAGE = 'the request is not sealed by this database''s transport';
            END IF;
            DELETE FROM embed._mailbox AS m WHERE m.id = request_id;
            RETURN entry.answer;
        END IF;
        PERFORM pg_sleep(least(greatest(waited / 5, 0.0003), 0.03));
        waited := extract(epoch FROM clock_timestamp() - started);
    END LOOP;
    -- ids are told to whoever listens: nobody takes another's request away
    DELETE FROM embed._mailbox AS m WHERE m.id = request_id AND proof = embed._mailbox_seal(m.request);
    RETURN NULL;
END $$;
COMMENT ON FUNCTION embed._mailbox_wait_v1(uuid, bytea, double precision) IS 'Loopback: wait for the answer to a sealed request and take it; NULL when none came in time.';

-- A procedure that commits cannot have a search_path of its own; everything in it is named in full.
CREATE OR REPLACE PROCEDURE embed._mailbox_ask_v1(
    id uuid, request text, proof bytea, timeout double precision, INOUT answer text
)
LANGUAGE plpgsql
AS $$
BEGIN
    PERFORM embed._mailbox_put_v1(id, request, proof);
    COMMIT;
    answer := embed._mailbox_wait_v1(id, proof, timeout);
END $$;
COMMENT ON PROCEDURE embed._mailbox_ask_v1(uuid, text, bytea, double precision, text) IS 'Loopback: put a sealed request into the mailbox, for all to see, and wait for its answer.';

CREATE OR REPLACE FUNCTION embed._mailbox_waiting_v1(most integer)
RETURNS SETOF uuid
LANGUAGE sql
STABLE PARALLEL UNSAFE
SECURITY DEFINER
SET search_path = pg_catalog, embed, pg_temp
AS $$
    SELECT m.id FROM embed._mailbox AS m
    WHERE m.answer IS NULL
        -- a sidecar that has not answered for so long may be dead; embedding twice does no harm
        AND (m.taken_at IS NULL OR m.taken_at < clock_timestamp() - interval '15 seconds')
    ORDER BY m.created_at
    LIMIT most
$$;
COMMENT ON FUNCTION embed._mailbox_waiting_v1(integer) IS 'Sidecar: requests that nobody seems to work on, whose notification may have been missed.';

CREATE OR REPLACE FUNCTION embed._mailbox_serve_v1(answered uuid[], answers text[], wanted uuid[])
RETURNS TABLE (id uuid, request text)
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SECURITY DEFINER
SET search_path = pg_catalog, embed, pg_temp
AS $$
BEGIN
    IF cardinality(answered) > 0 THEN
        UPDATE embed._mailbox AS m SET answer = a.answer, taken_at = clock_timestamp()
        FROM unnest(answered, answers) AS a (id, answer)
        WHERE m.id = a.id;
    END IF;
    IF cardinality(wanted) = 0 THEN
        RETURN;
    END IF;
    RETURN QUERY
    UPDATE embed._mailbox AS m SET taken_at = clock_timestamp()
    WHERE m.id IN (
        SELECT w.id FROM embed._mailbox AS w
        WHERE w.id = ANY (wanted)
            AND w.answer IS NULL
            AND (w.taken_at IS NULL OR w.taken_at < clock_timestamp() - interval '15 seconds')
        FOR UPDATE SKIP LOCKED
    )
    RETURNING m.id, m.request;
END $$;
COMMENT ON FUNCTION embed._mailbox_serve_v1(uuid[], text[], uuid[]) IS 'Sidecar: write answers, those whose caller has gone being dropped; and take those of the wanted requests that nobody works on.';

CREATE OR REPLACE FUNCTION embed._mailbox_sweep_v1(older_than double precision)
RETURNS bigint
LANGUAGE sql
VOLATILE PARALLEL UNSAFE
SECURITY DEFINER
SET search_path = pg_catalog, embed, pg_temp
AS $$
    WITH swept AS (
        DELETE FROM embed._mailbox AS m
        WHERE m.created_at < clock_timestamp() - make_interval(secs => older_than)
            OR (m.answer IS NOT NULL AND m.taken_at < clock_timestamp() - interval '60 seconds')
        RETURNING 1
    )
    SELECT count(*) FROM swept
$$;
COMMENT ON FUNCTION embed._mailbox_sweep_v1(double precision) IS 'Sidecar: delete requests older than so many seconds, and answers that were not fetched within a minute.';

-- What follows runs in the caller's session. `path` is a search_path that ends with the schema of the extension dblink. Others
-- may have functions and operators there; but ours and Postgres's own come first, and none fits better than what is called here:
-- with exactly its types, or qualified.
CREATE OR REPLACE FUNCTION embed._mailbox_exchange(
    path text, link text, request_id uuid, request text, timeout double precision
)
RETURNS text
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    proof bytea := embed._mailbox_seal(request);
    question text := format('CALL embed._mailbox_ask_v1(%L, %L, %L, %L, NULL)', request_id, request, proof, timeout);
    started timestamptz := clock_timestamp();
    waited double precision := 0;
    look_at double precision := 0.3;  -- seconds waited when the sidecar's presence is looked at again
    is_lost boolean := false;
    answer text;
BEGIN
    PERFORM set_config('search_path', path, true);
    IF dblink_send_query(link, question) <> 1 THEN
        RAISE EXCEPTION USING ERRCODE = 'connection_failure', MESSAGE = 'the loopback connection is broken';
    END IF;
    WHILE dblink_is_busy(link) = 1 LOOP
        PERFORM pg_sleep(least(greatest(waited / 5::float8, 0.0003), 0.03));
        waited := extract(epoch FROM clock_timestamp() - started);
        IF waited > timeout THEN
            RETURN NULL;
        END IF;
        IF waited > look_at THEN
            IF is_lost THEN
                PERFORM embed._mailbox_check_attended();
            END IF;
            is_lost := NOT embed._mailbox_attended();
            look_at := waited + (CASE WHEN is_lost THEN 0.1 ELSE 0.3 END)::float8;  -- its last answer may be on the way
        END IF;
    END LOOP;
    SELECT r.answer INTO answer FROM dblink_get_result(link, true) AS r (answer text);
    PERFORM FROM dblink_get_result(link, true) AS r (nothing text);  -- dblink wants to say that this was all
    RETURN answer;
END $$;
COMMENT ON FUNCTION embed._mailbox_exchange(text, text, uuid, text, double precision) IS 'Put a request over the loopback connection and wait for its answer; NULL when none came in time.';

CREATE OR REPLACE FUNCTION embed._mailbox_hang_up(path text, link text)
RETURNS void
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
BEGIN
    PERFORM set_config('search_path', path, true);
    IF link = ANY (dblink_get_connections()) THEN
        IF dblink_is_busy(link) = 1 THEN  -- else the other side would wait on, for nobody
            PERFORM dblink_cancel_query(link);
        END IF;
        PERFORM dblink_disconnect(link);
    END IF;
END $$;
COMMENT ON FUNCTION embed._mailbox_hang_up(text, text) IS 'Close a loopback connection, so that a late answer cannot be taken for a later request''s.';

REVOKE ALL ON FUNCTION
    embed._mailbox_seal(text),
    embed._mailbox_attended(),
    embed._mailbox_check_attended(),
    embed._mailbox_exchange(text, text, uuid, text, double precision),
    embed._mailbox_hang_up(text, text),
    embed._mailbox_attend_v1(),
    embed._mailbox_put_v1(uuid, text, bytea),
    embed._mailbox_wait_v1(uuid, bytea, double precision),
    embed._mailbox_waiting_v1(integer),
    embed._mailbox_serve_v1(uuid[], text[], uuid[]),
    embed._mailbox_sweep_v1(double precision)
FROM PUBLIC;
REVOKE ALL ON PROCEDURE embed._mailbox_ask_v1(uuid, text, bytea, double precision, text) FROM PUBLIC;

DO $$
BEGIN
    IF to_regrole('embed_worker') IS NOT NULL THEN
        GRANT EXECUTE ON FUNCTION
            embed._mailbox_attend_v1(),
            embed._mailbox_waiting_v1(integer),
            embed._mailbox_serve_v1(uuid[], text[], uuid[]),
            embed._mailbox_sweep_v1(double precision)
        TO embed_worker;
    END IF;
END $$;

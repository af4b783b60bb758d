-- Looking at the work, and steering it.

CREATE OR REPLACE FUNCTION embed._rate(vectorizer integer)
RETURNS numeric
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
BEGIN
    -- a standby has no unlogged tables, and fails as soon as it plans to read one
    IF pg_is_in_recovery() THEN
        RETURN NULL;
    END IF;
    RETURN (SELECT round(sum(t.rows) / greatest(extract(epoch FROM clock_timestamp() - min(t.bucket)), 1)::numeric, 1)
        FROM embed._throughput AS t WHERE t.vectorizer_id = vectorizer AND t.bucket > clock_timestamp() - interval '60 seconds');
END $$;
COMMENT ON FUNCTION embed._rate(integer) IS 'The rows a second of the last minute; NULL when there were none, and on a standby, which cannot know.';

CREATE OR REPLACE FUNCTION embed.status(vectorizer text DEFAULT NULL)
RETURNS TABLE (
    vectorizer_name text,
    source regclass,
    model text,
    sparse_model text,
    state text,
    reason text,
    pending bigint,
    in_flight bigint,
    failed bigint,
    backfill bigint,
    rows_per_second numeric,
    oldest interval,
    time_left interval,
    last_error text,
    index_kind text,
    index_state text,
    index_rows bigint,
    index_error text
)
LANGUAGE sql
VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, embed, pg_temp
AS $$
    WITH queue AS (
        SELECT q.vectorizer_id,
            sum(q.n) FILTER (WHERE q.worker IS NULL) AS waiting,
            sum(q.n) FILTER (WHERE q.worker IS NOT NULL) AS held,
            min(q.enqueued_at) AS since
        FROM embed._queue AS q GROUP BY q.vectorizer_id
    ), figures AS (
        SELECT v.id, v.name, v.source, m.name AS model, s.name AS sparse_model, v.state, COALESCE(v.reason, embed._holdup(v.id)) AS reason,
            COALESCE(q.waiting, 0) + COALESCE(b.rows_left, CASE WHEN b.vectorizer_id IS NOT NULL THEN
                (SELECT greatest(c.reltuples, 0)::bigint FROM pg_class AS c WHERE c.oid = v.source) END, 0) AS pending,
            COALESCE(q.held, 0) AS held,
            (SELECT count(*) FROM embed._failure AS f WHERE f.vectorizer_id = v.id) AS failed,
            CASE WHEN b.vectorizer_id IS NOT NULL THEN COALESCE(b.rows_left, 0) ELSE 0 END AS backfill,
            embed._rate(v.id) AS rate,
            least(q.since, b.started_at) AS since,
            (SELECT e.last_error FROM embed._queue AS e WHERE e.vectorizer_id = v.id AND e.last_error IS NOT NULL ORDER BY e.available_at DESC LIMIT 1) AS error
        FROM embed._vectorizer AS v
        JOIN embed._model AS m ON m.id = v.model_id
        LEFT JOIN embed._model AS s ON s.id = v.sparse_model_id
        LEFT JOIN queue AS q ON q.vectorizer_id = v.id
        LEFT JOIN embed._backfill AS b ON b.vectorizer_id = v.id
        WHERE status.vectorizer IS NULL OR v.id = embed._vectorizer_id(status.vectorizer)
    )
    SELECT f.name, f.source, f.model, f.sparse_model, f.state, f.reason, f.pending, f.held, f.failed, f.backfill, COALESCE(f.rate, 0),
        CASE WHEN f.pending + f.held > 0 THEN clock_timestamp() - f.since END,
        CASE WHEN f.pending + f.held > 0 AND f.rate > 0 THEN make_interval(secs => ((f.pending + f.held) / f.rate)::double precision) END,
        f.error, l.chosen, l.state, (SELECT i.built_rows FROM embed._index AS i WHERE i.vectorizer_id = f.id AND l.index IS NOT NULL), l.error
    FROM figures AS f LEFT JOIN LATERAL embed._index_look_v1(f.id, NULL, NULL, NULL, NULL, NULL) AS l ON l.source IS NOT NULL
    ORDER BY f.name
$$;
COMMENT ON FUNCTION embed.status(text) IS
    'How far each vectorizer is: rows pending (queued, and not yet reached by the backfill), in flight, failed; rows a second of the last minute, the age of the oldest entry, and the time left; of the index over its dense vectors the kind, the state as in embed.indexes, the rows that it was built over, and why it could not be.';

CREATE OR REPLACE VIEW embed.status AS SELECT * FROM embed.status();
COMMENT ON VIEW embed.status IS 'embed.status() of every vectorizer.';

CREATE OR REPLACE FUNCTION embed.failures(vectorizer text DEFAULT NULL)
RETURNS TABLE (vectorizer_name text, source regclass, key text, code text, error text, attempts integer, failed_at timestamptz)
LANGUAGE sql
STABLE PARALLEL SAFE SECURITY DEFINER
SET search_path = pg_catalog, embed, pg_temp
AS $$
    SELECT v.name, v.source, f.key, f.code, f.error, f.attempts, f.failed_at
    FROM embed._failure AS f JOIN embed._vectorizer AS v ON v.id = f.vectorizer_id
    WHERE failures.vectorizer IS NULL OR v.id = embed._vectorizer_id(failures.vectorizer)
    ORDER BY f.failed_at, f.key
$$;
COMMENT ON FUNCTION embed.failures(text) IS 'Rows that were given up, with the error. They have no vector. embed.retry sends them again.';

CREATE OR REPLACE VIEW embed.failures AS SELECT * FROM embed.failures();
COMMENT ON VIEW embed.failures IS 'embed.failures() of every vectorizer.';

CREATE OR REPLACE FUNCTION embed.retry(vectorizer text DEFAULT NULL, key text DEFAULT NULL)
RETURNS bigint
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    wanted integer := CASE WHEN vectorizer IS NOT NULL THEN (embed._own_vectorizer(vectorizer)).id END;
    again bigint;
BEGIN
    -- without a vectorizer, row-level security leaves the caller's own
    WITH again AS (
        DELETE FROM embed._failure AS f
        WHERE (wanted IS NULL OR f.vectorizer_id = wanted) AND (retry.key IS NULL OR f.key = retry.key)
        RETURNING f.vectorizer_id, f.key
    ), queued AS (
        -- those of a switch as its backfill, for which the swap waits: they have no vectors there yet
        INSERT INTO embed._queue (vectorizer_id, priority, keys, n)
        SELECT v.id, CASE WHEN v.shadow_of IS NULL THEN 1 ELSE 2 END, array_agg(p.key), count(*)
        FROM (SELECT a.*, (row_number() OVER (PARTITION BY a.vectorizer_id) - 1) / 240 AS pack FROM again AS a) AS p
        JOIN embed._vectorizer AS v ON v.id = p.vectorizer_id
        GROUP BY v.id, p.pack
        RETURNING n
    ), due AS (
        UPDATE embed._queue AS q SET available_at = clock_timestamp()
        WHERE retry.key IS NULL AND q.worker IS NULL AND q.available_at > clock_timestamp()
            AND (wanted IS NULL OR q.vectorizer_id = wanted)
        RETURNING q.n
    )
    SELECT COALESCE((SELECT sum(q.n) FROM queued AS q), 0) + COALESCE((SELECT sum(d.n) FROM due AS d), 0) INTO again;
    PERFORM pg_notify('pg_embed_work', '');
    RETURN again;
END $$;
COMMENT ON FUNCTION embed.retry(text, text) IS
    'Send failed rows again, of one vectorizer or of all, one key or all, and do not wait for backoffs. Returns how many rows.';

CREATE OR REPLACE FUNCTION embed.pause(vectorizer text)
RETURNS void
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    wanted integer := (embed._own_vectorizer(vectorizer)).id;
BEGIN
    UPDATE embed._vectorizer AS v SET state = 'paused', reason = 'paused by ' || session_user WHERE v.id = wanted AND v.state = 'active';
    PERFORM pg_notify('pg_embed_work', 'catalog');
END $$;
COMMENT ON FUNCTION embed.pause(text) IS 'Stop embedding a table for now. Changes go on being queued.';

CREATE OR REPLACE FUNCTION embed.resume(vectorizer text)
RETURNS void
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    v embed._vectorizer;
BEGIN
    v := embed._own_vectorizer(resume.vectorizer);
    IF embed._problem(v) IS NOT NULL THEN
        PERFORM embed._fail('PE003', format('vectorizer %L cannot go on: %s', v.name, embed._problem(v)));
    END IF;
    UPDATE embed._vectorizer AS c
    SET state = 'active', reason = NULL, guards = CASE v.state WHEN 'stopped' THEN embed._guards(c) ELSE c.guards END
    WHERE c.id = v.id;
    PERFORM embed._try_again_v1(m.id) FROM unnest(embed._models(v)) AS m(id);
    IF v.state = 'stopped' THEN
        -- changes may have gone by without a trigger
        PERFORM embed._start_backfill(v.id, 'all');
    END IF;
    PERFORM pg_notify('pg_embed_work', 'catalog');
END $$;
COMMENT ON FUNCTION embed.resume(text) IS 'Go on embedding a table that was paused or stopped.';

CREATE OR REPLACE FUNCTION embed._workers()
RETURNS integer
LANGUAGE sql
VOLATILE PARALLEL RESTRICTED SECURITY DEFINER
SET search_path = pg_catalog, embed, pg_temp
AS $$
    SELECT count(*)::integer FROM pg_locks AS l
    WHERE l.locktype = 'advisory' AND l.classid = 1885695331 AND l.objsubid = 2
        AND l.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())
$$;
COMMENT ON FUNCTION embed._workers() IS 'How many workers are connected to this database.';

CREATE OR REPLACE FUNCTION embed._lacks_worker()
RETURNS boolean
LANGUAGE sql
VOLATILE PARALLEL RESTRICTED
SET search_path = pg_catalog, embed, pg_temp
AS $$ SELECT NOT pg_is_in_recovery() AND embed._workers() = 0 $$;
COMMENT ON FUNCTION embed._lacks_worker() IS 'Whether no worker is connected that should be: those of a standby are connected to its primary.';

CREATE OR REPLACE FUNCTION embed._figures_v1()
RETURNS jsonb
LANGUAGE sql
VOLATILE PARALLEL RESTRICTED SECURITY DEFINER
SET search_path = pg_catalog, embed, pg_temp
AS $$
    WITH lanes AS (
        SELECT q.vectorizer_id, q.priority, jsonb_build_object(
            'rows', COALESCE(sum(q.n) FILTER (WHERE q.worker IS NULL), 0),
            'in_flight', COALESCE(sum(q.n) FILTER (WHERE q.worker IS NOT NULL), 0),
            'oldest', greatest(extract(epoch FROM clock_timestamp() - min(q.enqueued_at)), 0)) AS figures
        FROM embed._queue AS q GROUP BY q.vectorizer_id, q.priority
    ), queue AS (
        SELECT l.vectorizer_id, jsonb_object_agg(l.priority, l.figures) AS lanes FROM lanes AS l GROUP BY l.vectorizer_id
    ), failures AS (
        SELECT f.vectorizer_id, count(*) AS failed FROM embed._failure AS f GROUP BY f.vectorizer_id
    ), vectorizers AS (
        SELECT v.name, jsonb_build_object('name', v.name, 'reason', COALESCE(v.reason, embed._holdup(v.id)),
            'state', CASE
                WHEN v.state <> 'active' THEN v.state
                WHEN v.reason IS NOT NULL THEN 'blocked'
                WHEN EXISTS (SELECT FROM embed._limit AS l WHERE l.model_id = ANY (embed._models(v)) AND l.refusal IS NOT NULL) THEN 'refused'
                WHEN embed._spent(v.id, 2) THEN 'spent'
                ELSE 'active' END,
            'failed', COALESCE(f.failed, 0),
            'backfill', CASE WHEN b.vectorizer_id IS NULL THEN 0
                ELSE COALESCE(b.rows_left, (SELECT greatest(c.reltuples, 0)::bigint FROM pg_class AS c WHERE c.oid = v.source), 0) END,
            'lanes', COALESCE(q.lanes, '{}')) AS figures
        FROM embed._vectorizer AS v
        LEFT JOIN queue AS q ON q.vectorizer_id = v.id
        LEFT JOIN failures AS f ON f.vectorizer_id = v.id
        LEFT JOIN embed._backfill AS b ON b.vectorizer_id = v.id
    ), costs AS (
        SELECT m.name, sum(u.cost) AS cost FROM embed._usage AS u JOIN embed._model AS m ON m.id = u.model_id
        WHERE u.cost IS NOT NULL GROUP BY m.name
    )
    SELECT jsonb_build_object('workers', embed._workers(),
        'vectorizers', COALESCE((SELECT jsonb_agg(v.figures ORDER BY v.name) FROM vectorizers AS v), '[]'),
        'costs', COALESCE((SELECT jsonb_object_agg(c.name, c.cost) FROM costs AS c), '{}'))
$$;
COMMENT ON FUNCTION embed._figures_v1() IS
    'What workers tell those who watch them: each vectorizer''s state, its rows by lane with the age of the oldest, rows given up, rows that the backfill has not reached; what models cost. One pass over the short rows of the queue.';

CREATE OR REPLACE FUNCTION embed.why(source regclass, key text)
RETURNS TABLE (vectorizer text, state text, explanation text)
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
SET standard_conforming_strings = on
SET DateStyle = 'ISO, YMD'
SET TimeZone = 'UTC'
SET IntervalStyle = 'postgres'
SET extra_float_digits = 1
AS $$
DECLARE
    v record;
    there boolean;
    row_of record;
    entry record;
    failure record;
BEGIN
    FOR v IN SELECT * FROM embed._why_v1(source) LOOP
        vectorizer := v.name;
        SELECT NULL::boolean AS found, NULL::boolean AS has_input, NULL::boolean AS has_vector, NULL::boolean AS attached, NULL::text AS key INTO row_of;
        there := NULL;
        IF v.expressions IS NOT NULL THEN
            BEGIN
                EXECUTE format('SELECT true FROM unnest(ARRAY[$1]) AS q(key) JOIN %s AS r ON %s', v.expressions[1], v.expressions[3])
                INTO there USING why.key;
            EXCEPTION WHEN data_exception OR check_violation THEN
                NULL;  -- what is no value of the key's type is the key of no row
            END;
        END IF;
        IF there THEN
            BEGIN
                EXECUTE format('SELECT true AS found, (%s) IS NOT NULL AS has_input, %s AS has_vector, %s AS attached, %s AS key
                    FROM unnest(ARRAY[$1]) AS q(key) JOIN %s AS r ON %s',
                    v.expressions[2], v.expressions[4],
                    CASE WHEN v.attached = '{}' THEN 'false' ELSE format('r.tableoid = ANY (%L::oid[])', v.attached) END,
                    v.expressions[5], v.expressions[1], v.expressions[3])
                INTO row_of USING why.key;
            EXCEPTION WHEN data_exception THEN
                -- the filter fails on it: such a row waits, or is listed as failed
                SELECT true AS found, true AS has_input, false AS has_vector, false AS attached, why.key AS key INTO row_of;
            END;
        END IF;
        SELECT * INTO entry FROM embed._why_queued_v1(v.id, COALESCE(row_of.key, why.key));
        SELECT * INTO failure FROM embed._why_failed_v1(v.id, COALESCE(row_of.key, why.key));
        IF v.state = 'stopped' THEN
            state := 'stopped';
            explanation := 'the vectorizer is stopped: ' || v.reason;
        ELSIF row_of.found IS NULL THEN
            state := 'no row';
            explanation := format('no committed row of %s has the key %s', source, why.key);
        ELSIF failure.key IS NOT NULL THEN
            state := 'failed';
            explanation := format('given up after %s attempts: %s; send it again with embed.retry(%L, %L)', failure.attempts, failure.error, v.name, why.key);
        ELSIF entry.id IS NOT NULL AND v.state = 'paused' THEN
            state := 'paused';
            explanation := format('queued since %s, and the vectorizer is %s; go on with embed.resume(%L)', entry.enqueued_at, v.reason, v.name);
        ELSIF entry.worker IS NOT NULL THEN
            state := 'in flight';
            explanation := format('a worker has had it since attempt %s began; its lease ends at %s', entry.attempts, entry.available_at);
        ELSIF entry.id IS NOT NULL AND embed._lacks_worker() THEN
            state := 'pending';
            explanation := format('queued since %s, and no worker is connected; start one with pg-embed worker', entry.enqueued_at);
        ELSIF entry.id IS NOT NULL AND entry.available_at > clock_timestamp() THEN
            state := 'pending';
            explanation := format('tried %s times, again at %s; the last error was: %s', entry.attempts, entry.available_at, COALESCE(entry.last_error, 'none'));
        ELSIF entry.id IS NOT NULL AND v.state = 'active' AND v.reason IS NOT NULL THEN
            state := 'pending';
            explanation := format('queued since %s, and held up: %s', entry.enqueued_at, v.reason);
        ELSIF entry.id IS NOT NULL THEN
            state := 'pending';
            explanation := format('queued since %s, about %s rows before it', entry.enqueued_at, entry.ahead);
        ELSIF NOT row_of.has_input THEN
            state := 'no input';
            explanation := 'every input column is NULL, or the filter leaves the row out';
        ELSIF row_of.attached THEN
            state := 'pending';
            explanation := CASE WHEN embed._lacks_worker() THEN 'its partition was attached a moment ago, and no worker is connected; start one with pg-embed worker'
                ELSE 'its partition was attached a moment ago, and no worker has looked at it yet' END;
        ELSIF row_of.has_vector THEN
            state := 'embedded';
            explanation := 'it is embedded, and nothing is queued for it';
        ELSIF v.has_backfill THEN
            state := 'pending';
            explanation := CASE WHEN embed._lacks_worker() THEN 'the backfill has not reached it, and no worker is connected; start one with pg-embed worker'
                ELSE 'the backfill has not reached it yet' END;
        ELSIF v.expressions[6] IS NOT NULL THEN
            state := 'no input';
            explanation := format('the hook %L made no text of it, if a worker has seen it; have it looked at again with embed.backfill(%L)', v.expressions[6], v.name);
        ELSE
            state := 'missed';
            explanation := format('it has text, no vector, and no entry in the queue (made without triggers, or its vector was taken away); queue it with embed.backfill(%L)', v.name);
        END IF;
        RETURN NEXT;
    END LOOP;
    IF vectorizer IS NULL THEN
        PERFORM embed._fail('PE003', format('table %s has no vectorizer', source), 'make one with embed.create_vectorizer(table, column)');
    END IF;
END $$;
COMMENT ON FUNCTION embed.why(regclass, text) IS
    'Why a row is embedded or not, by each vectorizer of its table. A key of several columns is given as embed.failures shows it: a JSON array of texts.';

CREATE OR REPLACE FUNCTION embed.why(source regclass, key bigint)
RETURNS TABLE (vectorizer text, state text, explanation text)
LANGUAGE sql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$ SELECT * FROM embed.why(source, key::text) $$;
COMMENT ON FUNCTION embed.why(regclass, bigint) IS 'The same for a key that is a whole number.';

CREATE OR REPLACE FUNCTION embed._why_v1(source regclass)
RETURNS TABLE (id integer, name text, state text, reason text, has_backfill boolean, attached oid[], expressions text[])
LANGUAGE sql
VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, embed, pg_temp
AS $$
    SELECT v.id, v.name, v.state, COALESCE(v.reason, embed._problem(v), embed._holdup(v.id)),
        EXISTS (SELECT FROM embed._backfill AS b WHERE b.vectorizer_id = v.id), embed._attached(v),
        CASE WHEN embed._problem(v) IS NULL THEN ARRAY[embed._source_name(v.source),
            embed._input(v.source, v.input_columns, v.template, v.filter, 'r', v.prepare),
            embed._key_match(v.source, v.key_columns, 'r', 'q.key'), embed._is_filled(v, 'r', true),
            embed._key_text(v.source, v.key_columns, 'r'), v.prepare] END
    FROM embed._vectorizer AS w, embed._here(w) AS v WHERE w.source = _why_v1.source ORDER BY v.name
$$;
COMMENT ON FUNCTION embed._why_v1(regclass) IS 'The vectorizers of a table as embed.why needs them.';

CREATE OR REPLACE FUNCTION embed._why_queued_v1(
    vectorizer integer, key text,
    OUT id bigint, OUT worker integer, OUT attempts integer, OUT available_at timestamptz, OUT enqueued_at timestamptz, OUT last_error text, OUT ahead bigint
)
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    rank smallint;
BEGIN
    SELECT q.id, q.worker, q.attempts, q.available_at, q.enqueued_at, q.last_error, q.priority
    INTO id, worker, attempts, available_at, enqueued_at, last_error, rank
    FROM embed._queue AS q WHERE q.vectorizer_id = vectorizer AND embed._keys(q) @> ARRAY[key]
    ORDER BY q.worker NULLS LAST, q.available_at LIMIT 1;
    IF id IS NOT NULL THEN
        SELECT COALESCE(sum(q.n), 0) INTO ahead FROM embed._queue AS q
        WHERE q.vectorizer_id = vectorizer AND q.worker IS NULL
            AND (q.priority, q.available_at) < (rank, _why_queued_v1.available_at);
    END IF;
END $$;
COMMENT ON FUNCTION embed._why_queued_v1(integer, text) IS 'The entry of the queue that holds a key, and how many rows are due before it.';

CREATE OR REPLACE FUNCTION embed._why_failed_v1(vectorizer integer, key text, OUT key text, OUT attempts integer, OUT error text)
LANGUAGE sql
VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, embed, pg_temp
AS $$
    SELECT f.key, f.attempts, f.error FROM embed._failure AS f WHERE f.vectorizer_id = $1 AND f.key = $2
$$;

CREATE OR REPLACE FUNCTION embed._waiting_v1(source regclass, upto timestamptz)
RETURNS TABLE (rows bigint, own boolean, since timestamptz, error text, stopped text)
LANGUAGE sql
VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, embed, pg_temp
AS $$
    SELECT
        COALESCE((SELECT sum(q.n) FROM embed._queue AS q JOIN embed._vectorizer AS v ON v.id = q.vectorizer_id
            WHERE v.source = _waiting_v1.source AND v.shadow_of IS NULL AND (q.enqueued_at <= upto OR q.priority = 2)), 0)::bigint
        + COALESCE((SELECT sum(COALESCE(b.rows_left, 1) + 1) FROM embed._backfill AS b JOIN embed._vectorizer AS v ON v.id = b.vectorizer_id
            WHERE v.source = _waiting_v1.source AND v.shadow_of IS NULL), 0)::bigint
        + COALESCE((SELECT sum(cardinality(embed._attached(v))) FROM embed._vectorizer AS v WHERE v.source = _waiting_v1.source AND v.shadow_of IS NULL), 0)::bigint
        + (SELECT count(*) FROM embed._vectorizer AS v WHERE v.source = _waiting_v1.source AND v.shadow_of IS NULL AND v.state = 'active' AND embed._must_sweep(v)),
        EXISTS (SELECT FROM embed._queue AS q JOIN embed._vectorizer AS v ON v.id = q.vectorizer_id
            WHERE v.source = _waiting_v1.source AND v.shadow_of IS NULL AND q.enqueued_at = now() AND pg_current_xact_id_if_assigned() IS NOT NULL),
        (SELECT min(q.enqueued_at) FROM embed._queue AS q JOIN embed._vectorizer AS v ON v.id = q.vectorizer_id WHERE v.source = _waiting_v1.source AND v.shadow_of IS NULL),
        COALESCE((SELECT COALESCE(v.reason, embed._holdup(v.id)) FROM embed._vectorizer AS v WHERE v.source = _waiting_v1.source AND v.shadow_of IS NULL
                AND v.state = 'active' AND COALESCE(v.reason, embed._holdup(v.id)) IS NOT NULL LIMIT 1),
            (SELECT q.last_error FROM embed._queue AS q JOIN embed._vectorizer AS v ON v.id = q.vectorizer_id
                WHERE v.source = _waiting_v1.source AND v.shadow_of IS NULL AND q.last_error IS NOT NULL LIMIT 1)),
        (SELECT string_agg(v.name || ': ' || COALESCE(v.reason, v.state), '; ') FROM embed._vectorizer AS v
            WHERE v.source = _waiting_v1.source AND v.shadow_of IS NULL AND v.state <> 'active' AND (EXISTS (SELECT FROM embed._queue AS q WHERE q.vectorizer_id = v.id)
                OR EXISTS (SELECT FROM embed._backfill AS b WHERE b.vectorizer_id = v.id) OR embed._attached(v) <> '{}'))
$$;
COMMENT ON FUNCTION embed._waiting_v1(regclass, timestamptz) IS 'How many rows of a table are not settled yet, of those that changed up to a time.';

CREATE OR REPLACE FUNCTION embed.wait(source regclass, timeout interval DEFAULT '60 seconds')
RETURNS void
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    given interval := COALESCE(timeout, '60 seconds');
    until timestamptz := clock_timestamp() + given;
    upto timestamptz := clock_timestamp();
    waiting record;
    pause double precision := 0.002;
BEGIN
    IF NOT EXISTS (SELECT FROM embed.vectorizers AS v WHERE v.source = wait.source) THEN
        PERFORM embed._fail('PE003', format('table %s has no vectorizer', source), 'make one with embed.create_vectorizer(table, column)');
    ELSIF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
        PERFORM embed._fail('PE003', 'embed.wait cannot see other transactions'' work at this isolation level', 'call it in READ COMMITTED');
    END IF;
    LOOP
        SELECT * INTO waiting FROM embed._waiting_v1(source, upto);
        IF waiting.own THEN
            PERFORM embed._fail('PE003', 'this transaction has changed rows that no worker can see before it commits', 'commit, then call embed.wait');
        ELSIF waiting.rows = 0 THEN
            RETURN;
        ELSIF waiting.stopped IS NOT NULL THEN
            PERFORM embed._fail('PE040', format('%s rows of %s wait, and will go on waiting: %s', waiting.rows, source, waiting.stopped), 'go on with embed.resume');
        ELSIF clock_timestamp() > until THEN
            PERFORM embed._fail('PE040', format('%s rows of %s were not embedded within %s', waiting.rows, source, given),
                CASE WHEN embed._lacks_worker() THEN 'no worker is connected; start one with pg-embed worker'
                    WHEN waiting.error IS NOT NULL THEN 'the last error was: ' || waiting.error
                    ELSE 'wait longer, or see embed.status' END);
        END IF;
        PERFORM pg_sleep(pause);
        pause := least(pause * 1.5, 0.1);
    END LOOP;
END $$;
COMMENT ON FUNCTION embed.wait(regclass, interval) IS
    'Wait until every row of a table that was committed before the call is embedded, or listed in embed.failures; an error when the time is over. For tests and scripts.';

COMMENT ON FUNCTION embed._why_failed_v1(integer, text) IS 'The failure that is listed for a key.';

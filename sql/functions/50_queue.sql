-- What workers call: claim, read, write, give back. Functions that touch the queue run with the owner's rights
-- (SECURITY DEFINER); those that touch users' tables run with the worker's, which holds only the columns it needs.
-- A user's transaction may lock tables, catalog and queue in any order. So that none of them meets a worker in a circle, a
-- worker locks the table first, when it holds nothing else, and after that waits for nobody: it skips what is locked.

CREATE OR REPLACE FUNCTION embed._first_due_v1(vectorizer integer, lane integer)
RETURNS timestamptz
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, embed, pg_temp
-- by the index and in its order, whatever the statistics say about a table that was empty a moment ago
SET enable_seqscan = off
SET enable_bitmapscan = off
SET enable_sort = off
AS $$
DECLARE
    slot text := format('embed_queue.floor_%s_%s', vectorizer, lane);
    kept double precision[] := string_to_array(current_setting(slot, true), ' ');
    began timestamptz := clock_timestamp();
    below timestamptz := '-infinity';
    until timestamptz;
    first timestamptz;
    took interval;
BEGIN
    IF kept[1] > extract(epoch FROM began) THEN
        until := to_timestamp(kept[1]);
        below := to_timestamp(kept[2]);
    END IF;
    SELECT q.available_at INTO first FROM embed._queue AS q
    WHERE q.vectorizer_id = vectorizer AND q.priority = lane AND q.available_at > below AND q.available_at <= began
    ORDER BY q.available_at LIMIT 1;
    took := clock_timestamp() - began;
    -- While somebody holds an old snapshot, no vacuum removes finished entries, and each look would step over all of them.
    -- So a look that took long is remembered by the session, and for twenty times as long the next ones begin a minute
    -- below what it found. Changes of a transaction that was open for longer than that wait for the next look at all.
    IF until IS NOT NULL OR took > interval '1 millisecond' THEN
        until := COALESCE(until, began + least(took * 20, interval '10 seconds'));
        below := greatest(below, COALESCE(first, began) - interval '1 minute');
        PERFORM set_config(slot, format('%s %s', extract(epoch FROM until), extract(epoch FROM below)), false);
    END IF;
    RETURN first;
END $$;
COMMENT ON FUNCTION embed._first_due_v1(integer, integer) IS 'When the first entry of a lane was due; NULL when none is due.';

CREATE OR REPLACE FUNCTION embed._work_v1()
RETURNS TABLE (
    vectorizer integer, name text, model text, family text, options jsonb, space_id text, dimensions integer, outputs text[], sizes integer[], column_type text,
    max_attempts integer, reason text, has_backfill boolean, live_due boolean, backfill_due boolean, sparse_model jsonb, chunking jsonb, must_sweep boolean, is_gentle boolean
)
LANGUAGE sql
VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, embed, pg_temp
AS $$
    SELECT v.id, v.name, m.name, m.family, m.options, m.space_id, m.dimensions, v.outputs,
        (SELECT array_agg(embed._size(CASE WHEN o.output = 'sparse' AND s.id IS NOT NULL THEN s ELSE m END, o.output) ORDER BY o.position)
            FROM unnest(v.outputs) WITH ORDINALITY AS o(output, position)), t.typname, v.max_attempts, v.reason,
        EXISTS (SELECT FROM embed._backfill AS b WHERE b.vectorizer_id = v.id) AND NOT embed._is_held(v.id, 2),
        embed._first_due_v1(v.id, 1) IS NOT NULL AND NOT embed._is_held(v.id, 1),
        embed._first_due_v1(v.id, 2) IS NOT NULL AND NOT embed._is_held(v.id, 2),
        CASE WHEN s.id IS NOT NULL THEN jsonb_build_object('name', s.name, 'family', s.family, 'options', s.options, 'space_id', s.space_id, 'dimensions', s.dimensions) END,
        v.chunking, embed._must_sweep(v), v.shadow_of IS NOT NULL
    FROM embed._vectorizer AS v
    JOIN embed._model AS m ON m.id = v.model_id
    LEFT JOIN embed._model AS s ON s.id = v.sparse_model_id
    JOIN pg_attribute AS a ON a.attrelid = embed._home(v) AND a.attnum = v.target_columns[1] AND NOT a.attisdropped
    JOIN pg_type AS t ON t.oid = a.atttypid
    WHERE v.state = 'active'
    ORDER BY v.id
$$;
COMMENT ON FUNCTION embed._work_v1() IS 'The active vectorizers with their models, whether rows are due in each lane, and whether their backfill is to leave room for searches, as that of a switch.';

CREATE OR REPLACE FUNCTION embed._prepare_v1(vectorizer integer)
RETURNS text
LANGUAGE sql
STABLE PARALLEL SAFE SECURITY DEFINER
SET search_path = pg_catalog, embed, pg_temp
AS $$ SELECT v.prepare FROM embed._vectorizer AS v WHERE v.id = vectorizer $$;
COMMENT ON FUNCTION embed._prepare_v1(integer) IS 'The name of the hook that makes the texts of a vectorizer; NULL when its input is text.';

CREATE OR REPLACE FUNCTION embed._blame_v1(vectorizer integer, error text)
RETURNS void
LANGUAGE sql
VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, embed, pg_temp
AS $$
    UPDATE embed._vectorizer AS v SET reason = error WHERE v.id = vectorizer AND v.state = 'active' AND v.reason IS DISTINCT FROM error
$$;
COMMENT ON FUNCTION embed._blame_v1(integer, text) IS
    'Tell in the catalog why the rows of an active vectorizer cannot be read or written: a lost right, row-level security; NULL when they can again.';

CREATE OR REPLACE FUNCTION embed._bury_v1(vectorizer integer, key text, code text, error text, attempts integer)
RETURNS void
LANGUAGE sql
VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, embed, pg_temp
AS $$
    -- A failure that somebody is about to retry stays as it is, or is queued again: we do not wait, for we hold its row.
    WITH known AS MATERIALIZED (
        SELECT f.key FROM embed._failure AS f WHERE f.vectorizer_id = vectorizer AND f.key = _bury_v1.key FOR UPDATE SKIP LOCKED
    )
    INSERT INTO embed._failure AS f (vectorizer_id, key, code, error, attempts)
    SELECT v.id, _bury_v1.key, _bury_v1.code, _bury_v1.error, _bury_v1.attempts FROM embed._vectorizer AS v
    WHERE v.id = vectorizer AND (EXISTS (SELECT FROM known)
        OR NOT EXISTS (SELECT FROM embed._failure AS o WHERE o.vectorizer_id = vectorizer AND o.key = _bury_v1.key))
    ON CONFLICT ON CONSTRAINT _failure_pkey DO UPDATE
    SET code = excluded.code, error = excluded.error, attempts = excluded.attempts, failed_at = now()
$$;
COMMENT ON FUNCTION embed._bury_v1(integer, text, text, text, integer) IS
    'List a row as failed. The caller holds it, by embed._hold_row or by having locked it: else a newer text could be embedded before the failure is there to be removed.';

CREATE OR REPLACE FUNCTION embed._hold_row(vectorizer integer, name text, match text, key text)
RETURNS boolean
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    locked bigint;
BEGIN
    IF embed._chunk_source_v1(vectorizer) IS NOT NULL THEN
        -- as those who write its chunks do
        RETURN pg_try_advisory_xact_lock(1885695334, (vectorizer & 33554431) * 64 + (embed._hash(key) & 63)::integer);
    END IF;
    EXECUTE format('SELECT FROM %s AS r, (SELECT $1 AS key) AS q WHERE %s FOR NO KEY UPDATE OF r SKIP LOCKED', name, match) USING key;
    GET DIAGNOSTICS locked = ROW_COUNT;
    RETURN locked > 0;
END $$;
COMMENT ON FUNCTION embed._hold_row(integer, text, text, text) IS
    'Let nobody finish a newer text of a row until this transaction ends; false, without a wait, when another has it, or it is gone. What is read of it after that is what it is.';

CREATE OR REPLACE FUNCTION embed._lose_key(vectorizer integer, name text, match text, key text)
RETURNS boolean
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
BEGIN
    EXECUTE format('SELECT FROM %s AS r, (SELECT $1 AS key) AS q WHERE %s', name, match) USING key;
    RETURN false;
EXCEPTION WHEN data_exception OR check_violation THEN
    -- A value of an enum was renamed, or a domain has another condition. Whose key it was cannot be told: every row is looked at.
    PERFORM embed._start_over_v1(vectorizer);
    RETURN true;
END $$;
COMMENT ON FUNCTION embed._lose_key(integer, text, text, text) IS
    'Whether a key that was queued is no value of its type any more, and so that of no row. Then all rows are queued once more, for one of them may have had it.';

CREATE OR REPLACE FUNCTION embed._start_over_v1(vectorizer integer)
RETURNS void
LANGUAGE sql
VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, embed, pg_temp
AS $$ SELECT embed._start_backfill(v.id, 'all') FROM embed._vectorizer AS v WHERE v.id = vectorizer $$;
COMMENT ON FUNCTION embed._start_over_v1(integer) IS 'Begin a backfill of all rows, for a worker that cannot tell which of them changed.';

CREATE OR REPLACE FUNCTION embed._has_text(name text, input text, match text, key text, hash bigint)
RETURNS boolean
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    same boolean;
BEGIN
    EXECUTE format('SELECT embed._hash(%s) IS NOT DISTINCT FROM $2 FROM %s AS r, (SELECT $1 AS key) AS q WHERE %s', input, name, match) INTO same USING key, hash;
    RETURN COALESCE(same, false);
EXCEPTION WHEN data_exception THEN
    RETURN false;  -- the filter fails on what it is now
END $$;
COMMENT ON FUNCTION embed._has_text(text, text, text, text, bigint) IS 'Whether a row has this text now, by its hash; false for one that is gone. The caller has set how values are spelled.';

CREATE OR REPLACE FUNCTION embed._give_up_v1(vectorizer integer, key text, hash bigint, code text, error text, attempts integer)
RETURNS boolean
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
SET DateStyle = 'ISO, YMD'
SET TimeZone = 'UTC'
SET IntervalStyle = 'postgres'
SET row_security = off
SET extra_float_digits = 1
AS $$
DECLARE
    source record := embed._held_source(vectorizer);
    held boolean;
BEGIN
    IF source.input IS NULL THEN
        RETURN NULL;
    END IF;
    held := embed._hold_row(vectorizer, source.name, source.match, key);
    IF NOT embed._has_text(source.name, source.input, source.match, key, hash) THEN
        RETURN NULL;
    ELSIF held THEN
        PERFORM embed._bury_v1(vectorizer, key, code, error, attempts);
    ELSE
        PERFORM embed._settle_v1(0, vectorizer, '{}', '{}', ARRAY[key], '{}', clock_timestamp(), '[]');
    END IF;
    RETURN held;
END $$;
COMMENT ON FUNCTION embed._give_up_v1(integer, text, bigint, text, text, integer) IS
    'List a row as failed whose table refuses its vectors, if it still has the text that they were made of, by its hash; NULL when it has another, which has its own entry. False when another transaction holds it: then it is to be tried again, and where it has chunks it is queued for that.';

CREATE OR REPLACE FUNCTION embed._note_text(entry bigint, name text, input text, match text, key text)
RETURNS void
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
SET DateStyle = 'ISO, YMD'
SET TimeZone = 'UTC'
SET IntervalStyle = 'postgres'
SET row_security = off
SET extra_float_digits = 1
AS $$
DECLARE
    hash bigint;
BEGIN
    EXECUTE format('SELECT embed._hash(%s) FROM %s AS r, (SELECT $1 AS key) AS q WHERE %s', input, name, match) INTO hash USING key;
    PERFORM embed._note_text_v1(entry, hash);
EXCEPTION WHEN data_exception OR check_violation THEN
    NULL;  -- whoever reads it tells
END $$;
COMMENT ON FUNCTION embed._note_text(bigint, text, text, text, text) IS
    'Note of a row that may kill its worker, and goes by itself, which text it has: before that is read, so that a text that comes in between is not taken for the one that kills.';

CREATE OR REPLACE FUNCTION embed._note_text_v1(entry bigint, hash bigint)
RETURNS void
LANGUAGE sql
VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, embed, pg_temp
AS $$ UPDATE embed._queue AS q SET hash = _note_text_v1.hash WHERE q.id = entry AND q.alone $$;
COMMENT ON FUNCTION embed._note_text_v1(bigint, bigint) IS 'The queue''s side of _note_text.';

CREATE OR REPLACE FUNCTION embed._give_up_lost(vectorizer integer, name text, input text, match text, spent jsonb)
RETURNS void
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
SET DateStyle = 'ISO, YMD'
SET TimeZone = 'UTC'
SET IntervalStyle = 'postgres'
SET row_security = off
SET extra_float_digits = 1
AS $$
DECLARE
    lost record;
    held boolean;
    same boolean;
    ended bigint[] := '{}';
BEGIN
    FOR lost IN SELECT * FROM jsonb_to_recordset(spent) AS s(entry bigint, key text, hash bigint, attempts integer) LOOP
        IF embed._lose_key(vectorizer, name, match, lost.key) THEN
            ended := ended || lost.entry;
            CONTINUE;
        END IF;
        held := embed._hold_row(vectorizer, name, match, lost.key);
        same := embed._has_text(name, input, match, lost.key, lost.hash);
        CONTINUE WHEN same AND NOT held;  -- due again soon
        ended := ended || lost.entry;
        IF same THEN
            PERFORM embed._bury_v1(vectorizer, lost.key, 'PE020', format('the worker was lost %s times while it held this row', lost.attempts), lost.attempts);
        END IF;
    END LOOP;
    PERFORM embed._settle_v1(0, vectorizer, ended, '{}', '{}', '{}', clock_timestamp(), '[]');
END $$;
COMMENT ON FUNCTION embed._give_up_lost(integer, text, text, text, jsonb) IS
    'List rows whose workers were lost too often as failed, if they still have the text that was noted of them: another has its own entry. Those that other transactions hold are to be tried again.';

CREATE OR REPLACE FUNCTION embed._apart(attempts integer)
RETURNS interval
LANGUAGE sql
VOLATILE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
    SELECT CASE WHEN attempts < 2 THEN interval '0' ELSE random() * least(60, 0.05 * 2 ^ least(attempts, 12)) * interval '1 second' END
$$;
COMMENT ON FUNCTION embed._apart(integer) IS
    'How long an entry waits whose worker was lost, at random: so that entries which died together are not in the same hands again.';

CREATE OR REPLACE FUNCTION embed._claim_v1(worker integer, vectorizer integer, lane integer, max_rows integer, lease interval)
RETURNS TABLE (entries bigint[], attempts integer[], keys text[], spent jsonb)
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, embed, pg_temp
SET enable_seqscan = off
SET enable_bitmapscan = off
SET enable_sort = off
AS $$
DECLARE
    first timestamptz := embed._first_due_v1(vectorizer, lane);
    moment timestamptz := clock_timestamp();
    entry record;
    room integer := max_rows;
    claimed bigint[] := '{}';
    given_up bigint[] := '{}';
    limit_attempts integer;
    last_attempt boolean;
    lost text := 'its worker was lost';
    suspect integer;  -- so many deaths make an entry one that may have caused them
    suspected boolean := false;
    part integer;
    spare CONSTANT integer := 10;  -- attempts more for a row that never was alone: its waits are long and random by then
BEGIN
    SELECT v.max_attempts INTO limit_attempts FROM embed._vectorizer AS v WHERE v.id = vectorizer AND v.state = 'active';
    IF limit_attempts IS NULL OR first IS NULL OR NOT embed._may_claim(vectorizer, lane) THEN
        RETURN;
    END IF;
    suspect := least(2, limit_attempts);
    FOR entry IN
        SELECT q.id, q.n, q.attempts, q.alone, q.hash, q.worker IS NOT NULL OR q.last_error IS NOT DISTINCT FROM lost AS lost FROM embed._queue AS q
        WHERE q.vectorizer_id = vectorizer AND q.priority = lane AND q.available_at BETWEEN first AND moment
        ORDER BY q.available_at
        LIMIT max_rows  -- an entry has one row at least
        FOR UPDATE SKIP LOCKED
    LOOP
        -- Still held and yet due: whoever held it died. A row that kills its worker must not take others with it: from the
        -- second death on the entry goes by itself, an eighth of it at a time and not all parts at once, until a single row
        -- is left. It is given up when its attempts are spent and it killed a worker that held nothing else in any of its slots:
        -- by the caller, who sees whether it still has the text that did so. If another transaction holds it, it is due soon.
        IF entry.lost AND entry.attempts >= suspect THEN
            CONTINUE WHEN cardinality(claimed) > 0;
            IF entry.n > 1 THEN
                part := (entry.n + 7) / 8;
                INSERT INTO embed._queue (vectorizer_id, priority, n, attempts, enqueued_at, available_at, last_error, ids, keys)
                SELECT q.vectorizer_id, q.priority, least(part, q.n - i), suspect, q.enqueued_at, moment + embed._apart(q.attempts), lost,
                    q.ids[i + 1:i + part], q.keys[i + 1:i + part]
                FROM embed._queue AS q, generate_series(part, entry.n - 1, part) AS i WHERE q.id = entry.id;
                UPDATE embed._queue AS q SET ids = q.ids[:part], keys = q.keys[:part], n = part, attempts = suspect WHERE q.id = entry.id;
            ELSIF entry.hash IS NOT NULL AND (entry.alone AND entry.attempts >= limit_attempts OR entry.attempts >= limit_attempts + spare) THEN
                given_up := given_up || entry.id;
                CONTINUE;
            END IF;
            claimed := ARRAY[entry.id];
            suspected := true;
            EXIT;
        END IF;
        -- Rows on their last attempt go by themselves: a batch that fails is given up as a whole.
        last_attempt := COALESCE(last_attempt, entry.attempts + 1 >= limit_attempts);
        EXIT WHEN last_attempt <> (entry.attempts + 1 >= limit_attempts);
        claimed := claimed || entry.id;
        room := room - entry.n;
        EXIT WHEN room <= 0;
    END LOOP;
    IF cardinality(given_up) > 0 THEN
        UPDATE embed._queue AS q SET available_at = clock_timestamp() + interval '1 second' WHERE q.id = ANY (given_up);
        SELECT jsonb_agg(jsonb_build_object('entry', q.id, 'key', k.key, 'hash', q.hash, 'attempts', q.attempts)) INTO spent
        FROM embed._queue AS q, unnest(embed._keys(q)) AS k(key) WHERE q.id = ANY (given_up);
    END IF;
    IF cardinality(claimed) = 0 AND spent IS NULL THEN
        RETURN;
    ELSIF current_setting('synchronous_commit') = 'off' THEN
        -- What is in a worker's hands outlives a crash; else its entries' ids would be given to others.
        PERFORM set_config('synchronous_commit', 'local', true);
    END IF;
    RETURN QUERY
        WITH held AS (
            UPDATE embed._queue AS q
            SET worker = _claim_v1.worker, attempts = least(q.attempts, 32766) + 1, alone = suspected AND q.n = 1,
                available_at = clock_timestamp() + lease
            WHERE q.id = ANY (claimed)
            RETURNING q.id, q.attempts::integer, embed._keys(q) AS keys
        )
        SELECT array_agg(h.id), array_agg(h.attempts), array_agg(k.key), _claim_v1.spent FROM held AS h, unnest(h.keys) AS k(key);
END $$;
COMMENT ON FUNCTION embed._claim_v1(integer, integer, integer, integer, interval) IS
    'Take entries that nobody holds, up to so many rows, for the time of a lease. Returns three arrays of equal length, one element a row, NULL when there is none; and in spent those that the caller is to give up by _give_up_lost, in the same transaction.';

CREATE OR REPLACE FUNCTION embed._take_v1(worker integer, vectorizer integer, lane integer, max_rows integer, lease interval, most bigint)
RETURNS TABLE (entry bigint, attempts integer, key text, found boolean, input text, hash bigint)
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
SET DateStyle = 'ISO, YMD'
SET TimeZone = 'UTC'
SET IntervalStyle = 'postgres'
SET row_security = off
SET extra_float_digits = 1
AS $$
DECLARE
    claim record;
    -- the lock before the claim: an entry of a new text must not be read as the old one
    source record := embed._held_source(vectorizer);
    reading text;
    held boolean;
BEGIN
    IF source.input IS NULL THEN
        RETURN;
    END IF;
    SELECT * INTO claim FROM embed._claim_v1(worker, vectorizer, lane, max_rows, lease);
    IF claim.spent IS NOT NULL THEN
        PERFORM embed._give_up_lost(vectorizer, source.name, source.input, source.match, claim.spent);
    END IF;
    IF claim.entries IS NULL THEN
        RETURN;
    ELSIF cardinality(claim.keys) = 1 AND claim.attempts[1] > 1 THEN
        PERFORM embed._note_text(claim.entries[1], source.name, source.input, source.match, claim.keys[1]);
    END IF;
    -- OFFSET 0 keeps one index probe a key, whatever the planner thinks of the table.
    reading := format(
        'SELECT t.entry, t.attempts, t.key, t.found, CASE WHEN t.upto - t.size < $4 THEN t.input END, t.hash
         FROM (SELECT q.entry, q.attempts, q.key, r.found IS NOT NULL AS found, r.input, embed._hash(r.input) AS hash, octet_length(r.input) AS size,
                 sum(octet_length(r.input)) OVER (ROWS UNBOUNDED PRECEDING) AS upto
             FROM unnest($1, $2, $3) AS q(entry, attempts, key)
             LEFT JOIN LATERAL (SELECT true AS found, %s AS input FROM %s AS r WHERE %s OFFSET 0) AS r ON true) AS t',
        source.input, source.name, source.match);
    BEGIN
        RETURN QUERY EXECUTE reading USING claim.entries, claim.attempts, claim.keys, most;
    EXCEPTION WHEN data_exception OR check_violation THEN
        -- The filter fails on a row. One by one, then: of a key that was returned above already, the later row counts.
        FOR i IN 1..cardinality(claim.keys) LOOP
            IF embed._lose_key(vectorizer, source.name, source.match, claim.keys[i]) THEN
                RETURN QUERY SELECT claim.entries[i], claim.attempts[i], claim.keys[i], NULL::boolean, NULL::text, NULL::bigint;
                CONTINUE;
            END IF;
            held := NULL;
            LOOP
                BEGIN
                    RETURN QUERY EXECUTE reading USING claim.entries[i:i], claim.attempts[i:i], claim.keys[i:i], most;
                    EXIT;
                EXCEPTION WHEN data_exception THEN
                    IF held IS NULL THEN
                        held := embed._hold_row(vectorizer, source.name, source.match, claim.keys[i]);
                        CONTINUE;  -- it may have changed since
                    ELSIF held THEN
                        PERFORM embed._bury_v1(vectorizer, claim.keys[i], SQLSTATE, 'its text cannot be read: ' || SQLERRM, claim.attempts[i]);
                    ELSE
                        PERFORM embed._again_v1(claim.entries[i:i], claim.keys[i:i]);
                    END IF;
                    RETURN QUERY SELECT claim.entries[i], claim.attempts[i], claim.keys[i], NULL::boolean, NULL::text, NULL::bigint;
                    EXIT;
                END;
            END LOOP;
        END LOOP;
    END;
END $$;
COMMENT ON FUNCTION embed._take_v1(integer, integer, integer, integer, interval, bigint) IS
    'Claim rows and read their texts, one at least, until so many bytes are reached: input is NULL when there is nothing to embed, and with a hash when it is to be put back; found is false when the row is gone, NULL when it was given up, queued again for somebody holds it, or has a key that is none. The caller commits before it works.';

CREATE OR REPLACE FUNCTION embed._again_v1(entries bigint[], busy text[])
RETURNS void
LANGUAGE sql
VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, embed, pg_temp
AS $$
    -- Held by somebody's transaction: again soon, then less and less often, for as long as it takes. No attempt is charged.
    INSERT INTO embed._queue (vectorizer_id, priority, keys, n, attempts, locked, enqueued_at, available_at, last_error)
    SELECT q.vectorizer_id, q.priority, array_agg(DISTINCT k.key), count(DISTINCT k.key), greatest(q.attempts - 1, 0), least(q.locked, 99) + 1, q.enqueued_at,
        clock_timestamp() + least(10, 0.1 * 2 ^ least(q.locked, 8)) * interval '1 second', 'the row is locked by another transaction'
    FROM embed._queue AS q, unnest(embed._keys(q)) AS k(key)
    WHERE q.id = ANY (entries) AND k.key = ANY (busy)
    GROUP BY q.id
$$;
COMMENT ON FUNCTION embed._again_v1(bigint[], text[]) IS 'Queue rows of claimed entries that other transactions hold once more; the entries are finished with the others.';

CREATE OR REPLACE FUNCTION embed._put_back_v1(worker integer, entries bigint[], later text[])
RETURNS void
LANGUAGE sql
VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, embed, pg_temp
AS $$
    WITH held AS (
        SELECT q.* FROM embed._queue AS q WHERE q.id = ANY (entries) AND q.worker = _put_back_v1.worker FOR UPDATE
    ), parts AS (
        SELECT h.id, array_agg(k.key) FILTER (WHERE k.key = ANY (later)) AS later, array_agg(k.key) FILTER (WHERE k.key <> ALL (later)) AS rest
        FROM held AS h, unnest(COALESCE(h.keys, h.ids::text[])) AS k(key) GROUP BY h.id
    ), put AS (
        INSERT INTO embed._queue (vectorizer_id, priority, keys, n, attempts, locked, enqueued_at, available_at, last_error)
        SELECT h.vectorizer_id, h.priority, p.later, cardinality(p.later), greatest(h.attempts - 1, 0), h.locked, h.enqueued_at, h.enqueued_at, h.last_error
        FROM held AS h JOIN parts AS p ON p.id = h.id WHERE p.later IS NOT NULL
    ), kept AS (
        UPDATE embed._queue AS q SET ids = NULL, keys = p.rest, n = cardinality(p.rest)
        FROM parts AS p WHERE q.id = p.id AND p.later IS NOT NULL AND p.rest IS NOT NULL
    )
    DELETE FROM embed._queue AS q USING parts AS p WHERE q.id = p.id AND p.rest IS NULL
$$;
COMMENT ON FUNCTION embed._put_back_v1(integer, bigint[], text[]) IS 'Give back some rows of entries that a worker has just claimed, as if it had not: where texts are long, it has enough with the others.';

CREATE OR REPLACE FUNCTION embed._source_v1(vectorizer integer, OUT name text, OUT input text, OUT match text, OUT targets text[], OUT kinds oid[], OUT outputs text[], OUT filled text)
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    v embed._vectorizer;
BEGIN
    SELECT * INTO v FROM embed._vectorizer AS c WHERE c.id = vectorizer;
    IF v.id IS NULL THEN
        RETURN;
    ELSIF embed._problem(v) IS NOT NULL THEN
        IF embed._stop_broken(vectorizer) THEN
            RETURN;
        END IF;
        SELECT * INTO v FROM embed._vectorizer AS c WHERE c.id = vectorizer;
    END IF;
    name := embed._source_name(v.source);
    input := embed._input(v.source, v.input_columns, v.template, v.filter, 'r', v.prepare);
    match := embed._key_match(v.source, v.key_columns, 'r', 'q.key');
    outputs := v.outputs;
    SELECT array_agg(quote_ident(a.attname) ORDER BY c.position), array_agg(a.atttypid ORDER BY c.position) INTO targets, kinds
    FROM unnest(v.target_columns) WITH ORDINALITY AS c(attnum, position)
    JOIN pg_attribute AS a ON a.attrelid = embed._home(v) AND a.attnum = c.attnum AND NOT a.attisdropped;
    filled := embed._is_filled(v, 'r', false);
    IF name IS NULL OR match IS NULL OR cardinality(targets) IS DISTINCT FROM cardinality(outputs) THEN
        input := NULL;  -- dropped since we looked
    END IF;
END $$;
COMMENT ON FUNCTION embed._source_v1(integer) IS 'The expressions that read and write a vectorizer''s rows now; all NULL, and the vectorizer stopped, when something it needs was dropped.';

CREATE OR REPLACE FUNCTION embed._stop_broken(vectorizer integer)
RETURNS boolean
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    v embed._vectorizer;
    problem text;
BEGIN
    -- somebody may be mending it: look again with the row locked
    SELECT * INTO v FROM embed._vectorizer AS c WHERE c.id = vectorizer FOR UPDATE;
    problem := embed._problem(v);
    UPDATE embed._vectorizer AS c SET state = 'stopped', reason = problem
    WHERE c.id = vectorizer AND problem IS NOT NULL AND (c.state <> 'stopped' OR c.reason IS DISTINCT FROM problem);
    RETURN v.id IS NULL OR problem IS NOT NULL;
END $$;
COMMENT ON FUNCTION embed._stop_broken(integer) IS 'Stop a vectorizer that lacks something it needs; false when it lacks nothing.';

CREATE OR REPLACE FUNCTION embed._problem(v embed._vectorizer)
RETURNS text
LANGUAGE sql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
    SELECT CASE
        WHEN NOT EXISTS (SELECT FROM pg_class AS c WHERE c.oid = v.source) THEN 'its table was dropped'
        WHEN EXISTS (SELECT FROM unnest(v.input_columns) AS c(attnum) WHERE embed._column_name(v.source, c.attnum) IS NULL)
            THEN 'an input column was dropped; name another with embed.alter_vectorizer(''' || v.name || ''', input => ...)'
        WHEN NOT COALESCE(embed._key_is_readable(v.source, v.key_columns) AND v.key_columns = (SELECT array_agg(k.attnum ORDER BY k.place)
                FROM pg_index AS i, unnest(i.indkey::smallint[]) WITH ORDINALITY AS k(attnum, place)
                WHERE i.indrelid = v.source AND i.indisprimary AND k.place <= i.indnkeyatts), false)
            THEN 'its primary key was dropped or changed; drop the vectorizer and make it again'
        WHEN (SELECT c.relispartition FROM pg_class AS c WHERE c.oid = v.source)
            THEN 'its table became a partition; drop the vectorizer and make one on the partitioned table'
        WHEN EXISTS (SELECT FROM unnest(v.filter_columns) AS c(attnum) WHERE embed._column_name(v.source, c.attnum) IS NULL)
            THEN 'a column of its filter was dropped; give another with embed.alter_vectorizer(''' || v.name || ''', filter => ...)'
        WHEN v.chunk_table IS NOT NULL AND NOT EXISTS (SELECT FROM pg_class AS c WHERE c.oid = v.chunk_table)
            THEN 'the table of its chunks was dropped; drop the vectorizer with embed.drop_vectorizer(''' || v.name || ''')'
        WHEN NOT embed._chunks_fit(v)
            THEN 'a column of its chunks was dropped, or has another type than it must have; drop the vectorizer with embed.drop_vectorizer(''' || v.name || ''')'
        WHEN EXISTS (SELECT FROM unnest(v.target_columns) AS c(attnum) WHERE embed._column_name(embed._home(v), c.attnum) IS NULL)
            THEN CASE cardinality(v.target_columns) WHEN 1 THEN 'the column of the vectors' ELSE 'a column of its vectors' END
                || ' was dropped; drop the vectorizer with embed.drop_vectorizer(''' || v.name || ''')'
        WHEN EXISTS (SELECT FROM unnest(v.outputs, v.target_columns) AS c(output, attnum) JOIN embed._model AS m ON m.id = embed._model_of(v, c.output)
                JOIN pg_attribute AS a ON a.attrelid = embed._home(v) AND a.attnum = c.attnum JOIN pg_type AS t ON t.oid = a.atttypid
                WHERE a.atttypmod <> embed._size(m, c.output)
                    OR t.typname <> ALL (CASE c.output WHEN 'sparse' THEN '{sparsevec}' WHEN 'multi' THEN '{_halfvec}' ELSE '{vector,halfvec}' END::text[]))
            THEN 'the column of the vectors has another type now; drop the vectorizer with embed.drop_vectorizer(''' || v.name || ''') and make it again'
        WHEN (SELECT count(*) FROM pg_trigger AS g WHERE g.tgrelid = v.source AND strpos(embed._firing(v.replication), g.tgenabled::text) > 0
                AND g.tgname IN ('pg_embed_' || v.id || '_insert', 'pg_embed_' || v.id || '_update', CASE WHEN v.chunk_table IS NOT NULL THEN 'pg_embed_' || v.id || '_delete' END))
            < CASE WHEN v.chunk_table IS NULL THEN 2 ELSE 3 END
            THEN 'a trigger of it was dropped or disabled; make it anew with embed.alter_vectorizer(''' || v.name || ''', input => ...)'
    END
$$;
COMMENT ON FUNCTION embed._problem(embed._vectorizer) IS 'What keeps a vectorizer from working, with the way out; NULL when nothing does.';

CREATE OR REPLACE FUNCTION embed._source_table_v1(vectorizer integer)
RETURNS text
LANGUAGE sql
VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, embed, pg_temp
AS $$ SELECT embed._source_name(v.source) FROM embed._vectorizer AS v WHERE v.id = vectorizer $$;
COMMENT ON FUNCTION embed._source_table_v1(integer) IS 'The table of a vectorizer as it stands in FROM.';

CREATE OR REPLACE FUNCTION embed._held_source(vectorizer integer, OUT name text, OUT input text, OUT match text, OUT targets text[], OUT kinds oid[], OUT outputs text[], OUT filled text)
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    relation text := embed._source_table_v1(vectorizer);
BEGIN
    IF relation IS NOT NULL THEN
        PERFORM embed._hold(relation);
    END IF;
    SELECT s.name, s.input, s.match, s.targets, s.kinds, s.outputs, s.filled
    INTO name, input, match, targets, kinds, outputs, filled FROM embed._source_v1(vectorizer) AS s;
END $$;
COMMENT ON FUNCTION embed._held_source(integer) IS
    'embed._source_v1 with the table locked first: vectors must not go where another column took a name between its reading and its use.';

CREATE OR REPLACE FUNCTION embed._finish_v1(
    worker integer,
    vectorizer integer,
    entries bigint[],
    keys text[],
    hashes bigint[],
    vectors anyarray,
    gone text[] DEFAULT '{}',
    dead jsonb DEFAULT '[]',
    sparse sparsevec[] DEFAULT NULL,
    multi embed._token_vectors[] DEFAULT NULL,
    hook text DEFAULT NULL
)
RETURNS TABLE (written integer, postponed integer)
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
SET DateStyle = 'ISO, YMD'
SET TimeZone = 'UTC'
SET IntervalStyle = 'postgres'
SET row_security = off
SET extra_float_digits = 1
SET enable_hashjoin = off
SET enable_mergejoin = off
AS $$
DECLARE
    source record := embed._held_source(vectorizer);
    done text[] := '{}';
    held text[];
    busy text[] := '{}';
    void text[] := '{}';
    same text[];
    refused text[] := '{}';
    looked timestamptz;
    given text;
BEGIN
    written := 0;
    postponed := 0;
    IF source.input IS NULL THEN
        -- stopped meanwhile: the rows wait in the queue until it goes on
        PERFORM embed._postpone_v1(worker, entries, interval '0', 'the vectorizer was stopped', false);
        RETURN NEXT;
        RETURN;
    END IF;
    IF embed._chunk_source_v1(vectorizer) IS NOT NULL THEN
        PERFORM embed._postpone_v1(worker, entries, interval '0.1 seconds', 'the vectors are kept in a table of chunks now', false);
        RETURN NEXT;
        RETURN;
    END IF;
    IF embed._prepare_v1(vectorizer) IS DISTINCT FROM hook THEN
        -- The worker did not know of it when it read the rows: the vectors are not those of the texts that it makes.
        PERFORM embed._postpone_v1(worker, entries, interval '0.1 seconds', 'another hook makes the texts now', false);
        RETURN NEXT;
        RETURN;
    END IF;
    IF source.outputs[1] = 'dense' AND (SELECT t.typelem FROM pg_type AS t WHERE t.oid = pg_typeof(vectors)) <> source.kinds[1] THEN
        -- A cast would round them. The worker is about to learn of the new type.
        PERFORM embed._postpone_v1(worker, entries, interval '0.1 seconds', 'the column of the vectors has another type now', false);
        RETURN NEXT;
        RETURN;
    END IF;
    -- one column for each output, as unnest makes it of their arrays
    given := (SELECT format('unnest($1, $2, %s) AS q(key, hash, %s)',
            string_agg(CASE o.output WHEN 'dense' THEN '$3' WHEN 'sparse' THEN '$4' ELSE '$5' END, ', ' ORDER BY o.position),
            string_agg(o.output, ', ' ORDER BY o.position))
        FROM unnest(source.outputs) WITH ORDINALITY AS o(output, position));
    IF cardinality(keys) > 0 THEN
        -- Rows that a user's transaction holds are passed over: a worker that waits for a row while it holds others could
        -- be one side of a deadlock. The hash is compared in the UPDATE itself, which READ COMMITTED evaluates again on a
        -- row that changed meanwhile; such a row has its own entry in the queue.
        EXECUTE format(
            'WITH given AS (SELECT * FROM %6$s),
             held AS MATERIALIZED (SELECT q.* FROM given AS q JOIN %1$s AS r ON %2$s FOR NO KEY UPDATE OF r SKIP LOCKED),
             written AS (UPDATE %1$s AS r SET %3$s FROM held AS q
                 WHERE %2$s AND embed._hash(%4$s) IS NOT DISTINCT FROM q.hash AND (q.hash IS NOT NULL OR %5$s)
                 RETURNING q.key)
             SELECT (SELECT COALESCE(array_agg(w.key), ''{}'') FROM written AS w), (SELECT array_agg(h.key) FROM held AS h)',
            source.name, source.match, (SELECT string_agg(format('%s = q.%s', t.name, t.output), ', ') FROM unnest(source.targets, source.outputs) AS t(name, output)),
            source.input, source.filled, given)
        INTO done, held USING keys, hashes, vectors, sparse, multi;
    END IF;
    looked := clock_timestamp();
    IF cardinality(done) < cardinality(keys) OR cardinality(gone) > 0 THEN
        -- busy: locked by others, and still what was embedded. void: nothing there to embed, now.
        EXECUTE format(
            'SELECT COALESCE(array_agg(q.key) FILTER (WHERE q.mine AND r.found AND r.hash IS NOT DISTINCT FROM q.hash
                     AND (q.hash IS NOT NULL OR r.has_vector)), ''{}''),
                 COALESCE(array_agg(q.key) FILTER (WHERE r.found IS NULL OR r.hash IS NULL AND NOT r.has_vector), ''{}'')
             FROM (SELECT k.key, k.hash, true AS mine FROM unnest($1, $2) AS k(key, hash) WHERE k.key <> ALL ($3)
                 UNION ALL SELECT g.key, NULL, false FROM unnest($4) AS g(key)) AS q
             LEFT JOIN LATERAL (SELECT true AS found, embed._hash(%s) AS hash, %s AS has_vector
                 FROM %s AS r WHERE %s OFFSET 0) AS r ON true',
            source.input, source.filled, source.name, source.match)
        INTO busy, void USING keys, hashes, done, gone;
        IF busy && held THEN
            -- We hold these ourselves, and yet they were not written: a trigger of the table let nothing through, because
            -- nothing would change, or for a reason of its own. They would be busy for ever.
            EXECUTE format(
                'SELECT COALESCE(array_agg(q.key) FILTER (WHERE r.same), ''{}''), COALESCE(array_agg(q.key) FILTER (WHERE NOT r.same), ''{}'')
                 FROM %s
                 CROSS JOIN LATERAL (SELECT %s AS same FROM %s AS r WHERE %s OFFSET 0) AS r
                 WHERE q.key = ANY ($6) AND q.key = ANY ($7)',
                given, (SELECT string_agg(format('r.%s::text IS NOT DISTINCT FROM q.%s::text', t.name, t.output), ' AND ')
                    FROM unnest(source.targets, source.outputs) AS t(name, output)), source.name, source.match)
            INTO same, refused USING keys, hashes, vectors, sparse, multi, busy, held;
            done := done || same;
            busy := ARRAY(SELECT b.key FROM unnest(busy) AS b(key) WHERE b.key <> ALL (same || refused));
        END IF;
    END IF;
    PERFORM embed._settle_v1(worker, vectorizer, entries, done, busy, void, looked, dead);
    PERFORM embed._bury_v1(vectorizer, r.key, '27000', 'a trigger of the table did not let the vector be written', 1) FROM unnest(refused) AS r(key);
    written := cardinality(done);
    postponed := cardinality(busy);
    RETURN NEXT;
END $$;
COMMENT ON FUNCTION embed._finish_v1(integer, integer, bigint[], text[], bigint[], anyarray, text[], jsonb, sparsevec[], embed._token_vectors[], text) IS
    'Write vectors of rows that still have the text they were made of, list the dead, and take the entries out of the queue, in one transaction. Nothing of it where another hook makes the texts by now: then the rows come again.';

CREATE OR REPLACE FUNCTION embed._tire(vectorizer integer, done text[], tries integer)
RETURNS void
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
SET enable_seqscan = off
SET enable_bitmapscan = off
AS $$
DECLARE
    problem CONSTANT text := 'a trigger of the table changes its text whenever a vector is written';
    other record;
    again record;
BEGIN
    -- every vectorizer of the table: each may send the others' rows again
    FOR other IN SELECT o.id, o.max_attempts FROM embed._vectorizer AS v JOIN embed._vectorizer AS o ON o.source = v.source WHERE v.id = vectorizer LOOP
        FOR again IN
            SELECT q.id, embed._keys(q) AS keys FROM embed._queue AS q
            WHERE q.vectorizer_id = other.id AND q.priority = 1 AND q.available_at = now() AND q.attempts = 0 AND embed._keys(q) <@ done
        LOOP
            IF tries < greatest(other.max_attempts, 2) THEN  -- a trigger may tidy a text once
                UPDATE embed._queue AS q
                SET attempts = tries, last_error = problem, available_at = clock_timestamp() + least(60, 0.05 * 2 ^ least(tries, 12)) * interval '1 second'
                WHERE q.id = again.id;
            ELSE
                DELETE FROM embed._queue AS q WHERE q.id = again.id;
                PERFORM embed._bury_v1(other.id, k.key, '27000', problem, tries) FROM unnest(again.keys) AS k(key);
            END IF;
        END LOOP;
    END LOOP;
END $$;
COMMENT ON FUNCTION embed._tire(integer, text[], integer) IS
    'Let rows of another text, which a trigger of the user''s gave them as their vectors were written in this transaction, come again as often as any row may be tried, and list them as failed then: else they would be embedded for ever.';

CREATE OR REPLACE FUNCTION embed._settle_v1(
    worker integer, vectorizer integer, finished bigint[], done text[], busy text[], void text[], looked timestamptz, dead jsonb
)
RETURNS void
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    held text[];
    ended bigint[];
    tries integer;
BEGIN
    -- Where commits were lost, with a server that crashed or was replaced, ids are given once more. What another holds, and
    -- nobody has tried before, is not what was claimed.
    SELECT COALESCE(array_agg(q.id), '{}'), COALESCE(max(q.attempts), 0) INTO ended, tries FROM embed._queue AS q
    WHERE q.id = ANY (finished) AND (q.worker = _settle_v1.worker OR q.attempts > 1 OR q.last_error IS NOT NULL);
    -- Failures that somebody is about to retry: their rows are looked at again.
    IF EXISTS (SELECT FROM embed._failure AS f WHERE f.vectorizer_id = vectorizer) THEN
        WITH mine AS (
            SELECT f.key FROM embed._failure AS f WHERE f.vectorizer_id = vectorizer AND f.key = ANY (done || void) FOR UPDATE SKIP LOCKED
        )
        SELECT array_agg(f.key) INTO held FROM embed._failure AS f
        WHERE f.vectorizer_id = vectorizer AND f.key = ANY (done || void) AND NOT EXISTS (SELECT FROM mine WHERE mine.key = f.key);
    END IF;
    held := COALESCE(held, '{}');
    busy := busy || held;
    IF cardinality(busy) > 0 THEN
        PERFORM embed._again_v1(ended, busy);
    END IF;
    IF cardinality(busy) > 0 AND cardinality(finished) = 0 THEN
        -- part of a batch of documents, whose entries are finished with its last part
        INSERT INTO embed._queue (vectorizer_id, keys, n, available_at)
        SELECT v.id, busy, cardinality(busy), clock_timestamp() + interval '0.1 seconds'
        FROM embed._vectorizer AS v WHERE v.id = vectorizer AND v.chunk_table IS NOT NULL;
    END IF;
    DELETE FROM embed._queue AS q WHERE q.id = ANY (ended);
    IF NOT EXISTS (SELECT FROM embed._vectorizer AS v WHERE v.id = vectorizer) THEN
        RETURN;
    END IF;
    -- A row that was written is ours until we commit. One that was seen empty may have got another text since, and that
    -- text may have failed in other hands: such a failure is younger than our look, and stays.
    IF EXISTS (SELECT FROM embed._failure AS f WHERE f.vectorizer_id = vectorizer) THEN
        DELETE FROM embed._failure AS f
        WHERE f.vectorizer_id = vectorizer AND f.key <> ALL (held) AND (f.key = ANY (done) OR (f.key = ANY (void) AND f.failed_at <= looked));
    END IF;
    IF jsonb_array_length(dead) > 0 THEN
        INSERT INTO embed._failure AS f (vectorizer_id, key, code, error, attempts)
        SELECT vectorizer, d.key, d.code, d.error, d.attempts
        FROM jsonb_to_recordset(dead) AS d(key text, code text, error text, attempts integer)
        WHERE d.key = ANY (done) AND d.key <> ALL (held)
        ON CONFLICT (vectorizer_id, key) DO UPDATE
        SET code = excluded.code, error = excluded.error, attempts = excluded.attempts, failed_at = now();
    END IF;
    IF cardinality(done) > 0 THEN
        PERFORM embed._tire(vectorizer, done, tries);
        INSERT INTO embed._throughput AS t (vectorizer_id, worker, bucket, rows)
        VALUES (vectorizer, worker, date_bin('10 seconds', clock_timestamp(), 'epoch'), cardinality(done))
        ON CONFLICT ON CONSTRAINT _throughput_pkey DO UPDATE SET rows = t.rows + excluded.rows;
    END IF;
END $$;
COMMENT ON FUNCTION embed._settle_v1(integer, integer, bigint[], text[], text[], text[], timestamptz, jsonb) IS 'The queue''s side of _finish_v1.';

CREATE OR REPLACE FUNCTION embed._postpone_v1(worker integer, entries bigint[], delay interval, error text, charge boolean)
RETURNS integer
LANGUAGE sql
VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, embed, pg_temp
AS $$
    WITH released AS (
        UPDATE embed._queue AS q
        SET worker = NULL, available_at = clock_timestamp() + delay, last_error = error,
            attempts = CASE WHEN charge THEN q.attempts ELSE greatest(q.attempts - 1, 0) END
        WHERE q.id IN (SELECT e.id FROM embed._queue AS e WHERE e.id = ANY (entries) AND e.worker = _postpone_v1.worker FOR UPDATE SKIP LOCKED)
        RETURNING q.id
    )
    SELECT count(*)::integer FROM released
$$;
COMMENT ON FUNCTION embed._postpone_v1(integer, bigint[], interval, text, boolean) IS
    'Put claimed entries back, due after a delay. Without charge the attempt is not counted.';

CREATE OR REPLACE FUNCTION embed._renew_v1(worker integer, entries bigint[], lease interval)
RETURNS integer
LANGUAGE sql
VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, embed, pg_temp
AS $$
    WITH renewed AS (
        UPDATE embed._queue AS q SET available_at = clock_timestamp() + lease
        WHERE q.id IN (SELECT e.id FROM embed._queue AS e WHERE e.id = ANY (entries) AND e.worker = _renew_v1.worker FOR UPDATE SKIP LOCKED)
        RETURNING q.id
    )
    SELECT count(*)::integer FROM renewed
$$;
COMMENT ON FUNCTION embed._renew_v1(integer, bigint[], interval) IS 'Prolong the lease of entries that a worker still works on.';

CREATE OR REPLACE FUNCTION embed._rescue_v1()
RETURNS integer
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    -- All sessions end with the server, whatever their workers do: then no row is charged for it.
    restarted boolean := NOT EXISTS (SELECT FROM embed._server AS s WHERE s.started_at = pg_postmaster_start_time());
    freed integer;
BEGIN
    WITH lost AS (
        SELECT q.id, q.worker FROM embed._queue AS q
        WHERE q.worker IS NOT NULL AND NOT EXISTS (SELECT FROM pg_locks AS l
                WHERE l.locktype = 'advisory' AND l.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())
                    AND l.classid = 1885695331 AND l.objid = q.worker::oid AND l.objsubid = 2)
        FOR UPDATE SKIP LOCKED
    )
    UPDATE embed._queue AS q
    SET worker = NULL,
        -- what another of its slots held may have killed it
        alone = CASE WHEN q.alone THEN (SELECT count(*) FROM embed._queue AS o WHERE o.worker = lost.worker) = 1 ELSE false END,
        attempts = CASE WHEN restarted THEN greatest(q.attempts - 1, 0) ELSE q.attempts END,
        last_error = CASE WHEN restarted THEN q.last_error ELSE 'its worker was lost' END,
        available_at = clock_timestamp() + CASE WHEN restarted THEN interval '0' ELSE embed._apart(q.attempts) END
    FROM lost WHERE q.id = lost.id;
    GET DIAGNOSTICS freed = ROW_COUNT;
    IF restarted THEN
        DELETE FROM embed._server;
        INSERT INTO embed._server (started_at) VALUES (pg_postmaster_start_time()) ON CONFLICT DO NOTHING;
    END IF;
    RETURN freed;
END $$;
COMMENT ON FUNCTION embed._rescue_v1() IS
    'Make entries due at once whose worker is gone: a living worker''s session holds the advisory lock (1885695331, worker). The lease stands behind it where sessions are pooled.';

CREATE OR REPLACE FUNCTION embed._page_v1(vectorizer integer, page_rows integer)
RETURNS boolean
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
SET DateStyle = 'ISO, YMD'
SET TimeZone = 'UTC'
SET IntervalStyle = 'postgres'
SET row_security = off
SET extra_float_digits = 1
AS $$
DECLARE
    source record := embed._source_v1(vectorizer);
    plan record;
    left_over bigint;
    read record;
    copying record := embed._copying_v1(vectorizer);
    copied text[] := '{}';
BEGIN
    IF source.input IS NULL THEN
        RETURN false;
    END IF;
    PERFORM embed._see_chunks_v1(COALESCE(copying.giver, vectorizer));
    -- once, as strong as it will be: who waits for a stronger one with more in hand may be waited for
    EXECUTE format(CASE WHEN copying.giver IS NULL THEN 'SELECT FROM %s AS r LIMIT 0' ELSE 'EXPLAIN UPDATE %s AS r SET %s = NULL WHERE false' END, source.name, source.targets[1]);
    -- no swap changes it from here on
    copying := embed._copying_v1(vectorizer);
    IF copying.giver IS NOT NULL THEN
        page_rows := least(page_rows, 500);  -- their writers wait for us
    END IF;
    SELECT * INTO plan FROM embed._backfill_plan_v1(vectorizer);
    IF plan.columns IS NULL THEN
        RETURN false;
    END IF;
    IF plan.reached IS NULL THEN
        EXECUTE format('SELECT ARRAY[%s]::text[] FROM %s AS r ORDER BY %s LIMIT 1', plan.parts, source.name, plan.backwards) INTO plan.upto;
    END IF;
    IF NOT plan.counted THEN
        EXECUTE format('SELECT count(*) FROM %s AS r WHERE %s', source.name, plan.wanted) INTO left_over;
    END IF;
    EXECUTE format(
        'SELECT array_agg(p.key ORDER BY p.place) FILTER (WHERE p.wanted) AS keys, count(*) AS seen, max(p.place) AS last,
             (array_agg(to_jsonb(p.parts) ORDER BY p.place DESC))[1] AS parts
         FROM (SELECT %s AS key, ARRAY[%s]::text[] AS parts, row_number() OVER (ORDER BY %s) AS place, %s AS wanted
             FROM %s AS r WHERE %s ORDER BY %s LIMIT $1) AS p',
        plan.key, plan.parts, plan.columns, plan.wanted, source.name, plan.beyond, plan.columns)
    INTO read USING page_rows, plan.reached, plan.upto;
    IF copying.giver IS NOT NULL AND read.keys IS NOT NULL THEN
        copied := embed._copy_rows_v1(vectorizer, read.keys);
    END IF;
    RETURN embed._backfill_push_v1(vectorizer, ARRAY(SELECT k.key FROM unnest(read.keys) WITH ORDINALITY AS k(key, place) WHERE k.key <> ALL (copied) ORDER BY k.place),
        (SELECT array_agg(v.value ORDER BY v.place) FROM jsonb_array_elements_text(read.parts) WITH ORDINALITY AS v(value, place)),
        left_over, read.seen < page_rows, plan.upto, cardinality(copied));
END $$;
COMMENT ON FUNCTION embed._page_v1(integer, integer) IS
    'Queue the next rows of a backfill, in the order of the primary key, but those that can be given the vectors of their chunks; false when there is none, or when another worker is at it.';

CREATE OR REPLACE FUNCTION embed._backfill_plan_v1(
    vectorizer integer,
    OUT columns text, OUT key text, OUT parts text, OUT wanted text, OUT beyond text, OUT reached text[], OUT counted boolean,
    OUT backwards text, OUT upto text[]
)
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    v embed._vectorizer;
    b embed._backfill;
    within text;
BEGIN
    SELECT * INTO b FROM embed._backfill AS f WHERE f.vectorizer_id = vectorizer FOR UPDATE SKIP LOCKED;
    IF b.vectorizer_id IS NULL THEN
        RETURN;
    END IF;
    SELECT * INTO STRICT v FROM embed._vectorizer AS c WHERE c.id = vectorizer;
    SELECT string_agg('r.' || embed._column_name(v.source, k.attnum), ', ' ORDER BY k.place),
        string_agg('r.' || embed._column_name(v.source, k.attnum) || '::text', ', ' ORDER BY k.place),
        format('(%s) > (%s)',
            string_agg('r.' || embed._column_name(v.source, k.attnum), ', ' ORDER BY k.place),
            string_agg(format('$2[%s]::%s', k.place, format_type(a.atttypid, a.atttypmod)), ', ' ORDER BY k.place)),
        format('(%s) <= (%s)',
            string_agg('r.' || embed._column_name(v.source, k.attnum), ', ' ORDER BY k.place),
            string_agg(format('$3[%s]::%s', k.place, format_type(a.atttypid, a.atttypmod)), ', ' ORDER BY k.place)),
        string_agg('r.' || embed._column_name(v.source, k.attnum) || ' DESC', ', ' ORDER BY k.place)
    INTO columns, parts, beyond, within, backwards
    FROM unnest(v.key_columns) WITH ORDINALITY AS k(attnum, place)
    JOIN pg_attribute AS a ON a.attrelid = v.source AND a.attnum = k.attnum;
    IF b.position IS NULL THEN
        beyond := '$2 IS NULL';
    END IF;
    beyond := format('%s AND %s', beyond, within);
    key := embed._key_text(v.source, v.key_columns, 'r');
    wanted := CASE WHEN b.mode = 'all' THEN 'true'
        WHEN b.renew = '{}' THEN format('NOT %s', embed._is_filled(v, 'r', true))
        ELSE format('(NOT %s OR r.tableoid = ANY (%L::oid[]))', embed._is_filled(v, 'r', true), b.renew) END;
    reached := b.position;
    upto := b.upto;
    counted := b.rows_left IS NOT NULL;
END $$;
COMMENT ON FUNCTION embed._backfill_plan_v1(integer) IS 'Lock a backfill for this transaction and say how its next page is read.';

CREATE OR REPLACE FUNCTION embed._backfill_push_v1(vectorizer integer, keys text[], reached text[], counted bigint, finished boolean, upto text[], done integer DEFAULT 0)
RETURNS boolean
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    -- The vectors of a shadow come into rows that are there, and indexed, and stand some to a page, as they were written. Where
    -- neighbours have their turns one after another, only the first must move to another page, and into every index: it
    -- makes room for the next one, which stays on the page (a HOT update).
    rounds integer := (SELECT CASE WHEN v.shadow_of IS NOT NULL AND v.chunk_table IS NULL THEN 16 ELSE 1 END
        FROM embed._vectorizer AS v WHERE v.id = vectorizer);
BEGIN
    INSERT INTO embed._queue (vectorizer_id, priority, keys, n)
    SELECT vectorizer, 2, array_agg(o.key ORDER BY o.turn), count(*)
    FROM (SELECT k.key, row_number() OVER (ORDER BY k.place % rounds, k.place) AS turn FROM unnest(keys) WITH ORDINALITY AS k(key, place)) AS o
    GROUP BY (o.turn - 1) / 240
    ORDER BY (o.turn - 1) / 240;
    IF finished THEN
        DELETE FROM embed._backfill AS b WHERE b.vectorizer_id = vectorizer;
    ELSE
        UPDATE embed._backfill AS b
        SET position = COALESCE(reached, b.position),
            upto = _backfill_push_v1.upto,
            rows_total = COALESCE(b.rows_total, counted),
            rows_left = greatest(COALESCE(b.rows_left, counted) - cardinality(keys) - done, 0)
        WHERE b.vectorizer_id = vectorizer;
    END IF;
    RETURN true;
END $$;
COMMENT ON FUNCTION embed._backfill_push_v1(integer, text[], text[], bigint, boolean, text[], integer) IS 'Queue a page of keys behind live rows, and move the cursor; some were done at once.';

CREATE OR REPLACE FUNCTION embed._arrive_v1()
RETURNS void
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    v embed._vectorizer;
BEGIN
    FOR v IN SELECT c.* FROM embed._vectorizer AS c WHERE c.numbered <> embed._numbering(c.source) ORDER BY c.id FOR NO KEY UPDATE LOOP
        -- any update numbers the columns anew, and knows the partitions again
        UPDATE embed._vectorizer AS c SET state = c.state WHERE c.id = v.id;
    END LOOP;
END $$;
COMMENT ON FUNCTION embed._arrive_v1() IS 'In a database that was restored, or upgraded by pg_upgrade: number the columns of vectorizers anew, and know their partitions again.';

CREATE OR REPLACE FUNCTION embed._tend_v1()
RETURNS void
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    v embed._vectorizer;
    present oid[];
    standing text[];
BEGIN
    IF NOT pg_try_advisory_xact_lock(1885695330, 3) THEN
        RETURN;
    END IF;
    PERFORM embed._forget_dropped();
    FOR v IN SELECT c.* FROM embed._vectorizer AS c ORDER BY c.id LOOP
        SELECT c.* INTO v FROM embed._vectorizer AS c WHERE c.id = v.id FOR NO KEY UPDATE SKIP LOCKED;
        CONTINUE WHEN NOT FOUND;
        IF embed._problem(v) IS NOT NULL AND embed._stop_broken(v.id) THEN
            CONTINUE;
        END IF;
        -- a dump shall have the names of now
        IF v.names <> jsonb_build_object('source', embed._names(v.source, v.key_columns || v.input_columns || v.filter_columns),
            'targets', embed._names(embed._home(v), v.target_columns)) THEN
            UPDATE embed._vectorizer AS c SET state = c.state WHERE c.id = v.id;
        END IF;
        standing := embed._guards(v);
        IF v.guards <> standing THEN
            PERFORM embed._doubt(v);
            UPDATE embed._vectorizer AS c SET guards = standing WHERE c.id = v.id;
        END IF;
        IF embed._trigger_is_stale(v) AND embed._key_is_readable(v.source, v.key_columns) THEN  -- the table may just have been dropped
            PERFORM embed._build_trigger_function(v.id);
        END IF;
        IF embed._posting_is_stale(v.id) THEN
            PERFORM embed._build_posting_function(v.id);
        END IF;
        -- in this order: what is attached in between is renewed now and in the next round, rather than in none
        present := ARRAY(SELECT p.clone FROM embed._partitions(v.id, v.source) AS p ORDER BY p.clone);
        IF v.partitions <> present THEN
            PERFORM embed._renew_attached(v.id, embed._attached(v));
            UPDATE embed._vectorizer AS c SET partitions = present WHERE c.id = v.id;
        END IF;
    END LOOP;
    DELETE FROM embed._throughput AS t WHERE t.bucket < clock_timestamp() - interval '10 minutes';
    DELETE FROM embed._queue AS q WHERE NOT EXISTS (SELECT FROM embed._vectorizer AS c WHERE c.id = q.vectorizer_id)
        AND q.vectorizer_id <= (SELECT COALESCE(max(c.id), 0) FROM embed._vectorizer AS c);
END $$;
COMMENT ON FUNCTION embed._tend_v1() IS
    'What must be looked at now and then: dropped tables and columns, renamed keys, new partitions, old figures. One worker at a time.';

CREATE OR REPLACE FUNCTION embed._attached(v embed._vectorizer)
RETURNS oid[]
LANGUAGE sql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
    -- A partition that was made as one had the triggers from its first row on. They came in the transaction of its system
    -- columns, which nothing changes later, and the command that made these made its other columns, too: ATTACH writes all
    -- of those anew.
    SELECT COALESCE(array_agg(p.leaf), '{}')
    FROM embed._partitions(v.id, v.source) AS p
    WHERE p.clone <> ALL (v.partitions) AND NOT EXISTS (
        SELECT FROM pg_trigger AS g
        JOIN pg_attribute AS a ON a.attrelid = g.tgrelid AND a.attname = 'tableoid' AND a.attnum < 0
        JOIN pg_attribute AS u ON u.attrelid = g.tgrelid AND u.attnum > 0
        WHERE g.oid = p.clone AND g.xmin = a.xmin AND u.xmin = a.xmin AND u.cmin = a.cmin)
$$;
COMMENT ON FUNCTION embed._attached(embed._vectorizer) IS 'The partitions that were attached with rows of their own, and that nobody has looked at since.';

CREATE OR REPLACE FUNCTION embed._renew_attached(vectorizer integer, partitions oid[])
RETURNS void
LANGUAGE sql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
    INSERT INTO embed._backfill AS b (vectorizer_id, mode, renew)
    SELECT vectorizer, 'missing', partitions WHERE cardinality(partitions) > 0
    ON CONFLICT (vectorizer_id) DO UPDATE SET position = NULL, rows_total = NULL, rows_left = NULL, started_at = now(),
        renew = b.renew || excluded.renew
$$;
COMMENT ON FUNCTION embed._renew_attached(integer, oid[]) IS
    'Look at every row of partitions that were attached: whatever vectors they hold, their texts may have changed while nobody looked.';

CREATE OR REPLACE FUNCTION embed._trigger_is_stale(v embed._vectorizer)
RETURNS boolean
LANGUAGE sql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
    SELECT EXISTS (
        SELECT FROM unnest(v.key_columns) WITH ORDINALITY AS k(attnum, position)
        WHERE NOT EXISTS (
            SELECT FROM pg_proc AS p JOIN pg_index AS i ON i.indrelid = v.source AND i.indisprimary
            WHERE p.pronamespace = 'embed'::regnamespace AND p.proname = '_enqueue_' || v.id
                AND strpos(p.prosrc, format('pg_get_indexdef(%s, %s, false) IS DISTINCT FROM %L',
                    i.indexrelid, k.position, embed._column_name(v.source, k.attnum))) > 0))
        OR EXISTS (
            SELECT FROM pg_class AS c, pg_proc AS p
            WHERE c.oid = v.source AND p.pronamespace = 'embed'::regnamespace AND p.proname = '_enqueue_' || v.id
                AND (NOT has_function_privilege(c.relowner, p.oid, 'EXECUTE')
                    OR EXISTS (SELECT FROM aclexplode(p.proacl) AS r WHERE r.grantee NOT IN (p.proowner, c.relowner))))
$$;
COMMENT ON FUNCTION embed._trigger_is_stale(embed._vectorizer) IS
    'Whether a trigger function was written for other names of the key columns, or for another owner of the table.';

CREATE OR REPLACE FUNCTION embed._prune_v1(vectorizer integer, n integer DEFAULT 1000)
RETURNS integer
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
SET DateStyle = 'ISO, YMD'
SET TimeZone = 'UTC'
SET IntervalStyle = 'postgres'
SET row_security = off
SET extra_float_digits = 1
AS $$
DECLARE
    source record := embed._source_v1(vectorizer);
    looked timestamptz := clock_timestamp();
    listed text[] := embed._failed_keys_v1(vectorizer, n);
    void text[];
    lost text[];
BEGIN
    IF source.input IS NULL OR cardinality(listed) = 0 THEN
        RETURN 0;
    END IF;
    BEGIN
        EXECUTE format('SELECT COALESCE(array_agg(q.key), ''{}'') FROM unnest($1) AS q(key)
            WHERE NOT EXISTS (SELECT FROM %s AS r WHERE %s AND (%s) IS NOT NULL OFFSET 0)',
            source.name, source.match, source.input) INTO void USING listed;
    EXCEPTION WHEN data_exception OR check_violation THEN
        -- the filter fails on one of them: only those that are gone, then
        lost := ARRAY(SELECT l.key FROM unnest(listed) AS l(key) WHERE embed._lose_key(vectorizer, source.name, source.match, l.key));
        EXECUTE format('SELECT COALESCE(array_agg(q.key), ''{}'') FROM unnest($1) AS q(key)
            WHERE NOT EXISTS (SELECT FROM %s AS r WHERE %s OFFSET 0)', source.name, source.match)
        INTO void USING ARRAY(SELECT l.key FROM unnest(listed) AS l(key) WHERE l.key <> ALL (lost));
        void := void || lost;
    END;
    IF cardinality(void) > 0 THEN
        PERFORM embed._settle_v1(0, vectorizer, '{}', '{}', '{}', void, looked, '[]');
    END IF;
    RETURN cardinality(void);
END $$;
COMMENT ON FUNCTION embed._prune_v1(integer, integer) IS 'Strike failures off the list whose rows are gone, or have no text any more.';

CREATE OR REPLACE FUNCTION embed._failed_keys_v1(vectorizer integer, n integer)
RETURNS text[]
LANGUAGE sql
VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, embed, pg_temp
AS $$
    SELECT COALESCE(array_agg(f.key), '{}')
    FROM (SELECT c.key FROM embed._failure AS c WHERE c.vectorizer_id = vectorizer ORDER BY random() LIMIT n) AS f
$$;
COMMENT ON FUNCTION embed._failed_keys_v1(integer, integer) IS 'Some keys that are listed as failed.';

CREATE OR REPLACE FUNCTION embed._pack_v1(vectorizer integer, n integer DEFAULT 20000)
RETURNS integer
LANGUAGE sql
VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, embed, pg_temp
AS $$
    WITH small AS MATERIALIZED (
        SELECT q.id FROM embed._queue AS q
        WHERE 50000 < (SELECT count(*) FROM (SELECT FROM embed._queue AS s
                WHERE s.vectorizer_id = vectorizer AND s.priority IN (1, 2) AND s.n < 24 AND s.worker IS NULL LIMIT 50001) AS many)
            AND q.vectorizer_id = vectorizer AND q.priority IN (1, 2) AND q.n < 24 AND q.worker IS NULL AND q.attempts = 0
            AND q.available_at <= clock_timestamp()
        ORDER BY q.priority, q.available_at LIMIT _pack_v1.n
        FOR UPDATE SKIP LOCKED
    ), taken AS (
        DELETE FROM embed._queue AS q USING small WHERE q.id = small.id RETURNING q.priority, embed._keys(q) AS keys, q.enqueued_at
    ), ordered AS (
        SELECT t.priority, k.key, t.enqueued_at, (row_number() OVER (PARTITION BY t.priority ORDER BY t.enqueued_at) - 1) / 240 AS pack
        FROM taken AS t, unnest(t.keys) AS k(key)
    ), packed AS (
        INSERT INTO embed._queue (vectorizer_id, priority, keys, n, available_at, enqueued_at)
        SELECT vectorizer, o.priority, array_agg(DISTINCT o.key), count(DISTINCT o.key), min(o.enqueued_at), min(o.enqueued_at)
        FROM ordered AS o GROUP BY o.priority, o.pack
        RETURNING n
    )
    SELECT COALESCE(sum(p.n), 0)::integer FROM packed AS p
$$;
COMMENT ON FUNCTION embed._pack_v1(integer, integer) IS 'Where small entries are many, bring some together, so that a long queue stays cheap to count.';

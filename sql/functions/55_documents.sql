-- Chunk tables as workers keep them. A row is read with the hashes of its chunks, so that only others are embedded; what was
-- made of it is written in one transaction, and only if the row still has the text that was read.
--
-- Workers do not lock rows of users' tables: to lock one they would need the right to change it. Those who write chunks of one
-- row go one after the other, by an advisory lock, and look at the row when they hold it. A change of the row that was not
-- committed by then has its own entry in the queue, which is processed after the change; so has a deletion. A result that
-- comes late finds another text, or no row, and is not written.

CREATE OR REPLACE FUNCTION embed._see_chunks_v1(vectorizer integer)
RETURNS void
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    source regclass := embed._chunk_source_v1(vectorizer);
BEGIN
    IF source IS NULL THEN
        RETURN;
    ELSIF row_security_active(source) THEN
        PERFORM embed._fail('42501', format('row-level security hides rows of %s from workers', source), 'let workers connect as a role that sees every row');
    END IF;
    -- our own policy on the table of the chunks is no reason to fail
    PERFORM set_config('row_security', 'on', true);
END $$;
COMMENT ON FUNCTION embed._see_chunks_v1(integer) IS 'Where a vectorizer has a table of chunks: fail if rows of its source are hidden, in place of row_security = off.';

CREATE OR REPLACE FUNCTION embed._chunk_source_v1(vectorizer integer)
RETURNS regclass
LANGUAGE sql
STABLE PARALLEL SAFE SECURITY DEFINER
SET search_path = pg_catalog, embed, pg_temp
AS $$
    SELECT v.source FROM embed._vectorizer AS v
    WHERE v.id = vectorizer AND v.chunk_table IS NOT NULL AND EXISTS (SELECT FROM pg_class AS c WHERE c.oid = v.source)
$$;
COMMENT ON FUNCTION embed._chunk_source_v1(integer) IS 'The table whose texts a vectorizer splits into chunks; NULL when it does not.';

CREATE OR REPLACE FUNCTION embed._documents_v1(
    vectorizer integer,
    OUT name text, OUT input text, OUT match text, OUT chunks text, OUT chunk_match text, OUT keys text, OUT key_values text,
    OUT id text, OUT number text, OUT chunk text, OUT context text, OUT hash text, OUT filled text, OUT targets text[], OUT kinds oid[], OUT outputs text[], OUT rows_match text,
    OUT chunking jsonb
)
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    source record := embed._source_v1(vectorizer);
    v embed._vectorizer;
    n smallint;
BEGIN
    SELECT * INTO v FROM embed._vectorizer AS c WHERE c.id = vectorizer AND c.chunk_table IS NOT NULL;
    IF source.input IS NULL OR v.id IS NULL THEN
        RETURN;
    END IF;
    name := source.name;
    match := source.match;
    targets := source.targets;
    kinds := source.kinds;
    outputs := source.outputs;
    chunking := v.chunking;
    n := cardinality(v.key_columns);
    chunks := v.chunk_table::text;
    chunk_match := embed._key_match(v.chunk_table, ARRAY(SELECT k::smallint FROM generate_series(2, n + 1) AS k), 'c', 'q.key');
    rows_match := embed._chunk_match(v, 'c', 'r');
    SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum),
        string_agg(format('(%s)::%s', CASE n WHEN 1 THEN 'q.key' ELSE format('q.key::jsonb ->> %s', a.attnum - 2) END, format_type(a.atttypid, a.atttypmod)), ', ' ORDER BY a.attnum)
    INTO keys, key_values
    FROM pg_attribute AS a WHERE a.attrelid = v.chunk_table AND a.attnum BETWEEN 2 AND n + 1;
    id := embed._column_name(v.chunk_table, 1::smallint);
    number := embed._column_name(v.chunk_table, (n + 2)::smallint);
    chunk := embed._column_name(v.chunk_table, (n + 3)::smallint);
    context := embed._column_name(v.chunk_table, (n + 4)::smallint);
    hash := embed._column_name(v.chunk_table, (n + 5)::smallint);
    filled := embed._has_vectors(v.chunk_table, v.target_columns, 'c', true);
    input := CASE WHEN num_nulls(chunks, chunk_match, id, number, chunk, context, hash, filled) = 0 THEN source.input END;
END $$;
COMMENT ON FUNCTION embed._documents_v1(integer) IS
    'The expressions that read a vectorizer''s rows and keep their chunks now; all NULL, and the vectorizer stopped, when something it needs was dropped.';

CREATE OR REPLACE FUNCTION embed._hold_source(vectorizer integer)
RETURNS void
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
END $$;
COMMENT ON FUNCTION embed._hold_source(integer) IS
    'Lock a vectorizer''s table before its chunks are looked up: they must not go where another table takes a name between its reading and its use.';

CREATE OR REPLACE FUNCTION embed._claim_documents_v1(worker integer, vectorizer integer, lane integer, max_rows integer, lease interval)
RETURNS TABLE (entry bigint, attempts integer, key text)
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    source record;
    claim record;
BEGIN
    PERFORM embed._hold_source(vectorizer);
    source := embed._documents_v1(vectorizer);
    IF source.input IS NULL THEN
        RETURN;
    END IF;
    PERFORM embed._see_chunks_v1(vectorizer);
    SELECT * INTO claim FROM embed._claim_v1(worker, vectorizer, lane, max_rows, lease);
    IF claim.spent IS NOT NULL THEN
        PERFORM embed._give_up_lost(vectorizer, source.name, source.input, source.match, claim.spent);
    END IF;
    IF cardinality(claim.keys) = 1 AND claim.attempts[1] > 1 THEN
        PERFORM embed._note_text(claim.entries[1], source.name, source.input, source.match, claim.keys[1]);
    END IF;
    RETURN QUERY SELECT c.entry, c.attempts, c.key FROM unnest(claim.entries, claim.attempts, claim.keys) AS c(entry, attempts, key);
END $$;
COMMENT ON FUNCTION embed._claim_documents_v1(integer, integer, integer, integer, interval) IS
    'Claim rows whose texts are split into chunks. They are read by _read_documents_v1, some at a time: texts may be long.';

CREATE OR REPLACE FUNCTION embed._read_documents_v1(vectorizer integer, keys text[], most bigint, attempts integer)
RETURNS TABLE (key text, there boolean, input text, hash bigint, chunk_ids bigint[], chunk_hashes bigint[])
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
SET DateStyle = 'ISO, YMD'
SET TimeZone = 'UTC'
SET IntervalStyle = 'postgres'
SET extra_float_digits = 1
AS $$
DECLARE
    source record;
    reading text;
    rows refcursor;
    next integer := 1;
    tried integer;
    held boolean;
    characters bigint := 0;
BEGIN
    PERFORM embed._hold_source(vectorizer);
    source := embed._documents_v1(vectorizer);
    IF source.input IS NULL THEN
        RETURN;
    END IF;
    PERFORM embed._see_chunks_v1(vectorizer);
    -- in the order of the keys, and no row before it is fetched
    reading := format(
        'SELECT q.key, r.there IS NOT NULL, r.input, embed._hash(r.input), c.ids, c.hashes
         FROM unnest($1) AS q(key)
         LEFT JOIN LATERAL (SELECT true AS there, %s AS input FROM %s AS r WHERE %s OFFSET 0) AS r ON true
         LEFT JOIN LATERAL (SELECT array_agg(c.%s ORDER BY c.%s) AS ids, array_agg(c.%s ORDER BY c.%s) AS hashes FROM %s AS c WHERE %s AND %s) AS c ON r.input IS NOT NULL',
        source.input, source.name, source.match, source.id, source.number, source.hash, source.number, source.chunks, source.chunk_match, source.filled);
    WHILE next <= cardinality(keys) AND characters < most LOOP
        BEGIN
            OPEN rows NO SCROLL FOR EXECUTE reading USING keys[next:];
            LOOP
                FETCH rows INTO key, there, input, hash, chunk_ids, chunk_hashes;
                EXIT WHEN key IS NULL;
                RETURN NEXT;
                next := next + 1;
                characters := characters + COALESCE(length(input), 0);
                EXIT WHEN characters >= most;
            END LOOP;
            CLOSE rows;
        EXCEPTION WHEN data_exception OR check_violation THEN
            -- the filter fails on this row
            rows := NULL;
            IF embed._lose_key(vectorizer, source.name, source.match, keys[next]) THEN
                NULL;
            ELSIF tried IS DISTINCT FROM next THEN
                held := embed._hold_row(vectorizer, source.name, source.match, keys[next]);
                tried := next;
                CONTINUE;  -- it may have changed since
            ELSIF held THEN
                PERFORM embed._bury_v1(vectorizer, keys[next], SQLSTATE, 'its text cannot be read: ' || SQLERRM, attempts);
            ELSE
                PERFORM embed._settle_v1(0, vectorizer, '{}', '{}', keys[next:next], '{}', clock_timestamp(), '[]');
            END IF;
            key := keys[next];
            there := NULL;
            input := NULL;
            RETURN NEXT;
            next := next + 1;
        END;
    END LOOP;
END $$;
COMMENT ON FUNCTION embed._read_documents_v1(integer, text[], bigint, integer) IS
    'Read the texts of the first of these rows, one at least, until so many characters are reached, and the ids and hashes of the chunks that they have: input is NULL when there is nothing to embed, there is false when the row is gone, NULL when it was given up, queued again for another worker is at it, or has a key that is none.';

CREATE OR REPLACE FUNCTION embed._finish_documents_v1(
    worker integer,
    vectorizer integer,
    entries bigint[],
    keys text[],
    hashes bigint[],
    kept_of integer[],
    kept_ids bigint[],
    kept_numbers integer[],
    made_of integer[],
    made_ids bigint[],
    made_numbers integer[],
    chunks text[],
    contexts text[],
    chunk_hashes bigint[],
    vectors anyarray,
    dead jsonb DEFAULT '[]',
    sparse sparsevec[] DEFAULT NULL,
    multi embed._token_vectors[] DEFAULT NULL,
    chunking jsonb DEFAULT NULL,
    hook text DEFAULT NULL
)
RETURNS TABLE (written integer, postponed integer)
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
SET DateStyle = 'ISO, YMD'
SET TimeZone = 'UTC'
SET IntervalStyle = 'postgres'
SET extra_float_digits = 1
SET enable_hashjoin = off
SET enable_mergejoin = off
AS $$
DECLARE
    relation text := embed._source_table_v1(vectorizer);
    source record;
    looked timestamptz;
    good integer[];
    void text[];
    stale integer[] := '{}';
    given text;
    names text;
BEGIN
    written := 0;
    postponed := 0;
    PERFORM embed._see_chunks_v1(vectorizer);
    IF relation IS NOT NULL THEN
        -- the text is what it is now, and stays that until we commit
        PERFORM embed._hold(relation);
    END IF;
    source := embed._documents_v1(vectorizer);
    IF source.input IS NULL THEN
        PERFORM embed._postpone_v1(worker, entries, interval '0', 'the vectorizer was stopped', false);
        RETURN NEXT;
        RETURN;
    ELSIF source.outputs[1] = 'dense' AND (SELECT t.typelem FROM pg_type AS t WHERE t.oid = pg_typeof(vectors)) <> source.kinds[1] THEN
        PERFORM embed._postpone_v1(worker, entries, interval '0.1 seconds', 'the column of the vectors has another type now', false);
        RETURN NEXT;
        RETURN;
    ELSIF chunking <> source.chunking THEN
        PERFORM embed._postpone_v1(worker, entries, interval '0.1 seconds', 'texts are split in another way now', false);
        RETURN NEXT;
        RETURN;
    ELSIF embed._prepare_v1(vectorizer) IS DISTINCT FROM hook THEN
        PERFORM embed._postpone_v1(worker, entries, interval '0.1 seconds', 'another hook makes the texts now', false);
        RETURN NEXT;
        RETURN;
    END IF;
    EXECUTE format('LOCK TABLE %s IN ROW EXCLUSIVE MODE', source.chunks);
    -- 64 locks are enough that others seldom wait, and a batch does not fill the server's table of locks. All take them in
    -- this order, before they lock a row.
    PERFORM pg_advisory_xact_lock(1885695334, s.stripe)
    FROM (SELECT DISTINCT (vectorizer & 33554431) * 64 + (embed._hash(k.key) & 63)::integer AS stripe FROM unnest(keys) AS k(key) ORDER BY stripe OFFSET 0) AS s;
    looked := clock_timestamp();
    EXECUTE format(
        'SELECT COALESCE(array_agg(q.place::integer) FILTER (WHERE r.hash = q.hash), ''{}''),
             COALESCE(array_agg(q.key) FILTER (WHERE r.hash IS NULL), ''{}'')
         FROM unnest($1, $2) WITH ORDINALITY AS q(key, hash, place)
         LEFT JOIN LATERAL (SELECT embed._hash(%s) AS hash FROM %s AS r WHERE %s OFFSET 0) AS r ON true',
        source.input, source.name, source.match)
    INTO good, void USING keys, hashes;
    -- chunks that were to stay and went since they were read: the row had another text in between, or a server that lost
    -- commits has given their ids to another row's
    EXECUTE format('SELECT COALESCE(array_agg(DISTINCT q.place), ''{}'') FROM unnest($1, $2, $3) AS q(place, id, key)
        WHERE q.place = ANY ($4) AND NOT EXISTS (SELECT FROM %s AS c WHERE c.%s = q.id AND %s OFFSET 0)', source.chunks, source.id, source.chunk_match)
    INTO stale USING kept_of, kept_ids, ARRAY(SELECT keys[k.place] FROM unnest(kept_of) WITH ORDINALITY AS k(place, position) ORDER BY k.position), good;
    good := ARRAY(SELECT g.place FROM unnest(good) AS g(place) WHERE g.place <> ALL (stale));
    EXECUTE format('DELETE FROM %s AS c USING (SELECT keys.key FROM unnest($1) WITH ORDINALITY AS keys(key, place) WHERE keys.place = ANY ($2) UNION ALL SELECT unnest($3)) AS q(key)
        WHERE %s AND c.%s <> ALL ($4)', source.chunks, source.chunk_match, source.id)
    USING keys, good, void, kept_ids;
    EXECUTE format('UPDATE %1$s AS c SET %3$s = q.number FROM unnest($1, $2, $3) AS q(place, id, number)
        WHERE q.place = ANY ($4) AND c.%2$s = q.id AND c.%3$s <> q.number', source.chunks, source.id, source.number)
    USING kept_of, kept_ids, kept_numbers, good;
    IF cardinality(made_of) > 0 THEN
        -- one column for each output, as unnest makes it of their arrays
        SELECT format('unnest($1, $2, $3, $4, $5, $6, %s) AS m(place, id, number, chunk, context, hash, %s)',
                string_agg(CASE o.output WHEN 'dense' THEN '$7' WHEN 'sparse' THEN '$8' ELSE '$9' END, ', ' ORDER BY o.position),
                string_agg(o.output, ', ' ORDER BY o.position)), string_agg('m.' || o.output, ', ' ORDER BY o.position)
        INTO given, names
        FROM unnest(source.outputs) WITH ORDINALITY AS o(output, position);
        IF num_nonnulls(VARIADIC made_ids) > 0 THEN
            EXECUTE format('UPDATE %s AS c SET %s FROM %s WHERE m.place = ANY ($10) AND c.%s = m.id', source.chunks,
                (SELECT string_agg(format('%s = m.%s', t.name, t.output), ', ') FROM unnest(source.targets, source.outputs) AS t(name, output)), given, source.id)
            USING made_of, made_ids, made_numbers, chunks, contexts, chunk_hashes, vectors, sparse, multi, good;
        END IF;
        EXECUTE format('INSERT INTO %s (%s, %s, %s, %s, %s, %s)
            SELECT %s, m.number, m.chunk, m.context, m.hash, %s
            FROM %s JOIN unnest($11) WITH ORDINALITY AS q(key, place) ON q.place = m.place
            WHERE m.place = ANY ($10) AND m.id IS NULL',
            source.chunks, source.keys, source.number, source.chunk, source.context, source.hash, array_to_string(source.targets, ', '), source.key_values, names, given)
        USING made_of, made_ids, made_numbers, chunks, contexts, chunk_hashes, vectors, sparse, multi, good, keys;
    END IF;
    PERFORM embed._settle_v1(worker, vectorizer, entries, ARRAY(SELECT keys[g.place] FROM unnest(good) AS g(place)),
        ARRAY(SELECT keys[s.place] FROM unnest(stale) AS s(place)), void, looked, dead);
    written := cardinality(good);
    postponed := cardinality(stale);
    RETURN NEXT;
END $$;
COMMENT ON FUNCTION embed._finish_documents_v1(integer, integer, bigint[], text[], bigint[], integer[], bigint[], integer[], integer[], bigint[], integer[], text[], text[], bigint[], anyarray, jsonb, sparsevec[], embed._token_vectors[], jsonb, text) IS
    'Keep the chunks of rows that still have the text that was read (its hash; NULL for none): those of kept_ids stay, maybe with other numbers, those that were made come in, with an id instead of others'' vectors, the rest goes. kept_of and made_of are places in keys. All in one transaction, which takes the entries out of the queue.';

CREATE OR REPLACE FUNCTION embed._sweep_due_v1(vectorizer integer)
RETURNS oid[]
LANGUAGE sql
STABLE PARALLEL SAFE SECURITY DEFINER
SET search_path = pg_catalog, embed, pg_temp
AS $$ SELECT embed._files(v.source) FROM embed._vectorizer AS v WHERE v.id = vectorizer AND v.state = 'active' AND embed._must_sweep(v) $$;
COMMENT ON FUNCTION embed._sweep_due_v1(integer) IS 'The files of a table when chunks without a row must be looked for; NULL otherwise.';

CREATE OR REPLACE FUNCTION embed._swept_v1(vectorizer integer, files oid[])
RETURNS void
LANGUAGE sql
VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, embed, pg_temp
AS $$
    UPDATE embed._vectorizer AS v SET swept = files
    WHERE v.id = (SELECT c.id FROM embed._vectorizer AS c WHERE c.id = vectorizer FOR NO KEY UPDATE SKIP LOCKED)
$$;
COMMENT ON FUNCTION embed._swept_v1(integer, oid[]) IS 'Remember for which files of a table chunks without a row were looked for.';

CREATE OR REPLACE FUNCTION embed._sweep_v1(vectorizer integer, n integer DEFAULT 100000)
RETURNS integer
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    due oid[] := embed._sweep_due_v1(vectorizer);
    source record;
    swept integer;
BEGIN
    IF due IS NULL THEN
        RETURN 0;
    END IF;
    PERFORM embed._hold_source(vectorizer);
    source := embed._documents_v1(vectorizer);
    IF source.input IS NULL THEN
        RETURN 0;
    END IF;
    PERFORM embed._see_chunks_v1(vectorizer);
    EXECUTE format('LOCK TABLE %s IN ROW EXCLUSIVE MODE', source.chunks);
    -- nobody writes chunks of this vectorizer now: those of a row that comes back while we look are made anew
    PERFORM pg_advisory_xact_lock(1885695334, (vectorizer & 33554431) * 64 + s.stripe) FROM generate_series(0, 63) AS s(stripe);
    EXECUTE format('DELETE FROM %1$s AS d WHERE d.ctid = ANY (ARRAY(SELECT c.ctid FROM %1$s AS c WHERE NOT EXISTS (SELECT FROM %2$s AS r WHERE %3$s) LIMIT $1))',
        source.chunks, source.name, source.rows_match) USING n;
    GET DIAGNOSTICS swept = ROW_COUNT;
    IF swept < n THEN
        PERFORM embed._swept_v1(vectorizer, due);
    END IF;
    RETURN swept;
END $$;
COMMENT ON FUNCTION embed._sweep_v1(integer, integer) IS
    'Remove chunks whose rows went without a trigger, with a TRUNCATE or a partition. Returns how many; there may be more when it is n.';

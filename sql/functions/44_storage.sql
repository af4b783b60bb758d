-- From a column of vectors to a table of chunks, in place. At first each row is one chunk, its whole text, with the vectors
-- that it has: so searches find every row at any moment. Then workers split the texts behind live rows. A text that is one
-- chunk keeps its vectors, for the hash that is written here is the one that a worker would write.
--
-- From a table of chunks to a column, by a shadow as in 62_switch.sql, for there is no vector of a text that was split: searches
-- go on over the chunks until every row has its vector. Where a chunk's hash says that it is the whole text, its vector is copied.

CREATE OR REPLACE FUNCTION embed._chunk_hash(input text, space text)
RETURNS bigint
LANGUAGE sql
IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
SET standard_conforming_strings = on
AS $$ SELECT ('x' || encode(substr(sha256(convert_to(space, 'UTF8') || '\x00'::bytea || convert_to(input, 'UTF8')), 1, 8), 'hex'))::bit(64)::bigint $$;
COMMENT ON FUNCTION embed._chunk_hash(text, text) IS 'What workers recognise a chunk by: what is embedded of it, and the spaces of its models.';

CREATE OR REPLACE FUNCTION embed._copy_to_chunks(v embed._vectorizer, home regclass, columns text[])
RETURNS void
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
    space text := (SELECT string_agg(m.space_id, ' ' ORDER BY o.position) FROM unnest(embed._models(v)) WITH ORDINALITY AS o(id, position) JOIN embed._model AS m ON m.id = o.id);
    unsure boolean := v.state = 'stopped' OR embed._attached(v) <> '{}'
        OR EXISTS (SELECT FROM embed._backfill AS b WHERE b.vectorizer_id = v.id AND (b.mode = 'all' OR b.renew <> '{}'));
BEGIN
    -- Where the vectors may be of another text, a chunk has a hash that no text has: it is found until it is made anew.
    EXECUTE format('INSERT INTO %s (%s, chunk_no, chunk, context, chunk_hash, %s)
        SELECT %s, 1, e.input, '''', CASE WHEN $1 OR e.key IN (
                SELECT k.key FROM embed._queue AS q, unnest(COALESCE(q.keys, q.ids::text[])) AS k(key) WHERE q.vectorizer_id = $2
                UNION ALL SELECT f.key FROM embed._failure AS f WHERE f.vectorizer_id = $2)
            THEN 0 ELSE embed._chunk_hash(e.input, $3) END, %s
        FROM %s AS r CROSS JOIN LATERAL (SELECT %s AS input, %s AS key OFFSET 0) AS e
        WHERE %s AND e.input IS NOT NULL',
        home, (SELECT string_agg(embed._column_name(v.source, k.attnum), ', ' ORDER BY k.position) FROM unnest(v.key_columns) WITH ORDINALITY AS k(attnum, position)),
        (SELECT string_agg(quote_ident(c.name), ', ' ORDER BY c.position) FROM unnest(columns) WITH ORDINALITY AS c(name, position)),
        (SELECT string_agg('r.' || embed._column_name(v.source, k.attnum), ', ' ORDER BY k.position) FROM unnest(v.key_columns) WITH ORDINALITY AS k(attnum, position)),
        (SELECT string_agg(format('r.%I', c.name), ', ' ORDER BY c.position) FROM unnest(columns) WITH ORDINALITY AS c(name, position)),
        embed._source_name(v.source), embed._input(v.source, v.input_columns, v.template, v.filter, 'r'), embed._key_text(v.source, v.key_columns, 'r'),
        embed._is_filled(v, 'r', true)) USING unsure, v.id, space;
    EXECUTE format('ANALYZE %s', home);
END $$;
COMMENT ON FUNCTION embed._copy_to_chunks(embed._vectorizer, regclass, text[]) IS 'Make each row that has vectors one chunk of a new table, with its vectors.';

CREATE OR REPLACE FUNCTION embed._check_move(v embed._vectorizer, keep_column boolean)
RETURNS void
LANGUAGE plpgsql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    readers text := CASE WHEN keep_column THEN NULL ELSE embed._dependants(v.source, v.target_columns) END;
BEGIN
    IF v.shadow_of IS NOT NULL OR EXISTS (SELECT FROM embed._vectorizer AS s WHERE s.shadow_of = v.id) THEN
        PERFORM embed._fail('PE003', format('vectorizer %L is part of a switch of its model, or its old vectors are kept', v.name),
            'end that first, with embed.finish_switch and embed.forget_switch, or with embed.abort_switch; embed.rollback_switch goes back to vectors that are kept');
    ELSIF embed._problem(v) IS NOT NULL THEN
        PERFORM embed._fail('PE003', format('vectorizer %L cannot go on: %s', v.name, embed._problem(v)));
    ELSIF v.chunk_table IS NOT NULL THEN
        RETURN;
    ELSIF v.prepare IS NOT NULL THEN
        PERFORM embed._fail('PE003', format('the texts of vectorizer %L are made by the hook %L, and not kept', v.name, v.prepare),
            'make a second one with storage => ''table'', search that when it is filled, and drop the first');
    ELSIF readers IS NOT NULL THEN
        PERFORM embed._fail('PE003', format('these read the vectors of %s, which get another place: %s', v.source, readers),
            'drop them, and make them again over the view of the chunks; or say keep_column => true, which leaves them the old vectors');
    ELSIF row_security_active(v.source) THEN
        PERFORM embed._fail('42501', format('row-level security hides rows of %s from you', v.source), 'change the storage as a role that sees every row');
    END IF;
END $$;
COMMENT ON FUNCTION embed._check_move(embed._vectorizer, boolean) IS 'Refuse to move vectors to a table of chunks, or from there to columns, where something would break, or be lost.';

CREATE OR REPLACE FUNCTION embed._move_to_chunks(v embed._vectorizer, chunking jsonb, chunk_table text, chunk_view text, keep_column boolean)
RETURNS void
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    settings jsonb := embed._chunking(chunking, (SELECT (m.card ->> 'max_tokens')::integer FROM embed._model AS m WHERE m.id = v.model_id));
    view_name text;
    has_postings boolean := embed._posting_triggers(v.id) <> '{}';
    home regclass;
    columns text[];
    targets smallint[];
BEGIN
    PERFORM embed._check_source(v.source), embed._check_move(v, keep_column);
    view_name := embed._chunk_name(v.source, chunk_view, '_chunks');
    home := embed._make_chunk_table(v.source, v.key_columns, embed._chunk_name(v.source, chunk_table, '_embedding'));
    SELECT array_agg(a.attname::text ORDER BY c.position),
        array_agg((embed._add_column(home, a.attname, c.output, CASE c.output WHEN 'dense' THEN t.typname::text END, a.atttypmod)).attnum ORDER BY c.position)
    INTO columns, targets
    FROM unnest(v.outputs, v.target_columns) WITH ORDINALITY AS c(output, attnum, position)
    JOIN pg_attribute AS a ON a.attrelid = v.source AND a.attnum = c.attnum JOIN pg_type AS t ON t.oid = a.atttypid;
    PERFORM embed._copy_to_chunks(v, home, columns);
    -- up to here everybody could read and write
    PERFORM embed._own_vectorizer(v.name, lock_table => true);
    PERFORM embed._drop_triggers(v.id), embed._drop_posting_triggers(v.id), embed._clear_postings(v.id), embed._revoke_columns(v.id);
    UPDATE embed._vectorizer AS c SET chunk_table = home, chunking = settings, target_columns = targets WHERE c.id = v.id;
    UPDATE embed._index AS i SET rows = NULL, built_rows = NULL, ef_search = NULL WHERE i.vectorizer_id = v.id;
    PERFORM embed._open_chunk_table(v.id, view_name), embed._build_triggers(v.id), embed._grant_columns(v.id);
    IF has_postings THEN
        PERFORM embed._make_postings(v.id);
    END IF;
    IF NOT keep_column THEN
        EXECUTE format('ALTER TABLE %s %s', v.source, (SELECT string_agg(format('DROP COLUMN %I', c.name), ', ') FROM unnest(columns) AS c(name)));
    END IF;
    PERFORM embed._start_backfill(v.id, 'all');
END $$;
COMMENT ON FUNCTION embed._move_to_chunks(embed._vectorizer, jsonb, text, text, boolean) IS
    'Move a vectorizer''s vectors from columns of its table to a new table of chunks, which workers then split; the columns go, or stay as they are.';

CREATE OR REPLACE FUNCTION embed._next_column(v embed._vectorizer)
RETURNS embed._vectorizer
LANGUAGE sql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
    SELECT s.* FROM embed._vectorizer AS s JOIN embed._switch AS w ON w.vectorizer_id = s.id
    WHERE s.shadow_of = v.id AND v.chunk_table IS NOT NULL AND s.chunk_table IS NULL AND w.stage = 'next'
$$;
COMMENT ON FUNCTION embed._next_column(embed._vectorizer) IS 'The shadow whose columns are to take the place of a vectorizer''s chunks; NULL when there is none.';

CREATE OR REPLACE FUNCTION embed._move_to_column(v embed._vectorizer, keep_chunks boolean)
RETURNS void
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    names text[];
    kind text;
    taken text;
    s embed._vectorizer;
    how embed._switch;
BEGIN
    how.keep := CASE WHEN keep_chunks THEN 'in step' ELSE 'drop' END;
    how.dependants := CASE WHEN keep_chunks THEN 'ignore' ELSE 'refuse' END;
    s := embed._next_column(v);
    IF s.id IS NOT NULL THEN
        -- begun before: what is asked for now holds
        UPDATE embed._switch AS w SET keep = how.keep, dependants = how.dependants WHERE w.vectorizer_id = s.id;
        PERFORM embed._refuse_dependants(v, how.dependants);
        RETURN;
    END IF;
    PERFORM embed._check_move(v, keep_chunks);
    SELECT array_agg(a.attname::text ORDER BY c.position), min(t.typname::text) FILTER (WHERE c.output = 'dense') INTO names, kind
    FROM unnest(v.outputs, v.target_columns) WITH ORDINALITY AS c(output, attnum, position)
    JOIN pg_attribute AS a ON a.attrelid = v.chunk_table AND a.attnum = c.attnum JOIN pg_type AS t ON t.oid = a.atttypid;
    SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum) INTO taken FROM pg_attribute AS a
    WHERE a.attrelid = v.source AND a.attname = ANY (names::name[]) AND NOT a.attisdropped;
    IF taken IS NOT NULL THEN
        PERFORM embed._fail('PE003', format('%s has a column already that is called as that of the vectors of its chunks: %s', v.source, taken),
            format('drop or rename it, or ALTER TABLE %s RENAME COLUMN ...: the new one is called as that is', v.chunk_table));
    END IF;
    s := embed._cast_shadow(v, v.model_id, false, names, kind);
    -- vectors of one model need no comparison
    INSERT INTO embed._switch (vectorizer_id, auto, keep, dependants, compared) VALUES (s.id, true, how.keep, how.dependants, 0);
    PERFORM embed._refuse_dependants(v, how.dependants);
    PERFORM embed._run_steps(embed._reader_steps(v, s)), embed._index_as(v, s, NULL);
END $$;
COMMENT ON FUNCTION embed._move_to_column(embed._vectorizer, boolean) IS
    'Begin to move a vectorizer''s vectors from its table of chunks to columns of the table itself, which are filled behind live rows, and which a swap then puts in the place of the chunks.';

CREATE OR REPLACE FUNCTION embed._reader_steps(v embed._vectorizer, s embed._vectorizer)
RETURNS text[]
LANGUAGE sql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
    -- a policy lets them read the chunks of those rows that they may read
    SELECT ARRAY(
        SELECT format('GRANT SELECT (%s) ON %s TO %s%s', embed._column_name(s.source, c.taker), s.source,
            CASE r.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(r.grantee)) END, CASE WHEN r.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
        FROM unnest(v.outputs, v.target_columns) AS o(output, giver)
        CROSS JOIN LATERAL (SELECT s.target_columns[array_position(s.outputs, o.output)]) AS c(taker)
        CROSS JOIN LATERAL (
            (SELECT e.grantee, e.is_grantable FROM pg_class AS h, aclexplode(h.relacl) AS e WHERE h.oid = v.chunk_table AND e.privilege_type = 'SELECT'
                UNION SELECT e.grantee, e.is_grantable FROM pg_attribute AS a, aclexplode(a.attacl) AS e
                WHERE a.attrelid = v.chunk_table AND a.attnum = o.giver AND e.privilege_type = 'SELECT')
            EXCEPT
            (SELECT e.grantee, e.is_grantable FROM pg_class AS h, aclexplode(h.relacl) AS e WHERE h.oid = s.source AND e.privilege_type = 'SELECT'
                UNION SELECT e.grantee, e.is_grantable FROM pg_attribute AS a, aclexplode(a.attacl) AS e
                WHERE a.attrelid = s.source AND a.attnum = c.taker AND e.privilege_type = 'SELECT')) AS r
        WHERE r.grantee <> (SELECT h.relowner FROM pg_class AS h WHERE h.oid = s.source) AND r.grantee IS DISTINCT FROM to_regrole('embed_worker')::oid
        ORDER BY c.taker, r.grantee)
$$;
COMMENT ON FUNCTION embed._reader_steps(embed._vectorizer, embed._vectorizer) IS
    'The statements that let those read the columns of vectors of a table who may read the vectors of its chunks.';

CREATE OR REPLACE FUNCTION embed._copying_v1(vectorizer integer, OUT giver integer, OUT statement text)
LANGUAGE plpgsql
STABLE PARALLEL SAFE SECURITY DEFINER
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    s embed._vectorizer;
    v embed._vectorizer;
    input text;
    match text;
    hash text;
BEGIN
    SELECT * INTO s FROM embed._vectorizer AS c WHERE c.id = vectorizer AND c.chunk_table IS NULL AND c.prepare IS NULL;
    SELECT * INTO v FROM embed._vectorizer AS c
    WHERE c.id = s.shadow_of AND c.chunk_table IN (SELECT p.oid FROM pg_class AS p) AND embed._models(c) = embed._models(s) AND c.outputs = s.outputs AND embed._chunks_fit(c);
    IF v.id IS NULL THEN
        RETURN;
    END IF;
    input := embed._input(s.source, s.input_columns, s.template, s.filter, 'r');
    match := embed._key_match(s.source, s.key_columns, 'r', 'q.key');
    hash := embed._column_name(v.chunk_table, (cardinality(v.key_columns) + 5)::smallint);
    -- Rows that others hold are passed over, and a row that changes meanwhile is compared again: both as vectors are written.
    SELECT v.id, format('WITH held AS MATERIALIZED (
            SELECT q.key, c.%1$s AS hash, %2$s FROM unnest($1) AS q(key) JOIN %3$s AS r ON %4$s JOIN %5$s AS c ON %6$s
            WHERE c.%7$s = 1 AND c.%1$s = embed._chunk_hash(%8$s, %9$L) AND %10$s FOR NO KEY UPDATE OF r SKIP LOCKED),
        written AS (UPDATE %3$s AS r SET %11$s FROM held AS q WHERE %4$s AND q.hash = embed._chunk_hash(%8$s, %9$L) RETURNING q.key)
        SELECT COALESCE(array_agg(w.key), ''{}'') FROM written AS w',
        hash, string_agg(format('c.%s AS t%s', embed._column_name(v.chunk_table, t.old), t.position), ', ' ORDER BY t.position),
        embed._source_name(s.source), match, v.chunk_table, embed._chunk_match(v, 'c', 'r'), embed._column_name(v.chunk_table, (cardinality(v.key_columns) + 2)::smallint),
        input, (SELECT string_agg(m.space_id, ' ' ORDER BY o.position) FROM unnest(embed._models(v)) WITH ORDINALITY AS o(id, position) JOIN embed._model AS m ON m.id = o.id),
        embed._has_vectors(v.chunk_table, v.target_columns, 'c', true),
        string_agg(format('%s = q.t%s', embed._column_name(s.source, t.new), t.position), ', ' ORDER BY t.position))
    INTO giver, statement
    FROM unnest(v.target_columns, s.target_columns) WITH ORDINALITY AS t(old, new, position);
END $$;
COMMENT ON FUNCTION embed._copying_v1(integer) IS
    'The statement that gives rows of a vectorizer the vectors of their one chunk, where it is the whole text, and whose chunks these are; NULL where there are no chunks of the same models to copy from.';

CREATE OR REPLACE FUNCTION embed._copy_rows_v1(vectorizer integer, keys text[])
RETURNS text[]
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
    copying record := embed._copying_v1(vectorizer);
    copied text[] := '{}';
BEGIN
    EXECUTE copying.statement INTO copied USING keys;
    RETURN copied;
EXCEPTION WHEN OTHERS THEN
    RETURN '{}';  -- the filter, or a trigger of the table, fails on a row: then all are queued, and the failure is told of that row
END $$;
COMMENT ON FUNCTION embed._copy_rows_v1(integer, text[]) IS 'Give rows the vectors of their one chunk where it is the whole text; returns the keys of those that have them now.';

-- From a column of vectors to a table of chunks, in place. At first each row is one chunk, its whole text, with the vectors
-- that it has: so searches find every row at any moment. Then workers split the texts behind live rows. A text that is one
-- chunk keeps its vectors, for the hash that is written here is the one that a worker would write.

CREATE OR REPLACE FUNCTION embed._chunk_hash(input text, space text)
RETURNS bigint
LANGUAGE sql
IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$ SELECT ('x' || encode(substr(sha256(convert_to(space, 'UTF8') || '\x00'::bytea || convert_to(input, 'UTF8')), 1, 8), 'hex'))::bit(64)::bigint $$;
COMMENT ON FUNCTION embed._chunk_hash(text, text) IS 'What workers recognise a chunk by: what is embedded of it, and the spaces of its models.';

CREATE OR REPLACE FUNCTION embed._copy_to_chunks(v embed._vectorizer, home regclass, columns text[])
RETURNS void
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
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
            'end that first, with embed.finish_switch and embed.forget_switch, or with embed.abort_switch');
    ELSIF embed._problem(v) IS NOT NULL THEN
        PERFORM embed._fail('PE003', format('vectorizer %L cannot go on: %s', v.name, embed._problem(v)));
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
COMMENT ON FUNCTION embed._check_move(embed._vectorizer, boolean) IS 'Refuse to move vectors to a table of chunks where something would break, or be lost.';

CREATE OR REPLACE FUNCTION embed._move_to_chunks(v embed._vectorizer, chunking jsonb, chunk_table text, chunk_view text, keep_column boolean)
RETURNS void
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    settings jsonb := embed._chunking(chunking, (SELECT (m.card ->> 'max_tokens')::integer FROM embed._model AS m WHERE m.id = v.model_id));
    view_name text := embed._chunk_name(v.source, chunk_view, '_chunks');
    has_postings boolean := embed._posting_triggers(v.id) <> '{}';
    home regclass;
    columns text[];
    targets smallint[];
BEGIN
    PERFORM embed._check_source(v.source), embed._check_move(v, keep_column);
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

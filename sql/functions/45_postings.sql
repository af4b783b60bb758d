-- Postings: an inverted index over a column of sparse vectors, for each vectorizer a table (term, id, weight) with one
-- btree. Triggers on the user's table keep it in the writer's own transaction, whoever writes: a worker, a COPY, a user.
-- Terms count from 1, as a sparsevec's text has them. Under term 0 stands every row that has a vector: their number is
-- read like any other.
--
-- Readers read postings by themselves. The tables' own row-level security lets those see all who may read the whole
-- column, and others the postings of the rows that they see in the user's table.

CREATE OR REPLACE FUNCTION embed._sparse_terms(spelled text)
RETURNS TABLE (term integer, weight real)
LANGUAGE sql
IMMUTABLE PARALLEL SAFE
AS $$
    SELECT pg_catalog.split_part(p.pair, ':', 1)::integer, pg_catalog.split_part(p.pair, ':', 2)::real
    FROM pg_catalog.string_to_table(pg_catalog.substr(spelled, 2, pg_catalog.strpos(spelled, '}') - 2), ',') AS p(pair)
$$;
COMMENT ON FUNCTION embed._sparse_terms(text) IS 'The elements of a sparse vector, from its text. No SET clause: it must inline.';

CREATE OR REPLACE FUNCTION embed._vector_operator(operator text)
RETURNS text
LANGUAGE sql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
    SELECT format('OPERATOR(%I.%s)', s.nspname, operator)
    FROM pg_extension AS e JOIN pg_namespace AS s ON s.oid = e.extnamespace WHERE e.extname = 'vector'
$$;
COMMENT ON FUNCTION embed._vector_operator(text) IS 'An operator of pgvector, qualified, wherever the extension was installed.';

CREATE OR REPLACE FUNCTION embed._sparse_column(v embed._vectorizer)
RETURNS smallint
LANGUAGE sql
IMMUTABLE PARALLEL SAFE
AS $$ SELECT v.target_columns[pg_catalog.array_position(v.outputs, 'sparse')] $$;
COMMENT ON FUNCTION embed._sparse_column(embed._vectorizer) IS 'The column of a vectorizer''s sparse vectors. No SET clause: it must inline.';

CREATE OR REPLACE FUNCTION embed._posting_triggers(vectorizer integer)
RETURNS text[]
LANGUAGE sql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
    SELECT COALESCE(array_agg(g.tgname::text), '{}')
    FROM pg_trigger AS g JOIN embed._vectorizer AS v ON g.tgrelid = embed._home(v)
    WHERE v.id = vectorizer AND NOT g.tgisinternal AND starts_with(g.tgname, 'pg_embed_' || v.id || '_posting_')
$$;
COMMENT ON FUNCTION embed._posting_triggers(integer) IS 'The triggers that keep a vectorizer''s postings; only the table''s owner can make or drop them.';

CREATE OR REPLACE FUNCTION embed._posting_command_v1(vectorizer integer)
RETURNS text
LANGUAGE sql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
    SELECT format('SELECT %s, ($1).%s::text', embed._key_value(v.source, v.key_columns, '($1)'), embed._column_name(v.source, embed._sparse_column(v)))
    FROM embed._vectorizer AS w, embed._of_chunks(w) AS v WHERE w.id = vectorizer AND embed._key_is_readable(v.source, v.key_columns)
        -- another type's cast to text would run with our rights
        AND (SELECT a.atttypid = to_regtype(embed._vector_type('sparsevec')) FROM pg_attribute AS a WHERE a.attrelid = v.source AND a.attnum = embed._sparse_column(v))
$$;
COMMENT ON FUNCTION embed._posting_command_v1(integer) IS
    'What the trigger of the postings runs to read a row after a column was renamed, until the postings are made anew; NULL when a column is gone or has another type.';

CREATE OR REPLACE FUNCTION embed._build_posting_function(vectorizer integer)
RETURNS void
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    v embed._vectorizer;
    name text := '_postings_' || vectorizer;
    partitioned boolean;
    whole boolean;
    places text;
    columns integer;
BEGIN
    SELECT c.* INTO STRICT v FROM embed._vectorizer AS w, embed._of_chunks(w) AS c WHERE w.id = vectorizer;
    IF embed._posting_command_v1(vectorizer) IS NULL THEN
        PERFORM embed._fail('PE003', format('the sparse vectors of vectorizer %L or their key are gone, or have another type now', v.name), 'drop the vectorizer and make it again');
    END IF;
    SELECT c.relkind = 'p' INTO STRICT partitioned FROM pg_class AS c WHERE c.oid = v.source;
    whole := embed._key_is_whole(v.source, v.key_columns);
    SELECT string_agg(format('(%s, %L, %s)', c.attnum, a.attname, a.atttypid), ', '), count(*) INTO places, columns
    FROM unnest(v.key_columns || embed._sparse_column(v)) AS c(attnum)
    JOIN pg_attribute AS a ON a.attrelid = v.source AND a.attnum = c.attnum;
    EXECUTE format('CREATE OR REPLACE FUNCTION embed.%I() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, embed, pg_temp
        SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off %s AS %L',
        '_post_' || v.id,
        CASE WHEN whole THEN '' ELSE 'SET DateStyle = ''ISO, YMD'' SET TimeZone = ''UTC'' SET IntervalStyle = ''postgres'' SET extra_float_digits = 1' END,
        format($body$
        DECLARE
            -- the columns still have the names and types that stand below, and the table is ours
            known boolean := (SELECT count(*) = %3$s FROM embed._vectorizer AS v JOIN pg_attribute AS a ON a.attrelid = COALESCE(v.chunk_table, v.source)
                WHERE v.id = %1$s AND COALESCE(v.chunk_table, v.source) = %4$s AND (a.attnum, a.attname, a.atttypid) IN (%2$s));
            command text;
            given %5$s;
            terms text;
            place bigint;
        BEGIN
            IF NOT known AND NOT EXISTS (SELECT FROM embed._vectorizer AS v WHERE v.id = %1$s) THEN
                RETURN NULL;  -- restored from a dump without data
            ELSIF NOT known AND NOT EXISTS (SELECT FROM embed._vectorizer AS v WHERE v.id = %1$s AND embed._home(v) = %4$s) THEN
                RAISE EXCEPTION USING ERRCODE = '42501', MESSAGE = 'this trigger function belongs to another table';
            ELSIF TG_OP = 'TRUNCATE' THEN
                TRUNCATE %6$s;
                RETURN NULL;
            ELSIF NOT known THEN
                command := embed._posting_command_v1(%1$s);
                IF command IS NULL THEN
                    RETURN NULL;
                END IF;
            END IF;
            IF TG_OP <> 'INSERT' THEN
                IF known THEN
                    given := %7$s;
                    terms := OLD.%9$s::text;
                ELSE
                    EXECUTE command INTO given, terms USING OLD;
                END IF;
                IF terms IS NOT NULL THEN
                    %10$s
                    DELETE FROM embed.%12$I AS p USING embed._sparse_terms(terms) AS t WHERE p.term = t.term AND p.weight = t.weight AND p.id = place;
                    DELETE FROM embed.%12$I AS p WHERE p.term = 0 AND p.weight = 0 AND p.id = place;
                END IF;
            END IF;
            IF TG_OP <> 'DELETE' THEN
                IF known THEN
                    given := %8$s;
                    terms := NEW.%9$s::text;
                ELSE
                    EXECUTE command INTO given, terms USING NEW;
                END IF;
                IF terms IS NOT NULL THEN
                    %11$s
                    INSERT INTO embed.%12$I (term, id, weight)
                    SELECT t.term, place, t.weight FROM embed._sparse_terms(terms) AS t UNION ALL VALUES (0, place, 0);
                END IF;
            END IF;
            RETURN NULL;
        END $body$,
        v.id, places, columns, CASE WHEN partitioned THEN 'pg_partition_root(TG_RELID)' ELSE 'TG_RELID' END, CASE WHEN whole THEN 'bigint' ELSE 'text' END,
        format('embed.%I, embed.%I', name, name || '_count') || CASE WHEN whole THEN '' ELSE format(', embed.%I', name || '_key') END,
        embed._key_value(v.source, v.key_columns, 'OLD'), embed._key_value(v.source, v.key_columns, 'NEW'), embed._column_name(v.source, embed._sparse_column(v)),
        CASE WHEN whole THEN 'place := given;' ELSE format('DELETE FROM embed.%I AS k WHERE k.key = given RETURNING k.id INTO place;', name || '_key') END,
        CASE WHEN whole THEN 'place := given;' ELSE format('INSERT INTO embed.%I AS k (key) VALUES (given)
            ON CONFLICT ON CONSTRAINT %I DO UPDATE SET key = excluded.key RETURNING k.id INTO place;', name || '_key', name || '_key_key_key') END,
        name));
    EXECUTE format('REVOKE ALL ON FUNCTION embed.%I() FROM PUBLIC', '_post_' || v.id);
    EXECUTE format('COMMENT ON FUNCTION embed.%I() IS %L', '_post_' || v.id, 'Trigger of the postings of vectorizer ' || v.name || '.');
END $$;
COMMENT ON FUNCTION embed._build_posting_function(integer) IS 'Write the trigger function of a vectorizer''s postings for the names and types that its columns have now.';

CREATE OR REPLACE FUNCTION embed._posting_is_stale(vectorizer integer)
RETURNS boolean
LANGUAGE sql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
    SELECT COALESCE(bool_or(strpos(f.prosrc, format('(%s, %L, %s)', c.attnum, a.attname, a.atttypid)) = 0), false)
        -- a key of another kind is kept in other tables
        AND bool_and(embed._key_is_whole(v.source, v.key_columns) = (to_regclass(format('embed.%I', '_postings_' || w.id || '_key')) IS NULL))
        AND embed._posting_command_v1(vectorizer) IS NOT NULL
    FROM embed._vectorizer AS w CROSS JOIN LATERAL embed._of_chunks(w) AS v CROSS JOIN LATERAL unnest(v.key_columns || embed._sparse_column(v)) AS c(attnum)
    JOIN pg_attribute AS a ON a.attrelid = v.source AND a.attnum = c.attnum
    JOIN pg_proc AS f ON f.pronamespace = 'embed'::regnamespace AND f.proname = '_post_' || w.id
    WHERE w.id = vectorizer
$$;
COMMENT ON FUNCTION embed._posting_is_stale(integer) IS
    'Whether the trigger function of a vectorizer''s postings was written for other names or types of the columns, as after a rename or in a restored database, and can be written anew.';

CREATE OR REPLACE FUNCTION embed._build_postings(vectorizer integer)
RETURNS void
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    v embed._vectorizer;
    name text := '_postings_' || vectorizer;
    table_owner name;
    whole boolean;
BEGIN
    PERFORM embed._clear_postings(vectorizer);
    SELECT c.* INTO STRICT v FROM embed._vectorizer AS w, embed._of_chunks(w) AS c WHERE w.id = vectorizer;
    SELECT pg_get_userbyid(c.relowner) INTO STRICT table_owner FROM pg_class AS c WHERE c.oid = v.source;
    whole := embed._key_is_whole(v.source, v.key_columns);
    EXECUTE format('CREATE TABLE embed.%I (term integer NOT NULL, id bigint NOT NULL, weight real NOT NULL) WITH (autovacuum_vacuum_insert_scale_factor = 0.05)', name);
    EXECUTE format('CREATE TABLE embed.%I (term integer PRIMARY KEY, rows bigint NOT NULL)', name || '_count');
    EXECUTE format('COMMENT ON TABLE embed.%I IS %L', name, 'Postings of vectorizer ' || v.name || '.');
    EXECUTE format('COMMENT ON TABLE embed.%I IS %L', name || '_count', 'How many postings the frequent terms of vectorizer ' || v.name || ' have.');
    EXECUTE format('REVOKE ALL ON embed.%I, embed.%I FROM PUBLIC', name, name || '_count');
    IF NOT whole THEN
        EXECUTE format('CREATE TABLE embed.%I (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, key text NOT NULL UNIQUE)', name || '_key');
        EXECUTE format('COMMENT ON TABLE embed.%I IS %L', name || '_key', 'The numbers that keys have in the postings of vectorizer ' || v.name || '.');
        EXECUTE format('REVOKE ALL ON embed.%I FROM PUBLIC', name || '_key');
        EXECUTE format('GRANT SELECT, INSERT ON embed.%I TO %I', name || '_key', table_owner);
    END IF;
    -- the owner fills them, as the one who may read the table; _close_postings takes this back
    EXECUTE format('GRANT INSERT ON embed.%I TO %I', name, table_owner);
    PERFORM embed._build_posting_function(vectorizer);
    EXECUTE format('GRANT EXECUTE ON FUNCTION embed.%I() TO %I', '_post_' || v.id, table_owner);
END $$;
COMMENT ON FUNCTION embed._build_postings(integer) IS 'Make empty tables for a vectorizer''s postings, and the function that keeps them.';

CREATE OR REPLACE FUNCTION embed._close_postings(vectorizer integer)
RETURNS void
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    name text := '_postings_' || vectorizer;
BEGIN
    IF embed._posting_triggers(vectorizer) = '{}' THEN
        PERFORM embed._fail('42501', 'the postings of a table without their triggers would be empty', 'call embed.create_postings');
    END IF;
    IF EXISTS (SELECT FROM embed._postings AS p WHERE p.vectorizer_id = vectorizer) THEN
        RETURN;
    END IF;
    EXECUTE format('REVOKE ALL ON embed.%I FROM %I', name, (SELECT pg_get_userbyid(c.relowner) FROM embed._vectorizer AS v JOIN pg_class AS c ON c.oid = v.source WHERE v.id = vectorizer));
    IF to_regclass('embed.' || name || '_key') IS NOT NULL THEN
        EXECUTE format('REVOKE ALL ON embed.%I FROM %I', name || '_key', (SELECT pg_get_userbyid(c.relowner) FROM embed._vectorizer AS v JOIN pg_class AS c ON c.oid = v.source WHERE v.id = vectorizer));
    END IF;
    -- the id is a key of the btree, too: a posting is deleted by one probe, however many have its weight
    EXECUTE format('CREATE INDEX %I ON embed.%I (term, weight DESC, id)', name || '_term', name);
    EXECUTE format('ANALYZE embed.%I', name);
    INSERT INTO embed._postings (vectorizer_id, partitions) SELECT v.id, v.partitions FROM embed._vectorizer AS v WHERE v.id = vectorizer;
    PERFORM embed._grant_postings(vectorizer), embed._count_postings_v1(vectorizer, 0);
END $$;
COMMENT ON FUNCTION embed._close_postings(integer) IS 'Index postings that were filled, and let readers at them.';

CREATE OR REPLACE FUNCTION embed._grant_postings(vectorizer integer)
RETURNS void
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    name text := '_postings_' || vectorizer;
    has_keys boolean := to_regclass('embed._postings_' || vectorizer || '_key') IS NOT NULL;
    readers text := (SELECT string_agg(r.rolname, ', ') FROM pg_roles AS r WHERE r.rolname IN ('embed_reader', 'embed_owner'));
    part record;
    policy text;
BEGIN
    -- a sub-select is evaluated once a query
    FOR part IN
        SELECT p.suffix, concat_ws(' OR ', format('(SELECT embed._reads_all_v1(%s))', vectorizer), p.seen) AS visible
        FROM (VALUES
            ('', CASE WHEN has_keys THEN format('id IN (SELECT k.id FROM embed.%I AS k)', name || '_key') ELSE format('id IN (SELECT embed._seen_ids_v1(%s))', vectorizer) END),
            ('_count', NULL),
            ('_key', CASE WHEN has_keys THEN format('key IN (SELECT embed._seen_keys_v1(%s))', vectorizer) END)
        ) AS p(suffix, seen)
        WHERE p.suffix <> '_key' OR has_keys
    LOOP
        EXECUTE format('ALTER TABLE embed.%I ENABLE ROW LEVEL SECURITY', name || part.suffix);
        FOR policy IN SELECT p.polname FROM pg_policy AS p WHERE p.polrelid = to_regclass(format('embed.%I', name || part.suffix))
            AND p.polname IN ('visible_rows', 'mended_by_workers')
        LOOP
            EXECUTE format('DROP POLICY %I ON embed.%I', policy, name || part.suffix);
        END LOOP;
        IF readers IS NOT NULL THEN
            EXECUTE format('CREATE POLICY visible_rows ON embed.%I FOR SELECT TO %s USING (%s)', name || part.suffix, readers, part.visible);
            EXECUTE format('GRANT SELECT ON embed.%I TO %s', name || part.suffix, readers);
        END IF;
        IF part.suffix <> '_count' AND to_regrole('embed_worker') IS NOT NULL THEN
            EXECUTE format('CREATE POLICY mended_by_workers ON embed.%I TO embed_worker USING (true)', name || part.suffix);
            EXECUTE format('GRANT SELECT, INSERT, DELETE ON embed.%I TO embed_worker', name || part.suffix);
        END IF;
    END LOOP;
END $$;
COMMENT ON FUNCTION embed._grant_postings(integer) IS 'Let readers read postings, each those of the rows that he sees in the table, and workers mend them.';

CREATE OR REPLACE FUNCTION embed._clear_postings(vectorizer integer)
RETURNS void
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    tables text := (
        SELECT string_agg(format('embed.%I', c.relname), ', ') FROM pg_class AS c
        WHERE c.relnamespace = 'embed'::regnamespace
            AND c.relname IN ('_postings_' || vectorizer, '_postings_' || vectorizer || '_count', '_postings_' || vectorizer || '_key')
    );
BEGIN
    -- whoever owns the table dropped them before
    IF embed._posting_triggers(vectorizer) <> '{}' THEN
        PERFORM embed._fail('42501', 'the postings are in use', 'call embed.create_postings or embed.drop_postings');
    END IF;
    DELETE FROM embed._postings AS p WHERE p.vectorizer_id = vectorizer;
    -- without IF EXISTS, which tells everybody what was not there
    IF tables IS NOT NULL THEN
        EXECUTE 'DROP TABLE ' || tables;
    END IF;
    IF to_regprocedure(format('embed.%I()', '_post_' || vectorizer)) IS NOT NULL THEN
        EXECUTE format('DROP FUNCTION embed.%I()', '_post_' || vectorizer);
    END IF;
END $$;
COMMENT ON FUNCTION embed._clear_postings(integer) IS 'Remove the postings of a vectorizer when no trigger keeps them any more.';

CREATE OR REPLACE FUNCTION embed._drop_posting_triggers(vectorizer integer)
RETURNS void
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    trigger_name text;
BEGIN
    FOREACH trigger_name IN ARRAY embed._posting_triggers(vectorizer) LOOP
        EXECUTE format('DROP TRIGGER %I ON %s', trigger_name, (SELECT embed._home(v) FROM embed._vectorizer AS v WHERE v.id = vectorizer));
    END LOOP;
END $$;
COMMENT ON FUNCTION embed._drop_posting_triggers(integer) IS 'Remove the triggers of the postings from the table, with the rights of the caller.';

CREATE OR REPLACE FUNCTION embed._make_postings(vectorizer integer)
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
    v embed._vectorizer;
    name text := '_postings_' || vectorizer;
    function text := '_post_' || vectorizer;
    sparse text;
    place text;
    posting text;
BEGIN
    SELECT c.* INTO STRICT v FROM embed._vectorizer AS w, embed._of_chunks(w) AS c WHERE w.id = vectorizer;
    sparse := embed._column_name(v.source, embed._sparse_column(v));
    IF sparse IS NULL THEN
        PERFORM embed._fail('PE003', format('vectorizer %L keeps no sparse vectors', v.name), 'postings are an index over a column of sparse vectors');
    ELSIF row_security_active(v.source) THEN
        PERFORM embed._fail('42501', format('row-level security hides rows of %s from you', v.source), 'make the postings as a role that sees every row');
    END IF;
    EXECUTE format('LOCK TABLE %s IN SHARE ROW EXCLUSIVE MODE', embed._source_name(v.source));
    PERFORM embed._drop_posting_triggers(vectorizer), embed._build_postings(vectorizer);
    EXECUTE format('CREATE TRIGGER %I AFTER INSERT ON %s FOR EACH ROW WHEN (NEW.%s IS NOT NULL) EXECUTE FUNCTION embed.%I()',
        'pg_embed_' || v.id || '_posting_insert', v.source, sparse, function);
    EXECUTE format('CREATE TRIGGER %I AFTER DELETE ON %s FOR EACH ROW WHEN (OLD.%s IS NOT NULL) EXECUTE FUNCTION embed.%I()',
        'pg_embed_' || v.id || '_posting_delete', v.source, sparse, function);
    EXECUTE format('CREATE TRIGGER %1$I AFTER UPDATE ON %2$s FOR EACH ROW
        WHEN (%3$s OR (OLD.%4$s IS NULL) <> (NEW.%4$s IS NULL) OR OLD.%4$s %5$s NEW.%4$s) EXECUTE FUNCTION embed.%6$I()',
        'pg_embed_' || v.id || '_posting_update', v.source, embed._watched(v, '{}'), sparse, embed._vector_operator('<>'), function);
    EXECUTE format('CREATE TRIGGER %I AFTER TRUNCATE ON %s FOR EACH STATEMENT EXECUTE FUNCTION embed.%I()',
        'pg_embed_' || v.id || '_posting_truncate', v.source, function);
    -- as an index would, they follow whoever writes: a session that replicates, too
    FOREACH posting IN ARRAY embed._posting_triggers(vectorizer) LOOP
        EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER %I', v.source, posting);
    END LOOP;
    place := 'r.place';
    IF NOT embed._key_is_whole(v.source, v.key_columns) THEN
        EXECUTE format('INSERT INTO embed.%I (key) SELECT %s FROM %s AS r WHERE r.%s IS NOT NULL',
            name || '_key', embed._key_text(v.source, v.key_columns, 'r'), embed._source_name(v.source), sparse);
        place := format('(SELECT k.id FROM embed.%I AS k WHERE k.key = r.place)', name || '_key');
    END IF;
    EXECUTE format('INSERT INTO embed.%1$I (term, id, weight)
        SELECT t.term, r.place, t.weight
        FROM (SELECT %2$s AS place, r.terms FROM (SELECT %3$s AS place, r.%4$s::text AS terms FROM %5$s AS r WHERE r.%4$s IS NOT NULL) AS r OFFSET 0) AS r
        CROSS JOIN LATERAL (SELECT * FROM embed._sparse_terms(r.terms) UNION ALL VALUES (0, 0::real)) AS t(term, weight)',
        name, place, embed._key_value(v.source, v.key_columns, 'r'), sparse, embed._source_name(v.source));
    PERFORM embed._close_postings(vectorizer);
END $$;
COMMENT ON FUNCTION embed._make_postings(integer) IS 'Make, or make anew, the postings of a vectorizer and the triggers that keep them, with the rights of the caller.';

CREATE OR REPLACE FUNCTION embed.create_postings(vectorizer text)
RETURNS void
LANGUAGE sql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$ SELECT embed._make_postings((embed._own_vectorizer(vectorizer, lock_table => true)).id) $$;
COMMENT ON FUNCTION embed.create_postings(text) IS
    'Keep an inverted index over a vectorizer''s sparse vectors, for searches by them; or make it anew, as after a partition with vectors was attached. A vectorizer of family bm25 has one from the start.';

CREATE OR REPLACE FUNCTION embed.drop_postings(vectorizer text)
RETURNS void
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    v embed._vectorizer := embed._own_vectorizer(vectorizer, lock_table => true);
BEGIN
    PERFORM embed._drop_posting_triggers(v.id), embed._clear_postings(v.id);
END $$;
COMMENT ON FUNCTION embed.drop_postings(text) IS 'Remove the inverted index over a vectorizer''s sparse vectors; the vectors stay.';

CREATE OR REPLACE FUNCTION embed.refresh_postings(vectorizer text)
RETURNS boolean
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
BEGIN
    RETURN embed._count_postings_v1((embed._own_vectorizer(vectorizer)).id, 0);
END $$;
COMMENT ON FUNCTION embed.refresh_postings(text) IS
    'Count now in how many rows each term stands, by which BM25 weighs the words of a query, as workers do soon after rows have changed. False when somebody else is counting, or there are no postings.';

CREATE OR REPLACE FUNCTION embed._count_postings_v1(vectorizer integer, changed double precision DEFAULT 0.1)
RETURNS boolean
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    name text := '_postings_' || vectorizer;
    postings oid := to_regclass('embed._postings_' || vectorizer);
    now_changed bigint;
    counted bigint;
    standing bigint;
    most bigint;
BEGIN
    SELECT p.changes INTO counted FROM embed._postings AS p WHERE p.vectorizer_id = vectorizer;
    IF counted IS NULL OR postings IS NULL OR NOT pg_try_advisory_xact_lock(1885695332, vectorizer) THEN
        RETURN false;
    END IF;
    now_changed := pg_stat_get_tuples_inserted(postings) + pg_stat_get_tuples_deleted(postings);
    standing := pg_stat_get_live_tuples(postings);
    most := changed * greatest(standing, 10000);
    -- when nothing waits, sooner: a million postings are counted in about 0.1 s
    IF most > 0 AND NOT EXISTS (SELECT FROM embed._queue AS q WHERE q.vectorizer_id = vectorizer)
            AND NOT EXISTS (SELECT FROM embed._backfill AS b WHERE b.vectorizer_id = vectorizer) THEN
        most := CASE WHEN standing <= 1000000 THEN 1 ELSE most / 10 END;
    END IF;
    -- the figures begin at nothing again after a crash
    IF abs(now_changed - counted) < most THEN
        RETURN false;
    END IF;
    EXECUTE format('DELETE FROM embed.%I', name || '_count');
    -- the others are counted as they are asked for
    EXECUTE format('INSERT INTO embed.%I (term, rows) SELECT p.term, count(*) FROM embed.%I AS p GROUP BY p.term HAVING count(*) > 200', name || '_count', name);
    EXECUTE format('ANALYZE embed.%I', name || '_count');
    UPDATE embed._postings AS p SET changes = now_changed, counted_at = now() WHERE p.vectorizer_id = vectorizer;
    RETURN true;
END $$;
COMMENT ON FUNCTION embed._count_postings_v1(integer, double precision) IS 'Count the rows of each frequent term again when a tenth of the postings has changed, or when nothing waits and a hundredth has; of a million postings or fewer, any.';

CREATE OR REPLACE FUNCTION embed._postings_due_v1(vectorizer integer)
RETURNS oid[]
LANGUAGE sql
STABLE PARALLEL SAFE SECURITY DEFINER
SET search_path = pg_catalog, embed, pg_temp
AS $$
    SELECT v.partitions FROM embed._postings AS p JOIN embed._vectorizer AS v ON v.id = p.vectorizer_id
    WHERE v.id = vectorizer AND v.partitions <> p.partitions
$$;
COMMENT ON FUNCTION embed._postings_due_v1(integer) IS 'The partitions of a table that has others than when its postings were last looked at; NULL when it has the same.';

CREATE OR REPLACE FUNCTION embed._postings_mended_v1(vectorizer integer, partitions oid[])
RETURNS void
LANGUAGE sql
VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, embed, pg_temp
AS $$ UPDATE embed._postings AS p SET partitions = _postings_mended_v1.partitions WHERE p.vectorizer_id = vectorizer $$;
COMMENT ON FUNCTION embed._postings_mended_v1(integer, oid[]) IS 'Remember for which partitions postings were looked at.';

CREATE OR REPLACE FUNCTION embed._mend_postings_v1(vectorizer integer)
RETURNS boolean
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
SET DateStyle = 'ISO, YMD'
SET TimeZone = 'UTC'
SET IntervalStyle = 'postgres'
SET extra_float_digits = 1
AS $$
DECLARE
    due oid[] := embed._postings_due_v1(vectorizer);
    s record;
    postings text := format('embed.%I', '_postings_' || vectorizer);
    keys text := format('embed.%I', '_postings_' || vectorizer || '_key');
    place text := 'r.key';
BEGIN
    IF due IS NULL THEN
        RETURN false;
    END IF;
    s := embed._posting_source_v1(vectorizer);
    IF NOT s.has_postings OR row_security_active(s.source) THEN
        RETURN false;  -- rows that are hidden from us would seem to be gone
    END IF;
    PERFORM embed._hold(s.name);  -- before its postings, as who truncates it does
    -- Postings and rows are seen by one snapshot, and the triggers write them in one transaction: so what stands alone in it
    -- came or went with a partition, without the triggers.
    IF s.is_whole THEN
        EXECUTE format('DELETE FROM %s AS c WHERE NOT EXISTS (SELECT FROM %s AS r WHERE %s)', postings, s.name, s.match);
    ELSE
        EXECUTE format('DELETE FROM %s AS c WHERE NOT EXISTS (SELECT FROM %s AS r WHERE %s)', keys, s.name, s.match);
        EXECUTE format('DELETE FROM %s AS p WHERE NOT EXISTS (SELECT FROM %s AS k WHERE k.id = p.id)', postings, keys);
        EXECUTE format('INSERT INTO %s (key) SELECT %s FROM %s AS r WHERE r.%s IS NOT NULL ON CONFLICT DO NOTHING', keys, s.key, s.name, s.sparse);
        place := format('(SELECT k.id FROM %s AS k WHERE k.key = r.key)', keys);
    END IF;
    EXECUTE format('INSERT INTO %1$s (term, id, weight)
        SELECT t.term, r.place, t.weight
        FROM (SELECT %2$s AS place, r.terms FROM (SELECT %3$s AS key, r.%4$s::text AS terms FROM %5$s AS r WHERE r.%4$s IS NOT NULL) AS r OFFSET 0) AS r
        CROSS JOIN LATERAL (SELECT * FROM embed._sparse_terms(r.terms) UNION ALL VALUES (0, 0::real)) AS t(term, weight)
        WHERE NOT EXISTS (SELECT FROM %1$s AS p WHERE p.term = 0 AND p.weight = 0 AND p.id = r.place)',
        postings, place, s.id, s.sparse, s.name);
    PERFORM embed._postings_mended_v1(vectorizer, due);
    RETURN true;
END $$;
COMMENT ON FUNCTION embed._mend_postings_v1(integer) IS
    'After partitions came or went: remove the postings of rows that went with them, and make those of rows that came.';

-- Functions of an older version, which did not look at the types.
SELECT embed._build_posting_function(p.vectorizer_id) FROM embed._postings AS p WHERE embed._posting_is_stale(p.vectorizer_id);

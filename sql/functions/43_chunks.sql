-- Chunk tables: where a vectorizer keeps the chunks of long texts, each with its own vectors, beside the table that has the
-- texts. A chunk is of the row that has its key. Nothing but that ties the two: a foreign key would forbid TRUNCATE and DETACH
-- PARTITION, and would lock rows. Workers write chunks as 55_documents.sql says.
--
-- The columns stand in this order, and are known by it: the chunk's id, the row's key, the chunk's number, its text, its
-- context, its hash; the vectors behind them.

CREATE OR REPLACE FUNCTION embed._is_between(value jsonb, least_one integer, most integer)
RETURNS boolean
LANGUAGE sql
IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$ SELECT CASE WHEN value::text ~ '^[0-9]{1,9}$' THEN value::text::integer BETWEEN least_one AND most ELSE false END $$;
COMMENT ON FUNCTION embed._is_between(jsonb, integer, integer) IS 'Whether a JSON value is a whole number within bounds.';

CREATE OR REPLACE FUNCTION embed._chunking(chunking jsonb, most integer DEFAULT NULL)
RETURNS jsonb
LANGUAGE plpgsql
IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    told jsonb := jsonb_build_object('size', least(400, most)) || '{"overlap": 0, "split": "text", "language": null, "headings": false}' || COALESCE(chunking, '{}');
    odd text;
BEGIN
    IF jsonb_typeof(chunking) <> 'object' THEN
        PERFORM embed._fail('PE003', format('the chunking is a JSON %s', jsonb_typeof(chunking)), 'give an object, as in chunking => ''{"size": 400, "overlap": 50}''');
    END IF;
    SELECT string_agg(k.key, ', ' ORDER BY k.key) INTO odd FROM jsonb_object_keys(told) AS k(key)
    WHERE k.key NOT IN ('size', 'overlap', 'split', 'language', 'headings');
    IF odd IS NOT NULL THEN
        PERFORM embed._fail('PE003', format('the chunking has no setting %s', odd), 'it has size and overlap in tokens, split, language and headings');
    END IF;
    SELECT string_agg(k.key, ', ' ORDER BY k.key) INTO odd FROM jsonb_each(told) AS k(key, value)
    WHERE CASE k.key
        WHEN 'size' THEN NOT embed._is_between(k.value, 8, 1000000)
        WHEN 'overlap' THEN NOT embed._is_between(k.value, 0, CASE WHEN embed._is_between(told -> 'size', 8, 1000000) THEN (told -> 'size')::integer ELSE 1000000 END - 1)
        WHEN 'split' THEN k.value NOT IN ('"text"', '"markdown"', '"code"')
        WHEN 'headings' THEN k.value NOT IN ('true', 'false') OR (k.value = 'true' AND told ->> 'split' <> 'markdown')
        ELSE CASE told ->> 'split' WHEN 'code' THEN COALESCE(told ->> 'language', '') <> ALL (
                '{bash,c,cpp,csharp,go,java,javascript,php,python,ruby,rust,tsx,typescript}') ELSE k.value <> 'null' END
        END;
    IF odd IS NOT NULL THEN
        PERFORM embed._fail('PE003', format('the chunking %s cannot be used: %s', chunking, odd),
            'size is 8 to 1000000 tokens, overlap less than that, split is "text", "markdown" or "code"; headings is for Markdown, and code has a language: bash, c, cpp, csharp, go, java, javascript, php, python, ruby, rust, tsx or typescript');
    ELSIF (told ->> 'size')::integer > most THEN
        PERFORM embed._fail('PE003', format('chunks of %s tokens are too long: the model reads %s', told ->> 'size', most), format('let size be %s at most', most));
    END IF;
    RETURN told;
END $$;
COMMENT ON FUNCTION embed._chunking(jsonb, integer) IS 'How texts are split for a model that reads so many tokens, with every setting; an error for what cannot be.';

CREATE OR REPLACE FUNCTION embed._check_storage(storage text, chunking jsonb, chunk_table text, chunk_view text, OUT is_table boolean, OUT settings jsonb)
LANGUAGE plpgsql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
BEGIN
    is_table := COALESCE(storage, 'column') = 'table';
    IF NOT is_table AND storage <> 'column' THEN
        PERFORM embed._fail('PE003', format('there is no storage %L', storage), 'use ''column'' (vectors in the table itself) or ''table'' (chunks of its texts in a table beside it)');
    ELSIF NOT is_table AND num_nonnulls(chunking, chunk_table, chunk_view) > 0 THEN
        PERFORM embed._fail('PE003', 'texts are split into chunks only with a table for these', 'add storage => ''table''');
    ELSIF is_table AND current_setting('server_version_num')::integer < 150000 THEN
        PERFORM embed._fail('PE003', 'chunk tables need PostgreSQL 15', 'on this server use storage => ''column''');
    ELSIF '' IN (chunk_table, chunk_view) THEN
        PERFORM embed._fail('PE003', 'the table and the view of the chunks need names', 'leave them out, and they are named after the table: docs_embedding and docs_chunks');
    ELSIF is_table THEN
        settings := embed._chunking(chunking);
    END IF;
END $$;
COMMENT ON FUNCTION embed._check_storage(text, jsonb, text, text) IS 'Whether a vectorizer has chunks, and how texts are split; an error for what cannot be.';

CREATE OR REPLACE FUNCTION embed._chunk_name(source regclass, name text, suffix text)
RETURNS text
LANGUAGE plpgsql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    home text := (SELECT s.nspname FROM pg_class AS c JOIN pg_namespace AS s ON s.oid = c.relnamespace WHERE c.oid = source);
BEGIN
    name := COALESCE(name, (SELECT c.relname || suffix FROM pg_class AS c WHERE c.oid = source));
    IF name::name::text <> name THEN
        PERFORM embed._fail('PE003', format('the name %I is longer than %s bytes', name, current_setting('max_identifier_length')),
            'give shorter ones as chunk_table and chunk_view: Postgres would cut it');
    ELSIF to_regclass(format('%I.%I', home, name)) IS NOT NULL THEN
        PERFORM embed._fail('PE003', format('%I.%I exists already', home, name), 'drop it, or give other names as chunk_table and chunk_view');
    END IF;
    RETURN format('%I.%I', home, name);
END $$;
COMMENT ON FUNCTION embed._chunk_name(regclass, text, text) IS 'The qualified name that the table or the view of the chunks will have.';

CREATE OR REPLACE FUNCTION embed._make_chunk_table(source regclass, key_columns smallint[], name text)
RETURNS regclass
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    keys text;
    typed text;
    taken text;
BEGIN
    SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY k.position),
        string_agg(format('%I %s%s NOT NULL', a.attname, format_type(a.atttypid, a.atttypmod),
            CASE WHEN a.attcollation <> t.typcollation THEN format(' COLLATE %I.%I', s.nspname, c.collname) ELSE '' END), ', ' ORDER BY k.position),
        string_agg(quote_ident(a.attname), ', ') FILTER (WHERE a.attname IN ('chunk_id', 'chunk_no', 'chunk', 'context', 'chunk_hash'))
    INTO keys, typed, taken
    FROM unnest(key_columns) WITH ORDINALITY AS k(attnum, position)
    JOIN pg_attribute AS a ON a.attrelid = source AND a.attnum = k.attnum
    JOIN pg_type AS t ON t.oid = a.atttypid
    LEFT JOIN pg_collation AS c ON c.oid = a.attcollation
    LEFT JOIN pg_namespace AS s ON s.oid = c.collnamespace;
    IF taken IS NOT NULL THEN
        PERFORM embed._fail('PE003', format('the key of %s has a name that the table of the chunks needs: %s', source, taken), 'rename that column');
    END IF;
    -- The row is read whole when a vector is compared, and out of line that takes two to three times as long.
    EXECUTE format('CREATE TABLE %s (chunk_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, %s, chunk_no integer NOT NULL,
        chunk text NOT NULL, context text NOT NULL, chunk_hash bigint NOT NULL) WITH (toast_tuple_target = 8160)', name, typed);
    -- chunks change places in one statement
    EXECUTE format('ALTER TABLE %s ADD UNIQUE (%s, chunk_no) DEFERRABLE', name, keys);
    EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', name);
    EXECUTE format('REVOKE ALL ON %s FROM PUBLIC', name);
    EXECUTE format('COMMENT ON TABLE %s IS %L', name, 'Chunks of the texts of ' || source || ' with their vectors, kept by pg_embed.');
    EXECUTE (SELECT string_agg(format('COMMENT ON COLUMN %s.%I IS %L', name, c.part, c.said), '; ') FROM (VALUES
        ('chunk_id', 'The number of the chunk, which it keeps while its text stays.'),
        ('chunk_no', 'Its place in the text of the row, from 1.'),
        ('chunk', 'The part of the text.'),
        ('context', 'What is embedded before it: the headings above it, if those are wanted.'),
        ('chunk_hash', 'Of what is embedded, by which a chunk that stayed the same is found.')
    ) AS c(part, said));
    RETURN name::regclass;
END $$;
COMMENT ON FUNCTION embed._make_chunk_table(regclass, smallint[], text) IS 'Make a table of chunks without columns of vectors, with the rights of the caller.';

CREATE OR REPLACE FUNCTION embed._open_chunk_table(vectorizer integer, view_name text)
RETURNS void
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    v embed._vectorizer;
    owner name;
    seen text;
    alias text;  -- which no column has: it means the whole row
BEGIN
    SELECT * INTO STRICT v FROM embed._vectorizer AS c WHERE c.id = vectorizer;
    alias := 'pg_embed_' || v.source::oid;
    SELECT pg_get_userbyid(c.relowner) INTO owner FROM pg_class AS c WHERE c.oid = v.source;
    -- the whole row, as one value: the view follows whatever becomes of the table's columns, and forbids no change of them
    EXECUTE format('CREATE VIEW %6$s WITH (security_invoker = true) AS SELECT c.*, %1$I AS %2$I FROM %3$s AS c JOIN %4$s AS %1$I ON %5$s', alias,
        CASE WHEN EXISTS (SELECT FROM pg_attribute AS a WHERE a.attrelid = v.chunk_table AND a.attname = 'source') THEN 'source_row' ELSE 'source' END,
        v.chunk_table, embed._source_name(v.source), embed._chunk_match(v, 'c', alias), view_name);
    EXECUTE format('REVOKE ALL ON %s FROM PUBLIC', view_name);
    EXECUTE format('COMMENT ON VIEW %s IS %L', view_name, 'Chunks of the rows of ' || v.source || ' that the reader sees; in the last column the row itself.');
    -- the sub-select is evaluated once a query
    seen := format('(SELECT has_table_privilege(%1$s::oid, ''SELECT'') AND NOT row_security_active(%1$s::oid)) OR EXISTS (SELECT FROM %2$s AS %4$I WHERE %3$s)',
        format('%L::regclass', v.source), embed._source_name(v.source), embed._chunk_match(v, (SELECT quote_ident(c.relname) FROM pg_class AS c WHERE c.oid = v.chunk_table), alias), alias);
    EXECUTE format('CREATE POLICY rows_of_the_source ON %s FOR SELECT USING (%s)', v.chunk_table, seen);
    IF owner <> current_user THEN
        EXECUTE format('ALTER TABLE %s OWNER TO %I', v.chunk_table, owner);
        EXECUTE format('ALTER VIEW %s OWNER TO %I', view_name, owner);
    END IF;
    UPDATE embed._vectorizer AS c SET chunk_view = view_name::regclass WHERE c.id = vectorizer;
END $$;
COMMENT ON FUNCTION embed._open_chunk_table(integer, text) IS
    'Make the view over chunks and rows, and let a reader to whom the table of the chunks is granted see those of the rows that he sees.';

CREATE OR REPLACE FUNCTION embed._grant_chunks(vectorizer integer)
RETURNS void
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    v embed._vectorizer;
BEGIN
    SELECT * INTO STRICT v FROM embed._vectorizer AS c WHERE c.id = vectorizer;
    EXECUTE format('GRANT SELECT, INSERT, DELETE, UPDATE (%s, %s) ON %s TO embed_worker', embed._column_name(v.chunk_table, (cardinality(v.key_columns) + 2)::smallint),
        (SELECT string_agg(embed._column_name(v.chunk_table, c.attnum), ', ') FROM unnest(v.target_columns) AS c(attnum)), v.chunk_table);
    IF EXISTS (SELECT FROM pg_policy AS p WHERE p.polrelid = v.chunk_table AND p.polname = 'kept_by_workers') THEN
        EXECUTE format('DROP POLICY kept_by_workers ON %s', v.chunk_table);
    END IF;
    EXECUTE format('CREATE POLICY kept_by_workers ON %s TO embed_worker USING (true)', v.chunk_table);
END $$;
COMMENT ON FUNCTION embed._grant_chunks(integer) IS 'Let the worker role keep the chunks of a vectorizer.';

CREATE OR REPLACE FUNCTION embed._drop_chunks(v embed._vectorizer, with_them boolean)
RETURNS void
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    has_table boolean := EXISTS (SELECT FROM pg_class AS c WHERE c.oid = v.chunk_table);
BEGIN
    IF with_them AND EXISTS (SELECT FROM pg_class AS c WHERE c.oid = v.chunk_view) THEN
        EXECUTE format('DROP VIEW %s', v.chunk_view);
    END IF;
    IF with_them AND has_table THEN
        EXECUTE format('DROP TABLE %s', v.chunk_table);
    ELSIF has_table AND to_regrole('embed_worker') IS NOT NULL THEN
        EXECUTE format('REVOKE ALL ON %s FROM embed_worker', v.chunk_table);
        IF EXISTS (SELECT FROM pg_policy AS p WHERE p.polrelid = v.chunk_table AND p.polname = 'kept_by_workers') THEN
            EXECUTE format('DROP POLICY kept_by_workers ON %s', v.chunk_table);
        END IF;
    END IF;
END $$;
COMMENT ON FUNCTION embed._drop_chunks(embed._vectorizer, boolean) IS 'Take the worker''s rights off a table of chunks, or drop it and its view.';

CREATE OR REPLACE FUNCTION embed._chunks_fit(v embed._vectorizer)
RETURNS boolean
LANGUAGE sql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
    -- whoever owns the table may change it, and workers would run the casts of his types
    SELECT v.chunk_table IS NULL OR NOT EXISTS (
        SELECT FROM unnest('bigint'::regtype::oid || ARRAY(SELECT a.atttypid FROM unnest(v.key_columns) WITH ORDINALITY AS k(attnum, position)
                JOIN pg_attribute AS a ON a.attrelid = v.source AND a.attnum = k.attnum ORDER BY k.position)
            || '{integer,text,text,bigint}'::regtype[]::oid[]) WITH ORDINALITY AS w(type, position)
        LEFT JOIN pg_attribute AS a ON a.attrelid = v.chunk_table AND a.attnum = w.position AND NOT a.attisdropped
        WHERE a.atttypid IS DISTINCT FROM w.type)
$$;
COMMENT ON FUNCTION embed._chunks_fit(embed._vectorizer) IS 'Whether the table of the chunks, if there is one, has its columns in their places, with their types.';

CREATE OR REPLACE FUNCTION embed._files(source oid)
RETURNS oid[]
LANGUAGE sql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
    WITH RECURSIVE tree AS (
        SELECT source AS relation
        UNION ALL
        SELECT i.inhrelid FROM tree AS t JOIN pg_inherits AS i ON i.inhparent = t.relation
    )
    SELECT COALESCE(array_agg(c.relfilenode ORDER BY c.oid), '{}')
    FROM tree AS t JOIN pg_class AS c ON c.oid = t.relation AND c.relkind <> 'p'
$$;
COMMENT ON FUNCTION embed._files(oid) IS 'The files that a table and its partitions have now: others after a TRUNCATE, and when a partition came or went.';

CREATE OR REPLACE FUNCTION embed._must_sweep(v embed._vectorizer)
RETURNS boolean
LANGUAGE sql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$ SELECT v.chunk_table IS NOT NULL AND v.swept <> embed._files(v.source) $$;
COMMENT ON FUNCTION embed._must_sweep(embed._vectorizer) IS 'Whether there may be chunks whose rows went without a trigger.';

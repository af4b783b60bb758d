-- Switches of vectorizers with chunks. The shadow has a table of chunks and a view of its own, for another model may count
-- other tokens, and cut the texts elsewhere. The swap exchanges the names of both tables and of both views; all that people
-- gave or wrote about the old ones is there for the new ones by then.

CREATE OR REPLACE FUNCTION embed._free_relation(beside oid, name text, suffix text)
RETURNS text
LANGUAGE plpgsql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    home oid := (SELECT c.relnamespace FROM pg_class AS c WHERE c.oid = beside);
    free text := left(name, 40) || suffix;
    number integer := 1;
BEGIN
    WHILE EXISTS (SELECT FROM pg_class AS c WHERE c.relnamespace = home AND c.relname = free::name) LOOP
        number := number + 1;
        free := left(name, 40) || suffix || '_' || number;
    END LOOP;
    RETURN free;
END $$;
COMMENT ON FUNCTION embed._free_relation(oid, text, text) IS 'A name that nothing has in the schema of a table.';

CREATE OR REPLACE FUNCTION embed._chunk_columns(v embed._vectorizer)
RETURNS smallint[]
LANGUAGE sql
IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$ SELECT ARRAY(SELECT n::smallint FROM generate_series(1, cardinality(v.key_columns) + 5) AS n) || v.target_columns $$;
COMMENT ON FUNCTION embed._chunk_columns(embed._vectorizer) IS 'The columns of a table of chunks, those of the vectors last.';

CREATE OR REPLACE FUNCTION embed._chunk_dependants(v embed._vectorizer)
RETURNS text
LANGUAGE sql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
    SELECT string_agg(DISTINCT f.told, ', ') FROM (
        SELECT CASE WHEN r.oid IS NOT NULL THEN pg_describe_object('pg_class'::regclass, r.ev_class, 0) ELSE pg_describe_object(d.classid, d.objid, d.objsubid) END AS told
        FROM pg_depend AS d
        LEFT JOIN pg_rewrite AS r ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid
        LEFT JOIN pg_trigger AS g ON d.classid = 'pg_trigger'::regclass AND g.oid = d.objid
        LEFT JOIN pg_policy AS p ON d.classid = 'pg_policy'::regclass AND p.oid = d.objid
        LEFT JOIN pg_constraint AS k ON d.classid = 'pg_constraint'::regclass AND k.oid = d.objid
        WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid IN (v.chunk_table, v.chunk_view)
            AND d.classid IN ('pg_rewrite'::regclass, 'pg_attrdef'::regclass, 'pg_constraint'::regclass, 'pg_policy'::regclass, 'pg_proc'::regclass,
                'pg_trigger'::regclass, 'pg_publication_rel'::regclass)
            AND r.ev_class IS DISTINCT FROM v.chunk_view
            AND (g.oid IS NULL OR NOT (g.tgisinternal OR g.tgname ~ '^pg_embed_[0-9]+_'))
            AND (p.oid IS NULL OR p.polname NOT IN ('rows_of_the_source', 'kept_by_workers'))
            AND (k.oid IS NULL OR k.conrelid <> v.chunk_table OR k.contype NOT IN ('p', 'u', 'n'))
        UNION ALL
        SELECT pg_describe_object('pg_class'::regclass, a.attrelid, a.attnum)
        FROM pg_attribute AS a WHERE a.attrelid = v.chunk_table AND a.attnum > 0 AND NOT a.attisdropped AND a.attnum <> ALL (embed._chunk_columns(v))
        UNION ALL
        -- one that was replaced: who made it so must say what the new one is
        SELECT pg_describe_object('pg_class'::regclass, v.chunk_view, 0) || ' with another text than it was given'
        FROM embed._vectorizer AS s JOIN pg_class AS mine ON mine.oid = v.chunk_view JOIN pg_class AS other ON other.oid = s.chunk_view
        WHERE s.shadow_of = v.id
            AND replace(pg_get_viewdef(mine.oid), v.chunk_table::text || ' ', '') <> replace(pg_get_viewdef(other.oid), s.chunk_table::text || ' ', '')
    ) AS f
$$;
COMMENT ON FUNCTION embed._chunk_dependants(embed._vectorizer) IS
    'What others added to a table of chunks or its view, and what refers to them: all that would stay with them in a swap; NULL when there is nothing.';

CREATE OR REPLACE FUNCTION embed._right_steps(giver aclitem[], taker aclitem[], owner oid, columns text, relation text)
RETURNS text[]
LANGUAGE sql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
    WITH given AS (SELECT e.privilege_type, e.grantee, e.is_grantable FROM aclexplode(giver) AS e),
        taken AS (SELECT e.privilege_type, e.grantee, e.is_grantable FROM aclexplode(taker) AS e),
        steps AS (
            SELECT 1 AS turn, r.* FROM (SELECT * FROM taken EXCEPT SELECT * FROM given) AS r
            UNION ALL
            SELECT 2, r.* FROM (SELECT * FROM given EXCEPT SELECT * FROM taken) AS r)
    SELECT ARRAY(SELECT format(CASE t.turn WHEN 1 THEN 'REVOKE %s%s ON %s FROM %s' ELSE 'GRANT %s%s ON %s TO %s%s' END, t.privilege_type, columns, relation,
            CASE t.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(t.grantee)) END, CASE WHEN t.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
        FROM steps AS t WHERE t.grantee <> owner AND t.grantee IS DISTINCT FROM to_regrole('embed_worker')::oid
        ORDER BY t.turn, t.grantee, t.privilege_type)
$$;
COMMENT ON FUNCTION embed._right_steps(aclitem[], aclitem[], oid, text, text) IS 'The statements that make one list of rights like another, those of the owner and of workers left aside.';

CREATE OR REPLACE FUNCTION embed._likeness_steps(giver regclass, taker regclass, givers smallint[], takers smallint[])
RETURNS text[]
LANGUAGE plpgsql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    g pg_class;
    t pg_class;
    kind text;
    name text := taker::text;
    steps text[] := '{}';
    revoked boolean;
    a record;
BEGIN
    SELECT * INTO g FROM pg_class AS c WHERE c.oid = giver;
    SELECT * INTO t FROM pg_class AS c WHERE c.oid = taker;
    IF g.oid IS NULL OR t.oid IS NULL THEN
        RETURN steps;
    END IF;
    kind := CASE g.relkind WHEN 'v' THEN 'VIEW' ELSE 'TABLE' END;
    IF g.relnamespace <> t.relnamespace THEN
        steps := steps || format('ALTER %s %s SET SCHEMA %s', kind, name, g.relnamespace::regnamespace);
        name := format('%s.%I', g.relnamespace::regnamespace, t.relname);
    END IF;
    steps := steps || ARRAY(SELECT format('ALTER %s %s SET (%I = %L)', kind, name, o.option_name, o.option_value)
            FROM (SELECT * FROM pg_options_to_table(g.reloptions) EXCEPT SELECT * FROM pg_options_to_table(t.reloptions)) AS o)
        || ARRAY(SELECT format('ALTER %s %s RESET (%I)', kind, name, o.option_name)
            FROM (SELECT p.option_name FROM pg_options_to_table(t.reloptions) AS p EXCEPT SELECT p.option_name FROM pg_options_to_table(g.reloptions) AS p) AS o)
        || CASE WHEN g.relrowsecurity <> t.relrowsecurity THEN format('ALTER TABLE %s %s ROW LEVEL SECURITY', name, CASE WHEN g.relrowsecurity THEN 'ENABLE' ELSE 'DISABLE' END) END
        || CASE WHEN g.relforcerowsecurity <> t.relforcerowsecurity THEN format('ALTER TABLE %s %s ROW LEVEL SECURITY', name, CASE WHEN g.relforcerowsecurity THEN 'FORCE' ELSE 'NO FORCE' END) END
        || CASE WHEN obj_description(g.oid, 'pg_class') IS DISTINCT FROM obj_description(t.oid, 'pg_class')
            THEN format('COMMENT ON %s %s IS %L', kind, name, obj_description(g.oid, 'pg_class')) END
        || embed._right_steps(COALESCE(g.relacl, acldefault('r', g.relowner)), COALESCE(t.relacl, acldefault('r', t.relowner)), t.relowner, '', name);
    revoked := EXISTS (SELECT FROM unnest(steps) AS r(step) WHERE starts_with(r.step, 'REVOKE'));
    FOR a IN
        SELECT o.attname AS old, n.attname AS new, o.attacl AS given, n.attacl AS taken, col_description(g.oid, o.attnum) AS said, col_description(t.oid, n.attnum) AS told
        FROM unnest(givers, takers) AS c(giver, taker)
        JOIN pg_attribute AS o ON o.attrelid = g.oid AND o.attnum = c.giver JOIN pg_attribute AS n ON n.attrelid = t.oid AND n.attnum = c.taker
    LOOP
        steps := steps || CASE WHEN a.old <> a.new THEN format('ALTER %s %s RENAME COLUMN %I TO %I', kind, name, a.new, a.old) END
            || CASE WHEN a.said IS DISTINCT FROM a.told THEN format('COMMENT ON COLUMN %s.%I IS %L', name, a.old, a.said) END
            || embed._right_steps(a.given, a.taken, t.relowner, format(' (%I)', a.old), name)
            -- what is taken off a table is taken off its columns
            || CASE WHEN revoked THEN embed._right_steps(a.given, NULL, t.relowner, format(' (%I)', a.old), name) ELSE '{}' END;
    END LOOP;
    RETURN array_remove(steps, NULL);
END $$;
COMMENT ON FUNCTION embed._likeness_steps(regclass, regclass, smallint[], smallint[]) IS
    'The statements that give a table or a view the schema, options, comments, rights and names of columns of another, as far as it has them not.';

CREATE OR REPLACE FUNCTION embed._like_chunks(v embed._vectorizer, s embed._vectorizer)
RETURNS text[]
LANGUAGE sql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
    SELECT embed._likeness_steps(v.chunk_table, s.chunk_table, embed._chunk_columns(v), embed._chunk_columns(s))
        || embed._likeness_steps(v.chunk_view, s.chunk_view, c.every, c.every)
    FROM (SELECT ARRAY(SELECT n::smallint FROM generate_series(1, cardinality(v.key_columns) + cardinality(v.outputs) + 6) AS n) AS every) AS c
$$;
COMMENT ON FUNCTION embed._like_chunks(embed._vectorizer, embed._vectorizer) IS
    'The statements that let a shadow''s table of chunks and its view be to others what those are whose place they take.';

CREATE OR REPLACE FUNCTION embed._swap_chunk_steps(v embed._vectorizer, s embed._vectorizer)
RETURNS text[]
LANGUAGE plpgsql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    r record;
    kept text;
    next text;
    steps text[] := '{}';
BEGIN
    FOR r IN
        SELECT CASE old.relkind WHEN 'v' THEN 'VIEW' ELSE 'TABLE' END AS kind, old.relnamespace::regnamespace AS home, old.oid, old.relname AS name, new.relname AS next
        FROM (VALUES (v.chunk_table, s.chunk_table), (v.chunk_view, s.chunk_view)) AS p(old, new)
        JOIN pg_class AS old ON old.oid = p.old JOIN pg_class AS new ON new.oid = p.new ORDER BY 1
    LOOP
        kept := embed._free_relation(r.oid, r.name, '_old');
        next := r.next;
        IF starts_with(next, left(r.name, 40) || '_old') THEN
            -- the way back: both exchange names
            kept := next;
            next := embed._free_relation(r.oid, r.name, '_swap');
            steps := steps || format('ALTER %s %s.%I RENAME TO %I', r.kind, r.home, kept, next);
        END IF;
        steps := steps || format('ALTER %s %s.%I RENAME TO %I', r.kind, r.home, r.name, kept) || format('ALTER %s %s.%I RENAME TO %I', r.kind, r.home, next, r.name);
    END LOOP;
    RETURN steps;
END $$;
COMMENT ON FUNCTION embed._swap_chunk_steps(embed._vectorizer, embed._vectorizer) IS
    'The statements by which the tables of chunks of two vectorizers, and their views, exchange names.';

CREATE OR REPLACE FUNCTION embed._shadow_chunks(v embed._vectorizer, s embed._vectorizer)
RETURNS void
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    missed text;
BEGIN
    IF v.chunk_view IS NULL OR NOT EXISTS (SELECT FROM pg_class AS c WHERE c.oid = v.chunk_view) THEN
        EXECUTE format('DROP VIEW %s', s.chunk_view);
        UPDATE embed._vectorizer AS c SET chunk_view = NULL WHERE c.id = s.id;
    END IF;
    PERFORM embed._run_steps(embed._like_chunks(v, s));
    SELECT string_agg(c.relname, ', ' ORDER BY c.relname) INTO missed
    FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid JOIN pg_am AS a ON a.oid = c.relam
    WHERE i.indrelid = v.chunk_table AND a.amname NOT IN ('hnsw', 'ivfflat') AND NOT EXISTS (SELECT FROM pg_constraint AS k WHERE k.conindid = i.indexrelid);
    IF missed IS NOT NULL THEN
        RAISE NOTICE 'the new chunks have no indexes like these of %: %', v.chunk_table, missed
            USING HINT = format('before the swap make them on %s, too', s.chunk_table);
    END IF;
END $$;
COMMENT ON FUNCTION embed._shadow_chunks(embed._vectorizer, embed._vectorizer) IS
    'Let a shadow''s table of chunks and its view be like those that they are to replace, and tell of indexes that they will lack.';

CREATE OR REPLACE FUNCTION embed._chunk_size(chunking jsonb, most integer)
RETURNS jsonb
LANGUAGE plpgsql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
BEGIN
    IF (chunking ->> 'size')::integer > most THEN
        RAISE NOTICE 'the new chunks have % tokens at most, not %: the model reads no more', most, chunking ->> 'size';
        RETURN chunking || jsonb_build_object('size', most, 'overlap', least((chunking ->> 'overlap')::integer, most - 1));
    END IF;
    RETURN chunking;
END $$;
COMMENT ON FUNCTION embed._chunk_size(jsonb, integer) IS 'How texts were split, with no longer chunks than a model reads.';

CREATE OR REPLACE FUNCTION embed._chunk_forms(v embed._vectorizer, s embed._vectorizer, OUT sampled text, OUT nearest text[])
LANGUAGE plpgsql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    n integer := cardinality(v.key_columns);
    keys smallint[] := ARRAY(SELECT k::smallint FROM generate_series(2, n + 1) AS k);
    old record := embed._dense_target(v.id);
    new record := embed._dense_target(s.id);
BEGIN
    sampled := format('SELECT q.* FROM (
            SELECT %1$s AS key, c.%2$I::text AS r1, (SELECT o.%3$I::text FROM %4$s AS o WHERE %5$s AND o.%6$s = 1) AS r2
            FROM %7$s AS c TABLESAMPLE SYSTEM (%8$s) JOIN %9$s AS r ON %10$s WHERE c.%11$s = 1 AND c.%2$I IS NOT NULL) AS q
        WHERE q.r2 IS NOT NULL ORDER BY random() LIMIT $1',
        embed._key_text(v.chunk_table, keys, 'c'), old.column_name, new.column_name, s.chunk_table, embed._chunk_match(s, 'o', 'r'), embed._column_name(s.chunk_table, (n + 2)::smallint),
        v.chunk_table, least(100, 1e6 / greatest(embed._rows_by_statistics(v.chunk_table), 1))::numeric, embed._source_name(v.source), embed._chunk_match(v, 'c', 'r'),
        embed._column_name(v.chunk_table, (n + 2)::smallint));
    -- the nearest chunks may be of few rows: four of them for each that is wanted, as a search has
    nearest := ARRAY(SELECT format('SELECT ARRAY(SELECT n.key FROM (
            SELECT %1$s AS key, c.%2$I OPERATOR(%3$s.%4$s) $1::%3$s.%5$s(%6$s) AS d FROM %7$s AS c WHERE c.%2$I IS NOT NULL
            ORDER BY c.%2$I OPERATOR(%3$s.%4$s) $1::%3$s.%5$s(%6$s) LIMIT 4 * $2) AS n
        GROUP BY n.key ORDER BY min(n.d) LIMIT $2)',
            embed._key_text(t.source, keys, 'c'), t.name, embed._vector_schema(), CASE t.metric WHEN 'ip' THEN '<#>' WHEN 'l2' THEN '<->' ELSE '<=>' END, t.kind, t.size, t.source)
        FROM (VALUES (1, v.chunk_table, old.column_name, old.column_type, old.dimensions, old.metric),
                (2, s.chunk_table, new.column_name, new.column_type, new.dimensions, new.metric)) AS t(position, source, name, kind, size, metric) ORDER BY t.position);
END $$;
COMMENT ON FUNCTION embed._chunk_forms(embed._vectorizer, embed._vectorizer) IS
    'The statements of embed._switch_forms_v1 for chunks: a row asks with its first one, whoever cut it, and a row is as near as its nearest.';

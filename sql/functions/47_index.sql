-- Indexes over the vectors: which one suits a column, what it costs, how far it is, and how well it finds.
-- No function here builds one: CREATE INDEX CONCURRENTLY runs outside transactions. Workers do, and pg-embed index does.

CREATE OR REPLACE FUNCTION embed._vector_schema()
RETURNS text
LANGUAGE sql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
    SELECT quote_ident(s.nspname) FROM pg_extension AS e JOIN pg_namespace AS s ON s.oid = e.extnamespace WHERE e.extname = 'vector'
$$;
COMMENT ON FUNCTION embed._vector_schema() IS 'The quoted name of the schema that pgvector is in.';

CREATE OR REPLACE FUNCTION embed._check_index(kind text, m integer, ef_construction integer, min_rows bigint, memory text, parallel_workers integer)
RETURNS void
LANGUAGE plpgsql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
SET standard_conforming_strings = on
AS $$
BEGIN
    IF kind IS NULL OR kind NOT IN ('auto', 'none', 'hnsw', 'binary') THEN
        PERFORM embed._fail('PE003', format('there is no kind of index %L', kind),
            'use ''auto'', ''hnsw'' (of the vectors), ''binary'' (of their signs, rescored) or ''none''');
    ELSIF m NOT BETWEEN 2 AND 100 THEN
        PERFORM embed._fail('PE003', format('m is %s', m), 'set it between 2 and 100, or leave it out');
    ELSIF ef_construction NOT BETWEEN greatest(4, 2 * COALESCE(m, 16)) AND 1000 THEN
        PERFORM embed._fail('PE003', format('ef_construction is %s', ef_construction), 'set it between 2 * m and 1000, or leave it out');
    ELSIF min_rows < 0 THEN
        PERFORM embed._fail('PE003', format('min_rows is %s', min_rows), 'set it to 0 or more');
    ELSIF parallel_workers NOT BETWEEN 0 AND 1024 THEN
        PERFORM embed._fail('PE003', format('parallel_workers is %s', parallel_workers), 'set it between 0 and 1024');
    ELSIF memory IS NOT NULL AND (memory !~* '^\s*[0-9]{1,9}\s*(kB|MB|GB)\s*$' OR pg_size_bytes(memory) NOT BETWEEN 1048576 AND 2199023254528) THEN
        PERFORM embed._fail('PE003', format('memory is %L', memory), 'write it as in ''2GB'', between 1MB and 2047GB');
    END IF;
END $$;
COMMENT ON FUNCTION embed._check_index(text, integer, integer, bigint, text, integer) IS 'Refuse an index of a kind that is none, and parameters out of pgvector''s bounds.';

CREATE OR REPLACE FUNCTION embed._index_parameters(rows bigint, kind text, OUT m integer, OUT ef_construction integer)
LANGUAGE sql
IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
    -- of signs, m = 16 found 0.80 of the best 10 at an ef_search of 320, and 0.955 at 1,000; m = 32 found 0.97 at 320, at the
    -- price of m = 16 at about 500 (50,000 rows, 4,096 d, 128 of them independent)
    SELECT CASE WHEN kind = 'binary' THEN 32 WHEN rows < 1000000 THEN 16 WHEN rows < 10000000 THEN 24 ELSE 32 END,
        greatest(CASE WHEN rows < 100000 THEN 64 WHEN rows < 1000000 THEN 128 WHEN rows < 10000000 THEN 200 ELSE 256 END, CASE kind WHEN 'binary' THEN 128 END)
$$;
COMMENT ON FUNCTION embed._index_parameters(bigint, text) IS 'The parameters of an HNSW index over so many rows: a graph of more rows needs more edges, and a longer look for them, for the same recall, and so does one of signs.';

CREATE OR REPLACE FUNCTION embed._index_shape(source oid, attnum smallint, metric text, kind text, OUT expression text, OUT opclass text)
LANGUAGE sql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
    -- pgvector indexes 2,000 dimensions of vector, 4,000 of halfvec, 64,000 of bit
    SELECT CASE
            WHEN kind = 'binary' THEN format('(%1$s.binary_quantize(%2$s)::bit(%3$s))', embed._vector_schema(), quote_ident(a.attname), a.atttypmod)
            WHEN t.typname = 'vector' AND a.atttypmod > 2000 THEN format('(%2$s::%1$s.halfvec(%3$s))', embed._vector_schema(), quote_ident(a.attname), a.atttypmod)
            ELSE quote_ident(a.attname)
        END,
        format('%s.%s', embed._vector_schema(), CASE
            WHEN kind = 'binary' THEN 'bit_hamming_ops'
            ELSE format('%s_%s_ops', CASE WHEN a.atttypmod > 2000 THEN 'halfvec' ELSE t.typname END, metric) END)
    FROM pg_attribute AS a JOIN pg_type AS t ON t.oid = a.atttypid
    WHERE a.attrelid = source AND a.attnum = _index_shape.attnum
$$;
COMMENT ON FUNCTION embed._index_shape(oid, smallint, text, text) IS
    'What an index of a kind is over: the column; as halfvec where it is a vector of more than 2,000 dimensions; or its signs as bits.';

CREATE OR REPLACE FUNCTION embed._index_estimate(
    column_type text, kind text, dimensions integer, m integer, ef_construction integer, rows bigint,
    OUT bytes bigint, OUT memory bigint, OUT seconds numeric
)
LANGUAGE sql
IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
    -- On disk a row is an element (its head and value) and a list of 2 * m neighbours of 6 bytes, m more on each level
    -- above: one row in 1 / (m - 1). Both stand on one page where they fit. In memory a neighbour takes 17 bytes; this and
    -- the seconds (one process, graph in memory) were measured with pgvector 0.8, see benchmarks/index_4096.py.
    SELECT (CASE WHEN s.element + s.list <= 8152 THEN 8192 / (8152 / (s.element + s.list)) ELSE 16384 END * rows)::bigint,
        ((160 + 34 * m + s.value) * rows)::bigint,
        round((rows * (ef_construction / 64.0) * (0.00025 + s.value * 0.00000015))::numeric, 1)
    FROM (
        SELECT v.value, 76 + v.value AS element, 12 + 6 * (2 * m + m / (m - 1)) AS list
        FROM (SELECT CASE WHEN kind = 'binary' THEN 8 + (dimensions + 7) / 8
            WHEN column_type = 'halfvec' OR dimensions > 2000 THEN 8 + 2 * dimensions ELSE 8 + 4 * dimensions END AS value) AS v
    ) AS s
$$;
COMMENT ON FUNCTION embed._index_estimate(text, text, integer, integer, integer, bigint) IS
    'Bytes of an index, bytes of memory that building it takes when its graph is not to spill, and seconds by one process.';

CREATE OR REPLACE FUNCTION embed._index_tree(source oid)
RETURNS TABLE (relation oid, parent oid, depth integer, leaf boolean, schema oid, qualified text, relname name)
LANGUAGE sql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
    WITH RECURSIVE tree AS (
        SELECT source AS relation, NULL::oid AS parent, 0 AS depth
        UNION ALL
        SELECT i.inhrelid, i.inhparent, t.depth + 1
        FROM tree AS t JOIN pg_class AS p ON p.oid = t.relation AND p.relkind = 'p' JOIN pg_inherits AS i ON i.inhparent = t.relation
    )
    SELECT t.relation, t.parent, t.depth, c.relkind <> 'p', c.relnamespace, format('%I.%I', s.nspname, c.relname), c.relname
    FROM tree AS t JOIN pg_class AS c ON c.oid = t.relation JOIN pg_namespace AS s ON s.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p')
$$;
COMMENT ON FUNCTION embed._index_tree(oid) IS 'A table, and its partitions on every level, the partitioned ones with leaf false.';

CREATE OR REPLACE FUNCTION embed._bare(expression text)
RETURNS text
LANGUAGE sql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$ SELECT translate(replace(expression, embed._vector_schema() || '.', ''), '() ', '') $$;
COMMENT ON FUNCTION embed._bare(text) IS 'An expression without what Postgres may write or leave out: parentheses, spaces, the schema of pgvector.';

CREATE OR REPLACE FUNCTION embed._found_indexes(relation oid, expression text, opclass text)
RETURNS TABLE (index oid, valid boolean, m integer, ef_construction integer, ours boolean, parent oid, name name, qualified text)
LANGUAGE sql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
    SELECT i.indexrelid, i.indisvalid,
        COALESCE((SELECT o.option_value::integer FROM pg_options_to_table(c.reloptions) AS o WHERE o.option_name = 'm'), 16),
        COALESCE((SELECT o.option_value::integer FROM pg_options_to_table(c.reloptions) AS o WHERE o.option_name = 'ef_construction'), 64),
        COALESCE(starts_with(obj_description(c.oid, 'pg_class'), 'pg_embed:'), false),
        (SELECT h.inhparent FROM pg_inherits AS h WHERE h.inhrelid = c.oid), c.relname, format('%I.%I', s.nspname, c.relname)
    FROM pg_index AS i
    JOIN pg_class AS c ON c.oid = i.indexrelid
    JOIN pg_namespace AS s ON s.oid = c.relnamespace
    JOIN pg_am AS a ON a.oid = c.relam AND a.amname = 'hnsw'
    JOIN pg_opclass AS k ON k.oid = i.indclass[0]
    WHERE i.indrelid = relation AND i.indpred IS NULL AND i.indnatts = 1
        AND k.opcname = split_part(opclass, '.', -1)
        AND embed._bare(pg_get_indexdef(i.indexrelid, 1, false)) = embed._bare(expression)
$$;
COMMENT ON FUNCTION embed._found_indexes(oid, text, text) IS 'The HNSW indexes of one table over one expression, whoever made them.';

CREATE OR REPLACE FUNCTION embed._index_steps(source oid, vectorizer text, column_name text, expression text, opclass text, kind text, m integer, ef_construction integer)
RETURNS text[]
LANGUAGE plpgsql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    r record;
    f record;
    base text;
    name text;
    names text[] := '{}';  -- that this call has given away
    parents jsonb := '{}';  -- the index of each partitioned table, by the table's oid: its name, and its oid when it is there
    wrecks text[] := '{}';
    made text[] := '{}';
    attached text[] := '{}';
BEGIN
    FOR r IN SELECT * FROM embed._index_tree(source) AS t ORDER BY t.depth, t.qualified LOOP
        base := left(format('%s_%s', r.relname, column_name), 50) || '_' || kind;
        SELECT g.* INTO f FROM embed._found_indexes(r.relation, expression, opclass) AS g
        WHERE (g.valid OR NOT r.leaf) AND g.m = _index_steps.m AND g.ef_construction = _index_steps.ef_construction
            AND (g.parent IS NULL OR g.parent = (parents #>> ARRAY[r.parent::text, 'oid'])::oid)
        ORDER BY g.parent NULLS LAST, g.valid DESC, g.index LIMIT 1;
        wrecks := wrecks || ARRAY(SELECT format('DROP INDEX CONCURRENTLY %s', g.qualified) FROM embed._found_indexes(r.relation, expression, opclass) AS g
            WHERE NOT g.valid AND r.leaf AND starts_with(g.name, base) AND NOT embed._is_building(r.relation));
        IF f.index IS NULL THEN
            SELECT c.name INTO name
            FROM (SELECT n.i, (base || CASE n.i WHEN 1 THEN '' ELSE '_' || n.i END)::name::text AS name FROM generate_series(1, 10000) AS n(i)) AS c
            WHERE c.name <> ALL (names) AND NOT EXISTS (SELECT FROM pg_class AS k WHERE k.relnamespace = r.schema AND k.relname = c.name)
            ORDER BY c.i LIMIT 1;
            names := names || name;
            name := format('%s.%I', r.schema::regnamespace, name);
            made := made || format('CREATE INDEX %s%I ON %s%s USING hnsw (%s %s) WITH (m = %s, ef_construction = %s)', CASE WHEN r.leaf THEN 'CONCURRENTLY ' ELSE '' END,
                names[cardinality(names)], CASE WHEN r.leaf THEN '' ELSE 'ONLY ' END, r.qualified, expression, opclass, m, ef_construction);
            IF r.depth = 0 THEN
                made := made || format('COMMENT ON INDEX %s IS %L', name, format('pg_embed: made for vectorizer %s', vectorizer));
            END IF;
        ELSE
            name := f.qualified;
        END IF;
        parents := parents || jsonb_build_object(r.relation::text, jsonb_build_object('name', name, 'oid', f.index));
        IF r.parent IS NOT NULL AND f.parent IS NULL THEN
            -- those below first
            attached := format('ALTER INDEX %s ATTACH PARTITION %s', parents #>> ARRAY[r.parent::text, 'name'], name) || attached;
        END IF;
    END LOOP;
    RETURN wrecks || made || attached;
END $$;
COMMENT ON FUNCTION embed._index_steps(oid, text, text, text, text, text, integer, integer) IS
    'The statements, one by one outside transactions, that are still needed for a valid index. Indexes of a partitioned table are built partition by partition and attached, for CONCURRENTLY cannot build them as one.';

CREATE OR REPLACE FUNCTION embed._is_building(relation oid)
RETURNS boolean
LANGUAGE sql
VOLATILE PARALLEL RESTRICTED
SET search_path = pg_catalog, embed, pg_temp
AS $$
    SELECT EXISTS (SELECT FROM pg_locks AS l WHERE l.locktype = 'relation' AND l.relation = _is_building.relation AND l.mode = 'ShareUpdateExclusiveLock'
        AND l.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database()) AND l.pid <> pg_backend_pid())
$$;
COMMENT ON FUNCTION embed._is_building(oid) IS 'Whether somebody may be building an index on a table concurrently: an invalid one is then no wreck.';

CREATE OR REPLACE FUNCTION embed._dense_target(vectorizer integer, OUT source oid, OUT attnum smallint, OUT column_name text, OUT column_type text, OUT dimensions integer, OUT metric text)
LANGUAGE sql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
    SELECT embed._home(v), a.attnum, a.attname, t.typname, a.atttypmod, m.metric
    FROM embed._vectorizer AS v
    JOIN embed._model AS m ON m.id = v.model_id
    JOIN pg_attribute AS a ON a.attrelid = embed._home(v) AND a.attnum = v.target_columns[array_position(v.outputs, 'dense')] AND NOT a.attisdropped
    JOIN pg_type AS t ON t.oid = a.atttypid AND t.typname IN ('vector', 'halfvec')
    WHERE v.id = vectorizer
$$;
COMMENT ON FUNCTION embed._dense_target(integer) IS 'The column of a vectorizer''s dense vectors; all NULL when it has none, or it was dropped.';

CREATE OR REPLACE FUNCTION embed._rows_by_statistics(source oid)
RETURNS bigint
LANGUAGE sql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
    -- as the planner does: the density that was found last, over the pages of now
    SELECT CASE WHEN bool_and(c.reltuples >= 0 AND (c.relpages > 0 OR p.pages = 0))
        THEN sum(CASE WHEN c.relpages > 0 THEN c.reltuples * (p.pages / c.relpages::double precision) ELSE 0 END)::bigint END
    FROM embed._index_tree(source) AS t
    JOIN pg_class AS c ON c.oid = t.relation,
    LATERAL (SELECT pg_relation_size(t.relation) / current_setting('block_size')::integer AS pages) AS p
    WHERE t.leaf
$$;
COMMENT ON FUNCTION embed._rows_by_statistics(oid) IS 'About how many rows a table has, partitions included; NULL when it was never analyzed.';

CREATE OR REPLACE FUNCTION embed._count_rows(source oid)
RETURNS bigint
LANGUAGE plpgsql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    counted bigint := embed._rows_by_statistics(source);
BEGIN
    IF counted IS NULL THEN
        EXECUTE format('SELECT count(*) FROM (SELECT FROM %s AS r LIMIT 1000000) AS c', embed._source_name(source)) INTO counted;
    END IF;
    RETURN counted;
END $$;
COMMENT ON FUNCTION embed._count_rows(oid) IS 'About how many rows a table has: by statistics, or counted up to a million where there are none.';

CREATE OR REPLACE FUNCTION embed._index_look_v1(
    vectorizer integer, counted bigint, ask_kind text, ask_m integer, ask_ef integer, ask_min_rows bigint,
    OUT name text, OUT source oid, OUT column_name text, OUT column_type text, OUT dimensions integer, OUT wanted text, OUT chosen text,
    OUT m integer, OUT ef_construction integer, OUT rows bigint, OUT index oid, OUT state text, OUT explanation text, OUT error text,
    OUT steps text[], OUT todo boolean, OUT failures integer, OUT tried_at timestamptz, OUT memory bigint, OUT parallel_workers integer
)
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    v embed._vectorizer;
    asked embed._index;
    target record;
    shape record;
    found record;
    fresh record;
    least_rows bigint;
    satisfied boolean;
    outgrown boolean;
    other boolean;
    owner name;
    left_over bigint;
BEGIN
    -- the tables in the order in which an uninstallation takes them, that neither waits for the other
    SELECT c.* INTO v FROM (SELECT) AS o LEFT JOIN embed._index AS i ON false LEFT JOIN embed._queue AS q ON false LEFT JOIN embed._backfill AS b ON false
    JOIN embed._vectorizer AS c ON c.id = vectorizer;
    SELECT * INTO asked FROM embed._index AS i WHERE i.vectorizer_id = vectorizer;
    SELECT * INTO target FROM embed._dense_target(vectorizer);
    name := v.name;
    source := target.source;
    steps := '{}';
    todo := false;
    IF source IS NULL THEN
        RETURN;
    END IF;
    column_name := target.column_name;
    column_type := target.column_type;
    dimensions := target.dimensions;
    failures := COALESCE(asked.failures, 0);
    tried_at := asked.tried_at;
    memory := asked.memory;
    -- searches by the other vectors go on meanwhile, and nobody waits for these
    parallel_workers := COALESCE(asked.parallel_workers, CASE WHEN v.shadow_of IS NOT NULL THEN 0 END);
    wanted := COALESCE(ask_kind, asked.kind, 'none');
    least_rows := COALESCE(ask_min_rows, asked.min_rows, 10000);
    rows := COALESCE(counted, embed._rows_by_statistics(source), asked.rows);
    chosen := CASE WHEN wanted <> 'auto' THEN wanted WHEN rows IS NULL OR rows < least_rows THEN 'none' WHEN dimensions <= 4000 THEN 'hnsw' ELSE 'binary' END;
    SELECT k.kind, f.* INTO found
    FROM (VALUES ('hnsw'), ('binary')) AS k(kind), LATERAL embed._index_shape(source, target.attnum, target.metric, k.kind) AS s,
        LATERAL embed._found_indexes(source, s.expression, s.opclass) AS f
    ORDER BY k.kind = chosen DESC, f.valid DESC, f.ours DESC, f.index DESC LIMIT 1;
    index := found.index;
    IF wanted = 'auto' AND chosen = 'none' AND found.valid THEN
        chosen := found.kind;  -- rows became fewer; the index does no harm
    END IF;
    IF chosen <> 'none' THEN
        ask_m := COALESCE(ask_m, CASE WHEN ask_kind IS NULL THEN asked.m END);
        ask_ef := COALESCE(ask_ef, CASE WHEN ask_kind IS NULL THEN asked.ef_construction END);
        fresh := embed._index_parameters(COALESCE(rows, 0), chosen);
        m := COALESCE(ask_m, fresh.m);
        ef_construction := COALESCE(ask_ef, greatest(fresh.ef_construction, 2 * m));
        other := found.m <> ask_m OR found.ef_construction <> ask_ef;
        -- four times past what the parameters are meant for
        outgrown := ask_m IS NULL AND ask_ef IS NULL AND (embed._index_parameters(COALESCE(rows, 0) / 4, 'hnsw')).ef_construction > found.ef_construction;
        satisfied := found.valid AND found.kind = chosen AND NOT COALESCE(other, false) AND NOT outgrown;
        IF satisfied THEN
            m := found.m;
            ef_construction := found.ef_construction;
        END IF;
        shape := embed._index_shape(source, target.attnum, target.metric, chosen);
        steps := embed._index_steps(source, v.name, column_name, shape.expression, shape.opclass, chosen, m, ef_construction);
        -- what a newer one stands in for, once that is valid: only indexes that bear our comment
        steps := steps || ARRAY(
            SELECT format('DROP INDEX %s%s', CASE c.relkind WHEN 'I' THEN '' ELSE 'CONCURRENTLY ' END, f.qualified)
            FROM (VALUES ('hnsw'), ('binary')) AS k(kind), LATERAL embed._index_shape(source, target.attnum, target.metric, k.kind) AS s,
                LATERAL embed._found_indexes(source, s.expression, s.opclass) AS f JOIN pg_class AS c ON c.oid = f.index
            WHERE f.ours AND (f.valid OR c.relkind = 'I') AND NOT (k.kind = chosen AND f.m = _index_look_v1.m AND f.ef_construction = _index_look_v1.ef_construction)
            ORDER BY f.index);
    END IF;
    SELECT COALESCE(b.rows_left, 0) INTO left_over FROM embed._backfill AS b WHERE b.vectorizer_id = vectorizer;
    IF left_over IS NULL AND (EXISTS (SELECT FROM embed._queue AS q WHERE q.vectorizer_id = vectorizer AND q.priority = 2) OR embed._attached(v) <> '{}') THEN
        left_over := 0;
    END IF;
    SELECT pg_get_userbyid(c.relowner) INTO owner FROM pg_class AS c WHERE c.oid = source;
    error := CASE WHEN steps <> '{}' THEN asked.error END;
    IF EXISTS (SELECT FROM pg_locks AS l WHERE l.locktype = 'advisory' AND l.classid = 1885695340 AND l.objid = vectorizer AND l.objsubid = 2 AND l.pid <> pg_backend_pid()
        AND l.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())) THEN
        state := 'building';
        explanation := format('%s is being built', chosen);
    ELSIF NOT found.valid AND EXISTS (SELECT FROM embed._index_tree(source) AS t WHERE t.leaf AND embed._is_building(t.relation)) THEN
        state := 'building';
        explanation := 'somebody builds it by hand';
    ELSIF wanted = 'none' THEN
        state := CASE WHEN found.valid THEN 'valid' ELSE 'none' END;
        explanation := CASE WHEN found.valid THEN 'nobody asked to look after it' ELSE format('none was asked for; embed.create_index(%L) does', v.name) END;
    ELSIF chosen = 'none' AND rows IS NULL THEN
        state := 'planned';
        explanation := 'the rows were not counted yet; a worker does, or ANALYZE';
    ELSIF chosen = 'none' THEN
        state := 'none';
        explanation := format('exact search is fast below %s rows', least_rows);
    ELSIF steps = '{}' THEN
        state := 'valid';
        explanation := format('m = %s, ef_construction = %s', m, ef_construction);
    ELSE
        state := CASE WHEN found.valid THEN 'stale'
            WHEN EXISTS (SELECT FROM unnest(steps) AS s(step) WHERE starts_with(s.step, 'DROP INDEX CONCURRENTLY')) THEN 'invalid'
            WHEN asked.error IS NOT NULL AND NOT asked.needs_owner THEN 'failed' ELSE 'planned' END;
        todo := left_over IS NULL AND NOT COALESCE(found.valid AND wanted <> 'auto' AND found.kind = chosen AND outgrown, false);
        explanation := concat_ws('; ',
            CASE WHEN found.valid AND found.kind = chosen AND outgrown THEN format('the table has grown to about %s rows, and the index was made with m = %s, ef_construction = %s', rows, found.m, found.ef_construction)
                WHEN found.valid AND found.kind = chosen AND COALESCE(other, false) THEN format('m = %s, ef_construction = %s were asked for, and the index has %s and %s', m, ef_construction, found.m, found.ef_construction)
                WHEN found.valid AND satisfied THEN 'another index is left to be removed'
                WHEN found.valid THEN format('an index of kind %s was asked for, and this is %s', chosen, found.kind)
                WHEN state = 'invalid' THEN 'a build was interrupted; what it left is removed, and the index built anew' END,
            CASE WHEN left_over > 0 THEN format('after the backfill, which has %s rows to go', left_over) WHEN left_over = 0 THEN 'after the backfill'
                WHEN asked.needs_owner THEN format('%I must build it: run pg-embed index %s as that role, or: %s;', owner, quote_ident(v.name), array_to_string(steps, '; '))
                WHEN NOT todo THEN format('build it anew with pg-embed index %s', quote_ident(v.name)) END,
            CASE WHEN asked.failures > 0 THEN format('%s attempts failed, the last at %s', asked.failures, asked.tried_at) END);
        explanation := COALESCE(NULLIF(explanation, ''), 'a worker builds it next, or pg-embed index ' || quote_ident(v.name));
    END IF;
END $$;
COMMENT ON FUNCTION embed._index_look_v1(integer, bigint, text, integer, integer, bigint) IS
    'What index a vectorizer''s dense vectors have and should have, and the statements between the two. Reads catalogs only.';

CREATE OR REPLACE FUNCTION embed._index_wanted_v1()
RETURNS TABLE (vectorizer integer, name text, source oid, counted boolean)
LANGUAGE sql
VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, embed, pg_temp
AS $$
    -- the tables in the order in which an uninstallation takes them, as in _index_look_v1
    SELECT i.vectorizer_id, v.name, t.source, embed._rows_by_statistics(t.source) IS NOT NULL
    FROM embed._index AS i LEFT JOIN embed._queue AS q ON false LEFT JOIN embed._backfill AS b ON false
    JOIN embed._vectorizer AS v ON v.id = i.vectorizer_id, LATERAL embed._dense_target(i.vectorizer_id) AS t
    WHERE t.source IS NOT NULL
    ORDER BY i.tried_at NULLS FIRST, i.vectorizer_id
$$;
COMMENT ON FUNCTION embed._index_wanted_v1() IS 'The vectorizers whose indexes are looked after, those first that were never tried.';

CREATE OR REPLACE FUNCTION embed._index_todo(vectorizer text DEFAULT NULL)
RETURNS TABLE (vectorizer_id integer, vectorizer_name text, may_build boolean, tries integer, idle_seconds double precision, statements text[], build_memory bigint, workers integer)
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    w record;
    seen record;
    rows bigint;
BEGIN
    FOR w IN SELECT * FROM embed._index_wanted_v1() AS i WHERE _index_todo.vectorizer IS NULL OR i.vectorizer = embed._vectorizer_id_v1(_index_todo.vectorizer) LOOP
        rows := NULL;
        IF NOT w.counted THEN
            BEGIN
                rows := embed._count_rows(w.source);
                PERFORM embed._index_counted_v1(w.vectorizer, rows);
            EXCEPTION WHEN insufficient_privilege OR undefined_table THEN
                NULL;  -- what was counted before has to do
            END;
        END IF;
        seen := embed._index_look_v1(w.vectorizer, rows, NULL, NULL, NULL, NULL);
        IF seen.todo AND seen.state <> 'building' THEN
            RETURN QUERY SELECT w.vectorizer, w.name,
                (SELECT pg_has_role(current_user, c.relowner, 'USAGE') AND has_schema_privilege(c.relnamespace, 'CREATE') FROM pg_class AS c WHERE c.oid = w.source),
                seen.failures, extract(epoch FROM clock_timestamp() - seen.tried_at)::double precision, seen.steps, seen.memory, seen.parallel_workers;
        END IF;
    END LOOP;
END $$;
COMMENT ON FUNCTION embed._index_todo(text) IS 'The indexes that can be built now, with the statements for it, and whether the caller may run these: only a table''s owner may.';

CREATE OR REPLACE FUNCTION embed._may_note(vectorizer integer)
RETURNS boolean
LANGUAGE sql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
    SELECT session_user = current_user OR COALESCE(pg_has_role(session_user, to_regrole('embed_worker')::oid, 'MEMBER'), false) OR EXISTS (
        SELECT FROM embed._vectorizer AS v JOIN pg_class AS c ON c.oid = v.source
        WHERE v.id = vectorizer AND pg_has_role(session_user, c.relowner, 'MEMBER'))
$$;
COMMENT ON FUNCTION embed._may_note(integer) IS 'Whether the session may note figures of a vectorizer''s index: workers may, and its table''s owner.';

CREATE OR REPLACE FUNCTION embed._index_counted_v1(vectorizer integer, rows bigint)
RETURNS void
LANGUAGE sql
VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, embed, pg_temp
AS $$
    UPDATE embed._index AS i SET rows = _index_counted_v1.rows
    WHERE i.vectorizer_id = vectorizer AND i.rows IS DISTINCT FROM _index_counted_v1.rows AND embed._may_note(i.vectorizer_id)
$$;
COMMENT ON FUNCTION embed._index_counted_v1(integer, bigint) IS 'Note how many rows were counted, for those who may not count.';

CREATE OR REPLACE FUNCTION embed._index_done_v1(vectorizer integer, error text, needs_owner boolean)
RETURNS void
LANGUAGE sql
VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, embed, pg_temp
AS $$
    UPDATE embed._index AS i
    SET error = _index_done_v1.error, needs_owner = _index_done_v1.needs_owner, tried_at = clock_timestamp(),
        built_rows = CASE WHEN _index_done_v1.error IS NULL AND NOT _index_done_v1.needs_owner
            THEN embed._rows_by_statistics((embed._dense_target(i.vectorizer_id)).source) ELSE i.built_rows END,
        failures = CASE WHEN _index_done_v1.error IS NULL OR _index_done_v1.needs_owner THEN 0 ELSE i.failures + 1 END
    WHERE i.vectorizer_id = vectorizer
        AND (NOT _index_done_v1.needs_owner OR NOT i.needs_owner) AND embed._may_note(i.vectorizer_id)
$$;
COMMENT ON FUNCTION embed._index_done_v1(integer, text, boolean) IS 'Note how an attempt to build an index ended: NULL is success; needs_owner, that whoever tried may not.';

CREATE OR REPLACE FUNCTION embed._index_recalled_v1(vectorizer integer, ef_search integer)
RETURNS void
LANGUAGE sql
VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, embed, pg_temp
AS $$
    UPDATE embed._index AS i SET ef_search = _index_recalled_v1.ef_search
    WHERE i.vectorizer_id = vectorizer AND _index_recalled_v1.ef_search BETWEEN 1 AND 1000 AND embed._may_note(i.vectorizer_id)
$$;
COMMENT ON FUNCTION embed._index_recalled_v1(integer, integer) IS 'Note which hnsw.ef_search an index of signs takes to find ten rows well; searches follow it.';

CREATE OR REPLACE FUNCTION embed._vectorizer_id_v1(vectorizer text)
RETURNS integer
LANGUAGE sql
STABLE PARALLEL SAFE SECURITY DEFINER
SET search_path = pg_catalog, embed, pg_temp
AS $$ SELECT embed._vectorizer_id(vectorizer) $$;
COMMENT ON FUNCTION embed._vectorizer_id_v1(text) IS 'embed._vectorizer_id for readers, too.';

CREATE OR REPLACE FUNCTION embed.create_index(
    vectorizer text,
    kind text DEFAULT 'auto',
    m integer DEFAULT NULL,
    ef_construction integer DEFAULT NULL,
    min_rows bigint DEFAULT 10000,
    memory text DEFAULT NULL,
    parallel_workers integer DEFAULT NULL
)
RETURNS text
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    v embed._vectorizer := embed._own_vectorizer(vectorizer);
    target record;
BEGIN
    SELECT * INTO target FROM embed._dense_target(v.id);
    PERFORM embed._check_index(kind, m, ef_construction, min_rows, memory, parallel_workers);
    IF target.source IS NULL AND kind <> 'none' THEN
        PERFORM embed._fail('PE003', format('vectorizer %L has no column of dense vectors to index', v.name),
            'sparse vectors and token vectors need no index of pgvector');
    ELSIF kind = 'hnsw' AND target.dimensions > 4000 THEN
        PERFORM embed._fail('PE003', format('pgvector indexes 4000 dimensions at most, and %I has %s', target.column_name, target.dimensions), 'use ''binary'' or ''auto''');
    END IF;
    IF kind = 'none' THEN
        DELETE FROM embed._index AS i WHERE i.vectorizer_id = v.id;
    ELSE
        INSERT INTO embed._index AS i (vectorizer_id, kind, m, ef_construction, min_rows, memory, parallel_workers)
        VALUES (v.id, kind, m, ef_construction, COALESCE(min_rows, 10000), pg_size_bytes(memory), parallel_workers)
        ON CONFLICT (vectorizer_id) DO UPDATE SET kind = excluded.kind, m = excluded.m, ef_construction = excluded.ef_construction, min_rows = excluded.min_rows,
            memory = excluded.memory, parallel_workers = excluded.parallel_workers, error = NULL, needs_owner = false, failures = 0, tried_at = NULL, ef_search = NULL;
        PERFORM pg_notify('pg_embed_work', 'catalog');
    END IF;
    RETURN (SELECT format('%s: %s', l.state, l.explanation) FROM embed._index_look_v1(v.id, NULL, NULL, NULL, NULL, NULL) AS l);
END $$;
COMMENT ON FUNCTION embed.create_index(text, text, integer, integer, bigint, text, integer) IS
    'Ask for an index over a vectorizer''s dense vectors, and for it to be looked after. It is built after the backfill, CONCURRENTLY, by a worker that may (only a table''s owner may) or by pg-embed index. auto: none below min_rows, HNSW to 4,000 dimensions, of the signs of the vectors beyond; built anew when the table outgrows it. memory is maintenance_work_mem for the build, as in ''2GB''. none: stop looking after it; an index that is there stays. Returns how it stands.';

CREATE OR REPLACE FUNCTION embed.index_plan(
    vectorizer text,
    kind text DEFAULT NULL,
    m integer DEFAULT NULL,
    ef_construction integer DEFAULT NULL,
    min_rows bigint DEFAULT NULL
)
RETURNS TABLE (
    vectorizer_name text, chosen text, state text, rows bigint, ddl text, index_bytes bigint, memory_bytes bigint, seconds numeric, remarks text
)
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    wanted integer := embed._vectorizer_id_v1(index_plan.vectorizer);
    asked text := index_plan.kind;
    l record := embed._index_look_v1(wanted, NULL, NULL, NULL, NULL, NULL);
    cost record;
    given bigint;
    processes integer;
    seen bigint;
BEGIN
    IF l.source IS NULL THEN
        PERFORM embed._fail('PE003', format('vectorizer %L has no column of dense vectors to index', l.name), 'sparse vectors and token vectors need no index of pgvector');
    END IF;
    asked := COALESCE(asked, CASE WHEN l.wanted = 'none' THEN 'auto' END);
    PERFORM embed._check_index(COALESCE(asked, 'auto'), index_plan.m, index_plan.ef_construction, index_plan.min_rows, NULL, NULL);
    IF asked = 'hnsw' AND l.dimensions > 4000 THEN
        PERFORM embed._fail('PE003', format('pgvector indexes 4000 dimensions at most, and %I has %s', l.column_name, l.dimensions), 'use ''binary'' or ''auto''');
    END IF;
    seen := embed._count_rows(l.source);
    l := embed._index_look_v1(wanted, seen, asked, index_plan.m, index_plan.ef_construction, index_plan.min_rows);
    vectorizer_name := l.name;
    chosen := l.chosen;
    state := l.state;
    rows := l.rows;
    remarks := l.explanation;
    IF l.chosen <> 'none' THEN
        SELECT * INTO cost FROM embed._index_estimate(l.column_type, l.chosen, l.dimensions, l.m, l.ef_construction, l.rows);
        index_bytes := cost.bytes;
        memory_bytes := cost.memory;
        given := COALESCE(l.memory, pg_size_bytes(current_setting('maintenance_work_mem')));
        -- as plan_create_index_workers of Postgres does: by the pages of the table itself, without what is out of line; 32 MB a process
        SELECT greatest(0, least(COALESCE(l.parallel_workers, current_setting('max_parallel_maintenance_workers')::integer), given / 33554432 - 1,
            COALESCE(max(o.option_value::integer), max(CASE WHEN p.bytes >= p.least_bytes THEN 1 + floor(log(3.0, p.bytes::numeric / p.least_bytes)) ELSE 0 END)))) + 1
        INTO processes
        FROM embed._index_tree(l.source) AS t JOIN pg_class AS c ON c.oid = t.relation
        LEFT JOIN LATERAL (SELECT * FROM pg_options_to_table(c.reloptions) AS r WHERE r.option_name = 'parallel_workers') AS o ON true,
        LATERAL (SELECT pg_relation_size(t.relation) AS bytes, greatest(pg_size_bytes(current_setting('min_parallel_table_scan_size')), 1) AS least_bytes) AS p
        WHERE t.leaf;
        -- parallel processes share the work at about 70 % each; a graph that spills is built five times slower
        seconds := round(cost.seconds / CASE WHEN processes > 1 THEN 0.7 * processes ELSE 1 END * CASE WHEN cost.memory > given THEN 5 ELSE 1 END + 0.05, 1);
        IF l.steps <> '{}' THEN
            ddl := concat(CASE WHEN l.memory IS NOT NULL THEN format('SET maintenance_work_mem = %L;' || chr(10), (l.memory / 1024) || 'kB') END,
                CASE WHEN l.parallel_workers IS NOT NULL THEN format('SET max_parallel_maintenance_workers = %s;' || chr(10), l.parallel_workers) END,
                array_to_string(l.steps, ';' || chr(10)), ';');
        END IF;
        remarks := concat_ws('; ', remarks,
            CASE WHEN cost.memory > given THEN format('maintenance_work_mem is %s and the graph needs %s: it spills, and takes about five times as long; give memory => %L to embed.create_index, where the server has it',
                pg_size_pretty(given), pg_size_pretty(cost.memory), ceil(cost.memory * 1.1 / 1048576) || 'MB') END,
            CASE WHEN processes > 1 THEN format('%s processes', processes)
                ELSE 'one process; ALTER TABLE ... SET (parallel_workers = ...) would give it more, however small Postgres finds the table' END,
            CASE WHEN l.chosen = 'binary' THEN format('embed.search looks for 160 candidates or more and scores them by the full vectors') END);
    END IF;
    RETURN NEXT;
END $$;
COMMENT ON FUNCTION embed.index_plan(text, text, integer, integer, bigint) IS
    'What embed.create_index would build (by default what was asked for, or auto) and what it costs: the statements, bytes of the index, bytes of memory to build it without spilling, about how many seconds. Counts the rows where the table was never analyzed.';

CREATE OR REPLACE FUNCTION embed._index_bytes(index oid)
RETURNS bigint
LANGUAGE sql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
    WITH RECURSIVE parts AS (
        SELECT index AS part WHERE index IS NOT NULL
        UNION ALL
        SELECT i.inhrelid FROM parts AS p JOIN pg_inherits AS i ON i.inhparent = p.part
    )
    SELECT sum(pg_relation_size(p.part))::bigint FROM parts AS p
$$;
COMMENT ON FUNCTION embed._index_bytes(oid) IS 'The size of an index, with its partitions.';

CREATE OR REPLACE FUNCTION embed.indexes(vectorizer text DEFAULT NULL)
RETURNS TABLE (
    vectorizer_name text, source regclass, column_name text, index_name text, wanted text, kind text, state text, phase text, progress numeric,
    rows bigint, bytes bigint, explanation text, error text
)
LANGUAGE sql
VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, embed, pg_temp
AS $$
    SELECT l.name, l.source::regclass, l.column_name, COALESCE(c.relname, b.relname)::text, l.wanted, l.chosen,
        l.state, CASE WHEN l.state = 'building' THEN p.phase END,
        CASE WHEN l.state = 'building' THEN round(100.0 * p.blocks_done / NULLIF(p.blocks_total, 0), 1) END,
        l.rows, embed._index_bytes(l.index), l.explanation, l.error
    FROM embed._vectorizer AS v, LATERAL embed._index_look_v1(v.id, NULL, NULL, NULL, NULL, NULL) AS l
    LEFT JOIN pg_class AS c ON c.oid = l.index
    LEFT JOIN LATERAL (
        SELECT s.* FROM pg_stat_progress_create_index AS s JOIN embed._index_tree(l.source) AS t ON t.relation = s.relid LIMIT 1
    ) AS p ON l.state = 'building'
    LEFT JOIN pg_class AS b ON b.oid = p.index_relid
    WHERE l.source IS NOT NULL AND (indexes.vectorizer IS NULL OR v.id = embed._vectorizer_id(indexes.vectorizer))
    ORDER BY l.name
$$;
COMMENT ON FUNCTION embed.indexes(text) IS
    'The index over each vectorizer''s dense vectors: none, planned, building (with phase, and progress in per cent), valid, stale, invalid or failed, and why.';

CREATE OR REPLACE VIEW embed.indexes AS SELECT * FROM embed.indexes();
COMMENT ON VIEW embed.indexes IS 'embed.indexes() of every vectorizer.';

CREATE OR REPLACE FUNCTION embed._search_forms(
    source oid, attnum smallint, metric text, kind text, query text, OUT distance text, OUT nearest text, OUT best text
)
LANGUAGE sql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
    -- $2 results; $3 candidates, where the index gives candidates only
    SELECT f.distance,
        format('SELECT %s AS d FROM %s AS r ORDER BY %s LIMIT $2', f.distance, f.source, f.distance),
        CASE WHEN f.approximate = f.distance THEN format('SELECT %s AS d FROM %s AS r ORDER BY %s LIMIT $2', f.distance, f.source, f.distance)
            ELSE format('SELECT %s AS d FROM (SELECT r.%s FROM %s AS r ORDER BY %s LIMIT $3) AS r ORDER BY d LIMIT $2', f.distance, f.quoted, f.source, f.approximate) END
    FROM (
        SELECT format('r.%s OPERATOR(%s.%s) %s::%s.%s(%s)', p.quoted, p.home, p.operator, p.query, p.home, p.type, p.size) AS distance,
            CASE WHEN kind = 'binary' THEN format('(%s.binary_quantize(r.%s)::bit(%s)) OPERATOR(%1$s.<~>) %1$s.binary_quantize(%4$s::%1$s.%5$s(%3$s))::bit(%3$s)',
                    p.home, p.quoted, p.size, p.query, p.type)
                WHEN p.type = 'vector' AND p.size > 2000 THEN format('(r.%s::%s.halfvec(%s)) OPERATOR(%2$s.%4$s) %5$s::%2$s.halfvec(%3$s)', p.quoted, p.home, p.size, p.operator, p.query)
                ELSE format('r.%s OPERATOR(%s.%s) %s::%s.%s(%s)', p.quoted, p.home, p.operator, p.query, p.home, p.type, p.size) END AS approximate,
            embed._source_name(source) AS source, p.quoted
        FROM (
            SELECT quote_ident(a.attname) AS quoted, t.typname AS type, a.atttypmod AS size, embed._vector_schema() AS home, query,
                CASE metric WHEN 'ip' THEN '<#>' WHEN 'l2' THEN '<->' ELSE '<=>' END AS operator
            FROM pg_attribute AS a JOIN pg_type AS t ON t.oid = a.atttypid WHERE a.attrelid = source AND a.attnum = _search_forms.attnum
        ) AS p
    ) AS f
$$;
COMMENT ON FUNCTION embed._search_forms(oid, smallint, text, text, text) IS
    'How the nearest rows r of a query are found: the distance; the statement for all of them, $2 at most; and the one that an index of a kind serves, which rescores $3 candidates where the index is not over the column itself.';

CREATE OR REPLACE FUNCTION embed._timed(query vector, statement text, depth integer, candidates integer, OUT distances double precision[], OUT ms double precision)
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    began timestamptz := clock_timestamp();
BEGIN
    EXECUTE format('SELECT COALESCE(array_agg(n.d ORDER BY n.d), ''{}'') FROM (%s) AS n WHERE n.d IS NOT NULL', statement) INTO distances USING query, depth, candidates;
    ms := extract(epoch FROM clock_timestamp() - began) * 1000;
END $$;
COMMENT ON FUNCTION embed._timed(vector, text, integer, integer) IS 'The distances that a search gives, in order, and how long it took.';

CREATE OR REPLACE FUNCTION embed._hits(found double precision[], exact double precision[])
RETURNS double precision
LANGUAGE sql
IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
    -- The query is a row itself: the best one does not count. Rows at one distance are as good as each other.
    SELECT CASE WHEN cardinality(exact) < 2 THEN 1.0 ELSE
        least((SELECT count(*) FROM unnest(found) AS f(d) WHERE f.d <= exact[cardinality(exact)] + 1e-9) - (found[1] <= exact[1] + 1e-9)::integer, cardinality(exact) - 1)
        / (cardinality(exact) - 1.0) END
$$;
COMMENT ON FUNCTION embed._hits(double precision[], double precision[]) IS 'What share of the exact results, but the query itself, a search has found, by their distances.';

CREATE OR REPLACE FUNCTION embed._recall_target_v1(vectorizer text, OUT id integer, OUT source oid, OUT attnum smallint, OUT column_name text, OUT metric text, OUT kind text, OUT rows bigint)
LANGUAGE sql
VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, embed, pg_temp
AS $$
    SELECT v.id, t.source, t.attnum, t.column_name, t.metric,
        (SELECT k.kind FROM (VALUES ('hnsw'), ('binary')) AS k(kind), LATERAL embed._index_shape(t.source, t.attnum, t.metric, k.kind) AS s,
            LATERAL embed._found_indexes(t.source, s.expression, s.opclass) AS f WHERE f.valid ORDER BY k.kind DESC LIMIT 1),
        embed._rows_by_statistics(t.source)
    FROM (SELECT embed._vectorizer_id(vectorizer) AS id) AS v, LATERAL embed._dense_target(v.id) AS t
$$;
COMMENT ON FUNCTION embed._recall_target_v1(text) IS 'The column of a vectorizer''s dense vectors, and the kind of the valid index over it.';

CREATE OR REPLACE FUNCTION embed.recall(vectorizer text, k integer DEFAULT 10, samples integer DEFAULT 50, seconds double precision DEFAULT 30)
RETURNS TABLE (
    recall numeric, index_p50_ms numeric, index_p95_ms numeric, exact_p50_ms numeric, exact_p95_ms numeric,
    ef_search integer, ef_search_95 integer, ef_search_99 integer, sampled integer, index_name text, tried jsonb, remarks text
)
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    target record;
    forms record;
    queries text[];
    home text := embed._vector_schema();
    call text := format('SELECT * FROM embed._timed($1::%s.vector, $2, $3, $4)', home);
    kept jsonb;
    ending timestamptz := clock_timestamp() + make_interval(secs => seconds / 2);
    plan json;
    one record;
    query text;
    truth jsonb := '[]';
    times double precision[] := '{}';
    ef integer;
    now_ef integer;
    good integer;
    scored integer := greatest((embed._dense_depth('{"kind": "binary"}', k, 1)).rescored, k + 1);
    found double precision;
    n integer;
BEGIN
    IF k IS NULL OR k NOT BETWEEN 1 AND 500 THEN
        PERFORM embed._fail('PE003', format('k is %s', k), 'set it between 1 and 500');
    ELSIF samples IS NULL OR samples NOT BETWEEN 1 AND 10000 THEN
        PERFORM embed._fail('PE003', format('samples is %s', samples), 'set it between 1 and 10000');
    ELSIF seconds IS NULL OR seconds <= 0 OR seconds > 3600 THEN
        PERFORM embed._fail('PE003', format('seconds is %s', seconds), 'set it above 0, up to 3600');
    END IF;
    SELECT * INTO target FROM embed._recall_target_v1(vectorizer);
    IF target.source IS NULL THEN
        PERFORM embed._fail('PE003', format('vectorizer %L has no column of dense vectors', vectorizer), 'recall is that of an index over these');
    END IF;
    forms := embed._search_forms(target.source, target.attnum, target.metric, COALESCE(target.kind, 'none'), '$1');
    -- pages at random where there are many rows
    EXECUTE format('SELECT array_agg(s.v) FROM (SELECT r.%1$I::text AS v FROM %2$s AS r TABLESAMPLE SYSTEM (%3$s) WHERE r.%1$I IS NOT NULL ORDER BY random() LIMIT $1) AS s',
        target.column_name, embed._source_name(target.source), least(100, 100.0 * 100 * samples / greatest(target.rows, 1))::numeric) INTO queries USING samples;
    IF queries IS NULL THEN
        EXECUTE format('SELECT array_agg(s.v) FROM (SELECT r.%1$I::text AS v FROM %2$s AS r WHERE r.%1$I IS NOT NULL LIMIT $1) AS s',
            target.column_name, embed._source_name(target.source)) INTO queries USING samples;
    END IF;
    IF queries IS NULL THEN
        PERFORM embed._fail('PE003', format('no row of %s has a vector yet', target.source::regclass), 'see embed.status');
    END IF;
    SELECT jsonb_object_agg(s.name, current_setting(s.name, true)) INTO kept
    FROM unnest(ARRAY['enable_seqscan', 'enable_indexscan', 'hnsw.ef_search']) AS s(name);
    PERFORM set_config('enable_indexscan', 'off', true);
    FOREACH query IN ARRAY queries LOOP
        EXECUTE call INTO one USING query, forms.nearest, k + 1, NULL::integer;
        IF times = '{}' THEN
            -- once more, now that the cache is warm
            EXECUTE call INTO one USING query, forms.nearest, k + 1, NULL::integer;
        END IF;
        times := times || one.ms;
        truth := truth || jsonb_build_array(to_jsonb(one.distances));
        EXIT WHEN clock_timestamp() > ending;
    END LOOP;
    sampled := cardinality(times);
    SELECT round(percentile_cont(0.5) WITHIN GROUP (ORDER BY t.ms)::numeric, 3), round(percentile_cont(0.95) WITHIN GROUP (ORDER BY t.ms)::numeric, 3)
    INTO exact_p50_ms, exact_p95_ms FROM unnest(times) AS t(ms);
    PERFORM set_config('enable_indexscan', 'on', true), set_config('enable_seqscan', 'off', true);
    EXECUTE format('EXPLAIN (FORMAT JSON, COSTS OFF) %s', replace(replace(replace(forms.best, '$1', quote_literal(queries[1])), '$2', (k + 1)::text), '$3', (k + 1)::text)) INTO plan;
    index_name := (regexp_match(plan::text, '"Index Name": "([^"]*)"'))[1];
    IF index_name IS NULL OR target.kind IS NULL THEN
        index_name := NULL;
        recall := 1;
        remarks := 'no index over the vectors is used: every search is exact';
    ELSE
        ending := clock_timestamp() + make_interval(secs => seconds / 2);
        now_ef := greatest(COALESCE(NULLIF(kept ->> 'hnsw.ef_search', ''), '40')::integer, k + 1, CASE target.kind WHEN 'binary' THEN (SELECT (embed._dense_depth(l.leg -> 'indexed', k, 1)).seen
            FROM jsonb_array_elements(embed._search_legs_v1(target.source, NULL, 'dense', false) #> '{legs,dense}') AS l(leg) WHERE (l.leg ->> 'vectorizer')::integer = target.id) END);
        tried := '{}';
        -- first as searches are now
        FOR ef IN SELECT c.ef FROM (SELECT DISTINCT e.ef FROM unnest(ARRAY[now_ef, 40, 80, 160, 320, 640, 1000]) AS e(ef)) AS c
            WHERE c.ef > k ORDER BY c.ef <> now_ef, c.ef
        LOOP
            CONTINUE WHEN ef_search_99 < ef;
            PERFORM set_config('hnsw.ef_search', ef::text, true);
            times := '{}';
            found := 0;
            FOR n IN 1..sampled LOOP
                EXECUTE call INTO one USING queries[n], forms.best, k + 1, least(ef, scored);
                IF n = 1 THEN
                    EXECUTE call INTO one USING queries[n], forms.best, k + 1, least(ef, scored);
                END IF;
                times := times || one.ms;
                found := found + embed._hits(one.distances, ARRAY(SELECT d.v::double precision FROM jsonb_array_elements_text(truth -> (n - 1)) WITH ORDINALITY AS d(v, i) ORDER BY d.i));
                EXIT WHEN clock_timestamp() > ending;
            END LOOP;
            found := found / cardinality(times);
            tried := tried || jsonb_build_object(ef::text, round(found::numeric, 4));
            IF recall IS NULL THEN
                recall := round(found::numeric, 4);
                ef_search := ef;
                SELECT round(percentile_cont(0.5) WITHIN GROUP (ORDER BY t.ms)::numeric, 3), round(percentile_cont(0.95) WITHIN GROUP (ORDER BY t.ms)::numeric, 3)
                INTO index_p50_ms, index_p95_ms FROM unnest(times) AS t(ms);
            END IF;
            good := CASE WHEN found >= 0.97 THEN least(good, ef) ELSE good END;
            ef_search_95 := CASE WHEN found >= 0.95 THEN least(ef_search_95, ef) ELSE ef_search_95 END;
            ef_search_99 := CASE WHEN found >= 0.99 THEN least(ef_search_99, ef) ELSE ef_search_99 END;
            EXIT WHEN clock_timestamp() > ending;
        END LOOP;
        IF target.kind = 'binary' AND k = 10 AND good IS NOT NULL AND NOT current_setting('transaction_read_only')::boolean THEN
            PERFORM embed._index_recalled_v1(target.id, good);
        END IF;
        remarks := concat_ws('; ',
            CASE WHEN ef_search_99 IS NULL THEN 'no hnsw.ef_search that was tried reaches a recall of 0.99' ELSE format('SET hnsw.ef_search = %s for a recall of 0.99', ef_search_99) END,
            CASE WHEN target.kind = 'binary' THEN format('%s candidates are rescored by the full vectors', least(ef_search, scored)) END,
            CASE WHEN clock_timestamp() > ending THEN 'the time was over before all was tried' END);
    END IF;
    PERFORM set_config(s.key, COALESCE(s.value, '40'), true) FROM jsonb_each_text(kept) AS s WHERE s.value IS NOT NULL OR s.key = 'hnsw.ef_search';
    RETURN NEXT;
END $$;
COMMENT ON FUNCTION embed.recall(text, integer, integer, double precision) IS
    'How well the index over a vectorizer''s dense vectors finds: stored vectors as queries, its k nearest against those of an exact search, as hnsw.ef_search is now (recall, milliseconds of both) and for other values of it (tried); ef_search_95 and _99 are the least of those that reach such a recall. For an index of signs and k => 10 it notes the least that reaches 0.97, where the caller owns the table, and searches look among as many. With the caller''s rights, and about so many seconds; a single exact search may take longer.';

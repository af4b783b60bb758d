-- Searching: the dense and the sparse leg, fused; all of it with the caller's rights on the table. The statement is written
-- under our search_path and run under the caller's, as if the caller had typed it: policies and operators of extensions hold.

CREATE OR REPLACE FUNCTION embed._leg_index(source oid, attnum smallint, metric text)
RETURNS jsonb
LANGUAGE plpgsql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
BEGIN
    RETURN (SELECT jsonb_build_object('kind', f.kind, 'size', f.size, 'bytes', f.bytes, 'partial', f.partial)
    FROM (
        SELECT a.atttypmod AS size, a.atttypmod * CASE t.typname WHEN 'vector' THEN 4 ELSE 2 END AS bytes, i.indpred IS NOT NULL AS partial, i.indexrelid,
            CASE WHEN i.indkey[0] = a.attnum THEN CASE k.opcname WHEN format('%s_%s_ops', t.typname, metric) THEN 'column' END
                WHEN k.opcname = 'bit_hamming_ops' AND embed._bare(pg_get_indexdef(i.indexrelid, 1, false)) = embed._bare(format('binary_quantize(%I)::bit(%s)', a.attname, a.atttypmod)) THEN 'binary'
                WHEN k.opcname = format('halfvec_%s_ops', metric) AND embed._bare(pg_get_indexdef(i.indexrelid, 1, false)) = embed._bare(format('%I::halfvec(%s)', a.attname, a.atttypmod)) THEN 'halfvec'
            END AS kind
        FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid JOIN pg_am AS w ON w.oid = c.relam JOIN pg_opclass AS k ON k.oid = i.indclass[0]
        JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = _leg_index.attnum JOIN pg_type AS t ON t.oid = a.atttypid
        WHERE i.indrelid = source AND i.indkey[0] IN (0, a.attnum) AND i.indisvalid AND w.amname IN ('hnsw', 'ivfflat')
    ) AS f
    WHERE f.kind IS NOT NULL
    -- by how much of a vector is in it
    ORDER BY f.partial, array_position('{column,halfvec,binary}', f.kind), f.indexrelid LIMIT 1);
END $$;
COMMENT ON FUNCTION embed._leg_index(oid, smallint, text) IS
    'The index by which rows are found by a column of dense vectors: of the column, of it as halfvec, or of its signs (binary); NULL without one.';

CREATE OR REPLACE FUNCTION embed._search_legs_v1(source oid, vectorizer text, mode text, with_input boolean)
RETURNS jsonb
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, embed, pg_temp
SET enable_seqscan = off
AS $$
DECLARE
    -- Small look-ups by key: a search waits for this, and one statement that joins all takes six times as long to start.
    home text;
    kind "char";
    name text;
    rows double precision;
    alias text := 'r0';
    taken boolean;
    stored oid;
    v record;
    model record;
    names text[] := '{}';
    keys text[];
    target text;
    target_type text;
    stored_type regtype;
    indexed jsonb;
    legs jsonb := '{}';
BEGIN
    PERFORM embed._check_snapshot();
    SELECT c.relkind, format('%s.%I', c.relnamespace::regnamespace, c.relname), greatest(c.reltuples, 0),
        (SELECT e.extnamespace::regnamespace FROM pg_extension AS e WHERE e.extname = 'vector'),
        (SELECT true FROM pg_attribute AS a WHERE a.attrelid = source AND a.attname = 'r0')
    INTO kind, name, rows, home, taken FROM pg_class AS c WHERE c.oid = source;
    IF kind = 'p' THEN
        rows := (SELECT COALESCE(sum(greatest(l.reltuples, 0)), 0) FROM pg_partition_tree(source) AS t JOIN pg_class AS l ON l.oid = t.relid WHERE t.isleaf);
    ELSE
        name := 'ONLY ' || name;
    END IF;
    -- a name that no column has: the whole row is called by it
    IF taken THEN
        alias := (SELECT 'r' || max(substr(a.attname, 2)::integer) + 1 FROM pg_attribute AS a WHERE a.attrelid = source AND a.attname ~ '^r[0-9]{1,8}$');
    END IF;
    FOR v IN
        SELECT w.id, w.name, w.outputs, w.target_columns, w.key_columns, w.input_columns, w.template, w.filter, w AS vectorizer,
            w.numbered[:2] <> ARRAY[w.source, 'embed._vectorizer'::regclass]::oid[] AS restored
        FROM embed._vectorizer AS w WHERE w.source = _search_legs_v1.source AND w.shadow_of IS NULL ORDER BY w.name
    LOOP
        IF v.restored THEN
            SELECT w.id, w.name, w.outputs, w.target_columns, w.key_columns, w.input_columns, w.template, w.filter, w AS vectorizer, false AS restored
            INTO v FROM embed._here(v.vectorizer) AS w;
        END IF;
        names := array_append(names, v.name);
        keys := '{}';
        FOR place IN 1..cardinality(v.key_columns) LOOP
            SELECT quote_ident(a.attname) INTO target FROM pg_attribute AS a
            WHERE a.attrelid = source AND a.attnum = v.key_columns[place] AND NOT a.attisdropped;
            keys := array_append(keys, target);
        END LOOP;
        CONTINUE WHEN array_position(keys, NULL) IS NOT NULL;
        stored := embed._home(v.vectorizer);
        IF with_input AND (v.vectorizer).prepare IS NOT NULL AND stored = source AND COALESCE(v.name = _search_legs_v1.vectorizer, true) THEN
            PERFORM embed._fail('PE003', format('the texts of vectorizer %L are made by the hook %L of its workers, and nothing keeps them', v.name, (v.vectorizer).prepare),
                'search without a reranker; or keep its texts in a table of chunks: create_vectorizer(..., storage => ''table'')');
        END IF;
        FOR place IN 1..cardinality(v.outputs) LOOP
            SELECT quote_ident(a.attname), t.typname, a.atttypid INTO target, target_type, stored_type FROM pg_attribute AS a JOIN pg_type AS t ON t.oid = a.atttypid
            WHERE a.attrelid = stored AND a.attnum = v.target_columns[place] AND NOT a.attisdropped;
            -- a type of that name that is not pgvector's would be cast by whatever its owner has made
            CONTINUE WHEN target_type IS NULL OR target_type <> ALL (CASE v.outputs[place] WHEN 'sparse' THEN '{sparsevec}' WHEN 'multi' THEN '{_halfvec}' ELSE '{vector,halfvec}' END::text[]);
            target_type := format('%s.%s', home, CASE v.outputs[place] WHEN 'multi' THEN 'halfvec[]' ELSE target_type END);
            CONTINUE WHEN to_regtype(target_type) IS DISTINCT FROM stored_type;
            SELECT m.name, m.family, m.metric INTO model FROM embed._model AS m WHERE m.id = embed._model_of(v.vectorizer, v.outputs[place]);
            indexed := 'false';
            IF v.outputs[place] = 'sparse' AND mode IS DISTINCT FROM 'dense' THEN
                indexed := to_jsonb(embed._has_postings(v.id, stored));
            ELSIF v.outputs[place] = 'dense' AND mode IS DISTINCT FROM 'sparse' THEN
                indexed := COALESCE(embed._leg_index(stored, v.target_columns[place], model.metric)
                    || jsonb_build_object('ef_search', (SELECT i.ef_search FROM embed._index AS i WHERE i.vectorizer_id = v.id)), 'false');
                IF stored <> source AND (indexed ->> 'partial')::boolean THEN
                    indexed := 'false';  -- no condition over rows tells that it has all of their chunks
                END IF;
            END IF;
            legs := legs || jsonb_build_object(v.outputs[place], COALESCE(legs -> v.outputs[place], '[]') || (jsonb_build_object(
                'vectorizer', v.id, 'name', v.name, 'model', model.name, 'family', model.family, 'metric', model.metric,
                'keys', keys, 'key_columns', v.key_columns, 'column', target,
                'type', target_type, 'indexed', indexed,
                'input', CASE WHEN with_input THEN embed._input(source, v.input_columns, v.template, v.filter, alias, (v.vectorizer).prepare) END) || embed._leg_chunks(v.vectorizer, alias)));
        END LOOP;
    END LOOP;
    IF vectorizer IS NOT NULL THEN
        legs := (
            SELECT COALESCE(jsonb_object_agg(l.output, COALESCE(l.named, l.all_of_them)), '{}')
            FROM (SELECT e.key AS output, e.value AS all_of_them,
                    (SELECT jsonb_agg(p.leg) FROM jsonb_array_elements(e.value) AS p(leg) WHERE p.leg ->> 'name' = vectorizer) AS named
                FROM jsonb_each(legs) AS e) AS l);
    END IF;
    RETURN jsonb_build_object('table', name, 'rows', rows, 'alias', alias, 'home', home, 'names', names, 'legs', legs,
        'switching', EXISTS (SELECT FROM embed._vectorizer AS w WHERE w.source = _search_legs_v1.source AND w.shadow_of IS NOT NULL));
END $$;
COMMENT ON FUNCTION embed._search_legs_v1(oid, text, text, boolean) IS
    'What the vectorizers of a table give a search of a mode, by output: those of the vectorizer that is named, and of others only what it does not make. Whether there is an index is looked up for the mode''s outputs only.';

CREATE OR REPLACE FUNCTION embed._search_leg(source regclass, legs jsonb, output text)
RETURNS jsonb
LANGUAGE plpgsql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
BEGIN
    IF jsonb_array_length(legs -> output) > 1 THEN
        PERFORM embed._fail('PE002', format('several vectorizers of %s make %s', source, embed._output_names(ARRAY[output])), 'name one by vectorizer => ...: '
            || (SELECT string_agg(quote_literal(e.leg ->> 'name'), ', ') FROM jsonb_array_elements(legs -> output) AS e(leg)));
    ELSIF legs -> output IS NULL THEN
        PERFORM embed._fail('PE003', format('no vectorizer of %s makes %s', source, embed._output_names(ARRAY[output])),
            'there are ' || COALESCE(embed._output_names(ARRAY(SELECT jsonb_object_keys(legs))), 'no vectors') || '; make a vectorizer, or use another mode');
    END IF;
    RETURN legs #> ARRAY[output, '0'];
END $$;
COMMENT ON FUNCTION embed._search_leg(regclass, jsonb, text) IS 'The one vectorizer''s part that makes an output, or an error.';

CREATE OR REPLACE FUNCTION embed._search_plan(
    kind regtype, k integer, mode text, filter jsonb, fusion text, weights real[], candidates integer, rerank text, vectorizer text, condition text
)
RETURNS jsonb
LANGUAGE plpgsql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    source regclass := (SELECT NULLIF(t.typrelid, 0) FROM pg_type AS t WHERE t.oid = kind);
    told jsonb;
    legs jsonb;
    plan jsonb;
    chosen text;
    bound text[] := '{}';
    depth integer;
BEGIN
    IF source IS NULL THEN
        PERFORM embed._fail('PE003', format('embed.search is asked for rows of %s, which is no table', kind), 'name the table by its row: embed.search(NULL::docs, ...)');
    ELSIF k IS NULL OR k < 1 OR k > 10000 OR candidates IS NULL OR candidates < 1 OR candidates > 10000 THEN
        PERFORM embed._fail('PE003', format('k is %s and candidates is %s', COALESCE(k::text, 'NULL'), COALESCE(candidates::text, 'NULL')), 'both lie between 1 and 10000');
    ELSIF fusion IS NULL OR fusion NOT IN ('convex', 'rrf', 'dbsf') THEN
        PERFORM embed._fail('PE003', format('there is no fusion %L', fusion), 'use ''convex'', ''rrf'' or ''dbsf''');
    ELSIF weights IS NOT NULL AND (array_ndims(weights) IS DISTINCT FROM 1 OR cardinality(weights) <> 2 OR array_position(weights, NULL) IS NOT NULL
            OR least(weights[1], weights[2]) < 0 OR greatest(weights[1], weights[2]) NOT BETWEEN 1e-30 AND 1e30) THEN
        PERFORM embed._fail('PE003', format('the weights are %s', weights), 'give two, of the dense and of the sparse leg, none below 0 and not both 0: ARRAY[0.7, 0.3]');
    ELSIF mode NOT IN ('hybrid', 'dense', 'sparse') THEN
        PERFORM embed._fail('PE003', format('there is no mode %L', mode), 'use ''hybrid'', ''dense'' or ''sparse''');
    END IF;
    told := embed._search_legs_v1(source, vectorizer, mode, rerank <> 'multi');
    IF (told ->> 'switching')::boolean THEN
        -- columns may change places: held, and seen as they are now
        PERFORM embed._hold(told ->> 'table');
        told := embed._search_legs_v1(source, vectorizer, mode, rerank <> 'multi');
    END IF;
    IF told -> 'names' = '[]' THEN
        PERFORM embed._fail('PE003', format('table %s has no vectorizer', source), 'make one with embed.create_vectorizer(table, column)');
    ELSIF vectorizer IS NOT NULL AND NOT told -> 'names' ? vectorizer THEN
        PERFORM embed._fail('PE003', format('table %s has no vectorizer %L', source, vectorizer),
            'it has: ' || (SELECT string_agg(quote_literal(n.name), ', ') FROM jsonb_array_elements_text(told -> 'names') AS n(name)));
    END IF;
    legs := told -> 'legs';
    mode := COALESCE(mode, CASE WHEN legs ? 'dense' AND legs ? 'sparse' THEN 'hybrid' WHEN legs ? 'sparse' THEN 'sparse' ELSE 'dense' END);
    IF mode <> 'sparse' THEN
        plan := jsonb_build_object('dense', embed._search_leg(source, legs, 'dense'));
    END IF;
    IF mode <> 'dense' THEN
        plan := COALESCE(plan, '{}') || jsonb_build_object('sparse', embed._search_leg(source, legs, 'sparse'));
    END IF;
    IF rerank = 'multi' THEN
        plan := plan || jsonb_build_object('multi', embed._search_leg(source, legs, 'multi'));
    END IF;
    IF filter IS NOT NULL THEN
        SELECT f.condition, f.bound INTO chosen, bound FROM embed._filter_condition(source, filter, told ->> 'alias', '{}') AS f;
    END IF;
    depth := CASE WHEN rerank IS NULL THEN k ELSE greatest(k, least(candidates, CASE rerank WHEN 'multi' THEN 100 ELSE 50 END)) END;
    RETURN told - '{legs,switching}'::text[] || plan || jsonb_build_object(
        'source', source::oid,
        'mode', mode,
        'condition', NULLIF(concat_ws(' AND ', chosen, '(' || condition || E'\n)'), ''),
        'bound', bound,
        'fusion', fusion,
        'reranked', rerank IS NOT NULL,
        'depth', depth,
        'candidates', CASE mode WHEN 'hybrid' THEN greatest(candidates, depth) ELSE depth END,
        'weights', COALESCE(weights, CASE fusion WHEN 'convex' THEN '{}'::real[] ELSE '{1,1}' END)
    );
END $$;
COMMENT ON FUNCTION embed._search_plan(regtype, integer, text, jsonb, text, real[], integer, text, text, text) IS
    'All that a search needs to know before it asks the model, or an error: table, legs, condition and the values bound to it.';

CREATE OR REPLACE FUNCTION embed._search_asks_v1(source anyelement, mode text DEFAULT NULL, rerank text DEFAULT NULL, vectorizer text DEFAULT NULL)
RETURNS TABLE (output text, name text, family text, options jsonb, space_id text, size integer)
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    plan jsonb := embed._search_plan(pg_typeof(source), 1, mode, NULL, 'convex', NULL, 1, rerank, vectorizer, NULL);
BEGIN
    RETURN QUERY SELECT o.output, m.name, m.family, m.options, m.space_id, m.size
        FROM unnest('{dense,sparse,multi}'::text[]) AS o(output)
        CROSS JOIN LATERAL embed._given_model_v1(plan #>> ARRAY[o.output, 'model'], o.output) AS m;
END $$;
COMMENT ON FUNCTION embed._search_asks_v1(anyelement, text, text, text) IS
    'What a search asks of models for its query, for those who make the vectors themselves and give them by _give_vectors_v1.';

CREATE OR REPLACE FUNCTION embed._search_estimate(relation text, alias text, condition text, bound text[])
RETURNS double precision
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
AS $$
DECLARE
    told json;
BEGIN
    EXECUTE pg_catalog.format('EXPLAIN (FORMAT JSON) SELECT FROM %s AS %s WHERE %s', relation, alias, pg_catalog.concat_ws(' AND ', condition, '$1 IS NULL AND $2 IS NULL'))
    INTO told USING NULL::text, NULL::text, bound;
    RETURN told -> 0 -> 'Plan' ->> 'Plan Rows';
END $$;
COMMENT ON FUNCTION embed._search_estimate(text, text, text, text[]) IS
    'How many rows the planner expects to meet a condition, row-level security included. With the caller''s search_path, as the search itself.';

CREATE OR REPLACE FUNCTION embed._dense_depth(indexed jsonb, wanted integer, share double precision, OUT rescored integer, OUT reach integer, OUT seen integer)
LANGUAGE plpgsql
IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    -- Of signs alone the graph leads astray sooner than the signs do: of 50,000 vectors of 4,096 d that lie in 128, it took
    -- an ef_search of 320 to have 0.97 of the best 10, whether 100 of these were scored in full or all. Where vectors lie in
    -- fewer, less will do; how much for ten results, embed.recall notes.
    noted double precision := COALESCE((indexed ->> 'ef_search')::double precision, 320);
    most integer := greatest(160, 3 * wanted);
    kind text := indexed ->> 'kind';
BEGIN
    rescored := CASE kind
        WHEN 'binary' THEN greatest(ceil(most * least(1, noted / 160))::integer, wanted)
        WHEN 'halfvec' THEN wanted + wanted / 4 + 10
        WHEN 'column' THEN CASE WHEN share < 1 THEN 2 * wanted ELSE wanted END
        ELSE wanted END;
    reach := CASE WHEN share < 1 THEN least(greatest(ceil(1.5 * rescored / share), rescored), 20000)::integer ELSE rescored END;
    seen := least(greatest(reach, CASE kind WHEN 'binary' THEN ceil(most * noted / 160)::integer ELSE 2 * wanted END), 1000);
END $$;
COMMENT ON FUNCTION embed._dense_depth(jsonb, integer, double precision) IS
    'For so many rows, of which a condition leaves a share: how many are scored by their full vectors, among how many of the index''s first they are sought, and its ef_search.';

CREATE OR REPLACE FUNCTION embed._nearness(plan jsonb)
RETURNS text
LANGUAGE plpgsql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    dense jsonb := plan -> 'dense';
BEGIN
    RETURN format(CASE dense #>> '{indexed,kind}' WHEN 'binary' THEN '(%1$s.binary_quantize(%2$s)::bit(%3$s)) OPERATOR(%1$s.<~>) %1$s.binary_quantize($1::%4$s)::bit(%3$s)'
            WHEN 'halfvec' THEN '(%2$s::%1$s.halfvec(%3$s)) OPERATOR(%1$s.%5$s) $1::%1$s.halfvec(%3$s)'
            ELSE '%2$s OPERATOR(%1$s.%5$s) $1::%4$s' END,
        plan ->> 'home', embed._leg_vector(dense, plan ->> 'alias'), dense #>> '{indexed,size}', dense ->> 'type',
        CASE dense ->> 'metric' WHEN 'cosine' THEN '<=>' WHEN 'ip' THEN '<#>' ELSE '<->' END);
END $$;
COMMENT ON FUNCTION embed._nearness(jsonb) IS 'The expression by which the index of a search is ordered; without one, the distance.';

CREATE OR REPLACE FUNCTION embed._serves(plan jsonb, query text, bound text[])
RETURNS boolean
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET enable_sort = off
AS $$
DECLARE
    told json;
BEGIN
    EXECUTE pg_catalog.format('EXPLAIN (FORMAT JSON, COSTS OFF) SELECT FROM %s AS %s WHERE %s AND %2$s.%4$s IS NOT NULL ORDER BY %5$s LIMIT 1',
        plan ->> 'table', plan ->> 'alias', pg_catalog.concat_ws(' AND ', plan ->> 'condition', '$2 IS NULL AND $3 IS NOT NULL'), plan #>> '{dense,column}', embed._nearness(plan))
    INTO told USING query, NULL::text, bound;
    RETURN told::text LIKE '%"Order By"%';
END $$;
COMMENT ON FUNCTION embed._serves(jsonb, text, text[]) IS
    'Whether a partial index serves a search: the planner takes it only where the condition tells that all rows of it are in the index. With the caller''s search_path, as the search itself.';

CREATE OR REPLACE FUNCTION embed._dense_leg(plan jsonb, keys text, keyed text, distance text)
RETURNS text
LANGUAGE plpgsql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    dense jsonb := plan -> 'dense';
    kind text := plan #>> '{dense,indexed,kind}';
    vector text := format('%s.%s', plan ->> 'alias', dense ->> 'column');
    relation text := format('%s AS %s', plan ->> 'table', plan ->> 'alias');
    condition text := COALESCE(plan ->> 'condition', 'true');
    found text := format('SELECT %s, %s AS d, NULL::float8 AS s FROM %s WHERE %s', keyed, distance, relation, condition);
    partial boolean := (dense #>> '{indexed,partial}')::boolean;
    nearer text;
    farther boolean := NOT partial AND plan ->> 'condition' IS NOT NULL;
    depth record;
BEGIN
    IF kind IS NOT NULL AND dense ? 'chunks' THEN
        RETURN embed._chunk_leg(plan, keys, keyed, distance);
    ELSIF kind IS NULL THEN
        RETURN format('%s ORDER BY d, %s LIMIT $4', found, keys);
    END IF;
    depth := embed._dense_depth(dense -> 'indexed', (plan ->> 'candidates')::integer, LEAST((plan ->> 'share')::float8, CASE WHEN plan ->> 'condition' IS NULL THEN 1 ELSE 0.99 END));
    nearer := CASE kind WHEN 'column' THEN 'NULLIF(n.k_order, ''NaN''::float8)' ELSE replace(distance, vector || ' OPERATOR', 'n.k_vector OPERATOR') END;
    -- The condition is looked at behind the index: so those that meet it are the nearest that do, or too few. Only a partial
    -- index has to be told, and policies are there anyway. Rows without a vector are in none. Where too few of the nearest meet
    -- it, it goes into the scan, which then passes over rows that are in its way and finds others than the nearest: of 200,000
    -- rows, of which a half met a condition far from the query, 0.68 of the best hundred were among the first hundred that it
    -- gave, and 0.91 among the first 800. Where these are fewer than that, all rows are scored.
    RETURN format('WITH _seen AS MATERIALIZED (SELECT %1$s, %2$s AS k_vector, %3$s AS k_order, %4$s AS k_met FROM %5$s WHERE %6$s AND %2$s IS NOT NULL ORDER BY %3$s LIMIT %7$s),
        _near AS MATERIALIZED (SELECT %8$s, %9$s AS d, NULL::float8 AS s FROM (SELECT * FROM _seen AS n WHERE n.k_met ORDER BY n.k_order LIMIT %10$s) AS n ORDER BY d, %8$s LIMIT $4),
        _short AS MATERIALIZED (SELECT count(n.d) < $4 AS so FROM _near AS n)' || CASE WHEN farther THEN ',
        _more AS MATERIALIZED (SELECT %1$s, %2$s AS k_vector, %3$s AS k_order FROM %5$s WHERE %4$s AND %2$s IS NOT NULL AND (SELECT y.so FROM _short AS y) ORDER BY %3$s LIMIT greatest(8 * $4, 800)),
        _lacking AS MATERIALIZED (SELECT (SELECT y.so FROM _short AS y) AND (SELECT count(*) FROM _more) < greatest(8 * $4, 800) AS so)' ELSE '' END || '
        SELECT n.* FROM _near AS n WHERE NOT (SELECT y.so FROM _short AS y)' || CASE WHEN farther THEN '
        UNION ALL (SELECT %8$s, %9$s AS d, NULL::float8 AS s FROM _more AS n WHERE NOT (SELECT y.so FROM _lacking AS y) ORDER BY d, %8$s LIMIT $4)' ELSE '' END || '
        UNION ALL (%11$s AND (SELECT y.so FROM %12$s AS y) ORDER BY d, %8$s LIMIT $4)',
        keyed, vector, embed._nearness(plan), CASE WHEN partial THEN 'true' ELSE condition END, relation, CASE WHEN partial THEN condition ELSE 'true' END,
        CASE WHEN partial OR plan ->> 'condition' IS NULL THEN depth.rescored ELSE depth.reach END,
        keys, nearer, depth.rescored, found, CASE WHEN farther THEN '_lacking' ELSE '_short' END);
END $$;
COMMENT ON FUNCTION embed._dense_leg(jsonb, text, text, text) IS
    'The part of a search that finds the nearest rows by an index, where not all rows are scored anyway: the keys, and d, the distance. Never fewer than there are.';

CREATE OR REPLACE FUNCTION embed._sparse_leg(plan jsonb, keys text, keyed text, score text)
RETURNS text
LANGUAGE plpgsql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    sparse jsonb := plan -> 'sparse';
    alias text := plan ->> 'alias';
    columns smallint[] := ARRAY(SELECT jsonb_array_elements_text(sparse -> 'key_columns')::smallint);
    relation text := format('%s AS %s', plan ->> 'table', alias);
    condition text := COALESCE(plan ->> 'condition', 'true');
    found text := format('SELECT %s, NULL::float8 AS d, %s AS s FROM', keyed, score);
BEGIN
    IF (sparse ->> 'indexed')::boolean AND sparse ? 'chunks' AND plan ->> 'condition' IS NULL THEN
        RETURN embed._chunk_words(plan, keys, keyed, score);
    ELSIF NOT (sparse ->> 'indexed')::boolean OR sparse ? 'chunks' THEN
        RETURN format('%s %s WHERE %s ORDER BY s, %s LIMIT $4', found, relation, condition, keys);
    END IF;
    -- The best by the postings may fail the condition: where too few are left, and there may be more, all that meet it are scored.
    -- In the sub-select, as everywhere, a condition whose columns stand without a table sees no other relation.
    RETURN format('WITH _words AS MATERIALIZED (SELECT f.* FROM embed._sparse_near_v1(%1$s, $2::%2$s, $4, %3$s) AS f),
        _near AS MATERIALIZED (SELECT n.* FROM _words AS f CROSS JOIN LATERAL (%4$s %5$s WHERE %6$s AND %7$s) AS n ORDER BY s, %8$s LIMIT $4),
        _short AS MATERIALIZED (SELECT (SELECT count(*) FROM _near AS n WHERE n.s < 0) < $4 AND COALESCE((SELECT bool_or(f.more) FROM _words AS f), false) AS so)
        SELECT n.* FROM _near AS n WHERE NOT (SELECT y.so FROM _short AS y)
        UNION ALL (%4$s %5$s WHERE %7$s AND (SELECT y.so FROM _short AS y) ORDER BY s, %8$s LIMIT $4)',
        sparse ->> 'vectorizer', sparse ->> 'type', COALESCE(plan ->> 'share', '1'), found, relation,
        CASE WHEN embed._key_is_whole((plan ->> 'source')::oid, columns) THEN format('%s.%s OPERATOR(pg_catalog.=) f.id', alias, sparse #>> '{keys,0}')
            ELSE embed._key_match((plan ->> 'source')::oid, columns, alias, 'f.key') END,
        condition, keys);
END $$;
COMMENT ON FUNCTION embed._sparse_leg(jsonb, text, text, text) IS
    'The part of a search that finds the best rows by their sparse vectors, where not all rows are scored anyway: the keys, and s, the negative product. Never fewer than there are.';

CREATE OR REPLACE FUNCTION embed._search_statement(plan jsonb, exact boolean)
RETURNS text
LANGUAGE plpgsql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    dense jsonb := plan -> 'dense';
    sparse jsonb := plan -> 'sparse';
    alias text := plan ->> 'alias';
    relation text := format('%s AS %s', plan ->> 'table', alias);
    chosen text := COALESCE(plan ->> 'condition', 'true');
    keys text;
    keyed text;
    placed text;
    matched text;
    joined text;
    paired text;
    distance text := 'NULL::float8';
    product text := 'NULL::float8';
    parts text[] := '{}';
    ending text;
BEGIN
    SELECT string_agg('k' || k.position, ', ' ORDER BY k.position), string_agg('p.k' || k.position, ', ' ORDER BY k.position),
        string_agg(format('%s.%s AS k%s', alias, k.name, k.position), ', ' ORDER BY k.position),
        string_agg(format('%s.%s OPERATOR(pg_catalog.=) p.k%s', alias, k.name, k.position), ' AND ' ORDER BY k.position),
        string_agg(format('COALESCE(a.k%1$s, b.k%1$s) AS k%1$s', k.position), ', ' ORDER BY k.position),
        string_agg(format('a.k%1$s OPERATOR(pg_catalog.=) b.k%1$s', k.position), ' AND ' ORDER BY k.position)
    INTO keys, placed, keyed, matched, joined, paired
    FROM jsonb_array_elements_text(COALESCE(dense, sparse) -> 'keys') WITH ORDINALITY AS k(name, position);
    IF dense IS NOT NULL THEN
        distance := embed._leg_row(dense, format('%s OPERATOR(%s.%s) $1::%s', embed._leg_vector(dense, alias), plan ->> 'home',
            CASE dense ->> 'metric' WHEN 'cosine' THEN '<=>' WHEN 'ip' THEN '<#>' ELSE '<->' END, dense ->> 'type'), 'min');
    END IF;
    IF sparse IS NOT NULL THEN
        product := embed._leg_row(sparse, format('%s OPERATOR(%s.<#>) $2::%s', embed._leg_vector(sparse, alias), plan ->> 'home', sparse ->> 'type'), 'min');
    END IF;
    IF (dense IS NULL OR sparse IS NULL) AND NOT (plan ->> 'reranked')::boolean AND NOT plan ? 'last' THEN
        RETURN embed._single_leg(plan, exact, keys, placed, keyed, CASE WHEN sparse IS NULL THEN distance ELSE product END, matched);
    END IF;
    IF exact THEN
        IF sparse ? 'having' THEN
            -- the product of vectors without a common term is a negative 0
            product := format('CASE WHEN %1$s.%2$s OPERATOR(pg_catalog.=) ANY (SELECT f.id FROM embed._sparse_having_v1(%3$s, $2::%4$s) AS f(id)) THEN %5$s WHEN %1$s.%6$s IS NOT NULL THEN ''-0''::float8 END',
                alias, sparse #>> '{keys,0}', sparse ->> 'vectorizer', sparse ->> 'type', product, sparse ->> 'column');
        END IF;
        -- materialized, or an index would give what is near instead of what is best
        parts := array_append(parts, format('_scored AS MATERIALIZED (SELECT %s, %s AS d, %s AS s FROM %s WHERE %s)', keyed, distance, product, relation, chosen));
    END IF;
    -- a vector of zeros has no direction: its distance is NaN, which sorts between the others and NULL, and is left out like NULL
    IF dense IS NOT NULL THEN
        parts := array_append(parts, format('_dense AS (SELECT %1$s, c.d, c.s, row_number() OVER (ORDER BY c.d, %1$s)::integer AS place FROM (%2$s) AS c WHERE c.d < ''NaN'')', keys,
            CASE WHEN exact THEN format('SELECT * FROM _scored ORDER BY d, %s LIMIT $4', keys)
                ELSE embed._dense_leg(plan, keys, keyed, format('NULLIF(%s, ''NaN'')', distance)) END));
    END IF;
    IF sparse IS NOT NULL THEN
        parts := array_append(parts, format('_sparse AS (SELECT %1$s, c.d, c.s, row_number() OVER (ORDER BY c.s, %1$s)::integer AS place FROM (%2$s) AS c WHERE c.s < 0)', keys,
            CASE WHEN exact THEN format('SELECT * FROM _scored ORDER BY s, %s LIMIT $4', keys) ELSE embed._sparse_leg(plan, keys, keyed, format('NULLIF(%s, ''NaN'')', product)) END));
    END IF;
    IF dense IS NULL OR sparse IS NULL THEN
        parts := array_append(parts, format('_pool AS (SELECT %s, d, s, %s FROM %s)', keys,
            CASE WHEN dense IS NULL THEN 'NULL::integer AS dense_rank, place AS sparse_rank' ELSE 'place AS dense_rank, NULL::integer AS sparse_rank' END,
            CASE WHEN dense IS NULL THEN '_sparse' ELSE '_dense' END));
    ELSE
        parts := array_append(parts, format('_pool AS (SELECT %s, COALESCE(a.d, b.d) AS d, COALESCE(a.s, b.s) AS s, a.place AS dense_rank, b.place AS sparse_rank
            FROM _dense AS a FULL JOIN _sparse AS b ON %s)', joined, paired));
        IF NOT exact THEN
            -- every candidate is scored in both legs
            parts := array_append(parts, format('_both AS (SELECT %s, %s AS d, %s AS s, p.dense_rank, p.sparse_rank FROM _pool AS p JOIN %s ON %s)',
                keyed, distance, product, relation, matched));
        END IF;
    END IF;
    parts := array_append(parts, format('_turned AS (SELECT %s, dense_rank, sparse_rank, %s AS dense_score, - NULLIF(s, ''NaN'') AS sparse_score FROM %s)', keys,
        embed._dense_score(dense ->> 'metric', 'NULLIF(d, ''NaN'')'), CASE WHEN exact OR dense IS NULL OR sparse IS NULL THEN '_pool' ELSE '_both' END));
    IF dense IS NULL OR sparse IS NULL THEN
        ending := CASE WHEN dense IS NULL THEN 'SELECT t.*, t.sparse_score AS score FROM _turned AS t' ELSE 'SELECT t.*, t.dense_score AS score FROM _turned AS t' END;
    ELSIF plan ->> 'fusion' = 'rrf' THEN
        ending := 'SELECT t.*, COALESCE($6[1] / (60 + t.dense_rank), 0) + COALESCE($6[2] / (60 + t.sparse_rank), 0) AS score FROM _turned AS t';
    ELSE
        -- the standard score of each leg over the pool; a row without a vector stands with the last
        parts := array_append(parts, '_spread AS (SELECT avg(dense_score) AS dense_mean, NULLIF(stddev_pop(dense_score), 0) AS dense_spread, min(dense_score) AS dense_least,
            avg(sparse_score) AS sparse_mean, NULLIF(stddev_pop(sparse_score), 0) AS sparse_spread, min(sparse_score) AS sparse_least,
            max(dense_score) AS dense_most, max(sparse_score) AS sparse_most FROM _turned)'::text);
        ending := format('SELECT t.*, %s * %s + %s * %s AS score FROM _turned AS t CROSS JOIN _spread AS z',
            embed._weight('dense'), embed._standard_score('dense', plan ->> 'fusion'), embed._weight('sparse'), embed._standard_score('sparse', plan ->> 'fusion'));
    END IF;
    IF plan ? 'last' OR (plan ->> 'reranked')::boolean THEN
        RETURN 'WITH RECURSIVE ' || array_to_string(parts, ', ') || ', ' || embed._search_ending(plan, ending, keys, placed, matched);
    END IF;
    parts := array_append(parts, format('_best AS (SELECT * FROM (%s) AS f WHERE $7 IS NULL OR score >= $7 ORDER BY score DESC, %s LIMIT $5)', ending, keys));
    RETURN format('WITH %s SELECT %s AS hit, p.score::real, p.dense_rank, p.dense_score::real, p.sparse_rank, p.sparse_score::real, NULL::real
        FROM _best AS p JOIN %s ON %s ORDER BY p.score DESC, %s', array_to_string(parts, ', '), alias, relation, matched, placed);
END $$;
COMMENT ON FUNCTION embed._search_statement(jsonb, boolean) IS
    'The statement of a search: $1 and $2 are the vectors of the query, $3 the values of the filter, $4 candidates, $5 how many go on, $6 weights or none, $7 the least score, $8 the query, $9 the reranker, $10 k, $11 the query''s token vectors.';

CREATE OR REPLACE FUNCTION embed._dense_score(metric text, distance text)
RETURNS text
LANGUAGE plpgsql
IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
BEGIN
    RETURN CASE metric WHEN 'cosine' THEN '1 - ' ELSE '- ' END || distance;
END $$;
COMMENT ON FUNCTION embed._dense_score(text, text) IS 'The score of a distance, as an expression: the cosine, the inner product, or the negative distance.';

CREATE OR REPLACE FUNCTION embed._single_leg(plan jsonb, exact boolean, keys text, placed text, keyed text, measured text, matched text)
RETURNS text
LANGUAGE plpgsql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    dense boolean := plan ? 'dense';
    alias text := plan ->> 'alias';
    relation text := format('%s AS %s', plan ->> 'table', alias);
    condition text := plan ->> 'condition';
    -- the index gives the rows themselves; from any other order they are read when the best are known
    direct boolean := dense AND NOT exact AND NOT COALESCE((plan ->> 'filtered')::boolean, true) AND NOT plan -> 'dense' ? 'chunks'
        AND COALESCE(plan #>> '{dense,indexed,kind}' = 'column' AND NOT (plan #>> '{dense,indexed,partial}')::boolean, false);
    score text := CASE WHEN dense THEN embed._dense_score(plan #>> '{dense,metric}', 'p.d') ELSE '- p.s' END;
    leg text;
BEGIN
    IF NOT direct THEN
        -- no bare operator, by which an index would give what is near instead of what is best
        measured := format('NULLIF(%s, ''NaN'')', measured);
    END IF;
    IF direct THEN
        leg := format('SELECT %s AS hit, %s, %s AS d FROM %s ORDER BY %s LIMIT $4', alias, keyed, measured, relation, measured);
    ELSIF dense AND exact THEN
        leg := format('SELECT %s, %s AS d FROM %s WHERE %s ORDER BY d, %s LIMIT $4', keyed, measured, relation, COALESCE(condition, 'true'), keys);
    ELSIF dense THEN
        leg := embed._dense_leg(plan, keys, keyed, measured);
    ELSIF exact THEN
        leg := format('SELECT %s, %s AS s FROM %s WHERE %s ORDER BY s, %s LIMIT $4', keyed, measured, relation, COALESCE(condition, 'true'), keys);
    ELSE
        leg := embed._sparse_leg(plan, keys, keyed, measured);
    END IF;
    -- a vector of zeros has no direction: its distance is NaN, beyond all others
    RETURN format(CASE WHEN dense THEN
            'SELECT %1$s, (%2$s)::real, row_number() OVER (ORDER BY p.d, %3$s)::integer, (%2$s)::real, NULL::integer, NULL::real, NULL::real
            FROM (%4$s) AS p%5$s WHERE p.d < ''NaN'' AND ($7 IS NULL OR %2$s >= $7) ORDER BY p.d, %3$s'
        ELSE 'SELECT %1$s, (%2$s)::real, NULL::integer, NULL::real, row_number() OVER (ORDER BY p.s, %3$s)::integer, (%2$s)::real, NULL::real
            FROM (%4$s) AS p%5$s WHERE p.s < 0 AND ($7 IS NULL OR %2$s >= $7) ORDER BY p.s, %3$s' END,
        CASE WHEN direct THEN 'p.hit' ELSE alias END, score, placed, leg, CASE WHEN direct THEN '' ELSE format(' JOIN %s ON %s', relation, matched) END);
END $$;
COMMENT ON FUNCTION embed._single_leg(jsonb, boolean, text, text, text, text, text) IS
    'The statement of a search by one leg that nothing judges again: planned in half the time that the pool of two takes.';

CREATE OR REPLACE FUNCTION embed._late_score(plan jsonb, alias text)
RETURNS text
LANGUAGE plpgsql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
BEGIN
    -- one aggregate a token of the query is six times as fast as a join of the tokens
    RETURN embed._leg_row(plan -> 'multi', format('(SELECT avg(x.best) FROM unnest((SELECT ARRAY[%s]::float8[] FROM unnest(%s) AS u(v))) AS x(best))',
        (SELECT string_agg(format('max(- (u.v OPERATOR(%s.<#>) $11[%s]::%s.halfvec))', plan ->> 'home', n, plan ->> 'home'), ', ' ORDER BY n)
            FROM generate_series(1, (plan ->> 'tokens')::integer) AS n), embed._leg_vector(plan -> 'multi', alias)), 'max');
END $$;
COMMENT ON FUNCTION embed._late_score(jsonb, text) IS
    'How well stored token vectors answer those of a query, as an expression: for each of the query its best product, and the mean of these.';

CREATE OR REPLACE FUNCTION embed._standard_score(output text, fusion text)
RETURNS text
LANGUAGE plpgsql
IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
BEGIN
    RETURN format(CASE fusion WHEN 'convex' THEN 'COALESCE((COALESCE(t.%1$s_score, z.%1$s_least) - z.%1$s_mean) / z.%1$s_spread, 0)'
        ELSE 'least(greatest(COALESCE((COALESCE(t.%1$s_score, z.%1$s_least) - z.%1$s_mean) / (6 * z.%1$s_spread), 0) + 0.5, 0), 1)' END, output);
END $$;
COMMENT ON FUNCTION embed._standard_score(text, text) IS
    'How a leg''s score enters a fusion: as standard deviations from the mean of the pool; for dbsf from three below, 0, to three above, 1.';

CREATE OR REPLACE FUNCTION embed._dense_vector(spelled text)
RETURNS vector
LANGUAGE sql
IMMUTABLE PARALLEL SAFE
RETURN spelled::vector;
COMMENT ON FUNCTION embed._dense_vector(text) IS 'A vector from its text, so that a search reads it once. No SET clause: it must inline.';

CREATE OR REPLACE FUNCTION embed._sparse_vector(spelled text)
RETURNS sparsevec
LANGUAGE sql
IMMUTABLE PARALLEL SAFE
RETURN spelled::sparsevec;
COMMENT ON FUNCTION embed._sparse_vector(text) IS 'A sparse vector from its text, so that a search reads it once. No SET clause: it must inline.';

CREATE OR REPLACE FUNCTION embed._weight(output text)
RETURNS text
LANGUAGE plpgsql
IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
BEGIN
    -- A leg that knows what a query asks for has a best that stands far above its pool; one that does not (words of another
    -- language, none of them in the table) scores all alike, and its best is no further off than chance has it. Shares by this
    -- lead were taken from SciFact's training queries, where they cost 0.001 of nDCG against halves: its square costs 0.006.
    RETURN format('COALESCE($6[%s], COALESCE(COALESCE((z.%s_most - z.%2$s_mean) / z.%2$s_spread, 0)
            / NULLIF(COALESCE((z.dense_most - z.dense_mean) / z.dense_spread, 0) + COALESCE((z.sparse_most - z.sparse_mean) / z.sparse_spread, 0), 0), 0.5))',
        CASE output WHEN 'dense' THEN 1 ELSE 2 END, output);
END $$;
COMMENT ON FUNCTION embed._weight(text) IS
    'How much a leg counts in a fusion of standard scores: the weight that was given; or its share of how many standard deviations the best of each leg stands above the mean of the pool.';

CREATE OR REPLACE FUNCTION embed._search_v1(
    source anyelement, query text, k integer, mode text, filter jsonb, fusion text, weights real[], candidates integer, rerank text, min_score real,
    vectorizer text, condition text, key text DEFAULT NULL, diversity real DEFAULT NULL, boost jsonb DEFAULT NULL, boosting text DEFAULT NULL,
    skip integer DEFAULT 0, explain text DEFAULT NULL
)
RETURNS TABLE (hit anyelement, score real, dense_rank integer, dense_score real, sparse_rank integer, sparse_score real, rerank_score real)
LANGUAGE plpgsql
STABLE PARALLEL UNSAFE ROWS 10
AS $$
DECLARE
    plan jsonb;
    bound text[] := '{}';
    dense_query text;
    sparse_query text;
    tokens text[];
    filtered boolean;
    wanted integer;
    near integer;
    seen integer;
    total double precision;
    met double precision;
    most double precision;
    heavy double precision;
    exact boolean;
    kept text[];
    asked timestamptz := pg_catalog.clock_timestamp();
BEGIN
    IF query IS NULL AND key IS NULL AND explain IS DISTINCT FROM 'plan' THEN
        RETURN;
    END IF;
    plan := embed._search_plan(pg_catalog.pg_typeof(source), k, mode, filter, fusion, weights, candidates, rerank, vectorizer, condition);
    IF diversity IS NOT NULL OR boost IS NOT NULL OR boosting IS NOT NULL OR skip IS DISTINCT FROM 0 THEN
        plan := embed._search_extended(plan, k, candidates, vectorizer, diversity, boost, boosting, skip);
    END IF;
    IF plan -> 'bound' <> '[]' THEN
        bound := ARRAY(SELECT pg_catalog.jsonb_array_elements_text(plan -> 'bound'));
    END IF;
    IF explain = 'plan' THEN
        -- no plan depends on what the vectors hold
        dense_query := pg_catalog.format('[0%s]', pg_catalog.repeat(',0', COALESCE((plan #>> '{dense,indexed,size}')::integer, 1) - 1));
        sparse_query := '{}/1';
        tokens := '{[0]}';
    END IF;
    IF key IS NOT NULL THEN
        bound := pg_catalog.array_append(bound, key);
        EXECUTE embed._search_own(plan, bound) INTO dense_query, sparse_query, plan USING NULL::text, plan, bound;
        IF plan IS NULL THEN
            PERFORM embed._fail('PE003', pg_catalog.format('table %s has no row with the key %s', pg_catalog.pg_typeof(source), key),
                'or you may not see it; a key of several columns is written as a JSON array: ["a", "1"]');
        END IF;
    ELSIF plan ? 'dense' AND dense_query IS NULL THEN
        dense_query := embed._vector(query, plan #>> '{dense,model}', 'query', 'dense');
    END IF;
    IF key IS NULL AND plan ? 'sparse' AND sparse_query IS NULL THEN
        -- only of BM25's queries the words are weighed here, and only by postings
        sparse_query := CASE WHEN (plan #>> '{sparse,indexed}')::boolean AND plan #>> '{sparse,family}' = 'bm25' THEN embed._sparse_query_v1((plan #>> '{sparse,vectorizer}')::integer, query)::text
            ELSE embed._vector(query, plan #>> '{sparse,model}', 'query', 'sparse') END;
    END IF;
    IF plan ? 'multi' THEN
        tokens := COALESCE(tokens, embed._vector(query, plan #>> '{multi,model}', 'query', 'multi')::text[]);
        plan := plan || pg_catalog.jsonb_build_object('tokens', pg_catalog.cardinality(tokens));
    END IF;
    IF key IS NULL AND explain IS DISTINCT FROM 'plan' AND pg_catalog.clock_timestamp() > asked + '100 ms' THEN
        PERFORM embed._check_stays(plan, vectorizer);
    END IF;
    wanted := plan ->> 'candidates';
    near := CASE WHEN plan -> 'dense' ? 'chunks' THEN 4 * wanted ELSE wanted END;  -- one row may have several of the nearest
    seen := (embed._dense_depth(plan #> '{dense,indexed}', near, 1)).seen;
    exact := COALESCE(plan #> '{dense,indexed}', 'false') = 'false' AND COALESCE(plan #> '{sparse,indexed}', 'false') = 'false';
    filtered := plan ->> 'condition' IS NOT NULL OR pg_catalog.row_security_active((plan ->> 'source')::oid);
    IF NOT exact THEN
        total := plan ->> 'rows';
        met := CASE WHEN filtered OR total = 0 THEN embed._search_estimate(plan ->> 'table', plan ->> 'alias', plan ->> 'condition', bound) ELSE total END;
        -- a row of an index costs as much as two dozen that are scored, but long vectors take as long to read in both
        heavy := GREATEST(1, COALESCE((plan #>> '{dense,indexed,bytes}')::float8, 0) / 1536);
        most := COALESCE(embed._number_setting('embed.exact_rows', 'rows'),
            GREATEST(10000 / heavy, 2 * pg_catalog.sqrt(3 * seen * GREATEST(total, met) / heavy)));
        exact := met * COALESCE((plan #>> '{dense,chunks,per_row}')::float8, 1) <= most;
        plan := plan || pg_catalog.jsonb_build_object('filtered', filtered, 'share', LEAST(1, GREATEST(met, 1) / GREATEST(total, met, 1)));
        IF filtered THEN
            seen := (embed._dense_depth(plan #> '{dense,indexed}', near, CASE WHEN plan ->> 'condition' IS NULL THEN 1 ELSE (plan ->> 'share')::float8 END)).seen;
        END IF;
    END IF;
    IF NOT exact AND COALESCE((plan #>> '{dense,indexed,partial}')::boolean, false) AND NOT embed._serves(plan, dense_query, bound) THEN
        plan := pg_catalog.jsonb_set(plan, '{dense,indexed}', 'false');
        exact := COALESCE(plan #> '{sparse,indexed}', 'false') = 'false';
    END IF;
    -- a product takes as long as two or three postings take to read; no plan without a query depends on what it asks for
    IF exact AND met > 4000 AND plan ->> 'mode' = 'hybrid' AND (plan #>> '{sparse,indexed}')::boolean AND sparse_query IS NOT NULL AND explain IS DISTINCT FROM 'plan'
            AND embed._key_is_whole((plan ->> 'source')::oid, ARRAY(SELECT pg_catalog.jsonb_array_elements_text(plan #> '{sparse,key_columns}')::smallint))
            AND embed._sparse_spread_v1((plan #>> '{sparse,vectorizer}')::integer, embed._sparse_vector(sparse_query)) < met / 2 THEN
        plan := pg_catalog.jsonb_set(plan, '{sparse,having}', 'true');
    END IF;
    kept := embed._search_settings(seen, filtered, CASE WHEN NOT exact THEN (plan ->> 'share')::float8 END, NULL);
    IF explain IS NOT NULL THEN
        PERFORM embed._search_explained(explain = 'run', plan, exact, met, most, dense_query, sparse_query, bound, min_score, query, rerank, k, tokens);
    ELSE
        RETURN QUERY EXECUTE embed._search_statement(plan, exact)
        USING embed._dense_vector(dense_query), embed._sparse_vector(sparse_query), bound, wanted, (plan ->> 'depth')::integer,
            pg_catalog.translate(plan ->> 'weights', '[]', '{}')::float8[],
            min_score::float8, query, rerank, k, tokens;
    END IF;
    kept := embed._search_settings(NULL, NULL, NULL, kept);
END $$;
COMMENT ON FUNCTION embed._search_v1(anyelement, text, integer, text, jsonb, text, real[], integer, text, real, text, text, text, real, jsonb, text, integer, text) IS
    'embed.search, and with the key of a row embed.similar; with a condition and a boost in SQL, which run with the caller''s rights and are never to be built from what somebody typed. With explain it finds nothing, and leaves in the setting embed.explained how it would (plan), or did (run). No SET clause: the caller''s search_path holds.';

CREATE OR REPLACE FUNCTION embed._check_stays(plan jsonb, vectorizer text)
RETURNS void
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    legs jsonb;
BEGIN
    -- While a model was waited for, a whole switch may have gone by. From here on no swap can.
    PERFORM embed._hold(plan ->> 'table');
    legs := embed._search_legs_v1((plan ->> 'source')::oid, vectorizer, plan ->> 'mode', false) -> 'legs';
    IF EXISTS (SELECT FROM unnest('{dense,sparse,multi}'::text[]) AS o(output) WHERE plan ? o.output AND NOT EXISTS (
            SELECT FROM jsonb_array_elements(legs -> o.output) AS l(leg)
            WHERE (l.leg -> 'vectorizer', l.leg -> 'model', l.leg -> 'column') = (plan #> ARRAY[o.output, 'vectorizer'], plan #> ARRAY[o.output, 'model'], plan #> ARRAY[o.output, 'column']))) THEN
        -- the statement sees rows as they were before, without the new vectors: it cannot be answered by those
        PERFORM embed._fail('40001', 'the model or the place of the vectors was changed while the search waited for the model', 'search again');
    END IF;
END $$;
COMMENT ON FUNCTION embed._check_stays(jsonb, text) IS
    'An error unless the vectors that a search was planned for are still there, by the same models; they stay until the transaction ends.';

CREATE OR REPLACE FUNCTION embed._search_own(plan jsonb, bound text[])
RETURNS text
LANGUAGE plpgsql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    alias text := plan ->> 'alias';
    matched text := embed._key_match((plan ->> 'source')::oid,
        ARRAY(SELECT jsonb_array_elements_text(COALESCE(plan -> 'dense', plan -> 'sparse') -> 'key_columns')::smallint), alias, format('$3[%s]', cardinality(bound)));
BEGIN
    RETURN format('SELECT %s, %s, $2 || jsonb_build_object(''condition'', %L::text) FROM %s AS %s WHERE %s AND $1 IS NULL',
        embed._leg_own(plan, 'dense'), embed._leg_own(plan, 'sparse'),
        concat_ws(' AND ', plan ->> 'condition', format('(%s) IS NOT TRUE', matched)), plan ->> 'table', alias, matched);
END $$;
COMMENT ON FUNCTION embed._search_own(jsonb, text[]) IS
    'The statement that reads a row''s own vectors by its key, the last value that is bound, and leaves that row out of the plan; of a row with chunks the mean of their vectors.';

CREATE OR REPLACE FUNCTION embed._search_settings(seen integer, filtered boolean, share double precision, kept text[])
RETURNS text[]
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
AS $$
DECLARE
    names CONSTANT text[] := ARRAY['jit', 'hnsw.ef_search', 'enable_sort', 'max_parallel_workers_per_gather', 'hnsw.iterative_scan', 'ivfflat.iterative_scan', 'hnsw.max_scan_tuples'];
    before text[];
    done text;
BEGIN
    -- assignments: a PERFORM would start a statement for each setting
    IF kept IS NOT NULL THEN
        FOR place IN 1..pg_catalog.cardinality(kept) LOOP
            IF kept[place] IS NOT NULL THEN
                done := pg_catalog.set_config(names[place], kept[place], true);
            END IF;
        END LOOP;
        RETURN NULL;
    END IF;
    IF pg_catalog.num_nulls(pg_catalog.current_setting(names[2], true), pg_catalog.current_setting(names[5], true),
            pg_catalog.current_setting(names[6], true), pg_catalog.current_setting(names[7], true)) > 0 THEN
        -- pgvector has its settings from its first use in a session on; any of them may have been set before that
        EXECUTE pg_catalog.format('SELECT %L::%s', '[1]', embed._vector_type('vector'));
    END IF;
    before := ARRAY[pg_catalog.current_setting(names[1], true), pg_catalog.current_setting(names[2], true)];
    -- compiling takes longer than the distances that it could speed up
    done := pg_catalog.set_config(names[1], 'off', true);
    done := pg_catalog.set_config(names[2], LEAST(GREATEST(before[2]::integer, seen, CASE WHEN filtered THEN 200 END), 1000)::text, true);
    IF share IS NULL THEN
        RETURN before;
    END IF;
    FOR place IN 3..7 LOOP
        before[place] := pg_catalog.current_setting(names[place], true);
    END LOOP;
    -- the planner takes a distance for a cheap operator and would sort a whole table by it
    done := pg_catalog.set_config(names[3], 'off', true);
    -- and workers would be started for what is left out
    done := pg_catalog.set_config(names[4], '0', true);
    FOR place IN 5..6 LOOP
        -- rows that were deleted, or fail a condition, are made up for; pgvector 0.7 has no iterative scans
        IF before[place] = 'off' THEN
            done := pg_catalog.set_config(names[place], 'relaxed_order', true);
        END IF;
    END LOOP;
    IF before[7] IS NOT NULL THEN
        -- where far more of them lie in the way than chance has it, the leg scores all rows
        done := pg_catalog.set_config(names[7], LEAST(GREATEST(2000, 20 * seen / share), 2000000)::integer::text, true);
    END IF;
    RETURN before;
END $$;
COMMENT ON FUNCTION embed._search_settings(integer, boolean, double precision, text[]) IS
    'Set what a search needs of pgvector and the planner, and, where it goes by an index and not by a NULL share in one pass, what finds among so many rows, of which a condition leaves the share; and return what was set; given that, set it back. No SET clause: it would undo them.';

CREATE OR REPLACE FUNCTION embed.search(
    source anyelement,
    query text,
    k integer DEFAULT 10,
    mode text DEFAULT NULL,
    filter jsonb DEFAULT NULL,
    fusion text DEFAULT 'convex',
    weights real[] DEFAULT NULL,
    candidates integer DEFAULT 100,
    rerank text DEFAULT NULL,
    min_score real DEFAULT NULL,
    vectorizer text DEFAULT NULL,
    diversity real DEFAULT NULL,
    boost jsonb DEFAULT NULL,
    skip integer DEFAULT 0
)
RETURNS TABLE (hit anyelement, score real, dense_rank integer, dense_score real, sparse_rank integer, sparse_score real, rerank_score real)
LANGUAGE sql
STABLE PARALLEL UNSAFE ROWS 10
AS $$ SELECT * FROM embed._search_v1(source, query, k, mode, filter, fusion, weights, candidates, rerank, min_score, vectorizer, NULL, NULL, diversity, boost, NULL, skip) $$;
COMMENT ON FUNCTION embed.search(anyelement, text, integer, text, jsonb, text, real[], integer, text, real, text, real, jsonb, integer) IS
    'The rows of a table that answer a query best, whole, with their scores: SELECT (hit).title, score FROM embed.search(NULL::docs, ''money back'', k => 5). Dense and sparse vectors together where the table has both; rerank names a model that judges the best rows again, or is ''multi'' for stored token vectors; diversity (0 to 1) keeps rows apart that are alike, boost adds to the score by columns, skip leaves the first rows out. No SET clause: it must inline.';

CREATE OR REPLACE FUNCTION embed.similar(
    source anyelement,
    key text,
    k integer DEFAULT 10,
    mode text DEFAULT NULL,
    filter jsonb DEFAULT NULL,
    fusion text DEFAULT 'convex',
    weights real[] DEFAULT NULL,
    candidates integer DEFAULT 100,
    min_score real DEFAULT NULL,
    vectorizer text DEFAULT NULL,
    diversity real DEFAULT NULL,
    boost jsonb DEFAULT NULL,
    skip integer DEFAULT 0
)
RETURNS TABLE (hit anyelement, score real, dense_rank integer, dense_score real, sparse_rank integer, sparse_score real)
LANGUAGE sql
STABLE PARALLEL UNSAFE ROWS 10
AS $$
    SELECT f.hit, f.score, f.dense_rank, f.dense_score, f.sparse_rank, f.sparse_score
    FROM embed._search_v1(source, NULL, k, mode, filter, fusion, weights, candidates, NULL, min_score, vectorizer, NULL, key, diversity, boost, NULL, skip) AS f
$$;
COMMENT ON FUNCTION embed.similar(anyelement, text, integer, text, jsonb, text, real[], integer, real, text, real, jsonb, integer) IS
    'More rows like one, by the vectors that it has, or where it has chunks by the mean of theirs; no model is asked. A key of several columns is given as embed.failures shows it: a JSON array of texts. No SET clause: it must inline.';

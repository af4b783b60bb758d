-- Searching by chunks: a row is as near as the nearest of its chunks. What a leg says of a table of chunks stands under
-- "chunks"; in it that table is called c.

CREATE OR REPLACE FUNCTION embed._leg_chunks(v embed._vectorizer, alias text)
RETURNS jsonb
LANGUAGE sql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
    SELECT CASE WHEN v.chunk_table IS NULL THEN '{}'
        ELSE jsonb_build_object('chunks', jsonb_build_object(
            'table', v.chunk_table::text,
            'match', embed._chunk_match(v, 'c', alias),
            'id', embed._column_name(v.chunk_table, 1::smallint),
            'number', embed._column_name(v.chunk_table, (n + 2)::smallint),
            'chunk', embed._column_name(v.chunk_table, (n + 3)::smallint),
            'context', embed._column_name(v.chunk_table, (n + 4)::smallint),
            'text', format('pg_catalog.concat_ws(E''\n\n'', NULLIF(c.%s, ''''), c.%s)', embed._column_name(v.chunk_table, (n + 4)::smallint), embed._column_name(v.chunk_table, (n + 3)::smallint)),
            'per_row', (SELECT greatest(c.reltuples, 1) / greatest((SELECT sum(greatest(s.reltuples, 0)) FROM embed._index_tree(v.source) AS t JOIN pg_class AS s ON s.oid = t.relation WHERE t.leaf), 1)
                FROM pg_class AS c WHERE c.oid = v.chunk_table))) END
    FROM cardinality(v.key_columns) AS n
$$;
COMMENT ON FUNCTION embed._leg_chunks(embed._vectorizer, text) IS 'What a leg says of its table of chunks; nothing where vectors stand in the table itself.';

CREATE OR REPLACE FUNCTION embed._leg_vector(leg jsonb, alias text)
RETURNS text
LANGUAGE sql
IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$ SELECT format('%s.%s', CASE WHEN leg ? 'chunks' THEN 'c' ELSE alias END, leg ->> 'column') $$;
COMMENT ON FUNCTION embed._leg_vector(jsonb, text) IS 'A leg''s vector, of a row or of a chunk.';

CREATE OR REPLACE FUNCTION embed._leg_row(leg jsonb, expression text, best text)
RETURNS text
LANGUAGE sql
IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
    SELECT CASE WHEN leg ? 'chunks' THEN format('(SELECT pg_catalog.%s(%s) FROM %s AS c WHERE %s)', best, expression, leg #>> '{chunks,table}', leg #>> '{chunks,match}')
        ELSE expression END
$$;
COMMENT ON FUNCTION embed._leg_row(jsonb, text, text) IS 'What an expression over a leg''s vector is for a row: the best of its chunks.';

CREATE OR REPLACE FUNCTION embed._leg_input(leg jsonb, home text)
RETURNS text
LANGUAGE sql
IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
    SELECT CASE WHEN leg ? 'chunks' THEN format('(SELECT %s FROM %s AS c WHERE %s ORDER BY c.%s OPERATOR(%s.%s) %s::%s LIMIT 1)',
            leg #>> '{chunks,text}', leg #>> '{chunks,table}', leg #>> '{chunks,match}', leg ->> 'column', home,
            CASE WHEN leg ->> 'type' LIKE '%sparsevec' THEN '<#>' ELSE CASE leg ->> 'metric' WHEN 'cosine' THEN '<=>' WHEN 'ip' THEN '<#>' ELSE '<->' END END,
            CASE WHEN leg ->> 'type' LIKE '%sparsevec' THEN '$2' ELSE '$1' END, leg ->> 'type')
        ELSE leg ->> 'input' END
$$;
COMMENT ON FUNCTION embed._leg_input(jsonb, text) IS 'What a reranker reads of a row: its text, or the chunk that answers the query best.';

CREATE OR REPLACE FUNCTION embed._chunk_leg(plan jsonb, keys text, keyed text, distance text)
RETURNS text
LANGUAGE plpgsql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    leg jsonb := plan -> 'dense';
    own text := format('c.%s OPERATOR(%s.%s) $1::%s', leg ->> 'column', plan ->> 'home', CASE leg ->> 'metric' WHEN 'cosine' THEN '<=>' WHEN 'ip' THEN '<#>' ELSE '<->' END, leg ->> 'type');
    depth record := embed._dense_depth(leg -> 'indexed', 4 * (plan ->> 'candidates')::integer, 1);
BEGIN
    -- Four chunks for each candidate, by the index. Where they are of fewer rows than are wanted in the end, all rows are scored.
    -- The condition stands where it sees its table alone: its columns may be written without one.
    RETURN format('WITH _chunks AS MATERIALIZED (SELECT n.*, %2$s AS d FROM %3$s AS c CROSS JOIN LATERAL (SELECT %1$s FROM %4$s WHERE %5$s AND %6$s) AS n ORDER BY %7$s LIMIT %8$s),
        _near AS MATERIALIZED (SELECT %9$s, min(n.d) AS d, NULL::float8 AS s FROM _chunks AS n GROUP BY %9$s),
        _short AS MATERIALIZED (SELECT count(n.d) < $5 AS so FROM _near AS n)
        SELECT n.* FROM _near AS n WHERE NOT (SELECT y.so FROM _short AS y)
        UNION ALL (SELECT %1$s, %10$s AS d, NULL::float8 AS s FROM %4$s WHERE %6$s AND (SELECT y.so FROM _short AS y))
        ORDER BY d, %9$s LIMIT $4',
        keyed, own, leg #>> '{chunks,table}', format('%s AS %s', plan ->> 'table', plan ->> 'alias'), leg #>> '{chunks,match}', COALESCE(plan ->> 'condition', 'true'),
        embed._nearness(plan), depth.rescored, keys, distance);
END $$;
COMMENT ON FUNCTION embed._chunk_leg(jsonb, text, text, text) IS
    'The part of a search that finds the nearest rows by an index over chunks, where not all rows are scored anyway: the keys, and d, the distance of the nearest chunk.';

CREATE OR REPLACE FUNCTION embed._chunk_words(plan jsonb, keys text, keyed text, score text)
RETURNS text
LANGUAGE plpgsql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    leg jsonb := plan -> 'sparse';
BEGIN
    -- Four chunks for each candidate. Where they are of fewer rows than are wanted in the end, and there may be more, all are scored.
    RETURN format('WITH _words AS MATERIALIZED (SELECT f.* FROM embed._sparse_top_v1(%3$s, $2::%4$s, 4 * $4) AS f),
        _near AS MATERIALIZED (SELECT %1$s, NULL::float8 AS d, min(n.s) AS s FROM (SELECT %2$s, - f.score::float8 AS s FROM _words AS f
            JOIN %5$s AS c ON c.%6$s OPERATOR(pg_catalog.=) f.key::bigint JOIN %7$s ON %8$s) AS n GROUP BY %1$s),
        _short AS MATERIALIZED (SELECT (SELECT count(*) FROM _near) < $5 AND (SELECT count(*) FROM _words) >= 4 * $4 AS so)
        SELECT n.* FROM _near AS n WHERE NOT (SELECT y.so FROM _short AS y)
        UNION ALL (SELECT %2$s, NULL::float8 AS d, %9$s AS s FROM %7$s WHERE (SELECT y.so FROM _short AS y))
        ORDER BY s, %1$s LIMIT $4',
        keys, keyed, leg ->> 'vectorizer', leg ->> 'type', leg #>> '{chunks,table}', leg #>> '{chunks,id}', format('%s AS %s', plan ->> 'table', plan ->> 'alias'),
        leg #>> '{chunks,match}', score);
END $$;
COMMENT ON FUNCTION embed._chunk_words(jsonb, text, text, text) IS
    'The part of a search that finds the best rows by postings of their chunks, where not all rows are scored anyway: the keys, and s, the negative product of the best chunk. Never fewer than are wanted, if there are as many.';

CREATE OR REPLACE FUNCTION embed._sparse_mean(vectors text[])
RETURNS text
LANGUAGE sql
IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
    SELECT format('{%s}/%s', string_agg(format('%s:%s', m.place, m.mean), ',' ORDER BY m.place), split_part(vectors[1], '/', 2))
    FROM (
        SELECT split_part(p.pair, ':', 1)::integer AS place, (sum(split_part(p.pair, ':', 2)::float8) / cardinality(vectors))::real AS mean
        FROM unnest(vectors) AS v(spelled), string_to_table(btrim(split_part(v.spelled, '/', 1), '{}'), ',') AS p(pair)
        WHERE p.pair <> ''
        GROUP BY 1
        ORDER BY abs(sum(split_part(p.pair, ':', 2)::float8)) DESC LIMIT 16000  -- a sparsevec has no more
    ) AS m
    WHERE m.mean <> 0
    HAVING cardinality(vectors) > 0
$$;
COMMENT ON FUNCTION embed._sparse_mean(text[]) IS 'The mean of sparse vectors, in their text form as they are; NULL of none. pgvector has none for sparsevec.';

CREATE OR REPLACE FUNCTION embed._leg_own(plan jsonb, output text)
RETURNS text
LANGUAGE plpgsql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    leg jsonb := plan -> output;
    vector text := embed._leg_vector(leg, plan ->> 'alias');
BEGIN
    RETURN CASE WHEN leg IS NULL THEN 'NULL::text'
        WHEN NOT leg ? 'chunks' THEN vector || '::text'
        -- the centroid of Rocchio (1971): one query, by the same index, however many chunks the row has
        ELSE format('(SELECT %s FROM %s AS c WHERE %s)',
            format(CASE output WHEN 'sparse' THEN 'embed._sparse_mean(pg_catalog.array_agg(%2$s::text) FILTER (WHERE %2$s IS NOT NULL))' ELSE '%1$s.avg(%2$s)::text' END, plan ->> 'home', vector),
            leg #>> '{chunks,table}', leg #>> '{chunks,match}') END;
END $$;
COMMENT ON FUNCTION embed._leg_own(jsonb, text) IS 'A row''s own vector as a query, as an expression of type text: of a row with chunks the mean of theirs.';

CREATE OR REPLACE FUNCTION embed._leg_best(plan jsonb, leg jsonb)
RETURNS text
LANGUAGE plpgsql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    judge jsonb := CASE WHEN plan ? 'dense' THEN plan -> 'dense' WHEN plan #> '{sparse,chunks,table}' = leg #> '{chunks,table}' THEN plan -> 'sparse' END;
    words boolean := judge ->> 'type' LIKE '%sparsevec';
    vector text := embed._leg_vector(leg, plan ->> 'alias');
BEGIN
    RETURN CASE WHEN NOT leg ? 'chunks' THEN vector
        ELSE format('(SELECT %s FROM %s AS c WHERE %s ORDER BY %s c.%s LIMIT 1)', vector, leg #>> '{chunks,table}', leg #>> '{chunks,match}',
            CASE WHEN judge IS NULL THEN '' ELSE format('c.%s OPERATOR(%s.%s) %s::%s,', judge ->> 'column', plan ->> 'home',
                CASE WHEN words THEN '<#>' ELSE CASE judge ->> 'metric' WHEN 'cosine' THEN '<=>' WHEN 'ip' THEN '<#>' ELSE '<->' END END,
                CASE WHEN words THEN '$2' ELSE '$1' END, judge ->> 'type') END,
            leg #>> '{chunks,number}') END;
END $$;
COMMENT ON FUNCTION embed._leg_best(jsonb, jsonb) IS
    'A leg''s vector of a row, as an expression: where it has chunks, of the one that answers the query best, or of the first where nothing in the search tells.';

-- Chunks that answer a query, where a search finds rows by chunks.

CREATE OR REPLACE FUNCTION embed._search_chunks(plan jsonb, leg jsonb)
RETURNS text
LANGUAGE plpgsql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    words boolean := leg ->> 'type' LIKE '%sparsevec';
    distance text := format('NULLIF(c.%s OPERATOR(%s.%s) $2::%s, ''NaN''::float8)', leg ->> 'column', plan ->> 'home',
        CASE WHEN words THEN '<#>' ELSE CASE leg ->> 'metric' WHEN 'cosine' THEN '<=>' WHEN 'ip' THEN '<#>' ELSE '<->' END END, leg ->> 'type');
BEGIN
    RETURN format('SELECT s.hit, b.number, b.chunk, b.context, s.score, (%1$s)::real
        FROM embed._search_v1($1, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $14, NULL, $15, $16, $17, $18) WITH ORDINALITY AS s
        CROSS JOIN LATERAL (SELECT (s.hit).*) AS %2$s
        CROSS JOIN LATERAL (SELECT c.%3$s AS number, c.%4$s AS chunk, c.%5$s AS context, %6$s AS d FROM %7$s AS c WHERE %8$s ORDER BY d, c.%3$s LIMIT $13) AS b
        ORDER BY s.ordinality, b.d, b.number',
        CASE WHEN NOT words AND leg ->> 'metric' = 'cosine' THEN '1 - b.d' ELSE '- b.d' END, plan ->> 'alias',
        leg #>> '{chunks,number}', leg #>> '{chunks,chunk}', leg #>> '{chunks,context}', distance, leg #>> '{chunks,table}', leg #>> '{chunks,match}');
END $$;
COMMENT ON FUNCTION embed._search_chunks(jsonb, jsonb) IS 'The statement of embed.search_chunks.';

CREATE OR REPLACE FUNCTION embed._search_chunks_v1(
    source anyelement, query text, k integer, mode text, filter jsonb, fusion text, weights real[], candidates integer, rerank text, min_score real,
    vectorizer text, per_row integer, condition text DEFAULT NULL, diversity real DEFAULT NULL, boost jsonb DEFAULT NULL, boosting text DEFAULT NULL,
    skip integer DEFAULT 0
)
RETURNS TABLE (hit anyelement, chunk_no integer, chunk text, context text, score real, chunk_score real)
LANGUAGE plpgsql
STABLE PARALLEL UNSAFE ROWS 10
AS $$
DECLARE
    plan jsonb;
    leg jsonb;
    given text;
    asked timestamptz := pg_catalog.clock_timestamp();
BEGIN
    IF query IS NULL THEN
        RETURN;
    ELSIF per_row IS NULL OR per_row NOT BETWEEN 1 AND 10000 THEN
        PERFORM embed._fail('PE003', pg_catalog.format('per_row is %s', COALESCE(per_row::text, 'NULL')), 'it lies between 1 and 10000');
    END IF;
    plan := embed._search_plan(pg_catalog.pg_typeof(source), k, mode, filter, fusion, weights, candidates, rerank, vectorizer, NULL);
    leg := CASE WHEN plan -> 'dense' ? 'chunks' THEN plan -> 'dense' WHEN plan -> 'sparse' ? 'chunks' THEN plan -> 'sparse' END;
    IF leg IS NULL THEN
        PERFORM embed._fail('PE003', pg_catalog.format('rows of %s are not found by chunks', pg_catalog.pg_typeof(source)), 'make a vectorizer with storage => ''table'', or name one by vectorizer => ...');
    ELSIF plan -> 'dense' = leg THEN
        given := embed._vector(query, leg ->> 'model', 'query', 'dense');
    ELSE
        given := embed._sparse_query_v1((leg ->> 'vectorizer')::integer, query)::text;
    END IF;
    IF pg_catalog.clock_timestamp() > asked + '100 ms' THEN
        PERFORM embed._check_stays(plan, vectorizer);
    END IF;
    RETURN QUERY EXECUTE embed._search_chunks(plan, leg)
    USING source, given, query, k, mode, filter, fusion, weights, candidates, rerank, min_score, vectorizer, per_row, condition, diversity, boost, boosting, skip;
END $$;
COMMENT ON FUNCTION embed._search_chunks_v1(anyelement, text, integer, text, jsonb, text, real[], integer, text, real, text, integer, text, real, jsonb, text, integer) IS
    'embed.search_chunks, with a condition and a boost in SQL, which run with the caller''s rights and are never to be built from what somebody typed. No SET clause: the caller''s search_path holds.';

CREATE OR REPLACE FUNCTION embed.search_chunks(
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
    per_row integer DEFAULT 1,
    diversity real DEFAULT NULL,
    boost jsonb DEFAULT NULL,
    skip integer DEFAULT 0
)
RETURNS TABLE (hit anyelement, chunk_no integer, chunk text, context text, score real, chunk_score real)
LANGUAGE sql
STABLE PARALLEL UNSAFE ROWS 10
AS $$
    SELECT * FROM embed._search_chunks_v1(source, query, k, mode, filter, fusion, weights, candidates, rerank, min_score, vectorizer, per_row, NULL, diversity, boost, NULL, skip)
$$;
COMMENT ON FUNCTION embed.search_chunks(anyelement, text, integer, text, jsonb, text, real[], integer, text, real, text, integer, real, jsonb, integer) IS
    'What embed.search finds, each row with the chunk that answers the query best, or with per_row => 3 with three: SELECT (hit).title, chunk, score FROM embed.search_chunks(NULL::docs, ''money back'', k => 5). k counts rows; chunk_score is the chunk''s own. No SET clause: it must inline.';

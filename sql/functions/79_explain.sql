-- How a search is run, for who wonders about its time: which legs, by index or not, and why; and Postgres' plan of it.

CREATE OR REPLACE FUNCTION embed._search_told(plan jsonb, exact boolean, met double precision, most double precision, statement text, lines text[], settings jsonb)
RETURNS jsonb
LANGUAGE plpgsql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
BEGIN
    RETURN jsonb_build_object(
        'table', (plan ->> 'source')::oid::regclass,
        'mode', plan -> 'mode',
        'exact', exact,
        'why', CASE WHEN met IS NULL THEN 'no leg has an index'
            ELSE format('%s of %s rows are expected to meet the conditions, and up to %s of them are read in one pass', round(met::numeric), round((plan ->> 'rows')::numeric), round(most::numeric)) END,
        'rows', plan -> 'rows',
        'expected', met,
        'exact_up_to', most,
        'legs', (SELECT jsonb_object_agg(l.output, jsonb_build_object('vectorizer', plan #> ARRAY[l.output, 'name'], 'model', plan #> ARRAY[l.output, 'model'],
                'column', plan #> ARRAY[l.output, 'column'], 'indexed', plan #> ARRAY[l.output, 'indexed']))
            FROM unnest(ARRAY['dense', 'sparse', 'multi']) AS l(output) WHERE plan ? l.output),
        'condition', plan -> 'condition',
        'bound', plan -> 'bound',
        'fusion', CASE plan ->> 'mode' WHEN 'hybrid' THEN plan -> 'fusion' END,
        'weights', CASE plan ->> 'mode' WHEN 'hybrid' THEN plan -> 'weights' END,
        'candidates', plan -> 'candidates',
        'settings', settings,
        'statement', statement,
        'plan', array_to_string(lines, E'\n')
    );
END $$;
COMMENT ON FUNCTION embed._search_told(jsonb, boolean, double precision, double precision, text, text[], jsonb) IS
    'What embed.explain_search tells of a search.';

CREATE OR REPLACE FUNCTION embed._search_explained(
    run boolean, plan jsonb, exact boolean, met double precision, most double precision, dense_query text, sparse_query text, bound text[], min_score real,
    query text, rerank text, k integer, tokens text[]
)
RETURNS void
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
AS $$
DECLARE
    statement text := embed._search_statement(plan, exact);
    line text;
    lines text[] := '{}';
BEGIN
    FOR line IN EXECUTE CASE WHEN run THEN 'EXPLAIN (ANALYZE, BUFFERS) ' ELSE 'EXPLAIN ' END || statement
        USING embed._dense_vector(dense_query), embed._sparse_vector(sparse_query), bound, (plan ->> 'candidates')::integer, (plan ->> 'depth')::integer,
            ARRAY(SELECT pg_catalog.jsonb_array_elements_text(plan -> 'weights')::float8), min_score::float8, query, rerank, k, tokens
    LOOP
        lines := pg_catalog.array_append(lines, line);
    END LOOP;
    PERFORM pg_catalog.set_config('embed.explained', embed._search_told(plan, exact, met, most, statement, lines,
        (SELECT pg_catalog.jsonb_object_agg(s.name, pg_catalog.current_setting(s.name, true))
            FROM pg_catalog.unnest(ARRAY['hnsw.ef_search', 'hnsw.iterative_scan', 'ivfflat.iterative_scan', 'jit', 'work_mem']) AS s(name)))::text, true);
END $$;
COMMENT ON FUNCTION embed._search_explained(boolean, jsonb, boolean, double precision, double precision, text, text, text[], real, text, text, integer, text[]) IS
    'Explain the statement of a search, with its values and settings, into the setting embed.explained. No SET clause: the caller''s search_path holds. VOLATILE, as EXPLAIN must be.';

CREATE OR REPLACE FUNCTION embed._search_explain_v1(
    source anyelement, query text, k integer, mode text, filter jsonb, fusion text, weights real[], candidates integer, rerank text, min_score real,
    vectorizer text, condition text, key text, diversity real, boost jsonb, boosting text, skip integer, run boolean
)
RETURNS jsonb
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
AS $$
DECLARE
    told jsonb;
BEGIN
    IF run AND query IS NULL AND key IS NULL THEN
        PERFORM embed._fail('PE003', 'a search cannot run without a query', 'give query => ..., or leave run => true out');
    END IF;
    PERFORM FROM embed._search_v1(source, query, k, mode, filter, fusion, weights, candidates, rerank, min_score, vectorizer, condition, key, diversity, boost, boosting, skip,
        CASE WHEN run THEN 'run' ELSE 'plan' END);
    told := pg_catalog.current_setting('embed.explained', true);
    PERFORM pg_catalog.set_config('embed.explained', '', true);
    RETURN told;
END $$;
COMMENT ON FUNCTION embed._search_explain_v1(anyelement, text, integer, text, jsonb, text, real[], integer, text, real, text, text, text, real, jsonb, text, integer, boolean) IS
    'embed.explain_search, with a condition and a boost in SQL, which run with the caller''s rights and are never to be built from what somebody typed. No SET clause: the caller''s search_path holds.';

CREATE OR REPLACE FUNCTION embed.explain_search(
    source anyelement,
    query text DEFAULT NULL,
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
    skip integer DEFAULT 0,
    key text DEFAULT NULL,
    run boolean DEFAULT false
)
RETURNS jsonb
LANGUAGE sql
VOLATILE PARALLEL UNSAFE
AS $$ SELECT embed._search_explain_v1(source, query, k, mode, filter, fusion, weights, candidates, rerank, min_score, vectorizer, NULL, key, diversity, boost, NULL, skip, run) $$;
COMMENT ON FUNCTION embed.explain_search(anyelement, text, integer, text, jsonb, text, real[], integer, text, real, text, real, jsonb, integer, text, boolean) IS
    'How embed.search, or with a key embed.similar, would run with these arguments: which legs, exact or by index and why, the statement, and Postgres'' plan of it. No model is asked and nothing is run, unless run => true, which runs it and tells what it took. SELECT jsonb_pretty(embed.explain_search(NULL::docs, filter => ''{"lang": "en"}'')). No SET clause: the caller''s search_path holds.';

-- Reranking: how well texts answer a query, by a model that reads both together. STABLE outside, VOLATILE inside.

CREATE OR REPLACE FUNCTION embed._rerankers_v1()
RETURNS SETOF text
LANGUAGE sql
STABLE PARALLEL SAFE SECURITY DEFINER
SET search_path = pg_catalog, embed, pg_temp
AS $$ SELECT m.name FROM embed._model AS m WHERE m.card -> 'outputs' = '["score"]' ORDER BY m.name $$;
COMMENT ON FUNCTION embed._rerankers_v1() IS 'The names of the models that score texts for a query.';

CREATE OR REPLACE FUNCTION embed._reranker_id(model text)
RETURNS integer
LANGUAGE plpgsql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    wanted text := COALESCE(model, NULLIF(current_setting('embed.default_reranker', true), ''));
    known text[] := ARRAY(SELECT embed._rerankers_v1());
    named text := (SELECT string_agg(quote_literal(k.name), ', ') FROM unnest(known) AS k (name));
    advice CONSTANT text := 'make one with embed.create_model(name, family => ...), of a family that reranks';
BEGIN
    IF wanted IS NULL THEN
        IF cardinality(known) = 0 THEN
            PERFORM embed._fail('PE002', 'this database has no reranker', advice);
        ELSIF cardinality(known) > 1 THEN
            PERFORM embed._fail('PE002', 'no reranker is named, and this database has several',
                format('name one of: %s, or set embed.default_reranker', named));
        END IF;
        wanted := known[1];
    END IF;
    IF embed._model_id(wanted) IS NOT NULL AND wanted <> ALL (known) THEN
        PERFORM embed._fail('PE003', format('model %L makes vectors, and no scores of texts for a query', wanted),
            COALESCE('name a reranker: ' || named, advice));
    END IF;
    RETURN embed._model_id(wanted);
END $$;
COMMENT ON FUNCTION embed._reranker_id(text) IS
    'The reranker of that name; without a name the setting embed.default_reranker, else the only one; or an error with the names.';

CREATE OR REPLACE FUNCTION embed.rerank_scores(query text, texts text[], model text DEFAULT NULL)
RETURNS real[]
LANGUAGE plpgsql
STABLE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    given jsonb := (SELECT jsonb_agg(t.body ORDER BY t.place) FROM unnest(texts) WITH ORDINALITY AS t (body, place) WHERE t.body IS NOT NULL);
    chosen record;
    scores jsonb;
BEGIN
    IF query IS NULL OR texts IS NULL THEN
        RETURN NULL;
    ELSIF given IS NULL THEN
        RETURN array_fill(NULL::real, ARRAY[cardinality(texts)]);
    END IF;
    SELECT m.name, m.family, m.options INTO chosen FROM embed._model AS m WHERE m.id = (SELECT embed._reranker_id(model));
    scores := embed._ask(jsonb_build_object('op', 'rerank', 'query', query, 'texts', given,
        'model', jsonb_build_object('name', chosen.name, 'family', chosen.family, 'options', chosen.options))) -> 'scores';
    IF jsonb_typeof(scores) IS DISTINCT FROM 'array' OR jsonb_array_length(scores) <> jsonb_array_length(given) THEN
        PERFORM embed._fail('PE020', 'the sidecar answered without a score for each text', 'see the sidecar''s log');
    END IF;
    RETURN (
        SELECT array_agg(CASE WHEN t.body IS NOT NULL THEN (scores ->> t.before::integer)::real END ORDER BY t.place)
        FROM (
            SELECT u.body, u.place, count(u.body) OVER (ORDER BY u.place) - 1 AS before
            FROM unnest(texts) WITH ORDINALITY AS u (body, place)
        ) AS t
    );
END $$;
COMMENT ON FUNCTION embed.rerank_scores(text, text[], text) IS
    'How well each text answers the query, in the order of the texts; NULL for a text that is NULL. One call of the model for all of them: gather the texts first.';

CREATE OR REPLACE FUNCTION embed.rerank(query text, texts text[], model text DEFAULT NULL)
RETURNS TABLE (index integer, score real)
LANGUAGE plpgsql
STABLE PARALLEL UNSAFE ROWS 100
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    -- A variable: in the query below the planner would ask once more, to learn how long the array is.
    scores real[] := embed.rerank_scores(query, texts, model);
BEGIN
    RETURN QUERY
        SELECT s.place::integer, s.score FROM unnest(scores) WITH ORDINALITY AS s (score, place)
        WHERE s.score IS NOT NULL
        ORDER BY s.score DESC, s.place;
END $$;
COMMENT ON FUNCTION embed.rerank(text, text[], text) IS
    'The texts by how well they answer the query, the best first: the place of each in the array, counted from 1, and its score. Texts that are NULL are left out.';

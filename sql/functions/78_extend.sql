-- What a search does with its candidates beyond fusing them: boosts, diversity, and pages. A search without any of it does
-- not come here, unless it reranks.

CREATE OR REPLACE FUNCTION embed._boost_column(source regclass, name text, value jsonb, alias text, INOUT bound text[], OUT expression text)
LANGUAGE plpgsql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    number smallint := embed._column_number(source, name, 'boost');
    subject text := format('%s.%I', alias, name);
    kind regtype := (SELECT embed._base_type(a.atttypid) FROM pg_attribute AS a WHERE a.attrelid = source AND a.attnum = number);
    dated boolean := kind = ANY ('{date,timestamp,timestamptz}'::regtype[]);
    weight text := format('($3[%s])::float8', cardinality(bound) + 1);
    seconds double precision;
BEGIN
    IF jsonb_typeof(value) <> 'object' OR value - '{weight,half_life}'::text[] <> '{}' OR jsonb_typeof(value -> 'weight') IS DISTINCT FROM 'number'
            OR abs((value ->> 'weight')::numeric) > 1e6 THEN
        PERFORM embed._fail('PE003', format('the boost for column %I is %s', name, left(value::text, 60)),
            CASE WHEN dated THEN 'as in {"weight": 0.5, "half_life": "30 days"}' ELSE 'as in {"weight": 0.5}' END || '; the weight is a number up to a million');
    ELSIF NOT dated AND value ? 'half_life' THEN
        PERFORM embed._fail('PE003', format('the boost for column %I has a half_life, and the column is %s', name, format_type(kind, NULL)), 'half_life is for dates and timestamps');
    END IF;
    bound := array_append(bound, value ->> 'weight');
    IF dated THEN
        BEGIN
            seconds := extract(epoch FROM (value ->> 'half_life')::interval);
        EXCEPTION WHEN data_exception THEN
            NULL;
        END;
        IF seconds IS NULL OR NOT (seconds > 0 AND seconds < 'Infinity') THEN
            PERFORM embed._fail('PE003', format('the half_life of the boost for column %I is %s', name, COALESCE(value ->> 'half_life', 'missing')), 'write an interval above 0: "30 days"');
        END IF;
        -- what lies ahead is new; beyond 1000 half-lives the power would be an underflow
        expression := format('CASE WHEN %2$s IS NULL THEN 0 ELSE %1$s * pg_catalog.power(0.5::float8, LEAST(GREATEST(
            extract(epoch FROM pg_catalog.now())::float8 - extract(epoch FROM %2$s::timestamptz)::float8, 0) / ($3[%3$s])::float8, 1000)) END', weight, subject, cardinality(bound) + 1);
        bound := array_append(bound, seconds::text);
    ELSIF kind = 'boolean'::regtype THEN
        expression := format('CASE WHEN %2$s THEN %1$s ELSE 0 END', weight, subject);
    ELSIF kind = ANY ('{smallint,integer,bigint,real,double precision,numeric}'::regtype[]) THEN
        expression := format('%1$s * pg_catalog.ln(1 + GREATEST(COALESCE(NULLIF(%2$s::float8, ''NaN''), 0), 0))', weight, subject);
    ELSE
        PERFORM embed._fail('PE003', format('column %I is %s, which gives no boost', name, format_type(kind, NULL)), 'a boost is by a number, a boolean, a date or a timestamp');
    END IF;
END $$;
COMMENT ON FUNCTION embed._boost_column(regclass, text, jsonb, text, text[]) IS
    'What a column adds to a score: weight * ln(1 + number), weight where it is true, or weight halved with each half_life since a time. NULL, and a number below 0, add nothing.';

CREATE OR REPLACE FUNCTION embed._boost_expression(source regclass, boost jsonb, alias text, INOUT bound text[], OUT expression text)
LANGUAGE plpgsql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    item record;
    part record;
    parts text[] := '{}';
BEGIN
    IF jsonb_typeof(boost) <> 'object' OR boost = '{}' THEN
        PERFORM embed._fail('PE003', format('a boost is a JSON object of columns, not %s', left(boost::text, 60)), 'as in {"published_at": {"half_life": "30 days", "weight": 0.5}}');
    END IF;
    FOR item IN SELECT e.key, e.value FROM jsonb_each(boost) AS e LOOP
        SELECT * INTO part FROM embed._boost_column(source, item.key, item.value, alias, bound);
        bound := part.bound;
        parts := array_append(parts, part.expression);
    END LOOP;
    expression := array_to_string(parts, ' + ');
END $$;
COMMENT ON FUNCTION embed._boost_expression(regclass, jsonb, text, text[]) IS
    'The boosts of a search as an expression over its table, and the values to bind to it as texts.';

CREATE OR REPLACE FUNCTION embed._search_extended(
    plan jsonb, k integer, candidates integer, vectorizer text, diversity real, boost jsonb, expression text, skip integer
)
RETURNS jsonb
LANGUAGE plpgsql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    source regclass := (plan ->> 'source')::oid;
    diverse boolean := diversity > 0;
    boosts record;
    legs jsonb;
    depth integer;
BEGIN
    IF skip IS NULL OR skip NOT BETWEEN 0 AND 10000 - k THEN
        PERFORM embed._fail('PE003', format('skip is %s', COALESCE(skip::text, 'NULL')), 'it is 0 or more, and k + skip is 10000 at most');
    ELSIF diversity NOT BETWEEN 0 AND 1 THEN
        PERFORM embed._fail('PE003', format('the diversity is %s', diversity), 'it lies between 0, the best rows, and 1, the most different ones; try 0.3');
    ELSIF diverse AND greatest(k + skip, candidates) > 1000 THEN
        PERFORM embed._fail('PE003', format('diversity is asked for among %s rows', greatest(k + skip, candidates)), 'let candidates, and k + skip, be 1000 at most');
    END IF;
    SELECT ARRAY(SELECT jsonb_array_elements_text(plan -> 'bound')) AS bound, NULL::text AS expression INTO boosts;
    IF boost IS NOT NULL THEN
        SELECT * INTO boosts FROM embed._boost_expression(source, boost, plan ->> 'alias', boosts.bound);
    END IF;
    boosts.expression := NULLIF(concat_ws(' + ', boosts.expression, '(' || expression || E'\n)::float8'), '');
    IF diverse THEN
        legs := CASE WHEN plan ? 'dense' THEN jsonb_build_object('dense', jsonb_build_array(plan -> 'dense')) ELSE embed._search_legs_v1(source, vectorizer, 'dense', false) -> 'legs' END;
        IF NOT legs ? 'dense' THEN
            PERFORM embed._fail('PE003', format('diversity is by dense vectors, and no vectorizer of %s makes any', source), 'leave diversity out');
        END IF;
        plan := plan || jsonb_build_object('diversity', diversity, 'diverse', embed._leg_best(plan, embed._search_leg(source, legs, 'dense')));
    END IF;
    depth := greatest((plan ->> 'depth')::integer, k + skip, CASE WHEN diverse AND NOT (plan ->> 'reranked')::boolean THEN candidates END);
    RETURN plan || jsonb_build_object(
        'bound', boosts.bound,
        'boost', boosts.expression,
        'first', skip,
        'last', k + skip,
        'depth', depth,
        -- a boost may lift any of the candidates
        'candidates', greatest((plan ->> 'candidates')::integer, depth, CASE WHEN boosts.expression IS NOT NULL AND NOT (plan ->> 'reranked')::boolean THEN candidates END)
    );
END $$;
COMMENT ON FUNCTION embed._search_extended(jsonb, integer, integer, text, real, jsonb, text, integer) IS
    'The plan of a search with its boosts, diversity and the rows to skip, or an error.';

CREATE OR REPLACE FUNCTION embed._search_given(plan jsonb, fused text, keys text, placed text, matched text)
RETURNS text
LANGUAGE plpgsql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    alias text := plan ->> 'alias';
    relation text := format('%s AS %s', plan ->> 'table', alias);
    best text := format('_best AS (SELECT * FROM (%s) AS f ORDER BY score DESC, %s LIMIT $5)', fused, keys);
BEGIN
    IF NOT (plan ->> 'reranked')::boolean THEN
        RETURN format('_given AS (SELECT f.*, NULL::real AS judged FROM (%s) AS f)', fused);
    ELSIF plan ? 'multi' THEN
        RETURN format('%s, _given AS MATERIALIZED (SELECT p.*, (%s)::real AS judged FROM _best AS p JOIN %s ON %s)', best, embed._late_score(plan, alias), relation, matched);
    END IF;
    RETURN format('%s, _read AS MATERIALIZED (SELECT p.*, %s AS input, row_number() OVER (ORDER BY p.score DESC, %s) AS place FROM _best AS p JOIN %s ON %s),
        _judged AS MATERIALIZED (SELECT embed.rerank_scores($8, array_agg(b.input ORDER BY b.place), $9) AS scores FROM _read AS b),
        _given AS (SELECT b.*, j.scores[b.place] AS judged FROM _read AS b CROSS JOIN _judged AS j)',
        best, embed._leg_input(COALESCE(plan -> 'dense', plan -> 'sparse'), plan ->> 'home'), placed, relation, matched);
END $$;
COMMENT ON FUNCTION embed._search_given(jsonb, text, text, text, text) IS
    'The part of a search that gives its candidates with their fused score, and as judged what a reranker says of the best of them.';

CREATE OR REPLACE FUNCTION embed._search_turns(plan jsonb, matched text)
RETURNS text
LANGUAGE plpgsql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
BEGIN
    -- Through arrays: these hold the vectors themselves, where a row may hold but where they are. A picked row is infinitely
    -- like itself. OFFSET 0: one distance a row.
    RETURN format('_flat AS MATERIALIZED (
            SELECT u.place::integer AS place, u.v, u.relevance
            FROM (SELECT array_agg(%2$s ORDER BY p.place) AS vs, array_agg(COALESCE((p.final - z.least) / NULLIF(z.most - z.least, 0), 0) ORDER BY p.place) AS rs
                FROM (SELECT * FROM _ordered WHERE place <= $5) AS p JOIN %3$s AS %1$s ON %4$s
                CROSS JOIN (SELECT min(final) AS least, max(final) AS most FROM _ordered WHERE place <= $5) AS z) AS a,
                unnest(a.vs, a.rs) WITH ORDINALITY AS u(v, relevance, place)),
        _turns(turn, place, nearest) AS (
            SELECT 1, f.place, NULL::float8[] FROM _flat AS f WHERE f.place = 1
            UNION ALL
            SELECT m.turn + 1, n.places[1], n.nearest
            FROM _turns AS m CROSS JOIN LATERAL (
                SELECT array_agg(s.place ORDER BY %5$s * s.relevance - %6$s * s.nearest DESC, s.place) AS places, array_agg(s.nearest ORDER BY s.place) AS nearest
                FROM (SELECT f.place, f.relevance, GREATEST(m.nearest[f.place],
                        CASE WHEN f.place = m.place THEN ''Infinity'' ELSE COALESCE(NULLIF(1 - (f.v OPERATOR(%7$s.<=>) c.v), ''NaN''), 0) END) AS nearest
                    FROM _flat AS f CROSS JOIN _flat AS c WHERE c.place = m.place OFFSET 0) AS s) AS n
            WHERE m.turn < LEAST(%8$s, (SELECT count(*) FROM _flat)))',
        plan ->> 'alias', plan ->> 'diverse', plan ->> 'table', matched, 1 - (plan ->> 'diversity')::float8, (plan ->> 'diversity')::float8, plan ->> 'home', (plan ->> 'last')::integer);
END $$;
COMMENT ON FUNCTION embed._search_turns(jsonb, text) IS
    'Maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998) as part of a search: in turn the row of the highest (1 - diversity) * relevance - diversity * cosine to the most alike of those before it, the relevance scaled to [0, 1] over the candidates. A row without a vector is like none.';

CREATE OR REPLACE FUNCTION embed._search_ending(plan jsonb, fused text, keys text, placed text, matched text)
RETURNS text
LANGUAGE plpgsql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    alias text := plan ->> 'alias';
    relation text := format('%s AS %s', plan ->> 'table', alias);
    relevance text := CASE WHEN (plan ->> 'reranked')::boolean THEN 'g.judged' ELSE 'g.score' END;
    diverse boolean := plan ? 'diverse';
    parts text[] := ARRAY[embed._search_given(plan, fused, keys, placed, matched)];
    told text := 'g.dense_rank, g.dense_score, g.sparse_rank, g.sparse_score, g.score, g.judged';
BEGIN
    IF plan ->> 'boost' IS NULL THEN
        parts := array_append(parts, format('_final AS (SELECT %s, %s, %s::float8 AS final FROM _given AS g)', keys, told, relevance));
    ELSE
        -- the expression sees the table, and of the search only the keys
        parts := array_append(parts, format('_boosts AS (SELECT p.*, (SELECT %s FROM %s WHERE %s) AS boost FROM (SELECT %s FROM _given) AS p)', plan ->> 'boost', relation, matched, keys));
        parts := array_append(parts, format('_final AS (SELECT %s, %s, %s + GREATEST(LEAST(COALESCE(NULLIF(b.boost, ''NaN''), 0), 1e30), -1e30) AS final FROM _given AS g JOIN _boosts AS b ON %s)',
            'g.' || replace(keys, ', ', ', g.'), told, relevance,
            (SELECT string_agg(format('g.%1$s OPERATOR(pg_catalog.=) b.%1$s', n.name), ' AND ') FROM unnest(string_to_array(keys, ', ')) AS n(name))));
    END IF;
    parts := array_append(parts, format('_ordered AS MATERIALIZED (SELECT f.*, row_number() OVER (ORDER BY final DESC NULLS LAST, score DESC, %s)::integer AS place
        FROM _final AS f WHERE $7 IS NULL OR final >= $7)', keys));
    IF diverse THEN
        parts := array_append(parts, embed._search_turns(plan, matched));
    END IF;
    RETURN format('%s SELECT %s AS hit, p.final::real, p.dense_rank, p.dense_score::real, p.sparse_rank, p.sparse_score::real, p.judged
        FROM (%s) AS p JOIN %s ON %s ORDER BY p.turn', array_to_string(parts, ', '), alias,
        CASE WHEN diverse THEN 'SELECT o.*, m.turn FROM _ordered AS o JOIN _turns AS m ON m.place = o.place WHERE m.turn > ' || (plan ->> 'first')
            ELSE format('SELECT o.*, o.place AS turn FROM _ordered AS o WHERE o.place > %s AND o.place <= %s', COALESCE(plan ->> 'first', '0'), COALESCE(plan ->> 'last', '$10')) END,
        relation, matched);
END $$;
COMMENT ON FUNCTION embed._search_ending(jsonb, text, text, text, text) IS
    'The end of a search that reranks, boosts, skips or wants diversity: what a reranker gives in place of the fused score, the boost added to it, and the rows in turn.';

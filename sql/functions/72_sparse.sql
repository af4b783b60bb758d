-- The sparse leg of a search: the best rows for a sparse vector, by postings where they are kept. All with the rights of
-- the caller: what the functions find they join to the user's table before they return it.

CREATE OR REPLACE FUNCTION embed._has_postings(vectorizer integer, source oid)
RETURNS boolean
LANGUAGE plpgsql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
BEGIN
    -- without a trigger they would be those of another time
    IF EXISTS (SELECT FROM embed._postings AS p WHERE p.vectorizer_id = vectorizer) THEN
        RETURN (SELECT count(*) = 4 FROM pg_trigger AS g WHERE g.tgrelid = source AND g.tgenabled IN ('O', 'A')
            AND g.tgname IN (SELECT 'pg_embed_' || vectorizer || '_posting_' || t.event FROM unnest('{insert,update,delete,truncate}'::text[]) AS t(event)));
    END IF;
    RETURN false;
END $$;
COMMENT ON FUNCTION embed._has_postings(integer, oid) IS 'Whether postings of a vectorizer''s sparse vectors are kept, and kept in step with its table.';

CREATE OR REPLACE FUNCTION embed._posting_source_v1(
    vectorizer integer, OUT source regclass, OUT name text, OUT key text, OUT id text, OUT match text, OUT sparse text, OUT columns smallint[],
    OUT is_whole boolean, OUT has_postings boolean, OUT model text, OUT family text, OUT governed regclass
)
LANGUAGE plpgsql
STABLE PARALLEL SAFE SECURITY DEFINER
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    v embed._vectorizer;
BEGIN
    SELECT * INTO v FROM embed._vectorizer AS c WHERE c.id = vectorizer;
    IF v.id IS NULL THEN
        PERFORM embed._fail('PE003', format('there is no vectorizer of number %s', vectorizer));
    END IF;
    governed := v.source;
    v := embed._of_chunks(v);
    source := v.source;
    name := embed._source_name(v.source);
    key := embed._key_text(v.source, v.key_columns, 'r');
    id := embed._key_value(v.source, v.key_columns, 'r');
    is_whole := embed._key_is_whole(v.source, v.key_columns);
    match := CASE WHEN is_whole THEN format('r.%s = c.id', embed._column_name(v.source, v.key_columns[1]))
        ELSE embed._key_match(v.source, v.key_columns, 'r', 'c.key') END;
    columns := v.key_columns || embed._sparse_column(v);
    sparse := embed._column_name(v.source, embed._sparse_column(v));
    has_postings := embed._has_postings(v.id, v.source);
    SELECT m.name, m.family INTO STRICT model, family FROM embed._model AS m WHERE m.id = embed._model_of(v, 'sparse');
    IF sparse IS NULL THEN
        PERFORM embed._fail('PE003', format('vectorizer %L keeps no sparse vectors', v.name), 'name one with the output sparse');
    END IF;
END $$;
COMMENT ON FUNCTION embed._posting_source_v1(integer) IS 'The names and expressions by which a search reads a vectorizer''s sparse vectors; no data.';

CREATE OR REPLACE FUNCTION embed._reads_all_v1(vectorizer integer)
RETURNS boolean
LANGUAGE sql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
    SELECT NOT row_security_active(s.governed) AND (s.governed = s.source OR has_table_privilege(s.governed, 'SELECT'))
        AND (SELECT bool_and(has_column_privilege(s.source, c.attnum, 'SELECT')) FROM unnest(s.columns) AS c(attnum))
    FROM embed._posting_source_v1(vectorizer) AS s
$$;
COMMENT ON FUNCTION embed._reads_all_v1(integer) IS 'Whether the caller may read the keys and sparse vectors of all rows of a vectorizer''s table.';

CREATE OR REPLACE FUNCTION embed._seen_ids_v1(vectorizer integer)
RETURNS SETOF bigint
LANGUAGE plpgsql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    s record := embed._posting_source_v1(vectorizer);
BEGIN
    RETURN QUERY EXECUTE format('SELECT %s FROM %s AS r WHERE r.%s IS NOT NULL', s.id, s.name, s.sparse);
END $$;
COMMENT ON FUNCTION embed._seen_ids_v1(integer) IS 'The keys of the rows that the caller sees, where they are whole numbers.';

CREATE OR REPLACE FUNCTION embed._seen_keys_v1(vectorizer integer)
RETURNS SETOF text
LANGUAGE plpgsql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
SET DateStyle = 'ISO, YMD'
SET TimeZone = 'UTC'
SET IntervalStyle = 'postgres'
SET extra_float_digits = 1
AS $$
DECLARE
    s record := embed._posting_source_v1(vectorizer);
BEGIN
    RETURN QUERY EXECUTE format('SELECT %s FROM %s AS r WHERE r.%s IS NOT NULL', s.key, s.name, s.sparse);
END $$;
COMMENT ON FUNCTION embed._seen_keys_v1(integer) IS 'The keys of the rows that the caller sees, where they are no whole numbers.';

CREATE OR REPLACE FUNCTION embed._posting_counts_v1(vectorizer integer, terms integer[])
RETURNS bigint[]
LANGUAGE plpgsql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
SET enable_seqscan = off
SET enable_bitmapscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
SET jit = off
AS $$
DECLARE
    counts bigint[];
BEGIN
    -- what the last count had few of is counted now: so the rarity of rare words is always that of this moment
    EXECUTE format('SELECT array_agg(COALESCE(c.rows, (SELECT count(*) FROM (SELECT FROM embed.%1$I AS p WHERE p.term = t.term LIMIT 50000) AS p)) ORDER BY t.place)
        FROM unnest($1) WITH ORDINALITY AS t(term, place)
        LEFT JOIN LATERAL (SELECT n.rows FROM embed.%2$I AS n WHERE n.term = t.term) AS c ON true',
        '_postings_' || vectorizer, '_postings_' || vectorizer || '_count')
    INTO counts USING terms;
    RETURN counts;
END $$;
COMMENT ON FUNCTION embed._posting_counts_v1(integer, integer[]) IS
    'How many rows have each of these terms, of those that the caller sees; term 0 stands for all rows. Frequent terms are as they were last counted.';

CREATE OR REPLACE FUNCTION embed._sparse_query_v1(vectorizer integer, query text)
RETURNS sparsevec
LANGUAGE plpgsql
STABLE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    s record := embed._posting_source_v1(vectorizer);
    spelled text := embed._vector(query, s.model, 'query', 'sparse');
    terms integer[];
    weights real[];
    counts bigint[];
BEGIN
    IF s.family = 'bm25' AND s.has_postings AND spelled NOT LIKE '{}%' THEN
        SELECT array_agg(t.term), array_agg(t.weight) INTO terms, weights FROM embed._sparse_terms(spelled) AS t;
        PERFORM embed._hold(s.name);  -- before its postings, as who truncates it does
        counts := embed._posting_counts_v1(vectorizer, 0 || terms);
        -- BM25's rarity, as Lucene has it: it is never negative
        SELECT format('{%s}/%s', string_agg(format('%s:%s', t.term,
                (t.weight * ln(1 + (greatest(counts[1], t.rows) - t.rows + 0.5) / (t.rows + 0.5)))::real), ','), split_part(spelled, '/', 2))
        INTO spelled FROM unnest(terms, weights, counts[2:]) AS t(term, weight, rows);
    END IF;
    RETURN spelled;
END $$;
COMMENT ON FUNCTION embed._sparse_query_v1(integer, text) IS
    'The sparse vector of a query for a vectorizer''s column; for family bm25 each term is weighed by its rarity among the rows that the caller sees.';

CREATE OR REPLACE FUNCTION embed._shares(weights real[], counts bigint[], budget integer)
RETURNS bigint[]
LANGUAGE plpgsql
IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    shares bigint[] := counts;
    term record;
    room double precision := budget;
    mass double precision := (SELECT sum(w.weight::double precision ^ 2) FROM unnest(weights) AS w(weight));
BEGIN
    FOR term IN
        SELECT t.place, t.rows, t.weight::double precision ^ 2 AS mass FROM unnest(weights, counts) WITH ORDINALITY AS t(weight, rows, place)
        WHERE t.weight <> 0 ORDER BY t.rows / t.weight::double precision ^ 2
    LOOP
        -- what a rare term leaves goes to the others
        shares[term.place] := least(term.rows, ceil(room * least(term.mass / nullif(mass, 0), 1)));
        room := greatest(room - shares[term.place], 0);
        mass := greatest(mass - term.mass, 0);
    END LOOP;
    RETURN shares;
END $$;
COMMENT ON FUNCTION embed._shares(real[], bigint[], integer) IS
    'How many of its postings are read for each term of a query: a budget shared out by the square of the terms'' weights.';

CREATE OR REPLACE FUNCTION embed._sparse_ids_v1(vectorizer integer, query sparsevec, k integer, budget integer DEFAULT 15000)
RETURNS TABLE (id bigint, key text, score real)
LANGUAGE plpgsql
STABLE PARALLEL SAFE ROWS 100
SET search_path = pg_catalog, embed, pg_temp
SET DateStyle = 'ISO, YMD'
SET TimeZone = 'UTC'
SET IntervalStyle = 'postgres'
SET extra_float_digits = 1
SET enable_seqscan = off
SET enable_bitmapscan = off
SET enable_mergejoin = off
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    s record := embed._posting_source_v1(vectorizer);
    terms integer[];
    weights real[];
    counts bigint[];
    is_exact boolean;
BEGIN
    -- Adding up what was read takes the time, 0.3 ms a thousand postings, so the budget is small: at 100,000 rows 15,000
    -- postings and 1,000 rows scored in full found all but 1 or 2 of the best 100 among 98,000 postings.
    IF query IS NULL OR k < 1 THEN
        RETURN;
    ELSIF NOT s.has_postings THEN
        RETURN QUERY EXECUTE format('SELECT %1$s, %2$s, -(r.%3$s %4$s $1)::real FROM %5$s AS r WHERE r.%3$s %4$s $1 < 0 ORDER BY r.%3$s %4$s $1, %6$s LIMIT $2',
            CASE WHEN s.is_whole THEN s.id ELSE 'NULL::bigint' END, s.key, s.sparse, embed._vector_operator('<#>'), s.name, s.id) USING query, k;
        RETURN;
    END IF;
    SELECT array_agg(t.term), array_agg(t.weight) INTO terms, weights FROM embed._sparse_terms(query::text) AS t;
    IF terms IS NULL THEN
        RETURN;
    END IF;
    counts := embed._posting_counts_v1(vectorizer, terms);
    is_exact := (SELECT sum(c.rows) <= budget FROM unnest(counts) AS c(rows));
    RETURN QUERY EXECUTE format(
        'SELECT c.id, r.key, (%1$s)::real AS score
         FROM (SELECT p.id, sum(q.weight::double precision * p.weight) AS score
             FROM unnest($1, $2, $3) AS q(term, weight, share)
             CROSS JOIN LATERAL (SELECT p.id, p.weight FROM embed.%2$I AS p WHERE p.term = q.term ORDER BY p.weight DESC LIMIT q.share) AS p
             GROUP BY p.id ORDER BY score DESC, p.id LIMIT $4) AS %3$s
         CROSS JOIN LATERAL (SELECT r.%4$s AS sparse, %5$s AS key FROM %6$s AS r WHERE %7$s OFFSET 0) AS r
         ORDER BY score DESC, c.id LIMIT $5',
        CASE WHEN is_exact THEN 'c.score' ELSE format('-(r.sparse %s $6)', embed._vector_operator('<#>')) END, '_postings_' || vectorizer,
        CASE WHEN s.is_whole THEN 'c' ELSE format('f CROSS JOIN LATERAL (SELECT f.id, f.score, k.key FROM embed.%I AS k WHERE k.id = f.id) AS c', '_postings_' || vectorizer || '_key') END,
        s.sparse, s.key, s.name, s.match)
    USING terms, weights,
        -- a term may have got postings since it was counted: where all are wanted, no limit stands in their way
        CASE WHEN is_exact THEN array_fill(NULL::bigint, ARRAY[cardinality(terms)]) ELSE embed._shares(weights, counts, budget) END,
        CASE WHEN is_exact THEN k ELSE greatest(500, 10 * k) END, k, query;
END $$;
COMMENT ON FUNCTION embed._sparse_ids_v1(integer, sparsevec, integer, integer) IS
    'The best k rows for a sparse vector, by inner product; exact while all postings of its terms fit the budget, else each term''s strongest are read and the best few hundred rows scored in full. id is the key where that is a whole number, else a number of our own.';

CREATE OR REPLACE FUNCTION embed._sparse_near_v1(vectorizer integer, query sparsevec, k integer, share double precision DEFAULT 1, budget integer DEFAULT 15000)
RETURNS TABLE (id bigint, key text, more boolean)
LANGUAGE plpgsql
STABLE PARALLEL SAFE ROWS 1000
SET search_path = pg_catalog, embed, pg_temp
SET enable_seqscan = off
SET enable_bitmapscan = off
SET enable_mergejoin = off
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    s record := embed._posting_source_v1(vectorizer);
    name text := '_postings_' || vectorizer;
    terms integer[];
    weights real[];
    counts bigint[];
    shares bigint[];
    depth integer := least(ceil(1.5 * k / share) + 10, 1000000);
BEGIN
    IF NOT s.has_postings THEN
        RETURN QUERY SELECT NULL::bigint, NULL::text, true;
        RETURN;
    END IF;
    SELECT array_agg(t.term), array_agg(t.weight) INTO terms, weights FROM embed._sparse_terms(query::text) AS t;
    IF terms IS NULL THEN
        RETURN;
    END IF;
    counts := embed._posting_counts_v1(vectorizer, terms);
    budget := greatest(budget, 15 * depth);
    IF (SELECT sum(c.rows) > budget FROM unnest(counts) AS c(rows)) THEN
        shares := embed._shares(weights, counts, budget);
        -- sums of some of a row's terms are a rough order
        depth := greatest(depth, 600);
    END IF;
    IF share < 1 THEN
        -- where what is met lies far from the query, fewer are left than the share foretells: with twice as many, 0.99 of the best
        -- ten are found instead of 0.96, and all that meet the condition are scored half as often
        depth := least(2 * depth, 1000000);
    END IF;
    RETURN QUERY EXECUTE format(
        'SELECT c.id, %1$s AS key, $3 IS NOT NULL OR count(*) OVER () >= $4 AS more
         FROM (SELECT p.id, sum(q.weight::double precision * p.weight) AS score
             FROM unnest($1, $2, COALESCE($3, array_fill(NULL::bigint, ARRAY[cardinality($1)]))) AS q(term, weight, share)
             CROSS JOIN LATERAL (SELECT p.id, p.weight FROM embed.%2$I AS p WHERE p.term = q.term ORDER BY p.weight DESC LIMIT q.share) AS p
             GROUP BY p.id ORDER BY score DESC, p.id LIMIT $4) AS c %3$s',
        CASE WHEN s.is_whole THEN 'NULL::text' ELSE 'k.key' END, name,
        CASE WHEN s.is_whole THEN '' ELSE format('JOIN embed.%I AS k ON k.id = c.id', name || '_key') END)
    USING terms, weights, shares, depth;
END $$;
COMMENT ON FUNCTION embed._sparse_near_v1(integer, sparsevec, integer, double precision, integer) IS
    'Rows among which the best k for a sparse vector are, where a condition leaves such a share of them: by the postings of its terms, the strongest of each where there are more than the budget. more says that rows beyond these have terms of it, too. id is the key where that is a whole number.';

CREATE OR REPLACE FUNCTION embed._sparse_spread_v1(vectorizer integer, query sparsevec)
RETURNS bigint
LANGUAGE plpgsql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    terms integer[] := ARRAY(SELECT t.term FROM embed._sparse_terms(query::text) AS t);
BEGIN
    PERFORM embed._hold((embed._posting_source_v1(vectorizer)).name);  -- before its postings, as who truncates it does
    RETURN COALESCE((SELECT sum(c.rows) FROM unnest(embed._posting_counts_v1(vectorizer, terms)) AS c(rows)), 0);
END $$;
COMMENT ON FUNCTION embed._sparse_spread_v1(integer, sparsevec) IS 'How many postings there are of a query''s terms, about.';

CREATE OR REPLACE FUNCTION embed._sparse_having_v1(vectorizer integer, query sparsevec)
RETURNS SETOF bigint
LANGUAGE plpgsql
STABLE PARALLEL SAFE ROWS 5000
SET search_path = pg_catalog, embed, pg_temp
SET enable_seqscan = off
SET enable_bitmapscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
SET jit = off
AS $$
BEGIN
    RETURN QUERY EXECUTE format('SELECT p.id FROM unnest($1) AS t(term) CROSS JOIN LATERAL (SELECT p.id FROM embed.%I AS p WHERE p.term = t.term OFFSET 0) AS p',
        '_postings_' || vectorizer)
    USING ARRAY(SELECT t.term FROM embed._sparse_terms(query::text) AS t);
END $$;
COMMENT ON FUNCTION embed._sparse_having_v1(integer, sparsevec) IS
    'The rows that have any of a query''s terms, by their postings, once for each term that they have: of all others the product is 0. They are keys where these are whole numbers.';

CREATE OR REPLACE FUNCTION embed._sparse_top_v1(vectorizer integer, query sparsevec, k integer)
RETURNS TABLE (key text, score real)
LANGUAGE sql
STABLE PARALLEL SAFE ROWS 100
AS $$ SELECT f.key, f.score FROM embed._sparse_ids_v1(vectorizer, query, k) AS f $$;
COMMENT ON FUNCTION embed._sparse_top_v1(integer, sparsevec, integer) IS 'The best k rows for a sparse vector by the key''s text, as embed._sparse_ids_v1 finds them. No SET clause: it must inline.';

-- What was used and what it cost, budgets, and estimates.

CREATE OR REPLACE FUNCTION embed._use_v1(uses jsonb)
RETURNS integer[]
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, embed, pg_temp
AS $$
BEGIN
    -- a server that crashes may forget the use of its last half second; no batch waits for the disk for it
    PERFORM set_config('synchronous_commit', 'off', true);
    INSERT INTO embed._usage AS u (vectorizer_id, model_id, day, requests, inputs, bytes, tokens, cost, reused)
    SELECT COALESCE(d.vectorizer, 0), m.id, embed._period('day'), sum(d.requests), sum(d.inputs), sum(d.bytes), sum(d.tokens),
        sum(d.tokens) * min(p.per_million_tokens) / 1000000, COALESCE(sum(d.reused), 0)
    FROM jsonb_to_recordset(uses) AS d(model text, vectorizer integer, requests bigint, inputs bigint, bytes bigint, tokens bigint, reused bigint)
    JOIN embed._model AS m ON m.name = d.model
    LEFT JOIN embed._price AS p ON p.model_id = m.id
    GROUP BY COALESCE(d.vectorizer, 0), m.id
    ORDER BY COALESCE(d.vectorizer, 0), m.id
    ON CONFLICT ON CONSTRAINT _usage_pkey DO UPDATE
    SET requests = u.requests + excluded.requests,
        inputs = u.inputs + excluded.inputs,
        bytes = u.bytes + excluded.bytes,
        tokens = u.tokens + excluded.tokens,
        cost = CASE WHEN num_nonnulls(u.cost, excluded.cost) > 0 THEN COALESCE(u.cost, 0) + COALESCE(excluded.cost, 0) END,
        reused = u.reused + excluded.reused;
    PERFORM embed._accept((SELECT array_agg(m.id) FROM jsonb_to_recordset(uses) AS d(model text, requests bigint, tokens bigint)
        JOIN embed._model AS m ON m.name = d.model WHERE d.requests > 0 OR d.tokens > 0));
    RETURN ARRAY(SELECT b.vectorizer_id FROM embed._budget AS b ORDER BY b.vectorizer_id);
END $$;
COMMENT ON FUNCTION embed._use_v1(jsonb) IS
    'Add up what was used of models, each by a vectorizer or by none. Returns the vectorizers with budgets, whose use should be told at once.';

CREATE OR REPLACE FUNCTION embed.price_model(model text, per_million_tokens numeric DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    wanted integer := embed._model_id(model);
    budgeted text;
BEGIN
    IF per_million_tokens < 0 OR per_million_tokens = 'NaN' THEN
        PERFORM embed._fail('PE003', format('%s US dollars is no price', per_million_tokens), 'give the price of a million tokens');
    ELSIF per_million_tokens IS NOT NULL THEN
        INSERT INTO embed._price AS p (model_id, per_million_tokens) VALUES (wanted, price_model.per_million_tokens)
        ON CONFLICT ON CONSTRAINT _price_pkey DO UPDATE SET per_million_tokens = excluded.per_million_tokens;
        RETURN;
    END IF;
    SELECT string_agg(quote_literal(v.name), ', ' ORDER BY v.name) INTO budgeted
    FROM embed._vectorizer AS v JOIN embed._budget AS b ON b.vectorizer_id = v.id WHERE wanted = ANY (embed._models(v)) AND b.cost IS NOT NULL;
    IF budgeted IS NOT NULL THEN
        PERFORM embed._fail('PE003', format('the vectorizers %s have budgets of money', budgeted), 'give them budgets of tokens first, with embed.set_budget');
    END IF;
    DELETE FROM embed._price AS p WHERE p.model_id = wanted;
END $$;
COMMENT ON FUNCTION embed.price_model(text, numeric) IS
    'What a million tokens of a model cost, in US dollars, from now on; without a number it has no price. Used by embed.usage, budgets and estimates.';

CREATE OR REPLACE FUNCTION embed._bequeath_v1(vectorizer integer)
RETURNS void
LANGUAGE sql
VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, embed, pg_temp
AS $$
    UPDATE embed._heir AS h SET heir_id = v.shadow_of FROM embed._vectorizer AS v WHERE v.id = vectorizer AND v.shadow_of IS NOT NULL AND h.heir_id = v.id AND embed._may_note(v.id);
    INSERT INTO embed._heir (vectorizer_id, heir_id)
    SELECT v.id, v.shadow_of FROM embed._vectorizer AS v WHERE v.id = vectorizer AND v.shadow_of IS NOT NULL AND embed._may_note(v.id)
    ON CONFLICT ON CONSTRAINT _heir_pkey DO UPDATE SET heir_id = excluded.heir_id;
$$;
COMMENT ON FUNCTION embed._bequeath_v1(integer) IS 'Before a shadow is dropped: what it used, and what was used before it, is its vectorizer''s from then on.';

CREATE OR REPLACE VIEW embed.usage AS
SELECT
    u.day,
    COALESCE(m.name, 'dropped model ' || u.model_id) AS model,
    CASE WHEN u.vectorizer_id > 0 THEN COALESCE(v.name, 'dropped vectorizer ' || u.vectorizer_id) END AS vectorizer,
    sum(u.requests)::bigint AS requests,
    sum(u.inputs)::bigint AS inputs,
    sum(u.tokens)::bigint AS tokens,
    sum(u.cost) AS cost,
    'USD'::text AS currency,
    sum(u.reused)::bigint AS reused
FROM embed._usage AS u
LEFT JOIN embed._model AS m ON m.id = u.model_id
LEFT JOIN embed._heir AS h ON h.vectorizer_id = u.vectorizer_id
LEFT JOIN embed._vectorizer AS own ON own.id = COALESCE(h.heir_id, u.vectorizer_id)
LEFT JOIN embed._vectorizer AS v ON v.id = COALESCE(own.shadow_of, own.id)
WHERE pg_catalog.pg_has_role(current_user, (SELECT s.nspowner FROM pg_catalog.pg_namespace AS s WHERE s.nspname = 'embed'), 'USAGE')
    OR pg_catalog.pg_has_role(current_user, (SELECT c.relowner FROM pg_catalog.pg_class AS c WHERE c.oid = v.source), 'USAGE')
GROUP BY 1, 2, 3;
COMMENT ON VIEW embed.usage IS
    'What was used of each model on each day (UTC), by each vectorizer, and by queries and others where vectorizer is NULL; the cost is NULL where the model had no price. Reused are texts whose vectors were known, and cost nothing. What a switch of models used is the vectorizer''s that searches see, before the swap and after it. Who owns a table sees its vectorizers'', who owns schema embed sees all.';

CREATE OR REPLACE FUNCTION embed.set_budget(
    vectorizer text,
    tokens bigint DEFAULT NULL,
    cost numeric DEFAULT NULL,
    per text DEFAULT 'total',
    live boolean DEFAULT true
)
RETURNS void
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    v embed._vectorizer := embed._own_vectorizer(vectorizer);
BEGIN
    per := COALESCE(per, 'total');
    live := COALESCE(live, true);
    IF per NOT IN ('day', 'month', 'total') THEN
        PERFORM embed._fail('PE003', format('there is no budget per %s', per), 'per is ''day'', ''month'' or ''total''');
    ELSIF tokens < 0 OR cost < 0 OR cost = 'NaN' THEN
        PERFORM embed._fail('PE003', 'a budget is not less than nothing', 'a budget of 0 stops the vectorizer; without tokens and cost it has none');
    ELSIF cost IS NOT NULL AND NOT EXISTS (SELECT FROM unnest(embed._models(v)) AS m(id) WHERE embed._has_price_v1(m.id)) THEN
        PERFORM embed._fail('PE003', 'a budget of money needs a price of the model, and it has none', 'set one with embed.price_model(model, per_million_tokens), or give a budget of tokens');
    ELSIF num_nonnulls(tokens, cost) = 0 THEN
        DELETE FROM embed._budget AS b WHERE b.vectorizer_id = v.id;
    ELSE
        INSERT INTO embed._budget AS b (vectorizer_id, tokens, cost, per, live)
        VALUES (v.id, set_budget.tokens, set_budget.cost, set_budget.per, set_budget.live)
        ON CONFLICT ON CONSTRAINT _budget_pkey DO UPDATE
        SET tokens = excluded.tokens, cost = excluded.cost, per = excluded.per, live = excluded.live;
    END IF;
    PERFORM pg_notify('pg_embed_work', 'catalog');
END $$;
COMMENT ON FUNCTION embed.set_budget(text, bigint, numeric, text, boolean) IS
    'What a vectorizer may use in a day, a month (UTC) or in total: tokens, US dollars, or both. When that is spent it waits, and loses nothing; with live => false only its backfill does. Without tokens and cost it has no budget.';

CREATE OR REPLACE FUNCTION embed._has_price_v1(model integer)
RETURNS boolean
LANGUAGE sql
STABLE PARALLEL SAFE SECURITY DEFINER
SET search_path = pg_catalog, embed, pg_temp
AS $$ SELECT EXISTS (SELECT FROM embed._price AS p WHERE p.model_id = model) $$;
COMMENT ON FUNCTION embed._has_price_v1(integer) IS 'Whether a model has a price.';

CREATE OR REPLACE FUNCTION embed._budgets_v1()
RETURNS integer[]
LANGUAGE sql
STABLE PARALLEL SAFE SECURITY DEFINER
SET search_path = pg_catalog, embed, pg_temp
AS $$ SELECT ARRAY(SELECT b.vectorizer_id FROM embed._budget AS b ORDER BY b.vectorizer_id) $$;
COMMENT ON FUNCTION embed._budgets_v1() IS 'The vectorizers with budgets.';

CREATE OR REPLACE VIEW embed.budgets AS
SELECT v.name AS vectorizer, b.tokens, b.cost, b.per, b.live, s.tokens AS tokens_used, s.cost AS cost_used
FROM embed._budget AS b
JOIN embed._vectorizer AS v ON v.id = b.vectorizer_id
CROSS JOIN LATERAL (
    SELECT COALESCE(sum(u.tokens), 0)::bigint AS tokens, sum(u.cost) AS cost
    FROM embed._usage AS u WHERE u.vectorizer_id = b.vectorizer_id AND u.day >= embed._period(b.per)
) AS s
WHERE pg_catalog.pg_has_role(current_user, (SELECT s.nspowner FROM pg_catalog.pg_namespace AS s WHERE s.nspname = 'embed'), 'USAGE')
    OR pg_catalog.pg_has_role(current_user, (SELECT c.relowner FROM pg_catalog.pg_class AS c WHERE c.oid = v.source), 'USAGE');
COMMENT ON VIEW embed.budgets IS 'Budgets, and what is spent of them in the period that runs.';

CREATE OR REPLACE FUNCTION embed._count_v1(model integer, texts text[])
RETURNS double precision
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    counts jsonb;
BEGIN
    SELECT embed._ask(jsonb_build_object('op', 'count', 'texts', to_jsonb(texts),
        'model', jsonb_build_object('name', m.name, 'family', m.family, 'options', m.options))) -> 'counts'
    INTO counts FROM embed._model AS m WHERE m.id = model;
    RETURN (SELECT avg(c.count::double precision) FROM jsonb_array_elements_text(CASE jsonb_typeof(counts) WHEN 'array' THEN counts END) AS c(count));
EXCEPTION WHEN OTHERS THEN
    IF SQLSTATE NOT LIKE 'PE%' THEN
        RAISE;
    END IF;
    RETURN NULL;  -- no sidecar, or one that is older, or a model that cannot be loaded: it is guessed, then
END $$;
COMMENT ON FUNCTION embed._count_v1(integer, text[]) IS
    'The mean number of tokens of some texts by the model''s own tokenizer; NULL where it has none here, as hosted models do, or cannot be asked.';

CREATE OR REPLACE FUNCTION embed._guess(input text)
RETURNS double precision
LANGUAGE sql
IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
SET standard_conforming_strings = on
AS $$
    SELECT (length(input) - s.dense - s.other) / 4.2 + s.dense / 1.5 + s.other / 2.5
    FROM (SELECT length(regexp_replace(input, '[^\u2E80-\u9FFF\uAC00-\uD7AF\uF900-\uFAFF]', '', 'g'))::double precision AS dense,
        length(regexp_replace(input, '[\u0001-\u024F\u1E00-\u206F\u2E80-\u9FFF\uAC00-\uD7AF\uF900-\uFAFF]', '', 'g'))::double precision AS other) AS s
$$;
COMMENT ON FUNCTION embed._guess(text) IS
    'Tokens by script, where nothing better is known: Latin letters and signs 4.2 to a token, Chinese, Japanese and Korean 1.5, all others 2.5.';

CREATE OR REPLACE FUNCTION embed._rates_v1(
    model integer,
    OUT price numeric, OUT tokens_per_byte double precision, OUT max_tokens integer, OUT max_items double precision, OUT max_batch_tokens double precision,
    OUT requests_per_minute double precision, OUT inputs_per_minute double precision, OUT tokens_per_minute double precision,
    OUT name text
)
LANGUAGE sql
STABLE PARALLEL SAFE SECURITY DEFINER
SET search_path = pg_catalog, embed, pg_temp
AS $$
    SELECT p.per_million_tokens,
        -- of what vectorizers embedded; queries are shorter, and have another prompt
        (SELECT sum(u.tokens)::double precision / sum(u.bytes) FROM embed._usage AS u
            WHERE u.model_id = m.id AND u.vectorizer_id > 0 AND u.bytes > 0 HAVING sum(u.bytes) >= 10000),
        COALESCE((m.card ->> 'max_tokens')::integer, 8192), COALESCE((m.card ->> 'max_batch_items')::double precision, 32),
        COALESCE((m.card ->> 'max_batch_tokens')::double precision, 16384),
        l.requests_per_minute, l.inputs_per_minute, l.tokens_per_minute,
        m.name
    FROM embed._model AS m
    LEFT JOIN embed._price AS p ON p.model_id = m.id
    LEFT JOIN embed._limit AS l ON l.model_id = m.id
    WHERE m.id = model
$$;
COMMENT ON FUNCTION embed._rates_v1(integer) IS 'What an estimate needs to know of a model: price, limits, sizes of calls, and the tokens that a byte has had so far.';

CREATE OR REPLACE FUNCTION embed._estimate(source regclass, input text, wanted text, model integer, is_split boolean DEFAULT false, hook text DEFAULT NULL)
RETURNS TABLE (rows bigint, tokens bigint, cost numeric, seconds double precision, texts bigint, kept double precision, note text)
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
SET DateStyle = 'ISO, YMD'
SET TimeZone = 'UTC'
SET IntervalStyle = 'postgres'
SET extra_float_digits = 1
AS $$
DECLARE
    few_pages constant bigint := 2000;  -- are read whole, and as many of a larger table
    few_rows constant integer := 2000;  -- whose texts are looked at
    few_bytes constant integer := 2000000;  -- that are sent to the sidecar
    name text := embed._source_name(source);
    pages bigint;
    total double precision;
    share real;
    sample record;
    rates record := embed._rates_v1(model);
    given bigint;  -- rows of the sample that have a text
    once bigint;  -- texts of the sample that one row has
    new text[];
    known boolean[];
    billed bigint := 0;
    counted text[];
    mean double precision;
    calls double precision;
BEGIN
    SELECT sum(pg_relation_size(t.relid)) / current_setting('block_size')::bigint INTO pages
    FROM (SELECT source AS relid UNION SELECT p.relid FROM pg_partition_tree(source) AS p) AS t;
    IF pages <= few_pages THEN
        EXECUTE format('SELECT count(*) FROM %s AS r', name) INTO total;
    ELSE
        EXECUTE format('SELECT COALESCE(count(*)::double precision * $1 / NULLIF(count(DISTINCT (r.tableoid, (r.ctid::text::point)[0])), 0), 0)
            FROM %s AS r TABLESAMPLE SYSTEM ($2)', name) INTO total USING pages, (100.0 * few_pages / pages)::real;
    END IF;
    share := least(100, 100 * few_rows / greatest(total, 1));
    LOOP
        EXECUTE format('SELECT count(*) AS seen, array_agg(left(s.input, $2)) FILTER (WHERE s.wanted AND s.input IS NOT NULL) AS texts,
                array_agg(sha256(convert_to(s.input, ''UTF8''))) FILTER (WHERE s.wanted AND s.input IS NOT NULL) AS digests
            FROM (SELECT %s AS input, %s AS wanted FROM %s AS r TABLESAMPLE %s ($1)) AS s',
            input, wanted, name, CASE WHEN pages <= few_pages THEN 'BERNOULLI' ELSE 'SYSTEM' END)
        INTO sample USING share, rates.max_tokens * 8;  -- a model reads no more of a text than max_tokens of it
        EXIT WHEN sample.seen > 0 OR share >= 100;
        share := least(100, share * 10);
    END LOOP;
    given := COALESCE(cardinality(sample.texts), 0);
    rows := round(total * given / greatest(sample.seen, 1));
    IF hook IS NOT NULL THEN
        note := format('the hook %s makes the texts of these rows: what they take is not known before', hook);
        RETURN NEXT;
        RETURN;
    END IF;
    texts := 0;
    IF rows > 0 THEN
        SELECT array_agg(g.text), array_agg(g.digest), count(*) FILTER (WHERE g.times = 1) INTO new, sample.digests, once
        FROM (SELECT min(s.text) AS text, s.digest, count(*) AS times FROM unnest(sample.texts, sample.digests) AS s(text, digest) GROUP BY s.digest) AS g;
        -- the estimator of Haas and Stokes (IBM RJ 10025, Duj1), as ANALYZE has it: what is seen once tells of what is not seen
        texts := round(given::double precision * cardinality(new) / (given - once + once * given / greatest(rows, given)::double precision));
        billed := rows;
        IF embed._is_reused_v1(model) THEN
            known := CASE WHEN NOT is_split THEN embed._kept_v1(source, model, sample.digests) END;
            kept := (SELECT avg(k.is_kept::integer) FROM unnest(known) AS k(is_kept));
            billed := round(texts * (1 - COALESCE(kept, 0)));
            sample.texts := ARRAY(SELECT s.text FROM unnest(new, known) AS s(text, is_kept) WHERE s.is_kept IS NOT TRUE);
            note := CASE WHEN is_split THEN 'chunks whose vectors are kept cost nothing, and are not taken off' END;
        ELSIF texts < 0.9 * rows THEN
            note := format('equal texts cost as often as they are there; once, with embed.set_reuse(%L, true)', rates.name);
        END IF;
    END IF;
    IF billed > 0 THEN
        SELECT array_agg(c.text) INTO counted FROM (
            SELECT t.text, sum(octet_length(t.text)) OVER (ORDER BY t.place) AS bytes, t.place
            FROM (SELECT s.text, row_number() OVER (ORDER BY random()) AS place FROM unnest(sample.texts) AS s(text)) AS t
        ) AS c WHERE c.place = 1 OR c.bytes <= few_bytes;
        mean := embed._count_v1(model, counted);
        IF mean IS NULL AND rates.tokens_per_byte IS NOT NULL THEN
            SELECT avg(least(octet_length(s.text) * rates.tokens_per_byte, rates.max_tokens)) INTO mean FROM unnest(sample.texts) AS s(text);
        ELSIF mean IS NULL THEN
            SELECT avg(least(embed._guess(s.text), rates.max_tokens)) INTO mean FROM unnest(counted) AS s(text);
        END IF;
    END IF;
    tokens := round(billed * COALESCE(mean, 0));
    cost := round(tokens * rates.price / 1000000, 6);
    -- a call is filled by estimates that are about four tenths too high
    calls := greatest(ceil(billed / rates.max_items), ceil(1.4 * tokens / rates.max_batch_tokens));
    seconds := round(extract(epoch FROM greatest(embed._takes(calls, rates.requests_per_minute), embed._takes(billed, rates.inputs_per_minute),
        embed._takes(tokens, rates.tokens_per_minute))))::double precision;
    RETURN NEXT;
END $$;
COMMENT ON FUNCTION embed._estimate(regclass, text, text, integer, boolean, text) IS
    'What embedding a table''s texts would take, from a random sample of its pages: by their chunks, or as a hook makes them, where it is said so.';

CREATE OR REPLACE FUNCTION embed.estimate(
    source regclass,
    input text[] DEFAULT NULL,
    template text DEFAULT NULL,
    model text DEFAULT NULL,
    filter text DEFAULT NULL
)
RETURNS TABLE (rows bigint, tokens bigint, cost numeric, seconds double precision, texts bigint, kept double precision, note text)
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    read record;
    kept record;
BEGIN
    PERFORM embed._check_source(source);
    read := embed._template(source, input, template);
    PERFORM embed._check_input(source, read.columns);
    kept := embed._filter(source, filter);
    RETURN QUERY SELECT * FROM embed._estimate(source, embed._input(source, read.columns, read.pieces, kept.pieces, 'r'), 'true',
        CASE WHEN model IS NULL THEN embed._default_model_id() ELSE embed._model_id(model) END);
END $$;
COMMENT ON FUNCTION embed.estimate(regclass, text[], text, text, text) IS
    'What a vectorizer of these columns would take for the rows that are there, from a random sample: rows, tokens, US dollars (NULL where the model has no price), seconds at its limits (NULL where it has none), how many distinct texts there are, and the share of them whose vectors are kept. Where vectors are reused, each distinct text costs once, and those that are kept nothing. A note says what is not known.';

CREATE OR REPLACE FUNCTION embed.estimate(
    source regclass,
    input text,
    template text DEFAULT NULL,
    model text DEFAULT NULL,
    filter text DEFAULT NULL
)
RETURNS TABLE (rows bigint, tokens bigint, cost numeric, seconds double precision, texts bigint, kept double precision, note text)
LANGUAGE sql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$ SELECT * FROM embed.estimate(source, CASE WHEN input IS NOT NULL THEN ARRAY[input] END, template, model, filter) $$;
COMMENT ON FUNCTION embed.estimate(regclass, text, text, text, text) IS 'The same for one input column.';

CREATE OR REPLACE FUNCTION embed.estimate(vectorizer text)
RETURNS TABLE (rows bigint, tokens bigint, cost numeric, seconds double precision, texts bigint, kept double precision, note text)
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    v embed._vectorizer := embed._own_vectorizer(vectorizer);
BEGIN
    RETURN QUERY
        SELECT max(e.rows), sum(e.tokens)::bigint, sum(e.cost), max(e.seconds), max(e.texts), min(e.kept), max(e.note)
        FROM unnest(embed._models(v)) AS m(id)
        CROSS JOIN LATERAL embed._estimate(v.source, embed._input(v.source, v.input_columns, v.template, v.filter, 'r', v.prepare),
            'NOT ' || embed._is_filled(v, 'r', true), m.id, v.chunk_table IS NOT NULL, v.prepare) AS e;
END $$;
COMMENT ON FUNCTION embed.estimate(text) IS 'What the rows of a vectorizer take that have no vector yet: of two models the tokens and the money together, and the seconds of the slower one. Where a hook makes the texts only the rows are known.';

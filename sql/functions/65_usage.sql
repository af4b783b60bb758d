-- What was used and what it cost, budgets, and estimates.

CREATE OR REPLACE FUNCTION embed._use_v1(uses jsonb)
RETURNS integer[]
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, embed, pg_temp
AS $$
BEGIN
    INSERT INTO embed._usage AS u (vectorizer_id, model_id, day, requests, inputs, bytes, tokens, cost)
    SELECT COALESCE(d.vectorizer, 0), m.id, embed._period('day'), sum(d.requests), sum(d.inputs), sum(d.bytes), sum(d.tokens),
        sum(d.tokens) * min(p.per_million_tokens) / 1000000
    FROM jsonb_to_recordset(uses) AS d(model text, vectorizer integer, requests bigint, inputs bigint, bytes bigint, tokens bigint)
    JOIN embed._model AS m ON m.name = d.model
    LEFT JOIN embed._price AS p ON p.model_id = m.id
    GROUP BY COALESCE(d.vectorizer, 0), m.id
    ORDER BY COALESCE(d.vectorizer, 0), m.id
    ON CONFLICT ON CONSTRAINT _usage_pkey DO UPDATE
    SET requests = u.requests + excluded.requests,
        inputs = u.inputs + excluded.inputs,
        bytes = u.bytes + excluded.bytes,
        tokens = u.tokens + excluded.tokens,
        cost = CASE WHEN num_nonnulls(u.cost, excluded.cost) > 0 THEN COALESCE(u.cost, 0) + COALESCE(excluded.cost, 0) END;
    PERFORM embed._accept((SELECT array_agg(m.id) FROM jsonb_to_recordset(uses) AS d(model text) JOIN embed._model AS m ON m.name = d.model));
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
    FROM embed._vectorizer AS v JOIN embed._budget AS b ON b.vectorizer_id = v.id WHERE v.model_id = wanted AND b.cost IS NOT NULL;
    IF budgeted IS NOT NULL THEN
        PERFORM embed._fail('PE003', format('the vectorizers %s have budgets of money', budgeted), 'give them budgets of tokens first, with embed.set_budget');
    END IF;
    DELETE FROM embed._price AS p WHERE p.model_id = wanted;
END $$;
COMMENT ON FUNCTION embed.price_model(text, numeric) IS
    'What a million tokens of a model cost, in US dollars, from now on; without a number it has no price. Used by embed.usage, budgets and estimates.';

CREATE OR REPLACE VIEW embed.usage AS
SELECT
    u.day,
    COALESCE(m.name, 'dropped model ' || u.model_id) AS model,
    CASE WHEN u.vectorizer_id > 0 THEN COALESCE(v.name, 'dropped vectorizer ' || u.vectorizer_id) END AS vectorizer,
    u.requests,
    u.inputs,
    u.tokens,
    u.cost,
    'USD'::text AS currency
FROM embed._usage AS u
LEFT JOIN embed._model AS m ON m.id = u.model_id
LEFT JOIN embed._vectorizer AS v ON v.id = u.vectorizer_id
WHERE pg_catalog.pg_has_role(current_user, (SELECT s.nspowner FROM pg_catalog.pg_namespace AS s WHERE s.nspname = 'embed'), 'USAGE')
    OR pg_catalog.pg_has_role(current_user, (SELECT c.relowner FROM pg_catalog.pg_class AS c WHERE c.oid = v.source), 'USAGE');
COMMENT ON VIEW embed.usage IS
    'What was used of each model on each day (UTC), by each vectorizer, and by queries and others where vectorizer is NULL; the cost is NULL where the model had no price. Who owns a table sees its vectorizers'', who owns schema embed sees all.';

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
    ELSIF cost IS NOT NULL AND NOT embed._has_price_v1(v.model_id) THEN
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

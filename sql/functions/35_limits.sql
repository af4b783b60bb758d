-- Limits of a model that all workers and sidecars share. Each limit is a clock: a call takes the time that its share of a
-- minute is, and goes when the clock says so. Reservations are given in the order in which they are asked for. Bulk keeps
-- the clock's time; queries may be ahead of it by 1.2 seconds, two hundredths of a minute, which is what they have for
-- themselves however much bulk there is. Clocks run at 96.5 % of the limit: what is left is for calls that arrive late and
-- then stand closer together at the provider, whatever window it counts in.

CREATE OR REPLACE FUNCTION embed._takes(amount double precision, per_minute double precision)
RETURNS interval
LANGUAGE sql
IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$ SELECT make_interval(secs => 60 * amount / (0.965 * per_minute)) $$;
COMMENT ON FUNCTION embed._takes(double precision, double precision) IS 'How long the clock of a limit takes for an amount.';

CREATE OR REPLACE FUNCTION embed._reserve_v1(
    model integer,
    requests integer,
    inputs integer,
    tokens bigint,
    query boolean DEFAULT false,
    patience interval DEFAULT NULL
)
RETURNS interval
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    l embed._limit;
    moment timestamptz;
    ahead interval := CASE WHEN query THEN interval '1.2 seconds' ELSE interval '0' END;
    slot timestamptz;
    late timestamptz;
BEGIN
    SELECT * INTO l FROM embed._limit AS c WHERE c.model_id = model FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN interval '0';
    END IF;
    moment := clock_timestamp();
    slot := greatest(moment, l.not_before,
        CASE WHEN l.requests_per_minute IS NOT NULL THEN l.requests_free - ahead END,
        CASE WHEN l.inputs_per_minute IS NOT NULL THEN l.inputs_free - ahead END,
        CASE WHEN l.tokens_per_minute IS NOT NULL THEN l.tokens_free - ahead END);
    IF slot - moment > patience THEN
        RETURN slot - moment;
    END IF;
    -- who asks a little late has lost nothing
    late := slot - interval '0.1 seconds';
    UPDATE embed._limit AS c
    SET requests_free = COALESCE(greatest(c.requests_free, late) + embed._takes(requests, c.requests_per_minute), '-infinity'),
        inputs_free = COALESCE(greatest(c.inputs_free, late) + embed._takes(inputs, c.inputs_per_minute), '-infinity'),
        tokens_free = COALESCE(greatest(c.tokens_free, late) + embed._takes(tokens, c.tokens_per_minute), '-infinity')
    WHERE c.model_id = model;
    RETURN slot - moment;
END $$;
COMMENT ON FUNCTION embed._reserve_v1(integer, integer, integer, bigint, boolean, interval) IS
    'Reserve a call of a model: how long to wait before it is sent. What would have to wait for longer than its patience is told so, and reserves nothing.';

CREATE OR REPLACE FUNCTION embed._settle_usage_v1(model integer, reserved bigint, used bigint, hold interval DEFAULT NULL)
RETURNS void
LANGUAGE sql
VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, embed, pg_temp
AS $$
    UPDATE embed._limit AS c
    SET tokens_free = COALESCE(c.tokens_free + embed._takes(used - reserved, c.tokens_per_minute), '-infinity'),
        not_before = greatest(c.not_before, clock_timestamp() + hold)
    WHERE c.model_id = model
$$;
COMMENT ON FUNCTION embed._settle_usage_v1(integer, bigint, bigint, interval) IS
    'Set the clock by the tokens that the provider counted; hold the next calls off where it says that little is left.';

CREATE OR REPLACE FUNCTION embed._hold_v1(model text, wait interval)
RETURNS void
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    before timestamptz;
    wanted integer := (SELECT m.id FROM embed._model AS m WHERE m.name = _hold_v1.model);
BEGIN
    IF wanted IS NULL THEN
        RETURN;
    END IF;
    INSERT INTO embed._limit (model_id) VALUES (wanted) ON CONFLICT DO NOTHING;
    SELECT l.not_before INTO before FROM embed._limit AS l WHERE l.model_id = wanted FOR NO KEY UPDATE;
    UPDATE embed._limit AS l SET not_before = greatest(l.not_before, clock_timestamp() + wait) WHERE l.model_id = wanted;
    IF before <= clock_timestamp() THEN
        PERFORM pg_notify('pg_embed_work', 'catalog');
    END IF;
END $$;
COMMENT ON FUNCTION embed._hold_v1(text, interval) IS 'Send nothing to a model for a time, from nowhere: its provider answered that calls come too fast.';

CREATE OR REPLACE FUNCTION embed._limits_v1()
RETURNS TABLE (
    model integer, name text, family text, options jsonb,
    requests_per_minute integer, inputs_per_minute integer, tokens_per_minute bigint
)
LANGUAGE sql
VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, embed, pg_temp
AS $$
    SELECT m.id, m.name, m.family, m.options, l.requests_per_minute, l.inputs_per_minute, l.tokens_per_minute
    FROM embed._limit AS l JOIN embed._model AS m ON m.id = l.model_id
    WHERE num_nonnulls(l.requests_per_minute, l.inputs_per_minute, l.tokens_per_minute) > 0 OR l.not_before > clock_timestamp()
    ORDER BY m.id
$$;
COMMENT ON FUNCTION embed._limits_v1() IS 'The models whose calls must be reserved: those with limits, and those that were told to wait.';

CREATE OR REPLACE FUNCTION embed.limit_model(
    model text,
    requests_per_minute integer DEFAULT NULL,
    inputs_per_minute integer DEFAULT NULL,
    tokens_per_minute bigint DEFAULT NULL
)
RETURNS void
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    wanted integer := embed._model_id(model);
BEGIN
    IF least(requests_per_minute, inputs_per_minute, tokens_per_minute) < 1 THEN
        PERFORM embed._fail('PE003', format('a limit of model %L is less than 1 a minute', model),
            'leave out what is not limited; embed.pause(vectorizer) stops a table');
    END IF;
    INSERT INTO embed._limit AS l (model_id, requests_per_minute, inputs_per_minute, tokens_per_minute)
    VALUES (wanted, limit_model.requests_per_minute, limit_model.inputs_per_minute, limit_model.tokens_per_minute)
    ON CONFLICT ON CONSTRAINT _limit_pkey DO UPDATE
    SET requests_per_minute = excluded.requests_per_minute, inputs_per_minute = excluded.inputs_per_minute,
        tokens_per_minute = excluded.tokens_per_minute, requests_free = '-infinity', inputs_free = '-infinity', tokens_free = '-infinity';
    PERFORM pg_notify('pg_embed_work', 'catalog');
END $$;
COMMENT ON FUNCTION embed.limit_model(text, integer, integer, bigint) IS
    'What all workers and sidecars of this database together may ask of a model in a minute: calls, texts, tokens. What is left out is not limited; with the name alone nothing is.';

CREATE OR REPLACE VIEW embed.limits AS
SELECT
    m.name AS model,
    l.requests_per_minute,
    l.inputs_per_minute,
    l.tokens_per_minute,
    CASE WHEN l.not_before > clock_timestamp() THEN l.not_before END AS not_before,
    l.refusal,
    CASE WHEN l.refusal IS NOT NULL THEN l.probe_at END AS probe_at
FROM embed._limit AS l JOIN embed._model AS m ON m.id = l.model_id
WHERE num_nonnulls(l.requests_per_minute, l.inputs_per_minute, l.tokens_per_minute, l.refusal) > 0 OR l.not_before > clock_timestamp();
COMMENT ON VIEW embed.limits IS
    'Limits of models; until when a provider wants nothing; why it refuses the account, and when the next call tries again.';

-- What holds a vectorizer up: a budget that is spent, and a provider that refuses the account. Rows stay queued; the claim
-- asks, so that no worker goes beyond the batches that it has in hand.

CREATE OR REPLACE FUNCTION embed._period(per text)
RETURNS date
LANGUAGE sql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
    SELECT CASE per
        WHEN 'day' THEN (now() AT TIME ZONE 'UTC')::date
        WHEN 'month' THEN date_trunc('month', now() AT TIME ZONE 'UTC')::date
        ELSE '-infinity' END
$$;
COMMENT ON FUNCTION embed._period(text) IS 'The first day, in UTC, of the period of a budget.';

CREATE OR REPLACE FUNCTION embed._spent(vectorizer integer, lane integer)
RETURNS boolean
LANGUAGE sql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
    SELECT EXISTS (
        SELECT FROM embed._budget AS b
        CROSS JOIN LATERAL (
            SELECT COALESCE(sum(u.tokens), 0) AS tokens, COALESCE(sum(u.cost), 0) AS cost
            FROM embed._usage AS u WHERE u.vectorizer_id = b.vectorizer_id AND u.day >= embed._period(b.per)
        ) AS s
        WHERE b.vectorizer_id = vectorizer AND (b.live OR lane = 2) AND (s.tokens >= b.tokens OR s.cost >= b.cost))
$$;
COMMENT ON FUNCTION embed._spent(integer, integer) IS 'Whether a budget stops a lane of a vectorizer now.';

CREATE OR REPLACE FUNCTION embed._is_held(vectorizer integer, lane integer)
RETURNS boolean
LANGUAGE sql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
    SELECT EXISTS (SELECT FROM embed._vectorizer AS v JOIN embed._limit AS l ON l.model_id = ANY (embed._models(v))
            WHERE v.id = vectorizer AND l.refusal IS NOT NULL AND l.probe_at > clock_timestamp())
        OR embed._spent(vectorizer, lane)
$$;
COMMENT ON FUNCTION embed._is_held(integer, integer) IS 'Whether a lane of a vectorizer waits for a budget, or for the next try of a model that is refused.';

CREATE OR REPLACE FUNCTION embed._may_claim(vectorizer integer, lane integer)
RETURNS boolean
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    refused integer[];
    due integer[];
BEGIN
    IF embed._spent(vectorizer, lane) THEN
        RETURN false;
    END IF;
    SELECT array_agg(l.model_id) INTO refused FROM embed._vectorizer AS v JOIN embed._limit AS l ON l.model_id = ANY (embed._models(v))
    WHERE v.id = vectorizer AND l.refusal IS NOT NULL;
    IF refused IS NULL THEN
        RETURN true;
    END IF;
    -- one batch of one worker finds out, now and then, whether the account is well again
    due := ARRAY(SELECT l.model_id FROM embed._limit AS l WHERE l.model_id = ANY (refused) AND l.probe_at <= clock_timestamp() FOR NO KEY UPDATE SKIP LOCKED);
    IF cardinality(due) < cardinality(refused) THEN
        RETURN false;
    END IF;
    UPDATE embed._limit AS l SET probe_at = clock_timestamp() + l.probe_every WHERE l.model_id = ANY (refused);
    RETURN true;
END $$;
COMMENT ON FUNCTION embed._may_claim(integer, integer) IS
    'Whether rows may be claimed: a budget is left, and no model is refused, or it is this claim that tries it again.';

CREATE OR REPLACE FUNCTION embed._refuse_v1(model text, refusal text, wait interval DEFAULT '1 minute')
RETURNS boolean
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    wanted integer := (SELECT m.id FROM embed._model AS m WHERE m.name = _refuse_v1.model);
    known text;
BEGIN
    IF wanted IS NULL THEN
        RETURN false;
    END IF;
    INSERT INTO embed._limit (model_id) VALUES (wanted) ON CONFLICT DO NOTHING;
    SELECT l.refusal INTO known FROM embed._limit AS l WHERE l.model_id = wanted FOR NO KEY UPDATE;
    UPDATE embed._limit AS l SET refusal = _refuse_v1.refusal, probe_every = wait, probe_at = clock_timestamp() + wait WHERE l.model_id = wanted;
    RETURN known IS NULL;
END $$;
COMMENT ON FUNCTION embed._refuse_v1(text, text, interval) IS
    'A provider refuses the account: pause the model for all workers, and let one call try again after a wait. True if nobody knew.';

CREATE OR REPLACE FUNCTION embed._accept(models integer[])
RETURNS void
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    paused record;
BEGIN
    FOR paused IN SELECT l.model_id, l.refusal FROM embed._limit AS l
        WHERE l.model_id = ANY (models) AND l.refusal IS NOT NULL ORDER BY l.model_id FOR NO KEY UPDATE
    LOOP
        UPDATE embed._limit AS l SET refusal = NULL, probe_at = '-infinity' WHERE l.model_id = paused.model_id;
        UPDATE embed._queue AS q SET available_at = clock_timestamp()
        WHERE q.id IN (SELECT e.id FROM embed._queue AS e JOIN embed._vectorizer AS v ON v.id = e.vectorizer_id
            WHERE paused.model_id = ANY (embed._models(v)) AND e.worker IS NULL AND e.last_error = paused.refusal FOR UPDATE OF e SKIP LOCKED);
        PERFORM pg_notify('pg_embed_work', 'catalog');
    END LOOP;
END $$;
COMMENT ON FUNCTION embed._accept(integer[]) IS 'These models have answered: those that were paused go on, and so do the rows that were put off for it.';

CREATE OR REPLACE FUNCTION embed._try_again_v1(model integer)
RETURNS void
LANGUAGE sql
VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, embed, pg_temp
AS $$ UPDATE embed._limit AS l SET probe_at = '-infinity' WHERE l.model_id = model AND l.refusal IS NOT NULL $$;
COMMENT ON FUNCTION embed._try_again_v1(integer) IS 'Let the next claim try a model that is refused, without waiting for the minute.';

CREATE OR REPLACE FUNCTION embed._holdup(vectorizer integer)
RETURNS text
LANGUAGE sql
STABLE PARALLEL SAFE SECURITY DEFINER
SET search_path = pg_catalog, embed, pg_temp
SET TimeZone = 'UTC'
SET DateStyle = 'ISO, YMD'
AS $$
    SELECT COALESCE(
        (SELECT string_agg(format('the account of model %L is refused, and it is tried again at %s UTC: %s', m.name,
                date_trunc('second', greatest(l.probe_at, now()))::timestamp, l.refusal), '; ' ORDER BY m.id)
            FROM embed._vectorizer AS v JOIN embed._limit AS l ON l.model_id = ANY (embed._models(v)) JOIN embed._model AS m ON m.id = l.model_id
            WHERE v.id = vectorizer AND l.refusal IS NOT NULL),
        (SELECT format('the budget of %s is spent%s; %s',
                concat_ws(' or ', b.cost || ' USD', b.tokens || ' tokens') || CASE b.per WHEN 'total' THEN ' in total' ELSE ' a ' || b.per END,
                CASE WHEN b.live THEN '' ELSE ', and the backfill waits' END,
                CASE b.per WHEN 'day' THEN format('it goes on at %s 00:00 UTC', embed._period('day') + 1)
                    WHEN 'month' THEN format('it goes on at %s 00:00 UTC', (embed._period('month') + interval '1 month')::date)
                    ELSE 'raise it with embed.set_budget' END)
            FROM embed._budget AS b WHERE b.vectorizer_id = vectorizer AND embed._spent(vectorizer, 2)))
$$;
COMMENT ON FUNCTION embed._holdup(integer) IS 'What a vectorizer waits for, for people: a refused account, or a budget that is spent; NULL for nothing.';

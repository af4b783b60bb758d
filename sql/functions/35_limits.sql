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

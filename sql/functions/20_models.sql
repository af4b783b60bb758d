-- Models: named configurations, and the cards that tell their dimensions and space.

CREATE OR REPLACE FUNCTION embed._model_id(name text)
RETURNS integer
LANGUAGE plpgsql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    found integer;
BEGIN
    SELECT m.id INTO found FROM embed._model AS m WHERE m.name = _model_id.name;
    IF found IS NULL THEN
        PERFORM embed._fail('PE001', format('there is no model %L', name),
            COALESCE('the models are: ' || (SELECT string_agg(quote_literal(m.name), ', ' ORDER BY m.name) || '; embed.create_model makes others' FROM embed._model AS m),
                'make one with embed.create_model(name, family => ...)'));
    END IF;
    RETURN found;
END $$;
COMMENT ON FUNCTION embed._model_id(text) IS 'The id of a model by name, or an error that lists the models.';

CREATE OR REPLACE FUNCTION embed._default_model_id()
RETURNS integer
LANGUAGE plpgsql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    wanted text := current_setting('embed.default_model', true);
    found integer;
BEGIN
    IF wanted <> '' THEN
        RETURN embed._model_id(wanted);
    END IF;
    SELECT m.id INTO found FROM embed._model AS m WHERE m.is_default;
    IF found IS NULL THEN
        SELECT min(m.id) INTO found FROM embed._model AS m WHERE m.outputs <> '{score}' HAVING count(*) = 1;
    END IF;
    IF found IS NULL THEN
        PERFORM embed._fail('PE002', 'no model is named, and this database has no default model',
            COALESCE('name one of: ' || (SELECT string_agg(quote_literal(m.name), ', ' ORDER BY m.name) FROM embed._model AS m WHERE m.outputs <> '{score}')
                || ', or set embed.default_model', 'make one with embed.create_model(name, family => ...)'));
    END IF;
    RETURN found;
END $$;
COMMENT ON FUNCTION embed._default_model_id() IS
    'The model of a vectorizer that names none: the setting embed.default_model, else the default of the catalog, else the only model.';

CREATE OR REPLACE FUNCTION embed._check_options(options jsonb)
RETURNS void
LANGUAGE plpgsql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    suspect text;
BEGIN
    IF options IS NULL OR jsonb_typeof(options) <> 'object' THEN
        PERFORM embed._fail('PE003', 'the options of a model must be a JSON object', 'as in options => ''{"checkpoint": "..."}''');
    END IF;
    WITH RECURSIVE parts AS (
        SELECT NULL::text AS name, options AS value
        UNION ALL
        SELECT below.name, below.value FROM parts AS p, LATERAL (
            SELECT o.key AS name, o.value FROM jsonb_each(CASE jsonb_typeof(p.value) WHEN 'object' THEN p.value ELSE '{}' END) AS o
            UNION ALL
            SELECT p.name, e.value FROM jsonb_array_elements(CASE jsonb_typeof(p.value) WHEN 'array' THEN p.value ELSE '[]' END) AS e
        ) AS below
    )
    SELECT p.name INTO suspect FROM parts AS p
    WHERE p.name ~* '(^|[-_])(api[-_]?key|key|token|secret|password|authorization|bearer)$' LIMIT 1;
    IF suspect IS NOT NULL THEN
        PERFORM embed._fail('PE003', format('the option %L would put a secret into the database', suspect),
            'set the key in the sidecar''s environment or in a file, and name it: "api_key_env" or "api_key_file"');
    END IF;
END $$;
COMMENT ON FUNCTION embed._check_options(jsonb) IS 'Options are an object without secrets.';

CREATE OR REPLACE FUNCTION embed._check_card(card jsonb)
RETURNS void
LANGUAGE plpgsql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
BEGIN
    IF NOT COALESCE(jsonb_typeof(card) = 'object' AND card ->> 'dimensions' ~ '^([1-9][0-9]{0,8}|1000000000)$'
        AND COALESCE(card ->> 'sparse_dimensions', '1') ~ '^([1-9][0-9]{0,8}|1000000000)$' AND COALESCE(card ->> 'multi_dimensions', '1') ~ '^[1-9][0-9]{0,4}$'
        AND jsonb_typeof(COALESCE(card -> 'outputs', '["dense"]')) = 'array' AND card ->> 'metric' IN ('cosine', 'ip', 'l2') AND card ->> 'space_id' <> '', false) THEN
        PERFORM embed._fail('PE003', 'the card of a model needs dimensions, metric (cosine, ip or l2) and space_id',
            'leave the card out: the sidecar tells it');
    ELSIF NOT embed._card_outputs(card) <@ ARRAY['dense', 'sparse', 'multi', 'score'] OR embed._card_outputs(card) = '{}' THEN
        PERFORM embed._fail('PE003', format('the card of a model tells of the outputs %s', card -> 'outputs'), 'they are dense, sparse, multi and score');
    ELSIF (card ->> 'dimensions')::integer > 16000 AND embed._card_outputs(card) && ARRAY['dense', 'multi'] AND embed._card_outputs(card) <> '{sparse}' THEN
        PERFORM embed._fail('PE003', format('vectors of %s dimensions cannot be stored', card ->> 'dimensions'), 'pgvector stores 16000 at most');
    END IF;
END $$;
COMMENT ON FUNCTION embed._check_card(jsonb) IS 'A card tells outputs, dimensions, metric and space.';

CREATE OR REPLACE FUNCTION embed._card_outputs(card jsonb)
RETURNS text[]
LANGUAGE sql
IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
    SELECT COALESCE(array_agg(o.output ORDER BY array_position(ARRAY['dense', 'sparse', 'multi', 'score'], o.output)), '{}')
    FROM (SELECT DISTINCT COALESCE(e.value #>> '{}', '') AS output FROM jsonb_array_elements(COALESCE(card -> 'outputs', '["dense"]')) AS e) AS o
$$;
COMMENT ON FUNCTION embed._card_outputs(jsonb) IS 'What a model makes, by its card: dense vectors where the card does not say.';

CREATE OR REPLACE FUNCTION embed.create_model(
    name text,
    family text DEFAULT NULL,
    options jsonb DEFAULT '{}',
    card jsonb DEFAULT NULL,
    is_default boolean DEFAULT false,
    if_not_exists boolean DEFAULT false
)
RETURNS text
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    told jsonb;
BEGIN
    is_default := COALESCE(is_default, false);
    IF name IS NULL OR name = '' OR family = '' THEN
        PERFORM embed._fail('PE003', 'a model needs a name');
    ELSIF family IS NULL AND card IS NOT NULL THEN
        PERFORM embed._fail('PE003', 'a model with a card needs a family');
    END IF;
    IF EXISTS (SELECT FROM embed._model AS m WHERE m.name = create_model.name) THEN
        IF if_not_exists THEN
            RETURN name;
        END IF;
        PERFORM embed._fail('PE003', format('there is a model %L already', name), 'embed.alter_model changes it, embed.drop_model removes it');
    END IF;
    PERFORM embed._check_options(options);
    IF card IS NULL THEN
        told := embed._ask(jsonb_build_object('op', 'card',
            'model', jsonb_build_object('name', name, 'family', family, 'options', options)));
        card := told -> 'card';
        IF family IS NULL THEN
            family := told ->> 'family';
            options := told -> 'options';
            PERFORM embed._check_options(options);
        END IF;
    END IF;
    PERFORM embed._check_card(card);
    IF is_default THEN
        UPDATE embed._model AS m SET is_default = false WHERE m.is_default;
    END IF;
    IF is_default AND embed._card_outputs(card) = '{score}' THEN
        PERFORM embed._fail('PE003', format('model %L makes scores, and cannot be the default for vectors', name), 'leave is_default out, or set embed.default_reranker');
    END IF;
    INSERT INTO embed._model (name, family, options, card, outputs, dimensions, sparse_dimensions, multi_dimensions, metric, space_id, is_default)
    VALUES (name, family, options, card, embed._card_outputs(card), (card ->> 'dimensions')::integer, (card ->> 'sparse_dimensions')::integer,
        (card ->> 'multi_dimensions')::integer, card ->> 'metric', card ->> 'space_id', is_default);
    IF told ->> 'price' IS NOT NULL THEN
        PERFORM embed.price_model(name, (told ->> 'price')::numeric);
    END IF;
    RETURN name;
END $$;
COMMENT ON FUNCTION embed.create_model(text, text, jsonb, jsonb, boolean, boolean) IS
    'Name a configuration of a model. Without a card the sidecar loads the model and tells its dimensions, metric and space; without a family it is a model that pg_embed knows by this name.';

CREATE OR REPLACE FUNCTION embed.alter_model(
    name text,
    options jsonb DEFAULT NULL,
    card jsonb DEFAULT NULL,
    is_default boolean DEFAULT NULL,
    rename_to text DEFAULT NULL
)
RETURNS text
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    model embed._model;
BEGIN
    SELECT m.* INTO model FROM embed._model AS m WHERE m.id = embed._model_id(alter_model.name) FOR UPDATE;
    IF rename_to = '' THEN
        PERFORM embed._fail('PE003', 'a model needs a name');
    ELSIF EXISTS (SELECT FROM embed._model AS m WHERE m.name = rename_to AND m.id <> model.id) THEN
        PERFORM embed._fail('PE003', format('there is a model %L already', rename_to), 'choose another name');
    END IF;
    IF options IS NOT NULL THEN
        PERFORM embed._check_options(options);
        IF card IS NULL THEN
            card := embed._ask(jsonb_build_object('op', 'card',
                'model', jsonb_build_object('name', name, 'family', model.family, 'options', options))) -> 'card';
        END IF;
    END IF;
    IF card IS NOT NULL THEN
        PERFORM embed._check_card(card);
    END IF;
    IF (card ->> 'space_id' <> model.space_id OR (card ->> 'dimensions')::integer <> model.dimensions OR card ->> 'metric' <> model.metric
            OR embed._card_outputs(card) <> model.outputs)
        AND EXISTS (SELECT FROM embed._vectorizer AS v WHERE model.id = ANY (embed._models(v))) THEN
        PERFORM embed._fail('PE030', format('model %L would give vectors of another space, and vectorizers have written some with it', name),
            'make a new model with these options, and move the vectorizers to it');
    END IF;
    IF is_default THEN
        UPDATE embed._model AS m SET is_default = false WHERE m.is_default AND m.id <> model.id;
    END IF;
    UPDATE embed._model AS m
    SET name = COALESCE(rename_to, m.name),
        options = COALESCE(alter_model.options, m.options),
        card = COALESCE(alter_model.card, m.card),
        outputs = CASE WHEN alter_model.card IS NULL THEN m.outputs ELSE embed._card_outputs(alter_model.card) END,
        dimensions = COALESCE((alter_model.card ->> 'dimensions')::integer, m.dimensions),
        sparse_dimensions = CASE WHEN alter_model.card IS NULL THEN m.sparse_dimensions ELSE (alter_model.card ->> 'sparse_dimensions')::integer END,
        multi_dimensions = CASE WHEN alter_model.card IS NULL THEN m.multi_dimensions ELSE (alter_model.card ->> 'multi_dimensions')::integer END,
        metric = COALESCE(alter_model.card ->> 'metric', m.metric),
        space_id = COALESCE(alter_model.card ->> 'space_id', m.space_id),
        is_default = COALESCE(alter_model.is_default, m.is_default)
    WHERE m.id = model.id;
    PERFORM embed._try_again_v1(model.id);
    PERFORM pg_notify('pg_embed_work', 'catalog');
    RETURN COALESCE(rename_to, name);
END $$;
COMMENT ON FUNCTION embed.alter_model(text, jsonb, jsonb, boolean, text) IS
    'Change a model''s options, name, or whether it is the default. What would change the vectors of a model in use is refused.';

CREATE OR REPLACE FUNCTION embed.drop_model(name text, if_exists boolean DEFAULT false)
RETURNS void
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    wanted integer;
    users text;
BEGIN
    IF if_exists AND NOT EXISTS (SELECT FROM embed._model AS m WHERE m.name = drop_model.name) THEN
        RETURN;
    END IF;
    wanted := embed._model_id(drop_model.name);
    SELECT string_agg(quote_literal(v.name), ', ' ORDER BY v.name) INTO users
    FROM embed._vectorizer AS v WHERE wanted = ANY (embed._models(v));
    IF users IS NOT NULL THEN
        PERFORM embed._fail('PE003', format('model %L is used by the vectorizers %s', name, users), 'drop those first, with embed.drop_vectorizer');
    END IF;
    PERFORM embed._forget_reused(wanted, 'infinity', NULL);
    DELETE FROM embed._model AS m WHERE m.id = wanted;
END $$;
COMMENT ON FUNCTION embed.drop_model(text, boolean) IS 'Remove a model that no vectorizer uses.';

CREATE OR REPLACE VIEW embed.models AS
SELECT
    m.name,
    m.family,
    m.options,
    m.outputs,
    m.dimensions,
    (m.card ->> 'max_tokens')::integer AS max_tokens,
    m.metric,
    m.is_default,
    m.space_id,
    m.created_at
FROM embed._model AS m;
COMMENT ON VIEW embed.models IS 'The models of this database.';

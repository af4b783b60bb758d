-- Filters of a search: JSON to a condition. Values are bound, as $3[1], $3[2], … Only for types that are not Postgres' own they
-- stand in it as literals, quoted: these the type itself reads, where of a bound text its owner's cast would be run.

CREATE OR REPLACE FUNCTION embed._base_type(type oid)
RETURNS oid
LANGUAGE plpgsql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    base oid := (SELECT t.typbasetype FROM pg_type AS t WHERE t.oid = type AND t.typtype = 'd');
BEGIN
    RETURN CASE WHEN base IS NULL THEN type ELSE embed._base_type(base) END;
END $$;
COMMENT ON FUNCTION embed._base_type(oid) IS 'The type that a domain, or a domain over a domain, is of; of any other type itself.';

CREATE OR REPLACE FUNCTION embed._filter_value(value jsonb, kind text, category "char")
RETURNS text
LANGUAGE plpgsql
IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
BEGIN
    RETURN CASE
        WHEN kind IN ('json', 'jsonb') THEN value::text
        -- many write whole numbers as 2020.0
        WHEN kind IN ('smallint', 'integer', 'bigint') AND jsonb_typeof(value) = 'number' THEN trim_scale(value::numeric)::text
        WHEN category = 'A' THEN (SELECT COALESCE(array_agg(e.element #>> '{}'), '{}')::text
            FROM jsonb_array_elements(CASE jsonb_typeof(value) WHEN 'array' THEN value ELSE jsonb_build_array(value) END) AS e(element))
        ELSE value #>> '{}'
    END;
END $$;
COMMENT ON FUNCTION embed._filter_value(jsonb, text, "char") IS 'A value of a filter in the text form of a column''s type.';

CREATE OR REPLACE FUNCTION embed._filter_term(
    told text, subject text, kind text, category "char", literal boolean, operator text, value jsonb, INOUT bound text[], OUT condition text
)
LANGUAGE plpgsql
IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    shape text := jsonb_typeof(value);
    given text := embed._filter_value(value, kind, category);
    place text;
BEGIN
    IF operator = '=' AND shape = 'null' OR operator = 'is_null' AND value = 'true' THEN
        condition := subject || ' IS NULL';
        RETURN;
    ELSIF operator IN ('<>', '!=') AND shape = 'null' OR operator = 'is_null' AND value = 'false' THEN
        condition := subject || ' IS NOT NULL';
        RETURN;
    ELSIF operator = 'is_null' THEN
        PERFORM embed._fail('PE003', format('the filter''s "is_null" for %s is %s', told, value), 'it is true or false');
    ELSIF operator IN ('in', 'not_in') THEN
        IF shape <> 'array' OR category = 'A' THEN
            PERFORM embed._fail('PE003', format('the filter''s %s for %s does not fit', to_json(operator), told),
                CASE WHEN category = 'A' THEN 'the column holds arrays: use "contains"' ELSE format('it needs a list: {"%s": [1, 2]}', operator) END);
        ELSIF value @> '[null]' THEN
            PERFORM embed._fail('PE003', format('the filter''s %s for %s has a null', to_json(operator), told), 'use "is_null" beside it, within "or" or "and"');
        END IF;
        given := (SELECT COALESCE(array_agg(embed._filter_value(e.element, kind, category)), '{}')::text FROM jsonb_array_elements(value) AS e(element));
        condition := CASE operator WHEN 'in' THEN '%s = ANY (%s::%s[])' ELSE '%s <> ALL (%s::%s[])' END;
    ELSIF operator IN ('like', 'ilike') THEN
        IF shape <> 'string' OR category <> 'S' THEN
            PERFORM embed._fail('PE003', format('the filter''s %s for %s does not fit', to_json(operator), told),
                CASE WHEN category = 'S' THEN 'it needs a string, with % for anything' ELSE 'the column holds no text' END);
        END IF;
        condition := '%s ' || upper(operator) || ' %s::text';
    ELSIF operator = 'contains' THEN
        IF category <> 'A' AND kind <> 'jsonb' THEN
            PERFORM embed._fail('PE003', format('the filter''s "contains" for %s does not fit', told), 'it is for columns of arrays and of jsonb; for text use "like"');
        END IF;
        condition := '%s @> %s::%s';
    ELSIF operator IN ('=', '<>', '!=', '<', '<=', '>', '>=') THEN
        IF shape = 'null' THEN
            PERFORM embed._fail('PE003', format('the filter compares %s with null by %s', told, to_json(operator)), 'use "is_null"');
        ELSIF shape IN ('object', 'array') AND category <> 'A' AND kind NOT IN ('json', 'jsonb') THEN
            PERFORM embed._fail('PE003', format('the filter compares %s with an %s', told, shape), 'give a string, a number, true or false');
        END IF;
        condition := '%s ' || CASE operator WHEN '!=' THEN '<>' ELSE operator END || ' %s::%s';
    ELSE
        PERFORM embed._fail('PE003', format('a filter has no operator %s', to_json(operator)),
            'they are =, <>, <, <=, >, >=, in, not_in, is_null, like, ilike and contains');
    END IF;
    IF literal THEN
        place := quote_nullable(given);
    ELSE
        bound := array_append(bound, given);
        place := format('($3[%s])', cardinality(bound));
    END IF;
    condition := format(condition, subject, place, kind);
END $$;
COMMENT ON FUNCTION embed._filter_term(text, text, text, "char", boolean, text, jsonb, text[]) IS
    'One operator of a filter as a condition; its value is added to those that are bound, or stands in it as a literal.';

CREATE OR REPLACE FUNCTION embed._filter_column(source regclass, name text, value jsonb, alias text, INOUT bound text[], OUT condition text)
LANGUAGE plpgsql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    number smallint := embed._column_number(source, name, 'filter');
    subject text := format('%s.%I', alias, name);
    kind text;
    category "char";
    literal boolean;
    item record;
    term record;
    terms text[] := '{}';
BEGIN
    -- without a length, to which a cast would cut the value; of a domain its type, whose conditions are not the filter's
    SELECT format_type(t.oid, -1), t.typcategory, t.typnamespace <> 'pg_catalog'::regnamespace INTO kind, category, literal
    FROM pg_attribute AS a JOIN pg_type AS t ON t.oid = embed._base_type(a.atttypid) WHERE a.attrelid = source AND a.attnum = number;
    FOR item IN
        SELECT o.key AS operator, o.value FROM jsonb_each(CASE jsonb_typeof(value) WHEN 'object' THEN value
            ELSE jsonb_build_object(CASE WHEN jsonb_typeof(value) = 'array' AND category <> 'A' AND kind NOT IN ('json', 'jsonb') THEN 'in' ELSE '=' END, value) END) AS o
    LOOP
        SELECT * INTO term FROM embed._filter_term(format('column %I', name), subject, kind, category, literal, item.operator, item.value, bound);
        bound := term.bound;
        terms := array_append(terms, term.condition);
    END LOOP;
    IF terms = '{}' THEN
        PERFORM embed._fail('PE003', format('the filter for column %I is empty', name), 'as in {"year": {">=": 2020}}');
    END IF;
    condition := array_to_string(terms, ' AND ');
END $$;
COMMENT ON FUNCTION embed._filter_column(regclass, text, jsonb, text, text[]) IS
    'What a filter says of one column, as a condition: a value, a list of them, or operators with values.';

CREATE OR REPLACE FUNCTION embed._filter_condition(source regclass, filter jsonb, alias text, INOUT bound text[], OUT condition text)
LANGUAGE plpgsql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    item record;
    inner_filter jsonb;
    part record;
    parts text[] := '{}';
    inner_parts text[];
BEGIN
    IF jsonb_typeof(filter) IS DISTINCT FROM 'object' THEN
        PERFORM embed._fail('PE003', format('a filter is a JSON object, not %s', left(filter::text, 60)), 'as in {"lang": "en", "year": {">=": 2020}}');
    END IF;
    FOR item IN SELECT e.key, e.value FROM jsonb_each(filter) AS e LOOP
        IF item.key IN ('and', 'or') THEN
            IF jsonb_typeof(item.value) <> 'array' OR item.value = '[]' THEN
                PERFORM embed._fail('PE003', format('the filter''s "%s" needs a list of filters', item.key), format('as in {"%s": [{"lang": "en"}, {"year": 2020}]}', item.key));
            END IF;
            inner_parts := '{}';
            FOR inner_filter IN SELECT e.element FROM jsonb_array_elements(item.value) AS e(element) LOOP
                SELECT * INTO part FROM embed._filter_condition(source, inner_filter, alias, bound);
                bound := part.bound;
                inner_parts := array_append(inner_parts, part.condition);
            END LOOP;
            parts := array_append(parts, format('(%s)', array_to_string(inner_parts, format(' %s ', upper(item.key)))));
        ELSIF item.key = 'not' THEN
            SELECT * INTO part FROM embed._filter_condition(source, item.value, alias, bound);
            bound := part.bound;
            -- all rows but those: also where the column is NULL
            parts := array_append(parts, format('%s IS NOT TRUE', part.condition));
        ELSE
            SELECT * INTO part FROM embed._filter_column(source, item.key, item.value, alias, bound);
            bound := part.bound;
            parts := array_append(parts, part.condition);
        END IF;
    END LOOP;
    condition := CASE WHEN parts = '{}' THEN '(true)' ELSE format('(%s)', array_to_string(parts, ' AND ')) END;
END $$;
COMMENT ON FUNCTION embed._filter_condition(regclass, jsonb, text, text[]) IS
    'A filter as a condition over a table, and the values to bind to it as texts. "and", "or" and "not" hold filters; all else are columns.';

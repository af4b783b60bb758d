-- Names, keys and expressions of a vectorizer, rendered anew from attribute numbers whenever they are needed.

CREATE OR REPLACE FUNCTION embed._fail(code text, message text, hint text DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
BEGIN
    IF hint IS NULL OR hint = '' THEN
        RAISE EXCEPTION USING ERRCODE = code, MESSAGE = message;
    END IF;
    RAISE EXCEPTION USING ERRCODE = code, MESSAGE = message, HINT = hint;
END $$;
COMMENT ON FUNCTION embed._fail(text, text, text) IS 'Raise an error of ours, with its SQLSTATE and a hint.';

CREATE OR REPLACE FUNCTION embed._column_name(source oid, attnum smallint)
RETURNS text
LANGUAGE sql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
    SELECT quote_ident(a.attname) FROM pg_attribute AS a
    WHERE a.attrelid = source AND a.attnum = _column_name.attnum AND NOT a.attisdropped
$$;
COMMENT ON FUNCTION embed._column_name(oid, smallint) IS 'The quoted name that a column has now; NULL when it was dropped.';

CREATE OR REPLACE FUNCTION embed._column_number(source regclass, name text, purpose text)
RETURNS smallint
LANGUAGE plpgsql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    found smallint;
BEGIN
    SELECT a.attnum INTO found FROM pg_attribute AS a
    WHERE a.attrelid = source AND a.attname = name AND a.attnum > 0 AND NOT a.attisdropped;
    IF found IS NULL THEN
        PERFORM embed._fail('PE003', format('table %s has no column %s for the %s', source, quote_ident(name), purpose),
            format('its columns are: %s', (SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum)
                FROM pg_attribute AS a WHERE a.attrelid = source AND a.attnum > 0 AND NOT a.attisdropped)));
    END IF;
    RETURN found;
END $$;
COMMENT ON FUNCTION embed._column_number(regclass, text, text) IS 'The attribute number of a column, or an error that lists the columns.';

CREATE OR REPLACE FUNCTION embed._source_name(source oid)
RETURNS text
LANGUAGE sql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
    SELECT format('%s%I.%I', CASE WHEN c.relkind = 'p' THEN '' ELSE 'ONLY ' END, s.nspname, c.relname)
    FROM pg_class AS c JOIN pg_namespace AS s ON s.oid = c.relnamespace
    WHERE c.oid = source
$$;
COMMENT ON FUNCTION embed._source_name(oid) IS 'The table as it stands in FROM and UPDATE: qualified, and ONLY itself unless it is partitioned.';

CREATE OR REPLACE FUNCTION embed._key_text(source oid, key_columns smallint[], alias text)
RETURNS text
LANGUAGE sql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
SET plan_cache_mode = force_generic_plan
AS $$
    SELECT CASE count(*) WHEN 1 THEN min(p.part) ELSE format('jsonb_build_array(%s)::text', string_agg(p.part, ', ' ORDER BY p.position)) END
    FROM (
        -- planned once a session (plan_cache_mode), for planning takes longer than this;
        -- concat asks the type itself for its text; ::text would run a cast that the owner of an enum may have made
        SELECT k.position, format(CASE WHEN t.typtype = 'b' AND t.typnamespace = 'pg_catalog'::regnamespace THEN '%s.%s::text' ELSE 'concat(%s.%s)' END,
            alias, embed._column_name(source, k.attnum)) AS part
        FROM unnest(key_columns) WITH ORDINALITY AS k(attnum, position)
        LEFT JOIN pg_attribute AS a ON a.attrelid = source AND a.attnum = k.attnum
        LEFT JOIN pg_type AS t ON t.oid = a.atttypid
    ) AS p
$$;
COMMENT ON FUNCTION embed._key_text(oid, smallint[], text) IS
    'The expression that writes a key as the queue holds it: the value''s text, or a JSON array of texts when the key has several columns.';

CREATE OR REPLACE FUNCTION embed._key_is_whole(source oid, key_columns smallint[])
RETURNS boolean
LANGUAGE sql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
    SELECT cardinality(key_columns) = 1 AND a.atttypid IN ('bigint'::regtype, 'integer'::regtype, 'smallint'::regtype)
    FROM pg_attribute AS a WHERE a.attrelid = source AND a.attnum = key_columns[1]
$$;
COMMENT ON FUNCTION embed._key_is_whole(oid, smallint[]) IS 'Whether the key is one whole number, which the queue holds as such: half the bytes, a third of the time.';

CREATE OR REPLACE FUNCTION embed._key_value(source oid, key_columns smallint[], alias text)
RETURNS text
LANGUAGE sql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
    SELECT CASE WHEN embed._key_is_whole(source, key_columns) THEN format('%s.%s::bigint', alias, embed._column_name(source, key_columns[1]))
        ELSE embed._key_text(source, key_columns, alias) END
$$;
COMMENT ON FUNCTION embed._key_value(oid, smallint[], text) IS 'The expression that writes a key into the queue: a bigint for ids, a text for keys.';

CREATE OR REPLACE FUNCTION embed._keys(entry embed._queue)
RETURNS text[]
LANGUAGE sql
IMMUTABLE PARALLEL SAFE
AS $$ SELECT COALESCE(entry.keys, entry.ids::text[]) $$;
COMMENT ON FUNCTION embed._keys(embed._queue) IS 'The keys of an entry as texts, however it holds them. No SET clause: it must inline.';

CREATE OR REPLACE FUNCTION embed._key_match(source oid, key_columns smallint[], alias text, key text)
RETURNS text
LANGUAGE sql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
    SELECT string_agg(format('%s.%s = (%s)::%s', alias, embed._column_name(source, k.attnum),
        CASE cardinality(key_columns) WHEN 1 THEN key ELSE format('%s::jsonb ->> %s', key, k.position - 1) END,
        format_type(a.atttypid, a.atttypmod)), ' AND ' ORDER BY k.position)
    FROM unnest(key_columns) WITH ORDINALITY AS k(attnum, position)
    JOIN pg_attribute AS a ON a.attrelid = source AND a.attnum = k.attnum
$$;
COMMENT ON FUNCTION embed._key_match(oid, smallint[], text, text) IS 'The condition that finds the row of a key of the queue.';

CREATE OR REPLACE FUNCTION embed._render(source oid, pieces jsonb, alias text, as_text boolean)
RETURNS text
LANGUAGE sql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
    -- a function takes 100 arguments at most
    SELECT string_agg(CASE WHEN as_text AND jsonb_array_length(pieces) > 100 THEN format('concat(%s)', g.listed) ELSE g.listed END,
        CASE WHEN as_text THEN ', ' ELSE '' END ORDER BY g.number)
    FROM (
        SELECT (p.position - 1) / 100 AS number, string_agg(
            CASE jsonb_typeof(p.piece)
                WHEN 'number' THEN format('%s.%s', alias, embed._column_name(source, (p.piece #>> '{}')::smallint))
                ELSE CASE WHEN as_text THEN quote_literal(p.piece #>> '{}') ELSE p.piece #>> '{}' END
            END,
            CASE WHEN as_text THEN ', ' ELSE '' END ORDER BY p.position) AS listed
        FROM jsonb_array_elements(pieces) WITH ORDINALITY AS p(piece, position)
        GROUP BY (p.position - 1) / 100
    ) AS g
$$;
COMMENT ON FUNCTION embed._render(oid, jsonb, text, boolean) IS
    'Pieces (strings, and attribute numbers for columns) as SQL: a list of expressions for concat, or a condition.';

CREATE OR REPLACE FUNCTION embed._source_row(source oid, input_columns smallint[], alias text, prepare text)
RETURNS text
LANGUAGE sql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
    -- Only types of Postgres's own become JSON as such: a cast to json that the owner of a type has made would run with the
    -- reader's rights. As json, not jsonb, whose strings end at 256 MB.
    SELECT format('CASE WHEN %s THEN json_build_object(''row'', json_build_object(%s), ''bytes'', %L::json, ''hook'', %L)::text END',
        string_agg(format('%s IS NOT NULL', c.named), ' OR ' ORDER BY c.position),
        string_agg(format('%L, %s', c.name, CASE
            WHEN c.type = 'bytea'::regtype THEN format('encode(%s, ''hex'')', c.named)
            WHEN c.type = ANY ('{boolean,smallint,integer,bigint,real,double precision,numeric,json,jsonb}'::regtype[]) THEN c.named
            ELSE format('CASE WHEN %1$s IS NOT NULL THEN concat(%1$s) END', c.named) END), ', ' ORDER BY c.position),
        COALESCE(jsonb_agg(c.name ORDER BY c.position) FILTER (WHERE c.type = 'bytea'::regtype), '[]'), prepare)
    FROM (
        SELECT k.position, a.attname AS name, format('%s.%s', alias, embed._column_name(source, a.attnum)) AS named,
            CASE t.typtype WHEN 'd' THEN t.typbasetype ELSE t.oid END AS type
        FROM unnest(input_columns) WITH ORDINALITY AS k(attnum, position)
        JOIN pg_attribute AS a ON a.attrelid = source AND a.attnum = k.attnum AND NOT a.attisdropped
        JOIN pg_type AS t ON t.oid = a.atttypid
    ) AS c
$$;
COMMENT ON FUNCTION embed._source_row(oid, smallint[], text, text) IS
    'The expression of what a hook prepares: a JSON object whose row has the input columns, those in its bytes as hexadecimal digits; NULL when all are NULL. The hook''s name stands there too, for what another hook makes is another text.';

CREATE OR REPLACE FUNCTION embed._input(source oid, input_columns smallint[], template jsonb, filter jsonb, alias text, prepare text DEFAULT NULL)
RETURNS text
LANGUAGE sql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
    SELECT CASE WHEN filter IS NULL THEN input.expression
        ELSE format('CASE WHEN (%s) THEN %s END', embed._render(source, filter, alias, false), input.expression) END
    FROM (
        -- a cast to text that the owner of a type has made would run with the reader's rights; concat asks the type itself
        SELECT CASE WHEN prepare IS NOT NULL THEN embed._source_row(source, input_columns, alias, prepare)
            WHEN cardinality(input_columns) = 1 AND template = to_jsonb(input_columns) AND EXISTS (
                SELECT FROM pg_attribute AS a JOIN pg_type AS t ON t.oid = a.atttypid
                LEFT JOIN pg_type AS b ON t.typtype = 'd' AND b.oid = t.typbasetype
                WHERE a.attrelid = source AND a.attnum = input_columns[1]
                    AND COALESCE(b.typnamespace, t.typnamespace) = 'pg_catalog'::regnamespace)
            THEN format('%s::text', embed._render(source, template, alias, false))
            ELSE format('CASE WHEN %s > 0 THEN concat(%s) END',
                (SELECT string_agg(format('num_nonnulls(%s)', g.listed), ' + ')
                    FROM (SELECT string_agg(format('%s.%s', alias, embed._column_name(source, c.attnum)), ', ') AS listed
                        FROM unnest(input_columns) WITH ORDINALITY AS c(attnum, position) GROUP BY (c.position - 1) / 100) AS g),
                embed._render(source, template, alias, true))
        END AS expression
    ) AS input
$$;
COMMENT ON FUNCTION embed._input(oid, smallint[], jsonb, jsonb, text, text) IS
    'The expression of the text to embed, or of what a hook makes it of: NULL when every input column is NULL or the filter leaves the row out.';

CREATE OR REPLACE FUNCTION embed._hash(input text)
RETURNS bigint
LANGUAGE sql
IMMUTABLE PARALLEL SAFE
AS $$ SELECT pg_catalog.hashtextextended(input COLLATE "C", 0) $$;
COMMENT ON FUNCTION embed._hash(text) IS 'What a text is recognised by between its reading and the writing of its vector, on one server. No SET clause: it must inline.';

CREATE OR REPLACE FUNCTION embed._template(source regclass, input text[], template text, OUT pieces jsonb, OUT columns smallint[])
LANGUAGE plpgsql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
SET standard_conforming_strings = on
AS $$
DECLARE
    rest text := template;
    literal text := '';
    part text[];
BEGIN
    pieces := '[]';
    columns := '{}';
    IF template IS NULL THEN
        IF input IS NULL OR cardinality(input) = 0 THEN
            PERFORM embed._fail('PE003', 'no input: neither a column nor a template is given',
                'name a column, several columns, or template => ''{title} {body}''');
        ELSIF EXISTS (SELECT FROM unnest(input) AS i(name) WHERE i.name IS NULL) THEN
            PERFORM embed._fail('PE003', 'a column of the input has no name: it is NULL', 'leave it out of the array');
        END IF;
        SELECT array_agg(embed._column_number(source, i.name, 'input') ORDER BY i.position) INTO columns
        FROM unnest(input) WITH ORDINALITY AS i(name, position);
        SELECT jsonb_agg(p.piece ORDER BY p.position, p.part) INTO pieces
        FROM (
            SELECT to_jsonb(c.attnum) AS piece, c.position, 2 AS part FROM unnest(columns) WITH ORDINALITY AS c(attnum, position)
            UNION ALL
            SELECT to_jsonb(E'\n'::text), c.position, 1 FROM unnest(columns) WITH ORDINALITY AS c(attnum, position) WHERE c.position > 1
        ) AS p;
        RETURN;
    END IF;
    IF input IS NOT NULL THEN
        PERFORM embed._fail('PE003', 'both input columns and a template are given', 'give one of them: the template names its columns in braces');
    END IF;
    WHILE rest <> '' LOOP
        IF starts_with(rest, '{{') OR starts_with(rest, '}}') THEN
            literal := literal || left(rest, 1);
            rest := substr(rest, 3);
        ELSIF starts_with(rest, '{') THEN
            part := regexp_match(rest, '^\{([^{}]+)\}(.*)$');
            IF part IS NULL THEN
                PERFORM embed._fail('PE003', format('the template has an opening brace without a column: %L', left(rest, 40)),
                    'write {column}, and {{ for a brace that belongs to the text');
            END IF;
            IF literal <> '' THEN
                pieces := pieces || jsonb_build_array(literal);
                literal := '';
            END IF;
            columns := columns || embed._column_number(source, part[1], 'template');
            pieces := pieces || to_jsonb(columns[cardinality(columns)]);
            rest := part[2];
        ELSIF starts_with(rest, '}') THEN
            PERFORM embed._fail('PE003', format('the template has a closing brace without an opening one: %L', left(rest, 40)),
                'write }} for a brace that belongs to the text');
        ELSE
            part := regexp_match(rest, '^([^{}]+)(.*)$');
            literal := literal || part[1];
            rest := part[2];
        END IF;
    END LOOP;
    IF literal <> '' THEN
        pieces := pieces || jsonb_build_array(literal);
    END IF;
    IF cardinality(columns) = 0 THEN
        PERFORM embed._fail('PE003', 'the template names no column', 'write each column in braces: ''{title} {body}''');
    END IF;
    SELECT array_agg(DISTINCT c.attnum) INTO columns FROM unnest(columns) AS c(attnum);
END $$;
COMMENT ON FUNCTION embed._template(regclass, text[], text) IS
    'Input columns or a template as pieces: strings, and attribute numbers for columns. Several columns are joined by line breaks.';

CREATE OR REPLACE FUNCTION embed._filter_problem(condition regclass)
RETURNS text
LANGUAGE sql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
SET standard_conforming_strings = on
AS $$
    WITH tree AS (
        SELECT r.oid, r.ev_action::text AS nodes FROM pg_rewrite AS r WHERE r.ev_class = condition
    ), called AS (
        -- pg_depend knows only what is not Postgres' own; the tree names everything
        SELECT DISTINCT p.oid, p.proname, p.proowner, p.provolatile, p.pronargs, p.prolang, p.proargtypes
        FROM tree, regexp_matches(tree.nodes, ':(funcid|opno) ([0-9]+)', 'g') AS m(part)
        LEFT JOIN pg_operator AS o ON m.part[1] = 'opno' AND o.oid = m.part[2]::oid
        JOIN pg_proc AS p ON p.oid = COALESCE(o.oprcode::oid, m.part[2]::oid)
    ), made AS (
        SELECT DISTINCT COALESCE(e.oid, t.oid) AS oid, COALESCE(e.typowner, t.typowner) AS typowner, COALESCE(e.typtype, t.typtype) AS typtype
        FROM tree JOIN pg_depend AS d ON d.classid = 'pg_rewrite'::regclass AND d.objid = tree.oid AND d.refclassid = 'pg_type'::regclass
        JOIN pg_type AS t ON t.oid = d.refobjid
        LEFT JOIN pg_type AS e ON t.typcategory = 'A' AND e.oid = t.typelem
    ), problem AS (
        SELECT format('%s is neither of Postgres nor of an extension, and a worker would run it with its own rights', c.oid::regprocedure) AS problem
        FROM called AS c WHERE c.oid >= 16384 AND NOT (
            -- whoever owns an extension may add functions of his own to it
            (SELECT r.rolsuper FROM pg_roles AS r WHERE r.oid = c.proowner)
            AND EXISTS (SELECT FROM pg_depend AS d WHERE d.classid = 'pg_proc'::regclass AND d.objid = c.oid AND d.deptype = 'e'))
        UNION ALL
        -- a domain's conditions and a range's functions are run as well; an enum has none
        SELECT format('type %s is neither of Postgres nor of an extension, and a worker would run its functions with its own rights', m.oid::regtype)
        FROM made AS m WHERE m.oid >= 16384 AND m.typtype <> 'e' AND NOT (
            (SELECT r.rolsuper FROM pg_roles AS r WHERE r.oid = m.typowner)
            AND EXISTS (SELECT FROM pg_depend AS d WHERE d.classid = 'pg_type'::regclass AND d.objid = m.oid AND d.deptype = 'e'))
        UNION ALL
        -- these look for casts to json or to text themselves, and run what they find
        SELECT format('%s runs casts that the owner of a type has made, and a worker would do so with its own rights', c.oid::regprocedure)
        FROM called AS c WHERE c.oid < 16384 AND (c.proname ~ 'json' OR c.prolang = (SELECT l.oid FROM pg_language AS l WHERE l.lanname = 'sql'))
            AND c.proargtypes::oid[] && ARRAY['"any"', 'anyelement', 'anyarray', 'record', 'anycompatible']::regtype[]::oid[]
        UNION ALL
        SELECT 'it makes JSON, which runs casts that the owner of a type has made, and a worker would do so with its own rights'
        FROM tree WHERE tree.nodes ~ '\{JSONCONSTRUCTOREXPR '
        UNION ALL
        SELECT format('%s gives other answers at other times, and nothing would look at the rows again', c.oid::regprocedure)
        FROM called AS c
        WHERE c.provolatile = 'v' OR (c.provolatile = 's'
            AND (c.pronargs = 0 OR c.proname IN ('age', 'current_setting', 'current_schemas') OR c.proname ~ '_to_xml'))
        UNION ALL
        SELECT 'the present time or user gives other answers at other times, and nothing would look at the rows again'
        FROM tree WHERE tree.nodes ~ '\{(SQLVALUEFUNCTION|NEXTVALUEEXPR) '
    )
    SELECT p.problem FROM problem AS p ORDER BY p.problem LIMIT 1
$$;
COMMENT ON FUNCTION embed._filter_problem(regclass) IS
    'What a view''s condition holds that no filter may: code of a user''s own, which workers would run, and answers that change by themselves; NULL when nothing.';

CREATE OR REPLACE FUNCTION embed._filter(source regclass, filter text, OUT pieces jsonb, OUT columns smallint[])
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
SET standard_conforming_strings = on
AS $$
DECLARE
    alias text := 'pg_embed_' || replace(gen_random_uuid()::text, '-', '');
    spelled text;
    problem text;
    probe refcursor;
    rest text;
    part text[];
BEGIN
    columns := '{}';
    IF filter IS NULL THEN
        RETURN;
    ELSIF NOT has_database_privilege(current_database(), 'TEMPORARY') THEN
        PERFORM embed._fail('42501', format('a filter is read by way of a temporary view, and you may not make one in database %I', current_database()),
            format('its owner lets you: GRANT TEMPORARY ON DATABASE %I TO %I', current_database(), current_user));
    END IF;
    -- Postgres parses and spells the condition: a view of ours over the table, read back, and dropped again.
    -- The second relation makes the spelling qualify every column.
    BEGIN
        -- a cursor takes one statement only, so that nothing can be hung on to the condition
        OPEN probe FOR EXECUTE format(E'SELECT FROM %s AS %I, (VALUES (1)) AS pg_embed_other (pg_embed_number) WHERE (%s\n)', source, alias, filter);
        CLOSE probe;
        EXECUTE format(E'CREATE TEMPORARY VIEW %I AS SELECT FROM %s AS %I, (VALUES (1)) AS pg_embed_other (pg_embed_number) WHERE (%s\n)',
            alias, source, alias, filter);
    EXCEPTION WHEN syntax_error_or_access_rule_violation OR data_exception OR feature_not_supported OR invalid_cursor_definition THEN
        PERFORM embed._fail('PE003', format('the filter of %s cannot be used: %s', source, SQLERRM),
            'give a condition over this table''s own columns, as in filter => ''status = ''''published''''''');
    END;
    spelled := rtrim(pg_get_viewdef(format('pg_temp.%I', alias)::regclass), ';');
    problem := embed._filter_problem(format('pg_temp.%I', alias)::regclass);
    IF problem IS NOT NULL THEN
        PERFORM embed._fail('PE003', format('the filter of %s cannot be used: %s', source, problem),
            'keep the answer in a column of the table, a generated one perhaps, and name that in the filter');
    END IF;
    EXECUTE format('DROP VIEW pg_temp.%I', alias);
    pieces := '[]';
    rest := regexp_replace(spelled, '^.*?\mpg_embed_other\(pg_embed_number\)\s+WHERE\s', '');
    WHILE rest <> '' LOOP
        part := regexp_match(rest, '^(.*?)' || alias || '\.("(?:[^"]|"")+"|[a-z_][a-z0-9_$]*)(.*)$');
        IF part IS NULL THEN
            pieces := pieces || jsonb_build_array(rest);
            EXIT;
        END IF;
        pieces := pieces || jsonb_build_array(part[1]);
        columns := columns || embed._column_number(source,
            CASE WHEN starts_with(part[2], '"') THEN replace(substr(part[2], 2, length(part[2]) - 2), '""', '"') ELSE part[2] END, 'filter');
        pieces := pieces || to_jsonb(columns[cardinality(columns)]);
        rest := part[3];
    END LOOP;
    IF cardinality(columns) = 0 OR pieces::text LIKE '%' || alias || '%' OR pieces::text LIKE '%pg_embed_other%' THEN
        PERFORM embed._fail('PE003', format('the filter must be a condition over columns of %s', source),
            'name at least one column, and no whole rows');
    END IF;
    SELECT array_agg(DISTINCT c.attnum) INTO columns FROM unnest(columns) AS c(attnum);
END $$;
COMMENT ON FUNCTION embed._filter(regclass, text) IS 'A condition over the table''s columns as pieces; Postgres itself parses and spells it.';

CREATE OR REPLACE FUNCTION embed._derive_filter()
RETURNS trigger
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    derived record;
BEGIN
    derived := embed._filter(NEW.source, (
        SELECT string_agg(CASE jsonb_typeof(p.piece) WHEN 'number' THEN embed._column_name(NEW.source, (p.piece #>> '{}')::smallint)
            ELSE p.piece #>> '{}' END, '' ORDER BY p.position)
        FROM jsonb_array_elements(NEW.filter) WITH ORDINALITY AS p(piece, position)));
    NEW.filter := derived.pieces;
    NEW.filter_columns := derived.columns;
    RETURN NEW;
END $$;
COMMENT ON FUNCTION embed._derive_filter() IS
    'Read a filter anew that enters the catalog, by whatever statement: its owner may write there, and workers run what stands there.';
-- Only where they are missing: an upgrade shall wait for nobody who writes there.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_trigger AS g WHERE g.tgrelid = 'embed._vectorizer'::regclass AND g.tgname = 'derive_filter_of_new') THEN
        CREATE TRIGGER derive_filter_of_new BEFORE INSERT ON embed._vectorizer FOR EACH ROW
            WHEN (NEW.filter IS NOT NULL) EXECUTE FUNCTION embed._derive_filter();
    END IF;
    IF NOT EXISTS (SELECT FROM pg_trigger AS g WHERE g.tgrelid = 'embed._vectorizer'::regclass AND g.tgname = 'derive_filter') THEN
        CREATE TRIGGER derive_filter BEFORE UPDATE ON embed._vectorizer FOR EACH ROW
            WHEN (NEW.filter IS NOT NULL AND (NEW.filter IS DISTINCT FROM OLD.filter OR NEW.source IS DISTINCT FROM OLD.source))
            EXECUTE FUNCTION embed._derive_filter();
    END IF;
END $$;

CREATE OR REPLACE FUNCTION embed._has_vectors(source oid, target_columns smallint[], alias text, every boolean)
RETURNS text
LANGUAGE sql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
    SELECT '(' || string_agg(format('%s.%s IS NOT NULL', alias, embed._column_name(source, c.attnum)), CASE WHEN every THEN ' AND ' ELSE ' OR ' END ORDER BY c.position) || ')'
    FROM unnest(target_columns) WITH ORDINALITY AS c(attnum, position)
    WHERE embed._column_name(source, c.attnum) IS NOT NULL
$$;
COMMENT ON FUNCTION embed._has_vectors(oid, smallint[], text, boolean) IS
    'The condition that every column of vectors of a row is filled, or that any is, leaving out those that were dropped; NULL when all were.';

CREATE OR REPLACE FUNCTION embed._home(v embed._vectorizer)
RETURNS regclass
LANGUAGE sql
IMMUTABLE PARALLEL SAFE
AS $$ SELECT COALESCE(v.chunk_table, v.source) $$;
COMMENT ON FUNCTION embed._home(embed._vectorizer) IS 'The table that holds a vectorizer''s vectors: its own, or that of the chunks. No SET clause: it must inline.';

CREATE OR REPLACE FUNCTION embed._of_chunks(v embed._vectorizer)
RETURNS embed._vectorizer
LANGUAGE plpgsql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
BEGIN
    v := embed._here(v);
    IF v.chunk_table IS NOT NULL THEN
        v.source := v.chunk_table;
        v.numbered := ARRAY[v.source, 'embed._vectorizer'::regclass]::oid[];  -- all that embed._here looks at
        v.key_columns := '{1}';
        v.partitions := '{}';
        v.chunk_table := NULL;
    END IF;
    RETURN v;
END $$;
COMMENT ON FUNCTION embed._of_chunks(embed._vectorizer) IS 'A vectorizer as that of its chunks, by their ids, for what works on the table of the vectors.';

CREATE OR REPLACE FUNCTION embed._chunk_match(v embed._vectorizer, chunk_alias text, row_alias text)
RETURNS text
LANGUAGE sql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
    -- the key of a chunk stands behind its id, in the order of the row's key
    SELECT string_agg(format('%s.%s OPERATOR(pg_catalog.=) %s.%s', chunk_alias, embed._column_name(v.chunk_table, (k.position + 1)::smallint),
        row_alias, embed._column_name(v.source, k.attnum)), ' AND ' ORDER BY k.position)
    FROM unnest(v.key_columns) WITH ORDINALITY AS k(attnum, position)
$$;
COMMENT ON FUNCTION embed._chunk_match(embed._vectorizer, text, text) IS 'The condition that a chunk is one of a row.';

CREATE OR REPLACE FUNCTION embed._is_filled(v embed._vectorizer, alias text, every boolean)
RETURNS text
LANGUAGE sql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
    SELECT CASE WHEN v.chunk_table IS NULL THEN embed._has_vectors(v.source, v.target_columns, alias, every)
        WHEN embed._has_vectors(v.chunk_table, v.target_columns, 'pg_embed_chunk', every) IS NOT NULL
            THEN format('(EXISTS (SELECT FROM %s AS pg_embed_chunk WHERE %s))', embed._source_name(v.chunk_table),
                embed._chunk_match(v, 'pg_embed_chunk', alias)) END
$$;
COMMENT ON FUNCTION embed._is_filled(embed._vectorizer, text, boolean) IS
    'The condition that a row has its vectors: in every column of them or in any, or in the table of the chunks, where a row has all of its own or none. NULL when the place of the vectors was dropped.';

CREATE OR REPLACE FUNCTION embed._size(m embed._model, output text)
RETURNS integer
LANGUAGE sql
IMMUTABLE PARALLEL SAFE
AS $$ SELECT COALESCE(CASE output WHEN 'sparse' THEN m.sparse_dimensions WHEN 'multi' THEN m.multi_dimensions END, m.dimensions) $$;
COMMENT ON FUNCTION embed._size(embed._model, text) IS 'The dimensions of one of a model''s outputs. No SET clause: it must inline.';

CREATE OR REPLACE FUNCTION embed._models(v embed._vectorizer)
RETURNS integer[]
LANGUAGE sql
IMMUTABLE PARALLEL SAFE
AS $$ SELECT pg_catalog.array_remove(ARRAY[v.model_id, v.sparse_model_id], NULL) $$;
COMMENT ON FUNCTION embed._models(embed._vectorizer) IS 'The models of a vectorizer: one, or two where another makes its sparse vectors. No SET clause: it must inline.';

CREATE OR REPLACE FUNCTION embed._model_of(v embed._vectorizer, output text)
RETURNS integer
LANGUAGE sql
IMMUTABLE PARALLEL SAFE
AS $$ SELECT CASE output WHEN 'sparse' THEN COALESCE(v.sparse_model_id, v.model_id) ELSE v.model_id END $$;
COMMENT ON FUNCTION embed._model_of(embed._vectorizer, text) IS 'The model that makes one of a vectorizer''s outputs. No SET clause: it must inline.';

CREATE OR REPLACE FUNCTION embed._output_names(outputs text[])
RETURNS text
LANGUAGE sql
IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
    SELECT string_agg(CASE o.output WHEN 'dense' THEN 'dense vectors' WHEN 'sparse' THEN 'sparse vectors' WHEN 'multi' THEN 'token vectors'
        ELSE 'scores of texts for a query' END, ' and ' ORDER BY o.position)
    FROM unnest(outputs) WITH ORDINALITY AS o(output, position)
$$;
COMMENT ON FUNCTION embed._output_names(text[]) IS 'Outputs of a model as messages name them.';

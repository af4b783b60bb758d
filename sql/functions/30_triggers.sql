-- The triggers of a vectorizer. INSERT works by statement with packed keys, UPDATE by row behind a WHEN over the
-- input columns, a partitioned table by row throughout (row triggers reach every partition, present and future), and
-- so where replicated changes are embedded (42_replication.sql). Where chunks stand in a table of their own, keys that went
-- are queued as well: by a third trigger, and by the second when a key was changed.

CREATE OR REPLACE FUNCTION embed._key_type_is_plain(type oid)
RETURNS boolean
LANGUAGE sql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
    WITH RECURSIVE base AS (
        SELECT t.oid, t.typtype, t.typbasetype, t.typnamespace FROM pg_type AS t WHERE t.oid = type
        UNION ALL
        SELECT t.oid, t.typtype, t.typbasetype, t.typnamespace FROM pg_type AS t JOIN base AS b ON b.typtype = 'd' AND t.oid = b.typbasetype
    )
    SELECT COALESCE(bool_or((b.typtype = 'e' AND b.oid = type) OR (b.typtype IN ('b', 'r', 'm') AND b.typnamespace = 'pg_catalog'::regnamespace)), false)
    FROM base AS b
$$;
COMMENT ON FUNCTION embed._key_type_is_plain(oid) IS
    'Whether a key of this type can be queued: a type of Postgres itself, a domain over one, or an enum. Operators of other types are not on our search_path, and a cast of a user''s own would run with our rights.';

CREATE OR REPLACE FUNCTION embed._key_is_readable(source oid, key_columns smallint[])
RETURNS boolean
LANGUAGE sql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
    SELECT count(*) = cardinality(key_columns) AND bool_and(embed._key_type_is_plain(a.atttypid))
    FROM unnest(key_columns) AS k(attnum)
    JOIN pg_attribute AS a ON a.attrelid = source AND a.attnum = k.attnum AND NOT a.attisdropped
$$;
COMMENT ON FUNCTION embed._key_is_readable(oid, smallint[]) IS 'Whether all columns of a key are there, with types that our trigger may turn into text.';

CREATE OR REPLACE FUNCTION embed._build_trigger_function(vectorizer integer)
RETURNS text
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    v embed._vectorizer;
    table_owner name;
    former record;
    primary_index oid;
    renamed text;
    first boolean;
    settings text := '';
    whole boolean;
    places text;
    root text;
    insertion text;
BEGIN
    SELECT * INTO STRICT v FROM embed._vectorizer AS c WHERE c.id = vectorizer;
    IF NOT embed._key_is_readable(v.source, v.key_columns) THEN
        PERFORM embed._fail('PE003', format('the key of vectorizer %L is gone, or has a type that cannot be queued', v.name),
            'drop the vectorizer and make it again');
    END IF;
    whole := embed._key_is_whole(v.source, v.key_columns);
    SELECT i.indexrelid INTO primary_index FROM pg_index AS i WHERE i.indrelid = v.source AND i.indisprimary;
    -- pg_get_indexdef names a key column by position in about a microsecond: how the trigger sees that a column was
    -- renamed, or that the index is not the one it knows (a key of another type has another index).
    SELECT string_agg(format('pg_get_indexdef(%s, %s, false) IS DISTINCT FROM %L',
        COALESCE(primary_index, 0), k.position, embed._column_name(v.source, k.attnum)), ' OR ' ORDER BY k.position)
    INTO renamed FROM unnest(v.key_columns) WITH ORDINALITY AS k(attnum, position);
    -- A key that stands first in the table is read by its place, which no rename and no dropped column moves. It must be
    -- that of the index: of other columns nothing would tell that they have another type now.
    first := v.key_columns = (SELECT array_agg(i::smallint) FROM generate_series(1, cardinality(v.key_columns)) AS i)
        AND v.key_columns = (SELECT (i.indkey::smallint[])[0 : i.indnkeyatts - 1] FROM pg_index AS i WHERE i.indexrelid = primary_index);
    SELECT string_agg(embed._column_name(v.source, k.attnum), ', ' ORDER BY k.position) INTO places
    FROM unnest(v.key_columns) WITH ORDINALITY AS k(attnum, position);
    IF EXISTS (SELECT FROM pg_attribute AS a WHERE a.attrelid = v.source AND a.attnum = ANY (v.key_columns)
        AND a.atttypid NOT IN ('bigint'::regtype, 'integer'::regtype, 'smallint'::regtype, 'uuid'::regtype, 'text'::regtype, 'varchar'::regtype)) THEN
        settings := 'SET DateStyle = ''ISO, YMD'' SET TimeZone = ''UTC'' SET IntervalStyle = ''postgres'' SET extra_float_digits = 1';
    END IF;
    SELECT CASE WHEN c.relkind = 'p' THEN 'pg_partition_root(TG_RELID)' ELSE 'TG_RELID' END INTO root FROM pg_class AS c WHERE c.oid = v.source;
    insertion := format('INSERT INTO embed._queue (vectorizer_id, %s, n) VALUES (%s, ARRAY[%s], 1);',
        CASE WHEN whole THEN 'ids' ELSE 'keys' END, v.id, embed._key_value(v.source, v.key_columns, 'NEW'));
    EXECUTE format('CREATE OR REPLACE FUNCTION embed.%I() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, embed, pg_temp %s AS %L',
        '_enqueue_' || v.id, settings, format($body$
        DECLARE
            -- a restored dump has other oids: then the catalog says whose trigger this is
            known boolean := %10$s IS NOT DISTINCT FROM %11$s;
            command text;
            packed %7$s[];
        BEGIN
            IF NOT known AND embed._belongs_v1(%3$s, TG_RELID) IS NOT TRUE THEN
                IF embed._belongs_v1(%3$s, TG_RELID) IS NULL THEN
                    RETURN NULL;  -- restored from a dump without data
                END IF;
                RAISE EXCEPTION USING ERRCODE = '42501', MESSAGE = 'this trigger function belongs to another table';
            END IF;
            IF TG_LEVEL = 'ROW' THEN
                IF NOT known OR %2$s THEN
                    command := embed._renamed_key_v1(%3$s);
                    IF command IS NULL THEN
                        RETURN NULL;
                    END IF;
                    %13$s
                ELSE
                    %12$s
                END IF;
            ELSIF NOT known OR %9$s THEN
                command := embed._renamed_pack_v1(%3$s);
                IF command IS NULL THEN
                    RETURN NULL;
                END IF;
                EXECUTE command;
            ELSE
                -- one array up to 200,000 rows, cut into packs; beyond that it would take too much memory
                packed := ARRAY(SELECT %5$s FROM pg_embed_new AS %8$s LIMIT 200001);
                IF packed = '{}' THEN
                    RETURN NULL;
                ELSIF cardinality(packed) <= 240 THEN
                    INSERT INTO embed._queue (vectorizer_id, %6$s, n) VALUES (%3$s, packed, cardinality(packed));
                ELSIF cardinality(packed) <= 200000 THEN
                    INSERT INTO embed._queue (vectorizer_id, %6$s, n)
                    SELECT %3$s, packed[i : i + 239], least(240, cardinality(packed) - i + 1)
                    FROM generate_series(1, cardinality(packed), 240) AS i;
                ELSE
                    INSERT INTO embed._queue (vectorizer_id, %6$s, n)
                    SELECT %3$s, array_agg(r.key), count(*)
                    FROM (SELECT %5$s AS key, (row_number() OVER () - 1) / 240 AS pack FROM pg_embed_new AS %8$s) AS r
                    GROUP BY r.pack;
                END IF;
            END IF;
            -- An idle worker holds this lock; a busy one needs no call, and a NOTIFY at every commit would serialise the writers.
            -- PREPARE TRANSACTION refuses one that sends a NOTIFY: such writers switch it off, and workers look by the clock.
            IF pg_try_advisory_lock_shared(1885695330, 1) THEN
                PERFORM pg_advisory_unlock_shared(1885695330, 1);
            ELSIF current_setting('embed.notify', true) IS DISTINCT FROM 'off' THEN
                PERFORM pg_notify('pg_embed_work', '');
            END IF;
            RETURN NULL;
        END $body$,
        '', renamed, v.id,
        embed._key_value(v.source, v.key_columns, 'NEW'), embed._key_value(v.source, v.key_columns, 'n'),
        CASE WHEN whole THEN 'ids' ELSE 'keys' END, CASE WHEN whole THEN 'bigint' ELSE 'text' END,
        CASE WHEN first THEN format('n(%s)', places) ELSE 'n' END,
        CASE WHEN first THEN format('pg_get_indexdef(%s, 1, false) IS NULL', COALESCE(primary_index, 0)) ELSE renamed END, root, v.source::oid,
        CASE WHEN v.chunk_table IS NULL THEN insertion ELSE format('IF TG_OP = ''DELETE'' THEN %2$s ELSIF TG_OP = ''UPDATE'' AND %3$s IS DISTINCT FROM %4$s THEN %1$s %2$s ELSE %1$s END IF;',
            insertion, replace(insertion, embed._key_value(v.source, v.key_columns, 'NEW'), embed._key_value(v.source, v.key_columns, 'OLD')),
            embed._key_value(v.source, v.key_columns, 'OLD'), embed._key_value(v.source, v.key_columns, 'NEW')) END,
        CASE WHEN v.chunk_table IS NULL THEN 'EXECUTE command USING NEW;'
            ELSE 'IF TG_OP <> ''DELETE'' THEN EXECUTE command USING NEW; END IF; IF TG_OP <> ''INSERT'' THEN EXECUTE command USING OLD; END IF;' END));
    EXECUTE format('REVOKE ALL ON FUNCTION embed.%I() FROM PUBLIC', '_enqueue_' || v.id);
    -- whoever makes a trigger must be allowed to execute its function; it refuses every other table
    SELECT pg_get_userbyid(c.relowner) INTO table_owner FROM pg_class AS c WHERE c.oid = v.source;
    -- a right that a former owner of the table kept would be in the way of dropping that role
    FOR former IN
        SELECT pg_get_userbyid(r.grantee) AS name FROM pg_proc AS p, aclexplode(p.proacl) AS r
        WHERE p.pronamespace = 'embed'::regnamespace AND p.proname = '_enqueue_' || v.id AND r.grantee NOT IN (0, p.proowner)
    LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION embed.%I() FROM %I', '_enqueue_' || v.id, former.name);
    END LOOP;
    EXECUTE format('GRANT EXECUTE ON FUNCTION embed.%I() TO %I', '_enqueue_' || v.id, table_owner);
    EXECUTE format('COMMENT ON FUNCTION embed.%I() IS %L', '_enqueue_' || v.id, 'Trigger of vectorizer ' || v.name || '.');
    RETURN '_enqueue_' || v.id;
END $$;
COMMENT ON FUNCTION embed._build_trigger_function(integer) IS 'Write the trigger function of a vectorizer for the names that its key columns have now.';

CREATE OR REPLACE FUNCTION embed._belongs_v1(vectorizer integer, relation oid)
RETURNS boolean
LANGUAGE sql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
    -- not the table of its chunks, whose columns may have types for which no key was ever checked
    SELECT relation = v.source OR v.source IN (SELECT a.relid FROM pg_partition_ancestors(relation) AS a)
    FROM embed._vectorizer AS v WHERE v.id = vectorizer
$$;
COMMENT ON FUNCTION embed._belongs_v1(integer, oid) IS 'Whether a relation is the table of a vectorizer or a partition of it; NULL when there is no such vectorizer.';

-- Trigger functions run with our rights and read the rows of a statement by this name. A trigger that somebody makes without
-- that transition table finds this view, and not what he has in pg_temp under the name.
CREATE OR REPLACE VIEW embed.pg_embed_new AS SELECT WHERE false;
COMMENT ON VIEW embed.pg_embed_new IS 'Stands where a trigger of ours has no transition table: without columns, so that it fails.';

CREATE OR REPLACE FUNCTION embed._renamed_key_v1(vectorizer integer)
RETURNS text
LANGUAGE sql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
    SELECT format('INSERT INTO embed._queue (vectorizer_id, %s, n) VALUES (%s, ARRAY[%s], 1)',
        CASE WHEN embed._key_is_whole(v.source, v.key_columns) THEN 'ids' ELSE 'keys' END,
        v.id, embed._key_value(v.source, v.key_columns, '($1)'))
    FROM embed._vectorizer AS w, embed._here(w) AS v WHERE w.id = vectorizer AND embed._key_is_readable(v.source, v.key_columns)
$$;
COMMENT ON FUNCTION embed._renamed_key_v1(integer) IS
    'What a trigger runs for a row after a key column was renamed, until its function is written anew; NULL when the key is gone.';

CREATE OR REPLACE FUNCTION embed._renamed_pack_v1(vectorizer integer)
RETURNS text
LANGUAGE sql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
    SELECT format('INSERT INTO embed._queue (vectorizer_id, %s, n) SELECT %s, array_agg(r.key), count(*)
        FROM (SELECT %s AS key, (row_number() OVER () - 1) / 240 AS pack FROM pg_embed_new AS n) AS r GROUP BY r.pack',
        CASE WHEN embed._key_is_whole(v.source, v.key_columns) THEN 'ids' ELSE 'keys' END,
        v.id, embed._key_value(v.source, v.key_columns, 'n'))
    FROM embed._vectorizer AS w, embed._here(w) AS v WHERE w.id = vectorizer AND embed._key_is_readable(v.source, v.key_columns)
$$;
COMMENT ON FUNCTION embed._renamed_pack_v1(integer) IS
    'What a trigger runs for a statement after a key column was renamed, until its function is written anew; NULL when the key is gone.';

CREATE OR REPLACE FUNCTION embed._watched(v embed._vectorizer, read_columns smallint[])
RETURNS text
LANGUAGE sql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
    -- Texts are compared byte by byte: equal under a collation, or equal as numbers, is not the same text. Floats and moments are
    -- compared as such, too: a session with extra_float_digits = 0 writes different ones alike, and one that writes the names of
    -- time zones may do so where clocks were put back.
    SELECT string_agg(concat_ws(' OR ',
            CASE WHEN c.attnum = ANY (read_columns) THEN format('(%s) COLLATE "C" IS DISTINCT FROM (%s) COLLATE "C"',
                embed._input(v.source, ARRAY[c.attnum], to_jsonb(ARRAY[c.attnum]), NULL, 'OLD'),
                embed._input(v.source, ARRAY[c.attnum], to_jsonb(ARRAY[c.attnum]), NULL, 'NEW')) END,
            CASE WHEN c.attnum <> ALL (read_columns) OR COALESCE(b.oid, t.oid) IN ('real'::regtype, 'double precision'::regtype,
                'real[]'::regtype, 'double precision[]'::regtype, 'timestamptz'::regtype, 'timestamptz[]'::regtype, 'tstzrange'::regtype)
                THEN format('OLD.%1$s IS DISTINCT FROM NEW.%1$s', embed._column_name(v.source, c.attnum)) END),
        ' OR ' ORDER BY c.attnum)
    FROM (SELECT DISTINCT k.attnum FROM unnest(v.key_columns || read_columns) AS k(attnum)) AS c
    JOIN pg_attribute AS a ON a.attrelid = v.source AND a.attnum = c.attnum
    JOIN pg_type AS t ON t.oid = a.atttypid
    LEFT JOIN pg_type AS b ON t.typtype = 'd' AND b.oid = t.typbasetype
$$;
COMMENT ON FUNCTION embed._watched(embed._vectorizer, smallint[]) IS
    'The condition that an update changes the key, or the text of one of these columns.';

CREATE OR REPLACE FUNCTION embed._may_raise(condition text)
RETURNS boolean
LANGUAGE sql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
SET standard_conforming_strings = on
AS $$
    SELECT condition ~ '\{(COERCETODOMAIN|ROWCOMPAREEXPR|XMLEXPR|JSON)'
        OR (condition ~ '\{COERCEVIAIO ' AND EXISTS (
            SELECT FROM regexp_matches(condition, ':resulttype ([0-9]+)', 'g') AS m(part) WHERE m.part[1]::oid <> 'text'::regtype))
        OR EXISTS (
            SELECT FROM regexp_matches(condition, ':(funcid|opno) ([0-9]+)', 'g') AS m(part)
            LEFT JOIN pg_operator AS o ON m.part[1] = 'opno' AND o.oid = m.part[2]::oid
            JOIN pg_proc AS p ON p.oid = COALESCE(o.oprcode::oid, m.part[2]::oid)
            WHERE NOT p.proleakproof AND NOT (p.pronamespace = 'pg_catalog'::regnamespace
                AND p.proname ~ '^((enum|numeric)_(eq|ne|lt|le|gt|ge)|length|char_length|lower|upper|btrim|text|concat|num_nonnulls)$'))
$$;
COMMENT ON FUNCTION embed._may_raise(text) IS
    'Whether a condition, as Postgres keeps it, may raise an error for some row: leakproof functions and a few others never do.';

CREATE OR REPLACE FUNCTION embed._guards(v embed._vectorizer)
RETURNS text[]
LANGUAGE sql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
    -- ALTER TABLE ... DISABLE and ENABLE TRIGGER each write the trigger's row anew, SET EXPRESSION gives an expression
    -- another oid: both let texts change that no trigger tells of.
    SELECT ARRAY(
        SELECT format('trigger %s %s', g.oid, g.xmin) FROM pg_trigger AS g
        WHERE g.tgrelid = v.source AND g.tgname IN ('pg_embed_' || v.id || '_insert', 'pg_embed_' || v.id || '_update', 'pg_embed_' || v.id || '_delete')
        UNION ALL
        SELECT format('expression %s', d.oid) FROM pg_attribute AS a JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
        WHERE a.attrelid = v.source AND a.attnum = ANY (v.input_columns || v.filter_columns) AND a.attgenerated <> ''
        ORDER BY 1)
$$;
COMMENT ON FUNCTION embed._guards(embed._vectorizer) IS
    'What a vectorizer relies on to learn of changed texts, each with what tells its versions apart: its triggers, and the expressions of generated columns that it reads.';

CREATE OR REPLACE FUNCTION embed._build_triggers(vectorizer integer)
RETURNS void
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
SET standard_conforming_strings = on
AS $$
DECLARE
    v embed._vectorizer;
    function text := embed._build_trigger_function(vectorizer);
    by_row boolean;
    watched text;
BEGIN
    SELECT * INTO STRICT v FROM embed._vectorizer AS c WHERE c.id = vectorizer;
    -- what logical replication applies fires no triggers by statement
    SELECT c.relkind = 'p' OR v.replication <> 'origin' INTO by_row FROM pg_class AS c WHERE c.oid = v.source;
    PERFORM embed._drop_triggers(vectorizer);
    watched := embed._watched(v, v.input_columns);
    IF v.filter IS NOT NULL THEN
        watched := format('%s OR ((%s) IS TRUE) <> ((%s) IS TRUE)', watched,
            embed._render(v.source, v.filter, 'OLD', false), embed._render(v.source, v.filter, 'NEW', false));
    END IF;
    BEGIN
        EXECUTE format('CREATE TRIGGER %I AFTER UPDATE ON %s FOR EACH ROW WHEN (%s) EXECUTE FUNCTION embed.%I()',
            'pg_embed_' || v.id || '_update', v.source, watched, function);
    EXCEPTION WHEN feature_not_supported OR syntax_error_or_access_rule_violation THEN
        PERFORM embed._fail(CASE WHEN SQLSTATE = '42501' THEN '42501' ELSE 'PE003' END,
            format('the triggers of vectorizer %L cannot be made on %s: %s', v.name, v.source, SQLERRM),
            'the filter must not have sub-selects or aggregates, and you need the TRIGGER privilege');
    END;
    -- An error of the filter would be the writer's. Where there may be one, any change of what the filter reads is queued.
    IF v.filter IS NOT NULL AND embed._may_raise((SELECT g.tgqual::text FROM pg_trigger AS g
        WHERE g.tgrelid = v.source AND g.tgname = 'pg_embed_' || v.id || '_update')) THEN
        EXECUTE format('DROP TRIGGER %I ON %s', 'pg_embed_' || v.id || '_update', v.source);
        EXECUTE format('CREATE TRIGGER %I AFTER UPDATE ON %s FOR EACH ROW WHEN (%s) EXECUTE FUNCTION embed.%I()',
            'pg_embed_' || v.id || '_update', v.source, embed._watched(v, v.input_columns || v.filter_columns), function);
    END IF;
    IF by_row THEN
        EXECUTE format('CREATE TRIGGER %I AFTER INSERT ON %s FOR EACH ROW EXECUTE FUNCTION embed.%I()',
            'pg_embed_' || v.id || '_insert', v.source, function);
    ELSE
        EXECUTE format('CREATE TRIGGER %I AFTER INSERT ON %s REFERENCING NEW TABLE AS pg_embed_new FOR EACH STATEMENT EXECUTE FUNCTION embed.%I()',
            'pg_embed_' || v.id || '_insert', v.source, function);
    END IF;
    IF v.chunk_table IS NOT NULL AND by_row THEN
        EXECUTE format('CREATE TRIGGER %I AFTER DELETE ON %s FOR EACH ROW EXECUTE FUNCTION embed.%I()',
            'pg_embed_' || v.id || '_delete', v.source, function);
    ELSIF v.chunk_table IS NOT NULL THEN
        EXECUTE format('CREATE TRIGGER %I AFTER DELETE ON %s REFERENCING OLD TABLE AS pg_embed_new FOR EACH STATEMENT EXECUTE FUNCTION embed.%I()',
            'pg_embed_' || v.id || '_delete', v.source, function);
    END IF;
    PERFORM embed._fire(v.id);
    UPDATE embed._vectorizer AS c
    SET partitions = ARRAY(SELECT p.clone FROM embed._partitions(v.id, v.source) AS p ORDER BY p.clone), guards = embed._guards(c)
    WHERE c.id = v.id;
END $$;
COMMENT ON FUNCTION embed._build_triggers(integer) IS 'Make the triggers of a vectorizer on its table, with the rights of the caller.';

CREATE OR REPLACE FUNCTION embed._drop_triggers(vectorizer integer)
RETURNS void
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    t record;
BEGIN
    FOR t IN
        SELECT g.tgname, g.tgrelid::regclass AS source
        FROM pg_trigger AS g JOIN embed._vectorizer AS v ON g.tgrelid = v.source
        WHERE v.id = vectorizer AND NOT g.tgisinternal
            AND g.tgname IN ('pg_embed_' || v.id || '_insert', 'pg_embed_' || v.id || '_update', 'pg_embed_' || v.id || '_delete')
    LOOP
        EXECUTE format('DROP TRIGGER %I ON %s', t.tgname, t.source);
    END LOOP;
END $$;
COMMENT ON FUNCTION embed._drop_triggers(integer) IS 'Remove the triggers of a vectorizer from its table, those that are there.';

CREATE OR REPLACE FUNCTION embed._untie_v1(source regclass)
RETURNS void
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    t record;
BEGIN
    FOR t IN
        SELECT g.tgname FROM pg_trigger AS g JOIN embed._vectorizer AS v ON g.tgrelid = v.source
        WHERE v.source = _untie_v1.source AND NOT g.tgisinternal AND g.tgname = 'pg_embed_' || v.id || '_update'
    LOOP
        EXECUTE format('DROP TRIGGER %I ON %s', t.tgname, source);
    END LOOP;
END $$;
COMMENT ON FUNCTION embed._untie_v1(regclass) IS
    'Take the triggers off a table that name its columns, whose types can be changed then; _tie_v1 makes them again, in the same transaction.';

CREATE OR REPLACE FUNCTION embed._tie_v1(source regclass, again boolean DEFAULT false)
RETURNS void
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    w record;
BEGIN
    FOR w IN
        SELECT v.id FROM embed._vectorizer AS v JOIN pg_trigger AS g ON g.tgrelid = v.source AND g.tgname = 'pg_embed_' || v.id || '_insert'
        WHERE v.source = _tie_v1.source AND NOT EXISTS (
            SELECT FROM pg_trigger AS u WHERE u.tgrelid = v.source AND u.tgname = 'pg_embed_' || v.id || '_update')
        ORDER BY v.id
    LOOP
        PERFORM embed._build_triggers(w.id);
        IF again THEN
            PERFORM embed._start_backfill(w.id, 'all');
        END IF;
    END LOOP;
    PERFORM pg_notify('pg_embed_work', 'catalog');
END $$;
COMMENT ON FUNCTION embed._tie_v1(regclass, boolean) IS
    'Make the triggers that _untie_v1 took off a table, and where texts may have become others, embed all rows again behind live ones.';

CREATE OR REPLACE FUNCTION embed._drop_trigger_function(vectorizer integer)
RETURNS void
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, embed, pg_temp
AS $$
BEGIN
    IF EXISTS (SELECT FROM pg_trigger AS g JOIN pg_proc AS p ON p.oid = g.tgfoid
        WHERE p.proname = '_enqueue_' || vectorizer AND p.pronamespace = 'embed'::regnamespace) THEN
        RETURN;
    END IF;
    EXECUTE format('DROP FUNCTION IF EXISTS embed.%I()', '_enqueue_' || vectorizer);
END $$;
COMMENT ON FUNCTION embed._drop_trigger_function(integer) IS 'Remove the trigger function of a vectorizer when no trigger calls it any more.';

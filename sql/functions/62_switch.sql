-- Changing a vectorizer's model while everybody searches. The new model's vectors are made by a shadow: a vectorizer of its
-- own beside the first, with columns, triggers, queue, failures and index of its own, which no search sees. The swap
-- exchanges names, those of columns or of tables of chunks, and those of vectorizers: what belongs to a space (queue, failures, index, postings,
-- batches in the hands of workers) is kept by id, and stays with it.

DO $$
BEGIN
    -- no file of ours may set it back: embed._swapped has the same number
    IF to_regprocedure('embed._swaps_v1()') IS NULL THEN
        CREATE FUNCTION embed._swaps_v1() RETURNS bigint LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, embed, pg_temp AS 'SELECT 0::bigint';
    END IF;
END $$;
COMMENT ON FUNCTION embed._swaps_v1() IS
    'How often columns of vectors changed places, up to now: a function is found as it is now, whereas rows are read as the snapshot has them.';

CREATE OR REPLACE FUNCTION embed._count_swap_v1()
RETURNS void
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    counted bigint;
BEGIN
    UPDATE embed._swapped AS w SET swaps = w.swaps + 1 RETURNING w.swaps INTO counted;
    EXECUTE format('CREATE OR REPLACE FUNCTION embed._swaps_v1() RETURNS bigint LANGUAGE sql STABLE PARALLEL SAFE
        SET search_path = pg_catalog, embed, pg_temp AS ''SELECT %s::bigint''', counted);
END $$;
COMMENT ON FUNCTION embed._count_swap_v1() IS 'Count a swap of columns, in its transaction.';

CREATE OR REPLACE FUNCTION embed._check_snapshot()
RETURNS void
LANGUAGE plpgsql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
BEGIN
    -- columns are found by the names that they have now, and an older snapshot names another model for them
    IF current_setting('transaction_isolation') IN ('repeatable read', 'serializable') AND embed._swaps_v1() <> (SELECT w.swaps FROM embed._swapped AS w) THEN
        PERFORM embed._fail('40001', 'a model was switched after this transaction took its snapshot', 'begin the transaction again');
    END IF;
END $$;
COMMENT ON FUNCTION embed._check_snapshot() IS 'Refuse a snapshot that is older than the last swap, where no statement gets a newer one.';

CREATE OR REPLACE FUNCTION embed._hold(relation text)
RETURNS void
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
BEGIN
    EXECUTE format('SELECT FROM %s AS r LIMIT 0', relation);
END $$;
COMMENT ON FUNCTION embed._hold(text) IS 'Lock a table, as any query of it does: its columns keep their names until the transaction ends.';

CREATE OR REPLACE FUNCTION embed._locking(v integer, alone boolean)
RETURNS text
LANGUAGE sql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
    -- The chunks behind the rows, as searches and workers go; a view last, for those who query it have all of it soon.
    SELECT format('LOCK TABLE %s IN %s MODE', string_agg(r.name, ', ' ORDER BY r.turn, r.id), CASE WHEN alone THEN 'ACCESS EXCLUSIVE' ELSE 'SHARE ROW EXCLUSIVE' END)
    FROM (
        SELECT 1 AS turn, c.id, embed._source_name(c.source) AS name FROM embed._vectorizer AS c WHERE c.id = v
        UNION ALL
        SELECT t.turn, w.id, CASE t.turn WHEN 2 THEN embed._source_name(t.relation) ELSE t.relation::text END
        FROM embed._vectorizer AS c
        JOIN embed._vectorizer AS w ON w.id IN (c.id, c.shadow_of) OR w.shadow_of = c.id
        CROSS JOIN LATERAL (VALUES (2, w.chunk_table), (3, w.chunk_view)) AS t(turn, relation)
        JOIN pg_class AS p ON p.oid = t.relation
        WHERE c.id = v AND alone
    ) AS r
    HAVING bool_and(r.name IS NOT NULL)
$$;
COMMENT ON FUNCTION embed._locking(integer, boolean) IS
    'The statement that locks a vectorizer''s table, and with it, when it is to be alone, the tables and views of its chunks and of its shadow''s; NULL when the table was dropped.';

CREATE OR REPLACE FUNCTION embed._own_alone(vectorizer text, timeout interval, alone boolean DEFAULT true)
RETURNS embed._vectorizer
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    wanted integer := embed._vectorizer_id(vectorizer);
    source oid := (SELECT v.source FROM embed._vectorizer AS v WHERE v.id = wanted);
    locking text := embed._locking(wanted, alone);
    before text := current_setting('lock_timeout');
    patience text := current_setting('deadlock_timeout');
    -- after this time Postgres sends a vacuum away that nobody asked for
    impatient boolean := has_parameter_privilege('deadlock_timeout', 'SET');
    given double precision := greatest(extract(epoch FROM COALESCE(timeout, interval '10 seconds')), 0.001);
    began timestamptz := clock_timestamp();
    elapsed double precision;
    v embed._vectorizer;
BEGIN
    IF locking IS NULL OR NOT pg_has_role(current_user, (SELECT c.relowner FROM pg_class AS c WHERE c.oid = source), 'USAGE') THEN
        RETURN embed._own_vectorizer(vectorizer, lock_table => true);
    END IF;
    LOOP
        BEGIN
            -- Whoever comes after us waits behind us: never for long, whatever we wait for. Where queries take longer than
            -- that, and overlap, only a longer try gets through.
            elapsed := extract(epoch FROM clock_timestamp() - began);
            PERFORM set_config('lock_timeout', (20 + 20 * least(elapsed / given, 1))::integer || 'ms', true);
            PERFORM set_config('deadlock_timeout', '10ms', true) WHERE impatient;
            EXECUTE locking;
            SELECT * INTO STRICT v FROM embed._vectorizer AS c WHERE c.id = wanted FOR NO KEY UPDATE;
            PERFORM set_config('lock_timeout', before, true);
            PERFORM set_config('deadlock_timeout', patience, true) WHERE impatient;
            RETURN v;
        EXCEPTION WHEN lock_not_available OR deadlock_detected THEN
            IF elapsed > given THEN
                PERFORM embed._fail('55P03', format('table %s was in use for %s, and nobody was made to wait for this', source::regclass, timeout),
                    'try again, or with a longer timeout; a long transaction or a vacuum is in the way, or an index is being built, which itself waits for transactions such as this one');
            END IF;
        END;
        PERFORM pg_sleep(0.02 + random() * 0.08);
    END LOOP;
END $$;
COMMENT ON FUNCTION embed._own_alone(text, interval, boolean) IS
    'A vectorizer, with its table and its chunks locked against everybody, or if not alone, its table against those who write: tried for 20 to 40 ms at a time, so that nobody waits longer, until the time is over.';

CREATE OR REPLACE FUNCTION embed._free_column(source oid, name text, suffix text)
RETURNS text
LANGUAGE plpgsql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    free text := left(name, 40) || suffix;
    number integer := 1;
BEGIN
    WHILE EXISTS (SELECT FROM pg_attribute AS a WHERE a.attrelid = source AND a.attname = free::name) LOOP
        number := number + 1;
        free := left(name, 40) || suffix || '_' || number;
    END LOOP;
    RETURN free;
END $$;
COMMENT ON FUNCTION embed._free_column(oid, text, text) IS 'A name that no column of a table has.';

CREATE OR REPLACE FUNCTION embed._free_vectorizer(name text, suffix text)
RETURNS text
LANGUAGE plpgsql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    free text := name || suffix;
    number integer := 1;
BEGIN
    WHILE EXISTS (SELECT FROM embed._vectorizer AS v WHERE v.name = free) LOOP
        number := number + 1;
        free := name || suffix || '_' || number;
    END LOOP;
    RETURN free;
END $$;
COMMENT ON FUNCTION embed._free_vectorizer(text, text) IS 'A name that no vectorizer has.';

CREATE OR REPLACE FUNCTION embed._dependants(source oid, columns smallint[])
RETURNS text
LANGUAGE sql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
    -- these refer to a column by its number, and would keep the old one; indexes may
    SELECT string_agg(DISTINCT CASE WHEN r.oid IS NOT NULL THEN pg_describe_object('pg_class'::regclass, r.ev_class, 0)
        ELSE pg_describe_object(d.classid, d.objid, d.objsubid) END, ', ')
    FROM pg_depend AS d
    LEFT JOIN pg_rewrite AS r ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid
    LEFT JOIN pg_trigger AS g ON d.classid = 'pg_trigger'::regclass AND g.oid = d.objid
    WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = source AND d.refobjsubid = ANY (columns)
        AND d.classid IN ('pg_rewrite'::regclass, 'pg_attrdef'::regclass, 'pg_constraint'::regclass, 'pg_policy'::regclass, 'pg_proc'::regclass,
            'pg_trigger'::regclass, 'pg_publication_rel'::regclass)
        AND (g.oid IS NULL OR g.tgname !~ '^pg_embed_[0-9]+_')
$$;
COMMENT ON FUNCTION embed._dependants(oid, smallint[]) IS
    'Views, generated columns, constraints, policies, functions, triggers and publications that name one of these columns, for people; NULL when there are none.';

CREATE OR REPLACE FUNCTION embed._refuse_dependants(v embed._vectorizer, how text)
RETURNS void
LANGUAGE plpgsql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    found text := CASE WHEN v.chunk_table IS NULL THEN embed._dependants(v.source, v.target_columns) ELSE embed._chunk_dependants(v) END;
BEGIN
    IF found IS NOT NULL AND how = 'refuse' AND (embed._next_column(v)).id IS NOT NULL THEN
        PERFORM embed._fail('PE003', format('the chunks of %s are to go, and these belong to them or read them: %s', v.source, found),
            'drop them, and make them again over the table itself; or say keep_chunks => true, which leaves them the chunks, kept up to date, until embed.forget_switch');
    ELSIF found IS NOT NULL AND how = 'refuse' THEN
        PERFORM embed._fail('PE003', format('after the switch these would still read the old vectors of %s: %s', v.source, found),
            'drop them and make them again after the swap; or say dependants => ''ignore'', if they search nothing');
    ELSIF found IS NOT NULL THEN
        RAISE NOTICE 'after the switch these still read the old vectors of %: %', v.source, found;
    END IF;
END $$;
COMMENT ON FUNCTION embed._refuse_dependants(embed._vectorizer, text) IS 'Refuse a switch whose table has objects that would keep the old column, or tell of them.';

CREATE OR REPLACE FUNCTION embed._rights_steps(source regclass, giver smallint, taker smallint)
RETURNS text[]
LANGUAGE sql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
    SELECT ARRAY(
        SELECT format('GRANT %s (%s) ON %s TO %s%s', r.privilege_type, embed._column_name(source, taker), source,
            CASE r.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(r.grantee)) END, CASE WHEN r.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
        FROM (
            SELECT e.privilege_type, e.grantee, e.is_grantable FROM pg_attribute AS a, aclexplode(a.attacl) AS e WHERE a.attrelid = source AND a.attnum = giver
            EXCEPT
            SELECT e.privilege_type, e.grantee, e.is_grantable FROM pg_attribute AS a, aclexplode(a.attacl) AS e WHERE a.attrelid = source AND a.attnum = taker
        ) AS r
        WHERE r.grantee IS DISTINCT FROM to_regrole('embed_worker')::oid)
$$;
COMMENT ON FUNCTION embed._rights_steps(regclass, smallint, smallint) IS 'The statements that give the rights on one column for another, too, to those who have them on that column alone.';

CREATE OR REPLACE FUNCTION embed._run_steps(steps text[])
RETURNS void
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    step text;
BEGIN
    FOREACH step IN ARRAY steps LOOP
        EXECUTE step;
    END LOOP;
END $$;
COMMENT ON FUNCTION embed._run_steps(text[]) IS 'Run statements one by one, with the caller''s rights.';

CREATE OR REPLACE FUNCTION embed._shadow(vectorizer text, stage text DEFAULT NULL)
RETURNS embed._vectorizer
LANGUAGE plpgsql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    wanted integer := embed._vectorizer_id(vectorizer);
    s embed._vectorizer;
    found text;
BEGIN
    SELECT v.* INTO s FROM embed._vectorizer AS v WHERE v.shadow_of = wanted OR (v.id = wanted AND v.shadow_of IS NOT NULL);
    SELECT w.stage INTO found FROM embed._switch AS w WHERE w.vectorizer_id = s.id;
    IF s.id IS NOT NULL AND found IS NULL THEN
        PERFORM embed._fail('42501', format('you must own the table of vectorizer %L', vectorizer));
    ELSIF found IS NULL THEN
        PERFORM embed._fail('PE003', format('vectorizer %L has no switch under way, and keeps no old vectors', vectorizer), 'begin one with embed.switch_model(vectorizer, model)');
    ELSIF found <> stage THEN
        PERFORM embed._fail('PE003', CASE found WHEN 'old' THEN format('the switch of vectorizer %L is done', vectorizer) ELSE format('the switch of vectorizer %L is under way', vectorizer) END,
            CASE found WHEN 'old' THEN 'embed.rollback_switch goes back to the old vectors, embed.forget_switch drops them' ELSE 'embed.finish_switch ends it, embed.abort_switch drops what it made' END);
    END IF;
    RETURN s;
END $$;
COMMENT ON FUNCTION embed._shadow(text, text) IS 'The shadow of a vectorizer, by the name of either, at a stage of its switch; or an error.';

CREATE OR REPLACE FUNCTION embed._warn_of_switch(v embed._vectorizer, old_model text, new_model text)
RETURNS void
LANGUAGE plpgsql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    others text;
BEGIN
    SELECT string_agg(quote_literal(w.name), ', ' ORDER BY w.name) INTO others FROM embed._vectorizer AS w
    WHERE w.shadow_of IS NULL AND w.id <> v.id AND w.model_id = v.model_id AND w.outputs && v.outputs;
    IF others IS NOT NULL THEN
        RAISE WARNING 'after the swap embed() without a model will not know which one is meant: % stay with %', others, old_model
            USING HINT = format('write embed(query, vectorizer => %L), which follows the switch; or switch those, too, and finish all switches in one transaction', v.name);
    END IF;
    IF EXISTS (SELECT FROM pg_db_role_setting AS r, unnest(r.setconfig) AS s(setting) WHERE s.setting = 'embed.default_model=' || old_model) THEN
        RAISE WARNING 'embed.default_model is set to % for a database or a role, and does not follow the swap', quote_literal(old_model)
            USING HINT = format('write embed(query, vectorizer => %L), which does, and reset the setting', v.name);
    END IF;
    IF EXISTS (SELECT FROM embed._model AS m WHERE m.name = old_model AND m.is_default) THEN
        RAISE NOTICE 'new vectorizers go on taking % where they name no model', quote_literal(old_model)
            USING HINT = format('embed.alter_model(%L, is_default => true) changes that', new_model);
    END IF;
END $$;
COMMENT ON FUNCTION embed._warn_of_switch(embed._vectorizer, text, text) IS 'Tell which queries would not follow a switch.';

CREATE OR REPLACE FUNCTION embed._cast_shadow(v embed._vectorizer, model integer, chunked boolean, columns text[], column_type text, chunking jsonb DEFAULT NULL)
RETURNS embed._vectorizer
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    chosen embed._model;
    made text;
    s embed._vectorizer;
BEGIN
    SELECT * INTO chosen FROM embed._model AS m WHERE m.id = model;
    made := embed.create_vectorizer(
        v.source,
        ARRAY(SELECT a.attname::text FROM pg_attribute AS a WHERE a.attrelid = v.source AND a.attnum = ANY (v.input_columns) AND NOT a.attisdropped),
        model => chosen.name,
        filter => (SELECT w.filter FROM embed.vectorizers AS w WHERE w.name = v.name),
        column_name => columns[array_position(v.outputs, 'dense')],
        column_type => column_type,
        name => embed._free_vectorizer(v.name, '_next'),
        max_attempts => v.max_attempts,
        sparse_column => columns[array_position(v.outputs, 'sparse')],
        multi_column => columns[array_position(v.outputs, 'multi')],
        sparse => (SELECT m.name FROM embed._model AS m WHERE m.id = v.sparse_model_id),
        storage => CASE WHEN chunked THEN 'table' ELSE 'column' END,
        chunking => CASE WHEN chunked THEN COALESCE(v.chunking || chunking, embed._chunk_size(v.chunking, (chosen.card ->> 'max_tokens')::integer)) END,
        chunk_table => CASE WHEN chunked THEN embed._free_relation(v.source, (SELECT c.relname FROM pg_class AS c WHERE c.oid = v.chunk_table), '_next') END,
        chunk_view => CASE WHEN chunked THEN embed._free_relation(v.source, COALESCE((SELECT c.relname FROM pg_class AS c WHERE c.oid = v.chunk_view), 'chunks'), '_next') END,
        prepare => v.prepare
    );
    UPDATE embed._vectorizer AS w SET shadow_of = v.id, template = v.template, input_columns = v.input_columns WHERE w.name = made RETURNING w.* INTO s;
    IF v.replication <> 'origin' THEN
        UPDATE embed._vectorizer AS w SET replication = v.replication WHERE w.id = s.id;
        PERFORM embed._build_triggers(s.id);
    END IF;
    INSERT INTO embed._budget (vectorizer_id, tokens, cost, per, live) SELECT s.id, b.tokens, b.cost, b.per, b.live FROM embed._budget AS b WHERE b.vectorizer_id = v.id;
    IF 'sparse' = ANY (s.outputs) AND (embed._posting_source_v1(v.id)).has_postings AND NOT (embed._posting_source_v1(s.id)).has_postings THEN
        PERFORM embed._make_postings(s.id);
    END IF;
    RETURN s;
END $$;
COMMENT ON FUNCTION embed._cast_shadow(embed._vectorizer, integer, boolean, text[], text, jsonb) IS
    'Make a vectorizer of the same text beside another, with the vectors of a model in columns of the table or in a table of chunks; its row in embed._switch is the caller''s to make.';

CREATE OR REPLACE FUNCTION embed._index_as(v embed._vectorizer, s embed._vectorizer, kind text)
RETURNS void
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    seen record;
BEGIN
    IF kind IS NOT NULL THEN
        PERFORM embed.create_index(s.name, kind);
    ELSIF 'dense' = ANY (s.outputs) THEN
        seen := embed._index_look_v1(v.id, NULL, NULL, NULL, NULL, NULL);
        IF seen.wanted <> 'none' THEN
            INSERT INTO embed._index (vectorizer_id, kind, m, ef_construction, min_rows, memory, parallel_workers)
            SELECT s.id, CASE WHEN i.kind = 'hnsw' AND m.dimensions > 4000 THEN 'auto' ELSE i.kind END, i.m, i.ef_construction, i.min_rows, i.memory, i.parallel_workers
            FROM embed._index AS i, embed._model AS m WHERE i.vectorizer_id = v.id AND m.id = s.model_id;
        ELSIF embed._is_indexed(embed._home(v), v.target_columns[array_position(v.outputs, 'dense')]) THEN
            -- one that was made by hand is missed as much
            PERFORM embed.create_index(s.name, 'auto', min_rows => 0);
        END IF;
    END IF;
END $$;
COMMENT ON FUNCTION embed._index_as(embed._vectorizer, embed._vectorizer, text) IS 'Want an index for a shadow, of a kind, or as that which it shadows has.';

CREATE OR REPLACE FUNCTION embed.switch_model(
    vectorizer text,
    model text,
    auto boolean DEFAULT false,
    keep text DEFAULT 'in step',
    index text DEFAULT NULL,
    column_type text DEFAULT NULL,
    dependants text DEFAULT 'refuse',
    timeout interval DEFAULT '10 seconds',
    chunking jsonb DEFAULT NULL
)
RETURNS text
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    wanted integer := embed._model_id(model);
    chunked boolean := (SELECT c.chunk_table IS NOT NULL FROM embed._vectorizer AS c WHERE c.id = embed._vectorizer_id(vectorizer));
    chosen embed._model;
    v embed._vectorizer;
    before embed._model;
    s embed._vectorizer;
    next text[];
    missing text[];
BEGIN
    IF keep IS NULL OR keep NOT IN ('in step', 'frozen', 'drop') THEN
        PERFORM embed._fail('PE003', format('the old vectors cannot be kept %L', keep), 'use ''in step'' (changed rows are embedded by both models), ''frozen'' (not any more) or ''drop''');
    ELSIF dependants IS NULL OR dependants NOT IN ('refuse', 'ignore') THEN
        PERFORM embed._fail('PE003', format('dependants is %L', dependants), 'use ''refuse'' or ''ignore''');
    END IF;
    -- a column can only be added alone
    v := embed._own_alone(vectorizer, timeout, NOT chunked);
    SELECT * INTO chosen FROM embed._model AS m WHERE m.id = wanted;
    SELECT * INTO before FROM embed._model AS m WHERE m.id = v.model_id;
    missing := ARRAY(SELECT o.output FROM unnest(v.outputs) AS o(output) WHERE o.output <> ALL (chosen.outputs) AND (o.output <> 'sparse' OR v.sparse_model_id IS NULL));
    IF v.shadow_of IS NOT NULL THEN
        PERFORM embed._fail('PE003', format('vectorizer %L is part of a switch itself', v.name), 'name the one that searches see');
    ELSIF chunking IS NOT NULL AND NOT chunked THEN
        PERFORM embed._fail('PE003', format('vectorizer %L splits no texts', v.name), 'leave chunking out');
    ELSIF chosen.id = v.model_id THEN
        PERFORM embed._fail('PE003', format('vectorizer %L uses model %L already', v.name, model));
    ELSIF EXISTS (SELECT FROM embed._vectorizer AS w WHERE w.shadow_of = v.id) THEN
        PERFORM embed._shadow(v.name, CASE WHEN EXISTS (SELECT FROM embed._vectorizer AS w JOIN embed._switch AS o ON o.vectorizer_id = w.id
            WHERE w.shadow_of = v.id AND o.stage = 'next') THEN 'old' ELSE 'next' END);
    ELSIF missing <> '{}' THEN
        PERFORM embed._fail('PE003', format('vectorizer %L keeps %s, and model %L makes none', v.name, embed._output_names(missing), model), format('it makes %s', embed._output_names(chosen.outputs)));
    ELSIF (SELECT count(*) FROM unnest(v.target_columns) AS c(attnum) WHERE embed._column_name(embed._home(v), c.attnum) IS NOT NULL) < cardinality(v.target_columns) THEN
        PERFORM embed._fail('PE003', format('vectorizer %L cannot go on: %s', v.name, embed._problem(v)));
    END IF;
    IF NOT chunked THEN
        PERFORM embed._refuse_dependants(v, dependants);
    END IF;
    PERFORM embed._warn_of_switch(v, before.name, chosen.name);
    SELECT array_agg(CASE WHEN chunked THEN a.attname::text ELSE embed._free_column(v.source, a.attname::text, '_next') END ORDER BY c.position) INTO next
    FROM unnest(v.target_columns) WITH ORDINALITY AS c(attnum, position) JOIN pg_attribute AS a ON a.attrelid = embed._home(v) AND a.attnum = c.attnum;
    column_type := COALESCE(column_type, (SELECT CASE WHEN t.typname = 'vector' AND before.dimensions <= 4000 THEN 'vector' END
        FROM pg_attribute AS a JOIN pg_type AS t ON t.oid = a.atttypid WHERE a.attrelid = embed._home(v) AND a.attnum = v.target_columns[array_position(v.outputs, 'dense')]));
    s := embed._cast_shadow(v, chosen.id, chunked, next, column_type, chunking);
    INSERT INTO embed._switch (vectorizer_id, auto, keep, dependants) VALUES (s.id, COALESCE(switch_model.auto, false), keep, dependants);
    IF chunked THEN
        PERFORM embed._shadow_chunks(v, s), embed._refuse_dependants(v, dependants);
    ELSE
        PERFORM embed._run_steps(embed._rights_steps(v.source, c.giver, s.target_columns[array_position(s.outputs, c.output)])) FROM unnest(v.outputs, v.target_columns) AS c(output, giver);
    END IF;
    PERFORM embed._index_as(v, s, index);
    PERFORM pg_notify('pg_embed_work', 'catalog');
    RETURN s.name;
END $$;
COMMENT ON FUNCTION embed.switch_model(text, text, boolean, text, text, text, text, interval, jsonb) IS
    'Begin to change a vectorizer''s model without a pause for those who search: columns beside those that are there, or a table of chunks beside the one that is there, are filled with the new model''s vectors, behind live rows, indexed, and compared; searches see the old ones until embed.finish_switch, or with auto until a worker that may has done the same. See embed.switches. keep says what becomes of the old vectors after that: ''in step'' (both are made, for embed.rollback_switch at any time), ''frozen'' or ''drop''. index is a kind for embed.create_index; by default as it was. Views and the like that name the old column keep it, and are refused, unless dependants is ''ignore''. chunking says how the new model''s chunks are cut; by default as before, and no longer than it reads. Returns the name of the vectorizer that makes the new vectors, for embed.pause, embed.resume, embed.retry and embed.status.';

CREATE OR REPLACE FUNCTION embed._is_indexed(source oid, attnum smallint)
RETURNS boolean
LANGUAGE sql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
    SELECT EXISTS (SELECT FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid JOIN pg_am AS a ON a.oid = c.relam
        JOIN pg_depend AS d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.refclassid = 'pg_class'::regclass AND d.refobjid = source AND d.refobjsubid = _is_indexed.attnum
        WHERE i.indrelid = source AND i.indisvalid AND a.amname IN ('hnsw', 'ivfflat'))
$$;
COMMENT ON FUNCTION embed._is_indexed(oid, smallint) IS 'Whether an index of pgvector''s is over a column, whoever made it.';

CREATE OR REPLACE FUNCTION embed._is_behind_v1(shadow integer)
RETURNS boolean
LANGUAGE sql
VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, embed, pg_temp
AS $$
    -- What changes all the time is never done: the new vectors may be some seconds behind their texts, as any are.
    SELECT EXISTS (SELECT FROM embed._queue AS q, embed._switch AS w WHERE q.vectorizer_id = shadow AND w.vectorizer_id = shadow
            AND (q.priority > 1 OR q.enqueued_at <= greatest(w.since, clock_timestamp() - interval '5 seconds')))
        OR EXISTS (SELECT FROM embed._backfill AS b WHERE b.vectorizer_id = shadow)
        OR EXISTS (SELECT FROM embed._vectorizer AS v WHERE v.id = shadow AND embed._attached(v) <> '{}')
$$;
COMMENT ON FUNCTION embed._is_behind_v1(integer) IS 'Whether a shadow lacks vectors, those of the last seconds left aside.';

CREATE OR REPLACE FUNCTION embed._switch_look_v1(
    shadow integer, OUT state text, OUT explanation text, OUT rows_left bigint, OUT failed bigint, OUT failed_before bigint, OUT index_state text
)
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    s embed._vectorizer;
    w embed._switch;
    seen record;
BEGIN
    SELECT * INTO s FROM embed._vectorizer AS c WHERE c.id = shadow;
    SELECT * INTO w FROM embed._switch AS c WHERE c.vectorizer_id = shadow;
    SELECT COALESCE(sum(q.n), 0) INTO rows_left FROM embed._queue AS q WHERE q.vectorizer_id = shadow;
    rows_left := rows_left + COALESCE((SELECT COALESCE(b.rows_left, embed._rows_by_statistics(s.source), 0) + 1 FROM embed._backfill AS b WHERE b.vectorizer_id = shadow), 0);
    SELECT count(*) FILTER (WHERE f.vectorizer_id = shadow), count(*) FILTER (WHERE f.vectorizer_id <> shadow) INTO failed, failed_before
    FROM embed._failure AS f WHERE f.vectorizer_id IN (shadow, s.shadow_of);
    SELECT l.state, l.explanation, l.wanted, l.error INTO seen FROM embed._index_look_v1(shadow, NULL, NULL, NULL, NULL, NULL) AS l;
    index_state := COALESCE(seen.state, 'none');
    state := CASE
        WHEN w.stage = 'old' THEN 'swapped'
        WHEN s.state <> 'active' THEN s.state
        WHEN embed._is_behind_v1(shadow) THEN 'filling'
        WHEN index_state NOT IN ('none', 'valid', 'stale') THEN 'indexing'
        WHEN w.compared IS NULL THEN 'comparing'
        ELSE 'ready' END;
    explanation := concat_ws('; ',
        CASE state WHEN 'swapped' THEN CASE w.keep WHEN 'in step' THEN 'the old vectors are kept in step; ' ELSE 'the old vectors are kept as they were; ' END
                || 'embed.rollback_switch goes back to them, embed.forget_switch drops them'
            WHEN 'filling' THEN concat_ws('; ', format('%s rows to go', rows_left), COALESCE(s.reason, embed._holdup(s.id)))
            WHEN 'indexing' THEN concat_ws('; ', seen.explanation, seen.error)
            WHEN 'comparing' THEN 'a worker compares the nearest rows of both models next, or embed.compare_switch'
            WHEN 'ready' THEN CASE WHEN failed > failed_before THEN format('%s rows failed, and %s before: see embed.failures; embed.finish_switch takes force => true', failed, failed_before)
                WHEN w.needs_owner THEN 'the table''s owner must end it with embed.finish_switch'
                WHEN w.auto THEN 'a worker swaps next' ELSE 'embed.finish_switch ends it, embed.abort_switch drops what it made' END
            ELSE s.reason END,
        CASE WHEN w.error IS NOT NULL AND state <> 'swapped' THEN 'the last attempt failed: ' || w.error END);
END $$;
COMMENT ON FUNCTION embed._switch_look_v1(integer) IS 'How far a switch is, by its shadow.';

CREATE OR REPLACE FUNCTION embed.switches(vectorizer text DEFAULT NULL)
RETURNS TABLE (
    vectorizer_name text, source regclass, model text, other_model text, state text, rows_left bigint, failed bigint, index_state text, overlap_at_10 real, compared integer,
    auto boolean, keep text, shadow text, columns text[], started_at timestamptz, swapped_at timestamptz, explanation text, chunk_table regclass
)
LANGUAGE sql
VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, embed, pg_temp
AS $$
    SELECT v.name, v.source, b.name, m.name, l.state, l.rows_left, l.failed, l.index_state, w.overlap, w.compared, w.auto, w.keep, s.name,
        (SELECT array_agg(a.attname::text ORDER BY c.position) FROM unnest(s.target_columns) WITH ORDINALITY AS c(attnum, position)
            JOIN pg_attribute AS a ON a.attrelid = embed._home(s) AND a.attnum = c.attnum AND NOT a.attisdropped),
        w.started_at, w.swapped_at, l.explanation, s.chunk_table
    FROM embed._switch AS w
    JOIN embed._vectorizer AS s ON s.id = w.vectorizer_id
    JOIN embed._vectorizer AS v ON v.id = s.shadow_of
    JOIN embed._model AS b ON b.id = v.model_id
    JOIN embed._model AS m ON m.id = s.model_id,
    LATERAL embed._switch_look_v1(s.id) AS l
    WHERE switches.vectorizer IS NULL OR embed._vectorizer_id(switches.vectorizer) IN (v.id, s.id)
    ORDER BY v.name
$$;
COMMENT ON FUNCTION embed.switches(text) IS
    'The switches from one model to another, or from chunks to a column, by the vectorizer that searches see, its model, and the other model: filling, indexing, comparing, ready, and after the swap, while the old vectors are kept, swapped. overlap_at_10 is the share of the ten nearest rows that both models agree on, for as many rows as compared. columns and chunk_table say where the other vectors are.';

CREATE OR REPLACE VIEW embed.switches AS SELECT * FROM embed.switches();
COMMENT ON VIEW embed.switches IS 'embed.switches() of every vectorizer.';

CREATE OR REPLACE FUNCTION embed._switch_forms_v1(
    vectorizer text, OUT shadow integer, OUT models text[], OUT sampled text, OUT nearest text[]
)
LANGUAGE plpgsql
STABLE PARALLEL SAFE SECURITY DEFINER
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    s embed._vectorizer := embed._shadow(vectorizer);
    v embed._vectorizer;
    old record;
    new record;
    key text := embed._key_text(s.source, s.key_columns, 'r');
    relation text := embed._source_name(s.source);
BEGIN
    SELECT * INTO v FROM embed._vectorizer AS c WHERE c.id = s.shadow_of;
    SELECT * INTO old FROM embed._dense_target(v.id);
    SELECT * INTO new FROM embed._dense_target(s.id);
    shadow := s.id;
    IF old.source IS NULL OR new.source IS NULL OR (v.chunk_table IS NULL) <> (s.chunk_table IS NULL) THEN
        RETURN;
    END IF;
    models := ARRAY(SELECT m.name FROM embed._model AS m WHERE m.id IN (v.model_id, s.model_id) ORDER BY m.id = s.model_id);
    IF v.chunk_table IS NOT NULL THEN
        SELECT f.sampled, f.nearest INTO sampled, nearest FROM embed._chunk_forms(v, s) AS f;
        RETURN;
    END IF;
    sampled := format('SELECT %s AS key, r.%I::text AS r1, r.%I::text AS r2 FROM %s AS r TABLESAMPLE SYSTEM (%s) WHERE r.%2$I IS NOT NULL AND r.%3$I IS NOT NULL ORDER BY random() LIMIT $1',
        key, old.column_name, new.column_name, relation, least(100, 1e6 / greatest(embed._rows_by_statistics(s.source), 1))::numeric);
    nearest := ARRAY(SELECT format('SELECT ARRAY(SELECT %s FROM %s AS r WHERE r.%I IS NOT NULL ORDER BY r.%3$I OPERATOR(%4$s.%5$s) $1::%4$s.%6$s(%7$s) LIMIT $2)',
            key, relation, t.name, embed._vector_schema(), CASE t.metric WHEN 'ip' THEN '<#>' WHEN 'l2' THEN '<->' ELSE '<=>' END, t.kind, t.size)
        FROM (VALUES (1, old.column_name, old.column_type, old.dimensions, old.metric), (2, new.column_name, new.column_type, new.dimensions, new.metric))
            AS t(position, name, kind, size, metric) ORDER BY t.position);
END $$;
COMMENT ON FUNCTION embed._switch_forms_v1(text) IS
    'The statements that compare two spaces: $1 rows at random with their vectors, and in each space the keys of the $2 rows nearest to the vector $1.';

CREATE OR REPLACE FUNCTION embed._switch_compared_v1(shadow integer, overlap real, compared integer)
RETURNS void
LANGUAGE sql
VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, embed, pg_temp
AS $$
    UPDATE embed._switch AS w SET overlap = _switch_compared_v1.overlap, compared = _switch_compared_v1.compared
    WHERE w.vectorizer_id = shadow AND embed._may_note(w.vectorizer_id)
$$;
COMMENT ON FUNCTION embed._switch_compared_v1(integer, real, integer) IS 'Note how alike two spaces were found.';

CREATE OR REPLACE FUNCTION embed.compare_switch(vectorizer text, queries text[] DEFAULT NULL, samples integer DEFAULT 50, seconds double precision DEFAULT 20)
RETURNS real
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    forms record := embed._switch_forms_v1(vectorizer);
    until timestamptz := clock_timestamp() + make_interval(secs => seconds);
    one record;
    old text[];
    new text[];
    alike double precision := 0;
    compared integer := 0;
    overlap real;
BEGIN
    IF samples IS NULL OR samples NOT BETWEEN 1 AND 10000 OR seconds IS NULL OR seconds <= 0 OR seconds > 3600 THEN
        PERFORM embed._fail('PE003', format('samples is %s and seconds is %s', samples, seconds), 'set them from 1 to 10000, and above 0, up to 3600');
    END IF;
    IF forms.nearest IS NOT NULL THEN
        FOR one IN EXECUTE CASE WHEN queries IS NULL THEN forms.sampled
                ELSE 'SELECT NULL::text AS key, embed._vector(q.query, $2[1], ''query'', ''dense'') AS r1, embed._vector(q.query, $2[2], ''query'', ''dense'') AS r2 FROM unnest($3) AS q(query) LIMIT $1' END
            USING samples, forms.models, queries
        LOOP
            -- a row that asks is nearest to itself
            EXECUTE forms.nearest[1] INTO old USING one.r1, 11;
            EXECUTE forms.nearest[2] INTO new USING one.r2, 11;
            old := (array_remove(old, one.key))[1:10];
            new := (array_remove(new, one.key))[1:10];
            IF cardinality(old) > 0 THEN
                alike := alike + (SELECT count(*) FROM unnest(old) AS o(key) WHERE o.key = ANY (new)) / cardinality(old)::double precision;
                compared := compared + 1;
            END IF;
            EXIT WHEN clock_timestamp() > until;
        END LOOP;
        overlap := alike / NULLIF(compared, 0);
    END IF;
    IF NOT current_setting('transaction_read_only')::boolean THEN
        PERFORM embed._switch_compared_v1(forms.shadow, overlap, compared);
    END IF;
    RETURN overlap;
END $$;
COMMENT ON FUNCTION embed.compare_switch(text, text[], integer, double precision) IS
    'The share of the ten nearest rows that the old and the new model agree on, on the average of some rows taken at random, or of queries that are given; noted in embed.switches. NULL where there is nothing to compare. Different models differ: what matters is whether it is as low as between strangers, or who of the two is right.';

CREATE OR REPLACE FUNCTION embed._swap_steps(v embed._vectorizer, s embed._vectorizer)
RETURNS text[]
LANGUAGE plpgsql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    taker smallint;
    name text;
    next text;
    kept text;
    steps text[] := '{}';
BEGIN
    IF (v.chunk_table IS NULL) <> (s.chunk_table IS NULL) THEN
        -- columns of a table and those of its chunks: neither is in the other's way
        RETURN CASE WHEN s.chunk_table IS NULL THEN embed._reader_steps(v, s) ELSE '{}' END;
    ELSIF v.chunk_table IS NOT NULL THEN
        RETURN embed._swap_chunk_steps(v, s);
    END IF;
    FOR i IN 1..cardinality(v.outputs) LOOP
        taker := s.target_columns[array_position(s.outputs, v.outputs[i])];
        steps := steps || embed._rights_steps(v.source, v.target_columns[i], taker);
        SELECT a.attname INTO STRICT name FROM pg_attribute AS a WHERE a.attrelid = v.source AND a.attnum = v.target_columns[i];
        SELECT a.attname INTO STRICT next FROM pg_attribute AS a WHERE a.attrelid = v.source AND a.attnum = taker;
        kept := embed._free_column(v.source, name, '_old');
        IF starts_with(next, left(name, 40) || '_old') THEN
            -- the way back: both exchange names
            kept := next;
            next := embed._free_column(v.source, name, '_swap');
            steps := steps || format('ALTER TABLE %s RENAME COLUMN %I TO %I', v.source, kept, next);
        END IF;
        steps := steps || format('ALTER TABLE %s RENAME COLUMN %I TO %I', v.source, name, kept) || format('ALTER TABLE %s RENAME COLUMN %I TO %I', v.source, next, name);
        IF col_description(v.source, v.target_columns[i]) IS DISTINCT FROM col_description(v.source, taker) THEN
            -- what is said of a column is said of its name
            steps := steps || format('COMMENT ON COLUMN %s.%I IS %L', v.source, name, col_description(v.source, v.target_columns[i]))
                || format('COMMENT ON COLUMN %s.%I IS %L', v.source, kept, col_description(v.source, taker));
        END IF;
    END LOOP;
    RETURN steps;
END $$;
COMMENT ON FUNCTION embed._swap_steps(embed._vectorizer, embed._vectorizer) IS 'The statements by which the columns of two vectorizers, or the tables of their chunks, exchange names.';

CREATE OR REPLACE FUNCTION embed._swap(v embed._vectorizer, s embed._vectorizer)
RETURNS void
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    parked text;
    w embed._switch;
BEGIN
    IF v.chunk_table IS NOT NULL THEN
        PERFORM embed._run_steps(embed._like_chunks(v, s));
    END IF;
    PERFORM embed._run_steps(embed._swap_steps(v, s));
    DELETE FROM embed._switch AS o WHERE o.vectorizer_id = s.id RETURNING o.* INTO STRICT w;
    UPDATE embed._vectorizer AS c SET name = embed._free_vectorizer(v.name, '_swap'), shadow_of = NULL WHERE c.id = s.id;
    UPDATE embed._vectorizer AS c SET name = embed._free_vectorizer(v.name, '_old'), shadow_of = s.id WHERE c.id = v.id RETURNING c.name INTO parked;
    UPDATE embed._vectorizer AS c
    SET name = v.name, state = CASE v.state WHEN 'paused' THEN v.state ELSE c.state END, reason = CASE v.state WHEN 'paused' THEN v.reason ELSE c.reason END
    WHERE c.id = s.id;
    INSERT INTO embed._switch (vectorizer_id, stage, auto, keep, dependants, overlap, compared, started_at, swapped_at)
    VALUES (v.id, 'old', false, w.keep, w.dependants, w.overlap, w.compared, w.started_at, clock_timestamp());
    IF w.keep = 'drop' THEN
        PERFORM embed.drop_vectorizer(parked, drop_column => true);
    ELSIF w.keep = 'frozen' THEN
        UPDATE embed._vectorizer AS c SET state = 'paused', reason = 'kept as it was when the model was switched' WHERE c.id = v.id AND c.state = 'active';
    END IF;
    PERFORM pg_notify('pg_embed_work', 'catalog');
END $$;
COMMENT ON FUNCTION embed._swap(embed._vectorizer, embed._vectorizer) IS 'Let a shadow and what it shadows exchange the names of their columns, or of their tables of chunks, and their own; the caller has locked the table.';

CREATE OR REPLACE FUNCTION embed._refuse_unready(v embed._vectorizer, s embed._vectorizer)
RETURNS void
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    seen record := embed._switch_look_v1(s.id);
BEGIN
    IF seen.state <> 'ready' THEN
        PERFORM embed._fail('PE003', format('the switch of vectorizer %L is not ready, it is %s: %s', v.name, seen.state, seen.explanation),
            'wait for it, see embed.switches; force => true would let searches miss rows');
    ELSIF seen.failed > seen.failed_before THEN
        PERFORM embed._fail('PE003', format('%s rows failed with the new model of vectorizer %L, and %s with the old', seen.failed, v.name, seen.failed_before),
            format('see embed.failures(%L), and embed.retry; force => true lets searches miss them', s.name));
    END IF;
END $$;
COMMENT ON FUNCTION embed._refuse_unready(embed._vectorizer, embed._vectorizer) IS 'Refuse to swap to a space that lacks vectors or an index.';

CREATE OR REPLACE FUNCTION embed.finish_switch(vectorizer text, force boolean DEFAULT false, timeout interval DEFAULT '10 seconds')
RETURNS text
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    s embed._vectorizer := embed._shadow(vectorizer, 'next');
    v embed._vectorizer;
    w embed._switch;
BEGIN
    SELECT c.* INTO v FROM embed._vectorizer AS c WHERE c.id = s.shadow_of;
    SELECT c.* INTO w FROM embed._switch AS c WHERE c.vectorizer_id = s.id;
    -- What is looked at under the lock was looked at before: in a session the first look takes longest.
    PERFORM embed._refuse_dependants(v, w.dependants), embed._swap_steps(v, s), embed._like_chunks(v, s), embed._is_behind_v1(s.id);
    IF NOT COALESCE(force, false) THEN
        IF (embed._switch_look_v1(s.id)).state = 'comparing' THEN
            PERFORM embed.compare_switch(v.name);
        END IF;
        PERFORM embed._refuse_unready(v, s);
    END IF;
    PERFORM embed._count_swap_v1();
    v := embed._own_alone(v.name, timeout);
    s := embed._shadow(v.name, 'next');
    IF NOT COALESCE(force, false) AND embed._is_behind_v1(s.id) THEN
        PERFORM embed._refuse_unready(v, s);
    END IF;
    PERFORM embed._refuse_dependants(v, w.dependants), embed._swap(v, s);
    RETURN v.name;
END $$;
COMMENT ON FUNCTION embed.finish_switch(text, boolean, interval) IS
    'End a switch that is ready: in one transaction the new vectors take the name of the old column, or the new chunks those of the old table and view, and the vectorizer has the new model; from then on searches and embed() without a model use it. The table is locked for some milliseconds, when nobody is in the way, which is tried until the time is over; in a transaction of yours it stays locked until that ends. force swaps though rows, their index or the comparison are missing.';

CREATE OR REPLACE FUNCTION embed.abort_switch(vectorizer text, timeout interval DEFAULT '10 seconds')
RETURNS void
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    s embed._vectorizer := embed._shadow(vectorizer, 'next');
    v embed._vectorizer;
    w embed._switch;
BEGIN
    PERFORM embed._own_alone(s.name, timeout);
    s := embed._shadow(s.name, 'next');
    SELECT c.* INTO w FROM embed._switch AS c WHERE c.vectorizer_id = s.id;
    IF w.swapped_at IS NULL THEN
        PERFORM embed.drop_vectorizer(s.name, drop_column => true);
        RETURN;
    END IF;
    -- a way back that was begun: the old vectors are kept on
    UPDATE embed._switch AS c SET stage = 'old', auto = false WHERE c.vectorizer_id = s.id;
    IF w.keep = 'frozen' THEN
        UPDATE embed._vectorizer AS c SET state = 'paused', reason = 'kept as it was when the model was switched' WHERE c.id = s.id AND c.state = 'active';
    END IF;
END $$;
COMMENT ON FUNCTION embed.abort_switch(text, interval) IS 'Give a switch up before the swap: what it made is dropped. A rollback that waits for rows is given up, and the old vectors are kept.';

CREATE OR REPLACE FUNCTION embed.rollback_switch(vectorizer text, timeout interval DEFAULT '10 seconds')
RETURNS text
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    s embed._vectorizer := embed._shadow(vectorizer, 'old');
    v embed._vectorizer;
BEGIN
    -- the table is locked by the swap, and not for what is looked at before
    v := embed._own_vectorizer((SELECT c.name FROM embed._vectorizer AS c WHERE c.id = s.shadow_of));
    s := embed._shadow(v.name, 'old');
    IF s.state <> 'active' THEN
        PERFORM embed.resume(s.name);
    END IF;
    UPDATE embed._switch AS c SET stage = 'next', auto = true, since = clock_timestamp(), error = NULL, needs_owner = false, failures = 0, tried_at = NULL WHERE c.vectorizer_id = s.id;
    IF (embed._switch_look_v1(s.id)).state = 'ready' THEN
        PERFORM embed.finish_switch(v.name, timeout => timeout);
    END IF;
    RETURN (SELECT format('%s: %s', l.state, l.explanation) FROM embed._switch AS c, LATERAL embed._switch_look_v1(c.vectorizer_id) AS l WHERE c.vectorizer_id IN (v.id, s.id));
END $$;
COMMENT ON FUNCTION embed.rollback_switch(text, interval) IS
    'Go back to the vectors from before a switch, and keep the new ones as these were kept: at once when all rows have them, else a worker embeds those that changed, and then it swaps, or embed.finish_switch does. Returns how it stands.';

CREATE OR REPLACE FUNCTION embed.forget_switch(vectorizer text, timeout interval DEFAULT '10 seconds')
RETURNS void
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    s embed._vectorizer := embed._shadow(vectorizer, 'old');
BEGIN
    PERFORM embed._own_alone(s.name, timeout), embed.drop_vectorizer((embed._shadow(s.name, 'old')).name, drop_column => true);
END $$;
COMMENT ON FUNCTION embed.forget_switch(text, interval) IS 'Drop the vectors from before a switch: their columns, or the table and the view of their chunks, index, triggers and queue. There is no way back then.';

CREATE OR REPLACE FUNCTION embed._switch_todo_v1()
RETURNS TABLE (shadow integer, vectorizer_name text, source oid, step text, tries integer, idle_seconds double precision)
LANGUAGE sql
VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, embed, pg_temp
AS $$
    -- first what costs little, however long the queue is
    WITH filled AS MATERIALIZED (
        SELECT w.* FROM embed._switch AS w WHERE w.stage = 'next' AND NOT embed._is_behind_v1(w.vectorizer_id)
    )
    SELECT s.id, v.name, v.source, CASE l.state WHEN 'comparing' THEN 'compare' ELSE 'swap' END, w.failures, extract(epoch FROM clock_timestamp() - w.tried_at)::double precision
    FROM filled AS w JOIN embed._vectorizer AS s ON s.id = w.vectorizer_id JOIN embed._vectorizer AS v ON v.id = s.shadow_of, LATERAL embed._switch_look_v1(s.id) AS l
    WHERE l.state = 'comparing' OR (l.state = 'ready' AND w.auto AND l.failed <= l.failed_before)
    ORDER BY w.tried_at NULLS FIRST, s.id
$$;
COMMENT ON FUNCTION embed._switch_todo_v1() IS 'The switches that a worker can bring further.';

CREATE OR REPLACE FUNCTION embed._switch_todo()
RETURNS TABLE (shadow integer, vectorizer_name text, step text, may_do boolean, tries integer, idle_seconds double precision)
LANGUAGE sql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
    SELECT t.shadow, t.vectorizer_name, t.step, t.step = 'compare' OR pg_has_role(current_user, c.relowner, 'USAGE'), t.tries, t.idle_seconds
    FROM embed._switch_todo_v1() AS t JOIN pg_class AS c ON c.oid = t.source
$$;
COMMENT ON FUNCTION embed._switch_todo() IS 'The switches that a worker can bring further, and whether the caller may: only a table''s owner may swap.';

CREATE OR REPLACE FUNCTION embed._switch_tried_v1(shadow integer, error text, needs_owner boolean)
RETURNS void
LANGUAGE sql
VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, embed, pg_temp
AS $$
    UPDATE embed._switch AS w
    SET error = _switch_tried_v1.error, needs_owner = _switch_tried_v1.needs_owner, tried_at = clock_timestamp(), failures = CASE WHEN _switch_tried_v1.error IS NULL THEN 0 ELSE w.failures + 1 END
    WHERE w.vectorizer_id = shadow AND embed._may_note(w.vectorizer_id)
        AND (NOT _switch_tried_v1.needs_owner OR NOT w.needs_owner)
$$;
COMMENT ON FUNCTION embed._switch_tried_v1(integer, text, boolean) IS 'Note how an attempt to bring a switch further ended: NULL is success; needs_owner, that whoever tried may not.';

-- Vectorizers: which text of which table, by which model, into which column. The calls of this file run with the
-- caller's rights: the table's owner adds the column and the triggers, and row-level security guards the catalog.

CREATE OR REPLACE FUNCTION embed._find_vectorizers(vectorizer text)
RETURNS integer[]
LANGUAGE plpgsql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
SET standard_conforming_strings = on
AS $$
DECLARE
    found integer[];
BEGIN
    SELECT array_agg(v.id) INTO found FROM embed._vectorizer AS v WHERE v.name = vectorizer;
    -- to_regclass raises an error for what cannot be a name
    IF found IS NULL AND vectorizer ~ '^\s*("(?:[^"]|"")+"|[^\s".]+)(\s*\.\s*("(?:[^"]|"")+"|[^\s".]+))?\s*$' THEN
        SELECT array_agg(v.id ORDER BY v.id) INTO found FROM embed._vectorizer AS v
        WHERE v.source = to_regclass(vectorizer) AND v.shadow_of IS NULL;
    END IF;
    IF found IS NULL THEN
        SELECT array_agg(v.id ORDER BY v.id) INTO found
        FROM embed._vectorizer AS v JOIN pg_class AS c ON c.oid = v.source
        WHERE v.shadow_of IS NULL AND (c.relname = vectorizer OR quote_ident(c.relname) = vectorizer);
    END IF;
    RETURN found;
END $$;
COMMENT ON FUNCTION embed._find_vectorizers(text) IS 'The ids of vectorizers by their name or by their table''s; NULL when there is none. A shadow is found by its own name only.';

CREATE OR REPLACE FUNCTION embed._vectorizer_id(vectorizer text)
RETURNS integer
LANGUAGE plpgsql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    found integer[] := embed._find_vectorizers(vectorizer);
BEGIN
    IF found IS NULL THEN
        PERFORM embed._fail('PE003', format('there is no vectorizer %L, nor a table of that name that has one', vectorizer),
            COALESCE('the vectorizers are: ' || (SELECT string_agg(quote_literal(v.name), ', ' ORDER BY v.name) FROM embed._vectorizer AS v),
                'make one with embed.create_vectorizer(table, column)'));
    ELSIF cardinality(found) > 1 THEN
        PERFORM embed._fail('PE003', format('table %s has several vectorizers', vectorizer),
            'name one of: ' || (SELECT string_agg(quote_literal(v.name), ', ' ORDER BY v.name) FROM embed._vectorizer AS v WHERE v.id = ANY (found)));
    END IF;
    RETURN found[1];
END $$;
COMMENT ON FUNCTION embed._vectorizer_id(text) IS 'The id of a vectorizer by its name or by its table''s, or an error that lists the vectorizers.';

CREATE OR REPLACE FUNCTION embed._source_of(vectorizer integer)
RETURNS regclass
LANGUAGE sql
STABLE PARALLEL SAFE SECURITY DEFINER
SET search_path = pg_catalog, embed, pg_temp
AS $$ SELECT v.source FROM embed._vectorizer AS v WHERE v.id = vectorizer $$;
COMMENT ON FUNCTION embed._source_of(integer) IS 'The table of a vectorizer, for a policy of the catalog, which may not read the catalog itself.';

CREATE OR REPLACE FUNCTION embed._own_vectorizer(vectorizer text, lock_table boolean DEFAULT false)
RETURNS embed._vectorizer
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    wanted integer := embed._vectorizer_id(vectorizer);
    v embed._vectorizer;
    owner oid;
BEGIN
    SELECT c.relowner INTO owner FROM embed._vectorizer AS w JOIN pg_class AS c ON c.oid = w.source WHERE w.id = wanted;
    IF lock_table AND pg_has_role(current_user, owner, 'USAGE') THEN
        -- the table before the catalog, as workers do
        EXECUTE (SELECT format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', embed._source_name(w.source)) FROM embed._vectorizer AS w WHERE w.id = wanted);
    END IF;
    IF current_setting('transaction_read_only')::boolean THEN
        -- for who only looks, as on a standby, where no row can be locked
        SELECT * INTO v FROM embed._vectorizer AS w
        WHERE w.id = wanted AND (pg_has_role(current_user, owner, 'USAGE') OR NOT row_security_active('embed._vectorizer'::regclass));
        v := embed._here(v);
    ELSE
        -- row-level security lets nobody but the table's owner and ours lock the row
        SELECT * INTO v FROM embed._vectorizer AS w WHERE w.id = wanted FOR NO KEY UPDATE;
        IF v.numbered[:2] <> ARRAY[v.source, 'embed._vectorizer'::regclass]::oid[] THEN
            UPDATE embed._vectorizer AS w SET state = w.state WHERE w.id = wanted RETURNING w.* INTO v;
        END IF;
    END IF;
    IF v.id IS NULL OR (lock_table AND NOT pg_has_role(current_user, owner, 'USAGE')) THEN
        PERFORM embed._fail('42501', format('you must own the table of vectorizer %L', vectorizer), 'ask a member of ' || quote_ident(pg_get_userbyid(owner)));
    END IF;
    RETURN v;
END $$;
COMMENT ON FUNCTION embed._own_vectorizer(text, boolean) IS 'A vectorizer, locked for a change, or an error when its table is somebody else''s.';

CREATE OR REPLACE FUNCTION embed._vector_type(kind text)
RETURNS text
LANGUAGE sql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
    SELECT format('%I.%I', s.nspname, t.typname)
    FROM pg_type AS t JOIN pg_namespace AS s ON s.oid = t.typnamespace
    JOIN pg_depend AS d ON d.classid = 'pg_type'::regclass AND d.objid = t.oid AND d.deptype = 'e'
    JOIN pg_extension AS e ON e.oid = d.refobjid AND e.extname = 'vector'
    WHERE t.typname = kind
$$;
COMMENT ON FUNCTION embed._vector_type(text) IS 'The qualified name of a type of pgvector, wherever the extension was installed.';

CREATE OR REPLACE FUNCTION embed._check_source(source regclass)
RETURNS smallint[]
LANGUAGE plpgsql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    relation pg_class;
    key_columns smallint[];
    odd text;
BEGIN
    SELECT * INTO relation FROM pg_class AS c WHERE c.oid = source;
    IF source IS NULL OR relation.oid IS NULL THEN
        PERFORM embed._fail('PE003', 'no table is given');
    ELSIF relation.relkind NOT IN ('r', 'p') THEN
        PERFORM embed._fail('PE003', format('%s is a %s, not a table', source,
            CASE relation.relkind WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view' WHEN 'f' THEN 'foreign table' ELSE 'relation of another kind' END),
            'make the vectorizer on the table that holds the text');
    ELSIF relation.relpersistence = 't' THEN
        PERFORM embed._fail('PE003', format('%s is a temporary table, which no worker can see', source), 'use a permanent table');
    ELSIF relation.relispartition THEN
        PERFORM embed._fail('PE003', format('%s is a partition', source), 'make the vectorizer on the partitioned table: it covers every partition');
    ELSIF relation.relnamespace IN ('embed'::regnamespace, 'pg_catalog'::regnamespace) THEN
        PERFORM embed._fail('PE003', format('%s belongs to the system', source), 'make the vectorizer on a table of your own');
    ELSIF NOT pg_has_role(current_user, relation.relowner, 'USAGE') THEN
        PERFORM embed._fail('42501', format('you must own table %s to make a vectorizer on it', source),
            format('ask a member of %I, or of an owner of it', pg_get_userbyid(relation.relowner)));
    END IF;
    SELECT array_agg(k.attnum ORDER BY k.position) INTO key_columns
    FROM pg_index AS i, unnest(i.indkey::smallint[]) WITH ORDINALITY AS k(attnum, position)
    WHERE i.indrelid = source AND i.indisprimary AND i.indisvalid AND k.position <= i.indnkeyatts;
    IF key_columns IS NULL THEN
        PERFORM embed._fail('PE003', format('table %s has no primary key', source),
            'add one: a vectorizer must tell the rows apart, as in ALTER TABLE ... ADD COLUMN id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY');
    END IF;
    SELECT string_agg(format('%I %s', a.attname, format_type(a.atttypid, a.atttypmod)), ', ') INTO odd
    FROM pg_attribute AS a WHERE a.attrelid = source AND a.attnum = ANY (key_columns) AND NOT embed._key_type_is_plain(a.atttypid);
    IF odd IS NOT NULL THEN
        PERFORM embed._fail('PE003', format('the primary key of %s has a type that cannot be queued: %s', source, odd),
            'use types of Postgres itself, domains over these, or enums');
    END IF;
    RETURN key_columns;
END $$;
COMMENT ON FUNCTION embed._check_source(regclass) IS 'The primary key of a table that can have a vectorizer, or the reason why it cannot.';

CREATE OR REPLACE FUNCTION embed._check_input(source regclass, columns smallint[])
RETURNS void
LANGUAGE plpgsql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
SET standard_conforming_strings = on
AS $$
DECLARE
    odd text;
BEGIN
    SELECT string_agg(format('%I %s', a.attname, format_type(a.atttypid, a.atttypmod)), ', ') INTO odd
    FROM pg_attribute AS a
    WHERE a.attrelid = source AND a.attnum = ANY (columns)
        AND (a.atttypid = 'bytea'::regtype OR format_type(a.atttypid, NULL) ~ '(^|\.)(vector|halfvec|sparsevec)$');
    IF odd IS NOT NULL THEN
        PERFORM embed._fail('PE003', format('the input of %s is not text: %s', source, odd), 'name columns whose values can be read as text');
    END IF;
END $$;
COMMENT ON FUNCTION embed._check_input(regclass, smallint[]) IS 'Refuse input columns that hold no text.';

CREATE OR REPLACE FUNCTION embed._add_column(
    source regclass, column_name text, output text, column_type text, dimensions integer, OUT attnum smallint, OUT added boolean
)
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    kind text := CASE output WHEN 'sparse' THEN 'sparsevec' WHEN 'multi' THEN 'halfvec'
        ELSE COALESCE(column_type, CASE WHEN dimensions <= 4000 THEN 'halfvec' ELSE 'vector' END) END;
    brackets text := CASE output WHEN 'multi' THEN '[]' ELSE '' END;
    wanted text;
    present record;
BEGIN
    IF output = 'dense' AND kind NOT IN ('halfvec', 'vector') THEN
        PERFORM embed._fail('PE003', format('a column of type %L cannot hold dense vectors', kind), 'use halfvec (2 bytes a dimension) or vector (4 bytes)');
    END IF;
    wanted := format('%s(%s)%s', embed._vector_type(kind), dimensions, brackets);
    SELECT a.attnum, a.atttypid, a.atttypmod, a.attgenerated, format_type(a.atttypid, a.atttypmod) AS spelled INTO present
    FROM pg_attribute AS a WHERE a.attrelid = source AND a.attname = column_name AND a.attnum > 0 AND NOT a.attisdropped;
    added := present.attnum IS NULL;
    IF added THEN
        EXECUTE format('ALTER TABLE %s ADD COLUMN %I %s', source, column_name, wanted);
        -- tells pg_embed.alembic that no migration of the table's owner has added it
        EXECUTE format('COMMENT ON COLUMN %s.%I IS %L', source, column_name, 'pg_embed: added for a vectorizer');
        IF output = 'multi' THEN
            -- numbers that do not compress: trying would cost time with every row
            EXECUTE format('ALTER TABLE %s ALTER COLUMN %I SET STORAGE EXTERNAL', source, column_name);
        END IF;
        SELECT a.attnum INTO attnum FROM pg_attribute AS a WHERE a.attrelid = source AND a.attname = column_name AND NOT a.attisdropped;
        RETURN;
    END IF;
    IF present.attgenerated <> '' OR present.atttypmod <> dimensions OR NOT (
        present.atttypid = (embed._vector_type(kind) || brackets)::regtype
        OR (output = 'dense' AND column_type IS NULL AND present.atttypid IN (embed._vector_type('vector')::regtype, embed._vector_type('halfvec')::regtype))) THEN
        PERFORM embed._fail('PE003', format('column %I of %s exists with type %s, and the model needs %s', column_name, source, present.spelled, wanted),
            'name another column, as in column_name => ''embedding_2'', or drop that one');
    END IF;
    attnum := present.attnum;
END $$;
COMMENT ON FUNCTION embed._add_column(regclass, text, text, text, integer) IS 'The column for the vectors of one output: added, or taken when it has the right type.';

CREATE OR REPLACE FUNCTION embed._targets(
    m embed._model, s embed._model, column_name text, sparse_column text, multi_column text, OUT outputs text[], OUT columns text[]
)
LANGUAGE plpgsql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    others text[];
BEGIN
    IF m.outputs = '{score}' THEN
        PERFORM embed._fail('PE003', format('model %L makes %s, no vectors', m.name, embed._output_names(m.outputs)), 'name a model that makes vectors; this one is for embed.rerank');
    ELSIF 'sparse' <> ALL (s.outputs) THEN
        PERFORM embed._fail('PE003', format('model %L makes no sparse vectors', s.name), format('it makes %s; name another as sparse, or leave that out', embed._output_names(s.outputs)));
    ELSIF s.id = m.id THEN
        PERFORM embed._fail('PE003', format('model %L is named as model and as sparse', m.name), 'leave sparse out: sparse_column names the place of its sparse vectors');
    ELSIF m.outputs[1] = 'sparse' AND s.id IS NOT NULL THEN
        PERFORM embed._fail('PE003', format('models %L and %L both make sparse vectors, and the first makes nothing else', m.name, s.name), 'name a model of dense vectors as model, or leave sparse out');
    END IF;
    -- column_name is the place of the first output, if that has no name of its own
    sparse_column := COALESCE(sparse_column, CASE WHEN s.id IS NOT NULL THEN 'sparse' WHEN m.outputs[1] = 'sparse' THEN column_name END);
    multi_column := COALESCE(multi_column, CASE WHEN m.outputs[1] = 'multi' THEN column_name END);
    SELECT array_agg(t.output ORDER BY t.position), array_agg(t.name ORDER BY t.position) INTO outputs, columns
    FROM (VALUES (1, 'dense', CASE WHEN m.outputs[1] = 'dense' THEN column_name END), (2, 'sparse', sparse_column), (3, 'multi', multi_column)) AS t(position, output, name)
    WHERE t.name IS NOT NULL;
    SELECT array_agg(o.output) INTO others FROM unnest(outputs) AS o(output) WHERE o.output <> ALL (m.outputs) AND (o.output <> 'sparse' OR s.id IS NULL);
    IF others IS NOT NULL THEN
        PERFORM embed._fail('PE003', format('model %L makes no %s', m.name, embed._output_names(others)), format('it makes %s', embed._output_names(m.outputs)));
    ELSIF outputs IS NULL OR (outputs = '{sparse}' AND s.id IS NOT NULL) THEN
        PERFORM embed._fail('PE003', format('no column is named for what model %L makes', m.name), format('it makes %s', embed._output_names(m.outputs)));
    ELSIF (SELECT count(DISTINCT c.name) FROM unnest(columns) AS c(name)) < cardinality(columns) THEN
        PERFORM embed._fail('PE003', 'two outputs cannot have the same column', 'name another as sparse_column or multi_column');
    END IF;
END $$;
COMMENT ON FUNCTION embed._targets(embed._model, embed._model, text, text, text) IS
    'Which outputs of a model go into which columns, in parallel arrays; the sparse ones are those of the second model, if there is one.';

CREATE OR REPLACE FUNCTION embed._partitions(vectorizer integer, source regclass)
RETURNS TABLE (leaf oid, clone oid)
LANGUAGE sql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
    -- not by pg_partition_tree, which locks what it looks at until the transaction ends
    WITH RECURSIVE tree AS (
        SELECT source::oid AS relation
        UNION ALL
        SELECT i.inhrelid FROM tree AS t JOIN pg_inherits AS i ON i.inhparent = t.relation
    )
    SELECT g.tgrelid, g.oid
    FROM tree AS t
    JOIN pg_class AS c ON c.oid = t.relation AND c.relkind <> 'p'
    JOIN pg_trigger AS g ON g.tgrelid = c.oid AND g.tgname = 'pg_embed_' || vectorizer || '_insert' AND g.tgparentid <> 0
$$;
COMMENT ON FUNCTION embed._partitions(integer, regclass) IS
    'The leaf partitions that a table has now, each with its clone of the trigger: a partition that is attached again has another.';

CREATE OR REPLACE FUNCTION embed._worker_columns(v embed._vectorizer)
RETURNS text
LANGUAGE sql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
    SELECT string_agg(embed._column_name(v.source, c.attnum), ', ')
    FROM (SELECT DISTINCT a.attnum FROM unnest(v.key_columns || v.input_columns || v.filter_columns
        || CASE WHEN v.chunk_table IS NULL THEN v.target_columns END) AS a(attnum)) AS c
$$;
COMMENT ON FUNCTION embed._worker_columns(embed._vectorizer) IS 'The columns of a vectorizer''s table that workers read; NULL when all were dropped.';

CREATE OR REPLACE FUNCTION embed._grant_columns(vectorizer integer)
RETURNS void
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    v embed._vectorizer;
BEGIN
    IF to_regrole('embed_worker') IS NULL THEN
        RETURN;
    END IF;
    SELECT * INTO STRICT v FROM embed._vectorizer AS c WHERE c.id = vectorizer;
    IF EXISTS (SELECT FROM pg_class AS c WHERE c.oid = v.source AND c.relkind = 'p') THEN
        EXECUTE format('GRANT SELECT (tableoid) ON %s TO embed_worker', v.source);
    END IF;
    EXECUTE format('GRANT SELECT (%s) ON %s TO embed_worker', embed._worker_columns(v), v.source);
    IF v.chunk_table IS NOT NULL THEN
        PERFORM embed._grant_chunks(v.id);
    ELSE
        EXECUTE format('GRANT UPDATE (%s) ON %s TO embed_worker',
            (SELECT string_agg(embed._column_name(v.source, c.attnum), ', ') FROM unnest(v.target_columns) AS c(attnum)), v.source);
    END IF;
    IF NOT has_schema_privilege('embed_worker', (SELECT c.relnamespace FROM pg_class AS c WHERE c.oid = v.source), 'USAGE') THEN
        BEGIN
            EXECUTE format('GRANT USAGE ON SCHEMA %s TO embed_worker', (SELECT c.relnamespace::regnamespace FROM pg_class AS c WHERE c.oid = v.source));
        EXCEPTION WHEN insufficient_privilege THEN
            RAISE WARNING 'role embed_worker may not use the schema of %', v.source
                USING HINT = 'the schema''s owner must GRANT USAGE on it to embed_worker, or workers must connect as another role';
        END;
        IF NOT has_schema_privilege('embed_worker', (SELECT c.relnamespace FROM pg_class AS c WHERE c.oid = v.source), 'USAGE') THEN
            RAISE WARNING 'role embed_worker may not use the schema of %', v.source
                USING HINT = 'the schema''s owner must GRANT USAGE on it to embed_worker, or workers must connect as another role';
        END IF;
    END IF;
END $$;
COMMENT ON FUNCTION embed._grant_columns(integer) IS 'Let the worker role read the key, input and filter columns and write the vectors, and nothing else.';

CREATE OR REPLACE FUNCTION embed._revoke_columns(vectorizer integer)
RETURNS void
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    v embed._vectorizer;
    home record;
    listed text;
BEGIN
    SELECT * INTO STRICT v FROM embed._vectorizer AS c WHERE c.id = vectorizer;
    listed := embed._worker_columns(v);
    IF to_regrole('embed_worker') IS NULL OR listed IS NULL THEN
        RETURN;
    END IF;
    EXECUTE format('REVOKE SELECT (%1$s), UPDATE (%1$s) ON %2$s FROM embed_worker', listed, v.source);
    IF EXISTS (SELECT FROM pg_class AS c WHERE c.oid = v.source AND c.relkind = 'p') THEN
        EXECUTE format('REVOKE SELECT (tableoid) ON %s FROM embed_worker', v.source);
    END IF;
    SELECT s.nspname, s.nspowner INTO home FROM pg_class AS c JOIN pg_namespace AS s ON s.oid = c.relnamespace WHERE c.oid = v.source;
    -- what the schema's owner gave by hand stays when somebody else drops the last vectorizer there
    IF pg_has_role(current_user, home.nspowner, 'USAGE') AND NOT EXISTS (
        SELECT FROM embed._vectorizer AS o JOIN pg_class AS c ON c.oid = o.source JOIN pg_namespace AS s ON s.oid = c.relnamespace
        WHERE o.id <> v.id AND s.nspname = home.nspname) THEN
        EXECUTE format('REVOKE USAGE ON SCHEMA %I FROM embed_worker', home.nspname);
    END IF;
    PERFORM embed._grant_columns(o.id) FROM embed._vectorizer AS o
    WHERE o.source = v.source AND o.id <> v.id AND embed._is_filled(o, 'r', true) IS NOT NULL;
END $$;
COMMENT ON FUNCTION embed._revoke_columns(integer) IS 'Take from the worker role the columns of a vectorizer that no other vectorizer of the table needs.';

CREATE OR REPLACE FUNCTION embed._free_name(source regclass, column_name text)
RETURNS text
LANGUAGE sql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
    SELECT n.name FROM (
        SELECT format('%s_%s', c.relname, column_name) AS name, 1 AS choice FROM pg_class AS c WHERE c.oid = source
        UNION ALL
        SELECT format('%s_%s_%s', s.nspname, c.relname, column_name), 2 FROM pg_class AS c JOIN pg_namespace AS s ON s.oid = c.relnamespace WHERE c.oid = source
        UNION ALL
        SELECT format('%s_%s_%s', c.relname, column_name, c.oid), 3 FROM pg_class AS c WHERE c.oid = source
    ) AS n
    WHERE NOT EXISTS (SELECT FROM embed._vectorizer AS v WHERE v.name = n.name)
    ORDER BY n.choice LIMIT 1
$$;
COMMENT ON FUNCTION embed._free_name(regclass, text) IS 'A name for a vectorizer that was given none: table_column, or schema_table_column when that is taken.';

CREATE OR REPLACE FUNCTION embed._check_limits(name text, max_attempts integer)
RETURNS void
LANGUAGE plpgsql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
BEGIN
    IF name = '' THEN
        PERFORM embed._fail('PE003', 'a vectorizer needs a name', 'leave it out, and it is named after its table and column');
    ELSIF max_attempts NOT BETWEEN 1 AND 100 THEN
        PERFORM embed._fail('PE003', format('max_attempts is %s', max_attempts), 'set it between 1 and 100');
    END IF;
END $$;
COMMENT ON FUNCTION embed._check_limits(text, integer) IS 'Refuse an empty name and a number of attempts out of bounds.';

CREATE OR REPLACE FUNCTION embed.create_vectorizer(
    source regclass,
    input text[] DEFAULT NULL,
    template text DEFAULT NULL,
    model text DEFAULT NULL,
    filter text DEFAULT NULL,
    column_name text DEFAULT 'embedding',
    column_type text DEFAULT NULL,
    name text DEFAULT NULL,
    max_attempts integer DEFAULT 10,
    backfill boolean DEFAULT true,
    if_not_exists boolean DEFAULT false,
    sparse_column text DEFAULT NULL,
    multi_column text DEFAULT NULL,
    index text DEFAULT 'none',
    sparse text DEFAULT NULL,
    storage text DEFAULT 'column',
    chunking jsonb DEFAULT NULL,
    chunk_table text DEFAULT NULL,
    chunk_view text DEFAULT NULL,
    prepare text DEFAULT NULL
)
RETURNS text
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    key_columns smallint[] := embed._check_source(source);
    read record;
    kept record;
    target record;
    targets record;
    target_columns smallint[] := '{}';
    every_added boolean := true;
    wanted integer;
    chosen embed._model;
    second embed._model;
    chunks record;
    home regclass := source;
    id integer;
BEGIN
    max_attempts := COALESCE(max_attempts, 10);
    chunks := embed._check_storage(storage, chunking, chunk_table, chunk_view);
    index := COALESCE(index, 'none');
    PERFORM embed._check_limits(name, max_attempts), embed._check_index(index, NULL, NULL, NULL, NULL, NULL);
    IF prepare = '' THEN
        PERFORM embed._fail('PE003', 'the hook that prepares rows has no name', 'name one that workers have, or leave prepare out');
    END IF;
    IF '' IN (column_name, sparse_column, multi_column) OR (column_name IS NULL AND sparse_column IS NULL AND multi_column IS NULL) THEN
        PERFORM embed._fail('PE003', 'the column of the vectors needs a name', 'leave column_name out, and it is called embedding');
    ELSIF EXISTS (SELECT FROM unnest(ARRAY[column_name, sparse_column, multi_column]) AS c(name) WHERE c.name::name::text <> c.name) THEN
        PERFORM embed._fail('PE003', format('the name of the column of the vectors is longer than %s bytes', current_setting('max_identifier_length')),
            'choose a shorter one: Postgres would cut it');
    END IF;
    -- What lost its table or its columns of vectors can never go on. It would keep its name from the one that takes its place.
    PERFORM embed._forget_dropped();
    PERFORM embed.drop_vectorizer(v.name) FROM embed._vectorizer AS v
    WHERE v.source = create_vectorizer.source AND embed._is_filled(v, 'r', true) IS NULL;
    IF if_not_exists AND EXISTS (SELECT FROM embed.vectorizers AS v WHERE v.source = create_vectorizer.source AND v.storage = create_vectorizer.storage
        AND COALESCE(create_vectorizer.column_name, sparse_column, multi_column) = ANY (v.columns)) THEN
        RETURN (SELECT v.name FROM embed.vectorizers AS v WHERE v.source = create_vectorizer.source AND v.storage = create_vectorizer.storage
            AND COALESCE(create_vectorizer.column_name, sparse_column, multi_column) = ANY (v.columns) ORDER BY v.name LIMIT 1);
    END IF;
    -- not inside the query: its planner would call the function to guess, and meet its error
    wanted := CASE WHEN model IS NULL THEN embed._default_model_id() ELSE embed._model_id(model) END;
    SELECT * INTO chosen FROM embed._model AS m WHERE m.id = wanted;
    IF sparse IS NOT NULL THEN
        wanted := embed._model_id(sparse);
        SELECT * INTO second FROM embed._model AS m WHERE m.id = wanted;
    END IF;
    targets := embed._targets(chosen, second, column_name, sparse_column, multi_column);
    name := COALESCE(name, embed._free_name(source, targets.columns[1]));
    read := embed._template(source, input, template);
    PERFORM embed._check_prepare(source, prepare, template, read.columns);
    kept := embed._filter(source, filter);
    -- No writer may be half-way: each later change meets the triggers, each earlier one is seen by the backfill. A new
    -- column needs the table alone; a weaker lock first would invite a deadlock.
    EXECUTE format('LOCK TABLE %s IN %s MODE', embed._source_name(source),
        CASE WHEN chunks.is_table OR targets.columns <@ ARRAY(SELECT a.attname::text FROM pg_attribute AS a WHERE a.attrelid = source AND NOT a.attisdropped)
            THEN 'SHARE ROW EXCLUSIVE' ELSE 'ACCESS EXCLUSIVE' END);
    IF chunks.is_table THEN
        chunks.settings := embed._chunking(chunking, (chosen.card ->> 'max_tokens')::integer);
        chunk_view := embed._chunk_name(source, chunk_view, '_chunks');
        home := embed._make_chunk_table(source, key_columns, embed._chunk_name(source, chunk_table, '_embedding'));
    END IF;
    FOR i IN 1..cardinality(targets.columns) LOOP
        target := embed._add_column(home, targets.columns[i], targets.outputs[i], column_type,
            embed._size(CASE WHEN second.id IS NOT NULL AND targets.outputs[i] = 'sparse' THEN second ELSE chosen END, targets.outputs[i]));
        target_columns := target_columns || target.attnum;
        every_added := every_added AND target.added;
        CONTINUE WHEN chunks.is_table;
        IF target.attnum = ANY (read.columns) THEN
            PERFORM embed._fail('PE003', format('column %I cannot be the input and the place of the vectors', targets.columns[i]));
        ELSIF target.attnum = ANY (kept.columns) THEN
            -- each vector would queue its row again
            PERFORM embed._fail('PE003', format('the filter reads %I, the column of the vectors', targets.columns[i]), 'name other columns in the filter');
        ELSIF EXISTS (SELECT FROM embed._vectorizer AS v WHERE v.source = create_vectorizer.source AND v.chunk_table IS NULL AND target.attnum = ANY (v.target_columns)) THEN
            PERFORM embed._fail('PE003', format('column %I of %s belongs to a vectorizer already', targets.columns[i], source),
                'name another column, as in column_name => ''embedding_2'', or use embed.alter_vectorizer');
        END IF;
    END LOOP;
    IF EXISTS (SELECT FROM embed._vectorizer AS v WHERE v.name = create_vectorizer.name) THEN
        PERFORM embed._fail('PE003', format('there is a vectorizer %L already', name), 'choose another name');
    END IF;
    INSERT INTO embed._vectorizer AS v (name, source, model_id, sparse_model_id, key_columns, input_columns, template, filter, filter_columns,
        outputs, target_columns, max_attempts, chunk_table, chunking, swept, prepare)
    VALUES (name, source, chosen.id, second.id, key_columns, read.columns, read.pieces, kept.pieces, kept.columns,
        targets.outputs, target_columns, max_attempts, CASE WHEN chunks.is_table THEN home END, chunks.settings, embed._files(source), prepare)
    RETURNING v.id INTO id;
    IF chunks.is_table THEN
        PERFORM embed._open_chunk_table(id, chunk_view);
    END IF;
    PERFORM embed._build_triggers(id);
    PERFORM embed._grant_columns(id);
    IF 'bm25' IN (chosen.family, second.family) THEN
        PERFORM embed._make_postings(id);
    END IF;
    IF backfill THEN
        INSERT INTO embed._backfill (vectorizer_id, mode) VALUES (id, CASE WHEN every_added THEN 'missing' ELSE 'all' END);
    END IF;
    IF index <> 'none' THEN
        PERFORM embed.create_index(name, index);
    END IF;
    PERFORM pg_notify('pg_embed_work', 'catalog');
    RETURN name;
END $$;
COMMENT ON FUNCTION embed.create_vectorizer(regclass, text[], text, text, text, text, text, text, integer, boolean, boolean, text, text, text, text, text, jsonb, text, text, text) IS
    'Keep columns of vectors of a table''s text, made and written in one go: dense ones in column_name, and where they are named, sparse ones (sparsevec) in sparse_column and a vector for each token (halfvec[]) in multi_column. All are of one model, unless sparse names another for the sparse ones, as in sparse => ''bm25''; their column is then called sparse if it is given no name. The dense column is halfvec up to 4,000 dimensions (2 bytes a dimension; vectors of unit length lose about 0.0005 of a cosine distance), vector beyond or when column_type asks for it (4 bytes a dimension, full float32, indexed to 2,000 dimensions only). Rows that exist are embedded behind those that change, and then the index is built that is asked for: index => ''auto'' chooses one, see embed.create_index. With storage => ''table'' long texts are split into chunks, as chunking says, and the columns are those of a table of chunks beside this one (docs_embedding, with a view docs_chunks over both). With prepare => ''name'' a hook of that name, which workers have, makes the text of the input columns; these may be of any type then, bytea too.';

CREATE OR REPLACE FUNCTION embed.create_vectorizer(
    source regclass,
    input text,
    template text DEFAULT NULL,
    model text DEFAULT NULL,
    filter text DEFAULT NULL,
    column_name text DEFAULT 'embedding',
    column_type text DEFAULT NULL,
    name text DEFAULT NULL,
    max_attempts integer DEFAULT 10,
    backfill boolean DEFAULT true,
    if_not_exists boolean DEFAULT false,
    sparse_column text DEFAULT NULL,
    multi_column text DEFAULT NULL,
    index text DEFAULT 'none',
    sparse text DEFAULT NULL,
    storage text DEFAULT 'column',
    chunking jsonb DEFAULT NULL,
    chunk_table text DEFAULT NULL,
    chunk_view text DEFAULT NULL,
    prepare text DEFAULT NULL
)
RETURNS text
LANGUAGE sql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
    SELECT embed.create_vectorizer(source, CASE WHEN input IS NOT NULL THEN ARRAY[input] END, template, model, filter, column_name,
        column_type, name, max_attempts, backfill, if_not_exists, sparse_column, multi_column, index, sparse, storage, chunking, chunk_table, chunk_view, prepare)
$$;
COMMENT ON FUNCTION embed.create_vectorizer(regclass, text, text, text, text, text, text, text, integer, boolean, boolean, text, text, text, text, text, jsonb, text, text, text) IS
    'The same for one input column.';

CREATE OR REPLACE FUNCTION embed._check_prepare(source oid, prepare text, template text, columns smallint[])
RETURNS void
LANGUAGE plpgsql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
BEGIN
    IF prepare IS NULL THEN
        PERFORM embed._check_input(source, columns);
    ELSIF template IS NOT NULL THEN
        PERFORM embed._fail('PE003', 'both a template and a hook are given', 'name the columns as input: the hook makes the text of them');
    ELSIF cardinality(columns) > 50 THEN
        PERFORM embed._fail('PE003', format('a hook takes 50 columns at most, and %s are named', cardinality(columns)), 'name only those that it reads');
    END IF;
END $$;
COMMENT ON FUNCTION embed._check_prepare(oid, text, text, smallint[]) IS 'An error for columns that make no text, by themselves or by a hook.';

CREATE OR REPLACE FUNCTION embed._own_text(vectorizer text)
RETURNS embed._vectorizer
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    wanted integer := embed._vectorizer_id(vectorizer);
    v embed._vectorizer;
    owner oid;
BEGIN
    SELECT c.relowner INTO owner FROM embed._vectorizer AS w JOIN pg_class AS c ON c.oid = w.source WHERE w.id = wanted;
    IF NOT COALESCE(pg_has_role(current_user, owner, 'USAGE'), false) THEN
        RETURN embed._own_vectorizer(vectorizer, lock_table => true);
    END IF;
    EXECUTE (SELECT format('LOCK TABLE %s IN SHARE UPDATE EXCLUSIVE MODE', embed._source_name(w.source)) FROM embed._vectorizer AS w WHERE w.id = wanted);
    SELECT * INTO v FROM embed._vectorizer AS w WHERE w.id = wanted;
    IF v.id IS NULL THEN
        RETURN embed._own_vectorizer(vectorizer, lock_table => true);
    ELSIF v.numbered[:2] <> ARRAY[v.source, 'embed._vectorizer'::regclass]::oid[] THEN
        UPDATE embed._vectorizer AS w SET state = w.state WHERE w.id = wanted RETURNING w.* INTO v;
    END IF;
    RETURN v;
END $$;
COMMENT ON FUNCTION embed._own_text(text) IS
    'A vectorizer whose text is about to change: nobody else can change it or its table until the transaction ends, and everybody can read and write.';

CREATE OR REPLACE FUNCTION embed._queue_changed(old embed._vectorizer, new embed._vectorizer, since bigint DEFAULT NULL)
RETURNS bigint
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
SET standard_conforming_strings = on
SET DateStyle = 'ISO, YMD'
SET TimeZone = 'UTC'
SET IntervalStyle = 'postgres'
SET extra_float_digits = 1
AS $$
DECLARE
    before text := embed._input(old.source, old.input_columns, old.template, old.filter, 'r', old.prepare);
    after text := embed._input(new.source, new.input_columns, new.template, new.filter, 'r', new.prepare);
    moment bigint := pg_snapshot_xmin(pg_current_snapshot())::text::bigint;
BEGIN
    IF old.state = 'stopped' OR embed._problem(old) IS NOT NULL OR row_security_active(new.source) OR current_setting('transaction_isolation') <> 'read committed' THEN
        RETURN NULL;
    ELSIF before <> after THEN
        -- Rows without vectors are found by the backfill. A row has the last 32 bits of its transaction's number, and they are
        -- compared first: texts are read of few rows then.
        EXECUTE format('INSERT INTO embed._queue (vectorizer_id, priority, keys, n)
            SELECT $1, 2, array_agg(r.key), count(*)
            FROM (SELECT %s AS key, (row_number() OVER () - 1) / 240 AS pack FROM %s AS r
                WHERE CASE WHEN %s THEN %s AND (%s) COLLATE "C" IS DISTINCT FROM (%s) COLLATE "C" END) AS r
            GROUP BY r.pack',
            embed._key_text(new.source, new.key_columns, 'r'), embed._source_name(new.source),
            CASE WHEN since IS NULL THEN 'true' ELSE format('((r.xmin::text::bigint - %s) & 4294967295) < 2147483648', since) END, embed._is_filled(new, 'r', true), before, after) USING new.id;
    END IF;
    RETURN moment;
EXCEPTION WHEN data_exception THEN
    RETURN NULL;  -- the filter fails on a row, which the worker will find
END $$;
COMMENT ON FUNCTION embed._queue_changed(embed._vectorizer, embed._vectorizer, bigint) IS
    'Queue, behind live rows, the rows with vectors whose text is another to come, of those that were written since a transaction. Returns the transaction from which on rows may have been written that were not looked at; NULL when every row must be embedded again: old vectors may be of any text, or what a row gives cannot be told.';

CREATE OR REPLACE FUNCTION embed._text_to_be(v embed._vectorizer, input text[], template text, filter text, prepare text)
RETURNS embed._vectorizer
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    read record;
    kept record;
BEGIN
    -- the empty name takes the hook away
    v.prepare := NULLIF(COALESCE(prepare, v.prepare), '');
    IF input IS NOT NULL OR template IS NOT NULL THEN
        read := embed._template(v.source, input, template);
        v.template := read.pieces;
        v.input_columns := read.columns;
    END IF;
    PERFORM embed._check_prepare(v.source, v.prepare, template, v.input_columns);
    IF filter IS NOT NULL THEN
        -- the empty condition takes the filter away
        kept := embed._filter(v.source, NULLIF(filter, ''));
        v.filter := kept.pieces;
        v.filter_columns := kept.columns;
        IF v.chunk_table IS NULL AND v.target_columns && v.filter_columns THEN
            PERFORM embed._fail('PE003', format('the filter reads %s, the column of the vectors', (SELECT embed._column_name(v.source, c.attnum)
                FROM unnest(v.target_columns) AS c(attnum) WHERE c.attnum = ANY (v.filter_columns) LIMIT 1)), 'name other columns in the filter');
        END IF;
    END IF;
    IF EXISTS (SELECT FROM unnest(v.input_columns || v.filter_columns) AS c(attnum) WHERE embed._column_name(v.source, c.attnum) IS NULL) THEN
        PERFORM embed._fail('PE003', format('vectorizer %L reads a column that was dropped', v.name), 'name other columns as input, and in the filter, in one call');
    ELSIF filter IS NULL AND v.filter IS NOT NULL THEN
        -- its names may mean something else by now
        PERFORM embed._filter(v.source, (SELECT string_agg(CASE jsonb_typeof(p.piece) WHEN 'number' THEN embed._column_name(v.source, (p.piece #>> '{}')::smallint)
            ELSE p.piece #>> '{}' END, '' ORDER BY p.position) FROM jsonb_array_elements(v.filter) WITH ORDINALITY AS p(piece, position)));
    END IF;
    RETURN v;
END $$;
COMMENT ON FUNCTION embed._text_to_be(embed._vectorizer, text[], text, text, text) IS 'A vectorizer as it will be, with another text, filter or hook; an error for what cannot be.';

CREATE OR REPLACE FUNCTION embed._chunking_to_be(v embed._vectorizer, storage text, chunking jsonb)
RETURNS jsonb
LANGUAGE plpgsql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    present text := CASE WHEN v.chunk_table IS NULL THEN 'column' ELSE 'table' END;
BEGIN
    PERFORM embed._check_storage(COALESCE(storage, present), chunking, NULL, NULL);
    RETURN CASE WHEN chunking IS NOT NULL
        THEN embed._chunking(chunking, (SELECT (m.card ->> 'max_tokens')::integer FROM embed._model AS m WHERE m.id = v.model_id)) ELSE v.chunking END;
END $$;
COMMENT ON FUNCTION embed._chunking_to_be(embed._vectorizer, text, jsonb) IS 'How a vectorizer will split its texts; an error for what cannot be.';

CREATE OR REPLACE FUNCTION embed._change_text(old embed._vectorizer, new embed._vectorizer, mode text)
RETURNS void
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    v embed._vectorizer;
BEGIN
    PERFORM embed._renew_attached(old.id, embed._attached(old)), embed._doubt(old), embed._revoke_columns(old.id);
    UPDATE embed._vectorizer AS c
    SET template = new.template,
        input_columns = new.input_columns,
        filter = new.filter,
        filter_columns = new.filter_columns,
        chunking = new.chunking,
        prepare = new.prepare,
        state = CASE c.state WHEN 'stopped' THEN 'active' ELSE c.state END,
        reason = CASE c.state WHEN 'paused' THEN c.reason END
    WHERE c.id = new.id;
    PERFORM embed._build_triggers(new.id);
    SELECT * INTO STRICT v FROM embed._vectorizer AS c WHERE c.id = new.id;
    IF embed._problem(v) IS NOT NULL THEN
        PERFORM embed._fail('PE003', format('vectorizer %L cannot go on: %s', v.name, embed._problem(v)));
    END IF;
    PERFORM embed._grant_columns(v.id), embed._start_backfill(v.id, mode);
END $$;
COMMENT ON FUNCTION embed._change_text(embed._vectorizer, embed._vectorizer, text) IS
    'Let a vectorizer read another text, or split it in another way, and begin the backfill.';

CREATE OR REPLACE FUNCTION embed.alter_vectorizer(
    vectorizer text,
    input text[] DEFAULT NULL,
    template text DEFAULT NULL,
    filter text DEFAULT NULL,
    max_attempts integer DEFAULT NULL,
    rename_to text DEFAULT NULL,
    chunking jsonb DEFAULT NULL,
    storage text DEFAULT NULL,
    model text DEFAULT NULL,
    chunk_table text DEFAULT NULL,
    chunk_view text DEFAULT NULL,
    keep_column boolean DEFAULT false,
    prepare text DEFAULT NULL,
    keep_chunks boolean DEFAULT false
)
RETURNS text
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    again boolean := num_nonnulls(input, template, filter, chunking, prepare) > 0;
    moves boolean;
    stays boolean;  -- it was to move, and is not to any more
    -- columns are added then: the table is locked before the catalog, and at once as it will be
    back boolean := COALESCE(storage = 'column', false) AND EXISTS (SELECT FROM embed._vectorizer AS c
        WHERE c.id = embed._vectorizer_id(alter_vectorizer.vectorizer) AND c.chunk_table IS NOT NULL);
    v embed._vectorizer;
    old embed._vectorizer[];
    new embed._vectorizer[] := '{}';
    moments bigint[] := '{}';
BEGIN
    v := CASE WHEN back THEN embed._here(embed._own_alone(vectorizer, '10 seconds'))
        WHEN again OR storage = 'table' THEN embed._own_text(vectorizer) ELSE embed._own_vectorizer(vectorizer) END;
    moves := COALESCE(storage = 'table', false) AND v.chunk_table IS NULL;
    back := back AND v.chunk_table IS NOT NULL;
    stays := COALESCE(storage = 'table', false) AND (embed._next_column(v)).id IS NOT NULL;
    PERFORM embed._check_limits(rename_to, max_attempts);
    IF moves THEN
        PERFORM embed._check_storage(storage, chunking, chunk_table, chunk_view);
    ELSE
        PERFORM embed._chunking_to_be(v, storage, chunking);
    END IF;
    IF EXISTS (SELECT FROM embed._vectorizer AS c WHERE c.name = rename_to AND c.id <> v.id) THEN
        PERFORM embed._fail('PE003', format('there is a vectorizer %L already', rename_to), 'choose another name');
    ELSIF (SELECT m.name FROM embed._model AS m WHERE m.id = v.model_id) <> model THEN
        PERFORM embed._fail('PE003', 'another model''s vectors are of another space, and cannot come one by one', format('call embed.switch_model(%L, %L)', v.name, model));
    ELSIF (moves OR back) AND num_nonnulls(input, template, filter, prepare) > 0 THEN
        PERFORM embed._fail('PE003', 'the storage and the text cannot change in one call', 'change one, and then the other');
    ELSIF NOT moves AND NOT stays AND (num_nonnulls(chunk_table, chunk_view) > 0 OR keep_column) THEN
        PERFORM embed._fail('PE003', 'chunk_table, chunk_view and keep_column belong to a change of the storage from a column to a table', 'leave them out; ALTER TABLE and ALTER VIEW give other names');
    ELSIF keep_chunks AND NOT back THEN
        PERFORM embed._fail('PE003', 'keep_chunks belongs to a change of the storage from a table to a column', 'leave it out');
    END IF;
    IF stays THEN
        PERFORM embed.abort_switch(v.name);
    END IF;
    IF moves THEN
        PERFORM embed._move_to_chunks(v, chunking, chunk_table, chunk_view, COALESCE(keep_column, false));
    ELSIF back THEN
        PERFORM embed._move_to_column(v, COALESCE(keep_chunks, false));
    ELSIF again THEN
        PERFORM embed._check_source(v.source);
        -- a shadow is of the same text
        old := ARRAY(SELECT embed._here(w) FROM embed._vectorizer AS w WHERE w.id = v.id OR w.shadow_of = v.id ORDER BY w.shadow_of NULLS FIRST);
        FOR i IN 1..cardinality(old) LOOP
            new := new || embed._text_to_be(old[i], input, alter_vectorizer.template, alter_vectorizer.filter, alter_vectorizer.prepare);
            IF new[i].chunk_table IS NOT NULL THEN
                new[i].chunking := embed._chunking_to_be(new[i], NULL, alter_vectorizer.chunking);
            END IF;
            moments := moments || CASE WHEN new[i].chunking IS NOT DISTINCT FROM old[i].chunking THEN embed._queue_changed(old[i], new[i]) END;
        END LOOP;
        PERFORM embed._own_vectorizer(v.name, lock_table => true);
        -- Nobody writes now: once more, those rows that were written meanwhile. A later version of one would not tell of it.
        FOR i IN 1..cardinality(old) LOOP
            PERFORM embed._change_text(old[i], new[i], CASE WHEN moments[i] IS NOT NULL AND embed._queue_changed(old[i], new[i], moments[i]) IS NOT NULL THEN 'missing' ELSE 'all' END);
        END LOOP;
    END IF;
    UPDATE embed._vectorizer AS c
    SET name = CASE c.id WHEN v.id THEN COALESCE(rename_to, c.name) ELSE c.name END,
        max_attempts = COALESCE(alter_vectorizer.max_attempts, c.max_attempts)
    WHERE c.id = v.id OR c.shadow_of = v.id;
    PERFORM pg_notify('pg_embed_work', 'catalog');
    RETURN COALESCE(rename_to, v.name);
END $$;
COMMENT ON FUNCTION embed.alter_vectorizer(text, text[], text, text, integer, text, jsonb, text, text, text, text, boolean, text, boolean) IS
    'Change what a vectorizer reads, its filter and its hook ('''' takes them away), how it splits texts into chunks (settings that are left out have their defaults, as in embed.create_vectorizer), its name or its attempts. Rows are embedded again behind live rows, only those whose text becomes another, and only new chunks; old vectors and chunks stay until then. To find these rows the table is read once while everybody reads and writes, and then locked for as long as it takes to look which rows were written meanwhile. storage => ''table'' moves the vectors of a column to a table of chunks, at first one for each row with the vectors that it has, so that searches find every row at any moment; the column goes, unless keep_column is true. storage => ''column'' is a switch, which embed.switches shows: the columns are added to the table and filled behind live rows, while searches go on over the chunks; a row whose one chunk is its whole text keeps that vector. When all rows have theirs, and the index is built if there was one, the next worker that may, or embed.finish_switch, lets searches use them, and drops the chunks and their view; with keep_chunks they are kept up to date, for those who query them and for embed.rollback_switch, until embed.forget_switch. embed.abort_switch, or storage => ''table'', gives it up before. Another model needs embed.switch_model.';

CREATE OR REPLACE FUNCTION embed.alter_vectorizer(
    vectorizer text,
    input text,
    template text DEFAULT NULL,
    filter text DEFAULT NULL,
    max_attempts integer DEFAULT NULL,
    rename_to text DEFAULT NULL,
    chunking jsonb DEFAULT NULL,
    storage text DEFAULT NULL,
    model text DEFAULT NULL,
    chunk_table text DEFAULT NULL,
    chunk_view text DEFAULT NULL,
    keep_column boolean DEFAULT false,
    prepare text DEFAULT NULL,
    keep_chunks boolean DEFAULT false
)
RETURNS text
LANGUAGE sql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
    SELECT embed.alter_vectorizer(vectorizer, CASE WHEN input IS NOT NULL THEN ARRAY[input] END, template, filter, max_attempts, rename_to, chunking, storage, model,
        chunk_table, chunk_view, keep_column, prepare, keep_chunks)
$$;
COMMENT ON FUNCTION embed.alter_vectorizer(text, text, text, text, integer, text, jsonb, text, text, text, text, boolean, text, boolean) IS 'The same for one input column.';

CREATE OR REPLACE FUNCTION embed._start_backfill(vectorizer integer, mode text)
RETURNS void
LANGUAGE sql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
    -- rows may have gone by without a trigger, too
    UPDATE embed._vectorizer AS v SET swept = '{}' WHERE v.id = vectorizer AND v.chunk_table IS NOT NULL;
    INSERT INTO embed._backfill AS b (vectorizer_id, mode) VALUES (vectorizer, mode)
    ON CONFLICT (vectorizer_id) DO UPDATE SET position = NULL, rows_total = NULL, rows_left = NULL, started_at = now(),
        mode = CASE WHEN b.mode = 'all' OR excluded.mode = 'all' THEN 'all' ELSE 'missing' END
$$;
COMMENT ON FUNCTION embed._start_backfill(integer, text) IS 'Begin a backfill, or begin it again.';

CREATE OR REPLACE FUNCTION embed._doubt(v embed._vectorizer)
RETURNS void
LANGUAGE sql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
    -- one that went, as with DROP EXPRESSION, changes no text
    SELECT embed._start_backfill(v.id, 'all') WHERE NOT embed._guards(v) <@ v.guards
$$;
COMMENT ON FUNCTION embed._doubt(embed._vectorizer) IS 'Look at every row again where triggers were off for a while, or the expression of a generated column was changed.';

CREATE OR REPLACE FUNCTION embed.backfill(vectorizer text, mode text DEFAULT 'missing')
RETURNS void
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
BEGIN
    mode := COALESCE(mode, 'missing');
    IF mode NOT IN ('missing', 'all') THEN
        PERFORM embed._fail('PE003', format('there is no backfill mode %L', mode), 'use ''missing'' (rows without a vector) or ''all'' (every row again)');
    END IF;
    PERFORM embed._start_backfill((embed._own_vectorizer(vectorizer)).id, mode);
    PERFORM pg_notify('pg_embed_work', 'catalog');
END $$;
COMMENT ON FUNCTION embed.backfill(text, text) IS 'Look at the rows of a table again: those without a vector, or all of them.';

CREATE OR REPLACE FUNCTION embed.drop_vectorizer(vectorizer text, drop_column boolean DEFAULT false, if_exists boolean DEFAULT false)
RETURNS void
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    v embed._vectorizer;
BEGIN
    IF if_exists AND embed._find_vectorizers(vectorizer) IS NULL THEN
        RETURN;
    END IF;
    v := embed._own_vectorizer(vectorizer, lock_table => true);
    -- what a switch has added goes with it
    PERFORM embed.drop_vectorizer(s.name, drop_column OR w.stage = 'next')
    FROM embed._vectorizer AS s JOIN embed._switch AS w ON w.vectorizer_id = s.id WHERE s.shadow_of = v.id;
    IF EXISTS (SELECT FROM pg_class AS c WHERE c.oid = v.source) THEN
        PERFORM embed._drop_triggers(v.id), embed._drop_posting_triggers(v.id), embed._revoke_columns(v.id);
        IF v.chunk_table IS NOT NULL THEN
            PERFORM embed._drop_chunks(v, drop_column);
        ELSIF drop_column AND embed._has_vectors(v.source, v.target_columns, 'r', true) IS NOT NULL THEN
            EXECUTE format('ALTER TABLE %s %s', v.source, (SELECT string_agg('DROP COLUMN ' || embed._column_name(v.source, c.attnum), ', ')
                FROM unnest(v.target_columns) AS c(attnum) WHERE embed._column_name(v.source, c.attnum) IS NOT NULL));
        END IF;
    END IF;
    PERFORM embed._bequeath_v1(v.id);
    DELETE FROM embed._vectorizer AS c WHERE c.id = v.id;
    PERFORM embed._forget_v1(v.id);
    PERFORM pg_notify('pg_embed_work', 'catalog');
END $$;
COMMENT ON FUNCTION embed.drop_vectorizer(text, boolean, boolean) IS
    'Stop embedding a table: triggers, queue and catalog entry go, the columns of vectors, or the table of chunks and its view, stay unless drop_column is true.';

CREATE OR REPLACE FUNCTION embed._forget_v1(vectorizer integer)
RETURNS void
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, embed, pg_temp
AS $$
BEGIN
    IF EXISTS (SELECT FROM embed._vectorizer AS v WHERE v.id = vectorizer) THEN
        RETURN;
    END IF;
    DELETE FROM embed._queue AS q WHERE q.vectorizer_id = vectorizer;
    DELETE FROM embed._throughput AS t WHERE t.vectorizer_id = vectorizer;
    PERFORM embed._drop_trigger_function(vectorizer), embed._clear_postings(vectorizer);
END $$;
COMMENT ON FUNCTION embed._forget_v1(integer) IS 'Remove what a dropped vectorizer left in the queue.';

CREATE OR REPLACE FUNCTION embed._forget_dropped()
RETURNS void
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    dropped integer;
BEGIN
    FOR dropped IN
        SELECT v.id FROM embed._vectorizer AS v WHERE NOT EXISTS (SELECT FROM pg_class AS c WHERE c.oid = v.source)
        ORDER BY v.shadow_of, v.id FOR UPDATE SKIP LOCKED  -- shadows first: they go with what they belong to
    LOOP
        DELETE FROM embed._vectorizer AS v WHERE v.id = dropped;
        PERFORM embed._forget_v1(dropped);
    END LOOP;
END $$;
COMMENT ON FUNCTION embed._forget_dropped() IS 'Remove the vectorizers whose tables were dropped.';

CREATE OR REPLACE VIEW embed.vectorizers AS
SELECT
    v.name,
    v.source,
    m.name AS model,
    s.name AS sparse_model,
    (SELECT array_agg(a.attname::text ORDER BY k.position)
        FROM unnest(v.key_columns) WITH ORDINALITY AS k(attnum, position)
        JOIN pg_attribute AS a ON a.attrelid = v.source AND a.attnum = k.attnum) AS key,
    (SELECT string_agg(CASE jsonb_typeof(p.piece)
            WHEN 'number' THEN '{' || COALESCE((SELECT a.attname FROM pg_attribute AS a
                WHERE a.attrelid = v.source AND a.attnum = (p.piece #>> '{}')::smallint AND NOT a.attisdropped), 'dropped column') || '}'
            ELSE replace(replace(p.piece #>> '{}', '{', '{{'), '}', '}}') END, '' ORDER BY p.position)
        FROM jsonb_array_elements(v.template) WITH ORDINALITY AS p(piece, position)) AS template,
    (SELECT string_agg(CASE jsonb_typeof(p.piece)
            WHEN 'number' THEN COALESCE((SELECT quote_ident(a.attname) FROM pg_attribute AS a
                WHERE a.attrelid = v.source AND a.attnum = (p.piece #>> '{}')::smallint AND NOT a.attisdropped), 'dropped column')
            ELSE p.piece #>> '{}' END, '' ORDER BY p.position)
        FROM jsonb_array_elements(v.filter) WITH ORDINALITY AS p(piece, position)) AS filter,
    (SELECT a.attname::text FROM pg_attribute AS a
        WHERE a.attrelid = COALESCE(v.chunk_table, v.source) AND a.attnum = v.target_columns[1] AND NOT a.attisdropped) AS column_name,
    (SELECT format_type(a.atttypid, a.atttypmod) FROM pg_attribute AS a
        WHERE a.attrelid = COALESCE(v.chunk_table, v.source) AND a.attnum = v.target_columns[1] AND NOT a.attisdropped) AS column_type,
    v.outputs,
    (SELECT array_agg(a.attname::text ORDER BY c.position) FROM unnest(v.target_columns) WITH ORDINALITY AS c(attnum, position)
        LEFT JOIN pg_attribute AS a ON a.attrelid = COALESCE(v.chunk_table, v.source) AND a.attnum = c.attnum AND NOT a.attisdropped) AS columns,
    v.state,
    COALESCE(v.reason, embed._holdup(v.id)) AS reason,
    v.max_attempts,
    v.created_at,
    CASE WHEN v.chunk_table IS NULL THEN 'column' ELSE 'table' END AS storage,
    v.chunking,
    v.chunk_table,
    v.chunk_view,
    v.replication,
    v.prepare
FROM embed._vectorizer AS w CROSS JOIN LATERAL embed._here(w) AS v JOIN embed._model AS m ON m.id = v.model_id LEFT JOIN embed._model AS s ON s.id = v.sparse_model_id
WHERE w.shadow_of IS NULL;
COMMENT ON VIEW embed.vectorizers IS 'The vectorizers of this database, with the names that tables and columns have now: column_name is that of the first output, columns has those of all; sparse_model is the model of the sparse vectors where that is another one; prepare is the hook of the workers that makes the text.';

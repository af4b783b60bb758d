-- embed() and its kin: STABLE outside, so that an index is used and each text is embedded once; VOLATILE inside. Their bodies are
-- no strings: the types of pgvector are found now, and not on the search_path of whoever calls.

CREATE OR REPLACE FUNCTION embed._number_setting(name text, unit text)
RETURNS double precision
LANGUAGE plpgsql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    told text := NULLIF(current_setting(name, true), '');
BEGIN
    IF told !~ '^\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,2})?\s*$' THEN
        PERFORM embed._fail('PE003', format('%s is %L', name, told), format('set it to a number of %s, without a unit', unit));
    END IF;
    RETURN told;
END $$;
COMMENT ON FUNCTION embed._number_setting(text, text) IS 'A setting of ours that is a number; NULL where it is not set.';

CREATE OR REPLACE FUNCTION embed._ask(request jsonb)
RETURNS jsonb
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    id text := gen_random_uuid();
    wait double precision := COALESCE(embed._number_setting('embed.timeout', 'seconds'),
        (SELECT t.settings ->> 'timeout' FROM embed._transport AS t)::double precision, 30);
    answer jsonb;
BEGIN
    IF wait <= 0 OR wait > 3600 THEN
        PERFORM embed._fail('PE003', format('embed.timeout is %s seconds', wait), 'set it between 0 and 3600');
    END IF;
    answer := embed._call((request || jsonb_build_object('v', 1, 'id', id, 'timeout', wait))::text, wait)::jsonb;
    IF answer ? 'error' THEN
        PERFORM embed._fail(COALESCE(answer #>> '{error,code}', 'PE020'), COALESCE(answer #>> '{error,message}', 'the sidecar failed'), answer #>> '{error,hint}');
    ELSIF answer ->> 'id' IS DISTINCT FROM id THEN
        PERFORM embed._fail('PE020', 'the sidecar''s answer belongs to another request', 'try again; if it happens again, report it');
    END IF;
    RETURN answer;
END $$;
COMMENT ON FUNCTION embed._ask(jsonb) IS 'Ask the sidecar; its errors become errors of SQL, with their SQLSTATE and hint.';

CREATE OR REPLACE FUNCTION embed._query_model(output text, vectorizer text)
RETURNS embed._model
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    named integer[];
    used integer[];
    single integer;
    chosen embed._model;
BEGIN
    -- VOLATILE: the table is locked by now, and its columns have the names of now, which the statement's snapshot need not
    -- agree with when it is a function's. First what most ask, for some plans ask it for each row.
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        PERFORM embed._check_snapshot();
    END IF;
    IF vectorizer IS NULL THEN
        SELECT m.* INTO chosen FROM embed._model AS m
        WHERE m.id = (SELECT min(u.id) FROM embed._vectorizer AS v CROSS JOIN LATERAL (SELECT embed._model_of(v, output) AS id) AS u
            WHERE output = ANY (v.outputs) AND v.shadow_of IS NULL HAVING min(u.id) = max(u.id));
    ELSE
        SELECT m.* INTO chosen FROM embed._vectorizer AS v JOIN embed._model AS m ON m.id = embed._model_of(v, output)
        WHERE v.name = vectorizer AND output = ANY (v.outputs);
    END IF;
    IF FOUND THEN
        RETURN chosen;
    END IF;
    named := CASE WHEN vectorizer IS NOT NULL THEN embed._find_vectorizers(vectorizer) END;
    IF vectorizer IS NOT NULL AND named IS NULL THEN
        PERFORM embed._vectorizer_id(vectorizer);
    END IF;
    used := ARRAY(SELECT DISTINCT embed._model_of(v, output) FROM embed._vectorizer AS v
        WHERE output = ANY (v.outputs) AND CASE WHEN vectorizer IS NULL THEN v.shadow_of IS NULL ELSE v.id = ANY (named) END);
    IF cardinality(used) > 1 THEN
        PERFORM embed._fail('PE002', CASE WHEN vectorizer IS NULL THEN 'this database''s vectorizers use several models' ELSE format('the vectorizers of %s use several models', vectorizer) END,
            format('name one of: %s in embed(text, model), or set embed.default_model, or name a vectorizer in embed(text, vectorizer => ...)',
                (SELECT string_agg(quote_literal(m.name), ', ' ORDER BY m.name) FROM embed._model AS m WHERE m.id = ANY (used))));
    ELSIF vectorizer IS NOT NULL AND used = '{}' THEN
        PERFORM embed._fail('PE003', format('vectorizer %L keeps no %s', vectorizer, embed._output_names(ARRAY[output])), 'name another, or a model');
    END IF;
    single := used[1];
    IF single IS NULL AND output <> 'dense' THEN
        SELECT min(m.id) INTO single FROM embed._model AS m WHERE output = ANY (m.outputs) HAVING count(*) = 1;
    END IF;
    single := COALESCE(single, embed._default_model_id());
    SELECT m.* INTO chosen FROM embed._model AS m WHERE m.id = single;
    RETURN chosen;
END $$;
COMMENT ON FUNCTION embed._query_model(text, text) IS
    'The model of a query that names none: that of a vectorizer, or the one that all vectorizers agree on, or the default while there are none; else an error.';

CREATE OR REPLACE FUNCTION embed._memo_key(kind text, output text, space_id text, input text)
RETURNS text
LANGUAGE sql
STABLE PARALLEL SAFE
AS $$
    SELECT kind || output || space_id || CASE WHEN pg_catalog.length(input) <= 500 THEN ':' || input
        ELSE '#' || pg_catalog.encode(pg_catalog.sha256(pg_catalog.convert_to(input, 'UTF8')), 'hex') END
$$;
COMMENT ON FUNCTION embed._memo_key(text, text, text, text) IS
    'By what a session knows the vector of a text; of a long text the digest stands for it. No SET clause: it must inline.';

CREATE OR REPLACE FUNCTION embed._vector(input text, model text, kind text, output text, vectorizer text DEFAULT NULL)
RETURNS text
LANGUAGE plpgsql
STABLE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    chosen embed._model;
    wanted text := COALESCE(model, CASE WHEN vectorizer IS NULL THEN NULLIF(current_setting('embed.default_model', true), '') END);
    memo text;
    slot text;
    given text;
BEGIN
    IF input IS NULL THEN
        RETURN NULL;
    ELSIF model IS NOT NULL AND vectorizer IS NOT NULL THEN
        PERFORM embed._fail('PE003', 'both a model and a vectorizer are named', 'name one of them: a vectorizer has its model');
    ELSIF wanted IS NULL THEN
        chosen := embed._query_model(output, vectorizer);
    ELSE
        SELECT m.* INTO chosen FROM embed._model AS m WHERE m.name = wanted;
        IF NOT FOUND THEN
            PERFORM embed._model_id(wanted);
        END IF;
    END IF;
    IF output <> ALL (chosen.outputs) THEN
        PERFORM embed._fail('PE003', format('model %L makes no %s', chosen.name, embed._output_names(ARRAY[output])),
            format('it makes %s', embed._output_names(chosen.outputs)));
    END IF;
    -- A few vectors are remembered in settings of the session, so that a plan that evaluates embed() for each row, too,
    -- asks once.
    memo := embed._memo_key(kind, output, chosen.space_id, input);
    slot := hashtext(memo) & 63;
    IF current_setting('embed_memo.key' || slot, true) = memo THEN
        RETURN current_setting('embed_memo.vector' || slot, true);
    END IF;
    given := current_setting('embed_memo.given', true);
    IF given <> '' THEN
        given := given::jsonb ->> memo;
        IF given IS NOT NULL THEN
            -- until the transaction ends: whoever uses a pooled connection next brings his own
            PERFORM set_config('embed_memo.key' || slot, memo, true), set_config('embed_memo.vector' || slot, given, true);
            RETURN given;
        END IF;
    END IF;
    RETURN embed._vector_asked(input, chosen.name, chosen.family, chosen.options, chosen.space_id, kind, output, memo, slot);
END $$;
COMMENT ON FUNCTION embed._vector(text, text, text, text, text) IS 'The vector of a text, in the text form of its type, remembered in the session.';

CREATE OR REPLACE FUNCTION embed._vector_asked(
    input text, name text, family text, options jsonb, space_id text, kind text, output text, memo text, slot text
)
RETURNS text
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    vector text := embed._ask(jsonb_build_object('op', 'embed', 'kind', kind, 'output', output, 'texts', jsonb_build_array(input), 'space_id', space_id,
        'model', jsonb_build_object('name', name, 'family', family, 'options', options))) #>> '{vectors,0}';
BEGIN
    IF vector IS NULL THEN
        PERFORM embed._fail('PE020', 'the sidecar answered without a vector', 'see the sidecar''s log');
    END IF;
    PERFORM set_config('embed_memo.key' || slot, memo, false), set_config('embed_memo.vector' || slot, vector, false);
    RETURN vector;
END $$;
COMMENT ON FUNCTION embed._vector_asked(text, text, text, jsonb, text, text, text, text, text) IS 'The vector of a text from the sidecar, as text, put into the session''s memory.';

CREATE OR REPLACE FUNCTION embed._asked_model_v1(model text, output text)
RETURNS TABLE (name text, family text, options jsonb, space_id text)
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    wanted text := COALESCE(model, NULLIF(current_setting('embed.default_model', true), ''));
    found integer := CASE WHEN wanted IS NOT NULL THEN embed._model_id(wanted) END;
    chosen embed._model;
BEGIN
    IF found IS NULL THEN
        chosen := embed._query_model(output, NULL);
    ELSE
        SELECT m.* INTO chosen FROM embed._model AS m WHERE m.id = found;
    END IF;
    IF output <> ALL (chosen.outputs) THEN
        PERFORM embed._fail('PE003', format('model %L makes no %s', chosen.name, embed._output_names(ARRAY[output])),
            format('it makes %s', embed._output_names(chosen.outputs)));
    END IF;
    RETURN QUERY SELECT chosen.name, chosen.family, chosen.options, chosen.space_id;
END $$;
COMMENT ON FUNCTION embed._asked_model_v1(text, text) IS 'The model that embed() would take, for those who ask it themselves.';

CREATE OR REPLACE FUNCTION embed._given_model_v1(model text, output text)
RETURNS TABLE (name text, family text, options jsonb, space_id text, size integer)
LANGUAGE sql
STABLE PARALLEL SAFE SECURITY DEFINER
SET search_path = pg_catalog, embed, pg_temp
AS $$
    SELECT m.name, m.family, m.options, m.space_id, embed._size(m, _given_model_v1.output) FROM embed._model AS m
    WHERE m.name = _given_model_v1.model AND _given_model_v1.output = ANY (m.outputs)
$$;
COMMENT ON FUNCTION embed._given_model_v1(text, text) IS 'A model, and the dimensions of one of its outputs, for those who ask it themselves.';

CREATE OR REPLACE FUNCTION embed._give_vectors_v1(given jsonb, lasting boolean DEFAULT false)
RETURNS void
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    one record;
    chosen record;
    memos jsonb := '{}';
BEGIN
    FOR one IN SELECT g.query, g.model, g.space_id, g.output, g.vector
        FROM jsonb_to_recordset(given) AS g(query text, model text, space_id text, output text, vector text)
    LOOP
        SELECT m.space_id, m.size INTO chosen FROM embed._given_model_v1(one.model, one.output) AS m;
        IF chosen.space_id IS DISTINCT FROM one.space_id OR one.space_id IS NULL THEN
            PERFORM embed._fail('40001', format('model %L was changed while its vectors were made', one.model), 'search again');
        ELSIF one.query IS NULL OR one.vector IS NULL THEN
            PERFORM embed._fail('PE003', format('model %L was asked for a vector, and none is given', one.model), 'give the text and its vector');
        END IF;
        BEGIN
            EXECUTE format('SELECT %L::%s(%s)%s', one.vector, embed._vector_type(CASE one.output WHEN 'sparse' THEN 'sparsevec' WHEN 'multi' THEN 'halfvec' ELSE 'vector' END),
                chosen.size, CASE one.output WHEN 'multi' THEN '[]' ELSE '' END);
        EXCEPTION WHEN data_exception THEN
            PERFORM embed._fail('PE003', format('what is given is no %s vector of model %L: %s', one.output, one.model, SQLERRM),
                format('give what that model makes, of %s dimensions', chosen.size));
        END;
        memos := memos || jsonb_build_object(embed._memo_key('query', one.output, one.space_id, one.query), one.vector);
    END LOOP;
    PERFORM set_config('embed_memo.given', memos::text, NOT lasting);
END $$;
COMMENT ON FUNCTION embed._give_vectors_v1(jsonb, boolean) IS
    'Vectors of queries that the caller made: [{"query": ..., "model": ..., "space_id": ..., "output": "dense", "vector": "[...]"}]. embed() and the searches of this transaction, or with lasting of this session until others are given, take them and ask no model.';

CREATE OR REPLACE FUNCTION embed._vectors_v1(texts text[], model text, kind text, output text)
RETURNS SETOF text
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    chosen record;
    vectors jsonb;
BEGIN
    SELECT a.name, a.family, a.options, a.space_id INTO chosen FROM embed._asked_model_v1(model, output) AS a;
    vectors := embed._ask(jsonb_build_object('op', 'embed', 'kind', kind, 'output', output, 'texts', texts, 'space_id', chosen.space_id,
        'model', jsonb_build_object('name', chosen.name, 'family', chosen.family, 'options', chosen.options))) -> 'vectors';
    IF jsonb_typeof(vectors) IS DISTINCT FROM 'array' OR jsonb_array_length(vectors) <> cardinality(texts) THEN
        PERFORM embed._fail('PE020', 'the sidecar answered with another number of vectors', 'see the sidecar''s log');
    END IF;
    RETURN QUERY SELECT t.vector FROM jsonb_array_elements_text(vectors) WITH ORDINALITY AS t (vector, place) ORDER BY t.place;
END $$;
COMMENT ON FUNCTION embed._vectors_v1(text[], text, text, text) IS 'The vectors of several texts, in their order and the text form of their type: one request.';

CREATE OR REPLACE FUNCTION embed.embed(query text, model text DEFAULT NULL, vectorizer text DEFAULT NULL)
RETURNS vector
LANGUAGE sql
STABLE PARALLEL UNSAFE
RETURN embed._vector(query, model, 'query', 'dense', vectorizer)::vector;
COMMENT ON FUNCTION embed.embed(text, text, text) IS
    'The vector of a query, to compare with the vectors of a column: ORDER BY embedding <=> embed(''...''). The model is that of a vectorizer, by its name or its table''s, which follows a switch of models; without either, the one that the vectorizers use. No SET clause: it must inline.';

CREATE OR REPLACE FUNCTION embed.embed_document(document text, model text DEFAULT NULL)
RETURNS vector
LANGUAGE sql
STABLE PARALLEL UNSAFE
RETURN embed._vector(document, model, 'document', 'dense')::vector;
COMMENT ON FUNCTION embed.embed_document(text, text) IS 'The vector of a text as a vectorizer would store it. No SET clause: it must inline.';

CREATE OR REPLACE FUNCTION embed.embed_sparse(query text, model text DEFAULT NULL, vectorizer text DEFAULT NULL)
RETURNS sparsevec
LANGUAGE sql
STABLE PARALLEL UNSAFE
RETURN embed._vector(query, model, 'query', 'sparse', vectorizer)::sparsevec;
COMMENT ON FUNCTION embed.embed_sparse(text, text, text) IS
    'The sparse vector of a query, to compare with a column of sparse vectors: ORDER BY sparse <#> embed_sparse(''...''). Without a model, the one that the vectorizers use for these. No SET clause: it must inline.';

CREATE OR REPLACE FUNCTION embed.embed_multi(query text, model text DEFAULT NULL, vectorizer text DEFAULT NULL)
RETURNS halfvec[]
LANGUAGE sql
STABLE PARALLEL UNSAFE
RETURN embed._vector(query, model, 'query', 'multi', vectorizer)::halfvec[];
COMMENT ON FUNCTION embed.embed_multi(text, text, text) IS
    'A vector for each token of a query, to compare with a column of token vectors. Without a model, the one that the vectorizers use for these. No SET clause: it must inline.';

CREATE OR REPLACE FUNCTION embed._column_model_v1(source anyelement, column_name text)
RETURNS text
LANGUAGE plpgsql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    found text := (SELECT CASE v.outputs[array_position(v.columns, _column_model_v1.column_name)] WHEN 'sparse' THEN COALESCE(v.sparse_model, v.model) ELSE v.model END
        FROM embed.vectorizers AS v JOIN pg_type AS t ON t.typrelid = ANY (CASE WHEN v.chunk_table IS NULL THEN ARRAY[v.source] ELSE ARRAY[v.chunk_table, v.chunk_view] END)
        WHERE t.oid = pg_typeof(_column_model_v1.source) AND _column_model_v1.column_name = ANY (v.columns));
BEGIN
    IF found IS NULL THEN
        PERFORM embed._fail('PE003', format('no vectorizer fills column %I of %s', _column_model_v1.column_name, pg_typeof(_column_model_v1.source)), 'name the model of the query');
    END IF;
    RETURN found;
END $$;
COMMENT ON FUNCTION embed._column_model_v1(anyelement, text) IS 'The model whose vectors a column of a table, or of a table or view of chunks, holds now: SELECT embed._column_model_v1(NULL::docs, ''embedding'').';

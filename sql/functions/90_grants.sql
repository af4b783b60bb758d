-- Rights, from nothing: PUBLIC gets none. The three roles get theirs where they exist; without them everything is the owner's.

REVOKE ALL ON SCHEMA embed FROM PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA embed FROM PUBLIC;
REVOKE ALL ON ALL TABLES IN SCHEMA embed FROM PUBLIC;

-- Only what is missing: both take a table from all who use it, and wait for them.
DO $$
DECLARE
    belonging regclass;
BEGIN
    FOR belonging IN
        SELECT c.oid FROM pg_class AS c
        WHERE NOT c.relrowsecurity AND c.oid = ANY ('{embed._vectorizer,embed._backfill,embed._budget,embed._failure,embed._queue,embed._index,embed._switch}'::regclass[])
    LOOP
        EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', belonging);
    END LOOP;
    IF to_regrole('embed_owner') IS NOT NULL THEN
        IF NOT EXISTS (SELECT FROM pg_policy AS p WHERE p.polrelid = 'embed._vectorizer'::regclass AND p.polname = 'everybody_reads') THEN
            CREATE POLICY everybody_reads ON embed._vectorizer FOR SELECT TO embed_owner USING (true);
        END IF;
        IF NOT EXISTS (SELECT FROM pg_policy AS p WHERE p.polrelid = 'embed._vectorizer'::regclass AND p.polname = 'own_tables'
                AND pg_get_expr(p.polwithcheck, p.polrelid) ~ '_source_of') THEN
            DROP POLICY IF EXISTS own_tables ON embed._vectorizer;
            -- what a row names is changed and dropped with the rights of whoever switches or drops the vectorizer; a view may be gone
            CREATE POLICY own_tables ON embed._vectorizer TO embed_owner
                USING (pg_catalog.pg_has_role(current_user, (SELECT c.relowner FROM pg_catalog.pg_class AS c WHERE c.oid = source), 'USAGE'))
                WITH CHECK (pg_catalog.pg_has_role(current_user, (SELECT c.relowner FROM pg_catalog.pg_class AS c WHERE c.oid = source), 'USAGE')
                    AND (chunk_table IS NULL OR pg_catalog.pg_has_role(current_user, (SELECT c.relowner FROM pg_catalog.pg_class AS c WHERE c.oid = chunk_table), 'USAGE'))
                    AND COALESCE(pg_catalog.pg_has_role(current_user, (SELECT c.relowner FROM pg_catalog.pg_class AS c WHERE c.oid = chunk_view), 'USAGE'), true)
                    AND (shadow_of IS NULL OR embed._source_of(shadow_of) = source));
        END IF;
        FOR belonging IN
            SELECT b.relation FROM unnest('{embed._backfill,embed._budget,embed._failure,embed._queue,embed._index,embed._switch}'::regclass[]) AS b(relation)
            WHERE NOT EXISTS (SELECT FROM pg_policy AS p WHERE p.polrelid = b.relation AND p.polname = 'own_vectorizers')
        LOOP
            EXECUTE format('CREATE POLICY own_vectorizers ON %s TO embed_owner
                USING (EXISTS (SELECT FROM embed._vectorizer AS v JOIN pg_catalog.pg_class AS c ON c.oid = v.source
                    WHERE v.id = vectorizer_id AND pg_catalog.pg_has_role(current_user, c.relowner, ''USAGE'')))', belonging);
        END LOOP;
        GRANT SELECT, INSERT, UPDATE, DELETE ON embed._vectorizer, embed._backfill, embed._budget, embed._failure, embed._queue, embed._index, embed._switch TO embed_owner;
        GRANT SELECT ON embed.usage, embed.budgets TO embed_owner;
        GRANT SELECT ON embed._model TO embed_owner;
        GRANT EXECUTE ON FUNCTION
            embed.create_vectorizer(regclass, text[], text, text, text, text, text, text, integer, boolean, boolean, text, text, text, text, text, jsonb, text, text, text),
            embed.create_vectorizer(regclass, text, text, text, text, text, text, text, integer, boolean, boolean, text, text, text, text, text, jsonb, text, text, text),
            embed.alter_vectorizer(text, text[], text, text, integer, text, jsonb, text, text, text, text, boolean, text, boolean),
            embed.alter_vectorizer(text, text, text, text, integer, text, jsonb, text, text, text, text, boolean, text, boolean),
            embed.drop_vectorizer(text, boolean, boolean), embed.set_replication(text, text), embed._fire(integer), embed._firing(text),
            embed.backfill(text, text), embed.retry(text, text), embed.pause(text), embed.resume(text),
            embed._model_id(text), embed._default_model_id(), embed._find_vectorizers(text), embed._vectorizer_id(text), embed._own_vectorizer(text, boolean), embed._source_of(integer),
            embed._check_limits(text, integer), embed._forget_dropped(), embed._vector_type(text),
            embed._check_source(regclass), embed._check_input(regclass, smallint[]), embed._key_type_is_plain(oid), embed._key_is_readable(oid, smallint[]),
            embed._add_column(regclass, text, text, text, integer), embed._targets(embed._model, embed._model, text, text, text),
            embed._has_vectors(oid, smallint[], text, boolean), embed._is_filled(embed._vectorizer, text, boolean), embed._home(embed._vectorizer), embed._of_chunks(embed._vectorizer), embed._chunk_match(embed._vectorizer, text, text), embed._size(embed._model, text), embed._models(embed._vectorizer), embed._model_of(embed._vectorizer, text), embed._output_names(text[]), embed._partitions(integer, regclass), embed._grant_columns(integer), embed._revoke_columns(integer),
            embed._free_name(regclass, text), embed._start_backfill(integer, text), embed._forget_v1(integer),
            embed._own_text(text), embed._queue_changed(embed._vectorizer, embed._vectorizer, bigint), embed._text_to_be(embed._vectorizer, text[], text, text, text), embed._check_prepare(oid, text, text, smallint[]),
            embed._chunking_to_be(embed._vectorizer, text, jsonb), embed._change_text(embed._vectorizer, embed._vectorizer, text),
            embed._chunk_hash(text, text), embed._copy_to_chunks(embed._vectorizer, regclass, text[]), embed._check_move(embed._vectorizer, boolean), embed._move_to_chunks(embed._vectorizer, jsonb, text, text, boolean),
            embed._move_to_column(embed._vectorizer, boolean), embed._next_column(embed._vectorizer), embed._reader_steps(embed._vectorizer, embed._vectorizer), embed._cast_shadow(embed._vectorizer, integer, boolean, text[], text, jsonb), embed._index_as(embed._vectorizer, embed._vectorizer, text),
            embed._attached(embed._vectorizer), embed._renew_attached(integer, oid[]),
            embed._template(regclass, text[], text), embed._filter(regclass, text), embed._filter_problem(regclass), embed._column_number(regclass, text, text),
            embed._watched(embed._vectorizer, smallint[]), embed._may_raise(text), embed._guards(embed._vectorizer), embed._doubt(embed._vectorizer), embed._build_triggers(integer), embed._build_trigger_function(integer), embed._drop_triggers(integer), embed._untie_v1(regclass), embed._tie_v1(regclass, boolean),
            embed._problem(embed._vectorizer), embed._try_again_v1(integer), embed._has_price_v1(integer), embed._period(text),
            embed.set_budget(text, bigint, numeric, text, boolean), embed._takes(double precision, double precision),
            embed.estimate(regclass, text[], text, text, text), embed.estimate(regclass, text, text, text, text), embed.estimate(text),
            embed._estimate(regclass, text, text, integer, boolean, text), embed._is_reused_v1(integer), embed._kept_v1(regclass, integer, bytea[]), embed._count_v1(integer, text[]), embed._guess(text), embed._rates_v1(integer),
            embed.create_index(text, text, integer, integer, bigint, text, integer), embed._dense_target(integer),
            embed._index_todo(text), embed._index_wanted_v1(), embed._index_counted_v1(integer, bigint), embed._index_done_v1(integer, text, boolean)
            TO embed_owner;
        GRANT EXECUTE ON FUNCTION
            embed.switch_model(text, text, boolean, text, text, text, text, interval, jsonb), embed.finish_switch(text, boolean, interval), embed.abort_switch(text, interval),
            embed.rollback_switch(text, interval), embed.forget_switch(text, interval), embed.compare_switch(text, text[], integer, double precision),
            embed._own_alone(text, interval, boolean), embed._locking(integer, boolean), embed._free_column(oid, text, text), embed._free_vectorizer(text, text), embed._dependants(oid, smallint[]),
            embed._refuse_dependants(embed._vectorizer, text), embed._rights_steps(regclass, smallint, smallint), embed._run_steps(text[]), embed._swap_steps(embed._vectorizer, embed._vectorizer), embed._is_behind_v1(integer), embed._shadow(text, text),
            embed._warn_of_switch(embed._vectorizer, text, text), embed._is_indexed(oid, smallint), embed._switch_look_v1(integer), embed._swap(embed._vectorizer, embed._vectorizer),
            embed._refuse_unready(embed._vectorizer, embed._vectorizer), embed._count_swap_v1(), embed._switch_forms_v1(text), embed._switch_compared_v1(integer, real, integer),
            embed._switch_todo(), embed._switch_todo_v1(), embed._switch_tried_v1(integer, text, boolean),
            embed._free_relation(oid, text, text), embed._chunk_columns(embed._vectorizer), embed._chunk_dependants(embed._vectorizer), embed._right_steps(aclitem[], aclitem[], oid, text, text),
            embed._likeness_steps(regclass, regclass, smallint[], smallint[]), embed._like_chunks(embed._vectorizer, embed._vectorizer), embed._swap_chunk_steps(embed._vectorizer, embed._vectorizer),
            embed._shadow_chunks(embed._vectorizer, embed._vectorizer), embed._chunk_size(jsonb, integer), embed._bequeath_v1(integer)
            TO embed_owner;
        GRANT EXECUTE ON FUNCTION
            embed._chunking(jsonb, integer), embed._is_between(jsonb, integer, integer), embed._check_storage(text, jsonb, text, text), embed._chunk_name(regclass, text, text),
            embed._make_chunk_table(regclass, smallint[], text), embed._open_chunk_table(integer, text), embed._grant_chunks(integer),
            embed._drop_chunks(embed._vectorizer, boolean), embed._files(oid), embed._chunks_fit(embed._vectorizer), embed._worker_columns(embed._vectorizer),
            embed.create_postings(text), embed.drop_postings(text), embed.refresh_postings(text), embed._count_postings_v1(integer, double precision), embed._make_postings(integer), embed._build_postings(integer),
            embed._close_postings(integer), embed._clear_postings(integer), embed._posting_triggers(integer), embed._drop_posting_triggers(integer),
            embed._sparse_column(embed._vectorizer), embed._vector_operator(text)
            TO embed_owner;
    END IF;
    IF to_regrole('embed_worker') IS NOT NULL THEN
        GRANT EXECUTE ON FUNCTION
            embed._check_generation_v1(integer), embed._work_v1(), embed._prepare_v1(integer), embed._figures_v1(), embed._blame_v1(integer, text), embed._bury_v1(integer, text, text, text, integer),
            embed._hold_row(integer, text, text, text), embed._give_up_v1(integer, text, bigint, text, text, integer), embed._again_v1(bigint[], text[]),
            embed._lose_key(integer, text, text, text), embed._start_over_v1(integer), embed._has_text(text, text, text, text, bigint), embed._note_text(bigint, text, text, text, text), embed._note_text_v1(bigint, bigint), embed._give_up_lost(integer, text, text, text, jsonb),
            embed._claim_v1(integer, integer, integer, integer, interval),
            embed._take_v1(integer, integer, integer, integer, interval, bigint), embed._put_back_v1(integer, bigint[], text[]), embed._source_v1(integer),
            embed._finish_v1(integer, integer, bigint[], text[], bigint[], anyarray, text[], jsonb, sparsevec[], embed._token_vectors[], text),
            embed._settle_v1(integer, integer, bigint[], text[], text[], text[], timestamptz, jsonb),
            embed._see_chunks_v1(integer), embed._chunk_source_v1(integer), embed._documents_v1(integer),
            embed._claim_documents_v1(integer, integer, integer, integer, interval), embed._read_documents_v1(integer, text[], bigint, integer),
            embed._finish_documents_v1(integer, integer, bigint[], text[], bigint[], integer[], bigint[], integer[], integer[], bigint[], integer[], text[], text[], bigint[], anyarray, jsonb, sparsevec[], embed._token_vectors[], jsonb, text),
            embed._sweep_due_v1(integer), embed._swept_v1(integer, oid[]), embed._sweep_v1(integer, integer),
            embed._postpone_v1(integer, bigint[], interval, text, boolean), embed._renew_v1(integer, bigint[], interval), embed._rescue_v1(),
            embed._page_v1(integer, integer), embed._backfill_plan_v1(integer),
            embed._backfill_push_v1(integer, text[], text[], bigint, boolean, text[], integer), embed._copying_v1(integer), embed._copy_rows_v1(integer, text[]), embed._chunk_hash(text, text),
            embed._count_postings_v1(integer, double precision), embed._postings_due_v1(integer), embed._postings_mended_v1(integer, oid[]),
            embed._mend_postings_v1(integer),
            embed._arrive_v1(), embed._tend_v1(), embed._prune_v1(integer, integer), embed._failed_keys_v1(integer, integer), embed._pack_v1(integer, integer),
            embed._limits_v1(), embed._reserve_v1(integer, integer, integer, bigint, boolean, interval),
            embed._settle_usage_v1(integer, bigint, bigint, interval), embed._hold_v1(text, interval), embed._refuse_v1(text, text, interval), embed._use_v1(jsonb), embed._budgets_v1(),
            embed._reused_v1(integer), embed._recall_v1(text, uuid[], text[], integer[]), embed._remember_v1(text, uuid[], bytea[], bytea[], bytea[]), embed._evict_v1(integer),
            embed._index_todo(text), embed._index_wanted_v1(), embed._index_counted_v1(integer, bigint), embed._index_done_v1(integer, text, boolean),
            embed._switch_todo(), embed._switch_todo_v1(), embed._switch_tried_v1(integer, text, boolean), embed.compare_switch(text, text[], integer, double precision),
            embed._switch_forms_v1(text), embed._switch_compared_v1(integer, real, integer), embed._source_table_v1(integer), embed._held_source(integer), embed._hold_source(integer)
            TO embed_worker;
    END IF;
END $$;

DO $$
DECLARE
    role regrole;
BEGIN
    FOREACH role IN ARRAY array_remove(ARRAY[to_regrole('embed_reader'), to_regrole('embed_owner'), to_regrole('embed_worker')], NULL) LOOP
        EXECUTE format('GRANT USAGE ON SCHEMA embed TO %s', role);
        EXECUTE format('GRANT SELECT ON embed.models, embed.limits, embed.vectorizers, embed.status, embed.failures, embed.indexes, embed.switches, embed._schema_version TO %s', role);
        EXECUTE format('GRANT EXECUTE ON FUNCTION embed.embed(text, text, text), embed.embed_document(text, text), embed.embed_sparse(text, text, text), embed.embed_multi(text, text, text), embed._vector(text, text, text, text, text), embed._vectors_v1(text[], text, text, text), embed._asked_model_v1(text, text), embed._given_model_v1(text, text), embed._give_vectors_v1(jsonb, boolean), embed._memo_key(text, text, text, text), embed._search_asks_v1(anyelement, text, text, text), embed._column_model_v1(anyelement, text), embed._hold(text), embed.switches(text), 
            embed.rerank(text, text[], text), embed.rerank_scores(text, text[], text), embed._rerankers_v1(), embed.status(text), embed.failures(text),
            embed.why(regclass, text), embed.why(regclass, bigint), embed._why_v1(regclass), embed._why_queued_v1(integer, text),
            embed._why_failed_v1(integer, text), embed.wait(regclass, interval), embed._waiting_v1(regclass, timestamptz), embed._workers(), embed._lacks_worker(), embed._here(embed._vectorizer),
            embed._fail(text, text, text), embed._column_name(oid, smallint), embed._source_name(oid), embed._key_text(oid, smallint[], text),
            embed._key_is_whole(oid, smallint[]), embed._key_value(oid, smallint[], text),
            embed._key_match(oid, smallint[], text, text), embed._render(oid, jsonb, text, boolean),
            embed._input(oid, smallint[], jsonb, jsonb, text, text), embed._source_row(oid, smallint[], text, text), embed._hash(text), embed._holdup(integer),
            embed.search(anyelement, text, integer, text, jsonb, text, real[], integer, text, real, text, real, jsonb, integer),
            embed._search_v1(anyelement, text, integer, text, jsonb, text, real[], integer, text, real, text, text, text, real, jsonb, text, integer, text),
            embed.similar(anyelement, text, integer, text, jsonb, text, real[], integer, real, text, real, jsonb, integer), embed._search_own(jsonb, text[]),
            embed._search_plan(regtype, integer, text, jsonb, text, real[], integer, text, text, text), embed._search_legs_v1(oid, text, text, boolean), embed._check_stays(jsonb, text),
            embed._leg_vector(jsonb, text), embed._leg_row(jsonb, text, text), embed._leg_input(jsonb, text), embed.search_chunks(anyelement, text, integer, text, jsonb, text, real[], integer, text, real, text, integer, real, jsonb, integer), embed._search_chunks(jsonb, jsonb),
            embed._search_chunks_v1(anyelement, text, integer, text, jsonb, text, real[], integer, text, real, text, integer, text, real, jsonb, text, integer),
            embed._leg_own(jsonb, text), embed._leg_best(jsonb, jsonb), embed._sparse_mean(text[]),
            embed._chunk_leg(jsonb, text, text, text), embed._chunk_words(jsonb, text, text, text),
            embed._search_leg(regclass, jsonb, text), embed._search_estimate(text, text, text, text[]), embed._search_statement(jsonb, boolean),
            embed._search_settings(integer, boolean, double precision, text[]), embed._sparse_leg(jsonb, text, text, text), embed._dense_leg(jsonb, text, text, text),
            embed._dense_depth(jsonb, integer, double precision), embed._nearness(jsonb), embed._serves(jsonb, text, text[]), embed._standard_score(text, text), embed._weight(text), embed._late_score(jsonb, text),
            embed._search_extended(jsonb, integer, integer, text, real, jsonb, text, integer), embed._search_ending(jsonb, text, text, text, text),
            embed._search_given(jsonb, text, text, text, text), embed._search_turns(jsonb, text),
            embed.explain_search(anyelement, text, integer, text, jsonb, text, real[], integer, text, real, text, real, jsonb, integer, text, boolean),
            embed._search_explain_v1(anyelement, text, integer, text, jsonb, text, real[], integer, text, real, text, text, text, real, jsonb, text, integer, boolean),
            embed._search_explained(boolean, jsonb, boolean, double precision, double precision, text, text, text[], real, text, text, integer, text[]),
            embed._search_told(jsonb, boolean, double precision, double precision, text, text[], jsonb),
            embed._boost_expression(regclass, jsonb, text, text[]), embed._boost_column(regclass, text, jsonb, text, text[]),
            embed._single_leg(jsonb, boolean, text, text, text, text, text), embed._dense_score(text, text), embed._dense_vector(text), embed._sparse_vector(text),
            embed._filter_condition(regclass, jsonb, text, text[]), embed._filter_column(regclass, text, jsonb, text, text[]),
            embed._filter_term(text, text, text, "char", boolean, text, jsonb, text[]), embed._base_type(oid), embed._number_setting(text, text), embed._filter_value(jsonb, text, "char"),
            embed._output_names(text[]), embed._vector_type(text), embed._column_number(regclass, text, text),
            embed.indexes(text), embed.index_plan(text, text, integer, integer, bigint), embed.recall(text, integer, integer, double precision),
            embed._check_index(text, integer, integer, bigint, text, integer), embed._vectorizer_id_v1(text), embed._vector_schema(), embed._index_tree(oid),
            embed._index_look_v1(integer, bigint, text, integer, integer, bigint), embed._index_estimate(text, text, integer, integer, integer, bigint),
            embed._rows_by_statistics(oid), embed._count_rows(oid), embed._recall_target_v1(text), embed._index_recalled_v1(integer, integer),
            embed._search_forms(oid, smallint, text, text, text), embed._timed(vector, text, integer, integer),
            embed._hits(double precision[], double precision[]) TO %s', role);
        EXECUTE format('GRANT EXECUTE ON FUNCTION embed._sparse_top_v1(integer, sparsevec, integer), embed._sparse_ids_v1(integer, sparsevec, integer, integer),
            embed._sparse_near_v1(integer, sparsevec, integer, double precision, integer), embed._sparse_spread_v1(integer, sparsevec), embed._sparse_having_v1(integer, sparsevec),
            embed._sparse_query_v1(integer, text), embed._sparse_terms(text), embed._shares(real[], bigint[], integer), embed._posting_counts_v1(integer, integer[]),
            embed._posting_source_v1(integer), embed._reads_all_v1(integer), embed._seen_ids_v1(integer), embed._seen_keys_v1(integer),
            embed._vector_operator(text) TO %s', role);
    END LOOP;
END $$;

SELECT embed._arrive_v1();

-- Tables whose vectorizers are older than the role of the workers.
DO $$
DECLARE
    vectorizer record;
BEGIN
    IF to_regrole('embed_worker') IS NULL THEN
        RETURN;
    END IF;
    FOR vectorizer IN SELECT v.id, v.source FROM embed._vectorizer AS v
        WHERE embed._problem(v) IS NULL AND NOT has_column_privilege('embed_worker', embed._home(v), v.target_columns[1], 'UPDATE') LOOP
        BEGIN
            PERFORM embed._grant_columns(vectorizer.id);
        EXCEPTION WHEN insufficient_privilege THEN
            RAISE NOTICE 'role embed_worker may not read and write table %', vectorizer.source
                USING HINT = 'its owner gives the rights by embed.alter_vectorizer(vectorizer, input => ...)';
        END;
    END LOOP;
END $$;

-- Postings that are older than one of the roles.
SELECT embed._grant_postings(p.vectorizer_id) FROM embed._postings AS p
WHERE (SELECT count(*) FROM pg_policy AS y, unnest(y.polroles) WHERE y.polrelid = to_regclass('embed._postings_' || p.vectorizer_id))
    < (SELECT count(*) FROM pg_roles AS r WHERE r.rolname IN ('embed_reader', 'embed_owner', 'embed_worker'));

-- name: call
-- One of the functions that users call.
SELECT embed.{function}({arguments})

-- name: drop_unused_model
-- Remove a model, if it is there and no vectorizer uses it.
SELECT embed.drop_model(m.name) FROM embed.models AS m
WHERE m.name = {name} AND NOT EXISTS (SELECT FROM embed.vectorizers AS v WHERE m.name IN (v.model, v.sparse_model))

-- name: keep_path
-- Remember the search_path of a migration.
SELECT pg_catalog.set_config('pg_embed.search_path', pg_catalog.current_setting('search_path'), false)

-- name: restore_path
-- Set the search_path as it was.
SELECT pg_catalog.set_config('search_path', pg_catalog.current_setting('pg_embed.search_path'), false)

-- name: switch_model
-- Come to a model: a switch to it is begun, unless that or the model is there; one to another is given up; vectors that a
-- switch has kept are taken back.
SELECT CASE
    WHEN v.model = {model} AND s.other_model <> {model} AND s.state <> 'swapped' THEN CAST(embed.abort_switch(v.name) AS text)
    WHEN v.model = {model} OR s.other_model = {model} AND s.state <> 'swapped' THEN v.name
    WHEN s.other_model = {model} THEN embed.rollback_switch(v.name)
    ELSE ({begin})
END
FROM embed._vectorizer AS i JOIN embed.vectorizers AS v ON v.name = i.name LEFT JOIN embed.switches({vectorizer}) AS s ON true
WHERE i.id = embed._vectorizer_id({vectorizer})

-- name: leave_switch
-- Drop what a switch to a model has made, or keeps, where its texts are split in another way than is asked for.
SELECT embed.drop_vectorizer(n.name, drop_column => true)
FROM embed.switches({vectorizer}) AS s JOIN embed._vectorizer AS n ON n.name = s.shadow
WHERE s.other_model = {model} AND NOT n.chunking @> {chunking}

-- name: split_texts
-- Have the texts of a vectorizer split as is asked for, if it has come to a model.
SELECT embed.alter_vectorizer(v.name, chunking => v.chunking || {chunking})
FROM embed._vectorizer AS i JOIN embed.vectorizers AS v ON v.name = i.name
WHERE i.id = embed._vectorizer_id({vectorizer}) AND v.model = {model} AND NOT v.chunking @> {chunking}

-- name: await_switch
-- Wait until a switch is ready or done, and end it. Each look is a transaction of its own: an index is built when older
-- ones are over.
DECLARE
    until timestamptz := clock_timestamp() + make_interval(secs => {seconds});
    seen record;
BEGIN
    LOOP
        SELECT s.vectorizer_name, s.state, s.explanation INTO seen
        FROM embed.switches({vectorizer}) AS s WHERE s.other_model = {model} AND s.state <> 'swapped';
        EXIT WHEN NOT FOUND;
        IF seen.state = 'ready' THEN
            PERFORM embed.finish_switch(seen.vectorizer_name);
            EXIT;
        ELSIF clock_timestamp() > until OR seen.state NOT IN ('filling', 'indexing', 'comparing') THEN
            PERFORM embed._fail('PE040', format('vectorizer %L has not come to model %L: the switch is %s: %s', seen.vectorizer_name, {model}, seen.state, seen.explanation),
                CASE WHEN embed._workers() = 0 THEN 'no worker is connected; start one with pg-embed worker, and run the migration again'
                    ELSE 'run the migration again, which goes on waiting for the same switch; or see embed.switches' END);
        END IF;
        COMMIT;
        PERFORM pg_sleep(0.1);
        COMMIT;
    END LOOP;
END

-- name: end_switch
-- End a switch to a model in a table where no row has to wait for it, nor has vectors to keep.
DECLARE
    switched record;
    is_empty boolean;
BEGIN
    SELECT v.name, v.source INTO switched FROM embed._vectorizer AS i JOIN embed.vectorizers AS v ON v.name = i.name JOIN embed.switches AS s ON s.vectorizer_name = v.name
    WHERE i.id = embed._vectorizer_id({vectorizer}) AND s.other_model = {model} AND s.state <> 'swapped';
    IF NOT FOUND OR row_security_active(switched.source) THEN
        RETURN;
    END IF;
    EXECUTE format('SELECT NOT EXISTS (SELECT FROM %s)', embed._source_name(switched.source)) INTO is_empty;
    IF is_empty THEN
        PERFORM embed.finish_switch(switched.name, force => true);
        PERFORM embed.forget_switch(s.vectorizer_name) FROM embed.switches AS s WHERE s.vectorizer_name = switched.name;
    END IF;
END

-- name: declare
-- Say of the chunks of a vectorizer that a model declares them, where a switch leaves it.
BEGIN
    EXECUTE (SELECT format('COMMENT ON VIEW %s IS %L', v.chunk_view, replace(COALESCE(obj_description(v.chunk_view, 'pg_class'), ''), ' Declared by a model.', '') || ' Declared by a model.')
        FROM embed._vectorizer AS i JOIN embed.vectorizers AS v ON v.name = i.name WHERE i.id = embed._vectorizer_id({vectorizer}));
END

-- name: declare_columns
-- Say nothing of the columns of a vectorizer, or of those that take the place of its chunks, as of columns that a migration adds.
BEGIN
    EXECUTE (SELECT string_agg(format('COMMENT ON COLUMN %s.%I IS NULL', v.source, c.name), '; ')
        FROM embed._vectorizer AS i JOIN embed.vectorizers AS v ON v.name = i.name
        LEFT JOIN embed.switches AS s ON s.vectorizer_name = v.name AND s.chunk_table IS NULL,
        LATERAL unnest(CASE v.storage WHEN 'column' THEN v.columns ELSE s.columns END) AS c (name)
        WHERE i.id = embed._vectorizer_id({vectorizer}));
END

-- name: end_move
-- End a move of vectors from chunks to columns, as it stands or only where no row has to wait for it.
DECLARE
    moved record;
    ends boolean := {as_it_stands};
BEGIN
    SELECT v.name, v.source INTO moved FROM embed._vectorizer AS i JOIN embed.vectorizers AS v ON v.name = i.name JOIN embed.switches AS s ON s.vectorizer_name = v.name
    WHERE i.id = ANY (embed._find_vectorizers({vectorizer})) AND v.storage = 'table' AND s.chunk_table IS NULL AND s.state <> 'swapped';
    IF NOT FOUND THEN
        RETURN;
    ELSIF NOT ends AND NOT row_security_active(moved.source) THEN
        EXECUTE format('SELECT NOT EXISTS (SELECT FROM %s)', embed._source_name(moved.source)) INTO ends;
    END IF;
    IF ends THEN
        PERFORM embed.finish_switch(moved.name, force => true);
    END IF;
END

-- name: detach
-- Take the triggers of a vectorizer off its table, and those of its switch: Postgres lets no column change its type that they name.
SELECT embed._drop_triggers(c.id)
FROM embed._vectorizer AS i JOIN embed._vectorizer AS c ON i.id IN (c.id, c.shadow_of)
WHERE i.id = embed._vectorizer_id({vectorizer})

-- name: attach
-- Put them back.
SELECT embed._build_triggers(c.id)
FROM embed._vectorizer AS i JOIN embed._vectorizer AS c ON i.id IN (c.id, c.shadow_of)
WHERE i.id = embed._vectorizer_id({vectorizer})

-- name: drop_postings
-- Drop the postings of a vectorizer, and of its switch: their triggers name the key.
SELECT embed.drop_postings(c.name)
FROM embed._vectorizer AS i JOIN embed._vectorizer AS c ON i.id IN (c.id, c.shadow_of)
WHERE i.id = embed._vectorizer_id({vectorizer})

-- name: create_postings
-- Make them again.
SELECT embed.create_postings(c.name)
FROM embed._vectorizer AS i JOIN embed._vectorizer AS c ON i.id IN (c.id, c.shadow_of)
WHERE i.id = embed._vectorizer_id({vectorizer}) AND 'sparse' = ANY (c.outputs)

-- name: say_filter_again
-- Have Postgres spell the filter of a vectorizer anew, if it has one.
SELECT embed.alter_vectorizer(v.name, filter => v.filter)
FROM embed._vectorizer AS i JOIN embed.vectorizers AS v ON v.name = i.name
WHERE i.id = embed._vectorizer_id({vectorizer}) AND v.filter IS NOT NULL

-- name: embed_again
-- Have all rows looked at again, by a switch as well.
SELECT embed.backfill(c.name, 'all')
FROM embed._vectorizer AS i JOIN embed._vectorizer AS c ON i.id IN (c.id, c.shadow_of)
WHERE i.id = embed._vectorizer_id({vectorizer})

-- name: forget_kept
-- Drop the vectors that a switch has kept, if it has any.
SELECT embed.forget_switch(s.vectorizer_name)
FROM embed._vectorizer AS i JOIN embed.switches AS s ON s.vectorizer_name = i.name
WHERE i.id = ANY (embed._find_vectorizers({vectorizer})) AND s.state = 'swapped'

-- name: run
-- A block of statements.
DO {block}

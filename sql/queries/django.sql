-- name: embed
-- The vector of a query; a sub-select is asked once, and an index is ordered by it.
(SELECT embed.{function}({arguments}))

-- name: column_model
-- The model whose vectors a column holds now.
embed._column_model_v1(NULL::{table}, {column})

-- name: hits
-- What a search finds, or one of chunks, beside the rows of its table.
INNER JOIN embed.{function}(
    source => NULL::{table},
    query => CAST(%s AS text),
    k => CAST(%s AS integer),
    mode => CAST(%s AS text),
    filter => CAST(CAST(%s AS text) AS jsonb),
    fusion => CAST(%s AS text),
    weights => CAST(%s AS real[]),
    candidates => CAST(%s AS integer),
    rerank => CAST(%s AS text),
    min_score => CAST(%s AS real),
    vectorizer => CAST(%s AS text),
    diversity => CAST(%s AS real),
    boost => CAST(CAST(%s AS text) AS jsonb),
    skip => CAST(%s AS integer),
    {per_row}
    condition => CAST(%s AS text)
) WITH ORDINALITY AS {alias} ({columns})
ON ({matches})

-- name: per_row
-- How often a row is found, by its best chunks.
per_row => CAST(%s AS integer),

-- name: is_child
-- The condition that a row of a parent's table is one of a child's.
{key} IN (SELECT {child_key} FROM {child})

-- name: source
-- A table, of which a function is told.
{table}::regclass

-- name: vectorizer
-- The name of the vectorizer that fills a column; where there is none, what an error shall name.
COALESCE((
    SELECT v.name FROM embed.vectorizers AS v
    WHERE v.source = {source} AND {column} = ANY (v.columns) AND v.storage = 'column' LIMIT 1
), {told})

-- name: vectorizer_of_chunks
-- The name of the vectorizer that keeps the chunks in a view; where there is none, what an error shall name.
COALESCE((SELECT v.name FROM embed.vectorizers AS v WHERE v.chunk_view = to_regclass({view})), {told})

-- name: rename_table
-- Another name for a table of chunks.
ALTER TABLE {place} RENAME TO {name}

-- name: rename_view
-- Another name for a view of chunks.
ALTER VIEW {place} RENAME TO {name}

-- name: drop_chunks
-- Drop the vectorizer that keeps the chunks in a view, if there is one.
SELECT embed.drop_vectorizer(v.name, drop_column => {drop_column}) FROM embed.vectorizers AS v
WHERE v.chunk_view = to_regclass({view})

-- name: drop_vectorizer
-- Drop the vectorizer that fills a column, if there is one.
SELECT embed.drop_vectorizer(v.name, drop_column => {drop_column}) FROM embed.vectorizers AS v
WHERE v.source = {source} AND {column} = ANY (v.columns) AND v.storage = 'column'

-- name: untie
-- Take off what names the columns of a table, so that their types can be changed.
SELECT embed._untie_v1({source})

-- name: tie
-- Put it on again.
SELECT embed._tie_v1({source}, again => {again})

-- name: finish_switch
-- Swap at once where no row is there that would have to wait.
SELECT embed.finish_switch({vectorizer}, force => true) WHERE NOT EXISTS (SELECT FROM {table})

-- name: undo_switch
-- Go back to the model from before a switch, or give one up that is not done.
DO $undo$
DECLARE
    wanted text := {vectorizer};
    before text;
BEGIN
    IF EXISTS (SELECT FROM embed.switches(wanted) AS s WHERE s.swapped_at IS NULL) THEN
        PERFORM embed.abort_switch(wanted);
        RETURN;
    END IF;
    SELECT s.model INTO before FROM embed.switches(wanted) AS s;
    PERFORM embed.rollback_switch(wanted);
    -- in an empty table no row has to wait
    PERFORM embed.finish_switch(wanted, force => true) FROM embed.switches(wanted) AS s
    WHERE s.model = before AND NOT EXISTS (SELECT FROM {table});
END $undo$

-- name: server
-- Whether pgvector can be had, whether we are installed, and at which revision.
SELECT
    EXISTS (SELECT FROM pg_catalog.pg_available_extensions AS e WHERE e.name = 'vector') AS vector,
    to_regclass('embed.vectorizers') IS NOT NULL AS installed

-- name: has_model
-- Whether a model is in the catalog.
SELECT EXISTS (SELECT FROM embed.models AS m WHERE m.name = %s) AS found

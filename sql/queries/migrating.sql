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

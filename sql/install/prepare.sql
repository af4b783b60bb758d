-- The extension, our schema, and the search_path under which the other files are run: names of pgvector are found
-- wherever it is. Objects are qualified, so nothing is ever created in the first schema of this path.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_extension WHERE extname = 'vector') THEN
        CREATE EXTENSION vector;
    END IF;
END $$;
CREATE SCHEMA IF NOT EXISTS embed;
COMMENT ON SCHEMA embed IS 'pg_embed: rows of text, embedded and searchable by meaning. Names with a leading underscore are private.';
SELECT pg_catalog.set_config('search_path', 'pg_catalog, embed, ' || pg_catalog.quote_ident(s.nspname) || ', pg_temp', false)
FROM pg_catalog.pg_extension AS e JOIN pg_catalog.pg_namespace AS s ON s.oid = e.extnamespace WHERE e.extname = 'vector';

-- The extension, our schema, and the search_path under which the other files are run: names of pgvector are found
-- wherever it is. Objects are qualified, so nothing is ever created in the first schema of this path.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_extension WHERE extname = 'vector') THEN
        CREATE EXTENSION vector;
    END IF;
END $$;
-- What is there already must be ours, or a superuser's: an owner of the schema or of a function in it could put code of
-- his own where workers and the installing role would run it.
DO $$
DECLARE
    found record;
BEGIN
    SELECT o.what, r.rolname INTO found
    FROM (
        SELECT 'schema embed' AS what, s.nspowner AS owner FROM pg_catalog.pg_namespace AS s WHERE s.nspname = 'embed'
        UNION ALL
        SELECT 'function ' || p.oid::regprocedure, p.proowner FROM pg_catalog.pg_proc AS p
        JOIN pg_catalog.pg_namespace AS s ON s.oid = p.pronamespace AND s.nspname = 'embed'
        UNION ALL
        SELECT 'relation ' || c.oid::regclass, c.relowner FROM pg_catalog.pg_class AS c
        JOIN pg_catalog.pg_namespace AS s ON s.oid = c.relnamespace AND s.nspname = 'embed'
    ) AS o JOIN pg_catalog.pg_roles AS r ON r.oid = o.owner
    WHERE r.rolname <> current_user AND NOT r.rolsuper
    LIMIT 1;
    IF found.what IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = '42501', MESSAGE = pg_catalog.format('%s belongs to %I, who could take over what you install', found.what, found.rolname),
            HINT = pg_catalog.format('install as %1$I; or, if it is none of an installation, drop it; or take it over: REASSIGN OWNED BY %1$I TO %2$I', found.rolname, current_user);
    END IF;
END $$;
CREATE SCHEMA IF NOT EXISTS embed;
COMMENT ON SCHEMA embed IS 'pg_embed: rows of text, embedded and searchable by meaning. Names with a leading underscore are private.';
SELECT pg_catalog.set_config('search_path', 'pg_catalog, embed, ' || pg_catalog.quote_ident(s.nspname) || ', pg_temp', false)
FROM pg_catalog.pg_extension AS e JOIN pg_catalog.pg_namespace AS s ON s.oid = e.extnamespace WHERE e.extname = 'vector';
-- What is there now, by which 88_upgrade.sql knows functions that are no longer in the files.
DO $$
DECLARE
    oldest integer;
BEGIN
    IF pg_catalog.to_regclass('embed._generation') IS NOT NULL THEN
        SELECT g.oldest INTO oldest FROM embed._generation AS g;
    END IF;
    PERFORM pg_catalog.set_config('embed.before', pg_catalog.jsonb_build_object('oldest', oldest, 'functions',
        (SELECT pg_catalog.jsonb_object_agg(p.oid, p.ctid) FROM pg_catalog.pg_proc AS p WHERE p.pronamespace = 'embed'::regnamespace))::text, true);
END $$;

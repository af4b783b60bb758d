-- embed() where pgvector's own operators stand, so that both are found alike. The wrapper is inlined: it costs nothing.

-- One that pgvector left behind when it was moved to another schema goes, unless a view or the like needs it.
DO $$
DECLARE
    left_over regprocedure;
BEGIN
    FOR left_over IN
        SELECT p.oid FROM pg_proc AS p
        WHERE p.proname = 'embed' AND p.prosrc = 'SELECT embed.embed(query, model)'
            AND p.pronamespace <> (SELECT e.extnamespace FROM pg_extension AS e WHERE e.extname = 'vector')
    LOOP
        BEGIN
            EXECUTE format('DROP FUNCTION %s', left_over);
        EXCEPTION WHEN dependent_objects_still_exist OR insufficient_privilege THEN
            RAISE NOTICE 'function % stays: %', left_over, SQLERRM;
        END;
    END LOOP;
END $$;

DO $$
DECLARE
    home text;
BEGIN
    SELECT quote_ident(s.nspname) INTO STRICT home
    FROM pg_extension AS e JOIN pg_namespace AS s ON s.oid = e.extnamespace WHERE e.extname = 'vector';
    IF home = 'embed' THEN
        RETURN;
    ELSIF EXISTS (SELECT FROM pg_proc AS p WHERE p.oid = to_regprocedure(home || '.embed(text, text)') AND p.prosrc <> 'SELECT embed.embed(query, model)') THEN
        RAISE NOTICE 'embed() stands in schema embed: schema % has a function of that name already', home
            USING HINT = 'call embed.embed(), or add embed to the search_path';
        RETURN;
    END IF;
    EXECUTE format('CREATE OR REPLACE FUNCTION %1$s.embed(query text, model text DEFAULT NULL) RETURNS %1$s.vector
        LANGUAGE sql STABLE PARALLEL UNSAFE AS ''SELECT embed.embed(query, model)''', home);
    EXECUTE format('COMMENT ON FUNCTION %s.embed(text, text) IS %L', home,
        'The vector of a query, to compare with the vectors of a column: ORDER BY embedding <=> embed(''...''). The same as embed.embed().');
EXCEPTION WHEN insufficient_privilege THEN
    RAISE NOTICE 'embed() stands in schema embed: you may not create functions in schema %, where pgvector is', home
        USING HINT = 'call embed.embed(), or add embed to the search_path';
END $$;

-- embed() and its kin where pgvector's own operators stand, so that both are found alike. The wrappers are inlined: they
-- cost nothing.

-- Those that pgvector left behind when it was moved to another schema go, unless a view or the like needs them.
DO $$
DECLARE
    left_over regprocedure;
BEGIN
    FOR left_over IN
        SELECT p.oid FROM pg_proc AS p
        WHERE p.proname IN ('embed', 'embed_sparse', 'embed_multi') AND p.prosrc = format('SELECT embed.%I(query, model, vectorizer)', p.proname)
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
    wrapped record;
BEGIN
    SELECT quote_ident(s.nspname) INTO STRICT home
    FROM pg_extension AS e JOIN pg_namespace AS s ON s.oid = e.extnamespace WHERE e.extname = 'vector';
    IF home = 'embed' THEN
        RETURN;
    END IF;
    FOR wrapped IN
        SELECT * FROM (VALUES
            ('embed', 'vector', 'The vector of a query, to compare with the vectors of a column: ORDER BY embedding <=> embed(''...'').'),
            ('embed_sparse', 'sparsevec', 'The sparse vector of a query, to compare with a column of sparse vectors: ORDER BY sparse <#> embed_sparse(''...'').'),
            ('embed_multi', 'halfvec[]', 'A vector for each token of a query, to compare with a column of token vectors.')
        ) AS w(name, result, told)
    LOOP
        IF EXISTS (SELECT FROM pg_proc AS p WHERE p.oid IN (to_regprocedure(format('%s.%I(text, text)', home, wrapped.name)), to_regprocedure(format('%s.%I(text, text, text)', home, wrapped.name)))
                AND p.prosrc <> format('SELECT embed.%I(query, model, vectorizer)', wrapped.name)) THEN
            RAISE NOTICE '%() stands in schema embed: schema % has a function of that name already', wrapped.name, home
                USING HINT = format('call embed.%I(), or add embed to the search_path', wrapped.name);
            CONTINUE;
        END IF;
        EXECUTE format('CREATE OR REPLACE FUNCTION %1$s.%2$I(query text, model text DEFAULT NULL, vectorizer text DEFAULT NULL) RETURNS %1$s.%3$s
            LANGUAGE sql STABLE PARALLEL UNSAFE AS ''SELECT embed.%2$I(query, model, vectorizer)''', home, wrapped.name, wrapped.result);
        EXECUTE format('COMMENT ON FUNCTION %s.%I(text, text, text) IS %L', home, wrapped.name, format('%s The same as embed.%I().', wrapped.told, wrapped.name));
    END LOOP;
EXCEPTION WHEN insufficient_privilege THEN
    RAISE NOTICE 'embed() stands in schema embed: you may not create functions in schema %, where pgvector is', home
        USING HINT = 'call embed.embed(), or add embed to the search_path';
END $$;

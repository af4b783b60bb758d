-- The three roles of pg_embed, where the installer may create roles. They are of the whole server, and cannot log in by themselves.
DO $$
DECLARE
    role text;
    may text;
BEGIN
    FOR role, may IN VALUES
        ('embed_reader', 'embed queries, and see status, failures, models and vectorizers'),
        ('embed_owner', 'embed queries, and make and steer vectorizers on tables of its own'),
        ('embed_worker', 'do what a worker does, and no more')
    LOOP
        IF to_regrole(role) IS NULL THEN
            BEGIN
                EXECUTE format('CREATE ROLE %I NOLOGIN', role);
                EXECUTE format('COMMENT ON ROLE %I IS %L', role, 'pg_embed: may ' || may);
            EXCEPTION
                WHEN duplicate_object OR unique_violation THEN NULL;  -- another installation was quicker
                WHEN insufficient_privilege THEN
                    RAISE NOTICE 'role % is not there, and you may not create it', role
                        USING HINT = 'everything belongs to the installing role; an administrator can create embed_reader, embed_owner and embed_worker, then run pg-embed upgrade';
            END;
        END IF;
    END LOOP;
END $$;

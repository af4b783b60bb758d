-- The end of an upgrade: functions that are no longer in these files go, and workers are told to look.

DO $$
DECLARE
    before jsonb := NULLIF(current_setting('embed.before', true), '')::jsonb;  -- as sql/install/prepare.sql found it
    parted boolean := (SELECT g.oldest FROM embed._generation AS g) > (before ->> 'oldest')::integer;
    former record;
BEGIN
    FOR former IN
        WITH ours AS (
            -- CREATE OR REPLACE has written a new version of each function that is in the files
            SELECT p.oid, p.proname, before -> 'functions' ->> p.oid::text IS DISTINCT FROM p.ctid::text AS is_present
            FROM pg_proc AS p
            WHERE p.pronamespace = 'embed'::regnamespace AND p.proname !~ '^_(enqueue|post)_[0-9]+$' AND p.proname NOT IN ('_call', '_swaps_v1')
                AND NOT EXISTS (SELECT FROM pg_depend AS d WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e')
        ), present AS (
            SELECT DISTINCT o.proname FROM ours AS o WHERE o.is_present
        )
        SELECT o.oid::regprocedure AS signature FROM ours AS o
        WHERE NOT o.is_present AND CASE
            WHEN o.proname IN (SELECT p.proname FROM present AS p) THEN true  -- it has other arguments now
            -- workers of the version before may call what has a number, as long as this database serves them
            WHEN o.proname ~ '_v[0-9]+$' THEN parted
            ELSE o.proname ^@ '_'  -- what has no underscore may be a function of somebody else's
            END
    LOOP
        BEGIN
            EXECUTE format('DROP ROUTINE %s', former.signature);
        EXCEPTION WHEN dependent_objects_still_exist OR insufficient_privilege THEN
            RAISE NOTICE 'function %, which pg_embed has no more, stays: %', former.signature, SQLERRM;
        END;
    END LOOP;
    PERFORM pg_notify('pg_embed_work', 'catalog');
END $$;

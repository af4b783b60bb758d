-- Database and workers are upgraded at different times. What workers and sidecars call has a generation, counted up when they
-- call something new; a database serves its own, and older ones down to embed._generation.

CREATE OR REPLACE FUNCTION embed._check_generation_v1(generation integer)
RETURNS void
LANGUAGE plpgsql
STABLE PARALLEL SAFE SECURITY DEFINER
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    newest constant integer := 1;
    oldest integer := (SELECT g.oldest FROM embed._generation AS g);
BEGIN
    IF generation < oldest THEN
        PERFORM embed._fail('PE053', format('this pg_embed is too old for the database: it is of generation %s, and the database serves %s and later', generation, oldest),
            'upgrade the package that runs here, as in pip install --upgrade pg-embed, and start it again; no row is lost meanwhile');
    ELSIF generation > newest THEN
        PERFORM embed._fail('PE053', format('the database is too old for this pg_embed: it serves generation %s at most, and this one is of %s', newest, generation),
            'run: pg-embed upgrade DSN');
    END IF;
END $$;
COMMENT ON FUNCTION embed._check_generation_v1(integer) IS 'Refuse workers and sidecars that are too old for this database, or too new.';

-- Logical replication: who embeds a row that comes from another database. Its apply worker fires triggers that are enabled for
-- replicated changes, and row by row only. Postings are another matter: as an index, they follow whoever writes.

CREATE OR REPLACE FUNCTION embed._firing(replication text)
RETURNS text
LANGUAGE sql
IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$ SELECT CASE replication WHEN 'origin' THEN 'OA' WHEN 'replica' THEN 'R' WHEN 'always' THEN 'A' END $$;
COMMENT ON FUNCTION embed._firing(text) IS
    'How the triggers of a vectorizer may be enabled, as letters of pg_trigger.tgenabled. What was enabled always by hand queues replicated changes only if its triggers work by row.';

CREATE OR REPLACE FUNCTION embed._fire(vectorizer integer)
RETURNS void
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    t record;
BEGIN
    FOR t IN
        SELECT v.source, g.tgname, upper(v.replication) AS firing
        FROM embed._vectorizer AS v JOIN pg_trigger AS g ON g.tgrelid = v.source
        WHERE v.id = vectorizer AND v.replication <> 'origin'
            AND g.tgname IN ('pg_embed_' || v.id || '_insert', 'pg_embed_' || v.id || '_update', 'pg_embed_' || v.id || '_delete')
    LOOP
        EXECUTE format('ALTER TABLE %s ENABLE %s TRIGGER %I', t.source, t.firing, t.tgname);
    END LOOP;
END $$;
COMMENT ON FUNCTION embed._fire(integer) IS 'Enable the triggers of a vectorizer for replicated changes, where it embeds these; with the rights of the caller.';

CREATE OR REPLACE FUNCTION embed.set_replication(vectorizer text, replication text)
RETURNS void
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    v embed._vectorizer := embed._own_vectorizer(vectorizer, lock_table => true);
    w embed._vectorizer;
BEGIN
    IF embed._firing(replication) IS NULL THEN
        PERFORM embed._fail('PE003', format('there is no replication %L', replication),
            'use ''origin'' (changes made here), ''replica'' (changes that logical replication brings) or ''always'' (both)');
    ELSIF v.shadow_of IS NOT NULL THEN
        PERFORM embed._fail('PE003', format('vectorizer %L belongs to a switch', v.name), 'name the one whose model is switched: both follow');
    ELSIF v.replication = replication AND embed._problem(v) IS NULL THEN
        RETURN;
    END IF;
    FOR w IN SELECT c.* FROM embed._vectorizer AS c WHERE v.id IN (c.id, c.shadow_of) ORDER BY c.id LOOP
        PERFORM embed._doubt(w);
        UPDATE embed._vectorizer AS c SET replication = set_replication.replication WHERE c.id = w.id;
        PERFORM embed._build_triggers(w.id);
        IF replication <> 'origin' THEN
            -- changes may have come by without a trigger
            PERFORM embed._start_backfill(w.id, 'all');
        END IF;
    END LOOP;
    PERFORM pg_notify('pg_embed_work', 'catalog');
END $$;
COMMENT ON FUNCTION embed.set_replication(text, text) IS
    'Whose changes of a table a vectorizer embeds where logical replication brings some: ''origin'', those that are made here (the publisher embeds, and its vectors are replicated with the rows), ''replica'', those that are replicated, or ''always'', both (the subscriber embeds for itself, and the publication leaves the vectors out). Other than ''origin'', all rows are looked at once more, and INSERT is queued row by row. Call it in the transaction that makes the vectorizer, before a worker has begun.';

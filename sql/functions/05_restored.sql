-- Columns are kept by number, which a rename does not change; but a dump leaves dropped columns out, and so a restored table
-- numbers its columns anew. Beside the numbers stands what they are called, kept by a trigger and by workers, and which
-- oids they were written under. Where those differ, the row came by a restore, and its numbers are found by the names.

CREATE OR REPLACE FUNCTION embed._numbering(source oid)
RETURNS oid[]
LANGUAGE sql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$ SELECT ARRAY[source, 'embed._vectorizer'::regclass, 'embed._numbering(oid)'::regprocedure]::oid[] $$;
COMMENT ON FUNCTION embed._numbering(oid) IS 'What tells a restored table from the one that was dumped, in the first two; pg_upgrade keeps these, and the numbers of columns, but not the third.';

CREATE OR REPLACE FUNCTION embed._names(relation oid, numbers smallint[])
RETURNS jsonb
LANGUAGE sql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
    SELECT COALESCE(jsonb_object_agg(a.attnum, a.attname), '{}') FROM pg_attribute AS a
    WHERE a.attrelid = relation AND a.attnum = ANY (numbers) AND NOT a.attisdropped
$$;
COMMENT ON FUNCTION embed._names(oid, smallint[]) IS 'The names that columns have now, by their numbers.';

CREATE OR REPLACE FUNCTION embed._renumbered(numbers smallint[], relation oid, names jsonb)
RETURNS smallint[]
LANGUAGE sql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
    SELECT COALESCE(array_agg(COALESCE(a.attnum, 0) ORDER BY n.position), '{}')
    FROM unnest(numbers) WITH ORDINALITY AS n(number, position)
    LEFT JOIN pg_attribute AS a ON a.attrelid = relation AND a.attname = names ->> n.number::text AND a.attnum > 0 AND NOT a.attisdropped
$$;
COMMENT ON FUNCTION embed._renumbered(smallint[], oid, jsonb) IS 'The numbers that columns have now, by their names; 0, which no column has, for one that is not there.';

CREATE OR REPLACE FUNCTION embed._renumbered(pieces jsonb, relation oid, names jsonb)
RETURNS jsonb
LANGUAGE sql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
    SELECT jsonb_agg(CASE jsonb_typeof(p.piece) WHEN 'number' THEN to_jsonb((embed._renumbered(ARRAY[(p.piece #>> '{}')::smallint], relation, names))[1])
        ELSE p.piece END ORDER BY p.position)
    FROM jsonb_array_elements(pieces) WITH ORDINALITY AS p(piece, position)
$$;
COMMENT ON FUNCTION embed._renumbered(jsonb, oid, jsonb) IS 'The same for the columns of a template or a filter.';

CREATE OR REPLACE FUNCTION embed._here(v embed._vectorizer)
RETURNS embed._vectorizer
LANGUAGE plpgsql
STABLE PARALLEL SAFE SECURITY DEFINER
SET search_path = pg_catalog, embed, pg_temp
AS $$
BEGIN
    IF v.numbered[:2] <> ARRAY[v.source, 'embed._vectorizer'::regclass]::oid[] THEN
        v.key_columns := embed._renumbered(v.key_columns, v.source, v.names -> 'source');
        v.input_columns := embed._renumbered(v.input_columns, v.source, v.names -> 'source');
        v.filter_columns := embed._renumbered(v.filter_columns, v.source, v.names -> 'source');
        v.template := embed._renumbered(v.template, v.source, v.names -> 'source');
        v.filter := embed._renumbered(v.filter, v.source, v.names -> 'source');
        v.target_columns := embed._renumbered(v.target_columns, COALESCE(v.chunk_table, v.source), v.names -> 'targets');
        v.numbered := embed._numbering(v.source);
    END IF;
    RETURN v;
END $$;
COMMENT ON FUNCTION embed._here(embed._vectorizer) IS 'A vectorizer with the numbers that its columns have in this database, restored or not.';

CREATE OR REPLACE FUNCTION embed._keep_names()
RETURNS trigger
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    here embed._vectorizer;
    present oid[];
BEGIN
    IF TG_OP = 'UPDATE' AND OLD.numbered[:2] <> (embed._numbering(OLD.source))[:2] THEN
        here := embed._here(OLD);
        NEW.key_columns := CASE WHEN NEW.key_columns = OLD.key_columns THEN here.key_columns ELSE NEW.key_columns END;
        NEW.input_columns := CASE WHEN NEW.input_columns = OLD.input_columns THEN here.input_columns ELSE NEW.input_columns END;
        NEW.filter_columns := CASE WHEN NEW.filter_columns = OLD.filter_columns THEN here.filter_columns ELSE NEW.filter_columns END;
        NEW.template := CASE WHEN NEW.template = OLD.template THEN here.template ELSE NEW.template END;
        NEW.filter := CASE WHEN NEW.filter IS NOT DISTINCT FROM OLD.filter THEN here.filter ELSE NEW.filter END;
        NEW.target_columns := CASE WHEN NEW.target_columns = OLD.target_columns THEN here.target_columns ELSE NEW.target_columns END;
    END IF;
    IF TG_OP = 'UPDATE' AND OLD.numbered <> embed._numbering(OLD.source) THEN
        -- No row changed on the way here: else partitions would seem to be attached, all of them, and every row would be embedded again.
        NEW.guards := embed._guards(NEW);
        present := ARRAY(SELECT p.clone FROM embed._partitions(NEW.id, NEW.source) AS p ORDER BY p.clone);
        IF cardinality(present) = cardinality(OLD.partitions) THEN  -- else some came just before the dump, and nobody has looked at their rows
            NEW.partitions := present;
        END IF;
        UPDATE embed._postings AS p SET partitions = NEW.partitions WHERE p.vectorizer_id = NEW.id AND p.partitions = OLD.partitions;
    END IF;
    NEW.numbered := embed._numbering(NEW.source);
    NEW.names := jsonb_build_object('source', embed._names(NEW.source, NEW.key_columns || NEW.input_columns || NEW.filter_columns),
        'targets', embed._names(COALESCE(NEW.chunk_table, NEW.source), NEW.target_columns));
    RETURN NEW;
END $$;
COMMENT ON FUNCTION embed._keep_names() IS 'Note what the columns of a vectorizer are called, whatever somebody writes there; and number anew those of a row that was restored.';
-- its name comes before those of other triggers, which see what it makes
DO $$
BEGIN
    -- only where it is missing: it would wait for whoever uses the table
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_trigger AS t WHERE t.tgrelid = 'embed._vectorizer'::regclass AND t.tgname = 'column_names') THEN
        CREATE TRIGGER column_names BEFORE INSERT OR UPDATE ON embed._vectorizer FOR EACH ROW EXECUTE FUNCTION embed._keep_names();
    END IF;
END $$;

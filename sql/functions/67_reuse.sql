-- Vectors of texts that were embedded before: a text that comes again, in whatever row or table of one owner, costs no call
-- of its model. Workers alone read and write them. Whoever could ask whether a text is there would learn what others wrote:
-- the keys are salted with a secret of this database and with the owner of the table, and no other role may call these.

CREATE OR REPLACE VIEW embed._reuse_of AS
SELECT
    m.id AS model_id,
    m.name AS model,
    COALESCE(s.reuse, a.reuse, (m.card ->> 'paid')::boolean, false) AS reuse,
    COALESCE(s.max_rows, a.max_rows) AS max_rows,
    COALESCE(s.max_bytes, a.max_bytes, 1073741824) AS max_bytes,
    COALESCE(s.keep, a.keep, interval '90 days') AS keep,
    a.salt
FROM embed._model AS m
CROSS JOIN embed._reuse_all AS a
LEFT JOIN embed._reuse_model AS s ON s.model_id = m.id
WHERE m.outputs <> '{score}';
COMMENT ON VIEW embed._reuse_of IS 'What holds for each model: its own settings, else those for all, else what is built in.';

CREATE OR REPLACE FUNCTION embed._reused_v1(vectorizer integer)
RETURNS TABLE (model text, salt bytea)
LANGUAGE sql
STABLE PARALLEL SAFE SECURITY DEFINER
SET search_path = pg_catalog, embed, pg_temp
AS $$
    SELECT r.model, sha256(r.salt || convert_to(pg_get_userbyid(c.relowner), 'UTF8'))
    FROM embed._vectorizer AS v
    JOIN pg_class AS c ON c.oid = v.source
    JOIN embed._reuse_of AS r ON r.model_id = ANY (embed._models(v))
    WHERE v.id = vectorizer AND r.reuse
$$;
COMMENT ON FUNCTION embed._reused_v1(integer) IS 'The models of a vectorizer whose vectors are reused, and the salt of its texts'' keys: tables of one owner share theirs.';

CREATE OR REPLACE FUNCTION embed._recall_v1(model text, keys uuid[], outputs text[], sizes integer[])
RETURNS TABLE (place integer, dense bytea, sparse bytea, multi bytea)
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, embed, pg_temp
-- OFFSET 0 keeps one index probe a key, whatever the planner thinks of a table that was empty a moment ago.
SET enable_seqscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
SET work_mem = '32MB'
SET synchronous_commit = off
AS $$
#variable_conflict use_column
DECLARE
    wanted integer := (SELECT r.model_id FROM embed._reuse_of AS r WHERE r.model = _recall_v1.model AND r.reuse);
BEGIN
    RETURN QUERY
        WITH found AS MATERIALIZED (
            SELECT k.place::integer, r.*
            FROM unnest(keys) WITH ORDINALITY AS k(key, place)
            CROSS JOIN LATERAL (
                SELECT o.ctid AS location, o.used_at, o.dense, o.sparse, o.multi FROM embed._reuse AS o
                WHERE o.model_id = wanted AND o.key = k.key
                    AND ('dense' <> ALL (outputs) OR octet_length(o.dense) = ANY (sizes))
                    AND ('sparse' <> ALL (outputs) OR o.sparse IS NOT NULL)
                    AND ('multi' <> ALL (outputs) OR o.multi IS NOT NULL)
                OFFSET 0) AS r
        ), used AS (
            UPDATE embed._reuse AS r SET used_at = now() FROM found AS f
            WHERE r.ctid = f.location AND f.used_at < now() - interval '1 day'
        )
        SELECT f.place, CASE WHEN 'dense' = ANY (outputs) THEN f.dense END, CASE WHEN 'sparse' = ANY (outputs) THEN f.sparse END,
            CASE WHEN 'multi' = ANY (outputs) THEN f.multi END
        FROM found AS f;
END $$;
COMMENT ON FUNCTION embed._recall_v1(text, uuid[], text[], integer[]) IS
    'The vectors that are known for these keys, which ascend, with their places among them, from 1. Only rows that have all outputs count, with dense vectors of one of these sizes in bytes.';

CREATE OR REPLACE FUNCTION embed._is_reused_v1(model integer)
RETURNS boolean
LANGUAGE sql
STABLE PARALLEL SAFE SECURITY DEFINER
SET search_path = pg_catalog, embed, pg_temp
AS $$ SELECT COALESCE((SELECT r.reuse FROM embed._reuse_of AS r WHERE r.model_id = _is_reused_v1.model), false) $$;
COMMENT ON FUNCTION embed._is_reused_v1(integer) IS 'Whether vectors of a model are reused.';

CREATE OR REPLACE FUNCTION embed._kept_v1(source regclass, model integer, digests bytea[])
RETURNS boolean[]
LANGUAGE plpgsql
STABLE PARALLEL SAFE SECURITY DEFINER
SET search_path = pg_catalog, embed, pg_temp
SET standard_conforming_strings = on
SET enable_seqscan = off
AS $$
DECLARE
    head bytea;
BEGIN
    IF pg_is_in_recovery() THEN
        RETURN NULL;  -- a standby has no unlogged tables
    END IF;
    SELECT sha256(a.salt || convert_to(pg_get_userbyid(c.relowner), 'UTF8')) || convert_to(m.space_id, 'UTF8') || '\x00'
        || convert_to(COALESCE(m.card ->> 'checkpoint', ''), 'UTF8') || '\x00'
    INTO head FROM embed._reuse_all AS a, embed._model AS m, pg_class AS c
    WHERE m.id = model AND c.oid = source AND (session_user = current_user OR pg_has_role(session_user, c.relowner, 'MEMBER'));
    RETURN ARRAY(
        SELECT EXISTS (SELECT FROM embed._reuse AS o
            WHERE o.model_id = model AND o.key = encode(substr(sha256(head || d.digest), 1, 16), 'hex')::uuid)
        FROM unnest(digests) WITH ORDINALITY AS d(digest, place) ORDER BY d.place);
END $$;
COMMENT ON FUNCTION embed._kept_v1(regclass, integer, bytea[]) IS
    'Which texts, by their SHA-256, have vectors of a model that are kept for the owner of a table; for that owner only. NULL where it cannot be known.';

CREATE OR REPLACE FUNCTION embed._remember_v1(model text, keys uuid[], dense bytea[], sparse bytea[], multi bytea[])
RETURNS void
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, embed, pg_temp
SET enable_seqscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
SET work_mem = '32MB'
SET synchronous_commit = off
AS $$
DECLARE
    wanted integer := (SELECT r.model_id FROM embed._reuse_of AS r WHERE r.model = _remember_v1.model AND r.reuse);
    added bigint;
    grown bigint;
    more bigint := 0;
BEGIN
    IF wanted IS NULL THEN
        RETURN;
    END IF;
    BEGIN
        -- as a rule all are new, and then this costs a third less than ON CONFLICT
        WITH added AS (
            INSERT INTO embed._reuse AS r (used_at, model_id, key, dense, sparse, multi)
            SELECT now(), wanted, g.* FROM unnest(keys, dense, sparse, multi) AS g
            RETURNING r.size
        )
        SELECT count(*), COALESCE(sum(a.size), 0) INTO added, grown FROM added AS a;
    EXCEPTION WHEN unique_violation THEN
        WITH added AS (
            INSERT INTO embed._reuse AS r (used_at, model_id, key, dense, sparse, multi)
            SELECT now(), wanted, g.* FROM unnest(keys, dense, sparse, multi) AS g
            ON CONFLICT DO NOTHING
            RETURNING r.size
        )
        SELECT count(*), COALESCE(sum(a.size), 0) INTO added, grown FROM added AS a;
    END;
    IF added < cardinality(keys) THEN
        -- another vectorizer has kept other outputs of the same texts, or rounded ones
        WITH held AS MATERIALIZED (
            SELECT r.location, r.size, g.dense, g.sparse, g.multi
            FROM unnest(keys, dense, sparse, multi) AS g(key, dense, sparse, multi)
            CROSS JOIN LATERAL (
                SELECT o.ctid AS location, o.size FROM embed._reuse AS o
                WHERE o.model_id = wanted AND o.key = g.key AND (octet_length(g.dense) > COALESCE(octet_length(o.dense), 0)
                    OR o.sparse IS NULL AND g.sparse IS NOT NULL OR o.multi IS NULL AND g.multi IS NOT NULL)
                FOR UPDATE SKIP LOCKED) AS r
        ), changed AS (
            UPDATE embed._reuse AS r
            SET dense = CASE WHEN octet_length(h.dense) > COALESCE(octet_length(r.dense), 0) THEN h.dense ELSE r.dense END,
                sparse = COALESCE(r.sparse, h.sparse), multi = COALESCE(r.multi, h.multi), used_at = now()
            FROM held AS h WHERE r.ctid = h.location
            RETURNING r.size - h.size AS grown
        )
        SELECT COALESCE(sum(c.grown), 0) INTO more FROM changed AS c;
    END IF;
    IF added > 0 OR more <> 0 THEN
        INSERT INTO embed._reuse_total AS t (model_id, rows, bytes) VALUES (wanted, added, grown + more)
        ON CONFLICT ON CONSTRAINT _reuse_total_pkey DO UPDATE SET rows = t.rows + excluded.rows, bytes = t.bytes + excluded.bytes;
    END IF;
END $$;
COMMENT ON FUNCTION embed._remember_v1(text, uuid[], bytea[], bytea[], bytea[]) IS
    'Keep vectors for texts that come again: the keys ascend, so that two workers never wait for each other in a circle.';

CREATE OR REPLACE FUNCTION embed._forget_reused(model integer, upto timestamptz, at_most bigint)
RETURNS bigint
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
SET enable_seqscan = off
SET enable_bitmapscan = off
SET enable_sort = off
AS $$
DECLARE
    removed bigint;
    freed bigint;
BEGIN
    WITH gone AS (
        DELETE FROM embed._reuse AS r WHERE r.ctid = ANY (ARRAY(
            SELECT o.ctid FROM embed._reuse AS o WHERE o.model_id = model AND o.used_at <= upto ORDER BY o.used_at LIMIT at_most FOR UPDATE SKIP LOCKED))
        RETURNING r.size
    )
    SELECT count(*), sum(g.size) INTO removed, freed FROM gone AS g;
    UPDATE embed._reuse_total AS t SET rows = t.rows - removed, bytes = t.bytes - freed WHERE t.model_id = model AND removed > 0;
    DELETE FROM embed._reuse_total AS t WHERE t.model_id = model AND t.rows = 0;
    RETURN removed;
END $$;
COMMENT ON FUNCTION embed._forget_reused(integer, timestamptz, bigint) IS 'Remove kept vectors of a model that were last used up to a time, the oldest first; those that a worker holds are passed over.';

CREATE OR REPLACE FUNCTION embed._evict_v1(at_most integer DEFAULT 20000)
RETURNS bigint
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, embed, pg_temp
SET synchronous_commit = off
AS $$
DECLARE
    t record;
    removed bigint := 0;
    excess bigint;
BEGIN
    IF NOT pg_try_advisory_xact_lock(1885695330, 5) THEN
        RETURN 0;
    END IF;
    FOR t IN SELECT k.model_id, r.max_rows, r.max_bytes, CASE WHEN r.reuse THEN now() - r.keep ELSE 'infinity' END AS upto
        FROM embed._reuse_total AS k LEFT JOIN embed._reuse_of AS r ON r.model_id = k.model_id ORDER BY k.model_id
    LOOP
        removed := removed + embed._forget_reused(t.model_id, t.upto, at_most);
        SELECT greatest(k.rows - t.max_rows, ceil((k.bytes - t.max_bytes)::numeric * k.rows / k.bytes)::bigint) INTO excess
        FROM embed._reuse_total AS k WHERE k.model_id = t.model_id;
        IF excess > 0 THEN
            removed := removed + embed._forget_reused(t.model_id, 'infinity', least(excess, at_most));
        END IF;
    END LOOP;
    RETURN removed;
END $$;
COMMENT ON FUNCTION embed._evict_v1(integer) IS
    'Remove what is beyond the bounds, the longest unused first, what is too old, and what is of models that are gone or no longer reused. Returns how many rows; as many as asked for: there may be more.';

CREATE OR REPLACE FUNCTION embed.set_reuse(
    model text DEFAULT NULL,
    reuse boolean DEFAULT NULL,
    max_rows bigint DEFAULT NULL,
    max_bytes bigint DEFAULT NULL,
    keep interval DEFAULT NULL
)
RETURNS void
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    wanted integer := CASE WHEN model IS NOT NULL THEN embed._model_id(model) END;
BEGIN
    IF least(max_rows, max_bytes) < 0 OR keep < interval '0' THEN
        PERFORM embed._fail('PE003', 'a bound is not less than nothing', 'reuse => false keeps no vectors');
    END IF;
    IF model IS NULL THEN
        UPDATE embed._reuse_all AS a
        SET reuse = set_reuse.reuse, max_rows = set_reuse.max_rows, max_bytes = set_reuse.max_bytes, keep = set_reuse.keep;
    ELSIF num_nonnulls(reuse, max_rows, max_bytes, keep) = 0 THEN
        DELETE FROM embed._reuse_model AS s WHERE s.model_id = wanted;
    ELSE
        INSERT INTO embed._reuse_model AS s (model_id, reuse, max_rows, max_bytes, keep)
        VALUES (wanted, set_reuse.reuse, set_reuse.max_rows, set_reuse.max_bytes, set_reuse.keep)
        ON CONFLICT ON CONSTRAINT _reuse_model_pkey DO UPDATE
        SET reuse = excluded.reuse, max_rows = excluded.max_rows, max_bytes = excluded.max_bytes, keep = excluded.keep;
    END IF;
    PERFORM embed._forget_reused(r.model_id, 'infinity', NULL) FROM embed._reuse_of AS r WHERE NOT r.reuse;
    PERFORM pg_notify('pg_embed_work', 'catalog');
END $$;
COMMENT ON FUNCTION embed.set_reuse(text, boolean, bigint, bigint, interval) IS
    'Whether vectors of a model are kept for texts that come again, how many rows or bytes of them, and for how long after their last use; with reuse => false they are forgotten at once. Without a model: for all that have no settings of their own. What is left out is as for all models; for all: on for models of providers, off for others, 1 GiB for each, 90 days.';

CREATE OR REPLACE FUNCTION embed._reuse_totals()
RETURNS SETOF embed._reuse_total
LANGUAGE plpgsql
STABLE PARALLEL SAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
BEGIN
    IF NOT pg_is_in_recovery() THEN
        RETURN QUERY SELECT t.* FROM embed._reuse_total AS t;
    END IF;
END $$;
COMMENT ON FUNCTION embed._reuse_totals() IS 'How much of each model is kept; nothing on a standby, which has no unlogged tables and fails as soon as it plans to read one.';

CREATE OR REPLACE VIEW embed.reuse AS
SELECT
    r.model,
    r.reuse,
    COALESCE(t.rows, 0) AS rows,
    COALESCE(t.bytes, 0) AS bytes,
    COALESCE((SELECT sum(u.reused) FROM embed._usage AS u WHERE u.model_id = r.model_id), 0)::bigint AS reused,
    r.max_rows,
    r.max_bytes,
    r.keep
FROM embed._reuse_of AS r
LEFT JOIN embed._reuse_totals() AS t ON t.model_id = r.model_id;
COMMENT ON VIEW embed.reuse IS 'Which models'' vectors are reused, what is kept of them, how many texts have needed no call so far, and the bounds. For who owns schema embed.';

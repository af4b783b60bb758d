-- name: is_standby
-- Whether the server takes no writes, as a copy of another that has not been promoted.
SELECT pg_catalog.pg_is_in_recovery();

-- name: arrive
-- Know the columns and partitions of a database that was restored.
SELECT embed._arrive_v1();

-- name: check_generation
-- An error where the database does not serve programs of this generation.
SELECT embed._check_generation_v1(%(generation)s);

-- name: work
-- The active vectorizers, and what is due.
SELECT w.*, embed._prepare_v1(w.vectorizer) AS prepare FROM embed._work_v1() AS w;

-- name: figures
-- How far the vectorizers are, for those who watch.
SELECT embed._figures_v1();

-- name: take
-- Claim rows of one lane and read their texts.
SELECT * FROM embed._take_v1(%(worker)s, %(vectorizer)s, %(lane)s, %(rows)s, make_interval(secs => %(lease)s), %(most)s);

-- name: put_back
-- Give back rows whose texts are too many bytes for now.
SELECT embed._put_back_v1(%(worker)s, %(entries)s, %(later)s);

-- name: finish
-- Write vectors and take the entries out of the queue.
SELECT * FROM embed._finish_v1(%(worker)s, %(vectorizer)s, %(entries)s, %(keys)s, %(hashes)s, %(dense)s, %(gone)s, %(dead)s, %(sparse)s, %(multi)s, %(hook)s);

-- name: claim_documents
-- Claim rows of one lane whose texts are split into chunks.
SELECT * FROM embed._claim_documents_v1(%(worker)s, %(vectorizer)s, %(lane)s, %(rows)s, make_interval(secs => %(lease)s));

-- name: read_documents
-- Read the texts of some of them, and what is known of the chunks that they have.
SELECT * FROM embed._read_documents_v1(%(vectorizer)s, %(keys)s, %(most)s, %(attempts)s);

-- name: finish_documents
-- Keep the chunks of rows and take the entries out of the queue.
SELECT * FROM embed._finish_documents_v1(%(worker)s, %(vectorizer)s, %(entries)s, %(keys)s, %(hashes)s,
    %(kept_of)s::integer[], %(kept_ids)s, %(kept_numbers)s::integer[], %(made_of)s::integer[], %(made_ids)s, %(made_numbers)s::integer[],
    %(chunks)s, %(contexts)s, %(chunk_hashes)s, %(dense)s, %(dead)s, %(sparse)s, %(multi)s, %(chunking)s, %(hook)s);

-- name: sweep
-- Remove chunks whose rows went without a trigger.
SELECT embed._sweep_v1(%(vectorizer)s);

-- name: postpone
-- Put entries back for later.
SELECT embed._postpone_v1(%(worker)s, %(entries)s, make_interval(secs => %(delay)s), %(error)s, %(charge)s);

-- name: blame
-- Tell why rows cannot be read or written; NULL when they can again.
SELECT embed._blame_v1(%(vectorizer)s, %(error)s);

-- name: give_up
-- List a row as failed whose table does not let its vector be written.
SELECT embed._give_up_v1(%(vectorizer)s, %(key)s, %(hash)s, %(code)s, %(error)s, %(attempts)s);

-- name: renew
-- Prolong the leases of what is in hand.
SELECT embed._renew_v1(%(worker)s, %(entries)s, make_interval(secs => %(lease)s));

-- name: page
-- Queue the next rows of a backfill.
SELECT embed._page_v1(%(vectorizer)s, %(rows)s);

-- name: rescue
-- Free what dead workers held.
SELECT embed._rescue_v1();

-- name: tend
-- Look after dropped tables, renamed keys, new partitions.
SELECT embed._tend_v1();

-- name: pack
-- Bring small entries together.
SELECT embed._pack_v1(%(vectorizer)s);

-- name: prune
-- Strike failures of vanished rows off the list.
SELECT embed._prune_v1(%(vectorizer)s);

-- name: mend_postings
-- Look after postings where partitions came or went.
SELECT embed._mend_postings_v1(%(vectorizer)s);

-- name: count_postings
-- Learn anew how frequent terms are, where much has changed.
SELECT embed._count_postings_v1(%(vectorizer)s);

-- name: vector_types
-- The oids of pgvector's types and of our own, and of arrays of them.
SELECT t.typname, t.oid, t.typarray
FROM pg_catalog.pg_type AS t
JOIN pg_catalog.pg_depend AS d ON d.classid = 'pg_catalog.pg_type'::pg_catalog.regclass AND d.objid = t.oid AND d.deptype = 'e'
JOIN pg_catalog.pg_extension AS e ON e.oid = d.refobjid AND e.extname = 'vector'
WHERE t.typname IN ('vector', 'halfvec', 'sparsevec')
UNION ALL
SELECT t.typname, t.oid, t.typarray FROM pg_catalog.pg_type AS t WHERE t.oid = 'embed._token_vectors'::pg_catalog.regtype;

-- name: backend
-- Which process of the server answers.
SELECT pg_catalog.pg_backend_pid();

-- name: session
-- What a session shall have, whatever the database or the role sets by default; not what the server does not know.
SELECT pg_catalog.set_config(s.name, s.value, false) FROM pg_catalog.jsonb_each_text(%(settings)s) AS s (name, value)
WHERE pg_catalog.current_setting(s.name, true) IS NOT NULL;

-- name: be_alive
-- Hold the lock that tells others this worker lives; false when its number is taken.
SELECT pg_catalog.pg_try_advisory_lock(1885695331, %(worker)s);

-- name: is_alive
-- Whether that lock is held, and this session is still the same.
SELECT pg_catalog.pg_backend_pid() = %(backend)s AND EXISTS (
    SELECT FROM pg_catalog.pg_locks AS l
    WHERE l.locktype = 'advisory' AND l.classid = 1885695331 AND l.objid = %(worker)s AND l.objsubid = 2
        AND l.database = (SELECT d.oid FROM pg_catalog.pg_database AS d WHERE d.datname = pg_catalog.current_database()));

-- name: go_idle
-- Hold the lock that makes triggers send a NOTIFY; false when another idle worker holds it.
SELECT pg_catalog.pg_try_advisory_lock(1885695330, 1);

-- name: go_busy
-- Let that lock go.
SELECT pg_catalog.pg_advisory_unlock(1885695330, 1);

-- name: listen
-- Be told of new work.
LISTEN pg_embed_work;

-- name: index_todo
-- The indexes that can be built now, of one vectorizer or of all.
SELECT t.vectorizer_id AS vectorizer, t.vectorizer_name AS name, t.may_build, t.tries, t.idle_seconds, t.statements, t.build_memory, t.workers
FROM embed._index_todo(%(vectorizer)s) AS t;

-- name: index_done
-- Note how an attempt to build an index ended.
SELECT embed._index_done_v1(%(vectorizer)s, %(error)s, %(needs_owner)s);

-- name: index_lock
-- Hold the lock that lets one index be built at a time, or, with a vectorizer's id, the one that tells of it.
SELECT pg_catalog.pg_try_advisory_lock(1885695340, %(number)s);

-- name: index_unlock
-- Let these locks go at once: a session takes a moment to end.
SELECT pg_catalog.pg_advisory_unlock_all();

-- name: index_session
-- Let a build take the time that it takes.
SELECT pg_catalog.set_config(s.name, '0', false) FROM pg_catalog.pg_settings AS s
WHERE s.name IN ('statement_timeout', 'lock_timeout', 'transaction_timeout');

-- name: index_resources
-- The memory (kB) and the parallel workers of a build, where they were given.
SELECT pg_catalog.set_config(s.name, s.value, false)
FROM (VALUES ('maintenance_work_mem', %(memory)s::text), ('max_parallel_maintenance_workers', %(workers)s::text)) AS s(name, value)
WHERE s.value IS NOT NULL;

-- name: switch_todo
-- The switches that can be brought further.
SELECT t.shadow, t.vectorizer_name AS name, t.step, t.may_do, t.tries, t.idle_seconds FROM embed._switch_todo() AS t;

-- name: switch_compare
-- Compare the nearest rows of both models.
SELECT embed.compare_switch(%(vectorizer)s);

-- name: switch_swap
-- End a switch, if the table is free soon. Readers do not wait for the disk: a crash in that moment undoes the swap whole.
SELECT embed.finish_switch(%(vectorizer)s, timeout => make_interval(secs => %(seconds)s))
WHERE pg_catalog.set_config('synchronous_commit', 'off', true) IS NOT NULL;

-- name: switch_tried
-- Note how an attempt to bring a switch further ended.
SELECT embed._switch_tried_v1(%(shadow)s, %(error)s, %(needs_owner)s);

-- name: check_generation
-- An error where the database does not serve programs of this generation.
SELECT embed._check_generation_v1(%(generation)s);

-- name: models
-- The models of the catalog, and which of them score texts for a query.
SELECT m.name, m.family, m.options, m.is_default, m.name IN (SELECT r.name FROM embed._rerankers_v1() AS r (name)) AS reranks
FROM embed.models AS m;

-- name: mailbox_settings
-- No statement of a door takes long; a database that hangs is left and tried again. A door that nobody asks stays.
SET statement_timeout = '30s';
SELECT pg_catalog.set_config(s.name, '0', false) FROM pg_catalog.pg_settings AS s
WHERE s.name IN ('idle_session_timeout', 'transaction_timeout');
SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ COMMITTED READ WRITE;

-- name: mailbox_listen
-- Hear of new requests; each notification carries a request's id.
LISTEN pg_embed_mailbox;

-- name: mailbox_attend
-- Tell the transport that somebody listens.
SELECT embed._mailbox_attend_v1();

-- name: mailbox_waiting
-- Requests whose notification may have been missed.
SELECT w.id FROM embed._mailbox_waiting_v1(%(most)s) AS w (id);

-- name: mailbox_serve
-- Write answers, and take requests that no other sidecar has taken.
SELECT s.id, s.request FROM embed._mailbox_serve_v1(%(answered)s, %(answers)s, %(wanted)s) AS s;

-- name: mailbox_sweep
-- Delete what nobody waits for any more.
SELECT embed._mailbox_sweep_v1(%(older_than)s);

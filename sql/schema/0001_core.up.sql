-- The catalog, the queue and the transport row. Runs once; frozen after release.
-- Everything with a leading underscore is private: users see the views and functions of sql/functions.

CREATE TABLE embed._model (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL UNIQUE CHECK (name <> ''),
    family text NOT NULL CHECK (family <> ''),
    options jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(options) = 'object'),
    card jsonb NOT NULL CHECK (jsonb_typeof(card) = 'object'),
    outputs text[] NOT NULL CHECK (cardinality(outputs) > 0 AND outputs <@ ARRAY['dense', 'sparse', 'multi', 'score']),
    dimensions integer NOT NULL CHECK (dimensions > 0),
    sparse_dimensions integer CHECK (sparse_dimensions > 0),
    multi_dimensions integer CHECK (multi_dimensions > 0),
    metric text NOT NULL CHECK (metric IN ('cosine', 'ip', 'l2')),
    space_id text NOT NULL CHECK (space_id <> ''),
    is_default boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX _model_one_default ON embed._model (is_default) WHERE is_default;
COMMENT ON TABLE embed._model IS 'Models as configured: how to load one, and what its card said. Holds names of keys, never keys. dimensions is the size of the first output.';

-- Arrays of arrays of different lengths are no type of Postgres: workers send the token vectors of several rows as an array of these.
CREATE TYPE embed._token_vectors AS (vectors halfvec[]);
COMMENT ON TYPE embed._token_vectors IS 'The token vectors of one text.';

-- Columns are kept by attribute number, tables by oid: a rename changes nothing here. In names is what the columns are
-- called, by which a restored database finds them; in numbered are the oids that tell it from the one that was dumped. Partitions are kept by the oid of
-- their clone of the trigger: each ATTACH makes another, while the table's own oid stays.
CREATE TABLE embed._vectorizer (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL UNIQUE CHECK (name <> ''),
    source regclass NOT NULL,
    model_id integer NOT NULL REFERENCES embed._model (id),
    sparse_model_id integer REFERENCES embed._model (id) CHECK (sparse_model_id <> model_id),
    key_columns smallint[] NOT NULL CHECK (cardinality(key_columns) > 0),
    input_columns smallint[] NOT NULL CHECK (cardinality(input_columns) > 0),
    template jsonb NOT NULL CHECK (jsonb_typeof(template) = 'array'),
    filter jsonb CHECK (jsonb_typeof(filter) = 'array'),
    filter_columns smallint[] NOT NULL DEFAULT '{}',
    outputs text[] NOT NULL CHECK (cardinality(outputs) > 0 AND outputs <@ ARRAY['dense', 'sparse', 'multi']),
    target_columns smallint[] NOT NULL CHECK (cardinality(target_columns) = cardinality(outputs)),
    partitions oid[] NOT NULL DEFAULT '{}',
    chunk_table regclass,
    chunk_view regclass,
    chunking jsonb CHECK (jsonb_typeof(chunking) = 'object'),
    swept oid[] NOT NULL DEFAULT '{}',
    state text NOT NULL DEFAULT 'active' CHECK (state IN ('active', 'paused', 'stopped')),
    reason text,
    max_attempts smallint NOT NULL DEFAULT 10 CHECK (max_attempts BETWEEN 1 AND 100),
    created_at timestamptz NOT NULL DEFAULT now(),
    shadow_of integer UNIQUE REFERENCES embed._vectorizer (id) ON DELETE CASCADE CHECK (shadow_of <> id),
    numbered oid[] NOT NULL DEFAULT '{}',
    names jsonb NOT NULL DEFAULT '{}',
    replication text NOT NULL DEFAULT 'origin' CHECK (replication IN ('origin', 'replica', 'always')),
    prepare text CHECK (prepare <> ''),
    guards text[] NOT NULL DEFAULT '{}',
    CHECK (sparse_model_id IS NULL OR outputs @> '{sparse}' AND outputs <> '{sparse}'),
    CHECK ((chunk_table IS NULL) = (chunking IS NULL))
);
CREATE INDEX _vectorizer_source ON embed._vectorizer (source);
COMMENT ON TABLE embed._vectorizer IS 'Which text of which table is embedded by which model into which columns: one for each output, in parallel arrays. The sparse vectors are those of sparse_model_id, if there is one. The columns are those of the table itself, or of chunk_table; in swept are the files that the table had when chunks without a row were last looked for. A shadow is fed as any other, and no search sees it: another model''s vectors of the same text, before or after a switch. Where prepare names a hook of the workers'', it makes the text of the input columns. In guards are its triggers and the expressions of generated columns, as they were when all rows were known to have met them.';

-- Rows that were there before the vectorizer: a cursor over the primary key, read page by page.
CREATE TABLE embed._backfill (
    vectorizer_id integer PRIMARY KEY REFERENCES embed._vectorizer (id) ON DELETE CASCADE,
    mode text NOT NULL CHECK (mode IN ('all', 'missing')),
    renew oid[] NOT NULL DEFAULT '{}',
    position text[],
    upto text[],
    rows_total bigint,
    rows_left bigint,
    started_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE embed._backfill IS 'Backfills under way; rows_left is counted when the first page is read, and upto is the last key that was there: rows behind it came later, and have their own entries. In renew are partitions whose filled rows are looked at, too.';

-- One row is up to 240 keys of one vectorizer: ids when the key is one whole number, keys otherwise. available_at serves as due time, as backoff and as end of a lease:
-- whoever claims an entry moves it into the future, so that the claim reads exactly the entries that are due.
-- No CHECKs here, on purpose: four of them cost a third of the trigger's time, and only our functions write this table.
CREATE TABLE embed._queue (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    vectorizer_id integer NOT NULL,
    priority smallint NOT NULL DEFAULT 1,
    alone boolean NOT NULL DEFAULT false,
    n integer NOT NULL,
    attempts smallint NOT NULL DEFAULT 0,
    locked smallint NOT NULL DEFAULT 0,
    worker integer,
    available_at timestamptz NOT NULL DEFAULT now(),
    enqueued_at timestamptz NOT NULL DEFAULT now(),
    ids bigint[],
    keys text[],
    last_error text,
    hash bigint
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000, autovacuum_analyze_scale_factor = 0,
        autovacuum_analyze_threshold = 50000);
-- Long key arrays go out of line, uncompressed: claiming rewrites the short row only, and counting reads short rows.
ALTER TABLE embed._queue ALTER COLUMN keys SET STORAGE EXTERNAL;
ALTER TABLE embed._queue ALTER COLUMN ids SET STORAGE EXTERNAL;
CREATE INDEX _queue_due ON embed._queue (vectorizer_id, priority, available_at);
COMMENT ON TABLE embed._queue IS 'Keys of rows to look at: priority 1 changed now, 2 backfill. Written by triggers, in the transaction of the change. The hash is that of the text that a row had when a worker took it by itself, as one that may have killed others.';

CREATE TABLE embed._failure (
    vectorizer_id integer NOT NULL REFERENCES embed._vectorizer (id) ON DELETE CASCADE,
    key text NOT NULL,
    code text NOT NULL,
    error text NOT NULL,
    attempts integer NOT NULL,
    failed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (vectorizer_id, key)
);
COMMENT ON TABLE embed._failure IS 'Dead letters: rows that were given up, with the error. embed.retry sends them again.';

CREATE UNLOGGED TABLE embed._throughput (
    vectorizer_id integer NOT NULL,
    worker integer NOT NULL,
    bucket timestamptz NOT NULL,
    rows bigint NOT NULL,
    PRIMARY KEY (vectorizer_id, bucket, worker)
);
COMMENT ON TABLE embed._throughput IS 'Rows done in each ten seconds; the last few minutes are kept, for the rate in embed.status.';

CREATE UNLOGGED TABLE embed._server (
    started_at timestamptz PRIMARY KEY
);
COMMENT ON TABLE embed._server IS 'When the server was started that workers know; empty after a crash, as all unlogged tables are.';

-- One row a model that has limits, or was told to wait, or is refused: a clock for each limit says when the next call may
-- go. All workers write it, each for a moment, and no trigger does.
CREATE TABLE embed._limit (
    model_id integer PRIMARY KEY REFERENCES embed._model (id) ON DELETE CASCADE,
    requests_per_minute integer CHECK (requests_per_minute > 0),
    inputs_per_minute integer CHECK (inputs_per_minute > 0),
    tokens_per_minute bigint CHECK (tokens_per_minute > 0),
    requests_free timestamptz NOT NULL DEFAULT '-infinity',
    inputs_free timestamptz NOT NULL DEFAULT '-infinity',
    tokens_free timestamptz NOT NULL DEFAULT '-infinity',
    not_before timestamptz NOT NULL DEFAULT '-infinity',
    refusal text,
    probe_every interval NOT NULL DEFAULT '1 minute',
    probe_at timestamptz NOT NULL DEFAULT '-infinity'
) WITH (fillfactor = 20);
COMMENT ON TABLE embed._limit IS 'What a provider allows of a model, and when its next call may go; a refusal of the account, and when one call tries again.';

CREATE TABLE embed._price (
    model_id integer PRIMARY KEY REFERENCES embed._model (id) ON DELETE CASCADE,
    per_million_tokens numeric NOT NULL CHECK (per_million_tokens >= 0)
);
COMMENT ON TABLE embed._price IS 'What a model costs, in US dollars.';

-- No foreign keys: what was used and paid stays when a vectorizer or a model goes.
CREATE TABLE embed._usage (
    vectorizer_id integer NOT NULL,
    model_id integer NOT NULL,
    day date NOT NULL,
    requests bigint NOT NULL,
    inputs bigint NOT NULL,
    bytes bigint NOT NULL,
    tokens bigint NOT NULL,
    cost numeric,
    reused bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (vectorizer_id, model_id, day)
) WITH (fillfactor = 50);
COMMENT ON TABLE embed._usage IS 'What was used of a model on a day (UTC) by a vectorizer; by queries where vectorizer_id is 0. The cost is NULL where no price was known; reused texts had their vectors from elsewhere.';

CREATE TABLE embed._heir (
    vectorizer_id integer PRIMARY KEY,
    heir_id integer NOT NULL REFERENCES embed._vectorizer (id) ON DELETE CASCADE
);
COMMENT ON TABLE embed._heir IS 'Vectorizers that a switch of models left behind and that were dropped, and the one that goes on under their name: what they used is told as its.';

CREATE TABLE embed._reuse_all (
    one_row boolean PRIMARY KEY DEFAULT true CHECK (one_row),
    salt bytea NOT NULL DEFAULT decode(replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', ''), 'hex'),
    reuse boolean,
    max_rows bigint CHECK (max_rows >= 0),
    max_bytes bigint CHECK (max_bytes >= 0),
    keep interval CHECK (keep >= '0')
);
INSERT INTO embed._reuse_all DEFAULT VALUES;
COMMENT ON TABLE embed._reuse_all IS 'What holds for models without settings of their own in _reuse_model, and the secret that makes the keys of texts nobody else''s.';

CREATE TABLE embed._reuse_model (
    model_id integer PRIMARY KEY REFERENCES embed._model (id) ON DELETE CASCADE,
    reuse boolean,
    max_rows bigint CHECK (max_rows >= 0),
    max_bytes bigint CHECK (max_bytes >= 0),
    keep interval CHECK (keep >= '0')
);
COMMENT ON TABLE embed._reuse_model IS 'Whether vectors of a model are kept for texts that come again, how many and for how long; NULL is as for all models.';

-- Unlogged: it costs no WAL, no standby and no archive has a copy, and after a crash it is empty, which costs money and nothing else.
-- Vectors stay inline, where a row is read by its key; they are random numbers, which nothing compresses.
CREATE UNLOGGED TABLE embed._reuse (
    used_at timestamptz NOT NULL,
    model_id integer NOT NULL,
    size integer NOT NULL GENERATED ALWAYS AS (100 + COALESCE(octet_length(dense), 0) + COALESCE(octet_length(sparse), 0) + COALESCE(octet_length(multi), 0)) STORED,
    key uuid NOT NULL,
    dense bytea,
    sparse bytea,
    multi bytea,
    PRIMARY KEY (model_id, key)
) WITH (toast_tuple_target = 8160);
ALTER TABLE embed._reuse ALTER COLUMN dense SET STORAGE EXTERNAL;
ALTER TABLE embed._reuse ALTER COLUMN sparse SET STORAGE EXTERNAL;
ALTER TABLE embed._reuse ALTER COLUMN multi SET STORAGE EXTERNAL;
CREATE INDEX _reuse_oldest ON embed._reuse (model_id, used_at);
COMMENT ON TABLE embed._reuse IS 'Vectors of texts that were embedded: float16 or float32, sparse ones as int32 indices and float32 values, all little-endian. The key is a hash of the text, of the model''s space and of the owner of its table.';

CREATE UNLOGGED TABLE embed._reuse_total (
    model_id integer PRIMARY KEY,
    rows bigint NOT NULL,
    bytes bigint NOT NULL
) WITH (fillfactor = 20);
COMMENT ON TABLE embed._reuse_total IS 'How much of a model stands in _reuse; its indexes and rows'' heads are taken for 100 bytes a row.';

CREATE TABLE embed._budget (
    vectorizer_id integer PRIMARY KEY REFERENCES embed._vectorizer (id) ON DELETE CASCADE,
    tokens bigint CHECK (tokens >= 0),
    cost numeric CHECK (cost >= 0),
    per text NOT NULL CHECK (per IN ('day', 'month', 'total')),
    live boolean NOT NULL,
    CHECK (num_nonnulls(tokens, cost) > 0)
);
COMMENT ON TABLE embed._budget IS 'What a vectorizer may use in a day, a month or in total; with live its changed rows stop with its backfill.';

CREATE TABLE embed._transport (
    one_row boolean PRIMARY KEY DEFAULT true CHECK (one_row),
    kind text NOT NULL,
    settings jsonb NOT NULL DEFAULT '{}'
);
COMMENT ON TABLE embed._transport IS 'How embed() reaches the sidecar. Set by the owner; no session setting can redirect it.';

CREATE UNLOGGED TABLE embed._mailbox (
    id uuid PRIMARY KEY,
    request text NOT NULL,
    answer text,
    taken_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE embed._mailbox IS 'Requests and answers of the dblink transport.';

CREATE TABLE embed._index (
    vectorizer_id integer PRIMARY KEY REFERENCES embed._vectorizer (id) ON DELETE CASCADE,
    kind text NOT NULL CHECK (kind IN ('auto', 'hnsw', 'binary')),
    m integer CHECK (m BETWEEN 2 AND 100),
    ef_construction integer CHECK (ef_construction BETWEEN 4 AND 1000),
    min_rows bigint NOT NULL CHECK (min_rows >= 0),
    memory bigint CHECK (memory > 0),
    parallel_workers integer CHECK (parallel_workers >= 0),
    rows bigint,
    built_rows bigint,
    ef_search integer,
    error text,
    needs_owner boolean NOT NULL DEFAULT false,
    failures integer NOT NULL DEFAULT 0,
    tried_at timestamptz
);
COMMENT ON TABLE embed._index IS 'The indexes over dense vectors that were asked for, and how the last attempt to build them ended. What is there, the catalogs of Postgres know.';

-- The postings themselves are a table for each vectorizer, _postings_<id>, made by sql/functions/45_postings.sql.
CREATE TABLE embed._postings (
    vectorizer_id integer PRIMARY KEY REFERENCES embed._vectorizer (id) ON DELETE CASCADE,
    partitions oid[] NOT NULL DEFAULT '{}',
    changes bigint NOT NULL DEFAULT 0,
    counted_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE embed._postings IS 'Vectorizers whose sparse vectors have an inverted index: the partitions it was made for, and how many of its rows had changed when its terms were counted.';

CREATE TABLE embed._switch (
    vectorizer_id integer PRIMARY KEY REFERENCES embed._vectorizer (id) ON DELETE CASCADE,
    stage text NOT NULL DEFAULT 'next' CHECK (stage IN ('next', 'old')),
    auto boolean NOT NULL,
    keep text NOT NULL CHECK (keep IN ('in step', 'frozen', 'drop')),
    dependants text NOT NULL CHECK (dependants IN ('refuse', 'ignore')),
    overlap real,
    compared integer,
    error text,
    needs_owner boolean NOT NULL DEFAULT false,
    failures integer NOT NULL DEFAULT 0,
    tried_at timestamptz,
    started_at timestamptz NOT NULL DEFAULT now(),
    since timestamptz NOT NULL DEFAULT now(),
    swapped_at timestamptz
);
COMMENT ON TABLE embed._switch IS 'One row a shadow: next are vectors that are to take the place of those that searches see, old those whose place was taken. Rows that changed before since must be done before a swap.';

-- A table of one row and the function embed._swaps_v1, which each swap writes anew, tell a transaction that its snapshot
-- is older than the names of columns, which no snapshot holds.
CREATE TABLE embed._swapped (
    one_row boolean PRIMARY KEY DEFAULT true CHECK (one_row),
    swaps bigint NOT NULL DEFAULT 0
);
INSERT INTO embed._swapped DEFAULT VALUES;
COMMENT ON TABLE embed._swapped IS 'How often columns of vectors changed places.';

CREATE TABLE embed._generation (
    one_row boolean PRIMARY KEY DEFAULT true CHECK (one_row),
    oldest integer NOT NULL DEFAULT 1
);
INSERT INTO embed._generation DEFAULT VALUES;
COMMENT ON TABLE embed._generation IS 'The oldest generation of workers and sidecars that this schema serves. A revision that no older ones can live with raises it.';

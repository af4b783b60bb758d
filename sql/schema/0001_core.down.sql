-- Takes the tables of this revision away. The users' own columns stay.
DROP TABLE embed._generation, embed._heir, embed._reuse, embed._reuse_total, embed._reuse_model, embed._reuse_all, embed._swapped, embed._switch,
    embed._index, embed._postings, embed._mailbox, embed._transport, embed._server, embed._throughput, embed._budget, embed._usage, embed._price, embed._limit,
    embed._failure, embed._queue, embed._backfill, embed._vectorizer, embed._model CASCADE;
DROP TYPE embed._token_vectors CASCADE;

-- name: reused
-- The models of a vectorizer whose vectors are reused, and the salt of its texts' keys.
SELECT * FROM embed._reused_v1(%(vectorizer)s);

-- name: recall
-- The vectors that are known for keys, by their places.
SELECT * FROM embed._recall_v1(%(model)s, %(keys)s, %(outputs)s::text[], %(sizes)s::integer[]);

-- name: remember
-- Keep vectors for texts that come again.
SELECT embed._remember_v1(%(model)s, %(keys)s, %(dense)s, %(sparse)s, %(multi)s);

-- name: evict
-- Remove what is beyond the bounds; how many rows.
SELECT embed._evict_v1();

-- name: limits
-- The models whose calls must be reserved.
SELECT l.model, l.name, l.family, l.options, l.requests_per_minute, l.inputs_per_minute, l.tokens_per_minute
FROM embed._limits_v1() AS l;

-- name: reserve
-- How many seconds to wait before a call.
SELECT extract(epoch FROM embed._reserve_v1(%(model)s, 1, %(inputs)s, %(tokens)s, %(query)s,
    make_interval(secs => %(patience)s)))::double precision;

-- name: settle
-- Tell what a call really used, and how long to hold off the next.
SELECT embed._settle_usage_v1(%(model)s, %(reserved)s, %(used)s, make_interval(secs => %(hold)s));

-- name: hold
-- Nothing more for some seconds.
SELECT embed._hold_v1(%(name)s, make_interval(secs => %(wait)s));

-- name: use
-- Tell what was used; the vectorizers with budgets.
SELECT embed._use_v1(%(uses)s);

-- name: budgets
-- The vectorizers with budgets.
SELECT embed._budgets_v1();

-- name: refuse
-- Pause a model whose account is refused; whether nobody knew.
SELECT embed._refuse_v1(%(model)s, %(refusal)s, make_interval(secs => %(wait)s));

-- name: put
-- A row, in place of the one that has its id.
INSERT INTO {table} ({columns}) VALUES ({values})
ON CONFLICT ({id}) DO UPDATE SET ({others}) = ROW({excluded})
RETURNING {id}::text;

-- name: put_new
-- A row whose id is the table's to give.
INSERT INTO {table} ({columns}) VALUES ({values}) RETURNING {id}::text;

-- name: get
-- Rows by their ids, which are an array in the text form of the column's type.
SELECT {columns} FROM {table} WHERE {id} = ANY (%(ids)s);

-- name: delete
-- Rows by their ids.
DELETE FROM {table} WHERE {id} = ANY (%(ids)s);

-- name: delete_by
-- Rows by the value of a column.
DELETE FROM {table} WHERE {column} = %(value)s;

-- name: delete_like
-- Rows whose metadata has a value.
DELETE FROM {table} WHERE {metadata} @> %(like)s::jsonb;

-- name: delete_all
-- Every row.
DELETE FROM {table};

-- name: gives_ids
-- Whether the table makes ids by itself.
SELECT a.atthasdef OR a.attidentity <> '' FROM pg_catalog.pg_attribute AS a
WHERE a.attrelid = %(table)s::regclass AND a.attname = %(id)s AND NOT a.attisdropped;

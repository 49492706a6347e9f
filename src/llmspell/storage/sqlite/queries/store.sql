-- name: meta -> value
-- A value of the store as a whole, such as the key that signs cursors.
-- cross-tenant: it belongs to no tenant
SELECT value FROM store_meta WHERE name = :name;

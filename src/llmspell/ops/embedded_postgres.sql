-- Roles and database of an embedded cluster. Run by psql as `postgres` at every start, so each step may be repeated.

-- The owner: migrates and may create the roles that serve, but is no superuser.
SELECT 'CREATE ROLE llmspell' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'llmspell') \gexec
ALTER ROLE llmspell LOGIN CREATEROLE NOSUPERUSER NOCREATEDB NOREPLICATION NOBYPASSRLS;

-- The owner creates the other two, so that it may administer them: a migration that finds them can alter them.
SET ROLE llmspell;
SELECT 'CREATE ROLE llmspell_app LOGIN'
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'llmspell_app') \gexec
SELECT 'CREATE ROLE llmspell_operator LOGIN'
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'llmspell_operator') \gexec
RESET ROLE;

-- A password exists for TCP only; the socket is guarded by the permissions of its folder.
\getenv password LLMSPELL_TCP_PASSWORD
\if :{?password}
ALTER ROLE llmspell PASSWORD :'password';
ALTER ROLE llmspell_app PASSWORD :'password';
ALTER ROLE llmspell_operator PASSWORD :'password';
\endif

SELECT 'CREATE DATABASE llmspell_dev OWNER llmspell'
WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = 'llmspell_dev') \gexec
\connect llmspell_dev
CREATE EXTENSION IF NOT EXISTS vector;

-- One login per service, with the passwords of the environment; run it again to change them. As the database's owner:
--   API_PASSWORD=... (and so on, see below) psql --set ON_ERROR_STOP=1 --file deploy/roles.sql postgresql://...
-- It needs psql 15 or newer and the right to create roles. What each may do is granted by `synthclone migrate`.
\getenv api API_PASSWORD
\getenv dispatcher DISPATCHER_PASSWORD
\getenv worker WORKER_PASSWORD
\getenv trainer TRAINER_PASSWORD
\getenv evaluator EVALUATOR_PASSWORD
\getenv webhooks WEBHOOKS_PASSWORD
-- The autoscaler of a Kubernetes cluster; without a password it cannot log in.
\set keda ''
\getenv keda KEDA_PASSWORD
\if :{?prefix}
\else
  \set prefix synthclone_
\endif

BEGIN;
CREATE TEMPORARY TABLE logins ON COMMIT DROP AS
SELECT :'prefix' || service AS name, password
FROM (
    VALUES
    ('api', :'api'),
    ('dispatcher', :'dispatcher'),
    ('worker', :'worker'),
    ('trainer', :'trainer'),
    ('evaluator', :'evaluator'),
    ('webhooks', :'webhooks'),
    ('keda', :'keda')
) AS given (service, password);

SELECT format('CREATE ROLE %I', name)
FROM logins
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name)
\gexec
SELECT format('ALTER ROLE %I LOGIN PASSWORD %L', name, nullif(password, ''))
FROM logins
\gexec
COMMIT;

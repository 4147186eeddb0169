#!/bin/sh
# Run by the postgres image once, on an empty volume: an account with its own databases for each of the two
# programs. Neither is a superuser, and neither can open the other's.
set -eu

psql --username postgres --no-psqlrc --set ON_ERROR_STOP=1 \
  --set orders_password="$ORDERS_DB_PASSWORD" --set temporal_password="$TEMPORAL_DB_PASSWORD" <<'SQL'
CREATE ROLE orders LOGIN PASSWORD :'orders_password';
CREATE ROLE temporal LOGIN PASSWORD :'temporal_password';
CREATE DATABASE orders OWNER orders;
CREATE DATABASE temporal OWNER temporal;
CREATE DATABASE temporal_visibility OWNER temporal;
REVOKE CONNECT, TEMPORARY ON DATABASE orders, temporal, temporal_visibility FROM PUBLIC;
SQL

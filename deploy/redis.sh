#!/bin/sh
# Starts Redis with one user per service; the rights arrive on standard input, so no password is among the arguments.
# A dispatcher rings the bells, a worker answers its own; nobody may list, empty or configure the server. Celery needs
# more than two commands, so its users get whole categories, less the dangerous ones, on the keys they work with.
# Nobody is the default user, who is off: its rights are those with which the server reads its own append-only file.
# The user health may say PING alone and needs no password.
set -eu
worker="~unacked* ~_kombu.* ~*.pidbox* &/0.celery.pidbox &/0.celeryev/* -@all +@connection +@transaction +@read +@write +@pubsub"
worker="$worker +evalsha +script|load +script|exists +time -@dangerous"
# A lost wake-up only costs time, but an append-only file is cheap; eviction would drop wake-ups silently.
exec redis-server --appendonly yes --appendfsync everysec --maxmemory-policy noeviction "$@" - <<END
user default off +@all ~* &*
user health on nopass -@all +ping
user dispatcher on >$DISPATCHER_REDIS_PASSWORD ~generate* ~train* ~evaluate* ~_kombu.* -@all +@connection +@transaction +lpush +llen +sadd +smembers
user worker on >$WORKER_REDIS_PASSWORD ~generate* $worker
user trainer on >$TRAINER_REDIS_PASSWORD ~train* $worker
user evaluator on >$EVALUATOR_REDIS_PASSWORD ~evaluate* $worker
END

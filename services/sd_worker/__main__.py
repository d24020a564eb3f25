"""`python -m services.sd_worker`: poll the database for shards, without a broker."""

from shared.tasks import run_polling

from .worker import ShardWorker

if __name__ == "__main__":
    run_polling(ShardWorker)

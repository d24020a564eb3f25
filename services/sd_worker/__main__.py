"""`python -m services.sd_worker`: poll the database for shards, without a broker."""

from shared.settings import Settings
from shared.tasks import main_polling

from .worker import ShardWorker

if __name__ == "__main__":
    main_polling(ShardWorker, Settings())

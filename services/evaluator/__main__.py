"""The evaluator without a broker: polls the database."""

from shared.settings import Settings
from shared.tasks import main_polling

from .consumer import make_consumer

if __name__ == "__main__":
    main_polling(make_consumer, Settings())

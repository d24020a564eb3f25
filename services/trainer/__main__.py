"""The trainer without a broker: polls the database."""

from shared.tasks import run_polling

from .consumer import make_consumer

if __name__ == "__main__":
    run_polling(make_consumer)

"""`python -m services.prompt_api.openapi`: write the API's description, which is committed as openapi.json."""

import json
import sys

from shared.settings import Settings

from .app import create_app


def document() -> str:
    app = create_app(Settings(_env_file=None, database_url="sqlite://"))
    return json.dumps(app.openapi(), indent=2, sort_keys=True) + "\n"


if __name__ == "__main__":
    sys.stdout.write(document())

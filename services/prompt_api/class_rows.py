"""The class rows of a dataset: worded once per class list and prompt, and written by one statement."""

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from sqlalchemy import text
from sqlalchemy.orm import Session

from shared.classes import ClassSelection, ClassText, resolve_classes
from shared.errors import Rejected
from shared.lexicon import Lexicon
from shared.prompts import PromptSpec, used_text
from shared.seeds import class_key

# Of a request for 1,000 classes an INSERT for each of them took longer than all the rest.
INSERT_POSTGRES = text("""
    INSERT INTO dataset_classes
        (job_id, position, class_id, class_key, text, total, planned, done, failed, rejected)
    SELECT :job_id, position, class_id, class_key, text, total, 0, 0, 0, 0
    FROM jsonb_to_recordset(CAST(:rows AS jsonb))
        AS given (position integer, class_id text, class_key text, text jsonb, total integer)
""")
INSERT_SQLITE = text("""
    INSERT INTO dataset_classes
        (job_id, position, class_id, class_key, text, total, planned, done, failed, rejected)
    SELECT :job_id, json_extract(value, '$.position'), json_extract(value, '$.class_id'),
        json_extract(value, '$.class_key'), json_extract(value, '$.text'), json_extract(value, '$.total'), 0, 0, 0, 0
    FROM json_each(:rows)
""")


class WordedClass(NamedTuple):
    """A class with the key of its images, and its row as JSON without the closing `"total": 1300}`."""

    text: ClassText
    key: str
    row: str


class PlannedClass(NamedTuple):
    text: ClassText
    key: str
    row: str
    total: int


def class_texts(selection: ClassSelection, lexicon: Lexicon) -> tuple[ClassText, ...]:
    """In label order; raises Rejected with a pointer."""
    return listed_texts(selection, lexicon) if isinstance(selection, str) else resolve_classes(selection, lexicon)


@lru_cache(maxsize=8)
def listed_texts(name: str, lexicon: Lexicon) -> tuple[ClassText, ...]:
    return resolve_classes(name, lexicon)


def worded_classes(selection: ClassSelection, prompt: PromptSpec, lexicon: Lexicon) -> tuple[WordedClass, ...]:
    """In label order; raises Rejected for a class that lacks what the prompt reads."""
    if isinstance(selection, str):
        return listed_classes(selection, prompt, lexicon)
    return word_all(resolve_classes(selection, lexicon), prompt)


# A wording of 1,000 classes takes half a megabyte.
@lru_cache(maxsize=32)
def listed_classes(name: str, prompt: PromptSpec, lexicon: Lexicon) -> tuple[WordedClass, ...]:
    return word_all(listed_texts(name, lexicon), prompt)


def word_all(texts: Sequence[ClassText], prompt: PromptSpec) -> tuple[WordedClass, ...]:
    try:
        return tuple(word(position, known, prompt) for position, known in enumerate(texts))
    except Rejected as error:
        raise Rejected(error.detail, pointer="/prompt") from error


def word(position: int, known: ClassText, prompt: PromptSpec) -> WordedClass:
    key = class_key(known.id, used_text(prompt, known))
    row = {"position": position, "class_id": known.id, "class_key": key, "text": known.model_dump(mode="json")}
    return WordedClass(known, key, json.dumps(row).removesuffix("}"))


def insert_classes(session: Session, job_id: str, classes: Sequence[PlannedClass]) -> None:
    rows = ",".join(f'{planned.row}, "total": {planned.total}}}' for planned in classes)
    statement = INSERT_SQLITE if session.get_bind().dialect.name == "sqlite" else INSERT_POSTGRES
    session.execute(statement, {"job_id": job_id, "rows": f"[{rows}]"})
